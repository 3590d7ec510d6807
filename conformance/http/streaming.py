"""Bodies in motion: they stream both ways, back-pressure reaches their source, and who leaves is told."""

from __future__ import annotations

import asyncio
import hashlib

from conformance.http._steps import asked, meanwhile, works
from harness.link.deadline import set_default
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http1_stream import ByteStream
from harness.scene import Scene
from harness.wire import http1_write as write

EVENT_STREAM = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
STALL_OCTETS = 96 << 20
STALL_BOUND = 80 << 20
"""What an engine and the buffers of four sockets may hold at most: Linux lets each grow to tcp_rmem and tcp_wmem, 32
and 4 MiB on recent kernels, and what lies there is no memory of the engine's choosing."""
STALL_SECONDS = 60.0
LARGE = 256 << 20
PIECE = bytes(range(256)) * 256


class Flood:
    """Sends `total` octets on a link, as fast as it takes them; `taken` is how many it took."""

    def __init__(self, link: ByteStream, total: int) -> None:
        self._link = link
        self._total = total
        self._hashed = hashlib.sha256()
        self.taken = 0

    async def run(self) -> None:
        """Send until done or cancelled. A stall is what some cases want, so a send may wait longer than other steps."""
        set_default(STALL_SECONDS)
        while self.taken < self._total:
            await self._link.send(PIECE)
            self.taken += len(PIECE)
            self._hashed.update(PIECE)

    def judge(self, scene: Scene, requirement: str, arrived: tuple[int, str]) -> None:
        """What arrived (size and SHA-256) must be what was sent."""
        same = arrived == (self._total, self._hashed.hexdigest())
        actual = f"{arrived[0]} octets, SHA-256 {arrived[1]}"
        scene.expect(requirement, same, expected=f"{self._total} octets unchanged", actual=actual)


@case("http-stream-01", checks=["HTTP-STREAM-001"], publish=http())
async def test_a_response_streams(scene: Scene) -> None:
    """Each event of an event stream reaches the client before the upstream says the next one."""
    answered = await asked(scene)
    await answered.request.response_head(200, EVENT_STREAM)
    with scene.judging("HTTP-STREAM-001"):
        response = await answered.client.response_head()
        for number in range(5):
            event = f"data: {number}\n\n".encode()
            await answered.request.send_chunk(event)
            got = b""
            while len(got) < len(event):
                got += await answered.client.read_some(response)
            scene.expect("HTTP-STREAM-001", got == event, expected=f"{event!r}", actual=f"{got!r}")
        await answered.request.send_last_chunk()
        await answered.client.finish(response)
        scene.expect("HTTP-STREAM-001", response.complete, expected="the end of the stream", actual=response.describe())


@case("http-stream-02", checks=["HTTP-STREAM-002"], publish=http(), over={"body": ("chunked", "length")})
async def test_a_request_streams(scene: Scene) -> None:
    """Each piece of a request body reaches the upstream before the client says the next one."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    chunked = scene.variant["body"] == "chunked"
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(5 * 1024))
    await client.request_head("POST", "/", [framing], nonce=nonce)
    piece = b"x" * 1024
    with scene.judging("HTTP-STREAM-002"):
        request = None
        for number in range(1, 6):
            await client.send_raw(write.chunk(piece) if chunked else piece, what=f"piece {number}")
            request = request or await upstream.request(nonce)
            got = await request.read_exactly(number * len(piece))
            scene.expect(
                "HTTP-STREAM-002", got == piece * number, expected=f"{number} KiB", actual=f"{len(got)} octets"
            )
        if chunked:
            await client.send_last_chunk()
        assert request is not None
        await request.body()
        await request.respond(200)
        await client.response()


@case("http-stream-03", checks=["HTTP-STREAM-004"], publish=http())
async def test_a_slow_client_stalls_the_upstream(scene: Scene) -> None:
    """While the client reads nothing the upstream cannot go on without end; once it reads, every octet arrives.

    The upstream offers 96 MiB. It must come to a stand, seen by two barriers without progress between them, before it
    has got rid of 80 of them.
    """
    answered = await asked(scene)
    await answered.request.response_head(200, [("Content-Length", str(STALL_OCTETS))])
    flood = Flood(answered.request.connection.link, STALL_OCTETS)
    async with meanwhile(flood.run()):
        await _judge_stall(scene, flood)
        with scene.judging("HTTP-STREAM-004"):
            arrived = await answered.client.digest(await answered.client.response_head())
            flood.judge(scene, "HTTP-STREAM-004", arrived)


@case("http-stream-04", checks=["HTTP-STREAM-004"], publish=http())
async def test_a_slow_upstream_stalls_the_client(scene: Scene) -> None:
    """While the upstream reads nothing the client cannot go on without end; once it reads, every octet arrives."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    await client.request_head("POST", "/", [("Content-Length", str(STALL_OCTETS))], nonce=nonce)
    request = await upstream.request(nonce)
    request.connection.pause()
    flood = Flood(client.link, STALL_OCTETS)
    async with meanwhile(flood.run()):
        await _judge_stall(scene, flood)
        request.connection.resume()
        with scene.judging("HTTP-STREAM-004"):
            flood.judge(scene, "HTTP-STREAM-004", await request.digest())


async def _judge_stall(scene: Scene, flood: Flood) -> None:
    """The flood must come to a stand: two barriers without progress between them."""
    before = -1
    while before != flood.taken and flood.taken < STALL_OCTETS:
        before = flood.taken
        await scene.settle()
    told = {"expected": f"the sender to stall below {STALL_BOUND} octets", "actual": f"{flood.taken} octets taken"}
    scene.expect("HTTP-STREAM-004", flood.taken < STALL_BOUND, **told)


@case("http-stream-05", checks=["HTTP-STREAM-005"], publish=http(), over={"end": ("clean", "reset")})
async def test_a_client_that_leaves_is_told_upstream(scene: Scene) -> None:
    """A client that leaves a running response is noticed at the upstream: its connection ends in bounded time.

    The upstream goes on sending, as one that streams does; the client of another connection is not touched.
    """
    answered = await asked(scene)
    other = await asked(scene)
    await answered.request.response_head(200, EVENT_STREAM)
    response = await answered.client.response_head()
    await answered.request.send_chunk(b"data: 1\n\n")
    await answered.client.read_some(response)
    if scene.variant["end"] == "clean":
        await answered.client.close()
    else:
        answered.client.abort()

    async def stream_on() -> None:
        while await answered.request.offer(write.chunk(b"data: more\n\n"), what="chunk"):
            await scene.settle()

    with scene.judging("HTTP-STREAM-005"):
        async with meanwhile(stream_on()):
            end = await answered.request.connection.expect_end()
        scene.expect("HTTP-STREAM-005", True, expected="an end", actual=str(end), branch="U: reset or close within 2 s")
        await other.request.respond(200, body=b"fine")
        await other.outcome()
        scene.expect(
            "HTTP-STREAM-005", other.kind == "2xx", expected="the other exchange to go on", actual=other.describe()
        )


@case(
    "http-stream-06", checks=["HTTP-STREAM-008"], publish=http(), slow=True, over={"direction": ("request", "response")}
)
async def test_a_body_of_256_mebibytes(scene: Scene) -> None:
    """A body of 256 MiB arrives whole and unchanged."""
    if scene.variant["direction"] == "request":
        client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
        await client.request_head("POST", "/", [("Content-Length", str(LARGE))], nonce=nonce)
        request = await upstream.request(nonce)
        flood = Flood(client.link, LARGE)
        async with meanwhile(flood.run()):
            arrived = await request.digest()
    else:
        answered = await asked(scene)
        await answered.request.response_head(200, [("Content-Length", str(LARGE))])
        flood = Flood(answered.request.connection.link, LARGE)
        async with meanwhile(flood.run()):
            arrived = await answered.client.digest(await answered.client.response_head())
    flood.judge(scene, "HTTP-STREAM-008", arrived)


# Time limits


@case(
    "http-stream-07",
    checks=["HTTP-ERR-010"],
    publish=http(),
    settings={"timeout.http-response-ms": 1000},
)
async def test_a_long_response_outlives_the_request_timeout(scene: Scene) -> None:
    """A response that streams goes on beyond the time in which it had to begin."""
    answered = await asked(scene)
    await answered.request.response_head(200, EVENT_STREAM)
    response = await answered.client.response_head()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with scene.judging("HTTP-ERR-010"):
        while loop.time() - begun < 2.0:
            await answered.request.send_chunk(b"data: on\n\n")
            await answered.client.read_some(response)
        await answered.request.send_last_chunk()
        await answered.client.finish(response)
        scene.expect("HTTP-ERR-010", response.complete, expected="the whole stream", actual=response.describe())


@case(
    "http-stream-08", checks=["HTTP-ERR-009", "RFC9112-9.5-1"], publish=http(), settings={"timeout.http-idle-ms": 1500}
)
async def test_an_idle_client_connection_is_closed(scene: Scene) -> None:
    """An idle client connection is closed cleanly after the limit; one with a running response is not."""
    busy = await asked(scene)
    await busy.request.response_head(200, EVENT_STREAM)
    response = await busy.client.response_head()
    idle = await scene.http_client()
    await works(scene, idle)
    with scene.judging("HTTP-ERR-009", "RFC9112-9.5-1"):
        end = await idle.expect_end()
        scene.expect("RFC9112-9.5-1", end.clean, expected="close_notify", actual=str(end))
        await busy.request.send_chunk(b"data: on\n\n")
        await busy.client.read_some(response)
        await busy.request.send_last_chunk()
        await busy.client.finish(response)
        scene.expect("HTTP-ERR-009", response.complete, expected="the running response", actual=response.describe())
