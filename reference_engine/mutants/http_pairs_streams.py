"""Exchanges in motion between versions, broken: streams that hold each other back, ends that are told wrong."""

from __future__ import annotations

import asyncio
from typing import Any

from aioquic.h3.connection import ErrorCode
from h2 import events as h2events
from h2.errors import ErrorCodes

from reference_engine.http.errors import ProtocolFault
from reference_engine.http.events import End, Reset
from reference_engine.http.exchange import Exchange
from reference_engine.http.forward import Target
from reference_engine.http.h2_client import H2ClientConnection
from reference_engine.http.h2_link import H2Half
from reference_engine.http.h2_server import H2ServerConnection
from reference_engine.http.h3_client import H3Upstream
from reference_engine.http.h3_server import H3ServerConnection
from reference_engine.http.leg import Upstream
from reference_engine.mutants._http import use_exchange
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts


def use_h2_server(parts: Parts, broken: type[H2ServerConnection]) -> None:
    """Serve every HTTP/2 connection of a client by `broken`."""

    def made(_: Any, *given: Any) -> H2ServerConnection:
        return broken(*given)

    swap(parts.http_endpoints, "h2_server", made)


def use_h2_client(parts: Parts, broken: type[H2ClientConnection]) -> None:
    """Speak HTTP/2 with upstreams through `broken`."""

    def made(_: Any, *given: Any) -> H2ClientConnection:
        return broken(*given)

    swap(parts.http_endpoints, "h2_client", made)


# Streams: HTTP-STREAM-003, -004, HTTP-VER-013


@mutant("pair-half-duplex", ("HTTP-STREAM-003",), "begins a response only when the request is there as a whole")
def _half_duplex(parts: Parts, reached: Reached) -> None:
    class Patient(Exchange):
        """Listens first, then speaks."""

        async def _relay_response(self, up: Upstream, target: Target) -> Reset | None:
            if self._pump is not None and not self._pump.done():
                reached()
                await self._pump
            return await super()._relay_response(up, target)

    use_exchange(parts, Patient)


@mutant("pair-one-stalls-all", ("RFC9113-5.2.1-2", "HTTP-STREAM-004"), "lets a stream whose window is closed hold all")
def _one_stalls_all(parts: Parts, reached: Reached) -> None:
    class Queueing(H2ServerConnection):
        """Sends the responses in the order in which they came."""

        def may_write(self, half: H2Half[Any]) -> bool:
            stuck = [other for other in self.halves.values() if other is not half and other._opened is not None]
            if stuck:
                reached()
                return False
            return super().may_write(half)

        def next_turn(self) -> None:
            if not any(half._opened is not None for half in self.halves.values()):
                super().next_turn()

    use_h2_server(parts, Queueing)


@mutant("pair-one-after-the-other", ("HTTP-VER-013",), "serves the requests of a connection one after the other")
def _one_after_the_other(parts: Parts, reached: Reached) -> None:
    class Single(H2ServerConnection):
        """Answers what came first, first."""

        async def _until_over(self, down: Any, served: Any) -> None:
            before = [half.task for half in self.halves.values() if half.id < down.id and half.task is not None]
            for task in before:
                reached()
                await task
            await super()._until_over(down, served)

    use_h2_server(parts, Single)


# Early responses: RFC9113-8.1-4


@mutant(
    "pair-early-response-lost",
    ("RFC9113-8.1-4", "HTTP-STREAM-007"),
    "drops a whole response behind which the upstream says that it reads no more",
)
def _early_response_lost(parts: Parts, reached: Reached) -> None:
    class Rash(H2ClientConnection):
        """Takes every reset of a stream for a failure."""

        def on_reset(self, event: h2events.StreamReset) -> None:
            half = self.halves.get(event.stream_id)
            if half is None or not half.finished:
                super().on_reset(event)
                return
            reached()
            half.events.clear()
            half.lose("the upstream reset the stream", Reset("upstream-truncated"))

    use_h2_client(parts, Rash)


# What is called unprocessed: RFC9113-8.7-1, RFC9114-4.1.1-2


@mutant(
    "pair-claims-unprocessed",
    ("RFC9113-8.7-1", "RFC9114-4.1.1-2"),
    "tells a client that nothing was done where an upstream failed",
)
def _claims_unprocessed(parts: Parts, reached: Reached) -> None:
    class Denying(Exchange):
        """Resets instead of an answer."""

        async def _fail(self, trouble: Reset) -> None:
            if self._head.version in (b"1.0", b"1.1"):
                await super()._fail(trouble)
                return
            reached()
            await self._down.truncate(trouble.reason)

    class Refusing(H2ServerConnection):
        """Knows one code."""

        def reset(self, half: H2Half[Any], code: ErrorCodes, *, fault: bool = False) -> None:
            super().reset(half, ErrorCodes.REFUSED_STREAM if code == ErrorCodes.INTERNAL_ERROR else code, fault=fault)

    def rejected(original: Any) -> int:
        del original
        return parts.http.rejected_code()

    use_exchange(parts, Denying)
    use_h2_server(parts, Refusing)
    swap(parts.http, "truncated_code", rejected)


# Ends of connections: RFC9113-6.8-3, -6.8-4, RFC9114-5.2-3


@mutant("pair-idle-untold", ("RFC9113-6.8-3", "HTTP-ERR-009"), "closes an idle connection of HTTP/2 without GOAWAY")
def _idle_untold(parts: Parts, reached: Reached) -> None:
    class Silent(H2ServerConnection):
        """Says no goodbye."""

        def _idle(self) -> None:
            if not self.halves:
                reached()
                self.finish()

    use_h2_server(parts, Silent)


@mutant("pair-drain-cuts", ("RFC9113-6.8-4",), "ends connections of HTTP/2 at once when the engine stops")
def _drain_cuts(parts: Parts, reached: Reached) -> None:
    class Cutting(H2ServerConnection):
        """Waits for nobody."""

        def drain(self) -> None:
            if self.halves:
                reached()
            self.abort("the engine stops")

    use_h2_server(parts, Cutting)


@mutant("pair-drain-cuts-h3", ("RFC9114-5.2-3",), "ends connections of HTTP/3 at once when the engine stops")
def _drain_cuts_h3(parts: Parts, reached: Reached) -> None:
    class Cutting(H3ServerConnection):
        """Waits for nobody."""

        def drain(self) -> None:
            if self.streams:
                reached()
            self.end_with(ErrorCode.H3_NO_ERROR, "the engine stops")

    def made(_: Any, *given: Any) -> H3ServerConnection:
        return Cutting(*given)

    swap(parts.http_endpoints, "h3_connection", made)


# h3 upstreams: RFC9114-4.1-9, HTTP-ERR-012


@mutant(
    "pair-early-response-lost-h3",
    ("RFC9114-4.1-9",),
    "drops a whole response of an h3 upstream that says that it reads no more",
)
def _early_response_lost_h3(parts: Parts, reached: Reached) -> None:
    class Rash(Exchange):
        """Waits a little for the worst, and takes STOP_SENDING for it."""

        async def _relay_response(self, up: Upstream, target: Target) -> Reset | None:
            put = self._down.put

            def held(event: Any) -> None:
                if not isinstance(event, End) or self._pump is None or self._pump.done():
                    put(event)

            if isinstance(up, H3Upstream):
                self._down.put = held  # type: ignore[method-assign]
            try:
                return await super()._relay_response(up, target)
            finally:
                self._down.put = put  # type: ignore[method-assign]

        async def _finish(self, up: Upstream) -> None:
            if isinstance(up, H3Upstream) and self._pump is not None and not self._pump.done():
                for _ in range(20):
                    if up.closing:
                        reached()
                        await self._down.truncate("the upstream reads no more")
                        return
                    await asyncio.sleep(0.02)
            await super()._finish(up)

    use_exchange(parts, Rash)


@mutant("pair-h3-failure-hangs", ("HTTP-ERR-012",), "waits for ever for an h3 upstream that cannot be reached")
def _h3_failure_hangs(parts: Parts, reached: Reached) -> None:
    class Hopeful(Exchange):
        """Does not give up."""

        async def _open(self, target: Target, *, reuse: bool) -> Upstream:
            try:
                return await super()._open(target, reuse=reuse)
            except ProtocolFault:
                if self._tunnel.properties.http_version != "h3":
                    raise
                reached()
                await asyncio.Event().wait()
                raise

    use_exchange(parts, Hopeful)
