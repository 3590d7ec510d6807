"""A connection of HTTP/2 on a byte stream: `harness.wire.http2` with tasks, waits, deadlines and a transcript.

Both peers stand on it, the client and each connection of an upstream. It reads in the background as far as the other
side sends: flow control bounds content, and nothing else is kept without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from hyperframe.frame import Frame

from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import Channel
from harness.link.deadline import deadline
from harness.link.stream import End, LinkReset
from harness.peer.http import ConnectionEnd, Fields
from harness.peer.http1_stream import ByteStream, keep, receive_always
from harness.peer.http_upstream import Changed
from harness.wire.http1_message import Violation
from harness.wire.http1_write import Text
from harness.wire.http2 import (
    Broken,
    Connection,
    ContentReceived,
    Event,
    Field,
    FrameReceived,
    FrameType,
    Options,
    PingAcknowledged,
    SectionReceived,
    Seen,
    Stream,
    Unreadable,
    error_name,
    frames,
)
from harness.wire.http2.sending import Role, Said, words_of

MAX_FRAMES = 20_000
"""Frames of a connection that are kept, the latest ones."""
MAX_CONTENT_FRAMES = 1 << 22
"""Octets of DATA that kept frames have; of what comes behind, the frames alone."""
UNSENT = 1 << 20
"""Octets that wait to be sent, above which nothing is read: the other side does not read our answers."""

F = TypeVar("F", bound=Frame)


class Http2Peer:
    """One HTTP/2 connection of a script. `wire` is the connection below, everything that it knows is readable there.

    `violations` are the rules that the other side broke outside of any message, `ended` is how it ended the stream
    below. Nothing here raises for a broken rule: a case asks for what it judges.
    """

    violations: list[Violation]

    def __init__(self, role: Role, link: ByteStream, channel: Channel, options: Options | None = None) -> None:
        self.link = link
        self.channel = channel
        self.wire = Connection(role, options)
        self.changed = Changed()
        self.violations = []
        self.ended: End | None = None
        self.unreadable: Unreadable | None = None
        self._seen: deque[tuple[int, Seen]] = deque(maxlen=MAX_FRAMES)
        self._given: set[int] = set()
        self._count = 0
        self._content_kept = 0
        self._answered: set[bytes] = set()
        self._pings = 0
        self._begun = False
        self._paused = False
        self.writing = False
        """Whether octets are on their way into the transport."""
        self._dead = False

    # Frames out

    def say(self, *what: Frame | bytes) -> None:
        """Put frames or octets on the wire, legal or not, in this order. Lost where the connection has ended."""
        self.wire.say(*what)
        self.flush()

    def open_stream(self) -> int:
        """The next stream id of this side."""
        return self.wire.open_stream()

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
        """A field section in frames, to be given to `say` next; any fields, in any order. See `Connection.headers`."""
        return self.wire.headers(
            stream, fields, end=end, block=block, huffman=huffman, pieces=pieces, pad=pad, depends_on=depends_on
        )

    def reset(self, stream: int, code: int) -> None:
        """RST_STREAM, unless the stream is over."""
        self.wire.reset(stream, code)
        self.flush()

    def goaway(self, code: int = 0, last: int | None = None, debug: bytes = b"") -> None:
        """GOAWAY; `last` is the other side's highest stream so far unless told otherwise."""
        self.wire.goaway(code, last, debug)
        self.flush()

    async def flushed(self) -> None:
        """Wait until the transport has all that was said (not: all content, which waits for credit). Returns as well
        where the other side takes no more. Raises `DeadlineExpired`."""
        async with deadline(f"the engine to take what the {self.channel.us} said"):
            await self.changed.until(lambda: self._dead or not (self.wire.unsent or self.writing))

    def flush(self) -> None:
        """Let the transport have what was said, and tell the transcript."""
        for seen, words in self.wire.take_said():
            what, detail = told(seen, words)
            self.channel.sent(what, detail=detail, data=seen.payload if seen.kind == FrameType.DATA else None)
        self.changed.tell()

    async def send_on(self, stream: int, data: bytes, *, end: bool = False, trailers: Fields = ()) -> None:
        """Content of a stream, its trailers and its end; waits for the credit. Raises `PeerMismatch` where the engine
        takes no more, `DeadlineExpired`."""
        what = f"{len(data)} octets of content" if data else "the end of the message"
        awaited = f"the engine to take {what} on stream {stream}"
        known = self.wire.streams.get(stream)
        if known is None or self._refused(known):
            raise PeerMismatch(awaited, self._refusal(known))
        self.wire.send_content(stream, data, end=end, trailers=lowered(trailers))
        self.flush()
        async with deadline(awaited):
            await self.changed.until(
                lambda: self._refused(known) or known.over or not (known.waiting or self.wire.unsent or self.writing)
            )
        if self._refused(known):
            raise PeerMismatch(awaited, self._refusal(known))

    def _refused(self, stream: Stream) -> bool:
        return self.over or self._dead or stream.reset_received is not None

    def _refusal(self, stream: Stream | None) -> str:
        code = stream.reset_received if stream is not None else None
        return self.how_it_ended() if code is None else f"RST_STREAM {error_name(code)}"

    def credit(self, stream: int, count: int) -> None:
        """A script took `count` octets of content."""
        self.wire.consume(stream, count)
        self.flush()

    # Frames in

    @property
    def frames(self) -> list[Frame]:
        """Every frame that came, in order, those that break a rule included (as `ExtensionFrame`). `body_len` is the
        length of the payload; of very much DATA later frames are kept without it."""
        return [seen.frame for _, seen in self._seen]

    @property
    def seen(self) -> list[Seen]:
        """The same with their headers: flags as an octet, the reserved bit, the payload."""
        return [seen for _, seen in self._seen]

    def on_stream(self, stream: int) -> list[Seen]:
        """The frames of one stream, in order."""
        return [seen for _, seen in self._seen if seen.stream == stream]

    async def frame(self, kind: type[F], fits: Callable[[F], bool] = lambda _: True) -> F:
        """The oldest frame of that kind that fits and was not given before. Raises `PeerMismatch` when the connection
        ends without it, `DeadlineExpired`."""
        found: list[tuple[int, F]] = []

        def arrived() -> bool:
            found[:] = [
                (number, seen.frame)
                for number, seen in self._seen
                if isinstance(seen.frame, kind) and number not in self._given and fits(seen.frame)
            ][:1]
            return bool(found)

        await self.until(arrived, f"a {kind.__name__} at the {self.channel.us}")
        self._given.add(found[0][0])
        return found[0][1]

    @property
    def remote_settings(self) -> dict[int, int]:
        """The other side's settings, as they are in force; initial values until it said others."""
        return dict(self.wire.remote)

    async def settled(self) -> dict[int, int]:
        """The other side's settings, once they have come. Raises `PeerMismatch`, `DeadlineExpired`."""
        await self.until(lambda: self.wire.settings_seen, f"SETTINGS at the {self.channel.us}")
        return self.remote_settings

    async def acknowledged(self) -> None:
        """Wait until the other side has acknowledged all our SETTINGS. Raises `PeerMismatch`, `DeadlineExpired`."""
        await self.until(lambda: not self.wire.unacknowledged, f"SETTINGS ACK at the {self.channel.us}")

    async def ping(self) -> None:
        """A round trip on this connection. Raises `PeerMismatch` when it ends instead, `DeadlineExpired`."""
        self._pings += 1
        payload = b"ping" + self._pings.to_bytes(4, "big")
        self.say(frames.ping(payload))
        await self.until(lambda: payload in self._answered, f"the answer to a PING at the {self.channel.us}")
        self._answered.discard(payload)

    async def until(self, done: Callable[[], object], awaited: str) -> None:
        """Wait until `done()`. Raises `PeerMismatch` when the connection ends first, `DeadlineExpired`."""
        async with deadline(awaited):
            await self.changed.until(lambda: bool(done()) or self.over)
        if not done():
            raise PeerMismatch(awaited, self.how_it_ended())

    # Reading and writing

    def pause(self) -> None:
        """Stop reading the link, so that the engine's octets back up."""
        self._paused = True

    def resume(self) -> None:
        """Read the link again."""
        self._paused = False
        self.changed.tell()

    def _may_read(self) -> bool:
        return not self._paused and (self.wire.unsent < UNSENT or self._dead)

    def say_preface(self) -> None:
        """What this side says first; nothing the second time."""
        if not self._begun:
            self._begun = True
            self.wire.start()
            self.flush()

    async def run(self) -> None:
        """Say the preface where that was not done, then read and write until the end (a background task)."""
        self.say_preface()
        writing = asyncio.create_task(self._write())
        try:
            await self._read()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            self._dead = True
            self.changed.tell()

    async def _read(self) -> None:
        while self.ended is None:
            await self.changed.until(self._may_read)
            got = await receive_always(self.link, self.channel)
            if isinstance(got, End):
                self._take(self.wire.receive_end())
                self.channel.got(str(got))
                self.ended = got
                self._on_end()
            else:
                self._take(self.wire.receive(got))
            self.flush()

    async def _write(self) -> None:
        while not self._dead:
            await self.changed.until(lambda: bool(self.wire.unsent))
            octets = self.wire.outgoing()
            self.writing = True
            try:
                await self.link.send(octets)
            except (LinkReset, DeadlineExpired, PeerMismatch) as end:
                self.channel.got("takes no more", detail=str(end))
                self._dead = True
            finally:
                self.writing = False
            self.changed.tell()

    def _take(self, events: Sequence[Event]) -> None:
        for at, event in enumerate(events):
            match event:
                case FrameReceived(seen):
                    section = _section(events, at)
                    what, detail = told(seen, words_of(section.fields) if section else "")
                    data = seen.payload if seen.kind == FrameType.DATA else None
                    self.channel.got(what, detail=detail, data=lines_of(section.fields) if section else data)
                    self._keep(seen)
                case Broken(stream, violation):
                    self.channel.got("violation", detail=str(violation))
                    self._broken(stream, violation)
                case PingAcknowledged(data):
                    if len(self._answered) < MAX_FRAMES:
                        self._answered.add(data)
                case Unreadable(why, octets):
                    self.channel.got("unreadable", detail=why, data=octets)
                    self.unreadable = event
                    self._on_end()
                case _:
                    self._apply(event)
        self._tell()

    def _keep(self, seen: Seen) -> None:
        self._count += 1
        if seen.kind == FrameType.DATA:
            self._content_kept += seen.length
            if self._content_kept > MAX_CONTENT_FRAMES:
                seen = seen.emptied()
        self._seen.append((self._count, seen))

    # What a peer adds

    def _apply(self, event: Event) -> None:
        """An event of a message."""

    def _broken(self, stream: int, violation: Violation) -> None:
        """A broken rule, of a stream or of the connection."""
        keep(self.violations, violation)

    def _on_end(self) -> None:
        """The connection ended, or nothing on it can be read any more."""

    def _tell(self) -> None:
        self.changed.tell()

    # The end

    @property
    def over(self) -> bool:
        """Whether nothing more can be heard: the connection ended, or what comes cannot be read."""
        return self.ended is not None or self.unreadable is not None

    def how_it_ended(self) -> str:
        """The end, in words."""
        said = [f"GOAWAY {error_name(self.wire.goaways[-1].code)}"] if self.wire.goaways else []
        if self.unreadable:
            said.append(self.unreadable.why)
        if self.ended:
            said.append(str(self.ended))
        return ", ".join(said) or "nothing more"

    @property
    def end_code(self) -> int | None:
        """The code of the last GOAWAY that came."""
        return self.wire.goaways[-1].code if self.wire.goaways else None

    async def closed(self) -> ConnectionEnd:
        """How the engine ends the connection. Raises `DeadlineExpired`."""
        async with deadline(f"the end of the {self.channel.us}'s connection"):
            await self.changed.until(lambda: self.ended is not None)
        assert self.ended is not None
        return ConnectionEnd(self.ended.clean, self.end_code, self.how_it_ended())

    async def _say_goodbye(self) -> None:
        """GOAWAY and the end of the link."""
        if self.ended is None and not self._dead:
            if self.wire.goaway_sent is None:
                self.goaway()
            with contextlib.suppress(DeadlineExpired):
                await self.flushed()
        await self.link.close()


def _section(events: Sequence[Event], at: int) -> SectionReceived | None:
    """The field section that the frame at `at` completes."""
    for event in events[at + 1 :]:
        if isinstance(event, FrameReceived | ContentReceived):
            return None
        if isinstance(event, SectionReceived):
            return event
    return None


def told(seen: Seen, words: str) -> tuple[str, str]:
    """A frame for a transcript: what it is with what a field section says first, and the rest."""
    what, detail = seen.describe()
    if seen.kind == FrameType.DATA:
        return f"DATA {seen.length}", detail
    start, _, names = words.partition("; ")
    return f"{what} {start}".strip(), ": ".join(part for part in (detail, names) if part)


def lines_of(fields: Iterable[Field]) -> bytes:
    """A decoded field section, a line for each field."""
    return b"".join(name + b": " + value + b"\n" for name, value, _ in fields)


def text_of(fields: Iterable[Field]) -> list[tuple[str, str]]:
    """The fields without the pseudo-header ones, as `str`."""
    return [(field.name.decode("latin-1"), field.value.decode("latin-1")) for field in fields if field.name[:1] != b":"]


def pseudo_of(fields: Iterable[Field], name: bytes) -> str | None:
    """The value of the first pseudo-header field called `name`."""
    return next((field.value.decode("latin-1") for field in fields if field.name == name), None)


def lowered(fields: Fields) -> list[Field]:
    """Fields to send, their names in lower case (RFC 9113 section 8.2)."""
    return [Field(_octets(name).lower(), _octets(value)) for name, value in fields]


def _octets(text: Text) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else bytes(text)
