"""Datagram channels on a byte stream of the agent's link: each packet behind its length of 4 octets (agent protocol,
section 2.5)."""

from __future__ import annotations

from typing import Protocol

from harness.link.datagram import DatagramLink
from harness.link.stream import LinkReset

MAX_PACKET = 65535
"""Octets of the longest packet; a length above it ends the stream."""
MAX_UNSENT = 4 << 20
"""Octets that may wait for the engine to read them. A packet on top is lost, as on any other datagram link."""
CHUNK = 65536
_PREFIX = 4


class Carrier(Protocol):
    """What a framed channel needs of the stream below it: see `harness.link.agent.AgentLink`."""

    @property
    def unsent(self) -> int:
        """Octets that the socket has not taken yet."""

    def send_now(self, data: bytes) -> None:
        """Queue octets. Raises `LinkReset`."""

    async def receive(self, limit: int = CHUNK) -> bytes:
        """The next octets, `b""` at the end. Raises `LinkReset`."""

    def poll(self, limit: int = CHUNK) -> bytes | None:
        """The octets that `receive` would give at once."""

    async def close(self) -> None:
        """End the stream."""

    def abort(self) -> None:
        """Reset the stream."""


class FramedLink(DatagramLink):
    """A datagram channel on `stream`. Nothing is read ahead of whoever asks, so that a slow reader slows the engine.

    The end of the stream is the end of the channel; octets that are no packet end both. `dropped` counts the packets
    that found no room.
    """

    def __init__(self, stream: Carrier) -> None:
        self.stream = stream
        self.dropped = 0
        self._buffer = bytearray()
        self._over = ""

    def send(self, packet: bytes) -> None:
        """Send one packet. Raises `LinkReset`, and `ValueError` for one that has no length in the protocol."""
        if len(packet) > MAX_PACKET:
            raise ValueError(f"a packet of {len(packet)} octets, allowed are {MAX_PACKET}")
        self.send_frame(packet)
        self.tap.sent(packet)

    def send_frame(self, packet: bytes, *, length: int | None = None) -> None:
        """Send octets behind their length, or behind another `length`. Raises `LinkReset`."""
        self.send_octets((len(packet) if length is None else length).to_bytes(_PREFIX, "big") + packet)

    def send_octets(self, octets: bytes) -> None:
        """Write on the stream as it is. Raises `LinkReset`."""
        if self._over:
            raise LinkReset(self._over)
        if self.stream.unsent > MAX_UNSENT:
            self.dropped += 1
            return
        self.stream.send_now(octets)

    async def receive(self) -> bytes:
        """The next packet. Raises `LinkReset` at the end of the stream, and at a length that no packet has."""
        while (packet := self._take()) is None:
            if self._over:
                raise LinkReset(self._over)
            self._feed(await self._octets())
        return packet

    async def _octets(self) -> bytes:
        try:
            return await self.stream.receive(CHUNK)
        except LinkReset as reset:
            self._over = self._over or reset.reason
            raise

    def receive_now(self) -> bytes | None:
        """The next packet that is there already, or None; also behind the end, which `receive` tells."""
        try:
            while (packet := self._take()) is None and (data := self.stream.poll(CHUNK)):
                self._buffer += data
        except LinkReset as reset:
            self._over = self._over or reset.reason
            return None
        return packet

    def _feed(self, data: bytes) -> None:
        if not data:
            self._over = "the end of the stream within a packet" if self._buffer else "the end of the stream"
            raise LinkReset(self._over)
        self._buffer += data

    def _take(self) -> bytes | None:
        """The next whole packet. Raises `LinkReset` for a length that no packet has."""
        if self._over or len(self._buffer) < _PREFIX:
            return None
        length = int.from_bytes(self._buffer[:_PREFIX], "big")
        if length > MAX_PACKET:
            self._over = f"a packet of {length} octets, above {MAX_PACKET}"
            self.stream.abort()
            raise LinkReset(self._over)
        if len(self._buffer) < _PREFIX + length:
            return None
        packet = bytes(self._buffer[_PREFIX : _PREFIX + length])
        del self._buffer[: _PREFIX + length]
        self.tap.got(packet)
        return packet

    async def close(self) -> None:
        """End the stream. Safe to call twice."""
        self._over = self._over or "closed"
        await self.stream.close()

    def abort(self) -> None:
        """Reset the stream. Safe to call twice."""
        self._over = self._over or "closed"
        self.stream.abort()
