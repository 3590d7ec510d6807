"""How a double of HTTP/3 is made: the engine's connection with one check taken away, toward clients or upstreams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reference_engine.http.h3_connection import EngineH3, H3Limits
from reference_engine.http.rules import HttpRules
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

SIDES = {"server": (False,), "client": (True,), "both": (False, True)}
"""Which ends of a connection are flawed, by the name of the side: toward clients the engine is the server."""


class FlawedH3(EngineH3):
    """A connection that knows how to say that its flaw was used."""

    reached: Reached


def flawed_codec(parts: Parts, reached: Reached, flawed: type[FlawedH3], side: str = "both") -> None:
    """Put `flawed` in the place of the engine's connection on `side`."""

    def made(
        original: Callable[..., EngineH3],
        rules: HttpRules,
        limits: H3Limits,
        *,
        is_client: bool,
        unidirectional: Sequence[int],
        **options: Any,
    ) -> EngineH3:
        if is_client not in SIDES[side]:
            return original(rules, limits, is_client=is_client, unidirectional=unidirectional, **options)
        kind: type[FlawedH3] = type(flawed.__name__, (flawed,), {"reached": staticmethod(reached)})
        return kind(rules, limits, is_client=is_client, unidirectional=unidirectional, **options)

    swap(parts.http_endpoints, "h3_codec", made)


def h3_double(
    name: str, rows: tuple[str, ...], breaks: str, *, side: str = "both"
) -> Callable[[type[FlawedH3]], type[FlawedH3]]:
    """Register a double: the decorated connection stands toward clients (`server`), upstreams (`client`), or both."""

    def register(flawed: type[FlawedH3]) -> type[FlawedH3]:
        def apply(parts: Parts, reached: Reached) -> None:
            flawed_codec(parts, reached, flawed, side)

        apply.__module__ = flawed.__module__
        mutant(name, rows, breaks)(apply)
        return flawed

    return register
