"""Stock aioquic peers for the tests of the engine's QUIC, on a UDP socket or on any other way of sending packets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import AlertDescription

from reference_engine.config import Settings
from reference_engine.engine import Engine, running
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address

T = TypeVar("T")
DOMAIN = "edge.test"
DEADLINE = 10.0
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
            case events.ConnectionTerminated():
                self.over = event
            case events.HandshakeCompleted():
                self.alpn = event.alpn_protocol

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


@contextlib.asynccontextmanager
async def udp_client(
    address: Address,
    configuration: QuicConfiguration,
    *,
    make: Callable[[QuicConnection, Callable[[bytes, Any], None]], Stock] = Stock,
    **options: Any,
) -> AsyncIterator[Stock]:
    """A stock client on a socket of its own, its first packets on their way; `make` is what drives it."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_Socket, local_addr=("127.0.0.1", 0))
    stock = make(QuicConnection(configuration=configuration, **options), transport.sendto)
    protocol.taker = stock.receive
    stock.quic.connect((address.host, address.port), now=loop.time())
    stock.transmit()
    try:
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
