"""Names of published tunnels: which are well formed, which belong to whom, and how one is made up (EDGE-011, EDGE-012).

All of them live one label below the tunnel zone `t.<domain>`. On the community edition the label is free; elsewhere it
ends with the project, `<slug>-<project>`. Names are compared and kept in lower case (RFC 6066 section 3, RFC 4343).
"""

from __future__ import annotations

import re
import secrets

LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A label of letters, digits and inner hyphens, 1 to 63 octets (RFC 1034 section 3.5, RFC 1123 section 2.1)."""


def label_of(name: str, zone: str) -> str | None:
    """The single label of `name` below `zone`, in lower case; None when the name is not of that form."""
    label, dot, parent = name.lower().partition(".")
    return label if dot and parent == zone and LABEL.fullmatch(label) else None


def requested(name: str, *, zone: str, project: str | None) -> str | None:
    """The full name that a request for `name` gets, or None when it must be refused.

    `project` is None where labels are free; there a bare label stands for `<label>.<zone>` too.
    """
    if project is None:
        full = name.lower() if "." in name else f"{name.lower()}.{zone}"
        return full if label_of(full, zone) is not None else None
    label = label_of(name, zone)
    if label is None or not label.endswith(f"-{project}") or len(label) == len(project) + 1:
        return None
    return name.lower()


def made_up(*, zone: str, project: str | None) -> str:
    """A fresh name under `zone` that nobody can guess or mistake for a chosen one."""
    label = "r" + secrets.token_hex(6)
    return f"{label}.{zone}" if project is None else f"{label}-{project}.{zone}"
