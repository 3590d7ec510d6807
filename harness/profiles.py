"""Reading profiles: shipped ones by name, a user's by path. Every mistake is one line that names file, key, found and
allowed."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.model.profile import BaselineEntry, Profile
from harness.model.verdict import Verdict

KINDS = ("launch", "agent", "adapter")
_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "title": str,
    "own": bool,
    "edition": str,
    "editions": list,
    "features": list,
    "driver": dict,
    "settings": dict,
    "baseline": list,
    "notes": str,
}
_REQUIRED = ("name", "title", "edition", "features", "driver")
_DRIVER_KEYS: dict[str, dict[str, type]] = {
    "launch": {
        "kind": str, "command": list, "listen": list, "settings": dict, "settings_off": dict, "start_timeout_ms": int,
        "census": str,
    },
    "agent": {
        "kind": str, "address": str, "token": str, "certificate": str, "key": str, "ca_file": str, "domain": str,
        "project": str, "insecure": bool, "public_address": str,
    },
    "adapter": {"kind": str, "command": list, "timeout_ms": int, "options": dict},
}  # fmt: skip
_DRIVER_REQUIRED = {"launch": ("command",), "agent": ("address", "domain"), "adapter": ("command",)}
_BASELINE_KEYS = {"case": str, "verdict": str, "reason": str, "requirement": str, "sometimes": bool}
_VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")


def shipped() -> dict[str, Path]:
    """Name and file of every profile in the package."""
    folder = Path(str(resources.files("fixtures") / "profiles"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def load(name_or_path: str, known_features: frozenset[str] | None = None) -> Profile:
    """The profile with this name, or in this file. Raises `UsageError`."""
    file = shipped().get(name_or_path) or Path(name_or_path)
    if not file.is_file():
        raise UsageError(
            f"--engine {name_or_path}: no such profile; shipped are {', '.join(shipped())}; or give a TOML file's path"
        )
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error
    return _profile(file, data, known_features)


def _fail(file: Path, key: str, found: object, allowed: str) -> UsageError:
    return UsageError(f"{file}: {key}: found {found!r}, allowed is {allowed}")


def _profile(file: Path, data: dict[str, Any], known_features: frozenset[str] | None) -> Profile:
    _check_keys(file, "", data, _KEYS, _REQUIRED)
    for feature in data["features"]:
        if known_features is not None and feature not in known_features:
            raise _fail(
                file, "features", feature, "a feature of fixtures/features.toml (see `edgecase explain features`)"
            )
    return Profile(
        name=data["name"],
        title=data["title"],
        edition=data["edition"],
        kind=data["driver"].get("kind", ""),
        driver=_driver(file, data["driver"]),
        features=frozenset(data["features"]),
        file=str(file),
        own=data.get("own", False),
        settings=data.get("settings", {}),
        baseline=tuple(_baseline(file, index, entry) for index, entry in enumerate(data.get("baseline", []))),
        notes=data.get("notes", ""),
        editions=tuple(data.get("editions", ())),
        shipped=file in shipped().values(),
    )


def _check_keys(
    file: Path, prefix: str, data: Mapping[str, Any], keys: Mapping[str, Any], required: tuple[str, ...]
) -> None:
    for key, value in data.items():
        if key not in keys:
            raise UsageError(f"{file}: {prefix}{key}: unknown key, allowed are {', '.join(keys)}")
        if not isinstance(value, keys[key]):
            raise _fail(file, f"{prefix}{key}", value, f"a {keys[key].__name__}")
    for key in required:
        if key not in data:
            raise UsageError(f"{file}: {prefix}{key}: missing")


def _driver(file: Path, data: dict[str, Any]) -> dict[str, Any]:
    kind = data.get("kind")
    if kind not in KINDS:
        raise _fail(file, "driver.kind", kind, f"one of {', '.join(KINDS)}")
    _check_keys(file, "driver.", data, _DRIVER_KEYS[kind], _DRIVER_REQUIRED[kind])
    return {key: _expand(file, f"driver.{key}", value) for key, value in data.items()}


def _expand(file: Path, key: str, value: Any) -> Any:
    """Replace `${NAME}` by the environment variable, `${HERE}` by the profile's folder."""
    if isinstance(value, list):
        return [_expand(file, key, item) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "HERE":
            return str(file.resolve().parent)
        if name not in os.environ:
            raise UsageError(f"{file}: {key}: the environment variable {name} is not set")
        return os.environ[name]

    return _VARIABLE.sub(replace, value)


def _baseline(file: Path, index: int, entry: Any) -> BaselineEntry:
    prefix = f"baseline[{index}]."
    if not isinstance(entry, dict):
        raise _fail(file, f"baseline[{index}]", entry, "a table with case, verdict and reason")
    _check_keys(file, prefix, entry, _BASELINE_KEYS, ("case", "verdict", "reason"))
    if entry["verdict"] not in ("fail", "warn", "crash", "setup"):
        raise _fail(file, f"{prefix}verdict", entry["verdict"], "fail, warn, crash or setup")
    if not entry["reason"].strip():
        raise _fail(file, f"{prefix}reason", entry["reason"], "a sentence that says whose fault it is and why")
    return BaselineEntry(
        entry["case"],
        Verdict(entry["verdict"]),
        entry["reason"],
        entry.get("requirement"),
        sometimes=entry.get("sometimes", False),
    )
