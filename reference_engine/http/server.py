"""The front of the HTTP tunnels: who serves a client's connection, and what all exchanges need of the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from reference_engine.edge.client_hello import ClientHello
from reference_engine.http.forward import date
from reference_engine.http.h1_downstream import H1Connection, limits_of
from reference_engine.http.h2_server import H2ServerConnection
from reference_engine.http.h3_link import h3_codecs
from reference_engine.http.h3_server import H3ServerConnection
from reference_engine.http.leg import Downstream
from reference_engine.http.rules import HttpRules
from reference_engine.http.upstreams import Upstreams
from reference_engine.quic.connection import Choice
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.pump import Relay
from reference_engine.relay.stream import ByteStream
from reference_engine.tls.stream import TlsStream
from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.registry import Change

if TYPE_CHECKING:
    from reference_engine.engine import Engine


class HttpTunnels:
    """Downstream HTTP on a terminated TLS connection, upstream HTTP through the agent."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connections: set[H1Connection | H2ServerConnection | H3ServerConnection] = set()
        self._over_quic: set[asyncio.Task[object]] = set()
        self.upstreams = Upstreams(engine)
        self.domain = engine.settings.domain
        engine.registry.listen(self._inventory_changed)

    def _inventory_changed(self, change: Change) -> None:
        """What is pooled for a tunnel ends with it, or with its agent (EDGE-026, EDGE-027)."""
        if isinstance(change.subject, Tunnel) and not change.subject.open:
            self.upstreams.drop_tunnel(change.subject)

    @property
    def rules(self) -> HttpRules:
        """The rules in force."""
        return self._engine.parts.http

    @property
    def response_timeout(self) -> float:
        """Seconds that an upstream may take until its final head."""
        return self.rules.response_time(self._engine.settings)

    @property
    def http3_port(self) -> int | None:
        """The port at which tunnels are reached over HTTP/3; None where they are not."""
        engine = self._engine
        if engine.settings.udp_listen is None or not engine.parts.editions.available("h3", engine.settings.edition):
            return None
        return engine.udp_address.port if engine.udp_address is not None else None

    @property
    def alternative_time(self) -> int:
        """Seconds for which clients may remember that port."""
        return self._engine.settings.alt_svc_ms // 1000

    @property
    def relay(self) -> Relay:
        """The relay for what is no longer HTTP."""
        return self._engine.parts.relay

    @property
    def log(self) -> logging.Logger:
        """The engine's log."""
        return self._engine.log

    def half_open(self, stream: ByteStream | None) -> bool:
        """Whether a stream takes data behind its own end."""
        return not isinstance(stream, TlsStream) or self._engine.parts.tls.keeps_half_open(stream.version)

    def lookup(self, name: str) -> Tunnel | None:
        """The tunnel of a host name."""
        return self._engine.registry.by_hostname(name)

    def date(self) -> bytes:
        """The Date of an answer of the edge's own."""
        return date()

    def _exchanges(self, tunnel: Tunnel) -> Callable[[Downstream], Coroutine[None, None, None]]:
        """What answers the requests of one connection that selected `tunnel`."""
        carried: str | None = None

        async def handle(down: Downstream) -> None:
            nonlocal carried
            exchange = self._engine.parts.http_endpoints.exchange(self, down, tunnel, carried)
            await exchange.run()
            carried = carried or exchange.forwarded

        return handle

    async def serve(self, stream: TlsStream, tunnel: Tunnel) -> None:
        """Serve one connection that selected `tunnel` by its server name; it is closed when this returns."""
        endpoints, settings, handle = self._engine.parts.http_endpoints, self._engine.settings, self._exchanges(tunnel)
        connection: H1Connection | H2ServerConnection
        if stream.alpn == "h2":
            connection = endpoints.h2_server(stream, self.rules, settings, handle, self.log)
        else:
            connection = endpoints.connection(
                stream,
                self.rules,
                settings,
                handle,
                half_open=self.half_open(stream),
                codec=endpoints.server_codec(self.rules, limits_of(settings)),
            )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def serve_quic(self, transport: QuicTransport, tunnel: Tunnel, hello: ClientHello) -> None:
        """Serve one QUIC connection that selected `tunnel` by its server name: HTTP/3, from its ClientHello to its
        end."""
        engine = self._engine
        offer = engine.parts.quic.http_offer(
            hello, available=engine.parts.editions.available("h3", engine.settings.edition)
        )
        if offer.alert is not None:
            self.log.info("quic refused tunnel=%s peer=%s reason=%r", tunnel.id, transport.peer, offer.reason)
            transport.refuse(offer.alert, offer.reason)
            return

        handle = self._exchanges(tunnel)
        transport.answer(Choice(engine.certificates.current(), (offer.answer or "",)))
        make = h3_codecs(engine, is_client=False)
        connection = engine.parts.http_endpoints.h3_connection(transport, self.rules, engine.settings, handle, make)
        self._connections.add(connection)
        task = asyncio.current_task()
        assert task is not None
        self._over_quic.add(task)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._over_quic.discard(task)

    def drain(self) -> None:
        """The engine stops: idle connections end now, the others after the response at hand."""
        for connection in tuple(self._connections):
            connection.drain()

    async def close(self, grace: float = 0) -> None:
        """End what is still served over QUIC after `grace` seconds, and close what is pooled."""
        if self._over_quic:
            await asyncio.wait(set(self._over_quic), timeout=grace)
            served = tuple(self._over_quic)
            for task in served:
                task.cancel()
            await asyncio.gather(*served, return_exceptions=True)
        await self.upstreams.close()
