"""Bodies in motion: content that is held back, sources that nobody slows down, clients that leave, limits of time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reference_engine.config import Settings
from reference_engine.http.errors import Fault
from reference_engine.http.events import Data, End, Event, InformationalHead, RequestHead, Reset, ResponseHead
from reference_engine.http.exchange import Exchange
from reference_engine.http.forward import Target
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_downstream import H1Connection
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.h1_upstream import H1Upstream
from reference_engine.http.leg import Upstream
from reference_engine.http.pool import Pool
from reference_engine.mutants._http import (
    use_client_codec,
    use_connection,
    use_exchange,
    use_pool,
    use_server_codec,
)
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tunnel.model import Tunnel

# Streaming: HTTP-STREAM-001 and -002


@mutant("http-stream-response-held", ("HTTP-STREAM-001",), "holds a response until it is complete")
def _response_held(parts: Parts, reached: Reached) -> None:
    class Holding(H1ServerCodec):
        """Writes a response in one piece."""

        held = b""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            self.held += super().send(event)
            if isinstance(event, Data):
                reached()
            if isinstance(event, ResponseHead | Data):
                return b""
            octets, self.held = self.held, b""
            return octets

    use_server_codec(parts, Holding)


@mutant("http-stream-response-blocks", ("HTTP-STREAM-001",), "holds a response until there are 4 KiB of it")
def _response_blocks(parts: Parts, reached: Reached) -> None:
    class Blocking(H1ServerCodec):
        """Writes in blocks."""

        held = b""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = self.held + super().send(event)
            self.held = b""
            if isinstance(event, Data) and len(octets) < 4096:
                reached()
                self.held, octets = octets, b""
            return octets

    use_server_codec(parts, Blocking)


@mutant("http-stream-request-held", ("HTTP-STREAM-002",), "holds a request until it is complete")
def _request_held(parts: Parts, reached: Reached) -> None:
    class Holding(H1ClientCodec):
        """Writes a request in one piece."""

        held = b""

        def send(self, event: RequestHead | Data | End) -> bytes:
            self.held += super().send(event)
            if isinstance(event, Data):
                reached()
            if not isinstance(event, End):
                return b""
            octets, self.held = self.held, b""
            return octets

    use_client_codec(parts, Holding)


# Backpressure: HTTP-STREAM-004


class _Queue:
    """Writes in the background, in order, however much is waiting."""

    def __init__(self, stream: ByteStream, reached: Reached) -> None:
        self._stream = stream
        self._reached = reached
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def put(self, data: bytes) -> None:
        """Write `data` some time."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())
        if not self._waiting.empty():
            self._reached()
        self._waiting.put_nowait(data)

    async def _drain(self) -> None:
        try:
            while True:
                await self._stream.write(await self._waiting.get())
                self._waiting.task_done()
        except StreamReset:
            return

    async def settled(self) -> None:
        """Until everything is written."""
        if self._task is not None:
            joining = asyncio.ensure_future(self._waiting.join())
            await asyncio.wait({joining, self._task}, return_when=asyncio.FIRST_COMPLETED)
            joining.cancel()


@mutant("http-stream-no-pressure-up", ("HTTP-STREAM-004",), "takes a response as fast as it comes, into memory")
def _no_pressure_on_upstream(parts: Parts, reached: Reached) -> None:
    class Greedy(H1Connection):
        """Never waits for its client."""

        queue: _Queue | None = None

        async def write(self, data: bytes) -> None:
            self.queue = self.queue or _Queue(self.stream, reached)
            self.queue.put(data)

        async def _serve_one(self) -> bool:
            more = await super()._serve_one()
            if self.queue is not None:
                await self.queue.settled()
            return more

    use_connection(parts, Greedy)


@mutant("http-stream-no-pressure-down", ("HTTP-STREAM-004",), "takes a request as fast as it comes, into memory")
def _no_pressure_on_client(parts: Parts, reached: Reached) -> None:
    class Greedy(Pool):
        """Hands out connections that never wait for their upstream."""

        async def acquire(self, tunnel: Tunnel, source: Address | None, *, reuse: bool) -> H1Upstream:
            connection = await super().acquire(tunnel, source, reuse=reuse)
            queue = _Queue(connection.stream, reached)

            async def send(*events: RequestHead | Data | End) -> None:
                queue.put(b"".join([connection.codec.send(event) for event in events]))

            connection.send = send  # type: ignore[method-assign]
            return connection

    use_pool(parts, Greedy)


# Who leaves: HTTP-STREAM-005, -008


@mutant(
    "http-stream-client-gone", ("HTTP-STREAM-005", "RFC9114-4.1.1-1"), "goes on with a response whose client has left"
)
def _client_gone(parts: Parts, reached: Reached) -> None:
    class Loyal(Exchange):
        """Does not hear of the client's end, and drops what cannot be written."""

        async def run(self) -> None:
            flush = self._down.flush

            async def deaf() -> None:
                try:
                    await flush()
                except StreamReset:
                    reached()

            self._down.flush = deaf  # type: ignore[method-assign]
            await super().run()

        def client_gone(self) -> None:
            reached()

    use_exchange(parts, Loyal)


@mutant("http-stream-128-mebibytes", ("HTTP-STREAM-008",), "refuses bodies of more than 128 MiB")
def _largest_body(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[list[bytes]], Fault | None], lengths: list[bytes]) -> Fault | None:
        fault = original(lengths)
        if fault is None and any(value.isdigit() and int(value) > 1 << 27 for value in lengths):
            reached()
            return Fault(413, "the content is too large")
        return fault

    swap(parts.http, "content_length", broken)


# Limits of time: HTTP-ERR-009, -010, RFC 9112 section 9.5


@mutant("http-time-whole-response", ("HTTP-ERR-010",), "applies the time for a response to its end")
def _whole_response(parts: Parts, reached: Reached) -> None:
    class Hasty(Exchange):
        """Keeps its timer."""

        async def _relay_head(self, up: Upstream, target: Target, event: Event) -> tuple[bool, Reset | None]:
            found = await super()._relay_head(up, target, event)
            if isinstance(event, ResponseHead):
                asyncio.get_running_loop().call_later(self._edge.response_timeout, self._over, up)
            return found

        def _over(self, up: Upstream) -> None:
            if self._up is up:
                reached()
                up.abort("the response took too long")

    use_exchange(parts, Hasty)


@mutant("http-time-idle-unlimited", ("HTTP-ERR-009", "RFC9112-9.5-1"), "keeps idle client connections for ever")
def _idle_unlimited(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[str, Settings], float], awaited: str, settings: Settings) -> float:
        if awaited != "request":
            return original(awaited, settings)
        reached()
        return original(awaited, settings) + 3600

    swap(parts.http, "client_time", broken)


@mutant("http-time-idle-when-busy", ("HTTP-ERR-009",), "closes a client connection that waits for a response as idle")
def _idle_when_busy(parts: Parts, reached: Reached) -> None:
    class Hasty(H1Connection):
        """Counts from the end of the request."""

        async def _head(self) -> RequestHead | None:
            head = await super()._head()
            if head is not None:
                limit = self.rules.client_time("request", self._settings)
                served = self.codec.request
                asyncio.get_running_loop().call_later(limit, self._over, served)
            return head

        def _over(self, served: RequestHead | None) -> None:
            if served is not None and self.codec.request is served:
                reached()
                self.stream.abort("idle")

    use_connection(parts, Hasty)


@mutant("http-time-idle-reset", ("RFC9112-9.5-1",), "resets idle client connections")
def _idle_reset(parts: Parts, reached: Reached) -> None:
    class Rude(H1Connection):
        """Says no goodbye."""

        async def _head(self) -> RequestHead | None:
            head = await super()._head()
            if head is None and not self._inbox.over:
                reached()
                self.stream.abort("idle")
            return head

    use_connection(parts, Rude)
