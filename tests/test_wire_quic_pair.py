"""Our QUIC client against our QUIC server: legal by default on any path, and each option breaks its one thing."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from harness.peer import tls_pki
from harness.wire.quic import (
    VERSION_1,
    VERSION_2,
    ClientHelloReceived,
    ClientOptions,
    DatagramReceived,
    EarlyDataRejected,
    Ended,
    ErrorCode,
    HandshakeCompleted,
    KeysUpdated,
    Level,
    NegotiationReceived,
    PacketKind,
    ParameterId,
    PingAcknowledged,
    ProtocolViolation,
    QuicClient,
    QuicEnd,
    QuicServer,
    QuicUsageError,
    RetryReceived,
    StopSendingReceived,
    StreamData,
    StreamDelivered,
    StreamLimitReached,
    StreamOpened,
    StreamReset,
    StreamsAvailable,
    TicketReceived,
    TokenReceived,
    forge,
)
from harness.wire.quic.frames import (
    Ack,
    ConnectionClose,
    Crypto,
    Datagram,
    HandshakeDone,
    MaxData,
    MaxStreamData,
    NewToken,
    PathChallenge,
    PathResponse,
    Ping,
    ResetStream,
    RetireConnectionId,
    StopSending,
    Stream,
    StreamDataBlocked,
)
from harness.wire.quic.packet import build_negotiation
from harness.wire.tls import Extension, TicketStore
from harness.wire.tls.messages import Bare, KeyUpdate
from tests.quic_support import ALPN, Ours, Pair, every, frames, only, usual_client, usual_server

BULK = bytes(range(256)) * 1000


def received(side: Ours, stream_id: int) -> bytes:
    return b"".join(event.data for event in every(side.events, StreamData) if event.stream_id == stream_id)


def finished(side: Ours, stream_id: int) -> bool:
    return any(event.fin and event.stream_id == stream_id for event in every(side.events, StreamData))


@pytest.mark.parametrize("seed", range(12))
def test_any_path_carries_everything_whole(seed: int) -> None:
    """Loss, doubles and reordering change nothing that arrives."""
    pair = Pair(
        usual_client(max_stream_data=20_000, max_data=60_000),
        usual_server(max_stream_data=20_000, max_data=60_000),
        seed=seed,
        loss=0.05 * (1 + seed % 3),
        double=0.05,
        reorder=0.3,
    ).connect()
    sides = pair.client, pair.server
    sent: list[tuple[Ours, int, bytes]] = []
    for side, other in (sides, sides[::-1]):
        for number, bidirectional in enumerate((True, True, False)):
            stream = side.wire.open_stream(bidirectional=bidirectional)
            data = BULK[number : 60_000 + number]
            side.wire.send_stream(stream, data, fin=True)
            sent.append((other, stream, data))
    pings = [side.wire.ping() for side in sides]
    pair.run(lambda: all(finished(side, stream) for side, stream, _ in sent), 120)
    assert all(received(side, stream) == data for side, stream, data in sent)
    pair.run(lambda: all(PingAcknowledged(number) in side.events for side, number in zip(sides, pings, strict=True)))
    pair.client.wire.close(3, "done")
    pair.run(lambda: pair.server.wire.end is not None, 60)
    assert not every(pair.client.events + pair.server.events, ProtocolViolation)


def test_same_seed_same_wire() -> None:
    def trace() -> list[Any]:
        made = [random.Random(number).randbytes for number in (1, 2)]
        pair = Pair(usual_client(random=made[0]), usual_server(random=made[1]), seed=5, loss=0.1).connect()
        return [(info.time, info.size, info.number) for _, info in pair.client.wire.packets if info.kind < 2]

    assert trace() == trace()


def test_what_a_handshake_tells() -> None:
    pair = Pair().connect()
    client, server = pair.client.wire, pair.server.wire
    hello = only(pair.server.events, ClientHelloReceived).hello
    assert (hello.alpn, hello.server_name, hello.session_id) == ((ALPN,), "a.t.x", b"")
    assert client.alpn == server.alpn == ALPN
    assert client.peer_certificates == tls_pki.identity("a.t.x").chain
    assert client.remote_parameters is not None
    assert client.remote_parameters.get(ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID) == client.original_destination
    assert sorted(line.split()[0] for line in client.key_log) == [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_TRAFFIC_SECRET_0",
    ]
    assert sorted(client.key_log) == sorted(server.key_log)
    assert min(size for size in server.sizes_received if size > 100) >= 32
    first = next(info for way, info in client.packets if way == "sent")
    assert (first.kind, first.datagram) == (PacketKind.INITIAL, 1200)


def test_untrusted_chain_is_told_not_judged() -> None:
    pair = Pair(server=usual_server(identity=tls_pki.self_signed("a.t.x"))).connect()
    assert only(pair.client.events, HandshakeCompleted).peer_verified == "unknown issuer"


def test_hello_retry_request_and_big_chain() -> None:
    pair = Pair(usual_client(key_shares=()), usual_server(padding=0)).connect()
    hellos = [
        info.number for way, info in pair.server.wire.packets if info.kind == PacketKind.INITIAL and way == "sent"
    ]
    assert len(hellos) >= 2


def test_client_certificates() -> None:
    trust = [tls_pki.authority().certificate]
    leaf = tls_pki.identity("client.t.x", usage="client")
    pair = Pair(usual_client(identity=leaf), usual_server(request_client_certificate=True, trust=trust)).connect()
    assert pair.server.wire.peer_certificates[0] == leaf.chain[0]
    pair = Pair(usual_client(), usual_server(require_client_certificate=True, trust=trust))
    pair.run(lambda: pair.client.wire.end is not None)
    assert pair.client.wire.end == QuicEnd("transport", 0x174, 6, "no client certificate")


@pytest.mark.parametrize(
    ("offered", "listed", "code"), [(("x",), (ALPN,), 0x178), ((), (ALPN,), 0x178), ((ALPN,), (), 0x178)]
)
def test_no_protocol(offered: tuple[str, ...], listed: tuple[str, ...], code: int) -> None:
    pair = Pair(usual_client(alpn=offered), usual_server(alpn=listed))
    pair.run(lambda: pair.client.wire.end is not None and pair.server.wire.end is not None)
    assert [end.code for end in pair.ends] == [code, code]
    assert (pair.client.wire.end.by_peer, pair.server.wire.end.by_peer) == (True, False)


def test_handshake_without_a_protocol_where_asked_for() -> None:
    pair = Pair(usual_client(alpn=(), alpn_required=False), usual_server(alpn=(), alpn_required=False)).connect()
    assert pair.client.wire.alpn is None


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_retry(version: int) -> None:
    pair = Pair(usual_client(versions=(version,)), usual_server(retry=True, retry_token=b"my token")).connect()
    assert only(pair.client.events, RetryReceived).token == b"my token"
    tokens = [info for way, info in pair.client.wire.packets if way == "sent" and info.kind == PacketKind.INITIAL]
    assert tokens[-1].destination == pair.server.wire.source_id


def test_forged_retry_is_ignored() -> None:
    client = QuicClient(usual_client())
    client.outgoing(1.0)
    server = QuicServer(usual_server(retry=True))
    for datagram in QuicClient(usual_client(destination=client.original_destination)).outgoing(1.0):
        server.receive(datagram, 1.0)
    (retry,) = server.outgoing(1.0)
    ours = retry[:6] + client.source_id + retry[14:]
    assert client.receive(ours, 1.0) == []
    assert not client.retried


def test_version_negotiation() -> None:
    pair = Pair(usual_client(version=0x0A0A0A0A), usual_server(versions=(VERSION_2,))).connect()
    assert only(pair.client.events, NegotiationReceived).versions == (VERSION_2,)
    assert pair.client.wire.version == pair.server.wire.version == VERSION_2
    pair = Pair(usual_client(versions=(VERSION_1,)), usual_server(versions=(VERSION_2,)))
    pair.run(lambda: pair.client.wire.end is not None)
    assert pair.client.wire.end.kind == "negotiation"


def test_downgrade_by_a_forged_version_negotiation() -> None:
    pair = Pair(usual_client(versions=(VERSION_2, VERSION_1)))
    (first,) = pair.client.wire.outgoing(1.0)
    pair.client.give(build_negotiation(pair.client.wire.source_id, first[6:14], (VERSION_1,)), 1.0)
    pair.run(lambda: pair.client.wire.end is not None)
    assert pair.client.wire.end.code == ErrorCode.VERSION_NEGOTIATION_ERROR


@pytest.mark.parametrize("said", [Ping(), MaxData(5), Crypto(0, b"x" * 300)], ids=lambda frame: frame.name)
def test_every_initial_of_a_client_has_1200_octets(said: Any) -> None:
    client = QuicClient(usual_client())
    client.outgoing(0.0)
    client.say(said, level=Level.INITIAL)
    assert [len(datagram) for datagram in client.outgoing(0.0)] == [1200]


def test_small_initials_get_no_answer() -> None:
    pair = Pair(usual_client(pad_initials=False, pto_limit=3))
    pair.run(lambda: pair.client.wire.end is not None)
    assert not pair.server.wire.began
    assert max(pair.server.wire.sizes_received) < 1200


def resume(**more: Any) -> tuple[ClientOptions, dict[str, Any]]:
    shared: dict[str, Any] = {"tickets": TicketStore(), "early_data": True, **more}
    pair = Pair(server=usual_server(**shared)).connect()
    pair.run(lambda: bool(every(pair.client.events, TicketReceived)))
    resumption = every(pair.client.events, TicketReceived)[-1].resumption
    return usual_client(resumption=resumption, early_data=True), shared


@pytest.mark.parametrize("how", [{}, {"loss": 0.1, "reorder": 0.5, "seed": 9}], ids=["clean", "lossy"])
@pytest.mark.parametrize("retry", [False, True])
def test_early_data(how: dict[str, Any], retry: bool) -> None:
    client, shared = resume()
    pair = Pair(client, usual_server(**shared, retry=retry), **how)
    stream = pair.client.wire.open_stream()
    pair.client.wire.send_stream(stream, b"early" * 500, fin=True)
    pair.run(lambda: finished(pair.server, stream))
    pair.connect()
    assert received(pair.server, stream) == b"early" * 500
    done = only(pair.client.events, HandshakeCompleted)
    assert (done.resumed, done.early_data_accepted) == (True, True)
    assert any(line.startswith("CLIENT_EARLY_TRAFFIC_SECRET") for line in pair.client.wire.key_log)
    if not how:
        assert all(event.early for event in every(pair.server.events, StreamData))


@pytest.mark.parametrize("why", ["no early data", "HelloRetryRequest"])
def test_early_data_that_is_rejected_goes_out_again(why: str) -> None:
    client, shared = resume()
    if why == "HelloRetryRequest":
        client = dataclasses.replace(client, tls=dataclasses.replace(client.tls, key_shares=()))
    else:
        shared["early_data"] = False
    pair = Pair(client, usual_server(**shared))
    stream = pair.client.wire.open_stream()
    pair.client.wire.send_stream(stream, b"early" * 500, fin=True)
    pair.run(lambda: finished(pair.server, stream))
    assert received(pair.server, stream) == b"early" * 500
    assert not any(event.early for event in every(pair.server.events, StreamData))
    assert only(pair.client.events, EarlyDataRejected)


def test_tokens() -> None:
    pair = Pair(server=usual_server(new_token=b"for later")).connect()
    pair.run(lambda: bool(every(pair.client.events, TokenReceived)))
    assert only(pair.client.events, TokenReceived).token == b"for later"


def test_datagrams_and_their_limit() -> None:
    pair = Pair(server=usual_server(max_datagram_frame_size=300)).connect()
    with pytest.raises(QuicUsageError, match="at most 297"):
        pair.client.wire.send_datagram(bytes(298))
    pair.client.wire.send_datagram(bytes(297))
    pair.rest()
    assert every(pair.server.events, DatagramReceived) == [DatagramReceived(bytes(297))]
    pair.client.wire.say(Datagram(bytes(298)))
    pair.run(lambda: pair.client.wire.end is not None)
    assert pair.client.wire.end.code == ErrorCode.PROTOCOL_VIOLATION


def test_big_datagrams() -> None:
    pair = Pair(usual_client(datagram_size=20_000)).connect()
    data = bytes(pair.client.wire.max_datagram)
    assert len(data) > 19_900
    pair.client.wire.send_datagram(data)
    stream = pair.client.wire.open_stream()
    pair.client.wire.send_stream(stream, BULK, fin=True)
    pair.run(lambda: finished(pair.server, stream))
    assert received(pair.server, stream) == BULK
    assert every(pair.server.events, DatagramReceived) == [DatagramReceived(data)]
    assert max(pair.client.wire.sizes_sent) <= 20_000


def test_key_update() -> None:
    pair = Pair().connect()
    pair.client.wire.update_keys()
    with pytest.raises(QuicUsageError, match="key update"):
        pair.client.wire.update_keys()
    number = pair.client.wire.ping()
    pair.run(lambda: PingAcknowledged(number) in pair.client.events)
    assert only(pair.server.events, KeysUpdated) == only(pair.client.events, KeysUpdated) == KeysUpdated(1)


class TestFlowControl:
    """RFC 9000 section 4."""

    def test_credit_follows_consumption(self) -> None:
        pair = Pair(server=usual_server(max_stream_data=10_000, automatic_credit=False)).connect()
        stream = pair.client.wire.open_stream()
        pair.client.wire.send_stream(stream, bytes(40_000), fin=True)
        pair.rest()
        assert len(received(pair.server, stream)) == 10_000
        assert pair.client.wire.unsent(stream) == 30_000
        assert frames(pair.server, StreamDataBlocked) == [StreamDataBlocked(stream, 10_000)]
        for _ in range(3):
            pair.server.wire.consume(stream, 10_000)
            pair.rest()
        assert finished(pair.server, stream)
        assert len(received(pair.server, stream)) == 40_000

    def test_one_stalled_stream_does_not_stall_another(self) -> None:
        pair = Pair(server=usual_server(max_stream_data=10_000, automatic_credit=False)).connect()
        stalled, free = pair.client.wire.open_stream(), pair.client.wire.open_stream()
        pair.client.wire.send_stream(stalled, bytes(20_000))
        pair.client.wire.send_stream(free, bytes(9_000), fin=True)
        pair.run(lambda: finished(pair.server, free))

    def test_streams_come_back_when_they_are_over(self) -> None:
        pair = Pair(server=usual_server(max_streams_bidi=2)).connect()
        opened = [pair.client.wire.open_stream() for _ in range(2)]
        with pytest.raises(StreamLimitReached, match="allows 2 bidirectional"):
            pair.client.wire.open_stream()
        for stream in opened:
            pair.client.wire.send_stream(stream, b"x", fin=True)
        pair.rest()
        for stream in opened:
            pair.server.wire.send_stream(stream, b"y", fin=True)
        pair.run(lambda: StreamsAvailable(bidirectional=True, limit=4) in pair.client.events)
        assert every(pair.client.events, StreamDelivered) == [StreamDelivered(0), StreamDelivered(4)]
        assert not pair.client.wire.table.streams
        assert not pair.server.wire.table.streams
        assert pair.client.wire.open_stream() == 8

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            (Stream(0, 20_000, b"x"), ErrorCode.FLOW_CONTROL_ERROR),
            (Stream(0, 9_999, b"xx"), ErrorCode.FLOW_CONTROL_ERROR),
            (ResetStream(0, 0, 10_001), ErrorCode.FLOW_CONTROL_ERROR),
            (Stream(4 * 128, 0, b"x"), ErrorCode.STREAM_LIMIT_ERROR),
            (StreamDataBlocked(2 + 4 * 128, 0), ErrorCode.STREAM_LIMIT_ERROR),
            (Stream(1, 0, b"x"), ErrorCode.STREAM_STATE_ERROR),
            (Stream(3, 0, b"x"), ErrorCode.STREAM_STATE_ERROR),
            (MaxStreamData(2, 1), ErrorCode.STREAM_STATE_ERROR),
            (StopSending(2, 1), ErrorCode.STREAM_STATE_ERROR),
            (StopSending(5, 1), ErrorCode.STREAM_STATE_ERROR),
            (NewToken(b"x"), ErrorCode.PROTOCOL_VIOLATION),
            (HandshakeDone(), ErrorCode.PROTOCOL_VIOLATION),
            (RetireConnectionId(9), ErrorCode.PROTOCOL_VIOLATION),
            (Ack(((1 << 30, 1 << 30),)), ErrorCode.PROTOCOL_VIOLATION),
            (Crypto(1 << 20, b"x"), ErrorCode.CRYPTO_BUFFER_EXCEEDED),
        ],
        ids=lambda value: getattr(value, "name", ""),
    )
    def test_what_a_client_must_not_say(self, frame: Any, code: int) -> None:
        pair = Pair(server=usual_server(max_stream_data=10_000)).connect()
        pair.client.wire.say(frame)
        pair.run(lambda: pair.client.wire.end is not None)
        end = pair.client.wire.end
        assert (end.kind, end.code, end.by_peer) == ("transport", code, True)
        assert end.frame_type == frame.type
        assert only(pair.server.events, ProtocolViolation).code == code

    @pytest.mark.parametrize(
        "second", [Stream(0, 3, b"x"), Stream(0, 0, b"a", fin=True), ResetStream(0, 1, 5), Stream(0, 5, b"", fin=True)]
    )
    def test_final_size(self, second: Any) -> None:
        pair = Pair().connect()
        # A gap holds the stream open, else it would be over and what comes late ignored.
        pair.client.wire.say(Stream(0, 1, b"bc", fin=True))
        pair.rest()
        pair.client.wire.say(second)
        pair.run(lambda: pair.client.wire.end is not None)
        assert pair.client.wire.end.code == ErrorCode.FINAL_SIZE_ERROR


def test_resets_and_stops() -> None:
    pair = Pair().connect()
    one, two = pair.client.wire.open_stream(), pair.client.wire.open_stream()
    for stream in (one, two):
        pair.client.wire.send_stream(stream, b"abc")
    pair.rest()
    pair.client.wire.reset_stream(one, 5)
    pair.server.wire.stop_sending(two, 6)
    pair.run(lambda: len(every(pair.server.events, StreamReset)) == 2)
    assert every(pair.server.events, StreamReset) == [StreamReset(one, 5, 3), StreamReset(two, 6, 3)]
    assert every(pair.client.events, StopSendingReceived) == [StopSendingReceived(two, 6)]
    with pytest.raises(QuicUsageError, match="over"):
        pair.client.wire.send_stream(one, b"more")


def test_higher_streams_open_lower_ones() -> None:
    pair = Pair().connect()
    pair.client.wire.say(Stream(8, 0, b"x"))
    pair.rest()
    pair.client.wire.say(Stream(0, 0, b"y"))
    pair.rest()
    assert every(pair.server.events, StreamOpened) == [StreamOpened(8), StreamOpened(0)]


def test_connection_ids() -> None:
    pair = Pair(server=usual_server(issue_ids=3)).connect()
    pair.rest()
    before = pair.client.wire.remote_id
    assert pair.client.wire.change_connection_id() != before
    number = pair.client.wire.ping()
    pair.run(lambda: PingAcknowledged(number) in pair.client.events)
    pair.run(lambda: frames(pair.server, RetireConnectionId) == [RetireConnectionId(0)])
    pair.rest()
    assert len(pair.server.wire.local_ids) == 4
    pair.server.wire.give_connection_ids(1)
    pair.run(lambda: pair.server.wire.end is not None)
    assert pair.server.wire.end.code == ErrorCode.CONNECTION_ID_LIMIT_ERROR


def test_empty_connection_ids() -> None:
    pair = Pair(usual_client(id_length=0)).connect()
    stream = pair.server.wire.open_stream()
    pair.server.wire.send_stream(stream, BULK, fin=True)
    pair.run(lambda: finished(pair.client, stream))


def test_path_challenge() -> None:
    """RFC 9000 section 8.2: answered, and both datagrams are as long as an Initial."""
    pair = Pair().connect()
    pair.rest()
    before = pair.client.wire.sizes_received[1200], pair.server.wire.sizes_received[1200]
    pair.client.wire.say(PathChallenge(b"8 octets"))
    pair.run(lambda: frames(pair.client, PathResponse) == [PathResponse(b"8 octets")])
    after = pair.client.wire.sizes_received[1200], pair.server.wire.sizes_received[1200]
    assert after == (before[0] + 1, before[1] + 1)


def test_hello_of_several_datagrams() -> None:
    filler = Extension(0x1A2B, bytes(3000))
    for seed in range(4):
        pair = Pair(usual_client(extra_extensions=(filler,)), seed=seed, reorder=1.0, loss=0.1).connect()
        assert only(pair.server.events, ClientHelloReceived).hello.extension(0x1A2B) == bytes(3000)


@pytest.mark.parametrize("message", [KeyUpdate(0), Bare(5), Bare(24, b"\x01"), Bare(99)], ids=lambda one: one.name)
def test_handshake_messages_that_do_not_exist_here(message: Any) -> None:
    """RFC 9001 sections 6 and 8.3: KeyUpdate and EndOfEarlyData are unexpected messages."""
    pair = Pair().connect()
    pair.rest()
    pair.client.wire.say_handshake(message)
    pair.run(lambda: pair.client.wire.end is not None)
    assert pair.client.wire.end.code == 0x10A


def test_inserted_handshake_octets() -> None:
    pair = Pair(usual_client(insert={"client_finished": lambda endpoint: Bare(5).encode()}))
    pair.run(lambda: pair.server.wire.end is not None)
    assert pair.server.wire.end.code == 0x10A
    assert "EndOfEarlyData" in only(pair.server.events, ProtocolViolation).what


def test_stateless_reset() -> None:
    """RFC 9000 section 10.3: by the token of the transport parameters, and by those of NEW_CONNECTION_ID."""
    for sequence in (0, 1):
        pair = Pair(server=usual_server(reset_token=b"0123456789abcdef")).connect()
        pair.rest()
        wire = pair.client.wire
        assert wire.receive(forge.stateless_reset(bytes(16), random.Random(1).randbytes), pair.now) == []
        token = pair.server.wire.local_tokens[sequence]
        pair.client.give(forge.stateless_reset(token, random.Random(1).randbytes), pair.now)
        assert wire.end == QuicEnd("reset")
        assert only(pair.client.events, Ended).end == wire.end
        assert wire.outgoing(pair.now) == []
        assert wire.timer() is None


def test_forged_initials() -> None:
    """Keys of Initials are no secret: what somebody else says in them is believed until the handshake has others."""
    pair = Pair()
    (first,) = pair.client.wire.outgoing(1.0)
    pair.server.wire.receive(forge.flipped(first, -1), 1.0)
    assert not pair.server.wire.began
    pair.server.wire.receive(first, 1.0)
    known = pair.client.wire.original_destination
    forged = forge.initial(
        [ConnectionClose(ErrorCode.CONNECTION_REFUSED)],
        destination=pair.client.wire.source_id,
        source=b"anybody",
        keyed_by=known,
        from_client=False,
        number=9,
    )
    assert len(forged) == 1200
    pair.client.give(forged, 1.0)
    assert pair.client.wire.end == QuicEnd("transport", ErrorCode.CONNECTION_REFUSED)
    later = Pair().connect()
    later.client.give(
        forge.initial(
            [ConnectionClose(ErrorCode.CONNECTION_REFUSED)],
            destination=later.client.wire.source_id,
            keyed_by=later.client.wire.original_destination,
            from_client=False,
        ),
        later.now,
    )
    assert later.client.wire.end is None


def test_idle_timeout() -> None:
    pair = Pair(usual_client(idle_timeout=2.0)).connect()
    pair.run(lambda: pair.client.wire.end is not None and pair.server.wire.end is not None)
    assert [end.kind for end in pair.ends] == ["idle", "idle"]
    assert pair.now == pytest.approx(3.0, abs=0.2)
    assert pair.client.wire.timer() is None


def test_closing_period() -> None:
    pair = Pair().connect()
    client = pair.client.wire
    client.close(1, "x" * 5000)
    client.close(2, "too late")
    assert len(client.outgoing(pair.now)) == 1
    with pytest.raises(QuicUsageError):
        pair.server.wire.send_stream(4, b"")
    for _ in range(16):
        pair.server.wire.ping()
        (datagram,) = pair.server.wire.outgoing(pair.now)
        client.receive(datagram, pair.now)
        client.outgoing(pair.now)
    assert sum(client.sizes_sent.values()) < 16
    assert client.timer() is not None
    client.expire(pair.now + 10)
    assert client.over
    assert client.timer() is None


def test_close_during_the_handshake_hides_the_application_code() -> None:
    pair = Pair()
    (initial,) = pair.client.wire.outgoing(1.0)
    pair.server.wire.receive(initial, 1.0)
    pair.server.wire.close(77, "secret")
    for datagram in pair.server.wire.outgoing(1.0):
        pair.client.wire.receive(datagram, 1.0)
    assert pair.client.wire.end == QuicEnd("transport", ErrorCode.APPLICATION_ERROR)


def test_amplification_limit() -> None:
    chain = tls_pki.identity("a.t.x")
    big = dataclasses.replace(chain, chain=chain.chain * 12)
    for limit in (True, False):
        server = QuicServer(usual_server(identity=big, limit_amplification=limit))
        server.receive(QuicClient(usual_client()).outgoing(1.0)[0], 1.0)
        sent = sum(len(datagram) for datagram in server.outgoing(1.0))
        assert (sent <= 3600) == limit
        assert server.handshake is None
    pair = Pair(server=usual_server(identity=big), loss=0.1, seed=4).connect()
    assert pair.client.wire.handshake is not None
