"""What both HTTP/1.1 peers stand on: the byte stream below them, its ends, and the raw stream after an upgrade."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import Channel
from harness.link.stream import End, EndKind, Link, LinkReset
from harness.wire.http1 import FieldLine, Head, RequestHead, ResponseHead, Violation
from harness.wire.http1_write import Field

MAX_VIOLATIONS = 1000
"""Violations that a peer keeps of one connection; the rest is not counted."""
RECEIVE_LIMIT = 65536


class ByteStream(Protocol):
    """What a peer needs below it: a `Link`, a TLS peer, or anything with these four."""

    async def send(self, data: bytes) -> None:
        """Write `data`. Raises `LinkReset`."""

    async def receive(self, limit: int = RECEIVE_LIMIT) -> bytes:
        """The next octets, `b""` at the clean end. Raises `LinkReset`."""

    async def close(self) -> None:
        """End and let go."""

    def abort(self) -> None:
        """Reset."""


@runtime_checkable
class _HasCloseNotify(Protocol):
    async def close_notify(self) -> None: ...


async def receive(link: ByteStream) -> bytes | End:
    """The next octets, or how the stream ended. Raises what a TLS peer raises for broken TLS, `PeerMismatch`."""
    try:
        data = await link.receive(RECEIVE_LIMIT)
    except LinkReset:
        return End(EndKind.RESET)
    return data or await _how_it_ended(link)


async def receive_always(link: ByteStream, channel: Channel) -> bytes | End:
    """As `receive`, for who reads in the background and awaits nothing in particular: TLS that is broken is a reset,
    and told to `channel`."""
    while True:
        try:
            return await receive(link)
        except DeadlineExpired:  # a TLS peer bounds every wait
            continue
        except PeerMismatch as broken:
            channel.got("broken TLS", detail=str(broken))
            return End(EndKind.RESET)


async def _how_it_ended(link: ByteStream) -> End:
    """A link may know its end (`end`), a TLS peer tells it when asked (`end()`), a TCP link means FIN."""
    known = getattr(link, "end", None)
    if isinstance(known, End):
        return known
    return await known() if callable(known) else End(EndKind.FIN)


async def send_end(link: ByteStream) -> None:
    """End our direction cleanly: FIN, or close_notify on TLS. Raises `LinkReset`."""
    if isinstance(link, Link):
        await link.send_end()
    elif isinstance(link, _HasCloseNotify):
        await link.close_notify()


class SwitchedStream(Link):
    """The raw stream that a connection became behind a 101 or a 2xx to CONNECT.

    `source` gives the next octets or the end.
    """

    def __init__(self, link: ByteStream, source: Callable[[], Awaitable[bytes | End]]) -> None:
        self._link = link
        self._source = source
        self._kept = b""

    async def send(self, data: bytes) -> None:
        """Write `data`. Raises `LinkReset`."""
        await self._link.send(data)

    async def receive(self, limit: int = RECEIVE_LIMIT) -> bytes:
        """The next octets, `b""` at the clean end. Raises `LinkReset` for any other end."""
        if not self._kept:
            got = await self._source()
            if isinstance(got, End):
                if got.clean:
                    return b""
                raise LinkReset(str(got))
            self._kept = got
        taken, self._kept = self._kept[:limit], self._kept[limit:]
        return taken

    async def send_end(self) -> None:
        """End our direction cleanly. Raises `LinkReset`."""
        await send_end(self._link)

    async def close(self) -> None:
        """End and let go."""
        await self._link.close()

    def abort(self) -> None:
        """Reset."""
        self._link.abort()


def with_nonce(headers: Sequence[Field], nonce: str | None) -> list[Field]:
    """`headers` with the field that tells the upstream which exchange this is."""
    return [*headers, (NONCE_FIELD, nonce)] if nonce else list(headers)


NONCE_FIELD = "Edgecase-Nonce"
"""Carries the nonce of an exchange; the upstream finds its request by it."""


def field_names(lines: Iterable[FieldLine]) -> str:
    """The names of `lines` for a transcript."""
    return ", ".join(line.name for line in lines)


def start_line(head: Head) -> str:
    """The start line of `head` for a transcript: a response without its version."""
    if isinstance(head, ResponseHead) and head.status:
        return f"{head.status} {head.reason}".strip()
    return head.start_line[:200].decode("latin-1")


def said(head: Head) -> str:
    """A message for an `actual`: its start line."""
    kind = "request" if isinstance(head, RequestHead) else "response"
    return f"the {kind} {start_line(head)!r}"


def keep(violations: list[Violation], violation: Violation) -> None:
    """Add to a bounded list of violations."""
    if len(violations) < MAX_VIOLATIONS:
        violations.append(violation)


def not_taken(what: str, end: LinkReset) -> PeerMismatch:
    """The engine closed while `what` went to it."""
    return PeerMismatch(f"the engine to take {what}", end.reason)
