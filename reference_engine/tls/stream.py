"""TLS as a `ByteStream` over another one: over TCP on the public side, over an agent's data stream towards an upstream.

There is no task behind it. Whoever reads moves the octets in, whoever writes moves them out, so the backpressure of
the stream below is the backpressure of this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reference_engine.relay.stream import ByteStream, StreamReset
from reference_engine.tls.endpoint import Data, Ended, Event, Failed, HandshakeDone, TlsEndpoint

CHUNK = 262_144


class TlsFailed(StreamReset):
    """The TLS connection failed; `alert` is the fatal alert that was sent (`sent`) or received, if there was one."""

    def __init__(self, reason: str, alert: int | None = None, *, sent: bool = False) -> None:
        super().__init__(reason)
        self.alert = alert
        self.sent = sent


class TlsStream(ByteStream):
    """A TLS connection on `below`. Call `handshake` first.

    `end_below` says whether `end` also ends the direction of the stream below (FIN behind close_notify). Towards an
    upstream behind an agent it stays open, since several agents answer the end of a stream by closing all of it.
    `close_timeout` (seconds) is how long what is queued may take to leave when the stream is closed.
    """

    def __init__(
        self,
        below: ByteStream,
        endpoint: TlsEndpoint,
        *,
        server_name: str | None = None,
        end_below: bool = True,
        close_timeout: float = 5.0,
    ) -> None:
        self.peer = below.peer
        self.server_name = server_name
        self._below = below
        self._endpoint = endpoint
        self._end_below = end_below
        self._close_timeout = close_timeout
        self._plain: list[bytes] = []
        self._done = False
        self._peer_ended = False
        self._ended = False
        self._closed = False
        self._failed: TlsFailed | None = None
        self._writing = 0
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def alpn(self) -> str | None:
        """The negotiated ALPN name."""
        return self._endpoint.alpn

    @property
    def version(self) -> str:
        """`"TLSv1.2"` or `"TLSv1.3"`."""
        return self._endpoint.version

    @property
    def group(self) -> str | None:
        """The key exchange group."""
        return self._endpoint.group

    @property
    def client_certificate(self) -> bytes | None:
        """The peer's own certificate in DER, where it sent one."""
        chain = self._endpoint.peer_chain
        return chain[0] if chain else None

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        """All certificates of the peer in DER, its own first."""
        return self._endpoint.peer_chain

    async def handshake(self) -> None:
        """Complete the handshake; on failure the alert is sent and the stream below closed. Raises StreamReset."""
        self._endpoint.start()
        try:
            await self._flush()
            while not self._done:
                await self._fill()
                if self._failed is not None:
                    raise self._failed
        except StreamReset:
            await self.close()
            raise

    async def read(self) -> bytes:
        """See `ByteStream.read`. Cancelling it loses nothing."""
        while not self._plain:
            if self._failed is not None:
                raise self._failed
            if self._peer_ended or self._closed:
                return b""
            await self._fill()
        return self._taken()

    def read_now(self) -> bytes | None:
        """See `ByteStream.read_now`."""
        while not self._plain:
            if self._failed is not None:
                raise self._failed
            if self._peer_ended or self._closed:
                return b""
            data = self._below.read_now()
            if data is None:
                return None
            self._receive(data)
            if self._failed is not None or (not self._writing and self._endpoint.spoke):
                task = asyncio.get_running_loop().create_task(self._answer())
                self._answering.add(task)
                task.add_done_callback(self._answered)
        return self._taken()

    def _taken(self) -> bytes:
        """Up to CHUNK octets from the front of what is there."""
        if len(self._plain) == 1:
            return self._plain.pop()
        data = b"".join(self._plain)
        self._plain.clear()
        if len(data) > CHUNK:
            self._plain.append(data[CHUNK:])
            data = data[:CHUNK]
        return data

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """See `ByteStream.on_arrival`."""
        self._below.on_arrival(arrived)

    async def _fill(self) -> None:
        """Take the next octets from below and act on what they mean."""
        data = await self._below.read()
        if self._closed:
            return
        self._receive(data)
        await self._answer()

    def _receive(self, data: bytes) -> None:
        for event in self._endpoint.receive(data) if data else self._endpoint.receive_eof():
            self._take(event)

    async def _answer(self) -> None:
        """Send what the octets of the peer have asked for."""
        if self._failed is not None:
            await self._give_up()
        elif not self._done or not self._writing:
            # Handshake messages now; later what the peer's messages asked for (a renegotiation to be refused), unless a
            # writer waits and the next one takes it along: a reader that waits as well could wait for a peer that waits
            # for the reader.
            await self._flush()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not task.cancelled():
            # A connection that broke is found out by whoever reads.
            task.exception()

    def _take(self, event: Event) -> None:
        if isinstance(event, Data):
            self._plain.append(event.data)
        elif isinstance(event, HandshakeDone):
            self._done = True
        elif isinstance(event, Ended):
            self._peer_ended = True
        elif isinstance(event, Failed):
            self._failed = TlsFailed(event.reason, event.alert, sent=event.sent)

    async def _give_up(self) -> None:
        """After a failure: our alert goes out, if there is one, and the stream below ends behind it; where there is
        none, the peer sees a reset, since nothing was announced."""
        assert self._failed is not None
        failed, self._closed = self._failed, True
        if not failed.sent:
            self._below.abort(failed.reason)
            return
        try:
            await self._flush()
            await self._below.close()
        except StreamReset:
            self._below.abort(failed.reason)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream.write`."""
        if len(data) <= CHUNK:
            await self._write(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            await self._write(view[start : start + CHUNK])

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self._failed is not None:
            raise self._failed
        if self._ended or self._closed or not self._done:
            raise StreamReset("write after the end")
        self._endpoint.send(data)
        await self._flush()

    async def _flush(self) -> None:
        # What is taken is queued below in the same step (the contract of `ByteStream.write`): writers that wait at the
        # same time need no lock to stay in order, and a cancelled one leaves nothing behind in its hands.
        data = self._endpoint.outgoing()
        if data:
            self._writing += 1
            try:
                await self._below.write(data)
            finally:
                self._writing -= 1

    async def end(self) -> None:
        """See `ByteStream.end`: close_notify."""
        if self._ended or self._closed or self._failed is not None or not self._done:
            return
        self._ended = True
        self._endpoint.end()
        await self._flush()
        if self._end_below:
            await self._below.end()

    async def close(self) -> None:
        """See `ByteStream.close`: close_notify in front of the end of the stream below."""
        if self._closed:
            return
        try:
            async with asyncio.timeout(self._close_timeout):
                await self.end()
        except StreamReset as problem:
            self._below.abort(problem.reason)
        except TimeoutError:
            self._below.abort("close timed out")
        self._closed = True
        await self._below.close()

    async def cut(self, reason: str) -> None:
        """See `ByteStream.cut`: no close_notify in front of the end of the stream below."""
        if self._failed is None and not self._closed:
            try:
                async with asyncio.timeout(self._close_timeout):
                    await self._flush()
            except (StreamReset, TimeoutError):
                self._below.abort(reason)
            self._failed = TlsFailed(reason)
            self._closed = True
        await self._below.close()

    def abort(self, reason: str) -> None:
        """See `ByteStream.abort`: no close_notify, and the stream below is aborted. After a failure that has already
        said its alert it does nothing, because a reset would destroy the alert."""
        if self._failed is None:
            self._failed = TlsFailed(reason)
            self._closed = True
            self._below.abort(reason)
