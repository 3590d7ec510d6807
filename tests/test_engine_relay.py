"""The relay and the TCP stream below it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from reference_engine.relay.pump import Relay
from reference_engine.relay.stream import Address, StreamReset
from reference_engine.relay.tcp import CHUNK, TcpStream, connect
from tests.engine_tls_support import Handler, Pipe, echo, run, upstream


def test_both_directions_move_and_end_one_by_one() -> None:
    async def play() -> None:
        client, a = Pipe.pair()
        far, b = Pipe.pair()
        relay = asyncio.create_task(Relay().run(a, b))
        await client.write(b"question")
        assert await far.read() == b"question"
        await client.end()
        assert await far.read() == b""
        await far.write(b"answer")
        assert await client.read() == b"answer"
        await far.end()
        assert await client.read() == b""
        done = await relay
        assert (done.a_to_b, done.b_to_a, done.reset) == (8, 6, None)
        assert a.log == b.log == ["end", "close"]

    run(play())


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_reset_goes_on_as_reset(who: str) -> None:
    async def play() -> None:
        client, a = Pipe.pair()
        far, b = Pipe.pair()
        relay = asyncio.create_task(Relay().run(a, b))
        broken, other = (client, far) if who == "client" else (far, client)
        broken.abort("cable cut")
        with pytest.raises(StreamReset):
            await other.read()
        assert (await relay).reset == "cable cut"
        assert "end" not in a.log + b.log
        assert "close" not in a.log + b.log

    run(play())


def test_a_slow_sink_stops_the_source() -> None:
    async def play() -> None:
        client, a = Pipe.pair(room=1000)
        far, b = Pipe.pair(room=1000)
        relay = asyncio.create_task(Relay().run(a, b))
        sent = 0

        async def pour() -> None:
            nonlocal sent
            for _ in range(100):
                await client.write(bytes(500))
                sent += 500

        pouring = asyncio.create_task(pour())
        for _ in range(200):
            await asyncio.sleep(0)
        assert sent < 5000
        assert far.unread < 5000
        got = 0
        while got < 50_000:
            got += len(await far.read())
        await pouring
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)

    run(play())


def test_end_of_a_leg_that_cannot_stay_half_open_ends_both() -> None:
    async def play() -> None:
        client, a = Pipe.pair()
        far, b = Pipe.pair()
        relay = asyncio.create_task(Relay().run(a, b, a_half_open=False))
        await client.write(b"last words")
        await client.end()
        assert await far.read() == b"last words"
        assert await far.read() == b""
        assert await client.read() == b""
        assert (await relay).reset is None

    run(play())


def test_a_sink_that_breaks_after_it_said_everything_leaves_a_clean_end() -> None:
    async def play() -> None:
        client, a = Pipe.pair()
        far, b = Pipe.pair()
        relay = asyncio.create_task(Relay().run(a, b))
        await far.write(b"all of it")
        await far.end()
        assert await client.read() == b"all of it"
        assert await client.read() == b""
        b._reset = "takes no more"
        await client.write(b"too late")
        await relay
        assert a.log == ["end", "close"]

    run(play())


def test_cancelling_aborts_both() -> None:
    async def play() -> None:
        client, a = Pipe.pair()
        far, b = Pipe.pair()
        relay = asyncio.create_task(Relay().run(a, b))
        await client.write(b"x")
        await far.read()
        relay.cancel()
        with pytest.raises(asyncio.CancelledError):
            await relay
        for end in (client, far):
            with pytest.raises(StreamReset):
                await end.read()

    run(play())


def test_a_relay_that_is_over_ends_behind_what_was_handed_on() -> None:
    async def play() -> None:
        client, a = Pipe.pair()
        far, b = Pipe.pair()
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        relay = asyncio.create_task(Relay().run(a, b, over=over))
        await far.write(b"last words")
        for _ in range(10):
            await asyncio.sleep(0)
        over.set_result(None)
        done = await relay
        assert (done.b_to_a, done.reset) == (10, None)
        assert await client.read() == b"last words"
        assert a.log == b.log == ["close"]

    run(play())


def test_tcp_keeps_half_close_and_order() -> None:
    async def play() -> None:
        async with upstream(echo) as address:
            stream = await connect(address.host, address.port)
            payload = bytes(range(256)) * 8192
            writing = asyncio.create_task(stream.write(payload))
            got = bytearray()
            while len(got) < len(payload):
                piece = await stream.read()
                assert 0 < len(piece) <= CHUNK
                got += piece
            await writing
            assert got == payload
            await stream.end()
            assert await stream.read() == b""
            assert await stream.read() == b""
            with pytest.raises(StreamReset):
                await stream.write(b"behind the end")
            await stream.close()
            await stream.close()
            await stream.wait_gone()

    run(play())


def test_tcp_unread_comes_first() -> None:
    async def play() -> None:
        async with upstream(echo) as address:
            stream = await connect(address.host, address.port)
            await stream.write(b"bcd")
            got = await stream.read()
            stream.unread(b"a" + got)
            assert await stream.read() == b"abcd"
            stream.unread(bytes(CHUNK + 10))
            assert len(await stream.read()) == CHUNK
            assert len(await stream.read()) == 10
            stream.abort("done")
            await stream.wait_gone()

    run(play())


def test_tcp_abort_is_a_reset_and_close_is_not() -> None:
    def ending(port: int) -> str:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                while sock.recv(1000):
                    pass
        except ConnectionResetError:
            return "rst"
        return "fin"

    async def play(handler: Handler) -> str:
        async with upstream(handler) as address:
            return await asyncio.to_thread(ending, address.port)

    async def abort(stream: TcpStream) -> None:
        stream.abort("on purpose")

    async def close(stream: TcpStream) -> None:
        await stream.write(b"bye")

    assert run(play(abort)) == "rst"
    assert run(play(close)) == "fin"


def test_tcp_close_delivers_what_was_written_although_input_is_unread() -> None:
    """Closing a socket with unread input sends RST, which can overtake the last octets: an alert would be lost."""

    def client(address: Address) -> bytes:
        with socket.create_connection((address.host, address.port), timeout=5) as sock:
            sock.sendall(bytes(100_000))
            got = b""
            while piece := sock.recv(1000):
                got += piece
            return got

    async def answer(stream: TcpStream) -> None:
        await stream.write(b"an alert")

    async def play() -> bytes:
        async with upstream(answer) as address:
            return await asyncio.to_thread(client, address)

    assert run(play()) == b"an alert"


def test_tcp_close_does_not_wait_for_ever() -> None:
    async def silent(stream: TcpStream) -> None:
        await stream.wait_gone()

    async def play() -> None:
        async with upstream(silent) as address:
            stream = await connect(address.host, address.port, close_timeout=0.01)
            await stream.close()
            await stream.wait_gone()

    run(play())


def test_tcp_reset_of_the_peer_is_told() -> None:
    async def abort(stream: TcpStream) -> None:
        await stream.read()
        stream.abort("on purpose")

    async def play() -> None:
        async with upstream(abort) as address:
            stream = await connect(address.host, address.port)
            await stream.write(b"x")
            with pytest.raises(StreamReset, match="tcp reset"):
                await stream.read()
            with pytest.raises(StreamReset):
                await stream.write(b"x")
            await stream.close()
            await stream.wait_gone()

    run(play())


def test_tcp_read_can_be_cancelled_without_loss() -> None:
    async def play() -> None:
        async with upstream(echo) as address:
            stream = await connect(address.host, address.port)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream.read()
            await stream.write(b"still here")
            assert await stream.read() == b"still here"
            stream.abort("done")
            await stream.wait_gone()

    run(play())
