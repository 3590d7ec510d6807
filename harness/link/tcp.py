"""TCP links and listeners on asyncio: FIN and RST kept apart, reads bounded, writes with backpressure."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from harness.link import tap
from harness.link.stream import Link, LinkReset
from harness.model.event import DOWNSTREAM, UPSTREAM

HIGH_WATER = 1 << 20
"""Octets that may lie unread before the socket is no longer read."""
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpLink(Link, asyncio.Protocol):
    """One TCP connection; `on_connected` is told of one that a listener accepted."""

    leg = DOWNSTREAM
    """The leg of a connection that we open."""

    def __init__(self, on_connected: Callable[[TcpLink], None] | None = None) -> None:
        self._on_connected = on_connected
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._ended = False
        self._lost: Exception | None = None
        self._gone = False
        self._paused = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self.local: tuple[str, int] = ("", 0)
        self.remote: tuple[str, int] = ("", 0)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio's callback)."""
        self._transport = cast("asyncio.Transport", transport)
        self.local = transport.get_extra_info("sockname")[:2]
        self.remote = transport.get_extra_info("peername")[:2]
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        dialed = self._on_connected is None
        self.tap = tap.current().stream(self.leg if dialed else UPSTREAM, self.local, self.remote, dialed=dialed)
        if self._on_connected:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Queue octets; stop reading above the high-water mark (asyncio's callback)."""
        self.tap.got(data)
        self._chunks.append(data)
        self._unread += len(data)
        self._readable.set()
        if self._unread > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The other side's FIN: our direction stays open (asyncio's callback)."""
        self.tap.got_end()
        self._ended = True
        self._readable.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone (asyncio's callback)."""
        if exc is not None:
            self._take_rest()
        if isinstance(exc, ConnectionError):
            self.tap.got_reset()
        self._gone = True
        self._lost = exc
        self._readable.set()
        self._writable.set()
        self._closed.set()

    def _take_rest(self) -> None:
        """Read what has arrived already: a write that failed ends the transport's reading, and an answer that came
        before the reset would be lost, or not, by chance."""
        descriptor = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while self._unread <= HIGH_WATER and (data := os.read(descriptor, 65536)):
                self.data_received(data)

    def pause_writing(self) -> None:
        """The send buffer is full (asyncio's callback)."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The send buffer has drained (asyncio's callback)."""
        self._writable.set()

    # Link

    async def send(self, data: bytes) -> None:
        """Write and wait for the send buffer. Raises `LinkReset` when the connection is gone."""
        if self._gone:
            raise LinkReset(str(self._lost or "connection closed"))
        self.tap.sent(data)
        self._transport.write(data)
        if self._transport.is_closing():
            # The write failed. asyncio says so in its next turn, which a sender in a loop would never let come.
            await asyncio.sleep(0)
        await self._writable.wait()

    async def receive(self, limit: int = 65536) -> bytes:
        """The next octets, `b""` at FIN. Raises `LinkReset`."""
        while not self._chunks:
            if self._ended:
                return b""
            if self._gone:
                raise LinkReset(str(self._lost or "connection closed"))
            self._readable.clear()
            await self._readable.wait()
        chunk = self._chunks.popleft()
        if len(chunk) > limit:
            self._chunks.appendleft(chunk[limit:])
            chunk = chunk[:limit]
        self._unread -= len(chunk)
        if self._paused and self._unread < HIGH_WATER // 2 and not self._gone:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def send_end(self) -> None:
        """Send FIN after what is queued."""
        if not self._gone and self._transport.can_write_eof():
            # A connection that was reset a moment ago has no direction to end; the reader is told of the reset.
            with contextlib.suppress(OSError):
                self._transport.write_eof()
                self.tap.sent_end()

    async def close(self) -> None:
        """Close the socket and wait until it is gone."""
        if not self._gone:
            self.tap.sent_end()
            self._transport.close()
        try:
            async with asyncio.timeout(1):
                await self._closed.wait()
        except TimeoutError:
            self._transport.abort()
            await self._closed.wait()

    def abort(self) -> None:
        """Close with RST."""
        if not self._gone:
            self.tap.sent_reset()
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            self._transport.abort()


async def connect_tcp(host: str, port: int) -> TcpLink:
    """Connect to `host:port`. Raises `OSError`."""
    _, link = await asyncio.get_running_loop().create_connection(TcpLink, host, port)
    return link


class TcpListener:
    """A listener on a port of its own (bind 0); accepted links queue up, at most `backlog` of them."""

    def __init__(self, backlog: int = 512) -> None:
        self._accepted: asyncio.Queue[TcpLink] = asyncio.Queue(backlog)
        self._links: set[TcpLink] = set()
        self.host = "127.0.0.1"
        self.port = 0

    async def start(self, host: str = "127.0.0.1") -> None:
        """Bind and listen."""
        self.host = host
        self._server = await asyncio.get_running_loop().create_server(lambda: TcpLink(self._on_connected), host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def _on_connected(self, link: TcpLink) -> None:
        try:
            self._accepted.put_nowait(link)
        except asyncio.QueueFull:
            link.abort()
            return
        self._links.add(link)

    async def accept(self) -> TcpLink:
        """The next connection, oldest first."""
        return await self._accepted.get()

    @property
    def waiting(self) -> int:
        """Connections that arrived and were not accepted yet."""
        return self._accepted.qsize()

    async def stop(self) -> None:
        """Stop listening and close every link that came in."""
        self._server.close()
        for link in tuple(self._links):
            link.abort()
        self._links.clear()
        await self._server.wait_closed()
