"""What the terminal shows at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.record import CaseResult, RunRecord
from harness.model.verdict import VERDICTS, Verdict
from reports import pairs
from reports import standing as stand
from reports.standing import Standing
from reports.text import clip, duration, line, plural

UNEXPECTED_SHOWN = 40
PROBLEMS_SHOWN = 20
WIDTH = 160


def exit_code(record: RunRecord) -> int:
    """The exit code of the run: see `reports.standing.exit_code`."""
    return stand.exit_code(record)


def text(record: RunRecord) -> str:
    """The summary: engine, counts, a line for each unexpected verdict, the baseline, why it stopped, the sentence.

    Several lines without colour and without a newline at the end; nothing in it can steer a terminal.
    """
    lines = [_engine(record), _counts(record)]
    lines += pairs.lines(record)
    lines += _unexpected(record)
    lines += _baseline(record)
    lines += [f"note: {line(note)}" for note in record.notes]
    if record.stopped:
        lines.append(f"stopped early: {line(record.stopped)}")
    lines.append(stand.headline(record))
    return "\n".join(lines)


def _engine(record: RunRecord) -> str:
    engine = record.engine
    named = " ".join(part for part in (engine.name or engine.profile, engine.version) if part)
    edition = f", {engine.edition} edition" if engine.edition else ""
    took = f"{plural(len(record.cases), 'case')} in {duration(record.duration_s)}"
    return f"{line(named)}{line(edition)}: {took}, seed {record.seed}"


def _counts(record: RunRecord) -> str:
    counts = record.counts()
    known = sum(stand.standing(case) is Standing.KNOWN for case in record.cases)
    words = [
        f"{counts[verdict]:,} {verdict.value}" for verdict in VERDICTS if counts[verdict] or verdict is Verdict.PASS
    ]
    return "  ".join(words) + (f"  ({known:,} known)" if known else "")


def _unexpected(record: RunRecord) -> list[str]:
    bad = [case for case in record.cases if stand.standing(case) is Standing.UNEXPECTED]
    bad.sort(key=lambda case: (-VERDICTS[case.verdict].exit_code, case.verdict.value, case.area, case.key))
    stale = [case for case in record.cases if stand.standing(case) is Standing.UNEXPECTED_PASS]
    lines = _listed("unexpected", (_line(case, stand.reason(case)) for case in bad[:UNEXPECTED_SHOWN]), len(bad))
    reasons = (_line(case, f"listed as known: {case.baseline_reason}") for case in stale[:PROBLEMS_SHOWN])
    return lines + _listed("unexpected passes", reasons, len(stale))


def _listed(title: str, lines: Iterable[str], count: int) -> list[str]:
    shown = list(lines)
    if not shown:
        return []
    more = [f"  and {count - len(shown):,} more, see the report"] if count > len(shown) else []
    return [f"{title}:", *shown, *more]


def _line(case: CaseResult, why: str) -> str:
    return clip(f"  {case.verdict.value:<8}{case.key}  {why or case.title}", WIDTH)


def _baseline(record: RunRecord) -> list[str]:
    found = record.baseline_problems
    lines = (clip(f"  {item.kind}: {item.entry}  {item.reason}", WIDTH) for item in found[:PROBLEMS_SHOWN])
    return _listed("baseline entries that are wrong", lines, len(found))
