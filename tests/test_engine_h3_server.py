"""HTTP/3 clients of the engine, in front of tunnels whose upstream speaks HTTP/1.1."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aioquic.h3.connection import ErrorCode

from reference_engine.http.endpoints import HttpEndpoints
from reference_engine.http.rules import HttpRules
from reference_engine.parts import Parts
from tests.engine_h3_support import (
    DATA,
    GET,
    GOAWAY,
    POST,
    PUSH,
    H3Site,
    H3Stock,
    frame,
    h3_site,
    headers,
    number,
    on,
    section,
)
from tests.engine_http_support import OK as OK_OCTETS
from tests.engine_http_support import Peer, pair, request
from tests.engine_quic_support import alert_code, client_configuration, run, udp_client, until


async def asked(site: H3Site, client: H3Stock, *args: Any, **options: Any) -> tuple[int, Peer, bytes]:
    """A request, its upstream, and the head that came there."""
    stream = client.request(*args, **options)
    upstream = await site.connector.upstream()
    return stream, upstream, await upstream.head()


def test_a_request_and_its_response() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            fields = [*GET[:3], (b":path", b"/a?b=%20"), (b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
            stream, upstream, head = await asked(site, client, fields)
            lines = head.split(b"\r\n")
            assert lines[0] == b"GET /a?b=%20 HTTP/1.1"
            assert [line for line in lines if line.lower().startswith(b"host:")] == [b"Host: a.t.edge.test"]
            assert b"cookie: a=1; b=2" in lines
            assert b"Via: 3.0 edgecase" in lines
            assert not any(line.lower().startswith((b"transfer-encoding", b"content-length")) for line in lines)
            await upstream.send(OK_OCTETS.replace(b"\r\n\r\n", b"\r\nX-B: 2\r\nConnection: x-c\r\nX-C: 3\r\n\r\n"))
            answer = await client.answer(stream)
            assert (answer.status, answer.body, answer.fields[b"x-b"]) == (200, b"ok", b"2")
            assert not {b"connection", b"x-c"} & set(answer.fields)

    run(main())


def test_content_both_ways_with_trailers_and_interim_responses() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            body = bytes(range(256)) * 1_000
            stream = client.request([*POST, (b"te", b"trailers")], body, trailers=[(b"x-t", b"1")])
            upstream = await site.connector.upstream()
            head = await upstream.head()
            assert b"Transfer-Encoding: chunked" in head
            octets = await upstream.until(b"x-t: 1\r\n\r\n")
            assert sum(len(part) for part in octets.split(b"\r\n")) > len(body)
            await upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            chunk = b"%x\r\n" % len(body) + body + b"\r\n"
            await upstream.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\nX-Sum: 7\r\n\r\n"
            )
            answer = await client.answer(stream)
            assert answer.informational[0][b"link"] == b"x"
            assert answer.body == body
            assert answer.trailers == {b"x-sum": b"7"}

    run(main())


def test_content_of_a_known_length() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, upstream, head = await asked(site, client, [*POST, (b"content-length", b"5")], b"hello")
            assert b"content-length: 5" in head
            assert await upstream.exactly(5) == b"hello"
            await upstream.send(OK_OCTETS)
            assert (await client.answer(stream)).status == 200

    run(main())


def test_requests_on_one_connection_are_served_at_once() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            fields = [[*GET[:3], (b":path", b"/%d" % count)] for count in range(20)]
            streams = [client.request(one) for one in fields]
            upstreams = {}
            for _ in streams:
                peer = await site.connector.upstream()
                upstreams[int((await peer.head()).split(b" ")[1][1:])] = peer
            for count in reversed(range(20)):
                body = b"%d" % count
                await upstreams[count].send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                assert (await client.answer(streams[count])).body == body

    run(main())


def test_head_has_no_content() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, upstream, _ = await asked(site, client, [(b":method", b"HEAD"), *GET[1:]])
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
            # A stock client takes the length for that of the content.
            await client.until(lambda: stream in client.ended)
            assert section([(b"content-length", b"12")])[2:] in client.got(stream)
            assert client.message(stream).body == b""

    run(main())


def test_the_authority_decides() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, upstream, head = await asked(site, client, on("b"))
            assert b"Host: b.t.edge.test" in head
            await upstream.send(OK_OCTETS)
            assert (await client.answer(stream)).status == 200
            for authority, status in ((b"zz.t.edge.test", 404), (b"elsewhere.test", 421)):
                fields = [*GET[:2], (b":authority", authority), GET[3]]
                assert (await client.answer(client.request(fields))).status == status
            insecure = [GET[0], (b":scheme", b"http"), *GET[2:]]
            assert (await client.answer(client.request(insecure))).status == 421
            assert site.connector.opened == 1

    run(main())


@pytest.mark.parametrize(
    ("refuse", "status"), [("refused", 502), ("agent-gone", 502), ("timeout", 504), ("capacity", 503)]
)
def test_an_upstream_that_is_not_there(refuse: str, status: int) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            site.connector.refuse = refuse
            answer = await client.answer(client.request())
            assert answer.status == status
            assert b"10.1.2.3" not in answer.body

    run(main())


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"CONNECT"), (b":authority", b"db.test:5432")],
        [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"websocket")],
    ],
)
def test_connect_is_refused_cleanly(fields: list[tuple[bytes, bytes]]) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            assert (await client.answer(client.say(headers(fields)))).status == 501
            stream, upstream, _ = await asked(site, client)
            await upstream.send(OK_OCTETS)
            assert (await client.answer(stream)).status == 200

    run(main())


# -- what is malformed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        [*GET, (b"X-Up", b"1")],
        [*GET, (b"a", b"b\r\nc: d")],
        [*GET, (b"connection", b"close")],
        [*GET, (b"content-length", b"3")],
        GET[:3],
    ],
)
def test_a_malformed_request_never_reaches_the_upstream(fields: list[tuple[bytes, bytes]]) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream = client.say(headers(fields), end=True)
            good = client.request(GET)
            upstream = await site.connector.upstream()
            assert (await upstream.head()).startswith(b"GET / ")
            await upstream.send(OK_OCTETS)
            assert (await client.answer(good)).status == 200
            if (b"content-length", b"3") not in fields:
                assert await client.aborted(stream) == ErrorCode.H3_MESSAGE_ERROR
                assert site.connector.opened == 1

    run(main())


def test_content_that_is_not_as_long_as_it_says() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream = client.say(headers([*POST, (b"content-length", b"5")]), frame(DATA, b"abc"))
            upstream = await site.connector.upstream()
            await upstream.until(b"abc")
            client.write(stream, frame(DATA, b"defgh"), end=True)
            assert await client.aborted(stream) == ErrorCode.H3_MESSAGE_ERROR
            assert (await upstream.rest(), upstream.end) == (
                b"",
                "reset: the message is malformed: the content is not as long as Content-Length says",
            )

    run(main())


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(DATA, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
        (headers(GET) + frame(GOAWAY, b"\x00"), ErrorCode.H3_FRAME_UNEXPECTED),
        (headers(GET) + frame(0x6), ErrorCode.H3_FRAME_UNEXPECTED),
        (headers(GET)[:-1], ErrorCode.H3_FRAME_ERROR),
        (frame(1, b"\x00\x00\x80"), ErrorCode.QPACK_DECOMPRESSION_FAILED),
    ],
)
def test_a_connection_error_closes_the_connection(octets: bytes, code: int) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            client.say(octets, end=True)
            assert await client.code() == code

    run(main())


def test_a_connection_error_ends_the_other_requests() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            _, upstream, _ = await asked(site, client)
            client.say(frame(DATA, b"x"))
            await upstream.rest()
            assert upstream.end == "reset: the client is gone"

    run(main())


def test_what_a_client_may_not_do_on_other_streams() -> None:
    async def main() -> None:
        async with h3_site() as site:
            for octets, code in ((PUSH, ErrorCode.H3_STREAM_CREATION_ERROR), (b"\x00", 0x103), (b"\x02", 0x103)):
                async with site.client() as client:
                    client.say(octets, unidirectional=True)
                    assert await client.code() == code
            async with site.client() as client:
                # A reset that overtakes the type of its stream would mean nothing.
                assert (await client.answer(client.request(on("zz")))).status == 404
                client.reset(2, 0x100)
                assert await client.code() == ErrorCode.H3_CLOSED_CRITICAL_STREAM
            async with site.client() as client:
                await client.until(lambda: client.got(3))
                client.stop(3, 0x100)
                assert await client.code() == ErrorCode.H3_CLOSED_CRITICAL_STREAM

    run(main())


def test_what_is_unknown_is_ignored() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            client.control(frame(0x21, b"abc"), number(0x1F * 5 + 0x21), number(3), b"xyz")
            stopped = client.say(number(0x21), b"abc", unidirectional=True)
            client.reset(client.say(number(0x40)[:1], unidirectional=True), 0x1234)
            client.say(b"", end=True, unidirectional=True)
            await client.until(lambda: stopped in client.stops)
            assert client.stops[stopped] == ErrorCode.H3_STREAM_CREATION_ERROR
            stream, upstream, _ = await asked(site, client)
            await upstream.send(OK_OCTETS)
            assert (await client.answer(stream)).status == 200

    run(main())


def test_a_request_stream_without_a_request() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            assert await client.aborted(client.say(frame(0x21), end=True)) == ErrorCode.H3_REQUEST_INCOMPLETE
            stream = client.say(headers(GET)[:3])
            client.reset(stream, ErrorCode.H3_REQUEST_CANCELLED)
            await client.aborted(stream)
            assert site.connector.opened == 0

    run(main())


def test_fields_above_the_limits() -> None:
    async def main() -> None:
        async with h3_site(http_max_header_bytes=2_000, http_max_header_count=10) as site, site.client() as client:
            for fields in (
                [(b"a%d" % one, b"") for one in range(20)],
                [(b"a", b"b" * 3_000)],
                [(b"a", b"\xff" * 9_000)],
            ):
                assert (await client.answer(client.say(headers([*GET, *fields]), end=True))).status == 431
            assert site.connector.opened == 0

    run(main())


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["reset", "stop"])
def test_a_client_that_gives_up_is_noticed_upstream(way: str) -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, upstream, _ = await asked(site, client, POST, b"abc", end=False)
            await upstream.until(b"abc")
            if way == "reset":
                client.reset(stream, ErrorCode.H3_REQUEST_CANCELLED)
            else:
                client.stop(stream, ErrorCode.H3_REQUEST_CANCELLED)
            await upstream.rest()
            assert upstream.end == "reset: the client is gone"
            await client.aborted(stream)
            assert client.over is None

    run(main())


def test_a_response_that_breaks_off_is_reset() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, upstream, _ = await asked(site, client)
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            await client.until(lambda: client.message(stream).body == b"abc")
            await upstream.stream.close()
            assert await client.aborted(stream) == ErrorCode.H3_INTERNAL_ERROR
            assert stream not in client.ended

    run(main())


def test_an_early_response_is_whole_and_the_rest_of_the_request_is_not_wanted() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, upstream, _ = await asked(site, client, POST, b"abc", end=False)
            await upstream.until(b"abc")
            await upstream.send(OK_OCTETS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert (await client.answer(stream)).body == b"ok"
            await client.until(lambda: stream in client.stops)
            assert client.stops[stream] == ErrorCode.H3_NO_ERROR

    run(main())


def test_a_slow_client_holds_its_own_stream_alone() -> None:
    async def main() -> None:
        async with (
            h3_site(stream_buffer_bytes=65_536) as site,
            site.client(max_stream_data=20_000, max_data=1 << 24) as client,
        ):
            # Stock connections grant more as octets come; this one does not.
            client.quic._write_stream_limits = lambda *args, **options: None  # type: ignore[method-assign]
            stream, slow, _ = await asked(site, client)
            await slow.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
            sent = 0

            async def pour() -> None:
                nonlocal sent
                while True:
                    await slow.send(bytes(50_000))
                    sent += 50_000

            pouring = asyncio.create_task(pour())
            await client.until(lambda: len(client.message(stream).body) > 15_000)
            other, fast, _ = await asked(site, client, on("b"))
            await fast.send(OK_OCTETS)
            assert (await client.answer(other)).body == b"ok"
            assert sent < 1_000_000
            pouring.cancel()

    run(main())


def test_a_slow_upstream_holds_its_own_stream_alone() -> None:
    async def main() -> None:
        async with h3_site(stream_buffer_bytes=65_536) as site, site.client() as client:
            stream, upstream, _ = await asked(site, client, POST, bytes(5_000_000), end=False)
            other, fast, _ = await asked(site, client, on("b"))
            await fast.send(OK_OCTETS)
            assert (await client.answer(other)).body == b"ok"
            assert site.engine.quic is not None
            transport = site.engine.quic.connections[0]
            assert transport.unread < 200_000
            assert len(upstream.stream._in.data) < 200_000
            got = 0
            while got < 5_000_000:
                await upstream._more()
                got += len(upstream.buffer)
                upstream.buffer = b""
            await upstream.send(OK_OCTETS)
            client.h3.send_data(stream, b"", True)
            client.transmit()
            assert (await client.answer(stream)).status == 200

    run(main())


def goaway(client: H3Stock) -> bytes | None:
    """The payload of the GOAWAY on the engine's control stream."""
    at = client.got(3).rfind(b"\x07\x01")
    return client.got(3)[at + 2 :] if at > 0 else None


def test_an_idle_connection_is_closed_with_a_goaway() -> None:
    async def main() -> None:
        async with h3_site(http_idle_ms=50) as site, site.client() as client:
            stream, upstream, _ = await asked(site, client)
            await upstream.send(OK_OCTETS)
            await client.answer(stream)
            assert await client.code() == ErrorCode.H3_NO_ERROR
            assert goaway(client) == b"\x04"

    run(main())


def test_a_stopping_engine_says_goaway_and_finishes() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, upstream, _ = await asked(site, client)
            stopping = asyncio.create_task(site.engine.stop(20))
            await client.until(lambda: goaway(client))
            assert goaway(client) == b"\x04"
            late = client.request()
            assert await client.aborted(late) == ErrorCode.H3_REQUEST_REJECTED
            await upstream.send(OK_OCTETS)
            assert (await client.answer(stream)).body == b"ok"
            assert await client.code() == ErrorCode.H3_NO_ERROR
            await stopping

    run(main())


def test_a_request_that_never_comes() -> None:
    async def main() -> None:
        async with h3_site(http_header_timeout_ms=30) as site, site.client() as client:
            assert (await client.answer(client.say(headers(GET)[:4]))).status == 408
            assert site.connector.opened == 0

    run(main())


def test_content_that_never_comes() -> None:
    async def main() -> None:
        async with h3_site(http_idle_ms=60) as site, site.client() as client:
            stream, upstream, _ = await asked(site, client, POST, b"abc", end=False)
            assert (await client.answer(stream)).status == 408
            await upstream.rest()
            assert (upstream.end or "").startswith("reset")

    run(main())


def test_a_client_that_cancels_without_end_is_sent_away() -> None:
    async def main() -> None:
        async with h3_site(http3_max_resets=20) as site, site.client() as client:
            for _ in range(10_000):
                stream = client.say(headers(GET))
                client.reset(stream, ErrorCode.H3_REQUEST_CANCELLED)
                await client.until(lambda stream=stream: client.over or stream in client.resets)  # type: ignore[misc]
                if client.over is not None:
                    break
            assert await client.code() == ErrorCode.H3_EXCESSIVE_LOAD

    run(main())


def test_the_tunnel_is_closed() -> None:
    async def main() -> None:
        async with h3_site() as site, site.client() as client:
            stream, _, _ = await asked(site, client)
            for end in tuple(site.a.sessions):
                end("closed")
            assert (await client.answer(stream)).status == 503

    run(main())


# -- who is served -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "alpns", "edition", "alert"),
    [
        ("a", ("x",), "enterprise", 120),
        ("a", (), "enterprise", 120),
        ("zz", ("h3",), "enterprise", 112),
        ("a", ("h3",), "community", 120),
    ],
)
def test_who_is_not_served(name: str, alpns: tuple[str, ...], edition: str, alert: int) -> None:
    async def main() -> None:
        async with h3_site(edition=edition) as site:
            configuration = client_configuration(f"{name}.t.edge.test", *alpns)
            async with udp_client(site.udp, configuration) as client:
                assert (await client.finished()).error_code == alert_code(alert)  # type: ignore[arg-type]

    run(main())


def test_nothing_is_left_of_a_connection() -> None:
    async def main() -> None:
        kept = []

        class Endpoints(HttpEndpoints):
            def h3_connection(self, *args: Any, **options: Any) -> Any:
                kept.append(super().h3_connection(*args, **options))
                return kept[-1]

        async with h3_site(Parts(http_endpoints=Endpoints())) as site, site.client() as client:
            for _ in range(3):
                stream, upstream, _ = await asked(site, client)
                await upstream.send(OK_OCTETS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                await client.answer(stream)
            (connection,) = kept
            await until(lambda: not connection.streams)
            assert not connection.codec._messages
            assert set(connection.codec._stream) <= {2, 6, 10}
            client.close()
            await until(lambda: not site.engine.quic or not site.engine.quic._served)
            assert not connection._tasks

    run(main())


def test_alt_svc_is_the_edges_own() -> None:
    fields = [(b"A", b"b"), (b"Alt-Svc", b'h3=":1"'), (b"alt-svc", b"clear")]
    assert HttpRules().alternative(fields, b"1.1", None, 60) == [(b"A", b"b")]
    assert HttpRules().alternative(fields, b"2.0", 443, 60) == [(b"A", b"b"), (b"Alt-Svc", b'h3=":443"; ma=60')]
    assert HttpRules().alternative(fields, b"2.0", 443, 0) == [(b"A", b"b")]
    assert HttpRules().alternative(fields, b"3.0", 443, 60) == [(b"A", b"b")]


@pytest.mark.parametrize(
    ("settings", "told"), [({}, True), ({"alt_svc_ms": 0}, False), ({"edition": "community"}, False)]
)
def test_clients_over_tls_are_told_of_http3(settings: dict[str, Any], told: bool) -> None:
    async def main() -> None:
        async with h3_site(**settings) as site:
            near, far = pair()
            serving = asyncio.create_task(site.engine.http.serve(far, site.a))  # type: ignore[arg-type]
            client = Peer(near)
            await client.send(request())
            upstream = await site.connector.upstream()
            await upstream.head()
            await upstream.send(OK_OCTETS.replace(b"\r\n\r\n", b"\r\nAlt-Svc: clear\r\n\r\n"))
            _, fields, _ = await client.response()
            assert fields.get("alt-svc") == (f'h3=":{site.udp.port}"; ma=3600' if told else None)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    run(main())


def test_a_response_that_cannot_be_written_is_a_bad_gateway() -> None:
    async def main() -> None:
        async with h3_site(http_max_header_bytes=200_000) as site, site.client() as client:
            stream, upstream, _ = await asked(site, client)
            await upstream.send(OK_OCTETS.replace(b"\r\n\r\n", b"\r\nA: " + b"x" * 70_000 + b"\r\n\r\n"))
            assert (await client.answer(stream)).status == 502

    run(main())
