"""Field sections of QPACK as octets: what has to be known of one before it is decoded, and what the library cannot say.

The library decodes whatever it is given, however much that becomes, and does not tell which lines were literals that
must never be indexed (RFC 9204 section 4.5.4). So each section is walked first, representation by representation:
strings are skipped, nothing is decoded. Going out, a line that must stay a literal is written here.
"""

from __future__ import annotations

from collections.abc import Callable

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from reference_engine.http.events import Fields

NO_PREFIX = b"\x00\x00"
"""The prefix of a section that needs no dynamic table (RFC 9204 section 4.5.1)."""
MOST_BITS = 62


class MalformedSection(Exception):  # noqa: N818 - the field's word for it
    """The octets are no field section."""


def _integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """A prefixed integer (RFC 9204 section 4.1.1), and where it ends."""
    most = (1 << bits) - 1
    value = data[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        octet = data[at]
        at += 1
        value += (octet & 0x7F) << shift
        shift += 7
        if not octet & 0x80:
            break
        if shift > MOST_BITS:
            raise MalformedSection
    return value, at


def _skip_string(data: bytes, at: int, bits: int) -> int:
    """Where a string literal with a length prefix of so many bits ends."""
    length, at = _integer(data, at, bits)
    if length > len(data) - at:
        raise MalformedSection
    return at + length


def walk(section: bytes, most: int) -> tuple[int, frozenset[int]]:
    """How many field lines a section has (counted up to one more than `most`), and which of them, by their place, are
    literals that must never be indexed. Raises MalformedSection.

    | first octet | representation                             | N    |           |
    | ----------- | ------------------------------------------ | ---- | --------- |
    | 1Txxxxxx    | indexed field line                         |      | 4.5.2     |
    | 01NTxxxx    | literal with name reference                | 0x20 | 4.5.4     |
    | 001NHxxx    | literal with literal name                  | 0x10 | 4.5.6     |
    | 0001xxxx    | indexed field line with post-base index    |      | 4.5.3     |
    | 0000Nxxx    | literal with post-base name reference      | 0x08 | 4.5.5     |
    """
    count = 0
    literal = set()
    try:
        at = _integer(section, _integer(section, 0, 8)[1], 7)[1]
        size = len(section)
        while at < size and count <= most:
            first = section[at]
            if first & 0x80:
                at = _integer(section, at, 6)[1]
            elif first & 0x40:
                at = _skip_string(section, _integer(section, at, 4)[1], 7)
                if first & 0x20:
                    literal.add(count)
            elif first & 0x20:
                at = _skip_string(section, _skip_string(section, at, 3), 7)
                if first & 0x10:
                    literal.add(count)
            elif first & 0x10:
                at = _integer(section, at, 4)[1]
            else:
                at = _skip_string(section, _integer(section, at, 3)[1], 7)
                if first & 0x08:
                    literal.add(count)
            count += 1
    except IndexError:
        raise MalformedSection from None
    return count, frozenset(literal)


def mark(fields: Fields, literal: frozenset[int]) -> Fields:
    """The decoded lines, those at the places in `literal` marked so that every codec keeps them literals."""
    if not literal:
        return fields
    return [NeverIndexedHeaderTuple(*line) if place in literal else line for place, line in enumerate(fields)]


def _prefixed(first: int, bits: int, value: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    octets = bytearray([first | most])
    value -= most
    while value >= 0x80:
        octets.append(0x80 | (value & 0x7F))
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _literal(name: bytes, value: bytes) -> bytes:
    """A literal with literal name and the N bit (RFC 9204 section 4.5.6), without Huffman."""
    return _prefixed(0x30, 3, len(name)) + name + _prefixed(0x00, 7, len(value)) + value


def encode(fields: Fields, lines: Callable[[Fields], bytes]) -> bytes:
    """A section in which lines that were marked are literals, and `lines` writes all others (a section of its own
    without references to the dynamic table)."""
    found = [NO_PREFIX]
    plain: Fields = []
    for line in fields:
        if isinstance(line, HeaderTuple) and not line.indexable:
            if plain:
                found.append(lines(plain)[len(NO_PREFIX) :])
                plain = []
            found.append(_literal(*line))
        else:
            plain.append(line)
    if len(found) == 1:
        return lines(fields)
    if plain:
        found.append(lines(plain)[len(NO_PREFIX) :])
    return b"".join(found)
