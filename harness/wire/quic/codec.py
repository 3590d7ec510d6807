"""Variable-length integers (RFC 9000 section 16), and sets of ranges as ACK frames and streams need them."""

from __future__ import annotations

from collections.abc import Iterator

from harness.wire.tls.codec import DecodeError, Reader


class QuicUsageError(ValueError):
    """The script asks this peer for something it cannot do (its own mistake, never the engine's)."""


class QuicReader(Reader):
    """A reader that knows variable-length integers."""

    __slots__ = ()

    def varint(self) -> int:
        """A variable-length integer in any of its sizes. Raises `DecodeError`."""
        first = self.take(1)[0]
        size = 1 << (first >> 6)
        if size == 1:
            return first & 0x3F
        return ((first & 0x3F) << (8 * (size - 1))) | self.uint(size - 1)

    def varint_vector(self) -> bytes:
        """Octets behind their length. Raises `DecodeError`."""
        return self.take(self.varint())


def varint(number: int, size: int | None = None) -> bytes:
    """`number` in its shortest form, or in `size` octets (1, 2, 4, 8). Raises `QuicUsageError`."""
    if size is None:
        size = 1 if number < 0x40 else 2 if number < 0x4000 else 4 if number < 0x40000000 else 8
    bits = {1: 0, 2: 1, 4: 2, 8: 3}[size]
    if not 0 <= number < 1 << (8 * size - 2):
        raise QuicUsageError(f"{number} does not fit a variable-length integer of {size} octets")
    return (number | bits << (8 * size - 2)).to_bytes(size, "big")


def varint_vector(data: bytes) -> bytes:
    """`data` behind its length."""
    return varint(len(data)) + data


class Ranges:
    """A set of integers as sorted ranges `[start, stop)` that neither overlap nor touch."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __contains__(self, number: int) -> bool:
        return any(start <= number < stop for start, stop in reversed(self._ranges))

    @property
    def first(self) -> tuple[int, int]:
        """The lowest range."""
        return self._ranges[0]

    @property
    def last(self) -> tuple[int, int]:
        """The highest range."""
        return self._ranges[-1]

    def add(self, start: int, stop: int) -> None:
        """Add `[start, stop)`."""
        if start >= stop:
            return
        ranges = self._ranges
        # Nearly always the new range stands at the end.
        if not ranges or start > ranges[-1][1]:
            ranges.append((start, stop))
            return
        first = len(ranges)
        while first and ranges[first - 1][1] >= start:
            first -= 1
        last = first
        while last < len(ranges) and ranges[last][0] <= stop:
            start, stop = min(start, ranges[last][0]), max(stop, ranges[last][1])
            last += 1
        ranges[first:last] = [(start, stop)]

    def subtract(self, start: int, stop: int) -> None:
        """Remove `[start, stop)`."""
        if start >= stop:
            return
        kept: list[tuple[int, int]] = []
        for low, high in self._ranges:
            if high <= start or low >= stop:
                kept.append((low, high))
                continue
            if low < start:
                kept.append((low, start))
            if high > stop:
                kept.append((stop, high))
        self._ranges = kept

    def drop_first(self) -> tuple[int, int]:
        """Remove and give the lowest range."""
        return self._ranges.pop(0)

    def clear(self) -> None:
        """Remove everything."""
        self._ranges.clear()


__all__ = ["DecodeError", "QuicReader", "QuicUsageError", "Ranges", "varint", "varint_vector"]
