"""Writes pcapng (draft-ietf-opsawg-pcapng), without I/O: each method gives the octets of one block.

Own code, since no library fits: python-pcapng (last release 2022) knows no Decryption Secrets Block and has no types,
scapy writes none either and would be a large dependency for five blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

RAW_IP = 101
"""LINKTYPE_RAW: packets begin with their IPv4 or IPv6 header."""
TLS_KEY_LOG = 0x544C534B
"""Secrets in the NSS key log format (section 4.7)."""
INBOUND, OUTBOUND = 1, 2
"""Directions of `epb_flags`, as seen from the peers of the harness."""
COMMENT_LIMIT = 4096
"""Octets of one comment; an option has room for 65535."""

_SECTION, _INTERFACE, _SECRETS, _PACKET = 0x0A0D0D0A, 1, 10, 6
_END, _COMMENT = 0, 1
_SECTION_OS, _SECTION_APPLICATION = 3, 4
_INTERFACE_NAME, _INTERFACE_DESCRIPTION, _INTERFACE_RESOLUTION = 2, 3, 9
_PACKET_FLAGS = 2
_BYTE_ORDER = 0x1A2B3C4D
_UNKNOWN_LENGTH = 0xFFFF_FFFF_FFFF_FFFF
_NANOSECONDS = b"\x09"

Option = tuple[int, bytes]


def section(*, application: str, system: str, comment: str = "") -> bytes:
    """The Section Header Block: little-endian, of unknown length."""
    body = struct.pack("<IHHQ", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
    options = [*_comment(comment), (_SECTION_OS, _text(system)), (_SECTION_APPLICATION, _text(application))]
    return _block(_SECTION, body, options)


def interface(name: str, description: str) -> bytes:
    """An Interface Description Block for raw IP with time stamps in nanoseconds. Interfaces count from 0."""
    options = [
        (_INTERFACE_NAME, _text(name)),
        (_INTERFACE_DESCRIPTION, _text(description)),
        (_INTERFACE_RESOLUTION, _NANOSECONDS),
    ]
    return _block(_INTERFACE, struct.pack("<HHI", RAW_IP, 0, 0), options)


def tls_secrets(lines: Iterable[str]) -> bytes:
    """A Decryption Secrets Block; `lines` are those of a key log, without line ends."""
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    return _block(_SECRETS, struct.pack("<II", TLS_KEY_LOG, len(data)) + _padded(data), [])


def packet(number: int, at: int, data: bytes, *, direction: int = 0, comment: str = "") -> bytes:
    """An Enhanced Packet Block of interface `number`; `at` is in nanoseconds since 1970."""
    head = struct.pack("<IIIII", number, at >> 32, at & 0xFFFF_FFFF, len(data), len(data))
    options = _comment(comment)
    if direction:
        options.append((_PACKET_FLAGS, struct.pack("<I", direction)))
    return _block(_PACKET, head + _padded(data), options)


def _block(kind: int, body: bytes, options: list[Option]) -> bytes:
    if options:
        body += b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options)
        body += struct.pack("<HH", _END, 0)
    total = 12 + len(body)
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _text(text: str) -> bytes:
    """UTF-8 without NUL, cut between characters."""
    data = text.replace("\0", "\u2400").encode("utf-8", "backslashreplace")
    return data[:COMMENT_LIMIT].decode("utf-8", "ignore").encode("utf-8")


def _comment(text: str) -> list[Option]:
    return [(_COMMENT, _text(text))] if text else []
