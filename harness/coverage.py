"""What the cases cover of the ledger, and what is written down about the rest: pure functions of ledger and cases.

A row is *covered* when a case checks it, else *reasoned* when `reasons.toml` says why not, else *blank*. The two
ledgers, documented claims and standards, are counted apart; only the machine-readable form, whose shape is fixed, adds
them by chapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.ledger import Ledger
from harness.ledger_form import PRIORITIES
from harness.model.case import Case
from harness.model.requirement import CLAIM, RFC, Requirement

LEDGERS = (CLAIM, RFC)


@dataclass(slots=True)
class Count:
    """Rows of one chapter and priority."""

    rows: int = 0
    covered: int = 0
    reasoned: int = 0
    blank: int = 0

    def add(self, other: Count) -> None:
        """Add another count to this one."""
        self.rows += other.rows
        self.covered += other.covered
        self.reasoned += other.reasoned
        self.blank += other.blank


@dataclass(frozen=True, slots=True)
class Entry:
    """A requirement or a seed sentence: the ids of its cases, and the reason why it has or needs none."""

    cases: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class Coverage:
    """`counts` by ledger (`claim`, `rfc`), chapter and priority; `problems`: lines on stale reasons and unknown ids."""

    counts: Mapping[str, Mapping[str, Mapping[int, Count]]]
    requirements: Mapping[str, Entry]
    seed: Mapping[int, Entry]
    problems: tuple[str, ...] = field(default=())


def coverage(ledger: Ledger, cases: Iterable[Case]) -> Coverage:
    """The coverage of `ledger` by `cases`."""
    checks, problems = _checks(ledger, cases)
    requirements = {row.id: _entry(ledger, row, checks.get(row.id, [])) for row in ledger}
    counts: dict[str, dict[str, dict[int, Count]]] = {name: {} for name in LEDGERS}
    for row in ledger:
        chapter = counts[row.ledger].setdefault(row.chapter, {priority: Count() for priority in PRIORITIES})
        chapter[row.priority].add(_count(requirements[row.id]))
    return Coverage(counts, requirements, _seed(ledger, requirements), (*problems, *_stale(ledger, checks)))


def as_json(found: Coverage) -> dict[str, object]:
    """The fixed machine-readable shape of `edgecase coverage --json`."""
    chapters: dict[str, dict[str, dict[str, int]]] = {}
    for name, priorities in _merged(found).items():
        chapters[name] = {
            str(priority): {
                "rows": count.rows,
                "covered": count.covered,
                "reasoned": count.reasoned,
                "blank": count.blank,
            }
            for priority, count in priorities.items()
        }
    return {
        "chapters": chapters,
        "seed": {str(number): _plain(entry) for number, entry in found.seed.items()},
        "requirements": {name: _plain(entry) for name, entry in found.requirements.items()},
    }


def cases_of(cases: Iterable[Case], requirement: str) -> list[Case]:
    """The cases that check `requirement`."""
    return [case for case in cases if requirement in case.requirements]


def _plain(entry: Entry) -> dict[str, object]:
    return {"cases": list(entry.cases), "reason": entry.reason}


def _merged(found: Coverage) -> dict[str, dict[int, Count]]:
    merged: dict[str, dict[int, Count]] = {}
    for chapters in found.counts.values():
        for name, priorities in chapters.items():
            sums = merged.setdefault(name, {priority: Count() for priority in PRIORITIES})
            for priority, count in priorities.items():
                sums[priority].add(count)
    return merged


def _checks(ledger: Ledger, cases: Iterable[Case]) -> tuple[dict[str, list[str]], list[str]]:
    """The ids of cases by requirement, and a line per id that the ledger does not have."""
    checks: dict[str, list[str]] = {}
    problems: list[str] = []
    for case in cases:
        for requirement in dict.fromkeys(case.requirements):
            if requirement in ledger:
                checks.setdefault(requirement, []).append(case.id)
            else:
                problems.append(
                    f"{case.file}:{case.line}: {case.id}: checks: found {requirement!r},"
                    " allowed is the id of a requirement"
                )
    return checks, problems


def _entry(ledger: Ledger, row: Requirement, cases: list[str]) -> Entry:
    reason = ledger.reason_of(row.id)
    # A wide selector means `the rest of`: it says nothing of a row that has a case.
    shown = reason if reason is not None and (not cases or row.id in reason.rows) else None
    return Entry(tuple(cases), shown.text if shown is not None else None)


def _count(entry: Entry) -> Count:
    if entry.cases:
        return Count(1, covered=1)
    return Count(1, reasoned=1) if entry.reason is not None else Count(1, blank=1)


def _seed(ledger: Ledger, requirements: Mapping[str, Entry]) -> dict[int, Entry]:
    """A sentence's cases are those of its documented rows; its reason is its own, else that of all its rows."""
    rows: dict[int, list[str]] = {number: [] for number in ledger.seed}
    for row in ledger:
        for number in row.seed if row.ledger == CLAIM else ():
            rows[number].append(row.id)
    return {
        number: _sentence(sentence.reason, [requirements[i] for i in rows[number]])
        for number, sentence in ledger.seed.items()
    }


def _sentence(own: str | None, entries: list[Entry]) -> Entry:
    cases = tuple(dict.fromkeys(case for entry in entries for case in entry.cases))
    reasons = [entry.reason for entry in entries]
    if own is None and not cases and entries and all(reasons):
        own = " ".join(dict.fromkeys(reason for reason in reasons if reason))
    return Entry(cases, own)


def _stale(ledger: Ledger, checks: Mapping[str, list[str]]) -> list[str]:
    """A line per selector of `reasons.toml` that has nothing left to explain, or that names a covered row by its id."""
    problems: list[str] = []
    for selector in ledger.reasons:
        rows = ledger.selected(selector)
        covered = [row.id for row in rows if row.id in checks]
        if selector in ledger and covered:
            problems.append(
                f"reasons.toml: {selector}: rows: found a reason for a row with a case ({', '.join(checks[selector])}),"
                " allowed is one or the other"
            )
        elif len(covered) == len(rows):
            problems.append(
                f"reasons.toml: {selector}: rows: found only rows with a case, allowed is a selector with some left"
            )
    return problems
