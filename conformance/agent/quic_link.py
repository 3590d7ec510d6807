"""The agent link over QUIC: streams, datagram channels, and that nothing else changes (agent protocol sections 2.2, 2.5
and 4.6).

That is also what a whole run says: `edgecase run --axes all` puts every case on both links, with the same verdicts.
"""

from __future__ import annotations

from conformance.agent._steps import (
    Tunnel,
    agent_case,
    channel,
    left_over,
    next_request,
    published,
    told_of,
    unpublished,
    works,
)
from conformance.agent.datagrams import DATAGRAMS, exchange, flow, packets
from conformance.quic._steps import datagrams_settled, echo, joined
from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import PeerMismatch
from harness.link.agent_quic import channel_id
from harness.link.stream import End, EndKind, LinkReset
from harness.model.case import case
from harness.model.spec import http, quic, tls
from harness.peer.agent import ScriptedAgent
from harness.peer.agent_frames import read_reply
from harness.peer.http1 import probe
from harness.peer.packets import PacketPeer
from harness.scene import Scene
from harness.wire import agent as wire

OVER_QUIC = {"agent.transport": "quic"}
NEEDED = ("agent.quic", *DATAGRAMS)
TRIES = 20
STREAMS = 20


@case(
    "agent-quic-01",
    checks=["TRANS-002", "EDGE-006"],
    publish={"http": http(), "tls": tls(tls_alpns=("a", "b")), "quic": quic()},
    settings=OVER_QUIC,
    features=["agent.quic", "quic.datagrams"],
)
async def test_tunnels_are_the_same_over_a_quic_link(scene: Scene) -> None:
    """An agent that reached the engine over QUIC has tunnels like any other.

    Through the HTTP tunnel a request and its answer pass with their nonces; the TLS tunnel negotiates from its list,
    refuses a client that has nothing of it, and carries an end each way on its own; the QUIC tunnel carries a stream
    both ways and a datagram in each direction. Nothing of the refused client is seen at the upstream.
    """
    rows = ("TRANS-002", "EDGE-006")
    with scene.judging(*rows, ends=True):
        await probe(await scene.http_client("http"), scene.http_upstream("http"), scene.nonce().hex())
        client, upstream = await scene.pair("tls", alpn=["x", "b"])
        if client.alpn != "b":
            raise PeerMismatch("ALPN b of the tunnel's list", f"ALPN {client.alpn}")
        token = scene.nonce()
        await client.send(token)
        await client.send_end()
        got, _ = await upstream.receive_until_end()
        if got != token:
            raise PeerMismatch("the client's octets and its end", repr(got[:64]))
        await upstream.send(token[::-1])
        await upstream.send_end()
        got, end = await client.receive_until_end()
        if got != token[::-1] or end.kind is not EndKind.CLOSE_NOTIFY:
            raise PeerMismatch("the upstream's octets behind the client's end", f"{got[:64]!r}, then {end}")
        stranger = await scene.tls_client("tls", handshake=False, alpn=["x"])
        if not isinstance(await stranger.try_handshake(), End):
            raise PeerMismatch("a client with nothing of the tunnel's list refused", "its handshake completed")
        pair = await joined(scene, "quic")
        for to_client in (False, True):
            await datagrams_settled(scene, *pair, to_client=to_client)
        await echo(scene, *pair)
    await scene.settle("tls")
    for row in rows:
        await scene.untouched(row, "tls")


@agent_case(
    "agent-quic-02", checks=["AGENT-100"], settings=OVER_QUIC, features=NEEDED, over={"what": ("short", "unknown")}
)
async def test_datagrams_of_no_channel_are_ignored(scene: Scene) -> None:
    """The engine announces that it takes datagrams, opens no stream, and ignores datagrams that name no channel.

    Behind a flow through which packets pass both ways, and twenty streams of the agent, the agent sends datagrams of
    none and of five octets, or some with an id that nobody has. The flow still carries its own packets, and none of
    those; the control channel answers, and no stream of the engine has come.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent, type="datagram")
    link = await agent.quic()
    taken = link.wire.remote_parameters
    scene.expect(
        "AGENT-100",
        taken is not None and taken.max_datagram_frame_size > 0,
        expected="a max_datagram_frame_size above 0",
        actual=f"{taken.max_datagram_frame_size if taken is not None else None}",
    )
    with scene.judging("AGENT-100", ends=True):
        dialler, upstream, _ = await direct_flow(scene, tunnel)
        await crosses(scene, agent, upstream, dialler)
        await crosses(scene, agent, dialler, upstream)
        for _ in range(STREAMS):
            await agent.dial(tunnel.id)
        for _ in range(3):
            for junk in (b"", b"five!") if scene.variant["what"] == "short" else (bytes(12), bytes(range(200))):
                link.send_datagram(junk)
            await agent.heartbeat()
        strange = await crosses(scene, agent, upstream, dialler)
        if strange:
            raise PeerMismatch(
                "packets of the flow alone", f"one of {len(strange[0])} octets ({strange[0][:16].hex()})"
            )
        await crosses(scene, agent, dialler, upstream)
    scene.expect(
        "AGENT-100",
        link.opened_by_engine == 0,
        expected="no stream that the engine opened",
        actual=f"{link.opened_by_engine}",
    )


async def direct_flow(scene: Scene, tunnel: Tunnel) -> tuple[PacketPeer, PacketPeer, pb.ProxyConnReq]:
    """The dialler's side, on a stream, and the agent's, in DATAGRAM frames."""
    dialler = packets(scene, await tunnel.agent.dial_packets(tunnel.id), "dialler")
    request = await next_request(tunnel)
    side = packets(scene, await tunnel.agent.answer_channel(request), f"channel {request.stream_id[:8]}")
    return dialler, side, request


async def crosses(scene: Scene, agent: ScriptedAgent, one: PacketPeer, other: PacketPeer) -> list[bytes]:
    """A packet gets from one side to the other, in some tries: what else has arrived there. Raises `PeerMismatch`.

    Behind each try the control channel makes a round trip, and the last one is waited for.
    """
    token = scene.nonce()
    found: list[bytes] = []
    for _ in range(TRIES):
        await one.send(token)
        await agent.heartbeat()
        found += other.arrived()
        if token in found:
            return [packet for packet in found if packet != token]
    raise PeerMismatch(f"a packet at the {other.channel.name}", f"none of {TRIES}")


@agent_case(
    "agent-quic-03",
    checks=["AGENT-101", "TRANS-007"],
    settings=OVER_QUIC,
    features=NEEDED,
    over={"ends": ("dialler", "agent")},
)
async def test_a_flow_in_datagrams_begins_and_ends_with_a_word(scene: Scene) -> None:
    """An unguaranteed flow over QUIC begins with the agent's ProxyConnRsp, and its end is told once.

    The dialler sends packets before the agent has answered: none comes. Behind ProxyConnRsp alone packets flow both
    ways in DATAGRAM frames that begin with the stream's id. The dialler ends: one DatagramChannelClose names the stream
    on the control channel. Or the agent ends it so: the dialler's stream ends, and the agent is told nothing back. What
    the agent then sends under that id arrives nowhere, and another flow has another id and its own packets only.
    """
    rows = ("TRANS-007", "AGENT-101")
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent, type="datagram")
    link = await agent.quic()
    with scene.judging(*rows, ends=True):
        dialler = packets(scene, await agent.dial_packets(tunnel.id), "dialler")
        request = await next_request(tunnel)
        for _ in range(3):
            await dialler.send(b"early")
            await agent.heartbeat()
        if link.strays:
            raise PeerMismatch("no datagram before ProxyConnRsp", f"{link.strays} of them")
        side = packets(scene, await agent.answer_channel(request), f"channel {request.stream_id[:8]}")
        await crosses(scene, agent, dialler, side)
        await crosses(scene, agent, side, dialler)
        await _end(scene, agent, request, dialler)
        other, there, second = await direct_flow(scene, tunnel)
        if second.stream_id == request.stream_id:
            raise PeerMismatch("another id for another flow", second.stream_id)
        for _ in range(3):
            link.send_datagram(channel_id(request.stream_id) + b"late")
            await agent.heartbeat()
        strange = [*await crosses(scene, agent, there, other), *await crosses(scene, agent, other, there)]
        if strange:
            raise PeerMismatch("packets of the second flow alone", f"{strange[0][:16]!r}")
    named = [
        message
        for message in left_over(agent, "datagram_channel_close")
        if message.datagram_channel_close.stream_id == request.stream_id
    ]
    for row in rows:
        scene.expect(row, not named, expected="the end to be told once", actual=told_of(named))


async def _end(scene: Scene, agent: ScriptedAgent, request: pb.ProxyConnReq, dialler: PacketPeer) -> None:
    """One side ends the flow, and the other one is told."""
    if scene.variant["ends"] == "agent":
        await agent.close_channel(request.stream_id)
        await dialler.ended()
        return
    await dialler.close()
    told: pb.DatagramChannelClose = await agent.expect("datagram_channel_close", aside=("heartbeat",))
    if told.stream_id != request.stream_id:
        raise PeerMismatch(f"DatagramChannelClose of {request.stream_id}", told.stream_id)


@agent_case("agent-quic-04", checks=["AGENT-101", "TRANS-007"], settings=OVER_QUIC, features=NEEDED)
async def test_a_dialler_may_have_its_packets_in_datagrams(scene: Scene) -> None:
    """A dialler that asks for a datagram channel gets its id first, and then packets both ways in DATAGRAM frames.

    On a tunnel that guarantees delivery it is refused a channel, with an error, and gets framed packets by asking
    without.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent, type="datagram")
    sure = await unpublished(scene, agent, type="datagram", datagram_guaranteed_delivery=True)

    async def answered() -> PacketPeer:
        request = await next_request(tunnel)
        return packets(scene, await agent.answer_channel(request), f"channel {request.stream_id[:8]}")

    rows = ("TRANS-007", "AGENT-101")
    with scene.judging(*rows, ends=True):
        (dialled, _), side = await scene.both(agent.dial_channel(tunnel.id), answered())
        dialler = packets(scene, dialled, "dialler")
        await crosses(scene, agent, dialler, side)
        await crosses(scene, agent, side, dialler)
        request = wire.stream_req(sure.id, token=agent.access.token, zero_rtt=False, datagram_channel=True)
        reply: pb.StreamRsp = await read_reply(await agent.stream(request), "stream_rsp")
        if not reply.HasField("error"):
            raise PeerMismatch("an error for a channel where delivery is guaranteed", f"stream id {reply.stream_id!r}")
        await exchange(scene, *await flow(scene, sure))
    for row in rows:
        scene.expect(row, True, expected="packets in DATAGRAM frames, or none", actual="so it was")


@agent_case("agent-quic-05", checks=["TRANS-001"], settings=OVER_QUIC, features=["agent.quic"])
async def test_an_agent_reaches_the_engine_over_quic(scene: Scene) -> None:
    """An agent opens its control channel over QUIC, and publishes a tunnel through which a client gets."""
    with scene.judging("TRANS-001", ends=True):
        try:
            agent = await channel(scene)
        except LinkReset as gone:
            raise PeerMismatch("a control channel over QUIC", gone.reason) from gone
        await works(scene, await published(scene, agent))
    scene.expect("TRANS-001", True, expected="a published tunnel", actual="a nonce passed both ways")
