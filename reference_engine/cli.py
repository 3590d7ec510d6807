"""The engine's command: `python -m reference_engine serve`.

Whatever is wrong with the command line or the settings is one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from reference_engine import log
from reference_engine.config import ConfigError, Settings, keys, load

if TYPE_CHECKING:
    from reference_engine.parts import Parts

PROGRAM = "reference_engine"


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: {message}\n")


def main(arguments: Sequence[str] | None = None, parts: Parts | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 when it was asked for something that cannot be.

    `parts` replaces the engine's own: how a mutant is run.
    """
    options = vars(_parser().parse_args(arguments))
    flags = {name: options[name] for name in keys() if options.get(name) is not None}
    try:
        settings = load(options["config"], flags)
        log.set_up(settings.log_level)
        asyncio.run(_serve(settings, parts, as_json=options["json"]))
    except ConfigError as problem:
        sys.stderr.write(f"{PROGRAM}: {problem}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="A complete tunnel engine.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve")
    serve = commands.add_parser("serve", help="run the engine until SIGTERM or SIGINT", allow_abbrev=False)
    serve.add_argument("--config", type=Path, metavar="FILE", help="TOML file with any of the keys below; flags win")
    serve.add_argument("--json", action="store_true", help="print one JSON line on stdout when everything is open")
    for key in keys().values():
        about = f"{key.about} [{key.name}; {key.kind.allowed}; default {_shown(key.default)}]"
        serve.add_argument(key.flag, dest=key.name, metavar="VALUE", help=about.replace("%", "%%"))
    return parser


def _shown(value: object) -> str:
    return "off" if value is None else "none" if value == () else str(value)


async def _serve(settings: Settings, parts: Parts | None, *, as_json: bool) -> None:
    # Imported here: a wrong flag is answered without loading the engine.
    from reference_engine.engine import Engine

    _raise_file_limit()
    engine = Engine(settings, parts)
    loop = asyncio.get_running_loop()
    asked, again = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (again if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGUSR1, _census, itertools.count(1))
    ready = await engine.start()
    line = (
        json.dumps(ready.as_json()) if as_json else f"engine {ready.domain} on {ready.https}, {ready.edition} edition"
    )
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    await asked.wait()
    # A second signal cuts the draining short.
    hurry = asyncio.create_task(again.wait())
    stopping = asyncio.create_task(engine.stop())
    await asyncio.wait({hurry, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await engine.stop(0)
    await stopping
    hurry.cancel()
    await asyncio.gather(hurry, return_exceptions=True)


def _census(numbers: Iterator[int]) -> None:
    """Say what the engine holds, on stderr: for whoever looks for a leak."""
    held = {"number": next(numbers), "tasks": len(asyncio.all_tasks())}
    sys.stderr.write(f"census {json.dumps(held)}\n")
    sys.stderr.flush()


def _raise_file_limit() -> None:
    """Every connection is a file: take as many as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
