"""How a QUIC peer behaves: legal by default, one keyword breaks one thing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from harness.wire.quic.codec import QuicUsageError
from harness.wire.quic.events import PacketInfo, Resumption
from harness.wire.quic.numbers import MAX_CONNECTION_ID, VERSIONS
from harness.wire.quic.parameters import Parameters
from harness.wire.tls import ClientOptions as TlsClientOptions
from harness.wire.tls import ServerOptions as TlsServerOptions

PacketHook = Callable[[str, PacketInfo], None]
"""Called with `sent` or `received` and what the packet was: for qlog."""
Tamper = Callable[[int, bytes], bytes | Sequence[bytes] | None]


@dataclass(frozen=True, kw_only=True)
class QuicOptions:
    """What both roles have.

    - `versions`: of QUIC, those that we speak, most wanted first.
    - `id_length`: octets of our connection ids; `connection_ids` gives them instead of `random`, as long as they last.
    - `max_data`, `max_stream_data`, `max_streams_bidi`, `max_streams_uni`: what the other side may send; the windows
      move on with what is consumed. `automatic_credit` False leaves that to `consume`. `max_streams_*` are how many
      streams may be open at once; `streams_credit` False never raises the first limit.
    - `idle_timeout` in seconds, 0 for none. `max_datagram_frame_size` 0 takes no DATAGRAM frames.
    - `parameters` gets our transport parameters and returns others: illegal, doubled, missing ones.
    - `datagram_size`: octets of the datagrams that we send; `window` octets in flight. `pad_initials` False sends
      Initials as short as they are. `grease` adds a reserved transport parameter.
    - `tamper_datagram(index, datagram)` sees every datagram of ours before it goes out, and gives what goes out
      instead: other octets, several datagrams, or None for nothing.
    - `tell_blocked` False never says that we wait for credit (RFC 9000 section 4.2 asks nobody to count on it).
    - `acknowledge` False never sends ACK. `answer_violations` False keeps still where the RFC asks for a close;
      `answer_stop_sending`, `answer_path_challenge` likewise. `issue_ids` is how many connection ids we give the other
      side beyond the first (its limit permitting).
    - `alpn_required`: ends a handshake that agrees on no protocol (RFC 9001 section 8.1).
    - `reserved_bits`, `fixed_bit`: of all packets that are protected by 1-RTT keys.
    - `initial_rtt` in seconds, until there is a sample. The RFC's 0.333 suits the internet; a probe on loopback may
      come sooner. `pto_limit` ends a connection after that many probes in a row.
    - `random` makes a run repeatable.
    """

    versions: tuple[int, ...] = VERSIONS
    id_length: int = 8
    connection_ids: tuple[bytes, ...] = ()
    max_data: int = 1 << 20
    max_stream_data: int = 1 << 18
    max_streams_bidi: int = 128
    max_streams_uni: int = 128
    automatic_credit: bool = True
    streams_credit: bool = True
    idle_timeout: float = 30.0
    max_datagram_frame_size: int = 65535
    max_udp_payload_size: int = 65527
    active_connection_id_limit: int = 4
    disable_active_migration: bool = False
    parameters: Callable[[Parameters], Parameters] | None = None
    grease: bool = True
    datagram_size: int = 1200
    window: int = 1 << 16
    pad_initials: bool = True
    tamper_datagram: Tamper | None = None
    tell_blocked: bool = True
    acknowledge: bool = True
    answer_violations: bool = True
    answer_stop_sending: bool = True
    answer_path_challenge: bool = True
    issue_ids: int = 1
    alpn_required: bool = True
    reserved_bits: int = 0
    fixed_bit: bool = True
    initial_rtt: float = 0.1
    pto_limit: int = 12
    random: Callable[[int], bytes] = os.urandom
    on_packet: PacketHook | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.id_length <= MAX_CONNECTION_ID:
            raise QuicUsageError(f"id_length: {self.id_length}; allowed: 0 to {MAX_CONNECTION_ID}")
        unknown = [version for version in self.versions if version not in VERSIONS]
        if unknown or not self.versions:
            raise QuicUsageError(f"versions: {self.versions}; allowed: some of {VERSIONS}")
        if not 256 <= self.datagram_size <= 65527:
            raise QuicUsageError(f"datagram_size: {self.datagram_size}; allowed: 256 to 65527")

    @classmethod
    def of(cls, **keywords: Any) -> Self:
        """Options from keywords of QUIC and of TLS, told apart by name (`random` and the like go to both).

        Raises `QuicUsageError` for a keyword that neither knows.
        """
        tls_type = cls.TLS
        ours = {each.name for each in dataclasses.fields(cls)}
        theirs = {each.name for each in dataclasses.fields(tls_type)} - _SET_BY_QUIC
        unknown = sorted(set(keywords) - ours - theirs)
        if unknown:
            raise QuicUsageError(f"{', '.join(unknown)}: no option of a QUIC {cls.ROLE}")
        mine = {name: value for name, value in keywords.items() if name in ours}
        mine["tls"] = dataclasses.replace(
            keywords.get("tls", tls_type()),
            **{name: value for name, value in keywords.items() if name in theirs},
        )
        return cls(**mine)

    TLS: ClassVar[type[Any]] = TlsClientOptions
    ROLE: ClassVar[str] = "peer"


_SET_BY_QUIC = frozenset(("versions", "session", "early_data", "session_id"))
"""TLS options that are QUIC's own to set, or have another meaning there."""


@dataclass(frozen=True, kw_only=True)
class ClientOptions(QuicOptions):
    """A client.

    - `tls`: server name, ALPN, trust, groups and the like (see `harness.wire.tls.ClientOptions`). Of its `insert` the
      octets are handshake messages, not records; records, padding and `glue_after_finished` do not exist here.
    - `version` of the first Initial, by default the first of `versions`; any number, known or not. An unknown one is
      written as version 1 would be, which makes a server answer with Version Negotiation.
    - `destination`: our first destination connection id; `token`: of the first Initial.
    - `resumption` resumes; with `early_data` what is sent before the handshake is complete goes out in 0-RTT.
    """

    TLS = TlsClientOptions
    ROLE = "client"
    tls: TlsClientOptions = field(default_factory=TlsClientOptions)
    version: int | None = None
    destination: bytes | None = None
    token: bytes = b""
    resumption: Resumption | None = None
    early_data: bool = False


@dataclass(frozen=True, kw_only=True)
class ServerOptions(QuicOptions):
    """A server; it serves one connection, the first that comes.

    - `tls`: identity, ALPN and the like (see `harness.wire.tls.ServerOptions`); tickets with `early_data` allow 0-RTT.
    - `retry` answers the first Initial with Retry; `retry_token` is its token.
    - `negotiate` answers every version but these with Version Negotiation, by default `versions`.
    - `upgrade_to`: another version to go on with, where the client offers it (RFC 9368 section 2.3).
    - `limit_amplification` False sends more than three times what came before the address is validated.
    - `new_token`: sent in NEW_TOKEN when the handshake is complete. `reset_token`: of our transport parameters.
    """

    TLS = TlsServerOptions
    ROLE = "server"
    tls: TlsServerOptions = field(default_factory=TlsServerOptions)
    retry: bool = False
    retry_token: bytes | None = None
    negotiate: tuple[int, ...] | None = None
    upgrade_to: int | None = None
    limit_amplification: bool = True
    early_data: bool = False
    new_token: bytes = b""
    reset_token: bytes | None = None
