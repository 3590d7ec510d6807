"""Engines that we did not write, against a fixed part of the suite: every verdict as the profile of each foresees.

The rest of the suite runs on them with `edgecase run --engine NAME`, whose exit code must be 0, too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.foreign.lock import folder, installed_stamp, lock, program
from harness.model.record import read_record
from harness.model.verdict import Verdict

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 600
RAN = {Verdict.PASS, Verdict.INFO, Verdict.WARN, Verdict.FAIL}
AREAS = ("--area", "alpn", "--area", "edge", "--area", "websocket")
"""On Envoy and HAProxy some 120 cases on all of their listeners, with passes, refusals and known failures."""
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Envoy": {"areas": AREAS, "cases": ("http-sanity", "http-framing-07", "http-lines-08", "tls-close-04")},
    "HAProxy": {"areas": AREAS, "cases": ("http-sanity", "http-framing-07", "tls-sni-01", "tls-close-08")},
    # Where TLS ends and where it is opened again.
    "mitmproxy": {
        "cases": ("tls-sanity", "tls-close-01", "tls-sni-07", "tls-upstream-01", "tls-upstream-02", "edge-cert-01")
    },
}
HAPROXY = "2.6.12"
"""Its baseline is about this version, as Debian 12 has it, which the system may have without our lock."""
MOST_RUN = {"HAProxy"}
"""Engines that are asked for little that they do not offer."""


def version_of(name: str) -> str:
    """The version that the baseline of an engine is about."""
    return HAPROXY if name == "HAProxy" else next(one for one in lock() if one.name == name.lower()).version


def is_here(name: str) -> bool:
    """Whether that version is installed, under .foreign or, of HAProxy, by the system."""
    if name != "HAProxy":
        (locked,) = [one for one in lock() if one.name == name.lower()]
        return installed_stamp(locked, folder()) == locked.stamp
    path = program("haproxy")
    if path is None:
        return False
    told = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=60, check=False)
    return f"version {HAPROXY}" in told.stdout


def every_part() -> list[Any]:
    """Engine and part, each with what it needs."""
    return [
        pytest.param(
            name,
            words if part == "areas" else tuple(word for case in words for word in ("--only", case)),
            id=f"{name.lower()}-{part}",
            marks=[
                pytest.mark.needs(name.lower()),
                pytest.mark.skipif(
                    not is_here(name), reason=f"not run: needs {name.lower()} {version_of(name)} (make foreign)"
                ),
            ],
        )
        for name, parts in PARTS.items()
        for part, words in parts.items()
    ]


@pytest.mark.parametrize(("name", "part"), every_part())
def test_every_verdict_is_as_the_profile_foresees(tmp_path: Path, name: str, part: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from harness.cli.main import entry; entry()", "run", "--engine", name.lower()]
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
    assert name not in MOST_RUN or len(ran) > len(record.cases) // 2
    assert {result.verdict for result in ran} <= RAN
    assert any(result.verdict is Verdict.PASS for result in ran)
    known = [result for result in ran if result.verdict is Verdict.FAIL]
    assert known
    assert all(result.expected and result.baseline_reason for result in known)
    told = f"{name} {version_of(name)}"
    assert record.engine.version.startswith(told) if name == "HAProxy" else record.engine.version == told
    assert record.baseline_problems == ()
