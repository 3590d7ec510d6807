"""The edge's certificate: valid for every name that it serves, and exchanged while the engine runs."""

from __future__ import annotations

from conformance.edge._helpers import engine_endpoint, serves, trust
from conformance.tls._steps import serving
from harness.engine.driver import Endpoint
from harness.link.deadline import deadline
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, tls
from harness.scene import Scene
from harness.wire.tls.numbers import TLS12, TLS13

VERSIONS = {"tls1.2": (TLS12,), "tls1.3": (TLS13,)}


def terminated(variant: Variant) -> TunnelSpec:
    """A tunnel whose TLS ends at the edge."""
    return {"http": http(), "tls": tls(), "upstream-tls": tls(upstream_tls=True)}[variant["endpoint"]]


@case(
    "edge-cert-01",
    checks=["EDGE-019"],
    publish=terminated,
    over={"endpoint": ["http", "tls", "upstream-tls"], "version": list(VERSIONS)},
    features=["tls.1.2"],
)
async def test_the_certificate_is_valid_for_a_tunnels_name(scene: Scene) -> None:
    """On every endpoint whose TLS ends at the edge the certificate verifies, chain and host name.

    The client trusts only the engine's CA and checks the tunnel's name. In TLS 1.2 and 1.3.
    """
    async with serving(scene):
        await _verifies(scene, scene.endpoint(), VERSIONS[scene.variant["version"]])
    with scene.judging("EDGE-019"):
        if scene.variant["endpoint"] != "upstream-tls":
            await serves(scene)


@case("edge-cert-02", checks=["EDGE-019"], publish=tls(), needs=["dynamic"])
async def test_the_certificate_is_valid_for_the_engines_own_name(scene: Scene) -> None:
    """The certificate on the engine's base name verifies, chain and host name."""
    await _verifies(scene, engine_endpoint(scene), (TLS13,))


async def _verifies(scene: Scene, where: Endpoint, versions: tuple[int, ...]) -> None:
    with scene.judging("EDGE-019"):
        client = await scene.tls_client(
            endpoint=where, trust=trust(scene), versions=versions, alpn=("http/1.1",), handshake=False
        )
        await client.handshake()
        why = client.peer_verified
        scene.expect("EDGE-019", why is None, expected=f"a certificate for {where.host}", actual=why or "a valid one")


@case(
    "edge-reload-01",
    checks=["EDGE-020"],
    publish={"main": tls(), "web": http()},
    settings={"certificate.reload": True, "domain": "reload.edgecase.localhost"},
    needs=["dynamic"],
)
async def test_a_new_certificate_is_taken_while_the_engine_runs(scene: Scene) -> None:
    """When the certificate's files change, new handshakes get the new certificate, without a restart.

    A client is joined to its upstream, then the files are exchanged. New clients come one after the other until the new
    serial number shows, within the deadline; it must be valid for the name. The open stream must still echo.
    """
    with scene.judging("EDGE-020"):
        client, upstream = await scene.pair()
        before = client.peer_certificates[0].serial_number
        wanted = scene.driver.exchange_certificate()
        scene.transcript.note("exchanged", f"serial {before:x} by {wanted:x}")
        async with deadline("a handshake with the new certificate"):
            while await _serial(scene, "main") != wanted:
                continue
        scene.expect("EDGE-020", await _serial(scene, "web") == wanted, expected="the new serial", actual="another")
        word = scene.nonce()
        await client.send(word)
        scene.expect(
            "EDGE-020",
            await upstream.receive_exactly(len(word)) == word,
            expected="the open stream to go on",
            actual="other octets",
        )
        await upstream.send(word[::-1])
        got = await client.receive_exactly(len(word))
        scene.expect("EDGE-020", got == word[::-1], expected="the open stream to go on", actual=got.hex())


async def _serial(scene: Scene, name: str) -> int:
    """The serial number that a new client of `name` gets, which must be of a valid certificate."""
    peer = await scene.tls_client(name, trust=trust(scene))
    why = peer.peer_verified
    scene.expect("EDGE-020", why is None, expected="a valid certificate", actual=why or "a valid one")
    await peer.close()
    return peer.peer_certificates[0].serial_number
