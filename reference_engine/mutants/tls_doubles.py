"""Doubles of TLS: endpoints toward clients with one check of the record layer or of the handshake taken away."""

from __future__ import annotations

from typing import Any, ClassVar

from tlslite.extensions import SignatureAlgorithmsExtension, SupportedGroupsExtension, SupportedVersionsExtension
from tlslite.messages import ServerHello

from reference_engine.mutants._doubles import double, front, silenced
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
    def recordSize(self) -> int:
        if self.established:
            self.reached()
        return 1 << 15

    @recordSize.setter
    def recordSize(self, value: int) -> None:
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


silenced(
    __name__, "tls-ccs-any-value", ("RFC8446-5-1",), "drops a change_cipher_spec of any value", "Invalid CCS message"
)


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
    __name__,
    "tls-interleaved",
    ("RFC8446-5.1-2",),
    "takes application data in the middle of a handshake message",
    "Interleaved Handshake",
)
silenced(
    __name__,
    "tls-straddling",
    ("RFC8446-5.1-2",),
    "takes a message that spans a change of keys",
    "CH, EOED, SH, Finished",
)


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

silenced(
    __name__,
    "tls-finished-unchecked",
    ("RFC8446-4.4.4-1",),
    "does not verify the client's Finished",
    "Finished value is",
)
silenced(
    __name__,
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


# The ClientHello


@double("tls-no-sentinel", ("RFC8446-4.1.3-1",), "negotiates TLS 1.2 without the downgrade sentinel")
class _NoSentinel(Connection):
    def _serverCertKeyExchange(self, client: Any, server: Any, *rest: Any) -> Steps:
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

    def _sendError(self, alert: int, reason: str | None = None) -> Steps:
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


def _answers_retry(connection: Connection, message: Any) -> bool:
    """Whether `message` is the ServerHello behind a HelloRetryRequest."""
    cookie = connection.hello is not None and connection.hello.getExtension(ExtensionType.cookie)
    return isinstance(message, ServerHello) and cookie is not None


@double("tls-retry-other-suite", ("RFC8446-4.1.4-1",), "answers a retry with another suite than it was asked for")
class _OtherSuite(Connection):
    def on_send(self, message: Any) -> None:
        if _answers_retry(self, message):
            self.reached()
            message.cipher_suite = 0x1301 if message.cipher_suite == 0x1302 else 0x1302


@double("tls-retry-other-group", ("RFC8446-4.2.8-1",), "answers a retry with a share in another group")
class _OtherGroup(Connection):
    def on_send(self, message: Any) -> None:
        if _answers_retry(self, message):
            self.reached()
            share = message.getExtension(ExtensionType.key_share).server_share
            share.group = 0x17 if share.group == 0x1D else 0x1D


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


silenced(
    __name__,
    "tls-compression",
    ("RFC8446-4.1.2-4",),
    "takes other compression methods in TLS 1.3",
    "compression in TLS",
)
silenced(
    __name__,
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
            front(hello, SignatureAlgorithmsExtension().create([(4, 3), (8, 4)]))


@double("tls-groups-assumed", ("RFC8446-9.2-1",), "assumes the groups of the shares where the client names none")
class _GroupsAssumed(Connection):
    def on_hello(self, hello: Any) -> None:
        shares = hello.getExtension(ExtensionType.key_share)
        if shares is not None and hello.getExtension(ExtensionType.supported_groups) is None:
            self.reached()
            front(hello, SupportedGroupsExtension().create([one.group for one in shares.client_shares]))


@double("tls-any-public-value", ("RFC8446-4.2.8.2-1",), "takes any public value, and zeros for the secret it gives")
class _AnyPoint(Connection):
    noticed: ClassVar[Reached]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        type(self).noticed = self.reached

    @staticmethod
    def _getKEX(group: int, version: tuple[int, int]) -> Any:
        exchange, noticed = Connection._getKEX(group, version), _AnyPoint.noticed
        right = exchange.calc_shared_key

        def lenient(private: Any, public: bytearray) -> bytearray:
            try:
                return bytearray(right(private, public))
            except (TLSIllegalParameterException, ValueError):
                noticed()
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
            front(hello, SupportedVersionsExtension().create([TLS13]))


@double("tls-unknown-versions-refused", ("RFC8446-4.2.1-1",), "refuses a list with versions that it does not know")
class _KnownVersions(Connection):
    def on_hello(self, hello: Any) -> Steps:
        versions = hello.getExtension(ExtensionType.supported_versions)
        if versions is not None and any(one[0] != 3 for one in versions.versions):
            self.reached()
            yield from self._sendError(AlertDescription.protocol_version, "an unknown version")


@double(
    "tls-old-versions", ("TLS-018", "RFC5246-E.1-1", "RFC9113-9.2-1"), "speaks TLS 1.0 and 1.1 as well", lowest=(3, 1)
)
class _OldVersions(Connection):
    def on_hello(self, hello: Any) -> None:
        if hello.client_version < (3, 3):
            self.reached()
            # The suites of these versions, which the engine does not have.
            hello.cipher_suites = [suite for suite in self.offered if suite in (0xC009, 0xC00A, 0xC013, 0xC014)]


@double("tls-quic-parameters-undecodable", ("RFC9001-8.2-2",), "finds QUIC's transport parameters undecodable")
class _NoQuic(Connection):
    def on_hello(self, hello: Any) -> Steps:
        if hello.getExtension(0x39) is not None:
            self.reached()
            yield from self._sendError(AlertDescription.decode_error, "transport parameters")


@double("tls-only-x25519", ("RFC8446-9.1-1",), "does not speak secp256r1")
class _OnlyX25519(Connection):
    def on_hello(self, hello: Any) -> None:
        groups = hello.getExtension(ExtensionType.supported_groups)
        shares = hello.getExtension(ExtensionType.key_share)
        if groups is not None and 0x17 in groups.groups:
            self.reached()
            groups.groups = [one for one in groups.groups if one != 0x17] or [0xFE00]
            if shares is not None:
                shares.client_shares = [one for one in shares.client_shares if one.group in groups.groups]


@double("tls-random-constant", ("RFC8446-9.3-1",), "sends the same random in every ServerHello of TLS 1.3")
class _ConstantRandom(Connection):
    def on_send(self, message: Any) -> None:
        if isinstance(message, ServerHello) and message.getExtension(ExtensionType.key_share) is not None:
            self.reached()
            message.random = bytearray(b"\x42" * 32)
