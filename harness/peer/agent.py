"""The well-behaved agent: it answers the engine in the background and hands each data stream to the upstream side of
its tunnel. (`ScriptedAgent`, which does nothing by itself, is in `harness.peer.scripted_agent`.)"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import Transcript
from harness.link.agent import AgentLink, EngineAccess
from harness.link.agent_quic import QuicAgentConnection, QuicAgentLink, QuicChannel
from harness.link.datagram import DatagramLink
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.model.spec import TunnelSpec
from harness.peer.agent_frames import EngineRefused, Frames, Opener, read_reply
from harness.peer.scripted_agent import ScriptedAgent, accepted, refused
from harness.wire import agent as wire

MAX_STREAMS = 1024
"""Data streams of one agent that may be in the making at one time; more are refused with 7000."""
CLOSE_SECONDS = 2.0
"""How long a goodbye waits for the engine's."""
END_SECONDS = 0.2
"""How long the closed control channel waits for the engine to close the connection too."""


class ChannelLost(Exception):  # noqa: N818 - an event of the control channel
    """The control channel is gone; the text says how it ended."""


Admission = Callable[[pb.ProxyConnReq], Awaitable[tuple[int, str] | None]]
"""Asked before a data stream is opened: `None` to go on, or code and text of the refusal."""
Abandonment = Callable[[pb.ProxyConnReq], None]
"""Told when a stream that was admitted did not come about."""


@dataclass(frozen=True, slots=True)
class _Tunnel:
    """One tunnel that the engine granted: where its streams go, and whether they carry packets."""

    queue: UpstreamQueue
    datagrams: bool
    guaranteed: bool


class Agent:
    """A well-behaved agent: it opens a control channel, keeps it alive, and answers every request for a stream.

    Each stream, or datagram channel, lands in the `UpstreamQueue` of its tunnel. `refuse_streams` (code, text) makes it
    refuse them, `zero_rtt=False` await a ProxyRsp. `lost` says how the control channel ended, once it did.
    """

    def __init__(
        self,
        access: EngineAccess,
        *,
        transcript: Transcript | None = None,
        name: str = "agent",
        zero_rtt: bool = True,
        interval_ms: int | None = 5000,
        admit: Admission | None = None,
        abandoned: Abandonment | None = None,
    ) -> None:
        self.access = access
        self.zero_rtt = zero_rtt
        self.refuse_streams: tuple[int, str] | None = None
        self.client_id = ""
        self.server = pb.ServerDetails()
        self.lost: str | None = None
        self._interval_ms = interval_ms
        self._timeout: float | None = None
        self._admit = admit
        self._abandoned = abandoned
        self._name = name
        self._opener = Opener(access, transcript, name)
        self._control: Frames | None = None
        self._connection: QuicAgentConnection | None = None
        self._running = False
        self._gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tunnels: dict[str, _Tunnel] = {}
        self._opening: dict[str, tuple[asyncio.Future[pb.OpenTunnelRsp], UpstreamQueue]] = {}
        self._closing: dict[str, asyncio.Future[None]] = {}
        self._goodbye: asyncio.Future[None] | None = None
        self._streams = 0
        self._requests = 0
        self._sent_sequence = 0
        self._acknowledged = 0
        self._beats: dict[int, asyncio.Future[None]] = {}

    @property
    def transcript(self) -> Transcript | None:
        """Where the steps on the agent's leg are kept."""
        return self._opener.transcript

    @transcript.setter
    def transcript(self, transcript: Transcript | None) -> None:
        self._opener.transcript = transcript

    @property
    def liveness(self) -> bool:
        """Whether heartbeats are acknowledged on this channel."""
        return self._timeout is not None

    # the control channel

    async def open(self) -> None:
        """Open the control channel. Raises `EngineRefused`, `ChannelLost`, `OSError`, `LinkReset`, `PeerMismatch`,
        `DeadlineExpired`."""
        link = await self._opener.link()
        self._connection = link.connection if isinstance(link, QuicAgentLink) else None
        self._control = Frames(link, self._opener.channel(self._name))
        await self._control.send(
            wire.open_control_channel(token=self.access.token, interval_ms=self._interval_ms),
        )
        reply: pb.OpenControlChannelRsp = await read_reply(self._control, "open_control_channel_rsp")
        if reply.HasField("error"):
            raise EngineRefused(reply.error)
        self._negotiate(accepted(reply))
        self._running = True
        self._start(self._read())
        if self._interval_ms is not None:
            self._start(self._beat(self._interval_ms / 1000))

    def _negotiate(self, ok: pb.OpenControlChannelRsp.Ok) -> None:
        if not ok.client_id:
            raise PeerMismatch("open_control_channel_rsp with a client id", "an empty one")
        self.client_id = ok.client_id
        self.server = ok.server_details
        if not ok.HasField("liveness"):
            return
        interval, timeout = ok.liveness.heartbeat_interval_ms, ok.liveness.heartbeat_timeout_ms
        if interval != self._interval_ms or not interval <= timeout <= 900_000:
            asked = "no liveness" if self._interval_ms is None else f"liveness at {self._interval_ms} ms"
            raise PeerMismatch(f"an answer to {asked}", f"interval {interval} ms, timeout {timeout} ms")
        self._timeout = timeout / 1000

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        assert self._control is not None
        reason = "the engine ended the control channel"
        try:
            while True:
                async with asyncio.timeout(self._timeout):
                    message = await self._control.read()
                if message is None:
                    break
                if (why := self._handle(message)) is not None:
                    reason = why
                    break
        except TimeoutError:
            reason = f"no frame from the engine within {self._timeout:g} s"
        except LinkReset as end:
            reason = f"the control channel was cut: {end.reason}"
        except wire.FrameError as error:
            reason = f"the engine sent {error}"
        finally:
            self._lose(reason)

    def _lose(self, reason: str) -> None:
        if self.lost is not None:
            return
        self.lost = reason
        self._gone.set()
        waiting: list[asyncio.Future[Any]] = [future for future, _ in self._opening.values()]
        waiting += [*self._closing.values(), *self._beats.values(), *([self._goodbye] if self._goodbye else [])]
        for future in waiting:
            if not future.done():
                future.set_exception(ChannelLost(reason))

    def _handle(self, message: pb.Message) -> str | None:
        """Act on one message: `None` to go on, else why the channel ends."""
        match wire.kind(message):
            case "proxy_conn_req":
                self._start(self._serve(message.proxy_conn_req))
            case "open_tunnel_rsp":
                self._opened(message.open_tunnel_rsp)
            case "close_tunnel_rsp":
                self._tunnels.pop(message.close_tunnel_rsp.tunnel_id, None)
                future = self._closing.get(message.close_tunnel_rsp.tunnel_id)
                if future and not future.done():
                    future.set_result(None)
            case "close_control_channel_rsp":
                if self._goodbye and not self._goodbye.done():
                    self._goodbye.set_result(None)
                return "the engine closed the control channel"
            case "heartbeat":
                return self._heard(message.heartbeat)
            case "datagram_channel_close":
                self._channel_closed(message.datagram_channel_close)
            case "empty" | "server_message":
                pass
            case other:
                return f"the engine sent {other} on the control channel"
        return None

    def _opened(self, reply: pb.OpenTunnelRsp) -> None:
        future, queue = self._opening.get(reply.request_id, (None, None))
        if future is None or queue is None or future.done():
            return
        if reply.tunnel_properties.id.value:
            # Here and not where the caller wakes: a request for a stream may come in the same read.
            granted = reply.tunnel_properties
            tunnel = _Tunnel(queue, wire.carries_datagrams(granted), granted.datagram_guaranteed_delivery.value)
            self._tunnels[granted.id.value] = tunnel
        future.set_result(reply)

    def _heard(self, beat: pb.Heartbeat) -> str | None:
        if not self.liveness:
            # An empty heartbeat is passed over, as by the service's own agents.
            return (
                "the engine sent a heartbeat although no liveness was agreed"
                if beat.acknowledgement or beat.sequence
                else None
            )
        if beat.sequence or not self._acknowledged < beat.acknowledgement <= self._sent_sequence:
            return (
                f"the engine acknowledged heartbeat {beat.acknowledgement} (sequence {beat.sequence}) "
                f"after {self._acknowledged}, of {self._sent_sequence} sent"
            )
        self._acknowledged = beat.acknowledgement
        for sequence in [known for known in self._beats if known <= beat.acknowledgement]:
            future = self._beats.pop(sequence)
            if not future.done():
                future.set_result(None)
        return None

    async def _beat(self, interval: float) -> None:
        while not self._gone.is_set():
            try:
                async with asyncio.timeout(interval):
                    await self._gone.wait()
            except TimeoutError:
                await self._heartbeat()

    async def _heartbeat(self) -> None:
        if self.liveness:
            self._sent_sequence += 1
        await self._say(wire.heartbeat(self._sent_sequence))

    async def _say(self, message: pb.Message) -> None:
        """Send on the control channel; a lost channel is noticed by the reader."""
        assert self._control is not None, "open() comes first"
        try:
            await self._control.send(message)
        except LinkReset:
            return

    async def round_trip(self) -> None:
        """One heartbeat and its acknowledgement: everything sent before has been read by the engine. Raises
        `ChannelLost`, `DeadlineExpired`; only on a channel with liveness."""
        assert self.liveness, "no liveness was agreed"
        self._check_open()
        sequence = self._sent_sequence + 1
        self._beats[sequence] = asyncio.get_running_loop().create_future()
        try:
            async with deadline(f"the acknowledgement of heartbeat {sequence}"):
                acknowledged = self._beats[sequence]
                await self._heartbeat()
                await acknowledged
        finally:
            self._beats.pop(sequence, None)

    async def wait_lost(self) -> str:
        """Return how the control channel ended, when it did."""
        await self._gone.wait()
        return self.lost or ""

    # tunnels

    async def open_tunnel(self, spec: TunnelSpec | pb.TunnelProperties, upstream: UpstreamQueue) -> pb.TunnelProperties:
        """Open a tunnel whose streams go to `upstream`. Raises `EngineRefused`, `ChannelLost`, `PeerMismatch`,
        `DeadlineExpired`."""
        self._requests += 1
        request_id = f"request-{self._requests}"
        properties = wire.to_properties(spec) if isinstance(spec, TunnelSpec) else spec
        future: asyncio.Future[pb.OpenTunnelRsp] = asyncio.get_running_loop().create_future()
        self._opening[request_id] = (future, upstream)
        try:
            async with deadline("open_tunnel_rsp from the engine"):
                self._check_open()
                await self._say(wire.open_tunnel(request_id, properties))
                reply = await future
        finally:
            del self._opening[request_id]
        if reply.HasField("error"):
            raise EngineRefused(reply.error)
        if not reply.tunnel_properties.id.value:
            raise PeerMismatch("open_tunnel_rsp with a tunnel id", "none")
        return reply.tunnel_properties

    async def close_tunnel(self, tunnel_id: str) -> None:
        """Close a tunnel. Raises `ChannelLost`, `DeadlineExpired`."""
        future = self._closing.setdefault(tunnel_id, asyncio.get_running_loop().create_future())
        try:
            async with deadline("close_tunnel_rsp from the engine"):
                self._check_open()
                await self._say(wire.close_tunnel(tunnel_id))
                await future
        finally:
            self._closing.pop(tunnel_id, None)
            self._tunnels.pop(tunnel_id, None)

    def _check_open(self) -> None:
        if self.lost is not None:
            raise ChannelLost(self.lost)

    # streams

    async def _serve(self, request: pb.ProxyConnReq) -> None:
        """Answer one request for a data stream."""
        tunnel = self._tunnels.get(request.tunnel_id)
        refusal = self.refuse_streams
        if tunnel is None:
            refusal = (4000, "no such tunnel here")
        elif self._streams >= MAX_STREAMS:
            refusal = (7000, f"more than {MAX_STREAMS} streams in the making")
        self._streams += 1
        try:
            if refusal is None and self._admit is not None:
                refusal = await self._admit(request)
            if refusal is None and tunnel is not None:
                refusal = await self._connect(request, tunnel)
                if refusal is not None and self._abandoned is not None:
                    self._abandoned(request)
            code, text = refusal or (None, "")
            await self._say(wire.proxy_conn_rsp(request.stream_id, code=code, text=text))
        finally:
            self._streams -= 1

    async def _connect(self, request: pb.ProxyConnReq, tunnel: _Tunnel) -> tuple[int, str] | None:
        # Section 4.6: over QUIC a datagram tunnel has no streams, unless nothing may be lost or another engine asks.
        direct = tunnel.datagrams and not tunnel.guaranteed and not request.HasField("proxy_endpoint")
        if direct and self.access.transport == "quic":
            return await self._connect_channel(request, tunnel)
        return await self._connect_stream(request, tunnel)

    async def _connect_channel(self, request: pb.ProxyConnReq, tunnel: _Tunnel) -> tuple[int, str] | None:
        """A channel in DATAGRAM frames on the connection of the control channel."""
        connection = self._connection
        if connection is None:
            return 6000, "no QUIC connection"
        try:
            channel = connection.channel(request.stream_id)
        except ValueError as error:
            return 6000, str(error)
        channel.on_close = lambda: self._start(self._say(wire.datagram_channel_close(request.stream_id)))
        tunnel.queue.put(Incoming(channel, wire.address_text(request.source_ip), request.stream_id))
        return None

    def _channel_closed(self, closed: pb.DatagramChannelClose) -> None:
        channel = self._connection.find(closed.stream_id) if self._connection else None
        if channel is not None:
            told = f": {wire.describe_error(closed.error)}" if closed.HasField("error") else ""
            channel.cut(f"the engine closed the channel{told}")

    async def _connect_stream(self, request: pb.ProxyConnReq, tunnel: _Tunnel) -> tuple[int, str] | None:
        secret = request.secret.value if request.HasField("secret") else None
        first = wire.proxy_req(request.stream_id, secret=secret, zero_rtt=self.zero_rtt)
        try:
            frames = await self._opener.stream(first)
            if not self.zero_rtt:
                reply: pb.ProxyRsp = await read_reply(frames, "proxy_rsp")
                if reply.HasField("error"):
                    frames.link.abort()
                    return 6000, f"the engine refused the data stream: {wire.describe_error(reply.error)}"
        except (OSError, LinkReset, DeadlineExpired, PeerMismatch) as error:
            return 6000, f"no data stream: {error}"
        flow = frames.hand_over_packets() if tunnel.datagrams else frames.hand_over()
        tunnel.queue.put(Incoming(flow, wire.address_text(request.source_ip), request.stream_id))
        return None

    async def dial(self, tunnel: str, *, zero_rtt: bool | None = None, glued: bytes = b"") -> AgentLink:
        """Dial a tunnel by id or name; needs no control channel. Raises `EngineRefused` (with zero_rtt false),
        `PeerMismatch`, `LinkReset`, `OSError`, `DeadlineExpired`."""
        return (await self._dial(tunnel, zero_rtt, glued)).hand_over(dialed=True)

    async def dial_packets(self, tunnel: str, *, zero_rtt: bool | None = None) -> DatagramLink:
        """Dial a datagram tunnel by id or name: its packets in DATAGRAM frames where the link is QUIC and the engine
        agrees, else framed on a stream. Raises as `dial`."""
        if self.access.transport == "quic":
            frames = await self._opener.stream(
                wire.stream_req(tunnel, token=self.access.token, zero_rtt=False, datagram_channel=True)
            )
            reply: pb.StreamRsp = await read_reply(frames, "stream_rsp")
            if not reply.HasField("error"):
                channel = (await self._opener.connection()).channel(reply.stream_id)
                self._start(self._hold(channel, frames))
                return channel
            await frames.link.close()
        return (await self._dial(tunnel, zero_rtt, b"")).hand_over_packets(dialed=True)

    async def _hold(self, channel: QuicChannel, handle: Frames) -> None:
        """The stream of a dialled channel: its end is the channel's, and the other way round."""
        channel.on_close = lambda: self._start(handle.link.close())
        reason = "the engine ended the channel's stream"
        try:
            while (message := await handle.read()) is not None:
                if wire.kind(message) == "datagram_channel_close":
                    reason = "the engine closed the channel"
                    break
        except (LinkReset, wire.FrameError) as end:
            reason = str(end)
        channel.cut(reason)
        await handle.link.close()

    async def _dial(self, tunnel: str, zero_rtt: bool | None, glued: bytes) -> Frames:
        early = self.zero_rtt if zero_rtt is None else zero_rtt
        frames = await self._opener.stream(
            wire.stream_req(tunnel, token=self.access.token, zero_rtt=early), glued=glued
        )
        if not early:
            reply: pb.StreamRsp = await read_reply(frames, "stream_rsp")
            if reply.HasField("error"):
                await frames.link.close()
                raise EngineRefused(reply.error)
        return frames

    # end

    def drop(self) -> None:
        """Reset the control channel without a word; data streams live on."""
        if self._control:
            self._control.link.abort()

    async def close(self) -> None:
        """Say goodbye, and end everything that is left. Safe to call twice and after a loss."""
        if self._running and self.lost is None:
            await self._say_goodbye()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lose("closed")
        if self._control:
            await self._control.link.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._control.link.wait_closed()
        await self._opener.abort_all()

    async def _say_goodbye(self) -> None:
        self._goodbye = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._say(wire.close_control_channel())
                await self._goodbye
        except (TimeoutError, ChannelLost) as error:
            if self.transcript:
                self.transcript.note("no close_control_channel_rsp", str(error) or f"within {CLOSE_SECONDS:g} s")


__all__ = ["Agent", "ChannelLost", "EngineRefused", "ScriptedAgent", "accepted", "refused"]
