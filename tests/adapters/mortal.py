"""Engines that die while a case of the suite runs, on what that case does: no clock decides.

`python -m tests.adapters.mortal WAY CASE` is the adapter of tests/adapters/simple.py, in which the first octets of a
client that come to a tunnel of CASE (how its key begins) kill something. `python -m tests.adapters.mortal reference
WORD ..` is the reference engine, which kills itself before it writes a line with WORD to its log.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from harness.adapters._rpc import Result
from tests.adapters.simple import Simple


class EngineDies(Simple):
    """The process of the engine is killed; the adapter says so."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case = case
        self.told = threading.Event()

    def exited(self, status: str) -> None:
        super().exited(status)
        self.told.set()

    def publish_one(self, spec: Mapping[str, Any]) -> Result:
        result = super().publish_one(spec)
        if "endpoint" in result and spec["key"].startswith(self.case):
            self.tunnels[spec["key"]].carry = self.carry  # type: ignore[method-assign]
        return result

    def carry(self, connection: socket.socket) -> None:
        """Whoever only connects (the suite looks whether somebody listens) does no harm."""
        with connection:
            if connection.recv(1):
                self.die()

    def die(self) -> None:
        """Kill the engine, and wait until the suite was told."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.told.wait()


class AdapterDies(EngineDies):
    """The adapter is killed; the engine was another process."""

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class AdapterIsTheEngine(AdapterDies):
    """The adapter is killed, and had told that it is the engine."""

    def status(self) -> Result:
        return {"running": True, "pid": os.getpid()}


class AdapterHangs(EngineDies):
    """The adapter never answers again, and the client gets nothing but an end."""

    def die(self) -> None:
        self.hung = True

    hung = False

    def _answer(self, line: bytes) -> str:
        if self.hung:
            return ""
        return super()._answer(line)


class AdapterTalksNonsense(EngineDies):
    """The adapter prints what is not JSON."""

    def die(self) -> None:
        sys.stdout.write("segmentation fault\n")
        sys.stdout.flush()


class _Fuse(logging.Handler):
    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def emit(self, record: logging.LogRecord) -> None:
        if self.word in record.getMessage():
            os.kill(os.getpid(), signal.SIGKILL)


def reference(word: str, *arguments: str) -> int:
    """The reference engine with a fuse in its log."""
    from reference_engine.cli import main

    logging.getLogger("reference_engine").addHandler(_Fuse(word))
    return main(list(arguments))


WAYS: Mapping[str, Callable[..., Simple]] = {
    kind.__name__: kind for kind in (EngineDies, AdapterDies, AdapterIsTheEngine, AdapterHangs, AdapterTalksNonsense)
}

if __name__ == "__main__":
    way, *rest = sys.argv[1:]
    sys.exit(reference(*rest) if way == "reference" else WAYS[way](*rest).serve())
