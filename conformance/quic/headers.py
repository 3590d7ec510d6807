"""Headers, sizes and keys of packets: what an edge must pass over, and what it must answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from conformance.quic._steps import echo, ends, joined, listed
from conformance.quic._strangers import (
    FULL,
    HANDSHAKE,
    INITIAL,
    SHORT,
    a_stranger,
    filling,
    first_flight,
    kinds_of,
    long_header,
    resealed,
)
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicPeer
from harness.scene import Scene
from harness.wire.quic import VERSION_1, Level, PacketKind, forge
from harness.wire.quic.codec import DecodeError
from harness.wire.quic.crypto import PacketKeys
from harness.wire.quic.frames import ConnectionClose, Ping
from harness.wire.quic.numbers import ErrorCode
from harness.wire.quic.packet import Header, Outgoing, parse_header

UNKNOWN_VERSION = 0x1A2A3A4A
COPIES = 3
SMALL = 100
LONG_ID = 40
TOO_LONG_ID = 21
TINY = 20
FORGED_NUMBER = 1000
CLOSE = ConnectionClose(ErrorCode.PROTOCOL_VIOLATION, 0, b"forged")


def _of_version(version: int, destination: bytes, source: bytes, size: int) -> bytes:
    head = bytes((INITIAL,)) + version.to_bytes(4, "big")
    head += bytes((len(destination),)) + destination + bytes((len(source),)) + source
    return head + bytes(size - len(head))


async def _answers(scene: Scene, *datagrams: bytes) -> list[bytes]:
    """What comes back for `datagrams`, each sent three times, behind B1."""
    sender = await a_stranger(scene)
    for datagram in datagrams:
        for _ in range(COPIES):
            await sender.send(datagram)
    await scene.settle()
    return sender.arrived()


def _headers(answers: Sequence[bytes], id_length: int) -> list[list[Header]]:
    """The headers of each datagram; none of one that does not parse."""
    found = []
    for answer in answers:
        try:
            found.append([parse_header(answer, 0, id_length)])
        except DecodeError:
            found.append([])
    return found


# Versions


@case("quic-version-01", checks=["RFC9000-5.2.2-1"], publish=listed(), over={"size": ("1200", "100")})
async def test_an_unknown_version_is_negotiated_where_it_could_start(scene: Scene) -> None:
    """A version that the edge does not know gets Version Negotiation in a large datagram, and nothing in a small one.

    Version 0x1a2a3a4a in 1200 octets: what comes back lists version 1. In 100 octets: nothing comes back (B1).
    """
    row, size = "RFC9000-5.2.2-1", int(scene.variant["size"])
    destination, source = scene.nonce()[:8], scene.nonce()[:8]
    answers = await _answers(scene, _of_version(UNKNOWN_VERSION, destination, source, size))
    if size < FULL:
        told = f"{len(answers)} datagrams"
        scene.expect(row, not answers, expected="nothing", actual=told, branch="100 bytes: nothing")
    elif not answers:
        scene.allow(row, "1200 bytes: nothing")
    else:
        listed_versions = [header.versions for found in _headers(answers, 8) for header in found]
        good = all(VERSION_1 in versions for versions in listed_versions) and len(listed_versions) == len(answers)
        told = f"versions {[[hex(version) for version in versions] for versions in listed_versions]}"
        expected = "Version Negotiation that lists version 1"
        scene.expect(row, good, expected=expected, actual=told, branch="1200 bytes: Version Negotiation")


@case("quic-version-02", checks=["RFC9000-17.2.1-1"], publish=listed())
async def test_version_negotiation_gives_long_ids_back(scene: Scene) -> None:
    """Version Negotiation gives both connection ids back, crossed over, also those that version 1 does not know.

    Version 0x1a2a3a4a with ids of 40 octets: what comes back has both, swapped, and is alone in its datagram.
    """
    row = "RFC9000-17.2.1-1"
    destination, source = filling(scene, LONG_ID), filling(scene, LONG_ID)
    answers = await _answers(scene, _of_version(UNKNOWN_VERSION, destination, source, FULL))
    for found in _headers(answers, 8):
        good = bool(found) and found[0].kind == PacketKind.NEGOTIATION
        good = good and (found[0].destination, found[0].source) == (source, destination)
        told = (
            f"{found[0].kind.name.lower()}, ids {found[0].destination.hex()}, {found[0].source.hex()}" if found else ""
        )
        expected = f"Version Negotiation with the ids {source.hex()} and {destination.hex()}, alone"
        scene.expect(row, good, expected=expected, actual=told or "no packet", branch="Version Negotiation")
    if not answers:
        scene.allow(row, "no answer")


@case("quic-version-03", checks=["RFC9000-6.1-1"], publish=listed())
async def test_version_negotiation_of_a_client_gets_no_answer(scene: Scene) -> None:
    """A Version Negotiation packet to the edge gets nothing back, whatever its size, and starts nothing (B1)."""
    row = "RFC9000-6.1-1"
    short = _of_version(0, scene.nonce()[:8], scene.nonce()[:8], SMALL)
    answers = await _answers(scene, short[:23] + VERSION_1.to_bytes(4, "big"), short, short + bytes(FULL - SMALL))
    scene.expect(row, not answers, expected="nothing back", actual=f"{len(answers)} datagrams")
    await scene.untouched(row)


# Headers and sizes


@case(
    "quic-header-01", checks=["RFC9000-17.2-1"], publish=listed(), over={"fault": ("long-id", "fixed-bit", "reserved")}
)
async def test_a_malformed_header(scene: Scene) -> None:
    """A long header with an id of 21 octets or without the fixed bit is dropped; reserved bits end the connection.

    The first two are otherwise good Initials with a whole ClientHello: nothing comes back but a close, and nothing
    reaches the upstream. The reserved bits are those of 1-RTT packets, under their protection.
    """
    row, fault = "RFC9000-17.2-1", scene.variant["fault"]
    if fault == "reserved":
        client, _ = await joined(scene)
        client.wire.options = dataclasses.replace(client.wire.options, reserved_bits=3)
        named, first = ErrorCode.PROTOCOL_VIOLATION, "CONNECTION_CLOSE PROTOCOL_VIOLATION"
        await ends(scene, row, client, Ping(), named=named, first=first)
        return
    if fault == "long-id":
        wire, flight = first_flight(scene, destination=filling(scene, TOO_LONG_ID))
    else:
        wire, flight = first_flight(scene)
        flight = [resealed(flight[0], fixed=False)]
    answers = await _answers(scene, flight[0])
    for answer in answers:
        wire.receive(answer, 1.0)
    if not answers:
        scene.allow(row, "malformed long header: silence")
    elif wire.end is not None and wire.end.kind == "transport":
        scene.allow(row, "any other")
    else:
        told = ", ".join(kind.name.lower() for answer in answers for kind in kinds_of(answer))
        scene.depart(row, expected="silence", actual=f"packets: {told}")
    await scene.untouched(row)


@case("quic-initial-01", checks=["RFC9000-14.1-1"], publish=listed())
async def test_an_initial_in_a_small_datagram_is_discarded(scene: Scene) -> None:
    """An Initial with a whole ClientHello in a datagram of 1199 octets is discarded.

    Nothing comes back but a close with PROTOCOL_VIOLATION, and nothing reaches the upstream (B1).
    """
    row = "RFC9000-14.1-1"
    wire, flight = first_flight(scene, datagram_size=FULL - 1)
    answers = await _answers(scene, flight[0])
    for answer in answers:
        wire.receive(answer, 1.0)
    closed = wire.end is not None and wire.end.code == ErrorCode.PROTOCOL_VIOLATION and wire.end.kind == "transport"
    told = f"{len(answers)} datagrams, {wire.end or 'no close'}"
    expected = "no answer, or a close with protocol_violation"
    scene.expect(row, not answers or closed, expected=expected, actual=told)
    await scene.untouched(row)


class Coalescing:
    """Puts a packet beside each Handshake packet of ours, in the same datagram."""

    def __init__(self, scene: Scene, *, in_front: bool) -> None:
        self._scene = scene
        self._in_front = in_front

    def __call__(self, index: int, datagram: bytes) -> bytes:
        """See `QuicOptions.tamper_datagram`."""
        header = parse_header(datagram, 0, 8)
        if PacketKind.HANDSHAKE not in kinds_of(datagram):
            return datagram
        octets = filling(self._scene, FULL)
        if self._in_front:
            return long_header(INITIAL | 1, header.destination, header.source, octets, b"") + datagram
        return _cut(datagram) + long_header(HANDSHAKE | 1, octets[:8], header.source, octets[:200])


def _cut(datagram: bytes) -> bytes:
    """The datagram up to the first packet with a short header, behind which nothing can stand."""
    at = 0
    while at < len(datagram):
        header = parse_header(datagram, at, 8)
        if header.kind == PacketKind.SHORT:
            return datagram[:at]
        at = header.end
    return datagram


@case("quic-coalesced-01", checks=["RFC9000-12.2-1"], publish=listed(), over={"beside": ("damaged", "other-id")})
async def test_each_packet_of_a_datagram_counts_for_itself(scene: Scene) -> None:
    """A packet that cannot be read does not take those away that share its datagram.

    Each Handshake packet of the client stands behind an Initial of random octets with an intact length (damaged), or in
    front of a Handshake packet with another connection id (other-id): the handshake is confirmed, and the tunnel works
    (B2).
    """
    row = "RFC9000-12.2-1"
    coalescing = Coalescing(scene, in_front=scene.variant["beside"] == "damaged")
    client = await scene.quic_client(handshake=False, tamper_datagram=coalescing)
    with scene.judging(row, ends=True):
        await client.handshake()
        await client.confirmed()
        server = await scene.quic_upstream().accept()
    await echo(scene, client, server, row)
    scene.expect(row, client.done is not None, expected="a handshake", actual="none")


# Keys


@case("quic-old-keys-01", checks=["RFC9001-4.9.1-1"], publish=listed())
async def test_a_forged_initial_ends_no_connection(scene: Scene) -> None:
    """Once Handshake packets were exchanged, an Initial has no effect: everybody knows its keys.

    Three Initials with CONNECTION_CLOSE, protected as the client's would be, come on the path of a connection that is
    confirmed: it goes on (B2), and no Initial comes back.
    """
    row = "RFC9001-4.9.1-1"
    client, server = await joined(scene)
    await client.confirmed()
    seen = len(client.wire.packets)
    for number in range(COPIES):
        client.send_packet(
            forge.initial(
                [CLOSE],
                destination=client.wire.remote_id,
                source=client.wire.source_id,
                keyed_by=client.wire.original_destination,
                number=FORGED_NUMBER + number,
            )
        )
    await _goes_on(scene, row, client, server, seen, PacketKind.INITIAL)


@case("quic-old-keys-02", checks=["RFC9001-4.9.2-1"], publish=listed())
async def test_a_late_handshake_packet_has_no_effect(scene: Scene) -> None:
    """Once the handshake is confirmed, a Handshake packet has no effect.

    Three Handshake packets with CONNECTION_CLOSE, protected with the client's own keys of the handshake, come behind
    HANDSHAKE_DONE: the connection goes on (B2), and no Handshake packet comes back.
    """
    row = "RFC9001-4.9.2-1"
    kept: list[PacketKeys] = []

    def keep(index: int, datagram: bytes) -> bytes:
        kept.extend(filter(None, [client.wire.write_keys.get(Level.HANDSHAKE)] if not kept else []))
        return datagram

    client = await scene.quic_client(handshake=False, tamper_datagram=keep)
    await client.handshake()
    server = await scene.quic_upstream().accept()
    await client.confirmed()
    await echo(scene, client, server)
    seen = len(client.wire.packets)
    for number in range(COPIES):
        outgoing = Outgoing(
            kind=PacketKind.HANDSHAKE,
            version=client.version,
            destination=client.wire.remote_id,
            source=client.wire.source_id,
            number=FORGED_NUMBER + number,
        )
        client.send_packet(outgoing.seal(kept[0], CLOSE.encode()))
    await _goes_on(scene, row, client, server, seen, PacketKind.HANDSHAKE)


async def _goes_on(scene: Scene, row: str, client: QuicPeer, server: QuicPeer, seen: int, kind: PacketKind) -> None:
    """The connection works, and no packet of `kind` has come behind the first `seen` ones."""
    await echo(scene, client, server, row)
    back = [info for way, info in list(client.wire.packets)[seen:] if way == "received" and info.kind == kind]
    name = kind.name.capitalize()
    scene.expect(row, not back, expected=f"no {name} packet any more", actual=f"{len(back)} of them")


@case("quic-short-sample-01", checks=["RFC9001-5.4.2-1"], publish=quic())
async def test_a_packet_too_short_to_sample_is_discarded(scene: Scene) -> None:
    """A packet that is too short for a sample of header protection is discarded.

    Ten packets of 20 octets with a short header and the id of a living connection: nothing comes back that is no
    stateless reset, and the connection goes on (B2).
    """
    row = "RFC9001-5.4.2-1"
    client, server = await joined(scene)
    for _ in range(10):
        octets = filling(scene, TINY)
        client.send_packet((bytes((SHORT | octets[0] & 0x3F,)) + client.wire.remote_id + octets)[:TINY])
    await echo(scene, client, server, row)
    scene.expect(row, client.ended is None, expected="a connection that goes on", actual=str(client.ended))
