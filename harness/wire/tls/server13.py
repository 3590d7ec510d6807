"""The server's side of the TLS 1.3 handshake (RFC 8446 sections 2 and 4)."""

from __future__ import annotations

import hmac

from harness.wire.tls import extensions as ext
from harness.wire.tls.choice import ServerBase
from harness.wire.tls.codec import uint, vector
from harness.wire.tls.crypto import KeyExchange, check_signature, sign, to_der
from harness.wire.tls.endpoint import CERTIFICATE_VERIFY_PREFIX
from harness.wire.tls.events import EarlyData, HandshakeDone, Session, Violation
from harness.wire.tls.extensions import Extension
from harness.wire.tls.messages import (
    Bare,
    Certificate,
    CertificateRequest,
    CertificateVerify,
    ClientHello,
    EncryptedExtensions,
    Finished,
    Message,
    NewSessionTicket,
    ServerHello,
)
from harness.wire.tls.numbers import (
    RETRY_RANDOM,
    SUITES,
    TLS12,
    TLS13,
    AlertDescription,
    ExtensionType,
    HandshakeType,
    Suite,
    group_name,
)
from harness.wire.tls.records import Aead13
from harness.wire.tls.schedule import KeySchedule, digest, finished_mac, resumption_psk

_ILLEGAL = AlertDescription.ILLEGAL_PARAMETER
_MISSING = AlertDescription.MISSING_EXTENSION
TICKET_LIFETIME = 7200
EARLY_SKIP = 1 << 16
"""Octets of rejected early data that are skipped; more is a violation."""


class Server13(ServerBase):
    """TLS 1.3 from the ClientHello on."""

    _schedule: KeySchedule
    _retries_sent = 0
    _skip = 0
    _requested = False
    _early_secret = b""
    _early_limit = 0
    _early_taken = 0

    def _on_client_hello_13(self, message: ClientHello, raw: bytes) -> None:
        self._check_hello_13(message)
        options = self.server_options
        suite = self._choose_suite(message, TLS13)
        if self.suite is not None and suite != self.suite:
            raise Violation("other suites after HelloRetryRequest", "RFC 8446 section 4.1.2", _ILLEGAL)
        self.suite = suite
        group = self._choose_group(message)
        shares = dict(message.key_shares or ())
        wanted = next((each for each in self.options.groups if each in shares and each in (message.groups or ())), None)
        forced = options.retry_group is not None and self._retries_sent < options.retries
        if forced or wanted is None:
            self._retry(options.retry_group if forced and options.retry_group is not None else group, message, raw)
            return
        self._answer_13(message, raw, wanted, shares[wanted])

    def _check_hello_13(self, message: ClientHello) -> None:
        section = "RFC 8446 section 9.2"
        if message.groups is None:
            raise Violation("ClientHello without supported_groups", section, _MISSING)
        if message.key_shares is None:
            raise Violation("ClientHello without key_share", section, _MISSING)
        if message.signature_schemes is None and message.psks is None:
            raise Violation("ClientHello without signature_algorithms", section, _MISSING)
        if message.psks is not None and message.extension(ExtensionType.PSK_KEY_EXCHANGE_MODES) is None:
            what = "pre_shared_key without psk_key_exchange_modes"
            raise Violation(what, "RFC 8446 section 4.2.9", _MISSING)
        seen: set[int] = set()
        for group, _ in message.key_shares:
            if group not in message.groups or group in seen:
                what = f"key share in {group_name(group)} " + ("twice" if group in seen else "outside supported_groups")
                raise Violation(what, "RFC 8446 section 4.2.8", _ILLEGAL)
            seen.add(group)

    def _retry(self, group: int, message: ClientHello, raw: bytes) -> None:
        assert self.suite is not None
        if self._retries_sent and not self._more_retries():
            what = f"no share in {group_name(group)} after HelloRetryRequest"
            raise Violation(what, "RFC 8446 section 4.1.2", _ILLEGAL)
        self._retries_sent += 1
        self._transcript += raw
        hashed = digest(self.suite.hash, self._transcript)
        self._transcript = bytearray(uint(1, HandshakeType.MESSAGE_HASH) + vector(3, hashed))
        extensions = (ext.selected_version(TLS13), ext.retry_key_share(group))
        hello = ServerHello(TLS12, RETRY_RANDOM, message.session_id, self.suite.number, 0, extensions)
        self._say("hello_retry_request", hello)
        if message.session_id:
            self._say_ccs()
        if message.extension(ExtensionType.EARLY_DATA) is not None:
            self._skip = EARLY_SKIP

    def _more_retries(self) -> bool:
        return self._retries_sent < self.server_options.retries

    def _answer_13(self, message: ClientHello, raw: bytes, group: int, public: bytes) -> None:
        suite = self.suite
        assert suite is not None
        exchange = KeyExchange(group, self.options.random)
        try:
            shared = exchange.shared(public)
        except ValueError as error:
            raise Violation(f"invalid key share: {error}", "RFC 8446 section 4.2.8.2", _ILLEGAL) from None
        self.group = group
        session = self._select_session(message, raw, suite)
        self._transcript += raw
        early_hash = self._hash()
        self._schedule = KeySchedule(suite.hash, session.secret if session else None)
        alpn = self._choose_alpn(message)
        early = self._take_early_data(message, session, early_hash)
        scheme = None if session else self._choose_scheme(message, tls13=True)
        extensions = [ext.selected_version(TLS13), ext.server_key_share(group, exchange.public)]
        if session:
            extensions.append(ext.selected_psk(0))
        hello = ServerHello(TLS12, self.server_random, message.session_id, suite.number, 0, tuple(extensions))
        said = self._say("server_hello", hello)
        self.server_random = said.random if isinstance(said, ServerHello) else self.server_random
        if message.session_id and not self._retries_sent:
            self._say_ccs()
        self._schedule.extract_handshake(shared)
        self._handshake_keys(suite)
        answers = self._name_answer(message) + ([alpn] if alpn else []) + ([ext.early_data()] if early else [])
        self._say("encrypted_extensions", EncryptedExtensions(tuple(answers)))
        if scheme is not None:
            self._say_identity_13(scheme)
        self._say_finished_13()

    def _handshake_keys(self, suite: Suite) -> None:
        transcript = self._hash()
        self._client_secret = self._schedule.handshake("c hs traffic", transcript)
        self._server_secret = self._schedule.handshake("s hs traffic", transcript)
        self._log("CLIENT_HANDSHAKE_TRAFFIC_SECRET", self._client_secret)
        self._log("SERVER_HANDSHAKE_TRAFFIC_SECRET", self._server_secret)
        self._write_keys(Aead13(suite, self._server_secret))
        self._read_keys(Aead13(suite, self._early_secret or self._client_secret))

    def _select_session(self, message: ClientHello, raw: bytes, suite: Suite) -> Session | None:
        """The first offered PSK, where it is ours and fits; its binder must be right (RFC 8446 section 4.2.11)."""
        offered = message.psks
        modes = message.extension(ExtensionType.PSK_KEY_EXCHANGE_MODES)
        if offered is None or modes is None or 1 not in ext.parse_psk_modes(modes):
            return None
        if len(offered.binders) != len(offered.identities):
            raise Violation("identities and binders differ in number", "RFC 8446 section 4.2.11", _ILLEGAL)
        session = self._known_session(offered.identities[0][0])
        if session is None or SUITES[session.suite].hash != suite.hash:
            return None
        covered = bytes(self._transcript) + raw[: len(raw) - offered.binders_length]
        key = KeySchedule(suite.hash, session.secret).binder_key()
        expected = finished_mac(suite.hash, key, digest(suite.hash, covered))
        if not hmac.compare_digest(expected, offered.binders[0]):
            raise Violation("wrong binder", "RFC 8446 section 4.2.11", AlertDescription.DECRYPT_ERROR)
        self.resumed = True
        self.peer_certificates, self.peer_verified = session.peer_certificates, session.peer_verified
        return session

    def _take_early_data(self, message: ClientHello, session: Session | None, transcript_hash: bytes) -> bool:
        """Whether early data is accepted; what is rejected gets skipped (RFC 8446 section 4.2.10)."""
        if message.extension(ExtensionType.EARLY_DATA) is None:
            return False
        assert self.suite is not None
        if self._retries_sent:
            raise Violation("early_data after HelloRetryRequest", "RFC 8446 section 4.1.2", _ILLEGAL)
        fits = session is not None and session.suite == self.suite.number and session.alpn == self.alpn
        if not fits or not self.server_options.max_early_data:
            self._skip = EARLY_SKIP
            return False
        self._early_limit = self.server_options.max_early_data
        self._early_secret = self._schedule.early("c e traffic", transcript_hash)
        self._log("CLIENT_EARLY_TRAFFIC_SECRET", self._early_secret)
        return True

    def _may_skip(self, payload: bytes) -> bool:
        if len(payload) > self._skip or self._reader.proven:
            return False
        self._skip -= len(payload)
        return True

    def _say_identity_13(self, scheme: int) -> None:
        options = self.server_options
        if options.request_client_certificate or options.require_client_certificate:
            extensions = (ext.signature_algorithms(self.options.signature_schemes),)
            self._say("certificate_request", CertificateRequest(b"", extensions))
            self._requested = True
        identity = self._identity()
        self._say("certificate", Certificate(tuple((der, ()) for der in to_der(identity.chain)), b""))
        content = CERTIFICATE_VERIFY_PREFIX["server"] + self._hash()
        self._say("certificate_verify", CertificateVerify(scheme, sign(identity.signer, scheme, content)))

    def _say_finished_13(self) -> None:
        suite = self.suite
        assert suite is not None
        verify_data = finished_mac(suite.hash, self._server_secret, self._hash())
        self.server_verify_data = verify_data
        self._say("server_finished", Finished(verify_data))
        self._schedule.extract_master()
        transcript = self._hash()
        self._write_secret = self._schedule.master("s ap traffic", transcript)
        self._read_secret = self._schedule.master("c ap traffic", transcript)
        self.exporter_secret = self._schedule.master("exp master", transcript)
        self._log("CLIENT_TRAFFIC_SECRET_0", self._read_secret)
        self._log("SERVER_TRAFFIC_SECRET_0", self._write_secret)
        self._log("EXPORTER_SECRET", self.exporter_secret)
        self._write_keys(Aead13(suite, self._write_secret))
        if self.options.glue_after_finished:
            self._say_data(self.options.glue_after_finished)
        if self._early_secret:
            self._expected = {HandshakeType.END_OF_EARLY_DATA: self._on_end_of_early_data}
        else:
            self._expect_client_flight()

    def _expect_client_flight(self) -> None:
        if self._requested:
            self._expected = {HandshakeType.CERTIFICATE: self._on_certificate_13}
        else:
            self._expected = {HandshakeType.FINISHED: self._on_finished_13}

    @property
    def _can_send(self) -> bool:
        return self.established or (self.version == TLS13 and bool(self._write_secret))

    def _on_application_data(self, payload: bytes) -> None:
        if self._early_secret and not self.established:
            self._early_taken += len(payload)
            if self._early_taken > self._early_limit:
                what = "more early data than the ticket allows"
                raise Violation(what, "RFC 8446 section 4.2.10", AlertDescription.UNEXPECTED_MESSAGE)
            self._events.append(EarlyData(payload))
            return
        # Early data of a client that got a HelloRetryRequest reaches us before there are keys.
        if self._skip and self.version == TLS13 and not self._reader.changes and len(payload) <= self._skip:
            self._skip -= len(payload)
            return
        super()._on_application_data(payload)

    def _on_end_of_early_data(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Bare)
        assert self.suite is not None
        self._early_secret = b""
        self._transcript += raw
        self._read_keys(Aead13(self.suite, self._client_secret))
        self._expect_client_flight()

    def _on_certificate_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Certificate)
        if message.context:
            raise Violation("client Certificate with another context", "RFC 8446 section 4.4.2", _ILLEGAL)
        self._check_entries(message)
        self._transcript += raw
        if not message.entries:
            if self.server_options.require_client_certificate:
                raise self._refuse(AlertDescription.CERTIFICATE_REQUIRED, "no client certificate")
            self.peer_verified = "no certificate"
            self._expected = {HandshakeType.FINISHED: self._on_finished_13}
            return
        self._take_chain(message.chain, None)
        self._expected = {HandshakeType.CERTIFICATE_VERIFY: self._on_certificate_verify_13}

    def _check_entries(self, message: Certificate) -> None:
        for _, extensions in message.entries:
            for extension in extensions:
                # Our request offers signature_algorithms only, which has no answer.
                if extension.type in (ExtensionType.KEY_SHARE, ExtensionType.SERVER_NAME, ExtensionType.ALPN):
                    what = f"extension {extension.type} in the client's Certificate"
                    raise Violation(what, "RFC 8446 section 4.2", _ILLEGAL)

    def _on_certificate_verify_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, CertificateVerify)
        section = "RFC 8446 section 4.4.3"
        if message.scheme not in self.options.signature_schemes:
            raise Violation(f"CertificateVerify by scheme 0x{message.scheme:04x}, not offered", section, _ILLEGAL)
        content = CERTIFICATE_VERIFY_PREFIX["client"] + self._hash()
        wrong = check_signature(self.peer_certificates[0], message.scheme, content, message.signature, tls13=True)
        if wrong:
            raise Violation(f"CertificateVerify: {wrong}", section, AlertDescription.DECRYPT_ERROR)
        self._transcript += raw
        self._expected = {HandshakeType.FINISHED: self._on_finished_13}

    def _on_finished_13(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Finished)
        suite = self.suite
        assert suite is not None
        expected = finished_mac(suite.hash, self._client_secret, self._hash())
        if not hmac.compare_digest(expected, message.verify_data):
            raise Violation("wrong Finished", "RFC 8446 section 4.4.4", AlertDescription.DECRYPT_ERROR)
        self.client_verify_data = message.verify_data
        self._transcript += raw
        self._read_keys(Aead13(suite, self._read_secret))
        self.established = True
        self._expected = {}
        self._events.append(
            HandshakeDone(
                TLS13,
                suite.number,
                self.alpn,
                self.group,
                self.peer_certificates,
                self.resumed,
                self.peer_verified,
                self.server_name,
                bool(self._early_taken),
                self.server_random,
            )
        )
        if self.server_options.tickets is not None and not self.write_closed:
            self._say_tickets(self._schedule.master("res master", self._hash()))

    def _say_tickets(self, master: bytes) -> None:
        options = self.server_options
        assert self.suite is not None
        assert options.tickets is not None
        for index in range(options.ticket_count):
            nonce = uint(2, index)
            session = Session(
                TLS13,
                self.suite.number,
                resumption_psk(self.suite.hash, master, nonce),
                ticket=self.options.random(32),
                lifetime=TICKET_LIFETIME,
                age_add=int.from_bytes(self.options.random(4), "big"),
                received_at=self.options.clock(),
                max_early_data=options.max_early_data,
                alpn=self.alpn,
                server_name=self.server_name,
                peer_certificates=self.peer_certificates,
                peer_verified=self.peer_verified,
            )
            options.tickets.put(session)
            extensions: tuple[Extension, ...] = (
                (ext.early_data(options.max_early_data),) if options.max_early_data else ()
            )
            ticket = NewSessionTicket(session.lifetime, session.ticket, session.age_add, nonce, extensions)
            self._say("new_session_ticket", ticket, transcript=False)
