"""Raw QUIC tunnels, end to end: a stock client at the public port, a stock server behind the datagram channel."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import pytest
from aioquic.quic.packet import QuicProtocolVersion

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.quic.tunnel import Legs
from reference_engine.relay.stream import Address
from reference_engine.tls.certificates import load_certificate, make_certificates
from tests.engine_quic_support import (
    MemoryChannel,
    client_configuration,
    every_leg,
    quic_site,
    run,
    server_side,
    sides,
    udp_client,
    until,
)

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


# -- application protocols ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "speaks", "offers", "client", "upstream"),
    [
        pytest.param(("a", "b"), ("b",), ("x", "b"), "b", ["b"], id="list: the result alone"),
        pytest.param(("a", "b"), ("a", "b"), ("b", "a"), "a", ["a"], id="list: its order counts"),
        pytest.param((), ("foo",), ("foo",), "foo", ["foo"], id="no list: preserved"),
        pytest.param((), ("bar", "foo"), ("foo", "bar"), "bar", ["foo", "bar"], id="no list: upstream chooses"),
        pytest.param((), ("bar",), ("foo", "bar", "baz"), "bar", ["foo", "bar", "baz"], id="no list: the one it has"),
    ],
)
def test_both_legs_speak_one_protocol(
    listed: tuple[str, ...], speaks: tuple[str, ...], offers: tuple[str, ...], client: str, upstream: list[str]
) -> None:
    async def main() -> None:
        async with quic_site(*speaks, listed=listed) as site, site.client(*offers) as peer:
            await peer.connected()
            server = await site.upstream()
            assert (peer.alpn, server.alpn) == (client, client)
            assert server.hello is not None
            assert (server.hello.alpn_protocols, server.hello.server_name) == (upstream, site.name)
            number = peer.open(b"ping")
            await server.until(lambda: server.got(number) == b"ping")

    run(main())


@pytest.mark.parametrize(
    ("listed", "offers"), [((), ()), (("a",), ()), (("a",), ("zzz",))], ids=["none", "none with a list", "no match"]
)
def test_without_a_common_protocol_the_upstream_hears_nothing(listed: tuple[str, ...], offers: tuple[str, ...]) -> None:
    async def main() -> None:
        async with quic_site("a", listed=listed) as site, site.client(*offers) as peer:
            over = await peer.finished()
            assert (over.error_code, over.frame_type) == (0x178, 6)
            assert site.sources == []

    run(main())


@pytest.mark.parametrize("offers", [("foo",), ("foo", "bar")])
def test_an_upstream_that_speaks_none_of_it_ends_the_client(offers: tuple[str, ...]) -> None:
    async def main() -> None:
        async with quic_site("other") as site, site.client(*offers) as peer:
            assert (await peer.finished()).error_code == 0x178
            assert peer.alpn is None or len(offers) == 1
            assert len(site.upstreams) == 1
            await until(lambda: not site.tunnel.sessions)

    run(main())


def test_a_client_that_waits_for_the_upstream_gets_no_answer_before() -> None:
    async def main() -> None:
        async with quic_site("bar", "foo") as site:
            held: list[bytes] = []
            site.lose = lambda packet: not held.append(packet)  # type: ignore[func-returns-value]
            async with site.client("foo", "bar") as peer:
                await until(lambda: len(held) >= 2)
                assert peer.alpn is None
                assert not site.upstreams[0].there
            assert site.engine.quic is not None
            assert site.engine.quic.unfinished == 1

    run(main())


def test_a_client_that_waits_is_bounded_in_time() -> None:
    async def main() -> None:
        async with quic_site("bar", "foo", handshake_timeout_ms=300) as site:
            site.lose = lambda packet: True
            async with site.client("foo", "bar") as peer:
                over = await peer.finished()
                assert over.error_code == 2
            await until(lambda: not site.tunnel.sessions)

    run(main())


@pytest.mark.parametrize("offers", [("x",), ("x", "y")], ids=["answered", "held"])
def test_without_an_agent_the_client_is_refused(offers: tuple[str, ...]) -> None:
    async def main() -> None:
        async with quic_site("x") as site:
            site.unavailable = UpstreamUnavailable("agent-gone", "no agent")
            async with site.client(*offers) as peer:
                over = await peer.finished()
                assert (over.error_code, over.reason_phrase) == (2, "no connection to the upstream")
            assert not site.tunnel.sessions

    run(main())


def test_the_agent_is_told_the_source_and_the_upstream_only_after_the_client_is_real() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.client("x") as peer:
            assert site.sources == []
            await peer.connected()
            await site.upstream()
            (source,) = site.sources
            assert source is not None
            assert source.host == "127.0.0.1"
            assert source.port > 0

    run(main())


# -- what the upstream sees --------------------------------------------------------------------------------------------


def test_the_upstream_connection_is_one_of_its_own_with_packets_of_1200() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            assert len(server.first) == 1_200
            assert server.quic._peer_cid.cid not in [cid.cid for cid in client.quic._host_cids]
            number = client.open(os.urandom(100_000), end=True)
            await server.until(lambda: number in server.ended)
            assert max(server.channel.far.sent) == 1_200

    run(main())


@pytest.mark.parametrize("version", [V1, V2])
def test_both_versions_on_both_legs(version: int) -> None:
    async def main() -> None:
        configuration = server_side("x")
        configuration.supported_versions = [version, V1]
        async with (
            quic_site(upstream=configuration) as site,
            site.pair(supported_versions=[version]) as (client, server),
        ):
            assert client.quic._version == version
            number = client.open(b"hello")
            await server.until(lambda: server.got(number) == b"hello")

    run(main())


@pytest.mark.parametrize("right", [True, False])
def test_the_upstreams_certificate_is_verified_where_asked(right: bool, tmp_path: Any) -> None:
    async def main() -> None:
        files = make_certificates(tmp_path, "upstream.test", ("q.t.edge.test" if right else "other.test",))
        shown = load_certificate(*files)
        configuration = server_side("x", certificate=shown.chain[0], private_key=shown.key)
        verifying = {"upstream_verify": True, "upstream_ca_file": tmp_path / "ca.pem"}
        async with quic_site(upstream=configuration, **verifying) as site, site.client("x") as client:
            if right:
                await client.connected()
                await site.upstream()
            else:
                assert (await client.finished()).error_code == 2
                over = await site.upstreams[0].finished()
                assert over.error_code == 0x12A
                assert site.upstreams[0].data == {}

    run(main())


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
@pytest.mark.parametrize("unidirectional", [False, True], ids=["bidi", "uni"])
def test_all_four_kinds_are_relayed(by_client: bool, unidirectional: bool) -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as pair:
            opener, other = sides(pair, by_client)
            payload = os.urandom(200_000)
            number = opener.open(payload, end=True, unidirectional=unidirectional)
            await other.until(lambda: number in other.ended)
            assert bytes(other.data[number]) == payload
            if not unidirectional:
                other.write(number, payload[::-1], end=True)
                await opener.until(lambda: number in opener.ended)
                assert bytes(opener.data[number]) == payload[::-1]

    run(main())


def test_a_stream_that_comes_before_those_below_it_keeps_its_number() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            for number in (0, 4, 8, 2, 6):
                client.quic.send_stream_data(number, b"")
            client.write(8, b"eight", end=True)
            client.write(6, b"six", end=True)
            await server.until(lambda: {8, 6} <= server.ended)
            assert (server.got(8), server.got(6)) == (b"eight", b"six")
            for number, data in ((0, b"zero"), (4, b"four"), (2, b"two")):
                client.write(number, data, end=True)
            await server.until(lambda: {0, 2, 4} <= server.ended)
            assert [server.got(number) for number in (0, 4, 2)] == [b"zero", b"four", b"two"]

    run(main())


def test_many_streams_at_once_arrive_each_for_itself() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            sent = {client.open(bytes([number]) * 5_000, end=True): bytes([number]) * 5_000 for number in range(64)}
            await server.until(lambda: len(server.ended) == 64)
            assert {number: bytes(data) for number, data in server.data.items()} == sent
            for number, data in server.data.items():
                server.write(number, hashlib.sha256(data).digest(), end=True)
            await client.until(lambda: len(client.ended) == 64)
            assert {number: bytes(data) for number, data in client.data.items()} == {
                number: hashlib.sha256(data).digest() for number, data in sent.items()
            }

    run(main())


def test_more_streams_than_are_allowed_at_once_follow_each_other() -> None:
    async def main() -> None:
        async with quic_site("x", quic_max_streams=4) as site, site.pair() as (client, server):
            for _ in range(20):
                client.open(b"x", end=True)
            for expected in range(1, 21):
                await server.until(lambda expected=expected: len(server.ended) >= expected)  # type: ignore[misc]
                assert len(server.data) <= expected + 3
                server.write(sorted(server.ended)[expected - 1], b"y", end=True)
            await client.until(lambda: len(client.ended) == 20)

    run(main())


def test_the_upstreams_limit_of_streams_is_kept() -> None:
    async def main() -> None:
        async with quic_site("x", allowed=2) as site, site.pair() as (client, server):
            for _ in range(10):
                client.open(b"x", end=True)
            await server.until(lambda: len(server.ended) == 2)
            await client.ping()
            assert server.over is None
            assert len(server.data) == 2

    run(main())


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
def test_a_half_closed_stream_stays_open_the_other_way(by_client: bool) -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as pair:
            opener, other = sides(pair, by_client)
            number = opener.open(b"question", end=True)
            await other.until(lambda: number in other.ended)
            other.write(number, b"answer")
            await opener.until(lambda: opener.got(number) == b"answer")
            assert number not in opener.ended

    run(main())


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
def test_a_reset_is_a_reset_with_its_code_in_one_direction(by_client: bool) -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as pair:
            opener, other = sides(pair, by_client)
            number = opener.open(b"some")
            await other.until(lambda: other.data.get(number))
            opener.reset(number, 42)
            await other.until(lambda: number in other.resets)
            assert other.resets == {number: 42}
            assert number not in other.ended
            other.write(number, b"still here", end=True)
            await opener.until(lambda: number in opener.ended)
            assert opener.data[number] == b"still here"

    run(main())


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
def test_a_stop_reaches_the_sender_with_its_code(by_client: bool) -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as pair:
            opener, other = sides(pair, by_client)
            number = opener.open(b"some")
            await other.until(lambda: other.data.get(number))
            other.stop(number, 0x1234)
            await opener.until(lambda: number in opener.stops)
            await other.until(lambda: number in other.resets)
            assert (opener.stops, other.resets) == ({number: 0x1234}, {number: 0x1234})

    run(main())


def test_a_reset_overtakes_what_a_stalled_sink_does_not_take() -> None:
    async def main() -> None:
        async with (
            quic_site(upstream=server_side("x", max_stream_data=1_000), stream_buffer_bytes=16_384) as site,
            site.pair() as (client, server),
        ):
            server.quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]
            number = client.open(bytes(200_000))
            await server.until(lambda: len(server.got(number)) == 1_000)
            client.reset(number, 9)
            await server.until(lambda: number in server.resets)
            assert server.resets == {number: 9}

    run(main())


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
def test_an_applications_close_crosses_with_code_and_reason(by_client: bool) -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as pair:
            closer, other = sides(pair, by_client)
            closer.close(7, "bye")
            over = await other.finished()
            assert (over.error_code, over.frame_type, over.reason_phrase) == (7, None, "bye")
            await until(lambda: not site.tunnel.sessions)

    run(main())


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
def test_a_transport_error_ends_the_other_leg_as_its_own(by_client: bool) -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as pair:
            closer, other = sides(pair, by_client)
            closer.close(0x0A, "broken", frame_type=0)
            over = await other.finished()
            assert (over.error_code, over.frame_type) == (1, 0)

    run(main())


def test_what_came_in_front_of_a_close_is_still_handed_on() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            payload = os.urandom(150_000)
            number = client.open(b"give")
            await server.until(lambda: server.data.get(number))
            server.write(number, payload, end=True)
            sender = server.quic._streams[number].sender
            await server.until(lambda: sender.is_finished)
            server.close(0, "done")
            over = await client.finished()
            assert bytes(client.data[number]) == payload
            assert number in client.ended
            assert (over.error_code, over.reason_phrase) == (0, "done")

    run(main())


def test_a_leg_that_is_silent_ends_the_other_one() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair(idle_timeout=1.5) as (client, server):
            number = client.open(b"x")
            await server.until(lambda: server.data.get(number))
            client.forget()
            over = await server.finished()
            assert (over.error_code, over.frame_type) == (0, 0)

    run(main())


class Leg:
    """As much of a connection as is looked at for signs of life."""

    def __init__(self) -> None:
        self.connection = self
        self.eliciting = 0
        self.idle_timeout = 30.0
        self.pings = 0

    def ping(self) -> None:
        self.pings += 1


def test_what_a_leg_says_keeps_the_other_one_alive_and_an_acknowledgement_is_nothing_said() -> None:
    async def main() -> None:
        async with quic_site("x") as site:
            client, upstream = Leg(), Leg()
            legs = Legs(site.engine, client, upstream)  # type: ignore[arg-type]
            pings = []
            for said in (0, 1, 0, 3, 0):
                client.eliciting += said
                legs._watch()
                assert legs._timer is not None
                legs._timer.cancel()
                pings.append(upstream.pings)
            assert (pings, client.pings) == ([0, 1, 1, 2, 2], 0)

    run(main())


def test_a_ping_of_ours_is_answered_by_nothing_that_counts() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            await client.ping()
            await server.ping()
            legs = every_leg(site)
            for leg in legs:
                before = leg.connection.eliciting
                leg.ping()
                await until(lambda leg=leg: not leg.connection._ping_pending)  # type: ignore[misc]
                await until(lambda leg=leg: leg.connection._loss.bytes_in_flight == 0)  # type: ignore[misc]
                assert leg.connection.eliciting == before

    run(main())


def test_a_tunnel_that_is_closed_ends_both_legs() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            for end in tuple(site.tunnel.sessions):
                end("tunnel closed")
            for peer in (client, server):
                over = await peer.finished()
                assert (over.error_code, over.frame_type, over.reason_phrase) == (0, 0, "tunnel closed")

    run(main())


def test_a_channel_that_is_lost_ends_the_client() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            server.channel.abort("agent gone")
            over = await client.finished()
            assert over.frame_type == 0

    run(main())


def test_a_client_that_goes_while_the_upstream_is_asked_leaves_nothing() -> None:
    async def main() -> None:
        async with quic_site("x") as site:
            channels: list[MemoryChannel] = []
            asked = asyncio.Event()

            async def slow(tunnel: Any, source: Address | None) -> MemoryChannel:
                near, far = MemoryChannel.pair()
                channels.append(far)
                asked.set()
                return near

            site.engine.connector.open_datagrams = slow  # type: ignore[method-assign]
            async with site.client("x") as client:
                await client.connected()
                await asked.wait()
                client.close(3)
                await until(lambda: channels[0].closed)
                await until(lambda: not site.tunnel.sessions)

    run(main())


# -- more of the connection --------------------------------------------------------------------------------------------


def test_a_key_update_in_the_middle_loses_nothing() -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as (client, server):
            number = client.open(b"a" * 50_000)
            client.quic.request_key_update()
            client.write(number, b"b" * 50_000, end=True)
            await server.until(lambda: number in server.ended)
            assert bytes(server.data[number]) == b"a" * 50_000 + b"b" * 50_000

    run(main())


def test_early_data_is_not_accepted_and_no_ticket_is_given() -> None:
    async def main() -> None:
        tickets: list[Any] = []
        async with quic_site("x") as site:
            configuration = client_configuration(site.name, "x")
            async with udp_client(site.udp, configuration, session_ticket_handler=tickets.append) as client:
                await client.connected()
                await client.ping()
                assert tickets == []

    run(main())


def test_loss_on_the_upstream_leg_changes_nothing() -> None:
    async def main() -> None:
        async with quic_site("x") as site:
            count = 0

            def lose(packet: bytes) -> bool:
                nonlocal count
                count += 1
                return count % 13 == 7

            site.lose = lose
            async with site.pair() as (client, server):
                payload = os.urandom(100_000)
                number = client.open(payload, end=True)
                await server.until(lambda: number in server.ended)
                assert bytes(server.data[number]) == payload

    run(main())
