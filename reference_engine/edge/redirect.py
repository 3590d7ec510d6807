"""The plain HTTP listener: sends everybody to https, forwards nothing (EDGE-010)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reference_engine.config import ConfigError
from reference_engine.http.errors import Fault
from reference_engine.http.events import End, ResponseHead
from reference_engine.http.events import values as field_values
from reference_engine.http.forward import ABSOLUTE, date
from reference_engine.http.server import H1Connection, H1Downstream
from reference_engine.http.syntax import HOST
from reference_engine.relay.stream import Address, StreamReset
from reference_engine.relay.tcp import TcpStream

if TYPE_CHECKING:
    from reference_engine.engine import Engine

HTTPS_PORT = 443


class RedirectListener:
    """One TCP port on which every valid request gets a redirect to the same host and target under https."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], TcpStream] = {}

    async def start(self) -> Address:
        """Listen; the address has the port that the system gave. Raises ConfigError."""
        listen = self._engine.settings.http_listen
        assert listen is not None
        try:
            self._server = await asyncio.get_running_loop().create_server(self._make_stream, listen.host, listen.port)
        except OSError as problem:
            raise ConfigError(f"http_listen: cannot listen on {listen}: {problem.strerror or problem}") from None
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(str(host), int(port))

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is not None:
            self._server.close()
        streams = list(self._tasks.values())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in streams:
            stream.abort("the engine stops")
            await stream.wait_gone()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _make_stream(self) -> TcpStream:
        settings = self._engine.settings
        return TcpStream(
            buffer=settings.stream_buffer_bytes,
            close_timeout=settings.close_timeout_ms / 1000,
            accepted=self._accepted,
        )

    def _accepted(self, stream: TcpStream) -> None:
        if len(self._tasks) >= self._engine.settings.max_connections:
            stream.abort("too many connections")
            return
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks[task] = stream
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        stream = self._tasks.pop(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not isinstance(problem, StreamReset):
            self._engine.log.error("redirect for %s: %r", stream.peer, problem, exc_info=problem)

    async def _serve(self, stream: TcpStream) -> None:
        engine = self._engine
        await H1Connection(stream, engine.parts.http, engine.settings, self._answer).run()
        await stream.wait_gone()

    async def _answer(self, down: H1Downstream) -> None:
        location = self.location(down)
        if isinstance(location, Fault):
            await down.refuse(location, close=True)
            return
        if not down.complete:
            down.close_after()
        # 308 keeps the method; the older 301 is for clients that know no other (RFC 9110 sections 15.4.2 and 15.4.9).
        status, reason = (308, b"Permanent Redirect") if down.head.version == b"1.1" else (301, b"Moved Permanently")
        fields = [(b"Date", date()), (b"Location", location), (b"Content-Length", b"0")]
        down.put(ResponseHead(status, fields, reason))
        down.put(End())
        await down.flush()

    def location(self, down: H1Downstream) -> bytes | Fault:
        """`https://<host>[:port]<target>`: the host that was asked for, the port of the public listener."""
        target = down.head.target
        absolute = ABSOLUTE.fullmatch(target)
        hosts = field_values(down.head.fields, b"host")
        authority, rest = (absolute[2], absolute[3]) if absolute else (hosts[0] if hosts else b"", target)
        host = HOST.fullmatch(authority)
        if host is None or not host[1]:
            return Fault(400, "the request names no valid host")
        if down.head.method == b"CONNECT" or (rest != b"*" and rest and rest[:1] not in (b"/", b"?")):
            return Fault(400, "the request target is not valid")
        port = self._engine.public_address.port
        path = rest if rest.startswith(b"/") else b"/" if rest in (b"", b"*") else b"/" + rest
        return b"https://" + host[1] + (b"" if port == HTTPS_PORT else b":%d" % port) + path
