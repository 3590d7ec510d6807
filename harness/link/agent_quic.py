"""The agent's link over QUIC: one connection, whose streams are what TLS connections are on the other transport, and
whose DATAGRAM frames carry the datagram channels (agent protocol, sections 2.2 and 2.5)."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from harness.link import tap
from harness.link.agent import AgentLink, EngineAccess, HandshakeFailed
from harness.link.datagram import DatagramLink
from harness.link.quic import QuicLink
from harness.link.stream import End, EndKind, LinkReset
from harness.link.udp import connect_udp
from harness.model.event import AGENT
from harness.wire import quic as seen
from harness.wire.quic import ClientOptions, QuicClient, QuicEnd, QuicUsageError, StreamLimitReached
from harness.wire.tls.crypto import Identity, verify_chain

CHANNEL_ID = 12
"""Octets of a channel id, in front of the packet in each DATAGRAM frame."""
MAX_UNSENT = 1 << 20
"""Octets of a stream that wait for credit before `send` does."""
MAX_UNREAD = 4 << 20
"""Octets of a datagram channel that wait to be read; what comes on top is lost."""
PACKET_COST = 64
MAX_DATA = 1 << 26
"""Octets that all streams together may hold unread: one that is not read must not stop the others."""
KEEP_ALIVE_SECONDS = 10.0
CRYPTO_ERROR = 0x100
BAD_CERTIFICATE = 42


def channel_id(stream_id: str) -> bytes:
    """The channel id of a stream id: its first 24 hex digits without `-`. Raises `ValueError`."""
    digits = stream_id.strip().replace("-", "")[: 2 * CHANNEL_ID]
    if len(digits) < 2 * CHANNEL_ID or not digits.isalnum():
        raise ValueError(f"stream id {stream_id!r} has no {2 * CHANNEL_ID} hex digits")
    return bytes.fromhex(digits)


class QuicAgentLink(AgentLink):
    """One stream of ours on the agent's QUIC connection."""

    def __init__(self, connection: QuicAgentConnection, stream_id: int) -> None:
        self.id = stream_id
        self.connection = connection
        self.end: End | None = None
        self._carried = tap.SILENT
        self._kept = bytearray()
        self._reason = ""
        self._ended_ours = False
        self._delivered = False
        self._stopped = False

    @property
    def version(self) -> str:
        """TLS 1.3: QUIC has no other (RFC 9001 section 4.2)."""
        return "TLSv1.3"

    @property
    def alpn(self) -> str | None:
        """The application protocol of the connection."""
        return self.connection.wire.alpn

    @property
    def peer_certificate(self) -> bytes | None:
        """The engine's certificate, DER."""
        chain = self.connection.wire.peer_certificates
        return chain[0].public_bytes(Encoding.DER) if chain else None

    @property
    def local(self) -> tuple[str, int]:
        """Our address and port."""
        return self.connection.local

    @property
    def closed(self) -> bool:
        """Whether both halves are over, or the connection is."""
        return bool(self.connection.over) or (self._ended_ours and self._delivered and self.end is not None)

    @property
    def unsent(self) -> int:
        """Octets that wait for credit."""
        return self.connection.wire.unsent(self.id)

    # What came, called by the connection

    def take_data(self, data: bytes, *, fin: bool) -> None:
        """The next octets arrived."""
        self._kept += data
        if fin:
            self.end = End(EndKind.FIN)

    def take_reset(self, code: int) -> None:
        """RESET_STREAM arrived: what was not read is lost, as on a connection that was reset."""
        self._kept.clear()
        self.end = End(EndKind.RESET)
        self._reason = f"stream reset with code {code}"

    def take_stop(self) -> None:
        """STOP_SENDING arrived, and was answered by a reset of our half."""
        self._stopped = self._ended_ours = True

    def take_delivered(self) -> None:
        """All of our half is acknowledged."""
        self._delivered = True

    # Link

    async def send(self, data: bytes) -> None:
        """Send octets; waits while much of it has no credit. Raises `LinkReset`."""
        self.send_now(data)
        while self.unsent > MAX_UNSENT:
            await self.connection.changed()
            self._check_sending()

    def send_now(self, data: bytes) -> None:
        """As `send`, without waiting."""
        self._check_sending()
        self._carried.sent(data)
        self.connection.wire.send_stream(self.id, data)
        self.connection.flush()

    async def drained(self) -> None:
        """Wait until all of it went out, and until the engine has acknowledged what came behind it."""
        while self.unsent:
            await self.connection.changed()
            self._check_sending()
        await self.connection.ping()

    def _check_sending(self) -> None:
        self.connection.check()
        if self._stopped:
            raise LinkReset("the engine reads no more (STOP_SENDING)")
        if self._ended_ours:
            raise LinkReset("our direction was ended before")

    async def receive(self, limit: int = 65536) -> bytes:
        """The next octets, `b""` at the engine's FIN. Raises `LinkReset`."""
        while (data := self.poll(limit)) is None:
            await self.connection.changed()
        return data

    def poll(self, limit: int = 65536) -> bytes | None:
        """What `receive` would give at once, or `None` when nothing is here."""
        if self._kept:
            data = bytes(self._kept[:limit])
            del self._kept[:limit]
            self.connection.consumed(self.id, len(data))
            self._carried.got(data)
            return data
        if self.end is None and not self.connection.over:
            return None
        if self.end is not None and self.end.clean:
            self._carried.got_end()
            return b""
        if self.end is None:
            self.end, self._reason = End(EndKind.RESET), self.connection.over
        self._carried.got_reset()
        raise LinkReset(self._reason)

    def push_back(self, data: bytes) -> None:
        """Put octets back in front: they were read with a frame before them."""
        self._kept[:0] = data

    def carry(self, *, dialed: bool) -> None:
        """From here on the stream is a byte stream, and the tap is told of what it carries."""
        self._carried = self.tap = tap.current().carried(self.local, dialed=dialed)

    async def send_end(self) -> None:
        """FIN; receiving goes on."""
        if self._ended_ours or self.connection.over:
            return
        self._ended_ours = True
        self._carried.sent_end()
        self.connection.wire.send_stream(self.id, b"", fin=True)
        self.connection.flush()

    async def send_fin(self) -> None:
        """FIN: QUIC knows no other end of a stream."""
        await self.send_end()

    async def close(self) -> None:
        """STOP_SENDING with code 0, and FIN: how an agent lets a stream go (section 2.2)."""
        if not self.connection.over and self.end is None:
            self.connection.wire.stop_sending(self.id, 0)
        await self.send_end()
        self.connection.flush()

    def abort(self) -> None:
        """RESET_STREAM and STOP_SENDING, with code 0."""
        if self.connection.over:
            return
        self._carried.sent_reset()
        if not (self._ended_ours and self._delivered):
            self.connection.wire.reset_stream(self.id, 0)
        self._ended_ours = True
        if self.end is None:
            self.connection.wire.stop_sending(self.id, 0)
            self.end, self._reason = End(EndKind.RESET), "reset by ourselves"
        self.connection.flush()

    async def wait_closed(self) -> None:
        """Return when both halves are over, or the connection is."""
        while not self.closed:
            await self.connection.changed()


class QuicChannel(DatagramLink):
    """A datagram channel in DATAGRAM frames of the agent's connection. `on_close` is told when we end it.

    `dropped` counts packets that fit no frame, `lost` those that found no room in the queue.
    """

    def __init__(self, connection: QuicAgentConnection, number: bytes) -> None:
        self.id = number
        self.on_close: Callable[[], None] | None = None
        self.dropped = 0
        self.lost = 0
        self._connection = connection
        self._packets: deque[bytes] = deque()
        self._unread = 0
        self._over = ""
        self.tap = tap.current().carried_datagrams(connection.local, dialed=False)

    def take(self, packet: bytes) -> None:
        """A packet arrived (called by the connection)."""
        cost = len(packet) + PACKET_COST
        if self._unread + cost > MAX_UNREAD:
            self.lost += 1
            return
        self._unread += cost
        self._packets.append(packet)
        self.tap.got(packet)

    def send(self, packet: bytes) -> None:
        """Send one packet; one that is too long for a frame is dropped. Raises `LinkReset`."""
        self._connection.check()
        if self._over:
            raise LinkReset(self._over)
        try:
            self._connection.wire.send_datagram(self.id + packet)
        except QuicUsageError:
            self.dropped += 1
            return
        self.tap.sent(packet)
        self._connection.flush()

    async def receive(self) -> bytes:
        """The next packet. Raises `LinkReset` behind the last one of a channel that ended."""
        while (packet := self.receive_now()) is None:
            if self._over or self._connection.over:
                raise LinkReset(self._over or self._connection.over)
            await self._connection.changed()
        return packet

    def receive_now(self) -> bytes | None:
        """The next packet that is there already, or None."""
        if not self._packets:
            return None
        packet = self._packets.popleft()
        self._unread -= len(packet) + PACKET_COST
        return packet

    def cut(self, reason: str) -> None:
        """The other side ended the channel."""
        if not self._over:
            self._over = reason
            self._connection.forget(self)

    async def close(self) -> None:
        """End the channel. Safe to call twice."""
        self.abort()

    def abort(self) -> None:
        """End the channel at once. Safe to call twice."""
        if self._over:
            return
        self.cut("closed by ourselves")
        if self.on_close is not None and not self._connection.over:
            self.on_close()


class QuicAgentConnection:
    """The QUIC connection of one agent. Made by `connect_agent_quic`; `wire` is what a script reaches for to be wrong.

    `over` says how the connection ended, once it did. `strays` counts DATAGRAM frames that belong to no channel of
    ours.
    """

    def __init__(
        self,
        io: Callable[[Callable[[Sequence[seen.Event]], None]], QuicLink],
        local: tuple[str, int],
        qlog: tap.QuicTap = tap.SILENT_QUIC,
    ) -> None:
        self.local = local
        self.strays = 0
        self.opened_by_engine = 0
        self.datagrams: deque[bytes] = deque(maxlen=256)
        """The latest DATAGRAM frames that belong to no channel of ours."""
        self._io = io(self._take)
        assert isinstance(self._io.wire, QuicClient)
        self.wire: QuicClient = self._io.wire
        self._streams: dict[int, QuicAgentLink] = {}
        self._channels: dict[bytes, QuicChannel] = {}
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pings: set[int] = set()
        self._keep_alive: asyncio.TimerHandle | None = None
        self._qlog = qlog
        self._done = False

    @property
    def over(self) -> str:
        """How the connection ended; empty while it lives."""
        if self._io.broken is not None:
            return f"an error of ours: {self._io.broken!r}"
        end: QuicEnd | None = self.wire.end
        if end is not None:
            return f"the connection is over: {'' if end.by_peer else 'our own '}{end}"
        return self._io.lost

    def check(self) -> None:
        """Raises `LinkReset` once the connection is over."""
        if self.over:
            raise LinkReset(self.over)

    async def changed(self) -> None:
        """Return when something has come, or the connection has ended. Whoever calls looks again."""
        if not self.over:
            waiter = self._changed
            await waiter.wait()
        else:
            await asyncio.sleep(0)

    def flush(self) -> None:
        """Send what waits to be sent."""
        self._io.flush()

    async def ping(self) -> None:
        """PING and its ACK. Raises `LinkReset`."""
        self.check()
        number = self.wire.ping()
        self._pings.add(number)
        self.flush()
        while number in self._pings:
            await self.changed()
            self.check()

    def consumed(self, stream_id: int, count: int) -> None:
        """Octets of a stream were read: the engine may send as many more."""
        if not self.over:
            self.wire.consume(stream_id, count)
            self.flush()

    async def handshake(self) -> None:
        """Complete the handshake. Raises `HandshakeFailed`."""
        self._io.start()
        while not self._done:
            if self.over:
                raise self._failure()
            await self.changed()

    def refuse(self, reason: str) -> None:
        """Close as one who does not trust the engine's certificate (RFC 9001 section 4.8)."""
        self.wire.close(CRYPTO_ERROR + BAD_CERTIFICATE, reason, application=False)
        self.flush()

    def _failure(self) -> HandshakeFailed:
        end = self.wire.end
        alert = None
        if end is not None and end.kind == "transport" and CRYPTO_ERROR <= end.code < CRYPTO_ERROR + 0x100:
            alert = end.code - CRYPTO_ERROR
        return HandshakeFailed(f"{self.over} in the QUIC handshake", alert)

    def stay_alive(self) -> None:
        """Send a PING now and then, as agents do (section 2.2)."""
        if self.over:
            return
        self.wire.ping()
        self.flush()
        self._keep_alive = self._loop.call_later(KEEP_ALIVE_SECONDS, self.stay_alive)

    # Streams and channels

    async def open(self, first: bytes = b"") -> QuicAgentLink:
        """A new stream that begins with `first`. Raises `LinkReset`; waits for the engine's credit."""
        while True:
            self.check()
            try:
                stream_id = self.wire.open_stream()
                break
            except StreamLimitReached:
                self.flush()
                await self.changed()
        link = self._streams[stream_id] = QuicAgentLink(self, stream_id)
        if first:
            self.wire.send_stream(stream_id, first)
            self.flush()
        return link

    def channel(self, stream_id: str) -> QuicChannel:
        """The datagram channel of a stream id; packets that come for it are kept from now on. Raises `ValueError` for
        an id that is none, or is in use."""
        number = channel_id(stream_id)
        if number in self._channels:
            raise ValueError(f"channel {number.hex()} is in use")
        found = self._channels[number] = QuicChannel(self, number)
        # What came in the same batch as the engine's word about the channel was earlier than our asking for it.
        for stray in [each for each in self.datagrams if each[:CHANNEL_ID] == number]:
            self.datagrams.remove(stray)
            self.strays -= 1
            found.take(stray[CHANNEL_ID:])
        return found

    def find(self, stream_id: str) -> QuicChannel | None:
        """The channel of a stream id, if there is one."""
        try:
            return self._channels.get(channel_id(stream_id))
        except ValueError:
            return None

    def forget(self, channel: QuicChannel) -> None:
        """The channel is over."""
        if self._channels.get(channel.id) is channel:
            del self._channels[channel.id]
        self._wake()

    def send_datagram(self, payload: bytes) -> None:
        """A DATAGRAM frame with any payload, a channel id or not. Raises `LinkReset`."""
        self.check()
        self.wire.send_datagram(payload)
        self.flush()

    def _take(self, events: Sequence[seen.Event]) -> None:
        for event in events:
            match event:
                case seen.HandshakeCompleted():
                    self._done = True
                case seen.DatagramReceived(data=data):
                    self._take_datagram(data)
                case seen.PingAcknowledged(number=number):
                    self._pings.discard(number)
                case seen.StreamOpened():
                    # The engine never opens streams (section 2.2).
                    self.opened_by_engine += 1
                case seen.Ended(end=end):
                    self._qlog.closed(end)
                case _:
                    self._take_of_stream(event)
        self._wake()

    def _take_of_stream(self, event: seen.Event) -> None:
        link = self._streams.get(getattr(event, "stream_id", -1))
        if link is None:
            return
        match event:
            case seen.StreamData(data=data, fin=fin):
                link.take_data(data, fin=fin)
            case seen.StreamReset(code=code):
                link.take_reset(code)
            case seen.StopSendingReceived():
                link.take_stop()
            case seen.StreamDelivered():
                link.take_delivered()
            case _:
                return
        if link.closed:
            del self._streams[link.id]

    def _take_datagram(self, data: bytes) -> None:
        channel = self._channels.get(data[:CHANNEL_ID])
        if channel is None:
            self.strays += 1
            self.datagrams.append(data)
        else:
            channel.take(data[CHANNEL_ID:])

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # End

    async def close(self, code: int = 0, reason: str = "") -> None:
        """CONNECTION_CLOSE, and let the flow go. Safe to call twice."""
        if not self.over:
            self.wire.close(code, reason, application=True)
            self.flush()
            self._qlog.closed(self.wire.end)
        if self._keep_alive is not None:
            self._keep_alive.cancel()
        await self._io.stop()
        self._wake()

    def drop(self) -> None:
        """Fall silent: the engine is told nothing."""
        self._io.link.abort()


async def connect_agent_quic(
    access: EngineAccess, *, alpn: Sequence[str] = ("rstrm/1",), address: tuple[str, int] | None = None
) -> QuicAgentConnection:
    """Connect an agent to an engine over QUIC. `address` is another engine's.

    Raises `OSError` when a file cannot be read (`ssl.SSLError` where it is no PEM), `HandshakeFailed` when there is no
    connection.
    """
    host, port = address or access.udp or (access.address, access.port)
    server_name = host if address else access.server_name
    qlog = tap.current().quic(AGENT, "client", "agent")
    wire = QuicClient(qlog.hooked(_options(access, alpn, server_name)))
    link = await connect_udp(host, port, leg=AGENT)
    connection = QuicAgentConnection(lambda take: QuicLink(link, wire, take), link.local, qlog)
    tap.current().secrets(wire.key_log, leg=AGENT)
    try:
        await connection.handshake()
        if (reason := _distrust(access, wire.peer_certificates, server_name)) is not None:
            connection.refuse(reason)
            raise HandshakeFailed(f"the engine's certificate: {reason}")
    except BaseException:
        await connection.close()
        raise
    connection.stay_alive()
    return connection


def _options(access: EngineAccess, alpn: Sequence[str], server_name: str | None) -> ClientOptions:
    identity = None
    if access.certificate:
        key = _pem(access.certificate[1], lambda octets: load_pem_private_key(octets, None))
        identity = Identity(tuple(_pem(access.certificate[0], x509.load_pem_x509_certificates)), key)
    return ClientOptions.of(
        server_name=server_name,
        alpn=tuple(alpn),
        alpn_required=bool(alpn),
        identity=identity,
        automatic_credit=False,
        datagram_size=1350,
        max_data=MAX_DATA,
    )


def _distrust(access: EngineAccess, chain: Sequence[x509.Certificate], server_name: str | None) -> str | None:
    """Why the engine's chain is not trusted, or `None`. Without a server name any name will do."""
    if access.insecure:
        return None
    trust = tuple(_pem(access.ca_file, x509.load_pem_x509_certificates)) if access.ca_file else _system_trust()
    return verify_chain(chain, trust, server_name or _name_of(chain))


def _pem(file: str, load: Callable[[bytes], Any]) -> Any:
    """What `load` makes of a file. Raises `OSError`, `ssl.SSLError`."""
    try:
        return load(Path(file).read_bytes())
    except (ValueError, TypeError) as error:
        raise ssl.SSLError(f"{file}: {error}") from error


@functools.cache
def _system_trust() -> tuple[x509.Certificate, ...]:
    context = ssl.create_default_context()
    return tuple(x509.load_der_x509_certificate(der) for der in context.get_ca_certs(binary_form=True))


def _name_of(chain: Sequence[x509.Certificate]) -> str:
    """The first DNS name that the leaf is for."""
    try:
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (IndexError, ValueError, x509.ExtensionNotFound):
        return ""
    return next(iter(names.get_values_for_type(x509.DNSName)), "")
