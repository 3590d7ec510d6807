"""Foreign engines: the lock is read, packages are checked by their hash, and what cannot be had is said."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import UsageError
from harness.foreign import npm, venv
from harness.foreign.debian import fetch, mirrors
from harness.foreign.install import Installer
from harness.foreign.lock import (
    Debian,
    Foreign,
    Npm,
    Package,
    Unobtainable,
    Venv,
    everything,
    installed_stamp,
    installed_version,
    lock,
    locked_file,
    peers,
    program,
)

debian = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None or platform.machine() != "x86_64", reason="not run: needs dpkg-deb on amd64"
)
BASES = {"debian": "http://mirror.test/debian"}


def engine(data: bytes, sha256: str | None = None, name: str = "true") -> Foreign:
    package = Package("debian", "pool/main/t/true/true_1_amd64.deb", sha256 or hashlib.sha256(data).hexdigest())
    return Foreign(name, "1", "nothing, well", Debian("amd64", f"usr/bin/{name}", "usr/lib", (package,)))


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
    assert isinstance(found.source, Debian)
    assert all(len(part.sha256) == 64 for part in found.source.packages)
    assert any(not part.library for part in found.source.packages)


@pytest.mark.parametrize("one", everything(), ids=lambda one: one.name)
def test_everything_in_the_lock_has_a_hash(one: Foreign) -> None:
    if isinstance(one.source, Venv):
        lines = [line for line in locked_file(one.source.requirements).splitlines() if not line.startswith("#")]
        pinned = [number for number, line in enumerate(lines) if "==" in line]
        assert any(line.startswith(one.name) and f"=={one.version} " in line for line in lines)
        assert all("--hash=sha256:" in lines[number + 1] for number in pinned)
    elif isinstance(one.source, Npm):
        packages = json.loads(locked_file(f"{one.source.folder}/package-lock.json"))["packages"]
        assert packages[f"node_modules/{one.source.module}"]["version"] == one.version
        # What another system would need is not in the registry; npm wants its name, and never fetches it here.
        lacking = {name for name, entry in packages.items() if name and "integrity" not in entry}
        assert all(packages[name]["os"] != ["linux"] and packages[name]["optional"] for name in lacking)


def test_another_lock_is_another_stamp() -> None:
    (found,) = [one for one in peers() if one.name == "qh3"]
    assert isinstance(found.source, Venv)
    other = dataclasses.replace(found, source=dataclasses.replace(found.source, requirements="foreign/aiopquic.txt"))
    assert other.version == found.version
    assert other.stamp != found.stamp


def test_a_python_that_is_not_here_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unobtainable, match=r"needs Python 2\.0 or 2\.1: neither on the path nor under pyenv"):
        venv.install(Venv("foreign/qh3.txt", ("2.0", "2.1"), "bin/python"), tmp_path)


def test_this_python_is_found() -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert venv.find_python(("2.0", version)) == (sys.executable, version)


def test_a_node_that_is_too_old_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npm, "node_version", lambda: 18)
    with pytest.raises(Unobtainable, match="needs node 20 or later with npm: 18"):
        npm.install(Npm("foreign/matrixai-quic", 20, "@matrixai/quic"), tmp_path)


def test_what_is_not_whole_is_installed_again(tmp_path: Path) -> None:
    (found,) = [one for one in peers() if one.name == "qh3"]
    (tmp_path / "qh3").mkdir()
    assert installed_version(found, tmp_path) is None
    (tmp_path / "qh3" / "VERSION").write_text(f"{found.version} 0000\n")
    assert installed_version(found, tmp_path) == found.version
    assert installed_stamp(found, tmp_path) != found.stamp


@pytest.mark.parametrize(
    "text", ["engine = 1", "[[engine]]", "[[engine]]\nname =", "", '[[engine]]\nname = "x"\nkind = "rpm"']
)
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


class TestRun:
    """`edgecase foreign run`, as far as it comes without anything installed."""

    def test_mistakes_are_one_line_each(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "ca.pem"
        file.touch()
        mistakes = {
            ("nobody", "client", "127.0.0.1:1"): "foreign run: found 'nobody', allowed is a peer of the lock",
            ("qh3", "client", "127.0.0.1"): "foreign run: found '127.0.0.1', allowed is HOST:PORT",
            ("qh3", "client", "127.0.0.1:65536"): "foreign run: found '127.0.0.1:65536', allowed is HOST:PORT",
            ("qh3", "client", "127.0.0.1:1"): "foreign run: a client needs --ca, the roots that it trusts",
            (
                "qh3",
                "client",
                "127.0.0.1:1",
                "--ca",
                "none.pem",
            ): "foreign run: --ca: found 'none.pem', allowed is a file",
            ("qh3", "server", "127.0.0.1:0", "--certificate", str(file)): "foreign run: --certificate needs --key",
            ("qh3", "client", "127.0.0.1:1", "--ca", str(file)): "foreign run: qh3 2.1.0 is not installed",
        }
        for words, expected in mistakes.items():
            assert main(["foreign", "run", *words, "--alpn", "a", "--folder", str(tmp_path)]) == 2
            told = capsys.readouterr().err
            assert told.startswith(f"edgecase: {expected}"), told
            assert len(told.splitlines()) == 1

    def test_what_is_not_there_is_listed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["foreign", "list", "--folder", str(tmp_path)]) == 0
        told = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in told] == [one.name for one in everything()]
        assert "aiopquic: peer: not here (the lock has 0.6.1: run `edgecase foreign install`)" in told

    def test_an_unknown_name_is_not_installed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["foreign", "install", "nobody"]) == 2
        assert "found 'nobody', allowed is a name of the lock" in capsys.readouterr().err
