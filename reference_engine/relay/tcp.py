"""A TCP connection as a `ByteStream`.

One octet buffer is shared by every connection of the process: the loop receives into it, and what came is copied out
before the next connection gets its turn. An idle connection therefore holds no receive buffer at all.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from reference_engine.relay.stream import Address, ByteStream, StreamReset

CHUNK = 262_144
"""Most octets that one `read` returns (the contract of `ByteStream.read`)."""

_SCRATCH = memoryview(bytearray(CHUNK))
_DISCARD = memoryview(bytearray(CHUNK))
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: close(2) then sends RST, also where nothing is left unread."""


class TcpStream(asyncio.BufferedProtocol, ByteStream):
    """One TCP connection: FIN is the clean end, RST and errors are resets.

    `buffer` (octets) is the high-water mark of both directions; `close_timeout` (seconds) is how long the peer may
    take to end its side after `close` before the connection is dropped. `accepted` and `gone` are called when the
    connection is there and when its socket is free again.
    """

    def __init__(
        self,
        *,
        buffer: int = CHUNK,
        close_timeout: float = 5.0,
        accepted: Callable[[TcpStream], None] | None = None,
        gone: Callable[[TcpStream], None] | None = None,
    ) -> None:
        self.peer: Address | None = None
        self.local: Address | None = None
        self._buffer_size = buffer
        self._close_timeout = close_timeout
        self._on_accepted = accepted
        self._on_gone = gone
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._peer_ended = False
        self._ended = False
        self._closing = False
        self._broken: str | None = None
        self._reader: asyncio.Future[None] | None = None
        self._arrived: Callable[[], None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._write_paused = False
        self._gone = asyncio.get_running_loop().create_future()
        self._linger: asyncio.TimerHandle | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport and tell whoever listens."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._buffer_size)
        self.peer = _address(transport.get_extra_info("peername"))
        self.local = _address(transport.get_extra_info("sockname"))
        # A peer that vanished without FIN is found out in the end, however idle the stream is.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._on_accepted is not None:
            self._on_accepted(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The process-wide receive buffer."""
        return _DISCARD if self._closing else _SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        """Keep what came, and stop reading at the high-water mark, unless a reader is there: it takes all of it before
        more can come. After `close` nobody wants anything any more."""
        if self._closing:
            return
        self._chunks.append(bytes(_SCRATCH[:nbytes]))
        self._size += nbytes
        waited_for = self._reader is not None and not self._reader.done()
        self._wake_reader()
        if self._size >= self._buffer_size and not waited_for and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep our direction open behind the peer's FIN, unless we have ended it too."""
        self._peer_ended = True
        self._wake_reader()
        return not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everybody: no direction will move again."""
        if self._linger is not None:
            self._linger.cancel()
        if self._broken is None and not (self._peer_ended and self._ended):
            self._broken = _reason(exc)
        self._transport = None
        self._wake_reader()
        self.resume_writing()
        if not self._gone.done():
            self._gone.set_result(None)
        if self._on_gone is not None:
            self._on_gone(self)

    def pause_writing(self) -> None:
        """The send buffer is above its high-water mark."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The send buffer has drained."""
        self._write_paused = False
        writers, self._writers = self._writers, []
        for waiter in writers:
            if not waiter.done():
                waiter.set_result(None)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._arrived is not None:
            self._arrived()

    # ByteStream

    async def read(self) -> bytes:
        """See `ByteStream.read`. One reader at a time; cancelling it loses nothing."""
        while (data := self.read_now()) is None:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return data

    def read_now(self) -> bytes | None:
        """See `ByteStream.read_now`."""
        if not self._chunks:
            if self._broken is not None:
                raise StreamReset(self._broken)
            return b"" if self._peer_ended or self._closing else None
        data = self._take()
        if self._paused and self._size < self._buffer_size:
            self._paused = False
            if self._transport is not None and not self._peer_ended:
                self._transport.resume_reading()
        return data

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """See `ByteStream.on_arrival`."""
        self._arrived = arrived

    def _take(self) -> bytes:
        """Up to CHUNK octets from the front of what is unread."""
        if self._size <= CHUNK:
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
            return data
        every = b"".join(self._chunks)
        self._chunks = [every[CHUNK:]]
        self._size = len(every) - CHUNK
        return every[:CHUNK]

    def unread(self, data: bytes) -> None:
        """Put `data` back in front of what is unread: for who looked at the first octets and passes the stream on."""
        if data:
            self._chunks.insert(0, data)
            self._size += len(data)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `ByteStream.write`."""
        if self._broken is not None:
            raise StreamReset(self._broken)
        transport = self._transport
        if self._ended or transport is None or transport.is_closing():
            raise StreamReset("write after the end")
        transport.write(data)
        while self._write_paused:
            waiter = asyncio.get_running_loop().create_future()
            self._writers.append(waiter)
            await waiter
            if self._broken is not None:
                raise StreamReset(self._broken)

    async def end(self) -> None:
        """See `ByteStream.end`: FIN behind what is queued."""
        if self._broken is None and not self._ended and self._transport is not None:
            self._ended = True
            if not self._transport.is_closing():
                try:
                    self._transport.write_eof()
                except OSError:
                    # The peer's RST is already in the socket: shutdown(2) finds nothing to end.
                    self._drop("tcp reset")

    async def close(self) -> None:
        """See `ByteStream.close`; returns at once.

        The connection stays until the peer has ended its side too (what it still sends is thrown away), because
        closing it with unread octets would send RST, which can destroy what we wrote last: an alert, a response.
        """
        if self._closing or self._transport is None:
            self._closing = True
            return
        await self.end()
        self._closing = True
        self._chunks.clear()
        self._size = 0
        self._wake_reader()
        if self._peer_ended:
            self._transport.close()
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._transport is not None:
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(self._close_timeout, self._drop, "close timed out")

    def abort(self, reason: str) -> None:
        """See `ByteStream.abort`: RST."""
        self._drop(reason)

    def _drop(self, reason: str) -> None:
        if self._broken is None:
            self._broken = reason
        self._wake_reader()
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    async def wait_gone(self) -> None:
        """Until the connection is closed in both directions and its socket is free."""
        await asyncio.shield(self._gone)


def _reason(exc: Exception | None) -> str:
    if exc is None:
        return "connection closed"
    return "tcp reset" if isinstance(exc, ConnectionResetError) else f"tcp error: {exc}"


def _address(name: Any) -> Address | None:
    return Address(str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None


async def connect(host: str, port: int, *, buffer: int = CHUNK, close_timeout: float = 5.0) -> TcpStream:
    """A TCP connection to `host`:`port`. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: TcpStream(buffer=buffer, close_timeout=close_timeout), host, port)
    return stream
