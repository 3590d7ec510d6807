"""`edgecase forward`: a local service through the reference engine, and every way in which that can fail."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.cli import forward
from harness.engine.process import EngineProcess
from harness.errors import SetupFailed, UsageError
from harness.link.agent import EngineAccess, connect_agent
from harness.link.stream import LinkReset
from harness.link.tcp import TcpListener
from harness.link.udp import UdpListener, connect_udp
from harness.model.spec import TunnelSpec
from harness.peer.agent import Agent
from harness.wire.agent import to_properties

PROGRAM = """
import argparse, sys
from harness.cli import forward
from harness.errors import UsageError
parser = argparse.ArgumentParser()
forward.add(parser.add_subparsers())
arguments = parser.parse_args()
try:
    sys.exit(arguments.run(arguments))
except UsageError as error:
    sys.exit(f'edgecase: {error}')
"""
COMMAND = [sys.executable, "-c", PROGRAM, "forward"]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    forward.add(parser.add_subparsers())
    return parser.parse_args(["forward", *words])


def run(script: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await script

    asyncio.run(bounded())


@asynccontextmanager
async def engine(*flags: str) -> AsyncIterator[tuple[dict[str, Any], EngineProcess]]:
    """The reference engine in a process of its own, and its ready line."""
    command = [sys.executable, "-m", "reference_engine", "serve", "--json", "--listen", "127.0.0.1:0", *flags]
    process = EngineProcess(command)
    await process.start()
    try:
        ready = json.loads(await process.read_line("its ready line", 20))
        process.drain()
        yield ready, process
    finally:
        await process.stop()


@asynccontextmanager
async def forwarding(ready: dict[str, Any], service: str, *words: str) -> AsyncIterator[tuple[EngineProcess, str]]:
    """A running `forward` and the first line that it printed."""
    common = ["--engine", ready["agent"], "--server-name", ready["domain"], "--ca-file", ready["ca_file"]]
    process = EngineProcess([*COMMAND, service, *common, *words])
    await process.start()
    try:
        yield process, (await process.read_line("the public address", 20)).decode()
    finally:
        await process.stop()


class TestForward:
    """Through the reference engine."""

    def test_a_service_behind_a_tls_tunnel(self) -> None:
        async def script() -> None:
            service = TcpListener()
            await service.start()
            words = ["--protocol", "tls", "--tls-alpn", "a/1", "--tls-alpn", "b/1"]
            async with (
                engine() as (ready, _),
                forwarding(ready, str(service.port), *words) as (process, line),
            ):
                public, _, rest = line.partition(" (tls) -> ")
                assert rest == f"127.0.0.1:{service.port}"
                host, _, port = public.partition(":")
                client = await connect_agent(
                    "127.0.0.1", int(port), server_name=host, ca_file=ready["ca_file"], alpn=("b/1",)
                )
                assert client.alpn == "b/1"
                await client.send(b"question")
                await client.send_end()
                link = await service.accept()
                assert await link.receive() == b"question"
                assert await link.receive() == b""
                await link.send(b"the answer")
                await link.send_end()
                assert await client.receive() == b"the answer"
                assert await client.receive() == b""
                told = (await process.read_line("the stream's line", 10)).decode()
                assert " from 127.0.0.1: 8 octets in, 10 out, " in told
                assert told.endswith(" s")
                await client.close()
                await client.wait_closed()
                await link.close()
                await self._interrupt(process)
            await service.stop()

        run(script())

    def test_over_quic(self) -> None:
        async def script() -> None:
            service = TcpListener()
            await service.start()
            words = ("--protocol", "tls", "--transport", "quic")
            async with (
                engine("--udp-listen", "127.0.0.1:0") as (ready, _),
                forwarding({**ready, "agent": ready["udp"]}, str(service.port), *words) as (process, line),
            ):
                host = line.partition(" (tls) -> ")[0].partition(":")[0]
                address, _, port = ready["https"].partition(":")
                client = await connect_agent(address, int(port), server_name=host, ca_file=ready["ca_file"], alpn=())
                await client.send(b"question")
                await client.send_end()
                link = await service.accept()
                assert await link.receive() == b"question"
                assert await link.receive() == b""
                await link.send(b"the answer")
                await link.send_end()
                assert await client.receive() == b"the answer"
                assert await client.receive() == b""
                told = (await process.read_line("the stream's line", 10)).decode()
                assert " from 127.0.0.1: 8 octets in, 10 out, " in told
                await client.close()
                await client.wait_closed()
                await link.close()
                await self._interrupt(process)
            await service.stop()

        run(script())

    def test_a_file_that_is_no_pem_over_quic(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no PEM", encoding="utf-8")

        async def script() -> None:
            async with engine("--udp-listen", "127.0.0.1:0") as (ready, _):
                wrong = {**ready, "agent": ready["udp"], "ca_file": str(tmp_path / "ca.pem")}
                with pytest.raises(SetupFailed, match="edgecase: --ca-file, --certificate, --key: a file is no PEM"):
                    async with forwarding(wrong, "1", "--transport", "quic"):
                        raise AssertionError("it went on")

        run(script())

    async def _interrupt(self, process: EngineProcess) -> None:
        assert process._popen is not None
        process._popen.send_signal(signal.SIGINT)
        assert (await process.read_line("goodbye", 10)).decode() == "interrupted: tunnel closed"
        assert await process.wait() == "exited with status 0"

    def test_nobody_behind_it(self) -> None:
        async def script() -> None:
            service = TcpListener()
            await service.start()
            await service.stop()
            async with (
                engine() as (ready, _),
                forwarding(ready, str(service.port), "--protocol", "tls") as (process, line),
            ):
                host, _, port = line.partition(" (tls)")[0].partition(":")
                client = await connect_agent(
                    "127.0.0.1", int(port), server_name=host, ca_file=ready["ca_file"], alpn=()
                )
                told = (await process.read_line("the stream's line", 10)).decode()
                assert told.endswith(f": refused, 127.0.0.1:{service.port}: Connection refused")
                try:
                    assert await client.receive() == b""
                except LinkReset:
                    assert client.end is not None
                await client.close()
                await client.wait_closed()

        run(script())

    def test_a_private_tunnel_is_dialled_by_its_name(self) -> None:
        async def script() -> None:
            service = TcpListener()
            await service.start()
            words = ["--no-publish", "--name", "mine", "--protocol", "tcp", "--token", "tok"]
            async with (
                engine("--tokens", '["tok"]') as (ready, _),
                forwarding(ready, f"localhost:{service.port}", *words) as (process, line),
            ):
                assert line.startswith("mine (private; dial it by name or id ")
                host, _, port = ready["agent"].rpartition(":")
                dialer = Agent(EngineAccess(host, int(port), ready["domain"], ready["ca_file"], token="tok"))
                stream = await dialer.dial("mine", zero_rtt=False)
                await stream.send(b"x" * 300_000)
                link = await service.accept()
                received = 0
                while received < 300_000:
                    received += len(await link.receive())
                link.abort()
                with pytest.raises(LinkReset):
                    await stream.receive()
                told = (await process.read_line("the stream's line", 10)).decode()
                assert "300000 octets in" in told
                await dialer.close()
            await service.stop()

        run(script())

    def test_the_engine_goes_away(self) -> None:
        async def script() -> None:
            async with (
                engine() as (ready, server),
                forwarding(ready, "1") as (process, line),
            ):
                assert line.startswith("https://")
                await server.stop()
                told = (await process.read_line("the end", 10)).decode()
                assert told.startswith("the engine went away: ")
                assert await process.wait() == "exited with status 1"

        run(script())

    def test_the_engine_refuses(self) -> None:
        async def script() -> None:
            async with engine("--tokens", '["tok"]') as (ready, _):
                common = ["--engine", ready["agent"], "--server-name", ready["domain"], "--ca-file", ready["ca_file"]]
                for words, told in (
                    (["--token", "other"], "the engine refused: error 1000"),
                    (["--token", "tok", "--hostname", "x.example"], "the engine refused: error 2000: hostname"),
                    (["--token", "tok", "--protocol", "tcp"], "the engine refused: error "),
                ):
                    done = await asyncio.to_thread(
                        subprocess.run, [*COMMAND, "8080", *common, *words], capture_output=True, text=True, timeout=20
                    )
                    assert done.returncode == 1
                    assert done.stdout.startswith(told)
                    assert done.stderr == ""

        run(script())

    def test_an_engine_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert forward.run(parse("8080", "--engine", "127.0.0.1:1", "--insecure")) == 1
        assert capsys.readouterr().out.startswith("no tunnel at 127.0.0.1:1: ")


class TestWords:
    """What is said wrong on the command line is one line."""

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["0", "--engine", "e"], r"\[HOST:\]PORT: found '0'"),
            (["a:b", "--engine", "e"], r"\[HOST:\]PORT: found 'a:b'"),
            (["1", "--engine", "https://e"], "--engine: found 'https://e'"),
            (["1", "--engine", "e", "--certificate", "c"], "--certificate: given without --key"),
            (["1", "--engine", "e", "--key", "c"], "--key: given without --certificate"),
            (["1", "--engine", "e", "--ca-file", "/no/such"], "--ca-file: cannot read /no/such: No such file"),
            (["1", "--engine", "e", "--tls-alpn", "a"], "--tls-alpn: found with --protocol http, allowed with tls"),
            (["1", "--engine", "e", "--protocol", "tls", "--http-version", "h2c"], "--http-version"),
            (["1", "--engine", "e", "--protocol", "tcp", "--upstream-tls"], "allowed with http or tls"),
            (["1", "--engine", "e", "--no-publish", "--hostname", "h"], "--hostname: found with --no-publish"),
        ],
    )
    def test_usage(self, words: list[str], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            forward.run(parse(*words))

    def test_two_credentials(self) -> None:
        with pytest.raises(UsageError, match="--token: given together with --certificate"):
            forward.run(parse("1", "--engine", "e", "--certificate", "c", "--key", "k", "--token", "t"))

    def test_a_file_that_is_no_pem(self, tmp_path: Path) -> None:
        file = tmp_path / "ca.pem"
        file.write_text("no certificate")
        with pytest.raises(UsageError, match="--ca-file, --certificate, --key: a file is no PEM"):
            forward.run(parse("1", "--engine", "127.0.0.1:1", "--ca-file", str(file)))

    def test_the_token_may_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(forward.TOKEN_VARIABLE, "from-there")
        assert forward._access(parse("1", "--engine", "e")).token == "from-there"
        assert forward._access(parse("1", "--engine", "e", "--token", "t")).token == "t"

    @pytest.mark.parametrize(
        ("told", "address"),
        [
            ({"protocol": "http", "hostname": "h", "port": 443}, "https://h"),
            ({"hostname": "h", "port": 8443}, "https://h:8443"),
            ({"protocol": "tls", "hostname": "h"}, "h:443 (tls)"),
            ({"protocol": "tcp", "hostname": "h", "port": 9}, "h:9 (tcp)"),
        ],
    )
    def test_public_addresses(self, told: dict[str, Any], address: str) -> None:
        assert forward.public_address(to_properties(TunnelSpec(publish=True, **told))) == address


class TestPackets:
    """A QUIC server behind it: packets, which `forward` does not look into."""

    def test_what_is_asked_for(self) -> None:
        spec = forward._spec(parse("4433", "--engine", "e:1", "--protocol", "quic", "--tls-alpn", "a/1"))
        assert (spec.protocol, spec.type, spec.tls_alpns, spec.datagrams) == ("quic", "datagram", ("a/1",), True)

    def test_a_service_of_http_3_is_given_packets(self) -> None:
        spec = forward._spec(parse("4433", "--engine", "e:1", "--http-version", "h3"))
        assert (spec.protocol, spec.type, spec.http_version, spec.datagrams) == ("http", "datagram", "h3", True)
        assert forward._spec(parse("1", "--engine", "e:1")).datagrams is False

    def test_packets_are_carried_until_one_side_is_over(self) -> None:
        async def script() -> None:
            listener = UdpListener()
            await listener.start()
            client, service = [await connect_udp(listener.host, listener.port) for _ in range(2)]
            pumping = asyncio.ensure_future(forward.pump_packets(client, service))
            service.send(b"where I am")
            back = await listener.accept()
            client.send(b"hello")
            other = await listener.accept()
            assert (await back.receive(), await other.receive()) == (b"where I am", b"hello")
            for packet in (b"one", b"", b"two"):
                other.send(packet)
                assert await back.receive() == packet
            client.abort()
            assert await pumping == (3, "")
            with pytest.raises(LinkReset):
                service.send(b"late")
            await listener.stop()

        run(script())
