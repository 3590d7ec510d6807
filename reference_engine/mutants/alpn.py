"""Mutants of ALPN: what is negotiated with clients, and what is offered to upstreams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tlslite.extensions import ALPNExtension
from tlslite.messages import EncryptedExtensions, ServerHello

from reference_engine.edge.client_hello import NO_APPLICATION_PROTOCOL
from reference_engine.edge.rules import Front, Route
from reference_engine.mutants._doubles import double, silenced
from reference_engine.mutants._tlslite import Connection, ExtensionType, TlsliteEndpoints
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.relay.stream import ByteStream
from reference_engine.tls.endpoint import Data, Event, ServerTls, TlsEndpoint
from reference_engine.tls.rules import NoApplicationProtocol

Select = Callable[[Sequence[str], Sequence[str]], str | None]


@mutant(
    "alpn-goes-on",
    ("ALPN-008", "RFC7301-3.2-2", "HTTP-VER-009"),
    "goes on without ALPN where nothing is in common",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Select, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        try:
            return original(offered, configured)
        except NoApplicationProtocol:
            reached()
            return None

    swap(parts.tls, "select_alpn", broken)


@mutant("alpn-case-insensitive", ("RFC7301-3.2-2",), "compares protocol names without their case")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Select, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        try:
            return original(offered, configured)
        except NoApplicationProtocol:
            for name in offered:
                if name.lower() in configured:
                    reached()
                    return name
            raise

    swap(parts.tls, "select_alpn", broken)


@mutant("alpn-first-only", ("ALPN-001", "RFC7301-3.1-3"), "knows only the first name of a tunnel's list")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Select, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        if len(configured) > 1 and configured[0] not in offered:
            reached()
        return original(offered, configured[:1])

    swap(parts.tls, "select_alpn", broken)


@mutant("alpn-unknown-refused", ("RFC7301-3.1-3",), "refuses an offer with a name that is not in the list")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Select, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        if configured and any(name not in configured for name in offered):
            reached()
            raise NoApplicationProtocol
        return original(offered, configured)

    swap(parts.tls, "select_alpn", broken)


@mutant("alpn-ambiguous", ("RFC7301-3.2-1",), "selects nothing where more than one name matches")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Select, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        if len(set(offered) & set(configured)) > 1:
            reached()
            return None
        return original(offered, configured)

    swap(parts.tls, "select_alpn", broken)


@mutant("alpn-h2c", ("RFC9113-3.2-1",), "takes the name h2c for HTTP over TLS")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Select, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        if "h2c" in offered and "http/1.1" in configured:
            reached()
            return "h2c"
        return original(offered, configured)

    swap(parts.tls, "select_alpn", broken)


@mutant("alpn-required", ("ALPN-009",), "refuses a client without ALPN on a tunnel with a list")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Route], hello: Any, names: Any, domain: str) -> Route:
        route = original(hello, names, domain)
        listed = route.front is Front.TLS and route.tunnel is not None and route.tunnel.properties.tls_alpns
        if listed and not hello.alpns:
            reached()
            return Route(Front.REFUSED, alert=NO_APPLICATION_PROTOCOL, reason="no protocol offered")
        return route

    swap(parts.edge, "route", broken)


silenced(
    __name__,
    "alpn-malformed-taken",
    ("RFC7301-3.1-1",),
    "takes lists with empty names",
    "Client sent empty list of ALPN",
    "Client sent empty name in ALPN",
)


@double("alpn-two-names", ("RFC7301-3.1-2",), "answers with the whole list")
class _TwoNames(Connection):
    def on_send(self, message: Any) -> None:
        if isinstance(message, ServerHello | EncryptedExtensions):
            chosen = message.getExtension(ExtensionType.alpn)
            if chosen is not None:
                self.reached()
                names = [*chosen.protocol_names, bytearray(b"a")]
                message.extensions = [one for one in message.extensions if one is not chosen]
                message.extensions.append(ALPNExtension().create(names))


@mutant("alpn-http-list", ("ALPN-003",), "takes an ALPN list on an HTTP tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Any], Any], asked: Any) -> None:
        if original(asked) is not None:
            reached()

    swap(parts.tunnel, "http_has_no_alpns", broken)


class _Http2Anyway(TlsEndpoint):
    """Answers the preface of HTTP/2 with SETTINGS, whatever was negotiated; everything else is the endpoint's own."""

    def __init__(self, endpoint: TlsEndpoint, reached: Reached) -> None:
        self._endpoint = endpoint
        self._reached = reached

    def __getattribute__(self, name: str) -> Any:
        if name in ("receive", "_endpoint", "_reached"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_endpoint"), name)

    def receive(self, data: bytes) -> list[Event]:
        """See TlsEndpoint."""
        events = self._endpoint.receive(data)
        kept = [event for event in events if not (isinstance(event, Data) and event.data.startswith(b"PRI * HTTP/2"))]
        if len(kept) < len(events):
            self._reached()
            self._endpoint.send(b"\0\0\0\4\0\0\0\0\0")
        return kept

    def start(self) -> None:
        """See TlsEndpoint."""

    def receive_eof(self) -> list[Event]:
        """See TlsEndpoint."""
        return []

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """See TlsEndpoint."""

    def end(self) -> None:
        """See TlsEndpoint."""

    def outgoing(self) -> bytes:
        """See TlsEndpoint."""
        return b""


@mutant(
    "alpn-http2-anyway", ("RFC7301-3.2-3", "RFC9113-3.3-1"), "speaks HTTP/2 to a client that begins with its preface"
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ServerTls], TlsEndpoint], tls: ServerTls) -> TlsEndpoint:
        return _Http2Anyway(original(tls), reached)

    swap(parts.tls_endpoints, "server", broken)


# Upstream

Offer = Callable[[str | None, Sequence[str]], tuple[str, ...]]


@mutant("alpn-upstream-list", ("ALPN-004", "RFC7301-3.1-4"), "offers the upstream the whole list, negotiated or not")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Offer, negotiated: str | None, configured: Sequence[str]) -> tuple[str, ...]:
        if negotiated is not None and tuple(configured) != (negotiated,):
            reached()
        return original(None, configured)

    swap(parts.tls, "upstream_alpns", broken)


@mutant(
    "alpn-echo-here-only", ("ALPN-004",), "echoes a client's name on a tunnel without a list, and keeps it to itself"
)
def _(parts: Parts, reached: Reached) -> None:
    def select(original: Select, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        return original(offered, configured) if configured else offered[0]

    def offer(original: Offer, negotiated: str | None, configured: Sequence[str]) -> tuple[str, ...]:
        if negotiated is not None and not configured:
            reached()
            return ()
        return original(negotiated, configured)

    swap(parts.tls, "select_alpn", select)
    swap(parts.tls, "upstream_alpns", offer)


@mutant("alpn-upstream-nothing", ("ALPN-005",), "offers the upstream nothing where nothing was negotiated")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Offer, negotiated: str | None, configured: Sequence[str]) -> tuple[str, ...]:
        if negotiated is None and configured:
            reached()
            return ()
        return original(negotiated, configured)

    swap(parts.tls, "upstream_alpns", broken)


@mutant("alpn-upstream-default", ("ALPN-006",), "offers the upstream http/1.1 where there is nothing to offer")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Offer, negotiated: str | None, configured: Sequence[str]) -> tuple[str, ...]:
        offered = original(negotiated, configured)
        if not offered:
            reached()
            return ("http/1.1",)
        return offered

    swap(parts.tls, "upstream_alpns", broken)


@mutant(
    "alpn-upstream-left-open",
    ("ALPN-012", "RFC7301-3.2-5", "TLS-023"),
    "leaves the client's connection open where there is no upstream to speak its protocol",
)
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, stream: ByteStream) -> None:
        reached()
        await asyncio.Event().wait()

    swap(parts.relay, "pass_absence", broken)


@mutant("alpn-upstream-any", ("RFC7301-3.2-4",), "speaks what the upstream selects, offered or not")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., bool], offered: Sequence[str], selected: str | None) -> bool:
        if not original(offered, selected):
            reached()
        return True

    # OpenSSL asks this before the engine's rule does; tlslite-ng leaves it to the rule.
    parts.tls_endpoints = TlsliteEndpoints(reached, client=Connection)
    swap(parts.tls, "upstream_alpn_fits", broken)
