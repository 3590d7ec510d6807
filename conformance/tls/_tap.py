"""A TCP relay of the suite's own between an agent and the engine, which keeps the octets that go through it."""

from __future__ import annotations

import asyncio

from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.link.tcp import TcpLink, TcpListener, connect_tcp

MOST = 1 << 22
"""Octets that one direction keeps (4 MiB)."""
RECORDS = range(20, 24)


class Tapped:
    """One connection: what went `up` (agent to engine) and `down`, and when both directions were over."""

    def __init__(self) -> None:
        self.up = bytearray()
        self.down = bytearray()
        self.over = asyncio.Event()

    def not_tls(self) -> str | None:
        """What in either direction is no TLS record, or None."""
        for name, octets in (("to the engine", self.up), ("to the agent", self.down)):
            at = 0
            while at < len(octets):
                header = bytes(octets[at : at + 5])
                if header[0] not in RECORDS or header[1:2] not in (b"", b"\x03"):
                    return f"{header!r} {name}, behind {at} octets"
                at += 5 + int.from_bytes(header[3:5], "big")
        return None


class Tap:
    """Listens on a port of its own and connects each connection on to the engine."""

    def __init__(self, host: str, port: int) -> None:
        self._engine = (host, port)
        self._listener = TcpListener()
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: list[TcpLink] = []
        self.connections: list[Tapped] = []

    @property
    def address(self) -> tuple[str, int]:
        """Where an agent connects."""
        return self._listener.host, self._listener.port

    async def start(self) -> None:
        """Listen."""
        await self._listener.start()
        self._spawn(self._accept())

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            agent = await self._listener.accept()
            self._spawn(self._relay(agent))

    async def _relay(self, agent: TcpLink) -> None:
        tapped = Tapped()
        self.connections.append(tapped)
        engine = await connect_tcp(*self._engine)
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

    async def ended(self, index: int) -> Tapped:
        """The connection of that number, once it is over."""
        tapped = self.connections[index]
        async with deadline(f"connection {index} of the agent to end"):
            await tapped.over.wait()
        return tapped

    async def close(self) -> None:
        """Close everything."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links:
            await link.close()
        await self._listener.stop()
