"""What stands below and beside aioquic's HTTP/3 connection in the place of its own: see `h3_connection`. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeAlias

import pylsqpack
from aioquic.buffer import Buffer, BufferReadError  # type: ignore[attr-defined]
from aioquic.h3.connection import ErrorCode, FrameType, ProtocolError
from aioquic.h3.events import Headers

from reference_engine.http.h3_rules import H3Rules

LONGEST_CONTROL_FRAME = 4_096
"""Octets of a frame on a control stream that is kept: nobody has that many settings."""


@dataclass(slots=True)
class Send:
    """Octets of one of our directions, and perhaps its end."""

    stream_id: int
    data: bytes
    fin: bool = False


@dataclass(slots=True)
class ResetStream:
    """RESET_STREAM."""

    stream_id: int
    code: int


@dataclass(slots=True)
class CloseConnection:
    """CONNECTION_CLOSE with a code of the application."""

    code: int
    reason: str


Command: TypeAlias = Send | ResetStream | CloseConnection


class ExcessiveLoad(ProtocolError):  # noqa: N818 - as the library names its own
    """The peer does what is allowed, but far too much of it (RFC 9114 section 10.5)."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class Outlet:
    """What the library believes to be its QUIC connection. `unidirectional` are the numbers of the streams that are
    there for it, `datagrams` is the peer's max_datagram_frame_size."""

    def __init__(self, *, is_client: bool, unidirectional: Sequence[int], datagrams: int | None) -> None:
        self.configuration = SimpleNamespace(is_client=is_client)
        self.queue: list[Command] = []
        self._unidirectional = list(unidirectional)
        self._quic_logger = None
        self._remote_max_datagram_frame_size = datagrams

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        """The next of our streams."""
        if not is_unidirectional:
            raise ValueError("requests get the number of a stream that is open")
        return self._unidirectional.pop(0)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Keep what is to be sent; an end joins what goes in front of it."""
        last = self.queue[-1] if self.queue else None
        if end_stream and not data and isinstance(last, Send) and last.stream_id == stream_id:
            last.fin = True
        elif data or end_stream:
            self.queue.append(Send(stream_id, data, end_stream))

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Keep it."""
        self.queue.append(ResetStream(stream_id, int(error_code)))

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        """Keep it."""
        self.queue.append(CloseConnection(int(error_code), reason_phrase))


class BoundedEncoder:
    """The encoder of field sections, which uses as much of the peer's dynamic table as a rule allows."""

    def __init__(self, rules: H3Rules) -> None:
        self._rules = rules
        self._encoder = pylsqpack.Encoder()

    def apply_settings(self, max_table_capacity: int, blocked_streams: int) -> bytes:
        """What the peer offers; the instruction that starts the table."""
        capacity, blocked = self._rules.encoder_table(max_table_capacity, blocked_streams)
        return self._encoder.apply_settings(max_table_capacity=capacity, blocked_streams=blocked)

    def encode(self, stream_id: int, headers: Headers) -> tuple[bytes, bytes]:
        """Octets of the encoder stream, and of the section."""
        return self._encoder.encode(stream_id, headers)

    def feed_decoder(self, data: bytes) -> None:
        """Octets of the peer's decoder stream. Raises pylsqpack.DecoderStreamError."""
        self._encoder.feed_decoder(data)


class UnidirectionalStream:
    """What is known of a unidirectional stream of the peer: its type once that was read, and, of a control stream, the
    frame at hand."""

    def __init__(self) -> None:
        self.type: int | None = None
        self._start = b""
        self._buffer = b""
        self._skip = 0

    def begins(self, data: bytes) -> tuple[bytes, bytes] | None:
        """What the library is to be given, and what is behind the type; None as long as that is not here."""
        if self.type is not None:
            return data, data
        self._start += data
        if not self._start or len(self._start) < 1 << (self._start[0] >> 6):
            return None
        buf = Buffer(data=self._start)
        self.type = buf.pull_uint_var()
        whole, self._start = self._start, b""
        return whole, whole[buf.tell() :]

    def frames(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames of a control stream that are whole now, (type, payload); those of unknown types are passed over.
        Raises ExcessiveLoad."""
        found: list[tuple[int, bytes]] = []
        self._buffer += data
        while True:
            skipped = min(self._skip, len(self._buffer))
            self._buffer, self._skip = self._buffer[skipped:], self._skip - skipped
            buf = Buffer(data=self._buffer)
            try:
                kind, length = buf.pull_uint_var(), buf.pull_uint_var()
            except BufferReadError:
                return found
            if kind not in (FrameType.SETTINGS, FrameType.GOAWAY, FrameType.CANCEL_PUSH, FrameType.MAX_PUSH_ID):
                self._buffer, self._skip = self._buffer[buf.tell() :], length
                continue
            if length > LONGEST_CONTROL_FRAME:
                raise ExcessiveLoad("a control frame is too long")
            if len(self._buffer) - buf.tell() < length:
                return found
            found.append((kind, self._buffer[buf.tell() : buf.tell() + length]))
            self._buffer = self._buffer[buf.tell() + length :]
