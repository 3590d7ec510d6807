"""The decisions of the agent link, each a method: who may come in, what a frame means, what is answered and when.

Sections are those of the agent protocol as its clients speak it. Nothing here keeps state or does I/O.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import FrameReader, encode
from reference_engine.config import PERMISSION_STREAMS, PERMISSION_TUNNELS, PERMISSIONS, Settings
from reference_engine.tls.rules import TLS13
from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.refusal import (
    CAPACITY_EXHAUSTED,
    INVALID_REQUEST,
    INVALID_STREAM,
    SERVICE_UNAVAILABLE,
    TUNNEL_NOT_FOUND,
    UNAUTHORIZED,
    VERSION_INCOMPATIBLE,
    VERSION_INVALID,
    VERSION_MISSING,
    Refusal,
)

PROTOCOL_MAJOR = 1
"""Versions of this major number are compatible; minor and patch only add fields."""
VERSION = re.compile(r"([0-9]{1,9})\.[0-9]{1,9}(?:\.[0-9]{1,9})?")
LONGEST_LIVENESS_MS = 900_000
"""Clients drop the channel when the engine announces more."""

ROLES = {"open_control_channel_req": "control", "proxy_req": "proxy", "stream_req": "dial"}
"""What the first frame makes of a connection (section 4.1); any other first frame ends it."""

FROM_AGENT = frozenset(
    {
        "close_control_channel_req",
        "open_tunnel_req",
        "close_tunnel_req",
        "proxy_conn_rsp",
        "heartbeat",
        "datagram_channel_close",
    }
)
"""What an open control channel may carry towards the engine (section 4.2)."""

UPSTREAM_CODES = {
    "agent-gone": SERVICE_UNAVAILABLE,
    "refused": SERVICE_UNAVAILABLE,
    "timeout": SERVICE_UNAVAILABLE,
    "closed": INVALID_STREAM,
    "capacity": CAPACITY_EXHAUSTED,
}
"""Why no agent stream came about, as a dialer hears it (section 4.7)."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What a peer shows to be let in: a token, and the DER of its TLS client certificate."""

    token: str | None = None
    certificate: bytes | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What it is let in to."""

    project: str
    permissions: tuple[str, ...] = PERMISSIONS


@dataclass(frozen=True, slots=True)
class Liveness:
    """Negotiated heartbeats, in milliseconds."""

    interval: int
    timeout: int


S = TypeVar("S")


class Names(Protocol):
    """What dialling needs of the registry."""

    def by_id(self, tunnel_id: str) -> Tunnel | None:
        """The tunnel of this id."""

    def by_name(self, name: str, project: str) -> Tunnel | None:
        """The project's tunnel of this name."""


class AgentRules:
    """One method per decision."""

    # -- the link (1.3, 3.1) ---------------------------------------------------------------------------------------

    def min_version(self) -> int:
        """The agent leg is always TLS 1.3 (TRANS-003)."""
        return TLS13

    def requests_certificate(self) -> bool:
        """Agents may show a client certificate, and need not (AGENT-094)."""
        return True

    def reader(self) -> FrameReader:
        """What cuts a connection into messages (AGENT-003 to -008)."""
        return FrameReader()

    def encode(self, message: pb.Message) -> bytes:
        """A message as the frame that goes out. Raises FrameError."""
        return encode(message)

    # -- first frame and opening (4.1, 4.2) ------------------------------------------------------------------------

    def first_frame_seconds(self, settings: Settings) -> float:
        """How long a connection may take for its first whole frame (AGENT-016)."""
        return settings.first_frame_timeout_ms / 1000

    def role(self, message: pb.Message) -> str | None:
        """`control`, `proxy` or `dial`; None for a first frame that opens nothing."""
        return ROLES.get(message.WhichOneof("payload") or "")

    def version(self, text: str | None) -> Refusal | None:
        """Present, then well formed, then of our major version: an error of its own for each (VAL-030)."""
        if not text:
            return Refusal(VERSION_MISSING, "protocol_version", "protocol_version: missing")
        form = VERSION.fullmatch(text)
        if form is None:
            return Refusal(VERSION_INVALID, "protocol_version", f"protocol_version: {text[:64]!r} is not like 1.4.5")
        if int(form[1]) != PROTOCOL_MAJOR:
            message = f"protocol_version: {text} is not compatible with {PROTOCOL_MAJOR}.x"
            return Refusal(VERSION_INCOMPATIBLE, "protocol_version", message)
        return None

    def credentials(self, shown: Presented, settings: Settings) -> Grant | Refusal:
        """Who this is (section 7). Two proofs at once are refused, like none and like a wrong one: all with 1000."""
        denied = Refusal(UNAUTHORIZED, "token", "Unauthorized")
        if shown.token and shown.certificate:
            return Refusal(UNAUTHORIZED, "token", "Unauthorized: a token and a client certificate at once")
        if settings.open_mode:
            return Grant(settings.project)
        if shown.certificate:
            fingerprint = hashlib.sha256(shown.certificate).hexdigest()
            for known in settings.agent_certificates:
                if known.fingerprint == fingerprint:
                    return Grant(known.project, known.permissions)
            return denied
        found: Grant | Refusal = denied
        token = (shown.token or "").encode()
        for row in settings.tokens:
            # Every row is compared, and in constant time: neither length of the list nor a prefix shows in the timing.
            if hmac.compare_digest(row.token.encode(), token):
                found = Grant(row.project, row.permissions)
        return found

    def admit_agent(self, shown: Presented, settings: Settings) -> Grant | Refusal:
        """Who may open a control channel (TRANS-010, AGENT-088, AGENT-092)."""
        return self._admit(shown, settings, PERMISSION_TUNNELS)

    def admit_dialler(self, shown: Presented, settings: Settings) -> Grant | Refusal:
        """Who may dial (AGENT-091, AGENT-092, PRIV-003)."""
        return self._admit(shown, settings, PERMISSION_STREAMS)

    def _admit(self, shown: Presented, settings: Settings, permission: str) -> Grant | Refusal:
        grant = self.credentials(shown, settings)
        return grant if isinstance(grant, Refusal) else self.permits(grant, permission) or grant

    def permits(self, grant: Grant, permission: str) -> Refusal | None:
        """The operation needs a permission that the credential carries."""
        if permission in grant.permissions:
            return None
        return Refusal(UNAUTHORIZED, "token", f"Unauthorized: the credential lacks {permission}")

    def has_room(self, count: int, limit: int, what: str) -> Refusal | None:
        """7000 when one more would be too many."""
        return None if count < limit else Refusal(CAPACITY_EXHAUSTED, "", f"no more than {limit} {what}")

    # -- liveness (4.3) --------------------------------------------------------------------------------------------

    def liveness(self, interval: int | None, floor: int) -> Liveness | Refusal | None:
        """The client's interval as it stands, and a timeout of three of them, within `floor` and the longest allowed.

        None when the client asked for none: then no heartbeat is ever sent back, and nothing expires.
        """
        if not interval:
            return None
        if interval > LONGEST_LIVENESS_MS:
            message = f"heartbeat_interval_ms: {interval} is above {LONGEST_LIVENESS_MS}"
            return Refusal(INVALID_REQUEST, "heartbeat_interval_ms", message)
        return Liveness(interval, min(max(3 * interval, floor), LONGEST_LIVENESS_MS))

    def acknowledge(self, sequence: int, last: int, *, negotiated: bool) -> int | None:
        """The acknowledgement for a heartbeat: its own sequence, if that is new; repeating one kills the channel.

        None where liveness was not negotiated: a heartbeat back would end the channel too (AGENT-038).
        """
        return sequence if negotiated and sequence > last else None

    def deadline(self, last_frame: float, liveness: Liveness) -> float:
        """When a silent agent is taken for dead, in seconds of the clock of `last_frame` (AGENT-039)."""
        return last_frame + liveness.timeout / 1000

    def is_sign_of_life(self, message: pb.Message) -> bool:
        """Whether a message moves that deadline: any does (AGENT-040)."""
        return True

    def lease_ms(self, *, expired: bool, silent_ms: float, timeout_ms: int, lease_ms: int) -> float:
        """EDGE-014: how long the names of a lost channel stay held, in milliseconds.

        `lease_ms` is the setting; 0 means until the liveness timeout would have passed since the last frame.
        """
        if lease_ms:
            return float(lease_ms)
        return 0.0 if expired else max(0.0, timeout_ms - silent_ms)

    def ends_sessions(self, cause: str) -> bool:
        """EDGE-026, EDGE-027: a loss leaves established streams alone, an end on purpose takes them along."""
        return cause not in {"lost", "expired"}

    def lets_finish(self, cause: str) -> bool:
        """AGENT-054: what an agent sent before it closed a tunnel or said goodbye is still handed on."""
        return cause == "closed"

    # -- frames of an open channel (4.2, 4.4) ----------------------------------------------------------------------

    def belongs_on_control_channel(self, message: pb.Message) -> bool:
        """Whether an agent may send this there; what it may not ends the channel."""
        return message.WhichOneof("payload") in FROM_AGENT

    def may_close(self, tunnel_id: str, own: Mapping[str, Tunnel]) -> bool:
        """A channel closes only tunnels of its own (AGENT-052)."""
        return tunnel_id in own

    def withdraws(self, cause: str) -> bool:
        """Whether a tunnel that was closed admits nobody any more and gives up its names (AGENT-050, AGENT-051)."""
        return True

    # -- data streams (4.5, 4.7) -----------------------------------------------------------------------------------

    def may_ask(self, outstanding: int, limit: int) -> bool:
        """Agents abort the whole channel when too many ProxyConnReq wait for them: stay below the limit."""
        return outstanding < limit

    def gives_up(self, *, taken: bool) -> bool:
        """Whether a stream is given up when its tunnel or its channel ends: unless a claim has it (AGENT-068)."""
        return not taken

    def claimed(self, stream_id: str, offered: Mapping[str, S]) -> S | None:
        """Which of the offered streams a ProxyReq means (AGENT-058, AGENT-061)."""
        return offered.get(stream_id)

    def proxy_request(self, *, secret: str | None, taken: bool, token: str | None) -> Refusal | None:
        """Whether a ProxyReq gets the stream that it names.

        `secret` is what was issued for the stream, None when the stream is unknown or over; `taken` says that an
        earlier ProxyReq has it. A retry after a valid one is refused, and so is a stream without its secret.
        """
        if secret is None:
            return Refusal(INVALID_STREAM, "stream_id", "stream_id: unknown or expired")
        if not self.secret_matches(secret, token):
            return Refusal(UNAUTHORIZED, "token", "Unauthorized")
        if taken:
            return Refusal(INVALID_STREAM, "stream_id", "stream_id: already connected")
        return None

    def secret_matches(self, secret: str, token: str | None) -> bool:
        """The secret of the stream must come back as the token of its ProxyReq."""
        return hmac.compare_digest(secret.encode(), (token or "").encode())

    def answers_first_frame(self, zero_rtt: bool | None, *, refused: bool) -> bool:
        """With zero_rtt there is no reply at all, neither ProxyRsp nor StreamRsp: a failure is a close.

        Absent is false (AGENT-064, AGENT-081).
        """
        return not zero_rtt

    def is_refusal(self, answer: pb.ProxyConnRsp) -> bool:
        """Whether the agent will not carry the stream: any error, whatever its number (AGENT-069)."""
        return answer.HasField("error")

    def may_refuse(self, *, own: bool) -> bool:
        """Only the channel on which a stream was offered may refuse it (AGENT-071)."""
        return own

    def meant(self, key: str, project: str, names: Names) -> Tunnel | None:
        """What a dialler of `project` means: an id first, then a name; never another project's tunnel (AGENT-078)."""
        tunnel = names.by_id(key)
        if tunnel is not None and tunnel.project == project:
            return tunnel
        return names.by_name(key, project)

    def dialled(self, *, found: bool) -> Refusal | None:
        """Whether a StreamReq names a tunnel; whether it fits the tunnel's kind is `DatagramRules.dialled`."""
        return None if found else Refusal(TUNNEL_NOT_FOUND, "tunnel_id_name", "tunnel not found")

    def upstream_refusal(self, kind: str, message: str) -> Refusal:
        """What a dialer is told when the agent leg did not come about."""
        return Refusal(UPSTREAM_CODES[kind], "", message)

    # -- identifiers -----------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """24 lower-case hex digits of 12 random octets: client, tunnel and stream ids (section 2.5)."""
        return secrets.token_hex(12)

    def new_secret(self) -> str:
        """What only the agent that was asked can send back."""
        return secrets.token_urlsafe(24)
