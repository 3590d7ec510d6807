"""The report as JUnit XML, for CI systems: a suite per area, a test case per result."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from harness.model.record import BaselineProblem, CaseResult, RunRecord
from harness.model.verdict import VERDICTS
from reports import text
from reports.standing import Standing, reason, standing

LOG_LINES = 20
MESSAGE_LIMIT = 500
DETAILS_LIMIT = 20_000


def render(record: RunRecord) -> str:
    """The XML document.

    The element beside a test case is the one that the table of verdicts names. A known failure is `skipped` with the
    baseline's reason; an unexpected pass, a wrong entry of the baseline and a run that stopped are failures, since they
    make the run end with 1. Characters that XML cannot carry become visible names.
    """
    areas: dict[str, list[CaseResult]] = {}
    for case in record.cases:
        areas.setdefault(case.area, []).append(case)
    suites = [_suite(record, area, areas[area]) for area in sorted(areas)]
    about_the_run = _run_suite(record)
    if about_the_run is not None:
        suites.append(about_the_run)
    root = ET.Element("testsuites", {"name": f"edgecase {_engine(record)}"})
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.set("time", f"{record.duration_s:.3f}")
    root.extend(suites)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _engine(record: RunRecord) -> str:
    parts = (record.engine.profile, record.engine.version, record.engine.edition)
    return text.line(" ".join(part for part in parts if part))


def _suite(record: RunRecord, area: str, cases: Sequence[CaseResult]) -> ET.Element:
    suite = ET.Element("testsuite", {"name": f"edgecase.{text.line(area)}", "timestamp": text.line(record.started)})
    suite.append(_properties(record))
    suite.extend(_case(case) for case in cases)
    _count(suite)
    suite.set("time", f"{sum(case.duration_s for case in cases):.3f}")
    return suite


def _count(suite: ET.Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for key, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(len(suite.findall(f"testcase/{element}"))))


def _properties(record: RunRecord) -> ET.Element:
    values = {
        "engine": record.engine.name,
        "engine_version": record.engine.version,
        "edition": record.engine.edition,
        "profile": record.engine.profile,
        "suite_version": record.suite_version,
        "ledger_digest": record.ledger_digest,
        "seed": str(record.seed),
    }
    properties = ET.Element("properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", {"name": name, "value": text.line(value)})
    return properties


def _case(case: CaseResult) -> ET.Element:
    element = ET.Element(
        "testcase",
        {
            "classname": f"{text.line(case.area)}.{text.line(case.id)}",
            "name": text.line(case.key),
            "time": f"{case.duration_s:.3f}",
        },
    )
    if case.file:
        element.set("file", text.line(case.file))
        element.set("line", str(case.line))
    properties = ET.SubElement(element, "properties")
    ET.SubElement(properties, "property", {"name": "verdict", "value": case.verdict.value})
    for outcome in case.outcomes:
        value = f"{outcome.requirement}: {outcome.outcome.value}"
        ET.SubElement(properties, "property", {"name": "requirement", "value": text.line(value)})
    _result(element, case)
    return element


def _result(element: ET.Element, case: CaseResult) -> None:
    stand = standing(case)
    why = text.line(reason(case), MESSAGE_LIMIT)
    if stand is Standing.KNOWN and VERDICTS[case.verdict].junit:
        message = f"known {case.verdict.value}: {text.line(case.baseline_reason, MESSAGE_LIMIT)}"
        _child(element, "skipped", message, case.verdict.value, why)
    elif stand is Standing.UNEXPECTED_PASS:
        message = f"unexpected pass: the baseline lists it as known: {text.line(case.baseline_reason, MESSAGE_LIMIT)}"
        _child(element, "failure", message, "unexpected-pass", why)
    elif (kind := VERDICTS[case.verdict].junit) is not None:
        details = "" if kind == "skipped" else _details(case)
        _child(element, kind, why or VERDICTS[case.verdict].meaning, case.verdict.value, details)


def _child(element: ET.Element, kind: str, message: str, type_: str, details: str) -> None:
    """The element of a verdict. Whatever the parts did, nothing goes out that XML cannot carry."""
    child = ET.SubElement(element, kind, {"message": text.line(message, 2 * MESSAGE_LIMIT), "type": type_})
    if details and details != message:
        child.text = text.block(details, DETAILS_LIMIT)


def _details(case: CaseResult) -> str:
    """What a CI page shows on a click: each departure with expected and actual, the end of the log, and the command."""
    lines = []
    for outcome in case.outcomes:
        if outcome.outcome.value in ("fail", "warn"):
            lines.append(f"{outcome.outcome.value} {outcome.requirement} ({outcome.level}, {outcome.where})")
            told = ("requirement", outcome.text), ("message", outcome.message)
            sides = ("expected", outcome.expected), ("actual", outcome.actual)
            lines.extend(f"  {name}: {text.line(value)}" for name, value in (*told, *sides) if value)
    if case.cause:
        lines.append(f"cause: {text.line(case.cause)}")
    if case.engine_log:
        lines.append("engine log:")
        lines.extend(f"  {text.line(entry)}" for entry in case.engine_log[-LOG_LINES:])
    if case.capture:
        lines.append(f"wire: {text.line(case.capture)}")
    lines.extend(f"qlog: {text.line(path)}" for path in case.qlogs)
    if case.reproduce:
        lines.append(f"run it again: {text.line(case.reproduce)}")
    return "\n".join(lines)


def _run_suite(record: RunRecord) -> ET.Element | None:
    """What is wrong with the run itself: entries of the baseline, and why it stopped."""
    shown = {case.key for case in record.cases if standing(case) is Standing.UNEXPECTED_PASS}
    problems = [problem for problem in record.baseline_problems if problem.entry not in shown]
    if not problems and not record.stopped:
        return None
    suite = ET.Element("testsuite", {"name": "edgecase.run", "timestamp": text.line(record.started)})
    suite.extend(_problem(problem) for problem in problems)
    if record.stopped:
        element = ET.SubElement(suite, "testcase", {"classname": "run", "name": "completes", "time": "0.000"})
        _child(element, "error", text.line(record.stopped), "stopped", "")
    _count(suite)
    suite.set("time", "0.000")
    return suite


def _problem(problem: BaselineProblem) -> ET.Element:
    element = ET.Element("testcase", {"classname": "run.baseline", "name": text.line(problem.entry), "time": "0.000"})
    _child(element, "failure", text.line(f"{problem.kind}: {problem.reason}"), text.line(problem.kind), "")
    return element
