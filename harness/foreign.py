"""Engines that others made: exact versions from a lock with hashes, unpacked into `.foreign` of the project, without
root and without touching the system. Debian packages only so far; Linux."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import UsageError

FOLDER = ".foreign"
DEFAULT_MIRROR = "https://deb.debian.org"
MAX_PACKAGE = 1 << 26
"""The largest package that is fetched (64 MiB)."""
FETCH_SECONDS = 60
VERSION_FILE = "VERSION"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)

Fetch = Callable[[str], bytes]


class Unobtainable(Exception):  # noqa: N818 - a result that is listed
    """Something could not be had; the text says what, and why."""


@dataclass(frozen=True, slots=True)
class Package:
    """One Debian package file: `archive` (`debian`, `debian-security`), `path` in it, its hash, and the `library` that
    it is fetched for (empty: always)."""

    archive: str
    path: str
    sha256: str
    library: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Foreign:
    """One engine of the lock. `program` and `libraries` are paths below the unpacked root."""

    name: str
    version: str
    about: str
    arch: str
    program: str
    libraries: str
    packages: tuple[Package, ...]


def lock(text: str | None = None) -> tuple[Foreign, ...]:
    """What the lock (`fixtures/foreign.toml`) names. Raises `UsageError` when it is broken."""
    where = "fixtures/foreign.toml"
    source = (resources.files("fixtures") / "foreign.toml").read_text(encoding="utf-8") if text is None else text
    try:
        return tuple(_engine(entry) for entry in tomllib.loads(source)["engine"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: {type(error).__name__}: {error}") from error


def _engine(entry: Mapping[str, Any]) -> Foreign:
    packages = tuple(Package(**package) for package in entry["package"])
    return Foreign(packages=packages, **{key: value for key, value in entry.items() if key != "package"})


def folder() -> Path:
    """`.foreign` of the project that this package lies in, or of the current folder for an installed copy."""
    project = Path(__file__).resolve().parent.parent
    return (project if (project / "pyproject.toml").is_file() else Path.cwd()) / FOLDER


def program(name: str, root: Path | None = None) -> str | None:
    """The program `name`: the one under `.foreign`, else the one on the path, /usr/sbin included."""
    installed = (root or folder()) / "bin" / name
    if installed.is_file() and os.access(installed, os.X_OK):
        return str(installed)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"]))


def installed_version(engine: Foreign, root: Path) -> str | None:
    """The version of `engine` that lies under `root`, or `None`."""
    try:
        return (root / engine.name / VERSION_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def mirrors(apt: Path = Path("/etc/apt")) -> dict[str, str]:
    """The address of each Debian archive that apt is configured with, by the archive's name."""
    found: dict[str, str] = {}
    for address in _apt_addresses(apt):
        parts = urllib.parse.urlsplit(address)
        name = parts.path.rstrip("/").rpartition("/")[2]
        if parts.scheme in ("http", "https") and name in ("debian", "debian-security"):
            found.setdefault(name, address.rstrip("/"))
    return {name: found.get(name, f"{DEFAULT_MIRROR}/{name}") for name in ("debian", "debian-security")}


def _apt_addresses(apt: Path) -> Iterator[str]:
    for file in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if not file.is_file():
            continue
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if file.suffix == ".list" and line.startswith("deb "):
                yield from (word for word in line.split() if "://" in word)
            elif file.suffix == ".sources" and line.startswith("URIs:"):
                yield from line.split()[1:]


def fetch(address: str) -> bytes:
    """The file at `address`. Raises `Unobtainable`."""
    try:
        with urllib.request.urlopen(address, timeout=FETCH_SECONDS) as answer:  # noqa: S310 - http(s) only, see mirrors()
            data: bytes = answer.read(MAX_PACKAGE + 1)
    except urllib.error.HTTPError as error:
        gone = (
            "this exact version is gone from the mirror, and no other one is taken" if error.code == 404 else "refused"
        )
        error.close()
        raise Unobtainable(f"{address}: HTTP {error.code}: {gone}") from error
    except (OSError, ValueError) as error:
        raise Unobtainable(f"{address}: {getattr(error, 'reason', error)}") from error
    if len(data) > MAX_PACKAGE:
        raise Unobtainable(f"{address}: larger than {MAX_PACKAGE} octets")
    return data


class Installer:
    """Installs engines of the lock under `root`. `get` fetches an address; `bases` gives the archives' addresses."""

    def __init__(self, root: Path, *, get: Fetch = fetch, bases: Mapping[str, str] | None = None) -> None:
        self._root = root
        self._get = get
        self._bases = mirrors() if bases is None else bases

    def install(self, engine: Foreign) -> str:
        """Install `engine` unless it is there; one line about it. Raises `Unobtainable`."""
        home = self._root / engine.name
        if installed_version(engine, self._root) == engine.version:
            return f"{engine.version} is there already: {home}"
        self._check_machine(engine)
        try:
            (self._root / "packages").mkdir(parents=True, exist_ok=True)
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
        except OSError as error:
            raise Unobtainable(f"{home}: {error.strerror}") from error
        count = self._unpack_all(engine, home)
        self._wrap(engine, home)
        (home / VERSION_FILE).write_text(f"{engine.version}\n", encoding="utf-8")
        return f"{engine.version} installed from {count} packages: {home}"

    def _check_machine(self, engine: Foreign) -> None:
        if platform.system() != "Linux" or platform.machine() != _MACHINES.get(engine.arch):
            raise Unobtainable(
                f"the lock has it for Linux on {engine.arch}; this is {platform.system()} {platform.machine()}"
            )
        if shutil.which("dpkg-deb") is None:
            raise Unobtainable("dpkg-deb is not installed (Debian and Ubuntu have it)")

    def _unpack_all(self, engine: Foreign, home: Path) -> int:
        """The engine's own packages, then those of the libraries that the system lacks, until none is missing."""
        waiting = [package for package in engine.packages if package.library]
        count = 0
        for package in engine.packages:
            if not package.library:
                self._unpack(package, home)
                count += 1
        while missing := self._missing(engine, home):
            needed = next((package for package in waiting if package.library in missing), None)
            if needed is None:
                raise Unobtainable(f"needs {', '.join(sorted(missing))}, which neither this system nor the lock has")
            waiting.remove(needed)
            self._unpack(needed, home)
            count += 1
        return count

    def _unpack(self, package: Package, home: Path) -> None:
        file = self._root / "packages" / package.name
        if not file.is_file() or _digest(file.read_bytes()) != package.sha256:
            address = f"{self._bases[package.archive]}/{package.path}"
            data = self._get(address)
            if _digest(data) != package.sha256:
                raise Unobtainable(f"{address}: its SHA-256 is {_digest(data)}, the lock has {package.sha256}")
            file.write_bytes(data)
        done = subprocess.run(["dpkg-deb", "-x", str(file), str(home)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unobtainable(f"{package.name}: {done.stderr.strip()}")

    def _missing(self, engine: Foreign, home: Path) -> set[str]:
        """The libraries that the loader does not find for the unpacked program."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(home / engine.libraries), "LC_ALL": "C"}
        told = subprocess.run(
            ["ldd", str(home / engine.program)], capture_output=True, text=True, check=False, env=environment
        )
        if told.returncode:
            raise Unobtainable(f"{engine.program}: {(told.stderr or told.stdout).strip()}")
        return set(_MISSING.findall(told.stdout))

    def _wrap(self, engine: Foreign, home: Path) -> None:
        """Put a wrapper into `bin`: it sets the library path and becomes the program, whose pid is the engine's."""
        wrapper = self._root / "bin" / engine.name
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(
            "#!/bin/sh\n"
            f'home="$(dirname "$(dirname "$(readlink -f "$0")")")/{engine.name}"\n'
            f'export LD_LIBRARY_PATH="$home/{engine.libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"\n'
            f'exec "$home/{engine.program}" "$@"\n',
            encoding="utf-8",
        )
        wrapper.chmod(0o755)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
