"""How a double of QUIC is made: the engine's connection with one check taken away, in front of clients or upstreams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration

from reference_engine.mutants.registry import Reached, mutant
from reference_engine.parts import Parts
from reference_engine.quic.connection import EngineQuic, HelloContext
from reference_engine.quic.endpoints import QuicEndpoints


class Flawed(EngineQuic):
    """A connection that knows how to say that its flaw was used."""

    reached: Reached

    def __init__(self, *, reached: Reached, **options: Any) -> None:
        self.reached = reached
        super().__init__(**options)


class FlawedEndpoints(QuicEndpoints):
    """Makes flawed connections on the side for which there is a class."""

    def __init__(
        self, reached: Reached, *, server: type[Flawed] | None = None, client: type[Flawed] | None = None
    ) -> None:
        self._reached = reached
        self._server = server
        self._client = client

    def server(self, configuration: QuicConfiguration, **options: Any) -> EngineQuic:
        """See QuicEndpoints."""
        if self._server is None:
            return super().server(configuration, **options)
        return self._server(reached=self._reached, configuration=configuration, **options)

    def client(self, configuration: QuicConfiguration, **options: Any) -> EngineQuic:
        """See QuicEndpoints."""
        if self._client is None:
            return super().client(configuration, **options)
        return self._client(reached=self._reached, configuration=configuration, **options)


def quic_double(
    name: str, rows: tuple[str, ...], breaks: str, *, side: str = "server"
) -> Callable[[type[Flawed]], type[Flawed]]:
    """Register a double: the decorated connection stands in front of every client (`side` server), toward every
    upstream (`side` client), or on both (`side` both)."""

    def register(flawed: type[Flawed]) -> type[Flawed]:
        def apply(parts: Parts, reached: Reached) -> None:
            sides = {one: flawed for one in ("server", "client") if side in (one, "both")}
            parts.quic_endpoints = FlawedEndpoints(reached, **sides)

        apply.__module__ = flawed.__module__
        mutant(name, rows, breaks)(apply)
        return flawed

    return register


class ReadingContext(HelloContext):
    """A server's TLS that shows each ClientHello, as it is parsed, to its connection's `on_hello` first."""

    owner: FlawedServer

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Any]) -> None:
        """As the engine's; the library's parser is wrapped for as long as it runs."""
        if self._held:
            super().handle_message(input_data, output_buf)
            return
        original = tls.pull_client_hello

        def shown(buf: Any) -> tls.ClientHello:
            hello = original(buf)
            self.owner.on_hello(hello)
            return hello

        tls.pull_client_hello = shown
        try:
            super().handle_message(input_data, output_buf)
        finally:
            tls.pull_client_hello = original


class FlawedServer(Flawed):
    """A server connection that may change what it has parsed of a ClientHello."""

    tls: Any

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls.__class__ = ReadingContext
        self.tls.owner = self

    def on_hello(self, hello: tls.ClientHello) -> None:
        """Called with each ClientHello before it is looked at; may change it in place or raise a tls.Alert."""
