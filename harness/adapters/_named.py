"""An adapter to a proxy with a few listeners, each for as many tunnels as it is asked for, told apart by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from harness.adapters._process import free_ports
from harness.adapters._program import ProgramAdapter
from harness.adapters._rpc import Result, Trouble
from harness.adapters._spec import HOST, Tunnel, lacking
from harness.foreign.lock import program

ADDRESS = "127.0.0.1"
TLS, HTTP, THROUGH = LISTENERS = ("tls", "http", "pass")
"""TLS ends and octets go on; the same with HTTP; TLS goes through."""
REDIRECT = "redirect"
"""The plain listener of the setting `listener.http`: every request is sent to https."""
TRIES = 8


class NamedTunnels(ProgramAdapter):
    """`listeners` are told apart by port, the tunnels of one listener by name. `versions` of HTTP may stand behind."""

    listeners: Sequence[str] = LISTENERS
    versions: Collection[str]

    def __init__(self, find: Callable[[str], str | None] = program) -> None:
        super().__init__(find)
        self._ports: dict[str, int] = {}
        self._tunnels: dict[str, Tunnel] = {}

    @abstractmethod
    def launch(self) -> str | None:
        """Run the program with the tunnels and the ports of now, in the place of the one that runs; what is wrong, or
        `None`. Sets `_child`."""

    def open(self) -> None:
        """Take free ports, with no tunnel; where somebody was quicker, the next ones. Raises `Trouble`."""
        self._tunnels = {}
        tried: set[int] = set()
        problem = "no free port"
        due = (*self.listeners, *([REDIRECT] if self._params["settings"].get("listener.http") else []))
        for _ in range(TRIES):
            free = free_ports(self._params["ports"], tried, udp=True)
            found = [port for port, _ in zip(free, due, strict=False)]
            if len(found) < len(due):
                break
            self._ports = dict(zip(due, found, strict=True))
            tried |= set(found)
            wrong = self.launch()
            if wrong is None:
                return
            problem = wrong
        raise Trouble(f"{self.binary} did not start on the ports {dict(self._params['ports'])}: {problem}")

    def addresses(self) -> Result:
        """The plain listener, where it was asked for."""
        return {name: {"address": ADDRESS, "port": port} for name, port in self._ports.items() if name == REDIRECT}

    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Add `specs` to the configuration and read it once."""
        if self._child is None:
            raise Trouble("publish: not started")
        results = [self._take(spec) for spec in specs]
        if any("endpoint" in result for result in results):
            self._again("did not take the new configuration")
        return results

    def _take(self, spec: Mapping[str, Any]) -> Result:
        properties = spec["properties"]
        missing = lacking(properties, self.versions)
        host = str(properties.get("hostname") or spec["host"]).lower()
        if missing is None and (not HOST.match(host) or self._taken(host, spec["key"])):
            missing = "edge.requested-hostname"
        if missing is not None:
            return {"unsupported": missing}
        listener = THROUGH if properties.get("tls_mode") == "passthrough" else properties.get("protocol", HTTP)
        upstream = spec["upstream"]
        tunnel = Tunnel(listener, host, properties, f"{upstream['address']}:{upstream['port']}")
        self._tunnels[spec["key"]] = tunnel
        return {"endpoint": self.endpoint(tunnel)}

    def endpoint(self, tunnel: Tunnel) -> Result:
        """Where clients find it."""
        return {"host": tunnel.host, "address": ADDRESS, "port": self._ports[tunnel.listener], "transport": "tcp"}

    def _taken(self, host: str, key: str) -> bool:
        return any(tunnel.host == host and other != key for other, tunnel in self._tunnels.items())

    def unpublish(self, keys: Sequence[str]) -> None:
        """Take tunnels out of the configuration."""
        gone = [key for key in keys if self._tunnels.pop(key, None) is not None]
        if gone and self._child is not None:
            self._again("did not take the new configuration")

    def restart(self) -> None:
        """Stop, and start on the same ports."""
        if self._child is None:
            raise Trouble("restart: not started")
        self._child.stop()
        self._child = None
        self._again("did not start again")

    def _again(self, what: str) -> None:
        wrong = self.launch()
        if wrong is not None:
            raise Trouble(f"{self.binary} {what}: {wrong}")
