"""Control streams, settings and unidirectional streams of a client (RFC 9114 sections 6.2 and 7.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from conformance.http3._steps import (
    ask,
    connected,
    down_case,
    end_of,
    ends_connection,
    headers,
    judge_close,
    nothing_there,
    on_stream,
    on_uni,
    settled,
    there_or_refused,
    works,
)
from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.peer.http3 import Http3Client
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene
from harness.wire.http3 import (
    CancelPushFrame,
    DataFrame,
    ErrorCode,
    GoawayFrame,
    MaxPushIdFrame,
    PushPromiseFrame,
    SettingsFrame,
    StreamType,
    UnknownFrame,
    reserved,
)
from harness.wire.http3.qpack import literal_section
from harness.wire.quic.codec import varint

E = ErrorCode
UNKNOWN = (0x40, 0x1234, 0x3FFF_FFFF)
"""Types and settings that nobody has registered, beside the reserved ones (RFC 9114 section 7.2.8)."""
GET = ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"nowhere.test"), (b":path", b"/"))


@down_case("h3-control-01", ["RFC9114-3.2-2", "RFC9114-7.2.4.2-2", "RFC9114-6.2-1"])
async def test_settings_come_first_and_at_once(scene: Scene) -> None:
    """A client that says nothing gets SETTINGS, as the first frame of the control stream; it may open three
    unidirectional streams."""
    client = await scene.http_client(version="h3", streams=())
    with scene.judging("RFC9114-7.2.4.2-2", "RFC9114-3.2-2"):
        await client.settings()
        scene.expect("RFC9114-7.2.4.2-2", True, expected="SETTINGS", actual="SETTINGS")
        first = client.frames[0].name
        scene.expect("RFC9114-3.2-2", first == "SETTINGS", expected="SETTINGS first", actual=f"{first} first")
    parameters = client.quic.remote_parameters
    allowed = parameters.initial_max_streams_uni if parameters is not None else 0
    scene.expect("RFC9114-6.2-1", allowed >= 3, expected="at least 3 unidirectional streams", actual=str(allowed))


@down_case(
    "h3-control-02",
    ["RFC9114-7.2.4-3", "RFC9114-7.2.8-1", "RFC9114-9-1", "RFC9114-6.2-2", "RFC9114-6.2-3", "RFC9114-4.1-4"],
    over={"what": ("settings", "control-frames", "request-frames", "streams", "short-streams")},
)
async def test_what_has_no_meaning_is_ignored(scene: Scene) -> None:
    """Unknown settings, frames and streams do no harm: requests work beside them, and nothing of them goes upstream
    (B-c).

    Streams are sent with data, ended, and reset, some of them before their type is there.
    """
    rows = ("RFC9114-7.2.4-3", "RFC9114-7.2.8-1", "RFC9114-9-1", "RFC9114-6.2-2", "RFC9114-6.2-3", "RFC9114-4.1-4")
    what = scene.variant["what"]
    strange = tuple((number, 1) for number in (reserved(0), reserved(5), *UNKNOWN)) if what == "settings" else None
    client = await connected(scene, settings=strange)
    with scene.judging(*rows):
        await _strange(client, what)
        if what == "request-frames":
            await _among_frames(scene, client)
        await works(scene, client)
        await client.ping()
        await works(scene, client)
    await settled(scene, client)
    for row in rows:
        await nothing_there(scene, row)


async def _strange(client: Http3Client, what: str) -> None:
    if what == "control-frames":
        for kind in (reserved(0), reserved(3), *UNKNOWN):
            client.say_control(UnknownFrame(kind, b"nothing"), UnknownFrame(kind))
    elif what == "streams":
        for kind in (reserved(0), reserved(2), *UNKNOWN):
            await on_uni(client, varint(kind) + b"nothing at all")
            await on_uni(client, varint(kind) + b"and over", fin=True)
            stream = await on_uni(client, varint(kind) + b"and reset")
            client.reset_stream(stream, E.H3_NO_ERROR)
    elif what == "short-streams":
        for octets in (b"", varint(0x1234)[:1]):
            await on_uni(client, octets, fin=True)
            stream = await on_uni(client, octets)
            client.reset_stream(stream, E.H3_NO_ERROR)


async def _among_frames(scene: Scene, client: Http3Client) -> None:
    """A request with strange frames in all places arrives, its content alone."""
    nonce = scene.nonce().hex()
    strange = [UnknownFrame(reserved(0), b"x"), UnknownFrame(UNKNOWN[1], b"y" * 100), UnknownFrame(reserved(9))]
    head = headers(ask(client, nonce, method=b"POST"))
    tail = headers([(b"x-sum", b"1")])
    stream = await on_stream(client, *strange, head, *strange, DataFrame(b"one"), *strange, DataFrame(b"two"), *strange)
    client.say(stream, tail, *strange, fin=True)
    request = await scene.http_upstream().request(nonce)
    body = await request.body()
    if body != b"onetwo":
        raise PeerMismatch("the content 'onetwo' at the upstream", repr(body[:100]))
    await request.respond(200)
    response = await client.exchange(stream).response()
    if response.status != 200:
        raise PeerMismatch("200", response.describe())


# Connection errors, a case for each rule

Stimulus = Callable[[Http3Client], Awaitable[object]]


async def _first_frame(scene: Scene, row: str, frame: bytes) -> None:
    await ends_connection(scene, _nothing, row, E.H3_MISSING_SETTINGS, first_frames=frame)


async def _nothing(client: Http3Client) -> None:
    """The options of the client say it all."""


@down_case("h3-control-03", ["RFC9114-6.2.1-1"], over={"first": ("goaway", "reserved", "data")})
async def test_another_frame_in_front_of_settings(scene: Scene) -> None:
    """A control stream that begins with another frame than SETTINGS ends the connection (B-e)."""
    frames = {"goaway": GoawayFrame(0), "reserved": UnknownFrame(reserved(1)), "data": DataFrame(b"x")}
    await _first_frame(scene, "RFC9114-6.2.1-1", frames[scene.variant["first"]].encode())


@down_case("h3-control-04", ["RFC9114-6.2.1-2"])
async def test_a_second_control_stream(scene: Scene) -> None:
    """A second control stream ends the connection (B-e)."""

    async def second(client: Http3Client) -> None:
        await on_uni(client, varint(StreamType.CONTROL) + SettingsFrame().encode())

    await ends_connection(scene, second, "RFC9114-6.2.1-2", E.H3_STREAM_CREATION_ERROR)


@down_case("h3-control-05", ["RFC9114-6.2.1-3"], over={"end": ("fin", "reset")})
async def test_the_end_of_the_control_stream(scene: Scene) -> None:
    """FIN or a reset of the control stream ends the connection (B-e)."""

    async def end(client: Http3Client) -> None:
        await works(scene, client)
        _end(client, client.wire.ours[StreamType.CONTROL], scene.variant["end"])

    await ends_connection(scene, end, "RFC9114-6.2.1-3", E.H3_CLOSED_CRITICAL_STREAM)


def _end(client: Http3Client, stream: int, how: str) -> None:
    if how == "fin":
        client.say(stream, fin=True)
    else:
        client.reset_stream(stream, E.H3_NO_ERROR)


@down_case("h3-control-06", ["RFC9114-6.2.2-1"])
async def test_a_push_stream_of_a_client(scene: Scene) -> None:
    """A push stream that a client opens ends the connection (B-e)."""

    async def push(client: Http3Client) -> None:
        await on_uni(client, varint(StreamType.PUSH) + varint(0))

    await ends_connection(scene, push, "RFC9114-6.2.2-1", E.H3_STREAM_CREATION_ERROR)


@down_case("h3-control-07", ["RFC9114-7.2.1-1"])
async def test_data_on_the_control_stream(scene: Scene) -> None:
    """DATA on the control stream ends the connection (B-e)."""

    async def data(client: Http3Client) -> None:
        client.say_control(DataFrame(b"x"))

    await ends_connection(scene, data, "RFC9114-7.2.1-1", E.H3_FRAME_UNEXPECTED)


@down_case("h3-control-08", ["RFC9114-7.2.2-1"])
async def test_headers_on_the_control_stream(scene: Scene) -> None:
    """HEADERS on the control stream end the connection (B-e)."""

    async def head(client: Http3Client) -> None:
        client.say_control(headers(ask(client, scene.nonce().hex())))

    await ends_connection(scene, head, "RFC9114-7.2.2-1", E.H3_FRAME_UNEXPECTED)


@down_case("h3-control-09", ["RFC9114-7.2.4-1"], over={"where": ("twice", "request")})
async def test_settings_in_another_place(scene: Scene) -> None:
    """SETTINGS a second time, or on a request stream, end the connection (B-e)."""

    async def settings(client: Http3Client) -> None:
        if scene.variant["where"] == "twice":
            client.say_control(SettingsFrame())
        else:
            await on_stream(client, headers(ask(client, scene.nonce().hex(), method=b"POST")), SettingsFrame())

    await ends_connection(scene, settings, "RFC9114-7.2.4-1", E.H3_FRAME_UNEXPECTED, partial=True)


@down_case("h3-control-10", ["RFC9114-7.2.4.1-1"], over={"setting": ("0x02", "0x03", "0x04", "0x05")})
async def test_settings_of_http2(scene: Scene) -> None:
    """A setting of HTTP/2 that HTTP/3 has reserved ends the connection (B-e)."""
    number = int(scene.variant["setting"], 16)
    await ends_connection(scene, _nothing, "RFC9114-7.2.4.1-1", E.H3_SETTINGS_ERROR, settings=((number, 1),))


@down_case("h3-control-11", ["RFC9114-7.2.5-1"])
async def test_a_promise_of_a_client(scene: Scene) -> None:
    """PUSH_PROMISE of a client ends the connection (B-e)."""

    async def promise(client: Http3Client) -> None:
        head = headers(ask(client, scene.nonce().hex(), method=b"POST"))
        await on_stream(client, head, PushPromiseFrame(0, literal_section(GET)))

    await ends_connection(scene, promise, "RFC9114-7.2.5-1", E.H3_FRAME_UNEXPECTED, partial=True)


@down_case(
    "h3-control-12",
    ["RFC9114-7.2.8-2"],
    over={"frame": ("priority", "ping", "window-update", "continuation"), "where": ("control", "request")},
)
async def test_frames_of_http2(scene: Scene) -> None:
    """A frame that only HTTP/2 has ends the connection, wherever it is sent (B-e)."""
    kinds = {"priority": 0x02, "ping": 0x06, "window-update": 0x08, "continuation": 0x09}
    frame = UnknownFrame(kinds[scene.variant["frame"]], bytes(8))

    async def say(client: Http3Client) -> None:
        if scene.variant["where"] == "control":
            client.say_control(frame)
        else:
            await on_stream(client, headers(ask(client, scene.nonce().hex(), method=b"POST")), frame)

    await ends_connection(scene, say, "RFC9114-7.2.8-2", E.H3_FRAME_UNEXPECTED, partial=True)


@down_case(
    "h3-control-13",
    ["RFC9114-7.1-1", "RFC9114-10.8-1"],
    over={"frame": ("half-a-setting", "goaway-and-more", "empty-max-push-id", "headers-cut")},
)
async def test_fields_that_do_not_fill_their_frame(scene: Scene) -> None:
    """A frame whose fields end before or behind its length ends the connection (B-e).

    Half a pair in SETTINGS; GOAWAY with octets behind its id; MAX_PUSH_ID without an id; HEADERS whose last string is
    longer than the frame.
    """
    what = scene.variant["frame"]
    octets = {"goaway-and-more": b"\x07\x03\x00\x00\x00", "empty-max-push-id": b"\x0d\x00"}

    async def say(client: Http3Client) -> None:
        if what in octets:
            client.say_control(octets[what])
        elif what == "headers-cut":
            section = literal_section(ask(client, scene.nonce().hex()))[:-3]
            await on_stream(client, b"\x01" + varint(len(section)) + section, fin=True)

    broken = b"\x04\x02\x06\x41" if what == "half-a-setting" else None
    client: Http3Client = await scene.http_client(version="h3", settings_frame=broken)
    client.strict = False
    await say(client)
    end = await end_of(client)
    judge_close(scene, "RFC9114-7.1-1", end, E.H3_FRAME_ERROR)
    if what == "headers-cut" and end is not None and end.code == E.QPACK_DECOMPRESSION_FAILED:
        scene.allow("RFC9114-10.8-1", "QPACK_DECOMPRESSION_FAILED")
    else:
        judge_close(scene, "RFC9114-10.8-1", end, E.H3_FRAME_ERROR)
    await scene.settle()
    await nothing_there(scene, "RFC9114-7.1-1")
    await nothing_there(scene, "RFC9114-10.8-1")


@down_case("h3-control-14", ["RFC9114-7.2.3-1"], over={"where": ("control", "request")})
async def test_cancel_push_of_nothing(scene: Scene) -> None:
    """CANCEL_PUSH for a push that nobody promised, or on a request stream, ends the connection (B-e)."""

    async def cancel(client: Http3Client) -> None:
        if scene.variant["where"] == "control":
            client.say_control(CancelPushFrame(7))
        else:
            await on_stream(client, headers(ask(client, scene.nonce().hex(), method=b"POST")), CancelPushFrame(7))

    named = E.H3_ID_ERROR if scene.variant["where"] == "control" else E.H3_FRAME_UNEXPECTED
    row = "RFC9114-7.2.3-1"
    first, other = "CONNECTION_CLOSE with H3_ID_ERROR", "another error code"
    await ends_connection(scene, cancel, row, named, first=first, other=other, partial=True)


@down_case("h3-control-15", ["RFC9114-7.2.7-1"], over={"how": ("request", "falls")})
async def test_max_push_id_in_the_wrong_place_or_falling(scene: Scene) -> None:
    """MAX_PUSH_ID on a request stream, or one that is lower than the last, ends the connection (B-e)."""

    async def say(client: Http3Client) -> None:
        if scene.variant["how"] == "falls":
            client.say_control(MaxPushIdFrame(8), MaxPushIdFrame(4))
        else:
            await on_stream(client, headers(ask(client, scene.nonce().hex(), method=b"POST")), MaxPushIdFrame(4))

    named = E.H3_ID_ERROR if scene.variant["how"] == "falls" else E.H3_FRAME_UNEXPECTED
    first, other = "CONNECTION_CLOSE with H3_ID_ERROR", "another error code"
    await ends_connection(scene, say, "RFC9114-7.2.7-1", named, first=first, other=other, partial=True)


@down_case("h3-control-16", ["RFC9204-4.2-1"], over={"stream": ("encoder", "decoder")})
async def test_a_second_qpack_stream(scene: Scene) -> None:
    """A second encoder or decoder stream ends the connection (B-e)."""
    kind = StreamType.QPACK_ENCODER if scene.variant["stream"] == "encoder" else StreamType.QPACK_DECODER

    async def second(client: Http3Client) -> None:
        await on_uni(client, varint(kind))

    await ends_connection(scene, second, "RFC9204-4.2-1", E.H3_STREAM_CREATION_ERROR)


@down_case("h3-control-17", ["RFC9204-4.2-2"], over={"stream": ("encoder", "decoder"), "end": ("fin", "reset")})
async def test_the_end_of_a_qpack_stream(scene: Scene) -> None:
    """FIN or a reset of the encoder or decoder stream ends the connection (B-e)."""
    kind = StreamType.QPACK_ENCODER if scene.variant["stream"] == "encoder" else StreamType.QPACK_DECODER

    async def end(client: Http3Client) -> None:
        await works(scene, client)
        _end(client, client.wire.ours[kind], scene.variant["end"])

    await ends_connection(scene, end, "RFC9204-4.2-2", E.H3_CLOSED_CRITICAL_STREAM)


@down_case("h3-control-18", ["RFC9114-6.2-3", "RFC9114-7.2.4-2"])
async def test_a_setting_twice(scene: Scene) -> None:
    """A setting that stands twice is refused or tolerated: either way the next client is served (RFC 9114 section
    7.2.4)."""
    client: Http3Client = await scene.http_client(version="h3", settings=((6, 4096), (6, 8192)))
    client.strict = False
    nonce = scene.nonce().hex()
    try:
        sent = await client.begin("GET", f"/{nonce}", nonce=nonce)
        found = await there_or_refused(scene, client, sent, nonce)
    except (PeerMismatch, LinkReset):
        found = client.exchange_end()
    if isinstance(found, UpstreamExchange):
        await found.respond(200)
        scene.record("RFC9114-7.2.4-2", "tolerated")
    else:
        scene.record("RFC9114-7.2.4-2", f"refused: {found}")
    with scene.judging("RFC9114-6.2-3"):
        response = await works(scene, await connected(scene))
        scene.expect("RFC9114-6.2-3", response.status == 200, expected="200", actual=response.describe())


@down_case("h3-control-19", ["RFC9204-4.2-3"], over={"streams": ("both", "none")})
async def test_qpack_streams_that_are_not_used(scene: Scene) -> None:
    """A client without a dynamic table may open both QPACK streams, or none: its requests work (RFC 9204 section
    4.2)."""
    three = (StreamType.CONTROL, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER)
    streams = three if scene.variant["streams"] == "both" else three[:1]
    client = await connected(scene, streams=streams)
    with scene.judging("RFC9204-4.2-3"):
        for _ in range(2):
            response = await works(scene, client)
            scene.expect("RFC9204-4.2-3", response.status == 200, expected="200", actual=response.describe())


@down_case("h3-control-20", ["RFC9114-6.1-1"])
async def test_a_hundred_requests_at_once(scene: Scene) -> None:
    """A client may have at least 100 requests open (RFC 9114 section 6.1)."""
    client = await connected(scene)
    allowed = client.quic.wire.streams_available(bidirectional=True)
    scene.expect("RFC9114-6.1-1", allowed >= 100, expected="100 requests at once", actual=f"{allowed}")
