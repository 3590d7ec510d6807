"""Chromium through the reference engine, over HTTP/2 and over HTTP/3: it fetches a page, does what the script in it
says, and posts back what it saw."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.foreign_http_support import LARGE, SECONDS, Edge, digest, engine, needs, octets, tunnel

pytestmark = needs("chromium")
FETCHES = 8
PAGE = f"""<!doctype html><title>page</title><script>
const hex = (data) => Array.from(new Uint8Array(data), (octet) => octet.toString(16).padStart(2, "0")).join("");
const digest = async (data) => hex(await crypto.subtle.digest("SHA-256", data));
async function run() {{
  const spoken = performance.getEntriesByType("navigation")[0].nextHopProtocol;
  const each = await Promise.all(Array.from({{length: {FETCHES}}}, async (_, number) => {{
    const answer = await fetch("/large?" + number, {{cache: "no-store"}});
    return [answer.status, await digest(await answer.arrayBuffer())];
  }}));
  const body = new Uint8Array({LARGE}).map((_, place) => place % 251);
  const echo = await fetch("/echo", {{method: "POST", body}});
  const seen = await echo.json();
  const gone = new AbortController();
  const hangs = await fetch("/hangs", {{signal: gone.signal}});
  await hangs.body.getReader().read();
  gone.abort();
  const missing = (await fetch("/missing")).status;
  return {{spoken, each, seen, missing}};
}}
run().then((told) => fetch("/told", {{method: "POST", body: JSON.stringify(told)}}),
           (error) => fetch("/told", {{method: "POST", body: JSON.stringify({{error: String(error)}})}}));
</script>"""


class Handler(BaseHTTPRequestHandler):
    """The service behind the tunnel."""

    protocol_version = "HTTP/1.1"
    told: queue.Queue[dict[str, Any]]
    left: threading.Event

    def _answer(self, status: int, body: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """The page, content, a response that never ends, nothing."""
        if self.path == "/page":
            self._answer(200, PAGE.encode(), "text/html")
        elif self.path.startswith("/large"):
            self._answer(200, octets(LARGE))
        elif self.path == "/hangs":
            self._hang()
        else:
            self._answer(404, b"nothing here")

    def _hang(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        self.connection.settimeout(SECONDS)
        self.close_connection = True
        try:
            over = not self.rfile.read(1)
        except ConnectionError:
            over = True
        if over:
            self.left.set()

    def do_POST(self) -> None:
        """What came, as JSON; or what the page has to tell."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/told":
            self.told.put(json.loads(body))
        seen = {"octets": len(body), "digest": digest(body)}
        self._answer(200, json.dumps(seen).encode(), "application/json")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Nothing."""


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Edge, type[Handler]]]:
    """A tunnel to a service of the standard library."""
    handler = type("Ours", (Handler,), {"told": queue.Queue(), "left": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        with engine() as ready, tunnel(ready, server.server_port, "http/1.1") as edge:
            yield edge, handler
    finally:
        server.shutdown()
        server.server_close()


def key_hash(edge: Edge) -> str:
    """Of the edge's public key, as Chromium wants it."""
    context = ssl.create_default_context(cafile=edge.ca)
    host, _, port = edge.tcp.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=edge.host) as secure,
    ):
        key = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"").public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


@contextmanager
def chromium(edge: Edge, version: str, folder: Path) -> Iterator[Path]:
    """A browser without a window that opens the page; the file with what it writes."""
    port = (edge.udp if version == "h3" else edge.tcp).rpartition(":")[2]
    force = [f"--origin-to-force-quic-on={edge.host}:{port}"] if version == "h3" else ["--disable-quic"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(str(shutil.which("chromium")), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", "--no-proxy-server"),
                *(f"--ignore-certificate-errors-spki-list={key_hash(edge)}", *force),
                *(f"--host-resolver-rules=MAP {edge.host} 127.0.0.1", f"https://{edge.host}:{port}/page"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield log
        finally:
            # It is a family of processes, in a group of their own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("version", ["h2", "h3"])
def test_a_page_fetches_and_posts(served: tuple[Edge, type[Handler]], version: str, tmp_path: Path) -> None:
    edge, handler = served
    handler.left.clear()
    with chromium(edge, version, tmp_path) as log:
        try:
            told = handler.told.get(timeout=2 * SECONDS)
        except queue.Empty:
            pytest.fail(f"the page told nothing\n{log.read_text(errors='replace')[-4000:]}")
        assert told.get("error") is None, told
        assert told["spoken"] == version
        assert told["each"] == [[200, digest(octets(LARGE))]] * FETCHES
        assert told["seen"] == {"octets": LARGE, "digest": digest(octets(LARGE))}
        assert told["missing"] == 404
        assert handler.left.wait(SECONDS), "a fetch that was given up did not end at the upstream"
