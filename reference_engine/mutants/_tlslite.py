"""TLS endpoints on tlslite-ng, of which one check at a time can be taken away: what the doubles stand on.

OpenSSL's checks are out of reach; tlslite-ng is Python through and through. `Connection` is its connection with hooks
at the places where checks are made, `TlsliteEndpoint` gives it the interface of the engine's own endpoints. Without a
flaw it serves TLS tunnels as the engine does, on AES-GCM suites; agents always get the engine's own endpoints.

Most checks of tlslite-ng have the form `if wrong: for result in self._sendError(alert, why): yield result`, where
`_sendError` raises. `silent` names reasons with which it does nothing: the check is then as good as absent.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tlslite import recordlayer
from tlslite.constants import AlertDescription, CipherSuite, ContentType, ExtensionType, HandshakeType
from tlslite.errors import TLSIllegalParameterException, TLSLocalAlert, TLSRemoteAlert
from tlslite.handshakesettings import HandshakeSettings
from tlslite.messages import Alert, AlertLevel, ClientHello, RecordHeader3
from tlslite.sessioncache import SessionCache
from tlslite.tlsconnection import TLSConnection
from tlslite.utils.codec import Parser
from tlslite.utils.keyfactory import parsePEMKey
from tlslite.x509 import X509
from tlslite.x509certchain import X509CertChain

from reference_engine.mutants.registry import Reached
from reference_engine.tls.endpoint import (
    RECORD,
    ClientTls,
    Data,
    Ended,
    Event,
    Failed,
    HandshakeDone,
    ServerCertificate,
    ServerTls,
    TlsEndpoint,
    TlsEndpoints,
    decode_alpn,
    encode_alpn,
)
from reference_engine.tls.rules import TLS12, NoApplicationProtocol

TLS13 = (3, 4)
GROUPS = ("x25519", "secp256r1", "secp384r1")
Steps = Iterator[Any]
"""A generator of tlslite-ng: 0 where it waits for octets, 1 where it could go on, its result last."""


class Gcm:
    """AES-GCM for the record layer of tlslite-ng, whose own takes a second for a hundred kilobytes."""

    isBlockCipher = False
    isAEAD = True
    nonceLength = 12
    tagLength = 16
    implementation = "cryptography"
    on_bad_tag: ClassVar[Callable[[], None] | None] = None
    """A flaw: called for a record that fails, whose plaintext is then taken all the same."""

    def __init__(self, key: bytes) -> None:
        self.name = f"aes{len(key) * 8}gcm"
        self._key = bytes(key)
        self._gcm = AESGCM(self._key)

    def seal(self, nonce: bytes, plaintext: bytes, data: bytes) -> bytearray:
        """Encrypt and sign."""
        return bytearray(self._gcm.encrypt(bytes(nonce), bytes(plaintext), bytes(data)))

    def open(self, nonce: bytes, ciphertext: bytes, data: bytes) -> bytearray | None:
        """Verify and decrypt; None for a record that fails."""
        try:
            return bytearray(self._gcm.decrypt(bytes(nonce), bytes(ciphertext), bytes(data)))
        except InvalidTag:
            flaw = type(self).on_bad_tag
            if flaw is None:
                return None
            flaw()
            # GCM is counter mode, whose first block for data is the second one (NIST SP 800-38D section 7.1).
            counter = modes.CTR(bytes(nonce) + b"\0\0\0\2")
            plain = Cipher(algorithms.AES(self._key), counter).decryptor()
            return bytearray(plain.update(bytes(ciphertext[:-16])))


recordlayer.createAESGCM = lambda key, implementations: Gcm(key)


class Memory:
    """What tlslite-ng takes for a socket: octets in, octets out."""

    def __init__(self) -> None:
        self._in = bytearray()
        self._out = bytearray()

    def feed(self, data: bytes) -> None:
        """Octets of the peer."""
        self._in += data

    def recv(self, count: int) -> bytes:
        """Called by tlslite-ng."""
        if not self._in:
            raise BlockingIOError(errno.EWOULDBLOCK, "nothing there")
        data = bytes(self._in[:count])
        del self._in[:count]
        return data

    def send(self, data: bytes) -> int:
        """Called by tlslite-ng."""
        self._out += data
        return len(data)

    def sendall(self, data: bytes) -> None:
        """Called by tlslite-ng."""
        self._out += data

    def close(self) -> None:
        """Called by tlslite-ng; the stream below is the engine's to close."""

    def taken(self) -> bytes:
        """Take what was sent."""
        data = bytes(self._out)
        self._out.clear()
        return data


class PeerEnded(Exception):  # noqa: N818 - no error
    """The peer's close_notify in TLS 1.3: its direction is over, ours is not."""


class Connection(TLSConnection):  # type: ignore[misc]
    """A connection of tlslite-ng, with the hooks that a double overrides."""

    silent: ClassVar[tuple[str, ...]] = ()
    """Beginnings of reasons with which no error is sent."""

    def __init__(self, memory: Memory, reached: Reached) -> None:
        super().__init__(memory)
        self.reached = reached
        self.select_alpn: Callable[[Sequence[str]], str | None] | None = None
        self.alpns: list[bytearray] = [bytearray(b"\0none")]
        self.suites: frozenset[int] = frozenset()
        self.established = False
        self.hello: Any = None
        self.offered: list[int] = []
        """The suites of the ClientHello, those included that the engine does not have."""
        self._peer_ended = False
        self._recordLayer._recordSocket._recvHeader = self._receive_header

    # Hooks

    def on_hello(self, hello: Any) -> Steps | None:
        """A flaw: change the ClientHello that was read, before anything looks at it."""

    def on_message(self, kind: int, data: bytes) -> bool:
        """A flaw: whether a record's content, or a handshake message, is looked at; False drops it."""
        return True

    def on_record(self, kind: int, length: int) -> bool:
        """A flaw: whether an opened record is looked at; False drops it."""
        return True

    def read_with(self, kind: int, parser: Parser) -> Parser:
        """A flaw: another parser for what is looked at."""
        return parser

    def on_send(self, message: Any) -> None:
        """A flaw: change a message before it is said."""

    # tlslite-ng

    def _sendMsg(self, message: Any, *arguments: Any, **named: Any) -> Steps:
        self.on_send(message)
        yield from super()._sendMsg(message, *arguments, **named)

    def _queue_message(self, message: Any) -> None:
        self.on_send(message)
        super()._queue_message(message)

    def _receive_header(self) -> Steps:
        """No record of ours is one of SSL 2.0: unknown types are types."""
        layer = self._recordLayer._recordSocket
        for result in layer._sockRecvAll(5):
            if result in (0, 1):
                yield result
            else:
                yield RecordHeader3().parse(Parser(result))
                return

    def _sendError(self, alert: int, reason: str | None = None) -> Steps:
        if reason is not None and reason.startswith(self.silent or ("\0",)):
            self.reached()
            return
        yield from super()._sendError(alert, reason)

    def _getMsg(self, *arguments: Any, **named: Any) -> Steps:
        for result in super()._getMsg(*arguments, **named):
            if isinstance(result, ClientHello) and not self._client:
                yield from self._take_hello(result)
            yield result

    def _take_hello(self, hello: Any) -> Steps:
        self.hello, self.offered = hello, list(hello.cipher_suites)
        # Never an empty list: that would be a malformed one.
        hello.cipher_suites = [suite for suite in hello.cipher_suites if suite in self.suites] or [0xFFFE]
        yield from self.on_hello(hello) or ()
        yield from self._check_hello(hello)
        offer = hello.getExtension(ExtensionType.alpn)
        if offer is None or not offer.protocol_names or self.select_alpn is None:
            return
        try:
            name = self.select_alpn([decode_alpn(bytes(one)) for one in offer.protocol_names])
        except NoApplicationProtocol:
            yield from self._sendError(AlertDescription.no_application_protocol, "no protocol in common")
            return
        if name is None:
            hello.extensions.remove(offer)
        else:
            self.alpns[:] = [bytearray(encode_alpn(name))]

    def _check_hello(self, hello: Any) -> Steps:
        """Checks that tlslite-ng leaves out (RFC 8446 section 4.1.2)."""
        versions = hello.getExtension(ExtensionType.supported_versions)
        modern = versions is not None and TLS13 in (versions.versions or ())
        if modern and (3, 3) not in versions.versions and list(hello.compression_methods) != [0]:
            yield from self._sendError(AlertDescription.illegal_parameter, "compression in TLS 1.3")

    def _getNextRecord(self) -> Steps:
        while True:
            result: Any = 0
            for result in super()._getNextRecord():
                if result in (0, 1):
                    yield result
                else:
                    break
            header, parser = result
            content = bytes(parser.bytes)
            if not self.on_message(header.type, content):
                continue
            if header.type == ContentType.alert and content[1:] == b"\0" and self.version >= TLS13:
                self._peer_ended = True
                raise PeerEnded
            yield header, self.read_with(header.type, parser)
            return

    def _getNextRecordFromSocket(self) -> Steps:
        while True:
            result: Any = 0
            for result in self._next_checked():
                if result in (0, 1):
                    yield result
                else:
                    break
            header, parser = result
            if self.on_record(header.type, parser.getRemainingLength()):
                yield result
                return

    def _next_checked(self) -> Steps:
        yield from super()._getNextRecordFromSocket()

    def _shutdown(self, resumable: bool) -> None:
        if not self._peer_ended:
            super()._shutdown(resumable)


Server = type[Connection]


class TlsliteEndpoint(TlsEndpoint):
    """`TlsEndpoint` on one connection of tlslite-ng; `handshake` is its generator."""

    def __init__(self, connection: Connection, memory: Memory, handshake: Steps) -> None:
        self._connection = connection
        self._memory = memory
        self._steps = handshake
        self._over = False

    def start(self) -> None:
        """See TlsEndpoint."""
        if self._connection._client is not False:
            self._advance([])

    def receive(self, data: bytes) -> list[Event]:
        """See TlsEndpoint."""
        events: list[Event] = []
        if self._over:
            return events
        self._memory.feed(data)
        if not self._connection.established:
            self._advance(events)
        if self._connection.established and not self._over:
            self._read(events)
        return events

    def receive_eof(self) -> list[Event]:
        """See TlsEndpoint."""
        if self._over:
            return []
        self._over = True
        return [Failed("eof without close_notify" if self._connection.established else "eof in the handshake")]

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """See TlsEndpoint."""
        if len(data) and not self._connection.closed:
            for _ in self._connection.writeAsync(bytes(data)):
                continue

    def end(self) -> None:
        """See TlsEndpoint."""
        if self._connection.established and not self._connection.closed:
            notify = Alert().create(AlertDescription.close_notify, AlertLevel.warning)
            for _ in self._connection._sendMsg(notify):
                continue

    def outgoing(self) -> bytes:
        """See TlsEndpoint."""
        return self._memory.taken()

    def _advance(self, events: list[Event]) -> None:
        try:
            for wants in self._steps:
                if wants == 0:
                    return
        except Exception as problem:  # noqa: BLE001 - whatever a flaw leads to ends the connection, not the engine
            self._fail(problem, events)
            return
        self._learn()
        events.append(HandshakeDone())
        self._steps = self._connection.readAsync(RECORD)

    def _read(self, events: list[Event]) -> None:
        try:
            while True:
                data: Any = 0
                for data in self._steps:
                    if data == 0 and not isinstance(data, bytes):
                        return
                    if isinstance(data, bytes):
                        break
                if not data:
                    break
                events.append(Data(data))
                self._steps = self._connection.readAsync(RECORD)
        except PeerEnded:
            pass
        except Exception as problem:  # noqa: BLE001 - as in the handshake
            self._fail(problem, events)
            return
        self._over = True
        events.append(Ended())

    def _fail(self, problem: Exception, events: list[Event]) -> None:
        self._over = True
        number = getattr(problem, "description", None)
        alert = number if isinstance(problem, TLSLocalAlert | TLSRemoteAlert) else None
        events.append(Failed(f"{type(problem).__name__}: {problem}", alert, isinstance(problem, TLSLocalAlert)))

    def _learn(self) -> None:
        connection = self._connection
        connection.established = True
        self.version = "TLSv1.3" if connection.version >= TLS13 else "TLSv1.2"
        name = connection.session.appProto
        self.alpn = decode_alpn(bytes(name)) if name else None
        chain = connection.session.serverCertChain if connection._client else connection.session.clientCertChain
        self.peer_chain = tuple(bytes(one.writeBytes()) for one in chain.x509List) if chain else ()


class TlsliteEndpoints(TlsEndpoints):
    """The engine's endpoints toward clients of tunnels, or toward upstreams, on tlslite-ng.

    `server` and `client` are the connections with a flaw; a side without one keeps the engine's own endpoints.
    `tickets` gives tickets (TLS 1.3), `sessions` session ids (TLS 1.2).
    """

    def __init__(
        self,
        reached: Reached,
        *,
        server: type[Connection] | None = None,
        client: type[Connection] | None = None,
        lowest: tuple[int, int] | None = None,
        tickets: bool = False,
        sessions: bool = False,
    ) -> None:
        super().__init__()
        self._reached = reached
        self._server = server
        self._client = client
        self._lowest = lowest
        self._keys = [bytearray(b"edgecase edgecase edgecase edge!")] if tickets else []
        self._sessions = SessionCache() if sessions else None

    def server(self, tls: ServerTls) -> TlsEndpoint:
        """See TlsEndpoints."""
        if self._server is None or tls.request_certificate:
            return super().server(tls)
        memory = Memory()
        connection = self._server(memory, self._reached)
        connection.select_alpn = tls.select_alpn
        connection.suites = _numbers((*tls.suites.tls12, *tls.suites.tls13))
        settings = _settings(self._lowest or ((3, 3) if tls.min_version == TLS12 else TLS13))
        settings.ticketKeys = self._keys if tls.resume else []
        settings.ticket_count = 2 if settings.ticketKeys else 0
        chain, key = _credentials(tls.certificate)
        steps = connection.handshakeServerAsync(
            certChain=chain, privateKey=key, settings=settings, alpn=connection.alpns, sessionCache=self._sessions
        )
        return TlsliteEndpoint(connection, memory, steps)

    def client(self, tls: ClientTls) -> TlsEndpoint:
        """See TlsEndpoints."""
        if self._client is None:
            return super().client(tls)
        memory = Memory()
        connection = self._client(memory, self._reached)
        steps = connection.handshakeClientCert(
            settings=_settings((3, 3)),
            serverName=tls.server_name or "",
            alpn=[bytearray(encode_alpn(name)) for name in tls.alpns] or None,
            async_=True,
        )
        return TlsliteEndpoint(connection, memory, steps)


def _settings(lowest: tuple[int, int]) -> HandshakeSettings:
    settings = HandshakeSettings()
    settings.minVersion, settings.maxVersion = lowest, TLS13
    settings.cipherNames = ["aes256gcm", "aes128gcm"]
    if lowest < (3, 3):
        settings.cipherNames += ["aes256", "aes128"]
    settings.keyExchangeNames = ["ecdhe_ecdsa", "ecdhe_rsa"]
    settings.eccCurves = list(GROUPS)
    settings.keyShares = list(GROUPS[:2])
    settings.dhGroups = []
    settings.more_sig_schemes = []
    settings.record_size_limit = None
    settings.use_heartbeat_extension = False
    settings.certificate_compression_send = settings.certificate_compression_receive = []
    return settings


def _numbers(names: Sequence[str]) -> frozenset[int]:
    return frozenset(number for number, name in CipherSuite.ietfNames.items() if name in names) | {
        CipherSuite.TLS_EMPTY_RENEGOTIATION_INFO_SCSV
    }


_loaded: dict[ServerCertificate, tuple[X509CertChain, Any]] = {}


def _credentials(certificate: ServerCertificate) -> tuple[X509CertChain, Any]:
    if certificate not in _loaded:
        chain = []
        for one in certificate.chain:
            read = X509()
            read.parseBinary(bytearray(one.public_bytes(Encoding.DER)))
            chain.append(read)
        pem = certificate.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _loaded[certificate] = (X509CertChain(chain), parsePEMKey(pem.decode(), private=True))
    return _loaded[certificate]


__all__ = [
    "AlertDescription",
    "Connection",
    "ContentType",
    "ExtensionType",
    "Gcm",
    "HandshakeType",
    "Memory",
    "Steps",
    "TLSIllegalParameterException",
    "TlsliteEndpoint",
    "TlsliteEndpoints",
]
