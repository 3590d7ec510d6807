"""The scripted HTTP/1.1 upstream: takes every stream of a tunnel, reads strictly, finds requests by their nonce.

What it shares with the other versions is in `harness.peer.http_upstream`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel, Transcript
from harness.link.deadline import deadline
from harness.link.stream import End, LinkReset
from harness.peer.http import ConnectionEnd, ExchangeEnd, Fields
from harness.peer.http1_exchange import framing_of
from harness.peer.http1_stream import (
    ByteStream,
    SwitchedStream,
    field_names,
    keep,
    not_taken,
    receive_always,
    send_end,
    start_line,
)
from harness.peer.http_upstream import Changed, Fragment, HttpUpstream, HttpUpstreamConnection, UpstreamExchange
from harness.peer.raw import RawPeer
from harness.wire import http1_write as write
from harness.wire.http1 import (
    Body,
    Chunk,
    Event,
    Incomplete,
    MessageReader,
    Raw,
    RequestHead,
    Trailers,
    Unparsed,
    Violation,
)
from harness.wire.http1 import End as MessageEnd
from harness.wire.http1_write import Field, Text

READ_AHEAD = 1 << 20
"""Octets of one connection that no script has read yet, above which its link is not read any more."""
MAX_KEPT = 1 << 20
"""The first octets of a connection that are kept as they came."""

Wrap = Callable[[Incoming, Channel], Awaitable[ByteStream]]


class UpstreamRequest(UpstreamExchange):
    """A request that arrived. Its head is whole; its body may still be coming.

    `complete` says that it ended as its framing says, `aborted` that the engine ended or broke the connection before.
    `violations` are the rules of HTTP/1.1 that the engine broke in it.
    """

    version = "http/1.1"

    def __init__(self, head: RequestHead, connection: UpstreamConnection) -> None:
        super().__init__(connection.changed)
        self.head = head
        self.headers = head.headers
        self.connection: UpstreamConnection = connection
        self.chunks: list[Chunk] = []
        self.answered = False
        self._chunked = False
        self._whole = False

    @property
    def method(self) -> str:
        """The method."""
        return self.head.method

    @property
    def target(self) -> str:
        """The request-target as it came."""
        return self.head.target

    @property
    def authority(self) -> str | None:
        """The first Host."""
        return self.head.get("host")

    @property
    def scheme(self) -> str | None:
        """The scheme of an absolute-form target, else `None`."""
        scheme, mark, _ = self.target.partition("://")
        return scheme if mark and scheme.isalpha() else None

    @property
    def raw_head(self) -> bytes:
        """The header section, every octet."""
        return self.head.raw

    @property
    def named(self) -> str:
        """The request line."""
        return repr(start_line(self.head))

    def credit(self, count: int) -> None:
        """A script took `count` octets of content."""
        self.connection.consumed(count)

    def how_it_broke(self) -> str:
        """How the connection ended, in words."""
        return self.connection.how_it_ended()

    async def ended(self) -> ExchangeEnd:
        """How the exchange ended: `complete` with a whole request and a whole answer, else with the connection."""

        def over() -> bool:
            return (self.complete and self._whole) or self.connection.ended is not None

        async with deadline(f"the end of the exchange {self.named} at the upstream"):
            await self.changed.until(over)
        if self.complete and self._whole:
            return ExchangeEnd("complete")
        return ExchangeEnd("connection", detail=self.connection.how_it_ended())

    # answering

    async def respond(
        self,
        status: int | Text = 200,
        fields: Sequence[Field] = (),
        body: bytes = b"",
        *,
        trailers: Sequence[Field] = (),
        length: bool | int | Text | None = True,
        **options: Any,
    ) -> None:
        """Send a whole response; `options` are those of `harness.wire.http1_write.response`. `length` may be a
        Content-Length as it is to be written.

        A HEAD request gets no content. The connection ends after it where the request or the response said close;
        `framing="none"` leaves that to the script, see `end`.
        """
        if length is False:
            options.setdefault("framing", "chunked")
        written = None if isinstance(length, bool) else length
        data = write.response(status, fields, body, trailers=trailers, length=written, **options)
        if self.method == "HEAD":
            data = data[: data.index(b"\r\n\r\n") + 4] if b"\r\n\r\n" in data else data
        await self.respond_raw(data)
        await self._sent(fields)

    async def _sent(self, fields: Sequence[Field] = ()) -> None:
        """The answer is whole: the connection ends with it where either side said so (RFC 9112 section 9.6)."""
        self._whole = True
        self.changed.tell()
        if "close" in self.head.tokens("connection") or _says_close(fields):
            await self.end()

    async def informational(self, status: int, fields: Sequence[Field] = ()) -> None:
        """Send an interim response."""
        await self.connection.send(write.response(status, fields), f"{status} {write.phrase(status)}")

    async def begin_response(self, status: int = 200, fields: Fields = ()) -> None:
        """Send the head of a response whose content follows; in chunks unless `fields` frame it, or there is none."""
        if self.method == "HEAD" or status in write.BODILESS:
            await self.response_head(status, fields)
            return
        said, self._chunked = framing_of(fields)
        await self.response_head(status, said)

    async def send_content(self, data: bytes) -> None:
        """Send content behind `begin_response`."""
        if data:
            await (self.send_chunk(data) if self._chunked else self.send(data))

    async def finish(self, trailers: Fields = ()) -> None:
        """The last chunk with its trailer section; nothing to send behind a Content-Length."""
        if self._chunked:
            await self.send_last_chunk(trailers)
        await self._sent()

    def break_off(self, code: int | None = None) -> None:
        """Reset of the connection; HTTP/1.1 has no codes."""
        self.abort()

    async def respond_raw(self, data: bytes, *, what: str = "") -> None:
        """Send `data` as the answer, as it is; the connection goes on as HTTP behind it."""
        named = what or data.split(b"\r\n", 1)[0][:200].decode("latin-1").removeprefix("HTTP/1.1 ")
        self.answered = True
        await self.connection.send(data, named)
        self.connection.go_on()

    async def response_head(self, status: int = 200, headers: Sequence[Field] = (), **options: Any) -> None:
        """Send the header section of a response alone, as it is; the script frames the body."""
        await self.respond_raw(write.response_head(status, headers, **options))

    async def send(self, data: bytes, *, what: str = "") -> None:
        """Send octets as they are."""
        await self.connection.send(data, what or f"{len(data)} octets")

    async def offer(self, data: bytes, *, what: str = "") -> bool:
        """As `send`, but false where the engine has ended the connection."""
        try:
            await self.send(data, what=what)
        except PeerMismatch:
            return False
        return True

    async def send_chunk(self, data: bytes, **options: Any) -> None:
        """Send one chunk; `options` are those of `harness.wire.http1_write.chunk`."""
        await self.send(write.chunk(data, **options), what=f"chunk {len(data)}")

    async def send_last_chunk(self, trailers: Sequence[Field] = (), **options: Any) -> None:
        """Send the last chunk and the trailer section."""
        await self.send(write.last_chunk(trailers, **options), what="last chunk")

    async def upgrade(self, headers: Sequence[Field] = (), *, status: int = 101, raw: bytes | None = None) -> RawPeer:
        """Take the upgrade (or, with `status=200`, the CONNECT): the raw stream behind it. `raw` replaces the
        response as it goes out."""
        self.answered = True
        await self.connection.send(write.response_head(status, headers) if raw is None else raw, f"{status} upgrade")
        return self.connection.switch()

    async def end(self) -> None:
        """End our direction of the connection cleanly; what comes is still read."""
        await self.connection.end_ours()

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    def abort(self) -> None:
        """Reset the connection."""
        self.connection.abort()


def _says_close(headers: Sequence[Field]) -> bool:
    lines = (write.field_line(item).lower().replace(b" ", b"") for item in headers)
    return any(line.startswith(b"connection:") and b"close" in line for line in lines)


class UpstreamConnection(HttpUpstreamConnection):
    """One stream that the engine opened, read in the background as far as `READ_AHEAD` permits.

    `ended` is how the engine ended it; `first` its first octets as they came; `unparsed` what was no HTTP/1.1.
    """

    version = "http/1.1"

    def __init__(self, number: int, link: ByteStream, channel: Channel, owner: HttpUpstream) -> None:
        self.id = number
        self.link = link
        self.channel = channel
        self.reader = MessageReader("request")
        self.requests: list[UpstreamRequest] = []
        self.violations: list[Violation] = []
        self.first = bytearray()
        self.unparsed = bytearray()
        self.incomplete: str | None = None
        self.ended: End | None = None
        self.changed = Changed()
        self._owner = owner
        self._raw: deque[bytes] = deque()
        self._pending: list[Violation] = []
        self._current: UpstreamRequest | None = None
        self._unread = 0
        self._paused = False
        self._ours_ended = False

    @property
    def received(self) -> int:
        """How many octets have arrived."""
        return self.reader.received

    @property
    def held(self) -> bytes:
        """What came behind a CONNECT or Upgrade that was not answered yet."""
        return self.reader.held

    def how_it_ended(self) -> str:
        """The end, in words."""
        broken = f"octets that are no HTTP/1.1 ({bytes(self.unparsed[:40])!r})" if self.unparsed else ""
        return broken or (str(self.ended) if self.ended else "nothing more")

    # reading

    def pause(self) -> None:
        """Stop reading the link, so that the engine's octets back up."""
        self._paused = True

    def resume(self) -> None:
        """Read the link again."""
        self._paused = False
        self.changed.tell()

    def consumed(self, count: int) -> None:
        """A script read `count` octets."""
        self._unread -= count
        self.changed.tell()

    def _may_read(self) -> bool:
        return not self._paused and self._unread < READ_AHEAD

    async def run(self) -> None:
        """Read until the end (the background task)."""
        while self.ended is None:
            await self.changed.until(self._may_read)
            got = await receive_always(self.link, self.channel)
            if isinstance(got, End):
                self._finish(got)
            else:
                self.first += got[: MAX_KEPT - len(self.first)]
                self._take(self.reader.feed(got))

    def _finish(self, end: End) -> None:
        self.channel.got(str(end))
        self._take(self.reader.feed_end(clean=end.clean))
        self.ended = end
        if self._current:
            self._current.aborted = not self._current.complete
        self._tell()

    def _tell(self) -> None:
        self.changed.tell()
        self._owner.changed.tell()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case RequestHead():
                    self._begin(event)
                case Body(data):
                    self.channel.got(f"content {len(data)}", data=data)
                    self._unread += len(data)
                    self._request().add(data)
                case Chunk():
                    self._request().chunks.append(event)
                case Trailers():
                    self.channel.got("trailers", detail=field_names(event.lines))
                    self._request().trailers = event.headers
                case MessageEnd():
                    self._request().complete = True
                case _:
                    self._take_other(event)
        self._tell()

    def _take_other(self, event: Event) -> None:
        match event:
            case Violation():
                self.channel.got("violation", detail=str(event))
                keep(self.violations, event)
                keep(self._current.violations if self._current and not self._current.over else self._pending, event)
            case Raw(data):
                self.channel.got(f"raw {len(data)}", data=data)
                self._unread += len(data)
                self._raw.append(data)
            case Unparsed(data):
                self.channel.got(f"unparsed {len(data)}", data=data)
                self.unparsed += data[: MAX_KEPT - len(self.unparsed)]
                if self._current:
                    self._current.aborted = not self._current.complete
            case Incomplete(where):
                self.incomplete = where
            case _:
                pass

    def _begin(self, head: RequestHead) -> None:
        self.channel.got(start_line(head), detail=field_names(head.lines), data=head.raw)
        request = UpstreamRequest(head, self)
        request.violations, self._pending = self._pending, []
        self._current = request
        self.requests.append(request)
        if not self._owner.add(request):
            self.abort()

    def _request(self) -> UpstreamRequest:
        assert self._current is not None, "the reader gives a head before content"
        return self._current

    # writing

    async def send(self, data: bytes, what: str) -> None:
        """Send `data`, named `what` in the transcript. Raises `PeerMismatch` when the engine is gone."""
        self.channel.sent(what, data=data)
        try:
            async with deadline(f"the engine to take {what!r}"):
                await self.link.send(data)
        except LinkReset as end:
            raise not_taken(repr(what), end) from end

    def go_on(self) -> None:
        """The request was answered: what was held behind it is HTTP/1.1."""
        self._take(self.reader.resume())

    def switch(self) -> RawPeer:
        """From here on the connection is a raw stream."""
        self._take(self.reader.switch())
        return RawPeer(SwitchedStream(self.link, self._next_raw), self.channel)

    async def _next_raw(self) -> bytes | End:
        await self.changed.until(lambda: bool(self._raw) or self.ended is not None)
        if self._raw:
            data = self._raw.popleft()
            self.consumed(len(data))
            return data
        assert self.ended is not None
        return self.ended

    async def end_ours(self) -> None:
        """End our direction cleanly; what comes is still read."""
        if self._ours_ended:
            return
        self._ours_ended = True
        self.channel.sent("end of our direction")
        try:
            async with deadline("the upstream to end its direction"):
                await send_end(self.link)
        except LinkReset as end:
            self.channel.got("reset", detail=end.reason)

    async def expect_end(self) -> End:
        """How the engine ends this connection. Raises `DeadlineExpired`."""
        async with deadline(f"the end of upstream connection {self.id}"):
            await self.changed.until(lambda: self.ended is not None)
        assert self.ended is not None
        return self.ended

    async def closed(self) -> ConnectionEnd:
        """How the engine ends this connection; see `expect_end`."""
        end = await self.expect_end()
        return ConnectionEnd(end.clean, detail=str(end))

    def fragments(self) -> list[Fragment]:
        """Octets that are no HTTP/1.1, or that never became a request."""
        if self.unparsed or self.held:
            return [Fragment(bytes(self.unparsed) or self.held)]
        return [Fragment(bytes(self.first))] if self.received and not self.requests else []

    async def shut(self) -> None:
        """Let the link go."""
        await self.link.close()

    async def close(self) -> None:
        """Close the link; nothing is read any more."""
        self.channel.sent("close")
        await self.link.close()

    def abort(self) -> None:
        """Reset the link."""
        self.channel.sent("reset")
        self.link.abort()


class Http1Upstream(HttpUpstream):
    """The upstream of one tunnel. Takes every connection as soon as it arrives.

    `wrap` puts something between the link and HTTP (a TLS server); `failed` says where that did not work. What the
    engine does against the script raises `PeerMismatch` or `DeadlineExpired`.
    """

    version = "http/1.1"
    requests_seen: Sequence[UpstreamRequest]
    connections: Sequence[UpstreamConnection]

    def __init__(
        self, queue: UpstreamQueue, transcript: Transcript, name: str = "main", *, wrap: Wrap | None = None
    ) -> None:
        super().__init__(queue, transcript, name)
        self._wrap = wrap

    async def connect(self, number: int, incoming: Incoming, channel: Channel) -> UpstreamConnection:
        """HTTP/1.1 on a stream that the engine opened. Raises what `wrap` raises."""
        link = await self._wrap(incoming, channel) if self._wrap else incoming.link
        return UpstreamConnection(number, link, channel, self)

    async def request(self, nonce: str | None = None) -> UpstreamRequest:
        """The oldest request with `nonce` that no script took yet; without `nonce` the oldest of all.

        The head is whole, the body may still be coming. Raises `DeadlineExpired`.
        """
        found: UpstreamRequest = await self._claim(nonce)
        return found

    def seen(self, nonce: str) -> list[UpstreamRequest]:
        """Every request that arrived with `nonce`, taken or not."""
        return [request for request in self.requests_seen if request.carries(nonce)]

    async def connection(self, number: int) -> UpstreamConnection:
        """The connection with this number, counted from 1 as the engine opened them."""
        found: UpstreamConnection = await self._numbered(number)
        return found


__all__ = ["READ_AHEAD", "Fragment", "Http1Upstream", "UpstreamConnection", "UpstreamRequest"]
