"""The two sides of one exchange, whatever the version: what an adapter of a codec must do for `Exchange`.

    Downstream   the client's side: a request is there, a response is wanted
    Upstream     the upstream's side: takes one request, gives its responses
    Multiplexed  an upstream connection that carries many `Upstream`s at once (HTTP/2, HTTP/3)

Common to both sides. Events are those of `events`, in their order. Whatever is awaited inside `receive`, `send` and
`flush` is the backpressure: an adapter grants its peer credit for octets that were handed over and for no others, so a
slow far side stalls its own stream and nothing else. A peer's octets never raise anything but what is named here.
`StreamReset` says that a side is gone. An adapter knows no rule on what crosses the edge: fields come and go as they
are, and the adapter drops or adds only what the syntax of its own version demands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from reference_engine.http.errors import Fault
from reference_engine.http.events import Data, End, Event, InformationalHead, RequestHead, Reset, ResponseHead
from reference_engine.http.syntax import Framing
from reference_engine.relay.stream import Address, ByteStream


class Watcher(Protocol):
    """Who wants to know that the client left."""

    def client_gone(self) -> None:
        """The client left."""


class Downstream(ABC):
    """The client's side of one exchange. It exists once the head of a request is there and is in order; a request that
    is malformed never becomes one (it is refused, or its stream is reset, by the codec)."""

    head: RequestHead
    """With `authority` and `version` set. HTTP/2 and HTTP/3: names in lower case, no pseudo-header among the fields,
    Cookie joined to one line (RFC 9113 section 8.2.3)."""
    framing: Framing
    """`none`: the head was the end of the stream, or has no content in HTTP/1.1. `length`: a Content-Length was given,
    also 0 where the end is still to come. `chunked`: content of unknown length, perhaps empty, perhaps with trailers;
    an HTTP/1.1 upstream gets it in chunks."""
    peer: Address | None
    half_open: bool
    """Whether the transport below can be half-closed."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the request has arrived as a whole."""

    @abstractmethod
    async def receive(self) -> list[Data | End | Reset]:
        """The next events of the request's content, one at least; the last of all is `End` or `Reset`.

        Called again only when what was handed over has gone up, so this is where credit is given back. Raises
        ProtocolFault for content that is malformed or too slow. Safe to cancel while it waits.
        """

    @abstractmethod
    def put(self, event: InformationalHead | ResponseHead | Data | End) -> None:
        """Append an event of the response; it leaves with the next `flush`. Fields may still hold what only HTTP/1.1
        knows (Connection, Transfer-Encoding, a reason phrase): other versions leave it out, and `Data` of a response to
        HEAD as well."""

    @abstractmethod
    async def flush(self) -> None:
        """Write what was put, and wait while the client is slow. Raises StreamReset when the client is gone."""

    async def respond(self, head: ResponseHead, content: bytes) -> None:
        """A whole response of the edge's own; one to HEAD goes without its content. Raises StreamReset."""
        self.put(head)
        if self.head.method != b"HEAD":
            self.put(Data(content))
        self.put(End())
        await self.flush()

    @abstractmethod
    async def refuse(self, fault: Fault, *, close: bool = False) -> None:
        """Answer on the edge's own account: a whole response. `close`: what follows in HTTP/1.1 cannot be trusted; a
        multiplexed connection goes on. Raises StreamReset."""

    @abstractmethod
    async def truncate(self, reason: str) -> None:
        """End a response that was begun and cannot be completed, so that the client can tell (RFC 9112 section 8, RFC
        9113 section 8.1, RFC 9114 section 4.1): a reset of the stream with an error where streams are multiplexed."""

    @abstractmethod
    def close_after(self) -> None:
        """The rest of the request will not be read. HTTP/1.1 says close and ends behind the response; a multiplexed
        stream is told behind the response to send no more (RFC 9113 section 8.1, RFC 9114 section 4.1), which an
        adapter does anyway when an exchange is over while `complete` is false."""

    @abstractmethod
    def watch(self, watcher: Watcher | None) -> None:
        """Tell `watcher` once when the client leaves (its connection broke, its stream was reset), also when that has
        happened already: then soon, not within this call. None ends that."""

    @abstractmethod
    def raw(self) -> ByteStream:
        """The connection, or the stream, as a plain byte stream from the first octet behind the request."""


class Upstream(ABC):
    """The upstream's side of one exchange: one request goes out, its responses come in.

    Its owner is one `Exchange`, which calls `send` for the head first, reads with `next_event` and `receive` in one
    task and may send content in another, and calls `release` once, last.
    """

    fresh: bool
    """Whether this request is the first on its connection: only a reused connection may have been closing."""
    unprocessed: bool = False
    """Whether the upstream has said that it did nothing with the request: REFUSED_STREAM, a GOAWAY below the stream,
    H3_REQUEST_REJECTED (RFC 9113 section 8.7, RFC 9114 section 4.1.1)."""
    carrier: ByteStream | None = None
    """The byte stream below where `raw` works; None where a connection carries more than this exchange."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing more can come: the connection (HTTP/1.1) or the stream has ended or broken."""

    @property
    @abstractmethod
    def heard(self) -> bool:
        """Whether anything came for this request."""

    @property
    @abstractmethod
    def closing(self) -> bool:
        """Whether the upstream has said or shown that it reads nothing of this request any more: close in HTTP/1.1.
        A GOAWAY that lets the stream finish is no such thing."""

    @abstractmethod
    async def send(self, *events: RequestHead | Data | End) -> None:
        """Write events in one go, and wait while the upstream is slow. The head has `authority` and `scheme`; its
        fields are those of an HTTP/1.1 message, Host among them. Raises StreamReset when the upstream takes no more of
        this request; what it said before may still be read."""

    @abstractmethod
    def next_event(self) -> Event | None:
        """The next event of the response if it is already here. See `receive`."""

    @abstractmethod
    async def receive(self) -> Event:
        """The next event of the response: InformationalHead, ResponseHead, Data, End, or `Reset`, which is every kind
        of trouble and the last event; nothing is raised.

        The reasons of a Reset are rows of `errors.CAUSES`: `upstream-malformed` (a response that breaks a rule),
        `upstream-closed` (a clean end before the head), `upstream-reset` (it broke before the head),
        `upstream-truncated` (either, behind the head), `upstream-silent` (the time of `arm` is over).
        """

    @abstractmethod
    def arm(self, seconds: float) -> None:
        """From now on `receive` may wait so long altogether, until `disarm`. A later call counts from then."""

    @abstractmethod
    def disarm(self) -> None:
        """Take the deadline back, whether it is over or not."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Break the request off at once: the upstream must not take it for whole (a reset of the connection in
        HTTP/1.1, of the stream with CANCEL else). A `receive` or `send` that waits returns. Safe to call twice."""

    @abstractmethod
    def raw(self) -> ByteStream:
        """The connection as a plain byte stream, from the first octet behind the response head."""

    @abstractmethod
    def release(self) -> None:
        """The exchange is over. What is not complete is broken off as `abort` does; the connection, where it is in
        order, serves others. Nothing is called on this object afterwards."""

    async def leave(self) -> None:
        """Instead of `release`, where the connection ended by itself and the request goes out again elsewhere."""
        self.release()


class Multiplexed(ABC):
    """One upstream connection with many exchanges at once; `reference_engine/http/shared.py` keeps them.

    It is made when the connection below is open, perhaps before the peer has said anything. It calls `changed`
    whenever one of the properties here may have another value.
    """

    changed: Callable[[], None]
    """Set by the keeper before it begins anything; made as a function that does nothing."""

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Whether it may ever take another request: open, no GOAWAY either way, stream numbers left."""

    @property
    @abstractmethod
    def room(self) -> bool:
        """Whether it takes one now: below the peer's limit of streams. Before the peer's settings are known it has room
        for one."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether the peer's settings are known."""

    @property
    @abstractmethod
    def active(self) -> int:
        """Exchanges that are not over."""

    @abstractmethod
    def begin(self) -> Upstream:
        """A place for one request; only with `room`. It counts in `active` until its `release`."""

    @abstractmethod
    async def close(self) -> None:
        """Say that there is no further request, and end the connection, cleanly where nothing is active. Safe to call
        twice."""
