"""The client's side of the TLS 1.2 handshake behind the ServerHello (RFC 5246 section 7.3, RFC 8422, RFC 7627)."""

from __future__ import annotations

import dataclasses
import hmac

from harness.wire.tls import extensions as ext
from harness.wire.tls.codec import TlsUsageError
from harness.wire.tls.crypto import KeyExchange, check_signature, fitting_schemes, key_kind, sign, to_der
from harness.wire.tls.endpoint import Handler
from harness.wire.tls.events import HandshakeDone, Session, Stop, TicketReceived, Unsupported, Violation
from harness.wire.tls.hello import ClientBase
from harness.wire.tls.messages import (
    Certificate,
    CertificateRequest,
    CertificateVerify,
    ClientKeyExchange,
    Finished,
    Message,
    NewSessionTicket,
    ServerHello,
    ServerKeyExchange,
)
from harness.wire.tls.numbers import (
    RENEGOTIATION_SCSV,
    TLS12,
    WARNING,
    AlertDescription,
    ExtensionType,
    HandshakeType,
    group_name,
)
from harness.wire.tls.records import Aead12
from harness.wire.tls.schedule import digest, master_secret_12, prf

_ILLEGAL = AlertDescription.ILLEGAL_PARAMETER
Pair = tuple[Aead12, Aead12]


class Client12(ClientBase):
    """TLS 1.2 from the ServerHello on."""

    _ems = False
    _master = b""
    _server_session_id = b""
    _ticket_due = False
    _ticket: NewSessionTicket | None = None
    _request_12: CertificateRequest | None = None
    _key_exchange: ServerKeyExchange | None = None
    _renegotiating = False

    def _on_server_hello_12(self, message: ServerHello, raw: bytes) -> None:
        self._ems = message.extension(ExtensionType.EXTENDED_MASTER_SECRET) is not None
        info = message.extension(ExtensionType.RENEGOTIATION_INFO)
        if info is not None and ext.parse_renegotiation_info(info):
            what = "renegotiation_info that is not empty in a first handshake"
            raise Violation(what, "RFC 5746 section 3.4", AlertDescription.HANDSHAKE_FAILURE)
        self._ticket_due = message.extension(ExtensionType.SESSION_TICKET) is not None
        self._take_alpn(message.extension(ExtensionType.ALPN))
        self._server_session_id = message.session_id
        self._transcript += raw
        session = self._session_12
        if self._session_id and message.session_id == self._session_id:
            if session is None:
                what = "session id echoed although no session was offered"
                raise Violation(what, "RFC 5246 section 7.4.1.3", _ILLEGAL)
            self._resume_12(session)
        else:
            self._expected = {HandshakeType.CERTIFICATE: self._on_certificate_12}

    def _resume_12(self, session: Session) -> None:
        assert self.suite is not None
        if session.suite != self.suite.number:
            raise Violation("resumed with another suite", "RFC 5246 section 7.4.1.3", _ILLEGAL)
        if session.extended_master_secret != self._ems:
            what = "resumed with another use of extended_master_secret"
            raise Violation(what, "RFC 7627 section 5.3", AlertDescription.HANDSHAKE_FAILURE)
        self.resumed = True
        self.peer_certificates, self.peer_verified = session.peer_certificates, session.peer_verified
        self._set_master(session.secret)
        self._await_server_finished()

    def _await_server_finished(self) -> None:
        behind: dict[int, Handler] = {HandshakeType.FINISHED: self._on_finished_12}
        if self._ticket_due:
            self._expected = {HandshakeType.NEW_SESSION_TICKET: self._on_ticket_12}
            self._ccs_expected = {}
        else:
            self._expected = {}
            self._ccs_expected = behind

    def _on_certificate_12(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Certificate)
        if not message.entries:
            raise Violation("empty server Certificate", "RFC 5246 section 7.4.2", AlertDescription.DECODE_ERROR)
        self._take_chain(message.chain, self.verify_name)
        assert self.suite is not None
        kind = key_kind(self.peer_certificates[0])
        if kind != self.suite.auth:
            what = f"{kind} leaf with suite {self.suite.name}"
            raise Violation(what, "RFC 5246 section 7.4.2", AlertDescription.UNSUPPORTED_CERTIFICATE)
        self._transcript += raw
        self._expected = {HandshakeType.SERVER_KEY_EXCHANGE: self._on_server_key_exchange}

    def _on_server_key_exchange(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, ServerKeyExchange)
        section = "RFC 8422 section 5.4"
        if self._not_offered(message.group, "groups"):
            raise Violation(f"ServerKeyExchange in {group_name(message.group)}, not offered", section, _ILLEGAL)
        if self._not_offered(message.scheme, "signature_schemes"):
            what = f"ServerKeyExchange signed by scheme 0x{message.scheme:04x}, not offered"
            raise Violation(what, "RFC 5246 section 7.4.1.4.1", _ILLEGAL)
        content = self.client_random + self.server_random + message.params
        wrong = check_signature(self.peer_certificates[0], message.scheme, content, message.signature, tls13=False)
        if wrong:
            raise Violation(f"ServerKeyExchange: {wrong}", section, AlertDescription.DECRYPT_ERROR)
        self._key_exchange = message
        self._transcript += raw
        self._expected = {
            HandshakeType.CERTIFICATE_REQUEST: self._on_certificate_request_12,
            HandshakeType.SERVER_HELLO_DONE: self._on_server_hello_done,
        }

    def _on_certificate_request_12(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, CertificateRequest)
        self._request_12 = message
        self._transcript += raw
        self._expected = {HandshakeType.SERVER_HELLO_DONE: self._on_server_hello_done}

    def _on_server_hello_done(self, message: Message, raw: bytes) -> None:
        assert self.suite is not None
        self._transcript += raw
        identity = self.options.identity
        request = self._request_12
        schemes: list[int] = []
        if request is not None:
            schemes = fitting_schemes(identity.signer, request.schemes, tls13=False) if identity else []
            chain = to_der(identity.chain) if identity and schemes else ()
            self._say("certificate", Certificate(tuple((der, ()) for der in chain)))
        exchange, premaster = self._exchange_keys()
        self._say("client_key_exchange", ClientKeyExchange(exchange.public))
        session_hash = digest(self.suite.hash, self._transcript) if self._ems else None
        self._set_master(
            master_secret_12(self.suite.hash, premaster, self.client_random, self.server_random, session_hash)
        )
        if identity and schemes:
            signature = sign(identity.signer, schemes[0], bytes(self._transcript))
            self._say("certificate_verify", CertificateVerify(schemes[0], signature))
        self._say_finished_12()
        if self.options.glue_after_finished:
            self._say_data(self.options.glue_after_finished)
        self._await_server_finished()

    def _exchange_keys(self) -> tuple[KeyExchange, bytes]:
        message = self._key_exchange
        assert message is not None
        try:
            exchange = KeyExchange(message.group, self.options.random)
            shared = exchange.shared(message.public)
        except TlsUsageError as error:
            raise Stop(Unsupported(str(error)), AlertDescription.HANDSHAKE_FAILURE) from None
        except ValueError as error:
            raise Violation(f"invalid ECDHE point: {error}", "RFC 8422 section 5.11", _ILLEGAL) from None
        self.group = message.group
        return exchange, shared

    def _set_master(self, master: bytes) -> None:
        self._master = self.exporter_secret = master
        self._log("CLIENT_RANDOM", master)
        self._pending_write, self._pending_read = self._schedule_12(master)

    def _say_finished_12(self) -> None:
        assert self.suite is not None
        verify_data = prf(self.suite.hash, self._master, "client finished", self._hash(), 12)
        self.client_verify_data = verify_data
        self._say_ccs()
        self._write_keys(self._pending_write)
        self._say("client_finished", Finished(verify_data))
        self._flush()

    def _on_ticket_12(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, NewSessionTicket)
        self._ticket = message
        self._ticket_due = False
        self._transcript += raw
        self._await_server_finished()

    def _on_finished_12(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, Finished)
        assert self.suite is not None
        expected = prf(self.suite.hash, self._master, "server finished", self._hash(), 12)
        if not hmac.compare_digest(expected, message.verify_data):
            raise Violation("wrong Finished", "RFC 5246 section 7.4.9", AlertDescription.DECRYPT_ERROR)
        self.server_verify_data = message.verify_data
        self._transcript += raw
        if self.resumed:
            self._say_finished_12()
            if self.options.glue_after_finished:
                self._say_data(self.options.glue_after_finished)
        self._done_12()

    def _done_12(self) -> None:
        assert self.suite is not None
        self.established = True
        self._expected = {HandshakeType.HELLO_REQUEST: self._on_hello_request}
        self._events.append(
            HandshakeDone(
                TLS12,
                self.suite.number,
                self.alpn,
                self.group,
                self.peer_certificates,
                self.resumed,
                self.peer_verified,
                self.client_options.server_name,
                server_random=self.server_random,
            )
        )
        session = self._new_session()
        if session is not None:
            self._events.append(TicketReceived(session))

    def _new_session(self) -> Session | None:
        """What resumes this connection: a new ticket, or the server's session id."""
        assert self.suite is not None
        if self._ticket is None and (not self._server_session_id or self.resumed):
            return None
        if self._ticket is not None and not self._ticket.ticket:
            return None
        return Session(
            TLS12,
            self.suite.number,
            self._master,
            ticket=self._ticket.ticket if self._ticket else b"",
            session_id=b"" if self._ticket else self._server_session_id,
            lifetime=self._ticket.lifetime if self._ticket else 0,
            received_at=self.options.clock(),
            alpn=self.alpn,
            server_name=self.client_options.server_name,
            extended_master_secret=self._ems,
            peer_certificates=self.peer_certificates,
            peer_verified=self.peer_verified,
        )

    def _on_hello_request(self, message: Message, raw: bytes) -> None:
        # RFC 5746 section 4.2: refused with a warning; the connection goes on.
        self._say_alert(WARNING, AlertDescription.NO_RENEGOTIATION)

    def renegotiate(self, verify_data: bytes | None = None, *, scsv: bool = False, info: bool = True) -> bytes:
        """A ClientHello inside the connection; by default with the right renegotiation_info (RFC 5746 section 3.5).

        The engine is to refuse it. Should it answer, the connection stops here with `Unsupported`.
        """
        if not self.established or self.version != TLS12:
            raise TlsUsageError("renegotiation exists in an established TLS 1.2 connection only")
        hello = self._build_hello().without_extension(ExtensionType.RENEGOTIATION_INFO)
        if info:
            right = self.client_verify_data if verify_data is None else verify_data
            hello = hello.with_extension(ext.renegotiation_info(right))
        if scsv:
            hello = dataclasses.replace(hello, cipher_suites=(*hello.cipher_suites, RENEGOTIATION_SCSV))
        self._expected = {**self._expected, HandshakeType.SERVER_HELLO: self._on_renegotiated}
        return self.send_handshake(hello)

    def _on_renegotiated(self, message: Message, raw: bytes) -> None:
        raise Stop(Unsupported("renegotiation was accepted"), AlertDescription.NO_RENEGOTIATION)
