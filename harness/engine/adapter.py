"""The driver of an engine behind an adapter: planned publishing, upstreams on TCP and UDP listeners of ours."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from harness.engine.driver import Driver, Endpoint, Incoming, Inexpressible, Published, Refused, Session, UpstreamQueue
from harness.engine.probe import carries, reachable
from harness.engine.rpc import LOG_LINE, AdapterError, RpcProcess, one_line
from harness.errors import HelloFailed, NotSupported, SetupFailed
from harness.link.tcp import TcpListener
from harness.link.udp import UdpListener
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec, http, quic, tls
from harness.peer.tls_pki import edge_identity
from harness.version import suite_version

PROTOCOL = 1
DOMAIN = "edgecase.test"
PORTS_PER_WORKER = 500
FIRST_PORT = 20_000
"""Below the ephemeral range (32768 on Linux): nothing else binds there by chance."""
PROBES: Mapping[str, TunnelSpec] = {"tls": tls(), "http": http(), "quic": quic()}
"""What is published next to the cases' specs of a family, to see that the adapter's endpoints lead to the upstream."""
PROBE_SECONDS = 5.0
LOG_LINES = 60
PORT_RANGES = 24
"""How many ranges fit below the ephemeral one; more workers share them, and an adapter looks for free ports anyway."""
DATAGRAM_FAMILIES = ("dtls", "quic")


Answer = Endpoint | Refused | Inexpressible
UpstreamListener = TcpListener | UdpListener


@dataclass
class _Plan:
    """One planned publication: its spec, the listener behind it, the engine's answer."""

    spec: TunnelSpec
    listener: UpstreamListener
    queue: UpstreamQueue = field(default_factory=UpstreamQueue)
    answer: Answer | None = None
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
        self._lost: str | None = None
        self._log: tuple[str, ...] = ()
        self._engine_log: tuple[str, ...] = ()
        self._running = False
        self._within = False
        self._domain = DOMAIN
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.can_refuse = False
        self.addresses: dict[str, tuple[str, int]] = {}
        self.features: frozenset[str] = frozenset()

    # life

    async def start(self, settings: Settings) -> None:
        """Start the adapter, say hello, start the engine. Raises `HelloFailed`, `SetupFailed`, `NotSupported`."""
        try:
            await self.hello()
        except SetupFailed as error:
            raise HelloFailed(error.cause) from error
        self._folder = tempfile.TemporaryDirectory(prefix="edgecase-engine-", ignore_cleanup_errors=True)
        self._domain = str(settings.get("domain", DOMAIN))
        answer = await self._call("start", start_params(self._profile, settings, Path(self._folder.name), self._worker))
        unsupported = answer.get("unsupported", [])
        strange = [key for key in unsupported if settings.get(key) is None]
        if strange:
            raise AdapterError(f"answered 'start' with the unsupported setting {strange[0]!r}, which nobody asked for")
        if unsupported:
            raise NotSupported(f"setting {unsupported[0]}")
        self._running = True
        for name, where in answer.get("addresses", {}).items():
            self.addresses[name] = (where["address"], int(where["port"]))
            wrong = await reachable(Endpoint("", *self.addresses[name]), min(self._timeout, PROBE_SECONDS))
            self._blame(f"named a listener ({name}) where nobody listens", wrong)
        state = await self._call("status", {})
        self._within = state.get("pid") == self._rpc_process().pid

    async def hello(self) -> dict[str, Any]:
        """Start the adapter's process and learn what it is. Raises `SetupFailed`."""
        self._rpc = RpcProcess(command(self._profile), call_timeout=self._timeout)
        await self._rpc.start()
        answer = await self._call("hello", {"protocol": PROTOCOL, "suite": suite_version()})
        if answer["protocol"] != PROTOCOL:
            raise AdapterError(f"speaks protocol {answer['protocol']}, this suite speaks {PROTOCOL}")
        self.can_refuse = answer["can_refuse"]
        self.features = frozenset(answer["features"])
        self._version = one_line(f"{answer['name']} {answer['version']}", 200)
        return answer

    async def restart(self) -> None:
        """Ask the adapter to restart its engine; published specs stay as they were."""
        await self._call("restart", {})
        self._rpc_process().forget_exit()

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
        if specs:
            await self._publish(specs)

    async def _publish(self, specs: Mapping[str, TunnelSpec]) -> None:
        families = {spec.family for spec in specs.values()}
        probes = {f"probe/{family}": spec for family, spec in PROBES.items() if family in families}
        for key, spec in {**specs, **probes}.items():
            plan = _Plan(spec, upstream_listener(spec))
            await plan.listener.start()
            plan.pump = asyncio.create_task(fill(plan.listener, plan.queue))
            self._plans[key] = plan
        asked = [request_of(key, plan.spec, plan.listener, self._domain) for key, plan in self._plans.items()]
        answer = await self._call("publish", {"specs": asked})
        specs_asked = [plan.spec for plan in self._plans.values()]
        for plan, result in zip(self._plans.values(), results_of(answer, asked, specs_asked), strict=True):
            plan.answer = result
        await self._check_endpoints(probes)

    async def _check_endpoints(self, probes: Iterable[str]) -> None:
        """An adapter that names endpoints which lead nowhere is the cause of everything that would follow. Raises
        `SetupFailed`."""
        seconds = min(self._timeout, PROBE_SECONDS)
        seen = set()
        seen_udp = set()
        for key, plan in self._plans.items():
            where = plan.answer
            if isinstance(where, Endpoint) and (where.address, where.port, where.transport) not in seen:
                seen.add((where.address, where.port, where.transport))
                self._blame(f"published {key!r} where nobody listens", await reachable(where, seconds))
            if isinstance(where, Endpoint) and where.udp and (over := where.over_udp()) and where.udp not in seen_udp:
                seen_udp.add(where.udp)
                self._blame(f"published {key!r} where nobody listens on UDP", await reachable(over, seconds))
        for key in probes:
            plan = self._plans[key]
            if isinstance(plan.answer, Endpoint):
                wrong = await carries(plan.answer, plan.spec, plan.queue, seconds)
                about = f"published {key!r} at {plan.answer.address}:{plan.answer.port}, but it does not carry"
                self._blame(about, wrong)

    def _blame(self, about: str, wrong: str | None) -> None:
        if wrong is None:
            return
        if (end := self.crashed()) is not None:
            raise SetupFailed(f"engine: {end} before any case ran")
        raise AdapterError(f"{about}: {wrong}")

    async def open_session(self, key: str) -> Session:
        """A view of what was planned for this case. Raises `SetupFailed` when the adapter is gone."""
        lost = self.lost()
        if lost is not None:
            raise SetupFailed(lost)
        return AdapterSession(self, key)

    def planned(self, key: str) -> Published:
        """What became of the planned publication `key`. Raises `NotSupported` when nothing like it was planned, and
        `AdapterError` when the adapter lacks what the profile claims: that must not pass for a case that is not due."""
        plan = self._plans.get(key)
        if plan is None or plan.answer is None:
            raise NotSupported("dynamic publishing")
        if isinstance(plan.answer, Inexpressible) and plan.answer.feature in self._profile.features:
            raise AdapterError(f"answered that it lacks {plan.answer.feature!r}, which the profile claims")
        plan.queue.clear()
        return Published(plan.spec, plan.answer, plan.queue)

    def reset_streams(self, key: str) -> None:
        """Reset the upstream streams of the case `key` that nobody took."""
        for name, plan in self._plans.items():
            if name.startswith(f"{key}/"):
                for incoming in plan.queue.drain():
                    incoming.flow.abort()

    # state

    def crashed(self) -> str | None:
        """What the adapter's `exited` notification said of the engine, or how the adapter ended where it had told that
        the engine is its own process."""
        if self._rpc is None:
            return None
        return self._rpc.exited or (self._rpc.end if self._within else None)

    async def ended(self) -> str | None:
        """Ask the adapter for its engine's state; an adapter that no longer answers is lost, and no crash of the
        engine."""
        if self._rpc is None or self._rpc.exited is not None or self._rpc.broken is not None:
            return self.crashed()
        try:
            state = await self._call("status", {})
            self._engine_log = tuple(one_line(line, LOG_LINE) for line in await self._engine_lines())
        except SetupFailed as error:
            self._lost = error.cause
            return self.crashed()
        return self.crashed() or (None if state["running"] else "is not running any more")

    async def _engine_lines(self) -> list[str]:
        lines: list[str] = (await self._call("log", {"lines": LOG_LINES}))["lines"]
        return lines[-LOG_LINES:]

    def lost(self) -> str | None:
        """Why the adapter can't be asked any more, or did not answer when it was asked last."""
        return self._rpc_process().broken or self._lost if self._rpc is not None else "adapter: not running"

    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        """The last lines of the engine's log as the adapter gave it when it was last asked, else of its stderr."""
        log = tuple(self._rpc.log) if self._rpc is not None else self._log
        return (self._engine_log or log)[-lines:] if lines > 0 else ()

    @property
    def version(self) -> str:
        """Name and version from `hello`."""
        return self._version

    def _rpc_process(self) -> RpcProcess:
        assert self._rpc is not None, "call start() first"
        return self._rpc

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        result = await self._rpc_process().call(method, params)
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
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except RecursionError:
        return f"{part}: nested too deeply"
    if error is None:
        return None
    where = ".".join(str(step) for step in error.absolute_path) or part
    return f"{where}: {one_line(error.message, 200)}"


def command(profile: Profile) -> list[str]:
    """The adapter's command line; `{python}` is this interpreter."""
    return [str(part).replace("{python}", sys.executable) for part in profile.driver["command"]]


def start_params(profile: Profile, settings: Settings, folder: Path, worker: int) -> dict[str, Any]:
    """What `start` is told: settings, a folder, a port range of this worker, and the edge's certificate."""
    domain = str(settings.get("domain", DOMAIN))
    identity = edge_identity(domain, kind=str(settings.get("certificate.key", "ecdsa")))
    first = FIRST_PORT + worker % PORT_RANGES * PORTS_PER_WORKER
    return {
        "settings": dict(settings.items),
        "options": profile.driver.get("options", {}),
        "folder": str(folder),
        "domain": domain,
        "ports": {"first": first, "last": first + PORTS_PER_WORKER - 1},
        "certificate": {name: str(path) for name, path in identity.write(folder).items()},
    }


def upstream_listener(spec: TunnelSpec) -> UpstreamListener:
    """What listens behind a tunnel with this spec, not started yet: a UDP port where it carries packets."""
    return UdpListener() if spec.datagrams else TcpListener()


def request_of(key: str, spec: TunnelSpec, listener: UpstreamListener, domain: str = DOMAIN) -> dict[str, Any]:
    """One item of `publish`: `spec` under a name made from `key`, with `listener` as its upstream."""
    label = "c" + hashlib.sha256(key.encode()).hexdigest()[:12]
    names = {"label": label, "domain": domain, "project": "default"}
    properties = {
        name: value.format(**names) if isinstance(value, str) and name in ("hostname", "name") else _plain(value)
        for name, value in spec.properties()
    }
    # Whoever asks for packets and says nothing of what takes them gets them as they are.
    speaks = "udp" if spec.datagrams and spec.upstream == "tcp" else spec.upstream
    return {
        "key": key,
        "host": f"{label}.t.{domain}",
        "properties": properties,
        "upstream": {"address": listener.host, "port": listener.port, "speaks": speaks},
    }


def results_of(
    answer: Mapping[str, Any], asked: Sequence[Mapping[str, Any]], specs: Sequence[TunnelSpec]
) -> list[Answer]:
    """The results of `publish`, which must be as many as were `asked` for, and could be true: each under its own name,
    no two at one place, over the transport of its family. Raises `AdapterError`."""
    results = answer["results"]
    if len(results) != len(asked):
        raise AdapterError(f"answered 'publish' of {len(asked)} specs with {len(results)} results")
    names = {name: item["key"] for item in asked for name in _names(item)}
    taken: dict[tuple[str, str, int, str], str] = {}
    answers = []
    for item, spec, result in zip(asked, specs, results, strict=True):
        found = _answer(result)
        if isinstance(found, Endpoint):
            wrong = _contradiction(item, spec, found, names, taken)
            if wrong:
                raise AdapterError(f"published {item['key']!r} {wrong}")
        answers.append(found)
    return answers


def _names(item: Mapping[str, Any]) -> set[str]:
    return {str(name).lower() for name in (item["host"], item["properties"].get("hostname")) if name}


def _contradiction(
    item: Mapping[str, Any],
    spec: TunnelSpec,
    found: Endpoint,
    names: Mapping[str, str],
    taken: dict[tuple[str, str, int, str], str],
) -> str:
    """What makes this endpoint impossible next to the others, or nothing."""
    host = found.host.lower()
    if host in names and host not in _names(item):
        return f"under the name of {names[host]!r}: the results must stand in the order of the specs"
    place = (host, found.address, found.port, found.transport)
    if place in taken:
        return f"at the same place as {taken[place]!r}"
    taken[place] = item["key"]
    due = "udp" if spec.family in DATAGRAM_FAMILIES else "tcp"
    return "" if found.transport == due else f"over {found.transport}, and {spec.family} runs over {due}"


def _answer(result: dict[str, Any]) -> Answer:
    if "endpoint" in result:
        found = result["endpoint"]
        # 8080.0 is an integer to JSON Schema.
        udp = (found["address"], int(found["udp_port"])) if "udp_port" in found else None
        return Endpoint(found["host"], found["address"], int(found["port"]), found.get("transport", "tcp"), udp=udp)
    if "refused" in result:
        refused = result["refused"]
        return Refused(refused.get("code"), one_line(refused["message"]), refused.get("property"))
    return Inexpressible(one_line(result["unsupported"]))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


async def fill(listener: UpstreamListener, queue: UpstreamQueue) -> None:
    """Move accepted connections, or UDP flows, into the tunnel's queue."""
    while True:
        queue.put(Incoming(await listener.accept()))
