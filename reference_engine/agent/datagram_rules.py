"""The decisions about datagrams of the agent link, each a method: how a packet is carried, and who may have a channel.

A packet is carried *framed* on a stream, or *direct*, in a DATAGRAM frame of the QUIC connection that the control
channel (or the dialler's stream) runs on. Sections are those of the agent protocol. Nothing here keeps state or does
I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from reference_engine.agent.packets import MAX_PACKET, PacketReader, frame
from reference_engine.tunnel.model import TunnelProperties
from reference_engine.tunnel.refusal import INVALID_STREAM, Refusal

ID_OCTETS = 12
"""Octets of a channel id, which stand in front of each packet of a DATAGRAM frame (section 2.5b)."""
ID = re.compile(rf"[0-9A-Fa-f]{{{2 * ID_OCTETS}}}[0-9A-Fa-f]*")
MOST_PACKETS = 256
"""Packets of one channel that wait for whoever reads it; the reference client keeps 64."""

C = TypeVar("C")


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

    # -- direct, in DATAGRAM frames (2.5b) -------------------------------------------------------------------------

    def channel_id(self, stream_id: str) -> bytes | None:
        """The id of a stream's channel: the first 12 octets that its hex digits stand for. Hyphens do not count, nor
        does space around it. None where there are not enough digits, or anything else among them."""
        text = stream_id.strip().replace("-", "")
        return bytes.fromhex(text[: 2 * ID_OCTETS]) if ID.fullmatch(text) else None

    def payload(self, identity: bytes, packet: bytes, room: int) -> bytes | None:
        """A packet as a DATAGRAM frame carries it; None where it does not fit in `room` octets. It is dropped then:
        never cut, and never put into two."""
        return identity + packet if ID_OCTETS + len(packet) <= room else None

    def split(self, payload: bytes) -> tuple[bytes, bytes] | None:
        """Channel id and packet of a DATAGRAM frame; None for one that is too short to have an id (AGENT-100)."""
        return (payload[:ID_OCTETS], payload[ID_OCTETS:]) if len(payload) >= ID_OCTETS else None

    def meant(self, identity: bytes, channels: Mapping[bytes, C]) -> C | None:
        """The channel of a packet; None for an unknown id, whose packet is ignored (AGENT-100)."""
        return channels.get(identity)

    def keeps(self, packets: int, octets: int, buffer: int) -> bool:
        """Whether a packet is kept behind so many that wait already; it is dropped where it is not."""
        return packets < MOST_PACKETS and octets < buffer

    # -- flows (4.6) -----------------------------------------------------------------------------------------------

    def direct(self, properties: TunnelProperties) -> bool:
        """Whether a flow goes in DATAGRAM frames where the link has them: not where delivery is guaranteed
        (TRANS-007)."""
        return not properties.datagram_guaranteed_delivery

    def waits_for_answer(self) -> bool:
        """A direct flow begins with the agent's ProxyConnRsp: what came before would be lost (section 2.5b)."""
        return True

    def diallers_id(self, agents: str | None, new: Callable[[], str]) -> str:
        """The stream id that a dialler is told: its own, since both legs may be on one connection, where an id may
        stand for one channel only (section 2.5b). `agents` is that of the agent leg, where it has one."""
        del agents
        return new()

    def tells_agent(self, *, by_agent: bool, tunnel_open: bool) -> bool:
        """Whether the end of a direct flow is told to the agent, by DatagramChannelClose: not to one that has said so
        itself, and not where the tunnel has ended as a whole (AGENT-101)."""
        return tunnel_open and not by_agent

    def tells_dialler(self, *, by_dialler: bool) -> bool:
        """Whether it is told to the dialler, on the stream that it dialled with."""
        return not by_dialler

    def confirms(self, *, own: bool) -> bool:
        """Only the channel on which a flow was offered may confirm it, .."""
        return own

    def may_close(self, *, own: bool) -> bool:
        """.. and only that one may end it."""
        return own

    # -- dialling (4.6) --------------------------------------------------------------------------------------------

    def dialled(self, properties: TunnelProperties, *, channel: bool, direct: bool, silent: bool) -> Refusal | None:
        """Whether a StreamReq fits the kind of the tunnel that it means.

        `channel` says that it asks for DATAGRAM frames (`datagram_channel`), `direct` that its link has them, `silent`
        that it wants no answer (`zero_rtt`). Whoever is refused a channel asks again for framed packets, so it is
        refused wherever a packet could get lost that must not be.
        """
        datagrams = properties.type == "datagram"
        if channel and not datagrams:
            return Refusal(INVALID_STREAM, "datagram_channel", "datagram_channel: the tunnel is a byte stream")
        if channel and not direct:
            return Refusal(INVALID_STREAM, "datagram_channel", "datagram_channel: not on this link")
        if channel and not self.direct(properties):
            return Refusal(INVALID_STREAM, "datagram_channel", "datagram_channel: the tunnel guarantees delivery")
        if channel and silent:
            return Refusal(INVALID_STREAM, "zero_rtt", "zero_rtt: the answer has the id of the datagram channel")
        if datagrams and properties.publish and properties.upstream_tls:
            # Its packets are those of a connection that the edge makes: a dialler's would be none of them.
            return Refusal(INVALID_STREAM, "tunnel_id_name", "the tunnel is reached at its public endpoint only")
        return None
