"""The ledger: the packaged facts load whole, and whatever is wrong with a file is one line that says where."""

from __future__ import annotations

import importlib.resources
import re
import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import harness.ledger
from harness.ledger import Ledger, LedgerError, is_recorded, suggestions
from harness.model.requirement import CLAIM, RFC
from harness.model.spec import http, private, tls
from harness.profiles import load as load_profile

FILES = {
    "requirements/rfc1.toml": """
        source = "RFC 1"
        title = "One"
        notes = "Holds for all."

        [[requirement]]
        id = "RFC1-1-1"
        section = "1"
        level = "MUST"
        subject = "both"
        text = "A text."
        observable = "Look."
        area = "tls"
        priority = 1
        applies_to = ["quic"]
        derived = true
        allowed = ["alert 120", "alert 40: recorded", "close", "QUIC: any code; no answer: recorded", "close later"]
        """,
    "requirements/engine.toml": """
        source = "documentation"
        title = "Engine"

        [[requirement]]
        id = "TLS-001"
        area = "TLS"
        level = "MUST"
        priority = 1
        marks = ["SEED"]
        seed = [1]
        text = "A claim."
        observable = "Look."
        stated_in = "seed page"

        [[requirement]]
        id = "TLS-002"
        area = "TLS"
        level = "SHOULD"
        priority = 2
        marks = ["RFC"]
        rfc = "RFC 1"
        rfc_level = "MUST"
        text = "Only an RFC."
        observable = "Look."
        stated_in = "docs silent"
        """,
    "rulings/http.toml": """
        [[ruling]]
        id = "C-01"
        rows = ["RFC1-1-1", "TLS-001"]
        conflict = "Two readings."
        ruling = "Both pass."
        reason = "Both are right."

        [[rule]]
        id = "HTTP-1"
        title = "Role"
        text = "A gateway."

        [[disputed]]
        row = "TLS-001"
        what = "all"
        """,
    "seed.toml": """
        [[sentence]]
        number = 1
        section = "TLS"
        gloss = "One."

        [[sentence]]
        number = 2
        section = "TLS"
        gloss = "Two."
        reason = "A pointer."
        """,
    "features.toml": """
        [features]
        "tls.alpn" = "A list."

        [settings]
        "timeout.drain-ms" = { type = "integer", unit = "ms", meaning = "streams at shutdown" }
        """,
    "editions.toml": """
        [[promise]]
        feature = "tls.alpn"
        title = "list"
        community = "yes"
        basic = "yes"
        pro = "listener"
        enterprise = "unknown"
        requirements = ["TLS-001"]
        """,
    "reasons.toml": """
        [[reason]]
        rows = ["engine:TLS", "TLS-002"]
        kind = "deferred"
        text = "Later."
        """,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small ledger that loads."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(LedgerError) as raised:
        Ledger.load(folder)
    line = str(raised.value)
    assert "\n" not in line
    return line


def change(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


class TestPackaged:
    """The facts that ship."""

    def test_every_file_is_there(self) -> None:
        ledger = Ledger.load()
        counts = {name: len(rows) for name, rows in ledger.chapters().items()}
        assert sum(count for name, count in counts.items() if name.startswith("rfc:")) == 999
        assert sum(count for name, count in counts.items() if name.startswith("engine:")) == 435
        assert counts["agent:agent"] == len([row for row in ledger if row.id.startswith("AGENT-")]) > 80
        assert len(ledger.rulings) == 51 + 59 + 15
        assert sorted(ledger.seed) == list(range(1, 68))
        assert {number for number, item in ledger.seed.items() if item.reason} == {23, 24, 41, 56, 62}

    def test_documented_rows_reach_every_sentence_of_the_seed_page(self) -> None:
        ledger = Ledger.load()
        assert {number for row in ledger for number in row.seed if row.ledger == CLAIM} == set(ledger.seed)

    def test_rows_that_only_an_rfc_backs_are_no_claims(self) -> None:
        ledger = Ledger.load()
        assert all(row.ledger == RFC for row in ledger if row.derived or row.marks in ((), ("RFC",)))
        assert all(row.ledger == CLAIM for row in ledger if set(row.marks) & {"SEED", "DOCS", "SDK"})

    def test_every_item_of_allowed_can_be_named(self) -> None:
        ledger = Ledger.load()
        for row in ledger:
            for item in (*row.allowed, *ledger.branches(row.id)):
                assert ledger.branch(row.id, item) == item

    def test_every_disputed_row_says_what_is_disputed(self) -> None:
        ledger = Ledger.load()
        assert set(ledger.disputed) == {row.id for row in ledger if row.disputed}

    def test_rows_name_only_rulings_that_there_are(self) -> None:
        ledger = Ledger.load()
        for row in ledger:
            text = " ".join((row.text, row.observable, row.notes or "", row.disputed or "", *row.allowed))
            assert set(re.findall(r"\bCONFLICT-\d\d\b", text)) <= set(ledger.rulings)

    def test_nothing_points_outside_the_project(self) -> None:
        for file in Path(str(importlib.resources.files("fixtures"))).rglob("*.toml"):
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"\.\./shared|/work|conflicts-|engine-behaviours|agent-protocol\.md", text), file

    def test_specs_need_only_features_that_have_a_name(self) -> None:
        specs = (
            tls(),
            tls(upstream_tls=True, tls_alpns=("a",), tls_min_version="tls1.3", tls_ciphers=("x",)),
            tls(tls_mode="passthrough"),
            http(),
            http(upstream_tls=True),
            http(http_version="h2c"),
            http(http_version="h3"),
            private(),
            tls(protocol="dtls"),
            tls(protocol="quic"),
        )
        known = set(Ledger.load().features)
        assert frozenset().union(*(spec.features() for spec in specs)) <= known

    def test_profiles_name_only_known_features_and_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = Ledger.load()
        for name in ("ENGINE", "TOKEN", "CA_FILE", "DOMAIN"):
            monkeypatch.setenv(f"EDGECASE_{name}", "x")
        profile = load_profile("reference", frozenset(ledger.features))
        assert set(profile.driver.get("settings", {})) <= set(ledger.settings_keys)

    def test_a_second_load_is_the_same_ledger(self) -> None:
        assert Ledger.load() is Ledger.load()


class TestAccess:
    """What callers ask a ledger."""

    def test_a_row_has_its_chapter_file_and_rulings(self, folder: Path) -> None:
        ledger = Ledger.load(folder)
        row = ledger["RFC1-1-1"]
        assert (row.chapter, row.file, row.source, row.rulings) == ("rfc:tls", "rfc1.toml", "RFC 1", ("C-01",))
        assert [ruling.id for ruling in ledger.rulings_of("TLS-001")] == ["C-01"]
        assert ledger.source_of(row.id).notes == "Holds for all."
        assert ledger.rfc_level("TLS-002") == "MUST"
        assert list(ledger.chapters()) == ["engine:TLS", "rfc:tls"]
        assert len(ledger) == len(ledger.rows) == 3
        assert "TLS-002" in ledger
        assert ledger.settings_keys["timeout.drain-ms"].unit == "ms"
        assert ledger.editions["tls.alpn"].editions["pro"] == "listener"

    def test_an_unknown_row_is_one_line_with_the_nearest(self, folder: Path) -> None:
        with pytest.raises(LedgerError, match=r"^TLS-01: no such requirement \(did you mean TLS-001"):
            Ledger.load(folder)["TLS-01"]

    @pytest.mark.parametrize(
        ("name", "branch"),
        [
            ("alert 120", "alert 120"),
            ("alert 4", "alert 40: recorded"),
            ("close", "close"),
            ("close l", "close later"),
            ("QUIC: any", "QUIC: any code"),
            ("no answer", "no answer: recorded"),
            ("QUIC: any code; no answer: recorded", "QUIC: any code; no answer: recorded"),
        ],
    )
    def test_a_branch_is_found_by_its_start(self, folder: Path, name: str, branch: str) -> None:
        assert Ledger.load(folder).branch("RFC1-1-1", name) == branch

    @pytest.mark.parametrize("name", ["alert", "", "alert 121", "Close"])
    def test_a_branch_is_one_or_an_error(self, folder: Path, name: str) -> None:
        with pytest.raises(LedgerError, match=r"^rfc1\.toml: RFC1-1-1: allowed: "):
            Ledger.load(folder).branch("RFC1-1-1", name)

    def test_a_row_without_allowed_has_no_branch(self, folder: Path) -> None:
        with pytest.raises(LedgerError, match="case names a branch that the row does not have"):
            Ledger.load(folder).branch("TLS-001", "any")

    @pytest.mark.parametrize(
        ("branch", "recorded"),
        [
            ("no Via: recorded as an RFC deviation", True),
            ("h2/h3: stream error, recorded", True),
            ("or the frame discarded (recorded)", True),
            ("HTTP error response (400 expected, another 4xx/5xx recorded)", False),
            ("connection error instead; loss of other streams is then recorded, not failed", False),
            ("genuine records relayed", False),
            ("alert 120", False),
        ],
    )
    def test_recorded_is_a_mark_and_not_a_word(self, branch: str, recorded: bool) -> None:
        assert is_recorded(branch) is recorded

    def test_a_narrow_reason_wins(self, folder: Path) -> None:
        change(folder, "reasons.toml", '"engine:TLS", "TLS-002"', '"engine:TLS"')
        with (folder / "reasons.toml").open("a") as file:
            for rows, text in (('"TLS-0*"', "Prefix."), ('"engine:TLS:2"', "Priority."), ('"TLS-002"', "Row.")):
                file.write(f'[[reason]]\nrows = [{rows}]\nkind = "pointer"\ntext = "{text}"\n')
        ledger = Ledger.load(folder)
        reasons = {row.id: ledger.reason_of(row.id) for row in ledger}
        assert {name: reason and reason.text for name, reason in reasons.items()} == {
            "TLS-001": "Prefix.",
            "TLS-002": "Row.",
            "RFC1-1-1": None,
        }

    def test_the_digest_is_of_the_content(self, folder: Path) -> None:
        first = Ledger.load(folder).digest
        change(folder, "requirements/rfc1.toml", 'title = "One"', '# a comment\n\ntitle   =  "One"')
        change(folder, "reasons.toml", "Later.", "Much later.")
        assert Ledger.load(folder).digest == first
        change(folder, "requirements/rfc1.toml", "A text.", "Another text.")
        assert Ledger.load(folder).digest != first
        assert re.fullmatch("[0-9a-f]{64}", first)

    def test_suggestions_put_the_same_in_another_case_first(self) -> None:
        assert suggestions("tls-001", ["TLS-010", "TLS-001", "ALPN-001"])[0] == "TLS-001"
        assert suggestions("zzzzzz", ["TLS-010"]) == []


BROKEN = [
    (
        "requirements/rfc1.toml",
        'level = "MUST"',
        'level = "SHALL"',
        "rfc1.toml: RFC1-1-1: level: found 'SHALL', allowed",
    ),
    ("requirements/rfc1.toml", 'level = "MUST"\n', "", "rfc1.toml: RFC1-1-1: level: found nothing, allowed"),
    (
        "requirements/rfc1.toml",
        "priority = 1",
        "priority = 4",
        "rfc1.toml: RFC1-1-1: priority: found 4, allowed is one of",
    ),
    ("requirements/rfc1.toml", "priority = 1", "priority = true", "rfc1.toml: RFC1-1-1: priority: found True, allowed"),
    (
        "requirements/rfc1.toml",
        'area = "tls"',
        'area = "TLS"',
        "rfc1.toml: RFC1-1-1: area: found 'TLS', allowed is one of",
    ),
    ("requirements/rfc1.toml", 'subject = "both"', 'subject = "all"', "rfc1.toml: RFC1-1-1: subject: found 'all'"),
    ("requirements/rfc1.toml", '["quic"]', '["quick"]', "rfc1.toml: RFC1-1-1: applies_to: found ['quick'], allowed"),
    ("requirements/rfc1.toml", "derived = true", "derivd = true", "rfc1.toml: RFC1-1-1: derivd: found an unknown key"),
    ("requirements/rfc1.toml", '"close", ', "3, ", "rfc1.toml: RFC1-1-1: allowed: found ["),
    ("requirements/rfc1.toml", 'id = "RFC1-1-1"', "id = 7", "rfc1.toml: 7: id: found 7, allowed is a text"),
    ("requirements/rfc1.toml", 'id = "RFC1-1-1"\n', "", "rfc1.toml: requirement 1: id: found nothing"),
    ("requirements/rfc1.toml", "[[requirement]]", "[requirement]", "rfc1.toml: file: requirement: found {"),
    ("requirements/rfc1.toml", 'title = "One"\n', "", "rfc1.toml: file: title: found nothing, allowed"),
    ("requirements/engine.toml", '"TLS-002"', '"TLS-001"', "engine.toml: TLS-001: id: found twice"),
    (
        "requirements/engine.toml",
        '"TLS-002"',
        '"RFC1-1-1"',
        "rfc1.toml: RFC1-1-1: id: found twice (also in engine.toml)",
    ),
    ("requirements/engine.toml", "seed = [1]", "seed = [3]", "engine.toml: TLS-001: seed: found 3, allowed is 1 to 2"),
    ("requirements/engine.toml", "seed = [1]", "seed = [0]", "engine.toml: TLS-001: seed: found 0, allowed is 1 to 2"),
    ("requirements/engine.toml", '["SEED"]', '["RUMOUR"]', "engine.toml: TLS-001: marks: found ['RUMOUR'], allowed"),
    (
        "rulings/http.toml",
        '"TLS-001"]',
        '"TLS-009"]',
        "rulings/http.toml: C-01: rows: found 'TLS-009', allowed is the id",
    ),
    ("rulings/http.toml", 'reason = "Both are right."', "", "rulings/http.toml: C-01: reason: found nothing"),
    ("rulings/http.toml", 'row = "TLS-001"', 'row = "X"', "rulings/http.toml: X: rows: found 'X', allowed"),
    ("seed.toml", "number = 2", "number = 3", "seed.toml: 3: number: found 3, allowed is 2"),
    ("features.toml", '"A list."', "3", "features.toml: features: tls.alpn: found 3, allowed is a text"),
    ("features.toml", 'type = "integer"', 'type = "float"', "features.toml: timeout.drain-ms: type: found 'float'"),
    ("features.toml", "[settings]", "[setting]", "features.toml: file: setting: found an unknown key"),
    (
        "editions.toml",
        '"listener"',
        '"perhaps"',
        "editions.toml: tls.alpn: pro: found 'perhaps', allowed is one of yes",
    ),
    (
        "editions.toml",
        '"tls.alpn"',
        '"tls.alpm"',
        "editions.toml: tls.alpm: feature: found 'tls.alpm', allowed is a name of",
    ),
    ("editions.toml", '["TLS-001"]', '["TLS-1"]', "editions.toml: tls.alpn: rows: found 'TLS-1', allowed"),
    ("reasons.toml", '"deferred"', '"later"', "reasons.toml: Later.: kind: found 'later', allowed is one of"),
    ("reasons.toml", '"engine:TLS"', '"engine:DTLS"', "reasons.toml: engine:DTLS: rows: found 'engine:DTLS', allowed"),
    ("reasons.toml", '"engine:TLS"', '"TLS-002"', "reasons.toml: TLS-002: rows: found twice"),
]


class TestRefusals:
    """One line that names the file, the row, the key, what was found and what is allowed."""

    @pytest.mark.parametrize(("name", "old", "new", "line"), BROKEN)
    def test_a_broken_file_is_one_line(self, folder: Path, name: str, old: str, new: str, line: str) -> None:
        change(folder, name, old, new)
        assert refused(folder).startswith(line)

    @pytest.mark.parametrize("name", sorted(FILES))
    def test_a_truncated_file_is_one_line(self, folder: Path, name: str) -> None:
        data = (folder / name).read_bytes().rstrip()
        (folder / name).write_bytes(data[: len(data) - 5])
        assert refused(folder).startswith(f"{name.removeprefix('requirements/')}: ")

    def test_every_truncation_is_one_line_or_loads(self, folder: Path) -> None:
        data = (folder / "requirements/engine.toml").read_bytes()
        for length in range(0, len(data), 7):
            (folder / "requirements/engine.toml").write_bytes(data[:length])
            lines = []
            try:
                Ledger.load(folder)
            except LedgerError as error:
                lines = str(error).splitlines()
            assert len(lines) <= 1

    def test_octets_that_are_no_text_are_one_line(self, folder: Path) -> None:
        (folder / "seed.toml").write_bytes(b"\xff\xfe")
        assert refused(folder).startswith("seed.toml: file: found no valid TOML")

    def test_a_missing_file_is_one_line(self, folder: Path) -> None:
        (folder / "features.toml").unlink()
        assert refused(folder).startswith("features.toml: file: found no readable file")

    def test_a_missing_folder_is_one_line(self, folder: Path) -> None:
        shutil.rmtree(folder / "rulings")
        assert refused(folder).startswith("rulings: found no readable folder")

    def test_an_empty_folder_is_one_line(self, folder: Path) -> None:
        for name in FILES:
            if name.startswith("requirements/"):
                (folder / name).unlink()
        assert refused(folder).startswith("requirements: found no file of requirements")

    def test_a_huge_file_is_one_line(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(harness.ledger, "_MOST_OCTETS", 100)
        assert "allowed are 100" in refused(folder)


class TestCache:
    """The parsed form that is kept between processes: a matter of time only."""

    @pytest.fixture
    def fresh(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Ledger]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.delenv("EDGECASE_NO_CACHE", raising=False)
        load: Callable[[], Ledger] = harness.ledger._packaged.__wrapped__
        return load

    def test_what_is_kept_is_what_was_read(self, fresh: Callable[[], Ledger], tmp_path: Path) -> None:
        first = fresh()
        (kept,) = (tmp_path / "edgecase").iterdir()
        assert kept.name.startswith("ledger-")
        second = fresh()
        assert first.digest == second.digest
        assert list(first.rows.values()) == list(second.rows.values())

    @pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"seed.toml": 3}', b"\xff"])
    def test_a_damaged_copy_is_read_anew(self, fresh: Callable[[], Ledger], tmp_path: Path, damage: bytes) -> None:
        digest = fresh().digest
        (kept,) = (tmp_path / "edgecase").iterdir()
        kept.write_bytes(damage)
        assert fresh().digest == digest

    def test_a_folder_that_cannot_be_written_does_no_harm(
        self, fresh: Callable[[], Ledger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert len(fresh()) > 1500

    def test_old_copies_are_removed(self, fresh: Callable[[], Ledger], tmp_path: Path) -> None:
        (tmp_path / "edgecase").mkdir()
        (tmp_path / "edgecase" / "ledger-0.json").write_text("{}")
        fresh()
        assert [item.name == "ledger-0.json" for item in (tmp_path / "edgecase").iterdir()] == [False]

    def test_a_second_process_loads_in_a_moment(self, fresh: Callable[[], Ledger]) -> None:
        fresh()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            fresh()
            times.append(time.perf_counter() - start)
        assert min(times) < 0.5
