"""How mutants are written, run and judged: nothing is killed by accident, and nothing survives unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import mutation
from harness.collect import collect
from harness.errors import UsageError
from harness.ledger import Ledger
from harness.model.record import CaseResult, EngineInfo, OutcomeRecord, RunRecord, write_record
from harness.model.verdict import Outcome, Verdict
from harness.mutation import MutantInfo, MutantResult, _noticed, list_mutants, outcomes_of
from reference_engine.mutants.__main__ import load
from reference_engine.mutants.registry import MUTANTS, Reached, mutant, swap
from reference_engine.parts import Parts

ROOT = Path(__file__).resolve().parent.parent
BROKEN = MutantInfo("alpn-broken", "alpn", ("ALPN-008", "ALPN-001"), "breaks ALPN")


APPLY_ALL = """
from reference_engine.mutants.__main__ import families, load
from reference_engine.mutants.registry import MUTANTS, Reached
from reference_engine.parts import Parts

load(families())
for broken in MUTANTS.values():
    broken.apply(Parts(), Reached(None))
"""


def result(**outcomes: Outcome) -> CaseResult:
    """A result with these outcomes; `ALPN_008` is the requirement ALPN-008."""
    return CaseResult(
        id="a-case",
        variant="",
        area="alpn",
        title="",
        verdict=Verdict.FAIL,
        outcomes=tuple(
            OutcomeRecord(requirement=name.replace("_", "-"), ledger="claim", outcome=outcome, message="")
            for name, outcome in outcomes.items()
        ),
        duration_s=0.0,
    )


class TestNoticed:
    @pytest.mark.parametrize("bad", [Outcome.FAIL, Outcome.WARN])
    def test_a_shared_requirement_that_got_worse(self, bad: Outcome) -> None:
        assert _noticed(BROKEN, result(ALPN_008=bad), {"ALPN-008": Outcome.PASS})

    def test_another_requirement_says_nothing(self) -> None:
        assert not _noticed(BROKEN, result(ALPN_004=Outcome.FAIL), {})

    def test_what_the_whole_engine_gets_too_says_nothing(self) -> None:
        assert not _noticed(BROKEN, result(ALPN_008=Outcome.WARN), {"ALPN-008": Outcome.WARN})
        assert _noticed(BROKEN, result(ALPN_008=Outcome.FAIL), {"ALPN-008": Outcome.WARN})

    def test_another_recorded_choice_is_no_kill(self) -> None:
        assert not _noticed(BROKEN, result(ALPN_008=Outcome.INFO), {"ALPN-008": Outcome.PASS})


class TestTry:
    """What becomes of a mutant, with the engine and its cases played by the test."""

    def tried(self, monkeypatch: pytest.MonkeyPatch, got: CaseResult, *, used: bool) -> MutantResult:
        def broken_profile(_: MutantInfo, reached: Path) -> None:
            if used:
                reached.touch()

        monkeypatch.setattr(mutation, "broken_profile", broken_profile)
        monkeypatch.setattr(mutation, "play", lambda *_: (result for result in [got]))
        return mutation._try(BROKEN, ("a-case",), {"a-case": {"ALPN-008": Outcome.PASS}}, quick=False)

    def test_a_kill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.tried(monkeypatch, result(ALPN_008=Outcome.FAIL), used=True)
        assert (told.killed_by, told.survived) == (("a-case",), False)

    def test_a_failure_without_the_broken_rule_is_no_kill(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.tried(monkeypatch, result(ALPN_008=Outcome.FAIL), used=False)
        assert told.survived
        assert "never reached" in told.why

    def test_nobody_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.tried(monkeypatch, result(ALPN_008=Outcome.PASS), used=True)
        assert (told.survived, told.why) == (True, "no case noticed")

    @pytest.mark.parametrize("verdict", [Verdict.SETUP, Verdict.CRASH, Verdict.HARNESS])
    def test_a_mutant_that_breaks_the_ground_is_not_killed(
        self, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
    ) -> None:
        got = replace(result(ALPN_008=Outcome.FAIL), verdict=verdict, cause="sanity: no")
        told = self.tried(monkeypatch, got, used=True)
        assert told.survived
        assert "sanity: no" in told.why


class TestRegistry:
    def test_a_mutant_replaces_one_rule_of_one_engine(self) -> None:
        whole, broken = Parts(), Parts()
        swap(broken.tls, "keeps_half_open", lambda original, version: not original(version))
        assert whole.tls.keeps_half_open("TLSv1.3")
        assert not broken.tls.keeps_half_open("TLSv1.3")

    def test_a_rule_that_has_gone_is_told(self) -> None:
        with pytest.raises(AttributeError):
            swap(Parts().tls, "no_such_rule", lambda original: None)

    def test_a_rule_keeps_its_kind(self) -> None:
        async def broken(original: object) -> None:
            """Not what the rule is."""

        with pytest.raises(TypeError, match="coroutine"):
            swap(Parts().tls, "keeps_half_open", broken)

    def test_a_name_is_given_once(self) -> None:
        load(["policy"])
        taken = next(iter(MUTANTS))
        with pytest.raises(ValueError, match=taken):
            mutant(taken, ("TLS-001",), "again")(lambda parts, reached: None)

    def test_reached_leaves_one_trace(self, tmp_path: Path) -> None:
        file = tmp_path / "reached"
        reached = Reached(file)
        assert not file.exists()
        reached()
        reached()
        assert (file.exists(), reached.count) == (True, 2)


class TestMutants:
    def test_there_are_mutants_of_every_family_that_the_suite_covers(self) -> None:
        mutants = list_mutants()
        areas = {case.area for case in collect()}
        claimed = {
            case.area for case in collect() for broken in mutants if set(case.requirements) & set(broken.requirements)
        }
        assert len(mutants) >= 30
        assert claimed == areas

    def test_every_mutant_is_claimed_by_a_case_and_says_what_it_breaks(self) -> None:
        rows = Ledger.load().rows
        checked = {requirement for case in collect() for requirement in case.requirements}
        for broken in list_mutants():
            assert set(broken.requirements) <= set(rows), broken.id
            assert set(broken.requirements) & checked, broken.id
            assert broken.breaks, broken.id
            assert broken.id == broken.id.lower(), broken.id

    def test_every_mutant_applies_to_a_fresh_engine(self) -> None:
        # In a process of its own: a double may change a class of the library under it.
        subprocess.run([sys.executable, "-W", "error", "-c", APPLY_ALL], cwd=ROOT, check=True)


def mutants(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", "mutants", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


class TestControl:
    """What the whole engine got may come from a run that there was anyway."""

    @staticmethod
    def record(path: Path, *, profile: str = "reference", notes: tuple[str, ...] = ()) -> Path:
        engine = EngineInfo(profile=profile, name="", version="", edition="", driver="")
        cases = (result(ALPN_008=Outcome.PASS),)
        record = RunRecord(engine, cases, "0", "0", "2026-01-01T00:00:00Z", 1.0, 1, notes=notes)
        write_record(record, path / "run.json")
        return path / "run.json"

    def test_the_outcomes_of_a_run(self, tmp_path: Path) -> None:
        assert outcomes_of(self.record(tmp_path)) == {"a-case": {"ALPN-008": Outcome.PASS}}

    def test_what_is_no_ordinary_run_of_it_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"--control .*run.json: found a run of 'haproxy', allowed is one of"):
            outcomes_of(self.record(tmp_path, profile="haproxy"))
        with pytest.raises(UsageError, match=r"found a run with a note \(lossy\), allowed is an ordinary one"):
            outcomes_of(self.record(tmp_path, notes=("lossy",)))
        with pytest.raises(UsageError, match=r"--control: .*none.json"):
            outcomes_of(tmp_path / "none.json")

    def test_known_cases_are_not_run_on_the_whole_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[str] = []
        monkeypatch.setattr(mutation, "ProcessPoolExecutor", Inline)

        def control(ids: tuple[str, ...]) -> dict[str, dict[str, Outcome]]:
            ran.extend(ids)
            return {}

        monkeypatch.setattr(mutation, "_control", control)
        monkeypatch.setattr(mutation, "_try", lambda mutant, *_, **__: MutantResult(mutant, (), (), reached=False))
        (claimed, *_) = [case for case in collect() if "ALPN-008" in case.requirements]
        mutation.matrix([BROKEN], 1, lambda *_: None, known={claimed.id: {}})
        assert ran
        assert claimed.id not in ran


class Inline(Executor):
    """Runs at once, here."""

    def __init__(self, max_workers: int) -> None:
        del max_workers

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*arguments, **named))
        return future


def test_the_matrix_of_one_mutant_keeps_its_shape() -> None:
    chosen = list_mutants()[0].id
    told = mutants("--only", chosen, "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    data = json.loads(told.stdout)
    assert set(data) == {"mutants", "total", "killed", "unproven_cases"}
    (row,) = data["mutants"]
    assert set(row) == {"id", "family", "requirements", "claimed_by", "killed_by", "survived"}
    assert (row["id"], row["survived"], data["total"], data["killed"]) == (chosen, False, 1, 1)
    assert set(row["killed_by"]) <= set(row["claimed_by"])
