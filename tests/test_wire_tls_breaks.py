"""One keyword breaks one thing: the other side (ours, and OpenSSL where it is stricter) names exactly that thing."""

from __future__ import annotations

import dataclasses
import re
import ssl
from typing import Any

import pytest

from harness.peer import tls_pki
from harness.wire.tls import (
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    Alert,
    CloseNotify,
    Data,
    Extension,
    HandshakeDone,
    HandshakeMessage,
    Identity,
    ProtocolViolation,
    Refused,
    TicketReceived,
    TicketStore,
    TlsClient,
    TlsServer,
    TlsUsageError,
    Unsupported,
)
from harness.wire.tls import extensions as ext
from harness.wire.tls.messages import Certificate, ClientHello, KeyUpdate
from harness.wire.tls.numbers import SECP256R1, X25519, ContentType, ExtensionType
from tests.tls_support import NAME, Foreign, Pair, every, only, server_context, usual_client, usual_server


def flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes((raw[-1] ^ 1,))


def hello(change: Any) -> dict[str, Any]:
    return {"hello": change}


def with_ext(*extensions: Extension) -> dict[str, Any]:
    return hello(lambda old: old.with_extension(*extensions))


def without(*numbers: int) -> dict[str, Any]:
    return hello(lambda old: old.without_extension(*numbers))


def replaced(**values: Any) -> dict[str, Any]:
    return hello(lambda old: dataclasses.replace(old, **values))


only13 = {"versions": (TLS13,)}
only12 = {"versions": (TLS12,)}

CLIENT_BREAKS = [
    pytest.param(only13 | {"wrong_finished": True}, "wrong Finished", 51, id="finished-13"),
    pytest.param(only12 | {"wrong_finished": True}, "wrong Finished", 51, id="finished-12"),
    pytest.param(
        only12 | {"tamper": {"client_key_exchange": None}}, "change_cipher_spec out of place", 10, id="no-cke"
    ),
    pytest.param(only12 | {"tamper": {"change_cipher_spec": None}}, "unexpected HelloRequest", 10, id="no-ccs"),
    pytest.param(
        only13 | {"tamper": {"change_cipher_spec": lambda _: b"\2"}}, "change_cipher_spec of 02", 10, id="ccs-2"
    ),
    pytest.param(
        only12 | {"insert": {"client_key_exchange": lambda us: us.build_record(20, b"\1")}},
        "change_cipher_spec out of place",
        10,
        id="early-ccs",
    ),
    pytest.param(
        only12 | {"insert": {"change_cipher_spec": lambda us: us.build_record(23, b"early", encrypted=False)}},
        "application data before Finished",
        10,
        id="early-data-12",
    ),
    pytest.param(replaced(compression_methods=b"\1\0"), "compression methods", 47, id="compression"),
    pytest.param(hello(lambda old: old.appending(ext.alpn(["x"]), ext.alpn(["y"]))), "alpn twice", 47, id="twice"),
    pytest.param(with_ext(ext.alpn(["", "x"])), "alpn: vector of 0 octets", 50, id="empty-protocol"),
    pytest.param(with_ext(Extension(16, b"\0\0")), "alpn: vector of 0 octets", 50, id="empty-protocols"),
    pytest.param(with_ext(Extension(16, b"\0\xff\1a")), "alpn: 255 octets needed", 50, id="alpn-overrun"),
    pytest.param(with_ext(ext.server_name([""])), "server_name", 50, id="empty-name"),
    pytest.param(replaced(trailing=b"\0"), "1 octets after the end", 50, id="trailing"),
    pytest.param(replaced(session_id=bytes(33)), "session id of 33", 50, id="session-id"),
    pytest.param(only13 | without(ExtensionType.KEY_SHARE), "without key_share", 109, id="no-share"),
    pytest.param(only13 | without(ExtensionType.SUPPORTED_GROUPS), "without supported_groups", 109, id="no-groups"),
    pytest.param(
        only13 | without(ExtensionType.SIGNATURE_ALGORITHMS), "without signature_algorithms", 109, id="no-schemes"
    ),
    pytest.param(
        only13 | with_ext(ext.key_shares([(SECP256R1, b"\4" + bytes(64))])) | {"groups": (SECP256R1,)},
        "invalid key share",
        47,
        id="off-curve",
    ),
    pytest.param(only13 | with_ext(ext.key_shares([(X25519, bytes(32))])), "invalid key share", 47, id="all-zero"),
    pytest.param(with_ext(ext.renegotiation_info(b"x" * 12)), "renegotiation_info", 40, id="renegotiation"),
]


@pytest.mark.parametrize(("options", "what", "alert"), CLIENT_BREAKS)
def test_our_server_names_what_our_client_broke(options: dict[str, Any], what: str, alert: int) -> None:
    pair = Pair(usual_client(**options)).run()
    violation = only(pair.server_events, ProtocolViolation)
    assert re.search(re.escape(what), violation.what), violation
    assert violation.alert == alert
    assert violation.section.startswith("RFC ")
    assert only(pair.client_events, Alert).description == alert
    assert not every(pair.server_events, HandshakeDone)
    assert not every(pair.server_events, Data)


def serve(**values: Any) -> dict[str, Any]:
    return values


def change(step: str, **values: Any) -> dict[str, Any]:
    return {"modify": {step: lambda old: dataclasses.replace(old, **values)}}


def extend(step: str, *extensions: Extension) -> dict[str, Any]:
    return {"modify": {step: lambda old: old.with_extension(*extensions)}}


SERVER_BREAKS = [
    pytest.param(only13 | serve(wrong_finished=True), "wrong Finished", 51, id="finished-13"),
    pytest.param(only12 | serve(wrong_finished=True), "wrong Finished", 51, id="finished-12"),
    pytest.param(only13 | serve(wrong_certificate_verify=True), "signature does not verify", 51, id="verify-13"),
    pytest.param(only12 | serve(wrong_certificate_verify=True), "signature does not verify", 51, id="verify-12"),
    pytest.param(change("server_hello", cipher_suite=0x1302), "fails deprotection", 20, id="other-suite"),
    pytest.param(change("server_hello", cipher_suite=0x1305), "suite 0x1305 was not offered", 47, id="unoffered-suite"),
    pytest.param(change("server_hello", session_id=b"x"), "legacy_session_id_echo", 47, id="echo"),
    pytest.param(extend("server_hello", ext.selected_version(0x0305)), "selects 0x0305", 47, id="version-0305"),
    pytest.param(extend("server_hello", ext.selected_version(TLS12)), "selects TLS 1.2", 47, id="version-0303"),
    pytest.param(extend("server_hello", ext.alpn(["foo"])), "alpn in ServerHello", 47, id="alpn-place"),
    pytest.param(extend("server_hello", Extension(9999)), "9999 in ServerHello was not offered", 110, id="unoffered"),
    pytest.param(only12 | extend("server_hello", Extension(9999)), "was not offered", 110, id="unoffered-12"),
    pytest.param(only12 | serve(downgrade_sentinel=True), "downgrade sentinel", 47, id="sentinel"),
    pytest.param(only12 | extend("server_hello", ext.renegotiation_info(b"x")), "renegotiation_info", 40, id="reneg"),
    pytest.param(serve(select_alpn="bar"), "ALPN 'bar' selected, not offered", 47, id="unoffered-alpn"),
    pytest.param(only12 | serve(select_alpn="bar"), "ALPN 'bar' selected", 47, id="unoffered-alpn-12"),
    pytest.param(only13 | change("certificate", entries=()), "empty server Certificate", 50, id="no-certificate"),
    pytest.param(serve(retry_group=SECP256R1, retries=2), "second HelloRetryRequest", 10, id="two-retries"),
    pytest.param(serve(retry_group=X25519), "x25519, whose share was sent", 47, id="retry-for-nothing"),
    pytest.param(serve(tamper={"encrypted_extensions": None}), "unexpected Certificate", 10, id="no-extensions"),
    pytest.param(
        serve(identity=dataclasses.replace(tls_pki.identity(NAME), signing_key=tls_pki.new_key())),
        "signature does not verify",
        51,
        id="another-key",
    ),
    pytest.param(
        serve(insert={"certificate": lambda us: us.build_record(22, b"")}),
        "empty handshake record",
        10,
        id="empty-record",
    ),
    pytest.param(
        serve(tamper={"server_finished": lambda raw: raw + KeyUpdate().encode()[:3]}),
        "spans a key change",
        10,
        id="spans-keys",
    ),
    pytest.param(
        serve(tickets=TicketStore(), **change("new_session_ticket", lifetime=604801)),
        "ticket_lifetime",
        47,
        id="lifetime",
    ),
]


@pytest.mark.parametrize(("options", "what", "alert"), SERVER_BREAKS)
def test_our_client_names_what_our_server_broke(options: dict[str, Any], what: str, alert: int) -> None:
    pair = Pair(usual_client(alpn=("foo",)), usual_server(**options)).run()
    violation = only(pair.client_events, ProtocolViolation)
    assert re.search(re.escape(what), violation.what), violation
    assert violation.alert == alert
    assert only(pair.server_events, Alert).description == alert


def test_the_client_takes_the_sentinel_where_it_offered_tls_1_2_only() -> None:
    pair = Pair(usual_client(versions=(TLS12,)), usual_server(downgrade_sentinel=None)).run()
    assert pair.done[0].server_random.endswith(bytes.fromhex("444f574e47524401"))
    plain = Pair(usual_client(versions=(TLS12,)), usual_server(versions=(TLS12,))).run()
    assert not plain.done[0].server_random.endswith(bytes.fromhex("444f574e47524401"))


REFUSALS = [
    pytest.param({"versions": (TLS10,)}, {}, 70, id="tls-1.0"),
    pytest.param({"versions": (TLS11,)}, {}, 70, id="tls-1.1"),
    pytest.param({"versions": (TLS12,)}, only13, 70, id="min-tls-1.3"),
    pytest.param({"legacy_version": 0x0304, **without(ExtensionType.SUPPORTED_VERSIONS)}, only13, 70, id="legacy-0304"),
    pytest.param({"suites": (0x0001, 0x003B, 0x0018)}, {}, 40, id="null-and-anon"),
    pytest.param({"groups": (0x4A4A, X25519)}, {"groups": (SECP256R1,)}, 40, id="no-group"),
    pytest.param({"alpn": ("zzz",)}, {"alpn": ("foo",)}, 120, id="alpn"),
    pytest.param({}, {"refuse_with_alert": 112}, 112, id="as-asked"),
    pytest.param(only13, {"require_client_certificate": True}, 116, id="certificate-13"),
    pytest.param(only12, {"require_client_certificate": True}, 40, id="certificate-12"),
]


@pytest.mark.parametrize(("client", "server", "alert"), REFUSALS)
def test_a_refusal_is_no_violation(client: dict[str, Any], server: dict[str, Any], alert: int) -> None:
    pair = Pair(usual_client(**client), usual_server(**server)).run()
    assert only(pair.server_events, Refused).description == alert
    assert only(pair.client_events, Alert).description == alert
    assert not every(pair.client_events + pair.server_events, ProtocolViolation)


def test_a_choice_that_we_cannot_speak_is_no_violation() -> None:
    """The other side takes something from our offer that only a number stood for."""
    client = usual_client(suites=(0x1301, 0x1305), versions=(TLS13,))
    pair = Pair(client, usual_server(**change("server_hello", cipher_suite=0x1305))).run()
    assert only(pair.client_events, Unsupported).what == "suite 0x1305 was chosen"


def test_corrupted_wrongly_numbered_and_odd_records() -> None:
    breaks: list[tuple[dict[str, Any], str, int]] = [
        ({"content_type": 23, "payload": b"data", "flip_bit": 0}, "fails deprotection", 20),
        ({"content_type": 23, "payload": b"data", "sequence": 7}, "fails deprotection", 20),
        ({"content_type": 99, "payload": b"data"}, "inner type 99", 10),
        ({"content_type": 99, "payload": b"data", "encrypted": False}, "unknown type 99", 10),
        ({"content_type": 0, "payload": b"\0\0"}, "without a non-zero octet", 10),
        ({"content_type": 23, "payload": bytes(1 << 14) + b"x"}, "inner plaintext of 16386", 22),
        ({"content_type": 23, "payload": bytes(1 << 14), "padding": 240}, "record of 16641 octets", 22),
        ({"content_type": 23, "payload": b"x", "encrypted": False}, "fails deprotection", 20),
        ({"content_type": 20, "payload": b"\1", "encrypted": False}, "unprotected record of type 20", 10),
        ({"content_type": 22, "payload": b""}, "empty handshake record", 10),
        ({"content_type": 22, "payload": KeyUpdate(2).encode()}, "request_update 2", 47),
        ({"content_type": 22, "payload": KeyUpdate(0).encode() + b"\x18"}, "spans a key change", 10),
        ({"content_type": 22, "payload": b"\x01\xff\xff\xff"}, "handshake message of 16777215", 50),
        ({"content_type": 21, "payload": b"\2"}, "alert of 1 octets", 50),
    ]
    for how, what, alert in breaks:
        pair = Pair(usual_client(versions=(TLS13,))).run()
        record = dict(how)
        pair.flow(pair.client.raw_record(record.pop("content_type"), record.pop("payload"), **record))
        violation = only(pair.server_events, ProtocolViolation)
        assert what in violation.what, violation
        assert (violation.alert, only(pair.client_events, Alert).description) == (alert, alert)
        assert not every(pair.server_events, Data)


def test_oversize_and_corrupted_records_of_tls_1_2() -> None:
    for how, what in (
        ({"payload": bytes((1 << 14) + 2049)}, "record of 18457 octets"),
        ({"payload": bytes((1 << 14) + 1)}, "16385 octets of plaintext"),
        ({"payload": b"data", "flip_bit": -1}, "fails deprotection"),
    ):
        pair = Pair(usual_client(versions=(TLS12,))).run()
        pair.flow(pair.client.raw_record(ContentType.APPLICATION_DATA, **how))
        assert what in only(pair.server_events, ProtocolViolation).what


def test_padding_is_removed() -> None:
    pair = Pair(usual_client(padding=300)).run()
    pair.flow(pair.client.send(b"data"))
    assert only(pair.server_events, Data).data == b"data"
    seen = pair.server.records[-1]
    assert (seen.length, seen.wire_length) == (4, 4 + 1 + 300 + 16)


def test_a_hello_inside_the_connection() -> None:
    for version, expected in ((TLS13, 10), (TLS12, 100)):
        pair = Pair(usual_client(versions=(version,))).run()
        again = pair.client.renegotiate() if version == TLS12 else pair.client.send_handshake(pair.client.hello)
        pair.flow(again)
        assert only(pair.client_events, Alert).description == expected
        # A refused renegotiation leaves the connection as it was.
        assert bool(every(pair.server_events, ProtocolViolation)) is (version == TLS13)


def test_hello_request_is_answered_with_a_warning() -> None:
    pair = Pair(usual_client(versions=(TLS12,))).run()
    pair.flow(to_client=pair.server.send_handshake(b"\0\0\0\0"))
    assert only(pair.server_events, Alert) == Alert(1, 100, fatal=False)
    pair.flow(pair.client.send(b"still here"))
    assert only(pair.server_events, Data).data == b"still here"


def test_interleaved_and_straddling_messages() -> None:
    pair = Pair(usual_client(versions=(TLS13,))).run()
    half = KeyUpdate(1).encode()[:2]
    pair.flow(pair.client.raw_record(22, half) + pair.client.send(b"inside"))
    assert "inside a handshake message" in only(pair.server_events, ProtocolViolation).what


def test_a_wrong_binder_is_refused_and_a_misplaced_psk_too() -> None:
    server = usual_server(tickets=TicketStore())
    session = only(Pair(None, server).run().client_events, TicketReceived).session
    for options, what in (
        ({"tamper": {"client_hello": flip}}, "wrong binder"),
        (hello(lambda old: old.appending(Extension(9999))), "pre_shared_key is not the last extension"),
        (without(ExtensionType.PSK_KEY_EXCHANGE_MODES), "without psk_key_exchange_modes"),
    ):
        pair = Pair(usual_client(session=session, **options), server).run()
        assert what in only(pair.server_events, ProtocolViolation).what


def test_client_certificates_that_do_not_hold() -> None:
    trust = [tls_pki.authority().certificate]
    other = tls_pki.authority("another CA").issue("me", usage="client")
    cases: list[tuple[Identity | None, str | None]] = [
        (tls_pki.identity("me", usage="client"), None),
        (other, "unknown issuer"),
        (tls_pki.self_signed("me"), "unknown issuer"),
        (tls_pki.expired_identity("me"), "expired"),
        (None, "no certificate"),
    ]
    for version in (TLS12, TLS13):
        for identity, reason in cases:
            server = usual_server(request_client_certificate=True, trust=trust, versions=(version,))
            assert Pair(usual_client(identity=identity), server).run().done[1].peer_verified == reason
        wrong_usage = tls_pki.identity("me", usage="server")
        server = usual_server(request_client_certificate=True, trust=trust, versions=(version,))
        verified = Pair(usual_client(identity=wrong_usage), server).run().done[1].peer_verified
        assert verified is not None
        assert verified.startswith("invalid: ")
        wrong = usual_client(identity=tls_pki.identity("me", usage="client"), wrong_certificate_verify=True)
        assert "CertificateVerify" in only(Pair(wrong, server).run().server_events, ProtocolViolation).what


def test_extension_of_the_wrong_message_in_the_clients_certificate() -> None:
    identity = tls_pki.identity("me", usage="client")

    def misplaced(old: Certificate) -> Certificate:
        return dataclasses.replace(old, entries=((old.entries[0][0], (ext.key_shares([]),)),))

    pair = Pair(
        usual_client(identity=identity, modify={"certificate": misplaced}),
        usual_server(request_client_certificate=True),
    ).run()
    assert only(pair.server_events, ProtocolViolation).alert == 47


def test_server_certificates_that_do_not_hold() -> None:
    root = tls_pki.authority()
    middle = root.intermediate()
    cases: list[tuple[Identity, str | None]] = [
        (tls_pki.identity(NAME), None),
        (tls_pki.identity(NAME, kind="rsa"), None),
        (tls_pki.identity("*.t.x"), None),
        (middle.issue(NAME), None),
        (tls_pki.identity("b.t.x"), "name mismatch"),
        (tls_pki.identity("*.x"), "name mismatch"),
        (tls_pki.expired_identity(NAME), "expired"),
        (tls_pki.self_signed(NAME), "unknown issuer"),
        (tls_pki.identity(NAME, ca="another CA"), "unknown issuer"),
    ]
    for identity, reason in cases:
        assert Pair(None, usual_server(identity=identity)).run().done[0].peer_verified == reason
    by_address = Pair(usual_client(server_name="127.0.0.1"), usual_server(identity=tls_pki.identity("127.0.0.1"))).run()
    assert by_address.done[0].peer_verified is None
    assert by_address.server.client_hello is not None
    assert by_address.server.client_hello.server_name is None


def test_an_answer_to_a_list_that_the_script_broke_is_no_violation() -> None:
    """The other side was lenient with our malformed ALPN and selected something: not ours to call broken TLS."""

    class Lenient(TlsServer):
        def _check_hello(self, message: ClientHello) -> None:
            return

        def _choose_alpn(self, hello: ClientHello) -> Extension | None:
            return ext.alpn(["foo"])

    pair = Pair(usual_client(**with_ext(ext.alpn(["foo", ""]))))
    pair.server = Lenient(usual_server())
    assert pair.run().done[0].alpn == "foo"


def test_a_leaf_that_does_not_fit_the_suite() -> None:
    ecdsa = tls_pki.identity(NAME)
    mixed = dataclasses.replace(tls_pki.identity(NAME, kind="rsa"), chain=ecdsa.chain)
    pair = Pair(usual_client(versions=(TLS12,)), usual_server(identity=mixed)).run()
    assert "ecdsa leaf with suite ECDHE_RSA" in only(pair.client_events, ProtocolViolation).what


def test_what_follows_a_fatal_alert_is_seen_once_and_ignored() -> None:
    pair = Pair().run()
    late = pair.client.alert(80) + pair.client.raw_record(23, b"late") + pair.client.raw_record(23, b"later")
    pair.flow(late)
    violation = only(pair.server_events, ProtocolViolation)
    assert "after a fatal alert" in violation.what
    assert not violation.fatal
    assert not every(pair.server_events, Data)


def test_identity_by_server_name() -> None:
    server = usual_server(identities={"b.t.x": tls_pki.identity("b.t.x")})
    pair = Pair(usual_client(server_name="B.t.x"), server).run()
    assert pair.done[0].peer_verified is None
    assert pair.done[0].peer_certificates == tls_pki.identity("b.t.x").chain


def test_the_hello_as_received_is_kept() -> None:
    pair = Pair(usual_client(alpn=("foo",), record_size=50)).run()
    assert pair.server.client_hello == pair.client.hello
    assert pair.server.client_hello_raw == pair.client.hello.encode()
    assert ClientHello.decode(pair.server.client_hello_raw[4:]).encode() == pair.server.client_hello_raw


def test_every_alert_in_tls_1_3_is_fatal_whatever_its_level() -> None:
    pair = Pair().run()
    pair.flow(pair.client.alert(255, 1))
    assert only(pair.server_events, Alert) == Alert(1, 255, fatal=True)


def test_close_notify_is_answered_in_tls_1_2_only() -> None:
    for version, answered in ((TLS12, True), (TLS13, False)):
        pair = Pair(usual_client(versions=(version,))).run()
        pair.flow(pair.client.close_notify())
        assert bool(every(pair.client_events, CloseNotify)) is answered


def test_openssl_names_the_same_faults() -> None:
    """Two of them are enough to know that our faults are faults to others."""
    for options, reason in (
        ({"wrong_finished": True, "versions": (TLS13,)}, "DIGEST_CHECK_FAILED"),
        ({"tamper": {"client_key_exchange": None}, "versions": (TLS12,)}, "UNEXPECTED"),
    ):
        foreign = Foreign(TlsClient(usual_client(**options)), server_context(), server=True).run()
        assert isinstance(foreign.error, ssl.SSLError)
        assert reason in str(foreign.error)


def test_usage_errors_name_what_is_allowed() -> None:
    with pytest.raises(TlsUsageError, match="'key_exchange' is no step of a handshake; allowed: client_hello, "):
        usual_client(tamper={"key_exchange": None})
    with pytest.raises(TlsUsageError, match="record_size: 0; allowed: 1 to 16384"):
        usual_client(record_size=0)
    with pytest.raises(TlsUsageError, match="identity"):
        TlsServer(usual_server(identity=None))
    with pytest.raises(TlsUsageError, match="before the handshake is complete"):
        TlsClient(usual_client()).send(b"x")
    with pytest.raises(TlsUsageError, match="group 0x1234"):
        TlsClient(usual_client(key_shares=(0x1234,)))
    with pytest.raises(TlsUsageError, match="chain: given without key"):
        usual_server(identity=None, chain=tls_pki.identity(NAME).chain)


def test_chain_and_key_make_an_identity() -> None:
    identity = tls_pki.identity(NAME)
    pair = Pair(None, usual_server(identity=None, chain=identity.chain, key=identity.key)).run()
    assert pair.done[0].peer_verified is None


def test_messages_come_with_their_octets() -> None:
    pair = Pair().run()
    for event in every(pair.client_events + pair.server_events, HandshakeMessage):
        assert event.message.encode() == event.raw
