"""The adapter of HAProxy: `python -m harness.adapters.haproxy`.

All specs go into one configuration with three listeners, each for as many tunnels as it is asked for:

- `tls`: TLS ends here; a line of the crt-list per set of TLS options, tunnels by server name;
- `http`: the same in HTTP mode, tunnels by Host;
- `pass`: reads the ClientHello, never ends TLS, tunnels by server name;

and with the setting `listener.http` a fourth, plain one, `redirect`, which sends every request to https.

HAProxy has no way to say no to a tunnel: what it cannot express is answered with the feature that it lacks. It is
started without a master process, so that the process that is told is the one that works.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.adapters._process import Child, free_ports
from harness.adapters._program import ProgramAdapter
from harness.adapters._rpc import Result, Trouble
from harness.foreign.lock import program

ADDRESS = "127.0.0.1"
START_SECONDS = 5.0
LISTENERS = ("tls", "http", "pass")
REDIRECT = "redirect"
TLS_VERSIONS = {"tls1.2": "TLSv1.2", "tls1.3": "TLSv1.3"}
TLS12_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""The suites of TLS 1.2 by their names in the IANA registry, as OpenSSL calls them."""
_WORD = re.compile(r"[A-Za-z0-9._/+*-]{1,255}\Z")
"""What needs no quoting in the configuration, an ALPN list or a crt-list."""
_HOST = re.compile(r"[a-z0-9._-]{1,253}\Z")
_LACKING: Mapping[str, str] = {
    "mtls_auth": "tls.mtls",
    "trusted_ips": "policy.trusted-ips",
    "geoip": "policy.geoip",
    "token_auth": "http.token-auth",
    "rstream_auth": "http.rstream-auth",
    "challenge_mode": "http.challenge",
    "datagram_guaranteed_delivery": "private.datagram",
    "port": "tcp",
}
"""Properties that HAProxy has nothing for, where they are set and not false, with the feature they stand for."""
_FREE = frozenset(
    {
        *("protocol", "publish", "type", "name", "hostname", "labels", "allow_cross_region_routing", "upstream_tls"),
        *("http_use_tls", "http_version", "tls_mode", "tls_alpns", "tls_min_version", "tls_ciphers"),
    }
)
"""Properties that are rendered, or that mean nothing to a proxy."""

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


@dataclass(frozen=True)
class Tunnel:
    """One published spec: its listener, its host name, its properties, where its upstream listens."""

    listener: str
    host: str
    properties: Mapping[str, Any]
    upstream: str

    @property
    def alpns(self) -> tuple[str, ...]:
        """The application protocols that the tunnel negotiates from."""
        return tuple(self.properties.get("tls_alpns", ()))

    @property
    def upstream_tls(self) -> bool:
        """Whether HAProxy speaks TLS of its own to the upstream."""
        return bool(self.properties.get("upstream_tls") or self.properties.get("http_use_tls"))


def lacking(properties: Mapping[str, Any]) -> str | None:
    """The feature that HAProxy lacks for a spec with these properties, or `None`."""
    protocol = properties.get("protocol", "http")
    if properties.get("publish") is False:
        return "private"
    if protocol not in ("tls", "http") or properties.get("type") == "datagram":
        return str(protocol)
    for name, value in properties.items():
        if name in _LACKING and value not in (False, [], None):
            return _LACKING[name]
        if name not in _FREE and name not in _LACKING:
            return str(name)
    return _lacking_tls(properties) or (_lacking_http(properties) if protocol == "http" else None)


def _lacking_tls(properties: Mapping[str, Any]) -> str | None:
    if any(not _WORD.match(name) for name in properties.get("tls_alpns", ())):
        return "tls.alpn"
    if properties.get("tls_min_version", "tls1.2") not in TLS_VERSIONS:
        return "tls.min-version"
    if any(name not in TLS12_CIPHERS for name in properties.get("tls_ciphers", ())):
        return "tls.ciphers"
    if properties.get("tls_mode", "terminated") not in ("terminated", "passthrough"):
        return "tls.terminated"
    return None


def _lacking_http(properties: Mapping[str, Any]) -> str | None:
    version = properties.get("http_version", "http/1.1")
    if version != "http/1.1":
        return {"h2c": "http.h2c", "h3": "http.h3"}.get(version, f"http_version {version}")
    if properties.get("tls_mode") == "passthrough":
        return "tls.passthrough"
    return "tls.alpn" if properties.get("tls_alpns") else None


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
        alpns = ("http/1.1",) if tunnel.listener == "http" else tunnel.alpns
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
        tls = " ssl verify none sni ssl_fc_sni alpn h2,http/1.1" if tunnel.upstream_tls else ""
        return [f"backend b{index}", f"  server s {tunnel.upstream}{tls}"]


class HAProxy(ProgramAdapter):
    """HAProxy behind the adapter protocol."""

    name = "HAProxy"
    features = (
        "edge.redirect",
        "http.h1",
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

    def __init__(self, find: Callable[[str], str | None] = program) -> None:
        super().__init__(find)
        self._ports: dict[str, int] = {}
        self._tunnels: dict[str, Tunnel] = {}
        self._retired: list[Child] = []

    def open(self) -> None:
        """Take free ports, with no tunnel. Raises `Trouble`."""
        self._tunnels = {}
        self._start_on_free_ports()

    def addresses(self) -> Result:
        """The plain listener, where it was asked for."""
        return {name: {"address": ADDRESS, "port": port} for name, port in self._ports.items() if name == REDIRECT}

    def _start_on_free_ports(self) -> None:
        """Take ports that are free; where somebody was quicker, the next ones. Raises `Trouble`."""
        tried: set[int] = set()
        problem = "no free port"
        listeners = (*LISTENERS, *([REDIRECT] if self._params["settings"].get("listener.http") else []))
        for _ in range(8):
            found = [port for port, _ in zip(free_ports(self._params["ports"], tried), listeners, strict=False)]
            if len(found) < len(listeners):
                break
            self._ports = dict(zip(listeners, found, strict=True))
            tried |= set(found)
            wrong = self._launch()
            if wrong is None:
                return
            problem = wrong
        raise Trouble(f"haproxy did not start on the ports {dict(self._params['ports'])}: {problem}")

    def _launch(self) -> str | None:
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

    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Add `specs` to the configuration and reload it once."""
        if self._child is None:
            raise Trouble("publish: not started")
        results = [self._take(spec) for spec in specs]
        if any("endpoint" in result for result in results):
            self._reload()
        return results

    def _take(self, spec: Mapping[str, Any]) -> Result:
        properties = spec["properties"]
        missing = lacking(properties)
        host = str(properties.get("hostname") or spec["host"]).lower()
        if missing is None and (not _HOST.match(host) or self._taken(host, spec["key"])):
            missing = "edge.requested-hostname"
        if missing is not None:
            return {"unsupported": missing}
        listener = "pass" if properties.get("tls_mode") == "passthrough" else properties.get("protocol", "http")
        upstream = spec["upstream"]
        self._tunnels[spec["key"]] = Tunnel(listener, host, properties, f"{upstream['address']}:{upstream['port']}")
        return {"endpoint": {"host": host, "address": ADDRESS, "port": self._ports[listener], "transport": "tcp"}}

    def _taken(self, host: str, key: str) -> bool:
        return any(tunnel.host == host and other != key for other, tunnel in self._tunnels.items())

    def _reload(self) -> None:
        wrong = self._launch()
        if wrong is not None:
            raise Trouble(f"haproxy did not take the new configuration: {wrong}")

    def unpublish(self, keys: Sequence[str]) -> None:
        """Take tunnels out of the configuration."""
        gone = [key for key in keys if self._tunnels.pop(key, None) is not None]
        if gone and self._child is not None:
            self._reload()

    def status(self) -> Result:
        """Whether the process runs, and which one it is."""
        running = self._child is not None and self._child.ended() is None
        return {"running": running, "pid": self._child.pid if self._child is not None and running else None}

    def restart(self) -> None:
        """Stop, and start on the same ports."""
        if self._child is None:
            raise Trouble("restart: not started")
        self._child.stop()
        self._child = None
        wrong = self._launch()
        if wrong is not None:
            raise Trouble(f"haproxy did not start again: {wrong}")

    def log(self, lines: int) -> list[str]:
        """The last lines that HAProxy wrote."""
        return list(self._child.log)[-lines:] if self._child is not None and lines > 0 else []

    def shutdown(self) -> None:
        """Stop every process of ours."""
        for child in [*self._retired, *([self._child] if self._child else [])]:
            child.stop()
        self._retired.clear()
        self._child = None


if __name__ == "__main__":
    sys.exit(HAProxy().serve())
