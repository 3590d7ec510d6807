"""One row of the requirement ledger, as the suite reads it from `fixtures/requirements`."""

from __future__ import annotations

from dataclasses import dataclass

CLAIM = "claim"
"""The ledger of documented claims: rows that the engine's own documentation states."""
RFC = "rfc"
"""The ledger of standards: RFC rows, and engine rows that only an RFC backs."""

MUST_LEVELS = frozenset({"MUST", "MUST NOT"})
SHOULD_LEVELS = frozenset({"SHOULD", "SHOULD NOT"})
LEVELS = MUST_LEVELS | SHOULD_LEVELS | {"MAY"}


@dataclass(frozen=True, slots=True)
class Requirement:
    """A requirement: id, level, section, text, what an observer sees, and the outcomes that pass.

    `chapter` is the ledger's own `area` key with its source (`rfc:tls`, `engine:TLS`, `agent:AGENT`). `allowed` lists
    every outcome that
    passes, in the row's own words; an item marked `recorded` is noted, never red. `rulings` are the ids of the rulings
    that bear on the row.
    """

    id: str
    source: str
    file: str
    chapter: str
    level: str
    priority: int
    text: str
    observable: str
    section: str | None = None
    subject: str | None = None
    marks: tuple[str, ...] = ()
    seed: tuple[int, ...] = ()
    applies_to: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    disputed: str | None = None
    notes: str | None = None
    derived: bool = False
    stated_in: str | None = None
    rfc: str | None = None
    rulings: tuple[str, ...] = ()

    @property
    def ledger(self) -> str:
        """`claim` where the documentation states it, else `rfc`: the two are never added up."""
        documented = {"SEED", "DOCS", "SDK"} & set(self.marks)
        return CLAIM if documented and not self.derived else RFC

    @property
    def binding(self) -> bool:
        """Whether a departure is a `fail`: a MUST of an RFC, or a MUST that the documentation states. All else is a
        `warn`."""
        if self.level not in MUST_LEVELS:
            return False
        return self.ledger == CLAIM or not self.marks

    @property
    def where(self) -> str:
        """The source and section, as a reader would look it up."""
        if self.section:
            return f"{self.source} section {self.section}"
        return self.stated_in or self.source
