"""TLS as a byte stream over another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reference_engine.relay.stream import StreamReset
from reference_engine.tls.endpoint import ClientTls, ServerTls, TlsEndpoints
from reference_engine.tls.rules import TlsRules
from reference_engine.tls.stream import CHUNK, TlsFailed, TlsStream
from tests.engine_tls_support import Pipe, run, self_signed

CERTIFICATE = self_signed("a.t.edge.test")


async def connected(room: int = 1 << 20, **options: Any) -> tuple[TlsStream, TlsStream, Pipe, Pipe]:
    """A client and a server over a pipe, the handshake done, and the pipe's ends."""
    endpoints = TlsEndpoints()
    near, far = Pipe.pair(room)
    client = TlsStream(near, endpoints.client(ClientTls("a.t.edge.test")), end_below=False, **options)
    server = TlsStream(far, endpoints.server(ServerTls(CERTIFICATE, lambda offered: None)), server_name="a", **options)
    await asyncio.gather(client.handshake(), server.handshake())
    return client, server, near, far


def test_data_in_chunks_of_the_contract() -> None:
    async def play() -> None:
        client, server, _, _ = await connected()
        payload = bytes(range(256)) * 4096
        writing = asyncio.create_task(client.write(payload))
        got = b""
        while len(got) < len(payload):
            piece = await server.read()
            assert 0 < len(piece) <= CHUNK
            got += piece
        await writing
        assert got == payload
        await server.write(b"")
        await server.write(memoryview(b"answer"))
        assert await client.read() == b"answer"

    run(play())


def test_end_is_close_notify_and_ends_the_stream_below_only_if_told() -> None:
    async def play() -> None:
        client, server, near, far = await connected()
        await client.end()
        assert await server.read() == b""
        assert await server.read() == b""
        assert near.log == []
        await server.write(b"still open")
        assert await client.read() == b"still open"
        await server.end()
        assert await client.read() == b""
        assert far.log == ["end"]
        for stream in (client, server):
            with pytest.raises(StreamReset, match="write after the end"):
                await stream.write(b"x")
            await stream.close()
            await stream.close()
        assert near.log.count("close") == far.log.count("close") == 1

    run(play())


def test_the_end_of_the_stream_below_is_no_end() -> None:
    async def play() -> None:
        client, server, near, far = await connected()
        await client.write(b"half")
        await near.end()
        assert await server.read() == b"half"
        with pytest.raises(TlsFailed, match="eof without close_notify"):
            await server.read()
        with pytest.raises(TlsFailed):
            await server.write(b"x")
        assert far.log == ["abort: eof without close_notify"]

    run(play())


def test_a_failure_says_its_alert_and_no_reset_destroys_it() -> None:
    async def play() -> None:
        client, server, near, far = await connected()
        await near.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(TlsFailed) as caught:
            await server.read()
        assert (caught.value.alert, caught.value.sent) == (20, True)
        server.abort("the relay gives up")
        await server.close()
        assert far.log == ["close"]
        with pytest.raises(TlsFailed) as seen:
            await client.read()
        assert (seen.value.alert, seen.value.sent) == (20, False)

    run(play())


def test_a_failed_handshake_closes_the_stream_below() -> None:
    async def play() -> None:
        endpoints = TlsEndpoints()
        near, far = Pipe.pair()
        client = TlsStream(near, endpoints.client(ClientTls("a", ("x",))))
        rules = TlsRules()
        tls = ServerTls(CERTIFICATE, lambda offered: rules.select_alpn(offered, ("y",)))
        server = TlsStream(far, endpoints.server(tls))
        failures = await asyncio.gather(client.handshake(), server.handshake(), return_exceptions=True)
        assert [type(failure) for failure in failures] == [TlsFailed, TlsFailed]
        assert far.log == ["close"]
        assert near.log[-1].startswith("abort")

    run(play())


def test_a_cancelled_read_loses_nothing() -> None:
    async def play() -> None:
        client, server, _, _ = await connected()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.read()
        await client.write(b"still here")
        assert await server.read() == b"still here"

    run(play())


def test_backpressure_of_the_stream_below_holds_the_writer_and_a_cancelled_writer_breaks_nothing() -> None:
    async def play() -> None:
        client, server, _, _ = await connected(room=10_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.write(bytes(100_000))
        got = 0
        while got < 100_000:
            got += len(await server.read())
        await client.write(b"in step")
        assert await server.read() == b"in step"

    run(play())


def test_close_does_not_wait_for_a_peer_that_does_not_read() -> None:
    async def play() -> None:
        client, _, near, _ = await connected(room=10_000, close_timeout=0.01)
        writing = asyncio.create_task(client.write(bytes(1 << 20)))
        await asyncio.sleep(0)
        await client.close()
        assert "abort: close timed out" in near.log
        with pytest.raises(StreamReset):
            await writing

    run(play())


def test_close_wakes_a_reader() -> None:
    async def play() -> None:
        client, server, _, far = await connected()
        reading = asyncio.create_task(server.read())
        await asyncio.sleep(0)
        await server.close()
        await client.close()
        assert await reading == b""
        assert not any(line.startswith("abort") for line in far.log)

    run(play())


def test_abort_is_seen_as_a_reset() -> None:
    async def play() -> None:
        client, server, near, _ = await connected()
        client.abort("no more")
        client.abort("again")
        assert near.log == ["abort: no more"]
        with pytest.raises(StreamReset):
            await server.read()
        with pytest.raises(StreamReset):
            await client.read()

    run(play())
