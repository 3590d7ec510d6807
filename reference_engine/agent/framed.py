"""A datagram channel on a byte stream: framed packets, of which none is lost (agent protocol sections 2.5a and 4.6)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from reference_engine.agent.datagram_rules import DatagramRules
from reference_engine.agent.packets import PacketError
from reference_engine.relay.datagram import ChannelClosed, DatagramChannel
from reference_engine.relay.stream import ByteStream, StreamReset


class FramedChannel(DatagramChannel):
    """Packets on `stream`, which is nobody else's from here on; its end is the channel's end.

    `buffer` (octets) is the high-water mark of the send queue: whoever awaits `drained` loses nothing, and what comes
    above it is dropped and counted in `dropped`. Towards us the stream's own backpressure holds, so nothing is dropped.
    `close_timeout` (seconds) is how long what is queued may take to leave when the channel is closed.
    """

    reliable = True

    def __init__(
        self, stream: ByteStream, rules: DatagramRules, *, buffer: int = 262_144, close_timeout: float = 5.0
    ) -> None:
        self.peer = stream.peer
        self.max_packet = rules.longest()
        self.dropped = 0
        self._stream = stream
        self._rules = rules
        self._buffer = buffer
        self._close_timeout = close_timeout
        self._reader = rules.reader()
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._moving: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._closing = False
        self._over: str | None = None

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, packet: bytes) -> bool:
        """See `DatagramChannel.send`."""
        if len(packet) > self.max_packet or self._closing or self._over is not None or self._queued >= self._buffer:
            self.dropped += 1
            return False
        framed = self._rules.frame(packet)
        self._queue.append(framed)
        self._queued += len(framed)
        if self._moving is None:
            self._moving = asyncio.get_running_loop().create_task(self._move())
        return True

    async def drained(self) -> None:
        """See `DatagramChannel.drained`. Whoever sends in the step in which this returns has room."""
        while self._over is None and self._queued >= self._buffer:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self._over is not None:
            raise ChannelClosed(self._over)

    async def _move(self) -> None:
        """Write what is queued, all that has gathered at once."""
        try:
            while self._queue:
                data = b"".join(self._queue)
                self._queue.clear()
                await self._stream.write(data)
                self._queued -= len(data)
                self._wake()
        except StreamReset as problem:
            self._end(problem.reason)
        finally:
            self._moving = None

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _end(self, reason: str) -> None:
        """Nothing moves any more."""
        if self._over is None:
            self._over = reason
        self._queue.clear()
        self._wake()

    # -- receiving -------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """See `DatagramChannel.receive`."""
        while (packet := self._next()) is None:
            try:
                self._feed(await self._stream.read())
            except StreamReset as problem:
                raise ChannelClosed(problem.reason) from None
        return packet

    def receive_now(self) -> bytes | None:
        """See `DatagramChannel.receive_now`."""
        while (packet := self._next()) is None:
            try:
                data = self._stream.read_now()
            except StreamReset as problem:
                raise ChannelClosed(problem.reason) from None
            if data is None:
                return None
            self._feed(data)
        return packet

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """See `DatagramChannel.on_arrival`."""
        self._stream.on_arrival(arrived)

    def _next(self) -> bytes | None:
        try:
            return self._reader.next()
        except PacketError as problem:
            # Where the next packet begins cannot be known: the stream ends, as no orderly one (AGENT-098).
            self.abort(str(problem))
            raise ChannelClosed(str(problem)) from None

    def _feed(self, data: bytes) -> None:
        if not data:
            raise ChannelClosed("ended inside a packet" if self._reader.inside else "closed")
        self._reader.feed(data)

    # -- the end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """See `DatagramChannel.close`."""
        if self._closing:
            return
        self._closing = True
        moving = self._moving
        if moving is not None:
            await asyncio.wait({moving}, timeout=self._close_timeout)
            if not moving.done():
                self.abort("close timed out")
                return
        self._end("closed")
        try:
            await self._stream.close()
        except StreamReset as problem:
            self._stream.abort(problem.reason)

    def abort(self, reason: str) -> None:
        """See `DatagramChannel.abort`."""
        self._closing = True
        self._end(reason)
        if self._moving is not None:
            self._moving.cancel()
        self._stream.abort(reason)
