"""Ends through every pair of versions: who leaves, breaks off, answers early, and what goes out a second time."""

from __future__ import annotations

import asyncio

from conformance.http._pair_steps import (
    PIECE,
    Met,
    behind,
    beside,
    judge_kind,
    kind_of,
    meet,
    new_client,
    pair_case,
    told,
    works,
)
from conformance.http._steps import meanwhile
from harness.engine.agent_driver import AgentSession
from harness.errors import EngineDeparted
from harness.link.stream import LinkReset
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene
from harness.tasks import one_of

ANY_ERROR = {"502": "any 5xx", "503": "any 5xx", "504": "any 5xx", "5xx": "any 5xx"}


# A client that leaves


async def _cancelled(scene: Scene, *requirements: str) -> None:
    """A client gives one of three exchanges up; its upstream is told, and the other two go on."""
    clients = await beside(scene, 3)
    stage = scene.variant["stage"]
    met = await meet(scene, "POST" if stage == "upload" else "GET", client=clients[0], end=stage != "upload")
    others = [await meet(scene, client=client) for client in clients[1:]]
    with scene.judging(*requirements):
        streaming = []
        if stage == "upload":
            await met.sent.send_content(b"part")
            await met.request.read_exactly(4)
        elif stage == "response":
            await met.request.begin_response(200)
            await met.request.send_content(b"data: 1\n\n")
            await met.sent.read_some(await met.sent.response_head())
            streaming.append(_stream_on(scene, met.request))
        met.sent.cancel()
        async with meanwhile(*streaming):
            end = await met.request.ended()
        told_of = end.kind in ("reset", "connection")
        for requirement in requirements:
            scene.expect(requirement, told_of, expected="a reset or a close at the upstream", actual=str(end))
        for other in others:
            response = await other.answered(200, body=other.nonce.encode())
            fine = response.complete and response.body == other.nonce.encode()
            for requirement in requirements:
                scene.expect(requirement, fine, expected="the other exchanges to go on", actual=told(response))
        if scene.variant["down"] != "h1":
            later = await works(scene, clients[0])
            for requirement in requirements:
                fine = later.status == 200
                scene.expect(requirement, fine, expected="the connection to go on", actual=told(later))


async def _stream_on(scene: Scene, request: UpstreamExchange) -> None:
    """Go on sending, as an upstream that streams does, for as long as it is taken."""
    while True:
        await request.send_content(b"data: more\n\n")
        await scene.settle()


STAGES = ("waiting", "upload", "response")


@pair_case("http-pair-28", ["HTTP-STREAM-005"], over={"stage": STAGES})
async def test_a_client_that_gives_up_is_told_upstream(scene: Scene) -> None:
    """A client that gives an exchange up, whatever stage it is in, is noticed at its upstream; others go on."""
    await _cancelled(scene, "HTTP-STREAM-005")


@pair_case("http-pair-75", ["RFC9114-4.1.1-1"], down=("h3",), over={"stage": STAGES})
async def test_a_cancelled_request_of_http3_ends_at_once(scene: Scene) -> None:
    """A request that a client of HTTP/3 resets and stops ends on both legs, and no other."""
    await _cancelled(scene, "RFC9114-4.1.1-1")


# An upstream that breaks off


async def _broken_off(scene: Scene, length: bool) -> tuple[Met, Response, Met]:
    """A response that its upstream breaks off half-way, and another exchange of the client that waits."""
    clients = await beside(scene, 2)
    met = await meet(scene, client=clients[0])
    other = await meet(scene, client=clients[1])
    await met.request.begin_response(200, [("content-length", "1000")] if length else [])
    await met.request.send_content(b"x" * 500)
    response = await met.sent.response_head()
    while len(response.body) < 500 and await met.sent.read_some(response):
        pass
    met.request.break_off()
    while await met.sent.read_some(response):
        pass
    return met, response, other


@pair_case("http-pair-29", ["HTTP-STREAM-006"], over={"body": ("length", "unknown")})
async def test_an_upstream_that_breaks_off(scene: Scene) -> None:
    """A response that breaks off half-way is visibly incomplete at the client, and no other exchange suffers."""
    with scene.judging("HTTP-STREAM-006"):
        _, response, other = await _broken_off(scene, scene.variant["body"] == "length")
        broken = not response.complete
        scene.expect("HTTP-STREAM-006", broken, expected="a response that is not complete", actual=response.describe())
        later = await other.answered(200, body=b"fine")
        fine = later.complete and later.body == b"fine"
        scene.expect("HTTP-STREAM-006", fine, expected="the other exchange whole", actual=told(later))


@pair_case("http-pair-38", ["HTTP-ERR-006"], needs=["dynamic"])
async def test_an_agent_that_dies_in_a_response(scene: Scene) -> None:
    """When the agent of a running response dies, the client gets a response that is visibly broken off."""
    met = await meet(scene)
    await met.request.begin_response(200, [("content-length", "1000")])
    await met.request.send_content(b"x" * 500)
    response = await met.sent.response_head()
    await met.sent.read_some(response)
    await scene.agent.close()
    with scene.judging("HTTP-ERR-006"):
        while await met.sent.read_some(response):
            pass
        broken = not response.complete
        scene.expect("HTTP-ERR-006", broken, expected="a response that is not complete", actual=response.describe())


# Early answers


async def _early(scene: Scene, *requirements: str) -> None:
    """An upstream that answers 413 while the client still sends, and takes no more; the answer is delivered."""
    clients = await beside(scene, 2)
    upstream, nonce = behind(scene), scene.nonce().hex()
    sent = await clients[0].begin("POST", f"/{nonce}", nonce=nonce, end=False)
    request = await upstream.request(nonce)
    other = await meet(scene, client=clients[1])
    await sent.send_content(b"x" * 1024)
    await request.read_exactly(1024)

    async def upload() -> None:
        for _ in range(1 << 12):
            if not await sent.offer_content(PIECE):
                return

    closing = [("Connection", "close")] if scene.variant["up"] == "h1" else []
    async with meanwhile(upload(), _drained(request)):
        await request.respond(413, closing, b"too large")
        with scene.judging(*requirements):
            response = await sent.response()
            fine = response.status == 413 and response.body == b"too large"
            for requirement in requirements:
                scene.expect(requirement, fine, expected="413, whole", actual=told(response))
            later = await other.answered(200, body=b"fine")
            for requirement in requirements:
                fine = later.body == b"fine"
                scene.expect(requirement, fine, expected="the other exchange whole", actual=told(later))


async def _drained(request: UpstreamExchange) -> None:
    """Read and drop what still comes: an upstream that closes on unread octets may destroy its own answer (RFC 9112
    section 9.6)."""
    if request.version == "http/1.1":
        while await request.read_some():
            pass


@pair_case("http-pair-30", ["HTTP-STREAM-007"])
async def test_an_early_answer_is_delivered(scene: Scene) -> None:
    """A final answer that comes while the client still sends reaches it; the connection's other exchanges go on."""
    await _early(scene, "HTTP-STREAM-007")


async def _stopped(scene: Scene, requirement: str, code: int) -> None:
    """An upstream sends a whole response, then says that it reads no more, without an error."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    sent = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    request = await upstream.request(nonce)
    await sent.send_content(b"part")
    await request.read_exactly(4)
    content = b"whole " * 4096
    with scene.judging(requirement):
        await request.respond(200, (), content)
        request.break_off(code)
        response = await sent.response()
        fine = response.complete and response.status == 200 and response.body == content
        scene.expect(requirement, fine, expected="the whole response", actual=response.describe())


@pair_case("http-pair-76", ["RFC9113-8.1-4"], up=("h2c",))
async def test_a_response_before_a_reset_without_error(scene: Scene) -> None:
    """A whole response of an h2c upstream counts although a RST_STREAM NO_ERROR follows it during the upload."""
    await _stopped(scene, "RFC9113-8.1-4", 0)


@pair_case("http-pair-77", ["RFC9114-4.1-9"], up=("h3",))
async def test_a_response_before_a_stop_without_error(scene: Scene) -> None:
    """A whole response of an h3 upstream counts although a STOP_SENDING H3_NO_ERROR follows it during the upload."""
    await _stopped(scene, "RFC9114-4.1-9", 0x100)


# What goes out once


async def _dropped(scene: Scene, *requirements: str) -> tuple[Met, Response | ExchangeEnd]:
    """A POST that its upstream read and broke off unanswered: an error at the client, and once at the upstream."""
    met = await meet(scene, "POST", body=b"hello")
    await met.request.body()
    met.request.break_off()
    got = await met.sent.outcome()
    await scene.settle()
    count = len(met.upstream.seen(met.nonce))
    for requirement in requirements:
        scene.expect(requirement, count == 1, expected="the POST once at the upstream", actual=f"{count} times")
    return met, got


@pair_case("http-pair-39", ["RFC9110-9.2.2-1", "HTTP-ERR-008"])
async def test_a_post_is_not_repeated(scene: Scene) -> None:
    """A POST that the upstream read, and broke off without an answer, is not sent again; the client gets an error."""
    _, got = await _dropped(scene, "RFC9110-9.2.2-1", "HTTP-ERR-008")
    judge_kind(scene, "RFC9110-9.2.2-1", got, {**ANY_ERROR, "aborted": "stream aborted"}, expected="an error")
    branches = dict.fromkeys((*ANY_ERROR, "aborted"), "any 5xx or aborted")
    judge_kind(scene, "HTTP-ERR-008", got, branches, expected="an error")


@pair_case("http-pair-78", ["RFC9114-4.1.1-5"], up=("h3",))
async def test_a_post_to_an_h3_upstream_is_not_repeated(scene: Scene) -> None:
    """A POST that an h3 upstream read and reset is not sent again by itself."""
    _, got = await _dropped(scene, "RFC9114-4.1.1-5")
    judge_kind(scene, "RFC9114-4.1.1-5", got, {**ANY_ERROR, "aborted": "stream aborted"}, expected="an error")


async def _unprocessed(scene: Scene, requirement: str, refusal: int, branch: str) -> None:
    _, got = await _dropped(scene, requirement)
    if isinstance(got, Response):
        judge_kind(scene, requirement, got, dict.fromkeys((*ANY_ERROR, "aborted"), "any 5xx"), expected="a 5xx")
        return
    claims = got.kind == "goaway" or got.code == refusal
    scene.expect(requirement, not claims, expected="no claim that nothing was done", actual=str(got), branch=branch)


@pair_case("http-pair-55", ["RFC9113-8.7-1"], down=("h2",))
async def test_what_was_passed_on_is_not_called_unprocessed(scene: Scene) -> None:
    """A request that its upstream has seen never ends in REFUSED_STREAM, nor below the last stream of a GOAWAY."""
    await _unprocessed(scene, "RFC9113-8.7-1", 7, "RST_STREAM with another")


@pair_case("http-pair-79", ["RFC9114-4.1.1-2"], down=("h3",))
async def test_what_was_passed_on_is_not_called_rejected(scene: Scene) -> None:
    """A request that its upstream has seen never ends in H3_REQUEST_REJECTED."""
    await _unprocessed(scene, "RFC9114-4.1.1-2", 0x10B, "stream abort with a code")


# Time limits, and tunnels that end


@pair_case("http-pair-41", ["HTTP-ERR-010"], settings={"timeout.http-response-ms": 1000})
async def test_a_long_response_outlives_the_request_timeout(scene: Scene) -> None:
    """A response that streams goes on beyond the time in which it had to begin."""
    met = await meet(scene)
    await met.request.begin_response(200)
    response = await met.sent.response_head()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with scene.judging("HTTP-ERR-010"):
        while loop.time() - begun < 1.5:
            await met.request.send_content(b"data: on\n\n")
            await met.sent.read_some(response)
        _, rest = await scene.both(met.request.finish(), met.sent.read_some(response))
        fine = response.complete or bool(rest)
        scene.expect("HTTP-ERR-010", fine, expected="the whole stream", actual=response.describe())


async def _idle(scene: Scene, *requirements: str) -> None:
    """An idle connection is closed after the limit; one with a running response is not."""
    busy = await meet(scene)
    await busy.request.begin_response(200)
    response = await busy.sent.response_head()
    idle = await new_client(scene)
    await works(scene, idle)
    with scene.judging(*requirements):
        end = await idle.closed()
        fine = end.clean and end.code in (None, 0, 0x100)
        for requirement in requirements:
            scene.expect(requirement, fine, expected="a clean end without an error", actual=str(end))
        await busy.request.send_content(b"data: on\n\n")
        await busy.sent.read_some(response)
        await scene.both(busy.request.finish(), busy.sent.read_some(response))
        for requirement in requirements:
            whole = response.complete
            scene.expect(requirement, whole, expected="the running response", actual=response.describe())


@pair_case("http-pair-40", ["HTTP-ERR-009"], up=("h1",), settings={"timeout.http-idle-ms": 1500})
async def test_an_idle_connection_is_closed(scene: Scene) -> None:
    """An idle client connection is closed without an error after the limit; one with a running response is not."""
    await _idle(scene, "HTTP-ERR-009")


@pair_case("http-pair-80", ["RFC9113-6.8-3"], down=("h2",), up=("h1",), settings={"timeout.http-idle-ms": 1500})
async def test_goaway_before_an_idle_h2_connection_is_closed(scene: Scene) -> None:
    """A GOAWAY without an error comes before the engine closes an idle connection of HTTP/2."""
    await _announced(scene, "RFC9113-6.8-3")


async def _announced(scene: Scene, requirement: str) -> None:
    client = await new_client(scene)
    await works(scene, client)
    with scene.judging(requirement):
        end = await client.closed()
        said = end.code in (0, 0x100)
        scene.expect(requirement, said, expected="GOAWAY without an error, then the end", actual=str(end))


@pair_case("http-pair-53", ["RFC9113-6.8-4"], down=("h2",), up=("h1",), needs=["dynamic", "private-engine"])
async def test_requests_of_http2_finish_while_the_engine_drains(scene: Scene) -> None:
    """An engine that stops lets a running response of HTTP/2 finish, and announces its end."""
    await _drained_engine(scene, "RFC9113-6.8-4")


@pair_case("http-pair-81", ["RFC9114-5.2-3"], down=("h3",), up=("h1",), needs=["dynamic", "private-engine"])
async def test_requests_of_http3_finish_while_the_engine_drains(scene: Scene) -> None:
    """An engine that stops lets a running response of HTTP/3 finish, and announces its end."""
    await _drained_engine(scene, "RFC9114-5.2-3")


async def _drained_engine(scene: Scene, requirement: str) -> None:
    met = await meet(scene)
    await met.request.begin_response(200)
    await met.request.send_content(b"half ")
    response = await met.sent.response_head()
    await met.sent.read_some(response)
    stopping = asyncio.ensure_future(scene.driver.stop())
    try:
        with scene.judging(requirement):
            ended, _ = await one_of(met.client.closed(), _more(scene, met, response))
            whole = response.complete and response.body == b"half done"
            actual = f"{response.describe()}, connection {ended or 'open'}"
            scene.expect(requirement, whole, expected="the running response whole", actual=actual)
            end = ended or await met.client.closed()
            said = end.code in (0, 0x100)
            scene.expect(requirement, said, expected="GOAWAY without an error", actual=str(end))
    finally:
        await stopping


async def _more(scene: Scene, met: Met, response: Response) -> None:
    """The rest of a response, said once the engine is known to be stopping: it takes no new connection."""
    while True:
        try:
            knocking = await scene.tcp()
        except LinkReset:
            break
        knocking.abort()
    await met.request.send_content(b"done")
    await met.request.finish()
    while await met.sent.read_some(response):
        pass


@pair_case("http-pair-54", ["EDGE-027"], needs=["dynamic"])
async def test_a_closed_tunnel_ends_its_exchanges(scene: Scene) -> None:
    """When a tunnel is closed on purpose, a running response of it ends, visibly incomplete, and new requests fail."""
    assert isinstance(scene.session, AgentSession)
    met = await meet(scene)
    await met.request.begin_response(200)
    await met.request.send_content(b"half")
    response = await met.sent.response_head()
    await met.sent.read_some(response)
    with scene.judging("EDGE-027"):
        await scene.session.withdraw("main")
        while await met.sent.read_some(response):
            pass
        broken = not response.complete
        scene.expect("EDGE-027", broken, expected="a response that is broken off", actual=response.describe())
        got = await _refused(scene)
        refused = got is None or kind_of(got) not in ("2xx", "3xx")
        scene.expect("EDGE-027", refused, expected="no new exchange", actual=told(got) if got else "no connection")


async def _refused(scene: Scene) -> Response | ExchangeEnd | None:
    """What a new client gets for a request; `None` where it does not even get a connection."""
    try:
        client = await new_client(scene)
        return await (await client.begin()).outcome()
    except (EngineDeparted, LinkReset):
        return None
