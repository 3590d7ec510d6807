"""Mutants and doubles of connection ids, and of Retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.quic.connection import QuicConnectionId, QuicReceiveContext
from aioquic.quic.packet import QuicPacketType

from reference_engine.mutants._quic import Flawed, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import CID_LENGTH, read_header

ONE_TOKEN = bytes(range(16))
FEW = 4
"""Connection ids that an ordinary client keeps."""


@quic_double("quic-ids-reissued", ("RFC9000-5.1-1",), "gives the same connection id under several numbers")
class _IdsReissued(Flawed):
    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for one in self._host_cids[FEW:]:
            self.reached()
            one.cid = self._host_cids[1].cid


@quic_double("quic-reset-token-shared", ("RFC9000-10.3.2-1",), "has one stateless reset token for everybody")
class _ResetTokenShared(Flawed):
    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for one in self._host_cids[1:]:
            self.reached()
            one.stateless_reset_token = ONE_TOKEN


@quic_double("quic-other-ids-deaf", ("RFC9000-5.1.1-1",), "takes 1-RTT packets under the first id alone")
class _OtherIdsDeaf(Flawed):
    _first: bytes | None = None

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's."""
        if self._first is None:
            self._first = self._host_cids[0].cid
        if not data[0] & 0x80 and data[1 : 1 + CID_LENGTH] != self._first:
            self.reached()
            return
        super().receive_datagram(data, addr, now)


@quic_double("quic-retire-deaf", ("RFC9000-5.1.2-1",), "never says which ids of the other side it has retired")
class _RetireDeaf(Flawed):
    def _retire_peer_cid(self, connection_id: QuicConnectionId) -> None:
        self.reached()


@quic_double("quic-second-scid-followed", ("RFC9000-7.2-1",), "sends to the source id of the last Initial")
class _SecondScidFollowed(Flawed):
    _last: bytes | None = None

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's."""
        header = read_header(data)
        self._last = header.source_cid if header.packet_type is QuicPacketType.INITIAL else None
        super().receive_datagram(data, addr, now)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        if context.epoch is tls.Epoch.INITIAL and self._last is not None and self._peer_cid.cid != self._last:
            self.reached()
            self._peer_cid.cid = self._last
        return super()._payload_received(context, plain, crypto_frame_required)


# Retry


@mutant("quic-retry-once", ("RFC9000-8.1.2-1",), "asks every second Initial for a token, and lets the others in")
def _(parts: Parts, reached: Reached) -> None:
    asked = False

    def broken(original: Callable[[int, int], bool], unfinished: int, threshold: int) -> bool:
        nonlocal asked
        if not original(unfinished, threshold):
            return False
        asked = not asked
        if not asked:
            reached()
        return asked

    swap(parts.quic, "wants_retry", broken)


@mutant("quic-retry-same-id", ("RFC9000-17.2.5.1-1",), "names the client's own choice as its id in a Retry")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes], bytes], destination: bytes) -> bytes:
        reached()
        return destination

    swap(parts.quic, "retry_id", broken)
