"""Datagram channels in DATAGRAM frames: ids, the octets of section 2.5b, and one connection's table of channels."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from reference_engine.agent.datagram_rules import MOST_PACKETS, DatagramRules
from reference_engine.agent.direct import ChannelTable
from reference_engine.relay.bridge import Bridge
from reference_engine.relay.datagram import ChannelClosed
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import TunnelProperties
from tests.engine_tls_support import run

STREAM = "aabbccddeeff001122334455"
OTHER = "0102030405060708090a0b0c"
PEER = Address("192.0.2.1", 5)
RULES = DatagramRules()


@dataclass
class Wire:
    """A connection that keeps what it is given, up to `room` octets a frame and `most` frames."""

    datagram_room: int = 1200
    most: int = 1 << 20
    sent: list[bytes] = field(default_factory=list)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def send_datagram(self, data: bytes) -> bool:
        assert len(data) <= self.datagram_room
        if len(self.sent) >= self.most:
            return False
        self.sent.append(data)
        return True

    async def datagrams_drained(self) -> None:
        while len(self.sent) >= self.most:
            self.freed.clear()
            await self.freed.wait()

    def flush(self) -> None:
        """Nothing waits here."""

    def take(self) -> list[bytes]:
        taken, self.sent = self.sent, []
        self.freed.set()
        return taken


def table(wire: Wire | None = None, buffer: int = 262_144) -> tuple[ChannelTable, Wire]:
    wire = wire or Wire()
    return ChannelTable(wire, RULES, peer=PEER, buffer=buffer), wire


# -- ids and octets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("01020304abcd000000000001", "01020304abcd000000000001"),
        ("ABCDEF010203040506070809", "abcdef010203040506070809"),
        ("01020304-0000-0000-0000-000000000000", "010203040000000000000000"),
        ("  aabbccddeeff001122334455\n", "aabbccddeeff001122334455"),
        ("aabbccddeeff0011223344556677889", "aabbccddeeff001122334455"),
    ],
)
def test_channel_ids_of_the_protocol(text: str, octets: str) -> None:
    assert RULES.channel_id(text) == bytes.fromhex(octets)


@pytest.mark.parametrize(
    "text", ["short", "", "aabbccddeeff00112233445", "zz" * 12, STREAM + "g", "aa" * 11 + "-a", "\u0661" * 24]
)
def test_what_is_no_channel_id(text: str) -> None:
    assert RULES.channel_id(text) is None


def test_the_vector_of_the_protocol() -> None:
    identity = RULES.channel_id(STREAM)
    assert identity is not None
    payload = RULES.payload(identity, bytes.fromhex("0102"), 1200)
    assert payload is not None
    assert payload.hex() == "aabbccddeeff0011223344550102"
    assert RULES.split(payload) == (identity, bytes.fromhex("0102"))
    assert RULES.split(identity) == (identity, b"")
    assert RULES.split(identity[:11]) is None
    assert RULES.split(b"") is None


def test_guaranteed_delivery_is_never_direct() -> None:
    assert RULES.direct(TunnelProperties(type="datagram"))
    assert RULES.direct(TunnelProperties(type="datagram", datagram_guaranteed_delivery=False))
    assert not RULES.direct(TunnelProperties(type="datagram", datagram_guaranteed_delivery=True))


@pytest.mark.parametrize(
    ("properties", "channel", "direct", "silent", "words"),
    [
        ({"type": "datagram"}, True, True, False, None),
        ({"type": "datagram"}, False, True, True, None),
        ({"type": "datagram"}, False, False, False, None),
        ({"type": "bytestream"}, False, False, True, None),
        ({"type": "bytestream"}, True, True, False, "byte stream"),
        ({"type": "datagram"}, True, False, False, "not on this link"),
        ({"type": "datagram", "datagram_guaranteed_delivery": True}, True, True, False, "guarantees"),
        ({"type": "datagram"}, True, True, True, "zero_rtt"),
        ({"type": "datagram", "publish": True, "protocol": "quic", "upstream_tls": True}, False, True, False, "public"),
        ({"type": "datagram", "publish": True, "protocol": "dtls", "upstream_tls": False}, False, True, False, None),
    ],
)
def test_who_may_dial_how(
    properties: dict[str, object], channel: bool, direct: bool, silent: bool, words: str | None
) -> None:
    refusal = RULES.dialled(TunnelProperties(**properties), channel=channel, direct=direct, silent=silent)  # type: ignore[arg-type]
    if words is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.code == 4000
        assert words in refusal.message


# -- the table ---------------------------------------------------------------------------------------------------------


def test_packets_go_to_their_own_channel_and_to_no_other() -> None:
    async def play() -> None:
        channels, wire = table()
        a, b = channels.open(STREAM), channels.open(OTHER)
        assert a is not None
        assert b is not None
        assert a.peer == PEER
        assert not a.reliable
        assert a.send(b"from a")
        assert b.send(b"")
        assert wire.take() == [bytes.fromhex(STREAM) + b"from a", bytes.fromhex(OTHER)]
        channels.came(bytes.fromhex(OTHER) + b"to b")
        channels.came(bytes.fromhex(STREAM))
        assert await b.receive() == b"to b"
        assert await a.receive() == b""
        assert a.receive_now() is None
        assert b.receive_now() is None

    run(play())


def test_one_channel_for_an_id_and_none_for_what_is_no_id() -> None:
    async def play() -> None:
        channels, _ = table()
        first = channels.open(STREAM)
        assert first is not None
        assert channels.open(STREAM) is None
        # Another stream id that stands for the same channel.
        assert channels.open(STREAM.upper() + "ff") is None
        assert channels.open("short") is None
        await first.close()
        assert channels.open(STREAM) is not None
        channels.over("gone")
        assert channels.open(OTHER) is None

    run(play())


@pytest.mark.parametrize("payload", ["", "aabbccddee", "aabbccddeeff0011223344", "ffffffffffffffffffffffff0102", OTHER])
def test_short_and_unknown_ones_are_ignored(payload: str) -> None:
    async def play() -> None:
        channels, _ = table()
        channel = channels.open(STREAM)
        assert channel is not None
        channels.came(bytes.fromhex(payload))
        assert channels.ignored == 1
        channels.came(bytes.fromhex(STREAM) + b"mine")
        assert await channel.receive() == b"mine"
        assert channel.receive_now() is None

    run(play())


def test_what_does_not_fit_is_dropped_whole_and_counted() -> None:
    async def play() -> None:
        channels, wire = table(Wire(datagram_room=100))
        channel = channels.open(STREAM)
        assert channel is not None
        assert channel.max_packet == 88
        assert channel.send(bytes(88))
        assert not channel.send(bytes(89))
        assert channel.send(b"next")
        assert [len(frame) for frame in wire.take()] == [100, 16]
        assert channel.dropped == 1
        wire.datagram_room = -1
        assert channel.max_packet == 0
        assert not channel.send(b"")

    run(play())


@pytest.mark.parametrize("size", [0, 1000])
def test_a_reader_that_is_far_behind_loses_packets_of_its_own_channel_only(size: int) -> None:
    async def play() -> None:
        channels, _ = table(buffer=50_000)
        slow, quick = channels.open(STREAM), channels.open(OTHER)
        assert slow is not None
        assert quick is not None
        for _ in range(1000):
            channels.came(bytes.fromhex(STREAM) + bytes(size))
        kept = 50 if size else MOST_PACKETS
        assert slow.dropped == 1000 - kept
        channels.came(bytes.fromhex(OTHER) + b"x")
        assert await quick.receive() == b"x"
        for _ in range(kept):
            assert await slow.receive() == bytes(size)
        assert slow.receive_now() is None
        channels.came(bytes.fromhex(STREAM) + b"again")
        assert await slow.receive() == b"again"

    run(play())


@pytest.mark.parametrize("how", ["close", "abort", "ended", "over"])
def test_an_end_is_told_once_and_its_id_means_nothing_afterwards(how: str) -> None:
    async def play() -> None:
        channels, wire = table()
        channel = channels.open(STREAM)
        assert channel is not None
        told: list[str] = []
        channel.on_end = told.append
        channels.came(bytes.fromhex(STREAM) + b"before")
        waiting = asyncio.create_task(channel.receive())
        assert await waiting == b"before"
        waiting = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        for _ in range(2):
            match how:
                case "close":
                    await channel.close()
                case "abort":
                    channel.abort("aborted")
                case "ended":
                    channel.ended("by the peer")
                case "over":
                    channels.over("connection lost")
        assert len(told) == 1
        assert len(channels) == 0
        for task in (waiting, asyncio.create_task(channel.drained()), asyncio.create_task(channel.receive())):
            with pytest.raises(ChannelClosed):
                await task
        assert not channel.send(b"late")
        channels.came(bytes.fromhex(STREAM) + b"late")
        assert channels.ignored == 1
        assert wire.sent == []

    run(play())


def test_what_has_come_can_be_read_behind_the_peers_end() -> None:
    async def play() -> None:
        channels, _ = table()
        channel = channels.open(STREAM)
        assert channel is not None
        channels.came(bytes.fromhex(STREAM) + b"last")
        channel.ended("by the peer")
        assert await channel.receive() == b"last"
        with pytest.raises(ChannelClosed, match="by the peer"):
            await channel.receive()

    run(play())


def test_arrival_is_told() -> None:
    async def play() -> None:
        channels, _ = table()
        channel = channels.open(STREAM)
        assert channel is not None
        got: list[bytes] = []
        over: list[str] = []

        def arrived() -> None:
            try:
                while (packet := channel.receive_now()) is not None:
                    got.append(packet)
            except ChannelClosed as problem:
                over.append(problem.reason)

        channel.on_arrival(arrived)
        for packet in (b"1", b"", b"3"):
            channels.came(bytes.fromhex(STREAM) + packet)
        assert got == [b"1", b"", b"3"]
        channel.ended("gone")
        assert over == ["gone"]

    run(play())


def test_the_bridge_waits_for_room_in_the_connection() -> None:
    """It takes no more of one side than the other one can send, and drops nothing that fits."""

    async def play() -> None:
        channels, wire = table(Wire(most=4))
        source, _ = table()
        a, b = source.open(STREAM), channels.open(OTHER)
        assert a is not None
        assert b is not None
        bridging = asyncio.create_task(Bridge().run(a, b))
        for number in range(20):
            source.came(bytes.fromhex(STREAM) + bytes([number]))
        got: list[bytes] = []
        while len(got) < 20:
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(wire.sent) <= 4
            got += wire.take()
        assert got == [bytes.fromhex(OTHER) + bytes([number]) for number in range(20)]
        a.ended("over")
        assert (await bridging).packets == 20
        assert len(channels) == 0

    run(play())
