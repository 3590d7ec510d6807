"""Where links and TLS peers tell what goes over the wire. Nobody listens unless a tap was put here with `use`.

A tap belongs to a context, not to a link: what listens is chosen when a connection is made, and stays the same for its
life.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from harness.model.event import DOWNSTREAM

if TYPE_CHECKING:
    from harness.wire.quic import QuicEnd, QuicOptions

Options = TypeVar("Options", bound="QuicOptions")

Address = tuple[str, int]


class TapStream:
    """One connection as its link tells it: octets in the order in which its socket took and gave them, and its ends.
    Of a flow of datagrams each `sent` and each `got` is one packet. This one forgets everything."""

    def label(self, name: str) -> None:
        """The connection's name in the transcript."""

    def sent(self, data: bytes) -> None:
        """We handed octets to the socket."""

    def got(self, data: bytes) -> None:
        """Octets of the other side arrived."""

    def sent_end(self) -> None:
        """We ended our direction: FIN behind what was sent."""

    def got_end(self) -> None:
        """The other side's FIN arrived."""

    def sent_reset(self) -> None:
        """We reset the connection."""

    def got_reset(self) -> None:
        """The other side reset the connection, or refused a datagram (ICMP)."""

    def moved(self, local: Address) -> TapStream:
        """The flow of datagrams goes on from another address of ours: who is told of it from here on."""
        return self


class QuicTap:
    """One QUIC connection as its peer tells it, packet by packet. This one forgets everything."""

    def hooked(self, options: Options) -> Options:
        """The options of the connection (`harness.wire.quic`), whose packets are told from here on."""
        return options

    def closed(self, end: QuicEnd | None) -> None:
        """The connection ended, if it did; may be told again."""


class Tap:
    """Takes what links and TLS peers tell. This one forgets everything."""

    @property
    def key_log_file(self) -> str | None:
        """Where OpenSSL writes the secrets of the agent's TLS connections (NSS key log format); `None`: nowhere."""
        return None

    def stream(self, leg: str, local: Address, remote: Address, *, dialed: bool) -> TapStream:
        """A TCP connection was made on `leg`; `dialed` says that we opened it."""
        return SILENT

    def carried(self, inside: Address, *, dialed: bool) -> TapStream:
        """A stream inside the agent's connection from `inside`, without the agent's own TLS and its first frame."""
        return SILENT

    def datagrams(self, leg: str, local: Address, remote: Address, *, dialed: bool) -> TapStream:
        """A UDP flow begins on `leg`; `dialed` says that we began it."""
        return SILENT

    def carried_datagrams(self, inside: Address, *, dialed: bool) -> TapStream:
        """As `carried`, for datagrams."""
        return SILENT

    def quic(self, leg: str, us: str, name: str) -> QuicTap:
        """A QUIC connection of `us` (client or server) begins on `leg`; `name` is its name in the transcript."""
        return SILENT_QUIC

    def secrets(self, lines: Sequence[str], *, leg: str = DOWNSTREAM) -> None:
        """The key log of one TLS or QUIC endpoint of ours on `leg`; it may still grow, and is read when the capture is
        written."""


SILENT = TapStream()
SILENT_QUIC = QuicTap()
_NOBODY = Tap()
_tap: ContextVar[Tap] = ContextVar("tap")


def use(tap: Tap) -> None:
    """Put `tap` into the current context."""
    _tap.set(tap)


def current() -> Tap:
    """The tap of the current context."""
    return _tap.get(_NOBODY)
