"""QPACK by hand: field sections and instructions as data, to octets and back (RFC 9204 section 4).

Sections that carry ordinary messages are encoded and decoded by a library; this is for what a case judges: which
representation a line has, what an encoder or decoder stream says, and things that no encoder would say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman

from harness.wire.http3.qpack_static import STATIC, Field
from harness.wire.quic.codec import DecodeError, QuicReader, QuicUsageError

MAX_LINES = 10_000
"""Lines of the longest section that is read: one octet can stand for a line of a hundred."""
MAX_INTEGER = 1 << 62
"""An integer from here on is not decoded (RFC 9204 section 4.1.1 asks for 62 bits)."""


class SectionTooLong(Exception):  # noqa: N818 - it says what happened
    """A section that may be legal, but that is not read."""


def integer(number: int, prefix: int, first: int = 0) -> bytes:
    """`number` with a prefix of `prefix` bits; `first` are the bits before it (RFC 7541 section 5.1)."""
    limit = (1 << prefix) - 1
    if number < limit:
        return bytes([first | number])
    out = bytearray([first | limit])
    number -= limit
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def string(data: bytes, prefix: int = 7, first: int = 0, *, length: int | None = None) -> bytes:
    """A string literal without Huffman coding; `length` says another length than the true one."""
    return integer(len(data) if length is None else length, prefix, first) + data


class QpackReader(QuicReader):
    """A reader that knows integers with a prefix, and strings."""

    __slots__ = ()

    def integer(self, prefix: int, first: int) -> int:
        """The integer that begins in `first`, an octet that was taken. Raises `DecodeError`."""
        number = first & ((1 << prefix) - 1)
        if number < (1 << prefix) - 1:
            return number
        shift = 0
        while True:
            octet = self.take(1)[0]
            number += (octet & 0x7F) << shift
            if number >= MAX_INTEGER:
                raise DecodeError(f"{self.what}: an integer above 62 bits")
            if octet < 0x80:
                return number
            shift += 7
            if shift > 70:
                raise DecodeError(f"{self.what}: an integer of too many octets")

    def string(self, prefix: int, first: int) -> tuple[bytes, bool]:
        """The string whose H bit stands above the `prefix` bits of `first`, and whether it was Huffman-coded.
        Raises `DecodeError`."""
        coded = bool(first & (1 << prefix))
        data = self.take(self.integer(prefix, first))
        if not coded:
            return data, False
        try:
            return bytes(decode_huffman(data) or b""), True
        except HPACKDecodingError as error:
            raise DecodeError(f"{self.what}: broken Huffman coding: {error}") from error

    def octet(self) -> int:
        """The next octet. Raises `DecodeError`."""
        return self.take(1)[0]


# Representations of field lines (RFC 9204 section 4.5)


@dataclass(frozen=True, slots=True)
class Indexed:
    """An indexed field line; `static` False counts from the base backwards, `post_base` from it forwards."""

    index: int
    static: bool = True
    post_base: bool = False

    def encode(self) -> bytes:
        """The octets."""
        if self.post_base:
            return integer(self.index, 4, 0x10)
        return integer(self.index, 6, 0xC0 if self.static else 0x80)


@dataclass(frozen=True, slots=True)
class NamedByIndex:
    """A literal field line with name reference; `never` is the N bit (RFC 9204 section 4.5.4)."""

    index: int
    value: bytes
    static: bool = True
    never: bool = False
    post_base: bool = False
    huffman: bool = field(default=False, compare=False)

    def encode(self) -> bytes:
        """The octets, the value without Huffman coding."""
        if self.post_base:
            return integer(self.index, 3, 0x08 if self.never else 0x00) + string(self.value)
        first = 0x40 | (0x20 if self.never else 0) | (0x10 if self.static else 0)
        return integer(self.index, 4, first) + string(self.value)


@dataclass(frozen=True, slots=True)
class Literal:
    """A literal field line with literal name; `never` is the N bit (RFC 9204 section 4.5.6)."""

    name: bytes
    value: bytes
    never: bool = False
    huffman: bool = field(default=False, compare=False)

    def encode(self) -> bytes:
        """The octets, name and value without Huffman coding."""
        return string(self.name, 3, 0x20 | (0x10 if self.never else 0)) + string(self.value)


Representation = Indexed | NamedByIndex | Literal


@dataclass(frozen=True, slots=True)
class Section:
    """An encoded field section: its prefix as on the wire (`insert_count` encoded, `base` with its sign) and its
    lines."""

    lines: tuple[Representation, ...]
    insert_count: int = 0
    base: int = 0
    sign: bool = False

    def encode(self) -> bytes:
        """The octets."""
        prefix = integer(self.insert_count, 8) + integer(self.base, 7, 0x80 if self.sign else 0)
        return prefix + b"".join(line.encode() for line in self.lines)

    @property
    def static_fields(self) -> tuple[Field | None, ...]:
        """Name and value of each line that needs no dynamic table; None for the others."""
        return tuple(_static(line) for line in self.lines)

    def find(self, name: bytes) -> tuple[Representation, ...]:
        """The lines of that name that need no dynamic table."""
        found = zip(self.lines, self.static_fields, strict=True)
        return tuple(line for line, known in found if known is not None and known[0] == name)


def _static(line: Representation) -> Field | None:
    match line:
        case Literal(name=name, value=value):
            return name, value
        case Indexed(index=index, static=True, post_base=False) if index < len(STATIC):
            return STATIC[index]
        case NamedByIndex(index=index, value=value, static=True, post_base=False) if index < len(STATIC):
            return STATIC[index][0], value
        case _:
            return None


def literal_section(fields: Iterable[Field], *, never: Iterable[bytes] = ()) -> bytes:
    """A section of literals only, so that it needs no table and no library: any octets as names and values. The N bit
    is set for the names in `never`."""
    marked = frozenset(never)
    return Section(tuple(Literal(name, value, name in marked) for name, value in fields)).encode()


def read_section(data: bytes) -> Section:
    """The lines of a section as they stand. Raises `DecodeError`."""
    reader = QpackReader(data, "field section")
    insert_count = reader.integer(8, reader.octet())
    second = reader.octet()
    base = reader.integer(7, second)
    lines: list[Representation] = []
    while reader.left:
        if len(lines) >= MAX_LINES:
            raise SectionTooLong(f"a section of more than {MAX_LINES} lines, this peer reads no more")
        lines.append(_line(reader))
    return Section(tuple(lines), insert_count, base, bool(second & 0x80))


def _line(reader: QpackReader) -> Representation:
    first = reader.octet()
    if first & 0x80:
        return Indexed(reader.integer(6, first), bool(first & 0x40))
    if first & 0x40:
        index = reader.integer(4, first)
        value, coded = reader.string(7, reader.octet())
        return NamedByIndex(index, value, bool(first & 0x10), bool(first & 0x20), huffman=coded)
    if first & 0x20:
        name, _ = reader.string(3, first)
        value, coded = reader.string(7, reader.octet())
        return Literal(name, value, bool(first & 0x10), huffman=coded)
    if first & 0x10:
        return Indexed(reader.integer(4, first), False, True)
    index = reader.integer(3, first)
    value, coded = reader.string(7, reader.octet())
    return NamedByIndex(index, value, False, bool(first & 0x08), True, huffman=coded)


# Instructions (RFC 9204 sections 4.3 and 4.4)


@dataclass(frozen=True, slots=True)
class SetCapacity:
    """Set Dynamic Table Capacity."""

    capacity: int

    def encode(self) -> bytes:
        """The octets."""
        return integer(self.capacity, 5, 0x20)


@dataclass(frozen=True, slots=True)
class InsertByName:
    """Insert with Name Reference."""

    index: int
    value: bytes
    static: bool = True

    def encode(self) -> bytes:
        """The octets."""
        return integer(self.index, 6, 0xC0 if self.static else 0x80) + string(self.value)


@dataclass(frozen=True, slots=True)
class Insert:
    """Insert with Literal Name."""

    name: bytes
    value: bytes

    def encode(self) -> bytes:
        """The octets."""
        return string(self.name, 5, 0x40) + string(self.value)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Duplicate."""

    index: int

    def encode(self) -> bytes:
        """The octets."""
        return integer(self.index, 5)


@dataclass(frozen=True, slots=True)
class SectionAcknowledgment:
    """Section Acknowledgment."""

    stream_id: int

    def encode(self) -> bytes:
        """The octets."""
        return integer(self.stream_id, 7, 0x80)


@dataclass(frozen=True, slots=True)
class StreamCancellation:
    """Stream Cancellation."""

    stream_id: int

    def encode(self) -> bytes:
        """The octets."""
        return integer(self.stream_id, 6, 0x40)


@dataclass(frozen=True, slots=True)
class InsertCountIncrement:
    """Insert Count Increment."""

    increment: int

    def encode(self) -> bytes:
        """The octets."""
        return integer(self.increment, 6)


EncoderInstruction = SetCapacity | InsertByName | Insert | Duplicate
DecoderInstruction = SectionAcknowledgment | StreamCancellation | InsertCountIncrement
Instruction = EncoderInstruction | DecoderInstruction


def encode_instructions(instructions: Iterable[Instruction]) -> bytes:
    """One after the other."""
    return b"".join(each.encode() for each in instructions)


def _encoder_instruction(reader: QpackReader) -> EncoderInstruction:
    first = reader.octet()
    if first & 0x80:
        index = reader.integer(6, first)
        return InsertByName(index, reader.string(7, reader.octet())[0], bool(first & 0x40))
    if first & 0x40:
        name, _ = reader.string(5, first)
        return Insert(name, reader.string(7, reader.octet())[0])
    if first & 0x20:
        return SetCapacity(reader.integer(5, first))
    return Duplicate(reader.integer(5, first))


def _decoder_instruction(reader: QpackReader) -> DecoderInstruction:
    first = reader.octet()
    if first & 0x80:
        return SectionAcknowledgment(reader.integer(7, first))
    if first & 0x40:
        return StreamCancellation(reader.integer(6, first))
    return InsertCountIncrement(reader.integer(6, first))


_READERS: dict[str, Callable[[QpackReader], Any]] = {"encoder": _encoder_instruction, "decoder": _decoder_instruction}
MAX_INSTRUCTION = 1 << 16
"""Octets of an instruction that is not whole yet; more is not waited for."""


class InstructionReader:
    """Makes instructions of an encoder or decoder stream's octets, that come in pieces of any size. `broken` says why
    no more can be read; nothing is kept then."""

    def __init__(self, kind: str) -> None:
        if kind not in _READERS:
            raise QuicUsageError(f"{kind}: no QPACK stream; allowed: encoder, decoder")
        self._read = _READERS[kind]
        self._kept = b""
        self.broken = ""

    def feed(self, data: bytes) -> list[Instruction]:
        """Take the next octets: the instructions that are whole now."""
        if self.broken:
            return []
        self._kept += data
        found: list[Instruction] = []
        while self._kept:
            reader = QpackReader(self._kept, "instruction")
            try:
                found.append(self._read(reader))
            except DecodeError as error:
                if reader.left and not _is_short(error):
                    self._break(str(error))
                elif len(self._kept) > MAX_INSTRUCTION:
                    self._break(f"an instruction of more than {MAX_INSTRUCTION} octets")
                break
            self._kept = reader.rest()
        return found

    def _break(self, why: str) -> None:
        self.broken, self._kept = why, b""


def _is_short(error: DecodeError) -> bool:
    """Whether more octets would help."""
    return "octets needed" in str(error)
