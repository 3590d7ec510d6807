"""How a verdict stands to the baseline: decided here once, for every report and the exit code."""

from __future__ import annotations

from enum import StrEnum

from harness.model.record import CaseResult, RunRecord
from harness.model.verdict import VERDICTS, Verdict
from reports.text import plural

_MET = frozenset({Verdict.PASS, Verdict.INFO})
EXIT_UNEXPECTED = 1
WORST_FIRST = (
    Verdict.FAIL,
    Verdict.CRASH,
    Verdict.SETUP,
    Verdict.HARNESS,
    Verdict.WARN,
    Verdict.INFO,
    Verdict.PASS,
    Verdict.UNSUPPORTED,
)
"""Verdicts in the order in which a reader wants them."""


class Standing(StrEnum):
    """What the baseline makes of one result."""

    USUAL = "usual"
    KNOWN = "known"
    UNEXPECTED = "unexpected"
    UNEXPECTED_PASS = "unexpected pass"


def failed(verdict: Verdict) -> bool:
    """Whether the verdict turns a run red unless the baseline knows it (`fail`, `setup`, `crash`, `harness`)."""
    return VERDICTS[verdict].exit_code != 0


def standing(case: CaseResult) -> Standing:
    """The standing of one result.

    A failure is known only by an entry with a reason: a record that says `expected` and gives none is not believed. A
    fault of the harness is never known. A baseline entry that no longer holds (now a pass, a warning or unsupported) is
    an unexpected pass.
    """
    if failed(case.verdict):
        known = case.expected and bool(case.baseline_reason) and case.verdict is not Verdict.HARNESS
        return Standing.KNOWN if known else Standing.UNEXPECTED
    if not case.expected and (case.verdict in _MET or case.baseline_reason):
        return Standing.UNEXPECTED_PASS
    if case.verdict is Verdict.WARN and case.baseline_reason:
        return Standing.KNOWN
    return Standing.USUAL


def exit_code(record: RunRecord) -> int:
    """The exit code of a run: 3 for a fault of the harness, 1 for anything unexpected or a run that stopped, else 0.

    A run of which every case was unsupported ends 0. An empty selection is a usage error, which the caller finds before
    anything runs.
    """
    codes = [VERDICTS[case.verdict].exit_code for case in record.cases if standing(case) is Standing.UNEXPECTED]
    if any(standing(case) is Standing.UNEXPECTED_PASS for case in record.cases):
        codes.append(EXIT_UNEXPECTED)
    if record.baseline_problems or record.stopped or not record.cases:
        codes.append(EXIT_UNEXPECTED)
    return max(codes, default=0)


def reason(case: CaseResult) -> str:
    """One line that says why the case got its verdict: the first outcome as bad as the verdict, else the cause.

    What was expected and what came stands before the message, which repeats the requirement's text: lists cut it.
    """
    for outcome in case.outcomes:
        if outcome.outcome.value == case.verdict.value and outcome.outcome.value in ("fail", "warn"):
            if outcome.expected or outcome.actual:
                return f"{outcome.requirement}: expected {outcome.expected}; got {outcome.actual}"
            return f"{outcome.requirement}: {outcome.message}" if outcome.message else outcome.requirement
    return case.cause


def headline(record: RunRecord) -> str:
    """The run in one sentence; what says nothing about the engine is not called failed."""
    counts = record.counts()
    ran = len(record.cases) - counts[Verdict.UNSUPPORTED]
    if not ran:
        return "No case was run: nothing has been shown about this engine."
    bad = [case for case in record.cases if failed(case.verdict)]
    besides = " and ".join(f"{counts[verdict]:,} {what}" for verdict, what in _BESIDES if counts[verdict])
    failures = f"{counts[Verdict.FAIL]:,}" if counts[Verdict.FAIL] else "None"
    sentence = f"{failures} of {plural(ran, 'case')} failed{'; ' + besides if besides else ''}."
    return " ".join(filter(None, (sentence, _about_the_baseline(record, bad), _aside(counts[Verdict.UNSUPPORTED]))))


def _about_the_baseline(record: RunRecord, bad: list[CaseResult]) -> str:
    known = sum(standing(case) is Standing.KNOWN for case in bad)
    words = ""
    if known:
        words = "All of this is known." if known == len(bad) else f"Known: {known:,}; not known: {len(bad) - known:,}."
    if wrong := _wrong_entries(record):
        words = f"{words} Wrong in the baseline: {plural(wrong, 'entry', 'entries')}.".strip()
    return words


def _wrong_entries(record: RunRecord) -> int:
    """Entries of the baseline that no longer hold, each once, said beside the case or by themselves."""
    stale = [case for case in record.cases if standing(case) is Standing.UNEXPECTED_PASS]
    told = {problem.entry for problem in record.baseline_problems}
    return len(record.baseline_problems) + sum(not {case.id, case.key} & told for case in stale)


def _aside(unsupported: int) -> str:
    return f"{unsupported:,} more could not run: the engine does not offer what is needed." if unsupported else ""


_BESIDES = (
    (Verdict.CRASH, "lost the engine"),
    (Verdict.SETUP, "could not be set up"),
    (Verdict.HARNESS, "hit a fault of the harness"),
)
