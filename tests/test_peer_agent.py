"""The agent's link over real TLS, the agent that a case drives, and the one that behaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.driver import UpstreamQueue
from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import Transcript
from harness.link import agent as link_module
from harness.link.agent import AgentLink, HandshakeFailed, connect_agent
from harness.link.deadline import set_default
from harness.link.stream import EndKind, LinkReset
from harness.model.spec import private, tls
from harness.peer.agent import Agent, ChannelLost, EngineRefused, ScriptedAgent, accepted, refused
from harness.wire import agent as wire
from tests.agent_support import DOMAIN, Connection, MiniEngine, make_certificate

STREAM = "aabbccddeeff001122334455"


def run(script: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await script

    asyncio.run(bounded())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("link"))


class Other:
    """The engine's end of one TLS connection, moved by hand on a thread of its own (pyOpenSSL can half-close)."""

    def __init__(self, certificate: tuple[str, str], alpn: bytes | None = b"rstrm/1") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate_chain_file(certificate[0])
        self._context.use_privatekey_file(certificate[1])
        self.alpn = alpn
        self._context.set_alpn_select_callback(self._select)
        self._error: BaseException | None = None

    def _select(self, _: SSL.Connection, offered: list[bytes]) -> bytes:
        if self.alpn in offered:
            return self.alpn
        raise ValueError("no common protocol")

    def serve(self, script: Callable[[SSL.Connection, socket.socket], None]) -> None:
        def work() -> None:
            plain, _ = self._listener.accept()
            plain.settimeout(10)
            connection = SSL.Connection(self._context, plain)
            connection.set_accept_state()
            try:
                # Blocking: pyOpenSSL does not wait on a socket with a timeout by itself.
                plain.settimeout(None)
                script(connection, plain)
            except BaseException as error:  # noqa: BLE001 - raised again in join
                self._error = error
            finally:
                plain.close()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()
        if self._error:
            raise self._error


@pytest.fixture
def other(certificate: tuple[str, str]) -> Iterator[Other]:
    end = Other(certificate)
    yield end
    end.join()


async def connect(other: Other, certificate: tuple[str, str], **options: Any) -> AgentLink:
    return await connect_agent("127.0.0.1", other.port, server_name=DOMAIN, ca_file=certificate[0], **options)


class TestLink:
    """TLS with ends kept apart."""

    def test_half_close_both_ways(self, other: Other, certificate: tuple[str, str]) -> None:
        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            assert tls_end.recv(100) == b"question"
            with pytest.raises(SSL.ZeroReturnError):
                tls_end.recv(100)
            tls_end.sendall(b"answer after your end")
            tls_end.shutdown()

        async def script() -> None:
            link = await connect(other, certificate)
            assert (link.version, link.alpn) == ("TLSv1.3", "rstrm/1")
            assert link.peer_certificate
            await link.send(b"question")
            await link.send_end()
            with pytest.raises(LinkReset):
                await link.send(b"too late")
            data = b""
            while chunk := await link.receive(7):
                assert len(chunk) <= 7
                data += chunk
            assert data == b"answer after your end"
            assert await link.receive() == b""
            assert link.end is not None
            assert link.end.kind is EndKind.CLOSE_NOTIFY
            await link.close()
            await link.close()
            await link.wait_closed()

        other.serve(engine)
        run(script())

    def test_data_that_came_before_our_end_is_not_lost(self, other: Other, certificate: tuple[str, str]) -> None:
        sent = threading.Event()

        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            assert tls_end.recv(1) == b"a"
            tls_end.sendall(b"1" * 50_000)
            sent.set()
            with pytest.raises(SSL.ZeroReturnError):
                tls_end.recv(100)
            tls_end.sendall(b"2" * 50_000)
            tls_end.shutdown()

        async def script() -> None:
            link = await connect(other, certificate)
            await link.send(b"a")
            await asyncio.to_thread(sent.wait, 10)
            first = await link.receive(10)
            await link.send_end()
            data = bytearray(first)
            while chunk := await link.receive():
                data += chunk
            assert data == b"1" * 50_000 + b"2" * 50_000
            await link.close()
            await link.wait_closed()

        other.serve(engine)
        run(script())

    def test_a_bare_fin_is_a_truncation(self, other: Other, certificate: tuple[str, str]) -> None:
        def engine(tls_end: SSL.Connection, plain: socket.socket) -> None:
            tls_end.sendall(b"half a")
            plain.shutdown(socket.SHUT_WR)

        async def script() -> None:
            link = await connect(other, certificate)
            assert await link.receive() == b"half a"
            for _ in range(2):
                with pytest.raises(LinkReset, match="FIN without close_notify"):
                    await link.receive()
            assert link.end is not None
            assert link.end.kind is EndKind.TRUNCATED
            await link.close()
            await link.wait_closed()

        other.serve(engine)
        run(script())

    def test_a_reset_is_a_reset(self, other: Other, certificate: tuple[str, str]) -> None:
        def engine(tls_end: SSL.Connection, plain: socket.socket) -> None:
            tls_end.sendall(b"x")
            assert tls_end.recv(1) == b"g"
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async def script() -> None:
            link = await connect(other, certificate)
            assert await link.receive() == b"x"
            await link.send(b"go"[:1])
            with pytest.raises(LinkReset):
                await link.receive()
            assert link.end is not None
            assert link.end.kind is EndKind.RESET
            await link.close()
            await link.wait_closed()

        other.serve(engine)
        run(script())

    def test_ours_reach_the_other_side_as_such(self, other: Other, certificate: tuple[str, str]) -> None:
        seen: list[str] = []

        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            assert tls_end.recv(10) == b"first"
            try:
                tls_end.recv(10)
            except SSL.Error as error:
                seen.append(type(error).__name__)

        async def script() -> None:
            link = await connect(other, certificate, first=b"first")
            await link.send_fin()
            await asyncio.to_thread(other._thread.join, 10)
            link.abort()
            link.abort()
            await link.wait_closed()

        other.serve(engine)
        run(script())
        assert seen == ["SysCallError"] or seen == ["Error"]

    def test_bulk_both_ways_at_once(self, other: Other, certificate: tuple[str, str]) -> None:
        size = 8 << 20

        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            sender = threading.Thread(target=lambda: None)
            received = 0
            while received < size:
                received += len(tls_end.recv(65536))
            tls_end.sendall(b"z" * size)
            tls_end.shutdown()
            sender.start()
            sender.join()

        async def script() -> None:
            link = await connect(other, certificate)

            async def read() -> int:
                total = 0
                while chunk := await link.receive():
                    total += len(chunk)
                return total

            reading = asyncio.ensure_future(read())
            await link.send(b"a" * size)
            assert await reading == size
            await link.close()
            await link.wait_closed()

        other.serve(engine)
        run(script())

    def test_no_common_protocol_is_alert_120(self, other: Other, certificate: tuple[str, str]) -> None:
        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            with contextlib.suppress(SSL.Error, ValueError):
                tls_end.do_handshake()

        async def script() -> None:
            with pytest.raises(HandshakeFailed) as failed:
                await connect(other, certificate, alpn=("other/1",))
            assert failed.value.alert == 120
            assert "alert 120" in failed.value.reason

        other.alpn = None
        other._context.set_alpn_select_callback(_refuse_alpn)
        other.serve(engine)
        run(script())

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"server_name": "other.localhost"}, "certificate"),
            ({"ca_file": None}, "certificate"),
        ],
    )
    def test_a_certificate_that_is_not_trusted(
        self, other: Other, certificate: tuple[str, str], options: dict[str, Any], told: str
    ) -> None:
        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            with contextlib.suppress(SSL.Error):
                tls_end.do_handshake()

        async def script() -> None:
            chosen = {"server_name": DOMAIN, "ca_file": certificate[0], **options}
            with pytest.raises(HandshakeFailed, match=told):
                await connect_agent("127.0.0.1", other.port, **chosen)

        other.serve(engine)
        run(script())

    def test_insecure_trusts_anybody_and_no_name_sends_none(self, other: Other, certificate: tuple[str, str]) -> None:
        names: list[bytes | None] = []

        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            tls_end.do_handshake()
            names.append(tls_end.get_servername())
            tls_end.shutdown()

        async def script() -> None:
            link = await connect_agent("127.0.0.1", other.port, server_name=None, insecure=True)
            assert await link.receive() == b""
            await link.close()
            await link.wait_closed()

        other.serve(engine)
        run(script())
        assert names == [None]

    def test_tls_1_2_only_is_offered_when_asked(self, other: Other, certificate: tuple[str, str]) -> None:
        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            tls_end.do_handshake()
            tls_end.shutdown()

        async def script() -> None:
            link = await connect(other, certificate, version=ssl.TLSVersion.TLSv1_2)
            assert link.version == "TLSv1.2"
            await link.close()
            await link.wait_closed()

        other.serve(engine)
        run(script())

    def test_a_link_that_was_let_go_does_not_wait_for_ever(
        self, other: Other, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_module, "LINGER_SECONDS", 0.05)
        done = threading.Event()

        def engine(tls_end: SSL.Connection, _: socket.socket) -> None:
            tls_end.sendall(b"x" * 1000)
            done.wait(10)

        async def script() -> None:
            link = await connect(other, certificate)
            await link.close()
            open_still = not link.closed
            await link.wait_closed()
            assert open_still
            assert link.closed
            done.set()

        other.serve(engine)
        run(script())


def _refuse_alpn(_: SSL.Connection, __: list[bytes]) -> Any:
    raise ValueError("no common protocol")


@contextlib.asynccontextmanager
async def mini(folder: Path, **options: Any) -> AsyncIterator[MiniEngine]:
    set_default(2)
    engine = MiniEngine(folder, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@contextlib.asynccontextmanager
async def scripted(engine: MiniEngine) -> AsyncIterator[tuple[ScriptedAgent, Transcript]]:
    transcript = Transcript(asyncio.get_running_loop().time)
    agent = ScriptedAgent(engine.access, transcript)
    try:
        yield agent, transcript
    finally:
        await agent.shut()


@contextlib.asynccontextmanager
async def behaved(engine: MiniEngine, **options: Any) -> AsyncIterator[Agent]:
    agent = Agent(engine.access, **options)
    try:
        await agent.open()
        yield agent
    finally:
        await agent.close()


def error_message(kind: str, code: int, text: str, request_id: str = "") -> pb.Message:
    message = pb.Message()
    reply: Any = getattr(message, kind)
    reply.error.code = code
    reply.error.message.value = text
    if request_id:
        reply.request_id = request_id
    return message


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
