"""The actions of the client over QUIC; see `client` for what a sample is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from aioquic.quic import events

from harness.bench.blocks import COMMAND, COUNT, WrongBytes
from harness.bench.quic import DATAGRAM, Comparer, QuicClient, Upload
from harness.bench.streams import Target
from harness.bench.window import Sample, Window

WINDOW = 32
"""Datagrams under way."""
LOST_SECONDS = 0.1
"""Silence behind which what is under way counts as lost, and is sent again."""


def down(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Octets from the upstream on one stream, in MB/s. Raises `OSError`, `WrongBytes`."""
    with QuicClient(target) as client:
        comparer = Comparer()
        window = Window(pids)
        client.connection.send_stream_data(client.stream(), COMMAND.pack(b"down", seconds))
        client.until(lambda event: isinstance(event, events.StreamDataReceived) and comparer.feed(event.data))
        return window.end(comparer.octets / 1e6)


def up(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Octets to the upstream on one stream, in MB/s, until it has told how many it took. Raises `OSError`,
    `WrongBytes`."""
    with QuicClient(target) as client:
        stream_id = client.stream()
        window = Window(pids)
        client.connection.send_stream_data(stream_id, COMMAND.pack(b"up", seconds))
        upload = Upload(client.connection, stream_id, seconds)
        told = bytearray()

        def answered(event: events.QuicEvent) -> bool:
            if isinstance(event, events.StreamDataReceived):
                told.extend(event.data)
            return len(told) >= COUNT.size

        client.until(answered, upload.fill)
        sample = window.end(upload.octets / 1e6)
        if bytes(told) != COUNT.pack(upload.octets):
            raise WrongBytes(f"{upload.octets} octets were sent, the upstream told of {int.from_bytes(told, 'big')}")
    return sample


def datagrams(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Datagrams of 1,000 octets that come back, per second, with some under way at a time. Raises `OSError`,
    `WrongBytes`."""
    with QuicClient(target) as client:
        under_way: dict[int, bytes] = {}
        number = count = 0
        window = Window(pids)
        until = time.monotonic() + seconds
        heard = time.monotonic()
        while (now := time.monotonic()) < until or not count:
            if now - heard > LOST_SECONDS:
                under_way.clear()
                heard = now
            while len(under_way) < WINDOW:
                number += 1
                under_way[number] = number.to_bytes(8, "big") * (DATAGRAM // 8)
                client.connection.send_datagram_frame(under_way[number])
            client.step(LOST_SECONDS)
            for event in client.happened():
                if not isinstance(event, events.DatagramFrameReceived):
                    continue
                heard = time.monotonic()
                sent = under_way.pop(int.from_bytes(event.data[:8], "big"), None)
                if sent is not None and sent != event.data:
                    raise WrongBytes("a datagram came back changed")
                count += sent is not None
        return window.end(count)


def connections(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Connections with a full handshake, twelve octets each way and a close, per second, one after the other. Raises
    `OSError`, `WrongBytes`."""
    count = 0
    window = Window(pids)
    until = time.monotonic() + seconds
    while not count or time.monotonic() < until:
        with QuicClient(target) as client:
            _echo(client, count)
        count += 1
    return window.end(count)


def handshake(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """The median time that a client's handshake takes, in ms; what follows it is not counted, but has to work. Raises
    `OSError`, `WrongBytes`."""
    took: list[float] = []
    window = Window(pids)
    until = time.monotonic() + seconds
    while not took or time.monotonic() < until:
        start = time.monotonic()
        with QuicClient(target) as client:
            took.append((time.monotonic() - start) * 1000)
            _echo(client, len(took))
    return window.of(statistics.median(took))


def _echo(client: QuicClient, number: int) -> None:
    echo = COMMAND.pack(b"echo", number)
    if client.ask(client.stream(), echo, COMMAND.size) != echo:
        raise WrongBytes("the echo is not what was sent")
