"""Streams through a QUIC tunnel: octets in order, kinds and half-close kept, resets and requests to stop handed on.

Each stream of one leg is a stream of the other (RFC 9000 section 2.1); what a relay makes of codes and kinds is at
SHOULD and partly recorded (ruling T-30). What is never accepted: octets that are lost, changed, doubled or on another
stream, a clean end behind cut data, and a side that never hears how its stream ended.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from conformance.quic._steps import echo, ends
from conformance.quic._streams import BY, ENDLESS, asked, content, digest, refuses, whole
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicPeer, QuicPeerStream, StreamEnd
from harness.scene import Scene
from harness.wire.quic.frames import Frame, ResetStream, Stream
from harness.wire.quic.numbers import ErrorCode

A = TypeVar("A")
SEGMENTS = 100
SEGMENT = 655
SHUFFLE = 9000
"""The seed by which segments are shuffled: the same order in every run."""
PARALLEL = 64
FIRST = 1_000
"""Octets that are seen to arrive before a stream is cut."""
UNREAD = 102_400
RESET_CODE = 77
ANSWER = b"on the way back"
STOP_CODE = 0x1234


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
        taken = await _unless_refused(_take(taker, bidirectional), _stopped(opener, streams))
        if isinstance(taken, int):
            return f"STOP_SENDING or RESET_STREAM with code {taken}"
        got = Counter(data for _, data, end in taken if end.kind == "fin")
        ids = [stream.id for stream, _, _ in taken]
        if got != Counter(sent):
            told = ", ".join(f"stream {stream.id}: {len(data)} octets, {end}" for stream, data, end in taken)
            raise PeerMismatch(f"each of {EACH} contents once at the {taker.channel.us}", told)
        if any((not each & 1) != by_client or bool(each & 2) == bidirectional for each in ids):
            raise PeerMismatch(f"streams of the kind of {streams[0].id} at the {taker.channel.us}", f"streams {ids}")
        if bidirectional:
            await _answered(streams, sent)
    return ""


async def _unless_refused(carried: Coroutine[Any, Any, A], refused: Coroutine[Any, Any, int]) -> A | int:
    """The result of `carried`, or that of `refused` where it is there sooner."""
    taking, refusing = asyncio.ensure_future(carried), asyncio.ensure_future(refused)
    try:
        await asyncio.wait((taking, refusing), return_when=asyncio.FIRST_COMPLETED)
        if not taking.done() and refusing.exception() is None:
            return refusing.result()
        return await taking
    finally:
        for task in (taking, refusing):
            task.cancel()
        await asyncio.gather(taking, refusing, return_exceptions=True)


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


async def _stopped(opener: QuicPeer, streams: Sequence[QuicPeerStream]) -> int:
    """The code by which the engine refuses one of the streams."""
    codes: list[int] = []

    def refused() -> bool:
        codes.extend(each.stop_code for each in streams if each.stop_code is not None)
        codes.extend(each.end.code or 0 for each in streams if each.end is not None and each.end.kind == "reset")
        return bool(codes)

    await opener.until(refused, "a refusal of the streams")
    return codes[0]


async def _answered(streams: Sequence[QuicPeerStream], sent: Sequence[bytes]) -> None:
    for stream, data in zip(streams, sent, strict=True):
        back, end = await stream.receive_until_end()
        if back != data[::-1] or end.kind != "fin":
            expected = f"the answer to what was sent on stream {stream.id}, and FIN"
            raise PeerMismatch(expected, f"{len(back)} octets ({digest(back)}), then {end}")


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
    FIN, which arrive whole. A relay that ends the second direction with the first, and says so by a reset, is recorded
    (T-30); one that ends it with FIN in front of what was sent departs.
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
        stopped = await refuses(second, down)
        back, end = await first.receive_until_end()
        if end.kind == "connection" or (end.kind == "fin" and back != down):
            raise PeerMismatch("20 KiB and FIN against the ended direction", f"{len(back)} octets, then {end}")
    if stopped or end.kind != "fin":
        for row in rows:
            scene.record(row, f"the second direction ends with the first: {end}")
        return
    scene.expect("RFC9000-2.1-2", True, expected="both directions whole", actual="both directions whole")
    scene.allow("QUIC-013", "same frame, same code")


# Resets


@case("quic-reset-01", checks=["RFC9000-3.5-3", "QUIC-013"], publish=quic(), over=BY)
async def test_a_reset_is_no_clean_end(scene: Scene) -> None:
    """RESET_STREAM behind unread data ends that direction at the far side abnormally, never with FIN.

    1000 octets are seen to arrive; 100 KiB more follow, and RESET_STREAM with code 77. The far side gets some part of
    what was sent and then RESET_STREAM 77; another code, or the end of the connection, is recorded. What becomes of the
    other direction, on which an answer follows, is noted. B2 shows that the connection lives.
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
        scene.transcript.note("the other direction", await _fate(receiver, sender))
        try:
            await echo(scene, client, server)
            return
        except LinkReset:
            scene.transcript.note("the connection", "ended behind the reset")
    scene.allow("RFC9000-3.5-3", "whole stream or connection closed")
    scene.allow("QUIC-013", "connection closed")


async def _fate(near: QuicPeerStream, far: QuicPeerStream) -> str:
    """What becomes of an answer from `near`, whose other direction was reset."""
    try:
        await near.send(ANSWER, fin=True)
        got, end = await far.receive_until_end()
    except (LinkReset, DeadlineExpired) as trouble:
        return str(trouble)
    return f"{len(got)} of {len(ANSWER)} octets, then {end}"


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


# Final sizes


@case("quic-final-01", checks=["RFC9000-4.5-1"], publish=quic(), over={"how": ("data-behind", "other-size")})
async def test_a_final_size_stays(scene: Scene) -> None:
    """The final size of a stream does not change: what goes beyond it ends the connection.

    The client sends octets 0 to 4 of a stream and FIN at 10: octets are missing, so the engine knows the stream. Then
    come octets behind 10, or RESET_STREAM with the final size 20. The connection ends with FINAL_SIZE_ERROR or another
    code, and the upstream has had the five octets alone, and no FIN.
    """
    row = "RFC9000-4.5-1"
    client, server = await scene.quic_pair()
    stream = await client.open_stream()
    client.say([Stream(stream.id, 0, b"abcde"), Stream(stream.id, 10, b"", fin=True)])
    there = await server.accept_stream_with(b"abcde")
    behind = scene.variant["how"] == "data-behind"
    stimulus = Stream(stream.id, 11, b"behind") if behind else ResetStream(stream.id, RESET_CODE, 20)
    server.strict = False
    await ends(
        scene, row, client, stimulus, named=ErrorCode.FINAL_SIZE_ERROR, first="CONNECTION_CLOSE FINAL_SIZE_ERROR"
    )
    got, end = await there.receive_until_end()
    scene.expect(
        row,
        got == b"abcde" and end.kind != "fin",
        expected="the five octets, and no FIN",
        actual=f"{got.hex()}, then {end}",
    )


# Ids


@case("quic-ids-01", checks=["RFC9000-3.2-1"], publish=quic())
async def test_a_stream_opens_those_below_it(scene: Scene) -> None:
    """Streams that come in another order than their ids are relayed all the same.

    The client opens three streams; the last one carries a nonce and FIN first, which the upstream reads and answers,
    then the first two do.
    """
    client, server = await scene.quic_pair()
    streams = [await client.open_stream() for _ in range(3)]
    for stream in (streams[2], streams[0], streams[1]):
        await echo(scene, client, server, "RFC9000-3.2-1", stream=stream)
    scene.expect("RFC9000-3.2-1", True, expected="three streams relayed", actual="three streams relayed")


MANY = 200


@case("quic-ids-02", checks=["RFC9000-2.1-1"], publish=quic(), over={"opener": ("client", "upstream")})
async def test_no_stream_id_comes_twice(scene: Scene) -> None:
    """The engine opens each stream under an id of its own, over 200 streams of one connection.

    The client opens 200 bidirectional streams, or the upstream 200 unidirectional ones, as many at a time as it may,
    with a nonce and FIN on each. The other side gets each nonce once, on a stream with an id that did not come before:
    what an engine says on an old id belongs to a stream that is over, and is not read. Not run where the engine refuses
    such streams.
    """
    row = "RFC9000-2.1-1"
    client, server = await scene.quic_pair()
    up = scene.variant["opener"] == "client"
    opener, taker = (client, server) if up else (server, client)
    tokens = [scene.nonce() for _ in range(MANY)]
    taken: list[tuple[int, bytes]] | int = []
    if opener.wire.streams_available(bidirectional=up) > 0:
        with scene.judging(row, ends=True):
            taken = await _first(opener, taker, tokens[0], bidirectional=up)
    if isinstance(taken, int) or not taken:
        scene.not_run(row, "the engine takes no such streams")
        return
    with scene.judging(row, ends=True):
        _, rest = await scene.both(_open_many(opener, tokens[1:], up), _take_many(taker, MANY - 1))
    taken += rest
    ids = [stream_id for stream_id, _ in taken]
    scene.expect(
        row,
        len(set(ids)) == MANY and {token for _, token in taken} == set(tokens),
        expected=f"{MANY} ids, each with a nonce of its own",
        actual=f"{len(set(ids))} ids with {len({token for _, token in taken} & set(tokens))} of the nonces",
    )


async def _first(
    opener: QuicPeer, taker: QuicPeer, token: bytes, *, bidirectional: bool
) -> list[tuple[int, bytes]] | int:
    """The first stream and its end, or the code by which it is refused: who refuses a stream that has not ended says
    so."""
    stream = await opener.open_stream(bidirectional=bidirectional)
    await stream.send(token)
    there = await _unless_refused(taker.accept_stream(), _stopped(opener, [stream]))
    if isinstance(there, int):
        return there
    await stream.finish()
    data, _ = await there.receive_until_end()
    if there.bidirectional:
        await there.finish()
    return [(there.id, data)]


async def _open_many(opener: QuicPeer, tokens: Sequence[bytes], bidirectional: bool) -> None:
    for token in tokens:
        stream = await opener.open_stream(bidirectional=bidirectional)
        await stream.send(token, fin=True)


async def _take_many(taker: QuicPeer, count: int) -> list[tuple[int, bytes]]:
    taken = []
    for _ in range(count):
        stream = await taker.accept_stream()
        data, _ = await stream.receive_until_end()
        if stream.bidirectional:
            await stream.finish()
        taken.append((stream.id, data))
    return taken


@case("quic-ids-03", checks=["RFC9000-4.6-2"], publish=quic(), over={"kind": ("bidi", "uni")})
async def test_no_stream_beyond_the_limit_is_taken(scene: Scene) -> None:
    """A stream beyond the engine's limit ends the connection, and does not reach the upstream.

    The client says a nonce and FIN on the stream behind the last one that it may open; streams that ended before (one,
    by then) may have raised the limit, so it goes as many further. The connection ends with STREAM_LIMIT_ERROR or
    another code; the upstream's connection ends, too, and has no stream of that kind.
    """
    row = "RFC9000-4.6-2"
    client, server = await scene.quic_pair()
    bidirectional = scene.variant["kind"] == "bidi"
    await client.ping()
    used = 1 if bidirectional else 0
    limit = used + client.wire.streams_available(bidirectional=bidirectional)
    beyond = 4 * (limit + used) + (0 if bidirectional else 2)
    server.strict = False
    await ends(
        scene,
        row,
        client,
        Stream(beyond, 0, scene.nonce(), fin=True),
        named=ErrorCode.STREAM_LIMIT_ERROR,
        first="CONNECTION_CLOSE STREAM_LIMIT_ERROR",
    )
    with scene.judging(row, ends=True):
        await server.closed()
    extra = [stream.id for stream in server.waiting_streams()]
    scene.expect(row, not extra, expected="no further stream at the upstream", actual=f"streams {extra}")
