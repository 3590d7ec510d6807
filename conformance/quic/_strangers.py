"""Steps of cases about packets as such: senders without a connection, headers, and what a datagram is made of."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from harness.evidence.transcript import DOWNSTREAM
from harness.peer.packets import PacketPeer
from harness.scene import Scene
from harness.wire.quic import VERSION_1, ClientOptions, PacketKind, QuicClient
from harness.wire.quic.codec import DecodeError, varint, varint_vector
from harness.wire.quic.crypto import initial_keys
from harness.wire.quic.packet import Outgoing, parse_header, unmask

INITIAL, EARLY, HANDSHAKE = 0xC0, 0xD0, 0xE0
"""First octets of long headers of version 1, before header protection (RFC 9000 section 17.2)."""
SHORT = 0x40
FULL = 1200
"""Octets of a datagram that may start a connection (RFC 9000 section 14.1)."""
ID_LENGTH = 8
"""Octets of the connection ids of our clients."""


def filling(scene: Scene, size: int) -> bytes:
    """Octets of no meaning, repeatable from the seed of the case."""
    return random.Random(scene.nonce()).randbytes(size)


def long_header(first: int, destination: bytes, source: bytes, payload: bytes, token: bytes | None = None) -> bytes:
    """A long header of version 1 in front of octets that no key has protected."""
    ids = bytes((len(destination),)) + destination + bytes((len(source),)) + source
    middle = b"" if token is None else varint_vector(token)
    return bytes((first,)) + VERSION_1.to_bytes(4, "big") + ids + middle + varint(len(payload), 2) + payload


async def a_stranger(scene: Scene, name: str = "main", *, local: str | None = None) -> PacketPeer:
    """A UDP flow to the endpoint, without any QUIC behind it. Nothing repeats what is lost of it, and order between
    such flows matters, so no relay of the run is between."""
    link = await scene.udp(name, local=local, direct=True)
    return PacketPeer(link, scene.transcript.channel(DOWNSTREAM, "client", f"stranger-{link.local[1]}"))


def first_flight(scene: Scene, **options: object) -> tuple[QuicClient, list[bytes]]:
    """A client without a link, and its first datagrams."""
    chosen = {"server_name": scene.endpoint().host, "alpn": scene.usual_alpn(), **options}
    wire = QuicClient(ClientOptions.of(**chosen))
    return wire, wire.outgoing(0.0)


def resealed(datagram: bytes, **changed: Any) -> bytes:
    """The first Initial of a client again, with another header (fields of `Outgoing`), protected as it should be."""
    header = parse_header(datagram, 0, 0)
    keys, _ = initial_keys(VERSION_1, header.destination)
    clear = unmask(keys, datagram, header)
    payload = keys.open(clear.header, clear.truncated, datagram[header.number_at + clear.length : header.end])
    outgoing = Outgoing(
        kind=PacketKind.INITIAL,
        version=VERSION_1,
        destination=header.destination,
        source=header.source,
        number=clear.truncated,
    )
    return dataclasses.replace(outgoing, **changed).seal(keys, payload)


def kinds_of(datagram: bytes) -> list[PacketKind]:
    """What a datagram of the engine is made of, as far as headers tell."""
    at = 0
    found: list[PacketKind] = []
    while at < len(datagram):
        try:
            header = parse_header(datagram, at, ID_LENGTH)
        except DecodeError:
            return found
        found.append(header.kind)
        at = header.end
    return found


def without(datagram: bytes, kind: PacketKind) -> bytes | None:
    """The datagram without its packets of `kind`, None where nothing is left."""
    at, kept = 0, b""
    while at < len(datagram):
        header = parse_header(datagram, at, ID_LENGTH)
        if header.kind != kind:
            kept += datagram[at : header.end]
        at = header.end
    return kept or None


def total(datagrams: Sequence[bytes]) -> int:
    """Octets of all of them."""
    return sum(map(len, datagrams))
