"""Downstream HTTP/2: one exchange on each stream, with stock h2 as the client."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from h2.events import InformationalResponseReceived, StreamEnded, TrailersReceived

from tests.engine_h2_support import HOST, Lines, get, h2_client
from tests.engine_http_support import OK, Edge, on_edge, settle


class TestRequests:
    def test_a_request_becomes_one_of_http_1_1(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(b"/x?y", (b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2")))
            upstream = await edge.upstream()
            head = await upstream.head()
            assert head.startswith(b"GET /x?y HTTP/1.1\r\nHost: " + HOST)
            assert b"x-a: 1" in head
            assert b"cookie: a=1; b=2" in head
            assert b"Via: 2.0 edgecase" in head
            await upstream.send(OK)
            status, fields, content = await client.response(1)
            assert (status, content) == (200, b"ok")
            assert b"connection" not in fields
            assert fields[b"content-length"] == b"2"

        on_edge(script)

    def test_content_goes_up_as_it_comes(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(method=b"POST"), end=False)
            await client.data(1, b"one")
            upstream = await edge.upstream()
            head = await upstream.head()
            assert b"Transfer-Encoding: chunked" in head
            assert await upstream.until(b"one\r\n") == b"3\r\none\r\n"
            await client.data(1, b"two", end=True)
            await upstream.until(b"0\r\n\r\n")
            await upstream.send(OK)
            assert (await client.response(1))[0] == 200

        on_edge(script)

    def test_many_at_once_and_in_any_order(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            ids = [1 + 2 * n for n in range(50)]
            for stream_id in ids:
                await client.headers(stream_id, get(b"/%d" % stream_id))
            upstreams = {}
            for _ in ids:
                upstream = await edge.upstream()
                head = await upstream.head()
                upstreams[int(head.split(b" ")[1][1:])] = upstream
            for stream_id in reversed(ids):
                body = b"%d" % stream_id
                await upstreams[stream_id].send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                assert (await client.response(stream_id))[2] == body

        on_edge(script)

    def test_trailers_and_interim_responses(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(b"/", (b"te", b"trailers"), method=b"POST"), end=False)
            await client.data(1, b"x")
            await client.headers(1, [(b"x-sum", b"1")])
            upstream = await edge.upstream()
            head = await upstream.head()
            assert b"TE: trailers" in head
            assert (await upstream.until(b"\r\n\r\n")).endswith(b"0\r\nx-sum: 1\r\n\r\n")
            await upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")
            interim = await client.on(InformationalResponseReceived, 1)
            assert (b"link", b"a") in interim.headers
            await upstream.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\n\r\n"
            )
            trailers = await client.on(TrailersReceived, 1)
            assert list(trailers.headers) == [(b"grpc-status", b"0")]
            await client.on(StreamEnded, 1)

        on_edge(script)


MALFORMED: dict[str, Lines] = {
    "upper case": get(b"/", (b"X-A", b"1")),
    "space in name": get(b"/", (b"x a", b"1")),
    "colon in name": get(b"/", (b"x:a", b"1")),
    "newline": get(b"/", (b"x-a", b"1\r\nx-b: 2")),
    "padding": get(b"/", (b"x-a", b" 1")),
    "connection": get(b"/", (b"connection", b"close")),
    "coding": get(b"/", (b"transfer-encoding", b"chunked")),
    "te": get(b"/", (b"te", b"gzip")),
    "no method": get()[1:],
    "no scheme": [get()[0], *get()[2:]],
    "no path": get()[:3],
    "empty path": get(b""),
    "path": get(b"x"),
    "path with space": get(b"/a b"),
    "twice": [*get()[:1], *get()],
    "unknown": [(b":x", b"1"), *get()],
    "status": [(b":status", b"200"), *get()],
    "late": [*get()[:3], (b"x-a", b"1"), get()[3]],
    "authority": get(host=b"u@a.t.edge.test"),
    "host": get(b"/", (b"host", b"b.t.edge.test")),
    "two hosts": get(b"/", (b"host", HOST), (b"host", HOST)),
    "length": get(b"/", (b"content-length", b"5")),
    "two lengths": get(b"/", (b"content-length", b"0"), (b"content-length", b"1")),
    "connect with path": get(method=b"CONNECT"),
}


class TestContentLength:
    @pytest.mark.parametrize("pieces", [(b"123",), (b"12345678",), (b"12345", b"678"), ()])
    def test_another_one_than_the_content_makes_no_whole_request(self, pieces: tuple[bytes, ...]) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(b"/bad", (b"content-length", b"5"), method=b"POST"), end=False)
            for piece in pieces:
                client.h2.send_data(1, piece)
            client.h2.end_stream(1)
            await client.flush()
            assert (await client.response(1))[0] == 400
            await client.headers(3, get(b"/good"))
            upstream = await edge.upstream()
            head = await upstream.head()
            if head.startswith(b"POST"):
                assert len(await upstream.rest()) <= 5
                assert upstream.end != "clean"
                upstream = await edge.upstream()
                head = await upstream.head()
            assert head.startswith(b"GET /good ")

        on_edge(script)

    def test_too_much_ends_the_stream_with_an_error(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(b"/bad", (b"content-length", b"5"), method=b"POST"), end=False)
            await client.data(1, b"123456")
            assert (await client.response(1))[0] == 400
            assert await client.reset(1) == ErrorCodes.PROTOCOL_ERROR

        on_edge(script)

    def test_zero_waits_for_the_end(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            for stream_id, piece in ((1, b"x"), (3, b"")):
                path = b"/%d" % stream_id
                await client.headers(stream_id, get(path, (b"content-length", b"0"), method=b"POST"), end=False)
                await settle()
                assert edge.connector.opened == 0
                await client.data(stream_id, piece, end=True)
            upstream = await edge.upstream()
            assert (await upstream.head()).startswith(b"POST /3 ")

        on_edge(script)


class TestMalformedRequests:
    @pytest.mark.parametrize("lines", MALFORMED.values(), ids=MALFORMED)
    def test_is_refused_and_the_others_go_on(self, lines: Lines) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, lines)
            await client.headers(3, get(b"/good"))
            upstream = await edge.upstream()
            assert (await upstream.head()).startswith(b"GET /good ")
            await upstream.send(OK)
            assert (await client.response(3))[0] == 200
            assert edge.connector.opened == 1
            refused = [event for event in client.events if getattr(event, "stream_id", None) == 1]
            assert refused, "nothing was said of the malformed request"

        on_edge(script)
