"""Mutants of TLS tunnels: versions and suites, routing by name, passthrough, the relay and its ends."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from tlslite.utils.codec import Parser

from reference_engine.edge.client_hello import ClientHello, HelloError
from reference_engine.edge.rules import Front, Route
from reference_engine.mutants._tlslite import Connection, ContentType, HandshakeType, TlsliteEndpoints
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address, ByteStream
from reference_engine.tls.endpoint import ClientTls, ServerCertificate, ServerTls, TlsEndpoint
from reference_engine.tls.rules import TLS12, TLS13, Suites
from reference_engine.tunnel.refusal import FEATURE_NOT_AVAILABLE, Refusal

MinVersion = Callable[[str | None, str | None], int]
Routing = Callable[[ClientHello, Any, str], Route]
Reading = Callable[[bytes], ClientHello]
SERVER_NAME, ALPN, PSK = 0, 16, 41
NAME = re.compile(rb"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
HEAD = 65_536


# Versions and suites


@mutant("tls-minimum-ignored", ("TLS-017", "TLS-029"), "ignores a tunnel's lowest version")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: MinVersion, tunnel: str | None, project: str | None) -> int:
        if tunnel is not None:
            reached()
        return original(None, project)

    swap(parts.tls, "min_version", broken)


@mutant("tls-minimum-is-13", ("TLS-019", "TRANS-012"), "speaks TLS 1.3 alone where nobody has set a lowest version")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: MinVersion, tunnel: str | None, project: str | None) -> int:
        if tunnel is None and project is None:
            reached()
            return TLS13
        return original(tunnel, project)

    swap(parts.tls, "min_version", broken)


@mutant("tls-project-ignored", ("TRANS-012",), "ignores a project's lowest version at its own name")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: MinVersion, tunnel: str | None, project: str | None) -> int:
        if project is not None:
            reached()
        return original(tunnel, None)

    swap(parts.tls, "min_version", broken)


@mutant("tls-suites-ignored", ("TLS-020", "TLS-029"), "ignores a tunnel's list of suites")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Sequence[str]], Suites], configured: Sequence[str]) -> Suites:
        if configured:
            reached()
        return original(())

    swap(parts.tls, "suites", broken)


@mutant(
    "tls-12-tickets",
    ("RFC6066-3-5",),
    "gives tickets to clients of TLS 1.2, with keys that all tunnels share",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Sequence[int]], bool], offered: Sequence[int]) -> bool:
        if not original(offered):
            reached()
        return True

    swap(parts.tls, "may_resume", broken)


@mutant("tls-chain-order", ("RFC5246-7.4.2-1",), "sends the leaf a second time where its issuer should stand")
def _(parts: Parts, reached: Reached) -> None:
    doubled: dict[ServerCertificate, ServerCertificate] = {}

    def broken(original: Callable[[ServerTls], TlsEndpoint], tls: ServerTls) -> TlsEndpoint:
        own = tls.certificate
        if own not in doubled:
            doubled[own] = ServerCertificate((own.chain[0], own.chain[0], *own.chain[1:]), own.key)
        reached()
        return original(dataclasses.replace(tls, certificate=doubled[own]))

    swap(parts.tls_endpoints, "server", broken)


# The ClientHello and its name


def extensions(body: bytes) -> list[tuple[int, bytes]]:
    """Types and contents of the extensions of a ClientHello's body, as far as their own lengths fit."""
    at = 34 + 1 + body[34]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at] + 2
    found = []
    while at + 4 <= len(body):
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        found.append((int.from_bytes(body[at : at + 2], "big"), body[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def hello_for(name: str, body: bytes) -> ClientHello:
    """What routing gets to see of a ClientHello that its own rule refuses."""
    offers = [data[2:] for number, data in extensions(body) if number == ALPN]
    names = tuple(one.decode("latin-1") for one in offers[0].split(b"\1") if one) if offers else ()
    return ClientHello(0x0303, name, names, False, (TLS13, TLS12), ())


@mutant(
    "tls-name-found-anyhow",
    ("RFC6066-11.1-2",),
    "looks for a host name in server_name without heed to the lengths",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Reading, body: bytes) -> ClientHello:
        try:
            return original(body)
        except HelloError:
            inside = [data for number, data in extensions(body) if number == SERVER_NAME]
            words = NAME.findall(b" ".join(inside))
            if not words:
                raise
            reached()
            return hello_for(max(words, key=len).decode(), body)

    swap(parts.edge, "read_hello", broken)


@mutant(
    "tls-two-readings",
    ("RFC6066-3-1", "RFC8446-4.2-3"),
    "routes by the first of two host names, and negotiates by the rules of the second one",
)
def _(parts: Parts, reached: Reached) -> None:
    second: list[str] = []
    known: list[Any] = []

    def read(original: Reading, body: bytes) -> ClientHello:
        second.clear()
        try:
            return original(body)
        except HelloError:
            inside = [data for number, data in extensions(body) if number == SERVER_NAME]
            words = [word.decode() for word in NAME.findall(b" ".join(inside))]
            if len(words) < 2:
                raise
            second.append(words[1])
            return hello_for(words[0], body)

    def route(original: Routing, hello: ClientHello, names: Any, domain: str) -> Route:
        known[:] = [names]
        return original(hello, names, domain)

    def alpns(original: Callable[[Route], tuple[str, ...]], to: Route) -> tuple[str, ...]:
        tunnel = known[0].by_hostname(second[0]) if second else None
        if tunnel is None:
            return original(to)
        reached()
        return original(dataclasses.replace(to, tunnel=tunnel))

    swap(parts.edge, "read_hello", read)
    swap(parts.edge, "route", route)
    swap(parts.edge, "alpns", alpns)
    parts.tls_endpoints = TlsliteEndpoints(reached, server=OneName)


class OneName(Connection):
    """Leaves the names to whoever routed: keeps the first one of the first server_name."""

    def on_hello(self, hello: Any) -> None:
        """See Connection."""
        kept: list[Any] = []
        for one in hello.extensions:
            if one.extType != SERVER_NAME or all(other.extType != SERVER_NAME for other in kept):
                kept.append(one)
        hello.extensions = kept
        names = hello.getExtension(SERVER_NAME)
        if names is not None and len(names.hostNames or ()) > 1:
            names.hostNames = names.hostNames[:1]


class _Short(Parser):  # type: ignore[misc]
    """Reads what it knows, and does not ask what is left."""

    def stopLengthCheck(self) -> None:
        """See tlslite-ng."""


class NoEnd(Connection):
    """Does not look behind the extensions of a ClientHello."""

    def read_with(self, kind: int, parser: Parser) -> Parser:
        """See Connection."""
        first = kind == ContentType.handshake and parser.bytes[0] == HandshakeType.client_hello
        return _Short(parser.bytes) if first else parser


@mutant("tls-trailing-octets", ("RFC5246-7.4.1.2-2",), "does not look behind the extensions of a ClientHello")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Reading, body: bytes) -> ClientHello:
        at = 34 + 1 + body[34]
        at += 2 + int.from_bytes(body[at : at + 2], "big")
        at += 1 + body[at]
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        if end < len(body):
            reached()
        return original(body[:end])

    swap(parts.edge, "read_hello", broken)
    parts.tls_endpoints = TlsliteEndpoints(reached, server=NoEnd)


@mutant("tls-ticket-routes", ("RFC8446-4.6.1-2",), "routes a resumption to the tunnel that gave the last ticket")
def _(parts: Parts, reached: Reached) -> None:
    resumes: list[bool] = []
    last: list[Route] = []

    def read(original: Reading, body: bytes) -> ClientHello:
        resumes[:] = [any(number == PSK for number, _ in extensions(body))]
        return original(body)

    def route(original: Routing, hello: ClientHello, names: Any, domain: str) -> Route:
        found = original(hello, names, domain)
        if found.tunnel is None:
            return found
        if not resumes[0]:
            last[:] = [found]
        elif last and last[0].tunnel is not found.tunnel:
            reached()
            return last[0]
        return found

    swap(parts.edge, "read_hello", read)
    swap(parts.edge, "route", route)


@mutant("tls-names-by-case", ("RFC6066-3-8",), "compares server names octet by octet")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[str | None], str | None], server_name: str | None) -> str | None:
        if server_name is not None and server_name != server_name.lower():
            reached()
            return None
        return original(server_name)

    swap(parts.edge, "normal_name", broken)


@mutant("tls-names-cut-at-nul", ("RFC6066-3-8",), "reads a server name up to its first NUL")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[str | None], str | None], server_name: str | None) -> str | None:
        if server_name is not None and "\0" in server_name:
            reached()
            server_name = server_name.partition("\0")[0]
        return original(server_name)

    swap(parts.edge, "normal_name", broken)


def _to_last(parts: Parts, reached: Reached, lost: Callable[[ClientHello], bool]) -> None:
    """Route what is `lost` to the tunnel that was reached last."""
    last: list[Route] = []

    def broken(original: Routing, hello: ClientHello, names: Any, domain: str) -> Route:
        route = original(hello, names, domain)
        if route.tunnel is not None:
            last[:] = [route]
        elif last and route.front is Front.REFUSED and lost(hello):
            reached()
            return last[0]
        return route

    swap(parts.edge, "route", broken)


@mutant(
    "tls-unknown-name-routed",
    ("RFC6066-3-2",),
    "routes a name that nobody has to the tunnel that was reached last",
)
def _(parts: Parts, reached: Reached) -> None:
    _to_last(parts, reached, lambda hello: hello.server_name is not None)


@mutant(
    "tls-no-name-routed",
    ("RFC8446-9.2-2", "RFC8446-9.3-5"),
    "routes a client without a server name to the tunnel that was reached last",
)
def _(parts: Parts, reached: Reached) -> None:
    _to_last(parts, reached, lambda hello: hello.server_name is None)


# Passthrough


@mutant(
    "tls-passthrough-terminates",
    ("TLS-002", "TLS-010", "TLS-011", "TLS-012", "TLS-015", "TLS-016", "ALPN-014"),
    "ends TLS at the edge in passthrough, too",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Routing, hello: ClientHello, names: Any, domain: str) -> Route:
        route = original(hello, names, domain)
        if route.front is not Front.PASSTHROUGH:
            return route
        reached()
        return dataclasses.replace(route, front=Front.TLS)

    swap(parts.edge, "route", broken)


@mutant("tls-passthrough-minimum", ("TLS-014",), "refuses clients below TLS 1.3 in passthrough")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Routing, hello: ClientHello, names: Any, domain: str) -> Route:
        route = original(hello, names, domain)
        if route.front is Front.PASSTHROUGH and TLS13 not in hello.versions:
            reached()
            return Route(Front.REFUSED, alert=70, reason="too low a version")
        return route

    swap(parts.edge, "route", broken)


@mutant("tls-passthrough-edge-features", ("TLS-013",), "creates a passthrough tunnel with an ALPN list")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Any], Any], asked: Any) -> None:
        if original(asked) is not None:
            reached()

    swap(parts.tunnel, "passthrough_has_no_alpns", broken)


def _through(options: dict[str, Any]) -> bool:
    """Whether a relay is one of passthrough: what ends at the edge says which side keeps half open."""
    return "a_half_open" not in options


@mutant("tls-passthrough-rewrites", ("RFC8446-9.3-3",), "writes the ClientHello's record anew in passthrough")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, a: ByteStream, b: ByteStream, **options: Any) -> Any:
        if _through(options):
            first = await a.read()
            if first[:3] == b"\x16\x03\x01":
                reached()
                first = b"\x16\x03\x03" + first[3:]
            await b.write(first)
        return await original(a, b, **options)

    swap(parts.relay, "run", broken)


@mutant(
    "tls-passthrough-reads-on",
    ("RFC8446-9.3-4",),
    "ends a connection in passthrough for a fatal alert that it sees go by",
)
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: ByteStream, data: bytes) -> None:
        if b"\x15\x03\x03\x00\x02\x02" in data:
            reached()
            sink.abort("a fatal alert")
            return
        await original(sink, data)

    swap(parts.relay, "pass_data", broken)


# Upstream TLS


@mutant("tls-upstream-plain", ("TLS-007", "TLS-008"), "hands the upstream plaintext with upstream TLS, too")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bool | None], bool], upstream_tls: bool | None) -> bool:
        if original(upstream_tls):
            reached()
        return False

    swap(parts.tls, "speaks_tls_upstream", broken)


@mutant("tls-upstream-dotted-name", ("RFC6066-3-7",), "sends upstreams a server name with its trailing dot")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ClientTls], TlsEndpoint], tls: ClientTls) -> TlsEndpoint:
        if tls.server_name:
            reached()
            tls = dataclasses.replace(tls, server_name=f"{tls.server_name}.")
        return original(tls)

    swap(parts.tls_endpoints, "client", broken)


# The relay


@mutant("tls-relay-cuts", ("TLS-004",), "hands on no more than 64 KiB of what it reads at once")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: ByteStream, data: bytes) -> None:
        if len(data) > HEAD:
            reached()
        await original(sink, data[:HEAD])

    swap(parts.relay, "pass_data", broken)


@mutant("tls-client-first", ("TLS-006",), "relays nothing to the client before the client has spoken")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, a: ByteStream, b: ByteStream, **options: Any) -> Any:
        reached()
        first = await a.read()
        await b.write(first)
        return await original(a, b, **options)

    swap(parts.relay, "run", broken)


@mutant("tls-relay-ages", ("TLS-025",), "ends every relay after a quarter of a second")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, a: ByteStream, b: ByteStream, **options: Any) -> Any:
        try:
            async with asyncio.timeout(0.25):
                return await original(a, b, **options)
        except TimeoutError:
            reached()
            raise

    swap(parts.relay, "run", broken)


class _Crossed(ByteStream):
    """Reads from one stream, and writes to another one."""

    def __init__(self, source: ByteStream, sink: ByteStream) -> None:
        self.peer = sink.peer
        self._source = source
        self._sink = sink

    async def read(self) -> bytes:
        return await self._source.read()

    def read_now(self) -> bytes | None:
        return self._source.read_now()

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        self._source.on_arrival(arrived)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await self._sink.write(data)

    async def end(self) -> None:
        await self._sink.end()

    async def close(self) -> None:
        await self._sink.close()

    def abort(self, reason: str) -> None:
        self._sink.abort(reason)


@mutant("tls-relay-crosses", ("TLS-026",), "takes the answers of another connection's stream among more than a hundred")
def _(parts: Parts, reached: Reached) -> None:
    waiting: list[tuple[ByteStream, asyncio.Future[ByteStream]]] = []
    running = [0]

    async def broken(original: Any, a: ByteStream, b: ByteStream, **options: Any) -> Any:
        running[0] += 1
        try:
            if running[0] > 100 and waiting:
                other, turn = waiting.pop()
                turn.set_result(b)
                reached()
                b = _Crossed(other, b)
            elif running[0] > 100:
                turn = asyncio.get_running_loop().create_future()
                waiting.append((b, turn))
                b = _Crossed(await turn, b)
            return await original(a, b, **options)
        finally:
            running[0] -= 1

    swap(parts.relay, "run", broken)


@mutant("tls-source-hidden", ("TLS-027",), "tells the agent an address of its own instead of the client's")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Address | None], Address | None], peer: Address | None) -> Address | None:
        known = original(peer)
        if known is None:
            return None
        reached()
        return dataclasses.replace(known, host="192.0.2.1")

    swap(parts.tls, "told_source", broken)


@mutant("tls-source-in-the-data", ("TLS-027",), "writes a PROXY header in front of what passes through")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, a: ByteStream, b: ByteStream, **options: Any) -> Any:
        if _through(options):
            reached()
            await b.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n")
        return await original(a, b, **options)

    swap(parts.relay, "run", broken)


@mutant("tls-no-passthrough-in-community", ("TLS-028",), "keeps passthrough out of the community edition")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: Any, *, edition: str, udp: bool) -> Refusal | None:
        if properties.tls_mode == "passthrough" and edition == "community":
            reached()
            return Refusal(FEATURE_NOT_AVAILABLE, "tls_mode", "tls_mode: passthrough is not part of this edition")
        refusal: Refusal | None = original(properties, edition=edition, udp=udp)
        return refusal

    swap(parts.editions, "gate", broken)


# Ends


def _endpoints(parts: Parts, change: Callable[[TlsEndpoint], None]) -> None:
    """Change every endpoint toward a client of a tunnel."""

    def broken(original: Callable[[ServerTls], TlsEndpoint], tls: ServerTls) -> TlsEndpoint:
        endpoint = original(tls)
        if not tls.request_certificate:
            change(endpoint)
        return endpoint

    swap(parts.tls_endpoints, "server", broken)


@mutant(
    "tls-no-close-notify",
    ("RFC8446-6.1-2", "RFC5246-7.2.1-2", "RFC5246-7.2.1-1", "TLS-021", "RFC9112-9.8-1"),
    "ends connections without close_notify",
)
def _(parts: Parts, reached: Reached) -> None:
    _endpoints(parts, lambda endpoint: setattr(endpoint, "end", reached))


@mutant(
    "tls-end-overtakes",
    ("RFC8446-6.1-2", "RFC5246-7.2.1-2", "TLS-021"),
    "ends the client's connection before the last data is out",
)
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: ByteStream) -> None:
        reached()
        sink.abort("the other side has ended")

    swap(parts.relay, "pass_end", broken)


@mutant("tls-reset-kept", ("RFC8446-6.1-4", "TLS-022"), "does not tell one side that the other one is gone")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: ByteStream, reason: str) -> None:
        reached()
        await asyncio.Event().wait()

    swap(parts.relay, "pass_reset", broken)
