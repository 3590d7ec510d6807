"""The client's side of the TLS 1.3 handshake behind the ServerHello (RFC 8446 sections 4.2 to 4.6)."""

from __future__ import annotations

import hmac

from harness.wire.tls import extensions as ext
from harness.wire.tls.codec import DecodeError, TlsUsageError, uint, vector
from harness.wire.tls.crypto import KeyExchange, check_signature, fitting_schemes, sign, to_der
from harness.wire.tls.endpoint import CERTIFICATE_VERIFY_PREFIX
from harness.wire.tls.events import HandshakeDone, Session, Stop, TicketReceived, Unsupported, Violation
from harness.wire.tls.hello import ClientBase
from harness.wire.tls.messages import (
    Bare,
    Certificate,
    CertificateRequest,
    CertificateVerify,
    EncryptedExtensions,
    Finished,
    Message,
    NewSessionTicket,
    ServerHello,
)
from harness.wire.tls.numbers import (
    SUITES,
    TLS13,
    AlertDescription,
    ExtensionType,
    HandshakeType,
    extension_name,
    group_name,
)
from harness.wire.tls.records import Aead13, Plain
from harness.wire.tls.schedule import KeySchedule, digest, finished_mac, resumption_psk

_ILLEGAL = AlertDescription.ILLEGAL_PARAMETER
_IN_ENCRYPTED = frozenset(
    (
        ExtensionType.SERVER_NAME,
        ExtensionType.SUPPORTED_GROUPS,
        ExtensionType.ALPN,
        ExtensionType.EARLY_DATA,
    )
)
_NOT_IN_ENCRYPTED = frozenset(ExtensionType) - _IN_ENCRYPTED
MAX_TICKETS = 64


class Client13(ClientBase):
    """TLS 1.3 from HelloRetryRequest or ServerHello on."""

    _schedule: KeySchedule
    _request: CertificateRequest | None = None
    _tickets = 0
    _retried: ServerHello | None = None
    _master_for_tickets = b""

    def _on_retry(self, message: ServerHello, raw: bytes) -> None:
        assert self.suite is not None
        section = "RFC 8446 section 4.1.4"
        if self._retried is not None:
            raise Violation("second HelloRetryRequest", section, AlertDescription.UNEXPECTED_MESSAGE)
        self._retried = message
        self._cookie = next((each for each in message.extensions or () if each.type == ExtensionType.COOKIE), None)
        data = message.extension(ExtensionType.KEY_SHARE)
        if data is None and self._cookie is None:
            raise Violation("HelloRetryRequest that changes nothing", section, _ILLEGAL)
        if data is not None:
            group = ext.parse_uint16(data, "key_share")
            if self._not_offered(group, "groups"):
                raise Violation(f"HelloRetryRequest for {group_name(group)}, which was not offered", section, _ILLEGAL)
            if group in self._shared_groups():
                raise Violation(f"HelloRetryRequest for {group_name(group)}, whose share was sent", section, _ILLEGAL)
            self._exchanges = {group: self._new_exchange(group)}
        hashed = digest(self.suite.hash, self._transcript)
        self._transcript = bytearray(uint(1, HandshakeType.MESSAGE_HASH) + vector(3, hashed) + raw)
        if self._early_sent:
            self._writer.change_keys(Plain())
        elif self._session_id:
            self._say_ccs()
        self._early_sent = False
        self._say_hello()

    def _new_exchange(self, group: int) -> KeyExchange:
        try:
            return KeyExchange(group, self.options.random)
        except TlsUsageError as error:
            raise Stop(Unsupported(str(error)), AlertDescription.HANDSHAKE_FAILURE) from None

    def _shared_groups(self) -> list[int]:
        try:
            return [group for group, _ in self.hello.key_shares or ()]
        except DecodeError:
            return list(self._exchanges)

    def _on_server_hello_13(self, message: ServerHello, raw: bytes) -> None:
        suite = self.suite
        assert suite is not None
        section = "RFC 8446 section 4.1.4"
        if self._retried is not None and message.cipher_suite != self._retried.cipher_suite:
            raise Violation("ServerHello with another suite than the HelloRetryRequest", section, _ILLEGAL)
        psk = self._selected_psk(message)
        shared = self._shared_secret(message)
        self._transcript += raw
        self._schedule = KeySchedule(suite.hash, psk)
        self._schedule.extract_handshake(shared)
        transcript = self._hash()
        self._client_secret = self._schedule.handshake("c hs traffic", transcript)
        self._server_secret = self._schedule.handshake("s hs traffic", transcript)
        self._log("CLIENT_HANDSHAKE_TRAFFIC_SECRET", self._client_secret)
        self._log("SERVER_HANDSHAKE_TRAFFIC_SECRET", self._server_secret)
        self._read_keys(Aead13(suite, self._server_secret))
        self._expected = {HandshakeType.ENCRYPTED_EXTENSIONS: self._on_encrypted_extensions}

    def _selected_psk(self, message: ServerHello) -> bytes | None:
        data = message.extension(ExtensionType.PRE_SHARED_KEY)
        session = self._psk_session
        if data is None or session is None:
            return None
        assert self.suite is not None
        section = "RFC 8446 section 4.2.11"
        index = ext.parse_uint16(data, "pre_shared_key")
        if index >= self._offered_psks():
            raise Violation(f"selected_identity {index} was not offered", section, _ILLEGAL)
        if SUITES[session.suite].hash != self.suite.hash:
            raise Violation("PSK selected with a suite of another hash", section, _ILLEGAL)
        if index:
            raise Stop(Unsupported(f"PSK {index} of the script's own list"), AlertDescription.HANDSHAKE_FAILURE)
        self.resumed = True
        self.peer_certificates = session.peer_certificates
        self.peer_verified = session.peer_verified
        return session.secret

    def _offered_psks(self) -> int:
        try:
            offered = self.hello.psks
        except DecodeError:
            return 1
        return len(offered.identities) if offered else 0

    def _shared_secret(self, message: ServerHello) -> bytes:
        section = "RFC 8446 section 4.2.8"
        data = message.extension(ExtensionType.KEY_SHARE)
        if data is None:
            raise Violation("ServerHello without key_share", section, AlertDescription.MISSING_EXTENSION)
        group, public = ext.parse_server_key_share(data)
        if group not in self._shared_groups():
            raise Violation(f"key share in {group_name(group)}, for which none was sent", section, _ILLEGAL)
        exchange = self._exchanges.get(group)
        if exchange is None:
            raise Stop(Unsupported(f"key share in {group_name(group)}"), AlertDescription.HANDSHAKE_FAILURE)
        try:
            shared = exchange.shared(public)
        except ValueError as error:
            raise Violation(f"invalid key share: {error}", "RFC 8446 section 4.2.8.2", _ILLEGAL) from None
        self.group = group
        return shared

    def _on_encrypted_extensions(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, EncryptedExtensions)
        self._check_extensions(message.extensions, frozenset(), "EncryptedExtensions")
        for number in message.extension_types:
            if number in _NOT_IN_ENCRYPTED:
                raise Violation(f"{extension_name(number)} in EncryptedExtensions", "RFC 8446 section 4.2", _ILLEGAL)
        self._take_alpn(message.extension(ExtensionType.ALPN))
        self.early_data_accepted = message.extension(ExtensionType.EARLY_DATA) is not None
        if self.early_data_accepted and not self.resumed:
            raise Violation("early_data accepted without its PSK", "RFC 8446 section 4.2.10", _ILLEGAL)
        self._transcript += raw
        if self.resumed:
            self._expected = {HandshakeType.FINISHED: self._on_finished_13}
        else:
            self._expected = {
                HandshakeType.CERTIFICATE_REQUEST: self._on_certificate_request_13,
                HandshakeType.CERTIFICATE: self._on_certificate_13,
            }

    def _on_certificate_request_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, CertificateRequest)
        if message.context:
            raise Violation("CertificateRequest with a context", "RFC 8446 section 4.3.2", _ILLEGAL)
        if message.extension(ExtensionType.SIGNATURE_ALGORITHMS) is None:
            what = "CertificateRequest without signature_algorithms"
            raise Violation(what, "RFC 8446 section 4.3.2", AlertDescription.MISSING_EXTENSION)
        self._request = message
        self._transcript += raw
        self._expected = {HandshakeType.CERTIFICATE: self._on_certificate_13}

    def _on_certificate_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Certificate)
        if not message.entries:
            raise Violation("empty server Certificate", "RFC 8446 section 4.4.2.4", AlertDescription.DECODE_ERROR)
        if message.context:
            raise Violation("server Certificate with a context", "RFC 8446 section 4.4.2", _ILLEGAL)
        self._take_chain(message.chain, self.verify_name)
        self._transcript += raw
        self._expected = {HandshakeType.CERTIFICATE_VERIFY: self._on_certificate_verify_13}

    def _on_certificate_verify_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, CertificateVerify)
        section = "RFC 8446 section 4.4.3"
        if self._not_offered(message.scheme, "signature_schemes"):
            raise Violation(f"CertificateVerify by scheme 0x{message.scheme:04x}, not offered", section, _ILLEGAL)
        content = CERTIFICATE_VERIFY_PREFIX["server"] + self._hash()
        wrong = check_signature(self.peer_certificates[0], message.scheme, content, message.signature, tls13=True)
        if wrong:
            raise Violation(f"CertificateVerify: {wrong}", section, AlertDescription.DECRYPT_ERROR)
        self._transcript += raw
        self._expected = {HandshakeType.FINISHED: self._on_finished_13}

    def _on_finished_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Finished)
        assert self.suite is not None
        expected = finished_mac(self.suite.hash, self._server_secret, self._hash())
        if not hmac.compare_digest(expected, message.verify_data):
            raise Violation("wrong Finished", "RFC 8446 section 4.4.4", AlertDescription.DECRYPT_ERROR)
        self.server_verify_data = message.verify_data
        self._transcript += raw
        self._schedule.extract_master()
        transcript = self._hash()
        write = self._schedule.master("c ap traffic", transcript)
        self._read_secret = self._schedule.master("s ap traffic", transcript)
        self.exporter_secret = self._schedule.master("exp master", transcript)
        self._log("CLIENT_TRAFFIC_SECRET_0", write)
        self._log("SERVER_TRAFFIC_SECRET_0", self._read_secret)
        self._log("EXPORTER_SECRET", self.exporter_secret)
        self._read_keys(Aead13(self.suite, self._read_secret))
        self._say_flight_13()
        self._write_secret = write
        self._write_keys(Aead13(self.suite, write))
        self._master_for_tickets = self._schedule.master("res master", self._hash())
        self._done_13()

    def _say_flight_13(self) -> None:
        assert self.suite is not None
        if self.early_data_accepted:
            self._say("end_of_early_data", Bare(HandshakeType.END_OF_EARLY_DATA))
        elif not self._early_sent and self._retried is None and self._session_id:
            self._say_ccs()
        self._write_keys(Aead13(self.suite, self._client_secret))
        if self._request is not None:
            self._say_client_certificate_13(self._request)
        verify_data = finished_mac(self.suite.hash, self._client_secret, self._hash())
        self.client_verify_data = verify_data
        self._say("client_finished", Finished(verify_data))

    def _say_client_certificate_13(self, request: CertificateRequest) -> None:
        identity = self.options.identity
        schemes = fitting_schemes(identity.signer, request.accepted_schemes, tls13=True) if identity else []
        chain = to_der(identity.chain) if identity and schemes else ()
        self._say("certificate", Certificate(tuple((der, ()) for der in chain), request.context or b""))
        if identity and chain:
            content = CERTIFICATE_VERIFY_PREFIX["client"] + self._hash()
            self._say("certificate_verify", CertificateVerify(schemes[0], sign(identity.signer, schemes[0], content)))

    def _done_13(self) -> None:
        assert self.suite is not None
        self.established = True
        self._expected = {HandshakeType.NEW_SESSION_TICKET: self._on_ticket_13}
        self._events.append(
            HandshakeDone(
                TLS13,
                self.suite.number,
                self.alpn,
                self.group,
                self.peer_certificates,
                self.resumed,
                self.peer_verified,
                self.client_options.server_name,
                self.early_data_accepted,
                self.server_random,
            )
        )
        if self.options.glue_after_finished:
            self._say_data(self.options.glue_after_finished)

    def _on_ticket_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, NewSessionTicket)
        assert self.suite is not None
        assert message.nonce is not None
        section = "RFC 8446 section 4.6.1"
        self._tickets += 1
        if self._tickets > MAX_TICKETS:
            raise Violation("more tickets than this peer takes", section, AlertDescription.UNEXPECTED_MESSAGE)
        if message.lifetime > 604800:
            raise Violation(f"ticket_lifetime {message.lifetime} s, at most 604800 allowed", section, _ILLEGAL)
        session = Session(
            TLS13,
            self.suite.number,
            resumption_psk(self.suite.hash, self._master_for_tickets, message.nonce),
            ticket=message.ticket,
            lifetime=message.lifetime,
            age_add=message.age_add,
            received_at=self.options.clock(),
            max_early_data=message.max_early_data,
            alpn=self.alpn,
            server_name=self.client_options.server_name,
            peer_certificates=self.peer_certificates,
            peer_verified=self.peer_verified,
        )
        self._events.append(TicketReceived(session))
