"""Messages through every pair of versions: content of every kind, trailers, interim responses, what has no content."""

from __future__ import annotations

import gzip

from conformance.http._pair_steps import SPOKEN, Met, behind, beside, meet, new_client, pair_case, told, works
from harness.peer.http import Response
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene
from harness.tasks import one_of

LARGE = 1 << 20


@pair_case("http-pair-01", ["HTTP-VER-006", "HTTP-VER-001", "RFC9110-2.2-1"])
async def test_every_pair_carries_an_exchange(scene: Scene) -> None:
    """Whatever version the client speaks, the upstream hears that of its tunnel, and both sides read valid messages."""
    met = await meet(scene)
    response = await met.answered(200, [("x-from", "upstream")], met.nonce.encode())
    spoken = SPOKEN[scene.variant["up"]]
    heard = met.request.version
    scene.expect("HTTP-VER-001", heard == spoken, expected=f"{spoken} at the upstream", actual=heard)
    same = response.status == 200 and response.complete and response.body == met.nonce.encode()
    same = same and response.get("x-from") == "upstream" and met.request.method == "GET"
    scene.expect("HTTP-VER-006", same, expected="the upstream's answer", actual=told(response))
    broken = [str(one) for one in (*met.request.violations, *response.violations, *met.client.violations)]
    scene.expect("RFC9110-2.2-1", not broken, expected="valid messages on both legs", actual="; ".join(broken))


@pair_case("http-pair-56", ["HTTP-VER-003"], up=("h2c",))
async def test_h2c_is_spoken_with_prior_knowledge(scene: Scene) -> None:
    """Toward an h2c upstream the engine speaks HTTP/2 from the first octet on, in plain, and asks for no upgrade."""
    await _spoken(scene, "HTTP-VER-003", "h2")


@pair_case("http-pair-57", ["HTTP-VER-004"], up=("h3",))
async def test_h3_is_spoken_upstream(scene: Scene) -> None:
    """Toward an h3 upstream the engine speaks HTTP/3 on a QUIC connection that negotiated h3."""
    await _spoken(scene, "HTTP-VER-004", "h3")


async def _spoken(scene: Scene, requirement: str, version: str) -> None:
    with scene.judging(requirement, ends=True):
        met = await meet(scene)
    response = await met.answered(200, body=met.nonce.encode())
    upgrade = met.request.get("upgrade")
    fine = met.request.version == version and upgrade is None and response.status == 200
    actual = f"{met.request.version}, Upgrade {upgrade}, {response.describe()}"
    scene.expect(requirement, fine, expected=f"{version}, and 200", actual=actual)


@pair_case("http-pair-58", ["HTTP-VER-011"], down=("h3",), up=("h1",))
async def test_an_http1_upstream_behind_an_h3_client(scene: Scene) -> None:
    """A tunnel whose upstream speaks HTTP/1.1 is reached over HTTP/3."""
    met = await meet(scene)
    response = await met.answered(200, body=met.nonce.encode())
    fine = met.request.version == "http/1.1" and response.status == 200 and response.body == met.nonce.encode()
    actual = f"{met.request.version} at the upstream, {told(response)}"
    scene.expect("HTTP-VER-011", fine, expected="HTTP/1.1 at the upstream, and 200", actual=actual)


@pair_case("http-pair-02", ["HTTP-VER-006", "HTTP-HDR-001"], over={"body": ("empty", "length", "unknown")})
async def test_content_of_every_kind(scene: Scene) -> None:
    """Content of 1 MiB, of known and of unknown length, and none at all, arrive unchanged both ways."""
    kind = scene.variant["body"]
    content = b"" if kind == "empty" else scene.nonce() * (LARGE // 16)
    known = kind != "unknown"
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()

    async def take() -> tuple[UpstreamExchange, bytes]:
        request = await upstream.request(nonce)
        return request, await request.body()

    begun = client.begin("POST", f"/{nonce}", (), content, nonce=nonce, length=known)
    sent, (request, got) = await scene.both(begun, take())
    actual = f"{len(got)} octets"
    scene.expect("HTTP-VER-006", got == content, expected=f"{len(content)} octets unchanged", actual=actual)
    _, response = await scene.both(request.respond(200, (), content[::-1], length=known), sent.response())
    same = response.complete and response.body == content[::-1]
    scene.expect("HTTP-VER-006", same, expected=f"{len(content)} octets back", actual=response.describe())
    lengths = [request.get("content-length"), response.get("content-length")]
    wanted = [str(len(content))] * 2
    if kind == "length":
        scene.expect("HTTP-HDR-001", lengths == wanted, expected=f"Content-Length {wanted}", actual=f"{lengths}")
    else:
        fine = all(length in (None, str(len(content))) for length in lengths)
        scene.expect("HTTP-HDR-001", fine, expected=f"no Content-Length, or {len(content)}", actual=f"{lengths}")


@pair_case("http-pair-08", ["HTTP-HDR-011", "RFC9110-6.5.1-1"], features=["http.trailers"])
async def test_request_trailers(scene: Scene) -> None:
    """Trailers of a request arrive as trailers wherever both sides are HTTP/2 or HTTP/3, and are never merged into the
    header section; with HTTP/1.1 on a leg they may be dropped.

    The trailer section holds a checksum and a field that says who the client is.
    """
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    fields = [("x-behind", "later")]
    trailers = [("x-checksum", "5d41"), ("x-behind", "trailing")]
    sent, request = await scene.both(
        client.begin("POST", f"/{nonce}", fields, b"hello", nonce=nonce, trailers=trailers),
        upstream.request(nonce),
    )
    got = await request.body()
    await request.respond(200)
    await sent.response()
    whole = got == b"hello"
    scene.expect("HTTP-HDR-011", whole, expected="`hello`", actual=f"{got!r}")
    _judge_trailers(scene, request.headers, request.trailers, trailers)


@pair_case("http-pair-09", ["HTTP-HDR-011", "RFC9110-6.5.1-1"], features=["http.trailers"])
async def test_response_trailers(scene: Scene) -> None:
    """Trailers of a response arrive as trailers wherever both sides are HTTP/2 or HTTP/3, and are never merged into the
    header section; with HTTP/1.1 on a leg they may be dropped.

    The client says `TE: trailers`.
    """
    te = [("te", "trailers")] + ([("connection", "te")] if scene.variant["down"] == "h1" else [])
    met = await meet(scene, fields=te)
    trailers = [("grpc-status", "0"), ("x-behind", "trailing")]
    response = await met.answered(200, [("x-behind", "later")], b"hello", trailers=trailers)
    whole = response.complete and response.body == b"hello"
    scene.expect("HTTP-HDR-011", whole, expected="`hello`", actual=told(response))
    _judge_trailers(scene, response.headers, response.trailers, trailers)


def _judge_trailers(
    scene: Scene,
    headers: list[tuple[str, str]],
    arrived: list[tuple[str, str]],
    said: list[tuple[str, str]],
) -> None:
    header = [value for _, value in headers]
    merged = [value for _, value in said if value in header and value != "0"]
    merged += [name for name, _ in headers if name.lower() == "grpc-status"]
    got = [(name.lower(), value) for name, value in arrived]
    actual = f"{headers} and the trailers {arrived}"
    apart = scene.expect("RFC9110-6.5.1-1", not merged, expected="the trailers apart", actual=actual)
    if apart:
        scene.allow("RFC9110-6.5.1-1", "trailers relayed as trailers" if got else "trailers dropped")
    through = "h1" not in (scene.variant["down"], scene.variant["up"])
    if not got and not through:
        scene.allow("HTTP-HDR-011", "an h1 leg: trailers arrive or are dropped")
        return
    scene.expect("HTTP-HDR-011", got == said, expected=f"the trailers {said}", actual=actual)


@pair_case("http-pair-10", ["HTTP-HDR-013", "RFC9110-10.1.1-1"])
async def test_expect_100_continue(scene: Scene) -> None:
    """A client that waits for 100 gets it, from the upstream or from the engine, and its content then arrives whole."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    with scene.judging("RFC9110-10.1.1-1", "HTTP-HDR-013", ends=True):
        fields = [("expect", "100-continue"), ("content-length", "5")]
        sent = await client.begin("POST", f"/{nonce}", fields, nonce=nonce, end=False)
        own, request = await one_of(sent.informational(), upstream.request(nonce))
        scene.allow("RFC9110-10.1.1-1", "100 from the edge" if own else "headers forwarded")
        if request is not None and request.get("expect"):
            await request.informational(100)
        if not own:
            await sent.informational()
        scene.allow("HTTP-HDR-013", "100 from the edge" if own else "100 relayed")
        await sent.send_content(b"hello")
        await sent.finish()
        request = request or await upstream.request(nonce)
        got = await request.body()
        await request.respond(200, (), b"done")
        response = await sent.response()
    whole = got == b"hello" and response.body == b"done"
    actual = f"{got!r} at the upstream, {told(response)}"
    scene.expect("HTTP-HDR-013", whole, expected="`hello`, and the upstream's final answer", actual=actual)


@pair_case("http-pair-11", ["HTTP-HDR-013"])
async def test_a_refusal_instead_of_100(scene: Scene) -> None:
    """An upstream that answers an expectation with 417 has it delivered to the client."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    with scene.judging("HTTP-HDR-013", ends=True):
        fields = [("expect", "100-continue"), ("content-length", "5")]
        sent = await client.begin("POST", f"/{nonce}", fields, nonce=nonce, end=False)
        own, request = await one_of(sent.informational(), upstream.request(nonce))
        if request is None:
            await sent.offer_content(b"hello")
            request = await upstream.request(nonce)
        await request.respond(417, (), b"no")
        response = await sent.response()
    same = response.status == 417 and response.body == b"no"
    scene.expect("HTTP-HDR-013", same, expected="417", actual=told(response))
    before = own or any(one.status == 100 for one in response.informational)
    scene.allow("HTTP-HDR-013", "second run: an edge 100" if before else "second run: U's status")


@pair_case("http-pair-12", ["HTTP-HDR-014", "RFC9110-15.2-3"])
async def test_interim_responses(scene: Scene) -> None:
    """Interim responses come before the final one: relayed or dropped, and never taken for it."""
    met = await meet(scene)
    for status, fields in ((102, ()), (103, [("link", "</style.css>; rel=preload")])):
        await met.request.informational(status, fields)
    response = await met.answered(200, body=b"final")
    final = response.status == 200 and response.body == b"final" and response.complete
    scene.expect("HTTP-HDR-014", final, expected="200 as the final response", actual=told(response))
    hints = [one.get("link") for one in response.informational if one.status == 103]
    if not hints:
        scene.allow("RFC9110-15.2-3", "103 dropped")
        return
    fine = hints == ["</style.css>; rel=preload"]
    scene.expect("RFC9110-15.2-3", fine, expected="103 with Link", actual=f"{hints}", branch="103 relayed")


@pair_case("http-pair-13", ["HTTP-HDR-015"], over={"kind": ("HEAD", "204", "304")})
async def test_responses_without_content(scene: Scene) -> None:
    """The answer to HEAD, a 204 and a 304 have no content at the client, Content-Length is the upstream's or absent,
    and the next exchange of the connection is in step."""
    kind = scene.variant["kind"]
    method, status = ("HEAD", 200) if kind == "HEAD" else ("GET", int(kind))
    met = await meet(scene, method)
    fields = [("etag", '"v1"')] + ([] if kind == "204" else [("content-length", "10")])
    response = await met.answered(status, fields)
    length = response.get("content-length")
    allowed = (None,) if kind == "204" else (None, "10")
    fine = response.status == status and response.complete and not response.body and length in allowed
    actual = f"{told(response)}, Content-Length {length}"
    scene.expect("HTTP-HDR-015", fine, expected=f"{status} without content, Content-Length {allowed}", actual=actual)
    with scene.judging("HTTP-HDR-015"):
        later = await works(scene, met.client)
        fine = later.status == 200 and later.complete and not later.violations
        scene.expect("HTTP-HDR-015", fine, expected="the next exchange in step", actual=told(later))
    scene.allow("HTTP-HDR-015", "U's value" if length else "no Content-Length")


@pair_case("http-pair-15", ["HTTP-HDR-020", "RFC9110-7.7-3"], over={"accept": ("gzip", "nothing")})
async def test_content_is_not_transformed(scene: Scene) -> None:
    """Compressed content reaches the client as the upstream made it, whether the client asked for it or not."""
    accepts = [("accept-encoding", "gzip")] if scene.variant["accept"] == "gzip" else []
    met = await meet(scene, fields=accepts)
    content = gzip.compress(b"<p>hello</p>" * 400, mtime=0)
    fields = [("content-type", "text/html"), ("content-encoding", "gzip")]
    fields += [("etag", '"v1"'), ("cache-control", "no-transform")]
    response = await met.answered(200, fields, content)
    kept = {name: response.get(name) for name, _ in fields}
    same = response.complete and response.body == content and kept == dict(fields)
    for requirement in ("RFC9110-7.7-3", "HTTP-HDR-020"):
        actual = f"{response.describe()}, {kept}"
        scene.expect(requirement, same, expected="octets and fields of the upstream", actual=actual)
    asked = met.request.get_all("accept-encoding")
    scene.expect("HTTP-HDR-020", asked == [v for _, v in accepts], expected=f"{accepts}", actual=f"{asked}")


# 101 in HTTP/2 and HTTP/3


async def _switched(scene: Scene, requirement: str) -> None:
    """An HTTP/1.1 upstream answers a plain request with 101; the client gets an error."""
    met = await meet(scene)
    await met.request.informational(101, [("Connection", "Upgrade"), ("Upgrade", "websocket")])
    got = await met.sent.outcome()
    seen = [one.status for one in got.informational] if isinstance(got, Response) else []
    switched = 101 in seen or (isinstance(got, Response) and got.status == 101)
    refused = not isinstance(got, Response) or not got.complete or got.status >= 500
    actual = f"{told(got)}, interim {seen}"
    scene.expect(requirement, refused and not switched, expected="a 5xx or an aborted stream", actual=actual)


@pair_case("http-pair-52", ["RFC9113-8.6-1"], down=("h2",), up=("h1",))
async def test_no_101_in_http2(scene: Scene) -> None:
    """A 101 of an HTTP/1.1 upstream to a plain request never reaches a client of HTTP/2."""
    await _switched(scene, "RFC9113-8.6-1")


@pair_case("http-pair-59", ["RFC9114-4.5-1"], down=("h3",), up=("h1",))
async def test_no_101_in_http3(scene: Scene) -> None:
    """A 101 of an HTTP/1.1 upstream to a plain request never reaches a client of HTTP/3."""
    await _switched(scene, "RFC9114-4.5-1")


# Many exchanges


@pair_case("http-pair-33", ["HTTP-VER-013"])
async def test_exchanges_beside_each_other(scene: Scene) -> None:
    """Twenty exchanges at one time, answered in the reverse order: each client has its own answer as soon as it is
    given, before those of the requests that came earlier."""
    clients = await beside(scene, 20)
    met = [await meet(scene, "POST", client=client, body=b"%d" % number) for number, client in enumerate(clients)]
    with scene.judging("HTTP-VER-013"):
        for number, one in reversed(list(enumerate(met))):
            got = await one.request.body()
            scene.expect("HTTP-VER-013", got == b"%d" % number, expected=f"content {number}", actual=f"{got!r}")
            response = await one.answered(200, [("x-number", str(number))], one.nonce.encode())
            fine = response.body == one.nonce.encode() and response.get("x-number") == str(number)
            scene.expect("HTTP-VER-013", fine, expected=f"the answer {number}", actual=told(response))


@pair_case("http-pair-34", ["HTTP-VER-013", "RFC9112-9.2-1"])
async def test_exchanges_one_after_the_other(scene: Scene) -> None:
    """Thirty exchanges of three clients, turn by turn, with interim responses, HEAD, and a client that gave up
    between: none gets the answer to another."""
    clients = [await new_client(scene) for _ in range(3)]
    for turn in range(10):
        for number, client in enumerate(clients):
            kind = (turn + number) % 4
            if kind == 3:
                gone = await meet(scene, client=await new_client(scene))
                gone.sent.cancel()
            met = await meet(scene, "HEAD" if kind == 1 else "GET", client=client)
            if kind == 2:
                await met.request.informational(103, [("x-nonce", met.nonce)])
            response = await met.answered(200, [("x-nonce", met.nonce)], met.nonce.encode())
            _judge_own(scene, met, response, turn)
    count = len(behind(scene).connections)
    scene.transcript.note("counted", f"{count} upstream connections for 30 exchanges")


def _judge_own(scene: Scene, met: Met, response: Response, turn: int) -> None:
    fields = [*response.informational, response]
    own = all(one.get("x-nonce") == met.nonce for one in fields) and response.complete
    own = own and response.body in (b"", met.nonce.encode())
    for requirement in ("RFC9112-9.2-1", "HTTP-VER-013"):
        scene.expect(requirement, own, expected=f"the answer to {met.nonce} in turn {turn}", actual=told(response))
