"""Malformed requests: an error of their stream, and never whole at the upstream (RFC 9113 sections 8.1 and 8.2).

Each is said beside a good request on the same connection, which waits at the upstream. The tunnel's upstream speaks
HTTP/1.1, where what was injected would be a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from conformance.http2._steps import H2, Malformed, Say, malformed, with_field, with_pseudo
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import Response
from harness.peer.http2 import Http2Client
from harness.scene import Scene
from harness.wire.http2 import Field, frames

NOTHING = "nothing at U"
INJECTED = "x-injected"
"""A field that no request of these cases has; it stands behind CR and LF alone."""


def judge_nothing(result: Malformed) -> None:
    """RFC9113-8.1.1-1: nothing whole at the upstream, whatever the client was told."""
    late = bool(result.requests)
    branch = "an aborted or unfinished request at U" if late else NOTHING
    fine = not result.whole and not result.strays
    result.scene.expect(
        "RFC9113-8.1.1-1",
        fine,
        expected="no request at the upstream, or an aborted one",
        actual=result.describe(),
        branch=branch,
    )


@case("h2-message-01", checks=["RFC9113-8.1.1-1", "RFC9113-8.1.1-2", "HTTP-HDR-008"], publish=http(), features=H2)
async def test_a_malformed_request_beside_a_good_one(scene: Scene) -> None:
    """A malformed request is an error of its own stream; the one beside it is served.

    The field name `X-Up` in upper case; a connection error instead passes, and the loss of the other stream is then
    recorded (RFC 9113 section 8.1.1).
    """
    result = await malformed(scene, with_field(b"X-Up", b"1"))
    judge_nothing(result)
    result.judge("RFC9113-8.1.1-2")
    if not result.sibling:
        alive = result.client.ended is None
        actual = f"{result.sibling_end}, while the connection goes on"
        scene.expect("RFC9113-8.1.1-2", not alive, expected="the other stream to be served", actual=actual)
        scene.record("RFC9113-8.1.1-2", f"the other stream is lost: {result.sibling_end}")
    result.judge_plainly("HTTP-HDR-008")


NAMES: Mapping[str, bytes] = {
    "upper": b"X-Up",
    "space": b"a b",
    "cr": b"a\rb",
    "lf": b"a\n",
    "nul": b"a\0b",
    "del": b"a\x7f",
    "high": b"\x80",
}


@case("h2-message-02", checks=["RFC9113-8.2.1-1"], publish=http(), features=H2, over={"name": tuple(NAMES)})
async def test_field_names_that_cannot_be(scene: Scene) -> None:
    """A field name with an octet of 0x00-0x20, A-Z or 0x7f-0xff makes a request malformed (RFC 9113 section 8.2.1)."""
    result = await malformed(scene, with_field(NAMES[scene.variant["name"]], b"1"))
    result.judge("RFC9113-8.2.1-1")


@case(
    "h2-message-11",
    checks=["RFC9113-8.2.1-2"],
    publish=http(),
    features=H2,
    over={"name": ("colon", "transfer-encoding")},
)
async def test_a_colon_in_a_field_name(scene: Scene) -> None:
    """A colon inside a field name makes a request malformed (RFC 9113 section 8.2.1).

    `x:y`, and `transfer-encoding: chunked` with CR, LF and `x` behind it, all of it the name.
    """
    name = b"x:y" if scene.variant["name"] == "colon" else b"transfer-encoding: chunked\r\nx"
    result = await malformed(scene, with_field(name, b"1"))
    result.judge("RFC9113-8.2.1-2")


BAD_VALUES: Mapping[str, bytes] = {
    "crlf": b"a\r\nx-injected: 1",
    "lf": b"a\nx-injected: 1",
    "cr": b"a\rb",
    "nul": b"a\0b",
}
PLACES = ("field", "path", "authority", "method", "scheme")


def _value_in(place: str, value: bytes, nonce_path: bytes, host: bytes) -> Say:
    match place:
        case "field":
            return with_field(b"x-value", value)
        case "path":
            return with_pseudo(path=nonce_path + value)
        case "authority":
            return with_pseudo(authority=host + value)
        case "method":
            return with_pseudo(method=b"GET" + value)
        case _:
            return with_pseudo(scheme=b"https" + value)


@case(
    "h2-message-03",
    checks=["RFC9113-8.2.1-3", "RFC9113-10.3-1", "RFC9113-8.2.1-6"],
    publish=http(),
    features=H2,
    over={"place": PLACES, "value": tuple(BAD_VALUES)},
)
async def test_values_that_would_split_a_line(scene: Scene) -> None:
    """CR, LF and NUL in a value make a request malformed, in a field and in each pseudo-header field.

    No line of it, and no such octet, may be at the upstream (RFC 9113 sections 8.2.1 and 10.3).
    """
    value = BAD_VALUES[scene.variant["value"]]
    host = scene.endpoint().host.encode()
    result = await malformed(scene, _value_in(scene.variant["place"], value, b"/", host))
    result.judge("RFC9113-8.2.1-3")
    result.judge_plainly("RFC9113-10.3-1", branch="refused")
    result.judge_plainly("RFC9113-8.2.1-6")


@case(
    "h2-message-12",
    checks=["RFC9113-8.2.1-3", "RFC9113-8.2.1-6"],
    publish=http(),
    features=H2,
    over={"value": tuple(BAD_VALUES)},
)
async def test_trailers_that_would_split_a_line(scene: Scene) -> None:
    """CR, LF and NUL in a value of the trailer section make a request malformed (RFC 9113 section 8.2.1).

    The request may have begun at the upstream: it may not become whole there, and nothing of the value may be in it.
    """
    value = BAD_VALUES[scene.variant["value"]]

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        client.say(client.headers(stream, section), frames.data(stream, b"content"))
        client.say(client.headers(stream, [(b"x-value", value)], end=True))

    result = await malformed(scene, say, method="POST")
    result.judge("RFC9113-8.2.1-3")
    names = {name.lower() for request in result.requests for name, _ in (*request.headers, *request.trailers)}
    scene.expect(
        "RFC9113-8.2.1-6",
        INJECTED not in names and not result.whole,
        expected="no octet of the value at the upstream",
        actual=result.describe(),
    )


PADDED: Mapping[str, bytes] = {"space-before": b" a", "space-behind": b"a ", "tab-before": b"\ta"}


@case("h2-message-04", checks=["RFC9113-8.2.1-4"], publish=http(), features=H2, over={"value": tuple(PADDED)})
async def test_values_with_whitespace_around_them(scene: Scene) -> None:
    """A value that begins or ends with SP or HTAB makes a request malformed (RFC 9113 section 8.2.1)."""
    result = await malformed(scene, with_field(b"x-value", PADDED[scene.variant["value"]]))
    result.judge("RFC9113-8.2.1-4")


@case("h2-message-05", checks=["RFC9113-8.2.1-5"], publish=http(), features=H2)
async def test_an_invalid_request_is_answered_with_400(scene: Scene) -> None:
    """A request with an invalid field should be answered with 400; a reset says it as well (RFC 9113 section 8.2.1)."""
    result = await malformed(scene, with_field(b"X-Up", b"1"))
    got, row = result.got, "RFC9113-8.2.1-5"
    if isinstance(got, Response):
        branch = "400" if got.status == 400 else "another 4xx"
        fine = 400 <= got.status < 500
        scene.expect(row, fine, expected="400, or a reset", actual=result.describe(), branch=branch)
    else:
        fine = got is not None
        scene.expect(row, fine, expected="400, or a reset", actual=result.describe(), branch="RST_STREAM or")


HOP_BY_HOP: Mapping[str, bytes] = {
    "connection": b"close",
    "proxy-connection": b"keep-alive",
    "keep-alive": b"timeout=5",
    "transfer-encoding": b"chunked",
    "upgrade": b"websocket",
}
REMOVED = "request refused as malformed (8.2.2)"


@case(
    "h2-message-06",
    checks=["RFC9113-8.2.2-1", "RFC9113-10.3-2"],
    publish=http(),
    features=H2,
    over={"field": tuple(HOP_BY_HOP)},
)
async def test_connection_specific_fields(scene: Scene) -> None:
    """Connection, Proxy-Connection, Keep-Alive, Transfer-Encoding and Upgrade make a request malformed, and never reach
    the upstream (RFC 9113 sections 8.2.2 and 10.3)."""
    name = scene.variant["field"]
    result = await malformed(scene, with_field(name.encode(), HOP_BY_HOP[name]))
    _judge_removed(result, name, HOP_BY_HOP[name].decode())
    result.judge("RFC9113-8.2.2-1")


def _judge_removed(result: Malformed, name: str, value: str) -> None:
    """RFC9113-10.3-2: the field is refused with its request, or never at the upstream as the client said it."""
    said = [each.lower() for request in result.requests for each in request.get_all(name)]
    branch = REMOVED if result.refused else "field absent or replaced"
    result.scene.expect(
        "RFC9113-10.3-2",
        value not in said,
        expected=f"no `{name}: {value}` at the upstream",
        actual=f"{said}; {result.describe()}",
        branch=branch,
    )


@case(
    "h2-message-07",
    checks=["RFC9113-8.2.2-5", "RFC9113-10.3-2"],
    publish=http(),
    features=H2,
    over={"te": ("gzip", "trailers, chunked", "trailers")},
)
async def test_te(scene: Scene) -> None:
    """TE says `trailers` and nothing else; other values make a request malformed (RFC 9113 section 8.2.2)."""
    value = scene.variant["te"]
    result = await malformed(scene, with_field(b"te", value.encode()))
    if value != "trailers":
        _judge_removed(result, "te", value)
        result.judge("RFC9113-8.2.2-5")
        return
    found = result.whole
    scene.expect("RFC9113-8.2.2-5", bool(found), expected="a request at the upstream", actual=result.describe())
    said = [value for request in found for value in request.get_all("te")]
    scene.expect(
        "RFC9113-10.3-2",
        all(value == "trailers" for value in said),
        expected="`te: trailers`, or none",
        actual=f"te: {said}",
        branch="field absent or replaced",
    )


@case("h2-message-08", checks=["RFC9113-8.1-2"], publish=http(), features=H2, over={"field": (":path", ":status")})
async def test_pseudo_header_fields_in_trailers(scene: Scene) -> None:
    """A pseudo-header field in the trailer section makes a request malformed (RFC 9113 section 8.1)."""
    name = scene.variant["field"].encode()

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        client.say(client.headers(stream, section), frames.data(stream, b"content"))
        client.say(client.headers(stream, [(name, b"/other"), (b"x-sum", b"1")], end=True))

    (await malformed(scene, say, method="POST")).judge("RFC9113-8.1-2")


@case("h2-message-09", checks=["RFC9113-8.1-3"], publish=http(), features=H2, over={"second": ("request", "trailers")})
async def test_a_second_header_section_that_ends_nothing(scene: Scene) -> None:
    """HEADERS, DATA, and HEADERS without END_STREAM make a request malformed; there is no second request (RFC 9113
    section 8.1)."""
    second = scene.variant["second"]

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        client.say(client.headers(stream, section), frames.data(stream, b"content"))
        again = client.request_fields("GET", "/second") if second == "request" else [Field(b"x-sum", b"1")]
        client.say(client.headers(stream, again), frames.data(stream, b"more", end=True))

    (await malformed(scene, say, method="POST")).judge("RFC9113-8.1-3")


LENGTHS: Mapping[str, tuple[bytes, ...]] = {
    "short": (b"abc",),
    "long": (b"abcdefgh",),
    "none": (),
    "long-in-two": (b"abcde", b"fgh"),
    "padded-short": (b"abc",),
    "empty-end": (b"abc", b""),
}


@case("h2-message-10", checks=["RFC9113-8.1.1-3"], publish=http(), features=H2, over={"content": tuple(LENGTHS)})
async def test_content_of_another_length(scene: Scene) -> None:
    """A content-length that is not the sum of the DATA payloads makes a request malformed; padding does not count.

    content-length 5 with 3 octets, with 8 in one frame or as 5 and 3, with none, with 3 and padding, and with 3 whose
    END_STREAM comes on an empty frame. Where 8 come as 5 and 3 a whole request at the upstream is recorded (RFC 9113
    section 8.1.1).
    """
    kind = scene.variant["content"]
    pieces = LENGTHS[kind]
    pad = 2 if kind == "padded-short" else None

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        client.say(client.headers(stream, [*section, Field(b"content-length", b"5")], end=not pieces))
        for at, piece in enumerate(pieces, 1):
            client.say(frames.data(stream, piece, end=at == len(pieces), pad=pad))

    result = await malformed(scene, say, method="POST")
    if kind == "long-in-two" and result.whole and not result.strays_beside(result.whole):
        bodies = [await request.body_so_far() for request in result.whole]
        fine = bodies == [b"abcde"]
        scene.expect("RFC9113-8.1.1-3", fine, expected="5 octets of content at most", actual=result.describe())
        scene.record("RFC9113-8.1.1-3", "a whole request of 5 octets was at the upstream before the rest came")
        return
    result.judge("RFC9113-8.1.1-3")


@case("h2-message-13", checks=["RFC9113-8.2.1-1"], publish=http(), features=H2, over={"name": ("empty", "parenthesis")})
async def test_field_names_that_are_no_tokens(scene: Scene) -> None:
    """An empty name, or one with another octet that no token has, never reaches the upstream as a line.

    To refuse it is the SHOULD of RFC 9113 section 8.2.1.
    """
    row = "RFC9113-8.2.1-1"
    result = await malformed(scene, with_field(b"" if scene.variant["name"] == "empty" else b"a(b", b"1"))
    if result.refused:
        result.judge(row)
        return
    names = {name for request in result.requests for name, _ in request.headers}
    fine = not names & {"", "a(b"} and not any(request.violations for request in result.requests)
    scene.expect(row, fine, expected="no such line at the upstream", actual=f"{sorted(names)}; {result.describe()}")
    scene.record(row, "served without the field")
