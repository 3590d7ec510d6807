"""Our QUIC against another family (aioquic, in memory, on a simulated path)."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic import events as aio
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import SessionTicket

from harness.peer import tls_pki
from harness.wire.quic import (
    VERSION_1,
    VERSION_2,
    DatagramReceived,
    EarlyDataRejected,
    HandshakeCompleted,
    KeysUpdated,
    NegotiationReceived,
    PingAcknowledged,
    QuicClient,
    QuicEnd,
    QuicServer,
    RetryReceived,
    StopSendingReceived,
    StreamData,
    StreamReset,
    TicketReceived,
)
from harness.wire.quic.packet import build_negotiation, build_retry
from harness.wire.tls import TicketStore
from harness.wire.tls.numbers import (
    SECP256R1,
    TLS_AES_128_GCM_SHA256,
    TLS_AES_256_GCM_SHA384,
    TLS_CHACHA20_POLY1305_SHA256,
    X25519,
)
from tests.quic_support import ALPN, Aio, Ours, Path, aio_client, aio_server, every, only, usual_client, usual_server

VERSIONS = [
    pytest.param(QuicProtocolVersion.VERSION_1, id="v1"),
    pytest.param(QuicProtocolVersion.VERSION_2, id="v2"),
]
BULK = bytes(range(256)) * 2000


def with_server(aio_options: dict[str, Any] | None = None, path: dict[str, Any] | None = None, **more: Any) -> Path:
    """Our client and an aioquic server, connected."""
    both = Path(Ours(QuicClient(usual_client(**more))), aio_server(**(aio_options or {})), **(path or {}))
    both.run(lambda: both.client.wire.confirmed or both.client.wire.end is not None)
    return both


def with_client(aio_options: dict[str, Any] | None = None, path: dict[str, Any] | None = None, **more: Any) -> Path:
    """An aioquic client and our server, connected."""
    both = Path(aio_client(**(aio_options or {})), Ours(QuicServer(usual_server(**more))), **(path or {}))
    both.run(lambda: both.server.wire.confirmed or both.server.wire.end is not None)
    return both


def ours_of(path: Path) -> Ours:
    side = path.client if isinstance(path.client, Ours) else path.server
    assert isinstance(side, Ours)
    return side


def foreign_of(path: Path) -> Aio:
    side = path.client if isinstance(path.client, Aio) else path.server
    assert isinstance(side, Aio)
    return side


def received(side: Ours, stream_id: int) -> bytes:
    return b"".join(event.data for event in every(side.events, StreamData) if event.stream_id == stream_id)


def received_there(side: Aio, stream_id: int) -> bytes:
    return b"".join(event.data for event in side.all(aio.StreamDataReceived) if event.stream_id == stream_id)


BOTH = [pytest.param(with_server, id="client"), pytest.param(with_client, id="server")]


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("version", VERSIONS)
def test_handshake_in_both_versions(connect: Any, version: int) -> None:
    if connect is with_server:
        path = with_server({"supported_versions": [version]}, versions=(version,))
    else:
        path = with_client({"original_version": version, "supported_versions": [version]}, versions=(version,))
    ours = ours_of(path)
    done = only(ours.events, HandshakeCompleted)
    assert (done.version, done.alpn, done.peer_verified, done.resumed) == (version, ALPN, None, False)
    assert len(done.peer_certificates) == (connect is with_server)
    assert foreign_of(path).all(aio.HandshakeCompleted)[0].alpn_protocol == ALPN
    assert not [info for _, info in ours.wire.packets if info.trouble]


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize(
    "suite", [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256], ids=hex
)
def test_every_suite(connect: Any, suite: int) -> None:
    path = connect(suites=(suite,))
    assert only(ours_of(path).events, HandshakeCompleted).suite == suite


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("group", [X25519, SECP256R1], ids=["x25519", "p256"])
def test_every_group(connect: Any, group: int) -> None:
    path = connect(groups=(group,))
    assert ours_of(path).wire.tls.group == group


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize(
    "how",
    [{}, {"loss": 0.05, "double": 0.05, "reorder": 0.2, "seed": 1}, {"loss": 0.05, "reorder": 0.5, "seed": 2}],
    ids=["clean", "seed1", "seed2"],
)
@pytest.mark.parametrize("bidirectional", [True, False], ids=["bidi", "uni"])
def test_streams_both_ways(connect: Any, how: dict[str, Any], bidirectional: bool) -> None:
    path = connect(None, how)
    ours, foreign = ours_of(path), foreign_of(path)
    assert foreign.quic is not None
    mine = ours.wire.open_stream(bidirectional=bidirectional)
    ours.wire.send_stream(mine, BULK, fin=True)
    theirs = foreign.quic.get_next_available_stream_id(is_unidirectional=not bidirectional)
    foreign.quic.send_stream_data(theirs, BULK, end_stream=True)

    def arrived() -> bool:
        here = any(event.fin for event in every(ours.events, StreamData) if event.stream_id == theirs)
        ends = [event for event in foreign.all(aio.StreamDataReceived) if event.stream_id == mine and event.end_stream]
        return here and bool(ends)

    path.run(arrived, 120)
    assert received(ours, theirs) == BULK
    assert received_there(foreign, mine) == BULK
    if bidirectional:
        foreign.quic.send_stream_data(mine, b"answer", end_stream=True)
        path.run(lambda: received(ours, mine) == b"answer")


@pytest.mark.parametrize("connect", BOTH)
def test_reset_and_stop_sending(connect: Any) -> None:
    path = connect()
    ours, foreign = ours_of(path), foreign_of(path)
    assert foreign.quic is not None
    first, second = ours.wire.open_stream(), ours.wire.open_stream()
    ours.wire.send_stream(first, b"abc")
    ours.wire.send_stream(second, b"abc")
    path.rest()
    ours.wire.reset_stream(first, 17)
    ours.wire.stop_sending(second, 18)
    path.run(lambda: bool(foreign.all(aio.StreamReset) and foreign.all(aio.StopSendingReceived)))
    assert [(event.stream_id, event.error_code) for event in foreign.all(aio.StreamReset)] == [(first, 17)]
    stopped = [(event.stream_id, event.error_code) for event in foreign.all(aio.StopSendingReceived)]
    assert stopped == [(second, 18)]
    third = foreign.quic.get_next_available_stream_id()
    foreign.quic.send_stream_data(third, b"xyz")
    path.rest()
    foreign.quic.reset_stream(third, 19)
    foreign.quic.stop_stream(second, 20)
    path.run(lambda: bool(every(ours.events, StopSendingReceived)))
    assert StreamReset(third, 19, 3) in ours.events
    assert every(ours.events, StopSendingReceived) == [StopSendingReceived(second, 20)]
    path.run(lambda: len(foreign.all(aio.StreamReset)) == 2)
    assert foreign.all(aio.StreamReset)[1].error_code == 20


@pytest.mark.parametrize("connect", BOTH)
def test_datagrams(connect: Any) -> None:
    path = connect()
    ours, foreign = ours_of(path), foreign_of(path)
    assert foreign.quic is not None
    sizes = (0, 1, 60, 63, 64, 1100, ours.wire.max_datagram)
    for size in sizes:
        ours.wire.send_datagram(bytes(size))
        foreign.quic.send_datagram_frame(bytes(min(size, 1100)))
    path.rest()
    assert [len(event.data) for event in foreign.all(aio.DatagramFrameReceived)] == list(sizes)
    assert [len(event.data) for event in every(ours.events, DatagramReceived)] == [min(size, 1100) for size in sizes]
    assert max(ours.wire.sizes_sent) <= 1200


@pytest.mark.parametrize("connect", BOTH)
@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_key_updates(connect: Any, who: str) -> None:
    path = connect()
    ours, foreign = ours_of(path), foreign_of(path)
    assert foreign.quic is not None
    path.rest()
    for generation in (1, 2, 3):
        if who == "ours":
            ours.wire.update_keys()
        else:
            foreign.quic.request_key_update()
            foreign.quic.send_ping(generation)
        number = ours.wire.ping()
        path.run(lambda number=number: PingAcknowledged(number) in ours.events)
        path.rest()
        assert ours.wire.one_rtt.write_generation == ours.wire.one_rtt.read_generation == generation
    assert every(ours.events, KeysUpdated) == [KeysUpdated(1), KeysUpdated(2), KeysUpdated(3)]


@pytest.mark.parametrize("connect", BOTH)
def test_closes(connect: Any) -> None:
    path = connect()
    ours, foreign = ours_of(path), foreign_of(path)
    ours.wire.close(0x1234, "our reason")
    path.run(lambda: bool(foreign.all(aio.ConnectionTerminated)))
    (end,) = foreign.all(aio.ConnectionTerminated)
    assert (end.error_code, end.frame_type, end.reason_phrase) == (0x1234, None, "our reason")
    assert ours.wire.end == QuicEnd("application", 0x1234, 0, "our reason", by_peer=False)
    path = connect()
    ours, foreign = ours_of(path), foreign_of(path)
    assert foreign.quic is not None
    foreign.quic.close(error_code=77, frame_type=0x08, reason_phrase="theirs")
    path.run(lambda: ours.wire.end is not None)
    assert ours.wire.end == QuicEnd("transport", 77, 0x08, "theirs")


def test_retry_by_aioquic() -> None:
    first, chosen = b"12345678", b"retrysrc"
    client = Ours(QuicClient(usual_client(destination=first)))
    (initial,) = client.take(1.0)
    client.give(build_retry(VERSION_1, client.wire.source_id, chosen, b"token", first), 1.0)
    assert only(client.events, RetryReceived).token == b"token"
    assert initial[6:14] == first
    server = aio_server(original_destination_connection_id=first, retry_source_connection_id=chosen)
    path = Path(client, server)
    path.run(lambda: client.wire.confirmed)
    assert client.wire.tls.alpn == ALPN


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_retry_by_us(loss: float) -> None:
    path = with_client(None, {"loss": loss, "seed": 3}, retry=True)
    assert path.server.wire.handshake is not None
    assert path.server.wire.retry_source is not None


def test_version_negotiation() -> None:
    client = Ours(QuicClient(usual_client(versions=(VERSION_2, VERSION_1))))
    server = aio_server(supported_versions=[QuicProtocolVersion.VERSION_1])
    (initial,) = client.take(1.0)
    client.give(build_negotiation(client.wire.source_id, initial[6:14], (VERSION_1,)), 1.0)
    assert only(client.events, NegotiationReceived).versions == (VERSION_1,)
    path = Path(client, server)
    path.run(lambda: client.wire.confirmed)
    assert client.wire.version == VERSION_1


def test_version_negotiation_by_us() -> None:
    path = with_client(
        {"original_version": VERSION_2, "supported_versions": [VERSION_2, VERSION_1]}, versions=(VERSION_1,)
    )
    assert path.server.wire.version == VERSION_1
    assert path.server.wire.handshake is not None


def test_compatible_version_upgrade() -> None:
    """RFC 9368 section 2.3, both ways."""
    path = with_server(
        {"supported_versions": [VERSION_2, VERSION_1]}, versions=(VERSION_2, VERSION_1), version=VERSION_1
    )
    assert path.client.wire.version == VERSION_2
    path = with_client(
        {"original_version": VERSION_1, "supported_versions": [VERSION_1, VERSION_2]}, upgrade_to=VERSION_2
    )
    assert path.server.wire.version == VERSION_2
    assert path.server.wire.handshake is not None


def test_client_certificate_for_us() -> None:
    leaf = tls_pki.identity("client.t.x", usage="client")
    options = {"request_client_certificate": True, "trust": [tls_pki.authority().certificate]}
    client = aio_client(certificate=leaf.chain[0], certificate_chain=list(leaf.chain[1:]), private_key=leaf.key)
    path = Path(client, Ours(QuicServer(usual_server(**options))))
    path.run(lambda: path.server.wire.handshake is not None)
    assert path.server.wire.peer_certificates[0] == leaf.chain[0]
    assert path.server.wire.peer_verified is None


def test_no_protocol_in_common() -> None:
    path = with_client({"alpn_protocols": ["other"]})
    assert path.server.wire.end == QuicEnd("transport", 0x178, 6, "no common protocol: offered other", by_peer=False)
    path.run(lambda: bool(path.client.all(aio.ConnectionTerminated)))
    assert path.client.all(aio.ConnectionTerminated)[0].error_code == 0x178
    path = with_server(alpn=("other",))
    assert path.client.wire.end.code == 0x178
    assert path.client.wire.end.by_peer


class Tickets:
    def __init__(self) -> None:
        self.kept: dict[bytes, SessionTicket] = {}

    def put(self, ticket: SessionTicket) -> None:
        self.kept[ticket.ticket] = ticket

    def pop(self, label: bytes) -> SessionTicket | None:
        return self.kept.pop(label, None)


@pytest.mark.parametrize("early", [False, True], ids=["1rtt", "0rtt"])
def test_resumption_at_aioquic(early: bool) -> None:
    tickets = Tickets()
    store = {"session_ticket_handler": tickets.put, "session_ticket_fetcher": tickets.pop}
    path = with_server(dict(store))
    path.run(lambda: bool(every(path.client.events, TicketReceived)))
    resumption = every(path.client.events, TicketReceived)[0].resumption
    client = Ours(QuicClient(usual_client(resumption=resumption, early_data=early)))
    if early:
        stream = client.wire.open_stream()
        client.wire.send_stream(stream, b"early", fin=True)
    again = Path(client, aio_server(**store))
    again.run(lambda: client.wire.confirmed)
    done = only(client.events, HandshakeCompleted)
    assert (done.resumed, done.early_data_accepted) == (True, early)
    if early:
        again.run(lambda: received_there(again.server, stream) == b"early")
        (completed,) = again.server.all(aio.HandshakeCompleted)
        assert completed.early_data_accepted
        assert not every(client.events, EarlyDataRejected)


@pytest.mark.parametrize("early", [False, True], ids=["1rtt", "0rtt"])
def test_resumption_by_aioquic(early: bool) -> None:
    kept: list[SessionTicket] = []
    options = {"tickets": TicketStore(), "early_data": True}
    path = Path(aio_client(session_ticket_handler=kept.append), Ours(QuicServer(usual_server(**options))))
    path.run(lambda: bool(kept))
    client = aio_client(session_ticket=kept[0])
    assert client.quic is not None
    if early:
        client.quic.send_stream_data(0, b"early", end_stream=True)
    server = Ours(QuicServer(usual_server(**options)))
    again = Path(client, server)
    again.run(lambda: server.wire.handshake is not None)
    assert only(server.events, HandshakeCompleted).resumed
    if early:
        again.run(lambda: received(server, 0) == b"early")
        assert [event.early for event in every(server.events, StreamData)] == [True]
