"""The gate in front of h11: raw octets of one direction in, vetted octets out, one message after the other.

It knows where a head ends and how a message is delimited, and nothing more; every judgement is a rule. Octets behind
the message stay here until the next one is due, so what is pipelined, unsolicited or behind a 101 is never lost or
misread. Splitting the input elsewhere changes nothing but the sizes of the pieces.
"""

from __future__ import annotations

from reference_engine.http.errors import Fault, ProtocolFault
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import FRAMING, NO_CONTENT, Framing, Limits

TOKEN_OCTETS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
LONGEST_CHUNK_LINE = 64
"""Octets of a chunk line beside its extensions."""


def check(fault: Fault | None) -> None:
    """Raise what a rule found."""
    if fault is not None:
        raise ProtocolFault(fault)


class Gate:
    """Octets of one peer, vetted message by message."""

    def __init__(self, rules: HttpRules, limits: Limits, *, requests: bool) -> None:
        self._rules = rules
        self._limits = limits
        self._requests = requests
        self._rest = b""
        self._framing: Framing = NO_CONTENT
        self._left = 0
        self._chunk = "line"
        self._section = b""
        self._extensions = 0
        self._skipped = 0

    def feed(self, data: bytes) -> None:
        """Take octets from the peer."""
        self._rest = self._rest + data if self._rest else data

    @property
    def pending(self) -> int:
        """Octets that no message has used yet."""
        return len(self._rest)

    def starts_with(self, octets: bytes) -> bool:
        """Whether the next message starts so."""
        return self._rest.startswith(octets)

    def drain(self) -> bytes:
        """All octets that are left, raw: what follows a 101 or a 2xx to CONNECT."""
        rest, self._rest = self._rest, b""
        return rest

    # -- heads -------------------------------------------------------------------------------------------------

    def head(self) -> bytes | None:
        """The next whole head, vetted, or None while it is incomplete. Raises ProtocolFault."""
        if self._requests:
            self._skip_empty_lines()
        rest = self._rest
        if not rest or rest == b"\r":
            return None
        end = rest.find(b"\r\n\r\n") + 4
        head = rest[:end] if end > 3 else rest
        line_end = head.find(b"\r\n", 0, self._limits.header_bytes)
        if line_end >= 0:
            self._start_line(head[:line_end])
        elif rest[0] not in TOKEN_OCTETS:
            raise ProtocolFault(Fault(400, "this is not HTTP/1.1"))
        whole = end > 3
        vetted = head[: self._limits.header_bytes]
        # A CR at the very end may still get its LF.
        check(self._rules.line_ends(vetted[:-1] if vetted.endswith(b"\r") else vetted))
        if not whole:
            if len(rest) > self._limits.header_bytes:
                check(self._rules.section_size(rest, self._limits))
            return None
        check(self._rules.section_size(head, self._limits))
        self._rest = rest[end:]
        self._skipped = 0
        return self._whole_head(self._rules.own_version(head, head[:line_end], request=self._requests))

    def _skip_empty_lines(self) -> None:
        while self._rest.startswith(b"\r\n"):
            self._skipped += 1
            check(self._rules.empty_line(self._skipped))
            self._rest = self._rest[2:]

    def _start_line(self, line: bytes) -> None:
        check(self._rules.line_ends(line))
        check(self._rules.request_line(line) if self._requests else self._rules.status_line(line))

    def _whole_head(self, head: bytes) -> bytes:
        rules = self._rules
        check(rules.folding(head))
        check(rules.field_names(head))
        check(rules.control_octets(head))
        return head

    def framing_fields(self, head: bytes) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """The values of Host, Content-Length and Transfer-Encoding in a vetted head."""
        hosts: list[bytes] = []
        lengths: list[bytes] = []
        codings: list[bytes] = []
        for written, value in FRAMING.findall(head):
            name = written.lower()
            kept = hosts if name == b"host" else lengths if name == b"content-length" else codings
            kept.append(value.rstrip(b" \t"))
        return hosts, lengths, codings

    # -- content -----------------------------------------------------------------------------------------------

    def begin(self, framing: Framing) -> None:
        """A head was read; its content is delimited so."""
        self._framing = framing
        self._left = framing.length
        self._chunk = "line"
        self._extensions = 0

    def content(self) -> bytes:
        """Vetted octets of the content, framing included, as far as they are there. Raises ProtocolFault."""
        kind = self._framing.kind
        if not self._rest or kind == "none":
            return b""
        if kind == "chunked":
            return self._chunks()
        if kind == "close" or len(self._rest) <= self._left:
            self._left -= len(self._rest) if kind == "length" else 0
            return self.drain()
        taken, self._rest = self._rest[: self._left], self._rest[self._left :]
        self._left = 0
        return taken

    def _chunks(self) -> bytes:
        """All chunk data that is here as one chunk, without extensions; behind the last chunk the trailer section."""
        rest = self._rest
        at = 0
        data: list[bytes] = []
        try:
            while self._chunk != "done":
                taken = getattr(self, "_" + self._chunk)(rest, at, data)
                if taken == 0:
                    break
                at += taken
        except ProtocolFault:
            # What is in order goes on first, as it would have if it had come alone; the fault is found again.
            if not data:
                raise
        self._rest = rest[at:]
        size = sum(map(len, data))
        out = [b"%x\r\n" % size, *data, b"\r\n"] if size else []
        if self._chunk == "done":
            out += [b"0\r\n", self._section]
            self._framing = NO_CONTENT
        return b"".join(out)

    def _line(self, rest: bytes, at: int, data: list[bytes]) -> int:
        end = rest.find(b"\r\n", at)
        if end < 0:
            tail = rest[at:-1] if rest.endswith(b"\r") else rest[at:]
            check(self._rules.line_ends(tail))
            check(self._rules.chunk_extensions(self._extensions + len(tail) - LONGEST_CHUNK_LINE, self._limits))
            return 0
        line = rest[at:end]
        check(self._rules.line_ends(line))
        size = self._rules.chunk_line(line)
        if isinstance(size, Fault):
            raise ProtocolFault(size)
        semicolon = line.find(b";")
        if semicolon >= 0:
            self._extensions += len(line) - semicolon
            check(self._rules.chunk_extensions(self._extensions, self._limits))
        self._left = size
        self._chunk = "data" if size else "trailers"
        return end + 2 - at

    def _data(self, rest: bytes, at: int, data: list[bytes]) -> int:
        piece = rest[at : at + self._left]
        self._left -= len(piece)
        if piece:
            data.append(piece)
        if not self._left:
            self._chunk = "end"
        return len(piece)

    def _end(self, rest: bytes, at: int, data: list[bytes]) -> int:
        found = rest[at : at + 2]
        if len(found) < 2:
            check(self._rules.chunk_end(b"\r\n" if found in (b"", b"\r") else found))
            return 0
        check(self._rules.chunk_end(found))
        self._chunk = "line"
        return 2

    def _trailers(self, rest: bytes, at: int, data: list[bytes]) -> int:
        empty = rest.startswith(b"\r\n", at)
        found = rest.find(b"\r\n\r\n", at)
        if not empty and found < 0:
            tail = rest[at:-1] if rest.endswith(b"\r") else rest[at:]
            check(self._rules.line_ends(tail[: self._limits.trailer_bytes]))
            check(self._rules.trailer_size(tail, self._limits))
            return 0
        end = at + 2 if empty else found + 4
        section = rest[at:end]
        check(self._rules.line_ends(section[: self._limits.trailer_bytes]))
        check(self._rules.trailer_size(section, self._limits))
        if len(section) > 2:
            section = self._rules.trailer_section(self._whole_head(b"\r\n" + section)[2:])
        self._section = section
        self._chunk = "done"
        return end - at
