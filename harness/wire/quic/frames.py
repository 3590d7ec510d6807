"""Frames as data: one class per frame, whole or illegal, to octets and back (RFC 9000 section 19, RFC 9221)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from harness.wire.quic.codec import DecodeError, QuicReader, varint, varint_vector
from harness.wire.quic.numbers import MAX_CONNECTION_ID, MAX_VARINT, FrameType, Level


class FrameError(DecodeError):
    """A frame that does not parse: `frame_type` is its number (RFC 9000 section 12.4)."""

    def __init__(self, what: str, frame_type: int) -> None:
        super().__init__(what)
        self.frame_type = frame_type


class Frame:
    """One frame. `TYPE` is its (first) number; `encode()` gives its octets."""

    __slots__ = ()
    TYPE: ClassVar[int]
    ELICITS: ClassVar[bool] = True
    """Whether it elicits an acknowledgment (RFC 9002 section 2)."""

    @property
    def name(self) -> str:
        """The class's name."""
        return type(self).__name__

    @property
    def type(self) -> int:
        """The number that stands on the wire."""
        return self.TYPE

    def encode(self) -> bytes:
        """Type and fields."""
        return varint(self.type) + self.body()

    def body(self) -> bytes:
        """The octets behind the type."""
        return b""


@dataclass(frozen=True, slots=True)
class Padding(Frame):
    """A run of `count` PADDING frames."""

    TYPE = FrameType.PADDING
    ELICITS = False
    count: int = 1

    def encode(self) -> bytes:
        """Zeros."""
        return bytes(self.count)


@dataclass(frozen=True, slots=True)
class Ping(Frame):
    """PING."""

    TYPE = FrameType.PING


@dataclass(frozen=True, slots=True)
class Ack(Frame):
    """ACK: `ranges` are (lowest, highest), both included, highest range first; `delay` as on the wire, unscaled.

    `ecn` are the three counts of the form 0x03.
    """

    TYPE = FrameType.ACK
    ELICITS = False
    ranges: tuple[tuple[int, int], ...]
    delay: int = 0
    ecn: tuple[int, int, int] | None = None

    @property
    def type(self) -> int:
        """0x02, or 0x03 with counts."""
        return FrameType.ACK if self.ecn is None else FrameType.ACK_ECN

    @property
    def largest(self) -> int:
        """The largest acknowledged number."""
        return self.ranges[0][1]

    def body(self) -> bytes:
        """The octets behind the type."""
        low, high = self.ranges[0]
        parts = [varint(high), varint(self.delay), varint(len(self.ranges) - 1), varint(high - low)]
        smallest = low
        for low, high in self.ranges[1:]:
            parts += [varint(smallest - high - 2), varint(high - low)]
            smallest = low
        parts += [varint(count) for count in self.ecn or ()]
        return b"".join(parts)

    @classmethod
    def decode(cls, reader: QuicReader, number: int) -> Ack:
        """Parse the fields. Raises `DecodeError`."""
        high, delay, count = reader.varint(), reader.varint(), reader.varint()
        low = high - reader.varint()
        ranges = [(low, high)]
        if count > reader.left:
            raise DecodeError(f"ACK: {count} ranges in {reader.left} octets")
        for _ in range(count):
            high = low - reader.varint() - 2
            low = high - reader.varint()
            ranges.append((low, high))
        if low < 0:
            raise DecodeError("ACK: range below packet number 0")
        ecn = (reader.varint(), reader.varint(), reader.varint()) if number == FrameType.ACK_ECN else None
        return cls(tuple(ranges), delay, ecn)


@dataclass(frozen=True, slots=True)
class ResetStream(Frame):
    """RESET_STREAM."""

    TYPE = FrameType.RESET_STREAM
    stream_id: int
    code: int
    final_size: int

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.stream_id) + varint(self.code) + varint(self.final_size)


@dataclass(frozen=True, slots=True)
class StopSending(Frame):
    """STOP_SENDING."""

    TYPE = FrameType.STOP_SENDING
    stream_id: int
    code: int

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.stream_id) + varint(self.code)


@dataclass(frozen=True, slots=True)
class Crypto(Frame):
    """CRYPTO."""

    TYPE = FrameType.CRYPTO
    offset: int
    data: bytes = field(repr=False)

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.offset) + varint_vector(self.data)


@dataclass(frozen=True, slots=True)
class NewToken(Frame):
    """NEW_TOKEN."""

    TYPE = FrameType.NEW_TOKEN
    token: bytes

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint_vector(self.token)


@dataclass(frozen=True, slots=True)
class Stream(Frame):
    """STREAM. `implicit_length` leaves the length out: the data then runs to the end of the packet."""

    TYPE = FrameType.STREAM
    stream_id: int
    offset: int = 0
    data: bytes = field(default=b"", repr=False)
    fin: bool = False
    implicit_length: bool = False

    @property
    def type(self) -> int:
        """0x08 to 0x0f by the three bits."""
        return 0x08 | (0x04 if self.offset else 0) | (0 if self.implicit_length else 0x02) | self.fin

    def body(self) -> bytes:
        """The octets behind the type."""
        head = varint(self.stream_id) + (varint(self.offset) if self.offset else b"")
        return head + (self.data if self.implicit_length else varint_vector(self.data))

    @classmethod
    def decode(cls, reader: QuicReader, number: int) -> Stream:
        """Parse the fields. Raises `DecodeError`."""
        stream_id = reader.varint()
        offset = reader.varint() if number & 0x04 else 0
        data = reader.varint_vector() if number & 0x02 else reader.rest()
        if offset + len(data) > MAX_VARINT:
            raise DecodeError("STREAM: data beyond 2^62-1")
        return cls(stream_id, offset, data, bool(number & 1), not number & 0x02)


@dataclass(frozen=True, slots=True)
class MaxData(Frame):
    """MAX_DATA."""

    TYPE = FrameType.MAX_DATA
    limit: int

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.limit)


@dataclass(frozen=True, slots=True)
class MaxStreamData(Frame):
    """MAX_STREAM_DATA."""

    TYPE = FrameType.MAX_STREAM_DATA
    stream_id: int
    limit: int

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.stream_id) + varint(self.limit)


@dataclass(frozen=True, slots=True)
class MaxStreams(Frame):
    """MAX_STREAMS of one kind."""

    TYPE = FrameType.MAX_STREAMS_BIDI
    limit: int
    bidirectional: bool = True

    @property
    def type(self) -> int:
        """0x12 or 0x13."""
        return FrameType.MAX_STREAMS_BIDI if self.bidirectional else FrameType.MAX_STREAMS_UNI

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.limit)


@dataclass(frozen=True, slots=True)
class DataBlocked(Frame):
    """DATA_BLOCKED."""

    TYPE = FrameType.DATA_BLOCKED
    limit: int

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.limit)


@dataclass(frozen=True, slots=True)
class StreamDataBlocked(Frame):
    """STREAM_DATA_BLOCKED."""

    TYPE = FrameType.STREAM_DATA_BLOCKED
    stream_id: int
    limit: int

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.stream_id) + varint(self.limit)


@dataclass(frozen=True, slots=True)
class StreamsBlocked(Frame):
    """STREAMS_BLOCKED of one kind."""

    TYPE = FrameType.STREAMS_BLOCKED_BIDI
    limit: int
    bidirectional: bool = True

    @property
    def type(self) -> int:
        """0x16 or 0x17."""
        return FrameType.STREAMS_BLOCKED_BIDI if self.bidirectional else FrameType.STREAMS_BLOCKED_UNI

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.limit)


@dataclass(frozen=True, slots=True)
class NewConnectionId(Frame):
    """NEW_CONNECTION_ID."""

    TYPE = FrameType.NEW_CONNECTION_ID
    sequence: int
    retire_prior_to: int
    connection_id: bytes
    reset_token: bytes

    def body(self) -> bytes:
        """The octets behind the type."""
        head = varint(self.sequence) + varint(self.retire_prior_to)
        return head + bytes((len(self.connection_id),)) + self.connection_id + self.reset_token

    @classmethod
    def decode(cls, reader: QuicReader, number: int) -> NewConnectionId:
        """Parse the fields. Raises `DecodeError`."""
        sequence, prior, length = reader.varint(), reader.varint(), reader.uint(1)
        if not 1 <= length <= MAX_CONNECTION_ID:
            raise DecodeError(f"NEW_CONNECTION_ID: connection id of {length} octets")
        if prior > sequence:
            raise DecodeError(f"NEW_CONNECTION_ID: retire_prior_to {prior} above sequence number {sequence}")
        return cls(sequence, prior, reader.take(length), reader.take(16))


@dataclass(frozen=True, slots=True)
class RetireConnectionId(Frame):
    """RETIRE_CONNECTION_ID."""

    TYPE = FrameType.RETIRE_CONNECTION_ID
    sequence: int

    def body(self) -> bytes:
        """The octets behind the type."""
        return varint(self.sequence)


@dataclass(frozen=True, slots=True)
class PathChallenge(Frame):
    """PATH_CHALLENGE; `data` has 8 octets."""

    TYPE = FrameType.PATH_CHALLENGE
    data: bytes

    def body(self) -> bytes:
        """The octets behind the type."""
        return self.data


@dataclass(frozen=True, slots=True)
class PathResponse(Frame):
    """PATH_RESPONSE; `data` has 8 octets."""

    TYPE = FrameType.PATH_RESPONSE
    data: bytes

    def body(self) -> bytes:
        """The octets behind the type."""
        return self.data


@dataclass(frozen=True, slots=True)
class ConnectionClose(Frame):
    """CONNECTION_CLOSE of the transport, or of the application (which names no frame type)."""

    TYPE = FrameType.CONNECTION_CLOSE
    ELICITS = False
    code: int
    frame_type: int = 0
    reason: bytes = b""
    application: bool = False

    @property
    def type(self) -> int:
        """0x1c or 0x1d."""
        return FrameType.APPLICATION_CLOSE if self.application else FrameType.CONNECTION_CLOSE

    def body(self) -> bytes:
        """The octets behind the type."""
        kind = b"" if self.application else varint(self.frame_type)
        return varint(self.code) + kind + varint_vector(self.reason)

    @classmethod
    def decode(cls, reader: QuicReader, number: int) -> ConnectionClose:
        """Parse the fields. Raises `DecodeError`."""
        application = number == FrameType.APPLICATION_CLOSE
        code = reader.varint()
        frame_type = 0 if application else reader.varint()
        return cls(code, frame_type, reader.varint_vector(), application)


@dataclass(frozen=True, slots=True)
class HandshakeDone(Frame):
    """HANDSHAKE_DONE."""

    TYPE = FrameType.HANDSHAKE_DONE


@dataclass(frozen=True, slots=True)
class Datagram(Frame):
    """DATAGRAM (RFC 9221 section 4). `implicit_length` leaves the length out."""

    TYPE = FrameType.DATAGRAM
    data: bytes = field(repr=False)
    implicit_length: bool = False

    @property
    def type(self) -> int:
        """0x30 or 0x31."""
        return 0x30 if self.implicit_length else 0x31

    def body(self) -> bytes:
        """The octets behind the type."""
        return self.data if self.implicit_length else varint_vector(self.data)

    @classmethod
    def decode(cls, reader: QuicReader, number: int) -> Datagram:
        """Parse the fields. Raises `DecodeError`."""
        return cls(reader.varint_vector() if number & 1 else reader.rest(), not number & 1)


@dataclass(frozen=True, slots=True)
class Raw(Frame):
    """Octets of the script in the place of a frame, legal or not."""

    TYPE = -1
    octets: bytes
    elicits: bool = True

    def encode(self) -> bytes:
        """The octets as they stand."""
        return self.octets


def elicits(frame: Frame) -> bool:
    """Whether a packet with `frame` is to be acknowledged."""
    return frame.elicits if isinstance(frame, Raw) else frame.ELICITS


_Decoder = Callable[[QuicReader, int], Frame]


def _crypto(reader: QuicReader, number: int) -> Frame:
    offset, data = reader.varint(), reader.varint_vector()
    if offset + len(data) > MAX_VARINT:
        raise DecodeError("CRYPTO: data beyond 2^62-1")
    return Crypto(offset, data)


def _new_token(reader: QuicReader, number: int) -> Frame:
    token = reader.varint_vector()
    if not token:
        raise DecodeError("NEW_TOKEN: empty token")
    return NewToken(token)


def _streams(kind: type[MaxStreams | StreamsBlocked], name: str) -> _Decoder:
    def decode(reader: QuicReader, number: int) -> Frame:
        limit = reader.varint()
        if limit > 1 << 60:
            raise DecodeError(f"{name}: {limit} streams, at most 2^60 can exist")
        return kind(limit, not number & 1)

    return decode


_DECODERS: dict[int, _Decoder] = {
    FrameType.PING: lambda reader, number: Ping(),
    FrameType.ACK: Ack.decode,
    FrameType.ACK_ECN: Ack.decode,
    FrameType.RESET_STREAM: lambda reader, number: ResetStream(reader.varint(), reader.varint(), reader.varint()),
    FrameType.STOP_SENDING: lambda reader, number: StopSending(reader.varint(), reader.varint()),
    FrameType.CRYPTO: _crypto,
    FrameType.NEW_TOKEN: _new_token,
    FrameType.MAX_DATA: lambda reader, number: MaxData(reader.varint()),
    FrameType.MAX_STREAM_DATA: lambda reader, number: MaxStreamData(reader.varint(), reader.varint()),
    FrameType.MAX_STREAMS_BIDI: _streams(MaxStreams, "MAX_STREAMS"),
    FrameType.MAX_STREAMS_UNI: _streams(MaxStreams, "MAX_STREAMS"),
    FrameType.DATA_BLOCKED: lambda reader, number: DataBlocked(reader.varint()),
    FrameType.STREAM_DATA_BLOCKED: lambda reader, number: StreamDataBlocked(reader.varint(), reader.varint()),
    FrameType.STREAMS_BLOCKED_BIDI: _streams(StreamsBlocked, "STREAMS_BLOCKED"),
    FrameType.STREAMS_BLOCKED_UNI: _streams(StreamsBlocked, "STREAMS_BLOCKED"),
    FrameType.NEW_CONNECTION_ID: NewConnectionId.decode,
    FrameType.RETIRE_CONNECTION_ID: lambda reader, number: RetireConnectionId(reader.varint()),
    FrameType.PATH_CHALLENGE: lambda reader, number: PathChallenge(reader.take(8)),
    FrameType.PATH_RESPONSE: lambda reader, number: PathResponse(reader.take(8)),
    FrameType.CONNECTION_CLOSE: ConnectionClose.decode,
    FrameType.APPLICATION_CLOSE: ConnectionClose.decode,
    FrameType.HANDSHAKE_DONE: lambda reader, number: HandshakeDone(),
    0x30: Datagram.decode,
    0x31: Datagram.decode,
    **dict.fromkeys(range(0x08, 0x10), Stream.decode),
}


def decode_frames(payload: bytes) -> Iterator[Frame]:
    """The frames of a packet in order. Raises `FrameError` at the first that does not parse."""
    reader = QuicReader(payload, "frame")
    while reader.left:
        at = len(payload) - reader.left
        if payload[at] == FrameType.PADDING:
            rest = payload[at:]
            count = len(rest) - len(rest.lstrip(b"\0"))
            reader.take(count)
            yield Padding(count)
            continue
        number = 0
        try:
            number = reader.varint()
            if len(varint(number)) != 1 << (payload[at] >> 6):
                raise DecodeError(f"frame type 0x{number:x} is not in its shortest form")
            decoder = _DECODERS.get(number)
            if decoder is None:
                raise DecodeError(f"frame of unknown type 0x{number:x}")
            frame = decoder(reader, number)
        except DecodeError as error:
            raise FrameError(str(error), number) from None
        yield frame


_EVERYWHERE = frozenset(Level)
_NOT_EARLY = frozenset((Level.INITIAL, Level.HANDSHAKE, Level.APPLICATION))
_DATA = frozenset((Level.EARLY, Level.APPLICATION))
_ONE_RTT = frozenset((Level.APPLICATION,))
_LEVELS: dict[type[Frame], frozenset[Level]] = {
    Padding: _EVERYWHERE,
    Ping: _EVERYWHERE,
    Ack: _NOT_EARLY,
    Crypto: _NOT_EARLY,
    NewToken: _ONE_RTT,
    RetireConnectionId: _ONE_RTT,
    PathResponse: _ONE_RTT,
    HandshakeDone: _ONE_RTT,
}


def levels_of(frame: Frame) -> frozenset[Level]:
    """The levels where `frame` may stand (RFC 9000 table 3; section 12.5)."""
    if isinstance(frame, ConnectionClose):
        return _DATA if frame.application else _EVERYWHERE
    return _LEVELS.get(type(frame), _DATA)
