"""Downstream HTTP/2: one exchange for each stream of a client's connection, all at once (RFC 9113).

`H2ServerConnection` is the connection and knows no tunnel; `handler` answers its requests, each in a task of its own.
Every judgement is a rule (`messages`, `floods`, `delivery`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from h2 import events as h2events
from h2.errors import ErrorCodes

from reference_engine.config import Settings
from reference_engine.http.errors import Fault, ProtocolFault, fault_of
from reference_engine.http.events import Data, End, Fields, InformationalHead, RequestHead, Reset, ResponseHead
from reference_engine.http.floods import h2_limits_of
from reference_engine.http.gate import check
from reference_engine.http.h1_downstream import limits_of
from reference_engine.http.h2_connection import H2Protocol
from reference_engine.http.h2_link import H2Half, H2Link
from reference_engine.http.leg import Downstream, Watcher
from reference_engine.http.messages import known
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import NO_CONTENT, Framing
from reference_engine.relay.stream import Address, ByteStream, StreamReset

VERSION = b"2.0"
DRAINING = b"draining"
"""The PING behind the first of two GOAWAY frames: its answer comes when the client has read that (section 6.8)."""


class H2Downstream(Downstream, H2Half[Data | End | Reset]):
    """One request of a client, on one stream."""

    half_open = True

    def __init__(self, link: H2ServerConnection, stream_id: int, head: RequestHead, framing: Framing) -> None:
        H2Half.__init__(self, link)
        self.id = stream_id
        self.head = head
        self.framing = framing
        self.peer: Address | None = link.stream.peer
        self.declared = framing.length if framing.kind == "length" else None
        self.received = 0
        self.trailers: Fields = []
        self.fault: Fault | None = None
        """What is wrong with the content; nothing of it counts from there on."""
        self._server = link
        self._complete = framing.kind == "none"
        self._out: list[InformationalHead | ResponseHead | Data | End] = []
        self._watcher: Watcher | None = None
        self._bare = False
        """Whether the response has no content, whatever comes."""
        self._last = False
        """Whether the last frame said that it is."""
        self._answered = False
        """Whether the response went out as a whole."""
        self.task: asyncio.Task[None] | None = None

    # -- the request --------------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """See Downstream."""
        return self._complete

    def ended(self) -> None:
        """The request is here as a whole."""
        self._complete = True
        self.put_event(End(self.trailers))

    def spoil(self, fault: Fault) -> None:
        """The content is malformed."""
        if self.fault is None:
            self.fault = fault
            self.wake()

    async def receive(self) -> list[Data | End | Reset]:
        """See Downstream."""
        self.settle()
        while not self.events:
            await self._more()
        events = list(self.events)
        self.events.clear()
        self.lend(sum([len(event.data) for event in events if isinstance(event, Data)]))
        return events

    async def whole(self) -> None:
        """Wait for the end of a request without content. Raises ProtocolFault, StreamReset."""
        while not self._complete:
            self.check()
            await self._more()
        if not self.trailers:
            self.framing = NO_CONTENT

    async def _more(self) -> None:
        """Wait for something to come. Raises ProtocolFault."""
        if self.fault is not None:
            raise ProtocolFault(self.fault)
        timer = asyncio.get_running_loop().call_later(self._server.content_time, self._too_slow)
        try:
            await self.arrival()
        finally:
            timer.cancel()

    def _too_slow(self) -> None:
        self.spoil(fault_of("body-timeout"))

    # -- the response -------------------------------------------------------------------------------------------------

    def put(self, event: InformationalHead | ResponseHead | Data | End) -> None:
        """See Downstream."""
        self._out.append(event)

    async def flush(self) -> None:
        """See Downstream."""
        out, self._out = self._out, []
        count = len(out)
        for index, event in enumerate(out):
            follows = out[index + 1] if index + 1 < count else None
            if isinstance(event, End):
                if not self._last:
                    await self._end(event)
                self._answered = True
            elif isinstance(event, Data):
                if not self._bare:
                    self._last = isinstance(follows, End) and not follows.trailers
                    await self.write_content(event.data, end=self._last)
            else:
                final = isinstance(event, ResponseHead)
                self._bare = final and self._has_no_content(event)
                self._last = final and isinstance(follows, End) and (self._bare or not follows.trailers)
                await self.write_fields(self._server.rules.response_lines(event), end=self._last)

    def _has_no_content(self, head: InformationalHead | ResponseHead) -> bool:
        return self._server.rules.response_framing(self.head.method, head.status, []).kind == "none"

    async def _end(self, event: End) -> None:
        """The end of the response, where the frame in front of it could not say so."""
        if event.trailers and not self._bare:
            await self.write_fields(self._server.rules.multiplexed_fields(event.trailers), end=True)
        else:
            await self.write_content(b"", end=True)

    async def refuse(self, fault: Fault, *, close: bool = False) -> None:
        """See Downstream."""
        await self.respond(*self._server.rules.answer(fault, close=False))

    async def truncate(self, reason: str) -> None:
        """See Downstream."""
        await self.flush()
        self._server.reset(self, ErrorCodes.INTERNAL_ERROR)

    def close_after(self) -> None:
        """See Downstream: `finish` says so behind the response."""

    def finish(self) -> None:
        """The exchange is over: what is still open of the stream ends (RFC9113-8.1-4, -8.1.1-2)."""
        if self.fault is not None and self.fault.status == 400:
            self._server.reset(self, ErrorCodes.PROTOCOL_ERROR, fault=True)
        else:
            self._server.reset(self, ErrorCodes.NO_ERROR if self._answered else ErrorCodes.INTERNAL_ERROR)

    # -- the client's end ---------------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher | None) -> None:
        """See Downstream."""
        self._watcher = watcher
        if watcher is not None and self.broken is not None:
            asyncio.get_running_loop().call_soon(self._tell)

    def leave(self, reason: str) -> None:
        """The client reset the stream, or its connection ended."""
        self.lose(reason, Reset("incomplete"))
        self._tell()

    def _tell(self) -> None:
        if self._watcher is not None:
            self._watcher.client_gone()

    def raw(self) -> ByteStream:
        """See Downstream. Nothing switches an HTTP/2 stream: CONNECT is refused, Upgrade does not exist."""
        raise StreamReset("an HTTP/2 stream has no raw form")


Handler = Callable[[H2Downstream], Coroutine[None, None, None]]


class H2ServerConnection(H2Link[H2Downstream]):
    """One HTTP/2 connection of a client."""

    def __init__(
        self, stream: ByteStream, rules: HttpRules, settings: Settings, handler: Handler, log: logging.Logger
    ) -> None:
        super().__init__(stream, self.made_protocol(rules, settings))
        self.rules = rules
        self.content_time = rules.client_time("content", settings)
        self._limits = limits_of(settings)
        self._handler = handler
        self._log = log
        self._idle_time = rules.client_time("request", settings)
        self._head_time = rules.client_time("head", settings)
        self._timer: asyncio.TimerHandle | None = None
        self._block_timer: asyncio.TimerHandle | None = None
        self._draining = False

    def made_protocol(self, rules: HttpRules, settings: Settings) -> H2Protocol:
        """The connection below, without I/O."""
        return H2Protocol(rules, h2_limits_of(settings), client=False)

    async def run(self) -> None:
        """Serve the connection until it ends, and leave it closed."""
        self.start()
        self._timer = self._loop.call_later(self._head_time, self._idle)
        try:
            await asyncio.shield(self.over)
        finally:
            for timer in (self._timer, self._block_timer):
                if timer is not None:
                    timer.cancel()
            tasks = [half.task for half in self.halves.values() if half.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close_now()

    # -- requests -----------------------------------------------------------------------------------------------------

    def on_request(self, event: h2events.RequestReceived) -> None:
        """A header block opened a stream."""
        ended = event.stream_ended is not None
        try:
            head, framing = self._message(event.headers, ended=ended)
        except ProtocolFault as problem:
            method = next((value for name, value in event.headers if name == b":method"), b"")
            head, framing = RequestHead(method, b"", [], VERSION), self.rules.message_framing(None, ended=ended)
            down = H2Downstream(self, event.stream_id, head, framing)
            down.fault = problem.fault
            # It is answered and then reset (RFC9113-8.2.1-5).
            self._begin(down, down.refuse(problem.fault))
        else:
            down = H2Downstream(self, event.stream_id, head, framing)
            empty = framing.kind == "length" and framing.length == 0
            self._begin(down, self._serve_empty(down) if empty else self._handler(down))

    async def _serve_empty(self, down: H2Downstream) -> None:
        """A request that says it has no content goes up when its end is here: an upstream would take its head for the
        whole (RFC9113-8.1.1-3)."""
        try:
            await down.whole()
        except ProtocolFault as problem:
            await down.refuse(problem.fault)
        else:
            await self._handler(down)

    def _message(self, lines: Fields, *, ended: bool) -> tuple[RequestHead, Framing]:
        """The head of a request, and how its content is delimited. Raises ProtocolFault."""
        rules = self.rules
        check(rules.section_limit(lines, self._limits))
        head = known(rules.request_message(lines, VERSION))
        declared = known(rules.declared_length(head.fields))
        check(rules.content_fits(declared, 0, ended=ended))
        return head, rules.message_framing(declared, ended=ended)

    def _begin(self, down: H2Downstream, served: Coroutine[None, None, None]) -> None:
        self.halves[down.id] = down
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        down.task = self._loop.create_task(self._until_over(down, served))
        down.task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            self._log.error("a request failed peer=%s problem=%r", self.stream.peer, problem, exc_info=problem)

    async def _until_over(self, down: H2Downstream, served: Coroutine[None, None, None]) -> None:
        try:
            await served
        except StreamReset as problem:
            self._log.debug("a stream of %s ended: %s", self.stream.peer, problem.reason)
        finally:
            down.finish()
            del self.halves[down.id]
            self._quiet()

    def on_data(self, event: h2events.DataReceived) -> None:
        """Content of a request."""
        half = self.halves.get(event.stream_id)
        data = event.data
        if half is None or half.fault is not None or not data:
            return
        half.received += len(data)
        fault = self.rules.content_fits(half.declared, half.received, ended=False)
        if fault is not None:
            half.spoil(fault)
        else:
            half.put_event(Data(data))

    def on_trailers(self, event: h2events.TrailersReceived) -> None:
        """A trailer section of a request; its end follows."""
        half = self.halves.get(event.stream_id)
        if half is None:
            return
        try:
            check(self.rules.section_limit(event.headers, self._limits, trailers=True))
            half.trailers = known(self.rules.trailer_message(event.headers))
        except ProtocolFault as problem:
            half.spoil(problem.fault)

    def on_end(self, event: h2events.StreamEnded) -> None:
        """The end of a request."""
        half = self.halves.get(event.stream_id)
        if half is None or half.complete or half.fault is not None:
            return
        fault = self.rules.content_fits(half.declared, half.received, ended=True)
        if fault is not None:
            half.spoil(fault)
        else:
            half.ended()

    def on_reset(self, event: h2events.StreamReset) -> None:
        """The client gave a request up, or broke it."""
        half = self.halves.get(event.stream_id)
        if half is not None:
            half.leave("the client reset the stream")

    def lost(self, half: H2Downstream, *, clean: bool) -> None:
        """See H2Link."""
        half.leave("the client is gone")

    # -- how long, and the end ----------------------------------------------------------------------------------------

    def taken(self) -> None:
        """See H2Link: a header block that has begun has its time."""
        if not self.protocol.mid_block:
            if self._block_timer is not None:
                self._block_timer.cancel()
                self._block_timer = None
        elif self._block_timer is None:
            self._block_timer = self._loop.call_later(self._head_time, self._block_late)

    def _block_late(self) -> None:
        self.protocol.fail(ErrorCodes.ENHANCE_YOUR_CALM)
        self.failed()

    def on_settings(self, event: h2events.RemoteSettingsChanged) -> None:
        """See H2Link. The first ones also end the time for the preface."""
        super().on_settings(event)
        if not self.halves:
            self._quiet()

    def _quiet(self) -> None:
        """A stream ended: with the last one the connection is idle."""
        if self.halves or self.gone is not None:
            return
        if self._draining:
            self._say_end()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._idle_time, self._idle)

    def _idle(self) -> None:
        if not self.halves:
            self._say_end()

    def _say_end(self) -> None:
        """No further stream: GOAWAY, and the end of the connection with its last stream (RFC9113-6.8-3)."""
        if self.gone is None:
            self.protocol.end()
            self._draining = True
            if not self.halves:
                self.finish()
            self.kick()

    def drain(self) -> None:
        """The engine stops: streams that are open finish (RFC9113-6.8-4)."""
        if self._draining or self.gone is not None:
            return
        self._draining = True
        if self.halves:
            self.protocol.announce_end()
            self.protocol.ping(DRAINING)
            self.kick()
        else:
            self._say_end()

    def on_ping_ack(self, event: h2events.PingAckReceived) -> None:
        """The client has read that the connection will end."""
        if self._draining and event.ping_data == DRAINING:
            self._say_end()

    def on_goaway(self, event: h2events.ConnectionTerminated) -> None:
        """The client opens no more streams."""
        self._draining = True
        if not self.halves:
            self._say_end()
