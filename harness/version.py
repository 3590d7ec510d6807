"""The suite's version, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def suite_version() -> str:
    """The version of the distribution `edgecase`, or `unknown` in a tree that was never installed."""
    try:
        return version("edgecase")
    except PackageNotFoundError:
        return "unknown"
