"""TLS tunnels: one client connection is one stream to the agent, and its octets are nobody's business (EDGE-004)."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.agent.data import DataStream, while_there
from reference_engine.relay.pump import Relay, Relayed
from reference_engine.relay.stream import ByteStream
from reference_engine.tls.stream import TlsStream
from reference_engine.tls.upstream import UpstreamTlsFailed
from reference_engine.tunnel.model import Tunnel

if TYPE_CHECKING:
    from reference_engine.engine import Engine


class Session(AbstractContextManager["Session"]):
    """One public session of a tunnel, while it is entered: closing the tunnel on purpose ends it (EDGE-027)."""

    def __init__(self, tunnel: Tunnel, *streams: ByteStream) -> None:
        self._tunnel = tunnel
        self._streams = list(streams)
        self._relaying = False
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over: str | None = None

    def __enter__(self) -> Self:
        self._tunnel.sessions.add(self.end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tunnel.sessions.discard(self.end)

    def add(self, stream: ByteStream) -> None:
        """Let the stream end with the session; at once if that is over."""
        self._streams.append(stream)
        if self.over is not None:
            stream.abort(self.over)

    def end(self, reason: str) -> None:
        """End a relay in order, so that nothing that was handed on is lost (AGENT-054); abort what is not there yet."""
        self.over = reason
        if self._relaying:
            if not self._done.done():
                self._done.set_result(None)
            return
        for stream in self._streams:
            stream.abort(reason)

    async def relay(self, relay: Relay, a: ByteStream, b: ByteStream, **half_open: bool) -> Relayed:
        """Relay between two of the streams until the session is over; see `Relay.run`."""
        self._relaying = True
        return await relay.run(a, b, over=self._done, **half_open)


class TlsTunnels:
    """Serves the connections of TLS tunnels, terminated (with TLS towards the upstream or without) and passed through.

    Nothing in here has a timeout of its own: an idle stream stays (TLS-025).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def serve_terminated(self, stream: TlsStream, tunnel: Tunnel) -> None:
        """Relay the plaintext of `stream` until both directions have ended."""
        engine = self._engine
        with Session(tunnel, stream) as session:
            client = DataStream(stream, b"")
            upstream = await self._open(session, client, tunnel)
            if upstream is None:
                return
            upstream_version = None
            rules = engine.parts.tls
            if rules.speaks_tls_upstream(tunnel.properties.upstream_tls):
                wrapped = await self._wrap(session, stream, upstream, tunnel)
                if wrapped is None:
                    return
                upstream, upstream_version = wrapped, wrapped.version
            done = await session.relay(
                engine.parts.relay,
                client,
                upstream,
                a_half_open=rules.keeps_half_open(stream.version),
                b_half_open=upstream_version is None or rules.keeps_half_open(upstream_version),
            )
            self._log_end(tunnel, done)

    async def serve_passthrough(self, stream: ByteStream, tunnel: Tunnel) -> None:
        """Relay `stream`, the ClientHello that was looked at included, octet for octet (TLS-010, RFC 8446 9.3)."""
        with Session(tunnel, stream) as session:
            client = DataStream(stream, b"")
            upstream = await self._open(session, client, tunnel)
            if upstream is not None:
                self._log_end(tunnel, await session.relay(self._engine.parts.relay, client, upstream))

    def _log_end(self, tunnel: Tunnel, done: Relayed) -> None:
        self._engine.log.debug(
            "session over tunnel=%s received=%d sent=%d reset=%r", tunnel.id, done.a_to_b, done.b_to_a, done.reset
        )

    async def _open(self, session: Session, stream: DataStream, tunnel: Tunnel) -> ByteStream | None:
        """A stream to the agent; without one the client's connection ends, and carries nothing (TLS-023)."""
        parts = self._engine.parts
        try:
            source = parts.tls.told_source(stream.peer)
            upstream = await while_there(self._engine.connector.open(tunnel, source), stream)
        except UpstreamUnavailable as problem:
            self._engine.log.info("no upstream tunnel=%s kind=%s", tunnel.id, problem.kind)
            await parts.relay.pass_absence(stream)
            return None
        session.add(upstream)
        return upstream

    async def _wrap(
        self, session: Session, stream: TlsStream, upstream: ByteStream, tunnel: Tunnel
    ) -> TlsStream | None:
        """TLS to the upstream. Where it fails the client's connection ends too: it may have negotiated a protocol that
        nobody is going to speak (ALPN-012, RFC 7301 section 3.2)."""
        properties, engine = tunnel.properties, self._engine
        alpns = engine.parts.tls.upstream_alpns(stream.alpn, properties.tls_alpns)
        try:
            wrapped = await engine.upstream_tls.wrap(upstream, server_name=properties.hostname or "", alpns=alpns)
        except UpstreamTlsFailed as problem:
            engine.log.info("no upstream tunnel=%s kind=upstream-tls reason=%r", tunnel.id, str(problem))
            await engine.parts.relay.pass_absence(stream)
            return None
        session.add(wrapped)
        return wrapped
