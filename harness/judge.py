"""Judgement: turns what a script saw into one outcome per requirement, and nothing into less than it is.

A departure from a binding rule (`Requirement.binding`) is a `fail`, from a MAY row an `info`, from anything else a
`warn`. Accepted
outcomes are named by the row's own `allowed` items; an item that the ledger marks `recorded` is an `info`. Several
judgements of one
requirement add up to the worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness.errors import EngineDeparted
from harness.evidence.transcript import Transcript
from harness.ledger import is_recorded
from harness.link.stream import LinkReset
from harness.model.case import Case
from harness.model.record import OutcomeRecord
from harness.model.requirement import Requirement
from harness.model.verdict import Outcome, worst

MESSAGE_LIMIT = 2000


class LedgerView(Protocol):
    """What a judge needs of the ledger."""

    def __getitem__(self, requirement_id: str) -> Requirement:
        """The row."""

    def branch(self, requirement_id: str, name: str) -> str:
        """The item of the row's `allowed` that `name` names."""


class Departed(Exception):  # noqa: N818 - ends a script, not an error
    """A binding requirement was not met; the script ends here."""


class MisuseError(Exception):
    """The case itself is wrong: it judges what it does not declare, or names a branch that the row does not have."""


class Judge:
    """Collects the outcomes of one run of one case."""

    def __init__(self, ledger: LedgerView, case: Case, transcript: Transcript) -> None:
        self._ledger = ledger
        self._case = case
        self._transcript = transcript
        self._outcomes: dict[str, OutcomeRecord] = {}

    # judgements

    def expect(
        self, requirement: str, condition: bool, *, expected: str, actual: str, branch: str | None = None
    ) -> bool:
        """`condition` must hold for `requirement`. Ends the case on a failed binding row; returns `condition`
        otherwise."""
        row = self._row(requirement)
        if condition:
            self._put(row, Outcome.PASS, branch=branch and self._branch(requirement, branch))
            return True
        self.depart(requirement, expected=expected, actual=actual)
        return False

    def allow(self, requirement: str, branch: str) -> None:
        """The engine did what the row's `allowed` item `branch` says (its beginning is enough): pass, or info where it
        is recorded."""
        row = self._row(requirement)
        named = self._branch(requirement, branch)
        self._put(row, Outcome.INFO if is_recorded(named) else Outcome.PASS, branch=named)

    def record(self, requirement: str, what: str) -> None:
        """Note what the engine chose where the texts leave it open (a MAY row, a disputed point, a ruling that says
        record)."""
        self._transcript.note("recorded", f"{requirement}: {what}")
        self._put(self._row(requirement), Outcome.INFO, message=what)

    def not_run(self, requirement: str, reason: str) -> None:
        """This row cannot be shown here (`not run: never negotiates CBC`): noted, never a pass."""
        self._put(self._row(requirement), Outcome.INFO, message=f"not run: {reason}")

    def depart(self, requirement: str, *, expected: str, actual: str) -> None:
        """The engine did something that no text permits. Raises `Departed` where the row is binding."""
        row = self._row(requirement)
        outcome = Outcome.FAIL if row.binding else Outcome.INFO if row.level == "MAY" else Outcome.WARN
        message = f"{row.id} ({row.where}): {row.text} Expected {expected}; got {actual}."
        self._transcript.mark_departed()
        self._transcript.note("departed", f"{row.id}: expected {expected}; got {actual}")
        self._put(row, outcome, message=message[:MESSAGE_LIMIT], expected=expected, actual=actual)
        if outcome is Outcome.FAIL:
            raise Departed(row.id)

    @contextmanager
    def judging(self, *requirements: str, ends: bool = False) -> Iterator[None]:
        """Inside the block, whatever the engine does against the script is judged under `requirements`; after it the
        script goes on, unless a row binds. With `ends` a departure ends it in any case: where the rest of the script
        needs what the block was to give.

        The rows get no pass from the block alone: say `expect` or `allow` for that.
        """
        try:
            yield
        except (EngineDeparted, LinkReset) as seen:
            expected, actual = departure_of(seen)
            self._depart_all(requirements, expected, actual)
            if ends:
                raise Departed(requirements[0]) from seen

    def _depart_all(self, requirements: tuple[str, ...], expected: str, actual: str) -> None:
        departed: Departed | None = None
        for requirement in requirements:
            try:
                self.depart(requirement, expected=expected, actual=actual)
            except Departed as end:
                departed = end
        if departed:
            raise departed

    # results

    @property
    def outcomes(self) -> tuple[OutcomeRecord, ...]:
        """One record per judged requirement, in the order that the case declares them."""
        return tuple(self._outcomes[name] for name in self._case.requirements if name in self._outcomes)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Declared requirements that nothing was said about."""
        return tuple(name for name in self._case.requirements if name not in self._outcomes)

    def _row(self, requirement: str) -> Requirement:
        if requirement not in self._case.requirements:
            raise MisuseError(f"{self._case.id} judges {requirement} but does not declare it in checks=")
        return self._ledger[requirement]

    def _branch(self, requirement: str, name: str) -> str:
        return self._ledger.branch(requirement, name)

    def _put(
        self,
        row: Requirement,
        outcome: Outcome,
        *,
        branch: str | None = None,
        message: str = "",
        expected: str = "",
        actual: str = "",
    ) -> None:
        known = self._outcomes.get(row.id)
        if known is not None and worst((known.outcome, outcome)) is known.outcome:
            return
        self._outcomes[row.id] = OutcomeRecord(
            requirement=row.id,
            ledger=row.ledger,
            outcome=outcome,
            branch=branch,
            message=message,
            level=row.level,
            where=row.where,
            text=row.text,
            expected=expected,
            actual=actual,
        )


def departure_of(seen: EngineDeparted | LinkReset) -> tuple[str, str]:
    """Expected and actual, in words, of what a peer raised."""
    if isinstance(seen, EngineDeparted):
        return seen.expected, seen.actual
    return "the connection to stay open", seen.reason
