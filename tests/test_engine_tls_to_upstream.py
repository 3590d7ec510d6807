"""TLS tunnels whose upstream speaks TLS: what it is offered, and whether it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from reference_engine.relay.tcp import TcpStream
from reference_engine.tls.certificates import Certificates
from reference_engine.tls.endpoint import ServerCertificate
from reference_engine.tls.rules import TlsRules
from reference_engine.tls.stream import TlsStream
from reference_engine.tls.upstream import load_store, verify_chain
from tests.engine_tls_peers import (
    NAME,
    UPSTREAM_CERTIFICATE,
    TlsUpstream,
    echo_once,
    edge_for,
    everything,
    outcome,
)
from tests.engine_tls_support import (
    DOMAIN,
    Client,
    client_hello,
    run,
    upstream,
)


@pytest.mark.parametrize(
    ("listed", "offered", "expected"),
    [(("a", "b"), ("b",), ("b",)), (("a", "b"), (), ("a", "b")), ((), (), ()), ((), ("x",), ())],
)
def test_upstream_alpn(
    tmp_path: Path, listed: tuple[str, ...], offered: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    server = TlsUpstream(select=lambda names: names[0])

    async def play() -> None:
        async with upstream(server) as address, edge_for(tmp_path, upstream_tls=True, tls_alpns=listed) as edge:
            edge.connector.upstream = address
            assert await edge.script(echo_once, NAME, alpns=offered) == b"ping"
        (hello,) = server.hellos
        assert (hello.alpns, hello.alpn_malformed, hello.server_name) == (expected, False, NAME)

    run(play())


def refuse(offered: Sequence[str]) -> str | None:
    return TlsRules().select_alpn(offered, ["other"])


@pytest.mark.parametrize(
    ("select", "works"), [(refuse, False), (lambda offered: "unoffered", False), (lambda offered: None, True)]
)
def test_what_the_upstream_makes_of_the_offer(
    tmp_path: Path, select: Callable[[Sequence[str]], str | None], works: bool
) -> None:
    def script(client: Client) -> bytes:
        client.handshake().send(b"ping")
        return client.receive(4)

    async def play() -> None:
        async with (
            upstream(TlsUpstream(select=select)) as address,
            edge_for(tmp_path, upstream_tls=True, tls_alpns=("foo",)) as edge,
        ):
            edge.connector.upstream = address
            got = await edge.script(script, NAME, alpns=("foo",))
            assert got == (b"ping" if works else b"")

    run(play())


def test_the_upstream_gets_a_hello_of_the_engines_own(tmp_path: Path) -> None:
    server = TlsUpstream()
    sent: list[bytes] = []

    def script(client: Client) -> bytes:
        sent.append(client_hello(NAME))
        return echo_once(client)

    async def play() -> None:
        async with upstream(server) as address, edge_for(tmp_path, upstream_tls=True) as edge:
            edge.connector.upstream = address
            assert await edge.script(script) == b"ping"
        assert server.raw[0][11:43] not in sent[0]
        assert 0x0304 in server.hellos[0].versions

    run(play())


def test_an_upstream_without_tls_gives_no_data(tmp_path: Path) -> None:
    async def plain(stream: TcpStream) -> None:
        await stream.write(b"plain text from a plain upstream\r\n")
        await stream.read()

    async def play() -> None:
        async with upstream(plain) as address, edge_for(tmp_path, upstream_tls=True) as edge:
            edge.connector.upstream = address
            assert await edge.script(outcome) == (b"", "close_notify")

    run(play())


def test_an_upstream_that_does_not_answer_the_hello(tmp_path: Path) -> None:
    async def silent(stream: TcpStream) -> None:
        await everything(stream)

    async def play() -> None:
        settings = {"handshake_timeout_ms": 1000}
        async with upstream(silent) as address, edge_for(tmp_path, settings=settings, upstream_tls=True) as edge:
            edge.connector.upstream = address
            assert await edge.script(outcome) == (b"", "close_notify")

    run(play())


def test_verification_of_the_upstream_when_it_is_on(tmp_path: Path) -> None:
    good = Certificates(domain=DOMAIN, state_dir=tmp_path / "ca").current()
    settings = {"upstream_verify": True, "upstream_ca_file": tmp_path / "ca" / "ca.pem"}

    async def attempt(certificate: ServerCertificate) -> tuple[bytes, bytes]:
        got = bytearray()

        async def keep(stream: TlsStream) -> None:
            while data := await stream.read():
                got.extend(data)
                await stream.write(data)

        def script(client: Client) -> bytes:
            client.handshake().send(b"secret")
            return client.receive(6)

        server = TlsUpstream(keep, certificate=certificate)
        async with upstream(server) as address, edge_for(tmp_path, settings=settings, upstream_tls=True) as edge:
            edge.connector.upstream = address
            return await edge.script(script), bytes(got)

    assert run(attempt(good)) == (b"secret", b"secret")
    assert run(attempt(UPSTREAM_CERTIFICATE)) == (b"", b"")


def test_verify_chain(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    chain = Certificates(domain=DOMAIN, state_dir=tmp_path).current().chain
    der = [one.public_bytes(Encoding.DER) for one in chain]
    store = load_store(tmp_path / "ca.pem")
    assert verify_chain(der, NAME, store) is None
    assert verify_chain(der, "elsewhere.test", store) is not None
    assert verify_chain([], NAME, store) == "the upstream sent no certificate"
    assert verify_chain([b"rubbish"], NAME, store) is not None
