"""The agent's link to an engine; over TLS by the standard library's BIO objects on a TCP link of ours.

asyncio's own TLS cannot end one direction and read on, nor tell a close_notify from a bare FIN. Here a `close_notify`
ends our direction while reading goes on (`send_end`), a FIN without one is a truncation, and an abort is a RST.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import ssl
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from harness.link import tap
from harness.link.stream import End, EndKind, Link, LinkReset
from harness.link.tcp import TcpLink
from harness.model.event import AGENT

WRITE = 65536
"""Octets that are encrypted before the transport is asked to take them: four full records."""
RECORD = 16384
LINGER_SECONDS = 1.0
"""How long a closed link waits in the background for the other side's end, so that nothing under way is cut by RST."""

ALERTS = {
    "close notify": 0,
    "unexpected message": 10,
    "bad record mac": 20,
    "record overflow": 22,
    "handshake failure": 40,
    "bad certificate": 42,
    "unsupported certificate": 43,
    "certificate revoked": 44,
    "certificate expired": 45,
    "certificate unknown": 46,
    "illegal parameter": 47,
    "unknown ca": 48,
    "access denied": 49,
    "decode error": 50,
    "decrypt error": 51,
    "protocol version": 70,
    "insufficient security": 71,
    "internal error": 80,
    "inappropriate fallback": 86,
    "user cancelled": 90,
    "missing extension": 109,
    "unsupported extension": 110,
    "unrecognized name": 112,
    "unknown psk identity": 115,
    "certificate required": 116,
    "no application protocol": 120,
}
"""TLS alert numbers by OpenSSL's name for them (RFC 8446 section 6)."""
_ALERT_TEXT = re.compile(r"\b(?:sslv3|tlsv1|tlsv13)(?: alert)? ([a-z ]+?) \(")


class HandshakeFailed(LinkReset):
    """The TLS handshake did not complete; `alert` is the number of the alert that the other side sent, if it did."""

    def __init__(self, reason: str, alert: int | None = None) -> None:
        super().__init__(reason)
        self.alert = alert


@dataclass(frozen=True, slots=True)
class EngineAccess:
    """How an agent reaches an engine and proves who it is.

    `server_name` is sent as SNI and checked; `None` sends none and leaves the name unchecked. `ca_file` is the only
    trust when it is set, `insecure` trusts anybody. `certificate` is (PEM chain, PEM key). `transport` is `tls` or
    `quic`; `udp` is where QUIC is spoken, unless that is at the same address and port.
    """

    address: str
    port: int
    server_name: str | None = None
    ca_file: str | None = None
    insecure: bool = False
    token: str | None = field(default=None, repr=False)
    certificate: tuple[str, str] | None = None
    transport: str = "tls"
    udp: tuple[str, int] | None = None

    async def connect(
        self, *, alpn: Sequence[str] | None = None, first: bytes = b"", address: tuple[str, int] | None = None
    ) -> AgentLink:
        """Open one link over TLS; `first` leaves in the same write as our Finished. `address` is another engine's.
        (Streams of a QUIC connection are opened by `harness.link.agent_quic`.)"""
        host, port = address or (self.address, self.port)
        return await connect_agent(
            host,
            port,
            server_name=self.server_name if address is None else host,
            ca_file=self.ca_file,
            alpn=("rstrm/1",) if alpn is None else alpn,
            certificate=self.certificate,
            insecure=self.insecure,
            first=first,
        )

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class _Tcp(TcpLink):
    """A TCP link that can be let go: it discards what still comes, and ends with the other side or after a while."""

    leg = AGENT

    def __init__(self) -> None:
        super().__init__()
        self._let_go = False
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._let_go:
            self.tap.got(data)
        else:
            super().data_received(data)

    def eof_received(self) -> bool:
        return super().eof_received() and not self._let_go

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def gone(self) -> bool:
        """Whether the socket is closed."""
        return self._gone

    def arrived(self) -> bytes:
        """Octets that wait to be read, `b""` when there are none."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._unread = 0
        if self._paused and not self._gone:
            self._paused = False
            self._transport.resume_reading()
        return data

    @property
    def unsent(self) -> int:
        """Octets that the socket has not taken yet."""
        return 0 if self._gone else self._transport.get_write_buffer_size()

    def send_now(self, data: bytes) -> None:
        """Write without waiting for the send buffer. Raises `LinkReset` when the connection is gone."""
        if self._gone:
            raise LinkReset(str(self._lost or "connection closed"))
        self.tap.sent(data)
        self._transport.write(data)

    def let_go(self) -> None:
        """Send FIN and close as soon as the other side's is here."""
        if self._gone or self._let_go:
            return
        self._let_go = True
        self._chunks.clear()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self.tap.sent_end()
        if self._ended:
            self._transport.close()
        else:
            # A connection that was reset a moment ago cannot be ended any more.
            with contextlib.suppress(OSError):
                self._transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)

    async def wait_closed(self) -> None:
        """Return when the socket is closed."""
        await self._closed.wait()


class AgentLink(Link):
    """One connection of an agent to the engine: a TLS connection, or a stream of its QUIC connection.

    `end` is how the other side ended it, once that was read. One task may receive and another send at the same time.
    """

    end: End | None = None

    @property
    @abstractmethod
    def version(self) -> str:
        """The TLS version (`TLSv1.3`)."""

    @property
    @abstractmethod
    def alpn(self) -> str | None:
        """The application protocol that the engine chose."""

    @property
    @abstractmethod
    def peer_certificate(self) -> bytes | None:
        """The engine's certificate, DER."""

    @property
    @abstractmethod
    def local(self) -> tuple[str, int]:
        """Our address and port."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether nothing goes over it any more."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Octets that the transport has not taken yet."""

    @abstractmethod
    def send_now(self, data: bytes) -> None:
        """As `send`, without waiting: whoever calls looks at `unsent`, and does not `send` at the same time."""

    @abstractmethod
    def poll(self, limit: int = 65536) -> bytes | None:
        """What `receive` would give at once, or `None` when nothing is here. Only while no task receives."""

    @abstractmethod
    def push_back(self, data: bytes) -> None:
        """Put octets back in front: they were read with a frame before them."""

    @abstractmethod
    def carry(self, *, dialed: bool) -> None:
        """From here on the link is a byte stream, and the tap is told of what it carries; `dialed`: we opened it."""

    @abstractmethod
    async def send_fin(self) -> None:
        """End our direction without a word of TLS's: what a truncation attack looks like (RFC 8446 section 6.1)."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Return when nothing goes over it any more."""


class TlsAgentLink(AgentLink):
    """One TLS connection to the engine. Made by `connect_agent`."""

    def __init__(self, tcp: _Tcp, context: ssl.SSLContext, server_name: str | None) -> None:
        self._tcp = tcp
        self.tap = tcp.tap
        self._carried = tap.SILENT
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=server_name)
        self._plain: deque[bytes] = deque()
        self._ended_ours = False
        self.end: End | None = None
        self._reason = ""

    @property
    def version(self) -> str:
        """The TLS version (`TLSv1.3`)."""
        return self._tls.version() or ""

    @property
    def alpn(self) -> str | None:
        """The application protocol that the engine chose."""
        return self._tls.selected_alpn_protocol()

    @property
    def peer_certificate(self) -> bytes | None:
        """The engine's certificate, DER."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def local(self) -> tuple[str, int]:
        """Our address and port."""
        return self._tcp.local

    @property
    def closed(self) -> bool:
        """Whether the socket is closed; a link that was let go still waits for the other side."""
        return self._tcp.gone

    async def handshake(self, first: bytes = b"") -> None:
        """Complete the handshake; `first` leaves in the same write as our Finished. Raises `HandshakeFailed`."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLCertVerificationError as error:
                await self._flush()
                raise HandshakeFailed(f"the engine's certificate: {error.verify_message}") from error
            except ssl.SSLEOFError as error:
                raise HandshakeFailed("the engine closed the connection in the TLS handshake") from error
            except ssl.SSLError as error:
                await self._flush()
                raise HandshakeFailed(_reason(error), _alert(error)) from error
        if first:
            self._tls.write(first)
        await self._flush()

    async def send(self, data: bytes) -> None:
        """Encrypt, write, wait for the send buffer; up to `RECORD` octets are one TLS record. Raises `LinkReset`."""
        if self._ended_ours:
            raise LinkReset("our direction was ended before")
        self._carried.sent(data)
        view = memoryview(data)
        for start in range(0, len(view), WRITE):
            try:
                self._tls.write(view[start : start + WRITE])
            except ssl.SSLError as error:
                self._fail(error)
            await self._flush()

    @property
    def unsent(self) -> int:
        """Octets, encrypted, that the socket has not taken yet."""
        return self._tcp.unsent

    def send_now(self, data: bytes) -> None:
        """As `send`, without waiting: whoever calls looks at `unsent`, and does not `send` at the same time."""
        if self._ended_ours:
            raise LinkReset("our direction was ended before")
        self._carried.sent(data)
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._fail(error)
        self._tcp.send_now(self._out.read())

    async def receive(self, limit: int = 65536) -> bytes:
        """The next octets, `b""` at the engine's close_notify. Raises `LinkReset`, also for a FIN without it."""
        try:
            data = await self._receive(limit)
        except LinkReset:
            self._carried.got_reset()
            raise
        if data:
            self._carried.got(data)
        else:
            self._carried.got_end()
        return data

    async def _receive(self, limit: int) -> bytes:
        while not self._plain:
            data = self._decrypt(limit)
            if data is not None:
                return data
            if self._out.pending:
                await self._flush()
            await self._feed()
        data = self._plain.popleft()
        if len(data) > limit:
            self._plain.appendleft(data[limit:])
        return data[:limit]

    def poll(self, limit: int = 65536) -> bytes | None:
        """What `receive` would give at once, or `None` when nothing is here. Only while no task receives."""
        while not self._plain:
            data = self._decrypt(limit)
            if data is not None:
                return data
            arrived = self._tcp.arrived()
            if not arrived:
                return None
            self._in.write(arrived)
        return self._plain.popleft()

    def push_back(self, data: bytes) -> None:
        """Put octets back in front: they were read with a frame before them."""
        if data:
            self._plain.appendleft(data)

    def carry(self, *, dialed: bool) -> None:
        """From here on the link is a byte stream, and the tap is told of what it carries; `dialed`: we opened it."""
        self._carried = self.tap = tap.current().carried(self.local, dialed=dialed)

    async def send_end(self) -> None:
        """Send close_notify; TCP stays open, and receiving goes on."""
        if self._ended_ours or self._tcp.gone:
            return
        self._ended_ours = True
        self._carried.sent_end()
        # OpenSSL takes a second step in the same call and would drop application data that it finds there, so
        # everything that is here is decrypted before (one task receives at a time: nothing comes in between).
        if self.end is None:
            self._decrypt_all()
        try:
            self._tls.unwrap()
        except ssl.SSLError as error:
            # Wanting to read is the rule: the engine's close_notify may come much later. Anything else has been seen
            # by the reader, or will be.
            if not isinstance(error, ssl.SSLWantReadError) and self.end is None:
                self._reason = _reason(error)
        await self._flush()

    async def send_fin(self) -> None:
        """Send FIN without close_notify: what a truncation attack looks like (RFC 8446 section 6.1)."""
        self._ended_ours = True
        self._carried.sent_end()
        await self._tcp.send_end()

    async def close(self) -> None:
        """Send close_notify and FIN and let the socket go; it stays a moment for the other side's end."""
        try:
            await self.send_end()
        except LinkReset:
            self._tcp.abort()
        self._tcp.let_go()

    def abort(self) -> None:
        """Reset the connection."""
        self._ended_ours = True
        self._carried.sent_reset()
        self._tcp.abort()

    async def wait_closed(self) -> None:
        """Return when the socket is closed."""
        await self._tcp.wait_closed()

    async def _feed(self) -> None:
        try:
            data = await self._tcp.receive(1 << 18)
        except LinkReset as error:
            self.end = End(EndKind.RESET)
            self._reason = error.reason
            raise
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _flush(self) -> None:
        if self._out.pending:
            await self._tcp.send(self._out.read())

    def _decrypt(self, limit: int) -> bytes | None:
        """Octets that are here, `b""` at the clean end, `None` when more must arrive first. Raises `LinkReset`."""
        if self.end is not None:
            if self.end.clean:
                return b""
            raise LinkReset(self._reason)
        try:
            data = self._tls.read(min(limit, RECORD))
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as error:
            self._fail(error)
        if not data:
            self.end = End(EndKind.CLOSE_NOTIFY)
        return data

    def _decrypt_all(self) -> None:
        try:
            while data := self._decrypt(RECORD):
                self._plain.append(data)
        except LinkReset:
            # Kept in `end`; whoever receives next is told.
            return

    def _fail(self, error: ssl.SSLError) -> NoReturn:
        if isinstance(error, ssl.SSLEOFError):
            self.end = End(EndKind.TRUNCATED)
            self._reason = str(EndKind.TRUNCATED)
        elif (alert := _alert(error)) is not None:
            self.end = End(EndKind.ALERT, alert)
            self._reason = _reason(error)
        else:
            self.end = End(EndKind.RESET)
            self._reason = _reason(error)
        raise LinkReset(self._reason) from error


def _alert(error: ssl.SSLError) -> int | None:
    """The number of the alert that was received. Only OpenSSL's text tells, and Python's `reason` is not always set."""
    match = _ALERT_TEXT.search(str(error))
    return ALERTS.get(match[1]) if match else None


def _reason(error: ssl.SSLError) -> str:
    match = _ALERT_TEXT.search(str(error))
    if match and match[1] in ALERTS:
        return f"TLS alert {ALERTS[match[1]]} ({match[1]})"
    return f"TLS error: {(error.reason or str(error)).lower().replace('_', ' ')}"


async def connect_agent(
    address: str,
    port: int,
    *,
    server_name: str | None,
    ca_file: str | Path | None = None,
    alpn: Sequence[str] = ("rstrm/1",),
    certificate: tuple[str, str] | None = None,
    insecure: bool = False,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    first: bytes = b"",
) -> TlsAgentLink:
    """Connect to an engine and complete the TLS handshake, with exactly `version`.

    Raises `OSError` when TCP fails or a file cannot be read, `HandshakeFailed` when TLS does.
    """
    context = _context(str(ca_file) if ca_file else None, tuple(alpn), certificate, insecure, server_name, version)
    _, tcp = await asyncio.get_running_loop().create_connection(_Tcp, address, port)
    link = TlsAgentLink(tcp, context, server_name)
    try:
        await link.handshake(first)
    except HandshakeFailed:
        await tcp.close()
        raise
    except LinkReset as error:
        await tcp.close()
        raise HandshakeFailed(f"{error.reason} in the TLS handshake") from error
    except BaseException:
        tcp.abort()
        raise
    return link


def _context(
    ca_file: str | None,
    alpn: tuple[str, ...],
    certificate: tuple[str, str] | None,
    insecure: bool,
    server_name: str | None,
    version: ssl.TLSVersion,
) -> ssl.SSLContext:
    files = (ca_file, *(certificate or ()))
    changed = tuple(Path(name).stat().st_mtime_ns for name in files if name)
    key_log = tap.current().key_log_file
    return _made_context(ca_file, alpn, certificate, insecure, server_name is not None, version, changed, key_log)


@functools.lru_cache(maxsize=32)
def _made_context(
    ca_file: str | None,
    alpn: tuple[str, ...],
    certificate: tuple[str, str] | None,
    insecure: bool,
    named: bool,
    version: ssl.TLSVersion,
    changed: tuple[int, ...],  # part of the key: an exchanged file is read again
    key_log: str | None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.check_hostname = named and not insecure
    if insecure:
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate:
        context.load_cert_chain(*certificate)
    if key_log:
        context.keylog_filename = key_log
    return context
