"""Our QUIC packets against the samples of RFC 9001 appendix A and RFC 9369 appendix A, and codecs by the RFCs."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.wire.quic import VERSION_1, VERSION_2, Parameters, QuicUsageError
from harness.wire.quic.codec import DecodeError, QuicReader, Ranges, varint
from harness.wire.quic.crypto import PacketKeys, Undecryptable, initial_keys, initial_secrets
from harness.wire.quic.frames import (
    Ack,
    ConnectionClose,
    Crypto,
    DataBlocked,
    Datagram,
    Frame,
    FrameError,
    HandshakeDone,
    MaxData,
    MaxStreamData,
    MaxStreams,
    NewConnectionId,
    NewToken,
    Padding,
    PathChallenge,
    PathResponse,
    Ping,
    ResetStream,
    RetireConnectionId,
    StopSending,
    Stream,
    StreamDataBlocked,
    StreamsBlocked,
    decode_frames,
)
from harness.wire.quic.numbers import MAX_VARINT, PacketKind, ParameterId
from harness.wire.quic.packet import (
    Outgoing,
    Unmasked,
    build_negotiation,
    build_retry,
    parse_header,
    retry_is_genuine,
    unmask,
)
from harness.wire.tls.numbers import SUITES, TLS_CHACHA20_POLY1305_SHA256
from tests import quic_vectors

FIRST = bytes.fromhex("8394c8f03e515708")
SERVER_ID = bytes.fromhex("f067a5502a4262b5")
VERSIONS = [
    pytest.param(VERSION_1, quic_vectors.VERSION_1, id="v1"),
    pytest.param(VERSION_2, quic_vectors.VERSION_2, id="v2"),
]
Vectors = dict[str, bytes]


@pytest.mark.parametrize(("version", "vectors"), VERSIONS)
class TestSamplePackets:
    """RFC 9001 appendix A; RFC 9369 appendix A."""

    def test_keys(self, version: int, vectors: Vectors) -> None:
        assert initial_secrets(version, FIRST) == (vectors["client_secret"], vectors["server_secret"])
        for side, keys in zip(("client", "server"), initial_keys(version, FIRST), strict=True):
            wanted = vectors[f"{side}_key"], vectors[f"{side}_iv"], vectors[f"{side}_hp"]
            assert (keys.key, keys.iv, keys.header_key) == wanted

    def test_client_initial(self, version: int, vectors: Vectors) -> None:
        keys, _ = initial_keys(version, FIRST)
        payload = vectors["client_crypto"].ljust(1162, b"\0")
        outgoing = Outgoing(kind=PacketKind.INITIAL, version=version, destination=FIRST, number=2, number_length=4)
        assert outgoing.seal(keys, payload) == vectors["client_packet"]
        assert self._open(keys, vectors["client_packet"]) == (2, payload)
        first, padding = decode_frames(payload)
        assert isinstance(first, Crypto)
        assert padding == Padding(1162 - len(vectors["client_crypto"]))

    def test_server_initial(self, version: int, vectors: Vectors) -> None:
        _, keys = initial_keys(version, FIRST)
        outgoing = Outgoing(kind=PacketKind.INITIAL, version=version, destination=b"", source=SERVER_ID, number=1)
        assert outgoing.seal(keys, vectors["server_payload"]) == vectors["server_packet"]
        assert self._open(keys, vectors["server_packet"]) == (1, vectors["server_payload"])

    def test_retry(self, version: int, vectors: Vectors) -> None:
        packet = vectors["retry"]
        # The samples have the unused bits of the first octet set.
        header = parse_header(packet, 0, 8)
        assert (header.kind, header.token, header.source) == (PacketKind.RETRY, b"token", SERVER_ID)
        assert retry_is_genuine(packet, header, FIRST)
        assert not retry_is_genuine(packet, header, b"another")
        ours = build_retry(version, b"", SERVER_ID, b"token", FIRST)
        assert retry_is_genuine(ours, parse_header(ours, 0, 8), FIRST)
        assert ours[1:-16] == packet[1:-16]

    def test_chacha_short_header(self, version: int, vectors: Vectors) -> None:
        keys = PacketKeys(version, SUITES[TLS_CHACHA20_POLY1305_SHA256], vectors["chacha_secret"])
        wanted = vectors["chacha_key"], vectors["chacha_iv"], vectors["chacha_hp"]
        assert (keys.key, keys.iv, keys.header_key) == wanted
        assert keys.updated().secret == vectors["chacha_ku"]
        assert keys.updated().header_key == keys.header_key
        outgoing = Outgoing(kind=PacketKind.SHORT, version=version, destination=b"", number=654360564, number_length=3)
        assert outgoing.seal(keys, b"\x01") == vectors["chacha_packet"]
        header = parse_header(vectors["chacha_packet"], 0, 0)
        clear = unmask(keys, vectors["chacha_packet"], header)
        assert clear.number(654360560) == 654360564
        assert keys.open(clear.header, 654360564, vectors["chacha_packet"][4:]) == b"\x01"

    def test_one_flipped_bit(self, version: int, vectors: Vectors) -> None:
        _, keys = initial_keys(version, FIRST)
        packet = bytearray(vectors["server_packet"])
        packet[-1] ^= 1
        with pytest.raises(Undecryptable):
            self._open(keys, bytes(packet))

    @staticmethod
    def _open(keys: PacketKeys, packet: bytes) -> tuple[int, bytes]:
        header = parse_header(packet, 0, 8)
        assert header.end == len(packet)
        clear = unmask(keys, packet, header)
        number = clear.number(0)
        return number, keys.open(clear.header, number, packet[header.number_at + clear.length : header.end])


@pytest.mark.parametrize(
    ("octets", "number"),
    [
        ("c2197c5eff14e88c", 151288809941952652),
        ("9d7f3e7d", 494878333),
        ("7bbd", 15293),
        ("25", 37),
        ("4025", 37),
    ],
)
def test_variable_length_integers(octets: str, number: int) -> None:
    """RFC 9000 appendix A.1."""
    data = bytes.fromhex(octets)
    assert QuicReader(data, "test").varint() == number
    assert varint(number, len(data)) == data


@given(st.integers(0, MAX_VARINT))
def test_shortest_integers(number: int) -> None:
    data = varint(number)
    assert QuicReader(data, "test").varint() == number
    assert len(data) == next(size for size in (1, 2, 4, 8) if number < 1 << (8 * size - 2))


def test_integers_that_do_not_fit() -> None:
    with pytest.raises(QuicUsageError, match="does not fit"):
        varint(1 << 62)
    with pytest.raises(QuicUsageError, match="does not fit"):
        varint(64, 1)


def test_packet_numbers() -> None:
    """RFC 9000 appendix A.3, and around the edges of the window."""
    assert Unmasked(0, b"", 0x9B32, 2).number(0xA82F30EA + 1) == 0xA82F9B32
    for length in (1, 2, 3, 4):
        window = 1 << 8 * length
        for expected in (0, 1, window - 1, window, 5 * window + 7):
            for actual in range(max(0, expected - window // 2 + 1), expected + window // 2, window // 4):
                assert Unmasked(0, b"", actual % window, length).number(expected) == actual


FRAMES: list[Frame] = [
    Padding(3),
    Ping(),
    Ack(((7, 9), (3, 3), (0, 1)), 25),
    Ack(((5, 5),), 0, (1, 2, 3)),
    ResetStream(4, 9, 1 << 40),
    StopSending(8, 77),
    Crypto(5, b"hello"),
    NewToken(b"t"),
    Stream(0),
    Stream(4, 9, b"data", fin=True),
    MaxData(1 << 30),
    MaxStreamData(4, 99),
    MaxStreams(7),
    MaxStreams(7, bidirectional=False),
    DataBlocked(1),
    StreamDataBlocked(4, 2),
    StreamsBlocked(1),
    StreamsBlocked(1, bidirectional=False),
    NewConnectionId(3, 1, b"12345678", bytes(16)),
    RetireConnectionId(1),
    PathChallenge(b"12345678"),
    PathResponse(b"12345678"),
    ConnectionClose(10, 6, b"why"),
    ConnectionClose(1 << 61, 0, b"\xff", application=True),
    HandshakeDone(),
    Datagram(b"d"),
]


def test_every_frame_there_and_back() -> None:
    assert list(decode_frames(b"".join(frame.encode() for frame in FRAMES))) == FRAMES
    for last in (Stream(4, 0, b"rest", implicit_length=True), Datagram(b"rest", implicit_length=True)):
        assert list(decode_frames(Ping().encode() + last.encode())) == [Ping(), last]


@pytest.mark.parametrize("frame", FRAMES[1:], ids=lambda frame: frame.name)
def test_cut_frames(frame: Frame) -> None:
    octets = frame.encode()
    for end in range(1, len(octets)):
        with pytest.raises(FrameError) as error:
            list(decode_frames(octets[:end]))
        assert error.value.frame_type == frame.type


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        ("21", "unknown type 0x21"),
        ("4001", "shortest form"),
        ("02000001" + "00" * 4, "below packet number 0"),
        ("0205000000" + "", "ACK"),
        ("0700", "empty token"),
        ("12d000000000000001", "2\\^60"),
        ("18000000" + "00" * 30, "connection id of 0 octets"),
        ("1800010411111111" + "00" * 16, "retire_prior_to 1 above"),
        ("06ffffffffffffffff0101", "beyond 2"),
        ("0c00ffffffffffffffff01", "beyond 2"),
    ],
)
def test_frames_that_do_not_parse(octets: str, words: str) -> None:
    if words == "ACK":
        assert list(decode_frames(bytes.fromhex(octets))) == [Ack(((5, 5),))]
        return
    with pytest.raises(FrameError, match=words):
        list(decode_frames(bytes.fromhex(octets)))


def test_negotiation_packet() -> None:
    header = parse_header(build_negotiation(b"dst", b"", (VERSION_1, 0x0A0A0A0A)), 0, 8)
    assert (header.kind, header.destination, header.versions) == (
        PacketKind.NEGOTIATION,
        b"dst",
        (VERSION_1, 0x0A0A0A0A),
    )


def test_parameters_keep_order_doubles_and_oddities() -> None:
    found = Parameters().appending(ParameterId.INITIAL_MAX_DATA, 9).appending(0x1B, b"x")
    found = found.appending(ParameterId.INITIAL_MAX_DATA, 8)
    assert Parameters.decode(found.encode()) == found
    assert found.initial_max_data == 9
    assert found.check(from_server=True) == "initial_max_data twice"
    assert found.with_value(ParameterId.INITIAL_MAX_DATA, 7).entries[0] == (4, b"\x07")
    assert found.without(ParameterId.INITIAL_MAX_DATA).entries == ((0x1B, b"x"),)
    assert found.without(ParameterId.INITIAL_MAX_DATA).max_udp_payload_size == 65527


@pytest.mark.parametrize(
    ("number", "value", "words"),
    [
        (ParameterId.MAX_UDP_PAYLOAD_SIZE, 1199, "max_udp_payload_size 1199"),
        (ParameterId.ACK_DELAY_EXPONENT, 21, "ack_delay_exponent 21"),
        (ParameterId.MAX_ACK_DELAY, 1 << 14, "max_ack_delay 16384"),
        (ParameterId.ACTIVE_CONNECTION_ID_LIMIT, 1, "active_connection_id_limit 1"),
        (ParameterId.INITIAL_MAX_STREAMS_UNI, (1 << 60) + 1, "initial_max_streams_uni"),
        (ParameterId.STATELESS_RESET_TOKEN, bytes(15), "15 octets"),
        (ParameterId.DISABLE_ACTIVE_MIGRATION, b"\0", "with a value"),
        (ParameterId.INITIAL_MAX_DATA, b"\x40", "initial_max_data"),
        (ParameterId.INITIAL_MAX_DATA, b"\x01\x01", "after the end"),
        (ParameterId.VERSION_INFORMATION, b"\0\0\0", "version_information"),
        (ParameterId.INITIAL_SOURCE_CONNECTION_ID, bytes(21), "21 octets"),
    ],
)
def test_illegal_parameters(number: int, value: bytes | int, words: str) -> None:
    assert words in (Parameters().appending(number, value).check(from_server=True) or "")


def test_parameters_of_a_server_only() -> None:
    token = Parameters().appending(ParameterId.STATELESS_RESET_TOKEN, bytes(16))
    assert token.check(from_server=True) is None
    assert token.check(from_server=False) == "stateless_reset_token of a client"
    with pytest.raises(DecodeError):
        Parameters.decode(b"\x01\x05\x00")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 12)), max_size=30))
def test_ranges_are_a_set(steps: list[tuple[bool, int, int]]) -> None:
    ranges, model = Ranges(), set[int]()
    for add, start, length in steps:
        if add:
            ranges.add(start, start + length)
            model |= set(range(start, start + length))
        else:
            ranges.subtract(start, start + length)
            model -= set(range(start, start + length))
    assert {number for start, stop in ranges for number in range(start, stop)} == model
    listed = list(ranges)
    assert all(start < stop for start, stop in listed)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(listed))
    assert all((number in ranges) == (number in model) for number in range(60))


def test_header_fields_can_be_broken() -> None:
    legal = Outgoing(kind=PacketKind.SHORT, version=VERSION_1, destination=b"", number=1)
    assert legal.header(0)[0] == 0x41
    assert dataclasses.replace(legal, fixed=False, reserved=3, phase=True).header(0)[0] == 0x1D
