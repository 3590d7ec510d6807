"""The documents: what they name exists, and what they must name is there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from harness.cli.main import COMMANDS
from reference_engine.config import keys

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PATH = re.compile(r"`((?:harness|conformance|reference_engine|fixtures|reports|tests)/[\w./-]+\.\w+)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_walk_names_files_that_exist_each_once() -> None:
    named = PATH.findall(read("ARCHITECTURE.md"))
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert [name for name, count in Counter(named).items() if count > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lost = [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    lost += [name for name in PATH.findall(text) if not (ROOT / name).exists()]
    assert lost == []


def engine_table() -> str:
    """The table of the engine's settings, as docs/engine.md has it."""
    rows = ["| key | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    for key in keys().values():
        default = "off" if key.default is None else "none" if key.default == () else f"`{key.default}`"
        allowed = re.sub(r"[\[{].*[\]}]", "the tables above", key.kind.allowed)
        rows.append(f"| `{key.name}` | {default} | {allowed} | {key.about} |")
    return "\n".join(rows) + "\n"


def test_the_engine_page_tells_every_key() -> None:
    assert engine_table() in read("docs/engine.md"), f"the table of settings should be:\n{engine_table()}"


def test_the_readme_names_every_command() -> None:
    text = read("README.md")
    assert [name for name in COMMANDS if f"edgecase {name}" not in text] == []
