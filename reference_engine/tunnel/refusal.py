"""How the engine says no to a request of the agent protocol: a code, the property at fault, and words."""

from __future__ import annotations

from dataclasses import dataclass

UNAUTHORIZED = 1000
INVALID_REQUEST = 2000
VERSION_MISSING = 2010
VERSION_INVALID = 2020
VERSION_INCOMPATIBLE = 2030
TUNNEL_NOT_FOUND = 3000
INVALID_STREAM = 4000
FEATURE_NOT_AVAILABLE = 5000
SERVICE_UNAVAILABLE = 6000
CAPACITY_EXHAUSTED = 7000
INTERNAL = 9000


@dataclass(frozen=True, slots=True)
class Refusal:
    """`code` is one of the numbers above; `property` names the field of the request, or is empty."""

    code: int
    property: str
    message: str
