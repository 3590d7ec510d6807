"""Profiles: shipped ones load, and every mistake is one line that names file, key, found and allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.ledger import Ledger
from harness.profiles import load, shipped

GOOD = """
name = "x"
title = "X"
edition = "pro"
features = ["tls.terminated"]
[driver]
kind = "adapter"
command = ["python", "${HERE}/adapter.py"]
"""


def write(folder: Path, text: str) -> str:
    file = folder / "x.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_profile_is_read_and_here_is_its_folder(tmp_path: Path) -> None:
    profile = load(write(tmp_path, GOOD), frozenset({"tls.terminated"}))
    assert profile.kind == "adapter"
    assert profile.driver["command"][1] == f"{tmp_path}/adapter.py"
    assert not profile.shipped


def test_every_shipped_profile_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGECASE_ENGINE", "EDGECASE_TOKEN", "EDGECASE_CA_FILE", "EDGECASE_DOMAIN"):
        monkeypatch.setenv(name, "set")
    ledger = Ledger.load()
    for name in shipped():
        profile = load(name, frozenset(ledger.features))
        assert profile.name == name
        for key in {**profile.driver.get("settings", {}), **profile.driver.get("settings_off", {})}:
            assert key in ledger.settings_keys, key


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("", None),
        ("colour = 1\n" + GOOD, "colour: unknown key"),
        (GOOD.replace('edition = "pro"', ""), "edition: missing"),
        (GOOD.replace('"X"', "3"), "title: found 3"),
        (GOOD.replace('"adapter"', '"telepathy"'), "driver.kind: found 'telepathy', allowed is one of launch"),
        (GOOD.replace("tls.terminated", "tls.terminted"), "features: found 'tls.terminted'"),
        (GOOD.replace("${HERE}", "${NO_SUCH_VARIABLE}"), "NO_SUCH_VARIABLE is not set"),
        (GOOD + "[[baseline]]\ncase = 'a'\nverdict = 'fail'\n", "baseline[0].reason: missing"),
        (GOOD + "[[baseline]]\ncase = 'a'\nverdict = 'pass'\nreason = 'r'\n", "baseline[0].verdict: found 'pass'"),
        (GOOD + "[[baseline]]\ncase = 'a'\nverdict = 'fail'\nreason = ' '\n", "baseline[0].reason"),
        (
            GOOD + "[[baseline]]\ncase = 'a'\nverdict = 'fail'\nreason = 'r'\nsometimes = 'yes'\n",
            "baseline[0].sometimes: found 'yes', allowed is a bool",
        ),
        ("name = ", "x.toml"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, change: str, told: str | None) -> None:
    if told is None:
        with pytest.raises(UsageError, match="no such profile"):
            load(str(tmp_path / "absent.toml"))
        return
    with pytest.raises(UsageError) as error:
        load(write(tmp_path, change), frozenset({"tls.terminated"}))
    assert told in str(error.value)
    assert "\n" not in str(error.value)
