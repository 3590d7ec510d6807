"""A stream of a QUIC connection as a `ByteStream`.

FIN is the clean end of one direction, RESET_STREAM is a reset of it, with its code; STOP_SENDING is seen by whoever
writes (RFC 9000 section 3). A read grants credit; a write waits while too much is unsent or not acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from reference_engine.relay.stream import ByteStream, StreamReset

if TYPE_CHECKING:
    from reference_engine.quic.connection import QuicEnd
    from reference_engine.quic.transport import QuicTransport

CHUNK = 262_144
"""Most octets that one `read` returns (the contract of `ByteStream.read`)."""
CUT_SECONDS = 5.0
"""The longest that what is queued may take to be acknowledged before a stream is cut."""
NO_CODE = 0
"""The code of a direction that ends without a code of its own."""


class QuicReset(StreamReset):
    """The peer has ended its direction with RESET_STREAM; `code` is the application's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream reset with {code:#x}")
        self.code = code


class QuicStopped(StreamReset):
    """The peer reads no more: STOP_SENDING with the application's `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream stopped with {code:#x}")
        self.code = code


class QuicClosed(StreamReset):
    """The connection of the stream is over: `end` says how."""

    def __init__(self, end: QuicEnd) -> None:
        super().__init__(f"connection over: by {end.by}, code {end.code:#x}")
        self.end = end


class QuicStream(ByteStream):
    """One stream. `id` is its number; `readable` and `writable` say which directions it has; `ours` who opened it."""

    def __init__(self, transport: QuicTransport, stream_id: int, *, ours: bool) -> None:
        self._transport = transport
        self.id = stream_id
        self.ours = ours
        self.unidirectional = bool(stream_id & 2)
        self.readable = not self.unidirectional or not ours
        self.writable = not self.unidirectional or ours
        self.peer = transport.peer
        self.broken: StreamReset | None = None
        self.reset_seen: QuicReset | None = None
        """The peer's RESET_STREAM, however much of the data in front of it was read."""
        self.stopped: QuicStopped | None = None
        """The peer's STOP_SENDING."""
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._fin = not self.readable
        self._abandoned = not self.readable
        self._ended = not self.writable
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._arrived: Callable[[], None] | None = None
        self._on_reset: Callable[[QuicReset], None] | None = None
        self._on_stop: Callable[[QuicStopped], None] | None = None
        self._gone = False

    @property
    def client_certificate(self) -> bytes | None:
        """The peer's own certificate in DER, where the connection has one."""
        chain = self._transport.peer_chain
        return chain[0] if chain else None

    @property
    def alpn(self) -> str | None:
        """The application protocol of the connection."""
        return self._transport.alpn

    @property
    def transport(self) -> QuicTransport:
        """The connection that carries the stream."""
        return self._transport

    @property
    def unread(self) -> int:
        """Octets that have come and were not read."""
        return self._unread

    @property
    def backlog(self) -> int:
        """Octets that were written and are not yet acknowledged."""
        return self._transport.connection.backlog(self.id)

    # -- the transport's side --------------------------------------------------------------------------------------

    def data_came(self, data: bytes, fin: bool) -> None:
        """Octets of the peer, in order."""
        if self._abandoned:
            self._transport.consumed(self, len(data), more=False)
        elif data:
            self._chunks.append(data)
            self._unread += len(data)
        self._fin = self._fin or fin
        self._wake_reader()

    def reset_came(self, code: int) -> None:
        """RESET_STREAM: nothing that was not read yet has to be told any more (RFC 9000 section 3.2)."""
        self.reset_seen = QuicReset(code)
        self._forget_unread()
        self._wake_reader()
        if self._on_reset is not None and not self._abandoned:
            self._on_reset(self.reset_seen)

    def stop_came(self, code: int) -> None:
        """STOP_SENDING; the RESET_STREAM that answers it has been queued already."""
        if self.stopped is not None:
            return
        self.stopped = QuicStopped(code)
        self._wake_writers()
        if self._on_stop is not None:
            self._on_stop(self.stopped)

    def connection_over(self, end: QuicEnd) -> None:
        """Nothing moves any more. What has come whole can still be read."""
        if self.broken is None:
            self.broken = QuicClosed(end)
        self._wake_reader()
        self._wake_writers()

    def gone(self) -> None:
        """The connection has forgotten the stream."""
        self._gone = True
        self._wake_writers()
        self._release()

    def room(self) -> bool:
        """Acknowledgements have come: whoever waits for some looks again. Whether nobody does any more."""
        if self.backlog < self._transport.high_water:
            self._wake_writers()
        return not self._writers

    def _release(self) -> None:
        if self._gone and not self._chunks:
            self._transport.release(self)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._arrived is not None:
            self._arrived()

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for waiter in writers:
            if not waiter.done():
                waiter.set_result(None)

    def _forget_unread(self) -> None:
        self._chunks.clear()
        self._unread = 0
        self._transport.settled(self)
        self._release()

    # -- reading ---------------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """See `ByteStream.read`. One reader at a time; cancelling it loses nothing. Raises QuicReset, QuicClosed."""
        while (data := self.read_now()) is None:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return data

    def read_now(self) -> bytes | None:
        """See `ByteStream.read_now`."""
        if self.reset_seen is not None:
            raise self.reset_seen
        if self._chunks:
            return self._take()
        if self._fin:
            return b""
        if self.broken is not None:
            # What was aborted has no clean end, not even for us: a relay would hand it on.
            raise self.broken
        return b"" if self._abandoned else None

    def _take(self) -> bytes:
        data = self._chunks.popleft()
        if len(data) > CHUNK:
            self._chunks.appendleft(data[CHUNK:])
            data = data[:CHUNK]
        elif self._chunks:
            pieces, size = [data], len(data)
            while self._chunks and size + len(self._chunks[0]) <= CHUNK:
                pieces.append(self._chunks.popleft())
                size += len(pieces[-1])
            data = b"".join(pieces)
        self._unread -= len(data)
        self._transport.consumed(self, len(data), more=not self._fin)
        self._release()
        return data

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """See `ByteStream.on_arrival`."""
        self._arrived = arrived

    def on_reset(self, reset: Callable[[QuicReset], None] | None) -> None:
        """Have `reset` called when the peer resets its direction, at once if it has; None ends that. For whoever must
        not wait until it reads again."""
        self._on_reset = reset
        if reset is not None and self.reset_seen is not None:
            reset(self.reset_seen)

    def stop(self, code: int) -> None:
        """Read no more, and ask the peer to stop (RFC 9000 section 3.5). Safe to call twice."""
        if self._abandoned:
            return
        self._abandoned = True
        asked = not self._fin and self.reset_seen is None and self.broken is None
        self._chunks.clear()
        self._transport.consumed(self, self._unread, more=False)
        self._unread = 0
        if asked:
            self._transport.stop_stream(self, code)
        self._wake_reader()
        self._release()

    # -- writing ---------------------------------------------------------------------------------------------------

    def on_stop(self, stopped: Callable[[QuicStopped], None] | None) -> None:
        """Have `stopped` called when the peer reads no more, at once if it has said so; None ends that."""
        self._on_stop = stopped
        if stopped is not None and self.stopped is not None:
            stopped(self.stopped)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream.write`. Raises QuicStopped, QuicClosed."""
        self._check_writable()
        if self._ended:
            raise StreamReset("write after the end")
        self._transport.send(self, bytes(data), fin=False)
        await self._below(self._transport.high_water)

    async def below_high_water(self) -> None:
        """Wait while too much of what was sent past `write` is not acknowledged. Raises QuicStopped, QuicClosed."""
        self._check_writable()
        await self._below(self._transport.high_water)

    async def _below(self, octets: int) -> None:
        """Wait until fewer than so many octets wait to be acknowledged."""
        while self.backlog >= octets:
            waiter = asyncio.get_running_loop().create_future()
            self._writers.append(waiter)
            self._transport.blocked(self)
            await waiter
            self._check_writable()

    def _check_writable(self) -> None:
        problem = self.stopped or self.broken
        if problem is not None:
            raise problem

    async def end(self) -> None:
        """See `ByteStream.end`: FIN behind what is queued."""
        if not self._ended and self.broken is None and self.stopped is None:
            self._ended = True
            self._transport.send(self, b"", fin=True)

    def reset(self, code: int) -> None:
        """End our direction with RESET_STREAM; what is queued is dropped. Safe to call twice, no effect on a direction
        of which everything was acknowledged."""
        if self.writable and self.broken is None and self.stopped is None:
            self._ended = True
            self._transport.reset_stream(self, code)
            self._wake_writers()

    # -- both ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """See `ByteStream.close`: FIN, and STOP_SENDING where the peer has not ended (agent protocol 2.2)."""
        await self.end()
        self.stop(NO_CODE)

    async def cut(self, reason: str) -> None:
        """See `ByteStream.cut`: a reset is how a stream tells that more was to come. It would overtake what is queued,
        so that is to be acknowledged first."""
        self.stop(NO_CODE)
        with contextlib.suppress(TimeoutError, StreamReset):
            async with asyncio.timeout(CUT_SECONDS):
                await self._below(1)
        self.abort(reason)

    def abort(self, reason: str) -> None:
        """See `ByteStream.abort`."""
        if self.broken is None:
            self.reset(NO_CODE)
            self.stop(NO_CODE)
            self.broken = StreamReset(reason)
            self._wake_reader()
            self._wake_writers()
