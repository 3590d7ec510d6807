"""Mutants of the editions: features that are given although they are not there, and refused although they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.model import TunnelProperties
from reference_engine.tunnel.refusal import FEATURE_NOT_AVAILABLE, Refusal

# -- gates that let through ----------------------------------------------------------------------------------------

GIVEN: dict[str, tuple[str, ...]] = {
    "dtls": ("ED-002", "ED-004", "ED-014", "EDGE-007"),
    "quic": ("ED-002", "ED-005", "QUIC-021", "ED-014", "VAL-027", "EDGE-007"),
    "h3": ("ED-006", "ED-010", "ED-014", "EDGE-007", "HTTP-VER-012"),
    "token_auth": ("EDGE-007",),
    "rstream_auth": ("ED-012", "EDGE-007"),
    "challenge_mode": ("ED-012", "EDGE-007"),
    "mtls_auth": ("ED-012", "ED-014", "EDGE-007"),
}
"""Feature, as the engine names it, to the rows that should notice when it is given in silence."""


def _given(feature: str, rows: tuple[str, ...]) -> None:
    @mutant(f"editions-gives-{feature.replace('_', '-').replace(' ', '-')}", rows, f"has no gate for {feature}")
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, properties: TunnelProperties) -> Iterator[tuple[str, str]]:
            for needed, name in original(properties):
                if needed == feature:
                    reached()
                else:
                    yield needed, name

        swap(parts.editions, "needed", broken)


for _feature, _rows in GIVEN.items():
    _given(_feature, _rows)


# -- gates that refuse ---------------------------------------------------------------------------------------------


def _gate(what: str, rows: tuple[str, ...], breaks: str, objects: Any) -> None:
    """A mutant that refuses as not available where `objects(properties, edition)` names a property."""

    @mutant(f"editions-refuses-{what}", rows, breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, properties: TunnelProperties, *, edition: str, udp: bool) -> Refusal | None:
            name = objects(properties, edition)
            if name is None:
                return original(properties, edition=edition, udp=udp)  # type: ignore[no-any-return]
            reached()
            return Refusal(FEATURE_NOT_AVAILABLE, name, f"{name}: not part of the {edition} edition")

        swap(parts.editions, "gate", broken)


def _passthrough(*editions: str) -> Any:
    return lambda own, edition: "tls_mode" if own.tls_mode == "passthrough" and edition in editions else None


def _on_community(protocol: str, name: str) -> Any:
    def objects(own: TunnelProperties, edition: str) -> str | None:
        asked = edition == "community" and own.protocol == protocol and getattr(own, name)
        return name if asked else None

    return objects


_gate("http", ("ED-001",), "has no HTTP tunnels on the community edition", _on_community("http", "protocol"))
_gate(
    "http-on-basic",
    ("ED-014",),
    "has no HTTP tunnels on the basic edition",
    lambda own, edition: "protocol" if own.protocol == "http" and edition == "basic" else None,
)
_gate(
    "http-upstream-tls", ("ED-001",), "has no upstream TLS of HTTP on community", _on_community("http", "upstream_tls")
)
_gate("alpn", ("ED-001",), "has no lists of protocols on the community edition", _on_community("tls", "tls_alpns"))
_gate("ciphers", ("ED-001",), "has no lists of ciphers on the community edition", _on_community("tls", "tls_ciphers"))
_gate("lowest-version", ("ED-001",), "has no lowest version on community", _on_community("tls", "tls_min_version"))
_gate("tls-upstream", ("TLS-028",), "has no upstream TLS on community", _on_community("tls", "upstream_tls"))
_gate(
    "quic-on-pro",
    ("QUIC-021", "ED-005"),
    "has no QUIC tunnels on the pro edition",
    lambda own, edition: "protocol" if own.protocol == "quic" and edition == "pro" else None,
)
_gate("passthrough-below-pro", ("TLS-028",), "passes TLS through on pro and above", _passthrough("community", "basic"))
_gate("passthrough-on-pro", ("TLS-028",), "does not pass TLS through on pro", _passthrough("pro"))


# -- what is left behind -------------------------------------------------------------------------------------------


@mutant(
    "editions-keeps-names",
    ("EDGE-007", "ED-004", "ED-005", "ED-006", "ED-010", "ED-012", "ED-013", "ED-014", "POL-015"),
    "holds the names that a refused request asked for",
)
def _(parts: Parts, reached: Reached) -> None:
    held: set[str] = set()

    def broken(original: Any, properties: TunnelProperties, *, edition: str, udp: bool) -> Refusal | None:
        names = {name for name in (properties.name, properties.publish and properties.hostname) if name}
        refusal: Refusal | None = original(properties, edition=edition, udp=udp)
        if refusal is None and names & held:
            reached()
            return Refusal(FEATURE_NOT_AVAILABLE, "hostname", "hostname: in use by another tunnel")
        if refusal is not None:
            held.update(names)
        return refusal

    swap(parts.editions, "gate", broken)
