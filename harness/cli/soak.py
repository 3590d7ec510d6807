"""`edgecase soak`: a random walk over every pair of HTTP versions on one engine, until something breaks or time is up.

Legal exchanges of every shape, cancellations, stalls, upstreams that break off, pipelining and attacks, several
connections at once: every answer must be that of its own request, nothing may be smuggled, and behind the walk the
engine must hold no more descriptors and tasks than before it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import secrets
import sys
from collections.abc import Iterable

from harness.cli.arguments import fraction, number
from harness.cli.signals import INTERRUPTED, interruptible
from harness.errors import SetupFailed
from harness.ledger import Ledger
from harness.profiles import load
from harness.soak.walk import Report, Walk

FAILED = 1
LEAST, MOST = 0.01, 10_080.0
"""Minutes of a walk."""
NO_END = float("inf")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser(
        "soak", help="walk at random over an engine's HTTP tunnels, for long", description=__doc__
    )
    command.add_argument(
        "--engine", default="reference", metavar="PROFILE", help="a shipped profile or a TOML file (default: reference)"
    )
    command.add_argument(
        "--minutes",
        type=fraction(LEAST, MOST),
        default=1.0,
        help="how long to walk; fractions are allowed (default: 1)",
    )
    command.add_argument("--seed", type=number(0), default=None, help="seed of the walk (default: random, printed)")
    command.add_argument("--steps", type=number(1), default=None, help="end after so many steps, whatever the time")
    command.add_argument(
        "--step", type=number(1), default=None, metavar="NUMBER", help="do this step alone: what failed, once more"
    )
    command.add_argument(
        "--deadline-ms", type=number(1), default=20_000, help="how long to wait for an event (default: 20000)"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Walk. 0: nothing broke; 1: something did, or the engine did not start; 130: interrupted. Raises `UsageError`."""
    profile = load(arguments.engine, frozenset(Ledger.load().features))
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(1_000_000)
    walk = Walk(profile, seed, _tell, deadline_seconds=arguments.deadline_ms / 1000)
    pairs = ", ".join(f"{down} to {up}" for down in walk.downs for up in walk.ups)
    _tell(f"edgecase: soak: {profile.title}, seed {seed}, pairs {pairs}")
    steps = range(1, arguments.steps + 1) if arguments.steps else itertools.count(1)
    try:
        report = asyncio.run(
            _walk(walk, [arguments.step], NO_END)
            if arguments.step
            else _walk(walk, steps, NO_END if arguments.steps else arguments.minutes * 60)
        )
    except asyncio.CancelledError:
        _tell(f"edgecase: interrupted after {walk.report.progress()}; nothing is left running")
        return INTERRUPTED
    except SetupFailed as error:
        print(f"edgecase: soak: {error}", file=sys.stderr)
        return FAILED
    return _end(report, arguments.engine)


async def _walk(walk: Walk, steps: Iterable[int], seconds: float) -> Report:
    """The walk, which a signal ends. Raises `CancelledError` then."""
    async with interruptible():
        return await walk.run(steps, seconds)


def _tell(line: str) -> None:
    print(line, flush=True)


def _end(report: Report, engine: str) -> int:
    """What came of it, and the exit code."""
    _tell(f"{report.seconds:.0f} s: {report.progress()}")
    for failure in report.failures:
        _tell(f"FAILED {failure}")
    if report.failures:
        failed = report.failures[0]
        _tell(f"again: edgecase soak --engine {engine} --seed {report.seed} --step {failed.step}")
        return FAILED
    if report.before is None:
        _tell("nothing crossed, nothing smuggled; what the engine holds is not for us to see")
    else:
        _tell(f"nothing crossed, nothing smuggled; the engine held {report.before}, and holds {report.after}")
    return 0
