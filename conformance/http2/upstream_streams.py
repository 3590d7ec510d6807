"""Streams, windows, GOAWAY and compression toward an HTTP/2 upstream (RFC 9113 sections 4 to 6, RFC 7541)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from hyperframe.frame import GoAwayFrame, PingFrame

from conformance.http._steps import meanwhile
from conformance.http2._steps import GENERIC, H2, asked, dangling, first_of, sent_whole, works
from conformance.http2.upstream_faults import H2C
from harness.model.case import case
from harness.peer.http import ClientExchange, ExchangeEnd, Response
from harness.peer.http2_upstream import Http2Upstream, Http2UpstreamExchange
from harness.scene import Scene
from harness.wire.http2 import ErrorCode, Field, Flag, FrameType, Setting, blocks, error_name, frames
from harness.wire.http2.blocks import Representation

MEBIBYTE = 1 << 20
LIMIT = 16384
MOST_REQUESTS = 10
CANCELS = 30
"""Requests that one client gives up."""


@case(
    "h2c-frame-01",
    checks=["RFC9113-4.1-2", "RFC9113-4.1-3", "RFC9113-4.2-1", "RFC9113-5.5-1", "RFC9113-6.5.2-7", "RFC9113-6.9-2"],
    publish=H2C,
)
async def test_frames_that_do_no_harm(scene: Scene) -> None:
    """Unknown frames, flags and settings of an upstream are ignored; frames of 16384 octets are taken.

    A frame of type 0xEE on stream 0, on the request's stream and on one that nobody has opened; undefined flags and
    the reserved bit; sixteen unknown settings; HEADERS and DATA of exactly 16384 octets; WINDOW_UPDATE behind the end
    (RFC 9113 sections 4.1, 4.2, 5.5, 6.5.2 and 6.9).
    """
    rows = ("RFC9113-4.1-2", "RFC9113-4.1-3", "RFC9113-4.2-1", "RFC9113-5.5-1", "RFC9113-6.5.2-7", "RFC9113-6.9-2")
    waiting = await asked(scene)
    connection = waiting.connection
    unknown = frames.raw(0xEE, b"unknown", flags=0xFF, stream=1)
    block = connection.wire.encode([Field(b":status", b"200"), Field(b"x-long", b"v" * 12_000)], huffman=False)
    odd = (0xFF & ~(Flag.END_STREAM | Flag.PADDED | Flag.PRIORITY), 0xFF & ~(Flag.END_STREAM | Flag.PADDED))
    padded = frames.headers(1, block + b"", pad=255)
    connection.say(frames.settings([(0xF000 + number, number) for number in range(16)]))
    connection.say(frames.raw(0xEE, b"unknown", flags=0xFF), unknown, frames.raw(0xEE, b"unknown", stream=101))
    connection.say(frames.raw(FrameType.PING, b"oddflags", flags=0xFE, stream=1 << 31))
    connection.say(padded, unknown)
    connection.say(frames.raw(FrameType.DATA, bytes(LIMIT), flags=odd[1], stream=1 | 1 << 31))
    connection.say(frames.data(1, bytes(LIMIT), end=True), frames.window_update(1, 10))
    with scene.judging(*rows, ends=True):
        got = await waiting.outcome()
        await connection.frame(PingFrame, lambda frame: frame.opaque_data == b"oddflags" and "ACK" in frame.flags)
        await works(scene, waiting.client, scene.http_upstream(version="h2c"))
    fine = isinstance(got, Response) and got.complete and len(got.body) == 2 * LIMIT
    for row in rows:
        scene.expect(row, fine, expected="two frames of content, whole", actual=waiting.describe()[:200])


@case("h2c-frame-02", checks=["RFC9113-6.7-1", "RFC9113-6.7-2"], publish=H2C)
async def test_pings_of_an_upstream(scene: Scene) -> None:
    """PING of an upstream is answered with its octets, PING with ACK is not answered (RFC 9113 section 6.7)."""
    waiting = await asked(scene)
    connection, payload = waiting.connection, scene.nonce()[:8]
    connection.say(frames.ping(b"unasked!", ack=True), frames.ping(payload))
    with scene.judging("RFC9113-6.7-1", "RFC9113-6.7-2", ends=True):
        answer = await connection.frame(PingFrame, lambda frame: "ACK" in frame.flags)
        told = answer.opaque_data.hex()
        fine = answer.opaque_data == payload
        scene.expect("RFC9113-6.7-1", fine, expected=f"PING ACK {payload.hex()}", actual=told)
        await waiting.request.respond(204)
        got = await waiting.outcome()
        await connection.ping()
    unasked = [frame.opaque_data for frame in connection.frames if isinstance(frame, PingFrame)]
    fine = b"unasked!" not in unasked and isinstance(got, Response) and got.status == 204
    scene.expect("RFC9113-6.7-2", fine, expected="no answer to an answer", actual=f"PING {unasked}")


@case("h2c-frame-03", checks=["RFC9113-4.1-1", "RFC9113-5.1.1-2"], publish=H2C)
async def test_the_frames_and_ids_of_the_edge(scene: Scene) -> None:
    """Toward an upstream that allows no more, no frame is above 16384 octets; stream ids are odd and rise.

    A request of 1 MiB, and three of other clients, one after the other (RFC 9113 sections 4.1 and 5.1.1).
    """
    upstream = scene.http_upstream(version="h2c")
    client = await scene.http_client()
    nonce = scene.nonce().hex()
    with scene.judging("RFC9113-4.1-1", "RFC9113-5.1.1-2", ends=True):
        exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
        request = await upstream.request(nonce)
        body, _ = await scene.both(request.body(), sent_whole(exchange, bytes(MEBIBYTE)))
        await request.respond(204)
        await exchange.response()
        for _ in range(3):
            await works(scene, await scene.http_client(), upstream)
    largest = max(seen.length for connection in upstream.connections for seen in connection.seen)
    fine = len(body) == MEBIBYTE and largest <= LIMIT
    scene.expect("RFC9113-4.1-1", fine, expected=f"no frame above {LIMIT}", actual=f"{largest} octets")
    ids = [[request.id for request in connection.requests] for connection in upstream.connections]
    fine = all(each == sorted(set(each)) and all(number % 2 for number in each) for each in ids)
    scene.expect("RFC9113-5.1.1-2", fine, expected="odd ids that rise", actual=f"{ids}")


@case("h2c-stream-01", checks=["RFC9113-5.1.2-1"], publish=H2C, features=H2)
async def test_the_streams_that_an_upstream_allows(scene: Scene) -> None:
    """An upstream that allows 2 streams never has more of them open on a connection.

    Ten requests come at once, after the edge has acknowledged that. They wait, go to other connections, or fail (RFC
    9113 section 5.1.2).
    """
    row = "RFC9113-5.1.2-1"
    upstream = scene.http_upstream(version="h2c", settings={Setting.MAX_CONCURRENT_STREAMS: 2})
    client = await scene.http_client(version="h2")
    with scene.judging(row, ends=True):
        await works(scene, client, upstream)
        for connection in upstream.connections:
            await connection.acknowledged()
    nonces = [scene.nonce().hex() for _ in range(MOST_REQUESTS)]
    exchanges = [await client.begin("GET", f"/{nonce}", nonce=nonce) for nonce in nonces]
    ends: list[Response | ExchangeEnd] = []
    with scene.judging(row, ends=True):
        for exchange, nonce in zip(exchanges, nonces, strict=True):
            await first_of(_answer(upstream, nonce), exchange.head_or_end())
        ends += [await exchange.outcome() for exchange in exchanges]
    broken = [str(item) for each in upstream.connections for item in _broken(each.requests, "9113 section 5.1.2")]
    told = "; ".join(broken) or "none"
    served = sum(isinstance(end, Response) and end.status == 204 for end in ends)
    failed = [end for end in ends if not isinstance(end, Response) or end.status != 204]
    fine = not broken and all(not isinstance(end, Response) or end.status >= 500 for end in failed)
    actual = f"{served} served, {len(upstream.connections)} connections; {told}"
    branch = "any 5xx for the excess" if failed else "another upstream connection"
    branch = branch if failed or len(upstream.connections) > 1 else "the others queue"
    scene.expect(row, fine, expected="2 open streams at most", actual=actual, branch=branch)


async def _answer(upstream: Http2Upstream, nonce: str) -> None:
    await (await upstream.request(nonce)).respond(204)


def _broken(requests: list[Http2UpstreamExchange], section: str) -> list[object]:
    return [item for request in requests for item in request.violations if item.section == section]


@case("h2c-stream-02", checks=["RFC9113-5.1-2", "RFC9113-6.1-2"], publish=H2C)
async def test_content_behind_the_end_of_a_response(scene: Scene) -> None:
    """Behind the END_STREAM of its response an upstream says more DATA: none of it is at the client.

    The client has not ended its request then; an error of the stream or of the connection, or nothing, may follow (RFC
    9113 sections 5.1 and 6.1).
    """
    upstream, client = scene.http_upstream(version="h2c"), await scene.http_client()
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    request = await upstream.request(nonce)
    connection = request.connection
    said = [Field(b":status", b"200"), Field(b"x-nonce", nonce.encode())]
    connection.say(connection.headers(1, said), frames.data(1, b"content", end=True), frames.data(1, b"late"))
    with scene.judging("RFC9113-5.1-2", "RFC9113-6.1-2", ends=True):
        got = await exchange.outcome()
        told = got.describe() if isinstance(got, Response) else str(got)
        failed = not isinstance(got, Response) or got.status >= 500 or not got.complete
        fine = failed or (isinstance(got, Response) and got.body == b"content")
        code = request.reset_code
        for row in ("RFC9113-5.1-2", "RFC9113-6.1-2"):
            branch = _LEG if failed else "connection error instead" if connection.over else _SILENT[row]
            branch = "RST_STREAM with STREAM_CLOSED" if code in GENERIC | {ErrorCode.STREAM_CLOSED} else branch
            scene.expect(row, fine, expected="the content, and nothing behind it", actual=told, branch=branch)
        await works(scene, await scene.http_client(), upstream)


_LEG = "upstream leg: same reaction toward U"
_SILENT = {
    "RFC9113-5.1-2": "stream already closed on both sides",
    "RFC9113-6.1-2": "closed stream: frame silently discarded",
}


@case("h2c-stream-03", checks=["RFC9113-5.1-3", "RFC9113-6.4-1"], publish=H2C)
async def test_nothing_comes_behind_the_reset_of_an_upstream(scene: Scene) -> None:
    """An upstream resets a request whose content is still coming: behind what was on its way the edge says no more on
    that stream (RFC 9113 sections 5.1 and 6.4)."""
    upstream = scene.http_upstream(version="h2c", settings={Setting.INITIAL_WINDOW_SIZE: 8 * MEBIBYTE})
    client = await scene.http_client()
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    request = await upstream.request(nonce)
    connection = request.connection
    async with meanwhile(_go_on(exchange)):
        await request.read_exactly(LIMIT)
        request.break_off(ErrorCode.CANCEL)
        with scene.judging("RFC9113-6.4-1", "RFC9113-5.1-3", ends=True):
            await connection.ping()
        before = len(connection.on_stream(request.id))
        await scene.settle()
    after = [seen.describe()[0] for seen in connection.on_stream(request.id)[before:]]
    for row in ("RFC9113-6.4-1", "RFC9113-5.1-3"):
        told = ", ".join(after) or "nothing"
        scene.expect(row, not after, expected="nothing on the stream behind the reset", actual=told)


async def _go_on(exchange: ClientExchange) -> None:
    for _ in range(1024):
        await exchange.send_content(bytes(LIMIT))


@case("h2c-flow-01", checks=["RFC9113-5.2.1-1", "RFC9113-6.9.1-1", "RFC9113-6.9.2-1"], publish=H2C, features=H2)
async def test_the_windows_of_an_upstream(scene: Scene) -> None:
    """An upstream's windows are kept to: 10 octets by SETTINGS, credit in pieces, and a window below zero.

    Another request beside it is served. Then the initial window goes to 0 while 5,000 octets are there, and credit that
    only makes good for that brings nothing (RFC 9113 sections 5.2.1, 6.9.1 and 6.9.2).
    """
    rows = ("RFC9113-5.2.1-1", "RFC9113-6.9.1-1", "RFC9113-6.9.2-1")
    upstream = scene.http_upstream(version="h2c", settings={Setting.INITIAL_WINDOW_SIZE: 10}, hold=True)
    client = await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    with scene.judging(*rows, ends=True):
        await works(scene, client, upstream)
        await upstream.connections[0].acknowledged()
        await client.begin("POST", f"/{nonce}", nonce=nonce, body=bytes(20_000))
        request = await upstream.request(nonce)
        connection = request.connection
        await connection.until(lambda: request.received >= 10, "10 octets by the first window")
        await works(scene, client, upstream)
        await scene.settle()
        scene.expect(rows[0], request.received == 10, expected="10 octets", actual=f"{request.received} octets")
        connection.say(frames.window_update(request.id, 90), frames.window_update(request.id, 4900))
        await connection.until(lambda: request.received >= 5000, "5,000 octets by credit")
        connection.say(frames.settings([(Setting.INITIAL_WINDOW_SIZE, 0)]))
        await connection.acknowledged()
        connection.say(frames.window_update(request.id, 10))
        await scene.settle()
        fine = request.received == 5000
        scene.expect(rows[2], fine, expected="nothing while the window is 0", actual=f"{request.received} octets")
        connection.say(frames.settings([(Setting.INITIAL_WINDOW_SIZE, 15_000)]))
        await connection.until(lambda: request.complete, "the rest, by the new window")
    overruns = [str(item) for item in (*request.violations, *connection.violations) if "6.9.1" in item.section]
    told = "; ".join(overruns) or "none"
    scene.expect(rows[1], not overruns, expected="never more content than credit", actual=told)


@case("h2c-flow-02", checks=["RFC9113-6.1-3", "RFC9113-6.9-3"], publish=H2C, features=H2)
async def test_credit_toward_an_upstream_comes_back(scene: Scene) -> None:
    """Padding of an upstream counts, and its credit comes back; so does that of content which nobody wants any more.

    A response of 1 octet with 255 octets of padding in each frame, until twice the first window is used; then responses
    that the client has given up, twice the window of the connection (RFC 9113 sections 6.1 and 6.9).
    """
    upstream = scene.http_upstream(version="h2c", pad=255, frame_size=257)
    client = await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    with scene.judging("RFC9113-6.1-3", ends=True):
        exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
        request = await upstream.request(nonce)
        wire = request.connection.wire
        content = bytes(2 * wire.streams[request.id].send_window // 257)
        await request.respond(200, body=content)
        response = await exchange.response()
        fine = response.complete and response.body == content
        scene.expect("RFC9113-6.1-3", fine, expected="the content, whole", actual=response.describe())
    window, sent = wire.send_window, 0
    with scene.judging("RFC9113-6.9-3", ends=True):
        for count in itertools.count():
            if sent >= min(2 * window, 64 * MEBIBYTE) or request.connection.over:
                break
            if count % CANCELS == CANCELS - 1:
                # Many cancels of one client look like a flood (RFC 9113 section 10.5).
                client = await scene.http_client(version="h2")
            token = scene.nonce().hex()
            exchange = await client.begin("GET", f"/{token}", nonce=token)
            request = await upstream.request(token)
            await request.begin_response(200)
            await exchange.response_head()
            exchange.cancel()
            sent += _burst(request)
            await request.connection.flushed()
            await request.ended()
        await works(scene, client, upstream)
    branch = "connection closed with GOAWAY" if wire.goaways else "credit returned"
    scene.expect("RFC9113-6.9-3", True, expected="credit that comes back", actual=f"{sent} octets", branch=branch)


def _burst(request: Http2UpstreamExchange) -> int:
    """As much content as both windows permit, at once."""
    wire = request.connection.wire
    room = max(0, min(wire.send_window, wire.streams[request.id].send_window))
    request.connection.say(*(frames.data(request.id, bytes(min(LIMIT, room - at))) for at in range(0, room, LIMIT)))
    return room


# GOAWAY and resets


@case("h2c-goaway-01", checks=["RFC9113-6.8-1"], publish=H2C, features=H2)
async def test_no_new_streams_behind_goaway(scene: Scene) -> None:
    """An upstream says GOAWAY for a request in flight: that one completes, and new requests go elsewhere.

    RFC 9113 section 6.8.
    """
    row, upstream = "RFC9113-6.8-1", scene.http_upstream(version="h2c")
    client = await scene.http_client(version="h2")
    waiting = await asked(scene, client)
    old = waiting.connection
    old.goaway(ErrorCode.NO_ERROR)
    await old.ping()
    elsewhere = True
    with scene.judging(row):
        for _ in range(2):
            request, _ = await works(scene, client, upstream)
            elsewhere = elsewhere and getattr(request, "connection", None) is not old
    ids = [request.id for request in old.requests]
    scene.expect(
        row, elsewhere and len(ids) == 1, expected="no new stream behind GOAWAY", actual=f"streams {ids}",
        branch="new upstream connection",
    )  # fmt: skip
    await waiting.request.respond(200, body=b"in flight")
    with scene.judging(row, ends=True):
        got = await waiting.outcome()
        fine = isinstance(got, Response) and got.body == b"in flight" and got.complete
        scene.expect(row, fine, expected="the response in flight", actual=waiting.describe())


CONTENT: Mapping[str, bytes | None] = {"none": None, "some": b"content"}


@case(
    "h2c-goaway-02",
    checks=["RFC9113-6.8-2", "RFC9113-6.8-5"],
    publish=H2C,
    features=H2,
    over={"content": tuple(CONTENT)},
)
async def test_what_goaway_leaves_unprocessed(scene: Scene) -> None:
    """Two POSTs wait on streams 1 and 3 when the upstream says GOAWAY(1) and closes: the second may be tried once more,
    or fails; the first is never tried again.

    RFC 9113 section 6.8, ruling C-32.
    """
    row, upstream = "RFC9113-6.8-2", scene.http_upstream(version="h2c")
    client = await scene.http_client(version="h2")
    nonces = [scene.nonce().hex() for _ in range(2)]
    exchanges, requests = [], []
    for nonce in nonces:
        body = CONTENT[scene.variant["content"]]
        exchanges.append(await client.begin("POST", f"/{nonce}", nonce=nonce, body=body))
        requests.append(await upstream.request(nonce))
        await requests[-1].body()
    first, second = requests
    if first.connection is not second.connection:
        scene.not_run(row, "the edge does not share an upstream connection")
        scene.not_run("RFC9113-6.8-5", "the edge does not share an upstream connection")
        return
    first.connection.goaway(ErrorCode.NO_ERROR, last=first.id)
    await first.connection.close()
    with scene.judging(row, ends=True):
        await first_of(_answer(upstream, nonces[1]), exchanges[1].head_or_end())
        ends = [await exchange.outcome() for exchange in exchanges]
    await scene.settle()
    seen = [len(upstream.seen(nonce)) for nonce in nonces]
    told = f"seen {seen} times; " + ", ".join(_told(end) for end in ends)
    fine = seen[0] == 1 and _failed(ends[0])
    scene.expect(row, fine, expected="an error, and no retry, for stream 1", actual=told, branch="stream 1: any 5xx")
    again = seen[1] == 2
    fine = seen[1] <= 2 and (again or _failed(ends[1]))
    branch = "stream 3: retried once" if again else "stream 3: any 5xx"
    scene.expect(row, fine, expected="one retry, or an error, for stream 3", actual=told, branch=branch)
    lasts = [
        [frame.last_stream_id for frame in each.frames if isinstance(frame, GoAwayFrame)]
        for each in upstream.connections
    ]
    fine = all(each == sorted(each, reverse=True) for each in lasts)
    scene.expect("RFC9113-6.8-5", fine, expected="ids that never rise", actual=f"{lasts}")


def _failed(end: Response | ExchangeEnd) -> bool:
    return not isinstance(end, Response) or end.status >= 500 or not end.complete


def _told(end: Response | ExchangeEnd) -> str:
    return end.describe() if isinstance(end, Response) else str(end)


@case(
    "h2c-reset-01",
    checks=["HTTP-ERR-008"],
    publish=H2C,
    over={"code": ("REFUSED_STREAM", "CANCEL"), "content": tuple(CONTENT)},
)
async def test_a_post_is_not_tried_again(scene: Scene) -> None:
    """A POST that the upstream resets is tried again only where the code says that it was not processed.

    REFUSED_STREAM permits one more; CANCEL does not (RFC 9113 section 8.7, ruling C-32).
    """
    row, upstream = "HTTP-ERR-008", scene.http_upstream(version="h2c")
    client = await scene.http_client()
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, body=CONTENT[scene.variant["content"]])
    request = await upstream.request(nonce)
    await request.body()
    code = ErrorCode[scene.variant["code"]]
    request.break_off(code)
    with scene.judging(row, ends=True):
        await first_of(_answer(upstream, nonce), exchange.head_or_end())
        end = await exchange.outcome()
    await scene.settle()
    seen = len(upstream.seen(nonce))
    told = f"seen {seen} times, {_told(end)}"
    if code == ErrorCode.REFUSED_STREAM and seen == 2:
        branch = "retry after an explicit not-processed signal"
        fine = isinstance(end, Response)
    else:
        branch, fine = "any 5xx or aborted stream", seen == 1 and _failed(end)
    scene.expect(row, fine, expected=f"no second request behind {error_name(code)}", actual=told, branch=branch)


# Compression

_KEPT: Mapping[str, str] = {"RFC7541-6.2.3-1": "h2c: never-indexed literal"}


@case("h2c-hpack-01", checks=["RFC7541-6.2.3-1", "RFC7541-7.1.3-1"], publish=H2C, features=H2)
async def test_a_field_that_must_never_be_indexed(scene: Scene) -> None:
    """A field that the client says never to be indexed goes out as a never-indexed literal, each of three times.

    `authorization`, and a field of ours whose name no table has (RFC 7541 sections 6.2.3 and 7.1.3). Looked at in the
    upstream's raw header blocks.
    """
    upstream = scene.http_upstream(version="h2c")
    client = await scene.http_client(version="h2")
    secrets = {b"authorization": b"Bearer " + scene.nonce().hex().encode(), b"x-secret": scene.nonce().hex().encode()}
    kinds: list[str] = []
    rows = ("RFC7541-6.2.3-1", "RFC7541-7.1.3-1")
    with scene.judging(*rows, ends=True):
        for _ in range(3):
            nonce = scene.nonce().hex()
            stream = client.open_stream()
            section = client.request_fields("GET", f"/{nonce}", nonce=nonce)
            hidden = [Field(name, value, never_indexed=True) for name, value in secrets.items()]
            client.say(client.headers(stream, [*section, *hidden], end=True))
            request = await upstream.request(nonce)
            await request.respond(204)
            await client.exchange(stream).response()
            told = blocks.read_block(request.section.block)
            kinds += [_said_as(told, value) for value in secrets.values()]
            if [request.get(name.decode()) for name in secrets] != [value.decode() for value in secrets.values()]:
                scene.depart(rows[0], expected="both fields at the upstream", actual=request.describe())
    actual = ", ".join(kinds)
    fine = all(kind == "never" for kind in kinds)
    scene.expect(rows[0], fine, expected="never-indexed literals", actual=actual, branch=_KEPT[rows[0]])
    scene.expect(rows[1], fine, expected="never-indexed literals, each time", actual=actual)


def _said_as(told: list[Representation], value: bytes) -> str:
    """The representation whose value this is; `indexed` where no literal has it."""
    return next((item.kind for item in told if item.kind != "update" and item.text[1] == value), "indexed")


@case(
    "h2c-hpack-02",
    checks=["RFC9113-4.3.1-1", "RFC7541-4.2-1", "RFC7541-2.1-1"],
    publish=H2C,
    over={"size": ("0", "0-4096")},
)
async def test_the_edge_follows_an_upstreams_smaller_table(scene: Scene) -> None:
    """Once an upstream has made its table smaller, the next request's block begins with an update to that size.

    Three requests with the same long field fill the edge's table before; fields keep their order (RFC 9113 section
    4.3.1, RFC 7541 sections 2.1 and 4.2).
    """
    rows = ("RFC9113-4.3.1-1", "RFC7541-4.2-1")
    upstream, client = scene.http_upstream(version="h2c"), await scene.http_client()
    fields = [("x-long", "v" * 200), ("x-a", "1"), ("x-b", "2"), ("x-a", "3")]
    with scene.judging(*rows, "RFC7541-2.1-1", ends=True):
        requests = [(await works(scene, client, upstream, fields))[0] for _ in range(3)]
        connection = upstream.connections[-1]
        for size in scene.variant["size"].split("-"):
            connection.say(frames.settings([(Setting.HEADER_TABLE_SIZE, int(size))]))
        await connection.acknowledged()
        requests.append((await works(scene, client, upstream, fields))[0])
    told = [blocks.read_block(each.section.block) for each in requests if isinstance(each, Http2UpstreamExchange)]
    used = any(item.kind == "incremental" for block in told[:3] for item in block)
    said = ", ".join(f"{item.kind} {item.index}" for item in told[3])
    kept = [(name, value) for name, value in requests[3].headers if name in ("x-long", "x-a", "x-b")]
    scene.expect("RFC7541-2.1-1", kept == fields, expected=f"{fields}", actual=f"{kept}")
    first = told[3][0].kind == "update" and told[3][0].index == 0
    if not used and not any(item.kind == "update" for item in told[3]):
        scene.allow(rows[0], "table never used: no size update")
        scene.allow(rows[1], "table never used and no update")
        return
    fine = first and not dangling(told[3])
    scene.expect(rows[0], fine, expected="an update to 0 first", actual=said, branch="size update to 0 first")
    scene.expect(rows[1], first, expected="the smallest size first", actual=said, branch="update to 0, then optionally")
