"""Doubles of the handshake of QUIC: connections with one check of TLS, or one rule of the first flight, taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import connection
from aioquic.quic.packet import pull_quic_transport_parameters

from reference_engine.edge.client_hello import ClientHello
from reference_engine.mutants._quic import Flawed, FlawedEndpoints, FlawedServer, quic_double
from reference_engine.mutants.edge import _self_signed
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import Choice, JudgingContext
from reference_engine.quic.rules import Offer

NO_NAME = "\0"
"""Stands for the protocol of a client that has none: no extension may carry it."""

CCM_8 = 0x1305
SANITY = "edgecase"
"""The protocol of the sanity case, which has to pass where the flaw is not its own."""

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


class _AnyVersion(FlawedServer):
    def on_hello(self, hello: tls.ClientHello) -> None:
        """Every hello offers TLS 1.3."""
        if tls.TLS_VERSION_1_3 not in (hello.supported_versions or []):
            self.reached()
            hello.supported_versions = [tls.TLS_VERSION_1_3]


@mutant("quic-any-tls-version", ("RFC9001-4.2-1",), "takes any version of TLS for 1.3")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, hello: ClientHello, configured: Sequence[str]) -> Offer:
        return cast("Offer", original(dataclasses.replace(hello, versions=(tls.TLS_VERSION_1_3,)), configured))

    swap(parts.quic, "offer", broken)
    parts.quic_endpoints = FlawedEndpoints(reached, server=_AnyVersion)


@quic_double("quic-suite-strict", ("RFC9001-5.3-1",), "refuses a hello with a suite that QUIC does not use")
class _StrictSuites(FlawedServer):
    def on_hello(self, hello: tls.ClientHello) -> None:
        """Every suite must be known."""
        if CCM_8 in hello.cipher_suites:
            self.reached()
            raise tls.AlertIllegalParameter("a suite that QUIC does not use")


@quic_double("quic-hello-in-order", ("RFC9000-7.5-1",), "drops CRYPTO frames that come before their turn")
class _InOrder(Flawed):
    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        start = buf.tell()
        offset, length = buf.pull_uint_var(), buf.pull_uint_var()
        if offset > self._crypto_streams[context.epoch].receiver.starting_offset():
            self.reached()
            buf.pull_bytes(length)
            return
        buf.seek(start)
        super()._handle_crypto_frame(context, frame_type, buf)


# What the edge says of its own accord


class _AfterHandshake(FlawedServer):
    """Does something once, behind its handshake."""

    said = False

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's."""
        super().receive_datagram(data, addr, now)
        if self.handshake_complete and not self.said:
            self.said = True
            self.after_handshake()

    def after_handshake(self) -> None:
        """What is done."""


@quic_double("quic-done-late", ("RFC9001-4.1.2-1",), "sends HANDSHAKE_DONE behind the client's first stream only")
class _LateDone(FlawedServer):
    late = False

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As the engine's."""
        if self._handshake_done_pending and not self._streams:
            self.reached()
            self._handshake_done_pending, self.late = False, True
        elif self.late and self._streams:
            self._handshake_done_pending, self.late = True, False
        return super().datagrams_to_send(now)


@quic_double("quic-ticket-limit", ("RFC9001-4.6.1-1",), "gives tickets that allow 1000 octets of early data")
class _TicketLimit(FlawedServer):
    def on_hello(self, hello: tls.ClientHello) -> None:
        """A ticket, where the sanity case does not see it."""
        if SANITY in (hello.alpn_protocols or []):
            return
        self.reached()
        hello.psk_key_exchange_modes = [tls.PskKeyExchangeMode.PSK_DHE_KE]
        self.tls.new_session_ticket_cb = lambda ticket: None
        self.tls._max_early_data = 1000


@quic_double("quic-asks-later", ("RFC9001-4.4-3",), "asks for a client certificate behind the handshake")
class _AsksLater(_AfterHandshake):
    def after_handshake(self) -> None:
        """A CertificateRequest with a context of one octet and one signature scheme; not in the sanity case."""
        if self.alpn == SANITY:
            return
        self.reached()
        asked = bytes.fromhex("0d00000e 01ff 000a 000d 0006 0004 08040403")
        self._crypto_streams[tls.Epoch.ONE_RTT].sender.write(asked)


@quic_double("quic-initial-token", ("RFC9000-17.2.2-1",), "puts a token into its own Initials")
class _InitialToken(FlawedServer):
    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.reached()
        self._peer_token = b"a token"


@quic_double("quic-certificate-default", ("QUIC-017",), "shows a self-signed certificate of another name")
class _OtherCertificate(FlawedServer):
    def answer(self, choice: Choice) -> None:
        """As the engine's, with another certificate."""
        self.reached()
        super().answer(dataclasses.replace(choice, certificate=_self_signed()))


@quic_double("quic-speaks-h3", ("QUIC-002",), "opens a control stream with SETTINGS at a client that speaks h3")
class _SpeaksH3(_AfterHandshake):
    def after_handshake(self) -> None:
        """A unidirectional stream with its type and empty SETTINGS."""
        if self.alpn == "h3":
            self.reached()
            self.send_stream_data(self.get_next_available_stream_id(is_unidirectional=True), b"\0\4\0")


@quic_double("quic-small-initials", ("RFC9000-14.1-2",), "pads its Initials to 1100 octets")
class _SmallInitials(FlawedServer):
    def answer(self, choice: Choice) -> None:
        """As the engine's, in smaller packets."""
        self.reached()
        super().answer(dataclasses.replace(choice, packet=1100))


@mutant("quic-hello-copied", ("QUIC-003",), "repeats the random of the client's hello to the upstream")
def _(parts: Parts, reached: Reached) -> None:
    randoms: list[bytes] = []

    class Reading(Flawed):
        def _hello_whole(self, body: bytes) -> None:
            randoms.append(body[2:34])
            super()._hello_whole(body)

    class Copying(Flawed):
        tls: Any

        def _initialize(self, peer_cid: bytes) -> None:
            super()._initialize(peer_cid)
            self.reached()
            self.tls.client_random = randoms[-1]

    parts.quic_endpoints = FlawedEndpoints(reached, server=Reading, client=Copying)


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


@quic_double("quic-retry-unchecked", ("RFC9000-17.2.5.2-1",), "follows a Retry whatever its tag is", side="client")
class _AnyRetry(Flawed):
    def _receive_retry_packet(self, header: Any, packet_without_tag: bytes, now: float) -> None:
        library: Any = connection
        original = library.get_retry_integrity_tag

        def tag(*arguments: Any, **options: Any) -> bytes:
            if original(*arguments, **options) != header.integrity_tag:
                self.reached()
            return cast("bytes", header.integrity_tag)

        library.get_retry_integrity_tag = tag
        try:
            super()._receive_retry_packet(header=header, packet_without_tag=packet_without_tag, now=now)
        finally:
            library.get_retry_integrity_tag = original


@quic_double(
    "quic-upstream-ids-unchecked",
    ("RFC9000-7.3-1",),
    "takes any original_destination_connection_id of an upstream",
    side="client",
)
class _AnyOriginalId(Flawed):
    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        told = pull_quic_transport_parameters(Buffer(data=data)).original_destination_connection_id
        if told is not None and told != self._original_destination_connection_id:
            self.reached()
            self._original_destination_connection_id = told
        super()._parse_transport_parameters(data, from_session_ticket)


class _DeafToRequests(JudgingContext):
    owner: Flawed

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Any]) -> None:
        """As the library's, without a CertificateRequest behind the handshake."""
        if self.owner.handshake_complete and input_data[:1] == b"\x0d":
            self.owner.reached()
            return
        super().handle_message(input_data, output_buf)


@quic_double(
    "quic-later-request-ignored",
    ("RFC9001-4.4-3",),
    "passes over an upstream's CertificateRequest behind the handshake",
    side="client",
)
class _IgnoresRequests(Flawed):
    tls: Any

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls.__class__ = _DeafToRequests
        self.tls.owner = self


@quic_double(
    "quic-reset-unseen", ("RFC9000-10.3.1-1",), "does not know a stateless reset of an upstream", side="client"
)
class _NoReset(Flawed):
    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the library's, which compares no token."""
        self.reached()
        connection.QuicConnection.receive_datagram(self, data, addr, now)
