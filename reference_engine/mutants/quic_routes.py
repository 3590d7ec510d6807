"""Mutants of the UDP port: which tunnel a QUIC connection goes to, and what is no QUIC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reference_engine.edge.rules import Front, Route
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.rules import Kind, QuicRoute
from reference_engine.tunnel.model import Tunnel

CROSSED = 5
"""Every so many connections one goes astray."""
SHORTEST = 21
"""Octets of the shortest packet of QUIC that says anything."""

Other = Callable[[QuicRoute, Any, Any], QuicRoute | None]


def _published(names: Any, *protocols: str) -> list[Tunnel]:
    """The live published tunnels of these protocols, oldest first."""
    return [t for t in names.tunnels() if t.open and t.properties.publish and t.properties.protocol in protocols]


def _reroute(parts: Parts, reached: Reached, other: Other) -> None:
    """Route as `other(route, hello, names)` says, which knows what the rule says; None: by the rule."""

    def broken(original: Any, hello: Any, names: Any, domain: str, edge: Any) -> QuicRoute:
        route: QuicRoute = original(hello, names, domain, edge)
        departure = other(route, hello, names)
        if departure is None:
            return route
        reached()
        return departure

    swap(parts.quic, "route", broken)


@mutant("quic-one-tunnel-for-all", ("EDGE-008",), "sends every QUIC connection to the oldest QUIC tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: QuicRoute, hello: Any, names: Any) -> QuicRoute | None:
        oldest = _published(names, "quic")[:1]
        if route.tunnel is None or route.tunnel is oldest[0]:
            return None
        return QuicRoute(tunnel=oldest[0])

    _reroute(parts, reached, other)


@mutant("quic-name-by-letters", ("EDGE-018",), "does not find a QUIC tunnel whose name is said in capitals")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: QuicRoute, hello: Any, names: Any) -> QuicRoute | None:
        name = hello.server_name or ""
        return None if route.tunnel is None or name == name.lower() else QuicRoute(reason="no tunnel has this name")

    _reroute(parts, reached, other)


def _default(parts: Parts, reached: Reached, fits: Callable[[Any], bool]) -> None:
    def other(route: QuicRoute, hello: Any, names: Any) -> QuicRoute | None:
        first = _published(names, "quic")[:1]
        return QuicRoute(tunnel=first[0]) if first and route.tunnel is None and fits(hello) else None

    _reroute(parts, reached, other)


@mutant(
    "quic-default-tunnel",
    ("EDGE-016", "RFC9000-5.2.2-2"),
    "gives a QUIC client of a name that nobody holds to the oldest QUIC tunnel",
)
def _(parts: Parts, reached: Reached) -> None:
    _default(parts, reached, lambda hello: hello.server_name is not None and "rstrm/1" not in hello.alpns)


@mutant("quic-no-name-default", ("EDGE-017",), "gives a QUIC client without a server name to the oldest QUIC tunnel")
def _(parts: Parts, reached: Reached) -> None:
    _default(parts, reached, lambda hello: hello.server_name is None)


@mutant("quic-serves-tls-tunnels", ("EDGE-001",), "serves TLS tunnels at the UDP port, too")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Tunnel], bool], tunnel: Tunnel) -> bool:
        if original(tunnel):
            return True
        reached()
        return tunnel.properties.protocol == "tls" and bool(tunnel.properties.publish)

    swap(parts.quic, "serves", broken)


@mutant("tls-serves-quic-tunnels", ("EDGE-001",), "serves QUIC tunnels over TLS at the TCP port, too")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Tunnel], Route], tunnel: Tunnel) -> Route:
        if tunnel.properties.protocol != "quic":
            return original(tunnel)
        reached()
        return Route(Front.TLS, tunnel)

    swap(parts.edge, "to_tunnel", broken)


@mutant("quic-id-is-a-name", ("EDGE-005",), "finds a tunnel at the UDP port, published or not, by its id as a label")
def _(parts: Parts, reached: Reached) -> None:
    def other(route: QuicRoute, hello: Any, names: Any) -> QuicRoute | None:
        label = (hello.server_name or "").partition(".")[0]
        found = [t for t in names.tunnels() if label and label in (t.id, t.properties.name)]
        return QuicRoute(tunnel=found[0]) if found and route.tunnel is None else None

    _reroute(parts, reached, other)


@mutant("quic-crosses-under-load", ("EDGE-030",), "gives a QUIC connection to another QUIC tunnel now and then")
def _(parts: Parts, reached: Reached) -> None:
    count = 0

    def other(route: QuicRoute, hello: Any, names: Any) -> QuicRoute | None:
        nonlocal count
        others = [t for t in _published(names, "quic") if route.tunnel is not None and t is not route.tunnel]
        count += bool(others)
        return QuicRoute(tunnel=others[0]) if others and count % CROSSED == 0 else None

    _reroute(parts, reached, other)


@mutant("udp-junk-closes", ("EDGE-001",), "takes no packet any more behind one that is too short for QUIC")
def _(parts: Parts, reached: Reached) -> None:
    deaf = False

    def broken(original: Callable[[bytes], Kind], datagram: bytes) -> Kind:
        nonlocal deaf
        if len(datagram) < SHORTEST:
            deaf = True
            reached()
        return Kind.JUNK if deaf else original(datagram)

    swap(parts.quic, "kind", broken)
