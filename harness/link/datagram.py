"""The shape of a datagram link below a peer: a UDP flow, or a datagram channel of the agent link."""

from __future__ import annotations

from abc import ABC, abstractmethod

from harness.link.tap import SILENT, TapStream


class DatagramLink(ABC):
    """Packets to and from the engine, whole or not at all. No method has a deadline of its own."""

    tap: TapStream = SILENT
    """Who is told what goes over the wire, packet by packet."""

    @abstractmethod
    def send(self, packet: bytes) -> None:
        """Send one packet. Raises `harness.link.stream.LinkReset` when the link is over."""

    @abstractmethod
    async def receive(self) -> bytes:
        """The next packet, which may be empty. Raises `LinkReset` when the other side ended the link."""

    @abstractmethod
    def receive_now(self) -> bytes | None:
        """The next packet that is there already, or None."""

    @abstractmethod
    async def close(self) -> None:
        """End the link. Safe to call twice."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the link at once. Safe to call twice."""
