"""`python -m reference_engine.mutants list [--json]` and `.. run ID [--reached FILE] -- serve ..`."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import reference_engine.mutants
from reference_engine.cli import main as engine_main
from reference_engine.mutants.registry import MUTANTS, Reached
from reference_engine.parts import Parts


def families() -> list[str]:
    """The names of the families: the modules that are not for their inside only."""
    names = [module.name for module in pkgutil.iter_modules(reference_engine.mutants.__path__)]
    return [name for name in names if name != "registry" and not name.startswith("_")]


def load(names: Sequence[str]) -> None:
    """Import these families, so that their mutants are registered."""
    with warnings.catch_warnings():
        # tlslite-ng, on which the doubles stand, imports the standard library's asyncore.
        warnings.filterwarnings("ignore", "The asyncore module is deprecated", DeprecationWarning)
        for name in names:
            importlib.import_module(f"{reference_engine.mutants.__name__}.{name}")


def main(argv: list[str]) -> int:
    """Run the command line; the number is the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_engine.mutants",
        description="The engine with one rule broken.",
        epilog="Behind `run ID --` stands the engine's own command line.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every mutant")
    listing.add_argument("--json", action="store_true", help="machine-readable")
    running = commands.add_parser("run", help="run the engine with one rule broken")
    running.add_argument("mutant")
    running.add_argument("--family", choices=families(), metavar="NAME", help="load only the mutant's own family")
    running.add_argument("--reached", type=Path, default=None, metavar="FILE", help="made when the broken rule is used")
    own, engine_argv = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    arguments = parser.parse_args(own)
    only = getattr(arguments, "family", None)
    load([only] if only else families())
    if arguments.command == "list":
        return show(as_json=arguments.json)
    chosen = MUTANTS.get(arguments.mutant)
    if chosen is None:
        print(f"no mutant is named {arguments.mutant!r}; see `list`", file=sys.stderr)
        return 2
    parts = Parts()
    chosen.apply(parts, Reached(arguments.reached))
    return engine_main(engine_argv, parts=parts)


def show(*, as_json: bool) -> int:
    """Print every mutant."""
    if as_json:
        rows = [
            {"id": item.id, "family": item.family, "requirements": list(item.requirements), "breaks": item.breaks}
            for item in MUTANTS.values()
        ]
        json.dump(rows, sys.stdout, indent=1)
        print()
        return 0
    for item in MUTANTS.values():
        print(f"{item.id:36} {item.family:12} {', '.join(item.requirements)}: {item.breaks}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
