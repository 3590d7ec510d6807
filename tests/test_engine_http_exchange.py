"""Exchanges in time: streaming, backpressure, early answers, cancellation, errors and timeouts."""

from __future__ import annotations

import asyncio

import pytest

from reference_engine.tunnel.registry import end_sessions
from tests.engine_http_support import OK, Edge, Peer, begin, on_edge, parse_fields, request, settle


class TestStreaming:
    def test_request_content_arrives_before_it_is_complete(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 10", body=b"first")
            client, upstream, head = await begin(edge, octets)
            assert b"Content-Length: 10\r\n" in head
            assert b"Transfer-Encoding" not in head
            assert await upstream.exactly(5) == b"first"
            await client.send(b"later")
            assert await upstream.exactly(5) == b"later"
            await upstream.send(OK)
            assert (await client.response())[2] == b"ok"

        on_edge(script)

    def test_response_content_arrives_before_it_is_complete(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request())
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            assert b"Transfer-Encoding: chunked" in await client.head()
            assert await client.until(b"data: 1\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
            await upstream.send(b"data: 2\n\n")
            await client.until(b"data: 2\n\n\r\n")
            await upstream.stream.close()
            await client.until(b"0\r\n\r\n")
            await client.send(request(b"GET /again HTTP/1.1"))
            await (await edge.upstream()).head()

        on_edge(script)

    def test_full_duplex(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked"))
            await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.head()
            for turn in range(20):
                ping, pong = b"4\r\n%04d\r\n" % turn, b"5\r\n-%04d\r\n" % turn
                await client.send(ping)
                assert await upstream.exactly(len(ping)) == ping
                await upstream.send(pong)
                assert await client.exactly(len(pong)) == pong
            await client.send(b"0\r\n\r\n")
            await upstream.until(b"0\r\n\r\n")
            await upstream.send(b"0\r\n\r\n")
            await client.until(b"0\r\n\r\n")

        on_edge(script)

    @pytest.mark.parametrize("upload", [True, False])
    def test_a_slow_reader_stalls_the_sender(self, upload: bool) -> None:
        async def script(edge: Edge) -> None:
            total = 8 * 1024 * 1024
            length = b"Content-Length: %d" % total
            octets = request(b"POST / HTTP/1.1", length) if upload else request()
            client, upstream, _ = await begin(edge, octets)
            source, sink = (client, upstream) if upload else (upstream, client)
            if not upload:
                await upstream.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n")
                await client.head()
            sent = 0

            async def push() -> None:
                nonlocal sent
                for _ in range(total // 16_384):
                    await source.send(b"x" * 16_384)
                    sent += 16_384

            pushing = asyncio.create_task(push())
            await settle()
            assert sent < 1_500_000
            assert len(await sink.exactly(total)) == total
            await pushing
            if upload:
                await upstream.send(OK)
                assert (await client.response())[0] == 200

        on_edge(script)

    def test_large_chunked_content_both_ways(self) -> None:
        async def script(edge: Edge) -> None:
            block = bytes(range(256)) * 256
            octets = request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked")
            client, upstream, _ = await begin(edge, octets)

            async def send(peer: Peer) -> None:
                for _ in range(32):
                    await peer.send(b"10000;x=y\r\n" + block + b"\r\n")
                await peer.send(b"0\r\n\r\n")

            async def take(peer: Peer) -> bytes:
                content = b""
                while size := int((await peer.until(b"\r\n"))[:-2], 16):
                    content += await peer.exactly(size)
                    assert await peer.exactly(2) == b"\r\n"
                await peer.exactly(2)
                return content

            _, content = await asyncio.gather(send(client), take(upstream))
            assert content == block * 32
            await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.head()
            _, content = await asyncio.gather(send(upstream), take(client))
            assert content == block * 32

        on_edge(script)


class TestExpect:
    def test_100_is_relayed_and_the_content_follows(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 2", b"Expect: 100-continue")
            client, upstream, head = await begin(edge, octets)
            assert b"Expect: 100-continue" in head
            await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"hi")
            assert await upstream.exactly(2) == b"hi"
            await upstream.send(OK)
            assert (await client.response())[2] == b"ok"
            await client.send(request())
            await upstream.head()

        on_edge(script)

    def test_a_final_answer_instead_of_100_closes(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 2", b"Expect: 100-continue")
            client, upstream, _ = await begin(edge, octets)
            await upstream.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
            status, fields, _ = await client.response()
            assert (status, fields["connection"]) == (417, "close")
            # The second request would have to be read as content.
            await client.send(b"GE" + request())
            assert await client.rest() == b""
            assert edge.connector.opened == 1

        on_edge(script)


class TestEarlyAnswers:
    def test_content_goes_on_while_the_upstream_reads(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 10", body=b"first")
            client, upstream, _ = await begin(edge, octets)
            await upstream.exactly(5)
            await upstream.send(OK)
            status, fields, _ = await client.response()
            assert status == 200
            assert "connection" not in fields
            await client.send(b"later" + request(b"GET /2 HTTP/1.1"))
            assert await upstream.exactly(5) == b"later"
            assert (await upstream.head()).startswith(b"GET /2 ")

        on_edge(script)

    def test_an_upstream_that_closes_stops_the_upload(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 1000", body=b"x" * 10)
            client, upstream, _ = await begin(edge, octets)
            await upstream.send(b"HTTP/1.1 413 Big\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            status, fields, _ = await client.response()
            assert (status, fields["connection"]) == (413, "close")
            assert await client.rest() == b""

        on_edge(script)

    def test_the_edges_own_answer_never_lets_content_be_a_request(self) -> None:
        async def script(edge: Edge) -> None:
            smuggled = request(b"GET /admin HTTP/1.1")
            client = edge.client()
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 1000", host=b"no.t.edge.test", body=smuggled)
            await client.send(octets)
            status, fields, _ = await client.response()
            assert (status, fields["connection"]) == (404, "close")
            assert await client.rest() == b""
            assert edge.connector.opened == 0

        on_edge(script)


class TestCancellation:
    @pytest.mark.parametrize("when", ["waiting", "streaming", "uploading"])
    def test_a_client_that_breaks_off_is_noticed_upstream(self, when: str) -> None:
        async def script(edge: Edge) -> None:
            uploading = request(b"POST / HTTP/1.1", b"Content-Length: 9", body=b"1")
            client, upstream, _ = await begin(edge, uploading if when == "uploading" else request())
            if when == "streaming":
                await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
                await client.head()
            client.stream.abort("gone")
            await upstream.rest()
            assert upstream.end is not None
            assert upstream.end.startswith("reset")

        on_edge(script)

    def test_a_client_that_breaks_off_while_the_agent_is_asked(self) -> None:
        async def script(edge: Edge) -> None:
            edge.connector.hold = asyncio.Event()
            client = edge.client()
            await client.send(request())
            await settle()
            client.stream.abort("gone")
            await settle()
            assert edge.connector.opened == 0
            assert not edge.a.sessions

        on_edge(script)

    def test_a_clean_end_is_given_time_but_not_for_ever(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request())
            await client.stream.end()
            await upstream.send(OK)
            assert (await client.response())[2] == b"ok"
            assert await client.rest() == b""
            client, upstream, _ = await begin(edge, request(b"POST / HTTP/1.1"))
            await client.stream.end()
            await upstream.rest()
            assert upstream.end is not None
            assert upstream.end.startswith("reset")

        on_edge(script, http_half_close_ms=50)

    def test_a_request_cut_short_is_never_whole_upstream(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 100", body=b"x" * 10)
            client, upstream, _ = await begin(edge, octets)
            await client.stream.end()
            assert await upstream.rest() == b"x" * 10
            assert upstream.end is not None
            assert upstream.end.startswith("reset")
            assert (await client.response())[0] == 400

        on_edge(script)

    def test_malformed_content_is_refused_in_the_middle(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0x1\r\n")
            client, upstream, _ = await begin(edge, octets)
            await upstream.rest()
            assert upstream.end is not None
            assert upstream.end.startswith("reset")
            status, fields, _ = await client.response()
            assert (status, fields["connection"]) == (400, "close")

        on_edge(script)

    def test_closing_the_tunnel_ends_what_runs_through_it(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request())
            end_sessions(edge.a, "tunnel closed")
            await upstream.rest()
            assert (await client.response())[0] == 503
            client, upstream, _ = await begin(edge, request())
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
            await client.head()
            end_sessions(edge.a, "tunnel closed")
            assert await client.rest() == b"x"

        on_edge(script)


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "status"),
        [("agent-gone", 502), ("refused", 502), ("timeout", 504), ("capacity", 503), ("closed", 503)],
    )
    def test_no_stream_to_the_agent(self, kind: str, status: int) -> None:
        async def script(edge: Edge) -> None:
            edge.connector.refuse = kind
            client = edge.client()
            await client.send(request())
            found, _, body = await client.response()
            assert found == status
            assert b"10.1.2.3" not in body
            edge.connector.refuse = None
            await client.send(request())
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(OK)
            assert (await client.response())[0] == 200

        on_edge(script)

    @pytest.mark.parametrize(
        "octets",
        [
            b"",
            b"xyz\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5,6\r\n\r\n12345",
            b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n",
        ],
    )
    def test_no_valid_answer(self, octets: bytes) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request(b"POST / HTTP/1.1"))
            await upstream.send(octets)
            await upstream.stream.end()
            status, _, body = await client.response()
            assert status == 502
            assert b"xyz" not in body
            await upstream.rest()
            await client.send(request())
            await (await edge.upstream()).head()

        on_edge(script)

    def test_an_upstream_that_resets(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request(b"POST / HTTP/1.1"))
            upstream.stream.abort("rst")
            assert (await client.response())[0] == 502
            assert edge.connector.opened == 1

        on_edge(script)

    def test_an_upstream_that_is_silent(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request(b"POST / HTTP/1.1", b"Content-Length: 1", body=b"x"))
            assert (await client.response())[0] == 504
            await upstream.rest()
            assert upstream.end is not None
            client, upstream, _ = await begin(edge, request())
            assert (await client.response())[0] == 504

        on_edge(script, http_response_timeout_ms=50)

    def test_a_response_that_has_begun_has_no_timeout(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request())
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
            await client.head()
            await asyncio.sleep(0.1)
            await upstream.send(b"k")
            assert await client.exactly(2) == b"ok"

        on_edge(script, http_response_timeout_ms=20, http_idle_ms=20, http_header_timeout_ms=20)

    @pytest.mark.parametrize(
        "octets",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
        ],
    )
    def test_a_response_that_breaks_off_is_not_complete(self, octets: bytes) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request())
            await upstream.send(octets)
            await upstream.stream.close()
            await client.head()
            rest = await client.rest()
            assert b"half" in rest
            assert not rest.endswith(b"0\r\n\r\n")

        on_edge(script)

    def test_a_broken_response_without_framing_is_no_clean_end(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request(b"GET / HTTP/1.0"))
            await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            await upstream.stream.close()
            await client.rest()
            assert client.end is not None
            assert client.end.startswith("reset")

        on_edge(script)


class TestTimeouts:
    def test_an_idle_connection_ends_cleanly(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            assert await client.rest() == b""
            assert client.end == "clean"

        on_edge(script, http_idle_ms=30)

    def test_a_slow_head_gets_408(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            await client.send(b"GET / HTTP/1.1\r\nHost:")
            assert (await client.response())[0] == 408
            assert await client.rest() == b""

        on_edge(script, http_header_timeout_ms=30)

    def test_slow_content_gets_408(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.1", b"Content-Length: 100", body=b"x" * 10)
            client, upstream, _ = await begin(edge, octets)
            await upstream.rest()
            assert upstream.end is not None
            assert upstream.end.startswith("reset")
            assert (await client.response())[0] == 408

        on_edge(script, http_idle_ms=30)


def test_fields_of_interim_responses() -> None:
    async def script(edge: Edge) -> None:
        client, upstream, _ = await begin(edge, request())
        await upstream.send(b"HTTP/1.1 103 Early\r\nLink: x\r\nConnection: y\r\nY: 1\r\nContent-Length: 3\r\n\r\n" + OK)
        assert parse_fields(await client.head()) == {"link": "x"}
        assert (await client.response())[0] == 200
        client, upstream, _ = await begin(edge, request(b"POST / HTTP/1.0"))
        await upstream.send(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")

    on_edge(script)
