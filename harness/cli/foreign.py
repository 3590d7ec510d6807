"""`edgecase foreign`: get the engines that others made, and see which are here."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from harness.foreign import Foreign, Installer, Unobtainable, folder, installed_version, lock, program


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("foreign", help="install engines of others, or list what is here")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    get = actions.add_parser("install", help="get what the lock names, into .foreign")
    get.add_argument("--strict", action="store_true", help="exit 1 when something could not be had")
    get.add_argument("--folder", type=Path, default=None, help="where to (default: .foreign of the project)")
    get.set_defaults(run=install)
    show = actions.add_parser("list", help="what is here, and in which version")
    show.add_argument("--folder", type=Path, default=None, help="where to look (default: .foreign of the project)")
    show.set_defaults(run=show_list)


def install(arguments: argparse.Namespace) -> int:
    """Install everything. 0, or with `--strict` 1 when something is missing."""
    root: Path = arguments.folder or folder()
    installer = Installer(root.absolute())
    missing = 0
    for engine in lock():
        try:
            print(f"{engine.name}: {installer.install(engine)}", flush=True)
        except Unobtainable as error:
            missing += 1
            print(f"{engine.name}: not installed: {error}", flush=True)
            if (found := program(engine.name, root)) is not None:
                print(f"{engine.name}: {found} is used instead: {_told(found)}", flush=True)
    if missing:
        print(f"foreign: {missing} of {len(lock())} could not be had; what needs them reports 'not run'")
    return 1 if missing and arguments.strict else 0


def show_list(arguments: argparse.Namespace) -> int:
    """Print a line per engine of the lock."""
    root: Path = arguments.folder or folder()
    for engine in lock():
        print(f"{engine.name}: {_state(engine, root)}")
    return 0


def _state(engine: Foreign, root: Path) -> str:
    version = installed_version(engine, root)
    if version is not None:
        other = "" if version == engine.version else f" (the lock has {engine.version}: run `edgecase foreign install`)"
        return f"{version} in {root / engine.name}{other}"
    found = program(engine.name, root)
    if found is not None:
        return f"{found}: {_told(found)}"
    return f"not here (the lock has {engine.version}: run `edgecase foreign install`)"


def _told(path: str) -> str:
    """The first line that the program prints about its version."""
    done = subprocess.run([path, "-v"], capture_output=True, text=True, check=False, timeout=10)
    return next(iter((done.stdout or done.stderr).splitlines()), "says no version")
