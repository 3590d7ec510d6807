"""Many clients, an upstream that misbehaves at random: nobody ever gets another's answer, nothing is left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from reference_engine.tunnel.registry import end_sessions
from tests.engine_http_support import Edge, Peer, on_edge, request

BEHAVIOURS = ("answer",) * 8 + (
    "chunked",
    "until close",
    "close",
    "reset",
    "truncate",
    "garbage",
    "twice",
    "early",
    "slow",
)
QUIET = 4


async def pause(dice: random.Random) -> None:
    for _ in range(dice.randrange(8)):
        await asyncio.sleep(0)


async def answer(upstream: Peer, dice: random.Random) -> bool:
    """One request and what becomes of it; whether the connection goes on."""
    head = await upstream.head()
    nonce = head.split(b" ")[1]
    body = b"answer to " + nonce
    length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    behaviour = dice.choice(BEHAVIOURS)
    if behaviour != "early" and b"Content-Length: 5\r\n" in head:
        await upstream.exactly(5)
    await pause(dice)
    if behaviour in ("answer", "early", "slow"):
        await upstream.send(length)
        await pause(dice)
        await upstream.send(body)
        if behaviour != "early":
            return True
    elif behaviour == "chunked":
        await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body))
        await upstream.send(body + b"\r\n0\r\n\r\n")
        return True
    if behaviour == "until close":
        await upstream.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    elif behaviour == "truncate":
        await upstream.send(length + body[:-3])
    elif behaviour == "garbage":
        await upstream.send(b"\x00garbage\r\n\r\n")
    elif behaviour == "twice":
        await upstream.send(length + body + length + body)
    if behaviour == "reset":
        upstream.stream.abort("rst")
    else:
        await upstream.stream.close()
    return False


async def serve(upstream: Peer, dice: random.Random) -> None:
    try:
        while await answer(upstream, dice):
            pass
        await upstream.rest()
    except (AssertionError, TimeoutError):
        # The engine let the connection go, as it may.
        return
    except Exception as problem:
        if type(problem).__name__ != "StreamReset":
            raise


async def visit(edge: Edge, number: int, dice: random.Random) -> int:
    """A few requests on one connection; how many whole answers came."""
    client = edge.client()
    whole = 0
    for turn in range(5):
        nonce = b"/c%d-%d" % (number, turn)
        posting = dice.random() < 0.3
        line = (b"POST " if posting else b"GET ") + nonce + b" HTTP/1.1"
        octets = request(line, b"Content-Length: 5", body=b"hello") if posting else request(line)
        cut = dice.randrange(len(octets))
        try:
            await client.send(octets[:cut])
            await pause(dice)
            await client.send(octets[cut:])
            if dice.random() < 0.1:
                await pause(dice)
                client.stream.abort("gone")
                return whole
            head = await client.head()
            if head.startswith(b"HTTP/1.1 200 "):
                mark = b"0\r\n\r\n" if b"chunked" in head else nonce
                content = await client.until(mark)
                assert nonce in content, (nonce, content)
                assert content.count(b"answer to") == 1
                whole += 1
            else:
                assert head.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 ")), head
                await client.until(b"\n")
        except (AssertionError, TimeoutError):
            if client.end is None:
                raise
            return whole
        except Exception as problem:
            if type(problem).__name__ != "StreamReset":
                raise
            return whole
    await client.stream.close()
    return whole


@pytest.mark.parametrize("seed", range(12))
def test_nobody_gets_another_ones_answer(seed: int) -> None:
    async def script(edge: Edge) -> int:
        dice = random.Random(seed)
        upstreams: list[asyncio.Task[None]] = []

        async def accept() -> None:
            while True:
                upstream = await edge.connector.accepted.get()
                upstreams.append(asyncio.create_task(serve(upstream, random.Random(dice.random()))))

        accepting = asyncio.create_task(accept())
        visits = [asyncio.create_task(visit(edge, number, random.Random(dice.random()))) for number in range(30)]
        await pause(dice)
        if seed % QUIET == 0:
            end_sessions(edge.a, "tunnel closed")
        whole = sum(await asyncio.gather(*visits))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not edge.a.sessions
        await edge.front.close()
        accepting.cancel()
        await asyncio.gather(accepting, *upstreams, return_exceptions=True)
        return whole

    assert on_edge(script) > 30
