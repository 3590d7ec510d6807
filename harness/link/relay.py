"""Relays on loopback that do to packets what a plan of faults says: the I/O around `harness.link.faults`.

A client talks to the relay instead of the engine. What is done is told, packet by packet, to `log(what, detail)`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.link.faults import (
    DIRECTIONS,
    FROM_ENGINE,
    PASS,
    SPOKEN,
    TO_ENGINE,
    Blackhole,
    DatagramWay,
    FaultPlan,
    HalfOpen,
    Reset,
    StreamWay,
)
from harness.link.stream import LinkReset
from harness.link.tcp import TcpLink, TcpListener, connect_tcp
from harness.link.udp import UdpFlow, UdpLink, UdpListener, connect_udp

Log = Callable[[str, str], None]
E = TypeVar("E", UdpLink, TcpLink)
MAX_FLOWS = 256
"""Flows or connections of one relay; further ones get nowhere."""


class Relay:
    """What both relays have: where they are reached, where they lead, and what a script may ask for at any time."""

    def __init__(self, target: tuple[str, int], plan: FaultPlan, log: Log, name: str) -> None:
        self._target = target
        self._plan = plan
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self.name = name
        self.host = ""
        self.port = 0

    def _told(self, what: str, detail: str = "") -> None:
        self._log("fault", f"{self.name}: {what}{detail and ', '}{detail}")

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, listener: UdpListener | TcpListener, serve: Coroutine[Any, Any, None]) -> None:
        """Listen, on the address family of the target. Raises `OSError`."""
        try:
            await listener.start("::1" if ":" in self._target[0] else "127.0.0.1")
        except BaseException:
            serve.close()
            raise
        self.host, self.port = listener.host, listener.port
        self._run(serve)

    async def _on(
        self, client: UdpFlow | TcpLink, what: str, taken: int, connect: Callable[[str, int], Awaitable[E]]
    ) -> E | None:
        """The way on to the engine for a `client`, beside `taken` others; where there is none it gets nowhere."""
        try:
            if taken < MAX_FLOWS:
                return await connect(*self._target)
            self._told(f"{what} from port {client.remote[1]} gets nowhere", f"there are {MAX_FLOWS}")
        except OSError as error:
            self._told("no way to the engine", str(error))
        client.abort()
        return None

    async def _end_tasks(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass(slots=True)
class _Joined:
    """One flow through the relay."""

    number: int
    way: DatagramWay
    client: UdpFlow
    engine: UdpLink


class UdpRelay(Relay):
    """A port that leads to another UDP port. Each client is a flow of its own, numbered in order of arrival, and comes
    to the engine from a port of its own."""

    def __init__(self, target: tuple[str, int], plan: FaultPlan, log: Log, name: str = "relay") -> None:
        super().__init__(target, plan, log, name)
        DatagramWay(plan)  # a fault that cannot be done is told here
        self._listener = UdpListener()
        self._flows: list[_Joined] = []
        self._lost: tuple[str, ...] = ()

    async def start(self) -> None:
        """Listen. Raises `OSError`."""
        await self._listen(self._listener, self._accept())

    async def _accept(self) -> None:
        while True:
            client = await self._listener.accept()
            engine = await self._on(client, "a flow", len(self._flows), connect_udp)
            if engine is None:
                continue
            number = len(self._flows)
            engine.tap.label(f"{self.name}/flow-{number}")
            way = DatagramWay(self._plan, number)
            way.lose(*self._lost)
            flow = _Joined(number, way, client, engine)
            self._flows.append(flow)
            self._run(self._carry(flow, TO_ENGINE))
            self._run(self._carry(flow, FROM_ENGINE))

    async def _carry(self, flow: _Joined, direction: str) -> None:
        source, sink = (flow.client, flow.engine) if direction == TO_ENGINE else (flow.engine, flow.client)
        with contextlib.suppress(LinkReset):
            while True:
                self._pass_on(flow, direction, await source.receive(), sink)
        if direction == TO_ENGINE or not flow.engine.refused:
            return
        # Nobody listens there, and whoever sends here is to hear that, too.
        self._told(f"flow {flow.number}: the engine's port refuses", "and so does the relay's from now on")
        await self._listener.stop()

    def _pass_on(self, flow: _Joined, direction: str, packet: bytes, sink: UdpFlow | UdpLink) -> None:
        passage = flow.way.take(direction, packet)
        if passage.rebind:
            flow.engine.rebind()
        if passage.notable:
            about = f"flow {flow.number}: packet {passage.number} {SPOKEN[direction]} {passage.fault}"
            self._told(about, f"{len(packet)} octets")
        for going in passage.packets:
            sink.send(going)

    # what a script may ask for

    def rebind(self) -> None:
        """Come to the engine from other ports from now on, with every flow."""
        for flow in self._flows:
            with contextlib.suppress(LinkReset):
                before = flow.engine.local[1]
                flow.engine.rebind()
                self._told(f"flow {flow.number}: moved", f"from port {before} to {flow.engine.local[1]}")

    def lose(self, *directions: str) -> None:
        """From now on nothing arrives in `directions`, by default in neither."""
        self._lost = tuple({*self._lost, *(directions or DIRECTIONS)})
        for flow in self._flows:
            flow.way.lose(*self._lost)
        self._told("nothing arrives any more", ", ".join(SPOKEN[way] for way in directions or DIRECTIONS))

    async def close(self) -> None:
        """Close the port and every flow, and tell how many packets came."""
        await self._end_tasks()
        for flow in self._flows:
            came = ", ".join(f"{flow.way.counts[way]} packets {SPOKEN[way]}" for way in DIRECTIONS)
            self._log("relay", f"{self.name}: flow {flow.number}: {came}")
            flow.engine.abort()
        self._flows.clear()
        await self._listener.stop()


class _Connection:
    """One TCP connection through the relay."""

    def __init__(self, number: int, client: TcpLink, engine: TcpLink) -> None:
        self.number = number
        self.links = {TO_ENGINE: client, FROM_ENGINE: engine}
        """Where each direction comes from."""
        self.lost = {direction: asyncio.Event() for direction in DIRECTIONS}
        """Set where nothing arrives any more."""

    def reset(self) -> None:
        """RST on both sides."""
        for link in self.links.values():
            link.abort()


class TcpRelay(Relay):
    """A port that leads to another TCP port. The end of a direction, and a reset, go on as they came.

    A direction that is lost is not read any more: its sender finds its buffers full, and hears of nothing.
    """

    def __init__(self, target: tuple[str, int], plan: FaultPlan, log: Log, name: str = "relay") -> None:
        super().__init__(target, plan, log, name)
        StreamWay(plan, TO_ENGINE)  # a fault that cannot be done is told here
        self._listener = TcpListener()
        self._connections: list[_Connection] = []
        self._lost: set[str] = set()

    async def start(self) -> None:
        """Listen. Raises `OSError`."""
        await self._listen(self._listener, self._accept())

    async def _accept(self) -> None:
        while True:
            client = await self._listener.accept()
            engine = await self._on(client, "a connection", len(self._connections), connect_tcp)
            if engine is None:
                continue
            connection = _Connection(len(self._connections), client, engine)
            engine.tap.label(f"{self.name}/connection-{connection.number}")
            self._connections.append(connection)
            for direction in DIRECTIONS:
                if direction in self._lost:
                    connection.lost[direction].set()
                self._run(self._carry(connection, direction))

    async def _carry(self, connection: _Connection, direction: str) -> None:
        source = connection.links[direction]
        sink = connection.links[FROM_ENGINE if direction == TO_ENGINE else TO_ENGINE]
        way = StreamWay(self._plan, direction)
        lost = asyncio.create_task(connection.lost[direction].wait())
        try:
            while data := await _unless(lost, source.receive()):
                for piece, number, fault in way.take(data):
                    if piece and not lost.done():
                        await sink.send(piece)
                    if fault is not PASS:
                        self._told(f"connection {connection.number}: octet {number} {SPOKEN[direction]} {fault}")
                    if isinstance(fault, Reset):
                        connection.reset()
                        return
                    if isinstance(fault, HalfOpen | Blackhole):
                        for each in (direction,) if isinstance(fault, HalfOpen) else DIRECTIONS:
                            connection.lost[each].set()
                        return
            if not lost.done():
                await sink.send_end()
        except LinkReset:
            if not lost.done():
                connection.reset()
        finally:
            lost.cancel()

    # what a script may ask for

    def reset(self) -> None:
        """Reset every connection on both sides."""
        for connection in self._connections:
            connection.reset()
        self._told("every connection reset on both sides")

    def lose(self, *directions: str) -> None:
        """From now on nothing arrives in `directions`, by default in neither; no end and no reset, either."""
        self._lost.update(directions or DIRECTIONS)
        for connection in self._connections:
            for direction in self._lost:
                connection.lost[direction].set()
        self._told("nothing arrives any more", ", ".join(SPOKEN[way] for way in directions or DIRECTIONS))

    async def close(self) -> None:
        """Close the port and reset every connection that is left."""
        await self._end_tasks()
        for connection in self._connections:
            connection.reset()
        self._connections.clear()
        await self._listener.stop()


async def _unless(lost: asyncio.Task[Any], receiving: Any) -> bytes:
    """What `receiving` gives, or nothing as soon as the direction is lost."""
    reading = asyncio.ensure_future(receiving)
    try:
        await asyncio.wait((reading, lost), return_when=asyncio.FIRST_COMPLETED)
        return b"" if lost.done() else reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
