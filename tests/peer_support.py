"""A client and an upstream joined by TCP alone, an engine that changes nothing: for the tests of HTTP peers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from harness.engine.driver import UpstreamQueue
from harness.evidence.transcript import Transcript
from harness.link.deadline import deadline, set_default
from harness.link.tcp import TcpLink, TcpListener, connect_tcp


class TcpWire(ABC):
    """The wire; what is put in `queue` reaches the upstream."""

    def __init__(self) -> None:
        self.transcript = Transcript(asyncio.get_running_loop().time)
        self.queue = UpstreamQueue()
        self.listener = TcpListener()
        self.links: list[TcpLink] = []

    async def link(self) -> tuple[TcpLink, TcpLink]:
        """Both ends of a new connection."""
        ours = await connect_tcp(self.listener.host, self.listener.port)
        theirs = await self.listener.accept()
        self.links += [ours, theirs]
        return ours, theirs

    @abstractmethod
    async def close(self) -> None:
        """Close the peers."""


WireT = TypeVar("WireT", bound=TcpWire)


@asynccontextmanager
async def running(wire: WireT) -> AsyncIterator[WireT]:
    """The wire while a script runs on it."""
    set_default(2.0)
    await wire.listener.start()
    try:
        async with deadline("the test", 20):
            yield wire
    finally:
        await wire.close()
        for link in wire.links:
            await link.close()
        await wire.listener.stop()


def scripted(
    make: Callable[[], WireT],
) -> Callable[[Callable[[WireT], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """A decorator that makes a test of a script on a wire."""

    def decorate(script: Callable[[WireT], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def run() -> None:
            async def main() -> None:
                async with running(make()) as wire:
                    await script(wire)

            asyncio.run(main())

        run.__name__ = script.__name__
        run.__doc__ = script.__doc__
        return run

    return decorate
