"""Mutants of datagram channels that are framed on a stream, and of the bridge between two of them."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from reference_engine.agent.packets import MAX_PACKET, PacketError, PacketReader
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.relay.datagram import DatagramChannel
from reference_engine.tunnel.model import TunnelProperties

RECORD = 16_384
"""Octets of a TLS record."""


# -- the bridge -----------------------------------------------------------------------------------------------------


@mutant("agent-frame-empty-dropped", ("AGENT-098",), "takes an empty packet for nothing")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sink: DatagramChannel, packet: bytes) -> bool:
        if packet:
            return bool(original(sink, packet))
        reached()
        return False

    swap(parts.bridge, "pass_packet", broken)


@mutant("agent-frames-merged", ("AGENT-098", "PRIV-005"), "relays two packets as one")
def _(parts: Parts, reached: Reached) -> None:
    waiting: WeakKeyDictionary[DatagramChannel, bytes] = WeakKeyDictionary()

    def broken(original: Any, sink: DatagramChannel, packet: bytes) -> bool:
        held = waiting.pop(sink, None)
        if held is None:
            waiting[sink] = packet
            return True
        reached()
        return bool(original(sink, held + packet))

    swap(parts.bridge, "pass_packet", broken)


@mutant("agent-flows-crossed", ("AGENT-099",), "relays every third packet on another flow of the engine")
def _(parts: Parts, reached: Reached) -> None:
    pairs: list[tuple[DatagramChannel, DatagramChannel]] = []
    passed = 0

    async def run(
        original: Any, a: DatagramChannel, b: DatagramChannel, *, over: asyncio.Future[None] | None = None
    ) -> Any:
        pairs.append((a, b))
        try:
            return await original(a, b, over=over)
        finally:
            pairs.remove((a, b))

    def broken(original: Any, sink: DatagramChannel, packet: bytes) -> bool:
        nonlocal passed
        passed += 1
        if passed % 3 == 0 and len(pairs) > 1:
            reached()
            own = next(pair for pair in pairs if sink in pair)
            sink = next(pair for pair in pairs if pair is not own)[own.index(sink)]
        return bool(original(sink, packet))

    swap(parts.bridge, "run", run)
    swap(parts.bridge, "pass_packet", broken)


@mutant("agent-guaranteed-lossy", ("TRANS-007",), "drops one packet of fifty")
def _(parts: Parts, reached: Reached) -> None:
    passed = 0

    def broken(original: Any, sink: DatagramChannel, packet: bytes) -> bool:
        nonlocal passed
        passed += 1
        if passed % 50:
            return bool(original(sink, packet))
        reached()
        return False

    swap(parts.bridge, "pass_packet", broken)


@mutant("agent-private-one-type", ("PRIV-002",), "tells of every private tunnel that it is a byte stream")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: TunnelProperties, protocol: str | None) -> str:
        if properties.publish is not False or properties.type != "datagram":
            return str(original(properties, protocol))
        reached()
        return "bytestream"

    swap(parts.tunnel, "type_of", broken)


# -- framing --------------------------------------------------------------------------------------------------------


@mutant("agent-frame-split", ("AGENT-098", "PRIV-005"), f"puts a packet of more than {RECORD} octets into two frames")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, packet: bytes) -> bytes:
        if len(packet) <= RECORD:
            return bytes(original(packet))
        reached()
        return bytes(original(packet[:RECORD]) + original(packet[RECORD:]))

    swap(parts.datagrams, "frame", broken)


class _Lenient(PacketReader):
    """Knows no longest packet: cuts what is too long to what fits, and goes on."""

    reached: Reached

    def next(self) -> bytes | None:
        """As the engine's, within the limit."""
        length = int.from_bytes(self._buffer[:4], "big") if len(self._buffer) >= 4 else 0
        if length <= MAX_PACKET:
            return super().next()
        self.reached()
        if len(self._buffer) < 4 + length:
            return None
        packet = bytes(self._buffer[4 : 4 + MAX_PACKET])
        del self._buffer[: 4 + length]
        return packet


class _Eager(PacketReader):
    """Hands on what has come of a packet of which more than a third is there."""

    reached: Reached

    def next(self) -> bytes | None:
        """As the engine's, but sooner."""
        packet = super().next()
        if packet is not None or len(self._buffer) < 4:
            return packet
        length = int.from_bytes(self._buffer[:4], "big")
        if (len(self._buffer) - 4) * 3 <= length:
            return None
        self.reached()
        packet = bytes(self._buffer[4:])
        self._buffer.clear()
        return packet


class _Contagious(PacketReader):
    """One that has met a packet that is too long spoils all others."""

    reached: Reached
    spoilt = False

    def next(self) -> bytes | None:
        """As the engine's, until then."""
        if _Contagious.spoilt:
            raise PacketError("another stream announced too long a packet")
        try:
            return super().next()
        except PacketError:
            self.reached()
            _Contagious.spoilt = True
            raise


def _reads_with(kind: type[PacketReader], parts: Parts, reached: Reached) -> None:
    def broken(original: Any) -> PacketReader:
        reader = kind()
        reader.reached = reached  # type: ignore[attr-defined]
        return reader

    swap(parts.datagrams, "reader", broken)


@mutant("agent-frame-too-long-taken", ("AGENT-098",), "cuts a packet that is too long to what fits, and goes on")
def _(parts: Parts, reached: Reached) -> None:
    _reads_with(_Lenient, parts, reached)


@mutant("agent-frame-too-long-ends-all", ("AGENT-098",), "ends every flow for one packet that is too long")
def _(parts: Parts, reached: Reached) -> None:
    _reads_with(_Contagious, parts, reached)


@mutant("agent-half-packet", ("AGENT-098",), "hands on a packet before it is whole")
def _(parts: Parts, reached: Reached) -> None:
    _reads_with(_Eager, parts, reached)
