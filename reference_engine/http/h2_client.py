"""Upstream HTTP/2: many exchanges on one connection to an upstream, each on a stream (RFC 9113).

The connection is spoken in clear with prior knowledge (h2c, section 3.3), or in TLS where ALPN picked h2. Whatever is
wrong with a response becomes a `Reset` of its stream; what is wrong with the connection becomes one of each.
"""

from __future__ import annotations

import asyncio

from h2 import events as h2events
from h2.errors import ErrorCodes
from h2.exceptions import TooManyStreamsError

from reference_engine.config import Settings
from reference_engine.http.errors import Fault, ProtocolFault, reason_phrase
from reference_engine.http.events import Data, End, Event, Fields, RequestHead, Reset, ResponseHead
from reference_engine.http.floods import h2_limits_of
from reference_engine.http.gate import check
from reference_engine.http.h1_client import INTERIM_LIMIT
from reference_engine.http.h1_downstream import limits_of
from reference_engine.http.h2_connection import LAST_STREAM, H2Protocol
from reference_engine.http.h2_link import H2Half, H2Link
from reference_engine.http.leg import Multiplexed, Upstream
from reference_engine.http.messages import known
from reference_engine.http.rules import HttpRules
from reference_engine.relay.stream import ByteStream, StreamReset


class H2Upstream(Upstream, H2Half[Event]):
    """One request on a stream of an upstream connection."""

    def __init__(self, link: H2ClientConnection, *, fresh: bool) -> None:
        H2Half.__init__(self, link)
        self.fresh = fresh
        self.unprocessed = False
        self.method = b""
        self.answered = False
        self.finished = False
        """Whether the response is here as a whole."""
        self.sent = False
        """Whether the request went out as a whole."""
        self.interim = 0
        self.declared: int | None = None
        self.received = 0
        self.trailers: Fields = []
        self._client = link
        self._heard = False
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits = False

    @property
    def over(self) -> bool:
        """See Upstream."""
        return self.broken is not None

    @property
    def heard(self) -> bool:
        """See Upstream."""
        return self._heard

    @property
    def closing(self) -> bool:
        """See Upstream: an upstream that reads no more resets the stream."""
        return False

    # -- the request --------------------------------------------------------------------------------------------------

    async def send(self, *events: RequestHead | Data | End) -> None:
        """See Upstream."""
        count = len(events)
        for index, event in enumerate(events):
            follows = events[index + 1] if index + 1 < count else None
            ends = isinstance(follows, End) and not follows.trailers
            if isinstance(event, RequestHead):
                self._client.open(self, event, end=ends)
            elif isinstance(event, Data):
                await self.write_content(event.data, end=ends)
            elif event.trailers:
                await self.write_fields(self._client.rules.multiplexed_fields(event.trailers), end=True)
            elif index == 0:
                await self.write_content(b"", end=True)
            self.sent = self.sent or ends or isinstance(event, End)

    # -- the response -------------------------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """Something came for this request."""
        self._heard = True
        self.put_event(event)

    def next_event(self) -> Event | None:
        """See Upstream."""
        if not self.events:
            return None
        event = self.events.popleft()
        if isinstance(event, Data):
            self.lend(len(event.data))
        return event

    async def receive(self) -> Event:
        """See Upstream."""
        self.settle()
        while not self.events:
            loop = asyncio.get_running_loop()
            if self._deadline is not None:
                if loop.time() >= self._deadline:
                    self._client.suspect()
                    return Reset("upstream-silent")
                self._timer = loop.call_at(self._deadline, self.wake)
            self._waits = True
            try:
                await self.arrival()
            finally:
                self._waits = False
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
        event = self.next_event()
        assert event is not None
        return event

    def arm(self, seconds: float) -> None:
        """See Upstream."""
        self._deadline = asyncio.get_running_loop().time() + seconds
        if self._waits:
            self.wake()

    def disarm(self) -> None:
        """See Upstream."""
        self._deadline = None

    # -- the end ------------------------------------------------------------------------------------------------------

    def fail(self, cause: str, code: ErrorCodes | None = None) -> None:
        """No complete response will come. `cause` is a row of `errors.CAUSES`; `code` resets the stream."""
        if self.finished:
            self.deafen()
        elif self.broken is None:
            if code is not None:
                self._client.reset(self, code)
            self.lose(cause, Reset(cause))

    def deafen(self) -> None:
        """The response counts; what is left of the request is not wanted (RFC9113-8.1-4)."""
        if self.broken is None:
            self.broken = "the upstream takes no more of the request"
            self.opened()

    def abort(self, reason: str) -> None:
        """See Upstream."""
        if self.broken is None:
            self._client.reset(self, ErrorCodes.CANCEL)
            self.lose(reason, Reset("upstream-truncated" if self.answered else "upstream-reset"))

    def raw(self) -> ByteStream:
        """See Upstream. No stream of HTTP/2 becomes a plain one here."""
        raise StreamReset("an HTTP/2 stream has no raw form")

    def release(self) -> None:
        """See Upstream."""
        if not (self.finished and self.sent):
            self.abort("the exchange ended early")
        self._client.release(self)


class H2ClientConnection(H2Link[H2Upstream], Multiplexed):
    """One HTTP/2 connection to an upstream."""

    def __init__(self, stream: ByteStream, rules: HttpRules, settings: Settings) -> None:
        super().__init__(stream, self.made_protocol(rules, settings))
        self.rules = rules
        self.changed = lambda: None
        self._limits = limits_of(settings)
        self._active = 0
        self._begun = 0
        self._going = False

    def made_protocol(self, rules: HttpRules, settings: Settings) -> H2Protocol:
        """The connection below, without I/O."""
        return H2Protocol(rules, h2_limits_of(settings), client=True)

    # -- what the keeper asks -----------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """See Multiplexed."""
        return self.gone is None and not self._going and self.protocol.highest_outbound_stream_id < LAST_STREAM - 2

    @property
    def settled(self) -> bool:
        """See Multiplexed."""
        return self.protocol.greeted

    @property
    def room(self) -> bool:
        """See Multiplexed."""
        if not self.settled:
            return self._active < 1
        return self._active < self.rules.upstream_streams(self.protocol.remote_settings.max_concurrent_streams)

    @property
    def active(self) -> int:
        """See Multiplexed."""
        return self._active

    def begin(self) -> H2Upstream:
        """See Multiplexed."""
        self._active += 1
        self._begun += 1
        return H2Upstream(self, fresh=self._begun == 1)

    async def close(self) -> None:
        """See Multiplexed."""
        self._going = True
        if self._active == 0:
            self._say_end()
        await asyncio.shield(self.over)

    def suspect(self) -> None:
        """A response did not come in time: whether the upstream or the connection is at fault, nobody can tell, so what
        comes next goes elsewhere."""
        self._going = True
        self.changed()

    def _say_end(self) -> None:
        if self.gone is None:
            self.protocol.end()
        self.finish()

    # -- requests -----------------------------------------------------------------------------------------------------

    def open(self, half: H2Upstream, head: RequestHead, *, end: bool) -> None:
        """Open the stream of a request. Raises StreamReset, with the request marked as unprocessed where another
        connection may take it."""
        half.check()
        if self.protocol.failed is not None:
            half.fail("upstream-malformed")
        elif self.usable:
            try:
                half.id = self.protocol.get_next_available_stream_id()
                half.method = head.method
                self.protocol.send_fields(half.id, self.rules.request_lines(head), end=end)
            except TooManyStreamsError:
                half.id = 0
            else:
                self.halves[half.id] = half
                self.kick()
                return
        half.unprocessed = self.protocol.failed is None
        half.fail("upstream-closed")
        raise StreamReset(self.gone or "the upstream takes no more requests")

    def release(self, half: H2Upstream) -> None:
        """A request is over."""
        self.halves.pop(half.id, None)
        self._active -= 1
        if self._going and self._active == 0:
            self._say_end()
        self.changed()

    # -- responses ----------------------------------------------------------------------------------------------------

    def on_informational(self, event: h2events.InformationalResponseReceived) -> None:
        """An interim response."""
        half = self.halves.get(event.stream_id)
        if half is not None and not half.finished:
            half.interim += 1
            if half.interim > INTERIM_LIMIT:
                half.fail("upstream-malformed", ErrorCodes.ENHANCE_YOUR_CALM)
            else:
                self._head(half, event.headers)

    def on_response(self, event: h2events.ResponseReceived) -> None:
        """The final head of a response."""
        half = self.halves.get(event.stream_id)
        if half is not None:
            self._head(half, event.headers)

    def _head(self, half: H2Upstream, lines: Fields) -> None:
        rules = self.rules
        try:
            check(rules.section_limit(lines, self._limits))
            head = rules.response_message(lines)
            if isinstance(head, Fault):
                raise ProtocolFault(head)
            declared = known(rules.declared_length(head.fields))
        except ProtocolFault:
            half.fail("upstream-malformed", ErrorCodes.PROTOCOL_ERROR)
            return
        if isinstance(head, ResponseHead):
            bare = rules.response_framing(half.method, head.status, []).kind == "none"
            half.declared = 0 if bare else declared
            half.answered = True
        head.reason = reason_phrase(head.status)
        half.hear(head)

    def on_data(self, event: h2events.DataReceived) -> None:
        """Content of a response."""
        half = self.halves.get(event.stream_id)
        if half is None or half.broken is not None or not event.data:
            return
        half.received += len(event.data)
        if self.rules.content_fits(half.declared, half.received, ended=False) is not None:
            half.fail("upstream-malformed", ErrorCodes.PROTOCOL_ERROR)
        else:
            half.hear(Data(event.data))

    def on_trailers(self, event: h2events.TrailersReceived) -> None:
        """A trailer section of a response; its end follows."""
        half = self.halves.get(event.stream_id)
        if half is None or half.broken is not None:
            return
        try:
            check(self.rules.section_limit(event.headers, self._limits, trailers=True))
            half.trailers = known(self.rules.trailer_message(event.headers))
        except ProtocolFault:
            half.fail("upstream-malformed", ErrorCodes.PROTOCOL_ERROR)

    def on_end(self, event: h2events.StreamEnded) -> None:
        """The end of a response."""
        half = self.halves.get(event.stream_id)
        if half is None or half.broken is not None:
            return
        if not half.answered or self.rules.content_fits(half.declared, half.received, ended=True) is not None:
            half.fail("upstream-malformed", ErrorCodes.PROTOCOL_ERROR)
        else:
            half.finished = True
            half.hear(End(half.trailers))

    def on_reset(self, event: h2events.StreamReset) -> None:
        """The upstream ended a request, or broke its response."""
        half = self.halves.get(event.stream_id)
        if half is None:
            return
        if half.finished:
            half.deafen()
        elif not event.remote_reset:
            half.fail("upstream-malformed")
        else:
            half.unprocessed = event.error_code == ErrorCodes.REFUSED_STREAM and not half.heard
            half.fail("upstream-truncated" if half.answered else "upstream-reset")

    def on_goaway(self, event: h2events.ConnectionTerminated) -> None:
        """The upstream takes no more requests, and has not looked at those above the last (RFC9113-6.8-1, -6.8-2)."""
        self._going = True
        last = event.last_stream_id or 0
        for half in tuple(self.halves.values()):
            if half.id > last:
                half.unprocessed = True
                half.fail("upstream-closed")
        self.changed()

    def on_settings(self, event: h2events.RemoteSettingsChanged) -> None:
        """See H2Link."""
        super().on_settings(event)
        self.changed()

    def failed(self) -> None:
        """See H2Link: a peer that does not speak HTTP/2 sent a response that is not valid."""
        for half in tuple(self.halves.values()):
            half.fail("upstream-malformed")
        super().failed()

    def lost(self, half: H2Upstream, *, clean: bool) -> None:
        """See H2Link."""
        if half.answered:
            half.fail("upstream-truncated")
        else:
            half.fail("upstream-closed" if clean else "upstream-reset")

    def lose(self, reason: str, *, clean: bool) -> None:
        """See H2Link."""
        super().lose(reason, clean=clean)
        self.changed()
