"""TLS tunnels that end at the engine, from the client to the upstream."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.relay.tcp import TcpStream
from reference_engine.tls.stream import TlsStream
from reference_engine.tunnel.model import Tunnel
from tests.engine_tls_peers import (
    MIB,
    NAME,
    TlsUpstream,
    echo_once,
    edge_for,
    everything,
    outcome,
)
from tests.engine_tls_support import (
    DEADLINE,
    DOMAIN,
    Client,
    Handler,
    TcpConnector,
    client_hello,
    echo,
    run,
    upstream,
)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_upstream_gets_the_plaintext_and_the_agent_the_source(tmp_path: Path, version: ssl.TLSVersion) -> None:
    got: list[bytes] = []

    async def keep(stream: TcpStream) -> None:
        got.append(await stream.read())
        await stream.write(b"pong")

    def script(client: Client) -> tuple[bytes, int]:
        return echo_once(client), client.sock.getsockname()[1]

    async def play() -> None:
        async with upstream(keep) as address, edge_for(tmp_path) as edge:
            edge.connector.upstream = address
            answer, port = await edge.script(script, NAME, version=version)
            assert (got, answer) == ([b"ping"], b"pong")
            assert edge.connector.sources == [Address("127.0.0.1", port)]

    run(play())


def test_the_upstream_may_speak_first(tmp_path: Path) -> None:
    async def banner(stream: TcpStream) -> None:
        await stream.write(b"220 ready\r\n")
        await stream.read()

    def script(client: Client) -> bytes:
        return client.handshake().receive(11)

    async def play() -> None:
        forms: tuple[dict[str, Any], ...] = ({}, {"upstream_tls": True})
        for properties in forms:
            handler: Handler = TlsUpstream(banner) if properties else banner  # type: ignore[arg-type]
            async with upstream(handler) as address, edge_for(tmp_path, **properties) as edge:
                edge.connector.upstream = address
                assert await edge.script(script) == b"220 ready\r\n"

    run(play())


@pytest.mark.parametrize("properties", [{}, {"upstream_tls": True}])
def test_bulk_both_ways_at_once(tmp_path: Path, properties: dict[str, Any]) -> None:
    payload = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(4 * MIB // 32))

    def script(client: Client) -> bytes:
        import threading

        client.handshake()
        client.sock.settimeout(DEADLINE)
        got = bytearray()

        def pour() -> None:
            for at in range(0, len(payload), 65_536):
                with lock:
                    client.tls.write(payload[at : at + 65_536])
                    data = client._out.read()
                client.sock.sendall(data)

        lock = threading.Lock()
        pouring = threading.Thread(target=pour)
        pouring.start()
        while len(got) < len(payload):
            with lock:
                try:
                    got += client.tls.read(MIB)
                    continue
                except ssl.SSLWantReadError:
                    pass
            client._in.write(client.sock.recv(MIB))
        pouring.join()
        return bytes(got)

    async def play() -> None:
        handler: Handler = TlsUpstream() if properties else echo
        async with upstream(handler) as address, edge_for(tmp_path, **properties) as edge:
            edge.connector.upstream = address
            assert await edge.script(script) == payload

    run(play())


def test_client_data_glued_to_finished_is_delivered(tmp_path: Path) -> None:
    def script(client: Client) -> bytes:
        return client.handshake(glue=b"early bird").receive(10)

    async def play() -> None:
        async with upstream(echo) as address, edge_for(tmp_path) as edge:
            edge.connector.upstream = address
            assert await edge.script(script) == b"early bird"

    run(play())


def answer_after_the_end(seen: list[bytes]) -> Callable[[ByteStream], Awaitable[None]]:
    async def handler(stream: ByteStream) -> None:
        seen.append(await everything(stream))
        await stream.write(bytes(MIB))

    return handler


@pytest.mark.parametrize("properties", [{}, {"upstream_tls": True}])
def test_tls_1_3_half_close_lets_the_answer_through(tmp_path: Path, properties: dict[str, Any]) -> None:
    seen: list[bytes] = []
    plain = answer_after_the_end(seen)
    handler: Handler = TlsUpstream(plain) if properties else plain

    def script(client: Client) -> tuple[int, str | None, str]:
        client.handshake().send(b"question")
        client.send_close_notify()
        return len(client.receive_all()), client.ending, client.transport_ending()

    async def play() -> None:
        async with upstream(handler) as address, edge_for(tmp_path, **properties) as edge:
            edge.connector.upstream = address
            assert await edge.script(script) == (MIB, "close_notify", "fin")
            assert seen == [b"question"]

    run(play())


def test_tls_1_2_close_notify_is_answered_at_once(tmp_path: Path) -> None:
    ended = []

    async def never_ends(stream: TcpStream) -> None:
        ended.append(await everything(stream))
        await stream.wait_gone()

    def script(client: Client) -> tuple[bytes, str | None, str]:
        client.handshake().send(b"bye")
        client.send_close_notify()
        return client.receive_all(), client.ending, client.transport_ending()

    async def play() -> None:
        async with upstream(never_ends) as address, edge_for(tmp_path) as edge:
            edge.connector.upstream = address
            got = await edge.script(script, NAME, version=ssl.TLSVersion.TLSv1_2)
            assert got == (b"", "close_notify", "fin")
            assert ended == [b"bye"]

    run(play())


@pytest.mark.parametrize("properties", [{}, {"upstream_tls": True}])
def test_a_clean_end_of_the_upstream_is_a_clean_end(tmp_path: Path, properties: dict[str, Any]) -> None:
    async def last_words(stream: ByteStream) -> None:
        await stream.write(bytes(MIB))

    handler: Handler = TlsUpstream(last_words) if properties else last_words

    def script(client: Client) -> tuple[int, str | None, str]:
        client.handshake()
        return len(client.receive_all()), client.ending, client.transport_ending()

    async def play() -> None:
        async with upstream(handler) as address, edge_for(tmp_path, **properties) as edge:
            edge.connector.upstream = address
            assert await edge.script(script) == (MIB, "close_notify", "fin")

    run(play())


@pytest.mark.parametrize("how", ["reset", "eof without close_notify"])
def test_an_abrupt_end_of_the_upstream_is_not_dressed_up(tmp_path: Path, how: str) -> None:
    async def cut(stream: TcpStream) -> None:
        await stream.write(b"half a mess")
        await stream.read()
        stream.abort("on purpose")

    async def truncate(stream: TlsStream) -> None:
        await stream.write(b"half a mess")
        await stream.read()
        await stream._below.close()

    def script(client: Client) -> tuple[bytes, str | None]:
        client.handshake()
        got = client.receive(11)
        client.send(b"go on")
        return got + client.receive_all(), client.ending

    async def play() -> None:
        handler: Handler = cut if how == "reset" else TlsUpstream(truncate)
        async with upstream(handler) as address, edge_for(tmp_path, upstream_tls=how != "reset") as edge:
            edge.connector.upstream = address
            assert await edge.script(script) == (b"half a mess", "rst")

    run(play())


@pytest.mark.parametrize("mode", ["terminated", "passthrough"])
def test_nobody_is_asked_for_a_client_that_has_left(tmp_path: Path, mode: str) -> None:
    class Waits(TcpConnector):
        """Never has a stream; knows who still waits for one."""

        def __init__(self) -> None:
            super().__init__()
            self.asked = asyncio.Event()
            self.given_up = asyncio.Event()

        async def open(self, tunnel: Tunnel, source: Address | None) -> ByteStream:
            self.asked.set()
            try:
                return await asyncio.Future[ByteStream]()
            finally:
                self.given_up.set()

    async def play() -> None:
        async with edge_for(tmp_path, tls_mode=mode) as edge:
            connector = Waits()
            edge.connector = connector

            def script(client: Client) -> None:
                if mode == "terminated":
                    client.handshake().send(b"early")
                else:
                    client.sock.sendall(client_hello(f"a.t.{DOMAIN}"))
                asyncio.run_coroutine_threadsafe(connector.asked.wait(), loop).result()
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

            loop = asyncio.get_running_loop()
            await edge.script(script)
            await connector.given_up.wait()

    run(play())


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_an_abrupt_end_of_the_client_is_not_dressed_up(tmp_path: Path, how: str) -> None:
    async def play() -> None:
        seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def handler(stream: TcpStream) -> None:
            try:
                await stream.write(b"here")
                await everything(stream)
                seen.set_result("clean")
            except StreamReset:
                seen.set_result("reset")

        def script(client: Client) -> None:
            client.handshake().send(b"half")
            assert client.receive(4) == b"here"
            if how == "fin":
                client.sock.shutdown(socket.SHUT_WR)
                client.transport_ending()
            else:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        async with upstream(handler) as address, edge_for(tmp_path) as edge:
            edge.connector.upstream = address
            await edge.script(script)
            assert await seen == "reset"

    run(play())


@pytest.mark.parametrize("mode", ["terminated", "passthrough"])
@pytest.mark.parametrize("kind", ["agent-gone", "refused", "timeout", "capacity", "closed"])
def test_without_an_upstream_the_connection_ends_without_data(tmp_path: Path, mode: str, kind: str) -> None:
    def in_the_clear(client: Client) -> tuple[bytes, str]:
        client.sock.sendall(client_hello(NAME))
        return client.sock.recv(100), "fin"

    async def play() -> None:
        async with edge_for(tmp_path, tls_mode=mode) as edge:
            edge.connector.refusal = UpstreamUnavailable(kind, "not now")
            if mode == "terminated":
                assert await edge.script(outcome) == (b"", "close_notify")
            else:
                assert await edge.script(in_the_clear) == (b"", "fin")

    run(play())


def test_closing_the_tunnel_ends_its_sessions(tmp_path: Path) -> None:
    async def play() -> None:
        forms: tuple[dict[str, Any], ...] = ({}, {"upstream_tls": True}, {"tls_mode": "passthrough"})
        for properties in forms:
            handler: Handler = TlsUpstream() if properties else echo
            async with upstream(handler) as address, edge_for(tmp_path, **properties) as edge:
                edge.connector.upstream = address
                client = await asyncio.to_thread(edge.client().handshake)
                await asyncio.to_thread(echo_once, client)
                mine = edge.registry.tunnels[NAME]
                assert len(mine.sessions) == 1
                for end in tuple(mine.sessions):
                    end("tunnel closed")
                await asyncio.to_thread(client.receive_all)
                client.sock.close()
                # Behind its octets, and not as an end that the upstream announced.
                assert client.ending == "fin"
                await edge.public.stop(5)
                assert mine.sessions == set()

    run(play())


def test_many_at_once_do_not_mix(tmp_path: Path) -> None:
    def script(number: int) -> Callable[[Client], bool]:
        marker = b"%03d" % number * 1000

        def play(client: Client) -> bool:
            client.handshake().send(marker)
            return client.receive(len(marker)) == marker

        return play

    async def play() -> None:
        async with upstream(echo) as address, edge_for(tmp_path) as edge:
            edge.connector.upstream = address
            assert all(await asyncio.gather(*(edge.script(script(number)) for number in range(50))))
            assert len(edge.connector.streams) == 50

    run(play())


def test_min_version_and_alpn_list_of_the_tunnel(tmp_path: Path) -> None:
    def alpn(client: Client) -> str | None:
        return client.handshake().tls.selected_alpn_protocol()

    async def play() -> None:
        async with (
            upstream(echo) as address,
            edge_for(tmp_path, tls_min_version="tls1.3", tls_alpns=("foo", "bar")) as edge,
        ):
            edge.connector.upstream = address
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
                await edge.script(echo_once, NAME, version=ssl.TLSVersion.TLSv1_2)
            with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
                await edge.script(echo_once, NAME, alpns=("zzz",))
            assert edge.connector.sources == []
            assert await edge.script(alpn, NAME, alpns=("zzz", "bar")) == "bar"
            assert await edge.script(alpn, NAME) is None

    run(play())
