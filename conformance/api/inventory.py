"""The list of agents and tunnels, and the stream of what happens to them (the engine's HTTP API)."""

from __future__ import annotations

import json
from typing import Any

from conformance.edge._helpers import HTTP, access, authority_of, engine_endpoint, listed
from harness.engine.agent_driver import AgentSession
from harness.errors import PeerMismatch
from harness.link.deadline import deadline
from harness.model.case import case
from harness.model.spec import http, tls
from harness.peer.http1 import Http1Client, Response
from harness.peer.scripted_agent import accepted
from harness.scene import Scene

TOKEN = "api-token"
LOCKED = {"auth.tokens": TOKEN}
LISTS = ["clients", "tunnels"]


@case(
    "api-token-01",
    checks=["OBS-001"],
    publish=tls(),
    settings=LOCKED,
    needs=["dynamic"],
    features=["edge.api"],
    over={"list": LISTS, "shown": ["nothing", "wrong", "basic", "right"]},
)
async def test_the_lists_need_a_bearer_token(scene: Scene) -> None:
    """`/api/clients` and `/api/tunnels` are answered with 200 to the right bearer token, and with 401 to anything else.

    No token, a wrong one, and the right one under another scheme: 401, and nothing of the list in the answer.
    """
    path, shown = f"/api/{scene.variant['list']}", scene.variant["shown"]
    fields = {
        "nothing": [],
        "wrong": [("Authorization", f"Bearer {TOKEN}x")],
        "basic": [("Authorization", f"Basic {TOKEN}")],
        "right": [("Authorization", f"Bearer {TOKEN}")],
    }[shown]
    with scene.judging("OBS-001"):
        response = await _get(scene, path, fields)
        wanted = 200 if shown == "right" else 401
        scene.expect("OBS-001", response.status == wanted, expected=f"{wanted}", actual=response.describe())
        told = scene.agent.client_id.encode() in response.body
        scene.expect("OBS-001", told == (shown == "right"), expected="the list for a token only", actual=f"{told}")


@case(
    "api-token-02",
    checks=["OBS-001"],
    publish=tls(),
    settings=LOCKED,
    needs=["dynamic"],
    features=["edge.api"],
)
async def test_the_description_of_the_api_is_open(scene: Scene) -> None:
    """`/api/openapi.json` is served without a token, although the engine has tokens: an OpenAPI document."""
    with scene.judging("OBS-001"):
        response = await _get(scene, "/api/openapi.json", [])
        document = _json_of(response.body)
        is_one = response.status == 200 and isinstance(document, dict) and "openapi" in document
        scene.expect("OBS-001", is_one, expected="200 with the API's description", actual=response.describe())


@case(
    "api-token-03",
    checks=["OBS-004"],
    publish=tls(),
    settings=LOCKED,
    needs=["dynamic"],
    features=["edge.api"],
    over={"path": ["/api/tunnels", "/api/clients", "/api/sse"]},
)
async def test_a_token_in_the_query_counts_for_live_events_only(scene: Scene) -> None:
    """The right token in the query opens the stream of live events; a list with it is answered with 401."""
    path = scene.variant["path"]
    with scene.judging("OBS-004"):
        client = await _client(scene)
        await client.request("GET", f"{path}?rstream.token={TOKEN}")
        response = await client.response_head()
        wanted = 200 if path == "/api/sse" else 401
        scene.expect("OBS-004", response.status == wanted, expected=f"{wanted}", actual=response.describe())
        client.abort()


@case("api-list-01", checks=["OBS-001"], publish={"a": tls(), "b": http()}, needs=["dynamic"], features=["edge.api"])
async def test_the_lists_follow_what_happens(scene: Scene) -> None:
    """A tunnel is in the list once it is acknowledged, and no more once it is closed; an agent likewise.

    Two tunnels of one agent, of which one is closed; a second agent opens its control channel and closes it.
    """
    session = scene.session
    assert isinstance(session, AgentSession)
    ids = {name: scene.endpoint(name).name for name in ("a", "b")}
    own = scene.agent.client_id
    with scene.judging("OBS-001"):
        await _expect_tunnels(scene, own, set(ids.values()))
        second = await scene.scripted_agent()
        other = accepted(await second.open()).client_id
        await _expect_clients(scene, {own, other}, set())
        await session.withdraw("a")
        await _expect_tunnels(scene, own, {ids["b"]})
        await second.close()
        await _expect_clients(scene, {own}, {other})


async def _expect_tunnels(scene: Scene, client: str, wanted: set[str]) -> None:
    """The list has these tunnels of this agent and no others of it."""
    found = {str(item.get("id")) for item in await listed(scene) if item.get("client_id") == client}
    scene.expect("OBS-001", found == wanted, expected=f"the tunnels {sorted(wanted)}", actual=f"{sorted(found)}")


async def _expect_clients(scene: Scene, there: set[str], gone: set[str]) -> None:
    """The list has these agents, and not those."""
    found = {str(item.get("id")) for item in await listed(scene, "clients")}
    fits = there <= found and not gone & found
    scene.expect("OBS-001", fits, expected=f"{sorted(there)}, without {sorted(gone)}", actual=f"{sorted(found)}")


@case("api-events-01", checks=["OBS-002"], publish={"old": tls()}, needs=["dynamic"], features=["edge.api"])
async def test_live_events_begin_with_what_there_is(scene: Scene) -> None:
    """The first event is the complete state; then creations and removals come in their order.

    The stream of `/api/sse` is opened with one tunnel live. Then a second tunnel is published, and both are closed. The
    initial state must have the agent and the first tunnel; the second one's creation and both removals must follow, and
    nothing else of this agent's tunnels.
    """
    session = scene.session
    assert isinstance(session, AgentSession)
    with scene.judging("OBS-002"):
        client = await _client(scene)
        token = access(scene).token
        fields = [("Authorization", f"Bearer {token}")] if token else []
        await client.request("GET", "/api/sse", fields)
        response = await client.response_head()
        scene.expect("OBS-002", response.status == 200, expected="200", actual=response.describe())
        events = Events(client, response)
        await _expect_state(scene, await events.next())
        await scene.publish({"new": http()})
        new, old = scene.endpoint("new").name, scene.endpoint("old").name
        await session.withdraw("old")
        await session.withdraw("new")
        wanted = [("tunnel.created", new), ("tunnel.deleted", old), ("tunnel.deleted", new)]
        got = [await events.of_tunnels({old, new}) for _ in wanted]
        scene.expect("OBS-002", got == wanted, expected=f"{wanted}", actual=f"{got}")
        client.abort()


async def _expect_state(scene: Scene, event: dict[str, Any]) -> None:
    """`state.initial`, with the agent and the tunnel of this case."""
    state = event.get("object")
    is_one = event.get("type") == "state.initial" and isinstance(state, dict)
    scene.expect("OBS-002", is_one, expected="state.initial first", actual=f"{event.get('type')}")
    assert isinstance(state, dict)
    for kind, wanted in (("clients", scene.agent.client_id), ("tunnels", scene.endpoint("old").name)):
        found = [item.get("id") for item in state.get(kind) or ()]
        scene.expect("OBS-002", wanted in found, expected=f"{wanted} among the {kind}", actual=f"{found}")


class Events:
    """The events of one `text/event-stream`, one JSON object per block."""

    def __init__(self, client: Http1Client, response: Response) -> None:
        self._client = client
        self._response = response
        self._rest = b""

    async def next(self) -> dict[str, Any]:
        """The next event. Raises `PeerMismatch` for a block that is none, and at the end of the stream."""
        while True:
            block, found, rest = self._rest.partition(b"\n\n")
            if not found:
                more = await self._client.read_some(self._response)
                if not more:
                    raise PeerMismatch("an event", "the end of the stream")
                self._rest += more
                continue
            self._rest = rest
            data = b"".join(line[5:] for line in block.split(b"\n") if line.startswith(b"data:"))
            if not data:
                continue
            event = _json_of(data)
            if not isinstance(event, dict):
                raise PeerMismatch("a JSON object", repr(data[:60]))
            return event

    async def of_tunnels(self, ids: set[str]) -> tuple[str, str]:
        """Type and tunnel id of the next event about one of these tunnels."""
        async with deadline(f"an event of {sorted(ids)}"):
            while True:
                event = await self.next()
                subject = event.get("object")
                if isinstance(subject, dict) and subject.get("id") in ids:
                    return str(event.get("type")), str(subject["id"])


async def _client(scene: Scene) -> Http1Client:
    """A client of the engine's API."""
    where = engine_endpoint(scene)
    peer = await scene.tls_client(endpoint=where, alpn=HTTP)
    return Http1Client(peer, peer.channel, host=authority_of(where))


async def _get(scene: Scene, path: str, fields: list[tuple[str, str]]) -> Response:
    client = await _client(scene)
    await client.request("GET", path, fields)
    response = await client.response()
    await client.close()
    return response


def _json_of(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None
