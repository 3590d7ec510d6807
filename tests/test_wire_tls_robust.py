"""Any split of the octets gives the same events; hostile octets never raise, and nothing grows without a limit."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.wire.tls import (
    TLS12,
    TLS13,
    ClientOptions,
    DecodeError,
    Endpoint,
    Event,
    HandshakeDone,
    ProtocolViolation,
    ServerOptions,
    TicketStore,
    TlsClient,
    TlsServer,
    Truncated,
)
from harness.wire.tls.endpoint import MAX_KEY_UPDATES, RECORD_LOG, SAID_LOG
from harness.wire.tls.messages import KeyUpdate, decode_message
from harness.wire.tls.numbers import MAX_HANDSHAKE, HandshakeType
from tests.tls_support import Pair, every, only, usual_client, usual_server


def seeded(seed: int) -> Any:
    return random.Random(seed).randbytes


def options(version: int) -> tuple[ClientOptions, ServerOptions]:
    """Endpoints that do the same at every run, signatures and tickets aside."""
    repeatable: dict[str, Any] = {"clock": lambda: 1_000_000.0}
    return (
        usual_client(versions=(version,), random=seeded(1), alpn=("foo",), **repeatable),
        usual_server(random=seeded(2), alpn=("foo",), tickets=TicketStore(), **repeatable),
    )


class Trace:
    """What each side received in one whole conversation, once per version."""

    def __init__(self, version: int) -> None:
        self.to_server, self.to_client = b"", b""
        client, server = options(version)
        pair = Pair(client, server)
        data = pair.client.start()
        while data:
            self.to_server += data
            pair.server_events += pair.server.receive(data)
            back = pair.server.outgoing()
            self.to_client += back
            pair.client_events += pair.client.receive(back)
            data = pair.client.outgoing()
        updates = pair.client.key_update() if version == TLS13 else b""
        self.to_server += updates + pair.client.send(bytes(20_000)) + pair.client.close_notify()
        self.to_client += pair.server.send(b"answer" * 9_000) + pair.server.close_notify()


TRACES = {version: Trace(version) for version in (TLS12, TLS13)}


def replay_client(version: int, pieces: list[bytes]) -> list[Event]:
    client = TlsClient(options(version)[0])
    client.start()
    return [event for piece in pieces for event in client.receive(piece)] + client.receive_eof()


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, *(cut % len(data) for cut in cuts), len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


WHOLE = {version: replay_client(version, [trace.to_client]) for version, trace in TRACES.items()}


def test_the_trace_is_a_whole_conversation() -> None:
    for events in WHOLE.values():
        assert every(events, HandshakeDone)
        assert not every(events, ProtocolViolation)
        assert not every(events, Truncated)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([TLS12, TLS13]), st.lists(st.integers(0, 1 << 20), max_size=40))
def test_any_split_gives_the_same_events(version: int, cuts: list[int]) -> None:
    assert replay_client(version, cut(TRACES[version].to_client, cuts)) == WHOLE[version]


def test_octet_by_octet_gives_the_same_events() -> None:
    for version, trace in TRACES.items():
        assert replay_client(version, [bytes((octet,)) for octet in trace.to_client]) == WHOLE[version]


def survives(endpoint: Endpoint, data: bytes) -> list[Event]:
    """Feed hostile octets; nothing may be raised, and what is kept stays small."""
    events = endpoint.receive(data)
    endpoint.outgoing()
    events += endpoint.receive(b"\x15\x03\x03\x00\x02\x02\x28")
    events += endpoint.receive_eof()
    assert len(endpoint.unread) < 20_000
    return events


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_octets_that_are_anything(data: bytes) -> None:
    survives(TlsServer(usual_server()), data)
    client = TlsClient(usual_client())
    client.start()
    survives(client, data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 255), st.binary(max_size=300))
def test_messages_that_are_anything(number: int, body: bytes) -> None:
    message = bytes((number,)) + len(body).to_bytes(3, "big") + body
    record = b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message
    survives(TlsServer(usual_server()), record)
    client = TlsClient(usual_client())
    client.start()
    survives(client, record)
    for tls13 in (True, False):
        try:
            decoded = decode_message(number, body, tls13=tls13)
        except DecodeError:
            continue
        assert decoded.type == number


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([TLS12, TLS13]),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_conversation_with_changed_octets(version: int, to_server: bool, changes: list[tuple[int, int]]) -> None:
    trace = TRACES[version]
    data = bytearray(trace.to_server[:2000] if to_server else trace.to_client[:4000])
    for at, value in changes:
        data[at % len(data)] = value
    client, server = options(version)
    endpoint: TlsClient | TlsServer = TlsServer(server) if to_server else TlsClient(client)
    if isinstance(endpoint, TlsClient):
        endpoint.start()
    survives(endpoint, bytes(data))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([TLS12, TLS13]),
    st.sampled_from(
        ["server_hello", "encrypted_extensions", "certificate", "certificate_verify", "server_key_exchange"]
    ),
    st.lists(st.tuples(st.integers(4, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_messages_changed_before_they_are_protected(version: int, step: str, changes: list[tuple[int, int]]) -> None:
    """Behind the protection of TLS 1.3 too: the tampered message is authentic, so only its parser stands in between."""

    def tamper(raw: bytes) -> bytes:
        octets = bytearray(raw)
        for at, value in changes:
            octets[4 + at % (len(octets) - 4)] = value
        return bytes(octets)

    Pair(usual_client(versions=(version,)), usual_server(tamper={step: tamper})).run()


def test_a_certificate_that_is_anything() -> None:
    for octets in (b"\x30", b"\x30\x03\x02\x01\x00", bytes(100)):
        server = usual_server(
            modify={"certificate": lambda old, der=octets: dataclasses.replace(old, entries=((der, ()),))}
        )
        violation = only(Pair(None, server).run().client_events, ProtocolViolation)
        assert violation.what.startswith("certificate cannot be read")


def test_what_is_kept_has_a_limit() -> None:
    pair = Pair().run()
    pair.flow(pair.client.send(bytes(RECORD_LOG + 100), record_size=1))
    assert len(pair.server.records) == RECORD_LOG
    for _ in range(SAID_LOG + 1):
        pair.client.alert(90, 1)
    assert len(pair.client.take_said()) == SAID_LOG
    store = TicketStore(limit=2)
    for _ in range(3):
        Pair(None, usual_server(tickets=store)).run()
    assert len(store.sessions) == 2


def test_limits_on_messages_and_key_updates() -> None:
    long = bytes((HandshakeType.CERTIFICATE,)) + (MAX_HANDSHAKE + 1).to_bytes(3, "big")
    client = TlsClient(usual_client())
    client.start()
    assert only(client.receive(b"\x16\x03\x03\x00\x04" + long), ProtocolViolation).alert == 50
    pair = Pair(usual_client(versions=(TLS13,))).run()
    for _ in range(MAX_KEY_UPDATES + 1):
        pair.server_events += pair.server.receive(pair.client.key_update(request=False))
    assert "more KeyUpdates" in only(pair.server_events, ProtocolViolation).what
    assert KeyUpdate(0).encode() == b"\x18\0\0\1\0"


def test_the_end_of_the_transport() -> None:
    client = TlsClient(usual_client())
    client.start()
    assert client.receive_eof() == [Truncated(handshake_done=False)]
    assert client.receive_eof() == []
    pair = Pair().run()
    assert pair.client.receive_eof() == [Truncated(handshake_done=True)]
    closed = Pair().run()
    closed.flow(to_client=closed.server.close_notify())
    assert closed.client.receive_eof() == []


def test_peer_certificates_are_certificates() -> None:
    assert all(isinstance(each, x509.Certificate) for each in Pair().run().done[0].peer_certificates)
