"""Steps that the cases of the agent link share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.agent_driver import ProtocolDriver
from harness.engine.driver import Endpoint
from harness.errors import PeerMismatch
from harness.evidence.transcript import AGENT
from harness.link.agent import AgentLink, EngineAccess
from harness.link.deadline import deadline
from harness.link.stream import EndKind, LinkReset
from harness.model.case import CaseFunction, case
from harness.model.spec import TunnelSpec, private, tls
from harness.peer.agent import ScriptedAgent, accepted
from harness.peer.agent_frames import Frames
from harness.peer.raw import RawPeer
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire import agent as wire

CONTROL = frozenset(
    {
        "open_control_channel_rsp",
        "close_control_channel_rsp",
        "open_tunnel_rsp",
        "close_tunnel_rsp",
        "proxy_conn_req",
        "heartbeat",
        "empty",
        "datagram_channel_close",
        "proxy_rsp",
        "stream_rsp",
    }
)
"""Whatever an engine may put on a control channel, wrongly too: kept aside while something else is awaited."""
INTERVAL_MS = 60_000
"""A heartbeat interval that never falls due in a case."""


def agent_case(
    case_id: str,
    *,
    checks: Sequence[str],
    needs: Sequence[str] = (),
    features: Sequence[str] = (),
    single_family: bool = True,
    **declared: Any,
) -> Callable[[CaseFunction], CaseFunction]:
    """As `case`, for a case that speaks the agent protocol frame by frame."""
    return case(
        case_id,
        checks=checks,
        needs=("agent", *needs),
        features=("agent.protocol", *features),
        family="agent",
        single_family=single_family,
        **declared,
    )


# the control channel


def access_of(scene: Scene) -> EngineAccess:
    """How this run's agents reach the engine."""
    access = cast("ProtocolDriver", scene.driver).access
    assert access is not None
    return access


async def channel(
    scene: Scene, *, interval_ms: int | None = INTERVAL_MS, token: str | None = None, **options: Any
) -> ScriptedAgent:
    """An agent whose control channel is open, with liveness unless `interval_ms` is None."""
    if token is not None:
        options["token"] = token
    agent = await scene.scripted_agent(**options)
    accepted(await agent.open(interval_ms=interval_ms))
    return agent


async def lives(scene: Scene, agent: ScriptedAgent, *requirements: str) -> None:
    """The channel still answers: it takes one more private tunnel. A departure from `requirements` where not."""
    with scene.judging(*requirements):
        reply = await ask(agent, wire.to_properties(private(name=named(scene))))
        if not reply.tunnel_properties.id.value:
            raise PeerMismatch("another tunnel on the channel", wire.describe_error(reply.error))


async def ask(agent: ScriptedAgent, properties: pb.TunnelProperties, request_id: str = "") -> pb.OpenTunnelRsp:
    """Ask for a tunnel; whatever else comes before the reply is kept aside."""
    wanted = request_id or f"ask-{len(agent.aside)}-{id(properties):x}"
    await agent.send_message(wire.open_tunnel(wanted, properties))
    reply: pb.OpenTunnelRsp = await agent.expect("open_tunnel_rsp", aside=CONTROL - {"open_tunnel_rsp"})
    return reply


def named(scene: Scene) -> str:
    """A tunnel name of this run's own."""
    return f"n{scene.nonce().hex()[:12]}"


class Tunnel:
    """One tunnel of a scripted agent: `id`, and `endpoint` where it is published."""

    def __init__(self, agent: ScriptedAgent, properties: pb.TunnelProperties, endpoint: Endpoint) -> None:
        self.agent = agent
        self.properties = properties
        self.id: str = properties.id.value
        self.name: str = properties.name.value
        self.endpoint = endpoint


async def published(scene: Scene, agent: ScriptedAgent, **properties: Any) -> Tunnel:
    """A published TLS tunnel of `agent`. Raises `PeerMismatch` when the engine refuses it."""
    return await tunnel_of(scene, agent, tls(**properties))


async def unpublished(scene: Scene, agent: ScriptedAgent, **properties: Any) -> Tunnel:
    """A private tunnel of `agent`."""
    return await tunnel_of(scene, agent, private(**{"name": named(scene), **properties}))


async def tunnel_of(scene: Scene, agent: ScriptedAgent, spec: TunnelSpec) -> Tunnel:
    """Any tunnel of `agent`."""
    driver = cast("ProtocolDriver", scene.driver)
    properties = accepted(await ask(agent, wire.to_properties(driver.fill(spec, named(scene)))))
    return Tunnel(agent, properties, driver.endpoint(properties))


def hostname(scene: Scene, label: str, project: str | None = None) -> str:
    """The host name with this label in the engine's zone."""
    driver = cast("ProtocolDriver", scene.driver)
    return f"{label}-{project or driver.project}.t.{driver.domain}"


async def next_request(tunnel: Tunnel) -> pb.ProxyConnReq:
    """The next request for a stream of this tunnel; requests for others are kept aside."""
    agent = tunnel.agent
    others: list[pb.Message] = []
    try:
        while True:
            request: pb.ProxyConnReq = await agent.expect("proxy_conn_req", aside=CONTROL - {"proxy_conn_req"})
            if request.tunnel_id == tunnel.id:
                return request
            others.append(pb.Message(proxy_conn_req=request))
    finally:
        agent.aside.extend(others)


def left_over(agent: ScriptedAgent, *kinds: str) -> list[pb.Message]:
    """Messages on the control channel that no step took, of these kinds or of any; only after a barrier."""
    return [message for message in agent.arrived() if not kinds or wire.kind(message) in kinds]


def told_of(messages: Sequence[pb.Message]) -> str:
    """Messages for an `actual`."""
    return "; ".join(f"{wire.kind(m)} {wire.describe(m)}".strip() for m in messages) or "nothing"


def ended(seen: PeerMismatch | LinkReset) -> bool:
    """Whether what came in the place of an awaited frame is the end of its connection, whatever the transport."""
    ends = (str(EndKind.CLOSE_NOTIFY), str(EndKind.FIN))
    return isinstance(seen, LinkReset) or seen.actual in ends or seen.actual.startswith("the end of the connection")


# connections of their own


async def knock(scene: Scene, first: bytes = b"", **access: Any) -> Frames:
    """A connection of its own on which `first` is written as it is."""
    agent = await scene.scripted_agent(**access)
    link = await agent.connect()
    frames = Frames(link, scene.transcript.channel(AGENT, "agent", agent.name))
    if first:
        await frames.send_raw(first)
    return frames


async def told(frames: Frames) -> list[pb.Message]:
    """Every frame that the engine sends until it ends the connection, which it must. Raises `PeerMismatch` for octets
    that are none."""
    messages = []
    async with deadline("the engine to end the connection"):
        try:
            while (message := await frames.read()) is not None:
                messages.append(message)
        except LinkReset:
            return messages
        except wire.FrameError as error:
            raise PeerMismatch("frames, or the end of the connection", str(error)) from error
    return messages


async def octets_until_end(link: AgentLink) -> bytes:
    """What the engine sends, as octets, until it ends the connection, which it must."""
    data = bytearray()
    async with deadline("the engine to end the connection"):
        try:
            while chunk := await link.receive():
                data += chunk
        except LinkReset:
            return bytes(data)
    return bytes(data)


def watch(scene: Scene, link: AgentLink) -> asyncio.Task[None]:
    """A task that is done when the engine has ended the connection, whose octets it passes over."""

    async def read() -> None:
        try:
            while await link.receive():
                pass
        except LinkReset:
            return

    task = asyncio.ensure_future(read())

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    scene.on_close(stop)
    return task


def judge_refusal(scene: Scene, requirement: str, messages: Sequence[pb.Message], silent: str, error: str) -> None:
    """A connection that ended without a frame is the branch `silent`; behind one error answer it is `error`."""
    if not messages:
        scene.allow(requirement, silent)
        return
    scene.expect(
        requirement,
        len(messages) == 1 and wire.error_of(messages[0]) is not None,
        expected="the end of the connection, behind one error answer at most",
        actual=told_of(messages),
    )
    scene.allow(requirement, error)


# streams


def stream_peer(scene: Scene, link: AgentLink, name: str) -> RawPeer:
    """A data stream of the agent, or a dialled one, as a peer of its own."""
    return RawPeer(link, scene.transcript.channel(AGENT, "agent", name))


async def serve(scene: Scene, tunnel: Tunnel, request: pb.ProxyConnReq, **options: Any) -> RawPeer:
    """Answer `request` with a data stream; `options` as for `ScriptedAgent.answer_proxy`."""
    link = await tunnel.agent.answer_proxy(request, **options)
    return stream_peer(scene, link, f"stream {request.stream_id[:8]}")


class Caller:
    """A client on its way through a tunnel: it connects and sends its nonce, and an engine may keep it waiting for the
    agent at any point of that."""

    def __init__(self, scene: Scene, where: Endpoint, *, more: bytes = b"") -> None:
        self.scene = scene
        self.nonce = scene.nonce()
        self._where = where
        self._more = more
        self._peer: TlsPeer | None = None
        self._task = asyncio.ensure_future(self._go())
        scene.on_close(self._stop)

    async def _go(self) -> TlsPeer:
        self._peer = await self.scene.tls_client(endpoint=self._where, handshake=False)
        await self._peer.handshake()
        await self._peer.send(self.nonce + self._more)
        return self._peer

    async def _stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def peer(self) -> TlsPeer:
        """The client, once it has sent its nonce."""
        return await asyncio.shield(self._task)

    def abort(self) -> None:
        """Go away with a reset."""
        self._task.cancel()
        if self._peer is not None:
            self._peer.abort()

    async def joined(self, upstream: RawPeer) -> TlsPeer:
        """Exchange nonces with the agent's side of the stream, both ways. Raises `PeerMismatch` for crossed or changed
        octets."""
        await match(upstream, self.nonce, "the client's nonce on its own stream")
        client = await self.peer()
        answer = self.scene.nonce()
        await upstream.send(answer)
        await match(client, answer, "the agent's answer at the client")
        return client

    async def turned_away(self) -> bytes:
        """The application octets that the client gets until its connection ends, which it must; a refusal in the
        handshake is an end too."""
        try:
            client = await self.peer()
        except (PeerMismatch, LinkReset):
            return b""
        return (await client.receive_until_end())[0]


async def match(peer: RawPeer | TlsPeer, wanted: bytes, what: str) -> None:
    """The next octets must be `wanted`. Raises `PeerMismatch`."""
    got = await peer.receive_exactly(len(wanted))
    if got != wanted:
        raise PeerMismatch(what, got[:64].hex() + ("..." if len(got) > 64 else ""))


async def dialled(scene: Scene, tunnel: Tunnel, key: str = "", *, dialler: ScriptedAgent | None = None) -> RawPeer:
    """A stream dialled with zero_rtt, as a peer."""
    link = await (dialler or tunnel.agent).dial(key or tunnel.id)
    return stream_peer(scene, link, "dialled")


async def works(scene: Scene, tunnel: Tunnel) -> None:
    """A fresh client gets through the published tunnel, both ways. Raises what the peers raise where it does not."""
    caller = Caller(scene, tunnel.endpoint)
    upstream = await serve(scene, tunnel, await next_request(tunnel))
    client = await caller.joined(upstream)
    await client.close()
    await upstream.close()


async def reached(scene: Scene, tunnel: Tunnel, key: str = "", *, dialler: ScriptedAgent | None = None) -> None:
    """A dialler gets through the tunnel, both ways. Raises what the peers raise where it does not.

    Its octets leave once the engine has read its first frame: what becomes of octets glued to that is for cases of
    their own.
    """
    dialler_side = await dialled(scene, tunnel, key, dialler=dialler)
    request = await next_request(tunnel)
    token = scene.nonce()
    await dialler_side.send(token)
    upstream = await serve(scene, tunnel, request)
    await match(upstream, token, "the dialler's nonce on the agent's stream")
    await upstream.send(token[::-1])
    await match(dialler_side, token[::-1], "the agent's answer at the dialler")
    await dialler_side.close()
    await upstream.close()


async def settle(scene: Scene, probe: Tunnel) -> None:
    """The barrier on the agent's leg: twice a dialled stream through the private tunnel `probe`, whose request comes
    on the control channel behind everything that was queued for it, and back."""
    for _ in range(2):
        await reached(scene, probe)
    scene.transcript.note("barrier", "two dialled streams through a tunnel of the same channel, and back")
