"""The attack corpora: every entry is whole, tells its source and its rows, and what is wrong with one is one line."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from harness.attacks import SMUGGLED, VERSIONS, Attack, Words, load
from harness.ledger import Ledger, LedgerError

WORDS = Words("a.example", "0123456789abcdef")
SOURCE = re.compile(r"RFC \d+ section \d|CVE-\d{4}-\d+|GHSA-|20\d\d")
ENTRIES = load()


def test_the_corpora_are_large_and_every_version_has_its_share() -> None:
    assert len(ENTRIES) >= 150
    by_version = {version: sum(version in entry.judged for entry in ENTRIES) for version in VERSIONS}
    assert min(by_version.values()) >= 100, by_version
    assert {entry.family for entry in ENTRIES} == {
        "authority", "chunks", "framing", "hop", "injection", "lengths", "lines", "paths", "pseudo", "trailers",
    }  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_names_its_source_and_can_be_found_at_the_upstream(entry: Attack) -> None:
    assert SOURCE.search(entry.source), entry.source
    smuggled = WORDS.smuggled.encode()
    sections = b"".join(name + value for name, value in entry.section(WORDS))
    if "h1" in entry.judged:
        assert WORDS.nonce.encode() in entry.octets(WORDS).replace(smuggled, b"")
    if {"h2", "h3"} & entry.judged.keys():
        assert WORDS.nonce.encode() in sections.replace(smuggled, b"")
    for text in (entry.octets(WORDS), sections):
        assert not re.search(rb"\{[a-z]", text), "a word that nothing stands for"


def test_no_two_entries_say_the_same() -> None:
    said = Counter(repr((entry.octets(WORDS), entry.section(WORDS), entry.body, entry.trailers)) for entry in ENTRIES)
    assert [what for what, count in said.items() if count > 1] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_the_rows_fit_the_versions(entry: Attack) -> None:
    ledger = Ledger.load()
    for version, names in entry.judged.items():
        other = {"h1": ("RFC9113", "RFC9114"), "h2": ("RFC9114",), "h3": ("RFC9113",)}[version]
        assert [name for name in names if name.startswith(other)] == []
        assert all(ledger[name].level for name in names)


def test_words() -> None:
    assert WORDS.put("{host} {nonce} {length} {a*3} {unknown}", 7) == "a.example 0123456789abcdef 7 aaa {unknown}"
    request = WORDS.octets("{smuggled}")
    assert request == f"GET /{SMUGGLED}/{SMUGGLED}-{WORDS.nonce} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()
    assert WORDS.octets("{smuggled-chunk}") == f"{len(request):x}\r\n".encode() + request + b"\r\n"
    assert len(f"{len(request):x}") == 2, "entries count on a size line of four octets"


def test_an_entry_in_octets_and_in_sections() -> None:
    entries = {entry.id: entry for entry in ENTRIES}
    both = entries["cl-te"].octets(WORDS)
    head, _, body = both.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.startswith(b"0\r\n\r\nGET /smuggled/")
    assert entries["line-lf-everywhere"].octets(WORDS) == b"GET /0123456789abcdef HTTP/1.1\nHost: a.example\n\n"
    injected = entries["value-crlf-coding"]
    assert injected.section(WORDS)[:2] == [(b":method", b"POST"), (b":scheme", b"https")]
    assert injected.section(WORDS)[-1] == (b"foo", b"b\r\ntransfer-encoding: chunked")
    meaning = entries["te-cl"].meaning(WORDS)
    assert meaning.bodies == (WORDS.octets("{smuggled}"),)
    assert meaning.without == {"content-length"}
    assert (meaning.method, meaning.targets) == ("POST", ("/0123456789abcdef",))


GOOD = {
    "id": '"a-b"',
    "title": '"A title"',
    "source": '"RFC 9112 section 6"',
    "judged.h1": '["HTTP-HDR-016"]',
    "lines": '["GET /{nonce} HTTP/1.1"]',
    "passes": '["refused"]',
}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"id": '"A b"'}, "A b: id: found 'A b', allowed is words of lower case letters and digits with - between"),
        ({"source": None}, "a-b: source: found nothing, allowed is a text that is not empty"),
        ({"bites": "1"}, "a-b: bites: found an unknown key, allowed are id, title"),
        ({"passes": '["fine"]'}, "a-b: passes: found ['fine'], allowed is a list of refused, relayed, waits"),
        ({"passes": "[]"}, "a-b: passes: found nothing, allowed is some of refused, relayed, waits"),
        ({"judged.h1": '["HTTP-1"]'}, "a-b: judged: found HTTP-1, allowed is a requirement of the ledger"),
        ({"judged.h1": None, "judged.h9": '["X"]'}, "a-b: judged: h9: found an unknown key, allowed are h1, h2, h3"),
        ({"judged.h1": None, "judged": "{}"}, "a-b: judged: found no version, allowed is some of h1, h2, h3"),
        ({"lines": None}, "a-b: lines: found nothing, allowed is lines where h1 is judged, and only there"),
        ({"lines": '["\u0100"]'}, "a-b: lines: found ['\u0100'], allowed is a list of such texts, each up to U+00FF"),
        ({"fields": '[["a", "b"]]'}, "a-b: fields: found a section without h2 or h3, allowed is one where these are"),
        ({"judged.h2": '["HTTP-HDR-008"]'}, "a-b: fields: found nothing, allowed is pseudo, fields, trailers or body"),
        ({"judged.h2": '["HTTP-HDR-008"]', "fields": '[["a"]]'},  "a-b: fields: found [['a']], allowed is"),
        ({"relayed": "{}"}, "a-b: relayed: found a meaning of what may not be relayed, allowed is one where"),
        (
            {"passes": '["relayed"]', "relayed": '{ body = "x" }'},
            "a-b: relayed: body: found an unknown key, allowed are method, targets, bodies, fields, without",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path: Path, change: dict[str, str | None], line: str) -> None:
    data = {key: value for key, value in (GOOD | change).items() if value is not None}
    text = "".join(f"{key} = {value}\n" for key, value in data.items())
    (tmp_path / "some.toml").write_text(f'title = "Some"\n[[attack]]\n{text}', encoding="utf-8")
    with pytest.raises(LedgerError) as told:
        load(tmp_path)
    assert str(told.value).startswith(f"attacks/some.toml: {line}")
    assert "\n" not in str(told.value)


def test_ids_are_unique_and_files_are_toml(tmp_path: Path) -> None:
    entry = "".join(f"{key} = {value}\n" for key, value in GOOD.items())
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(f'title = "Some"\n[[attack]]\n{entry}', encoding="utf-8")
    with pytest.raises(LedgerError, match=r"attacks/two.toml: a-b: id: found again, one.toml has it, allowed is once"):
        load(tmp_path)
    (tmp_path / "one.toml").write_text("title = ", encoding="utf-8")
    with pytest.raises(LedgerError, match=r"attacks/one.toml: file: found no valid TOML, allowed is TOML: "):
        load(tmp_path)
