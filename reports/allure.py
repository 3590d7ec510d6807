"""The run as Allure results, written by the package that allure-pytest itself writes with.

The history id holds the engine's profile and edition: two engines, or two editions of one, never become one test with
retries.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from allure_commons.logger import AllureFileLogger
from allure_commons.model2 import Attachment, Label, Parameter, Status, StatusDetails, TestResult, TestStepResult
from allure_commons.types import AttachmentType, LabelType

from harness.model.event import Event
from harness.model.record import CaseResult, EngineInfo, OutcomeRecord, RunRecord
from harness.model.verdict import VERDICTS, Outcome, Verdict
from reports import text
from reports.standing import Standing, failed, reason, standing

_SPACE = uuid.UUID("6d0f6b53-5a0e-5c39-9a39-6f8f6d3a1c57")
"""Namespace of the result ids, so that one record always gives the same ids."""
_OUTCOME_STATUS = {
    Outcome.PASS: Status.PASSED,
    Outcome.INFO: Status.PASSED,
    Outcome.WARN: Status.PASSED,
    Outcome.FAIL: Status.FAILED,
}
_SEVERITIES = {"MUST": "critical", "MUST NOT": "critical", "SHOULD": "normal", "SHOULD NOT": "normal", "MAY": "minor"}
_RANK = ("critical", "normal", "minor")
STEPS_SHOWN = 2000


def write(record: RunRecord, folder: Path) -> int:
    """Write one result file per case, and its attachments, into `folder`, which is made; gives the number of results.

    The status is the one that the table of verdicts names; a known failure keeps it and is marked known, with the
    reason. Cases of one worker are laid end to end from the start of the run: the record keeps how long each took.
    """
    make: Any = AllureFileLogger  # the package has no types
    logger = make(str(folder))
    clocks: dict[str, float] = {}
    begin = _started(record)
    for number, case in enumerate(record.cases):
        start = clocks.get(case.worker, begin)
        clocks[case.worker] = start + case.duration_s
        item = result(record, case, number)
        item.start, item.stop = int(start * 1000), int((start + case.duration_s) * 1000)
        for name, body in _attached(case):
            source = f"{uuid.uuid5(_SPACE, f'{item.uuid}/{name}')}-attachment.txt"
            logger.report_attached_data(body, source)
            item.attachments.append(Attachment(name=name, source=source, type=AttachmentType.TEXT.mime_type))
        logger.report_result(item)
    _environment(record, folder)
    return len(record.cases)


def _started(record: RunRecord) -> float:
    try:
        return datetime.fromisoformat(record.started).timestamp()
    except ValueError:
        return 0.0


def history_id(engine: EngineInfo, case: CaseResult) -> str:
    """What Allure tells one test from another by, over runs: case, variant, profile and edition."""
    named = f"{engine.profile}\0{engine.edition}\0{case.id}\0{case.variant}"
    return hashlib.sha256(named.encode("utf-8", "backslashreplace")).hexdigest()


def result(record: RunRecord, case: CaseResult, number: int) -> TestResult:
    """The Allure result of one case, without times and attachments; `number` is its place in the record."""
    engine = record.engine
    run = f"{engine.profile}/{engine.edition}/{record.started}/{record.seed}/{number}/{case.key}"
    return TestResult(
        uuid=str(uuid.uuid5(_SPACE, text.line(run))),
        historyId=history_id(engine, case),
        testCaseId=hashlib.sha256(case.id.encode("utf-8", "backslashreplace")).hexdigest(),
        name=text.line(f"{case.key}: {case.title}"),
        fullName=text.line(f"{engine.profile}/{engine.edition}: {case.area}/{case.key}"),
        titlePath=[text.line(part) for part in (engine.profile, engine.edition, case.area) if part],
        description=text.block(case.doc) or None,
        status=VERDICTS[case.verdict].allure,
        statusDetails=_details(case),
        stage="finished",
        labels=[Label(name=name, value=text.line(value)) for name, value in _labels(engine, case) if value],
        parameters=[Parameter(name=name, value=text.line(value)) for name, value in _parameters(engine, case) if value],
        steps=[_step(outcome) for outcome in case.outcomes],
    )


def _labels(engine: EngineInfo, case: CaseResult) -> Iterator[tuple[str, str]]:
    yield LabelType.PARENT_SUITE, f"{engine.profile} ({engine.edition})" if engine.edition else engine.profile
    yield LabelType.SUITE, case.area
    yield LabelType.SUB_SUITE, case.id
    yield LabelType.EPIC, engine.name or engine.profile
    yield LabelType.FEATURE, case.area
    for name in dict.fromkeys((*case.requirements, *(outcome.requirement for outcome in case.outcomes))):
        yield LabelType.STORY, name
    yield LabelType.TAG, f"verdict:{case.verdict.value}"
    levels = {_SEVERITIES.get(outcome.level, "normal") for outcome in case.outcomes} or {"normal"}
    yield LabelType.SEVERITY, min(levels, key=_RANK.index)
    yield LabelType.THREAD, case.worker
    yield LabelType.FRAMEWORK, "edgecase"
    yield LabelType.LANGUAGE, "python"


def _parameters(engine: EngineInfo, case: CaseResult) -> Iterator[tuple[str, str]]:
    yield "engine", engine.profile
    yield "edition", engine.edition
    yield "variant", case.variant
    yield "settings", case.settings if case.settings != "default" else ""


def _details(case: CaseResult) -> StatusDetails | None:
    stand = standing(case)
    if stand is Standing.UNEXPECTED_PASS:
        return StatusDetails(message=text.line(f"unexpected pass; the baseline says: {case.baseline_reason}"))
    if case.verdict in (Verdict.PASS, Verdict.INFO):
        return None
    known = stand is Standing.KNOWN
    why = text.line(reason(case)) or VERDICTS[case.verdict].meaning
    message = f"known ({text.line(case.baseline_reason)}): {why}" if known else f"{case.verdict.value}: {why}"
    return StatusDetails(known=True if known else None, message=message, trace=_trace(case) or None)


def _trace(case: CaseResult) -> str:
    sides = [
        text.block(f"{outcome.requirement}\n  expected: {outcome.expected}\n  actual:   {outcome.actual}")
        for outcome in case.outcomes
        if outcome.expected or outcome.actual
    ]
    again = [f"run it again: {text.line(case.reproduce)}"] if case.reproduce else []
    return "\n".join(sides + again)


def _step(outcome: OutcomeRecord) -> TestStepResult:
    rule = " ".join(part for part in (outcome.requirement, outcome.level, outcome.where) if part)
    said = {"outcome": outcome.outcome.value, "ledger": outcome.ledger, "branch": outcome.branch or ""}
    return TestStepResult(
        name=text.line(f"{rule}: {outcome.text}" if outcome.text else rule),
        status=_OUTCOME_STATUS[outcome.outcome],
        statusDetails=StatusDetails(message=text.line(outcome.message)) if outcome.message else None,
        parameters=[Parameter(name=name, value=text.line(value)) for name, value in said.items() if value],
        stage="finished",
    )


def _attached(case: CaseResult) -> Iterator[tuple[str, str]]:
    if not (failed(case.verdict) or case.verdict is Verdict.WARN):
        return
    if case.transcript:
        shown = [_event(index, event) for index, event in enumerate(case.transcript[:STEPS_SHOWN], 1)]
        if len(case.transcript) > len(shown):
            shown.append(f"{len(case.transcript) - len(shown):,} more steps are in run.json")
        yield "transcript of both legs", "\n".join(shown) + "\n"
    if case.engine_log:
        yield "engine log", "\n".join(text.line(entry) for entry in case.engine_log) + "\n"


def _event(number: int, event: Event) -> str:
    mark = "!!" if event.departed else "  "
    size = f" ({event.size:,} octets)" if event.size else ""
    said = f"{event.sender} -> {event.receiver}  {event.channel}  {event.what}{size}  {event.detail}".rstrip()
    return f"{mark}{number:5} {event.at:10.4f}  {text.line(said)}"


def _environment(record: RunRecord, folder: Path) -> None:
    """What Allure shows as the environment of the launch."""
    values = {
        "Engine": f"{record.engine.name} {record.engine.version}".strip(),
        "Edition": record.engine.edition,
        "Profile": record.engine.profile,
        "Suite": record.suite_version,
        "Ledger": record.ledger_digest,
        "Seed": str(record.seed),
    }
    lines = [f"{name}={text.line(value)}".replace("\\", "\\\\") for name, value in values.items() if value]
    (folder / "environment.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")
