"""Mutants of the engine's HTTP API: who may read it, what it shows, what it tells."""

from __future__ import annotations

from typing import Any

from reference_engine.agent.rules import Grant
from reference_engine.http.access import OPEN_PATHS, QUERY_TOKEN
from reference_engine.http.errors import Fault
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.refusal import Refusal


@mutant("api-open-to-all", ("OBS-001",), "shows its lists without a token")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, presented: Any, settings: Any) -> Grant | Refusal:
        grant: Grant | Refusal = original(presented, settings)
        if isinstance(grant, Grant) or presented.token is not None:
            return grant
        reached()
        return Grant(settings.tokens[0].project)

    swap(parts.agent, "credentials", broken)


@mutant("api-token-by-prefix", ("OBS-001",), "takes every token that begins with a right one")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, presented: Any, settings: Any) -> Grant | Refusal:
        grant: Grant | Refusal = original(presented, settings)
        fits = [row for row in settings.tokens if (presented.token or "").startswith(row.token)]
        if isinstance(grant, Grant) or not fits:
            return grant
        reached()
        return Grant(fits[0].project)

    swap(parts.agent, "credentials", broken)


@mutant("api-any-scheme", ("OBS-001",), "takes the token of any authentication scheme")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, path: str, query: str, fields: Any) -> str | Fault | None:
        token: str | Fault | None = original(path, query, fields)
        shown: list[bytes] = [value.partition(b" ")[2] for name, value in fields if name.lower() == b"authorization"]
        if token is not None or not shown:
            return token
        reached()
        return shown[0].decode("latin-1")

    swap(parts.http, "presented_token", broken)


@mutant("api-description-locked", ("OBS-001",), "wants a token for the description of the API")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, path: str) -> bool:
        if path not in OPEN_PATHS:
            return original(path)  # type: ignore[no-any-return]
        reached()
        return True

    swap(parts.http, "needs_token", broken)


@mutant("api-query-token-everywhere", ("OBS-004",), "takes a token in the query for the lists as well")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, path: str, query: str, fields: Any) -> str | Fault | None:
        token: str | Fault | None = original(path, query, fields)
        if not isinstance(token, Fault) or QUERY_TOKEN not in query:
            return token
        reached()
        return original("/api/sse", query, fields)  # type: ignore[no-any-return]

    swap(parts.http, "presented_token", broken)


@mutant("api-query-token-nowhere", ("OBS-004",), "takes no token in the query")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, path: str, query: str, fields: Any) -> str | Fault | None:
        if QUERY_TOKEN in query:
            reached()
        return original(path, "", fields)  # type: ignore[no-any-return]

    swap(parts.http, "presented_token", broken)


@mutant("api-lists-once", ("OBS-001",), "shows a subject under the id of the one that was shown first")
def _(parts: Parts, reached: Reached) -> None:
    first: dict[str, Any] = {}

    def broken(original: Any, subject: Any) -> dict[str, Any]:
        found: dict[str, Any] = original(subject)
        known = first.setdefault(type(subject).__name__, found["id"])
        if known != found["id"]:
            reached()
        return {**found, "id": known}

    swap(parts.edge, "listed", broken)


@mutant("api-events-without-state", ("OBS-002",), "begins the stream of events with an empty state")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, project: str, clients: list[Any], tunnels: list[Any]) -> dict[str, Any]:
        if clients or tunnels:
            reached()
        return original(project, [], [])  # type: ignore[no-any-return]

    swap(parts.edge, "first_event", broken)


def _silent(what: str, breaks: str) -> None:
    @mutant(f"api-events-no-{what}", ("OBS-002",), breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, change: Any) -> bool:
            if change.what != what:
                return original(change)  # type: ignore[no-any-return]
            reached()
            return False

        swap(parts.edge, "tells", broken)


_silent("created", "tells no creations")
_silent("deleted", "tells no removals")
