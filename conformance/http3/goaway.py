"""The end of a connection that is known in advance (RFC 9114 sections 3.3 and 5.2)."""

from __future__ import annotations

import asyncio
import contextlib

from conformance.http3._steps import behind, connected, down_case, told
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.stream import LinkReset
from harness.scene import Scene
from harness.wire.http3 import ErrorCode, GoawayFrame, error_name


@down_case("h3-goaway-01", ["RFC9114-5.2-4", "RFC9114-5.2-3"], needs=["dynamic", "private-engine"])
async def test_a_drain_is_announced(scene: Scene) -> None:
    """An engine that stops says GOAWAY with ids that never rise, serves what is below them, and closes without an
    error."""
    client = await connected(scene)
    nonce = scene.nonce().hex()
    sent = await client.begin("GET", f"/{nonce}", nonce=nonce)
    request = await behind(scene).request(nonce)
    stopping = asyncio.ensure_future(scene.driver.stop())
    try:
        with scene.judging("RFC9114-5.2-3"):
            await client.frame(GoawayFrame)
            await request.respond(200, body=b"whole")
            response = await sent.response()
            scene.expect("RFC9114-5.2-3", response.body == b"whole", expected="the response", actual=told(response))
            end = await client.closed()
            clean = end.code == ErrorCode.H3_NO_ERROR
            scene.expect("RFC9114-5.2-3", clean, expected="H3_NO_ERROR", actual=error_name(end.code or 0))
    finally:
        with contextlib.suppress(DeadlineExpired, PeerMismatch, LinkReset):
            await client.quic.closed()
        await stopping
    ids = [frame.number for frame in client.frames if isinstance(frame, GoawayFrame)]
    scene.expect("RFC9114-5.2-4", ids == sorted(ids, reverse=True), expected="ids that never rise", actual=f"{ids}")


@down_case("h3-goaway-02", ["RFC9114-3.3-2"], settings={"timeout.http-idle-ms": 500})
async def test_an_idle_connection_is_closed(scene: Scene) -> None:
    """An edge that closes an idle connection says GOAWAY first; a connection that QUIC lets go is silent."""
    client = await connected(scene)
    try:
        end = await client.quic.closed()
    except DeadlineExpired:
        scene.record("RFC9114-3.3-2", "the connection is not closed within the deadline")
        return
    if end.kind == "idle":
        scene.record("RFC9114-3.3-2", "idle timeout of QUIC")
        return
    announced = any(isinstance(frame, GoawayFrame) for frame in client.frames)
    scene.expect("RFC9114-3.3-2", announced, expected="GOAWAY in front of the close", actual=str(end))
