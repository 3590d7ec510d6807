"""TLS tunnels that are passed through."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from reference_engine.relay.stream import Address, StreamReset
from reference_engine.relay.tcp import TcpStream
from tests.engine_tls_peers import (
    NAME,
    UPSTREAM_CERTIFICATE,
    edge_for,
    everything,
)
from tests.engine_tls_support import (
    Client,
    client_hello,
    run,
    upstream,
    write_pem,
)


def test_passthrough_shows_the_upstreams_certificate_and_no_setting_touches_it(tmp_path: Path) -> None:
    chain, key = write_pem(UPSTREAM_CERTIFICATE, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["y"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await reader.read()
        writer.close()
        await writer.wait_closed()

    def script(client: Client) -> tuple[bytes | None, str | None, str | None, bytes]:
        client.handshake().send(b"ping")
        tls = client.tls
        result = tls.getpeercert(binary_form=True), tls.version(), tls.selected_alpn_protocol(), client.receive(4)
        client.send_close_notify()
        client.receive_all()
        return result

    async def play() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        settings = {"project_tls_min_version": "tls1.3"}
        async with edge_for(tmp_path, settings=settings, tls_mode="passthrough") as edge:
            edge.connector.upstream = Address(*server.sockets[0].getsockname()[:2])
            certificate, version, alpn, got = await edge.script(script, NAME, alpns=("x", "y"))
        server.close()
        await server.wait_closed()
        assert certificate == ssl.PEM_cert_to_DER_cert(chain.read_text())
        assert (version, alpn, got) == ("TLSv1.2", "y", b"ping")

    run(play())


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_passthrough_is_octet_for_octet(tmp_path: Path, piece: int) -> None:
    """Split anywhere, over records of 60 octets, with whatever follows: the upstream gets what was sent."""
    message = client_hello(NAME)[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (message[at : at + 60] for at in range(0, len(message), 60))
    )
    sent = records + b"\x15\x03\x03\x00\x02\x01\x64" + bytes(range(256))
    answer = b"\x15\x03\x03\x00\x02\x02\x28" + bytes(1000)

    async def play() -> None:
        seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def keep(stream: TcpStream) -> None:
            seen.set_result(await everything(stream))
            await stream.write(answer)

        def script(client: Client) -> bytes:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(sent), piece):
                client.sock.sendall(sent[at : at + piece])
            client.sock.shutdown(socket.SHUT_WR)
            got = b""
            while data := client.sock.recv(65536):
                got += data
            return got

        async with upstream(keep) as address, edge_for(tmp_path, tls_mode="passthrough") as edge:
            edge.connector.upstream = address
            assert await edge.script(script) == answer
            assert await seen == sent

    run(play())


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_passthrough_keeps_a_reset_a_reset(tmp_path: Path, who: str) -> None:
    async def play() -> None:
        seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def handler(stream: TcpStream) -> None:
            await stream.read()
            if who == "upstream":
                stream.abort("on purpose")
                return
            try:
                await stream.write(b"here")
                await everything(stream)
                seen.set_result("clean")
            except StreamReset:
                seen.set_result("reset")

        def script(client: Client) -> str:
            client.sock.sendall(client_hello(NAME))
            if who == "upstream":
                return client.transport_ending()
            assert client.sock.recv(4) == b"here"
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return ""

        async with upstream(handler) as address, edge_for(tmp_path, tls_mode="passthrough") as edge:
            edge.connector.upstream = address
            ending = await edge.script(script)
            assert (ending if who == "upstream" else await seen) in ("rst", "reset")

    run(play())
