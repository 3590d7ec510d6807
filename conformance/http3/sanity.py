"""The first cases of both families: a client of HTTP/3 is served, and an upstream of HTTP/3 is reached."""

from __future__ import annotations

from typing import Any

from conformance.http3._steps import asked, connected, down_case, told, up_case, upstream, works
from harness.peer.http import Response
from harness.scene import Scene
from harness.wire.http3 import StreamType

PLAIN: dict[str, Any] = {"answer_violations": False, "grease": False, "streams": (StreamType.CONTROL,)}
"""A peer that says as little as it can, and minds nothing: what these cases check is the way of an exchange alone."""


@down_case("h3-sanity", ["HTTP-VER-011"], sanity=True)
async def test_a_client_of_http3_is_served(scene: Scene) -> None:
    """A GET over HTTP/3 reaches an HTTP/1.1 upstream, and its answer comes back."""
    response = await works(scene, await connected(scene, **PLAIN))
    scene.expect("HTTP-VER-011", response.status == 200, expected="200", actual=response.describe())


@up_case("h3up-sanity", ["HTTP-VER-004"], sanity=True)
async def test_an_upstream_of_http3_is_reached(scene: Scene) -> None:
    """A GET reaches an upstream over HTTP/3, with ALPN h3, and its answer comes back."""
    upstream(scene, **PLAIN)
    met = await asked(scene)
    await met.request.respond(200, body=met.nonce.encode())
    got = await met.got()
    whole = isinstance(got, Response) and (got.status, got.body) == (200, met.nonce.encode())
    alpn = met.connection.quic.alpn
    scene.expect("HTTP-VER-004", whole and alpn == "h3", expected="ALPN h3 and 200", actual=f"ALPN {alpn}, {told(got)}")
