"""How long a case of the suite takes: a run of its own over a fixed share of the cases, or the record of a run."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from harness.bench.benchmarks import Benchmark, Result
from harness.collect import collect
from harness.engine.process import EngineProcess
from harness.errors import SetupFailed, UsageError
from harness.model.profile import Profile
from harness.model.record import CaseResult, read_record
from harness.model.verdict import Verdict

EVERY = 16
"""Every sixteenth variant is run, in the order of `edgecase list`: all areas have their share."""
SEED = "1"
RUN_SECONDS = 600.0
STOP_SECONDS = 15.0
_COMMAND = ("-c", "from harness.cli.main import entry; entry()", "run")
_EXPECTED = ("exited with status 0", "exited with status 1")


async def measure_suite(benchmark: Benchmark, profile: Profile, record: Path | None) -> Result:
    """The durations of the cases in milliseconds, by the record of a run, or of a run of our own. Raises
    `UsageError`, `SetupFailed`."""
    if record is not None:
        cases = read_cases(record)
    else:
        with tempfile.TemporaryDirectory(prefix="edgecase-bench-") as folder:
            await _run(profile, Path(folder))
            cases = read_cases(Path(folder) / "run.json")
    durations = [case.duration_s * 1000 for case in cases if case.verdict is not Verdict.UNSUPPORTED]
    if not durations:
        raise UsageError(f"--suite: {record}: no case in it that ran")
    quartiles = statistics.quantiles(durations, n=4) if len(durations) > 1 else durations * 3
    extra = {"quartiles": [round(one, 3) for one in quartiles]}
    return Result(benchmark.name, benchmark.unit, {"engine": durations}, less=True, extra=extra)


def read_cases(file: Path) -> tuple[CaseResult, ...]:
    """The cases of a run record. Raises `UsageError`."""
    try:
        return read_record(file).cases
    except (OSError, ValueError) as error:
        raise UsageError(f"--suite: {error}") from error


def chosen_cases() -> list[str]:
    """The keys of the cases that a run of our own has."""
    keys = [
        f"{case.id}[{variant.label}]" if variant.label else case.id
        for case in sorted(collect(), key=lambda case: case.id)
        for variant in case.variants
    ]
    return keys[::EVERY]


async def _run(profile: Profile, folder: Path) -> None:
    keys = await asyncio.to_thread(chosen_cases)
    only = [word for key in keys for word in ("--only", key)]
    command = [sys.executable, *_COMMAND, "--engine", profile.file_or_name, "--seed", SEED, "--output", str(folder)]
    process = EngineProcess([*command, *only], who="suite")
    try:
        await process.start()
        process.drain()
        async with asyncio.timeout(RUN_SECONDS):
            ended = await process.wait()
    except TimeoutError:
        raise SetupFailed(f"suite: not over within {RUN_SECONDS:g} s{process.last_words()}") from None
    finally:
        await process.stop(STOP_SECONDS)
    if ended not in _EXPECTED:
        raise SetupFailed(f"suite: {ended}{process.last_words()}")
