"""The run record: everything a report needs, as frozen data that goes to and from JSON (`run.json`)."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from harness.model.event import Event
from harness.model.verdict import Outcome, Verdict

SCHEMA_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """What one requirement got: `ledger` is `claim` or `rfc`, `branch` the item of the row's `allowed` that was seen,
    if any.

    `message` names the rule, what was expected and what came; empty on a plain pass.
    """

    requirement: str
    ledger: str
    outcome: Outcome
    branch: str | None = None
    message: str = ""
    level: str = ""
    where: str = ""
    text: str = ""
    expected: str = ""
    actual: str = ""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One run of one variant of one case.

    `cause` says who or what a verdict without outcomes is about (`adapter: no answer to publish within 5.0 s`).
    `expected` is whether the
    baseline agrees with the verdict, `baseline_reason` the baseline's reason if it has an entry. `transcript` is
    always there; `engine_log`
    (last lines) only for what did not pass. `needs` explains an `unsupported`. `capture` is the pcapng of what went
    over the wire, relative to
    `run.json`, where one was kept; `qlogs` are the qlog files of its QUIC legs, likewise. `axes` are names and points
    of the variant's axes, `down` and `up` among them where it is about a pair of HTTP versions.
    """

    id: str
    variant: str
    area: str
    title: str
    verdict: Verdict
    outcomes: tuple[OutcomeRecord, ...]
    duration_s: float
    revision: int = 1
    doc: str = ""
    requirements: tuple[str, ...] = ()
    cause: str = ""
    expected: bool = True
    baseline_reason: str = ""
    transcript: tuple[Event, ...] = ()
    engine_log: tuple[str, ...] = ()
    reproduce: str = ""
    file: str = ""
    line: int = 0
    settings: str = "default"
    family: str = ""
    single_family: bool = False
    worker: str = "main"
    engine_version: str = ""
    capture: str = ""
    qlogs: tuple[str, ...] = ()
    axes: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """`id` or `id[variant]`."""
        return f"{self.id}[{self.variant}]" if self.variant else self.id


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What was under test, as the profile names it."""

    profile: str
    name: str
    version: str
    edition: str
    driver: str
    features: tuple[str, ...] = ()
    command: str = ""
    own: bool = False


@dataclass(frozen=True, slots=True)
class BaselineProblem:
    """An entry of the baseline that is wrong: `unexpected-pass` or `matches-nothing`."""

    kind: str
    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of the suite against one engine."""

    engine: EngineInfo
    cases: tuple[CaseResult, ...]
    suite_version: str
    ledger_digest: str
    started: str
    duration_s: float
    seed: int
    argv: tuple[str, ...] = ()
    workers: int = 1
    stopped: str = ""
    baseline_problems: tuple[BaselineProblem, ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA_VERSION

    def counts(self) -> dict[Verdict, int]:
        """How many cases got each verdict; every verdict is a key."""
        counts = dict.fromkeys(Verdict, 0)
        for case in self.cases:
            counts[case.verdict] += 1
        return counts


def to_json(value: Any) -> Any:
    """Plain JSON data of a record (or any frozen dataclass of this package)."""
    if isinstance(value, Event):  # tens of thousands in a record: what is absent is left out
        pairs = ((field.name, getattr(value, field.name), field.default) for field in dataclasses.fields(value))
        return {name: item for name, item, default in pairs if item != default}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list | frozenset):
        items = sorted(value) if isinstance(value, frozenset) else value
        return [to_json(item) for item in items]
    return value


def from_json(kind: type[T], data: Any) -> T:
    """The record that `to_json` wrote. Raises `ValueError` naming the key when a value is missing or of another
    type."""
    value: T = _build(kind, data, kind.__name__)
    return value


def _build(kind: Any, data: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(data, list):
            raise ValueError(f"{path}: found {type(data).__name__}, allowed is a list")
        inner = typing.get_args(kind)[0]
        return tuple(_build(inner, item, f"{path}[{index}]") for index, item in enumerate(data))
    if origin in (types.UnionType, typing.Union):
        if data is None:
            return None
        return _build(next(arg for arg in typing.get_args(kind) if arg is not type(None)), data, path)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, data, path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if kind is float and isinstance(data, int):
        return float(data)
    if not isinstance(data, kind):
        raise ValueError(f"{path}: found {type(data).__name__}, allowed is {kind.__name__}")
    return data


def _build_dataclass(kind: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{path}: found {type(data).__name__}, allowed is an object")
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for key in data:
        if key not in known:
            raise ValueError(f"{path}.{key}: unknown key")
    values = {name: _build(hints[name], data[name], f"{path}.{name}") for name in known if name in data}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def read_record(path: Path) -> RunRecord:
    """The run record in `path`. Raises `ValueError` with one line that names the file and the key."""
    try:
        return from_json(RunRecord, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_record(record: RunRecord, path: Path) -> None:
    """Write `run.json`; the folder is made. Lone surrogates in what a peer said become JSON escapes, and come back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(record), ensure_ascii=False, separators=(",", ":")) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
