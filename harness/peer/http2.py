"""The scripted HTTP/2 client: says any frame, reads strictly, keeps what it saw. The neutral side is `HttpClient`."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from typing import Any

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.link.deadline import deadline
from harness.peer.http import (
    MAX_BODY,
    ClientExchange,
    ExchangeEnd,
    Fields,
    HttpClient,
    Informational,
    Response,
)
from harness.peer.http1_stream import NONCE_FIELD, ByteStream, keep
from harness.peer.http2_connection import Http2Peer, lowered, pseudo_of, text_of
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

MAX_INTERIM = 1000
"""Interim responses of one exchange that are kept."""


class Http2ClientExchange(ClientExchange):
    """One stream of a client. `sections` are its field sections as they came, with their blocks."""

    client: Http2Client
    id: int

    def __init__(self, client: Http2Client, stream: int, method: str, target: str, nonce: str | None = None) -> None:
        self.client = client
        self.id = stream
        self.method = method
        self.target = target
        self.nonce = nonce
        self.sections: list[SectionReceived] = []
        self.violations: list[Violation] = []
        self._interim: list[Informational] = []
        self._given = 0
        self._response: Response | None = None
        self._pieces: deque[bytes] = deque()
        self._complete = False
        self._trailers: list[tuple[str, str]] = []
        self._reset: int | None = None

    # sending

    async def send_content(self, data: bytes) -> None:
        """See `ClientExchange.send_content`."""
        await self._send(data, end=False, trailers=())

    async def finish(self, trailers: Fields = ()) -> None:
        """See `ClientExchange.finish`."""
        await self._send(b"", end=True, trailers=trailers)

    async def _send(self, data: bytes, *, end: bool, trailers: Fields) -> None:
        await self.client.send_on(self.id, data, end=end, trailers=trailers)

    def cancel(self) -> None:
        """See `ClientExchange.cancel`."""
        self.client.reset(self.id, ErrorCode.CANCEL)

    @property
    def stopped(self) -> int | None:
        """See `ClientExchange.stopped`."""
        return self._reset if self._complete else None

    @property
    def reset_code(self) -> int | None:
        """The code of the RST_STREAM that came, whenever it did."""
        return self._reset

    # what comes, called by the client

    def take(self, event: Event) -> None:
        """An event of this stream."""
        match event:
            case SectionReceived():
                if len(self.sections) < MAX_INTERIM:
                    self.sections.append(event)
                self._take_section(event)
            case ContentReceived(data=data):
                self._pieces.append(data)
            case MessageEnded():
                self._complete = True
            case StreamReset(code=code):
                self._reset = code
            case _:
                pass

    def _take_section(self, section: SectionReceived) -> None:
        fields = text_of(section.fields)
        if section.kind == "trailers":
            self._trailers = fields
            return
        said = pseudo_of(section.fields, b":status") or ""
        status = int(said) if len(said) == 3 and said.isascii() and said.isdigit() else 0
        if section.kind == "response":
            self._response = Response(status, fields, self._interim, violations=self.violations)
        elif len(self._interim) < MAX_INTERIM:
            self._interim.append(Informational(status, fields))

    # reading

    @property
    def end(self) -> ExchangeEnd | None:
        """How the engine ended this exchange before its response was complete, if it did."""
        client = self.client
        if self._reset is not None:
            return ExchangeEnd("reset", self._reset, f"RST_STREAM {error_name(self._reset)}")
        if any(self.id > goaway.last for goaway in client.wire.goaways):
            code = client.wire.goaways[-1].code
            return ExchangeEnd("goaway", code, f"GOAWAY {error_name(code)} with a last stream below {self.id}")
        if client.over:
            return ExchangeEnd("connection", client.end_code, client.how_it_ended())
        return None

    @property
    def complete(self) -> bool:
        """Whether END_STREAM came."""
        return self._complete

    async def _until(self, done: Any, awaited: str) -> None:
        async with deadline(awaited):
            await self.client.changed.until(lambda: bool(done()) or self._complete or self.end is not None)

    @property
    def _named(self) -> str:
        return f"'{self.method} {self.target[:200]}' on stream {self.id}"

    async def informational(self) -> Informational:
        """See `ClientExchange.informational`."""
        awaited = f"an interim response to {self._named}"
        await self._until(lambda: len(self._interim) > self._given or self._response, awaited)
        if len(self._interim) > self._given:
            self._given += 1
            return self._interim[self._given - 1]
        raise PeerMismatch(awaited, self._said())

    def _said(self) -> str:
        if self._response is not None:
            return f"the response {self._response.status}"
        return str(self.end) if self.end is not None else "END_STREAM without a response"

    async def response_head(self) -> Response:
        """See `ClientExchange.response_head`."""
        got = await self.head_or_end()
        if isinstance(got, ExchangeEnd):
            raise PeerMismatch(f"the response to {self._named}", str(got))
        return got

    async def head_or_end(self) -> Response | ExchangeEnd:
        """See `ClientExchange.head_or_end`."""
        await self._until(lambda: self._response, f"the response to {self._named}")
        if self._response is not None:
            return self._response
        return self.end or ExchangeEnd("complete", None, "END_STREAM without a response")

    async def read_some(self, response: Response) -> bytes:
        """See `ClientExchange.read_some`."""
        while True:
            await self._until(lambda: self._pieces, f"content of the response {response.status} to {self._named}")
            if not self._pieces:
                break
            data = self._pieces.popleft()
            self.client.credit(self.id, len(data))
            if data:
                response.content += data
                if len(response.content) > MAX_BODY:
                    raise PeerMismatch("the response to end", f"more than {MAX_BODY} octets")
                return data
        response.complete = self._complete
        response.trailers = self._trailers
        if not self._complete:
            response.end = self.end
        return b""


class Http2Client(Http2Peer, HttpClient):
    """One downstream connection. `own` are the fields of `harness.wire.http2.Options`.

    Streams that a script opens frame by frame are followed by `exchange(stream)`.
    """

    OPTIONS = frozenset(field.name for field in dataclasses.fields(Options))
    version = "h2"

    def __init__(self, peer: ByteStream, channel: Channel, *, host: str, **own: Any) -> None:
        super().__init__("client", peer, channel, Options(**own))
        self.host = host
        self.exchanges: dict[int, Http2ClientExchange] = {}
        self._early: dict[int, list[Event | Violation]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say the preface and SETTINGS, and begin to read."""
        self.say_preface()
        self._task = asyncio.create_task(self.run())
        await self.flushed()

    # requests

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
    ) -> Http2ClientExchange:
        """See `HttpClient.begin`. Content waits for credit in the background."""
        if self.wire.goaways:
            raise PeerMismatch("the connection to take one more request", self.how_it_ended())
        await self.until(self._may_open, f"a stream for '{method} {target[:200]}'")
        said = self.request_fields(method, target, fields, nonce=nonce, authority=authority)
        known = any(field.name == b"content-length" for field in said)
        if body is not None and end and length and not trailers and not known:
            said.append(Field(b"content-length", str(len(body)).encode()))
        exchange = self.exchange(self.open_stream(), method, target, nonce)
        done = end and not body and not trailers
        self.say(self.headers(exchange.id, said, end=done))
        if not done:
            self.wire.send_content(exchange.id, body or b"", end=end, trailers=lowered(trailers))
            self.flush()
        return exchange

    def request_fields(
        self,
        method: str = "GET",
        target: str = "/",
        fields: Fields = (),
        *,
        nonce: str | None = None,
        authority: str | None = None,
    ) -> list[Field]:
        """The field section of a legal request, for scripts that change one thing of it."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", authority or self.host), (":path", target)]
        marked = [*fields, (NONCE_FIELD, nonce)] if nonce else list(fields)
        return [*lowered(pseudo), *lowered(marked)]

    def exchange(
        self, stream: int, method: str = "GET", target: str = "", nonce: str | None = None
    ) -> Http2ClientExchange:
        """What comes on `stream`, whoever opened it, and how. The same object on later calls."""
        if stream not in self.exchanges:
            self.exchanges[stream] = made = Http2ClientExchange(self, stream, method, target, nonce)
            for early in self._early.pop(stream, []):
                if isinstance(early, Violation):
                    keep(made.violations, early)
                else:
                    made.take(early)
        return self.exchanges[stream]

    def _may_open(self) -> bool:
        limit = self.wire.remote.get(Setting.MAX_CONCURRENT_STREAMS)
        open_now = sum(1 for stream in self.wire.streams.values() if stream.ours and not stream.over)
        return limit is None or open_now < limit

    # what comes

    def _apply(self, event: Event) -> None:
        stream = getattr(event, "stream", 0)
        if not stream:
            return
        if stream in self.exchanges:
            self.exchanges[stream].take(event)
        elif len(self._early) < MAX_INTERIM or stream in self._early:
            kept = self._early.setdefault(stream, [])
            if len(kept) < MAX_INTERIM:
                kept.append(event)

    def _broken(self, stream: int, violation: Violation) -> None:
        if stream in self.exchanges:
            keep(self.exchanges[stream].violations, violation)
        else:
            keep(self.violations, violation)

    # end

    async def close(self) -> None:
        """GOAWAY, and the end of the connection."""
        await self._say_goodbye()
        await self._stop()

    async def _stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            if isinstance(results[0], Exception):
                raise results[0]

    def abort(self) -> None:
        """Reset the connection."""
        self.channel.sent("reset")
        self.link.abort()
