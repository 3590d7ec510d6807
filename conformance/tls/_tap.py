"""Relays of the suite's own between an agent and the engine, which keep the octets that go through them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from abc import ABC, abstractmethod
from typing import Any

from harness.link.agent import EngineAccess
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.link.tcp import TcpLink, TcpListener, connect_tcp
from harness.link.udp import UdpFlow, UdpLink, UdpListener, connect_udp

MOST = 1 << 22
"""Octets that one direction keeps (4 MiB)."""
RECORDS = range(20, 24)
UP, DOWN = "to the engine", "to the agent"
LONG, FIXED = 0x80, 0x40
"""The bits of a QUIC packet's first octet (RFC 9000 section 17): a long header, and the one that is always set."""
VERSIONS = (b"\0\0\0\0", b"\0\0\0\x01", b"\x6b\x33\x43\xcf")
"""Version Negotiation, version 1 and version 2 of QUIC: both of these encrypt with TLS 1.3."""


def tap_of(access: EngineAccess) -> Tap:
    """A tap on the way of agents that reach the engine by `access`."""
    if access.transport == "quic":
        return QuicTap(access)
    return TlsTap(access)


class Tap(ABC):
    """Listens on a port of its own and passes on to the engine what comes there, and back."""

    form: str
    """What alone may be on the wire, for an `expected`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def start(self) -> EngineAccess:
        """Listen; how an agent reaches the engine through here."""

    @abstractmethod
    async def odd(self, marker: bytes) -> str:
        """What went over the wire of the agent's first stream that is not of the `form`, or holds `marker`; empty where
        nothing did. The stream is over."""

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close everything."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Tapped:
    """One TCP connection: what went `up` (agent to engine) and `down`, and when both directions were over."""

    def __init__(self) -> None:
        self.up = bytearray()
        self.down = bytearray()
        self.over = asyncio.Event()

    def not_tls(self) -> str:
        """What in either direction is no TLS record, or nothing."""
        for name, octets in ((UP, self.up), (DOWN, self.down)):
            at = 0
            while at < len(octets):
                header = bytes(octets[at : at + 5])
                if header[0] not in RECORDS or header[1:2] not in (b"", b"\x03"):
                    return f"{header!r} {name}, behind {at} octets"
                at += 5 + int.from_bytes(header[3:5], "big")
        return ""


class TlsTap(Tap):
    """For agents over TLS: a connection for the control channel, then one for each stream."""

    form = "TLS records"

    def __init__(self, access: EngineAccess) -> None:
        super().__init__()
        self._access = access
        self._listener = TcpListener()
        self._links: list[TcpLink] = []
        self._connections: list[_Tapped] = []

    async def start(self) -> EngineAccess:
        """See `Tap.start`."""
        await self._listener.start()
        self._spawn(self._accept())
        return dataclasses.replace(self._access, address=self._listener.host, port=self._listener.port)

    async def _accept(self) -> None:
        while True:
            agent = await self._listener.accept()
            self._spawn(self._relay(agent))

    async def _relay(self, agent: TcpLink) -> None:
        tapped = _Tapped()
        self._connections.append(tapped)
        engine = await connect_tcp(self._access.address, self._access.port)
        self._links.append(engine)
        try:
            await asyncio.gather(self._copy(agent, engine, tapped.up), self._copy(engine, agent, tapped.down))
        except LinkReset:
            agent.abort()
            engine.abort()
        finally:
            tapped.over.set()

    @staticmethod
    async def _copy(source: TcpLink, sink: TcpLink, kept: bytearray) -> None:
        while data := await source.receive():
            kept += data[: MOST - len(kept)]
            await sink.send(data)
        await sink.send_end()

    async def odd(self, marker: bytes) -> str:
        """See `Tap.odd`; waits for the stream's connection to end."""
        stream = self._connections[1]
        async with deadline("the connection of the agent's stream to end"):
            await stream.over.wait()
        return stream.not_tls() or ("the marker" if marker in stream.up or marker in stream.down else "")

    async def close(self) -> None:
        """Close everything."""
        await super().close()
        for link in self._links:
            await link.close()
        await self._listener.stop()


class QuicTap(Tap):
    """For agents over QUIC: every stream is on the one connection, so all of its packets are looked at."""

    form = "packets of QUIC"

    def __init__(self, access: EngineAccess) -> None:
        super().__init__()
        self._access = access
        self._listener = UdpListener()
        self._engines: list[UdpLink] = []
        self._kept: dict[str, list[bytes]] = {UP: [], DOWN: []}
        self._room = dict.fromkeys(self._kept, MOST)

    async def start(self) -> EngineAccess:
        """See `Tap.start`."""
        await self._listener.start()
        self._spawn(self._accept())
        return dataclasses.replace(self._access, udp=(self._listener.host, self._listener.port))

    async def _accept(self) -> None:
        while True:
            agent = await self._listener.accept()
            engine = await connect_udp(*(self._access.udp or (self._access.address, self._access.port)))
            self._engines.append(engine)
            self._spawn(self._copy(agent, engine, UP))
            self._spawn(self._copy(engine, agent, DOWN))

    async def _copy(self, source: UdpFlow | UdpLink, sink: UdpFlow | UdpLink, way: str) -> None:
        with contextlib.suppress(LinkReset):
            while True:
                packet = await source.receive()
                if self._room[way] >= len(packet):
                    self._room[way] -= len(packet)
                    self._kept[way].append(packet)
                sink.send(packet)

    async def odd(self, marker: bytes) -> str:
        """See `Tap.odd`."""
        for way, packets in self._kept.items():
            if not packets:
                return f"no packet {way}"
            for number, packet in enumerate(packets):
                if (why := not_quic(packet)) or marker in packet:
                    return f"{why or 'the marker'} {way}, in packet {number}"
        return ""

    async def close(self) -> None:
        """Close everything."""
        await super().close()
        for engine in self._engines:
            engine.abort()
        await self._listener.stop()


def not_quic(packet: bytes) -> str:
    """Why a UDP payload is no packet of QUIC version 1 or 2 (RFC 9000 section 17, RFC 9369), or nothing."""
    first, version = packet[:1], packet[1:5]
    if first and first[0] & LONG:
        known = version in VERSIONS and (first[0] & FIXED or version == VERSIONS[0])
        return "" if known else f"{packet[:5]!r}"
    return "" if first and first[0] & FIXED else f"{packet[:5]!r}"
