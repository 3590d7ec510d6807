"""An HTTP/3 connection on a QUIC transport, whichever end it is: octets to the codec, its commands to the streams.

Each request stream is read as long as what came of it is taken: what waits is bounded, and QUIC gives credit for what
was read alone, so a slow exchange stalls its own stream. A stream that waits for the dynamic table is not read at all
(RFC 9204 section 2.2.1).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from aioquic.h3.connection import ErrorCode

from reference_engine.http.events import Data, Reset
from reference_engine.http.h1_downstream import limits_of
from reference_engine.http.h3_connection import EngineH3, H3Limits, Heard
from reference_engine.http.h3_outlet import CloseConnection, ResetStream, Send
from reference_engine.http.rules import HttpRules
from reference_engine.quic.connection import QuicEnd
from reference_engine.quic.stream import QuicClosed, QuicReset, QuicStopped, QuicStream
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.stream import StreamReset

if TYPE_CHECKING:
    from reference_engine.engine import Engine

BOUND = 65_536
"""Octets of content that wait to be taken at which a stream is not read on; one read more may stand above it."""
OWN_STREAMS = 3
"""Unidirectional streams of each side: control, encoder, decoder (RFC 9114 section 6.2, RFC 9204 section 4.2)."""
ALIVE_CHECKS = 3
"""How often, in an idle timeout, a connection with requests on it is pinged (RFC 9114 section 5.1)."""

T = TypeVar("T")
MakeCodec = Callable[[tuple[int, ...], int | None], EngineH3]
"""The codec for three streams of ours, and the peer's max_datagram_frame_size."""
_LOG = logging.getLogger("reference_engine")


class RequestStream(ABC):
    """One request stream, and what came on it and was not taken yet."""

    def __init__(self, link: H3Link) -> None:
        self.link = link
        self.rules: HttpRules = link.rules
        self.stream: QuicStream | None = None
        self.waiting = False
        """Whether the stream waits for the dynamic table."""
        self._queue: deque[Heard | Reset] = deque()
        self._held = 0
        self._reading = False
        self._pulling: asyncio.Handle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    def attach(self, stream: QuicStream) -> None:
        """Read the stream from now on."""
        self.stream = stream
        self.link.streams[stream.id] = self
        self._reading = True
        stream.on_reset(self._was_reset)
        stream.on_stop(self._was_stopped)
        stream.on_arrival(self._arrived)
        self.pull()

    def detach(self) -> None:
        """Nobody reads or writes the stream any more; what is left to be told to the peer was told before."""
        self.disarm()
        self._reading = False
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.on_reset(None)
            stream.on_stop(None)
            stream.on_arrival(None)
            self.link.streams.pop(stream.id, None)
            self.link.codec.forget(stream.id)
            self.link.flush()
            self.link.stream_over()

    # -- what comes in ---------------------------------------------------------------------------------------------

    def _arrived(self) -> None:
        """Packets come in crowds: what they hold is looked at once, behind the last of them."""
        if self._pulling is None:
            self._pulling = self._loop.call_soon(self.pull)

    def pull(self) -> None:
        """Take what has arrived, up to the bound."""
        self._pulling = None
        while self._reading and self.stream is not None and self._held < BOUND:
            if self.link.codec.blocked(self.stream.id):
                self.waiting = True
                return
            self.waiting = False
            try:
                data = self.stream.read_now()
                if data is None:
                    return
                fin = not data or (self.stream.unread == 0 and self.stream.read_now() == b"")
            except StreamReset:
                self._reading = False  # The callbacks say what it was.
                return
            self._reading = not fin
            self.link.heard(self.link.codec.receive(self.stream.id, data, fin))

    def queue(self, event: Heard | Reset) -> None:
        """Keep an event for whoever takes it."""
        self._queue.append(event)
        if isinstance(event, Data):
            self._held += len(event.data)
        self.wake()

    def take(self) -> Heard | Reset | None:
        """The next event that is here; the stream is read on where that makes room."""
        if not self._queue:
            return None
        event = self._queue.popleft()
        if isinstance(event, Data):
            full = self._held >= BOUND
            self._held -= len(event.data)
            if full and self._held < BOUND:
                self._loop.call_soon(self.pull)
        return event

    def wake(self) -> None:
        """Something happened: whoever waits looks again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def changed(self) -> None:
        """Wait until something happens. Raises TimeoutError when an armed timer is over."""
        if self._expired:
            raise TimeoutError
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @abstractmethod
    def hear(self, event: Heard) -> None:
        """What the codec made of the stream's octets."""

    @abstractmethod
    def lost(self, reason: str, code: int | None) -> None:
        """Nothing more comes: the peer reset the stream with `code`, or the connection is over. Perhaps told twice."""

    @abstractmethod
    def unheard(self, code: int) -> None:
        """The peer reads no more of our direction."""

    def _was_reset(self, reset: QuicReset) -> None:
        self._reading = False
        if self.stream is not None:
            self.link.heard(self.link.codec.stream_reset(self.stream.id))
            self.lost(reset.reason, reset.code)

    def _was_stopped(self, stop: QuicStopped) -> None:
        if self.stream is not None:
            self.link.heard(self.link.codec.stream_stopped(self.stream.id))
            self.unheard(stop.code)

    # -- time ------------------------------------------------------------------------------------------------------

    def arm(self, seconds: float) -> None:
        """From now on `changed` may wait so long altogether, until `disarm`."""
        self.disarm()
        self._timer = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._expired = True
        self.wake()

    def disarm(self) -> None:
        """Take the deadline back, whether it is over or not."""
        self._expired = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- what goes out ---------------------------------------------------------------------------------------------

    @property
    def speaks(self) -> bool:
        """Whether our direction can still carry something."""
        return self.stream is not None and self.stream.stopped is None and self.stream.broken is None

    async def eased(self) -> None:
        """Send what the codec has, and wait while the peer is slow. Raises StreamReset."""
        self.link.flush()
        if self.stream is None:
            raise StreamReset("the stream is over")
        await self.stream.below_high_water()

    def reset(self, code: int) -> None:
        """RESET_STREAM of our direction."""
        if self.stream is not None:
            self.stream.reset(int(code))

    def stop(self, code: int) -> None:
        """STOP_SENDING: nothing more of the peer's direction is read."""
        self._reading = False
        if self.stream is not None:
            self.link.codec.abandon(self.stream.id)
            self.stream.stop(int(code))
            self.link.flush()


class H3Link(ABC):
    """The connection of `transport`. `start` first, then `run` until it is over."""

    codec: EngineH3

    def __init__(self, transport: QuicTransport, rules: HttpRules, make: MakeCodec) -> None:
        self.transport = transport
        self.rules = rules
        self.streams: dict[int, RequestStream] = {}
        self._make = make
        self._own: dict[int, QuicStream] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pings: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open our three streams and say the settings on one. Raises QuicClosed."""
        for _ in range(OWN_STREAMS):
            stream = await self.transport.open_stream(unidirectional=True)
            self._own[stream.id] = stream
        self.codec = self._make(tuple(self._own), self.transport.connection.datagram_limit)
        for stream in self._own.values():
            stream.on_stop(lambda stop, stream=stream: self.heard(self.codec.stream_stopped(stream.id)))  # type: ignore[misc]
        self.flush()
        self.spawn(self._accept_unidirectional())
        self._keep_alive()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do `work` beside everything else, as long as the connection lives."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not isinstance(problem, StreamReset):
            _LOG.error("http/3 failed peer=%s problem=%r", self.transport.peer, problem, exc_info=problem)

    # -- between codec and transport -------------------------------------------------------------------------------

    def heard(self, events: list[tuple[int, Heard]]) -> None:
        """Bring each event to its stream, and send what the codec has to say to it."""
        for number, event in events:
            stream = self.streams.get(number)
            if stream is not None:
                stream.hear(event)
        self.flush()

    def flush(self) -> None:
        """Do what the codec wants done."""
        for command in self.codec.commands:
            if isinstance(command, CloseConnection):
                self.transport.close(command.code, command.reason)
                return
            stream = self._own.get(command.stream_id)
            if stream is None:
                ours = self.streams.get(command.stream_id)
                stream = ours.stream if ours is not None else None
            if stream is None:
                continue
            if isinstance(command, Send):
                self.transport.send(stream, command.data, fin=command.fin)
            elif isinstance(command, ResetStream):
                stream.reset(command.code)

    async def _accept_unidirectional(self) -> None:
        try:
            while True:
                stream = await self.transport.accept_stream(unidirectional=True)
                stream.on_reset(lambda reset, stream=stream: self.heard(self.codec.stream_reset(stream.id)))  # type: ignore[misc]
                stream.on_arrival(lambda stream=stream: self._unidirectional(stream))  # type: ignore[misc]
                self._unidirectional(stream)
        except QuicClosed:
            return

    def _unidirectional(self, stream: QuicStream) -> None:
        """What came on a stream of the peer that carries no requests."""
        try:
            while (data := stream.read_now()) is not None:
                wanted, events = self.codec.receive_unidirectional(stream.id, data, not data)
                self.heard(events)
                if not wanted:
                    stream.stop(int(ErrorCode.H3_STREAM_CREATION_ERROR))
                if not data or not wanted:
                    stream.on_arrival(None)
                    break
        except StreamReset:
            stream.on_arrival(None)
        self.looked_at()
        for one in [one for one in self.streams.values() if one.waiting]:
            one.pull()

    def looked_at(self) -> None:  # noqa: B027 - not every end has to know
        """Something came on a stream that carries no requests."""

    def stream_over(self) -> None:  # noqa: B027 - not every end has to know
        """A request stream is done with."""

    def _keep_alive(self) -> None:
        """A connection with requests on it stays alive, however long they take (RFC 9114 section 5.1)."""
        if self.streams:
            self.transport.ping()
        loop = asyncio.get_running_loop()
        self._pings = loop.call_later(self.transport.connection.idle_timeout / ALIVE_CHECKS, self._keep_alive)

    # -- ends ------------------------------------------------------------------------------------------------------

    def end_with(self, code: int, reason: str = "") -> None:
        """CONNECTION_CLOSE."""
        self.transport.close(int(code), reason)

    def over(self, end: QuicEnd) -> None:
        """The connection is over: every stream hears of it."""
        for stream in list(self.streams.values()):
            stream.lost(f"connection over: by {end.by}, code {end.code:#x}", None)

    async def let_go(self) -> None:
        """End what still runs for the connection."""
        if self._pings is not None:
            self._pings.cancel()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def h3_codecs(engine: Engine, *, is_client: bool) -> MakeCodec:
    """Makes the codec of an HTTP/3 connection."""
    settings = engine.settings
    limits = H3Limits(
        limits_of(settings),
        settings.http3_table_bytes,
        settings.http3_blocked_streams,
        settings.http3_max_idle_frames,
    )

    def make(unidirectional: tuple[int, ...], datagrams: int | None) -> EngineH3:
        return engine.parts.http_endpoints.h3_codec(
            engine.parts.http, limits, is_client=is_client, unidirectional=unidirectional, datagrams=datagrams
        )

    return make
