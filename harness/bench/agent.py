"""A blocking agent with its upstreams inside, and many idle agents; no transcript, no event loop."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.bench.http3 import new_sessions
from harness.bench.quic_packets import carry_packets
from harness.bench.streams import Target, server_context
from harness.bench.upstream import in_background, serve
from harness.link.agent import EngineAccess
from harness.model.spec import TunnelSpec
from harness.wire import agent as wire


class AgentFailed(Exception):  # noqa: N818 - told to whoever started the program
    """The engine did not do its part; the text says what."""


class Link:
    """One TLS connection to the engine with frames on it."""

    def __init__(self, access: EngineAccess, context: ssl.SSLContext) -> None:
        self.stream = target_of(access).connect(context)
        self._reader = wire.FrameReader()

    def send(self, message: pb.Message) -> None:
        """Write one frame. Raises `OSError`."""
        self.stream.sendall(wire.encode(message))

    def read(self, case: str | None = None) -> pb.Message:
        """The next message, which must be a `case` without an error where that is given. Raises `AgentFailed`,
        `OSError`."""
        try:
            while (payload := self._reader.next()) is None:
                data = self.stream.recv(65_536)
                if not data:
                    raise AgentFailed("the engine ended the connection")
                self._reader.feed(data)
            message = wire.decode(payload)
        except wire.FrameError as problem:
            raise AgentFailed(f"the engine sent {problem}") from problem
        return message if case is None else checked(message, case)


def checked(message: pb.Message, case: str) -> pb.Message:
    """The message, which must be a `case` without an error. Raises `AgentFailed`."""
    if wire.kind(message) != case or wire.error_of(message) is not None:
        raise AgentFailed(f"awaited {case}, got {wire.kind(message)}: {wire.describe(message)}")
    return message


def target_of(access: EngineAccess) -> Target:
    """Where an agent connects."""
    return Target(access.address, access.port, access.server_name, access.ca_file, access.insecure)


def agent_context(access: EngineAccess) -> ssl.SSLContext:
    """The agent's side of the link. Raises `OSError`."""
    return target_of(access).context((wire.ALPN,), access.certificate)


def open_channel(access: EngineAccess, context: ssl.SSLContext) -> Link:
    """A control channel without liveness. Raises `AgentFailed`, `OSError`."""
    link = Link(access, context)
    link.send(wire.open_control_channel(token=access.token))
    link.read("open_control_channel_rsp")
    return link


def open_tunnel(link: Link, spec: TunnelSpec, number: int = 0) -> pb.TunnelProperties:
    """One more tunnel on the channel. Raises `AgentFailed`, `OSError`."""
    link.send(wire.open_tunnel(f"request-{number}", wire.to_properties(spec)))
    return link.read("open_tunnel_rsp").open_tunnel_rsp.tunnel_properties


@dataclass
class Agent:
    """Publishes one tunnel per mode, and serves each stream of it in a thread. `certificate` is for upstreams that
    speak TLS themselves."""

    access: EngineAccess
    specs: Mapping[str, TunnelSpec]
    certificate: Sequence[str]
    _modes: dict[str, str] = field(default_factory=dict)

    def open(self) -> dict[str, pb.TunnelProperties]:
        """Publish; gives the properties by mode. Raises `AgentFailed`, `OSError`."""
        self._context = agent_context(self.access)
        self._inner = server_context(self.certificate)
        self._sessions = new_sessions(self.certificate)
        self._control = open_channel(self.access, self._context)
        published = {}
        for number, (mode, spec) in enumerate(self.specs.items()):
            published[mode] = open_tunnel(self._control, spec, number)
            self._modes[published[mode].id.value] = mode
        # An idle control channel is silent; only the steps of opening have a deadline.
        self._control.stream.settimeout(None)
        return published

    def run(self) -> None:
        """Answer the engine's requests for streams until the channel ends. Raises `AgentFailed`, `OSError`."""
        while True:
            message = self._control.read()
            if wire.kind(message) == "proxy_conn_req":
                in_background(self._carry, message.proxy_conn_req)

    def _carry(self, request: pb.ProxyConnReq) -> None:
        secret = request.secret.value if request.HasField("secret") else None
        try:
            link = Link(self.access, self._context)
            link.send(wire.proxy_req(request.stream_id, secret=secret, zero_rtt=True))
        except OSError:
            # The engine runs into its own deadline, and the client's end says so.
            return
        mode = self._modes[request.tunnel_id]
        if mode in self._sessions:
            carry_packets(link.stream, self._sessions[mode])
        else:
            serve(link.stream, mode, self._inner)


def open_idle(access: EngineAccess, spec: TunnelSpec, count: int) -> tuple[list[Link], float]:
    """`count` agents, each with a control channel and a tunnel of its own, and the seconds that this took. Raises
    `AgentFailed`, `OSError`."""
    context = agent_context(access)
    start = time.monotonic()
    links = []
    for _ in range(count):
        link = open_channel(access, context)
        open_tunnel(link, spec)
        links.append(link)
    return links, time.monotonic() - start
