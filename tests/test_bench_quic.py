"""The QUIC side of the load, against itself: what it sends arrives, and what is wrong is noticed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.bench import quic_client
from harness.bench.blocks import BLOCK, LAST, MORE, WrongBytes
from harness.bench.http3 import new_sessions
from harness.bench.quic import Comparer, QuicClient, UdpUpstream, Upload
from harness.bench.quic_packets import packets
from harness.bench.streams import Target
from harness.peer.tls_pki import authority

NAME = "upstream.bench.test"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder: Path = tmp_path_factory.mktemp("pki")
    files = authority("Edgecase bench CA").issue(NAME).write(folder)
    upstream = UdpUpstream(new_sessions([str(files["chain"]), str(files["key"])])["quic"])
    threading.Thread(target=upstream.run, daemon=True).start()
    return Target("127.0.0.1", upstream.port, NAME, str(files["ca"]))


@pytest.mark.parametrize("name", ["down", "up", "datagrams", "connections", "handshake"])
def test_each_action_gives_a_sample(target: Target, name: str) -> None:
    sample = getattr(quic_client, name)(target, "", 0.05, {})
    assert sample.rate > 0
    assert sample.seconds > 0


def test_a_changed_octet_is_noticed() -> None:
    comparer = Comparer()
    assert not comparer.feed(MORE[:100])
    assert not comparer.feed(MORE[100:] + LAST[:5])
    with pytest.raises(WrongBytes, match=f"behind {BLOCK + 5} are not"):
        comparer.feed(b"?" + LAST[6:])


def test_the_last_block_ends_the_bulk() -> None:
    comparer = Comparer()
    assert comparer.feed(MORE + LAST)
    assert comparer.octets == 2 * BLOCK


def test_an_upstream_that_got_wrong_octets_ends_the_connection(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic_client, "Upload", _Liar)
    with pytest.raises(OSError, match="wrong octets"):
        quic_client.up(target, "", 0.05, {})


class _Liar(Upload):
    def fill(self) -> None:
        if not self.octets:
            self._connection.send_stream_data(self._stream_id, b"\x00" + bytes(64))
            self.octets = BLOCK


def test_a_client_that_does_not_trust_the_upstream_says_so(target: Target) -> None:
    stranger = Target(target.address, target.port, "other.test", target.ca_file)
    with pytest.raises(OSError, match="the QUIC connection ended"):
        QuicClient(stranger)


def test_packets_are_taken_whole_and_the_rest_is_kept() -> None:
    rest = bytearray(b"\0\0\0\x02ab\0\0\0\0\0\0\0\x03x")
    assert packets(rest) == [b"ab", b""]
    assert rest == b"\0\0\0\x03x"
