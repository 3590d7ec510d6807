"""QUIC peers in processes of their own: those of the lock, and aioquic of this project as their double."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.foreign import peer as foreign_peer
from harness.foreign.peers import quic_asyncio
from harness.peer.tls_pki import Leaf

STOCK = "aioquic"
ALPN = "edgecase-test/1"
SECONDS = 30
CLIENT_WORDS = ("--streams", "3", "--unis", "2", "--datagrams", "3", "--turn")
SERVER_WORDS = ("--streams", "2", "--octets", "50000")
OCTETS = {"matrixai-quic": "2000"}
"""What a client puts on each stream where it is not 50,000. This one writes a FIN apart from its data, and quiche may
drop it where the first congestion window is full (cloudflare/quiche issue 2525)."""
CLIENT_DONE = {
    "event": "done", "alpn": ALPN, "streams": 3, "unis": 2, "datagrams": 3, "answered": 2, "code": 0,
}  # fmt: skip
SERVER_DONE = {"event": "closed", "alpn": ALPN, "streams": 2, "answered": 3 + 2 + 1, "code": 0}
"""Three streams and two unidirectional ones of the client were answered, and the one with which it handed over."""


@dataclass
class Told:
    """What a peer's process said, and how it ended."""

    events: list[dict[str, Any]]
    code: int
    log: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.events}\n{self.log[-4000:]}"


def command(name: str, words: Sequence[str]) -> list[str]:
    """The command line of a peer, or of its double."""
    if name == STOCK:
        return [sys.executable, "-B", quic_asyncio.__file__, STOCK, *words]
    found = foreign_peer.find(name)
    assert found is not None
    return foreign_peer.command(found, words)


def client(name: str, address: str, ca: Path, server_name: str, *words: str, alpn: str = ALPN) -> Told:
    """Be a client until it is done."""
    done = subprocess.run(
        command(name, ["client", "--address", address, "--alpn", alpn, "--ca", str(ca), "--server-name", server_name,
                       "--seconds", str(SECONDS), *(words or (*CLIENT_WORDS, "--octets", OCTETS.get(name, "50000")))]),
        capture_output=True, text=True, check=False, timeout=2 * SECONDS,
    )  # fmt: skip
    return Told([json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr)


@contextmanager
def server(name: str, identity: Leaf, folder: Path, *words: str, alpn: str = ALPN) -> Iterator[tuple[int, Told]]:
    """A server that answers: its port, and what it said, which is complete when the block is left."""
    folder.mkdir(exist_ok=True)
    files = identity.write(folder)
    process = subprocess.Popen(
        command(name, ["server", "--address", "127.0.0.1:0", "--alpn", alpn, "--certificate", str(files["chain"]),
                       "--key", str(files["key"]), "--seconds", str(SECONDS), *(words or SERVER_WORDS)]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told = Told([], 0, "")
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline() or '{"event": "nothing"}')
        assert first["event"] == "listening", process.communicate(timeout=SECONDS)[1]
        yield first["port"], told
    finally:
        try:
            output, told.log = process.communicate("", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, told.log = process.communicate()
        told.events += [json.loads(line) for line in output.splitlines()]
        told.code = process.returncode
