"""Doubles of HTTP/2 that say or take frames as they may not: settings, pings, sizes, priorities (RFC 9113)."""

from __future__ import annotations

from h2.events import Event
from h2.exceptions import ProtocolError
from hyperframe.frame import (
    DataFrame,
    ExtensionFrame,
    Frame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from reference_engine.http.h2_connection import KNOWN_SETTINGS, Frames
from reference_engine.http.h2_server import H2ServerConnection
from reference_engine.mutants._http2 import (
    HEADERS,
    RST_STREAM,
    SETTINGS,
    Filtered,
    Flawed,
    RawFrame,
    h2_double,
    use_server,
)
from reference_engine.mutants._http2 import Frames as Cut
from reference_engine.mutants.registry import Reached, mutant
from reference_engine.parts import Parts

LARGEST_CODE = 13
DEFINED = {0: 0x9, 1: 0x2D, 2: 0, 3: 0, 4: 0x1, 5: 0xC, 6: 0x1, 7: 0, 8: 0, 9: 0x4}
LIMIT = 16_384
PREFACE_SIZE = 24


@h2_double(
    "http2-settings-late",
    ("RFC9113-3.2-2", "RFC9113-3.4-1", "RFC9113-3.3-2", "HTTP-VER-003"),
    "says PING before SETTINGS",
)
class _SettingsLate(Flawed):
    def start(self) -> None:
        super().start()
        said = self.data_to_send()
        at = PREFACE_SIZE if self.config.client_side else 0
        self.reached()
        self._data_to_send = bytearray(said[:at] + PingFrame(0, opaque_data=b"too soon").serialize() + said[at:])


@h2_double("http2-push-announced", ("RFC9113-6.5.2-2",), "announces push to clients", side="server")
class _Push(Flawed):
    def start(self) -> None:
        super().start()
        self.reached()
        self._prepare_for_sending([SettingsFrame(settings={SettingsFrame.ENABLE_PUSH: 1})])


@h2_double("http2-settings-unacknowledged", ("RFC9113-3.4-2", "RFC9113-6.5.3-1"), "does not acknowledge SETTINGS")
class _Unacknowledged(Flawed):
    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[Frames, list[Event]]:
        frames, events = super()._receive_settings_frame(frame)
        if frames:
            self.reached()
        return [], events


@h2_double("http2-first-setting-counts", ("RFC9113-6.5.3-1",), "takes the first of several values of a setting")
class _FirstCounts(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if frame.kind != SETTINGS:
            return [frame]
        pairs = [frame.payload[at : at + 6] for at in range(0, len(frame.payload), 6)]
        if len({pair[:2] for pair in pairs}) < len(pairs):
            self.reached()
        return [frame._replace(payload=b"".join(reversed(pairs)))]


@h2_double(
    "http2-unknown-settings-refused", ("RFC9113-6.5.2-7", "RFC9113-5.5-1"), "ends the connection for an unknown setting"
)
class _UnknownSettings(Flawed):
    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[Frames, list[Event]]:
        if not frame.settings.keys() <= KNOWN_SETTINGS:
            self.reached()
            raise ProtocolError("an unknown setting")
        return super()._receive_settings_frame(frame)


@h2_double(
    "http2-unknown-frames-refused", ("RFC9113-4.1-2", "RFC9113-5.5-1"), "ends the connection for an unknown frame"
)
class _UnknownFrames(Flawed):
    def _receive_frame(self, frame: Frame) -> list[Event]:
        if isinstance(frame, ExtensionFrame):
            self.reached()
            raise ProtocolError("an unknown frame")
        return super()._receive_frame(frame)


@h2_double("http2-odd-flags-refused", ("RFC9113-4.1-3",), "passes over frames with undefined flags")
class _OddFlags(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        odd = frame.flags & ~DEFINED.get(frame.kind, 0xFF) or frame.word >> 31
        if odd:
            self.reached()
        return [] if odd else [frame]


@h2_double("http2-frame-limit-low", ("RFC9113-4.2-1",), "passes over frames of 16384 octets")
class _LimitLow(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if len(frame.payload) < LIMIT:
            return [frame]
        self.reached()
        return []


@h2_double("http2-frames-too-large", ("RFC9113-4.1-1",), "sends frames above what the peer allows")
class _TooLarge(Flawed):
    def data_to_send(self, amount: int | None = None) -> bytes:
        joined: list[RawFrame] = []
        octets = super().data_to_send(amount)
        at = PREFACE_SIZE if octets.startswith(b"PRI ") else 0
        for frame in Cut().of(octets[at:]):
            before = joined[-1] if joined else None
            if before and frame.kind == before.kind == 0 and frame.stream == before.stream and not before.flags:
                joined[-1] = frame._replace(payload=before.payload + frame.payload)
                if len(joined[-1].payload) > LIMIT:
                    self.reached()
            else:
                joined.append(frame)
        return octets[:at] + b"".join(frame.octets() for frame in joined)


@h2_double("http2-ping-payload", ("RFC9113-6.7-1",), "answers PING with octets of its own")
class _PingPayload(Flawed):
    def _receive_ping_frame(self, frame: PingFrame) -> tuple[Frames, list[Event]]:
        frames, events = super()._receive_ping_frame(frame)
        for answer in frames:
            self.reached()
            answer.opaque_data = bytes(8)  # type: ignore[attr-defined]
        return frames, events


@h2_double("http2-ping-answered-twice", ("RFC9113-6.7-2",), "answers the answer to a PING")
class _PingTwice(Flawed):
    def _receive_ping_frame(self, frame: PingFrame) -> tuple[Frames, list[Event]]:
        frames, events = super()._receive_ping_frame(frame)
        if "ACK" in frame.flags:
            self.reached()
            frames = [PingFrame(0, opaque_data=frame.opaque_data)]
        return frames, events


@mutant("http2-reads-late", ("RFC9113-5.2.2-1",), "does not read while the client gives no credit")
def _(parts: Parts, reached: Reached) -> None:
    class Late(H2ServerConnection):
        def _pull(self) -> None:
            if self.halves and self.protocol.outbound_flow_control_window <= 0:
                reached()
                return
            super()._pull()

    use_server(parts, Late)


@h2_double("http2-padding-uncounted", ("RFC9113-6.1-3",), "gives no credit back for padding")
class _PaddingUncounted(Flawed):
    def _receive_data_frame(self, frame: DataFrame) -> tuple[Frames, list[Event]]:
        self._padding = frame.flow_controlled_length - len(frame.data)
        return super()._receive_data_frame(frame)

    def _credit_connection(self, octets: int) -> None:
        lost = min(self._padding, octets)
        if lost:
            self.reached()
        super()._credit_connection(octets - lost)

    def credit(self, stream_id: int, octets: int) -> None:
        if self._padding and octets == self._padding:
            self._padding = 0
            return
        super().credit(stream_id, octets)

    _padding = 0


@h2_double("http2-padding-taken", ("RFC9113-10.7-1",), "takes padding for content")
class _PaddingTaken(Flawed):
    def _receive_data_frame(self, frame: DataFrame) -> tuple[Frames, list[Event]]:
        if frame.pad_length:
            self.reached()
            frame.data += bytes(frame.pad_length)
            frame.pad_length = 0
        return super()._receive_data_frame(frame)


@h2_double("http2-late-window-refused", ("RFC9113-6.9-2",), "ends the connection for WINDOW_UPDATE behind the end")
class _LateWindow(Flawed):
    def _receive_window_update_frame(self, frame: WindowUpdateFrame) -> tuple[Frames, list[Event]]:
        stream = self.streams.get(frame.stream_id)
        ended = stream is None or stream.state_machine.stream_closed_by or not stream.open
        half = stream is not None and "HALF_CLOSED_REMOTE" in stream.state_machine.state.name
        if frame.stream_id and (ended or half):
            self.reached()
            raise ProtocolError("WINDOW_UPDATE on a stream that is over")
        return super()._receive_window_update_frame(frame)


@h2_double("http2-code-special", ("RFC9113-7-1",), "takes no notice of a reset with an unknown code")
class _CodeSpecial(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if frame.kind == RST_STREAM and int.from_bytes(frame.payload, "big") > LARGEST_CODE:
            self.reached()
            return []
        return [frame]


@h2_double("http2-reset-ignored", ("RFC9113-6.4-1", "RFC9113-5.1-3"), "goes on behind a reset of the peer")
class _ResetIgnored(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if frame.kind == RST_STREAM:
            self.reached()
            return []
        return [frame]


@h2_double("http2-reset-answered", ("RFC9113-5.4.2-1",), "answers RST_STREAM with RST_STREAM", side="server")
class _ResetAnswered(Flawed):
    def _receive_rst_stream_frame(self, frame: RstStreamFrame) -> tuple[Frames, list[Event]]:
        frames, events = super()._receive_rst_stream_frame(frame)
        self.reached()
        return [*frames, RstStreamFrame(frame.stream_id, error_code=frame.error_code)], events


@h2_double("http2-waits-for-acknowledgement", ("RFC9113-6.5.3-1",), "serves nobody before SETTINGS ACK", side="server")
class _Waits(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if frame.kind == SETTINGS and frame.flags & 1:
            self._acknowledged = True
        if frame.kind == HEADERS and not self._acknowledged:
            self.reached()
            return []
        return [frame]

    _acknowledged = False
