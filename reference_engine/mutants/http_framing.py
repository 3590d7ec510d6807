"""Mutants of message framing: lengths, transfer codings, chunks, trailers (RFC 9112 sections 6 to 8)."""

from __future__ import annotations

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
from reference_engine.http.syntax import NO_CONTENT, Framing
from reference_engine.mutants._loose_h1 import (
    LooseClientCodec,
    LooseServerCodec,
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


def beside_length(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
    """Transfer-Encoding with Content-Length beside it, as if it stood alone."""
    return original(found, version=version, has_length=False)


def chunked_alone(original: Requests, head: RequestHead, origin: Origin) -> Fields:
    """What goes on with a request, without its Content-Length where its content goes in chunks."""
    sent = original(head, origin)
    return without(sent, {CL}) if origin.framing.kind == "chunked" else sent


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

    swap(parts.http, "transfer_encoding", beside_length)
    swap(parts.http, "request_framing", frames)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "framing-both-passed-on",
    ("RFC9112-6.2-1", SMUGGLING),
    "frames a message with both fields by chunks, passes both fields on, and closes",
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            if values(head.fields, CL) and values(head.fields, TE):
                reached()
                head.fields.append((b"Connection", b"close"))
            return head

    swap(parts.http, "transfer_encoding", beside_length)
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

    swap(parts.http, "transfer_encoding", codings)
    swap(parts.http, "request_fields", chunked_alone)


@mutant(
    "framing-both-not-closed",
    ("RFC9112-6.1-8",),
    "frames a message with both fields by chunks, ignores what is behind it, and does not close",
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            if values(head.fields, CL) and values(head.fields, TE):
                reached()
                head.fields = without(head.fields, {CL})
                self._ignores = True
            return head

        def next_cycle(self) -> None:
            super().next_cycle()
            if getattr(self, "_ignores", False):
                self._gate.drain()

    swap(parts.http, "transfer_encoding", beside_length)
    use(parts, Server)


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

    class Server(LooseServerCodec):
        def _parsed(self, raw: bytes, version: bytes) -> RequestHead:
            return super()._parsed(raw, b"1.1")

    swap(parts.http, "transfer_encoding", codings)
    swap(parts.http, "request_fields", chunked_alone)
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


# Responses: RFC 9112 section 6.3


@mutant("framing-response-both-passed-on", ("RFC9112-6.2-1",), "passes both framing fields of a response on")
def _(parts: Parts, reached: Reached) -> None:
    lengths: list[bytes] = []

    class Client(H1ClientCodec):
        def _parsed(self, raw: bytes) -> InformationalHead | ResponseHead:
            head = super()._parsed(raw)
            lengths[:] = values(head.fields, CL) if values(head.fields, TE) else []
            if lengths:
                head.fields = without(head.fields, {CL})
            return head

    class Server(H1ServerCodec):
        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead) and lengths:
                reached()
                octets = octets[:-2] + b"Content-Length: %s\r\n\r\n" % lengths.pop()
            return octets

    swap(parts.http, "transfer_encoding", beside_length)
    use(parts, Server, Client)
