"""What a scripted HTTP client and a scripted upstream offer whatever their version: HTTP/1.1, HTTP/2, HTTP/3.

A case that is to run over several pairs of versions is written against these classes alone. The peers of one version
offer more, frame by frame or octet by octet: `harness.peer.http1`, `.http2`, `.http3`. The upstream's side is in
`harness.peer.http_upstream`.

What all of them keep to:

- Fields are pairs of name and value, `str` as Latin-1. HTTP/1.1 sends names as they are given, HTTP/2 and HTTP/3 in
  lower case (RFC 9113 section 8.2, RFC 9114 section 4.2). What is read is told as it came; `get` does not mind the
  case. Pseudo-header fields are never among `headers`.
- Nothing is checked that a script says: a field that the version forbids goes out as it is given.
- What is read is read strictly. A rule that the engine broke is a `Violation` with its section (`9113 section 8.2.1`),
  kept beside the message that broke it, and reading goes on wherever one reading is left.
- Every wait has a deadline (`DeadlineExpired`). What the engine does instead of what is awaited is `PeerMismatch`; a
  method that says it gives both does not raise for the one or the other.
- What a script does not read is not credited: HTTP/2 and HTTP/3 give flow-control credit for what the script took,
  HTTP/1.1 stops to read the connection. Only what is no content is read ahead.
- All that grows is bounded: `MAX_BODY`, `MAX_REQUESTS`, `MAX_VIOLATIONS`. What goes beyond is `PeerMismatch`, or a
  reset where nobody waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.wire.http1_message import Violation
from harness.wire.http1_write import Text

Fields = Sequence[tuple[Text, Text]]
"""Field lines to send, in order; `str` is written as Latin-1."""
MAX_BODY = 1 << 28
"""The most octets of content that a peer keeps of one message (256 MiB)."""
MAX_REQUESTS = 10_000
"""Requests of one upstream; the exchange, on HTTP/1.1 the connection, that brings one more is reset."""


class Lines:
    """Reading access to `headers`, for all that has some."""

    headers: list[tuple[str, str]]

    def get_all(self, name: str) -> list[str]:
        """The values of every line called `name`, whatever the case, in order."""
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The value of the first line called `name`, whatever the case."""
        return next(iter(self.get_all(name)), None)


@dataclass(frozen=True, slots=True)
class ExchangeEnd:
    """How the engine ended an exchange.

    `kind`:
    `complete`: both messages are whole (only `UpstreamExchange.ended` gives it);
    `reset`: this exchange alone was reset, `code` says how (RST_STREAM, RESET_STREAM, STOP_SENDING); never on HTTP/1.1;
    `goaway`: GOAWAY said that it was not and will not be processed, with `code` (HTTP/3: the code of what followed, if
    any);
    `connection`: the connection ended first; `code` is that of CONNECTION_CLOSE or of the last GOAWAY, if any.
    `detail` is the same in words of the version (`RST_STREAM CANCEL`, `FIN`), for messages alone.
    """

    kind: str
    code: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        return self.detail or (self.kind if self.code is None else f"{self.kind} with code {self.code:#x}")


@dataclass(frozen=True, slots=True)
class ConnectionEnd:
    """How the engine ended a connection.

    `clean`: as its transport provides for it: close_notify or FIN; CONNECTION_CLOSE on QUIC, whatever the code. `code`
    is the error code that was said: of the last GOAWAY (HTTP/2), of CONNECTION_CLOSE (HTTP/3), else `None`; 0 and 0x100
    are "no error". `detail` is the same in words.
    """

    clean: bool
    code: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        return self.detail or ("a clean end" if self.clean else "a reset")


@dataclass(slots=True)
class Informational(Lines):
    """An interim response (1xx)."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Response(Lines):
    """A final response, with the interim ones before it.

    The body grows while it is read (`ClientExchange.read_some`). `complete`: it ended as its version says. `end`: how
    the engine ended the exchange where that came before `complete`, else `None`. `trailers` are there once it is
    complete. `violations` are the rules that it broke, its interim responses and trailers included.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    informational: list[Informational] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    complete: bool = False
    end: ExchangeEnd | None = None

    @property
    def body(self) -> bytes:
        """The content so far, framing removed."""
        return bytes(self.content)

    def describe(self) -> str:
        """One line for an `actual`."""
        part = "" if self.complete else ", incomplete"
        ended = f", then {self.end}" if self.end else ""
        return f"{self.status} with {len(self.content)} octets{part}{ended}"


class ClientExchange(ABC):
    """One request of a client and its response. `method`, `target`, `nonce` are what was asked for; `id` is the stream
    (`None` on HTTP/1.1, where exchanges of one connection are answered in order and must be read in order)."""

    client: HttpClient
    method: str
    target: str
    nonce: str | None
    id: int | None

    # sending

    @abstractmethod
    async def send_content(self, data: bytes) -> None:
        """Send more content, after `begin(end=False)`; waits until the other side takes it (credit, or the transport).
        HTTP/1.1: one chunk, or the octets where the script gave a Content-Length. Raises `PeerMismatch` where the
        engine takes no more (it reset the exchange, stopped it, or closed)."""

    async def offer_content(self, data: bytes) -> bool:
        """As `send_content`, but false where the engine takes no more: what it answered can still be read."""
        try:
            await self.send_content(data)
        except PeerMismatch:
            return False
        return True

    @abstractmethod
    async def finish(self, trailers: Fields = ()) -> None:
        """End the request, with a trailer section where `trailers` are given. HTTP/1.1: the last chunk; nothing to send
        behind a Content-Length. Raises as `send_content`."""

    @abstractmethod
    def cancel(self) -> None:
        """Give the exchange up. HTTP/1.1: reset of the connection. HTTP/2: RST_STREAM CANCEL. HTTP/3: RESET_STREAM
        where our half is open and STOP_SENDING, both H3_REQUEST_CANCELLED. The connection of the latter two lives on;
        what still arrives for the exchange is dropped."""

    @property
    @abstractmethod
    def stopped(self) -> int | None:
        """The code with which the engine asked for no more content while its response stands: RST_STREAM behind a
        complete response (RFC 9113 section 8.1), STOP_SENDING (RFC 9114 section 4.1). `None` on HTTP/1.1."""

    # reading

    @abstractmethod
    async def informational(self) -> Informational:
        """The next interim response; each is given once. Raises `PeerMismatch` when a final response (which can still
        be read) or the end comes instead."""

    @abstractmethod
    async def response_head(self) -> Response:
        """The head of the final response; the same object on later calls. Raises `PeerMismatch` when the exchange ends
        without one."""

    @abstractmethod
    async def read_some(self, response: Response) -> bytes:
        """The next octets of the body, which are added to it: `b""` once the response is complete or the exchange has
        ended, which `complete` and `end` say then."""

    async def response(self) -> Response:
        """The final response, read to its end; it may be incomplete, which `complete` says. Raises as
        `response_head`."""
        response = await self.response_head()
        while await self.read_some(response):
            pass
        return response

    async def outcome(self) -> Response | ExchangeEnd:
        """The final response, whole or broken off, or how the exchange ended without one. For rules that permit
        both."""
        got = await self.head_or_end()
        return got if isinstance(got, ExchangeEnd) else await self.response()

    @abstractmethod
    async def head_or_end(self) -> Response | ExchangeEnd:
        """As `response_head`, but gives the end where the exchange ends without a final response."""


class HttpClient(ABC):
    """One connection toward the endpoint. `version` is what it speaks, `host` what its requests are for unless they say
    otherwise, `violations` the rules that the engine broke outside of any response.

    The scene makes one as `cls(peer, channel, host=.., **own)` and awaits `start()`: `peer` is the connection below,
    its handshake done: a TLS peer, or any `ByteStream` (HTTP/1.1, HTTP/2), or a `QuicPeer` (HTTP/3). `OPTIONS` are the
    names of `own`, the keywords that this class takes itself: what else `scene.http_client` is given goes to TLS or
    QUIC.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    BELOW: ClassVar[Mapping[str, Any]] = {}
    """Keywords for the connection below, where a script gives no others."""
    version: str
    """`http/1.1`, `h2` or `h3`."""
    host: str
    channel: Channel
    violations: list[Violation]

    async def start(self) -> None:  # noqa: B027 - HTTP/1.1 has nothing to say first
        """Say what a client of this version says first (preface, SETTINGS, control streams), and begin to read."""

    @abstractmethod
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
    ) -> ClientExchange:
        """Send a request, or the beginning of one. HTTP/2 and HTTP/3 wait for a stream (the other side's limit).

        `authority` (default: `host`) is Host, or `:authority`; `:scheme` is https. `fields` follow as given, then the
        field `Edgecase-Nonce` with `nonce`.

        - `body=None`: no content and no framing field.
        - `body` given, also `b""`: Content-Length, unless `fields` have one.
        - the same with `length=False`: of unknown length: chunked on HTTP/1.1, no content-length on the others.
        - `end=False`: `body`, if any, is the first content; `send_content` and `finish` follow. Of unknown length
          unless `fields` have a Content-Length.

        `trailers` (only with `end`) make the length unknown. CONNECT and Upgrade are not for this method.
        """

    @abstractmethod
    async def ping(self) -> None:
        """A round trip with the engine on this connection: what was sent before has been read (PING and its answer).
        HTTP/1.1 has none: nothing happens. Raises `PeerMismatch` when the connection ends instead."""

    @abstractmethod
    async def closed(self) -> ConnectionEnd:
        """How the engine ends the connection. What arrives until then can still be read on HTTP/2 and HTTP/3; on
        HTTP/1.1 a response that nobody awaits is `PeerMismatch`."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection as a client does that is done (GOAWAY first where the version has it), and let it go.
        Safe to call twice; the scene calls it."""

    @abstractmethod
    def abort(self) -> None:
        """Reset the connection (TCP RST; on QUIC silence)."""
