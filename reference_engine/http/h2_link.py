"""An HTTP/2 connection on a byte stream: what both sides have in common (RFC 9113).

Octets of the peer are taken as they come, without a task; octets for it leave in one task, all that has gathered at
once. Content is written as far as three things allow: the window of the stream, the window of the connection, and how
much waits already for a slow peer. Streams that wait for the connection take turns, one frame each (section 5.2.2).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from h2 import events as h2events
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from reference_engine.http.events import Fields
from reference_engine.http.floods import UNSENT
from reference_engine.http.h2_connection import H2Protocol
from reference_engine.relay.stream import ByteStream, StreamReset

ENOUGH = 65_536
"""Octets of content that may wait for a slow peer."""

EventT = TypeVar("EventT")


class H2Half(Generic[EventT]):
    """One stream as an exchange uses it: what has come and was not taken, and the way out.

    `broken` says why nothing more goes out, None while it does; `lost` calls what wants to hear of it.
    """

    def __init__(self, link: H2Link[Any]) -> None:
        self.link = link
        self.id = 0
        self.broken: str | None = None
        self.events: deque[EventT] = deque()
        self.turn = False
        self._lent = 0
        self._opened: asyncio.Future[None] | None = None
        self._arrived: asyncio.Future[None] | None = None

    # -- in -----------------------------------------------------------------------------------------------------------

    def put_event(self, event: EventT) -> None:
        """Something came."""
        self.events.append(event)
        self.wake()

    def wake(self) -> None:
        """Let a reader that waits look again."""
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def arrival(self) -> None:
        """Wait for `wake`."""
        self._arrived = asyncio.get_running_loop().create_future()
        try:
            await self._arrived
        finally:
            self._arrived = None

    def lend(self, octets: int) -> None:
        """Octets were handed over; they count as used with the next `settle`."""
        self._lent += octets

    def settle(self) -> None:
        """What was handed over was used: the peer may send as much again."""
        if self._lent:
            lent, self._lent = self._lent, 0
            self.link.credit(self.id, lent)

    # -- out ----------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises StreamReset when nothing more goes out."""
        if self.broken is not None:
            raise StreamReset(self.broken)

    def opened(self) -> None:
        """The window of the stream, or its end, came: a writer that waits looks again."""
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    async def opening(self) -> None:
        """Wait for `opened`."""
        self._opened = asyncio.get_running_loop().create_future()
        try:
            await self._opened
        finally:
            self._opened = None

    def lose(self, reason: str, reset: EventT) -> None:
        """Nothing more comes or goes; `reset` is the last that is read."""
        if self.broken is None:
            self.broken = reason
            self.put_event(reset)
            self.opened()

    async def write_fields(self, lines: Fields, *, end: bool) -> None:
        """A header block. Raises StreamReset."""
        self.check()
        try:
            self.link.protocol.send_fields(self.id, lines, end=end)
        except ProtocolError as problem:
            raise StreamReset(str(problem)) from None
        self.link.kick()

    async def write_content(self, data: bytes, *, end: bool) -> None:
        """Content, in frames as they fit, and waiting in between. Raises StreamReset."""
        at, total = 0, len(data)
        while True:
            size = await self._room(total - at) if total else 0
            self.check()
            try:
                self.link.protocol.send_content(self.id, data[at : at + size], end=end and at + size == total)
            except ProtocolError as problem:
                raise StreamReset(str(problem)) from None
            self.link.kick()
            at += size
            if at >= total:
                return

    async def _room(self, wanted: int) -> int:
        """How much may go out now, once anything may. Raises StreamReset."""
        link = self.link
        try:
            while True:
                self.check()
                room = link.protocol.stream_window(self.id)
                if room <= 0:
                    await self.opening()
                elif not link.may_write(self):
                    await link.take_turn(self)
                else:
                    return min(wanted, room, link.protocol.connection_window, link.largest)
        finally:
            if self.turn:
                self.turn = False
                link.pass_turn()


HalfT = TypeVar("HalfT", bound="H2Half[Any]")


class H2Link(ABC, Generic[HalfT]):
    """One connection. `start` it once; it is over when `over` is done, and the stream below is closed then."""

    HANDLERS: ClassVar[dict[type, str]] = {
        h2events.RequestReceived: "on_request",
        h2events.InformationalResponseReceived: "on_informational",
        h2events.ResponseReceived: "on_response",
        h2events.DataReceived: "on_data",
        h2events.TrailersReceived: "on_trailers",
        h2events.StreamEnded: "on_end",
        h2events.StreamReset: "on_reset",
        h2events.WindowUpdated: "on_window",
        h2events.RemoteSettingsChanged: "on_settings",
        h2events.PingAckReceived: "on_ping_ack",
        h2events.ConnectionTerminated: "on_goaway",
    }
    """Who takes which event; the others mean nothing here."""

    def __init__(self, stream: ByteStream, protocol: H2Protocol) -> None:
        self.stream = stream
        self.protocol = protocol
        self.halves: dict[int, HalfT] = {}
        self.gone: str | None = None
        """Why nothing more comes from the peer."""
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._turns: deque[tuple[HalfT, asyncio.Future[None]]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._finished = False
        self._full = False
        self._writer: asyncio.Task[None] | None = None
        handlers = {event: getattr(self, name, None) for event, name in self.HANDLERS.items()}
        self._handlers: dict[type, Callable[[Any], None]] = {
            event: handler for event, handler in handlers.items() if handler is not None
        }

    def start(self) -> None:
        """Say our preface and begin to read."""
        self.protocol.start()
        self._writer = self._loop.create_task(self._write())
        self.stream.on_arrival(self._pull)
        # What is there already is taken soon, not within this call.
        self._loop.call_soon(self._pull)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Take what has arrived, as long as the peer takes what it is answered."""
        if self.gone is not None:
            return
        try:
            while self.gone is None:
                if self.protocol.unsent > UNSENT:
                    self._full = True
                    break
                data = self.stream.read_now()
                if data is None:
                    break
                if data:
                    self._take(data)
                else:
                    self.lose("the peer ended the connection", clean=True)
        except StreamReset as problem:
            self.lose(problem.reason, clean=False)
        self.kick()

    def _take(self, data: bytes) -> None:
        handlers = self._handlers
        for event in self.protocol.feed(data, self._loop.time()):
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)
        if self.protocol.failed is not None:
            self.failed()
        else:
            self.taken()

    def failed(self) -> None:
        """The peer broke the rules of the connection: everything on it is over, behind our GOAWAY."""
        self.lose("the peer broke the rules of HTTP/2", clean=False)
        self.finish()

    def taken(self) -> None:
        """Octets were taken without an error."""

    def on_window(self, event: h2events.WindowUpdated) -> None:
        """A window was opened."""
        half = self.halves.get(event.stream_id) if event.stream_id else None
        if half is not None:
            half.opened()
        elif not event.stream_id:
            self.next_turn()

    def on_settings(self, event: h2events.RemoteSettingsChanged) -> None:
        """The peer's settings: any window may be another one."""
        for half in tuple(self.halves.values()):
            half.opened()
        self.next_turn()

    def credit(self, stream_id: int, octets: int) -> None:
        """Octets of a stream were used."""
        if self.gone is None:
            self.protocol.credit(stream_id, octets)
            self.kick()

    def reset(self, half: H2Half[Any], code: ErrorCodes, *, fault: bool = False) -> None:
        """End a stream with RST_STREAM, where it has not ended; `fault`: for what the peer did."""
        if self.gone is None and half.id:
            self.protocol.reset(half.id, code, fault=fault)
            if self.protocol.failed is not None:
                self.failed()
            self.kick()

    # -- out ----------------------------------------------------------------------------------------------------------

    @property
    def largest(self) -> int:
        """Octets of the largest frame that the peer takes."""
        return min(self.protocol.max_outbound_frame_size, ENOUGH)

    def has_room(self) -> bool:
        """Whether the connection takes content."""
        protocol = self.protocol
        return protocol.outbound_flow_control_window > 0 and protocol.unsent < ENOUGH

    def may_write(self, half: H2Half[Any]) -> bool:
        """Whether a stream may write content now: there is room, and nobody waits in front of it."""
        return (half.turn or not self._turns) and self.has_room()

    async def take_turn(self, half: HalfT) -> None:
        """Wait behind the streams that wait already."""
        future: asyncio.Future[None] = self._loop.create_future()
        half.turn = False
        place = (half, future)
        self._turns.append(place)
        try:
            await future
        except BaseException:
            if place in self._turns:
                self._turns.remove(place)
            raise

    def pass_turn(self) -> None:
        """A stream had its turn; soon, behind what it writes now, the next one has."""
        self._loop.call_soon(self.next_turn)

    def next_turn(self) -> None:
        """Let the stream that has waited longest go on, if there is room."""
        while self._turns and (self.gone is not None or self.has_room()):
            half, future = self._turns.popleft()
            if not future.done():
                half.turn = True
                future.set_result(None)
                if self.gone is None:
                    return

    def kick(self) -> None:
        """There may be something to send."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _write(self) -> None:
        """Send what gathers, until the connection is over."""
        try:
            while True:
                data = self.protocol.data_to_send()
                if data:
                    await self.stream.write(data)
                    self.next_turn()
                    if self._full and self.protocol.unsent <= UNSENT:
                        self._full = False
                        self._pull()
                elif self._finished:
                    break
                else:
                    self._wake = self._loop.create_future()
                    await self._wake
            await self.stream.close()
        except StreamReset as problem:
            self.lose(problem.reason, clean=False)
            self.stream.abort(problem.reason)
        except asyncio.CancelledError:
            self.lose("no longer served", clean=False)
            self.stream.abort("no longer served")
        finally:
            self.stream.on_arrival(None)
            if not self.over.done():
                self.over.set_result(None)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Close the connection behind everything that is to be sent."""
        self._finished = True
        self.kick()

    def abort(self, reason: str) -> None:
        """Drop the connection at once."""
        self.lose(reason, clean=False)
        self.stream.abort(reason)
        self.finish()

    def lose(self, reason: str, *, clean: bool) -> None:
        """Nothing more comes from the peer; `clean`: it ended its direction."""
        if self.gone is not None:
            return
        self.gone = reason
        self.stream.on_arrival(None)
        for half in tuple(self.halves.values()):
            self.lost(half, clean=clean)
        self.next_turn()
        self.finish()

    @abstractmethod
    def lost(self, half: HalfT, *, clean: bool) -> None:
        """A stream ends with its connection."""

    async def close_now(self) -> None:
        """Cancel what is left, and wait."""
        if self._writer is not None and not self._writer.done():
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
