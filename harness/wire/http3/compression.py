"""Both ends of QPACK for one connection (RFC 9204): a library is the transport, by-hand readers see what is said.

A section that needs no dynamic table is read by hand: the library takes neither an empty section nor an empty name,
and both must be told apart from octets that do not decode.
"""

from __future__ import annotations

from dataclasses import dataclass

import pylsqpack

from harness.wire.http3.frames import SettingsFrame
from harness.wire.http3.message import Fields, Violation, connection_error
from harness.wire.http3.numbers import ErrorCode, SettingId
from harness.wire.http3.options import Http3Options
from harness.wire.http3.qpack import (
    InsertCountIncrement,
    Instruction,
    InstructionReader,
    SectionAcknowledgment,
    SetCapacity,
    literal_section,
    read_section,
)
from harness.wire.quic.codec import DecodeError

LONGEST_OF_LIBRARY = 0xFFFF
"""Octets of a name or a value that the library encodes; a longer one is written by hand."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The section needs instructions that did not come yet."""


def _failed(what: str, section: str = "9204 section 2.2") -> Violation:
    return connection_error(what, section, ErrorCode.QPACK_DECOMPRESSION_FAILED)


class Decompression:
    """Our decoder: reads field sections and the other side's encoder stream. `out` is what our decoder stream says."""

    def __init__(self, options: Http3Options) -> None:
        self.out = bytearray()
        self._options = options
        self._decoder = pylsqpack.Decoder(options.table_capacity, options.blocked_streams)
        self._reader = InstructionReader("encoder")
        self._broken = False
        self._dynamic: set[int] = set()
        """Streams that wait for instructions."""

    def section(self, stream_id: int, data: bytes) -> Fields | Blocked | Violation:
        """The fields of a section. Raises `SectionTooLong`."""
        try:
            read = read_section(data)
        except DecodeError as error:
            return _failed(f"a field section that does not decode: {error}")
        if read.insert_count == 0:
            fields = read.static_fields
            if None in fields:
                return _failed("a reference to an entry that does not exist", "9204 section 2.2.3")
            return tuple(field for field in fields if field is not None)
        if self._options.table_capacity == 0:
            return _failed("a reference to the dynamic table, which has no room", "9204 section 4.5.1.1")
        try:
            said, found = self._decoder.feed_header(stream_id, data)
        except pylsqpack.StreamBlocked:
            self._dynamic.add(stream_id)
            return Blocked()
        except (pylsqpack.DecompressionFailed, ValueError) as error:
            return _failed(f"a field section that does not decode: {error}")
        self._say(said)
        return tuple(found)

    def resume(self, stream_id: int) -> Fields | Violation:
        """The fields of a section whose instructions came."""
        self._dynamic.discard(stream_id)
        try:
            said, found = self._decoder.resume_header(stream_id)
        except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked, ValueError) as error:
            return _failed(f"a field section that does not decode: {error}")
        self._say(said)
        return tuple(found)

    def _say(self, said: bytes) -> None:
        if self._options.acknowledge_sections:
            self.out += said

    def cancel(self, stream_id: int) -> None:
        """The stream is over before its sections are read (RFC 9204 section 2.2.2.2)."""
        if stream_id in self._dynamic:
            self._dynamic.discard(stream_id)
            self._say(self._decoder.cancel_stream(stream_id))

    def feed(self, data: bytes) -> tuple[list[Instruction], list[int], Violation | None]:
        """Octets of the other side's encoder stream: its instructions, the streams that wait no more, what is wrong."""
        found = self._reader.feed(data)
        if self._broken:
            return found, [], None
        for each in found:
            if isinstance(each, SetCapacity) and each.capacity > self._options.table_capacity:
                what = f"a capacity of {each.capacity}, {self._options.table_capacity} allowed"
                return found, [], self._wrong(what, "9204 section 4.3.1")
        try:
            return found, list(self._decoder.feed_encoder(data)), None
        except pylsqpack.EncoderStreamError as error:
            return (
                found,
                [],
                self._wrong(f"an encoder instruction that fails: {error}", "9204 section 4.3"),
            )

    def _wrong(self, what: str, section: str) -> Violation:
        self._broken = True
        return connection_error(what, section, ErrorCode.QPACK_ENCODER_STREAM_ERROR)


class Compression:
    """Our encoder: writes field sections and reads the other side's decoder stream. `out` is what our encoder stream
    says."""

    def __init__(self, options: Http3Options) -> None:
        self.out = bytearray()
        self._options = options
        self._encoder = pylsqpack.Encoder()
        self._reader = InstructionReader("decoder")
        self._uses_table = False
        self._broken = False

    def use(self, settings: SettingsFrame) -> None:
        """The other side's settings are known."""
        capacity = min(settings.get(SettingId.QPACK_MAX_TABLE_CAPACITY) or 0, self._options.encoder_capacity)
        blocked = min(settings.get(SettingId.QPACK_BLOCKED_STREAMS) or 0, 100)
        if capacity:
            self._uses_table = True
            self.out += self._encoder.apply_settings(capacity, blocked)

    def section(self, stream_id: int, fields: Fields) -> bytes:
        """Encode any fields."""
        if not fields or any(not name or max(len(name), len(value)) > LONGEST_OF_LIBRARY for name, value in fields):
            return literal_section(fields)
        said, section = self._encoder.encode(stream_id, list(fields))
        self.out += said
        return section

    def said(self, instructions: bytes) -> None:
        """A script put instructions of its own on our encoder stream: what is acknowledged is its affair."""
        self._broken = self._broken or bool(instructions)

    def feed(self, data: bytes) -> tuple[list[Instruction], Violation | None]:
        """Octets of the other side's decoder stream: its instructions, what is wrong."""
        found = self._reader.feed(data)
        if self._broken:
            return found, None
        if not self._uses_table:
            return found, self._unfounded(found)
        try:
            self._encoder.feed_decoder(data)
        except pylsqpack.DecoderStreamError as error:
            return found, self._wrong(f"a decoder instruction that cannot be followed: {error}", "9204 section 4.4")
        return found, None

    def _unfounded(self, found: list[Instruction]) -> Violation | None:
        """Without a dynamic table there is nothing to acknowledge; a cancellation is harmless."""
        for each in found:
            if isinstance(each, SectionAcknowledgment):
                return self._wrong(f"an acknowledgment for stream {each.stream_id}", "9204 section 4.4.1")
            if isinstance(each, InsertCountIncrement):
                return self._wrong(f"an increment of {each.increment}", "9204 section 4.4.3")
        if self._reader.broken:
            return self._wrong(self._reader.broken, "9204 section 4.4")
        return None

    def _wrong(self, what: str, section: str) -> Violation:
        self._broken = True
        return connection_error(what, section, ErrorCode.QPACK_DECODER_STREAM_ERROR)
