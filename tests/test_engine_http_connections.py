"""Connections below exchanges: keep-alive, pipelining and draining downstream; reuse, pool and TLS upstream."""

from __future__ import annotations

import pytest

from tests.engine_http_support import OK, Edge, Peer, begin, on_edge, request, settle

CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class TestDownstreamConnections:
    def test_pipelined_requests_are_answered_in_order(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            await client.send(b"".join(request(b"GET /%d HTTP/1.1" % turn) for turn in range(5)))
            upstream = await edge.upstream()
            for turn in range(5):
                assert (await upstream.head()).startswith(b"GET /%d " % turn)
                await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % turn)
            for turn in range(5):
                assert (await client.response())[2] == b"%d" % turn
            assert edge.connector.opened == 1

        on_edge(script)

    @pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"GET / HTTP/1.0"])
    def test_nothing_is_read_behind_close(self, line: bytes) -> None:
        async def script(edge: Edge) -> None:
            first = request(line, b"Connection: close")
            client, upstream, _ = await begin(edge, first + request(b"GET /second HTTP/1.1"))
            await upstream.send(OK)
            _, fields, _ = await client.response()
            assert fields["connection"] == "close"
            assert await client.rest() == b""
            assert client.end == "clean"
            assert edge.front.upstreams.pool.size == 1
            assert upstream.buffer == b""

        on_edge(script)

    def test_a_refused_head_ends_the_connection(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            await client.send(b"GET / HTTP/1.1\r\n\r\n" + request())
            status, fields, _ = await client.response()
            assert (status, fields["connection"]) == (400, "close")
            assert await client.rest() == b""
            client = edge.client()
            await client.send(b"HEAD / HTTP/1.1\r\n\r\n")
            assert (await client.rest()).endswith(b"\r\n\r\n")
            assert edge.connector.opened == 0

        on_edge(script)

    def test_draining(self) -> None:
        async def script(edge: Edge) -> None:
            idle = edge.client()
            await settle()
            client, upstream, _ = await begin(edge, request())
            edge.front.drain()
            assert await idle.rest() == b""
            await upstream.send(OK)
            status, fields, _ = await client.response()
            assert (status, fields["connection"]) == (200, "close")
            assert await client.rest() == b""

        on_edge(script)


class TestReuse:
    async def get(self, edge: Edge, client: Peer, upstream: Peer | None = None, answer: bytes = OK) -> Peer:
        await client.send(request())
        found = upstream or await edge.upstream()
        await found.head()
        await found.send(answer)
        assert (await client.response())[2] == b"ok"
        return found

    def test_one_connection_for_many_requests_of_many_clients(self) -> None:
        async def script(edge: Edge) -> None:
            upstream = None
            for _ in range(3):
                client = edge.client()
                for _ in range(3):
                    upstream = await self.get(edge, client, upstream)
            assert edge.connector.opened == 1

        on_edge(script)

    def test_tunnels_do_not_share(self) -> None:
        async def script(edge: Edge) -> None:
            await self.get(edge, edge.client())
            client = edge.client()
            await client.send(request(host=b"b.t.edge.test"))
            await (await edge.upstream()).head()
            assert edge.connector.opened == 2

        on_edge(script)

    @pytest.mark.parametrize(
        "answer", [CLOSING, OK + b"extra", OK + OK, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"]
    )
    def test_what_is_not_reused(self, answer: bytes) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            first = await self.get(edge, client, answer=answer)
            assert await first.rest() == b""
            second = await self.get(edge, client)
            assert second is not first

        on_edge(script)

    @pytest.mark.parametrize("unsolicited", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x"])
    def test_unsolicited_octets_kill_an_idle_connection(self, unsolicited: bytes) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            first = await self.get(edge, client)
            await first.send(unsolicited)
            assert await first.rest() == b""
            second = await self.get(edge, client)
            assert second is not first

        on_edge(script)

    @pytest.mark.parametrize("how", ["close", "reset"])
    def test_a_get_on_a_stale_connection_is_repeated_once(self, how: str) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            for _ in range(2):
                first = await self.get(edge, client)
                await client.send(request())
                await first.head()
                if how == "close":
                    await first.stream.close()
                else:
                    first.stream.abort("rst")
                second = await edge.upstream()
                await second.head()
                await second.send(OK)
                assert (await client.response())[2] == b"ok"
                await second.stream.close()
                await settle()

        on_edge(script)

    def test_the_second_try_is_the_last(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            first = await self.get(edge, client)
            await client.send(request())
            await first.head()
            await first.stream.close()
            second = await edge.upstream()
            await second.head()
            await second.stream.close()
            assert (await client.response())[0] == 502
            assert edge.connector.opened == 2

        on_edge(script)

    def test_a_post_is_never_repeated(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.client()
            await self.get(edge, client)
            await client.send(request(b"POST / HTTP/1.1", b"Content-Length: 1", body=b"x"))
            upstream = await edge.upstream()
            await upstream.until(b"\r\n\r\nx")
            await upstream.stream.close()
            assert (await client.response())[0] == 502
            assert edge.connector.opened == 2

        on_edge(script)

    def test_an_aborted_response_takes_its_connection_along(self) -> None:
        async def script(edge: Edge) -> None:
            client, upstream, _ = await begin(edge, request())
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await client.head()
            client.stream.abort("gone")
            await upstream.rest()
            second = await self.get(edge, edge.client())
            assert second is not upstream

        on_edge(script)

    def test_idle_connections_end(self) -> None:
        async def script(edge: Edge) -> None:
            first = await self.get(edge, edge.client())
            assert await first.rest() == b""
            assert edge.front.upstreams.pool.size == 0

        on_edge(script, upstream_idle_ms=30)

    def test_idle_connections_end_with_the_tunnel_or_its_agent(self) -> None:
        async def script(edge: Edge) -> None:
            first = await self.get(edge, edge.client())
            edge.engine.registry.lease(edge.a)
            assert await first.rest() == b""
            client = edge.client()
            edge.connector.refuse = "agent-gone"
            await client.send(request())
            assert (await client.response())[0] == 502

        on_edge(script)

    def test_the_pool_is_bounded(self) -> None:
        async def script(edge: Edge) -> None:
            clients = [edge.client() for _ in range(4)]
            upstreams = []
            for client in clients:
                await client.send(request())
                upstreams.append(await edge.upstream())
            for client, upstream in zip(clients, upstreams, strict=True):
                await upstream.head()
                await upstream.send(OK)
                await client.response()
            await settle()
            assert edge.front.upstreams.pool.size == 2
            assert await upstreams[0].rest() == b""

        on_edge(script, upstream_max_idle=2)

    def test_the_agent_is_told_the_clients_address(self) -> None:
        async def script(edge: Edge) -> None:
            await self.get(edge, edge.client())
            (source,) = edge.connector.sources
            assert source is not None
            assert source.host == "192.0.2.9"

        on_edge(script)


class TestUpstreamTls:
    def test_http_tunnels_with_upstream_tls_offer_both_versions(self) -> None:
        async def script(edge: Edge) -> None:
            seen: list[tuple[str, tuple[str, ...]]] = []

            class Wrapper:
                async def wrap(self, stream: object, *, server_name: str, alpns: tuple[str, ...]) -> object:
                    seen.append((server_name, alpns))
                    return stream

            edge.engine.upstream_tls = Wrapper()
            edge.a.properties = type(edge.a.properties)(protocol="http", hostname="a.t.edge.test", upstream_tls=True)
            client, upstream, _ = await begin(edge, request())
            await upstream.send(OK)
            assert (await client.response())[0] == 200
            assert seen == [("a.t.edge.test", ("h2", "http/1.1"))]

        on_edge(script)

    def test_an_upstream_without_tls(self) -> None:
        async def script(edge: Edge) -> None:
            from reference_engine.tls.upstream import UpstreamTlsFailed

            class Wrapper:
                async def wrap(self, stream: object, *, server_name: str, alpns: list[str]) -> object:
                    raise UpstreamTlsFailed("plain")

            edge.engine.upstream_tls = Wrapper()
            edge.a.properties = type(edge.a.properties)(protocol="http", hostname="a.t.edge.test", upstream_tls=True)
            client = edge.client()
            await client.send(request())
            assert (await client.response())[0] == 502
            assert await (await edge.upstream()).rest() == b""

        on_edge(script)
