"""The upstream side of one QUIC tunnel: a QUIC server per connection that the engine opens."""

from __future__ import annotations

from typing import Any

from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import PeerMismatch
from harness.evidence.transcript import UPSTREAM, Transcript
from harness.link.deadline import deadline
from harness.model.spec import QUIC_ALPN, TunnelSpec
from harness.peer.quic import QuicPeer
from harness.peer.tls_pki import upstream_identity
from harness.peer.upstream import Stray
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
        """Connections that were opened and that no script took, by the packets that came."""
        self._strays.extend((incoming, []) for incoming in self._queue.drain())
        return tuple(_stray(incoming, packets) for incoming, packets in self._strays)

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
