"""One case on the page: a line that opens, what was judged, and for what did not pass the evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain

from harness.model.event import Event
from harness.model.record import CaseResult, OutcomeRecord
from harness.model.requirement import CLAIM, Requirement
from harness.model.verdict import Outcome, Verdict
from reports import ladder, text
from reports.markup import NOTHING, Html, el, join, safe
from reports.standing import Standing, standing

Rows = Mapping[str, Requirement]

OUTCOMES_SHOWN = 24
STEPS_SHOWN = 80
LOG_LINES_SHOWN = 40
SENTENCE = 800
"""Characters shown of a message, a cause or a reason."""
NEIGHBOURHOOD = 10
"""Steps around a departed one that a cut table of steps keeps."""

LEDGERS = {CLAIM: "documented claim", "rfc": "RFC"}
_BASELINE_WORDS = {
    Standing.KNOWN: "Known, says the baseline",
    Standing.UNEXPECTED: "The baseline knows a part of this only",
    Standing.UNEXPECTED_PASS: "Listed as a known failure, but it did not happen",
}
_CAPTURE = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_][A-Za-z0-9._-]*\.(pcapng|qlog)")
_STANDINGS = {
    Standing.UNEXPECTED: "unexpected",
    Standing.KNOWN: "known failure",
    Standing.UNEXPECTED_PASS: "unexpected pass",
}


def badge(verdict: str, count: int | None = None) -> Html:
    """The name of a verdict or an outcome, with how many there are; the style sheet sets a mark before it, not only a
    colour."""
    return el("span", verdict if count is None else f"{count:,} {verdict}", class_=f"v {verdict}")


def slug(prefix: str, name: str) -> str:
    """An id for an anchor: the name with everything but letters, digits, dot, dash and underscore replaced."""
    return f"{prefix}-{re.sub(r'[^A-Za-z0-9._-]', '_', name[:120])}"


def lean(case: CaseResult, anchor: str, evidence: Html, opened: bool, pair: str | None = None) -> Html:
    """The block of one case. `evidence` stands below the requirements: empty for what passed. `pair` is what the filter
    knows its HTTP versions by."""
    stand = _STANDINGS.get(standing(case))
    name = el("summary", badge(case.verdict.value), el("b", case.title or case.id), el("code", case.key), _tag(stand))
    return el(
        "details",
        name,
        el("p", _facts(case), class_="facts"),
        _explained(case),
        requirements(case),
        evidence,
        id=anchor,
        class_="case",
        open=opened,
        data_v=case.verdict.value,
        data_s=standing(case).value if stand else None,
        data_p=pair,
    )


def _tag(words: str | None) -> Html:
    return el("em", words) if words else NOTHING


def _facts(case: CaseResult) -> str:
    facts = [text.duration(case.duration_s)]
    if case.settings and case.settings != "default":
        facts.append(f"settings {case.settings}")
    if case.revision != 1:
        facts.append(f"revision {case.revision}")
    if case.single_family:
        facts.append("single-family: no peer of another stack has run this ground")
    if case.file:
        facts.append(f"{case.file}:{case.line}")
    return " \u00b7 ".join(facts)


def _explained(case: CaseResult) -> Html:
    """What the verdict is about where requirements do not say it: the cause, and the baseline's reason."""
    parts = []
    if case.cause:
        parts.append(
            el(
                "p",
                el("b", _CAUSE_WORDS.get(case.verdict, "Cause")),
                ": ",
                text.block(case.cause, SENTENCE),
                class_="cause",
            )
        )
    if case.baseline_reason:
        words = _BASELINE_WORDS.get(standing(case), "Listed in the baseline")
        parts.append(el("p", el("b", words), ": ", text.block(case.baseline_reason, SENTENCE), class_="cause"))
    return join(*parts)


_CAUSE_WORDS = {
    Verdict.UNSUPPORTED: "Not run",
    Verdict.SETUP: "Could not be set up",
    Verdict.CRASH: "The engine died",
    Verdict.HARNESS: "A fault of the harness, not of the engine",
}


def requirements(case: CaseResult) -> Html:
    """Every requirement of the case: outcome, id, level, where it stands, text, and what was seen."""
    judged = {outcome.requirement for outcome in case.outcomes}
    unjudged = [name for name in case.requirements if name not in judged]
    items = [_outcome(outcome) for outcome in case.outcomes[:OUTCOMES_SHOWN]]
    if unjudged:
        names = join(*(join(" ", _reference(name)) for name in unjudged[:OUTCOMES_SHOWN]))
        items.append(el("li", el("span", "not judged", class_="v none"), names))
    left = len(case.outcomes) - OUTCOMES_SHOWN
    if left > 0:
        items.append(el("li", f"and {text.plural(left, 'more requirement')}: see run.json"))
    return el("ul", *items, class_="reqs") if items else NOTHING


def _reference(name: str) -> Html:
    return el("a", name, href="#" + slug("r", name))


def _outcome(outcome: OutcomeRecord) -> Html:
    origin = " \u00b7 ".join(part for part in (outcome.level, outcome.where, LEDGERS.get(outcome.ledger)) if part)
    parts = [badge(outcome.outcome.value), " ", _reference(outcome.requirement), " ", el("small", origin)]
    if outcome.text:
        parts.append(el("span", text.block(outcome.text, SENTENCE), class_="rt"))
    if outcome.branch:
        parts.append(el("span", "Seen: ", el("q", text.line(outcome.branch)), class_="seen"))
    # A message that only repeats the text and the comparison below it is for the terminal.
    repeats = bool(outcome.text and (outcome.expected or outcome.actual) and outcome.text in outcome.message)
    if outcome.message and outcome.outcome is not Outcome.PASS and not repeats:
        parts.append(el("span", text.block(outcome.message, SENTENCE), class_="msg"))
    return el("li", *parts)


def evidence(case: CaseResult, rows: Rows) -> Html:
    """What a reader needs to believe and repeat a verdict: expected and actual, both legs, log, command."""
    return el(
        "div",
        _doc(case),
        *(_comparison(outcome, rows) for outcome in case.outcomes[:OUTCOMES_SHOWN] if _departs(outcome)),
        _both_legs(case),
        capture(case),
        _log(case),
        command(case.reproduce),
        class_="evidence",
    )


def _departs(outcome: OutcomeRecord) -> bool:
    return outcome.outcome in (Outcome.FAIL, Outcome.WARN)


def _doc(case: CaseResult) -> Html:
    rest = case.doc.split("\n", 1)[1].strip() if "\n" in case.doc else ""
    return el("p", rest, class_="doc") if rest else NOTHING


def _comparison(outcome: OutcomeRecord, rows: Rows) -> Html:
    """Expected and actual, side by side on a wide screen, and the outcomes that the row accepts."""
    row = rows.get(outcome.requirement)
    allowed = el("p", "What passes: ", *_quoted(row.allowed), class_="allowed") if row and row.allowed else NOTHING
    if not (outcome.expected or outcome.actual):
        return allowed
    cells = [_side("Expected", outcome.expected, "exp"), _side("Actual", outcome.actual, "act")]
    return join(
        el("h4", f"What {outcome.requirement} expected, and what came"), el("div", *cells, class_="sides"), allowed
    )


def _quoted(items: Sequence[str]) -> list[Html]:
    return [join("; " if index else "", el("q", item)) for index, item in enumerate(items)]


def _side(title: str, content: str, kind: str) -> Html:
    shown = (
        el("pre", content, tabindex=0, role="group", aria_label=title)
        if content
        else el("p", "not stated", class_="none")
    )
    return el("div", el("b", title), shown, class_=f"side {kind}")


def _both_legs(case: CaseResult) -> Html:
    """The ladder, and every step as a table below it."""
    if not case.transcript:
        return NOTHING
    departed = [index + 1 for index, event in enumerate(case.transcript) if event.departed]
    if departed:
        where = f"The engine departed at step {departed[0]} of {len(case.transcript):,}, in red."
    else:
        where = "No single step is marked as the one that departed."
    name = f"Ladder diagram of {case.key}. {where} All steps follow as a table."
    drawing = el(
        "div",
        ladder.draw(case.transcript, name),
        class_="scroll",
        tabindex=0,
        role="group",
        aria_label="Ladder diagram",
    )
    return join(el("h4", "Both legs, step by step"), el("p", where, class_="none"), drawing, steps(case.transcript))


def steps(events: Sequence[Event]) -> Html:
    """All steps as a table; of a very long transcript the first ones and those around the departed step."""
    shown = _steps_shown(events)
    body: list[Html] = []
    previous = -1
    for index in shown:
        if index - previous > 1:
            body.append(el("tr", el("td", f"{index - previous - 1:,} steps left out, see run.json", colspan=5)))
        body.append(_step_row(index + 1, events[index]))
        previous = index
    if previous < len(events) - 1:
        body.append(el("tr", el("td", f"{len(events) - 1 - previous:,} steps left out, see run.json", colspan=5)))
    head = el("tr", *(el("th", name, scope="col") for name in ("Step", "At (s)", "From \u2192 to", "What", "Payload")))
    table = el("table", el("thead", head), el("tbody", *body), class_="steps")
    scroll = el("div", table, class_="scroll", tabindex=0, role="group", aria_label="All steps")
    return el("details", el("summary", f"All {text.plural(len(events), 'step')} as a table"), scroll, class_="more")


def _steps_shown(events: Sequence[Event]) -> list[int]:
    if len(events) <= STEPS_SHOWN:
        return list(range(len(events)))
    departed = [index for index, event in enumerate(events) if event.departed][: ladder.DEPARTED_SHOWN]
    around = {
        near for at in departed for near in range(max(0, at - NEIGHBOURHOOD), min(len(events), at + NEIGHBOURHOOD + 1))
    }
    head = STEPS_SHOWN - len(around)
    return sorted(around | set(range(max(head, 0))))


def _step_row(number: int, event: Event) -> Html:
    route = f"{event.sender} \u2192 {event.receiver}" if event.sender != event.receiver else event.sender
    mark = el("strong", "\u2717 departed: ") if event.departed else NOTHING
    said = el("td", mark, text.line(event.what), " ", el("small", text.line(event.detail)) if event.detail else NOTHING)
    return el(
        "tr",
        el("td", str(number)),
        el("td", f"{event.at:.4f}"),
        el("td", route, " ", el("small", event.channel) if event.channel else NOTHING),
        said,
        el("td", *_payload(event)),
        class_="bad" if event.departed else None,
    )


def _payload(event: Event) -> list[Html]:
    if event.size is None:
        return []
    parts = [join(f"{event.size:,} octets")]
    if event.digest:
        parts.append(el("small", f" sha256 {event.digest[:12]}\u2026"))
    if event.sample:
        parts.append(el("code", readable(event.sample)))
    return parts


def readable(sample: str) -> str:
    """The first 48 octets of a payload: text where they print, else hex in pairs."""
    shown = sample[:96]
    try:
        octets = bytes.fromhex(shown)
    except ValueError:
        return text.clip(sample, 60)
    rest = "\u2026" if len(sample) > len(shown) else ""
    if octets and all(0x20 <= octet < 0x7F or octet in b"\r\n\t" for octet in octets):
        return repr(octets.decode("ascii"))[1:-1] + rest
    return octets[:24].hex(" ") + ("\u2026" if len(sample) > 48 else "")


def capture(case: CaseResult) -> Html:
    """Links to the capture and to what QUIC peers told."""
    if not case.capture and not case.qlogs:
        return NOTHING
    wire = el("p", "Open in Wireshark: ", _file(case.capture), ", decrypted: the keys are inside.")
    qlogs = ((", " if index else "", _file(path)) for index, path in enumerate(case.qlogs))
    return join(
        el("h4", "What went over the wire"),
        wire if case.capture else NOTHING,
        el("p", "QUIC packet by packet, for a viewer of qlog: ", *chain.from_iterable(qlogs))
        if case.qlogs
        else NOTHING,
    )


def _file(path: str) -> Html:
    """A link to a file beside the page; only a path that cannot lead elsewhere becomes one."""
    name = el("code", text.line(path))
    return el("a", name, href=path) if _CAPTURE.fullmatch(path) else name


def _log(case: CaseResult) -> Html:
    if not case.engine_log:
        return NOTHING
    shown = [safe(text.line(entry) + "\n") for entry in case.engine_log[-LOG_LINES_SHOWN:]]
    left = len(case.engine_log) - len(shown)
    title = f"Engine log, last {text.plural(len(shown), 'line')}" + (f" of {len(case.engine_log):,}" if left else "")
    return el("details", el("summary", title), el("pre", *shown, tabindex=0), class_="more")


def command(words: str) -> Html:
    """A box with the one command that runs the case again."""
    if not words:
        return NOTHING
    box = el("pre", el("code", text.line(words, text.BLOCK_LIMIT)), tabindex=0, role="group", aria_label="Command")
    return join(
        el("h4", "Run it again"), el("div", box, el("button", "Copy", type="button", hidden=True), class_="copy")
    )
