"""What a tunnel's protocol decides: what the endpoint speaks, and what reaches the upstream of it."""

from __future__ import annotations

from conformance.edge._helpers import knock, serves, zone_of
from harness.engine.driver import Refused
from harness.errors import DeadlineExpired
from harness.link.stream import LinkReset
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, tls
from harness.scene import Scene

BOTH = {"web": http(), "raw": tls()}

NO_HTTP = b"\x00\x01\xfe\xff no request at all\n\n"
REQUEST = b"GET /looks-like-http HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n"
PAYLOADS = {
    "octets": bytes(range(256)) * 8,
    "request": REQUEST,
    "connect": b"CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n",
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "malformed": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: -1\r\n\r\n",
}


@case("edge-families-01", checks=["EDGE-001"], publish=BOTH, over={"family": ["http", "tls"]})
async def test_each_family_reaches_its_upstream_in_its_own_form(scene: Scene) -> None:
    """An HTTP tunnel hands its upstream HTTP messages, a TLS tunnel the plaintext as it came.

    Both are published side by side. The matching client gets through: a request whose nonce the HTTP upstream reads as
    a message, octets that are no HTTP at all as the first thing that the TLS upstream reads. The same octets on the
    HTTP tunnel are no request: nothing of them may reach its upstream.
    """
    with scene.judging("EDGE-001"):
        if scene.variant["family"] == "tls":
            client, upstream = await scene.pair("raw", nonce=NO_HTTP + scene.nonce())
            await upstream.send(NO_HTTP)
            got = await client.receive_exactly(len(NO_HTTP))
            scene.expect("EDGE-001", got == NO_HTTP, expected="the upstream's octets at the client", actual=repr(got))
            return
        await serves(scene, "web")
        stray = await scene.tls_client("web")
        await stray.send(NO_HTTP + b"\r\n\r\n")
        await scene.settle("web")
        scene.expect("EDGE-001", True, expected="HTTP messages to be relayed", actual="they are")
        await scene.untouched("EDGE-001", "web")


@case("edge-families-02", checks=["EDGE-001"], publish=BOTH, over={"family": ["http", "tls"]})
async def test_plaintext_toward_an_endpoint_reaches_no_upstream(scene: Scene) -> None:
    """Both families are served over TLS: octets that come without it reach no upstream.

    A client sends a request (or the octets that a TLS tunnel would carry) in the clear to the endpoint's port.
    """
    name = "web" if scene.variant["family"] == "http" else "raw"
    await serves(scene, name)
    client = await scene.tcp(name)
    host = scene.endpoint(name).host
    try:
        await client.send(f"GET /plain HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() if name == "web" else NO_HTTP)
    except LinkReset as reset:
        scene.transcript.note("refused", reset.reason)
    await scene.settle(name)
    await scene.untouched("EDGE-001", name)


def opaque(variant: Variant) -> TunnelSpec:
    """The tunnel of a variant."""
    return {"terminated": tls(), "upstream-tls": tls(upstream_tls=True), "passthrough": tls(tls_mode="passthrough")}[
        variant["mode"]
    ]


@case(
    "edge-opaque-01",
    checks=["EDGE-004"],
    publish=opaque,
    over={"mode": ["terminated", "upstream-tls", "passthrough"], "payload": list(PAYLOADS)},
)
async def test_a_tls_tunnel_never_looks_for_http(scene: Scene) -> None:
    """A TLS tunnel carries what looks like HTTP, and what does not, as it is.

    The client sends random-looking octets, a request, CONNECT, the HTTP/2 preface or a malformed request; the upstream
    must read exactly that, and what it answers (no HTTP) must be all that the client gets.
    """
    payload = PAYLOADS[scene.variant["payload"]]
    with scene.judging("EDGE-004"):
        client, upstream = await scene.pair(nonce=payload + scene.nonce(), alpn=())
        answer = b"\x00not http\xff" + scene.nonce()
        await upstream.send(answer)
        got = await client.receive_exactly(len(answer))
        scene.expect("EDGE-004", got == answer, expected="the upstream's answer, unchanged", actual=repr(got[:60]))
        await client.send_end()
        rest, _ = await upstream.receive_until_end()
        scene.expect("EDGE-004", not rest, expected="nothing added behind the octets", actual=repr(rest[:60]))
        await upstream.close()
        rest, _ = await client.receive_until_end()
        scene.expect("EDGE-004", not rest, expected="no octet of the engine's own", actual=repr(rest[:60]))


@case(
    "edge-protocols-01",
    checks=["EDGE-002"],
    needs=["dynamic"],
    over={"protocol": ["http", "tls", "dtls", "quic"]},
    features=lambda variant: sorted(TunnelSpec(protocol=variant["protocol"]).features()),
    family="tls",
)
async def test_the_four_families_can_be_published(scene: Scene) -> None:
    """HTTP, TLS, DTLS and QUIC tunnels are published where the engine claims them.

    Each is asked for by its protocol alone; the tunnel that comes of it must be of that protocol.
    """
    spec = TunnelSpec(protocol=scene.variant["protocol"], upstream="tcp")
    answer = (await scene.publish({"new": spec}))["new"]
    told = getattr(answer, "properties", {}).get("protocol")
    scene.expect(
        "EDGE-002", told == spec.protocol, expected=f"a tunnel with protocol {spec.protocol}", actual=str(answer)
    )


@case(
    "edge-protocols-02",
    checks=["EDGE-002"],
    publish=tls(),
    needs=["dynamic"],
    over={"protocol": ["foo", "ssh", "https", "udp"]},
)
async def test_a_protocol_outside_the_families_is_refused(scene: Scene) -> None:
    """A protocol that is none of the families is refused, and nothing is published under the name asked for.

    A good tunnel stands beside it and keeps serving; the name that the refused one asked for is tried from outside.
    """
    near = scene.endpoint()
    label = near.host.partition(".")[0]
    wanted = f"n{label}.{zone_of(near)}"
    bad = TunnelSpec(protocol=scene.variant["protocol"], hostname=wanted)
    answer = (await scene.publish({"bad": bad}))["bad"]
    scene.expect("EDGE-002", isinstance(answer, Refused), expected="a refusal", actual=str(answer))
    try:
        seen = await knock(scene, near, wanted)
        scene.expect("EDGE-002", seen.refused, expected=f"nobody to serve {wanted}", actual=seen.text)
    except DeadlineExpired as error:
        scene.depart("EDGE-002", expected=f"nobody to serve {wanted}", actual=error.actual)
    await serves(scene)
