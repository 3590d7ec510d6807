"""Framed packets: a 4-octet big-endian length, then one packet (agent protocol section 2.5a).

No I/O: octets are fed in, packets come out. What stands behind the handshake frames of a datagram stream is nothing
but these, in both directions.
"""

from __future__ import annotations

import struct

MAX_PACKET = 65_535
"""Most octets of one packet; a longer one is never announced, and ends the stream where it is."""

_LENGTH = struct.Struct("!I")


class PacketError(Exception):
    """The octets are no packets: a length above MAX_PACKET. The stream cannot go on."""


def frame(packet: bytes) -> bytes:
    """One packet, 0 to MAX_PACKET octets, with its length in front. Raises PacketError."""
    if len(packet) > MAX_PACKET:
        raise PacketError(f"a packet of {len(packet)} octets does not fit a frame")
    return _LENGTH.pack(len(packet)) + packet


class PacketReader:
    """Cuts a byte stream into packets. Ask `next` until it says None before feeding more: that bounds the buffer."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole packet, which may be empty, or None while it is incomplete. Raises PacketError."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_PACKET:
            raise PacketError(f"a packet of {length} octets is announced")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        packet = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return packet

    @property
    def inside(self) -> bool:
        """Whether a packet has begun and is not whole."""
        return bool(self._buffer)
