"""The agent link: a connection with ALPN `rstrm/1` becomes what its first frame says (agent protocol section 4.1).

A connection that ends before its first frame is nothing to speak of: clients probe like that.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.channel import Channel
from reference_engine.agent.closing import Closing
from reference_engine.agent.connector import UpstreamUnavailable
from reference_engine.agent.control import error
from reference_engine.agent.data import DataStream, while_there
from reference_engine.agent.framing import FrameError, FrameReader
from reference_engine.agent.rules import Grant, Liveness, Presented
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tls.upstream import UpstreamTlsFailed
from reference_engine.tunnel.model import Client, ClientInfo, Tunnel
from reference_engine.tunnel.refusal import Refusal

if TYPE_CHECKING:
    from reference_engine.engine import Engine

AGENT = "edgecase-reference-engine"


class AgentLink:
    """One per engine: all connections of agents and dialers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._channels: dict[str, Channel] = {}
        self.closing = Closing(engine)

    async def serve(self, stream: ByteStream) -> None:
        """One accepted connection, until it is over; the stream is closed then."""
        frames = self._engine.parts.agent.reader()
        try:
            message = await self._first_frame(stream, frames)
            role = None if message is None else self._engine.parts.agent.role(message)
            if message is not None and role == "control":
                await self._control(stream, frames, message.open_control_channel_req)
            elif message is not None and role == "proxy":
                await self._proxy(stream, frames, message.proxy_req)
            elif message is not None and role == "dial":
                await self._dial(stream, frames, message.stream_req)
        except FrameError as problem:
            self._engine.log.info("agent connection from %s: %s", stream.peer, problem)
        except StreamReset:
            stream.abort("broken")
        except asyncio.CancelledError:
            stream.abort("shutdown")
            raise
        finally:
            # Nobody else will: a stream that was handed on is finished by now.
            await _close(stream)

    async def stop(self) -> None:
        """Tell every agent that the engine goes away, and end all channels."""
        await asyncio.gather(*(channel.shut_down() for channel in tuple(self._channels.values())))
        await self.closing.stop()

    def channels(self) -> tuple[Channel, ...]:
        """The open control channels."""
        return tuple(self._channels.values())

    async def revoke(self, tunnel: Tunnel) -> None:
        """Close a tunnel from the engine's side."""
        channel = self._channels.get(tunnel.client_id)
        if channel is not None:
            await channel.revoke(tunnel)

    async def _first_frame(self, stream: ByteStream, frames: FrameReader) -> pb.Message | None:
        """The first whole message; None when it does not come in time, or the peer says nothing at all."""
        try:
            async with asyncio.timeout(self._engine.parts.agent.first_frame_seconds(self._engine.settings)):
                while (message := frames.next()) is None:
                    data = await stream.read()
                    if not data:
                        return None
                    frames.feed(data)
                return message
        except TimeoutError:
            return None

    async def _say(self, stream: ByteStream, message: pb.Message) -> None:
        """Write one frame, in a write and so in a record of its own."""
        await stream.write(self._engine.parts.agent.encode(message))

    def _presented(self, stream: ByteStream, details: pb.ClientDetails) -> Presented:
        return Presented(details.token.value or None, getattr(stream, "client_certificate", None))

    # -- control channel (4.2) -------------------------------------------------------------------------------------

    async def _control(self, stream: ByteStream, frames: FrameReader, request: pb.OpenControlChannelReq) -> None:
        admitted = self._admit(stream, request)
        answer = pb.OpenControlChannelRsp()
        if isinstance(admitted, Refusal):
            answer.error.CopyFrom(error(admitted))
            self._engine.log.info("agent refused code=%d reason=%r", admitted.code, admitted.message)
            await self._say(stream, pb.Message(open_control_channel_rsp=answer))
            return
        grant, liveness = admitted
        client = Client(
            self._engine.parts.agent.new_id(), grant.project, _info(request.client_details), dt.datetime.now(dt.UTC)
        )
        answer.ok.client_id = client.id
        answer.ok.server_details.CopyFrom(self._server_details())
        if liveness is not None:
            answer.ok.liveness.heartbeat_interval_ms = liveness.interval
            answer.ok.liveness.heartbeat_timeout_ms = liveness.timeout
        channel = Channel(self._engine, stream, frames, client, liveness)
        self._channels[client.id] = channel
        try:
            await channel.run(pb.Message(open_control_channel_rsp=answer))
        finally:
            del self._channels[client.id]

    def _admit(self, stream: ByteStream, request: pb.OpenControlChannelReq) -> tuple[Grant, Liveness | None] | Refusal:
        """Version, then credentials, then capacity: in this order."""
        rules, settings, details = self._engine.parts.agent, self._engine.settings, request.client_details
        refusal = rules.version(details.protocol_version.value if details.HasField("protocol_version") else None)
        if refusal is not None:
            return refusal
        grant = rules.admit_agent(self._presented(stream, details), settings)
        if isinstance(grant, Refusal):
            return grant
        liveness = rules.liveness(request.liveness.heartbeat_interval_ms, settings.heartbeat_timeout_floor_ms)
        if isinstance(liveness, Refusal):
            return liveness
        refusal = rules.has_room(len(self._channels), settings.max_control_channels, "control channels")
        return refusal or (grant, liveness)

    def _server_details(self) -> pb.ServerDetails:
        details = pb.ServerDetails()
        details.agent.value = AGENT
        details.channel.value = "reference"
        details.version.value = self._engine.version
        details.plan.value = self._engine.settings.edition
        return details

    # -- data streams (4.5) ----------------------------------------------------------------------------------------

    async def _proxy(self, stream: ByteStream, frames: FrameReader, request: pb.ProxyReq) -> None:
        rules, connector = self._engine.parts.agent, self._engine.connector
        claimed = connector.claim(request.stream_id, request.client_details.token.value or None)
        zero_rtt = _zero_rtt(request)
        if isinstance(claimed, Refusal):
            if rules.answers_first_frame(zero_rtt, refused=True):
                await self._say(stream, pb.Message(proxy_rsp=pb.ProxyRsp(error=error(claimed))))
            return
        if rules.answers_first_frame(zero_rtt, refused=False):
            # In a write, and so in a record, of its own: some agents lose what stands behind it (section 3.1).
            await self._say(stream, pb.Message(proxy_rsp=pb.ProxyRsp()))
        data = connector.deliver(claimed, stream, frames.rest())
        if data is not None:
            await data.finished

    # -- dialled tunnels (4.7) -------------------------------------------------------------------------------------

    async def _dial(self, stream: ByteStream, frames: FrameReader, request: pb.StreamReq) -> None:
        rules = self._engine.parts.agent
        zero_rtt = _zero_rtt(request)
        tunnel = self._dialled(stream, request)
        if isinstance(tunnel, Tunnel):
            dialer = DataStream(stream, frames.rest())
            upstream = await self._upstream(tunnel, dialer)
            if not isinstance(upstream, Refusal):
                answers = rules.answers_first_frame(zero_rtt, refused=False)
                await self._join(tunnel, dialer, upstream, rules.new_id() if answers else None)
                return
            tunnel = upstream
        if rules.answers_first_frame(zero_rtt, refused=True):
            await self._say(stream, pb.Message(stream_rsp=pb.StreamRsp(error=error(tunnel))))

    def _dialled(self, stream: ByteStream, request: pb.StreamReq) -> Tunnel | Refusal:
        """Which tunnel is meant, for whom it may be told."""
        rules = self._engine.parts.agent
        grant = rules.admit_dialler(self._presented(stream, request.client_details), self._engine.settings)
        if isinstance(grant, Refusal):
            return grant
        tunnel = rules.meant(request.tunnel_id_name, grant.project, self._engine.registry)
        refusal = rules.dialled(found=tunnel is not None, datagram_channel=request.datagram_channel.value)
        if refusal is None and tunnel is not None:
            return tunnel
        return refusal or Refusal(3000, "tunnel_id_name", "tunnel not found")

    async def _upstream(self, tunnel: Tunnel, dialer: DataStream) -> ByteStream | Refusal:
        """The agent leg, while watching whether the dialer is still there."""
        try:
            return await while_there(self._open(tunnel, dialer.peer), dialer)
        except UpstreamUnavailable as problem:
            return self._engine.parts.agent.upstream_refusal(problem.kind, problem.message)

    async def _open(self, tunnel: Tunnel, source: Address | None) -> ByteStream:
        """The agent's stream, with TLS on it where the tunnel asks for upstream TLS."""
        stream = await self._engine.connector.open(tunnel, source)
        if not tunnel.properties.upstream_tls:
            return stream
        name = tunnel.properties.hostname or f"{tunnel.id}.{self._engine.settings.zone}"
        try:
            return await self._engine.upstream_tls.wrap(stream, server_name=name, alpns=tunnel.properties.tls_alpns)
        except UpstreamTlsFailed:
            raise UpstreamUnavailable("refused", "no TLS with the upstream") from None
        except BaseException:
            stream.abort("no TLS with the upstream")
            raise

    async def _join(self, tunnel: Tunnel, dialer: ByteStream, upstream: ByteStream, stream_id: str | None) -> None:
        """Both legs joined, until both end or the tunnel is closed on purpose. The reply goes out first, if any."""
        try:
            if stream_id is not None:
                await self._say(dialer, pb.Message(stream_rsp=pb.StreamRsp(stream_id=stream_id)))
        except BaseException:
            upstream.abort("the dialer is gone")
            raise
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(_reason: str) -> None:
            if not over.done():
                over.set_result(None)

        tunnel.sessions.add(end)
        try:
            await self._engine.parts.relay.run(dialer, upstream, over=over)
        finally:
            tunnel.sessions.discard(end)


def _info(details: pb.ClientDetails) -> ClientInfo:
    told = {field.name: value.value[:256] for field, value in details.ListFields() if field.name != "token"}
    return ClientInfo(**told)


def _zero_rtt(request: pb.ProxyReq | pb.StreamReq) -> bool | None:
    return request.zero_rtt.value if request.HasField("zero_rtt") else None


async def _close(stream: ByteStream) -> None:
    try:
        await stream.close()
    except StreamReset:
        stream.abort("broken")
