"""One stream of a connection: how far either side is, and the windows of both (RFC 9113 section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.wire.http2.fields import Field


@dataclass(slots=True)
class Stream:
    """What is known of a stream. `send_window` is the other side's credit, `receive_window` what ours has left.

    `method` is that of the request; `status` of the final response. `said` and `heard` are the content of our
    message and of the other side's; `length` is what a content-length of the latter promised.
    """

    id: int
    ours: bool
    send_window: int
    receive_window: int
    method: bytes = b""
    status: int = 0
    opened: bool = False
    head_seen: bool = False
    trailers_seen: bool = False
    local_ended: bool = False
    remote_ended: bool = False
    reset_sent: int | None = None
    reset_received: int | None = None
    length: int | None = None
    said: int = 0
    heard: int = 0
    frames_after_reset: int = 0
    queue: bytearray = field(default_factory=bytearray)
    end_queued: bool = False
    trailers_queued: list[Field] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether it is closed."""
        reset = self.reset_sent is not None or self.reset_received is not None
        return reset or (self.local_ended and self.remote_ended)

    @property
    def waiting(self) -> bool:
        """Whether content of ours waits for credit."""
        return bool(self.queue) or self.end_queued
