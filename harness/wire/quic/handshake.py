"""The TLS 1.3 of `harness.wire.tls` over CRYPTO frames instead of records (RFC 9001 section 4).

The handshake's states stay as they are. What differs stands here: messages go out by encryption level, secrets are
handed out as the key schedule logs them, quic_transport_parameters is added, an alert is kept for CONNECTION_CLOSE, and
ChangeCipherSpec, EndOfEarlyData and KeyUpdate do not exist.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from harness.wire.quic.numbers import Level
from harness.wire.quic.parameters import EXTENSION
from harness.wire.tls import (
    TLS13,
    ClientHello,
    ClientOptions,
    Event,
    Extension,
    ServerOptions,
    TlsClient,
    TlsServer,
)
from harness.wire.tls.endpoint import Endpoint
from harness.wire.tls.events import Session, Violation
from harness.wire.tls.messages import EncryptedExtensions, Message
from harness.wire.tls.numbers import SUITES, AlertDescription, ContentType, Suite
from harness.wire.tls.records import Aead12, Aead13
from harness.wire.tls.schedule import KeySchedule, digest

MAX_EARLY_DATA = 0xFFFFFFFF
"""What the ticket of a QUIC server says where it takes 0-RTT (RFC 9001 section 4.6.1)."""
_SECRETS = {
    "CLIENT_EARLY_TRAFFIC_SECRET": (Level.EARLY, "client"),
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET": (Level.HANDSHAKE, "client"),
    "SERVER_HANDSHAKE_TRAFFIC_SECRET": (Level.HANDSHAKE, "server"),
    "CLIENT_TRAFFIC_SECRET_0": (Level.APPLICATION, "client"),
    "SERVER_TRAFFIC_SECRET_0": (Level.APPLICATION, "server"),
}


@dataclass(frozen=True, slots=True)
class Secret:
    """A traffic secret that became known: of which level, and of which side's packets."""

    level: Level
    role: str
    secret: bytes
    suite: Suite


class CryptoLayer(Endpoint):
    """An endpoint whose messages go over CRYPTO frames. `take_*` give what is due and forget it."""

    _said_crypto: list[tuple[Level, bytes]]
    _secrets: list[Secret]
    _levels: dict[bytes, Level]
    _our_parameters: Callable[[], bytes]
    read_level = Level.INITIAL
    write_level = Level.INITIAL
    remote_parameters: bytes | None = None
    alert_said: int | None = None
    alpn_required = True

    def _prepare(self, parameters: Callable[[], bytes], *, alpn_required: bool) -> None:
        self._said_crypto, self._secrets, self._levels = [], [], {}
        self._our_parameters = parameters
        self.alpn_required = alpn_required

    def receive_crypto(self, level: Level, data: bytes) -> list[Event]:
        """Take the next octets of CRYPTO frames of `level`."""
        return self._guarded(lambda: self._on_crypto(level, data))

    def _on_crypto(self, level: Level, data: bytes) -> None:
        if self._ended:
            return
        if level != self.read_level:
            what = f"handshake octets at level {level.name.lower()}, expected at {self.read_level.name.lower()}"
            raise Violation(what, "RFC 9001 section 4.1.3", AlertDescription.UNEXPECTED_MESSAGE)
        self._on_handshake(data)

    @property
    def incomplete(self) -> bool:
        """Whether part of a handshake message is waiting for its rest."""
        return bool(self._fragment)

    def take_crypto(self) -> list[tuple[Level, bytes]]:
        """Handshake octets that are due, by level, in order."""
        said, self._said_crypto = self._said_crypto, []
        return said

    def take_secrets(self) -> list[Secret]:
        """Secrets that became known."""
        secrets, self._secrets = self._secrets, []
        return secrets

    def _secret_suite(self, level: Level) -> Suite:
        assert self.suite is not None
        return self.suite

    # What the record layer did

    def _put(self, content_type: int, payload: bytes) -> None:
        if content_type == ContentType.HANDSHAKE:
            self._said_crypto.append((self.write_level, payload))

    def _say_alert(self, level: int, description: int) -> None:
        # An alert travels as the error code of CONNECTION_CLOSE (RFC 9001 section 4.8).
        self._flush()
        if self.alert_said is None:
            self.alert_said = description
        self.write_closed = True

    def _log(self, label: str, secret: bytes) -> None:
        super()._log(label, secret)
        if label in _SECRETS:
            level, role = _SECRETS[label]
            self._levels[secret] = level
            self._secrets.append(Secret(level, role, secret, self._secret_suite(level)))

    def _write_keys(self, protection: Aead12 | Aead13) -> None:
        self._flush()
        assert isinstance(protection, Aead13)
        self.write_level = self._levels[protection.secret]

    def _read_keys(self, protection: Aead12 | Aead13) -> None:
        super()._read_keys(protection)
        assert isinstance(protection, Aead13)
        self.read_level = self._levels[protection.secret]

    def _insert(self, step: str) -> None:
        # What a script inserts are handshake octets here: there are no records.
        if step in self.options.insert:
            self._flush()
            self._said_crypto.append((self.write_level, self.options.insert[step](self)))

    def _say_ccs(self) -> None:
        # There is no middlebox to please (RFC 9001 section 8.4).
        return

    def _say(self, step: str, message: Message, *, transcript: bool = True) -> Message:
        if step == "end_of_early_data":  # RFC 9001 section 8.3
            return message
        if step == "encrypted_extensions" and isinstance(message, EncryptedExtensions):
            message = message.appending(Extension(EXTENSION, self._our_parameters()))
        return super()._say(step, message, transcript=transcript)

    def _on_post_handshake(self, message: Message, raw: bytes) -> None:
        self._unexpected(message)  # KeyUpdate among them (RFC 9001 section 6)

    def _take_parameters(self, data: bytes | None, where: str) -> None:
        if data is None:
            what = f"{where} without quic_transport_parameters"
            raise Violation(what, "RFC 9001 section 8.2", AlertDescription.MISSING_EXTENSION)
        self.remote_parameters = data


class CryptoClient(CryptoLayer, TlsClient):
    """The client's handshake. `parameters` gives our transport parameters, encoded, once."""

    def __init__(
        self,
        options: ClientOptions,
        parameters: Callable[[], bytes],
        *,
        alpn_required: bool,
        session: Session | None = None,
        early: bool = False,
    ) -> None:
        self._prepare(parameters, alpn_required=alpn_required)
        changed = dataclasses.replace(
            options,
            versions=(TLS13,),
            session_id=b"",
            session=session,
            early_data=b"\0" if early else b"",
            extra_extensions=(*options.extra_extensions, Extension(EXTENSION, parameters())),
        )
        super().__init__(changed)

    def _say_early_data(self, data: bytes) -> None:
        # Only the key: what goes out under it is the connection's business.
        session = self._psk_session
        assert session is not None
        schedule = KeySchedule(SUITES[session.suite].hash, session.secret)
        transcript = digest(SUITES[session.suite].hash, self._transcript)
        self._log("CLIENT_EARLY_TRAFFIC_SECRET", schedule.early("c e traffic", transcript))

    def _secret_suite(self, level: Level) -> Suite:
        if level == Level.EARLY and self._psk_session is not None:
            return SUITES[self._psk_session.suite]
        return super()._secret_suite(level)

    def _on_encrypted_extensions(self, message: Message, raw: bytes) -> None:
        super()._on_encrypted_extensions(message, raw)
        assert isinstance(message, EncryptedExtensions)
        self._take_parameters(message.extension(EXTENSION), "EncryptedExtensions")
        if self.alpn is None and self.alpn_required:
            what = "no protocol was selected"
            raise Violation(what, "RFC 9001 section 8.1", AlertDescription.NO_APPLICATION_PROTOCOL)


class CryptoServer(CryptoLayer, TlsServer):
    """The server's handshake. `parameters` gives our transport parameters when EncryptedExtensions are said;
    `on_parameters` is called with the other side's, encoded, before any key is made."""

    def __init__(
        self,
        options: ServerOptions,
        parameters: Callable[[], bytes],
        *,
        alpn_required: bool,
        early: bool = False,
        on_parameters: Callable[[bytes], None] | None = None,
    ) -> None:
        self._prepare(parameters, alpn_required=alpn_required)
        self._on_parameters = on_parameters
        changed = dataclasses.replace(options, versions=(TLS13,), max_early_data=MAX_EARLY_DATA if early else 0)
        super().__init__(changed)

    def _check_hello_13(self, message: ClientHello) -> None:
        super()._check_hello_13(message)
        self._take_parameters(message.extension(EXTENSION), "ClientHello")
        if self._on_parameters is not None:
            assert self.remote_parameters is not None
            self._on_parameters(self.remote_parameters)

    def _choose_alpn(self, hello: ClientHello) -> Extension | None:
        found = super()._choose_alpn(hello)
        if found is None and self.alpn_required:
            raise self._refuse(AlertDescription.NO_APPLICATION_PROTOCOL, "no protocol in common")
        return found

    def _take_early_data(self, message: ClientHello, session: Session | None, transcript_hash: bytes) -> bool:
        accepted = super()._take_early_data(message, session, transcript_hash)
        # The level after Initial is Handshake whether 0-RTT is taken or not: there is no EndOfEarlyData.
        self._early_secret = b""
        self._early_taken = int(accepted)
        return accepted
