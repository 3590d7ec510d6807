"""The rules of QUIC: where a packet and where a connection goes, and what the legs of a tunnel tell each other.

Pure functions without state; `Parts.quic` holds the one object through which the engine reaches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from reference_engine.edge.client_hello import DECODE_ERROR, UNRECOGNIZED_NAME, ClientHello
from reference_engine.edge.rules import AGENT_ALPN, EdgeRules, NameKind, Names
from reference_engine.quic.connection import SMALLEST_DATAGRAM
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import Tunnel

LONG_HEADER = 0x80


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

    def may_start(self, cid: bytes, size: int) -> bool:
        """Whether an Initial may start a connection: padded, under an id of 8 octets or more (RFC 9000 sections 7.2,
        14.1)."""
        return size >= SMALLEST_DATAGRAM and len(cid) >= 8

    def wants_retry(self, unfinished: int, threshold: int) -> bool:
        """Whether a new client has to prove its address first: while many handshakes are unfinished (RFC 9000 section
        8.1.2)."""
        return unfinished >= threshold

    def has_room(self, count: int, most: int) -> bool:
        """Whether one more connection, or unfinished handshake, is taken (RFC 9000 section 21.6)."""
        return count < most

    def follows(self, packet_from: Address, known: Address) -> bool:
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
        | any other but zone names  | with rstrm/1    | agents                 | TRANS-001, EDGE-009  |
        | anything else             | any             | refused, alert 112     | EDGE-016             |
        """
        name = edge.normal_name(hello.server_name)
        tunnel = names.by_hostname(name) if name is not None else None
        if tunnel is not None:
            if tunnel.properties.protocol == "quic" and tunnel.properties.publish:
                return QuicRoute(tunnel=tunnel)
            return QuicRoute(reason="the tunnel of this name is not served over QUIC")
        if edge.kind(hello.server_name, domain) in (NameKind.ZONE, NameKind.MALFORMED):
            return QuicRoute(reason="no tunnel has this name")
        if hello.alpn_malformed:
            return QuicRoute(alert=DECODE_ERROR, reason="malformed ALPN extension")
        if AGENT_ALPN in hello.alpns:
            return QuicRoute(agents=True)
        return QuicRoute(reason="no tunnel has this name")
