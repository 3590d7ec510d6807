"""A strict reader of HTTP/1.1 that keeps every octet (RFC 9112).

It reads for a judge, not for an application: what breaks a rule is reported as a `Violation` with the section beside
it, and reading goes on wherever one reading is left. Where none is left, the rest comes out as `Unparsed`. Nothing a
peer sends raises an exception. The writers are in `harness.wire.http1_write`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from harness.wire.http1_message import (
    MAX_SIZE_DIGITS,
    Body,
    Chunk,
    End,
    Event,
    FieldLine,
    Framing,
    Head,
    Incomplete,
    Raw,
    RequestHead,
    ResponseHead,
    Trailers,
    Unparsed,
    Violation,
    request_framing,
    response_framing,
)

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]\Z")
_STATUS_LINE = re.compile(rb"(HTTP/[0-9]\.[0-9]) ([0-9]{3})(?: (.*))?\Z", re.DOTALL)
_TARGET = re.compile(rb"[\x21-\x7e]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_HEX = re.compile(rb"[0-9A-Fa-f]+\Z")
_EXTENSION = re.compile(
    rb"(?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:=(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]"
    rb"|\\[\t \x21-\x7e\x80-\xff])*\"))?)*\Z"
)
OWS = b" \t"
_FOLD_WEIGHT = 100
"""A folded line counts as this many lines: each one copies the value so far."""

Role = Literal["request", "response"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the reader will hold, in octets (`fields`: lines); beyond it reading stops with a violation."""

    head: int = 4 << 20
    fields: int = 20_000
    chunk_line: int = 1 << 20
    held: int = 1 << 20


class _State(StrEnum):
    START = "start line"
    FIELDS = "header section"
    LENGTH = "content"
    CLOSE = "content until close"
    SIZE = "chunk size"
    DATA = "chunk data"
    DATA_END = "end of chunk data"
    TRAILERS = "trailer section"
    HELD = "held"
    RAW = "raw"
    BROKEN = "broken"


@dataclass(slots=True)
class _Section:
    """A header or trailer section while it is read."""

    offset: int = 0
    start_line: bytes = b""
    lines: list[FieldLine] = field(default_factory=list)
    folds: int = 0
    raw: bytearray = field(default_factory=bytearray)


class MessageReader:
    """Reads the messages of one direction of a connection.

    `role` is what it reads. A reader of responses must be told each request's method by `expect`, in order. A reader
    of requests stops behind a CONNECT or an Upgrade until `switch` (the rest is no HTTP) or `resume` (it is).
    """

    def __init__(self, role: Role, *, limits: Limits | None = None) -> None:
        self.role: Role = role
        self.limits = limits or Limits()
        self.received = 0
        self._buffer = bytearray()
        self._scanned = 0
        self._state = _State.START
        self._events: list[Event] = []
        self._methods: deque[str] = deque()
        self._section = _Section()
        self._left = 0
        self._closing = False
        self._hold = False
        self._steps = {
            _State.START: self._read_start,
            _State.FIELDS: self._read_field,
            _State.LENGTH: self._read_length,
            _State.CLOSE: self._read_close,
            _State.SIZE: self._read_size,
            _State.DATA: self._read_data,
            _State.DATA_END: self._read_data_end,
            _State.TRAILERS: self._read_field,
            _State.HELD: self._read_held,
            _State.RAW: self._read_raw,
            _State.BROKEN: self._read_broken,
        }

    @property
    def held(self) -> bytes:
        """What came behind a CONNECT or Upgrade request that was not answered yet."""
        return bytes(self._buffer) if self._state is _State.HELD else b""

    @property
    def outstanding(self) -> int:
        """How many requests are without a final response (reader of responses)."""
        return len(self._methods)

    @property
    def idle(self) -> bool:
        """Whether no octet of a next message has come."""
        return self._state is _State.START and not self._buffer

    def expect(self, method: str) -> None:
        """A request with `method` went out; the next final response is its."""
        self._methods.append(method)

    def feed(self, data: bytes) -> list[Event]:
        """Read `data`; the events it completes."""
        self.received += len(data)
        self._buffer += data
        return self._run()

    def feed_end(self, *, clean: bool = True) -> list[Event]:
        """The other side ended the stream; `clean` is false for a reset or a truncation."""
        if self._state is _State.CLOSE:
            self._events.append(End() if clean else Incomplete("content until close, and the close was not clean"))
            self._state = _State.START
        elif self._state not in (_State.RAW, _State.BROKEN, _State.HELD) and not self.idle:
            detail = f", {self._left} octets missing" if self._state in (_State.LENGTH, _State.DATA) else ""
            self._events.append(Incomplete(f"{self._state}{detail}"))
            self._state = _State.BROKEN
        return self._drain()

    def switch(self) -> list[Event]:
        """From here on the stream is no HTTP/1.1; what was held comes out as `Raw`."""
        self._state = _State.RAW
        return self._run()

    def resume(self) -> list[Event]:
        """The upgrade was not taken: what was held is HTTP/1.1."""
        if self._state is _State.HELD:
            self._state = _State.START
        return self._run()

    def _run(self) -> list[Event]:
        while self._steps[self._state]():
            pass
        return self._drain()

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    @property
    def _offset(self) -> int:
        """Where in the stream the buffer begins."""
        return self.received - len(self._buffer)

    def _violate(self, what: str, section: str) -> None:
        self._events.append(Violation(what, section, self._offset))

    def _break(self, what: str, section: str) -> bool:
        self._violate(what, section)
        self._state = _State.BROKEN
        return True

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scanned = 0
        return taken

    def _line(self, limit: int, what: str) -> tuple[bytes, bytes] | None:
        """The next line without its end, and with it. Reports line ends other than CRLF (RFC 9112 section 2.2)."""
        index = self._buffer.find(b"\n", self._scanned)
        if index < 0:
            self._scanned = len(self._buffer)
            if len(self._buffer) > limit:
                self._break(f"{what} of more than {limit} octets", "9112 section 2.3")
            return None
        if index > limit:
            self._break(f"{what} of more than {limit} octets", "9112 section 2.3")
            return None
        offset = self._offset
        whole = self._take(index + 1)
        line = whole[:-2] if whole.endswith(b"\r\n") else whole[:-1]
        if not whole.endswith(b"\r\n"):
            self._events.append(Violation(f"{what} ended by a bare LF", "9112 section 2.2", offset))
        if b"\r" in line:
            self._events.append(Violation(f"bare CR in a {what}", "9112 section 2.2", offset))
        return line, whole

    # Start line and header section

    def _read_start(self) -> bool:
        offset = self._offset
        taken = self._line(self.limits.head, "start line")
        if taken is None:
            return self._state is _State.BROKEN
        line, whole = taken
        if not line:
            self._violate("empty line before a start line", "9112 section 2.2")
            return True
        if self._closing:
            self._violate("a message after one that said close", "9112 section 9.6")
        self._section = _Section(offset, line, raw=bytearray(whole))
        self._state = _State.FIELDS
        return True

    def _read_field(self) -> bool:
        """One line of a header or trailer section."""
        trailers = self._state is _State.TRAILERS
        what = "trailer line" if trailers else "field line"
        offset = self._offset
        taken = self._line(self.limits.head, what)
        if taken is None:
            return self._state is _State.BROKEN
        line, whole = taken
        section = self._section
        section.raw += whole
        if len(section.raw) > self.limits.head or len(section.lines) + section.folds >= self.limits.fields:
            return self._break("header section beyond the reader's limit", "9110 section 5.4")
        if line:
            self._add_field(line, offset)
        elif trailers:
            if section.lines:
                self._events.append(Trailers(tuple(section.lines)))
            self._finish()
        else:
            self._finish_head()
        return True

    def _add_field(self, line: bytes, offset: int) -> None:
        lines = self._section.lines
        if line[:1] in (b" ", b"\t"):
            if not lines:
                self._violate("whitespace between the start line and the first field line", "9112 section 2.2")
                lines.append(FieldLine("", line.decode("latin-1").strip(" \t"), line, offset))
                return
            self._violate("obsolete line folding", "9112 section 5.2")
            self._section.folds += _FOLD_WEIGHT
            last = lines[-1]
            unfolded = f"{last.value} {line.strip(OWS).decode('latin-1')}"
            lines[-1] = FieldLine(last.name, unfolded, last.raw + b"\r\n" + line, last.offset)
            return
        name, colon, value = line.partition(b":")
        stripped = value.strip(OWS)
        if not colon:
            self._violate("field line without a colon", "9112 section 5")
        elif name.endswith((b" ", b"\t")):
            self._violate("whitespace between field name and colon", "9112 section 5.1")
        elif not TOKEN.match(name):
            self._violate("field name is no token", "9110 section 5.1")
        if not _VALUE.match(stripped):
            self._violate("control character in a field value", "9110 section 5.5")
        lines.append(FieldLine(name.decode("latin-1").strip(" \t"), stripped.decode("latin-1"), line, offset))

    def _finish_head(self) -> None:
        section = self._section
        if self.role == "request":
            self._finish_request(section)
        else:
            self._finish_response(section)

    def _finish_request(self, section: _Section) -> None:
        parts = section.start_line.split(b" ")
        sound = len(parts) == 3
        method, target, version = (part.decode("latin-1") for part in parts) if sound else ("", "", "")
        head = RequestHead(
            section.start_line, tuple(section.lines), bytes(section.raw), section.offset, method, target, version
        )
        problem = self._request_line_problem(parts)
        if problem:
            self._violate(problem, "9112 section 3")
        self._host_problems(head)
        framing, found = request_framing(head)
        options = head.tokens("connection")
        self._closing = "close" in options or (version == "HTTP/1.0" and "keep-alive" not in options)
        self._hold = method == "CONNECT" or bool(head.get_all("upgrade"))
        self._begin_body(head, framing if sound else Framing("broken"), found)

    @staticmethod
    def _request_line_problem(parts: list[bytes]) -> str:
        if len(parts) != 3:
            return "request line is not three parts with one SP between"
        if not TOKEN.match(parts[0]):
            return "method is no token"
        if not _TARGET.match(parts[1]):
            return "request-target holds whitespace, a control character or an octet beyond ASCII"
        return "" if _VERSION.match(parts[2]) else "malformed HTTP-version"

    def _host_problems(self, head: RequestHead) -> None:
        hosts = head.get_all("host")
        if len(hosts) > 1:
            self._violate("more than one Host line", "9112 section 3.2")
        if not hosts and head.version == "HTTP/1.1":
            self._violate("no Host in an HTTP/1.1 request", "9112 section 3.2")

    def _finish_response(self, section: _Section) -> None:
        match = _STATUS_LINE.match(section.start_line)
        parts = match.groups(b"") if match else (b"", b"", b"")
        version, code, reason = (part.decode("latin-1") for part in parts)
        status = int(code or 0)
        head = ResponseHead(
            section.start_line, tuple(section.lines), bytes(section.raw), section.offset, status, reason, version
        )
        if not match:
            self._violate("malformed status line", "9112 section 4")
        elif match[3] is None:
            self._violate("no SP behind the status code", "9112 section 4")
        if match and not 100 <= status <= 599:
            self._violate(f"status code {code}", "9110 section 15")
        method = self._methods[0] if self._methods else ""
        final = status // 100 != 1 or status == 101
        if not self._methods:
            self._violate("a response without an outstanding request", "9112 section 9.2")
        elif final and match:
            self._methods.popleft()
        framing, found = response_framing(head, method)
        if final:
            self._closing = "close" in head.tokens("connection")
        self._begin_body(head, framing if match else Framing("broken"), found)

    def _begin_body(self, head: RequestHead | ResponseHead, framing: Framing, found: list[Violation]) -> None:
        self._events += [Violation(item.what, item.section, self._section.offset) for item in found]
        self._events.append(head)
        self._left = framing.length
        match framing.kind:
            case "none":
                self._finish()
            case "length":
                self._state = _State.LENGTH
                if not framing.length:
                    self._finish()
            case "chunked":
                self._state = _State.SIZE
            case "close":
                self._state = _State.CLOSE
            case "switch":
                self._events.append(End())
                self._state = _State.RAW
            case _:
                self._state = _State.BROKEN

    def _finish(self) -> None:
        self._events.append(End())
        self._state = _State.HELD if self._hold else _State.START
        self._hold = False

    # Content

    def _read_length(self) -> bool:
        if not self._buffer:
            return False
        data = self._take(self._left)
        self._left -= len(data)
        self._events.append(Body(data))
        if not self._left:
            self._finish()
        return True

    def _read_close(self) -> bool:
        if self._buffer:
            self._events.append(Body(self._take(len(self._buffer))))
        return False

    def _read_size(self) -> bool:
        taken = self._line(self.limits.chunk_line, "chunk size line")
        if taken is None:
            return self._state is _State.BROKEN
        line, _ = taken
        size, semicolon, rest = line.partition(b";")
        extension = semicolon + rest
        if size != size.rstrip(OWS):
            self._violate("whitespace behind a chunk size", "9112 section 7.1.1")
        size = size.rstrip(OWS)
        if not _HEX.match(size):
            return self._break(f"malformed chunk size {size[:40]!r}", "9112 section 7.1")
        if len(size.lstrip(b"0")) > MAX_SIZE_DIGITS:
            return self._break("chunk size out of range", "9112 section 7.1")
        if not _EXTENSION.match(extension):
            self._violate("malformed chunk extension", "9112 section 7.1.1")
        self._left = int(size, 16)
        self._events.append(Chunk(self._left, extension, line))
        if self._left:
            self._state = _State.DATA
        else:
            self._section = _Section(self._offset)
            self._state = _State.TRAILERS
        return True

    def _read_data(self) -> bool:
        if not self._buffer:
            return False
        data = self._take(self._left)
        self._left -= len(data)
        self._events.append(Body(data))
        if not self._left:
            self._state = _State.DATA_END
        return True

    def _read_data_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            return self._break("chunk data is not followed by CRLF", "9112 section 7.1")
        self._take(2)
        self._state = _State.SIZE
        return True

    # What is no message

    def _read_held(self) -> bool:
        if len(self._buffer) > self.limits.held:
            return self._break("more than the reader holds behind an unanswered upgrade", "9110 section 7.8")
        return False

    def _read_raw(self) -> bool:
        if self._buffer:
            self._events.append(Raw(self._take(len(self._buffer))))
        return False

    def _read_broken(self) -> bool:
        if self._buffer:
            self._events.append(Unparsed(self._take(len(self._buffer))))
        return False


__all__ = [
    "Body",
    "Chunk",
    "End",
    "Event",
    "FieldLine",
    "Framing",
    "Head",
    "Incomplete",
    "Limits",
    "MessageReader",
    "Raw",
    "RequestHead",
    "ResponseHead",
    "Role",
    "Trailers",
    "Unparsed",
    "Violation",
    "request_framing",
    "response_framing",
]
