"""The shape of a byte link below a peer, and how one can end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

from harness.link.tap import SILENT, TapStream


class EndKind(StrEnum):
    """How the other side ended a stream."""

    FIN = "FIN"
    RESET = "reset"
    CLOSE_NOTIFY = "close_notify"
    TRUNCATED = "FIN without close_notify"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended; `alert` is the TLS alert number where `kind` is `ALERT`."""

    kind: EndKind
    alert: int | None = None

    @property
    def clean(self) -> bool:
        """Whether the other side announced the end: FIN on a plain link, close_notify on TLS."""
        return self.kind in (EndKind.FIN, EndKind.CLOSE_NOTIFY)

    def __str__(self) -> str:
        return f"alert {self.alert}" if self.kind is EndKind.ALERT else str(self.kind)


class LinkReset(Exception):  # noqa: N818 - the field's word
    """The link was reset by the other side; `reason` says what was seen."""

    def __init__(self, reason: str = "connection reset") -> None:
        super().__init__(reason)
        self.reason = reason


class Link(ABC):
    """A byte stream to or from the engine: a TCP connection, or a data stream of the agent link.

    No method has a deadline of its own: peers wrap each wait in `harness.link.deadline.deadline`.
    """

    tap: TapStream = SILENT
    """Who is told what goes over the wire."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Write `data` and wait until the transport took it. Raises `LinkReset`."""

    async def drained(self) -> None:  # noqa: B027 - nothing to wait for is the rule
        """Wait until the other side's transport has what was sent, where ours keeps some of it back and can tell (a
        stream of QUIC); at once where it lies in the system's hands. Raises `LinkReset`."""

    @abstractmethod
    async def receive(self, limit: int = 65536) -> bytes:
        """Between 1 and `limit` octets, or `b""` at the clean end of the other side (again on later calls). Raises
        `LinkReset`."""

    @abstractmethod
    async def send_end(self) -> None:
        """End our direction cleanly (FIN; close_notify on the agent's TLS); receiving goes on."""

    @abstractmethod
    async def close(self) -> None:
        """End our direction and let the transport go. Safe to call twice."""

    @abstractmethod
    def abort(self) -> None:
        """Reset the link at once (RST). Safe to call twice."""
