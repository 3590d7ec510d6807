"""The pairs of HTTP versions: what a case says of its pair, the matrix in the terminal, and the table of the page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conformance.http._pairs import PAIRS, pair_features, pair_tunnel
from harness.collect import collect
from harness.model.case import Case, Variant, case
from harness.model.pairs import ALIASES, CHOSEN, DOWNSTREAM, UPSTREAMS, axes_of
from harness.model.record import CaseResult, RunRecord, from_json, to_json
from harness.model.spec import http, quic
from harness.model.verdict import Verdict
from reports import allure, html, junit, pairs, schema, summary
from tests.golden import sample
from tests.golden.sample import RECORD
from tests.test_reports_html import HOSTILE, Page


def declared(area: str, **more: Any) -> Case:
    async def test_it(scene: Any) -> None:
        """A case."""

    test_it.__module__ = f"conformance.{area}.topic"
    case("a-case", checks=["HTTP-VER-001"], **more)(test_it)
    found: Case = test_it.__edgecase_case__  # type: ignore[attr-defined]
    return found


def told(found: Case) -> list[dict[str, str]]:
    return [dict(axes_of(found, variant)) for variant in found.variants]


# -- what a case says


def test_the_axes_are_the_pair() -> None:
    found = told(declared("http", publish=pair_tunnel, over=PAIRS, features=pair_features))
    assert [(axes["down"], axes["up"]) for axes in found] == [(d, u) for d in PAIRS["down"] for u in PAIRS["up"]]


def test_other_axes_are_kept_and_the_pair_comes_behind_them() -> None:
    (first, _) = declared("http", publish=http(), over={"how": ("one", "two")}).variants
    found = declared("http", publish=http(), over={"how": ("one", "two")})
    assert axes_of(found, first) == (("how", "one"), ("down", "h1"), ("up", "h1"))


@pytest.mark.parametrize(
    ("area", "more", "pair"),
    [
        ("http", {"publish": http()}, ("h1", "h1")),
        ("websocket", {"publish": http()}, ("h1", "h1")),
        ("http2", {"publish": http(http_version="h2c")}, ("h1", "h2c")),
        ("http2", {"publish": http(), "features": ["http.downstream-h2"]}, ("h2", "h1")),
        ("http3", {"publish": http(http_version="h3"), "features": ["http.downstream-h3"]}, ("h3", "h3")),
        ("http2", {"publish": {"other": http(http_version="h2c")}}, ("h1", "h2c")),
        ("http", {"publish": http(upstream_tls=True)}, ("h1", "tls")),
        ("http2", {"publish": http(), "over": {"down": ("h2",)}}, ("h2", "h1")),
        ("edge", {"publish": pair_tunnel, "over": {"up": ("h3",)}}, ("h1", "h3")),
        ("validation", {"publish": http()}, None),
        ("quic", {"publish": quic()}, None),
    ],
)
def test_one_leg_is_enough_to_tell_the_other(area: str, more: dict[str, Any], pair: tuple[str, str] | None) -> None:
    (axes,) = told(declared(area, **more))
    assert ((axes["down"], axes["up"]) if "down" in axes else None) == pair


def test_every_http_case_of_the_suite_is_about_a_pair() -> None:
    for found in collect():
        if found.area in ("http", "http2", "http3"):
            for axes in told(found):
                assert ALIASES.get(axes["down"], axes["down"]) in DOWNSTREAM, found.id
                assert ALIASES.get(axes["up"], axes["up"]) in {**UPSTREAMS, **CHOSEN}, found.id


# -- a run


def results(area: str, pair: tuple[str, str], *verdicts: Verdict) -> list[CaseResult]:
    down, up = pair
    return [
        replace(
            sample.case(f"{area}-{number:02}", area, f"Title {number}"),
            variant=f"{down}-{up}",
            verdict=verdict,
            axes=(("down", down), ("up", up)),
        )
        for number, verdict in enumerate(verdicts)
    ]


def run(*cases: CaseResult) -> RunRecord:
    return replace(RECORD, cases=(*RECORD.cases, *cases))


PASS, INFO, FAIL, UNSUPPORTED = Verdict.PASS, Verdict.INFO, Verdict.FAIL, Verdict.UNSUPPORTED
ONE_AREA = run(
    *results("http", ("h1", "h1"), PASS, PASS, INFO),
    *results("http", ("h2", "h2c"), PASS, FAIL, UNSUPPORTED),
    *results("http", ("h3", "h3"), UNSUPPORTED),
)
TWO_AREAS = run(
    *results("http", ("h1", "h1"), PASS),
    *results("http", ("h2", "h1"), PASS),
    *results("http2", ("h2", "h1"), PASS, FAIL),
)


def test_the_matrix_of_one_area() -> None:
    assert pairs.lines(ONE_AREA) == [
        "http pairs (rows: client to engine, columns: engine to upstream):",
        "            http/1.1        h2c                            h3",
        "  http/1.1  2 pass, 1 info  -                              -",
        "  h2        -               1 pass, 1 fail, 1 unsupported  -",
        "  h3        -               -                              1 unsupported",
    ]


def test_the_matrices_of_several_areas() -> None:
    assert pairs.lines(TWO_AREAS) == [
        "HTTP pairs (rows: client to engine, columns: engine to upstream), all areas:",
        "            http/1.1        h2c  h3",
        "  http/1.1  1 pass          -    -",
        "  h2        2 pass, 1 fail  -    -",
        "http:",
        "            http/1.1  h2c  h3",
        "  http/1.1  1 pass    -    -",
        "  h2        1 pass    -    -",
        "http2:",
        "      http/1.1        h2c  h3",
        "  h2  1 pass, 1 fail  -    -",
    ]


def test_the_summary_has_it_behind_the_counts() -> None:
    shown = summary.text(ONE_AREA).splitlines()
    assert shown[2:7] == pairs.lines(ONE_AREA)


def test_a_run_without_pairs_or_of_one_such_case_has_none() -> None:
    assert pairs.lines(RECORD) == []
    assert pairs.lines(run(*results("http", ("h1", "h1"), PASS))) == []
    assert "pairs" not in summary.text(RECORD)


def test_a_version_that_nobody_knows_has_a_row_and_a_column_of_its_own() -> None:
    strange = run(*results("http", ("h9", "tls"), PASS, PASS), *results("http", ("h1", "h1"), PASS))
    assert pairs.lines(strange)[1:] == [
        "            http/1.1  h2c  h3  tls",
        "  http/1.1  1 pass    -    -   -",
        "  h9        -         -    -   2 pass",
    ]
    (other,) = results("http", ("http/1.1", "h1"), PASS)
    assert pairs.pair_of(other) == ("h1", "h1")
    assert "TLS, by ALPN" in Page(html.render(strange)).text


# -- the page


def test_a_cell_counts_its_verdicts_and_leads_to_its_worst_case() -> None:
    page = Page(html.render(ONE_AREA))
    assert "Pairs of HTTP versions" in page.text
    assert pairs.EXPLAINED in page.text
    cells = {(attrs["data-a"], attrs["data-p"]): attrs for attrs in page.all("a") if "data-p" in attrs}
    assert list(cells) == [("http", "h1-h1"), ("http", "h2-h2c"), ("http", "h3-h3")]
    assert cells["http", "h2-h2c"]["aria-label"] == "3 cases of http, HTTP/2 to HTTP/2 (h2c)"
    assert cells["http", "h2-h2c"]["href"] == "#c-http-01_h2-h2c_"
    assert "3 cases 1 fail 1 pass 1 unsupported" in page.text
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert all((attrs["href"] or "")[1:] in ids for attrs in cells.values())


def test_the_filter_knows_the_pairs_and_every_case_its_own() -> None:
    page = Page(html.render(TWO_AREAS))
    (chosen,) = (attrs for attrs in page.all("select") if attrs["id"] == "f-pair")
    assert chosen
    offered = [attrs["value"] for attrs in page.all("option")]
    assert offered[-2:] == ["h1-h1", "h2-h1"]
    marked = [attrs.get("data-p") for attrs in page.all("details") if attrs.get("class") == "case"]
    assert sorted(filter(None, marked)) == ["h1-h1", "h2-h1", "h2-h1", "h2-h1"]
    assert len(marked) == len(TWO_AREAS.cases)


def test_a_row_has_a_cell_per_version_of_the_upstream() -> None:
    page = html.render(TWO_AREAS)
    table = page[page.index('<table class="pairs">') :]
    table = table[: table.index("</table>")]
    groups = table.split("<tbody>")[1:]
    assert [group.count("<tr>") for group in groups] == [1, 2, 1]
    assert [group.count("<td") for group in groups] == [3, 6, 3]
    assert ['rowspan="2"' in group for group in groups] == [False, True, False]


def test_a_page_without_pairs_has_neither_table_nor_filter() -> None:
    page = Page(html.render(RECORD))
    assert "Pairs of HTTP versions" not in page.text
    assert not [attrs for attrs in page.all("select") if attrs["id"] == "f-pair"]


def test_hostile_points_are_shown_and_do_nothing() -> None:
    record = run(*results(HOSTILE, (HOSTILE, HOSTILE), PASS, FAIL))
    page = Page(html.render(record))
    assert not page.all("img")
    assert len(page.all("script")) == 1
    assert not any(ord(letter) < 0x20 and letter != "\n" for letter in summary.text(record))


# -- the record


def test_the_record_carries_the_axes_and_other_reports_stay_as_they_are(tmp_path: Any) -> None:
    assert from_json(RunRecord, to_json(ONE_AREA)) == ONE_AREA
    assert schema.validate(to_json(ONE_AREA)) == []
    bare = replace(ONE_AREA, cases=tuple(replace(item, axes=()) for item in ONE_AREA.cases))
    assert junit.render(bare) == junit.render(ONE_AREA)
    wrong = to_json(ONE_AREA)
    wrong["cases"][0]["axes"] = [["down"]]
    assert schema.validate(wrong)
    allure.write(ONE_AREA, tmp_path)


def test_a_variant_without_axes_has_none() -> None:
    assert axes_of(declared("tls", publish=quic()), Variant("", ())) == ()
