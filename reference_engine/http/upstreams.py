"""Where an exchange gets its upstream side: the one place that knows which version a tunnel's upstream speaks.

HTTP/1.1 has connections for one exchange at a time (`pool`); the others
share (`shared`). With upstream TLS the version is what ALPN picks for each connection (HTTP-VER-010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.http.errors import ProtocolFault, fault_of
from reference_engine.http.h1_downstream import limits_of
from reference_engine.http.h3_client import open_connection
from reference_engine.http.h3_link import h3_codecs
from reference_engine.http.leg import Multiplexed, Upstream
from reference_engine.http.shared import SharedPool
from reference_engine.relay.stream import Address, ByteStream
from reference_engine.tls.stream import TlsStream
from reference_engine.tls.upstream import UpstreamTlsFailed
from reference_engine.tunnel.model import Tunnel

if TYPE_CHECKING:
    from reference_engine.engine import Engine


class Upstreams:
    """The upstream sides of all HTTP tunnels."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        settings, endpoints = engine.settings, engine.parts.http_endpoints
        self.pool = endpoints.pool(
            self._connect,
            lambda: endpoints.client_codec(engine.parts.http, limits_of(settings)),
            idle=settings.upstream_idle_ms / 1000,
            most=settings.upstream_max_idle,
        )
        self._picked: dict[str, str] = {}
        """What ALPN picked last, by tunnel."""
        self.shared = SharedPool(self._open, idle=settings.upstream_idle_ms / 1000)

    async def acquire(self, tunnel: Tunnel, source: Address | None, *, reuse: bool, again: bool = False) -> Upstream:
        """The upstream side of one exchange. `reuse` says whether the request may go out on a connection for one
        exchange at a time that was used before; `again` that it went out before, on a connection that did not take it.
        Raises ProtocolFault."""
        version = self._engine.parts.http.upstream_version(tunnel.properties)
        if version == "http/1.1":
            return await self.pool.acquire(tunnel, source, reuse=reuse)
        if version == "alpn" and self._picked.get(tunnel.id) == "http/1.1":
            # Nothing is shared, so nobody waits for the connection of somebody else.
            idle = self.pool.idle(tunnel, source) if reuse else None
            found = idle or await self._open(tunnel, source)
            return found if isinstance(found, Upstream) else self.shared.adopt(tunnel, source, found)
        return await self.shared.acquire(tunnel, source, again=again)

    async def _open(self, tunnel: Tunnel, source: Address | None) -> Multiplexed | Upstream:
        """A connection for many exchanges, or for one where ALPN picked HTTP/1.1. Raises ProtocolFault."""
        engine = self._engine
        if engine.parts.http.upstream_version(tunnel.properties) == "h3":
            return await open_connection(engine, tunnel, source, h3_codecs(engine, is_client=True), self.shared.part)
        stream = await self._connect(tunnel, source)
        client = source.host if source is not None else ""
        if engine.parts.http.upstream_version(tunnel.properties) == "alpn":
            picked = stream.alpn if isinstance(stream, TlsStream) else None
            self._picked[tunnel.id] = "h2" if picked == "h2" else "http/1.1"
            if picked != "h2":
                return self.pool.adopt(stream, tunnel, client)
        connection = engine.parts.http_endpoints.h2_client(stream, engine.parts.http, engine.settings)
        connection.start()
        return connection

    def drop_tunnel(self, tunnel: Tunnel) -> None:
        """What is kept for the tunnel ends."""
        self._picked.pop(tunnel.id, None)
        self.pool.drop_tunnel(tunnel)
        self.shared.drop_tunnel(tunnel)

    async def close(self) -> None:
        """Close what is kept; after the exchanges have ended."""
        await self.pool.close()
        await self.shared.close()

    async def _connect(self, tunnel: Tunnel, source: Address | None) -> ByteStream:
        """A fresh stream to the tunnel's upstream, in TLS where the tunnel asks for it. Raises ProtocolFault."""
        engine = self._engine
        try:
            stream = await engine.connector.open(tunnel, source)
        except UpstreamUnavailable as problem:
            raise ProtocolFault(fault_of(problem.kind)) from None
        if not engine.parts.http.encrypts_upstream(tunnel.properties):
            return stream
        try:
            return await engine.upstream_tls.wrap(
                stream,
                server_name=tunnel.properties.hostname or "",
                alpns=engine.parts.http.upstream_alpns(tunnel.properties),
            )
        except UpstreamTlsFailed as problem:
            engine.log.info("tunnel %s: %s", tunnel.id, problem)
            stream.abort("upstream TLS failed")
            raise ProtocolFault(fault_of("upstream-tls")) from None
        except BaseException:
            stream.abort("nobody waits for the stream")
            raise
