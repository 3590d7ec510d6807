"""A QUIC stream as a byte stream of the engine: what a relay, the agent link and the HTTP codecs may count on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection

from reference_engine.quic.configuration import server_configuration
from reference_engine.quic.connection import Choice, EngineQuic, Windows
from reference_engine.quic.stream import QuicClosed, QuicReset, QuicStopped, QuicStream
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.stream import StreamReset
from tests.engine_quic_support import HOP, Stock, client_configuration, run
from tests.engine_tls_support import self_signed

CERTIFICATE = self_signed("a.test")
WINDOWS = Windows(stream=16_384, connection=65_536, streams_bidi=8, streams_uni=8, datagrams=4)


class Ends:
    """A stock client and our server in one process; packets take a turn of the loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        quic = QuicConnection(configuration=client_configuration("a.test", "x"))
        self._loop = loop
        self.client = Stock(quic, self._to_server)
        quic.connect(HOP, now=loop.time())
        connection = EngineQuic(
            configuration=server_configuration(CERTIFICATE, WINDOWS, idle=30.0),
            windows=WINDOWS,
            original_destination_connection_id=quic.original_destination_connection_id,
        )
        self.server = QuicTransport(
            connection,
            self._to_client,
            high_water=16_384,
            most_datagrams=3,
            on_hello=lambda transport, hello: transport.answer(Choice(CERTIFICATE, ("x",))),
        )
        self.client.transmit()

    def _to_server(self, packet: bytes, hop: Any) -> None:
        self._loop.call_soon(self.server.receive, packet, hop)

    def _to_client(self, packet: bytes, hop: Any) -> None:
        self._loop.call_soon(self.client.receive, packet, hop)

    async def stream(self, data: bytes = b"x") -> QuicStream:
        """A stream of the client, its first octets read."""
        self.client.open(data)
        stream = await self.server.accept_stream()
        assert await stream.read() == data
        return stream


@contextlib.asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    both = Ends()
    await both.server.completed()
    await both.client.connected()
    try:
        yield both
    finally:
        both.client.forget()
        both.server.drop()


def test_octets_an_end_and_what_is_read_behind_it() -> None:
    async def main() -> None:
        async with ends() as both:
            stream = await both.stream(b"one")
            assert stream.read_now() is None
            arrived = asyncio.Event()
            stream.on_arrival(arrived.set)
            both.client.write(stream.id, b"two", end=True)
            await arrived.wait()
            assert [await stream.read(), await stream.read(), stream.read_now()] == [b"two", b"", b""]
            await stream.write(b"back")
            await stream.end()
            await stream.end()
            await both.client.until(lambda: stream.id in both.client.ended)
            assert both.client.got(stream.id) == b"back"
            with pytest.raises(StreamReset, match="write after the end"):
                await stream.write(b"more")

    run(main())


def test_a_reset_is_no_end_and_drops_what_was_not_read() -> None:
    async def main() -> None:
        async with ends() as both:
            stream = await both.stream()
            both.client.write(stream.id, b"unread")
            await both.client.ping()
            both.client.reset(stream.id, 7)
            await both.client.ping()
            for _ in range(2):
                with pytest.raises(QuicReset) as problem:
                    await stream.read()
                assert problem.value.code == 7
            assert stream.unread == 0
            seen: list[int] = []
            stream.on_reset(lambda reset: seen.append(reset.code))
            assert seen == [7]
            await stream.write(b"still open")
            await both.client.until(lambda: both.client.got(stream.id) == b"still open")

    run(main())


def test_a_stop_ends_writing_also_one_that_waits() -> None:
    async def main() -> None:
        async with ends() as both:
            stream = await both.stream()
            both.client.quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]
            both.client.silent = True
            writing = asyncio.create_task(stream.write(bytes(100_000)))
            await asyncio.sleep(0)
            assert not writing.done()
            both.client.silent = False
            both.client.stop(stream.id, 9)
            with pytest.raises(QuicStopped) as problem:
                await writing
            assert problem.value.code == 9
            with pytest.raises(QuicStopped):
                await stream.write(b"more")
            seen: list[int] = []
            stream.on_stop(lambda stop: seen.append(stop.code))
            assert seen == [9]

    run(main())


def test_a_write_waits_for_acknowledgements() -> None:
    async def main() -> None:
        async with ends() as both:
            stream = await both.stream()
            both.client.silent = True
            writing = asyncio.create_task(stream.write(bytes(20_000)))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not writing.done()
            assert stream.backlog == 20_000
            both.client.silent = False
            await writing
            assert stream.backlog < 16_384

    run(main())


def test_close_ends_both_directions_and_gives_the_credit_back() -> None:
    async def main() -> None:
        async with ends() as both:
            for _ in range(12):
                stream = await both.stream()
                both.client.write(stream.id, bytes(10_000))
                await both.client.ping()
                await stream.close()
                await stream.close()
                assert await stream.read() == b""
                await both.client.until(lambda stream=stream: stream.id in both.client.ended)  # type: ignore[misc]
                await both.client.until(lambda stream=stream: stream.id in both.client.stops)  # type: ignore[misc]
            await both.client.ping()
            assert both.client.over is None
            assert both.server.unread == 0

    run(main())


def test_an_abort_is_seen_as_a_reset() -> None:
    async def main() -> None:
        async with ends() as both:
            stream = await both.stream()
            await stream.write(b"some")
            stream.abort("gone")
            stream.abort("again")
            await both.client.until(lambda: stream.id in both.client.resets)
            assert stream.id not in both.client.ended
            for work in (stream.read(), stream.write(b"x")):
                with pytest.raises(StreamReset):
                    await work

    run(main())


def test_the_end_of_the_connection_is_the_end_of_every_stream() -> None:
    async def main() -> None:
        async with ends() as both:
            stream = await both.stream()
            both.client.write(stream.id, b"last")
            await both.client.ping()
            both.client.close(5, "over")
            end = await both.server.closed()
            assert (end.by, end.code, end.reason) == ("peer", 5, "over")
            assert await stream.read() == b"last"
            for work in (stream.read(), stream.write(b"x"), both.server.accept_stream(), both.server.open_stream()):
                with pytest.raises(QuicClosed):
                    await work
            await stream.close()
            stream.abort("after all")

    run(main())


def test_unidirectional_streams_have_one_direction() -> None:
    async def main() -> None:
        async with ends() as both:
            both.client.open(b"in", end=True, unidirectional=True)
            stream = await both.server.accept_stream(unidirectional=True)
            assert (stream.readable, stream.writable) == (True, False)
            assert [await stream.read(), await stream.read()] == [b"in", b""]
            with pytest.raises(StreamReset):
                await stream.write(b"x")
            out = await both.server.open_stream(unidirectional=True)
            assert (out.readable, out.writable, await out.read()) == (False, True, b"")
            await out.write(b"out")
            await out.end()
            await both.client.until(lambda: out.id in both.client.ended)
            assert both.client.got(out.id) == b"out"

    run(main())


def test_a_stream_waits_for_the_peers_limit() -> None:
    async def main() -> None:
        async with ends() as both:
            limit = both.client.quic._local_max_streams_bidi
            opened = [await both.server.open_stream() for _ in range(limit.value)]
            waiting = asyncio.create_task(both.server.open_stream())
            await both.client.ping()
            assert not waiting.done()
            for stream in opened:
                await stream.end()
            await both.client.until(lambda: len(both.client.ended) == len(opened))
            for stream in opened:
                both.client.write(stream.id, b"", end=True)
            assert (await waiting).id == opened[-1].id + 4

    run(main())


def test_received_datagrams_are_bounded() -> None:
    async def main() -> None:
        async with ends() as both:
            for number in range(6):
                both.client.datagram(bytes([number]))
                await both.client.ping()
            assert both.server.datagrams_lost == 3
            assert [await both.server.receive_datagram() for _ in range(3)] == [b"\0", b"\1", b"\2"]
            assert both.server.receive_datagram_now() is None
            both.client.close()
            with pytest.raises(QuicClosed):
                await both.server.receive_datagram()

    run(main())


def test_what_comes_before_our_close_has_gone_out_has_no_effect() -> None:
    async def main() -> None:
        async with ends() as both:
            late: list[bytes] = []
            both.client._send = lambda packet, hop: late.append(packet)
            both.client.open(b"late")
            both.server.close(7, "over")
            for packet in late:
                both.server.receive(packet, HOP)
            assert late
            assert not both.server.streams

    run(main())
