"""The scripted HTTP/1.1 upstream: takes every stream of a tunnel, reads strictly, finds requests by their nonce.

An engine may reuse, pool or open connections as it likes, so a script never asks for a connection: it asks for the
request that carries its nonce. Everything that arrived is kept, also what nobody asked for: that is where smuggled
requests show up.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import DeadlineExpired, EngineDeparted, PeerMismatch
from harness.evidence.transcript import UPSTREAM, Channel, Transcript
from harness.link.deadline import deadline
from harness.link.stream import End, EndKind, LinkReset
from harness.peer.http1_stream import (
    NONCE_FIELD,
    ByteStream,
    SwitchedStream,
    field_names,
    keep,
    not_taken,
    receive,
    send_end,
    start_line,
)
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
MAX_BODY = 1 << 28
MAX_REQUESTS = 10_000
"""Requests of one upstream; a connection that brings more is reset."""

Wrap = Callable[[Incoming, Channel], Awaitable[ByteStream]]


class Changed:
    """Wakes whoever waits for a state to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """The state changed."""
        self._event.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`."""
        while not holds():
            self._event.clear()
            await self._event.wait()


class UpstreamRequest:
    """A request that arrived. Its head is whole; its body may still be coming.

    `complete` says that it ended as its framing says, `aborted` that the engine ended or broke the connection before.
    `violations` are the rules of HTTP/1.1 that the engine broke in it.
    """

    def __init__(self, head: RequestHead, connection: UpstreamConnection) -> None:
        self.head = head
        self.connection = connection
        self.violations: list[Violation] = []
        self.chunks: list[Chunk] = []
        self.trailers: list[tuple[str, str]] = []
        self.complete = False
        self.aborted = False
        self.claimed = False
        self.answered = False
        self.received = 0
        self._pieces: deque[bytes] = deque()
        self._read = bytearray()

    @property
    def method(self) -> str:
        """The method."""
        return self.head.method

    @property
    def target(self) -> str:
        """The request-target as it came."""
        return self.head.target

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values in order, in their own spelling."""
        return self.head.headers

    @property
    def raw_head(self) -> bytes:
        """The header section, every octet."""
        return self.head.raw

    def get(self, name: str) -> str | None:
        """The value of the first line called `name`."""
        return self.head.get(name)

    def get_all(self, name: str) -> list[str]:
        """The values of every line called `name`."""
        return self.head.get_all(name)

    def carries(self, nonce: str) -> bool:
        """Whether the request is the one with `nonce`: in its field, or as a segment of its path."""
        return nonce in self.get_all(NONCE_FIELD) or nonce in self.target.partition("?")[0].split("/")

    def describe(self) -> str:
        """One line for a message."""
        state = "" if self.complete else " (not complete)"
        return f"request {start_line(self.head)!r} with {self.received} octets{state}"

    # content

    def add(self, data: bytes) -> None:
        """Content arrived (called by the connection)."""
        self.received += len(data)
        self._pieces.append(data)

    @property
    def ended(self) -> bool:
        """Whether no more content can come."""
        return self.complete or self.aborted

    async def read_some(self) -> bytes:
        """The next octets of the body, `b""` when no more can come; see `complete`."""
        data = await self._next_piece()
        self._read += data
        if len(self._read) > MAX_BODY:
            raise PeerMismatch("the request to end", f"more than {MAX_BODY} octets")
        return data

    async def _next_piece(self) -> bytes:
        async with deadline(f"content of {start_line(self.head)!r} at the upstream"):
            await self.connection.changed.until(lambda: bool(self._pieces) or self.ended)
        if not self._pieces:
            return b""
        data = self._pieces.popleft()
        self.connection.consumed(len(data))
        return data

    async def body(self) -> bytes:
        """The whole body. Raises `PeerMismatch` when it stays incomplete."""
        data = await self.body_so_far()
        if not self.complete:
            raise PeerMismatch(
                f"the whole body of {start_line(self.head)!r} at the upstream",
                f"{len(data)} octets, then {self.connection.how_it_ended()}",
            )
        return data

    async def body_so_far(self) -> bytes:
        """The body up to its end or to the point where it broke off; `complete` says which."""
        while await self.read_some():
            pass
        return bytes(self._read)

    async def digest(self) -> tuple[int, str]:
        """Size and SHA-256 (hex) of the rest of the body, of which nothing is kept: for large ones."""
        size, hashed = 0, hashlib.sha256()
        while data := await self._next_piece():
            size += len(data)
            hashed.update(data)
        return size, hashed.hexdigest()

    async def read_exactly(self, count: int) -> bytes:
        """Read until at least `count` octets of the body have come; gives all that were read so far."""
        while len(self._read) < count:
            if not await self.read_some():
                raise PeerMismatch(f"{count} octets of content at the upstream", f"{len(self._read)} octets")
        return bytes(self._read)

    # answering

    async def respond(
        self, status: int | Text = 200, headers: Sequence[Field] = (), body: bytes = b"", **options: Any
    ) -> None:
        """Send a whole response; `options` are those of `harness.wire.http1_write.response`.

        A HEAD request gets no content. The connection ends after it where the request or the response said close;
        `framing="none"` leaves that to the script, see `end`.
        """
        data = write.response(status, headers, body, **options)
        if self.method == "HEAD":
            data = data[: data.index(b"\r\n\r\n") + 4] if b"\r\n\r\n" in data else data
        await self.respond_raw(data)
        if "close" in self.head.tokens("connection") or _says_close(headers):
            await self.end()

    async def informational(self, status: int, headers: Sequence[Field] = ()) -> None:
        """Send an interim response."""
        await self.connection.send(write.response(status, headers), f"{status} {write.phrase(status)}")

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


class UpstreamConnection:
    """One stream that the engine opened, read in the background as far as `READ_AHEAD` permits.

    `ended` is how the engine ended it; `first` its first octets as they came; `unparsed` what was no HTTP/1.1.
    """

    def __init__(self, number: int, link: ByteStream, channel: Channel, owner: Http1Upstream) -> None:
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
            try:
                got = await receive(self.link)
            except DeadlineExpired:  # a TLS peer bounds every wait; here nothing is awaited
                continue
            except PeerMismatch as broken:
                self.channel.got("broken TLS", detail=str(broken))
                got = End(EndKind.RESET)
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
                keep(self._current.violations if self._current and not self._current.ended else self._pending, event)
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

    async def close(self) -> None:
        """Close the link; nothing is read any more."""
        self.channel.sent("close")
        await self.link.close()

    def abort(self) -> None:
        """Reset the link."""
        self.channel.sent("reset")
        self.link.abort()


@dataclass(frozen=True, slots=True)
class Fragment:
    """Octets of a connection that never became a request."""

    raw_head: bytes

    def describe(self) -> str:
        """One line for a message."""
        return f"{len(self.raw_head)} octets that are no request: {self.raw_head[:60]!r}"


class Http1Upstream:
    """The upstream of one tunnel. Takes every connection as soon as it arrives.

    `wrap` puts something between the link and HTTP (a TLS server); `failed` says where that did not work. What the
    engine does against the script raises `PeerMismatch` or `DeadlineExpired`.
    """

    def __init__(
        self, queue: UpstreamQueue, transcript: Transcript, name: str = "main", *, wrap: Wrap | None = None
    ) -> None:
        self.name = name
        self.connections: list[UpstreamConnection] = []
        self.requests_seen: list[UpstreamRequest] = []
        self.changed = Changed()
        self.failed: list[str] = []
        self._queue = queue
        self._transcript = transcript
        self._wrap = wrap
        self._opened = 0
        self._tasks = {asyncio.get_running_loop().create_task(self._accept())}

    async def _accept(self) -> None:
        while True:
            incoming = await self._queue.get()
            self._opened += 1
            number = self._opened
            channel = self._transcript.channel(UPSTREAM, "upstream", f"upstream-{self.name}-{number}")
            channel.got("stream opened", detail=f"source {incoming.source}" if incoming.source else "")
            incoming.link.tap.label(channel.name)
            self._tasks.add(asyncio.get_running_loop().create_task(self._serve(number, incoming, channel)))

    async def _serve(self, number: int, incoming: Incoming, channel: Channel) -> None:
        link: ByteStream = incoming.link
        if self._wrap:
            try:
                link = await self._wrap(incoming, channel)
            except (EngineDeparted, LinkReset) as error:
                channel.got("no TLS", detail=str(error))
                self.failed.append(str(error))
                incoming.flow.abort()
                self.changed.tell()
                return
        connection = UpstreamConnection(number, link, channel, self)
        self.connections.append(connection)
        self.changed.tell()
        await connection.run()

    def add(self, request: UpstreamRequest) -> bool:
        """A request arrived (called by its connection); false when there are too many."""
        if len(self.requests_seen) >= MAX_REQUESTS:
            return False
        self.requests_seen.append(request)
        return True

    async def request(self, nonce: str | None = None) -> UpstreamRequest:
        """The oldest request with `nonce` that no script took yet; without `nonce` the oldest of all.

        The head is whole, the body may still be coming. Raises `DeadlineExpired`.
        """
        awaited = f"the request with nonce {nonce}" if nonce else "a request"
        found: list[UpstreamRequest] = []

        def arrived() -> bool:
            found[:] = [seen for seen in self.requests_seen if not seen.claimed and (not nonce or seen.carries(nonce))]
            return bool(found)

        async with deadline(f"{awaited} at the upstream of {self.name!r}"):
            await self.changed.until(arrived)
        found[0].claimed = True
        return found[0]

    def seen(self, nonce: str) -> list[UpstreamRequest]:
        """Every request that arrived with `nonce`, taken or not."""
        return [request for request in self.requests_seen if request.carries(nonce)]

    async def connection(self, number: int) -> UpstreamConnection:
        """The connection with this number, counted from 1 as the engine opened them."""
        async with deadline(f"connection {number} at the upstream of {self.name!r}"):
            await self.changed.until(lambda: any(item.id == number for item in self.connections))
        return next(item for item in self.connections if item.id == number)

    @property
    def unexpected(self) -> list[UpstreamRequest | Fragment]:
        """Requests that no script asked for, and octets that never became a request. A connection without octets
        is neither: an engine may open one ahead."""
        strays: list[UpstreamRequest | Fragment] = [seen for seen in self.requests_seen if not seen.claimed]
        for connection in self.connections:
            if connection.unparsed or connection.held:
                strays.append(Fragment(bytes(connection.unparsed) or connection.held))
            elif connection.received and not connection.requests:
                strays.append(Fragment(bytes(connection.first)))
        return strays

    async def close(self) -> None:
        """Close every connection and stop accepting. What a background task met that is ours is raised here."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            await connection.link.close()
        for incoming in self._queue.drain():
            incoming.flow.abort()
        for result in results:
            if isinstance(result, Exception):
                raise result
