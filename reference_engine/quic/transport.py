"""One QUIC connection, driven in the loop: timers, packets in and out, streams, datagrams, the end.

The same object serves on the public UDP port and inside a datagram channel of an agent: `send` takes each packet with
the address that it is for. Packets are built once per turn of the loop, however many calls asked for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from aioquic.quic import events

from reference_engine.edge.client_hello import ClientHello
from reference_engine.quic.connection import Choice, EngineQuic, HelloSeen, QuicEnd, StreamGone
from reference_engine.quic.stream import QuicClosed, QuicStream
from reference_engine.relay.stream import Address

Hop = Any
"""An address as aioquic is handed it: (host, port), or the tuple of an IPv6 socket."""
T = TypeVar("T")
INTERNAL_ERROR = 0x1
_LOG = logging.getLogger("reference_engine")


class QuicTransport:
    """Drives `connection`.

    `high_water` (octets) is how much of a stream may wait to be acknowledged before a write waits; `most_datagrams` is
    how many received DATAGRAM frames wait to be taken, more are dropped and counted. Callbacks, all plain calls:
    `on_hello` (a server has the ClientHello; answer or refuse now or later), `on_cid` (a connection id of ours; True:
    a new one, False: a retired one), `on_complete` (the handshake is), `on_over` (the connection is, for its users),
    `on_gone` (and nothing is left to be sent for it).
    """

    def __init__(
        self,
        connection: EngineQuic,
        send: Callable[[bytes, Hop], None],
        *,
        peer: Address | None = None,
        high_water: int = 262_144,
        most_datagrams: int = 256,
        on_hello: Callable[[QuicTransport, ClientHello], None] | None = None,
        on_cid: Callable[[QuicTransport, bytes, bool], None] | None = None,
        on_complete: Callable[[QuicTransport], None] | None = None,
        on_over: Callable[[QuicTransport, QuicEnd], None] | None = None,
        on_gone: Callable[[QuicTransport], None] | None = None,
    ) -> None:
        self.connection = connection
        self.peer = peer
        self.high_water = high_water
        self.end: QuicEnd | None = None
        self.datagrams_lost = 0
        """Received DATAGRAM frames that nobody took in time."""
        self._send = send
        self._most_datagrams = most_datagrams
        self._on_hello, self._on_cid, self._on_complete = on_hello, on_cid, on_complete
        self._on_over, self._on_gone = on_over, on_gone
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, QuicStream] = {}
        self._accepted: dict[bool, deque[QuicStream]] = {False: deque(), True: deque()}
        """Streams of the peer that nobody has taken yet: bidirectional and unidirectional ones."""
        self._opened = {False: 0, True: 0}
        self._datagrams: deque[bytes] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        self._blocked: set[QuicStream] = set()
        self._watching = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._planned: asyncio.Handle | None = None
        self._last_words: list[tuple[bytes, Hop]] = []
        self._heard_since = 0
        self._arrived: Callable[[], None] | None = None
        self._complete = False
        self._is_gone = False

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def alpn(self) -> str | None:
        """The negotiated application protocol."""
        return self.connection.alpn

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        """The peer's certificates in DER, its own first."""
        return self.connection.peer_chain

    @property
    def complete(self) -> bool:
        """Whether the handshake is complete."""
        return self._complete

    @property
    def streams(self) -> tuple[QuicStream, ...]:
        """The streams that are not yet done with."""
        return tuple(self._streams.values())

    @property
    def unread(self) -> int:
        """Octets of all streams that have come and were not read."""
        return sum(stream.unread for stream in self._streams.values())

    @property
    def backlog(self) -> int:
        """Octets of all streams that wait to be sent or acknowledged."""
        return sum(stream.backlog for stream in self._streams.values())

    # -- packets ---------------------------------------------------------------------------------------------------

    def connect(self, hop: Hop) -> None:
        """Start the handshake of a client."""
        self.connection.connect(hop, now=self._loop.time())
        self.plan()

    def receive(self, packet: bytes, hop: Hop) -> None:
        """One packet of the peer."""
        if self._is_gone:
            return
        if self._last_words:
            self._repeat_last_words()
            return
        if self.end is not None:
            return  # Over for us, though our close has not gone out yet: aioquic would go on, and even complete.
        self._guarded(lambda now: self.connection.receive_datagram(packet, hop, now=now))
        self._dispatch()
        self.plan()

    def plan(self) -> None:
        """Build and send what there is to send, once in this turn of the loop."""
        if self._planned is None and not self._is_gone:
            self._planned = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._planned = None
        if self._is_gone:
            return
        packets = (self._guarded(self.connection.datagrams_to_send) or []) if self._may_send() else []
        for packet, hop in packets:
            self._send(packet, hop)
        if self.end is not None and packets and self.end.by == "self":
            self._last_words = packets
        self._dispatch()
        self._rearm()

    def _may_send(self) -> bool:
        """A server has nothing to say, and no path to say it on, before the first genuine packet."""
        return self.connection.get_peer_address() is not None

    def _rearm(self) -> None:
        due = None if self._is_gone else self.connection.get_timer() if self._may_send() else None
        if due is not None and self._timer is not None and self._timer_at is not None and self._timer_at <= due:
            return  # It fires early, finds that nothing is due and is armed again: cheaper than a timer per packet.
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        # A clock of its own resolution: never sooner than in a millisecond, whatever the connection says.
        self._timer = None if due is None else self._loop.call_at(max(due, self._loop.time() + 0.001), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, None
        now = self._loop.time()
        due = self.connection.get_timer()
        if due is not None and now >= due:
            self._guarded(self.connection.handle_timer)
            self._dispatch()
        self._flush()

    def _repeat_last_words(self) -> None:
        """RFC 9000 section 10.2.1: packets that come after our close are answered with it, ever more rarely."""
        self._heard_since += 1
        if self._heard_since & (self._heard_since - 1) == 0:
            for packet, hop in self._last_words:
                self._send(packet, hop)

    def _guarded(self, step: Callable[[float], T]) -> T | None:
        """What a peer sends must never be the end of more than its own connection."""
        try:
            return step(self._loop.time())
        except Exception as problem:  # noqa: BLE001 - whatever the library trips over
            _LOG.error("quic connection failed peer=%s problem=%r", self.peer, problem, exc_info=problem)
            self.connection.close(INTERNAL_ERROR, 0, "internal error")
            return None

    # -- events ----------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while (event := self.connection.next_event()) is not None:
            self._handle(event)
        if self._blocked:
            self._blocked = {stream for stream in self._blocked if not stream.room()}
        if self._watching:
            self._wake()
        if self.end is None and (end := self.connection.end) is not None:
            self._over(end)
        if self.connection.terminated and not self._is_gone:
            self._gone()

    def _handle(self, event: events.QuicEvent) -> None:
        match event:
            case events.StreamDataReceived():
                self._stream(event.stream_id).data_came(event.data, event.end_stream)
            case events.DatagramFrameReceived():
                self._datagram_came(event.data)
            case events.StreamReset():
                self._stream(event.stream_id).reset_came(event.error_code)
            case events.StopSendingReceived():
                self._stream(event.stream_id).stop_came(event.error_code)
            case StreamGone():
                self._stream_gone(event.stream_id)
            case _:
                self._handle_connection(event)

    def _handle_connection(self, event: events.QuicEvent) -> None:
        match event:
            case HelloSeen() if self._on_hello is not None:
                self._on_hello(self, event.hello)
            case events.HandshakeCompleted():
                self._complete = True
                self._wake()
                if self._on_complete is not None:
                    self._on_complete(self)
            case events.ConnectionIdIssued() if self._on_cid is not None:
                self._on_cid(self, event.connection_id, True)
            case events.ConnectionIdRetired() if self._on_cid is not None:
                self._on_cid(self, event.connection_id, False)
            case _:
                pass

    def _stream_gone(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.gone()
        else:
            self.connection.release_stream(stream_id)

    def _stream(self, stream_id: int) -> QuicStream:
        """The stream of an event. A new one of the peer opens those below it, too (RFC 9000 section 2.1): whoever takes
        them takes them in the order of their numbers."""
        kind = bool(stream_id & 2)
        if stream_id not in self._streams:
            for count in range(self._opened[kind], stream_id // 4 + 1):
                number = count * 4 + stream_id % 4
                stream = self._streams[number] = QuicStream(self, number, ours=False)
                self._accepted[kind].append(stream)
            self._opened[kind] = stream_id // 4 + 1
            self._wake()
        return self._streams[stream_id]

    def _over(self, end: QuicEnd) -> None:
        self.end = end
        for stream in tuple(self._streams.values()):
            stream.connection_over(end)
        self._wake()
        if self._arrived is not None:
            self._arrived()
        if self._on_over is not None:
            self._on_over(self, end)

    def _gone(self) -> None:
        self._is_gone = True
        self._last_words = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        self._wake()
        if self._on_gone is not None:
            self._on_gone(self)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def _watched(self) -> None:
        """Wait until anything came, for whoever waits for what is no event."""
        self._watching += 1
        try:
            await self._changed()
        finally:
            self._watching -= 1

    async def drained(self) -> None:
        """Wait until everything that was written is acknowledged, or the connection is over."""
        while self.end is None and self.backlog:
            await self._watched()

    # -- the handshake ---------------------------------------------------------------------------------------------

    def answer(self, choice: Choice) -> None:
        """Answer the ClientHello that is held."""
        self._guarded(lambda now: self.connection.answer(choice))
        self._dispatch()
        self.plan()

    def refuse(self, alert: int, reason: str) -> None:
        """End the connection with a TLS alert."""
        self.connection.refuse(alert, reason)
        self._dispatch()
        self.plan()

    async def completed(self) -> None:
        """Wait for the end of the handshake. Raises QuicClosed."""
        while not self._complete:
            if self.end is not None:
                raise QuicClosed(self.end)
            await self._changed()

    # -- streams ---------------------------------------------------------------------------------------------------

    async def accept_stream(self, *, unidirectional: bool = False) -> QuicStream:
        """The next stream of this kind that the peer has opened, in the order of their numbers. Raises QuicClosed."""
        accepted = self._accepted[unidirectional]
        while not accepted:
            if self.end is not None:
                raise QuicClosed(self.end)
            await self._changed()
        return accepted.popleft()

    async def open_stream(self, *, unidirectional: bool = False) -> QuicStream:
        """A new stream, as soon as the peer's limit allows one (RFC 9000 section 4.6). Raises QuicClosed.

        The peer hears of it with the first octets or the end.
        """
        while self.end is None and not self.connection.may_open(unidirectional=unidirectional):
            await self._watched()
        if self.end is not None:
            raise QuicClosed(self.end)
        number = self.connection.get_next_available_stream_id(is_unidirectional=unidirectional)
        stream = self._streams[number] = QuicStream(self, number, ours=True)
        self.connection.send_stream_data(number, b"")
        return stream

    def send(self, stream: QuicStream, data: bytes, *, fin: bool) -> None:
        """Queue octets of a stream."""
        if self.connection.may_send(stream.id):
            self.connection.send_stream_data(stream.id, data, fin)
            self.plan()

    def reset_stream(self, stream: QuicStream, code: int) -> None:
        """RESET_STREAM."""
        self.connection.reset_stream(stream.id, code)
        self.plan()

    def stop_stream(self, stream: QuicStream, code: int) -> None:
        """STOP_SENDING."""
        try:
            self.connection.stop_stream(stream.id, code)
        except ValueError:
            return  # Forgotten already: nothing more can come.
        self.plan()

    def blocked(self, stream: QuicStream) -> None:
        """Somebody waits for acknowledgements of the stream."""
        self._blocked.add(stream)

    def consumed(self, stream: QuicStream, octets: int, *, more: bool) -> None:
        """Octets of a stream were taken. `more`: the rest is wanted too, and so the stream's own limit moves."""
        if octets and self.connection.consume(stream.id, octets, more=more):
            self.plan()

    def settled(self, stream: QuicStream) -> None:
        """What is left of a stream is not wanted, and its end is known."""
        if self.connection.settle(stream.id):
            self.plan()

    def release(self, stream: QuicStream) -> None:
        """The stream is over on both sides and read to its end."""
        if self._streams.pop(stream.id, None) is not None:
            self.connection.release_stream(stream.id)
            self.plan()

    # -- datagrams -------------------------------------------------------------------------------------------------

    def send_datagram(self, data: bytes) -> bool:
        """Queue a DATAGRAM frame; False where it was dropped, which is counted (RFC 9221 section 5)."""
        if self.end is not None:
            return False
        queued = self.connection.queue_datagram(data)
        if queued:
            self.plan()
        return queued

    @property
    def datagram_room(self) -> int:
        """Octets of the longest DATAGRAM payload that can be sent now, negative where none can."""
        return self.connection.datagram_room

    async def datagrams_drained(self) -> None:
        """Wait until another DATAGRAM frame can be queued, or the connection is over."""
        while self.end is None and self.connection.datagrams_queued >= self.connection.windows.datagrams:
            await self._watched()

    def receive_datagram_now(self) -> bytes | None:
        """The next DATAGRAM payload, None where there is none. Raises QuicClosed behind the last one."""
        if self._datagrams:
            return self._datagrams.popleft()
        if self.end is not None:
            raise QuicClosed(self.end)
        return None

    async def receive_datagram(self) -> bytes:
        """The next DATAGRAM payload. Raises QuicClosed behind the last one."""
        while (data := self.receive_datagram_now()) is None:
            await self._changed()
        return data

    def on_datagram(self, arrived: Callable[[], None] | None) -> None:
        """Have `arrived` called whenever `receive_datagram_now` may have something else than None to give."""
        self._arrived = arrived

    def _datagram_came(self, data: bytes) -> None:
        if len(self._datagrams) >= self._most_datagrams:
            self.datagrams_lost += 1
            return
        self._datagrams.append(data)
        if self._arrived is not None:
            self._arrived()
        self._wake()

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self, code: int = 0, reason: str = "", *, application: bool = True) -> None:
        """CONNECTION_CLOSE with a code of the application, or one of the transport. Safe to call twice."""
        if self.end is None:
            self.connection.close(code, None if application else 0, reason)
            if self._may_send():
                self._dispatch()
                self.plan()
            else:
                self.drop()

    def drop(self, reason: str = "dropped", *, by: str = "self") -> None:
        """Forget the connection without a word: a packet that started none, the end of the engine, or of what carries
        the packets (`by` is `path` then)."""
        if self._is_gone:
            return
        if self.end is None:
            self._over(self.connection.end or QuicEnd(by, False, 0, reason))
        self._gone()

    def flush(self) -> None:
        """Send now what is planned: for whoever is about to go."""
        if self._planned is not None:
            self._planned.cancel()
            self._flush()

    def ping(self) -> None:
        """A PING, which keeps the connection and its path alive (RFC 9000 section 10.1.2)."""
        if self.end is None:
            self.connection.send_ping(0)
            self.plan()

    async def gone(self) -> None:
        """Wait until nothing is left to be sent for the connection."""
        while not self._is_gone:
            await self._changed()

    async def closed(self) -> QuicEnd:
        """Wait until the connection is over for its users."""
        while self.end is None:
            await self._changed()
        return self.end
