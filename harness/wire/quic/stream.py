"""The two halves of a stream, which also carry CRYPTO data: what goes out and what came in (RFC 9000 section 2.2)."""

from __future__ import annotations

from harness.wire.quic.codec import Ranges
from harness.wire.quic.events import Violation
from harness.wire.quic.numbers import ErrorCode


class SendPart:
    """Octets on their way: kept until they are acknowledged, sent again where they were lost."""

    __slots__ = ("_acked", "_base", "_buffer", "_fin_due", "_pending", "end", "fin", "fin_acked", "highest")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._base = 0
        self._pending = Ranges()
        self._acked = Ranges()
        self._fin_due = False
        self.end = 0
        """Octets written."""
        self.highest = 0
        """Octets that went out at least once: what counts against flow control."""
        self.fin = False
        self.fin_acked = False

    def write(self, data: bytes, *, fin: bool = False) -> None:
        """Queue octets, and the end of the stream."""
        self._buffer += data
        self._pending.add(self.end, self.end + len(data))
        self.end += len(data)
        if fin:
            self.fin = self._fin_due = True

    @property
    def due(self) -> bool:
        """Whether anything waits to go out, flow control aside."""
        return bool(self._pending) or self._fin_due

    @property
    def unsent(self) -> int:
        """Octets that never went out."""
        return self.end - self.highest

    @property
    def acknowledged(self) -> int:
        """Octets from the start that the other side has without a gap."""
        return self._base

    @property
    def unacknowledged(self) -> int:
        """Octets that are kept."""
        return len(self._buffer)

    @property
    def delivered(self) -> bool:
        """Whether everything is acknowledged, the end included."""
        return self.fin_acked and self._base == self.end

    def take(self, size: int, limit: int) -> tuple[int, bytes, bool] | None:
        """The next at most `size` octets below offset `limit`: offset, data, end; None where there are none."""
        if self._pending:
            start, stop = self._pending.first
            stop = min(stop, start + size, limit)
            if stop > start:
                self._pending.subtract(start, stop)
                self.highest = max(self.highest, stop)
                last = self.fin and stop == self.end
                if last:
                    self._fin_due = False
                return start, bytes(self._buffer[start - self._base : stop - self._base]), last
            return None
        if self._fin_due and size >= 0:
            self._fin_due = False
            return self.end, b"", True
        return None

    def on_acked(self, offset: int, length: int, *, fin: bool) -> None:
        """The other side has these octets."""
        start, stop = max(offset, self._base), min(offset + length, self.end)
        self._acked.add(start, stop)
        self._pending.subtract(start, stop)
        if self._acked and self._acked.first[0] <= self._base:
            _, stop = self._acked.drop_first()
            del self._buffer[: stop - self._base]
            self._base = stop
        if fin:
            self.fin_acked = True
            self._fin_due = False

    def on_lost(self, offset: int, length: int, *, fin: bool) -> None:
        """Send these octets again, those that are acknowledged excepted."""
        self._pending.add(max(offset, self._base), min(offset + length, self.end))
        for start, stop in self._acked:
            self._pending.subtract(start, stop)
        if fin and not self.fin_acked:
            self._fin_due = True

    def drop(self) -> None:
        """Forget everything that waits: the stream was reset."""
        self._buffer.clear()
        self._pending.clear()
        self._acked.clear()
        self._base = self.end
        self._fin_due = False


class ReceivePart:
    """Octets put back into order; holds no more than flow control lets come."""

    __slots__ = ("_buffer", "_ranges", "final", "highest", "start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ranges = Ranges()
        self.start = 0
        """Octets given out."""
        self.highest = 0
        """The largest offset seen, which is what flow control counts."""
        self.final: int | None = None
        """The final size where it is known."""

    @property
    def whole(self) -> bool:
        """Whether everything up to the end was given out."""
        return self.final is not None and self.start == self.final

    @property
    def held(self) -> int:
        """Octets of buffer behind a gap."""
        return len(self._buffer)

    def check_final(self, size: int, *, fin: bool, frame_type: int) -> None:
        """Whether a frame that ends at `size` fits the final size (RFC 9000 section 4.5). Raises `Violation`."""
        if self.final is not None and (size > self.final or (fin and size != self.final)):
            what = f"final size {self.final}, then {size}"
        elif fin and size < self.highest:
            what = f"final size {size} below the {self.highest} octets that came"
        else:
            return
        raise Violation(what, "RFC 9000 section 4.5", ErrorCode.FINAL_SIZE_ERROR, frame_type)

    def add(self, offset: int, data: bytes, *, fin: bool = False) -> bytes:
        """Take octets; gives those that are next in order."""
        stop = offset + len(data)
        self.highest = max(self.highest, stop)
        if fin:
            self.final = stop
        if offset == self.start and not self._ranges:
            self.start = stop
            return data
        if stop <= self.start:
            return b""
        if offset < self.start:
            data, offset = data[self.start - offset :], self.start
        at = offset - self.start
        if len(self._buffer) < at + len(data):
            self._buffer += bytes(at + len(data) - len(self._buffer))
        self._buffer[at : at + len(data)] = data
        self._ranges.add(offset, stop)
        if not self._ranges or self._ranges.first[0] > self.start:
            return b""
        _, stop = self._ranges.drop_first()
        ready = bytes(self._buffer[: stop - self.start])
        del self._buffer[: stop - self.start]
        self.start = stop
        return ready

    def drop(self) -> None:
        """Forget what is held: the stream was reset."""
        self._buffer.clear()
        self._ranges.clear()
