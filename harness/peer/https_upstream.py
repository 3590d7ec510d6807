"""The upstream of an HTTP tunnel with `upstream_tls`: TLS, and above it the version that ALPN chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel, Transcript
from harness.peer.http1_upstream import UpstreamConnection
from harness.peer.http2_upstream import Http2Upstream, Http2UpstreamConnection
from harness.peer.http_upstream import HttpUpstream, HttpUpstreamConnection
from harness.peer.tls import TlsPeer
from harness.peer.tls_pki import upstream_identity
from harness.wire.tls.server import ServerOptions

HTTP_ALPN = ("h2", "http/1.1")


class HttpsUpstream(HttpUpstream):
    """Takes every connection as a TLS server; each is h2 or http/1.1 by itself.

    `alpn` is what the server takes, by preference; a client that offers no protocol gets http/1.1 (RFC 7301 section 3.1
    leaves it to the server). `options` are those of `ServerOptions`, and for each h2 connection those of
    `Http2Upstream`.
    """

    OPTIONS = frozenset(ServerOptions.__dataclass_fields__) | Http2Upstream.OPTIONS

    def __init__(
        self,
        queue: UpstreamQueue,
        transcript: Transcript,
        name: str = "main",
        *,
        alpn: Sequence[str] = HTTP_ALPN,
        **options: Any,
    ) -> None:
        super().__init__(queue, transcript, name)
        self._alpn = tuple(alpn)
        self._http2 = {key: value for key, value in options.items() if key in Http2Upstream.OPTIONS}
        self._tls = {key: value for key, value in options.items() if key not in self._http2}

    @property
    def version(self) -> str:  # type: ignore[override]
        """What the newest connection speaks, before the first the empty string."""
        return self.connections[-1].version if self.connections else ""

    async def connect(self, number: int, incoming: Incoming, channel: Channel) -> HttpUpstreamConnection:
        """TLS, and HTTP above. Raises what a TLS peer raises."""
        identity = upstream_identity()
        chosen: dict[str, Any] = {"chain": identity.chain, "key": identity.key, **self._tls, "alpn": self._alpn}
        peer = TlsPeer.server(incoming.link, channel, ServerOptions(**chosen))
        await peer.handshake()
        if peer.alpn == "h2":
            return Http2UpstreamConnection(number, peer, channel, self, **self._http2)
        if peer.alpn not in (None, "http/1.1"):
            raise PeerMismatch("h2 or http/1.1 by ALPN", f"{peer.alpn!r}")
        return UpstreamConnection(number, peer, channel, self)
