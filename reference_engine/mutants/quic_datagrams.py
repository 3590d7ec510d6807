"""Mutants of the DATAGRAM frames of QUIC tunnels, and doubles of the connections that carry them."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from aioquic import tls
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder

from reference_engine.mutants._quic import Flawed, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.stream import QuicStream
from reference_engine.quic.transport import QuicTransport

CUT = 512
FLOW_WINDOW = 1_000
"""Datagrams of a window that does not exist."""


# -- the relay ------------------------------------------------------------------------------------------------------


@mutant("quic-datagrams-merged", ("QUIC-012", "RFC9221-4-1", "RFC9221-5-1"), "relays two datagrams as one")
def _(parts: Parts, reached: Reached) -> None:
    waiting: WeakKeyDictionary[QuicTransport, bytes] = WeakKeyDictionary()

    def broken(original: Any, sink: QuicTransport, data: bytes) -> None:
        held = waiting.pop(sink, None)
        if held is None:
            waiting[sink] = data
            return
        reached()
        original(sink, held + data)

    swap(parts.quic, "pass_datagram", broken)


@mutant("quic-datagrams-cut", ("QUIC-012", "RFC9221-4-1"), f"cuts datagrams to {CUT} octets")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sink: QuicTransport, data: bytes) -> None:
        if len(data) > CUT:
            reached()
        original(sink, data[:CUT])

    swap(parts.quic, "pass_datagram", broken)


@mutant("quic-datagrams-cut-to-fit", ("RFC9221-3-2",), "cuts datagrams to what the other side takes")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sink: QuicTransport, data: bytes) -> None:
        if len(data) > sink.datagram_room >= 0:
            reached()
            data = data[: sink.datagram_room]
        original(sink, data)

    swap(parts.quic, "pass_datagram", broken)


@mutant("quic-datagrams-one-way", ("QUIC-012", "RFC9221-4-1"), "relays datagrams towards the upstream alone")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sink: QuicTransport, data: bytes) -> None:
        if sink.connection.configuration.is_client:
            original(sink, data)
        else:
            reached()

    swap(parts.quic, "pass_datagram", broken)


@mutant("quic-datagrams-doubled", ("RFC9221-5-1",), "relays every datagram twice")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, sink: QuicTransport, data: bytes) -> None:
        reached()
        original(sink, data)
        original(sink, data)

    swap(parts.quic, "pass_datagram", broken)


@mutant("quic-datagrams-crossed", ("RFC9221-5-1",), "relays every seventh datagram on another connection")
def _(parts: Parts, reached: Reached) -> None:
    sinks: dict[bool, list[QuicTransport]] = {True: [], False: []}
    passed = 0

    async def seen(original: Any, sink: QuicStream, data: bytes) -> None:
        known = sinks[sink.transport.connection.configuration.is_client]
        if sink.transport not in known:
            known.append(sink.transport)
        await original(sink, data)

    def broken(original: Any, sink: QuicTransport, data: bytes) -> None:
        nonlocal passed
        passed += 1
        others = [one for one in sinks[sink.connection.configuration.is_client] if one is not sink and one.end is None]
        if others and passed % 7 == 0:
            reached()
            sink = others[-1]
        original(sink, data)

    swap(parts.quic, "pass_data", seen)
    swap(parts.quic, "pass_datagram", broken)


@mutant(
    "quic-datagrams-block-streams",
    ("RFC9221-5.3-1", "RFC9000-4.1-3"),
    f"lets streams wait once {FLOW_WINDOW} datagrams were relayed, as if there were credit for them",
)
def _(parts: Parts, reached: Reached) -> None:
    spent: WeakKeyDictionary[QuicTransport, int] = WeakKeyDictionary()

    def datagram(original: Any, sink: QuicTransport, data: bytes) -> None:
        spent[sink] = spent.get(sink, 0) + 1
        if spent[sink] <= FLOW_WINDOW:
            original(sink, data)

    async def data_passed(original: Any, sink: QuicStream, data: bytes) -> None:
        if any(count > FLOW_WINDOW and sink in one.streams for one, count in spent.items()):
            reached()
            await sink.transport.closed()
        await original(sink, data)

    swap(parts.quic, "pass_datagram", datagram)
    swap(parts.quic, "pass_data", data_passed)


# -- the connections ------------------------------------------------------------------------------------------------


@quic_double("quic-datagrams-unasked", ("RFC9221-3-1",), "sends datagrams to whoever has announced none", side="both")
class _Unasked(Flawed):
    @property
    def datagram_room(self) -> int:
        """As if the peer took as much as we do."""
        if self._remote_max_datagram_frame_size is None:
            self.reached()
            self._remote_max_datagram_frame_size = 65_535
        return super().datagram_room


@quic_double(
    "quic-datagram-limit-ignored", ("RFC9221-3-2",), "sends datagrams of any size to whoever takes any", side="both"
)
class _LimitIgnored(Flawed):
    @property
    def datagram_room(self) -> int:
        """As if the peer took as much as we do."""
        announced = self._remote_max_datagram_frame_size
        if announced and announced < self._max_datagram_size:
            self.reached()
            self._remote_max_datagram_frame_size = 65_535
        return super().datagram_room


@quic_double(
    "quic-oversize-blocks",
    ("RFC9221-3-2",),
    "keeps a datagram that is too long, and everything behind it, for ever",
    side="both",
)
class _Blocked(Flawed):
    _stuck = False

    def queue_datagram(self, data: bytes) -> bool:
        """The queue of stock aioquic."""
        if self._stuck or len(data) > self.datagram_room:
            self.reached()
            self._stuck = True
            return False
        return super().queue_datagram(data)


@quic_double("quic-0x30-unknown", ("RFC9221-4-1",), "drops datagrams without a Length field", side="both")
class _OneForm(Flawed):
    def _handle_datagram_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        if frame_type == QuicFrameType.DATAGRAM:
            self.reached()
            buf.seek(buf.capacity)
            return
        super()._handle_datagram_frame(context, frame_type, buf)


@quic_double("quic-datagrams-resent", ("RFC9221-5.2-1",), "sends a datagram again whose packet was lost")
class _Resent(Flawed):
    def _write_datagram_frame(self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType) -> bool:
        written = super()._write_datagram_frame(builder, data, frame_type)
        if builder._packet is not None:
            builder._packet.delivery_handlers.append((self._delivered, [data]))
        return written

    def _delivered(self, delivery: QuicDeliveryState, data: bytes) -> None:
        if delivery is QuicDeliveryState.LOST:
            self.reached()
            self._datagrams_pending.append(data)


@quic_double("quic-datagrams-in-handshake", ("RFC9221-5-2",), "takes DATAGRAM frames in packets of every kind")
class _EveryKind(Flawed):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        handlers = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        for kind in (QuicFrameType.DATAGRAM, QuicFrameType.DATAGRAM_WITH_LENGTH):
            handlers[kind] = (self._handle_datagram_frame, frozenset(tls.Epoch))

    def _handle_datagram_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        if context.epoch is not tls.Epoch.ONE_RTT:
            self.reached()
        super()._handle_datagram_frame(context, frame_type, buf)


@quic_double(
    "quic-datagrams-short-announced", ("RFC9221-3-5",), "takes shorter datagrams than packets have", side="both"
)
class _Short(Flawed):
    def _serialize_transport_parameters(self) -> bytes:
        self.reached()
        self._configuration.max_datagram_frame_size = 1_000
        return super()._serialize_transport_parameters()
