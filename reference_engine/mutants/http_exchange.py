"""The exchange: expectations, interim and early responses, whose response it is, and when a connection goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    RequestHead,
    Reset,
    ResponseHead,
    members,
    values,
    without,
)
from reference_engine.http.exchange import Exchange
from reference_engine.http.forward import Origin, Target
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.h1_upstream import H1Upstream
from reference_engine.http.leg import Upstream
from reference_engine.mutants._http import (
    change_interim_fields,
    restart_server,
    use_client_codec,
    use_exchange,
    use_server_codec,
)
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

# Expect and interim responses: RFC 9110 sections 10.1.1 and 15.2


@mutant(
    "http-expect-swallowed",
    ("RFC9110-10.1.1-1", "RFC9110-10.1.1-2", "HTTP-HDR-013"),
    "drops Expect, and sends no 100 of its own",
)
def _expect_swallowed(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if values(fields, b"expect"):
            reached()
        return without(fields, {b"expect"})

    swap(parts.http, "request_fields", broken)


@mutant(
    "http-expect-waits",
    ("RFC9110-10.1.1-1", "RFC9110-10.1.1-2", "HTTP-HDR-013"),
    "forwards a request with Expect once its content comes",
)
def _expect_waits(parts: Parts, reached: Reached) -> None:
    class Waiting(H1ClientCodec):
        """Holds back a head with Expect."""

        held = b""

        def send(self, event: RequestHead | Data | End) -> bytes:
            octets = self.held + super().send(event)
            self.held = b""
            if isinstance(event, RequestHead) and values(event.fields, b"expect"):
                reached()
                self.held, octets = octets, b""
            return octets

    use_client_codec(parts, Waiting)


@mutant("http-100-dropped", ("RFC9110-10.1.1-2", "HTTP-HDR-013", "RFC9110-7.8-8"), "drops the upstream's 100")
def _continue_dropped(parts: Parts, reached: Reached) -> None:
    def broken(
        original: Callable[[InformationalHead, bytes], InformationalHead | None],
        head: InformationalHead,
        version: bytes,
    ) -> InformationalHead | None:
        if head.status == 100:
            reached()
            return None
        return original(head, version)

    swap(parts.http, "informational", broken)


@mutant("http-expect-of-1-0", ("RFC9110-10.1.1-4",), "heeds Expect in HTTP/1.0, with a 100 of its own")
def _expect_of_1_0(parts: Parts, reached: Reached) -> None:
    class Eager(Exchange):
        """Answers every expectation itself."""

        async def _send_head(self, up: Upstream, target: Target) -> None:
            await super()._send_head(up, target)
            if self._head.version == b"1.0" and b"100-continue" in members(self._head.fields, b"expect"):
                reached()
                self._down.put(InformationalHead(100, [], b"Continue"))
                await self._down.flush()

    use_exchange(parts, Eager)


@mutant(
    "http-early-response-held",
    ("HTTP-HDR-013", "RFC9110-7.5-1", "RFC9110-10.1.1-2"),
    "holds back a response until the request is complete",
)
def _early_held(parts: Parts, reached: Reached) -> None:
    class Patient(Exchange):
        """Waits for the request."""

        async def _relay_head(self, up: Upstream, target: Target, event: Event) -> tuple[bool, Reset | None]:
            if isinstance(event, ResponseHead) and self._pump is not None and not self._pump.done():
                reached()
                await asyncio.wait({self._pump})
            return await super()._relay_head(up, target, event)

    use_exchange(parts, Patient)


@mutant("http-early-end-unsaid", ("RFC9110-10.1.1-6",), "ends a connection behind an early response without saying so")
def _early_end_unsaid(parts: Parts, reached: Reached) -> None:
    class Silent(Exchange):
        """Lets the connection end."""

        async def _finish(self, up: Upstream) -> None:
            await self._down.flush()
            if self._pump is not None and not self._pump.done():
                reached()

    use_exchange(parts, Silent)

    def broken(original: Callable[..., bool], **facts: bool) -> bool:
        if original(**facts):
            reached()
        return False

    swap(parts.http, "ends_early", broken)


@mutant("http-1xx-two-at-most", ("RFC9110-15.2-2", "HTTP-HDR-014"), "takes two interim responses at most")
def _two_interim(parts: Parts, reached: Reached) -> None:
    class Impatient(H1ClientCodec):
        """Counts."""

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, InformationalHead) and self._interim > 2:
                reached()
                return Reset("upstream-malformed")
            return event

    use_client_codec(parts, Impatient)


@mutant("http-1xx-without-fields", ("RFC9110-15.2-3",), "relays interim responses without their fields")
def _interim_bare(parts: Parts, reached: Reached) -> None:
    change_interim_fields(parts, reached, lambda fields, _: [] if fields else None)


@mutant("http-1xx-to-1-0", ("RFC9110-15.2-1",), "relays interim responses to HTTP/1.0 clients")
def _interim_to_1_0(parts: Parts, reached: Reached) -> None:
    def broken(
        original: Callable[[InformationalHead, bytes], InformationalHead | None],
        head: InformationalHead,
        version: bytes,
    ) -> InformationalHead | None:
        if version == b"1.0":
            reached()
        return original(head, b"1.1")

    swap(parts.http, "informational", broken)


@mutant("http-chunks-to-1-0", ("RFC9112-6.1-7", "RFC9112-9.3-4"), "sends chunks to HTTP/1.0 clients")
def _chunks_to_1_0(parts: Parts, reached: Reached) -> None:
    class Chunking(H1ServerCodec):
        """A double of h11 that forgets the client's version."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead):
                if self.until_close:
                    reached()
                    octets = octets[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
            elif self.until_close and isinstance(event, Data):
                octets = b"%x\r\n%s\r\n" % (len(event.data), event.data)
            elif self.until_close and isinstance(event, End):
                octets = b"0\r\n\r\n"
            return octets

    use_server_codec(parts, Chunking)


# Early responses: RFC 9110 section 7.5, RFC 9112 sections 9.3 and 9.5


@mutant("http-early-response-stops", ("RFC9110-7.5-1",), "drops the rest of a request behind an early response")
def _early_stops(parts: Parts, reached: Reached) -> None:
    class Stopping(Exchange):
        """Ends the request with its response."""

        async def _finish(self, up: Upstream) -> None:
            await self._down.flush()
            if self._pump is not None and not self._pump.done():
                reached()
                self._down.close_after()

    use_exchange(parts, Stopping)


@mutant(
    "http-early-refusal-lost",
    ("HTTP-STREAM-007", "RFC9112-9.5-2"),
    "answers 502 where an upstream refuses a request before it is complete",
)
def _early_refusal_lost(parts: Parts, reached: Reached) -> None:
    class Deaf(Exchange):
        """Takes an early answer with close for a broken connection."""

        async def _relay_head(self, up: Upstream, target: Target, event: Event) -> tuple[bool, Reset | None]:
            if isinstance(event, ResponseHead) and up.closing and not self._down.complete:
                reached()
                return True, Reset("upstream-reset")
            return await super()._relay_head(up, target, event)

    use_exchange(parts, Deaf)


@mutant("http-leftover-is-a-request", ("RFC9112-9.3-2",), "reads the rest of a body behind its response as a request")
def _leftover_request(parts: Parts, reached: Reached) -> None:
    class Forgetful(H1ServerCodec):
        """A double whose h11 calls every exchange complete with its response."""

        answered = False

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            self.answered = isinstance(event, End)
            return octets

        def next_event(self) -> Event | None:
            if self.answered and self.request is not None and not self.complete and self.pending:
                reached()
                return Reset("incomplete")
            return super().next_event()

        @property
        def reusable(self) -> bool:
            return self.answered

        def next_cycle(self) -> None:
            self.answered = False
            restart_server(self)

    use_server_codec(parts, Forgetful)


# What else h11 writes: versions, methods, statuses


@mutant(
    "http-version-of-the-client",
    ("RFC9112-2.3-1", "HTTP-VER-002"),
    "writes the client's version into the request line",
)
def _clients_version(parts: Parts, reached: Reached) -> None:
    class Copying(Exchange):
        """Speaks the client's version."""

        async def _send_head(self, up: Upstream, target: Target) -> None:
            if self._head.version == b"1.0" and isinstance(up, H1Upstream):
                reached()
                original = up.codec.send

                def send(event: RequestHead | Data | End) -> bytes:
                    return original(event).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)

                up.codec.send = send  # type: ignore[method-assign]
            await super()._send_head(up, target)

    use_exchange(parts, Copying)


@mutant(
    "http-version-of-the-upstream",
    ("RFC9112-2.3-1", "RFC9112-2.3-2"),
    "writes the upstream's version into the status line",
)
def _upstreams_version(parts: Parts, reached: Reached) -> None:
    class Old(H1ServerCodec):
        """Writes HTTP/1.0 where the upstream did."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead) and values(event.fields, b"edgecase-version"):
                reached()
                return octets.replace(b"HTTP/1.1 ", b"HTTP/1.0 ", 1)
            return octets

    class Telling(H1ClientCodec):
        """Tells the version of a response in a field."""

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead) and self._h11.their_http_version == b"1.0":
                event.fields = [*event.fields, (b"Edgecase-Version", b"1.0")]
            return event

    use_server_codec(parts, Old)
    use_client_codec(parts, Telling)


KNOWN = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"CONNECT"})


@mutant("http-unknown-method", ("RFC9110-7.6-3", "HTTP-HDR-001"), "forwards a method that it does not know as POST")
def _unknown_method(parts: Parts, reached: Reached) -> None:
    class Knowing(H1ClientCodec):
        """Writes the methods that it knows."""

        def send(self, event: RequestHead | Data | End) -> bytes:
            if isinstance(event, RequestHead) and event.method not in KNOWN:
                reached()
                event = RequestHead(b"POST", event.target, event.fields, event.version)
            return super().send(event)

    use_client_codec(parts, Knowing)


@mutant("http-unknown-status", ("RFC9110-15-1", "HTTP-HDR-001"), "makes an unknown status the first of its class")
def _unknown_status(parts: Parts, reached: Reached) -> None:
    class Rounding(H1ClientCodec):
        """Reads the first digit."""

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead) and event.status % 100 == 99:
                reached()
                event.status -= 99
            return event

    use_client_codec(parts, Rounding)


# Trailers: RFC 9110 section 6.5.1


@mutant(
    "http-trailers-merged-up", ("HTTP-HDR-011", "RFC9112-7.1.2-2"), "merges the trailers of a request into its head"
)
def _merged_up(parts: Parts, reached: Reached) -> None:
    class Merging(H1ClientCodec):
        """Holds a chunked request until it has its trailers."""

        held: list[RequestHead | Data] | None = None

        def send(self, event: RequestHead | Data | End) -> bytes:
            if isinstance(event, RequestHead) and values(event.fields, b"transfer-encoding"):
                self.held = [event]
                return b""
            if self.held is None:
                return super().send(event)
            if not isinstance(event, End):
                self.held.append(event)
                return b""
            if event.trailers:
                reached()
            held, self.held = self.held, None
            if isinstance(held[0], RequestHead):
                held[0].fields = [*held[0].fields, *event.trailers]
            return b"".join([super(Merging, self).send(item) for item in [*held, End()]])

    use_client_codec(parts, Merging)


@mutant(
    "http-trailers-merged-down",
    ("HTTP-HDR-011", "RFC9110-6.5.1-2"),
    "merges the trailers of a response into its head",
)
def _merged_down(parts: Parts, reached: Reached) -> None:
    class Merging(H1ServerCodec):
        """Holds a response that announces trailers until it has them."""

        held: list[ResponseHead | Data] | None = None

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            if isinstance(event, ResponseHead) and values(event.fields, b"trailer"):
                self.held = [event]
                return b""
            if self.held is None or isinstance(event, InformationalHead):
                return super().send(event)
            if not isinstance(event, End):
                self.held.append(event)
                return b""
            reached()
            held, self.held = self.held, None
            if isinstance(held[0], ResponseHead):
                held[0].fields = [*held[0].fields, *event.trailers]
            return b"".join([super(Merging, self).send(item) for item in [*held, End()]])

    def broken(original: Callable[[Fields, Fields], Fields], trailers: Fields, fields: Fields) -> Fields:
        return trailers if values(fields, b"trailer") else original(trailers, fields)

    use_server_codec(parts, Merging)
    swap(parts.http, "trailers", broken)


@mutant("http-trailer-unannounced", ("RFC9110-6.6.2-1",), "drops Trailer and sends trailers all the same")
def _unannounced(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], Fields], fields: Fields) -> Fields:
        if values(fields, b"trailer"):
            reached()
        return without(original(fields), {b"trailer"})

    swap(parts.http, "end_to_end", broken)
