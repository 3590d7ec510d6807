"""Long proofs, run by `make soak`: no verdict changes between runs, and no octets bring the engine down."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from harness import mutation
from harness.collect import collect
from harness.engine.agent_driver import ProtocolDriver
from harness.engine.driver import Endpoint
from harness.model.case import Case
from harness.model.verdict import Verdict
from harness.profiles import load
from tests.engine_tls_support import client_hello

pytestmark = pytest.mark.soak
RUNS = int(os.environ.get("EDGECASE_SOAK_RUNS", "10"))
FAULTY_RUNS = int(os.environ.get("EDGECASE_SOAK_FAULTY_RUNS", "20"))
CONNECTIONS = int(os.environ.get("EDGECASE_SOAK_CONNECTIONS", "20000"))
AT_ONCE = 64
NOT_RUN_IN_FRONT_OF_A_HOLE = {"quic-retry-01"}
"""It is about a Retry, and says that none came."""


def verdicts(folder: Path) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """Verdict and outcomes of every case of the run that wrote into `folder`."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        f"{case['id']}[{case.get('variant', '')}]": (
            case["verdict"],
            tuple((outcome["requirement"], outcome["outcome"]) for outcome in case["outcomes"]),
        )
        for case in record["cases"]
    }


def spin() -> None:
    while True:
        pass


@pytest.fixture
def oversubscribed() -> Iterator[None]:
    """Twice as many busy processes as there are cores."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=spin, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    for process in busy:
        process.start()
    yield
    for process in busy:
        process.kill()
        process.join()


def run_suite(output: Path, *arguments: str) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """The verdicts of one run of the suite, in which nothing fails."""
    command = [sys.executable, "-m", "harness.cli", "run", *arguments, "--output", str(output)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"{' '.join(arguments)}: exit code {told.returncode}", flush=True)
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-2000:]
    return verdicts(output)


def same_verdicts(folder: Path, runs: int) -> None:
    """Run the suite `runs` times in different orders, with and without workers; every run must say the same."""
    first: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {}
    for number in range(runs):
        seed, workers = random.randrange(1_000_000), ("2", "0")[number % 2]
        found = run_suite(folder / str(number), "-n", workers, "--seed", str(seed))
        first = first or found
        assert {key: (first.get(key), got) for key, got in found.items() if first.get(key) != got} == {}
        assert set(found) == set(first)


def test_no_verdict_changes_between_runs(tmp_path: Path) -> None:
    same_verdicts(tmp_path, RUNS)


def test_no_verdict_changes_on_a_busy_machine(tmp_path: Path, oversubscribed: None) -> None:
    same_verdicts(tmp_path, max(RUNS // 3, 2))


def test_lost_and_reordered_packets_change_no_verdict(tmp_path: Path) -> None:
    """One packet in a hundred is lost and one reordered, by another seed in each run."""
    whole = run_suite(tmp_path / "whole", "-n", "2", "--area", "quic")
    for number in range(FAULTY_RUNS):
        faults = f"loss=0.01,reorder=0.01,seed={random.randrange(1_000_000)}"
        found = run_suite(tmp_path / str(number), "-n", "2", "--area", "quic", "--faults", faults)
        assert {key: (whole.get(key), got) for key, got in found.items() if whole.get(key) != got} == {}
        assert set(found) == set(whole)


def _over_udp(case: Case) -> bool:
    """Whether its clients come over UDP."""
    return case.area == "quic" or "http.downstream-h3" in case.features(case.variants[0])


@pytest.mark.parametrize(("area", "least"), [("quic", 150), ("http3", 150)])
def test_no_case_over_quic_is_green_where_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, area: str, least: int
) -> None:
    """In front of a UDP port that takes everything and says nothing: a case that passes there has checked nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        port = hole.getsockname()[1]
        whole = ProtocolDriver.endpoint

        def endpoint(driver: ProtocolDriver, properties: pb.TunnelProperties) -> Endpoint:
            told = whole(driver, properties)
            if told.transport == "udp":
                return replace(told, address="127.0.0.1", port=port)
            return replace(told, udp=("127.0.0.1", port) if told.udp is not None else None)

        monkeypatch.setattr(ProtocolDriver, "endpoint", endpoint)
        monkeypatch.setattr(mutation, "DEADLINE_SECONDS", 0.25)
        cases = [case for case in collect() if case.area == area and mutation._runs(case) and _over_udp(case)]
        results = list(mutation.play(load("reference"), cases, {}))
    assert len(results) > least
    assert {result.key for result in results if result.verdict is Verdict.PASS} == set()
    assert {result.key for result in results if result.verdict is Verdict.HARNESS} == set()
    assert {result.key for result in results if result.verdict is Verdict.INFO} <= NOT_RUN_IN_FRONT_OF_A_HOLE


@dataclass
class Running:
    """An engine process and its ready line."""

    process: subprocess.Popen[bytes]
    ready: dict[str, str]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.ready["agent"].rsplit(":", 1)
        return host, int(port)

    def resident(self) -> int:
        """Resident memory in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0])

    def handshake(self) -> str | None:
        """The version of a connection to the engine's own name."""
        context = ssl.create_default_context(cafile=self.ready["ca_file"])
        with (
            socket.create_connection(self.address, 10) as raw,
            context.wrap_socket(raw, server_hostname=self.ready["domain"]) as connection,
        ):
            return connection.version()


@contextmanager
def started(log: Path) -> Iterator[Running]:
    """An engine that must end cleanly when it is asked to; its log goes to a file, which takes any amount of it."""
    command = [sys.executable, "-W", "error", "-m", "reference_engine", "serve", "--json", "--listen", "127.0.0.1:0"]
    with log.open("wb") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file) as process:
        try:
            assert process.stdout is not None
            yield Running(process, json.loads(process.stdout.readline()))
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="not run: needs /proc")
def test_no_octets_bring_the_engine_down(tmp_path: Path) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    log = tmp_path / "engine.log"
    with started(log) as engine:
        asyncio.run(bombard(engine, random.Random(seed), CONNECTIONS // 4))
        before = engine.resident()
        asyncio.run(bombard(engine, random.Random(seed + 1), CONNECTIONS))
        after = engine.resident()
        print(f"resident memory: {before} KiB, then {after} KiB")
        assert engine.process.poll() is None
        assert engine.handshake() == "TLSv1.3"
        assert after < before + 10_000
    complaints = [
        line for line in log.read_text(errors="replace").splitlines() if " ERROR " in line or "Traceback" in line
    ]
    assert complaints == []


async def bombard(engine: Running, chance: random.Random, count: int) -> None:
    """Open `count` connections with a damaged ClientHello or with noise, read what comes, and go."""
    hello = client_hello(engine.ready["domain"])
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes, abort: bool) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection(*engine.address)
            try:
                writer.write(data)
                if not abort:
                    writer.write_eof()
                    async with asyncio.timeout(30):
                        await reader.read(4096)
            except OSError:
                pass
            finally:
                writer.transport.abort()

    await asyncio.gather(*(one(damaged(hello, chance), chance.random() < 0.2) for _ in range(count)))


def damaged(hello: bytes, chance: random.Random) -> bytes:
    """A ClientHello with octets changed, cut, doubled or put in; or noise."""
    data = bytearray(hello)
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 600))
    if kind == 1:
        return bytes(data[: chance.randrange(1, len(data))])
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data))
        if kind == 2:
            data[at] = chance.randrange(256)
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.randrange(1, 40))
        else:
            del data[at : at + chance.randrange(1, 40)]
    return bytes(data)
