"""QUIC peers that others made, in processes of their own, with an application protocol of their own: against aioquic
first, so that a failure behind an engine is the engine's, then through the reference engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.foreign import peer as foreign_peer
from harness.foreign.lock import peers
from harness.peer.tls_pki import upstream_identity
from tests.foreign_quic_support import ALPN, CLIENT_DONE, SECONDS, SERVER_DONE, STOCK, client, server

NAME = "localhost"


def here(name: str) -> object:
    """The peer as a parameter, not run where it is not installed."""
    found = foreign_peer.find(name)
    missing = found is None or not foreign_peer.installed(found)
    return pytest.param(
        name,
        marks=[
            pytest.mark.needs(name),
            pytest.mark.skipif(missing, reason=f"not run: needs {name} (make foreign)"),
        ],
    )


each_peer = pytest.mark.parametrize("name", [here(one.name) for one in peers()])


def test_the_double_exchanges_with_itself(tmp_path: Path) -> None:
    identity = upstream_identity(NAME)
    with server(STOCK, identity, tmp_path) as (port, told):
        heard = client(STOCK, f"127.0.0.1:{port}", tmp_path / "ca.pem", NAME)
    assert (heard.code, heard.events[-1]) == (0, CLIENT_DONE), heard
    assert told.events == [SERVER_DONE], told


@each_peer
class TestAgainstAioquic:
    """Nothing between them."""

    def test_as_client(self, name: str, tmp_path: Path) -> None:
        with server(STOCK, upstream_identity(NAME), tmp_path) as (port, told):
            heard = client(name, f"127.0.0.1:{port}", tmp_path / "ca.pem", NAME)
        assert (heard.code, heard.events[-1]) == (0, CLIENT_DONE), heard
        assert told.events == [SERVER_DONE], told

    def test_as_server(self, name: str, tmp_path: Path) -> None:
        with server(name, upstream_identity(NAME), tmp_path) as (port, told):
            heard = client(STOCK, f"127.0.0.1:{port}", tmp_path / "ca.pem", NAME)
        assert (heard.code, heard.events[-1]) == (0, CLIENT_DONE), heard
        assert told.events == [SERVER_DONE], told

    def test_it_does_not_take_another_name(self, name: str, tmp_path: Path) -> None:
        with server(STOCK, upstream_identity(NAME), tmp_path) as (port, _):
            heard = client(name, f"127.0.0.1:{port}", tmp_path / "ca.pem", "elsewhere.test", "--streams", "1")
        assert heard.code == 1
        assert heard.events[-1]["event"] == "error", heard


@contextmanager
def tunnel(port: int, *words: str) -> Iterator[tuple[str, str, Path]]:
    """A QUIC tunnel of the reference engine to the upstream at `port`, published by `edgecase forward`: where clients
    connect to, the name that they ask for, and the roots that they trust."""
    with running(
        "-m", "reference_engine", "serve", "--json", "--listen", "127.0.0.1:0", "--udp-listen", "127.0.0.1:0"
    ) as line:
        ready = json.loads(line)
        access = ("--engine", ready["agent"], "--server-name", ready["domain"], "--ca-file", ready["ca_file"])
        with running("-m", "harness.cli", "forward", str(port), "--protocol", "quic", *access, *words) as told:
            yield ready["udp"], told.partition(":")[0], Path(ready["ca_file"])


@contextmanager
def running(*words: str) -> Iterator[str]:
    """A program of ours while the block lasts, and the first line that it printed."""
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline()
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


@each_peer
class TestThroughTheEngine:
    """Client, engine, upstream: three QUIC stacks, and an application protocol that none of them knows."""

    @pytest.mark.parametrize("words", [(), ("--tls-alpn", "other/1", "--tls-alpn", ALPN)], ids=["any", "list"])
    def test_as_client(self, name: str, words: tuple[str, ...], tmp_path: Path) -> None:
        with server(STOCK, upstream_identity(NAME), tmp_path) as (port, told), tunnel(port, *words) as (edge, host, ca):
            heard = client(name, edge, ca, host)
        assert (heard.code, heard.events[-1]) == (0, CLIENT_DONE), heard
        assert told.events == [SERVER_DONE], told

    def test_as_upstream(self, name: str, tmp_path: Path) -> None:
        with server(name, upstream_identity(NAME), tmp_path) as (port, told), tunnel(port) as (edge, host, ca):
            heard = client(STOCK, edge, ca, host)
        assert (heard.code, heard.events[-1]) == (0, CLIENT_DONE), heard
        assert told.events == [SERVER_DONE], told

    def test_at_both_ends(self, name: str, tmp_path: Path) -> None:
        with server(name, upstream_identity(NAME), tmp_path) as (port, told), tunnel(port) as (edge, host, ca):
            heard = client(name, edge, ca, host)
        assert (heard.code, heard.events[-1]) == (0, CLIENT_DONE), heard
        assert told.events == [SERVER_DONE], told

    def test_a_protocol_that_is_not_in_the_list(self, name: str, tmp_path: Path) -> None:
        with (
            server(STOCK, upstream_identity(NAME), tmp_path) as (port, told),
            tunnel(port, "--tls-alpn", "other/1") as (edge, host, ca),
        ):
            heard = client(name, edge, ca, host, "--streams", "1", "--seconds", "5")
        assert heard.code == 1
        assert heard.events[-1]["event"] == "error", heard
        assert told.events == []
