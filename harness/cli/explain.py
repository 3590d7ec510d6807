"""`edgecase explain NAME`: one requirement, case, ruling, feature, setting, chapter or seed sentence, in full."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator

from harness.collect import collect
from harness.coverage import cases_of
from harness.errors import UsageError
from harness.ledger import Draft, Ledger, Promise, Ruling, suggestions
from harness.model.case import Case, Variant
from harness.model.requirement import CLAIM, Requirement

_LABEL = 13
_SOURCES = {"SEED": "the seed page", "DOCS": "other public documentation", "SDK": "public SDKs", "RFC": "an RFC"}
_LISTS = ("features", "settings", "editions", "chapters", "rulings", "rules", "drafts", "seed")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("explain", help="explain a requirement or a case")
    command.add_argument(
        "name",
        metavar="NAME",
        help="id of a requirement, case or ruling; a feature, setting, chapter or seed sentence (seed:25); or one of "
        + ", ".join(_LISTS),
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what NAME is. Raises `UsageError` with the nearest names when there is no such thing."""
    for line in explain(arguments.name, Ledger.load(), collect()):
        print(line)
    return 0


def explain(name: str, ledger: Ledger, cases: list[Case]) -> Iterator[str]:
    """The lines that explain `name`. Raises `UsageError` when neither the ledger nor the cases know it."""
    by_id = {case.id: case for case in cases}
    if name in ledger:
        return _requirement(ledger[name], ledger, cases)
    if name in by_id:
        return _case(by_id[name], ledger)
    if name in ledger.rulings:
        return _ruling_page(ledger.rulings[name], ledger)
    for known, page in _pages(ledger, cases):
        if name in known:
            return page(name)
    everything = [
        *ledger.rows,
        *by_id,
        *ledger.rulings,
        *(item for known, _ in _pages(ledger, cases) for item in known),
    ]
    close = suggestions(name, everything)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise UsageError(f"explain: found {name!r}, allowed is the id of a requirement, case or ruling, or a feature{hint}")


def _pages(ledger: Ledger, cases: list[Case]) -> Iterator[tuple[Iterable[str], Callable[[str], Iterator[str]]]]:
    """Everything else that has a name, with what prints it."""
    chapters = ledger.chapters()
    yield _LISTS, lambda name: _listing(name, ledger)
    yield chapters, lambda name: (_short(row) for row in chapters[name])
    yield ledger.features, lambda name: _feature(name, ledger, cases)
    yield ledger.settings_keys, lambda name: _setting(name, ledger, cases)
    sentences = {f"seed:{number}": number for number in ledger.seed}
    yield sentences, lambda name: _sentence(sentences[name], ledger, cases)


def _field(label: str, text: str | None, bullet: str = "") -> Iterator[str]:
    if text is None or text == "":
        return
    width = max(60, min(120, shutil.get_terminal_size().columns))
    start = f"  {label:{_LABEL}}{bullet}"
    yield from textwrap.wrap(
        text, width, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False
    )


def _fields(label: str, items: Iterable[str]) -> Iterator[str]:
    for number, item in enumerate(items):
        yield from _field(label if number == 0 else "", item, "- ")


def _short(row: Requirement) -> str:
    return f"{row.id:18} {row.level:10} {row.text}"


def _standing(row: Requirement) -> str:
    """What a reader may conclude from a broken row."""
    if row.derived:
        return (
            "standard; derived: the text has no keyword, or no rule for an intermediary; the level is a reading of it"
        )
    if not row.marks:
        return "standard"
    by = " and ".join(_SOURCES[mark] for mark in row.marks if mark != "RFC")
    if row.ledger == CLAIM:
        inferred = "; inferred rather than stated" if row.level != "MUST" and "SEED" in row.marks else ""
        return f"documented claim, by {by}{inferred}"
    return "standard; only an RFC backs the row, the documentation is silent and promises nothing"


def _requirement(row: Requirement, ledger: Ledger, cases: list[Case]) -> Iterator[str]:
    yield f"{row.id}  {row.level}, priority {row.priority}, {row.chapter}"
    yield from _field("", row.text)
    yield from _field("where", row.where)
    yield from _field("standing", _standing(row))
    level = ledger.rfc_level(row.id)
    yield from _field("rfc", f"{row.rfc or ''}{f' (there a {level})' if level else ''}")
    yield from _field("role", row.subject)
    yield from _field("applies to", ", ".join(row.applies_to))
    yield from _fields("seed", (f"{number}: {ledger.seed[number].gloss}" for number in row.seed))
    yield from _field("observable", row.observable)
    yield from _fields("allowed", row.allowed)
    yield from _field("disputed", row.disputed)
    yield from _field("notes", row.notes)
    yield from _field("whole file", ledger.source_of(row.id).notes)
    for ruling in ledger.rulings_of(row.id):
        yield from _ruling(ruling)
    for rule in ledger.rules:
        if row.id in rule.rows:
            yield from _field(rule.id, f"{rule.title}: {rule.text}")
    found = cases_of(cases, row.id)
    yield from _fields("cases", (_located(case) for case in found))
    reason = ledger.reason_of(row.id)
    if not found:
        yield from _field("no case", f"{reason.text} ({reason.kind})" if reason else "and no reason is written down")


def _located(case: Case) -> str:
    return f"{case.id}  {case.file}:{case.line}  {case.title}"


def _ruling(ruling: Ruling) -> Iterator[str]:
    yield from _field(ruling.id, f"Conflict: {ruling.conflict}")
    yield from _field("", f"Ruling: {ruling.ruling}")
    yield from _field("", f"Reason: {ruling.reason}")


def _ruling_page(ruling: Ruling, ledger: Ledger) -> Iterator[str]:
    yield f"{ruling.id}  fixtures/{ruling.file}"
    yield from _field("conflict", ruling.conflict)
    yield from _field("ruling", ruling.ruling)
    yield from _field("reason", ruling.reason)
    yield from _fields("rows", (_short(ledger[row]) for row in ruling.rows))


def _case(case: Case, ledger: Ledger) -> Iterator[str]:
    yield f"{case.id}  {case.file}:{case.line}"
    yield from _field("", case.title)
    for paragraph in case.doc.split("\n\n")[1:]:
        yield from _field("", " ".join(paragraph.split()))
    for name in case.requirements:
        known = ledger.rows.get(name)
        yield from _fields("checks", [f"{_short(known)} ({known.where})" if known else f"{name}: no such requirement"])
    for variant in case.variants:
        yield from _fields(variant.label or "publishes", _specs(case, variant))
    yield from _field("settings", str(case.settings))
    features = frozenset[str]().union(*(case.features(variant) for variant in case.variants))
    yield from _field("features", ", ".join(sorted(features)) or "none")
    yield from _field("only without", case.refusal)
    yield from _field("needs", ", ".join(sorted(case.needs)))
    yield from _field("also over", ", ".join(sorted(case.axes)))
    yield from _field("revision", str(case.revision))
    traits = {"sanity": case.sanity, "single-family": case.single_family, "slow": case.slow}
    yield from _field("traits", ", ".join(name for name, held in traits.items() if held))


def _specs(case: Case, variant: Variant) -> Iterator[str]:
    for name, spec in case.publish(variant).items():
        yield f"{name}: " + ", ".join(f"{key}={value}" for key, value in spec.properties())


def _listing(name: str, ledger: Ledger) -> Iterator[str]:
    if name == "features":
        yield from (f"{feature:32} {meaning}" for feature, meaning in ledger.features.items())
    elif name == "settings":
        yield from (f"{item.key:34} {item.type:8} {item.meaning}" for item in ledger.settings_keys.values())
    elif name == "editions":
        yield from (_promise(promise) for promise in ledger.editions.values())
    elif name == "chapters":
        yield from (f"{chapter:22} {len(rows):5} rows" for chapter, rows in ledger.chapters().items())
    elif name == "rulings":
        yield from (f"{item.id:12} {item.conflict}" for item in ledger.rulings.values())
    elif name == "rules":
        for rule in ledger.rules:
            yield from _field(rule.id, f"{rule.title}. {rule.text}")
    elif name == "drafts":
        for draft in ledger.drafts:
            yield from _field(", ".join(f"{number:02}" for number in draft.drafts), _draft(draft))
    else:
        yield from (f"seed:{number:<3} {sentence.gloss}" for number, sentence in ledger.seed.items())


def _draft(draft: Draft) -> str:
    return "; ".join(
        (
            f":protocol {draft.protocol}",
            f"setting {draft.setting}",
            f"ENABLE_CONNECT_PROTOCOL {'needed' if draft.connect_protocol else 'not needed'}",
            f"application error codes of {draft.error_bits} bits",
            f"RESET_STREAM_AT {'yes' if draft.reset_stream_at else 'no'}",
            f"session flow control {draft.flow_control}",
            f"subprotocol {draft.subprotocol}",
            f"an intermediary resets with the code: {draft.intermediary}",
            f"H3_MESSAGE_ERROR for a bad close message: {'yes' if draft.message_error else 'no'}",
        )
    )


def _promise(promise: Promise) -> str:
    cells = ", ".join(f"{name} {value}" for name, value in promise.editions.items())
    return f"{promise.feature:32} {cells}"


def _feature(name: str, ledger: Ledger, cases: list[Case]) -> Iterator[str]:
    yield f"{name}  feature"
    yield from _field("", ledger.features[name])
    promise = ledger.editions.get(name)
    if promise is not None:
        yield from _field("editions", ", ".join(f"{key} {value}" for key, value in promise.editions.items()))
        yield from _field("", promise.note)
        yield from _fields("rows", (_short(ledger[row]) for row in promise.requirements))
    needing = (case for case in cases if any(name in case.features(variant) for variant in case.variants))
    yield from _fields("cases", (_located(case) for case in needing))


def _setting(name: str, ledger: Ledger, cases: list[Case]) -> Iterator[str]:
    setting = ledger.settings_keys[name]
    yield f"{name}  setting, {setting.type}{f' in {setting.unit}' if setting.unit else ''}"
    yield from _field("", setting.meaning)
    yield from _field("values", ", ".join(setting.values))
    using = (case for case in cases if case.settings.get(name) is not None)
    yield from _fields("cases", (_located(case) for case in using))


def _sentence(number: int, ledger: Ledger, cases: list[Case]) -> Iterator[str]:
    sentence = ledger.seed[number]
    yield f"seed:{number}  {sentence.section}"
    yield from _field("", sentence.gloss)
    yield from _field("no case", sentence.reason)
    rows = [row for row in ledger if number in row.seed]
    yield from _fields("rows", (_short(row) for row in rows))
    behind = {case.id: case for row in rows for case in cases_of(cases, row.id)}
    yield from _fields("cases", (_located(case) for case in behind.values()))
