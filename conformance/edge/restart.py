"""What an engine keeps over a restart: nothing."""

from __future__ import annotations

from conformance.edge._helpers import knock, listed, serves
from harness.engine.agent_driver import AgentSession
from harness.engine.driver import Endpoint
from harness.errors import NotSupported
from harness.model.case import case
from harness.model.spec import tls
from harness.scene import Scene


@case(
    "edge-restart-01",
    checks=["EDGE-032"],
    publish=tls(hostname="{label}.t.{domain}"),
    settings={"edition": "community"},
    needs=["dynamic", "private-engine"],
    features=["edge.requested-hostname", "edition.community"],
)
async def test_tunnels_are_gone_after_a_restart(scene: Scene) -> None:
    """After a restart no tunnel is there until its agent comes back; then its name serves again.

    A tunnel with a requested name serves, the engine is stopped and started on the same port. Before the agent has come
    back the name is refused and the list of tunnels, where there is one, is empty. Then another agent asks for the same
    name, gets it, and serves it.
    """
    first = scene.endpoint()
    with scene.judging("EDGE-032"):
        await serves(scene)
    await scene.driver.restart()
    with scene.judging("EDGE-032"):
        gone = await knock(scene, first, first.host)
        scene.expect("EDGE-032", gone.refused, expected=f"nobody to serve {first.host}", actual=gone.text)
        if "edge.api" in scene.profile.features:
            there = await listed(scene)
            scene.expect("EDGE-032", not there, expected="an empty list of tunnels", actual=f"{len(there)} tunnels")
        await _come_back(scene)
        again = (await scene.publish({"again": tls(hostname=first.host)}))["again"]
        told = again.host if isinstance(again, Endpoint) else str(again)
        scene.expect("EDGE-032", told == first.host, expected=f"{first.host} again", actual=told)
        await serves(scene, "again")


async def _come_back(scene: Scene) -> None:
    """A control channel of its own, in the place of the one that went with the engine."""
    old = scene.session
    new = await scene.driver.open_session(f"{scene.case.id} again")
    if not isinstance(new, AgentSession):
        raise NotSupported("agent.protocol")
    new.transcript = scene.transcript
    scene.session = new
    scene.on_close(old.close)
