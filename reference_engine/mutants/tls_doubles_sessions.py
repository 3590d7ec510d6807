"""Doubles of TLS: renegotiation, answers, ends and resumption with one check taken away."""

from __future__ import annotations

from typing import Any

from tlslite.extensions import PskKeyExchangeModesExtension, SNIExtension, TLSExtension
from tlslite.messages import (
    Alert,
    AlertLevel,
    CertificateRequest,
    EncryptedExtensions,
    NewSessionTicket,
    ServerHello,
)

from reference_engine.mutants._doubles import double, front, silenced, without
from reference_engine.mutants._tlslite import (
    TLS13,
    Connection,
    ContentType,
    ExtensionType,
    HandshakeType,
    TLSIllegalParameterException,
)

HANDSHAKE, CLIENT_HELLO = ContentType.handshake, HandshakeType.client_hello

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
        without(hello, ExtensionType.renegotiation_info)


silenced(
    __name__,
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
    "answers with extended_master_secret whether the client asked or not, in TLS 1.3, too",
)
class _Unasked(Connection):
    def on_send(self, message: Any) -> None:
        number = ExtensionType.extended_master_secret
        if _first_answer(message) and self.hello.getExtension(number) is None:
            self.reached()
            message.extensions = [*(message.extensions or ()), TLSExtension(extType=number).create(number, bytearray())]


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


@double("tls-ticket-age-constant", ("RFC8446-4.6.1-1",), "gives every ticket the same age_add", tickets=True)
class _ConstantAge(Connection):
    def on_send(self, message: Any) -> None:
        if isinstance(message, NewSessionTicket):
            self.reached()
            message.ticket_age_add = 7


@double(
    "tls-asks-for-certificates",
    ("RFC8446-4.2.6-1", "RFC9113-9.2.3-1"),
    "asks clients that speak TLS 1.3 alone for a certificate behind the handshake",
)
class _Asks(Connection):
    def _handshakeDone(self, resumed: bool) -> None:
        super()._handshakeDone(resumed)
        versions = self.hello.getExtension(ExtensionType.supported_versions)
        if versions is not None and versions.versions == [TLS13]:
            self.reached()
            request = CertificateRequest(TLS13).create(context=b"later", sig_algs=[(4, 3)])
            for _ in self._sendMsg(request):
                continue


silenced(
    __name__, "tls-binder-unchecked", ("RFC8446-4.2.11-2",), "does not verify binders", "Binder does not", tickets=True
)


@double("tls-modes-assumed", ("RFC8446-4.2.9-1",), "resumes without psk_key_exchange_modes", tickets=True)
class _ModesAssumed(Connection):
    def on_hello(self, hello: Any) -> None:
        offer = hello.getExtension(ExtensionType.pre_shared_key)
        if offer is None or hello.getExtension(ExtensionType.psk_key_exchange_modes) is not None:
            return
        self.reached()
        covered = hello.psk_truncate()
        front(hello, PskKeyExchangeModesExtension().create([1]))
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
    def _tryDecrypt(self, settings: Any, identity: Any = None, ticket: Any = None) -> Any:
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
            without(hello, ExtensionType.server_name)


@double("tls-session-named", ("RFC6066-3-6",), "answers a resumption with server_name", sessions=True)
class _Named(Connection):
    def on_send(self, message: Any) -> None:
        resumes = _first_answer(message) and isinstance(message, ServerHello) and self.hello.session_id
        if resumes and message.session_id == self.hello.session_id:
            self.reached()
            message.extensions = [*(message.extensions or ()), TLSExtension(extType=0).create(0, bytearray())]


@double(
    "tls-renegotiates",
    ("RFC5746-3.7-1", "RFC5246-7.4.1.1-1", "RFC5746-4.4-1", "RFC9113-9.2.1-2"),
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
