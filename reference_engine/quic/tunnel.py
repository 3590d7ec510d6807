"""Raw QUIC tunnels: a QUIC server for the client, a QUIC client for the upstream, and what goes between (QUIC-001).

Both legs are connections of their own, with their own keys, ids, flow control and recovery. Streams, datagrams and ends
cross one by one; nothing here has an opinion about what they carry (QUIC-002).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.edge.client_hello import ClientHello
from reference_engine.quic.connection import Choice
from reference_engine.quic.rules import CONNECTION_REFUSED, NO_ERROR, Close
from reference_engine.quic.stream import QuicClosed, QuicReset, QuicStopped, QuicStream
from reference_engine.quic.transport import QuicTransport
from reference_engine.quic.upstream import UpstreamQuic
from reference_engine.relay.stream import StreamReset
from reference_engine.tunnel.model import Tunnel

if TYPE_CHECKING:
    from reference_engine.engine import Engine

T = TypeVar("T")
FINISH_SECONDS = 1.0
"""How long what came in front of a close may take to be handed on and acknowledged."""
ALIVE_CHECKS = 3
"""How often, in an idle timeout, the legs are looked at for signs of life."""


class QuicTunnels:
    """Serves the connections of QUIC tunnels. One per engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def serve(self, client: QuicTransport, tunnel: Tunnel, hello: ClientHello) -> None:
        """One connection, from its ClientHello to its end."""
        session = QuicSession(self._engine, client, tunnel)
        tunnel.sessions.add(session.end)
        linger = 0.0
        try:
            await session.run(hello)
            linger = FINISH_SECONDS
        finally:
            tunnel.sessions.discard(session.end)
            await session.close(linger)


class QuicSession:
    """One client's connection with the upstream connection that belongs to it."""

    def __init__(self, engine: Engine, client: QuicTransport, tunnel: Tunnel) -> None:
        self._engine = engine
        self._rules = engine.parts.quic
        self._tunnel = tunnel
        self._client = client
        self._upstream: UpstreamQuic | None = None

    def end(self, reason: str) -> None:
        """The tunnel is closed on purpose: both legs end at once (EDGE-027)."""
        self._close(self._client, Close(NO_ERROR, reason))
        if self._upstream is not None:
            self._close(self._upstream.transport, Close(NO_ERROR, reason))

    async def close(self, linger: float) -> None:
        """Whatever is left ends; the upstream's end may be repeated for `linger` seconds."""
        self._close(self._client, Close(NO_ERROR, "the session is over"))
        if self._upstream is not None:
            self._close(self._upstream.transport, Close(NO_ERROR, "the session is over"))
            await self._upstream.close(linger)

    # -- the handshakes --------------------------------------------------------------------------------------------

    async def run(self, hello: ClientHello) -> None:
        """Both handshakes in their order, then the relay, until one leg is over and the other one has been told."""
        log, rules, name = self._engine.log, self._rules, self._tunnel.id
        offer = rules.offer(hello, self._tunnel.properties.tls_alpns)
        if offer.alert is not None:
            log.info("quic refused tunnel=%s peer=%s reason=%r", name, self._client.peer, offer.reason)
            self._client.refuse(offer.alert, offer.reason)
            return
        try:
            if offer.answer is not None:
                self._answer(offer.answer)
                if rules.waits_for_client():
                    await self._client.completed()
            upstream = await self._connect(offer.upstream)
            if offer.answer is None:
                self._answer(upstream.alpn or "")
            await self._while_both(self._client.completed())
        except UpstreamUnavailable as problem:
            log.info("no upstream tunnel=%s kind=%s", name, problem.kind)
            await rules.pass_absence(self._client, Close(CONNECTION_REFUSED, "no connection to the upstream"))
            return
        except QuicClosed as problem:
            await self._failed(problem)
            return
        await Legs(self._engine, self._client, upstream).run()
        log.debug("session over tunnel=%s client=%s upstream=%s", name, self._client.end, upstream.end)

    def _answer(self, alpn: str) -> None:
        self._client.answer(Choice(self._engine.certificates.current(), (alpn,), early_data=self._rules.early_data()))

    async def _connect(self, alpns: tuple[str, ...]) -> QuicTransport:
        """The upstream's connection, its handshake complete. Raises UpstreamUnavailable, QuicClosed."""
        source = self._rules.told_source(self._client.peer)
        self._upstream = await self._while_client(UpstreamQuic.open(self._engine, self._tunnel, source, alpns))
        transport = self._upstream.transport
        try:
            async with asyncio.timeout(self._engine.settings.handshake_timeout_ms / 1000):
                await self._while_client(transport.completed())
        except TimeoutError:
            self._close(transport, Close(CONNECTION_REFUSED, "handshake timed out"))
            raise UpstreamUnavailable("timeout", "the upstream did not complete the handshake in time") from None
        return transport

    async def _while_client(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless the client is gone before it is there: nobody is kept busy for somebody who has
        left. Raises QuicClosed then."""
        return await _unless(work, self._client)

    async def _while_both(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless one of the legs is gone. Raises QuicClosed then."""
        return await _unless(work, self._client, *([self._upstream.transport] if self._upstream else []))

    async def _failed(self, problem: QuicClosed) -> None:
        """A leg was over before both handshakes were complete: the other one ends too (QUIC-008)."""
        upstream = self._upstream.transport if self._upstream is not None else None
        self._engine.log.info("no quic session tunnel=%s reason=%r", self._tunnel.id, problem.reason)
        if upstream is not None and upstream.end is not None:
            await self._rules.pass_absence(self._client, self._rules.refusal_for(upstream.end))
        elif upstream is not None and self._client.end is not None:
            self._close(upstream, self._rules.close_for(self._client.end))

    def _close(self, leg: QuicTransport, close: Close) -> None:
        if leg.end is None:
            leg.close(close.code, close.reason, application=close.application)
            leg.flush()


class Legs:
    """The relay between two connections that are both there."""

    def __init__(self, engine: Engine, client: QuicTransport, upstream: QuicTransport) -> None:
        self._engine = engine
        self._rules = engine.parts.quic
        self._legs = ((client, upstream), (upstream, client))
        self._moving: dict[QuicTransport, set[asyncio.Task[None]]] = {client: set(), upstream: set()}
        """What still moves octets that a leg has sent."""
        self._heard = {client: 0, upstream: 0}
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Relay until one leg is over and the other one has been told so."""
        ends = [asyncio.create_task(leg.closed()) for leg, _ in self._legs]
        for source, sink in self._legs:
            for unidirectional in (False, True):
                self._spawn(source, self._accept(source, sink, unidirectional))
            source.on_datagram(lambda source=source, sink=sink: self._datagrams(source, sink))  # type: ignore[misc]
            self._datagrams(source, sink)
        self._watch()
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for over, other in self._legs:
                if over.end is not None and other.end is None:
                    await self._hand_over(over, other)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for leg, _ in self._legs:
                leg.on_datagram(None)
            tasks = (*ends, *(task for moving in self._moving.values() for task in moving))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hand_over(self, over: QuicTransport, other: QuicTransport) -> None:
        """One leg is over: what it had said in front of its end is handed on, then the other leg ends alike."""
        end = over.end
        if end is None:
            return
        if not self._rules.ends_other(end):
            await other.closed()
        if self._rules.lets_finish(end):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_SECONDS):
                    # Each stream of a leg that is over is read to the end of what has come, and no further.
                    while moving := self._moving[over]:
                        await asyncio.wait(set(moving))
                    await other.drained()
        if other.end is None:
            close = self._rules.close_for(end)
            other.close(close.code, close.reason, application=close.application)
            other.flush()

    # -- streams ---------------------------------------------------------------------------------------------------

    async def _accept(self, source: QuicTransport, sink: QuicTransport, unidirectional: bool) -> None:
        """Open a far end for each stream of a kind, in order: it gets the same number. Where the other leg allows no
        further one yet, the streams of this kind wait, and nothing else does (RFC 9000 section 4.6)."""
        with contextlib.suppress(QuicClosed):
            while True:
                stream = await source.accept_stream(unidirectional=unidirectional)
                far = await sink.open_stream(unidirectional=self._rules.unidirectional(stream))
                self._spawn(source, self._copy(stream, far))
                if stream.writable and far.readable:
                    self._spawn(sink, self._copy(far, stream))

    def _spawn(self, leg: QuicTransport, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._moving[leg].add(task)
        task.add_done_callback(lambda done: self._moved(leg, done))

    def _moved(self, leg: QuicTransport, task: asyncio.Task[None]) -> None:
        self._moving[leg].discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            self._engine.log.error("quic stream failed problem=%r", problem, exc_info=problem)

    async def _copy(self, source: QuicStream, sink: QuicStream) -> None:
        """One direction of a stream: octets, then its end as what it is. A reset of the source and a stop of the sink
        do not wait for anybody who is about to read or write."""
        rules = self._rules
        source.on_reset(lambda reset: rules.pass_reset(sink, reset.code))
        sink.on_stop(lambda stop: rules.pass_stop(source, stop.code))
        try:
            while data := await source.read():
                await rules.pass_data(sink, data)
            if sink.stopped is None:
                await rules.pass_end(sink)
        except (QuicReset, QuicStopped):
            pass  # The callbacks have handed it on.
        except StreamReset as problem:
            self._engine.log.debug("quic stream over stream=%d reason=%r", source.id, problem.reason)

    # -- datagrams -------------------------------------------------------------------------------------------------

    def _datagrams(self, source: QuicTransport, sink: QuicTransport) -> None:
        with contextlib.suppress(QuicClosed):
            while (data := source.receive_datagram_now()) is not None:
                self._rules.pass_datagram(sink, data)

    # -- life ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Ping a leg that may be idle while the other one is not."""
        for leg, other in self._legs:
            said = leg.connection.eliciting
            if said != self._heard[leg] and self._rules.keeps_alive():
                other.ping()
            self._heard[leg] = said
        pause = min(leg.connection.idle_timeout for leg, _ in self._legs) / ALIVE_CHECKS
        self._timer = asyncio.get_running_loop().call_later(pause, self._watch)


async def _unless(work: Coroutine[Any, Any, T], *legs: QuicTransport) -> T:
    task = asyncio.create_task(work)
    ends = [asyncio.create_task(leg.closed()) for leg in legs]
    try:
        await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise QuicClosed(next(leg.end for leg in legs if leg.end is not None))
    finally:
        for one in (task, *ends):
            one.cancel()
        await asyncio.gather(task, *ends, return_exceptions=True)
