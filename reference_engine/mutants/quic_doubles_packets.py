"""Doubles of QUIC: connections with one check of packets, addresses or keys taken away."""

from __future__ import annotations

from typing import Any

from aioquic import tls
from aioquic._crypto import CryptoError
from aioquic.quic.connection import QuicNetworkPath, QuicReceiveContext
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicErrorCode, QuicPacketType
from aioquic.quic.recovery import QuicPacketSpace

from reference_engine.mutants._quic import Flawed, FlawedEndpoints, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import CID_LENGTH, SMALLEST_DATAGRAM, read_header

RESERVED = 0x18
"""The bits of a short header that must be zero under its protection (RFC 9000 section 17.3.1)."""
SHORTEST = 1 + CID_LENGTH + 4 + 16
"""Octets of a packet with a short header that holds a sample (RFC 9001 section 5.4.2)."""

# Addresses


@quic_double(
    "quic-path-taken-for-valid",
    ("RFC9000-8.1-1", "RFC9001-9.3-1", "RFC9000-8.1.4-1"),
    "takes every address for validated",
)
class _TakenForValid(Flawed):
    def _find_network_path(self, addr: Any) -> QuicNetworkPath:
        path = super()._find_network_path(addr)
        if not path.is_validated:
            self.reached()
            path.is_validated = True
        return path


@quic_double("quic-any-token", ("RFC9000-8.1.4-1",), "takes an address for validated by whatever token there is")
class _AnyToken(Flawed):
    _shown = False

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's; a token is a token."""
        if not self.started and read_header(data).token:
            self._shown = True
        super().receive_datagram(data, addr, now)

    def _find_network_path(self, addr: Any) -> QuicNetworkPath:
        path = super()._find_network_path(addr)
        if self._shown and not path.is_validated:
            self.reached()
            path.is_validated = True
        return path


@quic_double(
    "quic-follows-anybody", ("RFC9001-5.5-1",), "sends to wherever the last datagram came from, whoever made it"
)
class _FollowsAnybody(Flawed):
    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's; the path follows each datagram."""
        super().receive_datagram(data, addr, now)
        if self._network_paths and self._network_paths[0].addr != addr:
            self.reached()
            self._network_paths[0].addr = addr


# Packets


class _Forgetful:
    """Stands for the packet numbers that have come, and knows none of them again."""

    def __init__(self, owner: Flawed, space: QuicPacketSpace) -> None:
        self._owner = owner
        self._known = space.received_packets

    def __contains__(self, number: int) -> bool:
        if number in self._known:
            self._owner.reached()
        return False

    def add(self, number: int) -> None:
        """Take a number."""
        if number not in self._known:
            self._known.add(number)


@quic_double("quic-duplicates-taken", ("RFC9000-12.3-1",), "takes 1-RTT packets as often as they come", side="both")
class _DuplicatesTaken(Flawed):
    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        space: Any = self._spaces[tls.Epoch.ONE_RTT]
        space.received_packets = _Forgetful(self, space)


class _Keys:
    """Stands for the keys of a level."""

    def __init__(self, owner: Flawed, pair: CryptoPair) -> None:
        self._owner = owner
        self._pair = pair

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pair, name)


class _Opening(_Keys):
    """A packet that they do not open ends the connection."""

    def decrypt_packet(self, packet: bytes, *rest: Any) -> tuple[bytes, bytes, int]:
        """As the library's."""
        ready = self._pair.recv.is_valid()
        try:
            return self._pair.decrypt_packet(packet, *rest)
        except CryptoError:
            if ready:
                self._owner.reached()
                self._owner.close(QuicErrorCode.PROTOCOL_VIOLATION, 0, "a packet that no key opens")
            raise


@quic_double("quic-forged-closes", ("RFC9001-5.5-1",), "ends a connection for a packet that no key opens")
class _ForgedCloses(Flawed):
    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        pairs: Any = self._cryptos
        for epoch in (tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT):
            pairs[epoch] = _Opening(self, pairs[epoch])


class _Forgiving(_Keys):
    """Reserved bits that are set do not count."""

    def decrypt_packet(self, packet: bytes, *rest: Any) -> tuple[bytes, bytes, int]:
        """As the library's."""
        header, payload, number = self._pair.decrypt_packet(packet, *rest)
        if header[0] & RESERVED:
            self._owner.reached()
        return bytes((header[0] & ~RESERVED,)) + header[1:], payload, number


@quic_double("quic-reserved-bits-taken", ("RFC9000-17.2-1",), "passes over reserved bits that are set")
class _ReservedBitsTaken(Flawed):
    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        pairs: Any = self._cryptos
        pairs[tls.Epoch.ONE_RTT] = _Forgiving(self, pairs[tls.Epoch.ONE_RTT])


@quic_double("quic-coalesced-dropped", ("RFC9000-12.2-1",), "reads the first packet of a datagram alone")
class _CoalescedDropped(Flawed):
    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's, without the rest."""
        length = read_header(data).packet_length
        if length < len(data):
            self.reached()
        super().receive_datagram(data[:length], addr, now)


@quic_double("quic-short-closes", ("RFC9001-5.4.2-1",), "ends a connection for a packet that is too short to sample")
class _ShortCloses(Flawed):
    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's."""
        if not data[0] & 0x80 and len(data) < SHORTEST and self.handshake_complete:
            self.reached()
            self.close(QuicErrorCode.PROTOCOL_VIOLATION, 0, "a packet too short to sample")
            return
        super().receive_datagram(data, addr, now)


class _KeysKept(Flawed):
    """Keys of `kept` are never discarded."""

    kept: tls.Epoch

    def _discard_epoch(self, epoch: tls.Epoch) -> None:
        if epoch is not self.kept:
            super()._discard_epoch(epoch)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        if context.epoch is self.kept and self.handshake_complete:
            self.reached()
        return super()._payload_received(context, plain, crypto_frame_required)


@quic_double("quic-initial-keys-kept", ("RFC9001-4.9.1-1",), "reads Initial packets for ever")
class _InitialKeysKept(_KeysKept):
    kept = tls.Epoch.INITIAL


@quic_double("quic-handshake-keys-kept", ("RFC9001-4.9.2-1",), "reads Handshake packets for ever")
class _HandshakeKeysKept(_KeysKept):
    kept = tls.Epoch.HANDSHAKE


@quic_double("quic-1rtt-before-finished", ("RFC9001-5.7-1",), "reads 1-RTT packets before the client's Finished")
class _BeforeFinished(Flawed):
    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)
        if direction is tls.Direction.ENCRYPT and epoch is tls.Epoch.ONE_RTT and self.tls.key_schedule is not None:
            self._cryptos[epoch].recv.setup(
                cipher_suite=cipher_suite,
                secret=self.tls.key_schedule.derive_secret(b"c ap traffic"),
                version=self.version,
            )

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        if context.epoch is tls.Epoch.ONE_RTT and not self.handshake_complete:
            self.reached()
        return super()._payload_received(context, plain, crypto_frame_required)


class _ShortInitials(Flawed):
    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As the engine's; what a datagram lacks is put behind it."""
        if len(data) < SMALLEST_DATAGRAM and data[0] & 0x80 and read_header(data).packet_type is QuicPacketType.INITIAL:
            self.reached()
            data += bytes(SMALLEST_DATAGRAM - len(data))
        super().receive_datagram(data, addr, now)


@mutant("quic-short-initials", ("RFC9000-14.1-1", "RFC9001-9.3-1"), "takes Initials in datagrams of any size")
def _(parts: Parts, reached: Reached) -> None:
    parts.quic_endpoints = FlawedEndpoints(reached, server=_ShortInitials)
    swap(parts.quic, "may_start", lambda original, cid, size: original(cid, max(size, SMALLEST_DATAGRAM)))
