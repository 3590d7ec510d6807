"""What is to be published, and how an engine must be started for it: pure data, readable without running anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

SettingValue = str | int | bool
QUIC_ALPN = ("edgecase",)
"""What the peers of a QUIC tunnel without a list speak unless a case says otherwise: QUIC needs a protocol."""


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """The properties of one tunnel, as the agent asks for them. `None` and `()` mean absent.

    The names are those of the agent protocol (TunnelProperties). `hostname` may hold `{label}` (unique per case and
    run), `{domain}` (the
    engine's base name) and `{project}`; the driver fills them in. `upstream` says what stands behind the tunnel, which
    no engine is told:
    `tcp` (plain bytes), `tls` (the upstream speaks TLS itself), `quic` (it speaks QUIC) or `udp` (plain packets).
    """

    protocol: str | None = None
    publish: bool | None = None
    type: str | None = None
    name: str | None = None
    hostname: str | None = None
    host: str | None = None
    port: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    geoip: tuple[str, ...] = ()
    trusted_ips: tuple[str, ...] = ()
    tls_mode: str | None = None
    tls_alpns: tuple[str, ...] = ()
    tls_min_version: str | None = None
    tls_ciphers: tuple[str, ...] = ()
    mtls_auth: bool | None = None
    http_version: str | None = None
    http_use_tls: bool | None = None
    upstream_tls: bool | None = None
    token_auth: bool | None = None
    rstream_auth: bool | None = None
    challenge_mode: bool | None = None
    datagram_guaranteed_delivery: bool | None = None
    allow_cross_region_routing: bool | None = None
    upstream: str = "tcp"

    def properties(self) -> Iterator[tuple[str, Any]]:
        """Name and value of every property that is set, without `upstream`."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "upstream" and value not in (None, ()):
                yield item.name, value

    @property
    def datagrams(self) -> bool:
        """Whether the tunnel carries packets rather than octets: what its type says, or what its protocol implies where
        none is given (VAL-001)."""
        if self.type is not None:
            return self.type == "datagram"
        if self.publish is False:
            return False
        return self.protocol in ("dtls", "quic") or (self.family == "http" and self.http_version == "h3")

    @property
    def upstream_http(self) -> str:
        """What the upstream of an HTTP tunnel speaks: `http/1.1`, `h2c`, `h3`, or `tls` where ALPN picks h2 or
        http/1.1."""
        if self.datagrams:
            return "h3"
        return "tls" if self.upstream_tls or self.http_use_tls else (self.http_version or "http/1.1")

    @property
    def family(self) -> str:
        """The protocol family: `http`, `tls`, `dtls`, `quic` or `private`."""
        return "private" if self.publish is False else (self.protocol or "http")

    def features(self) -> frozenset[str]:
        """The features that an engine needs to carry this tunnel (names as in fixtures/features.toml)."""
        return frozenset(_FEATURES_OF[self.family](self)) if self.family in _FEATURES_OF else frozenset({self.family})


def _tls_features(spec: TunnelSpec) -> Iterator[str]:
    if spec.tls_mode == "passthrough":
        yield "tls.passthrough"
    elif spec.upstream_tls:
        yield "tls.upstream"
    else:
        yield "tls.terminated"
    if spec.tls_alpns:
        yield "tls.alpn"
    if spec.tls_min_version:
        yield "tls.min-version"
    if spec.tls_ciphers:
        yield "tls.ciphers"


def _http_features(spec: TunnelSpec) -> Iterator[str]:
    version = spec.http_version or ("h3" if spec.type == "datagram" else "http/1.1")
    yield {"http/1.1": "http.h1", "h2c": "http.h2c", "h3": "http.h3"}.get(version, "http.h1")
    if spec.upstream_tls or spec.http_use_tls:
        yield "http.upstream-tls"
    if spec.tls_min_version:
        yield "tls.min-version"


def _quic_features(spec: TunnelSpec) -> Iterator[str]:
    yield "quic"
    if spec.tls_alpns:
        yield "quic.alpn"


def _private_features(spec: TunnelSpec) -> Iterator[str]:
    yield "private"
    if spec.datagrams:
        yield "private.datagram"


_FEATURES_OF: dict[str, Callable[[TunnelSpec], Iterator[str]]] = {
    "tls": _tls_features,
    "http": _http_features,
    "quic": _quic_features,
    "private": _private_features,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine must be started for a case: dotted keys of fixtures/features.toml `[settings]` with their values,
    sorted.

    Durations are milliseconds. Empty means: as the profile starts it.
    """

    items: tuple[tuple[str, SettingValue], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, SettingValue]) -> Settings:
        """Settings from a mapping; the order of keys does not matter."""
        return cls(tuple(sorted(values.items())))

    def with_defaults(self, values: Mapping[str, SettingValue]) -> Settings:
        """These settings over `values` (the axes of a run)."""
        return Settings.of({**values, **dict(self.items)})

    def get(self, key: str, default: SettingValue | None = None) -> SettingValue | None:
        """The value of `key`, or `default`."""
        return dict(self.items).get(key, default)

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.items) or "default"


def tls(**properties: Any) -> TunnelSpec:
    """A published TLS tunnel, terminated unless `tls_mode` says otherwise; upstream TLS and passthrough put a TLS
    upstream behind it."""
    behind = "tls" if properties.get("upstream_tls") or properties.get("tls_mode") == "passthrough" else "tcp"
    return TunnelSpec(**{"protocol": "tls", "upstream": behind, **properties})


def http(**properties: Any) -> TunnelSpec:
    """A published HTTP tunnel with an http/1.1 upstream unless `http_version` says otherwise; with `upstream_tls` ALPN
    chooses between h2 and http/1.1."""
    behind = "tls" if properties.get("upstream_tls") else "tcp"
    spec = TunnelSpec(**{"protocol": "http", "upstream": behind, **properties})
    return replace(spec, upstream="quic") if spec.datagrams and "upstream" not in properties else spec


def quic(**properties: Any) -> TunnelSpec:
    """A published QUIC tunnel: QUIC ends at the edge, which is the client of a QUIC upstream."""
    return TunnelSpec(**{"protocol": "quic", "upstream": "quic", **properties})


def private(**properties: Any) -> TunnelSpec:
    """A tunnel that is not published: reached by dialling it over the agent protocol. With `type="datagram"` it carries
    packets."""
    behind = "udp" if properties.get("type") == "datagram" else "tcp"
    return TunnelSpec(**{"publish": False, "name": "{label}", "upstream": behind, **properties})
