"""`edgecase bench`: how fast an engine carries bytes, next to a named other thing.

Load programs that keep no transcript send through client, engine and agent, and, in turn, without the engine (direct)
and through a relay of the same libraries that has no rules (bare).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from harness.bench.benchmarks import BENCHMARKS, Result
from harness.bench.ground import Ground
from harness.bench.run import Plan, Sampler, choose
from harness.bench.suite import read_cases
from harness.bench.table import as_json, as_text
from harness.cli.arguments import check_name, fraction, number
from harness.cli.signals import INTERRUPTED, interruptible
from harness.errors import SetupFailed
from harness.ledger import Ledger
from harness.profiles import load

FAILED = 1
LEAST, MOST = 0.01, 3600.0
"""Seconds of a sample."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    names = "\n".join(f"  {one.name:26} {one.unit:5} {one.text}" for one in BENCHMARKS)
    command = subparsers.add_parser(
        "bench",
        help="measure",
        description=__doc__,
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--engine",
        default="reference",
        metavar="PROFILE",
        help="a shipped profile or a TOML file; it must speak the agent protocol (default: reference)",
    )
    command.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this benchmark; may be repeated"
    )
    command.add_argument(
        "--samples", type=number(1, 1000), default=5, help="how often each column is sampled (default: 5)"
    )
    command.add_argument(
        "--seconds",
        type=fraction(LEAST, MOST),
        default=1.0,
        help="how long a sample takes; fractions are allowed (default: 1)",
    )
    command.add_argument(
        "--agents", type=number(1, 10_000), default=1000, help="idle agents of idle-memory (default: 1000)"
    )
    command.add_argument(
        "--suite", type=Path, metavar="RUN_JSON", help="case-median: take it from this run record, run nothing"
    )
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures. 0: measured; 1: the engine did not do its part; 130: interrupted. Raises `UsageError`."""
    for name in arguments.only:
        check_name("--only", name, [one.name for one in BENCHMARKS], "a benchmark")
    profile = load(arguments.engine, frozenset(Ledger.load().features))
    if arguments.suite is not None:
        read_cases(arguments.suite)
    plan = Plan(
        profile,
        choose(profile, arguments.only),
        arguments.samples,
        arguments.seconds,
        arguments.agents,
        arguments.suite,
    )
    try:
        results, engine = asyncio.run(_measure(plan))
    except asyncio.CancelledError:
        print("edgecase: interrupted; nothing is left running", file=sys.stderr)
        return INTERRUPTED
    except SetupFailed as error:
        print(f"edgecase: bench: {error}", file=sys.stderr)
        return FAILED
    if arguments.json:
        json.dump(as_json(results, engine=engine, seconds=plan.seconds), sys.stdout, indent=1)
        print()
    else:
        print(as_text(results, engine=engine, seconds=plan.seconds, bare="bare" in plan.columns))
    return 0


async def _measure(plan: Plan) -> tuple[list[Result], str]:
    """The results, and what the engine calls itself. Raises `CancelledError` when a signal came."""
    async with interruptible(), Ground(plan.profile) as ground:
        results = await Sampler(plan, ground, lambda line: print(line, file=sys.stderr, flush=True)).run()
        return results, f"{plan.profile.title} {ground.engine_version}".strip()
