"""The agent's link over real TLS: its ends kept apart."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from OpenSSL import SSL

from harness.link import agent as link_module
from harness.link.agent import AgentLink, HandshakeFailed, connect_agent
from harness.link.stream import EndKind, LinkReset
from tests.agent_peers import run
from tests.agent_support import DOMAIN, make_certificate


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
