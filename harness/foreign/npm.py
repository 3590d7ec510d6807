"""Packages of npm, by the integrity that their lock has; no script of a package is run."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

from harness.foreign.lock import Npm, Unobtainable

LOOK_SECONDS = 20
NPM_SECONDS = 600
_TELLING = re.compile(r"^npm error (?!code|A complete log)\S|^\w*Error")


def install(source: Npm, home: Path) -> str:
    """Put the packages into the empty folder `home`; which Node is there to run them. Raises `Unobtainable`."""
    version = node_version()
    npm = shutil.which("npm")
    if version is None or version < source.node or npm is None:
        has = "none is" if version is None else f"{version}{' without npm' if npm is None else ''} is"
        raise Unobtainable(f"needs node {source.node} or later with npm: {has} on the path")
    for name in ("package.json", "package-lock.json"):
        text = (resources.files("fixtures") / source.folder / name).read_text(encoding="utf-8")
        (home / name).write_text(text, encoding="utf-8")
    _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], home)
    # What is built for another machine installs as well, and lacks its inside.
    _run(["node", "--input-type=module", "--eval", f"await import({source.module!r})"], home)
    return f"packages for node {version}"


def _run(command: list[str], home: Path) -> None:
    what = " ".join(command[:2])
    try:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=NPM_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unobtainable(f"{what}: {error}") from error
    if done.returncode:
        told = next((line for line in done.stderr.splitlines() if _TELLING.search(line)), "")
        raise Unobtainable(f"{what}: {told.strip() or f'exited with status {done.returncode}'}")


def node_version() -> int | None:
    """The major version of the Node on the path, or `None`."""
    node = shutil.which("node")
    if node is None:
        return None
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=LOOK_SECONDS)
    found = re.match(r"v(\d+)\.", told.stdout)
    return int(found.group(1)) if found else None
