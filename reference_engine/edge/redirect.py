"""The plain HTTP listener: sends everybody to https, forwards nothing (EDGE-010)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reference_engine.config import ConfigError
from reference_engine.http.errors import Fault, reason_phrase
from reference_engine.http.events import End, ResponseHead
from reference_engine.http.forward import date
from reference_engine.http.h1_downstream import H1Connection, H1Downstream
from reference_engine.relay.stream import Address, StreamReset
from reference_engine.relay.tcp import TcpStream

if TYPE_CHECKING:
    from reference_engine.engine import Engine


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
        rules = self._engine.parts.edge
        location = rules.redirect_location(down.head, self._engine.public_address.port)
        if isinstance(location, Fault):
            await down.refuse(location, close=True)
            return
        if not down.complete:
            down.close_after()
        status = rules.redirect_status(down.head.version)
        fields = [(b"Date", date()), (b"Location", location), (b"Content-Length", b"0")]
        down.put(ResponseHead(status, fields, reason_phrase(status)))
        down.put(End())
        await down.flush()
