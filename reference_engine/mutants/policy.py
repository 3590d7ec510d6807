"""Mutants of the settings of a project."""

from __future__ import annotations

from typing import Any

from reference_engine.edge.rules import Front, Route
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tls.rules import TLS13
from reference_engine.tunnel.model import TunnelProperties


@mutant("policy-version-unchecked", ("POL-009",), "serves every version wherever the edge ends TLS")
def _(parts: Parts, reached: Reached) -> None:
    def least(original: Any, tunnel: str | None, project: str | None) -> int:
        if original(tunnel, project) != original(None, None):
            reached()
        return original(None, None)  # type: ignore[no-any-return]

    swap(parts.tls, "min_version", least)


@mutant("policy-binds-passthrough", ("POL-009",), "refuses TLS 1.2 on passthrough tunnels as well")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, hello: Any, names: Any, domain: str) -> Route:
        route: Route = original(hello, names, domain)
        if route.front is not Front.PASSTHROUGH or TLS13 in hello.versions:
            return route
        reached()
        return Route(Front.REFUSED, alert=70, reason="below the project's lowest version")

    swap(parts.edge, "route", broken)


@mutant("policy-bounds-unsaid", ("POL-001",), "reports what a tunnel asked for, not what its project makes of it")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: TunnelProperties, lowest: str | None) -> TunnelProperties:
        if original(properties, lowest) != properties:
            reached()
        return properties

    swap(parts.tunnel, "bounded", broken)
