"""What is measured, and what came out of it: data only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.bench import pairs
from harness.model.spec import TunnelSpec

COLUMNS = ("engine", "direct", "bare")
SPECS: dict[str, TunnelSpec] = {
    "stream": TunnelSpec(protocol="tls", tls_mode="terminated"),
    "inner": TunnelSpec(protocol="tls", tls_mode="passthrough"),
    "http": TunnelSpec(protocol="http", http_version="http/1.1"),
    "h2c": TunnelSpec(protocol="http", http_version="h2c"),
    "h3": TunnelSpec(protocol="http", http_version="h3"),
    "quic": TunnelSpec(protocol="quic", tls_alpns=("edgecase-bench",)),
}
"""The tunnel in front of each mode of the upstream."""
IDLE = "idle-memory"
SUITE = "case-median"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One line of the table. `action` is the client's, `mode` what stands behind the tunnel, `bare` the mode of the
    bare relay, empty where there is none; all three are empty where no load is sampled. `link` is what the agent's link
    runs on. `less` says that less is better, `tool` which program of others must be on the path; `down` is the client's
    version of HTTP (`h1`, `h2`, `h3`) where the benchmark is about a pair of them."""

    name: str
    unit: str
    text: str
    action: str = ""
    mode: str = ""
    bare: str = ""
    less: bool = False
    tool: str = ""
    link: str = "tls"
    down: str = ""

    @property
    def features(self) -> frozenset[str]:
        """What a profile must claim."""
        spec = SPECS.get(self.mode)
        link = () if self.link == "tls" else (f"agent.{self.link}",)
        return frozenset((*(spec.features() if spec else ()), *link, *pairs.FEATURES.get(self.down, ())))

    @property
    def direct(self) -> str:
        """The mode of the upstream that the client reaches without a tunnel: TLS once, whatever the tunnel does, and
        its own version of HTTP."""
        if self.down:
            return pairs.MODES[self.down]
        return "stream" if self.mode == "inner" else self.mode


_NAMES = {"h1": "HTTP/1.1", "h2": "HTTP/2", "h2c": "h2c", "h3": "HTTP/3"}
BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "tls-terminated-download", "MB/s", "octets from the upstream, TLS ended at the engine", "down", "stream", "tls"
    ),
    Benchmark(
        "tls-terminated-upload", "MB/s", "octets to the upstream, TLS ended at the engine", "up", "stream", "tls"
    ),
    Benchmark("tls-passthrough-download", "MB/s", "octets from the upstream, TLS ended there", "down", "inner", "raw"),
    Benchmark("tls-passthrough-upload", "MB/s", "octets to the upstream, TLS ended there", "up", "inner", "raw"),
    Benchmark(
        "tls-connections",
        "1/s",
        "new connections with a full handshake, twelve octets each way, and a clean end",
        "connections",
        "stream",
        "tls",
    ),
    Benchmark("http1-requests", "1/s", "small requests on 8 kept connections", "requests", "http", "http"),
    Benchmark(
        "http1-requests-h2load",
        "1/s",
        "small requests on 8 kept connections, by h2load",
        "h2load",
        "http",
        "http",
        tool="h2load",
    ),
    Benchmark("http1-round-trips", "1/s", "small requests on one kept connection", "round-trips", "http", "http"),
    Benchmark("http1-download", "MB/s", "responses of 16 MiB", "http-down", "http", "http"),
    Benchmark("http1-upload", "MB/s", "requests with content of 16 MiB", "http-up", "http", "http"),
    *(
        Benchmark(
            f"http-{down}-{up}{bulk}",
            "MB/s" if bulk else "1/s",
            f"{'content of 1 MiB each way' if bulk else 'small requests, 8 under way'}, {_NAMES[down]} to {_NAMES[up]}",
            "requests" if (down, bulk) == ("h1", "") else f"{down}{bulk}",
            pairs.MODES[up],
            f"{down}-{up}",
            down=down,
        )
        for bulk in ("", "-bulk")
        for down in pairs.DOWN
        for up in pairs.UP
    ),
    *(
        Benchmark(name.format(prefix), unit, f"{text}{on}", action, "quic", less=less, link=link)
        for prefix, link, on in (("quic", "tls", ""), ("quic-link", "quic", ", the agent on QUIC"))
        for name, unit, text, action, less in (
            ("{}-download", "MB/s", "octets from the upstream on one QUIC stream", "quic-down", False),
            ("{}-upload", "MB/s", "octets to the upstream on one QUIC stream", "quic-up", False),
            ("{}-datagrams", "1/s", "datagrams of 1,000 octets there and back, 32 under way", "quic-datagrams", False),
            ("{}-connections", "1/s", "QUIC connections with twelve octets each way", "quic-connections", False),
            ("{}-handshake", "ms", "the handshake of a QUIC client, the median", "quic-handshake", True),
        )
    ),
    Benchmark(IDLE, "MB", "the engine's resident memory with idle agents, each with a tunnel", bare="hold", less=True),
    Benchmark(SUITE, "ms", "the median duration of a case of the suite, one worker", less=True),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark gave: by column the values in the order in which they were sampled, and for each sample the
    share of one core that each process used. A column that does not apply has no values."""

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]
    cpu: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    less: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def median(self, column: str) -> float | None:
        """The median of a column."""
        values = self.values.get(column)
        return statistics.median(values) if values else None

    def spread(self, column: str) -> float | None:
        """Half the distance between the largest and the smallest value of a column, as a share of its median."""
        values, median = self.values.get(column), self.median(column)
        return (max(values) - min(values)) / 2 / median if values and median else None

    def ratio(self, other: str) -> float | None:
        """Engine to `other`: the median of the ratios of samples that were taken one after the other."""
        pairs = list(zip(self.values.get("engine", ()), self.values.get(other, ()), strict=False))
        return statistics.median(ours / theirs for ours, theirs in pairs) if pairs else None

    def busy(self, column: str, process: str) -> float | None:
        """The median share of one core that a process used in the samples of a column."""
        shares = [sample[process] for sample in self.cpu.get(column, ()) if process in sample]
        return statistics.median(shares) if shares else None

    def cost(self) -> float | None:
        """The processor time that the engine needs for one unit, as a multiple of what the bare relay needs: other
        tenants of the machine disturb it least."""
        ours, theirs = self._per_unit("engine", "engine"), self._per_unit("bare", "relay")
        return ours / theirs if ours and theirs else None

    def _per_unit(self, column: str, process: str) -> float | None:
        samples = zip(self.cpu.get(column, ()), self.values.get(column, ()), strict=False)
        costs = [shares[process] / rate for shares, rate in samples if process in shares]
        return statistics.median(costs) if costs else None

    def as_json(self) -> dict[str, Any]:
        """Name, unit, the median by column (null: does not apply), and the number of samples; then what more there is
        to know."""
        return {
            "name": self.name,
            "unit": self.unit,
            **{column: _rounded(self.median(column)) for column in COLUMNS},
            "samples": len(self.values.get("engine", ())),
            "less_is_better": self.less,
            "engine_to_direct": _rounded(self.ratio("direct")),
            "engine_to_bare": _rounded(self.ratio("bare")),
            "cpu_engine_to_bare": _rounded(self.cost()),
            "spread": {column: _rounded(self.spread(column)) for column in COLUMNS},
            "values": {column: [_rounded(value) for value in self.values.get(column, ())] for column in COLUMNS},
            "cpu": {
                column: {name: _rounded(self.busy(column, name)) for name in sorted({k for one in shares for k in one})}
                for column, shares in self.cpu.items()
            },
            **self.extra,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
