"""One sample and the time that it covers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = 100
"""Clock ticks in /proc/PID/stat (USER_HZ is 100 on every architecture of Linux)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: the rate in the action's unit, its window in seconds, and the share of one core that each process
    used meanwhile (0.97), by name."""

    rate: float
    seconds: float
    cpu: Mapping[str, float] = field(default_factory=dict)


def cpu_seconds(pid: int) -> float | None:
    """Processor time of all threads of `pid` so far; `None` where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError, ValueError):
        return None


class Window:
    """The time between the first and the last octet of a sample, and what the processes in `pids` used in it."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        self._own = time.process_time()
        self._start = time.monotonic()

    def end(self, amount: float) -> Sample:
        """The sample: `amount` per second."""
        sample = self.of(amount)
        return dataclasses.replace(sample, rate=amount / sample.seconds)

    def of(self, value: float) -> Sample:
        """The sample: `value` as it stands."""
        seconds = time.monotonic() - self._start
        cpu = {"client": round((time.process_time() - self._own) / seconds, 3)}
        for name, pid in self._pids.items():
            before, after = self._before[name], cpu_seconds(pid)
            if before is not None and after is not None:
                cpu[name] = round((after - before) / seconds, 3)
        return Sample(value, seconds, cpu)
