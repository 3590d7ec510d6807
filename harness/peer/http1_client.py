"""The scripted HTTP/1.1 client: says anything, reads strictly, keeps what it saw."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.link.deadline import deadline
from harness.link.stream import End, LinkReset
from harness.peer.http import MAX_BODY, ConnectionEnd, Fields, HttpClient
from harness.peer.http1_exchange import Http1Exchange, framing_of
from harness.peer.http1_stream import (
    ByteStream,
    SwitchedStream,
    field_names,
    keep,
    not_taken,
    receive,
    said,
    send_end,
    start_line,
    with_nonce,
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
    ResponseHead,
    Trailers,
    Unparsed,
    Violation,
)
from harness.wire.http1 import End as MessageEnd
from harness.wire.http1_write import Field, Text


@dataclass(slots=True)
class Response:
    """A final response, with the interim ones before it.

    `complete` says whether it ended as its framing says; `end` how the connection ended if it did so inside or at the
    end of this response. `violations` are the rules that it broke. The body grows until `complete` or `end`.
    """

    head: ResponseHead
    informational: list[ResponseHead] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    complete: bool = False
    end: End | None = None

    @property
    def status(self) -> int:
        """The status code."""
        return self.head.status

    @property
    def reason(self) -> str:
        """The reason phrase."""
        return self.head.reason

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values in order, in their own spelling."""
        return self.head.headers

    @property
    def raw_head(self) -> bytes:
        """The header section, every octet."""
        return self.head.raw

    @property
    def body(self) -> bytes:
        """The content so far, chunking removed."""
        return bytes(self.content)

    def get(self, name: str) -> str | None:
        """The value of the first line called `name`."""
        return self.head.get(name)

    def get_all(self, name: str) -> list[str]:
        """The values of every line called `name`."""
        return self.head.get_all(name)

    @property
    def closes(self) -> bool:
        """Whether the connection cannot be used after this response: it says close, or ended."""
        return self.end is not None or "close" in self.head.tokens("connection")

    def describe(self) -> str:
        """One line for an `actual`."""
        part = "" if self.complete else ", incomplete"
        ended = f", then {self.end}" if self.end else ""
        return f"{self.status} with {len(self.content)} octets{part}{ended}"


class Http1Client(HttpClient):
    """One downstream connection. `host` is what Host says unless a request says otherwise. `begin` is for a case that
    runs over any version; all else is for one about octets.

    Whatever the engine does against the script raises `PeerMismatch` or `DeadlineExpired`.
    """

    version = "http/1.1"

    def __init__(self, link: ByteStream, channel: Channel, *, host: str) -> None:
        self.link = link
        self.channel = channel
        self.host = host
        self.reader = MessageReader("response")
        self.responses: list[Response] = []
        self.violations: list[Violation] = []
        self.end: End | None = None
        self._events: deque[Event] = deque()
        self._interim: list[ResponseHead] = []
        self._broken: list[Violation] = []
        self._awaited: deque[str] = deque()

    # what the client says

    async def request(
        self,
        method: str,
        target: Text = "/",
        headers: Sequence[Field] = (),
        body: bytes | None = None,
        *,
        nonce: str | None = None,
        **options: Any,
    ) -> None:
        """Send a whole request; `options` are those of `harness.wire.http1_write.request`. `host=None` sends no
        Host."""
        options.setdefault("host", self.host)
        data = write.request(method, target, with_nonce(headers, nonce), body, **options)
        await self.send_raw(data, expects=method)

    async def begin(
        self,
        method: str = "GET",
        target: str = "/",
        fields: Fields = (),
        body: bytes | None = None,
        *,
        nonce: str | None = None,
        authority: str | None = None,
        trailers: Fields = (),
        end: bool = True,
        length: bool = True,
    ) -> Http1Exchange:
        """A request in the words that all versions share, see `HttpClient.begin`."""
        host = self.host if authority is None else authority
        exchange = Http1Exchange(self, method, target, nonce, chunked=False)
        if end:
            unknown = bool(trailers) or (body is not None and not length)
            framing = "chunked" if unknown else "auto"
            await self.request(method, target, fields, body, nonce=nonce, host=host, framing=framing, trailers=trailers)
            return exchange
        said, chunked = framing_of(fields)
        exchange = Http1Exchange(self, method, target, nonce, chunked=chunked)
        await self.request_head(method, target, said, nonce=nonce, host=host)
        await exchange.send_content(body or b"")
        return exchange

    async def request_head(
        self,
        method: str,
        target: Text = "/",
        headers: Sequence[Field] = (),
        *,
        nonce: str | None = None,
        **options: Any,
    ) -> None:
        """Send a header section alone; its framing fields are the script's. `options` as for `request`."""
        await self.request(method, target, headers, nonce=nonce, framing="none", **options)

    async def send_raw(self, data: bytes, *, expects: str | Sequence[str] = (), what: str = "") -> None:
        """Send `data` as it is. `expects` are the methods of the requests in it, one response is awaited for each.
        `what` names the step."""
        if not await self.offer(data, expects=expects, what=what):
            raise not_taken(f"{len(data)} octets", LinkReset("connection closed"))

    async def offer(self, data: bytes, *, expects: str | Sequence[str] = (), what: str = "") -> bool:
        """As `send_raw`, but false where the engine closed before it took everything: what it answered can still be
        read."""
        methods = (expects,) if isinstance(expects, str) else tuple(expects)
        first = data.split(b"\r\n", 1)[0][:200].decode("latin-1") if methods else ""
        named = what or first or f"{len(data)} octets"
        for method in methods:
            self.reader.expect(method)
            self._awaited.append(named)
        self.channel.sent(named, data=data)
        try:
            async with deadline(f"the engine to take {named!r}"):
                await self.link.send(data)
        except LinkReset as end:
            self.channel.got("reset", detail=end.reason)
            return False
        return True

    async def send_chunk(self, data: bytes, **options: Any) -> None:
        """Send one chunk; `options` are those of `harness.wire.http1_write.chunk`."""
        await self.send_raw(write.chunk(data, **options), what=f"chunk {len(data)}")

    async def send_last_chunk(self, trailers: Sequence[Field] = (), **options: Any) -> None:
        """Send the last chunk and the trailer section."""
        await self.send_raw(write.last_chunk(trailers, **options), what="last chunk")

    async def send_end(self) -> None:
        """End our direction cleanly; receiving goes on."""
        self.channel.sent("end of our direction")
        try:
            async with deadline("the client to end its direction"):
                await send_end(self.link)
        except LinkReset as end:
            raise not_taken("the end of our direction", end) from end

    # what the client reads

    async def _event(self) -> Event | None:
        """The next event, `None` at the end of the connection."""
        while not self._events:
            if self.end:
                return None
            got = await receive(self.link)
            if isinstance(got, End):
                self.end = got
                self.channel.got(str(got))
                self._take(self.reader.feed_end(clean=got.clean))
            else:
                self._take(self.reader.feed(got))
        return self._events.popleft()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case ResponseHead():
                    self.channel.got(start_line(event), detail=field_names(event.lines), data=event.raw)
                case Body(data) | Raw(data) | Unparsed(data):
                    self.channel.got(f"{type(event).__name__.lower()} {len(data)}", data=data)
                case Violation():
                    self.channel.got("violation", detail=str(event))
                    keep(self.violations, event)
                case _:
                    pass
        self._events.extend(events)

    async def informational(self) -> ResponseHead:
        """The next interim response. Raises `PeerMismatch` when a final one or the end comes instead."""
        got = await self.next_head("an interim response", interim=True)
        if isinstance(got, ResponseHead):
            return got
        raise PeerMismatch("an interim response", said(got.head) if isinstance(got, Response) else str(got))

    async def response_head(self) -> Response:
        """The head of the next final response; its body is read by `read_some` or `finish`."""
        awaited = f"the response to {self._awaited[0]!r}" if self._awaited else "a response"
        got = await self.next_head(awaited)
        if not isinstance(got, Response):
            raise PeerMismatch(awaited, str(got))
        return got

    async def outcome(self) -> Response | End:
        """The next final response, whole, or how the connection ended without one. For rules that permit both."""
        got = await self.next_head("a response or the end of the connection")
        return await self.finish(got) if isinstance(got, Response) else self._ended()

    def _ended(self) -> End:
        assert self.end is not None, "no event came, so the connection has ended"
        return self.end

    async def next_head(self, awaited: str, *, interim: bool = False) -> Response | ResponseHead | End:
        """The next final response without its body, or the end of the connection; with `interim` the head of an interim
        one, too. `awaited` names it for a deadline."""
        async with deadline(awaited):
            return await self._head(interim=interim)

    async def _head(self, *, interim: bool = False) -> Response | ResponseHead | End:
        """The next final response without its body, or the end. With `interim` also an interim one."""
        while True:
            event = await self._event()
            match event:
                case None:
                    return self._ended()
                case ResponseHead(status=0):
                    raise PeerMismatch("a response", said(event))
                case ResponseHead() if event.status // 100 == 1 and event.status != 101:
                    self._interim.append(event)
                    if interim:
                        return event
                case ResponseHead():
                    return self._begin(event)
                case Unparsed(data):
                    raise PeerMismatch("a response", f"octets that are no HTTP/1.1: {data[:60]!r}")
                case Incomplete(where):
                    raise PeerMismatch("a response", f"{self.end} in the {where}")
                case Violation():
                    keep(self._broken, event)
                case _:
                    pass

    def _begin(self, head: ResponseHead) -> Response:
        if self._awaited:
            self._awaited.popleft()
        response = Response(head, self._interim, violations=self._broken)
        self._interim, self._broken = [], []
        self.responses.append(response)
        return response

    async def read_some(self, response: Response) -> bytes:
        """The next octets of the body, `b""` when the response is complete or the connection has ended."""
        async with deadline(f"content of the response {response.status}"):
            return await self._some(response)

    async def _some(self, response: Response) -> bytes:
        while not response.complete and response.end is None:
            event = await self._event()
            match event:
                case None:
                    response.end = self.end
                case Body(data):
                    response.content += data
                    if len(response.content) > MAX_BODY:
                        raise PeerMismatch("the response to end", f"more than {MAX_BODY} octets")
                    return data
                case MessageEnd():
                    response.complete = True
                    response.end = self.end
                case Chunk():
                    response.chunks.append(event)
                case Trailers():
                    response.trailers = event.headers
                case Violation():
                    keep(response.violations, event)
                case _:
                    pass
        return b""

    async def finish(self, response: Response) -> Response:
        """Read the rest of the body."""
        async with deadline(f"the end of the response {response.status}"):
            while await self._some(response):
                pass
        return response

    async def digest(self, response: Response) -> tuple[int, str]:
        """Size and SHA-256 (hex) of the rest of the body, of which nothing is kept: for large ones."""
        size, hashed = 0, hashlib.sha256()
        while data := await self.read_some(response):
            response.content.clear()
            size += len(data)
            hashed.update(data)
        return size, hashed.hexdigest()

    async def response(self) -> Response:
        """The next final response, whole; it may be incomplete, which `complete` says."""
        return await self.finish(await self.response_head())

    async def expect_end(self) -> End:
        """How the engine ends the connection. Raises `PeerMismatch` when octets come instead."""
        async with deadline("the end of the client's connection"):
            while True:
                event = await self._event()
                match event:
                    case None:
                        return self._ended()
                    case ResponseHead():
                        raise PeerMismatch("the end of the connection", said(event))
                    case Raw(data) | Unparsed(data):
                        raise PeerMismatch("the end of the connection", f"octets: {data[:60]!r}")
                    case _:
                        pass

    async def closed(self) -> ConnectionEnd:
        """How the engine ends the connection; see `expect_end`."""
        end = await self.expect_end()
        return ConnectionEnd(end.clean, detail=str(end))

    async def ping(self) -> None:
        """Nothing: HTTP/1.1 has no such round trip."""

    async def drain(self) -> tuple[list[Response], End]:
        """Every response up to the end of the connection, and that end."""
        responses = []
        while not isinstance(got := await self.outcome(), End):
            responses.append(got)
        return responses, got

    def tunnel(self) -> RawPeer:
        """The raw stream behind a 101 or a 2xx to CONNECT that was read."""
        return RawPeer(SwitchedStream(self.link, self._raw), self.channel)

    async def _raw(self) -> bytes | End:
        while True:
            event = await self._event()
            if isinstance(event, Raw | Unparsed):
                return event.data
            if event is None:
                return self._ended()

    async def close(self) -> None:
        """Close the connection."""
        await self.link.close()

    def abort(self) -> None:
        """Reset the connection."""
        self.channel.sent("reset")
        self.link.abort()
