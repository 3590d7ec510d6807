"""The validation matrix: what a creation request must not combine. One case per rule, one variant per cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conformance.edge._helpers import HTTP, knock
from conformance.validation._judging import ask, leaves_nothing, refuses, told, unshown
from harness.engine.driver import Endpoint, Refused
from harness.link.stream import End
from harness.model.case import CaseFunction, case
from harness.model.spec import TunnelSpec, http, tls
from harness.scene import Scene
from harness.wire.tls.numbers import TLS12


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: `cells` are the requests that it refuses, `objects_to` the properties that a refusal may name."""

    about: str
    objects_to: tuple[str, ...]
    cells: Mapping[str, TunnelSpec]
    branch: str | None = None


def dtls(**properties: object) -> TunnelSpec:
    """A published DTLS tunnel."""
    return TunnelSpec(protocol="dtls", **properties)  # type: ignore[arg-type]


def quic(**properties: object) -> TunnelSpec:
    """A published QUIC tunnel."""
    return TunnelSpec(protocol="quic", **properties)  # type: ignore[arg-type]


def hidden(**properties: object) -> TunnelSpec:
    """A tunnel that is not published."""
    return TunnelSpec(publish=False, **properties)  # type: ignore[arg-type]


PASS = "passthrough"
AUTH = ("token_auth", "rstream_auth", "challenge_mode")
MAKERS = {"tls": tls, "dtls": dtls, "quic": quic}

RULES = {
    "VAL-003": Rule("A TLS tunnel of type datagram is refused.", ("type",), {"datagram": tls(type="datagram")}),
    "VAL-004": Rule(
        "A DTLS or QUIC tunnel of type bytestream is refused.",
        ("type", "protocol"),
        {"dtls": dtls(type="bytestream"), "quic": quic(type="bytestream")},
    ),
    "VAL-005": Rule(
        "An HTTP tunnel whose type does not fit its upstream version is refused.",
        ("type", "http_version"),
        {
            "h3-bytestream": http(http_version="h3", type="bytestream"),
            "h2c-datagram": http(http_version="h2c", type="datagram"),
            "h1-datagram": http(http_version="http/1.1", type="datagram"),
        },
    ),
    "VAL-006": Rule(
        "Bare datagrams cannot be published.",
        ("type", "protocol"),
        {"published": TunnelSpec(publish=True, type="datagram"), "unsaid": TunnelSpec(type="datagram")},
    ),
    "VAL-007": Rule(
        "TLS passthrough with upstream TLS is refused.",
        ("upstream_tls", "tls_mode"),
        {"upstream-tls": tls(tls_mode=PASS, upstream_tls=True)},
    ),
    "VAL-008": Rule(
        "TLS passthrough with a list of application protocols is refused.",
        ("tls_alpns", "tls_mode"),
        {"one": tls(tls_mode=PASS, tls_alpns=("x",)), "two": tls(tls_mode=PASS, tls_alpns=("h2", "http/1.1"))},
    ),
    "VAL-009": Rule(
        "TLS passthrough with client certificates at the edge is refused.",
        ("mtls_auth", "tls_mode"),
        {"mtls": tls(tls_mode=PASS, mtls_auth=True)},
    ),
    "VAL-012": Rule(
        "Passthrough is a mode of TLS tunnels: with any other protocol it is refused.",
        ("tls_mode", "protocol"),
        {"http": http(tls_mode=PASS), "dtls": dtls(tls_mode=PASS), "quic": quic(tls_mode=PASS)},
    ),
    "VAL-013": Rule(
        "An explicit http/1.1 or h2c upstream with upstream TLS is refused.",
        ("http_version", "upstream_tls"),
        {
            "h1": http(http_version="http/1.1", upstream_tls=True),
            "h2c": http(http_version="h2c", upstream_tls=True),
            "h1-old-name": http(http_version="http/1.1", http_use_tls=True),
        },
    ),
    "VAL-016": Rule(
        "Token, browser sign-in and challenge are refused on tunnels that are not HTTP.",
        AUTH,
        {
            f"{family}-{name.partition('_')[0]}": MAKERS[family](**{name: True})
            for family in ("tls", "dtls", "quic")
            for name in AUTH
        },
    ),
    "VAL-018": Rule(
        "The old name of upstream TLS must not contradict the new one.",
        ("http_use_tls", "upstream_tls"),
        {
            "old-on": http(http_use_tls=True, upstream_tls=False),
            "old-off": http(http_use_tls=False, upstream_tls=True),
        },
    ),
    "VAL-019": Rule(
        "A lowest TLS version other than tls1.2 and tls1.3 is refused.",
        ("tls_min_version",),
        {version: tls(tls_min_version=version) for version in ("tls1.0", "tls1.1", "ssl3", "x", "1.3")},
    ),
    "VAL-020": Rule(
        "An upstream version other than http/1.1, h2c and h3 is refused.",
        ("http_version",),
        {
            name: http(http_version=version)
            for name, version in {
                "h2": "h2",
                "1.0": "1.0",
                "h1": "h1",
                "http-1.0": "http/1.0",
                "http-2": "http/2",
            }.items()
        },
    ),
    "VAL-021": Rule(
        "HTTP's own properties are refused on tunnels that are not HTTP.",
        ("http_version", "http_use_tls", "protocol"),
        {
            "tls-h2c": tls(http_version="h2c"),
            "tls-h1": tls(http_version="http/1.1"),
            "passthrough-h1": tls(tls_mode=PASS, http_version="http/1.1"),
            "dtls-h1": dtls(http_version="http/1.1"),
            "quic-h3": quic(http_version="h3"),
        },
    ),
    "VAL-022": Rule(
        "A tunnel that is not published refuses a public name, authentication and policies of the edge.",
        ("hostname", *AUTH, "trusted_ips", "geoip", "publish"),
        {
            "hostname": hidden(hostname="{label}-{project}.t.{domain}"),
            "token": hidden(token_auth=True),
            "rstream": hidden(rstream_auth=True),
            "challenge": hidden(challenge_mode=True),
            "trusted-ips": hidden(trusted_ips=("192.0.2.0/24",)),
            "geoip": hidden(geoip=("DE",)),
        },
    ),
    "VAL-023": Rule(
        "DTLS and QUIC tunnels cannot be private.",
        ("protocol", "publish"),
        {"dtls": hidden(protocol="dtls"), "quic": hidden(protocol="quic")},
    ),
    "VAL-024": Rule(
        "Guaranteed delivery of datagrams is refused on byte streams.",
        ("datagram_guaranteed_delivery", "type"),
        {
            "tls": tls(datagram_guaranteed_delivery=True),
            "http": http(datagram_guaranteed_delivery=True),
            "private": hidden(datagram_guaranteed_delivery=True),
        },
    ),
}


def _case_of(requirement: str, rule: Rule) -> CaseFunction:
    """The case of one row: each cell must be refused, and leave nothing behind."""

    async def refused(scene: Scene) -> None:
        await refuses(scene, requirement, rule.cells[scene.variant["cell"]], rule.objects_to, branch=rule.branch)

    refused.__name__ = f"test_{requirement.lower().replace('-', '_')}_is_refused"
    refused.__doc__ = f"""{rule.about}

    Judged on the engine's own answer; that it names the property is recorded where it does not. Nothing may be left
    behind: the list of tunnels, where there is one, has none of this agent's, and on the same channel a good tunnel
    gets the name that the refused one asked for, and serves.
    """
    return case(
        f"val-{requirement[-2:]}",
        checks=[requirement, "VAL-001"],
        needs=["dynamic"],
        features=["validation"],
        over={"cell": list(rule.cells)},
        family="tls",
    )(refused)


globals().update({made.__name__: made for made in (_case_of(row, rule) for row, rule in RULES.items())})


@case(
    "val-01",
    checks=["VAL-001"],
    needs=["dynamic"],
    features=["validation"],
    over={"cell": ["type", "tls-mode", "empty-alpn", "port"]},
    family="tls",
)
async def test_a_value_that_does_not_exist_is_refused(scene: Scene) -> None:
    """A property whose value is none of those that exist, or does not belong to the protocol, is refused, not ignored.

    An unknown type, an unknown TLS mode, an application protocol without a name (RFC 7301 knows none), a port above
    65535.
    """
    spec, name = {
        "type": (tls(type="stream"), "type"),
        "tls-mode": (tls(tls_mode="edge"), "tls_mode"),
        "empty-alpn": (tls(tls_alpns=("",)), "tls_alpns"),
        "port": (tls(port=65536), "port"),
    }[scene.variant["cell"]]
    await refuses(scene, "VAL-001", spec, (name,))


PASSTHROUGH = {
    "VAL-010": {
        "tls1.2": tls(tls_mode=PASS, tls_min_version="tls1.2"),
        "tls1.3": tls(tls_mode=PASS, tls_min_version="tls1.3"),
    },
    "VAL-011": {"cipher": tls(tls_mode=PASS, tls_ciphers=("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",))},
}


async def _passed_through(scene: Scene, requirement: str, name: str) -> None:
    """Refused, or given and the client's own TLS, below the setting, passed to the upstream untouched: recorded."""
    spec = PASSTHROUGH[requirement][scene.variant["cell"]]
    answer = await ask(scene, spec)
    if isinstance(answer, Refused):
        scene.allow(requirement, "creation rejected")
        if not unshown(scene, spec, answer, requirement) and answer.property not in (name, "tls_mode"):
            scene.record(requirement, f"the refusal names {answer.property}: {answer.message}")
        await leaves_nothing(scene, requirement)
        return
    with scene.judging(requirement):
        await scene.pair("asked", versions=(TLS12,), upstream={"versions": (TLS12,)})
        scene.allow(requirement, "accepted and without effect")


@case(
    "val-10",
    checks=["VAL-010"],
    needs=["dynamic"],
    features=["validation", "tls.passthrough"],
    over={"cell": list(PASSTHROUGH["VAL-010"])},
    family="tls",
)
async def test_passthrough_with_a_lowest_version_is_refused(scene: Scene) -> None:
    """TLS passthrough with a lowest TLS version is refused; given without effect is recorded.

    Where the engine gives the tunnel, a TLS 1.2 client must get through to the upstream's own TLS.
    """
    await _passed_through(scene, "VAL-010", "tls_min_version")


@case(
    "val-11",
    checks=["VAL-011"],
    needs=["dynamic"],
    features=["validation", "tls.passthrough"],
    over={"cell": list(PASSTHROUGH["VAL-011"])},
    family="tls",
)
async def test_passthrough_with_ciphers_is_refused(scene: Scene) -> None:
    """TLS passthrough with a list of cipher suites is refused; given without effect is recorded."""
    await _passed_through(scene, "VAL-011", "tls_ciphers")


@case("val-14", checks=["VAL-014"], needs=["dynamic"], features=["validation"], family="tls")
async def test_h3_without_upstream_tls_is_refused(scene: Scene) -> None:
    """An h3 upstream whose upstream TLS is switched off is refused, or still has it (recorded)."""
    spec = http(http_version="h3", upstream_tls=False)
    await _always_tls(scene, "VAL-014", spec, "{h3,upstream_tls:false}: rejected", "{h3,upstream_tls:false}: accepted")


@case("val-17", checks=["VAL-017"], needs=["dynamic"], features=["validation"], family="tls")
async def test_quic_without_upstream_tls_is_refused(scene: Scene) -> None:
    """A QUIC tunnel whose upstream TLS is switched off is refused, or still has it (recorded)."""
    await _always_tls(
        scene, "VAL-017", quic(upstream_tls=False), "{quic,upstream_tls:false}: rejected", "accepted and still QUIC"
    )


async def _always_tls(scene: Scene, requirement: str, spec: TunnelSpec, refused: str, given: str) -> None:
    answer = await ask(scene, spec)
    if isinstance(answer, Refused):
        scene.allow(requirement, refused)
        unshown(scene, spec, answer, requirement)
        await leaves_nothing(scene, requirement)
        return
    kept = answer.properties
    same = kept.get("protocol") == "quic" or kept.get("http_version") == "h3"
    if same and kept.get("upstream_tls") is True:
        scene.allow(requirement, given)
        return
    scene.depart(requirement, expected="a refusal, or upstream TLS all the same", actual=told(answer))


@case("val-15", checks=["VAL-015"], needs=["dynamic"], features=["validation", "http.h1"], family="tls")
async def test_a_protocol_list_does_not_change_an_http_tunnel(scene: Scene) -> None:
    """An HTTP tunnel with a list of application protocols is refused, or negotiates HTTP as ever.

    Where it is given, a client that offers only the protocol of the list must not get it, and one that offers HTTP
    must get that.
    """
    answer = await ask(scene, http(tls_alpns=("foo",)))
    if isinstance(answer, Refused):
        scene.expect("VAL-015", True, expected="a refusal, or no effect", actual=told(answer))
        await leaves_nothing(scene, "VAL-015")
        return
    with scene.judging("VAL-015"):
        peer = await scene.tls_client("asked", alpn=("foo",), handshake=False)
        await peer.try_handshake()
        scene.expect("VAL-015", peer.alpn != "foo", expected="foo not negotiated", actual=f"ALPN {peer.alpn}")
        peer = await scene.tls_client("asked", alpn=HTTP, handshake=False)
        ended = await peer.try_handshake()
        got = str(ended) if isinstance(ended, End) else f"ALPN {peer.alpn}"
        scene.expect("VAL-015", peer.alpn in HTTP, expected="ALPN http/1.1", actual=got)


@case(
    "val-22-version", checks=["VAL-022"], needs=["dynamic"], features=["validation", "private"], family="tls",
    over={"cell": ["bare", "protocol"]},
)  # fmt: skip
async def test_a_private_tunnel_with_an_http_version(scene: Scene) -> None:
    """A private tunnel with an HTTP version: refused by the documents, known to the SDK; recorded, but never public.

    Whatever the answer, there is no public name of it.
    """
    spec = hidden(http_version="http/1.1", protocol="http" if scene.variant["cell"] == "protocol" else None)
    answer = await ask(scene, spec)
    if isinstance(answer, Refused):
        scene.record("VAL-022", f"http_version on a private tunnel: {told(answer)}")
        await leaves_nothing(scene, "VAL-022", hidden=True)
        return
    near = (await scene.publish({"near": tls()}))["near"]
    told_name = answer.properties.get("hostname")
    scene.expect("VAL-022", not told_name, expected="no host name", actual=f"{told_name}")
    if isinstance(near, Endpoint):
        seen = await knock(scene, near, f"{scene.spec('asked').name}.{near.host.partition('.')[2]}")
        scene.expect("VAL-022", seen.refused, expected="no public endpoint", actual=seen.text)
    scene.record("VAL-022", f"http_version on a private tunnel: {told(answer)}")
