"""A small engine for tests of agents and drivers: it speaks the agent protocol as far as told, over real TLS.

As a program (`python -m tests.agent_support`) it prints the ready line of a launched engine; its public listener
relays each plain TCP connection to the tunnel that was opened last.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import signal
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.link.agent import EngineAccess
from harness.wire import agent as wire

DOMAIN = "mini.localhost"


def make_certificate(folder: Path, name: str = DOMAIN) -> tuple[str, str]:
    """A self-signed certificate for `name`: files of chain and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(chain), str(private)


class Connection:
    """One connection from an agent or dialer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = wire.FrameReader()

    async def read(self) -> pb.Message | None:
        while (payload := self.frames.next()) is None:
            data = await self.reader.read(65536)
            if not data:
                return None
            self.frames.feed(data)
        return wire.decode(payload)

    def send(self, message: pb.Message, **broken: object) -> None:
        self.writer.write(wire.encode(message, **broken))  # type: ignore[arg-type]

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            # Shielded: the waiter is shared, and must outlive a task that is cancelled here.
            await asyncio.shield(self.writer.wait_closed())

    def abort(self) -> None:
        self.writer.transport.abort()


Hook = Callable[["MiniEngine", Connection, pb.Message], Awaitable[bool]]
"""Sees each message before the engine does; true means that it has been dealt with."""


class MiniEngine:
    """The engine. `hook` changes its ways; `seen` keeps every message it read."""

    def __init__(self, folder: Path, *, hook: Hook | None = None) -> None:
        self.certificate = make_certificate(folder)
        self.hook = hook
        self.seen: list[pb.Message] = []
        self.control: Connection | None = None
        self.tunnel = ""
        self.arrived: asyncio.Queue[tuple[pb.Message, Connection]] = asyncio.Queue()
        self.protocol: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._streams: dict[str, asyncio.Future[Connection]] = {}
        self._serial = 0

    async def start(self, port: int = 0) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*self.certificate)
        context.set_alpn_protocols(["rstrm/1"])
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        self._public = await asyncio.start_server(self._visit, "127.0.0.1", 0)
        self.public_port = self._public.sockets[0].getsockname()[1]

    @property
    def access(self) -> EngineAccess:
        return EngineAccess("127.0.0.1", self.port, server_name=DOMAIN, ca_file=self.certificate[0], token="tok")

    async def stop(self) -> None:
        self._server.close()
        self._public.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.abort()
            await connection.close()
        await self._server.wait_closed()
        await self._public.wait_closed()

    async def _run(self, connection: Connection, work: Awaitable[None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(connection)
        try:
            await work
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        await self._run(connection, self._serve(connection))

    async def _serve(self, connection: Connection) -> None:
        while (message := await connection.read()) is not None:
            self.seen.append(message)
            if self.hook and await self.hook(self, connection, message):
                continue
            if wire.kind(message) in ("proxy_req", "stream_req"):
                await self._stream(connection, message)
                return
            if not self._answer(connection, message):
                break
        await connection.close()

    def _answer(self, connection: Connection, message: pb.Message) -> bool:
        reply = pb.Message()
        match wire.kind(message):
            case "open_control_channel_req":
                self.control = connection
                ok = reply.open_control_channel_rsp.ok
                ok.client_id = "client"
                ok.server_details.agent.value = "mini"
                ok.server_details.version.value = "1"
                if message.open_control_channel_req.HasField("liveness"):
                    interval = message.open_control_channel_req.liveness.heartbeat_interval_ms
                    ok.liveness.heartbeat_interval_ms = interval
                    ok.liveness.heartbeat_timeout_ms = max(3 * interval, 1000)
            case "open_tunnel_req":
                self._serial += 1
                reply.open_tunnel_rsp.request_id = message.open_tunnel_req.request_id
                properties = reply.open_tunnel_rsp.tunnel_properties
                properties.CopyFrom(message.open_tunnel_req.tunnel_properties)
                self.tunnel = properties.id.value = f"tunnel{self._serial}"
                if properties.publish.value or not properties.HasField("publish"):
                    properties.publish.value = True
                    properties.hostname.value = properties.hostname.value or f"{self.tunnel}.t.{DOMAIN}"
                    properties.port.value = self.public_port
            case "close_tunnel_req":
                reply.close_tunnel_rsp.tunnel_id = message.close_tunnel_req.tunnel_id
            case "close_control_channel_req":
                reply.close_control_channel_rsp.SetInParent()
                connection.send(reply)
                return False
            case "heartbeat":
                if not message.heartbeat.sequence:
                    return True
                reply = wire.heartbeat(0, message.heartbeat.sequence)
            case _:
                return True
        connection.send(reply)
        return True

    async def _stream(self, connection: Connection, message: pb.Message) -> None:
        reply = pb.Message()
        if wire.kind(message) == "proxy_req":
            if not message.proxy_req.zero_rtt.value:
                reply.proxy_rsp.SetInParent()
                connection.send(reply)
            waiting = self._streams.get(message.proxy_req.stream_id)
            if waiting and not waiting.done():
                waiting.set_result(connection)
        elif not message.stream_req.zero_rtt.value:
            if message.stream_req.tunnel_id_name == "nobody":
                reply.stream_rsp.error.code = 3000  # type: ignore[assignment]
                reply.stream_rsp.error.message.value = "tunnel not found"
            else:
                reply.stream_rsp.stream_id = "aabbccddeeff001122334455"
            connection.send(reply)
        await self.arrived.put((message, connection))

    def ask(self, stream_id: str, *, secret: str | None = "s3cr3t", tunnel: str | None = None) -> None:
        """Ask the agent for a stream."""
        assert self.control is not None
        self._streams[stream_id] = asyncio.get_running_loop().create_future()
        message = pb.Message()
        message.proxy_conn_req.tunnel_id = tunnel or self.tunnel
        message.proxy_conn_req.stream_id = stream_id
        message.proxy_conn_req.source_ip.v4 = 0xC0000201
        if secret is not None:
            message.proxy_conn_req.secret.value = secret
        self.control.send(message)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitor = Connection(reader, writer)
        await self._run(visitor, self._relay(visitor))

    async def _relay(self, visitor: Connection) -> None:
        self._serial += 1
        stream_id = f"{self._serial:024x}"
        self.ask(stream_id)
        agent = await self._streams[stream_id]

        async def pump(source: Connection, target: Connection, head: bytes = b"") -> None:
            target.writer.write(head)
            while data := await source.reader.read(65536):
                target.writer.write(data)
                await target.writer.drain()

        up = asyncio.ensure_future(pump(visitor, agent))
        await pump(agent, visitor, agent.frames.rest())
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)
        await visitor.close()
        await agent.close()


async def _main() -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    listen = next((word for word in sys.argv if word.startswith("127.0.0.1:")), "127.0.0.1:0")
    with tempfile.TemporaryDirectory() as folder:
        engine = MiniEngine(Path(folder))
        await engine.start(int(listen.partition(":")[2]))
        address = f"127.0.0.1:{engine.port}"
        ready = {"agent": address, "https": address, "udp": None, "dtls": None, "http": None, "metrics": None}
        ready |= {"domain": DOMAIN, "ca_file": engine.certificate[0], "edition": "pro"}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.write(f"arguments {sys.argv[1:]}\n")
        sys.stdout.flush()
        await stopped.wait()
        await engine.stop()


if __name__ == "__main__":
    asyncio.run(_main())
