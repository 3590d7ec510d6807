"""The open WebSocket session: somebody in between who looks into it, changes it, or ends it otherwise than it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from reference_engine.http.exchange import Exchange
from reference_engine.http.leg import Upstream
from reference_engine.mutants._http import use_exchange
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.relay.stream import ByteStream, StreamReset

# The session: RFC 6455 sections 5 to 7

PING, PONG, CLOSE = 0x9, 0xA, 0x8


def _passing(parts: Parts, reached: Reached, rule: Callable[[bytes], bytes]) -> None:
    """Relay what `rule` makes of each chunk, which it takes for the beginning of a frame."""

    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        found = rule(data) if len(data) > 1 else data
        if found != data:
            reached()
        if found:
            await original(sink, found)

    swap(parts.relay, "pass_data", broken)


def _header(data: bytes) -> tuple[int, int]:
    """Octets of a frame's header with its mask, and of its payload."""
    short = data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(short, 0)
    size = int.from_bytes(data[2 : 2 + extra], "big") if extra else short
    return 2 + extra + (4 if data[1] & 0x80 else 0), size


@mutant(
    "ws-unmasks",
    ("HTTP-WS-008", "RFC6455-5.1-1", "RFC6455-5.2-1"),
    "takes the mask off the frames of a client",
)
def _unmasks(parts: Parts, reached: Reached) -> None:
    def rule(data: bytes) -> bytes:
        at, size = _header(data)
        if not data[1] & 0x80 or len(data) < at + size:
            return data
        mask, payload = data[at - 4 : at], data[at : at + size]
        plain = bytes(octet ^ mask[index % 4] for index, octet in enumerate(payload))
        return data[:1] + bytes([data[1] & 0x7F]) + data[2 : at - 4] + plain + data[at + size :]

    _passing(parts, reached, rule)


@mutant(
    "ws-reserved-bits-cleared",
    ("RFC6455-5.2-1", "RFC6455-5.4-3", "HTTP-WS-008"),
    "clears the reserved bits of frames",
)
def _reserved_cleared(parts: Parts, reached: Reached) -> None:
    _passing(parts, reached, lambda data: bytes([data[0] & 0x8F]) + data[1:])


@mutant("ws-fragments-joined", ("RFC6455-5.4-1", "RFC6455-5.4-3", "HTTP-WS-008"), "makes a whole message of a fragment")
def _fragments_joined(parts: Parts, reached: Reached) -> None:
    _passing(parts, reached, lambda data: bytes([data[0] | 0x80]) + data[1:] if 0 < data[0] & 0xF < 3 else data)


@mutant("ws-pings-swallowed", ("RFC6455-5.4-2", "RFC6455-5.5-1", "HTTP-WS-008"), "swallows pings")
def _pings_swallowed(parts: Parts, reached: Reached) -> None:
    def rule(data: bytes) -> bytes:
        if data[0] & 0xF != PING:
            return data
        return data[sum(_header(data)) :]

    _passing(parts, reached, rule)


@mutant("ws-pings-answered", ("RFC6455-5.5-1",), "answers a client's pings, too")
def _pings_answered(parts: Parts, reached: Reached) -> None:
    class Answering(Exchange):
        """Looks into what the client sends."""

        async def _switch(self, up: Upstream) -> None:
            raw = self._down.raw

            def watched() -> ByteStream:
                stream = raw()
                read = stream.read

                async def reading() -> bytes:
                    data = await read()
                    if data and data[0] & 0xF == PING:
                        reached()
                        await stream.write(bytes([0x80 | PONG, 0]))
                    return data

                stream.read = reading  # type: ignore[method-assign]
                return stream

            self._down.raw = watched  # type: ignore[method-assign]
            await super()._switch(up)

    use_exchange(parts, Answering)


@mutant("ws-pong-injected", ("RFC6455-5.5-1", "HTTP-WS-008"), "sends a pong to keep a session alive")
def _pong_injected(parts: Parts, reached: Reached) -> None:
    async def broken(
        original: Callable[..., Coroutine[Any, Any, object]], a: ByteStream, b: ByteStream, **options: bool
    ) -> object:
        reached()
        await a.write(bytes([0x80 | PONG, 0]))
        return await original(a, b, **options)

    swap(parts.relay, "run", broken)


@mutant("ws-close-code-normal", ("RFC6455-5.5.1-1", "HTTP-WS-008", "HTTP-WS-001"), "makes every close code 1000")
def _normal_code(parts: Parts, reached: Reached) -> None:
    def rule(data: bytes) -> bytes:
        at, size = _header(data)
        if data[0] & 0xF != CLOSE or data[1] & 0x80 or size < 2:
            return data
        return data[:at] + (1000).to_bytes(2, "big") + data[at + 2 :]

    _passing(parts, reached, rule)


@mutant("ws-text-repaired", ("HTTP-WS-008", "RFC6455-5.2-1", "HTTP-WS-001"), "repairs what is not valid UTF-8")
def _text_repaired(parts: Parts, reached: Reached) -> None:
    _passing(parts, reached, lambda data: data.replace(b"\xff\xfe", b"??"))


@mutant("ws-message-of-1-mebibyte", ("HTTP-WS-001", "RFC6455-10.6-1"), "drops what is beyond 512 KiB of one direction")
def _message_limit(parts: Parts, reached: Reached) -> None:
    passed: dict[int, int] = {}

    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        passed[id(sink)] = passed.get(id(sink), 0) + len(data)
        if passed[id(sink)] > 1 << 19:
            reached()
            return
        await original(sink, data)

    swap(parts.relay, "pass_data", broken)


@mutant(
    "ws-segments-lost",
    ("RFC6455-5.4-2", "HTTP-WS-008"),
    "drops segments that are shorter than the header of a frame",
)
def _segments_lost(parts: Parts, reached: Reached) -> None:
    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        if len(data) < 2:
            reached()
            return
        await original(sink, data)

    swap(parts.relay, "pass_data", broken)


@mutant(
    "ws-end-kept",
    ("RFC6455-5.5.1-2", "RFC6455-7.1.1-1", "HTTP-WS-012", "RFC6455-6.1-1"),
    "keeps the end of one direction to itself",
)
def _end_kept(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream], Coroutine[Any, Any, None]], sink: ByteStream) -> None:
        reached()
        await asyncio.get_running_loop().create_future()

    swap(parts.relay, "pass_end", broken)


@mutant(
    "ws-end-is-a-reset",
    ("RFC6455-7.1.1-1", "HTTP-WS-012", "RFC6455-6.1-1"),
    "resets the far end when one direction ends",
)
def _end_is_reset(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream], Coroutine[Any, Any, None]], sink: ByteStream) -> None:
        reached()
        sink.abort("the other end is gone")

    swap(parts.relay, "pass_end", broken)


@mutant(
    "ws-reset-is-a-close",
    ("RFC6455-7.1.7-1", "RFC6455-7.4.1-1"),
    "makes a Close with 1006 of a connection that broke",
)
def _reset_is_close(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream, str], Coroutine[Any, Any, None]], sink: ByteStream, reason: str) -> None:
        reached()
        try:
            await sink.write(bytes([0x80 | CLOSE, 2]) + (1006).to_bytes(2, "big"))
            await sink.close()
        except StreamReset:
            sink.abort(reason)

    swap(parts.relay, "pass_reset", broken)


@mutant("ws-reset-kept", ("RFC6455-7.1.7-1",), "leaves one end alone when the other broke")
def _reset_kept(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream, str], Coroutine[Any, Any, None]], sink: ByteStream, reason: str) -> None:
        reached()
        await asyncio.get_running_loop().create_future()

    swap(parts.relay, "pass_reset", broken)


@mutant("ws-no-pressure", ("RFC6455-10.4-1",), "takes a frame as fast as it comes, into memory")
def _no_pressure(parts: Parts, reached: Reached) -> None:
    tasks: set[asyncio.Task[None]] = set()

    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        if tasks:
            reached()
        task = asyncio.get_running_loop().create_task(original(sink, data))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    swap(parts.relay, "pass_data", broken)


@mutant("ws-quiet-cut", ("HTTP-WS-013",), "cuts a session after the time for a response")
def _quiet_cut(parts: Parts, reached: Reached) -> None:
    class Hasty(Exchange):
        """Keeps its timer."""

        async def _switch(self, up: Upstream) -> None:
            timer = asyncio.get_running_loop().call_later(self._edge.response_timeout, self._over, up)
            try:
                await super()._switch(up)
            finally:
                timer.cancel()

        def _over(self, up: Upstream) -> None:
            reached()
            up.abort("the response took too long")

    use_exchange(parts, Hasty)
