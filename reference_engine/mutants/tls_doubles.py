"""Doubles of TLS: endpoints toward clients with one check of the record layer or of the handshake taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tlslite.extensions import (
    ALPNExtension,
    PskKeyExchangeModesExtension,
    SignatureAlgorithmsExtension,
    SNIExtension,
    SupportedGroupsExtension,
    SupportedVersionsExtension,
    TLSExtension,
)
from tlslite.messages import Alert, AlertLevel, CertificateRequest, EncryptedExtensions, ServerHello
from tlslite.utils.codec import Parser

from reference_engine.mutants._tlslite import (
    TLS13,
    AlertDescription,
    Connection,
    ContentType,
    ExtensionType,
    Gcm,
    HandshakeType,
    Steps,
    TLSIllegalParameterException,
    TlsliteEndpoints,
)
from reference_engine.mutants.registry import Reached, mutant
from reference_engine.parts import Parts

DATA, HANDSHAKE, CCS = ContentType.application_data, ContentType.handshake, ContentType.change_cipher_spec
CLIENT_HELLO = HandshakeType.client_hello
Flawed = type[Connection]


def double(name: str, rows: tuple[str, ...], breaks: str, **how: Any) -> Callable[[Flawed], Flawed]:
    """Register a double: the decorated connection stands in front of every tunnel. `how` as in TlsliteEndpoints."""

    def register(flawed: Flawed) -> Flawed:
        def apply(parts: Parts, reached: Reached) -> None:
            parts.tls_endpoints = TlsliteEndpoints(reached, server=flawed, **how)

        apply.__module__ = flawed.__module__
        mutant(name, rows, breaks)(apply)
        return flawed

    return register


def silenced(name: str, rows: tuple[str, ...], breaks: str, *reasons: str, **how: Any) -> None:
    """Register a double that does not send the errors with these reasons, but goes on."""
    flawed = type("Silenced", (Connection,), {"silent": reasons, "__module__": __name__})
    double(name, rows, breaks, **how)(flawed)


# The record layer


@mutant(
    "tls-mac-unchecked",
    ("RFC8446-5.2-2", "RFC5246-6.2.3.3-1"),
    "takes records whose authentication tag is wrong",
)
def _(parts: Parts, reached: Reached) -> None:
    Gcm.on_bad_tag = reached
    parts.tls_endpoints = TlsliteEndpoints(reached, server=Connection)


@double("tls-record-overflow", ("RFC8446-5.2-1", "RFC5246-6.2.3-1"), "reads protected records of any size")
class _AnySize(Connection):
    def _receive_header(self) -> Steps:
        self._recordLayer._recordSocket.tls13record = False
        self._recordLayer._recordSocket.recv_record_limit = 1 << 16
        for result in super()._receive_header():
            if result not in (0, 1) and result.length > (1 << 14) + 256:
                self.reached()
            yield result


@double(
    "tls-large-records",
    ("RFC8446-5.1-3", "RFC5246-6.2.1-1"),
    "sends records of 32 KiB of plaintext",
)
class _LargeRecords(Connection):
    @property
    def recordSize(self) -> int:  # noqa: N802 - tlslite-ng's name
        if self.established:
            self.reached()
        return 1 << 15

    @recordSize.setter
    def recordSize(self, value: int) -> None:  # noqa: N802 - tlslite-ng's name
        return


@double("tls-unknown-record-ignored", ("RFC8446-5-2", "RFC5246-6-1"), "drops records of a type that it does not know")
class _UnknownType(Connection):
    def _next_checked(self) -> Steps:
        while True:
            result: Any = 0
            for result in self._recordLayer.recvRecord():
                if result in (0, 1):
                    yield result
                else:
                    break
            if result[0].type in ContentType.all:
                yield result
                return
            self.reached()


@double("tls-ccs-anytime", ("RFC8446-5-1",), "drops a change_cipher_spec behind the handshake, too")
class _CcsAnytime(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        late = kind == CCS and self.established and self.version >= TLS13
        if late:
            self.reached()
        return not late


silenced("tls-ccs-any-value", ("RFC8446-5-1",), "drops a change_cipher_spec of any value", "Invalid CCS message")


@double("tls-fragments-refused", ("RFC8446-5.1-1",), "wants every handshake message whole in its record")
class _NoFragments(Connection):
    def on_record(self, kind: int, length: int) -> bool:
        left = self._defragmenter.buffers[HANDSHAKE]
        if kind == HANDSHAKE and left:
            self.reached()
            raise TLSIllegalParameterException("a message in two records")
        return True


@double("tls-hello-record-version", ("RFC5246-E.1-2",), "wants 0x0301 or 0x0303 in the ClientHello's record")
class _RecordVersion(Connection):
    def _receive_header(self) -> Steps:
        for result in super()._receive_header():
            if result not in (0, 1) and result.version not in ((3, 1), (3, 3)):
                self.reached()
                raise TLSIllegalParameterException("an unknown version in a record")
            yield result


silenced(
    "tls-interleaved",
    ("RFC8446-5.1-2",),
    "takes application data in the middle of a handshake message",
    "Interleaved Handshake",
)
silenced("tls-straddling", ("RFC8446-5.1-2",), "takes a message that spans a change of keys", "CH, EOED, SH, Finished")


@double("tls-padding-alone", ("RFC8446-5.4-1",), "takes a record of padding alone for one without data")
class _PaddingAlone(Connection):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        strip, reached = self._recordLayer._tls13_de_pad, self.reached

        def lenient(data: bytearray) -> tuple[bytearray, int]:
            if any(data):
                stripped: tuple[bytearray, int] = strip(data)
                return stripped
            reached()
            return bytearray(), DATA

        self._recordLayer._tls13_de_pad = lenient


@double("tls-empty-record-refused", ("RFC5246-6.2.1-2",), "ends a connection for an empty record of data")
class _EmptyRefused(Connection):
    def on_record(self, kind: int, length: int) -> bool:
        if kind == DATA and not length:
            self.reached()
            raise TLSIllegalParameterException("an empty record")
        return True


# Key updates


@double("tls-key-update-unanswered", ("RFC8446-4.6.3-1",), "takes a KeyUpdate and answers none")
class _NoAnswer(Connection):
    def _handle_keyupdate_request(self, request: Any) -> Steps:
        if request.message_type == 1:
            self.reached()
            request.message_type = 0
        yield from super()._handle_keyupdate_request(request)


@double("tls-key-update-any-value", ("RFC8446-4.6.3-2",), "takes any value in a KeyUpdate for a request")
class _AnyUpdate(Connection):
    def _handle_keyupdate_request(self, request: Any) -> Steps:
        if request.message_type > 1:
            self.reached()
            request.message_type = 1
        yield from super()._handle_keyupdate_request(request)


# Order and proofs

silenced("tls-finished-unchecked", ("RFC8446-4.4.4-1",), "does not verify the client's Finished", "Finished value is")
silenced(
    "tls-finished-unchecked-12",
    ("RFC5246-7.4.9-1",),
    "does not verify the client's Finished in TLS 1.2",
    "Finished message is incorrect",
)


@double("tls-order-unchecked", ("RFC5246-7.4-1",), "passes over handshake messages that it does not wait for")
class _AnyOrder(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        if kind != HANDSHAKE or self.established or self.version >= TLS13 or self.hello is None:
            return True
        known = data[0] in (HandshakeType.client_key_exchange, HandshakeType.finished)
        if not known:
            self.reached()
        return known


@double(
    "tls-early-application-data",
    ("RFC5246-7.3-1", "RFC8446-5-2"),
    "keeps application data that comes before Finished for later",
)
class _EarlyData(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        early = kind == DATA and not self.established
        if early:
            self.reached()
            self._readBuffer += data
        return not early


@double("tls-second-hello-ignored", ("RFC8446-4.1.2-1",), "drops a ClientHello inside a TLS 1.3 connection")
class _HelloIgnored(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        again = kind == HANDSHAKE and self.established and data[0] == CLIENT_HELLO and self.version >= TLS13
        if again:
            self.reached()
        return not again


@double(
    "tls-renegotiates",
    ("RFC5746-3.7-1", "RFC5246-7.4.1.1-1", "RFC5746-4.4-1"),
    "answers a renegotiating ClientHello of TLS 1.2 with a ServerHello, whatever it holds",
)
class _Renegotiates(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        again = kind == HANDSHAKE and self.established and data[0] == CLIENT_HELLO and self.version < TLS13
        if again:
            self.reached()
            hello = ServerHello().create((3, 3), bytearray(32), bytearray(), self.session.cipherSuite, extensions=[])
            for _ in self._sendMsg(hello):
                continue
        return not again


# The ClientHello


@double("tls-no-sentinel", ("RFC8446-4.1.3-1",), "negotiates TLS 1.2 without the downgrade sentinel")
class _NoSentinel(Connection):
    def _serverCertKeyExchange(self, client: Any, server: Any, *rest: Any) -> Steps:  # noqa: N802 - tlslite-ng's name
        server.random[-8:] = bytearray(b"\x17" * 8)
        self.reached()
        yield from super()._serverCertKeyExchange(client, server, *rest)


@double(
    "tls-answers-any-offer",
    ("RFC5246-A.5-1", "RFC5246-7.4.1.3-1", "RFC8446-4.1.1-1", "RFC8446-4.1.1-3"),
    "answers a ClientHello without anything in common with the suite that it names first",
)
class _AnyOffer(Connection):
    def on_hello(self, hello: Any) -> None:
        self.first = next(iter(self.offered), 0)

    def _sendError(self, alert: int, reason: str | None = None) -> Steps:  # noqa: N802 - tlslite-ng's name
        if alert == AlertDescription.handshake_failure and not self.established:
            self.reached()
            server = ServerHello().create((3, 3), bytearray(b"\1" * 32), bytearray(), self.first, extensions=[])
            yield from self._sendMsg(server)
        yield from super()._sendError(alert, reason)


@double("tls-no-retry", ("RFC8446-4.1.1-2", "RFC8446-4.1.4-1"), "refuses a client without a share that it can use")
class _NoRetry(Connection):
    def on_hello(self, hello: Any) -> Steps:
        shares = hello.getExtension(ExtensionType.key_share)
        if shares is not None and not shares.client_shares:
            self.reached()
            yield from self._sendError(AlertDescription.handshake_failure, "no share")


@double("tls-retries-always", ("RFC8446-4.2.8-1", "RFC8446-4.1.4-1"), "asks for a share that was sent already")
class _RetriesAlways(Connection):
    def on_hello(self, hello: Any) -> None:
        shares = hello.getExtension(ExtensionType.key_share)
        if shares is not None and shares.client_shares:
            self.reached()
            shares.client_shares = []


@double(
    "tls-unknown-suites-refused",
    ("RFC8446-4.1.2-2", "RFC5246-7.4.1.2-1"),
    "finds a ClientHello with suites that it does not know undecodable",
)
class _KnownSuites(Connection):
    def on_hello(self, hello: Any) -> Steps:
        if 0x13FE in self.offered:
            self.reached()
            yield from self._sendError(AlertDescription.decode_error, "an unknown suite")


@double("tls-large-hello-refused", ("RFC8446-4.1.2-3",), "finds a large extension that it does not know undecodable")
class _SmallExtensions(Connection):
    def on_hello(self, hello: Any) -> Steps:
        if any(len(one.extData or b"") > 2048 for one in hello.extensions or ()):
            self.reached()
            yield from self._sendError(AlertDescription.decode_error, "a large extension")


silenced("tls-compression", ("RFC8446-4.1.2-4",), "takes other compression methods in TLS 1.3", "compression in TLS")
silenced(
    "tls-no-null-compression",
    ("RFC8446-6-1",),
    "takes a ClientHello that cannot do without compression",
    "compression in TLS",
    "Client Hello missing uncompressed",
)


@double("tls-schemes-assumed", ("RFC8446-4.2.3-1",), "assumes signature schemes where the client names none")
class _SchemesAssumed(Connection):
    def on_hello(self, hello: Any) -> None:
        if hello.getExtension(ExtensionType.signature_algorithms) is None:
            self.reached()
            _front(hello, SignatureAlgorithmsExtension().create([(4, 3), (8, 4)]))


@double("tls-groups-assumed", ("RFC8446-9.2-1",), "assumes the groups of the shares where the client names none")
class _GroupsAssumed(Connection):
    def on_hello(self, hello: Any) -> None:
        shares = hello.getExtension(ExtensionType.key_share)
        if shares is not None and hello.getExtension(ExtensionType.supported_groups) is None:
            self.reached()
            _front(hello, SupportedGroupsExtension().create([one.group for one in shares.client_shares]))


@double("tls-any-public-value", ("RFC8446-4.2.8.2-1",), "takes any public value, and zeros for the secret it gives")
class _AnyPoint(Connection):
    def _getKEX(self, group: int, version: tuple[int, int]) -> Any:  # noqa: N802 - tlslite-ng's name
        exchange, reached = super()._getKEX(group, version), self.reached
        right = exchange.calc_shared_key

        def lenient(private: Any, public: bytearray) -> bytearray:
            try:
                return bytearray(right(private, public))
            except (TLSIllegalParameterException, ValueError):
                reached()
                return bytearray(32)

        exchange.calc_shared_key = lenient
        return exchange


@double(
    "tls-any-scheme",
    ("RFC8446-4.4.2.2-1", "RFC5246-7.4.1.4.1-1"),
    "signs with its own scheme, offered or not",
)
class _AnyScheme(Connection):
    def on_hello(self, hello: Any) -> None:
        offer = hello.getExtension(ExtensionType.signature_algorithms)
        if offer is not None and offer.sigalgs:
            offer.sigalgs = [(4, 3), (8, 4), (4, 1)]
            self.reached()


@double(
    "tls-version-from-shares",
    ("RFC5246-E.1-1", "RFC8446-4.2.1-1", "RFC8446-4.2.1-2"),
    "speaks TLS 1.3 wherever the ClientHello has a key share",
)
class _FromShares(Connection):
    def on_hello(self, hello: Any) -> None:
        versions = hello.getExtension(ExtensionType.supported_versions)
        shares = hello.getExtension(ExtensionType.key_share)
        if shares is None or (versions is not None and TLS13 in versions.versions):
            return
        self.reached()
        hello.client_version = (3, 3)
        if versions is not None:
            versions.versions = [TLS13]
        else:
            _front(hello, SupportedVersionsExtension().create([TLS13]))


@double("tls-unknown-versions-refused", ("RFC8446-4.2.1-1",), "refuses a list with versions that it does not know")
class _KnownVersions(Connection):
    def on_hello(self, hello: Any) -> Steps:
        versions = hello.getExtension(ExtensionType.supported_versions)
        if versions is not None and any(one[0] != 3 for one in versions.versions):
            self.reached()
            yield from self._sendError(AlertDescription.protocol_version, "an unknown version")


@double("tls-old-versions", ("TLS-018", "RFC5246-E.1-1"), "speaks TLS 1.0 and 1.1 as well", lowest=(3, 1))
class _OldVersions(Connection):
    def on_hello(self, hello: Any) -> None:
        if hello.client_version < (3, 3):
            self.reached()
            # The suites of these versions, which the engine does not have.
            hello.cipher_suites = [suite for suite in self.offered if suite in (0xC009, 0xC00A, 0xC013, 0xC014)]


class _Short(Parser):  # type: ignore[misc]
    """Reads what it knows, and does not ask what is left."""

    reached: Reached

    def stopLengthCheck(self) -> None:  # noqa: N802 - tlslite-ng's name
        if self.index - self.indexCheck < self.lengthCheck:
            self.reached()


@double("tls-trailing-octets", ("RFC5246-7.4.1.2-2",), "does not look behind the extensions of a ClientHello")
class _Trailing(Connection):
    def read_with(self, kind: int, parser: Parser) -> Parser:
        if kind != HANDSHAKE or parser.bytes[0] != CLIENT_HELLO:
            return parser
        short = _Short(parser.bytes)
        short.reached = self.reached
        return short


# Renegotiation's indication, names


@double(
    "tls-no-indication",
    ("RFC5746-3.6-1", "RFC5746-4.3-1"),
    "leaves renegotiation_info out, since it does not renegotiate",
)
class _NoIndication(Connection):
    def on_hello(self, hello: Any) -> None:
        self.reached()
        hello.cipher_suites = [suite for suite in hello.cipher_suites if suite != 0xFF]
        _without(hello, ExtensionType.renegotiation_info)


silenced(
    "tls-indication-unchecked",
    ("RFC5746-3.6-2",),
    "takes a first ClientHello that claims to renegotiate",
    "Non empty renegotiation info",
)


def _first_answer(message: Any) -> bool:
    """Whether extensions of the first answer stand in `message`: ServerHello in TLS 1.2, EncryptedExtensions in 1.3."""
    if isinstance(message, EncryptedExtensions):
        return True
    modern = ExtensionType.supported_versions
    return isinstance(message, ServerHello) and message.getExtension(modern) is None


@double(
    "tls-answers-unasked",
    ("RFC8446-4.2-1", "RFC5246-7.4.1.4-1"),
    "answers with ALPN whether the client asked or not",
)
class _Unasked(Connection):
    def on_send(self, message: Any) -> None:
        if _first_answer(message) and self.hello.getExtension(ExtensionType.alpn) is None:
            self.reached()
            message.extensions = [*(message.extensions or ()), ALPNExtension().create([bytearray(b"h2")])]


@double("tls-name-echoed", ("RFC6066-3-4",), "acknowledges the server name with the name itself")
class _NameEchoed(Connection):
    def on_send(self, message: Any) -> None:
        if _first_answer(message):
            self.reached()
            name = SNIExtension().create(self.hello.server_name)
            message.extensions = [*(message.extensions or ()), name]


# Ends


@double("tls-alerts-ignored", ("RFC8446-6.2-1", "RFC8446-6-2"), "goes on behind an alert")
class _AlertsIgnored(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        ignored = kind == ContentType.alert and self.established and data[1:] != b"\0"
        if ignored:
            self.reached()
        return not ignored


@double("tls-close-notify-ignored", ("RFC8446-6.1-1", "RFC5246-7.2.1-1"), "goes on behind a close_notify")
class _NotifyIgnored(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        ignored = kind == ContentType.alert and data[1:] == b"\0"
        if ignored:
            self.reached()
        return not ignored


@double("tls-alerts-mild", ("RFC5246-7.2.2-1", "RFC6066-3-3"), "sends fatal alerts at warning level")
class _Mild(Connection):
    def on_send(self, message: Any) -> None:
        if isinstance(message, Alert) and message.level == AlertLevel.fatal:
            self.reached()
            message.level = AlertLevel.warning


# Resumption


@double("tls-tickets-too-long", ("RFC8446-4.6.1-1",), "gives tickets a life of eight days", tickets=True)
class _LongTickets(Connection):
    def _serverSendTickets(self, settings: Any) -> Steps:  # noqa: N802 - tlslite-ng's name
        settings.ticketLifetime = 8 * 86_400
        self.reached()
        yield from super()._serverSendTickets(settings)


@double("tls-asks-for-certificates", ("RFC8446-4.2.6-1",), "asks every client for a certificate behind the handshake")
class _Asks(Connection):
    def _handshakeDone(self, resumed: bool) -> None:  # noqa: N802 - tlslite-ng's name
        super()._handshakeDone(resumed)
        if self.version >= TLS13:
            self.reached()
            request = CertificateRequest(TLS13).create(context=b"later", sig_algs=[(4, 3)])
            for _ in self._sendMsg(request):
                continue


silenced("tls-binder-unchecked", ("RFC8446-4.2.11-2",), "does not verify binders", "Binder does not", tickets=True)


@double("tls-modes-assumed", ("RFC8446-4.2.9-1",), "resumes without psk_key_exchange_modes", tickets=True)
class _ModesAssumed(Connection):
    def on_hello(self, hello: Any) -> None:
        offer = hello.getExtension(ExtensionType.pre_shared_key)
        if offer is None or hello.getExtension(ExtensionType.psk_key_exchange_modes) is not None:
            return
        self.reached()
        covered = hello.psk_truncate()
        _front(hello, PskKeyExchangeModesExtension().create([1]))
        hello.psk_truncate = lambda: covered


@double("tls-psk-anywhere", ("RFC8446-4.2.11-1",), "takes pre_shared_key in any place", tickets=True)
class _PskAnywhere(Connection):
    def on_hello(self, hello: Any) -> None:
        offer = hello.getExtension(ExtensionType.pre_shared_key)
        if offer is None or hello.extensions[-1] is offer:
            return
        self.reached()
        behind = hello.extensions[hello.extensions.index(offer) + 1 :]
        octets = sum(len(one.write()) for one in behind) + sum(len(one) + 1 for one in offer.binders) + 2
        covered = hello.write()[:-octets]
        hello.extensions.remove(offer)
        hello.extensions.append(offer)
        hello.psk_truncate = lambda: covered


@double("tls-unknown-ticket-refused", ("RFC8446-4.2.11-3",), "refuses a ticket that it does not know", tickets=True)
class _KnownTickets(Connection):
    def _tryDecrypt(self, settings: Any, identity: Any = None, ticket: Any = None) -> Any:  # noqa: N802 - as above
        found = super()._tryDecrypt(settings, identity, ticket)
        if found[1] is None:
            self.reached()
            raise TLSIllegalParameterException("an unknown ticket")
        return found


@double(
    "tls-session-survives-alert", ("RFC5246-7.2-1",), "resumes a session whose connection got an alert", sessions=True
)
class _Survives(Connection):
    def _shutdown(self, resumable: bool) -> None:
        if not resumable:
            self.reached()
        super()._shutdown(True)


@double("tls-session-any-name", ("RFC6066-3-5",), "resumes a TLS 1.2 session under any name", sessions=True)
class _AnyName(Connection):
    def on_hello(self, hello: Any) -> None:
        if hello.session_id and hello.getExtension(ExtensionType.supported_versions) is None:
            self.reached()
            _without(hello, ExtensionType.server_name)


@double("tls-session-named", ("RFC6066-3-6",), "answers a resumption with server_name", sessions=True)
class _Named(Connection):
    def on_send(self, message: Any) -> None:
        resumes = _first_answer(message) and isinstance(message, ServerHello) and self.hello.session_id
        if resumes and message.session_id == self.hello.session_id:
            self.reached()
            message.extensions = [*(message.extensions or ()), TLSExtension(extType=0).create(0, bytearray())]


def _front(hello: Any, extension: Any) -> None:
    """Put an extension in front of the others of a parsed ClientHello."""
    hello.extensions.insert(0, extension)


def _without(hello: Any, number: int) -> None:
    hello.extensions = [one for one in hello.extensions or () if one.extType != number]
