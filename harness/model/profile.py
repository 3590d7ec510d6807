"""A profile: what one engine claims, how it is started, and its baseline (pure data; harness.profiles reads it)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.model.spec import SettingValue
from harness.model.verdict import Verdict


@dataclass(frozen=True, slots=True)
class BaselineEntry:
    """A known failure: cases whose key matches `case` (shell pattern) may get `verdict`, because of `reason`.

    With `requirement` the entry stands only for a departure from that requirement. `sometimes` says that the engine
    does one or the other from run to run, so that a pass is no surprise.
    """

    case: str
    verdict: Verdict
    reason: str
    requirement: str | None = None
    sometimes: bool = False

    def matches(self, key: str) -> bool:
        """Whether the entry is about the case with this key (`id` or `id[variant]`)."""
        return key == self.case or fnmatch.fnmatchcase(key, self.case.replace("[", "[[]"))

    def __str__(self) -> str:
        about = f" on {self.requirement}" if self.requirement else ""
        return f"{self.case}: {self.verdict}{about}"


@dataclass(frozen=True, slots=True)
class Profile:
    """What one engine claims. `driver` is the table of its kind: `launch`, `agent` or `adapter` (see harness.profiles
    for the keys)."""

    name: str
    title: str
    edition: str
    kind: str
    driver: Mapping[str, Any]
    features: frozenset[str]
    file: str
    own: bool = False
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    baseline: tuple[BaselineEntry, ...] = ()
    notes: str = ""
    shipped: bool = False
    editions: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What is worth something after the run, and must not be in its evidence: the token of its agents."""
        token = self.driver.get("token") if self.kind == "agent" else None
        return (str(token),) if token else ()

    @property
    def file_or_name(self) -> str:
        """What `--engine` takes to find this profile again."""
        return self.name if self.shipped else self.file
