"""Doubles and mutants of TLS below HTTP/2 (RFC 9113 section 9.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from h2.errors import ErrorCodes
from tlslite.messages import ServerHello

from reference_engine.edge.client_hello import ClientHello
from reference_engine.edge.rules import Route
from reference_engine.http.h2_server import H2ServerConnection
from reference_engine.mutants._doubles import double
from reference_engine.mutants._http2 import use_server
from reference_engine.mutants._tlslite import Connection
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tls.stream import TlsStream


@double("http2-compression-chosen", ("RFC9113-9.2.1-1",), "chooses DEFLATE in TLS 1.2")
class _Deflate(Connection):
    def on_send(self, message: Any) -> None:
        if isinstance(message, ServerHello) and list(self.hello.compression_methods) != [0]:
            self.reached()
            message.compression_method = 1


@mutant("http2-suite-inadequate", ("RFC9113-9.2.2-2",), "finds every suite of TLS 1.2 inadequate for HTTP/2")
def _(parts: Parts, reached: Reached) -> None:
    class Server(H2ServerConnection):
        def start(self) -> None:
            """Refuse at once."""
            super().start()
            if isinstance(self.stream, TlsStream) and self.stream.version == "TLSv1.2":
                reached()
                self.protocol.fail(ErrorCodes.INADEQUATE_SECURITY)
                self.failed()

    use_server(parts, Server)


@mutant("http2-name-ignored", ("RFC9113-9.2-2",), "takes no notice of the server name where h2 is offered")
def _(parts: Parts, reached: Reached) -> None:
    def nameless(original: Callable[..., Route], hello: ClientHello, names: Any, domain: str) -> Route:
        if "h2" in hello.alpns:
            reached()
            hello = replace(hello, server_name=None)
        return original(hello, names, domain)

    swap(parts.edge, "route", nameless)
