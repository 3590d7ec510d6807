"""The load of the pairs of HTTP versions: against itself, through every bare relay, and what is wrong is noticed."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.bench import http2, http3, pairs
from harness.bench.benchmarks import BENCHMARKS
from harness.bench.blocks import WrongBytes
from harness.bench.client import ACTIONS
from harness.bench.http2 import Connection
from harness.bench.quic import UdpUpstream
from harness.bench.streams import Target
from harness.bench.upstream import Listener
from harness.peer.tls_pki import authority
from tests.bench.pair_relay import Relay

NAME = "upstream.bench.test"
PAIRS = [one for one in BENCHMARKS if one.down]
SECONDS = 0.02


@dataclass
class Upstreams:
    certificate: list[str]
    ca: str
    ports: dict[str, int]

    def target(self, port: int) -> Target:
        return Target("127.0.0.1", port, NAME, self.ca)


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    folder: Path = tmp_path_factory.mktemp("pki")
    files = authority("Edgecase bench CA").issue(NAME).write(folder)
    certificate = [str(files["chain"]), str(files["key"])]
    ports = {}
    for mode in ("http", "h2c"):
        listener = Listener(mode, certificate)
        listener.start()
        ports[mode] = listener.port
    datagrams = UdpUpstream(http3.new_sessions(certificate)["h3"])
    threading.Thread(target=datagrams.run, daemon=True).start()
    return Upstreams(certificate, str(files["ca"]), {**ports, "h3": datagrams.port})


def test_each_pair_has_small_requests_and_bulk() -> None:
    named = {f"http-{down}-{up}{what}" for down in pairs.DOWN for up in pairs.UP for what in ("", "-bulk")}
    assert {one.name for one in PAIRS} == named
    assert {one.bare for one in PAIRS} == {f"{down}-{up}" for down in pairs.DOWN for up in pairs.UP}
    by_name = {one.name: one for one in PAIRS}
    assert by_name["http-h2-h3"].features == {"http.downstream-h2", "http.h3"}
    assert (by_name["http-h2-h3"].mode, by_name["http-h2-h3"].direct) == ("h3", "h2c")
    assert by_name["http-h1-h1"].features == {"http.h1"}
    assert by_name["http-h3-h1-bulk"].direct == "h3"


@pytest.mark.parametrize("name", ["requests", "h1-bulk", "h2", "h2-bulk", "h3", "h3-bulk"])
def test_each_client_gives_a_sample_without_anything_between(upstreams: Upstreams, name: str) -> None:
    mode = {"h2": "h2c", "h3": "h3"}.get(name[:2], "http")
    sample = ACTIONS[name](upstreams.target(upstreams.ports[mode]), NAME, SECONDS, {})
    assert sample.rate > 0
    assert sample.seconds > 0


@contextmanager
def relay(pair: str, certificate: list[str], upstream: int) -> Iterator[int]:
    command = [sys.executable, "-W", "error", "-m", "tests.bench.pair_relay", pair, *certificate, str(upstream)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()
            _, told = process.communicate()
    assert told == b"", told.decode()


@pytest.mark.parametrize("pair", sorted({one.bare for one in PAIRS}))
def test_each_bare_relay_carries_both_loads(upstreams: Upstreams, pair: str) -> None:
    with relay(pair, upstreams.certificate, upstreams.ports[pairs.MODES[pair.partition("-")[2]]]) as port:
        for benchmark in PAIRS:
            if benchmark.bare == pair:
                assert ACTIONS[benchmark.action](upstreams.target(port), NAME, SECONDS, {}).rate > 0


# -- what is compared


def test_content_that_changed_is_noticed() -> None:
    body = pairs.Body(pairs.BODY)
    body.feed(pairs.BODY[:1000])
    with pytest.raises(WrongBytes, match="the content behind 1000 octets is not what was sent"):
        body.feed(b"?" + pairs.BODY[1001:2000])
    with pytest.raises(WrongBytes, match="is not what was sent"):
        pairs.Body(b"").feed(pairs.SMALL + b"x")
    short = pairs.Body(b"")
    short.feed(pairs.SMALL[:10])
    with pytest.raises(WrongBytes, match="10 of 64 octets of content"):
        short.end()
    with pytest.raises(WrongBytes, match="a response that is no 200"):
        short.head({b":status": b"502"})
    with pytest.raises(WrongBytes, match="0 of 1048576 octets of a request's content"):
        pairs.Body(pairs.BODY).answer()


# -- HTTP/2 by hand


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!BHBBL", 0, len(payload), kind, flags, stream) + payload


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs


def sent(theirs: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += theirs.recv(size - len(data))
    return data


def test_content_leaves_as_the_other_side_gives_credit(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    wire = Connection(ours, client=True)
    wire.flush()
    sent(theirs, len(http2.PREFACE) + 9 + 12 + 9 + 4)
    theirs.sendall(frame(http2.SETTINGS, 0, 0, struct.pack("!HL", 4, 10)))
    assert wire.read() == []
    wire.head(1, [(":method", "POST")], end=False)
    wire.content(1, b"0123456789abcdef")
    wire.flush()
    head = sent(theirs, 9 + 9)
    assert head[:9] == frame(http2.SETTINGS, http2.ACK, 0, b"")
    sent(theirs, head[9 + 2])
    assert sent(theirs, 19) == frame(http2.DATA, 0, 1, b"0123456789")
    theirs.sendall(frame(http2.WINDOW_UPDATE, 0, 1, struct.pack("!L", 3)))
    assert wire.read() == []
    wire.flush()
    assert sent(theirs, 12) == frame(http2.DATA, 0, 1, b"abc")
    theirs.sendall(frame(http2.WINDOW_UPDATE, 0, 1, struct.pack("!L", 100)))
    assert wire.read() == []
    wire.flush()
    assert sent(theirs, 12) == frame(http2.DATA, http2.END_STREAM, 1, b"def")


def test_frames_arrive_split_anywhere(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    wire = Connection(ours, client=True)
    data = frame(http2.PING, 0, 0, b"12345678") + frame(http2.DATA, http2.END_STREAM, 1, b"content")
    found: list[http2.Message] = []
    for octet in data:
        theirs.sendall(bytes([octet]))
        found += wire.read() or []
    assert found == [(1, None, b"content", True)]
    wire.flush()
    greeting = sent(theirs, len(http2.PREFACE) + 9 + 12 + 9 + 4)
    assert greeting.startswith(http2.PREFACE)
    assert sent(theirs, 17) == frame(http2.PING, http2.ACK, 0, b"12345678")
    theirs.close()
    assert wire.read() is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (frame(http2.RST_STREAM, 0, 1, b"\0\0\0\2"), "RST_STREAM on stream 1"),
        (frame(http2.GOAWAY, 0, 0, bytes(8)), "GOAWAY"),
        (frame(http2.DATA, 0x8, 1, b"\x01a\0"), "flags 0x8, which the load does not read"),
        (frame(http2.HEADERS, 0, 1, b"\x82"), "a field section of several frames"),
    ],
)
def test_what_is_no_answer_is_named(ends: tuple[socket.socket, socket.socket], data: bytes, said: str) -> None:
    ours, theirs = ends
    theirs.sendall(data)
    with pytest.raises(WrongBytes, match=said):
        Connection(ours, client=True).read()


def test_an_upstream_of_http2_is_spoken_to_in_http2(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(WrongBytes, match="no HTTP/2"):
        http2.serve(ours)


# -- HTTP/3 by hand


def test_frames_of_http3_arrive_split_anywhere() -> None:
    sections = http3.Sections()
    fields = pairs.request_fields("x.test", pairs.BODY)
    data = b"\x21\x02ab" + sections.frame(fields) + http3.content_frame(b"content" * 20)
    for size in (1, 2, 3, 7, len(data)):
        frames = http3.Frames()
        found = [each for at in range(0, len(data), size) for each in frames.feed(data[at : at + size])]
        assert found[0] == (0x21, b"ab")
        assert sections.read(0, found[1][1]) == {name.encode(): value.encode() for name, value in fields}
        assert {kind for kind, _ in found[2:]} == {http3.DATA}
        assert b"".join(payload for _, payload in found[2:]) == b"content" * 20


def test_a_bare_relay_makes_its_upstream_side_anew_once_it_is_lost() -> None:
    one = Relay("h1-h1", "chain.pem", "key.pem", 1)
    first = one.upstream_side()
    assert one.upstream_side() is first
    first.lost = True
    assert one.upstream_side() is not first
