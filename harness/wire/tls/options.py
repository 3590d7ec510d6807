"""How a TLS peer behaves: legal by default, one keyword breaks one thing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509

from harness.wire.tls.codec import TlsUsageError
from harness.wire.tls.crypto import GROUPS, SCHEMES, Identity, PrivateKey, Randomness
from harness.wire.tls.events import Session
from harness.wire.tls.extensions import Extension, Name
from harness.wire.tls.messages import ClientHello
from harness.wire.tls.numbers import MAX_PLAINTEXT, SUITES, TLS12, TLS13, X25519

if TYPE_CHECKING:
    from harness.wire.tls.endpoint import Endpoint

STEPS = (
    "client_hello",
    "hello_retry_request",
    "server_hello",
    "encrypted_extensions",
    "certificate_request",
    "certificate",
    "certificate_verify",
    "server_key_exchange",
    "server_hello_done",
    "client_key_exchange",
    "change_cipher_spec",
    "end_of_early_data",
    "client_finished",
    "server_finished",
    "new_session_ticket",
    "key_update",
)
"""The steps that `modify`, `tamper` and `insert` know; `certificate` and the like are whichever side sends them."""

ModifyStep = Callable[[Any], Any]
TamperStep = Callable[[bytes], bytes] | None
InsertStep = Callable[["Endpoint"], bytes]


@dataclass(frozen=True, kw_only=True)
class TlsOptions:
    """What both roles have.

    - `versions`: offered or accepted, most wanted first; `suites` and `groups` likewise, by number.
    - `trust`: roots to verify the other side's chain against; None verifies nothing. `now` is the moment of that.
    - `identity`: our chain and key, or both by `chain` and `key`.
    - `record_size`: largest plaintext of a record that we send; `coalesce` puts several handshake messages into one.
    - `modify[step]` gets the message and returns another; `tamper[step]` gets the encoded message and returns other
      octets, None skips the step; `insert[step]` gives octets that go on the wire right before the step (made with
      `build_record`). Steps: `STEPS`. The handshake goes on over what was really sent.
    - `glue_after_finished`: application data right behind our Finished, in the same flight (TLS 1.2 full handshakes of
      a client: before the other side's Finished).
    - `answer_close_notify`, `answer_key_update`, `answer_violations`: the answers that the RFC asks for.
    - `random` and `clock` (seconds) make a run repeatable.
    """

    versions: tuple[int, ...] = (TLS13, TLS12)
    suites: tuple[int, ...] = tuple(SUITES)
    groups: tuple[int, ...] = GROUPS
    signature_schemes: tuple[int, ...] = tuple(SCHEMES)
    trust: Sequence[x509.Certificate] | None = None
    now: datetime | None = None
    identity: Identity | None = None
    chain: Sequence[x509.Certificate] = ()
    key: PrivateKey | None = None
    extended_master_secret: bool = True
    record_size: int = MAX_PLAINTEXT
    coalesce: bool = False
    padding: int = 0
    modify: Mapping[str, ModifyStep] = field(default_factory=dict)
    tamper: Mapping[str, TamperStep] = field(default_factory=dict)
    insert: Mapping[str, InsertStep] = field(default_factory=dict)
    glue_after_finished: bytes = b""
    wrong_finished: bool = False
    wrong_certificate_verify: bool = False
    answer_close_notify: bool = True
    answer_key_update: bool = True
    answer_violations: bool = True
    random: Randomness = os.urandom
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if self.chain:
            if self.key is None or self.identity is not None:
                raise TlsUsageError("chain: given without key, or beside identity; allowed: chain and key, or identity")
            object.__setattr__(self, "identity", Identity(tuple(self.chain), self.key))
        for key in ("modify", "tamper", "insert"):
            for step in getattr(self, key):
                if step not in STEPS:
                    raise TlsUsageError(f"{key}: {step!r} is no step of a handshake; allowed: {', '.join(STEPS)}")
        if not 1 <= self.record_size <= MAX_PLAINTEXT:
            raise TlsUsageError(f"record_size: {self.record_size}; allowed: 1 to {MAX_PLAINTEXT}")


@dataclass(frozen=True, kw_only=True)
class ClientOptions(TlsOptions):
    """A client.

    - `server_name`: sent as SNI unless it is an address, and what the certificate must cover (or `verify_name`).
    - `alpn`: offered protocols; none means no extension.
    - `key_shares`: groups that get a share, by default the first of `groups`; empty forces a HelloRetryRequest.
    - `legacy_version` and `record_version`: of the ClientHello and of its record. `session_id`: None chooses.
    - `renegotiation`: `extension`, `scsv`, or None. `session` resumes; `early_data` goes out with it.
    - `hello` gets the whole ClientHello and returns another; binders are made after it.
    """

    server_name: str | None = None
    verify_name: str | None = None
    alpn: Sequence[Name] = ()
    key_shares: tuple[int, ...] | None = None
    legacy_version: int | None = None
    record_version: int = 0x0301
    session_id: bytes | None = None
    renegotiation: str | None = "extension"
    offer_tickets: bool = True
    session: Session | None = None
    early_data: bytes = b""
    extra_extensions: tuple[Extension, ...] = ()
    hello: Callable[[ClientHello], ClientHello] | None = None


AlpnChoice = Callable[[ClientHello], str | None]


@dataclass
class TicketStore:
    """Sessions that a server can resume, shared by its connections; at most `limit`, the oldest goes first."""

    limit: int = 256
    sessions: dict[bytes, Session] = field(default_factory=dict)

    def put(self, session: Session) -> None:
        """Keep `session` under its ticket."""
        while len(self.sessions) >= self.limit:
            del self.sessions[next(iter(self.sessions))]
        self.sessions[session.ticket] = session


@dataclass(frozen=True, kw_only=True)
class ServerOptions(TlsOptions):
    """A server; `identity` is required, `identities` adds chains by server name.

    - `alpn`: protocols by preference, or a function of the ClientHello that names one (or None); empty selects none.
      No common protocol is answered with alert 120; with `alpn_may_miss` the handshake goes on without one.
    - `select_alpn`: this one is selected, offered or not, extension or not.
    - `request_client_certificate`; `require_client_certificate` refuses a client without one.
    - `refuse_with_alert`: answers the ClientHello with this alert. `retry_group` forces a HelloRetryRequest for that
      group, `retries` times. `downgrade_sentinel` None follows RFC 8446 section 4.1.3.
    - `tickets` issues and takes TLS 1.3 tickets (`ticket_count` each); `max_early_data` takes that much early data.
    - `omit_close_notify`: the peer above closes without it.
    """

    identities: Mapping[str, Identity] = field(default_factory=dict)
    alpn: Sequence[str] | AlpnChoice = ()
    alpn_may_miss: bool = False
    select_alpn: Name | None = None
    request_client_certificate: bool = False
    require_client_certificate: bool = False
    refuse_with_alert: int | None = None
    retry_group: int | None = None
    retries: int = 1
    downgrade_sentinel: bool | None = None
    tickets: TicketStore | None = None
    ticket_count: int = 1
    max_early_data: int = 0
    omit_close_notify: bool = False


def default_share(options: ClientOptions) -> tuple[int, ...]:
    """Groups that get a key share: as asked, else the first of the offered groups that we speak."""
    if options.key_shares is not None:
        return options.key_shares
    return next(((group,) for group in options.groups if group in GROUPS), (X25519,))
