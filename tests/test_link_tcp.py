"""The TCP link: what arrived before a reset is read, whatever broke first."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from harness.link.stream import LinkReset
from harness.link.tcp import TcpLink, connect_tcp


def test_an_answer_in_front_of_a_reset_is_read_though_a_write_fails_first() -> None:
    async def script() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            link = await connect_tcp("127.0.0.1", listener.getsockname()[1])
            server, _ = listener.accept()
            # No step of the loop between here and the write: the answer lies unread in the socket when that fails.
            server.sendall(b"refused")
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            await link.send(b"more")
            assert await link.receive() == b"refused"
            with pytest.raises(LinkReset):
                await link.receive()
            with pytest.raises(LinkReset):
                await link.send(b"more")
            await link.close()

    asyncio.run(script())


async def sends_until_reset(link: TcpLink) -> int:
    """How many of at most 100 sends in a row go by before one raises."""
    for count in range(100):
        try:
            await link.send(b"more")
        except LinkReset:
            return count
    return 100


def test_a_sender_in_a_loop_hears_of_a_reset_at_once() -> None:
    async def script() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            link = await connect_tcp("127.0.0.1", listener.getsockname()[1])
            server, _ = listener.accept()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            assert await sends_until_reset(link) <= 2
            await link.close()

    asyncio.run(script())
