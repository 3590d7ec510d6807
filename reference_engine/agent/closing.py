"""How a tunnel ends that was closed on purpose: at once for whoever comes, behind their octets for those who are in.

CloseTunnelReq comes on a connection of its own and overtakes what the agent sent before on its streams. So a closed
tunnel's streams go on until they are quiet, and are ended then (AGENT-054, EDGE-027).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.registry import end_sessions

if TYPE_CHECKING:
    from reference_engine.engine import Engine

QUIET_SECONDS = 0.1
"""Without an octet from the agent, all that came before being handed on: whatever was under way has arrived."""
GRACE_SECONDS = 2.0
"""The longest that a stream goes on behind the close, however much still comes."""
TURNS = 10
"""Turns of the loop beside `QUIET_SECONDS`: an engine that was not running for a while has not listened either."""


class Closing:
    """One per engine: the tunnels that are closed and still have streams."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: dict[asyncio.Task[None], Tunnel] = {}
        self._stopping = False

    def close(self, tunnel: Tunnel, *, cause: str) -> None:
        """Admit nobody any more and end the sessions; the tunnel has left the registry."""
        connector = self._engine.connector
        connector.fail_pending(tunnel)
        if not self._engine.parts.agent.lets_finish(cause) or not connector.streams_of(tunnel):
            self._end(tunnel)
            return
        task = asyncio.get_running_loop().create_task(self._when_quiet(tunnel))
        self._tasks[task] = tunnel
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def stop(self) -> None:
        """The engine stops: what is left ends now."""
        self._stopping = True
        for task, tunnel in tuple(self._tasks.items()):
            task.cancel()
            self._end(tunnel)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _when_quiet(self, tunnel: Tunnel) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GRACE_SECONDS
        while loop.time() < deadline:
            before = [stream.received for stream in self._engine.connector.streams_of(tunnel)]
            await asyncio.sleep(QUIET_SECONDS)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            streams = self._engine.connector.streams_of(tunnel)
            if [stream.received for stream in streams] == before and all(stream.waiting for stream in streams):
                break
        self._end(tunnel)

    def _end(self, tunnel: Tunnel) -> None:
        end_sessions(tunnel, "tunnel closed")
        if tunnel.properties.type == "datagram" and tunnel.properties.publish and not self._stopping:
            # What the edge has just said to the upstream about the end is on its way in a packet (EDGE-027).
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self._abort, tunnel)
        else:
            self._abort(tunnel)

    def _abort(self, tunnel: Tunnel) -> None:
        for stream in self._engine.connector.streams_of(tunnel):
            stream.abort("tunnel closed")
        for flow in self._engine.connector.flows_of(tunnel):
            flow.abort("tunnel closed")
