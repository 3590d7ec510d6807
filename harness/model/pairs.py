"""The pair of HTTP versions that a case is about: what the client speaks to the engine, and the engine to the upstream.

A case says it by the axes `down` and `up`; what it does not say there its features and its tunnel tell.
"""

from __future__ import annotations

from harness.model.case import Case, Variant

DOWN, UP = "down", "up"
"""The axes."""
DOWNSTREAM = {"h1": "HTTP/1.1", "h2": "HTTP/2", "h3": "HTTP/3"}
"""The points of `down`, in the order of reports, with their names."""
UPSTREAMS = {"h1": "HTTP/1.1", "h2c": "HTTP/2 (h2c)", "h3": "HTTP/3"}
"""The points of `up`, likewise."""
CHOSEN = {"tls": "TLS, by ALPN"}
"""A point of `up` that no pair has: the upstream speaks TLS, and ALPN chooses."""
ALIASES = {"http/1.1": "h1"}
"""Other names of points."""
AREAS = frozenset({"http", "http2", "http3", "websocket"})
"""Areas whose cases are about exchanges on HTTP tunnels, whether they have the axes or not."""
_DOWN_FEATURES = {"http.downstream-h2": "h2", "http.downstream-h3": "h3"}
_UP_VERSIONS = {"http/1.1": "h1", "h2c": "h2c", "h3": "h3", "tls": "tls"}


def axes_of(case: Case, variant: Variant) -> tuple[tuple[str, str], ...]:
    """The variant's own axes, in the order of the case, and `down` and `up` behind them where the case is about HTTP
    and does not say them."""
    named = dict(variant.values)
    if case.area not in AREAS and not {DOWN, UP} & set(named):
        return variant.values
    told = ((DOWN, _down(case, variant)), (UP, _up(case, variant)))
    return (*variant.values, *((axis, point) for axis, point in told if axis not in named))


def _down(case: Case, variant: Variant) -> str:
    features = case.features(variant)
    return next((point for feature, point in _DOWN_FEATURES.items() if feature in features), "h1")


def _up(case: Case, variant: Variant) -> str:
    specs = case.publish(variant)
    spec = specs.get("main") or next((spec for spec in specs.values() if spec.family == "http"), None)
    return _UP_VERSIONS.get(spec.upstream_http, "h1") if spec is not None and spec.family == "http" else "h1"
