"""Data streams over the agent link: what dialers and agents are told, and that every octet passes."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import encode
from reference_engine.config import TokenGrant
from tests.engine_agent_support import DOMAIN, Site, on_site
from tests.engine_tls_support import Client, trusting

pytestmark = pytest.mark.usefixtures("agent_transport")


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("zero_rtt", [False, True])
def test_glued_bytes_arrive_whole_and_in_order(by_name: bool, zero_rtt: bool) -> None:
    """EDGE-029: behind StreamReq and behind ProxyReq, in the same record."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private("n")
        dialer = await site.dial("n" if by_name else tunnel, zero_rtt=zero_rtt, glued=b"down-1 ")
        request = await agent.asked()
        assert request.tunnel_id == tunnel
        assert len(request.stream_id) == 24
        assert request.source_ip.v4 == 0x7F000001
        upstream = await agent.connect(request, zero_rtt=zero_rtt, glued=b"up-1 ")
        if not zero_rtt:
            assert (await upstream.receive()) == pb.Message(proxy_rsp=pb.ProxyRsp())
            stream_id = (await dialer.receive()).stream_rsp.stream_id
            assert len(stream_id) == 24
            assert stream_id != request.stream_id
        await dialer.raw(b"down-2")
        await upstream.raw(b"up-2")
        assert await upstream.data(13) == b"down-1 down-2"
        assert await dialer.data(9) == b"up-1 up-2"

    on_site(script)


def test_replies_of_a_handshake_come_alone() -> None:
    """ProxyRsp and StreamRsp are in a record of their own, also when stream bytes wait behind them."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer = await site.dial(await agent.private(), glued=b"early")
        upstream = await agent.connect(await agent.asked(), zero_rtt=False, glued=b"early")
        assert (await upstream.reader.readexactly(6)).hex() == "000000026200"
        assert await upstream.data(5) == b"early"
        reply = await dialer.reader.readexactly(32)
        assert reply[:6].hex() == "0000001c721a"
        assert await dialer.data(5) == b"early"

    on_site(script)


def test_a_proxy_request_needs_its_secret_and_comes_once() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer = await site.dial(await agent.private(), zero_rtt=True, glued=b"x")
        request = await agent.asked()
        assert len(request.secret.value) >= 16
        for secret in ("wrong", ""):
            link = await agent.connect(request, zero_rtt=False, secret=secret)
            assert (await link.receive()).proxy_rsp.error.code == 1000
            assert await link.ended() == b""
            assert await (await agent.connect(request, secret=secret)).ended() == b""
        unknown = await agent.connect(pb.ProxyConnReq(stream_id="0" * 24), zero_rtt=False)
        assert (await unknown.receive()).proxy_rsp.error.code == 4000
        upstream = await agent.connect(request)
        assert await upstream.data(1) == b"x"
        late = await agent.connect(request, zero_rtt=False)
        assert (await late.receive()).proxy_rsp.error.code == 4000
        assert await (await agent.connect(request)).ended() == b""
        await upstream.raw(b"still there")
        assert await dialer.data(11) == b"still there"

    on_site(script)


def test_what_a_dialer_is_told() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        assert (await (await site.dial("nobody")).receive()).stream_rsp.error.code == 3000
        assert await (await site.dial("nobody", zero_rtt=True)).ended() == b""
        refused = await site.dial(tunnel)
        await agent.refuse((await agent.asked()).stream_id, "no room")
        error = (await refused.receive()).stream_rsp.error
        assert error.code == 6000
        assert "no room" in error.message.value
        link = await site.link()
        channel = pb.StreamReq(tunnel_id_name=tunnel)
        channel.datagram_channel.value = True
        await link.send(pb.Message(stream_req=channel))
        assert (await link.receive()).stream_rsp.error.code == 4000

    on_site(script)


def test_an_agent_that_comes_too_late() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer = await site.dial(await agent.private())
        request = await agent.asked()
        assert (await dialer.receive()).stream_rsp.error.code == 6000
        late = await agent.connect(request, zero_rtt=False)
        assert (await late.receive()).proxy_rsp.error.code == 4000

    on_site(script, agent_connect_timeout_ms=50)


def test_projects_do_not_see_each_other() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent(token="a")
        tunnel = await agent.private("n")
        for key in (tunnel, "n"):
            link = await site.dial(key, token="b")
            assert (await link.receive()).stream_rsp.error.code == 3000

    on_site(script, tokens=(TokenGrant("a", "p"), TokenGrant("b", "q")))


def test_a_refusal_after_the_stream_has_come_cuts_it_but_only_the_agents_own() -> None:
    async def script(site: Site) -> None:
        agent, other = await site.agent(), await site.agent(interval=1000)
        dialer = await site.dial(await agent.private(), zero_rtt=True)
        request = await agent.asked()
        upstream = await agent.connect(request)
        await other.refuse(request.stream_id)
        await other.link.send(pb.Message(heartbeat=pb.Heartbeat(sequence=1)))
        assert (await other.link.receive()).HasField("heartbeat")
        await upstream.raw(b"fine")
        assert await dialer.data(4) == b"fine"
        await agent.refuse(request.stream_id)
        assert await dialer.ended() == b""
        assert await upstream.ended() == b""

    on_site(script)


def test_no_more_requests_are_outstanding_than_allowed() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent(interval=1000)
        tunnel = await agent.private()
        dialers = [await site.dial(tunnel, zero_rtt=True) for _ in range(3)]
        first, second = await agent.asked(), await agent.asked()
        await agent.link.send(pb.Message(heartbeat=pb.Heartbeat(sequence=1)))
        assert (await agent.link.receive()).heartbeat.acknowledgement == 1
        await agent.refuse(first.stream_id)
        third = await agent.asked()
        for request in (second, third):
            await (await agent.connect(request)).raw(b"x")
        await asyncio.gather(*(dialer.ended() for dialer in dialers[:1]))
        for dialer in dialers[1:]:
            assert await dialer.data(1) == b"x"

    on_site(script, max_pending_streams_per_channel=2)


def test_a_dialer_that_leaves_frees_its_place() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        gone = await site.dial(tunnel)
        await agent.asked()
        gone.cut()
        dialer = await site.dial(tunnel, zero_rtt=True)
        await (await agent.connect(await agent.asked())).raw(b"x")
        assert await dialer.data(1) == b"x"

    on_site(script, max_pending_streams_per_channel=1)


@pytest.mark.parametrize("who", ["dialer", "agent"])
def test_half_close(who: str) -> None:
    """PRIV-005: the clean end of one direction passes, and the other direction goes on."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        request = pb.StreamReq(tunnel_id_name=tunnel)
        request.zero_rtt.value = True
        message = pb.Message(stream_req=request)
        with half_closing(site) as dialer, half_closing(site) as upstream:
            await asyncio.to_thread(dialer.handshake, glue=encode(message))
            asked = await agent.asked()
            answer = pb.ProxyReq(stream_id=asked.stream_id)
            answer.client_details.token.value = asked.secret.value
            answer.zero_rtt.value = True
            await asyncio.to_thread(upstream.handshake, glue=encode(pb.Message(proxy_req=answer)))
            first, second = (dialer, upstream) if who == "dialer" else (upstream, dialer)
            first.send(b"all I have")
            first.send_close_notify()
            assert await asyncio.to_thread(second.receive_all) == b"all I have"
            assert second.ending == "close_notify"
            second.send(b"the answer")
            second.send_close_notify()
            assert await asyncio.to_thread(first.receive_all) == b"the answer"
            assert first.ending == "close_notify"

    on_site(script)


def half_closing(site: Site) -> Client:
    """A TLS client that can end one direction, which asyncio's cannot."""
    return Client(site.address, DOMAIN, trusting(alpns=("rstrm/1",), version=ssl.TLSVersion.TLSv1_3))
