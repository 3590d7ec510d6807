"""The plain HTTP listener: redirects, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from reference_engine.config import ConfigError, Settings
from reference_engine.edge.redirect import RedirectListener
from reference_engine.relay.stream import Address
from tests.engine_http_support import DOMAIN, FakeEngine, run


async def talk(octets: bytes, port: int = 9443) -> bytes:
    """Everything that the listener answers to `octets`."""
    engine = FakeEngine(Settings(domain=DOMAIN, http_listen=Address("127.0.0.1", 0)))
    engine.public_address = Address("127.0.0.1", port)
    listener = RedirectListener(engine)  # type: ignore[arg-type]
    address = await listener.start()
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(octets)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert engine.connector.opened == 0
        return answer
    finally:
        await listener.stop()


@pytest.mark.parametrize(
    ("octets", "port", "status", "location"),
    [
        (b"GET /a?b=1 HTTP/1.1\r\nHost: a.t.edge.test\r\n\r\n", 443, b"308", b"https://a.t.edge.test/a?b=1"),
        (b"GET /a?b=1 HTTP/1.1\r\nHost: a.t.edge.test:80\r\n\r\n", 9443, b"308", b"https://a.t.edge.test:9443/a?b=1"),
        (b"GET / HTTP/1.0\r\nHost: unknown.example\r\n\r\n", 443, b"301", b"https://unknown.example/"),
        (b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", 443, b"308", b"https://x/p"),
        (b"GET http://y.example/p?q HTTP/1.1\r\nHost: x\r\n\r\n", 443, b"308", b"https://y.example/p?q"),
        (b"GET http://y.example?q HTTP/1.1\r\nHost: x\r\n\r\n", 443, b"308", b"https://y.example/?q"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 443, b"308", b"https://x/"),
        (b"HEAD / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 443, b"308", b"https://[::1]/"),
    ],
)
def test_redirects(octets: bytes, port: int, status: bytes, location: bytes) -> None:
    answer = run(talk(octets, port))
    assert answer.startswith(b"HTTP/1.1 " + status + b" ")
    assert b"\r\nLocation: " + location + b"\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rLocation: evil\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
    ],
)
def test_what_is_malformed_gets_400(octets: bytes) -> None:
    assert run(talk(octets)).startswith(b"HTTP/1.1 400 ")


def test_keep_alive_and_pipelining() -> None:
    answer = run(talk(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n", 443))
    assert answer.index(b"https://x/1") < answer.index(b"https://x/2")


def test_an_occupied_port_is_one_line() -> None:
    async def script() -> None:
        engine = FakeEngine(Settings(domain=DOMAIN, http_listen=Address("127.0.0.1", 0)))
        first = RedirectListener(engine)  # type: ignore[arg-type]
        address = await first.start()
        engine.settings = Settings(domain=DOMAIN, http_listen=address)
        with pytest.raises(ConfigError, match=f"http_listen: cannot listen on {address}"):
            await RedirectListener(engine).start()  # type: ignore[arg-type]
        await first.stop()

    run(script())


def test_stopping_ends_idle_connections() -> None:
    async def script() -> None:
        engine = FakeEngine(Settings(domain=DOMAIN, http_listen=Address("127.0.0.1", 0)))
        listener = RedirectListener(engine)  # type: ignore[arg-type]
        address = await listener.start()
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await listener.stop()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    run(script())
