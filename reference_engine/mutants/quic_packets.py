"""Mutants of the UDP port: what is answered, and who is let in."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from aioquic.quic.packet import QuicPacketType, encode_quic_version_negotiation

from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import VERSIONS, read_header
from reference_engine.quic.rules import LONG_HEADER

Answer = Callable[[bytes], bytes]
FEW = 50


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


@mutant("quic-half-open-blocks", ("RFC9000-21.6-1",), f"takes nobody in beside {FEW} unfinished handshakes")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[int, int], bool], count: int, most: int) -> bool:
        if count >= FEW:
            reached()
            return False
        return original(count, most)

    swap(parts.quic, "has_room", broken)
