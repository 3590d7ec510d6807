"""Packet protection: keys, header protection, key update, Retry integrity (RFC 9001 section 5, RFC 9369)."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import ECB

from harness.wire.quic.numbers import VERSION_1, VERSION_2
from harness.wire.tls.numbers import SUITES, TLS_AES_128_GCM_SHA256, Suite
from harness.wire.tls.schedule import expand_label, hkdf_extract

TAG = 16
SAMPLE = 16


class Undecryptable(Exception):  # noqa: N818 - a packet that is ignored is no error of anybody
    """A packet that fails deprotection, or for which there are no keys."""


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What differs between versions in protecting packets."""

    salt: bytes
    label: str
    retry_key: bytes
    retry_nonce: bytes


FACTS = {
    VERSION_1: VersionFacts(
        bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
        "quic",
        bytes.fromhex("be0c690b9f66575a1d766b54e368c84e"),
        bytes.fromhex("461599d35d632bf2239825bb"),
    ),
    VERSION_2: VersionFacts(
        bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
        "quicv2",
        bytes.fromhex("8fb4b01b56ac48e260fbcbcead7ccc92"),
        bytes.fromhex("d86969bc2d7c6d9990efb04a"),
    ),
}
"""RFC 9001 sections 5.2 and 5.8; RFC 9369 sections 3.3.1 to 3.3.3."""


class PacketKeys:
    """The keys of one direction at one level, of one generation."""

    def __init__(self, version: int, suite: Suite, secret: bytes, header_key: bytes | None = None) -> None:
        self.version = version
        self.suite = suite
        self.secret = secret
        label = FACTS[version].label
        self.key = expand_label(suite.hash, secret, f"{label} key", b"", suite.key_length)
        self.iv = expand_label(suite.hash, secret, f"{label} iv", b"", 12)
        # Header protection keeps its key over key updates (RFC 9001 section 6.1).
        self.header_key = header_key or expand_label(suite.hash, secret, f"{label} hp", b"", suite.key_length)
        self._iv = int.from_bytes(self.iv, "big")
        self._aead: AESGCM | ChaCha20Poly1305
        self._ecb: CipherContext | None = None
        if suite.aead == "chacha":
            self._aead = ChaCha20Poly1305(self.key)
        else:
            self._aead = AESGCM(self.key)
            # ECB is what header protection is made of: one block, no message (RFC 9001 section 5.4.3).
            self._ecb = Cipher(AES(self.header_key), ECB()).encryptor()  # noqa: S305

    def seal(self, header: bytes, number: int, payload: bytes) -> bytes:
        """The protected payload under packet number `number`."""
        return self._aead.encrypt((self._iv ^ number).to_bytes(12, "big"), payload, header)

    def open(self, header: bytes, number: int, payload: bytes) -> bytes:
        """The payload in the clear. Raises `Undecryptable`."""
        try:
            return self._aead.decrypt((self._iv ^ number).to_bytes(12, "big"), payload, header)
        except (InvalidTag, ValueError):
            raise Undecryptable("packet fails deprotection") from None

    def mask(self, sample: bytes) -> bytes:
        """The five octets of header protection (RFC 9001 section 5.4)."""
        if self._ecb is not None:
            return self._ecb.update(sample)[:5]
        return Cipher(ChaCha20(self.header_key, sample), None).encryptor().update(bytes(5))

    def updated(self) -> PacketKeys:
        """The keys of the next generation (RFC 9001 section 6.1)."""
        label = f"{FACTS[self.version].label} ku"
        secret = expand_label(self.suite.hash, self.secret, label, b"", len(self.secret))
        return PacketKeys(self.version, self.suite, secret, self.header_key)


def initial_secrets(version: int, connection_id: bytes) -> tuple[bytes, bytes]:
    """The secrets of client and server for Initial packets (RFC 9001 section 5.2)."""
    secret = hkdf_extract("sha256", FACTS[version].salt, connection_id)
    return (
        expand_label("sha256", secret, "client in", b"", 32),
        expand_label("sha256", secret, "server in", b"", 32),
    )


def initial_keys(version: int, connection_id: bytes) -> tuple[PacketKeys, PacketKeys]:
    """The keys of client and server for Initial packets; `connection_id` is the client's first destination."""
    client, server = initial_secrets(version, connection_id)
    suite = SUITES[TLS_AES_128_GCM_SHA256]
    return PacketKeys(version, suite, client), PacketKeys(version, suite, server)


def retry_tag(version: int, original: bytes, retry: bytes) -> bytes:
    """The integrity tag of a Retry packet without its tag (RFC 9001 section 5.8); `original` is the first DCID."""
    facts = FACTS[version]
    pseudo = bytes((len(original),)) + original + retry
    return AESGCM(facts.retry_key).encrypt(facts.retry_nonce, b"", pseudo)
