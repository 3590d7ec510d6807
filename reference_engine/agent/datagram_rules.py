"""The decisions about datagrams of the agent link, each a method: how a packet is carried, and who may have a channel.

Sections are those of the agent protocol. Nothing here keeps state or does I/O.
"""

from __future__ import annotations

from reference_engine.agent.packets import MAX_PACKET, PacketReader, frame
from reference_engine.tunnel.model import TunnelProperties
from reference_engine.tunnel.refusal import INVALID_STREAM, Refusal


class DatagramRules:
    """One method per decision."""

    # -- framed on a byte stream (2.5a) ----------------------------------------------------------------------------

    def reader(self) -> PacketReader:
        """What cuts a stream into packets (AGENT-098)."""
        return PacketReader()

    def frame(self, packet: bytes) -> bytes:
        """A packet as it goes out on a stream (AGENT-098)."""
        return frame(packet)

    def longest(self) -> int:
        """The longest packet that a stream carries, in octets."""
        return MAX_PACKET

    # -- dialling (4.6) --------------------------------------------------------------------------------------------

    def dialled(self, properties: TunnelProperties, *, channel: bool, direct: bool) -> Refusal | None:
        """Whether a StreamReq fits the kind of the tunnel that it means.

        `channel` says that it asks for DATAGRAM frames (`datagram_channel`), `direct` that its link has them. Whoever
        is refused a channel asks again for framed packets, so it is refused wherever a packet could get lost that must
        not be (section 4.6).
        """
        datagrams = properties.type == "datagram"
        if channel and not datagrams:
            return Refusal(INVALID_STREAM, "datagram_channel", "datagram_channel: the tunnel is a byte stream")
        if channel and not direct:
            return Refusal(INVALID_STREAM, "datagram_channel", "datagram_channel: not on this link")
        if channel and properties.datagram_guaranteed_delivery:
            return Refusal(INVALID_STREAM, "datagram_channel", "datagram_channel: the tunnel guarantees delivery")
        if datagrams and properties.publish and properties.upstream_tls:
            # Its packets are those of a connection that the edge makes: a dialler's would be none of them.
            return Refusal(INVALID_STREAM, "tunnel_id_name", "the tunnel is reached at its public endpoint only")
        return None
