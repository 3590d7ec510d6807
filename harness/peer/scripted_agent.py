"""An agent that a case drives frame by frame, able to be wrong in everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import PeerMismatch
from harness.evidence.transcript import Transcript
from harness.link.agent import AgentLink, EngineAccess
from harness.link.agent_quic import QuicAgentConnection, QuicChannel
from harness.link.deadline import deadline
from harness.link.framed import FramedLink
from harness.link.stream import End, EndKind, LinkReset
from harness.model.spec import TunnelSpec
from harness.peer.agent_frames import Frames, Opener, read_reply
from harness.wire import agent as wire

KEEP: Any = object()
"""An argument that was not given: what a well-behaved agent would send."""


def accepted(reply: pb.OpenControlChannelRsp | pb.OpenTunnelRsp) -> Any:
    """What a reply grants: the `Ok` of a control channel, the `TunnelProperties` of a tunnel. Raises `PeerMismatch`."""
    if reply.WhichOneof("payload") in ("ok", "tunnel_properties"):
        return reply.ok if isinstance(reply, pb.OpenControlChannelRsp) else reply.tunnel_properties
    name = "open_control_channel_rsp" if isinstance(reply, pb.OpenControlChannelRsp) else "open_tunnel_rsp"
    actual = wire.describe_error(reply.error) if reply.HasField("error") else "neither a grant nor an error"
    raise PeerMismatch(f"{name} that grants the request", actual)


def refused(reply: pb.OpenControlChannelRsp | pb.OpenTunnelRsp) -> pb.Error:
    """The error of a reply. Raises `PeerMismatch` when the engine granted the request."""
    if reply.HasField("error"):
        return reply.error
    name = "open_control_channel_rsp" if isinstance(reply, pb.OpenControlChannelRsp) else "open_tunnel_rsp"
    raise PeerMismatch(f"{name} with an error", "the request granted")


class ScriptedAgent:
    """A control channel, and the data streams beside it, moved by a script frame by frame.

    Nothing is answered by itself, heartbeats neither. Every wait has a deadline. Frames of the kinds in `ignore` may
    come at any time and are passed over (they are in the transcript).
    """

    def __init__(
        self,
        access: EngineAccess,
        transcript: Transcript,
        *,
        name: str = "agent-1",
        ignore: Collection[str] = ("server_message",),
    ) -> None:
        self.access = access
        self.name = name
        self.aside: list[pb.Message] = []
        self._ignore = frozenset(ignore)
        self._opener = Opener(access, transcript, name)
        self._frames: Frames | None = None
        self._requests = 0
        self._sequence = 0

    # the control channel's connection

    async def connect(self, *, alpn: Collection[str] | None = None, first: bytes = b"", **access: Any) -> AgentLink:
        """Open the control channel's TLS connection; `access` replaces fields of `EngineAccess`.

        Raises `OSError`, `HandshakeFailed`, `DeadlineExpired`.
        """
        link = await self._opener.link(
            dataclasses.replace(self.access, **access), alpn=None if alpn is None else tuple(alpn), first=first
        )
        channel = self._opener.channel(self.name)
        if channel:
            what = "TLS connection" if self.access.transport == "tls" else "QUIC stream"
            channel.sent(what, detail=f"{link.version}, ALPN {link.alpn}")
            if first:
                channel.sent("raw octets", data=first)
        self._frames = Frames(link, channel)
        return link

    @property
    def link(self) -> AgentLink:
        """The control channel's link."""
        return self._control.link

    @property
    def _control(self) -> Frames:
        assert self._frames is not None, "connect() or open() comes first"
        return self._frames

    async def send_message(self, message: pb.Message, **broken: Any) -> None:
        """Send one frame on the control channel; `broken` as in `wire.encode`, and `glued`."""
        async with deadline(f"the engine to take {wire.kind(message)}"):
            await self._control.send(message, **broken)

    async def send_raw(self, data: bytes) -> None:
        """Send octets on the control channel as they are."""
        async with deadline(f"the engine to take {len(data)} octets"):
            await self._control.send_raw(data)

    # awaiting

    async def expect(self, case: str, *, aside: Collection[str] = ()) -> Any:
        """The payload of the next message, which must be a `case` (`open_tunnel_rsp`).

        Messages of the kinds in `aside` that come before it are kept for a later `expect`. Raises `PeerMismatch` for
        any other message, garbage or the end, `DeadlineExpired`.
        """
        for index, kept in enumerate(self.aside):
            if wire.kind(kept) == case:
                del self.aside[index]
                return getattr(kept, case)
        async with deadline(f"{case} from the engine"):
            while True:
                message = await self._next(case)
                name = wire.kind(message)
                if name == case:
                    return getattr(message, case)
                if name not in aside:
                    raise PeerMismatch(f"{case} from the engine", f"{name} {wire.describe(message)}".strip())
                self.aside.append(message)

    async def _next(self, awaited: str) -> pb.Message:
        while True:
            try:
                message = await self._control.read()
            except LinkReset as end:
                raise PeerMismatch(f"{awaited} from the engine", f"the end of the connection: {end.reason}") from end
            except wire.FrameError as error:
                raise PeerMismatch(f"{awaited} from the engine", str(error)) from error
            if message is None:
                raise PeerMismatch(f"{awaited} from the engine", str(self.link.end or "end"))
            if wire.kind(message) not in self._ignore:
                return message

    async def expect_end(self, *, allow: Collection[str] = ()) -> End:
        """How the engine ends the control channel's connection. Raises `PeerMismatch` for a message of a kind that is
        not in `allow`, `DeadlineExpired`."""
        async with deadline("the engine to end the control channel's connection"):
            while True:
                try:
                    message = await self._control.read()
                except LinkReset:
                    return self.link.end or End(EndKind.RESET)
                except wire.FrameError as error:
                    raise PeerMismatch("the end of the control channel", str(error)) from error
                if message is None:
                    return self.link.end or End(EndKind.CLOSE_NOTIFY)
                if wire.kind(message) not in self._ignore | set(allow):
                    actual = f"{wire.kind(message)} {wire.describe(message)}".strip()
                    raise PeerMismatch("the end of the control channel", actual)

    def arrived(self) -> tuple[pb.Message, ...]:
        """What the engine sent and no `expect` took, without waiting: only after a barrier does its absence mean
        anything."""
        self.aside.extend(message for message in self._control.read_ready() if wire.kind(message) not in self._ignore)
        return tuple(self.aside)

    # what an agent says

    async def open(
        self,
        *,
        token: str | None = KEEP,
        version: str | None = wire.PROTOCOL_VERSION,
        interval_ms: int | None = None,
        timeout_ms: int | None = None,
    ) -> pb.OpenControlChannelRsp:
        """Open the control channel (and connect, if that was not done) and give the engine's reply; see `accepted` and
        `refused`."""
        if self._frames is None:
            await self.connect()
        own = self.access.token if token is KEEP else token
        await self.send_message(
            wire.open_control_channel(token=own, version=version, interval_ms=interval_ms, timeout_ms=timeout_ms)
        )
        reply: pb.OpenControlChannelRsp = await self.expect("open_control_channel_rsp")
        return reply

    async def open_tunnel(
        self, spec: TunnelSpec | pb.TunnelProperties, *, request_id: str | None = None
    ) -> pb.OpenTunnelRsp:
        """Ask for a tunnel and give the reply to this request."""
        self._requests += 1
        properties = wire.to_properties(spec) if isinstance(spec, TunnelSpec) else spec
        wanted = f"request-{self._requests}" if request_id is None else request_id
        await self.send_message(wire.open_tunnel(wanted, properties))
        reply: pb.OpenTunnelRsp = await self.expect("open_tunnel_rsp", aside=("proxy_conn_req", "heartbeat"))
        return reply

    async def close_tunnel(self, tunnel_id: str) -> pb.CloseTunnelRsp:
        """Close a tunnel and give the reply."""
        await self.send_message(wire.close_tunnel(tunnel_id))
        reply: pb.CloseTunnelRsp = await self.expect("close_tunnel_rsp", aside=("proxy_conn_req", "heartbeat"))
        return reply

    async def heartbeat(self, sequence: int | None = None) -> pb.Heartbeat:
        """Send the next heartbeat (or the given `sequence`) and give the engine's answer: on a channel with liveness a
        round trip, and so a barrier."""
        await self.send_heartbeat(sequence)
        answer: pb.Heartbeat = await self.expect("heartbeat", aside=("proxy_conn_req", "close_tunnel_rsp"))
        return answer

    async def send_heartbeat(self, sequence: int | None = None, *, acknowledgement: int = 0) -> int:
        """Send the next heartbeat (or the given `sequence`; 0 is the empty one) and give its sequence."""
        self._sequence = self._sequence + 1 if sequence is None else sequence
        await self.send_message(wire.heartbeat(self._sequence, acknowledgement))
        return self._sequence

    async def next_proxy_request(self) -> pb.ProxyConnReq:
        """The engine's next request for a data stream."""
        request: pb.ProxyConnReq = await self.expect("proxy_conn_req", aside=("heartbeat",))
        return request

    async def proxy_conn_rsp(self, stream_id: str, *, code: int | None = None, text: str = "") -> None:
        """Answer a ProxyConnReq on the control channel: accepted, or refused with `code`."""
        await self.send_message(wire.proxy_conn_rsp(stream_id, code=code, text=text))

    async def close(self) -> End:
        """Say goodbye, await the engine's reply and give how it ended the connection."""
        await self.send_message(wire.close_control_channel())
        await self.expect("close_control_channel_rsp", aside=("proxy_conn_req", "heartbeat", "close_tunnel_rsp"))
        end = await self.expect_end()
        await self.link.close()
        return end

    def drop(self) -> None:
        """Reset the control channel's connection, without a word."""
        self.link.abort()

    # connections beside the control channel

    async def stream(self, first: pb.Message, *, glued: bytes = b"", **options: Any) -> Frames:
        """A connection of its own with any first frame, for the script to read replies from."""
        return await self._opener.stream(first, glued=glued, **options)

    async def answer_proxy(
        self,
        request: pb.ProxyConnReq,
        *,
        secret: str | None = KEEP,
        stream_id: str | None = None,
        zero_rtt: bool | None = True,
        glued: bytes = b"",
        confirm: bool = True,
    ) -> AgentLink:
        """Answer `request` with a data stream. Unless `zero_rtt` is true, awaits its ProxyRsp. `confirm` adds the
        ProxyConnRsp on the control channel. Raises `PeerMismatch`, `DeadlineExpired`, `LinkReset`."""
        frames = await self._answered(request, secret, stream_id, zero_rtt, glued, confirm=confirm)
        return frames.hand_over()

    async def _answered(
        self,
        request: pb.ProxyConnReq,
        secret: str | None,
        stream_id: str | None,
        zero_rtt: bool | None,
        glued: bytes,
        *,
        confirm: bool,
    ) -> Frames:
        frames = await self._proxy_stream(request, secret, stream_id, zero_rtt, glued)
        if not zero_rtt:
            reply = await read_reply(frames, "proxy_rsp")
            if reply.HasField("error"):
                raise PeerMismatch("proxy_rsp without error", wire.describe_error(reply.error))
        if confirm:
            await self.proxy_conn_rsp(stream_id or request.stream_id)
        return frames

    async def answer_packets(
        self,
        request: pb.ProxyConnReq,
        *,
        secret: str | None = KEEP,
        stream_id: str | None = None,
        zero_rtt: bool | None = True,
        glued: bytes = b"",
        confirm: bool = True,
    ) -> FramedLink:
        """As `answer_proxy`, for a datagram tunnel: its packets, framed on the stream. The link can also send what is
        no packet (`send_frame`, `send_octets`)."""
        frames = await self._answered(request, secret, stream_id, zero_rtt, glued, confirm=confirm)
        return frames.hand_over_packets()

    async def quic(self) -> QuicAgentConnection:
        """The agent's QUIC connection, which carries its streams and channels; only over that transport.

        Its `channel(stream_id)` is a datagram channel, `send_datagram` takes any payload, `wire.say` any frame.
        Raises as `connect`.
        """
        async with deadline(f"the engine at {self.access} to complete the agent's QUIC handshake"):
            return await self._opener.connection()

    async def answer_channel(self, request: pb.ProxyConnReq, *, confirm: bool = True) -> QuicChannel:
        """Answer `request` for a channel in DATAGRAM frames: no stream, and a ProxyConnRsp unless `confirm` is
        false."""
        channel = (await self.quic()).channel(request.stream_id)
        if confirm:
            await self.proxy_conn_rsp(request.stream_id)
        return channel

    async def close_channel(self, stream_id: str, *, code: int | None = None, text: str = "") -> None:
        """DatagramChannelClose on the control channel."""
        await self.send_message(wire.datagram_channel_close(stream_id, code=code, text=text))

    async def dial_channel(self, tunnel: str, *, token: str | None = KEEP) -> tuple[QuicChannel, Frames]:
        """Dial a datagram tunnel for a channel in DATAGRAM frames: the channel, and its handle, the stream that stays
        open. Raises `PeerMismatch` for an error, `DeadlineExpired`."""
        own = self.access.token if token is KEEP else token
        frames = await self.stream(wire.stream_req(tunnel, token=own, zero_rtt=False, datagram_channel=True))
        reply: pb.StreamRsp = await read_reply(frames, "stream_rsp")
        if not reply.stream_id:
            raise PeerMismatch("stream_rsp with a stream id", wire.describe_error(reply.error))
        return (await self.quic()).channel(reply.stream_id), frames

    async def rejected_proxy(
        self, request: pb.ProxyConnReq, *, secret: str | None = KEEP, stream_id: str | None = None
    ) -> pb.Error:
        """Answer `request` wrongly, with zero_rtt false, and give the error of the engine's ProxyRsp."""
        frames = await self._proxy_stream(request, secret, stream_id, False, b"")
        reply: pb.ProxyRsp = await read_reply(frames, "proxy_rsp")
        if not reply.HasField("error"):
            raise PeerMismatch("proxy_rsp with an error", "proxy_rsp without one")
        return reply.error

    async def _proxy_stream(
        self, request: pb.ProxyConnReq, secret: str | None, stream_id: str | None, zero_rtt: bool | None, glued: bytes
    ) -> Frames:
        if secret is KEEP:
            secret = request.secret.value if request.HasField("secret") else None
        wanted = request.stream_id if stream_id is None else stream_id
        return await self.stream(wire.proxy_req(wanted, secret=secret, zero_rtt=zero_rtt), glued=glued)

    async def dial(
        self, tunnel: str, *, zero_rtt: bool | None = True, token: str | None = KEEP, glued: bytes = b""
    ) -> AgentLink:
        """Dial a tunnel by id or name. Unless `zero_rtt` is true, awaits its StreamRsp. Raises as `answer_proxy`."""
        return (await self._dialed(tunnel, zero_rtt, token, glued)).hand_over(dialed=True)

    async def _dialed(self, tunnel: str, zero_rtt: bool | None, token: str | None, glued: bytes) -> Frames:
        frames = await self._dial_stream(tunnel, zero_rtt, token, glued)
        if not zero_rtt:
            reply = await read_reply(frames, "stream_rsp")
            if not reply.stream_id:
                raise PeerMismatch("stream_rsp with a stream id", wire.describe_error(reply.error))
        return frames

    async def dial_packets(
        self, tunnel: str, *, zero_rtt: bool | None = True, token: str | None = KEEP, glued: bytes = b""
    ) -> FramedLink:
        """As `dial`, for a datagram tunnel."""
        return (await self._dialed(tunnel, zero_rtt, token, glued)).hand_over_packets(dialed=True)

    async def rejected_dial(self, tunnel: str, *, token: str | None = KEEP) -> pb.Error:
        """Dial with zero_rtt false and give the error of the engine's StreamRsp."""
        reply: pb.StreamRsp = await read_reply(await self._dial_stream(tunnel, False, token, b""), "stream_rsp")
        if not reply.HasField("error"):
            raise PeerMismatch("stream_rsp with an error", f"stream_id {reply.stream_id!r}")
        return reply.error

    async def _dial_stream(self, tunnel: str, zero_rtt: bool | None, token: str | None, glued: bytes) -> Frames:
        own = self.access.token if token is KEEP else token
        return await self.stream(wire.stream_req(tunnel, token=own, zero_rtt=zero_rtt), glued=glued)

    async def shut(self) -> None:
        """Reset every connection that is left; the scene calls it."""
        await self._opener.abort_all()
