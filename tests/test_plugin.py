"""The pytest plugin, run inside pytest on cases and an engine of the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
import harness.plugin
from pathlib import Path
from tests.fake_engine import FakeDriver, profile
from harness.model.profile import BaselineEntry
from harness.model.verdict import Verdict

pytest_plugins = ["harness.plugin"]

class Counting(FakeDriver):
    async def start(self, settings):
        await super().start(settings)
        with Path(__file__).with_name("starts").open("a") as file:
            file.write(f"{settings}\\n")

harness.plugin.make_driver = lambda _: Counting()
harness.plugin.load = lambda name, features=None: profile(
    baseline=(BaselineEntry("known", Verdict.FAIL, "their known fault"),), editions=("pro",)
)
"""

CASES = '''
from harness.errors import SetupFailed
from harness.model.case import case

@case("good", checks=["TLS-001"], family="tls", over={"size": ("1", "2")})
async def test_good(scene):
    """A case that passes."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("bad", checks=["TLS-001"], family="tls")
async def test_bad(scene):
    """A case that fails."""
    scene.expect("TLS-001", False, expected="octets", actual="<script>silence")

@case("known", checks=["TLS-001"], family="tls")
async def test_known(scene):
    """A case that is known to fail."""
    scene.expect("TLS-001", False, expected="octets", actual="silence")

@case("lame", checks=["TLS-006"], family="tls", settings={"edition": "community"})
async def test_lame(scene):
    """A case that warns, under settings of its own."""
    scene.expect("TLS-006", False, expected="octets", actual="silence")

@case("absent", checks=["TLS-001"], family="tls", features=["tls.alpn"])
async def test_absent(scene):
    """A case that the profile does not claim."""

@case("ground", checks=["TLS-001"], family="tls")
async def test_ground(scene):
    """A case without ground."""
    raise SetupFailed("adapter: silent")
'''

GUARDED = '''
from harness.model.case import case

@case("guard", checks=["TLS-001"], family="tls", sanity=True)
async def test_guard(scene):
    """The sanity case."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("owed", checks=["TLS-001"], family="tls", refusal="dtls")
async def test_owed(scene):
    """A refusal that is due: the profile does not claim the feature."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("not-owed", checks=["TLS-001"], family="tls", refusal="tls.terminated")
async def test_not_owed(scene):
    """A refusal that is not due: the profile claims the feature."""
    scene.expect("TLS-001", False, expected="a", actual="b")
'''

LINKED = '''
from harness.model.case import case

@case("guard", checks=["TLS-001"], family="tls", sanity=True)
async def test_guard(scene):
    """The sanity case."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("marked", checks=["TLS-001"], family="tls", over={"size": ("1", "2")}, axes=["agent.transport"])
async def test_marked(scene):
    """A case of the subset over QUIC."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("plain", checks=["TLS-001"], family="tls")
async def test_plain(scene):
    """Any other case."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("bound", checks=["TLS-001"], family="tls", needs=["tls-link"], axes=["agent.transport"])
async def test_bound(scene):
    """A case about the agent's TLS."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("chosen", checks=["TLS-001"], family="tls", settings={"agent.transport": "quic"})
async def test_chosen(scene):
    """A case that chooses the transport itself."""
    scene.expect("TLS-001", True, expected="a", actual="a")

@case("without", checks=["TLS-001"], family="tls", settings={"listener.udp": False}, axes=["agent.transport"])
async def test_without(scene):
    """A case on an engine without UDP."""
    scene.expect("TLS-001", True, expected="a", actual="a")
'''


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    folder = pytester.mkpydir("conformance")
    (folder / "tls").mkdir()
    (folder / "tls" / "__init__.py").touch()
    (folder / "tls" / "topic.py").write_text(CASES, encoding="utf-8")
    pytester.makeconftest(CONFTEST)
    return pytester


def run(suite: pytest.Pytester, *options: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    record = suite.path / "run.json"
    record.unlink(missing_ok=True)
    result = suite.runpytest_subprocess(
        "-p", "no:cacheprovider", "-p", "no:randomly", "--run-record", str(record), *options, "conformance"
    )
    return result, json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}


def verdicts(record: dict[str, Any]) -> dict[str, str]:
    return {
        f"{case['id']}[{case['variant']}]" if case["variant"] else case["id"]: case["verdict"]
        for case in record["cases"]
    }


EXPECTED = {
    "good[1]": "pass",
    "good[2]": "pass",
    "bad": "fail",
    "known": "fail",
    "lame": "warn",
    "absent": "unsupported",
    "ground": "setup",
}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_verdict_reaches_the_record_whatever_the_number_of_workers(suite: pytest.Pytester, workers: str) -> None:
    result, record = run(suite, "-n", workers)
    assert verdicts(record) == EXPECTED
    result.assert_outcomes(passed=3, failed=2, skipped=1, xfailed=1)
    known = next(case for case in record["cases"] if case["id"] == "known")
    assert (known["expected"], known["baseline_reason"]) == (True, "their known fault")
    bad = next(case for case in record["cases"] if case["id"] == "bad")
    assert not bad["expected"]
    assert "--only 'bad'" in bad["reproduce"]
    assert record["seed"] >= 0
    assert record["ledger_digest"]


def test_each_settings_starts_once(suite: pytest.Pytester) -> None:
    run(suite, "-n", "0")
    starts = (suite.path / "starts").read_text(encoding="utf-8").splitlines()
    assert sorted(starts) == ["default", "edition=community"]


def test_the_seed_gives_the_order(suite: pytest.Pytester) -> None:
    orders = []
    for seed in ("1", "1", "2", "3"):
        result, _ = run(suite, "-v", "--edgecase-seed", seed)
        orders.append([line.split()[0] for line in result.outlines if "topic.py::" in line and "%]" in line])
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1


def test_selection_by_case_variant_and_requirement(suite: pytest.Pytester) -> None:
    assert set(verdicts(run(suite, "--only", "good[2]")[1])) == {"good[2]"}
    assert set(verdicts(run(suite, "--requirement", "TLS-006")[1])) == {"lame"}
    assert run(suite, "--area", "nowhere")[1] == {}


def test_every_axis_on_demand(suite: pytest.Pytester) -> None:
    _, record = run(suite, "--axes", "all", "--only", "good")
    assert set(verdicts(record)) == {"good[1]", "good[2]", "good[1@pro]", "good[2@pro]"}


def test_a_subset_runs_on_every_edition_and_refusals_only_where_they_are_due(suite: pytest.Pytester) -> None:
    (suite.path / "conformance" / "tls" / "topic.py").write_text(GUARDED, encoding="utf-8")
    _, record = run(suite)
    assert verdicts(record) == {"guard": "pass", "guard[@pro]": "pass", "owed": "pass"}
    _, record = run(suite, "--only", "not-owed")
    assert verdicts(record) == {"not-owed": "unsupported"}


def over_quic(record: dict[str, Any]) -> set[str]:
    return {key for key in verdicts(record) if "@quic" in key}


def test_the_other_transport_runs_a_marked_subset_or_all_that_leaves_it_open(suite: pytest.Pytester) -> None:
    (suite.path / "conformance" / "tls" / "topic.py").write_text(LINKED, encoding="utf-8")
    assert over_quic(run(suite)[1]) == set()
    claimed = CONFTEST.replace('editions=("pro",)', 'editions=(), features=frozenset({"tls.terminated", "agent.quic"})')
    suite.makeconftest(claimed)
    _, record = run(suite)
    assert over_quic(record) == {"guard[@quic]", "marked[1@quic]", "marked[2@quic]"}
    assert {"guard", "marked[1]", "plain", "bound", "chosen", "without"} <= set(verdicts(record))
    _, record = run(suite, "--axes", "all")
    assert over_quic(record) == {"guard[@quic]", "marked[1@quic]", "marked[2@quic]", "plain[@quic]"}
    assert set(verdicts(run(suite, "--only", "plain[@quic]")[1])) == {"plain[@quic]"}
    suite.makeconftest(claimed.replace("editions=()", "kind='adapter'"))
    assert over_quic(run(suite, "--axes", "all")[1]) == set()


def test_an_edition_without_what_a_case_needs_is_left_out(suite: pytest.Pytester) -> None:
    suite.makeconftest(CONFTEST.replace('("pro",)', '("pro", "community")'))
    gated = CASES.replace('features=["tls.alpn"]', 'features=["project.tls-min-version"]')
    (suite.path / "conformance" / "tls" / "topic.py").write_text(gated, encoding="utf-8")
    _, record = run(suite, "--axes", "all", "--only", "absent", "--only", "bad")
    assert set(verdicts(record)) == {"absent", "absent[@pro]", "bad", "bad[@pro]", "bad[@community]"}


def test_the_message_names_rule_expected_got_and_a_command(suite: pytest.Pytester) -> None:
    result, _ = run(suite, "--only", "bad")
    text = result.stdout.str()
    for part in ("TLS-001", "Expected octets", "got <script>silence", "edgecase run --engine"):
        assert part in text


def test_another_projects_fixtures_package_is_told(suite: pytest.Pytester) -> None:
    package = suite.mkpydir("fixtures")
    (package / "__init__.py").write_text("", encoding="utf-8")
    result = suite.runpytest_subprocess("-p", "no:randomly", "conformance")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'fixtures' is not Edgecase's*"])


def test_the_plugin_is_registered_once_under_its_entry_point_name(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("--trace-config", "--collect-only", "-q", "conformance")
    assert Path("harness/plugin.py").as_posix() in result.stdout.str()
    assert result.ret == 0
