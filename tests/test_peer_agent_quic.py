"""The agents of the harness over QUIC, and QUIC and datagram tunnels over both transports, on the reference engine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.driver import UpstreamQueue
from harness.engine.launch import LaunchDriver
from harness.engine.probe import carries
from harness.errors import PeerMismatch
from harness.evidence.transcript import UPSTREAM, Transcript
from harness.link.agent import EngineAccess, HandshakeFailed
from harness.link.agent_quic import QuicAgentLink, QuicChannel, channel_id, connect_agent_quic
from harness.link.deadline import set_default
from harness.link.framed import FramedLink
from harness.link.stream import EndKind, LinkReset
from harness.model.spec import Settings, TunnelSpec, private, quic, tls
from harness.peer.agent import Agent, ScriptedAgent, accepted
from harness.peer.packets import PacketPeer
from harness.peer.upstream import UpstreamSide
from harness.profiles import load
from harness.wire import agent as wire
from harness.wire.quic.frames import Stream

TRANSPORTS = ("tls", "quic")


def run(script: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        set_default(10)
        async with asyncio.timeout(60):
            await script

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def engine(transport: str = "quic", **settings: Any) -> AsyncIterator[LaunchDriver]:
    driver = LaunchDriver(load("reference"))
    await driver.start(Settings.of({"agent.transport": transport, **settings}))
    try:
        yield driver
    finally:
        await driver.stop()
    assert driver.crashed() is None


def access(driver: LaunchDriver) -> EngineAccess:
    assert driver.access is not None
    return driver.access


@contextlib.asynccontextmanager
async def agent(driver: LaunchDriver, **options: Any) -> AsyncIterator[Agent]:
    made = Agent(access(driver), **options)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def scripted(driver: LaunchDriver) -> AsyncIterator[tuple[ScriptedAgent, Transcript]]:
    transcript = Transcript(asyncio.get_running_loop().time)
    made = ScriptedAgent(access(driver), transcript)
    try:
        yield made, transcript
    finally:
        await made.shut()


def datagram_tunnel(**properties: Any) -> TunnelSpec:
    return private(type="datagram", name="d", **properties)


@pytest.mark.parametrize(
    ("stream_id", "number"),
    [
        ("01020304abcd000000000001", "01020304abcd000000000001"),
        ("ABCDEF010203040506070809", "abcdef010203040506070809"),
        ("01020304-0000-0000-0000-000000000000", "010203040000000000000000"),
        ("short", None),
        ("zz0203040506070809101112", None),
        ("0102 304050607080910111", None),
    ],
)
def test_the_vectors_of_channel_ids(stream_id: str, number: str | None) -> None:
    """Agent protocol, section 2.5."""
    if number is None:
        with pytest.raises(ValueError, match="hex"):
            channel_id(stream_id)
    else:
        assert channel_id(stream_id).hex() == number


@pytest.mark.parametrize("transport", TRANSPORTS)
class TestBoth:
    """The same steps over either transport."""

    def test_streams_of_a_published_tunnel(self, transport: str) -> None:
        async def script() -> None:
            async with engine(transport) as driver, agent(driver) as own:
                await own.round_trip()
                queue = UpstreamQueue()
                for spec in (tls(), tls(upstream_tls=True)):
                    where = driver.endpoint(await own.open_tunnel(spec, queue))
                    assert await carries(where, spec, queue, 10) is None

        run(script())

    def test_a_quic_tunnel(self, transport: str) -> None:
        async def script() -> None:
            async with engine(transport) as driver, agent(driver) as own:
                for more in ({}, {"datagram_guaranteed_delivery": True}):
                    spec, queue = quic(**more), UpstreamQueue()
                    where = driver.endpoint(await own.open_tunnel(spec, queue))
                    assert where.transport == "udp"
                    assert await carries(where, spec, queue, 10) is None

        run(script())

    def test_a_dialled_byte_stream(self, transport: str) -> None:
        async def script() -> None:
            async with engine(transport) as driver, agent(driver, zero_rtt=False) as own:
                queue = UpstreamQueue()
                await own.open_tunnel(private(name="b"), queue)
                link = await own.dial("b")
                incoming = await queue.get()
                await link.send(b"there" * 50_000)
                await link.send_end()
                got = b""
                while data := await incoming.link.receive():
                    got += data
                assert got == b"there" * 50_000
                await incoming.link.send(b"back")
                await incoming.link.send_end()
                assert await link.receive() == b"back"
                assert await link.receive() == b""
                assert link.end is not None
                assert link.end.clean

        run(script())

    def test_a_reset_passes(self, transport: str) -> None:
        async def script() -> None:
            async with engine(transport) as driver, agent(driver) as own:
                queue = UpstreamQueue()
                await own.open_tunnel(private(name="b"), queue)
                link = await own.dial("b", glued=b"x")
                incoming = await queue.get()
                assert await incoming.link.receive() == b"x"
                link.abort()
                with pytest.raises(LinkReset):
                    await incoming.link.receive()

        run(script())

    @pytest.mark.parametrize("guaranteed", [False, True])
    def test_a_dialled_datagram_channel(self, transport: str, guaranteed: bool) -> None:
        async def script() -> None:
            async with engine(transport) as driver, agent(driver) as own:
                queue = UpstreamQueue()
                spec = datagram_tunnel(datagram_guaranteed_delivery=guaranteed or None)
                await own.open_tunnel(spec, queue)
                ours = await own.dial_packets("d")
                ours.send(b"first")
                incoming = await queue.get()
                direct = transport == "quic" and not guaranteed
                assert isinstance(incoming.packets, QuicChannel if direct else FramedLink)
                theirs = PacketPeer(incoming.packets, Transcript(lambda: 0.0).channel(UPSTREAM, "upstream", "u"))
                await theirs.expect(b"first")
                ours.send(b"")
                await theirs.expect(b"")
                await theirs.send(b"back")
                assert await ours.receive() == b"back"
                await ours.close()
                assert await theirs.ended()

        run(script())

    def test_the_upstreams_end_is_the_diallers(self, transport: str) -> None:
        async def script() -> None:
            async with engine(transport) as driver, agent(driver) as own:
                queue = UpstreamQueue()
                await own.open_tunnel(datagram_tunnel(), queue)
                ours = await own.dial_packets("d")
                ours.send(b"first")
                incoming = await queue.get()
                assert await incoming.packets.receive() == b"first"
                await incoming.packets.close()
                with pytest.raises(LinkReset):
                    await ours.receive()

        run(script())

    def test_a_datagram_upstream_of_the_scene(self, transport: str) -> None:
        async def script() -> None:
            async with engine(transport) as driver, agent(driver) as own:
                queue = UpstreamQueue()
                await own.open_tunnel(datagram_tunnel(), queue)
                side = UpstreamSide(queue, datagram_tunnel(), Transcript(lambda: 0.0), "main")
                ours = await own.dial_packets("d")
                ours.send(b"x")
                await (await side.accept_packets()).expect(b"x")
                await side.close()

        run(script())


class TestConnection:
    """One QUIC connection per agent, its streams, its end."""

    def test_every_stream_is_on_one_connection(self) -> None:
        async def script() -> None:
            async with engine() as driver, scripted(driver) as (own, transcript):
                accepted(await own.open(interval_ms=1000))
                assert isinstance(own.link, QuicAgentLink)
                assert (own.link.version, own.link.alpn, own.link.id) == ("TLSv1.3", wire.ALPN, 0)
                assert own.link.peer_certificate
                assert (await own.heartbeat()).acknowledgement == 1
                properties = accepted(await own.open_tunnel(private(name="b")))
                dialled = await own.dial("b", glued=b"early")
                request = await own.next_proxy_request()
                link = await own.answer_proxy(request, zero_rtt=False)
                assert await link.receive() == b"early"
                assert {each.connection for each in (own.link, dialled, link)} == {await own.quic()}  # type: ignore[attr-defined]
                assert (await own.close_tunnel(properties.id.value)).tunnel_id == properties.id.value
                assert (await own.close()).kind is EndKind.FIN
                told = [event.what for event in transcript.events if event.sender == "agent"]
                assert told[0] == "QUIC stream"

        run(script())

    def test_what_the_engine_shows_must_be_trusted(self) -> None:
        async def script() -> None:
            async with engine() as driver:
                other = dataclasses.replace(access(driver), server_name="other.test")
                with pytest.raises(HandshakeFailed, match="the engine's certificate: "):
                    await connect_agent_quic(other)
                await (await connect_agent_quic(dataclasses.replace(other, insecure=True))).close()

        run(script())

    def test_another_protocol_is_refused_with_an_alert(self) -> None:
        async def script() -> None:
            async with engine() as driver:
                with pytest.raises(HandshakeFailed) as failed:
                    await connect_agent_quic(access(driver), alpn=("nonsense",))
                assert failed.value.alert in (112, 120)

        run(script())

    def test_nobody_there(self) -> None:
        async def script() -> None:
            nobody = EngineAccess("127.0.0.1", 1, transport="quic", insecure=True)
            with pytest.raises(HandshakeFailed, match="refused"):
                await connect_agent_quic(nobody)

        run(script())

    def test_its_end_is_the_end_of_all(self) -> None:
        async def script() -> None:
            async with engine() as driver, scripted(driver) as (own, _):
                accepted(await own.open())
                accepted(await own.open_tunnel(datagram_tunnel()))
                connection = await own.quic()
                channel, _ = await asyncio.gather(own.dial_channel("d"), _answer(own))
                await connection.close(7, "gone")
                with pytest.raises(LinkReset, match="our own application close 0x7"):
                    await channel[0].receive()
                with pytest.raises(LinkReset, match="the connection is over"):
                    await own.link.send(b"x")
                with pytest.raises(LinkReset, match="the connection is over"):
                    await own.link.receive()

        run(script())


async def _answer(own: ScriptedAgent) -> QuicChannel:
    request: pb.ProxyConnReq = await own.expect("proxy_conn_req", aside=("heartbeat",))
    return await own.answer_channel(request)


class TestScript:
    """Frame by frame, and wrong."""

    def test_a_channel_by_hand(self) -> None:
        async def script() -> None:
            async with engine() as driver, scripted(driver) as (own, _):
                accepted(await own.open())
                accepted(await own.open_tunnel(datagram_tunnel()))
                (ours, handle), theirs = await asyncio.gather(own.dial_channel("d"), _answer(own))
                connection = await own.quic()
                assert ours.id != theirs.id
                connection.send_datagram(ours.id + b"out")
                assert await theirs.receive() == b"out"
                theirs.send(b"in")
                assert await ours.receive() == b"in"
                # What belongs to no channel changes nothing: too short, unknown.
                for strange in (b"", b"\0" * 11, b"\1" * 12 + b"x"):
                    connection.send_datagram(strange)
                ours.send(b"after")
                assert await theirs.receive() == b"after"
                await own.close_channel(theirs.id.hex())
                closed = await handle.read()
                assert closed is None or wire.kind(closed) == "datagram_channel_close"

        run(script())

    def test_a_channel_cannot_be_had_twice(self) -> None:
        async def script() -> None:
            async with engine() as driver, scripted(driver) as (own, _):
                connection = await own.quic()
                connection.channel("00" * 12)
                with pytest.raises(ValueError, match="in use"):
                    connection.channel("00" * 16)

        run(script())

    def test_an_error_makes_it_framed(self) -> None:
        """An engine that cannot give a channel says so, and the packets go over a stream (section 4.6)."""

        async def script() -> None:
            async with engine() as driver, scripted(driver) as (own, _):
                accepted(await own.open())
                accepted(await own.open_tunnel(datagram_tunnel(datagram_guaranteed_delivery=True)))
                with pytest.raises(PeerMismatch, match="stream_rsp with a stream id"):
                    await own.dial_channel("d")
                link = await own.dial_packets("d")
                request = await own.next_proxy_request()
                theirs = await own.answer_packets(request)
                link.send(b"framed")
                assert await theirs.receive() == b"framed"

        run(script())

    def test_frames_of_the_script(self) -> None:
        async def script() -> None:
            async with engine() as driver, scripted(driver) as (own, _):
                connection = await own.quic()
                connection.wire.say(Stream(3, 0, b"on a stream that only the engine may open"))
                connection.flush()
                while not connection.over:
                    await connection.changed()
                assert "transport close" in connection.over

        run(script())
