"""What a request and a response look like on the other side of the edge, and where a request goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine_http_support import OK, Edge, Peer, on_edge, parse_fields, request


async def crossed(edge: Edge, octets: bytes, answer: bytes = OK) -> tuple[bytes, dict[str, str], bytes]:
    """The request's start line and fields as the upstream sees them, and the response's octets as the client does."""
    client = edge.client()
    await client.send(octets)
    upstream = await edge.upstream()
    head = await upstream.head()
    await upstream.send(answer)
    await upstream.stream.close()
    response = await client.head()
    await client.stream.close()
    return head.split(b"\r\n")[0], parse_fields(head), response


async def refused(edge: Edge, octets: bytes) -> int:
    """The status of a request that nothing upstream may see."""
    client = edge.client()
    await client.send(octets)
    to_head = octets.startswith(b"HEAD ")
    status, fields, body = await client.response(to_head=to_head)
    assert edge.connector.opened == 0
    assert to_head or int(body.split()[0]) == status
    assert b"internals" not in body
    assert fields["content-type"] == "text/plain; charset=utf-8"
    return status


class TestRequestFields:
    def test_unknown_fields_pass_in_order_and_the_target_unchanged(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(
                b"PROPFIND /a%2Fb//c/%2e%2e/..;/x?x=%20&y HTTP/1.1",
                b"X-L: a",
                b"x-l: b",
                b"X-Raw: \xe9\xff",
                b"X-E:",
                b"X-L: c",
            )
            line, fields, _ = await crossed(edge, octets)
            assert line == b"PROPFIND /a%2Fb//c/%2e%2e/..;/x?x=%20&y HTTP/1.1"
            assert fields["x-l"] == "a, b, c"
            assert fields["x-raw"] == "\xe9\xff"
            assert fields["x-e"] == ""

        on_edge(script)

    def test_hop_by_hop_fields_stay_on_their_hop(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(
                b"GET / HTTP/1.1",
                b"connection: FOO, , ,Keep-Alive",
                b"Connection: bar",
                b"Foo: 1",
                b"BAR: 1",
                b"Keep-Alive: 5",
                b"Proxy-Connection: x",
                b"HTTP2-Settings: AAMA",
                b"Upgrade: h2c",
                b"TE: gzip",
                b"Proxy-Authorization: Basic eDp5",
                b"Stays: 1",
            )
            _, fields, _ = await crossed(edge, octets)
            gone = {"foo", "bar", "keep-alive", "proxy-connection", "http2-settings", "upgrade", "te", "connection"}
            assert not gone & set(fields)
            assert fields["stays"] == "1"
            assert fields["proxy-authorization"] == "Basic eDp5"

        on_edge(script)

    def test_nominating_the_edges_own_fields_removes_nothing(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(
                b"POST / HTTP/1.1",
                b"Connection: Host, Via, X-Forwarded-For, Content-Length",
                b"Content-Length: 2",
                body=b"hi",
            )
            _, fields, _ = await crossed(edge, octets)
            assert fields["host"] == "a.t.edge.test"
            assert fields["via"] == "1.1 edgecase"
            assert fields["x-forwarded-for"] == "192.0.2.9"
            assert fields["content-length"] == "2"

        on_edge(script)

    def test_what_the_edge_vouches_for_cannot_be_forged(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(
                b"GET / HTTP/1.1",
                b"X-Forwarded-For: 1.2.3.4",
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Host: evil",
                b"Via: 1.0 fred, 1.1 b",
            )
            _, fields, _ = await crossed(edge, octets)
            assert fields["x-forwarded-for"] == "1.2.3.4, 192.0.2.9"
            assert fields["x-forwarded-proto"] == "https"
            assert fields["x-forwarded-host"] == "a.t.edge.test"
            assert fields["via"] == "1.0 fred, 1.1 b, 1.1 edgecase"

        on_edge(script)

    def test_te_trailers_is_restated(self) -> None:
        async def script(edge: Edge) -> None:
            _, fields, _ = await crossed(edge, request(b"GET / HTTP/1.1", b"TE: chunked, trailers", b"Connection: TE"))
            assert fields["te"] == "trailers"
            assert fields["connection"] == "TE"

        on_edge(script)

    def test_http_1_0(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"POST / HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 2", host=b"", body=b"hi")
            line, fields, response = await crossed(edge, octets)
            assert line == b"POST / HTTP/1.1"
            assert fields["host"] == "a.t.edge.test"
            assert fields["via"] == "1.0 edgecase"
            assert "expect" not in fields
            assert response.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Connection: close" in response

        on_edge(script)

    def test_a_higher_minor_version(self) -> None:
        async def script(edge: Edge) -> None:
            line, _, response = await crossed(edge, request(b"GET / HTTP/1.9"))
            assert line == b"GET / HTTP/1.1"
            assert response.startswith(b"HTTP/1.1 ")

        on_edge(script)

    @pytest.mark.parametrize(
        ("sent", "seen"),
        [
            (b"GET https://a.t.edge.test/p?q HTTP/1.1", b"GET /p?q HTTP/1.1"),
            (b"GET https://A.t.Edge.test:9443?q=1 HTTP/1.1", b"GET /?q=1 HTTP/1.1"),
            (b"GET HTTPS://a.t.edge.test HTTP/1.1", b"GET / HTTP/1.1"),
            (b"OPTIONS https://a.t.edge.test HTTP/1.1", b"OPTIONS * HTTP/1.1"),
            (b"OPTIONS * HTTP/1.1", b"OPTIONS * HTTP/1.1"),
        ],
    )
    def test_targets(self, sent: bytes, seen: bytes) -> None:
        async def script(edge: Edge) -> None:
            line, fields, _ = await crossed(edge, request(sent))
            assert line == seen
            assert fields["host"].lower().startswith("a.t.edge.test")

        on_edge(script)

    @pytest.mark.parametrize(
        ("line", "status"),
        [
            (b"GET * HTTP/1.1", 400),
            (b"POST * HTTP/1.1", 400),
            (b"GET a.t.edge.test:443 HTTP/1.1", 400),
            (b"GET https:///x HTTP/1.1", 400),
            (b"GET http:///x HTTP/1.1", 400),
            (b"GET https://u:p@a.t.edge.test/ HTTP/1.1", 400),
            (b"GET https://a.t.edge.test:99999/ HTTP/1.1", 400),
            (b"GET ftp://a.t.edge.test/ HTTP/1.1", 400),
            (b"GET http://a.t.edge.test/ HTTP/1.1", 421),
            (b"CONNECT /x HTTP/1.1", 400),
            (b"CONNECT host HTTP/1.1", 400),
            (b"CONNECT host: HTTP/1.1", 400),
            (b"CONNECT host:99999 HTTP/1.1", 400),
            (b"CONNECT host:abc HTTP/1.1", 400),
        ],
    )
    def test_targets_that_are_refused(self, line: bytes, status: int) -> None:
        async def script(edge: Edge) -> None:
            assert await refused(edge, request(line)) == status

        on_edge(script)

    def test_max_forwards(self) -> None:
        async def script(edge: Edge) -> None:
            _, fields, _ = await crossed(edge, request(b"OPTIONS /x HTTP/1.1", b"Max-Forwards: 5"))
            assert fields["max-forwards"] == "4"
            _, fields, _ = await crossed(edge, request(b"GET /x HTTP/1.1", b"Max-Forwards: 0"))
            assert fields["max-forwards"] == "0"

        on_edge(script)

    def test_the_last_hop_answers_itself_and_keeps_secrets(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            secrets = (b"Cookie: s", b"Authorization: s", b"X-Forwarded-For: s", b"Max-Forwards: 0", b"X-Seen: 1")
            await client.send(request(b"TRACE /x HTTP/1.1", *secrets))
            status, fields, body = await client.response()
            assert (status, fields["content-type"]) == (200, "message/http")
            assert b"X-Seen: 1" in body
            assert b": s\r\n" not in body
            await client.send(request(b"OPTIONS /x HTTP/1.1", b"Max-Forwards: 0"))
            assert (await client.response())[::2] == (200, b"")
            assert edge.connector.opened == 0

        on_edge(script)

    @pytest.mark.parametrize("method", [b"TRACE /", b"CONNECT h:1"])
    def test_methods_without_content(self, method: bytes) -> None:
        async def script(edge: Edge) -> None:
            octets = request(method + b" HTTP/1.1", b"Content-Length: 5", body=b"hello")
            assert await refused(edge, octets) == 400

        on_edge(script)


class TestRouting:
    def test_each_request_goes_by_its_own_authority(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client(edge.a)
            for label in (b"a", b"b", b"a"):
                await client.send(request(b"POST / HTTP/1.1", host=label + b".t.edge.test"))
                upstream = await edge.upstream()
                assert parse_fields(await upstream.head())["host"] == f"{label.decode()}.t.edge.test"
                await upstream.send(OK)
                assert (await client.response())[0] == 200

        on_edge(script)

    def test_case_and_port_do_not_matter(self) -> None:
        async def script(edge: Edge) -> None:
            _, fields, _ = await crossed(edge, request(host=b"A.T.edge.test:9443"))
            assert fields["host"] == "A.T.edge.test:9443"

        on_edge(script)

    def test_absolute_form_overrides_host(self) -> None:
        async def script(edge: Edge) -> None:
            octets = request(b"GET https://a.t.edge.test/ HTTP/1.1", host=b"b.t.edge.test")
            _, fields, _ = await crossed(edge, octets)
            assert fields["host"] == "a.t.edge.test"
            assert edge.connector.opened == 1

        on_edge(script)

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            (b"nobody.t.edge.test", 404),
            (b"x.y.t.edge.test", 421),
            (b"edge.test", 421),
            (b"other.example", 421),
            (b"a.t.edge.test.", 421),
            (b"127.0.0.1", 421),
            (b"a.t.edge.test,b.t.edge.test", 421),
        ],
    )
    def test_names_that_lead_nowhere(self, host: bytes, status: int) -> None:
        async def script(edge: Edge) -> None:
            assert await refused(edge, request(host=host)) == status
            assert await refused(edge, request(b"HEAD / HTTP/1.1", host=host)) == status

        on_edge(script)

    def test_a_tunnel_of_another_protocol_is_not_reached(self) -> None:
        async def script(edge: Edge) -> None:
            edge.b.properties = replace(edge.b.properties, protocol="tls")
            assert await refused(edge, request(host=b"b.t.edge.test")) == 421

        on_edge(script)

    def test_the_connection_outlives_its_tunnel(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client(edge.a)
            edge.engine.registry.remove(edge.a)
            await client.send(request())
            assert (await client.response())[0] == 404
            await client.send(request(host=b"b.t.edge.test"))
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(OK)
            assert (await client.response())[0] == 200

        on_edge(script)


class TestResponseFields:
    def test_status_reason_and_fields_pass(self) -> None:
        async def script(edge: Edge) -> None:
            octets = (
                b"HTTP/1.1 599 Odd\r\nX-A: 1\r\nSet-Cookie: a=1; Expires=Sun, 1 Jan\r\nset-cookie: b\r\nServer: s\r\n"
            )
            _, _, response = await crossed(edge, request(), octets + b"Content-Length: 0\r\n\r\n")
            assert response.startswith(octets)
            assert parse_fields(response)["date"].endswith("GMT")

        on_edge(script)

    def test_hop_by_hop_fields_stay_on_their_hop(self) -> None:
        async def script(edge: Edge) -> None:
            octets = b"HTTP/1.1 200 OK\r\nConnection: x-b, close\r\nX-B: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n"
            octets += b"Proxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            _, _, response = await crossed(edge, request(), octets)
            fields = parse_fields(response)
            assert not {"x-b", "keep-alive", "upgrade", "connection"} & set(fields)
            assert fields["proxy-authenticate"] == "Basic"

        on_edge(script)

    def test_the_upstreams_version_does_not_show(self) -> None:
        async def script(edge: Edge) -> None:
            _, _, response = await crossed(edge, request(), b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert response.startswith(b"HTTP/1.1 200 OK\r\n")

        on_edge(script)

    @pytest.mark.parametrize("status", [b"204", b"304"])
    def test_no_content(self, status: bytes) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            await client.send(request())
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(b"HTTP/1.1 " + status + b" X\r\nContent-Length: 7\r\n\r\nstray!!")
            fields = parse_fields(await client.head())
            assert fields.get("content-length") == (None if status == b"204" else "7")
            assert "transfer-encoding" not in fields
            await client.send(request(b"GET /2 HTTP/1.1"))
            second = await edge.upstream()
            await second.head()
            await second.send(OK)
            assert (await client.response())[2] == b"ok"
            assert await upstream.rest() == b""

        on_edge(script)

    def test_426_keeps_what_it_is_about(self) -> None:
        async def script(edge: Edge) -> None:
            octets = b"HTTP/1.1 426 Upgrade\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"
            _, _, response = await crossed(edge, request(), octets)
            assert parse_fields(response)["upgrade"] == "websocket"
            assert parse_fields(response)["connection"] == "Upgrade"

        on_edge(script)

    def test_a_coding_that_nobody_takes_off(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            await client.send(request())
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nzipped")
            await upstream.stream.close()
            assert parse_fields(await client.head())["transfer-encoding"] == "gzip, chunked"
            assert await client.until(b"0\r\n\r\n") == b"6\r\nzipped\r\n0\r\n\r\n"

        on_edge(script)


class TestTrailers:
    async def both(self, edge: Edge, trailers: bytes, *fields: bytes) -> tuple[Peer, Peer, bytes]:
        client = edge.client()
        body = b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n"
        await client.send(request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", *fields, body=body))
        upstream = await edge.upstream()
        head = await upstream.head()
        assert b"x-auth" not in head
        await upstream.until(b"0\r\n")
        return client, upstream, await upstream.until(b"\r\n\r\n")

    def test_they_stay_trailers(self) -> None:
        async def script(edge: Edge) -> None:
            trailers = b"x-auth: admin\r\nX-Sum: 1\r\n"
            client, upstream, seen = await self.both(edge, trailers)
            assert seen == trailers + b"\r\n"
            await upstream.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n0\r\nx-t: 1\r\n\r\n"
            )
            assert b"Trailer: x-t" in await client.head()
            assert await client.until(b"\r\n\r\n") == b"0\r\nx-t: 1\r\n\r\n"

        on_edge(script)

    def test_what_may_not_be_a_trailer_is_dropped(self) -> None:
        async def script(edge: Edge) -> None:
            trailers = b"Content-Length: 0\r\nHost: evil\r\nCookie: a\r\nTransfer-Encoding: x\r\n"
            trailers += b"Authorization: b\r\nX-S: 1\r\nX-K: 1\r\n"
            _, _, seen = await self.both(edge, trailers, b"Connection: X-S")
            assert seen == b"X-K: 1\r\n\r\n"

        on_edge(script)
