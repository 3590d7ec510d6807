"""An HTTP/2 connection of a scripted peer, either role: octets in, events out; what it says is in `Sender`.

It judges, and goes on: a rule that the other side breaks is a `Broken` event with its section, and reading goes on
wherever a reading is left. Nothing that a peer sends raises an exception.
"""

from __future__ import annotations

from hpack.exceptions import HPACKError, InvalidTableSizeError, OversizedHeaderListError
from hyperframe.frame import DataFrame, HeadersFrame, PushPromiseFrame

from harness.wire.http1_message import Violation
from harness.wire.http2 import events as seen_events
from harness.wire.http2 import fields as rules
from harness.wire.http2 import frames
from harness.wire.http2.events import Event
from harness.wire.http2.fields import Field
from harness.wire.http2.frames import FrameReader, Seen
from harness.wire.http2.numbers import (
    DEFAULT_TABLE_SIZE,
    DEFINED_FLAGS,
    LARGEST_FRAME_SIZE,
    MAX_WINDOW,
    PREFACE,
    Flag,
    FrameType,
    Setting,
    frame_name,
    setting_name,
)
from harness.wire.http2.options import Options
from harness.wire.http2.sending import Role, Sender
from harness.wire.http2.stream import Stream

_CLOSED = "9113 section 5.1"


class _Block:
    """A field block whose last frame has not come."""

    def __init__(self, stream: int, *, end: bool, promised: int | None = None) -> None:
        self.stream = stream
        self.end = end
        self.promised = promised
        self.octets = bytearray()


class Connection(Sender):
    """One connection; see the module. `goaways` are the GOAWAY frames that came, `readable` is false behind octets
    that no reading is left for."""

    def __init__(self, role: Role, options: Options | None = None) -> None:
        super().__init__(role, options)
        self.goaways: list[seen_events.GoawayReceived] = []
        self.readable = True
        self.settings_seen = False
        self._events: list[Event] = []
        self._reader = FrameReader()
        self._preface = bytearray() if role == "server" else None
        self._block: _Block | None = None
        self._table_update_due = False
        self._unread = 0
        self._steps = {
            FrameType.DATA: self._data,
            FrameType.HEADERS: self._headers,
            FrameType.RST_STREAM: self._rst_stream,
            FrameType.SETTINGS: self._settings,
            FrameType.PUSH_PROMISE: self._push_promise,
            FrameType.PING: self._ping,
            FrameType.GOAWAY: self._goaway,
            FrameType.WINDOW_UPDATE: self._window_update,
            FrameType.CONTINUATION: self._continuation,
        }

    def receive(self, octets: bytes) -> list[Event]:
        """Read `octets`; the events that they complete. What is to be said in answer is in `outgoing`."""
        if self.readable and self._preface is not None:
            octets = self._read_preface(octets)
        if self.readable:
            for seen in self._reader.feed(octets):
                if not self._take(seen):
                    break
        return self._drain()

    def receive_end(self) -> list[Event]:
        """The other side ended the stream below."""
        if self._reader.partial and self.readable:
            self._break("the connection ends inside a frame", "9113 section 4.1")
        return self._drain()

    @property
    def open_block(self) -> bytes:
        """The octets of a field block whose last frame has not come."""
        return bytes(self._block.octets) if self._block is not None else b""

    def consume(self, stream_id: int, count: int) -> None:
        """See `Sender.consume`."""
        self._unread -= count
        super().consume(stream_id, count)

    def _drain(self) -> list[Event]:
        found, self._events = self._events, []
        return found

    def _break(self, what: str, section: str, stream: int = 0) -> None:
        self._events.append(seen_events.Broken(stream, Violation(what, section)))

    def _stop(self, why: str, octets: bytes = b"") -> None:
        self.readable = False
        self._events.append(seen_events.Unreadable(why, octets[: self.options.limits.unreadable]))

    def _read_preface(self, octets: bytes) -> bytes:
        """A client's 24 octets first (RFC 9113 section 3.4); gives what is behind them."""
        assert self._preface is not None
        self._preface += octets
        if not PREFACE.startswith(self._preface[: len(PREFACE)]):
            self._break("no client preface", "9113 section 3.4")
            self._stop("no client preface", bytes(self._preface))
            return b""
        if len(self._preface) < len(PREFACE):
            return b""
        rest = bytes(self._preface[len(PREFACE) :])
        self._preface = None
        return rest

    # Every frame

    def _take(self, seen: Seen) -> bool:
        """Handle a frame; false where nothing behind it can be read."""
        self._events.append(seen_events.FrameReceived(seen))
        self._judge(seen)
        if seen.problem is None and seen.kind in self._steps:
            self._steps[FrameType(seen.kind)](seen)
        return self.readable

    def _judge(self, seen: Seen) -> None:
        """What is to be said of a frame whatever its type (RFC 9113 sections 3.4, 4.1 to 4.3, 5.1)."""
        name = frame_name(seen.kind)
        if not self.settings_seen:
            self.settings_seen = True
            if seen.kind != FrameType.SETTINGS or seen.has(Flag.ACK):
                self._break(f"{name} before SETTINGS", "9113 section 3.4")
        if seen.length > self._frame_limit():
            self._break(f"{name} of {seen.length} octets", "9113 section 4.2", seen.stream)
        if seen.reserved:
            self._break(f"{name} with the reserved bit set", "9113 section 4.1", seen.stream)
        if seen.kind in DEFINED_FLAGS and seen.flags & ~DEFINED_FLAGS[seen.kind]:
            self._break(f"{name} with flags 0x{seen.flags:02x}", "9113 section 4.1", seen.stream)
        if seen.problem is not None:
            self._break(seen.problem.what, seen.problem.section, seen.stream)
        if self._block is not None and (seen.kind != FrameType.CONTINUATION or seen.stream != self._block.stream):
            self._break(
                f"{name} inside the field block of stream {self._block.stream}", "9113 section 4.3", seen.stream
            )

    def _frame_limit(self) -> int:
        """The largest frame that the other side may send: one that it may have read already counts."""
        said = [value for pairs in self.unacknowledged for name, value in pairs if name == Setting.MAX_FRAME_SIZE]
        return max(self.local[Setting.MAX_FRAME_SIZE], *said, 0)

    def _known(self, seen: Seen, *, idle_is_error: bool = True) -> Stream | None:
        """The stream of a frame; none where it is idle (a broken rule) or forgotten."""
        stream = self.streams.get(seen.stream)
        if stream is not None and (stream.opened or not stream.ours):
            return stream
        highest = self.highest_ours if self._is_ours(seen.stream) else self.highest_theirs
        if idle_is_error and seen.stream > highest:
            self._break(f"{frame_name(seen.kind)} on the idle stream {seen.stream}", _CLOSED, seen.stream)
        return None

    def _closed_to(self, stream: Stream, seen: Seen) -> bool:
        """Whether a stream takes no more of a frame like this; a broken rule unless our own reset crossed it."""
        if stream.reset_sent is not None:
            stream.frames_after_reset += 1
            return True
        name = frame_name(seen.kind)
        if stream.reset_received is not None:
            self._break(f"{name} on stream {stream.id} behind its RST_STREAM", _CLOSED, stream.id)
            return True
        if stream.remote_ended:
            self._break(f"{name} on stream {stream.id} behind its END_STREAM", _CLOSED, stream.id)
            return True
        return False

    # Content

    def _data(self, seen: Seen) -> None:
        assert isinstance(seen.frame, DataFrame)
        self.receive_window -= seen.length
        if self.receive_window < 0:
            self._break(f"{-self.receive_window} octets beyond the connection window", "9113 section 6.9.1")
        stream = self._known(seen)
        if stream is None or self._closed_to(stream, seen):
            # It counts for the connection all the same (RFC 9113 section 6.9).
            self._give_back(0, seen.length)
            return
        stream.receive_window -= seen.length
        if stream.receive_window < 0:
            over = -stream.receive_window
            self._break(f"{over} octets beyond the window of stream {stream.id}", "9113 section 6.9.1", stream.id)
        if not stream.head_seen:
            self._break("DATA in front of the header section", "9113 section 8.1", stream.id)
        if stream.trailers_seen:
            self._break("DATA behind the trailer section", "9113 section 8.1", stream.id)
        content = bytes(seen.frame.data)
        stream.heard += len(content)
        self._give_back(stream.id, seen.length - len(content))
        self._unread += len(content)
        if self._unread > self.options.limits.unread:
            self._break(
                f"more than {self.options.limits.unread} octets of content that nobody took", "9113 section 5.2"
            )
            self._stop("more content than a peer holds")
            return
        self._events.append(seen_events.ContentReceived(stream.id, content, len(content)))
        if seen.has(Flag.END_STREAM):
            self._end_theirs(stream)

    def _give_back(self, stream_id: int, count: int) -> None:
        """Credit for what no script will take: padding, and the content of streams that are over."""
        super().consume(stream_id, count)

    def _end_theirs(self, stream: Stream) -> None:
        stream.remote_ended = True
        expected = stream.length
        bodiless = self.role == "client" and (stream.method == b"HEAD" or stream.status in (204, 304))
        if bodiless and stream.heard:
            self._break(f"{stream.heard} octets of content where there is none", "9110 section 6.4.1", stream.id)
        elif expected is not None and expected != stream.heard and not bodiless:
            self._break(
                f"content-length {expected} with {stream.heard} octets of content", "9113 section 8.1.1", stream.id
            )
        self._events.append(seen_events.MessageEnded(stream.id))
        self._closed(stream)

    # Field sections

    def _headers(self, seen: Seen) -> None:
        assert isinstance(seen.frame, HeadersFrame)
        self._begin_block(_Block(seen.stream, end=seen.has(Flag.END_STREAM)), seen.frame.data, seen)

    def _push_promise(self, seen: Seen) -> None:
        assert isinstance(seen.frame, PushPromiseFrame)
        if self.role == "server":
            self._break("PUSH_PROMISE of a client", "9113 section 8.4", seen.stream)
        elif not self.local[Setting.ENABLE_PUSH]:
            self._break("PUSH_PROMISE, which our settings forbid", "9113 section 6.6", seen.stream)
        promised = seen.frame.promised_stream_id
        self._begin_block(_Block(seen.stream, end=False, promised=promised), seen.frame.data, seen)

    def _continuation(self, seen: Seen) -> None:
        if self._block is None or self._block.stream != seen.stream:
            self._break("CONTINUATION without a field block to continue", "9113 section 6.10", seen.stream)
            return
        self._add_to_block(seen.payload, ended=seen.has(Flag.END_HEADERS))

    def _begin_block(self, block: _Block, octets: bytes, seen: Seen) -> None:
        self._block = block
        self._add_to_block(octets, ended=seen.has(Flag.END_HEADERS))

    def _add_to_block(self, octets: bytes, *, ended: bool) -> None:
        block = self._block
        assert block is not None
        block.octets += octets
        if len(block.octets) > self.options.limits.block:
            self._break(f"a field block of more than {self.options.limits.block} octets", "9113 section 10.5.1")
            self._stop("a field block beyond what a peer holds")
        elif ended:
            self._block = None
            self._end_block(block)

    def _end_block(self, block: _Block) -> None:
        octets = bytes(block.octets)
        decoded = self._decode(octets)
        if decoded is None:
            return
        if block.promised is not None:
            self._promise(block, decoded, octets)
            return
        stream = self._stream_of(block)
        if stream is None:
            return
        kind = self._kind(stream, decoded)
        self._judge_section(stream, kind, decoded, end=block.end)
        self._events.append(seen_events.SectionReceived(stream.id, kind, decoded, octets, block.end))
        if block.end:
            self._end_theirs(stream)

    def _decode(self, octets: bytes) -> tuple[Field, ...] | None:
        """A block by hpack. Its state goes on whatever becomes of the section (RFC 9113 section 4.3)."""
        if self._table_update_due and (not octets or octets[0] & 0xE0 != 0x20):
            self._break("no table size update behind the acknowledgement of a smaller table", "9113 section 4.3.1")
            self.decoder.header_table_size = min(self.decoder.header_table_size, self.local[Setting.HEADER_TABLE_SIZE])
        self._table_update_due = False
        try:
            lines = self.decoder.decode(octets, raw=True)
        except OversizedHeaderListError:
            self._break("a field section beyond the reader's limit", "9113 section 10.5.1")
            self._stop("a field section beyond what a peer holds")
        except InvalidTableSizeError as error:
            self._break(f"table size update: {error}", "7541 section 6.3")
            self._stop("the compression state is lost")
        except (HPACKError, IndexError, ValueError) as error:
            self._break(f"a field block that cannot be decoded: {error}"[:200], "9113 section 4.3")
            self._stop("the compression state is lost")
        else:
            return tuple(Field(bytes(line[0]), bytes(line[1]), not line.indexable) for line in lines)
        return None

    def _promise(self, block: _Block, decoded: tuple[Field, ...], octets: bytes) -> None:
        assert block.promised is not None
        stream = self._stream(block.promised)
        stream.opened = True
        stream.local_ended = True
        self._events.append(seen_events.SectionReceived(block.promised, "promise", decoded, octets, end=False))

    def _stream_of(self, block: _Block) -> Stream | None:
        """The stream that a header section opens or goes on with (RFC 9113 sections 5.1 and 5.1.1)."""
        stream = self.streams.get(block.stream)
        if stream is not None and (stream.opened or not stream.ours):
            if stream.reset_sent is not None:
                stream.frames_after_reset += 1
                return None
            if stream.reset_received is not None or stream.remote_ended:
                self._break(f"HEADERS on stream {stream.id}, which its side has ended", _CLOSED, stream.id)
                return None
            return stream
        if self._is_ours(block.stream) or self.role == "client":
            self._break(f"HEADERS on stream {block.stream}, which was not opened", _CLOSED, block.stream)
            return None
        if block.stream <= self.highest_theirs:
            what = f"stream {block.stream} opened behind stream {self.highest_theirs}"
            self._break(what, "9113 section 5.1.1", block.stream)
        stream = self._stream(block.stream)
        stream.opened = True
        limit = self.local.get(Setting.MAX_CONCURRENT_STREAMS)
        active = sum(1 for each in self.streams.values() if not each.ours and not each.over)
        if limit is not None and active > limit:
            self._break(f"{active} open streams where {limit} are allowed", "9113 section 5.1.2", block.stream)
        return stream

    def _kind(self, stream: Stream, decoded: tuple[Field, ...]) -> seen_events.SectionKind:
        if stream.head_seen:
            stream.trailers_seen = True
            return "trailers"
        if self.role == "server":
            stream.head_seen = True
            return "request"
        status = next((field.value for field in decoded if field.name == b":status"), b"")
        if len(status) == 3 and status[:1] == b"1" and status != b"101":
            return "interim"
        stream.head_seen = True
        stream.status = int(status) if status.isdigit() and len(status) == 3 else 0
        return "response"

    def _judge_section(
        self, stream: Stream, kind: seen_events.SectionKind, decoded: tuple[Field, ...], *, end: bool
    ) -> None:
        if kind == "request":
            stream.method = next((field.value for field in decoded if field.name == b":method"), b"")
            extended = bool(self.local.get(Setting.ENABLE_CONNECT_PROTOCOL))
            found = rules.request_problems(decoded, extended_connect=extended)
        elif kind == "trailers":
            found = rules.trailer_problems(decoded)
            if not end:
                found.insert(0, ("a trailer section without END_STREAM", "9113 section 8.1"))
        else:
            found = rules.response_problems(decoded)
            if kind == "interim" and end:
                found.insert(0, ("an interim response with END_STREAM", "9113 section 8.1"))
        for what, section in found:
            self._break(what, section, stream.id)
        if kind in ("request", "response"):
            self._expect_length(stream, decoded)

    def _expect_length(self, stream: Stream, decoded: tuple[Field, ...]) -> None:
        lengths = [field.value for field in decoded if field.name == b"content-length"]
        if not lengths:
            return
        if len(set(lengths)) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 20:
            self._break(f"content-length {b', '.join(lengths)[:60]!r}", "9110 section 8.6", stream.id)
            return
        if len(lengths) > 1:
            self._break("content-length twice", "9110 section 8.6", stream.id)
        stream.length = int(lengths[0])

    # The rest

    def _rst_stream(self, seen: Seen) -> None:
        stream = self._known(seen)
        if stream is None or stream.reset_received is not None:
            return
        code = int.from_bytes(seen.payload, "big")
        stream.reset_received = code
        self._drop_queue(stream)
        self._events.append(seen_events.StreamReset(stream.id, code))
        self._closed(stream)

    def _settings(self, seen: Seen) -> None:
        if seen.has(Flag.ACK):
            self._settings_acknowledged()
            return
        sound = True
        for name, value in seen.pairs:
            problem = self._setting_problem(name, value)
            if problem:
                self._break(f"SETTINGS: {setting_name(name)} {value}", problem)
                sound = False
        if not sound:
            return
        self._obey(seen.pairs)
        for stream in self.streams.values():
            if not stream.over and stream.send_window > MAX_WINDOW:
                self._break(f"SETTINGS: the window of stream {stream.id} overflows", "9113 section 6.9.2")
        self._events.append(seen_events.SettingsReceived(seen.pairs))
        if self.options.acknowledge:
            # In front of what the new values permit: the other side goes by them from here on (section 6.5.3).
            self.say(frames.settings(ack=True))
        self.pump()

    def _setting_problem(self, name: int, value: int) -> str:
        """The section that forbids a setting; empty where nothing does (RFC 9113 section 6.5.2, RFC 8441 section 3)."""
        if name == Setting.ENABLE_PUSH and (value > 1 or (value and self.role == "client")):
            return "9113 section 6.5.2"
        if name == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            return "9113 section 6.5.2"
        if name == Setting.MAX_FRAME_SIZE and not 1 << 14 <= value <= LARGEST_FRAME_SIZE:
            return "9113 section 6.5.2"
        allowed = self.remote.get(Setting.ENABLE_CONNECT_PROTOCOL, 0)
        if name == Setting.ENABLE_CONNECT_PROTOCOL and (value > 1 or value < allowed):
            return "8441 section 3"
        return ""

    def _settings_acknowledged(self) -> None:
        if not self.unacknowledged:
            self._break("SETTINGS ACK that nobody waits for", "9113 section 6.5.3")
            return
        pairs = self.unacknowledged.popleft()
        self._in_force(pairs)
        sizes = [value for name, value in pairs if name == Setting.HEADER_TABLE_SIZE]
        if sizes:
            if min(sizes) < self.decoder.header_table_size:
                self._table_update_due = True
            self.decoder.max_allowed_table_size = self.local.get(Setting.HEADER_TABLE_SIZE, DEFAULT_TABLE_SIZE)
        self._events.append(seen_events.SettingsAcknowledged(pairs))

    def _ping(self, seen: Seen) -> None:
        if not seen.has(Flag.ACK):
            if self.options.answer_pings:
                self.say(frames.ping(seen.payload, ack=True))
            return
        if seen.payload not in self.pings:
            self._break(f"PING ACK {seen.payload.hex()} that answers nothing", "9113 section 6.7")
            return
        self.pings.remove(seen.payload)
        self._events.append(seen_events.PingAcknowledged(seen.payload))

    def _goaway(self, seen: Seen) -> None:
        last = int.from_bytes(seen.payload[:4], "big") & MAX_WINDOW
        code = int.from_bytes(seen.payload[4:8], "big")
        if self.goaways and last > self.goaways[-1].last:
            self._break(f"GOAWAY with last stream {last} behind {self.goaways[-1].last}", "9113 section 6.8")
        event = seen_events.GoawayReceived(last, code, seen.payload[8:])
        if len(self.goaways) < 100:
            self.goaways.append(event)
        self._events.append(event)

    def _window_update(self, seen: Seen) -> None:
        increment = int.from_bytes(seen.payload, "big") & MAX_WINDOW
        if not seen.stream:
            self.send_window += increment
            if self.send_window > MAX_WINDOW:
                self._break("the connection window overflows", "9113 section 6.9.1")
                self.send_window = MAX_WINDOW
        else:
            stream = self._known(seen)
            if stream is None or stream.over:
                return
            stream.send_window += increment
            if stream.send_window > MAX_WINDOW:
                self._break(f"the window of stream {stream.id} overflows", "9113 section 6.9.1", stream.id)
                stream.send_window = MAX_WINDOW
        self.pump()
