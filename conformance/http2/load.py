"""Legal frames that cost a client nothing and the edge something: its work stays bounded (RFC 9113 section 10.5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from conformance.http2._steps import H2, works
from harness.errors import DeadlineExpired, PeerMismatch
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http2 import Http2Client
from harness.scene import Scene
from harness.wire.http2 import blocks, frames

FRAMES = 10_000
BATCH = 100
MEBIBYTE = 1 << 20


def _reset(client: Http2Client, path: str) -> bytes:
    stream = client.open_stream()
    return client.headers(stream, client.request_fields("GET", path), end=True) + frames.rst_stream(stream, 8)


def _open(client: Http2Client, path: str) -> int:
    """A stream that stays open, for frames on it."""
    if client.wire.highest_ours < 1:
        client.say(client.headers(client.open_stream(), client.request_fields("POST", path)))
    return 1


FLOODS: Mapping[str, Callable[[Http2Client, str], bytes]] = {
    "rapid-reset": _reset,
    "window-updates": lambda client, path: frames.window_update(_open(client, path), 1),
    "pings": lambda client, path: frames.ping(),
    "settings": lambda client, path: frames.settings(),
    "empty-data": lambda client, path: frames.data(_open(client, path)),
    "priorities": lambda client, path: frames.priority(101, 1),
}

BOUNDED_OTHERWISE = ("rapid-reset", "pings", "settings")
"""Floods for which no end is due: of requests the upstream tells, and the others are answered one by one, to a client
that reads the answers."""


@case(
    "h2-load-01",
    checks=["RFC9113-10.5-1"],
    publish=http(),
    features=H2,
    needs=["private-engine"],
    over={"flood": tuple(FLOODS)},
)
async def test_floods_are_bounded(scene: Scene) -> None:
    """10,000 legal frames of a kind: the edge ends the connection, or bounds its work, and serves others.

    Requests and resets; WINDOW_UPDATE by 1; PING; SETTINGS; empty DATA; PRIORITY. A client on another connection is
    served meanwhile and behind it, and of the requests that were reset the upstream has not seen all (RFC 9113 section
    10.5).
    """
    row, upstream = "RFC9113-10.5-1", scene.http_upstream()
    flood, path = FLOODS[scene.variant["flood"]], f"/{scene.nonce().hex()}"
    other = await scene.http_client(version="h2")
    client = await scene.http_client(version="h2")
    said = 0
    stalled = False
    while said < FRAMES and not (client.over or client.wire.goaways):
        client.say(*(flood(client, path) for _ in range(BATCH)))
        said += BATCH
        try:
            await client.flushed()
        except DeadlineExpired:
            stalled = True
            break
    with scene.judging(row):
        await works(scene, other, upstream)
        await works(scene, await scene.http_client(version="h2"), upstream)
        seen = sum(path == request.target for request in upstream.requests_seen)
        ended = client.over or bool(client.wire.goaways) or stalled
        if not ended:
            with suppress(PeerMismatch):
                await client.ping()
            ended = client.over or bool(client.wire.goaways)
        bounded = seen <= FRAMES // 2
        branch = "GOAWAY ENHANCE_YOUR_CALM" if ended else "work bounded without closing"
        told = f"{said} frames said, {seen} requests at the upstream, the connection {client.how_it_ended()}"
        limited = ended or scene.variant["flood"] in BOUNDED_OTHERWISE
        scene.expect(row, limited and bounded, expected="an end, or bounded work", actual=told, branch=branch)


@case("h2-load-02", checks=["RFC9113-10.5-2"], publish=http(), features=H2, needs=["private-engine"])
async def test_a_field_block_without_an_end(scene: Scene) -> None:
    """CONTINUATION without END_HEADERS, up to 32 MiB: the connection ends before that, and others are served (RFC 9113
    section 10.5)."""
    row, upstream = "RFC9113-10.5-2", scene.http_upstream()
    client = await scene.http_client(version="h2")
    await client.settled()
    begun = [(field.name, field.value) for field in client.request_fields("GET", "/endless")]
    client.say(frames.headers(1, blocks.block(begun), end=True, end_headers=False))
    piece = blocks.literal(b"x-endless", b"e" * 16_000)
    said = 0
    with scene.judging(row):
        while said < 32 * MEBIBYTE and not (client.over or client.wire.goaways):
            client.say(*(frames.continuation(1, piece, end_headers=False) for _ in range(16)))
            said += 16 * len(piece)
            await client.flushed()
        if not (client.over or client.wire.goaways):
            scene.depart(row, expected="an end of the connection", actual=f"{said} octets of a field block taken")
        end = await client.closed()
        branch = "close" if end.code is None else "GOAWAY, any code"
        scene.expect(row, True, expected="the end of the connection", actual=str(end), branch=branch)
        await works(scene, await scene.http_client(version="h2"), upstream)
