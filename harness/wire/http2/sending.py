"""The saying half of a connection: frames out, legal by default, and what they mean for streams and windows.

Everything leaves through `say`, and is read again on its way out: whatever a script puts on the wire, by a method
or octet by octet, the streams that it opened and ended, its settings and its credit are known from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from hpack import Decoder, Encoder
from hyperframe.frame import Frame

from harness.wire.http2 import frames
from harness.wire.http2.fields import Field
from harness.wire.http2.frames import FrameReader, Seen
from harness.wire.http2.numbers import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_TABLE_SIZE,
    DEFAULT_WINDOW,
    INITIAL_SETTINGS,
    Flag,
    FrameType,
    Setting,
)
from harness.wire.http2.options import Options
from harness.wire.http2.stream import Stream

Role = Literal["client", "server"]
Said = tuple[bytes, bytes] | tuple[bytes, bytes, bool] | Field
"""A field of ours: name, value, and whether it may never be indexed."""


class Sender:
    """The state of both sides, and what we say. `Connection` adds what is heard."""

    def __init__(self, role: Role, options: Options | None = None) -> None:
        self.role: Role = role
        self.options = options or Options()
        self.streams: dict[int, Stream] = {}
        self.local: dict[int, int] = dict(INITIAL_SETTINGS)
        """Our settings that the other side has acknowledged."""
        self.remote: dict[int, int] = dict(INITIAL_SETTINGS)
        """The other side's settings."""
        self.unacknowledged: deque[tuple[tuple[int, int], ...]] = deque()
        self.send_window = DEFAULT_WINDOW
        self.receive_window = DEFAULT_WINDOW
        self.goaway_sent: int | None = None
        self.pings: list[bytes] = []
        self.encoder = Encoder()
        self.decoder = Decoder(max_header_list_size=self.options.limits.fields)
        self.highest_ours = 0
        self.highest_theirs = 0
        self._next_stream = 1 if role == "client" else 2
        self._out = bytearray()
        self._own = FrameReader()
        self._said: list[tuple[Seen, str]] = []
        self._over: deque[int] = deque()
        self._queued: dict[int, Stream] = {}
        self._heads: dict[int, deque[tuple[bytes, str]]] = {}
        self._owed: dict[int, int] = {}

    # Octets

    def start(self) -> None:
        """Our preface: a client's 24 octets, SETTINGS, and the credit of the connection (RFC 9113 section 3.4)."""
        options = self.options
        if self.role == "client":
            self._out += options.preface
        if options.first is not None:
            self.say(options.first)
            return
        pairs = options.pairs
        if self.role == "client" and Setting.ENABLE_PUSH not in dict(pairs):
            pairs = ((Setting.ENABLE_PUSH, 0), *pairs)
        self.say(frames.settings(pairs))
        if options.connection_window > DEFAULT_WINDOW:
            self.say(frames.window_update(0, options.connection_window - DEFAULT_WINDOW))

    def outgoing(self) -> bytes:
        """What is to be sent; it is ours no more."""
        octets, self._out = bytes(self._out), bytearray()
        return octets

    @property
    def unsent(self) -> int:
        """How many octets `outgoing` would give."""
        return len(self._out)

    def take_said(self) -> list[tuple[Seen, str]]:
        """The frames that were said since, for a transcript; the words are those of a field section of ours."""
        said, self._said = self._said, []
        return said

    def say(self, *what: Frame | bytes) -> None:
        """Put frames, or any octets, on the wire."""
        for item in what:
            octets = item.serialize() if isinstance(item, Frame) else item
            self._out += octets
            for seen in self._own.feed(octets):
                self._note(seen)

    # What it means

    def _note(self, seen: Seen) -> None:
        words = ""
        if seen.kind == FrameType.HEADERS and seen.stream:
            words = self._note_head(seen)
        elif seen.kind == FrameType.SETTINGS and not seen.has(Flag.ACK):
            self.unacknowledged.append(seen.pairs)
        elif seen.kind == FrameType.PING and not seen.has(Flag.ACK):
            self.pings.append(seen.payload)
        elif seen.kind == FrameType.GOAWAY and len(seen.payload) >= 8:
            self.goaway_sent = int.from_bytes(seen.payload[:4], "big")
        elif seen.kind == FrameType.WINDOW_UPDATE and len(seen.payload) == 4:
            self._note_credit(seen)
        elif seen.kind == FrameType.PUSH_PROMISE and len(seen.payload) >= 4:
            self._stream(int.from_bytes(seen.payload[:4], "big")).opened = True
        elif stream := self.streams.get(seen.stream):
            self._note_on(stream, seen)
        self._said.append((seen, words))

    def _note_head(self, seen: Seen) -> str:
        stream = self._stream(seen.stream)
        waiting = self._heads.get(seen.stream)
        method, words = waiting.popleft() if waiting else (b"", "")
        if not waiting:
            self._heads.pop(seen.stream, None)
        if stream.ours and not stream.opened:
            stream.method = method
        stream.opened = True
        if seen.has(Flag.END_STREAM):
            self._end_ours(stream)
        return words

    def _note_credit(self, seen: Seen) -> None:
        increment = int.from_bytes(seen.payload, "big") & 0x7FFFFFFF
        if not seen.stream:
            self.receive_window += increment
        elif stream := self.streams.get(seen.stream):
            stream.receive_window += increment

    def _note_on(self, stream: Stream, seen: Seen) -> None:
        if seen.kind == FrameType.DATA:
            stream.send_window -= seen.length
            self.send_window -= seen.length
            stream.said += seen.length
            if seen.has(Flag.END_STREAM):
                self._end_ours(stream)
        elif seen.kind == FrameType.RST_STREAM and len(seen.payload) == 4:
            stream.reset_sent = int.from_bytes(seen.payload, "big")
            self._drop_queue(stream)
            self._closed(stream)

    def _end_ours(self, stream: Stream) -> None:
        stream.local_ended = True
        self._closed(stream)

    def _closed(self, stream: Stream) -> None:
        """A stream that is over stays known for a while: what still comes on it is judged."""
        if not stream.over or stream.id in self._over:
            return
        self._over.append(stream.id)
        if len(self._over) > self.options.limits.streams:
            self.streams.pop(self._over.popleft(), None)

    def _drop_queue(self, stream: Stream) -> None:
        stream.queue.clear()
        stream.trailers_queued.clear()
        stream.end_queued = False
        self._queued.pop(stream.id, None)

    def _is_ours(self, stream_id: int) -> bool:
        return bool(stream_id % 2) == (self.role == "client")

    def _stream(self, stream_id: int) -> Stream:
        """The stream, new where it was not known."""
        stream = self.streams.get(stream_id)
        if stream is None:
            ours = self._is_ours(stream_id)
            windows = (self.remote[Setting.INITIAL_WINDOW_SIZE], self.local[Setting.INITIAL_WINDOW_SIZE])
            stream = self.streams[stream_id] = Stream(stream_id, ours, *windows)
            if ours:
                self.highest_ours = max(self.highest_ours, stream_id)
                self._next_stream = max(self._next_stream, stream_id + 2)
            else:
                self.highest_theirs = max(self.highest_theirs, stream_id)
        return stream

    # Saying it legally

    def open_stream(self) -> int:
        """The next stream id of ours, which is taken by this."""
        stream_id = self._next_stream
        self._next_stream += 2
        return stream_id

    def headers(
        self,
        stream: int,
        fields: Iterable[Said] = (),
        *,
        end: bool = False,
        block: bytes | None = None,
        huffman: bool | None = None,
        pieces: Iterable[int] = (),
        pad: int | None = None,
        depends_on: int | None = None,
    ) -> bytes:
        """A field section as HEADERS and CONTINUATION frames, legal or not, to be said next: the compression state goes
        on with it. `block` is said instead of the encoded `fields`, which then only name it; `pieces` are the sizes of
        its first fragments."""
        listed = [Field(*field) for field in fields]
        if block is None:
            block = self.encode(listed, huffman=huffman)
        method = next((field.value for field in listed if field.name == b":method"), b"")
        self._heads.setdefault(stream, deque()).append((method, words_of(listed)))
        limit = self.remote.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE)
        return frames.block_frames(
            stream, block, end=end, limit=limit, pieces=pieces, pad=pad, depends_on=depends_on
        )  # fmt: skip

    def encode(self, fields: Sequence[Said], *, huffman: bool | None = None) -> bytes:
        """A header block by hpack."""
        chosen = self.options.huffman if huffman is None else huffman
        return self.encoder.encode([(*field, False)[:3] for field in fields], huffman=chosen)

    def send_content(self, stream_id: int, data: bytes, *, end: bool = False, trailers: Iterable[Said] = ()) -> None:
        """Content, as far as the credit goes; the rest waits for more, and the end and trailers behind it. Nothing
        where the stream is over."""
        stream = self._stream(stream_id)
        if stream.over or stream.local_ended:
            return
        stream.queue += data
        stream.trailers_queued += [Field(*field) for field in trailers]
        stream.end_queued = stream.end_queued or end
        self._queued[stream_id] = stream
        self.pump()

    def pump(self) -> None:
        """Say what the credit permits of the content that waits."""
        most = self.remote.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE)
        most = min(most, self.options.frame_size or most)
        pad = self.options.pad
        for stream in list(self._queued.values()):
            while stream.waiting and self._say_next(stream, most, pad):
                pass
            if not stream.waiting:
                self._queued.pop(stream.id, None)

    def _say_next(self, stream: Stream, most: int, pad: int | None) -> bool:
        """One frame of what waits; false where there is no credit for it."""
        if not stream.queue and stream.trailers_queued:
            trailers, stream.trailers_queued, stream.end_queued = stream.trailers_queued, [], False
            self.say(self.headers(stream.id, trailers, end=True))
            return True
        extra = 0 if pad is None else pad + 1
        room = min(most, self.send_window, stream.send_window) - extra
        if room < 0 or (stream.queue and not room):
            # An end alone needs no credit (RFC 9113 section 6.9.1).
            if stream.queue or pad is not None:
                return False
            room = 0
        piece = bytes(stream.queue[:room])
        del stream.queue[: len(piece)]
        last = stream.end_queued and not stream.queue and not stream.trailers_queued
        if last:
            stream.end_queued = False
        self.say(frames.data(stream.id, piece, end=last, pad=pad))
        return True

    def reset(self, stream_id: int, code: int) -> None:
        """RST_STREAM, unless the stream is over."""
        stream = self._stream(stream_id)
        if not stream.over:
            self.say(frames.rst_stream(stream_id, code))

    def goaway(self, code: int = 0, last: int | None = None, debug: bytes = b"") -> None:
        """GOAWAY; `last` is the other side's highest stream so far unless told otherwise."""
        self.say(frames.goaway(self.highest_theirs if last is None else last, code, debug))

    def consume(self, stream_id: int, count: int) -> None:
        """`count` octets of a stream are taken: as much credit for it and for the connection, unless `hold`. It is said
        once half of a window is used up."""
        if self.options.hold or not count:
            return
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.over and not stream.remote_ended:
            initial = self.local[Setting.INITIAL_WINDOW_SIZE]
            self._owe(stream_id, count, low=stream.receive_window <= initial // 2)
        self._owe(0, count, low=self.receive_window <= max(self.options.connection_window, DEFAULT_WINDOW) // 2)

    def _owe(self, stream_id: int, count: int, *, low: bool) -> None:
        owed = self._owed.get(stream_id, 0) + count
        self._owed[stream_id] = owed
        if low:
            del self._owed[stream_id]
            self.say(frames.window_update(stream_id, owed))

    # The other side's settings

    def _obey(self, pairs: tuple[tuple[int, int], ...]) -> None:
        """Settings in their order (RFC 9113 section 6.5.3)."""
        for name, value in pairs:
            if name == Setting.INITIAL_WINDOW_SIZE:
                delta = value - self.remote[Setting.INITIAL_WINDOW_SIZE]
                for stream in self.streams.values():
                    if not stream.over:
                        stream.send_window += delta
            elif name == Setting.HEADER_TABLE_SIZE:
                self.encoder.header_table_size = min(value, DEFAULT_TABLE_SIZE)
            self.remote[name] = value

    def _in_force(self, pairs: tuple[tuple[int, int], ...]) -> None:
        """Our settings, once they are acknowledged."""
        for name, value in pairs:
            if name == Setting.INITIAL_WINDOW_SIZE:
                delta = value - self.local[Setting.INITIAL_WINDOW_SIZE]
                for stream in self.streams.values():
                    if not stream.over:
                        stream.receive_window += delta
            self.local[name] = value


def words_of(fields: Sequence[Field]) -> str:
    """A field section in a line: what its pseudo-header fields say, then the names of the others."""
    pseudo = {field.name: field.value.decode("latin-1") for field in fields if field.name[:1] == b":"}
    start = [pseudo[name] for name in (b":status", b":method", b":path") if name in pseudo]
    names = [field.name.decode("latin-1") for field in fields if field.name[:1] != b":"]
    return "; ".join(part for part in (" ".join(start)[:200], ", ".join(names)[:400]) if part)
