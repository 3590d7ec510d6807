"""ALPN between client and edge: the tunnel's list, what is negotiated from it, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

from conformance.tls._steps import ENDED, VERSIONS, Ending, ending_any, quiet, reached, refused, spec_of, works
from harness.engine import driver
from harness.judge import Departed
from harness.link.stream import End
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http
from harness.peer.http1 import Response
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import Extension
from harness.wire.tls import events as seen
from harness.wire.tls import extensions as ext
from harness.wire.tls.numbers import ExtensionType

GREASE = b"\x0a\x0a"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def listed(variant: Variant) -> TunnelSpec:
    """A tunnel of the variant's mode with the list [a, b]."""
    return spec_of(variant["mode"], tls_alpns=("a", "b"))


def by_preference(variant: Variant) -> TunnelSpec:
    """A tunnel of the variant's mode with the list [b, a]."""
    return spec_of(variant["mode"], tls_alpns=("b", "a"))


def unlisted(variant: Variant) -> TunnelSpec:
    """A tunnel of the variant's mode without a list."""
    return spec_of(variant["mode"])


def _answer(client: TlsPeer) -> list[bytes]:
    """The names in the edge's ALPN extension; empty without one."""
    for event in client.events:
        if isinstance(event, seen.HandshakeMessage) and event.name in ("ServerHello", "EncryptedExtensions"):
            for one in getattr(event.message, "extensions", None) or ():
                if one.type == ExtensionType.ALPN:
                    return list(ext.parse_alpn(one.data))
    return []


@case(
    "alpn-list-01",
    checks=["ALPN-001", "RFC7301-3.1-2", "RFC7301-3.1-3"],
    publish=listed,
    over={"mode": ENDED, "version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_a_listed_protocol_is_negotiated(scene: Scene) -> None:
    """A tunnel negotiates the protocols of its list; names that it does not know are passed over.

    On the list [a, b] a client that offers [b] gets b, and one that offers a GREASE value, an unknown name and b gets b
    too. The answer holds exactly one name each time, and octets are relayed. DTLS and QUIC tunnels are not part of
    this case.
    """
    versions = VERSIONS[scene.variant["version"]]
    for offer, row in ((["b"], "ALPN-001"), ([GREASE, "unknown", "b"], "RFC7301-3.1-3")):
        client = await works(scene, row, "RFC7301-3.1-2", alpn=offer, versions=versions)
        branch = "tunnels with a list" if row == "RFC7301-3.1-3" else None
        scene.expect(row, client.alpn == "b", expected="b", actual=str(client.alpn), branch=branch)
        names = _answer(client)
        scene.expect("RFC7301-3.1-2", names == [b"b"], expected="one name, b", actual=str(names))


@case("alpn-list-02", checks=["ALPN-011", "RFC7301-3.2-1"], publish=by_preference, over={"mode": ENDED})
async def test_the_order_of_preference(scene: Scene) -> None:
    """Where several names match, one of them is negotiated; which one is noted.

    The tunnel's list is [b, a], the client offers [a, b] (RFC 7301 section 3.2 has the server prefer).
    """
    client = await works(scene, "RFC7301-3.2-1", "ALPN-011", alpn=["a", "b"])
    chosen = str(client.alpn)
    scene.expect("RFC7301-3.2-1", chosen in ("a", "b"), expected="a or b", actual=chosen)
    if chosen in ("a", "b"):
        scene.allow("RFC7301-3.2-1", "b" if chosen == "b" else "a: recorded")
        scene.allow("ALPN-011", chosen)


def _refusals(modern: bool) -> tuple[Ending, Ending]:
    """What ends a client without a protocol in common, by ALPN-008 and by RFC 7301."""
    documented = "TLS: fatal alert 120"
    without = "TLS 1.3: end without an alert" if modern else None
    return (
        Ending({120: documented}, reset=documented, fin=documented if modern else None),
        Ending({120: "fatal alert 120"}, reset="TCP reset", fin=without),
    )


@case(
    "alpn-list-03",
    checks=["ALPN-008", "RFC7301-3.2-2"],
    publish=listed,
    over={"mode": ENDED, "version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_nothing_in_common_is_refused(scene: Scene) -> None:
    """A client that offers nothing of the list is refused with alert 120, and no octet is at the upstream.

    The client offers [zzz, aa, A] on the list [a, b]: names are compared octet by octet. With TLS 1.3 an end without an
    alert passes (RFC 8446 section 6.2). A client that offers a gets through.
    """
    versions = VERSIONS[scene.variant["version"]]
    claimed, standard = _refusals(scene.variant["version"] == "tls1.3")
    await refused(scene, "RFC7301-3.2-2", standard, alpn=["zzz", "aa", "A"], versions=versions)
    await refused(scene, "ALPN-008", claimed, alpn=["zzz"], versions=versions)
    await quiet(scene, "ALPN-008", "RFC7301-3.2-2")
    await works(scene, "RFC7301-3.2-2", alpn=["a"], versions=versions)


@case("alpn-list-04", checks=["ALPN-009", "ALPN-001"], publish=listed, over={"mode": ENDED})
async def test_a_client_without_alpn_is_accepted(scene: Scene) -> None:
    """A client that sends no ALPN gets through on a tunnel with a list, and gets no ALPN.

    Without upstream TLS a refusal is noted; the seed only implies the rule there. A client that offers a listed name
    gets it.
    """
    with scene.judging("ALPN-009"):
        client = await scene.tls_client(handshake=False, alpn=())
        end = await reached(scene, client)
        if end is None:
            none = client.alpn is None and not _answer(client)
            scene.expect("ALPN-009", none, expected="no ALPN", actual=str(client.alpn), branch="accepted without")
        elif scene.variant["mode"] == "terminated":
            scene.allow("ALPN-009", "upstream TLS off: refused")
        else:
            scene.depart("ALPN-009", expected="a handshake without ALPN", actual=str(end))
    client = await works(scene, "ALPN-001", alpn=["a"])
    scene.expect("ALPN-001", client.alpn == "a", expected="a", actual=str(client.alpn))


@case("alpn-list-05", checks=["ALPN-010", "ALPN-004", "ALPN-006"], publish=unlisted, over={"mode": ENDED})
async def test_an_offer_without_a_list(scene: Scene) -> None:
    """A client that offers a protocol on a tunnel without a list is accepted without it, with it, or refused.

    Where the engine speaks TLS to the upstream, it must offer the name there too if it has echoed it, and no ALPN if
    not.
    """
    rows, behind = ("ALPN-004", "ALPN-006"), scene.variant["mode"] == "upstream-tls"
    server: TlsPeer | None = None
    result: object = None
    with scene.judging("ALPN-010"):
        client = await scene.tls_client(handshake=False, alpn=["x"])
        result, server = await _joined(scene, client, behind=behind)
    if result is None:
        raise Departed("ALPN-010")
    if server is not None:
        _offered_behind(scene, client, server)
    else:
        for row in rows:
            scene.not_run(row, "the client is refused" if behind else "the upstream speaks no TLS")
    if isinstance(result, End):
        right = result.alert in (None, 120)
        scene.expect("ALPN-010", right, expected="alert 120", actual=str(result), branch="refused with alert 120")
    elif client.alpn is None:
        scene.allow("ALPN-010", "accepted, no ALPN at C")
    else:
        scene.expect("ALPN-010", client.alpn == "x", expected="x", actual=str(client.alpn))
        scene.allow("ALPN-010", "accepted, x at C")


async def _joined(scene: Scene, client: TlsPeer, *, behind: bool) -> tuple[seen.HandshakeDone | End, TlsPeer | None]:
    """How the client's handshake ended and, where it is joined to an upstream over TLS, that upstream's side."""
    side, token = scene.upstream(), scene.nonce()
    if not behind:
        result = await client.try_handshake()
        if not isinstance(result, End):
            await client.send(token)
            await side.accept_with(token)
        return result, None
    taking = asyncio.ensure_future(side.accept_tls(alpn=("x",), alpn_may_miss=True))
    try:
        result = await client.try_handshake()
        if isinstance(result, End):
            return result, None
        await client.send(token)
        server = await taking
        await side.check_nonce(server, token)
        return result, server
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)


def _offered_behind(scene: Scene, client: TlsPeer, server: TlsPeer) -> None:
    """What goes upstream where there is no list: the negotiated name alone, or nothing."""
    offered = server.client_hello.alpn
    row, other = ("ALPN-006", "ALPN-004") if client.alpn is None else ("ALPN-004", "ALPN-006")
    right = offered == (None if client.alpn is None else (client.alpn,))
    scene.expect(row, right, expected=f"{client.alpn or 'no ALPN'} upstream", actual=str(offered))
    scene.not_run(other, "the other half of the rule")


MALFORMED = {
    "empty extension": b"",
    "list of length 0": b"\0\0",
    "empty name": b"\0\1\0",
    "empty name behind a listed one": b"\0\3\1a\0",
    "empty name in front of a listed one": b"\0\3\0\1a",
    "name beyond the list": b"\0\2\5a",
    "list beyond the extension": b"\0\x20\1a",
    "octets behind the list": b"\0\2\1a\1b",
}


@case(
    "alpn-list-06",
    checks=["RFC7301-3.1-1"],
    publish=listed,
    over={"mode": ENDED, "version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_a_malformed_offer_selects_nothing(scene: Scene) -> None:
    """A malformed ALPN list leads to no protocol: the handshake is refused, and nothing is at the upstream.

    Empty names, empty lists, names and lists with lengths that do not fit, each holding a listed name where there is
    room for one. A well-formed offer gets through. What the edge itself offers upstream our upstream decodes strictly.
    """
    row, versions = "RFC7301-3.1-1", VERSIONS[scene.variant["version"]]
    either = "any fatal alert (50 or 47 usual) or close"
    for data in MALFORMED.values():
        broken = Extension(ExtensionType.ALPN, data)
        await refused(
            scene,
            row,
            ending_any(either, either),
            versions=versions,
            alpn=["a"],
            hello=lambda hello, broken=broken: hello.with_extension(broken),
        )
    await quiet(scene, row)
    client = await works(scene, row, alpn=["a"], versions=versions)
    scene.expect(row, client.alpn == "a", expected="a", actual=str(client.alpn))


# HTTP tunnels


@case(
    "alpn-http-01",
    checks=["ALPN-003"],
    publish=http(),
    needs=["dynamic"],
)
async def test_http_has_no_list_of_its_own(scene: Scene) -> None:
    """An HTTP tunnel takes no ALPN list; its protocols follow from the HTTP versions.

    A list on an HTTP tunnel is refused. On one without, a client that offers http/1.1 gets it.
    """
    answers: dict[str, Any] = await scene.publish({"odd": http(tls_alpns=("a",))})
    refused_it = isinstance(answers["odd"], driver.Refused)
    scene.expect("ALPN-003", refused_it, expected="a refusal", actual=str(answers["odd"]))
    with scene.judging("ALPN-003"):
        client = await scene.tls_client(alpn=["http/1.1"])
        scene.expect("ALPN-003", client.alpn == "http/1.1", expected="http/1.1", actual=str(client.alpn))


HTTP_REFUSAL = Ending(
    {120: "fatal alert 120"}, reset="TLS 1.3: end without an alert", fin="TLS 1.3: end without an alert"
)


@case(
    "alpn-http-02",
    checks=["RFC7301-3.2-2", "HTTP-VER-009", "RFC9113-3.2-1", "RFC7301-3.1-3"],
    publish=http(),
)
async def test_http_negotiates_http_only(scene: Scene) -> None:
    """An HTTP tunnel refuses a client that offers no HTTP protocol, and never selects h2c.

    [nope] and [h2c] are refused with alert 120; of [GREASE, foo, h2, http/1.1] an HTTP protocol is selected, of [h2c,
    http/1.1] not h2c.
    """
    end = await refused(scene, "RFC7301-3.2-2", HTTP_REFUSAL, alpn=["nope"])
    scene.expect("HTTP-VER-009", end.alert in (None, 120), expected="a refusal with alert 120", actual=str(end))
    await quiet(scene, "RFC7301-3.2-2", "HTTP-VER-009")
    with scene.judging("RFC9113-3.2-1"):
        for offer in (["h2c"], ["h2c", "http/1.1"]):
            client = await scene.tls_client(handshake=False, alpn=offer)
            result = await client.try_handshake()
            _judge_h2c(scene, client, result, offer)
            await client.close()
    with scene.judging("RFC7301-3.1-3"):
        client = await scene.tls_client(alpn=[GREASE, "foo", "h2", "http/1.1"])
        branch = {"h2": "h2", "http/1.1": "http/1.1: recorded"}.get(str(client.alpn))
        scene.expect("RFC7301-3.1-3", branch is not None, expected="h2 or http/1.1", actual=str(client.alpn))
        if branch is not None:
            scene.allow("RFC7301-3.1-3", branch)


def _judge_h2c(scene: Scene, client: TlsPeer, result: seen.HandshakeDone | End, offer: list[str]) -> None:
    row = "RFC9113-3.2-1"
    if isinstance(result, End):
        refused_only = "http/1.1" not in offer
        scene.expect(row, refused_only, expected="http/1.1", actual=str(result), branch="handshake alert")
        return
    scene.expect(row, client.alpn != "h2c", expected="http/1.1, or a refusal", actual=str(client.alpn))
    scene.allow(row, "http/1.1 selected" if client.alpn else "handshake goes on without ALPN")


@case("alpn-http-03", checks=["RFC7301-3.2-3"], publish=http())
async def test_no_other_protocol_than_the_selected_one(scene: Scene) -> None:
    """On a connection that selected http/1.1, the preface of HTTP/2 is not answered in HTTP/2.

    The client sends the preface and SETTINGS: an HTTP/1.1 error or an end, and nothing at the upstream. An HTTP/1.1
    request on another such connection is served. The other half, HTTP/1.1 on a connection that selected h2, is
    http-version-09.
    """
    row = "RFC7301-3.2-3"
    with scene.judging(row):
        client = await scene.http_client(alpn=["http/1.1"])
        await client.offer(PREFACE, expects=["PRI"])
        result = await client.outcome()
        if isinstance(result, Response):
            scene.expect(row, result.status >= 400, expected="an error", actual=result.describe(), branch="400")
        else:
            scene.allow(row, "close without output")
    await scene.settle()
    await scene.untouched(row)
