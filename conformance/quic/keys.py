"""Key updates and path challenges in front of a QUIC tunnel (RFC 9001 section 6, RFC 9000 section 8.2)."""

from __future__ import annotations

from conformance.quic._steps import TRIES, echo, joined
from harness.errors import DeadlineExpired
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicPeer
from harness.scene import Scene
from harness.wire.quic import ErrorCode, PacketInfo, PacketKind
from harness.wire.quic.frames import Padding, PathChallenge, PathResponse, Stream
from harness.wire.quic.numbers import Space
from harness.wire.quic.packet import Outgoing

PART = 64 << 10
UPDATES = 2
AHEAD = 50
"""So many packet numbers beyond the next one are those of a forged packet."""
EXPANDED = 1_200
"""Octets of a datagram with a PATH_CHALLENGE, or its answer (RFC 9000 section 8.2)."""


def _packets(peer: QuicPeer, way: str) -> list[PacketInfo]:
    """The packets that were `sent` or `received`."""
    return [info for direction, info in peer.wire.packets if direction == way]


def _number(info: PacketInfo) -> int:
    return info.number or 0


@case("quic-keys-01", checks=["RFC9001-6.2-1"], publish=quic())
async def test_a_key_update_is_followed(scene: Scene) -> None:
    """When the client updates its keys in mid-transfer the engine goes on under the next ones too.

    The client sends a stream in parts of 64 KiB and updates its keys between them, twice. The packet that acknowledges
    a PING under the new keys has the new Key Phase, and all of the stream arrives at the upstream.
    """
    row = "RFC9001-6.2-1"
    client, server = await joined(scene)
    token = scene.nonce()
    sending = await client.open_stream()
    await sending.send(token)
    receiving = await server.accept_stream_with(token)
    contents = [bytes((count,)) * PART for count in range(UPDATES + 1)]
    with scene.judging(row, ends=True):
        for count in range(UPDATES):
            await sending.send(contents[count])
            await client.confirmed()
            client.update_keys()
            await client.ping()
            # The newest by its number: one from before the update may come late.
            newest = max((one for one in _packets(client, "received") if one.phase is not None), key=_number)
            phase = newest.phase
            wanted = client.wire.one_rtt.write_generation & 1
            scene.expect(
                row,
                bool(phase) == bool(wanted),
                expected=f"the ACK of a PING under new keys with Key Phase {wanted}",
                actual=f"Key Phase {int(bool(phase))}",
            )
        await sending.send(contents[-1], fin=True)
        got, end = await receiving.receive_until_end()
        whole = got == token + b"".join(contents) and end.kind == "fin"
        scene.expect(row, whole, expected="the whole stream at the upstream", actual=f"{len(got)} octets, then {end}")
        await echo(scene, client, server)


@case("quic-keys-02", checks=["RFC9001-6.4-1"], publish=quic())
async def test_old_keys_are_of_no_use_behind_an_update(scene: Scene) -> None:
    """A packet under the keys of before a key update, with a number behind it, has no effect.

    The client updates its keys and makes a round trip under them (B2). Then packets with higher numbers come under the
    old keys, with a nonce on a stream of their own: the engine ends the connection, or ignores them; the upstream never
    sees the nonce.
    """
    row = "RFC9001-6.4-1"
    # An acknowledgement of what only the script has sent must not end the connection on our side.
    client, server = await joined(scene, answer_violations=False)
    client.strict = False
    await client.confirmed()
    old, generation = client.wire.one_rtt.write, client.wire.one_rtt.write_generation
    assert old is not None
    client.update_keys()
    await client.ping()
    await echo(scene, client, server)
    token = scene.nonce()
    unused = await client.open_stream()
    try:
        for count in range(TRIES):
            forged = Outgoing(
                kind=PacketKind.SHORT,
                version=client.version,
                destination=client.wire.remote_id,
                number=client.wire.spaces[Space.APPLICATION].next_number + AHEAD + count,
                phase=bool(generation & 1),
            )
            client.send_packet(forged.seal(old, Stream(unused.id, data=token, fin=True).encode()))
            await client.ping()
        await echo(scene, client, server)
    except (LinkReset, DeadlineExpired):
        await scene.settle()
    came = any(isinstance(seen.frame, Stream) and token in seen.frame.data for seen in server.frames)
    scene.expect(row, not came, expected="nothing of a packet under old keys", actual="its nonce at the upstream")
    end = client.ended
    if end is None:
        scene.allow(row, "silence where the old keys")
    elif end.kind == "transport" and end.code == ErrorCode.KEY_UPDATE_ERROR:
        scene.allow(row, "CONNECTION_CLOSE KEY_UPDATE_ERROR")
    else:
        scene.allow(row, "any other")


@case("quic-challenge-01", checks=["RFC9000-8.2.2-1"], publish=quic())
async def test_a_path_challenge_is_answered_once(scene: Scene) -> None:
    """PATH_CHALLENGE is answered once, with its own octets, in a datagram of at least 1200.

    The client challenges the engine in a datagram of that size, up to three times with other octets until an answer has
    come. Round trips behind it show that there is no second one.
    """
    row = "RFC9000-8.2.2-1"
    client, server = await joined(scene)
    asked: list[PathChallenge] = []
    for _ in range(TRIES):
        challenge = PathChallenge(scene.nonce()[:8])
        asked.append(challenge)
        client.say([challenge, Padding(EXPANDED - 50)])
        await client.ping()
        await echo(scene, client, server)
        if _answers(client):
            break
    answers = _answers(client)
    scene.expect(row, bool(answers), expected="PATH_RESPONSE", actual=f"none to {len(asked)} challenges")
    copies = [
        frame.data
        for info in _packets(client, "sent")
        for frame in (getattr(said, "frame", said) for said in info.frames)
        if isinstance(frame, PathChallenge)
    ]
    for frame, _ in answers:
        # A challenge that was taken for lost went out once more.
        count = sum(one.data == frame.data for one, _ in answers)
        scene.expect(
            row,
            count <= copies.count(frame.data),
            expected=f"one PATH_RESPONSE for each of {copies.count(frame.data)} challenges {frame.data.hex()}",
            actual=f"{count}",
        )
    smallest = min(info.datagram for _, info in answers)
    scene.expect(
        row, smallest >= EXPANDED, expected=f"it in a datagram of {EXPANDED} octets", actual=f"one of {smallest}"
    )
    scene.allow(row, "as above")


def _answers(client: QuicPeer) -> list[tuple[PathResponse, PacketInfo]]:
    """Each PATH_RESPONSE that came, with its packet."""
    return [
        (frame, info)
        for info in _packets(client, "received")
        for frame in info.frames
        if isinstance(frame, PathResponse)
    ]
