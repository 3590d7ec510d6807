"""An adapter that does everything right, with an engine of its own: TLS ends in this process, plain TCP goes upstream.

`python -m tests.adapters.simple`. tests/adapters/bad.py spoils it, one way at a time.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from harness.adapters._rpc import Adapter, Result

TALK_SECONDS = 20


class Tunnel:
    """One listener: every connection ends its TLS here and goes on to the upstream as plain TCP."""

    def __init__(self, certificate: Mapping[str, str], upstream: tuple[str, int], port: int = 0) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate["chain"], certificate["key"])
        self.upstream = upstream
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.carry, args=(connection,), daemon=True).start()

    def carry(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(TALK_SECONDS)
            with (
                self.context.wrap_socket(connection, server_side=True) as client,
                socket.create_connection(self.upstream, TALK_SECONDS) as upstream,
            ):
                back = threading.Thread(target=self.copy, args=(upstream, client), daemon=True)
                back.start()
                self.copy(client, upstream)
                back.join(TALK_SECONDS)

    @staticmethod
    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(TALK_SECONDS)


class Simple(Adapter):
    """The adapter; a process that only waits stands for the engine's."""

    name = "simple"
    version = "1.0"
    features: Sequence[str] = ("tls.terminated", "tls.1.2")

    def __init__(self) -> None:
        super().__init__()
        self.params: Mapping[str, Any] = {}
        self.tunnels: dict[str, Tunnel] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, params: Mapping[str, Any]) -> list[str]:
        if params["settings"]:
            return list(params["settings"])
        self.params = params
        self.start_process()
        return []

    def start_process(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.process = process
        threading.Thread(target=self.watch, args=(process,), daemon=True).start()

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if self.process is process:
            self.exited(f"was killed by signal {-status}")

    def end_process(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def lacks(self, properties: Mapping[str, Any]) -> str | None:
        if set(properties) - {"protocol", "publish"}:
            return str(min(set(properties) - {"protocol", "publish"}))
        return None if properties.get("protocol") == "tls" else str(properties.get("protocol"))

    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        return [self.publish_one(spec) for spec in specs]

    def publish_one(self, spec: Mapping[str, Any]) -> Result:
        lacking = self.lacks(spec["properties"])
        if lacking:
            return {"unsupported": lacking}
        upstream = (spec["upstream"]["address"], spec["upstream"]["port"])
        tunnel = Tunnel(self.params["certificate"], upstream)
        self.tunnels[spec["key"]] = tunnel
        return {"endpoint": {"host": spec["host"], "address": "127.0.0.1", "port": tunnel.port}}

    def unpublish(self, keys: Sequence[str]) -> None:
        for key in keys:
            if key in self.tunnels:
                self.tunnels.pop(key).close()

    def status(self) -> Result:
        running = self.process is not None and self.process.poll() is None
        return {"running": running, "pid": self.process.pid if self.process is not None and running else None}

    def restart(self) -> None:
        self.end_process()
        self.start_process()

    def log(self, lines: int) -> list[str]:
        return ["simple: nothing to say"][:lines]

    def shutdown(self) -> None:
        self.end_process()
        self.unpublish(list(self.tunnels))


if __name__ == "__main__":
    sys.exit(Simple().serve())
