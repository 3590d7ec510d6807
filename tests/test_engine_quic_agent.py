"""A QUIC tunnel as an agent publishes it: what it is told, and packets framed on a stream of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.relay.stream import Address
from tests.engine_agent_support import DOMAIN, Link, Site, on_site
from tests.engine_quic_support import MemoryChannel, Upstream, client_configuration, server_side, udp_client, until

UDP = Address("127.0.0.1", 0)


@contextlib.asynccontextmanager
async def carried(link: Link) -> AsyncIterator[Upstream]:
    """A stock server behind the agent's end of a datagram channel; four octets of length in front of each packet."""
    near, far = MemoryChannel.pair()
    server = Upstream(far, server_side("x"), 128)

    async def inward() -> None:
        rest = link.frames.rest()
        with contextlib.suppress(ConnectionError, OSError):
            while True:
                while len(rest) >= 4 and len(rest) >= 4 + int.from_bytes(rest[:4], "big"):
                    end = 4 + int.from_bytes(rest[:4], "big")
                    near.send(rest[4:end])
                    rest = rest[end:]
                data = await link.reader.read(65_536)
                if not data:
                    return near.abort("ended")
                rest += data

    def outward() -> None:
        with contextlib.suppress(Exception):
            while (packet := near.receive_now()) is not None:
                link.writer.write(len(packet).to_bytes(4, "big") + packet)

    near.on_arrival(outward)
    task = asyncio.create_task(inward())
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if server.there:
            server.forget()


def test_what_an_agent_is_told_of_its_tunnel() -> None:
    async def script(site: Site) -> None:
        udp = site.engine.udp_address
        assert udp is not None
        agent = await site.agent()
        told = (await agent.open(protocol="quic", hostname=f"mine-default.t.{DOMAIN}")).tunnel_properties
        assert (told.type.value, told.protocol.value, told.upstream_tls.value) == ("datagram", "quic", True)
        assert told.hostname.value == f"mine-default.t.{DOMAIN}"
        assert (told.port.value, told.host.value) == (udp.port, f"mine-default.t.{DOMAIN}:{udp.port}")
        assert udp.port != site.address.port
        other = (await agent.open(protocol="tls")).tunnel_properties
        assert other.port.value == site.address.port

    on_site(script, udp_listen=UDP)


def test_without_the_port_there_is_no_tunnel() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        assert (await agent.open(protocol="quic")).error.code == pb.ERROR_CODE_FEATURE_NOT_AVAILABLE

    on_site(script)


def test_a_session_from_the_client_to_the_upstream_and_the_end_of_the_tunnel() -> None:
    async def script(site: Site) -> None:
        udp = site.engine.udp_address
        assert udp is not None
        agent = await site.agent()
        told = (await agent.open(protocol="quic")).tunnel_properties
        async with udp_client(udp, client_configuration(told.hostname.value, "x")) as client:
            request = await agent.asked()
            assert request.source_ip.v4 == int.from_bytes(bytes((127, 0, 0, 1)), "big")
            async with carried(await agent.connect(request)) as server:
                await client.connected()
                number = client.open(b"question", end=True)
                await until(lambda: server.there)
                await server.until(lambda: number in server.ended)
                server.write(number, b"answer" * 10_000, end=True)
                await client.until(lambda: number in client.ended)
                assert client.got(number) == b"answer" * 10_000
                close = pb.CloseTunnelReq(tunnel_id=told.id.value)
                await agent.link.send(pb.Message(close_tunnel_req=close))
                for peer in (client, server):
                    over = await peer.finished()
                    assert (over.error_code, over.reason_phrase) == (0, "tunnel closed")

    on_site(script, udp_listen=UDP)


def test_a_tunnel_whose_agent_is_gone_refuses() -> None:
    async def script(site: Site) -> None:
        udp = site.engine.udp_address
        assert udp is not None
        agent = await site.agent()
        told = (await agent.open(protocol="quic")).tunnel_properties
        agent.link.cut()
        tunnel = site.engine.registry.by_id(told.id.value)
        assert tunnel is not None
        await until(lambda: not tunnel.open)
        async with udp_client(udp, client_configuration(told.hostname.value, "x")) as client:
            assert (await client.finished()).error_code == 2

    on_site(script, udp_listen=UDP, lease_ms=60_000)


@pytest.mark.parametrize("alpn", ["rstrm/1", "x"])
def test_a_tunnels_name_is_the_tunnels_whatever_is_offered(alpn: str) -> None:
    async def script(site: Site) -> None:
        udp = site.engine.udp_address
        assert udp is not None
        agent = await site.agent()
        told = (await agent.open(protocol="quic", tls_alpns=["y"])).tunnel_properties
        async with udp_client(udp, client_configuration(told.hostname.value, alpn)) as client:
            assert (await client.finished()).error_code == 0x178

    on_site(script, udp_listen=UDP)


def test_the_name_of_a_tunnel_of_another_kind_is_served_nothing_here() -> None:
    async def script(site: Site) -> None:
        udp = site.engine.udp_address
        assert udp is not None
        agent = await site.agent()
        told = (await agent.open(protocol="tls")).tunnel_properties
        async with udp_client(udp, client_configuration(told.hostname.value, "x")) as client:
            assert (await client.finished()).error_code == 0x170

    on_site(script, udp_listen=UDP)
