"""Malformed requests: each is refused, nothing of it goes upstream, and its neighbours live (RFC 9114 section 4)."""

from __future__ import annotations

from collections.abc import Callable

from conformance.http3._steps import (
    ask,
    behind,
    connected,
    down_case,
    headers,
    is_refusal,
    judge_malformed,
    nothing_there,
    on_stream,
    outcome,
    refused,
    settled,
    there_or_refused,
    told,
)
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http3 import Http3Client
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene
from harness.wire.http3 import DataFrame

Line = tuple[bytes, bytes]
NAMES = {
    "space": b"x a",
    "colon": b"x:a",
    "cr": b"x\ra",
    "lf": b"x\na",
    "crlf-line": b"x: 1\r\ny",
    "nul": b"x\0a",
    "del": b"x\x7fa",
    "high": b"x\x80a",
    "empty": b"",
}
VALUES = {
    "cr": b"a\rb",
    "lf": b"a\nb",
    "crlf-line": b"a\r\nx-injected: 1",
    "nul": b"a\0b",
    "ctl": b"a\x01b",
    "del": b"a\x7fb",
}


def with_line(scene: Scene, line: Line) -> Callable[[Http3Client, int], None]:
    """Says a GET with `line` among its fields."""

    def say(client: Http3Client, stream: int) -> None:
        client.say(stream, headers(ask(client, scene.nonce().hex(), line)), fin=True)

    return say


@down_case(
    "h3-message-01",
    ["RFC9114-4.1.2-1", "RFC9114-4.1.2-2", "HTTP-HDR-008"],
    over={"fault": ("name", "pseudo", "connection", "length")},
)
async def test_a_malformed_request_beside_a_good_one(scene: Scene) -> None:
    """A malformed request ends in a stream error or an HTTP error and does not go upstream (B-c); a request of the same
    connection that was there before it is answered."""
    client = await connected(scene)
    good = scene.nonce().hex()
    sent = await client.begin("GET", f"/{good}", nonce=good)
    waiting = await behind(scene).request(good)
    nonce = scene.nonce().hex()
    fault = scene.variant["fault"]
    lines = {"name": (b"X-Upper", b"1"), "pseudo": (b":late", b"1"), "connection": (b"connection", b"close")}
    line = lines.get(fault, (b"content-length", b"5"))
    head = headers(ask(client, nonce, line, method=b"POST"))
    frames = (head, DataFrame(b"eight888")) if fault == "length" else (head,)
    stream = await on_stream(client, *frames, fin=True)
    got = await outcome(client, client.exchange(stream))
    judge_malformed(scene, "RFC9114-4.1.2-2", got)
    _judge_engine_row(scene, got)
    if client.quic.ended is None:
        with scene.judging("RFC9114-4.1.2-2"):
            await waiting.respond(200, body=b"alive")
            response = await sent.response()
            alive = response.body == b"alive"
            scene.expect("RFC9114-4.1.2-2", alive, expected="the other request's answer", actual=told(response))
    await settled(scene, client)
    whole = [each for each in behind(scene).unexpected if getattr(each, "complete", True)]
    branch = "an aborted or unfinished request" if behind(scene).unexpected and not whole else "nothing at U"
    for row in ("HTTP-HDR-008", "RFC9114-4.1.2-1"):
        actual = "; ".join(each.describe() for each in whole) or "nothing"
        named = branch if row == "RFC9114-4.1.2-1" else None
        scene.expect(row, not whole, expected="nothing whole at the upstream", actual=actual, branch=named)


def _judge_engine_row(scene: Scene, got: Response | ExchangeEnd | None) -> None:
    row = "HTTP-HDR-008"
    if isinstance(got, Response) and got.status >= 400:
        scene.allow(row, "HTTP error response")
    elif isinstance(got, ExchangeEnd):
        scene.allow(row, "connection error instead" if got.kind == "connection" else "stream error")
    else:
        scene.depart(row, expected="a refusal", actual=told(got))


@down_case("h3-message-02", ["RFC9114-4.2-2"], over={"name": ("X-Upper", "uppeR", "Cookie")})
async def test_upper_case_in_a_name(scene: Scene) -> None:
    """A field name with upper case makes the request malformed (B-c)."""
    line = (scene.variant["name"].encode(), b"1")
    await refused(scene, with_line(scene, line), "RFC9114-4.2-2")


@down_case("h3-message-03", ["RFC9114-10.3-1"], over={"name": tuple(NAMES)})
async def test_octets_that_no_name_has(scene: Scene) -> None:
    """A field name with an octet that no token has makes the request malformed; nothing of it becomes a line of
    HTTP/1.1 (B-c)."""
    await refused(scene, with_line(scene, (NAMES[scene.variant["name"]], b"1")), "RFC9114-10.3-1")


@down_case(
    "h3-message-04", ["RFC9114-10.3-2"], over={"octet": tuple(VALUES), "where": ("field", "path", "method", "trailers")}
)
async def test_octets_that_no_value_has(scene: Scene) -> None:
    """CR, LF, NUL and other control octets in a value, a pseudo-header field or trailers make the request malformed
    (B-c).

    Trailers that are bad may be dropped and the request be aborted where the head went on already.
    """
    row, value, where = "RFC9114-10.3-2", VALUES[scene.variant["octet"]], scene.variant["where"]
    if where == "field":
        await refused(scene, with_line(scene, (b"x-value", value)), row)
        return

    def say(client: Http3Client, stream: int) -> None:
        nonce = scene.nonce().hex()
        if where == "trailers":
            head = headers(ask(client, nonce, method=b"POST"))
            client.say(stream, head, DataFrame(b"content"), headers([(b"x-sum", value)]), fin=True)
            return
        path = b"/" + nonce.encode() + value if where == "path" else None
        method = b"GET" + value if where == "method" else b"GET"
        client.say(stream, headers(ask(client, nonce, method=method, path=path)), fin=True)

    await refused(scene, say, row, partial=where == "trailers")


@down_case(
    "h3-message-05", ["RFC9114-4.2-3"], over={"field": ("connection", "keep-alive", "proxy-connection", "upgrade")}
)
async def test_fields_of_a_connection(scene: Scene) -> None:
    """A field about a connection of HTTP/1.1 makes the request malformed (B-c)."""
    values = {"connection": b"close", "keep-alive": b"timeout=5", "proxy-connection": b"keep-alive", "upgrade": b"foo"}
    name = scene.variant["field"]
    await refused(scene, with_line(scene, (name.encode(), values[name])), "RFC9114-4.2-3")


@down_case("h3-message-06", ["RFC9114-4.1-5"], over={"coding": ("chunked", "gzip, chunked", "identity")})
async def test_transfer_encoding(scene: Scene) -> None:
    """Transfer-Encoding makes a request malformed, whatever it says (B-c)."""
    row, coding = "RFC9114-4.1-5", scene.variant["coding"].encode()

    def say(client: Http3Client, stream: int) -> None:
        head = headers(ask(client, scene.nonce().hex(), (b"transfer-encoding", coding), method=b"POST"))
        client.say(stream, head, DataFrame(b"5\r\nhello\r\n0\r\n\r\n"), fin=True)

    await refused(scene, say, row)


@down_case("h3-message-07", ["RFC9114-4.2-5"], over={"te": ("gzip", "trailers, gzip", "trailers")})
async def test_te(scene: Scene) -> None:
    """TE may say `trailers`, and makes a request malformed with anything else (B-c)."""
    row, value = "RFC9114-4.2-5", scene.variant["te"]
    if value != "trailers":
        await refused(scene, with_line(scene, (b"te", value.encode())), row)
        return
    client = await connected(scene)
    nonce = scene.nonce().hex()
    with scene.judging(row):
        sent = await client.begin("GET", f"/{nonce}", [("te", "trailers")], nonce=nonce)
        await (await behind(scene).request(nonce)).respond(200)
        response = await sent.response()
        scene.expect(row, response.status == 200, expected="200", actual=told(response))


@down_case(
    "h3-message-08", ["RFC9114-4.1.2-3"], over={"content": ("short", "long", "long-in-two", "none", "not-a-number")}
)
async def test_content_length_and_content_that_differ(scene: Scene) -> None:
    """Content of another length than Content-Length says makes a request malformed: no whole request is at the upstream
    (B-c), and none that was smuggled.

    Content-Length is 5; the content has 3 octets, 8 in one DATA frame, 5 and 3 in two, or none.
    """
    row, what = "RFC9114-4.1.2-3", scene.variant["content"]
    client = await connected(scene)
    nonce = scene.nonce().hex()
    length = b"+5" if what == "not-a-number" else b"5"
    head = headers(ask(client, nonce, (b"content-length", length), method=b"POST"))
    content = {
        "short": [DataFrame(b"abc")],
        "long": [DataFrame(b"abcdefgh")],
        "long-in-two": [DataFrame(b"abcde"), DataFrame(b"fgh")],
        "none": [],
        "not-a-number": [DataFrame(b"abcde")],
    }[what]
    stream = await on_stream(client, head, *content, fin=True)
    got = await outcome(client, client.exchange(stream))
    judge_malformed(scene, row, got)
    await settled(scene, client)
    side = behind(scene)
    strays = [each for each in side.unexpected if getattr(each, "complete", True)]
    mine = [each for each in strays if each in side.seen(nonce)]
    if what == "long-in-two" and strays == mine and len(mine) == 1:
        scene.record(row, "the first DATA frame made a whole request")
        return
    actual = "; ".join(each.describe() for each in strays) or "nothing whole"
    branch = "U: aborted or unfinished request" if side.unexpected and not strays else None
    scene.expect(row, not strays, expected="nothing whole at the upstream", actual=actual, branch=branch)


@down_case("h3-message-09", ["RFC9110-5.4-1", "RFC9114-4.2.2-1"], over={"fields": ("one", "many")})
async def test_a_header_section_of_a_megabyte(scene: Scene) -> None:
    """A header section of a megabyte is refused, with nothing at the upstream (B-c), or arrives whole."""
    client = await connected(scene)
    nonce = scene.nonce().hex()
    many = scene.variant["fields"] == "many"
    lines = [(b"x-%d" % n, b"v" * 300) for n in range(3000)] if many else [(b"x-large", b"v" * 1_000_000)]
    stream = await on_stream(client, headers(ask(client, nonce, *lines)), fin=True)
    exchange = client.exchange(stream)
    found = await there_or_refused(scene, client, exchange, nonce)
    if isinstance(found, UpstreamExchange):
        sent = sum(len(value) for _, value in lines)
        came = sum(len(value) for name, value in found.headers if name.lower().startswith("x-"))
        scene.expect("RFC9110-5.4-1", came == sent, expected=f"{sent} octets of values", actual=f"{came}")
        scene.allow("RFC9114-4.2.2-1", "relayed whole")
        await found.respond(200)
        return
    branch = "431 or another 4xx" if isinstance(found, Response) else "stream abort or CONNECTION_CLOSE"
    scene.expect("RFC9110-5.4-1", is_refusal(found), expected="a refusal", actual=told(found))
    scene.allow("RFC9114-4.2.2-1", branch)
    await settled(scene, client)
    await nothing_there(scene, "RFC9110-5.4-1")
