"""Host names of published tunnels: made up, asked for, refused, taken, read back."""

from __future__ import annotations

from conformance.edge._helpers import NAME, authority_of, knock, protocol_driver, serves, zone_of
from harness.engine.agent_driver import AgentSession
from harness.engine.driver import Endpoint, Refused
from harness.errors import DeadlineExpired
from harness.model.case import case
from harness.model.spec import TunnelSpec, http, tls
from harness.peer.agent import accepted
from harness.scene import Scene

GENERATED = "edge.generated-hostname"
REQUESTED = "edge.requested-hostname"
MANAGED = {"edition": "enterprise"}
"""Names are the projects' only above the community edition."""


def domain_of(scene: Scene) -> str:
    """The engine's base name."""
    return protocol_driver(scene).domain


@case("edge-names-01", checks=["EDGE-011"], needs=["dynamic"], features=[GENERATED], family="tls")
async def test_names_are_made_up_below_the_tunnel_domain(scene: Scene) -> None:
    """A tunnel that asks for no name gets one below `t.<engine host>`, and is told which.

    Two tunnels: the names differ, each is one label below the tunnel domain, and each reaches its own upstream.
    """
    for name, answer in (await scene.publish({"a": tls(), "b": http()})).items():
        given = isinstance(answer, Endpoint)
        scene.expect("EDGE-011", given, expected=f"a tunnel {name!r} with a name of its own", actual=str(answer))
    names = [scene.endpoint(name).host for name in ("a", "b")]
    told = [scene.endpoint(name).properties.get("hostname") for name in ("a", "b")]
    scene.expect("EDGE-011", told == names, expected="the name in the tunnel's properties", actual=f"{told}")
    scene.expect("EDGE-011", len(set(names)) == 2, expected="two names", actual=f"{names}")
    zone = f"t.{domain_of(scene)}"
    fit = all(zone_of(scene.endpoint(name)) == zone for name in ("a", "b"))
    scene.expect("EDGE-011", fit, expected=f"names one label below {zone}", actual=f"{names}")
    with scene.judging("EDGE-011"):
        for name in ("a", "b"):
            await serves(scene, name)


@case(
    "edge-names-02",
    checks=["EDGE-011"],
    needs=["dynamic"],
    settings={"edition": "community"},
    features=[REQUESTED, "edition.community"],
    over={"form": ["label", "name", "capitals"]},
    family="tls",
)
async def test_a_requested_label_becomes_a_name_of_the_community_edition(scene: Scene) -> None:
    """On the community edition a requested label becomes `<label>.t.<engine host>`.

    Asked for as the label alone, as the whole name, and in capitals; the reported name is the whole one, and serves.
    """
    forms = {"label": "{label}", "name": "{label}.t.{domain}", "capitals": "{label}.T.{domain}"}
    made = (await scene.publish({"main": tls(hostname=forms[scene.variant["form"]])}))["main"]
    label = str(scene.spec().hostname).partition(".")[0]
    wanted = f"{label}.t.{domain_of(scene)}"
    got = made.host if isinstance(made, Endpoint) else str(made)
    scene.expect("EDGE-011", got.lower() == wanted.lower(), expected=f"a tunnel named {wanted}", actual=got)
    with scene.judging("EDGE-011"):
        await serves(scene)


@case(
    "edge-names-03",
    checks=["EDGE-012"],
    settings=MANAGED,
    needs=["dynamic"],
    features=[REQUESTED],
    family="tls",
    over={"family": ["tls", "http"]},
)
async def test_a_name_of_the_project_is_given(scene: Scene) -> None:
    """A stable name in the project's own form is given, reported and served."""
    spec = tls(hostname=NAME) if scene.variant["family"] == "tls" else http(hostname=NAME)
    made = (await scene.publish({"main": spec}))["main"]
    got = made.host if isinstance(made, Endpoint) else str(made)
    wanted = str(scene.spec().hostname)
    scene.expect("EDGE-012", got == wanted, expected=f"a tunnel named {wanted}", actual=got)
    with scene.judging("EDGE-012"):
        await serves(scene)


FOREIGN = {
    "other-project": "{label}-another.t.{domain}",
    "foreign-domain": "{label}-{project}.t.example.com",
    "engine": "{domain}",
    "tunnel-domain": "t.{domain}",
    "beside-the-zone": "{label}-{project}.{domain}",
    "two-labels": "{label}.{label}-{project}.t.{domain}",
    "no-slug": "-{project}.t.{domain}",
    "project-alone": "{project}.t.{domain}",
    "glued": "{label}{project}.t.{domain}",
    "wildcard": "*-{project}.t.{domain}",
    "space": "{label} -{project}.t.{domain}",
}


@case(
    "edge-names-04",
    checks=["EDGE-012"],
    publish={"main": tls(), "web": http()},
    settings=MANAGED,
    needs=["dynamic"],
    features=[REQUESTED],
    over={"name": list(FOREIGN)},
)
async def test_a_name_outside_the_namespace_is_refused(scene: Scene) -> None:
    """A name that is not of the project's namespace is refused, and nothing serves it afterwards.

    Another project's, a foreign domain's, the engine's own, and names that only look like the project's. After the
    refusal the channel goes on: a name of the right form is given, and what was published before serves on.
    """
    bad = tls(hostname=FOREIGN[scene.variant["name"]])
    answer = (await scene.publish({"bad": bad}))["bad"]
    asked = str(scene.spec("bad").hostname)
    scene.expect("EDGE-012", isinstance(answer, Refused), expected=f"a refusal of {asked}", actual=str(answer))
    with scene.judging("EDGE-012"):
        good = (await scene.publish({"good": tls(hostname=NAME)}))["good"]
        scene.expect("EDGE-012", isinstance(good, Endpoint), expected="the project's own name", actual=str(good))
        await serves(scene, "good")
        await serves(scene)


@case(
    "edge-taken-01",
    checks=["EDGE-013", "EDGE-031"],
    publish=tls(hostname=NAME),
    needs=["dynamic", "agent"],
    features=[REQUESTED],
    over={"who": ["another-agent", "same-agent", "capitals", "other-family"]},
)
async def test_a_name_in_use_cannot_be_taken(scene: Scene) -> None:
    """The name of a live tunnel is refused to everybody else, and the first tunnel keeps serving.

    Asked for by a second agent, by the same agent, in capitals, and for a tunnel of another family. A client of the
    name gets through before, while the second request is answered, and after; the upstream is always the first one.
    """
    who, name = scene.variant["who"], scene.endpoint().host
    wanted: TunnelSpec = tls(hostname=name.upper() if who == "capitals" else name)
    if who == "other-family":
        wanted = http(hostname=name)
    with scene.judging("EDGE-013"):
        await serves(scene)
        if who == "same-agent":
            answer = (await scene.publish({"second": wanted}))["second"]
            refusal = str(answer) if isinstance(answer, Refused) else ""
            told = str(answer)
        else:
            second = await scene.scripted_agent()
            accepted(await second.open())
            reply, _ = await scene.both(second.open_tunnel(wanted), serves(scene))
            refusal = reply.error.message.value or f"{reply.error.code}" if reply.HasField("error") else ""
            told = str(reply).replace("\n", " ")
        scene.expect("EDGE-013", bool(refusal), expected=f"a refusal of {name}", actual=told[:200])
        scene.expect("EDGE-031", bool(refusal), expected="one agent per host name", actual=told[:200])
        for _ in range(2):
            await serves(scene)


@case("edge-freed-01", checks=["EDGE-014"], publish=tls(hostname=NAME), needs=["dynamic"], features=[REQUESTED])
async def test_a_closed_tunnel_frees_its_name(scene: Scene) -> None:
    """After an explicit close nobody serves the name, and it can be had again at once."""
    first = scene.endpoint()
    assert isinstance(scene.session, AgentSession)
    with scene.judging("EDGE-014"):
        await serves(scene)
        await scene.session.withdraw("main")
        gone = await knock(scene, first, first.host)
        scene.expect("EDGE-014", gone.refused, expected=f"nobody to serve {first.host}", actual=gone.text)
        again = (await scene.publish({"again": tls(hostname=first.host)}))["again"]
        if scene.expect("EDGE-014", isinstance(again, Endpoint), expected="the name again", actual=str(again)):
            await serves(scene, "again")


@case("edge-address-01", checks=["EDGE-015"], publish={"main": tls(), "web": http()}, needs=["dynamic"])
async def test_a_tunnel_reports_where_it_is_reached(scene: Scene) -> None:
    """`hostname` and `port` say where a tunnel is reached; `host`, where it is reported, says the same.

    Read back from the engine's answer: the port is the one that the endpoint listens on, or absent for 443, and host is
    `hostname`, with the port behind it unless that is 443.
    """
    for name in ("main", "web"):
        where, told = scene.endpoint(name), scene.endpoint(name).properties
        port = told.get("port", 443)
        scene.expect("EDGE-015", port == where.port, expected=f"port {where.port}", actual=f"{told.get('port')}")
        host = told.get("host", authority_of(where))
        scene.expect("EDGE-015", host == authority_of(where), expected=f"host {authority_of(where)}", actual=f"{host}")


@case(
    "edge-address-02",
    checks=["EDGE-015"],
    publish=tls(),
    needs=["dynamic"],
    over={"form": ["name", "name-and-port"]},
)
async def test_the_host_property_does_not_choose_the_name(scene: Scene) -> None:
    """A tunnel that sets the deprecated `host` alone gets a name of the engine's choice, or is refused.

    The value asked for would be a name that the project may have; it must not be taken, and nobody may serve it.
    """
    near = scene.endpoint()
    asked = NAME if scene.variant["form"] == "name" else f"{NAME}:{near.port}"
    made = (await scene.publish({"new": tls(host=asked)}))["new"]
    name = str(scene.spec("new").host).partition(":")[0]
    if isinstance(made, Endpoint):
        scene.expect("EDGE-015", made.host != name, expected="a name of the engine's choice", actual=made.host)
    else:
        scene.expect("EDGE-015", isinstance(made, Refused), expected="a refusal", actual=str(made))
    try:
        seen = await knock(scene, near, name)
        scene.expect("EDGE-015", seen.refused, expected=f"nobody to serve {name}", actual=seen.text)
    except DeadlineExpired as error:
        scene.depart("EDGE-015", expected=f"nobody to serve {name}", actual=error.actual)
