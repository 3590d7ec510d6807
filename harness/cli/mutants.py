"""`edgecase mutants`: break one rule of the reference engine at a time, and see which cases notice."""

from __future__ import annotations

import argparse
import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from harness.cli.arguments import number
from harness.errors import UsageError
from harness.mutation import MutantResult, list_mutants, matrix, outcomes_of


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("mutants", help="run the cases against mutants of the reference engine")
    command.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="only mutants whose id matches; may be repeated"
    )
    command.add_argument("-n", "--workers", type=number(1, 256), default=1, help="processes (default: 1)")
    command.add_argument(
        "--quick", action="store_true", help="end each mutant at its first kill; tells no unproven cases"
    )
    command.add_argument(
        "--control",
        type=Path,
        metavar="FILE",
        help="the run.json of a run of the whole engine from this checkout: its cases are not run on it again",
    )
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0: every mutant was killed; 1: one survived."""
    mutants = list_mutants()
    if arguments.only:
        known = [mutant.id for mutant in mutants]
        mutants = [mutant for mutant in mutants if any(fnmatchcase(mutant.id, pattern) for pattern in arguments.only)]
        if not mutants:
            raise UsageError(f"--only {', '.join(arguments.only)}: no such mutant; there are {', '.join(known)}")

    def progress(result: MutantResult, count: int, total: int) -> None:
        if not arguments.json:
            state = "SURVIVED" if result.survived else "killed"
            print(f"[{count:3}/{total}] {state:8} {result.mutant.id}", flush=True)

    before = outcomes_of(arguments.control) if arguments.control else None
    if not arguments.json:
        first = "first the cases that claim them run on the whole engine"
        print(
            f"{len(mutants)} mutants; {first if before is None else f'compared with {arguments.control}'}", flush=True
        )
    results, unproven = matrix(mutants, arguments.workers, progress, quick=arguments.quick, known=before)
    survivors = [result for result in results if result.survived]
    if arguments.json:
        json.dump(_data(results, [] if arguments.quick else unproven), sys.stdout, indent=1)
        print()
    else:
        _print(results, [] if arguments.only or arguments.quick else unproven)
    return 1 if survivors else 0


def _data(results: list[MutantResult], unproven: list[str]) -> dict[str, object]:
    return {
        "mutants": [
            {
                "id": result.mutant.id,
                "family": result.mutant.family,
                "requirements": list(result.mutant.requirements),
                "claimed_by": list(result.claimed_by),
                "killed_by": list(result.killed_by),
                "survived": result.survived,
            }
            for result in results
        ],
        "total": len(results),
        "killed": sum(not result.survived for result in results),
        "unproven_cases": unproven,
    }


def _print(results: list[MutantResult], unproven: list[str]) -> None:
    print("\nkill matrix")
    for result in results:
        by = (
            ", ".join(result.killed_by)
            or f"nobody: {result.why} (claimed by {', '.join(result.claimed_by) or 'no case'})"
        )
        print(f"  {result.mutant.id:36} {', '.join(result.mutant.requirements)}")
        print(f"    {result.mutant.breaks}\n    killed by {by}")
    if unproven:
        print("\nunproven cases, which kill no mutant:")
        for case in unproven:
            print(f"  {case}")
    print(f"\n{sum(not result.survived for result in results)} of {len(results)} mutants killed")
