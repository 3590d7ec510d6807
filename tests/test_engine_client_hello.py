"""The edge's reader of ClientHellos: complete, bounded, and never surprised."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_engine.edge.client_hello import (
    ClientHello,
    HelloError,
    HelloReader,
    alert_record,
    parse_client_hello,
)
from tests.engine_tls_support import client_hello

MOST = 65_536


def records(message: bytes, size: int = 16_384, version: bytes = b"\x03\x01") -> bytes:
    """A handshake message in records of at most `size` octets."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16" + version + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, data)


def names(*entries: tuple[int, bytes]) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for kind, name in entries)))


def alpn(*protocols: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in protocols)))


def hello(*extensions: bytes, block: bool = True, behind: bytes = b"", version: int = 0x0303) -> bytes:
    """A ClientHello message, with its header."""
    body = version.to_bytes(2, "big") + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    if block:
        body += vector(2, b"".join(extensions))
    body += behind
    return b"\x01" + vector(3, body)


def read(data: bytes, most: int = MOST) -> ClientHello:
    found = HelloReader(most).feed(data)
    assert found is not None
    return found


def alert_of(data: bytes, most: int = MOST) -> int | None:
    with pytest.raises(HelloError) as caught:
        HelloReader(most).feed(data)
    return caught.value.alert


def test_reads_what_a_real_client_writes() -> None:
    found = read(client_hello("A.T.edge.test", alpns=("h2", "http/1.1")))
    assert found.server_name == "A.T.edge.test"
    assert found.alpns == ("h2", "http/1.1")
    assert 0x0304 in found.versions
    assert 0x001D in found.groups
    assert not found.alpn_malformed


def test_reads_a_hello_of_tls_1_2() -> None:
    found = read(client_hello(None, version=ssl.TLSVersion.TLSv1_2))
    assert found.server_name is None
    assert found.versions == (0x0303,)


def test_octet_by_octet() -> None:
    data = client_hello("a.t.edge.test")
    reader = HelloReader(MOST)
    for at in range(len(data) - 1):
        assert reader.feed(data[at : at + 1]) is None
    found = reader.feed(data[-1:])
    assert found is not None
    assert found.server_name == "a.t.edge.test"
    assert reader.raw == data


@pytest.mark.parametrize("size", [1, 2, 100, 16_384])
@pytest.mark.parametrize("version", [b"\x03\x00", b"\x03\x01", b"\x03\x03", b"\x03\xff"])
def test_over_any_records_of_any_version(size: int, version: bytes) -> None:
    message = hello(names((0, b"a.t.edge.test")), extension(21, bytes(3000)))
    assert read(records(message, size, version)).server_name == "a.t.edge.test"


def test_a_hello_of_more_than_one_full_record() -> None:
    message = hello(names((0, b"a.t.edge.test")), extension(21, bytes(30_000)))
    assert read(records(message)).server_name == "a.t.edge.test"


def test_what_follows_the_hello_is_kept_and_not_looked_at() -> None:
    data = records(hello(names((0, b"a")))) + b"anything at all"
    reader = HelloReader(MOST)
    assert reader.feed(data) is not None
    assert reader.raw == data


def test_a_hello_without_extensions_is_well_formed() -> None:
    found = read(records(hello(block=False)))
    assert (found.server_name, found.alpns, found.versions) == (None, (), (0x0303,))


def test_unknown_extensions_and_name_types_are_passed_over() -> None:
    message = hello(extension(0x0A0A, b""), extension(0x1A1A, bytes(4096)), names((9, b"odd"), (0, b"a.edge.test")))
    assert read(records(message)).server_name == "a.edge.test"


def test_odd_octets_in_a_name_stay_apart_from_every_real_name() -> None:
    found = read(records(hello(names((0, b"a\0.edge\xff")))))
    assert found.server_name == "a\0.edge\udcff"


def test_a_malformed_alpn_extension_is_noted() -> None:
    for bad in (
        alpn(b""),
        extension(16, b""),
        extension(16, b"\0\0"),
        extension(16, b"\0\x05\x09abc"),
        extension(16, b"\0\x02\x01ab"),
        alpn(b"a") + alpn(b"b"),
    ):
        found = read(records(hello(names((0, b"a.edge.test")), bad)))
        assert found.alpn_malformed
        assert found.alpns == ()
        assert found.server_name == "a.edge.test"


def test_malformed_versions_fall_back_to_the_legacy_version() -> None:
    assert read(records(hello(extension(43, b"\x03\x03\x04\x03")))).versions == (0x0303,)
    assert read(records(hello(extension(43, b"\x02\x03\x04")))).versions == (0x0304,)
    assert read(records(hello(version=0x0304))).versions == (0x0303,)


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n", None, id="HTTP"),
        pytest.param(b"\x80\x2e\x01\x00\x02", None, id="SSLv2"),
        pytest.param(b"\x16\x02\x00\x00\x05", None, id="record version 2"),
        pytest.param(b"\x17\x03\x03\x00\x01x", 10, id="application data first"),
        pytest.param(b"\x15\x03\x03\x00\x02\x01\x00", 10, id="alert first"),
        pytest.param(b"\x16\x03\x01\x40\x01", 22, id="record of 16385"),
        pytest.param(b"\x16\x03\x01\x00\x00", 10, id="empty record"),
        pytest.param(records(b"\x02\x00\x00\x00"), 10, id="ServerHello first"),
        pytest.param(records(hello()[:10]) + b"\x17\x03\x03\x00\x01x", 10, id="interleaved record"),
        pytest.param(records(b"\x01\xff\xff\xff"), 47, id="16 MiB announced"),
        pytest.param(records(hello(behind=b"\0")), 50, id="stray octet behind the extensions"),
        pytest.param(records(b"\x01\x00\x00\x02\x03\x03"), 50, id="cut short"),
        pytest.param(records(hello(b"\0\0\0\x09ab")), 50, id="extension overruns the block"),
        pytest.param(records(hello(extension(0, b""))), 50, id="empty server_name"),
        pytest.param(records(hello(extension(0, b"\0\0"))), 50, id="no name"),
        pytest.param(records(hello(names((0, b"")))), 50, id="name of no octets"),
        pytest.param(records(hello(extension(0, b"\xff\xff\0\0\1a"))), 50, id="name list overruns"),
        pytest.param(records(hello(extension(0, b"\0\x04\0\xff\xffa"))), 50, id="name overruns"),
        pytest.param(records(hello(extension(0, b"\0\x04\0\0\1a!"))), 50, id="octets behind the list"),
        pytest.param(records(hello(names((0, b"a"), (0, b"b")))), 47, id="two host names"),
        pytest.param(records(hello(names((0, b"a")), names((0, b"b")))), 47, id="two server_name extensions"),
        pytest.param(records(hello(names((7, b"a")))), 50, id="only unknown name types"),
    ],
)
def test_what_is_no_hello_gets_its_alert(data: bytes, alert: int | None) -> None:
    assert alert_of(data) == alert


def test_the_limit_holds_for_records_and_for_messages() -> None:
    message = hello(names((0, b"a.edge.test")), extension(21, bytes(2000)))
    assert alert_of(records(message), most=1000) == 47
    assert alert_of(records(message, 1)[:5000], most=4000) == 47


def test_alert_record() -> None:
    assert alert_record(112) == bytes.fromhex("15030300020270")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=600))
def test_no_octets_break_the_parser(body: bytes) -> None:
    with contextlib.suppress(HelloError):
        parse_client_hello(body)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 520), st.integers(0, 255), st.integers(1, 64))
def test_no_changed_octet_breaks_the_reader(at: int, value: int, step: int) -> None:
    data = bytearray(client_hello("a.t.edge.test", alpns=("rstrm/1",)))
    data[at % len(data)] = value
    reader = HelloReader(4096)
    with contextlib.suppress(HelloError):
        for start in range(0, len(data), step):
            if reader.feed(bytes(data[start : start + step])) is not None:
                break
