"""A scriptable QUIC peer without I/O: versions 1 and 2, both roles, over the TLS 1.3 of `harness.wire.tls`.

`QuicClient` and `QuicServer` take datagrams and give events; they speak legally unless an option breaks one thing.

The way of a datagram: `packet` reads headers and `crypto` removes protection; `receiving` decodes `frames` and holds
each to its rule; `streams` (of `stream`), `recovery` and `handshake` keep their parts of the state that stands in
`state`; `sending` puts what is due into packets. `connection` is what a script calls, `client` and `server` the roles.
`forge` makes the packets of somebody who is no party to the connection.
"""

from harness.wire.quic import forge
from harness.wire.quic.client import QuicClient
from harness.wire.quic.codec import DecodeError, QuicUsageError
from harness.wire.quic.connection import QuicConnection
from harness.wire.quic.events import (
    ClientHelloReceived,
    DatagramReceived,
    EarlyDataRejected,
    Ended,
    Event,
    FrameSeen,
    HandshakeCompleted,
    HandshakeConfirmed,
    KeysUpdated,
    NegotiationReceived,
    PacketInfo,
    ParametersReceived,
    PingAcknowledged,
    ProtocolViolation,
    QuicEnd,
    Resumption,
    RetryReceived,
    StopSendingReceived,
    StreamData,
    StreamDelivered,
    StreamOpened,
    StreamReset,
    StreamsAvailable,
    TicketReceived,
    TokenReceived,
)
from harness.wire.quic.numbers import VERSION_1, VERSION_2, ErrorCode, Level, PacketKind, ParameterId
from harness.wire.quic.options import ClientOptions, QuicOptions, ServerOptions
from harness.wire.quic.parameters import Parameters
from harness.wire.quic.server import QuicServer
from harness.wire.quic.streams import StreamLimitReached

__all__ = [
    "VERSION_1",
    "VERSION_2",
    "ClientHelloReceived",
    "ClientOptions",
    "DatagramReceived",
    "DecodeError",
    "EarlyDataRejected",
    "Ended",
    "ErrorCode",
    "Event",
    "FrameSeen",
    "HandshakeCompleted",
    "HandshakeConfirmed",
    "KeysUpdated",
    "Level",
    "NegotiationReceived",
    "PacketInfo",
    "PacketKind",
    "ParameterId",
    "Parameters",
    "ParametersReceived",
    "PingAcknowledged",
    "ProtocolViolation",
    "QuicClient",
    "QuicConnection",
    "QuicEnd",
    "QuicOptions",
    "QuicServer",
    "QuicUsageError",
    "Resumption",
    "RetryReceived",
    "ServerOptions",
    "StopSendingReceived",
    "StreamData",
    "StreamDelivered",
    "StreamLimitReached",
    "StreamOpened",
    "StreamReset",
    "StreamsAvailable",
    "TicketReceived",
    "TokenReceived",
    "forge",
]
