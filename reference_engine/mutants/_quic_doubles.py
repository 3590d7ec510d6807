"""How a double of QUIC is registered: the engine's connection with one check of the library removed or turned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic.quic.configuration import QuicConfiguration

from reference_engine.mutants.registry import Reached, mutant
from reference_engine.parts import Parts
from reference_engine.quic.connection import EngineQuic
from reference_engine.quic.endpoints import QuicEndpoints


class FlawedQuic(EngineQuic):
    """A connection of which a subclass turns one method; `reached` is called where it departs."""

    reached: Reached


class FlawedEndpoints(QuicEndpoints):
    """Makes flawed connections, on both legs."""

    def __init__(self, flawed: type[FlawedQuic]) -> None:
        self._flawed = flawed

    def server(self, configuration: QuicConfiguration, **options: Any) -> EngineQuic:
        """A connection of the public UDP port."""
        return self._flawed(configuration=configuration, **options)

    def client(self, configuration: QuicConfiguration, **options: Any) -> EngineQuic:
        """A connection to an upstream."""
        return self._flawed(configuration=configuration, **options)


def double(name: str, rows: tuple[str, ...], breaks: str) -> Callable[[type[FlawedQuic]], type[FlawedQuic]]:
    """Register a double: the decorated connection stands on both legs of every QUIC tunnel."""

    def register(flawed: type[FlawedQuic]) -> type[FlawedQuic]:
        def apply(parts: Parts, reached: Reached) -> None:
            parts.quic_endpoints = FlawedEndpoints(type(flawed.__name__, (flawed,), {"reached": reached}))

        apply.__module__ = flawed.__module__
        mutant(name, rows, breaks)(apply)
        return flawed

    return register
