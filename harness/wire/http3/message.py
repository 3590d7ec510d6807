"""What a connection of HTTP/3 tells: heads, content, ends, frames, violations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.wire.http1_message import Violation as HttpViolation
from harness.wire.http3.frames import Frame, SettingsFrame
from harness.wire.http3.numbers import error_name, stream_name
from harness.wire.http3.qpack import Instruction
from harness.wire.http3.qpack_static import Field

Fields = tuple[Field, ...]
AnyField = tuple[bytes | str, bytes | str]
"""A field of a script: text is encoded as Latin-1."""


def octets(text: bytes | str) -> bytes:
    """Text as it goes out."""
    return text if isinstance(text, bytes) else text.encode("latin-1")


def as_fields(fields: Iterable[AnyField]) -> Fields:
    """Fields of a script as they go out."""
    return tuple((octets(name), octets(value)) for name, value in fields)


@dataclass(frozen=True, slots=True)
class Violation(HttpViolation):
    """A rule that the other side broke: `section` names it, `code` is the error that a legal endpoint answers with.

    `fatal`: it is a connection error; otherwise a stream error, or none at all. `stream_id` None is the connection.
    """

    code: int = 0
    stream_id: int | None = None
    fatal: bool = False

    def __str__(self) -> str:
        place = "" if self.stream_id is None else f" on stream {self.stream_id}"
        return f"{self.what}{place} (RFC {self.section})"


def connection_error(what: str, section: str, code: int, stream_id: int | None = None) -> Violation:
    """A violation that ends the connection."""
    return Violation(what, section, code=code, stream_id=stream_id, fatal=True)


def stream_error(what: str, section: str, code: int, stream_id: int) -> Violation:
    """A violation that ends a stream."""
    return Violation(what, section, code=code, stream_id=stream_id)


@dataclass(frozen=True, slots=True)
class Head:
    """A header section that arrived whole. `kind`: `request`, `informational`, `response` or `trailers`; `fields` as
    they came, pseudo-header fields included; `section` their octets."""

    stream_id: int
    kind: str
    fields: Fields
    section: bytes = field(repr=False)

    def pseudo(self, name: bytes) -> bytes | None:
        """The first pseudo-header field of that name."""
        return next((value for known, value in self.fields if known == name), None)

    @property
    def status(self) -> int:
        """The status code; 0 where there is none that counts."""
        value = self.pseudo(b":status") or b""
        return int(value) if len(value) == 3 and value.isdigit() else 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values in order and in Latin-1, without pseudo-header fields."""
        return [(n.decode("latin-1"), v.decode("latin-1")) for n, v in self.fields if not n.startswith(b":")]


@dataclass(frozen=True, slots=True)
class Content:
    """The next octets of content."""

    stream_id: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The other side ended its half cleanly; `complete` is False where that is no end for a message."""

    stream_id: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class StreamAborted:
    """RESET_STREAM on a request stream."""

    stream_id: int
    code: int

    def __str__(self) -> str:
        return f"RESET_STREAM {error_name(self.code)}"


@dataclass(frozen=True, slots=True)
class SendingStopped:
    """STOP_SENDING for a request stream."""

    stream_id: int
    code: int

    def __str__(self) -> str:
        return f"STOP_SENDING {error_name(self.code)}"


@dataclass(frozen=True, slots=True)
class FrameSeen:
    """A whole frame; its `stream_id` says where."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class SettingsSeen:
    """The other side's settings are known."""

    settings: SettingsFrame


@dataclass(frozen=True, slots=True)
class GoawaySeen:
    """GOAWAY."""

    number: int


@dataclass(frozen=True, slots=True)
class InstructionsSeen:
    """Whole instructions of the other side's `encoder` or `decoder` stream."""

    kind: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class UniStreamSeen:
    """The type of a unidirectional stream of the other side's is known."""

    stream_id: int
    kind: int

    @property
    def name(self) -> str:
        """The type's name."""
        return stream_name(self.kind)


@dataclass(frozen=True, slots=True)
class RequestOpened:
    """The other side opened a bidirectional stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class SectionBlocked:
    """A field section waits for instructions of the encoder stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class TooMuch:
    """The other side sent more than this peer keeps, which is no rule of HTTP."""

    what: str


@dataclass(frozen=True, slots=True)
class Consumed:
    """Octets of a stream that were frame headers, or frames without content: credit may be given for them."""

    stream_id: int
    count: int


Event = Any
"""One of the above."""
