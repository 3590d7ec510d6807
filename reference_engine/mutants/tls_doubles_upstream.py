"""Doubles of TLS: the engine's connections to upstreams with one check of what a server says taken away."""

from __future__ import annotations

import functools
from typing import Any

from tlslite.messages import ServerHello

from reference_engine.mutants._doubles import double, silenced, without
from reference_engine.mutants._tlslite import (
    AlertDescription,
    Connection,
    ContentType,
    ExtensionType,
    HandshakeType,
    Steps,
)

double_upstream = functools.partial(double, side="client")
silenced_upstream = functools.partial(silenced, __name__, side="client")

silenced_upstream(
    "tls-upstream-sentinel-ignored",
    ("RFC8446-4.1.3-2",),
    "takes TLS 1.2 with the downgrade sentinel from an upstream",
    "Connection terminated because of downgrade",
)
silenced_upstream(
    "tls-upstream-any-session-id",
    ("RFC8446-4.1.3-3",),
    "takes any session id in an upstream's ServerHello",
    "Received ServerHello session_id does not match",
)
silenced_upstream(
    "tls-upstream-useless-retry",
    ("RFC8446-4.1.4-2",),
    "sends the same ClientHello again where a HelloRetryRequest changes nothing",
    "Received HRR did not cause",
)


@double_upstream(
    "tls-upstream-version-alert",
    ("RFC8446-4.2.1-3",),
    "answers a version that it did not offer with protocol_version",
)
class _VersionAlert(Connection):
    def _sendError(self, alert: int, reason: str | None = None) -> Steps:
        if alert == AlertDescription.protocol_version:
            self.reached()
        yield from super()._sendError(alert, reason)


@double_upstream(
    "tls-upstream-extensions-unchecked",
    ("RFC8446-4.2-2", "RFC5246-7.4.1.4-2"),
    "passes over extensions that it did not ask an upstream for",
)
class _Unchecked(Connection):
    def _getMsg(self, *arguments: Any, **named: Any) -> Steps:
        for result in super()._getMsg(*arguments, **named):
            if getattr(result, "handshakeType", None) in (
                HandshakeType.server_hello,
                HandshakeType.encrypted_extensions,
            ):
                alpn = result.getExtension(ExtensionType.alpn)
                if alpn is not None:
                    self.reached()
                    without(result, ExtensionType.alpn)
            yield result


@double_upstream(
    "tls-upstream-indication-unchecked",
    ("RFC5746-3.4-1",),
    "takes any renegotiation_info of an upstream in a first handshake",
)
class _Indication(Connection):
    def _getMsg(self, *arguments: Any, **named: Any) -> Steps:
        for result in super()._getMsg(*arguments, **named):
            if isinstance(result, ServerHello):
                info = result.getExtension(ExtensionType.renegotiation_info)
                if info is not None and info.renegotiated_connection:
                    self.reached()
            yield result


@double_upstream(
    "tls-upstream-empty-certificate-alert",
    ("RFC8446-4.4.2.4-3",),
    "answers an upstream's empty Certificate with illegal_parameter",
)
class _EmptyCertificate(Connection):
    def _sendError(self, alert: int, reason: str | None = None) -> Steps:
        if reason is not None and reason.startswith("Other party sent a Certificate message without"):
            self.reached()
        yield from super()._sendError(alert, reason)


@double_upstream(
    "tls-upstream-proof-unchecked", ("RFC8446-4.4.3-2",), "does not verify an upstream's CertificateVerify"
)
class _Proof(Connection):
    def _clientGetKeyFromChain(self, certificate: Any, settings: Any, tack: Any = None) -> Steps:
        for result in super()._clientGetKeyFromChain(certificate, settings, tack):
            if result not in (0, 1):
                self._assume(result[0])
            yield result

    def _assume(self, key: Any) -> None:
        right, reached = key.verify, self.reached

        def lenient(*arguments: Any, **named: Any) -> bool:
            if not right(*arguments, **named):
                reached()
            return True

        key.verify = lenient


@double_upstream("tls-upstream-request-fatal", ("RFC5746-4.2-1",), "refuses a HelloRequest as a message out of order")
class _RequestFatal(Connection):
    def on_message(self, kind: int, data: bytes) -> bool:
        asked = kind == ContentType.handshake and self.established and data[0] == HandshakeType.hello_request
        if asked:
            self.reached()
            for _ in self._sendError(AlertDescription.unexpected_message):
                continue
        return True
