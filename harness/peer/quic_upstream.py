"""The upstream side of one QUIC tunnel: a QUIC server per connection that the engine opens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import PeerMismatch
from harness.evidence.transcript import UPSTREAM, Transcript
from harness.link.deadline import deadline
from harness.model.spec import QUIC_ALPN, TunnelSpec
from harness.peer.quic import QuicPeer
from harness.peer.tls_pki import upstream_identity
from harness.peer.upstream import STRAY_LIMIT, Stray
from harness.wire.quic import ServerOptions

STRAY_PACKETS = 16


class QuicUpstream:
    """The connections of one tunnel, in the order in which the engine opened them."""

    def __init__(self, queue: UpstreamQueue, spec: TunnelSpec, transcript: Transcript, name: str) -> None:
        self._queue = queue
        self._spec = spec
        self._transcript = transcript
        self._name = name
        self._accepted = 0
        self._strays: list[tuple[Incoming, list[bytes]]] = []
        self._given_back: list[QuicPeer] = []
        self._peers: list[QuicPeer] = []

    async def accept(self, *, handshake: bool = True, **options: Any) -> QuicPeer:
        """The next connection, its handshake done unless told otherwise. `options` are those of `ServerOptions` (QUIC's
        and TLS's by keyword); identity and protocols are filled in. Raises as `QuicPeer.handshake`."""
        async with deadline(f"a QUIC connection at the upstream of {self._name!r}"):
            incoming = await self._queue.get()
        peer = self._peer(incoming, options)
        await peer.start()
        if handshake:
            await peer.handshake()
        return peer

    async def accept_with(self, nonce: bytes, **options: Any) -> QuicPeer:
        """The connection on which the client ends a stream with `nonce`. `options` as those of `accept`.

        Connections that the engine opened and that nobody took may stand in front of it, or come beside it: each of
        them is served, too, until the one is found, and is a stray then. Raises `DeadlineExpired`.
        """
        tried: dict[asyncio.Task[None], QuicPeer] = {}
        try:
            async with deadline(f"a QUIC connection with our nonce at the upstream of {self._name!r}"):
                while True:
                    for incoming in self._queue.drain():
                        peer = self._peer(incoming, options)
                        await peer.start()
                        tried[asyncio.ensure_future(self._named(peer, nonce))] = peer
                    newer = asyncio.ensure_future(self._queue.arrival())
                    try:
                        done, _ = await asyncio.wait((newer, *tried), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        newer.cancel()
                    for task in done & tried.keys():
                        peer = tried.pop(task)
                        if task.exception() is None:
                            return peer
                        self.give_back(peer)
        finally:
            for task, peer in tried.items():
                task.cancel()
                self.give_back(peer)
            await asyncio.gather(*tried, return_exceptions=True)

    async def _named(self, peer: QuicPeer, nonce: bytes) -> None:
        stream = await peer.accept_stream_with(nonce)
        got, end = await stream.receive_until_end()
        if got != nonce or end.kind != "fin":
            raise PeerMismatch("the client's nonce and FIN at the upstream", f"{got[:64].hex()}, then {end}")
        await stream.finish()

    @contextlib.asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator[None]:
        """While the block runs, the upstream answers every connection that the engine opens there: no text says whether
        that or the client's handshake comes first. `options` as those of `accept`. No script has asked for these
        connections: they are strays, with what they carried."""
        answers: set[asyncio.Task[object]] = set()

        async def answer() -> None:
            while True:
                peer = self._peer(await self._queue.get(), options)
                peer.strict = False
                self.give_back(peer)
                await peer.start()
                answers.add(asyncio.create_task(peer.try_handshake()))

        taking = asyncio.create_task(answer())
        try:
            yield
        finally:
            for task in (taking, *answers):
                task.cancel()
            await asyncio.gather(taking, *answers, return_exceptions=True)

    def give_back(self, peer: QuicPeer) -> None:
        """A connection that was accepted, and that no script wants after all, is a stray."""
        self._given_back.append(peer)

    def _peer(self, incoming: Incoming, options: dict[str, Any]) -> QuicPeer:
        self._accepted += 1
        channel = self._transcript.channel(UPSTREAM, "upstream", f"upstream-{self._name}-{self._accepted}")
        channel.got("datagram channel opened", detail=f"source {incoming.source}" if incoming.source else "")
        chosen = {"alpn": self._spec.tls_alpns or QUIC_ALPN, "identity": upstream_identity(), **options}
        peer = QuicPeer.server(incoming.packets, channel, ServerOptions.of(**chosen), source=incoming.source)
        self._peers.append(peer)
        return peer

    async def check_nonce(self, peer: QuicPeer, nonce: bytes) -> None:
        """The other side's first stream must carry `nonce` and end, and is ended, too: a crossed wire can't pass as
        success. Raises `PeerMismatch`."""
        stream = await peer.accept_stream()
        got, end = await stream.receive_until_end()
        if got != nonce or end.kind != "fin":
            raise PeerMismatch(
                "the client's nonce and FIN on a stream at the upstream", f"{got[:64].hex()}, then {end}"
            )
        if stream.bidirectional:
            await stream.finish()

    async def strays(self) -> tuple[Stray, ...]:
        """Connections that were opened and that no script took: by what they carried where they were served, else by
        the packets that came."""
        self._strays.extend((incoming, []) for incoming in self._queue.drain())
        return (
            *(_served(peer) for peer in self._given_back),
            *(_stray(incoming, packets) for incoming, packets in self._strays),
        )

    async def arrival(self) -> None:
        """Return as soon as a connection waits to be accepted. Raises `DeadlineExpired`."""
        async with deadline(f"a QUIC connection at the upstream of {self._name!r}"):
            await self._queue.arrival()

    @property
    def opened(self) -> int:
        """How many connections, or attempts at one, the engine has opened so far."""
        return self._queue.total

    async def close(self) -> None:
        """Close every connection."""
        for incoming in (*self._queue.drain(), *(stray for stray, _ in self._strays)):
            incoming.flow.abort()
        for peer in self._peers:
            await peer.shut()


def _stray(incoming: Incoming, seen: list[bytes]) -> Stray:
    """Describe a channel by the packets that came so far, which `seen` keeps."""
    while len(seen) < STRAY_PACKETS and (packet := incoming.packets.receive_now()) is not None:
        seen.append(packet)
    told = f", the first of {len(seen[0])} octets ({seen[0][:8].hex()}..)" if seen else ""
    return Stray(b"".join(seen), f"a QUIC connection attempt of {len(seen)} packets{told}")


def _served(peer: QuicPeer) -> Stray:
    """Describe a connection by what came on it."""
    streams = [(stream.id, stream.peek(STRAY_LIMIT)) for stream in peer.waiting_streams()]
    if peer.done is None:
        return Stray(b"", f"a QUIC connection without a handshake ({peer.ended or 'it is not complete'})")
    carried = [f"stream {number}: {data[:40].hex() or 'no octets'}" for number, data in streams[:4]]
    told = ", ".join([f"ALPN {peer.alpn}", f"{len(streams)} streams", *carried])
    return Stray(b"".join(data for _, data in streams)[:STRAY_LIMIT], f"a QUIC connection ({told})")
