"""The upstream side of a TLS tunnel: the stream with our nonce, a TLS server that nobody asked for, and strays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from harness.engine.driver import Incoming, UpstreamQueue
from harness.evidence.transcript import UPSTREAM, Transcript
from harness.link.tcp import TcpLink, TcpListener, connect_tcp
from harness.model.spec import TunnelSpec, tls
from harness.peer.tls import TlsPeer
from harness.peer.upstream import UpstreamSide
from harness.wire.tls import ClientOptions

NONCE, OTHER = b"n" * 16, b"not what we wait for, and more"


class Engine:
    """In the engine's place: opens streams toward the side, over loopback TCP."""

    def __init__(self, queue: UpstreamQueue, listener: TcpListener, transcript: Transcript) -> None:
        self._queue = queue
        self._listener = listener
        self._transcript = transcript
        self._links: list[TcpLink] = []

    async def stream(self) -> TcpLink:
        link = await connect_tcp("127.0.0.1", self._listener.port)
        self._queue.put(Incoming(await self._listener.accept()))
        self._links.append(link)
        return link

    async def tls(self) -> TlsPeer:
        channel = self._transcript.channel(UPSTREAM, "engine", f"engine-{len(self._links)}")
        return TlsPeer.client(await self.stream(), channel, ClientOptions(server_name="a.t.x"))

    async def close(self) -> None:
        for link in self._links:
            await link.close()


def run(script: Callable[[UpstreamSide, Engine], Awaitable[None]], spec: TunnelSpec) -> None:
    async def main() -> None:
        transcript = Transcript(lambda: 0.0)
        queue, listener = UpstreamQueue(), TcpListener()
        await listener.start()
        side, engine = UpstreamSide(queue, spec, transcript, "main"), Engine(queue, listener, transcript)
        try:
            async with asyncio.timeout(30):
                await script(side, engine)
        finally:
            await side.close()
            await engine.close()
            await listener.stop()

    asyncio.run(main())


def test_a_stream_with_other_octets_is_a_stray_that_is_told_by_them() -> None:
    async def script(side: UpstreamSide, engine: Engine) -> None:
        for octets in (OTHER, NONCE):
            await (await engine.stream()).send(octets)
        await side.accept_with(NONCE)
        (stray,) = await side.strays()
        assert stray.data == OTHER
        assert stray.describe().startswith(f"a stream with {len(OTHER)} octets: b'not what")

    run(script, tls())


def test_what_is_served_unasked_is_a_stray_with_its_application_octets() -> None:
    async def script(side: UpstreamSide, engine: Engine) -> None:
        async with side.serving_tls():
            talker, silent = await engine.tls(), await engine.tls()
            await asyncio.gather(talker.handshake(), silent.handshake())
        await talker.send(OTHER)
        spoken, mute = await side.strays()
        while not spoken.data:
            spoken, mute = await side.strays()
        assert (spoken.data, mute.data) == (OTHER, b"")
        assert spoken.describe().startswith(f"a TLS connection with {len(OTHER)} octets: b'not what")
        assert mute.describe() == "a TLS connection"

    run(script, tls(upstream_tls=True))


def test_behind_the_block_streams_are_the_scripts_again() -> None:
    async def script(side: UpstreamSide, engine: Engine) -> None:
        async with side.serving_tls():
            begun = await engine.stream()
            await begun.send(b"\x16\x03\x01")
        client = await engine.tls()
        _, server = await asyncio.gather(client.handshake(), side.accept_tls())
        await client.send(NONCE)
        await side.check_nonce(server, NONCE)

    run(script, tls(upstream_tls=True))
