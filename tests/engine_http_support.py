"""What the tests of HTTP tunnels share: streams in memory and an engine that is nothing but the parts they need."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.config import Settings
from reference_engine.edge.api import Api
from reference_engine.http.server import HttpTunnels
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from reference_engine.tunnel.registry import Registry

T = TypeVar("T")
DOMAIN = "edge.test"
DEADLINE = 10.0
HIGH_WATER = 65_536


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within the deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE):
            return await coroutine

    return asyncio.run(bounded())


class Half:
    """One direction: what was written and not read yet."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.reset: str | None = None
        self.changed = asyncio.Event()
        self.arrived: Callable[[], None] | None = None

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
        if self.arrived is not None:
            asyncio.get_running_loop().call_soon(self.arrived)


class MemoryStream(ByteStream):
    """One end of a pair; what one end writes the other reads. `version` and the like make it pass for a TlsStream."""

    version = "TLSv1.3"
    alpn: str | None = None
    server_name: str | None = None
    client_certificate: bytes | None = None

    def __init__(self, inward: Half, outward: Half, peer: Address) -> None:
        self.peer = peer
        self._in = inward
        self._out = outward
        self.closed = False
        self.aborted: str | None = None

    async def read(self) -> bytes:
        while (data := self.read_now()) is None:
            await self._in.changed.wait()
        return data

    def read_now(self) -> bytes | None:
        if not self._in.data:
            if self._in.reset is not None:
                raise StreamReset(self._in.reset)
            return b"" if self._in.ended or self.closed else None
        data = bytes(self._in.data)
        self._in.data.clear()
        self._in.tell()
        return data

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        self._in.arrived = arrived

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._out.reset is not None or self._in.reset is not None:
            raise StreamReset(self._in.reset or self._out.reset or "")
        if self._out.ended:
            raise StreamReset("write after the end")
        self._out.data += data
        self._out.tell()
        while len(self._out.data) > HIGH_WATER:
            await self._out.changed.wait()
            if self._in.reset is not None:
                raise StreamReset(self._in.reset)

    async def end(self) -> None:
        self._out.ended = True
        self._out.tell()

    async def close(self) -> None:
        await self.end()
        self.closed = True
        self._in.tell()

    def abort(self, reason: str) -> None:
        if self.aborted is None:
            self.aborted = reason
            for half in (self._in, self._out):
                half.reset = half.reset or reason
                half.tell()


def pair(near: str = "192.0.2.9", far: str = "127.0.0.1") -> tuple[MemoryStream, MemoryStream]:
    """Two ends; `near` is the address that the second end sees as its peer."""
    there, back = Half(), Half()
    return MemoryStream(back, there, Address(far, 443)), MemoryStream(there, back, Address(near, 40_000))


class Peer:
    """A raw peer: octets out, octets in, with a deadline on every wait."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.buffer = b""
        self.end: str | None = None

    async def send(self, data: bytes) -> None:
        await self.stream.write(data)

    async def _more(self) -> None:
        async with asyncio.timeout(5):
            try:
                data = await self.stream.read()
            except StreamReset as problem:
                self.end = f"reset: {problem.reason}"
                return
        if data:
            self.buffer += data
        else:
            self.end = "clean"

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        while mark not in self.buffer:
            if self.end is not None:
                raise AssertionError(f"{self.end} end before {mark!r}; got {self.buffer!r}")
            await self._more()
        at = self.buffer.index(mark) + len(mark)
        found, self.buffer = self.buffer[:at], self.buffer[at:]
        return found

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if self.end is not None:
                raise AssertionError(f"{self.end} end after {len(self.buffer)} of {count} octets")
            await self._more()
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    async def rest(self) -> bytes:
        """Everything up to the end."""
        while self.end is None:
            await self._more()
        found, self.buffer = self.buffer, b""
        return found

    async def response(self, *, to_head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """A response with Content-Length or without content: status, fields in lower case, content."""
        head = await self.head()
        status = int(head[9:12])
        fields = parse_fields(head)
        body = (
            b""
            if to_head or status in (204, 304) or status < 200
            else await self.exactly(int(fields.get("content-length", 0)))
        )
        return status, fields, body


def parse_fields(head: bytes) -> dict[str, str]:
    """Fields of a head in lower case, lines of one name joined with a comma."""
    fields: dict[str, str] = {}
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.decode("latin-1").partition(":")
        key = name.lower()
        fields[key] = f"{fields[key]}, {value.strip()}" if key in fields else value.strip()
    return fields


class FakeConnector:
    """Hands the other end of each stream to `accepted`."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.refuse: str | None = None
        self.opened = 0
        self.hold: asyncio.Event | None = None
        self.sources: list[Address | None] = []

    async def open(self, tunnel: Tunnel, source: Address | None) -> ByteStream:
        if self.refuse is not None:
            raise UpstreamUnavailable(self.refuse, "secret internals 10.1.2.3")
        if self.hold is not None:
            await self.hold.wait()
        self.opened += 1
        self.sources.append(source)
        ours, theirs = pair()
        self.accepted.put_nowait(Peer(theirs))
        return ours

    async def upstream(self) -> Peer:
        async with asyncio.timeout(5):
            return await self.accepted.get()


@dataclass
class FakeEngine:
    """The attributes of the engine that HTTP touches."""

    settings: Settings = field(default_factory=lambda: Settings(domain=DOMAIN))
    parts: Parts = field(default_factory=Parts)
    registry: Registry = field(default_factory=Registry)
    connector: FakeConnector = field(default_factory=FakeConnector)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("reference_engine"))
    version: str = "0"
    public_address: Address = field(default_factory=lambda: Address("127.0.0.1", 9443))
    upstream_tls: Any = None


def make_tunnel(label: str = "a", **changes: Any) -> Tunnel:
    """A live HTTP tunnel `<label>.t.edge.test`."""
    properties = TunnelProperties(id=f"id-{label}", protocol="http", publish=True, hostname=f"{label}.t.{DOMAIN}")
    return Tunnel(f"id-{label}", replace(properties, **changes), "client-1", "default")


class Edge:
    """HTTP tunnels on a fake engine. `a` and `b` are two live tunnels."""

    def __init__(self, parts: Parts | None = None, **settings: Any) -> None:
        self.engine = FakeEngine(settings=Settings(domain=DOMAIN, **settings), parts=parts or Parts())
        self.front = HttpTunnels(self.engine)  # type: ignore[arg-type]
        self.api = Api(self.engine)  # type: ignore[arg-type]
        self.a, self.b = make_tunnel("a"), make_tunnel("b")
        self.engine.registry.add(self.a)
        self.engine.registry.add(self.b)
        self.connector = self.engine.connector
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.front.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def client(self, tunnel: Tunnel | None = None) -> Peer:
        """A client whose connection selected `tunnel`."""
        ours, theirs = pair()
        self._tasks.append(asyncio.create_task(self.front.serve(theirs, tunnel or self.a)))  # type: ignore[arg-type]
        return Peer(ours)

    def api_client(self) -> Peer:
        """A client of the engine's API."""
        ours, theirs = pair()
        self._tasks.append(asyncio.create_task(self.api.serve(theirs)))  # type: ignore[arg-type]
        return Peer(ours)

    async def upstream(self) -> Peer:
        return await self.connector.upstream()


def on_edge(script: Callable[[Edge], Coroutine[Any, Any, T]], parts: Parts | None = None, **settings: Any) -> T:
    """Run `script` on an edge of its own."""

    async def main() -> T:
        async with Edge(parts, **settings) as edge:
            return await script(edge)

    return run(main())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nok"


def request(
    line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = b"a.t.edge.test", body: bytes = b""
) -> bytes:
    """A request's octets."""
    lines = [line, *([b"Host: " + host] if host else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def settle() -> None:
    """Let everything that can move, move."""
    for _ in range(50):
        await asyncio.sleep(0)


async def begin(edge: Edge, octets: bytes) -> tuple[Peer, Peer, bytes]:
    """A client, the upstream of its request, and the head that came there."""
    client = edge.client()
    await client.send(octets)
    upstream = await edge.upstream()
    return client, upstream, await upstream.head()
