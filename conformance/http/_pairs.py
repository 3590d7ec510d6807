"""The pairs of HTTP versions: what a client speaks to the engine (`down`), and the engine to the upstream (`up`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.model.case import Variant
from harness.model.spec import TunnelSpec, http
from harness.peer.http import HttpClient
from harness.peer.http_upstream import HttpUpstream
from harness.scene import Scene

DOWN: Mapping[str, str] = {"h1": "http/1.1", "h2": "h2", "h3": "h3"}
"""The points of the axis `down`, and the version of `scene.http_client`."""
UP: Mapping[str, str] = {"h1": "http/1.1", "h2c": "h2c", "h3": "h3"}
"""The points of the axis `up`, and the `http_version` of the tunnel."""
PAIRS: Mapping[str, Sequence[str]] = {"down": tuple(DOWN), "up": tuple(UP)}
_FEATURES = {"h1": (), "h2": ("http.downstream-h2",), "h3": ("http.downstream-h3",)}


def point(variant: Variant, axis: str) -> str:
    """Where the variant stands on `down` or `up`; `h1` where the case has no such axis."""
    return dict(variant.values).get(axis, "h1")


def pair_tunnel(variant: Variant, **properties: Any) -> TunnelSpec:
    """The tunnel of a pair. `properties` are more of its spec's."""
    version = UP[point(variant, "up")]
    return http(**properties) if version == "http/1.1" else http(http_version=version, **properties)


def pair_features(variant: Variant) -> Sequence[str]:
    """What the profile must claim for the downstream version; the upstream's is told by the spec."""
    return _FEATURES[point(variant, "down")]


async def pair(scene: Scene, name: str = "main", **options: Any) -> tuple[HttpClient, HttpUpstream]:
    """The client and the upstream of the variant's pair, connected as far as the client goes: no request was made.
    `options` are those of `scene.http_client`."""
    upstream = scene.http_upstream(name, version=UP[point(scene.variant, "up")])
    client = await scene.http_client(name, version=DOWN[point(scene.variant, "down")], **options)
    return client, upstream
