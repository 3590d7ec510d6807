"""What the first frame makes of a connection, and how a control channel opens (agent protocol sections 4.1, 4.2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from conformance.agent._steps import (
    Caller,
    access_of,
    agent_case,
    ask,
    channel,
    ended,
    hostname,
    judge_refusal,
    knock,
    left_over,
    lives,
    named,
    next_request,
    published,
    settle,
    stream_peer,
    told,
    told_of,
    unpublished,
    watch,
)
from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.model.spec import private, tls
from harness.peer.agent import accepted, refused
from harness.scene import Scene
from harness.wire import agent as wire

SILENT = "closed without a frame"
ERROR = "an error answer, then closed"
WRONG_FIRST: dict[str, Callable[[str], pb.Message]] = {
    "open-tunnel": lambda name: wire.open_tunnel("first", wire.to_properties(tls(hostname=name))),
    "heartbeat": lambda _: wire.heartbeat(1),
    "proxy-conn-rsp": lambda _: wire.proxy_conn_rsp("aabbccddeeff001122334455"),
    "close": lambda _: wire.close_control_channel(),
    "answer": lambda _: pb.Message(open_control_channel_rsp=pb.OpenControlChannelRsp()),
    "empty": lambda _: pb.Message(),
}
FIRST_FRAME_MS = 1000
WRONG = "nobody-configured-this"


@agent_case("agent-first-01", checks=["AGENT-014"], over={"first": list(WRONG_FIRST)})
async def test_any_other_first_frame_ends_the_connection(scene: Scene) -> None:
    """Any payload that opens nothing ends the connection as first frame, and nothing of it takes effect.

    OpenTunnelReq, Heartbeat, ProxyConnRsp, CloseControlChannelReq, an answer message and an empty one come first, each
    with a legal OpenTunnelReq behind it: the connection ends, and the host name stays free for another agent.
    """
    name = hostname(scene, named(scene))
    first = WRONG_FIRST[scene.variant["first"]](name)
    behind = wire.open_tunnel("behind", wire.to_properties(tls(hostname=name)))
    frames = await knock(scene, wire.encode(first) + wire.encode(behind))
    with scene.judging("AGENT-014"):
        judge_refusal(scene, "AGENT-014", await told(frames), SILENT, ERROR)
        beside = await channel(scene)
        properties = await ask(beside, wire.to_properties(tls(hostname=name)))
        scene.expect(
            "AGENT-014",
            not properties.HasField("error"),
            expected="the host name still free",
            actual=wire.describe_error(properties.error),
        )


@agent_case("agent-first-02", checks=["AGENT-016"], settings={"timeout.first-frame-ms": FIRST_FRAME_MS})
async def test_there_is_a_deadline_for_the_first_frame(scene: Scene) -> None:
    """A connection whose first frame does not come in time is closed, also where it trickles.

    With a first-frame timeout of a second one connection says nothing and another one an octet after each round trip
    on a third: the engine closes both soon after the deadline, and the third one lives. Over QUIC, where a stream is
    not there before its first octet, the silent one says that and no more.
    """
    beside = await channel(scene)
    loop = asyncio.get_running_loop()
    start = loop.time()
    first = (60_000).to_bytes(4, "big")
    begun = first[:1] if access_of(scene).transport == "quic" else b""
    silent, trickling = await knock(scene, begun), await knock(scene, first)
    watched = {"silent": watch(scene, silent.link), "trickling": watch(scene, trickling.link)}
    ends: dict[str, float] = {}
    while len(ends) < 2 and loop.time() < start + 5 * FIRST_FRAME_MS / 1000:
        await beside.heartbeat()
        with contextlib.suppress(LinkReset):
            await trickling.link.send(b"\0")
        for name, task in watched.items():
            if task.done():
                ends.setdefault(name, loop.time() - start)
    for name in ("silent", "trickling"):
        after = ends.get(name)
        if after is None:
            scene.allow("AGENT-016", "still open")
            continue
        scene.expect(
            "AGENT-016",
            after > 0.8 * FIRST_FRAME_MS / 1000,
            expected=f"the {name} connection to end at the deadline of {FIRST_FRAME_MS} ms",
            actual=f"after {after * 1000:.0f} ms",
            branch="closed at the deadline",
        )
    await lives(scene, beside, "AGENT-016")


@agent_case(
    "agent-open-01",
    checks=["AGENT-017", "AGENT-018", "AGENT-019"],
    features=["agent.private"],
    single_family=False,
)
async def test_an_opening_gets_one_answer(scene: Scene) -> None:
    """OpenControlChannelReq gets exactly one OpenControlChannelRsp, whose ok has a client id and server details.

    Two agents open channels: each gets one answer, with ids that differ, and no second one while the channel works.
    """
    ids = []
    for _ in range(2):
        agent = await scene.scripted_agent()
        with scene.judging("AGENT-017"):
            ok = accepted(await agent.open(interval_ms=60_000))
        ids.append(ok.client_id)
        scene.expect("AGENT-018", bool(ok.client_id), expected="a client id", actual="an empty one")
        scene.expect("AGENT-019", ok.HasField("server_details"), expected="server_details in ok", actual=wire_text(ok))
        await settle(scene, await unpublished(scene, agent))
        more = left_over(agent, "open_control_channel_rsp")
        scene.expect("AGENT-017", not more, expected="no second answer", actual=told_of(more))
    scene.allow("AGENT-018", "ids differ" if ids[0] != ids[1] else "same id twice")


def wire_text(ok: pb.OpenControlChannelRsp.Ok) -> str:
    """An ok for an `actual`."""
    return wire.describe(pb.Message(open_control_channel_rsp=pb.OpenControlChannelRsp(ok=ok)))


MISSING, MALFORMED, OTHER = "2010", "2020", "2030"
VERSIONS: dict[str, tuple[str | None, str]] = {
    "absent": (None, MISSING),
    "empty": ("", MISSING),
    "letters": ("abc", MALFORMED),
    "number": ("1", MALFORMED),
    "hole": ("1.x.5", MALFORMED),
    "minus": ("-1.4.5", MALFORMED),
    "two": ("2.0.0", OTHER),
    "zero": ("0.9.0", OTHER),
    "ninety-nine": ("99.0", OTHER),
}


@agent_case(
    "agent-version-01",
    checks=["AGENT-020", "AGENT-021", "VAL-030", "AGENT-023"],
    over={"version": list(VERSIONS)},
)
async def test_a_protocol_version_that_will_not_do_is_refused(scene: Scene) -> None:
    """A protocol version that is missing, malformed or of another major number is refused, with a code of its own.

    OpenControlChannelReq carries it, and an OpenTunnelReq follows in the same write: an error answer with 2010, 2020
    or 2030, then the end of the connection, no further frame, and the host name stays free.
    """
    version, code = VERSIONS[scene.variant["version"]]
    name = hostname(scene, named(scene))
    opening = wire.encode(wire.open_control_channel(token=access_of(scene).token, version=version))
    behind = wire.encode(wire.open_tunnel("behind", wire.to_properties(tls(hostname=name))))
    with scene.judging("AGENT-020"):
        messages = await told(await knock(scene, opening + behind))
    answers = [m.open_control_channel_rsp for m in messages if wire.kind(m) == "open_control_channel_rsp"]
    served = bool(answers) and answers[0].HasField("ok")
    if served and code == OTHER:
        scene.allow("AGENT-020", "another major version served")
    else:
        scene.expect(
            "AGENT-020",
            bool(answers) and answers[0].HasField("error"),
            expected=f"version {version!r} refused",
            actual=told_of(messages),
            branch="refused",
        )
    error = answers[0].error if answers else pb.Error()
    scene.allow("AGENT-021", code if str(int(error.code)) == code else "another error code")
    scene.expect("VAL-030", str(int(error.code)) == code, expected=f"error {code}", actual=wire.describe_error(error))
    scene.expect("AGENT-023", len(messages) == 1, expected="one error, then the end", actual=told_of(messages))
    free = await ask(await channel(scene), wire.to_properties(tls(hostname=name)))
    scene.expect(
        "AGENT-020",
        not free.HasField("error"),
        expected="no tunnel behind a refused opening",
        actual=wire.describe_error(free.error),
    )


@agent_case(
    "agent-version-02",
    checks=["AGENT-022"],
    over={"version": ["1.3.0", "1.4.1", "1.4.2", "1.4.5", "1.99.0"]},
)
async def test_versions_of_major_number_1_are_served(scene: Scene) -> None:
    """Every version of major number 1 is served, also one that is newer than any known."""
    agent = await scene.scripted_agent()
    reply = await agent.open(version=scene.variant["version"])
    scene.expect(
        "AGENT-022",
        reply.HasField("ok"),
        expected=f"ok for {scene.variant['version']}",
        actual=wire.describe_error(reply.error),
    )


@agent_case("agent-version-03", checks=["AGENT-021", "AGENT-020"], settings={"auth.tokens": "agent-version-token"})
async def test_the_version_is_judged_before_the_credential(scene: Scene) -> None:
    """An agent with a bad version and a bad token is told about the version, which no token mends."""
    for version, code in ((None, MISSING), ("abc", MALFORMED), ("2.0.0", OTHER)):
        agent = await scene.scripted_agent()
        error = refused(await agent.open(version=version, token=WRONG))
        scene.expect("AGENT-020", True, expected="a refusal", actual="refused", branch="refused")
        scene.allow("AGENT-021", code if str(int(error.code)) == code else "another error code")
        scene.expect(
            "AGENT-021", str(int(error.code)) in (code, "1000"), expected=f"error {code}", actual=str(error.code)
        )
    accepted(await (await scene.scripted_agent()).open())


@agent_case(
    "agent-limit-01",
    checks=["AGENT-024", "AGENT-017", "TRANS-011"],
    features=["agent.private"],
    settings={"limit.control-channels": 2},
)
async def test_one_channel_too_many_is_told_so(scene: Scene) -> None:
    """Where no more channels are taken the answer is an error, not silence, and the open ones stay.

    With a limit of two a third agent opens a channel: an error (7000), then the end. Once one has gone, the next is
    let in: a full engine is no reason for an agent to give up.
    """
    kept, other = await channel(scene), await channel(scene)
    third = await scene.scripted_agent()
    await third.connect(first=wire.encode(wire.open_control_channel(token=access_of(scene).token)))
    try:
        error = refused(await third.expect("open_control_channel_rsp"))
    except PeerMismatch as seen:
        if "the request granted" in seen.actual:
            scene.depart("AGENT-024", expected="an error answer", actual="a third channel opened")
            raise
        scene.allow("AGENT-024", "closed without a frame")
        scene.not_run("TRANS-011", "the engine gave no code")
    else:
        scene.allow("AGENT-024", "error 7000" if error.code == 7000 else "another error code")
        retryable = int(error.code) in (6000, 7000)
        scene.expect("TRANS-011", retryable, expected="6000 or 7000", actual=wire.describe_error(error))
    await lives(scene, kept, "AGENT-017")
    await other.close()
    await channel(scene)
    scene.expect("AGENT-017", True, expected="an ok once there is room", actual="ok")


@agent_case("agent-open-02", checks=["AGENT-026", "AGENT-047", "AGENT-044"], features=["agent.private"])
async def test_pipelined_requests_are_each_answered_once(scene: Scene) -> None:
    """Requests may be pipelined; each is answered once, with its request_id unchanged.

    Ten OpenTunnelReq leave in one write, with ids of different forms, every third one bad: ten answers, each id once
    and verbatim, errors for the bad ones, properties with ids of their own for the others, which work.
    """
    agent = await channel(scene)
    probe = await unpublished(scene, agent)
    wanted = ["7d9f2c1e-4b7a-4a52-9d6b-0c2f6a1e8b11", "0123456789abcdef01234567", "with two spaces", "Upper-CASE", "ü"]
    wanted += ["x" * 300, "0", "../..", "request_9", "true"]
    bad = set(wanted[::3])
    data = b""
    for request_id in wanted:
        spec = private(name=named(scene), tls_mode="sideways" if request_id in bad else None)
        data += wire.encode(wire.open_tunnel(request_id, wire.to_properties(spec)))
    await agent.send_raw(data)
    replies: dict[str, pb.OpenTunnelRsp] = {}
    with scene.judging("AGENT-026"):
        for _ in wanted:
            reply = await agent.expect("open_tunnel_rsp")
            if reply.request_id in replies or reply.request_id not in wanted:
                raise PeerMismatch("each request_id once and verbatim", repr(reply.request_id))
            replies[reply.request_id] = reply
    refusals = {request_id for request_id, reply in replies.items() if reply.HasField("error")}
    scene.expect("AGENT-047", refusals == bad, expected=f"errors for {sorted(bad)}", actual=str(sorted(refusals)))
    ids = [reply.tunnel_properties.id.value.strip() for name, reply in replies.items() if name not in bad]
    scene.expect(
        "AGENT-044", all(ids) and len(set(ids)) == len(ids), expected="ids that differ, none blank", actual=str(ids)
    )
    await settle(scene, probe)
    more = left_over(agent, "open_tunnel_rsp")
    scene.expect("AGENT-026", not more, expected="each answered once", actual=told_of(more))
    with scene.judging("AGENT-047"):
        for tunnel_id in ids:
            dialler = stream_peer(scene, await agent.dial(tunnel_id), "dialled")
            request = await agent.next_proxy_request()
            if request.tunnel_id != tunnel_id:
                raise PeerMismatch(f"a request for tunnel {tunnel_id}", request.tunnel_id)
            await agent.proxy_conn_rsp(request.stream_id, code=6000, text="no need")
            await dialler.end()


@agent_case("agent-open-03", checks=["AGENT-025", "AGENT-058"], over={"frame": ["proxy", "stream", "open"]})
async def test_a_control_channel_stays_what_it_is(scene: Scene) -> None:
    """Frames that open connections open nothing on a control channel.

    With a client's stream pending the channel carries the right ProxyReq, a StreamReq, or a second
    OpenControlChannelReq: nothing is relayed there, and another agent's channel serves as before.
    """
    beside = await channel(scene)
    kept = await published(scene, beside)
    agent = await channel(scene)
    tunnel = await published(scene, agent)
    pending = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    match scene.variant["frame"]:
        case "proxy":
            said = wire.proxy_req(request.stream_id, secret=request.secret.value, zero_rtt=True)
        case "stream":
            said = wire.stream_req(kept.id, token=access_of(scene).token, zero_rtt=True)
        case _:
            said = wire.open_control_channel(token=access_of(scene).token)
    await agent.send_message(said)
    try:
        reply = await ask(agent, wire.to_properties(private(name=named(scene))))
    except (PeerMismatch, LinkReset) as seen:
        closed = ended(seen) or (isinstance(seen, PeerMismatch) and "close" in seen.actual)
        scene.expect("AGENT-025", closed, expected="nothing relayed on the channel", actual=str(seen))
        scene.allow("AGENT-025", "channel closed")
    else:
        more = left_over(agent, "open_control_channel_rsp", "proxy_rsp", "stream_rsp", "empty")
        errors = [message for message in more if wire.error_of(message) is not None]
        scene.expect("AGENT-025", len(errors) == len(more), expected="nothing opened", actual=told_of(more))
        scene.expect("AGENT-025", not reply.HasField("error"), expected="a tunnel", actual=str(reply.error))
        scene.allow("AGENT-025", "an error answer" if errors else "ignored")
    with scene.judging("AGENT-058"):
        again = Caller(scene, kept.endpoint)
        upstream = stream_peer(scene, await beside.answer_proxy(await next_request(kept)), "stream")
        await again.joined(upstream)
    pending.abort()
    stray = left_over(beside, "proxy_conn_req")
    scene.expect("AGENT-058", not stray, expected="one stream for one client", actual=told_of(stray))
