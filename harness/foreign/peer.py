"""Running a peer that others made: its command line, from where the lock put it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from harness.foreign.lock import Foreign, Npm, Unobtainable, Venv, folder, http_programs, installed_stamp, peers

CLIENT, SERVER = ROLES = ("client", "server")


def find(name: str) -> Foreign | None:
    """The QUIC peer, or the HTTP client or server, of the lock with this name, or `None`."""
    return next((peer for peer in (*peers(), *http_programs()) if peer.name == name), None)


def installed(peer: Foreign, root: Path | None = None) -> bool:
    """Whether it lies there as it is locked, with what runs it."""
    has_runtime = not isinstance(peer.source, Npm) or shutil.which("node") is not None
    return has_runtime and installed_stamp(peer, root or folder()) == peer.stamp


def command(peer: Foreign, words: Sequence[str], root: Path | None = None) -> list[str]:
    """The command line that runs `peer` with `words` (`client`, `--address`, ..). Raises `Unobtainable` where it is not
    installed."""
    where = (root or folder()).absolute()
    if not installed(peer, where):
        raise Unobtainable(f"{peer.name} {peer.version} is not installed: run `edgecase foreign install`")
    home = where / peer.name
    script = str(resources.files("harness.foreign") / "peers" / peer.script)
    if isinstance(peer.source, Npm):
        return [shutil.which("node") or "node", script, str(home), *words]
    assert isinstance(peer.source, Venv), "a peer is a venv or a package of npm"
    # -I: its own packages, whatever PYTHONPATH says; no bytecode beside our script.
    return [str(home / peer.source.program), "-I", "-B", script, peer.name, *words]


def run(peer: Foreign, words: Sequence[str], root: Path | None = None) -> int:
    """Run `peer` with our own stdin and stdout until it ends; its exit code. Raises `Unobtainable`."""
    environment = {name: value for name, value in os.environ.items() if name != "SSLKEYLOGFILE"}
    return subprocess.run(command(peer, words, root), check=False, env=environment).returncode
