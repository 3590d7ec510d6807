"""Two scripted HTTP/3 peers back to back, for tests: the upstream's connections come from the client's links."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any

from harness.evidence.transcript import DOWNSTREAM, Transcript
from harness.link.deadline import set_default
from harness.peer.http3 import Http3Client
from harness.peer.http3_upstream import Http3Upstream
from harness.peer.quic import QuicPeer
from harness.wire.quic import ClientOptions
from tests.quic_peers import MemoryLink


class Queue:
    """As `UpstreamQueue`, filled by the test."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, link: MemoryLink) -> None:
        self._waiting.put_nowait(SimpleNamespace(packets=link, flow=link, source="", link=link))

    async def get(self) -> Any:
        return await self._waiting.get()

    def drain(self) -> list[Any]:
        found = []
        while not self._waiting.empty():
            found.append(self._waiting.get_nowait())
        return found


class Ground:
    """One upstream, and clients that are joined with it without an engine between them."""

    def __init__(self, **upstream: Any) -> None:
        self.transcript = Transcript(asyncio.get_running_loop().time)
        self.queue = Queue()
        self.upstream = Http3Upstream(self.queue, self.transcript, **upstream)  # type: ignore[arg-type]
        self._clients: list[Http3Client] = []

    async def client(self, **options: Any) -> Http3Client:
        own = {name: value for name, value in options.items() if name in Http3Client.OPTIONS}
        quic = {name: value for name, value in options.items() if name not in Http3Client.OPTIONS}
        near, far = MemoryLink.pair()
        channel = self.transcript.channel(DOWNSTREAM, "client", f"client-{len(self._clients) + 1}")
        chosen = {"server_name": "peer.test", **Http3Client.BELOW, **quic}
        peer = QuicPeer.client(near, channel, ClientOptions.of(**chosen))
        self.queue.put(far)
        await peer.handshake()
        client = Http3Client(peer, channel, host="peer.test", **own)
        self._clients.append(client)
        await client.start()
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.quic.shut()
        await self.upstream.close()

    def told(self, leg: str, sender: str) -> list[str]:
        return [event.what for event in self.transcript.events if (event.leg, event.sender) == (leg, sender)]


@contextlib.asynccontextmanager
async def ground(**upstream: Any) -> AsyncIterator[Ground]:
    made = Ground(**upstream)
    try:
        yield made
    finally:
        await made.close()


def run(script: Coroutine[Any, Any, None], seconds: float = 5.0) -> None:
    async def bounded() -> None:
        set_default(seconds)
        async with asyncio.timeout(60):
            await script

    asyncio.run(bounded())
