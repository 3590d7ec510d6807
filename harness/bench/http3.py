"""HTTP/3 for the load: frames by hand on aioquic's QUIC, and pylsqpack without a dynamic table; one thread a side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aioquic.buffer import encode_uint_var
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from pylsqpack import Decoder, Encoder

from harness.bench.blocks import WrongBytes
from harness.bench.pairs import BODY, Body, Fields, request_fields, response_fields
from harness.bench.quic import NewSession, QuicClient, Session, server_configuration
from harness.bench.streams import Target

ALPN = "h3"
DATA, HEADERS, SETTINGS = 0, 1, 4
_CONTROL = encode_uint_var(0) + encode_uint_var(SETTINGS) + encode_uint_var(0)
"""A control stream with no settings: no dynamic table, so the QPACK streams have nothing to say (RFC 9204 section 4.2
asks for them only then)."""


class Sections:
    """Field sections by the static table and literals alone."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._decoder = Decoder(0, 0)

    def frame(self, fields: Fields) -> bytes:
        """A HEADERS frame."""
        pairs = [(name.encode("ascii"), value.encode("ascii")) for name, value in fields]
        _, block = self._encoder.encode(0, pairs)
        return encode_uint_var(HEADERS) + encode_uint_var(len(block)) + block

    def read(self, stream: int, block: bytes) -> dict[bytes, bytes]:
        """The fields of a section."""
        _, fields = self._decoder.feed_header(stream, block)
        return dict(fields)


def content_frame(body: bytes) -> bytes:
    """A DATA frame with all of a message's content."""
    return encode_uint_var(DATA) + encode_uint_var(len(body)) + body


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at `at`, and where it ends (RFC 9000 section 16): behind the data where it is not
    whole."""
    if at >= len(data):
        return 0, len(data) + 1
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & ((1 << 8 * size - 2) - 1), at + size


class Frames:
    """The frames of one request stream as they arrive: content piece by piece, others whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Type and payload of what the next octets bring."""
        found: list[tuple[int, bytes]] = []
        data = self._rest + data if self._rest else data
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                found.append((DATA, piece))
                self._left -= len(piece)
                at += len(piece)
                continue
            kind, after = _number(data, at)
            size, begin = _number(data, after)
            if begin > len(data):
                break
            if kind == DATA:
                self._left = size
            elif len(data) - begin < size:
                break
            else:
                found.append((kind, data[begin : begin + size]))
                begin += size
            at = begin
        self._rest = data[at:]
        return found


class Http3Session(Session):
    """The upstream's side of one connection."""

    def __init__(self, configuration: QuicConfiguration, first: bytes) -> None:
        super().__init__(configuration, first)
        self._fields = Sections()
        self._streams: dict[int, tuple[Frames, Body]] = {}

    def handle(self, event: events.QuicEvent) -> None:
        """Answer requests. Raises `WrongBytes`."""
        if isinstance(event, events.HandshakeCompleted):
            control = self.connection.get_next_available_stream_id(is_unidirectional=True)
            self.connection.send_stream_data(control, _CONTROL)
        elif isinstance(event, events.StreamDataReceived) and event.stream_id % 4 == 0:
            self._request(event.stream_id, event.data, event.end_stream)
        elif not isinstance(event, events.StreamDataReceived):
            super().handle(event)

    def _request(self, stream: int, data: bytes, end: bool) -> None:
        frames, body = self._streams.get(stream) or (Frames(), Body(b""))
        for kind, payload in frames.feed(data):
            if kind == HEADERS:
                method = self._fields.read(stream, payload)[b":method"]
                body = Body(b"" if method == b"GET" else BODY)
            elif kind == DATA:
                body.feed(payload)
        self._streams[stream] = frames, body
        if end:
            del self._streams[stream]
            answer = body.answer()
            head = self._fields.frame(response_fields(answer))
            self.connection.send_stream_data(stream, head + content_frame(answer), end_stream=True)


class Client:
    """One connection to a target; responses are compared as they come. Raises `OSError`, `WrongBytes`."""

    def __init__(self, target: Target, host: str) -> None:
        self._quic = QuicClient(target, ALPN)
        self._host = host
        self._fields = Sections()
        self._streams: dict[int, tuple[Frames, Body]] = {}
        connection = self._quic.connection
        connection.send_stream_data(connection.get_next_available_stream_id(is_unidirectional=True), _CONTROL)

    def ask(self, body: bytes = b"") -> None:
        """A request: a small one, or one whose content comes back."""
        connection = self._quic.connection
        stream = connection.get_next_available_stream_id()
        head = self._fields.frame(request_fields(self._host, body))
        connection.send_stream_data(stream, head + (content_frame(body) if body else b""), end_stream=True)
        self._streams[stream] = Frames(), Body(body)

    def answered(self) -> int:
        """Send, wait for something, and give how many responses are whole. Raises `OSError`, `WrongBytes`."""
        self._quic.step()
        return sum(self._take(event) for event in self._quic.happened())

    def _take(self, event: Any) -> bool:
        """Whether a response ends with the event."""
        if isinstance(event, events.StreamReset):
            raise WrongBytes(f"stream {event.stream_id} was reset with code {event.error_code:#x}")
        if not isinstance(event, events.StreamDataReceived) or event.stream_id % 4:
            return False
        frames, body = self._streams[event.stream_id]
        for kind, payload in frames.feed(event.data):
            if kind == HEADERS:
                body.head(self._fields.read(event.stream_id, payload))
            elif kind == DATA:
                body.feed(payload)
        if event.end_stream:
            body.end()
            del self._streams[event.stream_id]
        return event.end_stream

    def close(self) -> None:
        """End the connection."""
        self._quic.close()


def new_sessions(certificate: Sequence[str]) -> dict[str, NewSession]:
    """Who serves a datagram channel, or a UDP port, by the mode of the upstream. Raises `OSError`."""
    commands, http = server_configuration(certificate), server_configuration(certificate, ALPN)
    return {"quic": lambda first: Session(commands, first), "h3": lambda first: Http3Session(http, first)}
