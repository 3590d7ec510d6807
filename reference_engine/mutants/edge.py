"""Mutants of the edge: where connections go, what the plain listener answers, which certificate is shown."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reference_engine.edge.rules import AGENT_ALPN, Front, Route
from reference_engine.http.errors import Fault
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tls.endpoint import ServerCertificate
from reference_engine.tunnel.model import Tunnel, TunnelProperties

CROSSED = 5
"""Every so many connections one goes astray."""


def _published(names: Any, *protocols: str) -> list[Tunnel]:
    """The live published tunnels of these protocols, oldest first."""
    return [t for t in names.tunnels() if t.open and t.properties.publish and t.properties.protocol in protocols]


def _in_zone(name: str | None, domain: str) -> bool:
    return name is not None and f".{name}".endswith(f".t.{domain}")


def _reroute(parts: Parts, reached: Reached, other: Callable[[Route, Any, Any, str], Route | None]) -> None:
    """Route as `other(route, hello, names, domain)` says, which knows what the rule says; `None`: by the rule."""

    def broken(original: Any, hello: Any, names: Any, domain: str) -> Route:
        route: Route = original(hello, names, domain)
        departure = other(route, hello, names, domain)
        if departure is None:
            return route
        reached()
        return departure

    swap(parts.edge, "route", broken)


# -- routing by server name ----------------------------------------------------------------------------------------


@mutant("edge-one-tunnel-for-all", ("EDGE-008",), "sends every name of the tunnel zone to the oldest tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: Route, hello: Any, names: Any, domain: str) -> Route | None:
        oldest = _published(names, "tls")[:1]
        if route.tunnel is None or route.front is Front.HTTP or not oldest or oldest[0] is route.tunnel:
            return None
        return parts.edge.to_tunnel(oldest[0])

    _reroute(parts, reached, other)


@mutant("edge-crosses-under-load", ("EDGE-030",), "gives a connection to another tunnel of the same agent now and then")
def _(parts: Parts, reached: Reached) -> None:
    count = 0

    def broken(original: Any, hello: Any, names: Any, domain: str) -> Route:
        nonlocal count
        route: Route = original(hello, names, domain)
        others = [t for t in _published(names, "tls") if route.tunnel is not None and t is not route.tunnel]
        if route.front is not Front.TLS or not others:
            return route
        count += 1
        if count % CROSSED:
            return route
        reached()
        return parts.edge.to_tunnel(others[0])

    swap(parts.edge, "route", broken)


@mutant("edge-default-tunnel", ("EDGE-016",), "serves a name that nobody holds with the oldest tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: Route, hello: Any, names: Any, domain: str) -> Route | None:
        tunnels = _published(names, "http", "tls")
        if route.front is not Front.REFUSED or not _in_zone(hello.server_name, domain) or not tunnels:
            return None
        return parts.edge.to_tunnel(tunnels[0])

    _reroute(parts, reached, other)


@mutant("edge-names-below", ("EDGE-016",), "takes any name below a tunnel's name for that tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: Route, hello: Any, names: Any, domain: str) -> Route | None:
        parent = names.by_hostname((hello.server_name or "").partition(".")[2])
        if route.front is not Front.REFUSED or parent is None:
            return None
        return parts.edge.to_tunnel(parent)

    _reroute(parts, reached, other)


@mutant("edge-no-name-default", ("EDGE-017",), "serves a client without server name with the oldest tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, hello: Any, names: Any, domain: str) -> Route:
        tunnels = _published(names, "http", "tls")
        if hello.server_name is not None or AGENT_ALPN in hello.alpns or not tunnels:
            return original(hello, names, domain)  # type: ignore[no-any-return]
        reached()
        return parts.edge.to_tunnel(tunnels[0] if hello.alpns else tunnels[-1])

    swap(parts.edge, "route", broken)


@mutant("edge-name-by-letters", ("EDGE-018",), "compares server names letter for letter")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, server_name: str | None) -> str | None:
        if server_name is not None and server_name != server_name.lower():
            reached()
            return None
        return original(server_name)  # type: ignore[no-any-return]

    swap(parts.edge, "normal_name", broken)


@mutant("edge-id-is-a-name", ("EDGE-005",), "finds a tunnel, published or not, by its id or name as a label")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: Route, hello: Any, names: Any, domain: str) -> Route | None:
        label = (hello.server_name or "").partition(".")[0]
        found = [t for t in names.tunnels() if label in (t.id, t.properties.name)]
        if route.front is not Front.REFUSED or not found:
            return None
        return Route(Front.TLS, found[0])

    _reroute(parts, reached, other)


@mutant("edge-stale-route", ("EDGE-014",), "keeps a routing cache that outlives the tunnel")
def _(parts: Parts, reached: Reached) -> None:
    kept: dict[str, Route] = {}

    def broken(original: Any, hello: Any, names: Any, domain: str) -> Route:
        name = hello.server_name or ""
        route: Route = original(hello, names, domain)
        if route.tunnel is None and name not in kept:
            return route
        first = kept.setdefault(name, route)
        if first.tunnel is not route.tunnel:
            reached()
        return first

    swap(parts.edge, "route", broken)


@mutant("edge-remembers-unknown", ("EDGE-028",), "refuses a name for a while after it was asked for in vain")
def _(parts: Parts, reached: Reached) -> None:
    unknown: dict[str, int] = {}

    def broken(original: Any, hello: Any, names: Any, domain: str) -> Route:
        route: Route = original(hello, names, domain)
        name = hello.server_name or ""
        if route.front is Front.REFUSED:
            unknown[name] = 1
        elif unknown.pop(name, 0):
            reached()
            return Route(Front.REFUSED, alert=112, reason="no tunnel has this name")
        return route

    swap(parts.edge, "route", broken)


# -- agents, API and traffic on one port ---------------------------------------------------------------------------


@mutant("edge-agents-first", ("EDGE-009",), "takes whoever offers rstrm/1 for an agent, a tunnel's name or not")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: Route, hello: Any, names: Any, domain: str) -> Route | None:
        if AGENT_ALPN not in hello.alpns or route.front is Front.AGENTS:
            return None
        return Route(Front.AGENTS)

    _reroute(parts, reached, other)


@mutant("edge-no-api", ("EDGE-009",), "serves agents only under the engine's own name")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: Route, hello: Any, names: Any, domain: str) -> Route | None:
        if route.front is not Front.API:
            return None
        return Route(Front.REFUSED, alert=120, reason="no protocol in common")

    _reroute(parts, reached, other)


# -- fronts: what an endpoint speaks -------------------------------------------------------------------------------


@mutant("edge-tls-is-http", ("EDGE-001",), "serves TLS tunnels as HTTP")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, tunnel: Tunnel) -> Route:
        route: Route = original(tunnel)
        if route.front is not Front.TLS:
            return route
        reached()
        return dataclasses.replace(route, front=Front.HTTP)

    swap(parts.edge, "to_tunnel", broken)


@mutant("edge-http-is-raw", ("EDGE-001",), "relays the octets of HTTP tunnels as they come")
def _(parts: Parts, reached: Reached) -> None:
    def raw(original: Any, tunnel: Tunnel) -> Route:
        route: Route = original(tunnel)
        if route.front is not Front.HTTP:
            return route
        reached()
        own = dataclasses.replace(tunnel.properties, tls_alpns=("http/1.1",), upstream_tls=False)
        return Route(Front.TLS, _Alias(tunnel, own))

    swap(parts.edge, "to_tunnel", raw)


class _Alias(Tunnel):
    """The same tunnel with other properties: sessions and life are those of the first."""

    def __init__(self, tunnel: Tunnel, properties: TunnelProperties) -> None:
        super().__init__(tunnel.id, properties, tunnel.client_id, tunnel.project, tunnel.open, tunnel.sessions)


@mutant("edge-plaintext-served", ("EDGE-001",), "relays what comes without TLS, by its Host or to the oldest tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, data: bytes, names: Any) -> Route:
        host = data.partition(b"Host: ")[2].partition(b"\r\n")[0].decode("latin-1")
        tunnel = names.by_hostname(host) or next(iter(_published(names, "tls")), None)
        if tunnel is None:
            return original(data, names)  # type: ignore[no-any-return]
        reached()
        return Route(Front.PASSTHROUGH, tunnel)

    swap(parts.edge, "plaintext", broken)


@mutant("edge-sees-http-in-tls", ("EDGE-004",), "adds a Via to what looks like a request on a TLS tunnel")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: Any, data: bytes) -> None:
        line, found, rest = data.partition(b" HTTP/1.1\r\n")
        if found and b"\r\n" not in line:
            reached()
            data = line + found + b"Via: 1.1 edge\r\n" + rest
        await original(sink, data)

    swap(parts.relay, "pass_data", broken)


# -- the plain listener --------------------------------------------------------------------------------------------


@mutant("edge-redirect-page", ("EDGE-010",), "answers with a page instead of a redirect")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, version: bytes) -> int:
        del original, version
        reached()
        return 200

    swap(parts.edge, "redirect_status", broken)


def _redirects(what: str, breaks: str, change: Any) -> None:
    """A mutant that gives the redirect another Location: `change(location, head)`."""

    @mutant(f"edge-redirect-{what}", ("EDGE-010",), breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, head: Any, port: int) -> Any:
            location = original(head, port)
            if not isinstance(location, bytes):
                return location
            reached()
            return change(location, head)

        swap(parts.edge, "redirect_location", broken)


def _parts_of(location: bytes) -> tuple[bytes, bytes]:
    """Authority and target of an https URL."""
    authority, _, target = location.removeprefix(b"https://").partition(b"/")
    return authority, b"/" + target


_redirects("loses-query", "leaves the query out of the redirect", lambda location, _: location.partition(b"?")[0])
_redirects(
    "to-root", "redirects to the root of the host", lambda location, _: b"https://" + _parts_of(location)[0] + b"/"
)
_redirects(
    "names-443",
    "names port 443 in the redirect, whatever the public port",
    lambda location, _: b"https://" + _parts_of(location)[0].partition(b":")[0] + b":443" + _parts_of(location)[1],
)
_redirects("stays-plain", "redirects to http", lambda location, _: b"http" + location.removeprefix(b"https"))
_redirects(
    "decodes",
    "decodes the path before it redirects",
    lambda location, _: location.replace(b"%2e", b".").replace(b"%20", b"+"),
)


@mutant("edge-redirect-get-only", ("EDGE-010",), "redirects GET and HEAD, and refuses other methods")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, head: Any, port: int) -> Any:
        if head.method in (b"GET", b"HEAD"):
            return original(head, port)
        reached()
        return Fault(405, "only GET and HEAD are redirected")

    swap(parts.edge, "redirect_location", broken)


# -- certificates --------------------------------------------------------------------------------------------------


@mutant("edge-certificate-no-tunnels", ("EDGE-019",), "has a certificate for the engine and its projects only")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, domain: str) -> tuple[str, ...]:
        reached()
        return tuple(name for name in original(domain) if not name.startswith("*.t."))

    swap(parts.edge, "certificate_names", broken)


@mutant("edge-certificate-default", ("EDGE-019",), "shows a self-signed default certificate under its own name")
def _(parts: Parts, reached: Reached) -> None:
    made: list[ServerCertificate] = []

    def broken(original: Any, route: Route, current: ServerCertificate) -> ServerCertificate:
        if route.front is not Front.API:
            return original(route, current)  # type: ignore[no-any-return]
        reached()
        if not made:
            made.append(_self_signed())
        return made[0]

    swap(parts.edge, "certificate", broken)


def _self_signed() -> ServerCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "default.invalid")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("default.invalid")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return ServerCertificate((certificate,), key)


@mutant("edge-certificate-kept", ("EDGE-020",), "loads its certificate once, at the start")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, before: Any, now: Any) -> bool:
        if original(before, now):
            reached()
        return False

    swap(parts.edge, "certificate_changed", broken)
