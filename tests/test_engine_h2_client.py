"""Upstream HTTP/2 (h2c): many exchanges on one connection, with stock h2 as the upstream."""

from __future__ import annotations

import asyncio

from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, TrailersReceived
from h2.settings import SettingCodes

from tests.engine_h2_support import (
    HOST,
    H2Peer,
    asked,
    get,
    h2_client,
    h2_upstream,
    h2c,
)
from tests.engine_http_support import Edge, on_edge, request

OK_LINES = [(b":status", b"200"), (b"content-length", b"2")]


async def answer(upstream: H2Peer, stream_id: int, body: bytes = b"ok") -> None:
    await upstream.headers(stream_id, [(b":status", b"200"), (b"content-length", b"%d" % len(body))], end=False)
    await upstream.data(stream_id, body, end=True)


class TestRequests:
    def test_from_http_1_1(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = edge.client()
            await client.send(request(b"GET /x HTTP/1.1", b"X-A: 1", b"Connection: x-b", b"X-B: 2", b"TE: trailers"))
            upstream = await h2_upstream(edge)
            head = (await upstream.event(RequestReceived)).headers
            lines = [tuple(line) for line in head]
            assert lines[:4] == [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":path", b"/x"),
                (b":authority", HOST),
            ]
            assert (b"x-a", b"1") in lines
            assert (b"te", b"trailers") in lines
            assert (b"via", b"1.1 edgecase") in lines
            assert not {b"host", b"connection", b"x-b", b"transfer-encoding"} & {name for name, _ in lines}
            await answer(upstream, 1)
            assert (await client.response())[::2] == (200, b"ok")

        on_edge(script)

    def test_from_http_2_many_on_one_connection(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            for stream_id in range(1, 101, 2):
                await client.headers(stream_id, get(b"/%d" % stream_id))
            upstream = await h2_upstream(edge)
            seen = {}
            for _ in range(50):
                event = await upstream.event(RequestReceived)
                seen[int(dict(event.headers)[b":path"][1:])] = event.stream_id
            for path, stream_id in sorted(seen.items(), reverse=True):
                await answer(upstream, stream_id, b"%d" % path)
                assert (await client.response(path))[2] == b"%d" % path
            assert edge.connector.opened == 1

        on_edge(script)

    def test_content_and_trailers_both_ways(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge, method=b"POST", end=False)
            # Each side reads while the other one writes.
            reading = asyncio.create_task(upstream.on(StreamEnded, 1))
            await client.data(1, b"x" * 300_000)
            await client.headers(1, [(b"x-sum", b"1")])
            await reading
            got = b"".join(event.data for event in upstream.events if isinstance(event, DataReceived))
            assert got == b"x" * 300_000
            await upstream.headers(1, [(b":status", b"103"), (b"link", b"a")], end=False)
            await upstream.headers(1, [(b":status", b"200")], end=False)
            response = asyncio.create_task(client.response(1))
            await upstream.data(1, b"y" * 300_000)
            await upstream.headers(1, [(b"grpc-status", b"0")])
            assert (await response)[2] == b"y" * 300_000
            assert [event.headers for event in client.events if isinstance(event, TrailersReceived)] == [
                [(b"grpc-status", b"0")]
            ]

        on_edge(script)

    def test_stays_below_the_limit_of_the_upstream(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            await client.headers(1, get(b"/1"))
            upstream = await h2_upstream(edge, settings={SettingCodes.MAX_CONCURRENT_STREAMS: 2})
            await upstream.event(RequestReceived)
            for stream_id in (3, 5):
                await client.headers(stream_id, get(b"/%d" % stream_id))
            await upstream.event(RequestReceived)
            second = await h2_upstream(edge)
            await second.event(RequestReceived)
            assert edge.connector.opened == 2

        on_edge(script)


class TestTrouble:
    def test_a_refused_request_goes_out_again(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = edge.client()
            await client.send(request(b"DELETE /x HTTP/1.1"))
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            upstream.h2.reset_stream(1, ErrorCodes.REFUSED_STREAM)
            await upstream.flush()
            other = await h2_upstream(edge)
            await other.event(RequestReceived)
            await answer(other, 1)
            assert (await client.response())[0] == 200

        on_edge(script)

    def test_no_http_2_is_a_bad_gateway(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = edge.client()
            await client.send(request())
            upstream = await edge.upstream()
            await upstream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert (await client.response())[0] == 502

        on_edge(script)
