"""What a TLS peer saw, as small frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509

from harness.wire.tls.messages import Message
from harness.wire.tls.numbers import alert_name


@dataclass(frozen=True, slots=True)
class HandshakeMessage:
    """The other side said one handshake message; `raw` is header and body as received."""

    name: str
    message: Message
    raw: bytes = field(repr=False, default=b"")


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """The handshake is complete. `alpn` is Latin-1 text or None; `group` None where no (EC)DHE took place.

    `peer_verified` is None where the other side's chain verifies against `trust` (or nothing was to be verified), else
    the reason. `peer_certificates` are those of this handshake, or of the resumed session's. `server_random` is the
    ServerHello's.
    """

    version: int
    suite: int
    alpn: str | None
    group: int | None
    peer_certificates: tuple[x509.Certificate, ...]
    resumed: bool
    peer_verified: str | None = None
    server_name: str | None = None
    early_data_accepted: bool = False
    server_random: bytes = b""


@dataclass(frozen=True, slots=True)
class Data:
    """Application data of one record."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EarlyData:
    """Application data of one record, sent before the handshake was complete (RFC 8446 section 2.3)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert other than close_notify. `fatal` says whether it ends the connection under the negotiated version."""

    level: int
    description: int
    fatal: bool = True

    @property
    def name(self) -> str:
        """The registry's name."""
        return alert_name(self.description)


@dataclass(frozen=True, slots=True)
class CloseNotify:
    """The other side announced the end of its direction; `level` is as received."""

    level: int = 1


@dataclass(frozen=True, slots=True)
class ChangeCipherSpec:
    """A change_cipher_spec record with payload 1."""


@dataclass(frozen=True, slots=True)
class KeyUpdateReceived:
    """The other side changed its sending keys, and asks for ours where `requested`."""

    requested: bool


@dataclass(frozen=True, slots=True)
class Session:
    """What resumes a connection. `secret` is the PSK (TLS 1.3) or the master secret (TLS 1.2); times in seconds."""

    version: int
    suite: int
    secret: bytes = field(repr=False)
    ticket: bytes = field(default=b"", repr=False)
    session_id: bytes = b""
    lifetime: int = 0
    age_add: int = 0
    received_at: float = 0.0
    max_early_data: int = 0
    alpn: str | None = None
    server_name: str | None = None
    extended_master_secret: bool = False
    peer_certificates: tuple[x509.Certificate, ...] = ()
    peer_verified: str | None = None


@dataclass(frozen=True, slots=True)
class TicketReceived:
    """A NewSessionTicket; `session` is what `ClientOptions(session=..)` takes."""

    session: Session


@dataclass(frozen=True, slots=True)
class ProtocolViolation:
    """The other side broke TLS: `what`, and the `section` that it broke. `alert` is what we answered, if anything.

    `fatal` is False for what a receiver is to ignore (octets behind close_notify): the connection is as it was.
    """

    what: str
    section: str
    alert: int | None
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.what} ({self.section})"


@dataclass(frozen=True, slots=True)
class Refused:
    """We ended the handshake with a fatal alert though the other side broke nothing: no common suite, and the like."""

    description: int
    why: str


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The other side chose, from what was offered, something that this peer does not speak. It stops here."""

    what: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """The transport ended without close_notify (RFC 8446 section 6.1); `handshake_done` says in which phase."""

    handshake_done: bool


Event = (
    HandshakeMessage
    | HandshakeDone
    | Data
    | EarlyData
    | Alert
    | CloseNotify
    | ChangeCipherSpec
    | KeyUpdateReceived
    | TicketReceived
    | ProtocolViolation
    | Refused
    | Unsupported
    | Truncated
)


class Violation(Exception):  # noqa: N818 - internal to the peers: becomes `ProtocolViolation`
    """Raised inside a peer where the other side breaks TLS; never leaves `receive`."""

    def __init__(self, what: str, section: str, alert: int) -> None:
        super().__init__(what)
        self.what = what
        self.section = section
        self.alert = alert


class Stop(Exception):  # noqa: N818 - internal to the peers: becomes `Refused` or `Unsupported`
    """Raised inside a peer that goes no further although nothing was broken; never leaves `receive`."""

    def __init__(self, event: Refused | Unsupported, alert: int) -> None:
        super().__init__(str(event))
        self.event = event
        self.alert = alert
