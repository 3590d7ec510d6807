"""Records what goes over the wire in one case, and makes a pcapng of it.

Recording only notes steps; packets are made when a capture is wanted, which is for what did not pass.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from harness.evidence import pcapng
from harness.evidence.packets import Conversation, Flow, Packets, Step
from harness.link.tap import SILENT, Address, TapStream
from harness.model.event import AGENT, DOWNSTREAM, UPSTREAM
from harness.version import suite_version

LIMIT = 8 << 20
"""Octets of one case that are kept (8 MiB), those of all its connections together."""
STEP_COST = 256
"""What a step counts on top of its octets: many small ones are bounded, too."""
TELLING = 32
"""Octets of a packet that is the same on two flows by no chance."""
CARRIED = "carried"
INTERFACES = {
    DOWNSTREAM: ("downstream", "client and engine"),
    UPSTREAM: ("upstream", "engine and upstream"),
    AGENT: ("agent", "agent and engine: control channel and data streams"),
    CARRIED: (
        "upstream (inside agent)",
        "what the agent carries, without its own TLS and frames; made-up addresses",
    ),
}
"""Name and description of the interface of each leg."""
ENGINE_SIDE, UPSTREAM_SIDE = "192.0.2.1", "192.0.2.2"
"""Between these a stream inside the agent's connection is drawn (TEST-NET-1, RFC 5737: nobody's)."""
UPSTREAM_PORT = 61000
"""No protocol's port, so that a dissector looks at the octets."""
_NOTE = (
    "Written by Edgecase from what its sockets took and gave. Octets, order, addresses and ends are real; "
    "the other fields of TCP, UDP and IP headers are not, nor are ICMP messages."
)


@dataclass(frozen=True, slots=True)
class _Noted:
    at: float
    stream: Recorded
    ours: bool
    step: Step | None
    """`None`: the connection was made."""
    data: bytes = b""


class Recorded(TapStream):
    """One connection of a recording. What is told behind a direction's end is passed over."""

    datagrams = False

    def __init__(self, recording: Recording, leg: str, local: Address, remote: Address, *, dialed: bool) -> None:
        self._recording = recording
        self.leg = leg
        self.local = local
        self.remote = remote
        self.dialed = dialed
        self.names: list[str] = []
        """In the transcript; two where both ends are ours."""
        self._in_place: Recorded | None = None
        self.about = ""
        self._over = {True: False, False: False}

    @property
    def open(self) -> bool:
        """Whether a direction is open."""
        return not all(self._over.values())

    def give_way(self, to: Recorded) -> None:
        """The other end of this connection is ours, too, and is recorded in its place."""
        self._in_place = to
        self._over = {True: True, False: True}
        to.names += self.names

    def label(self, name: str) -> None:
        """See `TapStream`."""
        names = (self._in_place or self).names
        if name not in names:
            names.append(name)

    def sent(self, data: bytes) -> None:
        """See `TapStream`."""
        self._note(True, Step.DATA, data)

    def got(self, data: bytes) -> None:
        """See `TapStream`."""
        self._note(False, Step.DATA, data)

    def sent_end(self) -> None:
        """See `TapStream`."""
        self._note(True, Step.END)

    def got_end(self) -> None:
        """See `TapStream`."""
        self._note(False, Step.END)

    def sent_reset(self) -> None:
        """See `TapStream`."""
        self._note(True, Step.RESET)

    def got_reset(self) -> None:
        """See `TapStream`."""
        self._note(False, Step.RESET)

    def _note(self, ours: bool, step: Step, data: bytes = b"") -> None:
        if step is Step.RESET and self.open:
            self._over = {True: True, False: True}
        elif self._over[ours] or (step is Step.DATA and not data and not self.datagrams):
            return
        elif step is Step.END:
            self._over[ours] = True
        self._recording.note(self, ours, step, data)

    def packets(self, serial: int) -> Packets:
        """Who makes the packets of it, which is number `serial` of the capture."""
        return Conversation(self.local, self.remote, serial)


class RecordedFlow(Recorded):
    """One flow of datagrams. Once we let it go it is over; the other side can only refuse it."""

    datagrams = True

    def sent_end(self) -> None:
        """See `TapStream`."""
        self._over = {True: True, False: True}

    def got_end(self) -> None:
        """See `TapStream`."""
        self.sent_end()

    def moved(self, local: Address) -> TapStream:
        """See `TapStream`; the names stay."""
        self.sent_end()
        stream = self._recording.datagrams(self.leg, local, self.remote, dialed=self.dialed)
        for name in self.names:
            stream.label(name)
        return stream

    def packets(self, serial: int) -> Packets:
        """See `Recorded`."""
        return Flow(self.local, self.remote)


class OtherEnd(TapStream):
    """The other end of a recorded connection, which is ours, too: told once is enough."""

    def __init__(self, stream: Recorded) -> None:
        self._stream = stream

    def label(self, name: str) -> None:
        """See `TapStream`."""
        self._stream.label(name)


class Recording:
    """What went over the wire since it was made.

    `clock` gives seconds (monotonic), `start` is the transcript's second 0 on it.
    Once `LIMIT` is reached nothing more is kept, and the capture says so.
    """

    def __init__(self, clock: Callable[[], float], start: float | None = None) -> None:
        self._clock = clock
        now = clock()
        self.start = now if start is None else start
        self._epoch = time.time_ns() - round(now * 1e9)
        self._noted: list[_Noted] = []
        self._streams: dict[tuple[type[Recorded], frozenset[Address]], Recorded] = {}
        self._key_logs: list[Sequence[str]] = []
        self._room = LIMIT
        self._carried = 0
        self.left_out = 0
        """Octets that found no room, those of all connections together."""
        self._full = False
        self._stopped = False

    def stream(self, leg: str, local: Address, remote: Address, *, dialed: bool) -> TapStream:
        """A connection that begins now. Where both of its ends are ours, the one that dialed is heard."""
        return self._begin(Recorded, leg, local, remote, dialed=dialed)

    def datagrams(self, leg: str, local: Address, remote: Address, *, dialed: bool) -> TapStream:
        """A flow of datagrams that begins now; as `stream`."""
        return self._begin(RecordedFlow, leg, local, remote, dialed=dialed)

    def _begin(self, kind: type[Recorded], leg: str, local: Address, remote: Address, *, dialed: bool) -> TapStream:
        if self._stopped:
            return SILENT
        key = (kind, frozenset((local, remote)))
        known = self._streams.get(key)
        other = known if known is not None and known.open and known.local == remote else None
        if other and not dialed:
            return OtherEnd(other)
        made = self._streams[key] = kind(self, leg, local, remote, dialed=dialed)
        if other:
            other.give_way(made)
            self._noted = [noted for noted in self._noted if noted.stream is not other]
        if not made.datagrams:
            self.note(made, dialed, None)
        return made

    def carried(self, inside: Address, *, dialed: bool) -> TapStream:
        """A stream inside the agent's connection from `inside`, drawn beside it with addresses of its own."""
        return self._begin_inside(Recorded, inside, dialed=dialed)

    def carried_datagrams(self, inside: Address, *, dialed: bool) -> TapStream:
        """Datagrams inside the agent's connection from `inside`, drawn as a flow beside it."""
        return self._begin_inside(RecordedFlow, inside, dialed=dialed)

    def _begin_inside(self, kind: type[Recorded], inside: Address, *, dialed: bool) -> TapStream:
        self._carried += 1
        local, remote = (UPSTREAM_SIDE, UPSTREAM_PORT), (ENGINE_SIDE, UPSTREAM_PORT + self._carried)
        stream = self._begin(kind, CARRIED, local, remote, dialed=dialed)
        if isinstance(stream, Recorded):
            stream.about = f"inside the agent's connection from port {inside[1]}"
        return stream

    def secrets(self, lines: Sequence[str]) -> None:
        """The key log of a TLS endpoint; it may still grow."""
        self._key_logs.append(lines)

    def note(self, stream: Recorded, ours: bool, step: Step | None, data: bytes = b"") -> None:
        """One step of a connection."""
        if self._stopped:
            return
        cost = len(data) + STEP_COST
        if self._full or cost > self._room:
            self._full = True
            self.left_out += len(data)
            return
        self._room -= cost
        self._noted.append(_Noted(self._clock(), stream, ours, step, bytes(data)))

    def stop(self) -> None:
        """Take nothing more, from connections that live on neither."""
        self._stopped = True

    @property
    def empty(self) -> bool:
        """Whether nothing went over any wire."""
        return not self._noted

    def forget(self, names: Collection[str]) -> None:
        """Forget the connections with these names."""
        self._noted = [noted for noted in self._noted if not set(noted.stream.names) & set(names)]

    def capture(self, comment: str, secrets: Sequence[str] = ()) -> bytes:
        """The pcapng: `comment` about all of it, `secrets` as further lines of a key log."""
        legs = [leg for leg in INTERFACES if any(noted.stream.leg == leg for noted in self._noted)]
        lines = dict.fromkeys(line for log in (*self._key_logs, secrets) for line in log)
        about = f"{comment}\n\n{_NOTE}\nSecond 0 of the transcript is {self._nanoseconds(self.start) / 1e9:.6f}."
        blocks = [pcapng.section(application=f"Edgecase {suite_version()}", system=platform.platform(), comment=about)]
        blocks += [pcapng.interface(*INTERFACES[leg]) for leg in legs]
        if lines:
            blocks.append(pcapng.tls_secrets(lines))
        return b"".join((*blocks, *self._packets(legs)))

    def _packets(self, legs: Sequence[str]) -> Iterator[bytes]:
        numbers = {leg: number for number, leg in enumerate(legs)}
        made: dict[Recorded, Packets] = {}
        last = self._noted[-1] if self._noted else None
        for noted in self._in_order():
            stream = noted.stream
            comment = ""
            if stream not in made:
                made[stream] = stream.packets(len(made) + 1)
                comment = _about(stream)
            if noted is last and self._full:
                comment = f"{comment} The recording ends here: {self._told_full()}".strip()
            for ours, packet in _made(made[stream], noted):
                direction = pcapng.OUTBOUND if ours else pcapng.INBOUND
                at = self._nanoseconds(noted.at)
                yield pcapng.packet(numbers[stream.leg], at, packet, direction=direction, comment=comment)
                comment = ""

    def _in_order(self) -> list[_Noted]:
        """What was noted, flow by flow behind the rest where a flow repeats packets of an earlier one, as on the far
        side of a relay or of an engine that forwards QUIC as it is. Wireshark takes both for one connection, and
        can decrypt it only where all that it sees first is of one flow."""
        begun: dict[Recorded, int] = {}
        first: dict[bytes, Recorded] = {}
        behind: dict[Recorded, int] = {}
        for noted in self._noted:
            number = begun.setdefault(noted.stream, len(begun) + 1)
            if noted.stream.datagrams and len(noted.data) >= TELLING:
                other = first.setdefault(noted.data, noted.stream)
                later = noted.stream if number > begun[other] else other
                if other is not noted.stream:
                    behind[later] = begun[later]
        return sorted(self._noted, key=lambda noted: behind.get(noted.stream, 0))

    def _told_full(self) -> str:
        return f"{LIMIT >> 20} MiB of one case are kept, {self.left_out:,} octets that followed are not."

    def _nanoseconds(self, at: float) -> int:
        return self._epoch + round(at * 1e9)


def _about(stream: Recorded) -> str:
    """The comment on a connection's first packet: its names in the transcript, and what carries it."""
    return ", ".join(part for part in (*stream.names, stream.about) if part)


def _made(packets: Packets, noted: _Noted) -> Iterator[tuple[bool, bytes]]:
    if noted.step is None:
        return packets.opened(dialed=noted.ours)
    return ((noted.ours, packet) for packet in packets.step(noted.ours, noted.step, noted.data))
