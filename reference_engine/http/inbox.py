"""What a peer has sent and nobody has used yet: taken as it arrives, with a bound.

Reading goes on while a response is under way, so a peer that goes away is noticed at once, and what comes on an idle
upstream connection is seen as what it is: unsolicited. Above the bound nothing is read, which stalls the sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reference_engine.relay.stream import ByteStream, StreamReset

BOUND = 65_536
"""Unused octets at which reading stops; one read more (262,144 at most) may stand above it."""


class Inbox:
    """The unread octets of `stream`. `on_end` is called once, when the stream ends or breaks; `on_data` on each
    arrival."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._data = b""
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._full = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._expired = False
        self._loop = asyncio.get_running_loop()
        self.ended = False
        self.reset: str | None = None
        self.on_end: Callable[[], None] | None = None
        self.on_data: Callable[[], None] | None = None
        stream.on_arrival(self._pull)
        # What is there already is taken once the owner has said what it wants to hear of.
        self._loop.call_soon(self._pull)

    def _pull(self) -> None:
        """Take what has arrived, up to the bound."""
        if self._closed or self.over:
            return
        try:
            while not self._full:
                data = self._stream.read_now()
                if data is None:
                    return
                if not data:
                    self.ended = True
                    break
                self._data = self._data + data if self._data else data
                self._full = len(self._data) >= BOUND
                self._wake()
                if self.on_data is not None:
                    self.on_data()
            else:
                return
        except StreamReset as problem:
            self.reset = problem.reason
        self._stream.on_arrival(None)
        self._wake()
        if self.on_end is not None:
            self.on_end()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def pending(self) -> bool:
        """Whether octets are waiting."""
        return bool(self._data)

    @property
    def over(self) -> bool:
        """Whether the stream has ended or broken."""
        return self.ended or self.reset is not None

    def take(self) -> bytes:
        """What is there now, perhaps nothing."""
        data, self._data = self._data, b""
        if self._full:
            self._full = False
            self._loop.call_soon(self._pull)
        return data

    async def read(self) -> bytes:
        """The next octets, or `b""` at the clean end. Raises StreamReset, and TimeoutError when an armed timer is
        over."""
        while (data := self.read_now()) is None:
            if self._expired:
                raise TimeoutError
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return data

    def read_now(self) -> bytes | None:
        """As `read`, but None instead of waiting."""
        if self._data:
            return self.take()
        if self.reset is not None:
            raise StreamReset(self.reset)
        return b"" if self.ended else None

    def arm(self, seconds: float) -> None:
        """From now on, `read` may take this long altogether, until `disarm`.

        The timer of the loop stays where it is unless it would be late, and finds out for itself that it was early:
        deadlines come and go with every request, and nearly none of them is ever met.
        """
        self._expired = False
        deadline = self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > deadline:
            self._set_timer(deadline)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._due, when)

    def _due(self, when: float) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._deadline > when:
            self._set_timer(self._deadline)
        else:
            self.expire()

    def disarm(self) -> None:
        """Take the deadline back, whether it is over or not."""
        self._expired = False
        self._deadline = None

    def expire(self) -> None:
        """Run the timer out now."""
        self._expired = True
        self._wake()

    def close(self) -> None:
        """Stop reading. What is there stays."""
        self.on_end = self.on_data = None
        self.disarm()
        if self._timer is not None:
            self._timer.cancel()
        self._closed = True
        self._stream.on_arrival(None)


class RawStream(ByteStream):
    """The connection below an HTTP codec as a plain byte stream again: first what the codec left over, then the
    rest."""

    def __init__(self, stream: ByteStream, inbox: Inbox, leftover: bytes) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._inbox = inbox
        self._leftover = leftover
        inbox.on_end = inbox.on_data = None
        inbox.disarm()

    async def read(self) -> bytes:
        """See `ByteStream.read`."""
        if self._leftover:
            data, self._leftover = self._leftover, b""
            return data
        return await self._inbox.read()

    def read_now(self) -> bytes | None:
        """See `ByteStream.read_now`."""
        if self._leftover:
            data, self._leftover = self._leftover, b""
            return data
        return self._inbox.read_now()

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """See `ByteStream.on_arrival`."""
        self._inbox.on_data = self._inbox.on_end = arrived

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream.write`."""
        await self._stream.write(data)

    async def end(self) -> None:
        """See `ByteStream.end`."""
        await self._stream.end()

    async def close(self) -> None:
        """See `ByteStream.close`."""
        await self._stream.close()

    def abort(self, reason: str) -> None:
        """See `ByteStream.abort`."""
        self._stream.abort(reason)
