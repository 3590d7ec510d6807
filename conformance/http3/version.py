"""ALPN of HTTP/3 at the edge, and the UDP port that it shares with QUIC tunnels (RFC 9114 section 3.1)."""

from __future__ import annotations

from conformance.http3._steps import connected, down_case, works
from conformance.quic._steps import Refusal, echo, refused
from harness.model.case import Variant
from harness.model.spec import TunnelSpec, http, quic
from harness.scene import Scene

NO_PROTOCOL = 0x178
"""CRYPTO_ERROR with the alert no_application_protocol (RFC 9001 section 8.1)."""
GENERIC_ALERT = 0x128
OWN = ("foo",)


@down_case(
    "h3-version-01",
    ["RFC9114-3.1-2", "HTTP-VER-008"],
    over={"offer": ("h3", "h3-beside-others", "foo", "hq-interop")},
)
async def test_alpn_of_an_http_tunnel_over_quic(scene: Scene) -> None:
    """A client that offers h3 gets it, and is served; one that offers nothing of the kind is refused in the handshake
    (B-e)."""
    rows, what = ("RFC9114-3.1-2", "HTTP-VER-008"), scene.variant["offer"]
    if what.startswith("h3"):
        offer = ("h3",) if what == "h3" else ("foo", "h3", "hq-interop")
        client = await connected(scene, alpn=offer)
        with scene.judging(*rows):
            await works(scene, client)
        alpn = client.quic.alpn
        branch = "h3 selected when offered"
        scene.expect("RFC9114-3.1-2", alpn == "h3", expected="ALPN h3", actual=str(alpn), branch=branch)
        scene.expect("HTTP-VER-008", alpn == "h3", expected="ALPN h3", actual=str(alpn))
        return
    with scene.judging(*rows, ends=True):  # Who refuses everybody has refused nothing.
        await works(scene, await connected(scene))
    got = await refused(scene, alpn=(what,))
    _judge_refusal(
        scene, got, "RFC9114-3.1-2", "no common ALPN: CONNECTION_CLOSE", "no common ALPN: connection refused"
    )
    named = {NO_PROTOCOL: "CONNECTION_CLOSE 0x178", GENERIC_ALERT: "CONNECTION_CLOSE 0x128"}
    code = got.end.code if got.end is not None and got.end.kind == "transport" else 0
    _judge_refusal(scene, got, "HTTP-VER-008", named.get(code, "another refusal"), "another refusal")


def _judge_refusal(scene: Scene, got: Refusal, row: str, named: str, other: str) -> None:
    # A close of HTTP/3 is one of an engine that went on: the handshake was not refused.
    went_on = got.accepted or (got.end is not None and got.end.kind == "application")
    scene.expect(row, not went_on, expected="a refusal in the handshake", actual=got.said)
    code = got.end.code if got.end is not None and got.end.kind == "transport" else 0
    scene.allow(row, named if code in (NO_PROTOCOL, GENERIC_ALERT) else other)


def _shared(_: Variant) -> dict[str, TunnelSpec]:
    return {"main": http(), "raw": quic(tls_alpns=OWN)}


@down_case("h3-version-02", ["QUIC-023", "HTTP-VER-008"], publish=_shared)
async def test_http3_and_a_quic_tunnel_on_one_port(scene: Scene) -> None:
    """Behind one UDP port an HTTP tunnel is reached with h3, a QUIC tunnel with its own protocol, each by its name; h3
    for the QUIC tunnel is refused."""
    ports = {scene.udp_endpoint(name).port for name in ("main", "raw")}
    if len(ports) > 1:
        scene.record("QUIC-023", "a port for each")
    with scene.judging("QUIC-023", "HTTP-VER-008"):
        client = await connected(scene)
        await works(scene, client)
        raw, server = await scene.quic_pair("raw", alpn=OWN)
        await echo(scene, raw, server)
        await works(scene, client)
        scene.expect("HTTP-VER-008", client.quic.alpn == "h3", expected="h3", actual=str(client.quic.alpn))
    got = await refused(scene, "raw", alpn=("h3",))
    scene.expect("QUIC-023", not got.accepted, expected="h3 refused at the QUIC tunnel", actual=got.said)
