"""Upstreams and clients of TLS tunnels, for tests of the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from reference_engine.edge.client_hello import ClientHello, HelloReader
from reference_engine.relay.stream import ByteStream
from reference_engine.relay.tcp import TcpStream
from reference_engine.tls.endpoint import ServerCertificate, ServerTls, TlsEndpoints
from reference_engine.tls.stream import TlsStream
from tests.engine_tls_support import (
    DOMAIN,
    Client,
    Edge,
    echo,
    self_signed,
    tunnel,
)

NAME = f"a.t.{DOMAIN}"
UPSTREAM_CERTIFICATE = self_signed("upstream.test")
MIB = 1 << 20


async def everything(stream: ByteStream) -> bytes:
    pieces = []
    while data := await stream.read():
        pieces.append(data)
    return b"".join(pieces)


class TlsUpstream:
    """An upstream that speaks TLS, keeps the ClientHellos it got, and hands the plaintext to `handler`."""

    def __init__(
        self,
        handler: Callable[[TlsStream], Awaitable[None]] = echo,
        *,
        select: Callable[[Sequence[str]], str | None] = lambda offered: None,
        certificate: ServerCertificate = UPSTREAM_CERTIFICATE,
    ) -> None:
        self.hellos: list[ClientHello] = []
        self.raw: list[bytes] = []
        self.plain = bytearray()
        self._handler = handler
        self._tls = ServerTls(certificate, select)
        self._endpoints = TlsEndpoints()

    async def __call__(self, stream: TcpStream) -> None:
        reader = HelloReader(65_536)
        while (hello := reader.feed(await stream.read())) is None:
            pass
        self.hellos.append(hello)
        self.raw.append(bytes(reader.raw))
        stream.unread(bytes(reader.raw))
        tls = TlsStream(stream, self._endpoints.server(self._tls))
        await tls.handshake()
        await self._handler(tls)
        await tls.close()


def echo_once(client: Client) -> bytes:
    client.handshake().send(b"ping")
    return client.receive(4)


def outcome(client: Client) -> tuple[bytes, str | None]:
    """Everything that came, and the end."""
    client.handshake()
    return client.receive_all(), client.ending


def edge_for(tmp_path: Path, *, settings: dict[str, Any] | None = None, **properties: Any) -> Edge:
    return Edge(tmp_path, tunnel(**properties), **(settings or {}))
