"""The TLS server: the ClientHello decides which handshake goes on."""

from __future__ import annotations

from harness.wire.tls import extensions as ext
from harness.wire.tls.codec import TlsUsageError
from harness.wire.tls.events import Refused, Stop, Violation
from harness.wire.tls.messages import ClientHello, Message
from harness.wire.tls.numbers import (
    TLS12,
    TLS13,
    AlertDescription,
    ExtensionType,
    HandshakeType,
    extension_name,
    version_name,
)
from harness.wire.tls.options import ServerOptions
from harness.wire.tls.server12 import Server12
from harness.wire.tls.server13 import Server13

_ILLEGAL = AlertDescription.ILLEGAL_PARAMETER


class TlsServer(Server13, Server12):
    """A TLS 1.2 and 1.3 server; see `ServerOptions` and `Endpoint`. Raises `TlsUsageError` without an identity."""

    def __init__(self, options: ServerOptions) -> None:
        if options.identity is None and options.refuse_with_alert is None:
            raise TlsUsageError("identity: a server needs a chain and its key")
        super().__init__(options)
        self._expected = {HandshakeType.CLIENT_HELLO: self._on_client_hello}

    def _on_client_hello(self, message: Message, raw: bytes) -> None:
        assert isinstance(message, ClientHello)
        retried = self.client_hello is not None
        if not retried:
            self.client_hello, self.client_hello_raw = message, raw
        self.latest_hello = message
        self.client_random = message.random
        self.server_name = message.server_name
        self._check_hello(message)
        if self.server_options.refuse_with_alert is not None:
            raise Stop(
                Refused(self.server_options.refuse_with_alert, "as the script asks"),
                self.server_options.refuse_with_alert,
            )
        version = self._choose_version(message)
        if retried and version != self.version:
            raise Violation("another version after HelloRetryRequest", "RFC 8446 section 4.1.2", _ILLEGAL)
        self.version = version
        if version == TLS13:
            self._on_client_hello_13(message, raw)
        else:
            self._on_client_hello_12(message, raw)

    def _check_hello(self, message: ClientHello) -> None:
        double = ext.duplicates(message.extensions)
        if double:
            raise Violation(f"{extension_name(double[0])} twice in ClientHello", "RFC 8446 section 4.2", _ILLEGAL)
        types = message.extension_types
        if ExtensionType.PRE_SHARED_KEY in types and types[-1] != ExtensionType.PRE_SHARED_KEY:
            raise Violation("pre_shared_key is not the last extension", "RFC 8446 section 4.2.11", _ILLEGAL)
        if 0 not in message.compression_methods:
            raise Violation("no null compression", "RFC 5246 section 7.4.1.2", _ILLEGAL)
        info = message.extension(ExtensionType.RENEGOTIATION_INFO)
        if info is not None and ext.parse_renegotiation_info(info):
            what = "renegotiation_info that is not empty in a first handshake"
            raise Violation(what, "RFC 5746 section 3.6", AlertDescription.HANDSHAKE_FAILURE)
        # Parsed here so that a malformed list is named, whether it is needed or not.
        _ = message.alpn, message.groups, message.signature_schemes

    def _choose_version(self, message: ClientHello) -> int:
        accepted = self.options.versions
        listed = message.supported_versions
        if listed is not None:
            chosen = next((version for version in accepted if version in listed), None)
        else:
            chosen = TLS12 if TLS12 in accepted and message.legacy_version >= TLS12 else None
        if chosen not in (TLS12, TLS13):
            offered = listed if listed is not None else (message.legacy_version,)
            why = f"no common version: offered {', '.join(version_name(version) for version in offered)}"
            raise Stop(Refused(AlertDescription.PROTOCOL_VERSION, why), AlertDescription.PROTOCOL_VERSION)
        if chosen == TLS13 and message.compression_methods != b"\0":
            raise Violation("compression methods in a TLS 1.3 ClientHello", "RFC 8446 section 4.1.2", _ILLEGAL)
        return chosen


__all__ = ["ServerOptions", "TlsServer"]
