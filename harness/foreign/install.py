"""Installing what the lock names, each in a folder of its own under `.foreign`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from harness.foreign import npm, venv
from harness.foreign.debian import Fetch, Unpacker, fetch
from harness.foreign.lock import VERSION_FILE, Debian, Foreign, Unobtainable, Venv, installed_stamp


class Installer:
    """Installs entries of the lock under `root`. `get` fetches an address; `bases` gives the addresses of Debian's
    archives."""

    def __init__(self, root: Path, *, get: Fetch = fetch, bases: Mapping[str, str] | None = None) -> None:
        self._root = root
        self._get = get
        self._bases = bases

    def install(self, foreign: Foreign) -> str:
        """Install `foreign` unless it is there as it is locked; one line about it. Raises `Unobtainable`."""
        home = self._root / foreign.name
        if installed_stamp(foreign, self._root) == foreign.stamp:
            return f"{foreign.version} is there already: {home}"
        try:
            (self._root / "packages").mkdir(parents=True, exist_ok=True)
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
        except OSError as error:
            raise Unobtainable(f"{home}: {error.strerror}") from error
        told = self._put(foreign, home)
        # Last of all: what has this file is whole.
        (home / VERSION_FILE).write_text(f"{foreign.stamp}\n", encoding="utf-8")
        return f"{foreign.version} installed from {told}: {home}"

    def _put(self, foreign: Foreign, home: Path) -> str:
        source = foreign.source
        if isinstance(source, Debian):
            told = Unpacker(self._root / "packages", self._get, self._bases).install(source, home)
            for program in (source.program, *source.also):
                self._wrap(foreign, Path(program).name, f'"$home/{program}"', source.libraries)
            return told
        if isinstance(source, Venv):
            told = venv.install(source, home)
            if not foreign.script:
                # By its interpreter: the first line of a script does not hold a path of any length.
                self._wrap(foreign, foreign.command, f'"$home/bin/python" "$home/{source.program}"')
            return told
        return npm.install(source, home)

    def _wrap(self, foreign: Foreign, name: str, command: str, libraries: str = "") -> None:
        """Put a wrapper called `name` into `bin`: it becomes the program, which has its pid then."""
        wrapper = self._root / "bin" / name
        wrapper.parent.mkdir(exist_ok=True)
        lines = ["#!/bin/sh", f'home="$(dirname "$(dirname "$(readlink -f "$0")")")/{foreign.name}"']
        if libraries:
            lines.append(f'export LD_LIBRARY_PATH="$home/{libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"')
        wrapper.write_text("\n".join([*lines, f'exec {command} "$@"', ""]), encoding="utf-8")
        wrapper.chmod(0o755)
