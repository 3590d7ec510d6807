"""A first look at a published tunnel: does a client that goes to its endpoint come out at its upstream?

Deliberately crude, and made of the standard library: it tells a wrong address, a dead listener and a crossed wire from
a working tunnel, before any case judges the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import threading

from harness.engine.driver import Endpoint, UpstreamQueue
from harness.link.stream import LinkReset
from harness.model.spec import TunnelSpec

HANDSHAKE_RECORD = b"\x16\x03"
ENOUGH = 4096


async def reachable(endpoint: Endpoint, seconds: float) -> str | None:
    """Why nobody answers TCP at the endpoint, or `None`."""
    where = f"{endpoint.address}:{endpoint.port}"
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
    except TimeoutError:
        return f"{where} does not accept TCP within {seconds:g} s"
    except (OSError, ValueError) as error:
        return f"{where}: {getattr(error, 'strerror', None) or error}"
    writer.transport.abort()
    return None


async def carries(endpoint: Endpoint, spec: TunnelSpec, queue: UpstreamQueue, seconds: float) -> str | None:
    """Why what a client sends to the endpoint does not come to the upstream behind `queue`, or `None`."""
    nonce = secrets.token_hex(16).encode()
    client = _Client(endpoint, spec, nonce, seconds)
    talking = asyncio.create_task(asyncio.to_thread(client.talk))
    try:
        async with asyncio.timeout(seconds):
            seen = await _until_seen(queue, spec, nonce)
    except TimeoutError:
        seen = None
    finally:
        client.hang_up()
        for incoming in queue.drain():
            incoming.link.abort()
    told = await talking
    if seen is None:
        return f"nothing came to the upstream within {seconds:g} s{f' ({told})' if told else ''}"
    return seen or None


async def _until_seen(queue: UpstreamQueue, spec: TunnelSpec, nonce: bytes) -> str:
    """Nothing when the first stream at the upstream is the client's, else what it was."""
    incoming = await queue.get()
    data = b""
    try:
        while len(data) < ENOUGH and not _recognised(data, spec, nonce):
            more = await incoming.link.receive()
            if not more:
                break
            data += more
    except LinkReset:
        pass
    finally:
        incoming.link.abort()
    if _recognised(data, spec, nonce):
        return ""
    return f"the upstream got {data[:40]!r} and not what the client sent"


def _recognised(data: bytes, spec: TunnelSpec, nonce: bytes) -> bool:
    return data.startswith(HANDSHAKE_RECORD) if spec.upstream == "tls" else nonce in data


class _Client:
    """A client of the standard library that goes to the endpoint with a nonce."""

    def __init__(self, endpoint: Endpoint, spec: TunnelSpec, nonce: bytes, seconds: float) -> None:
        self._endpoint = endpoint
        self._spec = spec
        self._nonce = nonce
        self._seconds = seconds
        self._tls: ssl.SSLSocket | None = None
        self._over = threading.Event()

    def talk(self) -> str:
        """Connect, handshake, send; then wait for the end, the engine's or ours. Blocking: run it in a thread. What
        went wrong, if anything."""
        where = self._endpoint
        try:
            with (
                socket.create_connection((where.address, where.port), self._seconds) as plain,
                self._context().wrap_socket(plain, server_hostname=where.host) as tls,
            ):
                tls.sendall(self._words())
                self._tls = tls
                if not self._over.is_set():
                    tls.recv(1)
        except (OSError, ValueError) as error:
            return "" if self._over.is_set() else str(error)
        return ""

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        alpns = ("http/1.1",) if self._spec.family == "http" else self._spec.tls_alpns[:1]
        if alpns:
            context.set_alpn_protocols(list(alpns))
        return context

    def _words(self) -> bytes:
        if self._spec.family != "http":
            return self._nonce
        host = self._endpoint.host.encode()
        return b"GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (self._nonce, host)

    def hang_up(self) -> None:
        """End the conversation, whether or not the engine does. From any thread."""
        self._over.set()
        if self._tls is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown, which takes the TLS state away from the thread that reads.
                socket.socket.shutdown(self._tls, socket.SHUT_RDWR)
