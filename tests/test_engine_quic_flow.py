"""Backpressure and datagrams of QUIC tunnels: what a leg holds up, and what does not fit."""

from __future__ import annotations

import os
from typing import Any

import pytest
from aioquic.quic.packet import QuicProtocolVersion

from tests.engine_quic_support import (
    Site,
    Stock,
    every_leg,
    quic_site,
    run,
    server_side,
    sides,
)

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


# -- backpressure ------------------------------------------------------------------------------------------------------


def stall(server: Stock) -> None:
    """An upstream that grants nothing beyond its first windows: its application reads nothing."""
    server.quic._write_connection_limits = lambda **_: None  # type: ignore[method-assign]
    server.quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]


def engine_holds(site: Site) -> int:
    """Octets that the engine keeps for the site's sessions: unread, unsent or not acknowledged."""
    assert site.engine.quic is not None
    return sum(transport.unread + transport.backlog for transport in every_leg(site))


def test_an_upstream_that_stops_reading_holds_the_client_and_the_engine_stays_flat() -> None:
    """200 MiB are pushed; what the engine keeps is bounded by its windows, whatever the client would like."""

    async def main() -> None:
        buffer = 65_536
        upstream = server_side("x", max_data=100_000, max_stream_data=100_000)
        async with quic_site(upstream=upstream, stream_buffer_bytes=buffer) as site, site.pair() as (client, server):
            stall(server)
            number = client.open()
            pushed, most = 0, 0
            sender = None
            for _ in range(200):
                client.write(number, bytes(1 << 20))
                pushed += 1 << 20
                await client.ping()
                most = max(most, engine_holds(site))
                sender = client.quic._streams[number].sender
            assert pushed == 200 << 20
            assert sender is not None
            accepted = sender.highest_offset
            # Unread in one leg, queued in the other (with the chunk that went over the mark), and at the upstream.
            assert most <= 3 * buffer
            assert accepted <= 100_000 + 3 * buffer
            await client.ping()
            assert sender.highest_offset == accepted
            assert server.over is None

    run(main())


def test_a_stalled_stream_does_not_stall_another() -> None:
    async def main() -> None:
        upstream = server_side("x", max_stream_data=20_000)
        async with quic_site(upstream=upstream, stream_buffer_bytes=65_536) as site, site.pair() as (client, server):
            limits = server.quic._write_stream_limits

            def others(builder: Any, space: Any, stream: Any) -> None:
                if stream.stream_id != 0:
                    limits(builder=builder, space=space, stream=stream)

            server.quic._write_stream_limits = others  # type: ignore[method-assign]
            assert client.open(bytes(1 << 20)) == 0
            await server.until(lambda: len(server.got(0)) == 20_000)
            payload = os.urandom(500_000)
            number = client.open(payload, end=True)
            await server.until(lambda: number in server.ended)
            assert bytes(server.data[number]) == payload
            assert len(server.data[0]) == 20_000

    run(main())


def test_a_client_that_stops_reading_holds_the_upstream() -> None:
    async def main() -> None:
        buffer = 65_536
        async with (
            quic_site("x", stream_buffer_bytes=buffer) as site,
            site.pair(max_data=100_000, max_stream_data=100_000) as (client, server),
        ):
            stall(client)
            number = client.open(b"give")
            await server.until(lambda: server.data.get(number))
            for _ in range(20):
                server.write(number, bytes(1 << 20))
                await server.ping()
                assert engine_holds(site) <= 3 * buffer
            assert server.quic._streams[number].sender.highest_offset <= 100_000 + 3 * buffer

    run(main())


def test_credit_comes_back_for_an_upload_larger_than_every_window() -> None:
    async def main() -> None:
        async with (
            quic_site("x", stream_buffer_bytes=32_768, quic_window_bytes=65_536) as site,
            site.pair() as (client, server),
        ):
            payload = os.urandom(1 << 20)
            number = client.open(payload, end=True)
            await server.until(lambda: number in server.ended)
            assert bytes(server.data[number]) == payload

    run(main())


# -- datagrams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "upstream"])
def test_datagrams_are_relayed_whole_also_an_empty_one(by_client: bool) -> None:
    async def main() -> None:
        async with quic_site("x") as site, site.pair() as pair:
            sender, taker = sides(pair, by_client)
            sent = [b"", *(os.urandom(size) for size in range(100, 1_101, 100))]
            for one in sent:
                sender.datagram(one)
                await sender.ping()
            await taker.until(lambda: len(taker.datagrams) == len(sent))
            assert taker.datagrams == sent

    run(main())


def test_a_datagram_that_does_not_fit_the_other_leg_is_dropped_and_blocks_nothing() -> None:
    async def main() -> None:
        async with (
            quic_site(upstream=server_side("x", max_datagram_frame_size=200)) as site,
            site.pair() as (client, server),
        ):
            for size in (198, 1_150, 197, 10):
                client.datagram(bytes(size))
            await server.until(lambda: len(server.datagrams) == 2)
            assert [len(one) for one in server.datagrams] == [197, 10]
            number = client.open(b"x")
            await server.until(lambda: server.data.get(number))
            (upstream,) = [leg for leg in every_leg(site) if leg.connection.dropped]
            assert upstream.connection.dropped == 2

    run(main())


def test_an_upstream_that_wants_no_datagrams_gets_none() -> None:
    async def main() -> None:
        async with (
            quic_site(upstream=server_side("x", max_datagram_frame_size=None)) as site,
            site.pair() as (client, server),
        ):
            client.datagram(b"x")
            number = client.open(b"x")
            await server.until(lambda: server.data.get(number))
            assert (server.datagrams, server.over) == ([], None)

    run(main())
