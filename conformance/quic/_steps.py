"""Steps that many QUIC cases share: joined peers, refusals, faults that must end a connection, and barriers.

Three barriers, named in the docstrings of the cases:

- B1, `nothing_reached`: probe connections of their own through the same tunnel. A UDP port is read in order, so what
  was sent to it before has been handled when a probe is through.
- B2, `echo`: a round trip on the same connection, which passes the engine's queues of that connection on both legs.
- B3, `datagrams_settled`: markers among the datagrams until one arrives, then B2: datagrams overtake and are overtaken.

What is carried in 1-RTT by `say` is put on the wire once, and a close may be lost: steps that need either repeat them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from harness.errors import DeadlineExpired, PeerMismatch
from harness.judge import Departed
from harness.link.deadline import deadline
from harness.link.faults import FaultPlan
from harness.link.stream import LinkReset
from harness.model.spec import QUIC_ALPN, TunnelSpec, quic
from harness.peer.quic import ConnectionOver, HandshakeEnded, QuicEnd, QuicPeer, QuicPeerStream, StreamEnd
from harness.scene import NONCE_SIZE, Scene
from harness.wire.quic import Level
from harness.wire.quic.frames import Frame
from harness.wire.quic.numbers import error_name

LIST = ("a", "b")
"""The protocols of a tunnel that has a list."""
PLAIN = QUIC_ALPN[0]
"""What an ordinary client offers on a tunnel without a list."""
TRIES = 3
"""How often what may be lost is tried."""
AGAIN = 0.03
"""Seconds between packets to an engine that may be closing, which it is for three times its probe timeout: never less
than 75 ms (RFC 9000 section 10.2, RFC 9002 section 6.2.1)."""
MARKERS = 20
SERIAL_SIZE = 4
ASK_SECONDS = 0.05
"""How long a close is waited for before it is asked for again; see `over`."""
CLOCK_SECONDS = 1.0
"""Idle timeout of a clock connection; see `passes`."""


def listed(**properties: Any) -> TunnelSpec:
    """A QUIC tunnel with the list [a, b]."""
    return quic(tls_alpns=LIST, **properties)


# Joined


async def echo(
    scene: Scene, client: QuicPeer, server: QuicPeer, *rows: str, stream: QuicPeerStream | None = None
) -> None:
    """B2: a nonce up on a new bidirectional stream of the client (or on `stream`, which is unused), reversed down, FIN
    both ways. What goes wrong is a departure from `rows`; without rows it is raised."""
    if not rows:
        await _echo(scene, client, server, stream)
        return
    with scene.judging(*rows, ends=True):
        await _echo(scene, client, server, stream)


async def _echo(scene: Scene, client: QuicPeer, server: QuicPeer, stream: QuicPeerStream | None) -> None:
    token = scene.nonce()
    asking = stream or await client.open_stream()
    await asking.send(token, fin=True)
    answering = await server.accept_stream_with(token)
    got, end = await answering.receive_until_end()
    if got != token or end.kind != "fin":
        raise PeerMismatch("the client's nonce and FIN at the upstream", f"{got[:64].hex()}, then {end}")
    await answering.send(token[::-1], fin=True)
    back, end = await asking.receive_until_end()
    if back != token[::-1] or end.kind != "fin":
        raise PeerMismatch("the upstream's answer and FIN at the client", f"{back[:64].hex()}, then {end}")


async def joined(scene: Scene, name: str = "main", **options: Any) -> tuple[QuicPeer, QuicPeer]:
    """A client and an upstream joined through the tunnel, and a round trip between them. `options` as those of
    `Scene.quic_pair`."""
    client, server = await scene.quic_pair(name, **options)
    await echo(scene, client, server)
    return client, server


async def drained(stream: QuicPeerStream) -> tuple[bytes, StreamEnd]:
    """All that is left of the other half of the stream, and how it ended."""
    return await stream.receive_until_end()


async def over(peer: QuicPeer) -> QuicEnd:
    """How the connection of `peer` ends, whoever ends it. Raises `DeadlineExpired`, `PeerMismatch`.

    A close may be lost, and is said again only to whoever asks while the other side is closing, which on a short path
    are a hundred milliseconds (three probe timeouts, RFC 9000 section 10.2): a PING does, again and again.
    """
    async with deadline(f"the end of the connection at the {peer.channel.us}"):
        while True:
            if peer.done is not None and peer.ended is None:
                peer.wire.ping()
                peer.flush()
            try:
                async with deadline("the end, before it is asked for again", ASK_SECONDS):
                    return await peer.closed()
            except DeadlineExpired:
                continue


# Refused


@dataclass(frozen=True, slots=True)
class Refusal:
    """How the engine took a client that it has to refuse. `end` is its own (None: it said nothing, or goes on);
    `completed` whether the client's handshake did; `said` in words."""

    end: QuicEnd | None
    completed: bool
    said: str

    @property
    def accepted(self) -> bool:
        """Whether the client has a connection that lives."""
        return self.completed and self.end is None


async def refused(scene: Scene, name: str = "main", *, tries: int = TRIES, **options: Any) -> Refusal:
    """How the engine refuses a client with these options, at the first of `tries` fresh connections that it answers.

    A client may look complete before the engine has judged it: then it sends a nonce, so that an engine that goes on
    has something to hand to the upstream, and the refusal is waited for. An end that our client makes because of what
    the engine chose is no refusal: the engine went on.
    """
    chosen = {"alpn_required": bool(options.get("alpn", True)), **options}
    for _ in range(tries):
        client = await scene.quic_client(name, handshake=False, **chosen)
        client.strict = False
        seen = await _refusal(scene, client)
        await client.shut()
        if seen.completed or seen.end is not None:
            return seen
    return seen


async def _refusal(scene: Scene, client: QuicPeer) -> Refusal:
    completed = False
    try:
        completed = not isinstance(await client.try_handshake(), QuicEnd)
        if completed:
            await _offer(client, scene.nonce())
        end = await over(client)
    except LinkReset as gone:
        return Refusal(QuicEnd("none", reason=str(gone)), completed, str(gone))
    except DeadlineExpired:
        return Refusal(None, completed, "a connection that goes on" if completed else "no answer")
    if end.by_peer:
        return Refusal(end, completed, str(end))
    if end.kind == "idle" and not completed:
        return Refusal(None, completed, "no answer")
    return Refusal(None, True, f"a handshake that went on until our client ended it: {end}")


async def _offer(client: QuicPeer, data: bytes) -> None:
    try:
        stream = await client.open_stream()
        await stream.send(data, fin=True)
    except (LinkReset, DeadlineExpired):
        return


def judge_refused(
    scene: Scene, row: str, got: Refusal, *, named: int | None, first: str, other: str, silent: str | None
) -> None:
    """Judge a refusal by `row`: a transport close with the code `named` is its item `first`, any other close `other`,
    and no answer at all `silent` (None: a departure)."""
    code = error_name(named) if named is not None else "a close"
    if got.accepted or (got.end is not None and got.end.kind == "none"):
        scene.depart(row, expected=f"a refusal ({code} or another code)", actual=got.said)
    elif got.end is None:
        if silent is None:
            scene.depart(row, expected=f"a refusal that is seen ({code} or another code)", actual=got.said)
        else:
            scene.allow(row, silent)
    elif got.end.kind == "transport" and got.end.code == named:
        scene.allow(row, first)
    else:
        scene.allow(row, other)


async def ends(
    scene: Scene,
    row: str,
    peer: QuicPeer,
    *stimulus: Frame,
    level: Level | None = Level.APPLICATION,
    named: int,
    first: str,
    other: str = "any other",
) -> None:
    """The engine must end the connection of `peer` for these frames: with the code `named`, which is the row's item
    `first`, or with another one of the transport, or a reset, as `other`.

    The frames are said up to three times, each time with a PING behind them: packets and closes may be lost.
    """
    peer.strict = False
    try:
        for _ in range(TRIES):
            if peer.ended is not None:
                break
            peer.say(stimulus, level=level)
            await peer.ping(again=AGAIN)
    except LinkReset:
        pass
    except DeadlineExpired as silent:
        _no_end(scene, row, named, str(silent))
        return
    await ended(scene, row, peer, named=named, first=first, other=other)


async def ended(scene: Scene, row: str, peer: QuicPeer, *, named: int, first: str, other: str = "any other") -> None:
    """The engine has ended the connection of `peer`, or does so now: judged as by `ends`."""
    try:
        end = await over(peer)
    except DeadlineExpired:
        _no_end(scene, row, named, "a connection that goes on")
        return
    if not end.by_peer or end.kind not in ("transport", "reset"):
        _no_end(scene, row, named, str(end) if end.by_peer else f"our own {end}")
    else:
        scene.allow(row, first if end.kind == "transport" and end.code == named else other)


def _no_end(scene: Scene, row: str, named: int, actual: str) -> None:
    scene.depart(row, expected=f"the engine to end the connection ({error_name(named)} or another code)", actual=actual)


# Barriers


async def nothing_reached(scene: Scene, *rows: str, name: str = "main") -> None:
    """B1, and behind it: the upstream saw no connection that the script did not accept. Each row is judged; the first
    binding one that is broken ends the script, after all of them were judged."""
    await scene.settle(name)
    departed: Departed | None = None
    for row in rows:
        try:
            await scene.untouched(row, name)
        except Departed as end:
            departed = end
    if departed is not None:
        raise departed


async def nothing_carried(scene: Scene, *rows: str, name: str = "main") -> None:
    """B1, and behind it: no octet has reached the upstream but what the script asked for. Judged as by
    `nothing_reached`. A connection without octets of a stream is no departure: an engine may make it before the
    client's, where nothing says which comes first."""
    await scene.settle(name)
    strays = [stray.describe() for stray in await scene.strays(name) if stray.data]
    departed: Departed | None = None
    for row in rows:
        try:
            told = "; ".join(strays) or "nothing"
            scene.expect(row, not strays, expected="no octet of a stream at the upstream", actual=told)
        except Departed as end:
            departed = end
    if departed is not None:
        raise departed


def numbered(serial: int, size: int, token: bytes) -> bytes:
    """Octets of a datagram: `token`, the number, and a filling that both determine, `size` octets in all (at least
    those of token and number)."""
    head = token + serial.to_bytes(SERIAL_SIZE, "big")
    if size < len(head):
        raise ValueError(f"size: {size}; allowed: {len(head)} or more")
    pattern = bytes((octet + index * 7 + serial) & 0xFF for index, octet in enumerate(head * 2))
    return (head + pattern * (size // len(pattern) + 1))[:size]


def parse(data: bytes, token: bytes) -> int | None:
    """The number of a datagram made by `numbered`; None where any octet of it is another one."""
    end = len(token) + SERIAL_SIZE
    if len(data) < end:
        return None
    serial = int.from_bytes(data[len(token) : end], "big")
    return serial if data == numbered(serial, len(data), token) else None


async def datagrams_settled(
    scene: Scene, client: QuicPeer, server: QuicPeer, *rows: str, to_client: bool = False
) -> list[bytes]:
    """B3: what has arrived at the upstream (or, `to_client`, at the client) of the datagrams that were sent before, in
    order of arrival. Nothing of them is under way any more.

    A marker is sent up to 20 times, each with a round trip behind it, until one arrives. That none does is a departure
    from `rows`, or raised without rows. Markers are left out of what is given.
    """
    if not rows:
        return await _settled(scene, client, server, to_client)
    found: list[bytes] = []
    with scene.judging(*rows, ends=True):
        found += await _settled(scene, client, server, to_client)
    return found


async def _settled(scene: Scene, client: QuicPeer, server: QuicPeer, to_client: bool) -> list[bytes]:
    marker = scene.nonce()
    sender, receiver = (server, client) if to_client else (client, server)
    found: list[bytes] = []
    for _ in range(MARKERS):
        await sender.send_datagram(marker)
        await echo(scene, client, server)
        found += receiver.arrived_datagrams()
        if marker in found:
            return [one for one in found if one != marker]
    told = f"none of {MARKERS} equal ones of {NONCE_SIZE} octets"
    raise PeerMismatch(f"a DATAGRAM frame at the {receiver.channel.us}", told)


async def passes(scene: Scene, name: str = "main", rounds: int = 1) -> None:
    """Time passes at the engine, by its own clock: `rounds` idle timeouts of a second each.

    A clock connection asks for that idle timeout and then falls silent behind a relay that loses everything; the engine
    ends it, and its upstream sees so.
    """
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        way = await scene.faults(name, plan=FaultPlan())
        began = loop.time()
        try:
            clock, behind = await joined(scene, name, endpoint=way, idle_timeout=CLOCK_SECONDS)
        except (HandshakeEnded, ConnectionOver):
            if loop.time() - began < CLOCK_SECONDS:
                raise
            # A machine so busy that the handshake took longer: the time has passed, whoever has noticed it first.
            continue
        assert way.relay is not None
        way.relay.lose()
        behind.strict = False
        await behind.closed()
        await clock.shut()
    scene.transcript.note("barrier", f"{name}: {rounds} idle timeouts of {CLOCK_SECONDS} s have passed at the engine")
