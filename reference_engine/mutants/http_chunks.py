"""Mutants of the chunked transfer coding: sizes, ends, extensions, trailers (RFC 9112 section 7.1)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from reference_engine.http.errors import Fault
from reference_engine.http.events import (
    End,
    Event,
    RequestHead,
)
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Limits
from reference_engine.mutants._loose_h1 import (
    VerbatimClientCodec,
    VerbatimGate,
    VerbatimServerCodec,
    use,
)
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

Lines = Callable[[bytes], int | Fault]
SMUGGLING = "HTTP-HDR-016"


def verbatim(parts: Parts, gate: type[VerbatimGate] = VerbatimGate) -> None:
    """Pass chunks on as they came, as far as the rules let them through."""

    class Server(VerbatimServerCodec):
        pass

    Server.gate = gate
    use(parts, Server, VerbatimClientCodec)


@mutant(
    "framing-chunk-size-as-python-reads-it",
    ("RFC9112-7.1-3", SMUGGLING),
    "reads a chunk size with int(), and passes it on as it came",
)
def _(parts: Parts, reached: Reached) -> None:
    def size(original: Lines, line: bytes) -> int | Fault:
        found = original(line)
        try:
            if isinstance(found, Fault) and (number := int(line, 16)) >= 0:
                reached()
                return number
        except ValueError:
            pass
        return found

    swap(parts.http, "chunk_line", size)
    verbatim(parts)


@mutant(
    "framing-chunk-size-as-c-reads-it",
    ("RFC9112-7.1-3", "RFC9112-7.1-1", SMUGGLING),
    "reads the digits of a chunk size as far as they go, none of them as 0, counts in 32 bits, takes a size that is"
    " negative then for the end, and drops trailers",
)
def _(parts: Parts, reached: Reached) -> None:
    def size(original: Lines, line: bytes) -> int | Fault:
        found = original(line)
        if isinstance(found, int) and found < 1 << 32:
            return found
        digits = re.match(rb"[0-9A-Fa-f]*", line)
        assert digits is not None, "the pattern takes nothing, too"
        reached()
        number = int(digits[0] or b"0", 16) % (1 << 32)
        return number if number < 1 << 31 else 0

    swap(parts.http, "chunk_line", size)
    swap(parts.http, "field_names", lambda original, head: None)
    swap(parts.http, "trailer_section", lambda original, section: b"\r\n")


@mutant(
    "framing-chunk-end-not-checked",
    ("RFC9112-7.1-4", SMUGGLING),
    "skips whatever stands between chunk data and the end of its line, and passes it on",
)
def _(parts: Parts, reached: Reached) -> None:
    class LaxGate(VerbatimGate):
        def _end(self, rest: bytes, at: int, data: list[bytes]) -> int:
            end = rest.find(b"\n", at)
            if rest[at : at + 2] != b"\r\n" and end >= 0:
                reached()
                self._chunk = "line"
                return end + 1 - at
            return super()._end(rest, at, data)

    verbatim(parts, LaxGate)


@mutant(
    "framing-chunk-end-optional",
    ("RFC9112-7.1-4", SMUGGLING),
    "takes the CRLF behind chunk data where there is one, and passes the chunks on as they came",
)
def _(parts: Parts, reached: Reached) -> None:
    class LaxGate(VerbatimGate):
        def _end(self, rest: bytes, at: int, data: list[bytes]) -> int:
            if len(rest) > at + 1 and rest[at : at + 2] != b"\r\n":
                reached()
                self._chunk = "line"
                return self._line(rest, at, data)
            return super()._end(rest, at, data)

    verbatim(parts, LaxGate)


@mutant("framing-decimal-chunk-size", ("RFC9112-6.1-1",), "reads chunk sizes as decimal numbers where it can")
def _(parts: Parts, reached: Reached) -> None:
    def size(original: Lines, line: bytes) -> int | Fault:
        found = original(line)
        if line.isdigit() and int(line) != found:
            reached()
            return int(line)
        return found

    swap(parts.http, "chunk_line", size)


@mutant("framing-extension-refused", ("RFC9112-7.1.1-1",), "refuses chunk extensions that it does not know")
def _(parts: Parts, reached: Reached) -> None:
    def size(original: Lines, line: bytes) -> int | Fault:
        if b";" in line:
            reached()
            return Fault(400, "an unknown chunk extension")
        return original(line)

    swap(parts.http, "chunk_line", size)


@mutant(
    "framing-extension-passed-on",
    ("RFC9112-7.1.1-3", SMUGGLING),
    "takes any octet in a chunk extension, and passes it on",
)
def _(parts: Parts, reached: Reached) -> None:
    def ends(original: Callable[[bytes], Fault | None], octets: bytes) -> Fault | None:
        fault = original(octets)
        if fault is not None and re.match(rb"[0-9a-f]+;", octets):
            reached()
            return None
        return fault

    def size(original: Lines, line: bytes) -> int | Fault:
        return original(line.partition(b";")[0])

    swap(parts.http, "line_ends", ends)
    swap(parts.http, "chunk_line", size)
    verbatim(parts)


@mutant(
    "framing-extensions-are-our-fault", ("RFC9112-7.1.1-2",), "answers too many chunk extensions as its own failure"
)
def _(parts: Parts, reached: Reached) -> None:
    def total(original: Callable[[int, Limits], Fault | None], octets: int, limits: Limits) -> Fault | None:
        if original(octets, limits) is None:
            return None
        reached()
        return Fault(500, "no room for chunk extensions")

    swap(parts.http, "chunk_extensions", total)


@mutant(
    "framing-trailers-in-the-head",
    ("RFC9112-7.1.2-2", "RFC9112-7.1.2-3", "RFC9110-6.5.1-1"),
    "puts the trailer fields of a request that is here as a whole among its header fields",
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(H1ServerCodec):
        def __init__(self, rules: HttpRules, limits: Limits) -> None:
            super().__init__(rules, limits)
            self._read: deque[Event] = deque()

        def next_event(self) -> Event | None:
            if self._read:
                return self._read.popleft()
            event = super().next_event()
            if not isinstance(event, RequestHead) or self.framing.kind != "chunked":
                return event
            while (more := super().next_event()) is not None:
                self._read.append(more)
            if self._read and isinstance(last := self._read[-1], End) and last.trailers:
                reached()
                event.fields += last.trailers
                self._read[-1] = End()
            return event

    use(parts, Server)
