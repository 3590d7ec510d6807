"""Our TLS against another family (OpenSSL, by the standard library in memory) and against itself."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest

from harness.peer import tls_pki
from harness.wire.tls import (
    TLS12,
    TLS13,
    CloseNotify,
    Data,
    EarlyData,
    HandshakeDone,
    HandshakeMessage,
    KeyUpdateReceived,
    TicketReceived,
    TicketStore,
    TlsClient,
    TlsServer,
    with_grease,
)
from harness.wire.tls.numbers import SECP256R1, SECP384R1, SUITES, X25519, Suite
from tests.tls_support import (
    Foreign,
    Pair,
    client_context,
    every,
    files,
    only,
    server_context,
    usual_client,
    usual_server,
)

ALL_SUITES = [pytest.param(suite, id=suite.name) for suite in SUITES.values()]
GROUPS = [pytest.param(X25519, id="x25519"), pytest.param(SECP256R1, id="p256"), pytest.param(SECP384R1, id="p384")]


def echo(foreign: Foreign) -> None:
    foreign.give(foreign.ours.send(b"ping" * 10_000))
    got = b""
    while len(got) < 40_000:
        got += foreign.read()
    assert got == b"ping" * 10_000
    foreign.say(b"pong" * 10_000)
    assert b"".join(event.data for event in every(foreign.events, Data)) == b"pong" * 10_000


@pytest.mark.parametrize("suite", ALL_SUITES)
def test_client_with_every_suite(suite: Suite) -> None:
    foreign = Foreign(
        TlsClient(usual_client(suites=(suite.number,), versions=(suite.version,))),
        server_context(suite.auth or "ecdsa"),
        server=True,
    ).run()
    done = only(foreign.events, HandshakeDone)
    assert (done.version, done.suite, done.peer_verified, done.resumed) == (suite.version, suite.number, None, False)
    echo(foreign)


@pytest.mark.parametrize("suite", ALL_SUITES)
def test_server_with_every_suite(suite: Suite) -> None:
    identity = tls_pki.identity("a.t.x", kind=suite.auth or "ecdsa")
    foreign = Foreign(
        TlsServer(usual_server(identity=identity, suites=(suite.number,), versions=(suite.version,))),
        client_context(),
        server=False,
    ).run()
    assert foreign.complete, foreign.error
    assert only(foreign.events, HandshakeDone).suite == suite.number
    echo(foreign)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_every_group(version: int, group: int) -> None:
    # An RSA leaf: in TLS 1.2 the groups also say which ECDSA certificates a client takes (RFC 8422 section 5.1).
    options = usual_client(groups=(group,), versions=(version,))
    client = Foreign(TlsClient(options), server_context("rsa"), server=True).run()
    assert only(client.events, HandshakeDone).group == group
    server = Foreign(
        TlsServer(usual_server(groups=(group,), versions=(version,))), client_context(), server=False
    ).run()
    assert only(server.events, HandshakeDone).group == group


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_alpn(role: str, version: int) -> None:
    if role == "client":
        context = server_context()
        context.set_alpn_protocols(["bar", "foo"])
        foreign = Foreign(TlsClient(usual_client(alpn=("foo", b"\xff"), versions=(version,))), context, server=True)
    else:
        context = client_context()
        context.set_alpn_protocols(["foo", "bar"])
        options = usual_server(alpn=lambda hello: hello.alpn[-1] and "foo", versions=(version,))
        foreign = Foreign(TlsServer(options), context, server=False)
    foreign.run()
    assert only(foreign.events, HandshakeDone).alpn == "foo" == foreign.tls.selected_alpn_protocol()


def test_hello_retry_request_from_the_other_family() -> None:
    foreign = Foreign(TlsClient(usual_client(key_shares=(), versions=(TLS13,))), server_context(), server=True).run()
    names = [event.name for event in every(foreign.events, HandshakeMessage)]
    assert names[:2] == ["HelloRetryRequest", "ServerHello"]
    echo(foreign)


def test_hello_retry_request_to_the_other_family() -> None:
    options = usual_server(versions=(TLS13,), retry_group=SECP384R1, groups=(SECP384R1, X25519))
    foreign = Foreign(TlsServer(options), client_context(), server=False).run()
    assert only(foreign.events, HandshakeDone).group == SECP384R1
    echo(foreign)


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_client_certificate_from_us(version: int, kind: str) -> None:
    context = server_context(verify_mode=ssl.CERT_REQUIRED)
    context.load_verify_locations(files()["ca"])
    options = usual_client(identity=tls_pki.identity("me", kind=kind, usage="client"), versions=(version,))
    foreign = Foreign(TlsClient(options), context, server=True).run()
    assert foreign.complete, foreign.error
    assert (foreign.tls.getpeercert() or {})["subjectAltName"] == (("DNS", "me"),)
    echo(foreign)


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_client_certificate_to_us(version: int, kind: str) -> None:
    context = client_context()
    paths = files("me", kind, "client")
    context.load_cert_chain(paths["chain"], paths["key"])
    trust = [tls_pki.authority().certificate]
    options = usual_server(request_client_certificate=True, trust=trust, versions=(version,))
    foreign = Foreign(TlsServer(options), context, server=False).run()
    done = only(foreign.events, HandshakeDone)
    assert done.peer_certificates[0] == tls_pki.identity("me", kind=kind, usage="client").chain[0]
    assert done.peer_verified is None
    echo(foreign)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_no_client_certificate(version: int) -> None:
    foreign = Foreign(
        TlsServer(usual_server(request_client_certificate=True, versions=(version,))), client_context(), server=False
    ).run()
    assert only(foreign.events, HandshakeDone).peer_verified == "no certificate"


@pytest.mark.parametrize("ticket", [True, False], ids=["ticket", "session-id"])
def test_resumption_in_tls_1_2(ticket: bool) -> None:
    context = server_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_alpn_protocols(["foo"])
    if not ticket:
        context.options |= ssl.OP_NO_TICKET
    first = Foreign(TlsClient(usual_client(versions=(TLS12,))), context, server=True).run()
    session = only(first.events, TicketReceived).session
    assert bool(session.ticket) is ticket
    first.give(first.ours.close_notify())
    assert first.tls.read() == b""
    second = Foreign(TlsClient(usual_client(versions=(TLS12,), session=session)), context, server=True).run()
    done = only(second.events, HandshakeDone)
    assert done.resumed
    assert done.peer_certificates == session.peer_certificates
    assert second.tls.session_reused
    echo(second)


def test_resumption_in_tls_1_3_by_us() -> None:
    context = server_context()
    first = Foreign(TlsClient(usual_client()), context, server=True).run()
    first.say(b"x")
    session = every(first.events, TicketReceived)[0].session
    second = Foreign(TlsClient(usual_client(session=session)), context, server=True).run()
    assert only(second.events, HandshakeDone).resumed
    assert second.tls.session_reused
    echo(second)


def test_resumption_in_tls_1_3_behind_a_retry() -> None:
    context = server_context()
    first = Foreign(TlsClient(usual_client()), context, server=True).run()
    first.say(b"x")
    session = every(first.events, TicketReceived)[0].session
    second = Foreign(TlsClient(usual_client(session=session, key_shares=())), context, server=True).run()
    assert only(second.events, HandshakeDone).resumed


def test_resumption_in_tls_1_3_by_the_other_family() -> None:
    store = TicketStore()
    context = client_context(minimum_version=ssl.TLSVersion.TLSv1_3)
    first = Foreign(TlsServer(usual_server(tickets=store)), context, server=False).run()
    first.give(first.ours.send(b"x"))
    assert first.read() == b"x"
    session = first.tls.session
    second = Foreign(TlsServer(usual_server(tickets=store)), context, server=False, session=session).run()
    assert only(second.events, HandshakeDone).resumed
    assert second.tls.session_reused
    echo(second)


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_messages_over_many_records_and_many_in_one(version: int, size: int) -> None:
    split = Foreign(TlsClient(usual_client(record_size=size, versions=(version,))), server_context(), server=True).run()
    assert split.complete, split.error
    server = usual_server(record_size=size, versions=(version,))
    assert Foreign(TlsServer(server), client_context(), server=False).run().complete
    together = usual_server(coalesce=True, versions=(version,))
    assert Foreign(TlsServer(together), client_context(), server=False).run().complete


def test_padding_and_grease_are_taken() -> None:
    options = usual_client(padding=100, hello=with_grease, alpn=("foo",))
    foreign = Foreign(TlsClient(options), server_context(), server=True).run()
    assert foreign.complete, foreign.error
    echo(foreign)


@pytest.mark.parametrize("request_back", [True, False])
def test_key_update(request_back: bool) -> None:
    foreign = Foreign(TlsClient(usual_client()), server_context(), server=True).run()
    for _ in range(3):
        foreign.give(foreign.ours.key_update(request=request_back))
        foreign.give(foreign.ours.send(b"after"))
        assert foreign.read() == b"after"
        foreign.say(b"answer")
    updates = every(foreign.events, KeyUpdateReceived)
    assert updates == ([KeyUpdateReceived(requested=False)] * 3 if request_back else [])
    assert [event.data for event in every(foreign.events, Data)] == [b"answer"] * 3


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_close_notify(version: int) -> None:
    foreign = Foreign(TlsClient(usual_client(versions=(version,))), server_context(), server=True).run()
    foreign.give(foreign.ours.close_notify())
    assert foreign.tls.read() == b""
    foreign.tls.unwrap()
    foreign.step()
    assert every(foreign.events, CloseNotify)


def test_exporter_and_session_hash_agree_between_our_sides() -> None:
    for version in (TLS12, TLS13):
        pair = Pair(usual_client(versions=(version,))).run()
        ours = [side.exporter("EXPORTER-test", b"context", 32) for side in (pair.client, pair.server)]
        assert ours[0] == ours[1]


@pytest.mark.parametrize("ems", [True, False])
def test_with_and_without_extended_master_secret(ems: bool) -> None:
    options = usual_client(versions=(TLS12,), extended_master_secret=ems)
    foreign = Foreign(TlsClient(options), server_context(), server=True).run()
    assert foreign.complete
    echo(foreign)


@pytest.mark.parametrize("accepted", [True, False])
def test_early_data_between_our_sides(accepted: bool) -> None:
    store = TicketStore()
    server = usual_server(tickets=store, max_early_data=1000, alpn=("foo", "bar"))
    first = Pair(usual_client(alpn=("foo",)), server).run()
    session = only(first.client_events, TicketReceived).session
    assert session.max_early_data == 1000
    alpn = ("foo",) if accepted else ("bar",)
    second = Pair(usual_client(alpn=alpn, session=session, early_data=b"early"), server).run()
    client, other = second.done
    assert client.early_data_accepted is accepted is other.early_data_accepted
    assert client.resumed
    assert every(second.server_events, EarlyData) == ([EarlyData(b"early")] if accepted else [])
    second.flow(second.client.send(b"later"))
    assert only(second.server_events, Data).data == b"later"


def test_early_data_is_skipped_behind_a_retry() -> None:
    store = TicketStore()
    server = usual_server(tickets=store, max_early_data=1000)
    session = only(Pair(None, server).run().client_events, TicketReceived).session
    retry = replace(server, retry_group=SECP256R1)
    second = Pair(usual_client(session=session, early_data=b"early"), retry).run()
    assert not every(second.server_events, EarlyData)
    assert [done.resumed for done in second.done] == [True, True]


def test_an_unknown_ticket_means_a_full_handshake() -> None:
    server = usual_server(tickets=TicketStore())
    session = only(Pair(None, server).run().client_events, TicketReceived).session
    again = Pair(usual_client(session=replace(session, ticket=b"never issued")), server).run()
    assert [done.resumed for done in again.done] == [False, False]


def test_glued_data_arrives_with_finished() -> None:
    pair = Pair(usual_client(glue_after_finished=b"glued"), usual_server(glue_after_finished=b"banner")).run()
    assert only(pair.server_events, Data).data == b"glued"
    assert only(pair.client_events, Data).data == b"banner"
