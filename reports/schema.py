"""The JSON Schema of the run record (`run.json`): it ships in the package, and checks what others write or edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from reports import text

PROBLEMS_SHOWN = 50


def schema() -> dict[str, Any]:
    """The schema, JSON Schema 2020-12, as data."""
    loaded: dict[str, Any] = json.loads((files("reports") / "schema" / "run.schema.json").read_text(encoding="utf-8"))
    return loaded


def validate(data: Any) -> list[str]:
    """What is wrong with `data` as a run record, one line each: the key, what was found, what is allowed.

    Empty when nothing is wrong; at most 50 lines, and one that says how many more there are.
    """
    errors = sorted(Draft202012Validator(schema()).iter_errors(data), key=lambda error: _sortable(error.absolute_path))
    problems = [_line(error) for error in errors[:PROBLEMS_SHOWN]]
    if len(errors) > PROBLEMS_SHOWN:
        problems.append(f"and {len(errors) - PROBLEMS_SHOWN:,} more problems")
    return problems


def _sortable(path: Any) -> list[tuple[str, int]]:
    return [("", part) if isinstance(part, int) else (str(part), 0) for part in path]


def _line(error: Any) -> str:
    words = _WORDS.get(error.validator)
    return f"{_path(error)}: {text.clip(words(error) if words else error.message, 200)}"


def _path(error: Any) -> str:
    path = "run"
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{text.clip(str(part), 60)}"
    return path


def _found(error: Any) -> str:
    try:
        return text.clip(json.dumps(error.instance), 60)
    except (TypeError, ValueError):
        return type(error.instance).__name__


def _unknown(error: Any) -> str:
    unknown = sorted(set(error.instance) - set(error.schema["properties"]))
    return f"unknown key {', '.join(unknown)}"


def _alternatives(error: Any) -> str:
    allowed = " or ".join(str(option.get("type")) for option in error.validator_value)
    return f"found {_found(error)}, allowed is {allowed} ({error.schema.get('description', '')})"


_WORDS: dict[str, Callable[[Any], str]] = {
    "additionalProperties": _unknown,
    "anyOf": _alternatives,
    "const": lambda error: f"found {_found(error)}, allowed is {error.validator_value}",
    "enum": lambda error: f"found {_found(error)}, allowed is {', '.join(map(str, error.validator_value))}",
    "minimum": lambda error: f"found {_found(error)}, allowed is {error.validator_value} or more",
    "minLength": lambda error: f"found {_found(error)}, allowed is a text that is not empty",
    "required": lambda error: f"missing key {', '.join(sorted(set(error.validator_value) - set(error.instance)))}",
    "type": lambda error: f"found {_found(error)}, allowed is {error.validator_value}",
}
