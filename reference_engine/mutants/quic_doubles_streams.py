"""Doubles of QUIC: the engine's connection with one rule of streams and their flow control taken away."""

from __future__ import annotations

from typing import cast

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.connection import QuicReceiveContext
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver

from reference_engine.mutants._quic_doubles import FlawedQuic, double
from reference_engine.mutants.registry import Reached

# The receiving half


class FlawedReceiver(QuicStreamReceiver):
    """A receiving half of which a subclass turns `handle_frame`; made of a stock one by `Receiving`."""

    reached: Reached

    def event(self, data: bytes, *, fin: bool) -> events.StreamDataReceived | None:
        """What tells the application of these octets."""
        self.is_finished = self.is_finished or fin
        if not data and not fin:
            return None
        return events.StreamDataReceived(data=data, end_stream=fin, stream_id=self._stream_id or 0)


class Receiving(FlawedQuic):
    """A connection whose streams receive by `receiver`."""

    receiver: type[FlawedReceiver]

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        if not isinstance(stream.receiver, FlawedReceiver):
            stream.receiver.__class__ = self.receiver
            cast("FlawedReceiver", stream.receiver).reached = self.reached
        return stream


class AsTheyCome(FlawedReceiver):
    """Hands on each segment that is new, whatever is missing before it."""

    _taken = 0
    _end: int | None = None

    def handle_frame(self, frame: QuicStreamFrame) -> events.StreamDataReceived | None:
        """As stock, without the order."""
        stop = frame.offset + len(frame.data)
        self.highest_offset = max(self.highest_offset, stop)
        if frame.fin:
            self._end = stop
        known = any(one.start <= frame.offset and stop <= one.stop for one in self._ranges)
        if self.is_finished or (known and not frame.fin):
            return None
        if stop > frame.offset:
            self._ranges.add(frame.offset, stop)
        if frame.offset != self._taken:
            self.reached()
        data = b"" if known else frame.data
        self._taken += len(data)
        return self.event(data, fin=self._end is not None and self._taken >= self._end)


@double("quic-segments-as-they-come", ("RFC9000-2.2-1",), "hands on segments in the order in which they come")
class SegmentsAsTheyCome(Receiving):
    """Of streams in either direction."""

    receiver = AsTheyCome


class Twice(FlawedReceiver):
    """Hands on the whole of a segment whose beginning was handed on before."""

    def handle_frame(self, frame: QuicStreamFrame) -> events.StreamDataReceived | None:
        """As stock, with an overlap once more."""
        start, stop = frame.offset, frame.offset + len(frame.data)
        before = self._buffer_start
        octets = frame.data
        event = super().handle_frame(frame)
        if start < before < stop and event is not None:
            self.reached()
            event.data = octets[: before - start] + event.data
        return event


@double("quic-overlap-twice", ("RFC9000-2.2-1",), "hands on an overlap twice")
class OverlapTwice(Receiving):
    """Of streams in either direction."""

    receiver = Twice


# Asked to stop


@double("quic-stop-ignored", ("RFC9000-3.5-1", "RFC9000-3.5-2", "QUIC-013"), "goes on sending when asked to stop")
class StopIgnored(FlawedQuic):
    """Reads STOP_SENDING, and does nothing about it."""

    def _handle_stop_sending_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        buf.pull_uint_var()
        buf.pull_uint_var()
        self.reached()


# Credit of the other side


@double("quic-credit-ignored", ("RFC9000-2.2-2",), "sends beyond MAX_STREAM_DATA")
class StreamCreditIgnored(FlawedQuic):
    """Only the connection's credit counts."""

    def _write_stream_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream, max_offset: int
    ) -> int:
        credit = self._remote_max_data - self._remote_max_data_used
        more = stream.sender.highest_offset + credit
        used = super()._write_stream_frame(builder, space, stream, more)
        if stream.sender.highest_offset > stream.max_stream_data_remote:
            self.reached()
        return used


@double("quic-credit-ignored-conn", ("RFC9000-2.2-2",), "sends beyond MAX_DATA")
class ConnectionCreditIgnored(FlawedQuic):
    """Only the stream's credit counts."""

    def _write_stream_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream, max_offset: int
    ) -> int:
        used = super()._write_stream_frame(builder, space, stream, stream.max_stream_data_remote)
        if self._remote_max_data_used + used > self._remote_max_data:
            self.reached()
        return used


@double("quic-stream-limit-ignored", ("RFC9000-4.6-3",), "opens more streams than the other side allows")
class StreamLimitIgnored(FlawedQuic):
    """MAX_STREAMS does not matter."""

    def may_open(self, *, unidirectional: bool) -> bool:
        """Always."""
        if not super().may_open(unidirectional=unidirectional):
            self.reached()
        return True

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream_for_send(stream_id)
        if stream.is_blocked:
            stream.is_blocked = False
            self._streams_blocked_bidi = [one for one in self._streams_blocked_bidi if one is not stream]
            self._streams_blocked_uni = [one for one in self._streams_blocked_uni if one is not stream]
        return stream
