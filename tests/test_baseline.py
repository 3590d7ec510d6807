"""The baseline: what was known stays visible, what is wrong with it is an error."""

from __future__ import annotations

from dataclasses import replace

from harness import baseline
from harness.model.profile import BaselineEntry
from harness.model.record import CaseResult, OutcomeRecord
from harness.model.verdict import Outcome, Verdict


def result(key: str, verdict: Verdict, *failed: str) -> CaseResult:
    outcomes = tuple(OutcomeRecord(name, "claim", Outcome.FAIL) for name in failed)
    return CaseResult(key, "", "tls", "t", verdict, outcomes, 0.0, expected=verdict is Verdict.PASS)


def entry(case: str, requirement: str | None = None, verdict: Verdict = Verdict.FAIL) -> BaselineEntry:
    return BaselineEntry(case, verdict, "their known fault", requirement)


def test_a_known_failure_is_expected_and_keeps_its_verdict() -> None:
    (marked,), problems = baseline.apply([result("a", Verdict.FAIL, "TLS-001")], [entry("a")], whole=True)
    assert (marked.verdict, marked.expected, marked.baseline_reason) == (Verdict.FAIL, True, "their known fault")
    assert not problems


def test_an_entry_about_one_requirement_does_not_cover_another() -> None:
    (marked,), problems = baseline.apply([result("a", Verdict.FAIL, "TLS-002")], [entry("a", "TLS-001")], whole=True)
    assert not marked.expected
    assert [problem.kind for problem in problems] == ["unexpected-pass"]


def test_another_verdict_than_the_foreseen_one_is_unexpected() -> None:
    (marked,), _ = baseline.apply([result("a", Verdict.CRASH)], [entry("a")], whole=True)
    assert not marked.expected


def test_an_unexpected_pass_and_an_entry_that_matches_nothing_are_problems() -> None:
    entries = [entry("a"), entry("gone-*")]
    _, problems = baseline.apply([result("a", Verdict.PASS)], entries, whole=True)
    assert [problem.kind for problem in problems] == ["unexpected-pass", "matches-nothing"]


def test_what_an_engine_does_only_sometimes_is_no_surprise_either_way() -> None:
    flips = replace(entry("a", "TLS-001"), sometimes=True)
    (passed,), problems = baseline.apply([result("a", Verdict.PASS)], [flips], whole=True)
    assert (passed.expected, problems) == (True, ())
    (failed,), problems = baseline.apply([result("a", Verdict.FAIL, "TLS-001")], [flips], whole=True)
    assert (failed.expected, failed.baseline_reason, problems) == (True, "their known fault", ())
    (other,), _ = baseline.apply([result("a", Verdict.FAIL, "TLS-002")], [flips], whole=True)
    assert not other.expected
    _, problems = baseline.apply([result("b", Verdict.PASS)], [flips], whole=True)
    assert [problem.kind for problem in problems] == ["matches-nothing"]


def test_a_partial_run_says_nothing_about_entries_it_did_not_meet() -> None:
    _, problems = baseline.apply([result("a", Verdict.FAIL)], [entry("a"), entry("b")], whole=False)
    assert not problems


def test_a_case_that_did_not_run_is_no_unexpected_pass() -> None:
    _, problems = baseline.apply([result("a", Verdict.UNSUPPORTED)], [entry("a")], whole=True)
    assert not problems


def test_patterns_match_keys_and_brackets_are_literal() -> None:
    assert entry("tls-*").matches("tls-term-01[tls1.2]")
    assert entry("tls-term-01[tls1.2]").matches("tls-term-01[tls1.2]")
    assert not entry("tls-term-01[tls1.2]").matches("tls-term-01t")
    assert entry("tls-term-01[*").matches("tls-term-01[tls1.3]")
