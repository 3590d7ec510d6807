"""The server's side of the TLS 1.2 handshake: full ECDHE handshakes (RFC 5246 section 7.3, RFC 8422, RFC 7627)."""

from __future__ import annotations

import hmac

from harness.wire.tls import extensions as ext
from harness.wire.tls.choice import ServerBase
from harness.wire.tls.crypto import KeyExchange, check_signature, sign, to_der
from harness.wire.tls.events import HandshakeDone, Violation
from harness.wire.tls.extensions import Extension
from harness.wire.tls.messages import (
    Bare,
    Certificate,
    CertificateRequest,
    CertificateVerify,
    ClientHello,
    ClientKeyExchange,
    Finished,
    Message,
    ServerHello,
    ServerKeyExchange,
)
from harness.wire.tls.numbers import (
    TLS12,
    WARNING,
    AlertDescription,
    ExtensionType,
    HandshakeType,
)
from harness.wire.tls.schedule import digest, master_secret_12, prf

_ILLEGAL = AlertDescription.ILLEGAL_PARAMETER


class Server12(ServerBase):
    """TLS 1.2 from the ClientHello on. It resumes nothing: session ids and tickets are not issued."""

    _ems = False
    _master = b""
    _requested = False
    _exchange_12: KeyExchange

    def _on_client_hello_12(self, message: ClientHello, raw: bytes) -> None:
        self.suite = self._choose_suite(message, TLS12)
        # A client that names no groups takes any (RFC 8422 section 4).
        group = self._choose_group(message) if message.groups is not None else self.options.groups[0]
        self.group = group
        scheme = self._choose_scheme(message, tls13=False)
        alpn = self._choose_alpn(message)
        self._sentinel()
        self._transcript += raw
        offered_ems = ExtensionType.EXTENDED_MASTER_SECRET in message.extension_types
        self._ems = offered_ems and self.options.extended_master_secret
        answers = self._name_answer(message) + ([alpn] if alpn else [])
        if self._ems:
            answers.append(Extension(ExtensionType.EXTENDED_MASTER_SECRET))
        if self._signals_renegotiation(message):
            answers.append(ext.renegotiation_info())
        if ExtensionType.EC_POINT_FORMATS in message.extension_types:
            answers.append(ext.point_formats())
        hello = ServerHello(TLS12, self.server_random, b"", self.suite.number, 0, tuple(answers) or None)
        said = self._say("server_hello", hello)
        self.server_random = said.random if isinstance(said, ServerHello) else self.server_random
        self._say_flight_12(group, scheme)

    def _say_flight_12(self, group: int, scheme: int) -> None:
        options = self.server_options
        identity = self._identity()
        self._say("certificate", Certificate(tuple((der, ()) for der in to_der(identity.chain))))
        self._exchange_12 = KeyExchange(group, self.options.random)
        unsigned = ServerKeyExchange(group, self._exchange_12.public, scheme, b"")
        content = self.client_random + self.server_random + unsigned.params
        signature = sign(identity.signer, scheme, content)
        self._say("server_key_exchange", ServerKeyExchange(group, self._exchange_12.public, scheme, signature))
        if options.request_client_certificate or options.require_client_certificate:
            self._say("certificate_request", CertificateRequest(schemes=self.options.signature_schemes))
            self._requested = True
        self._say("server_hello_done", Bare(HandshakeType.SERVER_HELLO_DONE))
        if self._requested:
            self._expected = {HandshakeType.CERTIFICATE: self._on_certificate_12}
        else:
            self._expected = {HandshakeType.CLIENT_KEY_EXCHANGE: self._on_client_key_exchange}

    def _on_certificate_12(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Certificate)
        self._transcript += raw
        if message.entries:
            self._take_chain(message.chain, None)
        elif self.server_options.require_client_certificate:
            raise self._refuse(AlertDescription.HANDSHAKE_FAILURE, "no client certificate")
        else:
            self.peer_verified = "no certificate"
        self._expected = {HandshakeType.CLIENT_KEY_EXCHANGE: self._on_client_key_exchange}

    def _on_client_key_exchange(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, ClientKeyExchange)
        assert self.suite is not None
        try:
            premaster = self._exchange_12.shared(message.public)
        except ValueError as error:
            raise Violation(f"invalid ECDHE point: {error}", "RFC 8422 section 5.11", _ILLEGAL) from None
        self._transcript += raw
        session_hash = digest(self.suite.hash, self._transcript) if self._ems else None
        self._master = self.exporter_secret = master_secret_12(
            self.suite.hash, premaster, self.client_random, self.server_random, session_hash
        )
        self._log("CLIENT_RANDOM", self._master)
        self._pending_read, self._pending_write = self._schedule_12(self._master)
        if self.peer_certificates:
            self._expected = {HandshakeType.CERTIFICATE_VERIFY: self._on_certificate_verify_12}
        else:
            self._expect_finished()

    def _expect_finished(self) -> None:
        self._expected = {}
        self._ccs_expected = {HandshakeType.FINISHED: self._on_finished_12}

    def _on_certificate_verify_12(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, CertificateVerify)
        section = "RFC 5246 section 7.4.8"
        if message.scheme not in self.options.signature_schemes:
            raise Violation(f"CertificateVerify by scheme 0x{message.scheme:04x}, not offered", section, _ILLEGAL)
        signed = bytes(self._transcript)
        wrong = check_signature(self.peer_certificates[0], message.scheme, signed, message.signature, tls13=False)
        if wrong:
            raise Violation(f"CertificateVerify: {wrong}", section, AlertDescription.DECRYPT_ERROR)
        self._transcript += raw
        self._expect_finished()

    def _on_finished_12(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Finished)
        suite = self.suite
        assert suite is not None
        expected = prf(suite.hash, self._master, "client finished", self._hash(), 12)
        if not hmac.compare_digest(expected, message.verify_data):
            raise Violation("wrong Finished", "RFC 5246 section 7.4.9", AlertDescription.DECRYPT_ERROR)
        self.client_verify_data = message.verify_data
        self._transcript += raw
        verify_data = prf(suite.hash, self._master, "server finished", self._hash(), 12)
        self.server_verify_data = verify_data
        self._say_ccs()
        self._write_keys(self._pending_write)
        self._say("server_finished", Finished(verify_data))
        self.established = True
        self._expected = {HandshakeType.CLIENT_HELLO: self._on_renegotiation}
        self._events.append(
            HandshakeDone(
                TLS12,
                suite.number,
                self.alpn,
                self.group,
                self.peer_certificates,
                False,
                self.peer_verified,
                self.server_name,
                server_random=self.server_random,
            )
        )
        if self.options.glue_after_finished:
            self._say_data(self.options.glue_after_finished)

    def _on_renegotiation(self, message: Message, raw: bytes) -> None:
        # Refused with a warning; the connection goes on (RFC 5246 section 7.2.2).
        self._say_alert(WARNING, AlertDescription.NO_RENEGOTIATION)
