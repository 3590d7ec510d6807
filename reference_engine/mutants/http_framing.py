"""Mutants of message framing: lengths, transfer codings, chunks, trailers (RFC 9112 sections 6 to 8)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from reference_engine.http.errors import Fault
from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    RequestHead,
    Reset,
    ResponseHead,
    values,
    without,
)
from reference_engine.http.forward import Origin, Target
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import NO_CONTENT, Framing, Limits
from reference_engine.mutants._loose_h1 import (
    LooseClientCodec,
    LooseServerCodec,
    VerbatimClientCodec,
    VerbatimGate,
    VerbatimServerCodec,
    consents,
    use,
)
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

Frames = Callable[[Fields], Framing]
Requests = Callable[[RequestHead, Origin], Fields]
Lines = Callable[[bytes], int | Fault]
Coded = Callable[..., Fault | None]
CL, TE = b"content-length", b"transfer-encoding"
SMUGGLING = "HTTP-HDR-016"


def lengths_win(original: Frames, fields: Fields) -> Framing:
    """Content-Length before Transfer-Encoding."""
    return original(without(fields, {TE}) if values(fields, CL) else fields)


# Both framing fields: RFC 9112 sections 6.1 to 6.3


@mutant(
    "framing-both-by-length",
    ("RFC9112-6.3-3", "RFC9112-6.1-8", SMUGGLING),
    "frames a message with both fields by Content-Length, which alone goes on",
)
def _(parts: Parts, reached: Reached) -> None:
    def frames(original: Frames, fields: Fields) -> Framing:
        if values(fields, CL) and values(fields, TE):
            reached()
        return lengths_win(original, fields)

    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        return original(found, version=version, has_length=False)

    swap(parts.http, "transfer_encoding", codings)
    swap(parts.http, "request_framing", frames)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "framing-both-passed-on",
    ("RFC9112-6.2-1", SMUGGLING),
    "frames a message with both fields by chunks, passes both fields on, and closes",
)
def _(parts: Parts, reached: Reached) -> None:
    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        return original(found, version=version, has_length=False)

    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            if values(head.fields, CL) and values(head.fields, TE):
                reached()
                head.fields.append((b"Connection", b"close"))
            return head

    swap(parts.http, "transfer_encoding", codings)
    use(parts, Server, LooseClientCodec)


@mutant(
    "framing-both-kept-open",
    ("RFC9112-6.1-8", "RFC9112-6.3-3"),
    "frames a message with both fields by chunks, and reads on behind it",
)
def _(parts: Parts, reached: Reached) -> None:
    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        if found and has_length:
            reached()
        return original(found, version=version, has_length=False)

    def fields(original: Requests, head: RequestHead, origin: Origin) -> Fields:
        sent = original(head, origin)
        return without(sent, {CL}) if origin.framing.kind == "chunked" else sent

    swap(parts.http, "transfer_encoding", codings)
    swap(parts.http, "request_fields", fields)


# Transfer-Encoding: RFC 9112 sections 6.1 and 7


@mutant(
    "framing-coding-unknown-is-none",
    ("RFC9112-6.1-6", "RFC9112-6.3-4", "RFC9112-7.1-2", SMUGGLING),
    "takes a request whose transfer coding it does not know for one without content",
)
def _(parts: Parts, reached: Reached) -> None:
    def frames(original: Frames, fields: Fields) -> Framing:
        codings = values(fields, TE)
        if codings and b",".join(codings).lower() != b"chunked":
            reached()
            return original(without(fields, {TE}))
        return original(fields)

    consents(parts, "transfer_encoding")
    swap(parts.http, "request_framing", frames)
    use(parts, LooseServerCodec)


@mutant(
    "framing-chunked-somewhere",
    ("RFC9112-6.1-6", "RFC9112-6.3-4", "RFC9112-6.1-2", SMUGGLING),
    "takes every transfer coding with `chunked` in it for chunked",
)
def _(parts: Parts, reached: Reached) -> None:
    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        fault = original(found, version=version, has_length=has_length)
        if fault is not None and b"chunked" in b",".join(found).lower():
            reached()
            return None
        return fault

    swap(parts.http, "control_octets", lambda original, head: original(head.replace(b"\x0b", b"")))
    swap(parts.http, "transfer_encoding", codings)
    use(parts, LooseServerCodec)


@mutant("framing-coding-has-case", ("RFC9112-7-1",), "knows `chunked` in lower case alone, and ignores other spellings")
def _(parts: Parts, reached: Reached) -> None:
    def frames(original: Frames, fields: Fields) -> Framing:
        if values(fields, TE) in ([b"Chunked"], [b"CHUNKED"]):
            reached()
            return NO_CONTENT
        return original(fields)

    swap(parts.http, "request_framing", frames)
    use(parts, LooseServerCodec)


@mutant(
    "framing-last-coding-taken-off",
    ("RFC9112-6.1-3",),
    "takes chunked off a request and passes the coding beneath on, without another framing",
)
def _(parts: Parts, reached: Reached) -> None:
    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        beneath = [b"chunked" if value == b"gzip, chunked" else value for value in found]
        return original(beneath, version=version, has_length=has_length)

    def fields(original: Requests, head: RequestHead, origin: Origin) -> Fields:
        sent = original(head, origin)
        if values(head.fields, TE) == [b"gzip, chunked"]:
            reached()
            sent = [*without(sent, {TE}), (b"Transfer-Encoding", b"gzip")]
        return sent

    swap(parts.http, "transfer_encoding", codings)
    swap(parts.http, "request_fields", fields)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "framing-1.0-coding-passed-on",
    ("RFC9112-6.1-9", SMUGGLING),
    "takes Transfer-Encoding in HTTP/1.0 as in HTTP/1.1, Content-Length beside it, and reads on behind it",
)
def _(parts: Parts, reached: Reached) -> None:
    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        if found and version == b"1.0":
            reached()
            return original(found, version=b"1.1", has_length=False)
        return original(found, version=version, has_length=has_length)

    def fields(original: Requests, head: RequestHead, origin: Origin) -> Fields:
        sent = original(head, origin)
        return without(sent, {CL}) if origin.framing.kind == "chunked" else sent

    class Server(LooseServerCodec):
        def _parsed(self, raw: bytes, version: bytes) -> RequestHead:
            return super()._parsed(raw, b"1.1")

    swap(parts.http, "transfer_encoding", codings)
    swap(parts.http, "request_fields", fields)
    use(parts, Server)


# Content-Length: RFC 9112 section 6.3, RFC 9110 section 8.6


@mutant(
    "framing-length-as-python-reads-it",
    ("RFC9112-6.3-6", "RFC9112-6.3-7", "RFC9110-8.6-5", SMUGGLING),
    "reads a Content-Length with int(), which takes signs, underscores and surrounding whitespace",
)
def _(parts: Parts, reached: Reached) -> None:
    def number(value: bytes) -> int | None:
        try:
            return int(value)
        except ValueError:
            return None

    def lengths(original: Callable[[list[bytes]], Fault | None], found: list[bytes]) -> Fault | None:
        fault = original(found)
        if fault is not None and len(found) == 1 and (number(found[0]) or -1) >= 0:
            reached()
            return None
        return fault

    swap(parts.http, "content_length", lengths)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "framing-first-length",
    ("RFC9112-6.3-6", "RFC9112-6.3-7", SMUGGLING),
    "takes the first of several lengths and sends it on alone, in both directions",
)
def _(parts: Parts, reached: Reached) -> None:
    def first(fields: Fields) -> Fields:
        lengths = b",".join(values(fields, CL))
        if b"," not in lengths:
            return fields
        reached()
        return [*without(fields, {CL}), (b"Content-Length", lengths.partition(b",")[0])]

    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            head.fields = first(head.fields)
            return head

    class Client(LooseClientCodec):
        def parsed(self, raw: bytes) -> InformationalHead | ResponseHead:
            head = super().parsed(raw)
            head.fields = first(head.fields)
            return head

    def lengths(original: Callable[[list[bytes]], Fault | None], found: list[bytes]) -> Fault | None:
        return original([b",".join(found).partition(b",")[0]] if found else found)

    swap(parts.http, "content_length", lengths)
    use(parts, Server, Client)


@mutant(
    "framing-list-of-lengths-passed-on",
    ("RFC9110-8.6-5", SMUGGLING),
    "passes `5, 5` on as it came",
)
def _(parts: Parts, reached: Reached) -> None:
    def frames(original: Frames, fields: Fields) -> Framing:
        lengths = values(fields, CL)
        if lengths and b"," in lengths[0]:
            reached()
            return Framing("length", int(lengths[0].partition(b",")[0]))
        return original(fields)

    swap(parts.http, "request_framing", frames)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "framing-refused-and-read-on",
    ("RFC9112-6.3-6", SMUGGLING),
    "refuses an invalid Content-Length, and takes what follows for the next request",
)
def _(parts: Parts, reached: Reached) -> None:
    invalid: set[bytes] = set()

    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            if any(not value.isdigit() for value in values(head.fields, CL)):
                invalid.add(head.target)
                head.fields = without(head.fields, {CL})
            return head

    def target(original: Callable[[bytes, bytes], Target | Fault], method: bytes, name: bytes) -> Target | Fault:
        if name in invalid:
            reached()
            return Fault(411, "no length that is understood")
        return original(method, name)

    consents(parts, "content_length")
    swap(parts.http, "target", target)
    use(parts, Server)


@mutant("framing-length-of-32-bits", ("RFC9110-8.6-3",), "counts content in 32 bits")
def _(parts: Parts, reached: Reached) -> None:
    def frames(original: Frames, fields: Fields) -> Framing:
        framing = original(fields)
        if framing.length >= 1 << 32:
            reached()
            return Framing("length", framing.length % (1 << 32))
        return framing

    def sent(original: Requests, head: RequestHead, origin: Origin) -> Fields:
        said = [(b"Content-Length", b"%d" % origin.framing.length)] if origin.framing.kind == "length" else []
        return [*without(original(head, origin), {CL}), *said]

    consents(parts, "content_length")
    swap(parts.http, "request_framing", frames)
    swap(parts.http, "request_fields", sent)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "framing-end-completes",
    ("RFC9112-6.3-8", "RFC9112-7.1-5"),
    "takes the end of a client's direction for the end of its request",
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(H1ServerCodec):
        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, Reset) and self.request is not None:
                reached()
                self.complete = True
                return End()
            return event

    def sent(original: Requests, head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if origin.framing.kind != "length":
            return fields
        return [*without(fields, {CL}), (b"Transfer-Encoding", b"chunked")]

    swap(parts.http, "request_fields", sent)
    use(parts, Server)


@mutant(
    "framing-response-end-completes",
    ("RFC9112-6.3-9", "RFC9112-8-1", "RFC9112-7.1-5", "HTTP-STREAM-006"),
    "takes the end of an upstream's direction for the end of its response",
)
def _(parts: Parts, reached: Reached) -> None:
    class Client(H1ClientCodec):
        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, Reset) and self.answered and self._eof:
                reached()
                return End()
            return event

    def sent(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        return without(original(head, method), {CL}) if method == b"GET" else original(head, method)

    swap(parts.http, "response_fields", sent)
    use(parts, client=Client)


# Which messages have content: RFC 9112 sections 6 and 6.3


@mutant("framing-by-method", ("RFC9112-6-1",), "takes no content from GET, HEAD, DELETE and OPTIONS")
def _(parts: Parts, reached: Reached) -> None:
    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            if head.method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS") and values(head.fields, CL):
                reached()
                head.fields = without(head.fields, {CL})
            return head

    use(parts, Server)


@mutant("framing-what-is-there", ("RFC9112-6.3-10",), "takes what came with a POST without a length for its content")
def _(parts: Parts, reached: Reached) -> None:
    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            if head.method == b"POST" and not values(head.fields, CL) + values(head.fields, TE):
                reached()
                head.fields.append((b"Content-Length", b"%d" % self._gate.pending))
            return head

    use(parts, Server)


@mutant("framing-chunks-not-written", ("RFC9112-6.3-14",), "says chunked and sends the content without chunks")
def _(parts: Parts, reached: Reached) -> None:
    class Client(H1ClientCodec):
        _chunked = False

        def send(self, event: RequestHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, RequestHead):
                self._chunked = bool(values(event.fields, TE))
            elif isinstance(event, Data) and self._chunked:
                reached()
                return event.data
            return octets

    use(parts, client=Client)


@mutant("framing-length-not-said", ("RFC9112-6.3-13",), "sends every content in chunks")
def _(parts: Parts, reached: Reached) -> None:
    def sent(original: Requests, head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if origin.framing.kind != "length":
            return fields
        reached()
        return [*without(fields, {CL}), (b"Transfer-Encoding", b"chunked")]

    swap(parts.http, "request_fields", sent)


# Chunks: RFC 9112 section 7.1


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
    "reads the digits of a chunk size as far as they go, none of them as 0, and counts in 32 bits",
)
def _(parts: Parts, reached: Reached) -> None:
    def size(original: Lines, line: bytes) -> int | Fault:
        found = original(line)
        if isinstance(found, int) and found < 1 << 32:
            return found
        digits = re.match(rb"[0-9A-Fa-f]*", line)
        assert digits is not None, "the pattern takes nothing, too"
        reached()
        return int(digits[0] or b"0", 16) % (1 << 32)

    swap(parts.http, "chunk_line", size)
    swap(parts.http, "field_names", lambda original, head: None)


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


# Responses: RFC 9112 section 6.3


@mutant(
    "framing-response-codings-not-checked",
    ("RFC9112-6.1-2", "RFC9112-6.1-10", "RFC9112-7.1-2"),
    "takes any transfer coding of a response with `chunked` in it for chunked, in HTTP/1.0 too",
)
def _(parts: Parts, reached: Reached) -> None:
    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        fault = original(found, version=version, has_length=has_length)
        if fault is not None and not has_length and b"chunked" in b",".join(found):
            reached()
            return None
        return fault

    class Client(LooseClientCodec):
        def _next_head(self) -> Event | None:
            head = super()._next_head()
            self._last = False
            return head

        def _parsed(self, raw: bytes) -> InformationalHead | ResponseHead:
            return super()._parsed(raw[:5] + b"1.1" + raw[8:])

    swap(parts.http, "transfer_encoding", codings)
    use(parts, client=Client)


@mutant(
    "framing-response-both-by-length",
    ("RFC9112-6.2-1", "RFC9112-6.3-3"),
    "frames a response with both fields by Content-Length",
)
def _(parts: Parts, reached: Reached) -> None:
    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        return original(found, version=version, has_length=False)

    def frames(original: Callable[..., Framing], method: bytes, status: int, fields: Fields) -> Framing:
        if values(fields, CL) and values(fields, TE):
            reached()
            fields = without(fields, {TE})
        return original(method, status, fields)

    swap(parts.http, "transfer_encoding", codings)
    swap(parts.http, "response_framing", frames)
    use(parts, client=LooseClientCodec)


@mutant(
    "framing-unknown-coding-is-chunked", ("RFC9112-6.3-5",), "ends a response of an unknown coding at its empty line"
)
def _(parts: Parts, reached: Reached) -> None:
    def closes(original: Callable[..., bool], found: list[bytes], *, version: bytes, has_length: bool) -> bool:
        if original(found, version=version, has_length=has_length):
            reached()
        return False

    def frames(original: Callable[..., Framing], method: bytes, status: int, fields: Fields) -> Framing:
        return NO_CONTENT if values(fields, TE) == [b"gzip"] else original(method, status, fields)

    consents(parts, "transfer_encoding")
    swap(parts.http, "until_close", closes)
    swap(parts.http, "response_framing", frames)
    use(parts, client=LooseClientCodec)
