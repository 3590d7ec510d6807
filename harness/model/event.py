"""One line of a transcript: who said what to whom, on which leg."""

from __future__ import annotations

from dataclasses import dataclass

DOWNSTREAM = "downstream"
UPSTREAM = "upstream"
AGENT = "agent"
HARNESS = "harness"
LEGS = (DOWNSTREAM, UPSTREAM, AGENT, HARNESS)
SAMPLE_OCTETS = 128
"""How much of a payload an event keeps."""


@dataclass(frozen=True, slots=True)
class Event:
    """One step. `at` is seconds since the scene began; `leg` one of `LEGS`; `sender`/`receiver` are `client`,
    `engine`, `upstream`, `agent` or `harness`.

    `what` is the step in the field's words (`ClientHello`, `close_notify`, `GET /a HTTP/1.1`, `barrier`), `detail` its
    readable rest. `size` and `digest` describe the whole payload (octets, SHA-256 hex), `sample` is at most its first
    `SAMPLE_OCTETS` octets as hex. `channel` tells several connections on one leg apart (`client-1`). `departed` marks
    the step where the engine departed from what was expected.
    """

    at: float
    leg: str
    sender: str
    receiver: str
    what: str
    detail: str = ""
    channel: str = ""
    size: int | None = None
    digest: str | None = None
    sample: str | None = None
    departed: bool = False
