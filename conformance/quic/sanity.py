"""The first case of the family: a QUIC tunnel carries octets both ways."""

from __future__ import annotations

from harness.model.case import case
from harness.model.spec import quic
from harness.scene import Scene


@case("quic-sanity", checks=["QUIC-001"], publish=quic(), sanity=True)
async def test_a_quic_tunnel_carries_a_stream_both_ways(scene: Scene) -> None:
    """A stream of the client comes out at the upstream, and its answer comes back (QUIC-001).

    The tunnel has no list of protocols, which not every engine knows. The nonce that the client sends on its first
    stream is what the upstream reads there; the upstream's answer and both ends come through.
    """
    client, server = await scene.quic_pair("main")
    token = scene.nonce()
    stream = await client.open_stream()
    await stream.send(token, fin=True)
    there = await server.accept_stream()
    got, _ = await there.receive_until_end()
    await there.send(token[::-1], fin=True)
    back, _ = await stream.receive_until_end()
    scene.expect(
        "QUIC-001",
        got == token and back == token[::-1],
        expected=f"{token.hex()} there and {token[::-1].hex()} back",
        actual=f"{got.hex()} there and {back.hex()} back",
    )
