"""Outcomes and verdicts, and the one table that says what each means to pytest, JUnit, Allure and the exit code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What one requirement got in one run of one case."""

    PASS = "pass"
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"


class Verdict(StrEnum):
    """What one case got: the worst outcome of its requirements, or why there is none."""

    PASS = "pass"
    INFO = "info"
    WARN = "warn"
    FAIL = "fail"
    UNSUPPORTED = "unsupported"
    SETUP = "setup"
    CRASH = "crash"
    HARNESS = "harness"


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One row of the table: how a verdict is shown elsewhere, and what it does to the exit code when unexpected.

    `pytest` is `passed`, `failed` or `skipped`; `junit` the element beside the test case (`None`: none); `allure` the
    status name of Allure; `exit_code` what an *unexpected* verdict of this kind makes the command end with.
    """

    verdict: Verdict
    letter: str
    pytest: str
    junit: str | None
    allure: str
    exit_code: int
    meaning: str


VERDICTS: dict[Verdict, VerdictRow] = {
    row.verdict: row
    for row in (
        VerdictRow(Verdict.PASS, ".", "passed", None, "passed", 0, "every requirement was met"),
        VerdictRow(
            Verdict.INFO, "i", "passed", None, "passed", 0, "met; a choice that the texts leave open is recorded"
        ),
        VerdictRow(
            Verdict.WARN,
            "w",
            "passed",
            None,
            "passed",
            0,
            "a SHOULD, or a rule without a documented claim, was not met",
        ),
        VerdictRow(Verdict.FAIL, "F", "failed", "failure", "failed", 1, "the engine broke a requirement"),
        VerdictRow(
            Verdict.UNSUPPORTED,
            "u",
            "skipped",
            "skipped",
            "skipped",
            0,
            "the engine or its adapter does not offer what the case needs",
        ),
        VerdictRow(
            Verdict.SETUP,
            "S",
            "failed",
            "error",
            "broken",
            1,
            "the ground for the case could not be laid; says nothing about the engine",
        ),
        VerdictRow(Verdict.CRASH, "C", "failed", "error", "broken", 1, "the engine died while the case ran"),
        VerdictRow(Verdict.HARNESS, "H", "failed", "error", "broken", 3, "our own fault; please report it"),
    )
}

_ORDER = (Outcome.PASS, Outcome.INFO, Outcome.WARN, Outcome.FAIL)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of `outcomes`; `pass` of none."""
    return max(outcomes, key=_ORDER.index, default=Outcome.PASS)
