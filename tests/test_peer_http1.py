"""The scripted HTTP/1.1 peers over TCP: against each other, against h11, and against misbehaviour."""

from __future__ import annotations

import asyncio

import h11
import pytest

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import DOWNSTREAM
from harness.link.deadline import deadline, set_default
from harness.link.stream import End, EndKind, LinkReset
from harness.link.tcp import TcpLink
from harness.peer.http1 import Http1Client, Http1Upstream, exchange
from harness.peer.http1_upstream import READ_AHEAD
from harness.wire import http1_write as write
from tests.peer_support import TcpWire, scripted


class Wire(TcpWire):
    """With HTTP/1.1 on both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.upstream = Http1Upstream(self.queue, self.transcript)

    async def client(self) -> Http1Client:
        ours, theirs = await self.link()
        self.queue.put(Incoming(theirs))
        return self.wrap(ours)

    def wrap(self, link: TcpLink) -> Http1Client:
        return Http1Client(link, self.transcript.channel(DOWNSTREAM, "client", "client-1"), host="x.test")

    async def close(self) -> None:
        await self.upstream.close()


@scripted(Wire)
async def test_an_exchange(wire: Wire) -> None:
    client = await wire.client()
    request, response = await exchange(client, wire.upstream, "n1")
    assert request.headers == [("Host", "x.test"), ("Edgecase-Nonce", "n1")]
    assert request.complete
    assert response.complete
    assert response.violations == request.violations == []
    assert wire.upstream.unexpected == []
    steps = [event.what for event in wire.transcript.events]
    assert "GET /n1 HTTP/1.1" in steps
    assert "200 OK" in steps


@scripted(Wire)
async def test_bodies_both_ways(wire: Wire) -> None:
    client = await wire.client()
    await client.request("POST", "/", chunks=[b"ab", b"c"], trailers=[("X-Sum", "1")], nonce="n")
    request = await wire.upstream.request("n")
    assert await request.body() == b"abc"
    assert [chunk.size for chunk in request.chunks] == [2, 1, 0]
    assert request.trailers == [("X-Sum", "1")]
    await request.respond(201, [("A", "b")], chunks=[b"de", b"f"], trailers=[("T", "2")])
    response = await client.response()
    assert (response.status, response.body, response.trailers) == (201, b"def", [("T", "2")])


@scripted(Wire)
async def test_a_large_body_flows_when_it_is_read(wire: Wire) -> None:
    client = await wire.client()
    body = bytes(range(256)) * (4 * READ_AHEAD // 256)
    sending = asyncio.ensure_future(client.request("POST", "/", body=body, nonce="n"))
    request = await wire.upstream.request("n")
    assert await request.body() == body
    await sending
    await request.respond(body=body)
    assert (await client.response()).body == body


@scripted(Wire)
async def test_reading_stops_at_the_read_ahead(wire: Wire) -> None:
    client = await wire.client()
    body = bytes(64 << 20)
    sending = asyncio.ensure_future(client.offer(write.request("POST", "/", host="x", body=body), expects="POST"))
    request = await wire.upstream.request()
    with pytest.raises(DeadlineExpired):
        async with deadline("the whole body without a reader", 0.3):
            await asyncio.shield(sending)
    assert request.received < 2 * READ_AHEAD
    sending.cancel()
    client.abort()


@scripted(Wire)
async def test_informational_responses_are_kept(wire: Wire) -> None:
    client = await wire.client()
    await client.request_head("POST", "/", [("Expect", "100-continue"), ("Content-Length", "2")], nonce="n")
    request = await wire.upstream.request("n")
    await request.informational(100)
    assert (await client.informational()).status == 100
    await client.send_raw(b"hi")
    assert await request.body() == b"hi"
    await request.informational(103, [("Link", "<a>")])
    await request.respond()
    response = await client.response()
    assert [head.status for head in response.informational] == [100, 103]


@scripted(Wire)
async def test_requests_are_found_by_nonce_not_by_order(wire: Wire) -> None:
    one, two = await wire.client(), await wire.client()
    await one.request("GET", "/a/n1?x")
    await two.request("GET", "/", nonce="n2")
    second = await wire.upstream.request("n2")
    first = await wire.upstream.request("n1")
    assert first.connection is not second.connection
    await first.respond(body=b"1")
    await second.respond(body=b"2")
    assert (await one.response()).body == b"1"
    assert (await two.response()).body == b"2"


@scripted(Wire)
async def test_a_smuggled_request_is_unexpected(wire: Wire) -> None:
    client = await wire.client()
    smuggled = write.request("GET", "/smuggled", host="x.test")
    await client.request("GET", "/", nonce="n")
    await client.send_raw(smuggled)
    request = await wire.upstream.request("n")
    await request.respond()
    await client.response()
    await wire.upstream.changed.until(lambda: bool(wire.upstream.unexpected))
    assert [stray.describe() for stray in wire.upstream.unexpected] == [
        "request 'GET /smuggled HTTP/1.1' with 0 octets"
    ]


@scripted(Wire)
async def test_octets_that_are_no_request_are_unexpected(wire: Wire) -> None:
    client = await wire.client()
    await client.send_raw(b"GET / HT")
    connection = await wire.upstream.connection(1)
    await connection.changed.until(lambda: connection.received == 8)
    assert [stray.raw_head for stray in wire.upstream.unexpected] == [b"GET / HT"]


@scripted(Wire)
async def test_head_gets_no_content(wire: Wire) -> None:
    client = await wire.client()
    await client.request("HEAD", "/", nonce="n")
    await (await wire.upstream.request("n")).respond(body=b"hello")
    response = await client.response()
    assert response.complete
    assert response.get("content-length") == "5"
    await exchange(client, wire.upstream, "n2")


@scripted(Wire)
async def test_close_is_kept_by_both(wire: Wire) -> None:
    client = await wire.client()
    await client.request("GET", "/", [("Connection", "close")], nonce="n")
    await (await wire.upstream.request("n")).respond(body=b"bye")
    assert (await client.response()).body == b"bye"
    assert await client.expect_end() == End(EndKind.FIN)
    await client.send_end()
    connection = await wire.upstream.connection(1)
    assert await connection.expect_end() == End(EndKind.FIN)


@scripted(Wire)
async def test_a_body_until_close(wire: Wire) -> None:
    client = await wire.client()
    await client.request("GET", "/", nonce="n")
    request = await wire.upstream.request("n")
    await request.respond(200, [("Connection", "close")], b"hello", framing="none")
    response = await client.response()
    assert (response.body, response.complete, response.end) == (b"hello", True, End(EndKind.FIN))


@scripted(Wire)
async def test_a_response_that_breaks_off_is_incomplete(wire: Wire) -> None:
    client = await wire.client()
    await client.request("GET", "/", nonce="n")
    request = await wire.upstream.request("n")
    await request.respond(body=b"hello", length=10)
    await request.end()
    response = await client.response()
    assert not response.complete
    assert response.describe() == "200 with 5 octets, incomplete, then FIN"


@scripted(Wire)
async def test_a_request_that_breaks_off_is_told(wire: Wire) -> None:
    client = await wire.client()
    await client.request("POST", "/", body=b"hello", length=10, nonce="n")
    request = await wire.upstream.request("n")
    client.abort()
    with pytest.raises(PeerMismatch, match=r"5 octets, then reset"):
        await request.body()
    assert request.aborted


@scripted(Wire)
async def test_broken_chunks_are_told(wire: Wire) -> None:
    client = await wire.client()
    await client.request_head("POST", "/", [("Transfer-Encoding", "chunked")], nonce="n")
    await client.send_chunk(b"hello")
    await client.send_chunk(b"hello", size="0x5")
    request = await wire.upstream.request("n")
    with pytest.raises(PeerMismatch, match="no HTTP"):
        await request.body()
    assert [violation.what for violation in request.violations] == ["malformed chunk size b'0x5'"]


@scripted(Wire)
async def test_what_comes_instead_of_a_response_is_told(wire: Wire) -> None:
    client = await wire.client()
    await client.request("GET", "/a", nonce="n")
    await (await wire.upstream.request("n")).respond_raw(b"nonsense\r\n\r\n")
    with pytest.raises(PeerMismatch, match="nonsense"):
        await client.response()
    other = await wire.client()
    await other.request("GET", "/a", nonce="n2")
    (await wire.upstream.request("n2")).abort()
    with pytest.raises(PeerMismatch, match=r"expected the response to 'GET /a HTTP/1\.1'; got reset"):
        await other.response()


@scripted(Wire)
async def test_waits_have_deadlines_with_names(wire: Wire) -> None:
    set_default(0.05)
    client = await wire.client()
    await client.request("GET", "/a", nonce="n")
    with pytest.raises(DeadlineExpired, match="the response to 'GET /a HTTP"):
        await client.response()
    with pytest.raises(DeadlineExpired, match="the request with nonce other"):
        await wire.upstream.request("other")
    with pytest.raises(DeadlineExpired, match="end of the client's connection"):
        await client.expect_end()


@scripted(Wire)
async def test_expect_end_refuses_another_response(wire: Wire) -> None:
    client = await wire.client()
    await client.request("GET", "/", nonce="n")
    request = await wire.upstream.request("n")
    await request.respond_raw(write.response(200) * 2)
    await client.response()
    with pytest.raises(PeerMismatch, match="200 OK"):
        await client.expect_end()


@scripted(Wire)
async def test_outcome_gives_both(wire: Wire) -> None:
    client = await wire.client()
    await client.request("GET", "/", nonce="n")
    request = await wire.upstream.request("n")
    await request.respond(400)
    await request.end()
    responses, end = await client.drain()
    assert [response.status for response in responses] == [400]
    assert end == End(EndKind.FIN)


@scripted(Wire)
async def test_an_upgrade_becomes_a_raw_stream(wire: Wire) -> None:
    client = await wire.client()
    fields = [("Connection", "Upgrade"), ("Upgrade", "echo")]
    await client.request("GET", "/", fields, nonce="n")
    await client.send_raw(b"early")
    request = await wire.upstream.request("n")
    server = await request.upgrade(fields)
    assert (await client.response()).status == 101
    tunnel = client.tunnel()
    assert await server.receive_exactly(5) == b"early"
    await server.send(b"pong")
    assert await tunnel.receive_exactly(4) == b"pong"
    await tunnel.send_end()
    assert await server.receive_until_end() == (b"", End(EndKind.FIN))
    server.abort()
    with pytest.raises(LinkReset):
        await tunnel.receive()


@scripted(Wire)
async def test_a_tunnel_behind_connect(wire: Wire) -> None:
    client = await wire.client()
    await client.request("CONNECT", "db.test:1", nonce="n")
    server = await (await wire.upstream.request("n")).upgrade(status=200)
    assert (await client.response()).status == 200
    await client.tunnel().send(b"hi")
    assert await server.receive_exactly(2) == b"hi"


@scripted(Wire)
async def test_a_refused_upgrade_goes_on(wire: Wire) -> None:
    client = await wire.client()
    await client.request("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "echo")], nonce="n")
    await (await wire.upstream.request("n")).respond(426)
    assert (await client.response()).status == 426
    await exchange(client, wire.upstream, "n2")


@scripted(Wire)
async def test_pipelined_requests_get_their_responses_in_order(wire: Wire) -> None:
    client = await wire.client()
    await client.send_raw(b"".join(write.request("GET", f"/{n}", host="x") for n in range(3)), expects=["GET"] * 3)
    for number in range(3):
        await (await wire.upstream.request(str(number))).respond(body=b"%d" % number)
    assert [(await client.response()).body for _ in range(3)] == [b"0", b"1", b"2"]


@scripted(Wire)
async def test_a_paused_connection_is_not_read(wire: Wire) -> None:
    client = await wire.client()
    await client.request_head("POST", "/", [("Content-Length", "10")], nonce="n")
    request = await wire.upstream.request("n")
    request.connection.pause()
    await client.send_raw(b"12345")
    request.connection.resume()
    assert await request.read_exactly(5) == b"12345"


@scripted(Wire)
async def test_a_connection_that_cannot_be_wrapped_is_told(wire: Wire) -> None:
    async def refuse(incoming: Incoming, channel: object) -> TcpLink:
        raise PeerMismatch("a ClientHello", "GET /")

    queue = UpstreamQueue()
    upstream = Http1Upstream(queue, wire.transcript, wrap=refuse)
    _, theirs = await wire.link()
    queue.put(Incoming(theirs))
    await upstream.changed.until(lambda: bool(upstream.failed))
    assert upstream.failed == ["expected a ClientHello; got GET /"]
    await upstream.close()


@scripted(Wire)
async def test_h11_as_the_server(wire: Wire) -> None:
    """The client peer and a server of the other family."""
    ours, theirs = await wire.link()
    client = wire.wrap(ours)
    server = h11.Connection(h11.SERVER)

    async def serve() -> bytes:
        body = b""
        while True:
            event = server.next_event()
            if event is h11.NEED_DATA:
                server.receive_data(await theirs.receive())
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        for reply in (
            h11.InformationalResponse(status_code=103, headers=[("Link", "<a>")]),
            h11.Response(status_code=200, headers=[("A", "b")]),
            h11.Data(data=b"hello"),
            h11.EndOfMessage(headers=[("T", "1")]),
        ):
            await theirs.send(server.send(reply) or b"")
        server.start_next_cycle()
        return body

    for chunks in ([b"ab", b"c"], None):
        await client.request("POST", "/", body=None if chunks else b"abc", chunks=chunks)
        assert await serve() == b"abc"
        response = await client.response()
        assert (response.status, response.body, response.trailers) == (200, b"hello", [("T", "1")])
        assert response.violations == []
        assert [head.status for head in response.informational] == [103]


@scripted(Wire)
async def test_h11_as_the_client(wire: Wire) -> None:
    """The upstream peer and a client of the other family."""
    ours, theirs = await wire.link()
    wire.queue.put(Incoming(theirs))
    client = h11.Connection(h11.CLIENT)
    for framing in ("length", "chunked"):
        headers = [("Host", "x"), ("Edgecase-Nonce", framing)]
        headers.append(("Content-Length", "5") if framing == "length" else ("Transfer-Encoding", "chunked"))
        for item in (
            h11.Request(method="POST", target="/", headers=headers),
            h11.Data(data=b"hello"),
            h11.EndOfMessage(),
        ):
            await ours.send(client.send(item) or b"")
        request = await wire.upstream.request(framing)
        assert await request.body() == b"hello"
        assert request.violations == []
        await request.informational(103)
        await request.respond(body=b"world", framing=framing)
        body = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                client.receive_data(await ours.receive())
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        assert body == b"world"
        client.start_next_cycle()
