"""Packets that belong to nobody, that come twice, too early or forged, and what an unproven address may cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from conformance.quic._steps import (
    datagrams_settled,
    echo,
    joined,
    listed,
    nothing_reached,
    numbered,
    parse,
    passes,
)
from conformance.quic._strangers import (
    EARLY,
    FULL,
    HANDSHAKE,
    INITIAL,
    SHORT,
    a_stranger,
    filling,
    first_flight,
    kinds_of,
    long_header,
    total,
    without,
)
from harness.errors import EngineDeparted, PeerMismatch
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.packets import PacketPeer
from harness.peer.quic import QuicPeer
from harness.scene import Scene
from harness.wire.quic import Level, PacketKind, QuicClient
from harness.wire.quic.forge import flipped
from harness.wire.quic.frames import Ack, Crypto, Datagram, Frame, Stream
from harness.wire.quic.numbers import ErrorCode

LIMIT = 3
"""How many times what came may go out to an address that is not validated (RFC 9000 section 8.1)."""
OTHER_ADDRESS = "127.0.0.2"
ROUNDS = 3
"""Seconds that pass at the engine while a client keeps still: several probe timeouts, also of one that begins with a
second (RFC 9002 section 6.2.2)."""
HALF_OPEN, IDLE = 60, 30
UPLOAD = 256 * 1024
FORGED = 50
COPIES = 3


# Packets of no connection


@case(
    "quic-garbage-01",
    checks=["RFC9000-5.2.2-3", "RFC9000-10.3-1"],
    publish=quic(),
    over={"kind": ("handshake", "early", "short-43", "short-1200", "short-21")},
)
async def test_packets_of_no_connection_are_dropped(scene: Scene) -> None:
    """A packet that matches no connection and is no valid Initial has no effect.

    A Handshake packet, a 0-RTT packet, or a packet with a short header, all with random octets, is sent three times to
    the UDP port. Behind B1 there is no answer but a Stateless Reset, which is smaller than what it answers, and the
    upstream has seen nothing.
    """
    kind, _, size = scene.variant["kind"].partition("-")
    stranger = await a_stranger(scene)
    octets = filling(scene, FULL)
    if kind == "short":
        trigger = bytes((SHORT | octets[0] & 0x3F,)) + octets[1 : int(size)]
    else:
        first = HANDSHAKE if kind == "handshake" else EARLY
        trigger = long_header(first | octets[0] & 0x0F, octets[1:9], octets[9:17], octets[64:])
    for _ in range(COPIES):
        await stranger.send(trigger)
    await scene.settle()
    answers = stranger.arrived()
    larger = [len(answer) for answer in answers if len(answer) >= len(trigger)]
    if larger:
        expected = f"no answer, or one that is smaller than the {len(trigger)} octets that it answers"
        if max(larger) >= LIMIT * len(trigger):
            scene.depart("RFC9000-10.3-1", expected=expected, actual=f"answers of {larger} octets")
        else:
            scene.depart("RFC9000-10.3-1", expected=f"{expected}, since loops are not known", actual=f"{larger} octets")
    else:
        scene.allow("RFC9000-10.3-1", "reset smaller" if answers else "no reset")
    other = [answer for answer in answers if answer[:1] and (answer[0] & 0xC0 != SHORT or len(answer) < 21)]
    if other:
        kinds = ", ".join(f"{[each.name.lower() for each in kinds_of(each_one)]}" for each_one in other)
        scene.depart("RFC9000-5.2.2-3", expected="silence, or a Stateless Reset", actual=f"packets: {kinds}")
    scene.allow("RFC9000-5.2.2-3", "Stateless Reset" if answers else "silence")
    await scene.untouched("RFC9000-5.2.2-3")


# What an address that proves nothing may cost


async def _kept_still(scene: Scene, stranger: PacketPeer, datagrams: Sequence[bytes]) -> list[bytes]:
    """What comes back for `datagrams` to a client that says nothing more, while seconds pass at the engine."""
    for datagram in datagrams:
        await stranger.send(datagram)
    await passes(scene, rounds=ROUNDS)
    return stranger.arrived()


@case(
    "quic-amplification-01",
    checks=["RFC9000-8.1-1", "RFC9001-9.3-1"],
    publish=listed(),
    needs=["private-engine"],
    slow=True,
)
async def test_an_unproven_address_gets_three_times_what_it_sent(scene: Scene) -> None:
    """Before its address is validated a client gets three times what it sent at most, over all repetitions.

    One Initial of 1200 octets with a whole ClientHello comes from an address that then keeps still; one of 1199 comes
    from another. While three seconds pass by the engine's own clock (clock connections, see `passes`) not more than
    3600 octets come back to the first, and no handshake to the second.
    """
    _, padded = first_flight(scene)
    short, unpadded = first_flight(scene, datagram_size=FULL - 1)
    other = await a_stranger(scene)
    await other.send(unpadded[0])
    back = await _kept_still(scene, await a_stranger(scene), padded)
    sent, got = total(padded), total(back)
    limit = f"at most {LIMIT * sent} octets back for the {sent} that were sent"
    actual = f"{got} octets in {len(back)} datagrams"
    scene.expect("RFC9000-8.1-1", got <= LIMIT * sent, expected=limit, actual=actual)
    scene.expect("RFC9001-9.3-1", got <= LIMIT * sent, expected=limit, actual=actual)
    answers = other.arrived()
    handshake = _read(short, answers, Crypto)
    scene.expect(
        "RFC9001-9.3-1",
        not handshake,
        expected=f"no handshake for an Initial of {len(unpadded[0])} octets",
        actual=f"{total(answers)} octets back, CRYPTO in {len(handshake)} frames",
    )


def _read(wire: QuicClient, answers: Sequence[bytes], kind: type[Frame]) -> list[Frame]:
    """The frames of `kind` that a client reads in these datagrams."""
    for answer in answers:
        wire.receive(answer, 1.0)
    return [seen.frame for seen in wire.frames if isinstance(seen.frame, kind)]


@case(
    "quic-token-01",
    checks=["RFC9000-8.1.4-1"],
    publish=listed(),
    over={"token": ("forged", "foreign", "moved")},
    slow=True,
)
async def test_a_token_that_proves_nothing_lifts_no_limit(scene: Scene) -> None:
    """A token that is forged, damaged, or of another address does not lift the limit of three times.

    The first Initial carries 64 random octets as its token (forged), a token that the engine has given, one bit of it
    changed (foreign), or such a token from 127.0.0.2 (moved); where the engine gives none, random octets stand for it.
    The client then keeps still for three seconds of the engine's clock.
    """
    kind = scene.variant["token"]
    token = filling(scene, 64)
    if kind != "forged":
        client, _ = await joined(scene)
        given = client.tokens[-1] if client.tokens else b""
        if given:
            token = flipped(given, -1) if kind == "foreign" else given
        else:
            scene.transcript.note("recorded", "no NEW_TOKEN: random octets stand for a token of the engine")
    wire, flight = first_flight(scene, token=token)
    stranger = await a_stranger(scene, local=OTHER_ADDRESS if kind == "moved" else None)
    back = await _kept_still(scene, stranger, flight)
    sent, got = total(flight), total(back)
    if got > LIMIT * sent:
        scene.depart(
            "RFC9000-8.1.4-1",
            expected=f"at most {LIMIT * sent} octets back for the {sent} that were sent",
            actual=f"{got} octets in {len(back)} datagrams",
        )
    elif any(PacketKind.RETRY in kinds_of(answer) for answer in back):
        scene.allow("RFC9000-8.1.4-1", "Retry sent")
    else:
        _read(wire, back, Crypto)
        refused = not back or (wire.end is not None and wire.end.code == ErrorCode.INVALID_TOKEN)
        scene.allow("RFC9000-8.1.4-1", "no answer or CONNECTION_CLOSE" if refused else "3x limit kept")


# Packets that come twice


@dataclass
class Repeating:
    """Sends each datagram of a short header three times while it is `on`, and keeps it."""

    on: bool = False
    kept: list[bytes] = field(default_factory=list)

    def __call__(self, index: int, datagram: bytes) -> bytes | Sequence[bytes]:
        """See `QuicOptions.tamper_datagram`."""
        if not self.on or datagram[0] & 0x80:
            return datagram
        self.kept.append(datagram)
        return [datagram] * COPIES


@case(
    "quic-duplicate-01",
    checks=["RFC9000-12.3-1"],
    publish=quic(),
    over={"direction": ("up", "down"), "kind": ("stream", "datagram")},
    features=lambda variant: ["quic.datagrams"] if variant["kind"] == "datagram" else [],
)
async def test_packets_that_come_again_are_dropped(scene: Scene) -> None:
    """What packets carry that arrive three times, and again later, comes out at the other side once.

    Each 1-RTT packet of the sender goes out three times while it sends five streams, or five datagrams. Each stream has
    its octets and one end at the other side, each datagram is there once at most. Then all those packets are sent
    again: behind B3 and B2 nothing more is there.
    """
    down = scene.variant["direction"] == "down"
    repeating = Repeating()
    options = {"tamper_datagram": repeating}
    client, server = await joined(scene, **({"upstream": options} if down else options))
    sender, receiver = (server, client) if down else (client, server)
    if scene.variant["kind"] == "stream":
        await _streams_once(scene, sender, receiver, repeating, (client, server))
    else:
        await _datagrams_once(scene, sender, repeating, (client, server))


async def _streams_once(
    scene: Scene, sender: QuicPeer, receiver: QuicPeer, repeating: Repeating, pair: tuple[QuicPeer, QuicPeer]
) -> None:
    row = "RFC9000-12.3-1"
    contents = {scene.nonce(): filling(scene, 5000) for _ in range(5)}
    repeating.on = True
    for token, content in contents.items():
        await (await sender.open_stream()).send(token + content, fin=True)
    taken = []
    with scene.judging(row, ends=True):
        for token, content in contents.items():
            stream = await receiver.accept_stream_with(token)
            got, end = await stream.receive_until_end()
            if got != token + content or end.kind != "fin":
                raise PeerMismatch(f"{16 + len(content)} octets and FIN, once", f"{len(got)} other octets, then {end}")
            taken.append(stream)
    repeating.on = False
    await echo(scene, *pair, row)
    _again(sender, repeating)
    await echo(scene, *pair, row)
    more = [f"{stream.waiting} octets on stream {stream.id}" for stream in taken if stream.waiting]
    more += [f"stream {stream.id}" for stream in receiver.waiting_streams()]
    scene.expect(row, not more, expected="nothing more of packets that came again", actual=", ".join(more) or "nothing")


async def _datagrams_once(
    scene: Scene, sender: QuicPeer, repeating: Repeating, pair: tuple[QuicPeer, QuicPeer]
) -> None:
    row, token, down = "RFC9000-12.3-1", scene.nonce(), sender is pair[1]
    repeating.on = True
    for serial in range(5):
        await sender.send_datagram(numbered(serial, 100, token))
    arrived = await datagrams_settled(scene, *pair, row, to_client=down)
    repeating.on = False
    _again(sender, repeating)
    arrived += await datagrams_settled(scene, *pair, row, to_client=down)
    serials = [parse(data, token) for data in arrived]
    twice = sorted({serial for serial in serials if serial is not None and serials.count(serial) > 1})
    scene.expect(row, not twice, expected="each datagram once at most", actual=f"{twice} of {serials} more than once")


def _again(sender: QuicPeer, repeating: Repeating) -> None:
    for datagram in repeating.kept:
        sender.send_packet(datagram)


# Packets of others


@case(
    "quic-forged-01",
    checks=["RFC9001-5.5-1"],
    publish=quic(),
    over={"from": ("own-path", "other-port")},
)
async def test_packets_that_nobody_could_protect_do_no_harm(scene: Scene) -> None:
    """Forged packets with the connection's own id change nothing, wherever they come from.

    During an upload of 256 KiB fifty packets come with the connection id that the engine has given: short headers,
    Handshake and Initial packets of random octets, and a packet of ours with one bit changed. The upload arrives whole,
    the upstream's answer comes back, both directions go on (B2), the upstream has one connection, and the engine sends
    nothing to the port that they came from but a stateless reset that it has announced.
    """
    row = "RFC9001-5.5-1"
    seen = Repeating()
    client, server = await joined(scene, tamper_datagram=seen)
    token = scene.nonce()
    content = token + filling(scene, UPLOAD)
    stranger = await a_stranger(scene)
    seen.on = True
    upload = await client.open_stream()
    step = len(content) // FORGED + 1
    with scene.judging(row, ends=True):
        for number in range(FORGED):
            await upload.send(content[number * step : (number + 1) * step], fin=number == FORGED - 1)
            forged = _forged(scene, client.wire.remote_id, seen.kept[-1], number)
            if scene.variant["from"] == "own-path":
                client.send_packet(forged)
            else:
                await stranger.send(forged)
            if number % 10 == 9:
                await client.ping()
        there = await server.accept_stream_with(token)
        got, end = await there.receive_until_end()
        if got != content or end.kind != "fin":
            raise PeerMismatch(f"{len(content)} octets and FIN", f"{len(got)} octets, equal: {got == content}, {end}")
        await there.send(token[::-1], fin=True)
        back, _ = await upload.receive_until_end()
        if back != token[::-1]:
            raise PeerMismatch("the upstream's answer", back.hex())
    await echo(scene, client, server, row)
    await nothing_reached(scene, row)
    known = {each.reset_token for each in client.wire.remote_ids.values()}
    misled = [len(packet) for packet in stranger.arrived() if packet[-16:] not in known]
    scene.expect(
        row, not misled, expected="nothing to the port of somebody else", actual=f"packets of {misled[:8]} octets"
    )


def _forged(scene: Scene, destination: bytes, genuine: bytes, number: int) -> bytes:
    """One packet with a connection's id that no key of it has protected."""
    octets = filling(scene, FULL)
    match number % 4:
        case 0:
            return bytes((SHORT | octets[0] & 0x3F,)) + destination + octets[1 : 21 + 20 * number]
        case 1:
            return long_header(HANDSHAKE | octets[0] & 0x0F, destination, octets[:8], octets[:200])
        case 2:
            return long_header(INITIAL | octets[0] & 0x0F, destination, octets[:8], octets[: FULL - 27], b"")
        case _:
            return flipped(genuine, -1 - number)


# Packets that come too early


@dataclass
class Holding:
    """Lets no Handshake packet out while it is `on`."""

    on: bool = True

    def __call__(self, index: int, datagram: bytes) -> bytes | None:
        """See `QuicOptions.tamper_datagram`."""
        return without(datagram, PacketKind.HANDSHAKE) if self.on else datagram


@case("quic-early-1rtt-01", checks=["RFC9001-5.7-1"], publish={"main": listed(), "other": listed()})
async def test_application_data_before_the_finished_waits(scene: Scene) -> None:
    """Application data before the client's Finished is neither acknowledged nor handed on.

    The client keeps its Finished back, and sends a nonce on stream 0 in 1-RTT packets three times, and in a DATAGRAM
    frame where the engine takes them. Behind B1, on another tunnel of the same port, no ACK has come in 1-RTT, and
    nothing of it is at the upstream. Once the Finished is let out the handshake completes and the connection works
    (B2): what was sent early may be there then, or may not.
    """
    row = "RFC9001-5.7-1"
    holding = Holding()
    client = await scene.quic_client(handshake=False, tamper_datagram=holding)
    await client.handshake()
    token, side = scene.nonce(), scene.quic_upstream()
    early: list[Frame] = [Stream(0, data=token)]
    if client.remote_parameters is not None and client.remote_parameters.max_datagram_frame_size:
        early.append(Datagram(token))
    for _ in range(COPIES):
        client.say(early, level=Level.APPLICATION)
    await scene.settle("other")
    server = await side.accept() if side.opened else None
    carried = [stream.id for stream in server.waiting_streams()] if server else []
    carried += [-1 for _ in server.arrived_datagrams()] if server else []
    scene.expect(row, not carried, expected="nothing at the upstream yet", actual=f"streams {carried} (-1: a datagram)")
    acked = [seen.frame for seen in client.frames if seen.level == Level.APPLICATION and isinstance(seen.frame, Ack)]
    scene.expect(row, not acked, expected="no ACK in 1-RTT before the Finished", actual=", ".join(map(str, acked)))
    holding.on = False
    with scene.judging(row, ends=True):
        await client.confirmed()
        server = server or await side.accept()
        await client.open_stream()  # Stream 0 is the early one.
    await echo(scene, client, server, row)


# Many who never finish


@case("quic-flood-01", checks=["RFC9000-21.6-1"], publish=listed(), needs=["private-engine"], slow=True)
async def test_a_crowd_that_never_finishes_leaves_room_for_others(scene: Scene) -> None:
    """Sixty half-done handshakes and thirty idle connections of one address do not shut others out.

    Sixty Initials with ids of their own come from one port and are never followed up; thirty connections are completed
    and left idle. Then two clients from 127.0.0.2 are served one after the other, and those who never finished have not
    been brought to the upstream. How many of the thirty were taken is recorded.
    """
    row = "RFC9000-21.6-1"
    stranger = await a_stranger(scene)
    for _ in range(HALF_OPEN):
        _, flight = first_flight(scene)
        for datagram in flight:
            await stranger.send(datagram)
    idle = 0
    try:
        for _ in range(IDLE):
            await scene.quic_pair()
            idle += 1
    except (EngineDeparted, LinkReset) as refusal:
        scene.transcript.note("recorded", f"connection {idle + 1} of this address is not served: {refusal}")
    with scene.judging(row, ends=True):
        for _ in range(2):
            link = await scene.udp(local=OTHER_ADDRESS)
            client, server = await scene.quic_pair(link=link)
            await echo(scene, client, server)
    strays = await scene.strays()
    scene.transcript.note("recorded", f"{idle} of {IDLE} idle connections; {len(strays)} others at the upstream")
    if len(strays) >= HALF_OPEN:
        told = f"{len(strays)} connections, the first: {strays[0].describe()}"
        scene.depart(row, expected="nobody at the upstream who never finished", actual=told)
    scene.allow(row, "no visible limit" if idle == IDLE else "limits per address")
