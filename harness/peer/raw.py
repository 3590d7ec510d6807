"""A peer that speaks plain octets on a link: what stands behind a terminated TLS tunnel, or knocks with anything at
all."""

from __future__ import annotations

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.link.deadline import deadline
from harness.link.stream import End, EndKind, Link, LinkReset

READ_LIMIT = 1 << 26
"""The most octets that a peer keeps of one stream (64 MiB)."""


class RawPeer:
    """Octets on a link, each step a line in the transcript. Every wait has a deadline."""

    def __init__(self, link: Link, channel: Channel, source: str | None = None) -> None:
        self.link = link
        self.channel = channel
        link.tap.label(channel.name)
        self.source = source
        """The client's address, where this is a stream at an upstream and the engine told it."""
        self._kept = b""

    async def send(self, data: bytes) -> None:
        """Send `data`. Raises `LinkReset`, `DeadlineExpired`."""
        self.channel.sent("data", data=data)
        async with deadline(f"{self.channel.us} to send {len(data)} octets"):
            await self.link.send(data)

    async def receive(self, limit: int = 65536) -> bytes:
        """The next octets, `b""` at FIN. Raises `LinkReset`, `DeadlineExpired`."""
        if self._kept:
            data, self._kept = self._kept[:limit], self._kept[limit:]
            return data
        async with deadline(f"octets at the {self.channel.us}"):
            return await self._receive(limit)

    async def _receive(self, limit: int = 65536) -> bytes:
        try:
            data = await self.link.receive(limit)
        except LinkReset as end:
            self.channel.got("reset", detail=end.reason)
            raise
        if data:
            self.channel.got("data", data=data)
        else:
            self.channel.got("FIN")
        return data

    async def receive_exactly(self, count: int) -> bytes:
        """Exactly `count` octets. Raises `PeerMismatch` when the stream ends before."""
        async with deadline(f"{count} octets at the {self.channel.us}"):
            while len(self._kept) < count:
                chunk = await self._receive()
                if not chunk:
                    raise PeerMismatch(
                        f"{count} octets at the {self.channel.us}", f"{len(self._kept)} octets, then FIN"
                    )
                self._kept += chunk
        data, self._kept = self._kept[:count], self._kept[count:]
        return data

    def unread(self, data: bytes) -> None:
        """Have `data`, which was read last, come again: it was not for whoever read it."""
        self._kept = data + self._kept

    async def receive_until_end(self) -> tuple[bytes, End]:
        """Everything up to the end of the stream, and how it ended. Raises `DeadlineExpired`, `PeerMismatch` above
        `READ_LIMIT`."""
        data = bytearray(self._kept)
        self._kept = b""
        async with deadline(f"the end of the stream at the {self.channel.us}"):
            while True:
                try:
                    chunk = await self._receive()
                except LinkReset:
                    return bytes(data), End(EndKind.RESET)
                if not chunk:
                    return bytes(data), End(EndKind.FIN)
                data += chunk
                if len(data) > READ_LIMIT:
                    raise PeerMismatch("the stream to end", f"more than {READ_LIMIT} octets")

    async def end(self) -> End:
        """How the stream ends, reading past whatever comes before."""
        return (await self.receive_until_end())[1]

    async def send_end(self) -> None:
        """End our direction cleanly."""
        self.channel.sent("FIN")
        async with deadline(f"{self.channel.us} to end its direction"):
            await self.link.send_end()

    async def close(self) -> None:
        """Close the link."""
        await self.link.close()

    def abort(self) -> None:
        """Reset the link."""
        self.channel.sent("reset")
        self.link.abort()
