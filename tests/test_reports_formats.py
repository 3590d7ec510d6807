"""The other shapes of the record: schema, JUnit, Allure, the summary and the exit code."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from jsonschema import Draft202012Validator

from harness.model import event as event_model
from harness.model import record as model
from harness.model.record import CaseResult, RunRecord, from_json, read_record, to_json
from harness.model.requirement import CLAIM, RFC
from harness.model.verdict import VERDICTS, Outcome, Verdict
from reports import allure, junit, schema, summary
from reports.standing import Standing, exit_code, headline, reason, standing
from tests.golden.sample import RECORD, case, outcome
from tests.test_reports_html import HOSTILE, everywhere

GOLDEN = Path(__file__).parent / "golden"
REGENERATE = "differs from the golden file; after a wanted change run `python -m tests.golden` and read the difference"


def result(verdict: Verdict, *, expected: bool = True, why: str = "") -> CaseResult:
    return case("some-case-01", "tls", "A case", verdict=verdict, expected=expected, baseline_reason=why)


def run(*cases: CaseResult, **more: Any) -> RunRecord:
    return replace(RECORD, cases=cases, baseline_problems=more.pop("baseline_problems", ()), **more)


# -- golden files


def test_the_golden_record_is_the_sample() -> None:
    assert read_record(GOLDEN / "run.json") == RECORD, REGENERATE


def test_the_golden_junit() -> None:
    assert (GOLDEN / "junit.xml").read_text(encoding="utf-8") == junit.render(RECORD), REGENERATE


def test_the_golden_summary() -> None:
    assert (GOLDEN / "summary.txt").read_text(encoding="utf-8") == summary.text(RECORD) + "\n", REGENERATE


# -- schema

DEFINITIONS = {
    None: model.RunRecord,
    "engine": model.EngineInfo,
    "case": model.CaseResult,
    "outcome_record": model.OutcomeRecord,
    "event": event_model.Event,
    "baseline_problem": model.BaselineProblem,
}
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def definition(name: str | None) -> dict[str, Any]:
    found: dict[str, Any] = schema.schema() if name is None else schema.schema()["$defs"][name]
    return found


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema.schema())


@pytest.mark.parametrize(("name", "kind"), DEFINITIONS.items(), ids=str)
def test_schema_and_dataclass_agree_key_by_key(name: str | None, kind: Any) -> None:
    fields = dataclasses.fields(kind)
    shape = definition(name)
    assert list(shape["properties"]) == [field.name for field in fields]
    assert shape["required"] == [field.name for field in fields if field.default is dataclasses.MISSING]
    assert shape["additionalProperties"] is False
    assert all("$ref" in value or value["description"] for value in shape["properties"].values())


@pytest.mark.parametrize(("name", "kind"), DEFINITIONS.items(), ids=str)
def test_schema_and_dataclass_agree_on_plain_types(name: str | None, kind: Any) -> None:
    hints = typing.get_type_hints(kind)
    for key, shape in definition(name)["properties"].items():
        hint = hints[key]
        if typing.get_origin(hint) is tuple:
            assert shape["type"] == "array"
        elif "anyOf" in shape:
            assert type(None) in typing.get_args(hint)
        elif "type" in shape:
            assert shape["type"] == JSON_TYPES[hint]


def test_schema_and_enums_agree() -> None:
    shapes = schema.schema()["$defs"]
    assert shapes["verdict"]["enum"] == [verdict.value for verdict in Verdict]
    assert shapes["outcome"]["enum"] == [outcome.value for outcome in Outcome]
    assert shapes["outcome_record"]["properties"]["ledger"]["enum"] == [CLAIM, RFC]
    assert shapes["event"]["properties"]["leg"]["enum"] == list(event_model.LEGS)
    assert schema.schema()["properties"]["schema"]["const"] == model.SCHEMA_VERSION


def test_a_record_is_valid_and_comes_back() -> None:
    data = json.loads(json.dumps(to_json(RECORD)))
    assert schema.validate(data) == []
    assert from_json(RunRecord, data) == RECORD


def test_a_record_of_hostile_text_is_written_and_comes_back(tmp_path: Path) -> None:
    record = everywhere(HOSTILE)
    model.write_record(record, tmp_path / "run.json")
    assert read_record(tmp_path / "run.json") == record


BROKEN = [
    (lambda run: run["cases"][3].update(verdict="failed"),
     'run.cases[3].verdict: found "failed", allowed is pass, info, warn, fail, unsupported, setup, crash, harness'),
    (lambda run: run.pop("seed"), "run: missing key seed"),
    (lambda run: run["engine"].update(colour="red"), "run.engine: unknown key colour"),
    (lambda run: run["cases"][0].update(duration_s="1"), 'run.cases[0].duration_s: found "1", allowed is number'),
    (lambda run: run["cases"][0].update(duration_s=-1), "run.cases[0].duration_s: found -1, allowed is 0 or more"),
    (lambda run: run.update(schema=2), "run.schema: found 2, allowed is 1"),
    (lambda run: run["cases"][0].update(id=""), 'run.cases[0].id: found "", allowed is a text that is not empty'),
    (lambda run: run["cases"][0]["outcomes"][0].update(branch=7),
     "run.cases[0].outcomes[0].branch: found 7, allowed is string or null (The item of the row's"),
    (lambda run: run["cases"][0]["transcript"][1].update(sample="xyz"), "run.cases[0].transcript[1].sample: found"),
]  # fmt: skip


def test_the_schema_knows_how_much_of_a_payload_is_kept() -> None:
    allowed = definition("event")["properties"]["sample"]
    assert f"first {event_model.SAMPLE_OCTETS} octets" in allowed["description"]
    assert allowed["anyOf"][0]["maxLength"] == 2 * event_model.SAMPLE_OCTETS


@pytest.mark.parametrize(("spoil", "line"), BROKEN)
def test_what_is_wrong_is_said_in_one_line(spoil: Any, line: str) -> None:
    data = json.loads(json.dumps(to_json(RECORD)))
    spoil(data)
    problems = schema.validate(data)
    assert len(problems) == 1
    assert problems[0].startswith(line)
    assert "\n" not in problems[0]


def test_many_problems_are_cut_and_garbage_is_named() -> None:
    data = json.loads(json.dumps(to_json(RECORD)))
    data["cases"] = [HOSTILE] * 300
    problems = schema.validate(data)
    assert len(problems) == 51
    assert problems[-1] == "and 250 more problems"
    assert not any(sign in "".join(problems) for sign in "\x1b\x00\n")
    assert schema.validate(None) == ["run: found null, allowed is object"]


# -- standing and exit code

STANDINGS = [
    (result(Verdict.PASS), Standing.USUAL, 0),
    (result(Verdict.INFO), Standing.USUAL, 0),
    (result(Verdict.WARN), Standing.USUAL, 0),
    (result(Verdict.WARN, expected=False), Standing.USUAL, 0),
    (result(Verdict.WARN, why="known since 4.0"), Standing.KNOWN, 0),
    (result(Verdict.UNSUPPORTED), Standing.USUAL, 0),
    (result(Verdict.FAIL, expected=False), Standing.UNEXPECTED, 1),
    (result(Verdict.FAIL, why="ACME-1"), Standing.KNOWN, 0),
    (result(Verdict.FAIL), Standing.UNEXPECTED, 1),  # `expected` without a reason is not believed
    (result(Verdict.FAIL, expected=False, why="listed as warn"), Standing.UNEXPECTED, 1),
    (result(Verdict.SETUP, expected=False), Standing.UNEXPECTED, 1),
    (result(Verdict.SETUP, why="ACME-2"), Standing.KNOWN, 0),
    (result(Verdict.CRASH, expected=False), Standing.UNEXPECTED, 1),
    (result(Verdict.HARNESS, expected=False), Standing.UNEXPECTED, 3),
    (result(Verdict.HARNESS, why="no baseline covers us"), Standing.UNEXPECTED, 3),
    (result(Verdict.PASS, expected=False, why="ACME-3"), Standing.UNEXPECTED_PASS, 1),
    (result(Verdict.INFO, expected=False, why="ACME-3"), Standing.UNEXPECTED_PASS, 1),
    (result(Verdict.WARN, expected=False, why="listed as fail"), Standing.UNEXPECTED_PASS, 1),
    (result(Verdict.UNSUPPORTED, expected=False, why="listed as fail"), Standing.UNEXPECTED_PASS, 1),
]


@pytest.mark.parametrize(("given", "stand", "code"), STANDINGS)
def test_standing_and_exit_code(given: CaseResult, stand: Standing, code: int) -> None:
    assert standing(given) is stand
    assert exit_code(run(given)) == summary.exit_code(run(given)) == code


def test_a_fault_of_the_harness_beats_a_failure() -> None:
    assert exit_code(run(result(Verdict.FAIL, expected=False), result(Verdict.HARNESS, expected=False))) == 3


def test_wrong_baseline_entries_a_stop_and_an_empty_run_end_with_1() -> None:
    fine = result(Verdict.PASS)
    assert exit_code(run(fine, baseline_problems=RECORD.baseline_problems[1:])) == 1
    assert exit_code(run(fine, stopped="5 crashes in a row")) == 1
    assert exit_code(run()) == 1
    assert exit_code(run(fine)) == 0


HEADLINES = [
    (run(), "No case was run: nothing has been shown about this engine."),
    (run(result(Verdict.UNSUPPORTED)), "No case was run: nothing has been shown about this engine."),
    (run(result(Verdict.PASS)), "None of 1 case failed."),
    (run(result(Verdict.PASS), result(Verdict.UNSUPPORTED)),
     "None of 1 case failed. 1 more could not run: the engine does not offer what is needed."),
    (run(result(Verdict.PASS), result(Verdict.FAIL, why="x")), "1 of 2 cases failed. All of this is known."),
    (run(result(Verdict.PASS), baseline_problems=RECORD.baseline_problems[1:]),
     "None of 1 case failed. Wrong in the baseline: 1 entry."),
    (run(result(Verdict.PASS, expected=False)), "None of 1 case failed. Wrong in the baseline: 1 entry."),
    (run(result(Verdict.SETUP), result(Verdict.HARNESS)),
     "None of 2 cases failed; 1 could not be set up and 1 hit a fault of the harness."),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), HEADLINES)
def test_headline(given: RunRecord, words: str) -> None:
    assert headline(given) == words


def test_the_reason_is_the_outcome_that_made_the_verdict() -> None:
    both = case(
        "a-01",
        "tls",
        "A",
        outcome("TLS-002", Outcome.WARN, message="soft"),
        outcome("ALPN-004", Outcome.FAIL, message="hard"),
    )
    assert reason(both) == "ALPN-004: hard"
    assert reason(result(Verdict.PASS)) == ""


# -- JUnit


@pytest.mark.parametrize("verdict", list(Verdict))
def test_junit_takes_the_element_from_the_table(verdict: Verdict) -> None:
    root = ET.fromstring(junit.render(run(result(verdict, expected=False))))
    element = VERDICTS[verdict].junit
    if verdict in (Verdict.PASS, Verdict.INFO):
        element = "failure"  # expected to fail, and did not
    found = [child.tag for child in root.iter() if child.tag in ("failure", "error", "skipped")]
    assert found == ([element] if element else [])


def test_junit_shows_known_failures_as_skipped_with_the_reason() -> None:
    root = ET.fromstring(junit.render(run(result(Verdict.FAIL, why="ACME-1182"))))
    skipped = root.find("testsuite/testcase/skipped")
    assert skipped is not None
    assert skipped.get("message") == "known fail: ACME-1182"
    assert root.get("failures") == "0"


def test_junit_counts_and_the_baseline() -> None:
    root = ET.fromstring(junit.render(replace(RECORD, stopped="20 deadlines in a row")))
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "31", "failures": "4", "errors": "3", "skipped": "4",
    }  # fmt: skip
    assert [suite.get("name") for suite in root][-1] == "edgecase.run"
    names = [item.get("name") for item in root.findall("testsuite[@name='edgecase.run']/testcase")]
    assert names == ["sni-routing-1*", "completes"]


def test_junit_of_hostile_text_is_xml() -> None:
    root = ET.fromstring(junit.render(everywhere(HOSTILE)).encode())
    assert "\u241b[31m" in "".join(root.itertext())
    assert len(junit.render(everywhere("x" * 10_000_000))) < 50_000


# -- Allure


def written(folder: Path, record: RunRecord) -> list[dict[str, Any]]:
    assert allure.write(record, folder) == len(record.cases)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*-result.json")]
    assert len(found) == len(record.cases)
    return sorted(found, key=lambda item: str(item["fullName"]))


def test_allure_status_comes_from_the_table(tmp_path: Path) -> None:
    for item, given in zip(
        written(tmp_path, RECORD), sorted(RECORD.cases, key=lambda case: f"{case.area}/{case.key}"), strict=True
    ):
        assert item["fullName"] == f"acme/community: {given.area}/{given.key}"
        assert item["status"] == VERDICTS[given.verdict].allure
        assert item["stop"] - item["start"] in (int(given.duration_s * 1000), int(given.duration_s * 1000) + 1)
        stories = [label["value"] for label in item["labels"] if label["name"] == "story"]
        assert stories == list(given.requirements)


def test_allure_keeps_a_known_failure_failed_and_says_known(tmp_path: Path) -> None:
    (item,) = written(tmp_path, run(result(Verdict.FAIL, why="ACME-1182")))
    assert item["status"] == "failed"
    assert item["statusDetails"]["known"] is True
    assert "ACME-1182" in item["statusDetails"]["message"]


def test_allure_attaches_both_legs_and_the_log(tmp_path: Path) -> None:
    item = next(item for item in written(tmp_path, RECORD) if "alpn-overlap-02" in item["fullName"])
    texts = {part["name"]: (tmp_path / part["source"]).read_text(encoding="utf-8") for part in item["attachments"]}
    assert (
        "!!    4     0.0051  engine -> client  client-1  ServerHello (125 octets)" in texts["transcript of both legs"]
    )
    assert "alpn: no overlap" in texts["engine log"]
    assert [step["status"] for step in item["steps"]] == ["failed", "failed"]


def test_engines_editions_and_variants_have_histories_of_their_own() -> None:
    engine, first = RECORD.engine, RECORD.cases[0]
    ids = {
        allure.history_id(engine, first),
        allure.history_id(replace(engine, profile="other"), first),
        allure.history_id(replace(engine, edition="enterprise"), first),
        allure.history_id(engine, replace(first, variant="other")),
    }
    assert len(ids) == 4
    assert allure.history_id(replace(engine, version="9"), replace(first, worker="gw3", duration_s=9)) in ids


def test_allure_of_hostile_text(tmp_path: Path) -> None:
    found = written(tmp_path, everywhere(HOSTILE))
    assert "\x1b" not in json.dumps(found, ensure_ascii=False)
    environment = (tmp_path / "environment.properties").read_text(encoding="utf-8")
    assert len(environment.splitlines()) == 6


# -- the summary


def test_the_summary_is_short_and_cannot_steer_a_terminal() -> None:
    told = summary.text(everywhere(HOSTILE))
    assert not any(ord(sign) < 32 and sign != "\n" for sign in told)
    assert all(len(line) < 1000 for line in told.splitlines())
    bad = [replace(result(Verdict.FAIL, expected=False), id=f"a-{number}") for number in range(200)]
    lines = summary.text(run(*bad)).splitlines()
    assert "  and 160 more, see the report" in lines
    assert len(lines) < 60
