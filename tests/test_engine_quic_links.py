"""QUIC tunnels over each way that an agent carries packets: framed on TLS, framed on a QUIC stream, and direct."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import encode
from reference_engine.relay.datagram import ChannelClosed
from tests import engine_agent_support
from tests.engine_agent_support import Agent, Site, on_site
from tests.engine_quic_support import (
    MemoryChannel,
    Stock,
    Upstream,
    client_configuration,
    server_side,
    udp_client,
    until,
)
from tests.test_engine_datagram_private import Packets
from tests.test_engine_datagram_quic import Channel, closed

WAYS = ("tls", "stream", "direct")


class Flow:
    """The agent's end of one flow, with a stock server behind it."""

    def __init__(self, agent: Agent, way: str, request: pb.ProxyConnReq) -> None:
        self.request = request
        self.ended = asyncio.Event()
        self._agent = agent
        self._way = way
        near, far = MemoryChannel.pair()
        self._channel = near
        self.server = Upstream(far, server_side("x"), 128)
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Answer the engine, and carry packets from then on."""
        if self._way == "direct":
            await self._agent.accept(self.request)
            end: Channel | Packets = Channel(self._agent.link, self.request.stream_id)
        else:
            end = Packets(await self._agent.connect(self.request))
        self.end = end
        self._tasks = [asyncio.create_task(self._down(end)), asyncio.create_task(self._up(end))]

    async def _down(self, end: Channel | Packets) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self._channel.send(await end.receive())
        self.ended.set()

    async def _up(self, end: Channel | Packets) -> None:
        arrived = asyncio.Event()
        self._channel.on_arrival(arrived.set)
        with contextlib.suppress(ChannelClosed):
            while True:
                while (packet := self._channel.receive_now()) is not None:
                    sent = end.send(packet)
                    if sent is not None:
                        await sent
                arrived.clear()
                await arrived.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.server.there:
            self.server.forget()


@contextlib.asynccontextmanager
async def joined(site: Site, way: str) -> AsyncIterator[tuple[Agent, Stock, Flow]]:
    """A QUIC tunnel with a client that is connected through it."""
    agent = await site.agent()
    answer = await agent.open(protocol="quic", datagram_guaranteed_delivery=way == "stream")
    assert not answer.HasField("error"), answer
    assert site.udp is not None
    configuration = client_configuration(answer.tunnel_properties.hostname.value, "x")
    async with udp_client(site.udp, configuration) as client:
        flow = Flow(agent, way, await agent.asked())
        await flow.begin()
        try:
            await client.connected()
            await until(lambda: flow.server.there)
            await flow.server.connected()
            yield agent, client, flow
        finally:
            await flow.stop()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", "tls" if request.param == "tls" else "quic")
    return str(request.param)


def test_streams_and_datagrams_cross_in_the_same_way_over_every_link(way: str) -> None:
    """EDGE-006, TRANS-001: 300,000 octets each way, and datagrams."""

    async def script(site: Site) -> None:
        async with joined(site, way) as (_, client, flow):
            server = flow.server
            number = client.open(b"q" * 300_000, end=True)
            await server.until(lambda: number in server.ended)
            assert bytes(server.data[number]) == b"q" * 300_000
            server.write(number, b"a" * 300_000, end=True)
            await client.until(lambda: number in client.ended)
            assert bytes(client.data[number]) == b"a" * 300_000
            # A datagram may be lost on a busy way: ask until one has come.
            while not server.datagrams:
                client.datagram(b"down" * 100)
                await client.ping()
            while not client.datagrams:
                server.datagram(b"up" * 100)
                await server.ping()
            assert set(server.datagrams) == {b"down" * 100}
            assert set(client.datagrams) == {b"up" * 100}

    on_site(script, udp_listen=engine_agent_support.LOOPBACK)


def test_the_end_of_a_client_ends_the_flow(way: str) -> None:
    async def script(site: Site) -> None:
        async with joined(site, way) as (agent, client, flow):
            client.close(7, "bye")
            over = await flow.server.finished()
            assert (over.error_code, over.reason_phrase) == (7, "bye")
            if way == "direct":
                assert await closed(agent.link) == flow.request.stream_id
            else:
                await flow.ended.wait()

    on_site(script, udp_listen=engine_agent_support.LOOPBACK)


def test_the_end_of_the_flow_ends_its_client(way: str) -> None:
    async def script(site: Site) -> None:
        async with joined(site, way) as (agent, client, flow):
            if way == "direct":
                close = pb.DatagramChannelClose(stream_id=flow.request.stream_id)
                await agent.link.send(pb.Message(datagram_channel_close=close))
            else:
                assert isinstance(flow.end, Packets)
                flow.end.link.cut()
            await client.finished()

    on_site(script, udp_listen=engine_agent_support.LOOPBACK)


def test_a_flow_that_ends_as_soon_as_it_has_begun_ends_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer and the close in one packet: nobody waits for a handshake that cannot come."""
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", "quic")

    async def script(site: Site) -> None:
        agent = await site.agent()
        answer = await agent.open(protocol="quic")
        assert site.udp is not None
        configuration = client_configuration(answer.tunnel_properties.hostname.value, "x")
        async with udp_client(site.udp, configuration) as client:
            request = await agent.asked()
            close = pb.DatagramChannelClose(stream_id=request.stream_id)
            accepted = pb.Message(proxy_conn_rsp=pb.ProxyConnRsp(stream_id=request.stream_id))
            await agent.link.raw(encode(accepted) + encode(pb.Message(datagram_channel_close=close)))
            await client.finished()

    on_site(script, handshake_timeout_ms=60_000)
