"""Coverage and explain: what the cases check of the ledger, in the shapes that are read from outside."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import pytest

import harness.cli.coverage
import harness.cli.explain
from harness.collect import collect
from harness.coverage import Coverage, as_json, coverage
from harness.errors import UsageError
from harness.ledger import Ledger
from harness.model.case import MARK, Case, case
from harness.model.requirement import CLAIM, RFC
from harness.model.spec import TunnelSpec, tls


async def script(scene: object) -> None:
    """A title.

    What it sends, and what it expects.
    """


def made(case_id: str, checks: Sequence[str], **declared: Any) -> Case:
    """A case that checks `checks`; its function is `script`."""
    found: Case = getattr(case(case_id, checks=checks, **declared)(script), MARK)
    return found


def of(*cases: Case) -> Coverage:
    return coverage(Ledger.load(), cases)


def numbers(found: Coverage, ledger: str, chapter: str, priority: int) -> tuple[int, int, int, int]:
    count = found.counts[ledger][chapter][priority]
    return count.rows, count.covered, count.reasoned, count.blank


class TestCounts:
    """Rows are covered, reasoned or blank, and the two ledgers are never added up."""

    def test_every_row_is_counted_once(self) -> None:
        found = of()
        counts = [item for chapters in found.counts.values() for by in chapters.values() for item in by.values()]
        assert sum(count.rows for count in counts) == len(Ledger.load()) == len(found.requirements)
        assert all(count.rows == count.covered + count.reasoned + count.blank for count in counts)
        assert found.problems == ()

    def test_a_case_covers_its_rows_in_their_own_ledger(self) -> None:
        before, after = of(), of(made("one", ["TLS-001", "TLS-006", "RFC8446-6.1-1"]))
        for ledger, chapter, priority in ((CLAIM, "engine:TLS", 1), (RFC, "engine:TLS", 2), (RFC, "rfc:tls", 1)):
            rows, covered, reasoned, blank = numbers(before, ledger, chapter, priority)
            assert covered == 0
            assert numbers(after, ledger, chapter, priority) == (rows, 1, reasoned, blank - 1)
        assert after.requirements["TLS-001"].cases == ("one",)

    def test_rows_that_only_an_rfc_backs_are_no_promises(self) -> None:
        ledger = Ledger.load()
        claims = of().counts[CLAIM]
        assert not [name for name in claims if name.startswith("rfc:")]
        promised = sum(1 for row in ledger if row.chapter == "engine:TLS" and row.marks != ("RFC",))
        assert sum(count.rows for count in claims["engine:TLS"].values()) == promised < 29

    def test_two_cases_of_one_row_count_once(self) -> None:
        found = of(made("one", ["TLS-001"]), made("two", ["TLS-001", "TLS-001"]))
        assert found.requirements["TLS-001"].cases == ("one", "two")
        assert numbers(found, CLAIM, "engine:TLS", 1)[1] == 1

    def test_a_wide_reason_means_the_rest(self) -> None:
        before, after = of(), of(made("one", ["DTLS-001"]))
        assert before.requirements["DTLS-001"].reason is not None
        assert after.requirements["DTLS-001"].reason is None
        assert after.requirements["DTLS-002"].reason is not None
        assert after.problems == ()


class TestProblems:
    """What is wrong is said, in one line each."""

    def test_a_reason_for_a_covered_row_is_stale(self) -> None:
        found = of(made("one", ["ALPN-002"]))
        assert found.problems == (
            "reasons.toml: ALPN-002: rows: found a reason for a row with a case (one), allowed is one or the other",
        )
        assert found.requirements["ALPN-002"].reason is not None
        assert numbers(found, CLAIM, "engine:ALPN", 1)[1] == 1

    def test_a_selector_with_nothing_left_is_stale(self) -> None:
        rows = [row.id for row in Ledger.load() if row.chapter == "engine:TCP"]
        (problem,) = of(made("one", rows)).problems
        assert problem.startswith("reasons.toml: engine:TCP: rows: found only rows with a case")

    def test_an_unknown_requirement_names_the_case(self) -> None:
        (problem,) = of(made("one", ["TLS-999"])).problems
        assert problem.startswith("tests/test_coverage.py:")
        assert problem.endswith("one: checks: found 'TLS-999', allowed is the id of a requirement")


class TestSeed:
    """The seed page, sentence by sentence."""

    def test_pointers_say_why_they_need_no_case(self) -> None:
        seed = of().seed
        assert list(seed) == list(range(1, 68))
        assert all(seed[number].reason and not seed[number].cases for number in (23, 24, 41, 56, 62))

    def test_the_cases_of_a_sentence_are_those_of_its_rows(self) -> None:
        seed = of(made("one", ["TLS-001"]), made("two", ["TLS-004"]), made("three", ["TLS-006"])).seed
        assert seed[25].cases == ("one", "two")
        assert seed[27].cases == ("two",)
        assert seed[25].reason is None

    def test_a_sentence_has_the_reasons_of_its_rows_when_all_have_one(self) -> None:
        seed = of().seed
        assert seed[17].reason == "Deferred until the suite covers WebTransport."
        assert seed[25].reason is None


class TestJson:
    """The fixed shape."""

    def test_the_shape(self) -> None:
        data = json.loads(json.dumps(as_json(of(made("one", ["TLS-001"])))))
        assert set(data) == {"chapters", "seed", "requirements"}
        assert {"rfc:tls", "engine:TLS", "agent:agent"} <= set(data["chapters"])
        for priorities in data["chapters"].values():
            assert set(priorities) == {"1", "2", "3"}
            assert all(set(count) == {"rows", "covered", "reasoned", "blank"} for count in priorities.values())
        assert set(data["seed"]) == {str(number) for number in range(1, 68)}
        assert data["requirements"]["TLS-001"] == {"cases": ["one"], "reason": None}
        assert set(data["requirements"]) == set(Ledger.load().rows)

    def test_chapters_hold_both_ledgers(self) -> None:
        data = as_json(of())
        chapters = data["chapters"]
        assert isinstance(chapters, dict)
        assert sum(count["rows"] for count in chapters["engine:TLS"].values()) == 29


def arguments(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"json": False, "chapter": None, "blank": False, **values})


class TestCoverageCommand:
    """`edgecase coverage`."""

    @pytest.fixture(autouse=True)
    def cases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(harness.cli.coverage, "collect", lambda: [made("one", ["TLS-001"])])

    def test_tables(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert harness.cli.coverage.run(arguments()) == 0
        out = capsys.readouterr().out
        assert "no promise of the documentation" in out
        assert "cases: one" in out

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert harness.cli.coverage.run(arguments(json=True)) == 0
        assert json.loads(capsys.readouterr().out)["requirements"]["TLS-001"]["cases"] == ["one"]

    def test_one_chapter(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert harness.cli.coverage.run(arguments(chapter="engine:TLS")) == 0
        out = capsys.readouterr().out
        assert "TLS-001" in out
        assert "ALPN-001" not in out

    def test_blank_rows(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert harness.cli.coverage.run(arguments(blank=True)) == 0
        out = capsys.readouterr().out
        assert "TLS-002 " in out
        assert "TLS-001 " not in out

    def test_an_unknown_chapter(self) -> None:
        with pytest.raises(UsageError, match=r"^--chapter: found 'engine:TLX', allowed is a chapter of the ledger \("):
            harness.cli.coverage.run(arguments(chapter="engine:TLX"))

    def test_problems_end_with_1(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(harness.cli.coverage, "collect", lambda: [made("one", ["TLS-999"])])
        assert harness.cli.coverage.run(arguments(json=True)) == 1
        streams = capsys.readouterr()
        assert "TLS-999" in streams.err
        json.loads(streams.out)


def explained(name: str, *cases: Case) -> str:
    return "\n".join(harness.cli.explain.explain(name, Ledger.load(), list(cases)))


class TestExplain:
    """`edgecase explain`."""

    def test_a_requirement(self) -> None:
        out = explained("ALPN-008", made("one", ["ALPN-008"]))
        for part in (
            "SHOULD, priority 2, engine:ALPN",
            "T-15",
            "one  tests/test_coverage.py:",
            "A title.",
            "there a MUST",
        ):
            assert part in out
        assert "documented claim, by public SDKs" in out

    def test_a_requirement_without_a_case_says_why(self) -> None:
        assert "Deferred until the suite covers WebTransport. (deferred)" in explained("WTH3-3.1-1").replace("\n", " ")
        assert "and no reason is written down" in explained("TLS-001")

    @pytest.mark.parametrize(
        ("name", "standing"),
        [
            ("TLS-001", "documented claim, by the seed page"),
            ("TLS-006", "promises nothing"),
            ("RFC8446-6.1-1", "standing     standard\n"),
            ("RFC7301-3.1-3", "standard; derived"),
            ("AGENT-001", "documented claim, by public SDKs"),
        ],
    )
    def test_what_stands_behind_a_row(self, name: str, standing: str) -> None:
        out = explained(name)
        assert standing in out or standing in " ".join(out.split())
        assert ("documented claim" in out) == standing.startswith("documented")

    def test_every_row_can_be_explained(self) -> None:
        ledger = Ledger.load()
        assert all(next(harness.cli.explain.explain(name, ledger, [])).startswith(name) for name in ledger.rows)

    def test_a_case(self) -> None:
        found = made(
            "one",
            ["TLS-001"],
            publish=lambda variant: {
                "main": tls(tls_min_version=variant["version"]),
                "other": TunnelSpec(publish=False),
            },
            over={"version": ("tls1.2", "tls1.3")},
            settings={"timeout.drain-ms": 5},
            needs=("dynamic",),
            sanity=True,
            axes=("agent.transport",),
        )
        out = explained("one", found)
        for part in (
            "also over    agent.transport",
            "What it sends, and what it expects.",
            "TLS-001",
            "tls1.3       - main: protocol=tls, tls_min_version=tls1.3",
            "other: publish=False",
            "timeout.drain-ms=5",
            "tls.min-version",
            "dynamic",
            "sanity",
        ):
            assert part in out

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("C-05", "RFC8441-7-1"),
            ("CONFLICT-08", "VAL-010"),
            ("tls.alpn", "community yes"),
            ("timeout.drain-ms", "integer in ms"),
            ("seed:25", "TLS-004"),
            ("seed:23", "pointer"),
            ("engine:TLS", "TLS-029"),
            ("features", "tls.alpn"),
            ("settings", "timeout.drain-ms"),
            ("editions", "listener"),
            ("chapters", "rfc:tls"),
            ("rulings", "T-59"),
            ("rules", "TRANSPORT-9"),
            ("drafts", "webtransport-h3"),
            ("seed", "seed:67"),
        ],
    )
    def test_everything_else_that_has_a_name(self, name: str, part: str) -> None:
        assert part in explained(name)

    @pytest.mark.parametrize(
        ("name", "near"), [("tls-001", "TLS-001"), ("RFC8446-6.1", "RFC8446-6.1-1"), ("ones", "one")]
    )
    def test_an_unknown_name_suggests(self, name: str, near: str) -> None:
        with pytest.raises(UsageError) as raised:
            explained(name, made("one", ["TLS-001"]))
        line = str(raised.value)
        assert line.startswith(f"explain: found {name!r}, allowed is the id of")
        assert near in line
        assert "\n" not in line

    def test_the_command_prints(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(harness.cli.explain, "collect", list)
        assert harness.cli.explain.run(argparse.Namespace(name="TLS-001")) == 0
        assert capsys.readouterr().out.startswith("TLS-001  MUST, priority 1, engine:TLS\n")


class TestSuite:
    """The cases that ship name only what the ledger knows."""

    def test_no_case_names_an_unknown_thing_and_no_reason_is_stale(self) -> None:
        ledger, cases = Ledger.load(), collect()
        assert coverage(ledger, cases).problems == ()
        for found in cases:
            features = frozenset[str]().union(*(found.features(variant) for variant in found.variants))
            assert features <= set(ledger.features), found.id
            assert {key for key, _ in found.settings.items} <= set(ledger.settings_keys), found.id
            assert found.refusal is None or found.refusal in ledger.features, found.id
