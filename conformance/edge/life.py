"""How a tunnel ends: closed on purpose, or with the control channel of its agent lost; what becomes of its sessions
and of its name."""

from __future__ import annotations

from typing import Any

from conformance.edge._helpers import NAME, knock, under, upgraded
from harness.engine.agent_driver import AgentSession
from harness.errors import PeerMismatch
from harness.link.deadline import deadline
from harness.link.stream import End
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, tls
from harness.peer.scripted_agent import ScriptedAgent, accepted
from harness.scene import Scene

REQUESTED = "edge.requested-hostname"
SESSIONS = ["terminated", "upstream-tls", "passthrough", "websocket"]


def named(variant: Variant) -> TunnelSpec:
    """The tunnel of a variant, under a name that somebody else may ask for."""
    return {
        "terminated": tls(hostname=NAME),
        "upstream-tls": tls(hostname=NAME, upstream_tls=True),
        "passthrough": tls(hostname=NAME, tls_mode="passthrough"),
        "websocket": http(hostname=NAME),
        "request": http(hostname=NAME),
    }[variant["session"]]


async def _session(scene: Scene) -> tuple[Any, Any]:
    """Both ends of a session of the variant's kind, client first, that has carried octets both ways."""
    client, upstream = await (upgraded(scene) if scene.variant["session"] == "websocket" else scene.pair())
    await _echoes(scene, client, upstream)
    return client, upstream


async def _echoes(scene: Scene, client: Any, upstream: Any) -> None:
    """Octets go both ways. Raises `PeerMismatch` where they do not."""
    for source, sink, what in ((client, upstream, "upstream"), (upstream, client, "client")):
        word = scene.nonce()
        await source.send(word)
        got = await sink.receive_exactly(len(word))
        if got != word:
            raise PeerMismatch(f"the other end's octets at the {what}", got.hex())


@case(
    "edge-closed-01",
    checks=["EDGE-027"],
    publish=named,
    needs=["dynamic"],
    features=[REQUESTED],
    over={"session": [*SESSIONS, "request"]},
)
async def test_closing_a_tunnel_ends_its_sessions(scene: Scene) -> None:
    """When the agent closes a tunnel, every public session of it ends, and no new one begins.

    A TLS stream of each mode, a WebSocket session, and a request that the upstream has read and not answered. The
    agent closes the tunnel and leaves its own ends of the streams as they are: only the engine can end the client's.
    The request may be answered by an error instead.
    """
    where = scene.endpoint()
    assert isinstance(scene.session, AgentSession)
    with scene.judging("EDGE-027"):
        if scene.variant["session"] == "request":
            await _request_ends(scene)
        else:
            client, _ = await _session(scene)
            await scene.session.withdraw("main")
            rest, end = await client.receive_until_end()
            scene.expect("EDGE-027", not rest, expected="the end, and nothing before it", actual=f"{rest!r}, {end}")
        gone = await knock(scene, where, where.host)
        scene.expect("EDGE-027", gone.refused, expected=f"nobody to serve {where.host}", actual=gone.text)


async def _request_ends(scene: Scene) -> None:
    assert isinstance(scene.session, AgentSession)
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    await client.request("GET", f"/{nonce}", nonce=nonce)
    await upstream.request(nonce)
    await scene.session.withdraw("main")
    got = await client.outcome()
    ended = isinstance(got, End) or got.status >= 500
    told = str(got) if isinstance(got, End) else got.describe()
    scene.expect("EDGE-027", ended, expected="the end of the request, or an error", actual=told)


@case(
    "edge-lost-01",
    checks=["EDGE-026", "EDGE-014"],
    publish=named,
    settings={"timeout.lease-ms": 60_000},
    needs=["dynamic", "agent"],
    features=[REQUESTED],
    over={"session": SESSIONS},
)
async def test_a_lost_agent_keeps_its_sessions_and_its_name(scene: Scene) -> None:
    """When the control channel of an agent breaks, what runs goes on, new clients are refused, and the name is held.

    A session runs, then the connection of the control channel is reset. A new client is refused, and nothing of it
    reaches the upstream; the old session carries octets both ways; another agent that asks for the name is refused,
    for its lease runs for a minute.
    """
    where = scene.endpoint()
    with scene.judging("EDGE-026"):
        client, upstream = await _session(scene)
        scene.agent.drop()
        new = await knock(scene, where, where.host)
        scene.expect("EDGE-026", new.refused, expected="a new client to be refused", actual=new.text)
        await _echoes(scene, client, upstream)
    await scene.untouched("EDGE-026")
    with scene.judging("EDGE-014"):
        reply = await (await _second(scene)).open_tunnel(tls(hostname=where.host))
        taken = reply.HasField("error")
        scene.expect("EDGE-014", taken, expected=f"a refusal of {where.host}", actual=str(reply).replace("\n", " "))


@case(
    "edge-lost-02",
    checks=["EDGE-014", "EDGE-026"],
    publish=tls(hostname=NAME),
    settings={"timeout.lease-ms": 200},
    needs=["dynamic", "agent"],
    features=[REQUESTED],
)
async def test_the_name_of_a_lost_agent_is_free_after_its_lease(scene: Scene) -> None:
    """Once the lease of a lost control channel has ended another agent gets the name, and the old session still runs.

    The second agent asks until it gets the name, within the deadline. From then on clients of the name reach the
    second agent; the session that began before the loss still reaches the first one's upstream.
    """
    where = scene.endpoint()
    with scene.judging("EDGE-014", ends=True):
        client, upstream = await scene.pair()
        scene.agent.drop()
        second = await _second(scene)
        async with deadline(f"{where.host} to be given to another agent"):
            while (reply := await second.open_tunnel(tls(hostname=where.host))).HasField("error"):
                continue
        token = scene.nonce()
        newcomer = await scene.tls_client(endpoint=under(where, where.host))
        await newcomer.send(token)
        asked = await second.next_proxy_request()
        scene.expect(
            "EDGE-014",
            asked.tunnel_id == reply.tunnel_properties.id.value,
            expected="the second agent to be asked for the newcomer",
            actual=f"tunnel {asked.tunnel_id}",
        )
    with scene.judging("EDGE-026"):
        await _echoes(scene, client, upstream)
        scene.expect("EDGE-026", True, expected="the old session to go on", actual="it does")


async def _second(scene: Scene) -> ScriptedAgent:
    """Another agent, with its control channel open."""
    agent = await scene.scripted_agent()
    accepted(await agent.open())
    return agent
