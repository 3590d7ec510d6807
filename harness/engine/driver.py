"""What the runner needs of an engine, whoever built it: start, publish, unpublish, restart, stop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import NotSupported, PeerMismatch
from harness.evidence.transcript import Transcript
from harness.link.datagram import DatagramLink
from harness.link.stream import Link
from harness.model.spec import Settings, TunnelSpec

MAX_WAITING = 512
"""Upstream streams of one tunnel that may wait to be accepted by the script."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a published tunnel is reached: `host` is its name (SNI, Host), `address` and `port` where to connect,
    `transport` tcp or udp.

    `name` is the tunnel's id for an engine that was spoken to over the agent protocol, else empty; `properties` what
    the engine reported. `udp` is where an HTTP tunnel, which is reached over TCP, is reached over HTTP/3, if it is.
    """

    host: str
    address: str
    port: int
    transport: str = "tcp"
    name: str = ""
    properties: Mapping[str, object] = field(default_factory=dict)
    udp: tuple[str, int] | None = None

    def over_udp(self) -> Endpoint | None:
        """The same tunnel as it is reached over UDP, or `None` where it is not."""
        if self.transport == "udp":
            return self
        if self.udp is None:
            return None
        return Endpoint(self.host, *self.udp, "udp", self.name, self.properties)


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine itself said no. `property` names what it objected to, where it said so."""

    code: int | None
    message: str
    property: str | None = None


@dataclass(frozen=True, slots=True)
class Inexpressible:
    """The adapter cannot express the spec (it lacks `feature`): nothing was asked of the engine."""

    feature: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """One stream or datagram channel (`flow`) that the engine opened toward an upstream. `source` is the client's
    address where the engine told it."""

    flow: Link | DatagramLink
    source: str | None = None
    stream_id: str = ""

    @property
    def link(self) -> Link:
        """The byte stream. Raises `PeerMismatch` where the engine opened a datagram channel."""
        if isinstance(self.flow, DatagramLink):
            raise PeerMismatch("a byte stream at the upstream", "a datagram channel")
        return self.flow

    @property
    def packets(self) -> DatagramLink:
        """The datagram channel. Raises `PeerMismatch` where the engine opened a byte stream."""
        if isinstance(self.flow, DatagramLink):
            return self.flow
        raise PeerMismatch("a datagram channel at the upstream", "a byte stream")


class UpstreamQueue:
    """Where the streams, or datagram channels, of one published tunnel arrive, oldest first. Bounded: what does not fit
    is reset."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Incoming] = asyncio.Queue(MAX_WAITING)
        self._arrived = asyncio.Event()
        self.total = 0

    def put(self, incoming: Incoming) -> None:
        """Add a stream that the engine opened; resets it when too many wait."""
        self.total += 1
        try:
            self._queue.put_nowait(incoming)
            self._arrived.set()
        except asyncio.QueueFull:
            incoming.flow.abort()

    async def get(self) -> Incoming:
        """The next stream."""
        return await self._queue.get()

    async def arrival(self) -> None:
        """Return as soon as a stream waits to be taken."""
        while self._queue.empty():
            self._arrived.clear()
            await self._arrived.wait()

    def clear(self) -> None:
        """Abort and forget what came so far: the suite's own looks whether anybody listens, before the case began."""
        for incoming in self.drain():
            incoming.flow.abort()
        self.total = 0

    @property
    def waiting(self) -> int:
        """Streams that arrived and were not taken."""
        return self._queue.qsize()

    def drain(self) -> list[Incoming]:
        """Take everything that waits."""
        taken = []
        while not self._queue.empty():
            taken.append(self._queue.get_nowait())
        return taken


@dataclass(slots=True)
class Published:
    """What became of one spec: its answer, and the queue of its upstream streams."""

    spec: TunnelSpec
    answer: Endpoint | Refused | Inexpressible
    upstream: UpstreamQueue

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint; only for a spec that was published."""
        assert isinstance(self.answer, Endpoint), self.answer
        return self.answer


class Session(ABC):
    """The publications of one case. Over the agent protocol it owns a control channel of its own; with planned
    publishing it only looks up. The scene sets `transcript` before the first step, so that the agent's leg is told,
    too."""

    transcript: Transcript | None = None

    @abstractmethod
    async def publish(self, specs: Mapping[str, TunnelSpec]) -> dict[str, Published]:
        """Publish `specs` (by name). Raises `SetupFailed` when the engine or adapter does not answer."""

    @abstractmethod
    async def close(self) -> None:
        """Withdraw everything that the case published (planned: leave it) and close what it opened."""


class Driver(ABC):
    """One running engine (one process, or one address) of one profile, started with one `Settings`.

    `dynamic` says whether a case may publish while it runs. Everything raises `SetupFailed` with a cause that names
    the adapter or the
    engine, `NotSupported` for a setting that cannot be had; nothing hangs: each step has a deadline.
    """

    dynamic: bool = True

    @abstractmethod
    async def start(self, settings: Settings) -> None:
        """Start the engine with `settings`, and return when it answers."""

    @abstractmethod
    async def plan(self, specs: Mapping[str, TunnelSpec]) -> None:
        """Planned publishing: publish all `specs` (key: `case[variant]/name`) in one call. A dynamic driver ignores
        it."""

    @abstractmethod
    async def open_session(self, key: str) -> Session:
        """A session for one case; `key` is `case[variant]`, used in names and to look up planned publications."""

    @abstractmethod
    async def restart(self) -> None:
        """Stop and start the same engine again, same settings."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the engine; safe to call twice and after a crash."""

    @abstractmethod
    def crashed(self) -> str | None:
        """How the engine's process ended, if it ended without being asked to (`killed by signal 9`), else `None`."""

    async def ended(self) -> str | None:
        """As `crashed`, but certain: asked after a departure, it waits until a dying process is gone. Bounded."""
        return self.crashed()

    def lost(self) -> str | None:
        """Why nobody can tell about the engine any more (an adapter that ended, or spoke nonsense), else `None`. Begins
        with who is to blame."""
        return None

    def exchange_certificate(self) -> int:
        """Put another certificate of the same names into the files that the engine was given by the setting
        `certificate.reload`; its serial number. Raises `NotSupported`."""
        raise NotSupported("setting certificate.reload")

    @abstractmethod
    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        """The last lines that the engine wrote, without secrets of ours."""

    @property
    @abstractmethod
    def version(self) -> str:
        """The engine's own name and version as it reported them; empty before `start`."""
