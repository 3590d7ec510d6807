"""The public TCP listener: reads each ClientHello, asks the rules for the way, and hands the connection over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reference_engine.config import ConfigError
from reference_engine.edge.client_hello import ClientHello, HelloError, HelloReader, alert_record
from reference_engine.edge.rules import Front, Route
from reference_engine.relay.stream import Address, StreamReset
from reference_engine.relay.tcp import TcpStream
from reference_engine.tls.endpoint import ServerTls
from reference_engine.tls.stream import TlsStream

if TYPE_CHECKING:
    from reference_engine.engine import Engine

BACKLOG = 1024


class PublicListener:
    """One TCP port for agents, tunnels and the engine's API, told apart by server name and ALPN (EDGE-009)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], TcpStream] = {}
        self._streams: set[TcpStream] = set()

    @property
    def connections(self) -> int:
        """Connections that are open now, those that are closing included."""
        return len(self._streams)

    async def start(self) -> Address:
        """Listen; the address has the port that the system gave. Raises ConfigError."""
        listen = self._engine.settings.listen
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._make_stream, listen.host, listen.port, backlog=BACKLOG)
        except OSError as problem:
            raise ConfigError(f"listen: cannot listen on {listen}: {problem.strerror or problem}") from None
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(str(host), int(port))

    async def stop(self, grace: float) -> None:
        """Accept no more; what is served may end by itself within `grace` seconds, then it is aborted."""
        if self._server is not None:
            self._server.close()
        if self._serving and grace > 0:
            await asyncio.wait(set(self._serving), timeout=grace)
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        streams = list(self._streams)
        for stream in streams:
            stream.abort("the engine stops")
        await asyncio.gather(*(stream.wait_gone() for stream in streams))
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _make_stream(self) -> TcpStream:
        settings = self._engine.settings
        return TcpStream(
            buffer=settings.stream_buffer_bytes,
            close_timeout=settings.close_timeout_ms / 1000,
            accepted=self._accepted,
            gone=self._streams.discard,
        )

    def _accepted(self, stream: TcpStream) -> None:
        if len(self._streams) >= self._engine.settings.max_connections:
            self._engine.log.warning("connection refused peer=%s reason=max_connections", stream.peer)
            stream.abort("too many connections")
            return
        self._streams.add(stream)
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._serving[task] = stream
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        stream = self._serving.pop(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not isinstance(problem, StreamReset):
            self._engine.log.error("connection failed peer=%s problem=%r", stream.peer, problem, exc_info=problem)
        if task.cancelled() or problem is not None:
            stream.abort("no longer served")

    async def _serve(self, stream: TcpStream) -> None:
        try:
            async with asyncio.timeout(self._engine.settings.handshake_timeout_ms / 1000):
                route, tls = await self._arrive(stream)
        except TimeoutError:
            stream.abort("handshake timed out")
            return
        except StreamReset as problem:
            self._engine.log.debug("connection broke peer=%s reason=%r", stream.peer, problem.reason)
            await stream.close()
            return
        await self._hand_over(route, stream, tls)
        await (tls or stream).close()

    async def _arrive(self, stream: TcpStream) -> tuple[Route, TlsStream | None]:
        """The route of a new connection, and its TLS where the engine ends that."""
        engine = self._engine
        hello, route = await self._routed(stream)
        if route.front is Front.REFUSED:
            if route.reason:
                name = hello.server_name if hello is not None else None
                engine.log.info("connection refused peer=%s name=%r reason=%r", stream.peer, name, route.reason)
            await self._refuse(stream, route.alert)
            return route, None
        if hello is None or route.front is Front.PASSTHROUGH:
            return route, None
        tls = TlsStream(
            stream,
            engine.parts.tls_endpoints.server(self._server_tls(route, hello)),
            server_name=engine.parts.edge.normal_name(hello.server_name),
            close_timeout=engine.settings.close_timeout_ms / 1000,
        )
        await tls.handshake()
        return route, tls

    async def _routed(self, stream: TcpStream) -> tuple[ClientHello | None, Route]:
        """The ClientHello, None where there is none, and the way of the connection. Everything read is put back into
        the stream."""
        engine = self._engine
        rules = engine.parts.edge
        reader = HelloReader(engine.settings.max_client_hello_bytes, rules.read_hello)
        hello: ClientHello | None = None
        try:
            while hello is None:
                data = await stream.read()
                if not data:
                    # Probes and health checks connect and go: not worth a line.
                    return None, Route(Front.REFUSED)
                hello = reader.feed(data)
            route = rules.route(hello, engine.registry, engine.settings.domain)
        except HelloError as problem:
            route = Route(Front.REFUSED, alert=problem.alert, reason=problem.reason)
            if problem.alert is None:
                route = rules.plaintext(bytes(reader.raw), engine.registry)
        stream.unread(bytes(reader.raw))
        return hello, route

    async def _refuse(self, stream: TcpStream, alert: int | None) -> None:
        if alert is not None:
            await stream.write(alert_record(alert))
        await stream.close()

    def _server_tls(self, route: Route, hello: ClientHello) -> ServerTls:
        """The rule set of a terminated connection."""
        parts, settings = self._engine.parts, self._engine.settings
        configured = parts.edge.alpns(route)
        agents = route.front is Front.AGENTS
        own = route.tunnel.properties if route.tunnel is not None else None
        lowest = parts.tls.min_version(own.tls_min_version if own else None, settings.project_tls_min_version)
        return ServerTls(
            certificate=parts.edge.certificate(route, self._engine.certificates.current()),
            select_alpn=lambda offered: parts.tls.select_alpn(offered, configured),
            min_version=parts.agent.min_version() if agents else lowest,
            suites=parts.tls.suites(own.tls_ciphers if own else ()),
            request_certificate=agents and parts.agent.requests_certificate(),
            resume=not agents and parts.tls.may_resume(hello.versions),
        )

    async def _hand_over(self, route: Route, stream: TcpStream, tls: TlsStream | None) -> None:
        engine, tunnel = self._engine, route.tunnel
        if tls is None:
            if route.front is Front.PASSTHROUGH and tunnel is not None:
                await engine.tls_tunnels.serve_passthrough(stream, tunnel)
        elif tunnel is None:
            await (engine.agents.serve(tls) if route.front is Front.AGENTS else engine.api.serve(tls))
        elif route.front is Front.HTTP:
            await engine.http.serve(tls, tunnel)
        else:
            await engine.tls_tunnels.serve_terminated(tls, tunnel)
