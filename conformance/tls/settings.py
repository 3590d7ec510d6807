"""Versions and suites: what a tunnel and a project set, and what a ClientHello says about its version."""

from __future__ import annotations

from typing import Any

from conformance.edge._helpers import engine_endpoint
from conformance.tls._steps import (
    ENDED,
    Ending,
    ended,
    ending_any,
    messages,
    quiet,
    reached,
    refusal,
    serving,
    works,
)
from harness.link.stream import End
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, tls
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import TLS10, TLS11, TLS12, TLS13, ClientHello
from harness.wire.tls import events as seen
from harness.wire.tls import extensions as ext
from harness.wire.tls.numbers import (
    ECDHE_ECDSA_AES_128_GCM,
    ECDHE_ECDSA_AES_256_GCM,
    ECDHE_RSA_AES_128_GCM,
    ECDHE_RSA_AES_256_GCM,
    GREASE,
    SUITES,
    ExtensionType,
)

VISIBLE = "another fatal alert, or end without a visible alert"
TOO_LOW = Ending({70: "fatal alert 70"}, alert=VISIBLE, reset=VISIBLE, fin=VISIBLE, notify=VISIBLE)
AES_128 = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")
AES_256 = ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")
OF_128 = (ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM)
OF_256 = (ECDHE_ECDSA_AES_256_GCM, ECDHE_RSA_AES_256_GCM)
"""For either kind of key that the edge may have."""


async def _too_low(scene: Scene, row: str, name: str, version: int = TLS12) -> None:
    """A client that speaks only `version` is refused on the tunnel `name`, by a row that names alert 70."""
    with scene.judging(row):
        client = await scene.tls_client(name, handshake=False, versions=(version,))
        await ended(scene, row, client, await refusal(client, say=scene.nonce()), TOO_LOW)


async def _gets_through(scene: Scene, row: str, name: str, version: int) -> None:
    """A client that speaks only `version` completes its handshake, and on a TLS tunnel reaches the upstream."""
    if scene.spec(name).family == "tls":
        await works(scene, row, name=name, versions=(version,))
        return
    with scene.judging(row):
        client = await scene.tls_client(name, handshake=False, versions=(version,))
        done = await client.handshake()
        scene.expect(row, done.version == version, expected="that version", actual=f"0x{done.version:04x}")


def by_minimum(variant: Variant) -> dict[str, TunnelSpec]:
    """A tunnel that wants TLS 1.3, one that wants TLS 1.2 and one that says nothing."""
    more = {"upstream_tls": True} if variant["tunnel"] == "upstream-tls" else {}
    return {
        "main": tls(tls_min_version="tls1.3", **more),
        "older": tls(tls_min_version="tls1.2", **more),
        "plain": tls(**more),
    }


@case(
    "tls-minimum-01",
    checks=["TLS-017"],
    publish=by_minimum,
    over={"tunnel": ENDED},
    features=["tls.1.2"],
)
async def test_a_tunnels_lowest_version(scene: Scene) -> None:
    """A tunnel with a lowest TLS version refuses clients below it, with protocol_version.

    On a tunnel that wants TLS 1.3 a client of TLS 1.2 is refused and nothing is at the upstream; a client of TLS 1.3
    gets through. On one that wants TLS 1.2, and on one that wants nothing, both do. An alert other than 70 is noted.
    """
    await _too_low(scene, "TLS-017", "main")
    await quiet(scene, "TLS-017")
    await _gets_through(scene, "TLS-017", "main", TLS13)
    for name in ("older", "plain"):
        for version in (TLS12, TLS13):
            await _gets_through(scene, "TLS-017", name, version)


@case(
    "tls-minimum-02",
    checks=["TLS-029"],
    publish={
        "main": http(tls_min_version="tls1.3"),
        "older": http(tls_min_version="tls1.2"),
        "suite": http(tls_ciphers=AES_128),
    },
    features=["tls.1.2", "tls.ciphers"],
)
async def test_version_and_suites_of_an_http_tunnel(scene: Scene) -> None:
    """An HTTP tunnel has a lowest TLS version and a list of suites, too.

    On one that wants TLS 1.3 a client of TLS 1.2 is refused, and one of TLS 1.3 completes its handshake; on one that
    wants TLS 1.2 both do. With a list of AES-128 suites a TLS 1.2 client that offers only AES-256 is refused.
    """
    row = "TLS-029"
    for name, version, fits in (("main", TLS12, False), ("main", TLS13, True), ("older", TLS12, True)):
        await _handshake(scene, row, name, fits=fits, versions=(version,))
    await _handshake(scene, row, "suite", fits=True, versions=(TLS12,), suites=OF_128)
    await _handshake(scene, row, "suite", fits=False, versions=(TLS12,), suites=OF_256)
    await scene.settle()
    await scene.untouched(row)


async def _handshake(scene: Scene, row: str, name: str, *, fits: bool, **options: Any) -> None:
    with scene.judging(row):
        client = await scene.tls_client(name, handshake=False, **options)
        result = await client.try_handshake()
        done = isinstance(result, seen.HandshakeDone)
        actual = "a handshake" if done else str(result)
        scene.expect(row, done is fits, expected="a handshake" if fits else "a refusal", actual=actual)
        await client.close()


NEVER = Ending(
    {70: "fatal alert 70 or another"},
    alert="fatal alert 70 or another",
    reset="close or reset",
    fin="close or reset",
    notify="close or reset",
)


def _terminated(variant: Variant) -> TunnelSpec:
    return {"terminated": tls(), "upstream-tls": tls(upstream_tls=True), "http": http()}[variant["tunnel"]]


@case("tls-minimum-03", checks=["TLS-018"], publish=_terminated, over={"tunnel": (*ENDED, "http")})
async def test_nothing_below_tls_12(scene: Scene) -> None:
    """A client that offers only TLS 1.0, or only TLS 1.1, is refused wherever the edge ends TLS.

    It says so in legacy_version alone, and in supported_versions as well; its suites are those that these versions
    have, too. Nothing is at the upstream; a client of TLS 1.3 is served.
    """
    row = "TLS-018"
    old = (0xC009, 0xC00A, 0xC013, 0xC014, 0x002F, 0x0035)
    for version in (TLS10, TLS11):
        for listed in (False, True):
            with scene.judging(row):
                client = await scene.tls_client(
                    handshake=False, versions=(version,), suites=(*SUITES, *old), hello=_listing(version, listed)
                )
                async with serving(scene):
                    end = await _first_answer(scene, row, client)
                    await ended(scene, row, client, end, NEVER)
    if scene.spec().family == "http":
        await scene.settle()
        await scene.untouched(row)
    else:
        await quiet(scene, row)
    await _gets_through(scene, row, "main", TLS13)


def _listing(version: int, listed: bool) -> Any:
    def change(hello: ClientHello) -> ClientHello:
        return hello.with_extension(ext.supported_versions((version,))) if listed else hello

    return change


async def _first_answer(scene: Scene, row: str, client: TlsPeer) -> End:
    """How the engine refuses; a ServerHello of an old version, which our client does not go on with, is a departure."""
    while True:
        event = await client.read_event()
        if isinstance(event, End):
            return event
        if isinstance(event, seen.HandshakeMessage):
            scene.depart(row, expected="a refusal", actual=event.name)


SUITE = Ending(
    dict.fromkeys((40, 71), "fatal alert 40 or 71"), reset="close or reset", fin="close or reset", notify="close"
)


@case(
    "tls-suites-01",
    checks=["TLS-020"],
    publish={"main": tls(tls_ciphers=AES_128), "both": tls(tls_ciphers=(*AES_256, *AES_128)), "plain": tls()},
    features=["tls.1.2"],
)
async def test_a_tunnels_list_of_suites(scene: Scene) -> None:
    """A list of suites on a tunnel limits what it negotiates in TLS 1.2.

    With a list of AES-128 a client that offers it gets through, and one that offers only AES-256 is refused with alert
    40 or 71 (an end without it is noted). With a list of both either does. Without a list what was refused is served.
    The lists name suites for ECDSA and for RSA keys. Which suite a client of TLS 1.3 gets is in the transcript.
    """
    row = "TLS-020"
    client = await works(scene, row, versions=(TLS12,))
    suite = client.tls.suite
    right = suite is not None and suite.number in OF_128
    scene.expect(row, right, expected="the listed suite", actual=suite.name if suite else "none")
    with scene.judging(row):
        client = await scene.tls_client(handshake=False, versions=(TLS12,), suites=OF_256)
        await ended(scene, row, client, await refusal(client, say=scene.nonce()), SUITE)
    await quiet(scene, row)
    for name in ("both", "plain"):
        for numbers in (OF_256, OF_128):
            await works(scene, row, name=name, versions=(TLS12,), suites=numbers)
    with scene.judging(row, ends=True):
        client = await scene.tls_client(handshake=False, versions=(TLS13,))
        result = await client.try_handshake()
    scene.transcript.note("recorded", f"TLS 1.3 beside a list of TLS 1.2 suites: {result}")


# The project


async def _own_name(scene: Scene, offer: str, version: int, *, fits: bool) -> None:
    """A handshake with the engine's own name, where its API and agents are served."""
    where = engine_endpoint(scene)
    await _handshake(scene, "TRANS-012", "main", fits=fits, endpoint=where, alpn=(offer,), versions=(version,))


@case(
    "tls-project-01",
    checks=["TRANS-012"],
    settings={"project.tls-min-version": "tls1.3"},
    features=["project.tls-min-version"],
    needs=["dynamic"],
    family="agent",
)
async def test_the_projects_lowest_version_binds_the_engines_own_name(scene: Scene) -> None:
    """A project's lowest TLS version holds at the engine's own name, for agents and for its API.

    With TLS 1.3 as the lowest version, clients of TLS 1.2 are refused there with the agents' protocol and with
    http/1.1; clients of TLS 1.3 complete their handshake.
    """
    for offer in ("rstrm/1", "http/1.1"):
        await _own_name(scene, offer, TLS12, fits=False)
        await _own_name(scene, offer, TLS13, fits=True)


@case("tls-project-02", checks=["TRANS-012"], features=["tls.1.2"], needs=["dynamic"], family="agent")
async def test_the_engines_own_name_without_a_projects_version(scene: Scene) -> None:
    """Without a lowest version of the project the engine's own name serves http/1.1 to clients of TLS 1.2 and 1.3.

    That is what a project's setting is to change.
    """
    for version in (TLS12, TLS13):
        await _own_name(scene, "http/1.1", version, fits=True)


# What a ClientHello says

REFUSED = "0x0304, 0x03FF on an edge that speaks TLS 1.3: any fatal alert or close"
LOWER = Ending(
    {70: "0x0301: fatal alert 70"},
    reset="0x0301: close or reset",
    fin="0x0301: close or reset",
    notify="0x0301: close or reset",
)


@case(
    "tls-version-01",
    checks=["RFC5246-E.1-1", "RFC8446-4.2.1-2"],
    publish=tls(),
    over={"version": ("0x0303", "0x0304", "0x03ff")},
    features=["tls.1.2"],
)
async def test_a_version_without_supported_versions(scene: Scene) -> None:
    """Without supported_versions the highest version that comes out is TLS 1.2, whatever legacy_version says.

    0x0303, 0x0304 and 0x03ff, each with everything else that TLS 1.3 needs, lead to TLS 1.2 or (the higher ones) to a
    refusal; never to TLS 1.3. With 0x0301 the client is refused with alert 70.
    """
    number = int(scene.variant["version"], 16)
    with scene.judging("RFC8446-4.2.1-2"):
        client = await scene.tls_client(handshake=False, legacy_version=number, hello=_unlisted)
        end = await reached(scene, client)
        version = client.version
        if end is None:
            scene.expect("RFC8446-4.2.1-2", version == TLS12, expected="TLS 1.2", actual=f"0x{version or 0:04x}")
            scene.allow("RFC8446-4.2.1-2", "ServerHello of TLS 1.2")
            if number > TLS12:
                scene.allow("RFC5246-E.1-1", "0x0304, 0x03FF: ServerHello of TLS 1.2")
        else:
            hellos = messages(client, "ServerHello")
            scene.expect("RFC8446-4.2.1-2", not hellos, expected="TLS 1.2 or a refusal", actual=str(end))
            scene.expect("RFC8446-4.2.1-2", number > TLS12, expected="TLS 1.2 with 0x0303", actual=str(end))
            scene.allow("RFC8446-4.2.1-2", "any fatal alert or close")
            scene.allow("RFC5246-E.1-1", REFUSED)
    with scene.judging("RFC5246-E.1-1"):
        client = await scene.tls_client(handshake=False, versions=(TLS10,))
        await ended(scene, "RFC5246-E.1-1", client, await _first_answer(scene, "RFC5246-E.1-1", client), LOWER)
    await quiet(scene, "RFC8446-4.2.1-2")


def _unlisted(hello: ClientHello) -> ClientHello:
    return hello.without_extension(ExtensionType.SUPPORTED_VERSIONS)


@case("tls-version-02", checks=["RFC8446-4.2.1-1"], publish=tls())
async def test_supported_versions_alone_decides(scene: Scene) -> None:
    """Where supported_versions is there it alone decides, and unknown versions in it are ignored.

    Behind GREASE values 0x0304 is found, though legacy_version says 0x0303, and 0x0303 alone in the list leads to TLS
    1.2 or a refusal, never to TLS 1.3, whatever else the hello holds.
    """
    row = "RFC8446-4.2.1-1"
    versions = ext.supported_versions((GREASE[0], GREASE[1], TLS13))
    client = await works(scene, row, hello=lambda hello: hello.with_extension(versions))
    scene.expect(row, client.version == TLS13, expected="TLS 1.3", actual=f"0x{client.version or 0:04x}")
    scene.allow(row, "first hello: 1.3")
    with scene.judging(row):
        client = await scene.tls_client(
            handshake=False, hello=lambda hello: hello.with_extension(ext.supported_versions((TLS12,)))
        )
        end = await reached(scene, client)
        if end is None:
            scene.expect(row, client.version == TLS12, expected="TLS 1.2", actual=f"0x{client.version or 0:04x}")
            scene.allow(row, "second hello: 1.2")
        else:
            off = "second hello, 1.2 off: fatal alert 70 or another, or close"
            await ended(scene, row, client, end, ending_any(off, off))
