"""The unmodified Python SDK of the tunnel service, curl and openssl, against our engine in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

rstream = pytest.importorskip("rstream")

DEADLINE = 30.0
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="not run: needs curl")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="not run: needs openssl")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Running:
    """An engine process and its ready line."""

    process: subprocess.Popen[bytes]
    ready: dict[str, str]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.ready["agent"].rsplit(":", 1)
        return host, int(port)

    def client(self, **options: Any) -> Any:
        """An SDK client of this engine; nothing is taken from the environment or from files."""
        return rstream.Client(
            engine=self.ready["agent"],
            no_token=True,
            read_config_file=False,
            tls=rstream.TLSOptions(ca_file=self.ready["ca_file"], server_name=self.ready["domain"]),
            **options,
        )


@pytest.fixture(scope="module")
def engine() -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "reference_engine", "serve", "--json", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("RSTREAM_")},
    )
    assert process.stdout is not None
    with process:
        try:
            readable, _, _ = select.select([process.stdout], [], [], DEADLINE)
            assert readable, "the engine said nothing"
            yield Running(process, json.loads(process.stdout.readline()))
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0
            assert b"Traceback" not in log, log.decode()
        finally:
            process.kill()


def run(main: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await main

    asyncio.run(bounded())


@asynccontextmanager
async def upstream(serve: Serve) -> AsyncIterator[int]:
    """A TCP server on loopback; its port."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def published(engine: Running, port: int, **options: Any) -> AsyncIterator[Any]:
    """A tunnel of the SDK, forwarded to a local port, and a clean end of it all."""
    client = engine.client()
    control = await client.connect()
    tunnel = await control.create_tunnel(**options)
    forwarding = asyncio.create_task(tunnel.forward_to("127.0.0.1", port))
    yield tunnel
    await tunnel.close()
    await forwarding
    assert tunnel.closed
    await close(client, control)


async def close(client: Any, *controls: Any) -> None:
    """Close channels and client, and wait until the connections are gone: the SDK does not wait for them itself."""
    for control in controls:
        await control.close()
        assert control.closed
        await control._writer.wait_closed()
    await client.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One HTTP/1.1 response that tells the request line and the Host back."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    host = next(line.partition(":")[2].strip() for line in head.splitlines() if line.lower().startswith("host:"))
    body = f"{head.splitlines()[0]}|{host}".encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Upstream: yes\r\n\r\n%b" % (len(body), body))
    await writer.drain()
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def command(*arguments: str, given: bytes = b"") -> bytes:
    """Run a program to its end: its stdout."""
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, complaint = await process.communicate(given)
    assert process.returncode == 0, complaint.decode()
    return out


def test_control_channel_opens_and_closes(engine: Running) -> None:
    async def main() -> None:
        client = engine.client(heartbeat_interval=1.0)
        control = await client.connect()
        assert control.server_details is not None
        assert control.server_details.agent == "edgecase-reference-engine"
        await close(client, control)

    run(main())


@needs_curl
def test_published_http_by_curl(engine: Running) -> None:
    async def main() -> None:
        async with upstream(answer) as port, published(engine, port, protocol="http") as tunnel:
            properties = tunnel.properties
            assert (properties.type, properties.protocol, properties.http_version) == ("bytestream", "http", "http/1.1")
            url = tunnel.forwarding_address
            assert url == f"https://{properties.hostname}:{engine.address[1]}"
            out = await command(
                *(
                    "curl",
                    "-sS",
                    "--http1.1",
                    "--max-time",
                    "20",
                    "--noproxy",
                    "*",
                    "--cacert",
                    engine.ready["ca_file"],
                ),
                *("--resolve", f"{properties.hostname}:{properties.port}:127.0.0.1", "-D", "-", f"{url}/a?b=1"),
            )
            head, _, body = out.decode().partition("\r\n\r\n")
            assert head.startswith("HTTP/1.1 200")
            assert "x-upstream: yes" in head.lower()
            assert body == f"GET /a?b=1 HTTP/1.1|{properties.hostname}:{properties.port}"

    run(main())


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_published_tls_by_openssl(engine: Running, version: str) -> None:
    async def main() -> None:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with upstream(shout) as port, published(engine, port, protocol="tls") as tunnel:
            assert tunnel.properties.tls_mode == "terminated"
            out = await command(
                *("openssl", "s_client", "-quiet", version, "-verify_return_error", "-CAfile", engine.ready["ca_file"]),
                *("-connect", engine.ready["https"], "-servername", tunnel.properties.hostname),
                *("-verify_hostname", tunnel.properties.hostname),
                given=b"hello over tls\n",
            )
            assert out == b"HELLO OVER TLS\n"

    run(main())


@pytest.mark.parametrize("zero_rtt", [True, False])
@pytest.mark.parametrize("by", ["id", "name"])
def test_private_tunnel_dialled(engine: Running, by: str, zero_rtt: bool) -> None:
    async def main() -> None:
        options = {"publish": False, "name": f"private-{by}-{zero_rtt}"}
        async with upstream(echo) as port, published(engine, port, **options) as tunnel:
            assert (tunnel.properties.hostname, tunnel.properties.host, tunnel.properties.port) == (None, None, None)
            client = engine.client(zero_rtt=zero_rtt)
            async with await client.dial(tunnel.id if by == "id" else tunnel.properties.name) as stream:
                stream.write(b"over the tunnel")
                await stream.drain()
                assert await stream.readexactly(15) == b"over the tunnel"
                stream.write_eof()
            await client.close()

    run(main())


def test_ten_streams_at_once(engine: Running) -> None:
    async def main() -> None:
        async with upstream(echo) as port, published(engine, port, publish=False, name="ten") as tunnel:
            client = engine.client()

            async def exchange(number: int) -> None:
                sent = bytes([number]) * 200_000
                async with await client.dial(tunnel.id) as stream:
                    stream.write(sent)
                    await stream.drain()
                    assert await stream.readexactly(len(sent)) == sent

            await asyncio.gather(*(exchange(number) for number in range(10)))
            await client.close()

    run(main())


def test_closed_tunnels_are_gone(engine: Running) -> None:
    async def main() -> None:
        async with upstream(echo) as port, published(engine, port, publish=False, name="short") as tunnel:
            identity = tunnel.id
        client = engine.client(zero_rtt=False)
        for key in (identity, "short", "never-there"):
            with pytest.raises(rstream.EngineError) as caught:
                await client.dial(key)
            assert caught.value.engine_code == 3000
        await client.close()

    run(main())


def test_refusals_reach_the_sdk_and_the_channel_survives(engine: Running) -> None:
    async def main() -> None:
        client = engine.client()
        control = await client.connect()
        for options, code in (
            ({"protocol": "tls", "tls_mode": "passthrough", "upstream_tls": True}, 2000),
            ({"protocol": "http", "token_auth": True}, 5000),
            ({"protocol": "http", "hostname": "x.example"}, 2000),
        ):
            with pytest.raises(rstream.EngineError) as caught:
                await control.create_tunnel(**options)
            assert caught.value.engine_code == code
        tunnel = await control.create_tunnel(protocol="tls")
        await tunnel.close()
        await close(client, control)

    run(main())


def test_heartbeats_keep_the_channel(engine: Running) -> None:
    """Two acknowledged heartbeats: the SDK fails the channel on a wrong one."""

    async def main() -> None:
        client = engine.client(heartbeat_interval=1.0)
        control = await client.connect()
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.3):
                await asyncio.shield(control.done())
        assert time.monotonic() - begun > 1.2
        assert not control.closed
        await close(client, control)

    run(main())
