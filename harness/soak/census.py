"""What an engine's process holds: descriptors and memory by `/proc`, tasks by what it says itself.

An engine whose profile names a signal under `driver.census` answers it with one line on stderr: `census` and a JSON
object of counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.engine.driver import Driver
from harness.engine.launch import LaunchDriver
from harness.errors import DeadlineExpired
from harness.link.deadline import deadline

POLL_SECONDS = 0.05
QUIET = 20
"""Counts in a row that are the same, before they are taken for those of an engine at rest."""
TAIL = 400
TROUBLE = re.compile(
    r"\b(Traceback|ERROR|CRITICAL|FATAL|[Pp]anic|Segmentation fault|never retrieved|was destroyed but|never awaited)"
    r"|AddressSanitizer|[Aa]ssertion .* failed"
)
"""What a line of an engine's log says that no engine should have to say."""
_CENSUS = re.compile(r"census (\{.*\})")


@dataclass(frozen=True, slots=True)
class Census:
    """Counts at one time; `tasks` and `mebibytes` are None where nobody tells."""

    descriptors: int
    tasks: int | None = None
    mebibytes: int | None = None

    def __str__(self) -> str:
        told = [f"{self.descriptors} descriptors"]
        told += [] if self.tasks is None else [f"{self.tasks} tasks"]
        told += [] if self.mebibytes is None else [f"{self.mebibytes} MiB"]
        return ", ".join(told)

    def beyond(self, other: Census) -> bool:
        """Whether there is more of anything that is given back than in `other`; memory is not."""
        return self.descriptors > other.descriptors or (self.tasks or 0) > (other.tasks or 0)


def pid_of(driver: Driver) -> int:
    """The process of an engine that the harness started itself and can look at; 0 where there is none."""
    pid = driver.pid if isinstance(driver, LaunchDriver) else 0
    return pid if pid and Path(f"/proc/{pid}/fd").is_dir() else 0


async def count(driver: Driver) -> Census | None:
    """The counts now; `None` where the engine is not ours to look at, or is gone."""
    pid = pid_of(driver)
    if not pid:
        return None
    return _counted(pid, await _tasks(driver, pid))


def _counted(pid: int, tasks: int | None) -> Census | None:
    try:
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    resident = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return Census(descriptors, tasks, int(resident[1]) // 1024 if resident else None)


async def _tasks(driver: Driver, pid: int) -> int | None:
    """What the engine answers to the signal of its profile."""
    assert isinstance(driver, LaunchDriver)
    name = driver.profile.driver.get("census")
    if name is None:
        return None
    before = _said(driver)
    try:
        os.kill(pid, signal.Signals[name])
        async with deadline(f"the engine to answer {name} with its census"):
            while _said(driver)[-1:] == before[-1:]:  # noqa: ASYNC110 - a process tells no event
                await asyncio.sleep(POLL_SECONDS)
    except (ProcessLookupError, DeadlineExpired):
        return None
    return int(json.loads(_said(driver)[-1])["tasks"])


def _said(driver: Driver) -> list[str]:
    """The answers so far, each with its number in it, so that two of the same counts differ."""
    return [match[1] for line in driver.log_tail(TAIL) if (match := _CENSUS.search(line))]


async def at_rest(driver: Driver, seconds: float) -> Census | None:
    """The counts once they have stayed the same for a while; after `seconds` the last ones."""
    seen: list[Census | None] = []
    try:
        async with deadline("the engine to be at rest", seconds):
            while len(seen) < QUIET or any(_held(each) != _held(seen[-1]) for each in seen[-QUIET:]):
                seen.append(await count(driver))
                await asyncio.sleep(POLL_SECONDS)
    except DeadlineExpired:
        pass
    return seen[-1] if seen else None


async def back_at(driver: Driver, before: Census, seconds: float) -> Census | None:
    """The counts once none is beyond those `before`; after `seconds` the last ones."""
    now = await count(driver)
    try:
        async with deadline("the engine to give everything back", seconds):
            while now is not None and now.beyond(before):
                await asyncio.sleep(POLL_SECONDS)
                now = await count(driver)
    except DeadlineExpired:
        pass
    return now


def _held(census: Census | None) -> tuple[int, int | None] | None:
    return None if census is None else (census.descriptors, census.tasks)


def trouble(lines: Sequence[str]) -> str:
    """The first line of a log that tells of a fault of the engine itself, or nothing."""
    return next((line for line in lines if TROUBLE.search(line)), "")
