"""Makes IP packets of what a socket took and gave: the TCP of a capture that was never on a network card.

Octets, order, addresses, ports and ends are real. Header fields that user space never sees are made up so that a
dissector follows the stream: the handshake, sequence numbers, windows; whatever was received before counts as
acknowledged.
"""

from __future__ import annotations

import ipaddress
import itertools
import struct
from collections.abc import Iterator
from enum import Enum

from harness.link.tap import Address

SEGMENT = 32768
"""Octets of one segment; a packet of 64 KiB has room for that and all headers."""
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_TCP, _TTL = 6, 64
_WINDOW = 0xFFFF
_WORD = 0xFFFF_FFFF
_OPTIONS = struct.pack("!BBHBBBB", 2, 4, SEGMENT, 3, 3, 14, 0)
"""Of a SYN: maximum segment size (RFC 9293 section 3.7.1), window scale 14 (RFC 7323 section 2.2), end of options."""


class Step(Enum):
    """What happened on a connection."""

    DATA = "data"
    END = "FIN"
    RESET = "RST"


class _Side:
    """One end: its address, and the next sequence number that it sends."""

    def __init__(self, address: Address, sequence: int) -> None:
        self.ip = ipaddress.ip_address(address[0].partition("%")[0] or "0.0.0.0")
        self.port = address[1]
        self.next = sequence


class Conversation:
    """The packets of one TCP connection. `serial` makes its first sequence number: no two of a capture are alike."""

    def __init__(self, local: Address, remote: Address, serial: int) -> None:
        first = (serial << 20) & _WORD
        self._local = _Side(local, first)
        self._remote = _Side(remote, first + (1 << 19))
        self._numbers = itertools.count(1)

    def opened(self, *, dialed: bool) -> Iterator[tuple[bool, bytes]]:
        """The handshake: pairs of whether we sent it, and the packet."""
        yield dialed, self._packet(dialed, _SYN, options=_OPTIONS)
        self._sender(dialed).next += 1
        yield not dialed, self._packet(not dialed, _SYN | _ACK, options=_OPTIONS)
        self._sender(not dialed).next += 1
        yield dialed, self._packet(dialed, _ACK)

    def step(self, ours: bool, step: Step, data: bytes = b"") -> Iterator[bytes]:
        """The packets of one step, sent by us (`ours`) or by the other side."""
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

    def _sender(self, ours: bool) -> _Side:
        return self._local if ours else self._remote

    def _packet(self, ours: bool, flags: int, payload: bytes = b"", options: bytes = b"") -> bytes:
        source, target = self._sender(ours), self._sender(not ours)
        acknowledged = target.next & _WORD if flags & _ACK else 0
        offset = (5 + len(options) // 4) << 4
        ports = struct.pack("!HH", source.port, target.port)
        head = struct.pack("!IIBBH", source.next & _WORD, acknowledged, offset, flags, _WINDOW)
        length = 20 + len(options) + len(payload)
        pseudo = source.ip.packed + target.ip.packed + struct.pack("!IHH", length, 0, _TCP)
        value = checksum(pseudo + ports + head + bytes(4) + options + payload)
        segment = ports + head + struct.pack("!HH", value, 0) + options + payload
        return self._ip_header(source, target, len(segment)) + segment

    def _ip_header(self, source: _Side, target: _Side, length: int) -> bytes:
        addresses = source.ip.packed + target.ip.packed
        if source.ip.version == 6:
            return struct.pack("!IHBB", 6 << 28, length, _TCP, _TTL) + addresses
        head = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, next(self._numbers) & 0xFFFF, 0x4000, _TTL, _TCP)
        return head + struct.pack("!H", checksum(head + bytes(2) + addresses)) + addresses


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, which is not all zero: the ones' complement of the sum of its 16-bit
    words. That sum is the remainder of the whole number modulo 65535, where 0 stands for 65535."""
    total = int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF
    return ~(total or 0xFFFF) & 0xFFFF
