"""HTTP/3 for the tests of the engine: frames by hand, and the codec with its peer in memory."""

from __future__ import annotations

from typing import Any

import pylsqpack
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import encode_frame, encode_settings

from reference_engine.http.h3_connection import EngineH3, H3Limits, Heard
from reference_engine.http.h3_outlet import CloseConnection, Command, ResetStream, Send
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Limits

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x0, 0x1, 0x3, 0x4, 0x5, 0x7, 0xD
CONTROL, PUSH, ENCODER, DECODER = b"\x00", b"\x01", b"\x02", b"\x03"
GET: list[tuple[bytes, bytes]] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.t.edge.test"),
    (b":path", b"/"),
]
POST = [(b":method", b"POST"), *GET[1:]]
OK: list[tuple[bytes, bytes]] = [(b":status", b"200")]


def section(fields: Any) -> bytes:
    """A field section without references to the dynamic table, legal or not."""
    return bytes(pylsqpack.Encoder().encode(0, list(fields))[1])


def frame(kind: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return bytes(encode_frame(kind, payload))


def headers(fields: Any) -> bytes:
    """A HEADERS frame."""
    return frame(HEADERS, section(fields))


def settings(values: dict[int, int] | None = None) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, encode_settings(values or {}))


def number(value: int) -> bytes:
    """A variable-length integer."""
    return bytes(encode_uint_var(value))


class Codec:
    """One of the engine's codecs, and what it said."""

    def __init__(
        self,
        *,
        client: bool = False,
        rules: HttpRules | None = None,
        table_capacity: int = 4_096,
        blocked_streams: int = 16,
        **message: int,
    ) -> None:
        unidirectional = (2, 6, 10) if client else (3, 7, 11)
        limits = H3Limits(Limits(**message), table_capacity, blocked_streams)
        self.h3 = EngineH3(rules or HttpRules(), limits, is_client=client, unidirectional=unidirectional)
        self.theirs = (3, 7, 11) if client else (2, 6, 10)
        self.heard: list[tuple[int, Heard]] = []
        self.said: list[Command] = []
        self.wanted = True

    def take(self, stream_id: int, data: bytes, fin: bool = False) -> list[Heard]:
        """Octets of the peer; what was heard on this stream."""
        if stream_id & 2:
            self.wanted, heard = self.h3.receive_unidirectional(stream_id, data, fin)
        else:
            heard = self.h3.receive(stream_id, data, fin)
        self.heard += heard
        self.said += self.h3.commands
        return [event for number, event in heard if number == stream_id]

    def settle(self, values: dict[int, int] | None = None) -> None:
        """The peer's three streams with its settings."""
        control, encoder, decoder = self.theirs
        self.take(control, CONTROL + settings(values))
        self.take(encoder, ENCODER)
        self.take(decoder, DECODER)

    @property
    def close(self) -> CloseConnection | None:
        """How the connection was closed."""
        return next((one for one in self.said if isinstance(one, CloseConnection)), None)

    @property
    def code(self) -> int | None:
        """The code of the close."""
        return None if self.close is None else self.close.code

    @property
    def resets(self) -> dict[int, int]:
        """RESET_STREAM by stream."""
        return {one.stream_id: one.code for one in self.said if isinstance(one, ResetStream)}

    def sent(self, stream_id: int) -> bytes:
        """Octets of a stream of ours."""
        self.said += self.h3.commands
        return b"".join(one.data for one in self.said if isinstance(one, Send) and one.stream_id == stream_id)
