"""Steps of the cases about streams: contents that tell where they belong, and a stream at both its ends."""

from __future__ import annotations

import hashlib

from harness.link.stream import LinkReset
from harness.peer.quic import QuicPeer, QuicPeerStream, StreamEnd
from harness.scene import Scene

CONTENT = 20_480
"""Octets of a stream that is longer than a packet and shorter than every window."""
ENDLESS = 1 << 23
"""Octets of a stream that nobody takes to its end: more than every window on the way."""
BY = {"by": ("client", "upstream")}
"""An axis: who does it."""


def content(token: bytes, size: int = CONTENT) -> bytes:
    """`size` octets that begin with `token` and follow from it."""
    return (token + hashlib.shake_256(token).digest(size))[:size]


async def asked(scene: Scene, client: QuicPeer, server: QuicPeer) -> tuple[QuicPeerStream, QuicPeerStream]:
    """A bidirectional stream of the client at both ends, after a nonce went up on it; both halves are open."""
    token = scene.nonce()
    stream = await client.open_stream()
    await stream.send(token)
    there = await server.accept_stream_with(token)
    await there.receive_exactly(len(token))
    return stream, there


def whole(row: str, scene: Scene, got: bytes, end: StreamEnd, wanted: bytes) -> None:
    """Expect exactly `wanted` and FIN."""
    scene.expect(
        row,
        got == wanted and end.kind == "fin",
        expected=f"{len(wanted)} octets ({digest(wanted)}) and FIN",
        actual=f"{len(got)} octets ({digest(got)}), then {end}",
    )


async def refuses(stream: QuicPeerStream, data: bytes) -> bool:
    """Send all of `data` and FIN; whether the engine has stopped the stream."""
    try:
        await stream.send(data, fin=True)
    except LinkReset:
        return True
    return False


def digest(data: bytes) -> str:
    """The first octets, or of more than a few a hash."""
    return data.hex() if len(data) <= 16 else f"SHA-256 {hashlib.sha256(data).hexdigest()[:16]}"
