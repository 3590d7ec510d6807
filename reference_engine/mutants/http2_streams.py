"""Doubles and mutants of HTTP/2 in streams, windows, GOAWAY and compression (RFC 9113 sections 5 and 6, RFC 7541)."""

from __future__ import annotations

from typing import Any

import hpack
from h2 import frame_buffer
from h2.errors import ErrorCodes
from h2.events import Event, StreamReset
from h2.exceptions import FlowControlError, ProtocolError
from h2.settings import SettingCodes
from hpack.exceptions import HPACKDecodingError
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields
from reference_engine.http.floods import FloodRules, H2Limits
from reference_engine.http.h2_client import H2ClientConnection
from reference_engine.http.h2_connection import Frames
from reference_engine.http.h2_server import H2Downstream, H2ServerConnection
from reference_engine.mutants._http2 import (
    Filtered,
    Flawed,
    RawFrame,
    h2_double,
    use_client,
    use_server,
)
from reference_engine.mutants._http2 import Frames as Cut
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

LARGE_BLOCK = 65_536
ROOM = 65_536
MANY = 10_000


# Streams: RFC 9113 sections 5.1, 5.1.1, 5.1.2 and 8.7


@h2_double("http2-closed-code", ("RFC9113-5.1-2", "RFC9113-6.1-2"), "resets what comes behind an end with CANCEL")
class _ClosedCode(Flawed):
    def _receive_frame(self, frame: Frame) -> list[Event]:
        known = frame.stream_id and frame.stream_id <= self.highest_inbound_stream_id
        try:
            return super()._receive_frame(frame)
        except ProtocolError:
            if not known or not isinstance(frame, DataFrame | HeadersFrame):
                raise
            self._prepare_for_sending([RstStreamFrame(frame.stream_id, error_code=ErrorCodes.CANCEL)])
            self.reached()
            return []

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, RstStreamFrame) and frame.error_code == ErrorCodes.STREAM_CLOSED:
                self.reached()
                frame.error_code = ErrorCodes.CANCEL
        super()._prepare_for_sending(frames)


@h2_double(
    "http2-late-content-taken", ("RFC9113-5.1-2", "RFC9113-6.1-2"), "adds late content to a response", side="client"
)
class _LateContent(Filtered):
    def __init__(self, rules: FloodRules, limits: H2Limits, *, client: bool) -> None:
        super().__init__(rules, limits, client=client)
        self._ended: set[int] = set()

    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if frame.kind != 0:
            return [frame]
        if frame.stream in self._ended:
            self.reached()
            return [frame._replace(flags=1)]
        if frame.flags & 1:
            self._ended.add(frame.stream)
        return [frame._replace(flags=frame.flags & ~1)]


@h2_double("http2-discarded-undecoded", ("RFC9113-4.3-3", "RFC9113-5.1-4"), "does not decode what it discards")
class _Undecoded(Flawed):
    def _discard(self, frame: Frame) -> None:
        if isinstance(frame, HeadersFrame):
            self.reached()
            return
        super()._discard(frame)


@h2_double("http2-discarded-uncredited", ("RFC9113-6.9-3", "RFC9113-5.1-4"), "gives credit back for what it used alone")
class _Uncredited(Flawed):
    """Gives the connection's credit back with that of the stream: never for what nobody takes, whether the stream was
    reset before it came or behind it."""

    def _credit_connection(self, octets: int) -> None:
        self.reached()

    def credit(self, stream_id: int, octets: int) -> None:
        super().credit(stream_id, octets)
        super()._credit_connection(octets)


@h2_double("http2-streams-unlimited", ("RFC9113-5.1.2-2",), "serves more streams than it allows", side="server")
class _Unlimited(Flawed):
    def start(self) -> None:
        super().start()
        self.local_settings._settings[SettingCodes.MAX_CONCURRENT_STREAMS].clear()
        self.local_settings._settings[SettingCodes.MAX_CONCURRENT_STREAMS].append(MANY)

    def _full(self) -> bool:
        if super()._full():
            self.reached()
        return False


@h2_double("http2-ids-even", ("RFC9113-5.1.1-2",), "opens streams with even ids", side="client")
class _Even(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        return [frame._replace(word=frame.word - 1) if frame.stream else frame]

    def data_to_send(self, amount: int | None = None) -> bytes:
        octets = super().data_to_send(amount)
        at = 24 if octets.startswith(b"PRI ") else 0
        moved = b""
        for frame in Cut().of(octets[at:]):
            if frame.stream:
                self.reached()
            moved += frame._replace(word=frame.word + (1 if frame.stream else 0)).octets()
        return octets[:at] + moved


@h2_double("http2-upstream-limit-ignored", ("RFC9113-5.1.2-1",), "opens more streams than allowed", side="client")
class _LimitIgnored(Flawed):
    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[Frames, list[Event]]:
        if frame.settings.pop(SettingCodes.MAX_CONCURRENT_STREAMS, None) is not None:
            self.reached()
        return super()._receive_settings_frame(frame)


@mutant("http2-claims-unprocessed", ("RFC9113-8.7-1",), "says REFUSED_STREAM where the upstream broke off")
def _(parts: Parts, reached: Reached) -> None:
    class Server(H2ServerConnection):
        def reset(self, half: Any, code: ErrorCodes, *, fault: bool = False) -> None:
            super().reset(half, code, fault=fault)

    original = H2Downstream.refuse

    class Claims(H2Downstream):
        async def refuse(self, fault: Fault, *, close: bool = False) -> None:
            if fault.status < 500:
                await original(self, fault, close=close)
                return
            reached()
            self.link.reset(self, ErrorCodes.REFUSED_STREAM)

    class Claiming(Server):
        def _begin(self, down: H2Downstream, served: Any) -> None:
            down.__class__ = Claims
            super()._begin(down, served)

    use_server(parts, Claiming)


# Windows: RFC 9113 sections 5.2 and 6.9


@h2_double("http2-windows-ignored", ("RFC9113-5.2.1-1", "RFC9113-6.9.1-1", "RFC9113-6.9.2-1"), "sends without credit")
class _Ignored(Flawed):
    def stream_window(self, stream_id: int) -> int:
        """Always room."""
        return ROOM

    @property
    def connection_window(self) -> int:
        """Always room."""
        return ROOM

    def send_content(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """As H2Protocol, past its windows."""
        if len(data) <= super().stream_window(stream_id):
            super().send_content(stream_id, data, end=end)
            return
        self.reached()
        frame = DataFrame(stream_id, data=data)
        if end:
            frame.flags.add("END_STREAM")
        self._prepare_for_sending([frame])


@h2_double("http2-window-change-ignored", ("RFC9113-6.9.2-1",), "applies a new initial window to new streams alone")
class _ChangeIgnored(Flawed):
    def _flow_control_change_from_settings(self, old_value: int | None, new_value: int) -> None:
        self.reached()


@h2_double("http2-excess-buffered", ("RFC9113-6.9.1-3",), "takes content beyond its credit", side="server")
class _Excess(Flawed):
    def _receive_data_frame(self, frame: DataFrame) -> tuple[Frames, list[Event]]:
        size = frame.flow_controlled_length
        stream = self.streams.get(frame.stream_id)
        for window in (self._inbound_flow_control_window_manager, getattr(stream, "_inbound_window_manager", None)):
            if window is not None and window.current_window_size < size:
                self.reached()
                window.current_window_size += size
        try:
            return super()._receive_data_frame(frame)
        except FlowControlError:
            return [], []


# GOAWAY and resets: RFC 9113 sections 6.8 and 8.7


@h2_double("http2-ignored-undecoded", ("RFC9113-6.8-7",), "does not decode streams behind its GOAWAY", side="server")
class _IgnoredUndecoded(Flawed):
    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[Frames, list[Event]]:
        if self._final is not None and frame.stream_id > self.highest_inbound_stream_id:
            self.reached()
            return [RstStreamFrame(frame.stream_id, error_code=ErrorCodes.REFUSED_STREAM)], []
        return super()._receive_headers_frame(frame)

    def _receive_data_frame(self, frame: DataFrame) -> tuple[Frames, list[Event]]:
        if self._final is not None and frame.stream_id > self.highest_inbound_stream_id:
            return [], []
        return super()._receive_data_frame(frame)


@mutant("http2-goaway-ignored", ("RFC9113-6.8-1",), "opens streams behind the GOAWAY of an upstream")
def _(parts: Parts, reached: Reached) -> None:
    class Client(H2ClientConnection):
        def on_goaway(self, event: Any) -> None:
            """Nothing changes."""
            reached()

    use_client(parts, Client)


@mutant("http2-goaway-retries-all", ("RFC9113-6.8-2",), "takes no request for processed when GOAWAY comes")
def _(parts: Parts, reached: Reached) -> None:
    class Client(H2ClientConnection):
        def on_goaway(self, event: Any) -> None:
            """As if the last stream were 0."""
            if event.last_stream_id:
                reached()
            event.last_stream_id = 0
            super().on_goaway(event)

    use_client(parts, Client)


@mutant("http2-reset-retries-all", ("HTTP-ERR-008",), "takes any reset for REFUSED_STREAM")
def _(parts: Parts, reached: Reached) -> None:
    class Client(H2ClientConnection):
        def on_reset(self, event: StreamReset) -> None:
            """Whatever the code."""
            if event.remote_reset and event.error_code != ErrorCodes.REFUSED_STREAM:
                reached()
                event.error_code = ErrorCodes.REFUSED_STREAM
            super().on_reset(event)

    use_client(parts, Client)


@mutant("http2-response-lost-to-reset", ("RFC9113-8.1-4",), "drops a whole response when its stream is reset behind it")
def _(parts: Parts, reached: Reached) -> None:
    class Client(H2ClientConnection):
        def on_reset(self, event: StreamReset) -> None:
            """The reset is what counts."""
            half = self.halves.get(event.stream_id)
            if half is not None and half.finished:
                reached()
                half.finished = False
                half.events.clear()
            super().on_reset(event)

    use_client(parts, Client)


# Compression: RFC 7541


@h2_double("http2-size-update-omitted", ("RFC9113-4.3.1-1", "RFC7541-4.2-1"), "takes no notice of a smaller table")
class _UpdateOmitted(Flawed):
    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[Frames, list[Event]]:
        if frame.settings.pop(SettingCodes.HEADER_TABLE_SIZE, None) is not None:
            self.reached()
        return super()._receive_settings_frame(frame)


@h2_double("http2-secrets-indexed", ("RFC7541-6.2.3-1", "RFC7541-7.1.3-1"), "indexes what must never be", side="client")
class _Indexed(Flawed):
    def send_fields(self, stream_id: int, lines: Fields, *, end: bool) -> None:
        """Every line as any other."""
        if any(isinstance(line, hpack.NeverIndexedHeaderTuple) for line in lines):
            self.reached()
        self.send_headers(stream_id, [(name, value) for name, value in lines], end)


class _NoDuplicates(hpack.Decoder):
    """Takes the same entry twice for an error."""

    owner: Flawed

    def decode(self, data: bytes, raw: bool = False) -> Any:
        """See hpack."""
        found = super().decode(data, raw)
        entries = list(self.header_table.dynamic_entries)
        if len(set(entries)) < len(entries):
            self.owner.reached()
            raise HPACKDecodingError("an entry twice")
        return found


@h2_double("http2-duplicates-refused", ("RFC7541-2.3.2-1",), "ends the connection for an entry that is there twice")
class _DuplicatesRefused(Flawed):
    def __init__(self, rules: FloodRules, limits: H2Limits, *, client: bool) -> None:
        super().__init__(rules, limits, client=client)
        most = self.decoder.max_header_list_size
        self.decoder = _NoDuplicates(max_header_list_size=most)
        self.decoder.owner = self


@mutant("http2-order-reversed", ("RFC7541-2.1-1",), "turns the order of fields round")
def _(parts: Parts, reached: Reached) -> None:
    def reversed_fields(original: Any, *given: Any) -> Any:
        head = original(*given)
        if not isinstance(head, Fault):
            reached()
            head.fields.reverse()
        return head

    swap(parts.http, "request_message", reversed_fields)


@h2_double(
    "http2-large-block-skipped", ("RFC9113-10.5.1-1",), "does not decode a block that is too large", side="server"
)
class _LargeSkipped(Flawed):
    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[Frames, list[Event]]:
        if len(frame.data) < LARGE_BLOCK:
            return super()._receive_headers_frame(frame)
        self.reached()
        frame.data = b""
        super()._receive_headers_frame(frame)
        self.reset_stream(frame.stream_id, ErrorCodes.REFUSED_STREAM)
        return [], []


# Floods: RFC 9113 section 10.5


@mutant("http2-floods-unlimited", ("RFC9113-10.5-1",), "takes frames of a kind without a limit")
def _(parts: Parts, reached: Reached) -> None:
    def unlimited(original: Any, frame: Frame) -> str | None:
        if original(frame) is not None:
            reached()
        return None

    swap(parts.http, "flood_kind", unlimited)


@mutant("http2-blocks-unlimited", ("RFC9113-10.5-2",), "takes a field block without an end")
def _(parts: Parts, reached: Reached) -> None:
    def unlimited(original: Any, *given: Any) -> bool:
        if not original(*given):
            reached()
        return True

    class Patient(H2ServerConnection):
        def _block_late(self) -> None:
            """It may take as long as it likes."""

    frame_buffer.CONTINUATION_BACKLOG = MANY
    use_server(parts, Patient)
    swap(parts.http, "header_block", unlimited)
