"""Resumption at the edge: what a ticket or a session may do, and what it must not."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from conformance.tls._steps import (
    ENDED,
    Ending,
    ended,
    ending_13,
    ending_any,
    messages,
    quiet,
    reached,
    spec_of,
    works,
)
from harness.link.stream import End
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, tls
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13, ClientHello, Extension, Session
from harness.wire.tls.crypto import covers
from harness.wire.tls.messages import NewSessionTicket
from harness.wire.tls.numbers import SUITES, ExtensionType

NO_TICKETS = "the endpoint gives no tickets"
WEEK = 604_800


async def _session(scene: Scene, *rows: str, name: str = "main", version: int = TLS13) -> Session | None:
    """What resumes a connection that has relayed to the tunnel `name`; None where the edge gives nothing."""
    client = await works(scene, *rows, name=name, versions=(version,))
    await client.close()
    return client.sessions[-1] if client.sessions else None


async def _offers(scene: Scene, session: Session, name: str = "main") -> TlsPeer:
    """A client of the tunnel `name` that has offered the session, behind its handshake or its refusal."""
    client = await scene.tls_client(name, handshake=False, session=session, versions=(session.version,))
    # An engine may open the upstream before it answers the client.
    behind = scene.spec(name).upstream == "tls"
    taking = asyncio.ensure_future(scene.upstream(name).accept_tls()) if behind else None
    try:
        await client.try_handshake()
    finally:
        if taking is not None:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
    return client


def _resumed(client: TlsPeer) -> bool:
    return client.done is not None and client.tls.resumed


@case("tls-resume-01", checks=["RFC8446-4.6.1-1", "RFC8446-4.2.6-1"], publish=tls())
async def test_tickets_are_bounded_and_fresh(scene: Scene) -> None:
    """A ticket lives a week at most, and each one has an age_add of its own; no CertificateRequest follows Finished.

    Three connections are made and relay; every NewSessionTicket is looked at. The client does not offer
    post_handshake_auth. An endpoint without tickets keeps the rule.
    """
    tickets: list[NewSessionTicket] = []
    for _ in range(3):
        client = await works(scene, "RFC8446-4.6.1-1", "RFC8446-4.2.6-1", versions=(TLS13,))
        tickets += messages(client, "NewSessionTicket")
        asked = len(messages(client, "CertificateRequest"))
        scene.expect("RFC8446-4.2.6-1", asked == 0, expected="no CertificateRequest", actual=str(asked))
        await client.close()
    longest = max((one.lifetime for one in tickets), default=0)
    scene.expect("RFC8446-4.6.1-1", longest <= WEEK, expected="604800 s at most", actual=f"{longest} s")
    ages = [one.age_add for one in tickets]
    fresh = len(set(ages)) == len(ages)
    scene.expect("RFC8446-4.6.1-1", fresh, expected="an age_add for each ticket", actual=f"{ages}")
    if not tickets:
        scene.not_run("RFC8446-4.6.1-1", NO_TICKETS)


def _pair_of(variant: Variant) -> dict[str, TunnelSpec]:
    mode = variant["mode"]
    return {"main": spec_of(mode), "other": spec_of(mode)}


CROSSED = {
    "declined": "ticket declined, full handshake with a certificate valid for B",
    "accepted": "ticket accepted under a certificate valid for both names, traffic routed to B",
    "refused": "handshake refused",
}


@case("tls-resume-02", checks=["RFC8446-4.6.1-2"], publish=_pair_of, over={"mode": ENDED})
async def test_a_ticket_does_not_carry_its_tunnel(scene: Scene) -> None:
    """In TLS 1.3 a ticket of one tunnel does not route to it under the name of another.

    The client gets a ticket from tunnel A and resumes with the name of tunnel B: it is refused, or what it sends is at
    B's upstream, under a certificate that is valid for B. Nothing is at A's.
    """
    row = "RFC8446-4.6.1-2"
    session = await _session(scene, row)
    if session is None:
        scene.not_run(row, NO_TICKETS)
        return
    with scene.judging(row):
        client = await scene.tls_client("other", handshake=False, session=session, versions=(TLS13,))
        end = await reached(scene, client, "other")
        if end is not None:
            await ended(scene, row, client, end, ending_any(CROSSED["refused"], CROSSED["refused"]))
        else:
            host = scene.endpoint("other").host
            valid = covers(client.peer_certificates[0], host)
            actual = client.peer_certificates[0].subject.rfc4514_string()
            scene.expect(row, valid, expected=f"a certificate for {host}", actual=actual)
            scene.allow(row, CROSSED["accepted"] if client.tls.resumed else CROSSED["declined"])
    await quiet(scene, row)


@case("tls-resume-03", checks=["RFC8446-4.6.1-2"], publish={"main": tls(tls_alpns=("a",)), "web": http()})
async def test_a_ticket_does_not_carry_its_protocol(scene: Scene) -> None:
    """A ticket of a TLS tunnel resumed under the name of an HTTP tunnel is ruled by the HTTP tunnel.

    The client resumes with the HTTP tunnel's name: where it offers the TLS tunnel's protocol it is refused, where it
    offers http/1.1 it gets that, or is refused. Nothing is at the TLS tunnel's upstream.
    """
    row = "RFC8446-4.6.1-2"
    session = await _session(scene, row)
    if session is None:
        scene.not_run(row, NO_TICKETS)
        return
    for offer in ("a", "http/1.1"):
        with scene.judging(row):
            client = await scene.tls_client("web", handshake=False, session=session, versions=(TLS13,), alpn=[offer])
            result = await client.try_handshake()
            if isinstance(result, End):
                scene.allow(row, CROSSED["refused"])
                continue
            right = client.alpn in (None, "http/1.1")
            scene.expect(row, right, expected="http/1.1, or a refusal", actual=str(client.alpn))
            scene.allow(row, CROSSED["accepted"] if client.tls.resumed else CROSSED["declined"])
            await client.close()
    await quiet(scene, row)


Spoil = Callable[[ClientHello], ClientHello]


def _without_modes(hello: ClientHello) -> ClientHello:
    return hello.without_extension(ExtensionType.PSK_KEY_EXCHANGE_MODES)


def _not_last(hello: ClientHello) -> ClientHello:
    return hello.appending(Extension(ExtensionType.STATUS_REQUEST, b"\1\0\0\0\0"))


def _tampered_binder(raw: bytes) -> bytes:
    return raw[:-1] + bytes((raw[-1] ^ 1,))


DECLINED = "full handshake because the PSK was declined before its binder was looked at"
OFFERS: dict[str, tuple[str, Ending, str | None, dict[str, Any]]] = {
    "no-modes": (
        "RFC8446-4.2.9-1",
        ending_any("any fatal alert or close", "any fatal alert or close"),
        "full handshake by an endpoint that issues no tickets",
        {"hello": _without_modes},
    ),
    "not-last": ("RFC8446-4.2.11-1", ending_13(47, item="fatal alert 47"), None, {"hello": _not_last}),
    "binder": (
        "RFC8446-4.2.11-2",
        Ending({51: "fatal alert 51"}, alert="fatal alert 51", reset="connection ended", fin="connection ended"),
        DECLINED,
        {"tamper": {"client_hello": _tampered_binder}},
    ),
}
OFFER_ROWS = tuple(row for row, *_ in OFFERS.values())


@case("tls-resume-04", checks=OFFER_ROWS, publish=tls(), over={"offer": tuple(OFFERS)})
async def test_a_broken_offer_of_a_ticket_does_not_resume(scene: Scene) -> None:
    """A ticket with a wrong binder, without psk_key_exchange_modes, or in front of another extension resumes nothing.

    The ticket is real, and resumes where it is left intact. The broken offer is refused; nothing of it is at the
    upstream. Where the binder is wrong a full handshake passes, too, since the ticket may have been declined.
    """
    row, allowed, declined, broken = OFFERS[scene.variant["offer"]]
    session = await _session(scene, *OFFER_ROWS)
    known = session or _invented()
    with scene.judging(row):
        client = await scene.tls_client(handshake=False, session=known, versions=(TLS13,), **broken)
        result = await client.try_handshake()
        if isinstance(result, End):
            await ended(scene, row, client, result, allowed)
            await client.close()
        elif session is None:
            scene.not_run(row, NO_TICKETS)
        else:
            await _declined(scene, row, client, declined)
    if session is not None:
        await quiet(scene, row)
        if not _resumed(await _offers(scene, session)):
            scene.not_run(row, "the ticket does not resume when it is left intact either")


async def _declined(scene: Scene, row: str, client: TlsPeer, declined: str | None) -> None:
    """A handshake although the offer was broken: never a resumption, and a full one only where the row knows it."""
    scene.expect(row, not client.tls.resumed, expected="no resumption", actual="the ticket resumed")
    full = declined == DECLINED
    scene.expect(row, full, expected="a refusal", actual="a full handshake")
    scene.allow(row, DECLINED)
    token = scene.nonce()
    await client.send(token)
    await scene.upstream().accept_with(token)


def _invented() -> Session:
    """A session that no endpoint has given out."""
    suite = next(number for number, one in SUITES.items() if one.version == TLS13)
    return Session(TLS13, suite, b"\x11" * SUITES[suite].hash_length, ticket=b"\x22" * 192, lifetime=7200)


@case("tls-resume-05", checks=["RFC8446-4.2.11-3"], publish=tls())
async def test_an_unknown_ticket_is_passed_over(scene: Scene) -> None:
    """A ticket that the edge does not know is ignored: a full handshake follows, and octets are relayed.

    The ticket is random, and (where the edge gives tickets) one of its own with an octet changed.
    """
    row = "RFC8446-4.2.11-3"
    session = await _session(scene, row)
    offers = [_invented()]
    if session is not None:
        changed = session.ticket[:20] + bytes((session.ticket[20] ^ 1,)) + session.ticket[21:]
        offers.append(dataclasses.replace(session, ticket=changed))
    for offer in offers:
        client = await works(scene, row, session=offer, versions=(TLS13,))
        scene.expect(row, not client.tls.resumed, expected="a full handshake", actual="a resumption")


# TLS 1.2


NO_SESSION = "the edge gives a client of TLS 1.2 nothing to resume"


@case(
    "tls-resume-06",
    checks=["RFC6066-3-5", "RFC6066-3-6"],
    publish=_pair_of,
    over={"mode": ENDED},
    features=["tls.1.2"],
)
async def test_a_session_of_tls_12_keeps_its_name(scene: Scene) -> None:
    """In TLS 1.2 a session of one tunnel is not resumed under the name of another.

    A client that got a session id or a ticket on tunnel A offers it under the name of tunnel B: a full handshake with a
    certificate for B follows, or a refusal. A resumption under A's own name is answered without server_name. An edge
    that gives such a client neither has nothing to resume: a ServerHello with an empty session id and without a ticket
    shows it.
    """
    rows = ("RFC6066-3-5", "RFC6066-3-6")
    session = await _session(scene, *rows, version=TLS12)
    if session is None:
        for row in rows:
            scene.not_run(row, NO_SESSION)
        return
    with scene.judging("RFC6066-3-5"):
        client = await _offers(scene, session, "other")
        taken = _resumed(client)
        scene.expect("RFC6066-3-5", not taken, expected="a full handshake", actual="a resumption under another name")
        if client.done is None:
            await ended(
                scene, "RFC6066-3-5", client, await client.end(), ending_any("handshake refused", "handshake refused")
            )
        else:
            valid = covers(client.peer_certificates[0], scene.endpoint("other").host)
            scene.expect("RFC6066-3-5", valid, expected="a certificate for B", actual="another one")
            scene.allow("RFC6066-3-5", "full handshake with a certificate valid for B")
    again = await _offers(scene, session)
    if not _resumed(again):
        scene.not_run("RFC6066-3-6", "the session is not resumed")
        return
    answers = messages(again, "ServerHello")[-1].extension(ExtensionType.SERVER_NAME)
    scene.expect("RFC6066-3-6", answers is None, expected="no server_name", actual=f"{answers!r}")


@case("tls-resume-07", checks=["RFC5246-7.2-1"], publish=tls(), features=["tls.1.2"])
async def test_a_fatal_alert_ends_the_session(scene: Scene) -> None:
    """In TLS 1.2 a session whose connection ended with a fatal alert is not resumed.

    The client sends a fatal alert, and offers the session again: a full handshake follows. That a ticket resumes is
    noted, since nobody can take it back. An edge that gives a client of TLS 1.2 nothing to resume keeps the rule.
    """
    row = "RFC5246-7.2-1"
    client = await works(scene, row, versions=(TLS12,))
    session = client.sessions[-1] if client.sessions else None
    with scene.judging(row):
        await client.alert(40)
        await client.transport_end()
    if session is None:
        scene.not_run(row, NO_SESSION)
        return
    resumed = _resumed(await _offers(scene, session))
    if resumed and session.ticket:
        scene.allow(row, "resumption with a ticket: recorded")
        return
    scene.expect(row, not resumed, expected="a full handshake", actual="a resumption", branch="full handshake")
