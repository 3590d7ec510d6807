"""Packets: headers, header protection, Retry and Version Negotiation (RFC 9000 section 17, RFC 9001 section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.wire.quic.codec import DecodeError, QuicReader, varint, varint_vector
from harness.wire.quic.crypto import SAMPLE, TAG, PacketKeys, Undecryptable, retry_tag
from harness.wire.quic.numbers import MAX_CONNECTION_ID, VERSION_1, VERSION_2, VERSIONS, Level, PacketKind

_WIRE_TYPES = {
    VERSION_1: (PacketKind.INITIAL, PacketKind.EARLY, PacketKind.HANDSHAKE, PacketKind.RETRY),
    VERSION_2: (PacketKind.RETRY, PacketKind.INITIAL, PacketKind.EARLY, PacketKind.HANDSHAKE),
}
"""Kinds by the two type bits (RFC 9000 section 17.2, RFC 9369 section 3.2)."""
KIND_OF_LEVEL = {
    Level.INITIAL: PacketKind.INITIAL,
    Level.EARLY: PacketKind.EARLY,
    Level.HANDSHAKE: PacketKind.HANDSHAKE,
    Level.APPLICATION: PacketKind.SHORT,
}
LEVEL_OF_KIND = {kind: level for level, kind in KIND_OF_LEVEL.items()}


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one packet of a datagram, still protected: it begins at `start` and ends before `end`.

    `number_at` is where the packet number stands (0 without one). `versions` are those of a Version Negotiation packet;
    `token` is that of an Initial or of a Retry, `tag` the Retry's.
    """

    kind: PacketKind
    first: int
    start: int
    number_at: int
    end: int
    destination: bytes
    version: int = 0
    source: bytes = b""
    token: bytes = b""
    versions: tuple[int, ...] = ()
    tag: bytes = b""


def parse_header(datagram: bytes, start: int, id_length: int) -> Header:
    """The header at `start`; `id_length` is that of the receiver's connection ids. Raises `DecodeError`."""
    reader = QuicReader(datagram[start:] if start else datagram, "packet")
    first = reader.uint(1)
    if not first & 0x80:
        destination = reader.take(id_length)
        return Header(PacketKind.SHORT, first, start, start + 1 + id_length, len(datagram), destination)
    version = reader.uint(4)
    # Other versions may have longer ids (RFC 8999 section 5.1); only ours have a limit.
    destination, source = reader.vector(1), reader.vector(1)
    total = len(datagram)
    if version == 0:
        if reader.left % 4 or not reader.left:
            raise DecodeError("packet: malformed list of versions")
        versions = tuple(reader.uint(4) for _ in range(reader.left // 4))
        return Header(PacketKind.NEGOTIATION, first, start, 0, total, destination, 0, source, b"", versions)
    if version not in VERSIONS:
        return Header(PacketKind.UNKNOWN, first, start, 0, total, destination, version, source)
    if max(len(destination), len(source)) > MAX_CONNECTION_ID:
        raise DecodeError("packet: connection id of more than 20 octets")
    kind = _WIRE_TYPES[version][first >> 4 & 3]
    if kind == PacketKind.RETRY:
        rest = reader.rest()
        if len(rest) < TAG:
            raise DecodeError("packet: Retry without its tag")
        return Header(kind, first, start, 0, total, destination, version, source, rest[:-TAG], tag=rest[-TAG:])
    token = reader.varint_vector() if kind == PacketKind.INITIAL else b""
    length = reader.varint()
    if length > reader.left:
        raise DecodeError(f"packet: length {length}, {reader.left} octets left")
    number_at = total - reader.left
    return Header(kind, first, start, number_at, number_at + length, destination, version, source, token)


def first_of(datagram: bytes) -> tuple[int, bytes, bytes] | None:
    """Version, DCID and SCID of a long header in any version (RFC 8999 section 5.1), None for anything else."""
    reader = QuicReader(datagram, "packet")
    try:
        if not reader.uint(1) & 0x80:
            return None
        return reader.uint(4), reader.vector(1), reader.vector(1)
    except DecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Unmasked:
    """A packet without header protection: `first` octet, whole `header`, and the truncated number of `length`."""

    first: int
    header: bytes
    truncated: int
    length: int

    def number(self, expected: int) -> int:
        """The whole packet number where `expected` is the next one (RFC 9000 appendix A.3)."""
        window = 1 << (8 * self.length)
        candidate = (expected & ~(window - 1)) | self.truncated
        if candidate <= expected - window // 2 and candidate < (1 << 62) - window:
            return candidate + window
        if candidate > expected + window // 2 and candidate >= window:
            return candidate - window
        return candidate


def unmask(keys: PacketKeys, datagram: bytes, header: Header) -> Unmasked:
    """Remove header protection (RFC 9001 section 5.4). Raises `Undecryptable` where the packet is too short."""
    at = header.number_at
    sample = datagram[at + 4 : at + 4 + SAMPLE]
    if len(sample) < SAMPLE or at + 4 + SAMPLE > header.end:
        raise Undecryptable("packet too short to sample")
    mask = keys.mask(sample)
    first = header.first ^ mask[0] & (0x0F if header.first & 0x80 else 0x1F)
    length = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(datagram[at : at + length], mask[1:], strict=False))
    clear = bytes((first,)) + datagram[header.start + 1 : at] + number
    return Unmasked(first, clear, int.from_bytes(number, "big"), length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """All that stands in the header of a packet of ours; legal by default.

    `number_length` 1 to 4; `reserved` the two bits that must be zero, `fixed` the one that must be set.
    """

    kind: PacketKind
    version: int
    destination: bytes
    source: bytes = b""
    token: bytes = b""
    number: int
    number_length: int = 2
    phase: bool = False
    spin: bool = False
    reserved: int = 0
    fixed: bool = True

    def header(self, payload_length: int) -> bytes:
        """The octets before the protected payload of that length (tag excluded)."""
        fixed = 0x40 if self.fixed else 0
        low = self.number_length - 1
        number = (self.number & (1 << 8 * self.number_length) - 1).to_bytes(self.number_length, "big")
        if self.kind == PacketKind.SHORT:
            first = fixed | (0x20 if self.spin else 0) | self.reserved << 3 | (0x04 if self.phase else 0) | low
            return bytes((first,)) + self.destination + number
        first = (
            0x80
            | fixed
            | _WIRE_TYPES.get(self.version, _WIRE_TYPES[VERSION_1]).index(self.kind) << 4
            | self.reserved << 2
            | low
        )
        head = bytes((first,)) + _long(self.version, self.destination, self.source)
        if self.kind == PacketKind.INITIAL:
            head += varint_vector(self.token)
        return head + varint(self.number_length + payload_length + TAG, 2) + number

    def overhead(self) -> int:
        """Octets beside the payload."""
        return len(self.header(0)) + TAG

    def seal(self, keys: PacketKeys, payload: bytes) -> bytes:
        """The protected packet; a payload too short to sample gets PADDING (RFC 9001 section 5.4.2)."""
        payload += bytes(max(0, 4 - self.number_length - len(payload)))
        header = self.header(len(payload))
        sealed = keys.seal(header, self.number, payload)
        at = 4 - self.number_length
        mask = keys.mask(sealed[at : at + SAMPLE])
        first = header[0] ^ mask[0] & (0x1F if self.kind == PacketKind.SHORT else 0x0F)
        cut = len(header) - self.number_length
        number = bytes(a ^ b for a, b in zip(header[cut:], mask[1:], strict=False))
        return bytes((first,)) + header[1:cut] + number + sealed


def _long(version: int, destination: bytes, source: bytes) -> bytes:
    ids = bytes((len(destination),)) + destination + bytes((len(source),)) + source
    return version.to_bytes(4, "big") + ids


def build_retry(version: int, destination: bytes, source: bytes, token: bytes, original: bytes) -> bytes:
    """A Retry packet; `original` is the DCID of the Initial that it answers (RFC 9000 section 17.2.5)."""
    first = 0xC0 | _WIRE_TYPES[version].index(PacketKind.RETRY) << 4
    packet = bytes((first,)) + _long(version, destination, source) + token
    return packet + retry_tag(version, original, packet)


def retry_is_genuine(datagram: bytes, header: Header, original: bytes) -> bool:
    """Whether the integrity tag of a received Retry is right."""
    return retry_tag(header.version, original, datagram[header.start : header.end - TAG]) == header.tag


def build_negotiation(destination: bytes, source: bytes, versions: Sequence[int], first: int = 0xC0) -> bytes:
    """A Version Negotiation packet (RFC 9000 section 17.2.1)."""
    listed = b"".join(version.to_bytes(4, "big") for version in versions)
    return bytes((first | 0x80,)) + _long(0, destination, source) + listed
