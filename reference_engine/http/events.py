"""The neutral events of one HTTP exchange: what a codec makes of octets, and what the other codec is fed with.

No version's syntax shows here, so any downstream codec can be joined to any upstream codec. The order in one
direction is `InformationalHead`*, then one head, `Data`*, then `End` (with the trailer section, which stays apart
from the header section, RFC 9110 section 6.5) or `Reset`.

Field names keep the letter case in which they came; compare them with `.lower()` (RFC 9110 section 5.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Field lines in order, (name, value), values without surrounding whitespace."""


@dataclass(slots=True)
class RequestHead:
    """Request line and header section.

    `version` is `b"1.0"`, `b"1.1"`, `b"2.0"` or `b"3.0"` as the edge reads it. `authority` is what the request says
    apart from its target: the one Host of HTTP/1.1, `:authority` (or Host) of HTTP/2 and HTTP/3; empty where there is
    none. `scheme` counts where the target does not say it.
    """

    method: bytes
    target: bytes
    fields: Fields
    version: bytes = b"1.1"
    authority: bytes = b""
    scheme: bytes = b"https"


@dataclass(slots=True)
class InformationalHead:
    """A 1xx response, 101 included."""

    status: int
    fields: Fields
    reason: bytes = b""


@dataclass(slots=True)
class ResponseHead:
    """Status line and header section of a final response.

    `codings` holds transfer codings other than chunked that lie on the body and that nobody here takes off
    (RFC 9112 section 6.3, item 4 for responses); empty as a rule.
    """

    status: int
    fields: Fields
    reason: bytes = b""
    codings: bytes = b""


@dataclass(slots=True)
class Data:
    """Octets of the content, 1 or more."""

    data: bytes


@dataclass(slots=True)
class End:
    """The message is complete."""

    trailers: Fields = field(default_factory=list)


@dataclass(slots=True)
class Reset:
    """The message will never be complete; `reason` is one of the causes in `errors.CAUSES`."""

    reason: str


Event: TypeAlias = RequestHead | InformationalHead | ResponseHead | Data | End | Reset


def values(fields: Fields, name: bytes) -> list[bytes]:
    """The values of all lines of the field `name` (lower case), in order."""
    found = []
    for key, value in fields:  # a loop: this runs many times for each message, and a comprehension is one call more
        if key.lower() == name:
            found.append(value)
    return found


def members(fields: Fields, name: bytes) -> Iterator[bytes]:
    """The members of the list field `name`, in lower case, empty ones left out (RFC 9110 section 5.6.1.2)."""
    for key, value in fields:
        if key.lower() == name:
            for member in value.split(b","):
                stripped = member.strip(b" \t").lower()
                if stripped:
                    yield stripped


def without(fields: Fields, names: frozenset[bytes] | set[bytes]) -> Fields:
    """The field lines whose lower-case name is not in `names`."""
    return [line for line in fields if line[0].lower() not in names]
