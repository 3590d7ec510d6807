"""Mutation of the reference engine: which cases notice that exactly one rule is broken.

A mutant is *killed* when a case that shares a requirement with it gets `fail` or `warn` for that requirement, worse
than on the whole
engine, while the sanity case of its family still passes and the broken rule was reached. Claims follow from equal
requirement ids.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from harness.collect import collect
from harness.engine.factory import make_driver
from harness.errors import UsageError
from harness.ledger import Ledger
from harness.model.case import Case
from harness.model.profile import Profile
from harness.model.record import CaseResult
from harness.model.verdict import Outcome, Verdict
from harness.pool import EnginePool, Planned
from harness.profiles import load
from harness.runner import Runner
from harness.worker import LoopThread

PROFILE = "reference"
DEADLINE_SECONDS = 3.0
_BAD = (Outcome.FAIL, Outcome.WARN)
_ORDER = (Outcome.PASS, Outcome.INFO, Outcome.WARN, Outcome.FAIL)
OutcomesByCase = dict[str, dict[str, Outcome]]


@dataclass(frozen=True, slots=True)
class MutantInfo:
    """One mutant or double: what it breaks, and the requirements that should notice."""

    id: str
    family: str
    requirements: tuple[str, ...]
    breaks: str


@dataclass(frozen=True, slots=True)
class MutantResult:
    """What became of one mutant. `claimed_by` and `killed_by` are case keys; `why` says why it survived."""

    mutant: MutantInfo
    claimed_by: tuple[str, ...]
    killed_by: tuple[str, ...]
    reached: bool
    why: str = ""

    @property
    def survived(self) -> bool:
        """Whether nothing noticed."""
        return not self.killed_by


def list_mutants() -> list[MutantInfo]:
    """Every mutant of the reference engine. Raises `UsageError` where they are not installed (the wheel leaves them
    out)."""
    command = [sys.executable, "-m", "reference_engine.mutants", "list", "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        raise UsageError("the mutants of the reference engine are not installed: run this in a checkout of the project")
    return [
        MutantInfo(item["id"], item["family"], tuple(item["requirements"]), item["breaks"])
        for item in json.loads(told.stdout)
    ]


def broken_profile(mutant: MutantInfo, reached: Path) -> Profile:
    """The profile of the reference engine, started with one rule broken; `reached` appears when the broken rule is
    used."""
    profile = load(PROFILE)
    command = list(profile.driver["command"])
    at = command.index("reference_engine")
    chosen = [mutant.id, "--family", mutant.family]
    command[at : at + 1] = ["reference_engine.mutants", "run", *chosen, "--reached", str(reached), "--"]
    return replace(profile, driver={**profile.driver, "command": command})


def play(profile: Profile, cases: Sequence[Case], sanity: Mapping[str, Case]) -> Generator[CaseResult]:
    """Run every variant of `cases` on `profile` in this process, one after the other."""
    loop = LoopThread()
    pool = EnginePool(profile, make_driver)
    runner = Runner(profile, Ledger.load(), pool, sanity, deadline_seconds=DEADLINE_SECONDS)
    try:
        for planned in _plan(profile, cases):
            yield loop.call(runner.run(planned))
    finally:
        loop.call(pool.close())
        loop.stop()


def _likely(mutant: MutantInfo) -> Callable[[Case], tuple[bool, float]]:
    """A key that sorts the cases first that are most likely to notice: those whose main concern is what the mutant
    breaks, then those that are about little else."""

    def key(case: Case) -> tuple[bool, float]:
        shared = sum(requirement in mutant.requirements for requirement in case.requirements)
        return case.requirements[0] not in mutant.requirements, -shared / len(case.requirements)

    return key


def _plan(profile: Profile, cases: Sequence[Case]) -> list[Planned]:
    """Every variant of `cases` in their order, those of one settings together: each settings starts once."""
    plan = [
        Planned(case, variant, case.settings.with_defaults(profile.settings))
        for case in cases
        for variant in case.variants
    ]
    first = {item.settings: at for at, item in reversed(list(enumerate(plan)))}
    return sorted(plan, key=lambda item: first[item.settings])


def sanity_of(cases: Sequence[Case]) -> dict[str, Case]:
    """The sanity case of each family."""
    return {case.family: case for case in cases if case.sanity}


@functools.cache
def _cases() -> tuple[Case, ...]:
    """Every case; collected once, and inherited by the processes that are forked afterwards."""
    return tuple(collect())


def _control(ids: tuple[str, ...]) -> OutcomesByCase:
    """What the whole engine gets, by case key and requirement."""
    cases = _cases()
    chosen = [case for case in cases if case.id in ids]
    return {result.key: _by_requirement(result) for result in play(load(PROFILE), chosen, sanity_of(cases))}


def _try(mutant: MutantInfo, ids: tuple[str, ...], control: OutcomesByCase, *, quick: bool) -> MutantResult:
    """Run one mutant against the cases that claim it (in a process of its own); `quick` stops at the first kill."""
    cases = _cases()
    chosen = sorted((case for case in cases if case.id in ids), key=_likely(mutant))
    claimed = [planned.key for planned in _plan(load(PROFILE), chosen)]
    killed: list[str] = []
    trouble: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edgecase-mutant-") as folder:
        reached = Path(folder) / "reached"
        with contextlib.closing(play(broken_profile(mutant, reached), chosen, sanity_of(cases))) as results:
            for result in results:
                if result.verdict in (Verdict.SETUP, Verdict.CRASH, Verdict.HARNESS):
                    trouble.append(f"{result.key} got {result.verdict}: {result.cause}")
                elif _noticed(mutant, result, control.get(result.key, {})):
                    killed.append(result.key)
                    if quick and reached.exists():
                        break
        was_reached = reached.exists()
    why = ""
    if not killed:
        why = trouble[0] if trouble else "no case noticed" if was_reached else "the broken rule was never reached"
    if killed and not was_reached:
        killed, why = [], "cases failed although the broken rule was never reached"
    return MutantResult(mutant, tuple(claimed), tuple(killed), was_reached, why)


def _noticed(mutant: MutantInfo, result: CaseResult, before: Mapping[str, Outcome]) -> bool:
    """Whether the case gave a worse, bad outcome to a requirement that the mutant breaks."""
    for outcome in result.outcomes:
        if outcome.requirement in mutant.requirements and outcome.outcome in _BAD:
            known = before.get(outcome.requirement, Outcome.PASS)
            if _ORDER.index(outcome.outcome) > _ORDER.index(known):
                return True
    return False


def outcomes_of(path: Path) -> OutcomesByCase:
    """What the whole engine got in the run whose record (`run.json`) is `path`. Raises `UsageError` where that is no
    run of it, or one under faults.

    Only the outcomes are looked at: transcripts are nearly all of a record, and checking them takes a minute.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        profile, notes, stopped = data["engine"]["profile"], data["notes"], data["stopped"]
        outcomes = {
            f"{case['id']}[{case['variant']}]" if case["variant"] else str(case["id"]): {
                str(one["requirement"]): Outcome(one["outcome"]) for one in case["outcomes"]
            }
            for case in data["cases"]
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"--control: {path}: found {type(error).__name__}: {error}, allowed is the run.json of `edgecase run`"
        ) from error
    if profile != PROFILE:
        raise UsageError(f"--control {path}: found a run of {profile!r}, allowed is one of {PROFILE!r}")
    if notes or stopped:
        raise UsageError(
            f"--control {path}: found a run with a note ({stopped or notes[0]}), allowed is an ordinary one"
        )
    return outcomes


def _by_requirement(result: CaseResult) -> dict[str, Outcome]:
    return {outcome.requirement: outcome.outcome for outcome in result.outcomes}


def matrix(
    mutants: Sequence[MutantInfo],
    workers: int,
    progress: Callable[[MutantResult, int, int], None],
    *,
    quick: bool = False,
    known: OutcomesByCase | None = None,
) -> tuple[list[MutantResult], list[str]]:
    """Run `mutants` in `workers` processes, at least one.

    Gives the results in their order, and the ids of the cases that kill none of them. With `quick` each mutant ends at
    its first kill: enough to see that all are killed, not to see which cases are proven. `known` is what the whole
    engine got in cases that need not run on it again.
    """
    cases = [case for case in _cases() if _runs(case)]
    claims = {
        mutant.id: tuple(c.id for c in cases if set(c.requirements) & set(mutant.requirements)) for mutant in mutants
    }
    control = dict(known or {})
    had = {key.partition("[")[0] for key in control}
    claimed = sorted(set(itertools.chain.from_iterable(claims.values())) - had)
    shares = [tuple(claimed[start::workers]) for start in range(workers)]
    results: dict[str, MutantResult] = {}
    with ProcessPoolExecutor(max_workers=workers) as executor:
        for share in executor.map(_control, shares if claimed else ()):
            control.update(share)
        running = [executor.submit(_try, mutant, claims[mutant.id], control, quick=quick) for mutant in mutants]
        for count, future in enumerate(as_completed(running), start=1):
            result = future.result()
            results[result.mutant.id] = result
            progress(result, count, len(running))
    killers = {key.partition("[")[0] for result in results.values() for key in result.killed_by}
    return [results[mutant.id] for mutant in mutants], [case.id for case in cases if case.id not in killers]


def _runs(case: Case) -> bool:
    """Whether the reference engine is asked to run the case at all."""
    claimed = load(PROFILE).features
    if case.refusal is not None:
        return case.refusal_due(claimed)
    return any(case.features(variant) <= claimed for variant in case.variants)
