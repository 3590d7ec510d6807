"""What is foreign here: engines and peers that others made, in exact versions from a lock with hashes, and where an
installed one lies.

`fixtures/foreign.toml` is the lock. Each of its entries says by which way it comes: Debian packages unpacked without
root, a virtual environment of its own, or packages of npm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import UsageError

FOLDER = ".foreign"
VERSION_FILE = "VERSION"
WHERE = "fixtures/foreign.toml"


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
class Debian:
    """Debian packages, unpacked. `program`, `also` (more programs) and `libraries` are paths below the root."""

    arch: str
    program: str
    libraries: str
    packages: tuple[Package, ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment of its own: `requirements` is a file beside the lock with a hash for every wheel, `pythons`
    are the versions that it is locked for, best first, `program` is a path below it."""

    requirements: str
    pythons: tuple[str, ...]
    program: str


@dataclass(frozen=True, slots=True)
class Npm:
    """Packages of npm: `folder` beside the lock has package.json and package-lock.json; `node` is the oldest major
    version that runs them, `module` what must load."""

    folder: str
    node: int
    module: str


Source = Debian | Venv | Npm


@dataclass(frozen=True, slots=True)
class Foreign:
    """One entry of the lock. What a library is made a peer of has the name of its `script` in harness/foreign/peers."""

    name: str
    version: str
    about: str
    source: Source
    script: str = ""

    @property
    def stamp(self) -> str:
        """What stands in the VERSION file once it is whole: the version, and a digest of all that was locked."""
        return f"{self.version} {_digest_of(self.source)}"

    @property
    def command(self) -> str:
        """The name of its program in `.foreign/bin`, or of the entry where it has none there."""
        return Path(self.source.program).name if isinstance(self.source, Debian | Venv) else self.name


def lock(text: str | None = None) -> tuple[Foreign, ...]:
    """The engines that the lock names. Raises `UsageError` when it is broken."""
    return _read("engine", text)


def peers(text: str | None = None) -> tuple[Foreign, ...]:
    """The peers that the lock names. Raises `UsageError` when it is broken."""
    return _read("peer", text)


def http_programs(text: str | None = None) -> tuple[Foreign, ...]:
    """The HTTP clients and servers that the lock names. Raises `UsageError` when it is broken."""
    return _read("http", text)


def everything() -> tuple[Foreign, ...]:
    """All that the lock names: engines, QUIC peers, HTTP clients and servers. Raises `UsageError` when it is broken."""
    return (*lock(), *peers(), *http_programs())


def _read(table: str, text: str | None) -> tuple[Foreign, ...]:
    try:
        source = locked_file("foreign.toml") if text is None else text
        return tuple(_entry(entry) for entry in tomllib.loads(source)[table])
    except (tomllib.TOMLDecodeError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{WHERE}: {type(error).__name__}: {error}") from error


def _entry(entry: Mapping[str, Any]) -> Foreign:
    values = dict(entry)
    own = {key: values.pop(key) for key in ("name", "version", "about", "script") if key in values}
    kind = values.pop("kind")
    source: Source
    if kind == "debian":
        packages = tuple(Package(**one) for one in values.pop("package"))
        source = Debian(packages=packages, also=tuple(values.pop("also", ())), **values)
    elif kind == "python":
        source = Venv(pythons=tuple(values.pop("pythons")), **values)
    elif kind == "npm":
        source = Npm(**values)
    else:
        raise TypeError(f"{own['name']}: kind: found {kind!r}, allowed is debian, python or npm")
    return Foreign(source=source, **own)


def locked_file(name: str) -> str:
    """The text of a file of the lock. Raises `OSError`."""
    return (resources.files("fixtures") / name).read_text(encoding="utf-8")


def _digest_of(source: Source) -> str:
    parts = [repr(source)]
    if isinstance(source, Venv):
        parts.append(locked_file(source.requirements))
    elif isinstance(source, Npm):
        parts.append(locked_file(f"{source.folder}/package-lock.json"))
    return digest("\n".join(parts).encode())[:16]


def digest(data: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def folder() -> Path:
    """`.foreign` of the project that this package lies in, or of the current folder for an installed copy."""
    project = Path(__file__).resolve().parents[2]
    return (project if (project / "pyproject.toml").is_file() else Path.cwd()) / FOLDER


def program(name: str, root: Path | None = None) -> str | None:
    """The program `name`: the one under `.foreign`, else the one on the path, /usr/sbin included."""
    installed = (root or folder()) / "bin" / name
    if installed.is_file() and os.access(installed, os.X_OK):
        return str(installed)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"]))


def installed_version(foreign: Foreign, root: Path) -> str | None:
    """The version of `foreign` that lies whole under `root`, or `None`."""
    return installed_stamp(foreign, root).partition(" ")[0] or None


def installed_stamp(foreign: Foreign, root: Path) -> str:
    """What the VERSION file says, or nothing."""
    try:
        return (root / foreign.name / VERSION_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
