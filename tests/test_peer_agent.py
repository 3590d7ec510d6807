"""The agent that behaves: tunnels, streams, heartbeats, refusals, ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.driver import UpstreamQueue
from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.model.spec import private, tls
from harness.peer.agent import ChannelLost, EngineRefused
from harness.wire import agent as wire
from tests.agent_peers import STREAM, behaved, error_message, mini, run
from tests.agent_support import Connection, MiniEngine


class TestAgent:
    """The well-behaved agent."""

    @pytest.mark.parametrize("zero_rtt", [True, False])
    def test_streams_reach_the_queue_of_their_tunnel(self, tmp_path: Path, zero_rtt: bool) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, behaved(engine, zero_rtt=zero_rtt) as agent:
                one, two = UpstreamQueue(), UpstreamQueue()
                first = await agent.open_tunnel(tls(), one)
                await agent.open_tunnel(tls(), two)
                engine.ask("a" * 24)
                engine.ask("b" * 24, tunnel=first.id.value)
                incoming = await one.get()
                assert (incoming.stream_id, incoming.source) == ("b" * 24, "192.0.2.1")
                assert (await two.get()).stream_id == "a" * 24
                await agent.round_trip()
                answers = [m.proxy_conn_rsp for m in engine.seen if wire.kind(m) == "proxy_conn_rsp"]
                assert sorted(answer.stream_id for answer in answers) == ["a" * 24, "b" * 24]
                assert not any(answer.HasField("error") for answer in answers)
                for _ in range(2):
                    request, connection = await engine.arrived.get()
                    assert request.proxy_req.zero_rtt.value is zero_rtt
                    if request.proxy_req.stream_id == "b" * 24:
                        connection.send_raw(b"to the first")
                assert await incoming.link.receive() == b"to the first"
                await incoming.link.close()

        run(script())

    def test_a_request_right_behind_the_tunnel_is_answered(self, tmp_path: Path) -> None:
        async def hook(engine: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) != "open_tunnel_req":
                return False
            engine._answer(connection, message)
            engine.ask(STREAM)
            return True

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, behaved(engine) as agent:
                queue = UpstreamQueue()
                await agent.open_tunnel(private(), queue)
                assert (await queue.get()).stream_id == STREAM

        run(script())

    def test_it_refuses_what_it_was_told_to_and_what_it_does_not_know(self, tmp_path: Path) -> None:
        async def admit(request: pb.ProxyConnReq) -> tuple[int, str] | None:
            return (6001, "not today") if request.stream_id == "n" * 24 else None

        async def script() -> None:
            async with mini(tmp_path) as engine, behaved(engine, admit=admit) as agent:
                queue = UpstreamQueue()
                await agent.open_tunnel(tls(), queue)
                engine.ask("u" * 24, tunnel="unknown")
                engine.ask("n" * 24)
                await agent.round_trip()
                agent.refuse_streams = (6000, "closed")
                engine.ask("r" * 24)
                await agent.round_trip()
                await agent.round_trip()
                answers = {
                    m.proxy_conn_rsp.stream_id[0]: int(m.proxy_conn_rsp.error.code)
                    for m in engine.seen
                    if wire.kind(m) == "proxy_conn_rsp"
                }
                assert answers == {"u": 4000, "n": 6001, "r": 6000}
                assert queue.total == 0

        run(script())

    def test_refusals_of_the_engine(self, tmp_path: Path) -> None:
        async def hook(_: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) != "open_tunnel_req":
                return False
            request_id = message.open_tunnel_req.request_id
            connection.send(error_message("open_tunnel_rsp", 2000, "tls_mode: unknown", request_id))
            return True

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, behaved(engine) as agent:
                with pytest.raises(EngineRefused, match="tls_mode: unknown") as answer:
                    await agent.open_tunnel(tls(), UpstreamQueue())
                assert answer.value.code == 2000
                with pytest.raises(EngineRefused, match="3000"):
                    await agent.dial("nobody", zero_rtt=False)
                link = await agent.dial("somebody", zero_rtt=True, glued=b"hello")
                await engine.arrived.get()
                assert engine.seen[-1].stream_req.client_details.token.value == "tok"
                await link.close()

        run(script())

    @pytest.mark.parametrize(
        ("code", "text"), [(1000, "Unauthorized"), (2030, "too old"), (7000, "full")], ids=["auth", "version", "full"]
    )
    def test_a_refused_channel(self, tmp_path: Path, code: int, text: str) -> None:
        async def hook(_: MiniEngine, connection: Connection, __: pb.Message) -> bool:
            connection.send(error_message("open_control_channel_rsp", code, text))
            return True

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine:
                with pytest.raises(EngineRefused, match=text) as answer:
                    async with behaved(engine):
                        pass
                assert answer.value.code == code

        run(script())

    @pytest.mark.parametrize(
        ("sequence", "acknowledgement", "dies"),
        [(0, 1, False), (1, 0, True), (0, 0, True), (0, 2, True), (1, 1, True)],
    )
    def test_acknowledgements_are_checked(
        self, tmp_path: Path, sequence: int, acknowledgement: int, dies: bool
    ) -> None:
        async def hook(_: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) == "heartbeat":
                connection.send(wire.heartbeat(sequence, acknowledgement))
                return True
            return False

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, behaved(engine) as agent:
                if not dies:
                    await agent.round_trip()
                    assert agent.lost is None
                    return
                with pytest.raises(ChannelLost, match="acknowledged heartbeat"):
                    await agent.round_trip()
                with pytest.raises(ChannelLost):
                    await agent.open_tunnel(tls(), UpstreamQueue())

        run(script())

    def test_heartbeats_are_sent_and_silence_is_noticed(self, tmp_path: Path) -> None:
        beats = asyncio.Event()

        async def hook(engine: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) == "open_control_channel_req":
                reply = pb.Message()
                ok = reply.open_control_channel_rsp.ok
                ok.client_id = "c"
                ok.liveness.heartbeat_interval_ms = 20
                ok.liveness.heartbeat_timeout_ms = 100
                connection.send(reply)
                return True
            if wire.kind(message) == "heartbeat" and message.heartbeat.sequence == 2:
                beats.set()
            return wire.kind(message) == "heartbeat"

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, behaved(engine, interval_ms=20) as agent:
                await beats.wait()
                assert await agent.wait_lost() == "no frame from the engine within 0.1 s"

        run(script())

    @pytest.mark.parametrize(
        ("interval", "timeout", "asked", "legal"),
        [
            (20, 100, None, False),
            (21, 100, 20, False),
            (20, 19, 20, False),
            (20, 900_001, 20, False),
            (20, 20, 20, True),
            (20, 900_000, 20, True),
        ],
    )
    def test_liveness_arithmetic(
        self, tmp_path: Path, interval: int, timeout: int, asked: int | None, legal: bool
    ) -> None:
        async def hook(_: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) != "open_control_channel_req":
                return False
            reply = pb.Message()
            ok = reply.open_control_channel_rsp.ok
            ok.client_id = "c"
            ok.liveness.heartbeat_interval_ms = interval
            ok.liveness.heartbeat_timeout_ms = timeout
            connection.send(reply)
            return True

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine:
                if legal:
                    async with behaved(engine, interval_ms=asked) as agent:
                        assert agent.liveness
                    return
                with pytest.raises(PeerMismatch, match="liveness"):
                    async with behaved(engine, interval_ms=asked):
                        pass

        run(script())

    def test_an_engine_that_closes_or_dies_is_noticed(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine:
                async with behaved(engine) as agent:
                    assert engine.control is not None
                    goodbye = pb.Message()
                    goodbye.close_control_channel_rsp.SetInParent()
                    engine.control.send(goodbye)
                    assert await agent.wait_lost() == "the engine closed the control channel"
                async with behaved(engine) as agent:
                    engine.control.abort()
                    assert "cut" in await agent.wait_lost()
                async with behaved(engine) as agent:
                    engine.control.send_raw(b"\xff\xff\xff\xff")
                    assert "4294967295" in await agent.wait_lost()
                async with behaved(engine) as agent:
                    engine.control.send(wire.close_control_channel())
                    assert "close_control_channel_req" in await agent.wait_lost()

        run(script())

    def test_closing_a_tunnel_and_the_channel(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine:
                async with behaved(engine) as agent:
                    queue = UpstreamQueue()
                    tunnel = await agent.open_tunnel(tls(), queue)
                    engine.ask(STREAM)
                    incoming = await queue.get()
                    await agent.close_tunnel(tunnel.id.value)
                assert agent.lost is not None
                assert wire.kind(engine.seen[-1]) == "close_control_channel_req"
                with pytest.raises(LinkReset):
                    await incoming.link.receive()
                await agent.close()

        run(script())

    def test_a_dropped_channel_leaves_the_streams(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, behaved(engine) as agent:
                queue = UpstreamQueue()
                await agent.open_tunnel(tls(), queue)
                engine.ask(STREAM)
                incoming = await queue.get()
                _, connection = await engine.arrived.get()
                agent.drop()
                await agent.wait_lost()
                connection.send_raw(b"still here")
                assert await incoming.link.receive() == b"still here"

        run(script())

    def test_without_liveness_heartbeats_are_empty(self, tmp_path: Path) -> None:
        beat = asyncio.Event()

        async def hook(_: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) == "open_control_channel_req":
                reply = pb.Message()
                reply.open_control_channel_rsp.ok.client_id = "c"
                connection.send(reply)
                return True
            if wire.kind(message) == "heartbeat":
                assert message.heartbeat.sequence == 0
                connection.send(wire.heartbeat())
                beat.set()
            return False

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, behaved(engine, interval_ms=10) as agent:
                await beat.wait()
                assert engine.seen
                await agent.open_tunnel(tls(), UpstreamQueue())
                assert agent.lost is None
                assert not agent.liveness

        run(script())
