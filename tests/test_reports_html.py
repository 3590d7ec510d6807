"""The page: whole, self-contained, escaped, readable without a script, bounded."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from harness.model.event import Event
from harness.model.record import CaseResult, RunRecord, to_json
from harness.model.verdict import VERDICTS, Outcome, Verdict
from reports import html, schema
from tests.golden.sample import RECORD, ROWS, alpn_steps, case, connect_steps, outcome

VOID = {"meta", "link", "input", "br", "hr"}
MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
HOSTILE = MARKUP + "\x1b[31m\x00\u202e\udcff\u2028"


class Page(HTMLParser):
    """A strict reader: every element is closed in order, and ids, links and headings are kept."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return html.render(RECORD, ROWS)


@pytest.fixture(scope="module")
def read(page: str) -> Page:
    return Page(page)


def test_the_page_is_the_same_for_the_same_record(page: str) -> None:
    assert html.render(RECORD, ROWS) == page


SAID = (
    "Acme Edge 4.1.7",
    "community",
    "adapter acme-adapter",
    "tls.passthrough",
    "2026-10-08 09:12:40+00:00",
    "11.4 s with 2 workers",
    "20260",
    "edgecase run --engine acme -n 2",
    "edgecase 0.1.0",
    RECORD.ledger_digest,
    "3 of 26 cases failed",
    "the profile does not claim tunnel.quic",
    "ACME-1182",
    "sni-routing-1*",
)


def test_it_says_what_was_run_on_what(read: Page) -> None:
    for words in SAID:
        assert words in read.text
    for row in VERDICTS.values():
        assert row.meaning in read.text


def test_unexpected_verdicts_come_before_everything_else_about_cases(read: Page) -> None:
    order = [
        "Unexpected verdicts (4)",
        "Baseline",
        "Verdicts by area",
        "Documented claims",
        "RFC requirements",
        "Cases (29)",
    ]
    places = [read.text.index(words) for words in order]
    assert places == sorted(places)


def test_what_did_not_pass_has_ladder_sides_log_and_command(read: Page) -> None:
    drawings = [attrs for attrs in read.all("svg") if attrs.get("role") == "img"]
    assert len(drawings) == 6
    assert read.text.count("\u2717 the engine departed here") == 5
    for words in EVIDENCE:
        assert words in read.text


EVIDENCE = (
    "Expected",
    "Actual",
    "alpn: no overlap, continuing without",
    "Engine log, last 3 lines",
    "Run it again",
    "edgecase run --engine acme --seed 20260 --case 'alpn-overlap-02[tls1.3-terminated]'",
)


def test_a_passing_case_has_requirements_and_no_evidence() -> None:
    shown = Page(html.render(replace(RECORD, cases=RECORD.cases[:1]), ROWS))
    assert not shown.all("svg")
    assert "In terminated mode the engine ends TLS at the edge" in shown.text
    assert "edgecase run --engine acme --seed" not in shown.text


def test_the_branch_that_was_seen_is_shown(read: Page) -> None:
    assert "Seen: bytes or the CONNECT refused: recorded" in read.text


def test_ids_are_unique_and_every_link_and_label_arrives(read: Page) -> None:
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"] for attrs in read.all("a")]
    captures = [target for target in targets if target and target.endswith(".pcapng")]
    assert captures == [case.capture for case in RECORD.cases if case.capture]
    assert all(target and target.startswith("#") and target[1:] in ids for target in targets if target not in captures)
    assert all(attrs["aria-labelledby"] in ids for _, attrs in read.tags if "aria-labelledby" in attrs)


def test_headings_never_skip_a_level(read: Page) -> None:
    levels = [int(name[1]) for name, _ in read.tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_landmarks_language_and_the_way_to_the_cases(read: Page) -> None:
    names = [name for name, _ in read.tags]
    assert [names.count(name) for name in ("header", "main", "footer", "title")] == [1, 1, 1, 1 + len(read.all("svg"))]
    assert read.all("html")[0]["lang"] == "en"
    assert read.all("a")[0]["href"] == "#cases"


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name(read: Page) -> None:
    boxes = [attrs for attrs in read.all("div") if attrs.get("class") == "scroll"]
    assert boxes
    assert all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in boxes)


def test_nothing_is_fetched(page: str, read: Page) -> None:
    for name, attrs in read.tags:
        assert not {"src", "srcset", "style", "action"} & set(attrs), name
    assert [attrs["href"] for attrs in read.all("link")] == ["data:,"]
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_without_a_script_everything_is_there(read: Page) -> None:
    """Only the filter and the copy buttons, which need the script, are hidden."""
    hidden = {name for name, attrs in read.tags if "hidden" in attrs}
    assert hidden == {"form", "button"}


def test_the_policy_admits_this_style_and_this_script_only(page: str) -> None:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found
    assert found[1].startswith("default-src 'none'")
    assert "unsafe" not in found[1]
    assert found[1].count("'sha256-") == 2


def everywhere(words: str) -> RunRecord:
    """The sample with `words` in every text that an engine, an adapter or a case can fill."""
    step = Event(0.1, "downstream", "client", "engine", words, words, words, 3, words, words, departed=True)
    strange = Event(0.2, words, words, words, words)
    judged = outcome("ALPN-004", Outcome.FAIL, branch=words, message=words, expected=words, actual=words)
    judged = replace(judged, requirement=words, level=words, where=words, text=words)
    bad = case(
        words, words, words, judged, variant=words, expected=False, transcript=(step, strange), engine_log=(words,)
    )
    bad = replace(
        bad,
        doc=f"{words}\n{words}",
        cause=words,
        reproduce=words,
        file=words,
        settings=words,
        requirements=(words,),
        capture=words,
        qlogs=(words,),
        axes=((words, words), ("down", words), ("up", words)),
    )
    names = dict.fromkeys(("profile", "name", "version", "edition", "driver", "command"), words)
    engine = replace(RECORD.engine, **names, features=(words,))  # type: ignore[arg-type]
    problems = tuple(replace(problem, kind=words, entry=words, reason=words) for problem in RECORD.baseline_problems)
    known = replace(bad, expected=True, baseline_reason=words)
    return replace(
        RECORD, engine=engine, cases=(bad, known), argv=(words,), notes=(words,), stopped=words, started=words,
        suite_version=words, ledger_digest=words, baseline_problems=problems,
    )  # fmt: skip


@pytest.mark.parametrize(
    "path",
    ["javascript:alert(1)//.pcapng", "//example.org/x.pcapng", "evidence/../../x.pcapng", "/etc/x.pcapng", "x.pcapng",
     "evidence/.pcapng", "evidence/a b.pcapng", "evidence/x.pcapng\n"],
)  # fmt: skip
def test_only_a_capture_beside_the_report_is_a_link(path: str) -> None:
    bad = replace(next(case for case in RECORD.cases if case.capture), capture=path, qlogs=(path,))
    shown = Page(html.render(replace(RECORD, cases=(bad,)), ROWS))
    assert all((attrs["href"] or "").startswith("#") for attrs in shown.all("a"))


def test_the_qlog_files_of_a_case_are_linked() -> None:
    paths = ("evidence/a.downstream.qlog", "evidence/a.upstream.qlog")
    told = replace(RECORD, cases=(replace(next(case for case in RECORD.cases if case.capture), qlogs=paths),))
    shown = Page(html.render(told, ROWS))
    targets = [attrs["href"] for attrs in shown.all("a")]
    assert [target for target in targets if target and target.endswith(".qlog")] == list(paths)
    assert schema.validate(to_json(told)) == []


def test_hostile_text_is_shown_and_does_nothing() -> None:
    page = html.render(everywhere(HOSTILE), ROWS)
    page.encode("utf-8")
    shown = Page(page)
    assert not shown.all("img")
    assert len(shown.all("script")) == 1
    assert not any(key.startswith("on") for _, attrs in shown.tags for key in attrs)
    assert "alert(1)" in shown.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]", page)


def test_a_line_of_ten_megabytes_is_cut_visibly() -> None:
    page = html.render(everywhere("x" * 10_000_000), ROWS)
    assert len(page) < 400_000
    assert "of 10,000,000 characters]" in page


def many(count: int, verdict: Verdict, steps: tuple[Event, ...]) -> tuple[CaseResult, ...]:
    sides = {"message": "what came is not what the rule asks", "expected": "alert 120", "actual": "ServerHello"}
    said = sides if verdict is Verdict.FAIL else {}
    judged = [outcome(name, Outcome(verdict.value), **said) for name in ("ALPN-004", "RFC7301-3.2-2", "TLS-002")]
    good = verdict is Verdict.PASS
    title = "A title of the usual length that says what is shown"
    more = {"variant": "tls1.3-terminated", "transcript": steps, "expected": good}
    return tuple(
        case(f"family-topic-{number:04}", f"area{number % 12}", title, *judged, **more)  # type: ignore[arg-type]
        for number in range(count)
    )


@pytest.mark.parametrize("failing", [0, 40, 1500])
def test_fifteen_hundred_cases_stay_under_three_megabytes(failing: int) -> None:
    passed = many(1500 - failing, Verdict.PASS, alpn_steps())
    failed = tuple(replace(item, id=f"bad-{item.id}") for item in many(failing, Verdict.FAIL, connect_steps()))
    page = html.render(replace(RECORD, cases=(*passed, *failed)), ROWS)
    assert len(page.encode()) < 3_000_000
    assert page.count('<details id="c-') == 1500
    drawn = page.count("<svg")
    assert drawn == failing if failing < 100 else 10 < drawn < failing
    assert ("this page is full" in page) == (drawn < failing)


def test_two_results_of_one_key_have_an_anchor_each() -> None:
    page = html.render(replace(RECORD, cases=(RECORD.cases[0], replace(RECORD.cases[0], worker="gw1"))), ROWS)
    ids = re.findall(r'<details id="(c-[^"]*)"', page)
    assert len(set(ids)) == 2


def test_an_empty_and_a_green_run_have_a_page() -> None:
    empty = Page(html.render(replace(RECORD, cases=(), baseline_problems=())))
    assert "nothing has been shown about this engine" in empty.text
    green = Page(html.render(replace(RECORD, cases=RECORD.cases[:18], baseline_problems=())))
    assert "None of 18 cases failed." in green.text
    assert "the run is green" in green.text


def test_a_run_that_stopped_says_so_at_the_top(read: Page) -> None:
    shown = Page(html.render(replace(RECORD, stopped="5 crashes in a row"))).text
    assert shown.index("The run stopped early: 5 crashes in a row") < shown.index("What was run on what")
    assert "stopped early" not in read.text


def test_every_verdict_has_a_mark_besides_its_colour() -> None:
    style = (files("reports") / "style.css").read_text(encoding="utf-8")
    marks = re.findall(r"\.v\.([a-z]+)::before \{ content: (\"[^\"]+\"); \}", style)
    assert {name for name, _ in marks} == {verdict.value for verdict in Verdict}
    assert len({mark for _, mark in marks}) == len(Verdict)


# -- colours: WCAG 2.2 contrast of 4.5 for every text on every ground it stands on, in both schemes

GROUNDS = {
    "bg": ("text", "soft", "link", *(verdict.value for verdict in Verdict)),
    "badge": tuple(verdict.value for verdict in Verdict),
    "panel": ("text", "soft", "link"),
    "code": ("text", "soft"),
    "bad": ("text", "fail", "soft"),
    "good": ("text", "pass"),
}


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    style = (files("reports") / "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for ground, texts in GROUNDS.items():
        for name in texts:
            dark, light = sorted((luminance(colours[ground]), luminance(colours[name])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{name} on {ground}"
