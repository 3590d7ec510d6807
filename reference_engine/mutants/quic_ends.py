"""Mutants of how the legs of a QUIC tunnel end, and doubles of connections that end for reasons of their own."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from aioquic import tls
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.packet import QuicFrameType

from reference_engine.mutants._quic import Flawed, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import QuicEnd
from reference_engine.quic.stream import QuicStream


@mutant("quic-close-not-relayed", ("RFC9000-10.2-1", "QUIC-014"), "leaves the other leg open behind a close")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, end: QuicEnd) -> bool:
        if end.by != "peer" or not end.application:
            return bool(original(end))
        reached()
        return False

    swap(parts.quic, "ends_other", broken)


@mutant("quic-close-as-fin", ("RFC9000-10.2-1", "QUIC-014"), "ends the streams of the other leg cleanly first")
def _(parts: Parts, reached: Reached) -> None:
    sinks: WeakSet[QuicStream] = WeakSet()

    async def data_passed(original: Any, sink: QuicStream, data: bytes) -> None:
        sinks.add(sink)
        await original(sink, data)

    def broken(original: Any, end: QuicEnd) -> bool:
        for sink in sinks:
            if sink.transport.end is None and sink.broken is None:
                reached()
                sink.transport.send(sink, b"", fin=True)
                sink.transport.flush()
        return bool(original(end))

    swap(parts.quic, "pass_data", data_passed)
    swap(parts.quic, "ends_other", broken)


@mutant("quic-idle-keeps-other", ("RFC9000-10.1-1",), "leaves the other leg open behind an idle timeout")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, end: QuicEnd) -> bool:
        if end.by != "idle":
            return bool(original(end))
        reached()
        return False

    swap(parts.quic, "ends_other", broken)


@quic_double(
    "quic-idle-own-value", ("RFC9000-10.1-1",), "keeps to its own idle timeout, whatever the peer's is", side="both"
)
class _OwnIdle(Flawed):
    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        if self._remote_max_idle_timeout is not None:
            self.reached()
            self._remote_max_idle_timeout = None


@quic_double(
    "quic-early-close-says-why",
    ("RFC9000-10.2.3-1",),
    "closes with the application's frame and reason in the handshake, too",
)
class _SaysWhy(Flawed):
    def _write_connection_close_frame(
        self, builder: Any, epoch: tls.Epoch, error_code: int, frame_type: int | None, reason_phrase: str
    ) -> None:
        if epoch is tls.Epoch.ONE_RTT:
            super()._write_connection_close_frame(builder, epoch, error_code, frame_type, reason_phrase)
            return
        self.reached()
        why = b"why not"
        buf = builder.start_frame(QuicFrameType.APPLICATION_CLOSE, capacity=32)
        buf.push_uint_var(error_code)
        buf.push_uint_var(len(why))
        buf.push_bytes(why)


@quic_double("quic-drains-aloud", ("RFC9000-10.2.2-1",), "says three more packets behind the peer's close")
class _Aloud(Flawed):
    _told = False

    def datagrams_to_send(self, now: float) -> Any:
        """As the engine's, and more."""
        if self._state is not QuicConnectionState.DRAINING or self._told:
            return super().datagrams_to_send(now)
        self._told = True
        self.reached()
        return [(bytes((0x41,)) * 40, self.get_peer_address())] * 3
