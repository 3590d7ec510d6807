"""What the case of the encrypted agent leg calls odd on the wire, over TLS and over QUIC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from conformance.tls._tap import QuicTap, Tap, TlsTap, not_quic, tap_of
from harness.link.agent import EngineAccess
from harness.link.tcp import TcpLink, TcpListener, connect_tcp
from harness.link.udp import UdpFlow, UdpListener, connect_udp

MARKER = b"PLAINTEXT-MARK"
SHORT, LONG = b"\x4a" + bytes(40), b"\xc3\0\0\0\x01" + bytes(40)
RECORD = b"\x17\x03\x03\0\x04abcd"


@pytest.mark.parametrize("packet", [SHORT, LONG, b"\xd3\x6b\x33\x43\xcf\0", b"\x8f\0\0\0\0"])
def test_packets_of_quic(packet: bytes) -> None:
    assert not not_quic(packet)


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x0aplain", b"\x16\xfe\xfd\0\0", b"\xc3\0\0\0\x02" + bytes(9), b"\x83\0\0\0\x01" + bytes(9), b"\xc3\0\0"],
)
def test_other_packets(packet: bytes) -> None:
    assert not_quic(packet)


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await script()

    asyncio.run(main())


async def over_udp(up: bytes, down: bytes) -> str:
    """What the tap says of one packet in each direction."""
    engine = UdpListener()
    await engine.start()
    tap = tap_of(EngineAccess("127.0.0.1", 1, transport="quic", udp=(engine.host, engine.port)))
    assert isinstance(tap, QuicTap)
    try:
        access = await tap.start()
        assert access.udp
        assert access.udp != (engine.host, engine.port)
        agent = await connect_udp(*access.udp)
        agent.send(up)
        served: UdpFlow = await engine.accept()
        assert await served.receive() == up
        served.send(down)
        assert await agent.receive() == down
        agent.abort()
        return await tap.odd(MARKER)
    finally:
        await tap.close()
        await engine.stop()


async def over_tcp(up: bytes, down: bytes) -> str:
    """What the tap says of the second connection, which carries these octets."""
    engine = TcpListener()
    await engine.start()
    tap = tap_of(EngineAccess("127.0.0.1", engine.port))
    assert isinstance(tap, TlsTap)
    links: list[TcpLink] = []
    try:
        access = await tap.start()
        for octets in ((b"", b""), (up, down)):
            agent = await connect_tcp(access.address, access.port)
            served = await engine.accept()
            links += [agent, served]
            for source, sink, said in ((agent, served, octets[0]), (served, agent, octets[1])):
                await source.send(said)
                await source.send_end()
                while await sink.receive():
                    pass
        return await tap.odd(MARKER)
    finally:
        for link in links:
            await link.close()
        await tap.close()
        await engine.stop()


def test_what_is_odd_over_quic() -> None:
    async def script() -> None:
        assert await over_udp(LONG, SHORT) == ""
        assert await over_udp(LONG + MARKER, SHORT) == "the marker to the engine, in packet 0"
        assert await over_udp(LONG, SHORT + MARKER) == "the marker to the agent, in packet 0"
        assert await over_udp(b"\x0aplain", SHORT) == "b'\\nplai' to the engine, in packet 0"

    run(script)


def test_nothing_on_the_wire_is_odd_over_quic() -> None:
    async def script() -> None:
        tap: Tap = QuicTap(EngineAccess("127.0.0.1", 1, transport="quic"))
        assert await tap.odd(MARKER) == "no packet to the engine"

    run(script)


def test_what_is_odd_over_tls() -> None:
    async def script() -> None:
        assert await over_tcp(RECORD, RECORD) == ""
        assert await over_tcp(b"\x17\x03\x03\0\x0e" + MARKER, RECORD) == "the marker"
        assert await over_tcp(RECORD, RECORD + b"plain") == "b'plain' to the agent, behind 9 octets"

    run(script)
