"""One connection of HTTP/3 without I/O, for both roles: stream octets in and events out (RFC 9114, RFC 9204)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace

from harness.wire.http3 import control
from harness.wire.http3.compression import Blocked, Compression, Decompression
from harness.wire.http3.frames import (
    BadFrame,
    DataPiece,
    Frame,
    FrameBegun,
    FrameReader,
    HeadersFrame,
    MaxPushIdFrame,
    Piece,
    PushPromiseFrame,
    SettingsFrame,
    UnknownFrame,
    encode_all,
)
from harness.wire.http3.message import (
    AnyField,
    Consumed,
    Event,
    Fields,
    FrameSeen,
    GoawaySeen,
    InstructionsSeen,
    RequestOpened,
    SectionBlocked,
    SendingStopped,
    SettingsSeen,
    StreamAborted,
    TooMuch,
    UniStreamSeen,
    Violation,
    as_fields,
    connection_error,
)
from harness.wire.http3.numbers import ErrorCode, FrameType, StreamType, reserved
from harness.wire.http3.options import Http3Options
from harness.wire.http3.qpack import Instruction, SectionTooLong, encode_instructions, literal_section
from harness.wire.http3.request import RequestStream
from harness.wire.quic.codec import DecodeError, QuicReader, varint

MAX_STREAMS = 20_000
"""Streams of the other side that are open at once."""
UNIDIRECTIONAL = 0x2


@dataclass(frozen=True, slots=True)
class Write:
    """Octets for a stream of the connection below."""

    stream_id: int
    data: bytes = field(repr=False)
    fin: bool = False


@dataclass(slots=True)
class _UniStream:
    """A unidirectional stream of the other side's; `kind` None while its type did not come."""

    id: int
    kept: bytes = b""
    kind: int | None = None
    frames: FrameReader | None = None


class Http3Connection:
    """Events of the streams below go in (`stream_data` and its kin), each gives what it meant; what is to be written
    comes from `outgoing`. Legal unless an option or a script breaks something; no method raises for what the other
    side sent.

    `close_due` is the connection error that a legal endpoint answers with now, if it does.
    """

    def __init__(self, options: Http3Options | None = None, *, is_client: bool) -> None:
        self.options = options or Http3Options()
        self.is_client = is_client
        granted = self.options.max_push_id
        self.control = control.ControlState(
            from_client=not is_client, granted=granted if is_client and granted is not None else -1
        )
        self.close_due: Violation | None = None
        self.ours: dict[int, int] = {}
        """Our unidirectional streams, by type; of a type that was opened twice the first."""
        self._decompression = Decompression(self.options)
        self._compression = Compression(self.options)
        self._requests: dict[int, RequestStream] = {}
        self._methods: dict[int, bytes] = {}
        self._uni: dict[int, _UniStream] = {}
        self._theirs: dict[int, int] = {}
        self._out: list[Write] = []
        self._begun = False

    @property
    def remote_settings(self) -> SettingsFrame | None:
        """The other side's settings, once they are here."""
        return self.control.settings

    @property
    def remote_goaway(self) -> int | None:
        """The id of the other side's last GOAWAY."""
        return self.control.goaway

    # What we say

    def begin(self, open_stream: Callable[[], int]) -> None:
        """Open our unidirectional streams; `open_stream` gives the id of a new one of the connection below."""
        self._begun = True
        for kind in self.options.streams:
            stream_id = open_stream()
            self.ours.setdefault(kind, stream_id)
            self.write(stream_id, varint(kind) + (self._first_frames() if kind == StreamType.CONTROL else b""))

    def _first_frames(self) -> bytes:
        settings = self.options.settings_frame
        parts = [self.options.first_frames, self.options.announced.encode() if settings is None else settings]
        if self.options.grease:
            parts.append(UnknownFrame(reserved(11), b"grease").encode())
        if self.is_client and self.options.max_push_id is not None:
            parts.append(MaxPushIdFrame(self.options.max_push_id).encode())
        return b"".join(parts)

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """Any octets on any stream of ours."""
        self._out.append(Write(stream_id, data, fin))

    def say(self, stream_id: int, frames: Iterable[Frame | bytes], *, fin: bool = False) -> None:
        """Any frames, legal or not, on any stream of ours."""
        self.write(stream_id, encode_all(frames), fin=fin)

    def headers_frame(
        self,
        stream_id: int,
        fields: Iterable[AnyField],
        *,
        literal: bool = False,
        never: Iterable[bytes] = (),
        section: bytes | None = None,
    ) -> HeadersFrame:
        """HEADERS of any fields, legal or not. `literal` encodes them by hand, without a table and without Huffman
        coding; so does `never`, the names that are marked as never to be indexed. `section` are its octets as they
        are."""
        given = as_fields(fields)
        marked = tuple(never)
        if section is None and (literal or marked):
            section = literal_section(given, never=marked)
        if section is None:
            section = self._compression.section(stream_id, given)
            self._flush_compression()
        return HeadersFrame(section, given)

    def remember(self, stream_id: int, fields: Fields) -> None:
        """We sent a request with these fields: what it is tells how the response is read."""
        method = next((value for name, value in fields if name == b":method"), b"")
        self._methods.setdefault(stream_id, method)

    def instruct(self, instructions: Iterable[Instruction], *, kind: StreamType = StreamType.QPACK_ENCODER) -> None:
        """Instructions of a script on our encoder or decoder stream."""
        data = encode_instructions(instructions)
        if kind == StreamType.QPACK_ENCODER:
            self._compression.said(data)
        self.write(self.ours[kind], data)

    def outgoing(self) -> list[Write]:
        """What is to be written now, in order."""
        out, self._out = self._out, []
        return out

    def _flush_compression(self) -> None:
        if not self._begun:
            return
        for kind, said in (
            (StreamType.QPACK_ENCODER, self._compression.out),
            (StreamType.QPACK_DECODER, self._decompression.out),
        ):
            if said and kind in self.ours:
                self.write(self.ours[kind], bytes(said))
            said.clear()

    # What comes: streams

    def stream_opened(self, stream_id: int) -> list[Event]:
        """The other side opened a stream."""
        if len(self._uni) + len(self._requests) >= MAX_STREAMS:
            return [TooMuch(f"{MAX_STREAMS} streams at once")]
        if stream_id & UNIDIRECTIONAL:
            self._uni[stream_id] = _UniStream(stream_id)
            return []
        if self.is_client:
            code = ErrorCode.H3_STREAM_CREATION_ERROR
            what = "a bidirectional stream of the server"
            return self._judged([connection_error(what, "9114 section 6.1", code, stream_id)])
        self._request(stream_id)
        return [RequestOpened(stream_id)]

    def _request(self, stream_id: int) -> RequestStream:
        found = self._requests.get(stream_id)
        if found is None:
            method = self._methods.pop(stream_id, b"")
            found = self._requests[stream_id] = RequestStream(stream_id, request=not self.is_client, method=method)
        return found

    def stream_data(self, stream_id: int, data: bytes, *, fin: bool = False) -> list[Event]:
        """The next octets of a stream."""
        if stream_id & UNIDIRECTIONAL:
            events = list(self._uni_data(stream_id, data, fin))
        elif self.is_client and stream_id & 1:
            events = [Consumed(stream_id, len(data))]
        else:
            events = list(self._request_data(self._request(stream_id), data, fin))
        self._flush_compression()
        return self._judged(events)

    def stream_reset(self, stream_id: int, code: int) -> list[Event]:
        """RESET_STREAM arrived."""
        if stream_id & UNIDIRECTIONAL:
            stream = self._uni.pop(stream_id, None)
            broken = control.closed(stream.kind, "reset") if stream is not None and stream.kind is not None else None
            return self._judged([broken] if broken else [])
        request = self._request(stream_id)
        request.over = True
        self._decompression.cancel(stream_id)
        self._flush_compression()
        self._forget(request)
        return [StreamAborted(stream_id, code)]

    def sending_stopped(self, stream_id: int, code: int) -> list[Event]:
        """STOP_SENDING arrived."""
        for kind, ours in self.ours.items():
            if ours == stream_id and (broken := control.closed(kind, "STOP_SENDING")) is not None:
                return self._judged([broken])
        return [SendingStopped(stream_id, code)]

    def abandon(self, stream_id: int) -> None:
        """The script reads no more of a stream: what is blocked there is cancelled."""
        self._decompression.cancel(stream_id)
        self._flush_compression()

    def finished(self, stream_id: int) -> None:
        """Our half of a stream is over."""
        request = self._requests.get(stream_id)
        if request is not None:
            request.sent_over = True
            self._forget(request)

    def _forget(self, request: RequestStream) -> None:
        if request.over and request.sent_over:
            self._requests.pop(request.id, None)
            self._methods.pop(request.id, None)

    def _judged(self, events: list[Event]) -> list[Event]:
        if self.options.answer_violations and self.close_due is None:
            fatal = (each for each in events if isinstance(each, Violation) and each.fatal)
            self.close_due = next(fatal, None)
        return events

    # What comes: unidirectional streams

    def _uni_data(self, stream_id: int, data: bytes, fin: bool) -> Iterator[Event]:
        stream = self._uni.get(stream_id)
        yield Consumed(stream_id, len(data))
        if stream is None:
            return
        if stream.kind is None:
            data = yield from self._type_of(stream, data)
        if data and stream.kind is not None:
            yield from self._uni_octets(stream, stream.kind, data)
        if fin:
            self._uni.pop(stream_id, None)
            if stream.kind is not None and (broken := control.closed(stream.kind, "the end")) is not None:
                yield broken

    def _type_of(self, stream: _UniStream, data: bytes) -> Generator[Event, None, bytes]:
        stream.kept += data
        reader = QuicReader(stream.kept, "stream type")
        try:
            kind = reader.varint()
        except DecodeError:
            return b""
        stream.kind, stream.kept = kind, b""
        yield UniStreamSeen(stream.id, kind)
        broken = control.stream_broken(
            kind, known=kind in self._theirs, from_client=not self.is_client, granted=self.control.granted
        )
        if broken is not None:
            stream.kind = -1
            yield replace(broken, stream_id=stream.id)
            return b""
        self._theirs.setdefault(kind, stream.id)
        if kind == StreamType.CONTROL:
            stream.frames = FrameReader(stream.id)
        return reader.rest()

    def _uni_octets(self, stream: _UniStream, kind: int, data: bytes) -> Iterator[Event]:
        if kind == StreamType.CONTROL and stream.frames is not None:
            for piece in stream.frames.feed(data):
                yield from self._control_piece(stream, piece)
        elif kind == StreamType.QPACK_ENCODER:
            instructions, unblocked, broken = self._decompression.feed(data)
            if instructions:
                yield InstructionsSeen("encoder", tuple(instructions))
            if broken is not None:
                yield broken
            for stream_id in unblocked:
                yield from self._unblocked(stream_id)
        elif kind == StreamType.QPACK_DECODER:
            instructions, broken = self._compression.feed(data)
            if instructions:
                yield InstructionsSeen("decoder", tuple(instructions))
            if broken is not None:
                yield broken

    def _control_piece(self, stream: _UniStream, piece: Piece) -> Iterator[Event]:
        match piece:
            case FrameBegun(kind=kind):
                if (broken := self.control.begins(kind)) is not None:
                    yield replace(broken, stream_id=stream.id)
            case DataPiece():
                pass
            case BadFrame():
                yield self._bad(piece, stream.id)
            case _:
                yield FrameSeen(piece)
                known = self.control.settings is not None
                for broken in self.control.take(piece):
                    yield replace(broken, stream_id=stream.id)
                if isinstance(piece, SettingsFrame) and not known:
                    self._compression.use(piece)
                    yield SettingsSeen(piece)
                elif piece.type == FrameType.GOAWAY and self.control.goaway is not None:
                    yield GoawaySeen(self.control.goaway)

    def _bad(self, piece: BadFrame, stream_id: int) -> Violation | TooMuch:
        if piece.too_long:
            return TooMuch(piece.what)
        return connection_error(piece.what, "9114 section 7.1", ErrorCode.H3_FRAME_ERROR, stream_id)

    # What comes: requests

    def _request_data(self, stream: RequestStream, data: bytes, fin: bool) -> Iterator[Event]:
        stream.fin = stream.fin or fin
        found = list(stream.reader.feed(data))
        content = sum(len(piece.data) for piece in found if isinstance(piece, DataPiece))
        if len(data) > content:
            yield Consumed(stream.id, len(data) - content)
        stream.pieces.extend(found)
        yield from self._pieces(stream)

    def _pieces(self, stream: RequestStream) -> Iterator[Event]:
        while stream.pieces and stream.blocked is None:
            yield from self._request_piece(stream, stream.pieces.popleft())
        if stream.fin and stream.blocked is None and not stream.over:
            yield from stream.ends()
            self._forget(stream)

    def _request_piece(self, stream: RequestStream, piece: Piece) -> Iterator[Event]:
        match piece:
            case FrameBegun(kind=kind):
                broken = control.misplaced(kind, control=False, from_client=not self.is_client) or stream.begins(kind)
                if broken is not None:
                    yield replace(broken, stream_id=stream.id)
            case DataPiece(data=data):
                yield from stream.content(data)
            case BadFrame():
                yield self._bad(piece, stream.id)
            case HeadersFrame():
                yield from self._section(stream, piece)
            case PushPromiseFrame(number=number):
                yield FrameSeen(piece)
                if self.is_client and number > self.control.granted:
                    what = f"PUSH_PROMISE {number}, an id that was not granted"
                    yield connection_error(what, "9114 section 7.2.5", ErrorCode.H3_ID_ERROR, stream.id)
            case _:
                yield FrameSeen(piece)

    def _section(self, stream: RequestStream, frame: HeadersFrame) -> Iterator[Event]:
        try:
            fields = self._decompression.section(stream.id, frame.section)
        except SectionTooLong as error:
            yield FrameSeen(frame)
            yield TooMuch(str(error))
            return
        if isinstance(fields, Blocked):
            stream.blocked = frame
            yield SectionBlocked(stream.id)
            return
        yield from self._read(stream, frame, fields)

    def _unblocked(self, stream_id: int) -> Iterator[Event]:
        stream = self._requests.get(stream_id)
        if stream is None or stream.blocked is None:
            return
        frame, stream.blocked = stream.blocked, None
        yield from self._read(stream, frame, self._decompression.resume(stream_id))
        yield from self._pieces(stream)

    def _read(self, stream: RequestStream, frame: HeadersFrame, fields: Fields | Violation) -> Iterator[Event]:
        if isinstance(fields, Violation):
            yield FrameSeen(frame)
            yield replace(fields, stream_id=stream.id)
            return
        yield FrameSeen(replace(frame, fields=fields))
        yield from stream.section(fields, frame.section)
