"""A small reader of pcapng and of the packets inside, for tests: it shares nothing with the writer."""

from __future__ import annotations

import ipaddress
from typing import Any

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
KINDS = {0x0A0D0D0A: "section", 1: "interface", 10: "secrets", 6: "packet"}


class Segment:
    """One TCP segment in its IP packet."""

    def __init__(self, packet: bytes, options: list[tuple[int, bytes]] | None = None, at: int = 0) -> None:
        self.packet = packet
        self.at = at
        self.options = options or []
        self.v6 = packet[0] >> 4 == 6
        start = 40 if self.v6 else 20
        assert (packet[6] if self.v6 else packet[9]) == 6
        length = int.from_bytes(packet[4:6] if self.v6 else packet[2:4], "big") + (40 if self.v6 else 0)
        assert length == len(packet)
        self._addresses = packet[8:40] if self.v6 else packet[12:20]
        half = len(self._addresses) // 2
        self.tcp = packet[start:]
        self.source = (ipaddress.ip_address(self._addresses[:half]), int.from_bytes(self.tcp[0:2], "big"))
        self.target = (ipaddress.ip_address(self._addresses[half:]), int.from_bytes(self.tcp[2:4], "big"))
        self.sequence = int.from_bytes(self.tcp[4:8], "big")
        self.acknowledged = int.from_bytes(self.tcp[8:12], "big")
        self.flags = self.tcp[13]
        self.payload = self.tcp[(self.tcp[12] >> 4) * 4 :]
        self.relative: tuple[int, int | None] = (0, None)

    @property
    def comments(self) -> list[str]:
        return [value.decode() for code, value in self.options if code == 1]

    @property
    def outbound(self) -> bool:
        return dict(self.options)[2][0] & 3 == 2

    @property
    def checksums_right(self) -> bool:
        pseudo = self._addresses + len(self.tcp).to_bytes(4, "big") + (6).to_bytes(4, "big")
        return _sum(pseudo + self.tcp) == 0xFFFF and (self.v6 or _sum(self.packet[:20]) == 0xFFFF)


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
        self.segments: list[Segment] = []
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
        assert not self.segments, "secrets come before the packets that need them"
        assert int.from_bytes(body[:4], "little") == 0x544C534B
        size = int.from_bytes(body[4:8], "little")
        assert len(body) - 8 - size < 4
        self.secrets += body[8 : 8 + size].decode("ascii").splitlines()

    def _packet(self, body: bytes) -> None:
        number, high, low, size, original = (int.from_bytes(body[i : i + 4], "little") for i in range(0, 20, 4))
        assert size == original
        assert number < len(self.interfaces)
        end = 20 + size + -size % 4
        self.segments.append(Segment(body[20 : 20 + size], _options(body[end:]), high << 32 | low))


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
