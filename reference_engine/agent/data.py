"""A connection behind its handshake frame: from there on it is a data stream like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from reference_engine.relay.stream import ByteStream

AHEAD = 65_536
"""Octets of a peer that are kept before the other leg is there."""


class DataStream(ByteStream):
    """The same stream, beginning with the bytes that came glued behind the handshake frame (EDGE-029).

    `finished` is done once the stream was closed or aborted; `on_end` is called then, once. `received` counts the
    octets that were read, `waiting` says that somebody waits for more.
    """

    def __init__(self, inner: ByteStream, head: bytes, on_end: Callable[[], None] | None = None) -> None:
        self.peer = inner.peer
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = 0
        self.waiting = False
        self._inner = inner
        self._head = [head] if head else []
        self._on_end = on_end

    async def read(self) -> bytes:
        """The glued bytes first."""
        self.waiting = True
        try:
            data = self._head.pop(0) if self._head else await self._inner.read()
        finally:
            self.waiting = False
        # Behind the end nothing can come: as good as waiting for it.
        self.waiting = not data
        self.received += len(data)
        return data

    def read_now(self) -> bytes | None:
        """The glued bytes first."""
        data = self._head.pop(0) if self._head else self._inner.read_now()
        self.waiting = not data
        self.received += len(data or b"")
        return data

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """As the inner stream."""
        self._inner.on_arrival(arrived)

    async def fill(self) -> None:
        """Read ahead and keep it: how to notice, while waiting for the other leg, that the peer is gone.

        Returns at the peer's end, or when enough is kept. Raises StreamReset. Cancelling it loses nothing.
        """
        while sum(map(len, self._head)) < AHEAD:
            data = await self._inner.read()
            if not data:
                return
            self._head.append(data)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """As the inner stream."""
        await self._inner.write(data)

    async def end(self) -> None:
        """As the inner stream."""
        await self._inner.end()

    async def close(self) -> None:
        """As the inner stream."""
        try:
            await self._inner.close()
        finally:
            self._finish()

    async def cut(self, reason: str) -> None:
        """As the inner stream."""
        try:
            await self._inner.cut(reason)
        finally:
            self._finish()

    def abort(self, reason: str) -> None:
        """As the inner stream."""
        self._inner.abort(reason)
        self._finish()

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()


class Leg(Protocol):
    """What stands towards an agent: a stream or a datagram channel."""

    def abort(self, reason: str) -> None:
        """Drop it at once."""


L = TypeVar("L", bound=Leg)


async def while_there(opening: Coroutine[Any, Any, L], peer: DataStream) -> L:
    """The leg that `opening` gives, unless `peer`, who waits for it, goes away: nobody is kept busy for somebody who
    has left (AGENT-072).

    Raises what `opening` raises, and StreamReset when the peer is gone.
    """
    task = asyncio.create_task(opening)
    watching = asyncio.create_task(peer.fill())
    try:
        await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            # Raises StreamReset when the peer is gone.
            watching.result()
        # Shielded: a stream that has just come must not get lost with whoever waited for it.
        return await asyncio.shield(task)
    except BaseException:
        await _cancel(task)
        if not task.cancelled() and task.exception() is None:
            task.result().abort("nobody waits for the stream")
        raise
    finally:
        await _cancel(watching)


async def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel and wait; what the task raises was of interest to nobody else."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
