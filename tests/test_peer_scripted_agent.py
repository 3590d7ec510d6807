"""The agent that a case drives frame by frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.deadline import set_default
from harness.link.stream import EndKind
from harness.model.spec import tls
from harness.peer.agent import accepted, refused
from harness.wire import agent as wire
from tests.agent_peers import STREAM, error_message, mini, run, scripted
from tests.agent_support import Connection, MiniEngine


class TestScriptedAgent:
    """A control channel, frame by frame."""

    def test_the_whole_way_of_a_stream(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, scripted(engine) as (agent, transcript):
                ok = accepted(await agent.open(interval_ms=1000))
                assert ok.liveness.heartbeat_timeout_ms == 3000
                properties = accepted(await agent.open_tunnel(tls()))
                assert (await agent.heartbeat()).acknowledgement == 1
                engine.ask(STREAM)
                request = await agent.next_proxy_request()
                assert (request.stream_id, request.tunnel_id) == (STREAM, properties.id.value)
                link = await agent.answer_proxy(request, zero_rtt=False, glued=b"early")
                first, connection = await engine.arrived.get()
                assert first.proxy_req.client_details.token.value == "s3cr3t"
                assert connection.frames.rest() == b"early"
                connection.send_raw(b"bytes")
                assert await link.receive() == b"bytes"
                assert (await agent.close_tunnel(properties.id.value)).tunnel_id == properties.id.value
                assert (await agent.close()).kind is EndKind.CLOSE_NOTIFY
                kinds = [event.what for event in transcript.events if event.sender == "agent"]
                assert kinds[:4] == ["TLS connection", "open_control_channel_req", "open_tunnel_req", "heartbeat"]
                assert {"proxy_req", "proxy_conn_rsp", "close_control_channel_req"} <= set(kinds)
                assert not any('"tok"' in event.detail for event in transcript.events)

        run(script())

    def test_bytes_glued_behind_a_reply_stay_with_the_stream(self, tmp_path: Path) -> None:
        async def hook(_: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) != "stream_req":
                return False
            reply = pb.Message()
            reply.stream_rsp.stream_id = STREAM
            connection.send_raw(wire.encode(reply) + b"glued")
            return True

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, scripted(engine) as (agent, _):
                link = await agent.dial("t", zero_rtt=False)
                assert await link.receive() == b"glued"

        run(script())

    def test_refusals_are_read_and_expected(self, tmp_path: Path) -> None:
        async def hook(_: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) == "open_control_channel_req":
                connection.send(error_message("open_control_channel_rsp", 1000, "Unauthorized"))
                await connection.close()
                return True
            return False

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, scripted(engine) as (agent, _):
                reply = await agent.open(token=None)
                assert not engine.seen[0].open_control_channel_req.client_details.HasField("token")
                assert refused(reply).code == 1000
                with pytest.raises(PeerMismatch, match="1000: Unauthorized"):
                    accepted(reply)
                assert (await agent.expect_end()).clean
                assert (await agent.rejected_dial("nobody")).code == 3000
                with pytest.raises(PeerMismatch, match="stream_rsp with an error"):
                    await agent.rejected_dial("somebody")
                with pytest.raises(PeerMismatch, match="3000"):
                    await agent.dial("nobody", zero_rtt=False)

        run(script())

    def test_a_rejected_proxy(self, tmp_path: Path) -> None:
        async def hook(_: MiniEngine, connection: Connection, message: pb.Message) -> bool:
            if wire.kind(message) == "proxy_req" and message.proxy_req.client_details.token.value != "s3cr3t":
                connection.send(error_message("proxy_rsp", 1000, "bad secret"))
                return True
            return False

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, scripted(engine) as (agent, _):
                await agent.open()
                await agent.open_tunnel(tls())
                engine.ask(STREAM)
                request = await agent.next_proxy_request()
                assert (await agent.rejected_proxy(request, secret="guess")).code == 1000
                with pytest.raises(PeerMismatch, match="bad secret"):
                    await agent.answer_proxy(request, secret=None, zero_rtt=False)
                with pytest.raises(PeerMismatch, match="with an error"):
                    await agent.rejected_proxy(request)

        run(script())

    @pytest.mark.parametrize(
        ("octets", "told"),
        [
            (b"\xff\xff\xff\xff", "a frame of 4294967295 octets"),
            (b"\x00\x00\x00\x01\xff", "no message"),
            (b"\x00\x00\x00\x05ab", "the end after 6 octets of a frame"),
            (wire.encode(wire.heartbeat()), "heartbeat"),
            (b"", "close_notify"),
        ],
    )
    def test_what_was_not_awaited_is_told(self, tmp_path: Path, octets: bytes, told: str) -> None:
        async def hook(_: MiniEngine, connection: Connection, __: pb.Message) -> bool:
            connection.send_raw(octets)
            await connection.close()
            return True

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, scripted(engine) as (agent, _):
                with pytest.raises(PeerMismatch, match="expected open_control_channel_rsp") as mismatch:
                    await agent.open()
                assert told in mismatch.value.actual

        run(script())

    def test_silence_names_what_was_awaited(self, tmp_path: Path) -> None:
        async def hook(*_: object) -> bool:
            return True

        async def script() -> None:
            async with mini(tmp_path, hook=hook) as engine, scripted(engine) as (agent, _):
                set_default(0.05)
                with pytest.raises(DeadlineExpired, match="open_control_channel_rsp"):
                    await agent.open()
                with pytest.raises(DeadlineExpired, match="end the control channel"):
                    await agent.expect_end()

        run(script())

    def test_frames_are_put_aside_and_found_again(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, scripted(engine) as (agent, _):
                await agent.open(interval_ms=1000)
                await agent.open_tunnel(tls())
                engine.ask(STREAM)
                await agent.heartbeat()
                assert [wire.kind(message) for message in agent.aside] == ["proxy_conn_req"]
                assert len(agent.arrived()) == 1
                assert (await agent.next_proxy_request()).stream_id == STREAM
                assert agent.arrived() == ()
                await agent.send_message(wire.close_tunnel("t"))
                with pytest.raises(PeerMismatch, match="the end of the control channel"):
                    await agent.expect_end()

        run(script())

    def test_it_can_be_wrong(self, tmp_path: Path) -> None:
        async def script() -> None:
            async with mini(tmp_path) as engine, scripted(engine) as (agent, transcript):
                await agent.connect(first=wire.encode(wire.open_control_channel(version=None)))
                await agent.expect("open_control_channel_rsp")
                await agent.send_message(wire.close_tunnel("t"), unknown_field=True)
                await agent.expect("close_tunnel_rsp")
                await agent.send_raw(b"\x00\x00\x00\x02")
                await agent.send_raw(b"\x7a\x00")
                await agent.send_heartbeat(0)
                await agent.proxy_conn_rsp("x", code=4711)
                await agent.send_message(wire.close_tunnel("u"), glued=wire.encode(wire.close_tunnel("v")))
                assert (await agent.expect("close_tunnel_rsp")).tunnel_id == "u"
                assert (await agent.expect("close_tunnel_rsp")).tunnel_id == "v"
                seen = [wire.kind(message) for message in engine.seen]
                assert seen[2:5] == ["heartbeat", "heartbeat", "proxy_conn_rsp"]
                assert any("unknown_field=True" in event.detail for event in transcript.events)
                agent.drop()

        run(script())
