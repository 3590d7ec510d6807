"""Doubles of HTTP/3: the engine's connection with one rule of request streams taken away."""

from __future__ import annotations

from aioquic.h3.connection import FrameError, FrameType, H3Stream, HeadersState
from aioquic.h3.events import H3Event, Headers

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields
from reference_engine.http.h3_connection import EngineH3, _Message
from reference_engine.mutants._http3 import FlawedH3, h3_double


@h3_double("http3-second-message", ("RFC9114-4.1-2",), "takes a second message of a stream for trailers, and drops it")
class SecondMessage(FlawedH3):
    """Of both sides."""

    def _trailers(self, message: _Message, lines: Fields) -> Fault | None:
        if any(name in (b":method", b":status") for name, _ in lines):
            self.reached()
            message.trailers = []
            return None
        return super()._trailers(message, lines)

    def _headers(self, stream: H3Stream, frame_data: bytes | None, ended: bool) -> None:
        if stream.headers_recv_state == HeadersState.AFTER_TRAILERS:
            stream.headers_recv_state = HeadersState.AFTER_HEADERS
        super()._headers(stream, frame_data, ended)


@h3_double("http3-order-free", ("RFC9114-4.1-3",), "passes over frames that stand in the wrong place")
class OrderFree(FlawedH3):
    """Of both sides."""

    def _handle_request_or_push_frame(
        self, frame_type: int, frame_data: bytes | None, stream: H3Stream, stream_ended: bool
    ) -> list[H3Event]:
        early = frame_type == FrameType.DATA and stream.headers_recv_state == HeadersState.INITIAL
        late = stream.headers_recv_state == HeadersState.AFTER_TRAILERS and frame_type != FrameType.PUSH_PROMISE
        if early or late:
            self.reached()
            return self._handle_request_or_push_end(stream) if stream_ended else []
        return super()._handle_request_or_push_frame(frame_type, frame_data, stream, stream_ended)


@h3_double(
    "http3-end-withheld", ("RFC9114-4.1-6",), "does not end the stream of a response without content", side="server"
)
class EndWithheld(FlawedH3):
    """Toward clients."""

    _filled: set[int]

    def send_content(self, stream_id: int, data: bytes) -> None:
        """See EngineH3."""
        self._filled = {*getattr(self, "_filled", ()), stream_id}
        super().send_content(stream_id, data)

    def send_end(self, stream_id: int, trailers: Fields) -> None:
        """See EngineH3."""
        if stream_id in getattr(self, "_filled", ()):
            super().send_end(stream_id, trailers)
        else:
            self.reached()


@h3_double("http3-empty-stream-held", ("RFC9114-4.1-8",), "says nothing to a stream without a request", side="server")
class EmptyStreamHeld(FlawedH3):
    """Toward clients."""

    def _abort_incomplete_request(self, stream_id: int) -> None:
        self.reached()


@h3_double("http3-truncated-taken", ("RFC9114-7.1-2",), "takes a frame that the end of its stream cuts for whole")
class TruncatedTaken(FlawedH3):
    """Of both sides."""

    def _receive_request_or_push_data(self, stream: H3Stream, data: bytes, stream_ended: bool) -> list[H3Event]:
        try:
            return super()._receive_request_or_push_data(stream, data, stream_ended)
        except FrameError:
            self.reached()
            stream.buffer, stream.frame_size = b"", None
            return self._handle_request_or_push_end(stream)


@h3_double("http3-request-order", ("RFC9204-2.2-1", "RFC9204-2.1-1"), "hands on the lines of a section in reverse")
class OrderOfLines(FlawedH3):
    """Of both sides; pseudo-header fields stay in front."""

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        return self._reversed(super()._decode_headers(stream_id, frame_data))

    def _reversed(self, headers: Headers) -> Headers:
        pseudo = [line for line in headers if line[0][:1] == b":"]
        others = [line for line in headers if line[0][:1] != b":"]
        if len(others) > 1:
            self.reached()
        return [*pseudo, *reversed(others)]


@h3_double("http3-response-order", ("RFC9204-2.1-1", "RFC9204-2.2-1"), "writes the lines of a section in reverse")
class OrderOfOurLines(OrderOfLines):
    """Toward both sides."""

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        return EngineH3._decode_headers(self, stream_id, frame_data)

    def _encode_headers(self, stream_id: int, headers: Headers) -> bytes:
        return super()._encode_headers(stream_id, self._reversed(headers))
