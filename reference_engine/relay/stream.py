"""The one shape of a byte stream inside the engine.

Every leg of a relay (a public TLS connection, a raw TCP connection, an agent's data stream, TLS over an agent's data
stream) is a `ByteStream`: the relay, the HTTP codecs and the agent link know nothing else.

How a stream can end is kept apart on purpose (RFC 8446 section 6.1): a *clean* end is an end that the peer announced
(FIN on plain TCP, close_notify on TLS); everything else (RST, FIN without close_notify, a fatal alert) is a reset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a port, as the socket reported them."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StreamReset(Exception):  # noqa: N818 - the field's word for it
    """The stream ended without a clean end; `reason` says how (`"tcp reset"`, `"eof without close_notify"`, ..)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ByteStream(ABC):
    """A reliable, ordered, two-way stream of bytes with half-close and backpressure."""

    peer: Address | None = None

    @abstractmethod
    async def read(self) -> bytes:
        """The next bytes (1 to 262,144 of them), or `b""` at the peer's clean end (again on every later call).

        Reading is what grants credit: an implementation stops taking bytes from its transport while more than its
        high-water mark is unread. Raises `StreamReset`.
        """

    @abstractmethod
    def read_now(self) -> bytes | None:
        """What `read` would return without waiting; None where it would wait. Raises `StreamReset`."""

    @abstractmethod
    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """Have `arrived` called whenever `read_now` may have something else than None to return; None ends that. Who
        reads so does not call `read`."""

    @abstractmethod
    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data` at once, then wait until the queue is below its high-water mark. Raises `StreamReset`.

        Nothing is awaited in front of the queueing, so what several writers queue stays in the order of their calls.
        """

    @abstractmethod
    async def end(self) -> None:
        """End our direction cleanly (close_notify on TLS, FIN on TCP) after all queued bytes; reading goes on."""

    @abstractmethod
    async def close(self) -> None:
        """End both directions cleanly: flush, end, and let the transport go. Safe to call twice."""

    async def cut(self, reason: str) -> None:
        """End both directions behind all queued bytes, and let the peer see that more was to come, where the protocol
        of the stream can tell: TLS ends without close_notify (RFC 8446 section 6.1). Safe to call twice."""
        await self.close()

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Drop both directions at once and let the peer see it as a reset, never as a clean end. Safe to call twice."""
