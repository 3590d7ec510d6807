"""`edgecase list`: every case, with what it checks and which mutants claim the same requirements."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from harness.cli.arguments import check_selection
from harness.collect import collect
from harness.errors import UsageError
from harness.model.case import Case
from harness.mutation import MutantInfo, list_mutants


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("list", help="list the cases")
    command.add_argument("--area", default=None, help="only this area")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def describe(case: Case, mutants: Sequence[MutantInfo]) -> dict[str, object]:
    """One case as plain data."""
    features = sorted(frozenset().union(*(case.features(variant) for variant in case.variants)))
    claimed = set(case.requirements)
    return {
        "id": case.id,
        "area": case.area,
        "title": case.title,
        "requirements": list(case.requirements),
        "features": features,
        "variants": [variant.label for variant in case.variants],
        "mutants": [mutant.id for mutant in mutants if claimed & set(mutant.requirements)],
    }


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    try:
        mutants = list_mutants()
    except UsageError:
        mutants = []  # an installed copy comes without them
    everything = collect()
    if arguments.area is not None:
        check_selection(everything, areas=[arguments.area])
    cases = [case for case in everything if arguments.area in (None, case.area)]
    rows = [describe(case, mutants) for case in cases]
    if arguments.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return 0
    for case, row in zip(cases, rows, strict=True):
        count = len(case.variants)
        print(f"{case.id:32} {case.area:12} {count:3} variant{'s' if count != 1 else ' '}  {row['title']}")
    print(f"{len(cases)} cases, {sum(len(case.variants) for case in cases)} variants")
    return 0
