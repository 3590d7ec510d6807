"""The `edgecase` command as a user calls it: exit codes, one line per mistake, machine-readable output, interrupts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from harness.cli.arguments import check_selection, number, writable_folder
from harness.errors import UsageError
from harness.model.record import read_record
from reports import schema

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-W", "error", "-m", "harness.cli")
ONE = "tls-sanity"


def edgecase(
    *arguments: str, cwd: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def one_line(told: subprocess.CompletedProcess[str]) -> str:
    """The one line of a usage or configuration error."""
    assert told.returncode == 2, (told.stdout, told.stderr)
    lines = told.stderr.splitlines()
    assert len(lines) == 1, told.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("fly",), "'fly'"),
        (("run", "--seed", "x"), "--seed: found 'x', allowed is a whole number"),
        (("run", "-n", "9999"), "found '9999', allowed is a whole number from 0 to 256"),
        (("run", "--deadline-ms", "0"), "--deadline-ms: found '0'"),
        (("run", "--engine", "nobody"), "--engine nobody: no such profile; shipped are"),
        (("run", "--only", "tls-sanit"), "did you mean tls-sanity"),
        (("run", "--area", "tsl"), "--area: found 'tsl'"),
        (("run", "--requirement", "TLS-999"), "--requirement: found 'TLS-999'"),
        (("run", "--requirement", "DTLS-001"), "no case checks it"),
        (("run", "--only", ONE, "--area", "http"), "no case in common"),
        (("run", "--output", "README.md/report"), "--output: cannot write into README.md/report"),
        (("list", "--area", "tsl"), "--area: found 'tsl'"),
        (("explain", "TLS-0001"), "TLS-0001"),
        (("mutants", "--only", "no-such-*"), "--only no-such-*: no such mutant"),
        (("doctor", "--engine", "nobody"), "no such profile"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    assert words in one_line(edgecase(*arguments)).replace("\n", " ")


def profile(folder: Path, **changes: str) -> Path:
    rows = {"name": '"mine"', "title": '"Mine"', "edition": '"none"', "features": '["tls.terminated"]', **changes}
    file = folder / "mine.toml"
    text = "".join(f"{key} = {value}\n" for key, value in rows.items())
    file.write_text(f'{text}[driver]\nkind = "adapter"\ncommand = ["true"]\n', encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"titel": '"Mine"'}, "titel: unknown key, allowed are"),
        ({"features": '["tls.terminatd"]'}, "tls.terminatd"),
        ({"features": "3"}, "features: found"),
    ],
)
def test_a_mistake_in_a_profile_names_file_and_key(changes: dict[str, str], words: str, tmp_path: Path) -> None:
    file = profile(tmp_path, **changes)
    line = one_line(edgecase("run", "--engine", str(file), "--output", str(tmp_path / "report")))
    assert str(file) in line
    assert words in line
    assert not (tmp_path / "report" / "run.json").exists()


@pytest.mark.parametrize("arguments", [("run",), ("coverage",), ("explain", "ALPN-001"), ("list",)], ids=lambda a: a[0])
def test_a_truncated_ledger_file_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    # The first entry of sys.path is the working folder: the copy comes before the installed package.
    shutil.copytree(ROOT / "fixtures", tmp_path / "fixtures", ignore=shutil.ignore_patterns("__pycache__"))
    ledger = tmp_path / "fixtures" / "requirements" / "rfc7301.toml"
    ledger.write_bytes(ledger.read_bytes()[:2500])
    line = one_line(edgecase(*arguments, cwd=tmp_path))
    assert line.startswith("edgecase: rfc7301.toml: ")
    assert "TOML" in line


def test_an_engine_that_cannot_start_is_setup_and_named(tmp_path: Path) -> None:
    text = (ROOT / "fixtures" / "profiles" / "reference.toml").read_text(encoding="utf-8")
    broken = tmp_path / "broken.toml"
    broken.write_text(text.replace('"serve", "--json"', '"serve", "--json", "--ca-file", "gone.pem"'), encoding="utf-8")
    told = edgecase("run", "--engine", str(broken), "--only", ONE, "--output", str(tmp_path))
    assert told.returncode == 1
    case = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["cases"][0]
    assert case["verdict"] == "setup"
    assert "gone.pem" in case["cause"]


def test_a_run_writes_its_reports_and_keeps_their_shape(tmp_path: Path) -> None:
    told = edgecase("run", "--only", ONE, "--output", str(tmp_path), "--allure", str(tmp_path / "allure"))
    assert told.returncode == 0, told.stderr
    assert "seed" in told.stdout
    assert f"report: {tmp_path / 'index.html'}" in told.stdout
    data = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert schema.validate(data) == []
    case = next(item for item in data["cases"] if item["id"] == ONE)
    assert case["verdict"] == "pass"
    assert case["duration_s"] > 0
    (outcome,) = case["outcomes"]
    assert {"requirement", "ledger", "outcome", "branch", "message"} <= set(outcome)
    assert (outcome["requirement"], outcome["outcome"]) == ("TLS-001", "pass")
    assert (tmp_path / "junit.xml").stat().st_size
    assert list((tmp_path / "allure").glob("*-result.json"))


def test_the_machine_readable_lists_keep_their_shape() -> None:
    cases = json.loads(edgecase("list", "--json").stdout)
    assert {frozenset(row) for row in cases} == {
        frozenset({"id", "area", "title", "requirements", "features", "variants", "mutants"})
    }
    ids = {row["id"] for row in cases}
    coverage = json.loads(edgecase("coverage", "--json").stdout)
    assert set(coverage["chapters"]["rfc:tls"]["1"]) >= {"rows", "covered", "reasoned", "blank"}
    assert set(coverage["seed"]) == {str(number) for number in range(1, len(coverage["seed"]) + 1)}
    assert {frozenset(row) for row in coverage["requirements"].values()} == {frozenset({"cases", "reason"})}
    assert {case for row in coverage["requirements"].values() for case in row["cases"]} == ids


def running_with(mark: str) -> list[str]:
    """Processes whose environment holds `mark`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # gone meanwhile, or somebody else's
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="not run: needs /proc")
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, "0"), (signal.SIGINT, "2"), (signal.SIGTERM, "0")], ids=str
)
def test_an_interrupted_run_keeps_its_record_and_leaves_nothing_behind(
    number: signal.Signals, workers: str, tmp_path: Path
) -> None:
    mark = f"EDGECASE_MARK={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    process = subprocess.Popen(
        [*COMMAND, "run", "-v", "-n", workers, "--area", "tls", "--area", "http", "--output", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    passed = 0
    for line in process.stdout:
        passed += " PASS" in line
        if passed == 3:
            process.send_signal(number)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130
    process.stdout.close()
    assert "stopped early" in rest
    record = read_record(tmp_path / "run.json")
    assert len(record.cases) >= 3
    assert record.stopped
    assert running_with(mark) == []


class TestArguments:
    def test_a_number_has_limits(self) -> None:
        assert number(0, 5)("3") == 3
        for text in ("6", "-1", "x", ""):
            with pytest.raises(Exception, match="allowed is a whole number from 0 to 5"):
                number(0, 5)(text)

    def test_a_selection_of_nothing_is_told(self) -> None:
        with pytest.raises(UsageError, match="--only"):
            check_selection((), only=["x"])

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="--output: cannot write into"):
            writable_folder("--output", tmp_path / "file")
        writable_folder("--output", tmp_path / "new" / "folder")
        assert (tmp_path / "new" / "folder").is_dir()
