"""All streams of a connection: their states, flow control and limits (RFC 9000 sections 2 to 4)."""

from __future__ import annotations

from collections.abc import Callable

from harness.wire.quic.codec import QuicUsageError
from harness.wire.quic.events import (
    Event,
    StopSendingReceived,
    StreamData,
    StreamDelivered,
    StreamOpened,
    StreamReset,
    StreamsAvailable,
    Violation,
)
from harness.wire.quic.frames import (
    DataBlocked,
    Frame,
    MaxData,
    MaxStreamData,
    MaxStreams,
    ResetStream,
    StopSending,
    Stream,
    StreamDataBlocked,
    StreamsBlocked,
)
from harness.wire.quic.numbers import ErrorCode
from harness.wire.quic.options import QuicOptions
from harness.wire.quic.parameters import Parameters
from harness.wire.quic.stream import ReceivePart, SendPart

UNIDIRECTIONAL = 0x2
_STATE = ErrorCode.STREAM_STATE_ERROR


class StreamLimitReached(QuicUsageError):  # noqa: N818 - it says what happened
    """The other side allows no more streams of that kind at the moment."""


class StreamState:
    """One stream: `send` or `receive` is None where the kind has no such half."""

    def __init__(self, stream_id: int, send: SendPart | None, receive: ReceivePart | None) -> None:
        self.id = stream_id
        self.send = send
        self.receive = receive
        self.send_limit = 0
        self.receive_limit = 0
        self.window = 0
        self.consumed = 0
        self.blocked_at = -1
        self.reset_code: int | None = None
        self.reset_acked = False
        self.stop_code: int | None = None
        self.reset_received = False
        self.end_given = False
        self.delivered_given = False

    @property
    def send_over(self) -> bool:
        """Whether our half needs nothing more."""
        return self.send is None or self.reset_acked or self.send.delivered

    @property
    def receive_over(self) -> bool:
        """Whether the other half needs nothing more."""
        return self.receive is None or self.reset_received or self.end_given


class StreamTable:
    """The streams. `queue` takes control frames for the next packets; `emit` takes events."""

    def __init__(
        self, options: QuicOptions, *, is_client: bool, queue: Callable[[Frame], None], emit: Callable[[Event], None]
    ) -> None:
        self._options = options
        self._ours = 0 if is_client else 1
        self._queue = queue
        self._emit = emit
        self.streams: dict[int, StreamState] = {}
        self._next = {0: self._ours, UNIDIRECTIONAL: self._ours | UNIDIRECTIONAL}
        self._seen_up_to = {0: 0, UNIDIRECTIONAL: 0}
        self._unseen: set[int] = set()
        """Streams of the other side that a higher one opened too, and that said nothing yet."""
        self._local_max_streams = {0: options.max_streams_bidi, UNIDIRECTIONAL: options.max_streams_uni}
        self._remote_max_streams = {0: 0, UNIDIRECTIONAL: 0}
        self.local_max_data = options.max_data
        self._data_window = options.max_data
        self._stream_windows = {"local": 0, "remote": 0, "uni": 0}
        self.remote_max_data = 0
        self.data_received = 0
        self.data_consumed = 0
        self.data_sent = 0
        self._data_blocked_at = -1
        self._remote = Parameters()
        self._due: dict[int, None] = {}
        """Streams with something to send, the next one first."""

    # Limits

    def use_local(self, parameters: Parameters) -> None:
        """What we announced is what we hold the other side to."""
        self.local_max_data = self._data_window = parameters.initial_max_data
        self._stream_windows = {
            "local": parameters.initial_max_stream_data_bidi_local,
            "remote": parameters.initial_max_stream_data_bidi_remote,
            "uni": parameters.initial_max_stream_data_uni,
        }
        self._local_max_streams = {
            0: parameters.initial_max_streams_bidi,
            UNIDIRECTIONAL: parameters.initial_max_streams_uni,
        }

    def use_remote(self, parameters: Parameters) -> None:
        """What the other side announced, or did at the time of the ticket for 0-RTT."""
        self._remote = parameters
        self.remote_max_data = max(self.remote_max_data, parameters.initial_max_data)
        for kind, limit in (
            (0, parameters.initial_max_streams_bidi),
            (UNIDIRECTIONAL, parameters.initial_max_streams_uni),
        ):
            self._remote_max_streams[kind] = max(self._remote_max_streams[kind], limit)
        for stream in self.streams.values():
            stream.send_limit = max(stream.send_limit, self._send_limit(stream.id))

    def _is_ours(self, stream_id: int) -> bool:
        return stream_id & 1 == self._ours

    def _send_limit(self, stream_id: int) -> int:
        if stream_id & UNIDIRECTIONAL:
            return self._remote.initial_max_stream_data_uni
        if self._is_ours(stream_id):
            return self._remote.initial_max_stream_data_bidi_remote
        return self._remote.initial_max_stream_data_bidi_local

    def _create(self, stream_id: int) -> StreamState:
        one_way = stream_id & UNIDIRECTIONAL
        ours = self._is_ours(stream_id)
        stream = StreamState(
            stream_id,
            SendPart() if ours or not one_way else None,
            ReceivePart() if not ours or not one_way else None,
        )
        stream.send_limit = self._send_limit(stream_id)
        kind = "uni" if one_way else "local" if ours else "remote"
        stream.receive_limit = stream.window = self._stream_windows[kind]
        self.streams[stream_id] = stream
        return stream

    # Our side

    def available(self, *, bidirectional: bool) -> int:
        """How many more streams of ours the other side allows."""
        kind = 0 if bidirectional else UNIDIRECTIONAL
        return self._remote_max_streams[kind] - self._next[kind] // 4

    def open(self, *, bidirectional: bool) -> int:
        """A new stream of ours. Raises `StreamLimitReached`."""
        kind = 0 if bidirectional else UNIDIRECTIONAL
        limit = self._remote_max_streams[kind]
        if self._next[kind] // 4 >= limit:
            if self._options.tell_blocked:
                self._queue(StreamsBlocked(limit, bidirectional))
            raise StreamLimitReached(
                f"the other side allows {limit} {'bi' if bidirectional else 'uni'}directional streams"
            )
        stream_id = self._next[kind]
        self._next[kind] += 4
        self._create(stream_id)
        return stream_id

    def _sending(self, stream_id: int) -> StreamState:
        stream = self.streams.get(stream_id)
        if stream is None or stream.send is None:
            raise QuicUsageError(f"stream {stream_id} is not one to send on; use say to break that rule")
        return stream

    def send(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        """Queue octets. Raises `QuicUsageError` behind our end."""
        stream = self._sending(stream_id)
        assert stream.send is not None
        if stream.reset_code is not None or stream.send.fin:
            raise QuicUsageError(f"stream {stream_id}: our half is over; use say to break that rule")
        stream.send.write(data, fin=fin)
        self._due[stream_id] = None

    def reset(self, stream_id: int, code: int) -> None:
        """End our half with RESET_STREAM; does nothing where all is acknowledged or reset already."""
        stream = self._sending(stream_id)
        assert stream.send is not None
        if stream.reset_code is not None or stream.send.delivered:
            return
        stream.reset_code = code
        stream.send.drop()
        self._due.pop(stream_id, None)
        self._queue(ResetStream(stream_id, code, stream.send.highest))

    def stop(self, stream_id: int, code: int) -> None:
        """Ask the other side to end its half. Raises `QuicUsageError` for a stream without one."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.receive is None:
            raise QuicUsageError(f"stream {stream_id} is not one to receive on; use say to break that rule")
        if stream.receive_over or stream.stop_code is not None:
            return
        stream.stop_code = code
        self._queue(StopSending(stream_id, code))

    def consume(self, stream_id: int, count: int) -> None:
        """The script has used `count` octets: the other side may send as many more."""
        self._consume_data(count)
        stream = self.streams.get(stream_id)
        if stream is None or stream.receive is None:
            return
        stream.consumed += count
        limit = stream.consumed + stream.window
        if stream.receive.final is None and limit - stream.receive_limit >= (stream.window + 1) // 2 > 0:
            stream.receive_limit = limit
            self._queue(MaxStreamData(stream_id, limit))

    def _consume_data(self, count: int) -> None:
        self.data_consumed += count
        limit = self.data_consumed + self._data_window
        if limit - self.local_max_data >= (self._data_window + 1) // 2 > 0:
            self.local_max_data = limit
            self._queue(MaxData(limit))

    # What goes out

    def _limit(self, stream: StreamState) -> int:
        assert stream.send is not None
        return min(stream.send_limit, stream.send.highest + self.remote_max_data - self.data_sent)

    def next_frame(self, room: int) -> Stream | None:
        """The next STREAM frame of at most `room` octets; streams take turns."""
        for stream_id in list(self._due):
            stream = self.streams[stream_id]
            assert stream.send is not None
            overhead = len(Stream(stream_id, stream.send.end, b"").encode()) + (1 if room < 1 << 14 else 3)
            if room <= overhead:
                return None
            before = stream.send.highest
            taken = stream.send.take(room - overhead, self._limit(stream))
            if taken is None:
                self._note_blocked(stream)
                continue
            self.data_sent += stream.send.highest - before
            del self._due[stream_id]
            if stream.send.due:
                self._due[stream_id] = None
            offset, data, fin = taken
            return Stream(stream_id, offset, data, fin)
        return None

    def _note_blocked(self, stream: StreamState) -> None:
        if stream.send is None or not stream.send.due:
            self._due.pop(stream.id, None)
        elif not self._options.tell_blocked:
            return
        elif stream.send.highest >= stream.send_limit:
            if stream.blocked_at != stream.send_limit:
                stream.blocked_at = stream.send_limit
                self._queue(StreamDataBlocked(stream.id, stream.send_limit))
        elif self._data_blocked_at != self.remote_max_data:
            self._data_blocked_at = self.remote_max_data
            self._queue(DataBlocked(self.remote_max_data))

    # What comes in

    def _known(self, stream_id: int, frame: Frame, *, receiving: bool) -> StreamState | None:
        """The stream of a received frame; None where it is over. Raises `Violation` (RFC 9000 sections 3 and 19)."""
        ours, one_way = self._is_ours(stream_id), bool(stream_id & UNIDIRECTIONAL)
        if one_way and ours == receiving:
            what = f"{frame.name} on stream {stream_id}, which has no such half"
            raise Violation(what, "RFC 9000 section 19.8", _STATE, frame.type)
        stream = self.streams.get(stream_id)
        if stream is not None:
            return stream
        kind = stream_id & UNIDIRECTIONAL
        if ours:
            if stream_id >= self._next[kind]:
                what = f"{frame.name} on stream {stream_id}, which we did not open"
                raise Violation(what, "RFC 9000 section 19.8", _STATE, frame.type)
            return None
        return self._accept(stream_id, kind, frame)

    def _accept(self, stream_id: int, kind: int, frame: Frame) -> StreamState | None:
        number = stream_id // 4
        if number >= self._local_max_streams[kind]:
            what = f"stream {stream_id} beyond the limit of {self._local_max_streams[kind]}"
            raise Violation(what, "RFC 9000 section 4.6", ErrorCode.STREAM_LIMIT_ERROR, frame.type)
        if number < self._seen_up_to[kind]:
            if stream_id not in self._unseen:
                return None
            self._unseen.discard(stream_id)
        else:
            # All lower ones are open as well (RFC 9000 section 2.1).
            low = stream_id & 3
            self._unseen.update(low + 4 * each for each in range(self._seen_up_to[kind], number))
            self._seen_up_to[kind] = number + 1
        stream = self._create(stream_id)
        self._emit(StreamOpened(stream_id))
        return stream

    def _account(self, stream: StreamState, end: int, frame: Frame) -> None:
        receive = stream.receive
        assert receive is not None
        section = "RFC 9000 section 4.1"
        if end > stream.receive_limit:
            what = f"stream {stream.id}: octet {end}, limit {stream.receive_limit}"
            raise Violation(what, section, ErrorCode.FLOW_CONTROL_ERROR, frame.type)
        more = max(0, end - receive.highest)
        if self.data_received + more > self.local_max_data:
            what = f"{self.data_received + more} octets on all streams, limit {self.local_max_data}"
            raise Violation(what, section, ErrorCode.FLOW_CONTROL_ERROR, frame.type)
        self.data_received += more

    def on_stream(self, frame: Stream, *, early: bool = False) -> None:
        """STREAM. Raises `Violation`."""
        stream = self._known(frame.stream_id, frame, receiving=True)
        if stream is None or stream.receive_over:
            return
        receive = stream.receive
        assert receive is not None
        end = frame.offset + len(frame.data)
        receive.check_final(end, fin=frame.fin, frame_type=frame.type)
        self._account(stream, end, frame)
        data = receive.add(frame.offset, frame.data, fin=frame.fin)
        fin = receive.whole
        if data or fin:
            self._emit(StreamData(stream.id, data, fin, early))
        stream.end_given = fin
        if data and self._options.automatic_credit:
            self.consume(stream.id, len(data))
        self._forget(stream)

    def on_reset(self, frame: ResetStream) -> None:
        """RESET_STREAM. Raises `Violation`."""
        stream = self._known(frame.stream_id, frame, receiving=True)
        if stream is None or stream.receive_over:
            return
        receive = stream.receive
        assert receive is not None
        receive.check_final(frame.final_size, fin=True, frame_type=frame.type)
        self._account(stream, frame.final_size, frame)
        stream.reset_received = True
        receive.final = receive.highest = frame.final_size
        receive.drop()
        self._consume_data(frame.final_size - receive.start)
        self._emit(StreamReset(stream.id, frame.code, frame.final_size))
        self._forget(stream)

    def on_stop(self, frame: StopSending) -> None:
        """STOP_SENDING, answered by RESET_STREAM (RFC 9000 section 3.5). Raises `Violation`."""
        stream = self._known(frame.stream_id, frame, receiving=False)
        if stream is None or stream.send_over:
            return
        self._emit(StopSendingReceived(stream.id, frame.code))
        if self._options.answer_stop_sending:
            self.reset(stream.id, frame.code)

    def on_max_stream_data(self, frame: MaxStreamData) -> None:
        """MAX_STREAM_DATA. Raises `Violation`."""
        stream = self._known(frame.stream_id, frame, receiving=False)
        if stream is not None:
            stream.send_limit = max(stream.send_limit, frame.limit)

    def on_stream_data_blocked(self, frame: StreamDataBlocked) -> None:
        """STREAM_DATA_BLOCKED. Raises `Violation`."""
        self._known(frame.stream_id, frame, receiving=True)

    def on_max_data(self, frame: MaxData) -> None:
        """MAX_DATA."""
        self.remote_max_data = max(self.remote_max_data, frame.limit)

    def on_max_streams(self, frame: MaxStreams) -> None:
        """MAX_STREAMS."""
        kind = 0 if frame.bidirectional else UNIDIRECTIONAL
        if frame.limit > self._remote_max_streams[kind]:
            self._remote_max_streams[kind] = frame.limit
            self._emit(StreamsAvailable(frame.bidirectional, frame.limit))

    # What became of our frames

    def on_acked(self, frame: Frame) -> None:
        """A frame of ours arrived."""
        if not isinstance(frame, Stream | ResetStream):
            return
        stream = self.streams.get(frame.stream_id)
        if stream is None or stream.send is None:
            return
        if isinstance(frame, ResetStream):
            stream.reset_acked = True
        else:
            stream.send.on_acked(frame.offset, len(frame.data), fin=frame.fin)
        if stream.send_over and not stream.delivered_given:
            stream.delivered_given = True
            self._emit(StreamDelivered(stream.id, stream.reset_acked))
        self._forget(stream)

    def on_lost(self, frame: Frame) -> None:
        """A frame of ours did not arrive, as far as we can tell: send it, or what stands for it now, again."""
        match frame:
            case Stream():
                stream = self.streams.get(frame.stream_id)
                if stream is not None and stream.send is not None and stream.reset_code is None:
                    stream.send.on_lost(frame.offset, len(frame.data), fin=frame.fin)
                    if stream.send.due:
                        self._due[frame.stream_id] = None
            case ResetStream() | StopSending():
                if frame.stream_id in self.streams:
                    self._queue(frame)
            case MaxStreamData():
                stream = self.streams.get(frame.stream_id)
                if stream is not None and stream.receive is not None and stream.receive.final is None:
                    self._queue(MaxStreamData(frame.stream_id, stream.receive_limit))
            case MaxData():
                self._queue(MaxData(self.local_max_data))
            case MaxStreams():
                kind = 0 if frame.bidirectional else UNIDIRECTIONAL
                self._queue(MaxStreams(self._local_max_streams[kind], frame.bidirectional))
            case _:
                pass

    def _forget(self, stream: StreamState) -> None:
        if not (stream.send_over and stream.receive_over) or stream.id not in self.streams:
            return
        del self.streams[stream.id]
        self._due.pop(stream.id, None)
        if not self._is_ours(stream.id) and self._options.streams_credit:
            kind = stream.id & UNIDIRECTIONAL
            self._local_max_streams[kind] += 1
            self._queue(MaxStreams(self._local_max_streams[kind], bidirectional=not kind))
