"""`edgecase coverage`: how much of the ledger and of the seed page the cases check, and why the rest has none."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping

from harness.collect import collect
from harness.coverage import Count, Coverage, Entry, as_json, coverage
from harness.errors import UsageError
from harness.ledger import Ledger, suggestions
from harness.model.requirement import CLAIM, RFC

TITLES = {
    CLAIM: "Documented claims: what the engine's documents and SDKs state",
    RFC: "Standards: RFC rows, and what only an RFC backs; no promise of the documentation",
}
_HEAD = f"{'chapter':22}{'priority':>9}{'rows':>7}{'covered':>9}{'reasoned':>10}{'blank':>7}"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("coverage", help="what the cases cover of the requirements and of the seed page")
    command.add_argument(
        "--chapter", default=None, help="list the rows of one chapter (engine:TLS), with cases or reason"
    )
    command.add_argument("--blank", action="store_true", help="list the rows that have neither case nor reason")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the coverage; 1 when a reason is stale or a case names a requirement that there is not."""
    ledger = Ledger.load()
    chapters = ledger.chapters()
    if arguments.chapter is not None and arguments.chapter not in chapters:
        close = ", ".join(suggestions(arguments.chapter, chapters)) or ", ".join(chapters)
        raise UsageError(f"--chapter: found {arguments.chapter!r}, allowed is a chapter of the ledger ({close})")
    found = coverage(ledger, collect())
    if arguments.json:
        json.dump(as_json(found), sys.stdout, indent=1, ensure_ascii=False)
        print()
    elif arguments.chapter is not None or arguments.blank:
        for line in _rows(ledger, found, arguments.chapter, arguments.blank):
            print(line)
    else:
        for line in (*_tables(found), *_seed(ledger, found)):
            print(line)
    for problem in found.problems:
        print(f"edgecase: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


def _tables(found: Coverage) -> Iterator[str]:
    for name, chapters in found.counts.items():
        yield TITLES[name]
        yield _HEAD
        total = Count()
        for chapter, priorities in chapters.items():
            for priority, count in priorities.items():
                if count.rows:
                    yield _line(chapter, str(priority), count)
                    total.add(count)
        yield _line("all", "", total)
        yield ""


def _line(chapter: str, priority: str, count: Count) -> str:
    blank = str(count.blank) if count.blank else "-"
    return f"{chapter:22}{priority:>9}{count.rows:>7}{count.covered:>9}{count.reasoned:>10}{blank:>7}"


def _seed(ledger: Ledger, found: Coverage) -> Iterator[str]:
    yield "Seed page, sentence by sentence"
    for number, sentence in ledger.seed.items():
        yield f"{number:3} {sentence.gloss}"
        yield f"    {_shown(found.seed[number])}"


def _shown(entry: Entry) -> str:
    cases = ", ".join(entry.cases)
    if cases and entry.reason:
        return f"cases: {cases}; {entry.reason}"
    return f"cases: {cases}" if cases else (entry.reason or "blank: no case and no reason")


def _rows(ledger: Ledger, found: Coverage, chapter: str | None, blank: bool) -> Iterator[str]:
    entries: Mapping[str, Entry] = found.requirements
    for row in ledger:
        entry = entries[row.id]
        if chapter not in (None, row.chapter) or (blank and (entry.cases or entry.reason)):
            continue
        yield f"{row.id:18} {row.level:10} {row.priority}  {row.text}"
        if not blank:
            yield f"{'':18} {_shown(entry)}"
