"""Chaos on HTTP/2: clients and upstreams that do anything at any time leave nothing behind, and nothing crosses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from h2.exceptions import ProtocolError

from tests.engine_h2_support import H2Peer, get, h2_client, h2_upstream
from tests.engine_http_support import Edge, make_tunnel, on_edge, settle

SEEDS = range(25)


class Upstreams:
    """Takes every connection that the engine opens, and treats each request as chance has it."""

    def __init__(self, edge: Edge, chance: random.Random) -> None:
        self._edge = edge
        self._chance = chance
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        while True:
            peer = await h2_upstream(self._edge)
            self._tasks.append(asyncio.create_task(self._serve(peer)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, peer: H2Peer) -> None:
        with contextlib.suppress(AssertionError, ProtocolError):
            while True:
                event = await peer.event(RequestReceived)
                path = dict(event.headers)[b":path"]
                with contextlib.suppress(ProtocolError):
                    await self._answer(peer, event.stream_id, path)

    async def _answer(self, peer: H2Peer, stream_id: int, path: bytes) -> None:
        chance, h2 = self._chance, peer.h2
        what = chance.randrange(10)
        if what == 0:
            h2.reset_stream(stream_id, chance.choice((ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR)))
        elif what == 1:
            h2.send_headers(stream_id, [(b":status", b"103")])
            h2.send_headers(stream_id, [(b":status", b"200")])
            h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        elif what == 2:
            h2.send_headers(stream_id, [(b":status", b"200"), (b"x:y", b"1")])
        elif what == 3 and chance.randrange(4) == 0:
            await peer.say(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + (0).to_bytes(4, "big") + bytes(4))
        elif what == 4 and chance.randrange(4) == 0:
            peer.stream.abort("chaos")
        elif what != 5:
            h2.send_headers(stream_id, [(b":status", b"200")])
            h2.send_data(stream_id, path, end_stream=chance.randrange(2) == 0)
            with contextlib.suppress(ProtocolError):
                h2.send_headers(stream_id, [(b"x-path", path)], end_stream=True)
        await peer.flush()


async def client_of(edge: Edge, chance: random.Random, number: int) -> int:
    """A client that asks, uploads, cancels, stalls and leaves; how many answers it got."""
    client = await h2_client(edge)
    sent: dict[int, bytes] = {}
    with contextlib.suppress(ProtocolError):
        for count in range(chance.randrange(1, 20)):
            stream_id = 1 + 2 * count
            sent[stream_id] = b"/%d-%d" % (number, stream_id)
            post = chance.randrange(2) == 0
            await client.headers(stream_id, get(sent[stream_id], method=b"POST" if post else b"GET"), end=not post)
            if post and chance.randrange(3):
                client.h2.send_data(stream_id, b"x" * chance.randrange(1, 2_000), end_stream=chance.randrange(2) == 0)
            if chance.randrange(5) == 0:
                with contextlib.suppress(ProtocolError):
                    client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            await client.flush()
            for _ in range(chance.randrange(4)):
                await settle()
                data = client.stream.read_now()
                if data:
                    client.take(data)
                    await client.flush()
    await settle()
    answers = [event for event in client.events if isinstance(event, DataReceived) and event.data.startswith(b"/")]
    for event in answers:
        assert event.data == sent[event.stream_id], "a response crossed"
    if chance.randrange(2):
        client.stream.abort("chaos")
    else:
        await client.stream.close()
    return len(answers)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_left_and_nothing_crosses(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(seed)

    async def script(edge: Edge) -> None:
        edge.engine.registry.remove(edge.a)
        edge.a = make_tunnel("a", http_version="h2c")
        edge.engine.registry.add(edge.a)
        upstreams = Upstreams(edge, chance)
        serving = asyncio.create_task(upstreams.run())
        assert sum(await asyncio.gather(*[client_of(edge, chance, number) for number in range(6)])) > 0
        # Each client is gone: its connection, its exchanges and their places on upstream connections end.
        await asyncio.gather(*edge._tasks)
        shared = edge.front.upstreams.shared
        for connections in shared._kept.values():
            assert [one.active for one in connections] == [0] * len(connections)
        assert not edge.a.sessions
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await upstreams.stop()

    with caplog.at_level(logging.ERROR):
        on_edge(script, http_response_timeout_ms=200, close_timeout_ms=100)
    assert caplog.records == []
