"""Deadlines: every wait of a script has one, and names the awaited event when it expires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from harness.errors import DeadlineExpired

DEFAULT_SECONDS = 5.0
_seconds: ContextVar[float] = ContextVar("deadline_seconds", default=DEFAULT_SECONDS)


def set_default(seconds: float) -> None:
    """Set the deadline of every wait in the current context, in seconds."""
    _seconds.set(seconds)


@asynccontextmanager
async def deadline(awaited: str, seconds: float | None = None) -> AsyncIterator[None]:
    """Bound the block; on expiry raise `DeadlineExpired` naming `awaited`. `seconds` defaults to the context's."""
    limit = _seconds.get() if seconds is None else seconds
    try:
        async with asyncio.timeout(limit):
            yield
    except TimeoutError as error:
        raise DeadlineExpired(awaited, limit) from error
