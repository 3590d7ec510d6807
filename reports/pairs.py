"""The pairs of HTTP versions: how the cases of each went, for the terminal and as a table of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from harness.model.pairs import ALIASES, CHOSEN, DOWN, DOWNSTREAM, UP, UPSTREAMS
from harness.model.record import CaseResult, RunRecord
from harness.model.verdict import VERDICTS
from reports import blocks, text
from reports.markup import NOTHING, Html, el, join
from reports.standing import WORST_FIRST

Pair = tuple[str, str]
"""The points of `down` and `up`."""
Cells = Mapping[Pair, Sequence[CaseResult]]

EXPLAINED = (
    "An HTTP tunnel has two legs: the client speaks one version of HTTP to the engine, and the engine another one, or "
    "the same, to the upstream. Each cell counts the verdicts of the cases of one such pair in one area of the suite, "
    "and leads to them."
)
_UP_NAMES = {**UPSTREAMS, **CHOSEN}
_SHORT = {"h1": "http/1.1", "h2": "h2", "h2c": "h2c", "h3": "h3", "tls": "tls"}
_TITLE = "pairs (rows: client to engine, columns: engine to upstream)"
_WHOLE = "all areas"


def pair_of(case: CaseResult) -> Pair | None:
    """The pair that the result is about, if it is about one."""
    axes = dict(case.axes)
    if DOWN not in axes or UP not in axes:
        return None
    return ALIASES.get(axes[DOWN], axes[DOWN]), ALIASES.get(axes[UP], axes[UP])


def key_of(pair: Pair) -> str:
    """The pair as one word: `h2-h2c`."""
    return "-".join(pair)


def name_of(pair: Pair) -> str:
    """The pair for readers: `HTTP/2 to HTTP/3`."""
    return f"{DOWNSTREAM.get(pair[0], pair[0])} to {_UP_NAMES.get(pair[1], pair[1])}"


def by_area(record: RunRecord) -> dict[str, dict[Pair, list[CaseResult]]]:
    """The results of each pair, area by area; empty where no case is about one."""
    areas: dict[str, dict[Pair, list[CaseResult]]] = {}
    for case in record.cases:
        pair = pair_of(case)
        if pair is not None:
            areas.setdefault(case.area, {}).setdefault(pair, []).append(case)
    return dict(sorted(areas.items()))


def axes(cells: Iterable[Pair]) -> tuple[list[str], list[str]]:
    """Rows and columns of a table that has room for these pairs: all known versions, and what else there is."""
    found = list(cells)
    rows = [*DOWNSTREAM, *sorted({down for down, _ in found} - set(DOWNSTREAM))]
    return rows, [*UPSTREAMS, *sorted({up for _, up in found} - set(UPSTREAMS))]


def present(record: RunRecord) -> list[Pair]:
    """The pairs that took part, in the order of the table."""
    found = {pair for cells in by_area(record).values() for pair in cells}
    rows, columns = axes(found)
    return [(down, up) for down in rows for up in columns if (down, up) in found]


# -- the terminal -----------------------------------------------------------------------------------


def lines(record: RunRecord) -> list[str]:
    """The pair matrix, and one per area where there are several; none of a run with a single such case or none."""
    areas = by_area(record)
    whole: dict[Pair, list[CaseResult]] = {}
    for cells in areas.values():
        for pair, cases in cells.items():
            whole.setdefault(pair, []).extend(cases)
    if sum(map(len, whole.values())) < 2:
        return []
    if len(areas) == 1:
        return _matrix(f"{next(iter(areas))} {_TITLE}:", whole)
    tables = _matrix(f"HTTP {_TITLE}, {_WHOLE}:", whole)
    return tables + [line for area, cells in areas.items() for line in _matrix(f"{area}:", cells)]


def _matrix(title: str, cells: Cells) -> list[str]:
    rows, columns = axes(cells)
    table = [["", *(_short(up) for up in columns)]]
    taking_part = [down for down in rows if any((down, up) in cells for up in columns)]
    table += [[_short(down), *(_said(cells.get((down, up), ())) for up in columns)] for down in taking_part]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return [text.line(title), *(f"  {line}".rstrip() for line in shown)]


def _short(point: str) -> str:
    return _SHORT.get(point) or text.clip(point, 20)


def _said(cases: Sequence[CaseResult]) -> str:
    counts = Counter(case.verdict for case in cases)
    return ", ".join(f"{counts[verdict]:,} {verdict.value}" for verdict in VERDICTS if counts[verdict]) or "-"


# -- the page ---------------------------------------------------------------------------------------


def table(record: RunRecord, ordered: Sequence[CaseResult], anchors: Mapping[int, str]) -> Html:
    """The matrix as a table: a group of rows per version of the client, a row per area in it, a cell per pair.

    `ordered` are the results, worst first: a cell leads to its first one, and with the page's script to all of them.
    """
    areas = by_area(record)
    rows, columns = axes(pair for cells in areas.values() for pair in cells)
    place = {id(case): number for number, case in enumerate(ordered)}
    head = el(
        "tr",
        el("th", "Client to engine", scope="col"),
        el("th", "Area", scope="col"),
        *(el("th", "Engine to upstream: ", el("b", _UP_NAMES.get(up, up)), scope="col") for up in columns),
    )
    groups = []
    for down in rows:
        here = [area for area, cells in areas.items() if any((down, up) in cells for up in columns)] or [""]
        lead = el("th", el("b", DOWNSTREAM.get(down, down)), scope="rowgroup", rowspan=len(here))
        body = []
        for number, area in enumerate(here):
            found = [
                sorted(areas.get(area, {}).get((down, up), ()), key=lambda case: place[id(case)]) for up in columns
            ]
            shown = [_cell(area, (down, up), cases, anchors) for up, cases in zip(columns, found, strict=True)]
            body.append(el("tr", NOTHING if number else lead, el("th", area, scope="row"), *shown))
        groups.append(el("tbody", *body))
    return el("table", el("thead", head), *groups, class_="pairs")


def _cell(area: str, pair: Pair, cases: Sequence[CaseResult], anchors: Mapping[int, str]) -> Html:
    if not cases:
        return el("td", "no case", class_="zero")
    counts = Counter(case.verdict for case in cases)
    badges = [join(" ", blocks.badge(verdict.value, counts[verdict])) for verdict in WORST_FIRST if counts[verdict]]
    link = el(
        "a",
        text.plural(len(cases), "case"),
        href="#" + anchors[id(cases[0])],
        aria_label=f"{text.plural(len(cases), 'case')} of {area}, {name_of(pair)}",
        data_p=key_of(pair),
        data_a=area,
    )
    return el("td", link, *badges)


def options(record: RunRecord) -> Html:
    """The pairs to choose from in the filter of cases; nothing where there are none."""
    found = [el("option", name_of(pair), value=key_of(pair)) for pair in present(record)]
    if not found:
        return NOTHING
    return el("label", "Versions ", el("select", el("option", "all versions", value=""), *found, id="f-pair"))
