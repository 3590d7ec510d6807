"""Frames of HTTP/3 as data: one class per frame, to octets and, from pieces of any size, back (RFC 9114 section 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from harness.wire.http3.numbers import FrameType, frame_name, is_reserved, setting_name
from harness.wire.quic.codec import DecodeError, QuicReader, varint, varint_vector

MAX_PAYLOAD = 1 << 20
"""Octets of the longest frame that is read whole. DATA and unknown frames are read in pieces and may be longer."""
KEPT = 4096
"""Octets of a DATA or unknown frame that the frame itself keeps; all of DATA is content of its message."""
MAX_SETTINGS = 1024
"""Settings of one SETTINGS frame that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame. `stream_id` is where it came, None for one of ours; it does not count when frames are compared."""

    TYPE: ClassVar[int]
    stream_id: int | None = field(default=None, compare=False)

    @property
    def type(self) -> int:
        """The number that stands on the wire."""
        return self.TYPE

    @property
    def name(self) -> str:
        """The name in the RFC, or the number of a type without one."""
        return frame_name(self.type)

    def payload(self) -> bytes:
        """The octets behind type and length."""
        return b""

    def encode(self) -> bytes:
        """Type, length and payload."""
        return varint(self.type) + varint_vector(self.payload())

    def detail(self) -> str:
        """What it says, for a transcript."""
        return ""

    def __str__(self) -> str:
        told = self.detail()
        return f"{self.name} ({told})" if told else self.name


@dataclass(frozen=True, slots=True)
class DataFrame(Frame):
    """DATA. Of a received one `data` is the beginning (`KEPT` octets at most) and `length` what its header says."""

    TYPE = FrameType.DATA
    data: bytes = field(default=b"", repr=False)
    length: int | None = None

    def payload(self) -> bytes:
        """The content."""
        return self.data

    def encode(self) -> bytes:
        """Type, length (that of the data unless `length` says otherwise) and data."""
        return varint(self.type) + varint(len(self.data) if self.length is None else self.length) + self.data

    def detail(self) -> str:
        """How long it is."""
        return f"{len(self.data) if self.length is None else self.length} octets"


@dataclass(frozen=True, slots=True)
class HeadersFrame(Frame):
    """HEADERS: `section` is the encoded field section, `fields` what it decoded to where this peer did so."""

    TYPE = FrameType.HEADERS
    section: bytes = field(default=b"", repr=False)
    fields: tuple[tuple[bytes, bytes], ...] | None = field(default=None, compare=False)

    def payload(self) -> bytes:
        """The field section."""
        return self.section

    def detail(self) -> str:
        """The fields."""
        if self.fields is None:
            return f"a section of {len(self.section)} octets"
        return ", ".join(f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in self.fields)[:400]


@dataclass(frozen=True, slots=True)
class SettingsFrame(Frame):
    """SETTINGS: pairs of identifier and value, in order."""

    TYPE = FrameType.SETTINGS
    settings: tuple[tuple[int, int], ...] = ()

    def payload(self) -> bytes:
        """The pairs."""
        return b"".join(varint(number) + varint(value) for number, value in self.settings)

    def get(self, setting: int) -> int | None:
        """The value of a setting; the first where it stands twice."""
        return next((value for number, value in self.settings if number == setting), None)

    def detail(self) -> str:
        """The pairs with names."""
        return ", ".join(f"{setting_name(number)}={value}" for number, value in self.settings[:32])

    @classmethod
    def decode(cls, reader: QuicReader) -> SettingsFrame:
        """Parse the payload. Raises `DecodeError`."""
        found: list[tuple[int, int]] = []
        while reader.left:
            found.append((reader.varint(), reader.varint()))
            if len(found) > MAX_SETTINGS:
                raise DecodeError(f"SETTINGS: more than {MAX_SETTINGS} settings, this peer reads no more")
        return cls(tuple(found))


@dataclass(frozen=True, slots=True)
class _Number(Frame):
    """A frame that holds one number."""

    number: int = 0

    def payload(self) -> bytes:
        """The number."""
        return varint(self.number)

    def detail(self) -> str:
        """The number."""
        return str(self.number)

    @classmethod
    def decode(cls, reader: QuicReader) -> Any:
        """Parse the payload. Raises `DecodeError`."""
        return cls(reader.varint())


@dataclass(frozen=True, slots=True)
class GoawayFrame(_Number):
    """GOAWAY: `number` is a stream id from a server, a push id from a client (RFC 9114 section 7.2.6)."""

    TYPE = FrameType.GOAWAY


@dataclass(frozen=True, slots=True)
class MaxPushIdFrame(_Number):
    """MAX_PUSH_ID."""

    TYPE = FrameType.MAX_PUSH_ID


@dataclass(frozen=True, slots=True)
class CancelPushFrame(_Number):
    """CANCEL_PUSH."""

    TYPE = FrameType.CANCEL_PUSH


@dataclass(frozen=True, slots=True)
class PushPromiseFrame(Frame):
    """PUSH_PROMISE: a push id and an encoded field section."""

    TYPE = FrameType.PUSH_PROMISE
    number: int = 0
    section: bytes = field(default=b"", repr=False)

    def payload(self) -> bytes:
        """Id and section."""
        return varint(self.number) + self.section

    def detail(self) -> str:
        """The id."""
        return f"push {self.number}"

    @classmethod
    def decode(cls, reader: QuicReader) -> PushPromiseFrame:
        """Parse the payload. Raises `DecodeError`."""
        return cls(reader.varint(), reader.rest())


@dataclass(frozen=True, slots=True)
class PriorityUpdateFrame(Frame):
    """PRIORITY_UPDATE of a request, or with `push` of a push (RFC 9218 section 7.2)."""

    number: int = 0
    priority: bytes = b""
    push: bool = False

    @property
    def type(self) -> int:
        """One of the two types."""
        return FrameType.PRIORITY_UPDATE_PUSH if self.push else FrameType.PRIORITY_UPDATE_REQUEST

    def payload(self) -> bytes:
        """Id and priority."""
        return varint(self.number) + self.priority

    def detail(self) -> str:
        """Whose priority, and which."""
        return f"{'push' if self.push else 'stream'} {self.number}, {self.priority.decode('latin-1')!r}"


@dataclass(frozen=True, slots=True)
class UnknownFrame(Frame):
    """A frame of any other type; a received one has the beginning (`KEPT` octets) as `data`, and its whole `length`."""

    number: int = 0x21
    data: bytes = field(default=b"", repr=False)
    length: int | None = None

    @property
    def type(self) -> int:
        """Its type."""
        return self.number

    def payload(self) -> bytes:
        """The octets."""
        return self.data

    def detail(self) -> str:
        """How long it is, and whether its type is a reserved one."""
        size = f"{len(self.data) if self.length is None else self.length} octets"
        return f"{size}, reserved" if is_reserved(self.number) else size


def _priority(push: bool) -> Callable[[QuicReader], Frame]:
    return lambda reader: PriorityUpdateFrame(reader.varint(), reader.rest(), push)


_DECODE: dict[int, Callable[[QuicReader], Frame]] = {
    FrameType.HEADERS: lambda reader: HeadersFrame(reader.rest()),
    FrameType.SETTINGS: SettingsFrame.decode,
    FrameType.GOAWAY: GoawayFrame.decode,
    FrameType.MAX_PUSH_ID: MaxPushIdFrame.decode,
    FrameType.CANCEL_PUSH: CancelPushFrame.decode,
    FrameType.PUSH_PROMISE: PushPromiseFrame.decode,
    FrameType.PRIORITY_UPDATE_REQUEST: _priority(push=False),
    FrameType.PRIORITY_UPDATE_PUSH: _priority(push=True),
}


def decode(kind: int, payload: bytes) -> Frame:
    """The frame of type `kind`. Raises `DecodeError` where its fields do not fill the payload exactly."""
    reader = QuicReader(payload, frame_name(kind))
    frame = _DECODE[kind](reader)
    reader.end()
    return frame


def encode_all(frames: Iterable[Frame | bytes]) -> bytes:
    """Frames, and octets as they are, one after the other."""
    return b"".join(each if isinstance(each, bytes) else each.encode() for each in frames)


@dataclass(frozen=True, slots=True)
class FrameBegun:
    """Type and length of a frame arrived. Rules about where a type may stand are judged here."""

    kind: int
    length: int


@dataclass(frozen=True, slots=True)
class DataPiece:
    """Some octets of a DATA frame."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that does not parse; `too_long`: it may be legal, but this peer does not read it."""

    kind: int
    what: str
    too_long: bool = False


Piece = FrameBegun | DataPiece | Frame | BadFrame


class FrameReader:
    """Makes frames of octets that come in pieces of any size. Keeps no more than one frame of `MAX_PAYLOAD` octets.

    For each frame it gives `FrameBegun`, then `DataPiece`s where it is DATA, and at last the frame or `BadFrame`.
    """

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self._kept = bytearray()
        self._kind: int | None = None
        self._length = 0
        self._left = 0
        self._skips = False

    @property
    def inside(self) -> bool:
        """Whether the octets so far end within a frame."""
        return self._kind is not None or bool(self._kept)

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Take the next octets. To be run to its end before the next call."""
        at = 0
        while True:
            if self._kind is None:
                header, at = self._header(data, at)
                if header is None:
                    return
                yield header
            taken = data[at : at + self._left]
            at += len(taken)
            self._left -= len(taken)
            if self._skips:
                self._kept += taken[: max(0, KEPT - len(self._kept))]
            else:
                self._kept += taken
            if taken and self._kind == FrameType.DATA:
                yield DataPiece(taken)
            if self._left:
                return
            yield self._whole()

    def _header(self, data: bytes, at: int) -> tuple[FrameBegun | None, int]:
        """Type and length, once both are here."""
        while at < len(data):
            self._kept.append(data[at])
            at += 1
            reader = QuicReader(bytes(self._kept), "frame header")
            try:
                kind, length = reader.varint(), reader.varint()
            except DecodeError:
                continue
            self._kind, self._length, self._left = kind, length, length
            self._skips = kind not in _DECODE or length > MAX_PAYLOAD
            self._kept.clear()
            return FrameBegun(kind, length), at
        return None, at

    def _whole(self) -> Frame | BadFrame:
        assert self._kind is not None
        kind, payload, length = self._kind, bytes(self._kept), self._length
        self._kind = None
        self._kept.clear()
        if kind == FrameType.DATA:
            return DataFrame(payload, length, stream_id=self.stream_id)
        if kind not in _DECODE:
            return UnknownFrame(kind, payload, length, stream_id=self.stream_id)
        if self._skips:
            return BadFrame(
                kind, f"{frame_name(kind)} of {length} octets, this peer reads {MAX_PAYLOAD}", too_long=True
            )
        try:
            return replace(decode(kind, payload), stream_id=self.stream_id)
        except DecodeError as error:
            return BadFrame(kind, str(error))
