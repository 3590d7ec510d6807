"""The requirement ledger: `fixtures/` read, checked and joined.

`Ledger.load()` gives the packaged ledger. Everything that is wrong with a file is a `LedgerError`: one line that names
the
file, the row, the key, what was found and what is allowed. The rows are `harness.model.requirement.Requirement`; the
rest
(rulings, features, settings, editions, seed sentences, reasons) are the frozen classes below.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib.resources
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path

from harness import ledger_form as form
from harness.ledger_form import Data, LedgerError, check_table, rows_of
from harness.model.requirement import Requirement

__all__ = [
    "Draft",
    "Ledger",
    "LedgerError",
    "Promise",
    "Reason",
    "Rule",
    "Ruling",
    "Sentence",
    "Setting",
    "Source",
    "is_recorded",
    "suggestions",
]

_RECORDED = re.compile(r"(?:^|[:,;(]\s*)recorded\b")


@dataclass(frozen=True, slots=True)
class Source:
    """One file of requirements: its `notes` bind every row of the file."""

    file: str
    prefix: str
    source: str
    title: str
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """How the suite rules where two sources disagree: the conflict, what passes, is recorded or fails, and why."""

    id: str
    file: str
    rows: tuple[str, ...]
    conflict: str
    ruling: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A reading rule that holds for all rows in the scope of its file."""

    id: str
    file: str
    title: str
    text: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a case's settings. `type` is `integer`, `string`, `boolean` or `list`; `unit` is empty or `ms`,
    `octets`, ..."""

    key: str
    type: str
    meaning: str
    unit: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Promise:
    """What each edition promises of one feature: `editions` maps its name to one of `PROMISES`."""

    feature: str
    title: str
    editions: Mapping[str, str]
    requirements: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of the seed page: a gloss in our words, and the reason where it needs no case."""

    number: int
    section: str
    gloss: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why rows have no case. `rows` are ids, `PREFIX*`, `chapter` or `chapter:priority`, as written; the first that
    fits
    wins in this order: id, prefix, chapter with priority, chapter."""

    rows: tuple[str, ...]
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What the drafts of WebTransport over HTTP/3 with these numbers put on the wire."""

    drafts: tuple[int, ...]
    protocol: str
    setting: str
    connect_protocol: bool
    error_bits: int
    reset_stream_at: bool
    flow_control: str
    subprotocol: str
    intermediary: str
    message_error: bool


class Ledger:
    """All facts the suite stands on. Immutable; `ledger[ID]` is a row, iteration goes over the rows in file order."""

    def __init__(self, tables: Mapping[str, Data]) -> None:
        """Join and check parsed TOML `tables` by file name (`requirements/rfc7301.toml`). Raises `LedgerError`."""
        self._tables = tables
        self.seed: dict[int, Sentence] = _read_seed(tables)
        self.sources: dict[str, Source] = {}
        rows, self._rfc_levels = self._read_rows()
        self.rulings: dict[str, Ruling] = {}
        self.rules: tuple[Rule, ...] = ()
        self.disputed: dict[str, str] = {}
        self.drafts: tuple[Draft, ...] = ()
        self._read_rulings(rows)
        by_row: dict[str, list[str]] = {}
        for ruling in self.rulings.values():
            for row in ruling.rows:
                by_row.setdefault(row, []).append(ruling.id)
        self._by_id = {row.id: _with_rulings(row, by_row) for row in rows.values()}
        self.features, self.settings_keys = _read_features(tables)
        self.editions = _read_editions(tables, self._by_id, self.features)
        self.reasons = _read_reasons(tables, self)

    @classmethod
    def load(cls, folder: Traversable | Path | None = None) -> Ledger:
        """The ledger in `folder`, or the packaged one (read once per process). Raises `LedgerError`."""
        return _packaged() if folder is None else cls(_parse_all(_read_files(folder)))

    def __getitem__(self, requirement_id: str) -> Requirement:
        try:
            return self._by_id[requirement_id]
        except KeyError:
            raise LedgerError(f"{requirement_id}: no such requirement{_near(requirement_id, self._by_id)}") from None

    def __contains__(self, requirement: object) -> bool:
        return requirement in self._by_id

    def __iter__(self) -> Iterator[Requirement]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def rows(self) -> Mapping[str, Requirement]:
        """Every row by its id, in file order."""
        return self._by_id

    def chapters(self) -> dict[str, tuple[Requirement, ...]]:
        """The rows by chapter (`rfc:tls`, `engine:TLS`, `agent:agent`); chapters in the order of their first row."""
        chapters: dict[str, list[Requirement]] = {}
        for row in self:
            chapters.setdefault(row.chapter, []).append(row)
        return {name: tuple(rows) for name, rows in chapters.items()}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over what verdicts rest on: rows, rulings, editions; comments and layout do not count."""
        verdict_files = {
            name: data
            for name, data in self._tables.items()
            if name.startswith(("requirements/", "rulings/", "editions"))
        }
        text = json.dumps(verdict_files, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def source_of(self, requirement: str) -> Source:
        """The file that holds the row; its `notes` bind the row too."""
        return self.sources[self[requirement].file]

    def rulings_of(self, requirement: str) -> tuple[Ruling, ...]:
        """The rulings that bear on the row."""
        return tuple(self.rulings[name] for name in self[requirement].rulings)

    def rfc_level(self, requirement: str) -> str | None:
        """The level that the RFC behind an engine row has, where it differs from the row's own."""
        return self._rfc_levels.get(self[requirement].id)

    def branches(self, requirement: str) -> tuple[str, ...]:
        """What can be named of the row's `allowed`: its items; an item of several clauses (`a; b: recorded`) by
        clause."""
        return tuple(clause for item in self[requirement].allowed for clause in item.split("; "))

    def branch(self, requirement_id: str, name: str) -> str:
        """The branch of the row that is `name`, or the only one that starts with it; else `LedgerError`."""
        row = self[requirement_id]
        branches = self.branches(requirement_id)
        if name in row.allowed or name in branches:
            return name
        found = [branch for branch in branches if name and branch.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise LedgerError(
                f"{row.file}: {row.id}: allowed: found {name!r}, which is the start of {len(found)} branches: "
                + " | ".join(found)
            )
        listed = " | ".join(branches) or "none, the row has no `allowed`"
        raise LedgerError(
            f"{row.file}: {row.id}: allowed: case names a branch that the row does not have: found {name!r},"
            f" allowed: {listed}"
        )

    def reason_of(self, requirement: str) -> Reason | None:
        """Why the row needs no case, if somebody has written that down."""
        row = self[requirement]
        for selector in _selectors_of(row, self.reasons):
            if selector in self.reasons:
                return self.reasons[selector]
        return None

    def selected(self, selector: str) -> tuple[Requirement, ...]:
        """The rows that a selector of `reasons.toml` names."""
        if selector in self._by_id:
            return (self._by_id[selector],)
        if selector.endswith("*"):
            return tuple(row for row in self if row.id.startswith(selector[:-1]))
        return tuple(row for row in self if selector in (row.chapter, f"{row.chapter}:{row.priority}"))

    def _read_rows(self) -> tuple[dict[str, Requirement], dict[str, str]]:
        rows: dict[str, Requirement] = {}
        rfc_levels: dict[str, str] = {}
        for name, data in self._tables.items():
            if not name.startswith("requirements/"):
                continue
            stem = Path(name).stem
            prefix = stem if stem in ("engine", "agent") else "rfc"
            file = name.removeprefix("requirements/")
            check_table(file, "file", data, form.FILE)
            self.sources[file] = Source(file, prefix, data["source"], data["title"], data.get("notes", ""))
            for row in rows_of(file, data, "requirement", _ROW_OF[prefix]):
                if row["id"] in rows:
                    first = rows[row["id"]].file
                    raise LedgerError(f"{file}: {row['id']}: id: found twice (also in {first}), allowed is once")
                rows[row["id"]] = self._requirement(self.sources[file], row)
                if "rfc_level" in row:
                    rfc_levels[row["id"]] = row["rfc_level"]
        if not rows:
            raise LedgerError("requirements: found no file of requirements, allowed is at least one")
        return rows, rfc_levels

    def _requirement(self, source: Source, row: Data) -> Requirement:
        seed = tuple(row.get("seed", ()))
        for number in seed:
            if number not in self.seed:
                last = max(self.seed, default=0)
                raise LedgerError(f"{source.file}: {row['id']}: seed: found {number}, allowed is 1 to {last}")
        values = _tuples(row)
        chapter = f"{source.prefix}:{values.pop('area')}"
        values.pop("rfc_level", None)
        return Requirement(source=source.source, file=source.file, chapter=chapter, **values)

    def _read_rulings(self, rows: Mapping[str, Requirement]) -> None:
        rules: list[Rule] = []
        drafts: list[Draft] = []
        for name, data in self._tables.items():
            if not name.startswith("rulings/"):
                continue
            check_table(name, "file", data, form.RULING_FILE)
            for row in rows_of(name, data, "ruling", form.RULING):
                if row["id"] in self.rulings:
                    raise LedgerError(f"{name}: {row['id']}: id: found twice, allowed is once")
                _known(name, row["id"], row["rows"], rows)
                self.rulings[row["id"]] = Ruling(file=name, **_tuples(row))
            for row in rows_of(name, data, "rule", form.RULE):
                _known(name, row["id"], row.get("rows", ()), rows)
                rules.append(Rule(file=name, **_tuples(row)))
            for row in rows_of(name, data, "disputed", form.DISPUTED, "row"):
                _known(name, row["row"], [row["row"]], rows)
                self.disputed[row["row"]] = row["what"]
            drafts += [Draft(**_tuples(row)) for row in rows_of(name, data, "draft", form.DRAFT, "drafts")]
        self.rules, self.drafts = tuple(rules), tuple(drafts)


_ROW_OF = {"rfc": form.RFC_ROW, "engine": form.ENGINE_ROW, "agent": form.AGENT_ROW}


def is_recorded(branch: str) -> bool:
    """Whether a branch of `allowed` is marked `recorded`: noted with its name, never red."""
    return _RECORDED.search(branch) is not None


def _with_rulings(row: Requirement, by_row: Mapping[str, list[str]]) -> Requirement:
    return replace(row, rulings=tuple(by_row[row.id])) if row.id in by_row else row


def _tuples(row: Data) -> Data:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def _known(file: str, row: str, ids: Iterable[str], rows: Mapping[str, Requirement]) -> None:
    for found in ids:
        if found not in rows:
            raise LedgerError(
                f"{file}: {row}: rows: found {found!r}, allowed is the id of a requirement{_near(found, rows)}"
            )


def _near(name: str, known: Iterable[str]) -> str:
    close = suggestions(name, known)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def suggestions(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names nearest to `name`: the same in another case first, then what starts so, then what is spelled alike."""
    pool = list(known)
    folded = name.casefold()
    close = [item for item in pool if item.casefold() == folded]
    close += [item for item in pool if folded and item.casefold().startswith(folded)]
    close += difflib.get_close_matches(name.upper(), pool, n=count) + difflib.get_close_matches(name, pool, n=count)
    return list(dict.fromkeys(close))[:count]


def _read_seed(tables: Mapping[str, Data]) -> dict[int, Sentence]:
    data = tables.get("seed.toml", {})
    check_table("seed.toml", "file", data, {"sentence": form.TABLES})
    sentences: dict[int, Sentence] = {}
    for row in rows_of("seed.toml", data, "sentence", form.SENTENCE, "number"):
        if row["number"] != len(sentences) + 1:
            raise LedgerError(
                f"seed.toml: {row['number']}: number: found {row['number']}, allowed is {len(sentences) + 1} (in order)"
            )
        sentences[row["number"]] = Sentence(**row)
    return sentences


def _read_features(tables: Mapping[str, Data]) -> tuple[dict[str, str], dict[str, Setting]]:
    data = tables.get("features.toml", {})
    check_table("features.toml", "file", data, {"features": form.TABLE, "settings": form.TABLE})
    features: dict[str, str] = data["features"]
    for name, meaning in features.items():
        if not form.is_text(meaning):
            raise LedgerError(
                f"features.toml: features: {name}: found {form.short(meaning)}, allowed is {form.TEXT.allowed}"
            )
    settings: dict[str, Setting] = {}
    for key, row in data["settings"].items():
        if not isinstance(row, dict):
            raise LedgerError(
                f"features.toml: settings: {key}: found {form.short(row)}, allowed is {form.TABLE.allowed}"
            )
        check_table("features.toml", key, row, form.SETTING)
        settings[key] = Setting(key, **_tuples(row))
    return features, settings


def _read_editions(
    tables: Mapping[str, Data], rows: Mapping[str, Requirement], features: Mapping[str, str]
) -> dict[str, Promise]:
    data = tables.get("editions.toml", {})
    check_table("editions.toml", "file", data, {"promise": form.TABLES})
    promises: dict[str, Promise] = {}
    for row in rows_of("editions.toml", data, "promise", form.PROMISE, "feature"):
        feature = row["feature"]
        if feature in promises:
            raise LedgerError(f"editions.toml: {feature}: feature: found twice, allowed is once")
        if feature not in features:
            raise LedgerError(
                f"editions.toml: {feature}: feature: found {feature!r}, allowed is a name of features.toml"
                + _near(feature, features)
            )
        _known("editions.toml", feature, row["requirements"], rows)
        editions = {name: row[name] for name in form.EDITIONS}
        promises[feature] = Promise(feature, row["title"], editions, tuple(row["requirements"]), row.get("note", ""))
    return promises


def _read_reasons(tables: Mapping[str, Data], ledger: Ledger) -> dict[str, Reason]:
    """The reasons by selector, each selector once and naming at least one row."""
    data = tables.get("reasons.toml", {})
    check_table("reasons.toml", "file", data, {"reason": form.optional(form.TABLES)})
    reasons: dict[str, Reason] = {}
    for row in rows_of("reasons.toml", data, "reason", form.REASON, "text"):
        reason = Reason(tuple(row["rows"]), row["kind"], row["text"])
        for selector in reason.rows:
            if selector in reasons:
                raise LedgerError(f"reasons.toml: {selector}: rows: found twice, allowed is one reason per selector")
            if not ledger.selected(selector):
                raise LedgerError(
                    f"reasons.toml: {selector}: rows: found {selector!r}, allowed is an id, PREFIX*, chapter or"
                    f" chapter:priority that some row has{_near(selector, ledger.rows)}"
                )
            reasons[selector] = reason
    return reasons


def _selectors_of(row: Requirement, reasons: Mapping[str, Reason]) -> list[str]:
    prefixes = [name for name in reasons if name.endswith("*") and row.id.startswith(name[:-1])]
    return [row.id, *sorted(prefixes, key=len, reverse=True), f"{row.chapter}:{row.priority}", row.chapter]


# --- files ---------------------------------------------------------------------------------------------------------

_SINGLE = ("seed.toml", "features.toml", "editions.toml", "reasons.toml")
_MOST_OCTETS = 4 << 20
"""No file of the ledger is near this size; what is larger is not ours."""


@functools.lru_cache(maxsize=1)
def _packaged() -> Ledger:
    files = _read_files(importlib.resources.files("fixtures"))
    cache = _cache_file(files)
    tables = _read_cache(cache, files) if cache is not None else None
    if tables is not None:
        return Ledger(tables)
    tables = _parse_all(files)
    ledger = Ledger(tables)
    if cache is not None:
        _write_cache(cache, tables)
    return ledger


def _read_files(folder: Traversable | Path) -> dict[str, bytes]:
    """Every file of the ledger by name, in the order that rows have: documents, then RFCs, each sorted."""
    names = list(_SINGLE)
    try:
        for part in ("requirements", "rulings"):
            names += sorted(f"{part}/{item.name}" for item in (folder / part).iterdir() if item.name.endswith(".toml"))
    except OSError as error:
        raise LedgerError(f"{part}: found no readable folder, allowed is a folder of TOML files ({error})") from None
    files: dict[str, bytes] = {}
    for name in names:
        try:
            files[name] = folder.joinpath(*name.split("/")).read_bytes()
        except OSError as error:
            raise LedgerError(f"{name}: file: found no readable file, allowed is one ({error.strerror})") from None
        if len(files[name]) > _MOST_OCTETS:
            raise LedgerError(f"{name}: file: found {len(files[name])} octets, allowed are {_MOST_OCTETS}")
    return files


def _parse_all(files: Mapping[str, bytes]) -> dict[str, Data]:
    return {name: _parse(name, data) for name, data in files.items()}


def _parse(name: str, data: bytes) -> Data:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        problem = " ".join(str(error).split())
        raise LedgerError(
            f"{name.removeprefix('requirements/')}: file: found no valid TOML, allowed is TOML: {problem}"
        ) from None


def _cache_file(files: Mapping[str, bytes]) -> Path | None:
    """Where the parsed form of exactly these octets is kept: parsing TOML takes ten times as long as reading JSON."""
    if os.environ.get("EDGECASE_NO_CACHE"):
        return None
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "edgecase" / f"ledger-{digest.hexdigest()[:32]}.json"


def _read_cache(cache: Path, files: Mapping[str, bytes]) -> dict[str, Data] | None:
    """The parsed form, if it is there and whole; a copy that was cut or spoilt is as good as none."""
    try:
        kept = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return None
    whole = (
        isinstance(kept, dict) and list(kept) == list(files) and all(isinstance(item, dict) for item in kept.values())
    )
    return kept if whole else None


def _write_cache(cache: Path, tables: Mapping[str, Data]) -> None:
    """Keep the parsed form; a folder that cannot be written costs time and nothing else."""
    with contextlib.suppress(OSError, TypeError):
        text = json.dumps(tables, ensure_ascii=False)
        cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = cache.with_suffix(f".{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(cache)
        for old in cache.parent.glob("ledger-*.json"):
            if old != cache:
                old.unlink(missing_ok=True)
