"""What an HTTP/2 upstream must not say: the edge ends that connection, and its client gets an error (RFC 9113).

Each is said while a request waits at the upstream. The octets are those of `faults`; the next request is served over a
new connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from conformance.http2 import _faults as faults
from conformance.http2._faults import Fault
from conformance.http2._steps import FLOW, GENERIC, PROTOCOL, SIZE, Asked, Goaway, asked, ended_by, judge_end, works
from harness.errors import DeadlineExpired
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import ConnectionEnd, Response
from harness.scene import Scene
from harness.wire.http2 import Setting, blocks, frames

H2C = http(http_version="h2c")
SERVER_PREFACE = "upstream leg: same reaction toward U"


async def _fault(scene: Scene, fault: Fault, said: bytes | None = None) -> None:
    await upstream_error(scene, fault.row, fault.said if said is None else said, allowed=fault.end)


async def _of(scene: Scene, table: Mapping[str, Fault]) -> None:
    await _fault(scene, table[scene.variant["fault"]])


async def upstream_error(scene: Scene, row: str, said: bytes, *, allowed: Goaway = PROTOCOL) -> None:
    """The upstream says these octets while a request waits on stream 1: its connection ends as the row has it, the
    client gets an error, and the next request is served."""
    waiting = await asked(scene)
    waiting.connection.say(said)
    end: ConnectionEnd | None = None
    with scene.judging(row, ends=True):
        end = await ended_by(waiting.connection)
    judge_end(scene, row, end, allowed)
    await _failed_and_serves(scene, row, waiting)


async def _failed_and_serves(scene: Scene, row: str, waiting: Asked) -> None:
    with scene.judging(row, ends=True):
        await waiting.outcome()
        expected = "any 5xx, or an aborted response, at the client"
        scene.expect(row, waiting.failed, expected=expected, actual=waiting.describe())
        await works(scene, await scene.http_client(), scene.http_upstream(version="h2c"))


@case("h2c-fault-01", checks=["RFC9113-6.1-1"], publish=H2C)
async def test_data_on_stream_0(scene: Scene) -> None:
    """DATA on stream 0 ends the upstream connection (RFC 9113 section 6.1)."""
    await _fault(scene, faults.ON_STREAMS["data-on-0"])


@case("h2c-fault-02", checks=["RFC9113-6.2-2"], publish=H2C)
async def test_headers_on_stream_0(scene: Scene) -> None:
    """HEADERS on stream 0 ends the upstream connection (RFC 9113 section 6.2)."""
    await _fault(scene, faults.ON_STREAMS["headers-on-0"], frames.headers(0, blocks.indexed(8), end=True))


@case("h2c-fault-03", checks=["RFC9113-6.5-2"], publish=H2C)
async def test_settings_on_a_stream(scene: Scene) -> None:
    """SETTINGS on stream 1 ends the upstream connection (RFC 9113 section 6.5)."""
    await _fault(scene, faults.ON_STREAMS["settings-on-1"])


@case("h2c-fault-04", checks=["RFC9113-6.7-3"], publish=H2C, over={"fault": ("ping-on-1", "ping-7")})
async def test_a_ping_that_cannot_be(scene: Scene) -> None:
    """PING on stream 1, or of 7 octets, ends the upstream connection (RFC 9113 section 6.7)."""
    await _of(scene, {**faults.ON_STREAMS, **faults.SIZES})


@case("h2c-fault-05", checks=["RFC9113-6.8-6"], publish=H2C)
async def test_goaway_on_a_stream(scene: Scene) -> None:
    """GOAWAY on stream 1 ends the upstream connection (RFC 9113 section 6.8)."""
    await _fault(scene, faults.ON_STREAMS["goaway-on-1"])


@case("h2c-fault-06", checks=["RFC9113-6.4-2"], publish=H2C, over={"stream": ("0", "idle")})
async def test_a_reset_of_no_stream(scene: Scene) -> None:
    """RST_STREAM on stream 0 or on an idle stream ends the upstream connection (RFC 9113 section 6.4)."""
    stream = 0 if scene.variant["stream"] == "0" else faults.IDLE
    await upstream_error(scene, "RFC9113-6.4-2", frames.rst_stream(stream))


@case(
    "h2c-fault-07", checks=["RFC9113-6.10-1"], publish=H2C, over={"fault": ("continuation-alone", "continuation-on-0")}
)
async def test_a_continuation_of_nothing(scene: Scene) -> None:
    """CONTINUATION behind no header section ends the upstream connection (RFC 9113 section 6.10)."""
    await _of(scene, faults.ON_STREAMS)


@case("h2c-fault-08", checks=["RFC9113-5.1-1"], publish=H2C, over={"fault": ("data", "window-update", "continuation")})
async def test_frames_on_an_idle_stream(scene: Scene) -> None:
    """DATA, WINDOW_UPDATE and CONTINUATION on an idle stream end the upstream connection (RFC 9113 section 5.1)."""
    await _of(scene, faults.ON_IDLE)


@case("h2c-fault-09", checks=["RFC9113-6.5-1"], publish=H2C)
async def test_an_acknowledgement_with_a_payload(scene: Scene) -> None:
    """SETTINGS with ACK and 6 octets ends the upstream connection (RFC 9113 section 6.5)."""
    await _fault(scene, faults.SIZES["ack-with-payload"])


@case("h2c-fault-10", checks=["RFC9113-6.5-3"], publish=H2C, over={"fault": ("settings-5", "settings-7")})
async def test_settings_of_an_odd_size(scene: Scene) -> None:
    """SETTINGS of 5 or 7 octets ends the upstream connection (RFC 9113 section 6.5)."""
    await _of(scene, faults.SIZES)


@case("h2c-fault-11", checks=["RFC9113-6.4-3"], publish=H2C, over={"fault": ("rst-3", "rst-5")})
async def test_a_reset_of_an_odd_size(scene: Scene) -> None:
    """RST_STREAM of 3 or 5 octets ends the upstream connection (RFC 9113 section 6.4)."""
    await _of(scene, faults.SIZES)


@case("h2c-fault-12", checks=["RFC9113-6.9-4"], publish=H2C, over={"fault": ("window-3", "window-5")})
async def test_a_window_update_of_an_odd_size(scene: Scene) -> None:
    """WINDOW_UPDATE of 3 or 5 octets ends the upstream connection (RFC 9113 section 6.9)."""
    await _of(scene, faults.SIZES)


@case("h2c-fault-13", checks=["RFC9113-6.1-4"], publish=H2C)
async def test_padding_beyond_the_payload(scene: Scene) -> None:
    """DATA whose padding is as long as its payload ends the upstream connection (RFC 9113 section 6.1)."""
    fault = faults.SIZES["padding-too-long"]
    await _fault(scene, fault, frames.headers(1, blocks.indexed(8)) + fault.said)


@case("h2c-fault-14", checks=["RFC9113-4.2-2"], publish=H2C, over={"frame": ("headers", "padded-empty")})
async def test_a_frame_of_a_size_that_cannot_be(scene: Scene) -> None:
    """HEADERS above the edge's maximum, or with PADDED and no octet, ends the upstream connection (RFC 9113 section
    4.2)."""
    waiting = await asked(scene)
    most = waiting.connection.remote_settings[Setting.MAX_FRAME_SIZE] + 1
    said = (
        frames.headers(1, bytes(most))
        if scene.variant["frame"] == "headers"
        else frames.raw(1, b"", flags=12, stream=1)
    )
    waiting.connection.say(said)
    end: ConnectionEnd | None = None
    row = "RFC9113-4.2-2"
    with scene.judging(row, ends=True):
        end = await ended_by(waiting.connection)
    judge_end(scene, row, end, replace(SIZE, item="FRAME_SIZE_ERROR, PROTOCOL_ERROR or INTERNAL_ERROR", other=""))
    await _failed_and_serves(scene, row, waiting)


@case("h2c-fault-15", checks=["RFC9113-6.5.2-1"], publish=H2C)
async def test_enable_push_2(scene: Scene) -> None:
    """SETTINGS_ENABLE_PUSH 2 ends the upstream connection (RFC 9113 section 6.5.2)."""
    await _fault(scene, faults.VALUES["enable-push-2"])


@case("h2c-fault-16", checks=["RFC9113-6.5.2-5"], publish=H2C)
async def test_an_initial_window_beyond_measure(scene: Scene) -> None:
    """SETTINGS_INITIAL_WINDOW_SIZE 2^31 ends the upstream connection (RFC 9113 section 6.5.2)."""
    await _fault(scene, faults.VALUES["window-2^31"])


@case("h2c-fault-17", checks=["RFC9113-6.5.2-6"], publish=H2C, over={"fault": ("frame-size-16383", "frame-size-2^24")})
async def test_a_frame_size_beyond_measure(scene: Scene) -> None:
    """SETTINGS_MAX_FRAME_SIZE 16383 or 2^24 ends the upstream connection (RFC 9113 section 6.5.2)."""
    await _of(scene, faults.VALUES)


@case("h2c-fault-18", checks=["RFC9113-6.5.2-3"], publish=H2C)
async def test_push_that_a_server_may_not_enable(scene: Scene) -> None:
    """SETTINGS_ENABLE_PUSH 1 of an upstream ends the connection (RFC 9113 section 6.5.2)."""
    await upstream_error(scene, "RFC9113-6.5.2-3", frames.settings([(Setting.ENABLE_PUSH, 1)]))


@case("h2c-fault-19", checks=["RFC9113-6.5.2-4"], publish=H2C)
async def test_a_push(scene: Scene) -> None:
    """PUSH_PROMISE, which the edge has disabled, ends the upstream connection; the client sees nothing of it.

    The promised response is whole on stream 2 (RFC 9113 section 6.5.2).
    """
    row = "RFC9113-6.5.2-4"
    waiting = await asked(scene)
    connection = waiting.connection
    await connection.acknowledged()
    host = (waiting.request.authority or "").encode()
    pushed = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", host), (b":path", b"/pushed")]
    connection.say(
        frames.push_promise(1, 2, blocks.block(pushed)),
        frames.headers(2, blocks.indexed(8) + blocks.literal(b"x-pushed", b"1"), end=True),
    )
    end: ConnectionEnd | None = None
    with scene.judging(row, ends=True):
        end = await ended_by(connection)
    judge_end(scene, row, end)
    await _failed_and_serves(scene, row, waiting)
    pushes = isinstance(waiting.got, Response) and waiting.got.get("x-pushed") is not None
    scene.expect(row, not pushes, expected="nothing pushed at the client", actual=waiting.describe())


@case("h2c-fault-20", checks=["RFC9113-6.9.2-2"], publish=H2C)
async def test_an_initial_window_that_overflows_a_stream(scene: Scene) -> None:
    """An initial window that makes a stream's window 2^31 ends the upstream connection (RFC 9113 section 6.9.2)."""
    await _open_request(scene, faults.VALUES["initial-window-overflow"])


async def _open_request(scene: Scene, fault: Fault) -> None:
    """As `upstream_error`, with a request whose content is still coming: its stream has a window."""
    upstream = scene.http_upstream(version="h2c")
    client = await scene.http_client()
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    waiting = Asked(scene, client, exchange, await upstream.request(nonce))
    waiting.connection.say(fault.said)
    end: ConnectionEnd | None = None
    with scene.judging(fault.row, ends=True):
        end = await ended_by(waiting.connection)
    judge_end(scene, fault.row, end, fault.end)
    await _failed_and_serves(scene, fault.row, waiting)


@case("h2c-fault-21", checks=["RFC9113-6.9-1"], publish=H2C, over={"window": ("stream", "connection")})
async def test_an_increment_of_0(scene: Scene) -> None:
    """WINDOW_UPDATE by 0 ends the stream, or on stream 0 the upstream connection (RFC 9113 section 6.9)."""
    item = "stream 0: GOAWAY with PROTOCOL_ERROR"
    allowed = replace(PROTOCOL, item=item, codes=FLOW.codes, other="", none=item)
    await _window(scene, "RFC9113-6.9-1", 0, allowed, "stream: RST_STREAM with PROTOCOL_ERROR")


@case("h2c-fault-22", checks=["RFC9113-6.9.1-2"], publish=H2C, over={"window": ("stream", "connection")})
async def test_a_window_beyond_measure(scene: Scene) -> None:
    """WINDOW_UPDATE that makes a window 2^31 ends the stream, or on stream 0 the upstream connection (RFC 9113 section
    6.9.1)."""
    item = "connection window: GOAWAY"
    allowed = replace(FLOW, item=item, other="", none=item)
    await _window(scene, "RFC9113-6.9.1-2", faults.LARGEST, allowed, "stream window: RST_STREAM FLOW_CONTROL_ERROR")


async def _window(scene: Scene, row: str, increment: int, allowed: Goaway, branch: str) -> None:
    if scene.variant["window"] == "connection":
        await upstream_error(scene, row, frames.window_update(0, increment), allowed=allowed)
        return
    upstream = scene.http_upstream(version="h2c")
    client = await scene.http_client()
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    waiting = Asked(scene, client, exchange, await upstream.request(nonce))
    waiting.connection.say(frames.window_update(1, increment))
    with scene.judging(row, ends=True):
        end = await waiting.request.ended()
        fine = end.kind != "reset" or end.code in allowed.codes | GENERIC
        scene.expect(row, fine, expected="the end of the stream", actual=str(end), branch=branch)
    await _failed_and_serves(scene, row, waiting)


@case("h2c-fault-23", checks=["RFC9113-4.3-1"], publish=H2C, over={"inside": ("data", "ping")})
async def test_frames_inside_a_field_block(scene: Scene) -> None:
    """Between HEADERS without END_HEADERS and CONTINUATION an upstream may say nothing else (RFC 9113 section 4.3)."""
    await _inside(scene, faults.BLOCKS[scene.variant["inside"]])


@case("h2c-fault-24", checks=["RFC9113-6.2-1"], publish=H2C)
async def test_a_continuation_of_another_stream(scene: Scene) -> None:
    """HEADERS without END_HEADERS on stream 1, then CONTINUATION on stream 3 (RFC 9113 section 6.2)."""
    await _inside(scene, faults.BLOCKS["other-continuation"])


@case("h2c-fault-25", checks=["RFC9113-5.5-2"], publish=H2C)
async def test_an_extension_inside_a_field_block(scene: Scene) -> None:
    """HEADERS without END_HEADERS, a frame of an unknown type, CONTINUATION (RFC 9113 section 5.5)."""
    await _inside(scene, faults.BLOCKS["extension"])


async def _inside(scene: Scene, fault: Fault) -> None:
    begun = frames.headers(1, blocks.indexed(8), end_headers=False)
    await upstream_error(scene, fault.row, begun + fault.said, allowed=fault.end)


def _faults(row: str) -> tuple[str, ...]:
    return tuple(name for name, fault in faults.BAD_BLOCKS.items() if fault.row == row)


@case("h2c-fault-26", checks=["RFC9113-4.3-2"], publish=H2C, over={"fault": _faults("RFC9113-4.3-2")})
async def test_a_block_that_ends_too_early(scene: Scene) -> None:
    """A response's field block that ends inside a string ends the upstream connection (RFC 9113 section 4.3)."""
    fault = faults.BAD_BLOCKS[scene.variant["fault"]]
    said = frames.headers(1, blocks.indexed(8) + fault.said, end=True)
    await upstream_error(scene, fault.row, said, allowed=fault.end)


@case("h2c-fault-27", checks=["RFC7541-5.1-1"], publish=H2C, over={"fault": _faults("RFC7541-5.1-1")})
async def test_integers_beyond_measure(scene: Scene) -> None:
    """A string of 2^40 octets, and an index of twenty continuation octets, in a response (RFC 7541 section 5.1)."""
    fault = faults.BAD_BLOCKS[scene.variant["fault"]]
    said = frames.headers(1, blocks.indexed(8) + fault.said, end=True)
    await upstream_error(scene, fault.row, said, allowed=fault.end)


# The preface


@case("h2c-preface-01", checks=["RFC9113-3.3-2", "RFC9113-3.4-1", "RFC9113-3.4-2", "HTTP-VER-003"], publish=H2C)
async def test_the_edge_begins_with_the_preface(scene: Scene) -> None:
    """Toward an h2c upstream the edge says the 24 octets and SETTINGS first, and acknowledges the upstream's SETTINGS.

    No Upgrade: what comes first is HTTP/2 (RFC 9113 sections 3.3 and 3.4).
    """
    rows = ("RFC9113-3.3-2", "RFC9113-3.4-1", "HTTP-VER-003")
    upstream = scene.http_upstream(version="h2c")
    waiting = None
    with scene.judging(*rows, ends=True):
        waiting = await asked(scene)
    assert waiting is not None
    connection = waiting.connection
    first = connection.seen[0]
    told = ", ".join(first.describe())
    fine = first.describe()[0] == "SETTINGS" and "ACK" not in told
    fine = fine and not any("3.4" in item.section for item in connection.violations)
    for row in rows:
        scene.expect(row, fine, expected="the preface, then SETTINGS without ACK", actual=told)
    with scene.judging("RFC9113-3.4-2", ends=True):
        await connection.acknowledged()
        scene.expect("RFC9113-3.4-2", True, expected="SETTINGS ACK", actual="it came")
    await waiting.request.respond(204)
    assert upstream.connections


@case("h2c-preface-02", checks=["RFC9113-3.4-3", "HTTP-ERR-004"], publish=H2C, over={"answer": ("http1", "garbage")})
async def test_an_upstream_that_speaks_no_http2(scene: Scene) -> None:
    """An h2c upstream that answers in HTTP/1.1, or with garbage: its connection ends, and the client gets a 5xx.

    RFC 9113 section 3.4.
    """
    row = "RFC9113-3.4-3"
    said = {
        "http1": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "garbage": b"\x00garbage, and more of it than a frame header has\r\n",
    }[scene.variant["answer"]]
    upstream = scene.http_upstream(version="h2c", first=said)
    client = await scene.http_client()
    nonce = scene.nonce().hex()
    exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
    with scene.judging(row, "HTTP-ERR-004", ends=True):
        got = await exchange.outcome()
        fine = isinstance(got, Response) and got.status >= 500
        told = got.describe() if isinstance(got, Response) else str(got)
        branch = "502" if isinstance(got, Response) and got.status == 502 else "another 5xx"
        scene.expect("HTTP-ERR-004", fine, expected="502", actual=told, branch=branch)
        scene.expect(row, fine, expected="any 5xx", actual=told, branch=SERVER_PREFACE)
    with scene.judging(row, ends=True):
        try:
            end = await (await upstream.connection(1)).closed()
        except DeadlineExpired:
            scene.depart(row, expected="the end of the upstream connection", actual="it stays")
            return
        scene.expect(row, True, expected="the end", actual=str(end), branch=SERVER_PREFACE)
