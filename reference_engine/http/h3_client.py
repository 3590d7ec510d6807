"""Upstream HTTP/3: many exchanges on one QUIC connection through a datagram channel of the agent (RFC 9114).

Whatever is wrong with a response becomes a `Reset` of its stream; what is wrong with the connection becomes one of
each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from aioquic.h3.connection import ErrorCode

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.http.errors import ProtocolFault, fault_of
from reference_engine.http.events import Data, End, Event, RequestHead, Reset, ResponseHead
from reference_engine.http.h3_connection import Heard, Malformed
from reference_engine.http.h3_link import H3Link, MakeCodec, RequestStream
from reference_engine.http.leg import Multiplexed, Upstream
from reference_engine.http.rules import HttpRules
from reference_engine.quic.rules import CONNECTION_REFUSED, HTTP3_ALPN
from reference_engine.quic.stream import QuicClosed, QuicStream
from reference_engine.quic.upstream import UpstreamQuic
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tunnel.model import Tunnel

if TYPE_CHECKING:
    from reference_engine.engine import Engine

LINGER = 1.0
"""Seconds for which the end of a connection is repeated to an upstream that missed it."""


class H3Upstream(RequestStream, Upstream):
    """One request to an upstream, on a stream of its own."""

    def __init__(self, link: H3ClientConnection, *, fresh: bool) -> None:
        super().__init__(link)
        self.fresh = fresh
        self.unprocessed = False
        self._client = link
        self._heard = False
        self._answered = False
        self._complete = False
        """Whether the response is here as a whole."""
        self._sent = False
        """Whether the request went out as a whole."""
        self._over = False
        self._released = False

    @property
    def over(self) -> bool:
        """See Upstream."""
        return self._over

    @property
    def heard(self) -> bool:
        """See Upstream."""
        return self._heard

    @property
    def closing(self) -> bool:
        """See Upstream: STOP_SENDING says so."""
        return not self._sent and self.stream is not None and self.stream.stopped is not None

    # -- the request -----------------------------------------------------------------------------------------------

    async def send(self, *events: RequestHead | Data | End) -> None:
        """See Upstream."""
        content = False
        for event in events:
            if isinstance(event, RequestHead):
                await self._open(event)
                continue
            if not self.speaks or self._over:
                raise StreamReset("the upstream takes no more of this request")
            assert self.stream is not None
            if isinstance(event, Data):
                content = True
                self.link.codec.send_content(self.stream.id, event.data)
            else:
                self._sent = True
                self.link.codec.send_end(self.stream.id, self.rules.multiplexed_fields(event.trailers))
        self.link.flush()
        if content:
            await self.eased()

    async def _open(self, head: RequestHead) -> None:
        lines = self.rules.asterisk_lines(head, self.rules.request_lines(head))
        if not self.rules.section_fits(lines, self.link.codec.largest_section):
            self._heard = True  # It has said so in its settings: another connection is no better.
            self._trouble("upstream-narrow")
            raise StreamReset("the upstream takes no head of that size")
        try:
            stream = await self._client.open_stream()
        except QuicClosed:
            self.unprocessed = True
            self._trouble("upstream-reset")
            raise
        self.attach(stream)
        if self._over:
            self._break_off(self.rules.cancelled_code())
            raise StreamReset("the request was broken off")
        self.link.codec.send_request(stream.id, lines, head.method)

    # -- the response ----------------------------------------------------------------------------------------------

    def hear(self, event: Heard) -> None:
        """See RequestStream."""
        self._heard = True
        if self._over:
            return
        if isinstance(event, Malformed):
            self._break_off(self.rules.malformed_code())
            self._trouble("upstream-malformed")
        elif isinstance(event, End) and not self._answered:
            self._break_off(self.rules.cancelled_code())
            self._trouble("upstream-closed")
        else:
            self._answered = self._answered or isinstance(event, ResponseHead)
            if isinstance(event, End):
                self._complete = self._over = True
            self.queue(event)

    def _trouble(self, cause: str) -> None:
        """No complete response will come; `cause` is a row of `errors.CAUSES`."""
        if not self._over:
            self._over = True
            self.queue(Reset(cause))

    def lost(self, reason: str, code: int | None) -> None:
        """See RequestStream."""
        del reason
        if code is not None and not self._over:
            self.unprocessed = self.rules.means_unprocessed(code) and not self._answered
            self.reset(self.rules.cancelled_code())
        self._trouble("upstream-truncated" if self._answered else "upstream-reset")

    def rejected(self) -> None:
        """The upstream has said that it will not look at the request (RFC 9114 section 5.2)."""
        if not self._heard:
            self.unprocessed = True
            self.abort("the upstream goes away")

    def unheard(self, code: int) -> None:
        """See RequestStream: whoever sends is told when it does."""
        del code

    def next_event(self) -> Event | None:
        """See Upstream."""
        event = self.take()
        assert not isinstance(event, Malformed)
        return event

    async def receive(self) -> Event:
        """See Upstream."""
        while (event := self.next_event()) is None:
            if self._over:
                return Reset("upstream-closed")
            try:
                await self.changed()
            except TimeoutError:
                return Reset("upstream-silent")
        return event

    # -- the end ---------------------------------------------------------------------------------------------------

    def _break_off(self, code: int) -> None:
        self.reset(code)
        if not self._complete:
            self.stop(code)

    def abort(self, reason: str) -> None:
        """See Upstream."""
        del reason
        self._break_off(self.rules.cancelled_code())
        self._trouble("upstream-truncated" if self._answered else "upstream-reset")

    def raw(self) -> ByteStream:
        """See Upstream: nothing that needs it comes this far."""
        raise StreamReset("a request stream is no byte stream")

    def release(self) -> None:
        """See Upstream."""
        if not (self._complete and self._sent):
            self.abort("the exchange ended early")
        self._over = True
        self.detach()
        if not self._released:
            self._released = True
            self._client.released(self)


class H3ClientConnection(Multiplexed, H3Link):
    """One HTTP/3 connection to the upstream of a tunnel. `open` it, then it serves until it is closed."""

    def __init__(self, upstream: UpstreamQuic, rules: HttpRules, make: MakeCodec, tunnel: Tunnel, client: str) -> None:
        H3Link.__init__(self, upstream.transport, rules, make)
        self.tunnel = tunnel
        self.client = client
        self.changed = lambda: None
        self._upstream = upstream
        self._active: set[H3Upstream] = set()
        self._used = False
        self._opening = 0
        """Requests that have a place and no stream yet."""
        self._goaway: int | None = None
        self._closing = False
        self._settled = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._life: asyncio.Task[None] | None = None

    async def open(self, seconds: float) -> None:
        """Both ends' settings are known behind this. Raises ProtocolFault."""
        try:
            async with asyncio.timeout(seconds):
                await self.transport.completed()
                if self.transport.alpn != HTTP3_ALPN:
                    raise ProtocolFault(fault_of("upstream-h3"))
                await self.start()
                self._life = asyncio.get_running_loop().create_task(self._live())
                self.spawn(self._refuse_streams())
                await self._settled.wait()
        except TimeoutError:
            raise ProtocolFault(fault_of("upstream-silent")) from None
        except QuicClosed:
            raise ProtocolFault(fault_of("upstream-h3")) from None
        if not self.usable:
            raise ProtocolFault(fault_of("upstream-h3"))

    async def _live(self) -> None:
        """Until the connection is over, for whatever reason."""
        end = await self.transport.closed()
        self._settled.set()
        self.over(end)
        self.changed()

    async def _refuse_streams(self) -> None:
        """A server opens no bidirectional stream (RFC 9114 section 6.1)."""
        while True:
            stream = await self.transport.accept_stream()
            code = self.rules.refuses_stream()
            if code is None:
                stream.stop(int(ErrorCode.H3_STREAM_CREATION_ERROR))
            else:
                self.end_with(code, "a server opened a bidirectional stream")

    # -- what the keeper asks --------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """See Multiplexed."""
        return not (self._closing or self.transport.end is not None or self.codec.closed or self._goaway is not None)

    @property
    def settled(self) -> bool:
        """See Multiplexed."""
        return True

    @property
    def room(self) -> bool:
        """See Multiplexed."""
        allowed = self.transport.connection.bidirectional_room - self._opening
        return self.rules.upstream_room(allowed, len(self._active))

    @property
    def active(self) -> int:
        """See Multiplexed."""
        return len(self._active)

    def begin(self) -> H3Upstream:
        """See Multiplexed."""
        place = H3Upstream(self, fresh=not self._used)
        self._used = True
        self._active.add(place)
        self._quiet.clear()
        return place

    async def close(self) -> None:
        """See Multiplexed."""
        self._closing = True
        await self._quiet.wait()
        self.end_with(self.rules.drained_code(), "")
        await self._let_go()

    async def _let_go(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        await self.let_go()
        await self._upstream.close(LINGER)

    def drop(self, reason: str) -> None:
        """Nobody waits for the connection any more."""
        for task in (*self._tasks, *([self._life] if self._life is not None else [])):
            task.cancel()
        if self._pings is not None:
            self._pings.cancel()
        self._upstream.abort(reason)

    # -- requests --------------------------------------------------------------------------------------------------

    async def open_stream(self) -> QuicStream:
        """A stream for a request. Raises QuicClosed."""
        self._opening += 1
        try:
            return await self.transport.open_stream()
        finally:
            self._opening -= 1

    def released(self, place: H3Upstream) -> None:
        """A request is over."""
        self._active.discard(place)
        if not self._active:
            self._quiet.set()
        self.changed()

    def looked_at(self) -> None:
        """See H3Link: settings and GOAWAY come there."""
        if self.codec.settled or self.codec.closed:
            self._settled.set()
        number = self.codec.peer_goaway
        if number == self._goaway or number is None:
            return
        self._goaway = number
        for place in tuple(self._active):
            if place.stream is None or not self.rules.goaway_spares(place.stream.id, number):
                place.rejected()
        self.changed()


async def open_connection(
    engine: Engine,
    tunnel: Tunnel,
    source: Address | None,
    make: MakeCodec,
    part: Callable[[Multiplexed], None],
) -> H3ClientConnection:
    """A connection to the tunnel's upstream. One that did not come about is given to `part`: the upstream is still to
    hear of it. Raises ProtocolFault."""
    try:
        upstream = await UpstreamQuic.open(engine, tunnel, source, (HTTP3_ALPN,))
    except UpstreamUnavailable as problem:
        raise ProtocolFault(fault_of(problem.kind)) from None
    client = source.host if source is not None else ""
    connection = H3ClientConnection(upstream, engine.parts.http, make, tunnel, client)
    try:
        await connection.open(engine.settings.handshake_timeout_ms / 1000)
    except ProtocolFault as problem:
        engine.log.info("tunnel %s: no HTTP/3 to the upstream: %s", tunnel.id, problem.fault.text)
        if connection.transport.end is None:
            connection.transport.close(CONNECTION_REFUSED, "no HTTP/3", application=False)
        part(connection)
        raise
    except BaseException:
        connection.drop("not opened")
        raise
    return connection
