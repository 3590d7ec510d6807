"""Upstream connections of HTTP/1.1: one request at a time on each, kept for the next one while that is safe.

A connection goes back to the pool only when both messages are complete and nothing is left over. Whatever comes on an
idle connection, data or an end, is unsolicited and kills it (RFC 9112 sections 6.3 and 9.2), so no response can ever be
taken for the answer to a later request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_upstream import H1Upstream
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tunnel.model import Tunnel

Connect = Callable[[Tunnel, Address | None], Awaitable[ByteStream]]


class Pool:
    """Idle upstream connections by tunnel and client address (an agent is told the address once per stream).

    `connect` opens a stream and raises what the exchange makes an answer of; `idle` is in seconds.
    """

    def __init__(self, connect: Connect, codec: Callable[[], H1ClientCodec], *, idle: float, most: int) -> None:
        self._connect = connect
        self._codec = codec
        self._idle_time = idle
        self._most = most
        self._idle: dict[tuple[str, str], list[H1Upstream]] = {}
        self._timers: dict[H1Upstream, float] = {}
        """When each idle connection is dropped."""
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(self, tunnel: Tunnel, source: Address | None, *, reuse: bool) -> H1Upstream:
        """A connection to the tunnel's upstream: the idle one that was used last if `reuse` allows, else a new one."""
        connection = self.idle(tunnel, source) if reuse else None
        if connection is None:
            stream = await self._connect(tunnel, source)
            connection = self.adopt(stream, tunnel, source.host if source is not None else "")
        return connection

    def idle(self, tunnel: Tunnel, source: Address | None) -> H1Upstream | None:
        """The idle connection that was used last, ready for the next request."""
        idle = self._idle.get((tunnel.id, source.host if source is not None else ""))
        while idle:
            connection = idle[-1]
            self._forget(connection)
            if connection.reusable:
                connection.codec.next_cycle()
                return connection
            self._let_go(connection)
        return None

    def adopt(self, stream: ByteStream, tunnel: Tunnel, client: str) -> H1Upstream:
        """A fresh connection on an open stream."""
        return H1Upstream(stream, self._codec(), tunnel, client, self.release)

    def release(self, connection: H1Upstream) -> None:
        """The exchange is over: keep the connection, or close it."""
        connection.inbox.disarm()
        if self._most == 0 or not connection.reusable:
            self._let_go(connection)
            return
        connection.fresh = False
        idle = self._idle.setdefault((connection.tunnel.id, connection.client), [])
        if len(idle) >= self._most:
            self._drop(idle[0])
            idle = self._idle.setdefault((connection.tunnel.id, connection.client), [])
        idle.append(connection)
        drop = partial(self._drop, connection)
        connection.inbox.on_data = connection.inbox.on_end = drop
        loop = asyncio.get_running_loop()
        until = self._timers[connection] = loop.time() + self._idle_time
        if self._timer is None:
            self._timer = loop.call_at(until, self._due, until)

    def _due(self, when: float) -> None:
        """The one timer of the pool ran: drop what has been idle for long enough. All are given the same time, so the
        one that was released first is due first."""
        self._timer = None
        for connection, until in list(self._timers.items()):
            if until > when:
                self._timer = asyncio.get_running_loop().call_at(until, self._due, until)
                return
            self._drop(connection)

    @property
    def size(self) -> int:
        """Idle connections at the moment."""
        return len(self._timers)

    def _forget(self, connection: H1Upstream) -> None:
        """No longer idle."""
        del self._timers[connection]
        connection.inbox.on_data = connection.inbox.on_end = None
        key = (connection.tunnel.id, connection.client)
        self._idle[key].remove(connection)
        if not self._idle[key]:
            del self._idle[key]

    def drop_tunnel(self, tunnel: Tunnel) -> None:
        """Close what is idle for the tunnel."""
        for connection in [one for one in self._timers if one.tunnel is tunnel]:
            self._drop(connection)

    def _drop(self, connection: H1Upstream) -> None:
        """An idle connection timed out, was disturbed, or its tunnel ended."""
        if connection in self._timers:
            self._forget(connection)
            self._let_go(connection)

    def _let_go(self, connection: H1Upstream) -> None:
        task = asyncio.get_running_loop().create_task(self._close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: H1Upstream) -> None:
        try:
            await connection.close()
        except StreamReset as problem:
            connection.abort(problem.reason)

    async def close(self) -> None:
        """Close every idle connection and wait for those that are closing."""
        for connection in list(self._timers):
            self._drop(connection)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._closing:
            await asyncio.gather(*self._closing)
