"""Faults as a script and a run ask for them: relays before endpoints, told in the transcript, gone with the scene."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine.driver import Endpoint
from harness.ledger import Ledger
from harness.link.faults import FROM_ENGINE, TO_ENGINE, DatagramWay, Drop, Duplicate, FaultPlan, Rebind, Reset
from harness.link.relay import TcpRelay, UdpRelay
from harness.link.stream import LinkReset
from harness.link.tcp import TcpListener
from harness.link.udp import UdpListener
from harness.model.case import MARK, Case, case
from harness.model.record import CaseResult
from harness.model.verdict import Verdict
from harness.pool import EnginePool, Planned
from harness.runner import Runner
from harness.scene import Scene
from tests.fake_engine import FakeDriver, profile

CHECKED = "TLS-001"
Script = Callable[[Scene], Awaitable[None]]


def run(script: Script, *, faults: FaultPlan | None = None, name: str = "faulty") -> CaseResult:
    async def function(scene: Any) -> None:
        """A script of the test."""
        await script(scene)
        scene.expect(CHECKED, True, expected="it", actual="it")

    chosen: Case = getattr(case(name, checks=(CHECKED,), family="tls")(function), MARK)
    runner = Runner(profile(), Ledger.load(), EnginePool(profile(), lambda _: FakeDriver()), {}, faults=faults)
    return asyncio.run(runner.run(Planned(chosen, chosen.variants[0], chosen.settings)))


def told(result: CaseResult) -> list[str]:
    assert result.verdict is Verdict.PASS, (result.cause, result.outcomes)
    return [f"{event.what}: {event.detail}" for event in result.transcript if event.what in ("fault", "relay")]


async def udp_engine(scene: Scene) -> tuple[UdpListener, Endpoint]:
    listener = UdpListener()
    await listener.start()
    scene.on_close(listener.stop)
    return listener, Endpoint("x.test", listener.host, listener.port, "udp", "t-1", {"port": 1})


def test_a_script_loses_and_moves_packets_of_a_flow() -> None:
    places = []

    async def script(scene: Scene) -> None:
        engine, endpoint = await udp_engine(scene)
        plan = FaultPlan({(TO_ENGINE, 1): Drop(), (TO_ENGINE, 2): Rebind(), (FROM_ENGINE, 0): Duplicate()})
        where = await scene.faults(plan=plan, endpoint=endpoint)
        assert (where.host, where.transport, where.name, where.properties) == ("x.test", "udp", "t-1", {"port": 1})
        assert (where.address, where.port) != (endpoint.address, endpoint.port)
        client = await scene.udp(endpoint=where)
        for packet in (b"a", b"b", b"c"):
            client.send(packet)
        first, second = await engine.accept(), await engine.accept()
        assert [await first.receive(), await second.receive()] == [b"a", b"c"]
        second.send(b"twice")
        assert [await client.receive(), await client.receive()] == [b"twice", b"twice"]
        assert isinstance(where.relay, UdpRelay)
        where.relay.rebind()
        places.append((where.address, where.port))

    lines = told(run(script))
    assert lines[0] == (
        f"relay: relay-1: at {places[0][0]}:{places[0][1]} before main: "
        "to_engine 1: dropped, to_engine 2: passed from another port, from_engine 0: sent 2 times"
    )
    assert lines[1:4] == [
        "fault: relay-1: flow 0: packet 1 to the engine dropped, 1 octets",
        "fault: relay-1: flow 0: packet 2 to the engine passed from another port, 1 octets",
        "fault: relay-1: flow 0: packet 0 from the engine sent 2 times, 5 octets",
    ]
    assert lines[4].startswith("fault: relay-1: flow 0: moved, from port ")
    assert lines[5:] == ["relay: relay-1: flow 0: 3 packets to the engine, 1 packets from the engine"]


def test_a_script_resets_a_connection() -> None:
    async def script(scene: Scene) -> None:
        listener = TcpListener()
        await listener.start()
        scene.on_close(listener.stop)
        endpoint = Endpoint("x.test", listener.host, listener.port)
        where = await scene.faults(plan=FaultPlan({(TO_ENGINE, 3): Reset()}), endpoint=endpoint)
        assert isinstance(where.relay, TcpRelay)
        client = await scene.tcp(endpoint=where)
        await client.send(b"abcdef")
        engine = await listener.accept()
        assert await engine.receive() == b"abc"
        with pytest.raises(LinkReset):
            await client.receive()

    assert told(run(script))[1:] == [
        "fault: relay-1: connection 0: octet 3 to the engine answered with RST on both sides"
    ]


def test_a_relay_is_gone_with_the_scene() -> None:
    places = []

    async def script(scene: Scene) -> None:
        _, endpoint = await udp_engine(scene)
        where = await scene.faults(plan=FaultPlan(), endpoint=endpoint)
        places.append((where.address, where.port))

    told(run(script))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(places[0])


PACKETS = [b"%d" % number for number in range(60)]


def exchange(seen: list[bytes]) -> Script:
    """Sends `PACKETS` on a flow, and notes what arrived of each."""

    async def script(scene: Scene) -> None:
        engine, endpoint = await udp_engine(scene)
        client = await scene.udp(endpoint=endpoint)
        for packet in PACKETS:
            client.send(packet)
        arriving = await engine.accept()
        seen.append(await arriving.receive())
        while seen[-1] != PACKETS[-1]:
            seen.append(await arriving.receive())

    return script


def test_a_run_with_faults_has_a_relay_before_each_flow_and_the_same_again() -> None:
    plan = FaultPlan({(TO_ENGINE, len(PACKETS) - 1): Duplicate()}, seed=7, loss=0.3, reorder=0.2)
    seen: list[bytes] = []
    again: list[bytes] = []
    other: list[bytes] = []
    lines = told(run(exchange(seen), faults=plan))
    assert told(run(exchange(again), faults=plan))[1:] == lines[1:]
    told(run(exchange(other), faults=plan, name="another-case"))
    assert seen == again
    assert seen != other, "no two cases suffer alike"
    way = DatagramWay(plan.seeded("faulty[]", 1))
    expected = [packet for each in PACKETS for packet in way.take(TO_ENGINE, each).packets]
    assert seen == expected[: expected.index(PACKETS[-1]) + 1]
    assert len(set(seen)) < len(PACKETS)


def test_a_run_without_faults_has_no_relay() -> None:
    seen: list[bytes] = []
    assert told(run(exchange(seen))) == []
    assert seen == PACKETS


def test_a_scripts_own_faults_come_instead_of_those_of_the_run() -> None:
    async def script(scene: Scene) -> None:
        engine, endpoint = await udp_engine(scene)
        where = await scene.faults(plan=FaultPlan(), endpoint=endpoint)
        client = await scene.udp(endpoint=where)
        client.send(b"a")
        assert await (await engine.accept()).receive() == b"a"

    lines = told(run(script, faults=FaultPlan(loss=1.0)))
    assert [line.partition(" at ")[0] for line in lines if " at " in line] == ["relay: relay-1:"]


def test_what_reproduces_a_case_has_the_faults() -> None:
    async def script(scene: Scene) -> None:
        """Nothing."""

    assert run(script).reproduce == "edgecase run --engine fake.toml --only 'faulty'"
    result = run(script, faults=FaultPlan(seed=7, loss=0.01))
    assert result.reproduce == "edgecase run --engine fake.toml --only 'faulty' --faults loss=0.01,seed=7"


# the command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    told = [sys.executable, "-W", "error", "-m", "harness.cli", "run", *arguments]
    return subprocess.run(told, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_refuses_what_is_no_plan() -> None:
    done = command("--faults", "loss=lots")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "edgecase run: argument --faults: loss: found 'lots', allowed is a share from 0 to 1"
        " (see edgecase run --help)\n"
    )


def test_a_run_says_which_faults_it_had(tmp_path: Path) -> None:
    done = command("--only", "tls-sanity", "--faults", "loss=0.25,seed=3", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert record["notes"] == ["packets of UDP clients suffered loss=0.25,seed=3"]
    assert {case["reproduce"].rpartition(" --")[2] for case in record["cases"]} == {"faults loss=0.25,seed=3"}
    assert "note: packets of UDP clients suffered loss=0.25,seed=3" in done.stdout
