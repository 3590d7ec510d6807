"""Faults: decisions are a pure function of the plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.link.faults import (
    DIRECTIONS,
    FROM_ENGINE,
    MAX_HELD,
    PASS,
    TO_ENGINE,
    Blackhole,
    Corrupt,
    DatagramWay,
    Delay,
    Drop,
    Duplicate,
    Fault,
    FaultPlan,
    HalfOpen,
    Rebind,
    Reset,
    StreamWay,
    read_plan,
)

# decisions

SHARES: dict[str, Any] = {"loss": 0.2, "reorder": 0.2, "duplicate": 0.2, "corrupt": 0.2}
KINDS = {"loss": Drop, "reorder": Delay, "duplicate": Duplicate, "corrupt": Corrupt}


def chance(name: str, share: float) -> dict[str, Any]:
    return {name: share}


def decisions(plan: FaultPlan, count: int = 2000, direction: str = TO_ENGINE, flow: int = 0) -> list[Fault]:
    return [plan.decide(direction, number, flow) for number in range(count)]


def test_a_decision_depends_on_nothing_but_seed_flow_direction_and_number() -> None:
    plan = FaultPlan(seed=7, **SHARES)
    told = decisions(plan)
    assert decisions(FaultPlan(seed=7, **SHARES)) == told
    assert [plan.decide(TO_ENGINE, number) for number in reversed(range(2000))] == told[::-1]
    others = [decisions(plan, direction=FROM_ENGINE), decisions(plan, flow=1), decisions(replace(plan, seed=8))]
    assert all(other != told for other in others)


def test_decisions_stay_as_they_are() -> None:
    """A seed that was printed months ago must lead to the same packets."""
    plan = FaultPlan(seed=7, **SHARES)
    assert decisions(plan, 7) == [
        Corrupt(3751, 239),
        Delay(3),
        Corrupt(30491, 169),
        Duplicate(),
        Corrupt(42386, 140),
        Corrupt(61026, 30),
        PASS,
    ]


@pytest.mark.parametrize("name", list(SHARES))
def test_a_share_is_the_share_of_packets(name: str) -> None:
    alone = Counter(map(type, decisions(FaultPlan(seed=1, **chance(name, 0.1)))))
    assert set(alone) == {KINDS[name], Fault}
    assert 140 < alone[KINDS[name]] < 260
    assert set(decisions(FaultPlan(seed=1, **chance(name, 1.0)))).isdisjoint({PASS})
    together = Counter(map(type, decisions(FaultPlan(seed=1, **SHARES))))
    assert all(300 < together[kind] < 500 for kind in KINDS.values())


def test_the_table_comes_before_chance() -> None:
    plan = FaultPlan({(TO_ENGINE, 3): Duplicate(2), (FROM_ENGINE, 0): PASS}, loss=1.0)
    assert decisions(plan, 5) == [Drop(), Drop(), Drop(), Duplicate(2), Drop()]
    assert decisions(plan, 2, FROM_ENGINE) == [PASS, Drop()]
    assert decisions(FaultPlan(), 5) == [PASS] * 5


def test_a_plan_with_a_seed_of_its_own() -> None:
    plan = FaultPlan(seed=7, loss=0.5)
    made = plan.seeded("case[a]", 1)
    assert made == plan.seeded("case[a]", 1)
    assert (
        len({made.seed, plan.seed, plan.seeded("case[a]", 2).seed, replace(plan, seed=8).seeded("case[a]", 1).seed})
        == 4
    )
    assert replace(made, seed=7) == plan


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"loss": -0.1}, "loss: found -0.1"),
        ({"corrupt": 1.5}, "corrupt: found 1.5"),
        ({"loss": float("nan")}, "loss: found nan"),
        ({"loss": 0.6, "reorder": 0.6}, "found 1.2 together"),
        ({"table": {("to_client", 1): Drop()}}, "to_client"),
        ({"table": {(TO_ENGINE, -1): Drop()}}, "-1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(facts: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FaultPlan(**facts)


@pytest.mark.parametrize(
    ("kind", "facts", "told"),
    [
        (Duplicate, {"copies": 0}, "copies: found 0, allowed is 1 or more"),
        (Delay, {"packets": 0}, "packets: found 0"),
        (Corrupt, {"octet": -1}, "octet: found -1"),
        (Corrupt, {"mask": 0}, "mask: found 0, allowed is 1 to 255"),
        (Corrupt, {"mask": 256}, "mask: found 256"),
    ],
)
def test_a_fault_that_does_nothing_is_refused(kind: type[Fault], facts: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind(**facts)


def test_a_plan_as_text() -> None:
    assert read_plan("loss=0.01, reorder=.02,seed=7") == FaultPlan(seed=7, loss=0.01, reorder=0.02)
    assert str(read_plan("duplicate=1,corrupt=0")) == "duplicate=1.0,seed=0"
    assert str(FaultPlan()) == "no faults"
    plan = FaultPlan(seed=1 << 60, loss=1 / 3, reorder=1e-9, corrupt=0.1)
    assert read_plan(plan.written) == plan
    assert str(FaultPlan({(TO_ENGINE, 3): Drop()})) == "to_engine 3: dropped"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found ''"),
        ("losss=0.1", "found 'losss=0.1', allowed is NAME=NUMBER with a NAME of seed, loss"),
        ("loss", "found 'loss'"),
        ("loss=lots", "loss: found 'lots'"),
        ("loss=2", "loss: found 2"),
        ("loss=nan", "loss: found nan"),
        ("seed=1.5,loss=1", "seed: found '1.5', allowed is a whole number"),
        ("loss=0.1,loss=0.2", "found 'loss' twice"),
        ("seed=7", "does nothing"),
    ],
)
def test_a_text_that_is_no_plan_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_plan(text)


# the way of datagrams


def passed(plan: FaultPlan, packets: list[bytes], direction: str = TO_ENGINE) -> list[bytes]:
    way = DatagramWay(plan)
    return [going for packet in packets for going in way.take(direction, packet).packets]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (PASS, b"0 1 2 3 4 5"),
        (Drop(), b"0 1 3 4 5"),
        (Duplicate(), b"0 1 2 2 3 4 5"),
        (Duplicate(3), b"0 1 2 2 2 2 3 4 5"),
        (Delay(1), b"0 1 3 2 4 5"),
        (Delay(3), b"0 1 3 4 5 2"),
        (Delay(4), b"0 1 3 4 5"),
        (Corrupt(0, 0x03), b"0 1 1 3 4 5"),
        (Corrupt(9, 0x03), b"0 1 1 3 4 5"),
        (HalfOpen(), b"0 1"),
        (Blackhole(), b"0 1"),
        (Rebind(), b"0 1 2 3 4 5"),
    ],
)
def test_what_each_fault_does_to_packet_2(fault: Fault, expected: bytes) -> None:
    assert b" ".join(passed(FaultPlan({(TO_ENGINE, 2): fault}), numbered(6))) == expected


def test_what_is_held_back_counts_packets_that_were_lost_and_only_its_direction() -> None:
    way = DatagramWay(FaultPlan({(TO_ENGINE, 0): Delay(2), (TO_ENGINE, 1): Drop(), (TO_ENGINE, 2): Drop()}))
    assert way.take(TO_ENGINE, b"a").packets == ()
    assert way.take(FROM_ENGINE, b"x").packets == (b"x",)
    assert way.take(TO_ENGINE, b"b").packets == ()
    assert way.take(TO_ENGINE, b"c").packets == (b"a",)
    assert way.counts == {TO_ENGINE: 3, FROM_ENGINE: 1}


def test_half_open_is_one_way_and_blackhole_both() -> None:
    for fault, back in ((HalfOpen(), (b"x",)), (Blackhole(), ())):
        way = DatagramWay(FaultPlan({(TO_ENGINE, 0): Delay(2), (TO_ENGINE, 1): fault}))
        way.take(TO_ENGINE, b"held")
        told = way.take(TO_ENGINE, b"b")
        assert (told.fault, told.packets, told.notable) == (fault, (), True)
        assert way.take(FROM_ENGINE, b"x").packets == back
        later = [way.take(TO_ENGINE, packet) for packet in numbered(4)]
        assert [(passage.packets, passage.notable) for passage in later] == [((), False)] * 4


def test_an_empty_packet_cannot_be_corrupted() -> None:
    assert passed(FaultPlan(corrupt=1.0), [b"", b"a", b""]) != [b"", b"a", b""]
    assert passed(FaultPlan(corrupt=1.0), [b""]) == [b""]


def test_what_is_held_back_has_a_limit() -> None:
    way = DatagramWay(FaultPlan({(TO_ENGINE, number): Delay(1 << 40) for number in range(3 * MAX_HELD)}))
    out = [going for packet in numbered(3 * MAX_HELD) for going in way.take(TO_ENGINE, packet).packets]
    assert out == numbered(2 * MAX_HELD)


@given(st.lists(st.binary(max_size=4), max_size=80), st.integers(0, 1 << 32))
def test_no_packet_is_invented_and_each_change_is_told(packets: list[bytes], seed: int) -> None:
    plan = FaultPlan(seed=seed, **SHARES)
    way = DatagramWay(plan)
    for direction in DIRECTIONS:
        known: Counter[bytes] = Counter()
        for number, packet in enumerate(packets):
            passage = way.take(direction, packet)
            known[packet] += 1
            if isinstance(passage.fault, Corrupt):
                known[passage.packets[0]] += 1
            known[packet] += isinstance(passage.fault, Duplicate)
            known.subtract(passage.packets)
            assert passage.fault == plan.decide(direction, number)
            assert min(known.values()) >= 0
            if not passage.notable:
                assert passage.packets[0] == packet


def test_a_fault_of_tcp_cannot_be_done_to_datagrams() -> None:
    with pytest.raises(ValueError, match="Reset cannot be done to datagrams"):
        DatagramWay(FaultPlan({(TO_ENGINE, 1): Reset()}))


# the way of octets


def cut(plan: FaultPlan, chunks: list[bytes]) -> list[tuple[bytes, int, Fault]]:
    way = StreamWay(plan, TO_ENGINE)
    return [step for chunk in chunks for step in way.take(chunk)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_octets_are_counted_however_they_arrive_together(sizes: list[int]) -> None:
    said = bytes(range(100))
    chunks: list[bytes] = []
    rest = said
    while rest:
        chunks.append(rest[: sizes[len(chunks) % len(sizes)]])
        rest = rest[len(chunks[-1]) :]
    plan = FaultPlan({(TO_ENGINE, 0): Corrupt(mask=1), (TO_ENGINE, 50): Corrupt(), (TO_ENGINE, 99): Reset()})
    steps = cut(plan, chunks)
    before = b"".join(piece for piece, _, _ in steps[: [fault for _, _, fault in steps].index(Reset()) + 1])
    assert before == b"\x01" + said[1:50] + bytes((50 ^ 0xFF,)) + said[51:99]
    assert [(number, fault) for _, number, fault in steps if fault is not PASS] == [
        (number, fault) for (_, number), fault in plan.table.items()
    ]


def test_the_faults_of_the_other_direction_are_not_ours() -> None:
    assert cut(FaultPlan({(FROM_ENGINE, 0): Reset()}), [b"ab"]) == [(b"ab", 2, PASS)]


@pytest.mark.parametrize("plan", [FaultPlan(loss=0.1), FaultPlan({(TO_ENGINE, 1): Drop()})])
def test_what_tcp_repairs_is_refused(plan: FaultPlan) -> None:
    with pytest.raises(ValueError, match="which repairs it"):
        StreamWay(plan, TO_ENGINE)
