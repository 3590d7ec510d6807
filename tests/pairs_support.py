"""What the tests over pairs of HTTP versions share: an engine in the running loop, and links that cut what is sent."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness.engine.launch import LaunchDriver
from harness.evidence.transcript import Transcript
from harness.ledger import Ledger
from harness.link.deadline import set_default
from harness.model.case import MARK, case
from harness.model.spec import Settings, TunnelSpec, http
from harness.peer.http import HttpClient
from harness.peer.http1_stream import ByteStream
from harness.peer.http3 import Http3Client
from harness.peer.http3_upstream import Http3UpstreamConnection
from harness.peer.http_upstream import HttpUpstreamConnection
from harness.profiles import load
from harness.scene import Scene
from harness.soak.carry import Leg
from reference_engine.config import load as read_settings
from reference_engine.engine import Engine
from reference_engine.parts import Parts

DOWN = {"h1": "http/1.1", "h2": "h2", "h3": "h3"}
UP: dict[str, TunnelSpec] = {"h1": http(), "h2c": http(http_version="h2c"), "h3": http(http_version="h3")}
PAIRS = list(itertools.product(DOWN, UP))
PATIENCE_MS = "600000"
"""How long the engine waits for its agent: both are in one loop, which a busy machine may hold up."""
MOST_PIECES = 400
"""Pieces that one send is cut into; the rest goes as a whole."""


class InLoop(LaunchDriver):
    """The reference engine in the loop of the test: what a peer sends is read before it sends more."""

    engine: Engine
    parts: Parts | None = None

    async def _start(self, listen: str) -> None:
        flags = {"listen": listen, "udp_listen": "127.0.0.1:0", "heartbeat_timeout_floor_ms": PATIENCE_MS}
        self.engine = Engine(read_settings(None, flags), self.parts)
        ready = await self.engine.start()
        self._take_ready(json.dumps(ready.as_json()).encode(), [])
        await self._greet()

    async def _end(self) -> None:
        await self.engine.stop(0)


class Cuts:
    """How long the pieces are, over and over again; empty: nothing is cut."""

    def __init__(self) -> None:
        self.sizes: Sequence[int] = ()

    def pieces(self, data: bytes) -> list[bytes]:
        """`data` in such pieces."""
        found: list[bytes] = []
        for size in itertools.islice(itertools.cycle(self.sizes), MOST_PIECES):
            if not data:
                return found
            found.append(data[:size])
            data = data[size:]
        return [*found, data] if data else found


class CutLink:
    """A link below a peer whose octets go out in pieces, each of which is read on its own."""

    def __init__(self, link: ByteStream, cuts: Cuts) -> None:
        self._link = link
        self._cuts = cuts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def send(self, data: bytes) -> None:
        for piece in self._cuts.pieces(data):
            await self._link.send(piece)
            for _ in range(3):
                await asyncio.sleep(0)


def cut_quic(peer: Any, cuts: Cuts) -> None:
    """Let the octets of the peer's streams go out in pieces, a STREAM frame and a packet each."""
    original = peer.wire.send_stream

    def send_stream(stream_id: int, data: bytes, *, fin: bool = False) -> None:
        *pieces, last = cuts.pieces(data) or [b""]
        for piece in pieces:
            original(stream_id, piece)
            peer.flush()
        original(stream_id, last, fin=fin)

    peer.wire.send_stream = send_stream


class Ground:
    """A scene with a tunnel per upstream version, on an engine in this loop."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.down = Cuts()
        self.up = Cuts()
        for name in UP:
            self._cut_upstream(name)

    def _cut_upstream(self, name: str) -> None:
        upstream: Any = self.scene.http_upstream(name, version="")
        original = upstream.connect

        async def connect(*given: Any) -> HttpUpstreamConnection:
            connection: Any = await original(*given)
            if isinstance(connection, Http3UpstreamConnection):
                cut_quic(connection.quic, self.up)
            else:
                connection.link = CutLink(connection.link, self.up)
            return connection  # type: ignore[no-any-return]

        upstream.connect = connect

    def leg(self, down: str, up: str) -> Leg:
        """Where the exchanges of a pair go."""
        upstream = self.scene.http_upstream(up, version="")
        return Leg(self.scene, upstream, self.scene.endpoint(up).host, "h1" not in (down, up))

    async def client(self, down: str, up: str) -> HttpClient:
        """A new client, whose octets are cut from now on."""
        client: Any = await self.scene.http_client(up, version=DOWN[down])
        if isinstance(client, Http3Client):
            cut_quic(client.quic, self.down)
        else:
            client.link = CutLink(client.link, self.down)
        return client  # type: ignore[no-any-return]


@asynccontextmanager
async def ground(parts: Parts | None = None) -> AsyncIterator[Ground]:
    """An engine of its own, and a scene on it. `parts` replaces the engine's rules."""
    set_default(20.0)
    profile = load("reference")
    driver = InLoop(profile)
    driver.parts = parts
    await driver.start(Settings())
    try:

        @case("pairs", checks=["HTTP-VER-006"], publish=UP)
        async def pairs(_: Scene) -> None:
            """No case: what a scene has to be told."""

        declared = getattr(pairs, MARK)
        transcript = Transcript(asyncio.get_running_loop().time)
        session = await driver.open_session("pairs")
        scene = Scene(
            declared,
            declared.variants[0],
            profile=profile,
            driver=driver,
            session=session,
            ledger=Ledger.load(),
            transcript=transcript,
        )
        try:
            await scene.publish_declared()
            yield Ground(scene)
        finally:
            await scene.close()
    finally:
        await driver.stop()
