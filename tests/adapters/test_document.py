"""docs/adapters.md: its messages are as the schema has them, and its example is a program that does what it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.doctor import examine
from harness.engine.adapter import check, schema
from harness.ledger import Ledger
from harness.profiles import load

HERE = Path(__file__).resolve().parent
TEXT = (HERE.parent.parent / "docs" / "adapters.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^### `(\w+)`$", re.MULTILINE)
METHODS = {name.partition(".")[0] for name in schema()["$defs"]}


def blocks(kind: str, text: str = TEXT) -> list[str]:
    """The fenced blocks of that kind."""
    return [body for found, body in FENCE.findall(text) if found == kind]


def messages(block: str) -> Iterator[dict[str, Any]]:
    """The JSON values of a block, one behind the other."""
    decoder, rest = json.JSONDecoder(), block.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].strip()


def sections() -> dict[str, str]:
    """The text about each method, by its name."""
    parts = HEADING.split(TEXT)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_method_is_told_with_an_example() -> None:
    assert set(sections()) == METHODS
    assert [name for name, text in sections().items() if not blocks("json", text)] == []


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_examples_of_a_method_are_as_agreed(method: str) -> None:
    text = sections()[method].partition("\n## ")[0]
    parts = {f"{method}.params", f"{method}.result"} & set(schema()["$defs"])
    shown: set[str] = set()
    for block in blocks("json", text):
        for message in messages(block):
            for part in set(message) & {"params", "result"}:
                assert check(method, part, message[part]) is None
                shown.add(f"{method}.{part}")
    assert shown == parts


def test_the_lines_are_json_rpc() -> None:
    lines = [message for block in blocks("json") for message in messages(block) if "jsonrpc" in message]
    assert len(lines) >= 4
    for line in lines:
        assert line["jsonrpc"] == "2.0"
        if "method" in line:
            assert check(line["method"], "params", line["params"]) is None
        else:
            assert isinstance(line["id"], int)
            assert ("result" in line) != ("error" in line)


def test_what_is_not_as_agreed_is_found() -> None:
    assert check("status", "result", {"running": "yes"}) is not None
    assert check("publish", "result", {"results": [{"endpoint": {}, "unsupported": "x"}]}) is not None


def test_the_example_is_the_program() -> None:
    assert blocks("python") == [(HERE / "example_minimal.py").read_text(encoding="utf-8")]


def test_the_example_and_its_profile_are_well(tmp_path: Path) -> None:
    (profile,) = blocks("toml")
    (tmp_path / "minimal.toml").write_text(profile, encoding="utf-8")
    shutil.copy(HERE / "example_minimal.py", tmp_path)
    features = frozenset(Ledger.load().features)
    checks = examine(load(str(tmp_path / "minimal.toml"), features), features, timeout=20)
    assert [str(found) for found in checks if not found.ok] == []
    assert len(checks) == 19


@pytest.mark.needs("node")
@pytest.mark.skipif(shutil.which("node") is None, reason="not run: needs node")
def test_the_example_in_node_is_well(tmp_path: Path) -> None:
    profile = tmp_path / "node.toml"
    command = json.dumps(["node", str(HERE / "example_node.mjs")])
    profile.write_text(
        'name = "n"\ntitle = "N"\nedition = "none"\nfeatures = ["tls.terminated"]\n'
        f'[driver]\nkind = "adapter"\ncommand = {command}\n'
    )
    features = frozenset(Ledger.load().features)
    checks = examine(load(str(profile), features), features, timeout=20)
    assert [str(found) for found in checks if not found.ok] == []


def test_the_schema_is_where_the_document_says() -> None:
    assert "harness/engine/adapter.schema.json" in TEXT
    assert schema()["$schema"].endswith("2020-12/schema")
