"""One control channel's I/O, and its desk: what its messages do to the engine."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from typing import TYPE_CHECKING

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.connector import Line
from reference_engine.agent.control import Action, ControlChannel, Send
from reference_engine.agent.direct import ChannelTable
from reference_engine.agent.framing import FrameError, FrameReader
from reference_engine.agent.rules import Liveness
from reference_engine.relay.stream import ByteStream, StreamReset
from reference_engine.tunnel.model import Client, Tunnel, TunnelProperties
from reference_engine.tunnel.properties import to_message
from reference_engine.tunnel.refusal import INVALID_REQUEST, Refusal

if TYPE_CHECKING:
    from reference_engine.engine import Engine

MAX_UNSENT = 1 << 20
"""Octets that may wait for an agent that does not read its control channel, before it is taken for dead."""
MAX_PROPERTIES = 60_000
"""Octets of effective properties; with the request id they must fit into one frame."""


class Channel:
    """One open control channel, from its ok to its end."""

    def __init__(
        self,
        engine: Engine,
        stream: ByteStream,
        frames: FrameReader,
        client: Client,
        liveness: Liveness | None,
        *,
        channels: ChannelTable | None = None,
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._frames = frames
        self._client = client
        self._liveness = liveness
        self._loop = asyncio.get_running_loop()
        self._core = ControlChannel(self, engine.parts.agent, liveness, self._loop.time())
        self._line = Line(client.id, self.send, channels)
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._ended = False

    async def run(self, ok: pb.Message) -> None:
        """Say ok and serve the channel until it is over. Raises StreamReset and FrameError after cleaning up."""
        self._engine.registry.add_client(self._client)
        self._engine.connector.attach(self._line)
        self._engine.log.info("agent open client=%s project=%s", self._client.id, self._client.project)
        try:
            await self.send(ok)
            self._tick()
            await self._serve()
        except StreamReset as problem:
            self._over("lost", problem.reason)
            raise
        except FrameError as problem:
            self._over("protocol", str(problem))
            raise
        finally:
            self._over("shutdown", "")

    async def send(self, message: pb.Message) -> None:
        """Write one frame. Raises StreamReset, FrameError."""
        frame = self._engine.parts.agent.encode(message)
        self._unsent += len(frame)
        if self._unsent > MAX_UNSENT:
            self._stream.abort("the agent does not read")
            raise StreamReset("the agent does not read")
        await self._stream.write(frame)
        # The queue is below its mark again, with everything that cancelled writers left in it.
        self._unsent = 0

    async def shut_down(self) -> None:
        """Tell the agent that the engine goes away, and end the channel."""
        await self._from_outside(self._core.shut_down(), last=True)

    async def revoke(self, tunnel: Tunnel) -> None:
        """Close one tunnel from the engine's side."""
        await self._from_outside(self._core.revoke(tunnel), last=False)

    async def _from_outside(self, actions: list[Action], *, last: bool) -> None:
        """Actions that no frame of the agent caused; an agent that cannot be told is dropped."""
        try:
            async with asyncio.timeout(self._engine.settings.close_timeout_ms / 1000):
                await self._perform(actions)
                if last:
                    await self._stream.close()
        except (StreamReset, TimeoutError):
            self._stream.abort("unreachable")

    async def _serve(self) -> None:
        while not self._core.over:
            message = self._frames.next()
            if message is not None:
                await self._perform(self._core.receive(message, self._loop.time()))
                continue
            data = await self._stream.read()
            if not data:
                await self._perform(self._core.lost("the agent closed the connection"))
                return
            self._frames.feed(data)

    async def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                await self.send(action.message)
            else:
                self._over(action.cause, action.reason)

    def _tick(self) -> None:
        """The liveness timer: it runs behind the last frame and is set again when it finds that it was early."""
        deadline = self._core.deadline
        if deadline is None or self._ended:
            return
        if self._core.expire(self._loop.time()):
            self._over("expired", "no frame within the liveness timeout")
            self._stream.abort("liveness expired")
            return
        self._timer = self._loop.call_at(deadline, self._tick)

    def _over(self, cause: str, reason: str) -> None:
        """The end, once: what the channel owned is released or leased."""
        if self._ended:
            return
        self._ended = True
        self._core.over = True
        if self._timer is not None:
            self._timer.cancel()
        self._engine.connector.detach(self._line)
        on_purpose = self._engine.parts.agent.ends_sessions(cause)
        for tunnel in self._core.tunnels.values():
            if on_purpose:
                self._close_tunnel(tunnel, cause)
            else:
                self._engine.lease(tunnel, self._hold_ms(expired=cause == "expired"))
        self._core.tunnels.clear()
        self._engine.registry.remove_client(self._client.id)
        self._engine.log.info("agent %s client=%s reason=%r", cause, self._client.id, reason)

    def _hold_ms(self, *, expired: bool) -> float:
        settings = self._engine.settings
        timeout = self._liveness.timeout if self._liveness is not None else settings.heartbeat_timeout_floor_ms
        silent = (self._loop.time() - self._core.last_frame) * 1000
        return self._engine.parts.agent.lease_ms(
            expired=expired, silent_ms=silent, timeout_ms=timeout, lease_ms=settings.lease_ms
        )

    # -- Desk ------------------------------------------------------------------------------------------------------

    def open_tunnel(self, wanted: TunnelProperties) -> Tunnel | Refusal:
        """Shape first (2000), then edition and listeners (5000), then what is free (VAL-027)."""
        tunnel = self._new_tunnel(wanted)
        if isinstance(tunnel, Refusal):
            self._engine.log.info(
                "tunnel refused client=%s code=%d reason=%r", self._client.id, tunnel.code, tunnel.message
            )
            return tunnel
        self._engine.registry.add(tunnel)
        self._engine.log.info(
            "tunnel open id=%s client=%s protocol=%s hostname=%s",
            tunnel.id,
            self._client.id,
            tunnel.properties.protocol,
            tunnel.properties.hostname,
        )
        return tunnel

    def find_tunnel(self, tunnel_id: str) -> Tunnel | None:
        """Live or leased, whosever it is."""
        return self._engine.registry.by_id(tunnel_id)

    def close_tunnel(self, tunnel: Tunnel) -> None:
        """The names first, then its sessions and streams."""
        self._close_tunnel(tunnel, "closed")

    def _close_tunnel(self, tunnel: Tunnel, cause: str) -> None:
        if self._engine.parts.agent.withdraws(cause):
            self._engine.registry.remove(tunnel)
        if self._engine.parts.agent.ends_sessions(cause):
            self._engine.agents.closing.close(tunnel, cause=cause)
        self._engine.log.info("tunnel closed id=%s client=%s", tunnel.id, self._client.id)

    def stream_accepted(self, stream_id: str) -> None:
        """Only streams of this channel's own agent."""
        self._engine.connector.accepted(self._line, stream_id)

    def channel_closed(self, stream_id: str) -> None:
        """Only flows of this channel's own agent."""
        self._engine.connector.closed(self._line, stream_id)

    def stream_refused(self, stream_id: str, code: int, message: str) -> None:
        """Only streams of this channel's own agent."""
        self._engine.log.info("stream refused client=%s code=%d reason=%r", self._client.id, code, message[:200])
        self._engine.connector.refused(self._line, stream_id, message)

    def _new_tunnel(self, wanted: TunnelProperties) -> Tunnel | Refusal:
        engine, rules = self._engine, self._engine.parts.tunnel
        refusal = rules.validate(wanted) or rules.suites_are_known(engine.parts.tls.unknown_suites(wanted.tls_ciphers))
        if refusal is not None:
            return refusal
        properties = rules.bounded(rules.effective(wanted), engine.settings.project_tls_min_version)
        named = self._public_name(properties)
        if isinstance(named, Refusal):
            return named
        refusal = (
            engine.parts.editions.gate(named, edition=engine.settings.edition, udp=engine.udp)
            or self._names_are_free(named)
            or engine.parts.agent.has_room(
                len(self._core.tunnels), engine.settings.max_tunnels_per_channel, "tunnels of one control channel"
            )
        )
        if refusal is not None:
            return refusal
        identity = engine.parts.agent.new_id()
        named = dataclasses.replace(named, id=identity, creation_date=dt.datetime.now(dt.UTC))
        if to_message(named).ByteSize() > MAX_PROPERTIES:
            return Refusal(INVALID_REQUEST, "", f"the properties have more than {MAX_PROPERTIES} octets")
        return Tunnel(identity, named, self._client.id, self._client.project)

    def _public_name(self, properties: TunnelProperties) -> TunnelProperties | Refusal:
        """VAL-029, EDGE-015: the address fields of a published tunnel; a private one has none."""
        engine, settings = self._engine, self._engine.settings
        if not engine.parts.tunnel.has_public_name(properties):
            return properties
        project = None if settings.edition == "community" else self._client.project
        name = engine.parts.tunnel.hostname(properties.hostname, zone=settings.zone, project=project)
        if isinstance(name, Refusal):
            return name
        port, host = engine.parts.tunnel.address(name, engine.public_port(properties.protocol))
        return dataclasses.replace(properties, hostname=name, port=port, host=host)

    def _names_are_free(self, properties: TunnelProperties) -> Refusal | None:
        registry, rules = self._engine.registry, self._engine.parts.tunnel
        hostname, name = properties.hostname, properties.name
        holder = registry.by_hostname(hostname) if hostname is not None else None
        return rules.hostname_is_free(properties, holder, self._client.id) or rules.name_is_free(
            name is not None and registry.name_is_held(name, self._client.project)
        )
