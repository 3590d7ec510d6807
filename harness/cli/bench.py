"""`edgecase bench`: how fast an engine carries bytes, next to a named other thing."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from harness.errors import UsageError
from harness.model.record import read_record


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("bench", help="measure", description=__doc__)
    command.add_argument("--suite", required=True, type=Path, metavar="RUN_JSON", help="the median case of this run")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def suite_result(file: Path) -> dict[str, object]:
    """The duration of the median case of a run record. Raises `UsageError`."""
    try:
        record = read_record(file)
    except ValueError as error:
        raise UsageError(f"--suite: {error}") from error
    durations = [case.duration_s * 1000 for case in record.cases]
    if not durations:
        raise UsageError(f"--suite: {file}: no case in it")
    return {
        "name": "suite-median-case",
        "unit": "ms",
        "engine": round(statistics.median(durations), 3),
        "direct": None,
        "bare": None,
        "samples": len(durations),
    }


def run(arguments: argparse.Namespace) -> int:
    """Print the figures; 0."""
    result = suite_result(arguments.suite)
    if arguments.json:
        json.dump({"results": [result]}, sys.stdout, indent=1)
        print()
    else:
        print(f"{result['name']}: {result['engine']} {result['unit']} (median of {result['samples']} cases)")
    return 0
