"""The scripted HTTP/3 upstream: a QUIC server for each connection of the engine, see `harness.peer.http_upstream`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel, Transcript
from harness.link.deadline import deadline
from harness.peer.http import ConnectionEnd, ExchangeEnd, Fields
from harness.peer.http1_stream import keep
from harness.peer.http3_peer import QUIC_OPTIONS, Http3Peer, has_length, lower
from harness.peer.http_upstream import Changed, Fragment, HttpUpstream, HttpUpstreamConnection, UpstreamExchange
from harness.peer.quic import QuicPeer
from harness.peer.tls_pki import upstream_identity
from harness.wire.http1_message import Violation as HttpViolation
from harness.wire.http3 import Http3Options
from harness.wire.http3 import message as seen
from harness.wire.http3.frames import DataFrame, Frame
from harness.wire.http3.numbers import ErrorCode
from harness.wire.quic import ServerOptions

KEPT = 1 << 16
"""Octets of what never became a request that are kept of one stream."""


class Http3UpstreamExchange(UpstreamExchange):
    """A request stream of the engine's. `id` is the stream, `connection` its connection with everything frame by
    frame."""

    version = "h3"

    def __init__(self, head: seen.Head, connection: Http3UpstreamConnection) -> None:
        super().__init__(connection.changed)
        self.head = head
        self.id = head.stream_id
        self.connection = connection
        self.headers = head.headers
        self.end: ExchangeEnd | None = None
        """What the engine did to the exchange before it was complete."""

    def _pseudo(self, name: bytes) -> str | None:
        found = self.head.pseudo(name)
        return None if found is None else found.decode("latin-1")

    @property
    def method(self) -> str:
        """`:method`."""
        return self._pseudo(b":method") or ""

    @property
    def target(self) -> str:
        """`:path`."""
        return self._pseudo(b":path") or ""

    @property
    def authority(self) -> str | None:
        """`:authority`, else host."""
        named = self._pseudo(b":authority")
        return self.get("host") if named is None else named

    @property
    def scheme(self) -> str | None:
        """`:scheme`."""
        return self._pseudo(b":scheme")

    @property
    def raw_head(self) -> bytes:
        """One line per field, as it was decoded."""
        return b"".join(name + b": " + value + b"\n" for name, value in self.head.fields)

    # What came, called by the connection

    def take(self, event: seen.Event) -> None:
        """An event of this stream."""
        match event:
            case seen.Content(data=data):
                self.add(data)
            case seen.Head(kind="trailers"):
                self.trailers = event.headers
            case seen.MessageEnd(complete=complete):
                self.complete = complete
                if not complete:
                    self._break(ExchangeEnd("reset", None, "FIN before the request was whole"))
            case seen.StreamAborted(code=code):
                self._break(ExchangeEnd("reset", code, str(event)))
            case seen.SendingStopped(code=code):
                self.end = self.end or ExchangeEnd("reset", code, str(event))
            case seen.Violation():
                keep(self.violations, event)
            case _:
                pass

    def _break(self, end: ExchangeEnd) -> None:
        self.aborted = True
        self.end = self.end or end

    def connection_over(self, end: ExchangeEnd) -> None:
        """The connection ended."""
        if not self.over:
            self._break(end)
        elif not self._answered:
            self.end = self.end or end

    def credit(self, count: int) -> None:
        """A script took `count` octets."""
        self.connection.took(self.id, count)

    def how_it_broke(self) -> str:
        """What the engine did."""
        return str(self.end) if self.end is not None else self.connection.end_words()

    @property
    def _answered(self) -> bool:
        """Whether all of our answer went out."""
        return self.connection.ended_ours(self.id) and not self.connection.quic.wire.unsent(self.id)

    async def ended(self) -> ExchangeEnd:
        """See `UpstreamExchange.ended`."""
        await self.connection.until(
            lambda: self.end is not None or (self.complete and self._answered),
            f"the end of '{self.method} {self.target[:200]}' at the upstream",
        )
        if self.end is not None:
            return self.end
        return ExchangeEnd("complete") if self.complete else self.connection.exchange_end()

    # Answering

    async def informational(self, status: int, fields: Fields = ()) -> None:
        """Send an interim response."""
        self._say([self._head(status, fields)])

    def _head(self, status: int, fields: Fields, length: int | None = None) -> Frame:
        plain = lower(fields)
        if length is not None and not has_length(plain):
            plain.append((b"content-length", b"%d" % length))
        return self.connection.headers_frame(self.id, [(b":status", b"%d" % status), *plain])

    async def respond(
        self,
        status: int = 200,
        fields: Fields = (),
        body: bytes = b"",
        *,
        trailers: Fields = (),
        length: bool = True,
    ) -> None:
        """See `UpstreamExchange.respond`."""
        bodiless = status // 100 == 1 or status in (204, 304)
        told = None if bodiless or not length or trailers else len(body)
        head = self._head(status, fields, told)
        if self.method == "HEAD":
            self._say([head], fin=True)
        elif not body:
            self._say([head, *self._trailers(trailers)], fin=True)
        elif len(body) > 1 << 15:
            self._say([head])
            await self.send_content(body)
            await self.finish(trailers)
        else:
            self._say([head, DataFrame(body), *self._trailers(trailers)], fin=True)

    def _trailers(self, trailers: Fields) -> list[Frame]:
        return [self.connection.headers_frame(self.id, lower(trailers))] if trailers else []

    async def begin_response(self, status: int = 200, fields: Fields = ()) -> None:
        """See `UpstreamExchange.begin_response`."""
        self._say([self._head(status, fields)])

    async def send_content(self, data: bytes) -> None:
        """See `UpstreamExchange.send_content`."""
        await self.connection.send_data(self.id, data, self._refused)

    async def finish(self, trailers: Fields = ()) -> None:
        """See `UpstreamExchange.finish`."""
        self._say(self._trailers(trailers), fin=True)

    def _refused(self) -> str:
        return str(self.end) if self.end is not None and self.connection.ended_ours(self.id) else ""

    def _say(self, frames: Sequence[Frame], *, fin: bool = False) -> None:
        if why := self._refused():
            raise PeerMismatch(f"the engine to take the answer on stream {self.id}", why)
        self.connection.say(self.id, *frames, fin=fin)

    def break_off(self, code: int | None = None) -> None:
        """RESET_STREAM, and STOP_SENDING where the request is not whole."""
        chosen = ErrorCode.H3_INTERNAL_ERROR if code is None else code
        if not self.connection.ended_ours(self.id):
            self.connection.reset_stream(self.id, chosen)
        if not self.over:
            self.connection.stop_sending(self.id, chosen)


class Http3UpstreamConnection(Http3Peer, HttpUpstreamConnection):
    """One connection that the engine opened. Broken rules are kept beside what broke them, and do not raise."""

    version = "h3"

    def __init__(
        self, number: int, quic: QuicPeer, channel: Channel, owner: Http3Upstream, *, hold: bool = False, **own: Any
    ) -> None:
        super().__init__(quic, channel, Http3Options(**own), hold=hold)
        self.id = number
        self.changed: Changed = owner.changed
        self._owner = owner
        self.requests: list[Http3UpstreamExchange] = []
        self._by_stream: dict[int, Http3UpstreamExchange] = {}
        self._pending: dict[int, list[HttpViolation]] = {}
        self._scraps: dict[int, bytearray] = {}
        """What came on request streams that have no request yet."""

    def take(self, event: seen.Event) -> None:
        """An event of a stream."""
        if isinstance(event, seen.RequestOpened | seen.GoawaySeen):
            return
        exchange = self._by_stream.get(event.stream_id)
        if exchange is not None:
            exchange.take(event)
        elif isinstance(event, seen.Head) and event.kind == "request":
            self._begin(event)
        elif isinstance(event, seen.Violation) and event.stream_id is not None:
            keep(self._pending.setdefault(event.stream_id, []), event)
            keep(self.violations, event)
        elif isinstance(event, seen.Content):
            scrap = self._scraps.setdefault(event.stream_id, bytearray())
            scrap += event.data[: KEPT - len(scrap)]
            self.credit(event.stream_id, len(event.data))

    def _begin(self, head: seen.Head) -> None:
        exchange = Http3UpstreamExchange(head, self)
        exchange.violations = self._pending.pop(head.stream_id, [])
        self._by_stream[head.stream_id] = exchange
        self.requests.append(exchange)
        if not self._owner.add(exchange):
            exchange.break_off(ErrorCode.H3_EXCESSIVE_LOAD)

    def over(self, end: ExchangeEnd) -> None:
        """The connection is over."""
        for exchange in self.requests:
            exchange.connection_over(end)

    def tell(self) -> None:
        """Wake whoever waits for this upstream."""
        self.changed.tell()

    async def run(self) -> None:
        """Wait for the end; what comes is read in the background anyway."""
        try:
            await self.quic.gone()
        except PeerMismatch as error:
            self.channel.got("broken QUIC", detail=str(error))
            for broken in self.quic.violations:
                self.note(HttpViolation(broken.what, broken.section.removeprefix("RFC ")))
        self._end()
        self.tell()

    def fragments(self) -> list[Fragment]:
        """Content without a request, and field sections that are none."""
        found = [
            Fragment(bytes(scrap), f"octets of content without a request on stream {at}")
            for at, scrap in self._scraps.items()
        ]
        found += [
            Fragment(str(each[0]).encode(), f"octets: stream {at} without a request")
            for at, each in self._pending.items()
            if at not in self._scraps
        ]
        return found

    async def closed(self) -> ConnectionEnd:
        """How the engine ends this connection."""
        async with deadline(f"the end of upstream connection {self.id}"):
            await self.changed.until(lambda: self._ended)
        end = self.quic.ended
        clean = end is not None and end.kind in ("application", "transport")
        return ConnectionEnd(clean, end.code if clean and end is not None else None, self.end_words())

    async def close(self) -> None:
        """GOAWAY for the next request, and CONNECTION_CLOSE H3_NO_ERROR."""
        await self.leave(max(self._by_stream, default=-4) + 4)

    async def shut(self) -> None:
        """Let the link go."""
        await self.quic.shut()


class Http3Upstream(HttpUpstream):
    """The upstream of one tunnel over HTTP/3. `options` are those of `Http3Options`, `hold`, and those of
    `ServerOptions` of QUIC and TLS by keyword."""

    version = "h3"
    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        each.name for known in (Http3Options, ServerOptions, ServerOptions.TLS) for each in dataclasses.fields(known)
    ) | {"hold"}
    requests_seen: Sequence[Http3UpstreamExchange]
    connections: Sequence[Http3UpstreamConnection]

    def __init__(self, queue: UpstreamQueue, transcript: Transcript, name: str = "main", **options: Any) -> None:
        super().__init__(queue, transcript, name)
        ours = {each.name for each in dataclasses.fields(Http3Options)} | {"hold"}
        self._own = {name: value for name, value in options.items() if name in ours}
        self._quic = {name: value for name, value in options.items() if name not in ours}

    async def connect(self, number: int, incoming: Incoming, channel: Channel) -> Http3UpstreamConnection:
        """A QUIC server on the datagram channel, its handshake done, and our streams on it."""
        chosen = {**QUIC_OPTIONS, "identity": upstream_identity(), **self._quic}
        quic = QuicPeer.server(incoming.packets, channel, ServerOptions.of(**chosen), source=incoming.source)
        connection = Http3UpstreamConnection(number, quic, channel, self, **self._own)
        try:
            await quic.handshake()
            await connection.begin_streams()
        except BaseException:
            await quic.shut()
            raise
        return connection

    async def request(self, nonce: str | None = None) -> Http3UpstreamExchange:
        """See `HttpUpstream.request`."""
        found: Http3UpstreamExchange = await self._claim(nonce)
        return found

    def seen(self, nonce: str) -> list[Http3UpstreamExchange]:
        """See `HttpUpstream.seen`."""
        return [request for request in self.requests_seen if request.carries(nonce)]

    async def connection(self, number: int) -> Http3UpstreamConnection:
        """See `HttpUpstream.connection`."""
        found: Http3UpstreamConnection = await self._numbered(number)
        return found
