"""Doubles of HTTP/2 that forgive: connections for which an illegal frame is no end (RFC 9113 sections 3.4 to 6)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import hpack
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import ProtocolError
from hpack.exceptions import HPACKError
from hyperframe.frame import Frame

from reference_engine.http.floods import FloodRules, H2Limits
from reference_engine.http.h2_connection import LAST_STREAM
from reference_engine.mutants._http2 import (
    CONTINUATION,
    HEADERS,
    PREFACE,
    SETTINGS,
    Filtered,
    Flawed,
    RawFrame,
    h2_double,
)

ON_STREAM_0 = frozenset({0, HEADERS, 2, 3, 5, CONTINUATION})
ON_STREAMS = frozenset({SETTINGS, 6, 7})
SIZES = {2: 5, 3: 4, 6: 8, 8: 4}
PADDED, END_HEADERS = 0x8, 0x4
TOO_LARGE = 16_385


class _Skips(Filtered, ABC):
    """Passes over frames that are wrong in one way."""

    def passed(self, frame: RawFrame) -> list[RawFrame]:
        """See Filtered."""
        if not self.wrong(frame):
            return [frame]
        self.reached()
        return []

    @abstractmethod
    def wrong(self, frame: RawFrame) -> bool:
        """Whether it is passed over."""


@h2_double(
    "http2-wrong-streams-skipped",
    (
        "RFC9113-6.1-1",
        "RFC9113-6.2-2",
        "RFC9113-6.3-1",
        "RFC9113-6.4-2",
        "RFC9113-6.5-2",
        "RFC9113-6.7-3",
        "RFC9113-6.8-6",
        "RFC9113-6.10-1",
    ),
    "passes over frames on stream 0 that belong to a stream, and on a stream that belong to the connection",
)
class _WrongStreams(_Skips):
    def wrong(self, frame: RawFrame) -> bool:
        return frame.kind in (ON_STREAMS if frame.stream else ON_STREAM_0)


@h2_double(
    "http2-odd-sizes-skipped",
    (
        "RFC9113-4.2-2",
        "RFC9113-6.1-4",
        "RFC9113-6.4-3",
        "RFC9113-6.5-1",
        "RFC9113-6.5-3",
        "RFC9113-6.7-3",
        "RFC9113-6.9-4",
    ),
    "passes over frames of a size that cannot be",
)
class _OddSizes(_Skips):
    def wrong(self, frame: RawFrame) -> bool:
        size = len(frame.payload)
        if size != SIZES.get(frame.kind, size) or size >= TOO_LARGE:
            return True
        if frame.kind == SETTINGS and (size % 6 or (frame.flags & 1 and size)):
            return True
        padded = frame.kind in (0, HEADERS) and frame.flags & PADDED
        return bool(padded) and (not size or frame.payload[0] >= size)


@h2_double(
    "http2-bad-settings-skipped",
    ("RFC9113-6.5.2-1", "RFC9113-6.5.2-3", "RFC9113-6.5.2-5", "RFC9113-6.5.2-6"),
    "passes over SETTINGS with a value that cannot be",
)
class _BadSettings(_Skips):
    def wrong(self, frame: RawFrame) -> bool:
        if frame.kind != SETTINGS or frame.flags & 1:
            return False
        pairs = [frame.payload[at : at + 6] for at in range(0, len(frame.payload), 6)]
        return any(self._bad(int.from_bytes(pair[:2], "big"), int.from_bytes(pair[2:], "big")) for pair in pairs)

    def _bad(self, name: int, value: int) -> bool:
        most = 0 if self.config.client_side else 1
        frame_size = name == 5 and not 16_384 <= value < 1 << 24
        return (name == 2 and value > most) or (name == 4 and value >= 1 << 31) or frame_size


@h2_double("http2-empty-increment-skipped", ("RFC9113-6.9-1",), "passes over WINDOW_UPDATE by 0")
class _EmptyIncrement(_Skips):
    def wrong(self, frame: RawFrame) -> bool:
        return frame.kind == 8 and frame.payload == bytes(4)


@h2_double(
    "http2-states-forgiven",
    (
        "RFC9113-5.1-1",
        "RFC9113-5.1-2",
        "RFC9113-5.1.1-1",
        "RFC9113-6.4-2",
        "RFC9113-6.5.2-4",
        "RFC9113-6.9.1-2",
        "RFC9113-6.9.2-2",
        "RFC9113-6.10-1",
        "RFC9113-8.4-1",
    ),
    "passes over frames that may not come in the state of their stream or window",
)
class _StatesForgiven(Flawed):
    def _receive_frame(self, frame: Frame) -> list[Event]:
        try:
            return super()._receive_frame(frame)
        except ProtocolError:
            self.reached()
            self.state_machine.state = (
                type(self.state_machine.state).CLIENT_OPEN
                if self.config.client_side
                else (type(self.state_machine.state).SERVER_OPEN)
            )
            return []


@h2_double(
    "http2-blocks-interleaved",
    ("RFC9113-4.3-1", "RFC9113-5.5-2", "RFC9113-6.2-1"),
    "takes a field block for whole when something else comes",
)
class _Interleaved(Filtered):
    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if frame.kind == CONTINUATION:
            self.reached()
            return []
        if frame.kind == HEADERS and not frame.flags & END_HEADERS:
            self.reached()
            return [frame._replace(flags=frame.flags | END_HEADERS)]
        return [frame]


@h2_double(
    "http2-preface-unchecked", ("RFC9113-3.4-3", "RFC9113-5.4.1-2"), "begins with whatever comes first", side="server"
)
class _AnyPreface(Filtered):
    def feed(self, data: bytes, now: float) -> list[Event]:
        if self._greeting == PREFACE and not data.startswith(b"PRI * HTTP/2.0\r\n\r\nSM"):
            self.reached()
            data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + data[PREFACE:]
        return super().feed(data, now)

    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if not self._greeted and (frame.kind != SETTINGS or frame.flags & 1):
            self.reached()
            self._greeted = True
        return [frame]


@h2_double("http2-server-preface-unchecked", ("RFC9113-3.4-3",), "waits on where no HTTP/2 comes", side="client")
class _AnyServer(Flawed):
    def fail(self, code: ErrorCodes) -> None:
        if self._greeted:
            super().fail(code)
        else:
            self.reached()


@h2_double("http2-error-without-goaway", ("RFC9113-5.4.1-1",), "ends a connection in error without GOAWAY")
class _WithoutGoaway(Flawed):
    def _say_goaway(self, last: int, code: ErrorCodes) -> None:
        if code == ErrorCodes.NO_ERROR:
            super()._say_goaway(last, code)
        else:
            self.reached()


@h2_double("http2-error-goes-on", ("RFC9113-5.4.1-2",), "says GOAWAY for an error, and goes on")
class _GoesOn(Flawed):
    def fail(self, code: ErrorCodes) -> None:
        self.reached()
        super().fail(code)
        self.failed = None


@h2_double("http2-goaway-rises", ("RFC9113-6.8-5",), "says GOAWAY twice, the second time with a higher stream")
class _Rises(Flawed):
    def _say_goaway(self, last: int, code: ErrorCodes) -> None:
        super()._say_goaway(last, code)
        if last < LAST_STREAM - 2:
            self.reached()
            super()._say_goaway(last + 2, code)


class _Forgiving(hpack.Decoder):
    """Gives no fields where a block cannot be decoded."""

    owner: Flawed

    def decode(self, data: bytes, raw: bool = False) -> Any:
        """See hpack."""
        try:
            return super().decode(data, raw)
        except (HPACKError, IndexError):
            self.owner.reached()
            return []


@h2_double(
    "http2-blocks-forgiven",
    (
        "RFC7541-2.3.3-1",
        "RFC7541-5.1-1",
        "RFC7541-5.2-1",
        "RFC7541-6.1-1",
        "RFC7541-6.3-1",
        "RFC9113-4.3-2",
    ),
    "takes a field block that cannot be decoded for an empty one",
)
class _BlocksForgiven(Flawed):
    def __init__(self, rules: FloodRules, limits: H2Limits, *, client: bool) -> None:
        super().__init__(rules, limits, client=client)
        most = self.decoder.max_header_list_size
        self.decoder = _Forgiving(max_header_list_size=most)
        self.decoder.owner = self
