"""One process of an engine or adapter: started, watched, ended; what it writes is kept in bounded form.

It gets a process group of its own, so that an interrupt at the terminal reaches only the runner, and dies with the
thread that started it, where the system can do that (Linux, util-linux). Works on any thread's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import SetupFailed
from harness.link.deadline import deadline

TAIL_LINES = 400
LINE_LIMIT = 2000
"""Octets of one kept log line; the rest of a longer one is dropped."""
STDOUT_LINE_LIMIT = 1 << 24
"""Octets of one line on stdout that is read as a message."""
WAITING_LINES = 1000
"""Unread lines on stdout at which the pipe is no longer read."""
_EXITING = 0x4
"""PF_EXITING in the flags of /proc/PID/stat."""


class LogTail:
    """The last lines of a log with several sources, without the words that must not be shown."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial: dict[int, bytes] = {}
        self._secrets = tuple(secret for secret in secrets if secret)

    def feed(self, data: bytes, source: int = 2) -> None:
        """Take octets of one source."""
        *whole, rest = data.split(b"\n")
        if len(whole) > TAIL_LINES:
            # What would not be kept is not looked at, either: who never stops talking slows nobody down.
            self._partial.pop(source, None)
            whole = whole[-TAIL_LINES:]
        for line in whole:
            if text := self._shown(self._partial.pop(source, b"") + line):
                self._lines.append(text)
        self._partial[source] = (self._partial.get(source, b"") + rest)[:LINE_LIMIT]

    def _shown(self, line: bytes) -> str:
        text = line[:LINE_LIMIT].decode("utf-8", "replace").rstrip("\r")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def last(self, lines: int) -> tuple[str, ...]:
        """At most `lines` of the last lines, oldest first."""
        unfinished = [self._shown(line) for line in self._partial.values() if line]
        return (*self._lines, *unfinished)[-lines:] if lines > 0 else ()


class _Pipe(asyncio.Protocol):
    """One pipe from the process."""

    def __init__(self, owner: EngineProcess, fd: int) -> None:
        self._owner = owner
        self._fd = fd

    def data_received(self, data: bytes) -> None:
        self._owner.feed(self._fd, data)

    def eof_received(self) -> None:
        return

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.pipe_ended(self._fd)


class EngineProcess:
    """A process of `who` (`engine` or `adapter`, for messages), made from an argument list.

    Lines on stdout are messages, read by `read_line`, until `drain` sends the rest to the log like stderr. `secrets`
    are blanked out of the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        who: str = "engine",
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        secrets: Sequence[str] = (),
    ) -> None:
        self._command = list(command)
        self._who = who
        self._env = env
        self._with_stdin = stdin
        self._tail = LogTail(secrets)
        self._popen: subprocess.Popen[bytes] | None = None
        self._pipes: dict[int, asyncio.ReadTransport] = {}
        self._stdin: asyncio.WriteTransport | None = None
        self._asked = False
        self._stopped = False
        self._draining = False
        self._stdout = bytearray()
        self._lines: deque[bytes] = deque()
        self._paused = False
        self._stdout_ended = False
        self._too_long = False
        self._news = asyncio.Event()
        self._exited = asyncio.Event()
        self._released = asyncio.Event()

    @property
    def pid(self) -> int:
        """The process id; 0 before `start`."""
        return self._popen.pid if self._popen else 0

    async def start(self) -> None:
        """Start the process. Raises `SetupFailed` when there is nothing to start."""
        if not self._command:
            raise SetupFailed(f"profile: the command of the {self._who} is empty")
        program = shutil.which(self._command[0], path=(self._env or os.environ).get("PATH"))
        if program is None:
            raise SetupFailed(f"{self._who}: cannot start {self._command[0]!r}: no such program")
        popen = self._spawn([*_dies_with_us(), program, *self._command[1:]])
        self._popen = popen
        loop = asyncio.get_running_loop()
        self._watch(popen, loop)
        for fd, pipe in ((1, popen.stdout), (2, popen.stderr)):
            # The transport, not the process object, owns the pipe from here on.
            transport, _ = await loop.connect_read_pipe(functools.partial(_Pipe, self, fd), pipe)
            self._pipes[fd] = transport
        if popen.stdin is not None:
            self._stdin, _ = await loop.connect_write_pipe(asyncio.Protocol, popen.stdin)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE if self._with_stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if self._env is None else dict(self._env),
                process_group=0,
            )
        except OSError as error:
            raise SetupFailed(f"{self._who}: cannot start {self._command[0]!r}: {error.strerror or error}") from error

    def _watch(self, popen: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        """Have `_died` called. Not asyncio's own watcher: its thread reaps the process some time before the loop knows
        the status, and who asks in between gets no answer."""
        try:
            watched = os.pidfd_open(popen.pid)
        except (AttributeError, OSError):
            loop.run_in_executor(None, popen.wait).add_done_callback(lambda _: self._died())
            return

        def readable() -> None:
            loop.remove_reader(watched)
            os.close(watched)
            self._died()

        loop.add_reader(watched, readable)

    def _died(self) -> None:
        assert self._popen is not None
        self._popen.poll()
        self._exited.set()
        self._news.set()

    # what it writes

    def feed(self, fd: int, data: bytes) -> None:
        """Take what the process wrote on `fd`."""
        if fd != 1 or self._draining:
            self._tail.feed(data, fd)
            return
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._lines.append(bytes(self._stdout) + line)
            self._stdout.clear()
        self._stdout += rest
        if len(self._stdout) > STDOUT_LINE_LIMIT:
            self._too_long = True
            self._stdout.clear()
        self._news.set()
        if len(self._lines) > WAITING_LINES and not self._paused:
            self._paused = True
            self._pipes[1].pause_reading()

    def pipe_ended(self, fd: int) -> None:
        """The process closed `fd`, or we did."""
        self._pipes.pop(fd, None)
        if fd == 1:
            self._stdout_ended = True
            self._news.set()
        if not self._pipes:
            self._released.set()

    async def read_line(self, awaited: str, seconds: float) -> bytes:
        """The next line on stdout, without its end. Raises `SetupFailed` when the process ends or is silent;
        `awaited` says what for."""
        async with deadline(f"{self._who}: {awaited}", seconds):
            while not self._lines:
                if self._too_long:
                    raise SetupFailed(f"{self._who}: a line of more than {STDOUT_LINE_LIMIT} octets on stdout")
                if self._stdout_ended:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await self._exited.wait()
                    raise SetupFailed(f"{self._who}: {self._ended_text()} before {awaited}{self.last_words()}")
                self._news.clear()
                await self._news.wait()
        if len(self._lines) < WAITING_LINES // 2:
            self._resume()
        return self._lines.popleft()

    def _ended_text(self) -> str:
        return self.ended() or "closed its stdout"

    def last_words(self) -> str:
        """The last log line for the end of a message, or nothing."""
        last = self.tail(1)
        return f"; its last line: {last[0][:200]}" if last else ""

    def drain(self) -> None:
        """From now on stdout belongs to the log."""
        self._draining = True
        for line in self._lines:
            self._tail.feed(line + b"\n", 1)
        self._lines.clear()
        self._tail.feed(bytes(self._stdout), 1)
        self._stdout.clear()
        self._resume()

    def _resume(self) -> None:
        if self._paused and 1 in self._pipes:
            self._pipes[1].resume_reading()
        self._paused = False

    def write(self, data: bytes) -> None:
        """Write on the process's stdin; what a dead process does not take is dropped."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(data)

    def tail(self, lines: int = 40) -> tuple[str, ...]:
        """The last lines of the log."""
        return self._tail.last(lines)

    # how it ends

    def ended(self) -> str | None:
        """How the process ended (`exited with status 1`, `was killed by signal 9 (SIGKILL)`), `None` while it runs."""
        if self._popen is None:
            return None
        status = self._popen.poll()
        if status is None and _dying(self._popen.pid):
            # Whoever saw its sockets close asks now; the kernel is done in a moment.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._popen.wait(1)
        if status is None:
            return None
        if status >= 0:
            return f"exited with status {status}"
        try:
            name = f" ({signal.Signals(-status).name})"
        except ValueError:
            name = ""
        return f"was killed by signal {-status}{name}"

    def crashed(self) -> str | None:
        """How the process ended, unless `stop` was asked for before."""
        return None if self._asked else self.ended()

    async def wait(self) -> str:
        """Return how the process ended, when it did."""
        await self._exited.wait()
        return self.ended() or ""

    async def stop(self, grace: float = 5.0) -> None:
        """End the process: SIGTERM, after `grace` seconds SIGKILL, then whatever is left of its group. Safe to call
        twice and after a crash."""
        if self._popen is None or self._stopped:
            return
        self._asked = self._asked or self.ended() is None
        if self._stdin is not None:
            self._stdin.close()
        self._popen.terminate()
        await self._wait_exited(grace)
        if not self._exited.is_set():
            self._popen.kill()
            await self._exited.wait()
        # The group's number stays taken while anything of it lives, and nothing else can have it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        # Its last lines may still be in the pipes; a grandchild that holds them open must not hold us.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self._released.wait()
        self._stopped = True
        for pipe in tuple(self._pipes.values()):
            pipe.close()
        await self._released.wait()

    async def _wait_exited(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()


def _dies_with_us() -> list[str]:
    """The command in front of ours that makes the kernel kill the process when we die; empty where there is none."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _dying(pid: int) -> bool:
    """Whether the kernel is already taking the process apart: waiting for it ends at once."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return fields[0] == "Z" or bool(int(fields[6]) & _EXITING)
    except (OSError, IndexError, ValueError):
        return False
