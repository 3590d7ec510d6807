"""The settings of a project as bounds of its tunnels: the lowest TLS version."""

from __future__ import annotations

from conformance.edge._helpers import serves
from conformance.tls._steps import quiet, serving
from conformance.validation._judging import ask, told
from harness.engine.driver import Endpoint, Refused
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, tls
from harness.scene import Scene
from harness.wire.tls.events import HandshakeDone
from harness.wire.tls.numbers import TLS12, TLS13

LOWEST = {"project.tls-min-version": "tls1.3"}
CLAIMED = ["project.tls-min-version", "tls.1.2"]


def ended(variant: Variant) -> TunnelSpec:
    """A tunnel whose TLS ends at the edge."""
    return {"http": http(), "tls": tls(), "upstream-tls": tls(upstream_tls=True)}[variant["endpoint"]]


@case(
    "policy-tls-01",
    checks=["POL-009"],
    publish=ended,
    settings=LOWEST,
    features=CLAIMED,
    over={"endpoint": ["http", "tls", "upstream-tls"]},
)
async def test_the_projects_lowest_version_binds_where_the_edge_ends_tls(scene: Scene) -> None:
    """With TLS 1.3 as the project's lowest version a client of TLS 1.2 is refused in the handshake, one of 1.3 served.

    No octet of the refused client reaches the upstream.
    """
    with scene.judging("POL-009"):
        old = await scene.tls_client(versions=(TLS12,), handshake=False)
        async with serving(scene):
            end = await old.try_handshake()
        refused = not isinstance(end, HandshakeDone)
        scene.expect("POL-009", refused, expected="TLS 1.2 refused", actual=str(end))
    await quiet(scene, "POL-009")
    with scene.judging("POL-009"):
        await serves(scene, versions=(TLS13,))


@case("policy-tls-02", checks=["POL-009"], publish=tls(tls_mode="passthrough"), settings=LOWEST, features=CLAIMED)
async def test_the_projects_lowest_version_leaves_passthrough_alone(scene: Scene) -> None:
    """With TLS 1.3 as the project's lowest version a client of TLS 1.2 gets through in passthrough."""
    with scene.judging("POL-009"):
        client, upstream = await scene.pair(versions=(TLS12,), upstream={"versions": (TLS12,)})
        word = scene.nonce()
        await upstream.send(word)
        got = await client.receive_exactly(len(word))
        scene.expect("POL-009", got == word, expected="the upstream's octets at the client", actual=got.hex())


@case(
    "policy-bounds-01",
    checks=["POL-001"],
    settings=LOWEST,
    needs=["dynamic"],
    features=[*CLAIMED, "tls.min-version"],
    over={"asked": ["nothing", "lower", "same"], "family": ["tls", "http"]},
    family="tls",
)
async def test_a_tunnel_keeps_within_the_lowest_version_of_its_project(scene: Scene) -> None:
    """With TLS 1.3 as the project's lowest version every tunnel has it, whatever it asks for, and is told so.

    A tunnel that asks for nothing and one that asks for tls1.3 are given with tls1.3; one that asks for tls1.2 is given
    with tls1.3, or refused.
    """
    lowest = {"nothing": None, "lower": "tls1.2", "same": "tls1.3"}[scene.variant["asked"]]
    make = tls if scene.variant["family"] == "tls" else http
    answer = await ask(scene, make(tls_min_version=lowest), "main")
    if isinstance(answer, Refused) and scene.variant["asked"] == "lower":
        scene.allow("POL-001", "creation rejected")
        return
    got = answer.properties.get("tls_min_version") if isinstance(answer, Endpoint) else told(answer)
    scene.expect("POL-001", got == "tls1.3", expected="tls_min_version tls1.3", actual=f"{got}")
    scene.allow("POL-001", "result tls1.3")
    with scene.judging("POL-001"):
        await serves(scene, versions=(TLS13,))
