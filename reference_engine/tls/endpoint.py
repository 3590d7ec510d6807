"""One end of a TLS connection without I/O: octets in, events and octets out.

`TlsEndpoint` is the interface: everything of the engine that speaks TLS over a byte stream uses it through
`Parts.tls_endpoints`, which is also where another implementation is put in its place. `OpenSslEndpoint` is ours, on
pyOpenSSL's memory BIOs: its ALPN callback sees the client's offer, which the standard library's does not.

No octet enters or leaves by itself: `receive` takes what the peer sent and returns what it meant, `send` takes
application data, and `outgoing` hands out what must be sent, alerts included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from reference_engine.tls.rules import TLS12, TLS12_SUITES, TLS13, NoApplicationProtocol, Suites

RECORD = 16_384
"""Most octets of plaintext in one record (RFC 8446 section 5.1)."""


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """The handshake completed; the endpoint's facts are valid from here on."""


@dataclass(frozen=True, slots=True)
class Data:
    """Application data of the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer's close_notify: it sends nothing more (RFC 8446 section 6.1)."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The connection is over without a clean end. `alert` is the fatal alert that we sent (it waits in `outgoing`) or
    received, by number; `sent` says which."""

    reason: str
    alert: int | None = None
    sent: bool = False


Event = HandshakeDone | Data | Ended | Failed

SelectAlpn = Callable[[Sequence[str]], str | None]
"""The client's offer to the name to speak, or None to go on without; raises NoApplicationProtocol for alert 120."""


@dataclass(frozen=True, eq=False)
class ServerCertificate:
    """A certificate chain, leaf first, with the leaf's private key. Compared by identity: a reload makes a new one."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How a server endpoint negotiates. All but `select_alpn` and `resume` make up the rule set that is shared.

    `request_certificate` asks for a client certificate without demanding or verifying one (the proof of possession is
    still checked, RFC 8446 section 4.4.3): whoever asked for it judges it.
    """

    certificate: ServerCertificate
    select_alpn: SelectAlpn
    min_version: int = TLS12
    suites: Suites = Suites()  # noqa: RUF009 - frozen
    request_certificate: bool = False
    resume: bool = False


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client endpoint negotiates: TLS 1.2 or later, no certificate of its own; the peer's is not verified here
    but handed out (`peer_chain`)."""

    server_name: str | None
    alpns: tuple[str, ...] = ()


class TlsEndpoint(ABC):
    """One end of a TLS connection. `version`, `alpn`, `group` and `peer_chain` are valid after HandshakeDone."""

    version: str = ""
    """`"TLSv1.2"` or `"TLSv1.3"`."""
    alpn: str | None = None
    group: str | None = None
    """The key exchange group, as OpenSSL names it (`"x25519"`, `"X25519MLKEM768"`)."""
    peer_chain: tuple[bytes, ...] = ()
    """The peer's certificates in DER, its own first; empty where it sent none."""

    @property
    def spoke(self) -> bool:
        """Whether `outgoing` may have something."""
        return True

    @abstractmethod
    def start(self) -> None:
        """Begin the handshake: a client's ClientHello goes to `outgoing`; without effect on a server."""

    @abstractmethod
    def receive(self, data: bytes) -> list[Event]:
        """What the octets of the peer mean. After Ended or Failed everything is ignored."""

    @abstractmethod
    def receive_eof(self) -> list[Event]:
        """The transport ended: nothing after Ended, else Failed (truncation)."""

    @abstractmethod
    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Protect application data; only between HandshakeDone and `end`."""

    @abstractmethod
    def end(self) -> None:
        """Queue close_notify; receiving goes on. Without effect before HandshakeDone."""

    @abstractmethod
    def outgoing(self) -> bytes:
        """Take what is to be sent."""


class TlsEndpoints:
    """Makes endpoints, and keeps one SSL_CTX per rule set (certificate, versions, suites): never one per connection."""

    MOST_CONTEXTS = 128

    def __init__(self) -> None:
        self._contexts: OrderedDict[object, SSL.Context] = OrderedDict()

    def server(self, tls: ServerTls) -> TlsEndpoint:
        """The engine's end of a connection from a client."""
        key = (tls.certificate, tls.min_version, tls.suites, tls.request_certificate)
        connection = SSL.Connection(self._context(key, lambda: _server_context(tls)))
        connection.set_accept_state()
        if not tls.resume:
            connection.set_options(SSL.OP_NO_TICKET)
        return OpenSslEndpoint(connection, _Seen(tls.select_alpn))

    def client(self, tls: ClientTls) -> TlsEndpoint:
        """The engine's end of a connection to an upstream."""
        connection = SSL.Connection(self._context("client", _client_context))
        connection.set_connect_state()
        if tls.server_name is not None:
            connection.set_tlsext_host_name(tls.server_name.encode("ascii"))
        if tls.alpns:
            connection.set_alpn_protos([encode_alpn(name) for name in tls.alpns])
        return OpenSslEndpoint(connection, _Seen(None))

    def _context(self, key: object, make: Callable[[], SSL.Context]) -> SSL.Context:
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = make()
            if len(self._contexts) > self.MOST_CONTEXTS:
                # Connections hold the context they were made from; only new ones get a new one.
                self._contexts.popitem(last=False)
        else:
            self._contexts.move_to_end(key)
        return context


def decode_alpn(name: bytes) -> str:
    """An ALPN name as text. Names are octets (RFC 7301 section 3.1); those that are no UTF-8 keep their value."""
    return name.decode("utf-8", "surrogateescape")


def encode_alpn(name: str) -> bytes:
    """The octets of an ALPN name."""
    return name.encode("utf-8", "surrogateescape")


class _Seen:
    """What the callbacks of one connection need and notice; no reference back to the endpoint.

    `spoke`: something may have been written since that was last asked for.
    """

    __slots__ = ("alert", "select_alpn", "sent", "spoke")

    def __init__(self, select_alpn: SelectAlpn | None) -> None:
        self.select_alpn = select_alpn
        self.alert: int | None = None
        self.sent = False
        self.spoke = True


_PARTIAL_WRITE = 1  # SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets but does not name
_ALERT = 0x4000  # SSL_CB_ALERT
_WRITE = 0x08  # SSL_CB_WRITE
_FATAL = 2
_NAMED_ALERTS = {"renegotiation mismatch": 40, "length mismatch": 50}
"""Where OpenSSL sends another alert than the one that the text names (RFC 5746 section 3.4; RFC 8446 section 6, of a
list of versions), by its reason."""
_MOST_OUT = 270_336  # 256 KiB of plaintext with what its records add


def _on_info(connection: SSL.Connection, where: int, value: int) -> None:
    seen: _Seen = connection.get_app_data()
    # Handshake messages, KeyUpdate among them, and alerts are all that OpenSSL writes of its own accord.
    seen.spoke = True
    # For alerts the value holds level and description. SSL_shutdown's close_notify is a warning and not kept.
    if where & _ALERT and value >> 8 == _FATAL:
        seen.alert, seen.sent = value & 0xFF, bool(where & _WRITE)


def _on_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes | object:
    seen: _Seen = connection.get_app_data()
    assert seen.select_alpn is not None
    # An exception here becomes alert 120; returning "no overlap" would go on without ALPN.
    name = seen.select_alpn([decode_alpn(one) for one in offered])
    return SSL.NO_OVERLAPPING_PROTOCOLS if name is None else encode_alpn(name)


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(TLS12)
    context.set_max_proto_version(TLS13)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.clear_mode(_PARTIAL_WRITE)
    context.set_info_callback(_on_info)
    return context


def _server_context(tls: ServerTls) -> SSL.Context:
    context = _context()
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_min_proto_version(tls.min_version)
    if tls.suites.tls12:
        context.set_cipher_list(":".join(TLS12_SUITES[name] for name in tls.suites.tls12).encode("ascii"))
    else:
        context.set_min_proto_version(TLS13)
    context.set_tls13_ciphersuites(":".join(tls.suites.tls13).encode("ascii"))
    leaf, *rest = tls.certificate.chain
    context.use_certificate(leaf)
    for issuer in rest:
        context.add_extra_chain_cert(issuer)
    context.use_privatekey(tls.certificate.key)  # type: ignore[arg-type]
    context.set_alpn_select_callback(_on_alpn)  # type: ignore[arg-type]
    # With a callback in place the name is acknowledged (RFC 6066 section 3).
    context.set_tlsext_servername_callback(lambda connection: None)
    if tls.request_certificate:
        context.set_verify(SSL.VERIFY_PEER, lambda connection, certificate, error, depth, ok: True)
        context.set_session_id(b"certificate")
    return context


def _client_context() -> SSL.Context:
    context = _context()
    context.set_verify(SSL.VERIFY_NONE)
    return context


class _Records:
    """Follows where records begin and end (RFC 8446 section 5.1), to spare OpenSSL a question whose answer is known.

    It stops following at the first record that comes in pieces: bulk is not what it helps.
    """

    __slots__ = ("_between",)

    def __init__(self) -> None:
        self._between = True

    def feed(self, data: bytes) -> bool:
        """Whether `data` is one whole record of application data, with nothing of another one before it."""
        size = len(data) - 5
        if self._between and size > 0 and data[0] == 23 and data[3] << 8 | data[4] == size:
            return True
        at = 0
        while self._between and len(data) - at >= 5:
            at += 5 + (data[at + 3] << 8 | data[at + 4])
        self._between = self._between and at == len(data)
        return False


class OpenSslEndpoint(TlsEndpoint):
    """`TlsEndpoint` on one pyOpenSSL connection with memory BIOs."""

    def __init__(self, connection: SSL.Connection, seen: _Seen) -> None:
        connection.set_app_data(seen)
        self._connection = connection
        self._seen = seen
        self._done = False
        self._ended = False
        self._over = False
        self._last = b""
        self._records = _Records()

    @property
    def spoke(self) -> bool:
        """See TlsEndpoint."""
        return self._seen.spoke

    def start(self) -> None:
        """See TlsEndpoint."""
        self._handshake([])

    def receive(self, data: bytes) -> list[Event]:
        """See TlsEndpoint."""
        events: list[Event] = []
        if self._over:
            return events
        self._connection.bio_write(data)
        alone = self._records.feed(data)
        if not self._done:
            self._handshake(events)
        if self._done and not self._over:
            self._read(events, alone=alone)
        return events

    def receive_eof(self) -> list[Event]:
        """See TlsEndpoint. A memory BIO knows no end: it is kept here."""
        if self._over:
            return []
        self._over = True
        return [Failed("eof without close_notify" if self._done else "eof in the handshake")]

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """See TlsEndpoint."""
        if len(data):
            self._seen.spoke = True
            self._connection.sendall(data)

    def end(self) -> None:
        """See TlsEndpoint."""
        if self._done and not self._ended and not self._failed:
            self._ended = True
            try:
                self._connection.shutdown()
            except SSL.Error:
                # The connection failed with a fatal alert in either direction: there is nothing left to announce.
                self._over = True

    def outgoing(self) -> bytes:
        """See TlsEndpoint."""
        if not self._seen.spoke:
            return b""
        self._seen.spoke = False
        pieces = []
        try:
            while len(piece := self._connection.bio_read(_MOST_OUT)) == _MOST_OUT:
                pieces.append(piece)
        except SSL.WantReadError:
            last, self._last = self._last, b""
            return b"".join([*pieces, last])
        return b"".join([*pieces, piece]) if pieces else piece

    @property
    def _failed(self) -> bool:
        return self._seen.alert is not None

    def _handshake(self, events: list[Event]) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except (SSL.Error, NoApplicationProtocol) as problem:
            self._fail(problem, events)
            return
        self._done = True
        self._learn()
        events.append(HandshakeDone())

    def _read(self, events: list[Event], *, alone: bool) -> None:
        """What can be decrypted; `alone`: one whole record came, so there is nothing behind its octets to ask for."""
        receive = self._connection.recv
        try:
            while True:
                events.append(Data(receive(RECORD)))
                if alone:
                    return
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError:
            self._over = True
            events.append(Ended())
        except SSL.Error as problem:
            self._fail(problem, events)

    def _fail(self, problem: Exception, events: list[Event]) -> None:
        self._over = True
        reason = _reason(problem)
        named = _NAMED_ALERTS.get(reason)
        if named is not None and self._seen.sent and not self._done:
            # Still in the clear: the last octet of what is to be sent is the number of the alert.
            self._last = self.outgoing()[:-1] + bytes((named,))
            self._seen.alert, self._seen.spoke = named, True
        events.append(Failed(reason, self._seen.alert, self._seen.sent))

    def _learn(self) -> None:
        connection = self._connection
        self.version = connection.get_protocol_version_name()
        selected = connection.get_alpn_proto_negotiated()
        self.alpn = decode_alpn(selected) if selected else None
        self.group = connection.get_group_name()
        leaf = connection.get_peer_certificate(as_cryptography=True)
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        every = chain if leaf is None or (chain and chain[0] == leaf) else [leaf, *chain]
        self.peer_chain = tuple(one.public_bytes(Encoding.DER) for one in every)


def _reason(problem: Exception) -> str:
    """OpenSSL's reason in words; the queue's last entry is the outermost one."""
    if isinstance(problem, NoApplicationProtocol):
        return "no application protocol in common"
    if problem.args and isinstance(problem.args[0], list) and problem.args[0]:
        return str(problem.args[0][-1][-1])
    return str(problem) or type(problem).__name__
