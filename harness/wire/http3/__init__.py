"""A scriptable peer of HTTP/3 without I/O, both roles (RFC 9114, RFC 9204), on streams that somebody else moves.

`Http3Connection` takes stream octets and gives events; it speaks legally unless an option or a script breaks something.

`frames` reads and writes frames, `request` and `control` hold the order of frames on the two kinds of streams, `rules`
says what field sections must look like, `compression` is QPACK by a library and `qpack` QPACK by hand.
"""

from harness.wire.http3.connection import Http3Connection, Write
from harness.wire.http3.frames import (
    CancelPushFrame,
    DataFrame,
    Frame,
    GoawayFrame,
    HeadersFrame,
    MaxPushIdFrame,
    PriorityUpdateFrame,
    PushPromiseFrame,
    SettingsFrame,
    UnknownFrame,
)
from harness.wire.http3.message import Head, Violation
from harness.wire.http3.numbers import ErrorCode, FrameType, SettingId, StreamType, error_name, reserved
from harness.wire.http3.options import Http3Options

__all__ = [
    "CancelPushFrame",
    "DataFrame",
    "ErrorCode",
    "Frame",
    "FrameType",
    "GoawayFrame",
    "Head",
    "HeadersFrame",
    "Http3Connection",
    "Http3Options",
    "MaxPushIdFrame",
    "PriorityUpdateFrame",
    "PushPromiseFrame",
    "SettingId",
    "SettingsFrame",
    "StreamType",
    "UnknownFrame",
    "Violation",
    "Write",
    "error_name",
    "reserved",
]
