"""New addresses, early data and new keys in front of a QUIC tunnel (RFC 9000 sections 8 and 9, RFC 9001)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

from conformance.quic._steps import LIST, PLAIN, TRIES, echo, joined, listed, nothing_reached, passes
from harness.errors import DeadlineExpired
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.link.udp import UdpLink
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicPeer, QuicPeerStream, StreamEnd
from harness.scene import Scene
from harness.wire.quic import Level, PacketKind, ParameterId, Resumption
from harness.wire.quic.frames import PathChallenge, Stream
from harness.wire.quic.packet import Outgoing
from harness.wire.tls.events import Session

DOWNLOAD = 512 << 10
SOON = 64 << 10
"""Octets of the download behind which the address changes."""
ALL_EARLY = 0xFFFFFFFF
"""max_early_data_size of a ticket that allows 0-RTT (RFC 9001 section 4.6.1)."""
TLS13, AES_128 = 0x0304, 0x1301
FAR_NUMBER = 1_000
"""Packet number of forged 0-RTT, which no packet of the connection comes near."""


async def _downloading(scene: Scene, client: QuicPeer, server: QuicPeer) -> tuple[QuicPeerStream, QuicPeerStream]:
    """A stream of the client and its far end, on which the client has said all."""
    token = scene.nonce()
    asking = await client.open_stream()
    await asking.send(token, fin=True)
    answering = await server.accept_stream_with(token)
    return asking, answering


def _contents(size: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


@case("quic-rebind-01", checks=["RFC9000-9-1", "QUIC-022"], publish=quic())
async def test_a_client_that_comes_from_another_port_goes_on(scene: Scene) -> None:
    """A client whose port changes in mid-transfer goes on after the new path was validated.

    The upstream sends 512 KiB; behind the first 64 KiB the client's port changes, as behind a NAT, and it sends
    PINGs from there, one behind the ACK of the other. PATH_CHALLENGE must come to it on the new path and the rest
    of the transfer with it; the upstream keeps its one connection, on which a round trip follows (B2). Where the
    engine sent disable_active_migration it may drop what comes from there; no reset and no close may answer it in
    either case.
    """
    row = "RFC9000-9-1"
    client, server = await joined(scene)
    asking, answering = await _downloading(scene, client, server)
    contents = _contents(DOWNLOAD)
    parameters = client.remote_parameters
    fixed = parameters is not None and parameters.get(ParameterId.DISABLE_ACTIVE_MIGRATION) is not None

    async def download() -> bytes:
        got = await asking.receive_exactly(SOON)
        client.rebind()
        rest, end = await _while_asking(client, asking)
        return got + rest if end.kind == "fin" else b""

    try:
        got, _ = await scene.both(download(), answering.send(contents, fin=True))
        await echo(scene, client, server)
    except (LinkReset, DeadlineExpired) as seen:
        _stalled(scene, client, fixed=fixed, told=str(seen))
        return
    challenged = [seen for seen in client.frames if isinstance(seen.frame, PathChallenge)]
    await nothing_reached(scene, row)
    scene.expect(row, got == contents, expected="the whole download", actual=f"{len(got)} octets of another content")
    if challenged:
        scene.allow(row, "PATH_CHALLENGE on the new path")
    elif fixed:
        scene.allow(row, "edge sent disable_active_migration")
    else:
        scene.depart(row, expected="PATH_CHALLENGE on the new path", actual="the transfer without one")
    scene.allow("QUIC-022", "rebind: connection goes on")


async def _while_asking(client: QuicPeer, stream: QuicPeerStream) -> tuple[bytes, StreamEnd]:
    """What is left of the stream, while the client says PING again and again.

    An engine may answer an address that is not validated with three times what came from there (RFC 9000 section 8.1),
    and has nothing left of it where a PATH_CHALLENGE was lost.
    """
    reading = asyncio.ensure_future(stream.receive_until_end())
    try:
        while not reading.done():
            await client.ping()
        return await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _stalled(scene: Scene, client: QuicPeer, *, fixed: bool, told: str) -> None:
    """The transfer did not go on: judge what the engine said to that."""
    scene.record("QUIC-022", f"rebind: {told}")
    end = client.ended
    if fixed and (end is None or not end.by_peer):
        scene.allow("RFC9000-9-1", "edge sent disable_active_migration")
    else:
        scene.depart("RFC9000-9-1", expected="the new path to be validated and the transfer to go on", actual=told)


class _Held:
    """What a peer sends, until it is held: then nothing leaves, and `kept` has what would have."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.holding = False

    def __call__(self, index: int, datagram: bytes) -> bytes | None:
        """One datagram of the peer."""
        del index
        if not self.holding:
            return datagram
        self.kept.append(datagram)
        return None


@case("quic-path-01", checks=["RFC9000-9.3.2-1"], publish=quic())
async def test_a_path_that_is_not_validated_is_left_again(scene: Scene) -> None:
    """Where the validation of a new address fails, traffic goes back to the last validated one.

    A genuine packet of the client with a PING comes to the engine from another port only, where nobody answers, and
    the client keeps still from then on. The upstream sends 512 KiB: they must begin to arrive at the client, at the
    latest when the validation of the other path has failed. Then the client speaks again and gets the rest.
    """
    row = "RFC9000-9.3.2-1"
    held = _Held()
    client, server = await joined(scene, tamper_datagram=held)
    asking, answering = await _downloading(scene, client, server)
    await client.ping()
    contents = _contents(DOWNLOAD)
    held.holding = True
    client.wire.ping()
    client.flush()
    stranger = await scene.udp()
    client.channel.sent("packet from another port", data=held.kept[0])
    stranger.send(held.kept[0])
    # What the engine says there shows that it has handled the packet; it may as well say nothing.
    await _heard(stranger)

    async def download() -> bytes:
        first = await asking.receive_exactly(1)
        held.holding = False
        rest, _ = await asking.receive_until_end()
        return first + rest

    with scene.judging(row, ends=True):
        got, _ = await scene.both(download(), answering.send(contents, fin=True))
        scene.expect(
            row, got == contents, expected="the whole download", actual=f"{len(got)} octets of another content"
        )


async def _heard(link: UdpLink) -> None:
    with contextlib.suppress(DeadlineExpired, LinkReset):
        async with deadline("an answer of the engine"):
            await link.receive()


# 0-RTT


def _made_up(scene: Scene, client: QuicPeer) -> Resumption:
    """A ticket that nobody issued: 0-RTT under it can be read by nobody."""
    assert client.remote_parameters is not None
    secret, ticket = scene.nonce() + scene.nonce(), scene.nonce() + scene.nonce()
    session = Session(TLS13, AES_128, secret, ticket=ticket, lifetime=7_200, max_early_data=ALL_EARLY, alpn=client.alpn)
    return Resumption(session, client.remote_parameters, client.version)


def _early_packets(client: QuicPeer, data: bytes) -> list[bytes]:
    """0-RTT packets with `data` on stream 0, past the connection, which would say them again in 1-RTT."""
    keys = client.wire.keys_of(Level.EARLY)
    assert keys is not None
    return [
        Outgoing(
            kind=PacketKind.EARLY,
            version=client.version,
            destination=client.wire.remote_id,
            source=client.wire.source_id,
            number=FAR_NUMBER + count,
        ).seal(keys, Stream(0, data=data, fin=True).encode())
        for count in range(TRIES)
    ]


@case(
    "quic-early-01",
    checks=["RFC9001-4.6.2-1", "QUIC-022"],
    publish=listed(),
    over={"offer": ("same-protocol", "other-protocol")},
)
async def test_rejected_early_data_has_no_effect(scene: Scene) -> None:
    """Where 0-RTT is rejected nothing of it reaches the upstream.

    The client resumes its first connection, or shows a ticket that nobody issued where the engine gives none, and
    offers early data; in one variant with another protocol than before, so that it has to be rejected. A nonce on
    stream 0 goes out in 0-RTT packets: behind the ClientHello, again in front of what answers the engine's flight, and
    when the handshake is complete. That completes without early data; after a round trip on another stream (B2), and
    probes (B1), the nonce is nowhere at the upstream. Early data that the engine accepts is no matter of this case.
    """
    row = "RFC9001-4.6.2-1"
    first, _ = await joined(scene, alpn=LIST[:1])
    known = first.resumptions[-1] if first.resumptions else _made_up(scene, first)
    resumption = dataclasses.replace(known, session=dataclasses.replace(known.session, max_early_data=ALL_EARLY))
    await first.close()
    alpn = LIST[:1] if scene.variant["offer"] == "same-protocol" else LIST[1:]
    packets: list[bytes] = []

    def behind_early(index: int, datagram: bytes) -> list[bytes]:
        return [*packets, datagram] if index <= TRIES else [datagram]

    client = await scene.quic_client(
        handshake=False, alpn=alpn, resumption=resumption, early_data=True, tamper_datagram=behind_early
    )
    early = scene.nonce()
    await client.start()
    packets += _early_packets(client, early)
    for packet in packets:
        client.send_packet(packet)
    done, server = await scene.both(client.handshake(), scene.quic_upstream().accept())
    if done.early_data_accepted:
        scene.not_run(row, "the engine accepts the early data")
        scene.allow("QUIC-022", "0-RTT accepted, held or refused")
        return
    for packet in packets:
        client.send_packet(packet)
    # Stream 0 is the one of the rejected octets.
    await client.open_stream()
    await echo(scene, client, server, row)
    await nothing_reached(scene, row)
    await echo(scene, client, server, row)
    came = any(isinstance(seen.frame, Stream) and early in seen.frame.data for seen in server.frames)
    scene.expect(
        row,
        not came,
        expected="nothing of rejected 0-RTT at the upstream",
        actual="the nonce of the 0-RTT packets",
    )
    scene.allow("QUIC-022", "0-RTT accepted, held or refused")


@case("quic-early-02", checks=["RFC9001-9.2-1", "QUIC-022"], publish=quic())
async def test_replayed_early_data_arrives_once_at_most(scene: Scene) -> None:
    """Where 0-RTT is accepted, a replay of it does not reach the upstream a second time.

    The client resumes its first connection and sends a nonce in 0-RTT. That connection ends; when its state is gone
    the packets of its first flight are sent again from another port, three times. After probes (B1) no other
    connection at the upstream has the nonce. An engine that gives no tickets for 0-RTT, or rejects it, accepts none.
    """
    row, alpn = "RFC9001-9.2-1", (PLAIN,)
    first, _ = await joined(scene, alpn=alpn)
    tickets = [one for one in first.resumptions if one.session.max_early_data == ALL_EARLY]
    await first.close()
    scene.allow("QUIC-022", "0-RTT accepted, held or refused")
    if not tickets:
        scene.allow(row, "0-RTT never accepted")
        return
    flight: list[bytes] = []

    def keep(index: int, datagram: bytes) -> bytes:
        del index
        flight.append(datagram)
        return datagram

    client = await scene.quic_client(
        handshake=False, alpn=alpn, resumption=tickets[-1], early_data=True, tamper_datagram=keep
    )
    token = scene.nonce()
    stream = await client.open_stream()
    await stream.send(token, fin=True)
    first_flight = list(flight)
    done, server = await scene.both(client.handshake(), scene.quic_upstream().accept(alpn=alpn))
    await server.accept_stream_with(token)
    await client.close()
    await server.closed()
    if not done.early_data_accepted:
        scene.allow(row, "0-RTT never accepted")
        return
    await passes(scene)
    stranger = await scene.udp()
    for _ in range(TRIES):
        for datagram in first_flight:
            stranger.send(datagram)
        await _heard(stranger)
    await scene.settle()
    again = [stray for stray in await scene.strays() if token in stray.data]
    scene.expect(
        row,
        not again,
        expected="the octets of a replayed 0-RTT flight at the upstream once",
        actual=f"{len(again)} more connections with them",
        branch="replay rejected",
    )
