"""How fast packets may follow each other: aioquic's pacer, made to fit timers that have a resolution."""

from __future__ import annotations

from aioquic.quic.recovery import K_MICRO_SECOND, QuicPacketPacer

AHEAD = 1.25
"""Faster than one window in one round trip, so that a small error of the estimate leaves no window unused
(RFC 9002 section 7.7)."""
TICK = 0.001
"""Seconds that a timer of the loop may be late: what fits in them may leave at once, or a short round trip would be
spent on waiting for timers."""


class Pacer(QuicPacketPacer):
    """Stock aioquic paces at exactly one window in a round trip, and lets at most 16 packets leave at once."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """The window or the round trip time (seconds) changed."""
        super().update_rate(congestion_window, smoothed_rtt)
        if self.packet_time is not None:
            self.packet_time = max(K_MICRO_SECOND, self.packet_time / AHEAD)
        self.bucket_max = max(self.bucket_max / AHEAD, TICK)
