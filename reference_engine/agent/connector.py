"""Asking an agent for a stream of one of its tunnels, and pairing the answer (agent protocol sections 4.5 and 4.6).

The request goes out on the control channel; the answer is a connection of its own, whose first frame names the stream
and returns its secret. Both are matched here, with a deadline, a cap on what is outstanding, and one winner.

A *flow* is a stream of packets in DATAGRAM frames: there the answer on the control channel is all that comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.data import DataStream
from reference_engine.agent.direct import ChannelTable, DirectChannel
from reference_engine.agent.framed import FramedChannel
from reference_engine.agent.framing import FrameError
from reference_engine.relay.datagram import DatagramChannel
from reference_engine.relay.stream import Address, ByteStream, StreamReset
from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.refusal import Refusal

if TYPE_CHECKING:
    from reference_engine.engine import Engine


T = TypeVar("T")


class UpstreamUnavailable(Exception):  # noqa: N818 - the field's word for it
    """No agent stream. `kind`: `agent-gone`, `refused`, `timeout`, `capacity` or `closed`; `message` is for people."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(eq=False)
class Line:
    """The connector's end of one control channel: how to write there, and what is under way.

    `channels` are the datagram channels of its connection, None where that has no DATAGRAM frames.
    """

    client_id: str
    send: Callable[[pb.Message], Awaitable[None]]
    channels: ChannelTable | None = None
    open: bool = True
    outstanding: int = 0
    streams: int = 0
    queue: deque[asyncio.Future[None]] = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class PendingStream:
    """A stream that was asked for. `taken` once a ProxyReq has won it; it stays known until it ends.

    A flow has a `channel` from the start, and an answer without a stream; it is `taken` by the agent's ProxyConnRsp.
    """

    stream_id: str
    secret: str
    tunnel: Tunnel
    line: Line
    answer: asyncio.Future[DataStream | None]
    taken: bool = False
    stream: DataStream | None = None
    channel: DirectChannel | None = None
    ended_by_agent: bool = False


class Connector:
    """One per engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lines: dict[str, Line] = {}
        self._streams: dict[str, PendingStream] = {}
        self._telling: set[asyncio.Task[None]] = set()

    # -- the control channels' side --------------------------------------------------------------------------------

    def attach(self, line: Line) -> None:
        """A control channel is open."""
        self._lines[line.client_id] = line

    def detach(self, line: Line) -> None:
        """It is not any more: nothing that it was asked for will come."""
        line.open = False
        self._lines.pop(line.client_id, None)
        gone = UpstreamUnavailable("agent-gone", "the agent's control channel has ended")
        rules = self._engine.parts.agent
        for pending in [row for row in self._streams.values() if row.line is line and rules.gives_up(taken=row.taken)]:
            self._fail(pending, gone)
        for waiter in line.queue:
            if not waiter.done():
                waiter.set_result(None)

    def fail_pending(self, tunnel: Tunnel) -> None:
        """The tunnel was closed on purpose: nobody waits for a stream of it any more."""
        rules = self._engine.parts.agent
        own = [row for row in self._streams.values() if row.tunnel is tunnel]
        for pending in [row for row in own if rules.gives_up(taken=row.taken)]:
            self._fail(pending, UpstreamUnavailable("closed", "the tunnel has been closed"))

    def streams_of(self, tunnel: Tunnel) -> list[DataStream]:
        """The live streams of the tunnel."""
        return [row.stream for row in self._streams.values() if row.tunnel is tunnel and row.stream is not None]

    def flows_of(self, tunnel: Tunnel) -> list[DirectChannel]:
        """The live flows of the tunnel."""
        return [row.channel for row in self._streams.values() if row.tunnel is tunnel and row.channel is not None]

    def accepted(self, line: Line, stream_id: str) -> None:
        """A ProxyConnRsp without an error: what confirms a flow; a stream is confirmed by its ProxyReq."""
        pending = self._streams.get(stream_id)
        if pending is None or pending.channel is None or pending.taken:
            return
        if self._engine.parts.datagrams.confirms(own=pending.line is line):
            pending.taken = True
            if not pending.answer.done():
                pending.answer.set_result(None)

    def refused(self, line: Line, stream_id: str, message: str) -> None:
        """A ProxyConnRsp with an error: give up, also where a ProxyReq has already come. Others' streams stay."""
        pending = self._streams.get(stream_id)
        if pending is None or not self._engine.parts.agent.may_refuse(own=pending.line is line):
            return
        pending.ended_by_agent = True
        if pending.stream is not None:
            pending.stream.abort("the agent refused the stream")
        elif pending.channel is not None and pending.taken:
            pending.channel.ended("the agent refused the flow")
        elif not pending.taken:
            self._fail(pending, UpstreamUnavailable("refused", f"the agent refused the stream: {message[:200]}"))

    def closed(self, line: Line, stream_id: str) -> None:
        """A DatagramChannelClose: the agent's end of a flow is over, or it will not begin."""
        pending = self._streams.get(stream_id)
        if pending is None or pending.channel is None:
            return
        if self._engine.parts.datagrams.may_close(own=pending.line is line):
            pending.ended_by_agent = True
            if not pending.taken:
                self._fail(pending, UpstreamUnavailable("refused", "the agent closed the flow"))
            pending.channel.ended("closed by the agent")

    def claim(self, stream_id: str, token: str | None) -> PendingStream | Refusal:
        """The stream that a ProxyReq names, now taken by it, or why it does not get it."""
        pending = self._engine.parts.agent.claimed(stream_id, self._streams)
        if pending is not None and pending.channel is not None:
            # A flow in DATAGRAM frames has no stream (section 4.6).
            pending = None
        refusal = self._engine.parts.agent.proxy_request(
            secret=pending.secret if pending is not None else None,
            taken=pending.taken if pending is not None else False,
            token=token,
        )
        if refusal is not None or pending is None:
            return refusal or Refusal(4000, "stream_id", "stream_id: unknown or expired")
        pending.taken = True
        return pending

    def deliver(self, pending: PendingStream, stream: ByteStream, head: bytes) -> DataStream | None:
        """Hand the connection to whoever asked; None when nobody waits for it any more."""
        if pending.answer.done():
            return None
        line = pending.line
        line.streams += 1

        def ended() -> None:
            line.streams -= 1
            self._streams.pop(pending.stream_id, None)

        pending.stream = DataStream(stream, head, ended)
        pending.answer.set_result(pending.stream)
        return pending.stream

    # -- the endpoints' side ---------------------------------------------------------------------------------------

    async def open(self, tunnel: Tunnel, source: Address | None) -> ByteStream:
        """A fresh stream to the tunnel's upstream. `source` is the downstream peer, told to the agent.

        Raises UpstreamUnavailable.
        """
        return await self._opened(tunnel, source, self._ask)

    async def open_datagrams(self, tunnel: Tunnel, source: Address | None) -> DatagramChannel:
        """A fresh datagram channel to the tunnel's upstream: a flow of its own (section 4.6), in DATAGRAM frames where
        the agent's link has them and nothing has to be guaranteed.

        Raises UpstreamUnavailable.
        """
        line = self._lines.get(tunnel.client_id)
        if line is None or line.channels is None or not self._engine.parts.datagrams.direct(tunnel.properties):
            return self.framed(await self.open(tunnel, source))
        return await self._opened(tunnel, source, self._ask_flow)

    async def _opened(
        self, tunnel: Tunnel, source: Address | None, ask: Callable[[Tunnel, Line, Address | None], Awaitable[T]]
    ) -> T:
        """What `ask` gets of the agent, within the limits and in time."""
        settings = self._engine.settings
        line = self._lines.get(tunnel.client_id)
        if line is None or not tunnel.open:
            raise UpstreamUnavailable("agent-gone", "the agent of the tunnel is not connected")
        if self._engine.parts.agent.has_room(line.streams, settings.max_streams_per_channel, "streams") is not None:
            raise UpstreamUnavailable("capacity", "the agent carries as many streams as it may")
        try:
            async with asyncio.timeout(settings.agent_connect_timeout_ms / 1000):
                await self._slot(line)
                try:
                    return await ask(tunnel, line, source)
                finally:
                    self._free(line)
        except TimeoutError:
            raise UpstreamUnavailable("timeout", "the agent did not connect in time") from None
        except StreamReset:
            raise UpstreamUnavailable("agent-gone", "the agent's control channel broke") from None

    def framed(self, stream: ByteStream) -> DatagramChannel:
        """The channel of framed packets that `stream` is behind its handshake frames."""
        settings = self._engine.settings
        return FramedChannel(
            stream,
            self._engine.parts.datagrams,
            buffer=settings.stream_buffer_bytes,
            close_timeout=settings.close_timeout_ms / 1000,
        )

    async def _slot(self, line: Line) -> None:
        """Wait, first come first served, until the agent may be asked once more."""
        limit = self._engine.settings.max_pending_streams_per_channel
        rules = self._engine.parts.agent
        while line.open and not rules.may_ask(line.outstanding, limit):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line.queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake(line)
                raise
            finally:
                if turn in line.queue:
                    line.queue.remove(turn)
        line.outstanding += 1

    def _free(self, line: Line) -> None:
        line.outstanding -= 1
        self._wake(line)

    def _wake(self, line: Line) -> None:
        while line.queue:
            turn = line.queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def _ask(self, tunnel: Tunnel, line: Line, source: Address | None) -> ByteStream:
        pending = self._pending(tunnel, line)
        try:
            await line.send(request(pending, source))
            stream = await pending.answer
            assert stream is not None
            return stream
        except BaseException:
            # The stream may have arrived in the very step in which the wait ended.
            if pending.stream is not None:
                pending.stream.abort("nobody waits for the stream")
            self._streams.pop(pending.stream_id, None)
            if not pending.answer.done():
                pending.answer.cancel()
            raise

    async def _ask_flow(self, tunnel: Tunnel, line: Line, source: Address | None) -> DatagramChannel:
        pending = self._pending(tunnel, line)
        channel = pending.channel = line.channels.open(pending.stream_id) if line.channels is not None else None
        if channel is None:
            self._streams.pop(pending.stream_id, None)
            raise UpstreamUnavailable("agent-gone", "the agent's connection takes no more datagram channels")
        line.streams += 1
        channel.on_end = lambda reason: self._flow_over(pending, reason)
        try:
            await line.send(request(pending, source))
            if self._engine.parts.datagrams.waits_for_answer():
                await pending.answer
            return channel
        except BaseException:
            channel.abort("nobody waits for the flow")
            if not pending.answer.done():
                pending.answer.cancel()
            raise

    def _pending(self, tunnel: Tunnel, line: Line) -> PendingStream:
        """A new row, unless its agent or its tunnel has gone meanwhile."""
        if not line.open:
            raise UpstreamUnavailable("agent-gone", "the agent's control channel has ended")
        if not tunnel.open:
            raise UpstreamUnavailable("closed", "the tunnel has been closed")
        rules = self._engine.parts.agent
        answer: asyncio.Future[DataStream | None] = asyncio.get_running_loop().create_future()
        pending = PendingStream(rules.new_id(), rules.new_secret(), tunnel, line, answer)
        self._streams[pending.stream_id] = pending
        return pending

    def _flow_over(self, pending: PendingStream, reason: str) -> None:
        """A flow has ended: the agent is told, once, unless it knows (AGENT-101)."""
        line = pending.line
        line.streams -= 1
        self._streams.pop(pending.stream_id, None)
        if not pending.answer.done():
            pending.answer.set_exception(UpstreamUnavailable("agent-gone", reason))
            # Who waits for it may have gone already.
            pending.answer.exception()
        is_open = self._engine.registry.by_id(pending.tunnel.id) is pending.tunnel
        tells = self._engine.parts.datagrams.tells_agent(by_agent=pending.ended_by_agent, tunnel_open=is_open)
        if tells and line.open:
            close = pb.DatagramChannelClose(stream_id=pending.stream_id)
            task = asyncio.get_running_loop().create_task(self._tell(line, pb.Message(datagram_channel_close=close)))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, line: Line, message: pb.Message) -> None:
        # A channel that breaks is found out by whoever reads it.
        with contextlib.suppress(StreamReset, FrameError):
            await line.send(message)

    def _fail(self, pending: PendingStream, problem: UpstreamUnavailable) -> None:
        if pending.channel is None:
            # A flow leaves with its channel, which whoever waits for it ends.
            self._streams.pop(pending.stream_id, None)
        if not pending.answer.done():
            pending.answer.set_exception(problem)


def request(pending: PendingStream, source: Address | None) -> pb.Message:
    """The ProxyConnReq for a stream."""
    message = pb.ProxyConnReq(tunnel_id=pending.tunnel.id, stream_id=pending.stream_id)
    message.secret.value = pending.secret
    if source is not None:
        address = ip_address(source.host)
        if address is not None:
            message.source_ip.CopyFrom(address)
    return pb.Message(proxy_conn_req=message)


def ip_address(host: str) -> pb.IpAddress | None:
    """An address as the protocol has it (section 3.2); an IPv4-mapped one as the IPv4 address that it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return pb.IpAddress(v6=address.packed)
        address = address.ipv4_mapped
    return pb.IpAddress(v4=int(address))
