"""Dialling a tunnel: a stream or a datagram channel, joined with the agent's (agent protocol sections 4.6, 4.7)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.agent.control import error
from reference_engine.agent.data import DataStream, while_there
from reference_engine.agent.direct import ChannelTable, DirectChannel
from reference_engine.agent.framing import FrameError, FrameReader
from reference_engine.agent.rules import Presented
from reference_engine.relay.datagram import DatagramChannel
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tls.upstream import UpstreamTlsFailed
from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.refusal import Refusal

if TYPE_CHECKING:
    from reference_engine.engine import Engine


class Handle:
    """The stream that a dialler's datagram channel stands on: the end of one is the end of the other. `ended` says that
    the dialler made it."""

    def __init__(self, stream: ByteStream, frames: FrameReader, channel: DirectChannel) -> None:
        self.ended = False
        self._stream = stream
        self._frames = frames
        self._channel = channel

    async def watch(self) -> None:
        """Read until the dialler ends the channel, by closing the stream or in a word."""
        try:
            while not self._says_end():
                data = await self._stream.read()
                if not data:
                    break
                self._frames.feed(data)
        except (StreamReset, FrameError):
            pass
        self.ended = True
        self._channel.ended("closed by the dialler")

    def _says_end(self) -> bool:
        while (message := self._frames.next()) is not None:
            # Nothing but a close belongs here; what a later schema may say is passed over.
            if message.WhichOneof("payload") is not None:
                return True
        return False


class Dialling:
    """One per engine: what StreamReq asks for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def serve(
        self, stream: ByteStream, frames: FrameReader, request: pb.StreamReq, channels: ChannelTable | None
    ) -> None:
        """One dialled connection, from its StreamReq to its end. `channels` are the datagram channels of the QUIC
        connection that it is a stream of."""
        rules = self._engine.parts.agent
        tunnel = self._dialled(stream, request, direct=channels is not None)
        if isinstance(tunnel, Tunnel):
            answers = rules.answers_first_frame(zero_rtt(request), refused=False)
            dialer = DataStream(stream, frames.rest())
            if request.datagram_channel.value and channels is not None:
                refusal = await self._join_channel(tunnel, dialer, channels)
            else:
                refusal = await self._join(tunnel, dialer, answers=answers)
        else:
            refusal = tunnel
        if refusal is not None and rules.answers_first_frame(zero_rtt(request), refused=True):
            await say(self._engine, stream, pb.Message(stream_rsp=pb.StreamRsp(error=error(refusal))))

    def _dialled(self, stream: ByteStream, request: pb.StreamReq, *, direct: bool) -> Tunnel | Refusal:
        """Which tunnel is meant, for whom it may be told."""
        rules = self._engine.parts.agent
        grant = rules.admit_dialler(presented(stream, request.client_details), self._engine.settings)
        if isinstance(grant, Refusal):
            return grant
        tunnel = rules.meant(request.tunnel_id_name, grant.project, self._engine.registry)
        refusal = rules.dialled(found=tunnel is not None)
        if refusal is not None or tunnel is None:
            return refusal or Refusal(3000, "tunnel_id_name", "tunnel not found")
        refusal = self._engine.parts.datagrams.dialled(
            tunnel.properties,
            channel=request.datagram_channel.value,
            direct=direct,
            silent=not rules.answers_first_frame(zero_rtt(request), refused=False),
        )
        return refusal or tunnel

    async def _join(self, tunnel: Tunnel, dialer: DataStream, *, answers: bool) -> Refusal | None:
        """Both legs joined, until their end or until the tunnel is closed on purpose; a refusal where there is no agent
        leg. With `answers` a StreamRsp goes out in between."""
        engine = self._engine
        try:
            upstream = await while_there(self._open(tunnel, dialer.peer), dialer)
        except UpstreamUnavailable as problem:
            return engine.parts.agent.upstream_refusal(problem.kind, problem.message)
        try:
            if answers:
                answer = pb.StreamRsp(stream_id=engine.parts.agent.new_id())
                await say(engine, dialer, pb.Message(stream_rsp=answer))
        except BaseException:
            upstream.abort("the dialer is gone")
            raise
        with _session(tunnel) as over:
            if isinstance(upstream, DatagramChannel):
                await engine.parts.bridge.run(engine.connector.framed(dialer), upstream, over=over)
            else:
                await engine.parts.relay.run(dialer, upstream, over=over)
        return None

    async def _join_channel(self, tunnel: Tunnel, dialer: DataStream, channels: ChannelTable) -> Refusal | None:
        """As `_join`, for a dialler whose packets are in DATAGRAM frames: its stream is the channel's handle, open as
        long as the channel is (section 4.6)."""
        engine = self._engine
        try:
            upstream = await while_there(engine.connector.open_datagrams(tunnel, dialer.peer), dialer)
        except UpstreamUnavailable as problem:
            return engine.parts.agent.upstream_refusal(problem.kind, problem.message)
        agents = upstream.stream_id if isinstance(upstream, DirectChannel) else None
        stream_id = engine.parts.datagrams.diallers_id(agents, engine.parts.agent.new_id)
        channel = channels.open(stream_id)
        if channel is None:
            upstream.abort("no channel for the dialler")
            return engine.parts.agent.upstream_refusal("capacity", "no datagram channel is free")
        handle = Handle(dialer, engine.parts.agent.reader(), channel)
        try:
            await say(engine, dialer, pb.Message(stream_rsp=pb.StreamRsp(stream_id=stream_id)))
            # A packet in front of the answer would be one of an unknown channel, and lost (section 2.5b).
            channels.carrier.flush()
        except BaseException:
            upstream.abort("the dialer is gone")
            channel.abort("the dialer is gone")
            raise
        with _session(tunnel) as over:
            watching = asyncio.create_task(handle.watch())
            try:
                await engine.parts.bridge.run(channel, upstream, over=over)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        if engine.parts.datagrams.tells_dialler(by_dialler=handle.ended):
            close = pb.DatagramChannelClose(stream_id=stream_id)
            await say(engine, dialer, pb.Message(datagram_channel_close=close))
        return None

    async def _open(self, tunnel: Tunnel, source: Address | None) -> ByteStream | DatagramChannel:
        """The agent leg: packets or a stream, as the tunnel is; with TLS on it where it asks for upstream TLS."""
        engine = self._engine
        if tunnel.properties.type == "datagram":
            return await engine.connector.open_datagrams(tunnel, source)
        stream = await engine.connector.open(tunnel, source)
        if not tunnel.properties.upstream_tls:
            return stream
        name = tunnel.properties.hostname or f"{tunnel.id}.{engine.settings.zone}"
        try:
            return await engine.upstream_tls.wrap(stream, server_name=name, alpns=tunnel.properties.tls_alpns)
        except UpstreamTlsFailed:
            raise UpstreamUnavailable("refused", "no TLS with the upstream") from None
        except BaseException:
            stream.abort("no TLS with the upstream")
            raise


@contextlib.contextmanager
def _session(tunnel: Tunnel) -> Iterator[asyncio.Future[None]]:
    """A live session of the tunnel; the future is done when the session has to end."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(_reason: str) -> None:
        if not over.done():
            over.set_result(None)

    tunnel.sessions.add(end)
    try:
        yield over
    finally:
        tunnel.sessions.discard(end)


async def say(engine: Engine, stream: ByteStream, message: pb.Message) -> None:
    """Write one frame, in a write and so in a record of its own."""
    await stream.write(engine.parts.agent.encode(message))


def presented(stream: ByteStream, details: pb.ClientDetails) -> Presented:
    """What the peer of a connection shows to be let in."""
    return Presented(details.token.value or None, getattr(stream, "client_certificate", None))


def zero_rtt(request: pb.ProxyReq | pb.StreamReq) -> bool | None:
    """The wish of a first frame for no answer; None where it says nothing."""
    return request.zero_rtt.value if request.HasField("zero_rtt") else None
