"""An engine that is started from a file: its process, its log, and the proof that it owns the ports it was given."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.adapters._rpc import Trouble

LOG_LINES = 400
LINE_LIMIT = 2000
LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
UNCONNECTED = "07"
"""The state of a UDP socket without a remote address in /proc/net/udp."""
LOOK_SECONDS = 0.01


class Child:
    """One process of an engine. Its output goes to our stderr and, bounded, to `log`.

    `on_exit` is called on another thread when the process ends without having been asked to; without `announce` only
    after `announce()`, so that a process that does not come up is told as the answer to a request.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, on_exit: Callable[[str], None], announce: bool = True
    ) -> None:
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._on_exit = on_exit
        self._asked = not announce
        self._told = threading.Lock()
        try:
            self._process = subprocess.Popen(
                list(command),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise Trouble(f"cannot start {command[0]}: {error.strerror}") from error
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(LINE_LIMIT):
                text = line.decode("utf-8", "replace").rstrip()
                self.log.append(text)
                print(text, file=sys.stderr, flush=True)
        self._process.wait()
        self._tell()

    def _tell(self) -> None:
        with self._told:
            due, self._asked = not self._asked, True
        if due:
            self._on_exit(self.ended() or "ended")

    def announce(self) -> None:
        """Its end is unexpected from now on; told at once where it has ended already."""
        self._asked = False
        if self.ended() is not None:
            self._tell()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ended(self) -> str | None:
        """How the process ended, `None` while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        return f"exited with status {status}" if status >= 0 else f"was killed by signal {-status}"

    def wait(self, seconds: float) -> bool:
        """Whether the process ended within `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False

    def disown(self) -> None:
        """Its end is expected from now on."""
        self._asked = True

    def stop(self, grace: float = 3.0) -> None:
        """SIGTERM, after `grace` seconds SIGKILL. Safe to call twice."""
        self._asked = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            if not self.wait(grace):
                self._process.kill()
                self._process.wait()
        self._watcher.join(grace)

    def await_ports(
        self, ports: Iterable[int], seconds: float, *, besides: int | None = None, udp: Iterable[int] = ()
    ) -> str | None:
        """Wait until this process listens on all of `ports` (TCP) and has all of `udp`, and alone, but for the process
        `besides` that hands them over.

        Gives `None`, or what is wrong: it ended, it does not listen in time, or somebody else does as well.
        """
        tcp_ports, udp_ports = set(ports), set(udp)
        wanted = [("tcp", port) for port in sorted(tcp_ports)] + [("udp", port) for port in sorted(udp_ports)]
        for _ in range(int(seconds / LOOK_SECONDS)):
            if self.wait(LOOK_SECONDS):
                last = next((line for line in reversed(self.log) if line), "")
                return f"{self.ended()}{f': {last}' if last else ''}"
            tables = {"tcp": listeners(tcp_ports), "udp": bound(udp_ports)}
            mine = sockets_of(self.pid)
            if all(tables[kind].get(port, set()) & mine for kind, port in wanted):
                known = mine | (sockets_of(besides) if besides else set())
                foreign = [port for kind, port in wanted if tables[kind][port] - known]
                return f"another process listens on port {foreign[0]}, too" if foreign else None
        return f"does not listen on {', '.join(f'{port}/{kind}' for kind, port in wanted)} within {seconds:g} s"


def listeners(ports: Iterable[int]) -> dict[int, set[str]]:
    """Inodes of the TCP sockets that listen on each of `ports`, whoever owns them (Linux)."""
    return _inodes(("tcp", "tcp6"), set(ports), LISTEN)


def bound(ports: Iterable[int]) -> dict[int, set[str]]:
    """Inodes of the UDP sockets that take from anybody at each of `ports`, whoever owns them (Linux)."""
    return _inodes(("udp", "udp6"), set(ports), UNCONNECTED)


def _inodes(tables: Iterable[str], wanted: set[int], state: str) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for name in tables if wanted else ():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                port = int(words[1].rpartition(":")[2], 16)
                if words[3] == state and port in wanted:
                    found.setdefault(port, set()).add(words[9])
    return found


def sockets_of(pid: int) -> set[str]:
    """Inodes of the sockets that the process `pid` holds (Linux)."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def free_ports(ports: Mapping[str, int], skip: Iterable[int] = (), *, udp: bool = False) -> Iterator[int]:
    """The ports of the range `{"first", "last"}` that nobody holds now for TCP, and with `udp` for UDP as well, in
    order. That they stay free is not promised: `Child.await_ports` looks afterwards."""
    left_out = set(skip)
    for port in range(int(ports["first"]), int(ports["last"]) + 1):
        if port not in left_out and _free(port, socket.SOCK_STREAM) and (not udp or _free(port, socket.SOCK_DGRAM)):
            yield port


def _free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            if kind == socket.SOCK_STREAM:
                # A port in TIME_WAIT is free; one that is listened on is not, whatever its owner set.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                probe.listen(1)
        except OSError:
            return False
    return True
