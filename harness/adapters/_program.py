"""An adapter to an engine that is one installed program: where it is, its version, and what starting it needs."""

from __future__ import annotations

import re
import subprocess
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.adapters._process import Child
from harness.adapters._rpc import Adapter, Result, Trouble
from harness.foreign.lock import program

VERSION_SECONDS = 15.0


class ProgramAdapter(Adapter):
    """`binary` is looked for with `find`; `version_flag` makes it print what `version_pattern` finds the version in;
    `handled` are the settings that it can be started with."""

    binary: str
    version_flag: str
    version_pattern: str
    handled: Collection[str]

    def __init__(self, find: Callable[[str], str | None] = program) -> None:
        super().__init__()
        self.version = ""
        self._find = find
        self._binary = ""
        self._folder = Path()
        self._params: Mapping[str, Any] = {}
        self._child: Child | None = None

    def hello(self) -> Result:
        """Who answers. Raises `Trouble` where the program is not installed, or does not say its version."""
        self._binary = self._find(self.binary) or ""
        if not self._binary:
            raise Trouble(f"{self.name.lower()} is not installed: run `make foreign`")
        told = subprocess.run(
            [self._binary, self.version_flag], capture_output=True, text=True, check=False, timeout=VERSION_SECONDS
        )
        found = re.search(self.version_pattern, told.stdout)
        if told.returncode or found is None:
            last = (told.stderr or told.stdout).strip().splitlines()[-1:]
            raise Trouble(f"{self._binary} {self.version_flag}: {last}")
        self.version = found.group(1)
        return super().hello()

    def start(self, params: Mapping[str, Any]) -> list[str]:
        """Start with no tunnel; or the settings that cannot be had. Raises `Trouble`."""
        unsupported = [key for key, value in params["settings"].items() if not self.can(key, value)]
        if unsupported:
            return unsupported
        if self._child is not None:
            raise Trouble("start: it runs already")
        if not self._binary:
            self.hello()
        self._params = params
        self._folder = Path(params["folder"])
        self.open()
        return []

    def can(self, key: str, value: object) -> bool:
        """Whether the program can be started with this setting: a listener that is off is none."""
        return key in self.handled or (key.startswith("listener.") and value is False)

    @abstractmethod
    def open(self) -> None:
        """Run the program with no tunnel, by `_params` and in `_folder`. Raises `Trouble`."""

    def replace(self, command: Sequence[str], tcp: Iterable[int], udp: Iterable[int], seconds: float) -> str | None:
        """Run `command` in the place of the process that runs, until it listens on all of these ports; what is wrong,
        or `None`. Between the two nobody listens: tunnels are published before any case runs."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        child = Child(list(command), folder=self._folder, on_exit=self.exited, announce=False)
        wrong = child.await_ports(tcp, seconds, udp=udp)
        if wrong is not None:
            child.stop()
            return wrong
        child.announce()
        self._child = child
        return None

    def status(self) -> Result:
        """Whether the process runs, and which one it is."""
        running = self._child is not None and self._child.ended() is None
        return {"running": running, "pid": self._child.pid if self._child is not None and running else None}

    def log(self, lines: int) -> list[str]:
        """The last lines that the program wrote."""
        return list(self._child.log)[-lines:] if self._child is not None and lines > 0 else []

    def shutdown(self) -> None:
        """Stop the process."""
        if self._child is not None:
            self._child.stop()
        self._child = None
