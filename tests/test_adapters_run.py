"""`edgecase run` against adapters: in another language, dead, hanging, lying, talking nonsense, dying in mid run.

The command as a user calls it; tests/adapters/test_verdicts.py has more ways, without the command around it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.model.record import CaseResult, RunRecord, read_record
from harness.model.verdict import Verdict
from harness.profiles import shipped

ROOT = Path(__file__).resolve().parent.parent
NODE = ROOT / "tests" / "adapters" / "example_node.mjs"
ONLY = ("tls-sanity", "tls-first-01[terminated]", "tls-sni-07[tls1.3]", "tls-close-05[client-fin]")
"""A few quick cases that any adapter of a TLS tunnel runs."""
FINE = {Verdict.PASS, Verdict.INFO, Verdict.WARN}
DOOMED = "tls-first-01"
LIMIT_SECONDS = 120
"""No run here may take that long: nothing hangs."""


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    code: int
    record: RunRecord
    said: str

    @property
    def verdicts(self) -> set[Verdict]:
        """Every verdict that was given."""
        return {result.verdict for result in self.record.cases}

    def result(self, key: str) -> CaseResult:
        """The result of the case with this key."""
        return next(result for result in self.record.cases if result.key == key)


def profile(
    folder: Path, *command: str, features: Sequence[str] = ("tls.terminated", "tls.1.2"), timeout_ms: int = 20_000
) -> Path:
    """The profile of an adapter, written to `folder`."""
    file = folder / "engine.toml"
    file.write_text(
        f'name = "x"\ntitle = "X"\nedition = "none"\nfeatures = {json.dumps(list(features))}\n'
        f'[driver]\nkind = "adapter"\ncommand = {json.dumps(list(command))}\ntimeout_ms = {timeout_ms}\n'
    )
    return file


def run(folder: Path, file: Path, *only: str, seed: int = 7) -> Ran:
    """Run `edgecase run` with these cases in a process of its own."""
    chosen = [word for case in only or ONLY for word in ("--only", case)]
    command = [sys.executable, "-c", "from harness.cli.main import entry; entry()", "run", "--engine", str(file)]
    done = subprocess.run(
        [*command, *chosen, "--seed", str(seed), "--output", str(folder / "report")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    record = folder / "report" / "run.json"
    assert record.is_file(), done.stdout + done.stderr
    return Ran(done.returncode, read_record(record), done.stdout)


def test_a_sound_adapter(tmp_path: Path) -> None:
    ran = run(tmp_path, profile(tmp_path, "{python}", "-m", "tests.adapters.simple"))
    assert (ran.code, ran.verdicts <= FINE, len(ran.record.cases)) == (0, True, len(ONLY)), ran.said
    assert ran.record.engine.version == "simple 1.0"


@pytest.mark.needs("node")
@pytest.mark.skipif(shutil.which("node") is None, reason="not run: needs node")
def test_an_adapter_in_another_language(tmp_path: Path) -> None:
    features = ("tls.1.2", "tls.alpn", "tls.min-version", "tls.terminated")
    file = profile(tmp_path, "node", str(NODE), features=features)
    ran = run(tmp_path, file, "tls-sanity", "tls-versions-01[terminated-tls1.2]", "alpn-list-01[terminated-tls1.3]")
    assert (ran.code, ran.verdicts) == (0, {Verdict.PASS}), ran.said
    assert ran.record.engine.version.startswith("node-tls v")


def test_a_run_in_which_no_case_ran_is_no_success(tmp_path: Path) -> None:
    file = profile(tmp_path, "{python}", "-m", "tests.adapters.simple", features=("quic",))
    ran = run(tmp_path, file, "tls-sanity")
    assert (ran.code, ran.verdicts) == (2, {Verdict.UNSUPPORTED})
    assert "nothing has been shown about this engine" in ran.said


def test_one_that_never_stops_talking(tmp_path: Path) -> None:
    ran = run(tmp_path, profile(tmp_path, "{python}", "-m", "tests.adapters.noisy"), "tls-sanity")
    assert (ran.code, ran.verdicts) == (0, {Verdict.PASS}), ran.said


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("dead", "adapter: ended with status 3: simple: no configuration"),
        ("hang", "adapter: no answer to 'hello' within 2 s"),
        ("garbage", "adapter: printed what is not JSON: "),
        ("PublishesOneLess", "adapter: answered 'publish' of "),
        ("LacksWhatItClaims", "adapter: answered that it lacks 'tls.terminated', which the profile claims"),
    ],
)
def test_a_bad_adapter_is_setup_and_named(tmp_path: Path, way: str, cause: str) -> None:
    file = profile(tmp_path, "{python}", "-m", "tests.adapters.bad", way, timeout_ms=2000)
    ran = run(tmp_path, file, "tls-sanity", "tls-close-05[client-fin]")
    assert (ran.code, ran.verdicts, len(ran.record.cases)) == (1, {Verdict.SETUP}, 2)
    # Behind a sanity case that found it first the cause begins with `sanity:`.
    assert [result.cause for result in ran.record.cases if cause not in result.cause] == []
    assert "adapter: " in ran.said


def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    ran = run(tmp_path, profile(tmp_path, "/nonexistent/adapter"), "tls-sanity")
    assert (ran.code, ran.verdicts) == (1, {Verdict.SETUP})
    assert ran.result("tls-sanity").cause.startswith("adapter: cannot be started: /nonexistent/adapter")


def test_a_killed_engine_behind_an_adapter_is_a_crash_and_the_run_goes_on(tmp_path: Path) -> None:
    file = profile(tmp_path, "{python}", "-m", "tests.adapters.mortal", "EngineDies", DOOMED)
    _goes_on(run(tmp_path, file), [f"{DOOMED}[terminated]"], Verdict.CRASH, "the engine was killed by signal 9")


def test_a_killed_adapter_is_setup_and_the_run_goes_on(tmp_path: Path) -> None:
    file = profile(tmp_path, "{python}", "-m", "tests.adapters.mortal", "AdapterDies", DOOMED)
    _goes_on(run(tmp_path, file), [f"{DOOMED}[terminated]"], Verdict.SETUP, "adapter: was killed by signal 9")


def test_a_killed_launched_engine_is_a_crash_and_the_run_goes_on(tmp_path: Path) -> None:
    """The reference engine dies before it refuses the first name that no tunnel has: in the case about those."""
    data = tomllib.loads(shipped()["reference"].read_text(encoding="utf-8"))
    command = ["{python}", "-m", "tests.adapters.mortal", "reference", "name='nobody-", "serve", "--json"]
    command += ["--udp-listen", "127.0.0.1:0"]
    file = tmp_path / "mortal.toml"
    file.write_text(
        f'name = "mortal"\ntitle = "Mortal"\nedition = "enterprise"\nfeatures = {json.dumps(data["features"])}\n'
        f'[driver]\nkind = "launch"\ncommand = {json.dumps(command)}\nlisten = ["--listen", "{{value}}"]\n'
        '[driver.settings]\n"edition" = ["--edition", "{value}"]\n'
    )
    ran = run(tmp_path, file, *ONLY, "tls-sni-04[tls1.3]")
    _goes_on(ran, ["tls-sni-04[tls1.3]"], Verdict.CRASH, "the engine was killed by signal 9 (SIGKILL)")


def _goes_on(ran: Ran, doomed: Sequence[str], verdict: Verdict, cause: str) -> None:
    """The doomed cases got `verdict`, every other one passed, and some ran afterwards, on a fresh engine."""
    assert ran.code == 1
    for key in doomed:
        found = ran.result(key)
        assert (found.verdict, found.cause.startswith(cause)) == (verdict, True), (found.verdict, found.cause)
    keys = [result.key for result in ran.record.cases]
    assert keys[-1] not in doomed, "choose another seed: nothing ran afterwards"
    assert {result.verdict for result in ran.record.cases if result.key not in doomed} <= FINE, ran.said
    assert ran.record.stopped == ""
