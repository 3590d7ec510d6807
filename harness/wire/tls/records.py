"""The record layer: plaintext, AEAD of TLS 1.2 (RFC 5246 section 6.2) and of TLS 1.3 (RFC 8446 section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from harness.wire.tls.codec import uint
from harness.wire.tls.events import Violation
from harness.wire.tls.numbers import (
    MAX_PLAINTEXT,
    MAX_PROTECTED_12,
    MAX_PROTECTED_13,
    TLS12,
    AlertDescription,
    ContentType,
    Suite,
)
from harness.wire.tls.schedule import expand_label

_KNOWN_TYPES = frozenset((20, 21, 22, 23))
HEADER = 5


@dataclass(frozen=True, slots=True)
class Record:
    """A received record after deprotection: `type` is the inner one, `outer_type` and `version` stood in the header."""

    type: int
    payload: bytes
    outer_type: int
    version: int
    wire_length: int
    protected: bool


class Protection(Protocol):
    """The protection of one direction under one key."""

    limit: int
    """Largest payload that a record may carry on the wire."""

    def seal(
        self, content_type: int, version: int, plaintext: bytes, sequence: int, padding: int, outer: int | None
    ) -> bytes:
        """The whole record with its header."""
        ...

    def open(self, header: bytes, payload: bytes, sequence: int) -> tuple[int, bytes]:
        """Inner type and plaintext. Raises `Violation` or `Undecryptable`."""
        ...


class Undecryptable(Violation):
    """A record that fails deprotection."""

    def __init__(self, section: str) -> None:
        super().__init__("record fails deprotection", section, AlertDescription.BAD_RECORD_MAC)


class Plain:
    """No protection yet."""

    limit = MAX_PROTECTED_12

    def seal(
        self, content_type: int, version: int, plaintext: bytes, sequence: int, padding: int, outer: int | None
    ) -> bytes:
        """The whole record with its header."""
        return uint(1, content_type) + uint(2, version) + uint(2, len(plaintext)) + plaintext

    def open(self, header: bytes, payload: bytes, sequence: int) -> tuple[int, bytes]:
        """Type and payload as they stand. Raises `Violation`."""
        if len(payload) > MAX_PLAINTEXT:
            what = f"plaintext record of {len(payload)} octets"
            raise Violation(what, "RFC 8446 section 5.1", AlertDescription.RECORD_OVERFLOW)
        return header[0], payload


def _cipher(suite: Suite, key: bytes) -> AESGCM | ChaCha20Poly1305:
    return ChaCha20Poly1305(key) if suite.aead == "chacha" else AESGCM(key)


class Aead12:
    """AEAD of TLS 1.2: GCM with an explicit nonce (RFC 5288), ChaCha20-Poly1305 without (RFC 7905)."""

    limit = MAX_PROTECTED_12

    def __init__(self, suite: Suite, key: bytes, iv: bytes) -> None:
        self._cipher = _cipher(suite, key)
        self._iv = iv
        self._explicit = len(iv) == 4

    def _nonce(self, sequence: int, explicit: bytes) -> bytes:
        if self._explicit:
            return self._iv + explicit
        return (int.from_bytes(self._iv, "big") ^ sequence).to_bytes(12, "big")

    def seal(
        self, content_type: int, version: int, plaintext: bytes, sequence: int, padding: int, outer: int | None
    ) -> bytes:
        """The whole record with its header; `padding` and `outer` have no meaning here."""
        number = uint(8, sequence)
        head = uint(1, content_type) + uint(2, version)
        explicit = number if self._explicit else b""
        nonce = self._nonce(sequence, number)
        sealed = explicit + self._cipher.encrypt(nonce, plaintext, number + head + uint(2, len(plaintext)))
        return head + uint(2, len(sealed)) + sealed

    def open(self, header: bytes, payload: bytes, sequence: int) -> tuple[int, bytes]:
        """Type and plaintext. Raises `Violation`."""
        section = "RFC 5246 section 6.2.3.3"
        at = 8 if self._explicit else 0
        if len(payload) < at + 16:
            raise Undecryptable(section)
        number = uint(8, sequence)
        associated = number + header[:3] + uint(2, len(payload) - at - 16)
        try:
            plaintext = self._cipher.decrypt(self._nonce(sequence, payload[:at]), payload[at:], associated)
        except InvalidTag:
            raise Undecryptable(section) from None
        if len(plaintext) > MAX_PLAINTEXT:
            what = f"record of {len(plaintext)} octets of plaintext"
            raise Violation(what, "RFC 5246 section 6.2.1", AlertDescription.RECORD_OVERFLOW)
        return header[0], plaintext


class Aead13:
    """AEAD of TLS 1.3 under one traffic secret (RFC 8446 sections 5.2 and 7.3)."""

    limit = MAX_PROTECTED_13

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self.secret = secret
        self._cipher = _cipher(suite, expand_label(suite.hash, secret, "key", b"", suite.key_length))
        self._iv = int.from_bytes(expand_label(suite.hash, secret, "iv", b"", 12), "big")

    def seal(
        self, content_type: int, version: int, plaintext: bytes, sequence: int, padding: int, outer: int | None
    ) -> bytes:
        """The whole record with its header; `padding` zeros follow the inner type, `outer` replaces the outer one."""
        inner = plaintext + uint(1, content_type) + bytes(padding)
        kind = ContentType.APPLICATION_DATA if outer is None else outer
        header = uint(1, kind) + uint(2, version) + uint(2, len(inner) + 16)
        return header + self._cipher.encrypt((self._iv ^ sequence).to_bytes(12, "big"), inner, header)

    def open(self, header: bytes, payload: bytes, sequence: int) -> tuple[int, bytes]:
        """Inner type and plaintext without padding. Raises `Violation`."""
        if header[0] != ContentType.APPLICATION_DATA:
            what = f"unprotected record of type {header[0]} after the keys changed"
            raise Violation(what, "RFC 8446 section 5", AlertDescription.UNEXPECTED_MESSAGE)
        if len(payload) < 17:
            raise Undecryptable("RFC 8446 section 5.2")
        try:
            inner = self._cipher.decrypt((self._iv ^ sequence).to_bytes(12, "big"), payload, header)
        except InvalidTag:
            raise Undecryptable("RFC 8446 section 5.2") from None
        if len(inner) > MAX_PLAINTEXT + 1:
            what = f"inner plaintext of {len(inner)} octets"
            raise Violation(what, "RFC 8446 section 5.4", AlertDescription.RECORD_OVERFLOW)
        content = inner.rstrip(b"\0")
        if not content:
            raise Violation(
                "record without a non-zero octet", "RFC 8446 section 5.4", AlertDescription.UNEXPECTED_MESSAGE
            )
        return content[-1], content[:-1]


class RecordWriter:
    """Makes records of one direction; `sequence` counts those under the current key."""

    def __init__(self) -> None:
        self.protection: Protection = Plain()
        self.sequence = 0

    def change_keys(self, protection: Protection) -> None:
        """From the next record on."""
        self.protection = protection
        self.sequence = 0

    def build(
        self,
        content_type: int,
        payload: bytes,
        *,
        version: int = TLS12,
        encrypted: bool = True,
        sequence: int | None = None,
        padding: int = 0,
        outer_type: int | None = None,
        flip_bit: int | None = None,
    ) -> bytes:
        """One record of any size.

        `encrypted=False` leaves it in the clear, `sequence` uses that number instead of the next, `flip_bit` inverts
        one bit of the record's payload as it stands on the wire (negative from its end).
        """
        protection = self.protection if encrypted else Plain()
        number = self.sequence if sequence is None else sequence
        record = protection.seal(content_type, version, payload, number, padding, outer_type)
        if encrypted and sequence is None:
            self.sequence += 1
        if flip_bit is not None:
            octets = bytearray(record)
            at = HEADER * 8 + flip_bit if flip_bit >= 0 else len(record) * 8 + flip_bit
            octets[at // 8] ^= 0x80 >> at % 8
            record = bytes(octets)
        return record


class RecordReader:
    """Takes octets in any pieces, gives records. Holds at most one incomplete record."""

    def __init__(self) -> None:
        self.protection: Protection = Plain()
        self.sequence = 0
        self.changes = 0
        self._buffer = bytearray()
        self._at = 0
        self._unlocked = True

    def change_keys(self, protection: Protection) -> None:
        """From the next record on."""
        self.protection = protection
        self.sequence = 0
        self.changes += 1
        self._unlocked = False

    @property
    def proven(self) -> bool:
        """Whether a record was opened under the current key."""
        return self._unlocked

    def feed(self, data: bytes) -> None:
        """Add octets."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def drop(self) -> None:
        """Forget what is buffered."""
        self._buffer.clear()
        self._at = 0

    @property
    def unread(self) -> bytes:
        """The octets that made no whole record yet."""
        return bytes(self._buffer[self._at :])

    def next(self) -> tuple[bytes, bytes] | None:
        """Header and payload of the next whole record, as on the wire, or None. Raises `Violation`."""
        start = self._at
        available = len(self._buffer) - start
        if available and self._buffer[start] not in _KNOWN_TYPES:
            self._not_a_record()
        if available < HEADER:
            return None
        header = bytes(self._buffer[start : start + HEADER])
        if header[1] != 3:
            self._not_a_record()
        length = int.from_bytes(header[3:5], "big")
        if length > self.protection.limit:
            what = f"record of {length} octets, at most {self.protection.limit} allowed"
            raise Violation(what, "RFC 8446 section 5.2", AlertDescription.RECORD_OVERFLOW)
        if available < HEADER + length:
            return None
        self._at = start + HEADER + length
        return header, bytes(self._buffer[start + HEADER : self._at])

    def open(self, header: bytes, payload: bytes) -> Record:
        """Remove the protection. Raises `Violation`, `Undecryptable` among them; the sequence then stays."""
        content_type, plaintext = self.protection.open(header, payload, self.sequence)
        self.sequence += 1
        self._unlocked = True
        return self._record(header, payload, content_type, plaintext, protected=not isinstance(self.protection, Plain))

    def take_plain(self, header: bytes, payload: bytes) -> Record:
        """A record as it stands, whatever the current key."""
        return self._record(header, payload, header[0], payload, protected=False)

    @staticmethod
    def _record(header: bytes, payload: bytes, content_type: int, plaintext: bytes, *, protected: bool) -> Record:
        version = int.from_bytes(header[1:3], "big")
        return Record(content_type, plaintext, header[0], version, len(payload), protected)

    def _not_a_record(self) -> None:
        sample = bytes(self._buffer[self._at : self._at + 8])
        first = sample[0]
        what = f"record of unknown type {first}" if sample[1:2] == b"\x03" else f"no TLS record: {sample!r}"
        raise Violation(what, "RFC 8446 section 5", AlertDescription.UNEXPECTED_MESSAGE)
