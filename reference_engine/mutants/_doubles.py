"""How a double of TLS is registered, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reference_engine.mutants._tlslite import Connection, TlsliteEndpoints
from reference_engine.mutants.registry import Reached, mutant
from reference_engine.parts import Parts

Flawed = type[Connection]


def double(
    name: str, rows: tuple[str, ...], breaks: str, *, side: str = "server", **how: Any
) -> Callable[[Flawed], Flawed]:
    """Register a double: the decorated connection stands in front of every tunnel (`side` server) or toward every
    upstream (`side` client). `how` as in TlsliteEndpoints."""

    def register(flawed: Flawed) -> Flawed:
        def apply(parts: Parts, reached: Reached) -> None:
            sides: dict[str, Any] = {side: flawed}
            parts.tls_endpoints = TlsliteEndpoints(reached, **sides, **how)

        apply.__module__ = flawed.__module__
        mutant(name, rows, breaks)(apply)
        return flawed

    return register


def silenced(module: str, name: str, rows: tuple[str, ...], breaks: str, *reasons: str, **how: Any) -> None:
    """Register a double of `module` that does not send the errors with these reasons, but goes on."""
    flawed = type("Silenced", (Connection,), {"silent": reasons, "__module__": module})
    double(name, rows, breaks, **how)(flawed)


def front(hello: Any, extension: Any) -> None:
    """Put an extension in front of the others of a parsed ClientHello."""
    hello.extensions.insert(0, extension)


def without(hello: Any, number: int) -> None:
    """Take an extension out of a parsed ClientHello."""
    hello.extensions = [one for one in hello.extensions or () if one.extType != number]
