"""Reading and writing the vectors of the TLS presentation language (RFC 8446 section 3)."""

from __future__ import annotations


class DecodeError(Exception):
    """Octets that do not parse as what they should be; the text names the structure."""


class TlsUsageError(ValueError):
    """The script asks this peer for something it cannot do (its own mistake, never the engine's)."""


class Reader:
    """Reads big-endian integers and vectors from `data`; `what` names the structure in errors."""

    __slots__ = ("_at", "_data", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self.what = what

    def take(self, count: int) -> bytes:
        """The next `count` octets. Raises `DecodeError`."""
        end = self._at + count
        if end > len(self._data):
            raise DecodeError(f"{self.what}: {count} octets needed, {len(self._data) - self._at} left")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def uint(self, size: int) -> int:
        """An unsigned integer of `size` octets. Raises `DecodeError`."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, minimum: int = 0) -> bytes:
        """A vector whose length field has `size` octets and that holds at least `minimum`. Raises `DecodeError`."""
        length = self.uint(size)
        if length < minimum:
            raise DecodeError(f"{self.what}: vector of {length} octets, at least {minimum} required")
        return self.take(length)

    def inner(self, size: int, minimum: int = 0) -> Reader:
        """A reader over a vector. Raises `DecodeError`."""
        return Reader(self.vector(size, minimum), self.what)

    def uints(self, size: int, each: int, minimum: int = 0) -> tuple[int, ...]:
        """A vector of integers of `each` octets. Raises `DecodeError`."""
        data = self.vector(size, minimum)
        if len(data) % each:
            raise DecodeError(f"{self.what}: list of {len(data)} octets is no multiple of {each}")
        return tuple(int.from_bytes(data[at : at + each], "big") for at in range(0, len(data), each))

    @property
    def left(self) -> int:
        """Octets not read yet."""
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def end(self) -> None:
        """Nothing may be left. Raises `DecodeError`."""
        if self.left:
            raise DecodeError(f"{self.what}: {self.left} octets after the end")


def uint(size: int, number: int) -> bytes:
    """`number` in `size` octets, big-endian."""
    return number.to_bytes(size, "big")


def vector(size: int, data: bytes) -> bytes:
    """`data` behind its length in `size` octets. Raises `TlsUsageError` when it does not fit."""
    if len(data) >= 1 << (8 * size):
        raise TlsUsageError(f"{len(data)} octets do not fit a vector with a length of {size} octets")
    return len(data).to_bytes(size, "big") + data


def uints(size: int, each: int, numbers: tuple[int, ...]) -> bytes:
    """A vector of integers of `each` octets behind a length of `size` octets."""
    return vector(size, b"".join(number.to_bytes(each, "big") for number in numbers))
