"""Which tunnel a QUIC connection goes to, what leads to none, and how a tunnel's connections end with it."""

from __future__ import annotations

import asyncio
import contextlib

from conformance.edge._helpers import zone_of
from conformance.quic._steps import Refusal, drained, echo, joined, judge_refused, listed, over, refused
from harness.engine.agent_driver import AgentSession
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.stream import End, LinkReset
from harness.model.case import case
from harness.model.spec import private, tls
from harness.peer.quic import QuicPeer
from harness.peer.quic_upstream import QuicUpstream
from harness.scene import Scene

CONNECTION_REFUSED = 0x02
UNRECOGNIZED_NAME = 0x170
CROWD = 10
"""Clients of each tunnel in the crowd."""
AT_ONCE = 5
JUNK = {
    "empty": b"",
    "one octet": b"\x01",
    "short header alone": b"\x40",
    "like DTLS": bytes.fromhex("16fefd0000000000000000000c") + bytes(12),
    "like a STUN request": bytes.fromhex("000100002112a442") + bytes(12),
    "like RTP": b"\x80\x60" + bytes(10),
    "zeros": bytes(65_507),
    "beginning of a long header": b"\xc0\x00\x00\x00\x01" + bytes(25),
    "long header with ids beyond the end": b"\xc0\x00\x00\x00\x01\xff" + bytes(30),
}
"""What comes to a UDP port and is no QUIC, by what it looks like (RFC 9443 section 3)."""


# Names


@case("quic-route-01", checks=["EDGE-008", "EDGE-018"], publish={"main": listed(), "other": listed()})
async def test_the_server_name_chooses_the_tunnel(scene: Scene) -> None:
    """Of two QUIC tunnels each gets the connections that carry its name, in whatever letters, and no others.

    Clients come by turns, main, other, main. Each one's nonce must arrive at the upstream of the tunnel whose name
    stood in the ClientHello. Then one says the name in capitals. After B1 on both neither upstream has seen more.
    """
    with scene.judging("EDGE-008", ends=True):
        for name in ("main", "other", "main"):
            client, _ = await joined(scene, name)
            await client.shut()
    with scene.judging("EDGE-018", ends=True):
        client, _ = await joined(scene, "other", server_name=scene.endpoint("other").host.upper())
        scene.expect("EDGE-018", True, expected="the upstream of the name in capitals", actual="it answers")
    await _untouched(scene, "EDGE-008", "main", "other")
    await scene.untouched("EDGE-018", "main")


async def _untouched(scene: Scene, row: str, *names: str) -> None:
    """B1 on each tunnel, then none of their upstreams saw a connection that nobody asked for."""
    for name in names:
        await scene.settle(name)
    for name in names:
        await scene.untouched(row, name)


def _refused_by_name(scene: Scene, got: Refusal) -> None:
    """CONNECTION_REFUSED and the alert that names the fault are one item of the row."""
    item = "CONNECTION_CLOSE CONNECTION_REFUSED"
    alert = got.end is not None and got.end.kind == "transport" and got.end.code == UNRECOGNIZED_NAME
    named = UNRECOGNIZED_NAME if alert else CONNECTION_REFUSED
    judge_refused(
        scene, "RFC9000-5.2.2-2", got, named=named, first=item, other="any other", silent="no answer, no connection"
    )


@case(
    "quic-route-02",
    checks=["EDGE-016", "RFC9000-5.2.2-2"],
    publish={"main": listed(), "other": listed()},
    over={"name": ["unused", "deeper", "zone"]},
)
async def test_a_name_that_nobody_holds_is_refused(scene: Scene) -> None:
    """A server name below the tunnel domain that no tunnel has gets no connection, and reaches no upstream.

    An unused name, a name below a live tunnel's own, and the zone itself. CONNECTION_REFUSED, a TLS alert or another
    code are all right; silence is recorded. Barrier B1 on every tunnel.
    """
    near = scene.endpoint()
    zone = zone_of(near)
    names = {"unused": f"nobody{scene.nonce().hex()[:8]}.{zone}", "deeper": f"nobody.{near.host}", "zone": zone}
    got = await refused(scene, server_name=names[scene.variant["name"]])
    scene.expect("EDGE-016", not got.accepted, expected="no connection", actual=got.said)
    _refused_by_name(scene, got)
    await _untouched(scene, "EDGE-016", "main", "other")
    await scene.untouched("RFC9000-5.2.2-2")


@case("quic-route-03", checks=["EDGE-017"], publish={"main": listed(), "other": listed()})
async def test_a_client_without_server_name_reaches_no_upstream(scene: Scene) -> None:
    """A ClientHello without server name gets no connection to a tunnel: any refusal, and silence, are all right.

    Barrier B1 on every tunnel.
    """
    got = await refused(scene, server_name=None)
    scene.expect("EDGE-017", not got.accepted, expected="no connection", actual=got.said)
    await _untouched(scene, "EDGE-017", "main", "other")


@case("quic-route-04", checks=["EDGE-001"], publish={"main": listed(), "tls": tls(tls_alpns=("a",))}, family="quic")
async def test_each_family_is_reached_in_its_own_way(scene: Scene) -> None:
    """A TLS tunnel is not reached over QUIC, nor a QUIC tunnel over TLS on TCP; each is over its own.

    A QUIC client says the name of the TLS tunnel, a TLS client that of the QUIC tunnel at the edge's TCP address; both
    are refused, and nothing reaches an upstream (B1 on both). Then a client of each family gets through.
    """
    row, quic_where, tls_where = "EDGE-001", scene.endpoint(), scene.endpoint("tls")
    got = await refused(scene, server_name=tls_where.host, alpn=["a"])
    scene.expect(row, not got.accepted, expected="no TLS tunnel over QUIC", actual=got.said)
    told = await _tls_refusal(scene, quic_where.host)
    scene.expect(row, told is not None, expected="no QUIC tunnel over TLS", actual=told or "a handshake")
    await _untouched(scene, row, "main", "tls")


async def _tls_refusal(scene: Scene, name: str) -> str | None:
    """How a TLS client that says this name at the edge's TCP address is refused; None where its handshake completes."""
    try:
        client = await scene.tls_client("tls", server_name=name, alpn=["a"], handshake=False)
        ended = await client.try_handshake()
    except LinkReset as reset:
        return reset.reason
    if isinstance(ended, End):
        return str(ended)
    # A refusal may stand behind the client's last flight.
    with contextlib.suppress(LinkReset, DeadlineExpired):
        await client.send(scene.nonce())
        return str(await client.end())
    return None


@case(
    "quic-route-05",
    checks=["EDGE-005"],
    publish={"main": listed(), "hidden": private(type="datagram")},
    needs=["dynamic"],
    family="quic",
)
async def test_a_private_tunnel_is_not_reached_over_quic(scene: Scene) -> None:
    """A tunnel that is not published is not reached over QUIC by any name made of its own.

    A client uses the id and the name of a private datagram tunnel as a server name, with and without the project's part
    of a published name; each is refused. After B1 on the published one the private one's agent was asked for nothing.
    """
    near, hidden = scene.endpoint(), scene.endpoint("hidden")
    project = near.host.partition(".")[0].rpartition("-")[2]
    name = str(hidden.properties.get("name") or scene.spec("hidden").name)
    for label in dict.fromkeys((hidden.name, name, f"{hidden.name}-{project}", f"{name}-{project}")):
        got = await refused(scene, server_name=f"{label}.{zone_of(near)}")
        scene.expect("EDGE-005", not got.accepted, expected=f"nobody to serve {label}", actual=got.said)
    await scene.settle()
    await scene.untouched("EDGE-005", "main")
    await scene.untouched("EDGE-005", "hidden")


@case("quic-route-06", checks=["EDGE-030"], publish={"main": listed(), "other": listed(), "tls": tls()}, family="quic")
async def test_traffic_of_many_tunnels_never_crosses(scene: Scene) -> None:
    """One agent's QUIC and TLS tunnels are used by many clients at once, and nothing ever crosses.

    Ten clients of each of two QUIC tunnels and of a TLS tunnel, some at a time, each with a nonce of its own; what a
    client gets back is made of its own nonce by the upstream of its own tunnel. B1 on all follows.
    """
    with scene.judging("EDGE-030", ends=True):
        await asyncio.gather(_crowd(scene, "main"), _crowd(scene, "other"), _tls_crowd(scene))
    await _untouched(scene, "EDGE-030", "main", "other", "tls")


async def _crowd(scene: Scene, name: str) -> None:
    """Clients of the QUIC tunnel: each finds its own connection at the upstream by its nonce."""
    side = scene.quic_upstream(name)
    for _ in range(CROWD // AT_ONCE):
        tokens = [scene.nonce() for _ in range(AT_ONCE)]
        clients, servers = await scene.both(_clients(scene, name, tokens), _servers(side))
        met = dict(zip(tokens, clients, strict=True))
        for server in servers:
            stream = await server.accept_stream()
            token, _ = await drained(stream)
            asking = met.pop(token, None)
            if asking is None:
                raise PeerMismatch(f"a nonce of a client of {name!r} at its upstream, once", token.hex())
            await echo(scene, asking, server)
        for client in clients:
            await client.shut()


async def _clients(scene: Scene, name: str, tokens: list[bytes]) -> list[QuicPeer]:
    return await asyncio.gather(*(_asking(scene, name, token) for token in tokens))


async def _servers(side: QuicUpstream) -> list[QuicPeer]:
    return [await side.accept() for _ in range(AT_ONCE)]


async def _asking(scene: Scene, name: str, token: bytes) -> QuicPeer:
    client = await scene.quic_client(name)
    await (await client.open_stream()).send(token, fin=True)
    return client


async def _tls_crowd(scene: Scene) -> None:
    for _ in range(CROWD):
        client, upstream = await scene.pair("tls")
        await client.close()
        await upstream.close()


# Life


@case(
    "quic-route-07",
    checks=["EDGE-027"],
    publish={"main": listed(), "other": listed()},
    needs=["dynamic"],
)
async def test_closing_a_tunnel_ends_its_connections(scene: Scene) -> None:
    """When the agent closes a QUIC tunnel its connections end on both sides, and no new one begins.

    A connection is joined and has carried octets; the agent closes the tunnel. The client's connection and the
    upstream's end, in any way; a new client is refused, and nothing of it reaches the upstream (B1 on another tunnel,
    at the same port).
    """
    assert isinstance(scene.session, AgentSession)
    with scene.judging("EDGE-027", ends=True):
        client, server = await joined(scene)
        await scene.session.withdraw("main")
        for peer in (client, server):
            peer.strict = False
            end = await over(peer)
            scene.expect("EDGE-027", end.kind != "idle", expected="the end of the connection", actual=str(end))
        got = await refused(scene)
        scene.expect("EDGE-027", not got.accepted, expected="nobody to serve the closed tunnel", actual=got.said)
    await _untouched(scene, "EDGE-027", "other")
    await scene.untouched("EDGE-027", "main")


@case(
    "quic-route-08",
    checks=["EDGE-026"],
    publish={"main": listed()},
    settings={"timeout.lease-ms": 60_000},
    needs=["dynamic", "tls-link"],
)
async def test_a_lost_agent_keeps_its_connections(scene: Scene) -> None:
    """When the control channel of an agent breaks, a joined QUIC connection goes on, and new clients are refused.

    Octets have passed; the connection of the control channel is reset. A new client is refused, and reaches no
    upstream; a round trip on the old connection comes through (B2).
    """
    with scene.judging("EDGE-026", ends=True):
        client, server = await joined(scene)
        scene.agent.drop()
        got = await refused(scene)
        scene.expect("EDGE-026", not got.accepted, expected="a new client to be refused", actual=got.said)
        await echo(scene, client, server)
    await scene.untouched("EDGE-026")


# What is no QUIC


@case("quic-junk-01", checks=["EDGE-001"], publish=listed())
async def test_junk_on_the_udp_port_is_dropped(scene: Scene) -> None:
    """What comes to the UDP port and is no QUIC is dropped: a connection that runs goes on, and new ones begin.

    Empty and short packets, what looks like DTLS, STUN and RTP, the longest packet there is, and beginnings of long
    headers. Behind each a round trip on a joined connection (B2); then B1, whose probes are new connections. Nothing
    reaches the upstream, and nothing is answered.
    """
    client, server = await joined(scene)
    raw = await scene.udp()
    with scene.judging("EDGE-001", ends=True):
        for what, packet in JUNK.items():
            scene.transcript.note("junk", f"{what}: {len(packet)} octets")
            raw.send(packet)
            try:
                await echo(scene, client, server)
            except DeadlineExpired as silent:
                scene.depart("EDGE-001", expected=f"a connection that goes on behind {what}", actual=str(silent))
    await _untouched(scene, "EDGE-001", "main")
    answer = raw.receive_now()
    told = "nothing" if answer is None else f"{len(answer)} octets, {answer[:16].hex()}"
    scene.expect("EDGE-001", answer is None, expected="no answer to what is no QUIC", actual=told)
