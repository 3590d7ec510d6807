"""The agent link over QUIC as a transport: what is announced, what each stream is, what ends what, and hostile clients.

What the frames on a stream mean is the same as over TLS: `test_engine_agent_link.py` runs over both.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import encode
from reference_engine.config import TokenGrant
from reference_engine.quic.transport import QuicTransport
from tests import engine_agent_support
from tests.engine_agent_support import Agent, Link, QuicLink, Site, Streams, Watch, on_site, opening

STREAM_LIMIT_ERROR = 0x4


@pytest.fixture(autouse=True)
def transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", "quic")


def engines_end(site: Site, agent: Agent) -> QuicTransport:
    """The engine's end of the agent's connection."""
    assert site.engine.quic is not None
    assert isinstance(agent.link, QuicLink)
    known = agent.link.stock.quic._peer_cid.cid
    (one,) = (row for row in site.engine.quic.connections if known in row.connection.own_cids)
    return one


async def joined(site: Site, agent: Agent, key: str, where: str) -> tuple[Link, QuicLink]:
    dialer = await site.dial(key, zero_rtt=True, transport=where)
    upstream = await agent.connect(await agent.asked())
    assert isinstance(upstream, QuicLink)
    return dialer, upstream


# -- what is announced -------------------------------------------------------------------------------------------------


def test_what_the_engine_announces_to_agents() -> None:
    """Section 2.2: datagrams, at least 1,000 streams, an idle timeout of at least 30 s, and the one ALPN name."""

    async def script(site: Site) -> None:
        stock = await site.quic()
        await stock.connected()
        assert stock.alpn == "rstrm/1"
        assert (stock.quic._remote_max_datagram_frame_size or 0) > 1_400
        assert stock.quic._remote_max_streams_bidi >= 1_000
        assert stock.quic._remote_max_streams_uni == 0
        assert (stock.quic._remote_max_idle_timeout or 0) >= 30

    on_site(script)


@pytest.mark.parametrize("name", [None, engine_agent_support.DOMAIN])
def test_a_probe_is_no_event(name: str | None) -> None:
    """A handshake without a byte behind it, with the engine's name or without any, then a close with a short reason."""

    async def script(site: Site) -> None:
        stock = await site.quic(name=name)
        await stock.connected()
        await stock.ping()
        stock.close(0, "probe")
        assert site.engine.registry.clients() == ()
        agent = await site.agent()
        await agent.close()

    on_site(script)


def test_streams_are_allowed_again_when_they_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference_engine.agent.quic.STREAMS", 4)

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        for number in range(20):
            dialer, upstream = await joined(site, agent, tunnel, "quic")
            await dialer.raw(bytes([number]))
            assert await upstream.data(1) == bytes([number])
            await dialer.close()
            assert await upstream.ended() == b""
            await upstream.close()

    on_site(script)


@pytest.mark.parametrize("kind", ["unidirectional", "too-many"])
def test_streams_that_are_not_allowed_end_their_connection_and_no_other(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reference_engine.agent.quic.STREAMS", 4)

    async def script(site: Site) -> None:
        agent = await site.agent()
        stock = await site.quic()
        await stock.connected()
        stock.quic._remote_max_streams_uni = stock.quic._remote_max_streams_bidi = 100
        if kind == "unidirectional":
            stock.open(b"x", unidirectional=True)
        else:
            stock.write(4 * 4, b"x")
        assert (await stock.finished()).error_code == STREAM_LIMIT_ERROR
        assert (await agent.open()).HasField("tunnel_properties")

    on_site(script)


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset", "half a frame", "stop"])
def test_a_stream_that_says_nothing_whole_is_no_event(how: str) -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        link = await site.link()
        assert isinstance(link, QuicLink)
        match how:
            case "fin":
                await link.half_close()
                assert await link.ended() == b""
            case "reset":
                await link.raw(b"\0")
                link.cut()
            case "half a frame":
                await link.raw(encode(opening())[:-1])
                await link.half_close()
                assert await link.ended() == b""
            case "stop":
                await link.raw(b"\0")
                link.stock.stop(link.number, 7)
        assert (await agent.open()).HasField("tunnel_properties")
        assert len(site.engine.registry.clients()) == 1

    on_site(script)


def test_the_engine_opens_no_stream_and_the_agents_close_is_seen() -> None:
    """STOP_SENDING with FIN is how a client closes a stream (section 2.2)."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer, upstream = await joined(site, agent, await agent.private(), "quic")
        await upstream.raw(b"last words")
        await upstream.close()
        assert await dialer.data(10) == b"last words"
        assert await dialer.ended() == b""
        await dialer.close()
        stock = upstream.stock
        await stock.ping()
        assert {number % 4 for number in stock.data} == {0}
        # The engine has answered STOP_SENDING with RESET_STREAM, or had ended already; either way the stream is over.
        transport = engines_end(site, agent)
        while len(transport.streams) > 1:
            await stock.ping()

    on_site(script)


def test_a_stream_is_cut_behind_what_was_handed_on() -> None:
    """The tunnel is closed while its dialler acknowledges nothing: what the agent had sent still arrives, and the end
    shows that there was more to come."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        other = await site.quic()
        await other.connected()
        tunnel = await agent.private()
        dialer = await site.dial(tunnel, zero_rtt=True, on=other)
        upstream = await agent.connect(await agent.asked())
        await dialer.raw(b"x")
        assert await upstream.data(1) == b"x"
        other.silent = True
        await upstream.raw(b"last words")
        await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert (await agent.link.receive()).HasField("close_tunnel_rsp")
        await asyncio.gather(*site.engine.agents.closing._tasks)
        other.silent = False
        assert await dialer.data(10) == b"last words"
        with pytest.raises(ConnectionResetError):
            await dialer.data(1)

    on_site(script)


def test_what_dies_with_the_connection_and_what_does_not() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        survivor = await site.quic()
        await survivor.connected()
        dead = agent.link
        assert isinstance(dead, QuicLink)
        tunnel = await agent.private()
        dialer = await site.dial(tunnel, zero_rtt=True, on=survivor)
        upstream = await agent.connect(await agent.asked())
        await dialer.raw(b"x")
        assert await upstream.data(1) == b"x"
        with Watch(site.engine) as watch:
            dead.stock.close(0, "gone")
            await watch.until("client", "deleted")
            await watch.until("tunnel", "updated")
        with pytest.raises(ConnectionResetError):
            await dialer.data(1)
        assert site.engine.registry.by_id(tunnel) is not None
        assert (await (await site.dial(tunnel, on=survivor)).receive()).stream_rsp.error.code == 6000
        assert survivor.over is None

    on_site(script, lease_ms=60_000)


def test_streams_of_which_nobody_reads_hold_up_neither_the_control_channel_nor_others() -> None:
    """Twenty diallers that take one window each and no more, while the agent sends more than that: what waits in the
    engine is in sum far above what a client of a tunnel could have in flight on its connection."""

    async def script(site: Site) -> None:
        agent = await site.agent(interval=60_000)
        tunnel = await agent.private()
        stuck = await site.quic(max_stream_data=16_384)
        await stuck.connected()
        never_again(stuck)
        for _ in range(20):
            dialer = await site.dial(tunnel, zero_rtt=True, on=stuck)
            upstream = await agent.connect(await agent.asked())
            assert isinstance(upstream, QuicLink)
            await upstream.raw(bytes(65_536))
            await filled(dialer, 16_384)
        await agent.link.send(pb.Message(heartbeat=pb.Heartbeat(sequence=1)))
        assert (await agent.link.receive()).heartbeat.acknowledgement == 1
        dialer, upstream = await joined(site, agent, tunnel, "tls")
        await upstream.raw(b"passes")
        assert await dialer.data(6) == b"passes"
        ours = engines_end(site, agent)
        assert 20 * 8_192 <= ours.unread <= 20 * 16_384

    on_site(script, stream_buffer_bytes=16_384, quic_window_bytes=65_536)


async def filled(link: Link, octets: int) -> None:
    """So many octets have come on the stream, and no more."""
    assert isinstance(link, QuicLink)
    await link.stock.until(lambda: len(link.stock.data.get(link.number, b"")) == octets)


def never_again(stock: Streams) -> None:
    """The stock client gives credit for whatever comes: this one gives none to a stream beyond the first window."""
    stock.quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]


def test_an_agent_that_stops_reading_one_stream_holds_up_its_dialler_only() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        dialer, upstream = await joined(site, agent, tunnel, "tls")
        other = await joined(site, agent, tunnel, "quic")
        never_again(upstream.stock)
        transport = dialer.writer.transport
        while not transport.get_write_buffer_size():
            dialer.writer.write(bytes(1 << 20))
            await other[0].raw(b"go")
            assert await other[1].data(2) == b"go"
        # The relay hands on what one read has given, and waits then.
        assert engines_end(site, agent).backlog <= 16_384 + 262_144

    on_site(script, stream_buffer_bytes=16_384)


# -- hostile clients ---------------------------------------------------------------------------------------------------


def test_a_channel_of_another_connection_is_an_unknown_one() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = (await agent.open(publish=False, type="datagram")).tunnel_properties.id.value
        link = await site.dial(tunnel, channel=True)
        request = await agent.asked()
        await agent.accept(request)
        stream_id = (await link.receive()).stream_rsp.stream_id
        stranger = await site.quic()
        await stranger.connected()
        for identity in (stream_id, request.stream_id):
            stranger.datagram(bytes.fromhex(identity) + b"forged")
        await stranger.ping()
        stock = link.stock  # type: ignore[attr-defined]
        stock.datagram(bytes.fromhex(stream_id) + b"genuine")
        await stock.until(lambda: stock.datagrams)
        assert stock.datagrams == [bytes.fromhex(request.stream_id) + b"genuine"]
        assert stranger.datagrams == []

    on_site(script)


def test_a_client_without_credentials_gets_no_further_than_its_first_frames() -> None:
    async def script(site: Site) -> None:
        stock = await site.quic()
        await stock.connected()
        link = stock.link()
        await link.send(opening(token="wrong"))
        assert (await link.receive()).open_control_channel_rsp.error.code == 1000
        assert await link.ended() == b""
        link = stock.link()
        request = pb.StreamReq(tunnel_id_name="n")
        request.datagram_channel.value = True
        await link.send(pb.Message(stream_req=request))
        assert (await link.receive()).stream_rsp.error.code == 1000
        stock.datagram(bytes(100))
        await stock.ping()
        assert stock.over is None
        assert stock.datagrams == []

    on_site(script, tokens=(TokenGrant("right", "default"),))


async def noise(dice: random.Random, stock: Streams, identity: bytes) -> None:
    """A stream with random octets, frames and ends on it, and datagrams beside it."""
    link = stock.link()
    for _ in range(dice.randrange(1, 6)):
        if stock.over is not None:
            return
        match dice.randrange(6):
            case 0:
                await link.raw(dice.randbytes(dice.randrange(1, 2_000)))
            case 1:
                size = dice.choice([0, 1, 5, 65_535, 65_536, 1 << 31])
                await link.raw(size.to_bytes(4, "big") + dice.randbytes(min(size, 50)))
            case 2:
                await link.raw(encode(dice.choice(MESSAGES)))
            case 3:
                stock.datagram(dice.randbytes(dice.randrange(0, 40)))
            case 4:
                stock.datagram(identity + dice.randbytes(dice.randrange(0, 1_000)))
            case 5:
                await link.raw(b"\0")
                link.cut()
                return
    await link.close()


@pytest.mark.parametrize("seed", range(4))
def test_noise_on_streams_and_in_datagrams_harms_nobody_else(seed: int) -> None:
    """Random octets, ends and datagrams, on streams of every state; an agent beside it goes on."""
    dice = random.Random(seed)

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = (await agent.open(publish=False, type="datagram")).tunnel_properties.id.value
        dialled = await site.dial(tunnel, channel=True)
        request = await agent.asked()
        await agent.accept(request)
        stream_id = (await dialled.receive()).stream_rsp.stream_id
        for _ in range(40):
            stock = await site.quic()
            await stock.connected()
            for _ in range(10):
                await noise(dice, stock, bytes.fromhex(stream_id))
            if dice.random() < 0.5:
                stock.close(dice.randrange(1 << 16), "x" * dice.randrange(40))
        own = dialled.stock  # type: ignore[attr-defined]
        own.datagram(bytes.fromhex(stream_id) + b"still")
        await own.until(lambda: own.datagrams)
        assert own.datagrams == [bytes.fromhex(request.stream_id) + b"still"]

    on_site(script)


MESSAGES = (
    pb.Message(),
    opening(),
    pb.Message(stream_req=pb.StreamReq(tunnel_id_name="nobody")),
    pb.Message(proxy_req=pb.ProxyReq(stream_id="aabbccddeeff001122334455")),
    pb.Message(proxy_conn_rsp=pb.ProxyConnRsp(stream_id="aabbccddeeff001122334455")),
    pb.Message(datagram_channel_close=pb.DatagramChannelClose(stream_id="aabbccddeeff001122334455")),
    pb.Message(heartbeat=pb.Heartbeat(sequence=1)),
)
"""Frames that are whole, in the wrong place or in the right one."""
