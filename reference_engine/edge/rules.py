"""The rules of the edge: where a connection on the public TLS listener goes, which certificate it is shown, how the API
shows what there is."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from reference_engine.edge.client_hello import (
    DECODE_ERROR,
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    ClientHello,
    parse_client_hello,
)
from reference_engine.edge.inventory import Object, client_object, initial_event, tunnel_object
from reference_engine.edge.redirect_rules import RedirectRules
from reference_engine.tls.endpoint import ServerCertificate
from reference_engine.tunnel.model import Client, Tunnel
from reference_engine.tunnel.registry import Change

AGENT_ALPN = "rstrm/1"
HTTP_ALPNS = ("h2", "http/1.1")
"""What the edge speaks on HTTP tunnels, most wanted first."""
API_ALPNS = ("http/1.1",)
"""What the edge speaks on its own API."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


class Front(Enum):
    """Who takes a connection."""

    AGENTS = "agents"
    API = "api"
    HTTP = "http tunnel"
    TLS = "terminated tls tunnel"
    PASSTHROUGH = "passthrough tls tunnel"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Route:
    """`tunnel` is set for the three fronts of tunnels; `alert` and `reason` for REFUSED."""

    front: Front
    tunnel: Tunnel | None = None
    alert: int | None = None
    reason: str = ""


class Names(Protocol):
    """What routing needs of the registry."""

    def by_hostname(self, name: str) -> Tunnel | None:
        """The tunnel that holds the host name."""


class NameKind(Enum):
    """What a server name is, seen from the engine."""

    ABSENT = "absent"
    ADDRESS = "IP address"
    ENGINE = "engine"
    ZONE = "tunnel zone"
    FOREIGN = "foreign"
    MALFORMED = "malformed"


FRONTS = {
    ("http", None): Front.HTTP,
    ("tls", None): Front.TLS,
    ("tls", "terminated"): Front.TLS,
    ("tls", "passthrough"): Front.PASSTHROUGH,
}
"""Protocol and TLS mode of a tunnel to its front; termination is the default (TLS-002)."""


class EdgeRules(RedirectRules):
    """Routing by server name and ALPN, certificates, the list of what there is; the redirects are in
    `redirect_rules`."""

    def read_hello(self, body: bytes) -> ClientHello:
        """What routing needs of a ClientHello's body; every length must fit, and no name be given twice (RFC 6066
        sections 3 and 11.1). Raises HelloError."""
        return parse_client_hello(body)

    def route(self, hello: ClientHello, names: Names, domain: str) -> Route:
        """Where the connection goes. The first row that fits counts:

        | server name               | ALPN offer          | goes to                        |                     |
        | ------------------------- | ------------------- | ------------------------------ | ------------------- |
        | of a live tunnel          | any                 | the tunnel                     | EDGE-008, RFC 6066 3 |
        | any other but zone names  | with rstrm/1        | agents                         | EDGE-009            |
        | of the engine             | none, or http/1.1   | the engine's API               | EDGE-009            |
        | absent, or an IP address  | http/1.1            | the engine's API               | EDGE-017            |
        | of the engine             | only others         | refused, alert 120             | RFC 7301 3.2        |
        | anything else             | any                 | refused, alert 112             | EDGE-016, RFC 6066 3 |

        A name that is no DNS name in its plain form (trailing dot, NUL, octets above 127) fits the last row only.
        """
        name = self.normal_name(hello.server_name)
        if name is not None:
            tunnel = names.by_hostname(name)
            if tunnel is not None:
                return self.to_tunnel(tunnel)
        kind = self.kind(hello.server_name, domain)
        if kind in (NameKind.ZONE, NameKind.MALFORMED):
            return _refused(UNRECOGNIZED_NAME, "no tunnel has this name")
        if hello.alpn_malformed:
            return _refused(DECODE_ERROR, "malformed ALPN extension")
        if AGENT_ALPN in hello.alpns:
            return Route(Front.AGENTS)
        speaks_http = any(alpn in hello.alpns for alpn in API_ALPNS)
        if kind is NameKind.ENGINE:
            if speaks_http or not hello.alpns:
                return Route(Front.API)
            return _refused(NO_APPLICATION_PROTOCOL, "no protocol in common")
        if kind in (NameKind.ABSENT, NameKind.ADDRESS) and speaks_http:
            return Route(Front.API)
        return _refused(UNRECOGNIZED_NAME, f"{kind.value} server name")

    def normal_name(self, server_name: str | None) -> str | None:
        """The name as host names are compared, lower case; None where it can name no tunnel (RFC 6066 section 3)."""
        if server_name is None or len(server_name) > 253:
            return None
        name = server_name.lower()
        return name if _NAME.fullmatch(name) and not _is_address(name) else None

    def kind(self, server_name: str | None, domain: str) -> NameKind:
        """What the name is. The engine's own are `<domain>` and, one label below it, those of projects."""
        if server_name is None:
            return NameKind.ABSENT
        if _is_address(server_name):
            return NameKind.ADDRESS
        name = self.normal_name(server_name)
        if name is None:
            return NameKind.MALFORMED
        if name == domain:
            return NameKind.ENGINE
        below = name.removesuffix(f".{domain}")
        if below == name:
            return NameKind.FOREIGN
        return NameKind.ENGINE if "." not in below and below != "t" else NameKind.ZONE

    def alpns(self, route: Route) -> tuple[str, ...]:
        """The ALPN list of a terminated front: agents speak one protocol, HTTP what the edge can, a TLS tunnel its own
        list (ALPN-001, ALPN-003)."""
        if route.front is Front.AGENTS:
            return (AGENT_ALPN,)
        if route.front is Front.TLS and route.tunnel is not None:
            return route.tunnel.properties.tls_alpns
        return API_ALPNS if route.front is Front.API else HTTP_ALPNS

    def to_tunnel(self, tunnel: Tunnel) -> Route:
        """The front of a tunnel, by its protocol and TLS mode (EDGE-001, TLS-002); a private one has none
        (EDGE-005)."""
        properties = tunnel.properties
        front = FRONTS.get((properties.protocol or "", properties.tls_mode if properties.protocol == "tls" else None))
        if front is None or properties.publish is False:
            return _refused(UNRECOGNIZED_NAME, "the tunnel of this name is not served over TLS and TCP")
        return Route(front, tunnel)

    def plaintext(self, data: bytes, names: Names) -> Route:
        """Where octets go that are no TLS: nowhere, whatever they say, and nobody answers them (EDGE-001)."""
        del data, names
        return Route(Front.REFUSED, reason="not TLS")

    # -- certificates ----------------------------------------------------------------------------------------------

    def certificate_names(self, domain: str) -> tuple[str, ...]:
        """The DNS names that the edge's certificate must cover: engine, projects, tunnels (EDGE-019)."""
        return (domain, f"*.{domain}", f"*.t.{domain}")

    def certificate(self, route: Route, current: ServerCertificate) -> ServerCertificate:
        """What a terminated connection is shown: the one certificate of the edge covers every name (EDGE-019)."""
        del route
        return current

    def certificate_changed(self, before: Sequence[int | None], now: Sequence[int | None]) -> bool:
        """Whether the files are another pair, by their modification times in ns; None: not there (EDGE-020)."""
        return before != now

    # -- what the API shows ----------------------------------------------------------------------------------------

    def listed(self, subject: Tunnel | Client) -> Object:
        """A tunnel or an agent as the API shows it: with its effective properties (VAL-029)."""
        return tunnel_object(subject) if isinstance(subject, Tunnel) else client_object(subject)

    def first_event(self, project: str, clients: list[Object], tunnels: list[Object]) -> Object:
        """The first event of every watch: everything that there is (OBS-002)."""
        return initial_event(project, clients, tunnels)

    def tells(self, change: Change) -> bool:
        """Whether a change becomes an event: creations, updates and removals do (OBS-002)."""
        return change.what in ("created", "updated", "deleted")


def _refused(alert: int, reason: str) -> Route:
    return Route(Front.REFUSED, alert=alert, reason=reason)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
