"""Which versions the edge speaks with clients: what ALPN says and does not say, and where HTTP/3 is there at all."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.http._pair_steps import meet, pair_case, works
from conformance.http._pairs import DOWN
from conformance.validation._judging import ask, told
from harness.engine.driver import Refused
from harness.errors import EngineDeparted
from harness.link.stream import LinkReset
from harness.model.case import Variant, case
from harness.model.spec import http
from harness.peer.http1 import Response
from harness.scene import Scene

OFFERS = {"both": ["h2", "http/1.1"], "h1": ["http/1.1"], "h2": ["h2"], "none": []}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
REQUEST = bytes.fromhex("0000060105000000018287844501") + b"/"
"""HEADERS of a GET of `/` without an authority, END_STREAM and END_HEADERS, on stream 1."""


def offered(variant: Variant) -> Sequence[str]:
    """The feature that an offer needs."""
    return ["http.downstream-h2"] if "h2" in OFFERS[variant["offer"]] else []


@case("http-version-01", checks=["HTTP-VER-007"], publish=http(), over={"offer": tuple(OFFERS)}, features=offered)
async def test_alpn_picks_the_version(scene: Scene) -> None:
    """ALPN picks HTTP/2 or HTTP/1.1, whatever the client offers first, and an exchange follows in it.

    A client that offers both gets h2 (http/1.1 is recorded: the choice is the server's); one without ALPN is served in
    HTTP/1.1.
    """
    offer = OFFERS[scene.variant["offer"]]
    with scene.judging("HTTP-VER-007"):
        client = await scene.tls_client(alpn=offer)
        chosen = client.alpn
        await client.close()
        fits = chosen in offer if offer else chosen is None
        expected = f"one of {offer}" if offer else "no ALPN"
        scene.expect("HTTP-VER-007", fits, expected=expected, actual=str(chosen))
        asking = await scene.http_client(version=chosen or DOWN["h1"], alpn=offer)
        response = await works(scene, asking)
        scene.expect("HTTP-VER-007", response.status == 200, expected="200", actual=response.describe())
    if offer == OFFERS["both"] and chosen != "h2":
        scene.record("HTTP-VER-007", f"{chosen} of {offer}")


@pair_case("http-version-05", ["RFC9113-3.1-1"], down=("h1",))
async def test_no_upgrade_to_h2c(scene: Scene) -> None:
    """`Upgrade: h2c` is no way into HTTP/2: the answer is one of HTTP/1.1, and the upstream sees neither field."""
    fields = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]
    with scene.judging("RFC9113-3.1-1"):
        met = await meet(scene, fields=fields)
        seen = [name for name in ("upgrade", "http2-settings") if met.request.get(name)]
        response = await met.answered(200, body=met.nonce.encode())
        plain = response.status == 200 and response.body == met.nonce.encode() and not response.informational
        actual = f"{seen or 'neither'} at the upstream, {response.describe()}"
        expected = "200 of HTTP/1.1, neither field at the upstream"
        branch = "HTTP/1.1 answer, both fields dropped"
        scene.expect("RFC9113-3.1-1", plain and not seen, expected=expected, actual=actual, branch=branch)


@case("http-version-06", checks=["RFC9113-3.3-1"], publish=http(), over={"alpn": ("http/1.1", "none")})
async def test_a_preface_alone_is_no_way_into_http2(scene: Scene) -> None:
    """The preface of HTTP/2 and a request behind it, without h2 in ALPN, get an error or an end; the upstream sees
    nothing."""
    alpn = [] if scene.variant["alpn"] == "none" else ["http/1.1"]
    with scene.judging("RFC9113-3.3-1"):
        client = await scene.http_client(alpn=alpn)
        await client.offer(PREFACE + REQUEST, expects=["PRI"])
        got = await client.outcome()
        if isinstance(got, Response):
            error = got.status >= 400
            branch = "400, 501, 505" if error else None
            scene.expect("RFC9113-3.3-1", error, expected="an error", actual=got.describe(), branch=branch)
        else:
            scene.allow("RFC9113-3.3-1", "close")
    await scene.settle()
    await scene.untouched("RFC9113-3.3-1")


@case("http-version-09", checks=["RFC7301-3.2-3"], publish=http(), features=["http.downstream-h2"])
async def test_text_of_http1_on_a_connection_of_h2(scene: Scene) -> None:
    """A request of HTTP/1.1 on a connection that selected h2 is not served: nothing reaches the upstream, and the
    connection ends."""
    row = "RFC7301-3.2-3"
    with scene.judging(row):
        client = await scene.tls_client(alpn=["h2"])
        host = scene.endpoint().host
        await client.send(f"GET /{scene.nonce().hex()} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        got, end = await client.receive_until_end()
        served = got.startswith(b"HTTP/1.1 2")
        scene.expect(row, not served, expected="GOAWAY or an end", actual=f"{got[:60]!r}, {end}", branch="GOAWAY or")
    await scene.settle()
    await scene.untouched(row)


# Where HTTP/3 is there at all: HTTP-VER-012


async def _no_h3_client(scene: Scene) -> None:
    """No client of HTTP/3 reaches an HTTP tunnel."""
    where = scene.endpoint().over_udp()
    if where is None:
        scene.expect("HTTP-VER-012", True, expected="no UDP port", actual="none")
        return
    try:
        await scene.quic_client(alpn=["h3"])
    except (EngineDeparted, LinkReset) as refusal:
        scene.expect("HTTP-VER-012", True, expected="no HTTP/3", actual=str(refusal))
    else:
        scene.depart("HTTP-VER-012", expected="no HTTP/3 without its listener", actual="a handshake of h3")


async def _refused(scene: Scene) -> None:
    answer = await ask(scene, http(http_version="h3"))
    refused = isinstance(answer, Refused)
    scene.expect("HTTP-VER-012", refused, expected="a refusal of the h3 tunnel", actual=told(answer))


@case(
    "http-version-03",
    checks=["HTTP-VER-012"],
    publish=http(),
    settings={"edition": "community"},
    needs=["dynamic"],
    features=["edition.community", "http.downstream-h3"],
)
async def test_the_community_edition_has_no_http3(scene: Scene) -> None:
    """The community edition refuses a tunnel with an h3 upstream, and serves no client over HTTP/3."""
    await _refused(scene)
    await _no_h3_client(scene)


@case(
    "http-version-07",
    checks=["HTTP-VER-012"],
    publish=http(),
    settings={"edition": "enterprise", "listener.udp": False},
    needs=["dynamic"],
    features=["edition.enterprise", "http.downstream-h3"],
)
async def test_without_the_udp_listener_there_is_no_http3(scene: Scene) -> None:
    """Without its UDP listener the enterprise edition refuses a tunnel with an h3 upstream, too, and serves no client
    over HTTP/3."""
    await _refused(scene)
    await _no_h3_client(scene)


@case(
    "http-version-04",
    checks=["HTTP-VER-014"],
    publish=http(),
    over={"down": ("h1", "h2")},
    features=lambda variant: ["http.downstream-h2"] if variant["down"] == "h2" else [],
)
async def test_alt_svc(scene: Scene) -> None:
    """Alt-Svc of the upstream, which names a port that the edge does not serve, does not reach the client; whether the
    edge says one of its own is recorded."""
    met = await meet(scene)
    theirs = 'h3=":9"; ma=60'
    response = await met.answered(200, [("alt-svc", theirs)])
    said = response.get_all("alt-svc")
    through = any('":9"' in value for value in said)
    scene.expect("HTTP-VER-014", not through, expected="the upstream's Alt-Svc kept away", actual=f"{said}")
    scene.record("HTTP-VER-014", f"Alt-Svc {said or 'none'}")
