"""What may come on a stream, and behind its end (RFC 9113 sections 5.1, 5.4, 6.4, 6.9)."""

from __future__ import annotations

from hyperframe.frame import GoAwayFrame, RstStreamFrame

from conformance.http._steps import meanwhile
from conformance.http2._steps import GENERIC, H2, failed, first_of, nothing_whole, works
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http2 import Http2Client
from harness.peer.http_upstream import HttpUpstream, UpstreamExchange
from harness.scene import Scene
from harness.wire.http2 import ErrorCode, Field, Setting, blocks, error_name, frames

MEBIBYTE = 1 << 20
STREAM_CLOSED = GENERIC | {ErrorCode.STREAM_CLOSED}
CHUNK = 16384


def _code(client: Http2Client, stream: int) -> int | None:
    known = client.wire.streams.get(stream)
    return known.reset_received if known is not None else None


def _judge_closed(scene: Scene, row: str, client: Http2Client, stream: int) -> None:
    """STREAM_CLOSED for the stream, or the end of the connection, or (where the stream is over on both sides) nothing.

    The items of RFC9113-5.1-2 and -6.1-2.
    """
    code = _code(client, stream)
    silent = "closed stream: frame" if row.endswith("6.1-2") else "stream already closed on both sides"
    if code is not None and not failed(client):
        told = f"RST_STREAM {error_name(code)}"
        branch = "RST_STREAM with STREAM_CLOSED"
        scene.expect(row, code in STREAM_CLOSED, expected=branch, actual=told, branch=branch)
    elif client.ended is not None or client.wire.goaways:
        scene.expect(row, True, expected="", actual="", branch="connection error instead")
    elif client.wire.streams[stream].over:
        scene.expect(row, True, expected="", actual="", branch=silent)
    else:
        scene.depart(row, expected="RST_STREAM with STREAM_CLOSED", actual="a stream that goes on")


@case("h2-stream-01", checks=["RFC9113-5.1-2"], publish=http(), features=H2, over={"frame": ("data", "headers")})
async def test_frames_behind_the_end_of_a_request(scene: Scene) -> None:
    """Behind END_STREAM the client says DATA, or HEADERS: an error of the stream, and no octet of it at the upstream.

    The upstream holds its answer back meanwhile (RFC 9113 section 5.1).
    """
    row, upstream = "RFC9113-5.1-2", scene.http_upstream()
    client = await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, body=b"content")
    request = await upstream.request(nonce)
    body = await request.body()
    trailers = [Field(b"x-late", b"1")]
    late = {
        "data": frames.data(exchange.id, b"late", end=True),
        "headers": client.headers(exchange.id, trailers, block=blocks.block([(b"x-late", b"1")]), end=True),
    }[scene.variant["frame"]]
    client.say(late)
    await scene.settle()
    _judge_closed(scene, row, client, exchange.id)
    fine = body == b"content" and not request.get("x-late") and not request.trailers
    scene.expect(row, fine, expected="the content, and nothing behind it", actual=f"{body!r}, {request.describe()}")
    nothing_whole(scene, row, upstream)


@case("h2-stream-02", checks=["RFC9113-6.1-2"], publish=http(), features=H2)
async def test_data_on_a_stream_that_is_over(scene: Scene) -> None:
    """DATA on a stream that both sides have ended is an error, or discarded; the upstream sees nothing of it (RFC 9113
    sections 5.1 and 6.1)."""
    row, upstream = "RFC9113-6.1-2", scene.http_upstream()
    client = await scene.http_client(version="h2")
    await works(scene, client, upstream)
    client.say(frames.data(1, b"GET /late HTTP/1.1\r\n\r\n", end=True))
    await scene.settle()
    _judge_closed(scene, row, client, 1)
    nothing_whole(scene, row, upstream)


@case("h2-stream-03", checks=["RFC9113-5.1-3", "RFC9113-6.4-1", "RFC9113-5.4.2-1"], publish=http(), features=H2)
async def test_nothing_comes_behind_a_reset_or_an_end(scene: Scene) -> None:
    """Behind the client's reset of a large response the edge says nothing more on the stream.

    Nor does it answer the reset with its own; on a stream that the edge has ended nothing comes either. What came when
    a PING behind the reset is answered was on its way (RFC 9113 sections 5.1, 5.4.2 and 6.4).
    """
    upstream = scene.http_upstream()
    client = await scene.http_client(version="h2", settings={Setting.INITIAL_WINDOW_SIZE: 8 * MEBIBYTE})
    await works(scene, client, upstream)
    nonce = scene.nonce().hex()
    exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
    request = await upstream.request(nonce)
    await request.begin_response(200, [("content-length", str(64 * MEBIBYTE))])
    async with meanwhile(_go_on(request)):
        response = await exchange.response_head()
        while len(response.content) < MEBIBYTE:
            await exchange.read_some(response)
        exchange.cancel()
        await client.ping()
        before = len(client.on_stream(exchange.id))
        await scene.settle()
        await scene.settle()
    after = client.on_stream(exchange.id)[before:]
    kinds = ", ".join(seen.describe()[0] for seen in after) or "nothing"
    scene.expect("RFC9113-6.4-1", not after, expected="nothing on the stream behind the reset", actual=kinds)
    resets = [frame for frame in client.frames if isinstance(frame, RstStreamFrame) and frame.stream_id == exchange.id]
    told = f"{len(resets)} RST_STREAM"
    scene.expect("RFC9113-5.4.2-1", not resets, expected="no RST_STREAM for RST_STREAM", actual=told)
    broken = [item for item in client.violations if item.section == "9113 section 5.1"]
    fine = not broken and not after
    scene.expect("RFC9113-5.1-3", fine, expected="nothing behind an end", actual="; ".join(map(str, broken)) or kinds)


async def _go_on(request: UpstreamExchange) -> None:
    for _ in range(64 * MEBIBYTE // CHUNK):
        await request.send_content(bytes(CHUNK))


def _malformed(client: Http2Client, stream: int) -> bytes:
    """The header section of a request that the edge must refuse, whose content follows."""
    return client.headers(stream, [*client.request_fields("POST", "/malformed"), Field(b"X-Up", b"1")])


@case("h2-stream-04", checks=["RFC9113-4.3-3", "RFC9113-5.1-4"], publish=http(), features=H2)
async def test_field_blocks_on_a_reset_stream_still_count(scene: Scene) -> None:
    """A request that refers to a field of a discarded trailer section is right at the upstream, or the connection ends.

    The edge ends a stream for a malformed request. As a client does that has not read that yet, ours goes on with 56
    KiB of content and with trailers, which enter a field into the table (RFC 9113 sections 4.3 and 5.1).
    """
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    await works(scene, client, upstream)
    value = scene.nonce().hex().encode()
    stream = client.open_stream()
    client.say(_malformed(client, stream))
    with scene.judging("RFC9113-4.3-3", "RFC9113-5.1-4", ends=True):
        await client.exchange(stream).outcome()
    client.say(*(frames.data(stream, bytes(8192)) for _ in range(7)))
    late = blocks.literal(b"x-late", value, "incremental")
    client.say(client.headers(stream, [Field(b"x-late", value)], block=late, end=True))
    nonce = scene.nonce().hex()
    again = client.open_stream()
    plain = [(field.name, field.value) for field in client.request_fields("GET", f"/{nonce}", nonce=nonce)]
    block = blocks.block(plain) + blocks.indexed(62)
    client.say(client.headers(again, [Field(*pair) for pair in plain], block=block, end=True))
    await served_or_closed(scene, client, upstream, nonce, again, value.decode(), ("RFC9113-4.3-3", "RFC9113-5.1-4"))


async def served_or_closed(
    scene: Scene,
    client: Http2Client,
    upstream: HttpUpstream,
    nonce: str,
    stream: int,
    value: str,
    rows: tuple[str, ...],
) -> None:
    """The request with `nonce` is at the upstream with `x-late`, and answered; or the connection ended."""
    got: list[UpstreamExchange] = []

    async def arrives() -> None:
        got.append(await upstream.request(nonce))

    with scene.judging(*rows, ends=True):
        await first_of(arrives(), client.closed())
        if got:
            fields = got[0].get_all("x-late")
            for row in rows:
                told = f"x-late {fields}"
                scene.expect(row, fields == [value], expected=f"x-late {value}", actual=told, branch=_RIGHT[row])
            await got[0].respond(204)
            response = await client.exchange(stream).response()
            if response.status != 204:
                scene.depart(rows[0], expected="the upstream's 204", actual=response.describe())
            return
    if not client.over and not client.wire.goaways:
        actual = f"{upstream.seen(nonce)} at the upstream, {client.exchange(stream).end or 'no answer'} at the client"
        scene.depart(rows[0], expected="the request at the upstream, or the end of the connection", actual=actual)
    for row in rows:
        scene.expect(row, True, expected="", actual=client.how_it_ended(), branch=_ENDED[row])


_RIGHT = {
    "RFC9113-4.3-3": "the new request reaches U correctly",
    "RFC9113-5.1-4": "frames discarded",
    "RFC9113-10.5.1-1": "block accepted and relayed whole",
}
_ENDED = {
    "RFC9113-4.3-3": "connection error",
    "RFC9113-5.1-4": "connection closed with GOAWAY",
    "RFC9113-10.5.1-1": "GOAWAY, any code",
}


@case("h2-stream-05", checks=["RFC9113-6.9-3", "RFC9113-5.1-4"], publish=http(), features=H2)
async def test_content_of_reset_streams_counts_on_the_connection(scene: Scene) -> None:
    """DATA on streams that the edge has reset counts on the connection window, and the credit for it comes back.

    Four times the window of the connection goes to streams that are malformed, never more than there is credit: the
    window does not shrink for good, or the connection ends (RFC 9113 sections 5.1 and 6.9).
    """
    rows = ("RFC9113-6.9-3", "RFC9113-5.1-4")
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    await works(scene, client, upstream)
    await client.ping()
    window = client.wire.send_window
    total = min(max(4 * window, 2 * MEBIBYTE), 100 * MEBIBYTE)
    sent = 0
    with scene.judging(*rows, ends=True):
        while sent < total and not _told_to_go(client):
            awaited = "credit for the connection, or its end"
            await client.until(lambda: client.wire.send_window >= CHUNK or _told_to_go(client), awaited)
            if not _told_to_go(client):
                sent += await _spend(client, total - sent)
        if not _told_to_go(client):
            await works(scene, client, upstream)
    ended = _told_to_go(client)
    for row, branch in zip(rows, ("credit returned", "frames discarded"), strict=True):
        branch = "connection closed with GOAWAY" if ended else branch
        scene.expect(row, True, expected="credit that comes back", actual=f"{sent} octets", branch=branch)


def _told_to_go(client: Http2Client) -> bool:
    return client.over or bool(client.wire.goaways)


async def _spend(client: Http2Client, most: int) -> int:
    """A malformed request, and behind its end as much content as both windows permit, as of a client that has not read
    of that end yet."""
    stream = client.open_stream()
    client.say(_malformed(client, stream))
    await client.exchange(stream).head_or_end()
    room = max(0, min(most, client.wire.send_window, client.wire.streams[stream].send_window))
    for at in range(0, room, CHUNK):
        client.say(frames.data(stream, bytes(min(CHUNK, room - at))))
    await client.flushed()
    return room


@case("h2-stream-06", checks=["RFC9113-5.1.2-2"], publish=http(), features=H2)
async def test_streams_above_the_limit_of_the_edge(scene: Scene) -> None:
    """Five streams more than the edge allows, while the upstream holds its answers: the excess is refused, and never at
    the upstream (RFC 9113 section 5.1.2)."""
    row, upstream = "RFC9113-5.1.2-2", scene.http_upstream()
    client = await scene.http_client(version="h2")
    limit = (await client.settled()).get(Setting.MAX_CONCURRENT_STREAMS)
    if limit is None or limit > 4096:
        scene.not_run(row, f"the edge has no limit that can be reached ({limit})")
        return
    nonces = [scene.nonce().hex() for _ in range(limit + 5)]
    streams = []
    for nonce in nonces:
        streams.append(client.open_stream())
        client.say(client.headers(streams[-1], client.request_fields("GET", f"/{nonce}", nonce=nonce), end=True))
    ends: list[Response | ExchangeEnd] = []
    with scene.judging(row, ends=True):
        ends += [await client.exchange(stream).head_or_end() for stream in streams[limit:]]
    told = ", ".join(str(end) if isinstance(end, ExchangeEnd) else end.describe() for end in ends)
    codes = GENERIC | {ErrorCode.REFUSED_STREAM}
    if all(isinstance(end, ExchangeEnd) and end.kind == "reset" for end in ends):
        fine = all(end.code in codes for end in ends if isinstance(end, ExchangeEnd))
        scene.expect(row, fine, expected="REFUSED_STREAM", actual=told, branch="RST_STREAM with PROTOCOL_ERROR")
    else:
        code = client.end_code
        closed = client.over or bool(client.wire.goaways)
        branch = "close without GOAWAY" if code is None else "GOAWAY (PROTOCOL_ERROR"
        scene.expect(row, closed, expected="REFUSED_STREAM, or the end", actual=told, branch=branch)
    await scene.settle()
    seen = [nonce for nonce in nonces[limit:] if upstream.seen(nonce)]
    scene.expect(row, not seen, expected="nothing of the excess at the upstream", actual=f"{len(seen)} requests")


@case("h2-stream-07", checks=["RFC9113-6.9-2", "RFC9113-7-1"], publish=http(), features=H2)
async def test_late_credit_and_codes_that_nobody_knows(scene: Scene) -> None:
    """WINDOW_UPDATE behind END_STREAM and on a stream that is over is no error; RST_STREAM with an unknown code is a
    cancel like any other (RFC 9113 sections 6.9 and 7)."""
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    with scene.judging("RFC9113-6.9-2", ends=True):
        exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
        client.say(frames.window_update(exchange.id, 100))
        request = await upstream.request(nonce)
        await request.respond(200, body=b"x")
        await exchange.response()
        client.say(frames.window_update(exchange.id, 100))
        await works(scene, client, upstream)
    scene.expect("RFC9113-6.9-2", True, expected="a connection that goes on", actual="it does")
    waiting, beside = scene.nonce().hex(), scene.nonce().hex()
    with scene.judging("RFC9113-7-1", ends=True):
        given_up = await client.begin("GET", f"/{waiting}", nonce=waiting)
        cancelled = await upstream.request(waiting)
        client.say(frames.rst_stream(given_up.id, 0xFFFF))
        end = await cancelled.ended()
        exchange = await client.begin("GET", f"/{beside}", nonce=beside)
        await (await upstream.request(beside)).respond(204)
        response = await exchange.response()
    fine = end.kind != "complete" and response.status == 204
    told = f"{end} at the upstream, then {response.describe()}"
    scene.expect("RFC9113-7-1", fine, expected="a cancel at the upstream, and a connection that goes on", actual=told)


@case("h2-stream-08", checks=["RFC9113-8.7-1"], publish=http(), features=H2)
async def test_a_request_that_was_passed_on_is_not_called_unprocessed(scene: Scene) -> None:
    """The upstream has the request when it breaks off: the client is not told REFUSED_STREAM, nor GOAWAY with a last
    stream below (RFC 9113 section 8.7)."""
    row, upstream = "RFC9113-8.7-1", scene.http_upstream()
    client = await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, body=b"content")
    request = await upstream.request(nonce)
    await request.body()
    request.break_off()
    got: Response | ExchangeEnd | None = None
    with scene.judging(row, ends=True):
        got = await exchange.outcome()
    lasts = [frame.last_stream_id for frame in client.frames if isinstance(frame, GoAwayFrame)]
    if isinstance(got, Response):
        told, fine, branch = got.describe(), got.status >= 500, "any 5xx"
    else:
        told, branch = f"{got}, GOAWAY {lasts}", "RST_STREAM with another code"
        fine = got is not None and got.code != ErrorCode.REFUSED_STREAM and all(last >= exchange.id for last in lasts)
    scene.expect(row, fine, expected="any 5xx, or another code", actual=told, branch=branch)
