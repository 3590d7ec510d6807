"""The exchange: interim responses, early responses, reuse of connections, pipelining, close, whose response it is."""

from __future__ import annotations

import asyncio

from conformance.http._steps import Answered, asked, first_of, meanwhile, probing, works
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http1 import Http1Client, Response, UpstreamRequest, exchange
from harness.scene import Scene
from harness.wire import http1_write as write


@case("http-sanity", checks=["HTTP-VER-005", "HTTP-VER-002"], publish=http(), sanity=True)
async def test_an_http_tunnel_carries_an_exchange(scene: Scene) -> None:
    """An HTTP tunnel without a version relays a request to its upstream as HTTP/1.1, and the answer back."""
    client, upstream = await scene.http_client(), scene.http_upstream()
    request, _ = await exchange(client, upstream, scene.nonce().hex())
    seen = request.head.version
    scene.expect("HTTP-VER-005", seen == "HTTP/1.1", expected="HTTP/1.1 at the upstream", actual=seen)
    scene.expect("HTTP-VER-002", seen == "HTTP/1.1", expected="HTTP/1.1 in plain", actual=seen)


# Expect and interim responses: RFC 9110 sections 10.1.1 and 15.2


async def _expecting(scene: Scene) -> tuple[Http1Client, UpstreamRequest | None, str, bool]:
    """A POST with Expect whose body is held back: the client, the request at the upstream if it came, the nonce, and
    whether the engine has sent a 100 of its own."""
    client, nonce = await scene.http_client(), scene.nonce().hex()
    await client.request_head("POST", "/", [("Expect", "100-continue"), ("Content-Length", "5")], nonce=nonce)
    own, request = await first_of(client.informational(), scene.http_upstream().request(nonce))
    return client, request, nonce, own is not None


@case("http-exchange-01", checks=["RFC9110-10.1.1-1", "RFC9110-10.1.1-2", "HTTP-HDR-013"], publish=http())
async def test_expect_100_continue(scene: Scene) -> None:
    """A client that waits for 100 gets it, from the upstream or from the engine, and its body then arrives whole.

    The upstream sends its 100 where it was asked for one.
    """
    with scene.judging("RFC9110-10.1.1-1", "RFC9110-10.1.1-2"):
        client, request, nonce, own = await _expecting(scene)
        scene.allow("RFC9110-10.1.1-1", "100 from the edge" if own else "headers forwarded")
        if request is not None and "100-continue" in request.head.tokens("expect"):
            await request.informational(100)
        if not own:
            await client.informational()
        for requirement in ("RFC9110-10.1.1-2", "HTTP-HDR-013"):
            scene.allow(requirement, "100 from the edge" if own else "100 relayed")
        await client.send_raw(b"hello")
        request = request or await scene.http_upstream().request(nonce)
        body = await request.body()
        await request.respond(200, body=b"done")
        response = await client.response()
    actual = f"{body!r} at the upstream, {response.describe()} at the client"
    whole = body == b"hello" and response.body == b"done"
    scene.expect("RFC9110-10.1.1-2", whole, expected="the body, and the upstream's final answer", actual=actual)


@case("http-exchange-02", checks=["HTTP-HDR-013", "RFC9110-10.1.1-6"], publish=http(), over={"status": ("417", "401")})
async def test_a_final_status_instead_of_100(scene: Scene) -> None:
    """An upstream that answers an expectation with a final status has it delivered, and the body is not awaited.

    The answer should say whether the connection ends, since the body was never read.
    """
    status = int(scene.variant["status"])
    client, request, nonce, own = await _expecting(scene)
    if request is None:
        await client.send_raw(b"hello")
        request = await scene.http_upstream().request(nonce)
    await request.respond(status, body=b"no")
    response = await client.response()
    got = response.status == status and response.body == b"no"
    scene.expect("HTTP-HDR-013", got, expected=f"{status}", actual=response.describe())
    asked_first = own or any(head.status == 100 for head in response.informational)
    scene.allow("HTTP-HDR-013", "second run: an edge 100" if asked_first else "second run: U's status")
    if asked_first:
        scene.record("RFC9110-10.1.1-6", "the body was asked for")
        return
    await scene.settle()
    if response.closes:
        scene.expect("RFC9110-10.1.1-6", True, expected="Connection: close", actual="close")
        return
    with scene.judging("RFC9110-10.1.1-6"):
        await client.send_raw(b"hello")
        _, later = await works(scene, client)
        kept = later.status == 200
        scene.expect("RFC9110-10.1.1-6", kept, expected="close, or the body read as a body", actual=later.describe())


@case("http-exchange-03", checks=["RFC9110-15.2-2", "HTTP-HDR-014", "RFC9110-15.2-3"], publish=http())
async def test_interim_responses(scene: Scene) -> None:
    """Any number of interim responses come before the final one; they are relayed or dropped, never taken for it."""
    answered = await asked(scene)
    for status, fields in ((100, []), (102, []), (103, [("Link", "</style.css>; rel=preload")])):
        await answered.request.informational(status, fields)
    await answered.request.respond(200, body=b"final")
    await answered.outcome()
    final = answered.response.status == 200 and answered.response.body == b"final"
    seen = [head.status for head in answered.response.informational]
    answered.expect("HTTP-HDR-014", final, expected="200 as the final response")
    with scene.judging("RFC9110-15.2-2"):
        _, later = await works(scene, answered.client)
    branch = "interim responses relayed" if seen else "interim responses dropped"
    scene.expect(
        "RFC9110-15.2-2",
        final and later.status == 200,
        expected="200, and the next exchange in step",
        actual=f"{answered.describe()}, then {later.describe()}",
        branch=branch,
    )
    hints = [head.get("link") for head in answered.response.informational if head.status == 103]
    if hints:
        fine = hints == ["</style.css>; rel=preload"]
        scene.expect("RFC9110-15.2-3", fine, expected="103 with Link", actual=f"{hints}", branch="103 relayed")
    else:
        scene.allow("RFC9110-15.2-3", "103 dropped")


@case("http-exchange-04", checks=["RFC9110-15.2-1", "RFC9112-6.1-7"], publish=http())
async def test_an_http_1_0_client_gets_no_1xx_and_no_chunks(scene: Scene) -> None:
    """An HTTP/1.0 client sees neither interim responses nor Transfer-Encoding, and the body whole."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    await client.request("GET", "/", nonce=nonce, version="HTTP/1.0")
    request = await upstream.request(nonce)
    await request.informational(103)
    await request.respond(200, chunks=[b"hel", b"lo"])
    response = await client.response()
    seen = [head.status for head in response.informational]
    scene.expect("RFC9110-15.2-1", not seen, expected="no interim response", actual=f"{seen}")
    plain = response.body == b"hello" and response.complete and response.get("transfer-encoding") is None
    actual = f"{response.describe()}: {response.headers} {response.body!r}"
    scene.expect("RFC9112-6.1-7", plain, expected="`hello` by length or close", actual=actual)


@case("http-exchange-05", checks=["RFC9110-10.1.1-4"], publish=http())
async def test_expect_of_an_http_1_0_client_is_ignored(scene: Scene) -> None:
    """Expect in an HTTP/1.0 request is ignored: no 1xx comes, and the body is relayed."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    fields = [("Expect", "100-continue")]
    await client.request("POST", "/", fields, b"hello", nonce=nonce, version="HTTP/1.0")
    request = await upstream.request(nonce)
    body = await request.body()
    await request.respond(200)
    response = await client.response()
    fine = body == b"hello" and not response.informational
    actual = f"{[head.status for head in response.informational]}, {body!r} at the upstream"
    scene.expect("RFC9110-10.1.1-4", fine, expected="no 1xx, and the body", actual=actual)


@case("http-exchange-22", checks=["RFC9110-10.1.1-3"], publish=http())
async def test_a_final_status_behind_a_100(scene: Scene) -> None:
    """A client that got its 100 and sent the content gets a final status, also where the upstream then goes."""
    client, request, nonce, own = await _expecting(scene)
    if request is not None and "100-continue" in request.head.tokens("expect"):
        await request.informational(100)
    if not own:
        await client.informational()
    await client.send_raw(b"hello")
    request = request or await scene.http_upstream().request(nonce)
    await request.body()
    await request.close()
    with scene.judging("RFC9110-10.1.1-3"):
        got = await client.outcome()
    failed = isinstance(got, Response) and got.status // 100 == 5
    branch = "any 5xx" if failed else "stream reset or connection closed"
    told = got.describe() if isinstance(got, Response) else str(got)
    ended = failed or not isinstance(got, Response) or not got.complete
    scene.expect("RFC9110-10.1.1-3", ended, expected="a 5xx, or the end", actual=told, branch=branch)


# Early responses: RFC 9110 section 7.5, RFC 9112 sections 9.3 and 9.5


@case("http-exchange-06", checks=["RFC9110-7.5-1"], publish=http())
async def test_the_body_goes_on_after_an_early_response(scene: Scene) -> None:
    """An upstream that answers early and keeps reading should get the whole body, and the client the answer."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    body = b"x" * (1 << 18)
    await client.request_head("POST", "/", [("Content-Length", str(len(body)))], nonce=nonce)
    await client.send_raw(body[:1024])
    request = await upstream.request(nonce)
    await request.read_exactly(1024)
    await request.respond(200, body=b"early")
    response = await client.response()
    await client.offer(body[1024:])
    got = await request.body_so_far()
    scene.expect(
        "RFC9110-7.5-1",
        response.body == b"early" and request.complete,
        expected=f"200 at the client, and {len(body)} octets at the upstream",
        actual=f"{response.describe()}, {len(got)} octets",
    )


@case("http-exchange-07", checks=["HTTP-STREAM-007", "RFC9112-9.5-2"], publish=http())
async def test_an_early_refusal_that_closes(scene: Scene) -> None:
    """An upstream that answers 413 with close during a long upload, and drains, has its 413 delivered."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    wire = write.request("POST", f"/{nonce}", body=b"x" * (8 << 20), host=client.host)

    async def refuse() -> None:
        request = await upstream.request(nonce)
        await request.read_exactly(1024)
        await request.respond(413, [("Connection", "close")], b"too much")
        await request.body_so_far()

    async with meanwhile(client.offer(wire, expects="POST"), refuse()):
        with scene.judging("RFC9112-9.5-2", "HTTP-STREAM-007"):
            response = await client.response()
            told = response.describe()
            scene.expect("RFC9112-9.5-2", response.status == 413, expected="413", actual=told)
            scene.expect("HTTP-STREAM-007", response.status == 413, expected="413", actual=told, branch="413 at C")


@case("http-exchange-08", checks=["RFC9112-9.3-2"], publish=http())
async def test_the_rest_of_a_body_is_no_request(scene: Scene) -> None:
    """What the client sends of a body after the final response is drained, or the connection ends: no new request."""
    async with probing(scene) as probe:
        hidden = probe.smuggled()
        client, nonce = probe.client, scene.nonce().hex()
        await client.request_head("POST", "/", [("Content-Length", str(len(hidden)))], nonce=nonce)
        request = await probe.upstream.request(nonce)
        await request.respond(200, body=b"early")
        response = await client.response()
        await client.offer(hidden)
        await scene.settle()
        told = {"expected": "no request made of the body", "actual": probe.describe()}
        scene.expect("RFC9112-9.3-2", not probe.upstream.unexpected, **told)
        if response.closes or not await client.offer(probe.wire(), expects="GET"):
            scene.allow("RFC9112-9.3-2", "connection closed")
            return
        got = await probe.outcome()
        scene.expect(
            "RFC9112-9.3-2", got in ("relayed", "closed"), expected="the next exchange, or the end", actual=got
        )
        scene.allow("RFC9112-9.3-2", "body drained" if got == "relayed" else "connection closed")


# Reuse of connections: RFC 9112 section 9.3


@case("http-exchange-09", checks=["RFC9112-9.3-1"], publish=http())
async def test_ten_requests_on_one_connection(scene: Scene) -> None:
    """A client connection serves ten requests, one after the other."""
    client = await scene.http_client()
    with scene.judging("RFC9112-9.3-1"):
        answers = [await works(scene, client) for _ in range(10)]
        fine = all(response.status == 200 and not response.closes for _, response in answers)
        actual = f"{[response.status for _, response in answers]}"
        scene.expect("RFC9112-9.3-1", fine, expected="ten answers without close", actual=actual)


@case("http-exchange-10", checks=["RFC9112-9.3.2-1"], publish=http())
async def test_pipelined_requests_are_answered_in_order(scene: Scene) -> None:
    """Five pipelined requests get their five responses in order, although the upstream holds back the first."""
    client, upstream = await scene.http_client(), scene.http_upstream()
    nonces = [scene.nonce().hex() for _ in range(5)]

    async def serve(nonce: str) -> None:
        request = await upstream.request(nonce)
        if nonce == nonces[0]:
            await scene.settle()
        await request.respond(200, body=nonce.encode())

    wire = b"".join(write.request("GET", f"/{nonce}", host=client.host) for nonce in nonces)
    async with meanwhile(*map(serve, nonces)):
        await client.send_raw(wire, expects=["GET"] * 5)
        bodies: list[str] = []
        while len(bodies) < 5 and isinstance(got := await client.outcome(), Response):
            bodies.append(got.body.decode())
    told = {"expected": "the five answers in order", "actual": f"{len(bodies)} answers, {bodies}"}
    scene.expect("RFC9112-9.3.2-1", bodies == nonces[: len(bodies)] and bool(bodies), **told)
    scene.allow("RFC9112-9.3.2-1", "responses 1..5" if len(bodies) == 5 else "an in-order first part")


@case("http-exchange-23", checks=["HTTP-VER-013"], publish=http())
async def test_pipelined_requests_have_exchanges_of_their_own(scene: Scene) -> None:
    """Three pipelined requests are answered in order, and each is one exchange with the upstream, of its own."""
    client, upstream = await scene.http_client(), scene.http_upstream()
    nonces = [scene.nonce().hex() for _ in range(3)]

    async def serve(nonce: str) -> None:
        await (await upstream.request(nonce)).respond(200, body=nonce.encode())

    wire = b"".join(write.request("GET", f"/{nonce}", host=client.host) for nonce in nonces)
    bodies: list[str] = []
    async with meanwhile(*map(serve, nonces)):
        with scene.judging("HTTP-VER-013"):
            await client.send_raw(wire, expects=["GET"] * 3)
            while len(bodies) < 3:
                bodies.append((await client.response()).body.decode())
        await scene.settle()
    counts = [len(upstream.seen(nonce)) for nonce in nonces]
    fine = bodies == nonces and counts == [1, 1, 1] and not upstream.unexpected
    actual = f"{bodies} at the client, {counts} requests at the upstream"
    scene.expect("HTTP-VER-013", fine, expected="three answers in order, one request each", actual=actual)


@case("http-exchange-24", checks=["RFC9112-9.3-4"], publish=http())
async def test_keep_alive_of_an_http_1_0_client(scene: Scene) -> None:
    """For an HTTP/1.0 client that asks to keep its connection it ends, or the response has a length."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    fields = [("Connection", "keep-alive")]
    await client.request("GET", "/", fields, nonce=nonce, version="HTTP/1.0")
    await (await upstream.request(nonce)).respond(200, chunks=[b"hel", b"lo"])
    with scene.judging("RFC9112-9.3-4"):
        response = await client.response()
        framed = response.get("transfer-encoding") is None and response.body == b"hello"
        told = {"expected": "`hello` without chunks", "actual": f"{response.describe()} {response.headers}"}
        scene.expect("RFC9112-9.3-4", framed, **told)
        if response.get("content-length") is None:
            end = response.end or await client.expect_end()
            scene.expect("RFC9112-9.3-4", True, expected="the end", actual=str(end), branch="close after the response")
        else:
            scene.allow("RFC9112-9.3-4", "kept open with Content-Length")


@case("http-exchange-11", checks=["RFC9112-9.6-1", "RFC9112-9.6-2", "RFC9112-9.6-3"], publish=http())
async def test_close_ends_the_clients_connection(scene: Scene) -> None:
    """After `Connection: close` comes one response, with close, and the end; a pipelined request is not processed."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("Connection", "close")]) + probe.smuggled())
        await probe.outcome()
        relayed = probe.kind == "relayed"
        with scene.judging("RFC9112-9.6-1"):
            more = await probe.rest()
            probe.expect("RFC9112-9.6-1", relayed and not more, expected="one response, then the end")
        alone = not probe.upstream.unexpected and len(probe.requests) == 1
        probe.expect("RFC9112-9.6-2", alone, expected="the first request alone at the upstream")
        said = isinstance(probe.got, Response) and "close" in probe.got.head.tokens("connection")
        probe.expect("RFC9112-9.6-3", said, expected="Connection: close in the response")


@case("http-exchange-12", checks=["RFC9112-9.6-4"], publish=http())
async def test_close_ends_the_upstreams_connection(scene: Scene) -> None:
    """After an upstream's response with close, the next request comes on a new connection, though this one stays."""
    answered = await asked(scene)
    await answered.request.respond_raw(write.response(200, [("Connection", "close")], b"hello"))
    await answered.outcome()
    request, response = await works(
        scene, answered.client if not answered.response.closes else await scene.http_client()
    )
    new = request.connection is not answered.request.connection and response.status == 200
    actual = f"connection {request.connection.id} after {answered.request.connection.id}, {response.describe()}"
    scene.expect("RFC9112-9.6-4", new, expected="another connection", actual=actual)


@case("http-exchange-13", checks=["RFC9112-9.2-1"], publish=http())
async def test_nobody_gets_anothers_response(scene: Scene) -> None:
    """Six clients at once, four requests each, answered out of order with interim responses and a HEAD among them.

    Each client gets its own nonce back, on every request; one client resets its connection in between.
    """
    upstream = scene.http_upstream()
    lost = await scene.http_client()
    await lost.request("GET", "/", nonce=(gone := scene.nonce().hex()))
    (await upstream.request(gone)).connection.pause()
    lost.abort()

    async def visit(number: int) -> list[str]:
        client, wrong = await scene.http_client(), []
        for step in range(4):
            nonce = scene.nonce().hex()
            method = "HEAD" if (number + step) % 4 == 3 else "GET"
            await client.request(method, f"/{nonce}", nonce=nonce)
            request = await upstream.request(nonce)
            if step == 1:
                await request.informational(103)
            await request.respond(200, [("X-Nonce", nonce)], nonce.encode())
            response = await client.response()
            body = "" if method == "HEAD" else nonce
            if response.get("x-nonce") != nonce or response.body.decode() != body:
                wrong.append(f"client {number}, {method} {nonce}: {response.get('x-nonce')} {response.body[:40]!r}")
        return wrong

    wrong = [line for lines in await asyncio.gather(*map(visit, range(6))) for line in lines]
    told = "; ".join(wrong) or "its own for every request"
    scene.expect("RFC9112-9.2-1", not wrong, expected="its own response for every request", actual=told)


@case("http-exchange-14", checks=["RFC9112-9.2-2"], publish=http())
async def test_octets_on_an_idle_upstream_connection(scene: Scene) -> None:
    """A response that nobody asked for, on an idle upstream connection, is never given to the next client."""
    client = await scene.http_client()
    request, _ = await works(scene, client)
    with scene.judging("RFC9112-9.2-2"):
        await request.offer(write.response(200, body=b"poison"), what="unsolicited 200")
        await scene.settle()
        closed = request.connection.ended is not None
        answers = [
            (await works(scene, peer))[1] for peer in (client, await scene.http_client(), await scene.http_client())
        ]
        clean = all(response.status == 200 and response.body != b"poison" for response in answers)
        actual = "; ".join(f"{response.describe()} {response.body[:20]!r}" for response in answers)
        branch = "connection closed" if closed else "data discarded"
        scene.expect("RFC9112-9.2-2", clean, expected="every client its own answer", actual=actual, branch=branch)


@case("http-exchange-15", checks=["RFC9112-6.3-15"], publish=http(), over={"second": ("response", "octets")})
async def test_octets_behind_a_response(scene: Scene) -> None:
    """What an upstream sends behind a complete response is no other response: neither for this client nor another."""
    answered = await asked(scene)
    extra = write.response(200, body=b"poison") if scene.variant["second"] == "response" else b"poison"
    await answered.request.respond_raw(write.response(200, body=b"hello") + extra)
    with scene.judging("RFC9112-6.3-15"):
        await answered.outcome()
        await scene.settle()
        closed = answered.request.connection.ended is not None
        answers = [(await works(scene, await scene.http_client()))[1]]
        if not answered.response.closes:
            answers.append((await works(scene, answered.client))[1])
        clean = answered.response.body == b"hello" and all(response.status == 200 for response in answers)
        clean = clean and all(b"poison" not in response.body for response in answers)
        actual = "; ".join([answered.describe(), *(response.describe() for response in answers)])
        branch = "upstream connection closed" if closed else "extra bytes"
        scene.expect("RFC9112-6.3-15", clean, expected="`hello`, and own answers", actual=actual, branch=branch)


@case("http-exchange-16", checks=["RFC9112-9.3-3"], publish=http())
async def test_a_download_that_the_client_leaves(scene: Scene) -> None:
    """An upstream connection with half a response is not used for the next request, whose answer is its own."""
    answered = await asked(scene)
    await answered.request.respond_raw(write.response(200, body=b"x" * 100, length=100_000))
    await answered.client.read_some(await answered.client.response_head())
    answered.client.abort()
    with scene.judging("RFC9112-9.3-3"):
        await scene.settle()
        request, response = await works(scene, await scene.http_client())
        apart = request.connection is not answered.request.connection and response.status == 200
        actual = f"connection {request.connection.id} after {answered.request.connection.id}, {response.describe()}"
        scene.expect("RFC9112-9.3-3", apart, expected="another connection, and its own answer", actual=actual)


# Responses without content: RFC 9112 section 6.3

BODILESS = {
    "head-length": ("HEAD", 200, ("Content-Length", "5")),
    "head-chunked": ("HEAD", 200, ("Transfer-Encoding", "chunked")),
    "204-length": ("GET", 204, ("Content-Length", "5")),
    "204-chunked": ("GET", 204, ("Transfer-Encoding", "chunked")),
    "304-length": ("GET", 304, ("Content-Length", "5")),
    "304-chunked": ("GET", 304, ("Transfer-Encoding", "chunked")),
}


@case("http-exchange-17", checks=["RFC9112-6.3-1", "HTTP-HDR-015"], publish=http(), over={"form": tuple(BODILESS)})
async def test_responses_that_end_at_the_empty_line(scene: Scene) -> None:
    """Responses to HEAD, 204 and 304 have no body, whatever their framing fields say: nobody waits for one.

    A Content-Length that the upstream gave for HEAD or 304 is kept or left out, never changed.
    """
    method, status, framing = BODILESS[scene.variant["form"]]
    answered = await asked(scene, method)
    await answered.request.respond_raw(write.response_head(status, [framing]))
    with scene.judging("RFC9112-6.3-1"):
        await answered.outcome()
        _, later = await works(scene, answered.client if not answered.response.closes else await scene.http_client())
        refused = status == 204 and answered.kind == "502"
        clean = (answered.response.status == status and not answered.response.body) or refused
        actual = f"{answered.describe()}, then {later.describe()}"
        fine = clean and later.status == 200
        scene.expect("RFC9112-6.3-1", fine, expected=f"{status} without content, then the next answer", actual=actual)
    length = answered.response.get("content-length")
    if refused or length is None:
        scene.allow("HTTP-HDR-015", "no Content-Length")
    else:
        kept = framing == ("Content-Length", length) and status != 204
        scene.expect("HTTP-HDR-015", kept, expected="the upstream's value or none", actual=length, branch="U's value")


@case("http-exchange-18", checks=["RFC9110-9.3.2-1", "HTTP-HDR-015"], publish=http())
async def test_a_body_behind_a_response_to_head(scene: Scene) -> None:
    """Octets that an upstream wrongly sends behind a response to HEAD reach nobody."""
    answered = await asked(scene, "HEAD")
    await answered.request.respond_raw(write.response(200, body=b"hello"))
    with scene.judging("RFC9110-9.3.2-1"):
        await answered.outcome()
        await scene.settle()
        _, later = await works(scene, answered.client if not answered.response.closes else await scene.http_client())
    clean = answered.response.status == 200 and not answered.response.body and later.status == 200
    actual = f"{answered.describe()}, then {later.describe()} {later.body[:20]!r}"
    scene.expect("RFC9110-9.3.2-1", clean, expected="no content, and the next answer its own", actual=actual)
    length = answered.response.get("content-length")
    branch = "no Content-Length" if length is None else "U's value"
    scene.expect("HTTP-HDR-015", length in (None, "5"), expected="5 or none", actual=f"{length}", branch=branch)


@case(
    "http-exchange-19",
    checks=["RFC9112-6.1-4", "RFC9110-8.6-2"],
    publish=http(),
    over={"status": ("204", "103"), "field": ("transfer-encoding", "content-length")},
)
async def test_no_framing_fields_on_204_and_1xx(scene: Scene) -> None:
    """Neither Transfer-Encoding nor Content-Length reaches the client on a 204 or a 1xx, and no content behind it."""
    status = int(scene.variant["status"])
    coded = scene.variant["field"] == "transfer-encoding"
    field = ("Transfer-Encoding", "chunked") if coded else ("Content-Length", "7")
    answered = await asked(scene)
    await answered.request.send(write.response_head(status, [field]), what=f"{status} with {field[0]}")
    if status == 103:
        await answered.request.respond(200, body=b"final")
    await answered.outcome()
    if answered.kind in ("502", "5xx"):
        scene.allow("RFC9112-6.1-4", "502")
        scene.allow("RFC9110-8.6-2", "204/103 relayed" if answered.kind == "5xx" else "502")
        return
    heads = [answered.response.head, *answered.response.informational]
    judged = [head for head in heads if head.status in (204, 103)]
    bare = status == 103 or not answered.response.body
    for requirement, name, branch in (
        ("RFC9112-6.1-4", "transfer-encoding", "relayed without"),
        ("RFC9110-8.6-2", "content-length", "204/103 relayed"),
    ):
        found = [f"{head.status} with {name}" for head in judged if head.get(name)]
        told = {"expected": f"a {status} without {name} and content", "actual": f"{found or answered.describe()}"}
        scene.expect(requirement, not found and bare, **told, branch=branch)


@case("http-exchange-20", checks=["RFC9110-8.6-6"], publish=http())
async def test_the_length_of_a_response_to_head(scene: Scene) -> None:
    """Content-Length on a response to HEAD is the upstream's or absent: never 0, never computed."""
    await _length_kept(scene, "RFC9110-8.6-6", "HEAD", 200)


@case("http-exchange-21", checks=["RFC9110-8.6-7", "RFC9110-15.4.5-1"], publish=http())
async def test_the_length_of_a_304(scene: Scene) -> None:
    """Content-Length on a 304 is the upstream's or absent, and the 304 should reach the client that asked for it."""
    answered = await _length_kept(scene, "RFC9110-8.6-7", "GET", 304)
    same = answered.response.status == 304 and answered.response.get("etag") == '"v1"'
    answered.expect("RFC9110-15.4.5-1", same, expected="304 with its ETag")


async def _length_kept(scene: Scene, requirement: str, method: str, status: int) -> Answered:
    answered = await asked(scene, method, [("If-None-Match", '"v1"')] if status == 304 else [])
    fields = [("ETag", '"v1"'), ("Content-Length", "42")]
    await answered.request.respond_raw(write.response_head(status, fields))
    await answered.outcome()
    length = answered.response.get("content-length")
    fine = answered.response.status == status and length in (None, "42") and not answered.response.body
    actual = f"{answered.describe()}, Content-Length {length}"
    scene.expect(requirement, fine, expected=f"{status} with 42 or none", actual=actual)
    return answered
