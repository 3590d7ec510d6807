"""Malformed responses of an HTTP/2 upstream: the client gets an error, and nothing of them (RFC 9113 sections 8.1-8.3).

The client speaks HTTP/1.1, where what was injected would be a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from conformance.http2._steps import H2, Asked, asked, works
from conformance.http2.upstream_faults import H2C
from harness.model.case import case
from harness.peer.http import Response
from harness.peer.http2_upstream import Http2UpstreamExchange
from harness.scene import Scene
from harness.wire.http2 import ErrorCode, Field, frames

FAILED = "C: any 5xx, or the stream aborted"
Fields = Sequence[tuple[bytes, bytes]]
OK = (b":status", b"200")


async def judge_failed(scene: Scene, waiting: Asked, *rows: str, branch: str | None = FAILED) -> None:
    """The client got a 5xx or a message that broke off; the next request is served."""
    with scene.judging(*rows, ends=True):
        await waiting.outcome()
        for row in rows:
            told = waiting.describe()
            scene.expect(row, waiting.failed, expected="any 5xx, or an aborted response", actual=told, branch=branch)
        await works(scene, await scene.http_client(), scene.http_upstream(version="h2c"))


async def malformed_response(scene: Scene, row: str, section: Fields, *more: str, branch: str | None = FAILED) -> Asked:
    """A response with this header section, and content."""
    waiting = await asked(scene)
    connection = waiting.connection
    connection.say(connection.headers(1, [Field(*pair) for pair in section]), frames.data(1, b"content", end=True))
    await judge_failed(scene, waiting, row, *more, branch=branch)
    return waiting


NAMES: Mapping[str, bytes] = {"upper": b"X-Up", "space": b"a b", "cr": b"a\rb", "lf": b"a\n", "high": b"\x80"}


@case("h2c-message-01", checks=["RFC9113-8.2.1-1", "RFC9113-8.1.1-4"], publish=H2C, over={"name": tuple(NAMES)})
async def test_field_names_that_cannot_be(scene: Scene) -> None:
    """A response whose field name has an octet of 0x00-0x20, A-Z or 0x7f-0xff is malformed (RFC 9113 sections 8.1.1 and
    8.2.1)."""
    await malformed_response(scene, "RFC9113-8.2.1-1", [OK, (NAMES[scene.variant["name"]], b"1")], "RFC9113-8.1.1-4")


@case("h2c-message-02", checks=["RFC9113-8.2.1-2"], publish=H2C, over={"name": ("colon", "transfer-encoding")})
async def test_a_colon_in_a_field_name(scene: Scene) -> None:
    """A response with a colon in a field name is malformed (RFC 9113 section 8.2.1)."""
    name = b"x:y" if scene.variant["name"] == "colon" else b"transfer-encoding: chunked\r\nx"
    await malformed_response(scene, "RFC9113-8.2.1-2", [OK, (name, b"1")])


VALUES: Mapping[str, bytes] = {"crlf": b"a\r\nx-injected: 1", "lf": b"a\nx-injected: 1", "nul": b"a\0b"}


@case(
    "h2c-message-03",
    checks=["RFC9113-8.2.1-3", "RFC9113-8.2.1-6", "RFC9113-8.1.1-4"],
    publish=H2C,
    over={"value": tuple(VALUES)},
)
async def test_values_that_would_split_a_line(scene: Scene) -> None:
    """A response with CR, LF or NUL in a value is malformed; no line of it is at the client (RFC 9113 section
    8.2.1)."""
    section = [OK, (b"x-value", VALUES[scene.variant["value"]])]
    waiting = await malformed_response(scene, "RFC9113-8.2.1-3", section, "RFC9113-8.1.1-4")
    got = waiting.got
    names = {name.lower() for name, _ in got.headers} if isinstance(got, Response) else set()
    fine = not names & {"x-injected", "x-value"}
    scene.expect("RFC9113-8.2.1-6", fine, expected="nothing of the value at the client", actual=waiting.describe())


@case(
    "h2c-message-04",
    checks=["RFC9113-8.2.1-4"],
    publish=H2C,
    over={"value": ("before", "behind")},
)
async def test_values_with_whitespace_around_them(scene: Scene) -> None:
    """A response whose value begins or ends with SP or HTAB is malformed (RFC 9113 section 8.2.1)."""
    value = b" a" if scene.variant["value"] == "before" else b"a\t"
    await malformed_response(scene, "RFC9113-8.2.1-4", [OK, (b"x-value", value)])


HOP_BY_HOP: Mapping[str, bytes] = {
    "connection": b"close",
    "proxy-connection": b"close",
    "keep-alive": b"timeout=5",
    "transfer-encoding": b"chunked",
    "upgrade": b"h2c",
}


@case("h2c-message-05", checks=["RFC9113-8.2.2-2"], publish=H2C, over={"field": tuple(HOP_BY_HOP)})
async def test_connection_specific_fields(scene: Scene) -> None:
    """A response with a connection-specific field is malformed (RFC 9113 section 8.2.2)."""
    name = scene.variant["field"]
    await malformed_response(scene, "RFC9113-8.2.2-2", [OK, (name.encode(), HOP_BY_HOP[name])])


@case("h2c-message-06", checks=["RFC9113-8.3-1"], publish=H2C, over={"field": (":path", ":foo")})
async def test_pseudo_header_fields_that_do_not_belong(scene: Scene) -> None:
    """A response with `:path`, or one that nobody has defined, is malformed (RFC 9113 section 8.3)."""
    await malformed_response(scene, "RFC9113-8.3-1", [OK, (scene.variant["field"].encode(), b"/")])


@case("h2c-message-07", checks=["RFC9113-8.3-2"], publish=H2C)
async def test_a_status_behind_another_field(scene: Scene) -> None:
    """A response whose `:status` comes behind a field is malformed (RFC 9113 section 8.3)."""
    await malformed_response(scene, "RFC9113-8.3-2", [(b"x-first", b"1"), OK])


@case("h2c-message-08", checks=["RFC9113-8.3-3"], publish=H2C)
async def test_two_statuses(scene: Scene) -> None:
    """A response with `:status` twice is malformed (RFC 9113 section 8.3)."""
    await malformed_response(scene, "RFC9113-8.3-3", [OK, OK])


STATUSES: Mapping[str, Fields] = {
    "none": [(b"x-first", b"1")],
    "2xx": [(b":status", b"2xx")],
    "20": [(b":status", b"20")],
    "0200": [(b":status", b"0200")],
}


@case("h2c-message-09", checks=["RFC9113-8.3.2-1"], publish=H2C, over={"status": tuple(STATUSES)})
async def test_a_status_that_is_none(scene: Scene) -> None:
    """A response without `:status`, or with one that is not three digits, is malformed (RFC 9113 section 8.3.2)."""
    await malformed_response(scene, "RFC9113-8.3.2-1", STATUSES[scene.variant["status"]])


@case("h2c-message-10", checks=["RFC9113-8.1-1"], publish=H2C)
async def test_an_interim_response_that_ends_the_stream(scene: Scene) -> None:
    """A 103 with END_STREAM is malformed: the client does not wait for ever, nor get an empty response (RFC 9113
    section 8.1)."""
    waiting = await asked(scene)
    connection = waiting.connection
    connection.say(connection.headers(1, [Field(b":status", b"103")], end=True))
    await judge_failed(scene, waiting, "RFC9113-8.1-1")


@case("h2c-message-11", checks=["RFC9113-8.1-2"], publish=H2C)
async def test_a_status_in_trailers(scene: Scene) -> None:
    """A response whose trailer section has `:status` is malformed (RFC 9113 section 8.1)."""
    waiting = await asked(scene)
    connection = waiting.connection
    connection.say(connection.headers(1, [Field(*OK)]), frames.data(1, b"content"))
    connection.say(connection.headers(1, [Field(*OK), Field(b"x-sum", b"1")], end=True))
    await judge_failed(scene, waiting, "RFC9113-8.1-2")


@case("h2c-message-12", checks=["RFC9113-8.1-3"], publish=H2C)
async def test_a_second_response(scene: Scene) -> None:
    """A second header section without END_STREAM behind the final status makes a response malformed (RFC 9113 section
    8.1)."""
    waiting = await asked(scene)
    connection = waiting.connection
    connection.say(connection.headers(1, [Field(*OK)]), frames.data(1, b"content"))
    connection.say(connection.headers(1, [Field(b":status", b"201")]), frames.data(1, b"more", end=True))
    await judge_failed(scene, waiting, "RFC9113-8.1-3")


@case("h2c-message-13", checks=["RFC9113-8.1-4"], publish=H2C, over={"down": ("h1", "h2")})
async def test_a_response_whose_stream_is_reset_behind_it(scene: Scene) -> None:
    """A whole response, then RST_STREAM with NO_ERROR, while the client still sends its request: the client gets the
    response (RFC 9113 section 8.1)."""
    row, upstream = "RFC9113-8.1-4", scene.http_upstream(version="h2c")
    client = await scene.http_client(version="h2" if scene.variant["down"] == "h2" else "http/1.1")
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    await exchange.send_content(b"the first piece")
    request = await upstream.request(nonce)
    await request.read_exactly(15)
    await request.respond(200, body=nonce.encode())
    request.break_off(ErrorCode.NO_ERROR)
    with scene.judging(row, ends=True):
        got = await exchange.outcome()
        fine = isinstance(got, Response) and got.status == 200 and got.complete and got.body == nonce.encode()
        told = got.describe() if isinstance(got, Response) else str(got)
        scene.expect(row, fine, expected="the upstream's 200, whole", actual=told)


@case(
    "h2c-message-14",
    checks=["RFC9113-8.1.1-3"],
    publish=H2C,
    over={"content": ("short", "long", "head", "204", "304")},
)
async def test_content_of_another_length(scene: Scene) -> None:
    """A response whose content-length is not the sum of its DATA is never a clean, complete one at the client.

    content-length 5 with 3 octets, and with 8. HEAD, 204 and 304 are exempt: they have none (RFC 9113 section 8.1.1).
    """
    row, kind = "RFC9113-8.1.1-3", scene.variant["content"]
    waiting = await asked(scene, method="HEAD" if kind == "head" else "GET")
    connection = waiting.connection
    status = kind if kind in ("204", "304") else "200"
    section = [Field(b":status", status.encode()), Field(b"content-length", b"5")]
    content = {"short": b"abc", "long": b"abcdefgh"}.get(kind)
    connection.say(connection.headers(1, section, end=content is None))
    if content is not None:
        connection.say(frames.data(1, content, end=True))
        await judge_failed(scene, waiting, row)
        return
    with scene.judging(row, ends=True):
        got = await waiting.outcome()
        fine = isinstance(got, Response) and got.complete and got.status == int(status)
        if kind == "204" and waiting.failed:
            # A 204 with a Content-Length breaks another rule (RFC 9110 section 8.6), and may be refused for it.
            fine = True
        scene.expect(row, fine, expected=f"the upstream's {status}", actual=waiting.describe())


@case(
    "h2c-message-15",
    checks=["RFC9113-8.3.1-3"],
    publish=H2C,
    over={"form": ("origin", "absolute")},
)
async def test_the_authority_of_an_http1_request(scene: Scene) -> None:
    """A request in HTTP/1.1 goes out with `:authority`, its effective one: that of Host, or of an absolute target."""
    row, upstream = "RFC9113-8.3.1-3", scene.http_upstream(version="h2c")
    client = await scene.http_client()
    host, nonce = scene.endpoint().host, scene.nonce().hex()
    target = f"/{nonce}" if scene.variant["form"] == "origin" else f"https://{host}/{nonce}"
    await client.request("GET", target, nonce=nonce)
    with scene.judging(row, ends=True):
        request = await upstream.request(nonce)
        await request.respond(204)
        await client.response()
    _judge_authority(scene, row, host, request)


@case("h2c-message-16", checks=["RFC9113-8.3.1-3"], publish=H2C, features=H2)
async def test_the_authority_of_an_http2_request(scene: Scene) -> None:
    """A request in HTTP/2 goes out with its own `:authority` (RFC 9113 section 8.3.1)."""
    row, upstream = "RFC9113-8.3.1-3", scene.http_upstream(version="h2c")
    client = await scene.http_client(version="h2")
    with scene.judging(row, ends=True):
        await works(scene, client, upstream)
    _judge_authority(scene, row, scene.endpoint().host, upstream.requests_seen[-1])


def _judge_authority(scene: Scene, row: str, host: str, request: Http2UpstreamExchange) -> None:
    said = [field.value.decode("latin-1") for field in request.section.fields if field.name == b":authority"]
    hosts = request.get_all("host")
    fine = [each.lower().removesuffix(":443") for each in said] == [host] and set(hosts) <= set(said)
    scene.expect(row, fine, expected=f":authority {host}", actual=f":authority {said}, host {hosts}")
