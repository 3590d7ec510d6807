"""Heartbeats, and how a silent agent is found out (agent protocol section 4.3)."""

from __future__ import annotations

import asyncio
import itertools

from conformance.agent._steps import (
    Caller,
    agent_case,
    ask,
    channel,
    left_over,
    lives,
    named,
    published,
    settle,
    told_of,
    unpublished,
    watch,
)
from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import PeerMismatch
from harness.evidence.transcript import AGENT
from harness.link.stream import LinkReset
from harness.model.spec import private
from harness.peer.agent import ScriptedAgent, accepted
from harness.scene import Scene
from harness.wire import agent as wire

LONGEST_MS = 900_000
FLOOR_MS = 1000
SHORT_MS = 100
LIVE = "agent.liveness"


@agent_case(
    "agent-live-01",
    checks=["AGENT-032", "AGENT-033", "TRANS-009"],
    features=[LIVE],
    over={"interval": ["1000", "5000", "300000"]},
    single_family=False,
)
async def test_the_interval_is_repeated_and_the_timeout_in_bounds(scene: Scene) -> None:
    """Asked for liveness, the engine answers the same interval and a timeout from the interval to 900000 ms."""
    wanted = int(scene.variant["interval"])
    agent = await scene.scripted_agent()
    ok = accepted(await agent.open(interval_ms=wanted))
    got = ok.liveness
    scene.expect(
        "AGENT-032",
        ok.HasField("liveness") and got.heartbeat_interval_ms == wanted,
        expected=f"{wanted} ms",
        actual=f"{got.heartbeat_interval_ms} ms" if ok.HasField("liveness") else "no liveness",
    )
    scene.expect(
        "AGENT-033",
        wanted <= got.heartbeat_timeout_ms <= LONGEST_MS,
        expected=f"a timeout from {wanted} to {LONGEST_MS} ms",
        actual=f"{got.heartbeat_timeout_ms} ms",
    )
    beat = await agent.heartbeat()
    scene.expect("TRANS-009", beat.acknowledgement == 1, expected="heartbeats acknowledged", actual=_text(beat))


@agent_case("agent-live-02", checks=["AGENT-034"], features=[LIVE])
async def test_the_timeout_leaves_room_for_a_pause(scene: Scene) -> None:
    """At an interval of 1 s the announced timeout survives a pause of 4.2 s."""
    agent = await scene.scripted_agent()
    timeout = accepted(await agent.open(interval_ms=1000)).liveness.heartbeat_timeout_ms
    scene.expect("AGENT-034", timeout > 4200, expected="more than 4200 ms", actual=f"{timeout} ms")


@agent_case(
    "agent-live-03",
    checks=["AGENT-035", "AGENT-037", "AGENT-009"],
    features=[LIVE, "agent.private"],
    single_family=False,
)
async def test_each_heartbeat_is_acknowledged_once(scene: Scene) -> None:
    """A heartbeat is acknowledged by one with sequence 0 and its own sequence as acknowledgement, and no other comes.

    Sequences 1, 2 and 3 are sent, each after the answer to the one before, then other requests and a barrier: three
    heartbeats have come, none of them 0/0, and every message had a payload.
    """
    agent = await channel(scene)
    for number in (1, 2, 3):
        beat = await agent.heartbeat()
        scene.expect(
            "AGENT-035",
            (beat.sequence, beat.acknowledgement) == (0, number),
            expected=f"sequence 0, acknowledgement {number}",
            actual=_text(beat),
        )
    await settle(scene, await unpublished(scene, agent))
    more = left_over(agent, "heartbeat")
    scene.expect("AGENT-037", not more, expected="three heartbeats in all", actual=told_of(more))
    empty = [event for event in scene.transcript.events if event.leg == AGENT and event.what == "empty"]
    scene.expect("AGENT-009", not empty, expected="a payload in every message", actual=f"{len(empty)} without")


@agent_case("agent-live-04", checks=["AGENT-036", "AGENT-037"], features=[LIVE, "agent.private"])
async def test_acknowledgements_grow_and_reach_the_last_heartbeat(scene: Scene) -> None:
    """Fifty heartbeats in one write: acknowledgements grow strictly, none is above the last one, and 50 comes."""
    agent = await channel(scene)
    probe = await unpublished(scene, agent)
    await agent.send_raw(b"".join(wire.encode(wire.heartbeat(number)) for number in range(1, 51)))
    await settle(scene, probe)
    beats = [message.heartbeat for message in left_over(agent, "heartbeat")]
    seen = [beat.acknowledgement for beat in beats]
    grows = all(a < b for a, b in itertools.pairwise(seen))
    scene.expect("AGENT-036", grows and seen[-1:] == [50], expected="strictly growing, 50 at the end", actual=str(seen))
    scene.allow("AGENT-036", "each one acknowledged" if len(seen) == 50 else "some skipped")
    odd = [beat for beat in beats if beat.sequence or not beat.acknowledgement]
    scene.expect("AGENT-037", not odd, expected="acknowledgements only", actual=", ".join(map(_text, odd)))


@agent_case("agent-live-05", checks=["AGENT-043"], features=[LIVE, "agent.private"])
async def test_a_sequence_that_does_not_grow_brings_no_such_acknowledgement(scene: Scene) -> None:
    """Sequences 1, 1, 5, 3 and 0: no acknowledgement is repeated or falls."""
    agent = await channel(scene)
    probe = await unpublished(scene, agent)
    try:
        for number in (1, 1, 5, 3, 0):
            await agent.send_heartbeat(number)
        await settle(scene, probe)
    except (PeerMismatch, LinkReset):
        scene.allow("AGENT-043", "channel closed")
    seen = [message.heartbeat.acknowledgement for message in left_over(agent, "heartbeat")]
    grows = all(a < b for a, b in itertools.pairwise([0, *seen]))
    scene.expect("AGENT-043", grows, expected="growing acknowledgements", actual=str(seen))


@agent_case("agent-live-06", checks=["AGENT-038"], features=["agent.private"], single_family=False)
async def test_without_liveness_no_heartbeat_comes(scene: Scene) -> None:
    """Without a request for liveness the answer carries none, and the engine sends no heartbeat, not even back.

    Empty heartbeats and one with a sequence are sent, then other requests and a barrier.
    """
    agent = await scene.scripted_agent()
    ok = accepted(await agent.open())
    scene.expect("AGENT-038", not ok.HasField("liveness"), expected="no liveness in ok", actual=str(ok.liveness))
    probe = await unpublished(scene, agent)
    for _ in range(2):
        await agent.send_heartbeat(0)
    await settle(scene, probe)
    beats = left_over(agent, "heartbeat")
    scene.expect("AGENT-038", not beats, expected="no heartbeat", actual=told_of(beats))


@agent_case(
    "agent-live-07",
    checks=["AGENT-042"],
    features=[LIVE],
    over={"interval": ["0", "1", "999", "300001", "4294967295"]},
)
async def test_an_interval_out_of_bounds_is_not_replaced(scene: Scene) -> None:
    """An interval outside 1000 to 300000 ms is refused, passed over or repeated, never replaced by another one."""
    wanted = int(scene.variant["interval"])
    agent = await scene.scripted_agent()
    reply = await agent.open(interval_ms=wanted)
    got = reply.ok.liveness.heartbeat_interval_ms
    if reply.HasField("error"):
        scene.allow("AGENT-042", "an error answer")
    elif not reply.ok.HasField("liveness"):
        scene.allow("AGENT-042", "ok without liveness")
    elif scene.expect("AGENT-042", got == wanted, expected=f"{wanted} ms", actual=f"{got} ms"):
        scene.allow("AGENT-042", "the same interval")


async def _hasty(scene: Scene) -> tuple[ScriptedAgent, float]:
    """A channel with the shortest liveness that the engine grants, and its timeout in seconds."""
    for interval in (SHORT_MS, 1000):
        agent = await scene.scripted_agent()
        reply = await agent.open(interval_ms=interval)
        if reply.HasField("ok") and reply.ok.HasField("liveness"):
            return agent, reply.ok.liveness.heartbeat_timeout_ms / 1000
    raise PeerMismatch("a channel with liveness", "none at 1000 ms")


@agent_case(
    "agent-live-08",
    checks=["AGENT-039", "AGENT-041", "AGENT-040"],
    features=[LIVE, "agent.private"],
    settings={"timeout.liveness-floor-ms": FLOOR_MS},
)
async def test_a_silent_agent_is_dropped_after_the_timeout(scene: Scene) -> None:
    """A channel that stays silent for the announced timeout is dropped, and its tunnels with it; others are not.

    One agent with liveness falls silent, another one sends requests instead of heartbeats, a third one never asked for
    liveness and is silent too. The first is dropped after its timeout and before twice of it, and its tunnel is gone.
    The other two live.
    """
    quiet = await channel(scene, interval_ms=None)
    busy, _ = await _hasty(scene)
    for _ in range(2):
        silent, timeout = await _hasty(scene)
        start = asyncio.get_running_loop().time()
        tunnel = await published(scene, silent)
        dropped = await _dropped(scene, silent, start, timeout, busy)
        if dropped is None:
            scene.allow("AGENT-039", "still open")
            continue
        scene.expect(
            "AGENT-039",
            dropped > 0.8 * timeout,
            expected=f"the end after {timeout:g} s",
            actual=f"after {dropped:.3f} s",
            branch="dropped after the timeout",
        )
        got = await Caller(scene, tunnel.endpoint).turned_away()
        scene.expect("AGENT-039", not got, expected="no service of the dropped tunnel", actual=repr(got))
    await lives(scene, busy, "AGENT-040")
    scene.expect("AGENT-040", True, expected="a live channel", actual="it answers")
    try:
        reply = await ask(quiet, wire.to_properties(private(name=named(scene))))
        scene.expect("AGENT-041", not reply.HasField("error"), expected="a tunnel", actual=str(reply.error))
        scene.allow("AGENT-041", "channel lives")
    except (PeerMismatch, LinkReset):
        scene.allow("AGENT-041", "dropped")


async def _dropped(
    scene: Scene, silent: ScriptedAgent, start: float, timeout: float, busy: ScriptedAgent
) -> float | None:
    """How many seconds behind `start` (before its last frame) the engine ends the silent channel, None where it does
    not within twice the timeout; meanwhile the busy one asks for tunnels."""
    loop = asyncio.get_running_loop()
    ended = watch(scene, silent.link)
    until = loop.time() + 2 * timeout
    with scene.judging("AGENT-040"):
        while loop.time() < until:
            await ask(busy, wire.to_properties(private(name="a", tls_mode="sideways")))
            if ended.done():
                return loop.time() - start
    return None


def _text(beat: pb.Heartbeat) -> str:
    return f"sequence {beat.sequence}, acknowledgement {beat.acknowledgement}"
