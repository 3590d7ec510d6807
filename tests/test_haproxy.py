"""HAProxy, an engine that we did not write, against a fixed part of the suite: every verdict as its profile foresees.

The rest of the suite runs on it with `edgecase run --engine haproxy`, whose exit code must be 0, too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.foreign.lock import program
from harness.model.record import read_record
from harness.model.verdict import Verdict

VERSION = "2.6.12"
"""The profile's baseline is about this version, as Debian 12 has it."""


def is_here() -> bool:
    """Whether that version is installed, under .foreign or by the system."""
    path = program("haproxy")
    if path is None:
        return False
    told = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=60, check=False)
    return f"version {VERSION}" in told.stdout


pytestmark = [
    pytest.mark.needs("haproxy"),
    pytest.mark.skipif(not is_here(), reason=f"not run: needs haproxy {VERSION} (make foreign)"),
]
ROOT = Path(__file__).resolve().parent.parent
AREAS = ("alpn", "edge", "websocket")
"""Some 120 cases on all of its listeners, with passes, refusals and known failures."""
PART = ("--only", "http-sanity", "--only", "http-framing-07", "--only", "tls-sni-01", "--only", "tls-close-08")
LIMIT_SECONDS = 600
RAN = {Verdict.PASS, Verdict.INFO, Verdict.WARN, Verdict.FAIL}


@pytest.mark.parametrize("part", [[word for area in AREAS for word in ("--area", area)], PART], ids=["areas", "cases"])
def test_every_verdict_is_as_the_profile_foresees(tmp_path: Path, part: list[str]) -> None:
    command = [sys.executable, "-c", "from harness.cli.main import entry; entry()", "run", "--engine", "haproxy"]
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
    assert len(ran) > len(record.cases) // 2
    assert {result.verdict for result in ran} <= RAN
    known = [result for result in ran if result.verdict is Verdict.FAIL]
    assert known
    assert all(result.expected and result.baseline_reason for result in known)
    assert record.engine.version.startswith(f"HAProxy {VERSION}")
    assert record.baseline_problems == ()
