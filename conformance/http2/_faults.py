"""Frames that end a connection, as data: what is said, by which row, and how the row has the end.

A fault is said on either leg. Stream 1 is the one that a request waits on at an upstream, and the one that a client has
opened where it has opened any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from conformance.http2._steps import COMPRESSION, FLOW, PROTOCOL, SIZE, Goaway
from harness.wire.http2 import ErrorCode, Setting, blocks, frames
from harness.wire.http2.numbers import Flag, FrameType

GET = ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"fault.test"), (b":path", b"/fault"))
POST = ((b":method", b"POST"), *GET[1:])
IDLE = 9
"""A stream that nobody has opened."""
LARGEST = (1 << 31) - 1


def head(stream: int, fields: Sequence[tuple[bytes, bytes]] = GET, *, end: bool = True, whole: bool = True) -> bytes:
    """A header section by hand: literals that leave no trace in the table."""
    return frames.headers(stream, blocks.block(list(fields)), end=end, end_headers=whole)


@dataclass(frozen=True, slots=True)
class Fault:
    """Octets, and the row that they break. `opens`: a request of a client must be open on stream 1."""

    row: str
    said: bytes
    end: Goaway = PROTOCOL
    opens: bool = False
    upstream: bool = True


def _raw(kind: FrameType, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    return frames.raw(kind, payload, flags=flags, stream=stream)


# RFC 9113 section 6 on the stream that a frame belongs to
ON_STREAMS: Mapping[str, Fault] = {
    "data-on-0": Fault("RFC9113-6.1-1", frames.data(0, b"fault")),
    "headers-on-0": Fault("RFC9113-6.2-2", head(0)),
    "settings-on-1": Fault("RFC9113-6.5-2", frames.settings(stream=1), opens=True),
    "ping-on-1": Fault("RFC9113-6.7-3", frames.ping(stream=1), replace(PROTOCOL, other=""), opens=True),
    "goaway-on-1": Fault("RFC9113-6.8-6", frames.goaway(stream=1), opens=True),
    "rst-on-0": Fault("RFC9113-6.4-2", frames.rst_stream(0)),
    "continuation-alone": Fault("RFC9113-6.10-1", frames.continuation(1, b""), opens=True),
    "continuation-on-0": Fault("RFC9113-6.10-1", frames.continuation(0, b"")),
    "push-promise": Fault(
        "RFC9113-8.4-1", frames.push_promise(1, 2, blocks.block(list(GET))), opens=True, upstream=False
    ),
}
# RFC 9113 section 5.1, on idle streams; section 6.1 names STREAM_CLOSED for DATA
_IDLE_END = replace(PROTOCOL)
ON_IDLE: Mapping[str, Fault] = {
    "data": Fault("RFC9113-5.1-1", frames.data(IDLE, b"fault"), _IDLE_END),
    "rst-stream": Fault("RFC9113-5.1-1", frames.rst_stream(IDLE), _IDLE_END),
    "window-update": Fault("RFC9113-5.1-1", frames.window_update(IDLE, 1), _IDLE_END),
    "continuation": Fault("RFC9113-5.1-1", frames.continuation(IDLE, b""), _IDLE_END),
}
# RFC 9113 sections 4.2 and 6 on sizes
SIZES: Mapping[str, Fault] = {
    "ack-with-payload": Fault("RFC9113-6.5-1", _raw(FrameType.SETTINGS, bytes(6), flags=Flag.ACK), SIZE),
    "settings-5": Fault("RFC9113-6.5-3", _raw(FrameType.SETTINGS, bytes(5)), SIZE),
    "settings-7": Fault("RFC9113-6.5-3", _raw(FrameType.SETTINGS, bytes(7)), SIZE),
    "ping-7": Fault(
        "RFC9113-6.7-3", frames.ping(bytes(7)), Goaway("GOAWAY with PROTOCOL_ERROR, FRAME_SIZE_ERROR", SIZE.codes, "")
    ),
    "rst-3": Fault("RFC9113-6.4-3", _raw(FrameType.RST_STREAM, bytes(3), stream=1), SIZE, opens=True),
    "rst-5": Fault("RFC9113-6.4-3", _raw(FrameType.RST_STREAM, bytes(5), stream=1), SIZE, opens=True),
    "window-3": Fault("RFC9113-6.9-4", _raw(FrameType.WINDOW_UPDATE, bytes(3)), SIZE),
    "window-5": Fault("RFC9113-6.9-4", _raw(FrameType.WINDOW_UPDATE, b"\0\0\0\1\0"), SIZE),
    "padding-too-long": Fault(
        "RFC9113-6.1-4", _raw(FrameType.DATA, b"\x06fault", flags=Flag.PADDED, stream=1), opens=True
    ),
}
# RFC 9113 sections 6.5.2 and 6.9 on values
VALUES: Mapping[str, Fault] = {
    "enable-push-2": Fault("RFC9113-6.5.2-1", frames.settings([(Setting.ENABLE_PUSH, 2)])),
    "window-2^31": Fault("RFC9113-6.5.2-5", frames.settings([(Setting.INITIAL_WINDOW_SIZE, LARGEST + 1)]), FLOW),
    "frame-size-16383": Fault("RFC9113-6.5.2-6", frames.settings([(Setting.MAX_FRAME_SIZE, (1 << 14) - 1)])),
    "frame-size-2^24": Fault("RFC9113-6.5.2-6", frames.settings([(Setting.MAX_FRAME_SIZE, 1 << 24)])),
    "initial-window-overflow": Fault(
        "RFC9113-6.9.2-2",
        frames.window_update(1, LARGEST - 65535) + frames.settings([(Setting.INITIAL_WINDOW_SIZE, 65536)]),
        FLOW,
        opens=True,
    ),
}
# RFC 9113 sections 4.3, 5.5 and 6.2: a field block and nothing in between
BLOCKS: Mapping[str, Fault] = {
    "data": Fault("RFC9113-4.3-1", frames.data(1, b"fault")),
    "ping": Fault("RFC9113-4.3-1", frames.ping()),
    "headers": Fault("RFC9113-4.3-1", head(3)),
    "other-continuation": Fault("RFC9113-6.2-1", frames.continuation(3, b"")),
    "extension": Fault("RFC9113-5.5-2", frames.raw(0xEE, b"fault", stream=1) + frames.continuation(1, b"")),
}
# RFC 9113 section 5.1.1
IDS: Mapping[str, bytes] = {
    "even": head(2),
    "lower": head(5, POST, end=False) + head(3),
}

# RFC 7541, and RFC 9113 section 4.3: blocks that cannot be decoded
_START = blocks.block(list(GET))
BAD_BLOCKS: Mapping[str, Fault] = {
    "index-200": Fault("RFC7541-2.3.3-1", blocks.indexed(200), COMPRESSION),
    "index-0": Fault("RFC7541-6.1-1", b"\x80", COMPRESSION),
    "length-2^40": Fault("RFC7541-5.1-1", b"\x00" + blocks.integer(1 << 40, 7), COMPRESSION),
    "20-octets": Fault("RFC7541-5.1-1", b"\xff" + b"\x80" * 20 + b"\x00", COMPRESSION),
    "padding-8": Fault("RFC7541-5.2-1", blocks.literal(b"x-fault", b"", coded=b"\x1f\xff"), COMPRESSION),
    "padding-zeros": Fault("RFC7541-5.2-1", blocks.literal(b"x-fault", b"", coded=b"\x18"), COMPRESSION),
    "eos": Fault("RFC7541-5.2-1", blocks.literal(b"x-fault", b"", coded=b"\xff\xff\xff\xff"), COMPRESSION),
    "update-65536": Fault("RFC7541-6.3-1", blocks.size_update(65536), COMPRESSION),
    "truncated": Fault("RFC9113-4.3-2", b"\x00\x07x-fau", COMPRESSION),
    "truncated-huffman": Fault("RFC9113-4.3-2", b"\x00\x07x-fault\x85\xff", COMPRESSION),
}


def in_block(fault: Fault) -> bytes:
    """A bad representation behind the fields of a request; a table size update in front of them."""
    return fault.said + _START if fault.said[0] & 0xE0 == 0x20 else _START + fault.said


CLOSED = ErrorCode.STREAM_CLOSED
