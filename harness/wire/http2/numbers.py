"""The registries of HTTP/2: frame types, flags, settings and error codes (RFC 9113 sections 6, 6.5.2, 7 and 11)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 section 3.4)."""
HEADER_SIZE = 9
MAX_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65535
DEFAULT_FRAME_SIZE = 16384
LARGEST_FRAME_SIZE = (1 << 24) - 1
DEFAULT_TABLE_SIZE = 4096


class FrameType(IntEnum):
    """RFC 9113 section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """The flags; ACK has the bit of END_STREAM, on other frames."""

    NONE = 0
    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


DEFINED_FLAGS: dict[int, int] = {
    FrameType.DATA: Flag.END_STREAM | Flag.PADDED,
    FrameType.HEADERS: Flag.END_STREAM | Flag.END_HEADERS | Flag.PADDED | Flag.PRIORITY,
    FrameType.PRIORITY: 0,
    FrameType.RST_STREAM: 0,
    FrameType.SETTINGS: Flag.ACK,
    FrameType.PUSH_PROMISE: Flag.END_HEADERS | Flag.PADDED,
    FrameType.PING: Flag.ACK,
    FrameType.GOAWAY: 0,
    FrameType.WINDOW_UPDATE: 0,
    FrameType.CONTINUATION: Flag.END_HEADERS,
}


class Setting(IntEnum):
    """RFC 9113 section 6.5.2, RFC 8441 section 3."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


INITIAL_SETTINGS: dict[int, int] = {
    Setting.HEADER_TABLE_SIZE: DEFAULT_TABLE_SIZE,
    Setting.ENABLE_PUSH: 1,
    Setting.INITIAL_WINDOW_SIZE: DEFAULT_WINDOW,
    Setting.MAX_FRAME_SIZE: DEFAULT_FRAME_SIZE,
    Setting.ENABLE_CONNECT_PROTOCOL: 0,
}
"""What holds before anything is said; the settings that are not here are without a limit."""


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def frame_name(number: int) -> str:
    """The name of a frame type, or its number."""
    return FrameType(number).name if number in FrameType.__members__.values() else f"frame of type 0x{number:02x}"


def setting_name(number: int) -> str:
    """The name of a setting, or its number."""
    return Setting(number).name if number in Setting.__members__.values() else f"0x{number:x}"


def error_name(code: int) -> str:
    """The name of an error code, or its number."""
    return ErrorCode(code).name if code in ErrorCode.__members__.values() else f"0x{code:x}"
