"""Private datagram tunnels: dialled, framed on streams both ways, and bridged packet by packet.

Over QUIC as over TLS, where the tunnel guarantees delivery; what else there is over QUIC has tests of its own.
"""

from __future__ import annotations

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.packets import MAX_PACKET, PacketReader, frame
from tests import engine_agent_support
from tests.engine_agent_support import Agent, Link, Site, on_site


@pytest.fixture(params=["tls", "quic"], autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both links, the same tests (TRANS-007)."""
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", request.param)
    return str(request.param)


class Packets:
    """Framed packets on one link, behind its handshake frames."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._reader = PacketReader()
        self._reader.feed(link.frames.rest())

    async def send(self, *packets: bytes) -> None:
        await self.link.raw(b"".join(map(frame, packets)))

    async def receive(self) -> bytes:
        while (packet := self._reader.next()) is None:
            data = await self.link.reader.read(65536)
            if not data:
                raise EOFError
            self._reader.feed(data)
        return packet

    async def ended(self) -> list[bytes]:
        """The packets in front of the end; nothing stands behind the last whole one."""
        self._reader.feed(await self.link.ended())
        got = []
        while (packet := self._reader.next()) is not None:
            got.append(packet)
        assert not self._reader.inside
        return got


async def private(agent: Agent, **properties: object) -> str:
    """A private datagram tunnel's id; its packets are framed on either link."""
    if engine_agent_support.TRANSPORT == "quic":
        properties["datagram_guaranteed_delivery"] = True
    answer = await agent.open(publish=False, type="datagram", **properties)
    assert not answer.HasField("error"), answer
    return answer.tunnel_properties.id.value


async def joined(site: Site, agent: Agent, key: str) -> tuple[Packets, Packets]:
    """A flow: the dialler's end and the agent's."""
    dialer = await site.dial(key, zero_rtt=True)
    return Packets(dialer), Packets(await agent.connect(await agent.asked()))


def test_what_the_engine_says_of_the_tunnel() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        answer = await agent.open(publish=False, type="datagram", datagram_guaranteed_delivery=True)
        properties = answer.tunnel_properties
        assert properties.type.value == "datagram"
        assert properties.datagram_guaranteed_delivery.value is True
        assert not properties.HasField("hostname")
        assert (await agent.open(publish=False, type="datagram", upstream_tls=True)).error.code == 5000

    on_site(script)


@pytest.mark.parametrize("edition", ["community", "basic"])
def test_not_on_every_edition(edition: str) -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        assert (await agent.open(publish=False, type="datagram")).error.code == 5000

    on_site(script, edition=edition)


@pytest.mark.parametrize("guaranteed", [False, True])
@pytest.mark.parametrize("zero_rtt", [False, True])
def test_packets_of_every_size_cross_whole_behind_the_handshakes(
    transport: str, zero_rtt: bool, guaranteed: bool
) -> None:
    """Also those that are glued to StreamReq and ProxyReq, and those that come in pieces."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent, name="n", datagram_guaranteed_delivery=guaranteed)
        link = await site.dial("n", zero_rtt=zero_rtt, glued=frame(b"glued down") + b"\0\0")
        request = await agent.asked()
        assert request.tunnel_id == tunnel
        upstream = await agent.connect(request, zero_rtt=zero_rtt, glued=frame(b"glued up"))
        if not zero_rtt:
            assert (await upstream.receive()) == pb.Message(proxy_rsp=pb.ProxyRsp())
            assert len((await link.receive()).stream_rsp.stream_id) == 24
        await link.raw(b"\0\3xyz")
        near, far = Packets(link), Packets(upstream)
        assert [await far.receive(), await far.receive(), await near.receive()] == [b"glued down", b"xyz", b"glued up"]
        sizes = (0, 1, 1200, MAX_PACKET)
        for one, other in ((near, far), (far, near)):
            await one.send(*(b"p" * size for size in sizes))
            assert [await other.receive() for _ in sizes] == [b"p" * size for size in sizes]

    on_site(script)


def test_flows_do_not_mix() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        flows = [await joined(site, agent, tunnel) for _ in range(3)]
        for number in range(100):
            for name, (near, far) in zip("abc", flows, strict=True):
                await near.send(f"{name} down {number}".encode())
                await far.send(f"{name} up {number}".encode())
        for name, (near, far) in zip("abc", flows, strict=True):
            assert [await far.receive() for _ in range(100)] == [f"{name} down {n}".encode() for n in range(100)]
            assert [await near.receive() for _ in range(100)] == [f"{name} up {n}".encode() for n in range(100)]

    on_site(script)


@pytest.mark.parametrize("who", ["dialler", "agent"])
def test_too_long_a_packet_ends_its_own_stream_and_no_other(who: str) -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        near, far = await joined(site, agent, tunnel)
        others = await joined(site, agent, tunnel)
        bad, other = (near, far) if who == "dialler" else (far, near)
        await bad.send(b"last good one")
        await bad.link.raw(bytes.fromhex("00010000") + bytes(65_536))
        assert await other.ended() == [b"last good one"]
        assert await bad.link.ended() == b""
        await others[0].send(b"still there")
        assert await others[1].receive() == b"still there"

    on_site(script)


@pytest.mark.parametrize("how", ["close", "cut"])
@pytest.mark.parametrize("who", ["dialler", "agent"])
def test_the_end_of_a_stream_is_the_end_of_the_flow(who: str, how: str) -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        near, far = await joined(site, agent, await private(agent))
        one, other = (near, far) if who == "dialler" else (far, near)
        await one.send(b"a")
        assert await other.receive() == b"a"
        await one.send(b"b", b"c")
        if how == "close":
            await one.link.close()
            assert await other.ended() == [b"b", b"c"]
        else:
            one.link.cut()
            assert set(await other.ended()) <= {b"b", b"c"}

    on_site(script)


def test_a_packet_cut_short_is_not_handed_on() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        near, far = await joined(site, agent, await private(agent))
        await near.link.raw(frame(b"whole") + b"\0\0\0\x09part")
        await near.link.close()
        assert await far.ended() == [b"whole"]

    on_site(script)


def test_no_datagram_channel_on_this_link_for_guaranteed_delivery_or_a_byte_stream(transport: str) -> None:
    """The client then asks again for framed packets (section 4.6)."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnels = (await private(agent), await agent.private())
        # Over QUIC this tunnel has guaranteed delivery.
        reason = "not on this link" if transport == "tls" else "guarantees delivery"
        for tunnel, words in zip(tunnels, (reason, "byte stream"), strict=True):
            link = await site.link()
            request = pb.StreamReq(tunnel_id_name=tunnel)
            request.datagram_channel.value = True
            await link.send(pb.Message(stream_req=request))
            error = (await link.receive()).stream_rsp.error
            assert error.code == 4000
            assert words in error.message.value
            assert await link.ended() == b""
        # Nobody was asked for a stream meanwhile, and framed packets work.
        near, far = await joined(site, agent, tunnels[0])
        await near.send(b"framed")
        assert await far.receive() == b"framed"

    on_site(script)


def test_what_a_dialler_of_datagrams_is_told() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        refused = await site.dial(tunnel)
        await agent.refuse((await agent.asked()).stream_id, "no room")
        error = (await refused.receive()).stream_rsp.error
        assert error.code == 6000
        assert "no room" in error.message.value
        silent = await site.dial(tunnel, zero_rtt=True)
        await agent.refuse((await agent.asked()).stream_id)
        assert await silent.ended() == b""

    on_site(script)


def test_closing_the_tunnel_ends_its_flows_behind_their_packets() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent)
        near, far = await joined(site, agent, tunnel)
        await near.send(b"first")
        assert await far.receive() == b"first"
        await far.send(b"last", b"words")
        await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert (await agent.link.receive()).close_tunnel_rsp.tunnel_id == tunnel
        assert await near.ended() == [b"last", b"words"]
        assert await far.ended() == []

    on_site(script)


def test_a_lost_channel_keeps_flows() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        near, far = await joined(site, agent, await private(agent))
        await near.send(b"first")
        assert await far.receive() == b"first"
        agent.link.cut()
        await near.send(b"still")
        assert await far.receive() == b"still"
        await far.send(b"there")
        assert await near.receive() == b"there"

    on_site(script)


def test_a_flow_without_a_reader_holds_its_sender_back_and_no_other_flow(transport: str) -> None:
    """What the engine keeps is bounded by its buffers, however much is sent; nothing of it is lost."""
    if transport == "quic":
        # A connection of one agent: pausing it would pause all of its flows. See the tests of the QUIC link.
        return

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await private(agent, datagram_guaranteed_delivery=True)
        near, far = await joined(site, agent, tunnel)
        other = await joined(site, agent, tunnel)
        far.link.pause()
        packet = b"x" * 60_000
        sent = 0
        transport = near.link.writer.transport
        while not transport.get_write_buffer_size():
            near.link.writer.write(frame(sent.to_bytes(4, "big") + packet))
            sent += 1
            await other[0].send(b"go")
            assert await other[1].receive() == b"go"
        far.link.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(sent):
            assert await far.receive() == number.to_bytes(4, "big") + packet

    on_site(script, stream_buffer_bytes=65_536)
