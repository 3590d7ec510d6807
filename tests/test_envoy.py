"""Envoy, an engine that we did not write, against a fixed part of the suite: every verdict as its profile foresees.

The rest of the suite runs on it with `edgecase run --engine envoy`, whose exit code must be 0, too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.foreign.lock import folder, installed_stamp, lock
from harness.model.record import read_record
from harness.model.verdict import Verdict

(LOCKED,) = [one for one in lock() if one.name == "envoy"]
pytestmark = [
    pytest.mark.needs("envoy"),
    pytest.mark.skipif(
        installed_stamp(LOCKED, folder()) != LOCKED.stamp,
        reason=f"not run: needs envoy {LOCKED.version} (make foreign)",
    ),
]
ROOT = Path(__file__).resolve().parent.parent
AREAS = ("--area", "alpn", "--area", "edge", "--area", "websocket")
PART = ("--only", "http-sanity", "--only", "http-framing-07", "--only", "http-lines-08", "--only", "tls-close-04")
LIMIT_SECONDS = 600
RAN = {Verdict.PASS, Verdict.INFO, Verdict.WARN, Verdict.FAIL}


@pytest.mark.parametrize("part", [AREAS, PART], ids=["areas", "cases"])
def test_every_verdict_is_as_the_profile_foresees(tmp_path: Path, part: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from harness.cli.main import entry; entry()", "run", "--engine", "envoy"]
    done = subprocess.run(
        [*command, *part, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    record = read_record(tmp_path / "run.json")
    ran = [result for result in record.cases if result.verdict is not Verdict.UNSUPPORTED]
    assert {result.verdict for result in ran} <= RAN
    known = [result for result in ran if result.verdict is Verdict.FAIL]
    assert known
    assert all(result.expected and result.baseline_reason for result in known)
    assert record.engine.version == f"Envoy {LOCKED.version}"
    assert record.baseline_problems == ()
