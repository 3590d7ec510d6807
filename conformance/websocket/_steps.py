"""Steps that the WebSocket cases share: a handshake through the tunnel, and both ends of the session behind it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import Event

from harness.errors import PeerMismatch
from harness.peer.http1 import Http1Client, Response, UpstreamRequest
from harness.peer.raw import RawPeer
from harness.scene import Scene
from harness.wire.http1_write import Field
from harness.wire.websocket import accept_for

UPGRADE: list[Field] = [("Connection", "Upgrade"), ("Upgrade", "websocket")]


def new_key(scene: Scene) -> str:
    """A Sec-WebSocket-Key: sixteen octets in base64."""
    return base64.b64encode(scene.nonce()).decode()


def offer(key: str, *more: Field) -> list[Field]:
    """The fields of an opening handshake (RFC 6455 section 4.1)."""
    return [*UPGRADE, ("Sec-WebSocket-Key", key), ("Sec-WebSocket-Version", "13"), *more]


def acceptance(request: UpstreamRequest, *more: Field) -> list[Field]:
    """The fields of a 101 for the key that the upstream got (RFC 6455 section 4.2.2)."""
    return [*UPGRADE, ("Sec-WebSocket-Accept", accept_for(request.get("sec-websocket-key") or "")), *more]


@dataclass(slots=True)
class Session:
    """An open session: both sides of its handshake, and a raw stream at each end."""

    http: Http1Client
    request: UpstreamRequest
    response: Response
    client: RawPeer
    server: RawPeer
    key: str


async def handshake(scene: Scene, *fields: Field, target: str = "") -> tuple[Http1Client, UpstreamRequest, str]:
    """A client's opening handshake that has reached the upstream; the key that was sent."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    key = new_key(scene)
    await client.request("GET", target or f"/{nonce}", offer(key, *fields), nonce=nonce)
    return client, await upstream.request(nonce), key


async def opened(scene: Scene, *fields: Field, answer: Sequence[Field] = (), target: str = "") -> Session:
    """A session through the tunnel. Raises `PeerMismatch` when the client gets no 101."""
    client, request, key = await handshake(scene, *fields, target=target)
    server = await request.upgrade(acceptance(request, *answer))
    response = await client.response()
    if response.status != 101:
        raise PeerMismatch("101 at the client", response.describe())
    return Session(client, request, response, client.tunnel(), server, key)


class WebSocket:
    """One end of a session, with wsproto's frames on a raw stream."""

    def __init__(self, peer: RawPeer, role: ConnectionType) -> None:
        self.peer = peer
        self._connection = Connection(role)

    async def send(self, event: Event) -> None:
        """Send one event."""
        await self.peer.send(self._connection.send(event))

    async def events(self) -> list[Event]:
        """The events of the next octets; of the end of the stream the last ones."""
        self._connection.receive_data(await self.peer.receive() or None)
        return list(self._connection.events())


def ends(session: Session) -> tuple[WebSocket, WebSocket]:
    """Both ends of `session`, the client's first."""
    return WebSocket(session.client, ConnectionType.CLIENT), WebSocket(session.server, ConnectionType.SERVER)
