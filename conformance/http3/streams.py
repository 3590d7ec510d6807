"""Request streams of a client: order and ends of frames and messages, cancellation, floods (RFC 9114 section 4.1)."""

from __future__ import annotations

import contextlib

from conformance.http3._steps import (
    GENERIC,
    ask,
    behind,
    clean,
    connected,
    down_case,
    end_of,
    headers,
    is_refusal,
    judge_close,
    judge_malformed,
    nothing_there,
    on_stream,
    on_uni,
    outcome,
    settled,
    told,
    works,
)
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.stream import LinkReset
from harness.model.spec import http
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http3 import Http3Client, Http3Exchange
from harness.scene import Scene
from harness.wire.http3 import DataFrame, ErrorCode, UnknownFrame, error_name, reserved
from harness.wire.quic.codec import varint

E = ErrorCode
FLOOD = 2000
"""Requests, frames or streams of a flood; a client of the suite's ordinary cases has some dozens."""
MOST_THERE = 1000
"""How many of a flood's requests, each cancelled at once, may still be at the upstream: half of them."""


@down_case("h3-stream-01", ["RFC9114-4.1-2"])
async def test_two_requests_on_one_stream(scene: Scene) -> None:
    """Two requests on one stream are malformed: the stream or the connection ends, and the second does not go upstream
    (B-c)."""
    row = "RFC9114-4.1-2"
    client = await connected(scene)
    first, second = scene.nonce().hex(), scene.nonce().hex()
    stream = await on_stream(
        client, headers(ask(client, first)), headers(ask(client, second)), headers(ask(client, second)), fin=True
    )
    got = await outcome(client, client.exchange(stream))
    if isinstance(got, ExchangeEnd) and got.kind == "connection" and got.code == E.H3_FRAME_UNEXPECTED:
        scene.allow(row, "CONNECTION_CLOSE H3_FRAME_UNEXPECTED")
    else:
        judge_malformed(scene, row, got)
    await settled(scene, client)
    side = behind(scene)
    wrong = [each for each in side.unexpected if getattr(each, "complete", True)]
    wrong += [each for each in side.seen(second) if each not in wrong]
    actual = "; ".join(each.describe() for each in wrong) or "nothing"
    scene.expect(row, not wrong, expected="no whole request of them at the upstream", actual=actual)


@down_case("h3-stream-02", ["RFC9114-4.1-3"], over={"order": ("data-first", "data-last", "headers-last")})
async def test_frames_in_an_order_that_is_none(scene: Scene) -> None:
    """DATA in front of HEADERS, and DATA or HEADERS behind the trailers, end the connection; the upstream has no whole
    request (B-e)."""
    row, order = "RFC9114-4.1-3", scene.variant["order"]
    client = await connected(scene)
    head = headers(ask(client, scene.nonce().hex(), method=b"POST"))
    trailers = headers([(b"x-sum", b"1")])
    frames = {
        "data-first": (DataFrame(b"early"), head),
        "data-last": (head, DataFrame(b"content"), trailers, DataFrame(b"late")),
        "headers-last": (head, DataFrame(b"content"), trailers, trailers),
    }
    stream = await on_stream(client, *frames[order], fin=True)
    got = await outcome(client, client.exchange(stream))
    if isinstance(got, ExchangeEnd) and got.kind == "connection":
        judge_close(scene, row, await end_of(client), E.H3_FRAME_UNEXPECTED)
    elif isinstance(got, ExchangeEnd) and got.code == E.H3_MESSAGE_ERROR:
        scene.allow(row, "DATA or HEADERS order fault")
    else:
        judge_close(scene, row, await end_of(client), E.H3_FRAME_UNEXPECTED)
    await settled(scene, client)
    await nothing_there(scene, row, partial=True)


@down_case("h3-stream-03", ["RFC9114-4.1-6"], over={"framing": ("length", "chunked", "none")})
async def test_the_stream_ends_with_the_response(scene: Scene) -> None:
    """FIN comes behind the last octet of the response, and not in front of it (RFC 9114 section 4.1).

    The upstream holds back the end of a response of unknown length: until then the stream stays open.
    """
    row = "RFC9114-4.1-6"
    client = await connected(scene)
    nonce = scene.nonce().hex()
    sent = await client.begin("GET", f"/{nonce}", nonce=nonce)
    request = await behind(scene).request(nonce)
    framing = scene.variant["framing"]
    if framing == "none":
        await request.respond(204)
    elif framing == "length":
        await request.respond(200, body=b"content")
    else:
        await request.begin_response(200)
        await request.send_content(b"content")
        response = await sent.response_head()
        with scene.judging(row):
            await sent.read_some(response)
        await settled(scene, client)
        scene.expect(row, not sent.over, expected="no end of the stream yet", actual=told(response))
        await request.finish()
    with scene.judging(row):
        response = await sent.response()
        ended = response.complete and response.body == (b"" if framing == "none" else b"content")
        scene.expect(
            row, ended, expected="FIN behind the last octet", actual=told(response), branch="FIN after the last"
        )


@down_case("h3-stream-04", ["RFC9114-4.1-8"], over={"sent": ("nothing", "half-a-frame", "reserved-frame")})
async def test_a_stream_without_a_request(scene: Scene) -> None:
    """A request stream that ends before its request is reset, or refused, or closes the connection where its last frame
    is cut; nothing is at the upstream (B-c)."""
    row, what = "RFC9114-4.1-8", scene.variant["sent"]
    client = await connected(scene)
    head = headers(ask(client, scene.nonce().hex())).encode()
    octets = {
        "nothing": b"",
        "half-a-frame": head[: len(head) // 2],
        "reserved-frame": UnknownFrame(0x21, b"x").encode(),
    }
    stream = await on_stream(client, octets[what], fin=True)
    got = await outcome(client, client.exchange(stream))
    if isinstance(got, ExchangeEnd) and got.kind == "reset":
        scene.allow(row, "stream abort")
    elif isinstance(got, Response) and got.status >= 400:
        scene.allow(row, "HTTP error response")
    else:
        cut = isinstance(got, ExchangeEnd) and what == "half-a-frame" and got.code in (E.H3_FRAME_ERROR, *GENERIC)
        branch = "CONNECTION_CLOSE H3_FRAME_ERROR"
        scene.expect(row, cut, expected="H3_REQUEST_INCOMPLETE", actual=told(got), branch=branch)
    await settled(scene, client)
    await nothing_there(scene, row)


@down_case("h3-stream-05", ["RFC9114-7.1-2"], over={"frame": ("data", "trailers")})
async def test_a_frame_cut_by_the_end_of_its_stream(scene: Scene) -> None:
    """A stream that ends inside a frame ends the connection; the request is not whole at the upstream (B-e)."""
    row = "RFC9114-7.1-2"
    client = await connected(scene)
    head = headers(ask(client, scene.nonce().hex(), method=b"POST"))
    tail = headers([(b"x-sum", b"1" * 20)]).encode()[:-5]
    cut = DataFrame(b"hello", 10) if scene.variant["frame"] == "data" else tail
    stream = await on_stream(client, head, cut, fin=True)
    got = await outcome(client, client.exchange(stream))
    if isinstance(got, ExchangeEnd) and got.kind == "reset":
        scene.allow(row, "stream abort instead")
    else:
        judge_close(scene, row, await end_of(client), E.H3_FRAME_ERROR)
    await settled(scene, client)
    await nothing_there(scene, row, partial=True)


@down_case(
    "h3-stream-06",
    ["RFC9114-4.1.1-1", "RFC9114-8-1"],
    over={"code": ("cancelled", "unknown", "reserved")},
)
async def test_a_request_that_is_cancelled(scene: Scene) -> None:
    """A client that resets and stops a stream in the midst of a response, with any code, gets no more of it; the others
    of its connection go on (B-c).

    The code of the reset is H3_REQUEST_CANCELLED, one that nobody knows, or a reserved one, which mean H3_NO_ERROR.
    """
    codes = {"cancelled": int(E.H3_REQUEST_CANCELLED), "unknown": 0x1234_5678, "reserved": reserved(100)}
    code = codes[scene.variant["code"]]
    client = await connected(scene)
    nonce = scene.nonce().hex()
    sent = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    request = await behind(scene).request(nonce)
    await request.begin_response(200)
    await request.send_content(b"some")
    response = await sent.response_head()
    await sent.read_some(response)
    client.reset_stream(sent.id, code)
    client.stop_sending(sent.id, code)
    with scene.judging("RFC9114-4.1.1-1", "RFC9114-8-1"):
        end = await request.ended()
        gone = end.kind != "complete"
        scene.expect("RFC9114-8-1", gone, expected="the upstream's exchange to be left", actual=str(end))
        await works(scene, client)
    before = sent.received
    await settled(scene, client)
    ended = sent.over or sent.stopped is not None
    came = sent.received - before
    stopped = came == 0 and client.quic.ended is None
    scene.expect("RFC9114-4.1.1-1", stopped, expected="no more of the response", actual=f"{came} octets, over: {ended}")


@down_case(
    "h3-stream-07",
    ["RFC9114-4.1.1-4", "RFC9114-4.1.1-2"],
    publish=lambda variant: http() if variant["up"] == "h1" else http(http_version="h3"),
    over={"up": ("h1", "h3")},
)
async def test_a_response_that_breaks_off(scene: Scene) -> None:
    """An upstream that breaks off inside a response: the client's stream is reset with H3_REQUEST_CANCELLED or
    H3_INTERNAL_ERROR, never ended, and never with H3_REQUEST_REJECTED."""
    client = await connected(scene)
    nonce = scene.nonce().hex()
    sent = await client.begin("GET", f"/{nonce}", nonce=nonce)
    request = await behind(scene).request(nonce)
    await request.begin_response(200, [("content-length", "100")])
    await request.send_content(b"some")
    response = await sent.response_head()
    await sent.read_some(response)
    request.break_off()
    got = await outcome(client, sent)
    end = got.end if isinstance(got, Response) else got
    aborted = end is not None and not clean(got)
    rejected = end is not None and end.code == E.H3_REQUEST_REJECTED
    branch = "CONNECTION_CLOSE" if end is not None and end.kind == "connection" else "stream abort"
    scene.expect("RFC9114-4.1.1-2", aborted and not rejected, expected="another code", actual=told(got), branch=branch)
    named = end is not None and end.code in (E.H3_REQUEST_CANCELLED, E.H3_INTERNAL_ERROR)
    scene.expect("RFC9114-4.1.1-4", aborted and named, expected="RESET_STREAM H3_REQUEST_CANCELLED", actual=told(got))


@down_case("h3-stream-08", ["RFC9114-4.1-10"])
async def test_an_early_answer_asks_for_no_more(scene: Scene) -> None:
    """An upstream that answers in the midst of a request and closes: the client has the whole answer, and is asked to
    send no more with H3_NO_ERROR."""
    row = "RFC9114-4.1-10"
    client = await connected(scene)
    nonce = scene.nonce().hex()
    sent = await client.begin("POST", f"/{nonce}", [("content-length", "1000000")], nonce=nonce, end=False)
    request = await behind(scene).request(nonce)
    await sent.send_content(b"x" * 1000)
    await request.read_exactly(1000)
    await request.respond(413, [("connection", "close")], b"too much")
    with scene.judging(row, ends=True):
        response = await sent.response()
        scene.expect(row, response.body == b"too much", expected="the whole answer", actual=told(response))
    try:
        await client.until(lambda: sent.stopped is not None, "STOP_SENDING")
    except (DeadlineExpired, PeerMismatch) as error:
        scene.depart(row, expected="STOP_SENDING H3_NO_ERROR", actual=str(error))
        return
    code = sent.stopped or 0
    scene.expect(row, code == E.H3_NO_ERROR, expected="STOP_SENDING H3_NO_ERROR", actual=error_name(code))


@down_case(
    "h3-stream-09",
    ["RFC9114-10.5-1"],
    over={"flood": ("cancelled", "frames", "streams")},
    needs=["private-engine"],
)
async def test_a_flood_of_what_is_legal(scene: Scene) -> None:
    """Requests that are cancelled at once, frames without meaning, streams without meaning: work for the upstream stays
    bounded, or the connection is closed; another client is served."""
    row, what = "RFC9114-10.5-1", scene.variant["flood"]
    client = await connected(scene)
    try:
        for _ in range(FLOOD):
            await _flood(scene, client, what)
    except (PeerMismatch, LinkReset):
        pass
    except DeadlineExpired:
        scene.allow(row, "streams refused")
    side = behind(scene)
    if client.quic.ended is None:
        with contextlib.suppress(PeerMismatch, DeadlineExpired):
            await client.ping()
    if client.quic.ended is not None:
        scene.allow(row, "CONNECTION_CLOSE, any code")
    else:
        there = len(side.requests_seen)
        scene.expect(
            row,
            there <= MOST_THERE,
            expected="bounded work at the upstream",
            actual=f"{there} of {FLOOD} requests",
            branch="work bounded",
        )
    with scene.judging(row):
        response = await works(scene, await connected(scene))
        scene.expect(row, response.status == 200, expected="200 for another client", actual=response.describe())


async def _flood(scene: Scene, client: Http3Client, what: str) -> None:
    if what == "cancelled":
        exchange: Http3Exchange = await client.begin("GET", "/flood")
        exchange.cancel()
    elif what == "frames":
        client.say_control(*[UnknownFrame(reserved(4))] * 4)
    else:
        stream = await on_uni(client, varint(reserved(6)) + b"x", fin=True)
        client.check()
        del stream


@down_case("h3-stream-10", ["RFC9114-4.1.1-2"], publish=lambda _: http())
async def test_a_request_that_got_no_answer(scene: Scene) -> None:
    """A request that the upstream has, and breaks off without an answer, is never H3_REQUEST_REJECTED: the client might
    try it again."""
    row = "RFC9114-4.1.1-2"
    client = await connected(scene)
    nonce = scene.nonce().hex()
    sent = await client.begin("POST", f"/{nonce}", body=b"content", nonce=nonce)
    request = await behind(scene).request(nonce)
    await request.body()
    request.break_off()
    got = await outcome(client, sent)
    if isinstance(got, Response):
        scene.expect(row, got.status >= 500, expected="a 5xx", actual=told(got), branch="any 5xx")
        return
    code = got.code if got is not None else None
    fine = is_refusal(got) and code != E.H3_REQUEST_REJECTED
    branch = "CONNECTION_CLOSE" if got is not None and got.kind == "connection" else "stream abort"
    scene.expect(row, fine, expected="another code than H3_REQUEST_REJECTED", actual=told(got), branch=branch)
