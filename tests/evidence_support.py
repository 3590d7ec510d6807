"""A small reader of pcapng and of the packets inside, for tests: it shares nothing with the writer."""

from __future__ import annotations

import ipaddress
from typing import Any

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
KINDS = {0x0A0D0D0A: "section", 1: "interface", 10: "secrets", 6: "packet"}


class Packet:
    """One IP packet and what a capture says of it; `body` is what follows the IP header."""

    protocol = 0

    def __init__(self, packet: bytes, options: list[tuple[int, bytes]] | None = None, at: int = 0) -> None:
        self.packet = packet
        self.at = at
        self.options = options or []
        self.v6 = packet[0] >> 4 == 6
        assert protocol_of(packet) == self.protocol
        length = int.from_bytes(packet[4:6] if self.v6 else packet[2:4], "big") + (40 if self.v6 else 0)
        assert length == len(packet)
        self._addresses = packet[8:40] if self.v6 else packet[12:20]
        half = len(self._addresses) // 2
        self.ends = tuple(ipaddress.ip_address(part) for part in (self._addresses[:half], self._addresses[half:]))
        self.body = packet[40 if self.v6 else 20 :]
        self.source = (self.ends[0], int.from_bytes(self.body[0:2], "big"))
        self.target = (self.ends[1], int.from_bytes(self.body[2:4], "big"))

    @property
    def comments(self) -> list[str]:
        return [value.decode() for code, value in self.options if code == 1]

    @property
    def outbound(self) -> bool:
        return dict(self.options)[2][0] & 3 == 2

    @property
    def checksums_right(self) -> bool:
        pseudo = self._addresses + len(self.body).to_bytes(4, "big") + self.protocol.to_bytes(4, "big")
        return _sum(pseudo + self.body) == 0xFFFF and (self.v6 or _sum(self.packet[:20]) == 0xFFFF)


class Segment(Packet):
    """One TCP segment in its IP packet."""

    protocol = 6

    def __init__(self, packet: bytes, options: list[tuple[int, bytes]] | None = None, at: int = 0) -> None:
        super().__init__(packet, options, at)
        self.sequence = int.from_bytes(self.body[4:8], "big")
        self.acknowledged = int.from_bytes(self.body[8:12], "big")
        self.flags = self.body[13]
        self.payload = self.body[(self.body[12] >> 4) * 4 :]
        self.relative: tuple[int, int | None] = (0, None)


class Datagram(Packet):
    """One UDP datagram in its IP packet."""

    protocol = 17

    def __init__(self, packet: bytes, options: list[tuple[int, bytes]] | None = None, at: int = 0) -> None:
        super().__init__(packet, options, at)
        assert int.from_bytes(self.body[4:6], "big") == len(self.body)
        assert self.body[6:8] != bytes(2), "there is a checksum"
        self.payload = self.body[8:]


class Unreachable(Packet):
    """An ICMP message that a port is unreachable."""

    protocol = 1

    def __init__(self, packet: bytes, options: list[tuple[int, bytes]] | None = None, at: int = 0) -> None:
        super().__init__(packet, options, at)
        assert self.body[:2] == (b"\x01\x04" if self.v6 else b"\x03\x03")
        self.about = self.body[8:]

    @property
    def checksums_right(self) -> bool:
        return super().checksums_right if self.v6 else _sum(self.body) == 0xFFFF == _sum(self.packet[:20])


class Unreachable6(Unreachable):
    """The same in ICMPv6."""

    protocol = 58


PACKETS = {kind.protocol: kind for kind in (Segment, Datagram, Unreachable, Unreachable6)}


def protocol_of(packet: bytes) -> int:
    return packet[6] if packet[0] >> 4 == 6 else packet[9]


def _sum(data: bytes) -> int:
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Capture:
    """A pcapng, block by block; everything that is not as the specification says is an assertion."""

    def __init__(self, data: bytes) -> None:
        self.kinds: list[str] = []
        self.interfaces: list[str] = []
        self.secrets: list[str] = []
        self.packets: list[Packet] = []
        self.comment = self.application = ""
        first: dict[Any, int] = {}
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at + 4 : at + 8], "little")
            assert length % 4 == 0
            assert data[at + length - 4 : at + length] == data[at + 4 : at + 8]
            kind = KINDS[int.from_bytes(data[at : at + 4], "little")]
            self.kinds.append(kind)
            getattr(self, f"_{kind}")(data[at + 8 : at + length - 4])
            at += length
        self.segments = [packet for packet in self.packets if isinstance(packet, Segment)]
        self.datagrams = [packet for packet in self.packets if isinstance(packet, Datagram)]
        for segment in self.segments:
            if segment.flags & SYN:
                first[segment.source, segment.target] = segment.sequence
            offset = (segment.sequence - first[segment.source, segment.target]) & 0xFFFFFFFF
            base = first.get((segment.target, segment.source))
            answered = None if base is None or not segment.flags & ACK else (segment.acknowledged - base) & 0xFFFFFFFF
            segment.relative = (offset, answered)

    def _section(self, body: bytes) -> None:
        assert body[:8].hex() == "4d3c2b1a01000000"
        options = dict(_options(body[16:]))
        self.comment, self.application = options[1].decode(), options[4].decode()

    def _interface(self, body: bytes) -> None:
        assert int.from_bytes(body[:2], "little") == 101
        options = dict(_options(body[8:]))
        assert options[9] == b"\x09"
        self.interfaces.append(options[2].decode())

    def _secrets(self, body: bytes) -> None:
        assert not self.packets, "secrets come before the packets that need them"
        assert int.from_bytes(body[:4], "little") == 0x544C534B
        size = int.from_bytes(body[4:8], "little")
        assert len(body) - 8 - size < 4
        self.secrets += body[8 : 8 + size].decode("ascii").splitlines()

    def _packet(self, body: bytes) -> None:
        number, high, low, size, original = (int.from_bytes(body[i : i + 4], "little") for i in range(0, 20, 4))
        assert size == original
        assert number < len(self.interfaces)
        end = 20 + size + -size % 4
        packet = body[20 : 20 + size]
        made: Packet = PACKETS[protocol_of(packet)](packet, _options(body[end:]), high << 32 | low)
        self.packets.append(made)


def _options(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        code, length = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
        if code == 0:
            assert data == bytes(4)
            break
        found.append((code, data[4 : 4 + length]))
        data = data[4 + length + -length % 4 :]
    return found
