"""HTTP/2 on h2, without I/O: everything of ours that reaches into h2 stands here, and tests pin it to h2 4.4.1.

h2 keeps frames, HPACK, states and windows. What it takes differently than RFC 9113 or than we want:

* A malformed message is an error of its stream, not of the connection (section 8.1.1); messages are judged by
  `messages.MessageRules`, Content-Length included, so h2's own checks of fields are off.
* GOAWAY lets accepted streams finish, in both directions (section 6.8); h2 ends its state machine.
* A stream above the limit is refused alone, and its header block is decoded (sections 4.3 and 5.1.2).
* What comes on a stream that we have reset is discarded without another RST_STREAM, its octets counted (section 5.1).
* The first frame is SETTINGS (section 3.4); RST_STREAM on an idle stream is an error (section 6.4); priorities mean
  nothing (section 5.3.2); a frame that is too large is refused before it is kept (section 4.2).
* Windows follow what was used: `credit` gives back what the other leg took, the connection's own window is given back
  at once, so a stream that stalls holds nothing but its own window (section 5.2.1).
* Floods end the connection (`floods`).
"""

from __future__ import annotations

from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection, _decode_headers
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, PriorityUpdated, StreamReset
from h2.exceptions import DenialOfServiceError, ProtocolError, StreamClosedError, StreamIDTooLowError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamState
from hpack import NeverIndexedHeaderTuple
from hpack.struct import Header
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from reference_engine.http.events import Fields
from reference_engine.http.floods import BLOCK_FACTOR, DATA_EARNS, Allowance, FloodRules, H2Limits

H2 = "4.4.1"
"""The version that this module was written against."""
PRIVATE: dict[str, tuple[str, ...]] = {
    "connection": (
        *("_begin_new_stream", "_prepare_for_sending", "_data_to_send", "_inbound_flow_control_window_manager"),
        *("_receive_frame", "_receive_headers_frame", "_receive_data_frame", "_receive_rst_stream_frame"),
        *("_receive_settings_frame", "_receive_priority_frame", "_receive_goaway_frame", "_receive_naked_continuation"),
        *("_stream_closed_by", "_stream_id_is_outbound", "_frame_dispatch_table", "incoming_buffer"),
        *("state_machine", "streams"),
        *("_stream_is_closed_by_end", "_stream_is_closed_by_reset"),
        *("highest_inbound_stream_id", "highest_outbound_stream_id", "outbound_flow_control_window"),
        *("max_inbound_frame_size", "max_outbound_frame_size", "open_inbound_streams", "MAX_CLOSED_STREAMS"),
    ),
    "stream": (
        *("_initialize_content_length", "receive_headers", "acknowledge_received_data", "state_machine", "open"),
        *("closed", "outbound_flow_control_window"),
    ),
    "buffer": ("_data", "_headers_buffer", "_update_header_buffer", "_validate_frame_length", "max_frame_size"),
}
"""What it uses beyond h2's documented API."""
ENCODER_TABLE = 4_096
"""The most that our own HPACK table takes, however much the peer offers."""
CLOSED_STREAMS = 4_096
"""Ended streams that are remembered, for frames that were on their way."""
LAST_STREAM = 2**31 - 1
SECRET = frozenset({b"authorization", b"proxy-authorization"})
SHORT_COOKIE = 20
"""A cookie below this length could be guessed by what it compresses with (RFC 7541 section 7.1.3)."""
KNOWN_SETTINGS = frozenset(SettingCodes)
Frames = list[Frame]


def reset_frame(stream_id: int, code: ErrorCodes) -> RstStreamFrame:
    """RST_STREAM."""
    frame = RstStreamFrame(stream_id)
    frame.error_code = code
    return frame


class _FrameBuffer(FrameBuffer):
    """Refuses what is too large when its header is here, and header blocks that go on for too long."""

    rules: FloodRules
    limits: H2Limits

    def __next__(self) -> Frame:
        if len(self._data) >= 3:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()

    def _update_header_buffer(self, f: Frame | None) -> Frame | None:
        found = super()._update_header_buffer(f)
        if self._headers_buffer:
            octets = sum([len(frame.data) for frame in self._headers_buffer])
            if not self.rules.header_block(octets, len(self._headers_buffer) - 1, self.limits):
                raise DenialOfServiceError("a header block without end")
        return found

    @property
    def mid_block(self) -> bool:
        """Whether a header block has begun and not ended."""
        return bool(self._headers_buffer)


class _Stream(H2Stream):
    """Leaves Content-Length to the rules, and makes a malformed order of header blocks an error of the stream."""

    def _initialize_content_length(self, headers: Iterable[Header]) -> None:
        pass

    def receive_headers(
        self, headers: Iterable[Header], end_stream: bool, header_encoding: bool | str | None
    ) -> tuple[Frames, list[Event]]:
        try:
            return super().receive_headers(headers, end_stream, header_encoding)
        except StreamClosedError:
            raise
        except ProtocolError:
            return self.broken(ErrorCodes.PROTOCOL_ERROR)

    def broken(self, code: ErrorCodes) -> tuple[Frames, list[Event]]:
        """Closed with RST_STREAM, whatever its state was."""
        self.state_machine.state = StreamState.CLOSED
        self.state_machine.stream_closed_by = StreamClosedBy.SEND_RST_STREAM
        return [reset_frame(self.stream_id, code)], [
            StreamReset(stream_id=self.stream_id, error_code=code, remote_reset=False)
        ]


class H2Protocol(H2Connection):
    """One HTTP/2 connection. Octets in by `feed`, octets out by `data_to_send`; `client` is our own side."""

    MAX_CLOSED_STREAMS = CLOSED_STREAMS

    def __init__(self, rules: FloodRules, limits: H2Limits, *, client: bool) -> None:
        super().__init__(
            H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._rules = rules
        self._limits = limits
        self._allowances = {"reset": Allowance(limits.resets), "control": Allowance(limits.control)}
        self._now = 0.0
        self._greeted = False
        self._final: int | None = None
        self.failed: ErrorCodes | None = None
        """The code with which the connection was ended for an error of the peer."""
        self.incoming_buffer = self._frames = _FrameBuffer(server=not client)
        self._frames.rules, self._frames.limits = rules, limits
        self.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.window,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            },
        )
        self.decoder.max_header_list_size = limits.header_bytes * BLOCK_FACTOR

    def start(self) -> None:
        """Say the preface, and open the window of the connection to what all streams together may have."""
        self.initiate_connection()
        wanted = min(self._limits.window * self._limits.streams, LAST_STREAM)
        if wanted > self.inbound_flow_control_window:
            self.increment_flow_control_window(wanted - self.inbound_flow_control_window)

    # -- in -----------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes, now: float) -> list[Event]:
        """The events of octets of the peer, which came at `now` (seconds). After an error of the connection `failed` is
        set, GOAWAY is ready to be sent, and there is nothing more to feed."""
        events: list[Event] = []
        if self.failed is not None:
            return events
        self._now = now
        buffer = self._frames
        buffer.max_frame_size = self.max_inbound_frame_size
        try:
            buffer.add_data(data)
            for frame in buffer:
                self._expected(frame)
                if frame.stream_id and self._stream_closed_by(frame.stream_id) is StreamClosedBy.SEND_RST_STREAM:
                    self._discard(frame)
                else:
                    events += self._receive_frame(frame)
        except ProtocolError as problem:
            self.fail(ErrorCodes(problem.error_code))
        except HyperframeError:
            self.fail(ErrorCodes.PROTOCOL_ERROR)
        return events

    def _expected(self, frame: Frame) -> None:
        """What is wrong with a frame before it is looked into: the first one, one too many. Raises ProtocolError."""
        if not self._greeted:
            if not isinstance(frame, SettingsFrame) or "ACK" in frame.flags:
                raise ProtocolError("the first frame is not SETTINGS")
            self._greeted = True
        kind = self._rules.flood_kind(frame)
        if kind is not None and not (kind == "reset" and self.config.client_side):
            self._spend(kind)

    def _spend(self, kind: str) -> None:
        if not self._allowances[kind].spend(self._now):
            raise DenialOfServiceError(f"too much of kind {kind}")

    @property
    def greeted(self) -> bool:
        """Whether the settings of the peer are known."""
        return self._greeted

    @property
    def mid_block(self) -> bool:
        """Whether a header block has begun and not ended."""
        return self._frames.mid_block

    def _receive_frame(self, frame: Frame) -> list[Event]:
        """As h2's, which writes every frame out for its log first. A frame on a stream that a reset has closed is an
        error of that stream, on one that ended an error of the connection (section 5.1)."""
        frames: Frames
        events: list[Event]
        try:
            frames, events = self._frame_dispatch_table[frame.__class__](frame)
        except StreamClosedError as problem:
            if not self._stream_is_closed_by_reset(problem.stream_id):
                raise
            frames = [reset_frame(problem.stream_id, ErrorCodes.STREAM_CLOSED)]
            events = problem._events  # noqa: SLF001 - what h2 hands from its streams to its connection
        except StreamIDTooLowError as problem:
            if self._stream_is_closed_by_end(problem.stream_id):
                raise StreamClosedError(problem.stream_id) from None
            if not self._stream_is_closed_by_reset(problem.stream_id):
                raise
            frames, events = [reset_frame(problem.stream_id, ErrorCodes.STREAM_CLOSED)], []
        self._prepare_for_sending(frames)
        return events

    def _discard(self, frame: Frame) -> None:
        """A frame on a stream that we have reset: HPACK and the window of the connection go on (RFC9113-5.1-4,
        -4.3-3, -6.9-3)."""
        if isinstance(frame, DataFrame):
            self._inbound_flow_control_window_manager.window_consumed(frame.flow_controlled_length)
            self._credit_connection(frame.flow_controlled_length)
        elif isinstance(frame, HeadersFrame):
            _decode_headers(self.decoder, frame.data)
        elif isinstance(frame, PushPromiseFrame | ContinuationFrame):
            raise ProtocolError("a frame that may not come here")

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _Stream
        return stream

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[Frames, list[Event]]:
        fresh = not self.config.client_side and frame.stream_id > self.highest_inbound_stream_id
        if fresh and (self._final is not None or self._full()):
            _decode_headers(self.decoder, frame.data)
            self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
            stream = self._begin_new_stream(frame.stream_id, AllowedStreamIDs.ODD)
            assert isinstance(stream, _Stream)
            self._spend("reset")
            return stream.broken(ErrorCodes.REFUSED_STREAM)[0], []
        frames, events = super()._receive_headers_frame(frame)
        if frames:
            self._spend("reset")
        return frames, events

    def _full(self) -> bool:
        """Whether there is no room for another stream of the client. Counting is for when it might matter."""
        return len(self.streams) >= self._limits.streams and self._rules.above_streams(
            self.open_inbound_streams, self._limits
        )

    def _receive_data_frame(self, frame: DataFrame) -> tuple[Frames, list[Event]]:
        frames, events = super()._receive_data_frame(frame)
        if events and isinstance(events[0], DataReceived):
            self._credit_connection(frame.flow_controlled_length)
            padding = frame.flow_controlled_length - len(frame.data)
            if padding:
                self.credit(frame.stream_id, padding)
        return frames, events

    def _receive_rst_stream_frame(self, frame: RstStreamFrame) -> tuple[Frames, list[Event]]:
        highest = (
            self.highest_outbound_stream_id
            if self._stream_id_is_outbound(frame.stream_id)
            else self.highest_inbound_stream_id
        )
        if frame.stream_id > highest:
            raise ProtocolError("RST_STREAM on an idle stream")
        return super()._receive_rst_stream_frame(frame)

    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[Frames, list[Event]]:
        frame.settings = {code: value for code, value in frame.settings.items() if code in KNOWN_SETTINGS}
        table = frame.settings.get(SettingCodes.HEADER_TABLE_SIZE)
        if table is not None:
            frame.settings[SettingCodes.HEADER_TABLE_SIZE] = min(table, ENCODER_TABLE)
        return super()._receive_settings_frame(frame)

    def _receive_priority_frame(self, frame: HeadersFrame | PriorityFrame) -> tuple[Frames, list[Event]]:
        return [], [PriorityUpdated()]

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[Frames, list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = None
        return [], [event]

    def _receive_naked_continuation(self, frame: ContinuationFrame) -> None:
        raise ProtocolError("CONTINUATION without a header block")

    # -- windows ------------------------------------------------------------------------------------------------------

    def credit(self, stream_id: int, octets: int) -> None:
        """Octets of a stream were used: its window is given back at an opportune time (RFC9113-5.2.1-2)."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.open:
            self._prepare_for_sending(stream.acknowledge_received_data(octets))

    def _credit_connection(self, octets: int) -> None:
        increment = self._inbound_flow_control_window_manager.process_bytes(octets)
        if increment:
            frame = WindowUpdateFrame(0)
            frame.window_increment = increment
            self._prepare_for_sending([frame])

    def stream_window(self, stream_id: int) -> int:
        """What may be sent on a stream as far as its own window goes; 0 or less: nothing."""
        stream = self.streams.get(stream_id)
        return stream.outbound_flow_control_window if stream is not None else 0

    @property
    def connection_window(self) -> int:
        """What may be sent on all streams together."""
        return self.outbound_flow_control_window

    # -- out ----------------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Octets that wait to be sent."""
        return len(self._data_to_send)

    def send_content(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """One DATA frame; it fits the windows and the largest frame. Raises ProtocolError when the stream is over."""
        self.send_data(stream_id, data, end)
        self._allowances["control"].earn(DATA_EARNS)

    def send_fields(self, stream_id: int, lines: Fields, *, end: bool) -> None:
        """One header block, with what is secret kept out of the table (RFC7541-7.1.3-1). Raises ProtocolError when the
        stream is over."""
        self.send_headers(stream_id, [guarded(line) for line in lines], end)

    def reset(self, stream_id: int, code: ErrorCodes, *, fault: bool = False) -> None:
        """End a stream with RST_STREAM, unless it has ended. `fault`: for what the peer did on it, which counts."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            return
        self.reset_stream(stream_id, code)
        if fault and not self.config.client_side and not self._allowances["reset"].spend(self._now):
            self.fail(ErrorCodes.ENHANCE_YOUR_CALM)

    def fail(self, code: ErrorCodes) -> None:
        """The connection is over for an error of the peer: GOAWAY with its code (RFC9113-5.4.1-1)."""
        if self.failed is None:
            self.failed = code
            self._say_goaway(self.highest_inbound_stream_id if self._final is None else self._final, code)

    def announce_end(self) -> None:
        """The connection will end; streams that the peer opens meanwhile are still served (RFC9113-6.8-4)."""
        self._say_goaway(LAST_STREAM, ErrorCodes.NO_ERROR)

    def end(self) -> None:
        """No further stream of the peer; what is open may finish (RFC9113-6.8-3, -6.8-5)."""
        if self._final is None and self.failed is None:
            self._final = self.highest_inbound_stream_id
            self._say_goaway(self._final, ErrorCodes.NO_ERROR)

    def _say_goaway(self, last: int, code: ErrorCodes) -> None:
        self._prepare_for_sending([GoAwayFrame(0, last_stream_id=last, error_code=code)])


def guarded(line: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """The line, never to be indexed if it is secret (RFC 7541 section 7.1.3)."""
    name, value = line
    if name in SECRET or (name == b"cookie" and len(value) < SHORT_COOKIE):
        return NeverIndexedHeaderTuple(name, value)
    return line
