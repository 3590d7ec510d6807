"""Code points of QUIC as the peers use them (RFC 9000 sections 17 to 20, RFC 9221, RFC 9368, RFC 9369)."""

from __future__ import annotations

from enum import IntEnum

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF
VERSIONS = (VERSION_1, VERSION_2)
VERSION_NAMES = {VERSION_1: "QUIC v1", VERSION_2: "QUIC v2"}

MAX_VARINT = (1 << 62) - 1
MAX_CONNECTION_ID = 20
"""Octets of a connection id in versions 1 and 2 (RFC 9000 section 17.2)."""
MIN_INITIAL = 1200
"""Octets of a datagram with an Initial packet (RFC 9000 section 14.1)."""
CRYPTO_ERROR = 0x0100
"""First of the error codes that carry a TLS alert (RFC 9001 section 4.8)."""


class Level(IntEnum):
    """Encryption level of a packet (RFC 9001 section 2.1)."""

    INITIAL = 0
    EARLY = 1
    HANDSHAKE = 2
    APPLICATION = 3


class Space(IntEnum):
    """Packet number space (RFC 9000 section 12.3)."""

    INITIAL = 0
    HANDSHAKE = 1
    APPLICATION = 2


SPACE_OF = {
    Level.INITIAL: Space.INITIAL,
    Level.EARLY: Space.APPLICATION,
    Level.HANDSHAKE: Space.HANDSHAKE,
    Level.APPLICATION: Space.APPLICATION,
}


class PacketKind(IntEnum):
    """What a packet is, whatever its version spells it like."""

    INITIAL = 0
    EARLY = 1
    HANDSHAKE = 2
    RETRY = 3
    SHORT = 4
    NEGOTIATION = 5
    UNKNOWN = 6
    """A long header of a version that we do not speak."""


class FrameType(IntEnum):
    """Type of a frame (RFC 9000 section 19, RFC 9221 section 4); STREAM and DATAGRAM by their first type."""

    PADDING = 0x00
    PING = 0x01
    ACK = 0x02
    ACK_ECN = 0x03
    RESET_STREAM = 0x04
    STOP_SENDING = 0x05
    CRYPTO = 0x06
    NEW_TOKEN = 0x07
    STREAM = 0x08
    MAX_DATA = 0x10
    MAX_STREAM_DATA = 0x11
    MAX_STREAMS_BIDI = 0x12
    MAX_STREAMS_UNI = 0x13
    DATA_BLOCKED = 0x14
    STREAM_DATA_BLOCKED = 0x15
    STREAMS_BLOCKED_BIDI = 0x16
    STREAMS_BLOCKED_UNI = 0x17
    NEW_CONNECTION_ID = 0x18
    RETIRE_CONNECTION_ID = 0x19
    PATH_CHALLENGE = 0x1A
    PATH_RESPONSE = 0x1B
    CONNECTION_CLOSE = 0x1C
    APPLICATION_CLOSE = 0x1D
    HANDSHAKE_DONE = 0x1E
    DATAGRAM = 0x30


class ErrorCode(IntEnum):
    """Transport error codes (RFC 9000 section 20.1, RFC 9368 section 10.2)."""

    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0A
    INVALID_TOKEN = 0x0B
    APPLICATION_ERROR = 0x0C
    CRYPTO_BUFFER_EXCEEDED = 0x0D
    KEY_UPDATE_ERROR = 0x0E
    AEAD_LIMIT_REACHED = 0x0F
    NO_VIABLE_PATH = 0x10
    VERSION_NEGOTIATION_ERROR = 0x11


class ParameterId(IntEnum):
    """Transport parameters (RFC 9000 section 18.2, RFC 9221 section 3, RFC 9368 section 3)."""

    ORIGINAL_DESTINATION_CONNECTION_ID = 0x00
    MAX_IDLE_TIMEOUT = 0x01
    STATELESS_RESET_TOKEN = 0x02
    MAX_UDP_PAYLOAD_SIZE = 0x03
    INITIAL_MAX_DATA = 0x04
    INITIAL_MAX_STREAM_DATA_BIDI_LOCAL = 0x05
    INITIAL_MAX_STREAM_DATA_BIDI_REMOTE = 0x06
    INITIAL_MAX_STREAM_DATA_UNI = 0x07
    INITIAL_MAX_STREAMS_BIDI = 0x08
    INITIAL_MAX_STREAMS_UNI = 0x09
    ACK_DELAY_EXPONENT = 0x0A
    MAX_ACK_DELAY = 0x0B
    DISABLE_ACTIVE_MIGRATION = 0x0C
    PREFERRED_ADDRESS = 0x0D
    ACTIVE_CONNECTION_ID_LIMIT = 0x0E
    INITIAL_SOURCE_CONNECTION_ID = 0x0F
    RETRY_SOURCE_CONNECTION_ID = 0x10
    VERSION_INFORMATION = 0x11
    MAX_DATAGRAM_FRAME_SIZE = 0x20


def error_name(code: int) -> str:
    """The registry's name; `crypto_error 0x178` for an alert, the number in hex for what is unknown."""
    if CRYPTO_ERROR <= code <= CRYPTO_ERROR + 0xFF:
        return f"crypto_error 0x{code:x}"
    try:
        return ErrorCode(code).name.lower()
    except ValueError:
        return f"0x{code:x}"


def version_name(number: int) -> str:
    """`QUIC v1`, or the number in hex."""
    return VERSION_NAMES.get(number, f"0x{number:08x}")
