"""Doubles of HTTP/3: the engine's connection with one rule of control streams, settings or other streams taken away."""

from __future__ import annotations

from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]
from aioquic.h3.connection import (
    RESERVED_FRAME_TYPES,
    FrameError,
    FrameType,
    FrameUnexpected,
    H3Stream,
    IdError,
    MissingSettingsError,
    Setting,
    SettingsError,
    StreamCreationError,
    StreamType,
    encode_frame,
)

from reference_engine.http.h3_connection import CRITICAL_TYPES, IGNORED_FRAME, Heard
from reference_engine.http.h3_outlet import Command, Send, UnidirectionalStream
from reference_engine.mutants._http3 import FlawedH3, h3_double

RESERVED_SETTINGS = frozenset((0x00, 0x02, 0x03, 0x04, 0x05))
HTTP2_ONLY = frozenset(RESERVED_FRAME_TYPES)


def _is_reserved(number: int) -> bool:
    return number >= 0x21 and (number - 0x21) % 0x1F == 0


# What we say first


@h3_double("http3-settings-second", ("RFC9114-3.2-2",), "says a reserved frame in front of SETTINGS")
class SettingsSecond(FlawedH3):
    """Toward both sides."""

    def _init_connection(self) -> None:
        super()._init_connection()
        self.reached()
        number = self._local_control_stream_id
        first = next(
            at for at, each in enumerate(self.outlet.queue) if isinstance(each, Send) and each.stream_id == number
        )
        self.outlet.queue.insert(first + 1, Send(number or 0, encode_frame(IGNORED_FRAME, b"")))


@h3_double("http3-settings-wait", ("RFC9114-7.2.4.2-2",), "says SETTINGS when the peer has said its own", side="server")
class SettingsWait(FlawedH3):
    """Toward clients."""

    @property
    def commands(self) -> list[Command]:
        """Those of the control stream wait."""
        queue = super().commands
        if self.settled:
            return queue
        self.reached()
        held = [each for each in queue if isinstance(each, Send) and each.stream_id == self._local_control_stream_id]
        self.outlet.queue = [*held, *self.outlet.queue]
        return [each for each in queue if each not in held]


# What has no meaning


@h3_double("http3-unknown-setting-fatal", ("RFC9114-7.2.4-3", "RFC9114-9-1"), "closes for an unknown setting")
class UnknownSettingFatal(FlawedH3):
    """Toward both sides; reserved ones are passed over."""

    def _validate_settings(self, settings: dict[int, int]) -> None:
        known = set(Setting)
        if any(number not in known and not _is_reserved(number) for number in settings):
            self.reached()
            raise SettingsError("a setting that is not known")
        super()._validate_settings(settings)


@h3_double("http3-grease-frame-fatal", ("RFC9114-7.2.8-1", "RFC9114-9-1"), "closes for a reserved frame on control")
class GreaseFrameFatal(FlawedH3):
    """Toward both sides."""

    def _check_control_frame_type(self, frame_type: int) -> None:
        super()._check_control_frame_type(frame_type)
        if _is_reserved(frame_type):
            self.reached()
            raise FrameUnexpected("a reserved frame")


@h3_double(
    "http3-unknown-frame-fatal", ("RFC9114-4.1-4", "RFC9114-7.2.8-1", "RFC9114-9-1"), "closes for a strange frame"
)
class UnknownFrameFatal(FlawedH3):
    """On request streams, toward both sides."""

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        super()._check_request_or_push_frame_type(frame_type, stream)
        if frame_type not in set(FrameType):
            self.reached()
            raise FrameUnexpected("a frame that is not known")


@h3_double("http3-unknown-stream-fatal", ("RFC9114-6.2-2", "RFC9114-9-1"), "closes for a stream of an unknown type")
class UnknownStreamFatal(FlawedH3):
    """Toward both sides."""

    def _unknown_stream(self, stream_id: int, kind: int) -> tuple[bool, list[tuple[int, Heard]]]:
        if kind in set(StreamType):
            return super()._unknown_stream(stream_id, kind)
        self.reached()
        return False, self._guarded(_fatal)


@h3_double("http3-short-stream-fatal", ("RFC9114-6.2-3",), "closes for a stream that ends before its type")
class ShortStreamFatal(FlawedH3):
    """Toward both sides."""

    def receive_unidirectional(self, stream_id: int, data: bytes, fin: bool) -> tuple[bool, list[tuple[int, Heard]]]:
        """See EngineH3."""
        stream = self._unidirectional.setdefault(stream_id, UnidirectionalStream())
        wanted, heard = super().receive_unidirectional(stream_id, data, fin)
        if fin and stream.type is None:
            self.reached()
            heard = self._guarded(_fatal)
        return wanted, heard


def _fatal() -> None:
    raise StreamCreationError("a stream that is not known")


# What must not be


class Tolerant(FlawedH3):
    """Passes over frames of `control_frames` on a control stream, of `request_frames` on a request stream."""

    control_frames: frozenset[int] = frozenset()
    request_frames: frozenset[int] = frozenset()

    def _check_control_frame_type(self, frame_type: int) -> None:
        try:
            super()._check_control_frame_type(frame_type)
        except FrameUnexpected:
            if frame_type not in self.control_frames:
                raise
            self.reached()

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        try:
            super()._check_request_or_push_frame_type(frame_type, stream)
        except FrameUnexpected:
            if frame_type not in self.request_frames:
                raise
            self.reached()
            stream.frame_type = IGNORED_FRAME


@h3_double("http3-settings-not-first", ("RFC9114-6.2.1-1",), "takes other frames in front of SETTINGS")
class SettingsNotFirst(FlawedH3):
    """Of both sides."""

    def _check_control_frame_type(self, frame_type: int) -> None:
        try:
            super()._check_control_frame_type(frame_type)
        except MissingSettingsError:
            self.reached()


def _second(name: str, rows: tuple[str, ...], breaks: str, kinds: frozenset[int]) -> None:
    @h3_double(name, rows, breaks)
    class Second(FlawedH3):
        """Passes over a second stream of its type."""

        def receive_unidirectional(
            self, stream_id: int, data: bytes, fin: bool
        ) -> tuple[bool, list[tuple[int, Heard]]]:
            """See EngineH3."""
            before = [each.type for number, each in self._unidirectional.items() if number != stream_id]
            first = data[0] if data and stream_id not in self._unidirectional else None
            if first in kinds and first in before:
                self.reached()
                return False, []
            return super().receive_unidirectional(stream_id, data, fin)

    Second.__module__ = __name__


_second("http3-two-controls", ("RFC9114-6.2.1-2",), "passes over a second control stream", frozenset((0,)))
_second("http3-two-qpacks", ("RFC9204-4.2-1",), "passes over a second QPACK stream", frozenset((2, 3)))


@h3_double("http3-client-push-ignored", ("RFC9114-6.2.2-1",), "passes over a client's push stream", side="server")
class ClientPushIgnored(FlawedH3):
    """Toward clients."""

    def receive_unidirectional(self, stream_id: int, data: bytes, fin: bool) -> tuple[bool, list[tuple[int, Heard]]]:
        """See EngineH3."""
        if stream_id not in self._unidirectional and data[:1] == b"\x01":
            self.reached()
            return False, []
        return super().receive_unidirectional(stream_id, data, fin)


class Undying(FlawedH3):
    """Passes over the end of streams of `kinds`."""

    kinds: frozenset[int] = frozenset()

    def receive_unidirectional(self, stream_id: int, data: bytes, fin: bool) -> tuple[bool, list[tuple[int, Heard]]]:
        """See EngineH3."""
        stream = self._unidirectional.get(stream_id)
        if fin and stream is not None and stream.type in self.kinds:
            self.reached()
            return True, []
        return super().receive_unidirectional(stream_id, data, fin)

    def stream_reset(self, stream_id: int) -> list[tuple[int, Heard]]:
        """See EngineH3."""
        stream = self._unidirectional.get(stream_id)
        if stream is not None and stream.type in self.kinds:
            self.reached()
            return []
        return super().stream_reset(stream_id)


@h3_double("http3-control-may-end", ("RFC9114-6.2.1-3",), "goes on without the peer's control stream")
class ControlMayEnd(Undying):
    """Of both sides."""

    kinds = frozenset((int(StreamType.CONTROL),))


@h3_double("http3-qpack-may-end", ("RFC9204-4.2-2",), "goes on without the peer's QPACK streams")
class QpackMayEnd(Undying):
    """Of both sides."""

    kinds = frozenset(int(kind) for kind in CRITICAL_TYPES if kind != StreamType.CONTROL)


@h3_double("http3-control-data", ("RFC9114-7.2.1-1",), "passes over DATA on a control stream")
class ControlData(Tolerant):
    """Of both sides."""

    control_frames = frozenset((int(FrameType.DATA),))


@h3_double("http3-control-headers", ("RFC9114-7.2.2-1",), "passes over HEADERS on a control stream")
class ControlHeaders(Tolerant):
    """Of both sides."""

    control_frames = frozenset((int(FrameType.HEADERS),))


@h3_double("http3-settings-again", ("RFC9114-7.2.4-1",), "passes over SETTINGS that come again, or elsewhere")
class SettingsAgain(Tolerant):
    """Of both sides."""

    control_frames = request_frames = frozenset((int(FrameType.SETTINGS),))

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        if frame_type == FrameType.SETTINGS and self.settled:
            return
        super()._handle_control_frame(frame_type, frame_data)


@h3_double("http3-http2-frames", ("RFC9114-7.2.8-2",), "passes over frames of HTTP/2")
class Http2Frames(Tolerant):
    """Of both sides."""

    control_frames = request_frames = HTTP2_ONLY


@h3_double("http3-promise-of-client", ("RFC9114-7.2.5-1",), "passes over PUSH_PROMISE of a client", side="server")
class PromiseOfClient(Tolerant):
    """Toward clients."""

    request_frames = frozenset((int(FrameType.PUSH_PROMISE),))


@h3_double("http3-max-push-id-anyhow", ("RFC9114-7.2.7-1",), "passes over MAX_PUSH_ID wherever, and however low")
class MaxPushIdAnyhow(Tolerant):
    """Of both sides."""

    control_frames = request_frames = frozenset((int(FrameType.MAX_PUSH_ID),))

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        try:
            super()._handle_control_frame(frame_type, frame_data)
        except IdError:
            self.reached()


@h3_double("http3-cancel-push-anyhow", ("RFC9114-7.2.3-1",), "passes over CANCEL_PUSH wherever")
class CancelPushAnyhow(Tolerant):
    """Of both sides."""

    request_frames = frozenset((int(FrameType.CANCEL_PUSH),))

    def _control_frame(self, kind: int, payload: bytes) -> None:
        if kind == FrameType.CANCEL_PUSH:
            self.reached()
            return
        super()._control_frame(kind, payload)


@h3_double("http3-http2-settings", ("RFC9114-7.2.4.1-1",), "passes over settings of HTTP/2")
class Http2Settings(FlawedH3):
    """Of both sides."""

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        if frame_type == FrameType.SETTINGS:
            frame_data = self._without_reserved(frame_data)
        super()._handle_control_frame(frame_type, frame_data)

    def _without_reserved(self, frame_data: bytes) -> bytes:
        buf, kept = Buffer(data=frame_data), b""
        while not buf.eof():
            number, value = buf.pull_uint_var(), buf.pull_uint_var()
            if number in RESERVED_SETTINGS:
                self.reached()
            else:
                kept += encode_uint_var(number) + encode_uint_var(value)
        return kept


@h3_double("http3-frames-not-exact", ("RFC9114-7.1-1", "RFC9114-10.8-1"), "reads frames whose fields do not fill them")
class FramesNotExact(FlawedH3):
    """Of both sides."""

    def _handle_control_frame(self, frame_type: int, frame_data: bytes) -> None:
        try:
            super()._handle_control_frame(frame_type, frame_data)
        except FrameError:
            self.reached()

    def _control_frame(self, kind: int, payload: bytes) -> None:
        try:
            super()._control_frame(kind, payload)
        except FrameError:
            self.reached()


@h3_double("http3-qpack-streams-refused", ("RFC9204-4.2-3",), "closes for a QPACK stream of a peer without a table")
class QpackStreamsRefused(FlawedH3):
    """Toward both sides."""

    def receive_unidirectional(self, stream_id: int, data: bytes, fin: bool) -> tuple[bool, list[tuple[int, Heard]]]:
        """See EngineH3."""
        if stream_id not in self._unidirectional and data[:1] in (b"\x02", b"\x03"):
            self.reached()
            self._guarded(_fatal)
            return False, []
        return super().receive_unidirectional(stream_id, data, fin)
