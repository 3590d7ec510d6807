"""Which upstream a request reaches when name, authority and scheme say different things."""

from __future__ import annotations

from conformance.http._steps import probing, works
from harness.model.case import case
from harness.model.spec import http
from harness.scene import Scene
from harness.wire.http1_write import Field

TWO = {"main": http(), "other": http()}


@case(
    "http-routing-01",
    checks=["RFC6066-11.1-1", "RFC9110-7.4-2"],
    publish=TWO,
    over={"request": ("first", "second")},
)
async def test_the_name_of_another_tunnel_as_authority(scene: Scene) -> None:
    """On a connection for one tunnel, a request for another never reaches the upstream of the first.

    It is answered by the tunnel that it names, or refused; the same holds behind a request that was at its place.
    """
    async with probing(scene, other="other") as probe:
        if scene.variant["request"] == "second":
            await works(scene, probe.client)
        await probe.say(probe.wire(host=scene.endpoint("other").host))
        await probe.outcome()
        await scene.settle("other")
        wrong = bool(probe.requests or probe.upstream.unexpected)
        at_other = bool(probe.elsewhere)
        served = at_other and probe.kind != "closed"
        refused = not at_other and probe.kind in ("421", "4xx", "400", "closed")
        branch = "served by B's upstream" if served else "421 or another 4xx"
        if probe.kind == "closed":
            branch = "stream or connection error"
        expected = "the other tunnel's answer, or a refusal"
        probe.expect("RFC6066-11.1-1", not wrong and (served or refused), expected=expected, branch=branch)
        scene.record("RFC9110-7.4-2", f"{probe.kind}, {'at' if at_other else 'not at'} the tunnel that was named")


@case("http-routing-02", checks=["RFC9110-4.2.1-1"], publish=http())
async def test_an_http_target_with_an_empty_host(scene: Scene) -> None:
    """A target that names the scheme http and no host is refused, and reaches no upstream."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(target=f"http:///{probe.nonce}"))
        await probe.outcome()
        refusals = {"400": "400", "4xx": "another 4xx", "421": "another 4xx", "closed": "connection closed"}
        probe.judge("RFC9110-4.2.1-1", refusals, expected="a refusal")


@case("http-routing-03", checks=["RFC9110-5.5-1"], publish=http())
async def test_whitespace_around_values_is_not_part_of_them(scene: Scene) -> None:
    """Whitespace around the values of Host and Content-Length counts neither for routing nor for framing."""
    async with probing(scene) as probe:
        fields: list[Field] = [b"Content-Length: \t5 ", b"X-Padded: \t v\t "]
        await probe.say(probe.head("POST", fields, host=f" {probe.host} \t") + b"hello")
        await probe.outcome()
        whole = probe.kind == "relayed" and probe.alone(b"hello") and probe.request.get("x-padded") == "v"
        probe.expect("RFC9110-5.5-1", whole, expected="one request with `hello` at the upstream")
