"""How connections of the engine are configured; what is public of aioquic is enough for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

from reference_engine.quic.connection import CID_LENGTH, SMALLEST_DATAGRAM, Windows
from reference_engine.tls.endpoint import ServerCertificate

VERSIONS = (QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2)
"""QUIC versions of every connection, most wanted first (RFC 9000, RFC 9369)."""
NO_STOCK_VERIFICATION = 0
"""ssl.CERT_NONE: the connection's own `judge` decides."""


def server_configuration(
    certificate: ServerCertificate,
    windows: Windows,
    *,
    idle: float,
    datagrams: int = 65_535,
    versions: Sequence[int] = VERSIONS,
    secrets: Any = None,
) -> QuicConfiguration:
    """The configuration of a server connection: `idle` in seconds, `datagrams` is max_datagram_frame_size (0: none).

    The certificate is aioquic's to demand; what is shown is chosen by `answer`.
    """
    return QuicConfiguration(
        is_client=False,
        certificate=certificate.chain[0],
        private_key=certificate.key,
        connection_id_length=CID_LENGTH,
        idle_timeout=idle,
        max_data=windows.connection,
        max_stream_data=windows.stream,
        max_datagram_size=SMALLEST_DATAGRAM,
        max_datagram_frame_size=datagrams or None,
        supported_versions=list(versions),
        secrets_log_file=secrets,
    )


def client_configuration(
    server_name: str,
    alpns: Sequence[str],
    windows: Windows,
    *,
    idle: float,
    datagrams: int = 65_535,
    versions: Sequence[int] = VERSIONS,
) -> QuicConfiguration:
    """The configuration of a client connection: SNI `server_name`, ALPN `alpns`; the certificate is judged by the
    connection's `judge`."""
    return QuicConfiguration(
        is_client=True,
        server_name=server_name,
        alpn_protocols=list(alpns),
        verify_mode=NO_STOCK_VERIFICATION,
        connection_id_length=CID_LENGTH,
        idle_timeout=idle,
        max_data=windows.connection,
        max_stream_data=windows.stream,
        max_datagram_size=SMALLEST_DATAGRAM,
        max_datagram_frame_size=datagrams or None,
        supported_versions=list(versions),
    )
