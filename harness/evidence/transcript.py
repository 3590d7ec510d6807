"""The transcript of a case: one line per step on either leg, payloads capped with size and digest."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

from harness.model.event import AGENT, DOWNSTREAM, HARNESS, UPSTREAM, Event

SAMPLE = 256
MAX_EVENTS = 5000


class Transcript:
    """Collects events. `clock` gives seconds (monotonic); the first event is at 0. At most `MAX_EVENTS`; the rest is
    counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._events: list[Event] = []
        self.dropped = 0

    def add(  # the shape of an event, see Event
        self,
        leg: str,
        sender: str,
        receiver: str,
        what: str,
        *,
        detail: str = "",
        data: bytes | None = None,
        channel: str = "",
    ) -> None:
        """Add one step; `data` is kept as size, digest and sample."""
        if len(self._events) >= MAX_EVENTS:
            self.dropped += 1
            return
        self._events.append(
            Event(
                at=round(self._clock() - self._start, 6),
                leg=leg,
                sender=sender,
                receiver=receiver,
                what=what,
                detail=detail,
                channel=channel,
                size=None if data is None else len(data),
                digest=None if data is None else hashlib.sha256(data).hexdigest(),
                sample=None if data is None else data[:SAMPLE].hex(),
            )
        )

    def note(self, what: str, detail: str = "") -> None:
        """A step of the harness itself: a barrier, a publication, a judgement."""
        self.add(HARNESS, "harness", "harness", what, detail=detail)

    def mark_departed(self) -> None:
        """Mark the last step on a leg as the one where the engine departed from what was expected."""
        for index in range(len(self._events) - 1, -1, -1):
            if self._events[index].leg != HARNESS or index == 0:
                self._events[index] = dataclasses.replace(self._events[index], departed=True)
                return

    @property
    def events(self) -> tuple[Event, ...]:
        """All steps so far, in order."""
        return tuple(self._events)

    def channel(self, leg: str, us: str, name: str) -> Channel:
        """A view for one connection: `us` is `client`, `upstream` or `agent`; the other side is the engine."""
        return Channel(self, leg, us, name)


class Channel:
    """One connection's view of the transcript."""

    def __init__(self, transcript: Transcript, leg: str, us: str, name: str) -> None:
        self.transcript = transcript
        self.leg = leg
        self.us = us
        self.name = name

    def sent(self, what: str, *, detail: str = "", data: bytes | None = None) -> None:
        """We said `what` to the engine."""
        self.transcript.add(self.leg, self.us, "engine", what, detail=detail, data=data, channel=self.name)

    def got(self, what: str, *, detail: str = "", data: bytes | None = None) -> None:
        """The engine said `what` to us."""
        self.transcript.add(self.leg, "engine", self.us, what, detail=detail, data=data, channel=self.name)


__all__ = ["AGENT", "DOWNSTREAM", "HARNESS", "UPSTREAM", "Channel", "Transcript"]
