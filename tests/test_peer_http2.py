"""The scripted HTTP/2 peers over TCP: against each other, and against misbehaviour."""

from __future__ import annotations

from typing import Any

import pytest
from hyperframe.frame import GoAwayFrame, PingFrame, RstStreamFrame, SettingsFrame

from harness.engine.driver import Incoming
from harness.errors import PeerMismatch
from harness.evidence.transcript import DOWNSTREAM
from harness.peer.http import ExchangeEnd
from harness.peer.http2 import Http2Client
from harness.peer.http2_upstream import Http2Upstream
from harness.wire.http2 import ErrorCode, Setting, blocks, frames
from tests.peer_support import TcpWire, scripted


class Wire(TcpWire):
    """With HTTP/2 on both ends."""

    def __init__(self, **upstream: Any) -> None:
        super().__init__()
        self.upstream = Http2Upstream(self.queue, self.transcript, **upstream)
        self.clients: list[Http2Client] = []

    async def client(self, **own: Any) -> Http2Client:
        ours, theirs = await self.link()
        self.queue.put(Incoming(theirs))
        client = Http2Client(ours, self.transcript.channel(DOWNSTREAM, "client", "client-1"), host="x.test", **own)
        self.clients.append(client)
        await client.start()
        return client

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        await self.upstream.close()


@scripted(Wire)
async def test_an_exchange(wire: Wire) -> None:
    client = await wire.client()
    exchange = await client.begin("GET", "/n1", [("X-A", "1")], nonce="n1")
    request = await wire.upstream.request("n1")
    assert (request.method, request.target, request.authority, request.scheme) == ("GET", "/n1", "x.test", "https")
    assert request.headers == [("x-a", "1"), ("edgecase-nonce", "n1")]
    await request.respond(200, [("A", "b")], b"hello")
    response = await exchange.response()
    assert (response.status, response.body, response.complete) == (200, b"hello", True)
    assert response.get("content-length") == "5"
    assert str(await request.ended()) == "complete"
    assert response.violations == request.violations == client.violations == []
    assert wire.upstream.connections[0].violations == []
    assert wire.upstream.unexpected == []
    steps = [(event.sender, event.what) for event in wire.transcript.events]
    assert ("client", "HEADERS GET /n1") in steps
    assert ("engine", "HEADERS 200") in steps
    assert ("engine", "DATA 5") in steps


@scripted(Wire)
async def test_bodies_trailers_and_interim_responses(wire: Wire) -> None:
    client = await wire.client()
    exchange = await client.begin("POST", "/", nonce="n", body=b"ab", end=False)
    await exchange.send_content(b"c")
    await exchange.finish([("X-Sum", "1")])
    request = await wire.upstream.request("n")
    assert await request.body() == b"abc"
    assert request.trailers == [("x-sum", "1")]
    assert request.get("content-length") is None
    await request.informational(103, [("link", "</a>")])
    await request.begin_response(201)
    await request.send_content(b"de")
    await request.finish([("T", "2")])
    assert (await exchange.informational()).get("link") == "</a>"
    response = await exchange.response()
    assert (response.status, response.body, response.trailers) == (201, b"de", [("t", "2")])
    assert response.violations == request.violations == []


@scripted(Wire)
async def test_large_bodies_go_by_credit(wire: Wire) -> None:
    client = await wire.client()
    body = bytes(range(256)) * 4096
    exchange = await client.begin("PUT", "/", body=body, nonce="n")
    request = await wire.upstream.request("n")
    assert not request.complete
    assert await request.body() == body
    await request.respond(200, [], body, length=False)
    assert (await exchange.response()).body == body
    assert request.violations == client.violations == wire.upstream.connections[0].violations == []


@scripted(Wire)
async def test_a_stream_that_is_not_read_stalls_alone(wire: Wire) -> None:
    client = await wire.client()
    slow = await client.begin("GET", "/", nonce="slow")
    request = await wire.upstream.request("slow")
    await request.respond(200, [], b"x" * 200_000)
    quick = await client.begin("GET", "/", nonce="quick")
    await (await wire.upstream.request("quick")).respond(200, [], b"y" * 100_000)
    assert (await quick.response()).body == b"y" * 100_000
    assert sum(seen.length for seen in client.on_stream(slow.id) if seen.kind == 0) <= 65535
    assert len((await slow.response()).body) == 200_000


@scripted(Wire)
async def test_cancelling_and_breaking_off(wire: Wire) -> None:
    client = await wire.client()
    first, second = await client.begin(nonce="1"), await client.begin(nonce="2")
    one, two = await wire.upstream.request("1"), await wire.upstream.request("2")
    first.cancel()
    assert await one.ended() == ExchangeEnd("reset", ErrorCode.CANCEL, "RST_STREAM CANCEL")
    await two.begin_response(200)
    await two.send_content(b"part")
    response = await second.response_head()
    assert await second.read_some(response) == b"part"
    two.break_off()
    got = await second.response()
    assert not got.complete
    assert got.end == ExchangeEnd("reset", ErrorCode.INTERNAL_ERROR, "RST_STREAM INTERNAL_ERROR")
    with pytest.raises(PeerMismatch, match="RST_STREAM CANCEL"):
        await one.respond(200)


@scripted(Wire)
async def test_goaway_tells_what_was_not_processed(wire: Wire) -> None:
    client = await wire.client()
    first, second = await client.begin(nonce="1"), await client.begin(nonce="2")
    one, _ = await wire.upstream.request("1"), await wire.upstream.request("2")
    connection = await wire.upstream.connection(1)
    connection.goaway(ErrorCode.NO_ERROR, last=1)
    assert (await second.outcome()) == ExchangeEnd("goaway", 0, "GOAWAY NO_ERROR with a last stream below 3")
    await one.respond(204)
    assert (await first.response()).status == 204
    assert (await client.frame(GoAwayFrame)).last_stream_id == 1
    with pytest.raises(PeerMismatch, match="GOAWAY"):
        await client.begin()
    await connection.close()
    assert (await client.closed()).clean


@scripted(Wire)
async def test_frames_and_settings(wire: Wire) -> None:
    client = await wire.client(settings=[(Setting.INITIAL_WINDOW_SIZE, 10), (0xF000, 7)])
    connection = await wire.upstream.connection(1)
    assert (await client.settled())[Setting.MAX_CONCURRENT_STREAMS] == 100
    assert (await connection.frame(SettingsFrame)).settings == {2: 0, 4: 10, 0xF000: 7}
    await client.acknowledged()
    await client.ping()
    await connection.ping()
    await client.frame(PingFrame, lambda frame: "ACK" in frame.flags)
    client.say(frames.raw(0xEE, b"abc", stream=5), frames.ping(b"12345678", ack=True))
    await client.ping()
    assert [str(item) for item in connection.violations] == [
        "PING ACK 3132333435363738 that answers nothing (RFC 9113 section 6.7)"
    ]


@scripted(Wire)
async def test_a_malformed_request_keeps_what_it_broke(wire: Wire) -> None:
    client = await wire.client()
    stream = client.open_stream()
    section = client.request_fields("GET", "/", [("Edgecase-Nonce", "bad"), ("connection", "close")])
    client.say(client.headers(stream, [*section[:2], (b"X-Up", b"1"), *section[2:]], end=True))
    request = await wire.upstream.request("bad")
    assert [item.section for item in request.violations] == [
        "9113 section 8.3", "9113 section 8.3", "9113 section 8.2.1", "9113 section 8.2.2"
    ]  # fmt: skip
    assert wire.upstream.connections[0].violations == []
    wire.upstream.connections[0].reset(stream, ErrorCode.PROTOCOL_ERROR)
    assert await client.exchange(stream).outcome() == ExchangeEnd("reset", 1, "RST_STREAM PROTOCOL_ERROR")
    assert (await client.frame(RstStreamFrame)).stream_id == stream


@scripted(Wire)
async def test_blocks_by_hand(wire: Wire) -> None:
    client = await wire.client()
    secret = blocks.literal(b"authorization", b"s3cret", "never", huffman=True)
    block = blocks.indexed(2) + blocks.indexed(7) + blocks.indexed(4) + blocks.literal(1, b"x.test") + secret
    client.say(client.headers(client.open_stream(), block=block, end=True, pieces=[3, 1]))
    request = await wire.upstream.request()
    assert request.section.block == block
    assert request.get("authorization") == "s3cret"
    assert request.section.fields[-1].never_indexed
    assert [item.kind for item in blocks.read_block(block)] == ["indexed"] * 3 + ["without", "never"]
    assert blocks.read_block(block)[-1].text == (b"authorization", b"s3cret")


@scripted(Wire)
async def test_what_is_no_http2_is_a_fragment(wire: Wire) -> None:
    client = await wire.client(preface=b"GET / HTTP/1.1\r\n\r\n", first=b"")
    await client.flushed()
    connection = await wire.upstream.connection(1)
    with pytest.raises(PeerMismatch, match="no client preface"):
        await connection.frame(SettingsFrame)
    assert [item.what for item in connection.violations] == ["no client preface"]
    assert "octets that are no HTTP/2" in wire.upstream.unexpected[0].describe()


@scripted(Wire)
async def test_what_is_said_behind_the_end_is_lost(wire: Wire) -> None:
    client = await wire.client()
    connection = await wire.upstream.connection(1)
    await client.ping()
    await connection.close()
    await client.closed()
    client.say(frames.ping())
    await client.flushed()
    with pytest.raises(PeerMismatch, match="FIN"):
        await client.ping()
    with pytest.raises(PeerMismatch, match="GOAWAY NO_ERROR, FIN"):
        await client.begin()
