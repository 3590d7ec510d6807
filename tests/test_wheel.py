"""What is shipped: the wheel holds what a user needs, leaves out what is ours, and runs a case without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"harness", "reference_engine", "conformance", "fixtures", "reports"}
SHIPPED = (
    "fixtures/requirements/engine.toml",
    "fixtures/requirements/rfc9112.toml",
    "fixtures/profiles/reference.toml",
    "fixtures/foreign.toml",
    "fixtures/foreign/matrixai-quic/package-lock.json",
    "harness/foreign/peers/quic_quiche.mjs",
    "fixtures/agent/edgecase_agent.proto",
    "harness/engine/adapter.schema.json",
    "reports/schema/run.schema.json",
    "reports/style.css",
    "conformance/tls/terminated.py",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_what_is_in_and_what_is_not(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    assert [name for name in SHIPPED if name not in names] == []
    assert [name for name in names if name.startswith("reference_engine/mutants")] == []


def test_an_installed_copy_runs_a_case(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # PYTHONPATH comes before the checkout that the environment knows.
    environment = {**os.environ, "PYTHONPATH": str(site)}
    told = subprocess.run(
        [sys.executable, "-m", "harness.cli", "run", "--only", "tls-sanity"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    record = json.loads((work / "build" / "report" / "run.json").read_text(encoding="utf-8"))
    assert {case["verdict"] for case in record["cases"]} == {"pass"}
    listed = subprocess.run(
        [sys.executable, "-m", "harness.cli", "list", "--json"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert len(json.loads(listed.stdout)) > 300
    mutants = subprocess.run(
        [sys.executable, "-m", "harness.cli", "mutants"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert mutants.returncode == 2
    assert "run this in a checkout" in mutants.stderr
