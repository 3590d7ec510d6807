"""What the edition has and no listener carries: refused, or at least reached by nobody."""

from __future__ import annotations

from conformance.edge._helpers import knock
from conformance.editions.gates import ASKED
from conformance.validation._judging import ask, leaves_nothing, told
from harness.engine.driver import Refused
from harness.model.case import case
from harness.scene import Scene


@case(
    "ed-listener-01",
    checks=["ED-010"],
    settings={"edition": "enterprise", "listener.udp": False, "listener.dtls": False},
    needs=["dynamic"],
    features=["edition.enterprise"],
    over={"feature": ["dtls", "quic", "http.h3"]},
    family="tls",
)
async def test_without_its_listener_a_feature_is_not_there(scene: Scene) -> None:
    """Without UDP listeners DTLS, QUIC and h3 upstreams are refused, on the enterprise edition too.

    A tunnel that is given all the same must be reached by nobody: a TLS client of its name is refused, and nothing
    comes to the upstream. That is recorded.
    """
    answer = await ask(scene, ASKED[scene.variant["feature"]])
    if isinstance(answer, Refused):
        scene.allow("ED-010", "creation refused")
        await leaves_nothing(scene, "ED-010")
        return
    with scene.judging("ED-010"):
        seen = await knock(scene, answer, answer.host)
        scene.expect("ED-010", seen.refused, expected=f"nobody to serve {answer.host}", actual=seen.text)
    strays = await scene.upstream("asked").strays()
    scene.expect("ED-010", not strays, expected="nothing at the upstream", actual=f"{len(strays)} streams")
    scene.allow("ED-010", "accepted, but no public endpoint answers")
    scene.record("ED-010", f"given without a listener: {told(answer)}")
