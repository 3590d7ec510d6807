"""The bare relay of a pair of HTTP versions: h11, h2 and aioquic's H3 joined as they are.

    python -m tests.bench.pair_relay DOWN-UP CHAIN KEY UPSTREAM_PORT

DOWN is `h1`, `h2` or `h3`, UP `h1`, `h2c` or `h3`. TLS on both sides (pyOpenSSL on memory BIOs, see `relay`), or QUIC,
and asyncio: no agent protocol, no names, no limits, no backpressure, no forwarding fields. Prints `{"port": number}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import h11
from aioquic.h3 import events as h3
from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated
from OpenSSL import SSL

from harness.bench.quic import BURST, udp_socket
from tests.bench.relay import Leg, context

Fields = list[tuple[bytes, bytes]]
WINDOW = 1 << 24
"""Octets that a stream of HTTP/2 may send to the relay, and a connection 64 times as many."""
HOP_BY_HOP = frozenset({b"connection", b"transfer-encoding", b"host"})


class Exchange:
    """A request that goes up: `down` gets its response under `key`."""

    def __init__(self, down: Down, key: int) -> None:
        self.down = down
        self.key = key
        self.up_key: Any = None


class Down(ABC):
    """A client's connection."""

    @abstractmethod
    def response(self, key: int, status: bytes, fields: Fields) -> None:
        """The head of a response."""

    @abstractmethod
    def content(self, key: int, data: bytes, *, end: bool) -> None:
        """Content of a response, or its end."""

    @abstractmethod
    def soon(self) -> None:
        """Send what was said, once in this turn of the loop."""


class Up(ABC):
    """The upstream's side; `lost` once no request can go there any more."""

    lost = False

    @abstractmethod
    def ask(self, exchange: Exchange, method: bytes, path: bytes, authority: bytes, fields: Fields) -> None:
        """The head of a request."""

    @abstractmethod
    def content(self, exchange: Exchange, data: bytes, *, end: bool) -> None:
        """Content of a request, or its end."""


class TlsLeg(Leg):
    """A leg whose octets leave once in each turn of the loop."""

    def __init__(self, tls: SSL.Connection) -> None:
        super().__init__(tls)
        self._due = False

    def soon(self) -> None:
        """Send what was said, once in this turn."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._now)

    def _now(self) -> None:
        self._due = False
        self.say()
        self.flush()

    def ended(self) -> None:
        self.end()
        if self.transport is not None:
            self.transport.close()

    def say(self) -> None:
        """Queue what the protocol has made."""


# HTTP/1.1


class H1Down(TlsLeg, Down):
    """One request after the other."""

    def __init__(self, tls: SSL.Connection, up: Up) -> None:
        super().__init__(tls)
        self.h11 = h11.Connection(h11.SERVER)
        self.up = up
        self.exchange = Exchange(self, 0)

    def take(self, pieces: list[bytes]) -> None:
        self.h11.receive_data(b"".join(pieces))
        self.work()

    def work(self) -> None:
        """Hand on what has arrived."""
        while True:
            event = self.h11.next_event()
            if isinstance(event, h11.Request):
                fields = [(name, value) for name, value in event.headers if name not in HOP_BY_HOP]
                host = next(value for name, value in event.headers if name == b"host")
                self.exchange = Exchange(self, 0)
                self.up.ask(self.exchange, event.method, event.target, host, fields)
            elif isinstance(event, h11.Data):
                self.up.content(self.exchange, bytes(event.data), end=False)
            elif isinstance(event, h11.EndOfMessage):
                self.up.content(self.exchange, b"", end=True)
            else:
                return

    def response(self, key: int, status: bytes, fields: Fields) -> None:
        self.put(self.h11.send(h11.Response(status_code=int(status), headers=fields)) or b"")

    def content(self, key: int, data: bytes, *, end: bool) -> None:
        if data:
            self.put(self.h11.send(h11.Data(data=data)) or b"")
        if end:
            self.put(self.h11.send(h11.EndOfMessage()) or b"")
            self.h11.start_next_cycle()
            asyncio.get_running_loop().call_soon(self.work)


class H1Leg(TlsLeg):
    """One connection of HTTP/1.1 to the upstream, for one exchange at a time."""

    def __init__(self, tls: SSL.Connection, idle: list[H1Leg]) -> None:
        super().__init__(tls)
        self.h11 = h11.Connection(h11.CLIENT)
        self.idle = idle
        self.exchange: Exchange | None = None

    def take(self, pieces: list[bytes]) -> None:
        self.h11.receive_data(b"".join(pieces))
        while True:
            event = self.h11.next_event()
            if self.exchange is None or isinstance(event, type):
                return
            down, key = self.exchange.down, self.exchange.key
            if isinstance(event, h11.Response):
                fields = [(name, value) for name, value in event.headers if name not in HOP_BY_HOP]
                down.response(key, b"%d" % event.status_code, fields)
            elif isinstance(event, h11.Data):
                down.content(key, bytes(event.data), end=False)
            elif isinstance(event, h11.EndOfMessage):
                down.content(key, b"", end=True)
                self.exchange = None
                self.h11.start_next_cycle()
                self.idle.append(self)
            down.soon()

    def ended(self) -> None:
        if self in self.idle:
            self.idle.remove(self)
        super().ended()


class H1Up(Up):
    """As many connections as there are exchanges."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[H1Leg] = []
        self.tasks: set[asyncio.Task[Any]] = set()

    def ask(self, exchange: Exchange, method: bytes, path: bytes, authority: bytes, fields: Fields) -> None:
        if self.idle:
            leg = self.idle.pop()
        else:
            leg = H1Leg(client_tls(), self.idle)
            dial(leg, self.port, self.tasks)
        leg.exchange = exchange
        exchange.up_key = leg
        head = h11.Request(method=method, target=path, headers=[(b"host", authority), *fields])
        leg.put(leg.h11.send(head) or b"")

    def content(self, exchange: Exchange, data: bytes, *, end: bool) -> None:
        leg: H1Leg = exchange.up_key
        if data:
            leg.put(leg.h11.send(h11.Data(data=data)) or b"")
        if end:
            leg.put(leg.h11.send(h11.EndOfMessage()) or b"")
        leg.soon()


# HTTP/2


class H2Leg(TlsLeg):
    """A leg with h2 on it; content waits for credit."""

    def __init__(self, tls: SSL.Connection, *, client: bool) -> None:
        super().__init__(tls)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
        self.h2.local_settings = h2.settings.Settings(
            client=client, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
        )
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW * 64)
        self.pending: dict[int, tuple[bytearray, bool]] = {}
        self.soon()

    def say(self) -> None:
        for stream in tuple(self.pending):
            self.fill(stream)
        data = self.h2.data_to_send()
        if data:
            self.put(data)

    def fill(self, stream: int) -> None:
        """Queue the content of a stream, as far as there is credit."""
        data, end = self.pending[stream]
        while data:
            room = min(len(data), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                return
            self.h2.send_data(stream, bytes(data[:room]), end_stream=end and room == len(data))
            del data[:room]
            if not data and end:
                del self.pending[stream]
                return
        if end:
            self.h2.end_stream(stream)
            del self.pending[stream]

    def queue(self, stream: int, data: bytes, *, end: bool) -> None:
        """Content of a stream, or its end."""
        kept = self.pending.get(stream)
        whole = kept[0] if kept else bytearray()
        whole += data
        self.pending[stream] = whole, end
        self.soon()

    def take(self, pieces: list[bytes]) -> None:
        for event in self.h2.receive_data(b"".join(pieces)):
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.event(event)
        self.soon()

    def event(self, event: h2.events.Event) -> None:
        """Hand on what has arrived."""


class H2Down(H2Leg, Down):
    """A client's connection; a key is a stream."""

    def __init__(self, tls: SSL.Connection, up: Up) -> None:
        super().__init__(tls, client=False)
        self.up = up
        self.exchanges: dict[int, Exchange] = {}

    def event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            exchange = self.exchanges[event.stream_id] = Exchange(self, event.stream_id)
            self.up.ask(exchange, *parts(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.up.content(self.exchanges[event.stream_id], event.data or b"", end=False)
        elif isinstance(event, h2.events.StreamEnded):
            self.up.content(self.exchanges.pop(event.stream_id), b"", end=True)

    def response(self, key: int, status: bytes, fields: Fields) -> None:
        self.h2.send_headers(key, [(b":status", status), *fields])

    def content(self, key: int, data: bytes, *, end: bool) -> None:
        self.queue(key, data, end=end)


class H2Up(H2Leg, Up):
    """The one connection to the upstream."""

    def __init__(self, tls: SSL.Connection) -> None:
        super().__init__(tls, client=True)
        self.exchanges: dict[int, Exchange] = {}

    def ask(self, exchange: Exchange, method: bytes, path: bytes, authority: bytes, fields: Fields) -> None:
        stream = self.h2.get_next_available_stream_id()
        exchange.up_key = stream
        self.exchanges[stream] = exchange
        self.h2.send_headers(stream, pseudo(method, path, authority) + fields)

    def content(self, exchange: Exchange, data: bytes, *, end: bool) -> None:
        self.queue(exchange.up_key, data, end=end)

    def ended(self) -> None:
        self.lost = True
        super().ended()

    def event(self, event: h2.events.Event) -> None:
        stream = getattr(event, "stream_id", None)
        exchange = self.exchanges.get(stream) if stream else None
        if exchange is None:
            return
        down, key = exchange.down, exchange.key
        if isinstance(event, h2.events.ResponseReceived):
            (_, status), *fields = event.headers
            down.response(key, status, fields)
        elif isinstance(event, h2.events.DataReceived):
            down.content(key, event.data or b"", end=False)
        elif isinstance(event, h2.events.StreamEnded):
            down.content(key, b"", end=True)
            del self.exchanges[event.stream_id]
        down.soon()


# HTTP/3


class H3Leg:
    """A QUIC connection with aioquic's H3 on it: a burst of packets is taken at once, and content leaves once in each
    turn of the loop."""

    def __init__(self, quic: QuicConnection, sock: socket.socket) -> None:
        self.quic = quic
        self.sock = sock
        self.h3 = H3Connection(quic)
        self.over = False
        self.pending: dict[int, tuple[bytearray, bool]] = {}
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Send what was said, once in this turn."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._now)

    def _now(self) -> None:
        self._due = False
        if self.over:
            return
        pending, self.pending = self.pending, {}
        for stream, (data, end) in pending.items():
            self.h3.send_data(stream, bytes(data), end_stream=end)
        loop = asyncio.get_running_loop()
        for packet, address in self.quic.datagrams_to_send(loop.time()):
            # What the socket does not take is lost like any other; QUIC sends again.
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                self.sock.sendto(packet, address)
        if self._timer is not None:
            self._timer.cancel()
        due = self.quic.get_timer()
        self._timer = None if due is None else loop.call_at(due, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self.quic.handle_timer(asyncio.get_running_loop().time())
        self.work()

    def work(self) -> None:
        """Hand on what has arrived."""
        while (event := self.quic.next_event()) is not None:
            self.over = self.over or isinstance(event, ConnectionTerminated)
            for found in self.h3.handle_event(event):
                self.event(found)
        self.soon()

    def queue(self, stream: int, data: bytes, *, end: bool) -> None:
        """Content of a stream, or its end."""
        whole, _ = self.pending.get(stream) or (bytearray(), False)
        whole += data
        self.pending[stream] = whole, end
        self.soon()

    def event(self, event: h3.H3Event) -> None:
        """Hand on what has arrived."""


def bursts(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """Packets that are there."""
    for _ in range(BURST):
        try:
            yield sock.recvfrom(65_536)
        except (BlockingIOError, ConnectionRefusedError):
            return


class H3Server:
    """The port of the clients; one connection per address."""

    def __init__(self, configuration: QuicConfiguration, up: Callable[[], Up]) -> None:
        self.configuration = configuration
        self.up = up
        self.sock = udp_socket()
        self.sock.bind(("127.0.0.1", 0))
        self.legs: dict[Any, H3Down] = {}
        asyncio.get_running_loop().add_reader(self.sock, self.readable)

    def readable(self) -> None:
        """Take a burst, and then act on all of it."""
        now = asyncio.get_running_loop().time()
        touched = {}
        for packet, address in bursts(self.sock):
            leg = self.legs.get(address)
            if leg is None:
                # Flags, version, then a length and the destination connection id (RFC 8999 section 5.1).
                first = packet[6 : 6 + packet[5]]
                quic = QuicConnection(configuration=self.configuration, original_destination_connection_id=first)
                leg = self.legs[address] = H3Down(quic, self.sock, self.up())
            leg.quic.receive_datagram(packet, address, now)
            touched[address] = leg
        for address, leg in touched.items():
            leg.work()
            if leg.over:
                del self.legs[address]


class H3Down(H3Leg, Down):
    """A client's connection; a key is a stream."""

    def __init__(self, quic: QuicConnection, sock: socket.socket, up: Up) -> None:
        super().__init__(quic, sock)
        self.up = up
        self.exchanges: dict[int, Exchange] = {}

    def event(self, event: h3.H3Event) -> None:
        if isinstance(event, h3.HeadersReceived):
            exchange = self.exchanges[event.stream_id] = Exchange(self, event.stream_id)
            self.up.ask(exchange, *parts(event.headers))
            if event.stream_ended:
                self.up.content(self.exchanges.pop(event.stream_id), b"", end=True)
        elif isinstance(event, h3.DataReceived):
            self.up.content(self.exchanges[event.stream_id], event.data, end=event.stream_ended)
            if event.stream_ended:
                del self.exchanges[event.stream_id]

    def response(self, key: int, status: bytes, fields: Fields) -> None:
        self.h3.send_headers(key, [(b":status", status), *fields])

    def content(self, key: int, data: bytes, *, end: bool) -> None:
        self.queue(key, data, end=end)


class H3Up(H3Leg, Up):
    """The one connection to the upstream. Requests in front of its handshake wait inside aioquic."""

    def __init__(self, quic: QuicConnection, port: int) -> None:
        super().__init__(quic, udp_socket())
        self.exchanges: dict[int, Exchange] = {}
        self.sock.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        loop.add_reader(self.sock, self.readable)
        quic.connect(("127.0.0.1", port), now=loop.time())
        self.soon()

    def readable(self) -> None:
        """Take a burst, and then act on all of it."""
        now = asyncio.get_running_loop().time()
        for packet, address in bursts(self.sock):
            self.quic.receive_datagram(packet, address, now)
        self.work()

    def work(self) -> None:
        super().work()
        if self.over and not self.lost:
            self.lost = True
            asyncio.get_running_loop().remove_reader(self.sock)
            self.sock.close()

    def ask(self, exchange: Exchange, method: bytes, path: bytes, authority: bytes, fields: Fields) -> None:
        stream = self.quic.get_next_available_stream_id()
        exchange.up_key = stream
        self.exchanges[stream] = exchange
        self.h3.send_headers(stream, pseudo(method, path, authority) + fields)

    def content(self, exchange: Exchange, data: bytes, *, end: bool) -> None:
        self.queue(exchange.up_key, data, end=end)

    def event(self, event: h3.H3Event) -> None:
        stream = getattr(event, "stream_id", None)
        exchange = self.exchanges.get(stream) if stream is not None else None
        if exchange is None or stream is None:
            return
        down, key = exchange.down, exchange.key
        if isinstance(event, h3.HeadersReceived):
            (_, status), *fields = event.headers
            down.response(key, status, fields)
            if event.stream_ended:
                down.content(key, b"", end=True)
                del self.exchanges[stream]
        elif isinstance(event, h3.DataReceived):
            down.content(key, event.data, end=event.stream_ended)
            if event.stream_ended:
                del self.exchanges[stream]
        down.soon()


# Joining


def parts(headers: Fields) -> tuple[bytes, bytes, bytes, Fields]:
    """Method, path, authority, and the fields behind the pseudo-header fields."""
    named = {name: value for name, value in headers if name.startswith(b":")}
    fields = [(name, value) for name, value in headers if not name.startswith(b":")]
    return named[b":method"], named[b":path"], named[b":authority"], fields


def pseudo(method: bytes, path: bytes, authority: bytes) -> Fields:
    """Of a request."""
    return [(b":method", method), (b":scheme", b"https"), (b":authority", authority), (b":path", path)]


def client_tls() -> SSL.Connection:
    """TLS toward the upstream."""
    tls = SSL.Connection(context())
    tls.set_connect_state()
    return tls


def dial(leg: Leg, port: int, tasks: set[asyncio.Task[Any]]) -> None:
    """Connect a leg to the upstream; what it is to send waits."""
    task = asyncio.ensure_future(asyncio.get_running_loop().create_connection(lambda: leg, "127.0.0.1", port))
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class Relay:
    """Accepts one version, and speaks another one to the upstream."""

    def __init__(self, pair: str, chain: str, key: str, upstream: int) -> None:
        self.down, _, self.up = pair.partition("-")
        self.chain, self.key, self.upstream = chain, key, upstream
        self.tasks: set[asyncio.Task[Any]] = set()
        self.shared: Up | None = None

    def upstream_side(self) -> Up:
        """What all clients share, made anew once the upstream has ended it."""
        if self.shared is None or self.shared.lost:
            self.shared = self.connect()
        return self.shared

    def connect(self) -> Up:
        """A new upstream's side."""
        if self.up == "h1":
            return H1Up(self.upstream)
        if self.up == "h2c":
            leg = H2Up(client_tls())
            dial(leg, self.upstream, self.tasks)
            return leg
        quic = QuicConfiguration(alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, server_name="upstream.bench.test")
        return H3Up(QuicConnection(configuration=quic), self.upstream)

    async def run(self) -> None:
        """Serve for as long as the process lives."""
        loop = asyncio.get_running_loop()
        if self.down == "h3":
            quic = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
            quic.load_cert_chain(self.chain, self.key)
            self._say(H3Server(quic, self.upstream_side).sock.getsockname()[1])
            await loop.create_future()
        server_context = context()
        server_context.use_certificate_chain_file(self.chain)
        server_context.use_privatekey_file(self.key)
        if self.down == "h2":
            server_context.set_alpn_select_callback(lambda _, offered: b"h2" if b"h2" in offered else b"")
        kind = H2Down if self.down == "h2" else H1Down

        def accept() -> Leg:
            tls = SSL.Connection(server_context)
            tls.set_accept_state()
            return kind(tls, self.upstream_side())

        server = await loop.create_server(accept, "127.0.0.1", 0, backlog=1024)
        self._say(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    def _say(self, port: int) -> None:
        print(json.dumps({"port": port}), flush=True)


if __name__ == "__main__":
    asyncio.run(Relay(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])).run())
