"""A scriptable TLS 1.2 and 1.3 peer without I/O.

`TlsClient` and `TlsServer` take octets and give events; they speak legally unless an option breaks one thing.

The way of a message: `records` makes records of octets and removes their protection; `endpoint` puts handshake
messages together, decodes them (`messages`, `extensions`) and hands them to the one handler that the state expects;
the `client*` and `server*` modules are the states; `schedule` and `crypto` are the arithmetic. A state is the set
of messages that may come next, so an unexpected one needs no rule of its own.
"""

from harness.wire.tls.client import TlsClient
from harness.wire.tls.codec import DecodeError, TlsUsageError
from harness.wire.tls.crypto import Identity, verify_chain
from harness.wire.tls.endpoint import Endpoint, RecordSeen
from harness.wire.tls.events import (
    Alert,
    ChangeCipherSpec,
    CloseNotify,
    Data,
    EarlyData,
    Event,
    HandshakeDone,
    HandshakeMessage,
    KeyUpdateReceived,
    ProtocolViolation,
    Refused,
    Session,
    TicketReceived,
    Truncated,
    Unsupported,
)
from harness.wire.tls.extensions import Extension
from harness.wire.tls.hello import with_grease
from harness.wire.tls.messages import ClientHello, ServerHello
from harness.wire.tls.numbers import TLS10, TLS11, TLS12, TLS13, AlertDescription, ContentType, alert_name
from harness.wire.tls.options import ClientOptions, ServerOptions, TicketStore
from harness.wire.tls.server import TlsServer

__all__ = [
    "TLS10",
    "TLS11",
    "TLS12",
    "TLS13",
    "Alert",
    "AlertDescription",
    "ChangeCipherSpec",
    "ClientHello",
    "ClientOptions",
    "CloseNotify",
    "ContentType",
    "Data",
    "DecodeError",
    "EarlyData",
    "Endpoint",
    "Event",
    "Extension",
    "HandshakeDone",
    "HandshakeMessage",
    "Identity",
    "KeyUpdateReceived",
    "ProtocolViolation",
    "RecordSeen",
    "Refused",
    "ServerHello",
    "ServerOptions",
    "Session",
    "TicketReceived",
    "TicketStore",
    "TlsClient",
    "TlsServer",
    "TlsUsageError",
    "Truncated",
    "Unsupported",
    "alert_name",
    "verify_chain",
    "with_grease",
]
