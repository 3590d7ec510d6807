"""Stock aioquic peers for the tests of the engine's QUIC, on a UDP socket or on any other way of sending packets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import pull_quic_header
from aioquic.tls import AlertDescription

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.config import Settings
from reference_engine.engine import Engine, running
from reference_engine.parts import Parts
from reference_engine.relay.datagram import ChannelClosed, DatagramChannel
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from tests.engine_tls_support import self_signed

T = TypeVar("T")
DOMAIN = "edge.test"
DEADLINE = 30.0
HOP = ("127.0.0.1", 4433)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within the deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE):
            return await coroutine

    return asyncio.run(bounded())


def client_configuration(name: str | None = None, *alpns: str, **options: Any) -> QuicConfiguration:
    """A stock client that offers `alpns` (no ALPN extension without any) and verifies nothing."""
    return QuicConfiguration(
        is_client=True,
        server_name=name,
        alpn_protocols=list(alpns) or None,
        **{"verify_mode": ssl.CERT_NONE, "max_datagram_frame_size": 65_535, **options},
    )


class Stock:
    """A stock connection that is driven in the loop, and everything that happened to it."""

    def __init__(self, quic: QuicConnection, send: Callable[[bytes, Any], None]) -> None:
        self.quic = quic
        self.seen: list[events.QuicEvent] = []
        self.data: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.datagrams: list[bytes] = []
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.over: events.ConnectionTerminated | None = None
        self.alpn: str | None = None
        self.silent = False
        """A peer that has stopped: it takes nothing in and sends nothing."""
        self.certificates: list[Any] = []
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    def receive(self, packet: bytes, hop: Any = HOP) -> None:
        if not self.silent:
            self.quic.receive_datagram(packet, hop, now=self._loop.time())
            self.transmit()

    def transmit(self) -> None:
        """Send what there is to send."""
        if self.silent or self.quic.get_peer_address() is None:
            return
        for packet, hop in self.quic.datagrams_to_send(now=self._loop.time()):
            self._send(packet, hop)
        if self._timer is not None:
            self._timer.cancel()
        due = self.quic.get_timer()
        self._timer = None if due is None else self._loop.call_at(due, self._tick)
        while (event := self.quic.next_event()) is not None:
            self._note(event)
        # Known here before the draining period is over, which is when stock aioquic tells.
        self.over = self.over or self.quic._close_event
        self._changed.set()

    def _tick(self) -> None:
        self._timer = None
        self.quic.handle_timer(now=self._loop.time())
        self.transmit()

    def _note(self, event: events.QuicEvent) -> None:
        self.seen.append(event)
        match event:
            case events.StreamDataReceived():
                self.data.setdefault(event.stream_id, bytearray()).extend(event.data)
                if event.end_stream:
                    self.ended.add(event.stream_id)
            case events.StreamReset():
                self.resets[event.stream_id] = event.error_code
            case events.StopSendingReceived():
                self.stops[event.stream_id] = event.error_code
            case events.DatagramFrameReceived():
                self.datagrams.append(event.data)
            case events.HandshakeCompleted():
                self.alpn = event.alpn_protocol

    def got(self, stream_id: int) -> bytes:
        """What has come on a stream."""
        return bytes(self.data.get(stream_id, b""))

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until `true()` is."""
        while not true():
            self._changed.clear()
            await self._changed.wait()

    async def connected(self) -> Stock:
        """The handshake is complete; fails when the connection ends instead."""
        await self.until(lambda: self.over is not None or self.alpn is not None)
        assert self.over is None, self.over
        return self

    async def finished(self) -> events.ConnectionTerminated:
        await self.until(lambda: self.over is not None)
        assert self.over is not None
        return self.over

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.quic.send_stream_data(stream_id, data, end)
        self.transmit()

    def open(self, data: bytes = b"", *, end: bool = False, unidirectional: bool = False) -> int:
        """A new stream with its first octets."""
        number = self.quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self.write(number, data, end=end)
        return number

    def reset(self, stream_id: int, code: int) -> None:
        self.quic.reset_stream(stream_id, code)
        self.transmit()

    def stop(self, stream_id: int, code: int) -> None:
        self.quic.stop_stream(stream_id, code)
        self.transmit()

    def datagram(self, data: bytes) -> None:
        self.quic.send_datagram_frame(data)
        self.transmit()

    async def ping(self) -> None:
        """A PING and its acknowledgement: everything that was sent before has been taken in."""
        uid = 1 + sum(isinstance(event, events.PingAcknowledged) for event in self.seen)
        self.quic.send_ping(uid)
        self.transmit()
        await self.until(
            lambda: any(isinstance(event, events.PingAcknowledged) and event.uid == uid for event in self.seen)
        )

    def close(self, code: int = 0, reason: str = "", *, frame_type: int | None = None) -> None:
        self.quic.close(code, frame_type, reason)
        self.transmit()

    def forget(self) -> None:
        """No more timers."""
        self.silent = True
        if self._timer is not None:
            self._timer.cancel()


class _Socket(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.taker: Callable[[bytes, Any], None] = lambda packet, hop: None

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.taker(data, addr)


async def _hop(address: Address) -> Any:
    """The address as a socket reports it."""
    return (await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM))[0][4]


@contextlib.asynccontextmanager
async def udp_client(
    address: Address,
    configuration: QuicConfiguration,
    *,
    make: Callable[[QuicConnection, Callable[[bytes, Any], None]], Stock] = Stock,
    kind: type[QuicConnection] = QuicConnection,
    **options: Any,
) -> AsyncIterator[Stock]:
    """A stock client on a socket of its own, its first packets on their way; `make` is what drives it, `kind` what
    it is."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_Socket, local_addr=(address.host, 0))
    stock = make(kind(configuration=configuration, **options), transport.sendto)
    protocol.taker = stock.receive
    try:
        stock.quic.connect(await _hop(address), now=loop.time())
        stock.transmit()
        yield stock
    finally:
        stock.forget()
        transport.close()


async def until(true: Callable[[], object]) -> None:
    """Wait, a turn of the loop at a time, until `true()` is: for what tells nobody that it has changed."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0)


@contextlib.contextmanager
def raw_socket() -> Any:
    """A UDP socket that does not block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.bind(("127.0.0.1", 0))
        raw.setblocking(False)
        yield raw


@contextlib.asynccontextmanager
async def quic_engine(parts: Parts | None = None, **settings: Any) -> AsyncIterator[tuple[Engine, Address]]:
    """An engine on loopback with its UDP port."""
    every = Settings(
        **{"listen": Address("127.0.0.1", 0), "udp_listen": Address("127.0.0.1", 0), "domain": DOMAIN, **settings}
    )
    async with running(every, parts) as (engine, ready):
        assert ready.udp is not None
        yield engine, ready.udp


def alert_code(alert: AlertDescription) -> int:
    """The code of a CONNECTION_CLOSE for a TLS alert (RFC 9001 section 4.8)."""
    return 0x100 + int(alert)


# -- tunnels -----------------------------------------------------------------------------------------------------------


class MemoryChannel(DatagramChannel):
    """One end of a datagram channel in memory: nothing is lost on it unless `lose` says so."""

    def __init__(self) -> None:
        self.peer = Address("192.0.2.1", 1)
        self.far: MemoryChannel = self
        self.lose: Callable[[bytes], bool] = lambda packet: False
        self.sent: list[int] = []
        self.closed: str | None = None
        self._inbox: deque[bytes] = deque()
        self._arrived: Callable[[], None] | None = None

    @classmethod
    def pair(cls) -> tuple[MemoryChannel, MemoryChannel]:
        near, far = cls(), cls()
        near.far, far.far = far, near
        return near, far

    def send(self, packet: bytes) -> bool:
        if self.closed is not None:
            return False
        self.sent.append(len(packet))
        if not self.lose(packet):
            self.far._inbox.append(packet)
            self.far._tell()
        return True

    def _tell(self) -> None:
        if self._arrived is not None:
            asyncio.get_running_loop().call_soon(lambda: self._arrived and self._arrived())

    async def drained(self) -> None:
        return

    async def receive(self) -> bytes:
        while (packet := self.receive_now()) is None:
            arrived = asyncio.Event()
            self.on_arrival(arrived.set)
            await arrived.wait()
        return packet

    def receive_now(self) -> bytes | None:
        if self._inbox:
            return self._inbox.popleft()
        if self.closed is not None:
            raise ChannelClosed(self.closed)
        return None

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        self._arrived = arrived

    async def close(self) -> None:
        self.abort("closed")

    def abort(self, reason: str) -> None:
        for end in (self, self.far):
            if end.closed is None:
                end.closed = reason
                end._tell()


class Upstream(Stock):
    """A stock server at the far end of a channel; it comes about with its first packet."""

    def __init__(self, channel: MemoryChannel, configuration: QuicConfiguration, allowed: int) -> None:
        self.channel = channel
        self._allowed = allowed
        self._configuration = configuration
        self.hello: tls.ClientHello | None = None
        self.first = b""
        self.late: list[bytes] = []
        self.there = False
        channel.on_arrival(self._arrived)

    def _arrived(self) -> None:
        with contextlib.suppress(ChannelClosed):
            while (packet := self.channel.receive_now()) is not None:
                if not self.there:
                    self._begin(packet)
                self.receive(packet)

    def _pass(self, packet: bytes, hop: Any) -> None:
        self.channel.send(packet)

    def _begin(self, packet: bytes) -> None:
        self.first, self.there = packet, True
        header = pull_quic_header(Buffer(data=packet), host_cid_length=8)
        quic = QuicConnection(
            configuration=self._configuration, original_destination_connection_id=header.destination_cid
        )
        super().__init__(quic, self._pass)
        limit = quic._local_max_streams_bidi
        limit.value = limit.sent = self._allowed
        initialize = quic._initialize

        def watched(peer_cid: bytes) -> None:
            initialize(peer_cid)
            handle = quic.tls._server_handle_hello

            def hello(input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer) -> None:
                raw = input_buf.data_slice(0, input_buf.capacity)
                self.hello = tls.pull_client_hello(Buffer(data=raw))
                handle(input_buf, initial_buf, handshake_buf)

            quic.tls._server_handle_hello = hello  # type: ignore[method-assign]

        quic._initialize = watched  # type: ignore[method-assign]


class Site:
    """An engine with one QUIC tunnel, behind which every channel ends at a stock server."""

    def __init__(
        self, engine: Engine, udp: Address, tunnel: Tunnel, configuration: QuicConfiguration, allowed: int
    ) -> None:
        self.allowed = allowed
        self.engine = engine
        self.udp = udp
        self.tunnel = tunnel
        self.configuration = configuration
        self.upstreams: list[Upstream] = []
        self.sources: list[Address | None] = []
        self.unavailable: UpstreamUnavailable | None = None
        self.lose: Callable[[bytes], bool] = lambda packet: False
        engine.connector.open_datagrams = self.open_datagrams  # type: ignore[method-assign]
        engine.registry.add(tunnel)

    @property
    def name(self) -> str:
        assert self.tunnel.properties.hostname is not None
        return self.tunnel.properties.hostname

    async def open_datagrams(self, tunnel: Tunnel, source: Address | None) -> DatagramChannel:
        assert tunnel is self.tunnel
        self.sources.append(source)
        if self.unavailable is not None:
            raise self.unavailable
        near, far = MemoryChannel.pair()
        near.lose = self.lose
        self.upstreams.append(Upstream(far, self.configuration, self.allowed))
        return near

    async def upstream(self, number: int = 0) -> Upstream:
        """The server of a session, its handshake complete."""
        await until(lambda: len(self.upstreams) > number and self.upstreams[number].there)
        await self.upstreams[number].connected()
        return self.upstreams[number]

    @contextlib.asynccontextmanager
    async def client(self, *alpns: str, **options: Any) -> AsyncIterator[Stock]:
        """A stock client of the tunnel."""
        async with udp_client(self.udp, client_configuration(self.name, *alpns, **options)) as client:
            yield client

    @contextlib.asynccontextmanager
    async def pair(self, **options: Any) -> AsyncIterator[tuple[Stock, Upstream]]:
        """A client with ALPN `x` and the server of its session, both connected."""
        async with self.client("x", **options) as client:
            await client.connected()
            yield client, await self.upstream()


def server_side(*alpns: str, **options: Any) -> QuicConfiguration:
    """A stock server that speaks `alpns`."""
    certificate = self_signed("upstream.test")
    return QuicConfiguration(
        is_client=False,
        alpn_protocols=list(alpns),
        **{
            "certificate": certificate.chain[0],
            "private_key": certificate.key,
            "max_datagram_frame_size": 65_535,
            **options,
        },
    )


@contextlib.asynccontextmanager
async def quic_site(
    *alpns: str,
    listed: tuple[str, ...] = (),
    parts: Parts | None = None,
    upstream: QuicConfiguration | None = None,
    allowed: int = 128,
    **settings: Any,
) -> AsyncIterator[Site]:
    """An engine with a QUIC tunnel whose `tls_alpns` are `listed`, and an upstream that speaks `alpns` and allows
    `allowed` bidirectional streams at a time."""
    properties = TunnelProperties(
        id="q", publish=True, protocol="quic", type="datagram", hostname=f"q.t.{DOMAIN}", tls_alpns=listed
    )
    async with quic_engine(parts, **settings) as (engine, udp):
        tunnel = Tunnel("q", properties, "agent", "default")
        site = Site(engine, udp, tunnel, upstream or server_side(*(alpns or "x")), allowed)
        try:
            yield site
        finally:
            for one in site.upstreams:
                if one.there:
                    one.forget()


def sides(pair: tuple[Stock, Stock], by_client: bool) -> tuple[Stock, Stock]:
    return pair if by_client else (pair[1], pair[0])


def every_leg(site: Site) -> list[Any]:
    assert site.engine.quic is not None
    legs = []
    for end in site.tunnel.sessions:
        session = end.__self__  # type: ignore[attr-defined]
        legs += [session._client, session._upstream.transport]
    return legs
