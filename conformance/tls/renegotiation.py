"""Renegotiation and its indication: every TLS 1.2 handshake speaks of it, and none renegotiates (RFC 5746)."""

from __future__ import annotations

from typing import Any, cast

from conformance.tls._steps import Ending, echo, messages, offer, quiet, refused, works
from harness.link.stream import End
from harness.model.case import case
from harness.model.spec import http, tls
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import TLS12, TlsClient
from harness.wire.tls import events as seen
from harness.wire.tls import extensions as ext
from harness.wire.tls.numbers import ExtensionType

INFO = ExtensionType.RENEGOTIATION_INFO
INDICATION = ("RFC5746-3.6-1", "RFC5746-4.3-1")


@case(
    "tls-renegotiation-01",
    checks=INDICATION,
    publish={"main": tls(), "near": tls(upstream_tls=True), "web": http()},
    over={"signal": ("extension", "scsv"), "tunnel": ("main", "near", "web")},
    features=["tls.1.2"],
)
async def test_the_indication_is_answered(scene: Scene) -> None:
    """A first TLS 1.2 ClientHello with the SCSV or an empty renegotiation_info is answered with an empty one.

    The edge renegotiates nothing, and answers all the same.
    """
    options: dict[str, Any] = {"versions": (TLS12,), "renegotiation": scene.variant["signal"]}
    with scene.judging(*INDICATION):
        client = await scene.tls_client(scene.variant["tunnel"], **options)
        answer = messages(client, "ServerHello")[0].extension(INFO)
        for row in INDICATION:
            scene.expect(row, answer == b"\0", expected="an empty renegotiation_info", actual=f"{answer!r}")


NOT_EMPTY = Ending(
    {40: "fatal alert 40"},
    alert="another fatal alert",
    reset="close or reset",
    fin="close or reset",
    notify="close or reset",
)


@case("tls-renegotiation-02", checks=["RFC5746-3.6-2"], publish=tls(), features=["tls.1.2"])
async def test_an_indication_that_is_not_empty_is_refused(scene: Scene) -> None:
    """A first TLS 1.2 ClientHello with a renegotiation_info of 12 octets is refused, and nothing is at the upstream.

    With an empty one the client gets through.
    """
    row = "RFC5746-3.6-2"
    await refused(
        scene,
        row,
        NOT_EMPTY,
        versions=(TLS12,),
        hello=lambda hello: hello.with_extension(ext.renegotiation_info(b"\x55" * 12)),
    )
    await quiet(scene, row)
    await works(scene, row, versions=(TLS12,))


async def _answer(client: TlsPeer) -> str:
    """What the engine did with a renegotiating ClientHello: `warning`, `fatal`, `closed`; `accepted` is a departure."""
    while True:
        event = await client.read_event()
        if isinstance(event, End):
            return "fatal" if event.alert is not None else "closed"
        if isinstance(event, seen.Alert) and not event.fatal:
            return "warning" if event.description == 100 else "closed"
        if isinstance(event, seen.Unsupported):
            return "accepted"


async def _renegotiate(scene: Scene, row: str, client: TlsPeer, upstream: Any, **hello: Any) -> str:
    """Ask for renegotiation in a joined connection; where it is refused the upstream's stream is whole. The answer."""
    await client.send_octets(cast("TlsClient", client.tls).renegotiate(**hello))
    answer = await _answer(client)
    if answer == "accepted":
        return answer
    token = scene.nonce()
    if answer == "warning":
        # It goes on, or closes: what is at the upstream is our own, or nothing.
        await offer(client, token)
        got = await upstream.receive()
        scene.expect(row, got in (token, b""), expected="the connection's own octets alone", actual=got.hex())
    else:
        data, end = await upstream.receive_until_end()
        scene.expect(row, not data, expected="no octet of a spliced connection", actual=f"{data!r}, {end}")
    return answer


FORMS: dict[str, dict[str, Any]] = {
    "right": {},
    "scsv": {"scsv": True},
    "missing": {"info": False},
    "wrong": {"verify_data": b"\x55" * 12},
    "empty": {"verify_data": b""},
}


@case(
    "tls-renegotiation-03",
    checks=["RFC5746-3.7-1", "RFC5246-7.4.1.1-1"],
    publish=tls(),
    over={"form": tuple(FORMS)},
    features=["tls.1.2"],
)
async def test_renegotiation_is_refused(scene: Scene) -> None:
    """In TLS 1.2 a ClientHello inside a connection is refused, and nothing is spliced into the upstream's stream.

    It carries the right renegotiation_info, the SCSV, none, a wrong or an empty one. The edge answers with
    no_renegotiation and goes on, or ends the connection; the right one alone may be taken up (noted). No HelloRequest
    came.
    """
    rows, form = ("RFC5746-3.7-1", "RFC5246-7.4.1.1-1"), scene.variant["form"]
    with scene.judging(*rows):
        client, upstream = await scene.pair(versions=(TLS12,))
        await echo(scene, client, upstream, rows[0])
        answer = await _renegotiate(scene, rows[0], client, upstream, **FORMS[form])
        if answer == "accepted":
            scene.expect(rows[0], form == "right", expected="a refusal", actual="a ServerHello")
            scene.allow(rows[1], "renegotiation under RFC 5746: recorded")
            return
        branches = {"warning": "warning alert 100", "fatal": "fatal alert, then close", "closed": "close or reset"}
        scene.allow(rows[0], branches[answer])
        scene.allow(rows[1], "warning alert 100" if answer == "warning" else "fatal alert or close")
        asked = messages(client, "HelloRequest")
        scene.expect(rows[1], not asked, expected="no HelloRequest", actual=str(len(asked)))


@case("tls-renegotiation-04", checks=["RFC5746-4.4-1"], publish=tls(), features=["tls.1.2"])
async def test_legacy_renegotiation_is_refused(scene: Scene) -> None:
    """A client that never spoke of secure renegotiation cannot renegotiate.

    Its first ClientHello has neither SCSV nor extension, and may be refused for it. A renegotiating one is answered
    with no_renegotiation or an end, and nothing is spliced into the upstream's stream.
    """
    row, options = "RFC5746-4.4-1", {"versions": (TLS12,), "renegotiation": None}
    with scene.judging(row):
        client = await scene.tls_client(handshake=False, **options)  # type: ignore[arg-type]
        result = await client.try_handshake()
        if isinstance(result, End):
            scene.allow(row, "first handshake refused")
            return
        token = scene.nonce()
        await client.send(token)
        upstream = await scene.upstream().accept_with(token)
        answer = await _renegotiate(scene, row, client, upstream, info=False)
        scene.expect(row, answer != "accepted", expected="a refusal", actual="a ServerHello")
        scene.allow(row, "warning alert 100" if answer == "warning" else "fatal alert or close")
