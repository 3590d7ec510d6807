"""Where the engine's QUIC connections are made: replaced as a whole by a double."""

from __future__ import annotations

from typing import Any

from aioquic.quic.configuration import QuicConfiguration

from reference_engine.quic.connection import EngineQuic


class QuicEndpoints:
    """Makes connections; see `EngineQuic` for the options."""

    def server(self, configuration: QuicConfiguration, **options: Any) -> EngineQuic:
        """A connection of the public UDP port."""
        return EngineQuic(configuration=configuration, **options)

    def client(self, configuration: QuicConfiguration, **options: Any) -> EngineQuic:
        """A connection to an upstream."""
        return EngineQuic(configuration=configuration, **options)
