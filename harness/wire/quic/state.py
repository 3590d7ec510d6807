"""What a connection knows, for the modules that receive, send and steer it."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from cryptography import x509

from harness.wire.quic.codec import DecodeError, QuicUsageError
from harness.wire.quic.crypto import PacketKeys, Undecryptable, initial_keys
from harness.wire.quic.events import (
    Ended,
    Event,
    FrameSeen,
    HandshakeCompleted,
    KeysUpdated,
    PacketInfo,
    ProtocolViolation,
    QuicEnd,
    Violation,
)
from harness.wire.quic.frames import ConnectionClose, Datagram, Frame, MaxData, MaxStreamData, MaxStreams
from harness.wire.quic.handshake import CryptoLayer
from harness.wire.quic.numbers import SPACE_OF, VERSION_1, VERSIONS, Level, ParameterId, Space
from harness.wire.quic.options import QuicOptions
from harness.wire.quic.packet import Header
from harness.wire.quic.parameters import Parameters
from harness.wire.quic.recovery import PacketSpace, Recovery
from harness.wire.quic.streams import StreamTable
from harness.wire.tls.messages import ClientHello

LOG = 4096
"""Frames and packets that are remembered, the latest ones."""
MAX_PENDING = 32
"""Packets that wait for their keys."""


@dataclass(frozen=True, slots=True)
class RemoteId:
    """A connection id that the other side gave us."""

    sequence: int
    connection_id: bytes
    reset_token: bytes | None = None


class OneRttKeys:
    """1-RTT keys over key updates (RFC 9001 section 6). Generations count from 0; the phase bit is the lowest bit."""

    def __init__(self) -> None:
        self.write: PacketKeys | None = None
        self.read: PacketKeys | None = None
        self.write_generation = 0
        self.read_generation = 0
        self._next: PacketKeys | None = None
        self._previous: PacketKeys | None = None
        self._first_number = 0

    def set_read(self, keys: PacketKeys) -> None:
        """The first keys of the other side's packets."""
        self.read, self._next = keys, keys.updated()

    def open(self, header: bytes, number: int, phase: int, payload: bytes) -> tuple[bytes, bool]:
        """The payload, and whether the other side updated its keys. Raises `Undecryptable`."""
        assert self.read is not None
        if phase == self.read_generation & 1:
            return self.read.open(header, number, payload), False
        if self._previous is not None and number < self._first_number:
            return self._previous.open(header, number, payload), False
        if self._next is None:
            raise Undecryptable("no keys of the next phase")
        clear = self._next.open(header, number, payload)
        self._previous, self.read = self.read, self._next
        self._next = self.read.updated()
        self.read_generation += 1
        self._first_number = number
        if self.write_generation < self.read_generation:
            self.update_write()
        return clear, True

    def update_write(self) -> None:
        """Use the next keys for what we send."""
        if self.write is None:
            raise QuicUsageError("key update before there are 1-RTT keys")
        self.write = self.write.updated()
        self.write_generation += 1


@dataclass(frozen=True, slots=True)
class Said(Frame):
    """A frame of the script in a sent packet: it is sent again as it stands."""

    frame: Frame


def _same_limit(old: Frame, new: Frame) -> bool:
    if type(old) is not type(new):
        return False
    kind = "bidirectional" if isinstance(new, MaxStreams) else "stream_id"
    return getattr(old, kind, None) == getattr(new, kind, None)


class ConnectionState:
    """State of one connection, and the small steps that every part takes.

    `frames` are the received frames, `packets` what was sent (`sent`) and received (`received`), the latest `LOG` each.
    """

    is_client = False
    tls: CryptoLayer

    def __init__(self, options: QuicOptions) -> None:
        self.options = options
        self.version = options.versions[0]
        self.now = 0.0
        self.events: list[Event] = []
        self.frames: deque[FrameSeen] = deque(maxlen=LOG)
        self.packets: deque[tuple[str, PacketInfo]] = deque(maxlen=LOG)
        self.sizes_sent: Counter[int] = Counter()
        self.sizes_received: Counter[int] = Counter()
        self.recovery = Recovery(options.initial_rtt)
        self.spaces = {space: PacketSpace(space) for space in Space}
        self.read_keys: dict[Level, PacketKeys] = {}
        self.write_keys: dict[Level, PacketKeys] = {}
        self.one_rtt = OneRttKeys()
        self.table = StreamTable(options, is_client=self.is_client, queue=self.queue, emit=self.emit)
        self.datagrams: deque[Datagram] = deque()
        self.handshake: HandshakeCompleted | None = None
        self.confirmed = False
        self.client_hello: ClientHello | None = None
        self.local_parameters = Parameters()
        self.datagram_limit = options.max_datagram_frame_size
        """Octets of a DATAGRAM frame that we take."""
        self.remote_parameters: Parameters | None = None
        self.end: QuicEnd | None = None
        self.violation: ProtocolViolation | None = None
        self.closing: ConnectionClose | None = None
        """Our CONNECTION_CLOSE: we are in the closing period."""
        self.close_due = False
        self.close_until: float | None = None
        self.over = False
        """Nothing is sent or taken any more."""
        self.started = False
        self.validated = self.is_client
        """The other side's address is validated: no limit on what we send."""
        self.octets_received = 0
        self.octets_sent = 0
        self.last_activity = 0.0
        self.last_sent = 0.0
        self._eliciting_sent = False
        self._ids_given = 0
        self._given_ids = list(options.connection_ids)
        self.local_ids: dict[int, bytes] = {}
        self.local_tokens: dict[int, bytes] = {}
        """Stateless reset tokens that we gave out with our connection ids, those in use."""
        self.next_local_id = 0
        self.original_destination = b""
        """DCID of the client's first Initial, which Retry does not change."""
        self.remote_ids: dict[int, RemoteId] = {}
        self.remote_sequence = 0
        self.retired_below = 0
        self.retry_source: bytes | None = None
        self.pending: list[tuple[float, bytes, Header]] = []
        """Packets that wait for their keys, with the time at which they came."""
        self.arrived = 0.0
        """When the packet that is being taken came."""
        self.held_read: PacketKeys | None = None
        self._ping = 0

    # Small steps

    def emit(self, event: Event) -> None:
        """One more event for the caller."""
        self.events.append(event)

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def queue(self, frame: Frame) -> None:
        """A control frame for the next packets of the application's space; a new limit replaces an old one."""
        waiting = self.spaces[Space.APPLICATION].queue
        if isinstance(frame, MaxData | MaxStreams | MaxStreamData):
            for old in [each for each in waiting if _same_limit(each, frame)]:
                waiting.remove(old)
        waiting.append(frame)

    def new_id(self) -> bytes:
        """One more connection id of ours."""
        connection_id = self._given_ids.pop(0) if self._given_ids else self.options.random(self.options.id_length)
        self.local_ids[self.next_local_id] = connection_id
        self.next_local_id += 1
        return connection_id

    @property
    def remote_id(self) -> bytes:
        """The DCID of what we send."""
        known = self.remote_ids.get(self.remote_sequence)
        return known.connection_id if known else b""

    @property
    def source_id(self) -> bytes:
        """The SCID of our long headers: our first connection id."""
        return self.local_ids.get(0, b"")

    def make_initial_keys(self, connection_id: bytes) -> None:
        """Keys of Initial packets of the current version; an unknown one is spoken like version 1."""
        version = self.version if self.version in VERSIONS else VERSION_1
        client, server = initial_keys(version, connection_id)
        mine, theirs = (client, server) if self.is_client else (server, client)
        self.write_keys[Level.INITIAL], self.read_keys[Level.INITIAL] = mine, theirs

    def discard(self, level: Level) -> None:
        """Forget the keys of Initial or Handshake, and what is in flight under them (RFC 9001 section 4.9)."""
        self.read_keys.pop(level, None)
        self.write_keys.pop(level, None)
        space = self.spaces[SPACE_OF[level]]
        if not space.discarded:
            self.recovery.discard(space)

    def use_parameters(self, parameters: Parameters) -> None:
        """What we announce; a value that the script broke holds nobody to anything."""
        self.local_parameters = parameters
        try:
            self.datagram_limit = parameters.max_datagram_frame_size
            self.table.use_local(parameters)
        except DecodeError:
            self.table.use_local(self._base_parameters())

    def _base_parameters(self) -> Parameters:
        """Our transport parameters before the script changes them."""
        options = self.options
        found = Parameters()
        for number, value in (
            (ParameterId.MAX_IDLE_TIMEOUT, int(options.idle_timeout * 1000)),
            (ParameterId.MAX_UDP_PAYLOAD_SIZE, options.max_udp_payload_size),
            (ParameterId.INITIAL_MAX_DATA, options.max_data),
            (ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_LOCAL, options.max_stream_data),
            (ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_REMOTE, options.max_stream_data),
            (ParameterId.INITIAL_MAX_STREAM_DATA_UNI, options.max_stream_data),
            (ParameterId.INITIAL_MAX_STREAMS_BIDI, options.max_streams_bidi),
            (ParameterId.INITIAL_MAX_STREAMS_UNI, options.max_streams_uni),
            (ParameterId.ACTIVE_CONNECTION_ID_LIMIT, options.active_connection_id_limit),
        ):
            found = found.appending(number, value)
        if options.max_datagram_frame_size:
            found = found.appending(ParameterId.MAX_DATAGRAM_FRAME_SIZE, options.max_datagram_frame_size)
        if options.disable_active_migration:
            found = found.appending(ParameterId.DISABLE_ACTIVE_MIGRATION, b"")
        found = found.appending(ParameterId.INITIAL_SOURCE_CONNECTION_ID, self.source_id)
        if len(options.versions) > 1:
            # The chosen version first, then all that are available (RFC 9368 section 3).
            listed = b"".join(each.to_bytes(4, "big") for each in (self.version, *options.versions))
            found = found.appending(ParameterId.VERSION_INFORMATION, listed)
        if options.grease:
            found = found.appending(31 * 7 + 27, options.random(2))  # RFC 9000 section 18.1
        return found

    def encode_parameters(self) -> bytes:
        """Our transport parameters as they go out, changed by the script where it asks for that."""
        found = self._base_parameters()
        if self.options.parameters is not None:
            found = self.options.parameters(found)
        self.use_parameters(found)
        return found.encode()

    # Ends

    @property
    def draining(self) -> bool:
        """The other side closed: nothing is sent any more."""
        return self.end is not None and self.closing is None

    def finish(self, end: QuicEnd) -> None:
        """The connection is over by `end`; the first end counts."""
        if self.end is None:
            self.end = end
            self.emit(Ended(end))

    def begin_close(self, frame: ConnectionClose) -> None:
        """Send CONNECTION_CLOSE and enter the closing period (RFC 9000 section 10.2.1)."""
        if self.end is not None or self.over:
            return
        self.closing, self.close_due = frame, True
        self._period()
        kind = "application" if frame.application else "transport"
        reason = frame.reason.decode("utf-8", "replace")
        self.finish(QuicEnd(kind, frame.code, frame.frame_type, reason, by_peer=False))

    def _period(self) -> None:
        self.close_until = self.now + 3 * self.recovery.pto(application=True)

    def on_peer_close(self, frame: ConnectionClose) -> None:
        """CONNECTION_CLOSE came (RFC 9000 section 10.2.2)."""
        self._period()
        kind = "application" if frame.application else "transport"
        self.finish(QuicEnd(kind, frame.code, frame.frame_type, frame.reason.decode("utf-8", "replace")))

    def fail(self, violation: Violation) -> None:
        """The other side broke a rule: say so, and close unless the script keeps still."""
        found = ProtocolViolation(violation.what, violation.section, violation.code)
        if self.violation is None:
            self.violation = found
        self.emit(found)
        if self.options.answer_violations:
            reason = violation.what.encode()[:256]
            self.begin_close(ConnectionClose(violation.code, violation.frame_type, reason))

    # Notes

    def note_received(self, info: PacketInfo) -> None:
        """Remember a received packet, and tell the hook."""
        self.packets.append(("received", info))
        if self.options.on_packet is not None:
            self.options.on_packet("received", info)

    def note_sent(self, info: PacketInfo) -> None:
        """Remember a sent packet, and tell the hook."""
        self.packets.append(("sent", info))
        if self.options.on_packet is not None:
            self.options.on_packet("sent", info)

    def trouble(self, header: Header, why: str) -> None:
        """A received packet that nothing was done with."""
        self.note_received(
            PacketInfo(
                self.now,
                header.kind,
                header.end - header.start,
                header.version,
                destination=header.destination,
                source=header.source,
                trouble=why,
            )
        )

    def keys_updated(self) -> None:
        """The other side's packets come under new keys."""
        self.emit(KeysUpdated(self.one_rtt.read_generation))

    @property
    def alpn(self) -> str | None:
        """The negotiated protocol."""
        return self.tls.alpn

    @property
    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """The other side's chain, the leaf first."""
        return self.tls.peer_certificates

    @property
    def peer_verified(self) -> str | None:
        """None where the chain is trusted or nothing was to be verified, else the reason."""
        return self.tls.peer_verified

    @property
    def key_log(self) -> list[str]:
        """Lines of the NSS key log format."""
        return self.tls.key_log
