"""Which features an edition has, which this engine has at all, and which need a listener that may be off.

The table is the engine's own. A feature that is not there is refused at creation with 5000, never accepted and ignored
(EDGE-007, ED-010, ED-011).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reference_engine.tunnel.model import TunnelProperties
from reference_engine.tunnel.refusal import FEATURE_NOT_AVAILABLE, Refusal


@dataclass(frozen=True, slots=True)
class Feature:
    """One row: the editions that have it, whether it needs the UDP listener, whether this engine implements it."""

    editions: frozenset[str]
    needs_udp: bool = False
    built: bool = True
    requirement: str = "EDGE-007"


ALL = frozenset({"community", "basic", "pro", "enterprise"})
MANAGED = frozenset({"basic", "pro", "enterprise"})
UPPER = frozenset({"pro", "enterprise"})

FEATURES: dict[str, Feature] = {
    "http": Feature(ALL, requirement="ED-001"),
    "tls": Feature(ALL, requirement="ED-001"),
    "h2c": Feature(ALL, requirement="ED-001"),
    "h3": Feature(UPPER, needs_udp=True, requirement="ED-006"),
    "dtls": Feature(UPPER, needs_udp=True, built=False, requirement="ED-004"),
    "quic": Feature(UPPER, needs_udp=True, requirement="ED-005"),
    "tcp": Feature(UPPER, built=False, requirement="TCP-001"),
    "webtty": Feature(MANAGED, built=False, requirement="EDGE-007"),
    "private bytestream": Feature(ALL, requirement="PRIV-006"),
    "private datagram": Feature(UPPER, requirement="ED-013"),
    "private datagram with upstream_tls": Feature(UPPER, built=False, requirement="EDGE-007"),
    "token_auth": Feature(MANAGED, built=False, requirement="ED-014"),
    "rstream_auth": Feature(MANAGED, built=False, requirement="ED-012"),
    "challenge_mode": Feature(MANAGED, built=False, requirement="ED-012"),
    "mtls_auth": Feature(UPPER, built=False, requirement="MTLS-008"),
    "trusted_ips": Feature(UPPER, built=False, requirement="ED-012"),
    "geoip": Feature(UPPER, built=False, requirement="ED-012"),
    "agent_certificates": Feature(MANAGED, requirement="MTLS-007"),
    "project_tls_min_version": Feature(MANAGED, requirement="POL-009"),
}

FLAGS = ("token_auth", "rstream_auth", "challenge_mode", "mtls_auth", "trusted_ips", "geoip")
"""Properties that are features of their own as soon as they are set."""


class EditionRules:
    """Gates, asked after a request is known to be well formed (VAL-027)."""

    def available(self, feature: str, edition: str) -> bool:
        """Whether the edition has the feature on paper (section 4 of the engine's behaviours)."""
        return edition in FEATURES[feature].editions

    def needed(self, properties: TunnelProperties) -> Iterator[tuple[str, str]]:
        """(feature, property that asks for it) of a tunnel with these effective properties."""
        if properties.publish:
            yield properties.protocol or "http", "protocol"
            if properties.http_version in {"h2c", "h3"}:
                yield properties.http_version, "http_version"
        else:
            yield f"private {properties.type}", "type"
            if properties.type == "datagram" and properties.upstream_tls:
                yield "private datagram with upstream_tls", "upstream_tls"
            if properties.protocol == "webtty":
                yield "webtty", "protocol"
        for name in FLAGS:
            if getattr(properties, name):
                yield name, name
        if properties.mtls_cacert_pem is not None:
            yield "mtls_auth", "mtls_cacert_pem"

    def gate(self, properties: TunnelProperties, *, edition: str, udp: bool) -> Refusal | None:
        """Why these properties cannot be had here, or None. `udp` says whether the UDP listener is on."""
        for feature, name in self.needed(properties):
            row = FEATURES[feature]
            if not self.available(feature, edition):
                reason = f"{feature} is not part of the {edition} edition"
            elif row.needs_udp and not udp:
                reason = f"{feature} needs the UDP listener, which is off"
            elif not row.built:
                reason = f"{feature} is not built into this engine"
            else:
                continue
            return Refusal(FEATURE_NOT_AVAILABLE, name, f"{name}: {reason}")
        return None
