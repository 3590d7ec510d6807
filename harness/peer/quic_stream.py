"""One stream of a scripted QUIC peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.peer.quic_words import stream_detail

if TYPE_CHECKING:
    from harness.peer.quic import QuicPeer

CHUNK = 1 << 16
READ_LIMIT = 1 << 26
"""The most octets that a peer keeps of one stream (64 MiB)."""
HIGH_WATER = 1 << 20
"""Octets that may wait for the other side's credit before `send` does."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How the other side's half of a stream ended. `kind`: `fin`, `reset` with its `code`, or `connection` where the
    whole connection ended first."""

    kind: str
    code: int | None = None

    def __str__(self) -> str:
        return f"reset with code {self.code}" if self.kind == "reset" else _ENDS.get(self.kind, self.kind)


_ENDS = {"fin": "FIN", "connection": "the end of the connection"}


class QuicPeerStream:
    """A stream: `id` as on the wire. Every wait has a deadline, every step is a line in the transcript."""

    def __init__(self, peer: QuicPeer, stream_id: int) -> None:
        self.id = stream_id
        self._peer = peer
        self._kept = bytearray()
        self._credited = 0
        self._end: StreamEnd | None = None
        self._stop_code: int | None = None
        self._delivered = False
        self._sent = 0
        self.received = 0
        """Octets that came in all."""

    @property
    def bidirectional(self) -> bool:
        """Whether it has two halves (RFC 9000 section 2.1)."""
        return not self.id & 2

    @property
    def by_client(self) -> bool:
        """Whether the client opened it."""
        return not self.id & 1

    @property
    def _at(self) -> str:
        return f"stream {self.id} at the {self._peer.channel.us}"

    # What came, called by the peer

    def give_away(self) -> tuple[bytes, StreamEnd | None]:
        """What came and was not read, and how it ended, for somebody else to take."""
        data = bytes(self._kept)
        self._kept.clear()
        return data, self._end

    def take_data(self, data: bytes, *, fin: bool) -> None:
        """The next octets arrived."""
        self._kept += data
        self.received += len(data)
        if fin:
            self._end = StreamEnd("fin")

    def take_reset(self, code: int) -> None:
        """RESET_STREAM arrived."""
        self._end = StreamEnd("reset", code)

    def take_stop(self, code: int) -> None:
        """STOP_SENDING arrived."""
        self._stop_code = code

    def take_delivered(self) -> None:
        """All of our half is acknowledged."""
        self._delivered = True

    # Sending

    async def send(self, data: bytes, *, fin: bool = False) -> None:
        """Send octets, and FIN with the last of them. Waits while much more than the other side takes lies unsent.
        Raises `LinkReset` behind the end of the connection or the other side's STOP_SENDING, `DeadlineExpired`."""
        for at in range(0, len(data), CHUNK) if data else (0,):
            last = at + CHUNK >= len(data)
            self.send_now(data[at : at + CHUNK], fin=fin and last)
            if self.unsent > HIGH_WATER:
                await self._peer.until(lambda: self.unsent <= HIGH_WATER or self._is_stopped, f"credit for {self._at}")

    def send_now(self, data: bytes, *, fin: bool = False) -> None:
        """As `send`, without waiting for credit. Raises `LinkReset`."""
        self._peer.check()
        if self._is_stopped:
            raise LinkReset(f"stream {self.id} was stopped with code {self._stop_code}")
        self._peer.channel.sent("stream data", detail=stream_detail(self.id, fin=fin), data=data)
        self._peer.wire.send_stream(self.id, data, fin=fin)
        self._sent += len(data)
        self._peer.flush()

    @property
    def unsent(self) -> int:
        """Octets that were given to `send` and did not go out yet."""
        return self._peer.wire.unsent(self.id)

    @property
    def _is_stopped(self) -> bool:
        """Whether the other side's STOP_SENDING has ended our half."""
        return self._stop_code is not None and self._peer.wire.options.answer_stop_sending

    @property
    def acked(self) -> int:
        """Octets that the other side has acknowledged, from the start and without a gap."""
        return self._sent if self._delivered else self._peer.wire.acknowledged(self.id)

    @property
    def credit(self) -> int:
        """The offset up to which the other side lets us send now (MAX_STREAM_DATA)."""
        return self._peer.wire.send_limit(self.id)

    async def finish(self) -> None:
        """End our half: FIN behind what was sent."""
        await self.send(b"", fin=True)

    async def delivered(self) -> None:
        """Wait until all of our half, its end included, is acknowledged. Raises `LinkReset`, `DeadlineExpired`."""
        await self._peer.until(lambda: self._delivered, f"acknowledgements of all on {self._at}")

    def reset(self, code: int) -> None:
        """RESET_STREAM: end our half, what is unsent is lost."""
        self._peer.check()
        self._peer.channel.sent("RESET_STREAM", detail=f"stream {self.id}, code {code}")
        self._peer.wire.reset_stream(self.id, code)
        self._peer.flush()

    def stop_sending(self, code: int) -> None:
        """STOP_SENDING: ask the other side to end its half."""
        self._peer.check()
        self._peer.channel.sent("STOP_SENDING", detail=f"stream {self.id}, code {code}")
        self._peer.wire.stop_sending(self.id, code)
        self._peer.flush()

    async def stopped(self) -> int:
        """The code of the other side's STOP_SENDING. Raises `LinkReset`, `DeadlineExpired`."""
        await self._peer.until(lambda: self._stop_code is not None, f"STOP_SENDING for {self._at}")
        assert self._stop_code is not None
        return self._stop_code

    @property
    def stop_code(self) -> int | None:
        """The code of the other side's STOP_SENDING, if it came."""
        return self._stop_code

    # Receiving

    @property
    def end(self) -> StreamEnd | None:
        """How the other half ended, if it did and as far as it is known now."""
        return self._end

    @property
    def waiting(self) -> int:
        """Octets that came and were not read yet."""
        return len(self._kept)

    def peek(self, count: int) -> bytes:
        """The first octets that wait, without taking them."""
        return bytes(self._kept[:count])

    async def receive(self, limit: int = CHUNK) -> bytes:
        """The next octets, `b""` at FIN. Raises `LinkReset` for a reset or the end of the connection,
        `DeadlineExpired`."""
        await self._peer.until(lambda: self._kept or self._end, f"octets of {self._at}")
        if not self._kept and self._end is not None and self._end.kind == "reset":
            raise LinkReset(f"stream {self.id} was {self._end}")
        return self._taken(limit)

    def _taken(self, count: int) -> bytes:
        data = bytes(self._kept[:count])
        self._credit(len(data))
        self._credited -= len(data)
        del self._kept[:count]
        return data

    def _credit(self, count: int) -> None:
        """The script took, or asked for, the first `count` octets that wait: the other side may send as many more."""
        more = count - self._credited
        if more > 0:
            self._credited += more
            self._peer.consumed(self.id, more)

    async def receive_exactly(self, count: int) -> bytes:
        """Exactly `count` octets; what came is kept when it is in vain. Raises `PeerMismatch` at an end before."""
        awaited = f"{count} octets of {self._at}"
        while len(self._kept) < count:
            have = len(self._kept)
            self._credit(have)
            await self._peer.until(lambda: len(self._kept) > have or self._end, awaited)  # noqa: B023 - awaited here
            if self._end is not None and len(self._kept) < count:
                raise PeerMismatch(awaited, f"{len(self._kept)} octets, then {self._end}")
        return self._taken(count)

    async def receive_until_end(self) -> tuple[bytes, StreamEnd]:
        """All octets up to the end of the other half, and how it ended. Raises `DeadlineExpired`, `PeerMismatch` above
        `READ_LIMIT`."""
        data = bytearray()
        while True:
            try:
                await self._peer.until(lambda: self._kept or self._end, f"the end of {self._at}")
            except LinkReset:
                return bytes(data), StreamEnd("connection")
            data += self._taken(len(self._kept))
            if len(data) > READ_LIMIT:
                raise PeerMismatch(f"the end of {self._at}", f"more than {READ_LIMIT} octets")
            if self._end is not None:
                return bytes(data), self._end
