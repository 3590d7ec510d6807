"""Takes the samples: one column after the other, round by round, so that a noisy machine hits all of them alike."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.benchmarks import BENCHMARKS, COLUMNS, IDLE, SPECS, SUITE, Benchmark, Result
from harness.bench.ground import Ground, bare_relay, engine_process
from harness.bench.suite import measure_suite
from harness.errors import DeadlineExpired, SetupFailed, UsageError
from harness.model.profile import Profile

MEGABYTE = 1_000_000
WARM_UP = 0.2
"""Most seconds of the sample in front of the first one, which nobody counts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a user asked for: rounds of `samples`, each of `seconds`, `idle` agents, and a run record instead of a run
    of the cases, if any."""

    profile: Profile
    benchmarks: tuple[Benchmark, ...]
    samples: int = 5
    seconds: float = 1.0
    idle: int = 1000
    suite_record: Path | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that can be had here."""
        return tuple(column for column in COLUMNS if column != "bare" or bare_relay() is not None)


def choose(profile: Profile, names: Sequence[str]) -> tuple[Benchmark, ...]:
    """The benchmarks with these names, or all that the profile claims the features of. Raises `UsageError` for one
    that this engine cannot be asked for."""
    if profile.kind not in ("launch", "agent"):
        raise UsageError(
            f"--engine {profile.name}: found driver.kind {profile.kind!r}, allowed is launch or agent: the load is "
            "published over the agent protocol"
        )
    chosen = []
    for benchmark in BENCHMARKS:
        if names and benchmark.name not in names:
            continue
        problem = _obstacle(profile, benchmark)
        if problem and names:
            raise UsageError(f"--only {benchmark.name}: {problem}")
        if not problem:
            chosen.append(benchmark)
    return tuple(chosen)


def _obstacle(profile: Profile, benchmark: Benchmark) -> str:
    """Why a benchmark cannot be had for an engine, here, or nothing."""
    if benchmark.tool and shutil.which(benchmark.tool) is None:
        return f"there is no {benchmark.tool} on the path"
    if benchmark.name == IDLE:
        if profile.kind != "launch":
            return f"the process of the engine of profile {profile.name} is out of sight"
        if resident(None) is None:
            return "this system does not tell the memory of a process in /proc"
    missing = sorted(benchmark.features - profile.features)
    return f"the profile {profile.name} does not claim {', '.join(missing)}" if missing else ""


class Sampler:
    """Measures a plan on one ground. `tell` gets a line whenever there is news."""

    def __init__(self, plan: Plan, ground: Ground, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._ground = ground
        self._tell = tell

    async def run(self) -> list[Result]:
        """One result per benchmark. Raises `SetupFailed`, which names the benchmark, and `UsageError`."""
        results = []
        every = self._plan.benchmarks
        for number, benchmark in enumerate(every, 1):
            self._prefix = f"[{number}/{len(every)}] {benchmark.name}: "
            self._tell(f"{self._prefix}{benchmark.text}")
            try:
                results.append(await self._measure(benchmark))
            except (SetupFailed, DeadlineExpired) as error:
                raise SetupFailed(f"{benchmark.name}: {self._ground.engine_died() or error}") from error
        return results

    async def _measure(self, benchmark: Benchmark) -> Result:
        if benchmark.name == IDLE:
            return await self._idle(benchmark)
        if benchmark.name == SUITE:
            return await measure_suite(benchmark, self._plan.profile, self._plan.suite_record)
        return await self._sampled(benchmark)

    async def _sampled(self, benchmark: Benchmark) -> Result:
        plan = self._plan
        client = await self._ground.client()
        columns = [column for column in plan.columns if column != "bare" or benchmark.bare]
        values: dict[str, list[float]] = {column: [] for column in columns}
        cpu: dict[str, list[dict[str, float]]] = {column: [] for column in columns}
        for number in range(plan.samples + 1):
            seconds = plan.seconds if number else min(plan.seconds, WARM_UP)
            for column in columns:
                target, host, pids = await self._ground.target(column, benchmark)
                job = {"action": benchmark.action, "target": dataclasses.asdict(target), "host": host}
                answer = await client.job({**job, "seconds": seconds, "pids": pids}, seconds)
                if number:
                    values[column].append(answer["rate"])
                    cpu[column].append(answer["cpu"])
            if number:
                self._round(number, benchmark, values)
        return Result(benchmark.name, benchmark.unit, values, cpu)

    def _round(self, number: int, benchmark: Benchmark, values: dict[str, list[float]]) -> None:
        shown = ", ".join(f"{column} {kept[-1]:.4g}" for column, kept in values.items() if kept)
        self._tell(f"{self._prefix}round {number} of {self._plan.samples}: {shown} {benchmark.unit}")

    async def _idle(self, benchmark: Benchmark) -> Result:
        """Each sample has an engine, and a relay, of its own: memory that was once used does not go back."""
        values: dict[str, list[float]] = {"engine": [], "bare": []}
        seconds: list[float] = []
        for number in range(1, self._plan.samples + 1):
            memory, took = await self._idle_engine()
            values["engine"].append(memory)
            seconds.append(took)
            if "bare" in self._plan.columns:
                values["bare"].append(await self._idle_relay())
            self._round(number, benchmark, values)
        extra: dict[str, Any] = {"agents": self._plan.idle, "open_seconds": [round(one, 3) for one in seconds]}
        return Result(benchmark.name, benchmark.unit, values, less=True, extra=extra)

    async def _idle_engine(self) -> tuple[float, float]:
        """Megabytes, and the seconds that opening took."""
        async with self._ground.engine() as driver:
            assert driver.access is not None
            access = dataclasses.asdict(driver.access)
            job = {"access": access, "spec": dataclasses.asdict(SPECS["stream"])}
            program, seconds = await self._ground.idle(job, self._plan.idle)
            try:
                return _memory(engine_process(driver)["engine"]), seconds
            finally:
                await program.stop()

    async def _idle_relay(self) -> float:
        relay, port = await self._ground.new_relay("hold")
        try:
            program, _ = await self._ground.idle({"target": self._ground.hold_target(port)}, self._plan.idle)
            try:
                return _memory(relay.pid)
            finally:
                await program.stop()
        finally:
            await relay.stop()


def _memory(pid: int) -> float:
    memory = resident(pid)
    if memory is None:
        raise SetupFailed("a process ended before its memory was read")
    return memory


def resident(pid: int | None) -> float | None:
    """The resident memory of a process (`None`: ours) in megabytes; `None` where the system does not tell."""
    try:
        text = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    lines = [line.split() for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0][1]) * 1024 / MEGABYTE if lines else None
