"""Header blocks by hand (RFC 7541): the representations that a case wants to say, and to see.

The peers' own blocks are made and read by hpack, which is transport. What a case judges of compression is said by the
functions here and looked at by `read_block`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman

Indexing = Literal["incremental", "without", "never"]
_LITERALS: dict[Indexing, tuple[int, int]] = {"incremental": (0x40, 6), "without": (0x00, 4), "never": (0x10, 4)}
"""First octet and prefix of each kind of literal (RFC 7541 sections 6.2.1 to 6.2.3)."""
MAX_INTEGER_OCTETS = 10

_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """An integer with a prefix of `prefix` bits (RFC 7541 section 5.1); `first` gives the bits above it."""
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes([first | value])
    said, value = [first | limit], value - limit
    while value >= 128:
        said.append(value % 128 + 128)
        value //= 128
    return bytes([*said, value])


def string(value: bytes, *, huffman: bool = False, octets: bytes | None = None) -> bytes:
    """A string literal (RFC 7541 section 5.2). `octets` are said as the Huffman code instead of that of `value`."""
    if octets is None and not huffman:
        return integer(len(value), 7) + value
    coded = octets if octets is not None else bytes(_huffman.encode(value))
    return integer(len(coded), 7, 0x80) + coded


def indexed(index: int) -> bytes:
    """An indexed field (RFC 7541 section 6.1): 1 to 61 are static, from 62 on dynamic."""
    return integer(index, 7, 0x80)


def literal(
    name: bytes | int,
    value: bytes,
    indexing: Indexing = "without",
    *,
    huffman: bool = False,
    coded: bytes | None = None,
) -> bytes:
    """A literal field (RFC 7541 section 6.2); a number as `name` is an index. `coded` is said as the Huffman code of
    the value."""
    first, prefix = _LITERALS[indexing]
    begun = integer(name, prefix, first) if isinstance(name, int) else bytes([first]) + string(name, huffman=huffman)
    return begun + string(value, huffman=huffman, octets=coded)


def size_update(size: int) -> bytes:
    """A dynamic table size update (RFC 7541 section 6.3)."""
    return integer(size, 5, 0x20)


def block(fields: list[tuple[bytes, bytes]], indexing: Indexing = "without", *, huffman: bool = False) -> bytes:
    """Literals for all of `fields`."""
    return b"".join(literal(name, value, indexing, huffman=huffman) for name, value in fields)


@dataclass(frozen=True, slots=True)
class Representation:
    """One representation of a block: `kind` is `indexed`, `incremental`, `without`, `never` or `update`; `index` is 0
    where the name is a literal; `name` and `value` are as they came, `huffman` says which of them are coded."""

    kind: str
    index: int = 0
    name: bytes = b""
    value: bytes = b""
    huffman: tuple[bool, bool] = (False, False)

    @property
    def text(self) -> tuple[bytes, bytes]:
        """Name and value, decoded. Raises `BadBlock`."""
        return _plain(self.name, self.huffman[0]), _plain(self.value, self.huffman[1])


def _plain(octets: bytes, coded: bool) -> bytes:
    try:
        return bytes(decode_huffman(octets)) if coded else octets
    except HPACKDecodingError as error:
        raise BadBlock(str(error)) from error


class BadBlock(ValueError):  # noqa: N818 - what was received is bad
    """A block that ends inside a representation, or has an integer beyond measure."""


def _integer_at(data: bytes, at: int, prefix: int) -> tuple[int, int]:
    limit = (1 << prefix) - 1
    if at >= len(data):
        raise BadBlock("the block ends in front of an integer")
    value = data[at] & limit
    at += 1
    if value < limit:
        return value, at
    for shift in range(0, 7 * MAX_INTEGER_OCTETS, 7):
        if at >= len(data):
            raise BadBlock("the block ends inside an integer")
        octet = data[at]
        at += 1
        value += (octet & 127) << shift
        if octet < 128:
            return value, at
    raise BadBlock(f"an integer of more than {MAX_INTEGER_OCTETS} octets")


def _string_at(data: bytes, at: int) -> tuple[bytes, bool, int]:
    coded = at < len(data) and bool(data[at] & 0x80)
    length, at = _integer_at(data, at, 7)
    if at + length > len(data):
        raise BadBlock("the block ends inside a string")
    return data[at : at + length], coded, at + length


def read_block(data: bytes) -> list[Representation]:
    """The representations of a block, in order. Raises `BadBlock`."""
    found: list[Representation] = []
    at = 0
    while at < len(data):
        first = data[at]
        if first & 0x80:
            index, at = _integer_at(data, at, 7)
            found.append(Representation("indexed", index))
            continue
        if first & 0xE0 == 0x20:
            size, at = _integer_at(data, at, 5)
            found.append(Representation("update", size))
            continue
        kind = "incremental" if first & 0x40 else "never" if first & 0x10 else "without"
        index, at = _integer_at(data, at, 6 if first & 0x40 else 4)
        name, coded_name = b"", False
        if not index:
            name, coded_name, at = _string_at(data, at)
        value, coded_value, at = _string_at(data, at)
        found.append(Representation(kind, index, name, value, (coded_name, coded_value)))
    return found
