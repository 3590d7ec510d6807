"""Whatever agents and diallers say, in any order: the agent link neither raises nor grows, and keeps projects apart.

The engine's own objects, streams in memory: nothing here listens, and a run of many examples is quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent import closing
from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.agent.framing import MAX_FRAME, FrameError, FrameReader, encode
from reference_engine.agent.rules import AgentRules, Names
from reference_engine.config import Settings, TokenGrant
from reference_engine.engine import Engine
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address, StreamReset
from reference_engine.tunnel.model import Tunnel
from tests.engine_tls_support import Pipe

SOAK_EXAMPLES = int(os.environ.get("EDGECASE_SOAK_EXAMPLES", "3000"))
DEADLINE = 20.0
PROJECTS = ("a", "b")
CHANNELS, TUNNELS, PENDING, STREAMS = 4, 3, 3, 4
CHUNK = 262_144
TURNS = 12
"""Turns of the loop behind each step: enough for a frame to have had its effect, and for an answer to be written."""


def marker(project: str) -> bytes:
    """What only this project's peers write on streams."""
    return f"<octets of {project}>".encode()


class Reader(FrameReader):
    """A reader that knows how much it ever held."""

    most = 0

    def feed(self, data: bytes) -> None:
        super().feed(data)
        Reader.most = max(Reader.most, len(self._buffer))


class Rules(AgentRules):
    """The rules as they are, with that reader."""

    def reader(self) -> FrameReader:
        return Reader()


class Known:
    """What the agents of one project have learnt."""

    def __init__(self) -> None:
        self.tunnels: list[str] = []
        self.streams: list[tuple[str, str]] = []


class Peer:
    """One connection to the agent link: our end, and what came there."""

    def __init__(self, world: World, project: str, *, deaf: bool) -> None:
        self.project = project
        self.near, self.far = Pipe.pair(room=8192)
        self.received = bytearray()
        self.own: set[str] = set()
        self.channel = False
        self._frames: FrameReader | None = FrameReader()
        self._world = world
        self.serving = asyncio.ensure_future(world.engine.agents.serve(self.near))
        self._reading = None if deaf else asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(StreamReset):
            while data := await self.far.read():
                self.received += data
                self._learn(data)

    def _learn(self, data: bytes) -> None:
        """Frames, as long as it looks like frames: only a control channel carries more than one."""
        if self._frames is None:
            return
        self._frames.feed(data)
        try:
            while (message := self._frames.next()) is not None:
                self._heed(message)
        except FrameError:
            self._frames = None

    def _heed(self, message: pb.Message) -> None:
        known = self._world.known[self.project]
        match message.WhichOneof("payload"):
            case "open_control_channel_rsp":
                self.channel = message.open_control_channel_rsp.HasField("ok")
            case "open_tunnel_rsp" if message.open_tunnel_rsp.HasField("tunnel_properties"):
                self.own.add(message.open_tunnel_rsp.tunnel_properties.id.value)
                known.tunnels.append(message.open_tunnel_rsp.tunnel_properties.id.value)
            case "close_tunnel_rsp":
                assert message.close_tunnel_rsp.tunnel_id in self.own
            case "proxy_conn_req":
                assert message.proxy_conn_req.tunnel_id in self.own
                known.streams.append((message.proxy_conn_req.stream_id, message.proxy_conn_req.secret.value))

    async def say(self, data: bytes) -> None:
        """Write, without waiting for an engine that does not read."""
        with contextlib.suppress(StreamReset, TimeoutError):
            async with asyncio.timeout(0):
                await self.far.write(data)

    async def gone(self) -> None:
        await self.serving
        if self._reading is not None:
            await self._reading


class World:
    """An engine with two projects, and everybody who talks to it."""

    def __init__(self, rules: AgentRules) -> None:
        self.engine = Engine(
            Settings(
                tokens=tuple(TokenGrant(f"token-{project}", project) for project in PROJECTS),
                lease_ms=1,
                max_control_channels=CHANNELS,
                max_tunnels_per_channel=TUNNELS,
                max_pending_streams_per_channel=PENDING,
                max_streams_per_channel=STREAMS,
            ),
            Parts(agent=rules),
        )
        self.known = {project: Known() for project in PROJECTS}
        self.peers: list[Peer] = []
        self.clients: list[tuple[str, Pipe, asyncio.Task[None]]] = []
        self.problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.problems.append(context))

    async def step(self, action: tuple[Any, ...]) -> None:
        """One action of somebody, and what the engine makes of it at once."""
        kind, *rest = action
        if kind == "connect":
            project, deaf = rest
            self.peers.append(Peer(self, project, deaf=deaf))
        elif kind == "first":
            project, deaf, message, octets = rest
            self.peers.append(Peer(self, project, deaf=deaf))
            await self.peers[-1].say(encode(self._message(project, *message)) + marker(project) * octets)
        elif kind == "answer":
            await self._answer(*rest)
        elif kind == "say":
            project, message = rest
            for peer in [peer for peer in self.peers if peer.channel and peer.project == project][-1:]:
                await peer.say(encode(self._message(project, *message)))
        elif kind == "client":
            self._client(rest[0])
        elif self.peers:
            peer = self.peers[rest[0] % len(self.peers)]
            if kind == "raw":
                await peer.say(rest[1])
            elif kind == "end":
                await peer.far.end()
            elif kind == "cut":
                peer.far.abort("cut")
            else:
                await peer.say(encode(self._message(peer.project, *rest[1])) + marker(peer.project) * rest[2])
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.check()

    async def _answer(self, project: str, number: int, zero_rtt: bool) -> None:
        """What a good agent does: claim a stream that it was asked for, and write on it."""
        streams = self.known[project].streams
        if not streams:
            return
        stream_id, secret = streams[-1 - number % len(streams)]
        message = pb.Message()
        message.proxy_req.stream_id = stream_id
        details(message.proxy_req.client_details, secret, "1.4.5")
        message.proxy_req.zero_rtt.value = zero_rtt
        self.peers.append(Peer(self, project, deaf=False))
        await self.peers[-1].say(encode(message) + marker(project) * 3)

    def _client(self, number: int) -> None:
        """A public client of some tunnel."""
        tunnels = self.engine.registry.tunnels()
        if not tunnels:
            return
        tunnel = tunnels[number % len(tunnels)]
        near, far = Pipe.pair()
        task = asyncio.ensure_future(self._serve_client(tunnel, near))
        self.clients.append((tunnel.project, far, task))
        far.far._inbox.append(marker(tunnel.project))

    async def _serve_client(self, tunnel: Tunnel, near: Pipe) -> None:
        try:
            stream = await self.engine.connector.open(tunnel, Address("192.0.2.1", 1))
        except UpstreamUnavailable:
            near.abort("no upstream")
            return
        await self.engine.parts.relay.run(near, stream)

    def _message(self, project: str, case: str, number: int, text: str, flag: bool | None) -> pb.Message:
        """A valid message. Numbers choose among what is known: ids of everybody's, secrets and tokens of one's own."""
        everybody = [item for known in self.known.values() for item in known.tunnels]
        streams = [item for known in self.known.values() for item in known.streams]
        own = self.known[project].streams
        tunnel = everybody[number // 3 % len(everybody)] if everybody else text
        stream = streams[-1 - number // 3 % len(streams)][0] if streams else text
        secret = own[-1 - number // 3 % len(own)][1] if own and number % 4 else text
        token = [f"token-{project}", text][number % 8 == 7]
        return build(case, number, text, flag, tunnel, stream, secret, token)

    def check(self) -> None:
        """What must hold at any time."""
        assert not self.problems, self.problems
        for peer in self.peers:
            assert not peer.serving.done() or peer.serving.exception() is None
            for other in PROJECTS:
                assert other == peer.project or marker(other) not in peer.received
            assert peer.far.unread <= closing_bound(peer)
        for project, far, _ in self.clients:
            for other in PROJECTS:
                assert other == project or marker(other) not in b"".join(far._inbox)
        assert Reader.most <= 4 + MAX_FRAME + CHUNK
        assert len(self.engine.agents.channels()) <= CHANNELS
        for line in self.engine.connector._lines.values():
            assert line.outstanding <= PENDING
            assert line.streams <= STREAMS + PENDING
            assert sum(tunnel.client_id == line.client_id for tunnel in self.engine.registry.tunnels()) <= TUNNELS

    async def over(self) -> None:
        """Everybody goes, and nothing is left of them."""
        for far in (*(peer.far for peer in self.peers), *(far for _, far, _ in self.clients)):
            far.abort("cut")
        for peer in self.peers:
            await peer.gone()
        for _, _, task in self.clients:
            await task
        await self.engine.agents.stop()
        await self._nobody_left()
        self.check()
        assert not self.engine.connector._streams
        assert not self.engine.connector._lines
        assert not self.engine.registry.clients()
        assert not self.engine.agents.channels()

    async def _nobody_left(self) -> None:
        """Leases end, and what is under way."""
        changed = asyncio.Event()
        stop = self.engine.registry.listen(lambda _: changed.set())
        while self.engine.registry.tunnels():
            changed.clear()
            await changed.wait()
        stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left)


def closing_bound(peer: Peer) -> int:
    """The most that may wait for a peer that does not read: what it may be sent unread, and one frame or chunk more."""
    return (1 << 20) + CHUNK + len(marker(peer.project))


def build(
    case: str, number: int, text: str, flag: bool | None, tunnel: str, stream: str, secret: str, token: str
) -> pb.Message:
    """The message of this payload case."""
    message = pb.Message()
    match case:
        case "open_control_channel_req":
            details(message.open_control_channel_req.client_details, token, ["1.4.5", text][number % 4 == 3])
            message.open_control_channel_req.liveness.heartbeat_interval_ms = number % 3 * 1000
        case "open_tunnel_req":
            message.open_tunnel_req.request_id = text
            properties(message.open_tunnel_req.tunnel_properties, number, text, flag)
        case "close_tunnel_req":
            message.close_tunnel_req.tunnel_id = tunnel
        case "proxy_conn_rsp":
            message.proxy_conn_rsp.stream_id = stream
            if flag:
                message.proxy_conn_rsp.error.message.value = text
        case "proxy_req":
            message.proxy_req.stream_id = stream
            details(message.proxy_req.client_details, secret, text)
            if flag is not None:
                message.proxy_req.zero_rtt.value = flag
        case "stream_req":
            message.stream_req.tunnel_id_name = [tunnel, f"name-{number % 2}", text][number % 3]
            details(message.stream_req.client_details, token, "1.4.5")
            if flag is not None:
                message.stream_req.zero_rtt.value = flag
            message.stream_req.datagram_channel.value = number % 11 == 10
        case "heartbeat":
            message.heartbeat.sequence = number
        case "datagram_channel_close":
            message.datagram_channel_close.stream_id = stream
        case _:
            getattr(message, case).SetInParent()
    return message


def details(into: pb.ClientDetails, token: str, version: str) -> None:
    into.token.value = token
    into.protocol_version.value = version


def properties(into: pb.TunnelProperties, number: int, text: str, flag: bool | None) -> None:
    into.publish.value = number % 2 == 0
    into.publish.SetInParent()
    into.name.value = f"name-{number % 2}" if flag else text
    if number % 2 == 0:
        into.protocol.value = ["tls", "http", text][number % 3]
    if number % 7 == 6:
        into.labels[text] = text


CASES = [field.name for field in pb.Message.DESCRIPTOR.fields]
OFTEN = ["open_control_channel_req", "open_tunnel_req", "proxy_req", "stream_req", "stream_req", "proxy_conn_rsp"]
NUMBERS = st.integers(0, 60)
TEXTS = st.sampled_from(["", "x", "name-0", "00112233445566778899aabb"]) | st.text(max_size=20)
FLAGS = st.sampled_from([True, True, False, None])
MESSAGES = st.tuples(st.sampled_from(OFTEN * 4 + CASES), NUMBERS, TEXTS, FLAGS)
LONGEST_FRAME = MAX_FRAME.to_bytes(4, "big") + bytes(MAX_FRAME)
BEATS = encode(pb.Message(heartbeat=pb.Heartbeat())) * 50
OCTETS = st.binary(max_size=40) | st.sampled_from(
    [b"\0\0", b"\0\1\0\0", b"\0\0\xff\xff", bytes(4), bytes(70_000), BEATS, LONGEST_FRAME]
)
FIRST = st.tuples(st.sampled_from([*OFTEN, "stream_req", "proxy_req", "proxy_req"]), NUMBERS, TEXTS, FLAGS)
DEAF = st.sampled_from([False, False, False, False, True])
ACTIONS = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from(PROJECTS), DEAF),
    *[st.tuples(st.just("first"), st.sampled_from(PROJECTS), DEAF, FIRST, st.sampled_from([0, 1, 3000]))] * 4,
    *[st.tuples(st.just("answer"), st.sampled_from(PROJECTS), st.integers(0, 5), st.booleans())] * 4,
    *[st.tuples(st.just("say"), st.sampled_from(PROJECTS), MESSAGES)] * 3,
    st.tuples(st.just("message"), NUMBERS, MESSAGES, st.sampled_from([0, 1, 3000])),
    st.tuples(st.just("raw"), NUMBERS, OCTETS),
    st.tuples(st.just("client"), NUMBERS),
    st.tuples(st.sampled_from(["end", "cut"]), NUMBERS),
)
OPENING: list[tuple[Any, ...]] = [
    ("connect", "a", False),
    ("connect", "b", False),
    *(("message", number, ("open_control_channel_req", 1, "", True), 0) for number in (0, 1)),
    *(("message", number, ("open_tunnel_req", 1, "", True), 0) for number in (0, 1)),
    *(("message", number, ("open_tunnel_req", 0, "published", False), 0) for number in (0, 1)),
]
"""How a play begins: two agents of two projects, each with a private tunnel and a published one, of the same names."""


def play(actions: list[tuple[Any, ...]], rules: AgentRules | None = None) -> None:
    async def script() -> None:
        async with asyncio.timeout(DEADLINE):
            world = World(rules or Rules())
            try:
                for action in [*OPENING, *actions]:
                    await world.step(action)
                await world.over()
            finally:
                await world.engine.stop(0)

    asyncio.run(script())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of a closed tunnel are quiet at once: nothing is under way in memory."""
    monkeypatch.setattr(closing, "QUIET_SECONDS", 0)


SMALL = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=SOAK_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@SMALL
@given(st.lists(ACTIONS, min_size=15, max_size=50))
def test_any_conversation(actions: list[tuple[Any, ...]]) -> None:
    play(actions)


@pytest.mark.soak
@LONG
@given(st.lists(ACTIONS, min_size=15, max_size=120))
def test_any_conversation_for_long(actions: list[tuple[Any, ...]]) -> None:
    play(actions)


class AnySecret(Rules):
    """Gives a stream to whoever knows its id."""

    def secret_matches(self, secret: str, token: str | None) -> bool:
        return True


class AnyProject(Rules):
    """Dials every project's tunnels."""

    def meant(self, key: str, project: str, names: Names) -> Tunnel | None:
        return names.by_id(key)


class NoCap(Rules):
    """Asks for as many streams as somebody wants."""

    def may_ask(self, outstanding: int, limit: int) -> bool:
        return True


class NoLimit(Rules):
    """Collects whatever a length announces."""

    class Endless(Reader):
        def next(self) -> pb.Message | None:
            return None if len(self._buffer) > MAX_FRAME else super().next()

    def reader(self) -> FrameReader:
        return self.Endless()


OWN_DIAL = ("first", "a", False, ("stream_req", 1, "", True), 3)


@pytest.mark.parametrize(
    ("rules", "actions"),
    [
        (AnySecret, [OWN_DIAL, ("first", "b", False, ("proxy_req", 0, "wrong", True), 1)]),
        (AnyProject, [("first", "b", False, ("stream_req", 0, "", True), 3), ("answer", "a", 0, True)]),
        (NoCap, [OWN_DIAL] * (PENDING + 1)),
        (NoLimit, [("connect", "a", False), *[("raw", 2, bytes(70_000))] * 6]),
    ],
)
def test_a_conversation_notices(rules: type[Rules], actions: list[tuple[Any, ...]]) -> None:
    Reader.most = 0
    play(actions)
    with pytest.raises(AssertionError):
        play(actions, rules())
    Reader.most = 0
