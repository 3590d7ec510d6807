"""Mutants of heartbeats and liveness."""

from __future__ import annotations

import dataclasses
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.rules import Liveness
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.refusal import Refusal

DEFAULT_MS = 5_000
SHORTEST_MS, LONGEST_MS = 1_000, 300_000


def _negotiates(parts: Parts, reached: Reached, change: Any) -> None:
    """`change(liveness)` is announced instead of what the rule gives."""

    def broken(original: Any, interval: int | None, floor: int) -> Liveness | Refusal | None:
        outcome: Liveness | Refusal | None = original(interval, floor)
        if not isinstance(outcome, Liveness):
            return outcome
        changed: Liveness = change(outcome)
        if changed != outcome:
            reached()
        return changed

    swap(parts.agent, "liveness", broken)


@mutant("agent-interval-of-its-own", ("AGENT-032",), "announces its own heartbeat interval for a longer one")
def _(parts: Parts, reached: Reached) -> None:
    _negotiates(
        parts, reached, lambda liveness: dataclasses.replace(liveness, interval=min(liveness.interval, DEFAULT_MS))
    )


@mutant("agent-timeout-fixed", ("AGENT-033",), "announces the same timeout for every interval")
def _(parts: Parts, reached: Reached) -> None:
    _negotiates(parts, reached, lambda liveness: dataclasses.replace(liveness, timeout=3 * DEFAULT_MS))


@mutant("agent-timeout-unbounded", ("AGENT-033",), "announces a timeout of four intervals, however long that is")
def _(parts: Parts, reached: Reached) -> None:
    _negotiates(
        parts,
        reached,
        lambda liveness: dataclasses.replace(liveness, timeout=max(liveness.timeout, 4 * liveness.interval)),
    )


@mutant("agent-timeout-tight", ("AGENT-034",), "announces a timeout of three intervals, however short that is")
def _(parts: Parts, reached: Reached) -> None:
    _negotiates(parts, reached, lambda liveness: dataclasses.replace(liveness, timeout=3 * liveness.interval))


@mutant("agent-interval-bounded", ("AGENT-042",), "moves an interval into its bounds instead of refusing it")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, interval: int | None, floor: int) -> Liveness | Refusal | None:
        bounded = min(max(interval, SHORTEST_MS), LONGEST_MS) if interval else interval
        if bounded != interval:
            reached()
        return original(bounded, floor)  # type: ignore[no-any-return]

    swap(parts.agent, "liveness", broken)


def _beats(parts: Parts, reached: Reached, change: Any) -> None:
    """Heartbeats go out as `change(heartbeat)` leaves them."""

    def broken(original: Any, message: pb.Message) -> bytes:
        if message.WhichOneof("payload") == "heartbeat":
            reached()
            change(message.heartbeat)
        return original(message)  # type: ignore[no-any-return]

    swap(parts.agent, "encode", broken)


@mutant("agent-echoes-sequence", ("AGENT-035", "AGENT-037"), "sends a heartbeat back with its sequence")
def _(parts: Parts, reached: Reached) -> None:
    def change(beat: pb.Heartbeat) -> None:
        beat.sequence = beat.acknowledgement

    _beats(parts, reached, change)


@mutant("agent-acknowledges-the-next", ("AGENT-035", "AGENT-036"), "acknowledges the heartbeat that it awaits next")
def _(parts: Parts, reached: Reached) -> None:
    def change(beat: pb.Heartbeat) -> None:
        beat.acknowledgement += 1

    _beats(parts, reached, change)


@mutant("agent-acknowledges-again", ("AGENT-043",), "acknowledges every heartbeat, also one that it had before")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sequence: int, last: int, *, negotiated: bool) -> int | None:
        number: int | None = original(sequence, last, negotiated=negotiated)
        if number is not None or not negotiated:
            return number
        reached()
        return sequence

    swap(parts.agent, "acknowledge", broken)


@mutant("agent-acknowledges-always", ("AGENT-038",), "sends heartbeats back on a channel without liveness")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sequence: int, last: int, *, negotiated: bool) -> int | None:
        if negotiated:
            return original(sequence, last, negotiated=True)  # type: ignore[no-any-return]
        reached()
        return sequence

    swap(parts.agent, "acknowledge", broken)


@mutant("agent-acknowledges-none", ("TRANS-009", "AGENT-035"), "agrees on liveness and answers no heartbeat")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sequence: int, last: int, *, negotiated: bool) -> int | None:
        if original(sequence, last, negotiated=negotiated) is not None:
            reached()
        return None

    swap(parts.agent, "acknowledge", broken)


@mutant("agent-beats-itself", ("AGENT-037", "AGENT-038"), "sends heartbeats of its own beside its answers")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        data: bytes = original(message)
        if message.WhichOneof("payload") != "open_tunnel_rsp":
            return data
        reached()
        own: bytes = original(pb.Message(heartbeat=pb.Heartbeat()))
        return data + own

    swap(parts.agent, "encode", broken)


@mutant("agent-expires-early", ("AGENT-039",), "drops a silent agent after half of the announced timeout")
def _(parts: Parts, reached: Reached) -> None:
    def broken(_: Any, last_frame: float, liveness: Liveness) -> float:
        reached()
        return last_frame + liveness.timeout / 2000

    swap(parts.agent, "deadline", broken)


@mutant("agent-only-heartbeats-count", ("AGENT-040",), "takes heartbeats alone for a sign of life")
def _(parts: Parts, reached: Reached) -> None:
    def broken(_: Any, message: pb.Message) -> bool:
        if message.WhichOneof("payload") == "heartbeat":
            return True
        reached()
        return False

    swap(parts.agent, "is_sign_of_life", broken)
