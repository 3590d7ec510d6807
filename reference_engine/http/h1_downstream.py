"""Downstream HTTP/1.1 connections: requests one after the other, answered in order, and a clean end.

`H1Connection` is the loop of one connection and knows no tunnel: HTTP tunnels, the engine's API and the redirect
listener each give it a handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from reference_engine.config import Settings
from reference_engine.http.errors import Fault, ProtocolFault, fault_of
from reference_engine.http.events import Data, End, InformationalHead, RequestHead, Reset, ResponseHead
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.inbox import Inbox, RawStream
from reference_engine.http.leg import Downstream, Watcher
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Framing, Limits
from reference_engine.relay.stream import Address, ByteStream, StreamReset


def limits_of(settings: Settings) -> Limits:
    """The limits of one message, from the settings."""
    return Limits(
        settings.http_max_header_bytes,
        settings.http_max_header_count,
        settings.http_max_trailer_bytes,
        settings.http_chunk_extension_bytes,
    )


class H1Downstream(Downstream):
    """One request on an HTTP/1.1 connection."""

    def __init__(self, connection: H1Connection, head: RequestHead, framing: Framing) -> None:
        self.head = head
        self.framing = framing
        self.peer: Address | None = connection.stream.peer
        self.half_open = connection.half_open
        self._connection = connection
        self._codec = connection.codec
        self._out: list[bytes] = []
        self._close = False
        self._until_close = False

    @property
    def complete(self) -> bool:
        """See Downstream."""
        return self._codec.complete

    async def receive(self) -> list[Data | End | Reset]:
        """See Downstream."""
        return await self._connection.content()

    def put(self, event: InformationalHead | ResponseHead | Data | End) -> None:
        """See Downstream."""
        if isinstance(event, ResponseHead):
            if self._close or self._connection.draining:
                event.fields.append((b"Connection", b"close"))
            octets = self._codec.send(event)
            self._until_close = self._codec.until_close
        else:
            octets = self._codec.send(event)
        if octets:
            self._out.append(octets)

    async def flush(self) -> None:
        """See Downstream."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            await self._connection.write(data)

    async def refuse(self, fault: Fault, *, close: bool = False) -> None:
        """See Downstream."""
        head, body = self._connection.rules.answer(fault, close=False)
        if close or not self.complete:
            self.close_after()
        await self.respond(head, body)

    async def truncate(self, reason: str) -> None:
        """See Downstream: where only the connection's end delimits the content, its end must not look clean."""
        await self.flush()
        if self._until_close:
            self._connection.stream.abort(reason)
        else:
            await self._connection.stream.close()

    def close_after(self) -> None:
        """See Downstream."""
        self._close = True
        self._connection.last = True

    def watch(self, watcher: Watcher | None) -> None:
        """See Downstream."""
        self._connection.watch(watcher)

    def raw(self) -> ByteStream:
        """See Downstream."""
        return self._connection.raw()


Handler = Callable[[H1Downstream], Awaitable[None]]


class H1Connection:
    """One downstream HTTP/1.1 connection; `handler` answers its requests.

    `half_open` says whether the transport takes data behind the peer's end (TLS 1.3 and TCP do).
    """

    def __init__(
        self,
        stream: ByteStream,
        rules: HttpRules,
        settings: Settings,
        handler: Handler,
        *,
        half_open: bool = True,
        codec: H1ServerCodec | None = None,
    ) -> None:
        self.stream = stream
        self.rules = rules
        self.half_open = half_open
        self.codec = codec or H1ServerCodec(rules, limits_of(settings))
        self.draining = False
        self.last = False
        self._settings = settings
        self._handler = handler
        self._inbox = Inbox(stream)
        self._watcher: Watcher | None = None
        self._half_close: asyncio.TimerHandle | None = None
        self._idle = True
        self._inbox.on_end = self._ended

    async def run(self) -> None:
        """Serve the connection until it ends, and leave it closed."""
        try:
            while await self._serve_one():
                pass
            await self.stream.close()
        except StreamReset as problem:
            self.stream.abort(problem.reason)
        except BaseException:
            self.stream.abort("no longer served")
            raise
        finally:
            self._stop_half_close()
            self._inbox.close()

    def drain(self) -> None:
        """No request after the one at hand; an idle connection ends now."""
        self.draining = True
        if self._idle:
            self._inbox.expire()

    async def _serve_one(self) -> bool:
        """One request and its answer; False when the connection is to be closed."""
        try:
            head = await self._head()
        except ProtocolFault as problem:
            await self._refuse_unread(problem.fault)
            return False
        if head is None:
            return False
        await self._handler(H1Downstream(self, head, self.codec.framing))
        if self.last or self.draining or not self.codec.reusable:
            return False
        self.codec.next_cycle()
        return True

    async def _head(self) -> RequestHead | None:
        """The next request; None at the end of the connection. Raises ProtocolFault."""
        codec, inbox, begun = self.codec, self._inbox, False
        self._idle = not (codec.pending or inbox.pending)
        inbox.arm(self.rules.client_time("request" if self._idle else "head", self._settings))
        try:
            while True:
                event = codec.next_event() if codec.pending or codec.ended else None
                if isinstance(event, RequestHead):
                    return event
                if event is not None:
                    raise ProtocolFault(fault_of("incomplete"))
                if begun and self._idle:
                    self._idle = False
                    inbox.arm(self.rules.client_time("head", self._settings))
                data = await inbox.read()
                begun = True
                if data:
                    codec.receive(data)
                elif not codec.pending:
                    return None
                else:
                    codec.eof()
        except TimeoutError:
            if self._idle:
                return None
            raise ProtocolFault(fault_of("header-timeout")) from None
        finally:
            self._idle = False
            inbox.disarm()

    async def _refuse_unread(self, fault: Fault) -> None:
        """Answer a request whose head is refused; nothing behind it is read as a request (RFC 9112 section 9.6)."""
        head, body = self.rules.answer(fault, close=True)
        octets = self.codec.send(head)
        if not self.codec.is_head:
            octets += self.codec.send(Data(body))
        await self.stream.write(octets)

    async def content(self) -> list[Data | End | Reset]:
        """All events of the request's content that are here, one at least. Raises ProtocolFault."""
        events: list[Data | End | Reset] = []
        while True:
            event = self.codec.next_event()
            if isinstance(event, Data | End | Reset):
                events.append(event)
                if not isinstance(event, Data):
                    return events
            elif events:
                return events
            else:
                await self._more()

    async def _more(self) -> None:
        self._inbox.arm(self.rules.client_time("content", self._settings))
        try:
            data = await self._inbox.read()
        except TimeoutError:
            raise ProtocolFault(fault_of("body-timeout")) from None
        finally:
            self._inbox.disarm()
        if data:
            self.codec.receive(data)
        else:
            self.codec.eof()

    async def write(self, data: bytes) -> None:
        """Write, and let a client that has ended its direction live on while this works."""
        await self.stream.write(data)
        if self._half_close is not None:
            self._begin_half_close()

    def watch(self, watcher: Watcher | None) -> None:
        """Who is told that the client left."""
        self._watcher = watcher
        if watcher is None:
            self._stop_half_close()
        elif self._inbox.over:
            asyncio.get_running_loop().call_soon(self._ended)

    def _ended(self) -> None:
        """The client ended its direction, or broke off.

        A clean end may come from a client that only has no more to say; whether it still listens shows when octets are
        written. So a response goes on while it makes progress, and is given up when nothing moves for
        http_half_close_ms.
        """
        if self._watcher is None:
            return
        if self._inbox.reset is not None:
            self._watcher.client_gone()
        elif self._inbox.ended:
            self._begin_half_close()

    def _begin_half_close(self) -> None:
        self._stop_half_close()
        loop = asyncio.get_running_loop()
        self._half_close = loop.call_later(self._settings.http_half_close_ms / 1000, self._give_up_client)

    def _stop_half_close(self) -> None:
        if self._half_close is not None:
            self._half_close.cancel()
            self._half_close = None

    def _give_up_client(self) -> None:
        if self._watcher is not None:
            self._watcher.client_gone()

    def raw(self) -> RawStream:
        """The connection as a plain stream; the loop ends behind it."""
        self.last = True
        return RawStream(self.stream, self._inbox, self.codec.leftover())
