"""What the load says over a stream: commands of twelve octets, and bulk in blocks that are compared octet by octet."""

from __future__ import annotations

import random
import struct
import time
from typing import Protocol

BLOCK = 1 << 18
"""Octets of one block."""
_PATTERN = random.Random(20).randbytes(BLOCK - 1)
MORE = b"\x00" + _PATTERN
"""A block that another one follows."""
LAST = b"\x01" + _PATTERN
"""The last block."""
COMMAND = struct.Struct("!4sd")
"""A name and a number of seconds: `down` sends blocks, `up` takes them and tells how many octets it took, `echo` sends
the command back."""
COUNT = struct.Struct("!Q")
READ = 65_536


class WrongBytes(Exception):  # noqa: N818 - a finding about the way between
    """What arrived is not what was sent."""


class Stream(Protocol):
    """A blocking byte stream."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Octets read into `buffer`; 0 at the clean end."""

    def sendall(self, data: bytes, /) -> None:
        """Write everything."""


class Receiver:
    """Reads a stream into one buffer of one block."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._block = bytearray(BLOCK)
        self._view = memoryview(self._block)

    def exactly(self, size: int) -> bytes:
        """The next `size` octets, at most a block; `b""` when the stream ends in front of them. Raises `WrongBytes`
        when it ends between them."""
        return bytes(self._view[:size]) if self._fill(0, size) else b""

    def _fill(self, have: int, size: int) -> bool:
        while have < size:
            count = self._stream.recv_into(self._view[have:size])
            if count == 0:
                if have:
                    raise WrongBytes(f"the stream ended after {have} of {size} octets")
                return False
            have += count
        return True

    def blocks(self, first: bytes = b"", *, count: int | None = None) -> int:
        """Read blocks, up to the last one or `count` of them; gives the octets. `first` was read before. Raises
        `WrongBytes`."""
        octets = 0
        self._view[: len(first)] = first
        have = len(first)
        while count is None or octets < count * BLOCK:
            if not self._fill(have, BLOCK):
                raise WrongBytes(f"the stream ended after {octets} octets, without the last block")
            have = 0
            octets += BLOCK
            if self._block == LAST:
                return octets
            if self._block != MORE:
                raise WrongBytes(f"the block behind {octets - BLOCK} octets is not the one that was sent")
        return octets


def send_blocks(stream: Stream, seconds: float) -> int:
    """Send blocks for that long, one at least; gives the octets."""
    until = time.monotonic() + seconds
    octets = BLOCK
    while time.monotonic() < until:
        stream.sendall(MORE)
        octets += BLOCK
    stream.sendall(LAST)
    return octets
