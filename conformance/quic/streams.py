"""Streams through a QUIC tunnel: octets in order, kinds and half-close kept, resets and requests to stop handed on.

Each stream of one leg is a stream of the other (RFC 9000 section 2.1); what a relay makes of codes and kinds is at
SHOULD and partly recorded (ruling T-30). What is never accepted: octets that are lost, changed, doubled or on another
stream, a clean end behind cut data, and a side that never hears how its stream ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence

from conformance.quic._steps import echo
from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicPeer, QuicPeerStream, StreamEnd
from harness.scene import Scene
from harness.wire.quic.frames import Frame, Stream

CONTENT = 20_480
"""Octets of a stream that is longer than a packet and shorter than every window."""
SEGMENTS = 100
SEGMENT = 655
SHUFFLE = 9000
"""The seed by which segments are shuffled: the same order in every run."""
PARALLEL = 64
FIRST = 1_000
"""Octets that are seen to arrive before a stream is cut."""
UNREAD = 102_400
RESET_CODE = 77
STOP_CODE = 0x1234
ENDLESS = 1 << 23
"""Octets of a stream that nobody takes to its end: more than every window on the way."""
ANSWER = b"answered on the way back"
BY = {"by": ("client", "upstream")}


def content(token: bytes, size: int = CONTENT) -> bytes:
    """`size` octets that begin with `token` and follow from it."""
    return (token + hashlib.shake_256(token).digest(size))[:size]


async def asked(scene: Scene, client: QuicPeer, server: QuicPeer) -> tuple[QuicPeerStream, QuicPeerStream]:
    """A bidirectional stream of the client at both ends, after a nonce went up on it; both halves are open."""
    token = scene.nonce()
    stream = await client.open_stream()
    await stream.send(token)
    there = await server.accept_stream_with(token)
    await there.receive_exactly(len(token))
    return stream, there


def whole(row: str, scene: Scene, got: bytes, end: StreamEnd, wanted: bytes) -> None:
    """Expect exactly `wanted` and FIN."""
    scene.expect(
        row,
        got == wanted and end.kind == "fin",
        expected=f"{len(wanted)} octets ({digest(wanted)}) and FIN",
        actual=f"{len(got)} octets ({digest(got)}), then {end}",
    )


def digest(data: bytes) -> str:
    """The first octets, or of more than a few a hash."""
    return data.hex() if len(data) <= 16 else f"SHA-256 {hashlib.sha256(data).hexdigest()[:16]}"


# In order, once


@case(
    "quic-order-01",
    checks=["RFC9000-2.2-1"],
    publish=quic(),
    over={"direction": ("up", "down"), "size": ("few", "many")},
)
async def test_octets_arrive_once_and_in_order(scene: Scene) -> None:
    """STREAM frames that come out of order, doubled and overlapping are the right octets at the far side, once.

    Few: octets 5 to 9 come first, then 0 to 6, which overlap them, 5 to 9 once more, 3 to 11, which overlap what was
    whole, the rest in three parts from the back, and FIN twice. Many: 64 KiB in 100 segments, shuffled (always alike),
    every tenth one doubled. Up they are the client's on its own stream, down the upstream's on the same stream. The far
    side reads exactly the octets, then FIN. Barrier: the FIN itself and B2.
    """
    client, server = await scene.quic_pair()
    stream, there = await asked(scene, client, server)
    up = scene.variant["direction"] == "up"
    sender, receiver = (client, there) if up else (server, stream)
    start = len(scene.nonce()) if up else 0
    frames, wanted = (_few if scene.variant["size"] == "few" else _many)(stream.id, start)
    with scene.judging("RFC9000-2.2-1", ends=True):
        sender.say(frames)
        got, end = await receiver.receive_until_end()
    whole("RFC9000-2.2-1", scene, got, end, wanted)
    await echo(scene, client, server, "RFC9000-2.2-1")
    late = receiver.received - start if up else receiver.received
    scene.expect(
        "RFC9000-2.2-1",
        late == len(wanted),
        expected="nothing behind FIN",
        actual=f"{late - len(wanted)} more octets",
    )


def _few(stream_id: int, start: int) -> tuple[list[Frame], bytes]:
    octets = b"abcdefghijklmnopqrstuvwxy"
    parts = ((5, 10), (0, 7), (5, 10), (3, 12), (20, 25), (15, 20), (10, 15))
    frames: list[Frame] = [Stream(stream_id, start + low, octets[low:high]) for low, high in parts]
    ends = [Stream(stream_id, start + len(octets), b"", fin=True)] * 2
    return [*frames, *ends], octets


def _many(stream_id: int, start: int) -> tuple[list[Frame], bytes]:
    octets = content(b"shuffled", SEGMENTS * SEGMENT)
    order = [*range(SEGMENTS), *range(0, SEGMENTS, 10)]
    random.Random(SHUFFLE).shuffle(order)
    last = SEGMENTS - 1
    return [
        Stream(stream_id, start + at * SEGMENT, octets[at * SEGMENT : (at + 1) * SEGMENT], fin=at == last)
        for at in order
    ], octets


# Kinds


KINDS = {
    "client-bidi": (True, True),
    "client-uni": (True, False),
    "upstream-bidi": (False, True),
    "upstream-uni": (False, False),
}
"""By name: whether the client opens the streams, and whether they have two halves."""
EACH = 4


@case(
    "quic-kinds-01",
    checks=["RFC9000-2.1-2", "QUIC-011"],
    publish=quic(),
    over={"kind": tuple(KINDS)},
)
async def test_a_stream_is_one_stream_of_the_same_kind(scene: Scene) -> None:
    """Every kind of stream that is carried is carried whole, one for one, as the kind that it is.

    Four streams of the kind at once, each with 20 KiB of its own and FIN; those with two halves are answered alike. At
    the far side there must be exactly these contents, each once, on streams of the same kind and of the same opener.
    A kind other than the client's bidirectional one may be refused: by a limit of 0, a reset or STOP_SENDING. What is
    neither refused nor carried is a departure. Barrier: B2 behind the last end.
    """
    client, server = await scene.quic_pair()
    name = scene.variant["kind"]
    by_client, bidirectional = KINDS[name]
    opener, taker = (client, server) if by_client else (server, client)
    refusal = await _carry(scene, opener, taker, by_client=by_client, bidirectional=bidirectional)
    if refusal and name == "client-bidi":
        scene.depart("RFC9000-2.1-2", expected="client bidirectional streams carried", actual=refusal)
        scene.depart("QUIC-011", expected="client bidirectional streams carried", actual=refusal)
    elif refusal:
        scene.transcript.note("refused", f"{name}: {refusal}")
        scene.allow("RFC9000-2.1-2", "client bidi streams carried, another kind refused")
        scene.allow("QUIC-011", "a kind refused")
    else:
        scene.allow("RFC9000-2.1-2", "all four kinds carried")
        scene.allow("QUIC-011", "relayed, contents equal")
    await echo(scene, client, server, "RFC9000-2.1-2", "QUIC-011")
    left = [each.id for peer in (client, server) for each in peer.waiting_streams()]
    for row in ("RFC9000-2.1-2", "QUIC-011"):
        scene.expect(row, not left, expected="no streams beyond those that were opened", actual=f"streams {left}")


async def _carry(scene: Scene, opener: QuicPeer, taker: QuicPeer, *, by_client: bool, bidirectional: bool) -> str:
    """Open, carry and compare streams of one kind; gives why the engine refuses the kind, if it does."""
    rows = ("RFC9000-2.1-2", "QUIC-011")
    if opener.wire.streams_available(bidirectional=bidirectional) < 1:
        return "a limit of 0 streams"
    with scene.judging(*rows, ends=True):
        streams = [await opener.open_stream(bidirectional=bidirectional) for _ in range(EACH)]
        sent = [content(scene.nonce()) for _ in streams]
        for stream, data in zip(streams, sent, strict=True):
            await stream.send(data, fin=True)
        taking = asyncio.ensure_future(_take(taker, bidirectional))
        refusing = asyncio.ensure_future(_stopped(opener, streams))
        await asyncio.wait((taking, refusing), return_when=asyncio.FIRST_COMPLETED)
        if not taking.done() and (code := await refusing) is not None:
            taking.cancel()
            return f"STOP_SENDING or RESET_STREAM with code {code}"
        refusing.cancel()
        taken = await taking
        got = Counter(data for _, data, end in taken if end.kind == "fin")
        ids = [stream.id for stream, _, _ in taken]
        if got != Counter(sent):
            told = ", ".join(f"stream {stream.id}: {len(data)} octets, {end}" for stream, data, end in taken)
            raise PeerMismatch(f"each of {EACH} contents once at the {taker.channel.us}", told)
        if any((not each & 1) != by_client or bool(each & 2) == bidirectional for each in ids):
            raise PeerMismatch(f"streams of the kind of {streams[0].id} at the {taker.channel.us}", f"streams {ids}")
        if bidirectional:
            await _answered(streams, sent, taken)
    return ""


async def _take(taker: QuicPeer, bidirectional: bool) -> list[tuple[QuicPeerStream, bytes, StreamEnd]]:
    taken = []
    for _ in range(EACH):
        stream = await taker.accept_stream()
        taken.append((stream, *await stream.receive_until_end()))
    if bidirectional:
        for stream, data, _ in taken:
            if stream.bidirectional:
                await stream.send(data[::-1], fin=True)
    return taken


async def _stopped(opener: QuicPeer, streams: Sequence[QuicPeerStream]) -> int | None:
    """The code by which the engine refuses one of the streams; waits for the rest of the script if it does not."""

    def code() -> int | None:
        codes = [each.stop_code for each in streams if each.stop_code is not None]
        codes += [each.end.code or 0 for each in streams if each.end is not None and each.end.kind == "reset"]
        return codes[0] if codes else None

    await opener.until(lambda: code() is not None, "a refusal of the streams")
    return code()


async def _answered(
    streams: Sequence[QuicPeerStream], sent: Sequence[bytes], taken: Sequence[tuple[QuicPeerStream, bytes, StreamEnd]]
) -> None:
    for stream, data in zip(streams, sent, strict=True):
        back, end = await stream.receive_until_end()
        if back != data[::-1] or end.kind != "fin":
            expected = f"the answer to what was sent on stream {stream.id}, and FIN"
            raise PeerMismatch(expected, f"{len(back)} octets ({digest(back)}), then {end}; {len(taken)} streams taken")


@case("quic-kinds-02", checks=["QUIC-010", "RFC9000-2.1-2"], publish=quic())
async def test_many_streams_at_once(scene: Scene) -> None:
    """64 streams of the client at once, each with contents of its own up and others down.

    At the upstream each stream carries what was sent on one stream, whole and once; the client gets on each the answer
    to it.
    """
    client, server = await scene.quic_pair()
    tokens = [scene.nonce() for _ in range(PARALLEL)]
    with scene.judging("QUIC-010", "RFC9000-2.1-2", ends=True):
        answers, _ = await scene.both(
            asyncio.gather(*(_ask(client, token) for token in tokens)),
            asyncio.gather(*(_reply(server) for _ in tokens)),
        )
        wrong = [
            f"{digest(back)}, then {end}"
            for token, (back, end) in zip(tokens, answers, strict=True)
            if back != content(token[::-1], 2 * FIRST) or end.kind != "fin"
        ]
        if wrong:
            raise PeerMismatch(f"{PARALLEL} answers, each on its own stream", f"{len(wrong)} others: {wrong[0]}")
    for row in ("QUIC-010", "RFC9000-2.1-2"):
        scene.expect(row, True, expected=f"{PARALLEL} streams whole", actual=f"{PARALLEL} streams whole")


async def _ask(client: QuicPeer, token: bytes) -> tuple[bytes, StreamEnd]:
    stream = await client.open_stream()
    await stream.send(content(token, 2 * FIRST), fin=True)
    return await stream.receive_until_end()


async def _reply(server: QuicPeer) -> None:
    stream = await server.accept_stream()
    got, end = await stream.receive_until_end()
    token = got[:16]
    if got != content(token, 2 * FIRST) or end.kind != "fin":
        raise PeerMismatch(f"a stream's contents and FIN on stream {stream.id}", f"{len(got)} octets, then {end}")
    await stream.send(content(token[::-1], 2 * FIRST), fin=True)


# Half-close


@case("quic-half-close-01", checks=["RFC9000-2.1-2", "QUIC-013"], publish=quic(), over=BY)
async def test_one_direction_ends_for_itself(scene: Scene) -> None:
    """FIN ends the direction in which it is sent, at the far side too, and the other direction carries on.

    One side says FIN behind 20 KiB; the other side sees these octets and FIN, and only then sends its own 20 KiB and
    FIN, which arrive whole.
    """
    rows = ("RFC9000-2.1-2", "QUIC-013")
    client, server = await scene.quic_pair()
    stream, there = await asked(scene, client, server)
    first, second = (stream, there) if scene.variant["by"] == "client" else (there, stream)
    up, down = content(scene.nonce()), content(scene.nonce())
    with scene.judging(*rows, ends=True):
        await first.send(up, fin=True)
        seen, end = await second.receive_until_end()
        if seen != up or end.kind != "fin":
            raise PeerMismatch("20 KiB and FIN", f"{len(seen)} octets ({digest(seen)}), then {end}")
        await second.send(down, fin=True)
        back, end = await first.receive_until_end()
        if back != down or end.kind != "fin":
            raise PeerMismatch("20 KiB and FIN against the ended direction", f"{len(back)} octets, then {end}")
    scene.expect("RFC9000-2.1-2", True, expected="both directions whole", actual="both directions whole")
    scene.allow("QUIC-013", "same frame, same code")


# Resets


@case("quic-reset-01", checks=["RFC9000-3.5-3", "QUIC-013"], publish=quic(), over=BY)
async def test_a_reset_is_no_clean_end(scene: Scene) -> None:
    """RESET_STREAM behind unread data ends that direction at the far side abnormally, never with FIN.

    1000 octets are seen to arrive; 100 KiB more follow, and RESET_STREAM with code 77. The far side gets some part of
    what was sent and then RESET_STREAM 77; another code, or the end of the connection, is recorded. B2 shows that the
    connection lives.
    """
    rows = ("RFC9000-3.5-3", "QUIC-013")
    client, server = await scene.quic_pair()
    stream, there = await asked(scene, client, server)
    sender, receiver = (stream, there) if scene.variant["by"] == "client" else (there, stream)
    data = content(scene.nonce(), FIRST + UNREAD)
    with scene.judging(*rows, ends=True):
        await sender.send(data[:FIRST])
        await receiver.receive_exactly(FIRST)
        sender.send_now(data[FIRST:])
        sender.reset(RESET_CODE)
        got, end = await receiver.receive_until_end()
        if not data.startswith(data[:FIRST] + got):
            raise PeerMismatch("a part of what was sent", f"{len(got)} other octets")
        if end.kind == "fin":
            raise PeerMismatch("RESET_STREAM behind cut data", f"a clean FIN behind {FIRST + len(got)} octets")
    if end.kind == "reset":
        same = end.code == RESET_CODE
        scene.allow("RFC9000-3.5-3", "RESET_STREAM 77" if same else "RESET_STREAM with another code")
        scene.allow("QUIC-013", "same frame, same code" if same else "reset with another code")
        try:
            await echo(scene, client, server)
            return
        except LinkReset:
            scene.transcript.note("the connection", "ended behind the reset")
    scene.allow("RFC9000-3.5-3", "whole stream or connection closed")
    scene.allow("QUIC-013", "connection closed")


# Requests to stop


@case("quic-stop-01", checks=["RFC9000-3.5-1", "RFC9000-3.5-2", "QUIC-013"], publish=quic(), over=BY)
async def test_a_request_to_stop_is_answered_and_handed_on(scene: Scene) -> None:
    """STOP_SENDING is answered with RESET_STREAM, and reaches the side that sends.

    One side sends without end; after 1000 octets the other one says STOP_SENDING 0x1234. The sender sees STOP_SENDING
    0x1234 (another code, or a reset: recorded); whoever asked gets RESET_STREAM on the stream, with any code.
    """
    relay = ("RFC9000-3.5-2", "QUIC-013")
    client, server = await scene.quic_pair()
    stream, there = await asked(scene, client, server)
    stopper, sender = (stream, there) if scene.variant["by"] == "client" else (there, stream)
    sending = server if sender is there else client
    data = content(scene.nonce(), ENDLESS)
    with scene.judging("RFC9000-3.5-1", *relay, ends=True):
        sender.send_now(data)
        seen = await stopper.receive_exactly(FIRST)
        if seen != data[:FIRST]:
            raise PeerMismatch(f"the first {FIRST} octets", f"other octets ({digest(seen)})")
        stopper.stop_sending(STOP_CODE)
    with scene.judging(*relay):
        await sending.until(lambda: _is_told(sender), f"STOP_SENDING at the {sending.channel.us}")
        same = sender.stop_code == STOP_CODE
        scene.allow("RFC9000-3.5-2", "STOP_SENDING with the same code" if same else "another code, or a reset")
        scene.allow("QUIC-013", "same frame, same code" if same else "reset with another code")
    with scene.judging("RFC9000-3.5-1", ends=True):
        rest, end = await stopper.receive_until_end()
        _judge_stop(scene, seen + rest, end, data)


def _is_told(sender: QuicPeerStream) -> bool:
    return sender.stop_code is not None or (sender.end is not None and sender.end.kind == "reset")


def _judge_stop(scene: Scene, got: bytes, end: StreamEnd, data: bytes) -> None:
    if end.kind == "reset":
        same = end.code == STOP_CODE
        scene.allow("RFC9000-3.5-1", "RESET_STREAM, same code" if same else "RESET_STREAM, another code")
    elif end.kind == "fin" and got == data:
        scene.allow("RFC9000-3.5-1", "FIN, because all data had already been sent")
    else:
        raise PeerMismatch("RESET_STREAM on the stream", f"{len(got)} octets, then {end}")
