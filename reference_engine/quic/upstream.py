"""QUIC towards an upstream, inside a datagram channel of the agent: a connection of the engine's own (QUIC-003)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.quic.configuration import client_configuration
from reference_engine.quic.connection import SMALLEST_DATAGRAM, Windows
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.datagram import ChannelClosed, DatagramChannel
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import Tunnel

if TYPE_CHECKING:
    from reference_engine.engine import Engine

HOP = ("upstream", 0)
"""The one address behind a channel: the agent knows the real one."""
AT_ONCE = 64
"""Packets that are taken in one go before anybody else gets a turn."""


class UpstreamQuic:
    """One connection to an upstream. `transport` drives it; the channel below is this object's to end."""

    def __init__(self, engine: Engine, tunnel: Tunnel, channel: DatagramChannel, alpns: Sequence[str]) -> None:
        settings, parts = engine.settings, engine.parts
        self._channel = channel
        name = parts.quic.upstream_name(tunnel.properties.hostname or "")
        windows = peer_windows(engine)
        connection = parts.quic_endpoints.client(
            client_configuration(name, alpns, windows, idle=settings.quic_idle_ms / 1000),
            windows=windows,
            judge=lambda chain: engine.upstream_tls.judge_chain(chain, name),
        )
        self.transport = QuicTransport(
            connection,
            self._send,
            peer=channel.peer,
            high_water=settings.stream_buffer_bytes,
            most_datagrams=settings.quic_datagrams,
        )

    @classmethod
    async def open(cls, engine: Engine, tunnel: Tunnel, source: Address | None, alpns: Sequence[str]) -> UpstreamQuic:
        """A channel, and the first packet of a handshake on it. Raises UpstreamUnavailable."""
        channel = await engine.connector.open_datagrams(tunnel, source)
        if channel.max_packet < SMALLEST_DATAGRAM:
            channel.abort("too narrow for QUIC")
            raise UpstreamUnavailable("refused", f"the agent's path carries packets of {channel.max_packet} octets")
        upstream = cls(engine, tunnel, channel, alpns)
        channel.on_arrival(upstream._arrived)
        upstream.transport.connect(HOP)
        # A channel that has ended in the meantime tells nobody any more.
        upstream._arrived()
        return upstream

    def _send(self, packet: bytes, hop: object) -> None:
        del hop
        # Dropped where the queue is full: as good as lost on the way, and congestion control slows down.
        self._channel.send(packet)

    def _arrived(self) -> None:
        try:
            for _ in range(AT_ONCE):
                packet = self._channel.receive_now()
                if packet is None:
                    return
                self.transport.receive(packet, HOP)
        except ChannelClosed as problem:
            self._channel.on_arrival(None)
            self.transport.drop(problem.reason, by="path")
            return
        asyncio.get_running_loop().call_soon(self._arrived)

    async def close(self, seconds: float) -> None:
        """End the channel behind the end of the connection, which may still be repeated for `seconds`."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.transport.gone()
            self._channel.on_arrival(None)
            self.transport.drop()
            await self._channel.close()
        except BaseException:
            self.abort("nobody waits for the end")
            raise

    def abort(self, reason: str) -> None:
        """Drop connection and channel."""
        self.transport.drop(reason)
        self._channel.on_arrival(None)
        self._channel.abort(reason)


def peer_windows(engine: Engine) -> Windows:
    """What a client or an upstream may send before something of it was passed on; see the settings."""
    settings = engine.settings
    return Windows(
        stream=settings.stream_buffer_bytes,
        connection=settings.quic_window_bytes,
        streams_bidi=settings.quic_max_streams,
        streams_uni=settings.quic_max_streams,
        datagrams=settings.quic_datagrams,
    )
