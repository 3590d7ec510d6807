"""The scripted HTTP/2 upstream: takes every connection and every stream of a tunnel, reads strictly, keeps everything.

The neutral side is `HttpUpstream`. On a plain stream it speaks HTTP/2 with prior knowledge (RFC 9113 section 3.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel, Transcript
from harness.link.deadline import deadline
from harness.peer.http import ExchangeEnd, Fields
from harness.peer.http1_stream import ByteStream, keep
from harness.peer.http2_connection import Http2Peer, lines_of, lowered, pseudo_of, text_of
from harness.peer.http_upstream import Fragment, HttpUpstream, HttpUpstreamConnection, UpstreamExchange
from harness.wire.http1_message import Violation
from harness.wire.http2 import (
    ContentReceived,
    ErrorCode,
    Event,
    Field,
    MessageEnded,
    Options,
    SectionReceived,
    Setting,
    StreamReset,
    error_name,
)

MAX_PENDING = 1000
"""Streams on which something came in front of a request."""
CONCURRENT = 100
"""What our SETTINGS permit of concurrent streams, unless a script says otherwise."""


class Http2UpstreamExchange(UpstreamExchange):
    """A request on one stream. `section` is its header section as it came (`fields`, `block`), `trailer_section` that
    of its trailers."""

    version = "h2"

    def __init__(self, section: SectionReceived, connection: Http2UpstreamConnection) -> None:
        super().__init__(connection.changed)
        self.section = section
        self.trailer_section: SectionReceived | None = None
        self.connection = connection
        self.id = section.stream
        self.headers = text_of(section.fields)
        self.reset_code: int | None = None
        self._answered = False

    # what was asked

    @property
    def method(self) -> str:
        """The method."""
        return pseudo_of(self.section.fields, b":method") or ""

    @property
    def target(self) -> str:
        """`:path`."""
        return pseudo_of(self.section.fields, b":path") or ""

    @property
    def authority(self) -> str | None:
        """`:authority`, else host."""
        said = pseudo_of(self.section.fields, b":authority")
        return said if said is not None else self.get("host")

    @property
    def scheme(self) -> str | None:
        """`:scheme`."""
        return pseudo_of(self.section.fields, b":scheme")

    @property
    def raw_head(self) -> bytes:
        """The header section, a line for each field."""
        return lines_of(self.section.fields)

    # what comes, called by the connection

    def take(self, event: Event) -> None:
        """An event of this stream."""
        match event:
            case SectionReceived():
                self.trailer_section = event
                self.trailers = text_of(event.fields)
            case ContentReceived(data=data):
                self.add(data)
            case MessageEnded():
                self.complete = True
            case StreamReset(code=code):
                self.reset_code = code
                self.aborted = not self.complete
            case _:
                pass

    def credit(self, count: int) -> None:
        """Credit for what a script took."""
        self.connection.credit(self.id, count)

    def how_it_broke(self) -> str:
        """The end, in words."""
        return str(self._end() or "nothing more")

    def _end(self) -> ExchangeEnd | None:
        if self.reset_code is not None:
            return ExchangeEnd("reset", self.reset_code, f"RST_STREAM {error_name(self.reset_code)}")
        if self.connection.over:
            return ExchangeEnd("connection", self.connection.end_code, self.connection.how_it_ended())
        return None

    async def ended(self) -> ExchangeEnd:
        """See `UpstreamExchange.ended`."""
        async with deadline(f"the end of {self.describe()}"):
            await self.changed.until(lambda: self._end() is not None or self._served())
        if self._served() or (end := self._end()) is None:
            return ExchangeEnd("complete")
        return end

    def _served(self) -> bool:
        stream = self.connection.wire.streams.get(self.id)
        sent = stream is None or (stream.local_ended and not self.connection.wire.unsent)
        return self.complete and self._answered and sent

    # answering

    async def informational(self, status: int, fields: Fields = ()) -> None:
        """See `UpstreamExchange.informational`."""
        await self._send_section(status, fields, end=False)

    async def respond(
        self,
        status: int = 200,
        fields: Fields = (),
        body: bytes = b"",
        *,
        trailers: Fields = (),
        length: bool = True,
    ) -> None:
        """See `UpstreamExchange.respond`. Content waits for credit in the background."""
        said = lowered(fields)
        sized = any(field.name == b"content-length" for field in said)
        if length and not trailers and not sized and status >= 200 and status not in (204, 304):
            said.append(Field(b"content-length", str(len(body)).encode()))
        bare = self.method == "HEAD" or not (body or trailers)
        await self._send_section(status, said, end=bare)
        if not bare:
            self.connection.wire.send_content(self.id, body, end=True, trailers=lowered(trailers))
            self.connection.flush()

    async def begin_response(self, status: int = 200, fields: Fields = ()) -> None:
        """See `UpstreamExchange.begin_response`."""
        await self._send_section(status, fields, end=False)

    async def _send_section(self, status: int, fields: Fields | Sequence[Field], *, end: bool) -> None:
        connection = self.connection
        if (broken := self._end()) is not None:
            raise PeerMismatch(f"the engine to take the response {status} to {self.describe()}", str(broken))
        self._answered = self._answered or status >= 200
        pairs = [(field[0], field[1]) for field in fields]
        said = [Field(b":status", str(status).encode()), *lowered(pairs)]
        connection.say(connection.headers(self.id, said, end=end))
        await connection.flushed()

    async def send_content(self, data: bytes) -> None:
        """See `UpstreamExchange.send_content`."""
        await self.connection.send_on(self.id, data)

    async def finish(self, trailers: Fields = ()) -> None:
        """See `UpstreamExchange.finish`."""
        await self.connection.send_on(self.id, b"", end=True, trailers=trailers)

    def break_off(self, code: int | None = None) -> None:
        """See `UpstreamExchange.break_off`."""
        self.connection.reset(self.id, ErrorCode.INTERNAL_ERROR if code is None else code)
        self.aborted = not self.complete
        self.changed.tell()


class Http2UpstreamConnection(Http2Peer, HttpUpstreamConnection):
    """One connection that the engine opened. `own` are the fields of `harness.wire.http2.Options`."""

    version = "h2"

    def __init__(self, number: int, link: ByteStream, channel: Channel, owner: HttpUpstream, **own: Any) -> None:
        own.setdefault("settings", {Setting.MAX_CONCURRENT_STREAMS: CONCURRENT})
        super().__init__("server", link, channel, Options(**own))
        self.id = number
        self.requests: list[Http2UpstreamExchange] = []
        self._owner = owner
        self._by_stream: dict[int, Http2UpstreamExchange] = {}
        self._early: dict[int, list[Violation]] = {}

    def exchange(self, stream: int) -> Http2UpstreamExchange | None:
        """The request on a stream."""
        return self._by_stream.get(stream)

    def _apply(self, event: Event) -> None:
        stream = getattr(event, "stream", 0)
        known = self._by_stream.get(stream)
        if known is not None:
            known.take(event)
        elif isinstance(event, SectionReceived) and event.kind == "request":
            self._begin(event)

    def _begin(self, section: SectionReceived) -> None:
        exchange = Http2UpstreamExchange(section, self)
        exchange.violations = self._early.pop(section.stream, [])
        own = {id(violation) for violation in exchange.violations}
        self.violations[:] = [violation for violation in self.violations if id(violation) not in own]
        if not self._owner.add(exchange):
            self.wire.reset(section.stream, ErrorCode.REFUSED_STREAM)
            return
        self._by_stream[section.stream] = exchange
        self.requests.append(exchange)

    def _broken(self, stream: int, violation: Violation) -> None:
        known = self._by_stream.get(stream)
        if known is not None:
            keep(known.violations, violation)
        elif stream and len(self._early) < MAX_PENDING:
            # It belongs to the request that this may become; until then it is the connection's.
            keep(self._early.setdefault(stream, []), violation)
            keep(self.violations, violation)
        else:
            keep(self.violations, violation)

    def _on_end(self) -> None:
        for exchange in self.requests:
            exchange.aborted = not exchange.complete

    def _tell(self) -> None:
        super()._tell()
        self._owner.changed.tell()

    def fragments(self) -> list[Fragment]:
        """See `HttpUpstreamConnection.fragments`."""
        found = []
        if self.unreadable is not None and self.unreadable.octets:
            found.append(Fragment(self.unreadable.octets, "octets that are no HTTP/2"))
        block = self.wire.open_block
        if block:
            found.append(Fragment(block, "octets of a field block that does not end"))
        return found

    async def close(self) -> None:
        """GOAWAY, and the end of the connection."""
        await self._say_goodbye()

    def abort(self) -> None:
        """Reset the connection."""
        self.channel.sent("reset")
        self.link.abort()

    async def shut(self) -> None:
        """Let the link go."""
        await self.link.close()


class Http2Upstream(HttpUpstream):
    """The upstream of a tunnel that speaks HTTP/2 with prior knowledge. `own` are the fields of
    `harness.wire.http2.Options`, for each connection."""

    OPTIONS = frozenset(field.name for field in dataclasses.fields(Options))
    version = "h2"
    requests_seen: Sequence[Http2UpstreamExchange]
    connections: Sequence[Http2UpstreamConnection]

    def __init__(self, queue: UpstreamQueue, transcript: Transcript, name: str = "main", **own: Any) -> None:
        super().__init__(queue, transcript, name)
        self._own = own

    async def connect(self, number: int, incoming: Incoming, channel: Channel) -> Http2UpstreamConnection:
        """See `HttpUpstream.connect`."""
        return Http2UpstreamConnection(number, incoming.link, channel, self, **self._own)

    async def request(self, nonce: str | None = None) -> Http2UpstreamExchange:
        """See `HttpUpstream.request`."""
        found: Http2UpstreamExchange = await self._claim(nonce)
        return found

    async def connection(self, number: int = 1) -> Http2UpstreamConnection:
        """See `HttpUpstream.connection`."""
        found: Http2UpstreamConnection = await self._numbered(number)
        return found
