"""Streams that the engine asks an agent for (agent protocol section 4.5)."""

from __future__ import annotations

import asyncio
import re

from conformance.agent._steps import (
    Caller,
    Tunnel,
    agent_case,
    channel,
    dialled,
    judge_refusal,
    left_over,
    lives,
    match,
    next_request,
    octets_until_end,
    published,
    serve,
    settle,
    stream_peer,
    told,
    unpublished,
    works,
)
from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.link.tcp import TcpLink
from harness.peer.agent import ScriptedAgent
from harness.peer.agent_frames import Frames
from harness.peer.raw import RawPeer
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire import agent as wire

STREAM_ID = re.compile(r"[0-9a-f]{24}")
TOKEN = "agent-stream-token"
UNKNOWN = "00112233445566778899aabb"
UNKNOWN_IDS = ("unknown", "empty", "tunnel")
ENDED = "closed without a frame"
ERROR = "error, then closed"
CONNECT_MS = 1000
CAP = 4


async def claim(
    tunnel: Tunnel, stream_id: str, secret: str | None, *, zero_rtt: bool | None = True, glued: bytes = b""
) -> Frames:
    """A connection whose first frame claims `stream_id`."""
    return await tunnel.agent.stream(wire.proxy_req(stream_id, secret=secret, zero_rtt=zero_rtt), glued=glued)


async def judge_failed_claim(scene: Scene, frames: Frames, requirements: tuple[str, ...], *, zero_rtt: bool) -> int:
    """A claim that must fail: no octet with zero_rtt, else an error (its code is given) or nothing, then the end."""
    if zero_rtt:
        octets = await octets_until_end(frames.link)
        for requirement in requirements:
            scene.expect(requirement, not octets, expected="the end without an octet", actual=repr(octets[:64]))
            if requirement != "AGENT-062":
                scene.allow(requirement, ENDED)
        return 0
    with scene.judging(*requirements, ends=True):
        messages = await told(frames)
    for requirement in requirements:
        judge_refusal(scene, requirement, messages, ENDED, ERROR)
    error = wire.error_of(messages[0]) if messages else None
    return int(error.code) if error is not None else 0


@agent_case("agent-stream-01", checks=["AGENT-056", "AGENT-057"], features=["agent.private"])
async def test_stream_ids_and_secrets_are_of_one_stream(scene: Scene) -> None:
    """A stream_id is 24 lower-case hex digits and never used twice, and each stream has a secret of its own.

    Twenty streams are asked for, each refused before the next: form and difference of all ids and secrets.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    requests = []
    for _ in range(20):
        dialler = await dialled(scene, tunnel)
        requests.append(await next_request(tunnel))
        await agent.proxy_conn_rsp(requests[-1].stream_id, code=6000, text="counted")
        await dialler.end()
    ids = [request.stream_id for request in requests]
    odd = [stream_id for stream_id in ids if not STREAM_ID.fullmatch(stream_id)]
    scene.expect("AGENT-056", not odd, expected="24 lower-case hex digits", actual=", ".join(odd))
    scene.expect("AGENT-056", len(set(ids)) == len(ids), expected="twenty different ids", actual=", ".join(ids))
    secrets = [request.secret.value for request in requests if request.HasField("secret")]
    if not secrets:
        scene.allow("AGENT-057", "no secret")
        return
    shared = [request.stream_id for request in requests if request.secret.value in request.stream_id]
    scene.expect(
        "AGENT-057",
        len(set(secrets)) == len(ids) and not shared and min(map(len, secrets)) >= 16,
        expected="a secret each, none short or part of the id",
        actual=f"{len(set(secrets))} different ones, of {min(map(len, secrets))} octets and more",
        branch="a secret each",
    )


@agent_case("agent-stream-02", checks=["AGENT-058", "AGENT-073", "AGENT-070"])
async def test_each_client_is_joined_to_its_own_stream(scene: Scene) -> None:
    """A ProxyReq with the stream_id and the secret joins the client to that connection.

    Two clients connect, and the agent answers in reverse order, once without ProxyConnRsp and once with it before the
    ProxyReq: each client's nonce arrives on its own stream, answers come back, and source_ip names the client.
    """
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    callers, requests = [], []
    for _ in range(2):
        callers.append(Caller(scene, tunnel.endpoint))
        requests.append(await next_request(tunnel))
    with scene.judging("AGENT-058"):
        second = await serve(scene, tunnel, requests[1], confirm=False)
        client = await callers[1].joined(second)
    await agent.proxy_conn_rsp(requests[0].stream_id)
    await agent.heartbeat()
    with scene.judging("AGENT-070"):
        first = await serve(scene, tunnel, requests[0], confirm=False)
        await callers[0].joined(first)
    scene.expect("AGENT-058", True, expected="each nonce on its own stream", actual="so it was")
    scene.expect("AGENT-070", True, expected="octets by ProxyReq alone", actual="so it was")
    source = wire.address_text(requests[1].source_ip)
    local = client.link.local[0] if isinstance(client.link, TcpLink) else ""
    if source is None:
        scene.allow("AGENT-073", "absent")
    else:
        scene.expect("AGENT-073", source == local, expected=local, actual=str(source), branch="the client's address")


WRONG_SECRETS = ("wrong", "other", "none", "empty", "token", "longer")


@agent_case(
    "agent-secret-01",
    checks=["AGENT-059", "AGENT-060", "AGENT-062"],
    over={"secret": WRONG_SECRETS},
    settings={"auth.tokens": TOKEN},
)
async def test_a_claim_without_the_secret_gets_no_octet(scene: Scene) -> None:
    """A ProxyReq with a wrong secret, an empty one or none gets no octet of the client's, and harms no other claim.

    With a client's stream pending a claim with zero_rtt true comes with a wrong secret, that of another stream, none,
    an empty one, the agent's own token, or the right one and an octet more: the connection ends without an octet. The
    right claim that follows joins the client.
    """
    await _wrong_secret(scene, ("AGENT-059", "AGENT-062"), zero_rtt=True)


@agent_case(
    "agent-secret-02",
    checks=["AGENT-059", "AGENT-060", "AGENT-065", "AGENT-066"],
    over={"secret": WRONG_SECRETS},
    settings={"auth.tokens": TOKEN},
)
async def test_a_claim_without_the_secret_is_told_so(scene: Scene) -> None:
    """With zero_rtt false a ProxyReq without the right secret is answered by an error (1000), then the end.

    The secrets are those of agent-secret-01, and the right claim that follows joins the client, too.
    """
    code = await _wrong_secret(scene, ("AGENT-059",), zero_rtt=False)
    scene.allow("AGENT-065", ERROR if code else "closed without a frame: recorded")
    scene.allow("AGENT-066", "1000" if code == 1000 else "another error code")


async def _wrong_secret(scene: Scene, requirements: tuple[str, ...], *, zero_rtt: bool) -> int:
    """A claim with a wrong secret, and the right one behind it; gives the code of the refusal."""
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    callers, requests = [], []
    for _ in range(2):
        callers.append(Caller(scene, tunnel.endpoint))
        requests.append(await next_request(tunnel))
    request, other = requests
    secret = {
        "wrong": "x" * len(request.secret.value),
        "other": other.secret.value,
        "none": None,
        "empty": "",
        "token": TOKEN,
        "longer": request.secret.value + "x",
    }[scene.variant["secret"]]
    frames = await claim(tunnel, request.stream_id, secret, zero_rtt=zero_rtt)
    code = await judge_failed_claim(scene, frames, requirements, zero_rtt=zero_rtt)
    try:
        upstream = await serve(scene, tunnel, request)
        await callers[0].joined(upstream)
    except (LinkReset, PeerMismatch) as seen:
        if isinstance(seen, PeerMismatch) and "nonce" in seen.expected:
            raise
        scene.allow("AGENT-060", "stream given up")
    else:
        scene.allow("AGENT-060", "joined")
    await callers[1].joined(await serve(scene, tunnel, other))
    return code


@agent_case("agent-claim-01", checks=["AGENT-061", "AGENT-062"], over={"id": UNKNOWN_IDS})
async def test_a_claim_of_an_unknown_stream_gets_no_octet(scene: Scene) -> None:
    """A ProxyReq for a stream_id that the engine did not offer is refused, and the pending stream stays.

    A random id, an empty one, or the tunnel's own id, with the secret of a pending stream and zero_rtt true: the plain
    end without an octet. The pending client is served as before.
    """
    await _unknown_stream(scene, ("AGENT-061", "AGENT-062"), zero_rtt=True)


@agent_case("agent-claim-05", checks=["AGENT-061", "AGENT-065", "AGENT-066"], over={"id": UNKNOWN_IDS})
async def test_a_claim_of_an_unknown_stream_is_told_so(scene: Scene) -> None:
    """With zero_rtt false a ProxyReq for an unknown stream is answered by an error (4000), then the end.

    The ids are those of agent-claim-01; the pending client is served as before.
    """
    code = await _unknown_stream(scene, ("AGENT-061",), zero_rtt=False)
    scene.allow("AGENT-065", ERROR if code else "closed without a frame: recorded")
    scene.allow("AGENT-066", "4000" if code == 4000 else "another error code")


async def _unknown_stream(scene: Scene, requirements: tuple[str, ...], *, zero_rtt: bool) -> int:
    """A claim of an unknown stream beside a pending one, which is served then; gives the code of the refusal."""
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    stream_id = {"unknown": UNKNOWN, "empty": "", "tunnel": tunnel.id}[scene.variant["id"]]
    frames = await claim(tunnel, stream_id, request.secret.value, zero_rtt=zero_rtt)
    code = await judge_failed_claim(scene, frames, requirements, zero_rtt=zero_rtt)
    with scene.judging("AGENT-061"):
        await caller.joined(await serve(scene, tunnel, request))
    return code


@agent_case("agent-zero-01", checks=["AGENT-062", "AGENT-063", "EDGE-029"], single_family=False)
async def test_with_zero_rtt_there_is_no_proxy_rsp(scene: Scene) -> None:
    """With zero_rtt true stream octets come first, both ways: no ProxyRsp, and octets glued to ProxyReq are kept.

    The agent sends ProxyReq and `early` in one write while the client has written too: the first octets on the
    agent's connection are the client's nonce, and the client gets `early` first and once.
    """
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    early = b"early " + scene.nonce()
    upstream = await serve(scene, tunnel, request, glued=early)
    with scene.judging("AGENT-062"):
        await match(upstream, caller.nonce, "the client's octets first")
    scene.expect("AGENT-062", True, expected="the client's octets first", actual="so it was")
    client = await caller.peer()
    with scene.judging("AGENT-063", "EDGE-029"):
        await match(client, early, "the glued octets first")
        behind = scene.nonce()
        await upstream.send(behind)
        await match(client, behind, "what was sent later, next")
    scene.expect("AGENT-063", True, expected="early, then the rest", actual="so it was")
    scene.expect("EDGE-029", True, expected="early, then the rest", actual="so it was")


@agent_case("agent-zero-02", checks=["AGENT-064"], over={"zero_rtt": ["false", "absent"]}, single_family=False)
async def test_without_zero_rtt_one_proxy_rsp_comes_first(scene: Scene) -> None:
    """With zero_rtt false or absent exactly one ProxyRsp without error precedes the stream octets.

    The client's octets look like another ProxyRsp with an error: they arrive unchanged behind the answer.
    """
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    looks = pb.Message(proxy_rsp=pb.ProxyRsp(error=pb.Error(code=pb.ERROR_CODE_UNAUTHORIZED)))
    alike = wire.encode(looks)
    caller = Caller(scene, tunnel.endpoint, more=alike)
    request = await next_request(tunnel)
    upstream = await serve(scene, tunnel, request, zero_rtt=False if scene.variant["zero_rtt"] == "false" else None)
    with scene.judging("AGENT-064"):
        await match(upstream, caller.nonce, "the client's nonce behind the ProxyRsp")
        await match(upstream, alike, "the client's octets unchanged")
        answer = scene.nonce()
        await upstream.send(answer)
        await match(await caller.peer(), answer, "the agent's octets at the client")
    scene.expect("AGENT-064", True, expected="one answer, then the stream", actual="so it was")


@agent_case("agent-claim-02", checks=["AGENT-067"], over={"zero_rtt": ["true", "false"], "when": ["at-once", "later"]})
async def test_the_first_valid_claim_wins(scene: Scene) -> None:
    """A second ProxyReq for the same stream is refused and disturbs nothing.

    Two right claims leave at once, or the second after octets have passed: one is joined, the other ends without an
    octet of the client's, and the stream goes on.
    """
    zero_rtt = scene.variant["zero_rtt"] == "true"
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    secret = request.secret.value if request.HasField("secret") else None
    first = await claim(tunnel, request.stream_id, secret)
    upstream = stream_peer(scene, first.hand_over(), "first claim")
    if scene.variant["when"] == "later":
        await caller.joined(upstream)
    second = await claim(tunnel, request.stream_id, secret, zero_rtt=zero_rtt)
    await judge_failed_claim(scene, second, ("AGENT-067",), zero_rtt=zero_rtt)
    with scene.judging("AGENT-067"):
        if scene.variant["when"] == "later":
            await _ping(scene, await caller.peer(), upstream)
        else:
            await caller.joined(upstream)


async def _ping(scene: Scene, client: TlsPeer, upstream: RawPeer) -> None:
    """A nonce each way on a stream that is joined."""
    token = scene.nonce()
    await client.send(token)
    await match(upstream, token, "the client's octets on the stream")
    await upstream.send(token[::-1])
    await match(client, token[::-1], "the agent's octets at the client")


@agent_case(
    "agent-claim-03",
    checks=["AGENT-068", "AGENT-074"],
    settings={"timeout.agent-connect-ms": CONNECT_MS},
    features=["agent.private"],
    over={"who": ["client", "dialler"], "zero_rtt": ["true", "false"]},
)
async def test_a_claim_after_the_timeout_is_refused(scene: Scene) -> None:
    """An agent that does not come in time loses the stream: the client ends, and a later ProxyReq is refused.

    With a connect timeout of a second nobody claims: the client, or a dialler, ends after that time and not much
    before. The claim that follows is refused while another client waits, who is served then.
    """
    zero_rtt = scene.variant["zero_rtt"] == "true"
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    loop = asyncio.get_running_loop()
    start = loop.time()
    if scene.variant["who"] == "client":
        caller = Caller(scene, tunnel.endpoint)
        request = await next_request(tunnel)
        got = await caller.turned_away()
    else:
        dialler = await dialled(scene, tunnel)
        request = await next_request(tunnel)
        got = (await dialler.receive_until_end())[0]
    took = loop.time() - start
    scene.expect("AGENT-074", not got, expected="the end without an octet", actual=repr(got[:64]))
    scene.expect(
        "AGENT-074",
        took >= 0.8 * CONNECT_MS / 1000,
        expected=f"the end after {CONNECT_MS} ms",
        actual=f"after {took * 1000:.0f} ms",
        branch="client ended after the timeout",
    )
    waiting = Caller(scene, tunnel.endpoint)
    asked = await next_request(tunnel)
    late = await claim(tunnel, request.stream_id, request.secret.value, zero_rtt=zero_rtt)
    await judge_failed_claim(scene, late, ("AGENT-068",), zero_rtt=zero_rtt)
    with scene.judging("AGENT-068"):
        await waiting.joined(await serve(scene, tunnel, asked))


@agent_case("agent-claim-04", checks=["AGENT-068"], features=["agent.private"])
async def test_a_claim_behind_a_dialler_that_left_gets_nobody_else(scene: Scene) -> None:
    """A ProxyReq for a stream whose dialler has gone joins nobody, whoever waits beside it.

    A dialler resets its connection while the agent is asked for, and another one comes: the claim of the first one's
    stream gets no octet of the second one's, who is served on its own.
    """
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    probe = await unpublished(scene, agent)
    gone = await dialled(scene, tunnel)
    await gone.send(b"gone " + scene.nonce())
    request = await next_request(tunnel)
    gone.abort()
    await settle(scene, probe)
    waiting = await dialled(scene, tunnel)
    token = scene.nonce()
    await waiting.send(token)
    asked = await next_request(tunnel)
    late = await claim(tunnel, request.stream_id, request.secret.value)
    octets = await octets_until_end(late.link)
    scene.expect("AGENT-068", token not in octets, expected="no octet of another dialler's", actual=repr(octets[:64]))
    with scene.judging("AGENT-068"):
        await match(await serve(scene, tunnel, asked), token, "the waiting dialler's octets on its own stream")
    scene.allow("AGENT-068", ENDED)


@agent_case("agent-refuse-01", checks=["AGENT-069"], over={"code": ["1", "42", "6000", "123456"]})
async def test_a_refusing_agent_ends_the_client_at_once(scene: Scene) -> None:
    """ProxyConnRsp with an error, whatever its number, ends the downstream side at once and without data.

    The agent refuses the stream long before any connect timeout: the client's connection ends without an octet. The
    next client is asked for as usual and served.
    """
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    await agent.proxy_conn_rsp(request.stream_id, code=int(scene.variant["code"]), text="not today")
    with scene.judging("AGENT-069"):
        got = await caller.turned_away()
        scene.expect(
            "AGENT-069", not got, expected="the end without an octet", actual=repr(got[:64]), branch="client ended"
        )
        await works(scene, tunnel)


@agent_case("agent-refuse-02", checks=["AGENT-069"])
async def test_a_refusal_behind_the_claim_ends_the_client(scene: Scene) -> None:
    """ProxyConnRsp with an error ends the downstream side also when its ProxyReq has come."""
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    upstream = await serve(scene, tunnel, request, confirm=False)
    client = await caller.joined(upstream)
    await agent.proxy_conn_rsp(request.stream_id, code=6000, text="not any more")
    await agent.heartbeat()
    await works(scene, tunnel)
    token = scene.nonce()
    try:
        await client.send(token)
        await match(upstream, token, "the client's octets on the stream")
    except (PeerMismatch, LinkReset):
        await client.end()
        scene.allow("AGENT-069", "client ended")
    else:
        scene.allow("AGENT-069", "stream goes on after its ProxyReq")


@agent_case("agent-refuse-03", checks=["AGENT-071"], features=["agent.private"])
async def test_another_agents_refusal_does_nothing(scene: Scene) -> None:
    """ProxyConnRsp acts only on streams that were offered on its own channel.

    While one agent's stream is pending another agent answers an error for it and for unknown ids: the stream is
    served, and both channels live.
    """
    agent, stranger = await channel(scene), await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    for stream_id in (request.stream_id, UNKNOWN, ""):
        await stranger.proxy_conn_rsp(stream_id, code=6000, text="not mine to refuse")
    await settle(scene, await unpublished(scene, stranger))
    with scene.judging("AGENT-071"):
        await caller.joined(await serve(scene, tunnel, request))
    await lives(scene, stranger, "AGENT-071")
    await lives(scene, agent, "AGENT-071")
    scene.expect("AGENT-071", True, expected="the stream served", actual="so it was")


async def _outstanding(scene: Scene, agent: ScriptedAgent, probe: Tunnel) -> list[pb.ProxyConnReq]:
    """Every request for a stream that the agent has, after a barrier through another agent's channel and its own."""
    await settle(scene, probe)
    await agent.heartbeat()
    return [message.proxy_conn_req for message in left_over(agent, "proxy_conn_req")]


@agent_case(
    "agent-cap-01",
    checks=["AGENT-072"],
    features=["agent.private"],
    settings={"limit.pending-streams": CAP},
)
async def test_no_more_requests_are_outstanding_than_the_cap(scene: Scene) -> None:
    """No more ProxyConnReq are outstanding on a channel than the cap; an answered or abandoned one makes room.

    With a cap of four, eight diallers come and the agent answers none: at most four requests are there, the others
    wait or are refused. Then the agent refuses two and claims one: those that wait, or new ones, are asked for, never
    above the cap. At last the first four diallers go away, one of which was still waiting: one more is asked for.
    """
    agent, beside = await channel(scene), await channel(scene)
    tunnel, probe = await unpublished(scene, agent), await unpublished(scene, beside)
    first = [await dialled(scene, tunnel) for _ in range(CAP)]
    await _outstanding(scene, agent, probe)
    diallers = [await dialled(scene, tunnel) for _ in range(CAP)]
    seen = await _outstanding(scene, agent, probe)
    scene.expect("AGENT-072", 0 < len(seen) <= CAP, expected=f"1 to {CAP} requests", actual=str(len(seen)))
    for request in seen[:2]:
        await agent.proxy_conn_rsp(request.stream_id, code=6000, text="making room")
    claimed = stream_peer(scene, await agent.answer_proxy(seen[2]), "claimed")
    later = await _outstanding(scene, agent, probe)
    answered = 3
    waits = len(later) > len(seen)
    scene.expect(
        "AGENT-072",
        len(later) - answered <= CAP,
        expected=f"at most {CAP} outstanding after three answers",
        actual=f"{len(later) - answered}",
    )
    if not waits:
        diallers.append(await dialled(scene, tunnel))
        later = await _outstanding(scene, agent, probe)
    scene.expect(
        "AGENT-072", len(later) > len(seen), expected="answers to make room for the next", actual="no further request"
    )
    for dialler in first:
        dialler.abort()
    if not waits:
        await settle(scene, probe)
        diallers.append(await dialled(scene, tunnel))
    last = await _outstanding(scene, agent, probe)
    scene.expect(
        "AGENT-072", len(last) > len(later), expected="a dialler that left to make room", actual="no further request"
    )
    scene.allow("AGENT-072", "further clients wait" if waits else "further clients refused")
    await claimed.close()


@agent_case("agent-cap-02", checks=["AGENT-072"], features=["agent.private"], slow=True)
async def test_no_more_than_256_requests_are_outstanding(scene: Scene) -> None:
    """Without a setting at most 256 ProxyConnReq are outstanding: more ends the channel of some agents.

    300 diallers come and the agent answers none.
    """
    agent, beside = await channel(scene), await channel(scene)
    tunnel, probe = await unpublished(scene, agent), await unpublished(scene, beside)
    for _ in range(300):
        await dialled(scene, tunnel)
    seen = await _outstanding(scene, agent, probe)
    scene.expect("AGENT-072", 0 < len(seen) <= 256, expected="1 to 256 requests", actual=str(len(seen)))


async def _joined(scene: Scene) -> tuple[Tunnel, TlsPeer, RawPeer]:
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    caller = Caller(scene, tunnel.endpoint)
    upstream = await serve(scene, tunnel, await next_request(tunnel))
    return tunnel, await caller.joined(upstream), upstream


@agent_case("agent-end-01", checks=["AGENT-075"], over={"first": ["client", "agent"]}, features=["tls.half-close"])
async def test_the_end_of_one_direction_is_carried_on(scene: Scene) -> None:
    """The end of one direction is carried on, and the other one stays open.

    One side ends its direction behind some octets: the other side reads them and the end, and what it still sends
    arrives.
    """
    _, client, upstream = await _joined(scene)
    ends: tuple[RawPeer | TlsPeer, RawPeer | TlsPeer] = (client, upstream)
    one, other = ends if scene.variant["first"] == "client" else ends[::-1]
    last, answer = scene.nonce(), scene.nonce()
    await one.send(last)
    await one.send_end()
    await match(other, last, "the octets before the end")
    got = await other.receive()
    scene.expect("AGENT-075", got == b"", expected="the end behind them", actual=repr(got))
    try:
        await other.send(answer)
        await match(one, answer, "the answer on the open direction")
    except (LinkReset, PeerMismatch):
        scene.allow("AGENT-075", "both directions ended after the data")
    else:
        scene.allow("AGENT-075", "half-close carried")


@agent_case("agent-end-02", checks=["AGENT-076", "AGENT-077"])
async def test_the_end_of_a_stream_follows_its_data(scene: Scene) -> None:
    """The end of a stream's connection ends the downstream side behind the data, whoever ended first.

    One agent sends 64 KiB and closes. Another one does so in answer to the end of the client's direction: each client
    gets all octets, then the end.
    """
    data = b"".join(scene.nonce() for _ in range(4096))
    for requirement in ("AGENT-077", "AGENT-076"):
        _, client, upstream = await _joined(scene)
        if requirement == "AGENT-076":
            await client.send_end()
            await upstream.receive()
        await upstream.send(data)
        await upstream.close()
        with scene.judging(requirement):
            got, _ = await client.receive_until_end()
            scene.expect(
                requirement, got == data, expected=f"{len(data)} octets, then the end", actual=f"{len(got)} octets"
            )
