"""Hostile octets never raise in a QUIC peer, and nothing in it grows without a limit."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.wire.quic import VERSION_1, VERSION_2, Ended, Level, QuicClient, QuicConnection, QuicServer
from harness.wire.quic.frames import (
    Ack,
    Crypto,
    Datagram,
    Frame,
    FrameError,
    MaxStreams,
    NewConnectionId,
    PathChallenge,
    Ping,
    Raw,
    RetireConnectionId,
    StopSending,
    Stream,
    decode_frames,
)
from harness.wire.quic.numbers import PacketKind, Space
from harness.wire.quic.packet import Outgoing
from harness.wire.quic.recovery import MAX_CRYPTO, MAX_RANGES
from harness.wire.quic.state import LOG, MAX_PENDING
from tests.quic_support import Pair, usual_client, usual_server

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATAGRAMS = st.binary(max_size=1500) | st.tuples(
    st.sampled_from([0x80, 0xC0, 0xC3, 0xD0, 0xE0, 0xF0, 0xFF, 0x40]),
    st.sampled_from([VERSION_1, VERSION_2, 0, 0x0A0A0A0A]),
    st.binary(max_size=1400),
).map(lambda parts: bytes((parts[0],)) + parts[1].to_bytes(4, "big") + parts[2])


def drive(wire: QuicConnection, datagram: bytes, now: float) -> None:
    wire.receive(datagram, now)
    wire.outgoing(now)
    when = wire.timer()
    if when is not None:
        wire.expire(max(now, when))
        wire.outgoing(max(now, when))


@QUIET
@given(st.lists(DATAGRAMS, max_size=8))
def test_any_datagrams(datagrams: list[bytes]) -> None:
    client = QuicClient(usual_client())
    client.outgoing(1.0)
    for wire in (client, QuicServer(usual_server()), QuicServer(usual_server(retry=True))):
        for datagram in datagrams:
            drive(wire, datagram, 1.0)


@QUIET
@given(
    st.lists(st.tuples(st.sampled_from(["keep", "keep", "cut", "flip", "double", "glue"]), st.integers(0, 9999))),
)
def test_bent_handshakes(bends: list[tuple[str, int]]) -> None:
    """Every datagram of a handshake may be cut, changed, doubled or made longer on its way."""
    left = iter(bends)

    def bend(index: int, datagram: bytes) -> list[bytes]:
        how, at = next(left, ("keep", 0))
        at %= len(datagram)
        if how == "cut":
            return [datagram[:at]]
        if how == "flip":
            return [datagram[:at] + bytes((datagram[at] ^ 1 << at % 8,)) + datagram[at + 1 :]]
        if how == "double":
            return [datagram, datagram]
        return [datagram + datagram[at:]] if how == "glue" else [datagram]

    pair = Pair(usual_client(tamper_datagram=bend, pto_limit=2), usual_server(tamper_datagram=bend, pto_limit=2))
    now = 1.0
    for _ in range(8):
        for side, other in ((pair.client, pair.server), (pair.server, pair.client)):
            for datagram in side.take(now):
                other.give(datagram, now)
        timers = [when for when in (pair.client.timer(), pair.server.timer()) if when is not None]
        now = max(now, min(timers, default=now))
        pair.client.expire(now)
        pair.server.expire(now)


class Forger:
    """A connected pair, and packets under its keys with any payload."""

    def __init__(self, **more: Any) -> None:
        self.pair = Pair(usual_client(**more), usual_server(**more)).connect()
        self.pair.rest(0.1)
        self.number = {True: 1000, False: 1000}

    def give(self, payload: bytes, *, to_server: bool) -> None:
        sender = (self.pair.client if to_server else self.pair.server).wire
        receiver = self.pair.server if to_server else self.pair.client
        self.number[to_server] += 1
        outgoing = Outgoing(
            kind=PacketKind.SHORT,
            version=VERSION_1,
            destination=sender.remote_id,
            number=self.number[to_server],
        )
        assert sender.one_rtt.write is not None
        receiver.give(outgoing.seal(sender.one_rtt.write, payload), self.pair.now)


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 63, 64, 4 * 127, 16383, 1 << 20, (1 << 60), (1 << 62) - 1])
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Stream, NUMBERS, st.integers(0, 1 << 61), st.binary(max_size=50), st.booleans()),
    st.builds(StopSending, NUMBERS, NUMBERS),
    st.builds(Crypto, st.integers(0, 1 << 61), st.binary(max_size=300)),
    st.builds(MaxStreams, st.integers(0, 1 << 61), st.booleans()),
    st.builds(RetireConnectionId, NUMBERS),
    st.builds(NewConnectionId, NUMBERS, NUMBERS, st.binary(max_size=21), st.binary(min_size=16, max_size=16)),
    st.builds(Datagram, st.binary(max_size=100)),
    st.integers(0, 1 << 61).map(lambda number: Ack(((number, number),))),
    st.builds(Raw, st.binary(min_size=1, max_size=60)),
)


@QUIET
@given(st.lists(st.lists(FRAMES, min_size=1, max_size=4), max_size=6), st.booleans(), st.booleans())
def test_any_frames_under_the_keys(packets: list[list[Frame]], to_server: bool, answer: bool) -> None:
    forger = Forger(answer_violations=answer)
    for frames in packets:
        forger.give(b"".join(frame.encode() for frame in frames), to_server=to_server)
        forger.pair.flush()
    for side in (forger.pair.client, forger.pair.server):
        assert len([event for event in side.events if isinstance(event, Ended)]) <= 1


@QUIET
@given(st.binary(max_size=400))
def test_frames_parse_or_say_why(payload: bytes) -> None:
    try:
        frames = list(decode_frames(payload))
    except FrameError:
        return
    again = b"".join(frame.encode() for frame in frames)
    assert list(decode_frames(again)) == frames


@QUIET
@given(st.binary(max_size=2000), st.sampled_from([Level.INITIAL, Level.HANDSHAKE]))
def test_any_handshake_octets(data: bytes, level: Level) -> None:
    client = QuicClient(usual_client())
    server = QuicServer(usual_server())
    for datagram in client.outgoing(1.0):
        server.receive(datagram, 1.0)
    if level == Level.HANDSHAKE:
        for datagram in server.outgoing(1.0):
            client.receive(datagram, 1.0)
    server.say(Crypto(server.spaces[Space.INITIAL].crypto_out.end if level == Level.INITIAL else 0, data), level=level)
    for datagram in server.outgoing(1.0):
        client.receive(datagram, 1.0)


class TestNothingGrows:
    """What a peer holds has a limit, whatever the other side does."""

    def test_stream_buffers(self) -> None:
        forger = Forger(answer_violations=False, max_data=50_000, max_stream_data=20_000)
        server = forger.pair.server.wire
        for number in range(400):
            forger.give(Stream(4 * (number % 200), 19_999 - number, b"x").encode(), to_server=True)
        held = sum(stream.receive.held for stream in server.table.streams.values() if stream.receive)
        assert held <= 50_000
        assert len(server.table.streams) <= 128

    def test_handshake_buffers(self) -> None:
        forger = Forger(answer_violations=False)
        server = forger.pair.server.wire
        for number in range(300):
            forger.give(Crypto(1 + 1000 * number, bytes(900)).encode(), to_server=True)
        assert server.spaces[Space.APPLICATION].crypto_in.held <= MAX_CRYPTO

    def test_answers_that_wait(self) -> None:
        forger = Forger(answer_violations=False, active_connection_id_limit=4)
        server = forger.pair.server.wire
        for number in range(3000):
            forger.give(PathChallenge(number.to_bytes(8, "big")).encode(), to_server=True)
            new = NewConnectionId(number + 2, number + 2, number.to_bytes(8, "big"), bytes(16))
            forger.give(new.encode(), to_server=True)
            forger.give(RetireConnectionId(number).encode(), to_server=True)
            far = NewConnectionId(1 << 20 | number, 0, bytes(4) + new.connection_id, bytes(16))
            forger.give(far.encode(), to_server=True)
            if number % 2:
                server.outgoing(forger.pair.now)
        assert len(server.spaces[Space.APPLICATION].queue) < 200
        assert server.recovery.in_flight < 2 * server.options.window
        assert len(server.local_ids) <= 20
        assert len(server.remote_ids) <= 5
        assert len(server.spaces[Space.APPLICATION].received) <= MAX_RANGES
        assert len(server.frames) <= LOG
        assert len(server.packets) <= LOG

    def test_streams_that_come_and_go(self) -> None:
        forger = Forger(max_streams_bidi=4)
        server = forger.pair.server.wire
        for number in range(1000):
            forger.give(Stream(4 * number, 0, b"x", fin=True).encode(), to_server=True)
            if server.end is not None:
                break
            server.send_stream(4 * number, b"y", fin=True)
            server.outgoing(forger.pair.now)
        # Not one acknowledgment came: the streams stay, and so does the limit.
        assert server.end is not None
        assert len(server.table.streams) == 4

    def test_received_ranges(self) -> None:
        forger = Forger()
        for _ in range(500):
            forger.number[True] += 1
            forger.give(Ping().encode(), to_server=True)
            forger.pair.server.wire.outgoing(forger.pair.now)
        assert forger.pair.server.wire.recovery.in_flight <= forger.pair.server.wire.options.window + 1200
        forger.give(Ping().encode(), to_server=True)
        assert len(forger.pair.server.wire.spaces[Space.APPLICATION].received) <= MAX_RANGES
        (datagram,) = forger.pair.server.wire.outgoing(forger.pair.now)
        assert len(datagram) < 300

    def test_packets_without_keys(self) -> None:
        client = QuicClient(usual_client())
        client.outgoing(1.0)
        seeded = random.Random(1)
        for _ in range(200):
            client.receive(b"\x41" + client.source_id + seeded.randbytes(100), 1.0)
        assert len(client.pending) == MAX_PENDING

    def test_answers_before_a_connection(self) -> None:
        server = QuicServer(usual_server())
        for _ in range(100):
            server.receive(b"\xc0\x0a\x0a\x0a\x0a\x08" + bytes(8) + b"\x00" + bytes(1200), 1.0)
        assert len(server.outgoing(1.0)) <= 16

    @pytest.mark.parametrize("to_server", [True, False])
    def test_nothing_after_the_end(self, to_server: bool) -> None:
        forger = Forger()
        forger.give(b"\x21", to_server=to_server)
        side = forger.pair.server if to_server else forger.pair.client
        assert side.wire.end is not None
        before = len(side.events)
        for _ in range(50):
            forger.give(Stream(0, 0, b"x").encode(), to_server=to_server)
        assert len(side.events) == before
        sent = sum(side.wire.sizes_sent.values())
        assert len(side.wire.outgoing(forger.pair.now)) == 1
        assert sum(side.wire.sizes_sent.values()) == sent + 1
