"""Rules on who may use the engine's HTTP API, as far as HTTP has to do with it (engine HTTP API, agent protocol
section 8)."""

from __future__ import annotations

from urllib.parse import parse_qsl

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields, values

QUERY_TOKEN = "rstream.token"
WATCH_PATHS = frozenset({"/api/sse", "/api/websocket"})
OPEN_PATHS = frozenset({"/api/openapi.json", "/.well-known/rstream/engine"})


class AccessRules:
    """Where a token may stand, and which paths need one."""

    def needs_token(self, path: str) -> bool:
        """Everything but the API's description and the discovery document (OBS-001)."""
        return path not in OPEN_PATHS

    def presented_token(self, path: str, query: str, fields: Fields) -> str | Fault | None:
        """The bearer token of a request; a token in the query counts on the watch endpoints only (OBS-004)."""
        bearer = [value[7:].strip() for value in values(fields, b"authorization") if value[:7].lower() == b"bearer "]
        in_query = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == QUERY_TOKEN]
        if in_query and path not in WATCH_PATHS:
            return Fault(401, "a token in the query is accepted on the watch endpoints only")
        if len(bearer) + len(in_query) > 1:
            return Fault(401, "more than one token")
        if bearer:
            return bearer[0].decode("latin-1")
        return in_query[0] if in_query else None
