"""What a broken, silent or dishonest upstream may do to the client: get it an error, never its garbage."""

from __future__ import annotations

import asyncio

from conformance.http._steps import GATEWAY, Answered, asked, works
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http1 import Response
from harness.scene import Scene
from harness.wire import http1_write as write

ANY_5XX = {"502": "any 5xx", "504": "any 5xx", "5xx": "any 5xx"}


async def _said(scene: Scene, wire: bytes, *, ends: bool = False) -> Answered:
    """A request answered with `wire` as it is; with `ends` the upstream's connection ends behind it."""
    answered = await asked(scene)
    await answered.request.respond_raw(wire)
    if ends:
        await answered.request.end()
    await answered.outcome()
    return answered


async def _next_elsewhere(scene: Scene, answered: Answered, requirement: str) -> None:
    """The next request gets its own answer, on another upstream connection."""
    with scene.judging(requirement):
        request, response = await works(scene, await scene.http_client())
        apart = request.connection is not answered.request.connection and response.status == 200
        actual = f"connection {request.connection.id} after {answered.request.connection.id}, {response.describe()}"
        scene.expect(requirement, apart, expected="another upstream connection, and its own answer", actual=actual)


LENGTHS = {
    "list": [("Content-Length", "5,6")],
    "two-lines": [("Content-Length", "5"), ("Content-Length", "6")],
    "letters": [("Content-Length", "5a")],
    "plus": [("Content-Length", "+5")],
}


@case("http-errors-01", checks=["RFC9112-6.3-7"], publish=http(), over={"length": tuple(LENGTHS)})
async def test_an_invalid_length_of_a_response(scene: Scene) -> None:
    """A response whose Content-Length is no number, or two, gets the client an error and ends the connection behind."""
    answered = await _said(scene, write.response_head(200, LENGTHS[scene.variant["length"]]) + b"helloX")
    answered.judge("RFC9112-6.3-7", {**GATEWAY, "504": "another 5xx", "aborted": "connection closed"}, expected="502")
    with scene.judging("RFC9112-6.3-7"):
        await answered.request.connection.expect_end()
    await _next_elsewhere(scene, answered, "RFC9112-6.3-7")


SHORT = {
    "length": write.response(200, body=b"0123456789", length=100),
    "chunk": write.response_head(200, [("Transfer-Encoding", "chunked")]) + write.chunk(b"0123456789", size="64"),
    "no-last-chunk": write.response_head(200, [("Transfer-Encoding", "chunked")]) + write.chunk(b"0123456789"),
}


@case("http-errors-02", checks=["RFC9112-6.3-9", "HTTP-STREAM-006"], publish=http(), over={"end": ("clean", "reset")})
async def test_a_response_shorter_than_its_length(scene: Scene) -> None:
    """A response that ends before its Content-Length is incomplete for the client too."""
    answered = await _cut_short(scene, SHORT["length"])
    told = {"aborted": "h1: close before 100 bytes", **ANY_5XX}
    answered.judge("RFC9112-6.3-9", told, expected="a response that is not complete")
    answered.judge("HTTP-STREAM-006", _BROKEN_OFF, expected="a response that is not complete")


@case(
    "http-errors-03",
    checks=["RFC9112-8-1", "HTTP-STREAM-006", "RFC9112-7.1-5"],
    publish=http(),
    over={"cut": ("chunk", "no-last-chunk"), "end": ("clean", "reset")},
)
async def test_a_chunked_response_without_its_end(scene: Scene) -> None:
    """A chunked response that ends before its last chunk is incomplete for the client too."""
    answered = await _cut_short(scene, SHORT[scene.variant["cut"]])
    told = {"aborted": "h1: close without", **ANY_5XX}
    answered.judge("RFC9112-8-1", told, expected="a response that is not complete")
    answered.judge("HTTP-STREAM-006", _BROKEN_OFF, expected="a response that is not complete")
    truncated = dict.fromkeys(("aborted", "502", "504", "5xx"), "U truncation")
    answered.judge("RFC9112-7.1-5", truncated, expected="an aborted response")


_BROKEN_OFF = {"aborted": "h1: close before the announced", **dict.fromkeys(("502", "504", "5xx"), "5xx if nothing")}


async def _cut_short(scene: Scene, wire: bytes) -> Answered:
    answered = await asked(scene)
    await answered.request.respond_raw(wire)
    head = await answered.client.response_head()
    await answered.client.read_some(head)
    if scene.variant["end"] == "clean":
        await answered.request.end()
    else:
        answered.request.abort()
    answered.got = await answered.client.finish(head)
    return answered


GARBAGE = {
    "garbage": b"xyz\r\n\r\n",
    "binary": bytes(range(256)),
    "http-0.9": b"<html>hello</html>",
    "smtp": b"220 mail.test ESMTP\r\n",
    "nothing": b"",
}


@case("http-errors-04", checks=["RFC9110-15.6.3-1", "HTTP-ERR-004"], publish=http(), over={"answer": tuple(GARBAGE)})
async def test_an_upstream_that_speaks_no_http(scene: Scene) -> None:
    """An upstream that answers with no HTTP, or with nothing, gets the client a 502 and never its octets."""
    answered = await _said(scene, GARBAGE[scene.variant["answer"]], ends=True)
    odd = scene.variant["answer"].encode()
    leaked = isinstance(answered.got, Response) and any(
        part in answered.got.body + answered.got.raw_head for part in (b"xyz", b"<html>hello", b"ESMTP", odd + b"\x00")
    )
    answered.expect("RFC9110-15.6.3-1", not leaked, expected="nothing of the upstream's octets")
    answered.judge("RFC9110-15.6.3-1", {**GATEWAY, "504": "another 5xx"}, expected="502")
    answered.judge("HTTP-ERR-004", {"502": "502", "504": "another 5xx", "5xx": "another 5xx"}, expected="502")
    if not answered.response.closes:
        with scene.judging("HTTP-ERR-004"):
            await works(scene, answered.client)


@case(
    "http-errors-05",
    checks=["RFC9112-4-3", "RFC9110-2.2-1"],
    publish=http(),
    over={"line": ("tabs", "cr", "no-number")},
    revision=2,
)
async def test_a_malformed_status_line(scene: Scene) -> None:
    """A malformed status line gets an error, or goes on as one clean line; no field comes of it."""
    line = {"tabs": b"HTTP/1.1\t200\tOK", "cr": b"HTTP/1.1 200\rX-Split: y", "no-number": b"HTTP/1.1 2x0 OK"}
    wire = write.response(200, [("X-Kept", "1")], b"hello", start_line=line[scene.variant["line"]])
    with scene.judging("RFC9110-2.2-1"):
        answered = await _said(scene, wire, ends=True)
    told = {**dict.fromkeys(("502", "504", "5xx", "aborted"), "any 5xx"), "2xx": "relayed with one clean"}
    answered.judge("RFC9112-4-3", told, expected="502 or one clean status line")
    got = answered.got if isinstance(answered.got, Response) else None
    clean = got is None or (not got.violations and got.get("x-split") is None)
    for requirement in ("RFC9112-4-3", "RFC9110-2.2-1"):
        answered.expect(requirement, clean, expected="one clean status line, and no field made of it")


@case("http-errors-06", checks=["RFC9110-15-2"], publish=http(), over={"status": ("999", "099", "600")})
async def test_a_status_beyond_the_classes(scene: Scene) -> None:
    """A status outside 100 to 599 should be treated as an error of the server."""
    wire = write.response(scene.variant["status"], [("Content-Length", "5")], b"hello", reason="X")
    answered = await _said(scene, wire, ends=True)
    answered.judge("RFC9110-15-2", {"502": None, "504": None, "5xx": None}, expected="a 5xx")


REASONS = {"misleading": "Not Found", "empty": "", "obs-text": "\xe9\xff", "4-kib": "x" * 4096}


@case("http-errors-07", checks=["RFC9112-4-2"], publish=http(), over={"reason": tuple(REASONS)})
async def test_the_reason_phrase_means_nothing(scene: Scene) -> None:
    """The client gets the status, whatever the phrase behind it says."""
    answered = await _said(scene, write.response(200, [], b"hello", reason=REASONS[scene.variant["reason"]]))
    recorded = dict.fromkeys(("502", "5xx"), "5xx for the phrase")
    answered.judge("RFC9112-4-2", {"2xx": "status 200", **recorded}, expected="200")


@case(
    "http-errors-08",
    checks=["RFC9110-5.5-4", "RFC9112-2.2-3"],
    publish=http(),
    over={"octet": ("cr", "nul")},
)
async def test_control_octets_in_a_response_field(scene: Scene) -> None:
    """CR or NUL in a response field gets an error or becomes SP: no raw one, and no new field, reaches the client."""
    octet = {"cr": b"\r", "nul": b"\x00"}[scene.variant["octet"]]
    answered = await _said(scene, write.response(200, [b"X-A: a" + octet + b"Set-Cookie: evil=1"], b"hello"))
    told = {**ANY_5XX, "aborted": "stream aborted", "2xx": "h1 upstream only"}
    answered.judge("RFC9110-5.5-4", told, expected="an error, or SP instead of the octet")
    got = answered.got if isinstance(answered.got, Response) else None
    clean = got is None or (not got.violations and got.get("set-cookie") is None)
    answered.expect("RFC9110-5.5-4", clean, expected="neither the octet nor Set-Cookie at the client")
    branch = "relayed with SP" if answered.kind == "2xx" else "refused"
    answered.expect("RFC9112-2.2-3", clean, expected="no bare CR at the client", branch=branch)


@case(
    "http-errors-09",
    checks=["RFC9112-5.2-3", "RFC9112-5.2-1"],
    publish=http(),
    over={"field": ("set-cookie", "content-length")},
)
async def test_a_folded_response_field(scene: Scene) -> None:
    """A folded response field gets an error, or goes on as one line with all that it said."""
    cookie = scene.variant["field"] == "set-cookie"
    fields = [b"Set-Cookie: a=1;\r\n Path=/"] if cookie else [b"Content-Length:\r\n 5"]
    answered = await _said(scene, write.response(200, fields, b"hello"))
    told = {
        "502": "502 or another",
        "504": "502 or another",
        "5xx": "502 or another",
        "aborted": "stream aborted",
        "2xx": "relayed with SP",
    }
    answered.judge("RFC9112-5.2-3", told, expected="502, or one unfolded line")
    got = answered.got if isinstance(answered.got, Response) else None
    clean = got is None or (not got.violations and (got.status != 200 or got.body == b"hello"))
    if got is not None and got.status == 200 and cookie:
        whole = " ".join((got.get("set-cookie") or "").split()) == "a=1; Path=/"
        told = {"expected": "Set-Cookie: a=1; Path=/", "actual": f"{got.get_all('set-cookie')}"}
        scene.expect("RFC9112-5.2-3", whole, **told, branch="relayed with SP")
    branch = "relayed unfolded" if answered.kind == "2xx" else "refused"
    answered.expect("RFC9112-5.2-1", clean, expected="no folded line at the client", branch=branch)
    answered.expect("RFC9112-5.2-3", clean, expected="502, or one unfolded line")


@case("http-errors-10", checks=["RFC9112-5.1-2"], publish=http(), over={"field": ("any", "transfer-encoding")})
async def test_whitespace_before_the_colon_of_a_response_field(scene: Scene) -> None:
    """Whitespace before a colon is removed from a response field, with framing to match, or gets an error."""
    coded = scene.variant["field"] == "transfer-encoding"
    if coded:
        wire = write.response_head(200, [b"Transfer-Encoding : chunked"]) + write.chunk(b"hello") + write.last_chunk()
    else:
        wire = write.response(200, [b"X-A : 1"], b"hello")
    answered = await _said(scene, wire, ends=True)
    refused = dict.fromkeys(("502", "504", "5xx", "aborted"), "any 5xx")
    got = answered.got if isinstance(answered.got, Response) else None
    dropped = got is not None and got.status == 200 and not coded and got.get("x-a") is None
    relayed = "field dropped" if dropped else "field relayed"
    answered.judge("RFC9112-5.1-2", {**refused, "2xx": relayed}, expected="the field without whitespace, or 502")
    if got is not None and got.status == 200:
        answered.expect("RFC9112-5.1-2", got.body == b"hello" and not got.violations, expected="`hello`, well-framed")


@case("http-errors-11", checks=["RFC9112-6.2-1", "RFC9112-6.3-3"], publish=http())
async def test_both_framing_fields_in_a_response(scene: Scene) -> None:
    """A response with Content-Length and Transfer-Encoding gets an error, or goes on framed by Transfer-Encoding."""
    fields = [("Content-Length", "3"), ("Transfer-Encoding", "chunked")]
    answered = await _said(scene, write.response_head(200, fields) + write.chunk(b"hello") + write.last_chunk())
    got = answered.got if isinstance(answered.got, Response) else None
    both = got is not None and bool(got.get("content-length") and got.get("transfer-encoding"))
    relayed = answered.kind == "2xx"
    branch = "only one of the two" if relayed else "refused"
    answered.expect("RFC9112-6.2-1", not both, expected="not both fields at the client", branch=branch)
    allowed = answered.kind in ("502", "504", "5xx", "aborted") or (
        relayed and got is not None and got.body == b"hello"
    )
    answered.expect("RFC9112-6.3-3", allowed, expected="`hello` or an error", branch="response direction")


@case("http-errors-12", checks=["RFC9112-6.1-10"], publish=http())
async def test_transfer_encoding_in_an_http_1_0_response(scene: Scene) -> None:
    """An HTTP/1.0 response with Transfer-Encoding is faulty: the connection behind is closed and not used again."""
    wire = write.response_head(
        200, [("Transfer-Encoding", "chunked"), ("Connection", "keep-alive")], version="HTTP/1.0"
    )
    answered = await asked(scene)
    await answered.request.respond_raw(wire + write.chunk(b"hello") + write.last_chunk())
    await answered.outcome()
    branch = "response relayed" if answered.kind == "2xx" else "any 5xx"
    answered.judge(
        "RFC9112-6.1-10",
        dict.fromkeys(("2xx", "502", "504", "5xx", "aborted"), branch),
        expected="the response or a 5xx, and the end of the upstream connection",
    )
    with scene.judging("RFC9112-6.1-10"):
        await answered.request.connection.expect_end()
    await _next_elsewhere(scene, answered, "RFC9112-6.1-10")


@case("http-errors-13", checks=["HTTP-STREAM-009", "RFC9112-6.3-11"], publish=http(), over={"version": ("1.0", "1.1")})
async def test_a_response_that_ends_with_the_connection(scene: Scene) -> None:
    """A response that the close delimits is complete at the client, which should keep its connection."""
    wire = write.response(200, body=b"hello", framing="none", version=f"HTTP/{scene.variant['version']}")
    answered = await _said(scene, wire, ends=True)
    whole = answered.kind == "2xx" and answered.response.body == b"hello"
    answered.expect("HTTP-STREAM-009", whole, expected="200 with `hello`, complete")
    framed = answered.response.get("transfer-encoding") or answered.response.get("content-length")
    answered.expect("RFC9112-6.3-11", bool(framed) and not answered.response.end, expected="chunked or a length")


@case("http-errors-14", checks=["RFC9112-6.3-5"], publish=http())
async def test_a_response_whose_last_coding_is_not_chunked(scene: Scene) -> None:
    """A response with another last coding than chunked ends with the connection, and arrives whole."""
    fields = [("Transfer-Encoding", "gzip")]
    answered = await _said(scene, write.response(200, fields, b"hello", framing="none"), ends=True)
    if answered.kind == "2xx":
        whole = answered.response.body == b"hello" and answered.response.complete and not answered.response.violations
        answered.expect("RFC9112-6.3-5", whole, expected="the whole body, well-framed")
    else:
        answered.expect("RFC9112-6.3-5", answered.kind in ("502", "5xx"), expected="the whole body, or 502")
    await _next_elsewhere(scene, answered, "RFC9112-6.3-5")


SIZES = ("FFFFFFFFFFFFFFFF", "10000000000000005", "100000005")


@case("http-errors-15", checks=["RFC9112-7.1-1"], publish=http(), over={"size": SIZES})
async def test_a_very_large_chunk_of_a_response(scene: Scene) -> None:
    """A very large chunk size of an upstream is never cut to 5: the client gets an error or an unfinished response."""
    chunks = write.chunk(b"hello", size=scene.variant["size"]) + write.last_chunk()
    wire = write.response_head(200, [("Transfer-Encoding", "chunked")]) + chunks
    answered = await _said(scene, wire, ends=True)
    told = dict.fromkeys(("502", "504", "5xx", "aborted"), "upstream direction")
    answered.judge("RFC9112-7.1-1", told, expected="5xx or a response that is not complete")


@case("http-errors-16", checks=["RFC9112-6.1-2"], publish=http())
async def test_a_response_with_chunked_twice(scene: Scene) -> None:
    """A response with chunked applied twice gets the client an error."""
    body = write.chunk(write.chunk(b"hello") + write.last_chunk()) + write.last_chunk()
    wire = write.response_head(200, [("Transfer-Encoding", "chunked, chunked")]) + body
    answered = await _said(scene, wire, ends=True)
    answered.judge("RFC9112-6.1-2", dict.fromkeys(("502", "504", "5xx", "aborted"), "502 for a U"), expected="502")


@case("http-errors-22", checks=["RFC9112-7.1-2"], publish=http())
async def test_a_parameter_on_the_chunked_of_a_response(scene: Scene) -> None:
    """`chunked;a=b` in a response should be an error; ignoring the parameter is recorded."""
    wire = write.response_head(200, [("Transfer-Encoding", "chunked;a=b")]) + write.chunk(b"hello") + write.last_chunk()
    answered = await _said(scene, wire, ends=True)
    told = {"502": "from U: any 5xx", "5xx": "from U: any 5xx", "2xx": "parameter ignored"}
    answered.judge("RFC9112-7.1-2", told, expected="a 5xx")
    if answered.kind == "2xx":
        answered.expect("RFC9112-7.1-2", answered.response.body == b"hello", expected="`hello`, decoded")


@case("http-errors-17", checks=["RFC9110-7.8-4"], publish=http())
async def test_an_unsolicited_101(scene: Scene) -> None:
    """A 101 to a plain GET is an error of the upstream: the client sees no 101, and no tunnel forms."""
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    answered = await _said(scene, write.response_head(101, fields) + b"raw octets")
    told = {**ANY_5XX, "aborted": "connection closed"}
    answered.judge("RFC9110-7.8-4", told, expected="a 5xx, or the end of the connection")


@case("http-errors-18", checks=["RFC9110-9.2.2-1", "HTTP-ERR-008"], publish=http(), over={"end": ("clean", "reset")})
async def test_a_post_is_not_repeated(scene: Scene) -> None:
    """A POST that the upstream read, and dropped without an answer, is not sent again; the client gets an error."""
    answered = await asked(scene, "POST", body=b"hello")
    nonce = answered.request.get("Edgecase-Nonce") or ""
    if scene.variant["end"] == "clean":
        await answered.request.close()
    else:
        answered.request.abort()
    await answered.outcome()
    await scene.settle()
    count = len(answered.upstream.seen(nonce))
    told = {"502": "any 5xx", "504": "any 5xx", "5xx": "any 5xx", "aborted": "stream aborted"}
    if count > 1:
        for requirement in ("RFC9110-9.2.2-1", "HTTP-ERR-008"):
            scene.depart(requirement, expected="the POST once at the upstream", actual=f"{count} times")
        return
    answered.judge("RFC9110-9.2.2-1", told, expected="a 5xx or an aborted response")
    answered.judge("HTTP-ERR-008", dict.fromkeys(told, "any 5xx or aborted"), expected="a 5xx or an aborted response")


@case("http-errors-19", checks=["RFC9110-9.2.2-2"], publish=http())
async def test_a_get_is_repeated_at_most_once(scene: Scene) -> None:
    """An upstream that drops every connection sees a GET at most twice."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()

    async def drop() -> None:
        while True:
            (await upstream.request(nonce)).abort()

    dropping = asyncio.ensure_future(drop())
    try:
        await client.request("GET", f"/{nonce}")
        await client.outcome()
    finally:
        dropping.cancel()
        await asyncio.gather(dropping, return_exceptions=True)
    await scene.settle()
    count = len(upstream.seen(nonce))
    scene.expect("RFC9110-9.2.2-2", count <= 2, expected="at most two attempts", actual=f"{count}")


@case("http-errors-20", checks=["HTTP-ERR-013", "HTTP-ERR-004"], publish=http(), over={"method": ("GET", "HEAD")})
async def test_the_engines_own_error_is_valid(scene: Scene) -> None:
    """An error that the engine makes is well-formed HTTP, tells no internals, and has no body for HEAD.

    Whatever stood behind it on the connection would spoil the next answer.
    """
    method = scene.variant["method"]
    answered = await asked(scene, method)
    answered.request.abort()
    await answered.outcome()
    answered.judge("HTTP-ERR-004", {"502": "502", "504": "another 5xx", "5xx": "another 5xx"}, expected="502")
    said = answered.response.raw_head + answered.response.body
    telling = [word for word in (b"Traceback", b"127.0.0.1", b'File "', b"0x") if word in said]
    body = method == "HEAD" and bool(answered.response.body)
    clean = not telling and not body and not answered.response.violations
    answered.expect("HTTP-ERR-013", clean, expected="a valid answer without internals")
    if not answered.response.closes:
        with scene.judging("HTTP-ERR-013"):
            await works(scene, answered.client)


@case(
    "http-errors-21",
    checks=["HTTP-ERR-003", "RFC9110-15.6.5-1"],
    publish=http(),
    settings={"timeout.http-response-ms": 1000},
)
async def test_a_silent_upstream(scene: Scene) -> None:
    """An upstream that takes the request and never answers gets the client a 504, not before the limit, and is left."""
    begun = asyncio.get_running_loop().time()
    answered = await asked(scene)
    await answered.outcome()
    took = asyncio.get_running_loop().time() - begun
    told: dict[str, str | None] = {"504": "504", "502": "502 or 503", "5xx": "502 or 503"}
    answered.judge("HTTP-ERR-003", told, expected="504 after the limit")
    answered.judge("RFC9110-15.6.5-1", {"504": "504", "502": "502 or 503", "5xx": "another 5xx"}, expected="504")
    with scene.judging("HTTP-ERR-003"):
        scene.expect("HTTP-ERR-003", took > 0.9, expected="not before 1000 ms", actual=f"{took * 1000:.0f} ms")
        await answered.request.connection.expect_end()


@case("http-errors-23", checks=["HTTP-ERR-002"], publish=http(), needs=["dynamic"])
async def test_an_agent_that_refuses_the_stream(scene: Scene) -> None:
    """A stream that the agent refuses to open gets the client a gateway error, no hang and no empty close."""
    client, nonce = await scene.http_client(), scene.nonce().hex()
    scene.agent.refuse_streams = (7000, "connection refused")
    await client.request("GET", f"/{nonce}")
    with scene.judging("HTTP-ERR-002"):
        response = await client.response()
        branch = "502" if response.status == 502 else "503 or another"
        fine = response.status // 100 == 5 and response.complete
        scene.expect("HTTP-ERR-002", fine, expected="502", actual=response.describe(), branch=branch)


@case("http-errors-24", checks=["HTTP-ERR-011"], publish=http(upstream_tls=True))
async def test_an_upstream_that_does_not_speak_tls(scene: Scene) -> None:
    """With upstream TLS, an upstream that answers in plain gets the client a 502, and saw no request in plain."""
    client, nonce = await scene.http_client(), scene.nonce().hex()
    await client.request("GET", f"/{nonce}")
    upstream = await scene.upstream().accept()
    first = await upstream.receive()
    await upstream.send(write.response(400, body=b"plain"))
    response = await client.response()
    hidden = nonce.encode() not in first and first[:1] == b"\x16"
    scene.expect("HTTP-ERR-011", hidden, expected="a ClientHello at the upstream", actual=f"{first[:40]!r}")
    branch = "502" if response.status == 502 else "another 5xx"
    fine = response.status // 100 == 5
    scene.expect("HTTP-ERR-011", fine, expected="502", actual=response.describe(), branch=branch)


# Agents that fail


@case("http-errors-25", checks=["HTTP-ERR-005"], publish=http(), needs=["dynamic"])
async def test_a_request_after_the_agent_is_gone(scene: Scene) -> None:
    """While the tunnel of a lost agent is leased, a request gets a gateway error; behind the lease, that of a name
    that nobody has."""
    client, nonce = await scene.http_client(), scene.nonce().hex()
    scene.agent.drop()
    await scene.agent.wait_lost()
    with scene.judging("HTTP-ERR-005"):
        await client.offer(write.request("GET", f"/{nonce}", host=client.host), expects="GET")
        got = await client.outcome()
        told = got.describe() if isinstance(got, Response) else str(got)
        gateway = isinstance(got, Response) and got.status in (502, 503, 504) and got.complete
        scene.expect("HTTP-ERR-005", gateway, expected="502, 503 or 504", actual=told)


@case("http-errors-26", checks=["HTTP-ERR-006"], publish=http(), needs=["dynamic"])
async def test_an_agent_that_dies_in_a_response(scene: Scene) -> None:
    """When the agent of a running response dies, the client gets a response that is visibly broken off."""
    answered = await asked(scene)
    await answered.request.respond_raw(SHORT["no-last-chunk"])
    response = await answered.client.response_head()
    await answered.client.read_some(response)
    await scene.agent.close()
    with scene.judging("HTTP-ERR-006"):
        answered.got = await answered.client.finish(response)
        answered.expect("HTTP-ERR-006", not response.complete, expected="a response that is not complete")
