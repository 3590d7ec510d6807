"""What a connection of HTTP/2 tells: every frame, the messages that they carry, and the rules that they break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.wire.http1_message import Violation
from harness.wire.http2.fields import Field
from harness.wire.http2.frames import Seen

SectionKind = Literal["request", "interim", "response", "trailers", "promise"]


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame, in front of the events that follow from it."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class SectionReceived:
    """A whole field section: `block` as it came, all its frames together; `end` where END_STREAM was set.

    `stream` is the promised one for a promise.
    """

    stream: int
    kind: SectionKind
    fields: tuple[Field, ...]
    block: bytes
    end: bool


@dataclass(frozen=True, slots=True)
class ContentReceived:
    """The content of a DATA frame. `flow` octets count for flow control; they stay ours until `consume`."""

    stream: int
    data: bytes
    flow: int


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """END_STREAM came."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """RST_STREAM came."""

    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class SettingsReceived:
    """SETTINGS came, and is in force; `pairs` in their order."""

    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SettingsAcknowledged:
    """The other side has our oldest SETTINGS that it had not acknowledged before."""

    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PingAcknowledged:
    """The answer to a PING of ours."""

    data: bytes


@dataclass(frozen=True, slots=True)
class GoawayReceived:
    """GOAWAY came."""

    last: int
    code: int
    debug: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """The other side broke a rule; `stream` is 0 where it is the connection's."""

    stream: int
    violation: Violation


@dataclass(frozen=True, slots=True)
class Unreadable:
    """From here on nothing can be read any more: no HTTP/2, or a compression state that is lost."""

    why: str
    octets: bytes = b""


Event = (
    FrameReceived
    | SectionReceived
    | ContentReceived
    | MessageEnded
    | StreamReset
    | SettingsReceived
    | SettingsAcknowledged
    | PingAcknowledged
    | GoawayReceived
    | Broken
    | Unreadable
)
