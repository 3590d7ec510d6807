"""The upstream of the load: takes and sends bulk, and answers requests; one thread per stream."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

from harness.bench import http2
from harness.bench.blocks import BLOCK, COMMAND, COUNT, MORE, READ, Receiver, Stream, WrongBytes, send_blocks
from harness.bench.pairs import BLOCKS, BODY, SMALL
from harness.bench.streams import BACKLOG, TIMEOUT, InnerTls, close, server_context

_SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(SMALL), SMALL)
_ECHO = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
_BULK = re.compile(rb"GET /bulk/(\d+) ")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_MOST_HEAD = 65_536

QUIC = "quic"
MODES = ("stream", "inner", "http", "h2c", "h3", QUIC)
"""What stands behind a tunnel: commands on a plain stream, the same in a TLS of the upstream's own, HTTP/1.1, HTTP/2 or
HTTP/3, or commands on streams of QUIC."""


def serve(stream: Any, mode: str, context: ssl.SSLContext) -> None:
    """Serve one stream to its end; what breaks ends it. `context` is for the upstream's own TLS."""
    try:
        inner = InnerTls(stream, context) if mode == "inner" else stream
        try:
            _SERVERS.get(mode, serve_commands)(inner)
        finally:
            close(inner)
    except (OSError, WrongBytes):
        # The client's end of the same stream says what went wrong.
        stream.close()


def serve_commands(stream: Stream) -> None:
    """Follow commands until the stream ends. Raises `OSError`, `WrongBytes`."""
    receiver = Receiver(stream)
    while command := receiver.exactly(COMMAND.size):
        name, seconds = COMMAND.unpack(command)
        if name == b"down":
            send_blocks(stream, seconds)
        elif name == b"up\0\0":
            stream.sendall(COUNT.pack(receiver.blocks()))
        else:
            stream.sendall(command)


def serve_http(stream: Stream) -> None:
    """Answer requests until the stream ends. Raises `OSError`, `WrongBytes`."""
    view = memoryview(bytearray(READ))
    receiver = Receiver(stream)
    rest = b""
    while True:
        end = rest.find(b"\r\n\r\n") + 4
        if end < 4:
            count = stream.recv_into(view)
            if count == 0 or len(rest) > _MOST_HEAD:
                return
            rest += view[:count]
            continue
        head, rest = rest[:end], rest[end:]
        if head.startswith(b"GET /small "):
            stream.sendall(_SMALL)
        elif head.startswith(b"POST /echo "):
            receiver.blocks(rest, count=BLOCKS)
            rest = b""
            stream.sendall(_ECHO)
        elif bulk := _BULK.match(head):
            _send_bulk(stream, int(bulk[1]))
        else:
            length = _LENGTH.search(head)
            octets = receiver.blocks(rest, count=int(length[1]) // BLOCK) if length else 0
            rest = b""
            answer = b"%d" % octets
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))


_SERVERS: dict[str, Callable[[Stream], None]] = {"http": serve_http, "h2c": http2.serve}


def _send_bulk(stream: Stream, blocks: int) -> None:
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (blocks * BLOCK))
    for _ in range(blocks):
        stream.sendall(MORE)


class Listener:
    """A listener on a port of its own: each connection gets TLS, and a thread that serves it in `mode`."""

    def __init__(self, mode: str, certificate: Sequence[str]) -> None:
        self._mode = mode
        self._context = server_context(certificate)
        if mode == "h2c":
            self._context.set_alpn_protocols([http2.ALPN])
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port: int = self._socket.getsockname()[1]

    def start(self) -> None:
        """Accept in the background for as long as the process lives."""
        in_background(self._accept)

    def _accept(self) -> None:
        while True:
            raw, _ = self._socket.accept()
            in_background(self._serve, raw)

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(TIMEOUT)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            stream = self._context.wrap_socket(raw, server_side=True)
        except OSError:
            raw.close()
            return
        serve(stream, self._mode, self._context)


def in_background(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work` in a thread that does not keep the process alive."""
    threading.Thread(target=work, args=arguments, daemon=True).start()
