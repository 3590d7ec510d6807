"""The public port: agents, API and traffic on one TLS listener, and the plain listener that redirects to it."""

from __future__ import annotations

import json

from conformance.edge._helpers import HTTP, access, api, serves
from harness.errors import NotSupported
from harness.link.stream import End
from harness.model.case import case
from harness.model.spec import http, tls
from harness.peer.http1 import Http1Client
from harness.peer.scripted_agent import accepted
from harness.scene import Scene


@case(
    "edge-port-01",
    checks=["EDGE-009"],
    publish={"web": http(), "raw": tls()},
    needs=["dynamic", "agent"],
    features=["edge.shared-port", "edge.api"],
)
async def test_one_port_serves_agents_api_and_traffic(scene: Scene) -> None:
    """Agents, the engine's API and published traffic are told apart on one TLS port.

    At the same address and port an agent opens its control channel (ALPN rstrm/1), a client fetches
    `/api/openapi.json` of the engine's name, and clients of a TLS and of an HTTP tunnel get through.
    """
    own = access(scene)
    places = {(own.address, own.port)} | {(scene.endpoint(n).address, scene.endpoint(n).port) for n in ("web", "raw")}
    scene.expect("EDGE-009", len(places) == 1, expected="one address and port", actual=f"{sorted(places)}")
    with scene.judging("EDGE-009"):
        agent = await scene.scripted_agent()
        accepted(await agent.open())
        peer, response = await api(scene, "/api/openapi.json")
        document = _json_of(response.body)
        is_one = response.status == 200 and isinstance(document, dict) and "openapi" in document
        scene.expect("EDGE-009", is_one, expected="the API's description", actual=response.describe())
        await peer.close()
        await serves(scene, "web")
        await serves(scene, "raw")
        await agent.close()


def _json_of(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


@case(
    "edge-port-02",
    checks=["EDGE-009"],
    publish={"main": tls(tls_alpns=("rstrm/1", "x")), "web": http()},
    needs=["dynamic"],
    features=["edge.shared-port", "tls.alpn"],
)
async def test_a_tunnels_name_wins_over_the_agents_protocol(scene: Scene) -> None:
    """A client that names a tunnel gets the tunnel, whatever protocols it offers.

    It offers the agents' own protocol on a TLS tunnel whose list has it: the octets go to the tunnel's upstream, not
    to the agent link. On an HTTP tunnel the offer of both ends in HTTP, or in a refusal, never on the agent link.
    """
    with scene.judging("EDGE-009"):
        await serves(scene, alpn=("rstrm/1",))
        peer = await scene.tls_client("web", alpn=("rstrm/1", *HTTP), handshake=False)
        ended = await peer.try_handshake()
        fine = isinstance(ended, End) or peer.alpn in HTTP
        scene.expect("EDGE-009", fine, expected="http/1.1 or a refusal", actual=f"ALPN {peer.alpn}")
    await scene.settle("web")
    await scene.untouched("EDGE-009", "web")


TARGETS = {
    "path": ("GET", "/a?b=1", "/a?b=1"),
    "root": ("GET", "/", "/"),
    "encoded": ("GET", "/%2e%2e/a%20b?c=%2F", "/%2e%2e/a%20b?c=%2F"),
    "head": ("HEAD", "/a?b=1", "/a?b=1"),
    "post": ("POST", "/form", "/form"),
}


@case(
    "edge-redirect-01",
    checks=["EDGE-010"],
    publish=http(),
    settings={"listener.http": True},
    features=["edge.redirect"],
    over={"request": list(TARGETS)},
)
async def test_the_plain_listener_redirects_to_https(scene: Scene) -> None:
    """A request to the plain HTTP listener is answered by a redirect to the same URL under https, and not forwarded.

    Host is a live tunnel's. The Location must name that host (the public port may stand behind it), path and query
    as they were; the tunnel's upstream stays untouched. The redirect's target is then fetched, and reaches it.
    """
    method, target, wanted = TARGETS[scene.variant["request"]]
    where = scene.endpoint()
    client = await _plain(scene, where.host)
    with scene.judging("EDGE-010"):
        await client.request(method, target, body=b"a=b" if method == "POST" else None)
        response = await client.response()
        redirected = response.status // 100 == 3
        scene.expect("EDGE-010", redirected, expected="a redirect", actual=response.describe())
        location = response.get("location") or ""
        allowed = [f"https://{name}{wanted}" for name in (where.host, f"{where.host}:{where.port}")]
        scene.expect("EDGE-010", location in allowed, expected=" or ".join(allowed), actual=location or "no Location")
        scene.expect("EDGE-010", not response.violations, expected="legal HTTP", actual=f"{response.violations}")
    await scene.settle()
    await scene.untouched("EDGE-010")
    with scene.judging("EDGE-010"):
        await serves(scene)


@case(
    "edge-redirect-02",
    checks=["EDGE-010"],
    publish=http(),
    settings={"listener.http": True},
    features=["edge.redirect"],
    over={"request": ["no-host", "absolute", "connect", "upgrade", "two"]},
)
async def test_no_request_passes_the_plain_listener(scene: Scene) -> None:
    """Whatever is asked of the plain HTTP listener, nothing of it reaches an upstream.

    No Host, the absolute form, CONNECT, an upgrade to WebSocket, and two requests in one go: a redirect, an error or a
    close are all right, a 2xx or 101 is not.
    """
    host = scene.endpoint().host
    get = f"GET /x HTTP/1.1\r\nHost: {host}\r\n"
    said = {
        "no-host": "GET /x HTTP/1.1\r\n\r\n",
        "absolute": f"GET http://{host}/x HTTP/1.1\r\nHost: {host}\r\n\r\n",
        "connect": f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n",
        "upgrade": get + "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        "two": f"{get}\r\n{get}\r\n",
    }[scene.variant["request"]]
    client = await _plain(scene, host)
    with scene.judging("EDGE-010"):
        await client.offer(said.encode(), expects="CONNECT" if scene.variant["request"] == "connect" else "GET")
        got = await client.outcome()
        refused = isinstance(got, End) or got.status >= 300
        told = str(got) if isinstance(got, End) else got.describe()
        scene.expect("EDGE-010", refused, expected="a redirect or a refusal", actual=told)
    await scene.settle()
    await scene.untouched("EDGE-010")


async def _plain(scene: Scene, host: str) -> Http1Client:
    """A client of the plain listener. Raises `NotSupported` where nobody says where it is."""
    found = getattr(scene.driver, "addresses", {}).get("redirect")
    if found is None:
        raise NotSupported("the address of the plain HTTP listener")
    near = scene.endpoint()
    peer = await scene.tcp(endpoint=type(near)(host, *found))
    return Http1Client(peer.link, peer.channel, host=host)
