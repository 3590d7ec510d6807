"""HTTP/2 peers for the tests of the engine: stock h2 on a stream in memory, and frames of any kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from hyperframe.frame import Frame

from reference_engine.relay.stream import StreamReset as ByteStreamReset
from tests.engine_http_support import Edge, MemoryStream, Peer, make_tunnel, pair

EventT = TypeVar("EventT", bound=Event)
HOST = b"a.t.edge.test"
Lines = list[tuple[bytes, bytes]]


def get(path: bytes = b"/", *fields: tuple[bytes, bytes], host: bytes = HOST, method: bytes = b"GET") -> Lines:
    """The lines of a request."""
    return [(b":method", method), (b":scheme", b"https"), (b":authority", host), (b":path", path), *fields]


class H2Peer:
    """One side of an HTTP/2 connection. Flow control is automatic unless `hold` is set."""

    def __init__(self, stream: MemoryStream, *, client: bool, settings: dict[int, int] | None = None) -> None:
        self.stream = stream
        self.h2 = H2Connection(
            H2Configuration(
                client_side=client,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=True,
            )
        )
        if settings:
            self.h2.local_settings.update(settings)
            self.h2.local_settings.acknowledge()
        self.hold = False
        self.events: list[Event] = []
        self.end: str | None = None
        self._raw = bytearray()

    async def start(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.stream.write(data)

    async def say(self, *frames: Frame | bytes) -> None:
        """Any frames, past h2."""
        await self.flush()
        await self.stream.write(b"".join(one if isinstance(one, bytes) else one.serialize() for one in frames))

    async def headers(self, stream_id: int, lines: Iterable[tuple[bytes, bytes]], *, end: bool = True) -> None:
        self.h2.send_headers(stream_id, list(lines), end_stream=end)
        await self.flush()

    async def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Content, as the windows allow."""
        at = 0
        while at < len(data) or (not data and end):
            room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size, len(data) - at)
            if room <= 0 and data:
                await self.more()
                continue
            self.h2.send_data(stream_id, data[at : at + room], end_stream=end and at + room == len(data))
            at += room
            await self.flush()
            if not data:
                return

    async def more(self) -> None:
        """Take what comes next."""
        if self.end is not None:
            raise AssertionError(f"{self.end}; events {self.events}")
        async with asyncio.timeout(5):
            try:
                data = await self.stream.read()
            except ByteStreamReset as problem:
                self.end = f"reset: {problem.reason}"
                return
        if not data:
            self.end = "clean"
            return
        self.take(data)
        await self.flush()

    def take(self, data: bytes) -> None:
        self._raw += data
        for event in self.h2.receive_data(data):
            if isinstance(event, DataReceived) and not self.hold and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.events.append(event)

    async def event(self, kind: type[EventT], fits: Callable[[EventT], bool] = lambda _: True) -> EventT:
        """The next event of a kind that fits; the ones in front of it stay."""
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind) and fits(event):
                    del self.events[index]
                    return event
            await self.more()

    async def on(self, kind: type[EventT], stream_id: int) -> EventT:
        return await self.event(kind, lambda event: getattr(event, "stream_id", None) == stream_id)

    async def content(self, stream_id: int) -> bytes:
        """All content of a stream, to its end."""
        await self.on(StreamEnded, stream_id)
        mine = [e for e in self.events if isinstance(e, DataReceived) and e.stream_id == stream_id]
        self.events = [e for e in self.events if e not in mine]
        return b"".join(e.data for e in mine)

    async def response(self, stream_id: int) -> tuple[int, dict[bytes, bytes], bytes]:
        """A whole response: status, fields, content."""
        head = await self.on(ResponseReceived, stream_id)
        fields = dict(head.headers)
        return int(fields[b":status"]), fields, await self.content(stream_id)

    async def reset(self, stream_id: int) -> int:
        return int((await self.on(StreamReset, stream_id)).error_code)

    async def goaway(self) -> ConnectionTerminated:
        return await self.event(ConnectionTerminated)

    async def gone(self) -> str:
        """How the connection ends."""
        while self.end is None:
            await self.more()
        return self.end


async def h2_client(edge: Edge, *, settings: dict[int, int] | None = None, **tunnel: Any) -> H2Peer:
    """A client whose TLS picked h2."""
    ours, theirs = pair()
    theirs.alpn = "h2"
    edge._tasks.append(asyncio.create_task(edge.front.serve(theirs, tunnel.get("tunnel") or edge.a)))  # type: ignore[arg-type]
    peer = H2Peer(ours, client=True, settings=settings)
    await peer.start()
    return peer


async def h2_upstream(edge: Edge, *, settings: dict[int, int] | None = None) -> H2Peer:
    """The next connection that the engine opens, as an HTTP/2 server."""
    raw: Peer = await edge.upstream()
    peer = H2Peer(raw.stream, client=False, settings=settings)
    await peer.start()
    return peer


def h2c(edge: Edge) -> None:
    """Make tunnel `a` one whose upstream speaks h2c."""
    edge.engine.registry.remove(edge.a)
    edge.a = make_tunnel("a", http_version="h2c")
    edge.engine.registry.add(edge.a)


async def asked(edge: Edge, *, method: bytes = b"GET", end: bool = True) -> tuple[H2Peer, H2Peer]:
    """A client and the h2c upstream of tunnel `a` that has the head of its request on stream 1."""
    h2c(edge)
    client = await h2_client(edge)
    await client.headers(1, get(method=method), end=end)
    upstream = await h2_upstream(edge)
    await upstream.event(RequestReceived)
    return client, upstream
