"""HTTP/2 of the scripted peers, frame by frame and without I/O (RFC 9113, RFC 7541).

`Connection` is one side, client or server: it is legal by default, tells each frame that it receives, makes messages of
them, and names the rules that the other side breaks. `frames` makes any frame, `blocks` any header block by hand.
"""

from __future__ import annotations

from harness.wire.http2 import blocks, frames
from harness.wire.http2.connection import Connection
from harness.wire.http2.events import (
    Broken,
    ContentReceived,
    Event,
    FrameReceived,
    GoawayReceived,
    MessageEnded,
    PingAcknowledged,
    SectionReceived,
    SettingsAcknowledged,
    SettingsReceived,
    StreamReset,
    Unreadable,
)
from harness.wire.http2.fields import Field
from harness.wire.http2.frames import Seen
from harness.wire.http2.numbers import ErrorCode, Flag, FrameType, Setting, error_name
from harness.wire.http2.options import Limits, Options
from harness.wire.http2.stream import Stream

__all__ = [
    "Broken",
    "Connection",
    "ContentReceived",
    "ErrorCode",
    "Event",
    "Field",
    "Flag",
    "FrameReceived",
    "FrameType",
    "GoawayReceived",
    "Limits",
    "MessageEnded",
    "Options",
    "PingAcknowledged",
    "SectionReceived",
    "Seen",
    "Setting",
    "SettingsAcknowledged",
    "SettingsReceived",
    "Stream",
    "StreamReset",
    "Unreadable",
    "blocks",
    "error_name",
    "frames",
]
