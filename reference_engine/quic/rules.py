"""The rules of QUIC: where a packet and where a connection goes, and what the legs of a tunnel tell each other.

Pure functions without state; `Parts.quic` holds the one object through which the engine reaches them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from aioquic.quic.packet import encode_quic_version_negotiation

from reference_engine.edge.client_hello import (
    DECODE_ERROR,
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    ClientHello,
)
from reference_engine.edge.rules import AGENT_ALPN, EdgeRules, NameKind, Names
from reference_engine.quic.connection import CID_LENGTH, CRYPTO_ERROR, SMALLEST_DATAGRAM, QuicEnd
from reference_engine.quic.stream import QuicStream
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.stream import Address
from reference_engine.tls.rules import TLS13
from reference_engine.tunnel.model import Tunnel

LONG_HEADER = 0x80
HTTP3_ALPN = "h3"
"""HTTP/3 (RFC 9114 section 3.1)."""
PROTOCOL_VERSION = 70
"""The alert protocol_version (RFC 8446 section 6)."""
NO_ERROR, INTERNAL_ERROR, CONNECTION_REFUSED = 0x0, 0x1, 0x2
"""Codes of the transport (RFC 9000 section 20.1)."""


class Kind(Enum):
    """What a datagram on the public UDP port is, by its first octet (RFC 9443 section 3)."""

    QUIC = "quic"
    DTLS = "dtls"
    JUNK = "junk"


@dataclass(frozen=True, slots=True)
class QuicRoute:
    """Where a connection goes: to a tunnel, to the agents, or nowhere, with a TLS alert and why."""

    tunnel: Tunnel | None = None
    agents: bool = False
    alert: int = UNRECOGNIZED_NAME
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """What becomes of the ALPN offer of a client: `answer` is its protocol, None where the upstream chooses; `upstream`
    is what the upstream is offered; with an `alert` there is no connection."""

    answer: str | None = None
    upstream: tuple[str, ...] = ()
    alert: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Close:
    """A CONNECTION_CLOSE: the code is the application's, or one of the transport."""

    code: int
    reason: str
    application: bool = False


class QuicRules:
    """What the UDP port and raw QUIC tunnels decide."""

    # -- the port --------------------------------------------------------------------------------------------------

    def kind(self, datagram: bytes) -> Kind:
        """RFC 9443 section 3 by the first octet: 20 to 63 is DTLS, 64 to 255 QUIC as far as this port is concerned
        (nothing of TURN or RTP is spoken here), anything else is dropped."""
        first = datagram[0] if datagram else 0
        if first >= 64:
            return Kind.QUIC
        return Kind.DTLS if first >= 20 else Kind.JUNK

    def negotiates_version(self, version: int, known: Sequence[int], size: int) -> bool:
        """Whether a long header of this version is answered with Version Negotiation: one that nobody here knows, in a
        datagram that could start a connection (RFC 9000 section 6.1)."""
        return version != 0 and version not in known and size >= SMALLEST_DATAGRAM

    def negotiation(self, destination: bytes, source: bytes, versions: Sequence[int]) -> bytes:
        """The Version Negotiation packet for a packet with these ids: both go back, crossed over, however long they
        are (RFC 9000 section 17.2.1)."""
        return encode_quic_version_negotiation(destination, source, list(versions))

    def may_start(self, cid: bytes, size: int) -> bool:
        """Whether an Initial may start a connection: padded, under an id of 8 octets or more (RFC 9000 sections 7.2,
        14.1)."""
        return size >= SMALLEST_DATAGRAM and len(cid) >= 8

    def answer_to_stray(self, datagram: bytes) -> bytes:
        """What a datagram is answered with that belongs to no connection and starts none: nothing (RFC 9000 section
        5.2.2). No stateless reset either, since the tokens are kept nowhere but with their connections."""
        del datagram
        return b""

    def wants_retry(self, unfinished: int, threshold: int) -> bool:
        """Whether a new client has to prove its address first: while many handshakes are unfinished (RFC 9000 section
        8.1.2)."""
        return unfinished >= threshold

    def retry_id(self, destination: bytes) -> bytes:
        """The id under which a client comes back with its token: another than the one that it chose (RFC 9000 section
        17.2.5.1)."""
        del destination
        return secrets.token_bytes(CID_LENGTH)

    def has_room(self, count: int, most: int) -> bool:
        """Whether one more connection, or unfinished handshake, is taken (RFC 9000 section 21.6)."""
        return count < most

    def follows(self, packet_from: Address, known: Address | None) -> bool:
        """Whether packets of a connection are taken from another address than before: they are, and the new path is
        validated (RFC 9000 section 9)."""
        del packet_from, known
        return True

    # -- routing ---------------------------------------------------------------------------------------------------

    def route(self, hello: ClientHello, names: Names, domain: str, edge: EdgeRules) -> QuicRoute:
        """Where a connection goes; the rows are those of TCP (EDGE-008, EDGE-009), without an API of its own:

        | server name               | ALPN offer      | goes to                |                      |
        | ------------------------- | --------------- | ---------------------- | -------------------- |
        | of a published QUIC tunnel| any             | the tunnel             | QUIC-001, QUIC-023   |
        | of a published HTTP tunnel| any             | the tunnel, by HTTP/3  | HTTP-VER-008, -011   |
        | any other but zone names  | with rstrm/1    | agents                 | TRANS-001, EDGE-009  |
        | anything else             | any             | refused, alert 112     | EDGE-016             |
        """
        name = edge.normal_name(hello.server_name)
        tunnel = names.by_hostname(name) if name is not None else None
        if tunnel is not None:
            if self.serves(tunnel):
                return QuicRoute(tunnel=tunnel)
            return QuicRoute(reason="the tunnel of this name is not served over QUIC")
        if edge.kind(hello.server_name, domain) in (NameKind.ZONE, NameKind.MALFORMED):
            return QuicRoute(reason="no tunnel has this name")
        if hello.alpn_malformed:
            return QuicRoute(alert=DECODE_ERROR, reason="malformed ALPN extension")
        if AGENT_ALPN in hello.alpns:
            return QuicRoute(agents=True)
        return QuicRoute(reason="no tunnel has this name")

    def serves(self, tunnel: Tunnel) -> bool:
        """Whether the tunnel is reached at the UDP port: a published QUIC tunnel is, and a published HTTP tunnel
        whatever its upstream speaks."""
        return tunnel.properties.protocol in ("quic", "http") and bool(tunnel.properties.publish)

    # -- the handshakes of a tunnel --------------------------------------------------------------------------------

    def offer(self, hello: ClientHello, configured: Sequence[str]) -> Offer:
        """What the legs of a tunnel negotiate (RFC 9001 section 8.1, RFC 7301 section 3.2):

        | list  | offer              | client gets         | upstream is offered | |
        | ----- | ------------------ | ------------------- | ------------------- | -------- |
        | any   | none               | alert 120           | nothing             | QUIC-006 |
        | set   | with a match       | first of the list   | that one alone      | QUIC-004 |
        | set   | without a match    | alert 120           | nothing             | QUIC-007 |
        | none  | one name           | that one            | that one alone      | QUIC-005 |
        | none  | several            | the upstream's pick | all, in their order | QUIC-005, QUIC-008 |
        """
        if TLS13 not in hello.versions:
            # Asked here too, since an upstream may be asked before the handshake goes on (RFC 9001 section 4.2).
            return Offer(alert=PROTOCOL_VERSION, reason="no TLS 1.3")
        if hello.alpn_malformed:
            return Offer(alert=DECODE_ERROR, reason="malformed ALPN extension")
        if not hello.alpns:
            return Offer(alert=NO_APPLICATION_PROTOCOL, reason="no application protocol offered")
        # Names outside ASCII are left out as if they had not been offered: the library below has no way to say them.
        names = tuple(name for name in hello.alpns if name.isascii())
        if configured:
            names = tuple(name for name in configured if name in names)[:1]
        if not names:
            return Offer(alert=NO_APPLICATION_PROTOCOL, reason="no protocol in common")
        if len(names) == 1 or not self.holds():
            return Offer(names[0], self.upstream_alpns(names[0], names))
        return Offer(None, self.upstream_alpns(None, names))

    def http_offer(self, hello: ClientHello, *, available: bool) -> Offer:
        """What becomes of the ALPN offer of a client of an HTTP tunnel: h3, or no connection (RFC9114-3.1-2,
        HTTP-VER-008). `available`: whether the edition has HTTP/3 (HTTP-VER-012)."""
        if TLS13 not in hello.versions:
            return Offer(alert=PROTOCOL_VERSION, reason="no TLS 1.3")
        if hello.alpn_malformed:
            return Offer(alert=DECODE_ERROR, reason="malformed ALPN extension")
        if HTTP3_ALPN not in hello.alpns or not available:
            return Offer(alert=NO_APPLICATION_PROTOCOL, reason="no protocol in common")
        return Offer(HTTP3_ALPN)

    def upstream_alpns(self, chosen: str | None, offered: Sequence[str]) -> tuple[str, ...]:
        """What the upstream is offered: the protocol that the client got, alone; else all that it offered."""
        return (chosen,) if chosen is not None else tuple(offered)

    def holds(self) -> bool:
        """Whether a client that offers several protocols waits for the upstream's choice."""
        return True

    def early_data(self) -> bool:
        """Whether a client's 0-RTT is accepted: it could be replayed, and the upstream would not know (QUIC-022)."""
        return False

    def waits_for_client(self) -> bool:
        """Whether the upstream hears of a client only after its handshake, and so after its address and whatever else
        it has to prove (QUIC-018, RFC 9000 section 21.6); not where the client itself waits for the upstream."""
        return True

    def upstream_name(self, hostname: str) -> str:
        """The SNI of the upstream connection: the tunnel's own name, as on TLS tunnels (TLS-007)."""
        return hostname

    def told_source(self, peer: Address | None) -> Address | None:
        """The client's address, told to the agent with the channel."""
        return peer

    # -- what goes from one leg to the other -----------------------------------------------------------------------

    async def pass_data(self, sink: QuicStream, data: bytes) -> None:
        """Octets, in order. Waiting here is what keeps the other leg from sending more (RFC 9000 section 4)."""
        await sink.write(data)

    async def pass_end(self, sink: QuicStream) -> None:
        """A FIN is a FIN, of this direction alone (QUIC-013)."""
        await sink.end()

    def pass_reset(self, sink: QuicStream, code: int) -> None:
        """RESET_STREAM with the same code, in the same direction (QUIC-013, RFC 9000 section 3.5)."""
        sink.reset(code)

    def pass_stop(self, source: QuicStream, code: int) -> None:
        """STOP_SENDING with the same code, against the direction (QUIC-013, RFC 9000 section 3.5)."""
        source.stop(code)

    def pass_datagram(self, sink: QuicTransport, data: bytes) -> None:
        """A DATAGRAM, whole or not at all (QUIC-012, RFC 9221 section 5)."""
        sink.send_datagram(data)

    def unidirectional(self, stream: QuicStream) -> bool:
        """The kind of the stream that carries on another: the same (QUIC-011, RFC 9000 section 2.1)."""
        return stream.unidirectional

    def close_for(self, end: QuicEnd) -> Close:
        """What the other leg is told when one is over (QUIC-014, RFC 9000 sections 10.1, 10.2): an application's close
        with its code and reason; what happened to the transport is each leg's own."""
        if end.by == "peer" and end.application:
            return Close(end.code, end.reason, application=True)
        if end.by in ("idle", "self") or end.code == NO_ERROR:
            return Close(NO_ERROR, "the other side is gone")
        return Close(INTERNAL_ERROR, "the other side failed")

    def refusal_for(self, end: QuicEnd) -> Close:
        """What the client is told when the upstream's handshake fails: no protocol in common as such (QUIC-008)."""
        if end.code == CRYPTO_ERROR + NO_APPLICATION_PROTOCOL and not end.application:
            return Close(end.code, "the upstream speaks none of the protocols")
        return Close(CONNECTION_REFUSED, "no connection to the upstream")

    async def pass_absence(self, client: QuicTransport, close: Close) -> None:
        """There is no upstream that could answer: the client's connection ends (QUIC-008, RFC 7301 section 3.2)."""
        if client.end is None:
            client.close(close.code, close.reason, application=close.application)
            client.flush()

    def ends_other(self, end: QuicEnd) -> bool:
        """Whether the end of one leg is that of the other, whatever it was (RFC 9000 sections 10.1, 10.2)."""
        del end
        return True

    def lets_finish(self, end: QuicEnd) -> bool:
        """Whether what has come before a close is still handed on, for a moment, before the close is: a peer may close
        right behind its last octets, and directly they would have arrived."""
        return end.by == "peer"

    def keeps_alive(self) -> bool:
        """Whether packets on one leg keep the other leg from its idle timeout (RFC 9000 section 10.1.2): an application
        that pings does so for the whole way."""
        return True
