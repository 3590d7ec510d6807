"""Whose response it is, and when a connection goes on: reuse on both legs, pipelining, responses without content."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    RequestHead,
    ResponseHead,
    members,
    values,
    without,
)
from reference_engine.http.exchange import Exchange
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_downstream import H1Connection
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.h1_upstream import H1Upstream
from reference_engine.http.pool import Pool
from reference_engine.mutants._http import (
    change_interim_fields,
    change_response_fields,
    restart_client,
    restart_server,
    use_client_codec,
    use_connection,
    use_exchange,
    use_pool,
    use_server_codec,
)
from reference_engine.mutants.registry import Reached, mutant
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import Tunnel

# Reuse of connections: RFC 9112 sections 9.2, 9.3 and 9.6


@mutant("http-five-requests", ("RFC9112-9.3-1",), "ends a client connection after five requests")
def _five_requests(parts: Parts, reached: Reached) -> None:
    class Tired(H1Connection):
        """Counts."""

        served = 0

        async def _serve_one(self) -> bool:
            self.served += 1
            if self.served == 5:
                reached()
                self.draining = True
            return await super()._serve_one()

    use_connection(parts, Tired)


@mutant(
    "http-pipelined-out-of-order",
    ("RFC9112-9.3.2-1", "HTTP-VER-013"),
    "answers the second of two pipelined requests first",
)
def _out_of_order(parts: Parts, reached: Reached) -> None:
    class Overtaking(H1ServerCodec):
        """A double that serves what arrives together in another order."""

        def receive(self, data: bytes) -> None:
            heads = data.split(b"\r\n\r\n")
            if len(heads) > 2 and all(head.startswith(b"GET ") for head in heads[:2]):
                reached()
                heads[0], heads[1] = heads[1], heads[0]
                data = b"\r\n\r\n".join(heads)
            super().receive(data)

    use_server_codec(parts, Overtaking)


@mutant("http-pipelined-lost", ("RFC9112-9.3.2-1", "HTTP-VER-013"), "forgets what came behind a request")
def _pipelined_lost(parts: Parts, reached: Reached) -> None:
    class Losing(H1ServerCodec):
        """Starts each cycle with an empty buffer."""

        def next_cycle(self) -> None:
            super().next_cycle()
            if self._gate.drain():
                reached()

    use_server_codec(parts, Losing)


@mutant("http-close-ignored", ("RFC9112-9.6-1", "RFC9112-9.6-2"), "goes on behind a request that said close")
def _close_ignored(parts: Parts, reached: Reached) -> None:
    class Deaf(H1ServerCodec):
        """A double of h11 that does not know close."""

        closing = False

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            self.closing = isinstance(event, End) and b"close" in members(
                self.request.fields if self.request else [], b"connection"
            )
            return super().send(event)

        @property
        def reusable(self) -> bool:
            return self.closing or super().reusable

        def next_cycle(self) -> None:
            if not self.closing:
                super().next_cycle()
                return
            reached()
            self.closing = False
            restart_server(self)

    use_server_codec(parts, Deaf)


@mutant("http-close-unsaid", ("RFC9112-9.6-3",), "ends a connection without close in the last response")
def _close_unsaid(parts: Parts, reached: Reached) -> None:
    class Silent(H1ServerCodec):
        """A double of h11 that does not say close."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead) and b"Connection: close\r\n" in octets:
                reached()
                return octets.replace(b"Connection: close\r\n", b"")
            return octets

    use_server_codec(parts, Silent)


class _Careless(H1ClientCodec, ABC):
    """A double of h11 that goes on although something speaks against it."""

    @abstractmethod
    def careless(self) -> bool:
        """Whether the connection is used again against the rule."""

    @property
    def reusable(self) -> bool:
        return super().reusable or self.careless()

    def next_cycle(self) -> None:
        if super().reusable:
            super().next_cycle()
        else:
            restart_client(self)


@mutant(
    "http-upstream-close-ignored",
    ("RFC9112-9.6-4",),
    "sends the next request on a connection whose upstream has said close",
)
def _upstream_close_ignored(parts: Parts, reached: Reached) -> None:
    class Careless(_Careless):
        """Goes on behind close."""

        def careless(self) -> bool:
            if not (self._last and self.over and not self._eof and not self._gate.pending):
                return False
            reached()
            return True

    use_client_codec(parts, Careless)


class _Keeping(Pool):
    """Keeps what a client has left."""

    def release(self, connection: H1Upstream) -> None:
        super().release(connection)
        if connection in self._timers and not connection.codec.over:
            connection.inbox.on_data = None


class _Leaving(Exchange):
    """Lets the upstream be when its client leaves."""

    def client_gone(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        try:
            await super().run()
        except asyncio.CancelledError:
            if not self._gone:
                raise

    async def _let_go(self) -> None:
        if self._gone and isinstance(self._up, H1Upstream):
            up, self._up = self._up, None
            self._edge.upstreams.pool.release(up)
        await super()._let_go()


@mutant(
    "http-unfinished-reused",
    ("RFC9112-9.3-3", "RFC9112-9.2-1"),
    "sends the next request on a connection whose response is still coming",
)
def _unfinished_reused(parts: Parts, reached: Reached) -> None:
    class Careless(_Careless):
        """Goes on inside a response, and before it."""

        def careless(self) -> bool:
            if self.over or self._eof or not self._method:
                return False
            reached()
            return True

    use_client_codec(parts, Careless)
    use_pool(parts, _Keeping)
    use_exchange(parts, _Leaving)


@mutant(
    "http-leftover-is-a-response",
    ("RFC9112-6.3-15", "RFC9110-9.3.2-1"),
    "reads octets behind a response as the answer to the next request",
)
def _leftover_response(parts: Parts, reached: Reached) -> None:
    class Careless(_Careless):
        """Goes on with octets left over."""

        def careless(self) -> bool:
            if not (self.over and self._gate.pending and not self._eof):
                return False
            reached()
            return True

    use_client_codec(parts, Careless)


@mutant("http-unsolicited-kept", ("RFC9112-9.2-2",), "takes what comes on an idle connection for the next answer")
def _unsolicited_kept(parts: Parts, reached: Reached) -> None:
    class Trusting(Pool):
        """Leaves idle connections alone."""

        def release(self, connection: H1Upstream) -> None:
            super().release(connection)
            connection.inbox.on_data = None

        async def acquire(self, tunnel: Tunnel, source: Address | None, *, reuse: bool) -> H1Upstream:
            idle = self._idle.get((tunnel.id, source.host if source else "")) if reuse else None
            if idle and idle[-1].inbox.pending:
                reached()
                connection = idle[-1]
                self._forget(connection)
                connection.codec.next_cycle()
                return connection
            return await super().acquire(tunnel, source, reuse=reuse)

    use_pool(parts, Trusting)


# Responses without content: RFC 9112 section 6.3, RFC 9110 sections 8.6 and 9.3.2


@mutant("http-head-waits-for-content", ("RFC9112-6.3-1",), "waits for the content of a response to HEAD")
def _head_waits(parts: Parts, reached: Reached) -> None:
    class Waiting(H1ClientCodec):
        """A double of h11 that forgets the method."""

        def send(self, event: RequestHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, RequestHead) and event.method == b"HEAD":
                reached()
                self._method = b"GET"
                self._h11._request_method = b"GET"
            return octets

    use_client_codec(parts, Waiting)


@mutant("http-204-waits-for-content", ("RFC9112-6.3-1",), "waits for the content of a 204 or a 304")
def _204_waits(parts: Parts, reached: Reached) -> None:
    class Waiting(H1ClientCodec):
        """A double of h11 that takes every status for 200."""

        bare: int | None = None

        def receive(self, data: bytes) -> None:
            for status in (204, 304):
                line = b"HTTP/1.1 %d " % status
                if data.startswith(line):
                    self.bare = status
                    data = data.replace(line, b"HTTP/1.1 200 ", 1)
            super().receive(data)

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead) and self.bare is not None:
                reached()
                event.status, self.bare = self.bare, None
            return event

    use_client_codec(parts, Waiting)


@mutant("http-204-with-length", ("RFC9110-8.6-2",), "forwards the Content-Length of a 204")
def _length_on_204(parts: Parts, reached: Reached) -> None:
    def change(fields: Fields, head: ResponseHead, _: bytes) -> Fields | None:
        lengths = values(head.fields, b"content-length")
        return [*fields, (b"Content-Length", lengths[0])] if head.status == 204 and lengths else None

    change_response_fields(parts, reached, change)


@mutant("http-204-with-coding", ("RFC9112-6.1-4",), "says chunked in a 204")
def _coding_on_204(parts: Parts, reached: Reached) -> None:
    def change(fields: Fields, head: ResponseHead, _: bytes) -> Fields | None:
        return [*fields, (b"Transfer-Encoding", b"chunked")] if head.status == 204 else None

    change_response_fields(parts, reached, change)


@mutant("http-1xx-with-length", ("RFC9110-8.6-2", "RFC9112-6.1-4"), "forwards the framing fields of a 103")
def _length_on_1xx(parts: Parts, reached: Reached) -> None:
    def change(fields: Fields, head: InformationalHead) -> Fields | None:
        framing = [line for line in head.fields if line[0].lower() in (b"content-length", b"transfer-encoding")]
        return [*fields, *framing] if framing else None

    change_interim_fields(parts, reached, change)


@mutant(
    "http-empty-length",
    ("RFC9110-8.6-6", "RFC9110-8.6-7", "HTTP-HDR-015"),
    "says Content-Length: 0 where a response to HEAD or a 304 has no content",
)
def _empty_length(parts: Parts, reached: Reached) -> None:
    def change(fields: Fields, head: ResponseHead, method: bytes) -> Fields | None:
        if not (method == b"HEAD" or head.status == 304):
            return None
        return [*without(fields, {b"content-length"}), (b"Content-Length", b"0")]

    change_response_fields(parts, reached, change)


@mutant("http-304-without-etag", ("RFC9110-15.4.5-1",), "drops the validators of a 304")
def _bare_304(parts: Parts, reached: Reached) -> None:
    def change(fields: Fields, head: ResponseHead, _: bytes) -> Fields | None:
        return without(fields, {b"etag", b"last-modified"}) if head.status == 304 else None

    change_response_fields(parts, reached, change)
