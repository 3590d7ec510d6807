"""The public listener: every connection gets to its front, or is refused without touching one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from reference_engine.config import ConfigError
from reference_engine.edge.client_hello import UNRECOGNIZED_NAME
from reference_engine.edge.rules import EdgeRules
from reference_engine.relay.stream import Address
from reference_engine.tls.rules import TlsRules
from tests.engine_tls_support import (
    DEADLINE,
    DOMAIN,
    Client,
    Edge,
    client_hello,
    echo,
    run,
    self_signed,
    trusting,
    tunnel,
    upstream,
    write_pem,
)


def first_octets(client: Client) -> bytes:
    return client.handshake().receive_all()


def raw(address: Address, *pieces: bytes) -> tuple[bytes, str]:
    """Send octets and read to the end: what came, and how it ended."""
    got = b""
    try:
        with socket.create_connection((address.host, address.port), timeout=DEADLINE) as sock:
            for piece in pieces:
                sock.sendall(piece)
            while data := sock.recv(65536):
                got += data
    except ConnectionError:
        return got, "rst"
    return got, "fin"


def alert(number: int) -> bytes:
    return bytes((21, 3, 3, 0, 2, 2, number))


def test_fronts_by_name_and_alpn(tmp_path: Path) -> None:
    async def play() -> None:
        async with Edge(tmp_path, tunnel("web", protocol="http")) as edge:
            assert await edge.script(first_octets, DOMAIN, alpns=("rstrm/1",)) == b"agents"
            assert await edge.script(first_octets, None, alpns=("rstrm/1",)) == b"agents"
            assert await edge.script(first_octets, f"default.{DOMAIN}") == b"api"
            assert await edge.script(first_octets, DOMAIN, alpns=("h2", "http/1.1")) == b"api"
            assert await edge.script(first_octets, f"WEB.t.{DOMAIN}", alpns=("http/1.1",)) == b"http"
            (agent, _), (api, _), (web,) = edge.agents.seen, edge.api.seen, edge.http.seen
            assert (agent.alpn, agent.version, agent.server_name) == ("rstrm/1", "TLSv1.3", DOMAIN)
            assert (api.alpn, api.server_name) == (None, f"default.{DOMAIN}")
            assert (web.alpn, web.server_name) == ("http/1.1", f"web.t.{DOMAIN}")
            assert agent.peer is not None
            assert agent.peer.host == "127.0.0.1"

    run(play())


def test_the_certificate_verifies_for_every_name(tmp_path: Path) -> None:
    async def play() -> None:
        async with Edge(tmp_path, tunnel("web", protocol="http")) as edge:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            for name in (DOMAIN, f"default.{DOMAIN}", f"web.t.{DOMAIN}", "127.0.0.1"):
                context.set_alpn_protocols(["http/1.1"])

                def verified(name: str = name) -> None:
                    with Client(edge.address, name, context) as client:
                        client.handshake()

                await asyncio.to_thread(verified)

    run(play())


def test_agents_need_tls_1_3_and_may_show_a_certificate(tmp_path: Path) -> None:
    async def play() -> None:
        async with Edge(tmp_path) as edge:
            with pytest.raises(ssl.SSLError):
                await edge.script(first_octets, DOMAIN, alpns=("rstrm/1",), version=ssl.TLSVersion.TLSv1_2)
            context = trusting(alpns=("rstrm/1",))
            context.load_cert_chain(*write_pem(self_signed("agent"), tmp_path))

            def connect() -> bytes:
                with Client(edge.address, DOMAIN, context) as client:
                    return first_octets(client)

            assert await asyncio.to_thread(connect) == b"agents"
            assert await edge.script(first_octets, DOMAIN, alpns=("rstrm/1",)) == b"agents"
            assert [stream.client_certificate is not None for stream in edge.agents.seen] == [True, False]

    run(play())


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (client_hello(f"nobody.t.{DOMAIN}"), alert(UNRECOGNIZED_NAME)),
        (client_hello(None), alert(UNRECOGNIZED_NAME)),
        (client_hello("elsewhere.test", alpns=("http/1.1",)), alert(UNRECOGNIZED_NAME)),
        (client_hello(DOMAIN, alpns=("zzz",)), alert(120)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (b"\x16\x03\x01\x40\x01", alert(22)),
    ],
)
def test_refusals(tmp_path: Path, sent: bytes, answer: bytes) -> None:
    async def play() -> None:
        async with Edge(tmp_path, tunnel()) as edge:
            assert await asyncio.to_thread(raw, edge.address, sent) == (answer, "fin")
            assert edge.connector.sources == []
            assert edge.agents.seen == edge.api.seen == edge.http.seen == []

    run(play())


def test_http_tunnels_follow_version_and_alpn_rules(tmp_path: Path) -> None:
    async def play() -> None:
        async with Edge(tmp_path, tunnel("web", protocol="http", tls_min_version="tls1.3")) as edge:
            for options in ({"version": ssl.TLSVersion.TLSv1_2}, {"alpns": ("h3",)}):
                with pytest.raises(ssl.SSLError):
                    await edge.script(first_octets, f"web.t.{DOMAIN}", **options)
            assert edge.http.seen == []

    run(play())


def test_project_minimum_holds_wherever_tls_ends(tmp_path: Path) -> None:
    async def play() -> None:
        async with Edge(tmp_path, tunnel("web", protocol="http"), project_tls_min_version="tls1.3") as edge:
            for name in (f"web.t.{DOMAIN}", DOMAIN):
                with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
                    await edge.script(first_octets, name, version=ssl.TLSVersion.TLSv1_2)

    run(play())


def test_who_does_not_finish_the_handshake_is_dropped(tmp_path: Path) -> None:
    async def play() -> None:
        async with Edge(tmp_path, tunnel(), handshake_timeout_ms=1000) as edge:
            hello = client_hello(f"a.t.{DOMAIN}")
            nothing, part, (got, ending) = await asyncio.gather(
                *(asyncio.to_thread(raw, edge.address, sent) for sent in (b"", hello[:100], hello))
            )
            assert nothing == part == (b"", "rst")
            assert got[:3] == b"\x16\x03\x03"
            assert ending == "rst"

    run(play())


def test_the_cap_on_connections(tmp_path: Path) -> None:
    async def play() -> None:
        async with upstream(echo) as address, Edge(tmp_path, tunnel(), max_connections=1) as edge:
            edge.connector.upstream = address
            first = await asyncio.to_thread(lambda: edge.client().handshake())
            (held,) = edge.public._streams
            assert await asyncio.to_thread(raw, edge.address) == (b"", "rst")
            first.sock.close()
            await held.wait_gone()
            assert edge.public.connections == 0
            assert await edge.script(first_octets, DOMAIN) == b"api"

    run(play())


def test_stop_ends_what_is_left_after_the_grace(tmp_path: Path) -> None:
    async def play() -> None:
        async with upstream(echo) as address, Edge(tmp_path, tunnel()) as edge:
            edge.connector.upstream = address
            client = await asyncio.to_thread(lambda: edge.client().handshake())
            client.send(b"hello")
            assert await asyncio.to_thread(client.receive, 5) == b"hello"
            await edge.public.stop(0.01)
            assert edge.public.connections == 0
            await asyncio.to_thread(client.receive_all)
            client.sock.close()
            assert client.ending == "rst"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((edge.address.host, edge.address.port))

    run(play())


def test_stop_again_cuts_the_grace_short(tmp_path: Path) -> None:
    async def play() -> None:
        async with upstream(echo) as address, Edge(tmp_path, tunnel()) as edge:
            edge.connector.upstream = address
            client = await asyncio.to_thread(lambda: edge.client().handshake())
            patient = asyncio.create_task(edge.public.stop(60))
            await asyncio.sleep(0)
            await edge.public.stop(0)
            await patient
            assert edge.public.connections == 0
            client.sock.close()

    run(play())


def test_a_rule_that_is_replaced_later_counts_from_then_on(tmp_path: Path) -> None:
    """What a mutant needs: rules are reached when they are called, not when the engine is made."""

    class Deaf(TlsRules):
        def select_alpn(self, offered: Sequence[str], configured: Sequence[str]) -> str | None:
            return None

    class Blind(EdgeRules):
        def normal_name(self, server_name: str | None) -> str | None:
            return None

    async def play() -> None:
        async with Edge(tmp_path, tunnel("web", protocol="http")) as edge:
            edge.parts.tls = Deaf()
            assert await edge.script(first_octets, f"web.t.{DOMAIN}", alpns=("h2",)) == b"http"
            edge.parts.edge = Blind()
            with pytest.raises(ssl.SSLError):
                await edge.script(first_octets, f"web.t.{DOMAIN}", alpns=("h2",))

    run(play())


def test_an_occupied_port_is_one_line(tmp_path: Path) -> None:
    async def play() -> None:
        async with Edge(tmp_path) as edge:
            other = Edge(tmp_path, listen=edge.address)
            with pytest.raises(ConfigError, match=r"listen: cannot listen on 127\.0\.0\.1:") as caught:
                await other.public.start()
            assert "\n" not in str(caught.value)

    run(play())


def test_a_front_that_fails_resets_its_connection_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        async with Edge(tmp_path) as edge:

            async def broken(stream: object) -> None:
                raise ZeroDivisionError("a bug of ours")

            edge.api.serve = broken  # type: ignore[method-assign, assignment]

            def ending(client: Client) -> str | None:
                client.handshake().receive_all()
                return client.ending

            assert await edge.script(ending, DOMAIN) == "rst"
            assert await edge.script(first_octets, DOMAIN, alpns=("rstrm/1",)) == b"agents"

    run(play())
    assert "a bug of ours" in caplog.text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
def test_openssl_talks_to_a_terminated_tunnel(tmp_path: Path) -> None:
    async def play() -> None:
        async with upstream(echo) as address, Edge(tmp_path, tunnel(tls_alpns=("foo/1",))) as edge:
            edge.connector.upstream = address
            process = await asyncio.create_subprocess_exec(
                "openssl", "s_client", "-connect", str(edge.address), "-servername", f"a.t.{DOMAIN}",
                "-alpn", "foo/1", "-CAfile", str(tmp_path / "ca.pem"), "-verify_return_error", "-quiet",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"one line\n")
            assert await process.stdout.readline() == b"one line\n"
            process.stdin.close()
            process.terminate()
            await process.communicate()

    run(play())
