"""HTTP/3 for the tests of the engine: frames by hand, and the codec with its peer in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pylsqpack
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3Connection, encode_frame, encode_settings
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.engine import Engine
from reference_engine.http.h3_connection import EngineH3, H3Limits, Heard, Malformed
from reference_engine.http.h3_outlet import CloseConnection, Command, ResetStream, Send
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Limits
from reference_engine.parts import Parts
from reference_engine.relay.datagram import DatagramChannel
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import Tunnel
from tests.engine_http_support import FakeConnector, make_tunnel
from tests.engine_quic_support import (
    DOMAIN,
    MemoryChannel,
    Stock,
    Upstream,
    client_configuration,
    quic_engine,
    server_side,
    udp_client,
    until,
)

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x0, 0x1, 0x3, 0x4, 0x5, 0x7, 0xD
CONTROL, PUSH, ENCODER, DECODER = b"\x00", b"\x01", b"\x02", b"\x03"
GET: list[tuple[bytes, bytes]] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.t.edge.test"),
    (b":path", b"/"),
]
POST = [(b":method", b"POST"), *GET[1:]]
OK: list[tuple[bytes, bytes]] = [(b":status", b"200")]


def section(fields: Any) -> bytes:
    """A field section without references to the dynamic table, legal or not."""
    return bytes(pylsqpack.Encoder().encode(0, list(fields))[1])


def frame(kind: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return bytes(encode_frame(kind, payload))


def headers(fields: Any) -> bytes:
    """A HEADERS frame."""
    return frame(HEADERS, section(fields))


def settings(values: dict[int, int] | None = None) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, encode_settings(values or {}))


def number(value: int) -> bytes:
    """A variable-length integer."""
    return bytes(encode_uint_var(value))


class Codec:
    """One of the engine's codecs, and what it said."""

    def __init__(
        self,
        *,
        client: bool = False,
        rules: HttpRules | None = None,
        table_capacity: int = 4_096,
        blocked_streams: int = 16,
        **message: int,
    ) -> None:
        unidirectional = (2, 6, 10) if client else (3, 7, 11)
        limits = H3Limits(Limits(**message), table_capacity, blocked_streams)
        self.h3 = EngineH3(rules or HttpRules(), limits, is_client=client, unidirectional=unidirectional)
        self.theirs = (3, 7, 11) if client else (2, 6, 10)
        self.heard: list[tuple[int, Heard]] = []
        self.said: list[Command] = []
        self.wanted = True

    def take(self, stream_id: int, data: bytes, fin: bool = False) -> list[Heard]:
        """Octets of the peer; what was heard on this stream."""
        if stream_id & 2:
            self.wanted, heard = self.h3.receive_unidirectional(stream_id, data, fin)
        else:
            heard = self.h3.receive(stream_id, data, fin)
        self.heard += heard
        self.said += self.h3.commands
        return [event for number, event in heard if number == stream_id]

    def settle(self, values: dict[int, int] | None = None) -> None:
        """The peer's three streams with its settings."""
        control, encoder, decoder = self.theirs
        self.take(control, CONTROL + settings(values))
        self.take(encoder, ENCODER)
        self.take(decoder, DECODER)

    @property
    def close(self) -> CloseConnection | None:
        """How the connection was closed."""
        return next((one for one in self.said if isinstance(one, CloseConnection)), None)

    @property
    def code(self) -> int | None:
        """The code of the close."""
        return None if self.close is None else self.close.code

    @property
    def resets(self) -> dict[int, int]:
        """RESET_STREAM by stream."""
        return {one.stream_id: one.code for one in self.said if isinstance(one, ResetStream)}

    def sent(self, stream_id: int) -> bytes:
        """Octets of a stream of ours."""
        self.said += self.h3.commands
        return b"".join(one.data for one in self.said if isinstance(one, Send) and one.stream_id == stream_id)


# -- stock peers -------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a stock client has of a response."""

    informational: list[dict[bytes, bytes]] = field(default_factory=list)
    fields: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    ended: bool = False

    @property
    def status(self) -> int:
        return int(self.fields.get(b":status", b"0"))


class H3Stock(Stock):
    """A stock peer with a stock HTTP/3 connection on it, and what came of each stream."""

    def __init__(self, quic: Any, send: Any) -> None:
        super().__init__(quic, send)
        self.h3: H3Connection = H3Connection(quic)
        self.messages: dict[int, Answer] = {}
        self.goaways: list[bytes] = []

    def _note(self, event: events.QuicEvent) -> None:
        super()._note(event)
        for one in self.h3.handle_event(event):
            if isinstance(one, HeadersReceived | DataReceived):
                self._hear(one)

    def _hear(self, event: HeadersReceived | DataReceived) -> None:
        message = self.messages.setdefault(event.stream_id, Answer())
        if isinstance(event, DataReceived):
            message.body += event.data
        else:
            fields = dict(event.headers)
            if fields.get(b":status", b"2")[:1] == b"1":
                message.informational.append(fields)
            elif message.fields:
                message.trailers = fields
            else:
                message.fields = fields
        message.ended = message.ended or event.stream_ended

    def request(self, fields: Any = None, body: bytes = b"", *, end: bool = True, trailers: Any = None) -> int:
        """A request on a new stream."""
        stream = self.quic.get_next_available_stream_id()
        self.h3.send_headers(stream, list(fields or GET), end_stream=end and not body and not trailers)
        if body:
            self.h3.send_data(stream, body, end and not trailers)
        if trailers:
            self.h3.send_headers(stream, list(trailers), end_stream=True)
        self.transmit()
        return stream

    def say(self, *octets: bytes, end: bool = False, unidirectional: bool = False) -> int:
        """Any octets on a new stream."""
        stream = self.quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self.write(stream, b"".join(octets), end=end)
        return stream

    def control(self, *octets: bytes) -> None:
        """Any octets on our control stream."""
        assert self.h3._local_control_stream_id is not None
        self.write(self.h3._local_control_stream_id, b"".join(octets))

    def respond(
        self, stream: int, fields: Any = None, body: bytes = b"", *, end: bool = True, trailers: Any = None
    ) -> None:
        """A response."""
        self.h3.send_headers(stream, list(fields or OK), end_stream=end and not body and not trailers)
        if body:
            self.h3.send_data(stream, body, end and not trailers)
        if trailers:
            self.h3.send_headers(stream, list(trailers), end_stream=True)
        self.transmit()

    async def answer(self, stream: int) -> Answer:
        """A whole message of the peer."""
        await self.until(lambda: self.over or stream in self.resets or self.message(stream).ended)
        assert self.message(stream).ended, (self.over, self.resets, self.message(stream))
        return self.message(stream)

    def message(self, stream: int) -> Answer:
        return self.messages.get(stream, Answer())

    async def head(self, stream: int) -> Answer:
        """A message, its head at least."""
        await self.until(lambda: self.over or stream in self.resets or self.message(stream).fields)
        assert self.message(stream).fields, (self.over, self.resets)
        return self.message(stream)

    async def aborted(self, stream: int) -> int:
        """The code with which the peer reset a stream."""
        await self.until(lambda: self.over or stream in self.resets)
        assert stream in self.resets, self.over
        return self.resets[stream]

    async def code(self) -> int:
        """The code with which the peer closed the connection."""
        return int((await self.finished()).error_code)


class H3Upstream(Upstream, H3Stock):
    """A stock HTTP/3 server at the far end of a channel."""

    async def requests(self, count: int = 1) -> list[int]:
        """The streams of the requests, once there are so many whole heads."""
        await until(lambda: self.there)
        await self.until(lambda: len(self.messages) >= count and all(one.fields for one in self.messages.values()))
        return sorted(self.messages)


class H3Site:
    """An engine with HTTP tunnels: `a` and `b` with an http/1.1 upstream behind a FakeConnector, `h` with an h3
    upstream: every channel ends at a stock server."""

    def __init__(self, engine: Engine, udp: Address) -> None:
        self.engine, self.udp = engine, udp
        self.connector = FakeConnector()
        self.a, self.b = make_tunnel("a"), make_tunnel("b")
        self.h = make_tunnel("h", type="datagram", http_version="h3")
        for tunnel in (self.a, self.b, self.h):
            engine.registry.add(tunnel)
        self.upstreams: list[H3Upstream] = []
        self.upstream_side: dict[str, Any] = {}
        self.alpns = ("h3",)
        self.allowed = 128
        self.sources: list[Address | None] = []
        engine.connector.open = self.connector.open  # type: ignore[method-assign]
        engine.connector.open_datagrams = self.open_datagrams  # type: ignore[method-assign]

    async def open_datagrams(self, tunnel: Tunnel, source: Address | None) -> DatagramChannel:
        self.sources.append(source)
        if self.connector.refuse is not None:
            raise UpstreamUnavailable(self.connector.refuse, "secret internals 10.1.2.3")
        near, far = MemoryChannel.pair()
        self.upstreams.append(H3Upstream(far, server_side(*self.alpns, **self.upstream_side), self.allowed))
        return near

    async def upstream(self, number: int = 0) -> H3Upstream:
        """The server of an upstream connection, its handshake complete."""
        await until(lambda: len(self.upstreams) > number and self.upstreams[number].there)
        await self.upstreams[number].connected()
        return self.upstreams[number]

    @contextlib.asynccontextmanager
    async def client(self, name: str = "a", *alpns: str, **options: Any) -> AsyncIterator[H3Stock]:
        """A stock client of a tunnel, connected."""
        configuration = client_configuration(f"{name}.t.{DOMAIN}", *(alpns or ("h3",)), **options)
        async with udp_client(self.udp, configuration, make=H3Stock) as client:
            assert isinstance(client, H3Stock)
            await client.connected()
            yield client


@contextlib.asynccontextmanager
async def h3_site(parts: Parts | None = None, **options: Any) -> AsyncIterator[H3Site]:
    """An engine with its tunnels."""
    async with quic_engine(parts, **options) as (engine, udp):
        site = H3Site(engine, udp)
        try:
            yield site
        finally:
            for one in site.upstreams:
                if one.there:
                    one.forget()


def on(name: str, fields: Any = GET) -> list[tuple[bytes, bytes]]:
    """The fields with the authority of another tunnel."""
    return [(key, f"{name}.t.{DOMAIN}".encode() if key == b":authority" else value) for key, value in fields]


def server(**limits: Any) -> Codec:
    codec = Codec(**limits)
    codec.settle()
    return codec


def client(method: bytes = b"GET", **limits: Any) -> Codec:
    codec = Codec(client=True, **limits)
    codec.settle()
    codec.h3.send_request(0, [(b":method", method), *GET[1:]], method)
    codec.h3.send_end(0, [])
    codec.said += codec.h3.commands
    return codec


def fault(heard: list[Heard]) -> int | None:
    """The status of the one fault that was heard."""
    found = [event.fault.status for event in heard if isinstance(event, Malformed)]
    assert len(found) <= 1
    return found[0] if found else None
