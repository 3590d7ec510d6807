"""The `edgecase` command: one module per subcommand, one way to end (`EXIT`)."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback

import fixtures
from harness.cli.arguments import OneLineParser
from harness.errors import UsageError
from harness.ledger import LedgerError
from harness.version import suite_version

EXIT = {"expected": 0, "unexpected": 1, "usage": 2, "ours": 3}
"""What the command ends with: 0 as expected, 1 unexpected verdicts, 2 usage or configuration, 3 our own fault."""

COMMANDS = ("run", "list", "plan", "explain", "coverage", "mutants", "doctor", "forward", "bench", "soak", "foreign")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = OneLineParser(
        prog="edgecase", description="Conformance of tunnel and edge engines, and the evidence for it."
    )
    root.add_argument("--version", action="version", version=f"edgecase {suite_version()}")
    subparsers = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        importlib.import_module(f"harness.cli.{command}").add(subparsers)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one command; the number is the exit code."""
    if getattr(fixtures, "EDGECASE", None) is None:
        print(
            "edgecase: the installed package 'fixtures' is another project's: install into an environment of its own",
            file=sys.stderr,
        )
        return EXIT["usage"]
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.run(arguments)
    except (UsageError, LedgerError) as error:
        print(f"edgecase: {error}", file=sys.stderr)
        return EXIT["usage"]
    except KeyboardInterrupt:
        print("edgecase: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return EXIT["expected"]
    except Exception:  # noqa: BLE001 - whatever is left is ours: said so, with what a report of it needs
        traceback.print_exc()
        print("edgecase: this is a fault of edgecase itself; please report it with the lines above", file=sys.stderr)
        return EXIT["ours"]
    return code


def entry() -> None:
    """The console script."""
    sys.exit(main())
