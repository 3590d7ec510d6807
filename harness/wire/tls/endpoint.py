"""What client and server share: records in, events out, and the ways of saying something."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from harness.wire.tls.codec import DecodeError, TlsUsageError, uint
from harness.wire.tls.crypto import load_chain, verify_chain
from harness.wire.tls.events import (
    Alert,
    ChangeCipherSpec,
    CloseNotify,
    Data,
    Event,
    HandshakeMessage,
    KeyUpdateReceived,
    ProtocolViolation,
    Stop,
    Truncated,
    Violation,
)
from harness.wire.tls.messages import KeyUpdate, Message, decode_message
from harness.wire.tls.numbers import (
    FATAL,
    MAX_HANDSHAKE,
    MAX_PLAINTEXT,
    MAX_PROTECTED_13,
    TLS12,
    TLS13,
    WARNING,
    AlertDescription,
    ContentType,
    Suite,
    alert_name,
    content_name,
)
from harness.wire.tls.options import TlsOptions
from harness.wire.tls.records import Aead12, Aead13, Plain, Record, RecordReader, RecordWriter, Undecryptable
from harness.wire.tls.schedule import derive_secret, digest, expand_label, next_traffic_secret, prf

RECORD_LOG = 4096
"""Records that `records` keeps, the latest ones."""
SAID_LOG = 256
MAX_KEY_UPDATES = 1024
Handler = Callable[[Message, bytes], None]


@dataclass(frozen=True, slots=True)
class RecordSeen:
    """One received record: types, header version, octets on the wire and of plaintext."""

    type: int
    outer_type: int
    version: int
    wire_length: int
    length: int


@dataclass(frozen=True, slots=True)
class Said:
    """One step of ours other than application data: its name, what is special about it, the message if any."""

    what: str
    detail: str = ""
    message: Message | None = None


def alert_text(level: int, description: int) -> str:
    """`fatal 40 handshake_failure`."""
    named = {WARNING: "warning", FATAL: "fatal"}.get(level, f"level {level}")
    return f"{named} {description} {alert_name(description)}"


class Endpoint:
    """One side of a connection, without I/O.

    `receive` and `receive_eof` take what the other side sent and give events; they never raise for its octets. What we
    have to say is collected, and each method that says something returns all that is due (as does `outgoing`).
    """

    role = ""

    def __init__(self, options: TlsOptions) -> None:
        self.options = options
        self.version: int | None = None
        self.suite: Suite | None = None
        self.group: int | None = None
        self.alpn: str | None = None
        self.resumed = False
        self.established = False
        self.write_closed = False
        """We sent close_notify or a fatal alert."""
        self.peer_closed = False
        """The other side sent close_notify or a fatal alert, or its transport ended."""
        self.violation: ProtocolViolation | None = None
        self.client_random = b""
        self.server_random = b""
        self.client_verify_data = b""
        self.server_verify_data = b""
        self.peer_certificates: tuple[x509.Certificate, ...] = ()
        self.peer_verified: str | None = None
        self.key_log: list[str] = []
        """Lines of the NSS key log format, so that a capture can be read."""
        self.records: deque[RecordSeen] = deque(maxlen=RECORD_LOG)
        self.record_size = options.record_size
        self.record_version = TLS12
        self.exporter_secret = b""
        self._reader = RecordReader()
        self._writer = RecordWriter()
        self._out: list[bytes] = []
        self._flight = bytearray()
        self._events: list[Event] = []
        self._said: deque[Said] = deque(maxlen=SAID_LOG)
        self._fragment = bytearray()
        self._transcript = bytearray()
        self._expected: dict[int, Handler] = {}
        self._key_updates = 0
        self._ended = False
        self._late_reported = False
        self._peer_end = ("close_notify", "RFC 8446 section 6.1")
        self._write_secret = b""
        self._read_secret = b""
        self._pending_read: Aead12 | None = None
        self._ccs_expected: dict[int, Handler] = {}
        """TLS 1.2: what may come behind the other side's change_cipher_spec; empty while that must not come."""

    # Taking

    def receive(self, data: bytes) -> list[Event]:
        """Take octets of the other side, in any pieces."""
        self._reader.feed(data)
        events = self._guarded(self._next_records)
        if self._ended:
            self._reader.drop()
        return events

    def _next_records(self) -> None:
        while not self._ended:
            found = self._reader.next()
            if found is None:
                break
            self._on_wire(*found)

    def _guarded(self, step: Callable[[], None]) -> list[Event]:
        """Take one step of the other side's: what it breaks becomes an event, and our answer is queued."""
        try:
            step()
        except Violation as violation:
            self._fail(violation)
        except Stop as stop:
            self._stop(stop)
        self._flush()
        events, self._events = self._events, []
        return events

    def receive_eof(self) -> list[Event]:
        """The transport ended. Gives `Truncated` unless close_notify or a fatal alert came first."""
        if self.peer_closed:
            return []
        self.peer_closed = self._ended = True
        return [Truncated(self.established)]

    @property
    def unread(self) -> bytes:
        """Octets received that made no whole record."""
        return self._reader.unread

    def _on_wire(self, header: bytes, payload: bytes) -> None:
        record = self._deprotect(header, payload)
        if record is None:
            return
        self.records.append(
            RecordSeen(record.type, record.outer_type, record.version, record.wire_length, len(record.payload))
        )
        if self.peer_closed:
            self._late(record)
            return
        if self._fragment and record.type != ContentType.HANDSHAKE and self.version == TLS13:
            what = f"{content_name(record.type)} record inside a handshake message"
            raise Violation(what, "RFC 8446 section 5.1", AlertDescription.UNEXPECTED_MESSAGE)
        match record.type:
            case ContentType.HANDSHAKE:
                self._on_handshake(record.payload)
            case ContentType.ALERT:
                self._on_alert(record.payload)
            case ContentType.CHANGE_CIPHER_SPEC:
                self._on_change_cipher_spec(record)
            case ContentType.APPLICATION_DATA:
                self._on_application_data(record.payload)
            case _:
                what = f"record of inner type {record.type}"
                raise Violation(what, "RFC 8446 section 5", AlertDescription.UNEXPECTED_MESSAGE)

    def _deprotect(self, header: bytes, payload: bytes) -> Record | None:
        reader = self._reader
        if isinstance(reader.protection, Aead13):
            if header[0] == ContentType.CHANGE_CIPHER_SPEC and not self.established:
                return reader.take_plain(header, payload)
            # The other side may give up before it has keys: RFC 8446 section 6 leaves its alert in the clear.
            if header[0] == ContentType.ALERT and not reader.proven and len(payload) == 2:
                return reader.take_plain(header, payload)
        try:
            return reader.open(header, payload)
        except Undecryptable:
            if self._may_skip(payload):
                return None
            raise

    def _may_skip(self, payload: bytes) -> bool:
        """Whether an undecryptable record is rejected early data."""
        return False

    def _late(self, record: Record) -> None:
        # Ignored as RFC 8446 section 6.1 asks, but worth knowing once.
        if not self._late_reported:
            self._late_reported = True
            end, section = self._peer_end
            what = f"{content_name(record.type)} record of {len(record.payload)} octets after {end}"
            self._events.append(ProtocolViolation(what, section, None, fatal=False))

    def _on_handshake(self, payload: bytes) -> None:
        if not payload:
            raise Violation("empty handshake record", "RFC 8446 section 5.1", AlertDescription.UNEXPECTED_MESSAGE)
        fragment = self._fragment
        fragment += payload
        while len(fragment) >= 4 and not self._ended:
            length = int.from_bytes(fragment[1:4], "big")
            if length > MAX_HANDSHAKE:
                what = f"handshake message of {length} octets, this peer takes {MAX_HANDSHAKE}"
                raise Violation(what, "RFC 8446 section 4", AlertDescription.DECODE_ERROR)
            if len(fragment) < 4 + length:
                return
            raw = bytes(fragment[: 4 + length])
            del fragment[: 4 + length]
            self._on_message(raw)

    def _on_message(self, raw: bytes) -> None:
        try:
            message = decode_message(raw[0], raw[4:], tls13=self.version == TLS13)
        except DecodeError as error:
            raise Violation(str(error), "RFC 8446 section 6.2", AlertDescription.DECODE_ERROR) from None
        self._events.append(HandshakeMessage(message.name, message, raw))
        handler = self._expected.get(raw[0])
        try:
            if handler is not None:
                handler(message, raw)
            elif self.established:
                self._on_post_handshake(message, raw)
            else:
                self._unexpected(message)
        except DecodeError as error:
            raise Violation(str(error), "RFC 8446 section 6.2", AlertDescription.DECODE_ERROR) from None

    def _unexpected(self, message: Message) -> None:
        section = "RFC 8446 section 4" if self.version == TLS13 else "RFC 5246 section 7.4"
        raise Violation(f"unexpected {message.name}", section, AlertDescription.UNEXPECTED_MESSAGE)

    def _on_post_handshake(self, message: Message, raw: bytes) -> None:
        if self.version == TLS13 and isinstance(message, KeyUpdate):
            self._on_key_update(message)
        else:
            self._unexpected(message)

    def _on_key_update(self, message: KeyUpdate) -> None:
        assert self.suite is not None
        section = "RFC 8446 section 4.6.3"
        if message.request > 1:
            raise Violation(
                f"KeyUpdate with request_update {message.request}", section, AlertDescription.ILLEGAL_PARAMETER
            )
        self._key_updates += 1
        if self._key_updates > MAX_KEY_UPDATES:
            raise Violation("more KeyUpdates than this peer takes", section, AlertDescription.UNEXPECTED_MESSAGE)
        self._read_secret = next_traffic_secret(self.suite.hash, self._read_secret)
        self._read_keys(Aead13(self.suite, self._read_secret))
        self._events.append(KeyUpdateReceived(message.request == 1))
        if message.request == 1 and self.options.answer_key_update and not self.write_closed:
            self._key_update(0)

    def _on_alert(self, payload: bytes) -> None:
        if len(payload) != 2:
            raise Violation(f"alert of {len(payload)} octets", "RFC 8446 section 5.1", AlertDescription.DECODE_ERROR)
        level, description = payload
        if description == AlertDescription.CLOSE_NOTIFY:
            self.peer_closed = True
            self._events.append(CloseNotify(level))
            # TLS 1.2 asks for a close_notify in return (RFC 5246 section 7.2.1); in TLS 1.3 our direction stays open.
            if self.version != TLS13 and self.options.answer_close_notify and not self.write_closed:
                self._say_alert(WARNING, AlertDescription.CLOSE_NOTIFY)
            return
        tls13 = self.version == TLS13
        fatal = level == FATAL or (tls13 and description != AlertDescription.USER_CANCELED)
        self._events.append(Alert(level, description, fatal))
        if fatal:
            self.peer_closed = self.write_closed = True
            self._peer_end = ("a fatal alert", "RFC 8446 section 6.2")

    def _on_change_cipher_spec(self, record: Record) -> None:
        if record.payload != b"\x01":
            what = f"change_cipher_spec of {record.payload[:8].hex() or 'no octets'}"
            raise Violation(what, "RFC 8446 section 5", AlertDescription.UNEXPECTED_MESSAGE)
        if self.version == TLS12:
            self._on_ccs_12()
        elif self.established or not self._transcript:
            raise Violation(
                "change_cipher_spec out of place", "RFC 8446 section 5", AlertDescription.UNEXPECTED_MESSAGE
            )
        self._events.append(ChangeCipherSpec())

    def _on_ccs_12(self) -> None:
        if self._pending_read is None or not self._ccs_expected:
            what = "change_cipher_spec out of place"
            raise Violation(what, "RFC 5246 section 7.1", AlertDescription.UNEXPECTED_MESSAGE)
        self._expected, self._ccs_expected = self._ccs_expected, {}
        self._read_keys(self._pending_read)

    def _on_application_data(self, payload: bytes) -> None:
        if not self.established:
            section = "RFC 8446 section 2" if self.version == TLS13 else "RFC 5246 section 7.3"
            raise Violation("application data before Finished", section, AlertDescription.UNEXPECTED_MESSAGE)
        self._events.append(Data(payload))

    def _read_keys(self, protection: Aead12 | Aead13) -> None:
        if self._fragment:
            what = "handshake message spans a key change"
            raise Violation(what, "RFC 8446 section 5.1", AlertDescription.UNEXPECTED_MESSAGE)
        self._reader.change_keys(protection)

    def _fail(self, violation: Violation) -> None:
        # What comes behind close_notify is ignored, broken or not.
        if self.peer_closed:
            self._ended = True
            return
        self._ended = True
        answer = violation.alert if self.options.answer_violations and not self.write_closed else None
        self.violation = ProtocolViolation(violation.what, violation.section, answer)
        self._events.append(self.violation)
        if answer is not None:
            self._say_alert(FATAL, answer)

    def _stop(self, stop: Stop) -> None:
        self._ended = True
        self._events.append(stop.event)
        if not self.write_closed:
            self._say_alert(FATAL, stop.alert)

    # Saying

    def outgoing(self) -> bytes:
        """All that is due; empty when nothing is."""
        self._flush()
        data = b"".join(self._out)
        self._out.clear()
        return data

    def send(self, data: bytes, *, record_size: int | None = None) -> bytes:
        """Application data in records of at most `record_size`. Raises `TlsUsageError` before there are keys for it."""
        if not self._can_send:
            raise TlsUsageError(
                "application data before the handshake is complete; use build_record to break that rule"
            )
        self._say_data(data, record_size)
        return self.outgoing()

    @property
    def _can_send(self) -> bool:
        return self.established

    def _say_data(self, data: bytes, record_size: int | None = None) -> None:
        self._flush()
        size = record_size or min(self.record_size, MAX_PLAINTEXT)
        for at in range(0, len(data), size) if data else (0,):
            self._put(ContentType.APPLICATION_DATA, data[at : at + size])

    def close_notify(self) -> bytes:
        """Announce the end of our direction."""
        if not self.write_closed:
            self._say_alert(WARNING, AlertDescription.CLOSE_NOTIFY)
        return self.outgoing()

    def alert(self, description: int, level: int | None = None) -> bytes:
        """Any alert; fatal unless it is close_notify, user_canceled or no_renegotiation, or `level` says otherwise."""
        mild = (AlertDescription.CLOSE_NOTIFY, AlertDescription.USER_CANCELED, AlertDescription.NO_RENEGOTIATION)
        self._say_alert(level if level is not None else WARNING if description in mild else FATAL, description)
        return self.outgoing()

    def key_update(self, *, request: bool | int = True) -> bytes:
        """Change our sending keys, and ask for the other side's; a `request` above 1 is illegal."""
        if self.version != TLS13 or not self._write_secret:
            raise TlsUsageError("KeyUpdate exists in an established TLS 1.3 connection only")
        self._key_update(int(request))
        return self.outgoing()

    def raw_record(self, content_type: int, payload: bytes, **how: int | bool | None) -> bytes:
        """One record of any type and size under the current keys; `how` as in `RecordWriter.build`."""
        self._flush()
        self._out.append(self.build_record(content_type, payload, **how))
        return self.outgoing()

    def build_record(self, content_type: int, payload: bytes, **how: int | bool | None) -> bytes:
        """The octets of such a record without saying them; it still counts in the sequence (for `insert`)."""
        return self._writer.build(content_type, payload, **how)  # type: ignore[arg-type]

    def send_handshake(self, message: bytes | Message) -> bytes:
        """One handshake message at any time, whole or broken, outside the transcript."""
        raw = message.encode() if isinstance(message, Message) else message
        self.note("handshake message of the script", f"{len(raw)} octets")
        self._queue(raw)
        return self.outgoing()

    def exporter(self, label: str, context: bytes, length: int) -> bytes:
        """Keying material of RFC 8446 section 7.5 or RFC 5705. Raises `TlsUsageError` before Finished."""
        if self.suite is None or not self.exporter_secret:
            raise TlsUsageError("exporter before the handshake is complete")
        if self.version == TLS13:
            return _export_13(self.suite.hash, self.exporter_secret, label, context, length)
        seed = self.client_random + self.server_random + uint(2, len(context)) + context
        return prf(self.suite.hash, self.exporter_secret, label, seed, length)

    def _key_update(self, request: int) -> None:
        assert self.suite is not None
        self._say("key_update", KeyUpdate(request), transcript=False)
        self._flush()
        self._write_secret = next_traffic_secret(self.suite.hash, self._write_secret)
        self._writer.change_keys(Aead13(self.suite, self._write_secret))

    def _say(self, step: str, message: Message, *, transcript: bool = True) -> Message:
        change = self.options.modify.get(step)
        said: Message = change(message) if change else message
        legal = said.encode()
        raw = self._tampered(step, legal)
        self._insert(step)
        if transcript:
            self._transcript += raw
        if raw:
            self._queue(raw)
        self.note(said.name, "" if raw == legal else "tampered" if raw else "skipped", said)
        return said

    def note(self, what: str, detail: str = "", message: Message | None = None) -> None:
        """Remember a step of ours for `take_said`."""
        self._said.append(Said(what, detail, message))

    def take_said(self) -> list[Said]:
        """The steps of ours since the last call, at most `SAID_LOG`."""
        said = list(self._said)
        self._said.clear()
        return said

    def _tampered(self, step: str, raw: bytes) -> bytes:
        options = self.options
        wrong = (options.wrong_finished and step.endswith("finished")) or (
            options.wrong_certificate_verify and step in ("certificate_verify", "server_key_exchange")
        )
        if wrong:
            raw = raw[:-1] + bytes((raw[-1] ^ 1,))
        if step not in options.tamper:
            return raw
        change = options.tamper[step]
        return b"" if change is None else change(raw)

    def _insert(self, step: str) -> None:
        if step in self.options.insert:
            self._flush()
            self._out.append(self.options.insert[step](self))

    def _say_ccs(self) -> None:
        payload = self._tampered("change_cipher_spec", b"\x01")
        self._insert("change_cipher_spec")
        self._flush()
        self.note("change_cipher_spec", "" if payload == b"\x01" else "tampered" if payload else "skipped")
        if payload:
            self._out.append(self._writer.build(ContentType.CHANGE_CIPHER_SPEC, payload, encrypted=False))

    def _queue(self, raw: bytes) -> None:
        self._flight += raw
        if not self.options.coalesce:
            self._flush()

    def _flush(self) -> None:
        """Put what is queued of the handshake into records: always before keys change."""
        size = min(self.record_size, MAX_PLAINTEXT)
        for at in range(0, len(self._flight), size):
            self._put(ContentType.HANDSHAKE, bytes(self._flight[at : at + size]))
        self._flight.clear()

    def _put(self, content_type: int, payload: bytes) -> None:
        plain = isinstance(self._writer.protection, Plain)
        version = self.record_version if plain else TLS12
        padding = min(self.options.padding, max(0, MAX_PROTECTED_13 - 17 - len(payload)), MAX_PLAINTEXT - len(payload))
        self._out.append(self._writer.build(content_type, payload, version=version, padding=max(0, padding)))

    def _say_alert(self, level: int, description: int) -> None:
        self._flush()
        if description == AlertDescription.CLOSE_NOTIFY:
            self.note("close_notify")
        else:
            self.note("alert", alert_text(level, description))
        self._put(ContentType.ALERT, bytes((level, description)))
        if level == FATAL or description == AlertDescription.CLOSE_NOTIFY:
            self.write_closed = True

    def _write_keys(self, protection: Aead12 | Aead13) -> None:
        self._flush()
        self._writer.change_keys(protection)

    # Shared steps

    def _hash(self) -> bytes:
        assert self.suite is not None
        return digest(self.suite.hash, self._transcript)

    def _log(self, label: str, secret: bytes) -> None:
        self.key_log.append(f"{label} {self.client_random.hex()} {secret.hex()}")

    def _take_chain(self, ders: tuple[bytes, ...], name: str | None) -> None:
        try:
            self.peer_certificates = load_chain(ders)
        except ValueError as error:
            raise Violation(
                f"certificate cannot be read: {error}", "RFC 5280", AlertDescription.BAD_CERTIFICATE
            ) from None
        if self.options.trust is not None:
            self.peer_verified = verify_chain(self.peer_certificates, self.options.trust, name, self.options.now)

    def _schedule_12(self, master: bytes) -> tuple[Aead12, Aead12]:
        """Protections of client and server (RFC 5246 section 6.3)."""
        suite = self.suite
        assert suite is not None
        iv_length = 12 if suite.aead == "chacha" else 4
        length = 2 * (suite.key_length + iv_length)
        block = prf(suite.hash, master, "key expansion", self.server_random + self.client_random, length)
        keys, ivs = block[: 2 * suite.key_length], block[2 * suite.key_length :]
        client = Aead12(suite, keys[: suite.key_length], ivs[:iv_length])
        return client, Aead12(suite, keys[suite.key_length :], ivs[iv_length:])


def _export_13(hash_name: str, secret: bytes, label: str, context: bytes, length: int) -> bytes:
    derived = derive_secret(hash_name, secret, label, digest(hash_name, b""))
    return expand_label(hash_name, derived, "exporter", digest(hash_name, context), length)


CERTIFICATE_VERIFY_PREFIX = {
    role: b" " * 64 + f"TLS 1.3, {role} CertificateVerify".encode() + b"\0" for role in ("client", "server")
}
