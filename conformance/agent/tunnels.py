"""Tunnels on a control channel, and how both end (agent protocol sections 4.2, 4.4 and 5.3)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any, cast

from conformance.agent._steps import (
    Caller,
    Tunnel,
    access_of,
    agent_case,
    ask,
    channel,
    dialled,
    ended,
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
    told,
    told_of,
    tunnel_of,
    unpublished,
    works,
)
from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.agent_driver import ProtocolDriver
from harness.engine.driver import Endpoint
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.model.spec import TunnelSpec, http, private, tls
from harness.peer.agent import ScriptedAgent, accepted
from harness.peer.raw import RawPeer
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire import agent as wire

LEASE_MS = 300
PROJECTS = "agent-one-token@one,agent-two-token@two"
TOKENS = tuple(part.partition("@")[0] for part in PROJECTS.split(","))
UNKNOWN = "00112233445566778899aabb"


KINDS: dict[str, TunnelSpec] = {
    "tls": tls(tls_mode="terminated", tls_alpns=("a", "b"), labels=(("k", "v"),)),
    "passthrough": tls(tls_mode="passthrough"),
    "http": http(http_version="http/1.1"),
    "http-upstream-tls": http(upstream_tls=True),
    "private": private(labels=(("k", "v"),)),
}


@agent_case("agent-tunnel-01", checks=["AGENT-045"], over={"kind": list(KINDS)}, features=["agent.private"])
async def test_the_answer_repeats_the_effective_properties(scene: Scene) -> None:
    """OpenTunnelRsp repeats what was asked for and says the type, and a published tunnel's host name and port."""
    kind = scene.variant["kind"]
    spec = KINDS[kind]
    if kind == "private":
        spec = dataclasses.replace(spec, name=named(scene))
    tunnel = await tunnel_of(scene, await channel(scene), spec)
    answer = wire.from_properties(tunnel.properties)
    wanted: dict[str, Any] = {"type": "bytestream", "publish": True, **dict(spec.properties())}
    if "labels" in wanted:
        wanted["labels"] = dict(wanted["labels"])
    missing = {key: value for key, value in wanted.items() if answer.get(key) != value}
    scene.expect("AGENT-045", not missing, expected=f"{wanted}", actual=f"{answer}")
    if kind == "private":
        return
    place = bool(answer.get("hostname")) and bool(answer.get("port"))
    scene.expect("AGENT-045", place, expected="a hostname and a port", actual=f"{answer}")


@agent_case("agent-tunnel-02", checks=["AGENT-046", "AGENT-044"], features=["agent.private"], single_family=False)
async def test_a_private_tunnel_has_no_public_name(scene: Scene) -> None:
    """The answer for a private tunnel has an id of its own and no hostname, host or port."""
    agent = await channel(scene)
    ids = []
    for spec in (private(name=named(scene)), private(name=None), private(name=named(scene))):
        tunnel = await tunnel_of(scene, agent, spec)
        ids.append(tunnel.id.strip())
        scene.expect("AGENT-044", bool(ids[-1]), expected="an id", actual=repr(tunnel.id))
        answer = wire.from_properties(tunnel.properties)
        public = {key: answer[key] for key in ("hostname", "host", "port") if key in answer}
        scene.expect("AGENT-046", not public, expected="no hostname, host or port", actual=str(public))
        await reached(scene, tunnel)
    scene.expect("AGENT-044", all(ids) and len(set(ids)) == 3, expected="three different ids", actual=str(ids))


EDGE_OPTIONS: dict[str, dict[str, Any]] = {
    "hostname": {"hostname": "{label}-{project}.t.{domain}"},
    "token": {"token_auth": True},
    "rstream": {"rstream_auth": True},
    "challenge": {"challenge_mode": True},
    "trusted-ips": {"trusted_ips": ("192.0.2.0/24",)},
    "geoip": {"geoip": ("DE",)},
}


@agent_case("agent-tunnel-04", checks=["PRIV-004"], features=["agent.private"], over={"option": list(EDGE_OPTIONS)})
async def test_a_private_tunnel_refuses_options_of_the_public_edge(scene: Scene) -> None:
    """A private tunnel refuses a public name, authentication and policies of the edge, and nothing of it stays.

    The refused tunnel is not to be dialled by its name; a plain private tunnel takes the name and works.
    """
    driver = cast("ProtocolDriver", scene.driver)
    agent, name = await channel(scene), named(scene)
    spec = driver.fill(private(name=name, **EDGE_OPTIONS[scene.variant["option"]]), name)
    reply = await ask(agent, wire.to_properties(spec))
    scene.expect("PRIV-004", reply.HasField("error"), expected="a refusal", actual="a tunnel")
    with scene.judging("PRIV-004"):
        error = await agent.rejected_dial(name)
        scene.transcript.note("dialled", wire.describe_error(error))
        await reached(scene, await unpublished(scene, agent, name=name), name)


@agent_case("agent-tunnel-03", checks=["AGENT-048", "AGENT-049"], features=["edge.requested-hostname"])
async def test_no_stream_is_asked_for_before_the_tunnel_is_answered(scene: Scene) -> None:
    """No ProxyConnReq comes before the OpenTunnelRsp of its tunnel, and the tunnel is live once that is written.

    Clients knock on a host name without pause while an agent asks for it: on the channel the answer comes first. The
    client that comes when it has been read gets through.
    """
    agent = await channel(scene)
    probe = await published(scene, agent)
    name = hostname(scene, named(scene))
    where = Endpoint(name, probe.endpoint.address, probe.endpoint.port)
    knocking = [asyncio.ensure_future(_knocking(scene, where)) for _ in range(3)]
    try:
        await works(scene, probe)
        await agent.send_message(wire.open_tunnel("wanted", wire.to_properties(tls(hostname=name))))
        with scene.judging("AGENT-048"):
            properties = accepted(await agent.expect("open_tunnel_rsp"))
    finally:
        for task in knocking:
            task.cancel()
        await asyncio.gather(*knocking, return_exceptions=True)
    scene.expect("AGENT-048", True, expected="the answer first", actual="so it was")
    tunnel = Tunnel(agent, properties, where)
    with scene.judging("AGENT-049"):
        caller = Caller(scene, where)
        # Those that knocked before may be asked for first: only the caller's stream carries its nonce.
        upstream = None
        while upstream is None:
            link = await agent.answer_proxy(await next_request(tunnel))
            async with deadline("the first octets of a stream, or its end"):
                with contextlib.suppress(LinkReset):
                    if (head := await link.receive()) == caller.nonce:
                        upstream = link
                    elif head:
                        raise PeerMismatch("a client's nonce", head.hex())
        await upstream.send(caller.nonce[::-1])
        await match(await caller.peer(), caller.nonce[::-1], "the agent's answer at the client")
    scene.expect("AGENT-049", True, expected="service at once", actual="so it was")


async def _knocking(scene: Scene, where: Endpoint) -> None:
    """Connect and go again, without pause."""
    while True:
        with contextlib.suppress(PeerMismatch, LinkReset, DeadlineExpired):
            client = await scene.tls_client(endpoint=where, handshake=False)
            await client.try_handshake()
            client.abort()


@agent_case(
    "agent-close-01",
    checks=["AGENT-050", "AGENT-051", "EDGE-027"],
    features=["edge.requested-hostname"],
    over={"again": ["same-channel", "other-channel"]},
)
async def test_a_closed_tunnel_admits_nobody_and_frees_its_name(scene: Scene) -> None:
    """CloseTunnelReq is answered by CloseTunnelRsp with the same id; from then on the tunnel admits no stream.

    The tunnel is closed while a stream runs: the answer comes, the stream ends at the client, a new client is refused
    and asked for by nobody, and the other tunnel of the channel works. The host name can be taken again, on this or on
    another channel.
    """
    agent = await channel(scene)
    kept = await published(scene, agent)
    tunnel = await published(scene, agent, hostname=hostname(scene, named(scene)))
    caller = Caller(scene, tunnel.endpoint)
    upstream = await serve(scene, tunnel, await next_request(tunnel))
    client = await caller.joined(upstream)
    with scene.judging("AGENT-050"):
        reply = await agent.close_tunnel(tunnel.id)
    scene.expect("AGENT-050", reply.tunnel_id == tunnel.id, expected=tunnel.id, actual=reply.tunnel_id)
    got = await Caller(scene, tunnel.endpoint).turned_away()
    scene.expect("AGENT-050", not got, expected="a new client refused", actual=repr(got))
    await works(scene, kept)
    await works(scene, kept)
    stray = left_over(agent, "proxy_conn_req", "close_tunnel_rsp")
    scene.expect("AGENT-050", not stray, expected="no request for the closed tunnel", actual=told_of(stray))
    with scene.judging("EDGE-027"):
        await client.end()
    scene.expect("EDGE-027", True, expected="the end of the running stream", actual="it ended")
    taker = agent if scene.variant["again"] == "same-channel" else await channel(scene)
    with scene.judging("AGENT-051"):
        await works(scene, await published(scene, taker, hostname=tunnel.properties.hostname.value))
    scene.expect("AGENT-051", True, expected="the name again", actual="taken, and served")


@agent_case("agent-close-04", checks=["AGENT-054"], features=["agent.private"], over={"to": ["client", "dialler"]})
async def test_what_was_sent_before_the_close_arrives(scene: Scene) -> None:
    """Streams that run when their tunnel is closed lose nothing that was sent before.

    The agent sends 512 KiB on each of eight streams, far more than an engine hands on in one step, and closes the
    tunnel behind them: the clients, or the diallers, get all of it, whether their streams go on then or end.
    """
    agent = await channel(scene)
    data = b"".join(scene.nonce() for _ in range(4096)) * 8
    from_client = scene.variant["to"] == "client"
    tunnel = await (published if from_client else unpublished)(scene, agent)
    pairs: list[tuple[RawPeer, RawPeer | TlsPeer]] = []
    for _ in range(8):
        if from_client:
            caller = Caller(scene, tunnel.endpoint)
            upstream = await serve(scene, tunnel, await next_request(tunnel))
            pairs.append((upstream, await caller.joined(upstream)))
        else:
            dialler = await dialled(scene, tunnel)
            pairs.append((await serve(scene, tunnel, await next_request(tunnel)), dialler))
    for upstream, _ in pairs:
        await upstream.send(data)
    async with deadline("the engine's transport to take all of it"):
        for upstream, _ in pairs:
            await upstream.link.drained()
    await agent.close_tunnel(tunnel.id)
    with scene.judging("AGENT-054"):
        for _, far in pairs:
            await match(far, data, "all octets that were sent before the close")
    token = scene.nonce()
    try:
        for upstream, far in pairs:
            await upstream.send(token)
            await match(far, token, "octets behind the close")
    except (PeerMismatch, LinkReset):
        scene.allow("AGENT-054", "all delivered, then ended")
    else:
        scene.allow("AGENT-054", "all delivered, stream goes on")


@agent_case(
    "agent-close-02",
    checks=["AGENT-052"],
    settings={"auth.tokens": PROJECTS},
    features=["agent.token"],
    over={"project": ["same", "other"]},
)
async def test_a_channel_closes_only_its_own_tunnels(scene: Scene) -> None:
    """A CloseTunnelReq with the id of another channel's tunnel leaves that tunnel alone, whatever the project."""
    agent = await channel(scene, token=TOKENS[0])
    tunnel = await published(scene, agent)
    stranger = await channel(scene, token=TOKENS[scene.variant["project"] == "other"])
    await stranger.send_message(wire.close_tunnel(tunnel.id))
    with contextlib.suppress(PeerMismatch, LinkReset):
        await works(scene, await published(scene, stranger))
    with scene.judging("AGENT-052"):
        await works(scene, tunnel)
        await works(scene, tunnel)
    said = left_over(agent, "close_tunnel_rsp")
    scene.expect("AGENT-052", not said, expected="nothing said about the tunnel", actual=told_of(said))


@agent_case("agent-close-03", checks=["AGENT-053", "AGENT-050"], features=["agent.private"])
async def test_closing_what_the_channel_does_not_have_does_no_harm(scene: Scene) -> None:
    """CloseTunnelReq for an unknown id, and for the same tunnel twice, does no harm to the channel or its tunnels."""
    agent = await channel(scene)
    kept, tunnel = await unpublished(scene, agent), await unpublished(scene, agent)
    reply = await agent.close_tunnel(tunnel.id)
    scene.expect("AGENT-050", reply.tunnel_id == tunnel.id, expected=tunnel.id, actual=reply.tunnel_id)
    try:
        for tunnel_id in (UNKNOWN, "", tunnel.id):
            await agent.send_message(wire.close_tunnel(tunnel_id))
        await settle(scene, kept)
    except LinkReset:
        scene.allow("AGENT-053", "channel closed")
        return
    more = left_over(agent, "close_tunnel_rsp")
    about = {message.close_tunnel_rsp.tunnel_id for message in more} - {UNKNOWN, "", tunnel.id}
    scene.expect("AGENT-053", not about, expected="no other tunnel closed", actual=told_of(more))
    scene.allow("AGENT-053", "CloseTunnelRsp with that id" if more else "no answer")
    with scene.judging("AGENT-050"):
        dial = wire.stream_req(tunnel.id, token=access_of(scene).token, zero_rtt=False)
        answers = await told(await agent.stream(dial))
        refused = all(wire.error_of(answer) is not None for answer in answers)
        scene.expect("AGENT-050", refused, expected="the closed tunnel refused", actual=told_of(answers))


WHO = {"who": ["client", "dialler"]}


@agent_case("agent-close-05", checks=["AGENT-050", "AGENT-068"], features=["agent.private"], over=WHO)
async def test_a_closed_tunnel_gives_up_who_waits(scene: Scene) -> None:
    """A client, or a dialler, that waits for the agent when the tunnel is closed is refused, and a claim behind it too.

    A stream is asked for, and the agent closes the tunnel instead of an answer: the connection ends without an octet,
    and the right claim that follows gets none of what waited.
    """
    agent = await channel(scene)
    tunnel, waits, request = await _waiting(scene, agent)
    await agent.close_tunnel(tunnel.id)
    await _given_up(scene, agent, waits, request, "AGENT-050")


@agent_case("agent-bye-03", checks=["AGENT-028", "AGENT-068"], features=["agent.private"], over=WHO)
async def test_a_goodbye_gives_up_who_waits(scene: Scene) -> None:
    """A client, or a dialler, that waits for the agent when that says goodbye is refused, and a claim behind it too."""
    agent = await channel(scene)
    _, waits, request = await _waiting(scene, agent)
    await agent.close()
    await _given_up(scene, agent, waits, request, "AGENT-028")


async def _waiting(scene: Scene, agent: ScriptedAgent) -> tuple[Tunnel, Caller | RawPeer, pb.ProxyConnReq]:
    """A client, or a dialler, whose octets wait for the agent."""
    if scene.variant["who"] == "client":
        tunnel = await published(scene, agent)
        caller = Caller(scene, tunnel.endpoint)
        return tunnel, caller, await next_request(tunnel)
    tunnel = await unpublished(scene, agent)
    dialler = await dialled(scene, tunnel)
    await dialler.send(scene.nonce())
    return tunnel, dialler, await next_request(tunnel)


async def _given_up(
    scene: Scene, agent: ScriptedAgent, waits: Caller | RawPeer, request: pb.ProxyConnReq, requirement: str
) -> None:
    """Who waits is turned away, and the right claim gets none of the octets."""
    with scene.judging(requirement, ends=True):
        got = await waits.turned_away() if isinstance(waits, Caller) else (await waits.receive_until_end())[0]
    scene.expect(requirement, not got, expected="the end without an octet", actual=repr(got[:64]))
    claim = wire.proxy_req(request.stream_id, secret=request.secret.value, zero_rtt=True)
    octets = await octets_until_end((await agent.stream(claim)).link)
    scene.expect("AGENT-068", not octets, expected="the end without an octet", actual=repr(octets[:64]))
    scene.allow("AGENT-068", "closed without a frame")


# the end of the channel


@agent_case("agent-bye-01", checks=["AGENT-027", "AGENT-028", "EDGE-027"])
async def test_a_goodbye_is_answered_and_ends_everything(scene: Scene) -> None:
    """CloseControlChannelReq is answered by CloseControlChannelRsp, then the engine closes the connection.

    A tunnel is open and a stream runs: the answer comes, the end behind it and nothing else, the client's connection
    ends, no new client is served, and another agent may take the host name at once.
    """
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    client = await caller.joined(await serve(scene, tunnel, await next_request(tunnel)))
    with scene.judging("AGENT-027"):
        await agent.send_message(wire.close_control_channel())
        await agent.expect("close_control_channel_rsp")
        await agent.expect_end()
    scene.expect("AGENT-027", True, expected="the answer, then the end", actual="so it was")
    got = await Caller(scene, tunnel.endpoint).turned_away()
    scene.expect("AGENT-028", not got, expected="a new client refused", actual=repr(got))
    with scene.judging("AGENT-028"):
        again = await channel(scene)
        await works(scene, await published(scene, again, hostname=tunnel.properties.hostname.value))
    with scene.judging("EDGE-027"):
        await client.end()
    scene.expect("EDGE-027", True, expected="the end of the running stream", actual="it ended")


@agent_case(
    "agent-lost-01",
    checks=["AGENT-028", "AGENT-029", "AGENT-031", "EDGE-026"],
    settings={"timeout.lease-ms": LEASE_MS},
    over={"end": ["close_notify", "FIN", "reset"]},
)
async def test_a_lost_channel_ends_its_tunnels_and_not_its_streams(scene: Scene) -> None:
    """The loss of a control channel ends its tunnels: a new client is refused, and the name can be taken again.

    The control connection ends without a word while a stream runs: octets still pass both ways on that stream, a new
    client is refused. The host name is asked for until the engine gives it, at once or behind the lease.
    """
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    upstream = await serve(scene, tunnel, await next_request(tunnel))
    client = await caller.joined(upstream)
    match scene.variant["end"]:
        case "close_notify":
            await agent.link.close()
        case "FIN":
            await agent.link.send_fin()
        case _:
            agent.drop()
    again = await channel(scene)
    await settle(scene, await unpublished(scene, again))
    got = await Caller(scene, tunnel.endpoint).turned_away()
    scene.expect("AGENT-028", not got, expected="a new client refused", actual=repr(got))
    scene.expect("EDGE-026", not got, expected="a new client refused", actual=repr(got))
    try:
        await _echo(scene, client, upstream)
    except (PeerMismatch, LinkReset):
        scene.allow("AGENT-029", "stream ended")
        scene.depart("EDGE-026", expected="the running stream to go on", actual="it ended")
    else:
        scene.allow("AGENT-029", "stream goes on")
    name = tunnel.properties.hostname.value
    tries = 0
    async with deadline(f"the host name {name} to be free again"):
        while (reply := await ask(again, wire.to_properties(tls(hostname=name)))).HasField("error"):
            tries += 1
    scene.allow("AGENT-031", "refused until the lease ends" if tries else "accepted at once")
    with scene.judging("AGENT-028"):
        await works(scene, Tunnel(again, reply.tunnel_properties, tunnel.endpoint))


async def _echo(scene: Scene, client: TlsPeer, upstream: RawPeer) -> None:
    """A nonce each way on a running stream."""
    ends: tuple[RawPeer | TlsPeer, RawPeer | TlsPeer] = (client, upstream)
    for one, other in (ends, ends[::-1]):
        token = scene.nonce()
        await one.send(token)
        await match(other, token, "the octets of the running stream")


@agent_case("agent-bye-02", checks=["AGENT-030"], needs=["private-engine"])
async def test_an_engine_that_stops_says_so(scene: Scene) -> None:
    """An engine that shuts down ends its channels with an unsolicited CloseControlChannelRsp."""
    agent = await channel(scene)
    reading = asyncio.ensure_future(_last_words(agent))
    await scene.driver.stop()
    said = await reading
    scene.allow("AGENT-030", "CloseControlChannelRsp, then closed" if said else "closed without a frame")


async def _last_words(agent: ScriptedAgent) -> bool:
    """Whether the engine said goodbye before it ended the channel. Raises `PeerMismatch` for anything else."""
    try:
        await agent.expect("close_control_channel_rsp")
    except PeerMismatch as seen:
        if ended(seen):
            return False
        raise
    await agent.expect_end()
    return True
