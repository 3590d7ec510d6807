"""The report as one HTML file that opens from disk, without network.

No script is needed: the one on the page only adds the filter and the copy buttons."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from harness.model.record import BaselineProblem, CaseResult, OutcomeRecord, RunRecord
from harness.model.requirement import CLAIM, RFC, Requirement
from harness.model.verdict import VERDICTS, Outcome, Verdict, worst
from reports import blocks, pairs, text
from reports.markup import NOTHING, Child, Html, el, join
from reports.standing import WORST_FIRST, Standing, exit_code, failed, headline, reason, standing

PAGE_LIMIT = 2_900_000
"""Octets that the evidence may fill the page up to; what has no room is in run.json, and the page says so."""
EVIDENCE_AT_LEAST = 300_000
"""Room for evidence whatever the rest of the page takes."""
MISSES = 20
"""Cases whose evidence did not fit, after which the page counts as full."""
OPEN_AT_START = 5
"""So many unexpected failures are open when the page opens."""
FEATURES_SHOWN = 120
CASES_PER_REQUIREMENT = 12
LISTED = 250
"""Lines of a list of cases above the cases themselves."""

_ORDER = {Standing.UNEXPECTED: 0, Standing.UNEXPECTED_PASS: 1, Standing.KNOWN: 2, Standing.USUAL: 3}
_VERDICT_ORDER = {verdict: place for place, verdict in enumerate(WORST_FIRST)}
_LEDGER_WORDS = {
    CLAIM: (
        "Documented claims",
        "What the engine's own documentation states. A MUST that is not met is a failure.",
    ),
    RFC: (
        "RFC requirements",
        "What the standards ask. A MUST of an RFC that is not met is a failure, all else a warning.",
    ),
}
_OUTCOME_WORDS = {
    Outcome.FAIL: "not met",
    Outcome.WARN: "a SHOULD, or a rule without a documented claim, not met",
    Outcome.INFO: "met; a choice that the texts leave open is recorded",
    Outcome.PASS: "met",
}


_POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
"""Nothing is fetched, and no script or style runs but the two that are on the page, by their digests."""


def render(record: RunRecord, requirements: Mapping[str, Requirement] | None = None) -> str:
    """The page for `record`.

    `requirements` are ledger rows by id: with them the page also shows what each row accepts, and the rows that a case
    names but could not judge. The page is a pure function of its arguments.
    """
    rows = requirements or {}
    style, script = _data("style.css"), _data("page.js")
    title = f"{record.engine.name or record.engine.profile}: {headline(record)}"
    policy = f"{_POLICY}; style-src {_hash(style)}; script-src {_hash(script)}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href="data:,"),
        el("title", text.clip(title, 160)),
        el("style", Html(style)),
    )
    body = el(
        "body",
        el("a", "Skip to the cases", href="#cases", class_="skip"),
        _header(record),
        el("main", *_main(record, rows)),
        _footer(record),
        el("script", Html(script)),
    )
    return "<!doctype html>\n" + el("html", head, "\n", body, lang="en") + "\n"


def _data(name: str) -> str:
    return (files("reports") / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# -- the top: what, on what, how it went ------------------------------------------------------------


def _header(record: RunRecord) -> Html:
    engine = record.engine
    name = engine.name or engine.profile
    red = exit_code(record) != 0
    mark = el("span", "\u2717" if red else "\u2713", class_="mark", aria_hidden="true")
    said = el("p", mark, el("span", headline(record)), class_=f"headline {'red' if red else 'green'}")
    known = "The run as a whole is red (exit code {})." if red else "Nothing here is unexpected: the run is green."
    return el(
        "header",
        el("p", "Edgecase conformance report", class_="kind"),
        el("h1", name),
        said,
        el("p", known.format(exit_code(record)), class_="none"),
        _stopped(record),
        el("p", _ABOUT, class_="about"),
    )


_ABOUT = (
    "Edgecase puts a tunnel engine between a scripted client and a scripted upstream, drives both ends of every "
    "exchange, and judges what the engine did against its own documentation and the RFCs, rule by rule."
)


def _stopped(record: RunRecord) -> Html:
    if not record.stopped:
        return NOTHING
    return el("p", el("b", "The run stopped early: "), record.stopped, class_="banner", role="alert")


def _main(record: RunRecord, rows: Mapping[str, Requirement]) -> Iterable[Html]:
    anchors = _anchors(record.cases)
    ordered = sorted(
        record.cases, key=lambda case: (_ORDER[standing(case)], _VERDICT_ORDER[case.verdict], case.area, case.key)
    )
    tail = _requirement_index(record, rows, anchors)
    top = [
        _facts(record),
        _counts(record),
        _unexpected(ordered, anchors),
        _baseline(record, ordered, anchors),
        _areas(record),
        _pairs(record, ordered, anchors),
        _ledgers(record, rows),
    ]
    room = PAGE_LIMIT - sum(len(part.encode()) for part in (*top, tail))
    return [*top, _cases(record, ordered, anchors, rows, room), tail]


def _anchors(cases: Sequence[CaseResult]) -> dict[int, str]:
    """An anchor per result, by the identity of the result: two results may have one key when a run repeats a case."""
    taken: Counter[str] = Counter()
    anchors: dict[int, str] = {}
    for case in cases:
        name = blocks.slug("c", case.key)
        taken[name] += 1
        anchors[id(case)] = name if taken[name] == 1 else f"{name}~{taken[name]}"
    return anchors


def _facts(record: RunRecord) -> Html:
    engine = record.engine
    started = record.started.replace("T", " ")
    parts: list[tuple[str, Child]] = [
        ("Engine", " ".join(part for part in (engine.name, engine.version) if part) or "not stated"),
        ("Edition", engine.edition or "not stated"),
        ("Profile", engine.profile),
        ("Driven through", engine.driver),
        ("Started as", el("code", engine.command) if engine.command else None),
        ("When", started),
        ("How long", f"{text.duration(record.duration_s)} with {text.plural(record.workers, 'worker')}"),
        ("Command", el("code", shlex.join(record.argv)) if record.argv else None),
        ("Seed", str(record.seed)),
        ("Suite", f"edgecase {record.suite_version}"),
        ("Ledger", el("code", record.ledger_digest)),
    ]
    rows = [el("div", el("dt", name), el("dd", value)) for name, value in parts if value]
    features = [el("code", name) for name in engine.features[:FEATURES_SHOWN]]
    if features:
        claimed = join(*(join(feature, " ") for feature in features))
        rows.append(el("div", el("dt", f"Features claimed ({len(engine.features)})"), el("dd", claimed), class_="wide"))
    if record.notes:
        notes = el("ul", *(el("li", note) for note in record.notes))
        rows.append(el("div", el("dt", "Notes"), el("dd", notes), class_="wide"))
    return _section("run", "What was run on what", el("dl", *rows, class_="facts"))


def _section(anchor: str, title: str, *children: Child) -> Html:
    return el("section", el("h2", title, id=f"{anchor}-title"), *children, id=anchor, aria_labelledby=f"{anchor}-title")


def _counts(record: RunRecord) -> Html:
    counts = record.counts()
    head = el("tr", *(el("th", name, scope="col") for name in ("Verdict", "Cases", "What it means")))
    rows = [
        el(
            "tr",
            el("th", blocks.badge(verdict.value), scope="row"),
            el("td", f"{counts[verdict]:,}", class_="n"),
            el("td", row.meaning),
            class_=None if counts[verdict] else "zero",
        )
        for verdict, row in VERDICTS.items()
    ]
    body = el("table", el("thead", head), el("tbody", *rows), class_="counts")
    return _section("counts", "Verdicts", _scroll(body, "Verdicts"))


def _scroll(table: Html, name: str) -> Html:
    return el("div", table, class_="scroll", tabindex=0, role="group", aria_label=name)


def _unexpected(ordered: Sequence[CaseResult], anchors: Mapping[int, str]) -> Html:
    found = [case for case in ordered if standing(case) is Standing.UNEXPECTED]
    if not found:
        return _section("unexpected", "Unexpected verdicts", el("p", "None.", class_="none"))
    items = [_line(case, anchors, reason(case)) for case in found[:LISTED]]
    if len(found) > LISTED:
        items.append(el("li", f"and {len(found) - LISTED:,} more: see the cases below"))
    return _section("unexpected", f"Unexpected verdicts ({len(found):,})", el("ul", *items, class_="lines"))


def _line(case: CaseResult, anchors: Mapping[int, str], why: str) -> Html:
    link = el("a", case.key, href="#" + anchors[id(case)])
    return el(
        "li", blocks.badge(case.verdict.value), " ", link, " ", el("span", case.title), el("small", text.clip(why, 240))
    )


def _baseline(record: RunRecord, ordered: Sequence[CaseResult], anchors: Mapping[int, str]) -> Html:
    known = [case for case in ordered if standing(case) is Standing.KNOWN]
    stale = [case for case in ordered if standing(case) is Standing.UNEXPECTED_PASS]
    parts = [el("p", "The failures of this engine that are known, each with a reason.", class_="none")]
    if stale:
        items = [
            _line(case, anchors, f"listed because: {case.baseline_reason or 'no reason given'}")
            for case in stale[:LISTED]
        ]
        parts.append(el("h3", f"Unexpected passes ({len(stale):,}): take these off the baseline"))
        parts.append(el("ul", *items, class_="lines"))
    shown = {name for case in stale for name in (case.key, case.id)}
    problems = [problem for problem in record.baseline_problems if problem.entry not in shown]
    if problems:
        parts.append(el("h3", f"Entries that are wrong ({len(problems):,})"))
        parts.append(el("ul", *map(_problem, problems[:LISTED]), class_="lines"))
    if known:
        items = [_line(case, anchors, case.baseline_reason) for case in known[:LISTED]]
        parts.append(el("h3", f"Known failures that happened again ({len(known):,})"))
        parts.append(el("ul", *items, class_="lines"))
    if len(parts) == 1:
        parts.append(el("p", "No entry of the baseline took part in this run."))
    return _section("baseline", "Baseline", *parts)


_PROBLEM_WORDS = {"unexpected-pass": "passes now", "matches-nothing": "matches no case"}


def _problem(problem: BaselineProblem) -> Html:
    words = _PROBLEM_WORDS.get(problem.kind, problem.kind)
    return el("li", el("em", words), " ", el("code", problem.entry), el("small", problem.reason))


def _areas(record: RunRecord) -> Html:
    verdicts = [verdict for verdict in VERDICTS if record.counts()[verdict] or verdict in (Verdict.PASS, Verdict.FAIL)]
    table: dict[str, Counter[Verdict]] = {}
    for case in record.cases:
        table.setdefault(case.area, Counter())[case.verdict] += 1
    head = [
        el("th", "Area", scope="col"),
        *(el("th", blocks.badge(verdict.value), scope="col", class_="n") for verdict in verdicts),
    ]
    rows = [_area_row(area, found, verdicts) for area, found in sorted(table.items())]
    content = el(
        "table",
        el("thead", el("tr", *head, el("th", "All", scope="col", class_="n"))),
        el("tbody", *rows),
        class_="areas",
    )
    return _section("areas", "Verdicts by area", _scroll(content, "Verdicts by area"))


def _area_row(area: str, found: Counter[Verdict], verdicts: Sequence[Verdict]) -> Html:
    cells = [
        el(
            "td",
            f"{found[verdict]:,}" if found[verdict] else "\u00b7",
            class_=f"n {verdict.value if found[verdict] else 'zero'}",
        )
        for verdict in verdicts
    ]
    name = el("th", el("a", area, href="#" + blocks.slug("a", area)), scope="row")
    return el("tr", name, *cells, el("td", f"{found.total():,}", class_="n"))


def _pairs(record: RunRecord, ordered: Sequence[CaseResult], anchors: Mapping[int, str]) -> Html:
    if not pairs.present(record):
        return NOTHING
    said = el("p", pairs.EXPLAINED, class_="none")
    content = _scroll(pairs.table(record, ordered, anchors), "Pairs of HTTP versions")
    return _section("pairs", "Pairs of HTTP versions", said, content)


# -- the two ledgers --------------------------------------------------------------------------------


def _ledgers(record: RunRecord, rows: Mapping[str, Requirement]) -> Html:
    judged = _by_requirement(record)
    boxes = [_ledger_box(ledger, record, judged, rows) for ledger in _LEDGER_WORDS]
    said = "Each requirement counts once, with the worst that any case saw. The two are never added up."
    return _section("ledgers", "Requirements", el("p", said, class_="none"), el("div", *boxes, class_="sides"))


def _by_requirement(record: RunRecord) -> dict[str, list[tuple[CaseResult, OutcomeRecord]]]:
    found: dict[str, list[tuple[CaseResult, OutcomeRecord]]] = {}
    for case in record.cases:
        for outcome in case.outcomes:
            found.setdefault(outcome.requirement, []).append((case, outcome))
    return found


def _ledger_box(
    ledger: str,
    record: RunRecord,
    judged: Mapping[str, Sequence[tuple[CaseResult, OutcomeRecord]]],
    rows: Mapping[str, Requirement],
) -> Html:
    title, words = _LEDGER_WORDS[ledger]
    counts = Counter(
        worst(outcome.outcome for _, outcome in seen) for seen in judged.values() if seen[0][1].ledger == ledger
    )
    head = el("tr", *(el("th", name, scope="col") for name in ("Worst outcome", "Requirements", "What it means")))
    lines = [
        el(
            "tr",
            el("th", blocks.badge(outcome.value), scope="row"),
            el("td", f"{counts[outcome]:,}", class_="n"),
            el("td", meaning),
        )
        for outcome, meaning in _OUTCOME_WORDS.items()
    ]
    named = {name for case in record.cases for name in case.requirements if name not in judged}
    unjudged = sum(1 for name in named if name in rows and rows[name].ledger == ledger)
    if unjudged:
        what = el("td", "named by a case that was not run or got no verdict")
        lines.append(
            el(
                "tr",
                el("th", el("span", "not judged", class_="v none"), scope="row"),
                el("td", f"{unjudged:,}", class_="n"),
                what,
            )
        )
    content = el("table", el("thead", head), el("tbody", *lines), class_="counts")
    return el("div", el("h3", title), el("p", words, class_="none"), content, class_="side")


def _requirement_index(record: RunRecord, rows: Mapping[str, Requirement], anchors: Mapping[int, str]) -> Html:
    """Every requirement that took part, once: what it says, what it accepts, and the cases behind it."""
    judged = _by_requirement(record)
    cases: dict[str, list[CaseResult]] = {name: [case for case, _ in seen] for name, seen in judged.items()}
    for case in record.cases:
        for name in case.requirements:
            if name not in judged:
                cases.setdefault(name, []).append(case)
    items = [_indexed(name, cases[name], judged.get(name, ()), rows.get(name), anchors) for name in sorted(cases)]
    content = el("dl", *items, class_="index")
    opened = el(
        "details",
        el("summary", f"{text.plural(len(items), 'requirement')} with the cases that check them"),
        content,
        class_="more",
    )
    return _section("requirements", "Index of requirements", opened)


def _indexed(
    name: str,
    cases: Sequence[CaseResult],
    seen: Sequence[tuple[CaseResult, OutcomeRecord]],
    row: Requirement | None,
    anchors: Mapping[int, str],
) -> Html:
    first = seen[0][1] if seen else None
    ledger = first.ledger if first else row.ledger if row else ""
    level = first.level if first else row.level if row else ""
    where = first.where if first else row.where if row else ""
    says = first.text if first else row.text if row else ""
    origin = " \u00b7 ".join(part for part in (level, where, blocks.LEDGERS.get(ledger)) if part)
    outcome = (
        blocks.badge(worst(result.outcome for _, result in seen).value)
        if seen
        else el("span", "not judged", class_="v none")
    )
    links = [join(" ", el("a", case.key, href="#" + anchors[id(case)])) for case in cases[:CASES_PER_REQUIREMENT]]
    more = f" and {len(cases) - CASES_PER_REQUIREMENT:,} more" if len(cases) > CASES_PER_REQUIREMENT else ""
    return el(
        "div",
        el("dt", outcome, " ", el("b", name), " ", el("small", origin)),
        el("dd", says),
        el("dd", el("small", "Cases:", *links, more)),
        id=blocks.slug("r", name),
    )


# -- the cases --------------------------------------------------------------------------------------


def _cases(
    record: RunRecord,
    ordered: Sequence[CaseResult],
    anchors: Mapping[int, str],
    rows: Mapping[str, Requirement],
    room: int,
) -> Html:
    evidence = _evidence(ordered, anchors, rows, room)
    opened = {id(case) for case in ordered[:OPEN_AT_START] if standing(case) is Standing.UNEXPECTED}
    areas: dict[str, list[CaseResult]] = {}
    for case in ordered:
        areas.setdefault(case.area, []).append(case)
    groups = [
        el(
            "section",
            el("h3", area, " ", el("small", text.plural(len(areas[area]), "case")), id=blocks.slug("a", area)),
            *(
                _block(case, anchors, evidence.get(id(case), NOTHING), opened=id(case) in opened)
                for case in areas[area]
            ),
            class_="area",
            data_a=area,
        )
        for area in sorted(areas, key=lambda name: (min(_ORDER[standing(case)] for case in areas[name]), name))
    ]
    return _section("cases", f"Cases ({len(ordered):,})", _filter(record), *groups)


def _block(case: CaseResult, anchors: Mapping[int, str], evidence: Html, *, opened: bool) -> Html:
    pair = pairs.pair_of(case)
    return blocks.lean(case, anchors[id(case)], evidence, opened, pairs.key_of(pair) if pair else None)


def _evidence(
    ordered: Sequence[CaseResult], anchors: Mapping[int, str], rows: Mapping[str, Requirement], room: int
) -> dict[int, Html]:
    """Evidence for what did not pass, the unexpected first, as long as the page has room."""
    bare = {id(case): _without_room(case) for case in ordered if failed(case.verdict) or case.verdict is Verdict.WARN}
    plain = (_block(case, anchors, bare.get(id(case), NOTHING), opened=False) for case in ordered)
    left = max(room - sum(len(block.encode()) for block in plain), EVIDENCE_AT_LEAST)
    shown: dict[int, Html] = {}
    misses = 0
    for case in ordered:
        if id(case) not in bare or misses == MISSES:
            continue
        full = blocks.evidence(case, rows)
        cost = len(full.encode()) - len(bare[id(case)].encode())
        if cost <= left:
            shown[id(case)] = full
            left -= cost
        else:
            misses += 1
    return bare | shown


def _without_room(case: CaseResult) -> Html:
    return join(el("p", _NO_ROOM, class_="none"), blocks.capture(case), blocks.command(case.reproduce))


_NO_ROOM = "The evidence of this case is in run.json: this page is full."


def _filter(record: RunRecord) -> Html:
    """The filter bar; hidden until the script, which alone can use it, shows it."""
    present = [verdict for verdict in VERDICTS if record.counts()[verdict]]
    options = [
        el("option", "all verdicts", value=""),
        el("option", "unexpected", value="s:unexpected"),
        el("option", "not passed", value="bad"),
        *(el("option", verdict.value, value=verdict.value) for verdict in present),
    ]
    areas = [
        el("option", "all areas", value=""),
        *(el("option", area, value=area) for area in sorted({case.area for case in record.cases})),
    ]
    return el(
        "form",
        el("label", "Verdict ", el("select", *options, id="f-verdict")),
        el("label", "Area ", el("select", *areas, id="f-area")),
        pairs.options(record),
        el("label", "Text ", el("input", id="f-text", type="search", placeholder="id, title, requirement")),
        el("button", "Open all shown", type="button", id="f-open"),
        el("button", "Close all", type="button", id="f-close"),
        el("output", id="f-count", aria_live="polite"),
        id="filter",
        role="search",
        aria_label="Filter the cases",
        hidden=True,
    )


def _footer(record: RunRecord) -> Html:
    words = (
        f"Edgecase {record.suite_version}. Everything on this page comes from run.json beside it, "
        "which also holds the transcripts of passing cases."
    )
    return el("footer", el("p", words))
