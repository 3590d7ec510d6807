"""Upgrade and CONNECT: raw octets only behind the answer that opens them."""

from __future__ import annotations

import asyncio
import os

import pytest

from reference_engine.tunnel.registry import end_sessions
from tests.engine_http_support import OK, Edge, Peer, begin, on_edge, parse_fields, request, settle

HANDSHAKE = request(
    b"GET /chat?x=%20y HTTP/1.1",
    b"Upgrade: WebSocket",
    b"connection: keep-alive, uPgrAde",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Protocol: one, two",
    b"Sec-WebSocket-Extensions: permessage-deflate",
    b"Origin: https://a.t.edge.test",
    b"Cookie: c=1",
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Extra: 1\r\n\r\n"


async def opened(edge: Edge) -> tuple[Peer, Peer]:
    """A WebSocket that both sides have agreed on."""
    client, upstream, _ = await begin(edge, HANDSHAKE)
    await upstream.send(SWITCH)
    await client.head()
    return client, upstream


class TestUpgrade:
    def test_the_handshake_passes_whole(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, head = await begin(edge, HANDSHAKE)
            fields = parse_fields(head)
            assert head.startswith(b"GET /chat?x=%20y HTTP/1.1\r\n")
            assert fields["upgrade"] == "WebSocket"
            assert fields["connection"] == "Upgrade"
            assert fields["sec-websocket-key"] == "dGhlIHNhbXBsZSBub25jZQ=="
            assert fields["sec-websocket-protocol"] == "one, two"
            assert fields["sec-websocket-extensions"] == "permessage-deflate"
            assert fields["origin"] == "https://a.t.edge.test"
            assert fields["cookie"] == "c=1"
            await upstream.send(SWITCH)
            answer = await client.head()
            assert answer.startswith(b"HTTP/1.1 101 ")
            assert parse_fields(answer) == {"upgrade": "websocket", "connection": "Upgrade", "x-extra": "1"}

        on_edge(script)

    def test_octets_glued_to_either_head_are_kept(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, HANDSHAKE + b"\x81\x80early")
            await settle()
            assert await upstream_silent(upstream)
            await upstream.send(SWITCH + b"\x81\x05hello")
            await client.head()
            assert await client.exactly(7) == b"\x81\x05hello"
            assert await upstream.exactly(7) == b"\x81\x80early"

        on_edge(script)

    def test_octets_pass_unchanged_both_ways(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await opened(edge)
            block = os.urandom(300_000)
            for source, sink in ((client, upstream), (upstream, client)):
                _, seen = await asyncio.gather(source.send(block), sink.exactly(len(block)))
                assert seen == block

        on_edge(script)

    def test_a_quiet_session_is_not_cut(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await opened(edge)
            await asyncio.sleep(0.1)
            await client.send(b"still here")
            assert await upstream.exactly(10) == b"still here"

        on_edge(script, http_response_timeout_ms=20, http_idle_ms=20, http_header_timeout_ms=20, upstream_idle_ms=20)

    @pytest.mark.parametrize("clean", [True, False])
    def test_ends_are_passed_on_as_what_they_are(self, clean: bool) -> None:
        async def script(edge: Edge) -> None:
            for first in (0, 1):
                sides = await opened(edge)
                side, other = sides[first], sides[1 - first]
                if clean:
                    await side.send(b"last words")
                    await side.stream.close()
                    assert await other.rest() == b"last words"
                    assert other.end == "clean"
                    await other.stream.close()
                else:
                    side.stream.abort("rst")
                    await other.rest()
                    assert other.end is not None
                    assert other.end.startswith("reset")

        on_edge(script)

    def test_closing_the_tunnel_ends_the_session(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await opened(edge)
            end_sessions(edge.a, "tunnel closed")
            await client.rest()
            await upstream.rest()
            await settle()
            assert not edge.a.sessions

        on_edge(script)

    @pytest.mark.parametrize("status", [b"200 OK", b"302 Found", b"401 No", b"403 No", b"426 Up", b"503 No"])
    def test_a_refusal_is_an_answer_like_any_other(self, status: bytes) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, HANDSHAKE)
            await upstream.send(b"HTTP/1.1 " + status + b"\r\nX-Why: y\r\nContent-Length: 4\r\n\r\nwhy?")
            found, fields, body = await client.response()
            assert (found, fields["x-why"], body) == (int(status[:3]), "y", b"why?")
            await client.send(request(b"GET /next HTTP/1.1"))
            assert (await upstream.head()).startswith(b"GET /next ")

        on_edge(script)

    def test_a_pipelined_request_is_not_raw_without_a_101(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, HANDSHAKE + request(b"GET /next HTTP/1.1"))
            await upstream.send(OK)
            await client.response()
            assert b"Via: " in await upstream.head()

        on_edge(script)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 101 S\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 101 S\r\nUpgrade: websocket, foo\r\n\r\n",
        ],
    )
    def test_a_switch_to_something_else(self, answer: bytes) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, HANDSHAKE)
            await upstream.send(answer + b"raw")
            status, _, body = await client.response()
            assert status == 502
            assert b"raw" not in body
            await upstream.rest()

        on_edge(script)

    def test_a_101_without_connection_gets_the_edges_own(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, HANDSHAKE)
            await upstream.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n")
            assert parse_fields(await client.head())["connection"] == "Upgrade"

        on_edge(script)

    @pytest.mark.parametrize(
        "octets",
        [
            request(b"GET / HTTP/1.0", b"Upgrade: websocket", b"Connection: Upgrade"),
            request(b"GET / HTTP/1.1", b"Upgrade: websocket"),
            request(b"POST / HTTP/1.1", b"Upgrade: websocket", b"Connection: Upgrade"),
            request(
                b"GET / HTTP/1.1",
                b"Upgrade: h2c, HTTP/2.0, TLS/1.0",
                b"Connection: Upgrade, HTTP2-Settings",
                b"HTTP2-Settings: AA",
            ),
        ],
    )
    def test_what_is_not_offered_upstream(self, octets: bytes) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, head = await begin(edge, octets)
            fields = parse_fields(head)
            assert not {"upgrade", "connection", "http2-settings"} & set(fields)
            await upstream.send(SWITCH)
            assert (await client.response())[0] == 502

        on_edge(script)

    def test_other_protocols_are_relayed_whole(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, head = await begin(
                edge, request(b"GET / HTTP/1.1", b"Upgrade: foo/1, h2c", b"Connection: Upgrade")
            )
            assert parse_fields(head)["upgrade"] == "foo/1"
            await upstream.send(b"HTTP/1.1 101 S\r\nUpgrade: foo/1\r\nConnection: Upgrade\r\n\r\nraw")
            await client.head()
            assert await client.exactly(3) == b"raw"

        on_edge(script)

    def test_expect_and_upgrade(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(
                b"GET / HTTP/1.1",
                b"Upgrade: foo",
                b"Connection: Upgrade",
                b"Expect: 100-continue",
                b"Content-Length: 2",
            )
            client, upstream, _ = await begin(edge, octets)
            await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 100 ")
            await client.send(b"hi")
            assert await upstream.exactly(2) == b"hi"
            await upstream.send(b"HTTP/1.1 101 S\r\nUpgrade: foo\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")

        on_edge(script)


async def upstream_silent(upstream: Peer) -> bool:
    """Whether nothing has come to the upstream."""
    await settle()
    return not upstream.buffer and not upstream.stream._in.data


class TestConnect:
    CONNECT = request(
        b"CONNECT db.example:5432 HTTP/1.1",
        b"Proxy-Authorization: Basic eDp5",
        b"X-Egress-Token: t",
        host=b"b.t.edge.test",
    )

    def test_octets_flow_only_behind_a_2xx(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, head = await begin(edge, self.CONNECT + b"\x00early")
            assert head.startswith(b"CONNECT db.example:5432 HTTP/1.1\r\n")
            fields = parse_fields(head)
            assert fields["host"] == "db.example:5432"
            assert fields["proxy-authorization"] == "Basic eDp5"
            assert fields["x-egress-token"] == "t"
            assert await upstream_silent(upstream)
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
            answer = parse_fields(await client.head())
            assert not {"content-length", "transfer-encoding"} & set(answer)
            assert await client.exactly(8) == b"5\r\nhello"
            assert await upstream.exactly(6) == b"\x00early"

        on_edge(script)

    @pytest.mark.parametrize("status", [b"204", b"299"])
    def test_every_2xx_opens(self, status: bytes) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, self.CONNECT)
            await upstream.send(b"HTTP/1.1 " + status + b" X\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 " + status)
            await client.send(b"ping")
            assert await upstream.exactly(4) == b"ping"
            await upstream.send(b"pong")
            await upstream.stream.end()
            assert await client.exactly(4) == b"pong"

        on_edge(script)

    def test_a_refusal_is_handed_on_and_a_second_try_works(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, self.CONNECT)
            await upstream.send(b"HTTP/1.1 407 P\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n\r\nno")
            status, fields, body = await client.response()
            assert (status, fields["proxy-authenticate"], body) == (407, "Basic realm=x", b"no")
            await client.send(self.CONNECT)
            upstream = await edge.upstream()
            await upstream.head()

        on_edge(script)

    def test_octets_behind_a_refusal_are_no_tunnel_data(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, self.CONNECT + b"\x00early")
            await upstream.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            assert (await client.response())[0] == 403
            assert (await client.response())[0] == 400
            assert await upstream_silent(upstream)

        on_edge(script)

    def test_the_connections_tunnel_carries_it_whatever_it_names(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"CONNECT b.t.edge.test:443 HTTP/1.1", host=b"b.t.edge.test")
            asked = []
            original = edge.connector.open

            async def spy(tunnel: object, source: object) -> object:
                asked.append(tunnel)
                return await original(tunnel, source)  # type: ignore[arg-type]

            edge.connector.open = spy  # type: ignore[method-assign, assignment]
            await begin(edge, octets)
            assert asked == [edge.a]

        on_edge(script)

    def test_ipv6_targets(self) -> None:
        async def script(edge: Edge) -> None:
            _, _, head = await begin(edge, request(b"CONNECT [2001:db8::1]:8443 HTTP/1.1"))
            assert head.startswith(b"CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n")

        on_edge(script)

    def test_it_does_not_mix_with_ordinary_requests(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request())
            await upstream.send(OK)
            await client.response()
            await client.send(self.CONNECT)
            status, _, body = await client.response()
            assert (status, b"Misdirected Request" in body) == (421, True)
            await client.send(request())
            await upstream.head()
            assert edge.connector.opened == 1

        on_edge(script)
