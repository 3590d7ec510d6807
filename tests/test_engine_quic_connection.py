"""The engine's QUIC connections, packet by packet against stock ones, on a clock of the test."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicTransportParameters, push_quic_transport_parameters
from aioquic.tls import AlertDescription

from reference_engine.quic.configuration import server_configuration
from reference_engine.quic.connection import Choice, EngineQuic, HelloSeen, QuicEnd, StreamGone, Windows
from tests.engine_quic_support import HOP, alert_code, client_configuration
from tests.engine_tls_support import self_signed

CERTIFICATE = self_signed("a.test")
SMALL = Windows(stream=16_384, connection=65_536, streams_bidi=4, streams_uni=2, datagrams=3)


class Net:
    """Both ends, and a clock that moves by a millisecond per turn."""

    def __init__(self, *alpns: str, windows: Windows = SMALL, most_hello: int = 65_536, **options: Any) -> None:
        self.now = 0.0
        self.client = QuicConnection(configuration=client_configuration("a.test", *alpns, **options))
        self.client.connect(HOP, now=self.now)
        self.server = EngineQuic(
            configuration=server_configuration(CERTIFICATE, windows, idle=30.0),
            windows=windows,
            most_hello=most_hello,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        self.told: list[events.QuicEvent] = []
        self.seen: list[events.QuicEvent] = []
        self.sizes: list[int] = []

    def turn(self, times: int = 1) -> None:
        """Each side sends once and hears once."""
        for _ in range(times):
            self.now += 0.001
            for source, sink in ((self.client, self.server), (self.server, self.client)):
                due = source.get_timer() if source.get_peer_address() else None
                if due is not None and due <= self.now:
                    source.handle_timer(now=self.now)
                if source.get_peer_address() is not None:
                    for packet, _ in source.datagrams_to_send(now=self.now):
                        if source is self.server:
                            self.sizes.append(len(packet))
                        sink.receive_datagram(packet, HOP, now=self.now)
            for end, log in ((self.server, self.told), (self.client, self.seen)):
                while (event := end.next_event()) is not None:
                    log.append(event)

    def settle(self, turns: int = 400) -> None:
        self.turn(turns)

    def connect(self, **choice: Any) -> None:
        self.turn()
        self.server.answer(Choice(CERTIFICATE, ("x",), **choice))
        self.turn(40)
        assert self.server.handshake_complete
        assert any(isinstance(one, events.HandshakeCompleted) for one in self.seen)

    def got(self, kind: type[Any], log: list[events.QuicEvent] | None = None) -> list[Any]:
        return [event for event in (self.told if log is None else log) if isinstance(event, kind)]


# -- the ClientHello ---------------------------------------------------------------------------------------------------


def test_a_hello_is_held_until_it_is_answered() -> None:
    net = Net("x", "y")
    net.turn(30)
    (seen,) = net.got(HelloSeen)
    assert (seen.hello.server_name, seen.hello.alpns) == ("a.test", ("x", "y"))
    assert net.got(events.ProtocolNegotiated, net.seen) == []
    net.server.answer(Choice(CERTIFICATE, ("y",)))
    net.turn(40)
    assert [event.alpn_protocol for event in net.got(events.HandshakeCompleted, net.seen)] == ["y"]
    assert net.server.alpn == "y"


def test_what_is_held_is_acknowledged_and_stays_within_three_times() -> None:
    net = Net("x")
    net.turn(2_000)
    assert net.sizes
    assert sum(net.sizes) <= 3 * 1_200


@pytest.mark.parametrize("offer", [(), ("z",)], ids=["none", "another"])
def test_nothing_in_common_is_no_application_protocol(offer: tuple[str, ...]) -> None:
    net = Net(*offer)
    net.turn()
    net.server.answer(Choice(CERTIFICATE, ("x",)))
    net.settle()
    (over,) = net.got(events.ConnectionTerminated, net.seen)
    assert over.error_code == alert_code(AlertDescription.no_application_protocol) == 0x178


def test_a_refusal_is_a_crypto_error() -> None:
    net = Net("x")
    net.turn()
    net.server.refuse(112, "no tunnel")
    net.settle()
    (over,) = net.got(events.ConnectionTerminated, net.seen)
    assert (over.error_code, over.reason_phrase) == (0x170, "no tunnel")
    assert net.server.end == QuicEnd("self", False, 0x170, "no tunnel", 6)


def test_a_hello_has_a_bound() -> None:
    net = Net(*(f"{number:0200}" for number in range(4)), most_hello=600)
    net.turn(20)
    assert net.got(HelloSeen) == []
    assert net.server.end is not None
    assert net.server.end.code == alert_code(AlertDescription.illegal_parameter)


def test_a_client_certificate_is_asked_for_after_the_hello() -> None:
    net = Net("x", certificate=CERTIFICATE.chain[0], private_key=CERTIFICATE.key)
    net.connect(request_certificate=True)
    assert len(net.server.peer_chain) == 1
    net = Net("x")
    net.connect(request_certificate=True)
    assert net.server.peer_chain == ()


def test_windows_can_be_chosen_with_the_answer() -> None:
    net = Net("x")
    net.connect(windows=Windows(stream=1_000, connection=2_000, streams_bidi=9, streams_uni=1), packet=1_300)
    limits = net.client
    assert (limits._remote_max_data, limits._remote_max_stream_data_uni) == (2_000, 1_000)
    assert (limits._remote_max_streams_bidi, limits._remote_max_streams_uni) == (9, 1)
    assert net.server.datagram_room == 1_300 - 27 - 3


@pytest.mark.parametrize(("asked", "effective"), [(0.0, 30.0), (5.0, 5.0), (60.0, 30.0)])
def test_the_idle_timeout_is_the_smaller_one_and_zero_is_none(asked: float, effective: float) -> None:
    net = Net("x", idle_timeout=asked)
    net.client._configuration.idle_timeout = 60.0  # What it lives by; what it has said is on its way.
    net.connect()
    assert net.server.idle_timeout == effective


def test_the_exponent_of_acknowledgement_delays_is_the_peers() -> None:
    net = Net("x")
    told = QuicTransportParameters(ack_delay_exponent=7, initial_source_connection_id=net.client.host_cid)
    buffer = Buffer(capacity=200)
    push_quic_transport_parameters(buffer, told)
    net.connect()
    net.server._parse_transport_parameters(buffer.data)
    assert net.server._remote_ack_delay_exponent == 7


def test_packets_are_not_longer_than_the_peer_takes() -> None:
    net = Net("x")
    told = QuicTransportParameters(max_udp_payload_size=1_250, initial_source_connection_id=net.client.host_cid)
    buffer = Buffer(capacity=200)
    push_quic_transport_parameters(buffer, told)
    net.connect(packet=1_350)
    assert net.server.datagram_room == 1_350 - 30
    net.server._parse_transport_parameters(buffer.data)
    assert net.server._max_datagram_size == 1_250


# -- credit ------------------------------------------------------------------------------------------------------------


def test_a_stream_arrives_up_to_its_window_and_goes_on_with_consumption() -> None:
    net = Net("x")
    net.connect()
    net.client.send_stream_data(0, bytes(100_000))
    net.settle()
    arrived = sum(len(event.data) for event in net.got(events.StreamDataReceived))
    assert arrived == SMALL.stream
    assert net.server.consume(0, arrived)
    net.settle()
    assert sum(len(event.data) for event in net.got(events.StreamDataReceived)) == 2 * SMALL.stream


def test_all_streams_together_arrive_up_to_the_window_of_the_connection() -> None:
    windows = Windows(stream=16_384, connection=20_000, streams_bidi=4)
    net = Net("x", windows=windows)
    net.connect()
    for number in (0, 4, 8):
        net.client.send_stream_data(number, bytes(16_000))
    net.settle()
    taken: dict[int, int] = {}
    for event in net.got(events.StreamDataReceived):
        taken[event.stream_id] = taken.get(event.stream_id, 0) + len(event.data)
    assert sum(taken.values()) == 20_000
    for number, octets in taken.items():
        net.server.consume(number, octets)
    net.settle()
    assert sum(len(event.data) for event in net.got(events.StreamDataReceived)) == 40_000


def test_a_reset_gives_back_what_will_never_be_read() -> None:
    net = Net("x", windows=Windows(stream=16_384, connection=20_000))
    net.connect()
    for number in range(0, 40, 4):
        net.client.send_stream_data(number, bytes(9_000))
        net.settle(60)
        net.client.reset_stream(number, 7)
        net.settle(60)
        net.server.settle(number)
        net.server.reset_stream(number, 7)
        net.settle(60)
    assert len(net.got(events.StreamReset)) == 10


def test_streams_are_allowed_again_only_when_they_are_released() -> None:
    net = Net("x")
    net.connect()
    for number in range(0, 4 * 6, 4):
        net.client.send_stream_data(number, b"x", end_stream=True)
    net.settle()
    assert {event.stream_id for event in net.got(events.StreamDataReceived)} == {0, 4, 8, 12}
    for number in (0, 4, 8, 12):
        net.server.send_stream_data(number, b"", end_stream=True)
    net.settle()
    assert {event.stream_id for event in net.got(StreamGone)} == {0, 4, 8, 12}
    assert {event.stream_id for event in net.got(events.StreamDataReceived)} == {0, 4, 8, 12}
    for number in (0, 4, 8, 12):
        net.server.release_stream(number)
    net.settle()
    assert {event.stream_id for event in net.got(events.StreamDataReceived)} == {0, 4, 8, 12, 16, 20}


def test_a_backlog_is_what_is_not_acknowledged() -> None:
    net = Net("x", max_stream_data=5_000)
    net.connect()
    net.client.send_stream_data(0, b"x")
    net.settle()
    net.server.send_stream_data(0, bytes(30_000))
    net.turn(1)
    assert net.server.backlog(0) == 30_000
    net.settle()
    assert net.server.backlog(0) < 30_000
    assert net.server.may_send(0)
    net.server.reset_stream(0, 1)
    assert (net.server.backlog(0), net.server.may_send(0), net.server.may_send(4)) == (0, False, False)


# -- datagrams ---------------------------------------------------------------------------------------------------------


def test_a_datagram_that_does_not_fit_is_dropped_and_blocks_nothing() -> None:
    net = Net("x")
    net.connect()
    room = net.server.datagram_room
    assert room == 1_200 - 27 - 3
    taken = [net.server.queue_datagram(bytes(size)) for size in (room + 1, room, 2_000)]
    net.settle()
    assert taken == [False, True, False]
    assert [len(event.data) for event in net.got(events.DatagramFrameReceived, net.seen)] == [room]
    assert (net.server.dropped, net.server.datagrams_queued) == (2, 0)


def test_the_peers_limit_counts_type_and_length() -> None:
    net = Net("x", max_datagram_frame_size=200)
    net.connect()
    assert net.server.datagram_room == 197
    assert [net.server.queue_datagram(bytes(size)) for size in (198, 197)] == [False, True]
    net.settle()
    assert [len(event.data) for event in net.got(events.DatagramFrameReceived, net.seen)] == [197]


def test_a_peer_that_wants_no_datagrams_gets_none() -> None:
    net = Net("x", max_datagram_frame_size=None)
    net.connect()
    assert not net.server.queue_datagram(b"")
    net.settle()
    assert net.server.end is None


def test_the_queue_of_datagrams_is_bounded() -> None:
    net = Net("x")
    net.connect()
    assert [net.server.queue_datagram(b"x") for _ in range(5)] == [True, True, True, False, False]
    net.settle()
    assert net.server.dropped == 2
    assert net.server.queue_datagram(b"x")


def test_datagrams_without_end_and_streams_take_turns() -> None:
    """Ten packets at a time may fly at first; the queue is never empty, and neither is the stream."""
    windows = Windows(stream=1 << 20, connection=1 << 20, datagrams=100)
    net = Net("x", windows=windows, max_stream_data=1 << 20)
    net.connect()
    net.client.send_stream_data(0, b"hello")
    net.settle(10)
    net.server.send_stream_data(0, bytes(100_000), end_stream=True)
    sent = 0
    while not any(event.end_stream for event in net.got(events.StreamDataReceived, net.seen)):
        while net.server.queue_datagram(sent.to_bytes(4, "big") * 250):
            sent += 1
        net.turn()
    arrived = len(net.got(events.DatagramFrameReceived, net.seen))
    # A packet each in turn: 100,000 octets are some 86 packets.
    assert 60 <= arrived <= 120
    net.settle(500)
    assert [event.data[:4] for event in net.got(events.DatagramFrameReceived, net.seen)] == [
        number.to_bytes(4, "big") for number in range(sent)
    ]


@pytest.mark.parametrize("blocked", ["stream", "connection"])
def test_a_stream_without_credit_does_not_hold_up_datagrams(blocked: str) -> None:
    window = {"max_stream_data" if blocked == "stream" else "max_data": 2_000}
    net = Net("x", windows=Windows(datagrams=100), **window)
    for name in ("_write_connection_limits", "_write_stream_limits"):
        setattr(net.client, name, lambda **_: None)
    net.connect()
    net.client.send_stream_data(0, b"hello")
    net.settle(10)
    net.server.send_stream_data(0, bytes(5_000), end_stream=True)
    net.settle(10)
    for _ in range(50):
        assert net.server.queue_datagram(bytes(1_000))
    net.settle(20)
    assert len(net.got(events.DatagramFrameReceived, net.seen)) == 50
    assert sum(len(event.data) for event in net.got(events.StreamDataReceived, net.seen)) == 2_000


@pytest.mark.parametrize(("limit", "room"), [(0, -2), (2, 0), (65, 63), (66, 63), (67, 64), (1_000, 997)])
def test_the_length_of_a_datagram_takes_its_octets(limit: int, room: int) -> None:
    net = Net("x", max_datagram_frame_size=limit)
    net.connect()
    assert net.server.datagram_room == room


# -- ends --------------------------------------------------------------------------------------------------------------


def test_who_ended_it_is_told_apart() -> None:
    net = Net("x")
    net.connect()
    net.client.close(42, None, "bye")
    net.turn()
    assert net.server.end == QuicEnd("peer", True, 42, "bye", None)

    net = Net("x")
    net.connect()
    net.client.close(1, 0, "broken")
    net.turn()
    assert net.server.end == QuicEnd("peer", False, 1, "broken", 0)

    net = Net("x")
    net.connect()
    net.server.close(7, None, "ours")
    assert net.server.end == QuicEnd("self", True, 7, "ours", None)

    net = Net("x")
    net.connect()
    net.server.handle_timer(now=net.now + 31)
    assert net.server.end is not None
    assert net.server.end.by == "idle"
    assert net.server.terminated


def test_a_long_reason_is_cut_to_what_fits() -> None:
    net = Net("x")
    net.connect()
    net.server.close(7, None, "\u20ac" * 5_000)
    net.settle()
    (over,) = net.got(events.ConnectionTerminated, net.seen)
    assert over.error_code == 7
    assert over.reason_phrase == "\u20ac" * 300
    net = Net("x")
    net.turn()
    net.server.answer(Choice(CERTIFICATE, ("x",)))
    net.server.close(7, 0, "y" * 5_000)
    net.settle()
    (over,) = net.got(events.ConnectionTerminated, net.seen)
    assert over.reason_phrase == "y" * 200


def test_a_stateless_reset_is_an_end() -> None:
    net = Net("x")
    net.connect()
    token = net.server._peer_cid_available[0].stateless_reset_token
    ends = []
    for tail in (bytes(16), token):
        net.server.receive_datagram(bytes([0x40]) + bytes(20) + tail, HOP, now=net.now)
        ends.append(net.server.end.by if net.server.end is not None else None)
    assert ends == [None, "reset"]
