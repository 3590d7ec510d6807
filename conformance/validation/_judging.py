"""How a creation request is judged: refused with nothing left behind, or given with the properties that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from conformance.edge._helpers import NAME, access, listed, serves
from harness.engine.driver import Endpoint, Inexpressible, Refused
from harness.errors import NotSupported, PeerMismatch
from harness.model.spec import TunnelSpec, private, tls
from harness.scene import Scene

INVALID = 2000
"""The agent protocol's number of an invalid request."""
UNAVAILABLE = 5000
"""The agent protocol's number of a feature that is not there."""

FEATURE_OF = {
    "mtls_auth": "tls.mtls",
    "token_auth": "http.token-auth",
    "rstream_auth": "http.rstream-auth",
    "challenge_mode": "http.challenge",
    "trusted_ips": "policy.trusted-ips",
    "geoip": "policy.geoip",
}
"""Properties that are features of their own."""

Answer = Endpoint | Refused


async def ask(scene: Scene, spec: TunnelSpec, name: str = "asked") -> Answer:
    """Ask for `spec` under a name that is tried again later, and give the engine's own answer."""
    if "edge.requested-hostname" in scene.profile.features and spec.publish is not False and spec.hostname is None:
        spec = dataclasses.replace(spec, hostname=NAME)
    if spec.name is None:
        spec = dataclasses.replace(spec, name="{label}")
    answer = (await scene.publish({name: spec}))[name]
    if isinstance(answer, Inexpressible):
        raise NotSupported(answer.feature)
    return answer


def told(answer: Answer) -> str:
    """The answer in a line."""
    if isinstance(answer, Refused):
        return f"refused ({answer.code}): {answer.message}"
    shown = {
        key: answer.properties.get(key) for key in ("protocol", "type", "tls_mode", "http_version", "upstream_tls")
    }
    return f"given as {answer.host or 'a private tunnel'} with {shown}"


def asked_of(spec: TunnelSpec) -> frozenset[str]:
    """The features that `spec` asks for, those of its policies and of a contradictory request included."""
    more = {feature for name, feature in FEATURE_OF.items() if getattr(spec, name)}
    if spec.protocol in ("dtls", "quic"):
        more.add(spec.protocol)
    if spec.publish is False and spec.type == "datagram":
        more.add("private.datagram")
    return spec.features() | more


def claimed(scene: Scene, spec: TunnelSpec) -> bool:
    """Whether the profile claims everything that `spec` asks for."""
    return asked_of(spec) <= scene.profile.features


def need(scene: Scene, spec: TunnelSpec, *extra: str) -> None:
    """Raises `NotSupported` unless the profile claims what `spec` asks for."""
    missing = sorted({*asked_of(spec), *extra} - scene.profile.features)
    if missing:
        raise NotSupported(f"the profile does not claim {', '.join(missing)}")


def unshown(scene: Scene, spec: TunnelSpec, answer: Refused, *requirements: str) -> bool:
    """Whether the refusal says that something is not available that the profile does not claim either: it then shows
    nothing about the shape of the request, and `requirements` are noted as not run."""
    if answer.code != UNAVAILABLE or claimed(scene, spec):
        return False
    for requirement in requirements:
        scene.not_run(requirement, f"refused as not available: {answer.message}")
    return True


async def refuses(
    scene: Scene, requirement: str, spec: TunnelSpec, objects_to: Collection[str], *, branch: str | None = None
) -> None:
    """`spec` is refused by `requirement` (and VAL-001), and nothing of it is left behind.

    A refusal as unavailable (5000) of something that the profile does not claim says nothing about the shape: the row
    is then not run. That the refusal names none of `objects_to` is recorded.
    """
    answer = await ask(scene, spec)
    refused = isinstance(answer, Refused)
    scene.expect(requirement, refused, expected="a refusal", actual=told(answer), branch=branch)
    scene.expect("VAL-001", refused, expected="a refusal", actual=told(answer))
    if not isinstance(answer, Refused):
        return
    if not unshown(scene, spec, answer, requirement, "VAL-001") and answer.property not in objects_to:
        scene.record("VAL-001", f"the refusal names {answer.property}, not {' or '.join(objects_to)}: {answer.message}")
    await leaves_nothing(scene, requirement, hidden=spec.publish is False)


async def leaves_nothing(scene: Scene, *requirements: str, hidden: bool = False) -> None:
    """After a refusal no tunnel of this agent is listed, and a good one gets the name that the refused one asked
    for."""
    with scene.judging(*requirements):
        await _lists_nothing(scene, requirements)
        good = await ask(scene, private() if hidden else tls(), "good")
        for requirement in requirements:
            scene.expect(
                requirement,
                isinstance(good, Endpoint),
                expected="a good tunnel of the same name on the same channel",
                actual=told(good),
            )
        if not hidden and isinstance(good, Endpoint):
            await serves(scene, "good")


async def _lists_nothing(scene: Scene, requirements: tuple[str, ...]) -> None:
    if "edge.api" not in scene.profile.features:
        return
    try:
        tunnels = await listed(scene, token=access(scene).token)
    except PeerMismatch as seen:
        scene.transcript.note("not listed", seen.actual)
        return
    own = [item.get("id") for item in tunnels if item.get("client_id") == scene.agent.client_id]
    for requirement in requirements:
        scene.expect(requirement, not own, expected="no tunnel of this agent in the list", actual=f"{own}")


async def gives(scene: Scene, requirement: str, spec: TunnelSpec, **properties: object) -> Endpoint:
    """`spec` is given, with `properties` among those that are reported back (None: absent or false)."""
    answer = await ask(scene, spec, "main")
    scene.expect(requirement, isinstance(answer, Endpoint), expected="a tunnel", actual=told(answer))
    if not isinstance(answer, Endpoint):
        raise PeerMismatch("a tunnel", told(answer))
    for name, value in properties.items():
        got = answer.properties.get(name)
        scene.expect(
            requirement, got == value or (not got and not value), expected=f"{name} {value}", actual=f"{name} {got}"
        )
    return answer
