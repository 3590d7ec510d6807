"""Relays on loopback: they do to packets and octets what was decided, and tell it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from harness.link import relay
from harness.link.faults import (
    FROM_ENGINE,
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
)
from harness.link.relay import Relay, TcpRelay, UdpRelay
from harness.link.stream import LinkReset
from harness.link.tcp import TcpLink, TcpListener, connect_tcp
from harness.link.udp import UdpFlow, UdpLink, UdpListener, connect_udp

SHARES: dict[str, Any] = {"loss": 0.2, "reorder": 0.2, "duplicate": 0.2, "corrupt": 0.2}


def passed(plan: FaultPlan, packets: list[bytes], direction: str = TO_ENGINE) -> list[bytes]:
    way = DatagramWay(plan)
    return [going for packet in packets for going in way.take(direction, packet).packets]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# relays of UDP


async def until(condition: Callable[[], bool]) -> None:
    """Give way to the loop until `condition` holds."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


class Said:
    """The log of a relay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, what: str, detail: str) -> None:
        self.lines.append(f"{what}: {detail}")


Udp = tuple[UdpLink, UdpListener, UdpRelay, Said]


def over_udp(plan: FaultPlan, script: Callable[[Udp], Awaitable[None]]) -> list[str]:
    """Run `script` with a client, an engine behind the relay, and the relay; what that said."""
    said = Said()

    async def run() -> None:
        engine = UdpListener()
        await engine.start()
        relay = UdpRelay((engine.host, engine.port), plan, said, "relay-1")
        await relay.start()
        client = await connect_udp(relay.host, relay.port)
        try:
            async with asyncio.timeout(10):
                await script((client, engine, relay, said))
        finally:
            client.abort()
            await relay.close()
            await engine.stop()

    asyncio.run(run())
    return said.lines


async def taken(link: UdpLink | UdpFlow, count: int) -> list[bytes]:
    return [await link.receive() for _ in range(count)]


def test_a_relay_without_faults_passes_everything_both_ways() -> None:
    async def script(it: Udp) -> None:
        client, engine, _, _ = it
        packets = [*numbered(50), b"", bytes(60000)]
        for packet in packets:
            client.send(packet)
        flow = await engine.accept()
        assert await taken(flow, len(packets)) == packets
        for packet in packets:
            flow.send(packet)
        assert await taken(client, len(packets)) == packets

    assert over_udp(FaultPlan(), script) == [
        "relay: relay-1: flow 0: 52 packets to the engine, 52 packets from the engine"
    ]


def test_a_relay_does_what_was_decided_and_tells_packet_by_packet() -> None:
    plan = FaultPlan({(TO_ENGINE, 1): Drop(), (TO_ENGINE, 2): Delay(2), (FROM_ENGINE, 0): Duplicate()})

    async def script(it: Udp) -> None:
        client, engine, _, _ = it
        for packet in numbered(6):
            client.send(packet)
        flow = await engine.accept()
        assert await taken(flow, 5) == [b"0", b"3", b"4", b"2", b"5"]
        flow.send(b"back")
        assert await taken(client, 2) == [b"back", b"back"]

    assert over_udp(plan, script) == [
        "fault: relay-1: flow 0: packet 1 to the engine dropped, 1 octets",
        "fault: relay-1: flow 0: packet 2 to the engine held back behind the next 2, 1 octets",
        "fault: relay-1: flow 0: packet 0 from the engine sent 2 times, 4 octets",
        "relay: relay-1: flow 0: 6 packets to the engine, 1 packets from the engine",
    ]


def test_the_same_seed_does_the_same_on_the_wire() -> None:
    async def script(it: Udp) -> None:
        client, engine, _, _ = it
        for packet in numbered(40):
            client.send(packet)
        client.send(b"end")
        flow = await engine.accept()
        expected = passed(plan, [*numbered(40), b"end"])
        assert await taken(flow, len(expected)) == expected
        assert expected != [*numbered(40), b"end"]

    plan = FaultPlan(seed=11, **SHARES)
    assert over_udp(plan, script) == over_udp(plan, script)


def test_each_client_is_a_flow_with_a_port_and_numbers_of_its_own() -> None:
    async def script(it: Udp) -> None:
        client, engine, relay, _ = it
        client.send(b"a")
        client.send(b"b")
        first = await engine.accept()
        other = await connect_udp(relay.host, relay.port)
        other.send(b"c")
        other.send(b"d")
        second = await engine.accept()
        assert first.remote != second.remote
        assert [await first.receive(), await second.receive()] == [b"b", b"d"]
        second.send(b"for the second")
        assert await other.receive() == b"for the second"
        assert client.receive_now() is None
        other.abort()

    over_udp(FaultPlan({(TO_ENGINE, 0): Drop()}), script)


@pytest.mark.parametrize("asked", [False, True])
def test_a_flow_moves_to_another_port(asked: bool) -> None:
    async def script(it: Udp) -> None:
        client, engine, relay, said = it
        client.send(b"a")
        first = await engine.accept()
        assert await first.receive() == b"a"
        if asked:
            relay.rebind()
        client.send(b"b")
        second = await engine.accept()
        assert await second.receive() == b"b"
        assert second.remote[1] != first.remote[1]
        first.send(b"lost")
        second.send(b"here")
        assert await client.receive() == b"here"
        where = (
            f"flow 0: moved, from port {first.remote[1]} to {second.remote[1]}"
            if asked
            else "flow 0: packet 1 to the engine passed from another port, 1 octets"
        )
        assert said.lines == [f"fault: relay-1: {where}"]

    over_udp(FaultPlan({} if asked else {(TO_ENGINE, 1): Rebind()}), script)


@pytest.mark.parametrize("ways", [(FROM_ENGINE,), ()], ids=["half open", "blackhole"])
def test_a_script_may_cut_the_way(ways: tuple[str, ...]) -> None:
    async def script(it: Udp) -> None:
        client, engine, relay, _ = it
        client.send(b"a")
        flow = await engine.accept()
        assert await flow.receive() == b"a"
        relay.lose(*ways)
        flow.send(b"lost")
        client.send(b"b")
        if ways:
            assert await flow.receive() == b"b"
        late = await connect_udp(relay.host, relay.port)
        late.send(b"of a new flow")
        if ways:
            assert await (await engine.accept()).receive() == b"of a new flow"
        else:
            await until(lambda: [flow.way.counts for flow in relay._flows] == [both(2, 1), both(1, 0)])
        assert (client.receive_now(), flow.receive_now()) == (None, None)
        late.abort()

    def both(there: int, back: int) -> dict[str, int]:
        return {TO_ENGINE: there, FROM_ENGINE: back}

    lines = over_udp(FaultPlan(), script)
    told = "from the engine" if ways else "to the engine, from the engine"
    assert lines[0] == f"fault: relay-1: nothing arrives any more, {told}"


def test_a_flow_too_many_gets_nowhere_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(it: Udp) -> None:
        client, engine, host, said = it
        client.send(b"a")
        flow = await engine.accept()
        late = await connect_udp(host.host, host.port)
        late.send(b"too many")
        await until(lambda: said.lines != [])
        client.send(b"b")
        assert await taken(flow, 2) == [b"a", b"b"]
        assert engine.waiting == 0
        assert said.lines == [f"fault: relay-1: a flow from port {late.local[1]} gets nowhere, there are 1"]
        late.abort()

    monkeypatch.setattr(relay, "MAX_FLOWS", 1)
    over_udp(FaultPlan(), script)


async def talk_on(link: UdpLink) -> None:
    for _ in range(1_000_000):
        link.send(b"still nobody?")
        await asyncio.sleep(0)


def test_a_port_that_refuses_is_refused_in_front_of_the_relay_too() -> None:
    async def script(it: Udp) -> None:
        client, engine, _, _ = it
        await engine.stop()
        client.send(b"anybody?")
        with pytest.raises(LinkReset, match="refused"):
            await talk_on(client)

    lines = over_udp(FaultPlan(), script)
    assert "fault: relay-1: flow 0: the engine's port refuses, and so does the relay's from now on" in lines


# relays of TCP

Tcp = tuple[TcpLink, TcpLink, TcpRelay, Said]


def over_tcp(plan: FaultPlan, script: Callable[[Tcp], Awaitable[None]]) -> list[str]:
    """Run `script` with a client, the engine's end of its connection through the relay, and the relay."""
    said = Said()

    async def run() -> None:
        listener = TcpListener()
        await listener.start()
        relay = TcpRelay((listener.host, listener.port), plan, said, "relay-1")
        await relay.start()
        client = await connect_tcp(relay.host, relay.port)
        engine = await listener.accept()
        try:
            async with asyncio.timeout(10):
                await script((client, engine, relay, said))
        finally:
            client.abort()
            await relay.close()
            await listener.stop()

    asyncio.run(run())
    return said.lines


async def whole(link: TcpLink) -> bytes:
    data = b""
    while chunk := await link.receive():
        data += chunk
    return data


def test_a_relay_passes_octets_and_ends_one_by_one() -> None:
    async def script(it: Tcp) -> None:
        client, engine, _, _ = it
        bulk = bytes(range(256)) * 8192
        sending = asyncio.create_task(client.send(bulk))
        received = b""
        while len(received) < len(bulk):
            received += await engine.receive()
        await sending
        assert received == bulk
        await client.send_end()
        assert await engine.receive() == b""
        await engine.send(b"answer behind the end")
        await engine.send_end()
        assert await whole(client) == b"answer behind the end"

    assert over_tcp(FaultPlan(), script) == []


def test_an_octet_is_corrupted() -> None:
    async def script(it: Tcp) -> None:
        client, engine, _, _ = it
        for octet in b"abcdef":
            await client.send(bytes((octet,)))
        await client.send_end()
        assert await whole(engine) == b"abbdef"

    assert over_tcp(FaultPlan({(TO_ENGINE, 2): Corrupt(mask=1)}), script) == [
        "fault: relay-1: connection 0: octet 2 to the engine corrupted (bits 01)"
    ]


@pytest.mark.parametrize("asked", [False, True])
def test_a_reset_comes_on_both_sides_behind_what_arrived(asked: bool) -> None:
    async def script(it: Tcp) -> None:
        client, engine, relay, _ = it
        await client.send(b"abc")
        assert await engine.receive() == b"abc"
        if asked:
            relay.reset()
        else:
            await client.send(b"def")
        for link in (client, engine):
            with pytest.raises(LinkReset):
                await link.receive()

    (line,) = over_tcp(FaultPlan({} if asked else {(TO_ENGINE, 3): Reset()}), script)
    assert ("every connection" if asked else "octet 3 to the engine answered with RST") in line


def test_a_reset_of_one_side_goes_on_to_the_other() -> None:
    async def script(it: Tcp) -> None:
        client, engine, _, _ = it
        await client.send(b"abc")
        assert await engine.receive() == b"abc"
        engine.abort()
        with pytest.raises(LinkReset):
            await client.receive()

    assert over_tcp(FaultPlan(), script) == []


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("fault", [HalfOpen(), Blackhole()])
def test_a_direction_that_is_lost_ends_silently(fault: Fault, asked: bool) -> None:
    async def script(it: Tcp) -> None:
        client, engine, relay, said = it
        await client.send(b"abc")
        assert await engine.receive() == b"abc"
        if asked:
            relay.lose(*((TO_ENGINE,) if isinstance(fault, HalfOpen) else ()))
        await client.send(b"def")
        await client.send_end()
        await until(lambda: len(said.lines) == 1)
        await engine.send(b"answer")
        await engine.send_end()
        if isinstance(fault, HalfOpen):
            assert await whole(client) == b"answer"
        silent = [engine] if isinstance(fault, HalfOpen) else [engine, client]
        # Nothing comes until the relay goes away, neither octets nor an end; and then it is a reset.
        reading = [asyncio.create_task(link.receive()) for link in silent]
        await relay.close()
        for result in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(result, LinkReset)

    assert len(over_tcp(FaultPlan({} if asked else {(TO_ENGINE, 3): fault}), script)) == 1


def test_where_nobody_listens_the_client_is_reset() -> None:
    said = Said()

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        relay = TcpRelay(("127.0.0.1", port), FaultPlan(), said)
        await relay.start()
        client = await connect_tcp(relay.host, relay.port)
        with pytest.raises(LinkReset):
            await client.receive()
        await relay.close()

    asyncio.run(run())
    assert said.lines[0].startswith("fault: relay: no way to the engine, ")


@pytest.mark.parametrize("kind", [UdpRelay, TcpRelay])
def test_a_fault_that_cannot_be_done_is_told_before_anything_runs(kind: type[Relay]) -> None:
    fault = Reset() if kind is UdpRelay else Drop()
    with pytest.raises(ValueError, match="cannot be done to"):
        kind(("127.0.0.1", 1), FaultPlan({(TO_ENGINE, 0): fault}), Said(), "relay")
