"""Doubles of QUIC that forgive: connections for which illegal frames and transport parameters are no end."""

from __future__ import annotations

from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.connection import QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import PARAMS, QuicErrorCode

from reference_engine.mutants._quic import Flawed, quic_double

LONG_UNKNOWN = 100
"""Octets of an unknown transport parameter that one of the doubles takes for an attack."""


@quic_double(
    "quic-frames-forgiven",
    (
        "RFC9000-12.4-1",
        "RFC9000-12.4-2",
        "RFC9000-12.4-3",
        "RFC9000-19.3.1-1",
        "RFC9000-19.4-1",
        "RFC9000-19.5-1",
        "RFC9000-19.7-1",
        "RFC9000-19.8-1",
        "RFC9000-19.15-1",
        "RFC9000-19.16-1",
        "RFC9000-19.20-1",
        "RFC9000-5.1.1-2",
        "RFC9000-4.6-1",
        "RFC9000-11.1-1",
        "RFC9001-6-1",
    ),
    "passes over the rest of a packet with an illegal frame, and goes on",
)
class _FramesForgiven(Flawed):
    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        try:
            return super()._payload_received(context, plain, crypto_frame_required)
        except QuicConnectionError:
            if context.epoch is not tls.Epoch.ONE_RTT:
                raise
            self.reached()
            return True, False


@quic_double("quic-streams-in-initials", ("RFC9000-12.4-2",), "takes STREAM frames in Initial packets")
class _StreamsInInitials(Flawed):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        handlers = vars(self)["_QuicConnection__frame_handlers"]
        for number in range(0x08, 0x10):
            handler, epochs = handlers[number]
            handlers[number] = (handler, epochs | {tls.Epoch.INITIAL})

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        if context.epoch is tls.Epoch.INITIAL:
            self.reached()
        super()._handle_stream_frame(context, frame_type, buf)


@quic_double(
    "quic-parameters-unchecked",
    ("RFC9000-7.4-1", "RFC9000-4.6-1", "RFC9000-18.2-1", "RFC9000-7.3-1"),
    "stops reading at an illegal transport parameter, and goes on",
)
class _ParametersUnchecked(Flawed):
    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        try:
            super()._parse_transport_parameters(data, from_session_ticket)
        except QuicConnectionError:
            self.reached()


@quic_double("quic-no-parameters", ("RFC9001-8.2-1",), "takes a client without transport parameters")
class _NoParameters(Flawed):
    def _alpn_handler(self, alpn_protocol: str) -> None:
        known = self.tls.received_extensions or []
        number = tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS
        if all(each != number for each, _ in known):
            self.reached()
            self.tls.received_extensions = [*known, (number, b"")]
        super()._alpn_handler(alpn_protocol)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        if data:
            super()._parse_transport_parameters(data, from_session_ticket)


@quic_double("quic-unknown-parameters-refused", ("RFC9000-7.4.2-1",), "refuses a client with an odd unknown parameter")
class _UnknownRefused(Flawed):
    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        buf = Buffer(data=data)
        while not buf.eof():
            number, length = buf.pull_uint_var(), buf.pull_uint_var()
            buf.pull_bytes(length)
            if number not in PARAMS and length >= LONG_UNKNOWN:
                self.reached()
                raise QuicConnectionError(QuicErrorCode.TRANSPORT_PARAMETER_ERROR, 0, "unknown parameter")
        super()._parse_transport_parameters(data, from_session_ticket)
