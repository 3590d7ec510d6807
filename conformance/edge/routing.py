"""Which tunnel a connection goes to: by the server name of its ClientHello, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from conformance.edge._helpers import knock, serves, under, zone_of
from harness.engine.driver import Endpoint
from harness.errors import EngineDeparted, PeerMismatch
from harness.link.stream import End, LinkReset
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, private, tls
from harness.peer.http1 import Http1Client, exchange
from harness.scene import Scene
from harness.tasks import side_by_side

CROWD = 6
"""Clients per tunnel in the crowd."""


def pairs(variant: Variant) -> dict[str, TunnelSpec]:
    """Two tunnels of the variant's kind."""
    kinds: dict[str, Callable[[], TunnelSpec]] = {
        "http": http,
        "terminated": tls,
        "upstream-tls": lambda: tls(upstream_tls=True),
        "passthrough": lambda: tls(tls_mode="passthrough"),
    }
    make = kinds[variant["kind"]]
    return {"a": make(), "b": make()}


@case(
    "edge-sni-01",
    checks=["EDGE-008"],
    publish=pairs,
    over={"kind": ["http", "terminated", "upstream-tls", "passthrough"]},
)
async def test_the_server_name_chooses_the_tunnel(scene: Scene) -> None:
    """Of two tunnels on one engine each gets the connections that carry its name, and no others.

    Clients come by turns, a b a b. Each sends a nonce, which must arrive at the upstream of the tunnel whose name stood
    in the ClientHello; after the barrier neither upstream may have seen anything else.
    """
    with scene.judging("EDGE-008"):
        for name in ("a", "b", "a", "b"):
            await serves(scene, name)
    for name in ("a", "b"):
        await scene.settle(name)
    for name in ("a", "b"):
        await scene.untouched("EDGE-008", name)


@case(
    "edge-case-01",
    checks=["EDGE-018"],
    publish={"main": http(), "other": http()},
    over={"form": ["sni", "host", "host-and-port", "host-and-443", "all"]},
    revision=2,
)
async def test_names_are_compared_without_case(scene: Scene) -> None:
    """A server name or a Host in other letters, or a Host with the endpoint's own port, means the same tunnel.

    The client says the name in capitals in the ClientHello, in Host, both, or names the port in Host; the upstream of
    that tunnel must get the request. What comes of port 443 in Host where the endpoint has another port is recorded;
    no other tunnel may get that request either.
    """
    form, where = scene.variant["form"], scene.endpoint()
    loud = where.host.upper()
    named = loud if form in ("sni", "all") else where.host
    host = loud.replace("T", "t") if form in ("host", "all") else where.host
    host += {"host-and-port": f":{where.port}", "all": f":{where.port}", "host-and-443": ":443"}.get(form, "")
    with scene.judging("EDGE-018"):
        client = await scene.http_client(server_name=named)
        client.host = host
        if form == "host-and-443" and where.port != 443:
            scene.record("EDGE-018", f"Host with :443 on port {where.port}: {await _whatever(scene, client)}")
        else:
            await exchange(client, scene.http_upstream(), scene.nonce().hex())
            scene.expect("EDGE-018", True, expected="the tunnel's own upstream to answer", actual="it does")
    await scene.settle("other")
    await scene.untouched("EDGE-018", "other")


async def _whatever(scene: Scene, client: Http1Client) -> str:
    """What comes of a request that the upstream answers if it gets it."""
    upstream, nonce = scene.http_upstream(), scene.nonce().hex()

    async def answer() -> None:
        request = await upstream.request(nonce)
        await request.respond(200, body=nonce.encode())

    await client.request("GET", f"/{nonce}", nonce=nonce)
    answering = asyncio.ensure_future(answer())
    try:
        got = await client.outcome()
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    return str(got) if isinstance(got, End) else got.describe()


@case("edge-case-02", checks=["EDGE-018"], publish=tls(), over={"mode": ["upper", "mixed"]})
async def test_a_tls_tunnel_is_found_in_any_letters(scene: Scene) -> None:
    """The server name of a TLS tunnel is found in capitals and in mixed letters."""
    host = scene.endpoint().host
    named = host.upper() if scene.variant["mode"] == "upper" else host.title()
    with scene.judging("EDGE-018"):
        await serves(scene, server_name=named)
        scene.expect("EDGE-018", True, expected="the tunnel's own upstream", actual="it is")


NOBODY = ("unused", "deeper", "zone")


@case(
    "edge-unknown-01",
    checks=["EDGE-016"],
    publish={"web": http(), "raw": tls()},
    over={"name": list(NOBODY), "host": ["unknown", "known"]},
)
async def test_a_name_that_nobody_holds_reaches_no_upstream(scene: Scene) -> None:
    """A server name below the tunnel domain that no tunnel has reaches no upstream, and is refused in time.

    The client asks for an unused name, a name below a live tunnel's own, or the zone itself, and says that name, or
    a live tunnel's, in Host. An alert, a close, a 4xx and a 5xx are all right (the text leaves it open); no answer at
    all, a 2xx, or a request at either upstream is not.
    """
    near = scene.endpoint("web")
    zone = zone_of(near)
    unused = f"nobody{scene.nonce().hex()[:8]}.{zone}"
    name = {"unused": unused, "deeper": f"nobody.{near.host}", "zone": zone}[scene.variant["name"]]
    with scene.judging("EDGE-016"):
        seen = await knock(scene, near, name, host=near.host if scene.variant["host"] == "known" else None)
        scene.transcript.note("recorded", f"EDGE-016: a name that nobody holds: {seen.kind}, {seen.text}")
        scene.expect("EDGE-016", seen.refused, expected=f"a refusal of {name}", actual=seen.text)
    for published in ("web", "raw"):
        await scene.settle(published)
        await scene.untouched("EDGE-016", published)


@case("edge-nosni-01", checks=["EDGE-017"], publish={"web": http(), "raw": tls()}, over={"says": ["http", "octets"]})
async def test_a_client_without_server_name_reaches_no_upstream(scene: Scene) -> None:
    """A ClientHello without server name cannot be routed, and reaches no upstream.

    The client sends no server name, then (where the handshake completes at all, with the engine's own certificate) a
    request whose Host is a live tunnel's, or octets that are no HTTP. What it sees is recorded; both upstreams must
    stay untouched.
    """
    near = scene.endpoint("web")
    if scene.variant["says"] == "http":
        with scene.judging("EDGE-017"):
            seen = await knock(scene, near, None, host=near.host)
            scene.expect("EDGE-017", seen.refused, expected="a refusal", actual=seen.text)
    else:
        try:
            peer = await scene.tls_client("raw", server_name=None, alpn=(), handshake=False)
            await peer.handshake()
            await peer.send(scene.nonce())
        except (EngineDeparted, LinkReset) as refused:
            scene.transcript.note("refused", str(refused))
        scene.expect("EDGE-017", True, expected="no tunnel traffic", actual="see the upstreams")
    for published in ("web", "raw"):
        await scene.settle(published)
        await scene.untouched("EDGE-017", published)


@case(
    "edge-private-01",
    checks=["EDGE-005"],
    publish={"main": tls(), "hidden": private()},
    needs=["dynamic"],
    family="tls",
)
async def test_a_tunnel_that_is_not_published_has_no_endpoint(scene: Scene) -> None:
    """A tunnel that is not published gets no host name, and no name made of its own leads to it.

    Beside it stands a published tunnel, whose probes show that the engine has handled what came before: the private
    one must be told without hostname, host and port, and no client that uses its id or name as a server name may get
    through to it.
    """
    near, hidden = scene.endpoint(), scene.endpoint("hidden")
    address = {key: hidden.properties.get(key) for key in ("hostname", "host", "port") if hidden.properties.get(key)}
    scene.expect("EDGE-005", not address, expected="no hostname, host or port", actual=f"{address}")
    project = near.host.partition(".")[0].rpartition("-")[2]
    name = str(hidden.properties.get("name") or scene.spec("hidden").name)
    with scene.judging("EDGE-005"):
        for label in (hidden.name, name, f"{hidden.name}-{project}", f"{name}-{project}"):
            asked = f"{label}.{zone_of(near)}"
            seen = await knock(scene, near, asked)
            scene.expect("EDGE-005", seen.refused, expected=f"nobody to serve {asked}", actual=seen.text)
    await scene.settle()
    await scene.untouched("EDGE-005", "hidden")


def crowd(variant: Variant) -> dict[str, TunnelSpec]:
    """A mixture of tunnels of one agent."""
    del variant
    return {"web-1": http(), "web-2": http(), "raw-1": tls(), "raw-2": tls(), "raw-3": tls(tls_alpns=("a", "b"))}


@case("edge-crowd-01", checks=["EDGE-030"], publish=crowd)
async def test_traffic_of_many_tunnels_never_crosses(scene: Scene) -> None:
    """One agent's tunnels of both families are used by many clients at once, and nothing ever crosses.

    All clients come at the same time, each with a nonce of its own. A nonce must arrive at the upstream of its own
    tunnel, once, and the answer made from it must come back to the client that sent it.
    """
    crossed = True
    with scene.judging("EDGE-030"):
        results = await asyncio.gather(
            *(_web(scene, name) for name in ("web-1", "web-2")),
            *(_raw(scene, name) for name in ("raw-1", "raw-2", "raw-3")),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        crossed = False
    if crossed:
        return
    for name in ("web-1", "raw-1"):
        await scene.settle(name)
    for name in ("web-1", "web-2", "raw-1", "raw-2", "raw-3"):
        await scene.untouched("EDGE-030", name)


async def _web(scene: Scene, name: str) -> None:
    upstream = scene.http_upstream(name)

    async def one() -> None:
        client = await scene.http_client(name)
        await exchange(client, upstream, scene.nonce().hex())

    await side_by_side(*(one() for _ in range(CROWD)))


async def _raw(scene: Scene, name: str) -> None:
    side, wanted = scene.upstream(name), {scene.nonce() for _ in range(CROWD)}

    async def client(nonce: bytes) -> None:
        peer = await scene.tls_client(name)
        await peer.send(nonce)
        got = await peer.receive_exactly(len(nonce))
        if got != nonce[::-1]:
            raise PeerMismatch(f"the answer to this client's nonce through {name!r}", got.hex())

    async def server() -> None:
        peer: Any = await side.accept()
        got = await peer.receive_exactly(16)
        if got not in wanted:
            raise PeerMismatch(f"a nonce of a client of {name!r} at its upstream", got.hex())
        wanted.discard(got)
        await peer.send(got[::-1])

    await side_by_side(*(client(nonce) for nonce in tuple(wanted)), *(server() for _ in range(CROWD)))


@case("edge-opened-01", checks=["EDGE-028"], publish=tls(), needs=["dynamic"])
async def test_a_tunnel_serves_from_its_acknowledgement_on(scene: Scene) -> None:
    """The first client after the acknowledgement of a tunnel is served, every time, and before it nobody.

    Twenty tunnels of one name each: before the request the name is refused, the first try after the answer gets
    through.
    """
    near = scene.endpoint()
    label = near.host.partition(".")[0]
    with scene.judging("EDGE-028"):
        for number in range(20):
            wanted = f"n{number}{label}.{zone_of(near)}"
            seen = await knock(scene, near, wanted)
            scene.expect("EDGE-028", seen.refused, expected=f"nobody to serve {wanted} yet", actual=seen.text)
            made = (await scene.publish({f"new-{number}": tls(hostname=wanted)}))[f"new-{number}"]
            if not isinstance(made, Endpoint):
                raise PeerMismatch(f"a tunnel named {wanted}", str(made))
            await serves(scene, f"new-{number}", where=under(near, wanted))
