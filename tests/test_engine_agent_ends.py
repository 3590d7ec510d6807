"""Ends on the agent link: what a loss, a close, a silence and a shutdown take along, and what they leave."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.tunnel.model import Tunnel
from tests.engine_agent_support import DOMAIN, Agent, Link, Site, Watch, on_site

pytestmark = pytest.mark.usefixtures("agent_transport")


async def joined(site: Site, agent: Agent, key: str) -> tuple[Link, Link]:
    """A dialled stream and its agent leg, both silent (zero_rtt)."""
    dialer = await site.dial(key, zero_rtt=True)
    return dialer, await agent.connect(await agent.asked())


def test_a_lost_channel_keeps_streams_and_takes_no_new_ones() -> None:
    """EDGE-026."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        dialer, upstream = await joined(site, agent, tunnel)
        await dialer.raw(b"0")
        assert await upstream.data(1) == b"0"
        with Watch(site.engine) as watch:
            agent.link.cut()
            await watch.until("tunnel", "updated")
            await dialer.raw(b"a")
            await upstream.raw(b"b")
            assert await upstream.data(1) == b"a"
            assert await dialer.data(1) == b"b"
            assert (await (await site.dial(tunnel)).receive()).stream_rsp.error.code == 6000
            leased = site.engine.registry.by_id(tunnel)
            assert leased is not None
            site.engine.lease(leased, 0)
            await watch.until("tunnel", "deleted")
        assert (await (await site.dial(tunnel)).receive()).stream_rsp.error.code == 3000
        await dialer.raw(b"c")
        assert await upstream.data(1) == b"c"

    on_site(script, lease_ms=60_000)


@pytest.mark.parametrize("how", ["tunnel", "channel", "protocol"])
def test_an_end_on_purpose_takes_the_streams_along(how: str) -> None:
    """EDGE-027."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        dialer, upstream = await joined(site, agent, tunnel)
        await dialer.raw(b"a")
        assert await upstream.data(1) == b"a"
        if how == "tunnel":
            await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        elif how == "channel":
            await agent.close()
        else:
            await agent.link.send(pb.Message(stream_rsp=pb.StreamRsp()))
        assert await dialer.ended() == b""
        assert await upstream.ended() == b""
        assert site.engine.registry.tunnels() == ()

    on_site(script)


def test_what_was_sent_before_the_close_of_a_tunnel_still_arrives() -> None:
    """AGENT-054: all of it, however long it takes to leave, and then an end that is no orderly one on QUIC."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        dialer, upstream = await joined(site, agent, tunnel)
        await upstream.raw(b"first")
        assert await dialer.data(5) == b"first"
        await upstream.raw(bytes(200_000))
        await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert len(await dialer.data(200_000)) == 200_000
        assert await dialer.ended() == b""

    on_site(script)


def test_what_is_pending_fails_when_its_tunnel_or_its_agent_goes() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        waiting = await site.dial(tunnel)
        await agent.asked()
        await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert (await waiting.receive()).stream_rsp.error.code == 4000
        assert (await agent.link.receive()).HasField("close_tunnel_rsp")
        waiting = await site.dial(await agent.private())
        await agent.asked()
        agent.link.cut()
        assert (await waiting.receive()).stream_rsp.error.code == 6000

    on_site(script)


def test_names_stay_held_after_a_loss_until_the_lease_is_over() -> None:
    """EDGE-014."""

    async def script(site: Site) -> None:
        name = f"x-default.t.{DOMAIN}"
        lost, other = await site.agent(), await site.agent()
        await lost.open(hostname=name)
        with Watch(site.engine) as watch:
            lost.link.cut()
            await watch.until("tunnel", "updated")
            assert (await other.open(hostname=name)).error.code == 2000
            held = site.engine.registry.by_hostname(name)
            assert isinstance(held, Tunnel)
            assert not held.open

    on_site(script, lease_ms=60_000)


def test_names_are_free_when_the_lease_is_over() -> None:
    async def script(site: Site) -> None:
        name = f"x-default.t.{DOMAIN}"
        lost, other = await site.agent(), await site.agent()
        await lost.open(hostname=name)
        with Watch(site.engine) as watch:
            lost.link.cut()
            await watch.until("tunnel", "deleted")
        assert (await other.open(hostname=name)).HasField("tunnel_properties")

    on_site(script, lease_ms=20)


def test_a_silent_agent_expires_by_its_own_timeout() -> None:
    async def script(site: Site) -> None:
        silent, patient = await site.agent(interval=50), await site.agent(interval=300_000)
        await silent.open()
        await patient.open()
        with Watch(site.engine) as watch:
            await watch.until("tunnel", "deleted")
        assert await silent.link.ended() == b""
        assert len(site.engine.registry.tunnels()) == len(site.engine.registry.clients()) == 1

    on_site(script, heartbeat_timeout_floor_ms=100)


def test_an_agent_without_heartbeats_is_not_answered_and_does_not_expire() -> None:
    async def script(site: Site) -> None:
        quiet, watched = await site.agent(), await site.agent(interval=10)
        await quiet.link.send(pb.Message(heartbeat=pb.Heartbeat()))
        with Watch(site.engine) as watch:
            await watch.until("client", "deleted")
        assert await watched.link.ended() == b""
        assert (await quiet.open()).HasField("tunnel_properties")

    on_site(script, heartbeat_timeout_floor_ms=100)


def test_a_revoked_tunnel_is_announced() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        identity = await agent.private()
        tunnel = site.engine.registry.by_id(identity)
        assert tunnel is not None
        await site.engine.agents.revoke(tunnel)
        assert (await agent.link.receive()).close_tunnel_rsp.tunnel_id == identity
        assert site.engine.registry.tunnels() == ()

    on_site(script)


def test_shutdown_is_announced_and_closes_everything() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer, upstream = await joined(site, agent, await agent.private())
        stopping = asyncio.create_task(site.engine.stop(0.1))
        assert (await agent.link.receive()).HasField("close_control_channel_rsp")
        assert await agent.link.ended() == b""
        assert await dialer.ended() == b""
        assert await upstream.ended() == b""
        await stopping
        assert site.engine.registry.clients() == ()

    on_site(script)


def test_shutdown_waits_for_live_streams() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer, upstream = await joined(site, agent, await agent.private())
        await dialer.raw(b"a")
        assert await upstream.data(1) == b"a"
        stopping = asyncio.create_task(site.engine.stop(5))
        await site.engine.draining.wait()
        await upstream.raw(b"last words")
        assert await dialer.data(10) == b"last words"
        await upstream.close()
        await dialer.close()
        await stopping
        assert (await agent.link.receive()).HasField("close_control_channel_rsp")

    on_site(script)


def test_an_agent_that_stops_reading_is_dropped() -> None:
    """What waits for an agent is bounded: in the end the channel is lost."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        agent.link.pause()
        (channel,) = site.engine.agents.channels()
        notice = pb.Message(server_message=pb.ServerMessage(message="x" * 60_000))
        with Watch(site.engine) as watch:
            while site.engine.registry.clients():
                sending = asyncio.create_task(channel.send(notice))
                await asyncio.wait({sending}, timeout=0)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            await watch.until("client", "deleted")

    on_site(script)
