"""Who may open channels, dial, and claim streams (agent protocol section 7)."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from conformance.agent._steps import (
    Caller,
    agent_case,
    ask,
    channel,
    ended,
    hostname,
    knock,
    left_over,
    named,
    next_request,
    octets_until_end,
    published,
    reached,
    settle,
    stream_peer,
    told,
    told_of,
    unpublished,
)
from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.agent import HandshakeFailed
from harness.link.stream import LinkReset
from harness.model.spec import tls
from harness.peer.agent import ScriptedAgent, accepted
from harness.peer.agent_frames import Frames
from harness.peer.tls_pki import Leaf, agent_identity, self_signed
from harness.scene import Scene
from harness.wire import agent as wire

TOKEN = "Agent-Token-0123456789abcdef"
NOT_SIGNED = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJ0eXBlIjoiYXV0aCIsInVzZXJJZCI6InJvb3QifQ."
WRONG: dict[str, str] = {
    "other": "Agent-Token-fedcba9876543210",
    "prefix": TOKEN[:-1],
    "longer": TOKEN + "0",
    "case": TOKEN.lower(),
    "blank": f" {TOKEN}",
    "newline": f"{TOKEN}\n",
    "nul": f"{TOKEN}\0",
    "twice": f"{TOKEN},{TOKEN}",
    "bearer": f"Bearer {TOKEN}",
    "unsigned-jwt": NOT_SIGNED,
    "letters-beyond-ascii": TOKEN.replace("A", "\N{FULLWIDTH LATIN CAPITAL LETTER A}"),
    "long": TOKEN * 2000,
}
NONE: dict[str, str | None] = {"absent": None, "empty": ""}
MAKER, DIALLER, READER = "agent-maker-token", "agent-dialler-token", "agent-reader-token"
PERMITTED = ",".join(
    (
        TOKEN,
        f"{MAKER}:tunnels.tunnels.create-delete",
        f"{DIALLER}:tunnels.streams.create-delete",
        f"{READER}:tunnels.resources.read-only",
    )
)
KNOWN = "agent-known"
REFUSED = "error, then closed"
CERTIFICATES = {"edition": "enterprise", "auth.tokens": TOKEN, "auth.certificates": KNOWN}


async def _turned_away(scene: Scene, *requirements: str, token: str | None) -> int:
    """Open a channel with a credential that will not do, a tunnel in the same write; gives the code of the refusal."""
    name = hostname(scene, named(scene))
    opening = wire.encode(wire.open_control_channel(token=token))
    behind = wire.encode(wire.open_tunnel("behind", wire.to_properties(tls(hostname=name))))
    with scene.judging(*requirements, ends=True):
        messages = await told(await knock(scene, opening + behind))
    error = messages[0].open_control_channel_rsp.error if messages else pb.Error()
    refused = not messages or (len(messages) == 1 and messages[0].open_control_channel_rsp.HasField("error"))
    free = await ask(await channel(scene), wire.to_properties(tls(hostname=name)))
    for requirement in requirements:
        scene.expect(
            requirement, refused, expected="a refusal and nothing behind it", actual=told_of(messages) or "the end"
        )
        scene.expect(
            requirement,
            not free.HasField("error"),
            expected="the host name still free for an agent with the right token",
            actual=wire.describe_error(free.error),
        )
    return int(error.code)


def _judge_code(scene: Scene, code: int) -> None:
    scene.expect("TRANS-010", code == 1000, expected="unauthorized (1000)", actual=f"error {code}")
    scene.allow("AGENT-090", "1000" if code == 1000 else "another error code")


@agent_case(
    "agent-auth-01",
    checks=["AGENT-088", "TRANS-010", "AGENT-090", "AGENT-023"],
    features=["agent.token"],
    settings={"auth.tokens": TOKEN},
    over={"token": list(WRONG)},
)
async def test_a_wrong_token_opens_nothing(scene: Scene) -> None:
    """Where tokens are configured a channel opens with a right one only; any other is refused as unauthorized (1000).

    A wrong token, a part of the right one, the right one with something more or in other letters, an unsigned JWT and
    a very long one open a channel, with OpenTunnelReq behind it: one error, then the end. An agent with the right token
    gets the host name.
    """
    code = await _turned_away(scene, "AGENT-088", "TRANS-010", "AGENT-023", token=WRONG[scene.variant["token"]])
    _judge_code(scene, code)


@agent_case(
    "agent-auth-02",
    checks=["AGENT-089", "TRANS-010", "AGENT-090"],
    features=["agent.token"],
    settings={"auth.tokens": TOKEN},
    over={"token": list(NONE)},
)
async def test_no_token_opens_nothing_where_one_is_needed(scene: Scene) -> None:
    """Where tokens are configured a channel without one, or with an empty one, is refused as unauthorized (1000)."""
    code = await _turned_away(scene, "AGENT-089", "TRANS-010", token=NONE[scene.variant["token"]])
    _judge_code(scene, code)


@agent_case("agent-auth-03", checks=["AGENT-089"], features=["agent.open", "agent.private"])
async def test_an_open_engine_takes_an_agent_without_a_token(scene: Scene) -> None:
    """An open engine lets an agent in that shows no token, and one that shows any: both open channels and dial."""
    for token in (None, "", "whatever"):
        agent = await scene.scripted_agent(token=token)
        with scene.judging("AGENT-089"):
            accepted(await agent.open())
            await reached(scene, await unpublished(scene, agent))
    scene.expect("AGENT-089", True, expected="channels that work", actual="so they were")


@agent_case(
    "agent-auth-04",
    checks=["AGENT-091", "AGENT-082", "AGENT-083"],
    features=["agent.token", "agent.private"],
    settings={"auth.tokens": TOKEN},
    over={"token": ["other", "prefix", "case", "absent", "empty"], "zero_rtt": ["true", "false"]},
)
async def test_a_dial_needs_a_right_token(scene: Scene) -> None:
    """A dial with a wrong token, or with none, is refused, and the agent is asked for nothing.

    `early` leaves behind StreamReq: the plain end with zero_rtt true, an error (1000) and the end with false. The
    right token dials the same tunnel.
    """
    zero_rtt, token = scene.variant["zero_rtt"] == "true", {**WRONG, **NONE}[scene.variant["token"]]
    agent = await channel(scene)
    tunnel = await unpublished(scene, agent)
    frames = await agent.stream(wire.stream_req(tunnel.id, token=token, zero_rtt=zero_rtt), glued=b"early")
    with scene.judging("AGENT-091"):
        await _refused_dial(scene, frames, "AGENT-091", zero_rtt=zero_rtt)
        await settle(scene, tunnel)
    stray = left_over(agent, "proxy_conn_req")
    for requirement in ("AGENT-091", "AGENT-082"):
        scene.expect(requirement, not stray, expected="nothing asked of the agent", actual=told_of(stray))


async def _refused_dial(scene: Scene, frames: Frames, requirement: str, *, zero_rtt: bool) -> None:
    """A dial that must fail for its credential: judged under `requirement`, AGENT-082 and AGENT-083."""
    if zero_rtt:
        octets = await octets_until_end(frames.link)
        for row in (requirement, "AGENT-082"):
            scene.expect(row, not octets, expected="the plain end", actual=repr(octets[:64]))
        scene.allow("AGENT-082", "closed without a frame")
        scene.record("AGENT-083", "no code with zero_rtt true")
        return
    messages = await told(frames)
    error = wire.error_of(messages[0]) if len(messages) == 1 else None
    for row in (requirement, "AGENT-082"):
        scene.expect(row, error is not None, expected="one error, then the end", actual=told_of(messages))
    scene.allow("AGENT-082", REFUSED)
    scene.allow("AGENT-083", "1000" if error is not None and error.code == 1000 else "another error code")


@agent_case(
    "agent-permit-01",
    checks=["AGENT-092", "PRIV-003", "AGENT-082", "AGENT-083"],
    features=["agent.token", "agent.private"],
    settings={"auth.tokens": PERMITTED},
    over={"token": ["maker", "reader"]},
)
async def test_a_token_that_may_not_dial_dials_nothing(scene: Scene) -> None:
    """A token without the permission for streams dials no tunnel, be it one of its own channel; one that has it does.

    An agent whose token may only create tunnels opens one. Its token, or one that may only list, dials it: refused,
    and the agent is asked for nothing. The token that may dial gets through.
    """
    agent = await channel(scene, token=MAKER)
    tunnel = await unpublished(scene, agent)
    token = {"maker": MAKER, "reader": READER}[scene.variant["token"]]
    dialler = await scene.scripted_agent(token=DIALLER)
    for key in (tunnel.id, tunnel.name):
        frames = await agent.stream(wire.stream_req(key, token=token, zero_rtt=False), glued=b"early")
        with scene.judging("PRIV-003", "AGENT-092"):
            await _refused_dial(scene, frames, "PRIV-003", zero_rtt=False)
        with scene.judging("AGENT-092"):
            for _ in range(2):
                await reached(scene, tunnel, key, dialler=dialler)
    stray = left_over(agent, "proxy_conn_req")
    for requirement in ("PRIV-003", "AGENT-092"):
        scene.expect(requirement, not stray, expected="nothing asked of the agent", actual=told_of(stray))


@agent_case(
    "agent-permit-02",
    checks=["AGENT-092"],
    features=["agent.token"],
    settings={"auth.tokens": PERMITTED},
    over={"token": ["dialler", "reader"]},
)
async def test_a_token_that_may_not_create_opens_no_tunnel(scene: Scene) -> None:
    """A token without the permission to create tunnels opens none: refused with the channel, or with the tunnel."""
    agent = await scene.scripted_agent(token={"dialler": DIALLER, "reader": READER}[scene.variant["token"]])
    name = hostname(scene, named(scene))
    opened = await agent.open()
    if opened.HasField("ok"):
        reply = await ask(agent, wire.to_properties(tls(hostname=name)))
        scene.expect("AGENT-092", reply.HasField("error"), expected="the tunnel refused", actual="it opened")
    free = await ask(await channel(scene), wire.to_properties(tls(hostname=name)))
    scene.expect(
        "AGENT-092",
        not free.HasField("error"),
        expected="the host name still free",
        actual=wire.describe_error(free.error),
    )


# client certificates


async def _shows(scene: Scene, identity: Leaf, token: str | None = None) -> ScriptedAgent:
    """An agent that shows a client certificate on every connection, and `token` with it."""
    folder = tempfile.TemporaryDirectory(prefix="edgecase-agent-")

    async def remove() -> None:
        folder.cleanup()

    scene.on_close(remove)
    files = identity.write(Path(folder.name))
    return await scene.scripted_agent(token=token, certificate=(str(files["chain"]), str(files["key"])))


async def _came_of(agent: ScriptedAgent) -> tuple[str, int]:
    """What came of opening a channel: `accepted`, or how it was refused, with the code of an error."""
    try:
        reply = await agent.open()
    except HandshakeFailed:
        return "handshake refused", 0
    except LinkReset:
        return "closed without a frame", 0
    except PeerMismatch as seen:
        if ended(seen):
            return "closed without a frame", 0
        raise
    if not reply.HasField("error"):
        return "accepted", 0
    await agent.expect_end()
    return REFUSED, int(reply.error.code)


@agent_case(
    "agent-cert-01",
    checks=["AGENT-093", "AGENT-094"],
    features=["agent.certificate", "agent.private"],
    settings=CERTIFICATES,
)
async def test_a_registered_certificate_is_a_credential(scene: Scene) -> None:
    """A registered client certificate, self-signed with P-384, opens a channel without a token; it is requested only.

    An agent with the certificate alone opens a private tunnel and dials it. One without a certificate and with a token
    does as well.
    """
    agent = await _shows(scene, agent_identity(KNOWN))
    with scene.judging("AGENT-093", "AGENT-094"):
        accepted(await agent.open(interval_ms=60_000))
        await reached(scene, await unpublished(scene, agent))
    scene.expect("AGENT-093", True, expected="a channel that works", actual="so it was")
    with scene.judging("AGENT-094"):
        plain = await channel(scene)
        await reached(scene, await unpublished(scene, plain))
    scene.expect("AGENT-094", True, expected="a channel with a token alone", actual="so it was")


@agent_case(
    "agent-cert-02",
    checks=["AGENT-095", "AGENT-082", "AGENT-083"],
    features=["agent.certificate", "agent.private"],
    settings=CERTIFICATES,
    over={"certificate": ["unknown", "same-name"]},
)
async def test_a_certificate_that_nobody_registered_opens_nothing(scene: Scene) -> None:
    """A certificate that nobody registered opens no channel and dials nothing, also with a registered one's name.

    An agent with a registered certificate has been there before.
    """
    identity = agent_identity("agent-stranger") if scene.variant["certificate"] == "unknown" else self_signed(KNOWN)
    accepted(await (await _shows(scene, agent_identity(KNOWN))).open())
    kept = await channel(scene)
    tunnel = await unpublished(scene, kept)
    stranger = await _shows(scene, identity)
    outcome, _ = await _came_of(stranger)
    scene.expect("AGENT-095", outcome != "accepted", expected="a refusal", actual=outcome)
    scene.allow("AGENT-095", outcome)
    with scene.judging("AGENT-095"):
        try:
            frames = await stranger.stream(wire.stream_req(tunnel.id, zero_rtt=False), glued=b"early")
        except HandshakeFailed:
            scene.record("AGENT-083", "refused in the handshake")
            scene.allow("AGENT-082", "closed without a frame")
        else:
            await _refused_dial(scene, frames, "AGENT-095", zero_rtt=False)
        await settle(scene, tunnel)
    stray = left_over(kept, "proxy_conn_req")
    scene.expect("AGENT-095", not stray, expected="nothing asked of another agent", actual=told_of(stray))


@agent_case(
    "agent-cert-03",
    checks=["AGENT-096", "AGENT-090", "AGENT-093"],
    features=["agent.certificate"],
    settings=CERTIFICATES,
)
async def test_a_token_and_a_certificate_together_are_refused(scene: Scene) -> None:
    """A right token and a registered certificate together are refused (1000); each one alone is accepted."""
    both = await _shows(scene, agent_identity(KNOWN), TOKEN)
    outcome, code = await _came_of(both)
    scene.allow("AGENT-096", outcome if outcome in (REFUSED, "accepted") else REFUSED)
    if outcome == REFUSED:
        scene.allow("AGENT-090", "1000" if code == 1000 else "another error code")
    else:
        scene.record("AGENT-090", f"no code: {outcome}")
    for agent in (await _shows(scene, agent_identity(KNOWN)), await scene.scripted_agent()):
        with scene.judging("AGENT-093"):
            accepted(await agent.open())
    scene.expect("AGENT-093", True, expected="each one alone accepted", actual="so they were")


@agent_case(
    "agent-cert-04",
    checks=["AGENT-093", "AGENT-097", "AGENT-058"],
    features=["agent.certificate", "agent.private"],
    settings=CERTIFICATES,
    over={"claim": ["with", "without"]},
)
async def test_the_secret_is_enough_for_a_stream(scene: Scene) -> None:
    """A stream is claimed by its secret, on a connection with the channel's client certificate or without any.

    An agent that opened its channel with a certificate claims a client's stream.
    """
    agent = await _shows(scene, agent_identity(KNOWN))
    with scene.judging("AGENT-093"):
        accepted(await agent.open(interval_ms=60_000))
        tunnel = await published(scene, agent)
    scene.expect("AGENT-093", True, expected="a channel and a tunnel", actual="so it was")
    caller = Caller(scene, tunnel.endpoint)
    request = await next_request(tunnel)
    claim = wire.proxy_req(request.stream_id, secret=request.secret.value, zero_rtt=True)
    access = agent.access if scene.variant["claim"] == "with" else dataclasses.replace(agent.access, certificate=None)
    try:
        frames = await agent.stream(claim, access=access)
        await caller.joined(stream_peer(scene, frames.hand_over(), "claimed"))
    except (LinkReset, PeerMismatch, DeadlineExpired) as seen:
        if isinstance(seen, PeerMismatch) and "nonce" in seen.expected:
            scene.depart("AGENT-058", expected=seen.expected, actual=seen.actual)
        scene.allow("AGENT-097", "refused")
        scene.record("AGENT-058", "the claim was refused")
    else:
        scene.allow("AGENT-097", "joined")
        scene.expect("AGENT-058", True, expected="both nonces", actual="so they were")
