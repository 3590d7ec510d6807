"""The bridge: two datagram channels, each the other's far end, joined packet by packet (agent protocol section 4.6)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from reference_engine.relay.datagram import ChannelClosed, DatagramChannel

TURN = 256
"""Packets that one direction hands on before others get their turn: a peer may have very many small ones ready."""


@dataclass(slots=True)
class Bridged:
    """What a bridge did: packets handed on and dropped, both ways together, and how it ended."""

    packets: int = 0
    dropped: int = 0
    reason: str = ""


class Bridge:
    """Copies packets between two channels until one of them is over."""

    async def run(self, a: DatagramChannel, b: DatagramChannel, *, over: asyncio.Future[None] | None = None) -> Bridged:
        """Bridge until the end, and leave both channels closed; what was handed on still leaves.

        When `over` is done the bridge ends, too. Cancelling aborts both channels.
        """
        told = Bridged()
        tasks = {asyncio.create_task(self._copy(a, b, told)), asyncio.create_task(self._copy(b, a, told))}
        waiting: set[asyncio.Future[None]] = set(tasks)
        if over is not None:
            waiting.add(over)
        settled = False
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # A defect of ours is not taken for an end.
                task.result()
            settled = True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not settled:
                a.abort("bridge ended")
                b.abort("bridge ended")
        await asyncio.gather(self.pass_end(a), self.pass_end(b))
        return told

    async def _copy(self, source: DatagramChannel, sink: DatagramChannel, told: Bridged) -> None:
        count = 0
        try:
            while True:
                packet = await source.receive()
                count += 1
                if count % TURN == 0:
                    await asyncio.sleep(0)
                # A sink without room holds the source back: it drops what it must by its own rules, or nothing at all.
                await sink.drained()
                if self.pass_packet(sink, packet):
                    told.packets += 1
                else:
                    told.dropped += 1
        except ChannelClosed as problem:
            told.reason = told.reason or problem.reason

    def pass_packet(self, sink: DatagramChannel, packet: bytes) -> bool:
        """Hand on one packet, whole or not at all."""
        return sink.send(packet)

    async def pass_end(self, channel: DatagramChannel) -> None:
        """The channel ends, behind what was handed on."""
        await channel.close()
