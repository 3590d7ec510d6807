"""Packets of somebody who is no party to a connection: forged Initials and stateless resets (RFC 9000 section 21)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.wire.quic.crypto import TAG, initial_keys
from harness.wire.quic.frames import Frame
from harness.wire.quic.numbers import MIN_INITIAL, VERSION_1, PacketKind
from harness.wire.quic.packet import Outgoing


def initial(
    frames: Sequence[Frame],
    *,
    destination: bytes,
    source: bytes = b"",
    keyed_by: bytes | None = None,
    from_client: bool = True,
    version: int = VERSION_1,
    token: bytes = b"",
    number: int = 0,
    size: int = MIN_INITIAL,
) -> bytes:
    """A datagram with one Initial of any frames, padded to `size` octets.

    `keyed_by` is the client's first destination connection id where `destination` is another: its keys are no secret.
    """
    client, server = initial_keys(version, destination if keyed_by is None else keyed_by)
    outgoing = Outgoing(
        kind=PacketKind.INITIAL,
        version=version,
        destination=destination,
        source=source,
        token=token,
        number=number,
    )
    payload = b"".join(frame.encode() for frame in frames)
    payload += bytes(max(0, size - len(outgoing.header(0)) - TAG - len(payload)))
    return outgoing.seal(client if from_client else server, payload)


def stateless_reset(token: bytes, random: Callable[[int], bytes], size: int = 43) -> bytes:
    """A stateless reset of `size` octets, at least 21 (RFC 9000 section 10.3)."""
    head = random(size - len(token))
    return bytes((0x40 | head[0] & 0x3F,)) + head[1:] + token


def flipped(datagram: bytes, bit: int) -> bytes:
    """A copy with one bit inverted; `bit` counts from the first octet's highest, negative from the end."""
    octets = bytearray(datagram)
    at = bit if bit >= 0 else len(octets) * 8 + bit
    octets[at // 8] ^= 0x80 >> at % 8
    return bytes(octets)
