"""QUIC between edge and upstream: a connection of the edge's own, and what happens where the upstream does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from conformance.agent._steps import agent_case, channel, next_request, tunnel_of
from conformance.quic._steps import TRIES, echo, ends, joined, over
from harness.errors import DeadlineExpired
from harness.link.stream import LinkReset
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, quic
from harness.peer.quic import QuicEnd, QuicPeer
from harness.peer.quic_upstream import QuicUpstream
from harness.peer.tls_pki import Leaf, expired_identity, self_signed, upstream_identity
from harness.scene import Scene
from harness.wire.quic import ErrorCode, PacketInfo, PacketKind, ParameterId
from harness.wire.quic.frames import Crypto, Stream, elicits
from harness.wire.quic.numbers import MIN_INITIAL
from harness.wire.quic.packet import build_retry, parse_header
from harness.wire.tls import TLS13

NO_APPLICATION_PROTOCOL = 0x178
OFFER = ("foo",)


def _flag(variant: Variant) -> TunnelSpec:
    return quic(upstream_tls=True) if variant["flag"] == "on" else quic()


@case(
    "quic-upstream-01",
    checks=["QUIC-003", "VAL-017", "RFC9000-14.1-2", "QUIC-020"],
    publish=_flag,
    over={"flag": ["left-out", "on"]},
)
async def test_the_upstream_leg_is_a_connection_of_its_own(scene: Scene) -> None:
    """The edge speaks QUIC with TLS 1.3 to the upstream, on a connection of its own, whether upstream TLS was asked for
    or left out.

    At the upstream the first packet is an Initial, its ClientHello offers TLS 1.3 alone and has another random than the
    client's, and no connection id of one leg is in use on the other one. Every datagram of the edge with an
    ack-eliciting Initial has 1200 octets or more, on both legs. The longest UDP payload at the upstream is noted.
    """
    rows = ("QUIC-020", "QUIC-003", "VAL-017", "RFC9000-14.1-2")
    with scene.judging(*rows, ends=True):
        client, server = await joined(scene)
    for row in ("QUIC-020", "RFC9000-14.1-2"):
        for peer in (client, server):
            small = [size for packet in _received(peer) if (size := _initial_size(packet)) and size < MIN_INITIAL]
            told = f"{peer.channel.us}: {small or 'none is shorter'}"
            scene.expect(row, not small, expected=f"{MIN_INITIAL} octets with each Initial", actual=told)
    longest = max(server.wire.sizes_received)
    scene.transcript.note("longest UDP payload", f"{longest} octets from the edge to the upstream")
    hello, kinds = server.client_hello, [packet.kind for packet in _received(server)]
    of_its_own = kinds[0] is PacketKind.INITIAL and hello.supported_versions == (TLS13,)
    told = f"{kinds[0].name} with versions {hello.supported_versions}"
    for row in ("VAL-017", "QUIC-003"):
        scene.expect(row, of_its_own, expected="an Initial, its ClientHello for TLS 1.3 alone", actual=told)
    random = hello.random != client.client_hello.random
    scene.expect("QUIC-003", random, expected="another random than the client's", actual=hello.random.hex())
    shared = _ids(client) & _ids(server)
    told = ", ".join(one.hex() for one in shared) or "no id on both legs"
    scene.expect("QUIC-003", not shared, expected="connection ids of each leg's own", actual=told)


def _received(peer: QuicPeer) -> list[PacketInfo]:
    return [packet for way, packet in peer.wire.packets if way == "received"]


def _initial_size(packet: PacketInfo) -> int:
    """Octets of the datagram where the packet is an ack-eliciting Initial, else 0."""
    eliciting = packet.kind is PacketKind.INITIAL and any(elicits(frame) for frame in packet.frames)
    return packet.datagram if eliciting else 0


def _ids(peer: QuicPeer) -> set[bytes]:
    """The connection ids that were written on the leg of `peer`, those of no octets left out."""
    return {one for _, packet in peer.wire.packets for one in (packet.destination, packet.source) if one}


# Upstreams that do not fit


async def _serve(side: QuicUpstream, servers: list[QuicPeer], options: dict[str, Any]) -> None:
    """Serve every connection that the engine opens, whatever becomes of it."""
    while True:
        server = await side.accept(handshake=False, **options)
        server.strict = False
        servers.append(server)


async def _end_of_client(scene: Scene, client: QuicPeer, behind: Coroutine[Any, Any, None]) -> QuicEnd:
    """How the client's connection ends while `behind` is what the upstream does; the client says a nonce on a stream as
    soon as it may. Raises `DeadlineExpired`."""
    serving = asyncio.ensure_future(behind)
    try:
        if not isinstance(result := await client.try_handshake(), QuicEnd):
            with contextlib.suppress(LinkReset):
                await (await client.open_stream()).send(scene.nonce(), fin=True)
            result = await over(client)
        return result
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _octets(servers: list[QuicPeer]) -> str:
    """What came on streams at the upstream, in words; empty for nothing."""
    seen = [one.frame for server in servers for one in server.frames if isinstance(one.frame, Stream)]
    return ", ".join(f"stream {frame.stream_id}: {len(frame.data)} octets" for frame in seen[:4])


async def _unfit(scene: Scene, *rows: str, client_ends: bool = True, **options: Any) -> tuple[QuicEnd, list[QuicPeer]]:
    """A client that offers foo meets an upstream with these options: its connection must end, and nothing of what it
    says may come out at the upstream. Gives the end, and the upstream's connections. Where the rows say nothing of the
    client (`client_ends` False), it is noted that its connection goes on."""
    servers: list[QuicPeer] = []
    client = await scene.quic_client(handshake=False, alpn=OFFER)
    client.strict = False
    end = QuicEnd("none")
    with scene.judging(*rows, ends=True):
        try:
            end = await _end_of_client(scene, client, _serve(scene.quic_upstream(), servers, options))
        except DeadlineExpired:
            if client_ends or not servers:
                raise
            scene.transcript.note("client", "its connection goes on")
    for row in rows:
        carried = _octets(servers)
        scene.expect(row, not carried, expected="no octet of a stream at the upstream", actual=carried or "none")
    return end, servers


async def _fits(scene: Scene, *rows: str) -> None:
    """The barrier: a sound upstream of the same tunnel is reached, and behind it nothing is left that nobody took."""
    with scene.judging(*rows, ends=True):
        client, server = await joined(scene, alpn=OFFER)
        await echo(scene, client, server)
    for row in rows:
        late = [stray.describe() for stray in await scene.strays() if stray.data]
        told = "; ".join(late) or "nothing"
        scene.expect(row, not late, expected="nothing more at the upstream", actual=told)


@case("quic-upstream-02", checks=["QUIC-008", "RFC7301-3.2-5"], publish=quic())
async def test_an_upstream_that_refuses_the_protocol(scene: Scene) -> None:
    """If the upstream cannot take the client's protocol the whole connection ends, and no stream data is relayed.

    The client offers foo, the upstream speaks `other` alone and refuses with 0x178; the client says octets as soon as
    it may. Its connection ends, before or after its handshake is complete, with any code (noted). Whatever else the
    engine tries at the upstream meanwhile is served alike. Then the upstream speaks foo, and a client gets through.
    """
    rows = ("QUIC-008", "RFC7301-3.2-5")
    end, servers = await _unfit(scene, *rows, alpn=("other",))
    scene.allow("RFC7301-3.2-5", "QUIC: CONNECTION_CLOSE with any code")
    scene.transcript.note("refused", f"{end}, after {len(servers)} connections at the upstream")
    await _fits(scene, *rows)


@agent_case("quic-upstream-10", checks=["QUIC-008", "RFC7301-3.2-5"], features=["quic"])
async def test_an_agent_that_has_no_upstream(scene: Scene) -> None:
    """If there is no upstream at all the client's connection ends, also when its handshake was complete.

    The agent refuses every flow that the engine asks for. The client offers foo and says octets as soon as it may; its
    connection ends with any code. A round trip on the control channel shows that the agent is still there.
    """
    agent = await channel(scene)
    tunnel = await tunnel_of(scene, agent, quic())

    async def refuse() -> None:
        while True:
            request = await next_request(tunnel)
            await agent.proxy_conn_rsp(request.stream_id, code=6000, text="no upstream")

    client = await scene.quic_client(handshake=False, endpoint=tunnel.endpoint, alpn=OFFER)
    client.strict = False
    rows = ("QUIC-008", "RFC7301-3.2-5")
    with scene.judging(*rows, ends=True):
        end = await _end_of_client(scene, client, refuse())
        scene.expect("QUIC-008", end.kind != "idle", expected="the end of the connection", actual=str(end))
        scene.allow("RFC7301-3.2-5", "QUIC: CONNECTION_CLOSE with any code")
        await agent.heartbeat()


ANSWERS: dict[str, dict[str, Any]] = {
    "none": {"alpn": (), "alpn_required": False, "alpn_may_miss": True},
    "other": {"select_alpn": "other"},
}
"""What the upstream selects of the edge's offer, by variant: nothing, or what was not offered."""


@case(
    "quic-upstream-03",
    checks=["RFC9001-8.1-3", "RFC7301-3.2-4", "ALPN-013"],
    publish=quic(),
    over={"answer": tuple(ANSWERS)},
)
async def test_an_upstream_that_selects_nothing_or_something_else(scene: Scene) -> None:
    """The edge ends the connection to an upstream that selects no protocol, or one that was not offered, and the
    client's with it.

    The client offers foo; the upstream completes its side of the handshake without ALPN, or with `other`. It sees the
    edge close, with 0x178 or another code, and no octet of a stream; the client's connection ends. Then the upstream
    speaks foo, and a client gets through.
    """
    rows = ("ALPN-013", "RFC9001-8.1-3", "RFC7301-3.2-4")
    _, servers = await _unfit(scene, *rows, **ANSWERS[scene.variant["answer"]])
    scene.allow("ALPN-013", "C's connection ended")
    with scene.judging(*rows, ends=True):
        end = await over(servers[0])
        closed = end.by_peer and end.kind == "transport"
        for row in ("RFC9001-8.1-3", "RFC7301-3.2-4"):
            scene.expect(row, closed, expected="CONNECTION_CLOSE of the edge at the upstream", actual=str(end))
    named = end.code == NO_APPLICATION_PROTOCOL
    scene.allow("RFC9001-8.1-3", "CONNECTION_CLOSE 0x178 at U" if named else "any other")
    scene.allow("RFC7301-3.2-4", "QUIC: CONNECTION_CLOSE 0x178 or another code")
    await _fits(scene, *rows)


CARDS: dict[str, Callable[[str], Leaf]] = {
    "other-name": lambda host: upstream_identity("other.example"),
    "self-signed": self_signed,
    "expired": expired_identity,
}


@case("quic-upstream-04", checks=["RFC9001-4.4-1"], publish=quic(), over={"certificate": tuple(CARDS)})
async def test_the_upstreams_certificate(scene: Scene) -> None:
    """Whether the upstream's certificate is verified is noted; one that is refused leaves the client no connection.

    The upstream shows a certificate for another name, a self-signed or an expired one. Where the edge takes it, octets
    pass both ways; where it refuses it, no octet of a stream reaches the upstream and the client's connection ends.
    """
    row, item = "RFC9001-4.4-1", "no setting, or set off: accepted or refused, recorded"
    side, client = scene.quic_upstream(), await scene.quic_client(handshake=False)
    shown = CARDS[scene.variant["certificate"]](scene.endpoint().host)
    with scene.judging(row, ends=True):
        result, server = await scene.both(client.try_handshake(), side.accept(handshake=False, identity=shown))
        offered = result if isinstance(result, QuicEnd) else await server.try_handshake()
        if not isinstance(offered, QuicEnd):
            # A client of QUIC may refuse behind its server's handshake: the round trip tells.
            try:
                await echo(scene, client, server)
            except LinkReset:
                offered = await over(server)
        if isinstance(offered, QuicEnd):
            end = await over(client)
            carried = _octets([server])
            scene.expect(row, not carried, expected="no octet of a stream at the upstream", actual=carried or "none")
            scene.allow(row, item)
            scene.record(row, f"refused at the upstream ({offered}), the client's connection ended: {end}")
        else:
            scene.allow(row, item)
            scene.record(row, "taken, and relayed")


# What the edge must not take from an upstream


class _Retries:
    """In front of the first Retry of an upstream two that must be passed over, and one behind it."""

    def __init__(self) -> None:
        self._original = b""
        self.sources = [os.urandom(8) for _ in range(3)]
        """Connection ids that a client goes on with only where it believes a Retry that it must not believe."""
        self.given = False

    def on_packet(self, way: str, packet: PacketInfo) -> None:
        """Note the destination of the edge's first Initial: what a Retry's tag is made over."""
        if way == "received" and not self._original:
            self._original = packet.destination

    def tamper(self, index: int, datagram: bytes) -> Sequence[bytes] | bytes:
        """What goes out instead of a datagram of the upstream."""
        del index
        header = parse_header(datagram, 0, 0)
        if header.kind is not PacketKind.RETRY or self.given:
            return datagram
        self.given = True
        forged, empty, second = self.sources
        version, edge = header.version, header.destination
        broken = build_retry(version, edge, forged, b"a forged token", self._original)
        return [
            broken[:-1] + bytes((broken[-1] ^ 1,)),
            build_retry(version, edge, empty, b"", self._original),
            datagram,
            build_retry(version, edge, second, b"a second token", header.source),
            build_retry(version, edge, second, b"a second token", self._original),
        ]


@case("quic-upstream-06", checks=["RFC9000-17.2.5.2-1"], publish=quic())
async def test_one_genuine_retry_of_an_upstream(scene: Scene) -> None:
    """The edge follows at most one Retry of an upstream, with a valid tag and a token.

    The upstream answers the edge's first Initial with a Retry whose tag is wrong, one without a token, a genuine one,
    and another one with a valid tag, each with a connection id of its own. The handshake completes with the genuine
    one, and no packet of the edge goes to the connection id of another one. A round trip follows (B2).
    """
    row, retries = "RFC9000-17.2.5.2-1", _Retries()
    options: dict[str, Any] = {"retry": True, "tamper_datagram": retries.tamper, "on_packet": retries.on_packet}
    side, client = scene.quic_upstream(), await scene.quic_client(handshake=False, alpn=OFFER)
    with scene.judging(row, ends=True):
        _, server = await scene.both(client.handshake(), side.accept(alpn=OFFER, **options))
        await echo(scene, client, server)
    astray = [packet.destination.hex() for packet in _received(server) if packet.destination in retries.sources]
    scene.expect(
        row, not astray, expected="packets to the connection id of the genuine Retry", actual=f"{astray or 'no other'}"
    )


@case("quic-upstream-07", checks=["RFC9000-7.3-1"], publish=quic())
async def test_an_upstream_that_falsifies_the_first_connection_id(scene: Scene) -> None:
    """The edge ends the connection to an upstream whose parameters name another original connection id.

    The upstream falsifies original_destination_connection_id. It sees the edge close with TRANSPORT_PARAMETER_ERROR or
    PROTOCOL_VIOLATION, or another code, and no octet of a stream. The section says nothing of the client behind the
    edge: whether its connection ends is noted. Then the upstream is sound, and a client gets through.
    """
    row, number = "RFC9000-7.3-1", ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID
    falsified = {"alpn": OFFER, "parameters": lambda own: own.with_value(number, b"another")}
    _, servers = await _unfit(scene, row, client_ends=False, **falsified)
    named = (ErrorCode.TRANSPORT_PARAMETER_ERROR, ErrorCode.PROTOCOL_VIOLATION)
    with scene.judging(row, ends=True):
        end = await over(servers[0])
        closed = end.by_peer and end.kind == "transport"
        scene.expect(row, closed, expected="CONNECTION_CLOSE of the edge at the upstream", actual=str(end))
    scene.allow(row, "CONNECTION_CLOSE TRANSPORT_PARAMETER_ERROR" if end.code in named else "any other")
    await _fits(scene, row)


ASKED_AGAIN = bytes.fromhex("0d00000e 01ff 000a 000d 0006 0004 08040403")
"""A CertificateRequest: a context of one octet, and the signature schemes that are wanted (RFC 8446 section 4.3.2)."""


@case("quic-upstream-08", checks=["RFC9001-4.4-3"], publish=quic())
async def test_an_upstream_that_asks_for_a_certificate_later(scene: Scene) -> None:
    """The edge ends the connection to an upstream that asks for a client certificate behind the handshake.

    A client and the upstream are joined; the upstream says a CertificateRequest in a CRYPTO frame. It sees the edge
    close with PROTOCOL_VIOLATION or another code, and the client's connection ends.
    """
    row = "RFC9001-4.4-3"
    client, server = await joined(scene, alpn=OFFER)
    asked = Crypto(0, ASKED_AGAIN)
    await ends(
        scene, row, server, asked, named=ErrorCode.PROTOCOL_VIOLATION, first="CONNECTION_CLOSE PROTOCOL_VIOLATION"
    )
    client.strict = False
    with scene.judging(row):
        await over(client)


@case("quic-upstream-09", checks=["RFC9000-10.3.1-1"], publish=quic())
async def test_a_stateless_reset_of_the_upstream(scene: Scene) -> None:
    """A datagram that ends in the upstream's reset token ends the connection there, and the client's with it.

    The upstream announced the token in its parameters; a client is joined to it. It sends packets of 40 random octets
    that end in the token. The client's connection ends, in any way.
    """
    row, token = "RFC9000-10.3.1-1", os.urandom(16)
    client, server = await joined(scene, alpn=OFFER, upstream={"reset_token": token})
    client.strict = False
    for _ in range(TRIES):
        server.send_packet(bytes((0x40 | os.urandom(1)[0] & 0x3F,)) + os.urandom(23) + token)
    with scene.judging(row, ends=True):
        end = await over(client)
        scene.expect(row, end.kind != "idle", expected="the end of the connection", actual=str(end))
