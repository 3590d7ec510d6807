"""Steps of a script that run side by side: how they are awaited, and what becomes of those that nobody awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from harness.errors import EngineDeparted


async def side_by_side(*steps: Awaitable[Any]) -> list[Any]:
    """What each step gave, in their order; the first error ends all of them and is raised as it is."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
        return [task.result() for task in tasks]
    finally:
        await cancelled(tasks)


async def one_of(*steps: Awaitable[Any]) -> list[Any]:
    """What the steps gave that were through when the first of them was; `None` for the others, which are dropped."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() if task.done() else None for task in tasks]
    finally:
        await cancelled(tasks)


async def cancelled(tasks: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """Drop `tasks`: what each had come to, a result or an exception."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def dropped(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """As `cancelled`, where what the engine did against the steps is nobody's business: a fault of ours is raised."""
    for result in await cancelled(tasks):
        if isinstance(result, Exception) and not isinstance(result, EngineDeparted):
            raise result
