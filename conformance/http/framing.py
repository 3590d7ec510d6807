"""Message framing of requests: which octets are the body, and what may never become a second request."""

from __future__ import annotations

from conformance.http._steps import probing, unfinished
from harness.model.case import case
from harness.model.spec import http
from harness.scene import Scene
from harness.wire import http1_write as write

CHUNKED = ("Transfer-Encoding", "chunked")


@case(
    "http-framing-01",
    checks=["RFC9112-6.3-3", "RFC9112-6.2-1", "RFC9112-6.1-8", "HTTP-HDR-016"],
    publish=http(),
    over={"form": ("cl-te", "te-cl")},
)
async def test_both_framing_fields(scene: Scene) -> None:
    """A request with Content-Length and Transfer-Encoding is refused, or framed by Transfer-Encoding alone, and closes.

    In both orders a part of the message looks like another request under the wrong reading, and a further request is
    pipelined behind it. The upstream may see one request with the chunked content and without Content-Length; neither
    of the others may reach it, and the client's connection must end (RFC 9112 sections 6.1 and 6.3).
    """
    async with probing(scene) as probe:
        hidden = probe.smuggled()
        if scene.variant["form"] == "cl-te":
            body, chunks = b"", write.last_chunk() + hidden
            fields = [("Content-Length", str(len(chunks))), CHUNKED]
        else:
            body, chunks = hidden, write.chunk(hidden) + write.last_chunk()
            fields = [CHUNKED, ("Content-Length", str(chunks.index(b"\r\n") + 2))]
        await probe.say(probe.head("POST", fields) + chunks + probe.smuggled())
        await probe.outcome()
        relayed = probe.kind == "relayed"
        probe.judge_framing(body, branch="one well-framed request" if relayed else None)
        probe.judge(
            "RFC9112-6.3-3",
            {"400": "400", "closed": "400", "relayed": "one request framed by Transfer-Encoding"},
            expected="400, or one request framed by Transfer-Encoding",
            partial=True,
        )
        single = not probe.requests or not (
            probe.request.get_all("content-length") and probe.request.get_all(CHUNKED[0])
        )
        probe.expect("RFC9112-6.2-1", single, expected="not both framing fields at the upstream")
        by_coding = not relayed or probe.bodies == [body]
        probe.expect("RFC9112-6.3-3", by_coding, expected="400, or the chunked content alone at the upstream")
        with scene.judging("RFC9112-6.1-8"):
            more = await probe.rest()
            branch = {"relayed": "one response, framed", "closed": "close without"}.get(probe.kind, "400 then close")
            if probe.expect("RFC9112-6.1-8", not more, expected="one answer, then the end of the connection"):
                scene.allow("RFC9112-6.1-8", branch)


@case(
    "http-framing-02",
    checks=["RFC9112-6.3-4", "HTTP-HDR-016"],
    publish=http(),
    over={"coding": ("gzip", "chunked-then-gzip")},
)
async def test_the_final_coding_is_not_chunked(scene: Scene) -> None:
    """A request whose last transfer coding is not chunked has no length: 400 or 501, and the connection ends."""
    coding = {"gzip": "gzip", "chunked-then-gzip": "chunked, gzip"}[scene.variant["coding"]]
    await _refused_coding(
        scene,
        coding,
        "RFC9112-6.3-4",
        {"400": "400, close", "501": "501, close", "closed": "close without"},
    )


@case(
    "http-framing-03",
    checks=["RFC9112-6.1-6", "HTTP-HDR-016"],
    publish=http(),
    over={"coding": ("xchunked", "cow", "identity", "vertical-tab", "quoted", "no-token")},
)
async def test_a_transfer_coding_that_is_not_understood(scene: Scene) -> None:
    """A transfer coding that the engine cannot know, or that is none, is refused and the connection ends.

    Each of these is taken for chunked, or for no coding at all, by some parser: then the chunked body turns into
    another request.
    """
    coding = {
        "xchunked": "xchunked",
        "cow": "cow",
        "identity": "identity",
        "vertical-tab": "\x0bchunked",
        "quoted": '"chunked"',
        "no-token": "chunk ed",
    }[scene.variant["coding"]]
    await _refused_coding(
        scene,
        coding,
        "RFC9112-6.1-6",
        {"400": "400", "501": "501", "4xx": "another 4xx", "closed": "close without"},
    )


@case(
    "http-framing-04",
    checks=["RFC9112-6.1-2", "HTTP-HDR-016"],
    publish=http(),
    over={"form": ("one-line", "two-lines")},
)
async def test_chunked_twice(scene: Scene) -> None:
    """Chunked applied twice is refused: 400 or 501, and the connection ends."""
    async with probing(scene) as probe:
        fields = (
            [("Transfer-Encoding", "chunked, chunked")] if scene.variant["form"] == "one-line" else [CHUNKED, CHUNKED]
        )
        await probe.say(probe.head("POST", fields) + write.chunk(b"5\r\nhello\r\n0\r\n\r\n") + write.last_chunk())
        await probe.outcome()
        await probe.judge_refusal(
            "RFC9112-6.1-2",
            {"400": "400 or 501", "501": "400 or 501", "closed": "close without"},
        )


LENGTHS = {
    "plus": "+5",
    "hex": "0x5",
    "two-numbers": "5 5",
    "list": "5,6",
    "negative": "-1",
    "minus-zero": "-0",
    "semicolon": "5;",
    "letter": "5a",
    "nbsp": "5\xa0",
    "empty": "",
    "underscore": "5_0",
    "two-lines": "5",
}


@case(
    "http-framing-05",
    checks=["RFC9112-6.3-6", "RFC9110-8.6-5", "HTTP-HDR-016"],
    publish=http(),
    over={"length": tuple(LENGTHS)},
)
async def test_an_invalid_content_length(scene: Scene) -> None:
    """A Content-Length that is no number, or two numbers, gets 400, the connection ends, and the upstream sees nothing.

    The last form is two lines with different values.
    """
    form = scene.variant["length"]
    fields = [("Content-Length", LENGTHS[form])] + ([("Content-Length", "6")] if form == "two-lines" else [])
    async with probing(scene) as probe:
        await probe.say(probe.head("POST", fields) + b"hello" + probe.smuggled())
        await probe.outcome()
        await probe.judge_refusal(
            "RFC9112-6.3-6",
            {"400": "400, then close", "closed": "close without", "4xx": "another 4xx", "501": "another 4xx"},
        )
        probe.judge(
            "RFC9110-8.6-5",
            {"400": "400, connection", "closed": "close without"},
            expected="400, and the value not at the upstream",
        )


@case("http-framing-06", checks=["RFC9110-8.6-5", "HTTP-HDR-016"], publish=http())
async def test_the_same_content_length_twice(scene: Scene) -> None:
    """`Content-Length: 5, 5` is refused, or goes on as a single 5."""
    async with probing(scene) as probe:
        await probe.say(probe.head("POST", [("Content-Length", "5, 5")]) + b"hello")
        await probe.outcome()
        probe.judge(
            "RFC9110-8.6-5",
            {"400": "400, connection", "closed": "close without", "relayed": "`5, 5` only"},
            expected="400, or a single 5 at the upstream",
        )
        probe.judge_framing(b"hello", "RFC9110-8.6-5")


@case(
    "http-framing-07",
    checks=["RFC9110-8.6-3"],
    publish=http(),
    over={"length": ("18446744073709551617", "9223372036854775808", "4294967301")},
)
async def test_a_very_large_content_length(scene: Scene) -> None:
    """A very large Content-Length is refused or waited for, never cut to what fits a machine word.

    Under 64 or 32 bits the three numbers would be 1, negative, and 5; the five octets of content are followed by what
    would then be another request. Where the body is waited for the upstream answers early: an engine that believes the
    request to be over now goes on to what follows, and writes it as a request of its own into the unfinished body.
    """
    length = scene.variant["length"]
    async with probing(scene) as probe:
        body = b"hello" + probe.smuggled()
        await probe.say(probe.head("POST", [("Content-Length", length)]) + body)
        await probe.outcome(may_wait=True)
        probe.judge(
            "RFC9110-8.6-3",
            {
                "400": "400, 413",
                "413": "400, 413",
                "4xx": "400, 413",
                "501": "400, 413",
                "5xx": "400, 413",
                "502": "400, 413",
                "closed": "connection or stream closed",
                "waits": "edge waits",
            },
            expected="a refusal, or an unfinished body at the upstream",
            partial=True,
        )
        if probe.kind == "waits" and probe.requests:
            same = (
                probe.request.get_all("content-length") == [length]
                or probe.request.get("transfer-encoding") is not None
            )
            probe.expect("RFC9110-8.6-3", same, expected=f"Content-Length {length} or chunked at the upstream")
            await probe.request.respond(200, body=probe.nonce.encode())
            await probe.client.outcome()
            await scene.settle()
            alone = len(probe.requests) == 1 and not probe.upstream.unexpected
            await probe.client.close()
            with scene.judging("RFC9110-8.6-3"):
                unchanged = body.startswith(await probe.request.body_so_far())
            expected = "nothing at the upstream but the body as the client sent it"
            probe.expect("RFC9110-8.6-3", alone and unchanged, expected=expected)


@case("http-framing-08", checks=["RFC9112-6.3-8"], publish=http())
async def test_a_request_shorter_than_its_length(scene: Scene) -> None:
    """A body shorter than its Content-Length is incomplete: the upstream never has a whole request.

    The client announces 100 octets, sends 10, and ends the connection.
    """
    await unfinished(scene, [("Content-Length", "100")], b"0123456789", "RFC9112-6.3-8", "U: aborted or unfinished")


@case("http-framing-09", checks=["RFC9112-7-1"], publish=http(), over={"name": ("Chunked", "CHUNKED")})
async def test_the_name_of_a_coding_has_no_case(scene: Scene) -> None:
    """`Chunked` and `CHUNKED` are chunked: decoded as such, or refused, but never ignored."""
    async with probing(scene) as probe:
        await probe.say(
            probe.head("POST", [("Transfer-Encoding", scene.variant["name"])])
            + write.chunk(b"hello")
            + write.last_chunk()
        )
        await probe.outcome()
        probe.judge(
            "RFC9112-7-1",
            {"relayed": "decoded as chunked", "400": "refused", "501": "refused", "4xx": "refused"},
            expected="the content `hello` at the upstream, or a refusal",
        )
        if probe.kind == "relayed":
            probe.expect("RFC9112-7-1", probe.alone(b"hello"), expected="the content `hello` alone at the upstream")


@case("http-framing-10", checks=["RFC9112-6.1-3"], publish=http())
async def test_chunked_is_final_upstream(scene: Scene) -> None:
    """`gzip, chunked` goes on with chunked last, or decoded, or is refused: never gzip without chunked behind it."""
    async with probing(scene) as probe:
        await probe.say(
            probe.head("POST", [("Transfer-Encoding", "gzip, chunked")]) + write.chunk(b"hello") + write.last_chunk()
        )
        await probe.outcome()
        coded = probe.kind == "relayed" and "gzip" in probe.request.head.tokens("transfer-encoding")
        refused = "501, 400"
        probe.judge(
            "RFC9112-6.1-3",
            {
                "relayed": "gzip, chunked at U" if coded else "decoded and correctly framed",
                "400": refused,
                "501": refused,
                "4xx": refused,
                "closed": refused,
            },
            expected="chunked as the last coding at the upstream, or a refusal",
        )
        probe.expect("RFC9112-6.1-3", probe.clean(), expected="a well-framed request at the upstream")


@case("http-framing-11", checks=["RFC9112-6.1-9", "HTTP-HDR-016"], publish=http())
async def test_transfer_encoding_in_http_1_0(scene: Scene) -> None:
    """An HTTP/1.0 request with Transfer-Encoding has faulty framing: whatever the answer, the connection ends."""
    async with probing(scene) as probe:
        chunks = write.last_chunk() + probe.smuggled()
        fields = [CHUNKED, ("Content-Length", str(len(chunks))), ("Connection", "keep-alive")]
        await probe.say(probe.head("POST", fields, version="HTTP/1.0") + chunks + probe.smuggled())
        await probe.outcome()
        probe.judge(
            "RFC9112-6.1-9",
            {
                "400": "400 then close",
                "4xx": "400 then close",
                "501": "400 then close",
                "relayed": "request processed",
                "closed": "close without",
            },
            expected="400 or an answer, then the end of the connection",
            partial=True,
        )
        probe.judge_framing()
        with scene.judging("RFC9112-6.1-9"):
            probe.expect("RFC9112-6.1-9", not await probe.rest(), expected="one answer, then the end of the connection")


@case("http-framing-12", checks=["RFC9112-6-1"], publish=http(), over={"method": ("GET", "HEAD", "DELETE", "OPTIONS")})
async def test_framing_does_not_depend_on_the_method(scene: Scene) -> None:
    """A body on a method that has none by custom is consumed as a body, and never becomes another request."""
    method = scene.variant["method"]
    async with probing(scene) as probe:
        body = probe.smuggled()
        await probe.say(probe.head(method, [("Content-Length", str(len(body)))]) + body, expects=method)
        await probe.outcome()
        relayed = isinstance(probe.requests, list) and bool(probe.requests)
        refused = "request refused"
        if relayed and probe.kind in ("relayed", "2xx"):
            whole = probe.request.received == len(body)
            branch = "one request with its 30-byte body" if whole else "one request without body"
            fine = not probe.upstream.unexpected and probe.clean() and (whole or not probe.request.received)
            if probe.expect("RFC9112-6-1", fine, expected="one request at the upstream, with its body or without one"):
                scene.allow("RFC9112-6-1", branch)
        else:
            probe.judge(
                "RFC9112-6-1", {"400": refused, "4xx": refused, "501": refused}, expected="one request or a refusal"
            )


@case("http-framing-13", checks=["RFC9112-6.3-10"], publish=http())
async def test_a_request_without_framing_has_no_body(scene: Scene) -> None:
    """A POST without Content-Length and Transfer-Encoding has no body: what follows is the next request."""
    async with probing(scene) as probe:
        await probe.say(probe.head("POST") + probe.wire("GET"), expects=("POST", "GET"))
        await probe.outcome()
        if probe.kind in ("411", "400", "4xx"):
            probe.judge(
                "RFC9112-6.3-10", dict.fromkeys(("411", "400", "4xx"), "411 or another"), expected="two requests or 411"
            )
            return
        second = await probe.client.response()
        probe.later.append(second)
        empty = [request.received for request in probe.requests] == [0, 0]
        methods = [request.method for request in probe.requests] == ["POST", "GET"]
        probe.expect(
            "RFC9112-6.3-10",
            empty and methods and second.status == 200,
            expected="POST without a body, then GET, at the upstream",
            branch="two requests at U",
        )


@case(
    "http-framing-14", checks=["RFC9112-6.3-14"], publish=http(), over={"body": ("length", "chunked", "empty-chunked")}
)
async def test_a_forwarded_body_is_framed(scene: Scene) -> None:
    """A body goes upstream with a correct Content-Length or chunked."""
    form = scene.variant["body"]
    content = b"" if form == "empty-chunked" else b"0123456789"
    async with probing(scene) as probe:
        await probe.say(probe.wire("POST", body=content, framing="length" if form == "length" else "chunked"))
        await probe.outcome()
        framed = probe.kind == "relayed" and probe.alone(content)
        length = framed and probe.request.get("content-length") == str(len(content))
        branch = "correct Content-Length" if length else "Transfer-Encoding: chunked"
        if framed and not content and not probe.request.get("transfer-encoding"):
            branch = "body turned out empty"
        expected = f"a well-framed body of {len(content)} octets"
        probe.expect("RFC9112-6.3-14", framed, expected=expected, branch=branch)


@case("http-framing-15", checks=["RFC9112-6.3-13"], publish=http())
async def test_a_known_length_is_said(scene: Scene) -> None:
    """A body whose length the client said should go upstream with Content-Length."""
    async with probing(scene) as probe:
        await probe.say(probe.wire("POST", body=b"0123456789"))
        await probe.outcome()
        said = bool(probe.requests) and probe.request.get("content-length") == "10"
        probe.expect("RFC9112-6.3-13", said, expected="`Content-Length: 10` at the upstream")


async def _refused_coding(scene: Scene, coding: str, requirement: str, branches: dict[str, str | None]) -> None:
    async with probing(scene) as probe:
        body = write.last_chunk() + probe.smuggled()
        await probe.say(probe.head("POST", [("Transfer-Encoding", coding)]) + body)
        await probe.outcome()
        await probe.judge_refusal(requirement, branches)
