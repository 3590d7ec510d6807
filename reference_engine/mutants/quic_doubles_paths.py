"""Doubles of QUIC: connections that take new paths and early data for what they are not."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.connection import QuicNetworkPath, QuicReceiveContext
from aioquic.quic.crypto import (  # type: ignore[attr-defined]
    CryptoContext,
    CryptoError,
    apply_key_phase,
    next_key_phase,
)
from aioquic.quic.packet import QuicErrorCode

from reference_engine.mutants._quic import Flawed, FlawedEndpoints, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import Choice, HelloContext

# -- paths ----------------------------------------------------------------------------------------------------------


@mutant("quic-rebind-dropped", ("RFC9000-9-1",), "drops packets that come from another address than before")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, packet_from: Any, known: Any) -> bool:
        reached()
        return bool(packet_from == known)

    swap(parts.quic, "follows", broken)


@quic_double("quic-rebind-reset", ("RFC9000-9-1",), "closes a connection whose peer comes from another address")
class _Fixed(Flawed):
    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's, from one address."""
        if self.handshake_complete and self.get_peer_address() != addr:
            self.reached()
            self.close(QuicErrorCode.PROTOCOL_VIOLATION, 0, "another address")
            return
        super().receive_datagram(data, addr, now)


@quic_double("quic-rebind-unvalidated", ("RFC9000-9-1",), "takes the new address of a peer for validated")
class _Unvalidated(Flawed):
    def _find_network_path(self, addr: Any) -> QuicNetworkPath:
        path = super()._find_network_path(addr)
        if self.handshake_complete and not path.is_validated:
            self.reached()
            path.is_validated = True
        return path


@quic_double("quic-path-never-back", ("RFC9000-9.3.2-1",), "stays on a path whose validation has failed")
class _NeverBack(Flawed):
    def _abandon_path_validation(self) -> None:
        self.reached()
        self._network_paths[0].validation_deadline = float("inf")


# -- early data -----------------------------------------------------------------------------------------------------


class _Ticketing(Flawed):
    """Gives tickets, and knows them again."""

    tickets: ClassVar[dict[bytes, tls.SessionTicket]]

    def __init__(self, **options: Any) -> None:
        super().__init__(session_ticket_fetcher=self.tickets.get, session_ticket_handler=self._keep, **options)

    def _keep(self, ticket: tls.SessionTicket) -> None:
        self.tickets[ticket.ticket] = ticket


class _ReadingContext(HelloContext):
    """Has the keys of early data that it rejects."""

    owner: Flawed

    def go_on(self, choice: Choice, output_buf: dict[tls.Epoch, Buffer]) -> None:
        """As the engine's."""
        kept = bytes(self._kept)
        hello = tls.pull_client_hello(Buffer(data=kept))
        if hello.early_data and hello.pre_shared_key is not None and self.get_session_ticket_cb is not None:
            ticket = self.get_session_ticket_cb(hello.pre_shared_key.identities[0][0])
            if ticket is not None:
                self.owner.reached()
                schedule = tls.KeySchedule(ticket.cipher_suite)
                schedule.extract(ticket.resumption_secret)
                schedule.update_hash(kept)
                secret = schedule.derive_secret(b"c e traffic")
                self.update_traffic_key_cb(tls.Direction.DECRYPT, tls.Epoch.ZERO_RTT, ticket.cipher_suite, secret)
        super().go_on(choice, output_buf)


@quic_double("quic-early-read-though-rejected", ("RFC9001-4.6.2-1",), "reads the early data that it has rejected")
class _ReadThoughRejected(_Ticketing):
    tickets: ClassVar[dict[bytes, tls.SessionTicket]] = {}

    tls: Any

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls.__class__ = _ReadingContext
        self.tls.owner = self


class Replayable(_Ticketing):
    """Hands on early data as soon as it comes, each time that it comes."""

    tickets: ClassVar[dict[bytes, tls.SessionTicket]] = {}
    _handed_on = False

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_stream_frame(context, frame_type, buf)
        if context.epoch is tls.Epoch.ZERO_RTT and not self._handed_on:
            self.reached()
            self._handed_on = True
            self._events.append(
                events.HandshakeCompleted(
                    alpn_protocol=self.tls.alpn_negotiated, early_data_accepted=True, session_resumed=True
                )
            )


@mutant("quic-early-replayed", ("RFC9001-9.2-1",), "accepts early data without looking for a replay, and hands it on")
def _(parts: Parts, reached: Reached) -> None:
    parts.quic_endpoints = FlawedEndpoints(reached, server=Replayable)
    swap(parts.quic, "early_data", lambda original: True)
    swap(parts.quic, "waits_for_client", lambda original: False)


# -- keys and challenges --------------------------------------------------------------------------------------------


@quic_double("quic-key-phase-deaf", ("RFC9001-6.2-1",), "keeps its own keys when the peer updates")
class _Deaf(Flawed):
    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        pair = self._cryptos[tls.Epoch.ONE_RTT]

        def update(trigger: str) -> None:
            self.reached()
            apply_key_phase(pair.recv, next_key_phase(pair.recv), trigger=trigger)

        pair._update_key = update  # type: ignore[method-assign]


@quic_double("quic-old-keys-taken", ("RFC9001-6.4-1",), "takes packets under the keys of before an update")
class _OldKeys(Flawed):
    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        pair = self._cryptos[tls.Epoch.ONE_RTT]
        stock = pair.decrypt_packet
        old: list[CryptoContext] = []

        def decrypt(packet: bytes, offset: int, expected: int) -> tuple[bytes, bytes, int]:
            before = copy.copy(pair.recv)
            try:
                opened = stock(packet, offset, expected)
            except CryptoError:
                if not old:
                    raise
                header, payload, number, _ = old[-1].decrypt_packet(packet, offset, expected)
                self.reached()
                return header, payload, number
            if pair.recv.key_phase != before.key_phase:
                old.append(before)
            return opened

        pair.decrypt_packet = decrypt  # type: ignore[method-assign, assignment]


@quic_double("quic-response-of-its-own", ("RFC9000-8.2.2-1",), "answers a challenge with other octets")
class _OtherOctets(Flawed):
    def _handle_path_challenge_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self.reached()
        buf.pull_bytes(8)
        super()._handle_path_challenge_frame(context, frame_type, Buffer(data=bytes(8)))


@quic_double("quic-response-twice", ("RFC9000-8.2.2-1",), "answers a challenge twice")
class _Twice(Flawed):
    def _handle_path_challenge_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self.reached()
        data = buf.pull_bytes(8)
        for _ in range(2):
            super()._handle_path_challenge_frame(context, frame_type, Buffer(data=data))
