"""The transcript of a case: one line per step on either leg, payloads capped with size and digest."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Collection

from harness.model.event import AGENT, DOWNSTREAM, HARNESS, SAMPLE_OCTETS, UPSTREAM, Event

KEPT_AT_EACH_END = 400
"""Steps kept from the beginning, and as many from the end: what departs is near one of them."""


class Transcript:
    """Collects events. `clock` gives seconds (monotonic); it begins at `start`, from which events
    count.

    The first and the last `KEPT_AT_EACH_END` are kept; `dropped` counts those between them.
    Each of `secrets` becomes as many asterisks; `confidential` names the connections on which one was seen.
    """

    def __init__(self, clock: Callable[[], float], *, secrets: Collection[str] = ()) -> None:
        self._clock = clock
        self._secrets = tuple(secret.encode() for secret in secrets if secret)
        self._tails: dict[tuple[str, str], bytes] = {}
        self.confidential: set[str] = set()
        self.start = clock()
        self._first: list[Event] = []
        self._last: deque[Event] = deque(maxlen=KEPT_AT_EACH_END)
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
        if self._secrets:
            what, detail = self._clean_text(what, channel), self._clean_text(detail, channel)
            data = None if data is None else self._without_secrets(data, channel)
        self._keep(
            Event(
                at=round(self._clock() - self.start, 6),
                leg=leg,
                sender=sender,
                receiver=receiver,
                what=what,
                detail=detail,
                channel=channel,
                size=None if data is None else len(data),
                digest=None if data is None else hashlib.sha256(data).hexdigest(),
                sample=None if data is None else data[:SAMPLE_OCTETS].hex(),
            )
        )
        if self._secrets and data:
            self._hide_pieces(channel, sender, data)

    def _without_secrets(self, data: bytes, channel: str) -> bytes:
        for secret in self._secrets:
            if secret in data:
                self.confidential.add(channel)
                data = data.replace(secret, b"*" * len(secret))
        return data

    def _clean_text(self, text: str, channel: str) -> str:
        return self._without_secrets(text.encode("utf-8", "surrogatepass"), channel).decode("utf-8", "surrogatepass")

    def _hide_pieces(self, channel: str, sender: str, data: bytes) -> None:
        """Blank the steps of a secret that came in pieces, octet by octet maybe."""
        tail = self._tails.get((channel, sender), b"") + data
        if any(secret in tail for secret in self._secrets):
            self.confidential.add(channel)
            left = len(tail)
            for kept in (self._last, self._first):
                for index in range(len(kept) - 1, -1, -1):
                    event = kept[index]
                    if left > 0 and (event.channel, event.sender) == (channel, sender) and event.size:
                        kept[index] = dataclasses.replace(event, digest=None, sample=b"*".hex())
                        left -= event.size
            tail = b""
        self._tails[channel, sender] = tail[-max(map(len, self._secrets)) :]

    def note(self, what: str, detail: str = "") -> None:
        """A step of the harness itself: a barrier, a publication, a judgement."""
        self.add(HARNESS, "harness", "harness", what, detail=detail)

    def _keep(self, event: Event) -> None:
        if len(self._first) < KEPT_AT_EACH_END:
            self._first.append(event)
            return
        self.dropped += len(self._last) == KEPT_AT_EACH_END
        self._last.append(event)

    def mark_departed(self) -> None:
        """Mark the last step on a leg as the one where the engine departed from what was expected."""
        for kept in (self._last, self._first):
            for index in range(len(kept) - 1, -1, -1):
                if kept[index].leg != HARNESS:
                    kept[index] = dataclasses.replace(kept[index], departed=True)
                    return

    @property
    def events(self) -> tuple[Event, ...]:
        """All steps that were kept, in order, with a line for those that were not."""
        if not self.dropped:
            return (*self._first, *self._last)
        gap = Event(self._first[-1].at, HARNESS, "harness", "harness", "left out", f"{self.dropped} steps")
        return (*self._first, gap, *self._last)

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
