"""The scene's QUIC: pairs, barriers and strays, through a relay that only carries packets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from harness.errors import DeadlineExpired, PeerMismatch, SetupFailed
from harness.evidence.transcript import Transcript
from harness.judge import Departed
from harness.ledger import Ledger
from harness.link.deadline import set_default
from harness.model.case import Variant, case
from harness.model.spec import Settings, TunnelSpec, quic
from harness.peer.quic import QuicPeer, StreamEnd
from harness.scene import Scene
from tests.fake_engine import profile
from tests.no_engines import PacketTunnel, RelayDriver, RelaySession

ROW = "QUIC-001"


def play(
    script: Callable[[Scene, PacketTunnel], Awaitable[None]],
    *,
    spec: TunnelSpec | None = None,
    habit: str = "relay",
    seconds: float = 5.0,
) -> None:
    @case("quic-scene", checks=[ROW], publish=spec or quic())
    async def declared(scene: Any) -> None:
        """A case."""

    async def whole() -> None:
        set_default(seconds)
        driver = RelayDriver(habit=habit)
        await driver.start(Settings())
        session = await driver.open_session("quic-scene")
        scene = Scene(
            declared.__edgecase_case__,  # type: ignore[attr-defined]
            Variant("", ()),
            profile=profile(),
            driver=driver,
            session=session,
            ledger=Ledger.load(),
            transcript=Transcript(asyncio.get_running_loop().time),
        )
        await scene.publish_declared()
        assert isinstance(session, RelaySession)
        (tunnel,) = session._tunnels
        assert isinstance(tunnel, PacketTunnel)
        try:
            async with asyncio.timeout(60):
                await script(scene, tunnel)
        finally:
            await scene.close()

    asyncio.run(whole())


def test_a_pair_and_both_barriers() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        client, server = await scene.quic_pair()
        assert (client.alpn, server.alpn) == ("edgecase", "edgecase")
        assert server.client_hello.server_name == scene.endpoint().host
        stream = await client.open_stream()
        assert stream.id == 4
        await stream.send(b"to the upstream", fin=True)
        await scene.settle_on(client, server)
        await scene.settle()
        (seen,) = server.waiting_streams()
        assert await seen.receive_until_end() == (b"to the upstream", StreamEnd("fin"))
        await scene.untouched(ROW)
        told = [event.detail for event in scene.transcript.events if event.what == "barrier"]
        assert len(told) == 2

    play(script)


def test_the_list_is_what_the_upstream_speaks_and_the_client_offers() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        client, server = await scene.quic_pair()
        assert client.client_hello.alpn == ("a",)
        assert (client.alpn, server.alpn) == ("a", "a")

    play(script, spec=quic(tls_alpns=("a", "b")))


def test_without_a_list_the_upstream_speaks_what_the_client_offers() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        _, server = await scene.quic_pair(alpn=("foo", "bar"))
        assert server.alpn == "foo"
        _, server = await scene.quic_pair(alpn=("foo", "bar"), upstream={"alpn": ("bar",)})
        assert server.alpn == "bar"

    play(script)


def test_who_came_and_was_not_asked_for_is_a_stray() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        stray = await scene.quic_client(handshake=False)
        await stray.start()
        await scene.quic_upstream().arrival()
        (seen,) = await scene.strays()
        assert "a QUIC connection attempt of 1 packets, the first of 1200 octets" in seen.describe()
        with pytest.raises(Departed):
            await scene.untouched(ROW)

    play(script)


def test_the_barrier_passes_over_strays_and_tells_what_they_carried() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        side, data = scene.quic_upstream(), b"from nobody"
        strays = [await scene.quic_client(handshake=False, alpn=alpn) for alpn in (("edgecase",), ("zzz",))]
        for stray in strays:
            await stray.start()
        await side.arrival()
        await scene.both(scene.settle(), _offer(strays[0], data))
        served, refused = sorted(await scene.strays(), key=lambda stray: stray.data, reverse=True)
        assert served.data in (data, b"")
        assert "a QUIC connection (ALPN edgecase, " in served.describe()
        assert "a QUIC connection without a handshake" in refused.describe()

    async def _offer(stray: QuicPeer, data: bytes) -> None:
        await stray.handshake()
        await (await stray.open_stream()).send(data, fin=True)

    play(script)


def test_a_crossed_wire_is_a_departure() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        client = await scene.quic_client(handshake=False)
        _, server = await scene.both(client.handshake(), scene.quic_upstream().accept())
        await (await client.open_stream()).send(b"not the nonce", fin=True)
        with pytest.raises(PeerMismatch, match="the client's nonce and FIN"):
            await scene.quic_upstream().check_nonce(server, scene.nonce())

    play(script)


def test_a_hole_is_told_by_whoever_waits() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        with pytest.raises(DeadlineExpired, match=r"the QUIC handshake at the client|at the upstream of 'main'"):
            await scene.quic_pair()
        with pytest.raises(SetupFailed, match="no probe came through 'main'"):
            await scene.settle()

    play(script, habit="hole", seconds=0.2)


def test_a_barrier_on_a_dead_connection_is_ground_that_is_missing() -> None:
    async def script(scene: Scene, tunnel: PacketTunnel) -> None:
        client, server = await scene.quic_pair()
        tunnel.look = lambda _: None
        with pytest.raises(SetupFailed, match="no probe came through the connection"):
            await scene.settle_on(client, server)

    play(script, seconds=0.3)
