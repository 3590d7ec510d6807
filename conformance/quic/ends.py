"""How connections end: closes and idle timeouts cross a QUIC tunnel (RFC 9000 section 10)."""

from __future__ import annotations

from typing import Any

from conformance.quic._steps import TRIES, joined
from harness.errors import DeadlineExpired
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicEnd, QuicPeer
from harness.scene import Scene
from harness.wire.quic import ErrorCode, Level
from harness.wire.quic.frames import ConnectionClose

SHORT_IDLE = 1.0
"""Seconds of an idle timeout that is waited for."""
LONG_IDLE = 30.0
PINGS = 20
UNFINISHED = 65_536
"""Octets of a stream that a close cuts short."""
SIDES = {"by": ("client", "upstream"), "when": ("open", "streaming")}


async def _closed(scene: Scene, code: int, row: str) -> QuicEnd | None:
    """One side closes with an application's `code`: how the connection of the other one ends, None for not at all.

    The close is said three times and the other side asks for what it may have lost, since a close is not repeated by
    itself. In mid-stream no FIN may take the place of what was cut off.
    """
    client, server = await joined(scene)
    closer, other = (client, server) if scene.variant["by"] == "client" else (server, client)
    streaming = scene.variant["when"] == "streaming"
    if streaming:
        token = scene.nonce()
        ours = await client.open_stream()
        await ours.send(token)
        theirs = await server.accept_stream_with(token)
        sending, receiving = (ours, theirs) if closer is client else (theirs, ours)
        await sending.send(bytes(UNFINISHED))
    await closer.close(code, "bye")
    for _ in range(TRIES - 1):
        closer.wire.close_repeat()
        closer.flush()
    try:
        for _ in range(PINGS):
            await other.ping()
        end = await other.closed()
    except LinkReset:
        end = await other.closed()
    except DeadlineExpired:
        return None
    if streaming:
        got, over = await receiving.receive_until_end()
        scene.expect(
            row,
            over.kind != "fin",
            expected="a stream that was cut short by a close to have no clean end",
            actual=f"FIN behind {len(got)} octets",
        )
    scene.transcript.note("close", f"{other.channel.us}: {end}")
    return end


def _same(end: QuicEnd, code: int) -> bool:
    return end.kind == "application" and end.code == code


@case("quic-close-01", checks=["RFC9000-10.2-1"], publish=quic(), over=SIDES)
async def test_an_application_close_reaches_the_other_side(scene: Scene) -> None:
    """When one side closes with the application's code 42, the connection of the other side ends with the same code.

    The client or the upstream closes (42, `bye`) once everything is at rest, or in the middle of a stream that has no
    end yet. The other side's connection ends within the deadline, and that stream has no clean end there. Another code,
    or another kind of end, is recorded.
    """
    row, code = "RFC9000-10.2-1", 42
    end = await _closed(scene, code, row)
    if end is None:
        _still_open(scene, row, code)
    elif _same(end, code):
        scene.allow(row, "application close 42")
    elif end.kind == "idle":
        scene.allow(row, "U's connection ends by idle timeout")
    else:
        scene.allow(row, "application close with another code")


@case("quic-close-02", checks=["QUIC-014"], publish=quic(), over=SIDES)
async def test_code_and_reason_of_a_close_are_passed_on(scene: Scene) -> None:
    """When one side closes with the application's code 7, the connection of the other side ends with the same code.

    As quic-close-01; the reason `bye` that comes, or does not, is in the transcript.
    """
    row, code = "QUIC-014", 7
    end = await _closed(scene, code, row)
    if end is None:
        _still_open(scene, row, code)
    else:
        scene.allow(row, "application close 7" if _same(end, code) else "another close")


def _still_open(scene: Scene, row: str, code: int) -> None:
    other = "upstream" if scene.variant["by"] == "client" else "client"
    scene.depart(
        row,
        expected=f"the {other}'s connection to end with application code {code}",
        actual="a connection that goes on",
    )


class _Hush:
    """What a peer sends, until `silent`."""

    silent = False

    def __call__(self, index: int, datagram: bytes) -> bytes | None:
        """One datagram of the peer."""
        del index
        return None if self.silent else datagram


@case("quic-idle-01", checks=["RFC9000-10.1-1"], publish=quic(), over={"silent": ("client", "upstream")})
async def test_the_idle_end_of_one_leg_ends_the_other(scene: Scene) -> None:
    """A side that falls silent is given up after the smaller one of both idle timeouts, and the other side is told.

    One side advertises an idle timeout of a second and, after a round trip, sends nothing more, acknowledgements
    neither. The other side, which advertises 30 seconds and has nothing to say, sees its connection end within the
    deadline; how it ends is in the transcript.
    """
    hush = _Hush()
    short: dict[str, Any] = {"idle_timeout": SHORT_IDLE, "tamper_datagram": hush}
    long: dict[str, Any] = {"idle_timeout": LONG_IDLE}
    if scene.variant["silent"] == "client":
        silent, other = await joined(scene, upstream=long, **short)
    else:
        other, silent = await joined(scene, upstream=short, **long)
    hush.silent = True
    silent.channel.sent("silence", detail="nothing leaves any more")
    try:
        end = str(await other.closed())
    except DeadlineExpired:
        end = ""
    scene.expect(
        "RFC9000-10.1-1",
        bool(end),
        expected=f"the {other.channel.us}'s connection to end after the {scene.variant['silent']}'s idle timeout",
        actual=end or "a connection that goes on",
    )


@case("quic-close-03", checks=["RFC9000-10.2.3-1"], publish=quic(), over={"refused": ("at-once", "by-upstream")})
async def test_no_application_close_in_the_handshake(scene: Scene) -> None:
    """A close in Initial or Handshake packets is of type 0x1c; where it stands for an application's, without its
    reason.

    The client offers no application protocol; or it offers two, so that the engine may ask the upstream before it
    answers, and the upstream closes with application code 7 as soon as it can. Of the CONNECTION_CLOSE frames in front
    of 1-RTT none is of type 0x1d, and none with APPLICATION_ERROR has a reason. Where none comes at all, the barrier
    (B1) shows that the engine has heard of the client.
    """
    row = "RFC9000-10.2.3-1"
    early: list[ConnectionClose] = []
    for _ in range(TRIES):
        client = await _refused_early(scene)
        early = [
            seen.frame
            for seen in client.frames
            if isinstance(seen.frame, ConnectionClose) and seen.level != Level.APPLICATION
        ]
        if early:
            break
    wrong = [
        frame
        for frame in early
        if frame.application or (frame.code == ErrorCode.APPLICATION_ERROR and frame.reason != b"")
    ]
    scene.expect(
        row,
        not wrong,
        expected="CONNECTION_CLOSE of type 0x1c, and no reason with APPLICATION_ERROR",
        actual=f"{wrong[:1]}",
    )
    if not early:
        await scene.settle()
        scene.allow(row, "no close at that stage")
    elif all(frame.code == ErrorCode.APPLICATION_ERROR for frame in early):
        scene.allow(row, "0x1c, APPLICATION_ERROR")
    else:
        scene.allow(row, "0x1c with another code")


async def _refused_early(scene: Scene) -> QuicPeer:
    """A client whose handshake is over, either way."""
    at_once = scene.variant["refused"] == "at-once"
    offered = () if at_once else ("a", "b")
    client = await scene.quic_client(handshake=False, alpn=offered, alpn_required=not at_once)
    client.strict = False
    try:
        if at_once:
            await client.try_handshake()
        else:
            await scene.both(client.try_handshake(), _closes_at_once(scene, offered))
    except (LinkReset, DeadlineExpired):
        pass
    return client


async def _closes_at_once(scene: Scene, alpn: tuple[str, ...]) -> None:
    server = await scene.quic_upstream().accept(alpn=alpn, handshake=False)
    server.strict = False
    await server.until(lambda: server.wire.client_hello is not None, "a ClientHello at the upstream")
    await server.close(7, "bye")


@case("quic-drain-01", checks=["RFC9000-10.2.2-1"], publish=quic())
async def test_nothing_is_sent_behind_a_close(scene: Scene) -> None:
    """Behind the client's CONNECTION_CLOSE the engine says nothing more, at most a close of its own.

    At rest the client closes, and then sends three more packets of its connection. After probes (B1) at most one
    datagram has come to it since.
    """
    row = "RFC9000-10.2.2-1"
    kept: list[bytes] = []

    def keep(index: int, datagram: bytes) -> bytes:
        del index
        kept.append(datagram)
        return datagram

    client, _ = await joined(scene, tamper_datagram=keep)
    await client.confirmed()
    for _ in range(TRIES):
        await client.ping()
    last = kept[-TRIES:]
    before = sum(client.wire.sizes_received.values())
    await client.close(0, "bye")
    for datagram in last:
        client.send_packet(datagram)
    await scene.settle()
    came = sum(client.wire.sizes_received.values()) - before
    scene.expect(row, came <= 1, expected="one datagram at most behind a close", actual=f"{came}")
    scene.allow(row, "one CONNECTION_CLOSE" if came else "silence")
