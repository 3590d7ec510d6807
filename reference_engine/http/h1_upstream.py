"""Upstream HTTP/1.1: one exchange at a time on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable

from reference_engine.http.events import Data, End, Event, RequestHead, Reset
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.inbox import Inbox, RawStream
from reference_engine.http.leg import Upstream
from reference_engine.relay.stream import ByteStream, StreamReset
from reference_engine.tunnel.model import Tunnel


class H1Upstream(Upstream):
    """One stream to an agent with an HTTP/1.1 codec on it; used for one exchange after the other.

    `keep` is called with it when an exchange is over: the pool's way of getting it back.
    """

    def __init__(
        self,
        stream: ByteStream,
        codec: H1ClientCodec,
        tunnel: Tunnel,
        client: str,
        keep: Callable[[H1Upstream], None],
    ) -> None:
        self.stream = self.carrier = stream
        self.codec = codec
        self.tunnel = tunnel
        self.client = client
        self.inbox = Inbox(stream)
        self.fresh = True
        self._keep = keep
        self._aborted = False
        self._switched = False

    async def send(self, *events: RequestHead | Data | End) -> None:
        """See Upstream."""
        await self.stream.write(b"".join([self.codec.send(event) for event in events]))

    def next_event(self) -> Event | None:
        """See Upstream."""
        event = self.codec.next_event()
        if event is None and self.inbox.pending:
            self.codec.receive(self.inbox.take())
            event = self.codec.next_event()
        return event

    async def receive(self) -> Event:
        """See Upstream."""
        while True:
            try:
                data = await self.inbox.read()
            except TimeoutError:
                return Reset("upstream-silent")
            except StreamReset:
                return Reset("upstream-truncated" if self.codec.answered else "upstream-reset")
            if data:
                self.codec.receive(data)
            elif self.codec.over:
                return Reset("upstream-closed")
            else:
                self.codec.eof()
            event = self.codec.next_event()
            if event is not None:
                return event

    @property
    def over(self) -> bool:
        """See Upstream."""
        return self.inbox.over

    @property
    def heard(self) -> bool:
        """See Upstream."""
        return self.codec.heard

    @property
    def closing(self) -> bool:
        """See Upstream."""
        return self.codec.closing

    def arm(self, seconds: float) -> None:
        """See Upstream."""
        self.inbox.arm(seconds)

    def disarm(self) -> None:
        """See Upstream."""
        self.inbox.disarm()

    @property
    def reusable(self) -> bool:
        """Whether another request may go out here."""
        quiet = not (self._aborted or self.inbox.pending or self.inbox.over)
        return quiet and self.codec.reusable and self.tunnel.open

    def raw(self) -> RawStream:
        """See Upstream."""
        self._switched = True
        return RawStream(self.stream, self.inbox, self.codec.leftover())

    def abort(self, reason: str) -> None:
        """See Upstream."""
        self._aborted = True
        self.stream.abort(reason)

    def release(self) -> None:
        """See Upstream."""
        self.inbox.disarm()
        if not (self._switched or self.codec.over or self.codec.reusable):
            self.abort("the exchange ended early")
        self._keep(self)

    async def leave(self) -> None:
        """See Upstream."""
        await self.close()

    async def close(self) -> None:
        """Let the connection go: cleanly, unless it was aborted."""
        try:
            if not self._aborted:
                await self.stream.close()
        finally:
            self.inbox.close()
