"""Which features an edition has: what it must offer, what it must refuse, and with which answer."""

from __future__ import annotations

import asyncio

from conformance.edge._helpers import knock, serves
from conformance.quic._steps import joined
from conformance.validation._judging import (
    INVALID,
    UNAVAILABLE,
    Answer,
    ask,
    gives,
    leaves_nothing,
    need,
    told,
)
from conformance.validation.matrix import dtls, hidden, quic
from harness.engine.driver import Endpoint, Refused
from harness.ledger import Ledger
from harness.model.case import case
from harness.model.spec import TunnelSpec, http, tls
from harness.scene import Scene

COMMUNITY = {"edition": "community"}
BASIC = {"edition": "basic"}

ASKED: dict[str, TunnelSpec] = {
    "http.h1": http(),
    "http.h2c": http(http_version="h2c"),
    "http.h3": http(http_version="h3"),
    "http.upstream-tls": http(upstream_tls=True),
    "http.token-auth": http(token_auth=True),
    "http.rstream-auth": http(rstream_auth=True),
    "http.challenge": http(challenge_mode=True),
    "tls.terminated": tls(),
    "tls.upstream": tls(upstream_tls=True),
    "tls.passthrough": tls(tls_mode="passthrough"),
    "tls.alpn": tls(tls_alpns=("a", "b")),
    "tls.min-version": tls(tls_min_version="tls1.3"),
    "tls.ciphers": tls(tls_ciphers=("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",)),
    "tls.mtls": tls(mtls_auth=True),
    "policy.trusted-ips": tls(trusted_ips=("127.0.0.0/8",)),
    "policy.geoip": tls(geoip=("DE",)),
    "dtls": dtls(),
    "quic": quic(),
    "private.datagram": hidden(type="datagram"),
}
"""How a feature that is a property of a tunnel is asked for."""


def promised(edition: str, answer: str, *requirements: str) -> list[str]:
    """The features of `ASKED` of which the documents say `answer` in this edition, of rows that begin alike."""
    promises = Ledger.load().editions
    return [
        name
        for name in ASKED
        if name in promises
        and promises[name].editions[edition] == answer
        and (not requirements or set(requirements) & set(promises[name].requirements))
    ]


# -- what the community edition has


@case(
    "ed-community-01",
    checks=["ED-001"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    over={"feature": promised("community", "yes", "ED-001", "HTTP-VER-001", "TLS-017", "TLS-020", "ALPN-001")},
    family="tls",
)
async def test_the_community_edition_has_http_and_tls(scene: Scene) -> None:
    """The community edition publishes HTTP and TLS tunnels of every kind that it is promised, and they serve.

    One tunnel per feature that the documents promise to the edition and that the profile claims.
    """
    feature = scene.variant["feature"]
    spec = ASKED[feature]
    need(scene, spec, feature)
    await gives(scene, "ED-001", spec, protocol=spec.protocol)
    with scene.judging("ED-001"):
        if feature == "http.upstream-tls":
            await _under_tls(scene)
        else:
            await serves(scene)


@case(
    "ed-community-02",
    checks=["TLS-028"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    over={"feature": promised("community", "yes", "TLS-028")},
    family="tls",
)
async def test_tls_tunnels_are_there_in_the_community_edition(scene: Scene) -> None:
    """TLS tunnels are available in every edition: terminated, with upstream TLS, and passed through."""
    await _tls_serves(scene)


@case(
    "ed-tls-01",
    checks=["TLS-028"],
    settings=BASIC,
    needs=["dynamic"],
    features=["edition.basic"],
    over={"feature": promised("basic", "yes", "TLS-028")},
    family="tls",
)
async def test_tls_tunnels_are_there_in_the_basic_edition(scene: Scene) -> None:
    """TLS tunnels are available in every edition, the basic one too."""
    await _tls_serves(scene)


@case(
    "ed-tls-02",
    checks=["TLS-028"],
    settings={"edition": "pro"},
    needs=["dynamic"],
    features=["edition.pro"],
    over={"feature": promised("pro", "yes", "TLS-028")},
    family="tls",
)
async def test_tls_tunnels_are_there_in_the_pro_edition(scene: Scene) -> None:
    """TLS tunnels are available in every edition, pro too."""
    await _tls_serves(scene)


async def _tls_serves(scene: Scene) -> None:
    spec = ASKED[scene.variant["feature"]]
    need(scene, spec)
    await gives(scene, "TLS-028", spec, protocol="tls")
    with scene.judging("TLS-028"):
        await serves(scene)


async def _under_tls(scene: Scene) -> None:
    """A request reaches an upstream that speaks TLS, and its answer comes back."""
    client = await scene.http_client()
    nonce = scene.nonce().hex()
    await client.request("GET", f"/{nonce}")
    upstream = await scene.upstream().accept_tls(alpn=("http/1.1",))
    head = await upstream.receive()
    scene.expect("ED-001", nonce.encode() in head, expected="the request at the upstream", actual=repr(head[:60]))
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n" + nonce.encode())
    got = await client.response()
    scene.expect("ED-001", got.body == nonce.encode(), expected="the upstream's answer", actual=got.describe())


# -- what it does not have


@case(
    "ed-community-03",
    checks=["ED-002", "EDGE-007", "ED-011"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    over={"feature": promised("community", "no", "ED-002")},
    family="tls",
)
async def test_the_community_edition_refuses_dtls_and_quic(scene: Scene) -> None:
    """The community edition refuses DTLS and QUIC tunnels at creation, whatever the number of the error.

    Nothing may be listed or serve under the name, and the channel goes on with a TLS tunnel.
    """
    answer = await ask(scene, ASKED[scene.variant["feature"]])
    refused = isinstance(answer, Refused)
    expected = "a refusal"
    scene.expect("ED-002", refused, expected=expected, actual=told(answer), branch="creation refused, any error code")
    scene.expect("EDGE-007", refused, expected=expected, actual=told(answer))
    scene.expect("ED-011", refused, expected=expected, actual=told(answer))
    await leaves_nothing(scene, "EDGE-007")


@case(
    "ed-community-04",
    checks=["ED-006", "EDGE-007", "ED-011"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    over={"form": ["version", "datagram"]},
    family="tls",
)
async def test_the_community_edition_refuses_h3_upstreams(scene: Scene) -> None:
    """The community edition refuses HTTP/3 upstreams, asked for by version, or by HTTP on datagrams.

    It must not serve the tunnel with another version instead.
    """
    spec = http(http_version="h3") if scene.variant["form"] == "version" else http(type="datagram")
    await _refuses(scene, spec, "ED-006", "EDGE-007", "ED-011")


async def opens(scene: Scene, name: str = "asked") -> bool:
    """Whether a client without credentials gets a request through to the upstream of the HTTP tunnel `name`."""
    upstream = scene.http_upstream(name)

    async def answer() -> None:
        await (await upstream.request()).respond(200)

    answering = asyncio.ensure_future(answer())
    try:
        where = scene.endpoint(name)
        await knock(scene, where, where.host)
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    return bool(upstream.requests_seen)


OPEN = ("tls.mtls", "http.rstream-auth", "http.challenge")
"""What must never be given and left open."""


@case(
    "ed-community-05",
    checks=["ED-012", "EDGE-007", "ED-011"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    over={"feature": [name for name in promised("community", "no") if name.startswith("policy.") or name in OPEN]},
    family="tls",
)
async def test_the_community_edition_refuses_guards_that_it_lacks(scene: Scene) -> None:
    """The community edition refuses browser sign-in, challenge, client certificates, lists of addresses and countries.

    Lists without effect are recorded. A guard that is given and does not guard is a departure: a client without any
    credential must not get through.
    """
    feature = scene.variant["feature"]
    answer = await ask(scene, ASKED[feature])
    rows = ("ED-012", "EDGE-007", "ED-011")
    if isinstance(answer, Refused):
        scene.allow("ED-012", "creation refused")
        for row in rows[1:]:
            scene.expect(row, True, expected="a refusal", actual=told(answer))
        await leaves_nothing(scene, "ED-012")
        return
    if feature not in OPEN:
        scene.allow("ED-012", "trusted IPs, GeoIP: accepted without effect")
    elif feature.startswith("http.") and not await opens(scene):
        scene.allow("ED-012", "rstream auth, challenge: accepted, every request refused")
    else:
        for row in rows:
            scene.depart(row, expected="a refusal, or a tunnel that lets nobody in", actual=told(answer))
    for row in rows[1:]:
        scene.record(row, f"given without effect: {told(answer)}")


LISTS = ("policy.trusted-ips", "policy.geoip")


@case(
    "ed-community-07",
    checks=["POL-015"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    over={"feature": LISTS},
    family="tls",
)
async def test_the_community_edition_enforces_no_lists(scene: Scene) -> None:
    """The community edition refuses lists of addresses and of countries, or gives them without effect (recorded).

    Where it gives one, a client of any address must get through.
    """
    answer = await ask(scene, ASKED[scene.variant["feature"]])
    if isinstance(answer, Refused):
        scene.allow("POL-015", "refused at creation")
        await leaves_nothing(scene, "POL-015")
        return
    with scene.judging("POL-015"):
        await serves(scene, "asked")
        scene.allow("POL-015", "accepted without effect")


@case(
    "ed-community-06",
    checks=["ED-013"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    family="tls",
)
async def test_the_community_edition_has_no_private_datagrams(scene: Scene) -> None:
    """The community edition refuses private datagram tunnels; one that is given is recorded (ruling T-55)."""
    answer = await ask(scene, ASKED["private.datagram"])
    if isinstance(answer, Endpoint):
        scene.record("ED-013", told(answer))
        scene.expect("ED-013", not answer.host, expected="no public name", actual=answer.host)
        return
    scene.expect("ED-013", True, expected="a refusal", actual=told(answer))
    await leaves_nothing(scene, "ED-013", hidden=True)


@case(
    "ed-codes-01",
    checks=["VAL-027"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community", "validation"],
    over={"missing": ["quic", "dtls", "http.h3"]},
    family="tls",
)
async def test_a_contradiction_and_a_missing_feature_are_told_apart(scene: Scene) -> None:
    """A contradictory request is an invalid one (2000), what the edition lacks a feature that is not available (5000).

    A TLS tunnel of type datagram against a QUIC, DTLS or h3 tunnel on the community edition. Both must be refused;
    other numbers that tell the two apart, and one number for both, are recorded.
    """
    wrong = await ask(scene, tls(type="datagram"), "wrong")
    missing = await ask(scene, ASKED[scene.variant["missing"]], "missing")
    if not isinstance(wrong, Refused) or not isinstance(missing, Refused):
        scene.depart("VAL-027", expected="two refusals", actual=f"{told(wrong)}; {told(missing)}")
        return
    codes = (wrong.code, missing.code)
    scene.transcript.note("recorded", f"VAL-027: {codes[0]} and {codes[1]}")
    if codes == (INVALID, UNAVAILABLE):
        scene.allow("VAL-027", "2000 and 5000")
    elif codes[0] != codes[1]:
        scene.allow("VAL-027", "other codes that tell the two apart")
    else:
        scene.allow("VAL-027", "one code for both")


@case(
    "ed-community-08",
    checks=["QUIC-021", "EDGE-007"],
    settings=COMMUNITY,
    needs=["dynamic"],
    features=["edition.community"],
    family="tls",
)
async def test_the_community_edition_never_publishes_quic(scene: Scene) -> None:
    """The community edition refuses a QUIC tunnel that asks for a list of protocols, too; nothing is left behind."""
    await _refuses(scene, quic(tls_alpns=("a",)), "QUIC-021", "EDGE-007")


# -- the pro edition


@case(
    "ed-pro-02",
    checks=["QUIC-021", "ED-005"],
    settings={"edition": "pro"},
    needs=["dynamic"],
    features=["edition.pro", "quic"],
    family="tls",
)
async def test_the_pro_edition_has_quic(scene: Scene) -> None:
    """The pro edition publishes QUIC tunnels, and they serve: a round trip on a stream comes through."""
    await gives(scene, "QUIC-021", quic(tls_alpns=("a",)), protocol="quic")
    with scene.judging("ED-005", "QUIC-021"):
        await joined(scene)
        scene.expect("ED-005", True, expected="a QUIC tunnel that serves", actual="it does")


# -- the basic edition


@case(
    "ed-basic-01",
    checks=["ED-004", "ED-011"],
    settings=BASIC,
    needs=["dynamic"],
    features=["edition.basic"],
    family="tls",
)
async def test_the_basic_edition_refuses_dtls(scene: Scene) -> None:
    """The basic edition refuses DTLS tunnels; that pro and enterprise have them is shown where a profile claims it."""
    await _refuses(scene, dtls(), "ED-004", "ED-011")


@case(
    "ed-basic-02",
    checks=["ED-005", "QUIC-021", "ED-011"],
    settings=BASIC,
    needs=["dynamic"],
    features=["edition.basic"],
    family="tls",
)
async def test_the_basic_edition_refuses_quic(scene: Scene) -> None:
    """The basic edition refuses QUIC tunnels."""
    await _refuses(scene, quic(), "ED-005", "QUIC-021", "ED-011")


@case(
    "ed-basic-03",
    checks=["ED-006", "ED-011"],
    settings=BASIC,
    needs=["dynamic"],
    features=["edition.basic"],
    family="tls",
)
async def test_the_basic_edition_refuses_h3_upstreams(scene: Scene) -> None:
    """The basic edition refuses HTTP/3 upstreams."""
    await _refuses(scene, http(http_version="h3"), "ED-006", "ED-011")


@case(
    "ed-basic-04",
    checks=["ED-014"],
    settings=BASIC,
    needs=["dynamic"],
    features=["edition.basic"],
    over={"feature": promised("basic", "no")},
    family="tls",
)
async def test_the_basic_edition_refuses_what_belongs_to_the_upper_ones(scene: Scene) -> None:
    """The basic edition refuses DTLS, QUIC, h3 upstreams, client certificates, lists of addresses and of countries.

    Lists that are given without effect are recorded, as on the community edition (ruling T-54).
    """
    feature = scene.variant["feature"]
    answer = await ask(scene, ASKED[feature])
    if isinstance(answer, Endpoint) and feature in LISTS:
        scene.record("ED-014", f"given without effect: {told(answer)}")
        return
    scene.expect("ED-014", isinstance(answer, Refused), expected="a refusal", actual=told(answer))
    await leaves_nothing(scene, "ED-014")


@case(
    "ed-basic-05",
    checks=["ED-014"],
    settings=BASIC,
    needs=["dynamic"],
    features=["edition.basic"],
    over={"feature": ["http.h1", "tls.terminated", "http.token-auth"]},
    family="tls",
)
async def test_the_basic_edition_has_http_and_tls(scene: Scene) -> None:
    """The basic edition publishes HTTP tunnels, with a token too, and TLS tunnels; without a token's guard they
    serve."""
    feature = scene.variant["feature"]
    spec = ASKED[feature]
    need(scene, spec, feature)
    await gives(scene, "ED-014", spec, protocol=spec.protocol)
    if feature == "http.token-auth":
        scene.expect("ED-014", not await opens(scene, "main"), expected="nobody without a token", actual="a request")
        return
    with scene.judging("ED-014"):
        await serves(scene)


async def _refuses(scene: Scene, spec: TunnelSpec, *requirements: str) -> Answer:
    """The engine's own refusal, with nothing left behind."""
    answer = await ask(scene, spec)
    for requirement in requirements:
        scene.expect(requirement, isinstance(answer, Refused), expected="a refusal", actual=told(answer))
    await leaves_nothing(scene, *requirements, hidden=spec.publish is False)
    return answer
