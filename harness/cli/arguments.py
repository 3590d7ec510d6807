"""What the subcommands share: a parser whose errors are one line, numbers with limits, and names that must exist."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from harness.errors import UsageError
from harness.ledger import Ledger, suggestions
from harness.link.faults import FaultPlan, read_plan
from harness.model.case import Case

_FEW = 20
"""So many names are listed rather than pointed at."""
_AXIS = re.compile(r"@[\w.-]+(?=\]$)")


class OneLineParser(argparse.ArgumentParser):
    """argparse, but an error is one line and exit code 2; `--help` tells the rest."""

    def error(self, message: str) -> NoReturn:
        """End with `message`."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def number(low: int, high: int = 1_000_000_000) -> Callable[[str], int]:
    """A type for argparse: a whole number from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"found {text!r}, allowed is a whole number from {low} to {high}")
        return value

    return read


def fraction(low: float, high: float) -> Callable[[str], float]:
    """A type for argparse: a number from `low` to `high`, fractions allowed."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"found {text!r}, allowed is a number from {low:g} to {high:g}")
        return value

    return read


def fault_plan(text: str) -> FaultPlan:
    """A type for argparse: what happens to packets by chance."""
    try:
        return read_plan(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check_name(flag: str, name: str, known: Iterable[str], what: str) -> None:
    """Raise `UsageError` with the nearest names unless `name` is known."""
    names = list(dict.fromkeys(known))
    if name in names:
        return
    close = suggestions(name, names)
    hint = f"; did you mean {', '.join(close)}?" if close else f": {', '.join(names)}" if len(names) <= _FEW else ""
    raise UsageError(f"{flag}: found {name!r}, allowed is {what}{hint}")


def check_selection(
    cases: Sequence[Case], *, only: Sequence[str] = (), areas: Sequence[str] = (), requirements: Sequence[str] = ()
) -> None:
    """Raise `UsageError` for a case, area or requirement that there is not, and for a selection of nothing: a run of
    nothing must never look green."""
    ids = {case.id for case in cases}
    keys = {f"{case.id}[{variant.label}]" for case in cases for variant in case.variants if variant.label}
    for name in only:
        # A run on another axis adds it to the label: `id[label@edition]`, `id[@edition]`.
        plain = _AXIS.sub("", name).removesuffix("[]")
        check_name("--only", name if plain not in ids | keys else plain, (*ids, *sorted(keys)), _CASE)
    for name in areas:
        check_name("--area", name, sorted({case.area for case in cases}), "an area, a folder of the cases")
    checked = {requirement for case in cases for requirement in case.requirements}
    for name in requirements:
        check_name("--requirement", name, Ledger.load().rows, "the id of a requirement")
        if name not in checked:
            raise UsageError(f"--requirement: {name}: no case checks it (see `edgecase explain {name}`)")
    chosen = {name.partition("[")[0] for name in only}
    if not any(
        (not chosen or case.id in chosen)
        and (not areas or case.area in areas)
        and (not requirements or set(requirements) & set(case.requirements))
        for case in cases
    ):
        raise UsageError("no case was run: what --only, --area and --requirement ask for have no case in common")


_CASE = "a case: id or id[variant] (see `edgecase list`)"


def writable_folder(flag: str, folder: Path) -> None:
    """Make `folder`, and see that a file can be made in it. Raises `UsageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise UsageError(f"{flag}: cannot write into {folder}: {error.strerror}") from error
