"""What the edge says to an HTTP/3 upstream, and how it ends: handshake, streams, cancellation, GOAWAY."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence

from conformance.http3._steps import (
    BEHIND,
    DOWN,
    Asked,
    asked,
    clean,
    judge_gateway,
    told,
    up_case,
    upstream,
)
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.stream import LinkReset
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http3_upstream import Http3UpstreamExchange
from harness.scene import Scene
from harness.wire.http3 import ErrorCode, HeadersFrame, reserved
from harness.wire.http3.qpack import Indexed, Insert, InsertByName, read_section

E = ErrorCode
SECRET = b"Bearer of-nobody-else"
IDLE_SECONDS = 1.0
HOST = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""A name that a ClientHello may carry (RFC 6066 section 3)."""


@up_case("h3up-version-01", ["HTTP-VER-004", "RFC9114-3.2-1", "RFC9114-3.2-2", "RFC9114-6.2-1"])
async def test_how_the_edge_begins(scene: Scene) -> None:
    """The edge offers h3 and nothing else of HTTP, names its upstream where that has a name, begins its control stream
    with SETTINGS, and lets the upstream open three unidirectional streams."""
    met = await asked(scene)
    quic = met.connection.quic
    offered = quic.client_hello.alpn or ()
    scene.expect("HTTP-VER-004", offered == ("h3",), expected="ALPN [h3]", actual=f"ALPN {list(offered)}")
    _judge_name(scene, quic.client_hello.server_name)
    first = met.connection.frames[0].name
    scene.expect("RFC9114-3.2-2", first == "SETTINGS", expected="SETTINGS first", actual=f"{first} first")
    parameters = quic.remote_parameters
    allowed = parameters.initial_max_streams_uni if parameters is not None else 0
    scene.expect("RFC9114-6.2-1", allowed >= 3, expected="at least 3 unidirectional streams", actual=str(allowed))
    await met.request.respond(200)


def _judge_name(scene: Scene, name: str | None) -> None:
    row = "RFC9114-3.2-1"
    if not name:
        scene.record(row, "no server name: the upstream is not known to have one")
        return
    host = HOST.fullmatch(name) is not None and not name.replace(".", "").isdigit()
    scene.expect(row, host, expected="the name of a host, without a dot at its end", actual=name)


@up_case("h3up-stream-01", ["RFC9114-4.1-1", "RFC9114-4.1-7"], over={"method": ("GET", "POST", "POST-trailers")})
async def test_one_message_on_each_stream(scene: Scene) -> None:
    """Each request has a stream of its own, with one header section, content and trailers; the edge ends it right
    behind, and does not wait for the response."""
    what = scene.variant["method"]
    body = None if what == "GET" else b"content"
    trailers = [("x-sum", "1")] if what == "POST-trailers" else []
    ids = []
    for _ in range(3):
        met = await asked(scene, what.partition("-")[0], body=body, trailers=trailers)
        with scene.judging("RFC9114-4.1-7"):
            came = await met.connection.until(lambda: met.request.complete, "FIN behind the request")  # noqa: B023 - awaited
            scene.expect("RFC9114-4.1-7", came, expected="FIN", actual="none")
        stream = met.request.id
        sections = [f for f in met.connection.frames if isinstance(f, HeadersFrame) and f.stream_id == stream]
        most = 1 if what != "POST-trailers" else 2
        scene.expect(
            "RFC9114-4.1-1",
            len(sections) <= most,
            expected=f"at most {most} field sections on stream {stream}",
            actual=f"{len(sections)}",
        )
        ids.append((met.connection.id, stream))
        await met.request.respond(200)
        await met.got()
    scene.expect("RFC9114-4.1-1", len(set(ids)) == 3, expected="three streams", actual=f"{ids}")


@up_case("h3up-stream-02", ["RFC9114-4.1-9"])
async def test_a_whole_answer_before_the_request_is(scene: Scene) -> None:
    """An upstream that answers, and asks for no more of the request with H3_NO_ERROR: the client has all of the
    answer."""
    row = "RFC9114-4.1-9"
    met = await asked(scene, "POST", [("content-length", "100000")], end=False)
    await met.sent.send_content(b"x" * 1000)
    await met.request.read_exactly(1000)
    await met.request.respond(200, body=b"enough")
    met.connection.stop_sending(met.request.id, E.H3_NO_ERROR)
    await met.sent.offer_content(b"x" * 1000)
    got = await met.got()
    whole = isinstance(got, Response) and got.status == 200 and got.body == b"enough"
    scene.expect(row, whole, expected="200 with all of its content", actual=told(got))


@up_case(
    "h3up-stream-03",
    ["RFC9114-4.1.1-3", "RFC9114-4.1.1-1"],
    over={"when": ("waiting", "upload", "response")},
)
async def test_a_client_that_gives_up(scene: Scene) -> None:
    """A request that its client gives up ends at the upstream, in both directions, with H3_REQUEST_CANCELLED, never
    with H3_REQUEST_REJECTED."""
    when = scene.variant["when"]
    met = (
        await asked(scene, "POST", [("content-length", "1000")], end=False) if when == "upload" else await asked(scene)
    )
    if when == "response":
        await met.request.begin_response(200)
        await met.request.send_content(b"some")
        await met.sent.read_some(await met.sent.response_head())
    met.sent.cancel()
    try:
        end = await met.request.ended()
    except (DeadlineExpired, PeerMismatch, LinkReset) as error:
        scene.depart("RFC9114-4.1.1-1", expected="the stream to end", actual=str(error))
        scene.record("RFC9114-4.1.1-3", "no code: the stream goes on")
        return
    ended = end.kind != "complete"
    scene.expect("RFC9114-4.1.1-1", ended, expected="an abort at the upstream", actual=str(end))
    fine = end.code != E.H3_REQUEST_REJECTED
    scene.expect("RFC9114-4.1.1-3", fine, expected="another code than H3_REQUEST_REJECTED", actual=str(end))


@up_case(
    "h3up-stream-04",
    ["RFC9114-4.1.1-5", "RFC9114-5.4-1", "HTTP-ERR-008"],
    over={"end": ("cancelled", "close", "silence")},
)
async def test_a_post_that_the_upstream_read_is_not_sent_again(scene: Scene) -> None:
    """A POST that the upstream has read before it breaks off is not sent a second time, and the client gets an error
    (B-u).

    The stream is reset with H3_REQUEST_CANCELLED; or the connection is closed; or the upstream falls silent until the
    idle timeout.
    """
    rows, how = ("RFC9114-4.1.1-5", "RFC9114-5.4-1", "HTTP-ERR-008"), scene.variant["end"]
    upstream(scene, idle_timeout=IDLE_SECONDS if how == "silence" else 30.0)
    met = await asked(scene, "POST", body=b"once")
    await met.request.body()
    if how == "cancelled":
        met.request.break_off(E.H3_REQUEST_CANCELLED)
    elif how == "close":
        await met.connection.quic.close(E.H3_NO_ERROR)
    else:
        met.connection.abort()
    got = await met.got()
    branches: Sequence[str] = ("any 5xx", "any 5xx", "any 5xx or aborted stream")
    if isinstance(got, ExchangeEnd):
        branches = ("stream aborted", "stream aborted", "any 5xx or aborted stream")
    for row, branch in zip(rows, branches, strict=True):
        judge_gateway(scene, row, got, branch)
    await scene.settle()
    seen = len(upstream(scene).seen(met.nonce))
    for row in rows:
        scene.expect(row, seen == 1, expected="the request once at the upstream", actual=f"{seen} times")


@up_case("h3up-stream-05", ["RFC9114-8-1"], over={"code": ("unknown", "reserved")})
async def test_an_upstream_that_resets_with_a_code_of_its_own(scene: Scene) -> None:
    """A reset with a code that nobody knows cancels the exchange and nothing else: the connection serves the
    next one."""
    row = "RFC9114-8-1"
    met = await asked(scene)
    number = met.connection.id
    met.request.break_off(0x1234_5678 if scene.variant["code"] == "unknown" else reserved(100))
    got = await met.got()
    judge_gateway(scene, row, got, None)
    with scene.judging(row):
        later = await asked(scene)
        await later.request.respond(200)
        same = later.connection.id == number and met.connection.quic.ended is None
        await later.got()
    scene.expect(row, same, expected="the connection to go on", actual=met.connection.end_words())


# GOAWAY


@up_case("h3up-goaway-01", ["RFC9114-5.2-1"])
async def test_no_request_behind_a_goaway(scene: Scene) -> None:
    """Behind GOAWAY of the upstream no new request comes on that connection; the one in flight completes."""
    row = "RFC9114-5.2-1"
    met = await asked(scene)
    met.connection.goaway(met.request.id + 4)
    await met.connection.ping()
    later = [await asked(scene) for _ in range(3)]
    numbers = [each.connection.id for each in later]
    fresh = met.connection.id not in numbers
    scene.expect(row, fresh, expected="another connection", actual=f"{numbers}", branch="new upstream connection")
    await met.request.respond(200, body=b"whole")
    got = await met.got()
    whole = isinstance(got, Response) and got.body == b"whole"
    scene.expect(
        row, whole, expected="the one in flight to complete", actual=told(got), branch="new upstream connection"
    )
    for each in later:
        await each.request.respond(200)


@up_case("h3up-goaway-02", ["RFC9114-5.2-2"], over={"id": ("above", "below")})
async def test_requests_above_and_below_a_goaway(scene: Scene) -> None:
    """A POST above the id of a GOAWAY was not processed, and may be sent once more on another connection; one below it
    is not, when the connection closes (B-u)."""
    row, above = "RFC9114-5.2-2", scene.variant["id"] == "above"
    met = await asked(scene, "POST", body=b"content")
    await met.request.body()
    met.connection.goaway(met.request.id if above else met.request.id + 4)
    with contextlib.suppress(PeerMismatch):  # An edge that needs the connection no more may close it at once.
        await met.connection.ping()
    await met.connection.quic.close(E.H3_NO_ERROR)
    again, got = await _again_or_answered(scene, met)
    if again is not None:
        scene.expect(row, above, expected="no second time", actual="the request once more", branch="above the id")
        await again.respond(200)
        got = await met.got()
        scene.expect(row, clean(got), expected="the answer to the request", actual=told(got), branch="above the id")
    else:
        judge_gateway(scene, row, got, "above the id" if above else "below the id")
    await scene.settle()
    seen = len(upstream(scene).seen(met.nonce))
    most = 2 if above else 1
    scene.expect(row, seen <= most, expected=f"the request at most {most} times", actual=f"{seen} times")


async def _again_or_answered(
    scene: Scene, met: Asked
) -> tuple[Http3UpstreamExchange | None, Response | ExchangeEnd | None]:
    """The same request once more, where the edge sends it again; else what the client gets."""
    again = asyncio.ensure_future(upstream(scene).request(met.nonce))
    got = asyncio.ensure_future(met.got())
    await asyncio.wait((again, got), return_when=asyncio.FIRST_COMPLETED)
    try:
        if again.done() and not again.exception():
            return again.result(), None
        return None, await got
    finally:
        for task in (again, got):
            task.cancel()
        await asyncio.gather(again, got, return_exceptions=True)


@up_case("h3up-goaway-03", ["RFC9114-5.2-4"])
async def test_goaway_of_the_edge_toward_its_upstream(scene: Scene) -> None:
    """Whatever GOAWAY the edge says to an upstream, its ids never rise."""
    met = await asked(scene)
    await met.request.respond(200)
    await met.got()
    met.connection.goaway(met.request.id + 4)
    try:
        await met.connection.closed()
    except DeadlineExpired:
        scene.record("RFC9114-5.2-4", "the edge keeps the connection")
    ids = [getattr(frame, "number", 0) for frame in met.connection.frames if frame.name == "GOAWAY"]
    falls = ids == sorted(ids, reverse=True)
    scene.expect("RFC9114-5.2-4", falls, expected="ids that never rise", actual=f"{ids}")


@up_case("h3up-idle-01", ["RFC9114-5.1-1"])
async def test_a_connection_that_was_idle_for_too_long(scene: Scene) -> None:
    """A request behind the upstream's idle timeout is served, on a new connection."""
    row = "RFC9114-5.1-1"
    upstream(scene, idle_timeout=IDLE_SECONDS)
    met = await asked(scene)
    await met.request.respond(200)
    await met.got()
    await met.connection.closed()
    with scene.judging(row):
        later = await asked(scene)
        await later.request.respond(200, body=b"later")
        got = await later.got()
        served = isinstance(got, Response) and got.status == 200
        scene.expect(row, served, expected="200 on a new connection", actual=told(got))


# QPACK of the edge


@up_case("h3up-qpack-01", ["RFC9204-4.5.4-1", "RFC9204-7.1.3-1"], publish=BEHIND, features=DOWN)
async def test_a_line_that_must_never_be_indexed(scene: Scene) -> None:
    """A field line that comes as a literal with the N bit goes on as one, each time, and enters no table."""
    upstream(scene, table_capacity=4096, blocked_streams=16)
    client = await scene.http_client(version="h3")
    client.strict = False
    for _ in range(3):
        nonce = scene.nonce().hex()
        stream = await client.open_stream()
        fields = [
            (b":method", b"GET"), (b":scheme", b"https"), (b":authority", client.host.encode()),
            (b":path", f"/{nonce}".encode()), (b"edgecase-nonce", nonce.encode()), (b"authorization", SECRET),
        ]  # fmt: skip
        client.headers(stream, fields, never=[b"authorization"], end=True)
        request = await upstream(scene).request(nonce)
        found = read_section(request.head.section).find(b"authorization")
        literal = len(found) == 1 and not isinstance(found[0], Indexed) and found[0].never
        scene.expect("RFC9204-4.5.4-1", literal, expected="a literal with the N bit", actual=f"{found}")
        scene.expect("RFC9204-7.1.3-1", literal, expected="a literal with the N bit", actual=f"{found}")
        said = [each for _, each in request.connection.instructions if isinstance(each, Insert | InsertByName)]
        kept = [each for each in said if each.value == SECRET]
        scene.expect("RFC9204-7.1.3-1", not kept, expected="no insertion of the value", actual=f"{kept}")
        await request.respond(200)
        await client.exchange(stream).response()


@up_case("h3up-qpack-02", ["RFC9204-2.1.2-1", "RFC9204-3.2.3-1"], over={"upstream": ("no-table", "no-blocking")})
async def test_the_edge_respects_the_upstreams_table(scene: Scene) -> None:
    """An upstream without a dynamic table gets no insertions and no references to one; one that lets no stream wait,
    and acknowledges nothing, gets no section that needs an entry."""
    has_table = scene.variant["upstream"] == "no-blocking"
    upstream(scene, table_capacity=4096 if has_table else 0, acknowledge_sections=False)
    counts, inserted = [], []
    for _ in range(3):
        met = await asked(scene, fields=[("x-same", "again and again")])
        await met.request.respond(200)
        await met.got()
        counts.append(read_section(met.request.head.section).insert_count)
        inserted += [each for _, each in met.connection.instructions if isinstance(each, Insert | InsertByName)]
    scene.expect("RFC9204-2.1.2-1", not any(counts), expected="no section that may wait", actual=f"{counts}")
    fits = has_table or not inserted
    scene.expect("RFC9204-3.2.3-1", fits, expected="no insertions", actual=f"{inserted}")


@up_case("h3up-connection-01", ["RFC9114-3.3-1"])
async def test_one_connection_for_many_requests(scene: Scene) -> None:
    """Thirty requests of one client, one behind the other, share an upstream connection, or a few."""
    client = await scene.http_client(version="http/1.1")
    for _ in range(30):
        met = await asked(scene, client=client)
        await met.request.respond(200)
        await met.got()
    count = len(upstream(scene).connections)
    scene.expect("RFC9114-3.3-1", count <= 3, expected="one connection, or a few", actual=f"{count}")
