"""What a script may choose about its side of an HTTP/2 connection; legal unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.wire.http2.numbers import PREFACE

CONNECTION_WINDOW = 1 << 24
"""What our connection window is opened to at once: else a stream that is not read would stall all others (RFC 9113
section 5.2.1), and that would be our own doing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the reader holds, in octets unless it says otherwise."""

    block: int = 1 << 20
    """One field block with its CONTINUATION."""
    fields: int = 1 << 22
    """A decoded field section as RFC 9113 section 6.5.2 counts it: 32 octets more for each line."""
    streams: int = 10_000
    """Streams that are over and still known."""
    unread: int = 1 << 26
    """Content that the script has not taken."""
    unreadable: int = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """One side's choices.

    `settings`: pairs in the order in which they are said, or a mapping. `preface` replaces the client's 24 octets,
    `first` the SETTINGS behind it (both sides). `hold`: no credit but by the script; `acknowledge` and `answer_pings`
    off leave SETTINGS and PING of the other side unanswered. `huffman` for what hpack encodes. `frame_size`: the most
    content in one DATA frame, where the other side permits more; `pad` octets of padding on each.
    """

    settings: Mapping[int, int] | Sequence[tuple[int, int]] = ()
    connection_window: int = CONNECTION_WINDOW
    preface: bytes = PREFACE
    first: bytes | None = None
    hold: bool = False
    acknowledge: bool = True
    answer_pings: bool = True
    huffman: bool = True
    frame_size: int | None = None
    pad: int | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The settings as they are said."""
        given = self.settings
        return tuple(given.items()) if isinstance(given, Mapping) else tuple(given)
