"""The numbers of HTTP/3 and their names (RFC 9114 sections 7.2, 8.1 and 11.2; RFC 9204 section 8; RFC 9220, 9297)."""

from __future__ import annotations

from enum import IntEnum


class FrameType(IntEnum):
    """Frame types (RFC 9114 section 7.2, RFC 9218 section 7.2)."""

    DATA = 0x00
    HEADERS = 0x01
    CANCEL_PUSH = 0x03
    SETTINGS = 0x04
    PUSH_PROMISE = 0x05
    GOAWAY = 0x07
    MAX_PUSH_ID = 0x0D
    PRIORITY_UPDATE_REQUEST = 0xF0700
    PRIORITY_UPDATE_PUSH = 0xF0701


HTTP2_FRAMES = {0x02: "PRIORITY", 0x06: "PING", 0x08: "WINDOW_UPDATE", 0x09: "CONTINUATION"}
"""Frame types of HTTP/2 that mean nothing here and must not be sent (RFC 9114 section 7.2.8)."""


class StreamType(IntEnum):
    """Types of unidirectional streams (RFC 9114 section 6.2, RFC 9204 section 4.2)."""

    CONTROL = 0x00
    PUSH = 0x01
    QPACK_ENCODER = 0x02
    QPACK_DECODER = 0x03


class SettingId(IntEnum):
    """Settings (RFC 9114 section 7.2.4.1, RFC 9204 section 5, RFC 9220 section 3, RFC 9297 section 2.1.1)."""

    QPACK_MAX_TABLE_CAPACITY = 0x01
    MAX_FIELD_SECTION_SIZE = 0x06
    QPACK_BLOCKED_STREAMS = 0x07
    ENABLE_CONNECT_PROTOCOL = 0x08
    H3_DATAGRAM = 0x33


HTTP2_SETTINGS = frozenset((0x00, 0x02, 0x03, 0x04, 0x05))
"""Settings of HTTP/2 that must not be sent (RFC 9114 sections 7.2.4.1 and 11.2.2)."""
BOOLEAN_SETTINGS = {
    SettingId.ENABLE_CONNECT_PROTOCOL: "8441 section 3",
    SettingId.H3_DATAGRAM: "9297 section 2.1.1",
}
"""Settings that are 0 or 1, and where that stands."""


class ErrorCode(IntEnum):
    """Application error codes (RFC 9114 section 8.1, RFC 9204 section 6)."""

    H3_DATAGRAM_ERROR = 0x33
    H3_NO_ERROR = 0x100
    H3_GENERAL_PROTOCOL_ERROR = 0x101
    H3_INTERNAL_ERROR = 0x102
    H3_STREAM_CREATION_ERROR = 0x103
    H3_CLOSED_CRITICAL_STREAM = 0x104
    H3_FRAME_UNEXPECTED = 0x105
    H3_FRAME_ERROR = 0x106
    H3_EXCESSIVE_LOAD = 0x107
    H3_ID_ERROR = 0x108
    H3_SETTINGS_ERROR = 0x109
    H3_MISSING_SETTINGS = 0x10A
    H3_REQUEST_REJECTED = 0x10B
    H3_REQUEST_CANCELLED = 0x10C
    H3_REQUEST_INCOMPLETE = 0x10D
    H3_MESSAGE_ERROR = 0x10E
    H3_CONNECT_ERROR = 0x10F
    H3_VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202


def is_reserved(number: int) -> bool:
    """Whether a type, setting or code is one of 0x1f * N + 0x21, without meaning (RFC 9114 sections 6.2.3, 7.2.8)."""
    return number >= 0x21 and (number - 0x21) % 0x1F == 0


def reserved(index: int) -> int:
    """The reserved number with N = `index`."""
    return 0x1F * index + 0x21


def _named(kind: type[IntEnum], number: int) -> str:
    try:
        return kind(number).name
    except ValueError:
        return f"0x{number:x}"


def error_name(code: int) -> str:
    """`H3_NO_ERROR`, or `0x1234` for a code without a name."""
    return _named(ErrorCode, code)


def setting_name(setting: int) -> str:
    """`MAX_FIELD_SECTION_SIZE`, or its number."""
    return _named(SettingId, setting)


def stream_name(kind: int) -> str:
    """`control`, `qpack encoder`, or the number of the type."""
    return _named(StreamType, kind).lower().replace("_", " ")


def frame_name(kind: int) -> str:
    """`DATA`, the HTTP/2 name of a type that is no more, or the number."""
    return HTTP2_FRAMES.get(kind) or _named(FrameType, kind)
