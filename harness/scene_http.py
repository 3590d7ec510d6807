"""How a scene makes HTTP peers: which class speaks a version, what is below it, and the barrier of HTTP tunnels."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.errors import DeadlineExpired, EngineDeparted, PeerMismatch
from harness.link.stream import LinkReset
from harness.peer.http_upstream import probe

if TYPE_CHECKING:
    from harness.engine.driver import Endpoint, Published
    from harness.evidence.transcript import Transcript
    from harness.peer.http import HttpClient
    from harness.peer.http_upstream import HttpUpstream
    from harness.scene import Scene

ALPN: Mapping[str, tuple[str, ...]] = {"http/1.1": ("http/1.1",), "h2": ("h2",), "h3": ("h3",)}
"""What a client of this version offers (RFC 9112 section 12, RFC 9113 section 3.2, RFC 9114 section 3.1)."""
_CLIENTS = {
    "http/1.1": ("harness.peer.http1", "Http1Client"),
    "h2": ("harness.peer.http2", "Http2Client"),
    "h3": ("harness.peer.http3", "Http3Client"),
}
_UPSTREAMS = {
    "http/1.1": ("harness.peer.http1", "Http1Upstream"),
    "h2c": ("harness.peer.http2_upstream", "Http2Upstream"),
    "h3": ("harness.peer.http3_upstream", "Http3Upstream"),
    "tls": ("harness.peer.https_upstream", "HttpsUpstream"),
}
"""By what `TunnelSpec.upstream_http` says. A version is imported when a case speaks it."""


def _class(table: Mapping[str, tuple[str, str]], version: str) -> Any:
    if version not in table:
        raise ValueError(f"HTTP version {version!r}, allowed is {', '.join(table)}")
    module, name = table[version]
    return getattr(import_module(module), name)


class HttpPeers:
    """The HTTP peers of one scene: an upstream per tunnel, and the clients that scripts made of each."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._upstreams: dict[str, HttpUpstream] = {}
        self._clients: dict[str, list[HttpClient]] = {}

    async def client(self, name: str, version: str, endpoint: Endpoint | None, options: dict[str, Any]) -> HttpClient:
        """A client of the script's, which `settle` goes by."""
        client = await self._connect(name, version, endpoint, options)
        self._clients.setdefault(name, []).append(client)
        return client

    async def _connect(
        self, name: str, version: str, endpoint: Endpoint | None, options: Mapping[str, Any]
    ) -> HttpClient:
        kind = _class(_CLIENTS, version)
        own = {key: value for key, value in options.items() if key in kind.OPTIONS}
        below = {
            "alpn": ALPN[version],
            **kind.BELOW,
            **{key: value for key, value in options.items() if key not in own},
        }
        connect = self._scene.quic_client if version == "h3" else self._scene.tls_client
        peer = await connect(name, endpoint=endpoint, **below)
        if version != "http/1.1" and "alpn" not in options and peer.alpn != version:
            raise PeerMismatch(f"{version} by ALPN", f"{peer.alpn!r}")
        client: HttpClient = kind(peer, peer.channel, host=self._scene.endpoint(name).host, **own)
        self._scene.on_close(client.close)
        await client.start()
        return client

    def upstream(
        self, name: str, published: Published, transcript: Transcript, options: dict[str, Any]
    ) -> HttpUpstream:
        """The upstream behind the tunnel `name`, the same one each time; `options` count when it is made."""
        if name not in self._upstreams:
            kind = _class(_UPSTREAMS, published.spec.upstream_http)
            upstream: HttpUpstream = kind(published.upstream, transcript, name, **options)
            self._upstreams[name] = upstream
            self._scene.on_close(upstream.close)
        elif options:
            raise ValueError(
                f"the upstream of {name!r} is there already: give it {', '.join(options)} at the first call"
            )
        return self._upstreams[name]

    async def settle(self, name: str) -> None:
        """A round trip on each connection of the script's that lives (as far as its version has one), and an exchange
        of our own to the upstream and back over a new connection of each version that the script used."""
        clients = self._clients.get(name, [])
        for client in clients:
            await self._ping(client)
        for version in dict.fromkeys(client.version for client in clients) or ("http/1.1",):
            await self._probe(name, version)

    async def _ping(self, client: HttpClient) -> None:
        try:
            await client.ping()
        except DeadlineExpired:
            raise
        except (EngineDeparted, LinkReset):
            pass  # the connection has ended: the engine has read of it what it ever will

    async def _probe(self, name: str, version: str) -> None:
        upstream = self._scene.http_upstream(name)
        client = await self._connect(name, version, None, {})
        await probe(client, upstream, self._scene.nonce().hex())
        await client.close()
