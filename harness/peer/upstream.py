"""The upstream side of one tunnel: takes the streams that the engine opens, tells ours from strays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import UPSTREAM, Channel, Transcript
from harness.link.datagram import DatagramLink
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.model.spec import TunnelSpec
from harness.peer.packets import PacketPeer
from harness.peer.raw import RawPeer

if TYPE_CHECKING:
    from harness.peer.tls import TlsPeer

STRAY_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Stray:
    """A stream or datagram channel at the upstream that no script asked for, with the first octets that it carried."""

    data: bytes
    described: str = ""

    def describe(self) -> str:
        """One line for a message."""
        if self.described:
            return self.described
        return f"a stream with {len(self.data)} octets: {self.data[:40]!r}" if self.data else "a stream without octets"


class UpstreamSide:
    """The streams of one tunnel, in the order in which the engine opened them."""

    def __init__(self, queue: UpstreamQueue, spec: TunnelSpec, transcript: Transcript, name: str) -> None:
        self._queue = queue
        self._spec = spec
        self._transcript = transcript
        self._name = name
        self._accepted = 0
        self._strays: list[RawPeer | PacketPeer | TlsPeer] = []
        self._peers: list[RawPeer | PacketPeer] = []

    async def accept(self) -> RawPeer:
        """The next stream. Raises `DeadlineExpired`."""
        async with deadline(f"a stream at the upstream of {self._name!r}"):
            incoming = await self._queue.get()
        return self._peer(incoming)

    async def accept_packets(self) -> PacketPeer:
        """The next datagram channel. Raises `DeadlineExpired`."""
        async with deadline(f"a datagram channel at the upstream of {self._name!r}"):
            incoming = await self._queue.get()
        return self._packet_peer(incoming)

    def _peer(self, incoming: Incoming) -> RawPeer:
        peer = RawPeer(incoming.link, self._channel(incoming, "stream opened"), incoming.source)
        self._peers.append(peer)
        return peer

    def _packet_peer(self, incoming: Incoming) -> PacketPeer:
        peer = PacketPeer(incoming.packets, self._channel(incoming, "datagram channel opened"), incoming.source)
        self._peers.append(peer)
        return peer

    def _channel(self, incoming: Incoming, what: str) -> Channel:
        self._accepted += 1
        channel = self._transcript.channel(UPSTREAM, "upstream", f"upstream-{self._name}-{self._accepted}")
        channel.got(what, detail=f"source {incoming.source}" if incoming.source else "")
        return channel

    async def accept_with(self, nonce: bytes) -> RawPeer:
        """The stream whose first octets are `nonce`; other streams that came before it become strays.

        Raises `DeadlineExpired` when none comes, `PeerMismatch` when the engine changed the octets.
        """
        async with deadline(f"the stream with our nonce at the upstream of {self._name!r}"):
            while True:
                peer = self._peer(await self._queue.get())
                if await self._begins_with(peer, nonce):
                    return peer
                self._strays.append(peer)

    async def _begins_with(self, peer: RawPeer, nonce: bytes) -> bool:
        """Whether the stream carries the nonce; a stream that stays empty while a newer one waits is not it."""
        reading = asyncio.ensure_future(peer.receive_exactly(len(nonce)))
        newer = asyncio.ensure_future(self._queue.arrival())
        try:
            await asyncio.wait((reading, newer), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait((reading,), timeout=0.05)
            if not reading.done():
                return False
            try:
                began = reading.result()
            except (PeerMismatch, LinkReset, DeadlineExpired):
                return False
            if began != nonce:
                # They are what a stray is told by.
                peer.unread(began)
            return began == nonce
        finally:
            for task in (reading, newer):
                task.cancel()
            await asyncio.gather(reading, newer, return_exceptions=True)

    async def accept_tls(self, *, handshake: bool = True, **options: Any) -> TlsPeer:
        """The next stream as a TLS server. `options` are those of `ServerOptions`; chain and key are the test PKI's
        unless given."""
        peer = self._tls_peer(await self.accept(), options)
        if handshake:
            await peer.handshake()
        return peer

    def _tls_peer(self, raw: RawPeer, options: Mapping[str, Any]) -> TlsPeer:
        from harness.peer.tls import TlsPeer
        from harness.peer.tls_pki import upstream_identity
        from harness.wire.tls.server import ServerOptions

        chosen: dict[str, Any] = {"alpn": self._spec.tls_alpns, **options}
        if "chain" not in chosen:
            identity = upstream_identity()
            chosen["chain"], chosen["key"] = identity.chain, identity.key
        return TlsPeer.server(raw.link, raw.channel, ServerOptions(**chosen))

    @contextlib.asynccontextmanager
    async def serving_tls(self) -> AsyncIterator[None]:
        """While the block runs, the upstream answers every TLS handshake that the engine begins there: no text says
        whether that or the client's handshake comes first. No script has asked for these connections: they are strays,
        with the application octets that they carried."""
        answers: set[asyncio.Task[None]] = set()

        def take(incoming: Incoming) -> TlsPeer:
            peer = self._tls_peer(self._peer(incoming), {})
            self._strays.append(peer)
            return peer

        async def answer() -> None:
            while True:
                answers.add(asyncio.create_task(_answer(take(await self._queue.get()))))

        taking = asyncio.create_task(answer())
        try:
            yield
        finally:
            for task in (taking, *answers):
                task.cancel()
            await asyncio.gather(taking, *answers, return_exceptions=True)
            for incoming in self._queue.drain():
                take(incoming)

    async def check_nonce(self, peer: TlsPeer, nonce: bytes) -> None:
        """The first application octets of a TLS upstream must be `nonce`: a crossed wire can't pass as success."""
        got = await peer.receive_exactly(len(nonce))
        if got != nonce:
            raise PeerMismatch("the client's nonce at the upstream", f"{got.hex()}")

    def give_back(self, peer: RawPeer | PacketPeer) -> None:
        """A stream or channel that was accepted, and that no script wants after all, is a stray."""
        self._strays.append(peer)

    async def strays(self) -> tuple[Stray, ...]:
        """Streams that were opened and that no script took. Reads what they carried without waiting."""
        for incoming in self._queue.drain():
            packets = isinstance(incoming.flow, DatagramLink)
            self._strays.append(self._packet_peer(incoming) if packets else self._peer(incoming))
        return tuple([await _stray(peer) for peer in self._strays])

    @property
    def opened(self) -> int:
        """How many streams the engine has opened so far."""
        return self._queue.total

    async def close(self) -> None:
        """Close every stream."""
        for incoming in self._queue.drain():
            incoming.flow.abort()
        for peer in self._peers:
            await peer.close()


async def _answer(peer: TlsPeer) -> None:
    with contextlib.suppress(LinkReset, PeerMismatch, DeadlineExpired):
        await peer.try_handshake()


async def _stray(peer: RawPeer | PacketPeer | TlsPeer) -> Stray:
    if isinstance(peer, RawPeer):
        return Stray(await _ready_octets(peer))
    if isinstance(peer, PacketPeer):
        packets = peer.arrived()
        first = f": {packets[0][:40].hex()}" if packets else ""
        return Stray(b"".join(packets)[:STRAY_LIMIT], f"a datagram channel with {len(packets)} packets{first}")
    data = await _ready_octets(peer)
    return Stray(data, f"a TLS connection with {len(data)} octets: {data[:40]!r}" if data else "a TLS connection")


async def _ready_octets(peer: RawPeer | TlsPeer) -> bytes:
    """What has arrived on the stream already."""
    data = b""
    while len(data) < STRAY_LIMIT:
        reading = asyncio.ensure_future(peer.receive(STRAY_LIMIT))
        done, _ = await asyncio.wait((reading,), timeout=0)
        if not done:
            # One turn of the loop for octets that lie ready in the link.
            done, _ = await asyncio.wait((reading,), timeout=0.001)
        if not done:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            break
        try:
            chunk = reading.result()
        except (LinkReset, PeerMismatch, DeadlineExpired):
            break
        if not chunk:
            break
        data += chunk
    return data
