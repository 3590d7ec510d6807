"""Datagram channels of the agent link: packets framed on a stream (agent protocol sections 2.5 and 4.6)."""

from __future__ import annotations

from conformance.agent._steps import (
    Tunnel,
    access_of,
    agent_case,
    channel,
    left_over,
    next_request,
    told_of,
    unpublished,
)
from conformance.quic._steps import numbered, parse
from harness.errors import PeerMismatch
from harness.evidence.transcript import AGENT
from harness.link.datagram import DatagramLink
from harness.link.framed import MAX_PACKET
from harness.link.stream import LinkReset
from harness.peer.agent import ScriptedAgent
from harness.peer.packets import PacketPeer
from harness.scene import Scene

DATAGRAMS = ("agent.private", "private.datagram")
PREFIX = 4
"""Octets of a length in front of a packet."""
PACED = 500
WINDOW = 20


async def framed(scene: Scene, agent: ScriptedAgent, **properties: object) -> Tunnel:
    """A private datagram tunnel whose packets are framed: over QUIC those of guaranteed delivery are."""
    if access_of(scene).transport == "quic":
        properties["datagram_guaranteed_delivery"] = True
    return await unpublished(scene, agent, type="datagram", **properties)


def packets(scene: Scene, link: DatagramLink, name: str) -> PacketPeer:
    """One side of a flow, as a peer of its own."""
    return PacketPeer(link, scene.transcript.channel(AGENT, "agent", name))


async def flow(scene: Scene, tunnel: Tunnel, name: str = "") -> tuple[PacketPeer, PacketPeer]:
    """The dialler's and the agent's side of a new flow."""
    dialler = packets(scene, await tunnel.agent.dial_packets(tunnel.id), f"dialler{name}")
    request = await next_request(tunnel)
    return dialler, packets(scene, await tunnel.agent.answer_packets(request), f"flow{name} {request.stream_id[:8]}")


async def exchange(scene: Scene, one: PacketPeer, other: PacketPeer) -> None:
    """A packet each way; it must be the next one. Raises `PeerMismatch`."""
    token = scene.nonce()
    await one.send(token)
    await other.expect(token)
    await other.send(token[::-1])
    await one.expect(token[::-1])


def frame(packet: bytes) -> bytes:
    """A packet behind its length."""
    return len(packet).to_bytes(PREFIX, "big") + packet


@agent_case(
    "agent-frames-01",
    checks=["AGENT-098", "PRIV-002", "PRIV-005"],
    features=DATAGRAMS,
    over={"size": ("0", "1", "1200", "65535")},
    axes=["agent.transport"],
)
async def test_a_framed_packet_arrives_as_one(scene: Scene) -> None:
    """Packets of any length from 0 to 65535 octets arrive whole, one by one, on a private datagram tunnel.

    A packet of the size goes each way, then three more: two of them with their lengths in one write, one whose octets
    are written in three parts. Each arrives as itself, and the small packet behind it as the next one. A private
    tunnel that names no type is read back as a byte stream, this one as one of datagrams.
    """
    agent = await channel(scene)
    plain = await unpublished(scene, agent)
    tunnel = await framed(scene, agent)
    types = [one.properties.type.value for one in (plain, tunnel)]
    scene.expect(
        "PRIV-002",
        types == ["bytestream", "datagram"],
        expected="the types bytestream (by default) and datagram",
        actual=f"{types}",
    )
    token = scene.nonce()
    size = int(scene.variant["size"])
    packet = (token * (size // len(token) + 1))[:size]
    dialler, upstream = await flow(scene, tunnel)
    rows = ("PRIV-005", "PRIV-002", "AGENT-098")
    with scene.judging(*rows, ends=True):
        for one, other in ((dialler, upstream), (upstream, dialler)):
            behind = scene.nonce()
            await one.send(packet)
            await one.send(behind)
            await one.send_octets(frame(packet) + frame(behind))
            octets = frame(packet)
            await one.send_octets(octets[:2])
            await one.send_octets(octets[2 : PREFIX + size // 2])
            await one.send_octets(octets[PREFIX + size // 2 :])
            await one.send(behind)
            for _ in range(3):
                await other.expect(packet)
                await other.expect(behind)
    for row in rows:
        scene.expect(row, True, expected="each packet whole", actual="so they were")


@agent_case("agent-frames-02", checks=["AGENT-098"], features=DATAGRAMS, over={"by": ("agent", "dialler")})
async def test_a_length_above_the_limit_ends_one_flow(scene: Scene) -> None:
    """A length of 65536 ends the stream that it stands on, and no other.

    Of two flows of one tunnel, one side of the first announces 65536 octets and sends as many. Both of its sides see
    that stream end; the second flow still carries packets, and the control channel still answers heartbeats.
    """
    agent = await channel(scene)
    tunnel = await framed(scene, agent)
    bad, good = await flow(scene, tunnel, " 1"), await flow(scene, tunnel, " 2")
    for pair in (bad, good):
        await exchange(scene, *pair)
    speaker, other = bad if scene.variant["by"] == "dialler" else bad[::-1]
    with scene.judging("AGENT-098", ends=True):
        await speaker.send_frame(bytes(MAX_PACKET + 1), length=MAX_PACKET + 1)
        await speaker.ended()
        await other.ended()
        await exchange(scene, *good)
        await agent.heartbeat()
    scene.expect("AGENT-098", True, expected="one stream to end", actual="so it did")


@agent_case("agent-frames-03", checks=["AGENT-099"], features=DATAGRAMS)
async def test_packets_of_two_flows_never_mix(scene: Scene) -> None:
    """Each dialler of a datagram tunnel is a flow of its own, with one request for it, and its own packets only.

    Two diallers send numbered packets in turn, and so does the agent on both streams that it was asked for: each side
    gets those of its own flow, in order. When one dialler ends, the other flow goes on; nothing more is asked for.
    """
    agent = await channel(scene)
    tunnel = await framed(scene, agent)
    diallers = [packets(scene, await agent.dial_packets(tunnel.id), f"dialler {number}") for number in (1, 2)]
    with scene.judging("AGENT-099", ends=True):
        requests = [await next_request(tunnel), await next_request(tunnel)]
    names = {request.stream_id for request in requests}
    scene.expect("AGENT-099", len(names) == 2, expected="a stream id for each flow", actual=f"{names}")
    sides = [packets(scene, await agent.answer_packets(one), f"flow {one.stream_id[:8]}") for one in requests]
    tokens = [scene.nonce() for _ in diallers]
    for dialler, token in zip(diallers, tokens, strict=True):
        await dialler.send(numbered(0, 100, token))
    firsts = [await side.receive() for side in sides]
    order = [next((tokens.index(token) for token in tokens if parse(first, token) == 0), None) for first in firsts]
    scene.expect(
        "AGENT-099",
        sorted(order, key=str) == [0, 1],
        expected="the first packet of one dialler on each stream",
        actual=f"{[first[:16].hex() for first in firsts]}",
    )
    flows = [
        (diallers[index], side, tokens[index]) for index, side in zip(order, sides, strict=True) if index is not None
    ]
    with scene.judging("AGENT-099", ends=True):
        for serial in range(1, 100):
            for dialler, side, token in flows:
                await dialler.send(numbered(serial, 100 + serial, token))
                await side.send(numbered(1000 + serial, 300 - serial, token))
        for dialler, side, token in flows:
            for serial in range(1, 100):
                await side.expect(numbered(serial, 100 + serial, token))
                await dialler.expect(numbered(1000 + serial, 300 - serial, token))
        await flows[0][0].close()
        await flows[0][1].ended()
        await exchange(scene, *flows[1][:2])
        await agent.heartbeat()
    more = left_over(agent, "proxy_conn_req")
    scene.expect("AGENT-099", not more, expected="one ProxyConnReq per flow", actual=told_of(more))


@agent_case("agent-frames-04", checks=["AGENT-098"], features=DATAGRAMS)
async def test_packets_behind_a_first_frame_arrive(scene: Scene) -> None:
    """Packets that stand right behind the first frame of a stream are packets like any other.

    The dialler sends two packets in one write with its StreamReq, the agent two with its ProxyReq, neither of which is
    answered (`zero_rtt`): the other side gets them first, and then what follows.
    """
    agent = await channel(scene)
    tunnel = await framed(scene, agent)
    tokens = [scene.nonce() for _ in range(4)]
    glued = [b"".join(frame(token) for token in pair) for pair in (tokens[:2], tokens[2:])]
    dialler = packets(scene, await agent.dial_packets(tunnel.id, glued=glued[0]), "dialler")
    request = await next_request(tunnel)
    side = packets(scene, await agent.answer_packets(request, glued=glued[1]), f"flow {request.stream_id[:8]}")
    with scene.judging("AGENT-098", ends=True):
        for got, wanted in ((side, tokens[:2]), (dialler, tokens[2:])):
            for token in wanted:
                await got.expect(token)
        await exchange(scene, dialler, side)
    scene.expect("AGENT-098", True, expected="the packets behind the first frames", actual="so they came")


@agent_case("agent-frames-05", checks=["AGENT-098"], features=DATAGRAMS, over={"by": ("agent", "dialler")})
async def test_half_a_packet_is_none(scene: Scene) -> None:
    """Of a packet that does not come whole before its stream ends, nothing arrives.

    Behind a whole packet one side sends half of another one and ends the stream. The other side gets the whole packet
    and then the end of the flow.
    """
    agent = await channel(scene)
    tunnel = await framed(scene, agent)
    dialler, upstream = await flow(scene, tunnel)
    one, other = (dialler, upstream) if scene.variant["by"] == "dialler" else (upstream, dialler)
    token = scene.nonce()
    with scene.judging("AGENT-098", ends=True):
        await one.send(token)
        await other.expect(token)
        await one.send_octets(frame(bytes(1200))[:600])
        await one.close()
        got: list[bytes] = []
        how = await _until_end(other, got)
        if got:
            raise PeerMismatch("the end of the flow", f"a packet of {len(got[0])} octets of 1200")
    scene.expect("AGENT-098", "within a packet" not in how, expected="no part of a packet before the end", actual=how)


async def _until_end(peer: PacketPeer, got: list[bytes]) -> str:
    try:
        while True:
            got.append(await peer.receive())
    except LinkReset as end:
        return end.reason


@agent_case("agent-frames-06", checks=["TRANS-007"], features=DATAGRAMS, axes=["agent.transport"])
async def test_guaranteed_delivery_loses_no_paced_packet(scene: Scene) -> None:
    """On a private datagram tunnel with guaranteed delivery every packet arrives, whatever the agent reaches the engine
    over.

    500 numbered packets go each way, in windows of 20 whose last one is awaited before the next begins.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent, type="datagram", datagram_guaranteed_delivery=True)
    dialler, upstream = await flow(scene, tunnel)
    token = scene.nonce()
    with scene.judging("TRANS-007", ends=True):
        for start in range(0, PACED, WINDOW):
            serials = range(start, start + WINDOW)
            for serial in serials:
                await dialler.send(numbered(serial, 200 + serial, token))
                await upstream.send(numbered(serial, 1200 - serial, token))
            for serial in serials:
                await upstream.expect(numbered(serial, 200 + serial, token))
                await dialler.expect(numbered(serial, 1200 - serial, token))
    scene.expect("TRANS-007", True, expected=f"{PACED} packets each way", actual="all of them")
