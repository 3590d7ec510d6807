"""The programs of a measurement: started when they are needed, ended with the run, whatever ends it."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import harness
from fixtures.agent import edgecase_agent_pb2 as pb
from harness.bench.benchmarks import SPECS, Benchmark
from harness.bench.pairs import DOWN, UP
from harness.bench.streams import Target
from harness.bench.upstream import MODES
from harness.engine.agent_driver import ProtocolDriver
from harness.engine.factory import make_driver
from harness.engine.launch import LaunchDriver
from harness.engine.process import EngineProcess
from harness.errors import NotSupported, SetupFailed, UsageError
from harness.link.agent import EngineAccess
from harness.model.profile import Profile
from harness.model.spec import Settings
from harness.peer.tls_pki import authority

NAME = "upstream.bench.test"
PAIR_RELAYS = frozenset(f"{down}-{up}" for down in DOWN for up in UP)
ANSWER_SECONDS = 60.0
"""How long a program may take for an answer, beyond the seconds that a sample is asked to take."""
STOP_SECONDS = 2.0
_COUNT_SECONDS = 0.1
"""Seconds more for each of many connections that a program opens."""


def bare_relay() -> Path | None:
    """The bare relay, which is part of a checkout and not of an installed copy."""
    file = Path(harness.__file__).parent.parent / "tests" / "bench" / "relay.py"
    return file if file.is_file() else None


class Program:
    """One program that says one JSON object a line, and does one job a line."""

    def __init__(self, who: str, arguments: Iterable[str]) -> None:
        self._who = who
        self._process = EngineProcess([sys.executable, *arguments], who=who, stdin=True)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def start(self) -> None:
        """Start it. Raises `SetupFailed`."""
        await self._process.start()

    async def answer(self, seconds: float = 0.0) -> dict[str, Any]:
        """What it says next. Raises `SetupFailed` when it says that it failed, `DeadlineExpired` when it is silent."""
        line = await self._process.read_line("an answer", ANSWER_SECONDS + seconds)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SetupFailed(str(answer["error"]))
        return answer

    async def job(self, job: Mapping[str, Any], seconds: float = 0.0) -> dict[str, Any]:
        """Give it a job and wait for the answer. Raises as `answer` does."""
        self._process.write(json.dumps(job).encode("ascii") + b"\n")
        return await self.answer(seconds)

    async def stop(self) -> None:
        """End it."""
        await self._process.stop(STOP_SECONDS)


class Ground:
    """Everything that runs beside the run itself. Leave it, and nothing of it runs any more."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.engine_version = ""
        self._exits = contextlib.AsyncExitStack()
        self._driver: ProtocolDriver | None = None
        self._agents: dict[str, tuple[Program, dict[str, pb.TunnelProperties]]] = {}
        self._upstream: tuple[Program, dict[str, int]] | None = None
        self._relays: dict[str, tuple[Program, int]] = {}
        self._client: Program | None = None

    async def __aenter__(self) -> Self:
        folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="edgecase-bench-")))
        files = authority("Edgecase bench CA").issue(NAME).write(folder)
        self._certificate = [str(files["chain"]), str(files["key"])]
        self._ca = str(files["ca"])
        return self

    async def __aexit__(self, *problem: object) -> None:
        await self._exits.aclose()

    async def _run(self, who: str, *arguments: str) -> Program:
        program = Program(who, arguments)
        self._exits.push_async_callback(program.stop)
        await program.start()
        return program

    async def client(self) -> Program:
        """The client. Raises `SetupFailed`."""
        if self._client is None:
            self._client = await self._run("client", *load("client"))
        return self._client

    async def target(self, column: str, benchmark: Benchmark) -> tuple[Target, str, dict[str, int]]:
        """Where the client connects for a column, the name for Host, and the processes between the client and the
        upstream, with the upstream. Raises `SetupFailed`."""
        if column == "engine":
            return await self._behind_engine(benchmark)
        upstream, ports = await self._direct()
        if column == "direct":
            return self._ours(ports[benchmark.direct]), NAME, {"upstream": upstream.pid}
        relay, port = await self._relay(benchmark.bare, ports[benchmark.mode])
        return self._ours(port), NAME, {"relay": relay.pid, "upstream": upstream.pid}

    def _ours(self, port: int) -> Target:
        return Target("127.0.0.1", port, NAME, self._ca)

    async def _direct(self) -> tuple[Program, dict[str, int]]:
        if self._upstream is None:
            program = await self._run("upstream", *load("upstream"))
            answer = await program.job({"certificate": self._certificate, "modes": MODES})
            self._upstream = program, answer["ports"]
        return self._upstream

    async def _relay(self, mode: str, upstream: int) -> tuple[Program, int]:
        if mode not in self._relays:
            program, port = await self.new_relay(mode, upstream)
            self._exits.push_async_callback(program.stop)
            self._relays[mode] = program, port
        return self._relays[mode]

    async def new_relay(self, mode: str, upstream: int = 0) -> tuple[Program, int]:
        """A bare relay of the caller's own, and its port. Raises `SetupFailed`."""
        kind = ["-m", "tests.bench.pair_relay"] if mode in PAIR_RELAYS else [str(bare_relay())]
        program = Program("bare relay", [*kind, mode, *self._certificate, str(upstream)])
        try:
            await program.start()
            return program, (await program.answer())["port"]
        except BaseException:
            await program.stop()
            raise

    async def _behind_engine(self, benchmark: Benchmark) -> tuple[Target, str, dict[str, int]]:
        mode, link = benchmark.mode, benchmark.link
        if self._driver is None:
            self._driver = await self._exits.enter_async_context(self.engine())
        driver = self._driver
        assert driver.access is not None
        if link not in self._agents:
            self._agents[link] = await self._publish(driver.access, link)
        agent, tunnels = self._agents[link]
        endpoint = driver.endpoint(tunnels[mode])
        if benchmark.down == "h3":
            over_udp = endpoint.over_udp()
            if over_udp is None:
                raise SetupFailed("the engine told no UDP address for HTTP/3")
            endpoint = over_udp
        pids = {"agent": agent.pid, **engine_process(driver)}
        if mode == "inner":
            target = Target(endpoint.address, endpoint.port, endpoint.host, self._ca, check_name=False)
        else:
            access = driver.access
            target = Target(endpoint.address, endpoint.port, endpoint.host, access.ca_file, access.insecure)
        return target, endpoint.host, pids

    async def _publish(self, access: EngineAccess, link: str) -> tuple[Program, dict[str, pb.TunnelProperties]]:
        """An agent on `link`, and its tunnels by mode. Raises `SetupFailed`."""
        modes = [mode for mode, spec in SPECS.items() if spec.features() <= self.profile.features]
        specs = {mode: dataclasses.asdict(SPECS[mode]) for mode in modes if link == "tls" or mode == link}
        agent = await self._run("agent", *load("agent"))
        job = {"access": dataclasses.asdict(access), "link": link, "specs": specs, "certificate": self._certificate}
        tunnels = (await agent.job(job))["tunnels"]
        return agent, {
            name: pb.TunnelProperties.FromString(base64.b64decode(properties)) for name, properties in tunnels.items()
        }

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[ProtocolDriver]:
        """An engine of the caller's own, started and stopped. Raises `SetupFailed`, `UsageError`."""
        driver = make_driver(self.profile)
        assert isinstance(driver, ProtocolDriver)
        try:
            try:
                await driver.start(Settings.of(self.profile.settings))
            except NotSupported as error:
                raise UsageError(f"--engine {self.profile.name}: {error.feature} cannot be had") from error
            self.engine_version = driver.version
            yield driver
        finally:
            await driver.stop()

    def engine_died(self) -> str | None:
        """How the engine of the load ended, with its last line; `None` while it runs, or where it is out of sight."""
        how = self._driver.crashed() if self._driver is not None else None
        if self._driver is None or how is None:
            return None
        last = self._driver.log_tail(1)
        return f"the engine {how}{f'; its last line: {last[0][:200]}' if last else ''}"

    async def idle(self, job: Mapping[str, Any], count: int) -> tuple[Program, float]:
        """A program that holds `count` connections, and the seconds that it took to open them. Raises `SetupFailed`."""
        program = Program("idle", load("idle"))
        try:
            await program.start()
            answer = await program.job({**job, "count": count}, count * _COUNT_SECONDS)
        except BaseException:
            await program.stop()
            raise
        return program, answer["seconds"]

    def hold_target(self, port: int) -> dict[str, Any]:
        """A port of ours as a job names it."""
        return dataclasses.asdict(self._ours(port))


def engine_process(driver: ProtocolDriver) -> dict[str, int]:
    """The engine's process by its name, where it is ours to look at."""
    return {"engine": driver.pid} if isinstance(driver, LaunchDriver) else {}


def load(role: str) -> list[str]:
    """The arguments of a load program."""
    return ["-m", "harness.bench.load", role]
