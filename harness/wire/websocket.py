"""WebSocket frames as octets, and the handshake's key: legal by default, every bit can be set (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_for(key: str) -> str:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()).decode()


def masked(payload: bytes, mask: bytes) -> bytes:
    """`payload` under the four octets of `mask` (section 5.3)."""
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    length: int | None = None,
    length_octets: int | None = None,
) -> bytes:
    """One frame. `mask` is what a client must give; `rsv` the three bits as a number (4 is RSV1). `length` lies about
    the payload, `length_octets` (1, 3, 9) chooses a longer form of the length than it needs."""
    size = len(payload) if length is None else length
    form = length_octets or (1 if size < 126 else 3 if size < 1 << 16 else 9)
    first = (0x80 if fin else 0) | (rsv & 7) << 4 | opcode & 0xF
    marked = 0x80 if mask is not None else 0
    if form == 1:
        head = bytes([first, marked | size])
    else:
        head = bytes([first, marked | (126 if form == 3 else 127)]) + size.to_bytes(form - 1, "big")
    return head + (mask + masked(payload, mask) if mask is not None else payload)


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame (section 5.5.1)."""
    return code.to_bytes(2, "big") + reason.encode()
