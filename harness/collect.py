"""Finding the cases: pytest collects them, everybody else asks here."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.ledger import Ledger
from harness.model.case import Case

PACKAGE = "conformance"


def conformance_folder() -> Path:
    """Where the cases are installed. Raises `UsageError`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the package {PACKAGE!r} is not installed: install edgecase in an environment of its own")
    return Path(next(iter(spec.submodule_search_locations)))


class _Catcher:
    """A pytest plugin that keeps the collected cases."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            case = getattr(item, "case", None)
            if isinstance(case, Case):
                self.cases[case.id] = case


def collect(paths: tuple[str, ...] = ()) -> list[Case]:
    """Every case, by id, in the order of the files. `paths` limits it to files or folders.

    Raises `LedgerError` when the ledger cannot be read, which cases look into while they are imported, and `UsageError`
    with pytest's own words when a module of cases cannot be imported.
    """
    Ledger.load()
    catcher = _Catcher()
    told = io.StringIO()
    folder = conformance_folder()
    arguments = [
        "--collect-only",
        "-q",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",  # this process has imported the plugin already
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-p",
        "no:xdist",
        "--all-variants",
    ]
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = pytest.main(
            [*arguments, "--rootdir", str(folder.parent), "-c", str(folder.parent / "pyproject.toml")]
            + (list(paths) or [str(folder)])
            if (folder.parent / "pyproject.toml").exists()
            else [*arguments, *(paths or (str(folder),))],
            plugins=[catcher],
        )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        listed, _, errors = told.getvalue().partition("= ERRORS =")
        raise UsageError(f"the cases cannot be collected:\n{(errors or listed).strip('=').strip()}")
    return list(catcher.cases.values())
