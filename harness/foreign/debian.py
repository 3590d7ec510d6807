"""Debian packages, unpacked into a folder without root and without touching the system. Linux."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.foreign.lock import Debian, Package, Unobtainable, digest

DEFAULT_MIRROR = "https://deb.debian.org"
MAX_PACKAGE = 1 << 26
"""The largest package that is fetched (64 MiB)."""
FETCH_SECONDS = 60
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)

Fetch = Callable[[str], bytes]


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


class Unpacker:
    """Unpacks Debian packages. `cache` keeps what was fetched, `get` fetches an address, `bases` gives the archives'
    addresses."""

    def __init__(self, cache: Path, get: Fetch, bases: Mapping[str, str] | None = None) -> None:
        self._cache = cache
        self._get = get
        self._bases = mirrors() if bases is None else bases

    def install(self, source: Debian, home: Path) -> str:
        """Unpack `source` into the empty folder `home`; how much it was. Raises `Unobtainable`."""
        self._check_machine(source)
        count = self._unpack_all(source, home)
        return f"{count} packages"

    def _check_machine(self, source: Debian) -> None:
        if platform.system() != "Linux" or platform.machine() != _MACHINES.get(source.arch):
            raise Unobtainable(
                f"the lock has it for Linux on {source.arch}; this is {platform.system()} {platform.machine()}"
            )
        if shutil.which("dpkg-deb") is None:
            raise Unobtainable("dpkg-deb is not installed (Debian and Ubuntu have it)")

    def _unpack_all(self, source: Debian, home: Path) -> int:
        """The packages that are always needed, then those of libraries that the system lacks, until none is missing."""
        waiting = [package for package in source.packages if package.library]
        count = 0
        for package in source.packages:
            if not package.library:
                self._unpack(package, home)
                count += 1
        while missing := self._missing(source, home):
            needed = next((package for package in waiting if package.library in missing), None)
            if needed is None:
                raise Unobtainable(f"needs {', '.join(sorted(missing))}, which neither this system nor the lock has")
            waiting.remove(needed)
            self._unpack(needed, home)
            count += 1
        return count

    def _unpack(self, package: Package, home: Path) -> None:
        file = self._cache / package.name
        if not file.is_file() or digest(file.read_bytes()) != package.sha256:
            address = f"{self._bases[package.archive]}/{package.path}"
            data = self._get(address)
            if digest(data) != package.sha256:
                raise Unobtainable(f"{address}: its SHA-256 is {digest(data)}, the lock has {package.sha256}")
            file.write_bytes(data)
        done = subprocess.run(["dpkg-deb", "-x", str(file), str(home)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unobtainable(f"{package.name}: {done.stderr.strip()}")

    def _missing(self, source: Debian, home: Path) -> set[str]:
        """The libraries that the loader does not find for the unpacked program."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(home / source.libraries), "LC_ALL": "C"}
        told = subprocess.run(
            ["ldd", str(home / source.program)], capture_output=True, text=True, check=False, env=environment
        )
        if told.returncode:
            raise Unobtainable(f"{source.program}: {(told.stderr or told.stdout).strip()}")
        return set(_MISSING.findall(told.stdout))
