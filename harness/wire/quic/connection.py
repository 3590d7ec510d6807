"""One QUIC connection without I/O, as a script drives it; `QuicClient` and `QuicServer` are its two roles."""

from __future__ import annotations

from harness.wire.quic.codec import QuicUsageError
from harness.wire.quic.events import Event, QuicEnd
from harness.wire.quic.frames import ConnectionClose, Datagram, Frame, Raw
from harness.wire.quic.numbers import SPACE_OF, Level, Space
from harness.wire.quic.parameters import Parameters
from harness.wire.quic.receiving import Receiving
from harness.wire.quic.recovery import PacketSpace
from harness.wire.quic.sending import Sending
from harness.wire.tls.messages import Message

MAX_DATAGRAMS = 4096
"""DATAGRAM frames of the script that wait to go out."""


class QuicConnection(Receiving, Sending):
    """Datagrams in and events out; what is due comes from `outgoing`, and `timer` says when to call `expire`.

    `now` is a number of seconds that never goes back. No method raises for what the other side sent. Each method that
    says something queues it: call `outgoing` after it.
    """

    _closing_received = 0

    # Datagrams and time

    def receive(self, datagram: bytes, now: float) -> list[Event]:
        """Take one UDP datagram."""
        self._move(now)
        if not self.over:
            self.octets_received += len(datagram)
            self.sizes_received[len(datagram)] += 1
            self.take_datagram(datagram)
        return self.take_events()

    def outgoing(self, now: float) -> list[bytes]:
        """All datagrams that are due, in order."""
        self._move(now)
        if not self.started:
            self.started = True
            self.last_activity = now
        if self.options.tamper_datagram is None:
            return [*self.take_ready(), *self.build()]
        datagrams: list[bytes] = []
        for datagram in [*self.take_ready(), *self.build()]:
            datagrams += self._tampered(datagram)
        return datagrams

    _index = -1

    def _tampered(self, datagram: bytes) -> list[bytes]:
        assert self.options.tamper_datagram is not None
        self._index += 1
        changed = self.options.tamper_datagram(self._index, datagram)
        if changed is None:
            return []
        return [changed] if isinstance(changed, bytes) else list(changed)

    def take_ready(self) -> list[bytes]:
        """Datagrams that are whole already: Retry, Version Negotiation."""
        return []

    def _move(self, now: float) -> None:
        self.now = max(self.now, now)

    def timer(self) -> float | None:
        """When `expire` is to be called; None where nothing waits for time."""
        if self.over or not self.started:
            return None
        if self.close_until is not None:
            return self.close_until
        due = [when for when in (self._idle_at(), self._loss_at(), self._probe_at()) if when is not None]
        return min(due, default=None)

    def expire(self, now: float) -> list[Event]:
        """Take note of the time: losses, probes, the idle timeout, the end of the closing period."""
        self._move(now)
        if self.over or not self.started:
            return self.take_events()
        if self.close_until is not None:
            self.over = self.now >= self.close_until
            return self.take_events()
        idle = self._idle_at()
        if idle is not None and self.now >= idle:
            self._end_idle("idle timeout")
            return self.take_events()
        lost = self._loss_at()
        probe = self._probe_at()
        if lost is not None and self.now >= lost:
            for space in self.spaces.values():
                if space.loss_time is not None and self.now >= space.loss_time:
                    self.packets_lost(space, self.recovery.find_lost(space, self.now))
        elif probe is not None and self.now >= probe:
            self._probe()
        return self.take_events()

    def _end_idle(self, why: str) -> None:
        self.finish(QuicEnd("idle", reason=why))
        self.over = True

    def _idle_at(self) -> float | None:
        mine = self.options.idle_timeout
        theirs = self.remote_parameters.max_idle_timeout / 1000 if self.remote_parameters is not None else 0
        agreed = min((each for each in (mine, theirs) if each), default=0)
        if not agreed:
            return None
        return self.last_activity + max(agreed, 3 * self.recovery.pto(application=True))

    def _loss_at(self) -> float | None:
        found = self.recovery.loss_timer(self.spaces.values())
        return None if found is None else found[0]

    def _probed_spaces(self) -> list[tuple[float, PacketSpace]]:
        found = []
        if not self.validated and self.amplification_room() < 100:
            return []  # Nothing could go out (RFC 9002 section 6.2.2.1).
        for space in self.spaces.values():
            application = space.space == Space.APPLICATION
            if space.discarded or not space.elicits or (application and self.handshake is None):
                continue
            period = self.recovery.backoff(self.recovery.pto(application=application))
            found.append((space.last_elicited + period, space))
        if not found and self.is_client and not self.peer_completed:
            # The server may be waiting for octets of ours before it may say more.
            early = Level.HANDSHAKE if self.write_keys.get(Level.HANDSHAKE) else Level.INITIAL
            if early in self.write_keys:
                period = self.recovery.backoff(self.recovery.pto(application=False))
                space = self.spaces[SPACE_OF[early]]
                found.append((max(self.last_sent, space.last_elicited) + period, space))
        return found

    @property
    def peer_completed(self) -> bool:
        """Whether a server surely has validated our address."""
        return self.confirmed or self.spaces[Space.HANDSHAKE].largest_acked >= 0

    def _probe_at(self) -> float | None:
        return min((when for when, _ in self._probed_spaces()), default=None)

    def _probe(self) -> None:
        """Probe timeout: say the oldest things again, whatever the window says, and in all spaces that wait: their
        packets share a datagram (RFC 9002 section 6.2.4)."""
        # Before the count goes up, which doubles the period that they wait for.
        due = self._probed_spaces()
        self.recovery.pto_count += 1
        if self.recovery.pto_count > self.options.pto_limit:
            self._end_idle(f"no acknowledgment after {self.options.pto_limit} probes")
            return
        for _, space in due:
            oldest = [packet for packet in space.sent.values() if packet.elicits][:2]
            self.packets_lost(space, oldest)
            space.probes = 2 if space.space == Space.APPLICATION else 1
            space.last_elicited = self.now

    # Streams

    def open_stream(self, *, bidirectional: bool = True) -> int:
        """The id of a new stream of ours. Raises `StreamLimitReached`."""
        return self.table.open(bidirectional=bidirectional)

    def streams_available(self, *, bidirectional: bool = True) -> int:
        """How many more streams the other side lets us open."""
        return self.table.available(bidirectional=bidirectional)

    def send_stream(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """Octets and, with `fin`, the end. Raises `QuicUsageError` where we have no such half, or it is over."""
        self.table.send(stream_id, data, fin=fin)

    def unsent(self, stream_id: int) -> int:
        """Octets of the stream that did not go out yet, for want of credit or window."""
        stream = self.table.streams.get(stream_id)
        return stream.send.unsent if stream is not None and stream.send is not None else 0

    def acknowledged(self, stream_id: int) -> int:
        """Octets of the stream that the other side has acknowledged, from the start; 0 for a stream that is over."""
        stream = self.table.streams.get(stream_id)
        return stream.send.acknowledged if stream is not None and stream.send is not None else 0

    def send_limit(self, stream_id: int) -> int:
        """The offset up to which the other side lets us send on the stream now; 0 for a stream that is over."""
        stream = self.table.streams.get(stream_id)
        return stream.send_limit if stream is not None else 0

    def reset_stream(self, stream_id: int, code: int) -> None:
        """RESET_STREAM. Raises `QuicUsageError` where we have no such half."""
        self.table.reset(stream_id, code)

    def stop_sending(self, stream_id: int, code: int) -> None:
        """STOP_SENDING. Raises `QuicUsageError` where the other side has no such half."""
        self.table.stop(stream_id, code)

    def consume(self, stream_id: int, count: int) -> None:
        """Give credit for `count` octets that were used (`automatic_credit=False`)."""
        self.table.consume(stream_id, count)

    # Datagrams

    @property
    def announced(self) -> Parameters | None:
        """The other side's parameters as far as they are known."""
        return self.remote_parameters

    @property
    def max_datagram(self) -> int:
        """Octets of the longest datagram that the other side takes and a packet of ours holds; -1 for none at all."""
        remote = self.announced
        if remote is None or not remote.max_datagram_frame_size:
            return -1
        size = min(self.options.datagram_size, remote.max_udp_payload_size)
        # Short header, packet number of 4 octets, tag; type and length of the frame.
        room = size - 1 - len(self.remote_id) - 4 - 16
        limit = min(room, remote.max_datagram_frame_size)
        return limit - 2 if limit < 66 else limit - 3 if limit < (1 << 14) + 3 else limit - 5

    def send_datagram(self, data: bytes) -> None:
        """A DATAGRAM frame. Raises `QuicUsageError` where it would break the limit, or fits no packet."""
        if len(data) > self.max_datagram:
            raise QuicUsageError(
                f"datagram of {len(data)} octets, at most {self.max_datagram} can go out; use say to break that rule"
            )
        if len(self.datagrams) >= MAX_DATAGRAMS:
            raise QuicUsageError(f"{MAX_DATAGRAMS} datagrams are waiting")
        self.datagrams.append(Datagram(data))

    # Everything else

    def close(self, code: int = 0, reason: str | bytes = b"", *, application: bool = True, frame_type: int = 0) -> None:
        """CONNECTION_CLOSE; does nothing where the connection ended already."""
        octets = reason.encode() if isinstance(reason, str) else reason
        self.begin_close(ConnectionClose(code, 0 if application else frame_type, octets, application))

    def close_repeat(self) -> None:
        """Answer in the closing period, less and less often (RFC 9000 section 10.2.1)."""
        self._closing_received += 1
        count = self._closing_received
        if count & (count - 1) == 0:
            self.close_due = True

    def ping(self) -> int:
        """PING at the highest level; `PingAcknowledged` with the number given here follows."""
        self._ping += 1
        self.spaces[SPACE_OF[self.level]].pings.append(self._ping)
        return self._ping

    @property
    def level(self) -> Level:
        """The highest level that we have keys for."""
        found = [level for level in Level if self.keys_of(level) is not None]
        if not found:
            raise QuicUsageError("there are no keys yet, or none any more")
        return found[-1]

    def update_keys(self, *, force: bool = False) -> None:
        """Change our 1-RTT keys; the other side is to follow. Raises `QuicUsageError` where it is too early
        (RFC 9001 section 6.1) unless `force`."""
        keys = self.one_rtt
        if not force and (not self.confirmed or keys.write_generation > keys.read_generation):
            raise QuicUsageError("key update before the handshake is confirmed, or before the last one was answered")
        keys.update_write()

    def say(self, *frames: Frame, level: Level | None = None) -> None:
        """Any frames in the next packet of `level` (the highest by default), as they stand, legal or not.

        What was lost of them is said again. Raises `QuicUsageError` without keys of that level.
        """
        level = self.level if level is None else level
        if self.keys_of(level) is None:
            raise QuicUsageError(f"no keys of level {level.name.lower()}")
        self.spaces[SPACE_OF[level]].said.extend(frames)

    def say_handshake(self, message: bytes | Message) -> None:
        """A handshake message at any time, whole or broken, in CRYPTO frames of the current level."""
        self.tls.send_handshake(message)
        self.pump_tls()

    def say_raw(self, payload: bytes, level: Level | None = None) -> None:
        """Octets in the place of frames."""
        self.say(Raw(payload), level=level)

    def change_connection_id(self) -> bytes:
        """Use the next connection id that the other side gave us, and retire the one in use.

        Raises `QuicUsageError` where there is none.
        """
        spare = sorted(sequence for sequence in self.remote_ids if sequence != self.remote_sequence)
        if not spare:
            raise QuicUsageError("the other side gave us no other connection id")
        old, self.remote_sequence = self.remote_sequence, spare[0]
        del self.remote_ids[old]
        self._retire(old)
        return self.remote_id

    def give_connection_ids(self, count: int) -> None:
        """NEW_CONNECTION_ID frames, as many as asked for, whatever the other side's limit."""
        for _ in range(count):
            self.give_id()

    def give_usual_ids(self) -> None:
        """As many connection ids as the options say and the other side keeps."""
        if self.options.id_length == 0 or self.remote_parameters is None:
            return
        limit = self.remote_parameters.active_connection_id_limit
        for _ in range(min(self.options.issue_ids, limit - len(self.local_ids))):
            self.give_id()
