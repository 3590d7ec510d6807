"""Makes IP packets of what a socket took and gave: the TCP and UDP of a capture that was never on a network card.

Octets, order, addresses, ports and ends are real. Header fields that user space never sees are made up so that a
dissector follows the stream: the handshake, sequence numbers, windows; whatever was received before counts as
acknowledged. Of a refused UDP flow the ICMP message is made up, too: the kernel tells no more than that it came.
"""

from __future__ import annotations

import ipaddress
import itertools
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import Enum

from harness.link.tap import Address

SEGMENT = 32768
"""Octets of one TCP segment; a packet of 64 KiB has room for that and all headers."""
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_ICMP, _TCP, _UDP, _ICMP6, _TTL = 1, 6, 17, 58, 64
_WINDOW = 0xFFFF
_WORD = 0xFFFF_FFFF
_OPTIONS = struct.pack("!BBHBBBB", 2, 4, SEGMENT, 3, 3, 14, 0)
"""Of a SYN: maximum segment size (RFC 9293 section 3.7.1), window scale 14 (RFC 7323 section 2.2), end of options."""
LONGEST = 65507
"""Octets of the longest datagram in a packet (IPv4); one that came on another way and is longer is cut."""
_QUOTED, _QUOTED_6 = 20 + 8, 1280 - 40 - 8
"""Octets of the refused packet in an ICMP message (RFC 792; RFC 4443 section 3.1: up to the minimum MTU)."""


class Step(Enum):
    """What happened on a connection."""

    DATA = "data"
    END = "FIN"
    RESET = "RST"


class _Side:
    """One end: its address, and the next sequence number that it sends."""

    def __init__(self, address: Address, sequence: int = 0) -> None:
        self.ip = ipaddress.ip_address(address[0].partition("%")[0] or "0.0.0.0")
        self.port = address[1]
        self.next = sequence


class Packets(ABC):
    """The packets of one connection or flow."""

    def __init__(self, local: _Side, remote: _Side) -> None:
        self._local = local
        self._remote = remote
        self._numbers = itertools.count(1)

    def opened(self, *, dialed: bool) -> Iterator[tuple[bool, bytes]]:
        """What opens it, if anything does: pairs of whether we sent it, and the packet."""
        return iter(())

    @abstractmethod
    def step(self, ours: bool, step: Step, data: bytes = b"") -> Iterator[bytes]:
        """The packets of one step, sent by us (`ours`) or by the other side."""

    def _sender(self, ours: bool) -> _Side:
        return self._local if ours else self._remote

    def _ip(self, ours: bool, protocol: int, segment: bytes) -> bytes:
        source, target = self._sender(ours), self._sender(not ours)
        addresses = source.ip.packed + target.ip.packed
        if source.ip.version == 6:
            return struct.pack("!IHBB", 6 << 28, len(segment), protocol, _TTL) + addresses + segment
        number = next(self._numbers) & 0xFFFF
        head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), number, 0x4000, _TTL, protocol)
        return head + struct.pack("!H", checksum(head + bytes(2) + addresses)) + addresses + segment

    def _summed(self, ours: bool, protocol: int, segment: bytes, at: int) -> bytes:
        """The IP packet of `segment` with the checksum that covers the addresses, too, put in at octet `at`."""
        source, target = self._sender(ours), self._sender(not ours)
        pseudo = source.ip.packed + target.ip.packed + struct.pack("!IHH", len(segment), 0, protocol)
        value = checksum(pseudo + segment)
        if protocol == _UDP:
            value = value or 0xFFFF  # the same number, since 0 says that there is none (RFC 768)
        return self._ip(ours, protocol, _with(segment, at, value))


class Conversation(Packets):
    """One TCP connection. `serial` makes its first sequence number: no two of a capture are alike."""

    def __init__(self, local: Address, remote: Address, serial: int) -> None:
        first = (serial << 20) & _WORD
        super().__init__(_Side(local, first), _Side(remote, first + (1 << 19)))

    def opened(self, *, dialed: bool) -> Iterator[tuple[bool, bytes]]:
        """The handshake."""
        yield dialed, self._packet(dialed, _SYN, options=_OPTIONS)
        self._sender(dialed).next += 1
        yield not dialed, self._packet(not dialed, _SYN | _ACK, options=_OPTIONS)
        self._sender(not dialed).next += 1
        yield dialed, self._packet(dialed, _ACK)

    def step(self, ours: bool, step: Step, data: bytes = b"") -> Iterator[bytes]:
        """See `Packets`."""
        sender = self._sender(ours)
        for at in range(0, len(data), SEGMENT):
            piece = data[at : at + SEGMENT]
            yield self._packet(ours, _ACK | _PSH, piece)
            sender.next += len(piece)
        if step is Step.END:
            yield self._packet(ours, _FIN | _ACK)
            sender.next += 1
        elif step is Step.RESET:
            yield self._packet(ours, _RST | _ACK)

    def _packet(self, ours: bool, flags: int, payload: bytes = b"", options: bytes = b"") -> bytes:
        source, target = self._sender(ours), self._sender(not ours)
        acknowledged = target.next & _WORD if flags & _ACK else 0
        offset = (5 + len(options) // 4) << 4
        ports = struct.pack("!HH", source.port, target.port)
        head = struct.pack("!IIBBHI", source.next & _WORD, acknowledged, offset, flags, _WINDOW, 0)
        return self._summed(ours, _TCP, ports + head + options + payload, at=16)


class Flow(Packets):
    """One UDP flow, or datagrams that are drawn as one: each step with data is a packet."""

    def __init__(self, local: Address, remote: Address) -> None:
        super().__init__(_Side(local), _Side(remote))
        self._last = {True: b"", False: b""}

    def step(self, ours: bool, step: Step, data: bytes = b"") -> Iterator[bytes]:
        """See `Packets`; a reset is an ICMP message about the last packet that its receiver had sent."""
        if step is Step.DATA:
            source, target = self._sender(ours), self._sender(not ours)
            data = data[:LONGEST]
            head = struct.pack("!HHHH", source.port, target.port, 8 + len(data), 0)
            self._last[ours] = self._summed(ours, _UDP, head + data, at=6)
            yield self._last[ours]
        elif step is Step.RESET:
            yield self._unreachable(ours, self._last[not ours])

    def _unreachable(self, ours: bool, about: bytes) -> bytes:
        """Port unreachable (RFC 792; RFC 4443 section 3.1), with as much of `about` as such a message has."""
        if self._sender(ours).ip.version == 6:
            return self._summed(ours, _ICMP6, struct.pack("!BBHI", 1, 4, 0, 0) + about[:_QUOTED_6], at=2)
        message = struct.pack("!BBHI", 3, 3, 0, 0) + about[:_QUOTED]
        return self._ip(ours, _ICMP, _with(message, 2, checksum(message)))


def _with(segment: bytes, at: int, value: int) -> bytes:
    """`segment` with the checksum `value` at octet `at`."""
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, which is not all zero: the ones' complement of the sum of its 16-bit
    words. That sum is the remainder of the whole number modulo 65535, where 0 stands for 65535."""
    total = int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF
    return ~(total or 0xFFFF) & 0xFFFF
