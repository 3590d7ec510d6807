"""What a network may do to packets on their way, decided without I/O: the same plan does the same to the same packets.

A plan is data. `FaultPlan(seed=7, loss=0.01)` decides packet by packet from the seed; `FaultPlan({("to_engine", 3):
Drop()})` names packets, which count from 0 in each direction of each flow. Of TCP, which repairs what is done to its
packets, the numbers are those of octets. `harness.link.relay` does what is decided here.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

TO_ENGINE, FROM_ENGINE = "to_engine", "from_engine"
DIRECTIONS = (TO_ENGINE, FROM_ENGINE)
SPOKEN = {TO_ENGINE: "to the engine", FROM_ENGINE: "from the engine"}
REORDERED_BY = 3
"""A packet that is reordered by chance comes up to so many packets late."""
MAX_HELD = 256
"""Packets of one direction that may be held back; the one that is held the longest goes on when there are more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one packet. This one does nothing."""

    DATAGRAMS: ClassVar[bool] = True
    """Whether it can be done to a flow of datagrams."""
    STREAMS: ClassVar[bool] = False
    """Whether it can be done at an octet of a TCP connection."""

    def __str__(self) -> str:
        return "passed"


@dataclass(frozen=True, slots=True)
class Drop(Fault):
    """It never arrives."""

    def __str__(self) -> str:
        return "dropped"


@dataclass(frozen=True, slots=True)
class Duplicate(Fault):
    """It arrives once more, `copies` times, right behind itself."""

    copies: int = 1

    def __post_init__(self) -> None:
        _at_least(1, copies=self.copies)

    def __str__(self) -> str:
        return f"sent {self.copies + 1} times"


@dataclass(frozen=True, slots=True)
class Delay(Fault):
    """It arrives behind the next `packets` packets of its direction, lost ones included; never, where none follow."""

    packets: int = 1

    def __post_init__(self) -> None:
        _at_least(1, packets=self.packets)

    def __str__(self) -> str:
        return f"held back behind the next {self.packets}"


@dataclass(frozen=True, slots=True)
class Corrupt(Fault):
    """The bits of `mask` in octet `octet` arrive flipped; beyond its end the octets are counted from the beginning
    again. Of TCP it is the octet of the table's key."""

    STREAMS = True
    octet: int = 0
    mask: int = 0xFF

    def __post_init__(self) -> None:
        _at_least(0, octet=self.octet)
        if not 1 <= self.mask <= 0xFF:
            raise ValueError(f"mask: found {self.mask}, allowed is 1 to 255")

    def __str__(self) -> str:
        return f"corrupted ({f'octet {self.octet}, ' if self.octet else ''}bits {self.mask:02x})"


@dataclass(frozen=True, slots=True)
class HalfOpen(Fault):
    """From here on nothing arrives in this direction any more; the other goes on."""

    STREAMS = True

    def __str__(self) -> str:
        return "and whatever follows in this direction lost"


@dataclass(frozen=True, slots=True)
class Blackhole(Fault):
    """From here on nothing arrives in either direction any more."""

    STREAMS = True

    def __str__(self) -> str:
        return "and whatever follows in either direction lost"


@dataclass(frozen=True, slots=True)
class Rebind(Fault):
    """From here on the flow comes to the engine from another port, as behind a NAT that forgot it."""

    def __str__(self) -> str:
        return "passed from another port"


@dataclass(frozen=True, slots=True)
class Reset(Fault):
    """The connection is reset on both sides; what came before has arrived."""

    DATAGRAMS = False
    STREAMS = True

    def __str__(self) -> str:
        return "answered with RST on both sides"


def _at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if value < low:
            raise ValueError(f"{name}: found {value}, allowed is {low} or more")


Table = Mapping[tuple[str, int], Fault]
PASS = Fault()


@dataclass(frozen=True)
class FaultPlan:
    """What happens to which packet: the `table` says it for some, chance for the others.

    `loss`, `reorder`, `duplicate`, `corrupt` are the shares (0 to 1, together at most 1) of packets that each happens
    to; none gets two. `decide` is a pure function of the seed, the flow, the direction and the packet's number.
    Raises `ValueError`.
    """

    table: Table = field(default_factory=dict)
    seed: int = 0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0

    SHARES: ClassVar = ("loss", "reorder", "duplicate", "corrupt")

    def __post_init__(self) -> None:
        for name in self.SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: found {getattr(self, name):g}, allowed is a share from 0 to 1")
        if (total := sum(self._shares)) > 1:
            raise ValueError(f"{', '.join(self.SHARES)}: found {total:g} together, allowed is at most 1")
        for direction, number in self.table:
            if direction not in DIRECTIONS or number < 0:
                raise ValueError(f"table: found {(direction, number)}, allowed is ({' or '.join(DIRECTIONS)}, 0 ..)")

    @property
    def _shares(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in self.SHARES)

    @property
    def by_chance(self) -> bool:
        """Whether anything is left to chance."""
        return any(self._shares)

    def decide(self, direction: str, number: int, flow: int = 0) -> Fault:
        """What happens to packet `number` of a `direction` of the relay's flow `flow`."""
        if (direction, number) in self.table:
            return self.table[direction, number]
        if not self.by_chance:
            return PASS
        drawn = hashlib.sha256(f"{self.seed}/{flow}/{direction}/{number}".encode()).digest()
        point = int.from_bytes(drawn[:8], "big") / (1 << 64)
        made = (Drop(), Delay(1 + drawn[8] % REORDERED_BY), Duplicate(), _corruption(drawn[9:]))
        for fault, end in zip(made, itertools.accumulate(self._shares), strict=True):
            if point < end:
                return fault
        return PASS

    def seeded(self, *words: object) -> FaultPlan:
        """The same plan with a seed of its own, made of this one and `words`."""
        told = "/".join(map(str, (self.seed, *words)))
        return replace(self, seed=int.from_bytes(hashlib.sha256(told.encode()).digest()[:6], "big"))

    @property
    def written(self) -> str:
        """What is left to chance as `read_plan` reads it; empty where nothing is."""
        shown = [f"{name}={getattr(self, name)!r}" for name in self.SHARES if getattr(self, name)]
        return ",".join([*shown, f"seed={self.seed}"]) if shown else ""

    def __str__(self) -> str:
        named = [f"{direction} {number}: {fault}" for (direction, number), fault in self.table.items()]
        return ", ".join(filter(None, (self.written, *named))) or "no faults"


def _corruption(drawn: bytes) -> Corrupt:
    return Corrupt(int.from_bytes(drawn[:2], "big"), drawn[2] or 0xFF)


def read_plan(text: str) -> FaultPlan:
    """The plan of `loss=0.01,reorder=0.01,seed=7`. Raises `ValueError` with what was found and what is allowed."""
    known = ("seed", *FaultPlan.SHARES)
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in known or not equals:
            raise ValueError(f"found {part.strip()!r}, allowed is NAME=NUMBER with a NAME of {', '.join(known)}")
        if name in values:
            raise ValueError(f"found {name!r} twice")
        try:
            values[name] = int(value) if name == "seed" else float(value)
        except ValueError:
            allowed = "a whole number" if name == "seed" else "a share from 0 to 1"
            raise ValueError(f"{name}: found {value!r}, allowed is {allowed}") from None
    plan = FaultPlan(**values)  # type: ignore[arg-type]  # `seed` is whole: see above
    if not plan.by_chance:
        raise ValueError(f"found {text!r}, which does nothing: allowed is a share above 0 of {', '.join(known[1:])}")
    return plan


@dataclass(frozen=True, slots=True)
class Passage:
    """What one packet led to: `packets` go on, in order, after the port was changed if `rebind` says so."""

    number: int
    fault: Fault
    packets: tuple[bytes, ...]
    rebind: bool = False

    @property
    def notable(self) -> bool:
        """Whether the packet is told of: what follows in a direction that is lost is not."""
        return self.fault is not PASS


class DatagramWay:
    """The way of one flow's packets. `number` is the flow's, by order of arrival."""

    def __init__(self, plan: FaultPlan, number: int = 0) -> None:
        for fault in plan.table.values():
            if not fault.DATAGRAMS:
                raise ValueError(f"table: {type(fault).__name__} cannot be done to datagrams")
        self._plan = plan
        self._number = number
        self._closed = dict.fromkeys(DIRECTIONS, False)
        self._held: dict[str, list[tuple[int, bytes]]] = {direction: [] for direction in DIRECTIONS}
        self.counts = dict.fromkeys(DIRECTIONS, 0)
        """Packets that came, of each direction."""

    def lose(self, *directions: str) -> None:
        """From now on nothing arrives in `directions`."""
        for direction in directions:
            self._closed[direction] = True

    def take(self, direction: str, packet: bytes) -> Passage:
        """Decide about the next packet of a direction."""
        number = self.counts[direction]
        self.counts[direction] += 1
        fault = self._plan.decide(direction, number, self._number)
        if isinstance(fault, HalfOpen):
            self.lose(direction)
        elif isinstance(fault, Blackhole):
            self.lose(*DIRECTIONS)
        if self._closed[direction]:
            self._held[direction].clear()
            return Passage(number, fault if isinstance(fault, HalfOpen | Blackhole) else PASS, ())
        packets = [*_arriving(fault, packet), *self._released(direction, number)]
        if isinstance(fault, Delay):
            self._held[direction].append((number + fault.packets, packet))
        return Passage(number, fault, tuple(packets), rebind=isinstance(fault, Rebind))

    def _released(self, direction: str, number: int) -> Iterator[bytes]:
        """What was held back until packet `number`, and what there is no room for."""
        held = self._held[direction]
        due = [entry for entry in held if entry[0] <= number]
        left = [entry for entry in held if entry[0] > number]
        while len(left) >= MAX_HELD:
            due.append(left.pop(0))
        self._held[direction] = left
        return (packet for _, packet in due)


def _arriving(fault: Fault, packet: bytes) -> tuple[bytes, ...]:
    if isinstance(fault, Drop | Delay):
        return ()
    if isinstance(fault, Duplicate):
        return (packet,) * (fault.copies + 1)
    if isinstance(fault, Corrupt) and packet:
        return (_flipped(packet, fault.octet % len(packet), fault.mask),)
    return (packet,)


def _flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :]


class StreamWay:
    """The way of one direction of a TCP connection. Its faults come from the table alone."""

    def __init__(self, plan: FaultPlan, direction: str) -> None:
        if plan.by_chance:
            raise ValueError(f"{', '.join(plan.SHARES)}: chance has no hold on TCP, which repairs it: name octets")
        for fault in plan.table.values():
            if not fault.STREAMS:
                raise ValueError(f"table: {type(fault).__name__} cannot be done to TCP, which repairs it")
        self._faults = sorted((number, fault) for (way, number), fault in plan.table.items() if way == direction)
        self.count = 0
        """Octets that came."""

    def take(self, data: bytes) -> Iterator[tuple[bytes, int, Fault]]:
        """Cut `data` where something happens: pairs of what goes on, and what happens behind it at which octet."""
        while self._faults and self._faults[0][0] < self.count + len(data):
            number, fault = self._faults.pop(0)
            at = number - self.count
            if isinstance(fault, Corrupt):
                piece, data = _flipped(data[: at + 1], at, fault.mask), data[at + 1 :]
            else:
                piece, data = data[:at], data[at:]
            self.count += len(piece)
            yield piece, number, fault
        self.count += len(data)
        yield data, self.count, PASS


__all__ = [
    "DIRECTIONS", "FROM_ENGINE", "PASS", "SPOKEN", "TO_ENGINE", "Blackhole", "Corrupt", "DatagramWay", "Delay", "Drop",
    "Duplicate", "Fault", "FaultPlan", "HalfOpen", "Passage", "Rebind", "Reset", "StreamWay", "read_plan",
]  # fmt: skip
