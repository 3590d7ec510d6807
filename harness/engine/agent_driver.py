"""Driving an engine over the agent protocol: every case publishes through a control channel of its own.

`AgentDriver` is for an engine that already runs; `harness.engine.launch` starts one and goes on from here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.driver import Driver, Endpoint, Published, Refused, Session, UpstreamQueue
from harness.errors import DeadlineExpired, NotSupported, PeerMismatch, SetupFailed
from harness.evidence.transcript import Transcript
from harness.link.agent import EngineAccess
from harness.link.stream import LinkReset
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec
from harness.peer.agent import Agent, ChannelLost, EngineRefused, ScriptedAgent
from harness.wire import agent as wire

DEFAULT_PORT = 443
TROUBLE = (OSError, LinkReset, ChannelLost, PeerMismatch, DeadlineExpired)
"""What an engine that does not do its part gives an agent."""
_NAMED = ("hostname", "name", "host")
_PROPERTIES = tuple(field.name for field in pb.TunnelProperties.DESCRIPTOR.fields)
_PLAIN_WORDS = ("host", "name", "port", "type", "id")
"""Properties whose names are everyday words: in a sentence they mean the property only in front or in quotes."""


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `host[:port]` or `[v6][:port]`; the port is 443 unless given. Raises `ValueError`."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\\\[\]]+)(?::([0-9]{1,5}))?", text)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise ValueError(f"found {text!r}, allowed is host or host:port")
    return match[1].strip("[]").lower(), port


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def property_in(message: str) -> str | None:
    """The tunnel property that a refusal objects to: the one in front, else the first that is named."""
    head = re.match(r"[\"'`]?(\w+)", message)
    if head and head[1] in _PROPERTIES:
        return head[1]
    for match in re.finditer(r"([\"'`]?)\b(\w+)\b", message):
        if match[2] in _PROPERTIES and (match[1] or match[2] not in _PLAIN_WORDS):
            return match[2]
    return None


class ProtocolDriver(Driver):
    """What all engines share that speak the agent protocol: `access` for agents, names, endpoints, sessions.

    `access` and `addresses` (transport to host and port; `tcp` at least) are set by `start`.
    """

    dynamic = True
    tells_addresses = False
    """Whether the engine itself says where it listens, each transport apart."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.access: EngineAccess | None = None
        self.domain = ""
        self.project = str(profile.driver.get("project", "default"))
        self.addresses: dict[str, tuple[str, int]] = {}
        self._version = ""
        self._run_nonce = secrets.token_hex(8)
        self._serial = 0

    @property
    def version(self) -> str:
        """Name and version as the engine gives them to an agent."""
        return self._version

    async def plan(self, specs: Mapping[str, TunnelSpec]) -> None:
        """Nothing: each case publishes while it runs."""

    async def open_session(self, key: str) -> AgentSession:
        """A session with a control channel of its own, opened at the first `publish`."""
        if self.access is None:
            raise SetupFailed("engine: not started")
        self._serial += 1
        digest = hashlib.sha256(f"{key}\n{self._run_nonce}\n{self._serial}".encode()).hexdigest()
        return AgentSession(self, self.access, f"c{digest[:10]}")

    async def _greet(self) -> None:
        """Open a control channel and close it: the engine answers, and says who it is. Raises `SetupFailed`."""
        assert self.access is not None
        agent = Agent(self.access, interval_ms=None)
        try:
            await agent.open()
            server = agent.server
            self._version = f"{server.agent.value} {server.version.value}".strip()
        except EngineRefused as error:
            raise SetupFailed(f"engine: refused the control channel: {error}") from error
        except TROUBLE as error:
            raise SetupFailed(f"engine: no control channel at {self.access}: {error}") from error
        finally:
            await agent.close()

    def fill(self, spec: TunnelSpec, label: str) -> TunnelSpec:
        """`spec` with `{label}`, `{domain}` and `{project}` filled in."""
        changes: dict[str, Any] = {}
        for name in _NAMED:
            value = getattr(spec, name)
            if value and "{" in value:
                for mark, text in (("{label}", label), ("{domain}", self.domain), ("{project}", self.project)):
                    value = value.replace(mark, text)
                changes[name] = value
        return dataclasses.replace(spec, **changes) if changes else spec

    def endpoint(self, properties: pb.TunnelProperties) -> Endpoint:
        """Where the tunnel with these properties is reached. Raises `SetupFailed` when the engine did not say."""
        told = wire.from_properties(properties)
        tunnel_id = str(told.get("id", ""))
        protocol = told.get("protocol") or "http"
        kind = {"dtls": "dtls", "quic": "udp"}.get(str(protocol), "tcp")
        if told.get("publish") is False:
            host, port = self.addresses["tcp"]
            return Endpoint("", host, port, "tcp", tunnel_id, told)
        address, port = self.addresses.get(kind) or self.addresses["tcp"]
        if protocol == "tcp" or "reported" in self.addresses:
            port = int(told.get("port") or port)
        host = str(told.get("hostname") or str(told.get("host", "")).partition(":")[0])
        if not host:
            raise SetupFailed(f"engine: published tunnel {tunnel_id!r} without saying its host name")
        udp = self._http3_at(address, port) if protocol == "http" else None
        return Endpoint(host, address, port, "tcp" if kind == "tcp" else "udp", tunnel_id, told, udp)

    def _http3_at(self, address: str, port: int) -> tuple[str, int] | None:
        """Where HTTP/3 clients reach what others reach at `address` and `port`: at the UDP listener of an engine that
        told of one, at the same port of one that told no addresses."""
        return self.addresses.get("udp") or (None if self.tells_addresses else (address, port))


class AgentSession(Session):
    """The publications of one case, through an agent of its own. Set `transcript` before the first step of the case to
    see the agent's leg in it."""

    def __init__(self, driver: ProtocolDriver, access: EngineAccess, label: str) -> None:
        self._driver = driver
        self._access = access
        self.label = label
        self.agent = Agent(access)
        self._open = False
        self._scripted = 0
        self._tunnels: dict[str, str] = {}

    @property
    def transcript(self) -> Transcript | None:
        """Where the steps of the agent are kept."""
        return self.agent.transcript

    @transcript.setter
    def transcript(self, transcript: Transcript | None) -> None:
        self.agent.transcript = transcript

    async def open(self) -> Agent:
        """Open the control channel, if that was not done, and give its agent. Raises `SetupFailed`."""
        if not self._open:
            try:
                await self.agent.open()
            except EngineRefused as error:
                raise SetupFailed(f"engine: refused the control channel: {error}") from error
            except TROUBLE as error:
                raise SetupFailed(f"engine: no control channel at {self._access}: {error}") from error
            self._open = True
        return self.agent

    async def publish(self, specs: Mapping[str, TunnelSpec]) -> dict[str, Published]:
        """Publish `specs` by name, one after the other. Raises `SetupFailed` when the engine does not answer."""
        agent = await self.open()
        published: dict[str, Published] = {}
        for name, spec in specs.items():
            queue = UpstreamQueue()
            wanted = self._driver.fill(spec, self.label)
            answer: Endpoint | Refused
            try:
                properties = await agent.open_tunnel(wanted, queue)
            except EngineRefused as error:
                answer = Refused(error.code, error.text, property_in(error.text))
            except TROUBLE as error:
                raise SetupFailed(f"engine: no answer to the tunnel {name!r}: {error}") from error
            else:
                answer = self._driver.endpoint(properties)
                self._tunnels[name] = properties.id.value
            published[name] = Published(wanted, answer, queue)
        return published

    async def withdraw(self, name: str) -> None:
        """Close the tunnel that was published as `name`. Raises `SetupFailed`."""
        try:
            await self.agent.close_tunnel(self._tunnels.pop(name))
        except TROUBLE as error:
            raise SetupFailed(f"engine: no answer to the closing of the tunnel {name!r}: {error}") from error

    async def scripted_agent(self, transcript: Transcript, *, name: str = "", **access: Any) -> ScriptedAgent:
        """An agent for the case to drive, not connected yet; `access` replaces fields of `EngineAccess`."""
        self._scripted += 1
        return ScriptedAgent(
            dataclasses.replace(self._access, **access), transcript, name=name or f"agent-{self._scripted}"
        )

    async def close(self) -> None:
        """Close the control channel, and with it every tunnel of the case; reset what is left of its streams."""
        await self.agent.close()


class AgentDriver(ProtocolDriver):
    """An engine that already runs. Keys of the profile's driver table: `address` (host:port), `domain`, and of
    `token`, `certificate` and `key`, `ca_file`, `project`, `insecure`, `public_address` (where clients go, unless it
    is the address of the engine) those that are needed."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._public: tuple[str, int] | None = None

    async def start(self, settings: Settings) -> None:
        """Reach the engine. Raises `NotSupported` for a setting that is not the profile's own: nobody here can restart
        the engine."""
        own = {"edition": self.profile.edition, **self.profile.settings}
        for key, value in settings.items:
            if key != "agent.transport" and own.get(key) != value:
                raise NotSupported(f"setting {key}={value}")
        table = self.profile.driver
        host, port = self._address("address")
        self.domain = str(table["domain"])
        resolved = await _resolve(host, port)
        certificate = (str(table["certificate"]), str(table["key"])) if "certificate" in table else None
        self.access = EngineAccess(
            resolved,
            port,
            server_name=self.domain if is_literal(host) else host,
            ca_file=table.get("ca_file"),
            insecure=bool(table.get("insecure", False)),
            token=table.get("token"),
            certificate=certificate,
            transport=str(settings.get("agent.transport", "tls")),
        )
        self.addresses = {"tcp": (resolved, port), "reported": (resolved, port)}
        if "public_address" in table:
            public_host, public_port = self._address("public_address")
            self.addresses = {"tcp": (await _resolve(public_host, public_port), public_port)}
        await self._greet()

    def _address(self, key: str) -> tuple[str, int]:
        try:
            return split_address(str(self.profile.driver[key]))
        except ValueError as error:
            raise SetupFailed(f"profile: {self.profile.file}: driver.{key}: {error}") from error

    async def restart(self) -> None:
        """Nobody here can restart the engine. Raises `NotSupported`."""
        raise NotSupported("restart")

    async def stop(self) -> None:
        """Nothing of ours runs."""

    def crashed(self) -> str | None:
        """`None`: the process is out of sight."""
        return None

    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        """Nothing: the log is out of sight."""
        return ()


async def _resolve(host: str, port: int) -> str:
    """The first address of `host`. Raises `SetupFailed`."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, proto=6)
    except OSError as error:
        raise SetupFailed(f"engine: cannot resolve {host!r}: {error.strerror or error}") from error
    return str(found[0][4][0])
