"""The inventory as the engine's API shows it: objects, filters, events (agent protocol sections 8.1 to 8.3). Pure
data."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from reference_engine.http.errors import Fault
from reference_engine.tunnel.model import Client, Tunnel
from reference_engine.tunnel.registry import Change

Object = dict[str, Any]

TUNNEL_FILTERS = frozenset(
    {
        "id",
        "name",
        "type",
        "status",
        "client_id",
        "user_id",
        "protocol",
        "hostname",
        "publish",
        "http_version",
        "labels",
    }
)
CLIENT_FILTERS = frozenset(
    {"id", "status", "user_id", "agent", "channel", "version", "os", "arch", "protocol_version", "labels"}
)
TUNNEL_KEYS = (
    *("id", "name", "type", "publish", "protocol", "tls_mode", "tls_min_version", "mtls_auth", "http_version"),
    *("http_use_tls", "token_auth", "rstream_auth", "challenge_mode", "hostname", "port", "upstream_tls"),
    *("datagram_guaranteed_delivery", "allow_cross_region_routing"),
)
TUNNEL_LISTS = {"geoip": "geo_ip", "trusted_ips": "trusted_ips", "tls_alpns": "tls_alpns", "tls_ciphers": "tls_ciphers"}


def timestamp(when: dt.datetime) -> str:
    """RFC 3339 in UTC."""
    return when.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tunnel_object(tunnel: Tunnel) -> Object:
    """One tunnel: its properties in snake_case, who owns it, whether its agent is there."""
    properties = tunnel.properties
    found: Object = {
        "client_id": tunnel.client_id,
        "status": "online" if tunnel.open else "offline",
        "project_id": tunnel.project,
    }
    found.update((key, getattr(properties, key)) for key in TUNNEL_KEYS if getattr(properties, key) is not None)
    found.update(
        (shown, list(getattr(properties, key))) for key, shown in TUNNEL_LISTS.items() if getattr(properties, key)
    )
    found["id"] = tunnel.id
    found["labels"] = dict(properties.labels)
    if properties.creation_date is not None:
        found["creation_date"] = timestamp(properties.creation_date)
    if properties.hostname is not None:
        port = properties.port
        # Older tools look tunnels up by this field.
        found["host"] = properties.hostname if port in (None, 443) else f"{properties.hostname}:{port}"
    return found


def client_object(client: Client) -> Object:
    """One agent with an open control channel."""
    found: Object = {"id": client.id, "status": "online", "project_id": client.project}
    for key in ("agent", "channel", "version", "os", "arch", "protocol_version"):
        value = getattr(client.info, key)
        if value is not None:
            found[key] = value
    found["creation_date"] = timestamp(client.since)
    return found


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are asked for: `filters` by key, at most `limit` of them."""

    filters: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None

    def matches(self, found: Object) -> bool:
        """Whether an object has every value asked for; a label asked for with None may have any."""
        for key, wanted in self.filters.items():
            if key == "labels":
                labels = found.get("labels") or {}
                if any(name not in labels or value not in (None, labels[name]) for name, value in wanted.items()):
                    return False
            elif found.get(key) != wanted:
                return False
        return True

    def of(self, objects: list[Object]) -> list[Object]:
        """The objects that match, in order."""
        return [found for found in objects if self.matches(found)][: self.limit]


def _params(query: str) -> Any:
    """The JSON value of the query parameter `params`; `null` and absent are one. Raises ValueError."""
    texts = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "params"]
    if not texts:
        return {}
    if len(texts) > 1:
        raise ValueError("params: given twice")
    try:
        value = json.loads(texts[0])
    except (ValueError, RecursionError):
        raise ValueError("params: not JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("params: allowed is a JSON object or null")
    return value


def _filters(value: Any, allowed: frozenset[str], where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or set(value) - allowed:
        raise ValueError(f"{where}: allowed are {', '.join(sorted(allowed))}")
    found = {key: wanted for key, wanted in value.items() if wanted is not None}
    labels = found.get("labels", {})
    if not isinstance(labels, dict) or not all(label is None or isinstance(label, str) for label in labels.values()):
        raise ValueError(f"{where}.labels: allowed is an object of strings or null")
    return found


def list_selection(query: str, allowed: frozenset[str]) -> Selection | Fault:
    """`params={"limit": n, "filters": {..}}` of a list."""
    try:
        params = _params(query)
        if set(params) - {"limit", "filters"}:
            raise ValueError("params: allowed are limit, filters")
        limit = params.get("limit")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise ValueError("params.limit: allowed is an integer of 0 or more")
        return Selection(_filters(params.get("filters"), allowed, "params.filters"), limit)
    except ValueError as problem:
        return Fault(400, str(problem))


def watch_selection(query: str) -> dict[str, Selection] | Fault:
    """`params={"clients": {..}, "tunnels": {..}}` of a watch: filters by kind, `client` and `tunnel`."""
    try:
        params = _params(query)
        if set(params) - {"clients", "tunnels"}:
            raise ValueError("params: allowed are clients, tunnels")
        return {
            "client": Selection(_filters(params.get("clients"), CLIENT_FILTERS, "params.clients")),
            "tunnel": Selection(_filters(params.get("tunnels"), TUNNEL_FILTERS, "params.tunnels")),
        }
    except ValueError as problem:
        return Fault(400, str(problem))


def event(kind: str, project: str, found: Object, now: dt.datetime | None = None) -> Object:
    """One event of a watch (section 8.3)."""
    return {
        "type": kind,
        "id": secrets.token_hex(12),
        "created_at": timestamp(now or dt.datetime.now(dt.UTC)),
        "project_id": project,
        "object": found,
    }


def change_event(change: Change, found: Object) -> Object:
    """The event of a change of the inventory, whose subject is shown as `found`; what is gone is offline."""
    if change.what == "deleted":
        found["status"] = "offline"
    return event(f"{change.kind}.{change.what}", change.subject.project, found)


def initial_event(project: str, clients: list[Object], tunnels: list[Object]) -> Object:
    """The first event of every watch: everything there is (OBS-002)."""
    now = dt.datetime.now(dt.UTC)
    found = {"snapshot_at": timestamp(now), "clients": clients, "tunnels": tunnels}
    return event("state.initial", project, found, now)
