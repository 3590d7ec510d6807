"""A scripted QUIC client or server on a datagram link: `harness.wire.quic` with waits, deadlines and a transcript."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from cryptography import x509

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.link import tap
from harness.link.datagram import DatagramLink
from harness.link.deadline import deadline
from harness.link.quic import QuicLink
from harness.link.stream import LinkReset
from harness.link.tap import QuicTap
from harness.link.udp import UdpLink
from harness.peer.quic_stream import READ_LIMIT, QuicPeerStream, StreamEnd
from harness.peer.quic_words import describe, merged
from harness.peer.tls import hello_detail
from harness.wire import quic as seen
from harness.wire.quic import (
    ClientOptions,
    FrameSeen,
    Level,
    Parameters,
    QuicClient,
    QuicEnd,
    QuicServer,
    Resumption,
    ServerOptions,
    StreamLimitReached,
)
from harness.wire.quic.frames import Frame
from harness.wire.tls.messages import ClientHello

MAX_EVENTS = 4096
MAX_WAITING = 16384
"""Streams of the other side that wait to be taken."""
MAX_DATAGRAMS = 4096
MOST_PINGS = 64
"""DATAGRAM frames that wait to be taken; more are counted as dropped."""


class ConnectionOver(LinkReset):
    """The connection is over, which the script did not expect; `end` says how."""

    def __init__(self, reason: str, end: QuicEnd) -> None:
        super().__init__(reason)
        self.end = end


class HandshakeEnded(PeerMismatch):
    """The other side ended the connection in the handshake; `end` says how."""

    def __init__(self, expected: str, actual: str, end: QuicEnd) -> None:
        super().__init__(expected, actual)
        self.end = end


class QuicPeer:
    """One QUIC connection of a script. `wire` is the connection below: everything that it knows is readable there.

    The other side's departures: a broken rule of QUIC or TLS is `PeerMismatch` from whatever waits next (unless
    `strict` is False: a script that is illegal itself may provoke them), the end of the connection is `LinkReset`, and
    everything awaited in vain is `DeadlineExpired`. `events` keeps what came, data excepted.
    """

    def __init__(
        self,
        link: DatagramLink,
        channel: Channel,
        wire: QuicClient | QuicServer,
        *,
        source: str | None = None,
        qlog: QuicTap = tap.SILENT_QUIC,
    ) -> None:
        self.link = link
        self.channel = channel
        link.tap.label(channel.name)
        self.wire = wire
        self.source = source
        """The client's address, where this is at an upstream and the engine told it."""
        self.strict = True
        self.events: list[seen.Event] = []
        self.violations: list[seen.ProtocolViolation] = []
        self.done: seen.HandshakeCompleted | None = None
        self.resumptions: list[Resumption] = []
        self.tokens: list[bytes] = []
        self.datagrams_dropped = 0
        self._io = QuicLink(link, wire, self._take)
        self._changed = asyncio.Event()
        self._streams: dict[int, QuicPeerStream] = {}
        self._waiting: deque[QuicPeerStream] = deque()
        self._datagrams: deque[bytes] = deque()
        self._pings: set[int] = set()
        self._raised = 0
        self._too_much = ""
        self._logged_end = False
        self._qlog = qlog
        self._closed_by_us = False
        self.taker: Callable[[seen.Event], bool] | None = None
        """Takes what streams bring in the place of the streams here, and says whether it did: a protocol above QUIC. It
        writes the transcript of what it takes."""
        tap.current().secrets(wire.key_log, leg=channel.leg)

    @classmethod
    def client(cls, link: DatagramLink, channel: Channel, options: ClientOptions) -> QuicPeer:
        """A client; nothing is said before `handshake` or `start`."""
        qlog = tap.current().quic(channel.leg, "client", channel.name)
        return cls(link, channel, QuicClient(qlog.hooked(options)), qlog=qlog)

    @classmethod
    def server(
        cls, link: DatagramLink, channel: Channel, options: ServerOptions, *, source: str | None = None
    ) -> QuicPeer:
        """A server of one connection."""
        qlog = tap.current().quic(channel.leg, "server", channel.name)
        return cls(link, channel, QuicServer(qlog.hooked(options)), source=source, qlog=qlog)

    # What is known

    @property
    def alpn(self) -> str | None:
        """The negotiated protocol."""
        return self.wire.alpn

    @property
    def version(self) -> int:
        """The version that is spoken."""
        return self.wire.version

    @property
    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """The other side's chain, leaf first."""
        return self.wire.peer_certificates

    @property
    def peer_verified(self) -> str | None:
        """None where the other side's chain verifies against `trust`, else the reason."""
        return self.wire.peer_verified

    @property
    def remote_parameters(self) -> Parameters | None:
        """The other side's transport parameters, once they are here."""
        return self.wire.remote_parameters

    @property
    def client_hello(self) -> ClientHello:
        """The ClientHello: the one received, or the one sent. Raises `PeerMismatch` while there is none."""
        hello = self.wire.client_hello
        if hello is None:
            raise PeerMismatch("a ClientHello", "none yet")
        return hello

    @property
    def frames(self) -> Sequence[FrameSeen]:
        """Every frame that came, whatever became of it; of a long connection the latest ones."""
        return tuple(self.wire.frames)

    @property
    def ended(self) -> QuicEnd | None:
        """How the connection ended, if it did; kind `none` where the link below is gone without a word."""
        if self.wire.end is not None:
            return self.wire.end
        return QuicEnd("none", reason=self._io.lost) if self._io.lost else None

    # Waiting

    def check(self) -> None:
        """Whether the script can go on. Raises `PeerMismatch` for a broken rule, `LinkReset` behind the end."""
        self._check_rules()
        end = self.ended
        if end is not None:
            raise ConnectionOver(f"the connection is over: {self._told(end)}", end)

    def _check_rules(self) -> None:
        if self._io.broken is not None:
            raise self._io.broken
        if self._too_much:
            raise PeerMismatch(f"no more than a peer keeps at the {self.channel.us}", self._too_much)
        if self.strict and self._raised < len(self.violations):
            found = self.violations[self._raised]
            self._raised += 1
            raise PeerMismatch(f"legal QUIC at the {self.channel.us} ({found.section})", found.what)

    def _told(self, end: QuicEnd) -> str:
        if end.kind == "none":
            return end.reason
        return f"{end}" if end.by_peer else f"our own {end}"

    async def until(self, done: Callable[[], object], awaited: str) -> None:
        """Wait until `done()`. Raises `PeerMismatch`, `LinkReset` when the connection ends first, `DeadlineExpired`."""
        async with deadline(awaited):
            while not done():
                self.check()
                self._changed.clear()
                await self._changed.wait()
            self._check_rules()

    def flush(self) -> None:
        """Send what waits to be sent."""
        self._io.start()
        self._io.flush()

    def consumed(self, stream_id: int, count: int) -> None:
        """The script took octets of a stream: credit for as many, where the options leave that to it."""
        if count and not self.wire.options.automatic_credit and self.ended is None:
            self.wire.consume(stream_id, count)
            self.flush()

    # What comes

    def _take(self, events: Sequence[seen.Event]) -> None:
        for event in merged(events):
            if self.taker is None or not self.taker(event):
                self._log(event)
                self._apply(event)
            if not isinstance(event, seen.StreamData | seen.DatagramReceived) and len(self.events) < MAX_EVENTS:
                self.events.append(event)
        if self._io.lost and self.wire.end is None and not self._logged_end:
            self._logged_end = True
            self.channel.got("end of the link", detail=self._io.lost)
        self._changed.set()

    def _apply(self, event: seen.Event) -> None:
        match event:
            case seen.DatagramReceived(data=data):
                if len(self._datagrams) < MAX_DATAGRAMS:
                    self._datagrams.append(data)
                else:
                    self.datagrams_dropped += 1
            case seen.PingAcknowledged(number=number):
                self._pings.discard(number)
            case seen.Ended(end=end):
                self._qlog.closed(end)
            case seen.HandshakeCompleted():
                self.done = event
            case seen.TicketReceived(resumption=resumption):
                self.resumptions.append(resumption)
            case seen.TokenReceived(token=token):
                self.tokens.append(token)
            case seen.ProtocolViolation():
                self.violations.append(event)
            case _:
                self._apply_to_stream(event)

    def _apply_to_stream(self, event: seen.Event) -> None:
        match event:
            case seen.StreamOpened(stream_id=stream_id):
                if len(self._waiting) >= MAX_WAITING:
                    self._too_much = f"{MAX_WAITING} streams that nobody took"
                else:
                    self._waiting.append(self._stream(stream_id))
            case seen.StreamData(stream_id=stream_id, data=data, fin=fin):
                stream = self._stream(stream_id)
                if stream.waiting + len(data) > READ_LIMIT:
                    self._too_much = f"{READ_LIMIT} octets of stream {stream_id} that nobody read"
                else:
                    stream.take_data(data, fin=fin)
            case seen.StreamReset(stream_id=stream_id, code=code):
                self._stream(stream_id).take_reset(code)
            case seen.StopSendingReceived(stream_id=stream_id, code=code):
                self._stream(stream_id).take_stop(code)
            case seen.StreamDelivered(stream_id=stream_id):
                self._stream(stream_id).take_delivered()
            case _:
                pass

    def hand_over(self) -> None:
        """Let `taker` have what streams brought before it was there: a server may speak in the flight that ends the
        handshake."""
        assert self.taker is not None
        while self._waiting:
            stream = self._waiting.popleft()
            data, end = stream.give_away()
            self.taker(seen.StreamOpened(stream.id))
            if data or end == StreamEnd("fin"):
                self.taker(seen.StreamData(stream.id, data, fin=end == StreamEnd("fin")))
            if end is not None and end.kind == "reset":
                self.taker(seen.StreamReset(stream.id, end.code or 0, len(data)))

    def _log(self, event: seen.Event) -> None:
        if isinstance(event, seen.Ended) and not event.end.by_peer:
            # Where the script closed it said so itself; what is left is our answer to a broken rule, and our patience.
            if not self._closed_by_us:
                self.channel.sent("end of the connection", detail=str(event.end))
            return
        told = describe(event)
        if told is not None:
            what, detail, data = told
            self.channel.got(what, detail=detail, data=data)

    def _stream(self, stream_id: int) -> QuicPeerStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = QuicPeerStream(self, stream_id)
        return stream

    # Handshake

    async def start(self) -> None:
        """A client's first flight; a server begins to listen. Nothing the second time."""
        if isinstance(self.wire, QuicClient) and not self.wire.started:
            self.channel.sent("Initial", detail=hello_detail(self.wire.client_hello))
        self._io.start()

    async def handshake(self) -> seen.HandshakeCompleted:
        """Complete the handshake. Raises `PeerMismatch` with how it ended otherwise, `LinkReset`, `DeadlineExpired`."""
        result = await self.try_handshake()
        if isinstance(result, seen.HandshakeCompleted):
            return result
        if result.kind in ("reset", "none"):
            raise ConnectionOver(f"{self._told(result)} during the handshake", result)
        raise HandshakeEnded(f"the handshake to complete at the {self.channel.us}", self._told(result), result)

    async def try_handshake(self) -> seen.HandshakeCompleted | QuicEnd:
        """Like `handshake`, where a refusal is no departure: gives how it ended.

        A broken rule of QUIC on the other side is `PeerMismatch` here too.
        """
        await self.start()
        async with deadline(f"the QUIC handshake at the {self.channel.us}"):
            while self.done is None and (end := self.ended) is None:
                self._check_rules()
                self._changed.clear()
                await self._changed.wait()
            self._check_rules()
        if self.done is not None:
            return self.done
        assert end is not None
        return end

    async def confirmed(self) -> None:
        """Wait until the handshake is confirmed (RFC 9001 section 4.1.2). Raises as `until`."""
        await self.until(lambda: self.wire.confirmed, f"the handshake to be confirmed at the {self.channel.us}")

    # Streams

    async def open_stream(self, *, bidirectional: bool = True) -> QuicPeerStream:
        """A new stream of ours, as soon as the other side allows one more. Raises `LinkReset`, `DeadlineExpired`."""
        found: list[int] = []

        def opened() -> bool:
            try:
                found.append(self.wire.open_stream(bidirectional=bidirectional))
            except StreamLimitReached:
                self.flush()
                return False
            return True

        self.check()
        kind = "bidirectional" if bidirectional else "unidirectional"
        await self.until(opened, f"credit for one more {kind} stream at the {self.channel.us}")
        self.channel.sent("stream opened", detail=f"stream {found[0]}, {kind}")
        return self._stream(found[0])

    async def accept_stream(self) -> QuicPeerStream:
        """The next stream that the other side opened. Raises `LinkReset`, `DeadlineExpired`."""
        await self.until(lambda: self._waiting, f"a stream of the other side at the {self.channel.us}")
        return self._waiting.popleft()

    async def accept_stream_with(self, first: bytes) -> QuicPeerStream:
        """The stream of the other side whose octets begin with `first`; others stay where they are."""

        def found() -> QuicPeerStream | None:
            return next((each for each in self._waiting if each.peek(len(first)) == first), None)

        await self.until(found, f"the stream with our nonce at the {self.channel.us}")
        stream = found()
        assert stream is not None
        self._waiting.remove(stream)
        return stream

    def waiting_streams(self) -> tuple[QuicPeerStream, ...]:
        """Streams of the other side that no script took: only after a barrier does their absence mean anything."""
        return tuple(self._waiting)

    # Datagrams

    async def send_datagram(self, data: bytes) -> None:
        """One DATAGRAM frame. Raises `LinkReset`."""
        self.check()
        self.channel.sent("DATAGRAM", data=data)
        self.wire.send_datagram(data)
        self.flush()

    async def receive_datagram(self) -> bytes:
        """The data of the next DATAGRAM frame. Raises `LinkReset`, `DeadlineExpired`."""
        await self.until(lambda: self._datagrams, f"a DATAGRAM frame at the {self.channel.us}")
        return self._datagrams.popleft()

    def arrived_datagrams(self) -> list[bytes]:
        """The data of the DATAGRAM frames that came and were not taken; takes them."""
        found = list(self._datagrams)
        self._datagrams.clear()
        return found

    # The connection

    async def ping(self, *, again: float | None = None) -> None:
        """PING and its ACK: the other side has read everything before it. Raises `LinkReset`, `DeadlineExpired`.

        With `again` another PING follows every so many seconds: a side that is closing answers packets with its close
        for a short while only (RFC 9000 section 10.2), which one lost packet and our own timers may miss.
        """
        self.check()
        mine = {self._say_ping()}
        answered = asyncio.ensure_future(
            self.until(lambda: not mine <= self._pings, f"the ACK of a PING at the {self.channel.us}")
        )
        try:
            while not answered.done() and again is not None and len(mine) < MOST_PINGS:
                await asyncio.wait((answered,), timeout=again)
                if not answered.done():
                    mine.add(self._say_ping())
            await answered
        finally:
            answered.cancel()
            await asyncio.gather(answered, return_exceptions=True)

    def _say_ping(self) -> int:
        number = self.wire.ping()
        self._pings.add(number)
        self.channel.sent("PING")
        self.flush()
        return number

    def update_keys(self) -> None:
        """Send under the next keys (RFC 9001 section 6)."""
        self.check()
        self.channel.sent("key update")
        self.wire.update_keys()
        self.flush()

    def say(self, frames: Frame | Sequence[Frame], *, level: Level | None = None) -> None:
        """Put any frames, legal or not, into one packet of `level` (the highest by default) on the wire. What they
        provoke may look like a broken rule of the other side's: see `strict`."""
        many = [frames] if isinstance(frames, Frame) else list(frames)
        self._check_rules()
        where = (self.wire.level if level is None else level).name.lower()
        self.channel.sent("frames of the script", detail=f"{where}: {', '.join(map(str, many))}"[:400])
        self.wire.say(*many, level=level)
        self.flush()

    def send_packet(self, packet: bytes) -> None:
        """A UDP payload as it is, past the connection. Raises `LinkReset`."""
        self.channel.sent("packet of the script", data=packet)
        self.link.send(packet)

    def rebind(self) -> None:
        """Go on from another port, as behind a NAT. Only where we are a client on UDP. Raises `OSError`."""
        assert isinstance(self.link, UdpLink), "only a UDP flow of ours has a port to change"
        self.link.rebind()
        self.channel.sent("another port", detail=f"{self.link.local[0]}:{self.link.local[1]}")

    async def close(self, code: int = 0, reason: str = "", *, application: bool = True) -> None:
        """CONNECTION_CLOSE with an application's code, or a transport's. Does nothing behind the end."""
        if self.ended is not None:
            return
        kind = "application" if application else "transport"
        self.channel.sent("CONNECTION_CLOSE", detail=f"{kind}, code {code}{f', {reason!r}' if reason else ''}")
        self._closed_by_us = True
        self.wire.close(code, reason, application=application)
        self.flush()
        self._qlog.closed(self.wire.end)
        self._changed.set()

    async def closed(self) -> QuicEnd:
        """How the connection ends, whoever ended it. Raises `PeerMismatch`, `DeadlineExpired`."""
        async with deadline(f"the end of the connection at the {self.channel.us}"):
            return await self.gone()

    async def gone(self) -> QuicEnd:
        """As `closed`, however long that takes: for a task in the background."""
        while (end := self.ended) is None:
            self._check_rules()
            self._changed.clear()
            await self._changed.wait()
        return end

    def abort(self) -> None:
        """Fall silent: nothing more is sent, and nothing is told to the other side."""
        self.channel.sent("silence", detail="the connection is dropped without a word")
        self.link.abort()

    async def shut(self) -> None:
        """Close with code 0 unless it is over, and let the link go; the scene calls it. Safe to call twice."""
        if self.ended is None and self.wire.started:
            self._closed_by_us = True
            self.wire.close(0, "", application=True)
            self._io.flush()
        await self._io.stop()


__all__ = ["QuicEnd", "QuicPeer", "QuicPeerStream", "StreamEnd"]
