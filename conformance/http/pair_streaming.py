"""Content in motion through every pair of versions: it streams both ways, and a slow side holds back its own source."""

from __future__ import annotations

from conformance.http._pair_steps import STALL_SECONDS, Flood, behind, digest, meet, new_client, pair_case, told
from conformance.http._steps import meanwhile
from harness.link.deadline import set_default
from harness.peer.http import ClientExchange, Response
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene

EVENT_STREAM = [("content-type", "text/event-stream")]
STALL_OCTETS = 96 << 20
STALL_BOUND = 80 << 20
"""What an engine and the buffers of four sockets may hold at most: see `conformance.http.streaming`."""
LARGE = 16 << 20
LARGE_OVER_QUIC = 4 << 20
"""Far more than any window, and what a run has time for in every pair; `http-stream-06` has 256 MiB."""


async def _read(sent: ClientExchange, response: Response, count: int) -> bytes:
    """At least `count` octets more of the response, all that came with them."""
    got = b""
    while len(got) < count:
        data = await sent.read_some(response)
        if not data:
            break
        got += data
    return got


@pair_case("http-pair-22", ["HTTP-STREAM-001"])
async def test_a_response_streams(scene: Scene) -> None:
    """Each event of an event stream reaches the client before the upstream says the next one."""
    met = await meet(scene)
    with scene.judging("HTTP-STREAM-001"):
        await met.request.begin_response(200, EVENT_STREAM)
        response = await met.sent.response_head()
        for number in range(5):
            event = f"data: {number}\n\n".encode()
            await met.request.send_content(event)
            got = await _read(met.sent, response, len(event))
            scene.expect("HTTP-STREAM-001", got == event, expected=f"{event!r}", actual=f"{got!r}")
        _, end = await scene.both(met.request.finish(), met.sent.read_some(response))
        fine = response.complete and end == b""
        scene.expect("HTTP-STREAM-001", fine, expected="the end of the stream", actual=response.describe())


@pair_case("http-pair-23", ["HTTP-STREAM-002"], over={"body": ("length", "unknown")})
async def test_a_request_streams(scene: Scene) -> None:
    """Each piece of a request's content reaches the upstream before the client says the next one."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    piece = b"x" * 1024
    fields = [("content-length", str(5 * len(piece)))] if scene.variant["body"] == "length" else []
    with scene.judging("HTTP-STREAM-002"):
        sent = await client.begin("POST", f"/{nonce}", fields, nonce=nonce, end=False)
        request = None
        for number in range(1, 6):
            await sent.send_content(piece)
            request = request or await upstream.request(nonce)
            got = await request.read_exactly(number * len(piece))
            same = got == piece * number
            scene.expect("HTTP-STREAM-002", same, expected=f"{number} KiB", actual=f"{len(got)} octets")
        await sent.finish()
        assert request is not None
        await request.body()
        await request.respond(200)
        await sent.response()


@pair_case("http-pair-24", ["HTTP-STREAM-003"], down=("h2", "h3"), up=("h2c", "h3"))
async def test_both_directions_at_one_time(scene: Scene) -> None:
    """A hundred messages and their replies go over one exchange, each reply before the next message."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    with scene.judging("HTTP-STREAM-003"):
        sent = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
        request = await upstream.request(nonce)
        await request.begin_response(200)
        response = await sent.response_head()
        asked = b""
        for number in range(100):
            message = b"message %d." % number
            asked += message
            await sent.send_content(message)
            got = await request.read_exactly(len(asked))
            scene.expect("HTTP-STREAM-003", got == asked, expected=f"{message!r} upstream", actual=f"{got[-40:]!r}")
            await request.send_content(message[::-1])
            back = await _read(sent, response, len(message))
            scene.expect("HTTP-STREAM-003", back == message[::-1], expected=f"{message!r} back", actual=f"{back!r}")
        await sent.finish()
        await request.body()
        _, end = await scene.both(request.finish(), sent.read_some(response))
        fine = end == b"" and response.complete
        scene.expect("HTTP-STREAM-003", fine, expected="the end of both", actual=response.describe())


# Backpressure


async def _judge_stall(scene: Scene, flood: Flood, *requirements: str) -> None:
    """The flood must come to a stand: two barriers without progress between them, before the bound.

    A barrier goes through what the flood has filled, so it may take longer than other steps.
    """
    set_default(STALL_SECONDS)
    before = -1
    while before != flood.taken and flood.taken < flood.most:
        before = flood.taken
        await scene.settle()
    for requirement in requirements:
        expected = f"the sender to stall below {STALL_BOUND} octets"
        stalled = flood.taken < STALL_BOUND
        scene.expect(requirement, stalled, expected=expected, actual=f"{flood.taken} octets taken")
    flood.stop()


@pair_case("http-pair-25", ["HTTP-STREAM-004"])
async def test_a_slow_client_stalls_the_upstream(scene: Scene) -> None:
    """While the client reads nothing the upstream cannot go on without end; once it reads, every octet arrives.

    The upstream offers 96 MiB. It must come to a stand, seen by two barriers without progress between them, before it
    has got rid of 80 of them.
    """
    met = await meet(scene)
    await met.request.begin_response(200)
    flood = Flood(met.request.send_content, STALL_OCTETS)
    async with meanwhile(flood.run(met.request.finish)):
        await _judge_stall(scene, flood, "HTTP-STREAM-004")
        with scene.judging("HTTP-STREAM-004"):
            arrived = await digest(met.sent, await met.sent.response_head())
            flood.judge(scene, "HTTP-STREAM-004", arrived)


@pair_case("http-pair-26", ["HTTP-STREAM-004"])
async def test_a_slow_upstream_stalls_the_client(scene: Scene) -> None:
    """While the upstream reads nothing the client cannot go on without end; once it reads, every octet arrives."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    sent = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    request = await upstream.request(nonce)
    flood = Flood(sent.send_content, STALL_OCTETS)
    async with meanwhile(flood.run(sent.finish)):
        await _judge_stall(scene, flood, "HTTP-STREAM-004")
        with scene.judging("HTTP-STREAM-004"):
            set_default(STALL_SECONDS)
            flood.judge(scene, "HTTP-STREAM-004", await request.digest())
    await request.respond(200)


async def _own_stream_only(scene: Scene, *requirements: str) -> None:
    """A response that the client does not read holds back its own stream, and another exchange of the connection goes
    through from end to end."""
    client = await new_client(scene)
    slow = await meet(scene, client=client)
    await slow.request.begin_response(200)
    flood = Flood(slow.request.send_content, STALL_OCTETS)
    async with meanwhile(flood.run(slow.request.finish)):
        await _judge_stall(scene, flood, *requirements)
        with scene.judging(*requirements):
            other = await meet(scene, client=client)
            content = other.nonce.encode() * 1024
            response = await other.answered(200, body=content)
            for requirement in requirements:
                same = response.complete and response.body == content
                scene.expect(requirement, same, expected="the other exchange whole", actual=response.describe())
            flood.judge(scene, requirements[0], await digest(slow.sent, await slow.sent.response_head()))


@pair_case("http-pair-27", ["RFC9113-5.2.1-2", "HTTP-STREAM-004"], down=("h2",))
async def test_a_stalled_stream_of_http2_stalls_no_other(scene: Scene) -> None:
    """A response that a client of HTTP/2 does not read holds back its own stream alone, on both legs."""
    await _own_stream_only(scene, "RFC9113-5.2.1-2", "HTTP-STREAM-004")


@pair_case("http-pair-74", ["HTTP-STREAM-004"], down=("h3",))
async def test_a_stalled_stream_of_http3_stalls_no_other(scene: Scene) -> None:
    """A response that a client of HTTP/3 does not read holds back its own stream alone, on both legs."""
    await _own_stream_only(scene, "HTTP-STREAM-004")


@pair_case("http-pair-31", ["HTTP-STREAM-008"], over={"direction": ("request", "response")})
async def test_large_content(scene: Scene) -> None:
    """Content of 16 MiB, or of 4 where HTTP/3 is on a leg, arrives whole and unchanged."""
    total = LARGE_OVER_QUIC if "h3" in (scene.variant["down"], scene.variant["up"]) else LARGE
    if scene.variant["direction"] == "request":
        client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
        sent = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
        request: UpstreamExchange = await upstream.request(nonce)
        flood = Flood(sent.send_content, total)
        async with meanwhile(flood.run(sent.finish)):
            set_default(STALL_SECONDS)
            arrived = await request.digest()
    else:
        met = await meet(scene)
        await met.request.begin_response(200)
        flood = Flood(met.request.send_content, total)
        async with meanwhile(flood.run(met.request.finish)):
            arrived = await digest(met.sent, await met.sent.response_head())
    flood.judge(scene, "HTTP-STREAM-008", arrived)


@pair_case("http-pair-32", ["HTTP-STREAM-009"], up=("h1",))
async def test_a_response_that_the_close_delimits(scene: Scene) -> None:
    """A response that only the end of its connection delimits is complete at the client."""
    met = await meet(scene)
    await met.request.respond_raw(b"HTTP/1.0 200 OK\r\n\r\n" + b"hello ")  # type: ignore[attr-defined]
    await met.request.send(b"there", what="rest")  # type: ignore[attr-defined]
    await met.request.end()  # type: ignore[attr-defined]
    with scene.judging("HTTP-STREAM-009"):
        response = await met.sent.response()
        whole = response.body == b"hello there"
        clean = response.complete or scene.variant["down"] == "h1"
        scene.expect("HTTP-STREAM-009", whole and clean, expected="`hello there`, whole", actual=told(response))
