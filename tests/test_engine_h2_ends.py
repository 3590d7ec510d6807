"""How exchanges and connections of HTTP/2 end: cancellation, early responses, GOAWAY, idle time, trouble on either
leg."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from tests.engine_h2_support import (
    HOST,
    Lines,
    asked,
    get,
    h2_client,
    h2_upstream,
    h2c,
)
from tests.engine_http_support import OK, Edge, on_edge, request, settle

LAST = 2**31 - 1


class TestCancellation:
    @pytest.mark.parametrize("when", ["waiting", "upload", "response"])
    def test_a_client_that_cancels_ends_its_request_alone(self, when: str) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            await client.headers(1, get(method=b"POST"), end=when != "upload")
            await client.headers(3, get(b"/other"))
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.event(RequestReceived)
            if when == "response":
                await upstream.headers(1, [(b":status", b"200")], end=False)
                await client.on(ResponseReceived, 1)
            client.h2.reset_stream(1, ErrorCodes.CANCEL)
            await client.flush()
            assert await upstream.reset(1) == ErrorCodes.CANCEL
            await upstream.headers(3, [(b":status", b"204")])
            assert (await client.response(3))[0] == 204
            assert not [e for e in client.events if isinstance(e, StreamReset)]

        on_edge(script)

    def test_an_upstream_of_http_1_1_sees_a_reset(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get())
            upstream = await edge.upstream()
            await upstream.head()
            client.h2.reset_stream(1, ErrorCodes.CANCEL)
            await client.flush()
            await upstream.rest()
            assert upstream.end is not None
            assert upstream.end.startswith("reset")

        on_edge(script)

    def test_a_client_that_leaves_ends_all_of_its_requests(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            for stream_id in (1, 3):
                await client.headers(stream_id, get())
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.event(RequestReceived)
            client.stream.abort("gone")
            for stream_id in (1, 3):
                assert await upstream.reset(stream_id) == ErrorCodes.CANCEL

        on_edge(script)


class TestEarlyResponses:
    def test_to_a_client_that_still_uploads(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(method=b"POST"), end=False)
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            assert (await client.response(1))[0] == 413
            assert await client.reset(1) == ErrorCodes.NO_ERROR
            await client.headers(3, get())
            other = await edge.upstream()
            await other.head()
            await other.send(OK)
            assert (await client.response(3))[0] == 200

        on_edge(script)

    def test_from_an_upstream_that_resets_behind_its_response(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge, method=b"POST", end=False)
            upstream.h2.send_headers(1, [(b":status", b"413")], end_stream=True)
            upstream.h2.reset_stream(1, ErrorCodes.NO_ERROR)
            await upstream.flush()
            assert (await client.response(1))[0] == 413
            assert await client.reset(1) == ErrorCodes.NO_ERROR

        on_edge(script)

    def test_the_rest_goes_up_while_somebody_reads_it(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge, method=b"POST", end=False)
            await upstream.headers(1, [(b":status", b"200")])
            assert (await client.response(1))[0] == 200
            await client.data(1, b"rest", end=True)
            assert (await upstream.event(DataReceived)).data == b"rest"
            await upstream.on(StreamEnded, 1)

        on_edge(script)

    def test_an_expectation_is_passed_on(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            await client.headers(1, get(b"/", (b"expect", b"100-continue"), method=b"POST"), end=False)
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.headers(1, [(b":status", b"100")], end=False)
            await client.on(InformationalResponseReceived, 1)
            await client.data(1, b"x", end=True)
            await upstream.on(StreamEnded, 1)
            await upstream.headers(1, [(b":status", b"200")])
            assert (await client.response(1))[0] == 200

        on_edge(script)


class TestBrokenResponses:
    def test_of_http_1_1(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get())
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await client.on(DataReceived, 1)
            await upstream.stream.close()
            assert await client.reset(1) == ErrorCodes.INTERNAL_ERROR

        on_edge(script)

    def test_of_h2c_reset_behind_the_head(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge)
            await upstream.headers(1, [(b":status", b"200")], end=False)
            await client.on(ResponseReceived, 1)
            upstream.h2.reset_stream(1, ErrorCodes.INTERNAL_ERROR)
            await upstream.flush()
            assert await client.reset(1) == ErrorCodes.INTERNAL_ERROR

        on_edge(script)

    @pytest.mark.parametrize(
        "lines",
        [
            [(b"x-a", b"1")],
            [(b":status", b"2xx")],
            [(b":status", b"101")],
            [(b":status", b"200"), (b"connection", b"close")],
            [(b":status", b"200"), (b"X-A", b"1")],
            [(b":status", b"200"), (b"x-a", b"1\r\nx-b: 2")],
            [(b":status", b"200"), (b":path", b"/")],
            [(b":status", b"200"), (b"content-length", b"3"), (b"content-length", b"4")],
        ],
    )
    def test_a_malformed_one_is_a_bad_gateway_and_the_others_go_on(self, lines: Lines) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            for stream_id in (1, 3):
                await client.headers(stream_id, get())
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.event(RequestReceived)
            await upstream.headers(1, lines, end=False)
            assert (await client.response(1))[0] == 502
            assert await upstream.reset(1) == ErrorCodes.PROTOCOL_ERROR
            await upstream.headers(3, [(b":status", b"204")])
            assert (await client.response(3))[0] == 204

        on_edge(script)

    def test_a_wrong_length_is_no_whole_response(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge)
            await upstream.headers(1, [(b":status", b"200"), (b"content-length", b"5")], end=False)
            await upstream.data(1, b"123", end=True)
            assert await client.reset(1) == ErrorCodes.INTERNAL_ERROR

        on_edge(script)

    def test_nothing_in_time(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge)
            assert (await client.response(1))[0] == 504
            assert await upstream.reset(1) == ErrorCodes.CANCEL
            # The next request does not go where the last one found nobody.
            await client.headers(3, get())
            other = await h2_upstream(edge)
            await other.event(RequestReceived)

        on_edge(script, http_response_timeout_ms=50)


class TestGoaway:
    def test_a_draining_engine_lets_streams_finish(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get())
            upstream = await edge.upstream()
            await upstream.head()
            edge.front.drain()
            # The stock client's state machine ends with GOAWAY: what comes is read as octets.
            raw = b""
            while raw.count(b"\x07\x00\x00\x00\x00\x00") < 1:
                raw += await client.stream.read()
            assert b"\x7f\xff\xff\xff\x00\x00\x00\x00" in raw
            ping = raw[raw.index(b"\x00\x00\x08\x06\x00") :][:17]
            await client.say(ping[:4] + b"\x01" + ping[5:])
            while b"\x00\x00\x00\x01\x00\x00\x00\x00" not in raw:
                raw += await client.stream.read()
            await upstream.send(OK)
            while data := await client.stream.read():
                raw += data
            assert raw.endswith(b"ok")

        on_edge(script)

    def test_an_idle_connection_ends_with_goaway(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            goaway = await client.goaway()
            assert (goaway.error_code, goaway.last_stream_id) == (ErrorCodes.NO_ERROR, 0)
            assert await client.gone() == "clean"

        on_edge(script, http_idle_ms=50)

    def test_a_drained_idle_connection_ends_at_once(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.more()
            edge.front.drain()
            await client.goaway()
            assert await client.gone() == "clean"

        on_edge(script)

    def test_of_an_upstream_sends_what_it_did_not_look_at_elsewhere(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            for stream_id in (1, 3):
                await client.headers(stream_id, get(b"/%d" % stream_id, method=b"DELETE"))
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.event(RequestReceived)
            upstream.h2.send_headers(1, [(b":status", b"200")])
            await upstream.flush()
            await client.on(ResponseReceived, 1)
            goaway = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"
            await upstream.say(goaway)
            other = await h2_upstream(edge)
            again = await other.event(RequestReceived)
            assert dict(again.headers)[b":path"] == b"/3"
            await other.headers(again.stream_id, [(b":status", b"204")])
            assert (await client.response(3))[0] == 204
            await upstream.data(1, b"rest", end=True)
            assert await client.content(1) == b"rest"

        on_edge(script)

    def test_an_unused_upstream_connection_ends(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = edge.client()
            await client.send(request())
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.headers(1, [(b":status", b"204")])
            await client.response()
            assert (await upstream.goaway()).error_code == ErrorCodes.NO_ERROR
            assert await upstream.gone() == "clean"
            assert edge.front.upstreams.shared.size == 0

        on_edge(script, upstream_idle_ms=50)


class TestRouting:
    def test_each_request_goes_to_the_tunnel_that_it_names(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            for stream_id, label in ((1, b"a"), (3, b"b")):
                await client.headers(stream_id, get(b"/", host=label + b".t.edge.test"))
                upstream = await edge.upstream()
                assert b"Host: " + label + b".t" in await upstream.head()
                await upstream.send(OK)
                assert (await client.response(stream_id))[0] == 200

        on_edge(script)

    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            (get(host=b"a.other.test"), 421),
            (get(host=b"none.t.edge.test"), 404),
            ([*get()[:1], (b":scheme", b"http"), *get()[2:]], 421),
            ([(b":method", b"CONNECT"), (b":authority", b"x.test:80")], 501),
            ([(b":protocol", b"websocket"), *get(method=b"CONNECT")], 501),
        ],
    )
    def test_what_is_not_served(self, lines: Lines, status: int) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, lines)
            assert (await client.response(1))[0] == status
            assert edge.connector.opened == 0

        on_edge(script)

    def test_connect_of_http_1_1_has_no_way_to_h2c(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = edge.client()
            await client.send(b"CONNECT x.test:80 HTTP/1.1\r\nHost: x.test:80\r\n\r\n")
            await h2_upstream(edge)
            assert (await client.response())[0] == 501

        on_edge(script)

    def test_options_of_the_server(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = edge.client()
            await client.send(request(b"OPTIONS * HTTP/1.1"))
            upstream = await h2_upstream(edge)
            lines = dict((await upstream.event(RequestReceived)).headers)
            assert (lines[b":path"], lines[b":authority"]) == (b"*", HOST)

        on_edge(script)

    @pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
    def test_no_content(self, method: bytes, status: int) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            await client.headers(1, get(method=method))
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.headers(1, [(b":status", b"%d" % status), (b"content-length", b"10")])
            assert (await client.response(1))[2] == b""

        on_edge(script)

    @pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204)])
    def test_no_trailers_where_there_is_no_content(self, method: bytes, status: int) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = await h2_client(edge)
            await client.headers(1, get(method=method))
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.headers(1, [(b":status", b"%d" % status)], end=False)
            await upstream.headers(1, [(b"x-sum", b"1")])
            assert (await client.response(1))[0] == status
            assert not [event for event in client.events if isinstance(event, TrailersReceived)]

        on_edge(script)

    def test_the_edge_answers_head_without_content(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(host=b"none.t.edge.test", method=b"HEAD"))
            status, fields, content = await client.response(1)
            assert (status, content) == (404, b"")
            assert int(fields[b"content-length"]) > 0

        on_edge(script)

    def test_a_closed_tunnel_ends_its_streams_alone(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get())
            first = await edge.upstream()
            await first.head()
            await first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await client.on(ResponseReceived, 1)
            edge.engine.registry.remove(edge.a)
            for end in tuple(edge.a.sessions):
                end("the tunnel was closed")
            assert await client.reset(1) == ErrorCodes.INTERNAL_ERROR
            await client.headers(3, get(host=b"b.t.edge.test"))
            second = await edge.upstream()
            await second.head()
            await second.send(OK)
            assert (await client.response(3))[0] == 200

        on_edge(script)


class TestPool:
    def test_a_client_that_leaves_while_a_connection_is_opened_breaks_no_other(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            edge.connector.hold = asyncio.Event()
            first, second = await h2_client(edge), await h2_client(edge)
            await first.headers(1, get())
            await settle()
            await second.headers(1, get(b"/second"))
            await settle()
            first.h2.reset_stream(1, ErrorCodes.CANCEL)
            await first.flush()
            await settle()
            edge.connector.hold.set()
            upstream = await h2_upstream(edge)
            event = await upstream.event(RequestReceived)
            assert dict(event.headers)[b":path"] == b"/second"
            await upstream.headers(event.stream_id, [(b":status", b"204")])
            assert (await second.response(1))[0] == 204

        on_edge(script)

    def test_closing_waits_for_no_exchange(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge)
            await edge.front.close()
            await upstream.headers(1, [(b":status", b"204")])
            assert (await client.response(1))[0] == 204
            await upstream.gone()

        on_edge(script)

    def test_a_burst_before_the_settings_shares_one_connection(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            clients = [edge.client() for _ in range(10)]
            for client in clients:
                await client.send(request())
            upstream = await h2_upstream(edge)
            for _ in clients:
                event = await upstream.event(RequestReceived)
                await upstream.headers(event.stream_id, [(b":status", b"204")])
            for client in clients:
                assert (await client.response())[0] == 204
            assert edge.connector.opened == 1

        on_edge(script)

    def test_refused_everywhere_is_a_bad_gateway(self) -> None:
        async def script(edge: Edge) -> None:
            h2c(edge)
            client = edge.client()
            await client.send(request())

            async def refuse() -> None:
                while True:
                    upstream = await h2_upstream(edge)
                    event = await upstream.event(RequestReceived)
                    upstream.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                    await upstream.flush()

            refusing = asyncio.create_task(refuse())
            assert (await client.response())[0] == 502
            refusing.cancel()
            await settle()
            assert edge.connector.opened == 3

        on_edge(script)
