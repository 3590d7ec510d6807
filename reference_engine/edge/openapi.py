"""The description of the engine's HTTP API (OpenAPI 3.1): what this engine serves, nothing that it does not."""

from __future__ import annotations

from typing import Any

PARAMS = {
    "name": "params",
    "in": "query",
    "description": "JSON; null is the same as absent",
    "schema": {"type": "string"},
}
TUNNEL_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
TOKEN = {"name": "rstream.token", "in": "query", "schema": {"type": "string"}}
ERROR = {"content": {"text/plain": {"schema": {"type": "string"}}}}
REFUSED = {
    "400": {"description": "params are not valid", **ERROR},
    "401": {"description": "no valid token", **ERROR},
    "403": {"description": "the token may not read", **ERROR},
}
TUNNEL = {
    "type": "object",
    "required": ["id", "client_id", "status"],
    "properties": {
        "id": {"type": "string"},
        "client_id": {"type": "string"},
        "project_id": {"type": "string"},
        "status": {"enum": ["online", "offline"]},
        "name": {"type": "string"},
        "type": {"enum": ["bytestream", "datagram"]},
        "publish": {"type": "boolean"},
        "protocol": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "hostname": {"type": "string"},
        "host": {"type": "string"},
        "port": {"type": "integer"},
        "creation_date": {"type": "string", "format": "date-time"},
    },
}
CLIENT = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {
        "id": {"type": "string"},
        "project_id": {"type": "string"},
        "status": {"enum": ["online", "offline"]},
        "agent": {"type": "string"},
        "channel": {"type": "string"},
        "version": {"type": "string"},
        "os": {"type": "string"},
        "arch": {"type": "string"},
        "protocol_version": {"type": "string"},
        "creation_date": {"type": "string", "format": "date-time"},
    },
}


def _json(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


def _get(summary: str, ok: dict[str, Any], parameters: list[Any] | None = None, *, open_to_all: bool = False) -> Any:
    operation: dict[str, Any] = {"summary": summary, "responses": {"200": ok, **({} if open_to_all else REFUSED)}}
    if parameters:
        operation["parameters"] = parameters
    if open_to_all:
        operation["security"] = []
    return {"get": operation}


def document(version: str) -> dict[str, Any]:
    """The whole document; `version` is the engine's."""
    one = _get("One tunnel", _json("the tunnel", {"$ref": "#/components/schemas/Tunnel"}), [TUNNEL_ID])
    one["get"]["responses"] = {**one["get"]["responses"], "404": {"description": "no such tunnel", **ERROR}}
    events = {"description": "events, state.initial first", "content": {"text/event-stream": {}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Engine API", "version": version},
        "security": [{"bearer": []}],
        "paths": {
            "/api/auth": _get("Whether the token is valid", _json("it is", {"type": "object"})),
            "/api/clients": _get("Agents", _json("agents with an open channel", _list("Client")), [PARAMS]),
            "/api/tunnels": _get("Tunnels", _json("live and leased tunnels", _list("Tunnel")), [PARAMS]),
            "/api/tunnels/{id}": one,
            "/api/sse": _get("Live events", events, [PARAMS, TOKEN]),
            "/api/openapi.json": _get("This document", _json("OpenAPI", {"type": "object"}), open_to_all=True),
            "/.well-known/rstream/engine": _get(
                "Discovery", _json("how to reach this engine", {"type": "object"}), open_to_all=True
            ),
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Tunnel": TUNNEL, "Client": CLIENT},
        },
    }
