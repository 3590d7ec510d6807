"""What the reader of HTTP/1.1 tells: heads, content, ends, violations; and how a message is framed (RFC 9112)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

_DIGITS = re.compile(rb"[0-9]+\Z")
MAX_SIZE_DIGITS = 17
"""Digits of a chunk size that is still counted: one more than 64 bits have, since an engine may pass such a size on."""
MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length that is still counted: as many as 64 bits have."""


@dataclass(frozen=True, slots=True)
class FieldLine:
    """A field line as it came: `raw` without its line end, `offset` where it starts in the stream, name and value in
    Latin-1 without surrounding whitespace."""

    name: str
    value: str
    raw: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class Head:
    """A header section: the start line and the field lines in order and in their own spelling; `raw` is every octet of
    it, the empty line included."""

    start_line: bytes
    lines: tuple[FieldLine, ...]
    raw: bytes
    offset: int

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values, in order, in their own spelling."""
        return [(line.name, line.value) for line in self.lines]

    def get_all(self, name: str) -> list[str]:
        """The values of every line called `name`, whatever the case."""
        return [line.value for line in self.lines if line.name.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of the first line called `name`."""
        return next(iter(self.get_all(name)), None)

    def tokens(self, name: str) -> list[str]:
        """The members of the list-valued field `name` in lower case, without empty ones."""
        members = (member.strip().lower() for value in self.get_all(name) for member in value.split(","))
        return [member for member in members if member]


@dataclass(frozen=True, slots=True)
class RequestHead(Head):
    """The header section of a request. What a broken request line does not give is empty."""

    method: str = ""
    target: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class ResponseHead(Head):
    """The header section of a response; `status` is 0 where the status line is broken."""

    status: int = 0
    reason: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The line before a chunk: its size, its extensions as they came, the whole line without its end."""

    size: int
    extension: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """A piece of content, chunking removed."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Trailers:
    """The trailer section of a chunked message; only sent when there is at least one line."""

    lines: tuple[FieldLine, ...]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values, in order, in their own spelling."""
        return [(line.name, line.value) for line in self.lines]


@dataclass(frozen=True, slots=True)
class End:
    """The message is complete."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Octets after the connection stopped being HTTP/1.1: behind a 101, or a 2xx to CONNECT."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Unparsed:
    """Octets that no reading is left for."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The stream ended inside a message (RFC 9112 section 8); `where` says in which part."""

    where: str


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule of HTTP that the other side broke; `offset` is where in the stream."""

    what: str
    section: str
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.what} (RFC {self.section})"


Event = RequestHead | ResponseHead | Chunk | Body | Trailers | End | Raw | Unparsed | Incomplete | Violation


class Framing(NamedTuple):
    """How a body ends: `none`, `length` (with `length`), `chunked`, `close`, `switch` (no HTTP follows) or `broken`."""

    kind: str
    length: int = 0


def _transfer_codings(head: Head, found: list[Violation]) -> Framing:
    """What Transfer-Encoding says (RFC 9112 sections 6.1 and 7)."""
    codings = head.tokens("transfer-encoding")
    if head.get_all("content-length"):
        found.append(Violation("Transfer-Encoding together with Content-Length", "9112 section 6.2"))
    if _version_of(head) == "HTTP/1.0":
        found.append(Violation("Transfer-Encoding in an HTTP/1.0 message", "9112 section 6.1"))
    if not codings:
        found.append(Violation("empty Transfer-Encoding", "9112 section 6.1"))
        return Framing("broken")
    if any(";" in coding for coding in codings):
        found.append(Violation("a parameter on a transfer coding", "9112 section 7.1"))
    plain = [coding.partition(";")[0].strip() for coding in codings]
    if plain.count("chunked") > 1:
        found.append(Violation("chunked applied more than once", "9112 section 6.1"))
    return Framing("chunked" if plain[-1] == "chunked" else "close")


def _version_of(head: Head) -> str:
    return head.version if isinstance(head, RequestHead | ResponseHead) else ""


def _content_length(head: Head, found: list[Violation]) -> Framing:
    """What Content-Length says (RFC 9112 section 6.3, RFC 9110 section 8.6)."""
    lines = head.get_all("content-length")
    values = [member.strip() for line in lines for member in line.split(",")]
    if len(values) > 1:
        found.append(Violation("more than one Content-Length", "9110 section 8.6"))
    if len(set(values)) != 1 or not _DIGITS.match(values[0].encode("latin-1")):
        found.append(Violation(f"invalid Content-Length {', '.join(values)[:80]!r}", "9112 section 6.3"))
        return Framing("broken")
    if len(values[0]) > MAX_LENGTH_DIGITS:
        found.append(Violation("Content-Length out of range", "9110 section 8.6"))
        return Framing("broken")
    return Framing("length", int(values[0]))


def request_framing(head: RequestHead) -> tuple[Framing, list[Violation]]:
    """How the body of a request ends (RFC 9112 section 6.3), and what its framing fields break."""
    found: list[Violation] = []
    coded, sized = head.get_all("transfer-encoding"), head.get_all("content-length")
    if head.method == "CONNECT":
        if coded or sized:
            found.append(Violation("framing fields on CONNECT", "9110 section 9.3.6"))
        return Framing("none"), found
    if coded:
        framing = _transfer_codings(head, found)
        if framing.kind == "close":
            found.append(Violation("the final transfer coding of a request is not chunked", "9112 section 6.3"))
            framing = Framing("broken")
        return framing, found
    if sized:
        return _content_length(head, found), found
    return Framing("none"), found


def response_framing(head: ResponseHead, method: str) -> tuple[Framing, list[Violation]]:
    """How the body of a response to `method` ends (RFC 9112 section 6.3), and what its framing fields break."""
    found: list[Violation] = []
    tunnel = method == "CONNECT" and head.status // 100 == 2
    bodiless = head.status // 100 == 1 or head.status == 204
    if bodiless or tunnel:
        place = "a 2xx to CONNECT" if tunnel else f"a {head.status}"
        found += [
            Violation(f"{name} in {place}", section)
            for name, section in (("Transfer-Encoding", "9112 section 6.1"), ("Content-Length", "9110 section 8.6"))
            if head.get_all(name)
        ]
        return Framing("switch" if tunnel or head.status == 101 else "none"), found
    framing = Framing("close")
    if head.get_all("transfer-encoding"):
        framing = _transfer_codings(head, found)
    elif head.get_all("content-length"):
        framing = _content_length(head, found)
    if head.status == 304 or method == "HEAD":
        return Framing("none"), found
    return framing, found
