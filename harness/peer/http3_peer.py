"""What both HTTP/3 peers stand on: `harness.wire.http3` on the streams of a `QuicPeer`, with waits and a transcript.

It is also the frame by frame API of both: any frame, legal or not, on any stream.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.link.stream import LinkReset
from harness.peer.http import ConnectionEnd, ExchangeEnd
from harness.peer.http1_stream import keep
from harness.peer.quic import QuicPeer
from harness.wire import quic as below
from harness.wire.http1_message import Violation as HttpViolation
from harness.wire.http3 import Http3Connection, Http3Options
from harness.wire.http3 import message as seen
from harness.wire.http3.frames import DataFrame, Frame, GoawayFrame, HeadersFrame, SettingsFrame, UnknownFrame
from harness.wire.http3.message import AnyField, Violation
from harness.wire.http3.numbers import ErrorCode, StreamType, error_name, stream_name
from harness.wire.http3.qpack import Instruction
from harness.wire.quic.codec import QuicUsageError

F = TypeVar("F", bound=Frame)
MAX_FRAMES = 4096
"""Frames, and instructions, that a peer keeps of one connection: the latest ones."""
HIGH_WATER = 1 << 16
"""Octets of a stream that may wait for the engine's credit before sending does."""
CHUNK = 1 << 15
QUIC_OPTIONS: dict[str, Any] = {"alpn": ("h3",), "automatic_credit": False}
"""What the QUIC peer below is to be told unless the script says otherwise: credit follows what the script took."""


def stream_words(stream_id: int, *, fin: bool = False) -> str:
    """`stream 4, FIN`."""
    return f"stream {stream_id}{', FIN' if fin else ''}"


class Http3Peer(ABC):
    """One connection of HTTP/3, either role. `quic` is the peer below, `wire` the protocol: all that is known is
    readable there.

    `frames` are the received ones in order, `instructions` what the engine's QPACK streams said, `violations` the rules
    that it broke outside of any message. A broken rule that is a connection error is answered with it
    (`answer_violations`) and is `PeerMismatch` from whatever waits next, unless `strict` is False: a script that is
    illegal itself may provoke it. `hold` True gives no credit for content.
    """

    version = "h3"

    def __init__(self, quic: QuicPeer, channel: Channel, options: Http3Options, *, hold: bool = False) -> None:
        self.quic = quic
        self.channel = channel
        self.wire = Http3Connection(options, is_client=isinstance(quic.wire, below.QuicClient))
        self.hold = hold
        self.strict = True
        self.frames: deque[Frame] = deque(maxlen=MAX_FRAMES)
        self.instructions: deque[tuple[str, Instruction]] = deque(maxlen=MAX_FRAMES)
        self.violations: list[HttpViolation] = []
        self.broken: Violation | None = None
        """The connection error that the engine made, if it did."""
        self.too_much = ""
        self._fresh: deque[Frame] = deque(maxlen=MAX_FRAMES)
        self._sent_over: set[int] = set()
        self._ended = False
        self._begun = False
        quic.taker = self._from_quic

    # What the roles do with it

    @abstractmethod
    def take(self, event: seen.Event) -> None:
        """An event of a message: `Head`, `Content`, `MessageEnd`, `StreamAborted`, `SendingStopped`, `GoawaySeen`,
        `Violation` with a stream."""

    @abstractmethod
    def over(self, end: ExchangeEnd) -> None:
        """The connection is over: all exchanges are."""

    def tell(self) -> None:  # noqa: B027 - a role may have nobody to wake
        """Something changed: wake whoever waits elsewhere than in `until`."""

    # Below

    async def begin_streams(self) -> None:
        """Open our unidirectional streams and say SETTINGS, unless that was done, and take what came before. Raises
        `PeerMismatch` where the engine has no credit for them."""
        self.quic.hand_over()
        if not self._begun:
            self._open_ours()

    def _open_ours(self) -> None:
        try:
            self.quic.check()
            self.wire.begin(lambda: self.quic.wire.open_stream(bidirectional=False))
        except below.StreamLimitReached:
            told = "fewer unidirectional streams"
            raise PeerMismatch("credit for our control and QPACK streams (RFC 9114 section 6.2)", told) from None
        except LinkReset as end:
            raise PeerMismatch("the connection to go on", end.reason) from end
        self._begun = True
        for kind, stream_id in self.wire.ours.items():
            self.channel.sent("stream opened", detail=f"stream {stream_id}, {stream_name(kind)}")
        if StreamType.CONTROL in self.wire.ours:
            self.channel.sent("SETTINGS", detail=self.wire.options.announced.detail())
        self.flush()

    def _from_quic(self, event: below.Event) -> bool:
        match event:
            case below.StreamOpened(stream_id=stream_id):
                found = self.wire.stream_opened(stream_id)
            case below.StreamData(stream_id=stream_id, data=data, fin=fin):
                found = self.wire.stream_data(stream_id, data, fin=fin)
            case below.StreamReset(stream_id=stream_id, code=code):
                self.channel.got("RESET_STREAM", detail=f"stream {stream_id}, {error_name(code)}")
                found = self.wire.stream_reset(stream_id, code)
            case below.StopSendingReceived(stream_id=stream_id, code=code):
                self.channel.got("STOP_SENDING", detail=f"stream {stream_id}, {error_name(code)}")
                found = self.wire.sending_stopped(stream_id, code)
                if self.quic.wire.options.answer_stop_sending:
                    self._our_half_over(stream_id)
            case below.StreamDelivered():
                return True
            case below.Ended():
                self._end()
                return False
            case below.HandshakeCompleted() if not self.wire.is_client:
                # The first request may be in the same packet: our streams are there before a script hears of it.
                with contextlib.suppress(PeerMismatch):
                    self._open_ours()
                return False
            case _:
                return False
        for each in found:
            self._event(each)
        self.flush()
        self._answer_violation()
        self.tell()
        return True

    def _event(self, event: seen.Event) -> None:
        match event:
            case seen.Consumed(stream_id=stream_id, count=count):
                self.credit(stream_id, count)
            case seen.FrameSeen(frame=frame):
                self._frame(frame)
            case seen.InstructionsSeen(kind=kind, instructions=instructions):
                self.instructions.extend((kind, each) for each in instructions)
                self.channel.got(f"QPACK {kind}", detail=", ".join(map(str, instructions))[:400])
            case seen.UniStreamSeen(stream_id=stream_id):
                self.channel.got("stream opened", detail=f"stream {stream_id}, {event.name}")
            case seen.TooMuch(what=what):
                self.too_much = what
            case seen.SettingsSeen() | seen.SectionBlocked():
                pass
            case Violation():
                self._violation(event)
            case _:
                self._message(event)

    def _frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._fresh.append(frame)
        if not isinstance(frame, DataFrame) or not frame.length:
            self.channel.got(frame.name, detail=f"stream {frame.stream_id}: {frame.detail()}", data=frame.payload())

    def _violation(self, event: Violation) -> None:
        self.channel.got("violation", detail=str(event))
        if event.fatal and self.broken is None:
            self.broken = event
        if event.stream_id is None or event.stream_id & 2:
            self.note(event)
        else:
            self.take(event)

    def note(self, violation: HttpViolation) -> None:
        """A broken rule outside of any message."""
        keep(self.violations, violation)

    def _message(self, event: seen.Event) -> None:
        match event:
            case seen.Content(stream_id=stream_id, data=data):
                self.channel.got("DATA", detail=stream_words(stream_id), data=data)
            case seen.MessageEnd(stream_id=stream_id):
                self.channel.got("FIN", detail=stream_words(stream_id))
            case _:
                pass
        self.take(event)

    def _answer_violation(self) -> None:
        due = self.wire.close_due
        if due is not None and self.quic.ended is None:
            self.channel.sent("CONNECTION_CLOSE", detail=f"{error_name(due.code)}: {due}")
            self.quic.wire.close(due.code, due.what[:200], application=True)
            self.quic.flush()
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.over(self.exchange_end())
            self.tell()

    def exchange_end(self) -> ExchangeEnd:
        """How the end of the connection looks to an exchange."""
        end = self.quic.ended
        if end is None:
            return ExchangeEnd("connection")
        code = end.code if end.kind in ("application", "transport") else None
        return ExchangeEnd("connection", code, self.end_words())

    def end_words(self) -> str:
        """How the connection ended."""
        end = self.quic.ended
        if end is None:
            return "nothing more"
        if self.broken is not None and not end.by_peer:
            return f"our own close for {self.broken}"
        if end.kind == "application":
            reason = f" ({end.reason})" if end.reason else ""
            return f"{'' if end.by_peer else 'our own '}CONNECTION_CLOSE {error_name(end.code)}{reason}"
        return str(end) or end.reason

    def flush(self) -> None:
        """Send what waits to be sent."""
        for each in self.wire.outgoing():
            try:
                self.quic.wire.send_stream(each.stream_id, each.data, fin=each.fin)
            except QuicUsageError:
                # Our half is over: the engine stopped it in the meantime, or the script reset it.
                continue
            if each.fin:
                self._our_half_over(each.stream_id)
        self.quic.flush()

    def _our_half_over(self, stream_id: int) -> None:
        self._sent_over.add(stream_id)
        self.wire.finished(stream_id)

    def credit(self, stream_id: int, count: int) -> None:
        """The script took `count` octets of a stream, or they were none of its business."""
        self.quic.consumed(stream_id, count)

    def took(self, stream_id: int, count: int) -> None:
        """The script took `count` octets of content."""
        if not self.hold:
            self.credit(stream_id, count)

    # Waiting

    def check(self) -> None:
        """Raises `PeerMismatch` for a connection error that the engine made."""
        if self.too_much:
            raise PeerMismatch(f"no more than a peer keeps at the {self.channel.us}", self.too_much)
        if self.strict and self.broken is not None:
            expected = f"legal HTTP/3 at the {self.channel.us} (RFC {self.broken.section})"
            raise PeerMismatch(expected, str(self.broken))

    async def until(self, done: Callable[[], object], awaited: str) -> bool:
        """Wait until `done()`; False where the connection ends before. Raises `PeerMismatch` for a broken rule,
        `DeadlineExpired`."""

        def known() -> bool:
            return bool(done()) or self.quic.ended is not None or self._stuck

        await self.quic.until(known, awaited)
        if self.quic.ended is not None:
            self._end()
        self.check()
        return bool(done())

    @property
    def _stuck(self) -> bool:
        return bool(self.too_much) or (self.strict and self.broken is not None)

    def _end_if_over(self) -> None:
        if self.quic.ended is not None:
            self._end()

    # Frames, legal or not

    @property
    def remote_settings(self) -> SettingsFrame | None:
        """The engine's SETTINGS, once they are here."""
        return self.wire.remote_settings

    async def settings(self) -> SettingsFrame:
        """The engine's SETTINGS. Raises `PeerMismatch` where the connection ends before them, `DeadlineExpired`."""
        if not await self.until(lambda: self.wire.remote_settings, "the engine's SETTINGS"):
            raise PeerMismatch("the engine's SETTINGS", self.end_words())
        assert self.wire.remote_settings is not None
        return self.wire.remote_settings

    async def frame(self, kind: type[F], fits: Callable[[F], bool] = lambda _: True) -> F:
        """The next frame of that kind which fits and was not given before; others stay. Raises `PeerMismatch` where
        the connection ends before, `DeadlineExpired`."""
        awaited = f"{kind.__name__.removesuffix('Frame')} at the {self.channel.us}"

        def found() -> F | None:
            return next((each for each in self._fresh if isinstance(each, kind) and fits(each)), None)

        if not await self.until(found, awaited):
            raise PeerMismatch(awaited, self.end_words())
        frame = found()
        assert frame is not None
        self._fresh.remove(frame)
        return frame

    async def open_stream(self, *, bidirectional: bool = True) -> int:
        """The id of a new stream of ours, as soon as the engine allows one more. Raises `PeerMismatch` where the
        connection ends before, `DeadlineExpired`."""
        self.check()
        try:
            return (await self.quic.open_stream(bidirectional=bidirectional)).id
        except LinkReset as end:
            self._end_if_over()
            raise PeerMismatch("one more stream", self.end_words() if self._ended else end.reason) from end

    def say(self, stream_id: int, *frames: Frame | bytes, fin: bool = False) -> None:
        """Put frames, and octets as they are, on a stream of ours, legal or not. Raises `PeerMismatch` behind the end
        of the connection."""
        self._usable()
        for each in frames:
            what, detail = ("octets", str(len(each))) if isinstance(each, bytes) else (each.name, each.detail())
            told = f"{stream_words(stream_id)}: {detail}"
            self.channel.sent(what, detail=told, data=each if isinstance(each, bytes) else each.payload())
        if fin:
            self.channel.sent("FIN", detail=stream_words(stream_id))
        for each in frames:
            if isinstance(each, HeadersFrame) and each.fields and self.wire.is_client:
                self.wire.remember(stream_id, each.fields)
        self.wire.say(stream_id, frames, fin=fin)
        self.flush()

    def _usable(self) -> None:
        self.check()
        if self.quic.ended is not None:
            self._end()
            raise PeerMismatch("the connection to go on", self.end_words())

    def headers_frame(self, stream_id: int, fields: Iterable[AnyField], **options: Any) -> HeadersFrame:
        """A HEADERS frame of any fields, for `say`. `options` are those of `Http3Connection.headers_frame`: `literal`,
        `never`, `section`."""
        return self.wire.headers_frame(stream_id, fields, **options)

    def headers(self, stream_id: int, fields: Iterable[AnyField], *, end: bool = False, **options: Any) -> None:
        """Send HEADERS of any fields, legal or not; `end` ends the stream. `options` as for `headers_frame`."""
        self.say(stream_id, self.headers_frame(stream_id, fields, **options), fin=end)

    def data(self, stream_id: int, data: bytes = b"", *, end: bool = False, length: int | None = None) -> None:
        """Send one DATA frame, whatever the credit; `length` is what its header says in place of the true one."""
        self.say(stream_id, DataFrame(data, length), fin=end)

    def say_control(self, *frames: Frame | bytes) -> None:
        """Frames on our control stream."""
        self.say(self.wire.ours[StreamType.CONTROL], *frames)

    def goaway(self, number: int) -> None:
        """GOAWAY on our control stream."""
        self.say_control(GoawayFrame(number))

    def unknown(self, stream_id: int, kind: int, data: bytes = b"") -> None:
        """A frame of a type without meaning."""
        self.say(stream_id, UnknownFrame(kind, data))

    def instruct(self, *instructions: Instruction, kind: StreamType = StreamType.QPACK_ENCODER) -> None:
        """Instructions on our encoder (or decoder) stream, legal or not."""
        self._usable()
        self.channel.sent(stream_name(kind), detail=", ".join(map(str, instructions))[:400])
        self.wire.instruct(instructions, kind=kind)
        self.flush()

    def reset_stream(self, stream_id: int, code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """RESET_STREAM on a stream with a half of ours."""
        self._usable()
        self.channel.sent("RESET_STREAM", detail=f"stream {stream_id}, {error_name(code)}")
        self.quic.wire.reset_stream(stream_id, code)
        self._our_half_over(stream_id)
        self.quic.flush()

    def stop_sending(self, stream_id: int, code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """STOP_SENDING on a stream with a half of the engine's."""
        self._usable()
        self.channel.sent("STOP_SENDING", detail=f"stream {stream_id}, {error_name(code)}")
        self.quic.wire.stop_sending(stream_id, code)
        self.wire.abandon(stream_id)
        self.flush()

    def ended_ours(self, stream_id: int) -> bool:
        """Whether our half of a stream is over: FIN, reset, or the engine's STOP_SENDING."""
        return stream_id in self._sent_over

    async def send_data(self, stream_id: int, data: bytes, refused: Callable[[], str]) -> None:
        """Content in DATA frames; waits while much of it is without credit. `refused` says why the engine takes no
        more, if it does not. Raises `PeerMismatch`, `DeadlineExpired`."""
        what = f"content on stream {stream_id}"
        for at in range(0, len(data), CHUNK):
            self._usable()
            if why := refused():
                raise PeerMismatch(f"the engine to take {what}", why)
            self.data(stream_id, data[at : at + CHUNK])
            await self.until(
                lambda: self.quic.wire.unsent(stream_id) <= HIGH_WATER or refused(), f"the engine to take {what}"
            )
        if why := refused():
            raise PeerMismatch(f"the engine to take {what}", why)

    # The connection

    async def ping(self) -> None:
        """PING of QUIC and its ACK. Raises `PeerMismatch` when the connection ends instead, `DeadlineExpired`."""
        self.check()
        try:
            await self.quic.ping()
        except LinkReset as end:
            self.check()
            self._end_if_over()
            raise PeerMismatch("the ACK of a PING", end.reason) from end
        self.check()

    async def closed(self) -> ConnectionEnd:
        """How the engine ends the connection. Raises `PeerMismatch` where it is we who ended it, for a connection error
        of the engine's; `DeadlineExpired`."""
        end = await self.quic.closed()
        self._end()
        self.check()
        clean = end.kind in ("application", "transport")
        return ConnectionEnd(clean, end.code if clean else None, self.end_words())

    async def leave(self, goaway: int) -> None:
        """End the connection without an error: GOAWAY, then CONNECTION_CLOSE. Safe to call twice."""
        if self.quic.ended is None and self.quic.wire.started:
            if StreamType.CONTROL in self.wire.ours:
                self.wire.say(self.wire.ours[StreamType.CONTROL], [GoawayFrame(goaway)])
                self.channel.sent("GOAWAY", detail=str(goaway))
                self.flush()
            await self.quic.close(ErrorCode.H3_NO_ERROR)
        self._end()
        await self.quic.shut()

    def abort(self) -> None:
        """Fall silent: QUIC has no reset of a connection that an endpoint with its state may send."""
        self.quic.abort()
        self._end()


def lower(fields: Sequence[tuple[Any, Any]]) -> list[tuple[bytes, bytes]]:
    """Fields as HTTP/3 writes them (RFC 9114 section 4.2)."""
    return [(seen.octets(name).lower(), seen.octets(value)) for name, value in fields]


def has_length(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a Content-Length is among them."""
    return any(name == b"content-length" for name, _ in fields)
