"""Key schedules: HKDF of TLS 1.3 (RFC 8446 section 7) and the PRF of TLS 1.2 (RFC 5246 section 5, RFC 7627)."""

from __future__ import annotations

import hashlib
import hmac

from harness.wire.tls.codec import uint, vector


def digest(hash_name: str, data: bytes | bytearray) -> bytes:
    """The hash of `data`."""
    return hashlib.new(hash_name, data).digest()


def hkdf_extract(hash_name: str, salt: bytes, key: bytes) -> bytes:
    """HKDF-Extract (RFC 5869 section 2.2)."""
    return hmac.digest(salt, key, hash_name)


def hkdf_expand(hash_name: str, secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869 section 2.3)."""
    output = block = b""
    counter = 1
    while len(output) < length:
        block = hmac.digest(secret, block + info + bytes((counter,)), hash_name)
        output += block
        counter += 1
    return output[:length]


def expand_label(hash_name: str, secret: bytes, label: str, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446 section 7.1); `label` without its `tls13 ` prefix."""
    info = uint(2, length) + vector(1, b"tls13 " + label.encode()) + vector(1, context)
    return hkdf_expand(hash_name, secret, info, length)


def derive_secret(hash_name: str, secret: bytes, label: str, transcript_hash: bytes) -> bytes:
    """Derive-Secret (RFC 8446 section 7.1) over an already hashed transcript."""
    return expand_label(hash_name, secret, label, transcript_hash, len(transcript_hash))


def next_traffic_secret(hash_name: str, secret: bytes) -> bytes:
    """The secret after a KeyUpdate (RFC 8446 section 7.2)."""
    return expand_label(hash_name, secret, "traffic upd", b"", len(secret))


def finished_mac(hash_name: str, base_secret: bytes, transcript_hash: bytes) -> bytes:
    """verify_data of TLS 1.3, and a PSK binder (RFC 8446 sections 4.4.4 and 4.2.11.2)."""
    key = expand_label(hash_name, base_secret, "finished", b"", len(transcript_hash))
    return hmac.digest(key, transcript_hash, hash_name)


class KeySchedule:
    """The three extractions of RFC 8446 section 7.1 in order; `psk` is zero where there is none."""

    def __init__(self, hash_name: str, psk: bytes | None = None) -> None:
        self.hash = hash_name
        self._empty = digest(hash_name, b"")
        self._zero = bytes(len(self._empty))
        self.early_secret = hkdf_extract(hash_name, self._zero, psk if psk is not None else self._zero)
        self.handshake_secret = b""
        self.master_secret = b""

    def binder_key(self, *, external: bool = False) -> bytes:
        """The key of a binder, for a resumption PSK or an external one."""
        return derive_secret(self.hash, self.early_secret, "ext binder" if external else "res binder", self._empty)

    def early(self, label: str, transcript_hash: bytes) -> bytes:
        """A secret below the early secret (`c e traffic`, `e exp master`)."""
        return derive_secret(self.hash, self.early_secret, label, transcript_hash)

    def extract_handshake(self, shared: bytes) -> None:
        """Mix in the (EC)DHE result."""
        salt = derive_secret(self.hash, self.early_secret, "derived", self._empty)
        self.handshake_secret = hkdf_extract(self.hash, salt, shared)

    def handshake(self, label: str, transcript_hash: bytes) -> bytes:
        """A secret below the handshake secret (`c hs traffic`, `s hs traffic`)."""
        return derive_secret(self.hash, self.handshake_secret, label, transcript_hash)

    def extract_master(self) -> None:
        """The last extraction."""
        salt = derive_secret(self.hash, self.handshake_secret, "derived", self._empty)
        self.master_secret = hkdf_extract(self.hash, salt, self._zero)

    def master(self, label: str, transcript_hash: bytes) -> bytes:
        """A secret below the master secret (`c ap traffic`, `s ap traffic`, `exp master`, `res master`)."""
        return derive_secret(self.hash, self.master_secret, label, transcript_hash)


def resumption_psk(hash_name: str, resumption_master: bytes, nonce: bytes) -> bytes:
    """The PSK of a ticket (RFC 8446 section 4.6.1)."""
    return expand_label(hash_name, resumption_master, "resumption", nonce, len(resumption_master))


def prf(hash_name: str, secret: bytes, label: str, seed: bytes, length: int) -> bytes:
    """The PRF of TLS 1.2 (RFC 5246 section 5)."""
    labelled = label.encode() + seed
    chain = labelled
    output = b""
    while len(output) < length:
        chain = hmac.digest(secret, chain, hash_name)
        output += hmac.digest(secret, chain + labelled, hash_name)
    return output[:length]


def master_secret_12(
    hash_name: str, premaster: bytes, client_random: bytes, server_random: bytes, session_hash: bytes | None
) -> bytes:
    """The master secret of TLS 1.2; `session_hash` where the extended one was negotiated (RFC 7627 section 4)."""
    if session_hash is not None:
        return prf(hash_name, premaster, "extended master secret", session_hash, 48)
    return prf(hash_name, premaster, "master secret", client_random + server_random, 48)
