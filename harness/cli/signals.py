"""Interrupts of a subcommand that runs an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from harness.cli.session import SIGNALS

INTERRUPTED = 130


@contextlib.asynccontextmanager
async def interruptible() -> AsyncIterator[None]:
    """The first signal cancels the current task, which then ends what it started; those that follow change nothing."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked = False

    def cancel() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    before = {signal_number: signal.getsignal(signal_number) for signal_number in SIGNALS}
    for signal_number in SIGNALS:
        loop.add_signal_handler(signal_number, cancel)
    try:
        yield
    finally:
        for signal_number, handler in before.items():
            loop.remove_signal_handler(signal_number)
            signal.signal(signal_number, handler)
