"""Datagram flows in DATAGRAM frames of the agent link: what begins them, what they carry, and what ends them."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.packets import frame
from tests import engine_agent_support
from tests.engine_agent_support import Agent, Link, QuicLink, Site, Streams, on_site
from tests.test_engine_datagram_private import Packets


@pytest.fixture(autouse=True)
def transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", "quic")


class Channel:
    """One channel on a stock client's connection."""

    def __init__(self, link: Link, stream_id: str) -> None:
        assert isinstance(link, QuicLink)
        self.stock = link.stock
        self.identity = bytes.fromhex(stream_id)
        assert len(self.identity) == 12
        self._at = 0

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.stock.datagram(self.identity + packet)

    @property
    def mine(self) -> list[bytes]:
        """Every packet of this channel that has come."""
        return [seen[12:] for seen in self.stock.datagrams if seen[:12] == self.identity]

    async def receive(self) -> bytes:
        await self.stock.until(lambda: len(self.mine) > self._at)
        self._at += 1
        return self.mine[self._at - 1]


def stock_of(link: Link) -> Streams:
    assert isinstance(link, QuicLink)
    return link.stock


async def private(agent: Agent, **properties: object) -> str:
    answer = await agent.open(publish=False, type="datagram", **properties)
    assert not answer.HasField("error"), answer
    return answer.tunnel_properties.id.value


async def joined(site: Site, agent: Agent, key: str, *, on: Streams | None = None) -> tuple[Link, Channel, Channel]:
    """A flow that is direct on both legs: the dialler's handle, its channel, and the agent's."""
    link = await site.dial(key, channel=True, on=on)
    request = await agent.asked()
    await agent.accept(request)
    return link, Channel(link, (await link.receive()).stream_rsp.stream_id), Channel(agent.link, request.stream_id)


async def closed(link: Link) -> str:
    """The stream id of the DatagramChannelClose that comes next."""
    message = await link.receive()
    assert message.HasField("datagram_channel_close"), message
    assert not message.datagram_channel_close.HasField("error")
    return message.datagram_channel_close.stream_id


# -- beginnings --------------------------------------------------------------------------------------------------------


def test_both_legs_on_one_connection_have_ids_of_their_own() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        _, near, far = await joined(site, agent, await private(agent))
        assert near.stock is far.stock
        assert near.identity != far.identity
        near.send(b"", b"down", bytes(1200))
        assert [await far.receive() for _ in range(3)] == [b"", b"down", bytes(1200)]
        far.send(b"", b"up", bytes(1200))
        assert [await near.receive() for _ in range(3)] == [b"", b"up", bytes(1200)]

    on_site(script)


def test_a_dialler_on_a_connection_of_its_own() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        other = await site.quic()
        await other.connected()
        _, near, far = await joined(site, agent, await private(agent, name="n"), on=other)
        near.send(b"down")
        far.send(b"up")
        assert (await far.receive(), await near.receive()) == (b"down", b"up")
        assert near.stock is not far.stock

    on_site(script)


@pytest.mark.parametrize("where", ["tls", "quic"])
@pytest.mark.parametrize("zero_rtt", [False, True])
def test_framed_on_one_leg_and_direct_on_the_other(where: str, zero_rtt: bool) -> None:
    """A dialler without a channel, over either link."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        link = await site.dial(await private(agent), zero_rtt=zero_rtt, transport=where, glued=frame(b"early"))
        request = await agent.asked()
        assert len(bytes.fromhex(request.stream_id)) == 12
        await agent.accept(request)
        if not zero_rtt:
            assert len((await link.receive()).stream_rsp.stream_id) == 24
        near, far = Packets(link), Channel(agent.link, request.stream_id)
        assert await far.receive() == b"early"
        await near.send(b"", b"down")
        assert [await far.receive(), await far.receive()] == [b"", b"down"]
        far.send(b"", bytes(1200))
        assert [await near.receive(), await near.receive()] == [b"", bytes(1200)]

    on_site(script)


def test_a_flow_begins_with_the_agents_answer_and_the_dialler_is_told_first() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        stock = stock_of(agent.link)
        tunnel = await private(agent)
        link = await site.dial(tunnel, glued=frame(b"early"))
        request = await agent.asked()
        await stock.ping()
        # Nothing comes before the answer: neither the packet nor a word to the dialler.
        assert stock.datagrams == []
        assert stock.data.get(link.number) is None  # type: ignore[attr-defined]
        await agent.accept(request)
        assert (await link.receive()).HasField("stream_rsp")
        assert await Channel(agent.link, request.stream_id).receive() == b"early"
        # With a channel of its own the dialler hears its id in front of the first packet.
        second = await site.dial(tunnel, channel=True)
        request = await agent.asked()
        await agent.accept(request)
        Channel(agent.link, request.stream_id).send(b"at once")
        seen = len(stock.seen)
        await stock.until(lambda: any(b"at once" in datagram for datagram in stock.datagrams))
        kinds = [type(event).__name__ for event in stock.seen[seen:]]
        assert kinds.index("StreamDataReceived") < kinds.index("DatagramFrameReceived")
        stream_id = (await second.receive()).stream_rsp.stream_id
        assert Channel(second, stream_id).mine == [b"at once"]

    on_site(script)


def test_no_stream_claims_a_direct_flow() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        link = await site.dial(await private(agent))
        request = await agent.asked()
        claim = await agent.connect(request, zero_rtt=False)
        assert (await claim.receive()).proxy_rsp.error.code == 4000
        await agent.accept(request)
        assert (await link.receive()).stream_rsp.stream_id

    on_site(script)


def test_what_cannot_be_a_channel_is_answered_with_an_error_and_works_framed() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent, datagram_guaranteed_delivery=True)
        for key, words in ((tunnel, "guarantees delivery"), (await agent.private(), "byte stream")):
            link = await site.dial(key, channel=True)
            error = (await link.receive()).stream_rsp.error
            assert error.code == 4000
            assert words in error.message.value
            assert await link.ended() == b""
        silent = await site.dial(await private(agent), channel=True, zero_rtt=True)
        assert await silent.ended() == b""
        link = await site.dial(tunnel)
        upstream = await agent.connect(await agent.asked(), glued=frame(b"up"))
        assert (await link.receive()).HasField("stream_rsp")
        assert await Packets(link).receive() == b"up"
        await Packets(link).send(bytes(60_000))
        assert await Packets(upstream).receive() == bytes(60_000)
        assert stock_of(link).datagrams == []

    on_site(script)


def test_a_refusal_of_the_agent_is_told_with_an_error() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        link = await site.dial(tunnel, channel=True)
        await agent.refuse((await agent.asked()).stream_id, "more than ten")
        error = (await link.receive()).stream_rsp.error
        assert error.code == 6000
        assert "more than ten" in error.message.value
        # A close in place of an answer is a refusal, too.
        link = await site.dial(tunnel, channel=True)
        close = pb.DatagramChannelClose(stream_id=(await agent.asked()).stream_id)
        await agent.link.send(pb.Message(datagram_channel_close=close))
        assert (await link.receive()).stream_rsp.error.code == 6000
        await joined(site, agent, tunnel)

    on_site(script)


def test_an_agent_that_does_not_answer_in_time_is_told_that_nobody_waits() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        link = await site.dial(await private(agent), channel=True)
        request = await agent.asked()
        assert (await link.receive()).stream_rsp.error.code == 6000
        assert await closed(agent.link) == request.stream_id
        # Its answer comes too late for anything.
        await agent.accept(request)
        Channel(agent.link, request.stream_id).send(b"late")
        await stock_of(agent.link).ping()
        assert site.engine.connector._streams == {}

    on_site(script, agent_connect_timeout_ms=50)


# -- packets -----------------------------------------------------------------------------------------------------------


def test_unknown_and_short_datagrams_are_ignored() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        _, near, far = await joined(site, agent, await private(agent))
        stock = far.stock
        for junk in (b"", b"12345", far.identity[:11], bytes(12) + b"x", far.identity[:11] + b"\0y"):
            stock.datagram(junk)
        far.send(b"right")
        assert await near.receive() == b"right"
        await stock.ping()
        assert near.mine == [b"right"]
        assert stock.over is None

    on_site(script)


def test_flows_do_not_mix() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        other = await site.quic()
        await other.connected()
        flows = [await joined(site, agent, tunnel, on=on) for on in (None, None, other)]
        assert len({channel.identity for _, *pair in flows for channel in pair}) == 6
        for number in range(30):
            for name, (_, near, far) in zip("abc", flows, strict=True):
                near.send(f"{name} down {number}".encode())
                far.send(f"{name} up {number}".encode())
            for name, (_, near, far) in zip("abc", flows, strict=True):
                assert await far.receive() == f"{name} down {number}".encode()
                assert await near.receive() == f"{name} up {number}".encode()

    on_site(script)


def test_packets_that_do_not_fit_are_dropped_whole() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        link = await site.dial(await private(agent))
        request = await agent.asked()
        await agent.accept(request)
        await link.receive()
        near, far = Packets(link), Channel(agent.link, request.stream_id)
        await near.send(b"before", bytes(1400), bytes(65_535), b"after")
        assert [await far.receive(), await far.receive()] == [b"before", b"after"]
        assert far.mine == [b"before", b"after"]

    on_site(script)


def test_an_inner_packet_of_1240_octets_fits() -> None:
    """Section 2.5: a connection inside needs 1,200."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        link = await site.dial(await private(agent))
        request = await agent.asked()
        await agent.accept(request)
        await link.receive()
        far = Channel(agent.link, request.stream_id)
        await Packets(link).send(bytes(1240))
        assert len(await far.receive()) == 1240

    on_site(script)


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "half-close", "cut", "word"])
def test_the_dialler_ends_it_and_the_agent_is_told_once(how: str) -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        link, near, far = await joined(site, agent, tunnel)
        assert isinstance(link, QuicLink)
        near.send(b"last")
        assert await far.receive() == b"last"
        match how:
            case "close":
                await link.close()
            case "half-close":
                await link.half_close()
            case "cut":
                link.cut()
            case "word":
                close = pb.DatagramChannelClose(stream_id=near.identity.hex())
                await link.send(pb.Message(datagram_channel_close=close))
        assert await closed(agent.link) == far.identity.hex()
        far.send(b"late")
        near.send(b"late")
        # The next word on the control channel is about another flow: nothing names this one any more.
        _, near, far = await joined(site, agent, tunnel)
        near.send(b"next")
        assert await far.receive() == b"next"
        assert site.engine.connector.flows_of(site.engine.registry.tunnels()[0])[0].identity == far.identity

    on_site(script)


def test_the_agent_ends_it_and_the_dialler_is_told_once() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        link, near, far = await joined(site, agent, tunnel)
        far.send(b"last")
        assert await near.receive() == b"last"
        for _ in range(2):
            close = pb.DatagramChannelClose(stream_id=far.identity.hex())
            await agent.link.send(pb.Message(datagram_channel_close=close))
        assert await closed(link) == near.identity.hex()
        assert await link.ended() == b""
        _, near, far = await joined(site, agent, tunnel)
        near.send(b"next")
        assert await far.receive() == b"next"

    on_site(script)


def test_another_agent_neither_confirms_nor_ends_a_flow() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        stranger = await site.agent()
        tunnel = await private(agent)
        link = await site.dial(tunnel, channel=True)
        request = await agent.asked()
        await stranger.accept(request)
        await stranger.refuse(request.stream_id)
        close = pb.DatagramChannelClose(stream_id=request.stream_id)
        await stranger.link.send(pb.Message(datagram_channel_close=close))
        stock = stock_of(link)
        await stock.ping()
        assert stock.data.get(link.number) is None  # type: ignore[attr-defined]
        await agent.accept(request)
        near = Channel(link, (await link.receive()).stream_rsp.stream_id)
        await stranger.link.send(pb.Message(datagram_channel_close=close))
        await stock.ping()
        near.send(b"still")
        assert await Channel(agent.link, request.stream_id).receive() == b"still"

    on_site(script)


def test_closing_the_tunnel_ends_its_flows_without_a_word_about_each() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        link, near, _ = await joined(site, agent, tunnel)
        await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert (await agent.link.receive()).close_tunnel_rsp.tunnel_id == tunnel
        assert await closed(link) == near.identity.hex()
        assert await link.ended() == b""
        await agent.link.send(pb.Message(heartbeat=pb.Heartbeat()))
        _, near, far = await joined(site, agent, await private(agent))
        near.send(b"next")
        assert await far.receive() == b"next"

    on_site(script)


def test_a_lost_control_channel_keeps_flows_and_a_lost_connection_ends_them() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        other = await site.quic()
        await other.connected()
        link, near, far = await joined(site, agent, await private(agent), on=other)
        agent.link.cut()
        await far.stock.ping()
        near.send(b"still")
        assert await far.receive() == b"still"
        far.send(b"there")
        assert await near.receive() == b"there"
        far.stock.close(0, "bye")
        assert await closed(link) == near.identity.hex()
        assert await link.ended() == b""

    on_site(script)


def test_a_dialler_whose_connection_is_lost_leaves_nothing_behind() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        other = await site.quic()
        await other.connected()
        tunnel = await private(agent)
        _, near, far = await joined(site, agent, tunnel, on=other)
        near.send(b"last")
        assert await far.receive() == b"last"
        other.close(0, "bye")
        assert await closed(agent.link) == far.identity.hex()
        live = site.engine.registry.by_id(tunnel)
        assert live is not None
        await live.sessions.emptied()
        assert site.engine.connector.flows_of(live) == []

    on_site(script)


def test_only_so_many_flows_of_one_agent() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        link, *_ = await joined(site, agent, tunnel)
        assert (await (await site.dial(tunnel, channel=True)).receive()).stream_rsp.error.code == 7000
        await link.close()
        await closed(agent.link)
        await joined(site, agent, tunnel)

    on_site(script, max_streams_per_channel=1)


def test_a_flow_that_nobody_reads_is_bounded_and_holds_up_no_other() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        # A dialler on TLS that does not read: its leg is framed, and backs up.
        slow = await site.dial(tunnel, transport="tls", zero_rtt=True)
        request = await agent.asked()
        await agent.accept(request)
        flood = Channel(agent.link, request.stream_id)
        slow.pause()
        _, near, far = await joined(site, agent, tunnel)
        for number in range(2_000):
            flood.send(number.to_bytes(4, "big") * 250)
            if number % 50 == 0:
                far.send(number.to_bytes(4, "big"))
                assert await near.receive() == number.to_bytes(4, "big")
        (channel,) = (
            row
            for row in site.engine.connector.flows_of(site.engine.registry.tunnels()[0])
            if row.identity == flood.identity
        )
        assert channel._octets <= 66_000
        assert len(channel._packets) <= 256
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        # What arrives is whole and in order, if not all of it.
        packets = Packets(slow)
        last = -1
        flood.send(b"\xff" * 8)
        while (packet := await packets.receive()) != b"\xff" * 8:
            assert packet == packet[:4] * 250
            assert int.from_bytes(packet[:4], "big") > last
            last = int.from_bytes(packet[:4], "big")
            if not packets._reader.inside:
                flood.send(b"\xff" * 8)

    on_site(script, stream_buffer_bytes=65_536)


def test_shutdown_ends_flows() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        link, near, _ = await joined(site, agent, await private(agent))
        stopping = asyncio.create_task(site.engine.stop(0))
        assert (await agent.link.receive()).HasField("close_control_channel_rsp")
        await link.ended()
        await stopping
        near.send(b"late")
        assert site.engine.connector._streams == {}

    on_site(script)
