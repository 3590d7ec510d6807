"""Datagram channels in DATAGRAM frames of a QUIC connection of the agent link (agent protocol section 2.5b)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from reference_engine.agent.datagram_rules import ID_OCTETS, DatagramRules
from reference_engine.relay.datagram import ChannelClosed, DatagramChannel
from reference_engine.relay.stream import Address


class Carrier(Protocol):
    """What channels need of a QUIC connection."""

    @property
    def datagram_room(self) -> int:
        """Octets of the longest DATAGRAM payload that can be sent now; negative where none can."""

    def send_datagram(self, data: bytes) -> bool:
        """Queue a DATAGRAM frame; False where it was dropped."""

    async def datagrams_drained(self) -> None:
        """Wait until another DATAGRAM frame can be queued, or the connection is over."""

    def flush(self) -> None:
        """Send now what is queued: DATAGRAM frames overtake what was written to streams and has not left."""


class ChannelTable:
    """The channels of one connection by their ids, whatever role they serve. `buffer` (octets) bounds what one channel
    keeps for its reader. `ignored` counts the frames of no channel, `dropped` the packets that no channel took or got
    rid of."""

    def __init__(self, carrier: Carrier, rules: DatagramRules, *, peer: Address | None, buffer: int = 262_144) -> None:
        self.carrier = carrier
        self.rules = rules
        self.peer = peer
        self.buffer = buffer
        self.ignored = 0
        self.dropped = 0
        self._channels: dict[bytes, DirectChannel] = {}
        self._over: str | None = None

    def __len__(self) -> int:
        """Open channels."""
        return len(self._channels)

    def open(self, stream_id: str) -> DirectChannel | None:
        """A channel for a stream; None where the id names none or is taken, or the connection is over."""
        identity = self.rules.channel_id(stream_id)
        if identity is None or identity in self._channels or self._over is not None:
            return None
        channel = self._channels[identity] = DirectChannel(self, identity, stream_id)
        return channel

    def came(self, payload: bytes) -> None:
        """One DATAGRAM frame of the peer."""
        parts = self.rules.split(payload)
        channel = self.rules.meant(parts[0], self._channels) if parts is not None else None
        if parts is None or channel is None:
            self.ignored += 1
        else:
            channel.came(parts[1])

    def forget(self, channel: DirectChannel) -> None:
        """A channel has ended: its id means nothing any more."""
        if self._channels.get(channel.identity) is channel:
            del self._channels[channel.identity]
            self.dropped += channel.dropped

    def over(self, reason: str) -> None:
        """The connection has ended, and every channel with it."""
        self._over = self._over or reason
        for channel in tuple(self._channels.values()):
            channel.ended(reason)


class DirectChannel(DatagramChannel):
    """One channel: packets may get lost both ways. `on_end` is called once, with the reason, when it ends here."""

    def __init__(self, table: ChannelTable, identity: bytes, stream_id: str) -> None:
        self.identity = identity
        self.stream_id = stream_id
        self.peer = table.peer
        self.dropped = 0
        self.on_end: Callable[[str], None] | None = None
        self._table = table
        self._packets: deque[bytes] = deque()
        self._octets = 0
        self._arrived: Callable[[], None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._over: str | None = None

    @property
    def max_packet(self) -> int:  # type: ignore[override]
        """As much as a DATAGRAM frame has room for behind the id, on this path and now."""
        return max(0, self._table.carrier.datagram_room - ID_OCTETS)

    # -- the connection's side -------------------------------------------------------------------------------------

    def came(self, packet: bytes) -> None:
        """One packet of the peer: kept, unless whoever reads is too far behind."""
        if not self._table.rules.keeps(len(self._packets), self._octets, self._table.buffer):
            self.dropped += 1
            return
        self._packets.append(packet)
        self._octets += len(packet)
        self._wake()

    def ended(self, reason: str) -> None:
        """The peer, or the connection, has ended the channel: what has come can still be read."""
        if self._over is not None:
            return
        self._over = reason
        self._table.forget(self)
        self._wake()
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(reason)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._arrived is not None:
            self._arrived()

    # -- DatagramChannel -------------------------------------------------------------------------------------------

    def send(self, packet: bytes) -> bool:
        """See `DatagramChannel.send`."""
        carrier = self._table.carrier
        payload = self._table.rules.payload(self.identity, packet, carrier.datagram_room)
        if self._over is not None or payload is None or not carrier.send_datagram(payload):
            self.dropped += 1
            return False
        return True

    async def drained(self) -> None:
        """See `DatagramChannel.drained`."""
        if self._over is None:
            await self._table.carrier.datagrams_drained()
        if self._over is not None:
            raise ChannelClosed(self._over)

    async def receive(self) -> bytes:
        """See `DatagramChannel.receive`."""
        while (packet := self.receive_now()) is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return packet

    def receive_now(self) -> bytes | None:
        """See `DatagramChannel.receive_now`."""
        if self._packets:
            packet = self._packets.popleft()
            self._octets -= len(packet)
            return packet
        if self._over is not None:
            raise ChannelClosed(self._over)
        return None

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        """See `DatagramChannel.on_arrival`."""
        self._arrived = arrived

    async def close(self) -> None:
        """See `DatagramChannel.close`; what is queued is the connection's by now."""
        self.ended("closed")

    def abort(self, reason: str) -> None:
        """See `DatagramChannel.abort`."""
        self._packets.clear()
        self._octets = 0
        self.ended(reason)
