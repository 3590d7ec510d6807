"""The scripted HTTP/3 client: the neutral API of `harness.peer.http`, and frame by frame what `Http3Peer` offers."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.peer.http import (
    MAX_BODY,
    ClientExchange,
    ExchangeEnd,
    Fields,
    HttpClient,
    Informational,
    Response,
)
from harness.peer.http1_stream import NONCE_FIELD, keep
from harness.peer.http3_peer import QUIC_OPTIONS, Http3Peer, has_length, lower
from harness.peer.quic import QuicPeer
from harness.wire.http1_message import Violation as HttpViolation
from harness.wire.http1_write import Text
from harness.wire.http3 import Http3Options
from harness.wire.http3 import message as seen
from harness.wire.http3.frames import DataFrame, Frame
from harness.wire.http3.numbers import ErrorCode, error_name

MAX_EXCHANGES = 4096
"""Exchanges of one connection that a client knows by their stream."""


class Http3Exchange(ClientExchange):
    """One request stream of the client. `id` is the stream, `peer` its client with everything frame by frame."""

    id: int

    def __init__(self, peer: Http3Client, stream_id: int, method: str, target: str, nonce: str | None) -> None:
        self.client = self.peer = peer
        self.id = stream_id
        self.method = method
        self.target = target
        self.nonce = nonce
        self.violations: list[HttpViolation] = []
        self.end: ExchangeEnd | None = None
        """How the engine ended the exchange before the response was complete."""
        self.complete = False
        self._interim: list[Informational] = []
        self._told = 0
        self._response: Response | None = None
        self._pieces: deque[bytes] = deque()
        self._stopped: int | None = None
        self._cancelled = False
        self.received = 0
        """Octets of content that came, read or not."""

    # What came, called by the client

    def take(self, event: seen.Event) -> None:
        """An event of this stream."""
        match event:
            case seen.Content(data=data):
                self._content(data)
            case seen.Head():
                self._head(event)
            case seen.MessageEnd(complete=complete):
                self.complete = complete
                self._end(None if complete else ExchangeEnd("reset", None, "FIN before the response was whole"))
            case seen.StreamAborted(code=code):
                self._end(ExchangeEnd("reset", code, str(event)))
            case seen.SendingStopped(code=code):
                self._stopped = code
            case seen.Violation():
                keep(self.violations, event)
            case _:
                pass

    def _content(self, data: bytes) -> None:
        self.received += len(data)
        if self._cancelled:
            self.peer.credit(self.id, len(data))
        else:
            self._pieces.append(data)

    def _head(self, head: seen.Head) -> None:
        if head.kind == "informational":
            self._interim.append(Informational(head.status, head.headers))
        elif head.kind == "trailers":
            if self._response is not None:
                self._response.trailers = head.headers
        else:
            self._response = Response(head.status, head.headers, self._interim, violations=self.violations)

    def goaway(self) -> None:
        """GOAWAY says that this request is not processed."""
        if self._response is None:
            self._end(ExchangeEnd("goaway", None, "GOAWAY"))

    def connection_over(self, end: ExchangeEnd) -> None:
        """The connection ended."""
        if not self.over:
            self._end(end)

    def _end(self, end: ExchangeEnd | None) -> None:
        self.end = self.end or end
        if self._response is not None:
            self._response.end = self.end

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self.complete or self.end is not None

    # Sending

    async def send_content(self, data: bytes) -> None:
        """See `ClientExchange.send_content`."""
        await self.peer.send_data(self.id, data, self._refused)

    def _refused(self) -> str:
        if self._stopped is not None:
            return f"STOP_SENDING {error_name(self._stopped)}"
        return str(self.end) if self.end is not None else ""

    async def finish(self, trailers: Fields = ()) -> None:
        """See `ClientExchange.finish`."""
        if why := self._refused():
            raise PeerMismatch(f"the engine to take the end of stream {self.id}", why)
        frames = [self.peer.headers_frame(self.id, lower(trailers))] if trailers else []
        self.peer.say(self.id, *frames, fin=True)

    def cancel(self) -> None:
        """RESET_STREAM where our half is open, and STOP_SENDING, both with H3_REQUEST_CANCELLED."""
        self._cancelled = True
        if not self.peer.ended_ours(self.id):
            self.peer.reset_stream(self.id, ErrorCode.H3_REQUEST_CANCELLED)
        if not self.over:
            self.peer.stop_sending(self.id, ErrorCode.H3_REQUEST_CANCELLED)
        self.peer.credit(self.id, sum(map(len, self._pieces)))
        self._pieces.clear()

    @property
    def stopped(self) -> int | None:
        """The code of the engine's STOP_SENDING."""
        return self._stopped

    # Reading

    @property
    def _named(self) -> str:
        return f"{self.method} {self.target[:200]}"

    async def informational(self) -> Informational:
        """See `ClientExchange.informational`."""
        await self.peer.until(
            lambda: len(self._interim) > self._told or self._response is not None or self.over,
            f"an interim response to '{self._named}'",
        )
        if len(self._interim) > self._told:
            self._told += 1
            return self._interim[self._told - 1]
        said = f"the response {self._response.status}" if self._response is not None else str(self.end)
        raise PeerMismatch("an interim response", said)

    async def head_or_end(self) -> Response | ExchangeEnd:
        """See `ClientExchange.head_or_end`."""
        await self.peer.until(lambda: self._response is not None or self.over, f"the response to '{self._named}'")
        if self._response is not None:
            return self._response
        return self.end or ExchangeEnd("connection")

    async def response_head(self) -> Response:
        """See `ClientExchange.response_head`."""
        got = await self.head_or_end()
        if isinstance(got, ExchangeEnd):
            raise PeerMismatch(f"the response to '{self._named}'", str(got))
        return got

    async def read_some(self, response: Response) -> bytes:
        """See `ClientExchange.read_some`."""
        await self.peer.until(lambda: self._pieces or self.over, f"content of the response {response.status}")
        if not self._pieces:
            response.complete, response.end = self.complete, self.end
            return b""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self.peer.took(self.id, len(data))
        response.content += data
        if len(response.content) > MAX_BODY:
            raise PeerMismatch("the response to end", f"more than {MAX_BODY} octets")
        return data


class Http3Client(Http3Peer, HttpClient):
    """One connection toward the endpoint, on a QUIC peer whose handshake is done."""

    version = "h3"
    OPTIONS: ClassVar[frozenset[str]] = frozenset(each.name for each in dataclasses.fields(Http3Options)) | {"hold"}
    BELOW: ClassVar[Mapping[str, Any]] = QUIC_OPTIONS

    def __init__(self, peer: QuicPeer, channel: Channel, *, host: Text, hold: bool = False, **own: Any) -> None:
        super().__init__(peer, channel, Http3Options(**own), hold=hold)
        self.host = host if isinstance(host, str) else host.decode("latin-1")
        self._exchanges: dict[int, Http3Exchange] = {}

    async def start(self) -> None:
        """Our control and QPACK streams, with SETTINGS."""
        await self.begin_streams()

    def exchange(self, stream_id: int, method: str = "", target: str = "", nonce: str | None = None) -> Http3Exchange:
        """The exchange of a stream that the script opened itself, to be read as any other."""
        found = self._exchanges.get(stream_id)
        if found is None:
            self._make_room()
            found = self._exchanges[stream_id] = Http3Exchange(self, stream_id, method, target, nonce)
            if self.quic.ended is not None:
                found.connection_over(self.exchange_end())
        return found

    def _make_room(self) -> None:
        """Of many exchanges those that are over are forgotten; whoever asked for one still has it."""
        if len(self._exchanges) >= MAX_EXCHANGES:
            kept = {at: each for at, each in self._exchanges.items() if not (each.over and self.ended_ours(at))}
            self._exchanges = kept

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
    ) -> Http3Exchange:
        """See `HttpClient.begin`."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", authority or self.host), (":path", target)]
        plain = lower(fields)
        if nonce:
            plain += lower([(NONCE_FIELD, nonce)])
        if body is not None and end and length and not trailers and not has_length(plain):
            plain.append((b"content-length", b"%d" % len(body)))
        stream_id = await self.open_stream()
        exchange = self.exchange(stream_id, method, target, nonce)
        head = self.headers_frame(stream_id, [*lower(pseudo), *plain])
        if len(body or b"") > 1 << 15:
            self.say(stream_id, head)
            await exchange.send_content(body or b"")
            if end:
                await exchange.finish(trailers)
            return exchange
        frames: list[Frame] = [head, *([DataFrame(body)] if body else [])]
        if end and trailers:
            frames.append(self.headers_frame(stream_id, lower(trailers)))
        self.say(stream_id, *frames, fin=end)
        return exchange

    def take(self, event: seen.Event) -> None:
        """An event of a stream, or GOAWAY."""
        if isinstance(event, seen.GoawaySeen):
            for exchange in self._exchanges.values():
                if exchange.id >= event.number:
                    exchange.goaway()
        else:
            self.exchange(event.stream_id).take(event)

    def over(self, end: ExchangeEnd) -> None:
        """The connection is over."""
        for exchange in self._exchanges.values():
            exchange.connection_over(end)

    async def close(self) -> None:
        """GOAWAY and CONNECTION_CLOSE H3_NO_ERROR. Safe to call twice."""
        await self.leave(0)
