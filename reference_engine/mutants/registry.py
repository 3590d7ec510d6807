"""How a mutant is written: one decorated function that replaces one rule of one `Parts`, from outside.

    @mutant("alpn-goes-on", ("ALPN-008",), "goes on without ALPN when nothing is in common")
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original, offered, configured):
            chosen = original(offered, configured)
            ...
            reached()           # only where the behaviour departs from the rule
        swap(parts.tls, "select_alpn", broken)

The engine never knows: it reaches every rule through its `Parts` at call time. `reached` leaves a trace that the
broken rule was used, so
that a kill by accident is told from a kill.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_engine.parts import Parts


class Reached:
    """Call it where the mutant does something else than the rule; the first call makes `file`."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.count = 0

    @property
    def folder(self) -> Path | None:
        """Where a mutant may keep what outlives its process: the folder of `file`."""
        return self._file.parent if self._file is not None else None

    def __call__(self) -> None:
        """Note one use of the broken rule."""
        self.count += 1
        if self.count == 1 and self._file is not None:
            self._file.touch()


Break = Callable[[Parts, Reached], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken rule: `requirements` are the rows that should notice, `breaks` says what it does instead of the
    rule."""

    id: str
    family: str
    requirements: tuple[str, ...]
    breaks: str
    apply: Break


MUTANTS: dict[str, Mutant] = {}


def mutant(mutant_id: str, requirements: tuple[str, ...], breaks: str) -> Callable[[Break], Break]:
    """Register a mutant; its family is the module that it stands in."""

    def register(function: Break) -> Break:
        if mutant_id in MUTANTS:
            raise ValueError(f"two mutants are named {mutant_id}")
        family = function.__module__.rsplit(".", 1)[-1]
        MUTANTS[mutant_id] = Mutant(mutant_id, family, requirements, breaks, function)
        return function

    return register


def swap(part: object, rule: str, broken: Callable[..., Any]) -> None:
    """Replace the method `rule` of `part`; `broken` is called with the original first, then with the rule's own
    arguments.

    A coroutine method needs a coroutine function. Raises `AttributeError` when the rule has gone: a mutant of nothing
    must not pass.
    """
    original = getattr(part, rule)
    if inspect.iscoroutinefunction(original) != inspect.iscoroutinefunction(broken):
        raise TypeError(f"{rule}: the rule and its broken form must both be coroutine functions, or neither")
    setattr(part, rule, functools.partial(broken, original))
