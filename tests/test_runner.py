"""The runner: whose fault an end is, and that nothing turns a fail into something else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from harness.engine.driver import Inexpressible, Refused
from harness.errors import DeadlineExpired, NotSupported, PeerMismatch, SetupFailed
from harness.ledger import Ledger
from harness.link.stream import LinkReset
from harness.model.case import MARK, Case, case
from harness.model.record import CaseResult
from harness.model.spec import Settings, tls
from harness.model.verdict import Outcome, Verdict
from harness.pool import EnginePool, Planned
from harness.runner import Limits, Runner
from tests.fake_engine import FakeDriver, profile

MUST = "TLS-001"
SHOULD = "TLS-006"
MAY = "TLS-009"
BRANCHED = "TLS-017"
RFC_MUST = "RFC8446-4.4.4-1"


def declare(script: Callable[[Any], Any], *checks: str, **facts: Any) -> Case:
    async def function(scene: Any) -> None:
        """A script of the test."""
        await script(scene)

    return getattr(case("c-1", checks=checks or (MUST,), family="tls", **facts)(function), MARK)  # type: ignore[no-any-return]


def run(chosen: Case, driver: FakeDriver | None = None, *, sanity: Case | None = None, **claims: Any) -> CaseResult:
    fake = driver or FakeDriver()
    pool = EnginePool(profile(**claims), lambda _: fake)
    runner = Runner(profile(**claims), Ledger.load(), pool, {"tls": sanity} if sanity else {}, deadline_seconds=1)
    return asyncio.run(runner.run(Planned(chosen, chosen.variants[0], chosen.settings)))


async def passes(scene: Any) -> None:
    scene.expect(MUST, True, expected="it", actual="it")


def test_a_met_requirement_is_a_pass() -> None:
    result = run(declare(passes))
    assert (result.verdict, result.outcomes[0].outcome, result.outcomes[0].ledger) == (
        Verdict.PASS,
        Outcome.PASS,
        "claim",
    )


@pytest.mark.parametrize(
    ("row", "outcome"), [(MUST, Outcome.FAIL), (SHOULD, Outcome.WARN), (MAY, Outcome.INFO), (RFC_MUST, Outcome.FAIL)]
)
def test_a_departure_weighs_what_the_row_says(row: str, outcome: Outcome) -> None:
    async def script(scene: Any) -> None:
        scene.expect(row, False, expected="octets", actual="silence")

    result = run(declare(script, row))
    assert result.verdict == Verdict(outcome.value)
    assert result.outcomes[0].outcome is outcome
    assert row in result.outcomes[0].message
    assert "octets" in result.outcomes[0].message
    assert "silence" in result.outcomes[0].message


def test_a_failed_must_ends_the_script_and_a_should_does_not() -> None:
    after: list[str] = []

    async def script(scene: Any) -> None:
        scene.expect(SHOULD, False, expected="a", actual="b")
        after.append("should")
        scene.expect(MUST, False, expected="a", actual="b")
        after.append("must")

    assert run(declare(script, MUST, SHOULD)).verdict is Verdict.FAIL
    assert after == ["should"]


def test_a_branch_must_be_one_of_the_row() -> None:
    async def script(scene: Any) -> None:
        scene.allow(BRANCHED, "a branch that nobody wrote")

    result = run(declare(script, BRANCHED))
    assert result.verdict is Verdict.HARNESS
    assert BRANCHED in result.cause


def test_a_recorded_branch_is_an_info() -> None:
    async def script(scene: Any) -> None:
        scene.allow(BRANCHED, "another fatal alert")

    result = run(declare(script, BRANCHED))
    assert result.verdict is Verdict.INFO
    assert result.outcomes[0].branch is not None


def test_a_case_that_judges_less_than_it_declares_is_our_fault() -> None:
    result = run(declare(passes, MUST, SHOULD))
    assert result.verdict is Verdict.HARNESS
    assert SHOULD in result.cause


def test_a_case_that_judges_what_it_does_not_declare_is_our_fault() -> None:
    async def script(scene: Any) -> None:
        scene.expect(SHOULD, True, expected="a", actual="a")

    assert run(declare(script, MUST)).verdict is Verdict.HARNESS


@pytest.mark.parametrize(
    "seen",
    [PeerMismatch("a", "b"), DeadlineExpired("octets at the upstream", 1), LinkReset("connection reset")],
    ids=["mismatch", "deadline", "reset"],
)
def test_an_unattributed_departure_is_judged_under_the_first_requirement(seen: Exception) -> None:
    async def script(scene: Any) -> None:
        raise seen

    result = run(declare(script, MUST, SHOULD))
    assert result.verdict is Verdict.FAIL
    assert [outcome.requirement for outcome in result.outcomes] == [MUST]


def test_judging_attributes_and_goes_on_after_a_should() -> None:
    async def script(scene: Any) -> None:
        with scene.judging(SHOULD):
            await _mismatch()
        scene.expect(MUST, True, expected="a", actual="a")

    result = run(declare(script, MUST, SHOULD))
    assert result.verdict is Verdict.WARN
    assert {o.requirement: o.outcome for o in result.outcomes} == {MUST: Outcome.PASS, SHOULD: Outcome.WARN}


def test_judging_may_end_the_script_after_a_should_too() -> None:
    async def script(scene: Any) -> None:
        with scene.judging(SHOULD, ends=True):
            await _mismatch()
            given = 1
        scene.expect(MUST, given == 1, expected="a", actual="a")

    result = run(declare(script, MUST, SHOULD))
    assert result.verdict is Verdict.WARN
    assert {o.requirement: o.outcome for o in result.outcomes} == {SHOULD: Outcome.WARN}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (SetupFailed("adapter: silent"), Verdict.SETUP),
        (NotSupported("tls.alpn"), Verdict.UNSUPPORTED),
        (ValueError("a slip of ours"), Verdict.HARNESS),
        (AssertionError("a slip of ours"), Verdict.HARNESS),
    ],
)
def test_what_is_not_the_engines_is_never_a_fail(error: Exception, verdict: Verdict) -> None:
    async def script(scene: Any) -> None:
        raise error

    result = run(declare(script))
    assert result.verdict is verdict
    assert not [o for o in result.outcomes if o.outcome is Outcome.FAIL]


def test_a_dead_engine_is_a_crash_whatever_the_script_saw() -> None:
    fake = FakeDriver()

    async def script(scene: Any) -> None:
        fake.dead = "was killed by signal 9"
        raise PeerMismatch("octets", "a reset")

    result = run(declare(script), fake)
    assert result.verdict is Verdict.CRASH
    assert "signal 9" in result.cause
    assert fake.stopped == 1, "a dead engine is dropped, the next case starts a fresh one"
    assert result.engine_log == ("a line of the engine",)


def test_publishing_problems_are_setup_or_unsupported() -> None:
    refusing = FakeDriver()
    refusing.answer = lambda _: Refused(5000, "not in this edition", "protocol")
    assert run(declare(passes, publish=tls()), refusing).verdict is Verdict.SETUP
    mute = FakeDriver()
    mute.answer = lambda _: Inexpressible("tls.alpn")
    assert run(declare(passes, publish=tls()), mute).verdict is Verdict.UNSUPPORTED
    broken = FakeDriver()
    broken.publish_error = "adapter: no answer to publish within 5 s"
    assert run(declare(passes, publish=tls()), broken).cause.startswith("adapter:")


def test_what_the_profile_does_not_claim_is_unsupported_and_a_refusal_runs_only_there() -> None:
    needs = declare(passes, features=("tls.alpn",))
    assert run(needs).verdict is Verdict.UNSUPPORTED
    assert run(needs, features=frozenset({"tls.alpn"})).verdict is Verdict.PASS
    refusal = declare(passes, refusal="tls.alpn")
    assert run(refusal).verdict is Verdict.PASS
    assert run(refusal, features=frozenset({"tls.alpn"})).verdict is Verdict.UNSUPPORTED


def test_a_case_that_publishes_by_itself_is_unsupported_behind_an_adapter() -> None:
    dynamic = declare(passes, needs=("dynamic",))
    assert run(dynamic, kind="adapter").verdict is Verdict.UNSUPPORTED
    assert run(dynamic).verdict is Verdict.PASS


def test_settings_that_cannot_be_had_are_unsupported_and_a_failed_start_is_setup() -> None:
    assert run(declare(passes, settings={"edition": "unheard-of"})).verdict is Verdict.UNSUPPORTED
    fake = FakeDriver()
    fake.start_error = SetupFailed("engine: did not answer")
    assert run(declare(passes), fake).verdict is Verdict.SETUP


def test_a_failed_sanity_case_is_setup_for_its_family() -> None:
    async def insane(scene: Any) -> None:
        scene.expect(MUST, False, expected="an echo", actual="silence")

    result = run(declare(passes), sanity=declare(insane, sanity=True))
    assert result.verdict is Verdict.SETUP
    assert "sanity" in result.cause
    assert not result.outcomes


def test_a_private_engine_is_stopped_after_its_case() -> None:
    fake = FakeDriver()
    run(declare(passes, needs=("private-engine",)), fake)
    assert (len(fake.started_with), fake.stopped) == (1, 1)


def test_planned_publishing_gets_every_spec_of_the_settings_in_one_call() -> None:
    fake = FakeDriver(dynamic=False)
    first = declare(passes, publish=tls(), over={"size": ("1", "2")})
    other = declare(passes, publish=tls(), settings={"edition": "pro"})
    plan = [Planned(c, v, c.settings) for c in (first, other) for v in c.variants]
    pool = EnginePool(profile(), lambda _: fake, plan)
    asyncio.run(pool.engine(Settings()))
    assert [sorted(specs) for specs in fake.planned] == [["c-1[1]/main", "c-1[2]/main"]]


def test_a_run_stops_after_five_crashes_or_twenty_expired_deadlines_in_a_row() -> None:
    crash = run(declare(passes))
    limits = Limits()
    told = [limits.note(_with(crash, Verdict.CRASH)) for _ in range(5)]
    assert told[:4] == ["", "", "", ""]
    assert "5 crashes" in told[4]

    async def late(scene: Any) -> None:
        raise DeadlineExpired("octets", 1)

    expired = run(declare(late))
    limits = Limits()
    told = [limits.note(expired) for _ in range(19)]
    assert not any(told)
    limits.note(crash)
    assert not limits.note(expired), "a case that answered in time starts the count anew"
    told = [limits.note(expired) for _ in range(19)]
    assert "20 expired" in told[-1]


async def _mismatch() -> None:
    raise PeerMismatch("a banner", "silence")


def _with(result: CaseResult, verdict: Verdict) -> CaseResult:
    import dataclasses

    return dataclasses.replace(result, verdict=verdict)
