"""The baseline against a run: which failures were known, which entries are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.model.profile import BaselineEntry
from harness.model.record import BaselineProblem, CaseResult
from harness.model.verdict import Outcome, Verdict

_RAN = frozenset({Verdict.PASS, Verdict.INFO, Verdict.WARN, Verdict.FAIL, Verdict.CRASH, Verdict.SETUP})


def apply(
    results: Sequence[CaseResult], baseline: Sequence[BaselineEntry], *, whole: bool
) -> tuple[tuple[CaseResult, ...], tuple[BaselineProblem, ...]]:
    """Mark what the baseline expects, and find entries that are wrong.

    An entry that meets a case which ran better than it says is an `unexpected-pass`, unless it says that this happens;
    in a run of the `whole` suite, one that meets no case at all `matches-nothing`. A case that fails a requirement
    which no entry is about stays unexpected.
    """
    marked = tuple(_mark(result, baseline) for result in results)
    problems = []
    for entry in baseline:
        met = [result for result in results if entry.matches(result.key)]
        ran = [result for result in met if result.verdict in _RAN]
        if not met:
            if whole:
                problems.append(BaselineProblem("matches-nothing", str(entry), entry.reason))
        elif ran and not entry.sometimes and not any(_covers(entry, result) for result in ran):
            problems.append(BaselineProblem("unexpected-pass", str(entry), entry.reason))
    return marked, tuple(problems)


def _covers(entry: BaselineEntry, result: CaseResult) -> bool:
    """Whether the entry foresaw what `result` got."""
    if not entry.matches(result.key) or result.verdict is not entry.verdict:
        return False
    if entry.requirement is None:
        return True
    departed = (Outcome.FAIL, Outcome.WARN)
    return any(o.requirement == entry.requirement and o.outcome in departed for o in result.outcomes)


def _mark(result: CaseResult, baseline: Sequence[BaselineEntry]) -> CaseResult:
    covering = [entry for entry in baseline if _covers(entry, result)]
    if not covering:
        return result
    about = {entry.requirement for entry in covering}
    failed = {o.requirement for o in result.outcomes if o.outcome is Outcome.FAIL}
    known = None in about or failed <= about
    return replace(result, expected=result.expected or known, baseline_reason="; ".join(e.reason for e in covering))
