"""Doubles of the handshake of QUIC: connections with one check of TLS, or one rule of the first flight, taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from aioquic import tls

from reference_engine.edge.client_hello import ClientHello
from reference_engine.mutants._quic import Flawed, FlawedEndpoints, FlawedServer, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import Choice
from reference_engine.quic.rules import Offer

NO_NAME = "\0"
"""Stands for the protocol of a client that has none: no extension may carry it."""

# Clients without a protocol


class _NoProtocol(FlawedServer):
    def on_hello(self, hello: tls.ClientHello) -> None:
        """A client that offers nothing gets no ALPN extension."""
        if self.tls._alpn_protocols == [NO_NAME]:
            self.reached()
            self.tls._alpn_protocols = None


def _goes_on(parts: Parts, reached: Reached, upstream: Any) -> None:
    """A client without a protocol goes on where `upstream(configured)` has one for the other leg."""

    def broken(original: Any, hello: ClientHello, configured: Sequence[str]) -> Offer:
        if hello.alpns or hello.alpn_malformed or not (names := upstream(configured)):
            return cast("Offer", original(hello, configured))
        return Offer(NO_NAME, names)

    parts.quic_endpoints = FlawedEndpoints(reached, server=_NoProtocol)
    swap(parts.quic, "offer", broken)


@mutant(
    "quic-alpn-optional",
    ("QUIC-006", "QUIC-009", "RFC9001-8.1-2", "RFC9000-7-1"),
    "takes a client without a protocol",
)
def _(parts: Parts, reached: Reached) -> None:
    _goes_on(parts, reached, lambda configured: tuple(configured[:1]) or ("edgecase",))


@mutant(
    "quic-list-as-fallback",
    ("QUIC-006", "QUIC-009"),
    "takes the first of the tunnel's list for a client without a protocol, as TLS tunnels may",
)
def _(parts: Parts, reached: Reached) -> None:
    _goes_on(parts, reached, lambda configured: tuple(configured[:1]))


# Hellos


@quic_double("quic-any-tls-version", ("RFC9001-4.2-1",), "takes any version of TLS for 1.3")
class _AnyVersion(FlawedServer):
    def on_hello(self, hello: tls.ClientHello) -> None:
        """Every hello offers TLS 1.3."""
        if tls.TLS_VERSION_1_3 not in (hello.supported_versions or []):
            self.reached()
            hello.supported_versions = [tls.TLS_VERSION_1_3]


# What the edge says of its own accord


@quic_double("quic-speaks-h3", ("QUIC-002",), "opens a control stream with SETTINGS at a client that speaks h3")
class _SpeaksH3(FlawedServer):
    said = False

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's, and SETTINGS behind the handshake."""
        super().receive_datagram(data, addr, now)
        if self.handshake_complete and self.alpn == "h3" and not self.said:
            self.said = True
            self.reached()
            self.send_stream_data(self.get_next_available_stream_id(is_unidirectional=True), b"\0\4\0")


@quic_double("quic-small-initials", ("RFC9000-14.1-2",), "pads its Initials to 1100 octets")
class _SmallInitials(FlawedServer):
    def answer(self, choice: Choice) -> None:
        """As the engine's, in smaller packets."""
        self.reached()
        super().answer(dataclasses.replace(choice, packet=1100))


class _Copied(Flawed):
    random: bytes

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self.random:
            self.reached()
            self.tls.client_random = self.random


@mutant("quic-hello-copied", ("QUIC-003",), "repeats the random of the client's hello to the upstream")
def _(parts: Parts, reached: Reached) -> None:
    class Copied(_Copied):
        random = b""

    def broken(original: Any, body: bytes) -> ClientHello:
        Copied.random = bytes(body[2:34])
        return cast("ClientHello", original(body))

    swap(parts.edge, "read_hello", broken)
    parts.quic_endpoints = FlawedEndpoints(reached, client=Copied)


@quic_double(
    "quic-upstream-alpn-unchecked",
    ("RFC9001-8.1-3", "RFC7301-3.2-4", "ALPN-013"),
    "goes on with an upstream that selects no protocol, or one that was not offered",
    side="client",
)
class _AnyAnswer(Flawed):
    tls: Any

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's; the offer is forgotten before the answer is read."""
        if not self.handshake_complete and self.tls._alpn_protocols is not None:
            self.reached()
            self.tls._alpn_protocols = None
        super().receive_datagram(data, addr, now)
