"""Rules on what a peer may do too often in HTTP/2: legal frames that cost it nothing and us something (RFC 9113 section
10.5).

Each kind has an allowance: so many at once, and a tenth of it again in each second. Above it the connection ends with
ENHANCE_YOUR_CALM. What is limited in size and not in number stands beside its rule: header blocks here, windows and
streams in the settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame

from reference_engine.config import Settings

CONTINUATIONS = 32
"""CONTINUATION frames of one header block."""
BLOCK_FACTOR = 4
"""How much larger than `http_max_header_bytes` a section may be before the connection ends instead of the request."""
DATA_EARNS = 2
"""Frames of control that each DATA frame of ours allows the peer: a WINDOW_UPDATE of the stream and one of the
connection."""
UNSENT = 262_144
"""Octets that wait for a peer that does not read; above it nothing more is read from it, so that answers to PING and
SETTINGS do not pile up."""


@dataclass(frozen=True, slots=True)
class H2Limits:
    """What one HTTP/2 connection may use; sizes in octets."""

    streams: int
    window: int
    resets: int
    control: int
    header_bytes: int


def h2_limits_of(settings: Settings) -> H2Limits:
    """The limits of HTTP/2, from the settings."""
    return H2Limits(
        settings.http2_max_streams,
        settings.http2_window_bytes,
        settings.http2_max_resets,
        settings.http2_max_control_frames,
        settings.http_max_header_bytes,
    )


class Allowance:
    """So many at once, refilled evenly within ten seconds. `now` is in seconds."""

    def __init__(self, burst: int) -> None:
        self._burst = burst
        self._left = float(burst)
        self._then: float | None = None

    def spend(self, now: float) -> bool:
        """Take one; False when there is none left."""
        if self._then is not None:
            self._left = min(self._burst, self._left + (now - self._then) * self._burst / 10)
        self._then = now
        self._left -= 1
        return self._left >= 0

    def earn(self, count: int) -> None:
        """Give some back."""
        self._left = min(self._burst, self._left + count)


class FloodRules:
    """What counts as a flood."""

    def flood_kind(self, frame: Frame) -> str | None:
        """The allowance that a frame of the peer uses: `reset`, `control`, or none (RFC9113-10.5-1).

        HEADERS are bounded by the streams that may be open, DATA by the windows; an empty DATA frame by nothing.
        """
        if isinstance(frame, RstStreamFrame):
            return "reset"
        if isinstance(frame, DataFrame):
            return None if frame.data or "END_STREAM" in frame.flags else "control"
        return None if isinstance(frame, HeadersFrame) else "control"

    def header_block(self, octets: int, continuations: int, limits: H2Limits) -> bool:
        """Whether a header block that is still coming may go on, by its coded size and its frames (RFC9113-10.5-2)."""
        return octets <= limits.header_bytes * BLOCK_FACTOR and continuations <= CONTINUATIONS

    def above_streams(self, open_streams: int, limits: H2Limits) -> bool:
        """Whether a client has as many streams as it may have (RFC9113-5.1.2-2)."""
        return open_streams >= limits.streams
