"""What a client must not say: each ends the connection, and nothing of it is at the upstream (RFC 9113 section 5.4.1).

A reset of the stream alone is not enough, nor is going on. The octets are in `_faults`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hyperframe.frame import GoAwayFrame

from conformance.http2 import _faults as faults
from conformance.http2._faults import Fault, head
from conformance.http2._steps import (
    FLOW,
    GENERIC,
    H2,
    PROTOCOL,
    SIZE,
    connection_error,
    ended_by,
    failed,
    judge_end,
    nothing_whole,
    opened,
    works,
)
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http2 import Http2Client
from harness.scene import Scene
from harness.wire.http2 import ErrorCode, Flag, FrameType, error_name, frames


async def _fault(scene: Scene, fault: Fault) -> None:
    await connection_error(scene, fault.row, fault.said, allowed=fault.end, opens=fault.opens)


async def _of(scene: Scene, table: Mapping[str, Fault]) -> None:
    await _fault(scene, table[scene.variant["fault"]])


# Frames on a stream that is not theirs


@case("h2-fault-01", checks=["RFC9113-6.1-1"], publish=http(), features=H2)
async def test_data_on_stream_0(scene: Scene) -> None:
    """DATA on stream 0 ends the connection (RFC 9113 section 6.1)."""
    await _fault(scene, faults.ON_STREAMS["data-on-0"])


@case("h2-fault-02", checks=["RFC9113-6.2-2"], publish=http(), features=H2)
async def test_headers_on_stream_0(scene: Scene) -> None:
    """HEADERS on stream 0 ends the connection (RFC 9113 section 6.2)."""
    await _fault(scene, faults.ON_STREAMS["headers-on-0"])


@case("h2-fault-03", checks=["RFC9113-6.5-2"], publish=http(), features=H2)
async def test_settings_on_a_stream(scene: Scene) -> None:
    """SETTINGS on stream 1 ends the connection (RFC 9113 section 6.5)."""
    await _fault(scene, faults.ON_STREAMS["settings-on-1"])


@case("h2-fault-04", checks=["RFC9113-6.7-3"], publish=http(), features=H2, over={"fault": ("ping-on-1", "ping-7")})
async def test_a_ping_that_cannot_be(scene: Scene) -> None:
    """PING on stream 1, or of 7 octets, ends the connection (RFC 9113 section 6.7)."""
    await _of(scene, {**faults.ON_STREAMS, **faults.SIZES})


@case("h2-fault-05", checks=["RFC9113-6.8-6"], publish=http(), features=H2)
async def test_goaway_on_a_stream(scene: Scene) -> None:
    """GOAWAY on stream 1 ends the connection (RFC 9113 section 6.8)."""
    await _fault(scene, faults.ON_STREAMS["goaway-on-1"])


@case("h2-fault-06", checks=["RFC9113-6.4-2"], publish=http(), features=H2, over={"stream": ("0", "idle")})
async def test_a_reset_of_no_stream(scene: Scene) -> None:
    """RST_STREAM on stream 0, or on a stream that nobody has opened, ends the connection (RFC 9113 section 6.4)."""
    said = frames.rst_stream(0 if scene.variant["stream"] == "0" else faults.IDLE)
    await connection_error(scene, "RFC9113-6.4-2", said)


@case(
    "h2-fault-07",
    checks=["RFC9113-6.10-1"],
    publish=http(),
    features=H2,
    over={"fault": ("continuation-alone", "continuation-on-0")},
)
async def test_a_continuation_of_nothing(scene: Scene) -> None:
    """CONTINUATION behind a whole header section, or on stream 0, ends the connection (RFC 9113 section 6.10)."""
    await _of(scene, faults.ON_STREAMS)


@case("h2-fault-08", checks=["RFC9113-8.4-1"], publish=http(), features=H2)
async def test_a_push_by_a_client(scene: Scene) -> None:
    """PUSH_PROMISE of a client ends the connection (RFC 9113 section 8.4)."""
    await _fault(scene, faults.ON_STREAMS["push-promise"])


@case("h2-fault-09", checks=["RFC9113-5.1-1"], publish=http(), features=H2, over={"fault": tuple(faults.ON_IDLE)})
async def test_frames_on_an_idle_stream(scene: Scene) -> None:
    """DATA, RST_STREAM, WINDOW_UPDATE and CONTINUATION on a stream that nobody has opened end the connection.

    RFC 9113 section 5.1; for DATA section 6.1 names STREAM_CLOSED, which the row has as well.
    """
    fault = faults.ON_IDLE[scene.variant["fault"]]
    client = await scene.http_client(version="h2")
    upstream = scene.http_upstream()
    await client.settled()
    client.say(fault.said)
    end = None
    with scene.judging(fault.row, ends=True):
        end = await ended_by(client)
    if end is not None and end.code == ErrorCode.STREAM_CLOSED:
        scene.allow(fault.row, "GOAWAY STREAM_CLOSED, then close")
    else:
        judge_end(scene, fault.row, end, fault.end)
    await scene.settle()
    nothing_whole(scene, fault.row, upstream)


# Sizes


@case("h2-fault-10", checks=["RFC9113-6.5-1"], publish=http(), features=H2)
async def test_an_acknowledgement_with_a_payload(scene: Scene) -> None:
    """SETTINGS with ACK and 6 octets ends the connection (RFC 9113 section 6.5)."""
    await _fault(scene, faults.SIZES["ack-with-payload"])


@case(
    "h2-fault-11", checks=["RFC9113-6.5-3"], publish=http(), features=H2, over={"fault": ("settings-5", "settings-7")}
)
async def test_settings_of_an_odd_size(scene: Scene) -> None:
    """SETTINGS of 5 or 7 octets ends the connection (RFC 9113 section 6.5)."""
    await _of(scene, faults.SIZES)


@case("h2-fault-12", checks=["RFC9113-6.4-3"], publish=http(), features=H2, over={"fault": ("rst-3", "rst-5")})
async def test_a_reset_of_an_odd_size(scene: Scene) -> None:
    """RST_STREAM of 3 or 5 octets ends the connection (RFC 9113 section 6.4)."""
    await _of(scene, faults.SIZES)


@case("h2-fault-13", checks=["RFC9113-6.9-4"], publish=http(), features=H2, over={"fault": ("window-3", "window-5")})
async def test_a_window_update_of_an_odd_size(scene: Scene) -> None:
    """WINDOW_UPDATE of 3 or 5 octets ends the connection (RFC 9113 section 6.9)."""
    await _of(scene, faults.SIZES)


@case("h2-fault-14", checks=["RFC9113-6.1-4"], publish=http(), features=H2)
async def test_padding_beyond_the_payload(scene: Scene) -> None:
    """DATA whose Pad Length is that of the whole payload ends the connection (RFC 9113 section 6.1)."""
    await _fault(scene, faults.SIZES["padding-too-long"])


@case(
    "h2-fault-15",
    checks=["RFC9113-4.2-2"],
    publish=http(),
    features=H2,
    over={"frame": ("data", "headers", "settings", "padded-empty")},
)
async def test_a_frame_of_a_size_that_cannot_be(scene: Scene) -> None:
    """A frame above the maximum that the edge has said, or too small for its fields, is an error.

    RFC 9113 section 4.2. DATA one octet above it, for which the stream may end instead; HEADERS and SETTINGS above it,
    and HEADERS with PADDED and no octet.
    """
    row, upstream = "RFC9113-4.2-2", scene.http_upstream()
    client = await scene.http_client(version="h2")
    most = (await client.settled())[5] + 1
    if scene.variant["frame"] == "data":
        await opened(scene, client, upstream)
    said = {
        "data": frames.data(1, bytes(most)),
        "headers": frames.headers(1, bytes(most), end=True),
        "settings": frames.settings([(0xF000, 0)] * (most // 6 + 1)),
        "padded-empty": frames.raw(FrameType.HEADERS, b"", flags=Flag.PADDED | Flag.END_HEADERS, stream=1),
    }[scene.variant["frame"]]
    client.say(said)
    if scene.variant["frame"] == "data" and await _stream_ended(scene, client):
        code = client.wire.streams[1].reset_received
        told = f"RST_STREAM {error_name(code or 0)}"
        branch = "FRAME_SIZE_ERROR, PROTOCOL_ERROR or INTERNAL_ERROR"
        scene.expect(row, code in SIZE.codes, expected="FRAME_SIZE_ERROR", actual=told, branch=branch)
    else:
        end = None
        with scene.judging(row, ends=True):
            end = await ended_by(client)
        judge_end(scene, row, end, replace(SIZE, item="FRAME_SIZE_ERROR, PROTOCOL_ERROR or INTERNAL_ERROR", other=""))
    await scene.settle()
    nothing_whole(scene, row, upstream)


async def _stream_ended(scene: Scene, client: Http2Client) -> bool:
    """Whether the edge reset stream 1 and goes on; a connection error is told by the rest."""
    got: Response | ExchangeEnd | None = None
    with scene.judging("RFC9113-4.2-2", ends=True):
        got = await client.exchange(1, "POST", "/fault").head_or_end()
    return isinstance(got, ExchangeEnd) and got.kind == "reset" and not failed(client)


# Values


@case("h2-fault-16", checks=["RFC9113-6.5.2-1"], publish=http(), features=H2)
async def test_enable_push_2(scene: Scene) -> None:
    """SETTINGS_ENABLE_PUSH 2 ends the connection (RFC 9113 section 6.5.2)."""
    await _fault(scene, faults.VALUES["enable-push-2"])


@case("h2-fault-17", checks=["RFC9113-6.5.2-5"], publish=http(), features=H2)
async def test_an_initial_window_beyond_measure(scene: Scene) -> None:
    """SETTINGS_INITIAL_WINDOW_SIZE 2^31 ends the connection (RFC 9113 section 6.5.2)."""
    await _fault(scene, faults.VALUES["window-2^31"])


@case(
    "h2-fault-18",
    checks=["RFC9113-6.5.2-6"],
    publish=http(),
    features=H2,
    over={"fault": ("frame-size-16383", "frame-size-2^24")},
)
async def test_a_frame_size_beyond_measure(scene: Scene) -> None:
    """SETTINGS_MAX_FRAME_SIZE 16383 or 2^24 ends the connection (RFC 9113 section 6.5.2)."""
    await _of(scene, faults.VALUES)


@case("h2-fault-19", checks=["RFC9113-6.9.2-2"], publish=http(), features=H2)
async def test_an_initial_window_that_overflows_a_stream(scene: Scene) -> None:
    """An initial window that makes a stream's window 2^31 ends the connection (RFC 9113 section 6.9.2).

    The stream's window is 2^31-1 before by WINDOW_UPDATE; then SETTINGS raises the initial window by one.
    """
    await _fault(scene, faults.VALUES["initial-window-overflow"])


@case(
    "h2-fault-20",
    checks=["RFC9113-6.9-1"],
    publish=http(),
    features=H2,
    over={"window": ("stream", "connection")},
)
async def test_an_increment_of_0(scene: Scene) -> None:
    """WINDOW_UPDATE by 0 ends the stream, or on stream 0 the connection (RFC 9113 section 6.9)."""
    if scene.variant["window"] == "connection":
        item = "stream 0: GOAWAY with PROTOCOL_ERROR"
        allowed = replace(PROTOCOL, item=item, codes=GENERIC | {ErrorCode.FLOW_CONTROL_ERROR}, other="", none=item)
        await connection_error(scene, "RFC9113-6.9-1", frames.window_update(0, 0), allowed=allowed)
        return
    await _stream_window(scene, "RFC9113-6.9-1", frames.window_update(1, 0), GENERIC, "stream: RST_STREAM")


@case(
    "h2-fault-21",
    checks=["RFC9113-6.9.1-2"],
    publish=http(),
    features=H2,
    over={"window": ("stream", "connection")},
)
async def test_a_window_beyond_measure(scene: Scene) -> None:
    """WINDOW_UPDATE that makes a window 2^31 ends the stream, or on stream 0 the connection (RFC 9113 section
    6.9.1)."""
    if scene.variant["window"] == "connection":
        item = "connection window: GOAWAY"
        allowed = replace(FLOW, item=item, other="", none=item)
        await connection_error(scene, "RFC9113-6.9.1-2", frames.window_update(0, faults.LARGEST), allowed=allowed)
        return
    said = frames.window_update(1, faults.LARGEST)
    await _stream_window(scene, "RFC9113-6.9.1-2", said, FLOW.codes, "stream window: RST_STREAM FLOW_CONTROL_ERROR")


async def _stream_window(scene: Scene, row: str, said: bytes, codes: frozenset[int], branch: str) -> None:
    """A fault of the window of a stream on which a request has begun: the stream ends, or the connection."""
    upstream = scene.http_upstream()
    client = await scene.http_client(version="h2")
    await client.settled()
    exchange = await opened(scene, client, upstream)
    client.say(said)
    with scene.judging(row, ends=True):
        got = await exchange.head_or_end()
        reset = isinstance(got, ExchangeEnd) and (got.kind != "reset" or got.code in codes or failed(client))
        scene.expect(row, reset, expected="the end of the stream", actual=str(got), branch=branch)
    await scene.settle()
    nothing_whole(scene, row, upstream)


# Field blocks


@case(
    "h2-fault-22", checks=["RFC9113-4.3-1"], publish=http(), features=H2, over={"inside": ("data", "ping", "headers")}
)
async def test_frames_inside_a_field_block(scene: Scene) -> None:
    """Between HEADERS without END_HEADERS and its CONTINUATION nothing else may come (RFC 9113 section 4.3)."""
    await _inside(scene, faults.BLOCKS[scene.variant["inside"]])


@case("h2-fault-23", checks=["RFC9113-6.2-1"], publish=http(), features=H2)
async def test_a_continuation_of_another_stream(scene: Scene) -> None:
    """HEADERS without END_HEADERS on stream 1, then CONTINUATION on stream 3 (RFC 9113 section 6.2)."""
    await _inside(scene, faults.BLOCKS["other-continuation"])


@case("h2-fault-24", checks=["RFC9113-5.5-2"], publish=http(), features=H2)
async def test_an_extension_inside_a_field_block(scene: Scene) -> None:
    """HEADERS without END_HEADERS, a frame of an unknown type, CONTINUATION (RFC 9113 section 5.5)."""
    await _inside(scene, faults.BLOCKS["extension"])


async def _inside(scene: Scene, fault: Fault) -> None:
    begun = head(1, whole=False, end=fault.said[3] != FrameType.DATA)
    await connection_error(scene, fault.row, begun, fault.said, allowed=fault.end)


# Identifiers


@case("h2-fault-25", checks=["RFC9113-5.1.1-1"], publish=http(), features=H2, over={"stream": ("even", "lower")})
async def test_stream_ids_that_cannot_be(scene: Scene) -> None:
    """HEADERS on stream 2, or on stream 3 behind stream 5, ends the connection (RFC 9113 section 5.1.1)."""
    upstream = scene.http_upstream()
    allowed = Fault("", b"").end
    codes = GENERIC | {ErrorCode.STREAM_CLOSED}
    allowed = replace(allowed, item="GOAWAY with PROTOCOL_ERROR, STREAM_CLOSED", codes=codes, other="")
    client = await scene.http_client(version="h2")
    await client.settled()
    client.say(faults.IDS[scene.variant["stream"]])
    end = None
    with scene.judging("RFC9113-5.1.1-1", ends=True):
        end = await ended_by(client)
    judge_end(scene, "RFC9113-5.1.1-1", end, allowed)
    await scene.settle()
    nothing_whole(scene, "RFC9113-5.1.1-1", upstream)


@case("h2-fault-26", checks=["RFC9113-5.1.1-1"], publish=http(), features=H2)
async def test_a_stream_id_that_was_used(scene: Scene) -> None:
    """A second request on a stream that is over is an error of the connection or of the stream, or discarded (RFC 9113
    section 5.1.1)."""
    row, upstream = "RFC9113-5.1.1-1", scene.http_upstream()
    client = await scene.http_client(version="h2")
    await works(scene, client, upstream)
    nonce = scene.nonce().hex()
    again = client.request_fields("GET", f"/{nonce}", nonce=nonce)
    client.say(client.headers(1, again, end=True))
    end = None
    with scene.judging(row, ends=True):
        end = await ended_by(client)
    if end is None:
        code = client.wire.streams[1].reset_received
        if code is not None:
            branch = "reuse of a closed id only"
            told = f"RST_STREAM {error_name(code)}"
            scene.expect(row, code in GENERIC | {5}, expected="RST_STREAM STREAM_CLOSED", actual=told, branch=branch)
        else:
            scene.allow(row, "reuse of a closed id only")
    else:
        codes = GENERIC | {ErrorCode.STREAM_CLOSED}
        judge_end(
            scene, row, end, replace(PROTOCOL, item="GOAWAY with PROTOCOL_ERROR, STREAM_CLOSED", codes=codes, other="")
        )
    await scene.settle()
    nothing_whole(scene, row, upstream)


# The end itself


@case("h2-fault-27", checks=["RFC9113-5.4.1-1", "RFC9113-5.4.1-2", "RFC9113-6.8-5"], publish=http(), features=H2)
async def test_a_connection_error_is_told_and_closes(scene: Scene) -> None:
    """Behind a connection error come GOAWAY, which names the last stream that was processed, and the end of the
    connection.

    One exchange is over on stream 1 when the client says DATA on stream 0; a request behind it has no effect (RFC 9113
    section 5.4.1).
    """
    upstream = scene.http_upstream()
    client = await scene.http_client(version="h2")
    await works(scene, client, upstream)
    later = scene.nonce().hex()
    client.say(frames.data(0, b"fault"), client.headers(3, client.request_fields("GET", f"/{later}"), end=True))
    with scene.judging("RFC9113-5.4.1-2", ends=True):
        end = await client.closed()
        scene.expect("RFC9113-5.4.1-2", True, expected="the end of the connection", actual=str(end))
    told = [frame for frame in client.frames if isinstance(frame, GoAwayFrame)]
    said = ", ".join(f"{error_name(frame.error_code)} with last stream {frame.last_stream_id}" for frame in told)
    scene.expect(
        "RFC9113-5.4.1-1",
        bool(told) and told[-1].error_code != 0 and told[-1].last_stream_id >= 1,
        expected="GOAWAY with a code, and a last stream of at least 1",
        actual=said or "no GOAWAY",
    )
    ids = [frame.last_stream_id for frame in told]
    scene.expect(
        "RFC9113-6.8-5", ids == sorted(ids, reverse=True), expected="ids that never rise", actual=said or "none"
    )
    await scene.settle()
    seen = [request.describe() for request in upstream.seen(later)]
    told_there = "; ".join(seen) or "nothing"
    scene.expect("RFC9113-5.4.1-2", not seen, expected="no effect of what came behind", actual=told_there)
