"""Code points of TLS as the peers use them (RFC 8446 appendix B, RFC 5246 appendix A and the IANA registries)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

TLS10 = 0x0301
TLS11 = 0x0302
TLS12 = 0x0303
TLS13 = 0x0304
VERSION_NAMES = {0x0300: "SSL 3.0", TLS10: "TLS 1.0", TLS11: "TLS 1.1", TLS12: "TLS 1.2", TLS13: "TLS 1.3"}

GREASE = tuple(0x0A0A + 0x1010 * index for index in range(16))
"""The reserved values of RFC 8701 that stand for something unknown."""

DOWNGRADE_TO_TLS12 = bytes.fromhex("444f574e47524401")
"""Last octets of ServerHello.random when a TLS 1.3 server negotiates TLS 1.2 (RFC 8446 section 4.1.3)."""
DOWNGRADE_TO_TLS11 = bytes.fromhex("444f574e47524400")
RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""ServerHello.random of a HelloRetryRequest (RFC 8446 section 4.1.3)."""

FALLBACK_SCSV = 0x5600
RENEGOTIATION_SCSV = 0x00FF

MAX_PLAINTEXT = 1 << 14
"""Octets of plaintext in one record (RFC 8446 section 5.1, RFC 5246 section 6.2.1)."""
MAX_PROTECTED_13 = MAX_PLAINTEXT + 256
MAX_PROTECTED_12 = MAX_PLAINTEXT + 2048
MAX_HANDSHAKE = 1 << 17
"""Octets of one handshake message that we take; a limit of ours, above every chain that a case uses."""


class ContentType(IntEnum):
    """Type of a record."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


class HandshakeType(IntEnum):
    """Type of a handshake message."""

    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    NEW_SESSION_TICKET = 4
    END_OF_EARLY_DATA = 5
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    SERVER_KEY_EXCHANGE = 12
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    CERTIFICATE_VERIFY = 15
    CLIENT_KEY_EXCHANGE = 16
    FINISHED = 20
    CERTIFICATE_STATUS = 22
    KEY_UPDATE = 24
    MESSAGE_HASH = 254


class ExtensionType(IntEnum):
    """Type of an extension."""

    SERVER_NAME = 0
    STATUS_REQUEST = 5
    SUPPORTED_GROUPS = 10
    EC_POINT_FORMATS = 11
    SIGNATURE_ALGORITHMS = 13
    ALPN = 16
    EXTENDED_MASTER_SECRET = 23
    SESSION_TICKET = 35
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    COOKIE = 44
    PSK_KEY_EXCHANGE_MODES = 45
    CERTIFICATE_AUTHORITIES = 47
    POST_HANDSHAKE_AUTH = 49
    SIGNATURE_ALGORITHMS_CERT = 50
    KEY_SHARE = 51
    RENEGOTIATION_INFO = 0xFF01


class AlertDescription(IntEnum):
    """Alert numbers (RFC 8446 section 6, RFC 5246 section 7.2, RFC 7301 section 3.2)."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    DECRYPTION_FAILED = 21
    RECORD_OVERFLOW = 22
    DECOMPRESSION_FAILURE = 30
    HANDSHAKE_FAILURE = 40
    NO_CERTIFICATE = 41
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    NO_RENEGOTIATION = 100
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


WARNING = 1
FATAL = 2

X25519 = 0x001D
SECP256R1 = 0x0017
SECP384R1 = 0x0018
GROUP_NAMES = {
    X25519: "x25519",
    SECP256R1: "secp256r1",
    SECP384R1: "secp384r1",
    0x0019: "secp521r1",
    0x11EC: "X25519MLKEM768",
}

ECDSA_SECP256R1_SHA256 = 0x0403
ECDSA_SECP384R1_SHA384 = 0x0503
RSA_PSS_RSAE_SHA256 = 0x0804
RSA_PSS_RSAE_SHA384 = 0x0805
RSA_PSS_RSAE_SHA512 = 0x0806
ED25519 = 0x0807
RSA_PKCS1_SHA256 = 0x0401
RSA_PKCS1_SHA384 = 0x0501
RSA_PKCS1_SHA512 = 0x0601

TLS_AES_128_GCM_SHA256 = 0x1301
TLS_AES_256_GCM_SHA384 = 0x1302
TLS_CHACHA20_POLY1305_SHA256 = 0x1303
ECDHE_ECDSA_AES_128_GCM = 0xC02B
ECDHE_ECDSA_AES_256_GCM = 0xC02C
ECDHE_RSA_AES_128_GCM = 0xC02F
ECDHE_RSA_AES_256_GCM = 0xC030
ECDHE_RSA_CHACHA20 = 0xCCA8
ECDHE_ECDSA_CHACHA20 = 0xCCA9


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite that we can speak: `version` is `TLS13` or `TLS12`; `auth` is `""` for TLS 1.3."""

    number: int
    name: str
    version: int
    aead: str
    key_length: int
    hash: str
    auth: str = ""

    @property
    def hash_length(self) -> int:
        """Octets of the suite's hash."""
        return 48 if self.hash == "sha384" else 32


_GCM = "gcm"
_CHACHA = "chacha"
SUITES = {
    suite.number: suite
    for suite in (
        Suite(TLS_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", TLS13, _GCM, 16, "sha256"),
        Suite(TLS_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", TLS13, _GCM, 32, "sha384"),
        Suite(TLS_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", TLS13, _CHACHA, 32, "sha256"),
        Suite(ECDHE_ECDSA_AES_128_GCM, "ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", TLS12, _GCM, 16, "sha256", "ecdsa"),
        Suite(ECDHE_RSA_AES_128_GCM, "ECDHE_RSA_WITH_AES_128_GCM_SHA256", TLS12, _GCM, 16, "sha256", "rsa"),
        Suite(ECDHE_ECDSA_AES_256_GCM, "ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", TLS12, _GCM, 32, "sha384", "ecdsa"),
        Suite(ECDHE_RSA_AES_256_GCM, "ECDHE_RSA_WITH_AES_256_GCM_SHA384", TLS12, _GCM, 32, "sha384", "rsa"),
        Suite(ECDHE_ECDSA_CHACHA20, "ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", TLS12, _CHACHA, 32, "sha256", "ecdsa"),
        Suite(ECDHE_RSA_CHACHA20, "ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", TLS12, _CHACHA, 32, "sha256", "rsa"),
    )
}


def _name_of(enumeration: type[IntEnum], number: int, kind: str) -> str:
    try:
        return enumeration(number).name.lower()
    except ValueError:
        return f"{kind} {number}"


def alert_name(number: int) -> str:
    """The registry's name in lower case, `alert 255` for an unassigned one."""
    return _name_of(AlertDescription, number, "alert")


def extension_name(number: int) -> str:
    """The registry's name in lower case, `extension 2570` for an unknown one."""
    return _name_of(ExtensionType, number, "extension")


def content_name(number: int) -> str:
    """The record type's name in lower case."""
    return _name_of(ContentType, number, "content type")


def version_name(number: int | None) -> str:
    """`TLS 1.3`, or the number in hex; `no version` for None."""
    if number is None:
        return "no version"
    return VERSION_NAMES.get(number, f"0x{number:04x}")


def suite_name(number: int) -> str:
    """The suite's name where we speak it, else its number in hex."""
    return SUITES[number].name if number in SUITES else f"0x{number:04x}"


def group_name(number: int) -> str:
    """The group's name where we know it, else its number in hex."""
    return GROUP_NAMES.get(number, f"0x{number:04x}")
