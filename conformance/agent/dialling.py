"""Dialling a tunnel (agent protocol section 4.7)."""

from __future__ import annotations

import contextlib
import hashlib

from conformance.agent._steps import (
    Caller,
    Tunnel,
    access_of,
    agent_case,
    ask,
    channel,
    dialled,
    hostname,
    left_over,
    match,
    named,
    next_request,
    octets_until_end,
    published,
    reached,
    serve,
    settle,
    stream_peer,
    told,
    told_of,
    unpublished,
)
from harness.engine.driver import Endpoint
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.stream import LinkReset
from harness.model.spec import private
from harness.peer.agent import accepted
from harness.peer.raw import RawPeer
from harness.scene import Scene
from harness.wire import agent as wire

PRIVATE = ("agent.private",)
PROJECTS = "agent-one-token@one,agent-two-token@two"
TOKENS = tuple(part.partition("@")[0] for part in PROJECTS.split(","))
CONNECT_MS = 1000


@agent_case("agent-dial-01", checks=["AGENT-078", "PRIV-001"], features=PRIVATE, single_family=False)
async def test_a_private_tunnel_is_dialled_by_id_and_by_name(scene: Scene) -> None:
    """A private tunnel is dialled by id and by name, and has no public name.

    A dialler reaches it both ways. Clients ask the public port for hosts of that name: whatever the edge itself answers
    them, the agent is asked for no stream.
    """
    agent = await channel(scene)
    tunnel, probe = await unpublished(scene, agent), await unpublished(scene, agent)
    with scene.judging("AGENT-078"):
        await reached(scene, tunnel, tunnel.id)
        await reached(scene, tunnel, tunnel.name)
    scene.expect("AGENT-078", True, expected="service by id and by name", actual="so it was")
    for name in (hostname(scene, tunnel.name), f"{tunnel.name}.{access_of(scene).server_name}", tunnel.name):
        where = Endpoint(name, tunnel.endpoint.address, tunnel.endpoint.port)
        with contextlib.suppress(DeadlineExpired):
            await Caller(scene, where).turned_away()
    await settle(scene, probe)
    stray = left_over(agent, "proxy_conn_req")
    scene.expect("PRIV-001", not stray, expected="no stream for a public client", actual=told_of(stray))


@agent_case("agent-dial-02", checks=["AGENT-078"], features=PRIVATE)
async def test_an_id_comes_before_a_name(scene: Scene) -> None:
    """Where one tunnel's name is another one's id the id wins."""
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    reply = await ask(agent, wire.to_properties(private(name=tunnel.id)))
    if reply.HasField("error"):
        scene.record("AGENT-078", f"a name like an id is refused: {wire.describe_error(reply.error)}")
    with scene.judging("AGENT-078"):
        await reached(scene, tunnel, tunnel.id)
    stray = left_over(agent, "proxy_conn_req")
    scene.expect("AGENT-078", not stray, expected="no stream of the tunnel with that name", actual=told_of(stray))


@agent_case(
    "agent-dial-03",
    checks=["AGENT-079"],
    features=[*PRIVATE, "agent.token"],
    settings={"auth.tokens": PROJECTS},
)
async def test_names_are_those_of_the_callers_project(scene: Scene) -> None:
    """Names and ids are looked up in the caller's own project.

    Two projects have a tunnel of one name: each reaches its own by that name. Dialling the other one's id, or a name
    that only the other project has, is refused, and its agent is asked for nothing.
    """
    one, two = [await channel(scene, token=token) for token in TOKENS]
    shared = named(scene)
    mine, theirs = await unpublished(scene, one, name=shared), await unpublished(scene, two, name=shared)
    only = await unpublished(scene, two)
    with scene.judging("AGENT-079"):
        await reached(scene, mine, shared)
        await reached(scene, theirs, shared)
        for key in (theirs.id, only.id, only.name):
            for zero_rtt in (True, False):
                frames = await one.stream(wire.stream_req(key, token=TOKENS[0], zero_rtt=zero_rtt), glued=b"early")
                messages = [] if zero_rtt else await told(frames)
                octets = await octets_until_end(frames.link) if zero_rtt else b""
                served = bool(octets) or any(wire.error_of(message) is None for message in messages)
                scene.expect("AGENT-079", not served, expected=f"{key} refused", actual=told_of(messages))
        await settle(scene, mine)
        await settle(scene, only)
    stray = left_over(two, "proxy_conn_req")
    scene.expect("AGENT-079", not stray, expected="nothing asked of the other project", actual=told_of(stray))


@agent_case("agent-dial-04", checks=["AGENT-080", "EDGE-029"], features=PRIVATE, single_family=False)
async def test_with_zero_rtt_octets_may_follow_at_once(scene: Scene) -> None:
    """With zero_rtt true no StreamRsp is sent, and octets behind StreamReq arrive once the agent has come.

    StreamReq and `early` leave in one write, more before the agent comes: the agent's side gets all in order, and the
    dialler's first octets are the agent's.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    early, more, answer = b"early " + scene.nonce(), scene.nonce(), scene.nonce()
    dialler = stream_peer(scene, await agent.dial(tunnel.id, glued=early), "dialled")
    await dialler.send(more)
    request = await next_request(tunnel)
    await agent.heartbeat()
    with scene.judging("AGENT-080", "EDGE-029"):
        upstream = await serve(scene, tunnel, request)
        await match(upstream, early + more, "all octets of the dialler, in order")
        await upstream.send(answer)
    with scene.judging("AGENT-080"):
        await match(dialler, answer, "the agent's octets first")
    scene.expect("AGENT-080", True, expected="no StreamRsp, no octet lost", actual="so it was")
    scene.expect("EDGE-029", True, expected="the glued octets", actual="all came")


@agent_case(
    "agent-dial-05",
    checks=["AGENT-081", "AGENT-084"],
    features=PRIVATE,
    over={"zero_rtt": ["false", "absent"]},
    single_family=False,
)
async def test_without_zero_rtt_one_stream_rsp_comes_first(scene: Scene) -> None:
    """With zero_rtt false or absent exactly one StreamRsp with a stream_id precedes the stream octets."""
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    zero_rtt = False if scene.variant["zero_rtt"] == "false" else None
    frames = await agent.stream(wire.stream_req(tunnel.id, token=access_of(scene).token, zero_rtt=zero_rtt))
    request = await next_request(tunnel)
    upstream = await serve(scene, tunnel, request)
    answer = wire.encode(wire.proxy_conn_rsp("looks like a frame")) + scene.nonce()
    await upstream.send(answer)
    with scene.judging("AGENT-081"):
        message = await frames.read()
        reply = message.stream_rsp if message is not None else None
        said = wire.describe(message) if message is not None else "the end"
        good = reply is not None and bool(reply.stream_id)
        scene.expect("AGENT-081", good, expected="one stream_rsp with a stream_id", actual=said)
        dialler = stream_peer(scene, frames.hand_over(dialed=True), "dialled")
        await match(dialler, answer, "the agent's octets behind it")
        await _pass(scene, dialler, upstream)
    same = reply is not None and reply.stream_id == request.stream_id
    scene.allow("AGENT-084", "the same" if same else "different")


async def _pass(scene: Scene, one: RawPeer, other: RawPeer) -> None:
    token = scene.nonce()
    await one.send(token)
    await match(other, token, "the dialler's octets")


@agent_case(
    "agent-dial-06",
    checks=["AGENT-082", "AGENT-083"],
    features=PRIVATE,
    over={"key": ["unknown-name", "unknown-id", "empty"]},
)
async def test_a_dial_of_an_unknown_tunnel_is_refused(scene: Scene) -> None:
    """A dial that fails is refused: an error answer with zero_rtt false (3000), the plain end with true.

    `early` leaves behind StreamReq: no octet reaches an agent.
    """
    agent = await channel(scene)
    probe = await unpublished(scene, agent)
    key = {"unknown-name": named(scene), "unknown-id": "00112233445566778899aabb", "empty": ""}[scene.variant["key"]]
    token = access_of(scene).token
    quiet = await agent.stream(wire.stream_req(key, token=token, zero_rtt=True), glued=b"early")
    octets = await octets_until_end(quiet.link)
    scene.expect("AGENT-082", not octets, expected="the plain end", actual=repr(octets[:64]))
    loud = await told(await agent.stream(wire.stream_req(key, token=token, zero_rtt=False), glued=b"early"))
    error = wire.error_of(loud[0]) if loud else None
    scene.expect(
        "AGENT-082", len(loud) == 1 and error is not None, expected="one error, then the end", actual=told_of(loud)
    )
    scene.allow("AGENT-082", "error, then closed")
    code = int(error.code) if error is not None else 0
    scene.allow("AGENT-083", "3000" if code == 3000 else "another error code")
    await settle(scene, probe)
    stray = left_over(agent, "proxy_conn_req")
    scene.expect("AGENT-082", not stray, expected="nothing asked of the agent", actual=told_of(stray))


@agent_case(
    "agent-dial-07",
    checks=["AGENT-082", "AGENT-083"],
    features=PRIVATE,
    settings={"timeout.agent-connect-ms": CONNECT_MS},
    over={"why": ["refused", "absent"], "zero_rtt": ["true", "false"]},
)
async def test_a_dialler_hears_that_the_agent_did_not_come(scene: Scene) -> None:
    """A dial whose agent refuses the stream, or does not come in time, is refused: by 6000 where zero_rtt is false."""
    zero_rtt = scene.variant["zero_rtt"] == "true"
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    frames = await agent.stream(wire.stream_req(tunnel.id, token=access_of(scene).token, zero_rtt=zero_rtt))
    request = await next_request(tunnel)
    if scene.variant["why"] == "refused":
        await agent.proxy_conn_rsp(request.stream_id, code=4000, text="not today")
    if zero_rtt:
        octets = await octets_until_end(frames.link)
        scene.expect("AGENT-082", not octets, expected="the plain end", actual=repr(octets[:64]))
        scene.allow("AGENT-082", "closed without a frame")
        scene.record("AGENT-083", "no code with zero_rtt true")
        return
    messages = await told(frames)
    error = wire.error_of(messages[0]) if messages else None
    scene.expect("AGENT-082", error is not None, expected="an error, then the end", actual=told_of(messages))
    code = int(error.code) if error is not None else 0
    scene.allow("AGENT-083", "6000" if code == 6000 else "another error code")


@agent_case("agent-dial-08", checks=["AGENT-085", "PRIV-005"], features=PRIVATE)
async def test_octets_of_a_dialled_stream_pass_untouched(scene: Scene) -> None:
    """Octets of a dialled stream are relayed untouched, both ways, until both ends are reached.

    1 MiB of octets and some that look like frames, TLS and HTTP go each way. Then the dialler ends its direction: the
    agent reads the end, and what it still sends arrives, with the end behind it.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    block = hashlib.sha512(scene.nonce()).digest()
    alike = wire.encode(wire.close_control_channel()) + b"\x16\x03\x01\x00\x05hello" + b"GET / HTTP/1.1\r\n\r\n"
    data = alike + block * 16_384 + alike
    dialler = await dialled(scene, tunnel)
    upstream = await serve(scene, tunnel, await next_request(tunnel))
    with scene.judging("AGENT-085", "PRIV-005"):
        for one, other in ((dialler, upstream), (upstream, dialler)):
            _, got = await scene.both(one.send(data), other.receive_exactly(len(data)))
            if got != data:
                raise PeerMismatch(f"{len(data)} octets unchanged", "others")
        await dialler.send_end()
        last = await upstream.receive()
        scene.expect("PRIV-005", last == b"", expected="the end at the agent", actual=repr(last[:64]))
        await upstream.send(alike)
        await upstream.close()
        got, _ = await dialler.receive_until_end()
        if got != alike:
            raise PeerMismatch("what the agent sent behind the dialler's end", repr(got[:64]))
    scene.expect("AGENT-085", True, expected="the same octets", actual="so they were")


@agent_case("agent-dial-09", checks=["AGENT-086", "AGENT-058"], features=PRIVATE)
async def test_a_published_tunnel_may_be_dialled(scene: Scene) -> None:
    """A published tunnel may be dialled by id, beside its clients.

    A client's stream is asked for first, then a dialler comes and goes, then the client is served.
    """
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    try:
        await reached(scene, tunnel)
        scene.allow("AGENT-086", "served")
    except (PeerMismatch, LinkReset, DeadlineExpired):
        scene.allow("AGENT-086", "refused")
    with scene.judging("AGENT-058"):
        await caller.joined(await serve(scene, tunnel, request))
    scene.expect("AGENT-058", True, expected="a client served", actual="so it was")


@agent_case("agent-dial-10", checks=["AGENT-087"], features=PRIVATE)
async def test_two_tunnels_of_one_name_do_not_go_unnoticed(scene: Scene) -> None:
    """Two live tunnels of one project with one name: the second is refused, or it is recorded which one is dialled."""
    agent, other = await channel(scene), await channel(scene)
    first = await unpublished(scene, agent)
    reply = await ask(other, wire.to_properties(private(name=first.name)))
    if reply.HasField("error"):
        scene.allow("AGENT-087", "second refused")
        with scene.judging("AGENT-087"):
            await reached(scene, first, first.name)
        return
    second = Tunnel(other, accepted(reply), first.endpoint)
    dialler = await dialled(scene, first, first.name)
    request, newest = await scene.both(_whose(first), _whose(second))
    scene.allow("AGENT-087", "newest dialled" if newest else "first dialled")
    await dialler.end() if request else dialler.abort()


async def _whose(tunnel: Tunnel) -> bool:
    """Whether this tunnel's agent was asked."""
    await tunnel.agent.heartbeat()
    return bool(left_over(tunnel.agent, "proxy_conn_req"))


@agent_case(
    "agent-dial-11", checks=["PRIV-006"], features=[*PRIVATE, "edition.community"], settings={"edition": "community"}
)
async def test_the_community_edition_has_private_tunnels(scene: Scene) -> None:
    """The community edition carries private bytestream tunnels."""
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    with scene.judging("PRIV-006"):
        await reached(scene, tunnel, tunnel.name)
    scene.expect("PRIV-006", True, expected="a private tunnel that serves", actual="so it was")
