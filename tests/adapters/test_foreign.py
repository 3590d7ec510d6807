"""Foreign engines: the lock is read, packages are checked by their hash, and what cannot be had is said."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.foreign import (
    Foreign,
    Installer,
    Package,
    Unobtainable,
    fetch,
    installed_version,
    lock,
    mirrors,
    program,
)

debian = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None or platform.machine() != "x86_64", reason="not run: needs dpkg-deb on amd64"
)
BASES = {"debian": "http://mirror.test/debian"}


def engine(data: bytes, sha256: str | None = None, name: str = "true") -> Foreign:
    package = Package("debian", "pool/main/t/true/true_1_amd64.deb", sha256 or hashlib.sha256(data).hexdigest())
    return Foreign(name, "1", "nothing, well", "amd64", "usr/bin/true", "usr/lib", (package,))


@pytest.fixture
def package(tmp_path: Path) -> bytes:
    """A Debian package with a program."""
    root = tmp_path / "source"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: true\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: x\n"
    )
    (root / "usr" / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("true") or "/bin/true", root / "usr" / "bin" / "true")
    subprocess.run(["dpkg-deb", "--build", str(root), str(tmp_path / "true.deb")], check=True, capture_output=True)
    return (tmp_path / "true.deb").read_bytes()


def test_the_lock_has_haproxy_by_hash() -> None:
    (found,) = [one for one in lock() if one.name == "haproxy"]
    assert all(len(part.sha256) == 64 for part in found.packages)
    assert any(not part.library for part in found.packages)


@pytest.mark.parametrize("text", ["engine = 1", "[[engine]]", "[[engine]]\nname =", ""])
def test_a_broken_lock_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"fixtures/foreign\.toml: ") as failed:
        lock(text)
    assert len(str(failed.value).splitlines()) == 1


@debian
def test_a_package_is_unpacked_and_runs(tmp_path: Path, package: bytes) -> None:
    asked: list[str] = []

    def get(address: str) -> bytes:
        asked.append(address)
        return package

    root = tmp_path / "foreign"
    chosen = engine(package)
    told = Installer(root, get=get, bases=BASES).install(chosen)
    assert told == f"1 installed from 1 packages: {root / 'true'}"
    assert asked == ["http://mirror.test/debian/pool/main/t/true/true_1_amd64.deb"]
    assert installed_version(chosen, root) == "1"
    wrapper = program("true", root)
    assert wrapper == str(root / "bin" / "true")
    assert subprocess.run([wrapper], check=False).returncode == 0
    assert "is there already" in Installer(root, get=get, bases=BASES).install(chosen)
    assert len(asked) == 1


@debian
def test_another_hash_is_not_installed(tmp_path: Path, package: bytes) -> None:
    with pytest.raises(Unobtainable, match="its SHA-256 is"):
        Installer(tmp_path, get=lambda _: package, bases=BASES).install(engine(package, "0" * 64))
    assert program("no-such-engine", tmp_path) is None
    assert installed_version(engine(package), tmp_path) is None


@debian
def test_a_file_that_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(Unobtainable, match=r"true_1_amd64\.deb: "):
        Installer(tmp_path, get=lambda _: b"no package", bases=BASES).install(engine(b"no package"))


def test_an_address_where_nobody_is() -> None:
    with pytest.raises(Unobtainable, match=r"http://127\.0\.0\.1:1/x: "):
        fetch("http://127.0.0.1:1/x")


def test_mirrors_are_those_of_apt(tmp_path: Path) -> None:
    assert mirrors(tmp_path)["debian"] == "https://deb.debian.org/debian"
    (tmp_path / "sources.list").write_text(
        "# deb http://no/debian x\ndeb [trusted=yes] http://a.test/debian/ stable main\n"
    )
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "more.sources").write_text("Types: deb\nURIs: http://b.test/debian-security\nSuites: x\n")
    (folder / "other.list").write_text("deb https://c.test/ubuntu x main\n")
    assert mirrors(tmp_path) == {"debian": "http://a.test/debian", "debian-security": "http://b.test/debian-security"}
