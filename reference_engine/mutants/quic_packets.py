"""Mutants of the UDP port: what is answered, and who is let in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from aioquic.quic.packet import QuicPacketType, encode_quic_version_negotiation

from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.configuration import VERSIONS
from reference_engine.quic.connection import SMALLEST_DATAGRAM, read_header
from reference_engine.quic.rules import LONG_HEADER

Answer = Callable[[bytes], bytes]
FEW = 50
VERSION_1_ID = 20
"""Octets of the longest connection id of version 1."""


@mutant("quic-orphans-answered", ("RFC9000-5.2.2-3",), "answers 0-RTT and Handshake packets of no connection")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Answer, datagram: bytes) -> bytes:
        if datagram[0] & LONG_HEADER:
            header = read_header(datagram)
            if header.packet_type in (QuicPacketType.ZERO_RTT, QuicPacketType.HANDSHAKE):
                reached()
                return encode_quic_version_negotiation(header.destination_cid, header.source_cid, list(VERSIONS))
        return original(datagram)

    swap(parts.quic, "answer_to_stray", broken)


@mutant("quic-reset-larger", ("RFC9000-10.3-1",), "answers with stateless resets that are larger than their triggers")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Answer, datagram: bytes) -> bytes:
        if datagram[0] & LONG_HEADER:
            return original(datagram)
        reached()
        return b"\x40" + secrets.token_bytes(len(datagram))

    swap(parts.quic, "answer_to_stray", broken)


Negotiates = Callable[[int, Sequence[int], int], bool]


@mutant("quic-vn-for-small", ("RFC9000-5.2.2-1",), "negotiates the version of datagrams of any size")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Negotiates, version: int, known: Sequence[int], size: int) -> bool:
        wanted = original(version, known, max(size, SMALLEST_DATAGRAM))
        if wanted and size < SMALLEST_DATAGRAM:
            reached()
        return wanted

    swap(parts.quic, "negotiates_version", broken)


@mutant("quic-vn-answered", ("RFC9000-6.1-1",), "answers Version Negotiation with Version Negotiation")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Negotiates, version: int, known: Sequence[int], size: int) -> bool:
        if version == 0:
            reached()
            return True
        return original(version, known, size)

    swap(parts.quic, "negotiates_version", broken)


@mutant("quic-vn-ids-cut", ("RFC9000-17.2.1-1",), f"gives {VERSION_1_ID} octets of a connection id back")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., bytes], destination: bytes, source: bytes, versions: Sequence[int]) -> bytes:
        if max(len(destination), len(source)) > VERSION_1_ID:
            reached()
        return original(destination[:VERSION_1_ID], source[:VERSION_1_ID], versions)

    swap(parts.quic, "negotiation", broken)


@mutant("quic-half-open-blocks", ("RFC9000-21.6-1",), f"takes nobody in beside {FEW} unfinished handshakes")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[int, int], bool], count: int, most: int) -> bool:
        if count >= FEW:
            reached()
            return False
        return original(count, most)

    swap(parts.quic, "has_room", broken)
