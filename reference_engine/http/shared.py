"""Upstream connections that carry many exchanges at once: one per tunnel and client address, another when it is full.

Requests that come while a connection is being opened wait for it, and so do those that come before its peer has said
how many streams it takes; so a burst opens one connection and not one for each request. A connection without exchanges
is kept for as long as the pool says. What ended, and what takes no more requests, is let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from reference_engine.http.leg import Multiplexed, Upstream
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import Tunnel

Key = tuple[str, str]
"""Tunnel and client address: an agent is told the address once per stream."""
SETTLING = 5.0
"""Seconds that a request waits for the settings of a connection before it opens another."""
Opens = Callable[[Tunnel, Address | None], Awaitable[Multiplexed | Upstream]]
"""Opens a connection, and raises what the exchange makes an answer of. `Upstream` where the connection turned out to
be for one exchange alone."""


class SharedPool:
    """Multiplexed connections. `idle` is in seconds."""

    def __init__(self, opens: Opens, *, idle: float) -> None:
        self._opens = opens
        self._idle_time = idle
        self._kept: dict[Key, list[Multiplexed]] = {}
        self._opening: dict[Key, asyncio.Task[Multiplexed | Upstream]] = {}
        self._changed: dict[Key, asyncio.Future[None]] = {}
        """For those who wait for a connection to be settled."""
        self._timers: dict[Multiplexed, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def acquire(self, tunnel: Tunnel, source: Address | None, *, again: bool = False) -> Upstream:
        """A place for one request. `again`: on a connection of its own, because a shared one did not take it."""
        key = (tunnel.id, source.host if source is not None else "")
        while not again:
            place = self.place(key)
            if place is not None:
                return place
            if key in self._opening:
                if not await self._opened(self._opening[key]):
                    break
            elif any(one.usable and not one.settled for one in self._kept.get(key, ())):
                if not await self._settled(key):
                    break
            else:
                break
        return await self._open(key, tunnel, source)

    def place(self, key: Key) -> Upstream | None:
        """A place on a connection that is here and has room."""
        for connection in self._kept.get(key, ()):
            if connection.usable and connection.room:
                return self._begin(connection)
        return None

    def adopt(self, tunnel: Tunnel, source: Address | None, connection: Multiplexed) -> Upstream:
        """Keep a connection that was opened elsewhere, and take a place on it."""
        return self._begin(self._keep((tunnel.id, source.host if source is not None else ""), connection))

    async def _open(self, key: Key, tunnel: Tunnel, source: Address | None) -> Upstream:
        task = asyncio.ensure_future(self._opens(tunnel, source))
        if key not in self._opening:
            self._opening[key] = task
        try:
            found = await task
        except asyncio.CancelledError:
            # It may have come about in the very moment in which nobody wants it any more.
            if task.done() and not task.cancelled() and task.exception() is None:
                self._unwanted(key, task.result())
            raise
        finally:
            if self._opening.get(key) is task:
                del self._opening[key]
        return found if isinstance(found, Upstream) else self._begin(self._keep(key, found))

    def _unwanted(self, key: Key, found: Multiplexed | Upstream) -> None:
        """A connection that came too late is there for the next request."""
        if isinstance(found, Upstream):
            found.release()
        else:
            self._look(key, self._keep(key, found))

    def _keep(self, key: Key, connection: Multiplexed) -> Multiplexed:
        self._kept.setdefault(key, []).append(connection)
        connection.changed = partial(self._look, key, connection)
        return connection

    def _begin(self, connection: Multiplexed) -> Upstream:
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        return connection.begin()

    async def _opened(self, opening: asyncio.Task[Multiplexed | Upstream]) -> bool:
        """Wait for a connection that somebody opens; False when it is for one exchange alone. What went wrong with it
        goes wrong for all who wait; but whoever opens it may leave, and then the next one tries."""
        await asyncio.wait({opening})
        return opening.cancelled() or isinstance(opening.result(), Multiplexed)

    async def _settled(self, key: Key) -> bool:
        """Wait until something changed about the connections; False when nothing did for too long."""
        waited = self._changed.get(key)
        if waited is None:
            waited = self._changed[key] = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait({waited}, timeout=SETTLING)
        return bool(done)

    def _look(self, key: Key, connection: Multiplexed) -> None:
        """Something changed on a connection: let it go, give it its idle time, wake who waits."""
        waited = self._changed.pop(key, None)
        if waited is not None:
            waited.set_result(None)
        if not connection.usable or (connection.active == 0 and self._spare(key, connection)):
            self._forget(key, connection)
        elif connection.active == 0 and connection not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[connection] = loop.call_later(self._idle_time, self._forget, key, connection)

    def _spare(self, key: Key, connection: Multiplexed) -> bool:
        """Whether an idle connection is one too many: another one has room."""
        return any(one is not connection and one.usable and one.room for one in self._kept.get(key, ()))

    def _forget(self, key: Key, connection: Multiplexed) -> None:
        """No further request goes there; it ends when its last exchange is over."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        kept = self._kept.get(key, [])
        if connection in kept:
            kept.remove(connection)
            if not kept:
                del self._kept[key]
            self.part(connection)

    def part(self, connection: Multiplexed) -> None:
        """Close a connection that no request goes to any more, in its own time."""
        task = asyncio.get_running_loop().create_task(connection.close())
        # Nobody waits for those that still carry something: they end with it.
        tasks = self._leaving if connection.active else self._closing
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def drop_tunnel(self, tunnel: Tunnel) -> None:
        """The tunnel was closed: its exchanges are ended by themselves, its connections behind them."""
        for key in [key for key in self._kept if key[0] == tunnel.id]:
            for connection in list(self._kept[key]):
                self._forget(key, connection)

    @property
    def size(self) -> int:
        """Connections at the moment."""
        return sum(map(len, self._kept.values()))

    async def close(self) -> None:
        """Close every connection, and wait for those that carry nothing."""
        for key in list(self._kept):
            for connection in list(self._kept.get(key, ())):
                self._forget(key, connection)
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
