"""TLS between the edge and an upstream: a connection of the edge's own, and what it must not take from a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from conformance.tls._steps import (
    Ending,
    broken_upstream,
    echo,
    ended_at_upstream,
    ending_12,
    ending_13,
    offer,
    works,
)
from harness.judge import Departed
from harness.link.stream import End, LinkReset
from harness.model.case import case
from harness.model.spec import tls
from harness.peer.tls import TlsPeer
from harness.peer.tls_pki import Leaf, expired_identity, new_key, self_signed, upstream_identity
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13, Alert, ClientHello, Data, Extension, HandshakeMessage
from harness.wire.tls import extensions as ext
from harness.wire.tls.crypto import GROUPS
from harness.wire.tls.messages import Bare, Certificate
from harness.wire.tls.numbers import RENEGOTIATION_SCSV, ExtensionType, HandshakeType

UPSTREAM = tls(upstream_tls=True)
TLS_RECORD = 22
AES_128_CCM = 0x1304


def _shares(hello: ClientHello) -> set[tuple[int, bytes]]:
    return set(hello.key_shares or ())


@case("tls-upstream-01", checks=["TLS-007", "RFC8446-9.3-1"], publish=UPSTREAM)
async def test_a_second_connection_to_the_upstream(scene: Scene) -> None:
    """With upstream TLS the edge ends the client's TLS and makes a connection of its own to the upstream.

    The random, the session id and the key shares of the ClientHello at the upstream are not the client's; the random of
    the ServerHello at the client is not the upstream's; the client sees another certificate than the upstream's. Octets
    are relayed.
    """
    with scene.judging("TLS-007", "RFC8446-9.3-1"):
        client, upstream = await scene.pair()
        mine, theirs = client.client_hello, upstream.client_hello
        own = [
            name
            for name, same in (
                ("random", mine.random == theirs.random),
                ("session id", bool(mine.session_id) and mine.session_id == theirs.session_id),
                ("key share", bool(_shares(mine) & _shares(theirs))),
                ("ServerHello.random", client.tls.server_random == upstream.tls.server_random),
            )
            if same
        ]
        shown = client.peer_certificates[0]
        for row in ("TLS-007", "RFC8446-9.3-1"):
            scene.expect(row, not own, expected="hellos of the edge's own", actual=f"the same {', '.join(own)}")
        name = shown.subject.rfc4514_string()
        other = shown != upstream_identity().chain[0]
        scene.expect("TLS-007", other, expected="the edge's certificate at the client", actual=name)
        await echo(scene, client, upstream, "TLS-007", "RFC8446-9.3-1")


@case("tls-upstream-02", checks=["RFC8446-9.3-1"], publish=tls(), features=["tls.1.2"])
async def test_every_server_random_is_fresh(scene: Scene) -> None:
    """A terminated tunnel answers with randoms and key shares of its own: no two ServerHellos share one.

    The same ClientHello random is sent on two connections, in TLS 1.3 and 1.2.
    """
    row, seen = "RFC8446-9.3-1", []
    for version in (TLS13, TLS13, TLS12, TLS12):
        client = await works(scene, row, versions=(version,), hello=_fixed_random)
        seen.append(client.tls.server_random[:24])
    fresh = len(set(seen)) == len(seen) and bytes(24) not in seen
    scene.expect(row, fresh, expected="four randoms", actual=", ".join(one.hex() for one in seen))


def _fixed_random(hello: ClientHello) -> ClientHello:
    return dataclasses.replace(hello, random=b"\x5a" * 32)


@case("tls-upstream-03", checks=["TLS-008"], publish={"main": UPSTREAM, "plain": tls()})
async def test_an_upstream_that_insists_on_tls(scene: Scene) -> None:
    """An upstream that takes nothing but TLS is served by upstream TLS, and by nothing else.

    What a tunnel without upstream TLS brings it is the client's octets, which are no TLS record. With upstream TLS the
    first octets are a record of the edge's ClientHello, and the exchange works.
    """
    with scene.judging("TLS-008"):
        client, plain = await scene.pair("plain")
        await echo(scene, client, plain, "TLS-008")
    await works(scene, "TLS-008")


CARDS: dict[str, Callable[[str], Leaf]] = {
    "valid": upstream_identity,
    "other-name": lambda host: upstream_identity("other.example"),
    "self-signed": self_signed,
    "expired": expired_identity,
}


def _malformed(name: str | None) -> str | None:
    """What is wrong with a server name, or None: an address, an empty name, a trailing dot."""
    if name is None:
        return None
    if not name or name.endswith(".") or name.replace(".", "").isdigit() or ":" in name:
        return repr(name)
    return None


@case("tls-upstream-04", checks=["TLS-009", "RFC6066-3-7"], publish=UPSTREAM, over={"certificate": tuple(CARDS)})
async def test_the_upstreams_certificate_and_name(scene: Scene) -> None:
    """Whether the upstream's certificate is verified, and which name the edge sends there, is noted.

    The upstream shows a certificate for the tunnel's name, for another name, a self-signed or an expired one. Taken or
    refused is noted; where it is refused the client's connection ends without data. The server name may be absent, and
    must be a host name otherwise.
    """
    card = CARDS[scene.variant["certificate"]](scene.endpoint().host)
    shown: dict[str, Any] = {"chain": card.chain, "key": card.key}
    client = await scene.tls_client(handshake=False)
    with scene.judging("RFC6066-3-7", ends=True):
        result, server = await scene.both(client.try_handshake(), scene.upstream().accept_tls(handshake=False, **shown))
        offered = await server.try_handshake()
        name = server.client_hello.server_name
        wrong = _malformed(name)
        scene.expect("RFC6066-3-7", wrong is None, expected="a host name, or none", actual=f"{wrong}")
        scene.allow("RFC6066-3-7", "a DNS name" if name is not None else "no SNI")
    if isinstance(offered, End) or isinstance(result, End):
        with scene.judging("TLS-009"):
            data, end = (b"", result) if isinstance(result, End) else await client.receive_until_end()
            scene.expect("TLS-009", not data, expected="no data at the client", actual=f"{len(data)} octets, {end}")
        scene.allow("TLS-009", "no setting, or set off: accepted or refused, recorded")
        scene.record("TLS-009", f"refused with {offered}; server name {name}")
        return
    await client.send(token := scene.nonce())
    got = await server.receive_exactly(len(token))
    scene.expect("TLS-009", got == token, expected="the client's octets", actual=got.hex())
    scene.allow("TLS-009", "no setting, or set off: accepted or refused, recorded")
    scene.record("TLS-009", f"taken; server name {name}")


# What the edge must not take from an upstream


def _hello(**changes: Any) -> dict[str, Any]:
    """Server options: a ServerHello with these fields."""
    return {"modify": {"server_hello": lambda hello: dataclasses.replace(hello, **changes)}}


def _with(*added: Extension, step: str = "server_hello") -> dict[str, Any]:
    """Server options: these extensions in that message."""
    return {"modify": {step: lambda message: message.with_extension(*added)}}


async def _refuses(scene: Scene, row: str, allowed: Ending, **server: Any) -> None:
    """The edge must refuse an upstream with these options: by `row` no data on either side, and an end as `allowed`
    says at the upstream."""
    near, far = await broken_upstream(scene, row, **server)
    await ended_at_upstream(scene, row, far, allowed)
    await near.close()


def _offers(hello: ClientHello, version: int) -> bool:
    versions = hello.supported_versions
    return version in versions if versions is not None else version == TLS12


async def _offered(scene: Scene, *rows: str) -> ClientHello:
    """The edge's ClientHello to a sound upstream, through which a nonce passes."""
    upstream: Any = None
    with scene.judging(*rows):
        client, upstream = await scene.pair()
        await client.close()
    if upstream is None:
        raise Departed(*rows)
    hello: ClientHello = upstream.client_hello
    return hello


ILLEGAL = ending_13(47, item="fatal alert 47 at U")
SERVER_HELLO_ROWS = ("RFC8446-4.1.3-2", "RFC8446-4.1.3-3", "RFC8446-4.2.1-3")
SERVER_HELLOS: dict[str, tuple[str, dict[str, Any]]] = {
    "sentinel": ("RFC8446-4.1.3-2", {"versions": (TLS12,), "downgrade_sentinel": True}),
    "suite": ("RFC8446-4.1.3-3", _hello(cipher_suite=AES_128_CCM)),
    "session-id": ("RFC8446-4.1.3-3", _hello(session_id=b"\x33" * 32)),
    "version-0x0305": ("RFC8446-4.2.1-3", _with(ext.selected_version(0x0305))),
    "version-0x0303": ("RFC8446-4.2.1-3", _with(ext.selected_version(TLS12))),
}


@case(
    "tls-upstream-05",
    checks=SERVER_HELLO_ROWS,
    publish=UPSTREAM,
    over={"hello": tuple(SERVER_HELLOS)},
)
async def test_a_server_hello_that_does_not_fit_is_refused(scene: Scene) -> None:
    """The edge refuses a ServerHello with the downgrade sentinel, or with what its ClientHello did not offer.

    The upstream negotiates TLS 1.2 with the sentinel; it answers with a suite that was not offered, with another
    session id, or selects the version 0x0305 or 0x0303 in supported_versions. No data on either side; a sound upstream
    is served.
    """
    row, options = SERVER_HELLOS[scene.variant["hello"]]
    hello = await _offered(scene, *SERVER_HELLO_ROWS)
    await _refuses(scene, row, ILLEGAL, **options)
    await works(scene, *SERVER_HELLO_ROWS)
    if row == "RFC8446-4.1.3-2" and not (_offers(hello, TLS12) and _offers(hello, TLS13)):
        scene.not_run(row, "the edge does not offer an upstream both versions")


@case("tls-upstream-06", checks=["RFC8446-4.1.4-2"], publish=UPSTREAM, over={"retry": ("second", "no-change")})
async def test_a_useless_hello_retry_request_is_refused(scene: Scene) -> None:
    """The edge refuses a second HelloRetryRequest, and one that would change nothing in its ClientHello.

    The upstream asks twice for another group, or sends a HelloRetryRequest without any extension but the version. No
    data on either side. One HelloRetryRequest for a group without a share is followed.
    """
    row = "RFC8446-4.1.4-2"
    second = "second request: fatal alert 10 at U, or end without an alert"
    nothing = "request that changes nothing: fatal alert 47 at U, or end without an alert"
    hello = await _offered(scene, row)
    shared = {group for group, _ in hello.key_shares or ()}
    group = next((each for each in GROUPS if each in (hello.groups or ()) and each not in shared), None)
    if group is None:
        scene.not_run(row, "the edge offers an upstream no group without a share")
        return
    asking: dict[str, Any] = {"retry_group": group, "groups": (group, *GROUPS)}
    if scene.variant["retry"] == "second":
        await _refuses(scene, row, Ending({10: second}, reset=second, fin=second), retries=2, **asking)
    else:
        bare = {"hello_retry_request": lambda hello: hello.without_extension(ExtensionType.KEY_SHARE)}
        await _refuses(scene, row, Ending({47: nothing}, reset=nothing, fin=nothing), modify=bare, **asking)
    await works(scene, row, upstream=asking)


NOT_ASKED = Ending(
    dict.fromkeys((47, 110), "fatal alert 47 or 110"),
    reset="connection ended",
    fin="connection ended",
)
NAMED = _with(ext.alpn(["bar"]))
ANSWERS: dict[str, tuple[str, Ending, dict[str, Any]]] = {
    "server-hello": ("RFC8446-4.2-2", NOT_ASKED, {"versions": (TLS13,), **NAMED}),
    "encrypted-extensions": (
        "RFC8446-4.2-2",
        NOT_ASKED,
        {"versions": (TLS13,), **_with(ext.alpn(["bar"]), step="encrypted_extensions")},
    ),
    "server-hello-tls-1.2": (
        "RFC5246-7.4.1.4-2",
        ending_12(110, item="fatal alert 110 at U"),
        {"versions": (TLS12,), "downgrade_sentinel": False, **NAMED},
    ),
    "renegotiation-info": (
        "RFC5746-3.4-1",
        ending_12(40, item="fatal alert 40 at U"),
        {"versions": (TLS12,), "downgrade_sentinel": False, **_with(ext.renegotiation_info(b"\x55" * 24))},
    ),
}


@case(
    "tls-upstream-07",
    checks=["RFC8446-4.2-2", "RFC5246-7.4.1.4-2", "RFC5746-3.4-1"],
    publish=UPSTREAM,
    over={"in": tuple(ANSWERS)},
)
async def test_an_answer_that_nobody_asked_for_is_refused(scene: Scene) -> None:
    """The edge refuses extensions of an upstream that are in the wrong message or that it did not ask for.

    The edge offered no ALPN: the upstream selects `bar` in ServerHello, in EncryptedExtensions, and in the ServerHello
    of TLS 1.2; there it also answers a first handshake with a renegotiation_info that is not empty. No data on either
    side. The edge's own ClientHello speaks of secure renegotiation. A sound upstream is served.
    """
    row, allowed, options = ANSWERS[scene.variant["in"]]
    rows = ("RFC8446-4.2-2", "RFC5246-7.4.1.4-2", "RFC5746-3.4-1")
    hello = await _offered(scene, *rows)
    if not _offers(hello, options["versions"][0]):
        scene.not_run(row, "the edge does not offer this version to an upstream")
        return
    await _refuses(scene, row, allowed, **options)
    if _offers(hello, TLS12):
        empty = hello.extension(ExtensionType.RENEGOTIATION_INFO) == b"\0"
        said = empty or RENEGOTIATION_SCSV in hello.cipher_suites
        actual = f"extensions {hello.extension_types}"
        scene.expect("RFC5746-3.4-1", said, expected="the SCSV or an empty renegotiation_info", actual=actual)
    await works(scene, *rows, upstream={"versions": options["versions"], "downgrade_sentinel": False})


def _nobody(message: Any) -> Any:
    return Certificate((), message.context)


PROOFS: dict[str, tuple[str, Ending]] = {
    "empty-certificate": ("RFC8446-4.4.2.4-3", ending_13(50, item="fatal alert 50 at U")),
    "other-key": ("RFC8446-4.4.3-2", ending_13(51, item="fatal alert 51 at U")),
    "broken-signature": ("RFC8446-4.4.3-2", ending_13(51, item="fatal alert 51 at U")),
}


@case(
    "tls-upstream-08",
    checks=["RFC8446-4.4.2.4-3", "RFC8446-4.4.3-2"],
    publish=UPSTREAM,
    over={"proof": tuple(PROOFS)},
)
async def test_an_upstream_that_proves_nothing_is_refused(scene: Scene) -> None:
    """The edge refuses a TLS 1.3 upstream without a certificate, or whose signature is not that of its key.

    The Certificate is empty; CertificateVerify is signed with another key, or has a bit flipped. No data on either
    side, also where the edge does not verify chains. With its own key the upstream is served.
    """
    proof = scene.variant["proof"]
    row, allowed = PROOFS[proof]
    options: dict[str, Any] = {"versions": (TLS13,)}
    if proof == "empty-certificate":
        options["modify"] = {"certificate": _nobody}
    elif proof == "other-key":
        options.update(chain=upstream_identity().chain, key=new_key())
    else:
        options["wrong_certificate_verify"] = True
    await _refuses(scene, row, allowed, **options)
    await works(scene, "RFC8446-4.4.2.4-3", "RFC8446-4.4.3-2", upstream={"versions": (TLS13,)})


@case("tls-upstream-09", checks=["RFC5746-4.2-1"], publish=UPSTREAM)
async def test_a_hello_request_is_refused(scene: Scene) -> None:
    """A HelloRequest of an upstream in TLS 1.2 is answered with no_renegotiation, and the relay goes on.

    The upstream, joined to a client, sends HelloRequest and data, and then the client sends data. The upstream gets the
    warning and the data. That the edge ends the connection with a fatal no_renegotiation, closes it, or passes over the
    request is noted, and so is that it renegotiates, since the upstream speaks of secure renegotiation. Another alert
    is a departure.
    """
    row = "RFC5746-4.2-1"
    if not _offers(await _offered(scene, row), TLS12):
        scene.not_run(row, "the edge does not offer TLS 1.2 to an upstream")
        return
    with scene.judging(row):
        client, upstream = await scene.pair(upstream={"versions": (TLS12,), "downgrade_sentinel": False})
        await upstream.send_handshake(Bare(HandshakeType.HELLO_REQUEST))
        token, down = scene.nonce(), scene.nonce()
        await offer(upstream, down)
        try:
            # Once these are through, the request before them has been read, and its answer is on its way.
            await client.receive(len(down))
        except LinkReset:
            scene.transcript.note("recorded", "the client's connection was reset")
        await offer(client, token)
        answer, alerts = await _behind_request(upstream)
        if isinstance(answer, HandshakeMessage):
            scene.not_run(row, "the edge renegotiates")
        elif isinstance(answer, End):
            named = answer.alert in (None, 100)
            scene.expect(row, named, expected="alert 100, or an end without an alert", actual=str(answer))
            scene.allow(row, "close: recorded" if answer.alert is None else "fatal alert 100 and close: recorded")
        else:
            scene.expect(row, answer.data == token, expected=token.hex(), actual=answer.data.hex())
            await echo(scene, client, upstream, row)
            scene.allow(row, "warning alert 100, relay goes on" if 100 in alerts else "HelloRequest ignored: recorded")


async def _behind_request(upstream: TlsPeer) -> tuple[Data | HandshakeMessage | End, list[int]]:
    """What the upstream gets behind its HelloRequest: octets, a handshake message or the end; the alerts before it."""
    alerts: list[int] = []
    while True:
        event = await upstream.read_event()
        if isinstance(event, Data | HandshakeMessage | End):
            return event, alerts
        if isinstance(event, Alert):
            alerts.append(event.description)
