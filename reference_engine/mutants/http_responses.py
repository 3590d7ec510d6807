"""Mutants of the framing of responses, which an upstream may get wrong (RFC 9112 section 6.3)."""

from __future__ import annotations

from collections.abc import Callable

from reference_engine.http.errors import Fault
from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    Reset,
    ResponseHead,
    values,
    without,
)
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.syntax import NO_CONTENT, Framing
from reference_engine.mutants._loose_h1 import (
    LooseClientCodec,
    consents,
    use,
)
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

Coded = Callable[..., Fault | None]
CL, TE = b"content-length", b"transfer-encoding"


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


@mutant("framing-response-both-passed-on", ("RFC9112-6.2-1",), "passes both framing fields of a response on")
def _(parts: Parts, reached: Reached) -> None:
    lengths: list[bytes] = []

    def codings(original: Coded, found: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        return original(found, version=version, has_length=False)

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

    swap(parts.http, "transfer_encoding", codings)
    use(parts, Server, Client)


@mutant(
    "framing-parameter-until-close",
    ("RFC9112-7.1-2",),
    "takes chunked with a parameter for a coding that it does not know",
)
def _(parts: Parts, reached: Reached) -> None:
    def closes(original: Callable[..., bool], found: list[bytes], *, version: bytes, has_length: bool) -> bool:
        if found == [b"chunked;a=b"]:
            reached()
            return True
        return original(found, version=version, has_length=has_length)

    swap(parts.http, "until_close", closes)


@mutant(
    "framing-end-is-no-delimiter",
    ("HTTP-STREAM-009",),
    "takes the end of a response that the close delimits for a fault",
)
def _(parts: Parts, reached: Reached) -> None:
    class Client(H1ClientCodec):
        _closes = False

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead):
                framing = self._rules.response_framing(self._method, event.status, event.fields)
                self._closes = framing.kind == "close"
            if isinstance(event, End) and self._closes:
                reached()
                return Reset("upstream-truncated")
            return event

    use(parts, client=Client)


@mutant(
    "framing-close-for-close", ("RFC9112-6.3-11",), "ends a response that the close delimits with a close of its own"
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(H1ServerCodec):
        _bare = False

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead):
                self._bare = self._chunked
                octets = octets.replace(b"Transfer-Encoding: chunked", b"Connection: close")
            elif self._bare:
                reached()
                octets = event.data if isinstance(event, Data) else b""
            return octets

        @property
        def reusable(self) -> bool:
            return super().reusable and not self._bare

    use(parts, Server)
