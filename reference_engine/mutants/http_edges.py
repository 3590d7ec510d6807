"""Names and authorities that disagree, early data as a field, and what the engine writes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
from reference_engine.http.exchange import Exchange
from reference_engine.http.forward import Origin, Target
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.leg import Upstream
from reference_engine.mutants._http import use_client_codec, use_exchange, use_server_codec
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

# Routing: RFC 6066 section 11.1, RFC 9110 section 4.2.1


@mutant("http-route-by-server-name", ("RFC6066-11.1-1",), "sends every request to the tunnel of the server name")
def _by_server_name(parts: Parts, reached: Reached) -> None:
    class Deaf(Exchange):
        """Reads no authority."""

        def _admit(self) -> Target | Fault:
            target = super()._admit()
            if not isinstance(target, Fault) and self._tunnel is not self._own:
                reached()
                self._tunnel = self._own
            return target

    use_exchange(parts, Deaf)


@mutant("http-route-empty-host", ("RFC9110-4.2.1-1",), "takes Host where a target has a scheme and no host")
def _empty_host(parts: Parts, reached: Reached) -> None:
    def broken(
        original: Callable[[bytes, bytes, bytes, bytes], Target | Fault],
        method: bytes,
        scheme: bytes,
        authority: bytes,
        rest: bytes,
    ) -> Target | Fault:
        if authority:
            return original(method, scheme, authority, rest)
        reached()
        return Target("absolute", rest or b"/")

    swap(parts.http, "absolute_target", broken)


# Identity and early data: RFC 7239 section 7.2, RFC 8470 section 5


def _sending(parts: Parts, reached: Reached, rule: Callable[[Fields, RequestHead, Origin], Fields]) -> None:
    """Send what `rule` makes of the fields of a request."""

    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        found = rule(fields, head, origin)
        if found != fields:
            reached()
        return found

    swap(parts.http, "request_fields", broken)


@mutant("http-upgrade-unidentified", ("RFC7239-7.2-1",), "says nothing of the client with a handshake")
def _unidentified(parts: Parts, reached: Reached) -> None:
    names = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    _sending(parts, reached, lambda fields, _, origin: without(fields, names) if origin.upgrade else fields)


@mutant("http-content-unidentified", ("RFC7239-7.2-1",), "says nothing of the client with content")
def _content_unidentified(parts: Parts, reached: Reached) -> None:
    names = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    _sending(
        parts, reached, lambda fields, _, origin: without(fields, names) if origin.framing.kind != "none" else fields
    )


@mutant("http-second-unidentified", ("RFC7239-7.2-1",), "names the client with the first request of a connection alone")
def _second_unidentified(parts: Parts, reached: Reached) -> None:
    class Forgetful(Exchange):
        """Forgets the address."""

        async def _send_head(self, up: Upstream, target: Target) -> None:
            if self._carried is not None:
                reached()
                self._origin = replace(self._origin, client="")
            await super()._send_head(up, target)

    use_exchange(parts, Forgetful)


@mutant("http-early-data-dropped", ("RFC8470-5.1-2",), "drops Early-Data of a client")
def _early_data_dropped(parts: Parts, reached: Reached) -> None:
    _sending(parts, reached, lambda fields, head, origin: without(fields, {b"early-data"}))


@mutant("http-early-data-named", ("RFC8470-5.1-3",), "names Early-Data in Connection")
def _early_data_named(parts: Parts, reached: Reached) -> None:
    def rule(fields: Fields, head: RequestHead, _: Origin) -> Fields:
        return [*fields, (b"Connection", b"Early-Data")] if values(head.fields, b"early-data") else fields

    _sending(parts, reached, rule)


@mutant("http-early-data-in-response", ("RFC8470-5.1-4",), "says Early-Data in a response")
def _early_data_in_response(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        reached()
        return [*original(head, method), (b"Early-Data", b"1")]

    swap(parts.http, "response_fields", broken)


@mutant("http-425-is-an-error", ("RFC8470-5.2-1",), "takes a 425 for an error of the upstream")
def _425_is_an_error(parts: Parts, reached: Reached) -> None:
    class Proud(Exchange):
        """Knows better."""

        async def _relay_head(self, up: Upstream, target: Target, event: Event) -> tuple[bool, Reset | None]:
            if isinstance(event, ResponseHead) and event.status == 425:
                reached()
                return True, Reset("upstream-malformed")
            return await super()._relay_head(up, target, event)

    use_exchange(parts, Proud)


# What the engine writes: RFC 9112 section 4


@mutant("http-status-line-cut", ("RFC9112-4-1", "RFC9110-2.2-1"), "ends a status line without a phrase at the status")
def _status_line_cut(parts: Parts, reached: Reached) -> None:
    class Terse(H1ServerCodec):
        """A double of h11 that saves a space."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            line, end, rest = octets.partition(b"\r\n")
            if isinstance(event, ResponseHead) and line.endswith(b" "):
                reached()
                return line.rstrip(b" ") + end + rest
            return octets

    use_server_codec(parts, Terse)


@mutant("http-version-downgraded", ("RFC9110-6.2-1",), "answers HTTP/1.0 clients in HTTP/1.0")
def _downgraded(parts: Parts, reached: Reached) -> None:
    class Polite(H1ServerCodec):
        """A double of h11 that repeats the client's version."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead) and self.request is not None and self.request.version == b"1.0":
                reached()
                return octets.replace(b"HTTP/1.1 ", b"HTTP/1.0 ", 1)
            return octets

    use_server_codec(parts, Polite)


@mutant("http-version-copied", ("RFC9110-6.2-2", "RFC9112-2.3-1"), "writes a version that it does not know upstream")
def _copied(parts: Parts, reached: Reached) -> None:
    class Copying(H1ClientCodec):
        """Writes what the client said."""

        def send(self, event: RequestHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, RequestHead) and unknown:
                reached()
                unknown.clear()
                return octets.replace(b" HTTP/1.1\r\n", b" HTTP/1.9\r\n", 1)
            return octets

    unknown: list[bool] = []

    def broken(original: Callable[..., bytes], head: bytes, line: bytes, *, request: bool) -> bytes:
        if request and line.endswith(b"HTTP/1.9"):
            unknown.append(True)
        return original(head, line, request=request)

    swap(parts.http, "own_version", broken)
    use_client_codec(parts, Copying)


@mutant("http-htab-refused", ("RFC9110-5.5-1",), "refuses HTAB around a value as a control octet")
def _htab_refused(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes], Fault | None], head: bytes) -> Fault | None:
        fault = original(head)
        if fault is None and b"\t" in head:
            reached()
            return Fault(400, "a control octet in a field")
        return fault

    swap(parts.http, "control_octets", broken)
