"""Mutants of the agent link over QUIC: what it changes where it must not, and datagram channels on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reference_engine.edge.rules import AGENT_ALPN
from reference_engine.mutants._quic import Flawed, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.rules import QuicRoute
from reference_engine.relay.stream import ByteStream
from reference_engine.tunnel.model import TunnelProperties
from reference_engine.tunnel.refusal import Refusal

NO_ID = b""


def _over_quic(parts: Parts) -> list[bool]:
    """Whether an agent has come over QUIC: not empty then."""
    seen: list[bool] = []

    def route(original: Any, *given: Any) -> QuicRoute:
        found: QuicRoute = original(*given)
        if found.agents:
            seen.append(True)
        return found

    swap(parts.quic, "route", route)
    return seen


# -- what the link must not change ----------------------------------------------------------------------------------


@mutant(
    "agent-quic-alpn-list-ignored",
    ("TRANS-002", "EDGE-006"),
    "passes over a tunnel's list of protocols where the agent came over QUIC",
)
def _(parts: Parts, reached: Reached) -> None:
    seen = _over_quic(parts)

    def broken(original: Any, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        if not seen:
            return original(offered, configured)  # type: ignore[no-any-return]
        reached()
        return offered[0]

    swap(parts.tls, "select_alpn", broken)


@mutant(
    "agent-quic-half-close-lost",
    ("EDGE-006", "TRANS-002"),
    "ends a stream as a whole at its first end where the agent came over QUIC",
)
def _(parts: Parts, reached: Reached) -> None:
    seen = _over_quic(parts)

    async def broken(original: Any, sink: ByteStream) -> None:
        await original(sink)
        if seen:
            reached()
            await sink.close()

    swap(parts.relay, "pass_end", broken)


@mutant("agent-quic-publishes-nothing", ("TRANS-001",), "publishes no tunnel of an agent that came over QUIC")
def _(parts: Parts, reached: Reached) -> None:
    seen = _over_quic(parts)

    def broken(original: Any, properties: TunnelProperties) -> Refusal | None:
        if not seen or properties.publish is False:
            return original(properties)  # type: ignore[no-any-return]
        reached()
        return Refusal(2000, "publish", "publish: not over QUIC")

    swap(parts.tunnel, "validate", broken)


# -- datagrams of the connection ------------------------------------------------------------------------------------


@mutant("agent-quic-short-datagram-taken", ("AGENT-100",), "takes a datagram without an id for one of any channel")
def _(parts: Parts, reached: Reached) -> None:
    def split(original: Any, payload: bytes) -> tuple[bytes, bytes]:
        return original(payload) or (NO_ID, payload)

    def meant(original: Any, identity: bytes, channels: Mapping[bytes, Any]) -> Any:
        if identity != NO_ID or not channels:
            return original(identity, channels)
        reached()
        return next(iter(channels.values()))

    swap(parts.datagrams, "split", split)
    swap(parts.datagrams, "meant", meant)


@mutant("agent-quic-unknown-id-ends", ("AGENT-100",), "ends the channels of an agent that names an unknown one")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, identity: bytes, channels: Mapping[bytes, Any]) -> Any:
        found = original(identity, channels)
        if found is None:
            for channel in tuple(channels.values()):
                reached()
                channel.ended("an unknown channel was named")
        return found

    swap(parts.datagrams, "meant", broken)


@quic_double("agent-quic-opens-streams", ("AGENT-100",), "opens a stream towards each agent")
class _OpensStreams(Flawed):
    _opened = False

    def datagrams_to_send(self, now: float) -> Any:
        """As the engine's, with a stream that nobody asked for."""
        ready = self.handshake_complete and self.alpn == AGENT_ALPN and self.may_open(unidirectional=True)
        if ready and not self._opened:
            self._opened = True
            self.reached()
            self.send_stream_data(self.get_next_available_stream_id(is_unidirectional=True), b"hello", True)
        return super().datagrams_to_send(now)


# -- flows ----------------------------------------------------------------------------------------------------------


@mutant("agent-quic-close-untold", ("AGENT-101",), "ends a flow without a word to the agent")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, **how: Any) -> bool:
        reached()
        return False

    swap(parts.datagrams, "tells_agent", broken)


@mutant("agent-quic-close-echoed", ("AGENT-101",), "tells the agent of an end that it has made itself")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, *, by_agent: bool, tunnel_open: bool) -> bool:
        if by_agent:
            reached()
        return bool(original(by_agent=False, tunnel_open=tunnel_open))

    swap(parts.datagrams, "tells_agent", broken)


@mutant("agent-quic-early-datagrams", ("AGENT-101",), "sends packets of a flow before the agent has answered")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any) -> bool:
        reached()
        return False

    swap(parts.datagrams, "waits_for_answer", broken)


@mutant("agent-quic-guarantee-ignored", ("AGENT-101", "TRANS-007"), "carries guaranteed packets in DATAGRAM frames")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: TunnelProperties) -> bool:
        if not original(properties):
            reached()
        return True

    swap(parts.datagrams, "direct", broken)
