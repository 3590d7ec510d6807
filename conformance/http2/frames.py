"""Frames that must do no harm, and frames that the edge must not say (RFC 9113 sections 4, 5.3, 5.5, 6.3, 6.7)."""

from __future__ import annotations

from hyperframe.frame import PingFrame

from conformance.http._steps import meanwhile
from conformance.http2._steps import H2, ended_by, failed, opened, sent_whole, works
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import ConnectionEnd
from harness.scene import Scene
from harness.wire.http2 import ErrorCode, Field, Flag, FrameType, error_name, frames

LIMIT = 16384
"""What either side may say without being asked for more (RFC 9113 section 4.2)."""
MEBIBYTE = 1 << 20
UNKNOWN = 0xEE
RESERVED = 0x80000000


@case("h2-frame-01", checks=["RFC9113-4.1-2", "RFC9113-5.5-1"], publish=http(), features=H2)
async def test_frames_of_an_unknown_type(scene: Scene) -> None:
    """Frames of an unknown type are ignored, on stream 0, on an open stream and on one that nobody has opened.

    The request around them is whole at the upstream, and nothing of them (RFC 9113 sections 4.1 and 5.5).
    """
    rows = ("RFC9113-4.1-2", "RFC9113-5.5-1")
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    unknown = [frames.raw(UNKNOWN, b"unknown", flags=0xFF, stream=stream) for stream in (0, 1, 101)]
    with scene.judging(*rows, ends=True):
        client.say(unknown[0], unknown[2])
        exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
        client.say(unknown[1])
        await exchange.send_content(b"content")
        client.say(unknown[1])
        await exchange.finish()
        request = await upstream.request(nonce)
        body = await request.body()
        await request.respond(200)
        response = await exchange.response()
    await scene.settle()
    fine = body == b"content" and response.status == 200 and not upstream.unexpected
    for row in rows:
        told = f"{body!r} at the upstream, {response.describe()}"
        scene.expect(row, fine, expected="a whole exchange, and nothing of the frames", actual=told)


@case("h2-frame-02", checks=["RFC9113-4.1-3"], publish=http(), features=H2)
async def test_undefined_flags_and_the_reserved_bit(scene: Scene) -> None:
    """Flags that a frame does not have, and the reserved bit, are ignored (RFC 9113 section 4.1).

    On HEADERS, DATA, PING, SETTINGS and WINDOW_UPDATE.
    """
    row = "RFC9113-4.1-3"
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    section = client.request_fields("POST", f"/{nonce}", nonce=nonce)
    odd = 0xFF & ~(Flag.END_STREAM | Flag.PADDED | Flag.PRIORITY)
    stream = client.open_stream() | RESERVED
    with scene.judging(row, ends=True):
        exchange = client.exchange(1, "POST", f"/{nonce}")
        client.say(frames.raw(FrameType.PING, b"oddflags", flags=0xFE, stream=RESERVED))
        client.say(frames.raw(FrameType.SETTINGS, b"", flags=0xFE, stream=RESERVED))
        client.say(frames.raw(FrameType.HEADERS, client.wire.encode(section), flags=odd, stream=stream))
        client.say(frames.raw(FrameType.WINDOW_UPDATE, b"\0\0\0\1", flags=0xFF, stream=stream))
        client.say(frames.raw(FrameType.DATA, b"content", flags=0xFF & ~Flag.PADDED, stream=stream))
        await client.frame(PingFrame, lambda frame: frame.opaque_data == b"oddflags" and "ACK" in frame.flags)
        request = await upstream.request(nonce)
        body = await request.body()
        await request.respond(200)
        response = await exchange.response()
    fine = body == b"content" and response.status == 200
    scene.expect(row, fine, expected="a whole exchange", actual=f"{body!r} at the upstream, {response.describe()}")


@case("h2-frame-03", checks=["RFC9113-4.2-1", "RFC9113-4.1-1"], publish=http(), features=H2)
async def test_frames_of_the_size_that_all_must_take(scene: Scene) -> None:
    """Frames of 16384 octets are taken, and the edge says none above it.

    HEADERS and DATA of exactly that size from the client; a response of 1 MiB, while the client has not allowed larger
    frames (RFC 9113 sections 4.1 and 4.2).
    """
    rows = ("RFC9113-4.2-1", "RFC9113-4.1-1")
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    section = client.request_fields("POST", f"/{nonce}", nonce=nonce)
    long = Field(b"x-long", b"v" * 12_000)
    block = client.wire.encode([*section, long], huffman=False)
    with scene.judging(*rows, ends=True):
        stream = client.open_stream()
        exchange = client.exchange(stream, "POST", f"/{nonce}")
        pad = 255 if LIMIT - len(block) > 256 else None
        client.say(client.headers(stream, section, block=block, pad=pad))
        client.say(frames.data(stream, bytes(LIMIT)), frames.data(stream, bytes(LIMIT), end=True))
        request = await upstream.request(nonce)
        body = await request.body()
        await request.respond(200, body=bytes(MEBIBYTE))
        response = await exchange.response()
    told = f"{len(body)} octets at the upstream, {response.describe()}"
    fine = len(body) == 2 * LIMIT and request.get("x-long") == "v" * 12_000
    scene.expect("RFC9113-4.2-1", fine, expected="two frames of content, whole", actual=told)
    largest = max(seen.length for seen in client.seen)
    whole = len(response.body) == MEBIBYTE
    scene.expect(
        "RFC9113-4.1-1", whole and largest <= LIMIT, expected=f"no frame above {LIMIT}", actual=f"{largest}; {told}"
    )


@case("h2-frame-04", checks=["RFC9113-6.7-1", "RFC9113-6.7-2"], publish=http(), features=H2)
async def test_pings_and_their_answers(scene: Scene) -> None:
    """PING is answered with its own octets; PING with ACK is not answered at all (RFC 9113 section 6.7)."""
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    payload = scene.nonce()[:8]
    with scene.judging("RFC9113-6.7-1", ends=True):
        client.say(frames.ping(b"unasked!", ack=True), frames.ping(payload))
        answer = await client.frame(PingFrame, lambda frame: "ACK" in frame.flags)
        fine = answer.opaque_data == payload
        scene.expect("RFC9113-6.7-1", fine, expected=f"PING ACK {payload.hex()}", actual=answer.opaque_data.hex())
    with scene.judging("RFC9113-6.7-2", ends=True):
        await works(scene, client, upstream)
        await client.ping()
    unasked = [frame.opaque_data.hex() for frame in client.frames if isinstance(frame, PingFrame)]
    none = b"unasked!".hex() not in unasked
    scene.expect("RFC9113-6.7-2", none, expected="no answer to an answer", actual=f"PING {unasked}")


@case("h2-frame-05", checks=["RFC9113-5.2.2-1", "RFC9113-6.7-1"], publish=http(), features=H2)
async def test_frames_are_read_while_nothing_may_be_sent(scene: Scene) -> None:
    """With all windows used up the edge still reads: PING is answered, and WINDOW_UPDATE has its effect.

    The client takes nothing of a response of 1 MiB on either window, then gives credit for all of it (RFC 9113 section
    5.2.2).
    """
    row, upstream = "RFC9113-5.2.2-1", scene.http_upstream()
    client = await scene.http_client(version="h2", hold=True, connection_window=0)
    nonce = scene.nonce().hex()
    with scene.judging(row, "RFC9113-6.7-1", ends=True):
        exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
        request = await upstream.request(nonce)
        async with meanwhile(request.respond(200, body=bytes(MEBIBYTE))):
            await client.until(lambda: client.wire.receive_window == 0, "content, until both windows are used up")
            await client.ping()
            scene.expect("RFC9113-6.7-1", True, expected="an answer to PING", actual="it came")
            client.say(frames.window_update(0, MEBIBYTE), frames.window_update(exchange.id, MEBIBYTE))
            await client.until(lambda: client.wire.receive_window < MEBIBYTE, "more content, once there is credit")
            scene.expect(row, True, expected="content behind WINDOW_UPDATE", actual="it came")


@case("h2-frame-06", checks=["RFC9113-5.3.2-1", "RFC9113-6.3-1"], publish=http(), features=H2)
async def test_priorities(scene: Scene) -> None:
    """Priorities of any kind break no request; PRIORITY of another length than 5, or on stream 0, is an error.

    HEADERS with priority fields; PRIORITY that makes odd trees, also of streams that are idle. Then PRIORITY of 4
    octets on an open stream, and on another connection one on stream 0 (RFC 9113 sections 5.3.2 and 6.3).
    """
    row, upstream = "RFC9113-6.3-1", scene.http_upstream()
    client = await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    with scene.judging("RFC9113-5.3.2-1"):
        section = client.request_fields("GET", f"/{nonce}", nonce=nonce)
        client.say(frames.priority(3, 1, weight=255), frames.priority(5, 3, exclusive=True), frames.priority(3, 5))
        stream = client.open_stream()
        client.say(client.headers(stream, section, end=True, depends_on=99))
        request = await upstream.request(nonce)
        await request.respond(204)
        got = await client.exchange(stream).response()
        fine = got.status == 204
        scene.expect("RFC9113-5.3.2-1", fine, expected="a request that is served", actual=got.describe())
    waiting = await opened(scene, client, upstream)
    client.say(frames.raw(FrameType.PRIORITY, bytes(4), stream=waiting.id))
    codes = {ErrorCode.FRAME_SIZE_ERROR, ErrorCode.PROTOCOL_ERROR, ErrorCode.INTERNAL_ERROR}
    with scene.judging(row, ends=True):
        end = await waiting.head_or_end()
        code = client.end_code if failed(client) else getattr(end, "code", None)
        fine = getattr(end, "kind", "") in ("reset", "goaway", "connection") and (code is None or code in codes)
        scene.expect(row, fine, expected="FRAME_SIZE_ERROR", actual=str(end), branch="length 4")
    other = await scene.http_client(version="h2")
    other.say(frames.priority(0, 1))
    closed: ConnectionEnd | None = None
    with scene.judging(row, ends=True):
        closed = await ended_by(other)
    fine = closed is not None and (closed.code is None or closed.code in codes)
    told = str(closed) if closed is not None else "a connection that goes on"
    scene.expect(row, fine, expected="GOAWAY PROTOCOL_ERROR, or the end", actual=told, branch="stream 0: GOAWAY")


@case("h2-frame-07", checks=["RFC9113-6.1-3", "RFC9113-10.7-1"], publish=http(), features=H2)
async def test_padding_counts_and_its_credit_comes_back(scene: Scene) -> None:
    """The padding of DATA counts for flow control, and the credit for it comes back.

    1 octet with 255 octets of padding, time and again, until more credit than the edge gave at first is used: the
    transfer does not stall, and the content is what was sent (RFC 9113 sections 6.1 and 10.7).
    """
    row, upstream = "RFC9113-6.1-3", scene.http_upstream()
    client = await scene.http_client(version="h2", pad=255, frame_size=257)
    window = (await client.settled()).get(4, 65535)
    nonce = scene.nonce().hex()
    content = bytes(number % 251 for number in range(2 * window // 257 + 100))
    with scene.judging(row, ends=True):
        exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
        request = await upstream.request(nonce)
        received, _ = await scene.both(request.body(), sent_whole(exchange, content))
        await request.respond(200)
        response = await exchange.response()
    told = f"{len(received)} of {len(content)} octets, {response.describe()}"
    scene.expect("RFC9113-10.7-1", received == content, expected="identical content", actual=told)
    fine = len(received) == len(content) and response.status == 200
    scene.expect(row, fine, expected="the content, whole", actual=told)
    if client.wire.goaways:
        scene.record(row, f"GOAWAY {error_name(client.wire.goaways[-1].code)} for padding")
