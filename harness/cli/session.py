"""The process that runs the cases, and the signals that it must survive long enough to write its record."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a user, a supervisor or a closed terminal sends. The first one asks the run to end and to write what it has;
the next one ends it at once."""


class Session:
    """A run in a process group of its own, so that an interrupt reaches it once, and only through us."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self.interrupted = False

    def run(self) -> int:
        """Run to the end and give the exit status; `interrupted` tells whether a signal came."""
        with self._forwarding():
            self._process = subprocess.Popen(self._command, env=self._environment, process_group=0)
            try:
                if self.interrupted:  # between taking over the signals and the start
                    self._process.send_signal(signal.SIGINT)
                return self._process.wait()
            finally:
                # Nothing of the run outlives it; engines end with the worker that started them.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._forward) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, _number: int, _frame: FrameType | None) -> None:
        again, self.interrupted = self.interrupted, True
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if again:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.send_signal(signal.SIGINT)
