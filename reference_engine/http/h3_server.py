"""Downstream HTTP/3: a client's connection, and an exchange for each of its request streams (RFC 9114)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aioquic.h3.connection import ErrorCode

from reference_engine.config import Settings
from reference_engine.http.errors import Fault, ProtocolFault, fault_of
from reference_engine.http.events import Data, End, InformationalHead, RequestHead, Reset, ResponseHead
from reference_engine.http.floods import Allowance
from reference_engine.http.h3_connection import Heard, Malformed
from reference_engine.http.h3_link import H3Link, MakeCodec, RequestStream
from reference_engine.http.leg import Downstream, Watcher
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import NO_CONTENT
from reference_engine.quic.stream import QuicClosed
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.stream import Address, ByteStream, StreamReset

NOBODY = RequestHead(b"GET", b"/", [], b"3.0")
"""Stands for a request whose head is refused."""


class H3Downstream(RequestStream, Downstream):
    """One request of a client, on a stream of its own."""

    def __init__(self, link: H3ServerConnection) -> None:
        super().__init__(link)
        self.head = NOBODY
        self.framing = NO_CONTENT
        self.peer: Address | None = link.transport.peer
        self.half_open = True
        self._server = link
        self._begun = False
        self._complete = False
        self._plain_end = False
        """Whether the request ends without trailers."""
        self._fault: Fault | None = None
        self._gone = False
        self._closing = False
        self._ended = False
        self._muted = False
        self._bare = False
        """Whether the response has neither content nor trailers (RFC 9110 section 6.4.1)."""
        self._watcher: Watcher | None = None
        self._too_late: asyncio.TimerHandle | None = None

    def expect_head(self, seconds: float) -> None:
        """Give the client so long for the head of its request."""
        if not self._begun:
            self._too_late = self._loop.call_later(seconds, self._no_head)

    def _no_head(self) -> None:
        self._begin(fault_of("header-timeout"))

    def _begin(self, fault: Fault | None) -> None:
        self._begun = True
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None
        self._server.begin(self, fault)

    def settle_framing(self) -> None:
        """How the content is delimited: known once everything that came with the head was looked at."""
        ended = self._plain_end and not self._held
        self.framing = self.rules.message_framing(self.link.codec.declared(self.number), ended=ended)

    @property
    def number(self) -> int:
        """The number of the stream, -1 where it is over."""
        return self.stream.id if self.stream is not None else -1

    # -- what comes in ---------------------------------------------------------------------------------------------

    def hear(self, event: Heard) -> None:
        """See RequestStream."""
        if isinstance(event, RequestHead):
            self.head = event
            self._begin(None)
        elif isinstance(event, Malformed):
            self._hear_malformed(event.fault)
        elif isinstance(event, Data | End):
            if isinstance(event, End):
                self._complete = True
                self._plain_end = not event.trailers
            self.queue(event)

    @property
    def fault(self) -> Fault | None:
        """What makes the request malformed, as far as it is here."""
        return self._fault

    def _hear_malformed(self, fault: Fault) -> None:
        if not self._begun and fault.status != 400:
            self._begin(fault)
            return
        self._fault = fault
        self.stop(self.rules.malformed_code())
        if not self._begun:
            self.reset(self.rules.malformed_code())
            self._ended = True
            self.finish()
        else:
            self.wake()

    def lost(self, reason: str, code: int | None) -> None:
        """See RequestStream. A client that resets its direction wants no answer either (RFC 9114 section 4.1.1)."""
        del reason
        if code is not None and not self._complete:
            self._server.cancelled()
        self._leave()

    def unheard(self, code: int) -> None:
        """See RequestStream."""
        del code
        self._server.cancelled()
        self._leave()

    def _leave(self) -> None:
        self._gone = True
        self.wake()
        if not self._begun:
            self.finish()
        elif self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            watcher.client_gone()

    @property
    def complete(self) -> bool:
        """See Downstream."""
        return self._complete

    async def receive(self) -> list[Data | End | Reset]:
        """See Downstream."""
        self.arm(self.rules.client_time("content", self._server.settings))
        try:
            while not self._queue:
                if self._fault is not None:
                    raise ProtocolFault(self._fault)
                if self._gone or self._closing:
                    return [Reset("incomplete")]
                await self.changed()
        except TimeoutError:
            raise ProtocolFault(fault_of("body-timeout")) from None
        finally:
            self.disarm()
        events: list[Data | End | Reset] = []
        while (event := self.take()) is not None:
            if isinstance(event, Data | End):
                events.append(event)
        return events

    def watch(self, watcher: Watcher | None) -> None:
        """See Downstream."""
        self._watcher = watcher
        if watcher is not None and self._gone:
            self._loop.call_soon(self._leave)

    # -- what goes out ---------------------------------------------------------------------------------------------

    def put(self, event: InformationalHead | ResponseHead | Data | End) -> None:
        """See Downstream."""
        if not self.speaks or self._ended or self._muted:
            return
        codec = self.link.codec
        if isinstance(event, Data):
            if not self._bare:
                codec.send_content(self.number, event.data)
        elif isinstance(event, End):
            self._ended = True
            codec.send_end(self.number, [] if self._bare else self.rules.multiplexed_fields(event.trailers))
        else:
            lines = self.rules.response_lines(event)
            if isinstance(event, ResponseHead):
                self._bare = self.rules.response_framing(self.head.method, event.status, []).kind == "none"
            if self.rules.section_fits(lines, codec.largest_section):
                codec.send_response(self.number, lines)
            elif isinstance(event, ResponseHead):
                self._too_large()

    def _too_large(self) -> None:
        """The client takes no head of that size: it gets one that is smaller (RFC 9114 section 4.2.2)."""
        head, body = self.rules.answer(fault_of("upstream-malformed"), close=False)
        self.link.codec.send_response(self.number, self.rules.response_lines(head))
        self.put(Data(body))
        self.put(End())
        self._muted = True

    async def flush(self) -> None:
        """See Downstream."""
        if self._ended and self._closing and not self._complete:
            self.link.flush()
            self.stop(self.rules.unread_code())
            self.wake()
        await self.eased()

    async def refuse(self, fault: Fault, *, close: bool = False) -> None:
        """See Downstream."""
        del close
        if self._fault is not None:
            self.reset(self.rules.malformed_code())
            self._ended = True
            return
        self.close_after()
        await self.respond(*self.rules.answer(fault, close=False))

    async def truncate(self, reason: str) -> None:
        """See Downstream."""
        del reason
        self.reset(self.rules.malformed_code() if self._fault is not None else self.rules.truncated_code())
        self._ended = True

    def close_after(self) -> None:
        """See Downstream."""
        self._closing = True

    def raw(self) -> ByteStream:
        """See Downstream; nothing that needs it comes this far (`DeliveryRules.switches`)."""
        raise StreamReset("a request stream is no byte stream")

    def finish(self) -> None:
        """The exchange is over: so is the stream, in both directions."""
        if self._too_late is not None:
            self._too_late.cancel()
        if not self._complete:
            self.stop(self.rules.unread_code())
        if not self._ended:
            self.reset(self.rules.cancelled_code() if self._gone else self.rules.truncated_code())
        self.detach()


Handler = Callable[[Downstream], Awaitable[None]]


class H3ServerConnection(H3Link):
    """One client's connection; `handler` answers its requests."""

    def __init__(
        self, transport: QuicTransport, rules: HttpRules, settings: Settings, handler: Handler, make: MakeCodec
    ) -> None:
        super().__init__(transport, rules, make)
        self.settings = settings
        self.draining = False
        self._handler = handler
        self._serving: set[asyncio.Task[None]] = set()
        self._next = 0
        """The number behind the last stream that was taken."""
        self._resets = Allowance(settings.http3_max_resets)
        self._idle: asyncio.TimerHandle | None = None
        self._started = False

    async def run(self) -> None:
        """Serve the connection until it is over."""
        try:
            await self.transport.completed()
            async with asyncio.timeout(self.settings.handshake_timeout_ms / 1000):
                await self.start()
            self._started = True
            self.spawn(self._accept())
            self.stream_over()
            if self.draining:
                self._say_goaway()
            self.over(await self.transport.closed())
            while self._serving:
                await asyncio.wait(set(self._serving))
        except TimeoutError:
            self.end_with(ErrorCode.H3_GENERAL_PROTOCOL_ERROR, "no stream for the settings")
        except QuicClosed:
            pass
        finally:
            if self._idle is not None:
                self._idle.cancel()
            await self.let_go()

    async def _accept(self) -> None:
        while True:
            stream = await self.transport.accept_stream()
            if not self.rules.takes_request(stream.id, self.codec.sent_goaway):
                stream.reset(int(self.rules.rejected_code()))
                stream.stop(int(self.rules.rejected_code()))
                continue
            self._next = stream.id + 4
            self._stay()
            down = H3Downstream(self)
            down.attach(stream)
            down.expect_head(self.rules.client_time("head", self.settings))

    def begin(self, down: H3Downstream, fault: Fault | None) -> None:
        """A request is there, or what came instead of one is refused."""
        task = self.spawn(self._serve(down, fault))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, down: H3Downstream, fault: Fault | None) -> None:
        try:
            down.settle_framing()
            fault = fault or down.fault
            if fault is not None:
                await down.refuse(fault)
            else:
                await self._handler(down)
        finally:
            down.finish()

    def cancelled(self) -> None:
        """A client gave up a request."""
        if self.rules.too_fickle(allowed=self._resets.spend(asyncio.get_running_loop().time())):
            self.end_with(ErrorCode.H3_EXCESSIVE_LOAD, "too many cancelled requests")

    # -- ends ------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """No request after those at hand (RFC 9114 section 5.2)."""
        if not self.draining:
            self.draining = True
            if self._started and self.transport.end is None:
                self._say_goaway()

    def _say_goaway(self) -> None:
        self.codec.goaway(self._next)
        self.flush()
        if not self.streams:
            self.spawn(self._end())

    def stream_over(self) -> None:
        """See H3Link."""
        if self.streams or self.transport.end is not None:
            return
        if self.draining:
            self.spawn(self._end())
        elif self._idle is None:
            seconds = self.rules.client_time("request", self.settings)
            self._idle = asyncio.get_running_loop().call_later(seconds, self.drain)

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _end(self) -> None:
        """Close behind everything that was said."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.close_timeout_ms / 1000):
                await self.transport.drained()
        if not self.streams:
            self.end_with(self.rules.drained_code())
