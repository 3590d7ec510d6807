"""HTTP/3 towards upstreams, from HTTP/3 clients and from HTTP/1.1 ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aioquic.h3.connection import ErrorCode

from tests.engine_h3_support import (
    CANCEL_PUSH,
    DATA,
    GOAWAY,
    MAX_PUSH_ID,
    OK,
    POST,
    PUSH,
    PUSH_PROMISE,
    H3Site,
    H3Stock,
    H3Upstream,
    frame,
    h3_site,
    headers,
    number,
    on,
    section,
    settings,
)
from tests.engine_quic_support import run, until

ASK = on("h")
TELL = on("h", POST)


async def asked(
    site: H3Site, client: H3Stock, *args: Any, nth: int = 0, count: int = 1, **options: Any
) -> tuple[int, H3Upstream, int]:
    """A request, its upstream connection, and its stream there: the `count`-th."""
    stream = client.request(*(args or (ASK,)), **options)
    upstream = await site.upstream(nth)
    return stream, upstream, (await upstream.requests(count))[-1]


def test_a_request_and_its_response() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            fields = [*ASK[:3], (b":path", b"/a?b"), (b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
            stream, upstream, there = await asked(site, client, fields)
            message = await upstream.answer(there)
            assert upstream.alpn == "h3"
            assert upstream.hello is not None
            assert upstream.hello.server_name == "h.t.edge.test"
            assert {
                name: message.fields[name] for name in (b":method", b":scheme", b":path", b":authority", b"x-a")
            } == {
                b":method": b"GET",
                b":scheme": b"https",
                b":path": b"/a?b",
                b":authority": b"h.t.edge.test",
                b"x-a": b"1",
            }
            assert message.fields[b"cookie"] == b"a=1; b=2"
            assert not {b"host", b"connection", b"transfer-encoding"} & set(message.fields)
            upstream.respond(there, [*OK, (b"x-b", b"2")], b"hello")
            answer = await client.answer(stream)
            assert (answer.status, answer.fields[b"x-b"], answer.body) == (200, b"2", b"hello")
            assert site.sources[0] is not None
            assert site.sources[0].host == "127.0.0.1"

    run(main())


def test_content_both_ways_with_trailers_and_interim_responses() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            body = bytes(range(256)) * 3_000
            stream, upstream, there = await asked(
                site, client, [*TELL, (b"te", b"trailers")], body, trailers=[(b"x-t", b"1")]
            )
            message = await upstream.answer(there)
            assert message.body == body
            assert message.trailers == {b"x-t": b"1"}
            assert message.fields[b"te"] == b"trailers"
            upstream.h3.send_headers(there, [(b":status", b"103"), (b"link", b"x")])
            upstream.respond(there, OK, body, trailers=[(b"x-sum", b"7")])
            answer = await client.answer(stream)
            assert answer.informational[0][b"link"] == b"x"
            assert answer.body == body
            assert answer.trailers == {b"x-sum": b"7"}

    run(main())


def test_requests_share_one_connection() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client, site.client("a") as other:
            streams = [client.request([*ASK[:3], (b":path", b"/%d" % count)]) for count in range(20)]
            upstream = await site.upstream()
            there = {upstream.messages[one].fields[b":path"]: one for one in await upstream.requests(20)}
            for count in reversed(range(20)):
                upstream.respond(there[b"/%d" % count], OK, b"%d" % count)
                assert (await client.answer(streams[count])).body == b"%d" % count
            stream = other.request(ASK)
            upstream.respond((await upstream.requests(21))[-1], OK, b"x")
            assert (await other.answer(stream)).body == b"x"
            assert len(site.upstreams) == 1

    run(main())


def test_an_upstream_that_allows_few_streams_gets_more_connections() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            site.allowed = 2
            streams = [client.request(ASK) for _ in range(5)]
            await until(lambda: sum(len(one.messages) for one in site.upstreams if one.there) == len(streams))
            for upstream in site.upstreams:
                for there in await upstream.requests(len(upstream.messages)):
                    upstream.respond(there, OK, b"x")
            assert [(await client.answer(stream)).body for stream in streams] == [b"x"] * 5
            assert len(site.upstreams) > 1

    run(main())


def test_head_options_and_no_content() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            fields = [(b":method", b"OPTIONS"), *ASK[1:3], (b":path", b"*")]
            stream, upstream, there = await asked(site, client, fields)
            assert upstream.messages[there].fields[b":path"] == b"*"
            upstream.respond(there, [(b":status", b"204")])
            assert (await client.answer(stream)).status == 204
            stream, upstream, there = await asked(site, client, [(b":method", b"HEAD"), *ASK[1:]], count=2)
            upstream.respond(there, [*OK, (b"content-length", b"12")])
            # A stock client takes the length for that of the content.
            await client.until(lambda: stream in client.ended)
            assert section([(b"content-length", b"12")])[2:] in client.got(stream)

    run(main())


# -- what an upstream does wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [
        headers([(b"a", b"b")]),
        headers([(b":status", b"2x0")]),
        headers([(b":status", b"101")]),
        headers([*OK, (b"A", b"b")]),
        headers([*OK, (b"a", b"b\r\nc: d")]),
        headers([*OK, (b"connection", b"close")]),
        headers([*OK, (b"transfer-encoding", b"chunked")]),
        headers([*OK, (b":path", b"/")]),
        headers([*OK, *OK]),
        headers([*OK, (b"content-length", b"x")]),
        headers([*OK, *((b"a%d" % one, b"") for one in range(200))]),
    ],
)
def test_a_malformed_response_is_a_bad_gateway(octets: bytes) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.write(there, octets, end=True)
            assert (await client.answer(stream)).status == 502
            stream, upstream, there = await asked(site, client, count=2)
            upstream.respond(there, OK, b"still here")
            assert (await client.answer(stream)).body == b"still here"

    run(main())


@pytest.mark.parametrize("octets", [b"", headers([(b":status", b"103")])])
def test_a_response_that_never_comes(octets: bytes) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.write(there, octets, end=True)
            assert (await client.answer(stream)).status == 502

    run(main())


@pytest.mark.parametrize(
    "octets",
    [
        frame(DATA, b"abc"),
        frame(DATA, b"abcdef") + frame(DATA, b"ghijklm"),
        frame(DATA, b"abcdefghij") + headers([(b"X", b"y")]),
    ],
)
def test_content_that_is_malformed_never_ends_cleanly(octets: bytes) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.write(there, headers([*OK, (b"content-length", b"10")]))
            await client.head(stream)
            upstream.write(there, octets, end=True)
            assert await client.aborted(stream) == ErrorCode.H3_INTERNAL_ERROR
            assert stream not in client.ended

    run(main())


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(DATA, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
        (headers(OK) + frame(GOAWAY, b"\x00"), ErrorCode.H3_FRAME_UNEXPECTED),
        (headers(OK)[:-1], ErrorCode.H3_FRAME_ERROR),
        (frame(1, b"\x00\x00\x80"), ErrorCode.QPACK_DECOMPRESSION_FAILED),
        (frame(PUSH_PROMISE, b"\x00" + section(ASK)), ErrorCode.H3_ID_ERROR),
    ],
)
def test_a_connection_error_of_an_upstream(octets: bytes, code: int) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.write(there, octets, end=True)
            assert await upstream.code() == code
            await client.until(lambda: client.over or stream in client.resets or client.message(stream).ended)
            assert client.message(stream).status in (0, 502) or stream in client.resets
            stream, upstream, there = await asked(site, client, nth=1)
            upstream.respond(there, OK, b"again")
            assert (await client.answer(stream)).body == b"again"

    run(main())


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(MAX_PUSH_ID, b"\x00"), ErrorCode.H3_FRAME_UNEXPECTED),
        (settings(), ErrorCode.H3_FRAME_UNEXPECTED),
        (frame(GOAWAY, b"\x03"), ErrorCode.H3_ID_ERROR),
        (frame(GOAWAY, b"\x08") + frame(GOAWAY, b"\x0c"), ErrorCode.H3_ID_ERROR),
        (frame(CANCEL_PUSH, b"\x00"), ErrorCode.H3_ID_ERROR),
        (frame(DATA, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
    ],
)
def test_what_an_upstream_may_not_say_on_its_control_stream(octets: bytes, code: int) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            _, upstream, _ = await asked(site, client)
            upstream.control(octets)
            assert await upstream.code() == code

    run(main())


def test_streams_that_an_upstream_may_not_open() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            for nth, (octets, unidirectional, code) in enumerate(
                [
                    (headers(OK), False, ErrorCode.H3_STREAM_CREATION_ERROR),
                    (PUSH + b"\x00", True, ErrorCode.H3_ID_ERROR),
                    (b"\x00", True, ErrorCode.H3_STREAM_CREATION_ERROR),
                ]
            ):
                _, upstream, _ = await asked(site, client, nth=nth)
                upstream.say(octets, unidirectional=unidirectional)
                assert await upstream.code() == code

    run(main())


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["reset", "stop"])
def test_a_client_that_gives_up_is_noticed_upstream(way: str) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client, TELL, b"abc", end=False)
            await upstream.until(lambda: upstream.message(there).body == b"abc")
            if way == "reset":
                client.reset(stream, ErrorCode.H3_REQUEST_CANCELLED)
            else:
                client.stop(stream, ErrorCode.H3_REQUEST_CANCELLED)
            await upstream.until(lambda: there in upstream.resets and there in upstream.stops)
            assert upstream.resets[there] == upstream.stops[there] == ErrorCode.H3_REQUEST_CANCELLED
            assert upstream.over is None

    run(main())


@pytest.mark.parametrize("code", [ErrorCode.H3_INTERNAL_ERROR, ErrorCode.H3_NO_ERROR, 0x1234_5678])
@pytest.mark.parametrize("begun", [False, True])
def test_an_upstream_that_breaks_off(code: int, begun: bool) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client, TELL)
            if begun:
                upstream.respond(there, OK, b"abc", end=False)
                await client.until(lambda: client.message(stream).body == b"abc")
                upstream.reset(there, code)
                assert await client.aborted(stream) == ErrorCode.H3_INTERNAL_ERROR
            else:
                upstream.reset(there, code)
                assert (await client.answer(stream)).status == 502
            assert len(upstream.messages) == 1

    run(main())


def test_a_rejected_request_goes_out_again() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client, TELL)
            upstream.reset(there, ErrorCode.H3_REQUEST_REJECTED)
            again = await site.upstream(1)
            again.respond((await again.requests())[0], OK, b"again")
            assert (await client.answer(stream)).body == b"again"

    run(main())


def test_a_request_above_a_goaway_goes_out_again() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            first, upstream, one = await asked(site, client)
            second, _, two = await asked(site, client, TELL, count=2)
            upstream.control(frame(GOAWAY, number(two)))
            again = await site.upstream(1)
            again.respond((await again.requests())[0], OK, b"again")
            assert (await client.answer(second)).body == b"again"
            await upstream.until(lambda: two in upstream.stops)
            assert upstream.stops[two] == ErrorCode.H3_REQUEST_CANCELLED
            third, _, _ = await asked(site, client, nth=1, count=2)
            again.respond((await again.requests(2))[-1], OK, b"third")
            assert (await client.answer(third)).body == b"third"
            upstream.respond(one, OK, b"first")
            assert (await client.answer(first)).body == b"first"
            assert await upstream.code() == ErrorCode.H3_NO_ERROR

    run(main())


def test_a_request_that_may_have_been_seen_does_not_go_out_again() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, _ = await asked(site, client, TELL)
            upstream.close(ErrorCode.H3_INTERNAL_ERROR)
            assert (await client.answer(stream)).status == 502
            assert len(site.upstreams) == 1

    run(main())


def test_an_early_response_while_the_request_is_not_read() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client, TELL, b"abc", end=False)
            upstream.stop(there, ErrorCode.H3_NO_ERROR)
            upstream.respond(there, OK, b"early")
            assert (await client.answer(stream)).body == b"early"
            await client.until(lambda: stream in client.stops)
            assert client.stops[stream] == ErrorCode.H3_NO_ERROR

    run(main())


def test_a_slow_upstream_holds_its_own_stream_alone() -> None:
    async def main() -> None:
        async with h3_site(stream_buffer_bytes=65_536) as site, site.client("h") as client:
            site.upstream_side = {"max_stream_data": 20_000, "max_data": 1 << 24}
            stream, upstream, there = await asked(site, client, TELL, bytes(3_000_000), end=False)
            upstream.quic._write_stream_limits = lambda *args, **options: None  # type: ignore[method-assign]
            other, _, fast = await asked(site, client, count=2)
            upstream.respond(fast, OK, b"ok")
            assert (await client.answer(other)).body == b"ok"
            assert len(upstream.message(there).body) < 1_000_000
            assert stream not in client.resets

    run(main())


def test_an_upstream_that_takes_small_heads_only() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.respond(there)
            await client.answer(stream)
            connection = site.engine.http.upstreams.shared._kept[("id-h", "127.0.0.1")][0]
            connection.codec._received_settings = {6: 1_000}  # type: ignore[attr-defined]
            assert (await client.answer(client.request([*ASK, (b"a", b"b" * 2_000)]))).status == 431
            assert len(upstream.messages) == 1

    run(main())


def test_an_upstream_that_is_silent() -> None:
    async def main() -> None:
        async with h3_site(http_response_timeout_ms=60) as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            assert (await client.answer(stream)).status == 504
            await upstream.until(lambda: there in upstream.stops)
            assert upstream.over is None

    run(main())


def test_an_upstream_that_is_not_there() -> None:
    async def main() -> None:
        async with h3_site(handshake_timeout_ms=300) as site, site.client("h") as client:
            site.connector.refuse = "refused"
            assert (await client.answer(client.request(ASK))).status == 502
            site.connector.refuse = None
            site.alpns = ("x",)
            assert (await client.answer(client.request(ASK))).status == 502
            for one in site.upstreams:
                one.forget()

    run(main())


def test_an_upstream_connection_ends_when_it_is_idle_and_with_its_tunnel() -> None:
    async def main() -> None:
        async with h3_site(upstream_idle_ms=30) as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.respond(there)
            await client.answer(stream)
            assert await upstream.code() == ErrorCode.H3_NO_ERROR
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.respond(there)
            await client.answer(stream)
            site.engine.registry.remove(site.h)
            assert await upstream.code() == ErrorCode.H3_NO_ERROR

    run(main())


def test_a_connection_that_went_away_while_it_was_idle() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client)
            upstream.respond(there)
            await client.answer(stream)
            upstream.close(ErrorCode.H3_NO_ERROR)
            await until(lambda: site.engine.http.upstreams.shared.size == 0)
            stream, upstream, there = await asked(site, client, nth=1)
            upstream.respond(there, OK, b"again")
            assert (await client.answer(stream)).body == b"again"

    run(main())


def test_nothing_is_left_of_requests() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            for count in range(3):
                stream, upstream, there = await asked(site, client, count=count + 1)
                upstream.respond(there, OK, b"x")
                await client.answer(stream)
            (connection,) = site.engine.http.upstreams.shared._kept[("id-h", "127.0.0.1")]
            await until(lambda: connection.active == 0)
            assert not connection.streams  # type: ignore[attr-defined]
            assert not connection.codec._messages  # type: ignore[attr-defined]
            assert {stream for stream in connection.codec._stream if not stream & 2} == set()  # type: ignore[attr-defined]

    run(main())


def test_what_stops_while_requests_run() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            _, upstream, _ = await asked(site, client)
            async with asyncio.timeout(5):
                await site.engine.stop(0)
            await upstream.finished()
            await client.finished()

    run(main())


def test_nothing_follows_the_head_of_a_response_to_head() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client("h") as client:
            stream, upstream, there = await asked(site, client, [(b":method", b"HEAD"), *ASK[1:]])
            upstream.respond(there, OK, trailers=[(b"x-t", b"1")])
            answer = await client.answer(stream)
            assert (answer.status, answer.body, answer.trailers) == (200, b"", {})

    run(main())
