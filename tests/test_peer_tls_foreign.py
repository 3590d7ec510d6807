"""The TLS peer on real sockets against the `openssl` command, and its wire against a third family (tlslite-ng)."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest

from harness.evidence.transcript import DOWNSTREAM, UPSTREAM, Transcript
from harness.link.stream import End, EndKind
from harness.link.tcp import TcpListener, connect_tcp
from harness.peer import tls_pki
from harness.peer.tls import TlsPeer
from harness.wire.tls import TLS12, TLS13, Data, HandshakeDone, ServerOptions, TicketReceived, TlsClient, TlsServer
from tests.tls_support import NAME, every, files, only, usual_client, usual_server

with warnings.catch_warnings():
    # The package imports the standard library's asyncore, which is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
VERSIONS = [pytest.param(TLS12, id="1.2"), pytest.param(TLS13, id="1.3")]
FLAGS = {TLS12: "-tls1_2", TLS13: "-tls1_3"}


def channel(us: str) -> Any:
    return Transcript(lambda: 0.0).channel(DOWNSTREAM if us == "client" else UPSTREAM, us, us)


class OpensslServer:
    """`openssl s_server` on a port of its own."""

    def __init__(self, *flags: str) -> None:
        self.flags = flags

    async def __aenter__(self) -> Self:
        paths = files()
        pem = ("-cert", str(paths["chain"]), "-key", str(paths["key"]))
        self.process = await asyncio.create_subprocess_exec(
            "openssl",
            "s_server",
            "-accept",
            "127.0.0.1:0",
            *pem,
            *self.flags,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        found = await self.line(rb"ACCEPT 127\.0\.0\.1:(\d+)")
        self.port = int(found.group(1))
        return self

    async def line(self, pattern: bytes) -> re.Match[bytes]:
        assert self.process.stdout is not None
        async with asyncio.timeout(5):
            while True:
                line = await self.process.stdout.readline()
                assert line, f"openssl ended before {pattern!r}"
                found = re.search(pattern, line)
                if found:
                    return found

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


async def connect(port: int, **options: Any) -> TlsPeer:
    return TlsPeer.client(await connect_tcp("127.0.0.1", port), channel("client"), usual_client(**options))


@pytest.mark.parametrize("version", VERSIONS)
def test_client_to_s_server(version: int) -> None:
    async def main() -> None:
        async with OpensslServer("-rev", FLAGS[version], "-alpn", "foo,bar") as server:
            client = await connect(server.port, alpn=("bar",))
            done = await client.handshake()
            assert (done.version, done.alpn, done.peer_verified) == (version, "bar", None)
            await client.send(b"stressed\n")
            assert await client.receive_exactly(9) == b"desserts\n"
            await client.close()

    asyncio.run(main())


def test_early_data_to_s_server() -> None:
    async def main() -> None:
        async with OpensslServer("-early_data", "-tls1_3", "-naccept", "2") as server:
            first = await connect(server.port)
            await first.handshake()
            ticket = await first.read_until(TicketReceived)
            assert isinstance(ticket, TicketReceived)
            assert ticket.session.max_early_data > 0
            await first.close()
            second = await connect(server.port, session=ticket.session, early_data=b"early words\n")
            done = await second.handshake()
            assert done.early_data_accepted
            assert done.resumed
            await server.line(rb"early words")
            await second.close()

    asyncio.run(main())


def test_min_version_of_s_server_is_an_alert() -> None:
    async def main() -> None:
        async with OpensslServer("-tls1_3") as server:
            client = await connect(server.port, versions=(TLS12,))
            assert await client.try_handshake() == End(EndKind.ALERT, 70)
            await client.close()

    asyncio.run(main())


async def with_s_client(
    flags: tuple[str, ...], options: ServerOptions, script: Callable[[TlsPeer], Awaitable[None]]
) -> bytes:
    """Serve one `openssl s_client`; gives what it printed."""
    listener = TcpListener()
    await listener.start()
    process = await asyncio.create_subprocess_exec(
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{listener.port}",
        "-CAfile",
        str(files()["ca"]),
        "-servername",
        NAME,
        "-verify_hostname",
        NAME,
        "-verify_return_error",
        *flags,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(5):
            peer = TlsPeer.server(await listener.accept(), channel("upstream"), options)
        assert process.stdin is not None
        process.stdin.write(b"hello\n")
        await script(peer)
        await peer.close()
        return (await process.communicate())[0]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        await listener.stop()


@pytest.mark.parametrize("version", VERSIONS)
def test_server_to_s_client(version: int) -> None:
    async def script(peer: TlsPeer) -> None:
        done = await peer.handshake()
        assert (done.version, done.alpn, done.server_name) == (version, "foo", NAME)
        assert await peer.receive_exactly(6) == b"hello\n"
        await peer.send(b"and goodbye\n")

    printed = asyncio.run(with_s_client((FLAGS[version], "-alpn", "foo,x"), usual_server(alpn=("foo",)), script))
    assert b"and goodbye" in printed
    assert b"Verify return code: 0 (ok)" in printed
    assert b"ALPN protocol: foo" in printed


def test_refusal_of_alpn_as_s_client_prints_it() -> None:
    async def script(peer: TlsPeer) -> None:
        assert isinstance(await peer.try_handshake(), End)

    printed = asyncio.run(with_s_client(("-alpn", "x"), usual_server(alpn=("foo",)), script))
    assert b"alert no application protocol" in printed


# A third family: tlslite-ng is pure Python and shares nothing with OpenSSL.


def tlslite_settings(version: int) -> HandshakeSettings:
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = (3, version - 0x0300)
    return settings


def talk(ours: TlsClient | TlsServer, sock: socket.socket) -> list[Any]:
    """Drive our endpoint over a blocking socket until the other side closes; echo what comes."""
    events: list[Any] = []
    if isinstance(ours, TlsClient):
        sock.sendall(ours.start())
    sent = False
    while data := sock.recv(65536):
        events += ours.receive(data)
        if ours.peer_closed:
            # It does not wait for our close_notify.
            return events
        if ours.established and not sent and isinstance(ours, TlsClient):
            sent = True
            sock.sendall(ours.outgoing() + ours.send(b"ping"))
        for event in every(events, Data)[-1:]:
            if isinstance(ours, TlsServer) and event.data == b"ping" and not sent:
                sent = True
                sock.sendall(ours.outgoing() + ours.send(b"pong"))
        answer = ours.outgoing()
        if answer:
            sock.sendall(answer)
    return events


def with_tlslite(ours: TlsClient | TlsServer, theirs: Callable[[TLSConnection], None]) -> list[Any]:
    left, right = socket.socketpair()
    left.settimeout(5)
    right.settimeout(5)
    failed: list[BaseException] = []

    def run() -> None:
        connection = TLSConnection(right)
        try:
            theirs(connection)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failed.append(error)
        finally:
            right.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        events = talk(ours, left)
    finally:
        left.close()
        thread.join(5)
    assert not failed, failed
    return events


@pytest.mark.parametrize("version", VERSIONS)
def test_client_to_a_third_family(version: int) -> None:
    identity = tls_pki.identity(NAME, kind="rsa")
    chain = X509CertChain()
    chain.parsePemList(tls_pki.chain_pem(identity).decode())
    key = parsePEMKey(tls_pki.key_pem(identity).decode(), private=True)

    def serve(connection: TLSConnection) -> None:
        connection.handshakeServer(certChain=chain, privateKey=key, settings=tlslite_settings(version), alpn=[b"foo"])
        assert connection.read(4, 4) == b"ping"
        connection.write(b"pong")
        connection.close()

    events = with_tlslite(TlsClient(usual_client(alpn=("foo",))), serve)
    done = only(events, HandshakeDone)
    assert (done.version, done.alpn, done.peer_verified) == (version, "foo", None)
    assert only(events, Data).data == b"pong"


@pytest.mark.parametrize("version", VERSIONS)
def test_server_to_a_third_family(version: int) -> None:
    def call(connection: TLSConnection) -> None:
        connection.handshakeClientCert(settings=tlslite_settings(version), serverName=NAME, alpn=[b"foo"])
        connection.write(b"ping")
        assert connection.read(4, 4) == b"pong"
        connection.close()

    events = with_tlslite(TlsServer(usual_server(alpn=("foo",))), call)
    done = only(events, HandshakeDone)
    assert (done.version, done.alpn, done.server_name) == (version, "foo", NAME)
