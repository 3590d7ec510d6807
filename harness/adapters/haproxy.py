"""The adapter of HAProxy: `python -m harness.adapters.haproxy`.

All specs go into one configuration with three listeners, each for as many tunnels as it is asked for:

- `tls`: TLS ends here; a line of the crt-list per set of TLS options, tunnels by server name;
- `http`: the same in HTTP mode, HTTP/1.1 and HTTP/2 by ALPN, tunnels by Host or `:authority`;
- `pass`: reads the ClientHello, never ends TLS, tunnels by server name;

and with the setting `listener.http` a fourth, plain one, `redirect`, which sends every request to https.

HAProxy has no way to say no to a tunnel: what it cannot express is answered with the feature that it lacks. It is
started without a master process, so that the process that is told is the one that works.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.adapters._named import ADDRESS, LISTENERS, REDIRECT, NamedTunnels
from harness.adapters._process import Child
from harness.adapters._spec import TLS12_CIPHERS, Tunnel
from harness.foreign.lock import program

START_SECONDS = 5.0
TLS_VERSIONS = {"tls1.2": "TLSv1.2", "tls1.3": "TLSv1.3"}

# How a setting is said to HAProxy: section (a listener's `defaults` or `global`) and directive.
_SETTINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    # A connection without its first request is idle, too, and HAProxy has one clock for that and for the fields.
    "timeout.http-idle-ms": (("http", "timeout http-keep-alive {value}ms"), ("http", "timeout http-request {value}ms")),
    "timeout.http-header-ms": (("http", "timeout http-request {value}ms"),),
    "timeout.http-response-ms": (("http", "timeout server {value}ms"),),
    "timeout.close-ms": (("tcp", "timeout client-fin {value}ms"), ("tcp", "timeout server-fin {value}ms")),
    "limit.http-header-count": (("global", "tune.http.maxhdr {value}"),),
}
_HANDLED = ("project.tls-min-version", "certificate.key", "domain", "limit.http-header-bytes", "listener.http")
_DEFAULTS = {
    "tcp": {"timeout connect": "3s", "timeout client": "1h", "timeout server": "1h"},
    "http": {
        "timeout connect": "3s",
        "timeout client": "60s",
        "timeout server": "60s",
        "timeout tunnel": "1h",
        "timeout http-request": "10s",
        "timeout http-keep-alive": "60s",
    },
}
MAX_REWRITE = 1024


class Configuration:
    """Renders the files of HAProxy: pure, apart from `write`."""

    def __init__(self, folder: Path, certificate: str, ports: Mapping[str, int], settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._certificate = certificate
        self._ports = ports
        self._settings = settings

    def write(self, tunnels: Iterable[Tunnel]) -> Path:
        """Put everything into the folder; the path of the configuration."""
        chosen = list(tunnels)
        for listener in LISTENERS:
            own = [(index, tunnel) for index, tunnel in enumerate(chosen) if tunnel.listener == listener]
            self._path(f"{listener}.map").write_text(
                "".join(f"{tunnel.host} b{index}\n" for index, tunnel in own), encoding="ascii"
            )
            if listener != "pass":
                lines = self.crt_list([tunnel for _, tunnel in own])
                self._path(f"{listener}.crtlist").write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        main = self._path("haproxy.cfg")
        main.write_text("\n".join(self.render(chosen)) + "\n", encoding="ascii")
        return main

    def _path(self, name: str) -> Path:
        return self._folder / name

    def crt_list(self, tunnels: Sequence[Tunnel]) -> list[str]:
        """A line per set of TLS options, with the server names that it is for; never empty."""
        names: dict[str, list[str]] = defaultdict(list)
        for tunnel in tunnels:
            names[self._tls_options(tunnel)].append(tunnel.host)
        if not names:
            names["ssl-min-ver TLSv1.2"] = ["nobody.invalid"]
        return [f"{self._certificate} [{options}] {' '.join(hosts)}" for options, hosts in sorted(names.items())]

    def _tls_options(self, tunnel: Tunnel) -> str:
        least = max(
            str(tunnel.properties.get("tls_min_version", "tls1.2")),
            str(self._settings.get("project.tls-min-version", "tls1.2")),
        )
        options = [f"ssl-min-ver {TLS_VERSIONS[least]}"]
        alpns = ("h2", "http/1.1") if tunnel.listener == "http" else tunnel.alpns
        if alpns:
            options.append(f"alpn {','.join(alpns)}")
        ciphers = [TLS12_CIPHERS[name] for name in tunnel.properties.get("tls_ciphers", ())]
        if ciphers:
            options.append(f"ciphers {':'.join(ciphers)}")
        return " ".join(options)

    def render(self, tunnels: Sequence[Tunnel]) -> list[str]:
        """The lines of haproxy.cfg."""
        lines = [*self._global(), *self._defaults("tcp"), *self._tls_front(), *self._passthrough_front()]
        for index, tunnel in enumerate(tunnels):
            if tunnel.listener != "http":
                lines += self._tcp_back(index, tunnel)
        lines += [*self._defaults("http"), *self._http_front()]
        for index, tunnel in enumerate(tunnels):
            if tunnel.listener == "http":
                lines += self._http_back(index, tunnel)
        if REDIRECT in self._ports:
            lines += ["frontend redirect", self._bind(REDIRECT), "  http-request redirect scheme https code 308"]
        return lines

    def _said(self, section: str) -> dict[str, str]:
        """The directives of `section` that settings ask for."""
        said = {}
        # In the order of the table: where two settings share a clock, the later one is the more particular.
        for key, rules in _SETTINGS.items():
            for where, text in rules:
                if where == section and key in self._settings:
                    name, _, rest = text.format(value=self._settings[key]).rpartition(" ")
                    said[name] = rest
        return said

    def _global(self) -> list[str]:
        lines = ["global", "  maxconn 4000", "  noreuseport", "  log stderr format raw daemon info"]
        lines += [f"  {name} {value}" for name, value in self._said("global").items()]
        head = self._settings.get("limit.http-header-bytes")
        if head is not None:
            lines += [f"  tune.bufsize {int(head) + MAX_REWRITE}", f"  tune.maxrewrite {MAX_REWRITE}"]
        return lines

    def _defaults(self, mode: str) -> list[str]:
        values = {**_DEFAULTS[mode], **self._said(mode)}
        lines = [f"defaults {mode}", f"  mode {mode}", "  log global", f"  option {mode}log", "  retries 0"]
        if mode == "http":
            # Without it the preface of HTTP/2 is taken on any connection, whatever ALPN selected.
            lines.append("  option disable-h2-upgrade")
        return lines + [f"  {name} {value}" for name, value in values.items()]

    def _bind(self, listener: str) -> str:
        plain = f"  bind {ADDRESS}:{self._ports[listener]}"
        return (
            plain
            if listener in ("pass", REDIRECT)
            else f"{plain} ssl crt-list {self._path(f'{listener}.crtlist')} strict-sni"
        )

    def _tls_front(self) -> list[str]:
        table = self._path("tls.map")
        return ["frontend tls", self._bind("tls"), f"  use_backend %[ssl_fc_sni,lower,map({table})]"]

    def _passthrough_front(self) -> list[str]:
        return [
            "frontend pass",
            self._bind("pass"),
            "  tcp-request inspect-delay 5s",
            "  tcp-request content accept if { req.ssl_hello_type 1 }",
            "  tcp-request content reject",
            f"  use_backend %[req.ssl_sni,lower,map({self._path('pass.map')})]",
        ]

    def _http_front(self) -> list[str]:
        backend = f"req.hdr(host),host_only,lower,map({self._path('http.map')})"
        return [
            "frontend http",
            self._bind("http"),
            f"  http-request return status 404 unless {{ {backend} -m found }}",
            f"  use_backend %[{backend}]",
        ]

    def _tcp_back(self, index: int, tunnel: Tunnel) -> list[str]:
        lines = [f"backend b{index}"]
        if not tunnel.upstream_tls:
            return [*lines, f"  server s {tunnel.upstream}"]
        # The protocol that the client got is the only one that the upstream is offered, else the whole list is.
        own = f"{tunnel.upstream} ssl verify none sni ssl_fc_sni"
        for number, name in enumerate(tunnel.alpns):
            lines.append(f"  use-server s{number} if {{ ssl_fc_alpn -m str {name} }}")
        lines.append("  use-server s unless { ssl_fc_alpn -m found }")
        lines += [f"  server s{number} {own} alpn {name}" for number, name in enumerate(tunnel.alpns)]
        whole = f" alpn {','.join(tunnel.alpns)}" if tunnel.alpns else ""
        return [*lines, f"  server s {own}{whole}"]

    def _http_back(self, index: int, tunnel: Tunnel) -> list[str]:
        how = " proto h2" if tunnel.http_version == "h2c" else ""
        if tunnel.upstream_tls:
            how = " ssl verify none sni ssl_fc_sni alpn h2,http/1.1"
        return [f"backend b{index}", f"  server s {tunnel.upstream}{how}"]


class HAProxy(NamedTunnels):
    """HAProxy behind the adapter protocol."""

    name = "HAProxy"
    features = (
        "edge.redirect",
        "http.downstream-h2",
        "http.h1",
        "http.h2c",
        "http.interim",
        "http.trailers",
        "http.upgrade",
        "http.upstream-tls",
        "project.tls-min-version",
        "tls.1.2",
        "tls.alpn",
        "tls.ciphers",
        "tls.half-close",
        "tls.min-version",
        "tls.passthrough",
        "tls.terminated",
        "tls.upstream",
    )

    binary = "haproxy"
    version_flag = "-v"
    version_pattern = r"version (\S+)"
    handled = frozenset({*_SETTINGS, *_HANDLED})
    versions = ("http/1.1", "h2c")

    def __init__(self, find: Callable[[str], str | None] = program) -> None:
        super().__init__(find)
        self._retired: list[Child] = []

    def launch(self) -> str | None:
        """Start a process with the configuration of now, in the place of the one that runs; what is wrong, or `None`.

        The old process keeps its connections and stops listening (`-sf`).
        """
        certificate = self._params["certificate"]["combined"]
        configuration = Configuration(self._folder, certificate, self._ports, self._params["settings"])
        command = [self._binary, "-db", "-f", str(configuration.write(self._tunnels.values()))]
        old = self._child
        if old is not None:
            command += ["-sf", str(old.pid)]
            old.disown()
        child = Child(command, folder=self._folder, on_exit=self.exited, announce=False)
        wrong = child.await_ports(self._ports.values(), START_SECONDS, besides=old.pid if old else None)
        if wrong is not None:
            child.stop()
            if old is not None:
                old.announce()
            return wrong
        child.announce()
        if old is not None:
            self._retired.append(old)
        self._child = child
        return None

    def shutdown(self) -> None:
        """Stop every process of ours."""
        super().shutdown()
        for child in self._retired:
            child.stop()
        self._retired.clear()


if __name__ == "__main__":
    sys.exit(HAProxy().serve())
