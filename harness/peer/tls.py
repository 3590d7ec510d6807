"""A scripted TLS client or server on a link: `harness.wire.tls` with waits, deadlines and a transcript."""

from __future__ import annotations

from collections import deque

from cryptography import x509

from harness.errors import PeerMismatch
from harness.evidence.transcript import Channel
from harness.link import tap
from harness.link.deadline import deadline
from harness.link.stream import End, EndKind, Link, LinkReset
from harness.wire.tls import events as seen
from harness.wire.tls.client import ClientOptions, TlsClient
from harness.wire.tls.codec import DecodeError
from harness.wire.tls.endpoint import Endpoint, alert_text
from harness.wire.tls.messages import ClientHello, Message, ServerHello
from harness.wire.tls.numbers import alert_name, group_name, suite_name, version_name
from harness.wire.tls.options import ServerOptions
from harness.wire.tls.server import TlsServer

READ_LIMIT = 1 << 26
"""The most octets that `receive_until_end` keeps (64 MiB)."""
PIECE = 1 << 18
"""Octets that are sealed before the link has to take them."""
CHUNK = 1 << 16
MAX_EVENTS = 4096


class TlsPeer:
    """One TLS connection of a script. `tls` is the endpoint below: everything that it knows is readable there.

    The other side's departures: one inside TLS is `PeerMismatch` from the waiting method (never from `read_event`), a
    reset is `LinkReset`, and everything awaited in vain is `DeadlineExpired`. `events` keeps what came, data excepted.
    """

    def __init__(self, link: Link, channel: Channel, tls: TlsClient | TlsServer) -> None:
        self.link = link
        self.channel = channel
        self.tls: Endpoint = tls
        self.events: list[seen.Event] = []
        self.done: seen.HandshakeDone | None = None
        self.violations: list[seen.ProtocolViolation] = []
        self.sessions: list[seen.Session] = []
        self._side = tls
        tap.current().secrets(tls.key_log)
        self._queue: deque[seen.Event | End] = deque()
        self._kept = bytearray()
        self._end: End | None = None
        self._transport: End | None = None
        self._started = False
        self._fin_sent = False

    @classmethod
    def client(cls, link: Link, channel: Channel, options: ClientOptions) -> TlsPeer:
        """A client; nothing is said before `handshake` or `start`."""
        return cls(link, channel, TlsClient(options))

    @classmethod
    def server(cls, link: Link, channel: Channel, options: ServerOptions) -> TlsPeer:
        """A server."""
        return cls(link, channel, TlsServer(options))

    # What is known

    @property
    def alpn(self) -> str | None:
        """The negotiated protocol, as Latin-1 text."""
        return self.tls.alpn

    @property
    def version(self) -> int | None:
        """The negotiated version's number."""
        return self.tls.version

    @property
    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """The other side's chain, leaf first."""
        return self.tls.peer_certificates

    @property
    def peer_verified(self) -> str | None:
        """None where the other side's chain verifies against `trust`, else the reason."""
        return self.tls.peer_verified

    @property
    def client_hello(self) -> ClientHello:
        """The first ClientHello: the one received, or the one sent. Raises `PeerMismatch` while there is none."""
        hello = self._side.client_hello if isinstance(self._side, TlsServer) else getattr(self._side, "hello", None)
        if hello is None:
            raise PeerMismatch("a ClientHello", "none yet")
        return hello

    @property
    def client_hello_raw(self) -> bytes:
        """The received ClientHello as it stood in its records: header and body; empty for a client."""
        return self._side.client_hello_raw if isinstance(self._side, TlsServer) else b""

    # Handshake

    async def start(self) -> None:
        """A client's first flight; nothing for a server, and nothing the second time."""
        if self._started:
            return
        self._started = True
        if isinstance(self._side, TlsClient):
            await self._say(self._side.start())

    async def handshake(self) -> seen.HandshakeDone:
        """Complete the handshake. Raises `PeerMismatch` with how it ended otherwise, `LinkReset`, `DeadlineExpired`."""
        result = await self.try_handshake()
        if isinstance(result, seen.HandshakeDone):
            return result
        if result.kind is EndKind.RESET:
            raise LinkReset("connection reset during the handshake")
        raise PeerMismatch(f"the handshake to complete at the {self.channel.us}", self._ended_by(result))

    async def try_handshake(self) -> seen.HandshakeDone | End:
        """Like `handshake`, where a refusal is no departure: gives how it ended. Our own refusal reads on to that end.

        A broken rule of TLS on the other side is `PeerMismatch` here too.
        """
        async with deadline(f"the TLS handshake at the {self.channel.us}"):
            try:
                await self.start()
            except LinkReset as reset:
                return self._reset(reset)
            while True:
                event = await self._next()
                if isinstance(event, End | seen.HandshakeDone):
                    return event
                self._raise_on(event)
                self._keep(event)

    def _ended_by(self, end: End) -> str:
        refused = next((event for event in self.events if isinstance(event, seen.Refused | seen.Unsupported)), None)
        if isinstance(refused, seen.Refused):
            return f"our refusal with alert {refused.description} {alert_name(refused.description)}: {refused.why}"
        if isinstance(refused, seen.Unsupported):
            return f"something that our peer does not speak: {refused.what}"
        return f"{end} {alert_name(end.alert)}" if end.alert is not None else str(end)

    def _raise_on(self, event: seen.Event) -> None:
        if isinstance(event, seen.ProtocolViolation) and event.fatal:
            raise PeerMismatch(f"legal TLS ({event.section})", event.what)
        if isinstance(event, seen.Unsupported):
            raise PeerMismatch("a choice that this peer speaks", event.what)

    # Reading

    async def read_event(self) -> seen.Event | End:
        """The next event, or how the connection ended (again on later calls). Raises `DeadlineExpired`."""
        async with deadline(f"a TLS event at the {self.channel.us}"):
            await self.start()
            return await self._next()

    async def read_until(self, kind: type[seen.Event]) -> seen.Event:
        """The next event of that kind, passing over others (data is kept). Raises `PeerMismatch` at the end."""
        async with deadline(f"{kind.__name__} at the {self.channel.us}"):
            while True:
                event = await self._next()
                if isinstance(event, End):
                    raise PeerMismatch(f"{kind.__name__} at the {self.channel.us}", self._ended_by(event))
                if isinstance(event, kind):
                    return event
                self._keep(event)

    async def receive(self, limit: int = CHUNK) -> bytes:
        """The next application octets, `b""` at any end but a reset (see `end`). Raises `LinkReset`, `PeerMismatch`,
        `DeadlineExpired`."""
        async with deadline(f"application data at the {self.channel.us}"):
            return await self._receive(limit)

    async def _receive(self, limit: int) -> bytes:
        while not self._kept:
            event = await self._next()
            if isinstance(event, End):
                if event.kind is EndKind.RESET:
                    raise LinkReset
                return b""
            self._raise_on(event)
            self._keep(event)
        return self._taken(limit)

    def _keep(self, event: seen.Event) -> None:
        if isinstance(event, seen.Data | seen.EarlyData):
            self._kept += event.data

    def _taken(self, count: int) -> bytes:
        data = bytes(self._kept[:count])
        del self._kept[:count]
        return data

    async def receive_exactly(self, count: int) -> bytes:
        """Exactly `count` octets; what came is kept when it is in vain. Raises `PeerMismatch` at an end before."""
        async with deadline(f"{count} octets at the {self.channel.us}"):
            while len(self._kept) < count:
                event = await self._next()
                if isinstance(event, End):
                    what = f"{len(self._kept)} octets, then {self._ended_by(event)}"
                    raise PeerMismatch(f"{count} octets at the {self.channel.us}", what)
                self._raise_on(event)
                self._keep(event)
        return self._taken(count)

    async def receive_until_end(self) -> tuple[bytes, End]:
        """All application octets up to the end, and how it ended. Raises `DeadlineExpired`, `PeerMismatch` above
        `READ_LIMIT`."""
        async with deadline(f"the end of the connection at the {self.channel.us}"):
            while True:
                event = await self._next()
                if isinstance(event, End):
                    return self._taken(len(self._kept)), event
                self._keep(event)
                if len(self._kept) > READ_LIMIT:
                    raise PeerMismatch("the connection to end", f"more than {READ_LIMIT} octets")

    async def end(self) -> End:
        """How the connection ends, reading past what comes before. close_notify and alerts count as they arrive."""
        return (await self.receive_until_end())[1]

    async def transport_end(self) -> End:
        """How the transport ends (FIN or reset), which may come behind a close_notify or an alert."""
        async with deadline(f"the end of the transport at the {self.channel.us}"):
            while self._transport is None:
                await self._pump()
            return self._transport

    async def _next(self) -> seen.Event | End:
        while not self._queue:
            if self._end is not None:
                return self._end
            await self._pump()
        return self._queue.popleft()

    async def _pump(self) -> None:
        """Take what the link gives next. Reading goes on behind close_notify, so that what follows is seen."""
        if self._transport is not None:
            return
        try:
            data = await self.link.receive(CHUNK)
        except LinkReset as reset:
            self._transport = self._reset(reset)
            return
        if not data:
            self._transport = End(EndKind.FIN)
            self.channel.got("FIN")
            for event in self.tls.receive_eof():
                self._take(event)
            if self._end is None:
                self._finish(End(EndKind.TRUNCATED))
            return
        for event in self._merged(self.tls.receive(data)):
            self._take(event)
        try:
            await self._say(self.tls.outgoing())
        except LinkReset:
            # The other side is gone before our answer: its end is what the next read shows.
            return

    @staticmethod
    def _merged(events: list[seen.Event]) -> list[seen.Event]:
        """Neighbouring data as one event: a transcript counts steps, not records (`tls.records` has those)."""
        merged: list[seen.Event] = []
        run: list[bytes] = []
        for event in events:
            if isinstance(event, seen.Data):
                run.append(event.data)
                continue
            if run:
                merged.append(seen.Data(b"".join(run)))
                run = []
            merged.append(event)
        if run:
            merged.append(seen.Data(b"".join(run)))
        return merged

    def _take(self, event: seen.Event) -> None:
        what, detail = describe(event)
        data = event.data if isinstance(event, seen.Data | seen.EarlyData) else None
        if not isinstance(event, seen.HandshakeDone | seen.TicketReceived):
            self.channel.got(what, detail=detail, data=data)
        elif isinstance(event, seen.HandshakeDone):
            self.done = event
            self.channel.got(what, detail=detail)
        else:
            self.sessions.append(event.session)
        if isinstance(event, seen.ProtocolViolation):
            self.violations.append(event)
        if data is None and len(self.events) < MAX_EVENTS:
            self.events.append(event)
        self._queue.append(event)
        if isinstance(event, seen.CloseNotify):
            self._finish(End(EndKind.CLOSE_NOTIFY))
        elif isinstance(event, seen.Alert) and event.fatal:
            self._finish(End(EndKind.ALERT, event.description))

    def _finish(self, end: End) -> None:
        if self._end is None:
            self._end = end

    def _reset(self, reset: LinkReset) -> End:
        end = End(EndKind.RESET)
        self.channel.got("reset", detail=reset.reason)
        self._finish(end)
        return end

    # Saying

    async def _say(self, octets: bytes) -> None:
        for step in self.tls.take_said():
            detail = "; ".join(part for part in (hello_detail(step.message), step.detail) if part)
            self.channel.sent(step.what, detail=detail)
        # Behind our FIN nothing can be said; an answer that TLS asks for (a close_notify) is lost, as on any socket.
        if octets and not self._fin_sent:
            await self.link.send(octets)

    async def _say_soon(self, octets: bytes, what: str) -> None:
        async with deadline(f"the {self.channel.us} to send {what}"):
            await self._say(octets)

    async def send(self, data: bytes, *, record_size: int | None = None) -> None:
        """Application data. Raises `LinkReset`, `DeadlineExpired`, `TlsUsageError` before the handshake is complete."""
        self.channel.sent("application data", data=data)
        async with deadline(f"the {self.channel.us} to send {len(data)} octets"):
            for at in range(0, len(data), PIECE) if data else (0,):
                await self._say(self.tls.send(data[at : at + PIECE], record_size=record_size))

    async def close_notify(self) -> None:
        """Announce the end of our direction; reading goes on."""
        await self._say_soon(self.tls.close_notify(), "close_notify")

    async def send_end(self) -> None:
        """End our direction cleanly: close_notify, and no FIN yet. The counterpart of a plain peer's `send_end`."""
        await self.close_notify()

    async def send_fin(self) -> None:
        """End the transport's direction as it is; without a close_notify before it, that is a truncation."""
        self.channel.sent("FIN")
        self._fin_sent = True
        async with deadline(f"the {self.channel.us} to send FIN"):
            await self.link.send_end()

    async def alert(self, description: int, level: int | None = None) -> None:
        """Any alert."""
        await self._say_soon(self.tls.alert(description, level), "an alert")

    async def key_update(self, *, request: bool | int = True) -> None:
        """A KeyUpdate."""
        await self._say_soon(self.tls.key_update(request=request), "KeyUpdate")

    async def raw_record(self, content_type: int, payload: bytes, **how: int | bool | None) -> None:
        """One record of any type and size; `how` as in `RecordWriter.build`."""
        record = self.tls.raw_record(content_type, payload, **how)
        self.channel.sent("record of the script", detail=_how(content_type, how), data=payload)
        await self._say_soon(record, "a record")

    async def send_handshake(self, message: bytes | Message) -> None:
        """A handshake message at any time."""
        await self._say_soon(self.tls.send_handshake(message), "a handshake message")

    async def send_octets(self, octets: bytes) -> None:
        """Octets straight on the link, below TLS."""
        self.channel.sent("octets below TLS", data=octets)
        await self._say_soon(octets, "octets")

    async def close(self) -> None:
        """close_notify unless said or omitted by the script, then the link. Safe to call twice."""
        omit = isinstance(self._side, TlsServer) and self._side.server_options.omit_close_notify
        if self.tls.established and not (omit or self._fin_sent or self._transport):
            try:
                await self.close_notify()
            except LinkReset as reset:
                self._reset(reset)
        await self.link.close()

    def abort(self) -> None:
        """Reset the link."""
        self.channel.sent("reset")
        self.link.abort()


def _how(content_type: int, how: dict[str, int | bool | None]) -> str:
    return ", ".join([f"type {content_type}", *(f"{name}={value}" for name, value in how.items() if value is not None)])


def hello_detail(message: Message | None) -> str:
    """What a reader wants to know of a hello, in one line; empty for other messages."""
    if isinstance(message, ServerHello):
        return f"suite {suite_name(message.cipher_suite)}"
    if not isinstance(message, ClientHello):
        return ""
    try:
        versions = message.supported_versions or (message.legacy_version,)
        name = message.server_name
        protocols = message.alpn
    except DecodeError as error:
        return f"malformed: {error}"
    parts = [f"SNI {name}" if name is not None else "no SNI"]
    parts.append(f"ALPN {', '.join(protocols)}" if protocols is not None else "no ALPN")
    parts.append(" ".join(version_name(version) for version in versions))
    if message.psks is not None:
        parts.append("resumption offered")
    return ", ".join(parts)


def describe(event: seen.Event) -> tuple[str, str]:
    """An event in the field's words: the step, and its readable rest."""
    match event:
        case seen.HandshakeMessage(name=name, message=message):
            return name, hello_detail(message)
        case seen.HandshakeDone():
            return "handshake complete", _done_detail(event)
        case seen.Alert(level=level, description=description):
            return "alert", alert_text(level, description)
        case seen.Data():
            return "application data", ""
        case seen.EarlyData():
            return "early data", ""
        case seen.CloseNotify():
            return "close_notify", ""
        case seen.ChangeCipherSpec():
            return "change_cipher_spec", ""
        case seen.KeyUpdateReceived(requested=requested):
            return "keys updated", "update requested" if requested else ""
        case seen.ProtocolViolation():
            return "TLS violation", str(event)
        case seen.Truncated(handshake_done=done):
            return "truncated", "no close_notify" if done else "during the handshake"
        case _:
            return type(event).__name__.lower(), str(getattr(event, "why", getattr(event, "what", "")))


def _done_detail(done: seen.HandshakeDone) -> str:
    parts = [version_name(done.version), suite_name(done.suite)]
    if done.group is not None:
        parts.append(group_name(done.group))
    parts.append(f"ALPN {done.alpn}" if done.alpn is not None else "no ALPN")
    if done.resumed:
        parts.append("resumed")
    if done.peer_verified:
        parts.append(f"certificate: {done.peer_verified}")
    return ", ".join(parts)
