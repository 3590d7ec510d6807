"""The driver of an engine behind an adapter: planned publishing, upstreams on TCP listeners of ours."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from harness.engine.driver import Driver, Endpoint, Incoming, Inexpressible, Published, Refused, Session, UpstreamQueue
from harness.engine.rpc import AdapterError, RpcProcess
from harness.errors import NotSupported, SetupFailed
from harness.link.tcp import TcpListener
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec
from harness.peer.tls_pki import edge_identity
from harness.version import suite_version

PROTOCOL = 1
DOMAIN = "edgecase.test"
PORTS_PER_WORKER = 500
FIRST_PORT = 20_000
"""Below the ephemeral range (32768 on Linux): nothing else binds there by chance."""


@dataclass
class _Plan:
    """One planned publication: its spec, the listener behind it, the engine's answer."""

    spec: TunnelSpec
    listener: TcpListener
    queue: UpstreamQueue = field(default_factory=UpstreamQueue)
    answer: Endpoint | Refused | Inexpressible | None = None
    pump: asyncio.Task[None] | None = None


class AdapterSession(Session):
    """Looks up what was planned for one case, and publishes nothing new."""

    def __init__(self, driver: AdapterDriver, key: str) -> None:
        self._driver = driver
        self._key = key

    async def publish(self, specs: Mapping[str, TunnelSpec]) -> dict[str, Published]:
        """The planned answers for `specs`. Raises `NotSupported` for a spec that was not planned."""
        return {name: self._driver.planned(f"{self._key}/{name}") for name in specs}

    async def close(self) -> None:
        """Reset upstream streams that nobody took."""
        self._driver.reset_streams(self._key)


class AdapterDriver(Driver):
    """Starts the adapter of a profile and asks it, call by call, for what the runner needs. Every answer is checked
    by the schema."""

    dynamic = False

    def __init__(self, profile: Profile, worker: int | None = None) -> None:
        self._profile = profile
        self._timeout = profile.driver.get("timeout_ms", 20_000) / 1000
        self._worker = worker_number() if worker is None else worker
        self._rpc: RpcProcess | None = None
        self._plans: dict[str, _Plan] = {}
        self._version = ""
        self._log: tuple[str, ...] = ()
        self._running = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.can_refuse = False
        self.features: frozenset[str] = frozenset()

    # life

    async def start(self, settings: Settings) -> None:
        """Start the adapter, say hello, start the engine. Raises `SetupFailed`, `NotSupported`."""
        await self.hello()
        self._folder = tempfile.TemporaryDirectory(prefix="edgecase-engine-")
        answer = await self._call("start", self.start_params(settings))
        for key in answer.get("unsupported", []):
            raise NotSupported(str(key))
        self._running = True

    async def hello(self) -> dict[str, Any]:
        """Start the adapter's process and learn what it is. Raises `SetupFailed`."""
        command = [str(part).replace("{python}", sys.executable) for part in self._profile.driver["command"]]
        self._rpc = RpcProcess(command, call_timeout=self._timeout)
        await self._rpc.start()
        answer = await self._call("hello", {"protocol": PROTOCOL, "suite": suite_version()})
        if answer["protocol"] != PROTOCOL:
            raise AdapterError(f"speaks protocol {answer['protocol']}, this suite speaks {PROTOCOL}")
        self.can_refuse = answer["can_refuse"]
        self.features = frozenset(answer["features"])
        self._version = f"{answer['name']} {answer['version']}"[:200]
        return answer

    def start_params(self, settings: Settings) -> dict[str, Any]:
        """What `start` is told: settings, a folder, a port range of this worker, and the edge's certificate."""
        assert self._folder is not None
        folder = Path(self._folder.name)
        identity = edge_identity(DOMAIN)
        paths = identity.write(folder)
        first = FIRST_PORT + self._worker * PORTS_PER_WORKER
        return {
            "settings": dict(settings.items),
            "options": self._profile.driver.get("options", {}),
            "folder": str(folder),
            "domain": DOMAIN,
            "ports": {"first": first, "last": first + PORTS_PER_WORKER - 1},
            "certificate": {name: str(path) for name, path in paths.items()},
        }

    async def restart(self) -> None:
        """Ask the adapter to restart its engine; published specs stay as they were."""
        await self._call("restart", {})

    async def stop(self) -> None:
        """Shut the engine and the adapter down, whatever state they are in."""
        rpc, self._rpc = self._rpc, None
        if rpc is not None:
            if rpc.broken is None and self._running:
                try:
                    await rpc.call("shutdown", timeout=min(self._timeout, 5))
                except SetupFailed as error:
                    rpc.log.append(error.cause)
            await rpc.stop()
            self._log = tuple(rpc.log)
        self._running = False
        for plan in self._plans.values():
            if plan.pump:
                plan.pump.cancel()
                await asyncio.gather(plan.pump, return_exceptions=True)
            await plan.listener.stop()
        self._plans.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # publishing

    async def plan(self, specs: Mapping[str, TunnelSpec]) -> None:
        """Bind an upstream listener per spec and publish all of them in one call. Raises `SetupFailed`."""
        for key, spec in specs.items():
            plan = _Plan(spec, TcpListener())
            await plan.listener.start()
            plan.pump = asyncio.create_task(_fill(plan.listener, plan.queue))
            self._plans[key] = plan
        if not specs:
            return
        asked = [self._request(key, plan) for key, plan in self._plans.items()]
        answer = await self._call("publish", {"specs": asked})
        results = answer["results"]
        if len(results) != len(asked):
            raise AdapterError(f"answered 'publish' of {len(asked)} specs with {len(results)} results")
        for plan, result in zip(self._plans.values(), results, strict=True):
            plan.answer = _answer(result)

    def _request(self, key: str, plan: _Plan) -> dict[str, Any]:
        label = "c" + hashlib.sha256(key.encode()).hexdigest()[:12]
        names = {"label": label, "domain": DOMAIN, "project": "default"}
        properties = {
            name: value.format(**names) if isinstance(value, str) and name in ("hostname", "name") else _plain(value)
            for name, value in plan.spec.properties()
        }
        return {
            "key": key,
            "host": f"{label}.t.{DOMAIN}",
            "properties": properties,
            "upstream": {"address": plan.listener.host, "port": plan.listener.port, "speaks": plan.spec.upstream},
        }

    async def open_session(self, key: str) -> Session:
        """A view of what was planned for this case. Raises `SetupFailed` when the adapter is gone."""
        if self._rpc is None or self._rpc.broken is not None:
            raise SetupFailed(self._rpc.broken if self._rpc and self._rpc.broken else "adapter: not running")
        return AdapterSession(self, key)

    def planned(self, key: str) -> Published:
        """What became of the planned publication `key`. Raises `NotSupported` when nothing like it was planned."""
        plan = self._plans.get(key)
        if plan is None or plan.answer is None:
            raise NotSupported("dynamic publishing")
        return Published(plan.spec, plan.answer, plan.queue)

    def reset_streams(self, key: str) -> None:
        """Reset the upstream streams of the case `key` that nobody took."""
        for name, plan in self._plans.items():
            if name.startswith(f"{key}/"):
                for incoming in plan.queue.drain():
                    incoming.link.abort()

    # state

    def crashed(self) -> str | None:
        """What the adapter's `exited` notification said of the engine."""
        return self._rpc.exited if self._rpc is not None else None

    async def ended(self) -> str | None:
        """Ask the adapter for its engine's state; an adapter that no longer answers is no crash of the engine."""
        if self._rpc is None or self._rpc.exited is not None or self._rpc.broken is not None:
            return self.crashed()
        try:
            state = await self._call("status", {})
        except SetupFailed:
            return self.crashed()
        return self.crashed() or (None if state["running"] else "is not running any more")

    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        """The last lines on the adapter's stderr, which carries the engine's."""
        log = tuple(self._rpc.log) if self._rpc is not None else self._log
        return log[-lines:]

    @property
    def version(self) -> str:
        """Name and version from `hello`."""
        return self._version

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._rpc is not None
        result = await self._rpc.call(method, params)
        problem = check(method, "result", result)
        if problem:
            raise AdapterError(f"answered {method!r} with {problem}")
        answer: dict[str, Any] = result
        return answer


def worker_number() -> int:
    """The number of this pytest-xdist worker, 0 without workers."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name.removeprefix("gw")) if name.removeprefix("gw").isdigit() else 0


def schema() -> dict[str, Any]:
    """The JSON Schema of the adapter protocol, as shipped."""
    text = (resources.files("harness.engine") / "adapter.schema.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def check(method: str, part: str, value: object) -> str | None:
    """What is wrong with the `params` or the `result` of `method`, in one line, or `None`."""
    whole = schema()
    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{method}.{part}", "$defs": whole["$defs"]})
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if error is None:
        return None
    where = ".".join(str(step) for step in error.absolute_path) or part
    return f"{where}: {error.message[:200]}"


def _answer(result: dict[str, Any]) -> Endpoint | Refused | Inexpressible:
    if "endpoint" in result:
        found = result["endpoint"]
        return Endpoint(found["host"], found["address"], found["port"], found.get("transport", "tcp"))
    if "refused" in result:
        refused = result["refused"]
        return Refused(refused.get("code"), refused["message"], refused.get("property"))
    return Inexpressible(result["unsupported"])


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


async def _fill(listener: TcpListener, queue: UpstreamQueue) -> None:
    """Move accepted connections into the tunnel's queue."""
    while True:
        link = await listener.accept()
        queue.put(Incoming(link))
