"""What the tests of the engine's edge share: streams in memory, TLS peers of the standard library, an edge."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.config import Settings
from reference_engine.edge.listener import PublicListener
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.relay.tcp import TcpStream, connect
from reference_engine.tls.certificates import Certificates
from reference_engine.tls.endpoint import ServerCertificate
from reference_engine.tls.stream import TlsStream
from reference_engine.tls.tunnel import TlsTunnels
from reference_engine.tls.upstream import UpstreamTls
from reference_engine.tunnel.model import Tunnel, TunnelProperties

T = TypeVar("T")
DOMAIN = "edge.test"
DEADLINE = 10.0


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within the deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE):
            return await coroutine

    return asyncio.run(bounded())


# -- certificates ----------------------------------------------------------------------------------------------------


@cache
def self_signed(*names: str) -> ServerCertificate:
    """A self-signed certificate for `names`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return ServerCertificate((certificate,), key)


def write_pem(certificate: ServerCertificate, folder: Path, stem: str = "peer") -> tuple[Path, Path]:
    """Chain and key as files."""
    chain, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    chain.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificate.chain))
    key.write_bytes(certificate.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, key


# -- streams in memory -----------------------------------------------------------------------------------------------


class Pipe(ByteStream):
    """One end of a stream in memory; `log` keeps how our side was ended."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.far: Pipe = self
        self.log: list[str] = []
        self._room = room
        self._inbox: list[bytes] = []
        self._size = 0
        self._eof = False
        self._reset: str | None = None
        self._changed = asyncio.Event()
        self._arrived: Callable[[], None] | None = None

    @classmethod
    def pair(cls, room: int = 1 << 20) -> tuple[Pipe, Pipe]:
        """Both ends."""
        near, far = cls(room), cls(room)
        near.far, far.far = far, near
        return near, far

    @property
    def unread(self) -> int:
        """Octets that wait to be read at this end."""
        return self._size

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self.far._changed.set()
        for end in (self, self.far):
            if end._arrived is not None:
                asyncio.get_running_loop().call_soon(end._arrived)

    async def read(self) -> bytes:
        while (data := self.read_now()) is None:
            await self._wait()
        return data

    def read_now(self) -> bytes | None:
        if not self._inbox:
            if self._reset is not None:
                raise StreamReset(self._reset)
            return b"" if self._eof else None
        data = self._inbox.pop(0)
        self._size -= len(data)
        self._change()
        return data

    def on_arrival(self, arrived: Callable[[], None] | None) -> None:
        self._arrived = arrived

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._reset is not None:
            raise StreamReset(self._reset)
        self.far._inbox.append(bytes(data))
        self.far._size += len(data)
        self._change()
        while self.far._size > self._room:
            await self._wait()
            if self._reset is not None:
                raise StreamReset(self._reset)

    async def end(self) -> None:
        if "end" not in self.log:
            self.log.append("end")
        self.far._eof = True
        self._change()

    async def close(self) -> None:
        self.log.append("close")
        self.far._eof = True
        self._change()

    def abort(self, reason: str) -> None:
        self.log.append(f"abort: {reason}")
        self._reset = self.far._reset = reason
        self._change()


# -- a TLS client that shows how a connection ends -------------------------------------------------------------------


@dataclass
class Client:
    """A TLS client on a blocking socket, record by record; run it in a thread. `ending` tells `close_notify`, `fin`
    (without close_notify), `rst` or `alert`."""

    address: Address
    server_name: str | None
    context: ssl.SSLContext
    session: ssl.SSLSession | None = None
    ending: str | None = None
    sock: socket.socket = field(init=False)
    tls: ssl.SSLObject = field(init=False)

    def __post_init__(self) -> None:
        self.sock = socket.create_connection((self.address.host, self.address.port), timeout=DEADLINE)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self._in, self._out, server_hostname=self.server_name, session=self.session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _flush(self) -> None:
        if self._out.pending:
            self.sock.sendall(self._out.read())

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            self.ending = "rst"
            return False
        if not data:
            self.ending = "fin"
            return False
        self._in.write(data)
        return True

    def handshake(self, *, glue: bytes = b"") -> Client:
        """Complete the handshake; `glue` goes out in one segment with the last flight. Raises ssl.SSLError."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._more():
                    raise ConnectionError(self.ending) from None
                continue
            except ssl.SSLError:
                self._flush()
                raise
            if glue:
                self.tls.write(glue)
            self._flush()
            return self

    def send(self, data: bytes) -> None:
        """Application data."""
        self.tls.write(data)
        self._flush()

    def send_close_notify(self) -> None:
        """End our direction, and go on reading."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()

    def receive(self, count: int = 1) -> bytes:
        """At least `count` octets, or what came before the end."""
        data = b""
        while len(data) < count and self.ending is None:
            try:
                piece = self.tls.read(65536)
                if not piece:
                    self.ending = "close_notify"
                data += piece
            except ssl.SSLWantReadError:
                self._more()
            except ssl.SSLZeroReturnError:
                self.ending = "close_notify"
            except ssl.SSLError as problem:
                self.ending = f"alert {problem.reason}"
        return data

    def receive_all(self) -> bytes:
        """Everything up to the end."""
        return self.receive(1 << 40)

    def transport_ending(self) -> str:
        """How TCP ends behind the TLS: `fin` or `rst`."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            return "rst"
        return "fin"


def trusting(*, alpns: tuple[str, ...] = (), version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client context that verifies nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpns:
        context.set_alpn_protocols(list(alpns))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def client_hello(server_name: str | None = None, **options: Any) -> bytes:
    """The records of a ClientHello as the standard library writes it."""
    out = ssl.MemoryBIO()
    tls = trusting(**options).wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


# -- an engine made of the edge alone --------------------------------------------------------------------------------


class Names:
    """A registry of a few tunnels."""

    def __init__(self, *tunnels: Tunnel) -> None:
        self.tunnels = {tunnel.properties.hostname: tunnel for tunnel in tunnels}

    def by_hostname(self, name: str) -> Tunnel | None:
        return self.tunnels.get(name)


def tunnel(label: str = "a", **properties: Any) -> Tunnel:
    """A published tunnel `<label>.t.edge.test`; TLS, terminated, unless said otherwise."""
    values = {"protocol": "tls", "tls_mode": "terminated", "publish": True, **properties}
    if values["protocol"] != "tls":
        values.pop("tls_mode")
    return Tunnel(label, TunnelProperties(hostname=f"{label}.t.{DOMAIN}", **values), "client-1", "default")


class TcpConnector:
    """Opens a TCP connection to `upstream` where the engine would ask an agent; `refusal` is raised instead if set."""

    def __init__(self) -> None:
        self.upstream: Address | None = None
        self.refusal: UpstreamUnavailable | None = None
        self.sources: list[Address | None] = []
        self.streams: list[TcpStream] = []

    async def open(self, tunnel: Tunnel, source: Address | None) -> ByteStream:
        self.sources.append(source)
        if self.refusal is not None or self.upstream is None:
            raise self.refusal or UpstreamUnavailable("refused", "no upstream in this test")
        stream = await connect(self.upstream.host, self.upstream.port, close_timeout=1.0)
        self.streams.append(stream)
        return stream


class Front:
    """Stands for agents, API and HTTP: keeps what it was handed, and answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[TlsStream] = []

    async def serve(self, stream: TlsStream, tunnel: Tunnel | None = None) -> None:
        self.seen.append(stream)
        await stream.write(self.name.encode())
        await stream.close()


class Edge:
    """The attributes of `Engine` that the edge uses."""

    def __init__(self, state_dir: Path, *tunnels: Tunnel, parts: Parts | None = None, **settings: Any) -> None:
        keys: dict[str, Any] = {
            "listen": Address("127.0.0.1", 0),
            "domain": DOMAIN,
            "close_timeout_ms": 1000,
            **settings,
        }
        self.settings = Settings(**keys)
        self.parts = parts or Parts()
        self.registry = Names(*tunnels)
        self.connector = TcpConnector()
        self.certificates = Certificates(domain=DOMAIN, state_dir=state_dir)
        self.log = logging.getLogger("reference_engine.tests")
        self.agents, self.api, self.http = Front("agents"), Front("api"), Front("http")
        engine: Any = self
        self.upstream_tls = UpstreamTls(engine)
        self.tls_tunnels = TlsTunnels(engine)
        self.public = PublicListener(engine)
        self.address = Address("", 0)

    async def __aenter__(self) -> Self:
        self.address = await self.public.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.public.stop(0)
        for stream in self.connector.streams:
            stream.abort("test ended")
            await stream.wait_gone()

    def client(self, server_name: str | None = f"a.t.{DOMAIN}", **options: Any) -> Client:
        """A connected client; handshake not begun."""
        return Client(self.address, server_name, trusting(**options))

    async def script(self, play: Callable[[Client], T], server_name: str | None = f"a.t.{DOMAIN}", **options: Any) -> T:
        """Play a blocking script with a fresh client, in a thread."""

        def whole() -> T:
            with self.client(server_name, **options) as client:
                return play(client)

        return await asyncio.to_thread(whole)


Handler = Callable[[TcpStream], Awaitable[None]]


@contextlib.asynccontextmanager
async def upstream(handler: Handler) -> AsyncIterator[Address]:
    """A TCP server whose every connection is given to `handler`, then closed."""
    tasks: set[asyncio.Task[None]] = set()
    streams: list[TcpStream] = []

    async def serve(stream: TcpStream) -> None:
        with contextlib.suppress(StreamReset):
            await handler(stream)
            await stream.close()

    def accepted(stream: TcpStream) -> None:
        streams.append(stream)
        tasks.add(asyncio.get_running_loop().create_task(serve(stream)))

    server = await asyncio.get_running_loop().create_server(lambda: TcpStream(accepted=accepted), "127.0.0.1", 0)
    try:
        yield Address(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for stream in streams:
            stream.abort("test ended")
            await stream.wait_gone()
        await server.wait_closed()
        for result in results:
            if isinstance(result, Exception):
                raise result


async def echo(stream: ByteStream) -> None:
    """Send back what comes, until the end."""
    while data := await stream.read():
        await stream.write(data)
