"""The public UDP port: what is told apart, what is answered, who is served, and what is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import FrameReader, encode
from reference_engine.config import ConfigError, Settings
from reference_engine.edge.udp_listener import UdpListener
from reference_engine.engine import Engine, running
from reference_engine.quic.rules import Kind, QuicRules
from reference_engine.relay.stream import Address
from tests.engine_agent_support import opening
from tests.engine_quic_support import (
    DOMAIN,
    HOP,
    Stock,
    client_configuration,
    quic_engine,
    raw_socket,
    run,
    udp_client,
    until,
)

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


def port(engine: Engine) -> UdpListener:
    assert engine.quic is not None
    return engine.quic


def first_flight(*alpns: str, name: str = DOMAIN, **options: Any) -> tuple[QuicConnection, list[bytes]]:
    """A stock client and its first packets."""
    client = QuicConnection(configuration=client_configuration(name, *alpns, **options))
    client.connect(HOP, now=0.0)
    return client, [packet for packet, _ in client.datagrams_to_send(now=0.0)]


async def answers(raw: socket.socket, *, expected: int = 0, seconds: float = 0.3) -> list[bytes]:
    """What comes: the expected ones, however long that takes, and then everything until nothing came for a while."""
    loop = asyncio.get_running_loop()
    got = [await loop.sock_recv(raw, 65_535) for _ in range(expected)]
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(seconds):
                got.append(await loop.sock_recv(raw, 65_535))
    return got


# -- what a datagram is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        *((first, Kind.JUNK) for first in (0, 3, 19)),
        *((first, Kind.DTLS) for first in (20, 22, 63)),
        *((first, Kind.QUIC) for first in (64, 79, 127, 128, 192, 255)),
    ],
)
def test_the_first_octet_tells(first: int, kind: Kind) -> None:
    assert QuicRules().kind(bytes([first]) + bytes(20)) is kind
    assert QuicRules().kind(b"") is Kind.JUNK


def test_dtls_and_junk_are_dropped_and_counted() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp):
            with raw_socket() as raw:
                for first in (22, 63, 0, 16, 70, 200):
                    raw.sendto(bytes([first]) + os.urandom(40), (udp.host, udp.port))
                raw.sendto(b"", (udp.host, udp.port))
                assert await answers(raw) == []
            counts = port(engine).counts
            assert (counts["dtls"], counts["junk"], counts["unknown"]) == (2, 3, 2)
            assert port(engine).connections == ()

    run(main())


# -- agents ------------------------------------------------------------------------------------------------------------


async def control(client: Stock) -> pb.Message:
    """Open a control channel on the first stream; its answer."""
    number = client.open(encode(opening()))

    def answer() -> pb.Message | None:
        # The answer may come in pieces: an address that is not validated yet limits what the engine may send.
        frames = FrameReader()
        frames.feed(client.got(number))
        return frames.next()

    await client.until(lambda: answer() or client.over)
    message = answer()
    assert message is not None
    return message


@pytest.mark.parametrize("version", [V1, V2])
def test_an_agent_opens_a_control_channel_on_a_stream(version: int) -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp):
            configuration = client_configuration(DOMAIN, "rstrm/1", original_version=version)
            configuration.supported_versions = [version]
            async with udp_client(udp, configuration) as client:
                await client.connected()
                assert (await control(client)).open_control_channel_rsp.HasField("ok")
                assert len(engine.agents.channels()) == 1
                assert client.quic._version == version
                client.close(0, "done")
                await client.finished()
            await until(lambda: not engine.agents.channels())

    run(main())


def test_the_engine_tells_its_agents_when_it_stops() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp), udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
            await client.connected()
            await control(client)
            await engine.stop(1)
            over = await client.finished()
            assert (over.error_code, over.frame_type) == (0, 0)
            assert 0 in client.ended

    run(main())


def test_the_certificate_is_the_edges_own() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp):
            configuration = client_configuration(DOMAIN, "rstrm/1", verify_mode=None)
            configuration.load_verify_locations(cafile=str(engine.certificates.ca_file))
            async with udp_client(udp, configuration) as client:
                await client.connected()

    run(main())


@pytest.mark.parametrize(
    ("name", "alpns", "code"),
    [
        (f"nobody.t.{DOMAIN}", ("foo",), 0x170),
        (f"nobody.t.{DOMAIN}", ("rstrm/1",), 0x170),
        (DOMAIN, ("foo",), 0x170),
        (None, (), 0x170),
        (None, ("rstrm/1",), None),
    ],
)
def test_what_belongs_to_nobody_is_refused(name: str | None, alpns: tuple[str, ...], code: int | None) -> None:
    async def main() -> None:
        async with quic_engine() as (_, udp), udp_client(udp, client_configuration(name, *alpns)) as client:
            if code is None:
                await client.connected()
            else:
                assert (await client.finished()).error_code == code

    run(main())


# -- before an address is proven ---------------------------------------------------------------------------------------


def test_an_unknown_version_is_negotiated() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp):
            with raw_socket() as raw:
                packet = bytes([0xC0]) + bytes.fromhex("1a2a3a4a") + b"\x08" + b"D" * 8 + b"\x05" + b"S" * 5
                raw.sendto(packet.ljust(1_200, b"\0"), (udp.host, udp.port))
                raw.sendto(packet.ljust(1_199, b"\0"), (udp.host, udp.port))
                (answer,) = await answers(raw, expected=1)
            header = pull_quic_header(Buffer(data=answer))
            assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
            assert (header.destination_cid, header.source_cid) == (b"S" * 5, b"D" * 8)
            assert header.supported_versions == [V1, V2]
            assert port(engine).connections == ()

    run(main())


def test_an_initial_that_is_small_or_forged_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp):
            _, (packet, *_) = first_flight("rstrm/1")
            forged = packet[:-1] + bytes([packet[-1] ^ 1])
            with raw_socket() as raw:
                # The packet ends before the padding of the datagram does.
                for one in (packet[:1_100], forged[:40] + os.urandom(len(forged) - 40)):
                    raw.sendto(one, (udp.host, udp.port))
                assert await answers(raw) == []
            assert port(engine).connections == ()
            assert port(engine).unfinished == 0

    run(main())


def test_a_silent_client_gets_at_most_three_times_what_it_sent() -> None:
    async def main() -> None:
        async with quic_engine(handshake_timeout_ms=700) as (engine, udp):
            _, packets = first_flight("rstrm/1")
            with raw_socket() as raw:
                for packet in packets:
                    raw.sendto(packet, (udp.host, udp.port))
                got = await answers(raw, expected=1, seconds=1.0)
                assert sum(map(len, got)) <= 3 * sum(map(len, packets))
            await until(lambda: not port(engine).unfinished)

    run(main())


def test_under_load_an_address_is_proven_with_retry() -> None:
    async def main() -> None:
        async with quic_engine(quic_retry_above=0) as (engine, udp):
            async with udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
                await client.connected()
                assert client.quic._retry_count == 1
            counts = port(engine).counts
            assert (counts["retry"], counts["invalid token"]) == (1, 0)
            async with udp_client(udp, client_configuration(DOMAIN, "rstrm/1", token=b"forged" * 10)) as client:
                await client.until(lambda: counts["invalid token"] or client.over)
                assert client.alpn is None

    run(main())


def test_without_load_a_token_that_proves_nothing_does_no_harm() -> None:
    async def main() -> None:
        configuration = client_configuration(DOMAIN, "rstrm/1", token=b"forged" * 10)
        async with quic_engine() as (_, udp), udp_client(udp, configuration) as client:
            await client.connected()

    run(main())


def test_unfinished_handshakes_are_bounded_and_make_room_when_they_end() -> None:
    async def main() -> None:
        async with quic_engine(quic_max_unfinished=3) as (engine, udp):
            with raw_socket() as raw:
                for _ in range(6):
                    for packet in first_flight("rstrm/1")[1]:
                        raw.sendto(packet, (udp.host, udp.port))
                await until(lambda: port(engine).counts["refused"] >= 3)
                assert len(port(engine).connections) == 3
                for transport in port(engine).connections:
                    transport.drop()
                assert port(engine).unfinished == 0
            async with udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
                await client.connected()

    run(main())


# -- a connection ------------------------------------------------------------------------------------------------------


def test_a_client_whose_address_changes_goes_on() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp), udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
            await client.connected()
            await client.ping()
            loop = asyncio.get_running_loop()
            with raw_socket() as raw:
                client._send = lambda packet, hop: raw.sendto(packet, hop) and None
                loop.add_reader(raw.fileno(), lambda: client.receive(raw.recv(65_535), (udp.host, udp.port)))
                try:
                    assert (await control(client)).open_control_channel_rsp.HasField("ok")
                    await client.ping()
                    (transport,) = port(engine).connections
                    assert transport.connection.get_peer_address() == raw.getsockname()
                    await until(lambda: transport.connection._network_paths[0].is_validated)
                finally:
                    loop.remove_reader(raw.fileno())

    run(main())


def test_a_packet_from_elsewhere_that_nobody_stands_behind_changes_nothing_for_long() -> None:
    """RFC 9000 section 9.3.2: what another address does not prove goes back to the address that was proven."""

    async def main() -> None:
        async with quic_engine() as (engine, udp), udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
            await client.connected()
            await client.ping()
            (transport,) = port(engine).connections
            known = transport.connection.get_peer_address()
            send = client._send
            with raw_socket() as raw:
                client._send = lambda packet, hop: raw.sendto(packet, hop) and None
                client.quic.send_ping(1_000)
                client.transmit()
                client._send = send
                await until(lambda: transport.connection.get_peer_address() == raw.getsockname())
                await until(lambda: transport.connection.get_peer_address() == known)
            assert (await control(client)).open_control_channel_rsp.HasField("ok")

    run(main())


def test_packets_of_no_connection_are_dropped() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp), udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
            await client.connected()
            own = port(engine).connections[0].connection.own_cids[0]
            with raw_socket() as raw:
                for cid in (own, os.urandom(8)):
                    raw.sendto(b"\x40" + cid + os.urandom(60), (udp.host, udp.port))
                    raw.sendto(b"\xe0\0\0\0\x01\x08" + cid + b"\x00\x40\x32" + os.urandom(50), (udp.host, udp.port))
                assert await answers(raw) == []
            await client.ping()
            assert client.over is None
            assert len(port(engine).connections) == 1

    run(main())


def test_ids_follow_the_connection() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp), udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
            await client.connected()
            await client.ping()
            listener = port(engine)
            client.quic.change_connection_id()
            await client.ping()
            await client.ping()
            (transport,) = listener.connections
            assert set(transport.connection.own_cids) <= set(listener._by_cid)
            client.close()
            await client.finished()
            await until(lambda: not listener.connections)
            assert listener._by_cid == {}

    run(main())


def test_a_close_that_was_lost_is_said_again() -> None:
    async def main() -> None:
        async with quic_engine() as (engine, udp), udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
            await client.connected()
            await client.ping()
            (transport,) = port(engine).connections
            received, client.receive = client.receive, lambda *_: None  # type: ignore[method-assign]
            transport.close(9, "lost")
            transport.flush()
            await asyncio.sleep(0)
            client.receive = received  # type: ignore[method-assign]
            client.open(b"anybody there?")
            assert (await client.finished()).error_code == 9

    run(main())


# -- settings ----------------------------------------------------------------------------------------------------------


def test_the_port_is_off_unless_asked_for() -> None:
    async def main() -> None:
        async with running(Settings(listen=Address("127.0.0.1", 0))) as (engine, ready):
            assert (ready.udp, ready.as_json()["udp"], engine.udp) == (None, None, False)
        async with quic_engine() as (engine, udp):
            assert udp.port > 0
            assert engine.udp

    run(main())


@pytest.mark.parametrize("retry", [False, True])
def test_the_port_may_be_one_of_ipv6(retry: bool) -> None:
    async def main() -> None:
        address = Address("::1", 0)
        async with quic_engine(udp_listen=address, quic_retry_above=0 if retry else 64) as (engine, udp):
            assert udp.host == "::1"
            async with udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
                await client.connected()
                assert client.quic._retry_count == retry
                (transport,) = port(engine).connections
                assert transport.peer is not None
                assert transport.peer.host == "::1"

    run(main())


def test_a_port_that_is_taken_is_one_line() -> None:
    async def main() -> None:
        with raw_socket() as raw:
            taken = Address(*raw.getsockname())
            with pytest.raises(ConfigError, match=rf"udp_listen: cannot listen on {taken}: Address already in use"):
                async with quic_engine(udp_listen=taken):
                    pass

    run(main())


def test_events_that_nobody_expects_do_no_harm() -> None:
    async def main() -> None:
        async with quic_engine() as (_, udp), udp_client(udp, client_configuration(DOMAIN, "rstrm/1")) as client:
            await client.connected()
            client.datagram(b"x" * 500)
            await client.ping()
            assert any(isinstance(event, events.PingAcknowledged) for event in client.seen)

    run(main())
