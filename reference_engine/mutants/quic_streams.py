"""Streams of QUIC tunnels: kinds, ends and codes that do not cross, streams that are mixed up or wait for others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.stream import QuicStream
from reference_engine.quic.transport import QuicTransport

PassData = Callable[[QuicStream, bytes], Coroutine[Any, Any, None]]
PassEnd = Callable[[QuicStream], Coroutine[Any, Any, None]]
PassCode = Callable[[QuicStream, int], None]
LONG = 10_000
"""Octets of a stream that is not the probe of a sanity case."""
IDLE_SECONDS = 0.5


# Kinds and contents


@mutant("quic-uni-as-bidi", ("RFC9000-2.1-2", "QUIC-011"), "carries unidirectional streams on bidirectional ones")
def _uni_as_bidi(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[QuicStream], bool], stream: QuicStream) -> bool:
        if original(stream):
            reached()
        return False

    swap(parts.quic, "unidirectional", broken)


@mutant(
    "quic-streams-merged",
    ("RFC9000-2.1-2", "QUIC-010"),
    "puts the octets of a third stream in front of those of a fourth",
)
def _merged(parts: Parts, reached: Reached) -> None:
    held: WeakKeyDictionary[QuicTransport, bytes] = WeakKeyDictionary()

    async def broken(original: PassData, sink: QuicStream, data: bytes) -> None:
        if sink.ours and sink.id // 4 % 4 == 2:
            reached()
            held[sink.transport] = held.get(sink.transport, b"") + data
            return
        if sink.ours and sink.id // 4 % 4 == 3:
            data = held.pop(sink.transport, b"") + data
        await original(sink, data)

    swap(parts.quic, "pass_data", broken)


@mutant(
    "quic-server-streams-dropped", ("QUIC-011", "RFC9000-2.1-2"), "takes the streams of an upstream, and drops them"
)
def _server_dropped(parts: Parts, reached: Reached) -> None:
    async def broken(original: PassData, sink: QuicStream, data: bytes) -> None:
        if sink.ours and sink.id & 1:
            reached()
            return
        await original(sink, data)

    swap(parts.quic, "pass_data", broken)


# Ends


@mutant(
    "quic-fin-closes-both",
    ("RFC9000-2.1-2", "QUIC-013"),
    "ends both directions of a stream with the FIN of one",
)
def _fin_closes_both(parts: Parts, reached: Reached) -> None:
    passed: WeakKeyDictionary[QuicStream, int] = WeakKeyDictionary()

    async def data(original: PassData, sink: QuicStream, octets: bytes) -> None:
        passed[sink] = passed.get(sink, 0) + len(octets)
        await original(sink, octets)

    async def end(original: PassEnd, sink: QuicStream) -> None:
        await original(sink)
        if passed.get(sink, 0) > LONG and not sink._fin:
            reached()
            sink.stop(0)

    swap(parts.quic, "pass_data", data)
    swap(parts.quic, "pass_end", end)


@mutant(
    "quic-fin-withheld",
    ("RFC9000-2.1-2", "QUIC-013"),
    "keeps the FIN of an answer until the other direction has ended",
)
def _fin_withheld(parts: Parts, reached: Reached) -> None:
    async def broken(original: PassEnd, sink: QuicStream) -> None:
        if not sink.ours and not sink._fin:
            reached()
            ended = asyncio.Event()
            sink.on_arrival(lambda: ended.set() if sink._fin else None)
            await ended.wait()
        await original(sink)

    swap(parts.quic, "pass_end", broken)


@mutant("quic-reset-is-fin", ("RFC9000-3.5-3", "QUIC-013"), "makes a FIN of RESET_STREAM")
def _reset_is_fin(parts: Parts, reached: Reached) -> None:
    ending: set[asyncio.Task[None]] = set()

    def broken(_: PassCode, sink: QuicStream, code: int) -> None:
        del code
        reached()
        task = asyncio.get_running_loop().create_task(sink.end())
        ending.add(task)
        task.add_done_callback(ending.discard)

    swap(parts.quic, "pass_reset", broken)


@mutant("quic-reset-lost", ("RFC9000-3.5-3", "QUIC-013"), "keeps RESET_STREAM to itself")
def _reset_lost(parts: Parts, reached: Reached) -> None:
    def broken(_: PassCode, sink: QuicStream, code: int) -> None:
        del sink, code
        reached()

    swap(parts.quic, "pass_reset", broken)


@mutant("quic-stop-not-relayed", ("RFC9000-3.5-2", "QUIC-013"), "answers STOP_SENDING, and keeps it to itself")
def _stop_not_relayed(parts: Parts, reached: Reached) -> None:
    def broken(_: PassCode, source: QuicStream, code: int) -> None:
        del source, code
        reached()

    swap(parts.quic, "pass_stop", broken)


@mutant("quic-idle-stream-reset", ("RFC9000-11.2-1", "LIM-004"), "resets a stream that was idle for half a second")
def _idle_reset(parts: Parts, reached: Reached) -> None:
    timers: WeakKeyDictionary[QuicStream, asyncio.TimerHandle] = WeakKeyDictionary()

    def over(sink: QuicStream) -> None:
        if not sink._ended and sink.broken is None:
            reached()
            sink.reset(0)

    async def broken(original: PassData, sink: QuicStream, data: bytes) -> None:
        known = timers.get(sink)
        if known is not None:
            known.cancel()
        timers[sink] = asyncio.get_running_loop().call_later(IDLE_SECONDS, over, sink)
        await original(sink, data)

    swap(parts.quic, "pass_data", broken)


# Flow


@mutant("quic-one-queue", ("RFC9000-4.1-3", "QUIC-015"), "hands on the octets of one stream of a leg at a time")
def _one_queue(parts: Parts, reached: Reached) -> None:
    locks: defaultdict[QuicTransport, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def broken(original: PassData, sink: QuicStream, data: bytes) -> None:
        lock = locks[sink.transport]
        if lock.locked():
            reached()
        async with lock:
            await original(sink, data)

    swap(parts.quic, "pass_data", broken)


@mutant("quic-no-backpressure", ("QUIC-016", "RFC9000-4.1-3"), "takes what comes for a stalled stream, into memory")
def _no_backpressure(parts: Parts, reached: Reached) -> None:
    async def broken(original: PassData, sink: QuicStream, data: bytes) -> None:
        if sink.stopped is not None or sink.broken is not None:
            await original(sink, data)
            return
        sink.transport.send(sink, data, fin=False)
        if sink.backlog >= sink.transport.high_water:
            reached()

    swap(parts.quic, "pass_data", broken)
