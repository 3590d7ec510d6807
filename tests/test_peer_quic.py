"""The scripted QUIC peers: handshake, streams, datagrams, ends, and what they say of a departure."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import DOWNSTREAM, UPSTREAM
from harness.link.deadline import set_default
from harness.link.stream import LinkReset
from harness.link.udp import UdpListener, connect_udp
from harness.peer.quic import QuicEnd, QuicPeer, StreamEnd
from harness.wire.quic import Level, PacketKind
from harness.wire.quic.frames import MaxStreams, Ping, Stream
from tests.quic_peers import both, client_options, server_options


def run(script: Coroutine[Any, Any, None], seconds: float = 5.0) -> None:
    async def bounded() -> None:
        set_default(seconds)
        async with asyncio.timeout(60):
            await script

    asyncio.run(bounded())


class TestHandshake:
    """Both sides know what the other one said."""

    def test_what_was_agreed(self) -> None:
        async def script() -> None:
            async with both({"alpn": ("y", "x")}) as peers:
                assert (peers.client.alpn, peers.server.alpn) == ("x", "x")
                assert peers.client.version == peers.server.version == 1
                assert peers.server.client_hello.alpn == ("y", "x")
                assert peers.server.client_hello.server_name == "peer.test"
                assert peers.client.peer_certificates
                assert peers.client.remote_parameters is not None
                await peers.client.confirmed()
                assert any(
                    isinstance(each.frame, Stream) or each.level is Level.INITIAL for each in peers.client.frames
                )
                assert peers.told(DOWNSTREAM, "client") == ["Initial"]
                assert peers.told(DOWNSTREAM, "engine") == ["handshake complete"]
                assert peers.told(UPSTREAM, "engine") == ["Initial", "handshake complete"]

        run(script())

    def test_what_came_in_which_packet(self) -> None:
        async def script() -> None:
            async with both({"token": b"a token"}) as peers:
                way, first = peers.server.wire.packets[0]
                assert (way, first.kind, first.datagram, first.token) == (
                    "received",
                    PacketKind.INITIAL,
                    1200,
                    b"a token",
                )
                assert first.size <= first.datagram

        run(script())

    def test_a_refusal_is_an_end_or_a_departure(self) -> None:
        async def script() -> None:
            async with both({"alpn": ("z",)}, handshake=False) as peers:
                found, end = await asyncio.gather(peers.client.try_handshake(), peers.server.try_handshake())
                assert isinstance(found, QuicEnd)
                assert isinstance(end, QuicEnd)
                assert (found.kind, found.code, found.by_peer) == ("transport", 0x178, True)
                with pytest.raises(PeerMismatch, match="handshake to complete at the client; got transport close"):
                    await peers.client.handshake()

        run(script())

    def test_silence_is_named(self) -> None:
        async def script() -> None:
            async with both(handshake=False) as peers:
                with pytest.raises(DeadlineExpired, match="the QUIC handshake at the client"):
                    await peers.client.handshake()

        run(script(), 0.1)

    def test_nobody_there_is_a_reset(self) -> None:
        async def script() -> None:
            listener = UdpListener()
            await listener.start()
            await listener.stop()
            async with both(handshake=False) as peers:
                link = await connect_udp(listener.host, listener.port)
                client = QuicPeer.client(link, peers.client.channel, client_options())
                with pytest.raises(LinkReset, match="refused"):
                    await client.handshake()
                assert (await client.closed()).kind == "none"
                await client.shut()

        run(script())

    def test_over_udp(self) -> None:
        async def script() -> None:
            listener = UdpListener()
            await listener.start()
            async with both(handshake=False) as peers:
                link = await connect_udp(listener.host, listener.port)
                client = QuicPeer.client(link, peers.client.channel, client_options())
                await client.start()
                server = QuicPeer.server(await listener.accept(), peers.server.channel, server_options())
                await asyncio.gather(client.handshake(), server.handshake())
                stream = await client.open_stream()
                await stream.send(b"x" * 100_000, fin=True)
                got = await (await server.accept_stream()).receive_until_end()
                assert got == (b"x" * 100_000, StreamEnd("fin"))
                await client.shut()
                await server.shut()
            await listener.stop()

        run(script())


class TestStreams:
    """Octets, ends and codes, each in order."""

    def test_both_directions_and_kinds(self) -> None:
        async def script() -> None:
            async with both() as peers:
                stream = await peers.client.open_stream()
                await stream.send(b"question")
                seen = await peers.server.accept_stream()
                assert (seen.id, seen.bidirectional, seen.by_client) == (0, True, True)
                assert await seen.receive_exactly(4) == b"ques"
                assert await seen.receive() == b"tion"
                await stream.finish()
                assert await seen.receive() == b""
                await seen.send(b"answer", fin=True)
                assert await stream.receive_until_end() == (b"answer", StreamEnd("fin"))
                await stream.delivered()
                away = await peers.server.open_stream(bidirectional=False)
                await away.send(b"one way", fin=True)
                came = await peers.client.accept_stream()
                assert (came.id, came.bidirectional, came.by_client) == (3, False, False)
                assert await came.receive_until_end() == (b"one way", StreamEnd("fin"))

        run(script())

    def test_reset_and_stop_carry_their_codes(self) -> None:
        async def script() -> None:
            async with both() as peers:
                stream = await peers.client.open_stream()
                await stream.send(b"some")
                seen = await peers.server.accept_stream()
                assert await seen.receive() == b"some"
                stream.reset(42)
                with pytest.raises(LinkReset, match="stream 0 was reset with code 42"):
                    await seen.receive()
                assert await seen.receive_until_end() == (b"", StreamEnd("reset", 42))
                assert stream.stop_code is None
                stream.stop_sending(7)
                assert await seen.stopped() == 7
                assert (await stream.receive_until_end())[1] == StreamEnd("reset", 7)
                assert "RESET_STREAM" in peers.told(UPSTREAM, "engine")
                assert "STOP_SENDING" in peers.told(UPSTREAM, "engine")

        run(script())

    def test_an_end_before_the_octets_is_told(self) -> None:
        async def script() -> None:
            async with both() as peers:
                stream = await peers.client.open_stream()
                await stream.send(b"abc", fin=True)
                seen = await peers.server.accept_stream()
                with pytest.raises(
                    PeerMismatch, match="expected 4 octets of stream 0 at the upstream; got 3 octets, then"
                ):
                    await seen.receive_exactly(4)

        run(script())

    def test_the_stream_with_a_nonce_and_those_that_nobody_took(self) -> None:
        async def script() -> None:
            async with both() as peers:
                for data in (b"stray", b"nonce"):
                    await (await peers.client.open_stream()).send(data)
                assert (await peers.server.accept_stream_with(b"nonce")).id == 4
                (left,) = peers.server.waiting_streams()
                assert (left.id, left.peek(9)) == (0, b"stray")

        run(script())

    def test_more_streams_wait_for_credit(self) -> None:
        async def script() -> None:
            async with both(server={"max_streams_bidi": 1, "streams_credit": False}) as peers:
                await (await peers.client.open_stream()).send(b"a")
                waiting = asyncio.create_task(peers.client.open_stream())
                await peers.client.ping()
                assert not waiting.done()
                peers.server.say(MaxStreams(2))
                assert (await waiting).id == 4

        run(script())

    def test_without_reading_the_sender_is_held(self) -> None:
        async def script() -> None:
            window = 1 << 16
            options = {"automatic_credit": False, "max_stream_data": window, "max_data": window}
            async with both(server=options) as peers:
                stream = await peers.client.open_stream()
                stream.send_now(bytes(4 * window))
                seen = await peers.server.accept_stream()
                await seen._peer.until(lambda: seen.waiting == window, "the window")
                await peers.client.ping()
                await peers.server.ping()
                assert (seen.received, stream.unsent) == (window, 3 * window)
                assert len(await seen.receive_exactly(4 * window)) == 4 * window
                assert stream.unsent == 0

        run(script())

    def test_send_waits_for_credit_and_names_it(self) -> None:
        async def script() -> None:
            async with both(server={"automatic_credit": False}) as peers:
                stream = await peers.client.open_stream()
                with pytest.raises(DeadlineExpired, match="credit for stream 0 at the client"):
                    await stream.send(bytes(1 << 22))

        run(script(), 0.5)


class TestDatagrams:
    """DATAGRAM frames, whole."""

    def test_both_ways(self) -> None:
        async def script() -> None:
            async with both() as peers:
                await peers.client.send_datagram(b"one")
                await peers.client.send_datagram(b"")
                assert [await peers.server.receive_datagram() for _ in range(2)] == [b"one", b""]
                await peers.server.send_datagram(b"back")
                await peers.server.ping()
                assert peers.client.arrived_datagrams() == [b"back"]
                assert peers.client.arrived_datagrams() == []

        run(script())


class TestConnection:
    """PING, keys, ports, frames of the script, ends."""

    def test_ping_and_key_update(self) -> None:
        async def script() -> None:
            async with both() as peers:
                await peers.client.confirmed()
                await peers.client.ping()
                peers.client.update_keys()
                await peers.client.ping()
                await peers.server.ping()
                assert "keys updated" in peers.told(UPSTREAM, "engine")
                assert "keys updated" in peers.told(DOWNSTREAM, "engine")

        run(script())

    @pytest.mark.parametrize("application", [True, False])
    def test_a_close_carries_kind_code_and_reason(self, application: bool) -> None:
        async def script() -> None:
            async with both() as peers:
                stream = await peers.client.open_stream()
                await stream.send(b"x")
                seen = await peers.server.accept_stream()
                await peers.client.close(7, "bye", application=application)
                kind = "application" if application else "transport"
                end = await peers.server.closed()
                assert (end.kind, end.code, end.reason, end.by_peer) == (kind, 7, "bye", True)
                assert (await peers.client.closed()).by_peer is False
                assert await seen.receive_until_end() == (b"x", StreamEnd("connection"))
                with pytest.raises(LinkReset, match="the connection is over: our own"):
                    await stream.send(b"more")
                with pytest.raises(LinkReset, match=f"{kind} close"):
                    await peers.server.open_stream()
                assert peers.told(UPSTREAM, "engine")[-1] == "CONNECTION_CLOSE"
                assert peers.told(DOWNSTREAM, "client").count("CONNECTION_CLOSE") == 1

        run(script())

    def test_the_end_of_the_link_is_an_end_without_a_word(self) -> None:
        async def script() -> None:
            async with both() as peers:
                waiting = asyncio.create_task(peers.server.accept_stream())
                peers.client.abort()
                with pytest.raises(LinkReset, match="the other side is gone"):
                    await waiting
                assert await peers.server.closed() == QuicEnd("none", reason="the other side is gone")
                assert "end of the link" in peers.told(UPSTREAM, "engine")

        run(script())

    def test_a_broken_rule_is_a_departure_of_whoever_waits_next(self) -> None:
        async def script() -> None:
            async with both() as peers:
                peers.client.say(Stream(3, 0, b"on the server's own"))
                with pytest.raises(PeerMismatch, match=r"legal QUIC at the upstream \(RFC 9000 section 19.8\)"):
                    await peers.server.accept_stream()
                assert "QUIC violation" in peers.told(UPSTREAM, "engine")
                assert (await peers.client.closed()).code == 0x5

        run(script())

    def test_or_only_noted(self) -> None:
        async def script() -> None:
            async with both(server={"answer_violations": False}) as peers:
                peers.server.strict = False
                peers.client.say([Stream(3, 0, b"on the server's own"), Ping()])
                await peers.client.ping()
                await peers.server.ping()
                assert len(peers.server.violations) == 1

        run(script())

    def test_ours_is_raised_as_it_is(self) -> None:
        async def script() -> None:
            async with both() as peers:

                def broken(*_: object) -> list[Any]:
                    raise ZeroDivisionError

                peers.server.wire.receive = broken  # type: ignore[assignment,method-assign]
                waiting = asyncio.create_task(peers.server.accept_stream())
                await (await peers.client.open_stream()).send(b"x")
                with pytest.raises(ZeroDivisionError):
                    await waiting

        run(script())

    def test_loss_is_repaired(self) -> None:
        async def script() -> None:
            async with both(handshake=False) as peers:
                for link in (peers.near, peers.far):
                    count = [0]

                    def drop(packet: bytes, count: list[int] = count) -> bytes | None:
                        count[0] += 1
                        return None if count[0] % 4 == 0 else packet

                    link.look = drop
                await peers.handshake()
                stream = await peers.client.open_stream()
                sending = asyncio.create_task(stream.send(bytes(200_000), fin=True))
                seen = await peers.server.accept_stream()
                assert await seen.receive_until_end() == (bytes(200_000), StreamEnd("fin"))
                await sending

        run(script(), 20)
