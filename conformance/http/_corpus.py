"""Steps of the corpus cases: each entry goes in as it is, and what came of it at the upstream is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from conformance.http._pairs import DOWN, UP, pair_features, pair_tunnel, point
from conformance.http._steps import meanwhile
from harness.attack_run import Attacker, Run, answering, collect, strays
from harness.attacks import Attack, Words, load
from harness.ledger import Ledger
from harness.model.case import CaseFunction, case
from harness.scene import Scene

HANGING = 2
"""Entries that may hang until their deadline; then the rest of the corpus is left out, which one more red cannot
change."""
TOLD = 4
"""Departures that a message tells."""


def entries(family: str, down: str) -> tuple[Attack, ...]:
    """The entries of a file that go to this downstream version."""
    return tuple(entry for entry in load() if entry.family == family and down in entry.judged)


def rows(family: str, down: str) -> list[str]:
    """The requirements that these entries are judged by; those that bind last, since the first that fails ends it."""
    found = dict.fromkeys(name for entry in entries(family, down) for name in entry.judged[down])
    ledger = Ledger.load()
    return sorted(found, key=lambda name: ledger[name].binding)


def corpus(case_id: str, family: str, down: str) -> Callable[[CaseFunction], CaseFunction]:
    """Declares the case that runs a file of the corpora through a downstream version, over every upstream version."""
    return case(
        case_id,
        checks=rows(family, down),
        publish=pair_tunnel,
        over={"down": (down,), "up": tuple(UP)},
        features=pair_features,
    )


async def attacks(scene: Scene, family: str) -> None:
    """Say every entry of a file to the engine, one after the other, and judge what came of each at the end."""
    down = point(scene.variant, "down")
    upstream = scene.http_upstream(version=UP[point(scene.variant, "up")])
    attacker = Attacker(lambda: scene.http_client(version=DOWN[down]))
    runs: list[Run] = []
    for attack in entries(family, down):
        run = Run(attack, Words(scene.endpoint().host, scene.nonce().hex()))
        runs.append(run)
        scene.transcript.note("attack", f"{attack.id}: {attack.title}")
        async with meanwhile(answering(upstream, run.words.nonce)):
            await attacker.attack(run, upstream, lambda: bool(strays(upstream, runs)), scene.settle)
        collect(upstream, runs)
        if sum(run.hung for run in runs) >= HANGING:
            break
    await scene.settle()
    collect(upstream, runs)
    await _judge(scene, runs, down)


async def _judge(scene: Scene, runs: Sequence[Run], down: str) -> None:
    """By each requirement the entries that it judges: those that depart are named, each with what came of it."""
    faults = {run.attack.id: await run.fault() for run in runs}
    for requirement in scene.case.requirements:
        judged = [run.attack.id for run in runs if requirement in run.attack.judged[down]]
        bad = [f"{name}: {faults[name]}" for name in judged if faults[name]]
        if not judged:
            scene.not_run(requirement, "entries before these hung")
            continue
        told = " | ".join(bad[:TOLD]) + (f" | and {len(bad) - TOLD} more" if len(bad) > TOLD else "")
        expected = f"each of {len(judged)} attacks refused, or relayed as one request that means what it may"
        scene.expect(requirement, not bad, expected=expected, actual=told or "that")
