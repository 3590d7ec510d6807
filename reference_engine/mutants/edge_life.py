"""Mutants of how tunnels end: sessions and names after a close on purpose, and after the loss of an agent."""

from __future__ import annotations

from typing import Any

from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

A_DAY_MS = 86_400_000.0


@mutant("life-close-spares-sessions", ("EDGE-027",), "leaves the sessions of a tunnel alone that its agent closes")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, cause: str) -> bool:
        if original(cause):
            reached()
        return False

    swap(parts.agent, "ends_sessions", broken)


@mutant("life-loss-ends-sessions", ("EDGE-026",), "ends the sessions of an agent whose control channel is lost")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, cause: str) -> bool:
        if not original(cause):
            reached()
        return True

    swap(parts.agent, "ends_sessions", broken)


def _leases(what: str, breaks: str, wanted: float) -> None:
    @mutant(f"life-{what}", ("EDGE-014",), breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, **measured: Any) -> float:
            if original(**measured) != wanted:
                reached()
            return wanted

        swap(parts.agent, "lease_ms", broken)


_leases("no-lease", "frees the names of an agent as soon as its control channel is lost", 0.0)
_leases("long-lease", "holds the names of a lost agent for a day", A_DAY_MS)
