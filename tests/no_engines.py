"""Engines that are none, in process and without TLS, for tests of cases.

`relay` joins client and upstream by their octets and looks at nothing: wherever a rule asks an engine to refuse, to
drop or to repair, the case must notice. The others never reach the upstream: `hole` says nothing, `close` and `reset`
end every connection, `babble` says what is no HTTP, `error` answers everything with 502 and closes. No case may fall
over any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, cast

from harness.engine.driver import Driver, Endpoint, Incoming, Published, Session, UpstreamQueue
from harness.evidence.transcript import DOWNSTREAM, Channel
from harness.link.datagram import DatagramLink
from harness.link.stream import Link, LinkReset
from harness.link.tcp import TcpLink, TcpListener, connect_tcp
from harness.link.udp import UdpLink, UdpListener, connect_udp
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire import http1_write as write


class Tunnel:
    """One published tunnel: a listener for clients, one for the engine's own end of the upstream."""

    def __init__(self, name: str, habit: str) -> None:
        self.name = name
        self.habit = habit
        self.queue = UpstreamQueue()
        self.public = TcpListener()
        self.behind = TcpListener()
        self.tasks: set[asyncio.Task[None]] = set()
        self.links: list[TcpLink] = []

    async def start(self) -> Endpoint:
        await self.public.start()
        await self.behind.start()
        self._run(self._accept())
        return Endpoint(self.name, self.public.host, self.public.port)

    def _run(self, work: Any) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(work))

    async def _accept(self) -> None:
        while True:
            client = await self.public.accept()
            self.links.append(client)
            if self.habit != "relay":
                self._run(self._misbehave(client))
                continue
            ours = await connect_tcp(self.behind.host, self.behind.port)
            theirs = await self.behind.accept()
            self.links += [ours, theirs]
            self.queue.put(Incoming(theirs))
            self._run(self._pump(client, ours))
            self._run(self._pump(ours, client))

    async def _misbehave(self, client: TcpLink) -> None:
        with contextlib.suppress(LinkReset):
            await client.receive()
            match self.habit:
                case "close":
                    await client.close()
                case "reset":
                    client.abort()
                case "babble":
                    await client.send(bytes(range(256)) * 8)
                case "error":
                    await client.send(write.response(502, [("Connection", "close")], b"no"))
                    await client.send_end()
            while await client.receive():
                pass

    async def _pump(self, source: Link, target: Link) -> None:
        try:
            while data := await source.receive():
                await target.send(data)
            await target.send_end()
        except LinkReset:
            target.abort()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for link in self.links:
            await link.close()
        await self.public.stop()
        await self.behind.stop()


class PacketTunnel:
    """One published QUIC tunnel: packets go from a UDP port for clients to one for the upstream, and back. `look` sees
    each of them, and may drop or change it; only a `relay` carries any."""

    def __init__(self, name: str, habit: str) -> None:
        self.name = name
        self.habit = habit
        self.queue = UpstreamQueue()
        self.public = UdpListener()
        self.behind = UdpListener()
        self.look: Callable[[bytes], bytes | None] = lambda packet: packet
        self.tasks: set[asyncio.Task[None]] = set()
        self.ours: list[UdpLink] = []

    async def start(self) -> Endpoint:
        await self.public.start()
        await self.behind.start()
        self._run(self._clients())
        self._run(self._upstreams())
        return Endpoint(self.name, self.public.host, self.public.port, "udp")

    def _run(self, work: Any) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(work))

    async def _clients(self) -> None:
        while True:
            client = await self.public.accept()
            if self.habit != "relay":
                continue
            ours = await connect_udp(self.behind.host, self.behind.port)
            self.ours.append(ours)
            self._run(self._pump(client, ours))
            self._run(self._pump(ours, client))

    async def _upstreams(self) -> None:
        while True:
            self.queue.put(Incoming(await self.behind.accept()))

    async def _pump(self, source: DatagramLink, target: DatagramLink) -> None:
        with contextlib.suppress(LinkReset):
            while True:
                packet = self.look(await source.receive())
                if packet is not None:
                    target.send(packet)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for link in self.ours:
            link.abort()
        await self.public.stop()
        await self.behind.stop()


class RelaySession(Session):
    def __init__(self, habit: str) -> None:
        self._habit = habit
        self._tunnels: list[Tunnel | PacketTunnel] = []
        self._numbers = itertools.count(1)

    async def publish(self, specs: Mapping[str, TunnelSpec]) -> dict[str, Published]:
        published = {}
        for name, spec in specs.items():
            kind = PacketTunnel if spec.datagrams else Tunnel
            tunnel = kind(f"{name}-{next(self._numbers)}.relay.test", self._habit)
            self._tunnels.append(tunnel)
            published[name] = Published(spec, await tunnel.start(), tunnel.queue)
        return published

    async def close(self) -> None:
        for tunnel in self._tunnels:
            await tunnel.stop()


class RelayDriver(Driver):
    """Nothing to start: each session has its own listeners."""

    dynamic = False

    def __init__(self, profile: Profile | None = None, habit: str = "relay") -> None:
        self.profile = profile
        self.habit = habit

    async def start(self, settings: Settings) -> None:
        return

    async def plan(self, specs: Mapping[str, TunnelSpec]) -> None:
        return

    async def open_session(self, key: str) -> Session:
        return RelaySession(self.habit)

    async def restart(self) -> None:
        return

    async def stop(self) -> None:
        return

    def crashed(self) -> str | None:
        return None

    async def ended(self) -> str | None:
        return None

    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        return ()

    @property
    def version(self) -> str:
        return "byte relay"


class PlainPeer:
    """What stands for a TLS peer on a plain connection: the octets are those of the link."""

    def __init__(self, link: Link, channel: Channel, alpn: str | None = None) -> None:
        self.link = link
        self.channel = channel
        self.alpn = alpn

    async def send(self, data: bytes) -> None:
        await self.link.send(data)

    async def receive(self, limit: int = 65536) -> bytes:
        return await self.link.receive(limit)

    async def close_notify(self) -> None:
        await self.link.send_end()

    async def close(self) -> None:
        await self.link.close()

    def abort(self) -> None:
        self.link.abort()


class PlainScene(Scene):
    """A scene whose clients speak in plain."""

    async def tls_client(self, name: str = "main", **options: Any) -> TlsPeer:
        where = self.endpoint(name)
        link = await connect_tcp(where.address, where.port)
        alpn = next(iter(options.get("alpn", ())), None)
        peer = PlainPeer(link, self.transcript.channel(DOWNSTREAM, "client", self._name("client")), alpn)
        self._closers.append(peer.close)
        return cast("TlsPeer", peer)
