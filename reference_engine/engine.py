"""The engine: its parts, wired, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from reference_engine.agent.connector import Connector
from reference_engine.agent.link import AgentLink
from reference_engine.config import ConfigError, Settings
from reference_engine.edge.api import Api
from reference_engine.edge.listener import PublicListener
from reference_engine.edge.redirect import RedirectListener
from reference_engine.edge.udp_listener import UdpListener
from reference_engine.http.server import HttpTunnels
from reference_engine.parts import Parts
from reference_engine.quic.tunnel import QuicTunnels
from reference_engine.relay.stream import Address
from reference_engine.tls.certificates import Certificates
from reference_engine.tls.tunnel import TlsTunnels
from reference_engine.tls.upstream import UpstreamTls
from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.registry import Registry

GATED_SETTINGS = ("agent_certificates", "project_tls_min_version")
"""Settings that are features of an edition, by the same name in the table of editions."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a started engine is reached; None where there is no listener."""

    https: Address
    udp: Address | None
    http: Address | None
    domain: str
    ca_file: Path | None
    edition: str

    def as_json(self) -> dict[str, str | None]:
        """The ready line: `agent` is the public TCP listener too; there is none for DTLS and none for metrics."""
        return {
            "agent": str(self.https),
            "https": str(self.https),
            "udp": str(self.udp) if self.udp else None,
            "dtls": None,
            "http": str(self.http) if self.http else None,
            "metrics": None,
            "domain": self.domain,
            "ca_file": str(self.ca_file) if self.ca_file else None,
            "edition": self.edition,
        }


class Engine:
    """One engine in the running loop. Raises ConfigError when the settings cannot be followed.

    `parts` hands out every rule and endpoint; a mutant is an engine with one of them replaced.
    """

    def __init__(self, settings: Settings, parts: Parts | None = None) -> None:
        self.settings = settings
        self.parts = parts if parts is not None else Parts()
        self.log = logging.getLogger("reference_engine")
        self.version = _version()
        self.udp = settings.udp_listen is not None
        self.draining = asyncio.Event()
        self._own_state = tempfile.TemporaryDirectory(prefix="edgecase-") if settings.state_dir is None else None
        self._leases: dict[str, asyncio.TimerHandle] = {}
        self._ready: Ready | None = None
        try:
            self._check_edition()
            self.certificates = Certificates(
                domain=settings.domain,
                state_dir=Path(self._own_state.name) if self._own_state is not None else settings.state_dir or Path(),
                certificate_file=settings.certificate_file,
                key_file=settings.key_file,
                ca_file=settings.ca_file,
                rules=self.parts.edge,
            )
            self.upstream_tls = UpstreamTls(self)
        except ConfigError:
            self._drop_state()
            raise
        self.registry = Registry()
        self.connector = Connector(self)
        self.agents = AgentLink(self)
        self.tls_tunnels = TlsTunnels(self)
        self.quic_tunnels = QuicTunnels(self)
        self.http = HttpTunnels(self)
        self.api = Api(self)
        self.public = PublicListener(self)
        self.quic = UdpListener(self) if self.udp else None
        self.redirect = RedirectListener(self) if settings.http_listen is not None else None

    def _check_edition(self) -> None:
        edition = self.settings.edition
        for name in GATED_SETTINGS:
            if getattr(self.settings, name) and not self.parts.editions.available(name, edition):
                raise ConfigError(f"{name}: not part of the {edition} edition")
        if self.settings.metrics_listen is not None:
            raise ConfigError("metrics_listen: this engine has no metrics listener; allowed: off")

    @property
    def udp_address(self) -> Address | None:
        """Where the public UDP listener is; None where there is none."""
        return self._ready.udp if self._ready is not None else self.settings.udp_listen

    def public_port(self, protocol: str | None) -> int:
        """The port at which tunnels of this protocol are reached."""
        udp = self.udp_address if protocol == "quic" else None
        return (udp or self.public_address).port

    @property
    def public_address(self) -> Address:
        """Where the public TCP listener is; known from the start on."""
        return self._ready.https if self._ready is not None else self.settings.listen

    async def start(self) -> Ready:
        """Open the listeners. Raises ConfigError (a port that is taken); nothing stays open then."""
        try:
            https = await self.public.start()
            udp = await self.quic.start() if self.quic is not None else None
            http = await self.redirect.start() if self.redirect is not None else None
        except ConfigError:
            if self.quic is not None:
                await self.quic.stop(0)
            await self.public.stop(0)
            self._drop_state()
            raise
        settings = self.settings
        self._ready = Ready(https, udp, http, settings.domain, self.certificates.ca_file, settings.edition)
        self.log.info("engine open https=%s udp=%s http=%s edition=%s", https, udp, http, settings.edition)
        return self._ready

    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting, let live sessions end within `grace` seconds (drain_ms by default), then end everything.

        Agents are told last: what they carry goes on until the sessions are over.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.settings.drain_ms / 1000 if grace is None else grace)
        self.draining.set()
        self.log.info("engine closing")
        if self.redirect is not None:
            await self.redirect.stop()
        if self.quic is not None:
            self.quic.refuse_new()
        listener = asyncio.create_task(self.public.stop(deadline - loop.time()))
        self.http.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                for tunnel in self.registry.tunnels():
                    await tunnel.sessions.emptied()
        await self.http.close(max(0.0, deadline - loop.time()))
        await self.agents.stop()
        if self.quic is not None:
            await self.quic.stop(deadline - loop.time())
        # Connections whose last octets are still on their way end by themselves, or at the deadline.
        await listener
        for handle in self._leases.values():
            handle.cancel()
        self._leases.clear()
        self._drop_state()
        self.log.info("engine closed")

    def lease(self, tunnel: Tunnel, hold_ms: float) -> None:
        """Hold the names of a tunnel whose control channel is lost, then forget it (EDGE-014)."""
        if hold_ms <= 0:
            self.registry.remove(tunnel)
            return
        self.registry.lease(tunnel)
        self._leases[tunnel.id] = asyncio.get_running_loop().call_later(hold_ms / 1000, self._lease_over, tunnel)

    def _lease_over(self, tunnel: Tunnel) -> None:
        self._leases.pop(tunnel.id, None)
        self.registry.remove(tunnel)
        self.log.info("lease over tunnel=%s", tunnel.id)

    def _drop_state(self) -> None:
        if self._own_state is not None:
            self._own_state.cleanup()
            self._own_state = None


@contextlib.asynccontextmanager
async def running(settings: Settings, parts: Parts | None = None) -> AsyncIterator[tuple[Engine, Ready]]:
    """An engine that is started on entry and stopped, without draining, on exit."""
    engine = Engine(settings, parts)
    ready = await engine.start()
    try:
        yield engine, ready
    finally:
        await engine.stop(0)


def _version() -> str:
    try:
        return importlib.metadata.version("edgecase")
    except importlib.metadata.PackageNotFoundError:
        return "0"
