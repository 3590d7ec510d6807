"""The engine's HTTP API: who may ask, what is listed, live events, discovery."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any
from urllib.parse import quote

import pytest

from reference_engine.config import PERMISSION_STREAMS, TokenGrant
from reference_engine.tunnel.model import Client, ClientInfo
from tests.engine_http_support import Edge, Peer, make_tunnel, on_edge

TOKENS = (
    TokenGrant("good", "default"),
    TokenGrant("other", "elsewhere"),
    TokenGrant("dialer", "default", (PERMISSION_STREAMS,)),
)
BEARER = b"Authorization: Bearer good"


def api_request(path: str, *fields: bytes, method: bytes = b"GET", host: bytes = b"edge.test") -> bytes:
    lines = [method + b" " + path.encode() + b" HTTP/1.1", b"Host: " + host, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def ask(edge: Edge, path: str, *fields: bytes, method: bytes = b"GET") -> tuple[int, dict[str, str], bytes]:
    client = edge.api_client()
    await client.send(api_request(path, *fields, method=method))
    answer = await client.response(to_head=method == b"HEAD")
    await client.stream.close()
    return answer


async def ask_json(edge: Edge, path: str) -> Any:
    status, fields, body = await ask(edge, path, BEARER)
    assert (status, fields["content-type"]) == (200, "application/json")
    return json.loads(body)


async def next_event(client: Peer) -> dict[str, Any]:
    block = await client.until(b"\n\n\r\n")
    found: dict[str, Any] = json.loads(block[block.index(b"data: ") + 6 :])
    return found


class TestAccess:
    @pytest.mark.parametrize(
        ("path", "fields", "status"),
        [
            ("/api/auth", [], 401),
            ("/api/auth", [b"Authorization: Bearer wrong"], 401),
            ("/api/auth", [b"Authorization: Basic good"], 401),
            ("/api/auth", [b"Authorization: bearer good"], 200),
            ("/api/auth", [b"Authorization: Bearer dialer"], 200),
            ("/api/auth", [BEARER, BEARER], 401),
            ("/api/tunnels", [], 401),
            ("/api/tunnels", [BEARER], 200),
            ("/api/tunnels", [b"Authorization: Bearer dialer"], 403),
            ("/api/tunnels?rstream.token=good", [], 401),
            ("/api/tunnels?rstream.token=good", [BEARER], 401),
            ("/api/tunnels?rstream%2Etoken=good", [BEARER], 401),
            ("/api/clients", [], 401),
            ("/api/sse", [], 401),
            ("/api/sse?rstream.token=wrong", [], 401),
            ("/api/nothing", [], 401),
            ("/api/nothing", [BEARER], 404),
            ("/", [BEARER], 404),
            ("/api/websocket", [BEARER], 501),
            ("/api/openapi.json", [], 200),
            ("/.well-known/rstream/engine", [], 200),
        ],
    )
    def test_who_may_ask(self, path: str, fields: list[bytes], status: int) -> None:
        async def script(edge: Edge) -> None:
            found, answer, _ = await ask(edge, path, *fields)
            assert found == status
            assert answer.get("www-authenticate") == ("Bearer" if status == 401 else None)

        on_edge(script, tokens=TOKENS)

    def test_open_mode(self) -> None:
        async def script(edge: Edge) -> None:
            assert (await ask(edge, "/api/tunnels"))[0] == 200
            assert (await ask(edge, "/api/tunnels", b"Authorization: Bearer anything"))[0] == 200
            assert (await ask(edge, "/api/tunnels?rstream.token=x"))[0] == 401

        on_edge(script)

    @pytest.mark.parametrize("method", [b"POST", b"DELETE", b"FROB"])
    def test_methods(self, method: bytes) -> None:
        async def script(edge: Edge) -> None:
            status, fields, _ = await ask(edge, "/api/tunnels", BEARER, method=method)
            assert (status, fields["allow"]) == (405, "GET, HEAD")
            assert (await ask(edge, "/api/tunnels", BEARER, method=b"HEAD"))[0] == 200

        on_edge(script, tokens=TOKENS)

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            (b"edge.test", 200),
            (b"default.edge.test:9443", 200),
            (b"127.0.0.1:9443", 200),
            (b"[::1]", 200),
            (b"a.t.edge.test", 421),
            (b"t.edge.test", 421),
            (b"other.example", 421),
        ],
    )
    def test_names(self, host: bytes, status: int) -> None:
        async def script(edge: Edge) -> None:
            client = edge.api_client()
            await client.send(api_request("/api/openapi.json", host=host))
            assert (await client.response())[0] == status
            assert edge.connector.opened == 0

        on_edge(script)

    def test_no_proxy_and_no_raw_octets(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.api_client()
            await client.send(b"CONNECT h:1 HTTP/1.1\r\nHost: edge.test\r\n\r\n")
            assert (await client.response())[0] == 405
            client = edge.api_client()
            await client.send(b"\x16\x03\x01")
            assert (await client.response())[0] == 400

        on_edge(script)


class TestLists:
    def test_tunnels(self) -> None:
        async def script(edge: Edge) -> None:
            created = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
            one = make_tunnel(
                "c", port=9443, labels={"k": "v"}, creation_date=created, geoip=("FR",), tls_alpns=("h2",)
            )
            edge.engine.registry.add(one)
            edge.engine.registry.lease(edge.b)
            listed = await ask_json(edge, "/api/tunnels")
            assert [(found["id"], found["status"]) for found in listed] == [
                ("id-a", "online"),
                ("id-b", "offline"),
                ("id-c", "online"),
            ]
            expected = {
                "id": "id-c",
                "client_id": "client-1",
                "project_id": "default",
                "status": "online",
                "publish": True,
                "protocol": "http",
                "labels": {"k": "v"},
                "hostname": "c.t.edge.test",
                "host": "c.t.edge.test:9443",
                "port": 9443,
                "creation_date": "2026-01-02T03:04:05.000Z",
                "geo_ip": ["FR"],
                "tls_alpns": ["h2"],
            }
            assert listed[2] == expected
            assert await ask_json(edge, "/api/tunnels/id-c") == expected
            assert (await ask(edge, "/api/tunnels/nothing", BEARER))[0] == 404
            edge.engine.registry.remove(one)
            assert (await ask(edge, "/api/tunnels/id-c", BEARER))[0] == 404

        on_edge(script, tokens=TOKENS)

    def test_projects_do_not_see_each_other(self) -> None:
        async def script(edge: Edge) -> None:
            status, _, body = await ask(edge, "/api/tunnels", b"Authorization: Bearer other")
            assert (status, json.loads(body)) == (200, [])
            assert (await ask(edge, "/api/tunnels/id-a", b"Authorization: Bearer other"))[0] == 404

        on_edge(script, tokens=TOKENS)

    def test_clients(self) -> None:
        async def script(edge: Edge) -> None:
            info = ClientInfo(agent="sdk", version="1.2", os="linux")
            since = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
            edge.engine.registry.add_client(Client("client-1", "default", info, since))
            edge.engine.registry.add_client(Client("client-2", "elsewhere", info, since))
            expected = {
                "id": "client-1",
                "status": "online",
                "project_id": "default",
                "agent": "sdk",
                "version": "1.2",
                "os": "linux",
                "creation_date": "2026-01-02T00:00:00.000Z",
            }
            assert await ask_json(edge, "/api/clients") == [expected]
            assert await ask_json(edge, "/api/clients?params=" + quote('{"filters": {"os": "plan9"}}')) == []

        on_edge(script, tokens=TOKENS)

    @pytest.mark.parametrize(
        ("params", "ids"),
        [
            (None, ["id-a", "id-b"]),
            ("null", ["id-a", "id-b"]),
            ("{}", ["id-a", "id-b"]),
            ('{"filters": null, "limit": null}', ["id-a", "id-b"]),
            ('{"limit": 1}', ["id-a"]),
            ('{"limit": 0}', []),
            ('{"filters": {"hostname": "b.t.edge.test"}}', ["id-b"]),
            ('{"filters": {"publish": true, "status": "online"}}', ["id-a", "id-b"]),
            ('{"filters": {"publish": false}}', []),
            ('{"filters": {"name": null}}', ["id-a", "id-b"]),
            ('{"filters": {"labels": {"k": null}}}', []),
            ('{"filters": {"user_id": "u"}}', []),
        ],
    )
    def test_params(self, params: str | None, ids: list[str]) -> None:
        async def script(edge: Edge) -> None:
            query = "" if params is None else f"?params={quote(params)}"
            assert [found["id"] for found in await ask_json(edge, f"/api/tunnels{query}")] == ids

        on_edge(script, tokens=TOKENS)

    @pytest.mark.parametrize(
        "params",
        [
            *("{", "[]", "1", '"x"', '{"other": 1}', '{"limit": -1}', '{"limit": true}', '{"limit": "1"}'),
            '{"filters": []}',
            '{"filters": {"colour": 1}}',
            '{"filters": {"labels": []}}',
            '{"filters": {"labels": {"k": 1}}}',
            "[" * 4000,
        ],
    )
    def test_params_that_are_refused(self, params: str) -> None:
        async def script(edge: Edge) -> None:
            status, _, body = await ask(edge, f"/api/tunnels?params={quote(params)}", BEARER)
            assert status == 400
            assert body.startswith(b"params")

        on_edge(script, tokens=TOKENS)

    def test_labels(self) -> None:
        async def script(edge: Edge) -> None:
            edge.engine.registry.add(make_tunnel("c", labels={"k": "v"}))
            for wanted, count in (('{"k": "v"}', 1), ('{"k": null}', 1), ('{"k": "w"}', 0), ('{"l": null}', 0)):
                found = await ask_json(edge, "/api/tunnels?params=" + quote('{"filters": {"labels": ' + wanted + "}}"))
                assert len(found) == count

        on_edge(script, tokens=TOKENS)


class TestDocuments:
    def test_openapi_describes_what_is_served(self) -> None:
        async def script(edge: Edge) -> None:
            _, _, body = await ask(edge, "/api/openapi.json")
            document = json.loads(body)
            assert document["openapi"].startswith("3.1")
            assert "/api/websocket" not in document["paths"]
            for path in document["paths"]:
                client = edge.api_client()
                await client.send(api_request(path.replace("{id}", "id-a"), BEARER))
                assert (await client.head()).startswith(b"HTTP/1.1 200 ")
                await client.stream.close()

        on_edge(script, tokens=TOKENS)

    def test_discovery(self) -> None:
        async def script(edge: Edge) -> None:
            client = edge.api_client()
            await client.send(api_request("/.well-known/rstream/engine", host=b"default.edge.test:9443"))
            status, fields, body = await client.response()
            assert (status, fields["cache-control"]) == (200, "max-age=3600")
            assert json.loads(body) == {
                "version": 1,
                "projectEndpoint": "default",
                "mtlsApiUrl": "https://default.edge.test:9443/api",
                "capabilities": [],
            }

        on_edge(script)


class TestEvents:
    async def watch(self, edge: Edge, query: str = "", *fields: bytes) -> Peer:
        client = edge.api_client()
        await client.send(api_request(f"/api/sse{query}", *fields))
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: text/event-stream" in head
        return client

    def test_the_state_comes_first_then_changes_in_order(self) -> None:
        async def script(edge: Edge) -> None:
            client = await self.watch(edge, "", BEARER)
            first = await next_event(client)
            assert first["type"] == "state.initial"
            assert {"snapshot_at", "clients", "tunnels"} == set(first["object"])
            assert [found["id"] for found in first["object"]["tunnels"]] == ["id-a", "id-b"]
            tunnel = make_tunnel("c")
            edge.engine.registry.add(tunnel)
            edge.engine.registry.lease(tunnel)
            edge.engine.registry.remove(tunnel)
            info = Client("client-9", "default", ClientInfo(), dt.datetime.now(dt.UTC))
            edge.engine.registry.add_client(info)
            edge.engine.registry.remove_client("client-9")
            seen = [await next_event(client) for _ in range(5)]
            assert [(found["type"], found["object"]["status"]) for found in seen] == [
                ("tunnel.created", "online"),
                ("tunnel.updated", "offline"),
                ("tunnel.deleted", "offline"),
                ("client.created", "online"),
                ("client.deleted", "offline"),
            ]
            assert all(found["created_at"].endswith("Z") and found["id"] for found in seen)

        on_edge(script, tokens=TOKENS)

    def test_a_token_in_the_query(self) -> None:
        async def script(edge: Edge) -> None:
            client = await self.watch(edge, "?rstream.token=good")
            assert (await next_event(client))["type"] == "state.initial"

        on_edge(script, tokens=TOKENS)

    def test_filters_and_projects(self) -> None:
        async def script(edge: Edge) -> None:
            client = await self.watch(edge, "?params=" + quote('{"tunnels": {"id": "id-d"}}'), BEARER)
            assert (await next_event(client))["object"]["tunnels"] == []
            foreign = make_tunnel("e")
            foreign.project = "elsewhere"
            edge.engine.registry.add(foreign)
            edge.engine.registry.add(make_tunnel("c"))
            edge.engine.registry.add(make_tunnel("d"))
            assert (await next_event(client))["object"]["id"] == "id-d"

        on_edge(script, tokens=TOKENS)

    def test_params_are_checked(self) -> None:
        async def script(edge: Edge) -> None:
            assert (await ask(edge, "/api/sse?params=%7B%22tunnel%22%3A1%7D", BEARER))[0] == 400

        on_edge(script, tokens=TOKENS)

    def test_a_watcher_that_leaves_is_forgotten(self) -> None:
        async def script(edge: Edge) -> None:
            client = await self.watch(edge, "", BEARER)
            await next_event(client)
            client.stream.abort("gone")
            for _ in range(50):
                await asyncio.sleep(0)
            # The front of the tunnels listens too, and stays.
            assert len(edge.engine.registry._listeners) == 1

        on_edge(script, tokens=TOKENS)

    def test_a_watcher_that_does_not_read_is_dropped(self) -> None:
        async def script(edge: Edge) -> None:
            client = await self.watch(edge, "", BEARER)
            for _ in range(1_500):
                edge.engine.registry.add(make_tunnel("z"))
            assert (await client.rest()).endswith(b"0\r\n\r\n")

        on_edge(script, tokens=TOKENS)

    def test_draining_ends_the_stream_whole(self) -> None:
        async def script(edge: Edge) -> None:
            client = await self.watch(edge, "", BEARER)
            await next_event(client)
            edge.api.drain()
            assert await client.rest() == b"0\r\n\r\n"
            assert client.end == "clean"

        on_edge(script, tokens=TOKENS)
