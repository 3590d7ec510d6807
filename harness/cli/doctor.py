"""`edgecase doctor`: whether a profile and its adapter hold what they promise, in seconds."""

from __future__ import annotations

import argparse

from harness.cli.arguments import number
from harness.doctor import examine
from harness.ledger import Ledger
from harness.profiles import load


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("doctor", help="check a profile and its adapter, and say what is wrong")
    command.add_argument("--engine", required=True, metavar="PROFILE", help="a shipped profile or a TOML file")
    command.add_argument(
        "--timeout-ms", type=number(1), default=5000, help="how long an answer may take (default: 5000)"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """A line per check. 0: all well; 1: something is wrong; 2: the profile can't be read."""
    features = frozenset(Ledger.load().features)
    profile = load(arguments.engine)
    checks = examine(
        profile, features, timeout=arguments.timeout_ms / 1000, tell=lambda check: print(check, flush=True)
    )
    wrong = sum(not check.ok for check in checks)
    print(f"doctor: {profile.name}: {f'{wrong} of {len(checks)} checks failed' if wrong else 'all well'}")
    return 1 if wrong else 0
