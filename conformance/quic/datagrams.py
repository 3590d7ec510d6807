"""DATAGRAM frames through a QUIC tunnel (RFC 9221): whole or not at all, never kept, never more than was asked for.

A datagram may be lost anywhere, so that it arrives means once in several tries. What does arrive is held to every octet
of one that was sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from conformance.quic._steps import datagrams_settled, echo, joined, numbered, parse
from harness.errors import DeadlineExpired
from harness.link.datagram import DatagramLink
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicEnd, QuicPeer
from harness.scene import Scene
from harness.wire.quic import ErrorCode, Level, PacketKind
from harness.wire.quic.frames import Datagram
from harness.wire.quic.packet import Outgoing

NEEDED = ("quic.datagrams",)
SIZES = tuple(range(100, 1101, 100))
TRIES = 10
SMALL = 200
"""A max_datagram_frame_size, in octets of a whole frame (RFC 9221 section 3)."""
AROUND_SMALL = (50, 150, 190, 198, 199, 200, 300, 1000, 50)
FAR_NUMBER = 1_000
"""Packet number of a forged packet, which no packet of a handshake comes near."""
LEAST = 1_200
"""Octets of every path's packets (RFC 9000 section 14)."""
LOST, LONG = 5, 1_000
"""Datagrams that are lost on purpose, and their octets: each fills a packet, and all fit in the least window."""
WINDOW = 20
"""Datagrams that are sent between two round trips."""


def _ways(client: QuicPeer, server: QuicPeer, direction: str) -> tuple[QuicPeer, QuicPeer]:
    """Sender and receiver."""
    return (client, server) if direction == "up" else (server, client)


def _takes_none(peer: QuicPeer) -> bool:
    """Whether the engine announced on this leg that it takes no DATAGRAM frames."""
    parameters = peer.remote_parameters
    return parameters is None or not parameters.max_datagram_frame_size


def _strange(found: Sequence[bytes], sent: Mapping[int, bytes], token: bytes) -> list[str]:
    """What arrived and equals nothing that was sent."""
    return [
        f"{len(data)} octets beginning {data[:24].hex()}"
        for data in found
        if (serial := parse(data, token)) is None or sent.get(serial) != data
    ]


def _judge_whole(scene: Scene, found: Sequence[bytes], sent: Mapping[int, bytes], token: bytes, *rows: str) -> None:
    strange = _strange(found, sent, token)
    for row in rows:
        scene.expect(
            row,
            not strange,
            expected="each datagram that arrives to equal one that was sent",
            actual="; ".join(strange[:3]) or f"{len(found)} that do",
        )


@case(
    "quic-dgram-01",
    checks=["QUIC-012", "RFC9221-4-1"],
    publish=quic(),
    over={"direction": ("up", "down")},
    features=NEEDED,
)
async def test_both_forms_of_a_datagram_arrive_whole(scene: Scene) -> None:
    """Datagrams of 100 to 1100 octets arrive whole in either form, with a Length field and without, and empty ones too.

    Each of the sizes is sent in frames of type 0x31, then of type 0x30, until it has arrived once, in ten tries at the
    most; whatever arrives must equal one that was sent (B3). An empty datagram that never arrives is recorded.
    """
    client, server = await joined(scene)
    sender, receiver = _ways(client, server, scene.variant["direction"])
    if _takes_none(sender):
        scene.allow("QUIC-012", "no datagram support announced")
        scene.not_run("RFC9221-4-1", "the engine announces that it takes no DATAGRAM frames")
        return
    for implicit in (False, True):
        await _sizes_arrive(scene, client, server, sender, implicit=implicit)
    scene.allow("QUIC-012", "arrives whole")
    scene.allow("RFC9221-4-1", "arrives whole")
    for _ in range(TRIES):
        sender.say(Datagram(b""))
        if b"" in await datagrams_settled(scene, client, server, "QUIC-012", to_client=receiver is client):
            return
    scene.allow("RFC9221-4-1", "empty datagram not carried")


async def _sizes_arrive(scene: Scene, client: QuicPeer, server: QuicPeer, sender: QuicPeer, *, implicit: bool) -> None:
    token = scene.nonce()
    sent = {serial: numbered(serial, size, token) for serial, size in enumerate(SIZES)}
    missing = set(sent)
    for _ in range(TRIES):
        for serial in sorted(missing):
            sender.say(Datagram(sent[serial], implicit_length=implicit))
        found = await datagrams_settled(scene, client, server, "QUIC-012", "RFC9221-4-1", to_client=sender is server)
        _judge_whole(scene, found, sent, token, "QUIC-012", "RFC9221-4-1")
        missing -= {parse(data, token) for data in found}
        if not missing:
            return
    form = "without a Length field (0x30)" if implicit else "with a Length field (0x31)"
    for row in ("QUIC-012", "RFC9221-4-1"):
        sizes = [len(sent[serial]) for serial in sorted(missing)]
        scene.depart(row, expected=f"datagrams {form} to arrive once in {TRIES} tries", actual=f"never: {sizes} octets")


@case(
    "quic-dgram-02",
    checks=["RFC9221-3-1"],
    publish=quic(),
    over={"side": ("client", "upstream")},
    features=NEEDED,
)
async def test_who_takes_no_datagrams_gets_none(scene: Scene) -> None:
    """Where one side has not announced a max_datagram_frame_size, no DATAGRAM frame comes to it.

    The other side sends 20 datagrams, each with a round trip on the connection behind it (B2): they have passed the
    engine. The side that takes none sees no DATAGRAM frame, and the connection lives.
    """
    mute = scene.variant["side"]
    none = {"max_datagram_frame_size": 0, "answer_violations": False}
    client, server = await joined(scene, **(none if mute == "client" else {"upstream": none}))
    receiver, sender = (client, server) if mute == "client" else (server, client)
    receiver.strict = False
    if _takes_none(sender):
        scene.not_run("RFC9221-3-1", "the engine announces that it takes no DATAGRAM frames")
        return
    token = scene.nonce()
    for serial in range(WINDOW):
        await sender.send_datagram(numbered(serial, 100, token))
        await echo(scene, client, server, "RFC9221-3-1")
    await echo(scene, client, server, "RFC9221-3-1")
    came = [seen.frame for seen in receiver.frames if isinstance(seen.frame, Datagram)]
    scene.expect(
        "RFC9221-3-1",
        not came,
        expected=f"no DATAGRAM frame at the {mute}, which announced no max_datagram_frame_size",
        actual=f"{len(came)} DATAGRAM frames",
    )


@case(
    "quic-dgram-03",
    checks=["RFC9221-3-2"],
    publish=quic(),
    over={"side": ("client", "upstream")},
    features=NEEDED,
)
async def test_a_datagram_that_is_too_long_is_dropped_whole(scene: Scene) -> None:
    """Where one side announces a max_datagram_frame_size of 200, no longer frame comes to it, and no cut one.

    The other side sends datagrams of 50 to 1000 octets around the limit. Every DATAGRAM frame that comes has at most
    200 octets with its type and length, what it carries equals one that was sent, and what is sent behind those that
    are too long still arrives (B3).
    """
    side = scene.variant["side"]
    small = {"max_datagram_frame_size": SMALL, "answer_violations": False}
    client, server = await joined(scene, **(small if side == "client" else {"upstream": small}))
    receiver, sender = (client, server) if side == "client" else (server, client)
    receiver.strict = False
    if _takes_none(sender):
        scene.not_run("RFC9221-3-2", "the engine announces that it takes no DATAGRAM frames")
        return
    token = scene.nonce()
    sent = {serial: numbered(serial, size, token) for serial, size in enumerate(AROUND_SMALL)}
    for data in sent.values():
        await sender.send_datagram(data)
    found = await datagrams_settled(scene, client, server, "RFC9221-3-2", to_client=receiver is client)
    longest = max((len(seen.frame.encode()) for seen in receiver.frames if isinstance(seen.frame, Datagram)), default=0)
    scene.expect(
        "RFC9221-3-2",
        longest <= SMALL,
        expected=f"DATAGRAM frames of at most {SMALL} octets",
        actual=f"one of {longest}",
    )
    _judge_whole(scene, found, sent, token, "RFC9221-3-2")
    scene.allow("RFC9221-3-2", "dropped, connection lives")


@case("quic-dgram-04", checks=["RFC9221-5-1"], publish=quic(), features=NEEDED)
async def test_datagrams_are_relayed_one_by_one(scene: Scene) -> None:
    """Of 1000 numbered datagrams, 500 in each direction, each that arrives is one of those that were sent, once, and on
    its own connection.

    They are sent in windows of 20 with a round trip behind each (B2), 10 in each direction, of 60 to 459 octets, beside
    a second connection on the same tunnel, at which nothing may arrive. The share that arrives is recorded in the
    transcript; that none does is a departure (B3).
    """
    client, server = await joined(scene)
    others = await joined(scene)
    if _takes_none(client) or _takes_none(server):
        scene.not_run("RFC9221-5-1", "the engine announces that it takes no DATAGRAM frames")
        return
    token = scene.nonce()
    sent = {serial: numbered(serial, 60 + serial % 400, token) for serial in range(1000)}
    found: dict[QuicPeer, list[bytes]] = {client: [], server: []}
    for start in range(0, len(sent), WINDOW):
        for serial in range(start, start + WINDOW):
            await (client if serial % 2 else server).send_datagram(sent[serial])
        await echo(scene, client, server, "RFC9221-5-1")
        for peer, came in found.items():
            came += peer.arrived_datagrams()
    for peer, came in found.items():
        came += await datagrams_settled(scene, client, server, "RFC9221-5-1", to_client=peer is client)
        expected = {serial: data for serial, data in sent.items() if serial % 2 == (peer is server)}
        _judge_whole(scene, came, expected, token, "RFC9221-5-1")
        twice = [serial for serial, count in Counter(parse(data, token) for data in came).items() if count > 1]
        scene.expect(
            "RFC9221-5-1",
            not twice,
            expected=f"no datagram twice at the {peer.channel.us}",
            actual=f"{len(twice)} of them twice or more, the first {twice[:3]}",
        )
        scene.transcript.note("share", f"{len(came)} of {len(expected)} datagrams arrived at the {peer.channel.us}")
    await echo(scene, *others, "RFC9221-5-1")
    crossed = [data for other in others for data in other.arrived_datagrams()]
    scene.expect(
        "RFC9221-5-1",
        not crossed,
        expected="no datagram of one connection on another",
        actual=f"{len(crossed)} of them",
    )


@case(
    "quic-dgram-05",
    checks=["RFC9000-4.1-3", "RFC9221-5-1", "RFC9221-5.3-1"],
    publish=quic(),
    features=NEEDED,
    over={"reader": ("upstream", "client")},
)
async def test_datagrams_that_nobody_reads_hold_nothing_up(scene: Scene) -> None:
    """While datagrams come faster than anybody takes them, the streams of the connection go on.

    One side sends 1600 datagrams in bursts of 160, the other one does not read them; behind each burst a stream makes a
    round trip (B2). How many of them were dropped is recorded. Those that arrived are whole.
    """
    client, server = await joined(scene)
    receiver, sender = (client, server) if scene.variant["reader"] == "client" else (server, client)
    rows = ("RFC9221-5.3-1", "RFC9221-5-1", "RFC9000-4.1-3")
    if _takes_none(sender):
        for row in rows:
            scene.not_run(row, "the engine announces that it takes no DATAGRAM frames")
        return
    token = scene.nonce()
    sent = {serial: numbered(serial, 200, token) for serial in range(1600)}
    for start in range(0, len(sent), 160):
        for serial in range(start, start + 160):
            await sender.send_datagram(sent[serial])
        await echo(scene, client, server, "RFC9000-4.1-3")
    scene.expect("RFC9000-4.1-3", True, expected="streams to go on beside datagrams", actual="10 round trips")
    found = receiver.arrived_datagrams()
    _judge_whole(scene, found, sent, token, "RFC9221-5-1")
    scene.record("RFC9221-5.3-1", f"{len(found)} of {len(sent)} datagrams arrived where nobody read them")


@case(
    "quic-dgram-06", checks=["RFC9221-5-2"], publish=quic(), over={"level": ("initial", "handshake")}, features=NEEDED
)
async def test_no_datagram_in_front_of_the_handshakes_end(scene: Scene) -> None:
    """DATAGRAM frames in Initial or Handshake packets have no effect.

    In front of its answer to the engine's flight the client sends an Initial, or a Handshake packet, with a nonce in a
    DATAGRAM frame: the connection ends, in the Initial's case maybe not. The upstream never sees the nonce, and the
    engine sends no such frame there itself.
    """
    row = "RFC9221-5-2"
    level = Level.INITIAL if scene.variant["level"] == "initial" else Level.HANDSHAKE
    token = scene.nonce()
    forged: list[bytes] = []

    def behind_forged(index: int, datagram: bytes) -> list[bytes]:
        if index and not forged and client.wire.keys_of(level) is not None:
            forged.append(_forged(client, level, token))
            return [*forged, datagram]
        return [datagram]

    client = await scene.quic_client(handshake=False, tamper_datagram=behind_forged, answer_violations=False)
    client.strict = False
    # An engine may want the upstream's handshake before it goes on with the client's.
    accepting = asyncio.ensure_future(scene.quic_upstream().accept(handshake=False))
    try:
        done = await client.try_handshake()
        if not isinstance(done, QuicEnd):
            await client.ping()
    except (LinkReset, DeadlineExpired):
        pass
    early = [seen for seen in client.frames if isinstance(seen.frame, Datagram) and seen.level < Level.APPLICATION]
    scene.expect(row, not early, expected="no DATAGRAM frame in front of 1-RTT", actual=f"{len(early)}")
    end = client.ended
    if end is None and client.done is not None:
        await _goes_on(scene, row, client, await accepting, token)
    else:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await scene.settle()
    if end is not None and end.by_peer:
        named = end.kind == "transport" and end.code == ErrorCode.PROTOCOL_VIOLATION
        scene.allow(row, "CONNECTION_CLOSE PROTOCOL_VIOLATION" if named else "any other")
    elif level == Level.INITIAL:
        scene.allow(row, "Initial: the packet is discarded")
    else:
        scene.depart(row, expected="the connection to end", actual="a connection that goes on")


def _forged(client: QuicPeer, level: Level, data: bytes) -> bytes:
    """A packet with a DATAGRAM frame, past the connection."""
    keys = client.wire.keys_of(level)
    assert keys is not None
    packet = Outgoing(
        kind=PacketKind.INITIAL if level == Level.INITIAL else PacketKind.HANDSHAKE,
        version=client.version,
        destination=client.wire.remote_id,
        source=client.wire.source_id,
        number=FAR_NUMBER,
    )
    payload = Datagram(data).encode()
    return packet.seal(keys, payload + bytes(1200 - packet.overhead() - len(payload)))


async def _goes_on(scene: Scene, row: str, client: QuicPeer, server: QuicPeer, token: bytes) -> None:
    """The connection lives: nothing of the frame may have come to the upstream."""
    await server.handshake()
    found = await datagrams_settled(scene, client, server, row)
    scene.expect(row, token not in found, expected="nothing of it at the upstream", actual="the nonce of the frame")


class _Gap(DatagramLink):
    """A link on which, while `losing`, what comes is lost; `lost` are those packets."""

    def __init__(self, link: DatagramLink) -> None:
        self.tap = link.tap
        self.losing = False
        self.lost: list[bytes] = []
        self._link = link
        self._grown = asyncio.Event()

    def send(self, packet: bytes) -> None:
        """See `DatagramLink`."""
        self._link.send(packet)

    async def receive(self) -> bytes:
        """See `DatagramLink`."""
        while self._loses(packet := await self._link.receive()):
            pass
        return packet

    def receive_now(self) -> bytes | None:
        """See `DatagramLink`."""
        while (packet := self._link.receive_now()) is not None and self._loses(packet):
            pass
        return packet

    def _loses(self, packet: bytes) -> bool:
        if self.losing:
            self.lost.append(packet)
            self._grown.set()
        return self.losing

    async def has_lost(self, count: int, size: int) -> None:
        """Return when so many packets of at least `size` octets were lost. Raises `DeadlineExpired`."""
        async with deadline(f"{count} packets of the engine with a datagram in each"):
            while sum(len(packet) >= size for packet in self.lost) < count:
                self._grown.clear()
                await self._grown.wait()

    async def close(self) -> None:
        """See `DatagramLink`."""
        await self._link.close()

    def abort(self) -> None:
        """See `DatagramLink`."""
        self._link.abort()


@case("quic-dgram-07", checks=["RFC9221-5.2-1"], publish=quic(), features=NEEDED)
async def test_lost_datagrams_stay_lost(scene: Scene) -> None:
    """A DATAGRAM frame whose packet is lost does not come again.

    The upstream sends five datagrams of 1000 octets, and the packets that bring them are lost in front of the client.
    Behind that it gets everything again: in round trips (B2), and with datagrams that arrive (B3), the engine learns
    what was lost. None of the five comes.
    """
    row = "RFC9221-5.2-1"
    gap = _Gap(await scene.udp())
    client, server = await joined(scene, link=gap)
    if _takes_none(server):
        scene.not_run(row, "the engine announces that it takes no DATAGRAM frames")
        return
    token = scene.nonce()
    gap.losing = True
    for serial in range(LOST):
        await server.send_datagram(numbered(serial, LONG, token))
    try:
        await gap.has_lost(LOST, LONG)
    except DeadlineExpired as expired:
        scene.not_run(row, f"the engine dropped datagrams by itself: {expired}")
        return
    gap.losing = False
    for _ in range(TRIES):
        await echo(scene, client, server, row)
    found = await datagrams_settled(scene, client, server, row, to_client=True)
    scene.expect(
        row,
        not found,
        expected=f"none of the {LOST} datagrams whose packets were lost",
        actual=f"{len(found)} of them",
    )


@case("quic-dgram-08", checks=["RFC9221-3-5"], publish=quic(), features=NEEDED)
async def test_datagrams_of_any_packet_are_taken(scene: Scene) -> None:
    """The engine announces a max_datagram_frame_size that no packet exceeds, on both legs.

    65535 is the recommended value; what is there is in the transcript, and one below 1200 is a departure.
    """
    row = "RFC9221-3-5"
    client, server = await joined(scene)
    for peer in (client, server):
        told = peer.remote_parameters.max_datagram_frame_size if peer.remote_parameters is not None else 0
        scene.transcript.note("announced", f"max_datagram_frame_size {told} to the {peer.channel.us}")
        scene.expect(
            row,
            told >= LEAST,
            expected=f"a max_datagram_frame_size of {LEAST} or more at the {peer.channel.us} (65535 is recommended)",
            actual=f"{told}",
        )
