"""Flow control through a QUIC tunnel: each leg keeps to the limits of its own peer, and a stalled stream stalls alone.

Credit is per hop (RFC 9000 section 4.1): what one peer does not take must stop the other one in the end, on that stream
and on no other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from conformance.quic._steps import echo, ends, passes
from conformance.quic._streams import BY, ENDLESS, asked, content, digest, refuses, whole
from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicPeer, QuicPeerStream
from harness.scene import NONCE_SIZE, Scene
from harness.wire.quic import StopSendingReceived, StreamReset
from harness.wire.quic.frames import MaxData, MaxStreamData, Stream
from harness.wire.quic.numbers import ErrorCode

PER_STREAM, IN_ALL = 100, 300
"""The grants of RFC9000-2.2-2, in octets."""
STREAMS = 4
BEYOND = 400
"""Octets that are sent on each of the streams: more than either grant allows."""
OPEN_AT_ONCE = 2
WANTED = 10
STALLED = 1 << 16
"""Octets that a reader grants on a stream that it does not read."""
PLENTY = 1 << 24
"""Credit of a whole connection that is never used up."""
RESUMED = 1 << 20
"""Octets that are read in the end of the stream that was stalled."""
RESET_CODE = 77
ECHOES = 20
ROUNDS = 10_000
LOOKS = 3
"""How often the same number of acknowledged octets makes a plateau."""
TIMERS = ("http-idle", "http-header", "http-response", "upstream-idle")


# Limits of the peers


@case("quic-limits-01", checks=["RFC9000-2.2-2"], publish=quic(), over={"side": ("client", "upstream")})
async def test_no_octet_beyond_the_credit(scene: Scene) -> None:
    """Nobody is sent more than it allows, on a stream and in all, until it raises the limits.

    The side grants 100 octets on a stream and 300 on all; the other side sends 400 and FIN on each of four streams.
    Behind the barrier (PINGs on both legs, and B1) each stream has had at most 100 octets and all of them at most 300.
    Then the side reads, which raises the limits, and all 1600 octets arrive.
    """
    row = "RFC9000-2.2-2"
    narrow: dict[str, Any] = {
        "max_stream_data": PER_STREAM,
        "max_data": IN_ALL,
        "automatic_credit": False,
        "answer_violations": False,
    }
    up = scene.variant["side"] == "upstream"
    client, server = await (scene.quic_pair(upstream=narrow) if up else scene.quic_pair(**narrow))
    receiver, sender = (server, client) if up else (client, server)
    receiver.strict = False
    before = NONCE_SIZE if up else 0
    sent, sinks = await (_push_up(scene, client) if up else _push_down(scene, client, server))
    for peer in (sender, receiver) * 2:
        await peer.ping()
    await scene.settle()
    got = [stream.received for stream in sinks or receiver.waiting_streams()]
    broken = "; ".join(map(str, receiver.violations))
    scene.expect(
        row,
        not broken and max(got, default=0) <= PER_STREAM and before + sum(got) <= IN_ALL,
        expected=f"at most {PER_STREAM} octets on a stream and {IN_ALL} in all",
        actual=f"{got} octets, and {before} before" + (f"; {broken}" if broken else ""),
    )
    with scene.judging(row, ends=True):
        read = await asyncio.gather(*(_read_on(receiver, stream) for stream in sinks or (None,) * STREAMS))
        if Counter(read) != Counter(sent):
            raise PeerMismatch(f"{STREAMS} times {BEYOND} octets", ", ".join(digest(each) for each in read))
    scene.expect(row, True, expected="all octets once there is credit", actual="all octets")


async def _push_up(scene: Scene, client: QuicPeer) -> tuple[list[bytes], list[QuicPeerStream]]:
    sent = [content(scene.nonce(), BEYOND) for _ in range(STREAMS)]
    for data in sent:
        stream = await client.open_stream()
        stream.send_now(data, fin=True)
    return sent, []


async def _push_down(scene: Scene, client: QuicPeer, server: QuicPeer) -> tuple[list[bytes], list[QuicPeerStream]]:
    sent = [content(scene.nonce(), BEYOND) for _ in range(STREAMS)]
    sinks = []
    for data in sent:
        stream, there = await asked(scene, client, server)
        there.send_now(data, fin=True)
        sinks.append(stream)
    return sent, sinks


async def _read_on(receiver: QuicPeer, stream: QuicPeerStream | None) -> bytes:
    stream = stream or await receiver.accept_stream()
    data, end = await stream.receive_until_end()
    if end.kind != "fin":
        raise PeerMismatch(f"FIN on stream {stream.id}", f"{len(data)} octets, then {end}")
    return data


@case("quic-limits-02", checks=["RFC9000-4.6-3"], publish=quic())
async def test_no_stream_beyond_the_upstreams_limit(scene: Scene) -> None:
    """An upstream that lets two streams be open at once sees no third one, however many a client opens.

    The client opens ten streams (or as many as the engine lets it) with a nonce and FIN on each. Behind the barrier
    (PINGs and B1) the upstream has at most two. It answers and ends them, which lets others follow: each of the ten is
    answered, or reset toward the client.
    """
    row = "RFC9000-4.6-3"
    client, server = await scene.quic_pair(upstream={"max_streams_bidi": OPEN_AT_ONCE, "answer_violations": False})
    server.strict = False
    tokens = [scene.nonce() for _ in range(WANTED)]
    now = min(WANTED, client.wire.streams_available())
    with scene.judging(row, ends=True):
        streams = [await _asking(client, token) for token in tokens[:now]]
        for peer in (client, server) * 2:
            await peer.ping()
    await scene.settle()
    seen = [stream.id for stream in server.waiting_streams()]
    _within(scene, row, server, seen)
    serving = asyncio.ensure_future(_serve(server))
    try:
        with scene.judging(row, ends=True):
            kinds = [await _answer(stream, token) for stream, token in zip(streams, tokens, strict=False)]
            kinds += [await _answer(await _asking(client, token), token) for token in tokens[now:]]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    _within(scene, row, server, [])
    scene.transcript.note("streams", f"{kinds.count('fin')} of {WANTED} answered, {kinds.count('reset')} reset")


def _within(scene: Scene, row: str, server: QuicPeer, seen: list[int]) -> None:
    broken = "; ".join(map(str, server.violations))
    scene.expect(
        row,
        not broken and len(seen) <= OPEN_AT_ONCE,
        expected=f"at most {OPEN_AT_ONCE} open streams",
        actual=f"streams {seen}" + (f"; {broken}" if broken else ""),
    )


async def _serve(server: QuicPeer) -> None:
    """Answer every stream with its octets in reverse, one after the other."""
    while True:
        stream = await server.accept_stream()
        data, _ = await stream.receive_until_end()
        await stream.send(data[::-1], fin=True)


async def _asking(client: QuicPeer, token: bytes) -> QuicPeerStream:
    stream = await client.open_stream()
    await stream.send(token, fin=True)
    return stream


async def _answer(stream: QuicPeerStream, token: bytes) -> str:
    back, end = await stream.receive_until_end()
    if end.kind == "connection" or (end.kind == "fin" and back != token[::-1]):
        raise PeerMismatch(f"an answer or a reset on stream {stream.id}", f"{digest(back)}, then {end}")
    return end.kind


# A stalled stream


@case(
    "quic-independence-01",
    checks=["RFC9000-4.1-3", "QUIC-015", "QUIC-016"],
    publish=quic(),
    over={"reader": ("client", "upstream")},
)
async def test_a_stalled_stream_holds_its_sender_and_nobody_else(scene: Scene) -> None:
    """A stream that is not read stops its sender in the end; other streams of the connection go on.

    The reader grants 64 KiB on stream A and 16 MiB in all, and reads nothing of A; the other side sends 8 MiB on it.
    Meanwhile 20 round trips on other streams (B2) come through. The octets of A that are acknowledged to the sender
    reach a plateau: the same number behind three round trips in a row, and below 8 MiB. Then the reader takes a MiB of
    A, which arrives as it was sent.
    """
    rows = ("RFC9000-4.1-3", "QUIC-015", "QUIC-016")
    held: dict[str, Any] = {"max_stream_data": STALLED, "max_data": PLENTY, "automatic_credit": False}
    down = scene.variant["reader"] == "client"
    client, server = await (scene.quic_pair(**held) if down else scene.quic_pair(upstream=held))
    stream, there = await asked(scene, client, server)
    reader, sender = (stream, there) if down else (there, stream)
    data = content(scene.nonce(), ENDLESS)
    sender.send_now(data)
    with scene.judging("RFC9000-4.1-3", "QUIC-015", ends=True):
        for _ in range(ECHOES):
            await echo(scene, client, server)
    scene.expect("QUIC-015", True, expected=f"{ECHOES} round trips", actual=f"{ECHOES} round trips")
    with scene.judging(*rows, ends=True):
        acked = await _plateau(scene, client, server, sender)
    for row in ("RFC9000-4.1-3", "QUIC-016"):
        scene.expect(
            row,
            acked < ENDLESS,
            expected=f"the sender to be held below {ENDLESS} octets",
            actual=f"{acked} octets taken of a stream that is not read",
        )
    with scene.judging(*rows, ends=True):
        got = await reader.receive_exactly(RESUMED)
        if got != data[:RESUMED]:
            raise PeerMismatch(f"the first {RESUMED} octets ({digest(data[:RESUMED])})", f"others ({digest(got)})")


async def _plateau(scene: Scene, client: QuicPeer, server: QuicPeer, sender: QuicPeerStream) -> int:
    """The octets of `sender` that are acknowledged once their number stands still."""
    last, same = -1, 0
    for _ in range(ROUNDS):
        await echo(scene, client, server)
        same = same + 1 if sender.acked == last else 0
        last = sender.acked
        if same == LOOKS or last == ENDLESS:
            break
    scene.transcript.note("acknowledged", f"{last} of {ENDLESS} octets")
    return last


@case(
    "quic-quiet-01",
    checks=["RFC9000-11.2-1", "LIM-004"],
    publish=quic(),
    settings={f"timeout.{name}-ms": 200 for name in TIMERS},
    slow=True,
)
async def test_a_quiet_stream_is_left_alone(scene: Scene) -> None:
    """Streams that are idle or slow are not reset while both sides are there.

    Every timer of HTTP is 200 ms. One stream is idle, one carries an octet each way in every round, one has ended in
    one direction. Three rounds: a second passes by the engine's own clock (the end of a clock connection by its idle
    timeout), then both sides say PING. No RESET_STREAM or STOP_SENDING comes, and all three streams end as they should.
    """
    rows = ("RFC9000-11.2-1", "LIM-004")
    client, server = await scene.quic_pair()
    idle, slow, half = [await asked(scene, client, server) for _ in range(3)]
    with scene.judging(*rows, ends=True):
        await half[0].finish()
        await half[1].receive_until_end()
        try:
            for _ in range(3):
                await passes(scene)
                await _trickle(*slow)
                await _trickle(*reversed(slow))
                await client.ping()
                await server.ping()
        except LinkReset:
            ends = [peer.ended for peer in (client, server)]
            if not any(end is not None and end.kind == "idle" for end in ends):
                raise
            scene.allow("RFC9000-11.2-1", "connection idle timeout")
            scene.record("LIM-004", "the connection's idle timeout")
            return
        cut = [event for peer in (client, server) for event in peer.events if isinstance(event, _CUT)]
        for row in rows:
            scene.expect(row, not cut, expected="no stream that is cut", actual="; ".join(map(str, cut)) or "none")
        for near, far in (idle, slow, half):
            await _end(scene, near, far)
    scene.allow("RFC9000-11.2-1", "streams live")


_CUT = (StreamReset, StopSendingReceived)


async def _trickle(near: QuicPeerStream, far: QuicPeerStream) -> None:
    await near.send(b".")
    got = await far.receive_exactly(1)
    if got != b".":
        raise PeerMismatch("the octet that was sent", got.hex())


async def _end(scene: Scene, near: QuicPeerStream, far: QuicPeerStream) -> None:
    """End what is open of a stream, with a nonce in front of each end."""
    for one, other in ((near, far), (far, near)):
        if other.end is not None:
            continue
        token = scene.nonce()
        await one.send(token, fin=True)
        got, end = await other.receive_until_end()
        if got != token or end.kind != "fin":
            raise PeerMismatch(f"a nonce and FIN on stream {one.id}", f"{digest(got)}, then {end}")


# Credit


@case("quic-credit-01", checks=["RFC9000-4.2-1"], publish=quic())
async def test_credit_comes_unasked(scene: Scene) -> None:
    """Credit comes with what was read, not with a request.

    The client never says that it is blocked; it sends four times what the engine grants on a stream (or more than it
    grants in all, where that is no more than 2 MiB), and FIN, which arrive whole at an upstream that reads.
    """
    row = "RFC9000-4.2-1"
    client, server = await scene.quic_pair(tell_blocked=False)
    stream, there = await asked(scene, client, server)
    assert client.remote_parameters is not None
    in_all = client.remote_parameters.initial_max_data + stream.credit
    data = content(scene.nonce(), max(4 * stream.credit, in_all if in_all <= 2 * RESUMED else 0))
    with scene.judging(row, ends=True):
        _, (got, end) = await scene.both(stream.send(data, fin=True), there.receive_until_end())
    whole(row, scene, got, end, data)


@case("quic-credit-02", checks=["RFC9000-4.1-2"], publish=quic(), over=BY)
async def test_limits_do_not_fall(scene: Scene) -> None:
    """MAX_DATA and MAX_STREAM_DATA below what was granted before are passed over.

    One side says, three times, that it takes one octet on a stream and one in all, far less than its transport
    parameters granted. 20 KiB and FIN that the other side then sends on the stream arrive, and the connection goes on
    (B2).
    """
    row = "RFC9000-4.1-2"
    client, server = await scene.quic_pair()
    stream, there = await asked(scene, client, server)
    down = scene.variant["by"] == "client"
    taker, near, far = (client, stream, there) if down else (server, there, stream)
    data = content(scene.nonce())
    with scene.judging(row, ends=True):
        for _ in range(3):
            taker.say([MaxStreamData(near.id, 1), MaxData(1)])
            await taker.ping()
        await far.send(data, fin=True)
        got, end = await near.receive_until_end()
    whole(row, scene, got, end, data)
    await echo(scene, client, server, row)


@case("quic-credit-03", checks=["RFC9000-4.1-1"], publish=quic(), over={"limit": ("stream", "connection")})
async def test_who_goes_beyond_the_credit_is_cut_off(scene: Scene) -> None:
    """Octets beyond the engine's limit on a stream, or on all streams, end the connection.

    On one stream the client sends a nonce, which the upstream reads. Then it sends octets far beyond the stream's
    limit; or the last octet that is allowed on each of so many streams that they exceed the connection's limit. The
    connection ends with FLOW_CONTROL_ERROR or another code; the upstream has had the nonce alone.
    """
    row = "RFC9000-4.1-1"
    client, server = await scene.quic_pair()
    stream, there = await asked(scene, client, server)
    if scene.variant["limit"] == "stream":
        stimulus = [Stream(stream.id, 16 * stream.credit, b"beyond")]
    else:
        assert client.remote_parameters is not None
        count = client.remote_parameters.initial_max_data // stream.credit + 2
        if count > client.wire.streams_available():
            scene.not_run(row, f"{count} streams that fill the connection's limit are more than the engine allows")
            return
        many = [await client.open_stream() for _ in range(count)]
        stimulus = [Stream(each.id, each.credit - 1, b"x") for each in many]
    server.strict = False
    code = ErrorCode.FLOW_CONTROL_ERROR
    await ends(scene, row, client, *stimulus, named=code, first="CONNECTION_CLOSE FLOW_CONTROL_ERROR")
    got, end = await there.receive_until_end()
    scene.expect(
        row,
        not got and end.kind != "fin",
        expected="nothing beyond the limit, and no FIN, at the upstream",
        actual=f"{len(got)} octets, then {end}",
    )


@case("quic-credit-04", checks=["RFC9000-4.4-1"], publish=quic())
async def test_a_reset_leaves_the_other_directions_credit_alone(scene: Scene) -> None:
    """A reset of one direction of a stream leaves the flow control of the other one as it was.

    The client resets its direction; the upstream sees that, and then sends 1 MiB, more than any window, and FIN, which
    arrive whole. A relay that ends the whole stream with the reset is recorded.
    """
    row = "RFC9000-4.4-1"
    client, server = await scene.quic_pair()
    stream, there = await asked(scene, client, server)
    data = content(scene.nonce(), RESUMED)
    stream.reset(RESET_CODE)
    with scene.judging(row, ends=True):
        await there.receive_until_end()
        stopped, (got, end) = await scene.both(refuses(there, data), stream.receive_until_end())
    if stopped or end.kind in ("reset", "connection"):
        scene.allow(row, "relay ended the whole stream after the reset")
        return
    whole(row, scene, got, end, data)
    scene.allow(row, "download completes")
