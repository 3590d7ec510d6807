"""The relay: two byte streams, each the other's far end.

Both directions move at once and end one by one. What the relay decides is small and is kept in methods of their own:
how a clean end goes on (`pass_end`), how a reset goes on (`pass_reset`), and how a chunk goes on (`pass_data`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from reference_engine.relay.stream import ByteStream, StreamReset


@dataclass(slots=True)
class Relayed:
    """What a relay did: octets each way, and why it ended early (`None`: both directions ended cleanly)."""

    a_to_b: int = 0
    b_to_a: int = 0
    reset: str | None = None


@dataclass(slots=True)
class _Direction:
    """One direction: how far it is, and how it ended."""

    source: ByteStream
    sink: ByteStream
    half_open: bool
    octets: int = 0
    clean: bool = False
    reset: str | None = None
    sink_failed: bool = False


class Relay:
    """Copies between two streams until both directions have ended or one stream broke."""

    async def run(
        self,
        a: ByteStream,
        b: ByteStream,
        *,
        a_half_open: bool = True,
        b_half_open: bool = True,
        over: asyncio.Future[None] | None = None,
    ) -> Relayed:
        """Relay until the end, and leave both streams closed.

        `a_half_open` says whether `a` still takes data after its own clean end (TLS 1.3 and TCP do, TLS 1.2 does not:
        RFC 5246 section 7.2.1); where not, the end of `a` ends both directions. When `over` is done the relay ends in
        order: what was handed on still arrives. Cancelling aborts both streams.
        """
        down = _Direction(a, b, a_half_open)
        up = _Direction(b, a, b_half_open)
        tasks = {
            asyncio.create_task(self._copy(down)): (down, up),
            asyncio.create_task(self._copy(up)): (up, down),
        }
        settled = False
        try:
            await self._watch(tasks, over)
            settled = True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not settled:
                a.abort("relay ended")
                b.abort("relay ended")
        return Relayed(down.octets, up.octets, down.reset or up.reset)

    async def _watch(
        self, tasks: dict[asyncio.Task[None], tuple[_Direction, _Direction]], over: asyncio.Future[None] | None
    ) -> None:
        waiting: set[asyncio.Future[None]] = set(tasks)
        if over is not None:
            waiting.add(over)
        running = set(tasks)
        whole = True
        while running and whole:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if over in done:
                await self._cut(running, tasks)
                return
            for task in [each for each in tasks if each in done]:
                running.discard(task)
                task.result()
                ended, other = tasks[task]
                if ended.reset is not None:
                    await self._broken(ended, other)
                    return
                whole = whole and ended.half_open
        for direction, _ in tasks.values():
            await direction.sink.close()

    async def _cut(
        self, running: set[asyncio.Task[None]], tasks: dict[asyncio.Task[None], tuple[_Direction, _Direction]]
    ) -> None:
        """End in the middle: what was handed on arrives, and each side sees that there was more to come."""
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for direction, _ in tasks.values():
            await direction.sink.cut("relay ended")

    async def _copy(self, direction: _Direction) -> None:
        try:
            while data := await direction.source.read():
                direction.sink_failed = True
                await self.pass_data(direction.sink, data)
                direction.sink_failed = False
                direction.octets += len(data)
            direction.clean = True
            direction.sink_failed = True
            await self.pass_end(direction.sink)
        except StreamReset as problem:
            direction.clean = False
            direction.reset = problem.reason

    async def _broken(self, ended: _Direction, other: _Direction) -> None:
        """One stream is gone: the other one hears of it, as what it is."""
        reason = ended.reset or "reset"
        broken, rest = (ended.sink, ended.source) if ended.sink_failed else (ended.source, ended.sink)
        broken.abort(reason)
        if ended.sink_failed and other.clean:
            # The far side had said all it had to say, and now takes no more: nothing that the source was to get has
            # been cut, so the source sees a clean end.
            await rest.close()
        else:
            await self.pass_reset(rest, reason)

    async def pass_data(self, sink: ByteStream, data: bytes) -> None:
        """Hand on a chunk; waiting here is what keeps a fast source from filling memory."""
        await sink.write(data)

    async def pass_end(self, sink: ByteStream) -> None:
        """Hand on a clean end: this direction only (RFC 8446 section 6.1)."""
        await sink.end()

    async def pass_absence(self, stream: ByteStream) -> None:
        """There is no upstream: the connection ends, and carried nothing (TLS-023)."""
        await stream.close()

    async def pass_reset(self, sink: ByteStream, reason: str) -> None:
        """Hand on a reset as a reset, never as a clean end (RFC 8446 section 6.1)."""
        sink.abort(reason)
