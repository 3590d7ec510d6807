"""What came out, for people and for programs."""

from __future__ import annotations

import os
import platform
import ssl
import textwrap
from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL

from harness.bench.benchmarks import COLUMNS, IDLE, SUITE, Result
from harness.version import suite_version

NOISY = "Rates and durations of a shared machine are noisy; the ratios of samples taken in turn are less so."
_TITLES = ("benchmark", "unit", *COLUMNS, "engine/direct", "engine/bare", "CPU/bare", "engine CPU")
_MEANING = {
    "engine": """client, engine, agent with the upstream inside, each a process of its own; the median of the samples,
with half their span""",
    "direct": "the same client and upstream with one TLS connection between them, without engine and agent",
    "bare": """a relay of the same libraries without any rule between client and upstream, TLS on both sides (in place
of a passthrough tunnel: the client's own TLS, inside the relay's)""",
    "CPU/bare": """the processor time that the engine needs for one unit, as a multiple of the bare relay's: what other
tenants of the machine disturb least; less is better""",
    "engine CPU": """the share of one core that the engine's process used: near 100 % the engine is the limit, below it
the load is""",
}
_NO_BARE = "not measured: the bare relay is part of a checkout (tests/bench/relay.py), not of an installed copy"


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "openssl_engine": SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace"),
        "openssl_load": ssl.OPENSSL_VERSION,
    }


def as_json(results: Sequence[Result], *, engine: str, seconds: float) -> dict[str, Any]:
    """Everything, for `json.dump`."""
    return {
        "results": [result.as_json() for result in results],
        "engine": engine,
        "seconds": seconds,
        "machine": machine(),
        "suite_version": suite_version(),
    }


def as_text(results: Sequence[Result], *, engine: str, seconds: float, bare: bool) -> str:
    """The table, with what its columns mean."""
    about = machine()
    rows = [_TITLES, *(_row(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{engine}; samples of {seconds:g} s, in turn"]
    lines.append(f"{about['cores']} cores, {about['system']}, Python {about['python']}")
    lines.append(f"{about['openssl_engine']} (bare relay, reference engine), {about['openssl_load']} (load)")
    lines += ["", *("  ".join(_cells(row, widths)).rstrip() for row in rows), ""]
    for column, meaning in _MEANING.items():
        if not bare and column == "CPU/bare":
            continue
        text = " ".join((meaning if bare or column != "bare" else _NO_BARE).split())
        lines += textwrap.wrap(f"{column}: {text}", 120, subsequent_indent="  ")
    lines += [_note(result) for result in results if result.name in (IDLE, SUITE)]
    return "\n".join([*lines, NOISY])


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [
        cell.ljust(width) if at < 2 else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _row(result: Result) -> tuple[str, ...]:
    busy = result.busy("engine", "engine")
    return (
        result.name,
        result.unit,
        *(_value(result, column) for column in COLUMNS),
        *("-" if (ratio := result.ratio(other)) is None else f"{ratio:.2f}" for other in ("direct", "bare")),
        "-" if (cost := result.cost()) is None else f"{cost:.2f}",
        "-" if busy is None else f"{busy:.0%}",
    )


def _value(result: Result, column: str) -> str:
    median = result.median(column)
    if median is None:
        return "-"
    number = f"{median:.0f}" if median >= 100 else f"{median:.3g}"
    spread = result.spread(column)
    if result.name == SUITE or len(result.values[column]) < 2 or spread is None:
        return number
    return f"{number} ±{spread:.0%}"


def _note(result: Result) -> str:
    if result.name == IDLE:
        about = f"{result.extra['agents']} agents with a tunnel each; bare: as many TLS connections"
    else:
        low, _, high = result.extra["quartiles"]
        about = f"{len(result.values['engine'])} cases, half of them from {low:.3g} to {high:.3g} ms"
    return f"{result.name}: {about}; less is better"
