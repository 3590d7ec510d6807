"""A scripted agent for the tests of the agent link: frame by frame over real TLS or QUIC, against an engine in this
process."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aioquic.quic import events
from aioquic.quic.connection import QuicConnection

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import FrameReader, encode
from reference_engine.config import Settings
from reference_engine.engine import Engine, running
from reference_engine.parts import Parts
from reference_engine.relay.stream import Address
from reference_engine.tunnel.registry import Change
from tests.engine_quic_support import Stock, client_configuration, udp_client

DEADLINE = 10.0
DOMAIN = "edge.test"
LOOPBACK = Address("127.0.0.1", 0)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end, within the deadline."""

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await coroutine

    asyncio.run(bounded())


class Link:
    """One TLS connection to the engine with ALPN `rstrm/1`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = FrameReader()

    async def send(self, message: pb.Message, glued: bytes = b"") -> None:
        await self.raw(encode(message) + glued)

    async def raw(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def receive(self) -> pb.Message:
        while (message := self.frames.next()) is None:
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self.frames.feed(data)
        return message

    async def data(self, count: int) -> bytes:
        """Stream bytes behind the handshake frames."""
        got = self.frames.rest()
        while len(got) < count:
            piece = await self.reader.read(65536)
            if not piece:
                raise EOFError(got)
            got += piece
        return got

    async def ended(self) -> bytes:
        """What still came before the engine's end, clean or not; waits for it."""
        got = self.frames.rest()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while piece := await self.reader.read(65536):
                got += piece
        return got

    def pause(self) -> None:
        """Stop reading."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()

    def cut(self) -> None:
        """Lose the connection without a word: RST."""
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


class Streams(Stock):
    """A stock QUIC connection to the engine whose streams are read as those of asyncio are."""

    def __init__(self, quic: QuicConnection, send: Callable[[bytes, Any], None]) -> None:
        super().__init__(quic, send)
        self.readers: dict[int, asyncio.StreamReader] = {}

    def _note(self, event: events.QuicEvent) -> None:
        super()._note(event)
        match event:
            case events.StreamDataReceived():
                self.readers[event.stream_id].feed_data(event.data)
                if event.end_stream:
                    self.readers[event.stream_id].feed_eof()
            case events.StreamReset():
                self.readers[event.stream_id].set_exception(ConnectionResetError(event.error_code))
            case events.ConnectionTerminated():
                for reader in self.readers.values():
                    reader.set_exception(ConnectionResetError(event.reason_phrase))

    def link(self) -> QuicLink:
        """A new stream; the engine knows nothing of it before something is sent."""
        number = 4 * len(self.readers)
        self.readers[number] = asyncio.StreamReader()
        return QuicLink(self, number)


class QuicLink(Link):
    """One stream of a QUIC connection to the engine."""

    def __init__(self, stock: Streams, number: int) -> None:
        self.stock = stock
        self.number = number
        self.reader = stock.readers[number]
        self.frames = FrameReader()
        self._over = False

    async def raw(self, octets: bytes) -> None:
        self.stock.write(self.number, octets)

    async def half_close(self) -> None:
        """FIN."""
        self._over = True
        self.stock.write(self.number, b"", end=True)

    def pause(self) -> None:
        """The connection takes nothing in any more."""
        self.stock.silent = True

    def cut(self) -> None:
        """RESET_STREAM, and STOP_SENDING."""
        if not self._over and self.stock.over is None and self.number in self.stock.quic._streams:
            self.stock.stop(self.number, 0)
            self.stock.reset(self.number, 0)
        self._over = True

    async def close(self) -> None:
        """FIN, and STOP_SENDING."""
        if not self._over and self.stock.over is None:
            self.stock.write(self.number, b"", end=True)
            with contextlib.suppress(ValueError):
                self.stock.stop(self.number, 0)
        self._over = True


TRANSPORT = "tls"
"""What a `Site` makes its links of: `tls` or `quic`; tests that are about both set it for their time."""


@dataclass
class Site:
    """A running engine, and connections to it that are closed with it."""

    engine: Engine
    address: Address
    udp: Address | None = None
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    links: list[Link] = field(default_factory=list)
    stock: Streams | None = None

    async def quic(self, **options: Any) -> Streams:
        """A QUIC connection of its own, as an agent makes it."""
        assert self.udp is not None
        certificate = options.pop("certificate", None)
        alpns = options.pop("alpns", ("rstrm/1",))
        # A packet of an inner connection, 1,200 octets, has to fit with its channel id (agent protocol section 2.5).
        options.setdefault("max_datagram_size", 1_350)
        configuration = client_configuration(options.pop("name", DOMAIN), *alpns, **options)
        if certificate is not None:
            configuration.load_cert_chain(*certificate)
        stock = await self.stack.enter_async_context(udp_client(self.udp, configuration, make=Streams))
        assert isinstance(stock, Streams)
        return stock

    async def link(self, *, certificate: tuple[Path, Path] | None = None, transport: str | None = None) -> Link:
        """A connection of the agent protocol. On QUIC they are streams of one connection per credential."""
        if (transport or TRANSPORT) == "quic":
            if certificate is not None:
                return (await self.quic(certificate=certificate)).link()
            if self.stock is None or self.stock.silent:
                self.stock = await self.quic()
                await self.stock.connected()
            link: Link = self.stock.link()
            self.links.append(link)
            return link
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.engine.certificates.ca_file)
        context.set_alpn_protocols(["rstrm/1"])
        if certificate is not None:
            context.load_cert_chain(*certificate)
        reader, writer = await asyncio.open_connection(
            self.address.host, self.address.port, ssl=context, server_hostname=DOMAIN
        )
        link = Link(reader, writer)
        self.links.append(link)
        return link

    async def agent(self, **options: Any) -> Agent:
        """A control channel that is open."""
        link = await self.link(certificate=options.pop("certificate", None))
        await link.send(opening(**options))
        answer = (await link.receive()).open_control_channel_rsp
        assert answer.HasField("ok"), answer
        return Agent(self, link, answer.ok)

    async def refused(self, message: pb.Message, **options: Any) -> pb.Error:
        """The error that opening a control channel with this gets; the engine closes behind it."""
        link = await self.link(**options)
        await link.send(message)
        answer = (await link.receive()).open_control_channel_rsp
        assert answer.HasField("error")
        assert await link.ended() == b""
        return answer.error

    async def dial(
        self,
        key: str,
        *,
        zero_rtt: bool = False,
        token: str | None = None,
        glued: bytes = b"",
        channel: bool = False,
        on: Streams | None = None,
        transport: str | None = None,
    ) -> Link:
        """Ask for a tunnel, or for a datagram `channel` of it, on a connection of its own or a stream of `on`."""
        link: Link = on.link() if on is not None else await self.link(transport=transport)
        request = pb.StreamReq(tunnel_id_name=key, client_details=details(token))
        request.zero_rtt.value = zero_rtt
        if channel:
            request.datagram_channel.value = True
        await link.send(pb.Message(stream_req=request), glued)
        return link


@dataclass
class Agent:
    """The agent's end of an open control channel."""

    site: Site
    link: Link
    ok: pb.OpenControlChannelRsp.Ok

    async def open(self, **properties: Any) -> pb.OpenTunnelRsp:
        """Ask for a tunnel; strings, bools and numbers are wrapped, lists go as they are."""
        request = pb.OpenTunnelReq(request_id="request")
        for name, value in properties.items():
            if isinstance(value, list):
                getattr(request.tunnel_properties, name).extend(value)
            else:
                wrapper = getattr(request.tunnel_properties, name)
                wrapper.value = value
                wrapper.SetInParent()
        await self.link.send(pb.Message(open_tunnel_req=request))
        answer = (await self.link.receive()).open_tunnel_rsp
        assert answer.request_id == "request"
        return answer

    async def private(self, name: str | None = None) -> str:
        """A private tunnel's id."""
        answer = await self.open(publish=False, **({} if name is None else {"name": name}))
        return answer.tunnel_properties.id.value

    async def asked(self) -> pb.ProxyConnReq:
        """The next ProxyConnReq."""
        message = await self.link.receive()
        assert message.HasField("proxy_conn_req"), message
        return message.proxy_conn_req

    async def connect(
        self, request: pb.ProxyConnReq, *, zero_rtt: bool = True, secret: str | None = None, glued: bytes = b""
    ) -> Link:
        """Answer it with a connection of its own."""
        link = await self.site.link()
        answer = pb.ProxyReq(stream_id=request.stream_id)
        answer.client_details.token.value = request.secret.value if secret is None else secret
        answer.zero_rtt.value = zero_rtt
        await link.send(pb.Message(proxy_req=answer), glued)
        return link

    async def accept(self, request: pb.ProxyConnReq) -> None:
        """A ProxyConnRsp without an error."""
        await self.link.send(pb.Message(proxy_conn_rsp=pb.ProxyConnRsp(stream_id=request.stream_id)))

    async def refuse(self, stream_id: str, text: str = "busy") -> None:
        """A ProxyConnRsp with an error."""
        answer = pb.ProxyConnRsp(stream_id=stream_id)
        answer.error.code = pb.ERROR_CODE_SERVICE_UNAVAILABLE
        answer.error.message.value = text
        await self.link.send(pb.Message(proxy_conn_rsp=answer))

    async def close(self) -> None:
        """Close the channel on purpose."""
        await self.link.send(pb.Message(close_control_channel_req=pb.CloseControlChannelReq()))
        assert (await self.link.receive()).HasField("close_control_channel_rsp")
        assert await self.link.ended() == b""


def details(token: str | None = None, version: str | None = "1.4.5") -> pb.ClientDetails:
    result = pb.ClientDetails()
    if token is not None:
        result.token.value = token
    if version is not None:
        result.protocol_version.value = version
    return result


def opening(token: str | None = None, version: str | None = "1.4.5", interval: int | None = None) -> pb.Message:
    request = pb.OpenControlChannelReq(client_details=details(token, version))
    if interval is not None:
        request.liveness.heartbeat_interval_ms = interval
    return pb.Message(open_control_channel_req=request)


class Sites:
    """`async with Sites(**settings) as site`: an engine on loopback, and everything closed behind it."""

    def __init__(self, parts: Parts | None = None, **settings: Any) -> None:
        if TRANSPORT == "quic":
            settings = {"udp_listen": LOOPBACK, **settings}
        self._settings = Settings(listen=LOOPBACK, domain=DOMAIN, **settings)
        self._parts = parts
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Site:
        engine, ready = await self._stack.enter_async_context(running(self._settings, self._parts))
        self._site = Site(engine, ready.https, ready.udp)
        await self._stack.enter_async_context(self._site.stack)
        return self._site

    async def __aexit__(self, *problem: object) -> None:
        for link in self._site.links:
            link.cut()
        await self._stack.aclose()
        for link in self._site.links:
            await link.close()


class Watch:
    """Waits for changes of the engine's inventory, those included that came before somebody waited."""

    def __init__(self, engine: Engine) -> None:
        self._seen: list[tuple[str, str]] = []
        self._changed = asyncio.Event()
        self._stop = engine.registry.listen(self._note)

    def _note(self, change: Change) -> None:
        self._seen.append((change.kind, change.what))
        self._changed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    async def until(self, kind: str, what: str) -> None:
        while (kind, what) not in self._seen:
            self._changed.clear()
            await self._changed.wait()


Script = Callable[[Site], Awaitable[None]]


def on_site(script: Script, parts: Parts | None = None, **settings: Any) -> None:
    """Run a script against an engine with these settings."""

    async def main() -> None:
        async with Sites(parts, **settings) as site:
            await script(site)

    run(main())
