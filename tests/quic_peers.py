"""Two scripted QUIC peers on links in memory, for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from harness.evidence.transcript import DOWNSTREAM, UPSTREAM, Transcript
from harness.link.datagram import DatagramLink
from harness.link.stream import LinkReset
from harness.peer.quic import QuicPeer
from harness.peer.tls_pki import upstream_identity
from harness.wire.quic import ClientOptions, ServerOptions

Look = Callable[[bytes], bytes | None]


class MemoryLink(DatagramLink):
    """One end of a pair; `look` sees what it sends, and may drop or change it."""

    def __init__(self) -> None:
        self.other: MemoryLink | None = None
        self.look: Look | None = None
        self.sent: list[bytes] = []
        self._packets: deque[bytes] = deque()
        self._readable = asyncio.Event()
        self._over = ""

    @classmethod
    def pair(cls) -> tuple[MemoryLink, MemoryLink]:
        one, two = cls(), cls()
        one.other, two.other = two, one
        return one, two

    def send(self, packet: bytes) -> None:
        if self._over:
            raise LinkReset(self._over)
        self.sent.append(packet)
        seen = self.look(packet) if self.look else packet
        if seen is not None and self.other is not None and not self.other._over:
            self.other._packets.append(seen)
            self.other._readable.set()

    async def receive(self) -> bytes:
        while not self._packets:
            if self._over:
                raise LinkReset(self._over)
            self._readable.clear()
            await self._readable.wait()
        return self._packets.popleft()

    def receive_now(self) -> bytes | None:
        return self._packets.popleft() if self._packets else None

    def cut(self, reason: str) -> None:
        """End the link as the other side would."""
        self._over = self._over or reason
        self._readable.set()

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.cut("closed")
        if self.other is not None:
            self.other.cut("the other side is gone")


def server_options(**options: Any) -> ServerOptions:
    return ServerOptions.of(**{"identity": upstream_identity(), "alpn": ("x",), **options})


def client_options(**options: Any) -> ClientOptions:
    return ClientOptions.of(**{"server_name": "peer.test", "alpn": ("x",), **options})


class Both:
    """Client and server, not started."""

    def __init__(self, client: dict[str, Any], server: dict[str, Any]) -> None:
        self.near, self.far = MemoryLink.pair()
        self.transcript = Transcript(asyncio.get_running_loop().time)
        self.client = QuicPeer.client(
            self.near, self.transcript.channel(DOWNSTREAM, "client", "client-1"), client_options(**client)
        )
        self.server = QuicPeer.server(
            self.far, self.transcript.channel(UPSTREAM, "upstream", "upstream-1"), server_options(**server)
        )

    async def handshake(self) -> None:
        await asyncio.gather(self.client.handshake(), self.server.handshake())

    def told(self, leg: str, sender: str) -> list[str]:
        return [event.what for event in self.transcript.events if (event.leg, event.sender) == (leg, sender)]


@contextlib.asynccontextmanager
async def both(
    client: dict[str, Any] | None = None, server: dict[str, Any] | None = None, *, handshake: bool = True
) -> AsyncIterator[Both]:
    made = Both(client or {}, server or {})
    try:
        if handshake:
            await made.handshake()
        yield made
    finally:
        await made.client.shut()
        await made.server.shut()
