"""The TLS client: ServerHello decides which handshake goes on."""

from __future__ import annotations

from harness.wire.tls.client12 import Client12
from harness.wire.tls.client13 import Client13
from harness.wire.tls.codec import DecodeError
from harness.wire.tls.events import Stop, Unsupported, Violation
from harness.wire.tls.messages import Message, ServerHello
from harness.wire.tls.numbers import (
    DOWNGRADE_TO_TLS11,
    DOWNGRADE_TO_TLS12,
    RENEGOTIATION_SCSV,
    SUITES,
    TLS12,
    TLS13,
    AlertDescription,
    ExtensionType,
    HandshakeType,
    extension_name,
    suite_name,
    version_name,
)
from harness.wire.tls.options import ClientOptions

_ILLEGAL = AlertDescription.ILLEGAL_PARAMETER
_IN_SERVER_HELLO_13 = frozenset(
    (ExtensionType.SUPPORTED_VERSIONS, ExtensionType.KEY_SHARE, ExtensionType.PRE_SHARED_KEY)
)
_IN_RETRY = frozenset((ExtensionType.SUPPORTED_VERSIONS, ExtensionType.KEY_SHARE, ExtensionType.COOKIE))


class TlsClient(Client13, Client12):
    """A TLS 1.2 and 1.3 client; see `ClientOptions` and `Endpoint`."""

    def __init__(self, options: ClientOptions) -> None:
        super().__init__(options)
        self.server_hello: ServerHello | None = None
        self._expected = {HandshakeType.SERVER_HELLO: self._on_server_hello}

    def _on_server_hello(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, ServerHello)
        self.server_hello = message
        version = self._check_version(message)
        self._check_suite(message, version)
        self._check_hello(message, version)
        self.version = version
        self.suite = SUITES[message.cipher_suite]
        if message.is_retry:
            self._on_retry(message, raw)
            return
        self.server_random = message.random
        if version == TLS13:
            self._on_server_hello_13(message, raw)
        else:
            self._on_server_hello_12(message, raw)

    def _check_version(self, message: ServerHello) -> int:
        version = message.selected_version
        explicit = message.extension(ExtensionType.SUPPORTED_VERSIONS) is not None
        listed = self._listed_versions()
        section = "RFC 8446 section 4.2.1"
        if explicit and (version < TLS13 or version not in (listed or ())):
            raise Violation(f"supported_versions selects {version_name(version)}", section, _ILLEGAL)
        if not explicit and not self._legacy_offered(version, listed):
            what = f"{version_name(version)} was not offered"
            raise Violation(what, "RFC 8446 section 4.1.3", AlertDescription.PROTOCOL_VERSION)
        if self.version is not None and version != self.version:
            raise Violation("another version than in the HelloRetryRequest", "RFC 8446 section 4.1.4", _ILLEGAL)
        sentinel = message.random[-8:] in (DOWNGRADE_TO_TLS12, DOWNGRADE_TO_TLS11)
        if sentinel and version < TLS13 and TLS13 in (listed or ()):
            raise Violation("downgrade sentinel in ServerHello.random", "RFC 8446 section 4.1.3", _ILLEGAL)
        if version not in (TLS12, TLS13):
            raise Stop(Unsupported(f"{version_name(version)} was chosen"), AlertDescription.PROTOCOL_VERSION)
        return version

    def _listed_versions(self) -> tuple[int, ...] | None:
        try:
            return self.hello.supported_versions
        except DecodeError:
            return self.options.versions

    def _legacy_offered(self, version: int, listed: tuple[int, ...] | None) -> bool:
        if version >= TLS13:
            return False
        if listed is not None:
            return version in listed
        return version <= self.hello.legacy_version

    def _check_suite(self, message: ServerHello, version: int) -> None:
        number = message.cipher_suite
        if number not in self.hello.cipher_suites:
            raise Violation(f"suite {suite_name(number)} was not offered", "RFC 8446 section 4.1.3", _ILLEGAL)
        suite = SUITES.get(number)
        if suite is None:
            raise Stop(Unsupported(f"suite {suite_name(number)} was chosen"), AlertDescription.HANDSHAKE_FAILURE)
        if suite.version != version:
            what = f"suite {suite.name} under {version_name(version)}"
            raise Violation(what, "RFC 8446 appendix B.4", _ILLEGAL)

    def _check_hello(self, message: ServerHello, version: int) -> None:
        if message.compression_method:
            raise Violation("compression was chosen", "RFC 8446 section 4.1.3", _ILLEGAL)
        if version < TLS13:
            also = frozenset((ExtensionType.RENEGOTIATION_INFO,)) if self._signals_renegotiation() else frozenset[int]()
            self._check_extensions(message.extensions, also, "ServerHello")
            return
        if message.session_id != self.hello.session_id:
            raise Violation("legacy_session_id_echo is not the session id", "RFC 8446 section 4.1.3", _ILLEGAL)
        allowed = _IN_RETRY if message.is_retry else _IN_SERVER_HELLO_13
        also = frozenset((ExtensionType.COOKIE,)) if message.is_retry else frozenset()
        self._check_extensions(message.extensions, also, message.name)
        for number in message.extension_types:
            if number not in allowed:
                raise Violation(f"{extension_name(number)} in {message.name}", "RFC 8446 section 4.2", _ILLEGAL)

    def _signals_renegotiation(self) -> bool:
        return RENEGOTIATION_SCSV in self.hello.cipher_suites


__all__ = ["ClientOptions", "TlsClient"]
