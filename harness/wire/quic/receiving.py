"""Taking datagrams: packets out of protection, frames to the rules that they are held to (RFC 9000 sections 12, 19)."""

from __future__ import annotations

from harness.wire.quic.codec import DecodeError
from harness.wire.quic.crypto import PacketKeys, Undecryptable
from harness.wire.quic.events import (
    DatagramReceived,
    FrameSeen,
    HandshakeCompleted,
    HandshakeConfirmed,
    PacketInfo,
    ParametersReceived,
    PingAcknowledged,
    QuicEnd,
    TokenReceived,
    Violation,
)
from harness.wire.quic.frames import (
    Ack,
    ConnectionClose,
    Crypto,
    Datagram,
    Frame,
    FrameError,
    HandshakeDone,
    MaxData,
    MaxStreamData,
    MaxStreams,
    NewConnectionId,
    NewToken,
    PathChallenge,
    PathResponse,
    ResetStream,
    RetireConnectionId,
    StopSending,
    Stream,
    StreamDataBlocked,
    decode_frames,
    elicits,
    levels_of,
)
from harness.wire.quic.numbers import CRYPTO_ERROR, SPACE_OF, ErrorCode, Level, PacketKind, ParameterId, Space
from harness.wire.quic.packet import LEVEL_OF_KIND, Header, parse_header, unmask
from harness.wire.quic.parameters import Parameters
from harness.wire.quic.recovery import MAX_CRYPTO, PacketSpace, SentPacket
from harness.wire.quic.state import MAX_PENDING, ConnectionState, RemoteId, Said
from harness.wire.tls import HandshakeDone as TlsHandshakeDone
from harness.wire.tls import ProtocolViolation as TlsViolation
from harness.wire.tls import Refused, Unsupported
from harness.wire.tls import TicketReceived as TlsTicketReceived
from harness.wire.tls.events import Event as TlsEvent
from harness.wire.tls.events import Session

_VIOLATION = ErrorCode.PROTOCOL_VIOLATION
MAX_RESPONSES = 8
"""PATH_RESPONSE frames, and NEW_CONNECTION_ID frames for retired ids, that wait to go out."""
MAX_RETIRED = 64
"""RETIRE_CONNECTION_ID frames that wait to go out."""


class Receiving(ConnectionState):
    """From datagrams to events."""

    def take_datagram(self, datagram: bytes) -> None:
        """Take all packets of a datagram, then those that waited for keys which came."""
        at = 0
        self.arrived = self.now
        while at < len(datagram) and not self.over:
            if at and not datagram[at] and not datagram[at:].strip(b"\0"):
                break  # Some pad a datagram behind its last packet.
            try:
                header = parse_header(datagram, at, self.options.id_length)
            except DecodeError as error:
                self.note_received(PacketInfo(self.now, PacketKind.UNKNOWN, len(datagram) - at, trouble=str(error)))
                self._look_for_reset(datagram)
                return
            self._take_packet(datagram, header)
            at = header.end
        self._retry_pending()

    def _retry_pending(self) -> None:
        while not self.over:
            ready = [each for each in self.pending if self._has_keys(LEVEL_OF_KIND[each[2].kind])]
            if not ready:
                return
            self.pending = [each for each in self.pending if each not in ready]
            for arrived, datagram, header in ready:
                # The other side is told how long it waited here, else it would take that for the path's time.
                self.arrived = arrived
                self._take_packet(datagram, header)

    def _has_keys(self, level: Level) -> bool:
        return self.one_rtt.read is not None if level == Level.APPLICATION else level in self.read_keys

    def _take_packet(self, datagram: bytes, header: Header) -> None:
        if not self._is_ours(header):
            self.trouble(header, "for another connection id")
            self._look_for_reset(datagram)
            return
        if header.kind == PacketKind.NEGOTIATION:
            self.on_negotiation(header)
            return
        if header.kind == PacketKind.RETRY:
            self.on_retry(datagram, header)
            return
        other = header.version != self.version and header.kind != PacketKind.SHORT
        if header.kind == PacketKind.UNKNOWN or (other and not self.on_other_version(datagram, header)):
            self.trouble(header, "of another version")
            return
        level = LEVEL_OF_KIND[header.kind]
        if not self._has_keys(level):
            self._keep(datagram, header, level)
            return
        try:
            number, first, payload = self._open(datagram, header, level)
        except Undecryptable as error:
            self.trouble(header, str(error))
            self._look_for_reset(datagram)
            return
        try:
            self._take_payload(header, level, number, first, payload, len(datagram))
        except Violation as violation:
            self.fail(violation)

    def _is_ours(self, header: Header) -> bool:
        if header.destination in self.local_ids.values():
            return True
        # Until a client knows our id it writes the one that it chose (RFC 9000 section 7.2).
        early = header.kind in (PacketKind.INITIAL, PacketKind.EARLY)
        return early and not self.is_client and header.destination == self.original_destination

    def _keep(self, datagram: bytes, header: Header, level: Level) -> None:
        space = self.spaces[SPACE_OF[level]]
        gone = space.discarded or (level == Level.EARLY and (self.is_client or self.one_rtt.read is not None))
        if gone or len(self.pending) >= MAX_PENDING:
            self.trouble(header, "without keys")
        else:
            self.pending.append((self.arrived, datagram, header))

    def _open(self, datagram: bytes, header: Header, level: Level) -> tuple[int, int, bytes]:
        space = self.spaces[SPACE_OF[level]]
        keys = self.one_rtt.read if level == Level.APPLICATION else self.read_keys[level]
        assert keys is not None
        clear = unmask(keys, datagram, header)
        number = clear.number(space.expected)
        sealed = datagram[header.number_at + clear.length : header.end]
        if level != Level.APPLICATION:
            return number, clear.first, keys.open(clear.header, number, sealed)
        payload, updated = self.one_rtt.open(clear.header, number, clear.first >> 2 & 1, sealed)
        if updated:
            self.keys_updated()
        return number, clear.first, payload

    def _look_for_reset(self, datagram: bytes) -> None:
        """Stateless reset: the last 16 octets are a token that we know (RFC 9000 section 10.3.1)."""
        if len(datagram) < 21 or self.end is not None:
            return
        if any(known.reset_token == datagram[-16:] for known in self.remote_ids.values()):
            self.finish(QuicEnd("reset"))
            self.over = True

    def _take_payload(self, header: Header, level: Level, number: int, first: int, payload: bytes, size: int) -> None:
        space = self.spaces[SPACE_OF[level]]
        phase = first >> 2 & 1 if level == Level.APPLICATION else None
        duplicate = space.is_duplicate(number)
        frames: list[Frame] = []
        broken: FrameError | None = None
        try:
            frames.extend(decode_frames(payload))
        except FrameError as error:
            broken = error
        self.note_received(
            PacketInfo(
                self.now,
                header.kind,
                header.end - header.start,
                header.version or self.version,
                number,
                header.destination,
                header.source,
                tuple(frames),
                phase,
                size,
                token=header.token,
                trouble="duplicate" if duplicate else str(broken or ""),
            )
        )
        if duplicate:
            return
        self.last_activity = self.now
        self._eliciting_sent = False
        self.on_packet(header, level)
        if first & (0x0C if level != Level.APPLICATION else 0x18):
            raise Violation("reserved bits that are not zero", "RFC 9000 section 17.2", _VIOLATION)
        if not payload:
            raise Violation("packet without frames", "RFC 9000 section 12.4", _VIOLATION)
        # A packet counts as received before what it says is judged, else our ACK would depend on that.
        space.on_received(number, self.arrived, elicits=any(elicits(frame) for frame in frames))
        for frame in frames:
            self.frames.append(FrameSeen(self.now, level, number, frame))
        if self.closing is not None or self.draining:
            self._while_closing(frames)
            return
        if broken is not None:
            code = ErrorCode.FRAME_ENCODING_ERROR
            raise Violation(str(broken), "RFC 9000 section 12.4", code, broken.frame_type)
        for frame in frames:
            if level not in levels_of(frame):
                what = f"{frame.name} in a packet of level {level.name.lower()}"
                raise Violation(what, "RFC 9000 section 12.5", _VIOLATION, frame.type)
            self._take_frame(frame, level, space, header)
            if self.end is not None:
                return
        self.after_packet(level)

    def _while_closing(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, ConnectionClose):
                # The other side closed too: there is nobody left to tell.
                self.close_due = False
                self.closing = None
                return
        self.close_repeat()

    # Hooks of the roles

    def on_packet(self, header: Header, level: Level) -> None:
        """A packet of the other side came out of its protection."""

    def after_packet(self, level: Level) -> None:
        """All frames of a packet were taken."""

    def on_negotiation(self, header: Header) -> None:
        """A Version Negotiation packet."""
        self.trouble(header, "Version Negotiation of a client")

    def on_retry(self, datagram: bytes, header: Header) -> None:
        """A Retry packet."""
        self.trouble(header, "Retry of a client")

    def on_other_version(self, datagram: bytes, header: Header) -> bool:
        """A long header of another version; True takes the packet after all."""
        return False

    def close_repeat(self) -> None:
        """A packet came in the closing period."""

    def check_ids(self, parameters: Parameters) -> None:
        """Whether the other side's parameters name the connection ids that were used (RFC 9000 section 7.3)."""
        source = parameters.get(ParameterId.INITIAL_SOURCE_CONNECTION_ID)
        if source is None or source != self.initial_source():
            what = "initial_source_connection_id is " + ("missing" if source is None else "another")
            raise Violation(what, "RFC 9000 section 7.3", ErrorCode.TRANSPORT_PARAMETER_ERROR)

    def initial_source(self) -> bytes:
        """The SCID of the other side's first Initial."""
        return self.remote_ids[0].connection_id if 0 in self.remote_ids else self.remote_id

    def on_tls_done(self, done: TlsHandshakeDone) -> None:
        """The TLS handshake is complete."""

    def on_ticket(self, session: Session) -> None:
        """A ticket came."""

    # Frames

    def _take_frame(self, frame: Frame, level: Level, space: PacketSpace, header: Header) -> None:  # noqa: C901
        match frame:
            case Stream():
                self.table.on_stream(frame, early=level == Level.EARLY)
            case Ack():
                self._on_ack(frame, space)
            case Crypto():
                self._on_crypto(frame, level, space)
            case Datagram():
                self._on_datagram(frame, early=level == Level.EARLY)
            case MaxData():
                self.table.on_max_data(frame)
            case MaxStreamData():
                self.table.on_max_stream_data(frame)
            case MaxStreams():
                self.table.on_max_streams(frame)
            case ResetStream():
                self.table.on_reset(frame)
            case StopSending():
                self.table.on_stop(frame)
            case StreamDataBlocked():
                self.table.on_stream_data_blocked(frame)
            case NewConnectionId():
                self._on_new_id(frame)
            case RetireConnectionId():
                self._on_retire(frame, header)
            case PathChallenge():
                self._on_challenge(frame)
            case ConnectionClose():
                self.on_peer_close(frame)
            case HandshakeDone():
                self._on_handshake_done(frame)
            case NewToken():
                self._client_only(frame)
                self.new_token = frame.token
                self.emit(TokenReceived(frame.token))
            case _:
                pass  # PADDING, PING, PATH_RESPONSE, DATA_BLOCKED, STREAMS_BLOCKED ask for nothing

    def _client_only(self, frame: Frame) -> None:
        if not self.is_client:
            raise Violation(f"{frame.name} of a client", "RFC 9000 section 12.4", _VIOLATION, frame.type)

    def _on_handshake_done(self, frame: HandshakeDone) -> None:
        self._client_only(frame)
        if not self.confirmed:
            self.confirmed = True
            self.discard(Level.HANDSHAKE)
            self.emit(HandshakeConfirmed())

    def _on_ack(self, frame: Ack, space: PacketSpace) -> None:
        exponent = 3
        if self.remote_parameters is not None and space.space == Space.APPLICATION:
            exponent = self.remote_parameters.ack_delay_exponent
        self.recovery.confirmed = self.confirmed
        acked, lost = self.recovery.on_ack(space, frame, self.now, exponent, frame_type=frame.type)
        for packet in acked:
            for each in packet.frames:
                self._frame_acked(space, each)
            for number in packet.pings:
                self.emit(PingAcknowledged(number))
        self.packets_lost(space, lost)

    def _frame_acked(self, space: PacketSpace, frame: Frame) -> None:
        match frame:
            case Stream() | ResetStream():
                self.table.on_acked(frame)
            case Crypto():
                space.crypto_out.on_acked(frame.offset, len(frame.data), fin=False)
            case Ack():
                space.forget_acked(frame.largest)
            case _:
                pass

    def packets_lost(self, space: PacketSpace, lost: list[SentPacket]) -> None:
        """Say again what packets said that were lost (RFC 9000 section 13.3)."""
        for packet in lost:
            for frame in packet.frames:
                self._frame_lost(space, frame)
            space.pings.extend(packet.pings)

    def _frame_lost(self, space: PacketSpace, frame: Frame) -> None:
        match frame:
            case Said():
                space.said.append(frame.frame)
            case Crypto():
                space.crypto_out.on_lost(frame.offset, len(frame.data), fin=False)
            case Stream() | ResetStream() | StopSending() | MaxData() | MaxStreamData() | MaxStreams():
                self.table.on_lost(frame)
            case NewConnectionId() | RetireConnectionId() | NewToken() | HandshakeDone():
                space.queue.append(frame)
            case _:
                pass  # DATAGRAM, PATH_RESPONSE and the like are not repeated; neither are ACK, PING, PADDING

    def _on_datagram(self, frame: Datagram, *, early: bool) -> None:
        limit = self.datagram_limit
        if len(frame.encode()) > limit:
            what = f"DATAGRAM frame of {len(frame.encode())} octets, limit {limit}"
            raise Violation(what, "RFC 9221 section 3", _VIOLATION, frame.type)
        self.emit(DatagramReceived(frame.data, early))

    def _on_challenge(self, frame: PathChallenge) -> None:
        queue = self.spaces[Space.APPLICATION].queue
        waiting = sum(isinstance(each, PathResponse) for each in queue)
        if self.options.answer_path_challenge and waiting < MAX_RESPONSES:
            self.queue(PathResponse(frame.data))

    def _on_new_id(self, frame: NewConnectionId) -> None:
        section = "RFC 9000 section 19.15"
        if not self.remote_id:
            raise Violation("NEW_CONNECTION_ID beside an empty connection id", section, _VIOLATION, frame.type)
        known = self.remote_ids.get(frame.sequence)
        fresh = RemoteId(frame.sequence, frame.connection_id, frame.reset_token)
        double = any(
            each.connection_id == frame.connection_id and each.sequence != frame.sequence
            for each in self.remote_ids.values()
        )
        if double or (known is not None and known != fresh and known.reset_token is not None):
            raise Violation(f"connection id {frame.sequence} given twice", section, _VIOLATION, frame.type)
        if frame.sequence < self.retired_below:
            self._retire(frame.sequence)
            return
        if frame.retire_prior_to > self.retired_below:
            self.retired_below = frame.retire_prior_to
            for sequence in [each for each in self.remote_ids if each < self.retired_below]:
                del self.remote_ids[sequence]
                self._retire(sequence)
        limit = self.options.active_connection_id_limit
        if frame.sequence not in self.remote_ids and len(self.remote_ids) >= limit:
            what = f"{len(self.remote_ids) + 1} connection ids, limit {limit}"
            raise Violation(what, "RFC 9000 section 5.1.1", ErrorCode.CONNECTION_ID_LIMIT_ERROR, frame.type)
        self.remote_ids[frame.sequence] = fresh
        if self.remote_sequence not in self.remote_ids:
            self.remote_sequence = min(self.remote_ids)

    def _retire(self, sequence: int) -> None:
        queue = self.spaces[Space.APPLICATION].queue
        if sum(isinstance(each, RetireConnectionId) for each in queue) >= MAX_RETIRED:
            what = "more connection ids retired than this peer takes"
            raise Violation(what, "RFC 9000 section 5.1.2", ErrorCode.CONNECTION_ID_LIMIT_ERROR)
        self.queue(RetireConnectionId(sequence))

    def _on_retire(self, frame: RetireConnectionId, header: Header) -> None:
        section = "RFC 9000 section 19.16"
        if frame.sequence >= self.next_local_id:
            what = f"RETIRE_CONNECTION_ID {frame.sequence}, which was never given"
            raise Violation(what, section, _VIOLATION, frame.type)
        retired = self.local_ids.get(frame.sequence)
        if retired is None:
            return
        if retired == header.destination:
            what = "RETIRE_CONNECTION_ID of the packet's own destination"
            raise Violation(what, section, _VIOLATION, frame.type)
        del self.local_ids[frame.sequence]
        self.local_tokens.pop(frame.sequence, None)
        queue = self.spaces[Space.APPLICATION].queue
        if sum(isinstance(each, NewConnectionId) for each in queue) < MAX_RESPONSES:
            self.give_id()

    def give_id(self) -> None:
        """Give the other side one more connection id (RFC 9000 section 5.1.1)."""
        sequence = self.next_local_id
        self.local_tokens[sequence] = token = self.options.random(16)
        self.queue(NewConnectionId(sequence, 0, self.new_id(), token))

    # The handshake

    def _on_crypto(self, frame: Crypto, level: Level, space: PacketSpace) -> None:
        inbound = space.crypto_in
        end = frame.offset + len(frame.data)
        if end - inbound.start > MAX_CRYPTO:
            what = f"CRYPTO data {end - inbound.start} octets ahead, this peer takes {MAX_CRYPTO}"
            raise Violation(what, "RFC 9000 section 7.5", ErrorCode.CRYPTO_BUFFER_EXCEEDED, frame.type)
        data = inbound.add(frame.offset, frame.data)
        if data:
            events = self.tls.receive_crypto(level, data)
            self._take_parameters()
            for event in events:
                self._on_tls(event)
            self.pump_tls()

    def pump_tls(self) -> None:
        """Take what the handshake made: keys, messages, and an alert."""
        for secret in self.tls.take_secrets():
            keys = PacketKeys(self.version, secret.suite, secret.secret)
            self._install(secret.level, keys, ours=(secret.role == "client") == self.is_client)
        for level, data in self.tls.take_crypto():
            self.spaces[SPACE_OF[level]].crypto_out.write(data)
        if self.handshake is not None and self.held_read is not None:
            self.one_rtt.set_read(self.held_read)
            self.held_read = None
        if self.tls.alert_said is not None and self.options.answer_violations:
            self.begin_close(ConnectionClose(CRYPTO_ERROR + self.tls.alert_said, 0x06, self._alert_reason))

    _alert_reason = b""
    new_token = b""
    """The token of the latest NEW_TOKEN."""

    def _install(self, level: Level, keys: PacketKeys, *, ours: bool) -> None:
        if level == Level.APPLICATION:
            if ours:
                self.one_rtt.write = keys
                self.write_keys.pop(Level.EARLY, None)
            else:
                # Not used before the handshake is complete (RFC 9001 section 5.7).
                self.held_read = keys
        elif ours:
            self.write_keys[level] = keys
        else:
            self.read_keys[level] = keys

    def _take_parameters(self) -> None:
        raw = self.tls.remote_parameters
        if raw is not None and self.remote_parameters is None:
            self.take_remote_parameters(raw)

    def take_remote_parameters(self, raw: bytes) -> None:
        """The other side's transport parameters. Raises `Violation` (RFC 9000 section 7.4)."""
        code = ErrorCode.TRANSPORT_PARAMETER_ERROR
        try:
            parameters = Parameters.decode(raw)
        except DecodeError as error:
            raise Violation(str(error), "RFC 9000 section 18", code) from None
        wrong = parameters.check(from_server=self.is_client)
        if wrong:
            raise Violation(wrong, "RFC 9000 section 18.2", code)
        self.emit(ParametersReceived(parameters))
        self.check_ids(parameters)
        self.remote_parameters = parameters
        self.recovery.peer_max_ack_delay = parameters.max_ack_delay / 1000
        token = parameters.get(ParameterId.STATELESS_RESET_TOKEN)
        if token is not None and 0 in self.remote_ids:
            self.remote_ids[0] = RemoteId(0, self.remote_ids[0].connection_id, token)
        self.table.use_remote(parameters)

    def _on_tls(self, event: TlsEvent) -> None:
        match event:
            case TlsHandshakeDone():
                self.handshake = HandshakeCompleted(
                    self.version,
                    event.alpn,
                    event.suite,
                    event.resumed,
                    event.early_data_accepted,
                    event.peer_certificates,
                    event.peer_verified,
                )
                self.on_tls_done(event)
            case TlsTicketReceived():
                if event.session.max_early_data not in (0, 0xFFFFFFFF):
                    what = f"ticket with max_early_data_size 0x{event.session.max_early_data:x}"
                    raise Violation(what, "RFC 9001 section 4.6.1", _VIOLATION, 0x06)
                self.on_ticket(event.session)
            case TlsViolation():
                alert = self.tls.alert_said
                self._alert_reason = event.what.encode()[:256]
                violation = Violation(event.what, event.section, CRYPTO_ERROR + (alert or 0), 0x06)
                self.fail(violation)
            case Refused() | Unsupported():
                why = event.why if isinstance(event, Refused) else event.what
                self._alert_reason = why.encode()[:256]
            case _:
                pass
