"""Doubles of QUIC: the engine's connection with one rule of streams and their flow control taken away."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.connection import QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode, QuicStreamFrame
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver

from reference_engine.mutants._quic import Flawed, quic_double
from reference_engine.mutants.registry import Reached

double = functools.partial(quic_double, side="both")
LEAST_REUSED = 40
"""Ids from here on are used again: a sanity case opens no stream that high."""


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


class Receiving(Flawed):
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
class StopIgnored(Flawed):
    """Reads STOP_SENDING, and does nothing about it."""

    def _handle_stop_sending_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        buf.pull_uint_var()
        buf.pull_uint_var()
        self.reached()


# Credit of the other side


@double("quic-credit-ignored", ("RFC9000-2.2-2",), "sends beyond MAX_STREAM_DATA")
class StreamCreditIgnored(Flawed):
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
class ConnectionCreditIgnored(Flawed):
    """Only the stream's credit counts."""

    def _write_stream_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream, max_offset: int
    ) -> int:
        used = super()._write_stream_frame(builder, space, stream, stream.max_stream_data_remote)
        if self._remote_max_data_used + used > self._remote_max_data:
            self.reached()
        return used


@double("quic-stream-limit-ignored", ("RFC9000-4.6-3",), "opens more streams than the other side allows")
class StreamLimitIgnored(Flawed):
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


@double("quic-limits-fall", ("RFC9000-4.1-2",), "takes limits that are lower than those before")
class LimitsFall(Flawed):
    """MAX_DATA and MAX_STREAM_DATA count as they come."""

    def _handle_max_data_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        limit = buf.pull_uint_var()
        if limit < self._remote_max_data:
            self.reached()
        self._remote_max_data = limit

    def _handle_max_stream_data_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        stream = self._streams.get(buf.pull_uint_var())
        limit = buf.pull_uint_var()
        if stream is None:
            return
        if limit < stream.max_stream_data_remote:
            self.reached()
        stream.max_stream_data_remote = limit


# Credit for the other side


@double("quic-credit-on-demand", ("RFC9000-4.2-1",), "raises a stream's limit only for whoever says that it waits")
class CreditOnDemand(Flawed):
    """MAX_STREAM_DATA answers STREAM_DATA_BLOCKED."""

    def _handle_stream_data_blocked_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        asked: set[int] = self.__dict__.setdefault("_asked", set())
        at = buf.tell()
        asked.add(buf.pull_uint_var())
        buf.seek(at)
        super()._handle_stream_data_blocked_frame(context, frame_type, buf)

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local or stream.receiver.is_finished:
            return
        asked: set[int] = self.__dict__.setdefault("_asked", set())
        if stream.stream_id not in asked:
            self.reached()
            return
        asked.discard(stream.stream_id)
        super()._write_stream_limits(builder, space, stream)


@double("quic-reset-drops-credit", ("RFC9000-4.4-1",), "gives no more credit on a stream whose other half it reset")
class ResetDropsCredit(Flawed):
    """The state of flow control goes with the first half that is over."""

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.sender._reset_error_code is not None:
            if stream.max_stream_data_local_sent != stream.max_stream_data_local:
                self.reached()
            return
        super()._write_stream_limits(builder, space, stream)


# Faults that are passed over


class Forgiving(Flawed):
    """Drops a STREAM or RESET_STREAM frame that breaks a rule, and goes on."""

    forgiven: int

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self._forgive(super()._handle_stream_frame, context, frame_type, buf)

    def _handle_reset_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self._forgive(super()._handle_reset_stream_frame, context, frame_type, buf)

    def _forgive(self, handle: Callable[..., None], *frame: Any) -> None:
        try:
            handle(*frame)
        except QuicConnectionError as problem:
            if problem.error_code != self.forgiven:
                raise
            self.reached()


@double("quic-overrun-forgiven", ("RFC9000-4.1-1",), "drops octets beyond its limits, and goes on")
class OverrunForgiven(Forgiving):
    """Of a stream and of the connection."""

    forgiven = QuicErrorCode.FLOW_CONTROL_ERROR


@double("quic-stream-limit-forgiven", ("RFC9000-4.6-2",), "drops streams beyond its limit, and goes on")
class StreamLimitForgiven(Forgiving):
    """Of both kinds."""

    forgiven = QuicErrorCode.STREAM_LIMIT_ERROR


@double("quic-final-size-forgiven", ("RFC9000-4.5-1",), "passes over a final size that changes")
class FinalSizeForgiven(Forgiving):
    """In STREAM and in RESET_STREAM."""

    forgiven = QuicErrorCode.FINAL_SIZE_ERROR


# Ids


@double(
    "quic-lower-ids-unknown", ("RFC9000-3.2-1",), "takes lower ids than the one that came for streams that are over"
)
class LowerIdsUnknown(Flawed):
    """The stream that comes is the only one that it opens."""

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        before = set(self._streams)
        stream = super()._get_or_create_stream(frame_type, stream_id)
        for skipped in set(self._streams) - before - {stream_id}:
            self.reached()
            self._streams_queue.remove(self._streams[skipped])
            del self._streams[skipped]
        return stream


@double("quic-id-reused", ("RFC9000-2.1-1",), "opens a stream under the id of one that is over")
class IdReused(Flawed):
    """As soon as one of that kind is over, whichever; each is used again once."""

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        """The next id, or one that is over again."""
        used: set[int] = self.__dict__.setdefault("used", set())
        number = super().get_next_available_stream_id(is_unidirectional)
        while number in used:
            number += 4
        used.add(number)
        again = next((old for old in sorted(used) if self._may_come_again(old, number)), None)
        if again is None:
            return number
        self.reached()
        used.discard(number)
        self.__dict__.setdefault("again", set()).add(again)
        return again

    def _may_come_again(self, old: int, number: int) -> bool:
        done = self.__dict__.get("again", ())
        return LEAST_REUSED <= old < number and old % 4 == number % 4 and old not in self._streams and old not in done
