"""The one shape of a datagram channel inside the engine.

What carries packets between the engine and an agent (framed on a byte stream, or in DATAGRAM frames of the agent's
QUIC connection) is a `DatagramChannel`: QUIC and DTLS tunnels and the bridge of private tunnels know nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from reference_engine.relay.stream import Address


class ChannelClosed(Exception):  # noqa: N818 - the field's word for it
    """The channel is over: `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DatagramChannel(ABC):
    """Packets both ways, whole or not at all. `max_packet` is the longest one, in octets, that it carries now."""

    peer: Address | None = None
    max_packet: int = 65_535
    reliable: bool = False
    """Whether nothing is lost on it as long as whoever sends awaits `drained` first."""

    @abstractmethod
    def send(self, packet: bytes) -> bool:
        """Queue one packet. False where it was dropped (too long, queue full, channel over), which is counted."""

    @abstractmethod
    async def drained(self) -> None:
        """Wait until there is room in the queue. Raises `ChannelClosed`."""

    @abstractmethod
    async def receive(self) -> bytes:
        """The next packet, which may be empty. Raises `ChannelClosed` behind the last one."""

    @abstractmethod
    def receive_now(self) -> bytes | None:
        """The next packet if it is there; None where `receive` would wait. Raises `ChannelClosed`."""

    @abstractmethod
    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """Have `arrived` called whenever `receive_now` may have something else than None; None ends that. Who reads so
        does not call `receive`."""

    @abstractmethod
    async def close(self) -> None:
        """End the channel behind what is queued. Safe to call twice."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Drop the channel at once. Safe to call twice."""
