"""What a profile does not claim is refused by the engine itself, at creation, and never served as something else."""

from __future__ import annotations

from conformance.edge._helpers import knock
from conformance.editions.gates import ASKED, LISTS, OPEN, opens
from conformance.validation._judging import UNAVAILABLE, ask, leaves_nothing, told
from harness.engine.agent_driver import AgentSession
from harness.engine.driver import Endpoint, Refused
from harness.model.case import CaseFunction, case
from harness.model.spec import TunnelSpec, tls
from harness.scene import Scene

ROWS = ("EDGE-007", "ED-011")


def _case_of(feature: str, spec: TunnelSpec) -> CaseFunction:
    """The case of one feature: refused, with nothing left behind."""

    async def refused(scene: Scene) -> None:
        answer = await ask(scene, spec)
        if isinstance(answer, Endpoint):
            await _given(scene, feature, answer)
            return
        for row in ROWS:
            scene.expect(row, isinstance(answer, Refused), expected="a refusal", actual=told(answer))
        if answer.code != UNAVAILABLE:
            scene.record("ED-011", f"refused with {answer.code}, not as a feature that is not available")
        await _serves_nobody(scene)
        await leaves_nothing(scene, *ROWS, hidden=spec.publish is False)

    refused.__name__ = f"test_{feature.replace('.', '_').replace('-', '_')}_is_refused_where_it_is_not_claimed"
    refused.__doc__ = f"""A tunnel that needs {feature} is refused by an engine that does not claim it.

    Judged on the engine's own refusal, whatever its number. Nobody may serve the name that was asked for, nothing may
    be listed, and the same channel gets a TLS tunnel of that name.
    """
    return case(
        f"ed-missing-{feature.replace('.', '-')}",
        checks=ROWS,
        needs=["dynamic"],
        refusal=feature,
        family="tls",
    )(refused)


async def _given(scene: Scene, feature: str, answer: Endpoint) -> None:
    """The tunnel was given: lists without effect, and guards that let nobody in, are recorded (ruling T-54)."""
    harmless = feature in LISTS or (feature in OPEN and feature.startswith("http.") and not await opens(scene))
    for row in ROWS:
        if harmless:
            scene.record(row, f"{feature}: {told(answer)}")
        else:
            scene.depart(row, expected="a refusal", actual=told(answer))


async def _serves_nobody(scene: Scene) -> None:
    """No client gets through under the name that was asked for; a tunnel beside it says where the edge is."""
    wanted = scene.spec("asked").hostname
    if wanted is None or not isinstance(scene.session, AgentSession):
        return
    beside = (await scene.publish({"beside": tls()}))["beside"]
    if not isinstance(beside, Endpoint):
        return
    with scene.judging(*ROWS):
        seen = await knock(scene, beside, wanted)
        for row in ROWS:
            scene.expect(row, seen.refused, expected=f"nobody to serve {wanted}", actual=seen.text)
    await scene.session.withdraw("beside")


globals().update({made.__name__: made for made in (_case_of(feature, spec) for feature, spec in ASKED.items())})
