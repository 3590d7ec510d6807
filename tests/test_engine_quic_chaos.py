"""Octets that nobody should send to the UDP port, and whatever they do: the engine goes on, for everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection

from tests.engine_quic_support import client_configuration, quic_site, raw_socket, run, udp_client, until


class Watcher(logging.Handler):
    """Keeps what the engine reports as its own fault."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """What the engine reports as its own fault, while this is entered."""
    watcher = Watcher()
    logging.getLogger("reference_engine").addHandler(watcher)
    try:
        yield watcher.lines
    finally:
        logging.getLogger("reference_engine").removeHandler(watcher)


def wrong(rng: random.Random, packet: bytes) -> bytes:
    """A packet with something wrong about it."""
    octets = bytearray(packet)
    match rng.randrange(4):
        case 0:
            for _ in range(rng.randint(1, 4)):
                octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
        case 1:
            del octets[rng.randrange(len(octets)) :]
        case 2:
            octets += rng.randbytes(rng.randint(1, 60))
        case _:
            octets[: rng.randint(1, 30)] = rng.randbytes(rng.randint(1, 30))
    return bytes(octets)


@pytest.mark.parametrize("seed", range(3))
def test_wrong_packets_of_strangers_and_of_a_client_do_no_harm(seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        with watched() as lines:
            async with quic_site("x") as site, site.pair() as (client, server):
                listener = site.engine.quic
                assert listener is not None
                packets: list[bytes] = []
                send = client._send

                def noting(packet: bytes, hop: Any) -> None:
                    packets.append(packet)
                    send(packet, hop)
                    send(wrong(rng, packet), hop)

                client._send = noting
                payload = rng.randbytes(60_000)
                number = client.open(payload, end=True)
                with raw_socket() as raw:
                    for count in range(150):
                        base = rng.choice(packets)
                        made = rng.choice((wrong(rng, base), rng.randbytes(rng.randint(0, 1_300)), base))
                        raw.sendto(made, (site.udp.host, site.udp.port))
                        if count % 10 == 0:
                            await asyncio.sleep(0)
                    await server.until(lambda: number in server.ended or server.over)
                    assert server.got(number) == payload
                    await client.ping()
                    assert client.over is None
                async with site.client("x") as another:
                    await another.connected()
                await until(lambda: listener.unfinished == 0)
            assert lines == []

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_wrong_client_hellos_end_in_an_alert_or_in_silence(seed: int) -> None:
    """Handshake messages that are wrong inside packets that are right."""
    rng = random.Random(seed)

    class Stranger(QuicConnection):
        """Its ClientHello is changed behind its back."""

        def _push_crypto_data(self) -> None:
            for buffer in self._crypto_buffers.values():
                data = bytearray(buffer.data)
                for _ in range(rng.randint(1, 3) if data else 0):
                    data[rng.randrange(4, len(data))] = rng.randrange(256)
                buffer.seek(0)
                buffer.push_bytes(bytes(data))
            super()._push_crypto_data()

    async def main() -> None:
        with watched() as lines:
            async with quic_site("x", handshake_timeout_ms=2_000) as site, contextlib.AsyncExitStack() as stack:
                listener = site.engine.quic
                assert listener is not None
                friend = await stack.enter_async_context(site.client("x"))
                await friend.connected()
                strangers = [
                    await stack.enter_async_context(
                        udp_client(site.udp, client_configuration(site.name, "x"), kind=Stranger)
                    )
                    for _ in range(12)
                ]
                # Some never hear of it: what they have said cannot be answered so that they would understand.
                await until(lambda: listener.unfinished or any(one.over for one in strangers))
                await until(lambda: not listener.unfinished)
                await friend.ping()
                assert friend.over is None
            assert lines == []

    run(main())
