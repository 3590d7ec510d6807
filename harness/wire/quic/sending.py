"""Building datagrams: which frames go into which packets, in what order, and when (RFC 9000 sections 12 to 14)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.wire.quic.crypto import PacketKeys
from harness.wire.quic.events import PacketInfo
from harness.wire.quic.frames import (
    ConnectionClose,
    Crypto,
    Frame,
    Padding,
    PathChallenge,
    PathResponse,
    Ping,
    elicits,
    levels_of,
)
from harness.wire.quic.numbers import MIN_INITIAL, SPACE_OF, ErrorCode, Level, PacketKind
from harness.wire.quic.packet import KIND_OF_LEVEL, Outgoing
from harness.wire.quic.recovery import PacketSpace, SentPacket
from harness.wire.quic.state import ConnectionState, Said

MAX_LONG = 16000
"""Octets of a packet whose header has a length field of two octets."""
LEAST_ROOM = 48
"""Octets below which no packet is begun."""
MANY_RANGES = 16
"""Ranges of received packets above which an ACK asks for an answer, so that they can be forgotten."""


@dataclass(slots=True)
class Planned:
    """One packet of a datagram that is being put together."""

    level: Level
    space: PacketSpace
    outgoing: Outgoing
    room: int
    frames: list[Frame] = field(default_factory=list)
    pings: tuple[int, ...] = ()
    payload: bytearray = field(default_factory=bytearray)

    def add(self, frame: Frame) -> None:
        """Put `frame` at the end."""
        octets = frame.frame.encode() if isinstance(frame, Said) else frame.encode()
        self.frames.append(frame)
        self.payload += octets
        self.room -= len(octets)

    @property
    def elicits(self) -> bool:
        """Whether the packet is to be acknowledged."""
        return any(elicits(_plain(frame)) for frame in self.frames)

    @property
    def size(self) -> int:
        """Octets of the whole packet."""
        return self.outgoing.overhead() + max(len(self.payload), 4 - self.outgoing.number_length)


def _plain(frame: Frame) -> Frame:
    return frame.frame if isinstance(frame, Said) else frame


class Sending(ConnectionState):
    """From what is due to datagrams."""

    def build(self) -> Iterator[bytes]:
        """All datagrams that may go out now."""
        if self.over or self.draining or not self.write_keys_ready:
            return
        if self.closing is not None:
            if self.close_due:
                self.close_due = False
                yield from self._finish(self._closing_packets(self.closing))
            return
        while True:
            datagram = self._finish(self._plan_all())
            if not datagram:
                return
            yield from datagram

    @property
    def write_keys_ready(self) -> bool:
        """Whether anything can be sent at all."""
        return bool(self.write_keys) or self.one_rtt.write is not None

    def keys_of(self, level: Level) -> PacketKeys | None:
        """Our keys of a level, where we have them."""
        return self.one_rtt.write if level == Level.APPLICATION else self.write_keys.get(level)

    def _room(self) -> int:
        room = self.options.datagram_size
        if self.remote_parameters is not None:
            room = min(room, self.remote_parameters.max_udp_payload_size)
        return min(room, self.amplification_room())

    def amplification_room(self) -> int:
        """Octets that we may send to an address that is not validated (RFC 9000 section 8.1)."""
        return 1 << 20

    def _begin(self, level: Level, room: int) -> Planned | None:
        space = self.spaces[SPACE_OF[level]]
        number = space.next_number
        application = level == Level.APPLICATION
        outgoing = Outgoing(
            kind=KIND_OF_LEVEL[level],
            version=self.version,
            destination=self.remote_id,
            source=self.source_id,
            token=self.initial_token() if level == Level.INITIAL else b"",
            number=number,
            number_length=2 if number - space.largest_acked < 1 << 14 else 4,
            phase=bool(self.one_rtt.write_generation & 1) and application,
            reserved=self.options.reserved_bits if application else 0,
            fixed=self.options.fixed_bit or not application,
        )
        room = (room if application else min(room, MAX_LONG)) - outgoing.overhead()
        if room < LEAST_ROOM:
            return None
        return Planned(level, space, outgoing, room)

    def initial_token(self) -> bytes:
        """The token of our Initial packets."""
        return b""

    # What goes into a datagram

    def _plan_all(self) -> list[Planned]:
        room = self._room()
        planned: list[Planned] = []
        for level in Level:
            if self.keys_of(level) is None:
                continue
            packet = self._begin(level, room)
            if packet is None:
                break
            self._fill(packet)
            if packet.frames:
                planned.append(packet)
                room -= packet.size
        return planned

    def _fill(self, packet: Planned) -> None:
        space = packet.space
        if space.ack_due and self.options.acknowledge and packet.level != Level.EARLY:
            ack = space.ack(self.now, 3)
            if len(ack.encode()) <= packet.room:
                packet.add(ack)
                space.ack_due = False
                if len(ack.ranges) > MANY_RANGES and self.recovery.in_flight < self.options.window:
                    packet.add(Ping())
        if self.recovery.in_flight >= self.options.window and not space.probes:
            return
        if space.said:
            self._fill_said(packet)
        else:
            self._fill_crypto(packet)
            if packet.level in (Level.EARLY, Level.APPLICATION):
                self._fill_data(packet)
            self._fill_pings(packet)
        if space.probes:
            if not packet.elicits:
                packet.add(Ping())
            space.probes -= 1

    def _fill_said(self, packet: Planned) -> None:
        said = packet.space.said
        while said:
            size = len(said[0].encode())
            if size > packet.room and any(isinstance(frame, Said) for frame in packet.frames):
                return
            packet.add(Said(said.popleft()))
            if getattr(packet.frames[-1].frame, "implicit_length", False):  # type: ignore[attr-defined]
                return

    def _fill_crypto(self, packet: Planned) -> None:
        if packet.level == Level.EARLY:
            return
        out = packet.space.crypto_out
        while out.due:
            taken = out.take(packet.room - 12, 1 << 62) if packet.room > LEAST_ROOM else None
            if taken is None:
                return
            packet.add(Crypto(taken[0], taken[1]))

    def _fill_pings(self, packet: Planned) -> None:
        if packet.space.pings and packet.room > 1:
            packet.pings = tuple(packet.space.pings)
            packet.space.pings.clear()
            if not packet.elicits:
                packet.add(Ping())

    def _fill_data(self, packet: Planned) -> None:
        self._fill_control(packet)
        while self.datagrams:
            frame = self.datagrams[0]
            if len(frame.encode()) > packet.room:
                if not packet.frames:
                    self.datagrams.popleft()  # Cannot ever go out: the room was smaller than it seemed.
                    continue
                return
            packet.add(self.datagrams.popleft())
        while packet.room > LEAST_ROOM:
            stream = self.table.next_frame(packet.room)
            if stream is None:
                break
            packet.add(stream)
        # A stream that is blocked says so.
        self._fill_control(packet)

    def _fill_control(self, packet: Planned) -> None:
        queue = packet.space.queue
        kept: list[Frame] = []
        while queue:
            frame = queue.popleft()
            if packet.level not in levels_of(frame) or len(frame.encode()) > packet.room:
                kept.append(frame)
            else:
                packet.add(frame)
        queue.extend(kept)

    # CONNECTION_CLOSE

    def _closing_packets(self, close: ConnectionClose) -> list[Planned]:
        """CONNECTION_CLOSE at every level that the other side may be able to read (RFC 9000 section 10.2.3)."""
        levels = [level for level in (Level.INITIAL, Level.HANDSHAKE, Level.APPLICATION) if self.keys_of(level)]
        planned: list[Planned] = []
        room = self._room()
        for level in levels:
            packet = self._begin(level, room)
            if packet is None:
                break
            frame = close
            if close.application and level != Level.APPLICATION:
                frame = ConnectionClose(ErrorCode.APPLICATION_ERROR)
            spare = packet.room - len(dataclasses.replace(frame, reason=b"").encode()) - 2
            packet.add(dataclasses.replace(frame, reason=frame.reason[: max(0, spare)]))
            planned.append(packet)
            room -= packet.size
        return planned

    # Out of the house

    def _finish(self, planned: list[Planned]) -> list[bytes]:
        if not planned:
            return []
        self._pad(planned)
        total = sum(packet.size for packet in planned)
        datagram = b"".join(self._seal(packet, total) for packet in planned)
        self.octets_sent += len(datagram)
        self.sizes_sent[len(datagram)] += 1
        self.last_sent = self.now
        return [datagram]

    def _pad(self, planned: list[Planned]) -> None:
        if not any(self._wants_padding(packet) for packet in planned):
            return
        missing = min(MIN_INITIAL, self._room()) - sum(packet.size for packet in planned)
        if missing > 0:
            # What a short payload gets so that it can be sampled is part of it.
            missing += planned[-1].size - planned[-1].outgoing.overhead() - len(planned[-1].payload)
            planned[-1].payload += bytes(missing)
            planned[-1].frames.append(Padding(missing))

    def _wants_padding(self, packet: Planned) -> bool:
        if packet.level == Level.INITIAL:
            # A server pads what elicits an acknowledgment, a client every Initial (RFC 9000 section 14.1).
            return self.options.pad_initials and (self.is_client or packet.elicits)
        # What validates a path proves that it carries 1200 octets (RFC 9000 sections 8.2.1 and 8.2.2).
        return any(isinstance(_plain(frame), PathChallenge | PathResponse) for frame in packet.frames)

    def _seal(self, packet: Planned, total: int) -> bytes:
        keys = self.keys_of(packet.level)
        assert keys is not None
        if not packet.payload:
            # A script wants no frames at all: a number of four octets is enough to sample (RFC 9001 section 5.4.2).
            packet.outgoing = dataclasses.replace(packet.outgoing, number_length=4)
        sealed = packet.outgoing.seal(keys, bytes(packet.payload))
        packet.space.next_number += 1
        frames = tuple(frame for frame in packet.frames if not isinstance(frame, Padding))
        if packet.elicits:
            sent = SentPacket(packet.outgoing.number, packet.level, self.now, len(sealed), True, frames, packet.pings)
            self.recovery.on_sent(packet.space, sent)
            if not self._eliciting_sent:
                self._eliciting_sent = True
                self.last_activity = self.now
        outgoing = packet.outgoing
        self.note_sent(
            PacketInfo(
                self.now,
                outgoing.kind,
                len(sealed),
                outgoing.version,
                outgoing.number,
                outgoing.destination,
                outgoing.source,
                tuple(_plain(frame) for frame in packet.frames),
                self.one_rtt.write_generation & 1 if outgoing.kind == PacketKind.SHORT else None,
                total,
            )
        )
        self.on_packet_sent(packet.level)
        return sealed

    def on_packet_sent(self, level: Level) -> None:
        """A packet of that level goes out."""
