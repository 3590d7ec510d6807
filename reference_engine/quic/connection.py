"""Our subclasses of aioquic: the only module that touches its private names.

Sans-I/O. What is added to the stock connection, and why:

* A server holds the ClientHello (`HelloSeen`) until `answer` or `refuse`: certificate, ALPN and client certificates are
  chosen for this connection, also where another party must be asked first. Meanwhile the Initials are acknowledged.
* Credit follows consumption. Stock aioquic doubles every window as soon as half of it has arrived, whatever the
  application has taken; here MAX_DATA and MAX_STREAM_DATA move with `consume`, MAX_STREAMS with `release_stream`.
* A DATAGRAM that does not fit is dropped and counted: stock aioquic would keep it, and everything behind it, for ever.
* Packets of DATAGRAM frames take turns with packets of streams: stock aioquic sends no stream before the last datagram
  has left, so whoever sends datagrams without end would silence the rest of the connection.
* Packets are paced by `pacing.Pacer`, which knows that timers are late.
* Why a connection is over is told apart (`QuicEnd`): by the peer, by us, by silence, by a stateless reset.

`PRIVATE` names what is touched; `tests/test_engine_quic_pins.py` fails when an upgrade moves any of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
    stream_is_client_initiated,
    stream_is_unidirectional,
)
from aioquic.quic.packet import (
    QuicFrameType,
    QuicHeader,
    pull_quic_header,
    pull_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream as StreamState
from cryptography.hazmat.primitives.serialization import Encoding

from reference_engine.edge.client_hello import ClientHello, HelloError, parse_client_hello
from reference_engine.quic.pacing import Pacer
from reference_engine.tls.endpoint import ServerCertificate

AIOQUIC = "1.7.2"
"""The version that this module was written against."""

PRIVATE: dict[str, tuple[str, ...]] = {
    "connection": (
        # The ClientHello is held and answered later.
        *("_initialize", "_crypto_buffers", "_crypto_packet_version", "_push_crypto_data", "_events", "tls"),
        # Credit.
        *("_local_max_data", "_local_max_streams_bidi", "_local_max_streams_uni", "_streams", "_write_stream_limits"),
        *("_local_next_stream_id_bidi", "_local_next_stream_id_uni", "_remote_max_streams_bidi"),
        *("_remote_max_streams_uni", "_local_max_stream_data_bidi_local", "_local_max_stream_data_bidi_remote"),
        *("_local_max_stream_data_uni", "_serialize_transport_parameters", "_parse_transport_parameters"),
        # DATAGRAM frames.
        *("_datagrams_pending", "_write_datagram_frame", "_remote_max_datagram_frame_size", "_max_datagram_size"),
        *("_peer_cid", "_peer_cid_available", "_streams_queue", "_remote_max_data", "_remote_max_data_used"),
        # Ends.
        *("_close_event", "_close_begin", "_state", "_handshake_complete", "_handshake_confirmed", "_host_cids"),
        *("_is_client", "_version", "_idle_timeout", "_payload_received"),
        *("_remote_max_idle_timeout", "_remote_ack_delay_exponent"),
        # Pacing.
        "_loss",
    ),
    "recovery": ("_pacer",),
    "pacer": ("packet_time", "bucket_max", "bucket_time"),
    "tls": (
        "_client_handle_certificate_verify",
        *("_alpn_protocols", "_request_client_certificate", "_max_early_data", "get_session_ticket_cb"),
        *("_peer_certificate", "_peer_certificate_chain", "certificate", "certificate_chain"),
        *(
            "certificate_private_key",
            "handshake_extensions",
            "handle_message",
            "alpn_negotiated",
            "early_data_accepted",
        ),
    ),
    "limit": ("frame_type", "name", "value", "sent", "used"),
    "stream": (
        *("max_stream_data_local", "max_stream_data_local_sent", "max_stream_data_remote", "receiver", "sender"),
        "is_blocked",
    ),
    "receiver": ("highest_offset", "is_finished", "stop_pending"),
    "sender": (
        *("_buffer_start", "_buffer_stop", "_reset_error_code", "is_finished", "_pending_eof", "buffer_is_empty"),
        *("highest_offset", "next_offset", "reset_pending"),
    ),
}
"""What is touched beyond the documented API, by the object that has it."""

CID_LENGTH = 8
"""Octets of our own connection ids: what the listener cuts out of a short header (RFC 9000 section 5.1)."""
SMALLEST_DATAGRAM = 1_200
"""Octets of a datagram that starts a connection, and of every packet that we send (RFC 9000 section 14)."""
CRYPTO_ERROR = 0x100
"""Added to a TLS alert, this is the error code of a CONNECTION_CLOSE (RFC 9001 section 4.8)."""
MOST_REASON = 900
MOST_EARLY_REASON = 200
"""Octets of a reason that fit in a packet; before the handshake is confirmed up to three packets share a datagram."""
RESET_TOKEN = 16
SMALLEST_RESET = 21
"""Octets of the shortest stateless reset (RFC 9000 section 10.3)."""

# It reports every fault of a peer as a warning of ours, and formats a line per stream.
logging.getLogger("quic").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Windows:
    """What a peer may send before something was consumed or closed: octets of a stream and of the connection, open
    streams of each kind, and the DATAGRAM frames that wait for a packet."""

    stream: int = 262_144
    connection: int = 4_194_304
    streams_bidi: int = 128
    streams_uni: int = 128
    datagrams: int = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """How a server answers a ClientHello. `alpns` in order of preference; `early_data`: whether 0-RTT may be accepted;
    `windows` and `packet` (octets of the longest packet that is sent) replace what the connection was made with."""

    certificate: ServerCertificate
    alpns: tuple[str, ...]
    request_certificate: bool = False
    early_data: bool = False
    windows: Windows | None = None
    packet: int = SMALLEST_DATAGRAM


@dataclass(frozen=True, slots=True)
class QuicEnd:
    """Why a connection is over. `by` is `peer`, `self`, `idle` or `reset` (a stateless one); `application` says of whom
    the error code is, and `frame_type` belongs to the codes of the transport (RFC 9000 section 19.19)."""

    by: str
    application: bool
    code: int
    reason: str = ""
    frame_type: int | None = None


@dataclass
class HelloSeen(events.QuicEvent):
    """A server has the whole ClientHello, and waits for `answer` or `refuse`."""

    hello: ClientHello


@dataclass
class StreamGone(events.QuicEvent):
    """Both directions of a stream are over and acknowledged: nothing will ever come of it any more."""

    stream_id: int


class Granted(Limit):
    """A limit that follows `grant` alone: aioquic raises its own by what has arrived, and that is passed over."""

    def __init__(self, frame_type: int, name: str, value: int) -> None:
        self._granted = value
        super().__init__(frame_type, name, value)

    @property
    def value(self) -> int:
        """What the peer may use."""
        return self._granted

    @value.setter
    def value(self, value: int) -> None:
        del value

    def grant(self, value: int) -> None:
        """Raise the limit to `value`; it never falls (RFC 9000 section 4.1)."""
        self._granted = max(self._granted, value)


class StreamTable(dict[int, StreamState]):
    """aioquic's table of streams, which tells when it forgets one."""

    def __init__(self, gone: Callable[[int], None]) -> None:
        super().__init__()
        self._gone = gone

    def pop(self, stream_id: int, *default: Any) -> Any:
        """As in a dict."""
        stream = super().pop(stream_id, *default)
        self._gone(stream_id)
        return stream


class HelloContext(tls.Context):
    """The TLS of a server connection, which keeps the ClientHello until it is answered."""

    def hold(self, most: int, whole: Callable[[bytes], None]) -> None:
        """Keep what comes, up to `most` octets, and call `whole` with the body of the ClientHello."""
        self._kept = bytearray()
        self._most = most
        self._whole: Callable[[bytes], None] | None = whole
        self._held = True

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Buffer]) -> None:
        """Keep, or go on as stock."""
        if not self._held:
            super().handle_message(input_data, output_buf)
            return
        self._kept += input_data
        if len(self._kept) > self._most:
            raise tls.AlertIllegalParameter(f"ClientHello of more than {self._most} octets")
        if self._kept and self._kept[0] != tls.HandshakeType.CLIENT_HELLO:
            raise tls.AlertUnexpectedMessage("the first message is not a ClientHello")
        length = 4 + int.from_bytes(self._kept[1:4], "big")
        if self._whole is not None and len(self._kept) >= max(length, 4):
            whole, self._whole = self._whole, None
            whole(bytes(self._kept[4:length]))

    def go_on(self, choice: Choice, output_buf: dict[tls.Epoch, Buffer]) -> None:
        """Answer what was kept. Raises tls.Alert."""
        self.certificate, *rest = choice.certificate.chain
        self.certificate_chain = rest
        self.certificate_private_key = cast("Any", choice.certificate.key)
        self._alpn_protocols = list(choice.alpns)
        self._request_client_certificate = choice.request_certificate
        kept, self._kept, self._held = bytes(self._kept), bytearray(), False
        if not choice.early_data:
            self._max_early_data = None
            if self.get_session_ticket_cb is not None and tls.pull_client_hello(Buffer(data=kept)).early_data:
                # aioquic takes early data with whatever session it resumes.
                self.get_session_ticket_cb = None
        self.handle_message(kept, output_buf)


class JudgingContext(tls.Context):
    """The TLS of a client connection, in which we judge the server's certificates: stock aioquic knows one way only."""

    def judge_with(self, judge: Callable[[Sequence[bytes]], str | None]) -> None:
        """Have `judge` say why a chain (DER, leaf first) is refused, or None."""
        self._judge = judge

    def _client_handle_certificate_verify(self, input_buf: Buffer) -> None:
        super()._client_handle_certificate_verify(input_buf)
        problem = self._judge(_chain(self))
        if problem is not None:
            raise tls.AlertBadCertificate(problem)


def _chain(context: tls.Context) -> tuple[bytes, ...]:
    own = context._peer_certificate
    every = [] if own is None else [own, *context._peer_certificate_chain]
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in every)


class EngineQuic(QuicConnection):
    """A connection as the engine needs it; see the module. `read_hello` parses the body of a ClientHello of at most
    `most_hello` octets and raises HelloError; `judge` says why a server's chain (DER, leaf first) is refused, or None:
    only the proof of its key is checked without it. `dropped` counts DATAGRAM frames that could not be sent,
    `eliciting` the packets that said more than an acknowledgement (RFC 9000 section 13.2)."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        windows: Windows | None = None,
        most_hello: int = 65_536,
        read_hello: Callable[[bytes], ClientHello] = parse_client_hello,
        judge: Callable[[Sequence[bytes]], str | None] = lambda chain: None,
        **options: Any,
    ) -> None:
        super().__init__(configuration=configuration, **options)
        self.windows = windows if windows is not None else Windows()
        self.dropped = 0
        self.eliciting = 0
        self._most_hello = most_hello
        self._read_hello = read_hello
        self._judge = judge
        self._hello_version: int | None = None
        self._end: QuicEnd | None = None
        self._stateless_reset = False
        self._datagrams_in: int | None = None
        """The packet that the last DATAGRAM frames are in; None where the next ones may go into any."""
        self._consumed = 0
        self._read: dict[int, int] = {}
        self._loss._pacer = Pacer(max_datagram_size=configuration.max_datagram_size)
        self._open_windows(self.windows)
        self._streams = StreamTable(lambda stream_id: self._events.append(StreamGone(stream_id)))

    def _open_windows(self, windows: Windows) -> None:
        self.windows = windows
        self._local_max_data = Granted(QuicFrameType.MAX_DATA, "max_data", windows.connection)
        self._local_max_streams_bidi = Granted(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", windows.streams_bidi)
        self._local_max_streams_uni = Granted(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", windows.streams_uni)
        self._local_max_stream_data_bidi_local = windows.stream
        self._local_max_stream_data_bidi_remote = windows.stream
        self._local_max_stream_data_uni = windows.stream

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether a genuine packet of the peer has come at all."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def handshake_complete(self) -> bool:
        """Whether the TLS handshake is complete (RFC 9001 section 4.1.1)."""
        return self._handshake_complete

    @property
    def alpn(self) -> str | None:
        """The negotiated application protocol."""
        return self.tls.alpn_negotiated

    @property
    def version(self) -> int:
        """The QUIC version in use."""
        return self._version or 0

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        """The peer's certificates in DER, its own first; none where it showed none."""
        return _chain(self.tls)

    @property
    def idle_timeout(self) -> float:
        """Seconds without a packet of the peer after which the connection is over (RFC 9000 section 10.1)."""
        return self._idle_timeout()

    @property
    def own_cids(self) -> tuple[bytes, ...]:
        """The connection ids under which the peer may reach us now."""
        return tuple(one.cid for one in self._host_cids)

    @property
    def end(self) -> QuicEnd | None:
        """Why the connection is over, as soon as that is known; None while it lives."""
        if self._end is None and self._close_event is not None:
            event = self._close_event
            if self._stateless_reset:
                by = "reset"
            elif self._state is QuicConnectionState.DRAINING:
                by = "peer"
            else:
                by = "idle" if self._state is QuicConnectionState.TERMINATED else "self"
            self._end = QuicEnd(by, event.frame_type is None, event.error_code, event.reason_phrase, event.frame_type)
        return self._end

    @property
    def terminated(self) -> bool:
        """Whether the closing or draining period is over too (RFC 9000 section 10.2)."""
        return self._state is QuicConnectionState.TERMINATED

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        """As stock, with a reason that fits: what is longer would be an exception while writing."""
        most = MOST_REASON if self._handshake_confirmed else MOST_EARLY_REASON
        reason = reason_phrase.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
        super().close(error_code, frame_type, reason)

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """As stock, and a stateless reset ends the connection at once (RFC 9000 section 10.3.1)."""
        if len(data) >= SMALLEST_RESET and not data[0] & 0x80 and self._close_event is None:
            token = data[-RESET_TOKEN:]
            if any(one.stateless_reset_token == token for one in (self._peer_cid, *self._peer_cid_available)):
                self._stateless_reset = True
                self._close_event = events.ConnectionTerminated(0, int(QuicFrameType.PADDING), "stateless reset")
                self._close_begin(is_initiator=False, now=now)
                return
        super().receive_datagram(data, addr, now)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        eliciting, probing = super()._payload_received(context, plain, crypto_frame_required)
        self.eliciting += eliciting
        return eliciting, probing

    # -- the held ClientHello --------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._is_client:
            self.tls.__class__ = JudgingContext
            cast("JudgingContext", self.tls).judge_with(self._judge)
        else:
            self.tls.__class__ = HelloContext
            cast("HelloContext", self.tls).hold(self._most_hello, self._hello_whole)

    def _hello_whole(self, body: bytes) -> None:
        self._hello_version = self._crypto_packet_version
        try:
            hello = self._read_hello(body)
        except HelloError as problem:
            alert = tls.AlertDecodeError(problem.reason)
            if problem.alert is not None:
                alert.description = tls.AlertDescription(problem.alert)
            raise alert from None
        self._events.append(HelloSeen(hello))

    def answer(self, choice: Choice) -> None:
        """Go on with the handshake. What the ClientHello does not allow ends the connection with its alert."""
        if self._close_event is not None:
            return
        self._crypto_packet_version = self._hello_version
        self._max_datagram_size = choice.packet
        if choice.windows is not None:
            self._open_windows(choice.windows)
            self.tls.handshake_extensions = [
                (tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, self._serialize_transport_parameters())
            ]
        try:
            cast("HelloContext", self.tls).go_on(choice, self._crypto_buffers)
            self._push_crypto_data()
        except tls.Alert as problem:
            self.close(CRYPTO_ERROR + int(problem.description), int(QuicFrameType.CRYPTO), str(problem))
        except QuicConnectionError as problem:
            self.close(problem.error_code, problem.frame_type, problem.reason_phrase)

    def refuse(self, alert: int, reason: str) -> None:
        """End the connection with a TLS alert (RFC 9001 section 4.8)."""
        self.close(CRYPTO_ERROR + alert, int(QuicFrameType.CRYPTO), reason)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        # What stock aioquic passes over or misreads (RFC 9000 section 18.2).
        told = pull_quic_transport_parameters(Buffer(data=data))
        if told.max_udp_payload_size is not None:
            self._max_datagram_size = min(self._max_datagram_size, told.max_udp_payload_size)
        if told.max_idle_timeout == 0:
            self._remote_max_idle_timeout = None  # No timeout, and not one of no time.
        if told.ack_delay_exponent is not None and not from_session_ticket:
            self._remote_ack_delay_exponent = told.ack_delay_exponent

    # -- credit ----------------------------------------------------------------------------------------------------

    def consume(self, stream_id: int, octets: int, *, more: bool = True) -> bool:
        """The application has taken `octets` of a stream; `more`: it will go on. Whether that raised a limit, which is
        then to be sent."""
        windows = self.windows
        raised = self._consume_connection(octets)
        stream = self._streams.get(stream_id)
        if stream is None:
            return raised
        read = self._read[stream_id] = self._read.get(stream_id, 0) + octets
        wanted = read + windows.stream
        if more and not stream.receiver.is_finished and wanted - stream.max_stream_data_local >= windows.stream // 4:
            stream.max_stream_data_local = wanted
            return True
        return raised

    def settle(self, stream_id: int) -> bool:
        """Nobody takes what is left of a stream, whose receiving part is finished: count it as taken, arrived or not
        (RFC 9000 section 4.5). Whether that raised a limit."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return False
        rest = stream.receiver.highest_offset - self._read.get(stream_id, 0)
        self._read[stream_id] = stream.receiver.highest_offset
        return self._consume_connection(rest)

    def _consume_connection(self, octets: int) -> bool:
        self._consumed += octets
        wanted = self._consumed + self.windows.connection
        limit = cast("Granted", self._local_max_data)
        if wanted - limit.value < self.windows.connection // 4:
            return False
        limit.grant(wanted)
        return True

    def release_stream(self, stream_id: int) -> None:
        """The application is done with a stream that is gone (`StreamGone`): the peer may open another."""
        self._read.pop(stream_id, None)
        if stream_is_client_initiated(stream_id) != self._is_client:
            limit = self._local_max_streams_uni if stream_is_unidirectional(stream_id) else self._local_max_streams_bidi
            cast("Granted", limit).grant(limit.value + 1)

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: StreamState) -> None:
        receiver = stream.receiver
        if receiver.is_finished or stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        # The stock rule doubles the window by what has arrived: it sees nothing here.
        arrived, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = arrived

    # -- sending ---------------------------------------------------------------------------------------------------

    def may_open(self, *, unidirectional: bool) -> bool:
        """Whether the peer's limit allows another stream of ours (RFC 9000 section 4.6)."""
        if unidirectional:
            return self._local_next_stream_id_uni // 4 < self._remote_max_streams_uni
        return self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi

    @property
    def bidirectional_room(self) -> int:
        """Bidirectional streams of ours that the peer's limit allows now (RFC 9000 section 4.6)."""
        return self._remote_max_streams_bidi - self._local_next_stream_id_bidi // 4

    def backlog(self, stream_id: int) -> int:
        """Octets of a stream that wait to be sent or acknowledged."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return stream.sender._buffer_stop - stream.sender._buffer_start

    def may_send(self, stream_id: int) -> bool:
        """Whether our direction of a stream is neither finished nor reset."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sender._reset_error_code is None and not stream.sender.is_finished

    @property
    def datagram_room(self) -> int:
        """Octets of the longest DATAGRAM payload that can be sent now, -1 where none can: by the peer's
        max_datagram_frame_size (RFC 9221 section 3) and by what fits in one packet (section 5)."""
        frame = self._remote_max_datagram_frame_size or 0
        packet = self._max_datagram_size - (1 + len(self._peer_cid.cid) + 2 + 16)
        most = min(frame, packet)
        # Frame type and length stand in front: the length takes one octet up to 63, two up to 16383, then four.
        return most - 2 if most <= 65 else most - 3 if most <= 16_386 else most - 5

    @property
    def datagram_limit(self) -> int | None:
        """The peer's max_datagram_frame_size; None where it takes no DATAGRAM frame (RFC 9221 section 3)."""
        return self._remote_max_datagram_frame_size

    def queue_datagram(self, data: bytes) -> bool:
        """Queue a DATAGRAM frame. False where it was dropped: too long, unwanted by the peer, or the queue is full."""
        if len(data) > self.datagram_room or len(self._datagrams_pending) >= self.windows.datagrams:
            self.dropped += 1
            return False
        self._datagrams_pending.append(data)
        return True

    @property
    def datagrams_queued(self) -> int:
        """DATAGRAM frames that wait for a packet."""
        return len(self._datagrams_pending)

    def _write_datagram_frame(self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType) -> bool:
        if len(data) > self.datagram_room:
            # The peer has changed to a longer connection id since.
            self.dropped += 1
            return True
        if self._datagrams_in not in (None, builder.packet_number) and self._stream_waits():
            self._datagrams_in = None
            raise QuicPacketBuilderStop
        written = super()._write_datagram_frame(builder, data, frame_type)
        self._datagrams_in = builder.packet_number
        return written

    def _stream_waits(self) -> bool:
        """Whether any stream has something that may be sent now."""
        credit = self._remote_max_data - self._remote_max_data_used
        for stream in self._streams_queue:
            sender = stream.sender
            if stream.receiver.stop_pending or sender.reset_pending:
                return True
            if stream.is_blocked or sender.buffer_is_empty:
                continue
            limit = min(sender.highest_offset + credit, stream.max_stream_data_remote)
            if sender.next_offset < min(limit, sender._buffer_stop) or (
                sender._pending_eof and sender.next_offset == sender._buffer_stop
            ):
                return True
        return False


def read_header(datagram: bytes) -> QuicHeader:
    """The header of the first packet in a datagram that has come to us. Raises ValueError."""
    return pull_quic_header(Buffer(data=datagram), host_cid_length=CID_LENGTH)
