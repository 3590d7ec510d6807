"""A control channel without I/O: messages and the time go in, actions come out.

What belongs to the engine as a whole (names, the inventory, pending streams) is reached through a `Desk`; the channel
itself keeps its tunnels, its heartbeats and its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.rules import AgentRules, Liveness
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from reference_engine.tunnel.properties import from_message, to_message
from reference_engine.tunnel.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Send:
    """Write this message."""

    message: pb.Message


@dataclass(frozen=True, slots=True)
class Over:
    """The channel has ended. `cause`: `closed` (by the agent), `protocol`, `expired`, `lost` or `shutdown`."""

    cause: str
    reason: str


Action = Send | Over


class Desk(Protocol):
    """Where the channel brings what concerns the whole engine. Every call takes effect at once."""

    def open_tunnel(self, wanted: TunnelProperties) -> Tunnel | Refusal:
        """Validate and make live."""

    def find_tunnel(self, tunnel_id: str) -> Tunnel | None:
        """Any tunnel of the engine."""

    def close_tunnel(self, tunnel: Tunnel) -> None:
        """End it on purpose: sessions too."""

    def stream_accepted(self, stream_id: str) -> None:
        """The agent carries this stream (section 4.6)."""

    def channel_closed(self, stream_id: str) -> None:
        """The agent has ended the datagram channel of this stream (section 4.6)."""

    def stream_refused(self, stream_id: str, code: int, message: str) -> None:
        """The agent will not carry this stream (section 4.5)."""


def error(refusal: Refusal) -> pb.Error:
    """A refusal as it goes over the wire."""
    message = pb.Error(code=refusal.code)  # type: ignore[arg-type]
    message.message.value = refusal.message
    return message


class ControlChannel:
    """The state of one open control channel, from the ok to its end."""

    def __init__(self, desk: Desk, rules: AgentRules, liveness: Liveness | None, now: float) -> None:
        self.tunnels: dict[str, Tunnel] = {}
        self.over = False
        self.last_frame = now
        self._desk = desk
        self._rules = rules
        self._liveness = liveness
        self._acknowledged = 0

    @property
    def deadline(self) -> float | None:
        """When the agent is taken for dead, in seconds of the caller's clock; None without negotiated heartbeats."""
        if self._liveness is None or self.over:
            return None
        return self._rules.deadline(self.last_frame, self._liveness)

    def expire(self, now: float) -> list[Action]:
        """Call at the deadline: any inbound frame since then has moved it (section 4.3)."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return []
        return self._end("expired", "no frame within the liveness timeout")

    def receive(self, message: pb.Message, now: float) -> list[Action]:
        """What one message causes."""
        if self.over:
            return []
        if self._rules.is_sign_of_life(message):
            self.last_frame = now
        case = message.WhichOneof("payload")
        if case is None:
            # An empty message, or a case of a later schema.
            return []
        if not self._rules.belongs_on_control_channel(message):
            return self._end("protocol", f"{case} on an open control channel")
        match case:
            case "open_tunnel_req":
                return self._open_tunnel(message.open_tunnel_req)
            case "close_tunnel_req":
                return self._close_tunnel(message.close_tunnel_req.tunnel_id)
            case "proxy_conn_rsp":
                return self._proxy_conn_rsp(message.proxy_conn_rsp)
            case "datagram_channel_close":
                self._desk.channel_closed(message.datagram_channel_close.stream_id)
            case "heartbeat":
                return self._heartbeat(message.heartbeat.sequence)
            case "close_control_channel_req":
                return self._close()
        return []

    def revoke(self, tunnel: Tunnel) -> list[Action]:
        """End a tunnel from the engine's side: an unasked CloseTunnelRsp, after which its id is never used again."""
        if self.tunnels.pop(tunnel.id, None) is None:
            return []
        self._desk.close_tunnel(tunnel)
        return [Send(pb.Message(close_tunnel_rsp=pb.CloseTunnelRsp(tunnel_id=tunnel.id)))]

    def shut_down(self) -> list[Action]:
        """End the channel from the engine's side: an unasked CloseControlChannelRsp (section 4.2)."""
        if self.over:
            return []
        return [Send(pb.Message(close_control_channel_rsp=pb.CloseControlChannelRsp())), *self._end("shutdown", "")]

    def lost(self, reason: str) -> list[Action]:
        """The connection ended without a word."""
        return [] if self.over else self._end("lost", reason)

    def _end(self, cause: str, reason: str) -> list[Action]:
        self.over = True
        return [Over(cause, reason)]

    def _open_tunnel(self, request: pb.OpenTunnelReq) -> list[Action]:
        outcome = self._desk.open_tunnel(from_message(request.tunnel_properties))
        answer = pb.OpenTunnelRsp(request_id=request.request_id)
        if isinstance(outcome, Refusal):
            answer.error.CopyFrom(error(outcome))
        else:
            self.tunnels[outcome.id] = outcome
            answer.tunnel_properties.CopyFrom(to_message(outcome.properties))
        return [Send(pb.Message(open_tunnel_rsp=answer))]

    def _close_tunnel(self, tunnel_id: str) -> list[Action]:
        tunnel = self._desk.find_tunnel(tunnel_id)
        if tunnel is None or not self._rules.may_close(tunnel_id, self.tunnels):
            # Unknown or revoked: some clients take an answer about a tunnel that they do not know as fatal.
            return []
        self.tunnels.pop(tunnel_id, None)
        # The name is free before the answer says so (EDGE-014).
        self._desk.close_tunnel(tunnel)
        return [Send(pb.Message(close_tunnel_rsp=pb.CloseTunnelRsp(tunnel_id=tunnel_id)))]

    def _proxy_conn_rsp(self, answer: pb.ProxyConnRsp) -> list[Action]:
        if self._rules.is_refusal(answer):
            self._desk.stream_refused(answer.stream_id, int(answer.error.code), answer.error.message.value)
        else:
            self._desk.stream_accepted(answer.stream_id)
        return []

    def _heartbeat(self, sequence: int) -> list[Action]:
        number = self._rules.acknowledge(sequence, self._acknowledged, negotiated=self._liveness is not None)
        if number is None:
            return []
        self._acknowledged = number
        return [Send(pb.Message(heartbeat=pb.Heartbeat(acknowledgement=number)))]

    def _close(self) -> list[Action]:
        for tunnel in tuple(self.tunnels.values()):
            self._desk.close_tunnel(tunnel)
        self.tunnels.clear()
        answer = pb.Message(close_control_channel_rsp=pb.CloseControlChannelRsp())
        return [Send(answer), *self._end("closed", "")]
