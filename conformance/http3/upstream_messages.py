"""Answers of an HTTP/3 upstream that are none, and connection errors that it makes: what the client then gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from conformance.http3._steps import (
    Asked,
    asked,
    end_of,
    headers,
    judge_close,
    judge_gateway,
    on_uni,
    told,
    up_case,
    upstream,
    upstream_works,
)
from harness.errors import DeadlineExpired, PeerMismatch
from harness.peer.http import ExchangeEnd, Response
from harness.scene import Scene
from harness.wire.http3 import (
    DataFrame,
    ErrorCode,
    Frame,
    GoawayFrame,
    HeadersFrame,
    MaxPushIdFrame,
    SettingsFrame,
    StreamType,
    UnknownFrame,
    reserved,
)
from harness.wire.http3.qpack import Indexed, Section, SetCapacity, integer, literal_section
from harness.wire.quic.codec import varint

E = ErrorCode
OK = (b":status", b"200")
CLIENT_BRANCH = "C: any 5xx, or the stream aborted"
UPSTREAM_BRANCH = "upstream leg: same reaction"
UNKNOWN = (0x40, 0x1234, 0x3FFF_FFFF)

Line = tuple[bytes, bytes]


async def malformed(scene: Scene, lines: list[Line], *rows: str, branch: str | None = CLIENT_BRANCH) -> None:
    """An upstream answers with these lines and some content: the client gets a 5xx or a broken exchange, and the next
    exchange is served."""
    await broken(scene, [headers(lines), DataFrame(b"bad content")], *rows, branch=branch)


async def broken(
    scene: Scene, frames: list[Frame | bytes], *rows: str, branch: str | None = CLIENT_BRANCH, method: str = "GET"
) -> None:
    """As `malformed`, with any frames and FIN."""
    met = await asked(scene, method)
    met.connection.say(met.request.id, *frames, fin=True)
    got = await met.got()
    for row in rows:
        judge_gateway(scene, row, got, branch)
    await upstream_works(scene, *rows)


FIELDS: dict[str, Line] = {
    "upper-case": (b"X-Upper", b"1"),
    "space-in-name": (b"x a", b"1"),
    "colon-in-name": (b"x:a", b"1"),
    "line-in-name": (b"x: 1\r\ny", b"1"),
    "nul-in-name": (b"x\0a", b"1"),
    "line-in-value": (b"x-a", b"1\r\nx-injected: 1"),
    "lf-in-value": (b"x-a", b"1\nx-injected: 1"),
    "nul-in-value": (b"x-a", b"1\0"),
    "connection": (b"connection", b"close"),
    "keep-alive": (b"keep-alive", b"timeout=5"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "upgrade": (b"upgrade", b"foo"),
}
NAME_ROWS = ("space-in-name", "colon-in-name", "line-in-name", "nul-in-name")
VALUE_ROWS = ("line-in-value", "lf-in-value", "nul-in-value")


@up_case("h3up-message-01", ["RFC9114-4.1.2-4", "RFC9114-4.1.2-1"], over={"field": tuple(FIELDS)})
async def test_a_malformed_response_is_not_accepted(scene: Scene) -> None:
    """A response with a field that makes it malformed does not reach the client as an answer (B-u)."""
    met = await asked(scene)
    met.connection.say(
        met.request.id, headers([OK, FIELDS[scene.variant["field"]]]), DataFrame(b"bad content"), fin=True
    )
    got = await met.got()
    judge_gateway(scene, "RFC9114-4.1.2-4", got, CLIENT_BRANCH)
    judge_gateway(scene, "RFC9114-4.1.2-1", got, "C: any 5xx or aborted stream")
    await upstream_works(scene, "RFC9114-4.1.2-4")


@up_case("h3up-message-02", ["RFC9114-4.2-2"])
async def test_upper_case_of_the_upstream(scene: Scene) -> None:
    """Upper case in a field name of a response makes it malformed (B-u)."""
    await malformed(scene, [OK, FIELDS["upper-case"]], "RFC9114-4.2-2")


@up_case("h3up-message-03", ["RFC9114-10.3-1"], over={"field": NAME_ROWS})
async def test_names_of_the_upstream(scene: Scene) -> None:
    """Octets that no field name has make a response malformed (B-u)."""
    await malformed(scene, [OK, FIELDS[scene.variant["field"]]], "RFC9114-10.3-1")


@up_case("h3up-message-04", ["RFC9114-10.3-2"], over={"field": VALUE_ROWS})
async def test_values_of_the_upstream(scene: Scene) -> None:
    """Octets that no field value has make a response malformed (B-u)."""
    await malformed(scene, [OK, FIELDS[scene.variant["field"]]], "RFC9114-10.3-2")


@up_case("h3up-message-05", ["RFC9114-4.2-3"], over={"field": ("connection", "keep-alive", "upgrade")})
async def test_connection_fields_of_the_upstream(scene: Scene) -> None:
    """Fields about a connection of HTTP/1.1 make a response malformed (B-u)."""
    await malformed(scene, [OK, FIELDS[scene.variant["field"]]], "RFC9114-4.2-3")


@up_case("h3up-message-06", ["RFC9114-4.3-1"], over={"field": ("path", "unknown", "trailers")})
async def test_pseudo_fields_of_the_upstream(scene: Scene) -> None:
    """A pseudo-header field that no response has, or that stands in trailers, makes a response malformed (B-u)."""
    row, what = "RFC9114-4.3-1", scene.variant["field"]
    if what == "trailers":
        await broken(scene, [headers([OK]), DataFrame(b"content"), headers([(b":path", b"/")])], row)
        return
    line = (b":path", b"/") if what == "path" else (b":foo", b"1")
    await malformed(scene, [OK, line, (b"x-a", b"1")], row)


@up_case("h3up-message-07", ["RFC9114-4.3-2"])
async def test_a_late_status(scene: Scene) -> None:
    """:status behind a regular field makes a response malformed (B-u)."""
    await malformed(scene, [(b"x-a", b"1"), OK], "RFC9114-4.3-2")


STATUS: dict[str, list[Line]] = {
    "none": [(b"x-a", b"1")],
    "twice": [OK, OK],
    "2x0": [(b":status", b"2x0")],
    "short": [(b":status", b"20")],
    "long": [(b":status", b"2000")],
    "empty": [(b":status", b"")],
}


@up_case("h3up-message-08", ["RFC9114-4.3.2-1"], over={"status": tuple(STATUS)})
async def test_a_status_that_is_none(scene: Scene) -> None:
    """A response without exactly one :status of three digits is malformed (B-u)."""
    await malformed(scene, STATUS[scene.variant["status"]], "RFC9114-4.3.2-1")


@up_case(
    "h3up-message-09",
    ["RFC9114-4.1.2-3"],
    over={"response": ("short", "long", "none", "head", "204", "304")},
)
async def test_content_of_another_length(scene: Scene) -> None:
    """A response whose content has another length than Content-Length says does not end cleanly at the client; one to
    HEAD, a 204 and a 304 have none and are whole (B-u)."""
    row, what = "RFC9114-4.1.2-3", scene.variant["response"]
    length = (b"content-length", b"5")
    if what in ("short", "long", "none"):
        content = {"short": b"abc", "long": b"abcdefgh", "none": b""}[what]
        frames: list[Frame | bytes] = [headers([OK, length]), *([DataFrame(content)] if content else [])]
        await broken(scene, frames, row)
        return
    status = {"head": b"200", "204": b"204", "304": b"304"}[what]
    met = await asked(scene, "HEAD" if what == "head" else "GET")
    lines = [(b":status", status), *([length] if what != "204" else [])]
    met.connection.say(met.request.id, headers(lines), fin=True)
    got = await met.got()
    whole = isinstance(got, Response) and got.complete and got.status == int(status)
    scene.expect(row, whole, expected=f"the {status.decode()}", actual=told(got))


@up_case("h3up-message-10", ["RFC9114-4.2.2-2"])
async def test_a_section_that_the_upstream_does_not_take(scene: Scene) -> None:
    """An upstream that takes field sections of 4096 octets gets no larger one: the client gets an error (B-u)."""
    row = "RFC9114-4.2.2-2"
    side = upstream(scene, max_field_section_size=4096)
    first = await asked(scene)
    await first.request.respond(200)
    await first.got()
    nonce = scene.nonce().hex()
    client = await scene.http_client(version="http/1.1")
    sent = await client.begin("GET", f"/{nonce}", [(f"x-{n}", "v" * 1000) for n in range(8)], nonce=nonce)
    try:
        got = await sent.outcome()
    except DeadlineExpired:
        got = ExchangeEnd("connection", None, "no answer")
    await scene.settle()
    there = len(side.seen(nonce))
    scene.expect(row, not there, expected="no such section at the upstream", actual=f"{there} requests")
    refused = isinstance(got, Response) and got.status >= 400
    scene.expect(row, refused, expected="431 or another error", actual=told(got))


# The order of frames, and what ends a connection

Stimulus = Callable[[Asked], Awaitable[object]]


async def fault(
    scene: Scene,
    row: str,
    stimulus: Stimulus,
    *named: int,
    stream_abort: str = "",
    leg: str = UPSTREAM_BRANCH,
    first: str = "",
    other: str = "",
) -> None:
    """With a request in flight the upstream does something that is a connection error: the edge closes that connection,
    the client gets a 5xx or a broken exchange, and the next exchange is served on another one.

    `stream_abort` begins the row's branch for an edge that ends the stream alone.
    """
    met = await asked(scene)
    await stimulus(met)
    got = await met.got()
    judge_gateway(scene, row, got, leg or None)
    if stream_abort and met.request.end is not None and met.request.end.kind == "reset":
        scene.allow(row, stream_abort)
    else:
        judge_close(scene, row, await end_of(met.connection), *named, first=first, other=other)
    await upstream_works(scene, row)


def on_control(*frames: Frame | bytes) -> Stimulus:
    """Says these on the upstream's control stream."""

    async def say(met: Asked) -> None:
        met.connection.say_control(*frames)

    return say


def on_stream(*frames: Frame | bytes) -> Stimulus:
    """Says these on the request's stream, and FIN."""

    async def say(met: Asked) -> None:
        met.connection.say(met.request.id, *frames, fin=True)

    return say


@up_case("h3up-order-01", ["RFC9114-4.1-3"], over={"order": ("data-first", "data-last", "headers-last")})
async def test_an_answer_in_no_order(scene: Scene) -> None:
    """DATA in front of HEADERS, DATA or HEADERS behind the trailers of an answer, end its connection (B-u)."""
    tail = headers([(b"x-sum", b"1")])
    frames: dict[str, tuple[Frame, ...]] = {
        "data-first": (DataFrame(b"early"), headers([OK])),
        "data-last": (headers([OK]), DataFrame(b"content"), tail, DataFrame(b"late")),
        "headers-last": (headers([OK]), DataFrame(b"content"), tail, tail),
    }
    say = on_stream(*frames[scene.variant["order"]])
    order = "DATA or HEADERS order fault"
    await fault(scene, "RFC9114-4.1-3", say, E.H3_FRAME_UNEXPECTED, stream_abort=order)


@up_case("h3up-order-02", ["RFC9114-7.1-2"])
async def test_an_answer_cut_by_its_end(scene: Scene) -> None:
    """DATA of ten octets with five of them and FIN ends the upstream's connection; the client has no clean answer."""
    say = on_stream(headers([OK]), DataFrame(b"hello", 10))
    await fault(scene, "RFC9114-7.1-2", say, E.H3_FRAME_ERROR, stream_abort="stream abort instead")


@up_case("h3up-order-03", ["RFC9114-4.1-2"])
async def test_two_answers_on_one_stream(scene: Scene) -> None:
    """Two final responses on one stream: the client gets an error, or one response alone (B-u)."""
    row = "RFC9114-4.1-2"
    met = await asked(scene)
    second = headers([OK, (b"x-second", b"1")])
    met.connection.say(met.request.id, headers([OK]), DataFrame(b"one"), second, DataFrame(b"two"), fin=True)
    got = await met.got()
    if isinstance(got, Response) and got.complete and got.status < 500:
        one = got.body == b"one" and not got.trailers
        scene.expect(row, one, expected="one response", actual=told(got), branch="C: one response only")
    else:
        judge_gateway(scene, row, got, CLIENT_BRANCH)
    await upstream_works(scene, row)


@up_case("h3up-control-01", ["RFC9114-6.2.1-1"], over={"first": ("goaway", "reserved")})
async def test_an_upstream_without_settings_first(scene: Scene) -> None:
    """A control stream of the upstream that begins with another frame than SETTINGS ends its connection."""
    row = "RFC9114-6.2.1-1"
    frames = {"goaway": GoawayFrame(400), "reserved": UnknownFrame(reserved(1))}
    side = upstream(scene, first_frames=frames[scene.variant["first"]].encode())
    client = await scene.http_client(version="http/1.1")
    sent = await client.begin("GET", "/")
    connection = await side.connection(1)
    connection.strict = False
    judge_close(scene, row, await end_of(connection), E.H3_MISSING_SETTINGS)
    for request in side.requests_seen:
        request.claimed = True
    try:
        judge_gateway(scene, row, await sent.outcome(), UPSTREAM_BRANCH)
    except (DeadlineExpired, PeerMismatch) as error:
        scene.depart(row, expected="a 5xx", actual=str(error))


@up_case("h3up-control-02", ["RFC9114-6.1-2"])
async def test_a_bidirectional_stream_of_the_upstream(scene: Scene) -> None:
    """A bidirectional stream that the upstream opens ends its connection."""

    async def open_one(met: Asked) -> None:
        stream = await met.connection.open_stream()
        met.connection.say(stream, headers([(b":method", b"GET")]))

    await fault(scene, "RFC9114-6.1-2", open_one, E.H3_STREAM_CREATION_ERROR)


@up_case("h3up-control-03", ["RFC9114-4.6-1"], over={"what": ("stream", "promise")})
async def test_a_push_that_nobody_asked_for(scene: Scene) -> None:
    """A push stream, or PUSH_PROMISE, of the upstream ends its connection; nothing of it is at the client."""

    async def push(met: Asked) -> None:
        if scene.variant["what"] == "stream":
            await on_uni(met.connection, varint(StreamType.PUSH) + varint(0) + headers([OK]).encode())
        else:
            section = literal_section([(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/pushed")])
            met.connection.say(met.request.id, b"\x05" + varint(1 + len(section)) + varint(0) + section)

    await fault(scene, "RFC9114-4.6-1", push, E.H3_ID_ERROR)


@up_case("h3up-control-04", ["RFC9114-7.2.6-1"])
async def test_a_goaway_that_names_no_request(scene: Scene) -> None:
    """GOAWAY with an id that is no request's ends the upstream's connection."""
    await fault(scene, "RFC9114-7.2.6-1", on_control(GoawayFrame(403)), E.H3_ID_ERROR)


@up_case("h3up-control-05", ["RFC9114-5.2-5"])
async def test_a_goaway_that_rises(scene: Scene) -> None:
    """A second GOAWAY with a larger id ends the upstream's connection."""
    await fault(scene, "RFC9114-5.2-5", on_control(GoawayFrame(400), GoawayFrame(404)), E.H3_ID_ERROR)


@up_case("h3up-control-06", ["RFC9114-7.2.7-1"])
async def test_max_push_id_of_an_upstream(scene: Scene) -> None:
    """MAX_PUSH_ID of the upstream ends its connection."""
    first, other = "CONNECTION_CLOSE with H3_ID_ERROR", "another error code"
    say = on_control(MaxPushIdFrame(4))
    await fault(scene, "RFC9114-7.2.7-1", say, E.H3_FRAME_UNEXPECTED, leg="", first=first, other=other)


@up_case("h3up-control-07", ["RFC9114-7.2.4-1"], over={"where": ("twice", "request")})
async def test_settings_of_an_upstream_in_another_place(scene: Scene) -> None:
    """SETTINGS of the upstream a second time, or on a request stream, end its connection."""
    say = on_control(SettingsFrame()) if scene.variant["where"] == "twice" else on_stream(SettingsFrame())
    await fault(scene, "RFC9114-7.2.4-1", say, E.H3_FRAME_UNEXPECTED)


@up_case("h3up-control-08", ["RFC9114-6.2.1-3"], over={"end": ("fin", "reset")})
async def test_the_end_of_an_upstreams_control_stream(scene: Scene) -> None:
    """FIN or a reset of the upstream's control stream ends its connection."""

    async def end(met: Asked) -> None:
        stream = met.connection.wire.ours[StreamType.CONTROL]
        if scene.variant["end"] == "fin":
            met.connection.say(stream, fin=True)
        else:
            met.connection.reset_stream(stream, E.H3_NO_ERROR)

    await fault(scene, "RFC9114-6.2.1-3", end, E.H3_CLOSED_CRITICAL_STREAM)


@up_case(
    "h3up-control-09",
    ["RFC9114-7.2.4-3", "RFC9114-7.2.8-1", "RFC9114-9-1", "RFC9114-6.2-2", "RFC9114-6.2-3", "RFC9114-4.1-4"],
    over={"what": ("settings", "control-frames", "request-frames", "streams")},
)
async def test_what_has_no_meaning_from_an_upstream(scene: Scene) -> None:
    """Unknown settings, frames and streams of the upstream do no harm: its answers arrive whole, and nothing more."""
    rows = ("RFC9114-7.2.4-3", "RFC9114-7.2.8-1", "RFC9114-9-1", "RFC9114-6.2-2", "RFC9114-6.2-3", "RFC9114-4.1-4")
    what = scene.variant["what"]
    strange = tuple((number, 1) for number in (reserved(0), reserved(5), *UNKNOWN)) if what == "settings" else None
    upstream(scene, settings=strange)
    met = await asked(scene)
    connection = met.connection
    if what == "control-frames":
        for kind in (reserved(0), reserved(3), *UNKNOWN):
            connection.say_control(UnknownFrame(kind, b"nothing"), UnknownFrame(kind))
    elif what == "streams":
        for kind in (reserved(0), *UNKNOWN):
            await on_uni(connection, varint(kind) + b"nothing at all")
            await on_uni(connection, varint(kind) + b"and over", fin=True)
        await on_uni(connection, b"", fin=True)
        connection.reset_stream(await on_uni(connection, b""), E.H3_NO_ERROR)
    await connection.ping()
    odd = [UnknownFrame(reserved(0), b"x"), UnknownFrame(UNKNOWN[1], b"y" * 100)] if what == "request-frames" else []
    tail = headers([(b"x-sum", b"1")])
    with scene.judging(*rows):
        connection.say(
            met.request.id, *odd, headers([OK]), *odd, DataFrame(b"one"), *odd, DataFrame(b"two"), tail, *odd, fin=True
        )
        got = await met.got()
        whole = isinstance(got, Response) and got.complete and got.body == b"onetwo"
        for row in rows:
            scene.expect(row, whole, expected="the whole answer", actual=told(got))
        later = await asked(scene)
        await later.request.respond(200)
        await later.got()


# QPACK


@up_case("h3up-qpack-03", ["RFC9204-7.4-1"], over={"where": ("section-length", "section-overflow", "encoder")})
async def test_lengths_beyond_everything_of_an_upstream(scene: Scene) -> None:
    """A string of 2^62-1 octets, or an integer that overflows: the client gets an error, and the next exchange is
    served."""
    row, where = "RFC9204-7.4-1", scene.variant["where"]
    met = await asked(scene)
    if where == "encoder":
        met.connection.say(met.connection.wire.ours[StreamType.QPACK_ENCODER], integer(1 << 63, 5, 0x40))
        end = await end_of(met.connection)
        closed = end is not None and end.code is not None
        actual = "the connection goes on" if end is None else end.said
        scene.expect(row, closed, expected="CONNECTION_CLOSE", actual=actual, branch="encoder or decoder stream")
    else:
        length = (1 << 62) - 1 if where == "section-length" else 1 << 70
        section = literal_section([OK]) + b"\x23x-a" + integer(length, 7) + b"short"
        met.connection.say(met.request.id, HeadersFrame(section), fin=True)
    got = await met.got()
    judge_gateway(scene, row, got, None)
    await upstream_works(scene, row)


@up_case("h3up-qpack-04", ["RFC9204-2.2.3-1", "RFC9204-3.1-1"], over={"table": ("static", "dynamic")})
async def test_entries_that_do_not_exist_of_an_upstream(scene: Scene) -> None:
    """A reference to an entry that no table has ends the upstream's connection; the client gets an error."""
    static = scene.variant["table"] == "static"
    line = Indexed(99) if static else Indexed(0, False)
    met = await asked(scene)
    met.connection.say(met.request.id, HeadersFrame(Section((Indexed(25), line)).encode()), fin=True)
    got = await met.got()
    end = await end_of(met.connection)
    for row in ("RFC9204-2.2.3-1", "RFC9204-3.1-1"):
        judge_gateway(scene, row, got, UPSTREAM_BRANCH)
        first = "CONNECTION_CLOSE with QPACK_DECOMPRESSION_FAILED"
        judge_close(scene, row, end, E.QPACK_DECOMPRESSION_FAILED, first=first)
    await upstream_works(scene, "RFC9204-2.2.3-1")


@up_case("h3up-qpack-05", ["RFC9204-4.3.1-1"])
async def test_a_capacity_of_an_upstream_above_the_limit(scene: Scene) -> None:
    """Set Dynamic Table Capacity above what the edge announced ends the upstream's connection."""

    async def say(met: Asked) -> None:
        met.connection.instruct(SetCapacity(1 << 28))

    await fault(scene, "RFC9204-4.3.1-1", say, E.QPACK_ENCODER_STREAM_ERROR)
