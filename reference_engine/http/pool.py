"""Upstream connections: one request at a time on each, kept for the next one while that is safe.

A connection goes back to the pool only when both messages are complete and nothing is left over. Whatever comes on an
idle connection, data or an end, is unsolicited and kills it (RFC 9112 sections 6.3 and 9.2), so no response can ever be
taken for the answer to a later request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from reference_engine.http.events import Data, End, Event, RequestHead, Reset
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.inbox import Inbox, RawStream
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tunnel.model import Tunnel


class UpstreamConnection:
    """One stream to an agent with an HTTP/1.1 codec on it. `fresh` until its first request is over."""

    def __init__(self, stream: ByteStream, codec: H1ClientCodec, tunnel: Tunnel, client: str) -> None:
        self.stream = stream
        self.codec = codec
        self.tunnel = tunnel
        self.client = client
        self.inbox = Inbox(stream)
        self.fresh = True
        self._aborted = False

    async def send(self, *events: RequestHead | Data | End) -> None:
        """Write the octets of the events in one go. Raises StreamReset."""
        await self.stream.write(b"".join([self.codec.send(event) for event in events]))

    def next_event(self) -> Event | None:
        """The next event of the response that is already here."""
        event = self.codec.next_event()
        if event is None and self.inbox.pending:
            self.codec.receive(self.inbox.take())
            event = self.codec.next_event()
        return event

    async def receive(self) -> Event:
        """The next event of the response when `next_event` has none; every kind of trouble is a `Reset`. Waits as long
        as `inbox` is armed for."""
        while True:
            try:
                data = await self.inbox.read()
            except TimeoutError:
                return Reset("upstream-silent")
            except StreamReset:
                return Reset("upstream-truncated" if self.codec.answered else "upstream-reset")
            if data:
                self.codec.receive(data)
            elif self.codec.over:
                return Reset("upstream-closed")
            else:
                self.codec.eof()
            event = self.codec.next_event()
            if event is not None:
                return event

    @property
    def reusable(self) -> bool:
        """Whether another request may go out here."""
        quiet = not (self._aborted or self.inbox.pending or self.inbox.over)
        return quiet and self.codec.reusable and self.tunnel.open

    def raw(self) -> RawStream:
        """The connection as a plain stream, from the first octet behind the response head."""
        return RawStream(self.stream, self.inbox, self.codec.leftover())

    def abort(self, reason: str) -> None:
        """Drop the connection at once; a waiting `receive` returns."""
        self._aborted = True
        self.stream.abort(reason)

    async def close(self) -> None:
        """Let the connection go: cleanly, unless it was aborted."""
        try:
            if not self._aborted:
                await self.stream.close()
        finally:
            self.inbox.close()


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
        self._idle: dict[tuple[str, str], list[UpstreamConnection]] = {}
        self._timers: dict[UpstreamConnection, float] = {}
        """When each idle connection is dropped."""
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(self, tunnel: Tunnel, source: Address | None, *, reuse: bool) -> UpstreamConnection:
        """A connection to the tunnel's upstream: the idle one that was used last if `reuse` allows, else a new one."""
        client = source.host if source is not None else ""
        idle = self._idle.get((tunnel.id, client)) if reuse else None
        while idle:
            connection = idle[-1]
            self._forget(connection)
            if connection.reusable:
                connection.codec.next_cycle()
                return connection
            self._let_go(connection)
        return UpstreamConnection(await self._connect(tunnel, source), self._codec(), tunnel, client)

    def release(self, connection: UpstreamConnection) -> None:
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

    def _forget(self, connection: UpstreamConnection) -> None:
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

    def _drop(self, connection: UpstreamConnection) -> None:
        """An idle connection timed out, was disturbed, or its tunnel ended."""
        if connection in self._timers:
            self._forget(connection)
            self._let_go(connection)

    def _let_go(self, connection: UpstreamConnection) -> None:
        task = asyncio.get_running_loop().create_task(self._close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, connection: UpstreamConnection) -> None:
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
