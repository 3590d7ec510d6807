"""An agent on QUIC, with QUIC upstreams inside: channels in DATAGRAM frames of its one connection."""

from __future__ import annotations

import dataclasses
import select
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.bench.agent import AgentFailed, checked, target_of
from harness.bench.quic import QuicClient, Session, wait_seconds
from harness.link.agent import EngineAccess
from harness.model.spec import TunnelSpec
from harness.wire import agent as wire

PACKET = 1400
"""Octets of a packet of the agent's connection: a packet of 1,200 fits into one, with what stands around it."""
CHANNEL = 12
"""Octets of a channel id in front of a packet (agent protocol section 2.5)."""


@dataclass
class QuicAgent:
    """An agent on one QUIC connection: publishes, and serves every channel as an upstream of QUIC."""

    access: EngineAccess
    specs: Mapping[str, TunnelSpec]
    configuration: QuicConfiguration
    _messages: deque[pb.Message] = field(default_factory=deque)
    _sessions: dict[bytes, Session | None] = field(default_factory=dict)

    def open(self) -> dict[str, pb.TunnelProperties]:
        """Publish; gives the properties by mode. Raises `AgentFailed`, `OSError`."""
        target = target_of(self.access)
        if self.access.udp is not None:
            address, port = self.access.udp
            target = dataclasses.replace(target, address=address, port=port)
        self._link = QuicClient(target, wire.ALPN, packet=PACKET)
        self._reader = wire.FrameReader()
        self._stream = self._link.stream()
        self._say(wire.open_control_channel(token=self.access.token))
        self._answer("open_control_channel_rsp")
        published = {}
        for number, (mode, spec) in enumerate(self.specs.items()):
            self._say(wire.open_tunnel(f"request-{number}", wire.to_properties(spec)))
            published[mode] = self._answer("open_tunnel_rsp").open_tunnel_rsp.tunnel_properties
        return published

    def _say(self, message: pb.Message) -> None:
        self._link.connection.send_stream_data(self._stream, wire.encode(message))

    def _answer(self, case: str) -> pb.Message:
        self._link.until(lambda event: self._take(event) and bool(self._messages))
        return checked(self._messages.popleft(), case)

    def _take(self, event: events.QuicEvent) -> bool:
        """Act on an event; says whether it was one of the control channel."""
        if isinstance(event, events.StreamDataReceived) and event.stream_id == self._stream:
            self._reader.feed(event.data)
            try:
                while (payload := self._reader.next()) is not None:
                    self._messages.append(wire.decode(payload))
            except wire.FrameError as problem:
                raise AgentFailed(f"the engine sent {problem}") from problem
            return True
        if isinstance(event, events.DatagramFrameReceived):
            self._packet(event.data[:CHANNEL], event.data[CHANNEL:])
        return False

    def _packet(self, channel: bytes, packet: bytes) -> None:
        if channel in self._sessions:
            session = self._sessions[channel]
            if session is None:
                session = self._sessions[channel] = Session(self.configuration, packet)
            session.receive(packet)

    def run(self) -> None:
        """Serve channels until the connection ends. Raises `AgentFailed`, `OSError`."""
        link = self._link
        while True:
            dues: list[Any] = [one.due for one in self._sessions.values() if one is not None]
            link.flush()
            select.select([link], [], [], wait_seconds([link.connection.get_timer(), *dues]))
            link.take()
            for event in link.happened():
                self._take(event)
            while self._messages:
                self._serve(self._messages.popleft())
            for channel, session in tuple(self._sessions.items()):
                if session is None:
                    continue
                for packet in session.turn():
                    link.connection.send_datagram_frame(channel + packet)
                if session.over:
                    # What still comes for it is nobody's, and must not look like a new connection.
                    del self._sessions[channel]

    def _serve(self, message: pb.Message) -> None:
        if wire.kind(message) == "proxy_conn_req":
            stream_id = message.proxy_conn_req.stream_id
            self._sessions[bytes.fromhex(stream_id[: 2 * CHANNEL])] = None
            self._say(wire.proxy_conn_rsp(stream_id))
        elif wire.kind(message) == "datagram_channel_close":
            self._sessions.pop(bytes.fromhex(message.datagram_channel_close.stream_id[: 2 * CHANNEL]), None)
