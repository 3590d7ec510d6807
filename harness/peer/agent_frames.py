"""Messages of the agent protocol on a link, each a line in the transcript, and the links of one agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.errors import PeerMismatch
from harness.evidence.transcript import AGENT, Channel, Transcript
from harness.link import tap
from harness.link.agent import AgentLink, EngineAccess
from harness.link.agent_quic import QuicAgentConnection, connect_agent_quic
from harness.link.deadline import deadline
from harness.link.framed import FramedLink
from harness.link.stream import LinkReset
from harness.wire import agent as wire


class EngineRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The engine answered with an error: `code` and `text` as it sent them."""

    def __init__(self, error: pb.Error) -> None:
        super().__init__(wire.describe_error(error))
        self.code = int(error.code)
        self.text = error.message.value


class Frames:
    """Messages on one link, each a line in the transcript."""

    def __init__(self, link: AgentLink, channel: Channel | None) -> None:
        self.link = link
        self._channel = channel
        if channel:
            link.tap.label(channel.name)
        self._reader = wire.FrameReader()
        self._sending = asyncio.Lock()

    async def send(self, message: pb.Message, *, glued: bytes = b"", **broken: Any) -> None:
        """Write one frame; `glued` goes into the same write. `broken`: see `wire.encode`."""
        data = wire.encode(message, **broken)
        self.log_sent(message, glued=glued, broken=broken)
        await self._write(data + glued)

    async def send_raw(self, data: bytes) -> None:
        """Write octets as they are."""
        if self._channel:
            self._channel.sent("raw octets", data=data)
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        async with self._sending:
            await self.link.send(data)

    def log_sent(self, message: pb.Message, *, glued: bytes = b"", broken: Any = None) -> None:
        """Note in the transcript that `message` left."""
        if not self._channel:
            return
        detail = wire.describe(message)
        if broken:
            detail += f" [{', '.join(f'{key}={value}' for key, value in broken.items())}]"
        if glued:
            detail += f" [+ {len(glued)} octets in the same write]"
        data = wire.encode(wire.redacted(message), **(broken or {}))
        self._channel.sent(wire.kind(message), detail=detail.strip(), data=data + glued)

    async def read(self) -> pb.Message | None:
        """The next message, `None` at the clean end. Raises `LinkReset`, `wire.FrameError`."""
        while (payload := self._reader.next()) is None:
            try:
                data = await self.link.receive()
            except LinkReset as end:
                self._got("reset", detail=end.reason)
                raise
            if not data:
                self._got(str(self.link.end or "end"))
                if self._reader.partial:
                    raise wire.FrameError(f"the end after {self._reader.partial} octets of a frame")
                return None
            self._reader.feed(data)
        return self._take(payload)

    def read_ready(self) -> list[pb.Message]:
        """Every message that is here already, without waiting. Raises `LinkReset`, `wire.FrameError`."""
        while data := self.link.poll():
            self._reader.feed(data)
        messages = []
        while (payload := self._reader.next()) is not None:
            messages.append(self._take(payload))
        return messages

    def _take(self, payload: bytes) -> pb.Message:
        message = wire.decode(payload)
        self._got(wire.kind(message), detail=wire.describe(message), data=wire.frame(payload))
        return message

    def _got(self, what: str, *, detail: str = "", data: bytes | None = None) -> None:
        if self._channel:
            self._channel.got(what, detail=detail, data=data)

    def hand_over(self, *, dialed: bool = False) -> AgentLink:
        """The link as a byte stream, `dialed` by us or asked for by the engine: what came behind the last frame is its
        beginning."""
        self.link.push_back(self._reader.rest())
        self.link.carry(dialed=dialed)
        return self.link

    def hand_over_packets(self, *, dialed: bool = False) -> FramedLink:
        """The link as a datagram channel whose packets are framed on it."""
        self.link.push_back(self._reader.rest())
        framed = FramedLink(self.link)
        framed.tap = tap.current().carried_datagrams(self.link.local, dialed=dialed)
        return framed


class Opener:
    """Opens the links of one agent and keeps them, so that none outlives it. Over QUIC they are the streams of one
    connection per way to reach the engine, which is opened with the first of them."""

    def __init__(self, access: EngineAccess, transcript: Transcript | None, name: str) -> None:
        self.access = access
        self.transcript = transcript
        self.name = name
        self._links: set[AgentLink] = set()
        self._connections: dict[tuple[Any, ...], QuicAgentConnection] = {}
        self._connecting = asyncio.Lock()
        self._serial = 0

    def channel(self, name: str) -> Channel | None:
        """The transcript's view of one connection."""
        return self.transcript.channel(AGENT, "agent", name) if self.transcript else None

    async def link(self, access: EngineAccess | None = None, **options: Any) -> AgentLink:
        """Open one link. Raises `OSError`, `LinkReset`, `DeadlineExpired`."""
        chosen = access or self.access
        async with deadline(f"the engine at {chosen} to complete the agent's {chosen.transport.upper()} handshake"):
            if chosen.transport == "quic":
                link: AgentLink = await self._stream_of(chosen, **options)
            else:
                link = await chosen.connect(**options)
        if len(self._links) % 64 == 63:
            self._links = {kept for kept in self._links if not kept.closed}
        self._links.add(link)
        return link

    async def _stream_of(
        self,
        access: EngineAccess,
        *,
        alpn: Sequence[str] | None = None,
        first: bytes = b"",
        address: tuple[str, int] | None = None,
    ) -> AgentLink:
        connection = await self.connection(access, alpn=alpn, address=address)
        return await connection.open(first)

    async def connection(
        self,
        access: EngineAccess | None = None,
        *,
        alpn: Sequence[str] | None = None,
        address: tuple[str, int] | None = None,
    ) -> QuicAgentConnection:
        """The QUIC connection of this agent with `access`, opened unless it is there. Raises as `link`."""
        chosen = access or self.access
        protocols = ("rstrm/1",) if alpn is None else tuple(alpn)
        key = (chosen, protocols, address)
        async with self._connecting:
            known = self._connections.get(key)
            if known is None or known.over:
                known = await connect_agent_quic(chosen, alpn=protocols, address=address)
                self._connections[key] = known
        return known

    async def stream(self, first: pb.Message, *, glued: bytes = b"", **options: Any) -> Frames:
        """A connection of its own whose first frame is `first`, `glued` in the same record behind it."""
        self._serial += 1
        link = await self.link(first=wire.encode(first) + glued, **options)
        frames = Frames(link, self.channel(f"{self.name}/stream-{self._serial}"))
        frames.log_sent(first, glued=glued)
        return frames

    async def abort_all(self) -> None:
        """Reset every link that is still there, and wait until its socket is closed."""
        links, self._links = self._links, set()
        for link in links:
            link.abort()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()
        for link in links:
            await link.wait_closed()


async def read_reply(frames: Frames, case: str) -> Any:
    """The payload of the one handshake reply on a data stream. Raises `PeerMismatch`, `DeadlineExpired`."""
    async with deadline(f"{case} from the engine"):
        try:
            message = await frames.read()
        except LinkReset as end:
            raise PeerMismatch(f"{case} from the engine", f"the end of the connection: {end.reason}") from end
        except wire.FrameError as error:
            raise PeerMismatch(f"{case} from the engine", str(error)) from error
    if message is None or wire.kind(message) != case:
        actual = (
            str(frames.link.end or "end")
            if message is None
            else f"{wire.kind(message)} {wire.describe(message)}".strip()
        )
        raise PeerMismatch(f"{case} from the engine", actual)
    return getattr(message, case)
