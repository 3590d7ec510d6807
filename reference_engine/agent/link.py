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
from reference_engine.agent.control import error
from reference_engine.agent.dialling import Dialling, presented, say, zero_rtt
from reference_engine.agent.direct import ChannelTable
from reference_engine.agent.framing import FrameError, FrameReader
from reference_engine.agent.rules import Grant, Liveness
from reference_engine.relay.stream import ByteStream, StreamReset
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
        self._dialling = Dialling(engine)
        self.closing = Closing(engine)

    async def serve(self, stream: ByteStream, channels: ChannelTable | None = None) -> None:
        """One accepted connection, until it is over; the stream is closed then.

        `channels` are the datagram channels of the QUIC connection that it is a stream of, None on TLS.
        """
        frames = self._engine.parts.agent.reader()
        try:
            message = await self._first_frame(stream, frames)
            role = None if message is None else self._engine.parts.agent.role(message)
            if message is not None and role == "control":
                await self._control(stream, frames, message.open_control_channel_req, channels)
            elif message is not None and role == "proxy":
                await self._proxy(stream, frames, message.proxy_req)
            elif message is not None and role == "dial":
                await self._dialling.serve(stream, frames, message.stream_req, channels)
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

    # -- control channel (4.2) -------------------------------------------------------------------------------------

    async def _control(
        self,
        stream: ByteStream,
        frames: FrameReader,
        request: pb.OpenControlChannelReq,
        channels: ChannelTable | None,
    ) -> None:
        admitted = self._admit(stream, request)
        answer = pb.OpenControlChannelRsp()
        if isinstance(admitted, Refusal):
            answer.error.CopyFrom(error(admitted))
            self._engine.log.info("agent refused code=%d reason=%r", admitted.code, admitted.message)
            await say(self._engine, stream, pb.Message(open_control_channel_rsp=answer))
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
        channel = Channel(self._engine, stream, frames, client, liveness, channels=channels)
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
        grant = rules.admit_agent(presented(stream, details), settings)
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
        silent = zero_rtt(request)
        if isinstance(claimed, Refusal):
            if rules.answers_first_frame(silent, refused=True):
                await say(self._engine, stream, pb.Message(proxy_rsp=pb.ProxyRsp(error=error(claimed))))
            return
        if rules.answers_first_frame(silent, refused=False):
            # In a write, and so in a record, of its own: some agents lose what stands behind it (section 3.1).
            await say(self._engine, stream, pb.Message(proxy_rsp=pb.ProxyRsp()))
        data = connector.deliver(claimed, stream, frames.rest())
        if data is not None:
            await data.finished


def _info(details: pb.ClientDetails) -> ClientInfo:
    told = {field.name: value.value[:256] for field, value in details.ListFields() if field.name != "token"}
    return ClientInfo(**told)


async def _close(stream: ByteStream) -> None:
    try:
        await stream.close()
    except StreamReset:
        stream.abort("broken")
