"""What a QUIC peer saw, as small frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509

from harness.wire.quic.frames import Frame
from harness.wire.quic.numbers import Level, PacketKind, error_name
from harness.wire.quic.parameters import Parameters
from harness.wire.tls.events import Session
from harness.wire.tls.messages import ClientHello


@dataclass(frozen=True, slots=True)
class FrameSeen:
    """One received frame: when (seconds), at which level, in which packet."""

    time: float
    level: Level
    packet: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class PacketInfo:
    """One packet, sent or received; `size` in octets of it alone, `datagram` those of the whole datagram (0: not known
    yet). `token` is a received Initial's. `trouble` says why nothing could be done with a received one."""

    time: float
    kind: PacketKind
    size: int
    version: int = 0
    number: int | None = None
    destination: bytes = b""
    source: bytes = b""
    frames: tuple[Frame, ...] = ()
    phase: int | None = None
    datagram: int = 0
    token: bytes = b""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Resumption:
    """What resumes a connection: the TLS session, the server's parameters of then, and a token of NEW_TOKEN."""

    session: Session
    parameters: Parameters
    version: int
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class QuicEnd:
    """How a connection ended. `kind`: `application` or `transport` (CONNECTION_CLOSE), `reset` (stateless reset),
    `idle`, `negotiation` (no common version). `by_peer` is False where we closed."""

    kind: str
    code: int = 0
    frame_type: int = 0
    reason: str = ""
    by_peer: bool = True

    def __str__(self) -> str:
        if self.kind == "idle":
            return "idle timeout"
        if self.kind not in ("application", "transport"):
            return self.kind
        code = error_name(self.code) if self.kind == "transport" else f"0x{self.code:x}"
        return f"{self.kind} close {code}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class ClientHelloReceived:
    """The server has the client's whole ClientHello."""

    hello: ClientHello


@dataclass(frozen=True, slots=True)
class ParametersReceived:
    """The other side's transport parameters, as they stood."""

    parameters: Parameters


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """The TLS handshake is complete. `peer_verified` None: the chain is trusted, or nothing was to be verified."""

    version: int
    alpn: str | None
    suite: int
    resumed: bool
    early_data_accepted: bool
    peer_certificates: tuple[x509.Certificate, ...]
    peer_verified: str | None


@dataclass(frozen=True, slots=True)
class HandshakeConfirmed:
    """HANDSHAKE_DONE came (client), or the handshake is complete (server; RFC 9001 section 4.1.2)."""


@dataclass(frozen=True, slots=True)
class EarlyDataRejected:
    """The server took no 0-RTT; what was sent in it goes out again."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The other side opened a stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamData:
    """The next octets of a stream, in order; `fin` says that they are the last. `early`: they came in 0-RTT."""

    stream_id: int
    data: bytes = field(repr=False)
    fin: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class StreamReset:
    """RESET_STREAM."""

    stream_id: int
    code: int
    final_size: int


@dataclass(frozen=True, slots=True)
class StopSendingReceived:
    """STOP_SENDING; answered by RESET_STREAM with the same code unless an option says otherwise."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class StreamDelivered:
    """All that we sent on a stream is acknowledged, its end (FIN or reset) included."""

    stream_id: int
    reset: bool = False


@dataclass(frozen=True, slots=True)
class StreamsAvailable:
    """The other side allows more streams of ours: `limit` in all."""

    bidirectional: bool
    limit: int


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    """A DATAGRAM frame (RFC 9221)."""

    data: bytes
    early: bool = False


@dataclass(frozen=True, slots=True)
class PingAcknowledged:
    """A packet with the PING of that number (see `ping`) is acknowledged."""

    number: int


@dataclass(frozen=True, slots=True)
class KeysUpdated:
    """1-RTT keys of generation `generation` are in use for what the other side sends (RFC 9001 section 6)."""

    generation: int


@dataclass(frozen=True, slots=True)
class TicketReceived:
    """A NewSessionTicket; `resumption` is what `ClientOptions(resumption=..)` takes."""

    resumption: Resumption


@dataclass(frozen=True, slots=True)
class TokenReceived:
    """NEW_TOKEN."""

    token: bytes


@dataclass(frozen=True, slots=True)
class RetryReceived:
    """A genuine Retry packet; a new Initial with its token follows."""

    token: bytes
    source: bytes


@dataclass(frozen=True, slots=True)
class NegotiationReceived:
    """A Version Negotiation packet that answers us."""

    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProtocolViolation:
    """The other side broke QUIC or TLS: `what`, the `section` that it broke, and the error `code` that names it."""

    what: str
    section: str
    code: int

    def __str__(self) -> str:
        return f"{self.what} ({self.section})"


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over; nothing but the closing period may follow."""

    end: QuicEnd


Event = (
    ClientHelloReceived
    | ParametersReceived
    | HandshakeCompleted
    | HandshakeConfirmed
    | EarlyDataRejected
    | StreamOpened
    | StreamData
    | StreamReset
    | StopSendingReceived
    | StreamDelivered
    | StreamsAvailable
    | DatagramReceived
    | PingAcknowledged
    | KeysUpdated
    | TicketReceived
    | TokenReceived
    | RetryReceived
    | NegotiationReceived
    | ProtocolViolation
    | Ended
)


class Violation(Exception):  # noqa: N818 - internal to the peers: becomes `ProtocolViolation`
    """Raised inside a peer where the other side breaks QUIC; never leaves `receive`."""

    def __init__(self, what: str, section: str, code: int, frame_type: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.section = section
        self.code = code
        self.frame_type = frame_type
