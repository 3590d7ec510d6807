"""Two QUIC endpoints without I/O on a simulated path: a virtual clock, and loss, doubles and delay from a seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection as AioConnection
from aioquic.quic.events import QuicEvent

from harness.peer import tls_pki
from harness.wire.quic import ClientOptions, Event, QuicClient, QuicConnection, QuicServer, ServerOptions
from tests.tls_support import files

NAME = "a.t.x"
ALPN = "ec/1"


def usual_client(**more: Any) -> ClientOptions:
    given = {"server_name": NAME, "trust": [tls_pki.authority().certificate], "alpn": (ALPN,), **more}
    return ClientOptions.of(**given)


def usual_server(**more: Any) -> ServerOptions:
    return ServerOptions.of(**{"identity": tls_pki.identity(NAME), "alpn": (ALPN,), **more})


class Ours:
    """One of our endpoints as a side of a `Path`."""

    def __init__(self, wire: QuicConnection) -> None:
        self.wire: Any = wire  # Of either role, and with an end where a test expects one.
        self.events: list[Event] = []

    def give(self, datagram: bytes, now: float) -> None:
        self.events += self.wire.receive(datagram, now)

    def take(self, now: float) -> list[bytes]:
        return list(self.wire.outgoing(now))

    def timer(self) -> float | None:
        when: float | None = self.wire.timer()
        return when

    def expire(self, now: float) -> None:
        self.events += self.wire.expire(now)


class Aio:
    """aioquic's endpoint as a side of a `Path`; a server is made when the first datagram comes."""

    def __init__(self, configuration: QuicConfiguration, **more: Any) -> None:
        self.configuration = configuration
        self.more = more
        self.quic: AioConnection | None = None
        self.events: list[QuicEvent] = []
        if configuration.is_client:
            self.quic = AioConnection(configuration=configuration, **more)
            self.quic.connect(("192.0.2.1", 4433), now=0.0)

    def _collect(self) -> None:
        assert self.quic is not None
        while (event := self.quic.next_event()) is not None:
            self.events.append(event)

    def give(self, datagram: bytes, now: float) -> None:
        if self.quic is None:
            # DCID of a long header: one octet of length behind five others.
            self.more.setdefault("original_destination_connection_id", datagram[6 : 6 + datagram[5]])
            self.quic = AioConnection(configuration=self.configuration, **self.more)
        self.quic.receive_datagram(datagram, ("192.0.2.1", 4433), now)
        self._collect()

    def take(self, now: float) -> list[bytes]:
        return [] if self.quic is None else [data for data, _ in self.quic.datagrams_to_send(now)]

    def timer(self) -> float | None:
        return None if self.quic is None else self.quic.get_timer()

    def expire(self, now: float) -> None:
        assert self.quic is not None
        self.quic.handle_timer(now)
        self._collect()

    def all(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Path:
    """Carries datagrams between two sides. `loss`, `double` and `reorder` are probabilities."""

    def __init__(
        self, client: Any, server: Any, *, seed: int = 0, loss: float = 0.0, double: float = 0.0, reorder: float = 0.0
    ) -> None:
        self.client, self.server = client, server
        self.now = 1.0
        self.random = random.Random(seed)
        self.loss, self.double, self.reorder = loss, double, reorder
        self._wire: list[tuple[float, int, bytes, Any]] = []
        self._count = 0

    def _send(self, datagram: bytes, to: Any) -> None:
        for _ in range(1 + (self.random.random() < self.double)):
            if self.random.random() < self.loss:
                continue
            delay = 0.005 + (0.03 * self.random.random() if self.random.random() < self.reorder else 0)
            self._count += 1
            heapq.heappush(self._wire, (self.now + delay, self._count, datagram, to))

    def flush(self) -> None:
        for side, other in ((self.client, self.server), (self.server, self.client)):
            for datagram in side.take(self.now):
                self._send(datagram, other)

    def run(self, until: Callable[[], bool], limit: float = 60.0) -> None:
        """Let time pass until the condition holds; fails after `limit` simulated seconds."""
        end = self.now + limit
        self.flush()
        steps = 0
        while not until():
            steps += 1
            assert steps < 50_000, "time stands still"
            timers = [(side.timer(), side) for side in (self.client, self.server)]
            due = [when for when, _ in timers if when is not None]
            if self._wire:
                due.append(self._wire[0][0])
            assert due, "nothing is on its way and nobody waits for time"
            # A clock never shows the very instant that a timer named; aioquic's rounding counts on that.
            self.now = max(self.now, min(due)) + 1e-6
            assert self.now < end, "the condition did not come true"
            while self._wire and self._wire[0][0] <= self.now:
                _, _, datagram, to = heapq.heappop(self._wire)
                to.give(datagram, self.now)
            for when, side in timers:
                if when is not None and when <= self.now:
                    side.expire(self.now)
            self.flush()

    def rest(self, seconds: float = 1.0) -> None:
        """Let that much time pass."""
        end = self.now + seconds
        self.run(lambda: self.now >= end or self._quiet(end), limit=seconds + 60)

    def _quiet(self, end: float) -> bool:
        timers = [each for each in (self.client.timer(), self.server.timer()) if each is not None]
        return not self._wire and min(timers, default=end) >= end


class Pair(Path):
    """Our client and our server on a path."""

    client: Ours
    server: Ours

    def __init__(self, client: ClientOptions | None = None, server: ServerOptions | None = None, **how: Any) -> None:
        super().__init__(Ours(QuicClient(client or usual_client())), Ours(QuicServer(server or usual_server())), **how)

    def connect(self) -> Pair:
        self.run(lambda: self.client.wire.confirmed and self.server.wire.confirmed)
        return self

    @property
    def ends(self) -> tuple[Any, Any]:
        return self.client.wire.end, self.server.wire.end


def aio_server(**more: Any) -> Aio:
    given = {"alpn_protocols": [ALPN], "max_datagram_frame_size": 65536, **more}
    extra = {name: given.pop(name) for name in EXTRA if name in given}
    configuration = QuicConfiguration(is_client=False, **given)
    paths = files()
    configuration.load_cert_chain(str(paths["chain"]), str(paths["key"]))
    return Aio(configuration, **extra)


def aio_client(**more: Any) -> Aio:
    given = {"alpn_protocols": [ALPN], "server_name": NAME, "max_datagram_frame_size": 65536, **more}
    extra = {name: given.pop(name) for name in EXTRA if name in given}
    configuration = QuicConfiguration(is_client=True, **given)
    configuration.load_verify_locations(cadata=tls_pki.authority().pem)
    return Aio(configuration, **extra)


EXTRA = (
    "original_destination_connection_id",
    "retry_source_connection_id",
    "session_ticket_fetcher",
    "session_ticket_handler",
)


def only(events: list[Any], kind: type[Any]) -> Any:
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, f"{kind.__name__}: {found}"
    return found[0]


def every(events: list[Any], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def frames(side: Ours, kind: type[Any]) -> list[Any]:
    return [seen.frame for seen in side.wire.frames if isinstance(seen.frame, kind)]
