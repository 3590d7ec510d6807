"""TLS towards an upstream, inside a data stream of the agent: a connection of the engine's own (TLS-007)."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from reference_engine.config import ConfigError
from reference_engine.relay.stream import ByteStream, StreamReset
from reference_engine.tls.endpoint import ClientTls
from reference_engine.tls.stream import TlsStream

if TYPE_CHECKING:
    from reference_engine.engine import Engine


class UpstreamTlsFailed(Exception):  # noqa: N818 - the outcome's word
    """No TLS connection to the upstream came about; the stream below is closed. The text is for the log."""


class UpstreamTls:
    """Wraps a stream to an upstream in TLS. One per engine. Raises ConfigError for a CA file that does not load."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        settings = engine.settings
        self._store = load_store(settings.upstream_ca_file) if settings.upstream_verify else None

    async def wrap(self, stream: ByteStream, *, server_name: str, alpns: Sequence[str]) -> TlsStream:
        """Handshake as a client with a ClientHello of our own: SNI `server_name`, ALPN `alpns` (none if empty).

        The certificate is verified against `server_name` only with the setting upstream_verify (TLS-009); the proof of
        its key always is. Raises UpstreamTlsFailed.
        """
        parts, settings = self._engine.parts, self._engine.settings
        endpoint = parts.tls_endpoints.client(ClientTls(server_name, tuple(alpns)))
        tls = TlsStream(
            stream,
            endpoint,
            server_name=server_name,
            end_below=False,
            close_timeout=settings.close_timeout_ms / 1000,
        )
        try:
            async with asyncio.timeout(settings.handshake_timeout_ms / 1000):
                await tls.handshake()
        except TimeoutError:
            tls.abort("the upstream's TLS handshake timed out")
            raise UpstreamTlsFailed("the TLS handshake timed out") from None
        except StreamReset as problem:
            raise UpstreamTlsFailed(f"the TLS handshake failed: {problem.reason}") from None
        problem_found = self._judge(tls, server_name, alpns)
        if problem_found is not None:
            await tls.close()
            raise UpstreamTlsFailed(problem_found)
        return tls

    def _judge(self, tls: TlsStream, server_name: str, alpns: Sequence[str]) -> str | None:
        """What forbids any data on this connection, or None."""
        if not self._engine.parts.tls.upstream_alpn_fits(alpns, tls.alpn):
            return f"the upstream selected {tls.alpn!r}, which was not offered"
        return self.judge_chain(tls.peer_chain, server_name)

    def judge_chain(self, chain: Sequence[bytes], server_name: str) -> str | None:
        """Why an upstream's chain (DER, leaf first) is refused, or None: always without upstream_verify (TLS-009)."""
        return verify_chain(chain, server_name, self._store) if self._store is not None else None


def load_store(file: Path | None) -> Store:
    """The CAs in `file` (PEM), or the system's. Raises ConfigError."""
    default = ssl.get_default_verify_paths()
    path = file or (Path(default.cafile) if default.cafile else None)
    if path is None:
        raise ConfigError("upstream_verify: this system has no CA file; allowed: true together with upstream_ca_file")
    try:
        return Store(x509.load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"upstream_ca_file: cannot use {path}: {problem}; allowed: PEM certificates") from None


def verify_chain(chain: Sequence[bytes], server_name: str, store: Store, now: dt.datetime | None = None) -> str | None:
    """Why the chain (DER, leaf first) does not prove `server_name` (RFC 9525), or None."""
    if not chain:
        return "the upstream sent no certificate"
    try:
        leaf, *rest = [x509.load_der_x509_certificate(one) for one in chain]
        builder = PolicyBuilder().store(store).time(now or dt.datetime.now(dt.UTC).replace(tzinfo=None))
        builder.build_server_verifier(x509.DNSName(server_name)).verify(leaf, rest)
    except (VerificationError, ValueError, x509.UnsupportedGeneralNameType) as problem:
        return f"the upstream's certificate is refused: {problem}"
    return None
