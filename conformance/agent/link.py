"""The agent link itself: TLS, who speaks first, and frames (agent protocol sections 1.3, 2.1 and 3)."""

from __future__ import annotations

import ssl

from google.protobuf.message import Message as ProtobufMessage

from conformance.agent._steps import (
    Caller,
    access_of,
    agent_case,
    ask,
    channel,
    judge_refusal,
    knock,
    lives,
    match,
    named,
    next_request,
    published,
    reached,
    settle,
    stream_peer,
    told,
    unpublished,
    works,
)
from harness.errors import PeerMismatch
from harness.evidence.transcript import AGENT
from harness.link.agent import HandshakeFailed, connect_agent
from harness.link.stream import LinkReset
from harness.model.spec import private
from harness.peer.agent import accepted
from harness.scene import Scene
from harness.wire import agent as wire

SILENT = "closed without a frame"
ERROR = "an error answer, then closed"


@agent_case("agent-sanity", checks=["AGENT-013"], sanity=True, features=["agent.private"], single_family=False)
async def test_each_kind_of_connection_serves_as_what_its_first_frame_says(scene: Scene) -> None:
    """The first frame decides: a control channel, the agent's side of a stream, and a dialled stream.

    An agent opens a private tunnel, a dialler sends a nonce through it, and the agent's answer comes back.
    """
    agent = await channel(scene, interval_ms=None)
    tunnel = await unpublished(scene, agent)
    await reached(scene, tunnel)
    scene.expect("AGENT-013", True, expected="a dialled stream", actual="a nonce passed both ways")


@agent_case("agent-link-01", checks=["AGENT-001", "TRANS-003"], single_family=False)
async def test_the_agent_link_is_tls_13_with_its_own_protocol(scene: Scene) -> None:
    """The engine speaks TLS 1.3 on the agent link and selects `rstrm/1`.

    Agents offer TLS 1.3 and `rstrm/1`, with the engine's name and without any: the handshake completes, `rstrm/1` is
    selected and a control channel opens. One that offers TLS 1.2 only is refused.
    """
    for name in (access_of(scene).server_name, None):
        agent = await scene.scripted_agent(server_name=name)
        try:
            link = await agent.connect()
        except HandshakeFailed as failed:
            raise PeerMismatch(f"the handshake with server name {name}", failed.reason) from failed
        scene.expect(
            "AGENT-001",
            (link.version, link.alpn) == ("TLSv1.3", wire.ALPN),
            expected="TLS 1.3 and ALPN rstrm/1",
            actual=f"{link.version} and ALPN {link.alpn}",
        )
        accepted(await agent.open())
    access = access_of(scene)
    note = scene.transcript.channel(AGENT, "agent", "agent-tls1.2")
    note.sent("TLS connection", detail="TLS 1.2 only")
    try:
        old = await connect_agent(
            access.address,
            access.port,
            server_name=access.server_name,
            ca_file=access.ca_file,
            insecure=access.insecure,
            version=ssl.TLSVersion.TLSv1_2,
        )
    except HandshakeFailed as refused:
        note.got("refused", detail=refused.reason)
        scene.allow("TRANS-003", "TLS 1.2-only agent refused")
    else:
        old.abort()
        await old.wait_closed()
        scene.depart("TRANS-003", expected="an agent with TLS 1.2 only refused", actual="its handshake completed")


@agent_case("agent-link-02", checks=["AGENT-002", "AGENT-015"], features=["agent.private"])
async def test_the_agent_speaks_first(scene: Scene) -> None:
    """The engine says nothing before the first frame, and a connection that ends before it is normal.

    One agent completes its handshake and waits while another one does a whole exchange: nothing has come, and then its
    channel opens. Connections end before the first frame with close_notify, FIN and reset, and in the middle of the
    length: what was open stays open, and channels open as before.
    """
    first = await channel(scene)
    tunnel = await unpublished(scene, first)
    late = await scene.scripted_agent()
    link = await late.connect()
    with scene.judging("AGENT-015"):
        for octets in (b"", b"\0\0"):
            for end in ("close_notify", "FIN", "reset"):
                frames = await knock(scene, octets)
                if end == "close_notify":
                    await frames.link.close()
                elif end == "FIN":
                    await frames.link.send_fin()
                    await frames.link.close()
                else:
                    frames.link.abort()
        await settle(scene, tunnel)
        again = await channel(scene)
        await again.close()
    scene.expect("AGENT-015", True, expected="channels as before", actual="both live")
    early = link.poll()
    scene.expect("AGENT-002", early is None, expected="no octet before the first frame", actual=repr(early))
    accepted(await late.open())


@agent_case("agent-frame-01", checks=["AGENT-004", "AGENT-003"], features=["agent.private"])
async def test_the_largest_frame_is_read(scene: Scene) -> None:
    """A frame of exactly 65535 octets is read.

    An OpenTunnelReq is padded with labels, then one with a field that nobody knows, to 65535 octets: both are
    answered, and the channel lives. The answer to another one has more than 255 octets, and its length says so.
    """
    agent = await channel(scene)
    message = wire.open_tunnel("big", wire.to_properties(private(name=named(scene))))
    labels = message.open_tunnel_req.tunnel_properties.labels
    while (room := wire.MAX_FRAME - message.ByteSize()) > 120:
        labels[f"k{len(labels):04}"] = "v" * min(room - 40, 200)
    await agent.send_message(message, pad_to=wire.MAX_FRAME)
    reply = await agent.expect("open_tunnel_rsp")
    scene.expect("AGENT-004", reply.request_id == "big", expected="the answer to big", actual=reply.request_id)
    refused = reply.HasField("error")
    scene.allow("AGENT-004", "OpenTunnelRsp with an error" if refused else "OpenTunnelRsp with properties")
    padded = wire.open_tunnel("padded", wire.to_properties(private(name=named(scene))))
    await agent.send_message(padded, pad_to=wire.MAX_FRAME)
    await agent.expect("open_tunnel_rsp")
    await lives(scene, agent, "AGENT-004")
    with scene.judging("AGENT-003"):
        labels_told = (("a", "v" * 60), ("b", "v" * 60), ("c", "v" * 60), ("d", "v" * 60), ("e", "v" * 60))
        accepted(await ask(agent, wire.to_properties(private(name=named(scene), labels=labels_told))))
    scene.expect("AGENT-003", True, expected="whole frames from the engine", actual="each parsed as one message")


@agent_case(
    "agent-frame-02", checks=["AGENT-005"], features=["agent.private"], over={"length": ["65536", "4294967295"]}
)
async def test_a_longer_frame_ends_the_connection(scene: Scene) -> None:
    """A length above 65535 ends the connection before its octets are there.

    The length is announced as first frame, then on an open channel: the engine ends each connection without waiting
    for the octets, and another channel goes on.
    """
    length = int(scene.variant["length"])
    beside = await channel(scene)
    first = await knock(scene, length.to_bytes(4, "big"))
    judge_refusal(scene, "AGENT-005", await told(first), SILENT, ERROR)
    agent = await channel(scene)
    await agent.send_raw(length.to_bytes(4, "big") + b"\x2a\x00")
    with scene.judging("AGENT-005"):
        await agent.expect_end()
    await lives(scene, beside, "AGENT-005")


@agent_case("agent-frame-03", checks=["AGENT-006", "AGENT-007"], features=["agent.private"])
async def test_frames_come_in_any_pieces(scene: Scene) -> None:
    """A frame may come octet by octet, and several may share a record.

    OpenControlChannelReq comes octet by octet, each in a record of its own, then OpenTunnelReq cut in the middle of
    the length. Then OpenControlChannelReq, two OpenTunnelReq and a heartbeat come in one write: all are answered.
    """
    agent = await scene.scripted_agent()
    await agent.connect()
    with scene.judging("AGENT-006"):
        token = access_of(scene).token
        for octet in wire.encode(wire.open_control_channel(token=token)):
            await agent.send_raw(bytes([octet]))
        accepted(await agent.expect("open_control_channel_rsp"))
        whole = wire.encode(wire.open_tunnel("cut", wire.to_properties(private(name=named(scene)))))
        await agent.send_raw(whole[:2])
        await agent.send_raw(whole[2:])
        accepted(await agent.expect("open_tunnel_rsp"))
    scene.expect("AGENT-006", True, expected="answers", actual="both came")
    glued = await scene.scripted_agent()
    messages = [wire.open_control_channel(token=token, interval_ms=60_000)]
    messages += [wire.open_tunnel(name, wire.to_properties(private(name=named(scene)))) for name in ("one", "two")]
    messages.append(wire.heartbeat(1))
    await glued.connect(first=b"".join(wire.encode(message) for message in messages))
    with scene.judging("AGENT-007"):
        ok = accepted(await glued.expect("open_control_channel_rsp"))
        for name in ("one", "two"):
            reply = await glued.expect("open_tunnel_rsp", aside=("heartbeat",))
            if reply.request_id != name or reply.HasField("error"):
                raise PeerMismatch(f"the tunnel {name}", wire.describe_error(reply.error))
        if ok.HasField("liveness"):
            await glued.expect("heartbeat")
    scene.expect("AGENT-007", True, expected="every frame answered", actual="all came, in order")


@agent_case("agent-frame-04", checks=["AGENT-008"], features=["agent.private"])
async def test_octets_that_are_no_message_end_their_connection(scene: Scene) -> None:
    """What is no Message ends the connection that carried it, and no other.

    A frame of octets that are no Message comes first, then on an open channel with a tunnel: that connection ends, its
    tunnel with it; another channel goes on.
    """
    beside = await channel(scene)
    kept = await published(scene, beside)
    garbage = wire.frame(b"\xff" * 40)
    judge_refusal(scene, "AGENT-008", await told(await knock(scene, garbage)), SILENT, ERROR)
    agent = await channel(scene)
    gone = await published(scene, agent)
    await agent.send_raw(garbage)
    with scene.judging("AGENT-008"):
        await agent.expect_end()
        got = await Caller(scene, gone.endpoint).turned_away()
        scene.expect("AGENT-008", not got, expected="no service of the ended channel's tunnel", actual=repr(got))
        await works(scene, kept)


@agent_case("agent-frame-05", checks=["AGENT-010", "AGENT-011", "AGENT-009", "AGENT-008"], features=["agent.private"])
async def test_what_newer_schemas_add_is_passed_over(scene: Scene) -> None:
    """Unknown fields are ignored, and a Message whose payload is missing or unknown as well.

    Unknown fields stand in ClientDetails, TunnelProperties and ProxyReq, then a frame of length 0 and one with payload
    number 99 come: everything works as without them, and the engine itself never sends a Message without payload.
    """
    details = wire.open_control_channel(token=access_of(scene).token, interval_ms=60_000)
    with_unknown(details.open_control_channel_req.client_details)
    agent = await scene.scripted_agent()
    await agent.connect()
    with scene.judging("AGENT-011"):
        await agent.send_message(details, unknown_field=True)
        accepted(await agent.expect("open_control_channel_rsp"))
        request = wire.open_tunnel("more", wire.to_properties(private(name=named(scene))))
        with_unknown(request.open_tunnel_req.tunnel_properties)
        await agent.send_message(request)
        properties = accepted(await agent.expect("open_tunnel_rsp"))
        dialler = stream_peer(scene, await agent.dial(properties.id.value), "dialled")
        token = scene.nonce()
        await dialler.send(token)
        asked = await agent.next_proxy_request()
        claim = wire.proxy_req(asked.stream_id, secret=asked.secret.value, zero_rtt=True)
        with_unknown(claim.proxy_req)
        upstream = stream_peer(scene, (await agent.stream(claim)).hand_over(), "stream")
        await match(upstream, token, "the dialler's nonce")
    scene.expect("AGENT-011", True, expected="service as without them", actual="a nonce passed")
    try:
        await agent.send_raw(wire.frame(b"") + wire.frame(b"\x9a\x06\x01\x00"))
        reply = await ask(agent, wire.to_properties(private(name=named(scene))))
    except (PeerMismatch, LinkReset):
        scene.allow("AGENT-010", "channel closed")
    else:
        scene.expect("AGENT-010", not reply.HasField("error"), expected="a tunnel", actual=str(reply.error))
        scene.allow("AGENT-010", "ignored")
        await agent.heartbeat()
    empty = [event for event in scene.transcript.events if event.sender == "engine" and event.what == "empty"]
    scene.expect("AGENT-009", not empty, expected="a payload in every message", actual=f"{len(empty)} without one")
    await agent.send_raw(wire.frame(b"\x0a\x05"))
    with scene.judging("AGENT-008"):
        await agent.expect_end()
    scene.expect("AGENT-008", True, expected="the end behind a cut message", actual="the connection ended")


def with_unknown(message: ProtobufMessage) -> None:
    """Add a field that no schema has to a message inside another one."""
    message.MergeFromString(b"\xc2\x3e\x03\x01\x02\x03")


@agent_case("agent-frame-06", checks=["AGENT-012", "EDGE-029"], features=["agent.private"], needs=["tls-link"])
async def test_the_answer_stands_alone_in_its_record(scene: Scene) -> None:
    """ProxyRsp and StreamRsp are written alone: stream octets come in a later record.

    Both sides of a dialled stream ask for an answer while octets wait for them: the first record holds the frame
    alone, and the octets follow.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    token = scene.nonce()
    dial = wire.stream_req(tunnel.id, token=access_of(scene).token, zero_rtt=False)
    dialler = await agent.stream(dial, glued=token)
    asked = await next_request(tunnel)
    claim = wire.proxy_req(asked.stream_id, secret=asked.secret.value, zero_rtt=False)
    claimed = await agent.stream(claim, glued=token[::-1])
    for frames, wanted, other in ((claimed, "proxy_rsp", token), (dialler, "stream_rsp", token[::-1])):
        record = await stream_peer(scene, frames.link, wanted).receive()
        reader = wire.FrameReader()
        reader.feed(record)
        payload = reader.next()
        kind = wire.kind(wire.decode(payload)) if payload is not None else "no whole frame"
        scene.expect("AGENT-012", kind == wanted, expected=f"a record with {wanted}", actual=kind)
        rest = reader.rest()
        scene.allow("AGENT-012", "glued to stream octets" if rest else "alone in its record")
        frames.link.push_back(rest)
        with scene.judging("EDGE-029"):
            await match(stream_peer(scene, frames.link, f"{wanted} stream"), other, "the octets behind the first frame")
    scene.expect("EDGE-029", True, expected="glued octets delivered", actual="both ways")
