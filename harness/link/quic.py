"""A QUIC connection on a datagram link, driven in the loop: packets in, timers, packets out. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from harness.link.datagram import DatagramLink
from harness.link.stream import LinkReset
from harness.wire.quic import Event, QuicClient, QuicServer

BURST = 64
"""Packets that are taken together, before what they brought is answered."""


class QuicLink:
    """Moves `wire` on `link`. `take` is handed the events of each batch of packets, in order and maybe none, once the
    answers are out.

    `lost` says how the link below ended; `broken` is an error of ours that came up in the background.
    """

    def __init__(
        self, link: DatagramLink, wire: QuicClient | QuicServer, take: Callable[[Sequence[Event]], None]
    ) -> None:
        self.link = link
        self.wire = wire
        self.lost = ""
        self.broken: Exception | None = None
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def now(self) -> float:
        """The time that the connection lives by, in seconds."""
        return self._loop.time()

    def start(self) -> None:
        """Begin to read, as a client behind our first packet. Does nothing the second time."""
        if self._reading is None:
            self._reading = self._loop.create_task(self._read())
            self.flush()

    async def _read(self) -> None:
        try:
            while True:
                packets = [await self.link.receive()]
                while len(packets) < BURST and (packet := self.link.receive_now()) is not None:
                    packets.append(packet)
                events: list[Event] = []
                for packet in packets:
                    events += self.wire.receive(packet, self.now)
                self._deliver(events)
                # A link that always has something would let nothing else run.
                await asyncio.sleep(0)
        except LinkReset as end:
            self.lost = end.reason
            self._take(())
        except Exception as error:  # noqa: BLE001 - ours: whoever waits next is told
            self._break(error)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._deliver(self.wire.expire(self.now))
        except Exception as error:  # noqa: BLE001 - see above
            self._break(error)

    def _break(self, error: Exception) -> None:
        self.broken = self.broken or error
        self._take(())

    def _deliver(self, events: Sequence[Event]) -> None:
        self.flush()
        self._take(events)

    def flush(self) -> None:
        """Send what there is to send now, and wait for the next timer."""
        try:
            for packet in self.wire.outgoing(self.now):
                self.link.send(packet)
        except LinkReset as end:
            self.lost = self.lost or end.reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.wire.timer()
        if due is not None and not self.lost:
            self._timer = self._loop.call_at(due, self._on_timer)

    async def stop(self) -> None:
        """Stop without a word to the other side, and end the link. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.lost = self.lost or "closed"
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self.link.close()
