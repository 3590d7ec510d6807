"""Steps that cases of the edge share: the engine's own name, names that nobody serves, its API, whom to trust."""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from harness.engine.agent_driver import ProtocolDriver
from harness.engine.driver import Endpoint
from harness.errors import NotSupported, PeerMismatch
from harness.link.agent import EngineAccess
from harness.link.stream import End, LinkReset
from harness.peer.http1 import Http1Client, Response, exchange
from harness.peer.raw import RawPeer
from harness.peer.tls import TlsPeer
from harness.peer.tls_pki import EDGE_ROOT, authority
from harness.scene import Scene
from harness.wire.websocket import accept_for

HTTP = ("http/1.1",)
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
NAME = "{label}-{project}.t.{domain}"
"""A host name that every edition gives: where labels are free it is one, elsewhere it ends with the project."""


def protocol_driver(scene: Scene) -> ProtocolDriver:
    """The driver of an engine that speaks the agent protocol. Raises `NotSupported` for any other."""
    if not isinstance(scene.driver, ProtocolDriver):
        raise NotSupported("agent.protocol")
    return scene.driver


def access(scene: Scene) -> EngineAccess:
    """Where and how agents reach the engine."""
    found = protocol_driver(scene).access
    assert found is not None
    return found


def engine_endpoint(scene: Scene) -> Endpoint:
    """The engine's own name, where its API and agents are served."""
    known = access(scene)
    return Endpoint(known.server_name or protocol_driver(scene).domain, known.address, known.port)


def zone_of(endpoint: Endpoint) -> str:
    """The zone that a published name lives in: all but its first label."""
    return endpoint.host.partition(".")[2]


def authority_of(endpoint: Endpoint) -> str:
    """What Host says of an endpoint: the port only where it is not the default one."""
    return endpoint.host if endpoint.port == 443 else f"{endpoint.host}:{endpoint.port}"


def trust(scene: Scene) -> list[x509.Certificate]:
    """The roots that clients of this engine trust."""
    if not isinstance(scene.driver, ProtocolDriver):
        return [authority(EDGE_ROOT).certificate]
    file = access(scene).ca_file
    if file is None:
        raise NotSupported("a CA file that clients can trust")
    return x509.load_pem_x509_certificates(Path(file).read_bytes())


@dataclass(frozen=True, slots=True)
class Knock:
    """What came of asking for a name: `kind` is `handshake` (refused there), `closed`, `4xx`, `5xx`, .. or `2xx`."""

    kind: str
    text: str

    @property
    def refused(self) -> bool:
        """Whether nobody served the name."""
        return self.kind in ("handshake", "closed", "4xx", "5xx")


async def knock(scene: Scene, near: Endpoint, name: str | None, *, host: str | None = None, path: str = "/") -> Knock:
    """Ask for the server name `name` (None: none at all) at the address of `near`, and for `host` in a request.

    Raises `DeadlineExpired` when the engine neither answers nor ends the connection.
    """
    try:
        peer = await scene.tls_client(endpoint=near, server_name=name, alpn=HTTP, handshake=False)
        ended = await peer.try_handshake()
    except LinkReset as reset:
        return Knock("handshake", reset.reason)
    if isinstance(ended, End):
        return Knock("handshake", str(ended))
    client = Http1Client(peer, peer.channel, host=host or name or near.host)
    if not await client.offer(_get(client.host, path), expects="GET"):
        return Knock("closed", "reset")
    got = await client.outcome()
    if isinstance(got, End):
        return Knock("closed", str(got))
    return Knock(f"{got.status // 100}xx", got.describe())


def _get(host: str | bytes | None, path: str) -> bytes:
    name = host.decode("ascii") if isinstance(host, bytes) else host
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()


async def api(
    scene: Scene, path: str, *, token: str | None = None, options: dict[str, Any] | None = None
) -> tuple[TlsPeer, Response]:
    """GET `path` of the engine's API. The connection is given, too."""
    where = engine_endpoint(scene)
    peer = await scene.tls_client(endpoint=where, alpn=HTTP, **(options or {}))
    client = Http1Client(peer, peer.channel, host=authority_of(where))
    fields = [("Authorization", f"Bearer {token}")] if token is not None else []
    await client.request("GET", path, fields)
    return peer, await client.response()


async def listed(scene: Scene, kind: str = "tunnels", *, token: str | None = None) -> list[dict[str, Any]]:
    """What the API lists under `/api/<kind>`, with the agents' own token unless another is given. Raises
    `PeerMismatch` when it is no JSON array of objects."""
    peer, response = await api(scene, f"/api/{kind}", token=access(scene).token if token is None else token)
    await peer.close()
    if response.status != 200:
        raise PeerMismatch(f"200 with the list of {kind}", response.describe())
    try:
        found = json.loads(response.body)
    except ValueError as error:
        raise PeerMismatch(f"a JSON array of {kind}", repr(response.body[:60])) from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise PeerMismatch(f"a JSON array of {kind}", repr(response.body[:60]))
    return found


async def serves(scene: Scene, name: str = "main", *, where: Endpoint | None = None, **options: Any) -> None:
    """One exchange through the published tunnel `name`, at its endpoint or at `where`. Raises what peers raise when it
    does not come through unchanged."""
    if scene.spec(name).family == "http":
        spot = where or scene.endpoint(name)
        peer = await scene.tls_client(name, endpoint=spot, **options)
        client = Http1Client(peer, peer.channel, host=spot.host)
        await exchange(client, scene.http_upstream(name), scene.nonce().hex())
        await client.close()
        return
    if where is not None:
        options["endpoint"] = where
    client_peer, upstream = await scene.pair(name, **options)
    answer = scene.nonce()
    await upstream.send(answer)
    got = await client_peer.receive_exactly(len(answer))
    if got != answer:
        raise PeerMismatch("the upstream's answer at the client", got.hex())
    await client_peer.close()
    await upstream.close()


def under(endpoint: Endpoint, host: str) -> Endpoint:
    """The same address under another name."""
    return dataclasses.replace(endpoint, host=host)


async def upgraded(scene: Scene, name: str = "main") -> tuple[RawPeer, RawPeer]:
    """The client's and the upstream's end of a WebSocket session through the HTTP tunnel `name`, as plain octets.
    Raises `PeerMismatch` when the client gets no 101."""
    client, upstream, nonce = await scene.http_client(name), scene.http_upstream(name), scene.nonce().hex()
    key = base64.b64encode(scene.nonce()).decode()
    asked = [*UPGRADE, ("Sec-WebSocket-Key", key), ("Sec-WebSocket-Version", "13")]
    await client.request("GET", f"/{nonce}", asked, nonce=nonce)
    request = await upstream.request(nonce)
    server = await request.upgrade([*UPGRADE, ("Sec-WebSocket-Accept", accept_for(key))])
    response = await client.response()
    if response.status != 101:
        raise PeerMismatch("101 at the client", response.describe())
    return client.tunnel(), server
