"""The upstream side of an HTTP tunnel whatever its version: takes all that the engine opens, keeps all that it asks.

An engine may reuse, pool or open connections as it likes, so a script never asks for a connection: it asks for the
request that carries its nonce. Everything that arrived is kept, also what nobody asked for: that is where smuggled
requests show up. See `harness.peer.http` for what all versions keep to.
"""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import EngineDeparted, PeerMismatch
from harness.evidence.transcript import UPSTREAM, Channel, Transcript
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.peer.http import MAX_BODY, MAX_REQUESTS, ConnectionEnd, ExchangeEnd, Fields, HttpClient, Lines
from harness.peer.http1_stream import NONCE_FIELD
from harness.wire.http1_message import Violation


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


@dataclass(frozen=True, slots=True)
class Fragment:
    """What came on a connection and never became a request."""

    raw_head: bytes
    what: str = "octets that are no request"

    def describe(self) -> str:
        """One line for a message."""
        return f"{len(self.raw_head)} {self.what}: {self.raw_head[:60]!r}"


class UpstreamExchange(Lines, ABC):
    """A request that arrived, and the answer to it. Its head is whole; its content may still be coming.

    `complete`: it ended as its version says; `aborted`: the engine reset or broke it off before; `claimed`: a script
    took it; `received`: octets of content that have arrived. `violations` are the rules that the engine broke in it. A
    request whose head breaks a rule is one all the same wherever one reading is left.

    A subclass sets these as frames arrive, gives content to `add`, and has `changed` told of all of it.
    """

    version: str
    """`http/1.1`, `h2` (also without TLS) or `h3`."""

    def __init__(self, changed: Changed) -> None:
        self.changed = changed
        self.violations: list[Violation] = []
        self.trailers: list[tuple[str, str]] = []
        self.complete = False
        self.aborted = False
        self.claimed = False
        self.received = 0
        self._pieces: deque[bytes] = deque()
        self._read = bytearray()

    # what was asked; `headers` is the fields in order, without pseudo-header fields

    @property
    @abstractmethod
    def method(self) -> str:
        """The method."""

    @property
    @abstractmethod
    def target(self) -> str:
        """The request-target as it came; on HTTP/2 and HTTP/3 `:path`."""

    @property
    @abstractmethod
    def authority(self) -> str | None:
        """Whom the request is for: `:authority`, else Host; on HTTP/1.1 Host. `None` where it says neither."""

    @property
    @abstractmethod
    def scheme(self) -> str | None:
        """`:scheme`; on HTTP/1.1 that of an absolute-form target, else `None`."""

    @property
    @abstractmethod
    def raw_head(self) -> bytes:
        """The header section: on HTTP/1.1 every octet, on the others one decoded line per field (`name: value` and LF),
        pseudo-header fields first as they came."""

    def carries(self, nonce: str) -> bool:
        """Whether the request is the one with `nonce`: in its field, or as a segment of its path."""
        return nonce in self.get_all(NONCE_FIELD) or nonce in self.target.partition("?")[0].split("/")

    @property
    def named(self) -> str:
        """The request in quotes, for a message."""
        return repr(f"{self.method} {self.target[:200]}")

    def describe(self) -> str:
        """One line for a message."""
        state = "" if self.complete else " (not complete)"
        return f"request {self.named} with {self.received} octets{state}"

    # content

    @abstractmethod
    def credit(self, count: int) -> None:
        """A script took `count` octets of content: the engine may send as many more."""

    @abstractmethod
    def how_it_broke(self) -> str:
        """How a request that is not complete ended, in words."""

    def add(self, data: bytes) -> None:
        """Content arrived (called by the connection)."""
        if data:
            self.received += len(data)
            self._pieces.append(data)

    @property
    def over(self) -> bool:
        """Whether no more content can come."""
        return self.complete or self.aborted

    async def _next_piece(self) -> bytes:
        async with deadline(f"content of {self.named} at the upstream"):
            await self.changed.until(lambda: bool(self._pieces) or self.over)
        if not self._pieces:
            return b""
        data = self._pieces.popleft()
        self.credit(len(data))
        return data

    async def read_some(self) -> bytes:
        """The next octets of the body, `b""` when no more can come; see `complete`."""
        data = await self._next_piece()
        self._read += data
        if len(self._read) > MAX_BODY:
            raise PeerMismatch("the request to end", f"more than {MAX_BODY} octets")
        return data

    async def body(self) -> bytes:
        """The whole body. Raises `PeerMismatch` when it stays incomplete."""
        data = await self.body_so_far()
        if not self.complete:
            raise PeerMismatch(
                f"the whole body of {self.named} at the upstream",
                f"{len(data)} octets, then {self.how_it_broke()}",
            )
        return data

    async def body_so_far(self) -> bytes:
        """The body up to its end or to the point where it broke off; `complete` says which."""
        while await self.read_some():
            pass
        return bytes(self._read)

    async def read_exactly(self, count: int) -> bytes:
        """Read until at least `count` octets of the body have come; gives all that were read so far."""
        while len(self._read) < count:
            if not await self.read_some():
                raise PeerMismatch(f"{count} octets of content at the upstream", f"{len(self._read)} octets")
        return bytes(self._read)

    async def digest(self) -> tuple[int, str]:
        """Size and SHA-256 (hex) of the rest of the body, of which nothing is kept: for large ones."""
        size, hashed = 0, hashlib.sha256()
        while data := await self._next_piece():
            size += len(data)
            hashed.update(data)
        return size, hashed.hexdigest()

    @abstractmethod
    async def ended(self) -> ExchangeEnd:
        """How the engine ended the exchange: `complete` once the request is whole and our answer is sent, or what came
        before that: its reset or stop of the stream with the code, or the end of the connection."""

    # answering; each raises `PeerMismatch` where the engine takes no more

    @abstractmethod
    async def informational(self, status: int, fields: Fields = ()) -> None:
        """Send an interim response."""

    @abstractmethod
    async def respond(
        self,
        status: int = 200,
        fields: Fields = (),
        body: bytes = b"",
        *,
        trailers: Fields = (),
        length: bool = True,
    ) -> None:
        """Send a whole response.

        Content-Length tells the length of `body`, also of an empty one, unless `fields` have one, the status has no
        content (1xx, 204, 304), or the length is to be unknown: `length=False`, or with `trailers`. HTTP/1.1 is chunked
        then. A HEAD request gets the fields alone.
        """

    @abstractmethod
    async def begin_response(self, status: int = 200, fields: Fields = ()) -> None:
        """Send the head of a response whose content follows by `send_content` and `finish`; of unknown length unless
        `fields` have a Content-Length."""

    @abstractmethod
    async def send_content(self, data: bytes) -> None:
        """Send content behind `begin_response`; waits until the engine takes it (credit, or the transport)."""

    @abstractmethod
    async def finish(self, trailers: Fields = ()) -> None:
        """End the response, with a trailer section where `trailers` are given."""

    @abstractmethod
    def break_off(self, code: int | None = None) -> None:
        """Break the exchange off, answered or not. HTTP/1.1: reset of the connection. HTTP/2: RST_STREAM with `code`
        (INTERNAL_ERROR). HTTP/3: RESET_STREAM, and STOP_SENDING where the request is not whole, with `code`
        (H3_INTERNAL_ERROR)."""


class HttpUpstreamConnection(ABC):
    """One connection that the engine opened, read in the background. `id` counts from 1 as they were opened.

    Made by `HttpUpstream.connect`; on byte streams as `cls(number, link, channel, owner, **own)`, `link` being the TLS
    peer or the stream itself, so that ALPN can choose among the classes. It gives each request to
    `owner.add(exchange)` once its head is whole (and resets what is not taken), and calls `owner.changed.tell()`
    whenever anything changed.
    """

    id: int
    version: str
    channel: Channel
    requests: Sequence[UpstreamExchange]
    violations: list[Violation]
    """The rules that the engine broke on it outside of any request."""

    @abstractmethod
    async def run(self) -> None:
        """Read until the end (the background task)."""

    @abstractmethod
    def fragments(self) -> list[Fragment]:
        """What came and never became a request: octets that are no HTTP of this version, a field section that is none.
        What connections say on their own account (preface, SETTINGS, PING) is none: an engine may open one ahead."""

    @abstractmethod
    async def closed(self) -> ConnectionEnd:
        """How the engine ends this connection. Raises `DeadlineExpired`."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection as a server does that is done (GOAWAY first where the version has it)."""

    @abstractmethod
    def abort(self) -> None:
        """Reset the connection (TCP RST; on QUIC silence)."""

    @abstractmethod
    async def shut(self) -> None:
        """Let the link go, without a step in the transcript; the scene is over. Safe to call twice."""


class HttpUpstream(ABC):
    """The upstream of one tunnel. Takes every connection as soon as it arrives; `connect` makes HTTP of it.

    `failed` says where that did not work. A subclass gives `connect`, its `version`, and narrower types of `request`,
    `requests_seen` and `connections`. `OPTIONS` are the keywords that `scene.http_upstream` may give to its
    constructor.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    version: str
    """`http/1.1`, `h2` or `h3`; with TLS what the newest connection negotiated, before the first the empty string."""
    requests_seen: Sequence[UpstreamExchange]
    """Every request whose head is whole, taken by a script or not, in the order of their arrival."""
    connections: Sequence[HttpUpstreamConnection]

    def __init__(self, queue: UpstreamQueue, transcript: Transcript, name: str = "main") -> None:
        self.name = name
        self.changed = Changed()
        self.failed: list[str] = []
        self._requests: list[Any] = []
        self._connections: list[Any] = []
        self.requests_seen = self._requests
        self.connections = self._connections
        self._queue = queue
        self._transcript = transcript
        self._opened = 0
        self._tasks = {asyncio.get_running_loop().create_task(self._accept())}

    async def _accept(self) -> None:
        while True:
            incoming = await self._queue.get()
            self._opened += 1
            number = self._opened
            channel = self._transcript.channel(UPSTREAM, "upstream", f"upstream-{self.name}-{number}")
            channel.got("stream opened", detail=f"source {incoming.source}" if incoming.source else "")
            incoming.flow.tap.label(channel.name)
            self._tasks.add(asyncio.get_running_loop().create_task(self._serve(number, incoming, channel)))

    async def _serve(self, number: int, incoming: Incoming, channel: Channel) -> None:
        try:
            connection = await self.connect(number, incoming, channel)
        except (EngineDeparted, LinkReset) as error:
            channel.got("no connection", detail=str(error))
            self.failed.append(str(error))
            incoming.flow.abort()
            self.changed.tell()
            return
        self._connections.append(connection)
        self.changed.tell()
        await connection.run()

    @abstractmethod
    async def connect(self, number: int, incoming: Incoming, channel: Channel) -> HttpUpstreamConnection:
        """HTTP on a stream or datagram channel that the engine opened, handshakes below it done. Raises what a peer
        raises where that does not come about; the channel is reset then."""

    def add(self, request: UpstreamExchange) -> bool:
        """A request arrived (called by its connection); false when there are too many."""
        if len(self._requests) >= MAX_REQUESTS:
            return False
        self._requests.append(request)
        return True

    async def request(self, nonce: str | None = None) -> UpstreamExchange:
        """The oldest request with `nonce` that no script took yet; without `nonce` the oldest of all.

        The head is whole, the body may still be coming. Raises `DeadlineExpired`.
        """
        found: UpstreamExchange = await self._claim(nonce)
        return found

    async def _claim(self, nonce: str | None) -> Any:
        awaited = f"the request with nonce {nonce}" if nonce else "a request"
        found: list[UpstreamExchange] = []

        def arrived() -> bool:
            found[:] = [seen for seen in self.requests_seen if not seen.claimed and (not nonce or seen.carries(nonce))]
            return bool(found)

        async with deadline(f"{awaited} at the upstream of {self.name!r}"):
            await self.changed.until(arrived)
        found[0].claimed = True
        return found[0]

    def seen(self, nonce: str) -> Sequence[UpstreamExchange]:
        """Every request that arrived with `nonce`, taken or not."""
        return [request for request in self.requests_seen if request.carries(nonce)]

    async def connection(self, number: int) -> HttpUpstreamConnection:
        """The connection with this number, counted from 1 as the engine opened them."""
        found: HttpUpstreamConnection = await self._numbered(number)
        return found

    async def _numbered(self, number: int) -> Any:
        async with deadline(f"connection {number} at the upstream of {self.name!r}"):
            await self.changed.until(lambda: any(item.id == number for item in self.connections))
        return next(item for item in self.connections if item.id == number)

    @property
    def unexpected(self) -> list[UpstreamExchange | Fragment]:
        """Requests that no script asked for, and what never became a request. A connection without either is none of
        them: an engine may open one ahead."""
        strays: list[UpstreamExchange | Fragment] = [seen for seen in self.requests_seen if not seen.claimed]
        for connection in self.connections:
            strays += connection.fragments()
        return strays

    async def close(self) -> None:
        """Close every connection and stop accepting. What a background task met that is ours is raised here."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            await connection.shut()
        for incoming in self._queue.drain():
            incoming.flow.abort()
        for result in results:
            if isinstance(result, Exception):
                raise result


async def probe(client: HttpClient, upstream: HttpUpstream, nonce: str) -> None:
    """One plain GET through the tunnel, whatever the versions: the upstream answers with the nonce, the client must get
    it. Raises `PeerMismatch` when anything else comes, `DeadlineExpired`."""
    asking = await client.begin("GET", f"/{nonce}", nonce=nonce)
    request = await upstream.request(nonce)
    await request.respond(200, body=nonce.encode())
    response = await asking.response()
    if response.status != 200 or response.body != nonce.encode():
        raise PeerMismatch(f"200 with the nonce {nonce}", f"{response.describe()}: {response.body[:60]!r}")
