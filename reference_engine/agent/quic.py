"""The agent link over QUIC: every stream that the client opens is a connection of the agent protocol (section 2.2).

The engine opens none. DATAGRAM frames are the packets of datagram channels (section 2.5b), whichever of the streams
they were agreed on. When the connection ends, everything on it has ended.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reference_engine.agent.direct import ChannelTable
from reference_engine.edge.rules import AGENT_ALPN
from reference_engine.quic.connection import Choice, Windows
from reference_engine.quic.stream import QuicClosed, QuicStream
from reference_engine.quic.transport import QuicTransport
from reference_engine.relay.stream import StreamReset

if TYPE_CHECKING:
    from reference_engine.engine import Engine


STREAMS = 4_096
"""Streams that a client may have open: every connection of the agent protocol is one."""
PACKET = 1_350
"""Octets of a packet to an agent, so that an inner one of 1,200 fits with its channel id (section 2.5)."""


def answer_to_agents(engine: Engine) -> Choice:
    """How the ClientHello of an agent or a dialler is answered: as on TCP, by the same credentials."""
    settings = engine.settings
    return Choice(
        engine.certificates.current(),
        (AGENT_ALPN,),
        request_certificate=engine.parts.agent.requests_certificate(),
        windows=Windows(
            stream=settings.stream_buffer_bytes,
            # Streams of which nobody reads must not hold back the control channel, which is one of them (EDGE-006).
            connection=STREAMS * settings.stream_buffer_bytes,
            streams_bidi=STREAMS,
            streams_uni=0,
            datagrams=settings.quic_datagrams,
        ),
        packet=PACKET,
    )


class AgentQuic:
    """One QUIC connection with ALPN `rstrm/1`."""

    def __init__(self, engine: Engine, transport: QuicTransport) -> None:
        self._engine = engine
        self._transport = transport
        self.channels = ChannelTable(
            transport, engine.parts.datagrams, peer=transport.peer, buffer=engine.settings.stream_buffer_bytes
        )

    async def serve(self) -> None:
        """Serve what the client opens, until the connection is over."""
        transport = self._transport
        transport.on_datagram(self._datagrams)
        async with asyncio.TaskGroup() as streams:
            try:
                await transport.completed()
                while True:
                    streams.create_task(self._one(await transport.accept_stream()))
            except QuicClosed as problem:
                # Every stream hears of it by itself, as of a loss (EDGE-026).
                self.channels.over(problem.reason)

    async def _one(self, stream: QuicStream) -> None:
        try:
            await self._engine.agents.serve(stream, self.channels)
        except Exception as problem:
            stream.abort("no longer served")
            if not isinstance(problem, StreamReset):
                self._engine.log.error("agent stream failed problem=%r", problem, exc_info=problem)

    def _datagrams(self) -> None:
        """Bring what has come to the channels."""
        try:
            while (payload := self._transport.receive_datagram_now()) is not None:
                self.channels.came(payload)
        except QuicClosed as problem:
            self.channels.over(problem.reason)
