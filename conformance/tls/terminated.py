"""TLS tunnels that end at the edge: the client's TLS is the edge's, the upstream gets plaintext or TLS of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from conformance.tls._steps import MODES, VERSIONS, by_mode, echo, spec_of, works
from conformance.tls._tap import tap_of
from harness.engine.driver import Endpoint, UpstreamQueue
from harness.errors import DeadlineExpired
from harness.link.deadline import deadline
from harness.model.case import case
from harness.model.spec import http, tls
from harness.peer.agent import Agent
from harness.peer.raw import RawPeer
from harness.peer.tls import TlsPeer
from harness.peer.tls_pki import upstream_identity
from harness.peer.upstream import UpstreamSide
from harness.scene import Scene

BULK = 2 << 20
PARALLEL = 200


@case("tls-sanity", checks=["TLS-001"], publish=tls(), sanity=True)
async def test_a_tls_tunnel_carries_octets_both_ways(scene: Scene) -> None:
    """A TLS tunnel takes a TLS connection and carries its traffic to the upstream and back.

    The client sends a nonce, which must be the first thing that the upstream reads; the upstream answers with another.
    """
    client, upstream = await scene.pair()
    answer = scene.nonce()
    await upstream.send(answer)
    got = await client.receive_exactly(len(answer))
    scene.expect("TLS-001", got == answer, expected="the upstream's answer at the client", actual=got.hex())


@case(
    "tls-modes-01",
    checks=["TLS-002", "TLS-003"],
    publish={"main": tls(), "through": tls(tls_mode="passthrough")},
)
async def test_termination_is_the_default(scene: Scene) -> None:
    """A TLS tunnel ends TLS at the edge unless passthrough is asked for.

    On a tunnel without a mode the client sees another certificate than the upstream's and the upstream reads the
    client's octets as they are; on one in passthrough the client sees the upstream's certificate.
    """
    own = upstream_identity().chain[0]
    client, upstream = await scene.pair()
    seen = client.peer_certificates[0]
    scene.expect("TLS-002", seen != own, expected="a certificate of the edge", actual=seen.subject.rfc4514_string())
    await echo(scene, client, upstream, "TLS-003")
    through, server = await scene.pair("through")
    seen = through.peer_certificates[0]
    scene.expect("TLS-002", seen == own, expected="the upstream's certificate", actual=seen.subject.rfc4514_string())
    await echo(scene, through, server, "TLS-002")


async def _pump(source: TlsPeer, sink: Any, data: bytes, *, small: int) -> bool:
    """Send `data`, the first `small` octets one by one; whether it arrived whole."""

    async def send() -> None:
        for at in range(small):
            await source.send(data[at : at + 1])
        await source.send(data[small:])

    sending = asyncio.ensure_future(send())
    try:
        return bool(await sink.receive_exactly(len(data)) == data)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@case(
    "tls-bulk-01",
    checks=["TLS-004"],
    publish=by_mode,
    over={"mode": MODES, "version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_octets_keep_order_and_value_both_ways_at_once(scene: Scene) -> None:
    """Octets cross a tunnel in order and unchanged, in both directions at once.

    2 MiB go up and 2 MiB come down at the same time, each beginning with writes of a single octet; both must arrive
    whole.
    """
    versions = VERSIONS[scene.variant["version"]]
    with scene.judging("TLS-004"):
        client, upstream = await scene.pair(versions=versions)
        up, down = scene.nonce() * (BULK // 16), scene.nonce() * (BULK // 16)
        got = await scene.both(_pump(client, upstream, up, small=64), _pump(upstream, client, down, small=64))
        scene.expect("TLS-004", all(got), expected="both streams whole", actual=f"up whole: {got[0]}, down: {got[1]}")


@case("tls-first-01", checks=["TLS-006"], publish=by_mode, over={"mode": MODES})
async def test_the_upstream_may_speak_first(scene: Scene) -> None:
    """A protocol whose server speaks first works: the client reads a banner without having sent anything.

    The upstream writes as soon as its stream is there; the client, which has sent nothing, must get that.
    """
    banner = scene.nonce()
    with scene.judging("TLS-006"):
        client = await scene.tls_client(handshake=False)
        if scene.variant["mode"] == "terminated":
            await client.handshake()
            upstream: Any = await scene.upstream().accept()
        else:
            _, upstream = await scene.both(client.handshake(), scene.upstream().accept_tls())
        await upstream.send(banner)
        got = await client.receive_exactly(len(banner))
        scene.expect("TLS-006", got == banner, expected="the banner at the client", actual=got.hex())


@case(
    "tls-versions-01",
    checks=["TLS-019"],
    publish=by_mode,
    over={"mode": ("terminated", "upstream-tls"), "version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_both_versions_are_served(scene: Scene) -> None:
    """A terminated tunnel without a lowest version serves clients of TLS 1.2 and of TLS 1.3.

    A client that speaks only the one version gets through to the upstream and back.
    """
    await works(scene, "TLS-019", versions=VERSIONS[scene.variant["version"]])


@case(
    "tls-leg-01",
    checks=["TLS-005"],
    publish=by_mode,
    over={"mode": MODES},
    needs=["dynamic"],
    family="tls",
    axes=["agent.transport"],
)
async def test_the_agent_leg_is_encrypted(scene: Scene) -> None:
    """Between agent and engine everything is encrypted, whatever the tunnel's mode.

    A second agent reaches the engine through a relay of ours that keeps the octets, and publishes the same tunnel. A
    marker goes up and down through it and the connections end; on the tapped path there are TLS records only (packets
    of QUIC where the agent speaks that), and the marker is not among their octets. In passthrough and with upstream TLS
    the same holds of the inner TLS.
    """
    marker = b"PLAINTEXT-MARK " * 4
    where, spec = scene.endpoint(), spec_of(scene.variant["mode"])
    tap = tap_of(scene.agent.access)
    scene.on_close(tap.close)
    agent = Agent(await tap.start(), transcript=scene.transcript, name="agent-tap")
    scene.on_close(agent.close)
    with scene.judging("TLS-005"):
        await agent.open()
        queue = UpstreamQueue()
        properties = await agent.open_tunnel(spec, queue)
        side = UpstreamSide(queue, spec, scene.transcript, "tapped")
        endpoint = Endpoint(properties.hostname.value or properties.host.value, where.address, where.port)
        client = await scene.tls_client(handshake=False, endpoint=endpoint)
        upstream: Any
        if spec.upstream == "tls":
            _, upstream = await scene.both(client.handshake(), side.accept_tls())
            await client.send(marker)
        else:
            await client.handshake()
            await client.send(marker)
            upstream = await side.accept()
        await upstream.receive_exactly(len(marker))
        await upstream.send(marker)
        await client.receive_exactly(len(marker))
        await client.close()
        await upstream.end()
        await upstream.close()
        odd = await tap.odd(marker[:14])
    scene.expect("TLS-005", not odd, expected=f"{tap.form} only on the agent's leg", actual=odd or tap.form)


@case(
    "tls-idle-01",
    checks=["TLS-025"],
    publish={"main": tls(), "web": http()},
    settings={"timeout.http-idle-ms": 300},
)
async def test_an_idle_stream_stays(scene: Scene) -> None:
    """The idle timeout of HTTP connections does not cut a TLS tunnel's stream.

    An idle HTTP connection, opened behind the stream, shows when the timeout has passed: the engine closes it (or the
    deadline of a wait passes). The stream still echoes then.
    """
    client, upstream = await scene.pair()
    web = await scene.tls_client("web")
    with contextlib.suppress(DeadlineExpired):
        await web.end()
    await echo(scene, client, upstream, "TLS-025")


@case("tls-parallel-01", checks=["TLS-026"], publish=tls(), slow=True)
async def test_many_streams_in_parallel(scene: Scene) -> None:
    """200 connections at once are 200 upstream streams, and none of them gets octets of another.

    Each client sends a nonce of its own; each stream must begin with one of these, and its reversed echo must reach
    the client that sent it.
    """
    tokens = [scene.nonce() for _ in range(PARALLEL)]
    with scene.judging("TLS-026", ends=True):
        clients = [await scene.tls_client() for _ in tokens]
        await asyncio.gather(*(client.send(token) for client, token in zip(clients, tokens, strict=True)))
        side, seen = scene.upstream(), []
        for _ in tokens:
            stream = await side.accept()
            seen.append(await stream.receive_exactly(16))
            await stream.send(seen[-1][::-1])
        got = await asyncio.gather(*(client.receive_exactly(16) for client in clients))
    whole = sorted(seen) == sorted(tokens) and list(got) == [token[::-1] for token in tokens]
    actual = f"{len(set(seen) & set(tokens))} of {PARALLEL} streams with a nonce of ours, echoes right: {whole}"
    scene.expect("TLS-026", whole, expected="one stream per client, with its octets alone", actual=actual)


@case("tls-source-01", checks=["TLS-027"], publish=by_mode, over={"mode": MODES}, needs=["dynamic"])
async def test_the_clients_address_goes_beside_the_data(scene: Scene) -> None:
    """The agent is told the client's address with the stream, and nothing is written into the data.

    The address that comes with the stream is the one that the client's socket has; the first octet at the upstream is
    the client's first (of its ClientHello in passthrough, of the engine's with upstream TLS).
    """
    mode, token = scene.variant["mode"], scene.nonce()
    with scene.judging("TLS-027", ends=True):
        client = await scene.tls_client(handshake=mode == "terminated")
        if mode == "terminated":
            await client.send(token)
        else:
            await client.start()
        stream = await (_beside(client, scene) if mode == "upstream-tls" else scene.upstream().accept())
        first = await stream.receive_exactly(16 if mode == "terminated" else 3)
    address = stream.source or "no address"
    known = address.strip("[]").rpartition(":")[0].strip("[]") or address
    scene.expect("TLS-027", known == client.link.local[0], expected=str(client.link.local[0]), actual=address)  # type: ignore[attr-defined]
    right = first == token if mode == "terminated" else first[:2] == b"\x16\x03"
    scene.expect("TLS-027", right, expected="the first octets of the data itself", actual=first.hex())


async def _beside(client: TlsPeer, scene: Scene) -> RawPeer:
    """The raw upstream stream of a client whose handshake runs beside."""
    handshake = asyncio.ensure_future(client.handshake())
    try:
        return await scene.upstream().accept()
    finally:
        async with deadline("the client's handshake"):
            await handshake
