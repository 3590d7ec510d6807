"""Datagram channels framed on a byte stream: the link, the peer, both agents, and the upstream side that takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.adapter import UpstreamListener, fill, request_of, upstream_listener
from harness.engine.driver import Endpoint, Incoming, UpstreamQueue
from harness.engine.probe import UNKNOWN_VERSION, reachable
from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import UPSTREAM, Transcript
from harness.link.framed import MAX_PACKET, MAX_UNSENT, FramedLink
from harness.link.stream import LinkReset
from harness.link.tcp import TcpListener
from harness.link.udp import UdpListener, connect_udp
from harness.model.spec import TunnelSpec, http, private, quic, tls
from harness.peer.agent import accepted
from harness.peer.packets import PacketPeer
from harness.peer.upstream import UpstreamSide
from harness.wire import agent as wire
from tests.agent_peers import behaved, mini, scripted
from tests.agent_support import Connection

STREAM = "aabbccddeeff001122334455"


def run(script: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await script

    asyncio.run(bounded())


class Stream:
    """A byte stream without a socket: what was written, and what is to be read."""

    def __init__(self, *arriving: bytes) -> None:
        self.arriving = list(arriving)
        self.sent = b""
        self.unsent = 0
        self.aborted = False
        self.closed = False

    def send_now(self, data: bytes) -> None:
        self.sent += data

    async def receive(self, limit: int = 65536) -> bytes:
        if self.aborted:
            raise LinkReset("aborted")
        return self.arriving.pop(0) if self.arriving else b""

    def poll(self, limit: int = 65536) -> bytes | None:
        return self.arriving.pop(0) if self.arriving else None

    async def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class TestFramedLink:
    """4 octets of length, then the packet (agent protocol, section 2.5)."""

    def test_the_vector_of_the_protocol(self) -> None:
        stream = Stream()
        FramedLink(stream).send(b"\x01\x02")
        assert stream.sent.hex() == "000000020102"

    def test_packets_come_whole_however_the_octets_arrive(self) -> None:
        octets = bytes.fromhex("00000003616263 00000000 0000000178")

        async def script() -> None:
            for size in (1, 2, 5, len(octets)):
                link = FramedLink(Stream(*(octets[at : at + size] for at in range(0, len(octets), size))))
                assert [await link.receive() for _ in range(3)] == [b"abc", b"", b"x"]
                with pytest.raises(LinkReset, match=r"^the end of the stream$"):
                    await link.receive()

        run(script())

    def test_what_is_there_already(self) -> None:
        link = FramedLink(Stream(b"\0\0\0\1a\0\0", b"\0\1b\0\0\0\2c"))
        assert [link.receive_now() for _ in range(4)] == [b"a", b"b", None, None]

    @pytest.mark.parametrize("way", ["receive", "receive_now"])
    def test_a_length_that_no_packet_has_ends_the_channel(self, way: str) -> None:
        stream = Stream(b"\0\0\0\1a\0\1\0\0more")
        link = FramedLink(stream)

        async def script() -> None:
            assert await link.receive() == b"a"
            if way == "receive_now":
                assert link.receive_now() is None
            for _ in range(2):
                with pytest.raises(LinkReset, match="a packet of 65536 octets"):
                    await link.receive()
            assert stream.aborted
            with pytest.raises(LinkReset, match="65536"):
                link.send(b"x")

        run(script())

    def test_an_end_within_a_packet_is_told(self) -> None:
        async def script() -> None:
            with pytest.raises(LinkReset, match="within a packet"):
                await FramedLink(Stream(b"\0\0\0\5ab")).receive()

        run(script())

    def test_the_longest_packet_and_no_longer_one(self) -> None:
        stream = Stream()
        link = FramedLink(stream)
        link.send(bytes(MAX_PACKET))
        assert len(stream.sent) == MAX_PACKET + 4
        with pytest.raises(ValueError, match="65536"):
            link.send(bytes(MAX_PACKET + 1))

    def test_what_the_engine_does_not_read_is_dropped_and_counted(self) -> None:
        stream = Stream()
        stream.unsent = MAX_UNSENT + 1
        link = FramedLink(stream)
        link.send(b"lost")
        assert (stream.sent, link.dropped) == (b"", 1)

    def test_the_illegal_is_written_as_it_is(self) -> None:
        stream = Stream()
        link = FramedLink(stream)
        link.send_frame(b"ab", length=70_000)
        link.send_octets(b"zz")
        assert stream.sent == (70_000).to_bytes(4, "big") + b"abzz"

    def test_its_end_is_the_streams(self) -> None:
        async def script() -> None:
            for end in ("close", "abort"):
                stream = Stream()
                link = FramedLink(stream)
                if end == "close":
                    await link.close()
                else:
                    link.abort()
                assert (stream.closed, stream.aborted) == (end == "close", end == "abort")
                with pytest.raises(LinkReset, match="closed"):
                    link.send(b"x")

        run(script())


class Queue:
    """A datagram link without anything below it."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.link = FramedLink(self.stream)
        self.transcript = Transcript(lambda: 0.0)
        self.peer = PacketPeer(self.link, self.transcript.channel(UPSTREAM, "upstream", "u"))


class TestPacketPeer:
    """Each step is a line."""

    def test_steps_are_told(self) -> None:
        async def script() -> None:
            given = Queue()
            given.stream.arriving = [b"\0\0\0\2hi", b"\0\0\0\2ho", b"\0\0\0\1a\0\0\0\1b"]
            await given.peer.send(b"one")
            await given.peer.expect(b"hi")
            with pytest.raises(PeerMismatch, match=r"expected a packet of 3 octets \(6f7468\).* got .*2 octets"):
                await given.peer.expect(b"oth")
            assert given.peer.arrived() == [b"a", b"b"]
            assert await given.peer.ended() == "the end of the stream"
            told = [(event.sender, event.what, event.size) for event in given.transcript.events]
            assert told == [
                ("upstream", "packet", 3),
                ("engine", "packet", 2),
                ("engine", "packet", 2),
                ("engine", "packet", 1),
                ("engine", "packet", 1),
                ("engine", "end of the channel", None),
            ]

        run(script())

    def test_broken_frames_are_told_as_such(self) -> None:
        async def script() -> None:
            given = Queue()
            await given.peer.send_frame(b"ab", length=1)
            await given.peer.send_octets(b"zz")
            assert given.stream.sent == b"\0\0\0\1abzz"
            first, second = given.transcript.events
            assert (first.what, first.detail) == ("framed packet", "length 1")
            assert second.what == "octets of the channel's stream"

        run(script())


def datagram_tunnel() -> TunnelSpec:
    return private(type="datagram", name="d")


class TestAgents:
    """A datagram tunnel over TLS: the stream of 4.5, then framed packets."""

    def test_the_well_behaved_agent_hands_over_a_channel(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, behaved(engine) as agent:
                queue = UpstreamQueue()
                await agent.open_tunnel(datagram_tunnel(), queue)
                engine.ask(STREAM)
                _, connection = await engine.arrived.get()
                connection.send_raw(wire.frame(b"to the upstream") + wire.frame(b""))
                incoming = await queue.get()
                assert (incoming.source, incoming.stream_id) == ("192.0.2.1", STREAM)
                assert await incoming.packets.receive() == b"to the upstream"
                assert await incoming.packets.receive() == b""
                incoming.packets.send(b"back")
                assert await _frame(connection) == b"back"
                connection.writer.close()
                with pytest.raises(LinkReset, match="the end of the stream"):
                    await incoming.packets.receive()

        run(script())

    def test_what_the_engine_says_of_the_tunnel_counts(self, tmp_path: Path) -> None:
        """An agent goes by the properties in the reply, not by what it asked for."""

        async def hook(engine: Any, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) == "open_tunnel_req":
                message.open_tunnel_req.tunnel_properties.type.value = "bytestream"
            return False

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, behaved(engine) as agent:
                queue = UpstreamQueue()
                await agent.open_tunnel(datagram_tunnel(), queue)
                engine.ask(STREAM)
                incoming = await queue.get()
                with pytest.raises(PeerMismatch, match="expected a datagram channel"):
                    incoming.packets  # noqa: B018
                assert incoming.link is incoming.flow

        run(script())

    def test_a_quic_tunnel_is_one_without_saying_its_type(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, behaved(engine) as agent:
                queue = UpstreamQueue()
                await agent.open_tunnel(quic(), queue)
                engine.ask(STREAM)
                incoming = await queue.get()
                with pytest.raises(PeerMismatch, match="expected a byte stream"):
                    incoming.link  # noqa: B018
                assert isinstance(incoming.flow, FramedLink)

        run(script())

    @pytest.mark.parametrize("early", [True, False])
    def test_dialling_packets(self, tmp_path: Path, early: bool) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, behaved(engine) as agent:
                link = await agent.dial_packets("d", zero_rtt=early)
                asked, connection = await engine.arrived.get()
                assert asked.stream_req.tunnel_id_name == "d"
                assert not asked.stream_req.HasField("datagram_channel")
                link.send(b"out")
                assert await _frame(connection) == b"out"
                connection.send_raw(wire.frame(b"in"))
                assert await link.receive() == b"in"

        run(script())

    def test_the_scripted_agent_can_be_wrong(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, scripted(engine) as (agent, _):
                accepted(await agent.open())
                accepted(await agent.open_tunnel(datagram_tunnel()))
                engine.ask(STREAM)
                request = await agent.next_proxy_request()
                link = await agent.answer_packets(request, zero_rtt=False, glued=wire.frame(b"early"))
                _, connection = await engine.arrived.get()
                assert await _frame(connection) == b"early"
                link.send_frame(b"ab", length=1)
                link.send_octets(b"\0")
                assert await _frame(connection) == b"a"
                assert await _rest(connection, 2) == b"b\0"
                dialed = await agent.dial_packets("d", glued=wire.frame(b"first"))
                _, other = await engine.arrived.get()
                assert await _frame(other) == b"first"
                other.send_raw(wire.frame(b"x")[:3])
                other.writer.close()
                with pytest.raises(LinkReset, match="within a packet"):
                    await dialed.receive()

        run(script())


async def _frame(connection: Connection) -> bytes:
    while (payload := connection.frames.next()) is None:
        connection.frames.feed(await connection.reader.read(65536))
    return payload


async def _rest(connection: Connection, count: int) -> bytes:
    octets = connection.frames.rest()
    while len(octets) < count:
        octets += await connection.reader.read(65536)
    return octets


class TestUpstreamSide:
    """Channels that the engine opened, and those that nobody asked for."""

    def test_channels_are_taken_or_are_strays(self) -> None:
        async def script() -> None:
            queue = UpstreamQueue()
            transcript = Transcript(lambda: 0.0)
            side = UpstreamSide(queue, datagram_tunnel(), transcript, "main")
            for index in range(2):
                queue.put(Incoming(FramedLink(Stream(b"\0\0\0\1" + b"ab"[index : index + 1])), "192.0.2.7"))
            peer = await side.accept_packets()
            assert await peer.receive() == b"a"
            assert peer.source == "192.0.2.7"
            (stray,) = await side.strays()
            assert stray.describe() == "a datagram channel with 1 packets: 62"
            assert [event.what for event in transcript.events][:2] == ["datagram channel opened", "packet"]
            await side.close()

        run(script())

    def test_none_comes(self) -> None:
        async def script() -> None:
            side = UpstreamSide(UpstreamQueue(), datagram_tunnel(), Transcript(lambda: 0.0), "main")
            with pytest.raises(DeadlineExpired, match="a datagram channel at the upstream of 'main'"):
                await side.accept_packets()

        from harness.link.deadline import set_default

        async def soon() -> None:
            set_default(0.05)
            await script()

        run(soon())


class TestPlanned:
    """An engine behind an adapter reaches a datagram upstream at a UDP port of ours."""

    def test_each_upstream_has_the_listener_that_it_needs(self) -> None:
        assert isinstance(upstream_listener(quic()), UdpListener)
        assert isinstance(upstream_listener(tls()), TcpListener)
        assert isinstance(upstream_listener(http()), TcpListener)

    def test_a_flow_per_address_comes_to_the_queue(self) -> None:
        async def script() -> None:
            listener: UpstreamListener = upstream_listener(quic())
            await listener.start()
            queue = UpstreamQueue()
            pump = asyncio.create_task(fill(listener, queue))
            try:
                asked = request_of("quic-01/main", quic(), listener)
                assert asked["upstream"] == {"address": listener.host, "port": listener.port, "speaks": "quic"}
                assert asked["properties"] == {"protocol": "quic"}
                engine = await connect_udp(listener.host, listener.port)
                engine.send(b"first")
                incoming = await queue.get()
                assert await incoming.packets.receive() == b"first"
                incoming.packets.send(b"answer")
                assert await engine.receive() == b"answer"
                engine.abort()
            finally:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)
                await listener.stop()

        run(script())


class TestProbe:
    """A UDP endpoint is not looked at with TCP."""

    def test_a_refusal_is_a_finding_and_silence_is_none(self) -> None:
        async def script() -> None:
            listener = UdpListener()
            await listener.start()
            where = Endpoint("x.test", listener.host, listener.port, "udp")
            looking = asyncio.create_task(reachable(where, 0.05))
            flow = await listener.accept()
            assert await flow.receive() == UNKNOWN_VERSION
            assert len(UNKNOWN_VERSION) == 1200
            assert await looking is None
            answering = asyncio.create_task(reachable(where, 20))
            (await listener.accept()).send(b"\x80\0\0\0\0")
            assert await answering is None
            await listener.stop()
            assert "connection refused" in (await reachable(where, 20) or "")

        run(script())


@pytest.mark.parametrize(
    ("spec", "datagrams", "features"),
    [
        (quic(), True, {"quic"}),
        (quic(tls_alpns=("a",)), True, {"quic", "quic.alpn"}),
        (quic(type="bytestream"), False, {"quic"}),
        (private(), False, {"private"}),
        (private(type="datagram"), True, {"private", "private.datagram"}),
        (tls(), False, {"tls.terminated"}),
        (http(http_version="h3"), True, {"http.h3"}),
        (http(type="datagram"), True, {"http.h3"}),
        (TunnelSpec(protocol="dtls"), True, {"dtls"}),
    ],
)
def test_what_a_spec_carries_and_needs(spec: TunnelSpec, datagrams: bool, features: set[str]) -> None:
    assert spec.datagrams == datagrams
    assert spec.features() == features
    assert wire.carries_datagrams(wire.to_properties(spec)) == datagrams
