"""Framed packets: the octets of section 2.5a, and the channel that they are on a byte stream."""

from __future__ import annotations

import asyncio
import random

import pytest

from reference_engine.agent.datagram_rules import DatagramRules
from reference_engine.agent.framed import FramedChannel
from reference_engine.agent.packets import MAX_PACKET, PacketError, PacketReader, frame
from reference_engine.relay.bridge import Bridge
from reference_engine.relay.datagram import ChannelClosed
from tests.engine_tls_support import Pipe, run

SIZES = (0, 1, 3, 4, 1200, MAX_PACKET)


def channels(room: int = 1 << 20, buffer: int = 262_144) -> tuple[FramedChannel, FramedChannel]:
    """Two ends of one stream, as channels; `room` is what the stream takes without being read."""
    a, b = Pipe.pair(room=room)
    rules = DatagramRules()
    return FramedChannel(a, rules, buffer=buffer), FramedChannel(b, rules, buffer=buffer)


async def turns(count: int = 20) -> None:
    """Let everything move that can."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- octets ------------------------------------------------------------------------------------------------------------


def test_the_vector_of_the_protocol() -> None:
    assert frame(bytes.fromhex("0102")).hex() == "000000020102"
    assert frame(b"").hex() == "00000000"


@pytest.mark.parametrize("piece", [1, 3, 7, 65_536])
def test_packets_come_out_whole_however_they_arrive(piece: int) -> None:
    dice = random.Random(piece)
    packets = [dice.randbytes(size) for size in (*SIZES, 2, 0, 0, 9)]
    octets = b"".join(map(frame, packets))
    reader, got = PacketReader(), []
    for start in range(0, len(octets), piece):
        reader.feed(octets[start : start + piece])
        while (packet := reader.next()) is not None:
            got.append(packet)
    assert got == packets
    assert not reader.inside


@pytest.mark.parametrize("length", [65_536, 1 << 24, 0xFFFFFFFF])
def test_a_length_above_the_limit_is_an_error_before_its_octets_come(length: int) -> None:
    reader = PacketReader()
    reader.feed(length.to_bytes(4, "big"))
    with pytest.raises(PacketError):
        reader.next()
    with pytest.raises(PacketError):
        frame(bytes(MAX_PACKET + 1))


# -- the channel -------------------------------------------------------------------------------------------------------


def test_a_channel_carries_packets_of_every_size_both_ways() -> None:
    async def play() -> None:
        a, b = channels()
        for sender, receiver in ((a, b), (b, a)):
            for size in SIZES:
                await sender.drained()
                assert sender.send(bytes([size % 251]) * size)
            assert [await receiver.receive() for _ in SIZES] == [bytes([size % 251]) * size for size in SIZES]
        assert not a.send(bytes(MAX_PACKET + 1))
        assert a.dropped == 1
        assert a.reliable

    run(play())


def test_who_waits_for_room_loses_nothing_and_who_does_not_drops() -> None:
    async def play() -> None:
        a, b = channels(room=1000, buffer=1000)
        taken = sum(a.send(bytes(96)) for _ in range(100))
        # Ten packets with their lengths are 1,000 octets: the queue's mark.
        assert taken == 10
        assert a.dropped == 90
        got = 0

        async def pour() -> None:
            for number in range(500):
                await a.drained()
                assert a.send(number.to_bytes(2, "big") * 48)

        pouring = asyncio.create_task(pour())
        await turns()
        assert not pouring.done()
        for _ in range(taken):
            await b.receive()
        while got < 500:
            assert await b.receive() == got.to_bytes(2, "big") * 48
            got += 1
        await pouring
        assert a.dropped == 90

    run(play())


def test_arrival_is_told_and_taken_without_waiting() -> None:
    async def play() -> None:
        a, b = channels()
        told: list[bytes | None] = []

        def arrived() -> None:
            while (packet := b.receive_now()) is not None:
                told.append(packet)

        b.on_arrival(arrived)
        assert b.receive_now() is None
        for packet in (b"one", b"", b"two"):
            a.send(packet)
        await turns()
        assert told == [b"one", b"", b"two"]

    run(play())


def test_the_end_comes_behind_what_is_queued() -> None:
    async def play() -> None:
        a, b = channels()
        for number in range(50):
            a.send(bytes([number]) * 300)
        await a.close()
        await a.close()
        assert [(await b.receive())[0] for _ in range(50)] == list(range(50))
        for _ in range(2):
            with pytest.raises(ChannelClosed, match="closed"):
                await b.receive()
        assert not a.send(b"late")
        with pytest.raises(ChannelClosed):
            await a.drained()

    run(play())


def test_a_close_that_nobody_takes_the_octets_of_ends_by_itself() -> None:
    async def play() -> None:
        a, b = Pipe.pair(room=10)
        channel = FramedChannel(a, DatagramRules(), close_timeout=0.02)
        channel.send(bytes(1000))
        channel.send(bytes(1000))
        await turns()
        channel.send(bytes(1000))
        await channel.close()
        assert a.log == ["abort: close timed out"]
        assert b.unread > 0

    run(play())


@pytest.mark.parametrize("octets", [b"\0\0", b"\0\0\0\5abcd"])
def test_an_end_inside_a_packet_is_told_as_such(octets: bytes) -> None:
    async def play() -> None:
        a, b = Pipe.pair()
        channel = FramedChannel(b, DatagramRules())
        await a.write(frame(b"whole") + octets)
        await a.end()
        assert await channel.receive() == b"whole"
        with pytest.raises(ChannelClosed, match="inside a packet"):
            await channel.receive()

    run(play())


@pytest.mark.parametrize("way", ["receive", "receive_now"])
def test_too_long_a_packet_ends_the_stream_and_no_packet_is_made_of_it(way: str) -> None:
    async def play() -> None:
        a, b = Pipe.pair()
        channel = FramedChannel(b, DatagramRules())
        await a.write(frame(b"good") + bytes.fromhex("00010000") + b"x" * 100)
        assert await channel.receive() == b"good"
        with pytest.raises(ChannelClosed, match="65536"):
            await channel.receive() if way == "receive" else channel.receive_now()
        assert b.log == ["abort: a packet of 65536 octets is announced"]

    run(play())


def test_a_reset_is_the_end_for_every_waiter() -> None:
    async def play() -> None:
        a, b = Pipe.pair(room=10)
        channel = FramedChannel(b, DatagramRules(), buffer=10)
        channel.send(bytes(100))
        waiting = [asyncio.create_task(channel.drained()), asyncio.create_task(channel.receive())]
        await turns()
        a.abort("cable cut")
        for task in waiting:
            with pytest.raises(ChannelClosed, match="cable cut"):
                await task

    run(play())


# -- the bridge --------------------------------------------------------------------------------------------------------


def test_the_bridge_hands_packets_on_whole_and_ends_both() -> None:
    async def play() -> None:
        near, a = channels()
        far, b = channels()
        bridging = asyncio.create_task(Bridge().run(a, b))
        for number in range(300):
            await near.drained()
            near.send(number.to_bytes(2, "big"))
            await far.drained()
            far.send(b"")
        assert [await far.receive() for _ in range(300)] == [number.to_bytes(2, "big") for number in range(300)]
        assert [await near.receive() for _ in range(300)] == [b""] * 300
        near.send(b"last")
        await near.close()
        assert await far.receive() == b"last"
        with pytest.raises(ChannelClosed):
            await far.receive()
        told = await bridging
        assert (told.packets, told.dropped) == (601, 0)

    run(play())


def test_a_slow_side_holds_the_other_one_back() -> None:
    async def play() -> None:
        near, a = channels(room=1000, buffer=1000)
        far, b = channels(room=1000, buffer=1000)
        bridging = asyncio.create_task(Bridge().run(a, b))
        sent = 0

        async def pour() -> None:
            nonlocal sent
            for number in range(1000):
                await near.drained()
                near.send(number.to_bytes(2, "big") * 50)
                sent += 1

        pouring = asyncio.create_task(pour())
        await turns(500)
        assert sent < 200
        for number in range(1000):
            assert await far.receive() == number.to_bytes(2, "big") * 50
        await pouring
        bridging.cancel()
        await asyncio.gather(bridging, return_exceptions=True)
        with pytest.raises(ChannelClosed, match="bridge ended"):
            await far.receive()

    run(play())


def test_the_bridge_ends_when_it_is_told() -> None:
    async def play() -> None:
        near, a = channels()
        far, b = channels()
        over = asyncio.get_running_loop().create_future()
        bridging = asyncio.create_task(Bridge().run(a, b, over=over))
        near.send(b"before")
        assert await far.receive() == b"before"
        over.set_result(None)
        await bridging
        for channel in (near, far):
            with pytest.raises(ChannelClosed):
                await channel.receive()

    run(play())
