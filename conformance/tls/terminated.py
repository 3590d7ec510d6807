"""TLS tunnels that end at the edge: the client's TLS is the edge's, the upstream gets plaintext."""

from __future__ import annotations

from harness.model.case import case
from harness.model.spec import tls
from harness.scene import Scene


@case("tls-sanity", checks=["TLS-001"], publish=tls(), sanity=True)
async def test_a_tls_tunnel_carries_octets_both_ways(scene: Scene) -> None:
    """A TLS tunnel takes a TLS connection and carries its traffic to the upstream and back.

    The client sends a nonce, which must be the first thing that the upstream reads; the upstream answers with another.
    """
    client, upstream = await scene.pair()
    answer = scene.nonce()
    await upstream.send(answer)
    got = await client.receive_exactly(len(answer))
    scene.expect("TLS-001", got == answer, expected="the upstream's answer at the client", actual=got.hex())
