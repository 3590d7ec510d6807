"""The adapter of mitmproxy as a reverse proxy: `python -m harness.adapters.mitmproxy`.

mitmproxy routes by port, not by name: each spec becomes a mode of its own on a port of its own, all of them in one
process and one config.yaml.

- `reverse:quic` relays raw QUIC: streams of all kinds, datagrams, the client's application protocols;
- `reverse:tls` ends the client's TLS and opens TLS of its own to the upstream, with what the client offered;
- `reverse:tcp` ends the client's TLS, and the upstream gets the plaintext.

What a mode has no words for (an ALPN list, cipher suites or a version for one tunnel only, a name that is asked for)
is answered with the feature that is missing. Nothing is scripted into mitmproxy: it runs as it is installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.adapters._process import free_ports
from harness.adapters._program import ProgramAdapter
from harness.adapters._rpc import Result, Trouble
from harness.adapters._spec import LACKING
from harness.foreign.lock import program

ADDRESS = "127.0.0.1"
START_SECONDS = 30.0
TRIES = 4
NOWHERE = "tcp://127.0.0.1:1"
"""Where the first listener leads, which is there before any tunnel and belongs to none."""
TLS_VERSIONS = {"tls1.2": "TLS1_2", "tls1.3": "TLS1_3"}
_LACKING: Mapping[str, str] = {
    **LACKING,
    "hostname": "edge.requested-hostname",
    "tls_min_version": "tls.min-version",
    "tls_ciphers": "tls.ciphers",
}
"""Properties that a mode has nothing for, where they are set and not false, with the feature they stand for."""
_FREE = frozenset(
    {"protocol", "publish", "type", "name", "labels", "allow_cross_region_routing", "upstream_tls", "tls_mode"}
)
"""Properties that are rendered, or that mean nothing to a proxy."""
_ALPN_FEATURES = {"quic": "quic.alpn", "tls": "tls.alpn"}
_HANDLED = ("project.tls-min-version", "certificate.key", "domain", "listener.udp")
"""Settings that are rendered, or that the certificate's files fulfil."""


@dataclass(frozen=True)
class Tunnel:
    """One published spec: its scheme (`quic`, `tls`, `tcp`), where its upstream listens, and its own port."""

    scheme: str
    upstream: str
    port: int = 0

    @property
    def mode(self) -> str:
        """The mode as mitmproxy's configuration has it."""
        return f"reverse:{self.scheme}://{self.upstream}@{ADDRESS}:{self.port}"

    @property
    def transport(self) -> str:
        """What its port is for."""
        return "udp" if self.scheme == "quic" else "tcp"


def lacking(properties: Mapping[str, Any]) -> str | None:
    """The feature that mitmproxy lacks for a spec with these properties, or `None`."""
    protocol = properties.get("protocol", "http")
    if properties.get("publish") is False:
        return "private"
    if protocol not in _ALPN_FEATURES:
        return str(protocol)
    if properties.get("type", "") not in ("", "datagram" if protocol == "quic" else "bytestream"):
        return str(protocol)
    if properties.get("tls_alpns"):
        return _ALPN_FEATURES[protocol]
    if properties.get("tls_mode", "terminated") != "terminated":
        return "tls.passthrough"
    if protocol == "quic" and properties.get("upstream_tls") is False:
        return "quic"
    for name, value in properties.items():
        if name in _LACKING and value not in (False, [], None):
            return _LACKING[name]
        if name not in _FREE and name not in _LACKING and name != "tls_alpns":
            return str(name)
    return None


def scheme_of(properties: Mapping[str, Any]) -> str:
    """The scheme of a mode for a spec that lacks nothing."""
    if properties.get("protocol") == "quic":
        return "quic"
    return "tls" if properties.get("upstream_tls") else "tcp"


def configuration(
    door: int, tunnels: Iterable[Tunnel], certificate: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What stands in config.yaml."""
    least = TLS_VERSIONS[str(settings.get("project.tls-min-version", "tls1.2"))]
    return {
        "mode": [f"reverse:{NOWHERE}@{ADDRESS}:{door}", *(tunnel.mode for tunnel in tunnels)],
        "certs": [f"*={certificate['combined']}"],
        "ssl_insecure": True,  # the suite's upstreams show certificates of a CA that nobody trusts
        "tls_version_client_min": least,
        "flow_detail": 0,
        "termlog_verbosity": "info",
    }


class Mitmproxy(ProgramAdapter):
    """mitmproxy behind the adapter protocol."""

    name = "mitmproxy"
    features = (
        "project.tls-min-version",
        "quic",
        "quic.datagrams",
        "tls.1.2",
        "tls.half-close",
        "tls.terminated",
        "tls.upstream",
    )

    binary = "mitmdump"
    version_flag = "--version"
    version_pattern = r"Mitmproxy: (\S+)"
    handled = _HANDLED

    def __init__(self, find: Callable[[str], str | None] = program) -> None:
        super().__init__(find)
        self._door = 0
        self._tunnels: dict[str, Tunnel] = {}

    def open(self) -> None:
        """One listener that leads nowhere, and no tunnel. Raises `Trouble`."""
        self._folder /= "mitmproxy"
        self._folder.mkdir(exist_ok=True)
        self._tunnels = {}
        self._door = 0
        self._settle({})

    def _settle(self, tunnels: Mapping[str, Tunnel]) -> None:
        """Run with `tunnels` beside those that are published, on free ports; where somebody was quicker, on the next
        ones. Raises `Trouble`."""
        door = self._door
        tried: set[int] = set()
        problem = "no free port"
        for _ in range(TRIES):
            # In one step per try: all of the new ones get other ports when one of them was taken.
            free = free_ports(self._params["ports"], tried | self._held(), udp=True)
            needed = len(tunnels) + (not door)
            found = [port for port, _ in zip(free, range(needed), strict=False)]
            if len(found) < needed:
                problem = f"{needed} ports are needed, {len(found)} are free"
                break
            tried |= set(found)
            self._door = door or found.pop()
            placed = {
                key: replace(tunnel, port=port) for (key, tunnel), port in zip(tunnels.items(), found, strict=True)
            }
            wrong = self._launch({**self._tunnels, **placed})
            if wrong is None:
                self._tunnels.update(placed)
                return
            problem = wrong
        raise Trouble(f"mitmproxy did not start on the ports {dict(self._params['ports'])}: {problem}")

    def _held(self) -> set[int]:
        return {self._door, *(tunnel.port for tunnel in self._tunnels.values())}

    def _launch(self, tunnels: Mapping[str, Tunnel]) -> str | None:
        """Start a process for `tunnels` in the place of the one that runs; what is wrong, or `None`."""
        whole = configuration(
            self._door, tunnels.values(), self._params["certificate"], self._params["settings"]
        )  # JSON is YAML, too.
        (self._folder / "config.yaml").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        command = [self._binary, "--set", f"confdir={self._folder}"]
        tcp = [self._door, *(tunnel.port for tunnel in tunnels.values() if tunnel.transport == "tcp")]
        udp = [tunnel.port for tunnel in tunnels.values() if tunnel.transport == "udp"]
        return self.replace(command, tcp, udp, START_SECONDS)

    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Give each of `specs` that can be rendered a mode, and start again with all of them."""
        if self._child is None:
            raise Trouble("publish: not started")
        missing = {spec["key"]: lacking(spec["properties"]) for spec in specs}
        again = [key for key in missing if key in self._tunnels]
        if again:
            raise Trouble(f"publish: {again[0]!r} is published already")
        added = {
            spec["key"]: Tunnel(scheme_of(spec["properties"]), _place(spec["upstream"]))
            for spec in specs
            if missing[spec["key"]] is None
        }
        if added:
            self._settle(added)
        return [self._answer_for(spec, missing[spec["key"]]) for spec in specs]

    def _answer_for(self, spec: Mapping[str, Any], missing: str | None) -> Result:
        if missing is not None:
            return {"unsupported": missing}
        tunnel = self._tunnels[spec["key"]]
        return {
            "endpoint": {
                "host": spec["host"],
                "address": ADDRESS,
                "port": tunnel.port,
                "transport": tunnel.transport,
            }
        }

    def unpublish(self, keys: Sequence[str]) -> None:
        """Take modes away."""
        gone = [key for key in keys if self._tunnels.pop(key, None) is not None]
        if gone and self._child is not None:
            self._again("unpublish")

    def restart(self) -> None:
        """Stop, and start on the same ports."""
        if self._child is None:
            raise Trouble("restart: not started")
        self._again("restart")

    def _again(self, what: str) -> None:
        wrong = self._launch(self._tunnels)
        if wrong is not None:
            raise Trouble(f"{what}: mitmproxy did not start again: {wrong}")


def _place(upstream: Mapping[str, Any]) -> str:
    return f"{upstream['address']}:{upstream['port']}"


if __name__ == "__main__":
    sys.exit(Mitmproxy().serve())
