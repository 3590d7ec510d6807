"""HTTP/2 for the load: frames by hand on blocking streams, and hpack; one thread for each side, no event loop.

Both sides give windows that the load never fills, and look at those of the other side.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from hpack import Decoder, Encoder

from harness.bench.blocks import READ, Stream, WrongBytes
from harness.bench.pairs import BODY, Body, Fields, request_fields, response_fields
from harness.bench.streams import Target, close

ALPN = "h2"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
_KNOWN_FLAGS = END_STREAM | END_HEADERS
_ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 2, 3, 4, 5
_HEAD = struct.Struct("!BHBBL")
_SETTING = struct.Struct("!HL")
_WORD = struct.Struct("!L")
_DEFAULT_WINDOW = 65_535
_STREAM_WINDOW = 1 << 24
"""What a stream may send to us: more than any content of the load, so no stream needs more."""
_CONNECTION_WINDOW = 1 << 30
_MOST = 1 << 18
"""Octets that are made before they are sent."""


Message = tuple[int, Mapping[bytes, bytes] | None, bytes, bool]
"""A stream, the fields of a head or `None`, content, and whether the message ends with it."""


class Connection:
    """One connection of either side. `read` gives what arrived, `flush` sends what was said."""

    def __init__(self, stream: Stream, *, client: bool) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._view = memoryview(bytearray(READ))
        self._preface = b"" if client else PREFACE
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._window = _DEFAULT_WINDOW
        self._initial = _DEFAULT_WINDOW
        self._frame = 16_384
        self._windows: dict[int, int] = {}
        self._waiting: dict[int, memoryview] = {}
        self._took = 0
        own = {_INITIAL_WINDOW: _STREAM_WINDOW, **({_ENABLE_PUSH: 0} if client else {_MAX_STREAMS: 1000})}
        self._out = bytearray(PREFACE if client else b"")
        self._say(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in own.items()))
        self._say(WINDOW_UPDATE, 0, 0, _WORD.pack(_CONNECTION_WINDOW - _DEFAULT_WINDOW))

    def _say(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._out += _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream)
        self._out += payload

    def head(self, stream: int, fields: Fields, *, end: bool) -> None:
        """A field section, in one HEADERS frame."""
        block = self._encoder.encode(fields)
        self._say(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)
        if not end:
            self._windows[stream] = self._initial

    def content(self, stream: int, data: bytes) -> None:
        """All content of a message that has begun; it leaves as the other side gives credit."""
        self._waiting[stream] = memoryview(data)

    def flush(self) -> None:
        """Send what there is credit for. Raises `OSError`."""
        for stream in tuple(self._waiting):
            self._fill(stream)
        if self._out:
            data, self._out = bytes(self._out), bytearray()
            self._stream.sendall(data)

    def _fill(self, stream: int) -> None:
        view = self._waiting[stream]
        while view and (room := min(self._window, self._windows[stream], self._frame, len(view))) > 0:
            self._say(DATA, END_STREAM if room == len(view) else 0, stream, view[:room])
            view = view[room:]
            self._window -= room
            self._windows[stream] -= room
            if len(self._out) > _MOST:
                data, self._out = bytes(self._out), bytearray()
                self._stream.sendall(data)
        if view:
            self._waiting[stream] = view
        else:
            del self._waiting[stream], self._windows[stream]

    @property
    def waits(self) -> bool:
        """Whether content waits for credit."""
        return bool(self._waiting)

    def read(self) -> list[Message] | None:
        """What has arrived, after waiting for something; `None` at the end of the connection. Raises `OSError`,
        `WrongBytes`."""
        count = self._stream.recv_into(self._view)
        if count == 0:
            return None
        self._buffer += self._view[:count]
        if self._preface:
            if len(self._buffer) < len(PREFACE):
                return []
            if not self._buffer.startswith(PREFACE):
                raise WrongBytes(f"no HTTP/2: {bytes(self._buffer[:24])!r}")
            del self._buffer[: len(PREFACE)]
            self._preface = b""
        return self._messages()

    def _messages(self) -> list[Message]:
        found: list[Message] = []
        at = 0
        buffer = self._buffer
        while len(buffer) - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + _HEAD.size + (high << 16 | low)
            if len(buffer) < end:
                break
            payload = bytes(buffer[at + _HEAD.size : end])
            at = end
            if kind == DATA:
                self._check(kind, flags)
                self._credit(len(payload))
                found.append((stream, None, payload, bool(flags & END_STREAM)))
            elif kind == HEADERS:
                self._check(kind, flags)
                if not flags & END_HEADERS:
                    raise WrongBytes("a field section of several frames")
                fields = dict(self._decoder.decode(payload, raw=True))
                found.append((stream, fields, b"", bool(flags & END_STREAM)))
            else:
                self._other(kind, flags, stream, payload)
        del buffer[:at]
        return found

    def _check(self, kind: int, flags: int) -> None:
        if flags & ~_KNOWN_FLAGS:
            raise WrongBytes(f"frame {kind} with flags {flags:#x}, which the load does not read")

    def _credit(self, count: int) -> None:
        self._took += count
        if self._took > _CONNECTION_WINDOW // 2:
            self._say(WINDOW_UPDATE, 0, 0, _WORD.pack(self._took))
            self._took = 0

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            (more,) = _WORD.unpack(payload)
            if stream == 0:
                self._window += more
            elif stream in self._windows:
                self._windows[stream] += more
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
            self._say(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._say(PING, ACK, 0, payload)
        elif kind in (RST_STREAM, GOAWAY):
            raise WrongBytes(f"{'RST_STREAM' if kind == RST_STREAM else 'GOAWAY'} on stream {stream}: {payload[:80]!r}")

    def _settings(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial
                self._initial = value
            elif name == _MAX_FRAME:
                self._frame = value


class Client:
    """One connection to a target; responses are compared as they come. Raises `OSError`, `WrongBytes`."""

    def __init__(self, target: Target, host: str) -> None:
        self._tls = target.connect(target.context([ALPN]))
        if self._tls.selected_alpn_protocol() != ALPN:
            raise WrongBytes(f"{self._tls.selected_alpn_protocol()!r} by ALPN, not h2")
        self._host = host
        self._wire = Connection(self._tls, client=True)
        self._next = 1
        self._bodies: dict[int, Body] = {}

    def ask(self, body: bytes = b"") -> None:
        """A request: a small one, or one whose content comes back."""
        stream, self._next = self._next, self._next + 2
        self._wire.head(stream, request_fields(self._host, body), end=not body)
        self._bodies[stream] = Body(body)
        if body:
            self._wire.content(stream, body)

    def answered(self) -> int:
        """Send, wait for something, and give how many responses are whole. Raises `OSError`, `WrongBytes`."""
        self._wire.flush()
        messages = self._wire.read()
        if messages is None:
            raise WrongBytes("the connection ended in a response")
        count = 0
        for stream, fields, data, end in messages:
            body = self._bodies[stream]
            if fields is not None:
                body.head(fields)
            body.feed(data)
            if end:
                body.end()
                del self._bodies[stream]
                count += 1
        return count

    def close(self) -> None:
        """End the connection."""
        close(self._tls)


def serve(stream: Stream) -> None:
    """Answer requests until the connection ends. Raises `OSError`, `WrongBytes`."""
    wire = Connection(stream, client=False)
    bodies: dict[int, Body] = {}
    wire.flush()
    while (messages := wire.read()) is not None:
        for number, fields, data, end in messages:
            if fields is not None:
                bodies[number] = Body(b"" if fields[b":method"] == b"GET" else BODY)
            bodies[number].feed(data)
            if end:
                answer = bodies.pop(number).answer()
                wire.head(number, response_fields(answer), end=False)
                wire.content(number, answer)
        wire.flush()
