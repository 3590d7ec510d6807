"""Streams of a client behind the edge's own GOAWAY (RFC 9113 section 6.8)."""

from __future__ import annotations

import asyncio

from hyperframe.frame import GoAwayFrame

from conformance.http2._steps import H2
from conformance.http2.upstream_faults import H2C
from harness.model.case import case
from harness.peer.http import ExchangeEnd, Response
from harness.scene import Scene
from harness.wire.http2 import Field, blocks, frames
from harness.wire.http2.numbers import MAX_WINDOW

OLDER = "older streams complete correctly"
CLOSED = "connection closed"


@case(
    "h2-goaway-01",
    checks=["RFC9113-6.8-7", "RFC9113-6.8-5"],
    publish=H2C,
    features=H2,
    needs=["dynamic", "private-engine"],
)
async def test_streams_that_the_edge_ignores_still_count(scene: Scene) -> None:
    """Behind its GOAWAY the edge ignores new streams, but not what they enter into the table, nor their content.

    The engine stops while a request is open. Behind the last GOAWAY the client opens another stream, whose header
    section enters a field, with content; then it ends the older request with trailers that refer to that field. They
    are right at the upstream, and the response comes, or the connection is closed (RFC 9113 section 6.8).
    """
    row, upstream = "RFC9113-6.8-7", scene.http_upstream(version="h2c")
    client = await scene.http_client(version="h2")
    old, value, nonce, late = (scene.nonce().hex() for _ in range(4))
    open_request = await client.begin("POST", f"/{nonce}", [("x-late", old)], nonce=nonce, end=False)
    request = await upstream.request(nonce)
    await open_request.send_content(b"content")
    stopping = asyncio.ensure_future(scene.driver.stop())
    got: Response | ExchangeEnd | None = None
    try:
        with scene.judging(row, "RFC9113-6.8-5", ends=True):
            await client.frame(GoAwayFrame, lambda frame: frame.last_stream_id < MAX_WINDOW)
            ignored = client.open_stream()
            section = [(field.name, field.value) for field in client.request_fields("POST", f"/{late}", nonce=late)]
            entered = blocks.literal(b"x-late", value.encode(), "incremental")
            block = blocks.block(section) + entered
            client.say(client.headers(ignored, [Field(*pair) for pair in section], block=block))
            client.say(frames.data(ignored, bytes(10_000), end=True))
            referring = client.headers(
                open_request.id, [Field(b"x-late", value.encode())], block=blocks.indexed(62), end=True
            )
            client.say(referring)
            await request.body_so_far()
            if request.complete:
                await request.respond(200, body=nonce.encode())
            got = await open_request.outcome()
    finally:
        await stopping
    trailers = request.trailers
    told = f"trailers {trailers}, {got.describe() if isinstance(got, Response) else got}"
    if isinstance(got, Response):
        fine = got.complete and got.body == nonce.encode() and trailers in ([("x-late", value)], [])
        scene.expect(row, fine, expected=f"x-late {value}, and the response", actual=told, branch=OLDER)
    else:
        scene.expect(row, got is not None and got.kind == "connection", expected=OLDER, actual=told, branch=CLOSED)
    ids = [frame.last_stream_id for frame in client.frames if isinstance(frame, GoAwayFrame)]
    rising = ids != sorted(ids, reverse=True)
    scene.expect("RFC9113-6.8-5", not rising, expected="ids that never rise", actual=f"GOAWAY {ids}")
