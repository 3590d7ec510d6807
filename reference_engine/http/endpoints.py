"""Hands out what an HTTP exchange runs on; a double is put in the place of one of them here.

A rule says what is right and is replaced in `HttpRules`. What a library enforces (h11), and what lies in the order of
steps rather than in a decision, is in these objects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from reference_engine.config import Settings
from reference_engine.http.exchange import Exchange
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_downstream import H1Connection, Handler
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.h2_client import H2ClientConnection
from reference_engine.http.h2_server import H2ServerConnection
from reference_engine.http.h2_server import Handler as H2Handler
from reference_engine.http.h3_connection import EngineH3, H3Limits
from reference_engine.http.h3_link import MakeCodec
from reference_engine.http.h3_server import H3ServerConnection
from reference_engine.http.h3_server import Handler as H3Handler
from reference_engine.http.leg import Downstream
from reference_engine.http.pool import Connect, Pool
from reference_engine.http.rules import HttpRules
from reference_engine.http.server import HttpTunnels
from reference_engine.http.syntax import Limits
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.stream import ByteStream
from reference_engine.tunnel.model import Tunnel


class HttpEndpoints:
    """One method for each."""

    def server_codec(self, rules: HttpRules, limits: Limits) -> H1ServerCodec:
        """The codec toward a client."""
        return H1ServerCodec(rules, limits)

    def client_codec(self, rules: HttpRules, limits: Limits) -> H1ClientCodec:
        """The codec toward an upstream."""
        return H1ClientCodec(rules, limits)

    def connection(
        self,
        stream: ByteStream,
        rules: HttpRules,
        settings: Settings,
        handler: Handler,
        *,
        half_open: bool,
        codec: H1ServerCodec,
    ) -> H1Connection:
        """The loop of one client connection."""
        return H1Connection(stream, rules, settings, handler, half_open=half_open, codec=codec)

    def h3_codec(
        self,
        rules: HttpRules,
        limits: H3Limits,
        *,
        is_client: bool,
        unidirectional: Sequence[int],
        datagrams: int | None,
    ) -> EngineH3:
        """The codec of an HTTP/3 connection, whichever end it is."""
        return EngineH3(rules, limits, is_client=is_client, unidirectional=unidirectional, datagrams=datagrams)

    def h3_connection(
        self, transport: QuicTransport, rules: HttpRules, settings: Settings, handler: H3Handler, make: MakeCodec
    ) -> H3ServerConnection:
        """One HTTP/3 connection of a client."""
        return H3ServerConnection(transport, rules, settings, handler, make)

    def exchange(self, edge: HttpTunnels, down: Downstream, own: Tunnel, carried: str | None) -> Exchange:
        """One request from its head to the end of its response."""
        return Exchange(edge, down, own, carried)

    def h2_server(
        self, stream: ByteStream, rules: HttpRules, settings: Settings, handler: H2Handler, log: logging.Logger
    ) -> H2ServerConnection:
        """An HTTP/2 connection of a client."""
        return H2ServerConnection(stream, rules, settings, handler, log)

    def h2_client(self, stream: ByteStream, rules: HttpRules, settings: Settings) -> H2ClientConnection:
        """An HTTP/2 connection to an upstream."""
        return H2ClientConnection(stream, rules, settings)

    def pool(self, connect: Connect, codec: Callable[[], H1ClientCodec], *, idle: float, most: int) -> Pool:
        """The upstream connections."""
        return Pool(connect, codec, idle=idle, most=most)
