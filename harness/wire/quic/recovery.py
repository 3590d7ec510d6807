"""Acknowledgments, loss and probes (RFC 9002), per packet number space; the congestion window is a fixed one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from harness.wire.quic.codec import Ranges
from harness.wire.quic.events import Violation
from harness.wire.quic.frames import Ack, Frame
from harness.wire.quic.numbers import ErrorCode, Level, Space
from harness.wire.quic.stream import ReceivePart, SendPart

PACKET_THRESHOLD = 3
TIME_THRESHOLD = 9 / 8
GRANULARITY = 0.001
MAX_RANGES = 64
"""Ranges of received packets that are remembered; what lies below them counts as received (RFC 9000 section 13.2.3)."""
MAX_CRYPTO = 1 << 17
"""Octets of CRYPTO data that are taken out of order (RFC 9000 section 7.5 asks for 4096 at least)."""


@dataclass(frozen=True, slots=True)
class SentPacket:
    """A packet of ours that is neither acknowledged nor lost; `frames` are what to say again where it is lost."""

    number: int
    level: Level
    time: float
    size: int
    elicits: bool
    frames: tuple[Frame, ...]
    pings: tuple[int, ...] = ()


class PacketSpace:
    """One packet number space: what we sent, what we received, and what waits to be sent in it."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.next_number = 0
        self.sent: dict[int, SentPacket] = {}
        self.largest_acked = -1
        self.loss_time: float | None = None
        self.last_elicited = 0.0
        self.received = Ranges()
        self.floor = 0
        """Packet numbers below it count as received."""
        self.largest_received_at = 0.0
        self.ack_due = False
        self.crypto_out = SendPart()
        self.crypto_in = ReceivePart()
        self.queue: deque[Frame] = deque()
        self.said: deque[Frame] = deque()
        """Frames of the script, as they stand."""
        self.pings: list[int] = []
        self.probes = 0
        self.discarded = False

    @property
    def expected(self) -> int:
        """The packet number after the largest received one."""
        return self.received.last[1] if self.received else self.floor

    def is_duplicate(self, number: int) -> bool:
        """Whether a packet came before."""
        return number < self.floor or number in self.received

    def on_received(self, number: int, now: float, *, elicits: bool) -> None:
        """Note a packet whose payload was taken; it came at `now`."""
        if not self.received or number >= self.received.last[1]:
            self.largest_received_at = now
        self.received.add(number, number + 1)
        while len(self.received) > MAX_RANGES:
            self.floor = self.received.drop_first()[1]
        self.ack_due = self.ack_due or elicits

    def ack(self, now: float, exponent: int) -> Ack:
        """The ACK that is due."""
        ranges = tuple((start, stop - 1) for start, stop in reversed(list(self.received)))
        delay = int(max(0.0, now - self.largest_received_at) * 1_000_000) >> exponent
        return Ack(ranges, delay if self.space == Space.APPLICATION else 0)

    def forget_acked(self, largest: int) -> None:
        """The other side has our ACK up to `largest`: ranges below need not be repeated (RFC 9000 section 13.2.4)."""
        while len(self.received) > 1 and self.received.first[1] <= largest:
            self.floor = self.received.drop_first()[1]

    @property
    def elicits(self) -> bool:
        """Whether a packet of ours waits for an acknowledgment."""
        return any(packet.elicits for packet in self.sent.values())


class Recovery:
    """Round trip times, timers and losses over all spaces."""

    def __init__(self, initial_rtt: float) -> None:
        self.smoothed = initial_rtt
        self.variance = initial_rtt / 2
        self.latest = 0.0
        self.minimum = 0.0
        self.has_sample = False
        self.pto_count = 0
        self.in_flight = 0
        self.peer_max_ack_delay = 0.025
        self.confirmed = False
        self.lost = 0
        """Packets that were declared lost."""

    def pto(self, *, application: bool) -> float:
        """The probe timeout without backoff (RFC 9002 section 6.2.1)."""
        period = self.smoothed + max(4 * self.variance, GRANULARITY)
        return period + (self.peer_max_ack_delay if application else 0.0)

    def on_sent(self, space: PacketSpace, packet: SentPacket) -> None:
        """Note a packet of ours that is in flight."""
        space.sent[packet.number] = packet
        self.in_flight += packet.size
        if packet.elicits:
            space.last_elicited = packet.time

    def on_ack(
        self, space: PacketSpace, ack: Ack, now: float, exponent: int, *, frame_type: int
    ) -> tuple[list[SentPacket], list[SentPacket]]:
        """The packets that `ack` acknowledges for the first time, and those that are lost by it. Raises `Violation`."""
        if ack.largest >= space.next_number:
            what = f"ACK of packet {ack.largest}, the latest is {space.next_number - 1}"
            raise Violation(what, "RFC 9000 section 13.1", ErrorCode.PROTOCOL_VIOLATION, frame_type)
        acked = list(_covered(space.sent, ack.ranges))
        for packet in acked:
            del space.sent[packet.number]
            self.in_flight -= packet.size
        space.largest_acked = max(space.largest_acked, ack.largest)
        if not acked:
            return [], []
        largest = max(acked, key=lambda packet: packet.number)
        if largest.number == ack.largest and any(packet.elicits for packet in acked):
            delay = (ack.delay << exponent) / 1_000_000 if space.space == Space.APPLICATION else 0.0
            # Until the handshake is confirmed packets may wait for keys (RFC 9002 section 5.3).
            self._sample(now - largest.time, min(delay, self.peer_max_ack_delay) if self.confirmed else delay)
        self.pto_count = 0
        return acked, self.find_lost(space, now)

    def _sample(self, latest: float, delay: float) -> None:
        self.latest = latest = max(latest, 0.0)
        if not self.has_sample:
            self.has_sample = True
            self.minimum = self.smoothed = latest
            self.variance = latest / 2
            return
        self.minimum = min(self.minimum, latest)
        adjusted = latest - delay if latest >= self.minimum + delay else latest
        self.variance = 0.75 * self.variance + 0.25 * abs(self.smoothed - adjusted)
        self.smoothed = 0.875 * self.smoothed + 0.125 * adjusted

    def find_lost(self, space: PacketSpace, now: float) -> list[SentPacket]:
        """Packets that are lost by now (RFC 9002 section 6.1); sets the time of the next look."""
        space.loss_time = None
        delay = max(TIME_THRESHOLD * max(self.latest, self.smoothed), GRANULARITY)
        lost = []
        for number, packet in space.sent.items():
            if number > space.largest_acked:
                break
            if number <= space.largest_acked - PACKET_THRESHOLD or packet.time + delay <= now:
                lost.append(packet)
            else:
                when = packet.time + delay
                space.loss_time = when if space.loss_time is None else min(space.loss_time, when)
        for packet in lost:
            self.forget(space, packet)
        self.lost += len(lost)
        return lost

    def forget(self, space: PacketSpace, packet: SentPacket) -> None:
        """The packet is no longer in flight."""
        if space.sent.pop(packet.number, None) is not None:
            self.in_flight -= packet.size

    def discard(self, space: PacketSpace) -> None:
        """The keys of a space are gone (RFC 9002 section 6.4)."""
        for packet in list(space.sent.values()):
            self.forget(space, packet)
        space.discarded = True
        space.loss_time = None
        space.ack_due = False
        space.probes = 0
        space.queue.clear()
        space.said.clear()
        self.pto_count = 0

    def loss_timer(self, spaces: Iterable[PacketSpace]) -> tuple[float, PacketSpace] | None:
        """The earliest time at which a packet may be lost by age."""
        due = [(space.loss_time, space.space, space) for space in spaces if space.loss_time is not None]
        if not due:
            return None
        when, _, space = min(due, key=lambda each: each[:2])
        return when, space

    def backoff(self, period: float) -> float:
        """The period after the probes so far."""
        return float(period * (1 << min(self.pto_count, 16)))


def _covered(sent: dict[int, SentPacket], ranges: tuple[tuple[int, int], ...]) -> Iterable[SentPacket]:
    """Those of `sent` (in order of number) that lie in `ranges` (highest first), in order."""
    rising = iter(reversed(ranges))
    current = next(rising, None)
    for number, packet in sent.items():
        while current is not None and current[1] < number:
            current = next(rising, None)
        if current is None:
            return
        if current[0] <= number:
            yield packet
