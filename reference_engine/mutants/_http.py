"""Steps that the mutants of HTTP share: how an object that `HttpEndpoints` hands out is put in another's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11

from reference_engine.http.events import Fields, InformationalHead, ResponseHead
from reference_engine.http.exchange import Exchange
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_downstream import H1Connection
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.pool import Pool
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import NO_CONTENT, Limits
from reference_engine.mutants.registry import Reached, swap
from reference_engine.parts import Parts


def use_exchange(parts: Parts, broken: type[Exchange]) -> None:
    """Serve every request by `broken`."""

    def made(_: Callable[..., Exchange], *given: Any) -> Exchange:
        return broken(*given)

    swap(parts.http_endpoints, "exchange", made)


def use_connection(parts: Parts, broken: type[H1Connection]) -> None:
    """Serve every client connection by `broken`."""

    def made(_: Callable[..., H1Connection], *given: Any, **named: Any) -> H1Connection:
        return broken(*given, **named)

    swap(parts.http_endpoints, "connection", made)


def use_pool(parts: Parts, broken: type[Pool]) -> None:
    """Keep upstream connections in `broken`."""

    def made(_: Callable[..., Pool], *given: Any, **named: Any) -> Pool:
        return broken(*given, **named)

    swap(parts.http_endpoints, "pool", made)


def use_server_codec(parts: Parts, broken: type[H1ServerCodec]) -> None:
    """Speak with clients through `broken`."""

    def made(_: Callable[..., H1ServerCodec], rules: HttpRules, limits: Limits) -> H1ServerCodec:
        return broken(rules, limits)

    swap(parts.http_endpoints, "server_codec", made)


def use_client_codec(parts: Parts, broken: type[H1ClientCodec]) -> None:
    """Speak with upstreams through `broken`."""

    def made(_: Callable[..., H1ClientCodec], rules: HttpRules, limits: Limits) -> H1ClientCodec:
        return broken(rules, limits)

    swap(parts.http_endpoints, "client_codec", made)


def change_response_fields(
    parts: Parts, reached: Reached, change: Callable[[Fields, ResponseHead, bytes], Fields | None]
) -> None:
    """Send with a response what `change(fields, head, method)` makes of the fields of the rule; `None`: those."""

    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        changed = change(fields, head, method)
        if changed is None:
            return fields
        reached()
        return changed

    swap(parts.http, "response_fields", broken)


def change_interim_fields(
    parts: Parts, reached: Reached, change: Callable[[Fields, InformationalHead], Fields | None]
) -> None:
    """The same for interim responses that are relayed: `change(fields, head)`."""

    def broken(
        original: Callable[[InformationalHead, bytes], InformationalHead | None],
        head: InformationalHead,
        version: bytes,
    ) -> InformationalHead | None:
        relayed = original(head, version)
        changed = change(relayed.fields, head) if relayed is not None else None
        if relayed is None or changed is None:
            return relayed
        reached()
        return InformationalHead(relayed.status, changed, relayed.reason)

    swap(parts.http, "informational", broken)


def restart_client(codec: H1ClientCodec) -> None:
    """Make `codec` ready for another request, whatever h11 thinks of the last one. What is unread stays."""
    codec._h11 = h11.Connection(h11.CLIENT, 1 << 20)
    codec._gate.begin(NO_CONTENT)
    codec.answered = codec.over = codec.heard = False
    codec._last = codec._fed = False
    codec._interim = 0


def restart_server(codec: H1ServerCodec) -> None:
    """Make `codec` ready for another request, whatever h11 thinks of the last one. What is unread stays."""
    codec._h11 = h11.Connection(h11.SERVER, 1 << 20)
    codec._gate.begin(NO_CONTENT)
    codec.request = None
    codec.complete = True
    codec._fed = False
