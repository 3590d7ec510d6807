"""A peer that speaks plain packets on a datagram link: what stands behind a private datagram tunnel, and who dials
it."""

from __future__ import annotations

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.link.datagram import DatagramLink
from harness.link.deadline import deadline
from harness.link.framed import FramedLink
from harness.link.stream import LinkReset


class PacketPeer:
    """Packets on a link, each a line in the transcript. Every wait has a deadline."""

    def __init__(self, link: DatagramLink, channel: Channel, source: str | None = None) -> None:
        self.link = link
        self.channel = channel
        self.source = source
        """The client's address, where this is a channel at an upstream and the engine told it."""

    async def send(self, packet: bytes) -> None:
        """Send one packet. Raises `LinkReset`."""
        self.channel.sent("packet", data=packet)
        self.link.send(packet)

    async def send_frame(self, packet: bytes, *, length: int) -> None:
        """On a framed channel: octets behind a length that need not be theirs. Raises `LinkReset`."""
        self.channel.sent("framed packet", detail=f"length {length}", data=packet)
        self._framed.send_frame(packet, length=length)

    async def send_octets(self, octets: bytes) -> None:
        """On a framed channel: octets of the stream as they are. Raises `LinkReset`."""
        self.channel.sent("octets of the channel's stream", data=octets)
        self._framed.send_octets(octets)

    @property
    def _framed(self) -> FramedLink:
        assert isinstance(self.link, FramedLink), "only a framed channel has a stream"
        return self.link

    async def receive(self) -> bytes:
        """The next packet. Raises `LinkReset` at the end of the channel, `DeadlineExpired`."""
        async with deadline(f"a packet at the {self.channel.us}"):
            return await self._receive()

    async def _receive(self) -> bytes:
        try:
            packet = await self.link.receive()
        except LinkReset as end:
            self.channel.got("end of the channel", detail=end.reason)
            raise
        self.channel.got("packet", data=packet)
        return packet

    async def expect(self, packet: bytes) -> None:
        """The next packet must be this one. Raises `PeerMismatch`, `LinkReset`, `DeadlineExpired`."""
        got = await self.receive()
        if got != packet:
            raise PeerMismatch(f"{_told(packet)} at the {self.channel.us}", _told(got))

    def arrived(self) -> list[bytes]:
        """The packets that are there already: only after a barrier does their absence mean anything."""
        found = []
        while (packet := self.link.receive_now()) is not None:
            self.channel.got("packet", data=packet)
            found.append(packet)
        return found

    async def ended(self) -> str:
        """How the other side ends the channel, reading past what comes before. Raises `DeadlineExpired`."""
        async with deadline(f"the end of the channel at the {self.channel.us}"):
            while True:
                try:
                    await self._receive()
                except LinkReset as end:
                    return end.reason

    async def close(self) -> None:
        """End the channel."""
        await self.link.close()

    def abort(self) -> None:
        """Drop the channel at once."""
        self.channel.sent("reset")
        self.link.abort()


def _told(packet: bytes) -> str:
    return f"a packet of {len(packet)} octets ({packet[:16].hex() or 'empty'})"
