"""Our subclass of aioquic's HTTP/3 connection, sans-I/O: the only module that touches its private names.

Octets of streams go in (`receive`, `receive_unidirectional`) and neutral events come out of the same calls; messages go
in (`send_request`, `send_response`, ..), and commands for the transport come out (`commands`). In the place of the
library's QUIC connection stands an `Outlet`, which keeps what it is told. What is changed in the stock connection, and
why:

* A malformed message ends its stream, not the connection (RFC 9114 section 4.1.2): field lines, pseudo-header fields
  and content lengths are judged by our rules, and a response to HEAD may have a content-length.
* Sections and control frames are bounded before they are kept, field lines before they are decoded (section 10.5).
* GOAWAY and CANCEL_PUSH are read, GOAWAY is written; no push is ever allowed (sections 5.2, 7.2.3, 7.2.6).
* The end of a QPACK stream closes the connection; stock aioquic sees that of the control stream alone (RFC 9204 section
  4.2).
* Nothing is announced that the engine does not do: stock aioquic always announces extended CONNECT.
* Frames and streams of WebTransport are unknown ones.

`PRIVATE` names what is touched; `tests/test_engine_h3_pins.py` fails when an upgrade moves any of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import pylsqpack
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var  # type: ignore[attr-defined]
from aioquic.h3.connection import (
    ClosedCriticalStream,
    FrameError,
    FrameType,
    FrameUnexpected,
    H3Connection,
    H3Stream,
    HeadersState,
    IdError,
    ProtocolError,
    Setting,
    StreamType,
    encode_frame,
)
from aioquic.h3.events import DataReceived, H3Event, Headers
from aioquic.quic import events as quic_events

from reference_engine.http import h3_qpack
from reference_engine.http.errors import Fault
from reference_engine.http.events import Data, End, Fields, InformationalHead, RequestHead, ResponseHead
from reference_engine.http.h3_outlet import BoundedEncoder, Command, ExcessiveLoad, Outlet, UnidirectionalStream
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Limits

AIOQUIC = "1.7.2"
"""The version that this module was written against."""
PRIVATE: dict[str, tuple[str, ...]] = {
    "connection": (
        *("_init_connection", "_get_local_settings", "_max_push_id", "_max_table_capacity", "_blocked_streams"),
        *("_decoder", "_encoder", "_stream", "_is_client", "_is_done", "_quic", "_received_settings"),
        *("_decode_headers", "_encode_headers", "_handle_request_or_push_frame", "_handle_request_or_push_end"),
        *("_check_request_or_push_frame_type", "_check_control_frame_type", "_get_or_create_stream"),
        *("_local_control_stream_id", "_local_decoder_stream_id", "_local_encoder_stream_id"),
        *("_receive_stream_data", "_receive_stream_reset", "_receive_stop_sending"),
    ),
    "stream": (
        *("blocked", "frame_size", "frame_type", "headers_recv_state", "receiving_ended", "stream_id", "buffer"),
        "finish_sending",
    ),
    "quic": (
        *("_quic_logger", "_remote_max_datagram_frame_size", "configuration", "close", "reset_stream"),
        *("get_next_available_stream_id", "send_stream_data"),
    ),
}
"""What is touched beyond the documented API, by the object that has it; `quic` is what `Outlet` stands for."""
REQUIRED_TYPES = frozenset({StreamType.CONTROL, StreamType.PUSH, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER})
CRITICAL_TYPES = frozenset({StreamType.CONTROL, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER})
IGNORED_FRAME = 0x21
"""A frame type without meaning (RFC 9114 section 7.2.8): what a frame is made whose payload is to be passed over."""
GREASE_SETTING = 0x21
MOST_INTERIM = 100
"""Interim responses before one final response."""

# It reports what it does to its own logger.
logging.getLogger("http3").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class H3Limits:
    """What a peer may make us keep: of a message, octets of the dynamic table, streams that wait for it; and how many
    frames may say nothing."""

    message: Limits = field(default_factory=Limits)
    table_capacity: int = 4_096
    blocked_streams: int = 16
    idle_frames: int = 1_000


@dataclass(slots=True)
class Malformed:
    """The message on a stream is malformed, or more than the limits allow: nothing more comes of it."""

    fault: Fault


Heard: TypeAlias = RequestHead | InformationalHead | ResponseHead | Data | End | Malformed


class _TooLarge(Exception):  # noqa: N818 - an event, not a mistake
    """A field section of more lines than are taken."""


@dataclass(slots=True)
class _Message:
    """What is known of the message that comes in on a request stream. `method` is that of the request."""

    method: bytes = b""
    declared: int | None = None
    received: int = 0
    interim: int = 0
    trailers: Fields | None = None
    over: bool = False


class EngineH3(H3Connection):
    """One HTTP/3 connection; see the module. `unidirectional` are the numbers of three streams of ours, open and
    unused."""

    def __init__(
        self,
        rules: HttpRules,
        limits: H3Limits,
        *,
        is_client: bool,
        unidirectional: Sequence[int],
        datagrams: int | None = None,
    ) -> None:
        self.rules = rules
        self.limits = limits
        self.outlet = Outlet(is_client=is_client, unidirectional=unidirectional, datagrams=datagrams)
        self.peer_goaway: int | None = None
        """The id in the peer's last GOAWAY."""
        self.sent_goaway: int | None = None
        """The id in our last GOAWAY."""
        self._heard: list[tuple[int, Heard]] = []
        self._messages: dict[int, _Message] = {}
        self._unidirectional: dict[int, UnidirectionalStream] = {}
        self._literal: dict[int, frozenset[int]] = {}
        """Which lines of a section that waits for the dynamic table must stay literals."""
        self._useful = self._useless = 0
        super().__init__(cast("Any", self.outlet))

    def _init_connection(self) -> None:
        self._max_push_id = None
        self._max_table_capacity, self._blocked_streams = self.limits.table_capacity, self.limits.blocked_streams
        self._decoder = pylsqpack.Decoder(self._max_table_capacity, self._blocked_streams)
        self._encoder = cast("Any", BoundedEncoder(self.rules))
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        settings = self.rules.h3_settings(
            self.limits.table_capacity, self.limits.blocked_streams, self.limits.message.header_bytes
        )
        return {**settings, GREASE_SETTING: 1}

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def commands(self) -> list[Command]:
        """What the transport has to do, in this order; each is given once."""
        queue, self.outlet.queue = self.outlet.queue, []
        return queue

    @property
    def closed(self) -> bool:
        """Whether the connection was closed because of the peer."""
        return self._is_done

    @property
    def settled(self) -> bool:
        """Whether the peer's settings are known."""
        return self._received_settings is not None

    @property
    def largest_section(self) -> int | None:
        """Octets of a field section that the peer takes (RFC 9114 section 4.2.2); None where it has not said."""
        return (self._received_settings or {}).get(Setting.MAX_FIELD_SECTION_SIZE)

    @property
    def critical_streams(self) -> tuple[int, ...]:
        """The numbers of our streams that must never end."""
        own = (self._local_control_stream_id, self._local_encoder_stream_id, self._local_decoder_stream_id)
        return tuple(number for number in own if number is not None)

    def blocked(self, stream_id: int) -> bool:
        """Whether a stream waits for the dynamic table: what is behind stays where it is (RFC 9204 section 2.2.1)."""
        stream = self._stream.get(stream_id)
        return stream is not None and stream.blocked

    # -- what comes in ---------------------------------------------------------------------------------------------

    def _guarded(self, step: Callable[[], object]) -> list[tuple[int, Heard]]:
        """What was heard in `step`; a connection error ends everything (RFC 9114 section 8)."""
        if not self._is_done:
            try:
                step()
            except ProtocolError as problem:
                self._is_done = True
                self.outlet.close(problem.error_code, None, problem.reason_phrase)
        heard, self._heard = self._heard, []
        return heard

    def receive(self, stream_id: int, data: bytes, fin: bool) -> list[tuple[int, Heard]]:
        """Octets of a request stream."""
        return self._guarded(lambda: self._content_of(self._request_data(stream_id, data, fin)))

    def _request_data(self, stream_id: int, data: bytes, fin: bool) -> list[H3Event]:
        return self._receive_stream_data(quic_events.StreamDataReceived(data, fin, stream_id))

    def receive_unidirectional(self, stream_id: int, data: bytes, fin: bool) -> tuple[bool, list[tuple[int, Heard]]]:
        """Octets of a unidirectional stream of the peer: whether more of it is wanted, and what was heard. A stream of
        an unknown type is not (RFC 9114 section 6.2)."""
        stream = self._unidirectional.setdefault(stream_id, UnidirectionalStream())
        begun = stream.begins(data)
        if fin and stream.type not in REQUIRED_TYPES:
            self._unidirectional.pop(stream_id, None)
        if begun is None:
            return not fin, []
        if stream.type not in REQUIRED_TYPES:
            return self._unknown_stream(stream_id, stream.type or 0)
        whole, behind = begun
        return True, self._guarded(lambda: self._unidirectional_data(stream_id, stream, whole, behind, fin))

    def _unknown_stream(self, stream_id: int, kind: int) -> tuple[bool, list[tuple[int, Heard]]]:
        """A stream that means nothing: it is forgotten, but not free."""
        if self.rules.keeps_unknown_stream(kind):
            return True, []
        self._unidirectional.pop(stream_id, None)
        return False, self._guarded(lambda: self._count(useful=False))

    def _unidirectional_data(
        self, stream_id: int, stream: UnidirectionalStream, whole: bytes, behind: bytes, fin: bool
    ) -> None:
        events = self._receive_stream_data(quic_events.StreamDataReceived(whole, fin, stream_id))
        if stream.type == StreamType.CONTROL:
            for kind, payload in stream.frames(behind):
                self._control_frame(kind, payload)
        if fin and stream.type in CRITICAL_TYPES:
            raise ClosedCriticalStream("a critical stream ended")
        self._content_of(events)

    def stream_reset(self, stream_id: int) -> list[tuple[int, Heard]]:
        """The peer reset one of its directions."""
        self._literal.pop(stream_id, None)
        if stream_id & 2:
            stream = self._unidirectional.pop(stream_id, None)
            if stream is None or stream.type not in REQUIRED_TYPES:
                return []
        return self._guarded(lambda: self._receive_stream_reset(stream_id))

    def stream_stopped(self, stream_id: int) -> list[tuple[int, Heard]]:
        """The peer reads no more of one of our directions."""
        return self._guarded(lambda: self._receive_stop_sending(stream_id))

    def abandon(self, stream_id: int) -> None:
        """Nothing more of a request stream is read: the peer's encoder is told of sections that stay unread (RFC 9204
        section 2.2.2.2). Our own direction goes on."""
        stream = self._stream.get(stream_id)
        if stream is None or self._is_done or (stream.receiving_ended and not stream.blocked):
            return
        instruction = self.rules.cancellation(self._decoder.cancel_stream(stream_id))
        self.outlet.send_stream_data(self._local_decoder_stream_id or 0, instruction)
        stream.blocked, stream.buffer, stream.receiving_ended = False, b"", True

    def forget(self, stream_id: int) -> None:
        """Nobody reads or writes a request stream any more."""
        self.abandon(stream_id)
        self._literal.pop(stream_id, None)
        self._messages.pop(stream_id, None)
        self._stream.pop(stream_id, None)

    # -- frames ----------------------------------------------------------------------------------------------------

    def _check_control_frame_type(self, frame_type: int) -> None:
        super()._check_control_frame_type(frame_type)
        self._count(useful=False)

    def _control_frame(self, kind: int, payload: bytes) -> None:
        """What the library passes over (RFC 9114 sections 5.2, 7.2.3 and 7.2.6)."""
        if kind not in (FrameType.GOAWAY, FrameType.CANCEL_PUSH):
            return
        buf = Buffer(data=payload)
        try:
            number = buf.pull_uint_var()
        except BufferReadError:
            raise FrameError("a frame without its id") from None
        if not buf.eof():
            raise FrameError("a frame longer than its id")
        if kind == FrameType.CANCEL_PUSH:
            if not self.rules.push_known(number):
                raise IdError("a push that was never promised")
            return
        if not self.rules.goaway_fits(number, self.peer_goaway, from_server=self._is_client):
            raise IdError("the id of a GOAWAY")
        self.peer_goaway = number

    def _check_request_or_push_frame_type(self, frame_type: int, stream: H3Stream) -> None:
        super()._check_request_or_push_frame_type(frame_type, stream)
        size = stream.frame_size or 0
        self._count(useful=size > 0 and frame_type in (FrameType.DATA, FrameType.HEADERS))
        if frame_type == FrameType.WEBTRANSPORT_STREAM:
            stream.frame_type = IGNORED_FRAME
        elif frame_type == FrameType.HEADERS:
            first = stream.headers_recv_state == HeadersState.INITIAL
            most = self.limits.message.header_bytes if first else self.limits.message.trailer_bytes
            if not self.rules.frame_fits(size, most):
                stream.frame_type = IGNORED_FRAME
                self._too_large(stream)

    def _count(self, *, useful: bool) -> None:
        """Frames that say nothing are free to send; this bounds them (RFC 9114 section 10.5)."""
        if useful:
            self._useful += 1
            return
        self._useless += 1
        if self.rules.too_idle(self._useless, self._useful, self.limits.idle_frames):
            raise ExcessiveLoad("too many frames that say nothing")

    def _too_large(self, stream: H3Stream) -> None:
        if stream.headers_recv_state == HeadersState.INITIAL:
            stream.headers_recv_state = HeadersState.AFTER_HEADERS
        self._malformed(stream.stream_id, Fault(431, "the header section is too large"))

    def _malformed(self, stream_id: int, fault: Fault) -> None:
        message = self._messages.setdefault(stream_id, _Message())
        if not message.over:
            message.over = True
            self._heard.append((stream_id, Malformed(fault)))

    def _handle_request_or_push_frame(
        self, frame_type: int, frame_data: bytes | None, stream: H3Stream, stream_ended: bool
    ) -> list[H3Event]:
        if frame_type == FrameType.HEADERS:
            self._headers(stream, frame_data, stream_ended)
        else:
            self._content_of(super()._handle_request_or_push_frame(frame_type, frame_data, stream, stream_ended))
        return []

    def _handle_request_or_push_end(self, stream: H3Stream) -> list[H3Event]:
        self._content_of(super()._handle_request_or_push_end(stream))
        return []

    def _content_of(self, events: list[H3Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                self._content(event.stream_id, event.data or b"", event.stream_ended)

    def _content(self, stream_id: int, data: bytes, ended: bool) -> None:
        message = self._messages.setdefault(stream_id, _Message())
        if message.over:
            return
        message.received += len(data)
        fault = self.rules.content_fits(message.declared, message.received, ended=ended)
        if fault is not None:
            self._malformed(stream_id, fault)
            return
        if data:
            self._heard.append((stream_id, Data(data)))
        if ended:
            message.over = True
            self._heard.append((stream_id, End(message.trailers or [])))

    # -- field sections --------------------------------------------------------------------------------------------

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        """As stock, with a look at the section before it is decoded."""
        if frame_data is not None:
            try:
                count, literal = h3_qpack.walk(frame_data, self.limits.message.header_count)
            except h3_qpack.MalformedSection:
                count, literal = 0, frozenset()  # The decoder has the error for it.
            if not self.rules.lines_fit(count, self.limits.message.header_count):
                raise _TooLarge
            self._literal[stream_id] = literal
        fields = super()._decode_headers(stream_id, frame_data)
        return h3_qpack.mark(fields, self._literal.pop(stream_id, frozenset()))

    def _headers(self, stream: H3Stream, frame_data: bytes | None, ended: bool) -> None:
        if stream.headers_recv_state == HeadersState.AFTER_TRAILERS:
            raise FrameUnexpected("HEADERS behind the trailer section")
        first = stream.headers_recv_state == HeadersState.INITIAL
        try:
            fields = self._decode_headers(stream.stream_id, frame_data)
        except _TooLarge:
            self._too_large(stream)
            return
        message = self._messages.setdefault(stream.stream_id, _Message())
        if not first:
            stream.headers_recv_state = HeadersState.AFTER_TRAILERS
            found: RequestHead | InformationalHead | ResponseHead | Fault | None = self._trailers(message, fields)
        elif self._is_client:
            found = self._response_head(message, fields)
        else:
            found = self._request_head(message, fields)
        if first and not isinstance(found, InformationalHead):
            stream.headers_recv_state = HeadersState.AFTER_HEADERS
        if message.over:
            return
        if isinstance(found, Fault):
            self._malformed(stream.stream_id, found)
        elif found is not None:
            self._heard.append((stream.stream_id, found))
        if ended:
            self._content(stream.stream_id, b"", True)

    def _request_head(self, message: _Message, lines: Fields) -> RequestHead | Fault:
        head = self.rules.section_limit(lines, self.limits.message) or self.rules.request_message(lines, b"3.0")
        if isinstance(head, Fault):
            return head
        declared = self.rules.declared_length(head.fields)
        if isinstance(declared, Fault):
            return declared
        message.method, message.declared = head.method, declared
        return head

    def _response_head(self, message: _Message, lines: Fields) -> InformationalHead | ResponseHead | Fault:
        head = self.rules.section_limit(lines, self.limits.message) or self.rules.response_message(lines)
        if isinstance(head, Fault):
            return head
        if isinstance(head, InformationalHead):
            message.interim += 1
            return head if message.interim <= MOST_INTERIM else Fault(502, "too many interim responses")
        declared = self.rules.declared_length(head.fields)
        if isinstance(declared, Fault):
            return declared
        bare = self.rules.response_framing(message.method, head.status, []).kind == "none"
        message.declared = 0 if bare else declared
        return head

    def _trailers(self, message: _Message, lines: Fields) -> Fault | None:
        limit = self.rules.section_limit(lines, self.limits.message, trailers=True)
        found = limit or self.rules.trailer_message(lines)
        if isinstance(found, Fault):
            return found
        message.trailers = found
        return None

    def declared(self, stream_id: int) -> int | None:
        """The Content-Length of the message that comes in on a stream."""
        message = self._messages.get(stream_id)
        return None if message is None else message.declared

    # -- what goes out ---------------------------------------------------------------------------------------------

    def _encode_headers(self, stream_id: int, headers: Headers) -> bytes:
        return h3_qpack.encode(headers, lambda lines: self._encoded(stream_id, lines))

    def _encoded(self, stream_id: int, lines: Headers) -> bytes:
        return super()._encode_headers(stream_id, lines)

    def send_request(self, stream_id: int, lines: Fields, method: bytes) -> None:
        """A request's head, pseudo-header fields and all, on a stream that was opened for it."""
        self._messages[stream_id] = _Message(method=method)
        self.send_headers(stream_id, lines)

    def send_response(self, stream_id: int, lines: Fields) -> None:
        """The head of an interim or a final response, :status included."""
        self.send_headers(stream_id, lines)

    def send_content(self, stream_id: int, data: bytes) -> None:
        """Octets of the content."""
        self.send_data(stream_id, bytes(data), False)

    def send_end(self, stream_id: int, trailers: Fields) -> None:
        """The end of a message."""
        if trailers:
            self.send_headers(stream_id, trailers, end_stream=True)
            return
        with self._get_or_create_stream(stream_id) as stream:
            stream.finish_sending()
        self.outlet.send_stream_data(stream_id, b"", True)

    def goaway(self, number: int) -> None:
        """GOAWAY with a stream id (a server) or a push id (a client); ids never rise (RFC 9114 section 5.2)."""
        if self.sent_goaway is not None and number >= self.sent_goaway:
            return
        self.sent_goaway = number
        self.outlet.send_stream_data(
            self._local_control_stream_id or 0, encode_frame(FrameType.GOAWAY, encode_uint_var(number))
        )
