"""Blocking TLS for the load: the standard library's sockets, and TLS inside TLS for a tunnel that is passed through."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TIMEOUT = 30.0
"""Seconds that any single step of the load may take."""
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where a client connects, and whom it trusts there. `server_name` goes into SNI; with `check_name` it is checked,
    too."""

    address: str
    port: int
    server_name: str | None
    ca_file: str | None
    insecure: bool = False
    check_name: bool = True

    def context(self, alpns: Sequence[str] = (), certificate: Sequence[str] | None = None) -> ssl.SSLContext:
        """A client's context: TLS 1.3, full handshakes. Raises `OSError` for files that cannot be read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = self.check_name and self.server_name is not None and not self.insecure
        if self.insecure:
            context.verify_mode = ssl.CERT_NONE
        elif self.ca_file:
            context.load_verify_locations(self.ca_file)
        else:
            context.load_default_certs()
        if alpns:
            context.set_alpn_protocols(list(alpns))
        if certificate:
            context.load_cert_chain(*certificate)
        return context

    def connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """A connection with its handshake done. Raises `OSError`."""
        raw = socket.create_connection((self.address, self.port), TIMEOUT)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(raw, server_hostname=self.server_name)
        except BaseException:
            raw.close()
            raise


def server_context(certificate: Sequence[str]) -> ssl.SSLContext:
    """A server's context from a PEM chain and its key. Raises `OSError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(*certificate)
    return context


def close(stream: Any) -> None:
    """End both directions of a TLS stream: close_notify, the other side's, FIN. What is broken is dropped."""
    with contextlib.suppress(OSError, ValueError):
        stream.unwrap()
    stream.close()


class InnerTls:
    """The server's end of TLS inside another TLS stream; sockets of the standard library do not nest."""

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext) -> None:
        self._outer = outer
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._scratch = memoryview(bytearray(BACKLOG * 64))
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._step(self._tls.do_handshake)

    def _step(self, action: Any) -> Any:
        """Do something that may need octets first. Raises `OSError`."""
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                self._flush()
                count = self._outer.recv_into(self._scratch)
                if count:
                    self._in.write(self._scratch[:count])
                else:
                    self._in.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._out.pending:
            self._outer.sendall(self._out.read())

    def recv_into(self, buffer: memoryview, /) -> int:
        """Octets read into `buffer`; 0 at the clean end. Raises `OSError`."""
        # The stubs know only the kind of read that makes a new object.
        return int(self._step(lambda: self._tls.read(len(buffer), buffer)))

    def sendall(self, data: bytes, /) -> None:
        """Write everything. Raises `OSError`."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            at += self._tls.write(view[at : at + 65_536])
            self._flush()

    def unwrap(self) -> None:
        """close_notify of both layers. Raises `OSError`."""
        self._step(self._tls.unwrap)
        self._outer.unwrap()

    def close(self) -> None:
        """Close the socket."""
        self._outer.close()


def raise_file_limit() -> None:
    """Every connection is a file: take as many as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
