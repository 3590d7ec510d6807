"""Frames of HTTP/2 as octets: any of them, legal or not, and a reader that splits a stream into them.

What goes out is made by hand, since a script says what no library would. What comes in is read by hyperframe; what that
refuses comes out as an `ExtensionFrame` of its type, and `problem` names the rule that it breaks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from hyperframe.exceptions import HyperframeError
from hyperframe.frame import FRAMES, DataFrame, ExtensionFrame, Frame

from harness.wire.http2.numbers import (
    DEFINED_FLAGS,
    HEADER_SIZE,
    Flag,
    FrameType,
    error_name,
    frame_name,
    setting_name,
)

_HEADER = struct.Struct(">HBBBL")
_RESERVED = 0x80000000
NO_STREAM = frozenset({FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY})
EITHER = frozenset({FrameType.WINDOW_UPDATE})


# Saying


def raw(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """Any frame. `length` is what its header says instead of the size of `payload`; the reserved bit is the highest of
    `stream`, as it is sent (RFC 9113 section 4.1)."""
    size = len(payload) if length is None else length
    return _HEADER.pack((size >> 8) & 0xFFFF, size & 0xFF, kind, flags, stream & 0xFFFFFFFF) + payload


def _padded(payload: bytes, pad: int | None) -> bytes:
    return payload if pad is None else bytes([pad]) + payload + bytes(pad)


def _flags(**chosen: bool) -> int:
    return sum(Flag[name.upper()] for name, on in chosen.items() if on)


def data(stream: int, content: bytes = b"", *, end: bool = False, pad: int | None = None) -> bytes:
    """DATA (RFC 9113 section 6.1); `pad` octets of padding."""
    return raw(0, _padded(content, pad), flags=_flags(end_stream=end, padded=pad is not None), stream=stream)


def headers(
    stream: int,
    block: bytes,
    *,
    end: bool = False,
    end_headers: bool = True,
    pad: int | None = None,
    depends_on: int | None = None,
    weight: int = 15,
    exclusive: bool = False,
) -> bytes:
    """One HEADERS frame (RFC 9113 section 6.2) with a field block as it is; `depends_on` gives it priority fields."""
    first = b"" if depends_on is None else struct.pack(">LB", depends_on | (_RESERVED if exclusive else 0), weight)
    flags = _flags(end_stream=end, end_headers=end_headers, padded=pad is not None, priority=depends_on is not None)
    return raw(1, _padded(first + block, pad), flags=flags, stream=stream)


def continuation(stream: int, block: bytes, *, end_headers: bool = True) -> bytes:
    """CONTINUATION (RFC 9113 section 6.10)."""
    return raw(9, block, flags=_flags(end_headers=end_headers), stream=stream)


def priority(stream: int, depends_on: int = 0, *, weight: int = 15, exclusive: bool = False) -> bytes:
    """PRIORITY (RFC 9113 section 6.3)."""
    return raw(2, struct.pack(">LB", depends_on | (_RESERVED if exclusive else 0), weight), stream=stream)


def rst_stream(stream: int, code: int = 0) -> bytes:
    """RST_STREAM (RFC 9113 section 6.4)."""
    return raw(3, struct.pack(">L", code), stream=stream)


def settings(pairs: Iterable[tuple[int, int]] = (), *, ack: bool = False, stream: int = 0) -> bytes:
    """SETTINGS (RFC 9113 section 6.5) with the pairs in this order, twice the same if so."""
    payload = b"".join(struct.pack(">HL", name, value) for name, value in pairs)
    return raw(4, payload, flags=_flags(ack=ack), stream=stream)


def push_promise(stream: int, promised: int, block: bytes, *, end_headers: bool = True) -> bytes:
    """PUSH_PROMISE (RFC 9113 section 6.6)."""
    return raw(5, struct.pack(">L", promised) + block, flags=_flags(end_headers=end_headers), stream=stream)


def ping(payload: bytes = bytes(8), *, ack: bool = False, stream: int = 0) -> bytes:
    """PING (RFC 9113 section 6.7)."""
    return raw(6, payload, flags=_flags(ack=ack), stream=stream)


def goaway(last: int = 0, code: int = 0, debug: bytes = b"", *, stream: int = 0) -> bytes:
    """GOAWAY (RFC 9113 section 6.8)."""
    return raw(7, struct.pack(">LL", last, code) + debug, stream=stream)


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE (RFC 9113 section 6.9)."""
    return raw(8, struct.pack(">L", increment), stream=stream)


def block_frames(
    stream: int,
    block: bytes,
    *,
    end: bool = False,
    limit: int,
    pieces: Iterable[int] = (),
    pad: int | None = None,
    depends_on: int | None = None,
) -> bytes:
    """A field block as HEADERS and as many CONTINUATION as it needs: the first ones of the sizes in `pieces`, the rest
    of at most `limit` octets."""
    overhead = (0 if pad is None else pad + 1) + (0 if depends_on is None else 5)
    cut: list[bytes] = []
    sizes = iter(pieces)
    rest = block
    while True:
        size = next(sizes, limit - (overhead if not cut else 0))
        piece, rest = rest[:size], rest[size:]
        cut.append(piece)
        if not rest:
            break
    last = len(cut) - 1
    said = [headers(stream, cut[0], end=end, end_headers=not last, pad=pad, depends_on=depends_on)]
    said += [continuation(stream, piece, end_headers=at == last) for at, piece in enumerate(cut[1:], 1)]
    return b"".join(said)


# Reading


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a frame taken alone, and the section that says so."""

    what: str
    section: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame as it came: hyperframe's reading of it, and its header (`length` of the payload, `flags` as an octet)."""

    frame: Frame = field(compare=False)
    kind: int
    stream: int
    length: int
    flags: int
    reserved: bool
    payload: bytes
    problem: Problem | None = None

    def has(self, flag: Flag) -> bool:
        """Whether a flag is set."""
        return bool(self.flags & flag)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The settings of a SETTINGS frame, in order."""
        whole = len(self.payload) - len(self.payload) % 6
        return tuple(struct.iter_unpack(">HL", self.payload[:whole]))

    def emptied(self) -> Seen:
        """The same without its payload."""
        frame = DataFrame(self.stream)
        frame.body_len = self.length
        return replace(self, frame=frame, payload=b"")

    def describe(self) -> tuple[str, str]:
        """The frame in the field's words: its name, and what it says."""
        return _describe(self)


class FrameReader:
    """Splits octets into frames. It holds what one frame needs: 16 MiB at most, as its length has 24 bits."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def partial(self) -> bytes:
        """The beginning of a frame whose rest has not come, its first octets."""
        return bytes(self._buffer[:HEADER_SIZE])

    def feed(self, octets: bytes) -> list[Seen]:
        """The frames that `octets` complete."""
        self._buffer += octets
        found: list[Seen] = []
        at = 0
        while len(self._buffer) - at >= HEADER_SIZE:
            high, low, kind, flags, word = _HEADER.unpack_from(self._buffer, at)
            length = (high << 8) | low
            end = at + HEADER_SIZE + length
            if len(self._buffer) < end:
                break
            payload = bytes(self._buffer[at + HEADER_SIZE : end])
            found.append(_read(kind, flags, word, payload))
            at = end
        del self._buffer[:at]
        return found


def _read(kind: int, flags: int, word: int, payload: bytes) -> Seen:
    stream, reserved = word & ~_RESERVED, bool(word & _RESERVED)
    problem = _problem(kind, flags, stream, payload)
    frame: Frame | None = None
    if problem is None and kind in FRAMES:
        try:
            frame = FRAMES[kind](stream)
            frame.parse_flags(flags)
            frame.parse_body(memoryview(payload))
            frame.body_len = len(payload)
        except HyperframeError as error:
            frame, problem = None, Problem(f"{frame_name(kind)}: {error}", "9113 section 4.2")
    if frame is None:
        frame = ExtensionFrame(kind, stream, flag_byte=flags, body=payload)
        frame.body_len = len(payload)
    return Seen(frame, kind, stream, len(payload), flags, reserved, payload, problem)


_SIZES = {
    FrameType.PRIORITY: (5, "9113 section 6.3"),
    FrameType.RST_STREAM: (4, "9113 section 6.4"),
    FrameType.PING: (8, "9113 section 6.7"),
    FrameType.WINDOW_UPDATE: (4, "9113 section 6.9"),
}
_SECTIONS = {
    FrameType.DATA: "6.1",
    FrameType.HEADERS: "6.2",
    FrameType.PRIORITY: "6.3",
    FrameType.RST_STREAM: "6.4",
    FrameType.SETTINGS: "6.5",
    FrameType.PUSH_PROMISE: "6.6",
    FrameType.PING: "6.7",
    FrameType.GOAWAY: "6.8",
    FrameType.WINDOW_UPDATE: "6.9",
    FrameType.CONTINUATION: "6.10",
}


def _problem(kind: int, flags: int, stream: int, payload: bytes) -> Problem | None:
    """What is wrong with a frame by itself: its stream, its size, its padding."""
    if kind not in _SECTIONS:
        return None
    frame = FrameType(kind)
    section = f"9113 section {_SECTIONS[frame]}"
    if frame in NO_STREAM and stream:
        return Problem(f"{frame.name} on stream {stream}", section)
    if frame not in NO_STREAM | EITHER and not stream:
        return Problem(f"{frame.name} on stream 0", section)
    size = _SIZES.get(frame)
    if size and len(payload) != size[0]:
        return Problem(f"{frame.name} of {len(payload)} octets", section)
    if frame is FrameType.SETTINGS and flags & Flag.ACK and payload:
        return Problem(f"SETTINGS ACK with {len(payload)} octets", section)
    if frame is FrameType.SETTINGS and len(payload) % 6:
        return Problem(f"SETTINGS of {len(payload)} octets", section)
    if frame is FrameType.GOAWAY and len(payload) < 8:
        return Problem(f"GOAWAY of {len(payload)} octets", section)
    if frame is FrameType.WINDOW_UPDATE and not int.from_bytes(payload, "big") & ~_RESERVED:
        return Problem(f"WINDOW_UPDATE with increment 0 on stream {stream}", section)
    return _padding_problem(frame, flags, payload, section)


def _padding_problem(frame: FrameType, flags: int, payload: bytes, section: str) -> Problem | None:
    """Whether padding, priority fields and a promised stream have room (RFC 9113 sections 6.1, 6.2 and 6.6)."""
    if not DEFINED_FLAGS[frame] & Flag.PADDED:
        return None
    padded = bool(flags & Flag.PADDED)
    needed = padded + (5 if frame is FrameType.HEADERS and flags & Flag.PRIORITY else 0)
    needed += 4 if frame is FrameType.PUSH_PROMISE else 0
    if len(payload) < needed:
        return Problem(f"{frame.name} of {len(payload)} octets, too short for its fields", "9113 section 4.2")
    if padded and payload[0] > len(payload) - needed:
        return Problem(f"{frame.name} with {payload[0]} octets of padding in {len(payload)}", section)
    return None


# Telling


def _describe(seen: Seen) -> tuple[str, str]:
    name = frame_name(seen.kind)
    told = [f"stream {seen.stream}"] if seen.stream else []
    if seen.kind in DEFINED_FLAGS:
        told += _flag_names(seen.kind, seen.flags)
    if not seen.problem:
        told += _DETAIL.get(seen.kind, _length)(seen)
    else:
        told.append(f"{seen.length} octets")
    return name, ", ".join(told)


def _flag_names(kind: int, flags: int) -> list[str]:
    if kind in (FrameType.SETTINGS, FrameType.PING):
        return ["ACK"] if flags & Flag.ACK else []
    names = {Flag.END_STREAM: "END_STREAM", Flag.END_HEADERS: "END_HEADERS", Flag.PADDED: "PADDED"}
    defined = DEFINED_FLAGS[kind]
    return [name for flag, name in names.items() if flag & flags & defined]


def _length(seen: Seen) -> list[str]:
    return [f"{seen.length} octets"]


def _word(seen: Seen, at: int = 0) -> int:
    return int.from_bytes(seen.payload[at : at + 4], "big")


_DETAIL: dict[int, Callable[[Seen], list[str]]] = {
    FrameType.RST_STREAM: lambda seen: [error_name(_word(seen))],
    FrameType.GOAWAY: lambda seen: [
        error_name(_word(seen, 4)),
        f"last stream {_word(seen) & ~_RESERVED}",
        *([repr(seen.payload[8:88].decode("latin-1"))] if seen.length > 8 else []),
    ],
    FrameType.WINDOW_UPDATE: lambda seen: [f"+{_word(seen) & ~_RESERVED}"],
    FrameType.SETTINGS: lambda seen: [f"{setting_name(name)} {value}" for name, value in seen.pairs[:20]],
    FrameType.PING: lambda seen: [seen.payload.hex()],
    FrameType.PRIORITY: lambda seen: [f"depends on {_word(seen) & ~_RESERVED}, weight {seen.payload[4] + 1}"],
}
