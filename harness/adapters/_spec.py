"""What a published spec asks of a proxy: the properties that one has, and the feature that it lacks for others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

TLS12_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""The suites of TLS 1.2 by their names in the IANA registry, as OpenSSL and BoringSSL call them."""
TLS_VERSIONS = ("tls1.2", "tls1.3")
WORD = re.compile(r"[A-Za-z0-9._/+*-]{1,255}\Z")
"""What needs no quoting in a configuration or an ALPN list."""
HOST = re.compile(r"[a-z0-9._-]{1,253}\Z")
LACKING: Mapping[str, str] = {
    "mtls_auth": "tls.mtls",
    "trusted_ips": "policy.trusted-ips",
    "geoip": "policy.geoip",
    "token_auth": "http.token-auth",
    "rstream_auth": "http.rstream-auth",
    "challenge_mode": "http.challenge",
    "datagram_guaranteed_delivery": "private.datagram",
    "port": "tcp",
}
"""Properties that no proxy here has anything for, where they are set and not false, with the feature they stand for."""
FREE = frozenset(
    {
        *("protocol", "publish", "type", "name", "hostname", "labels", "allow_cross_region_routing", "upstream_tls"),
        *("http_use_tls", "http_version", "tls_mode", "tls_alpns", "tls_min_version", "tls_ciphers"),
    }
)
"""Properties that are rendered, or that mean nothing to a proxy."""
HTTP_VERSIONS = {"http/1.1": "http.h1", "h2c": "http.h2c", "h3": "http.h3"}
"""What an upstream of an HTTP tunnel speaks, with the feature it stands for."""


@dataclass(frozen=True)
class Tunnel:
    """One published spec: its listener, its host name, its properties, where its upstream listens."""

    listener: str
    host: str
    properties: Mapping[str, Any]
    upstream: str

    @property
    def alpns(self) -> tuple[str, ...]:
        """The application protocols that the tunnel negotiates from."""
        return tuple(self.properties.get("tls_alpns", ()))

    @property
    def upstream_tls(self) -> bool:
        """Whether the proxy speaks TLS of its own to the upstream."""
        return bool(self.properties.get("upstream_tls") or self.properties.get("http_use_tls"))

    @property
    def http_version(self) -> str:
        """What the upstream of an HTTP tunnel speaks."""
        return http_version(self.properties)


def lacking(properties: Mapping[str, Any], versions: Collection[str]) -> str | None:
    """The feature that is missing for a TLS or HTTP tunnel with these properties, or `None`. `versions` are those of
    HTTP that the proxy speaks to an upstream."""
    protocol = properties.get("protocol", "http")
    if properties.get("publish") is False:
        return "private"
    if protocol not in ("tls", "http"):
        return str(protocol)
    for name, value in properties.items():
        if name in LACKING and value not in (False, [], None):
            return LACKING[name]
        if name not in FREE and name not in LACKING:
            return str(name)
    missing = _lacking_tls(properties) or (_lacking_http(properties, versions) if protocol == "http" else None)
    datagrams = protocol == "http" and http_version(properties) == "h3"
    fits = properties.get("type", "") in ("", "datagram" if datagrams else "bytestream")
    return missing or (None if fits else str(protocol))


def http_version(properties: Mapping[str, Any]) -> str:
    """What the upstream of an HTTP tunnel with these properties speaks; a datagram tunnel means h3."""
    by_type = "h3" if properties.get("type") == "datagram" else "http/1.1"
    return str(properties.get("http_version") or by_type)


def _lacking_tls(properties: Mapping[str, Any]) -> str | None:
    if any(not WORD.match(name) for name in properties.get("tls_alpns", ())):
        return "tls.alpn"
    if properties.get("tls_min_version", "tls1.2") not in TLS_VERSIONS:
        return "tls.min-version"
    if any(name not in TLS12_CIPHERS for name in properties.get("tls_ciphers", ())):
        return "tls.ciphers"
    if properties.get("tls_mode", "terminated") not in ("terminated", "passthrough"):
        return "tls.terminated"
    return None


def _lacking_http(properties: Mapping[str, Any], versions: Collection[str]) -> str | None:
    version = http_version(properties)
    if version not in versions:
        return HTTP_VERSIONS.get(version, f"http_version {version}")
    if properties.get("tls_mode") == "passthrough":
        return "tls.passthrough"
    return "tls.alpn" if properties.get("tls_alpns") else None
