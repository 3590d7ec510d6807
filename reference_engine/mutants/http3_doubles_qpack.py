"""Doubles of HTTP/3: the engine's connection with one check of QPACK taken away, most of which a library makes."""

from __future__ import annotations

import pylsqpack
from aioquic.h3.connection import (
    H3Stream,
    QpackDecoderStreamError,
    QpackDecompressionFailed,
    QpackEncoderStreamError,
)
from aioquic.h3.events import H3Event, Headers

from reference_engine.http.h3_outlet import Command, Send
from reference_engine.mutants._http3 import FlawedH3, h3_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

LONG_FORM = b"\x80\x80\x80"
"""Octets that go on and on: of an integer in a longer form than it needs."""


@h3_double(
    "http3-section-waits",
    (
        "RFC9204-7.4-1", "RFC9204-3.1-1", "RFC9204-2.2.3-1", "RFC9204-4.5.1.1-1", "RFC9204-2.2.1-2",
        "RFC9204-2.1.2-2", "RFC9114-10.8-1",
    ),
    "lets a section that does not decode wait for ever",
)  # fmt: skip
class SectionWaits(FlawedH3):
    """Of both sides."""

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        try:
            return super()._decode_headers(stream_id, frame_data)
        except QpackDecompressionFailed:
            self.reached()
            raise pylsqpack.StreamBlocked from None


@h3_double(
    "http3-instructions-ignored",
    (
        "RFC9204-7.4-1", "RFC9204-3.1-1", "RFC9204-3.2.2-1", "RFC9204-4.3.1-1", "RFC9204-2.2.3-2",
        "RFC9204-4.4.1-1", "RFC9204-4.4.3-1",
    ),
    "passes over instructions that cannot be followed",
)  # fmt: skip
class InstructionsIgnored(FlawedH3):
    """Of both sides."""

    def _receive_stream_data_uni(self, stream: H3Stream, data: bytes, stream_ended: bool) -> list[H3Event]:
        try:
            return super()._receive_stream_data_uni(stream, data, stream_ended)
        except (QpackEncoderStreamError, QpackDecoderStreamError):
            self.reached()
            stream.buffer = b""
            return []


@h3_double("http3-short-integers", ("RFC9204-4.1.1-1",), "reads no integer of many octets")
class ShortIntegers(FlawedH3):
    """Of both sides."""

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        if frame_data is not None and LONG_FORM in frame_data:
            self.reached()
            raise QpackDecompressionFailed
        return super()._decode_headers(stream_id, frame_data)


@h3_double("http3-blocked-read-on", ("RFC9204-2.2.1-1",), "reads on a stream that waits for the table", side="server")
class BlockedReadOn(FlawedH3):
    """Toward clients."""

    def blocked(self, stream_id: int) -> bool:
        """See EngineH3."""
        if super().blocked(stream_id):
            self.reached()
        return False


@h3_double("http3-no-section-ack", ("RFC9204-2.2.2.1-1",), "acknowledges no section")
class NoSectionAck(FlawedH3):
    """Toward both sides."""

    @property
    def commands(self) -> list[Command]:
        """Without acknowledgments."""
        queue = super().commands
        kept = [each for each in queue if not self._acknowledges(each)]
        if len(kept) < len(queue):
            self.reached()
        return kept

    def _acknowledges(self, each: Command) -> bool:
        decoder = isinstance(each, Send) and each.stream_id == self._local_decoder_stream_id
        return decoder and isinstance(each, Send) and each.data[:1] >= b"\x80"


@h3_double("http3-no-cancellation", ("RFC9204-2.2.2.2-1",), "does not cancel the sections of a reset stream")
class NoCancellationOfReset(FlawedH3):
    """Toward both sides."""

    @property
    def commands(self) -> list[Command]:
        """Without cancellations."""
        queue = super().commands
        kept = [each for each in queue if not self._cancels(each)]
        if len(kept) < len(queue):
            self.reached()
        return kept

    def _cancels(self, each: Command) -> bool:
        decoder = isinstance(each, Send) and each.stream_id == self._local_decoder_stream_id
        return decoder and isinstance(each, Send) and b"\x40" <= each.data[:1] < b"\x80"


@mutant("http3-table-of-its-own", ("RFC9204-2.1.2-1", "RFC9204-3.2.3-1"), "uses a dynamic table whatever the peer says")
def _table_of_its_own(parts: Parts, reached: Reached) -> None:
    def broken(_: object, capacity: int, blocked: int) -> tuple[int, int]:
        del capacity, blocked
        reached()
        return 4096, 16

    swap(parts.http, "encoder_table", broken)
