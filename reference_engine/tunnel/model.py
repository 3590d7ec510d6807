"""What a tunnel is: its effective properties and its life, shared by every part of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TunnelProperties:
    """The properties of one tunnel (agent protocol section 5). `None` and `()` mean absent.

    As requested by the agent before validation; after it, the effective ones that are reported back and acted on.
    """

    id: str | None = None
    creation_date: datetime | None = None
    name: str | None = None
    type: str | None = None
    publish: bool | None = None
    protocol: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    geoip: tuple[str, ...] = ()
    trusted_ips: tuple[str, ...] = ()
    host: str | None = None
    tls_mode: str | None = None
    tls_alpns: tuple[str, ...] = ()
    tls_min_version: str | None = None
    tls_ciphers: tuple[str, ...] = ()
    mtls_auth: bool | None = None
    mtls_cacert_pem: str | None = None
    http_version: str | None = None
    http_use_tls: bool | None = None
    token_auth: bool | None = None
    rstream_auth: bool | None = None
    challenge_mode: bool | None = None
    hostname: str | None = None
    port: int | None = None
    upstream_tls: bool | None = None
    datagram_guaranteed_delivery: bool | None = None
    allow_cross_region_routing: bool | None = None


class Sessions(set[Callable[[str], None]]):
    """The live sessions of a tunnel, as the callables that end them; `emptied` waits until there is none."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters: list[asyncio.Future[None]] = []

    def discard(self, end: object, /) -> None:
        """A session is over."""
        super().discard(end)
        if not self:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def emptied(self) -> None:
        """Return as soon as no session is live."""
        while self:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter


@dataclass(eq=False)
class Tunnel:
    """A live tunnel: effective properties, the control channel that owns it, and the sessions that run through it.

    `sessions` holds one callable per live public session; each, called with a reason, ends that session at once. A
    session adds its own on start and discards it at its end. Closing the tunnel on purpose calls them all (EDGE-027);
    losing the control channel does not (EDGE-026).
    """

    id: str
    properties: TunnelProperties
    client_id: str
    project: str
    open: bool = True
    sessions: Sessions = field(default_factory=Sessions)


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What an agent said about itself when it opened its control channel; None where it said nothing."""

    agent: str | None = None
    channel: str | None = None
    version: str | None = None
    os: str | None = None
    arch: str | None = None
    protocol_version: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """One agent with an open control channel."""

    id: str
    project: str
    info: ClientInfo
    since: datetime
