"""The doctor's checks of an adapter: every method of the protocol, and the ways in which an adapter can lie."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.doctor import Exam, Step, Wrong, advice_for, nonsense, told, unknown_features
from harness.engine.adapter import (
    PROTOCOL,
    UpstreamListener,
    check,
    command,
    fill,
    request_of,
    results_of,
    start_params,
    upstream_listener,
)
from harness.engine.driver import Endpoint, Inexpressible, Refused, UpstreamQueue
from harness.engine.probe import carries, reachable
from harness.engine.rpc import METHOD_NOT_FOUND, AdapterError, RpcProcess
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec, http, quic, tls
from harness.version import suite_version

WORKER = 9
"""Takes its ports from a range that a running suite with up to nine workers does not use."""
SPECS: Mapping[str, TunnelSpec] = {
    "tls": tls(),
    "tls-2": tls(),
    "upstream": tls(upstream_tls=True),
    "passthrough": tls(tls_mode="passthrough"),
    "http": http(),
}
CLAIMED: Mapping[str, TunnelSpec] = {"quic": quic()}
"""What is published besides, by an adapter that claims what it needs."""


@dataclass
class _Tunnel:
    """One published spec: the listener behind it and what the adapter answered."""

    spec: TunnelSpec
    listener: UpstreamListener
    queue: UpstreamQueue = field(default_factory=UpstreamQueue)
    answer: Endpoint | Refused | Inexpressible | None = None
    pump: asyncio.Task[None] | None = None


class AdapterExam(Exam):
    """Asks one adapter everything that the suite would."""

    def __init__(self, profile: Profile, features: frozenset[str], timeout: float, folder: Path) -> None:
        super().__init__(profile, features, timeout)
        self._folder = folder
        self._rpc = RpcProcess(command(profile), call_timeout=timeout)
        self._claimed: frozenset[str] = frozenset()
        self._tunnels: dict[str, _Tunnel] = {}

    def steps(self) -> Sequence[Step]:
        """In the order in which the suite would ask."""
        return [
            ("process", self.check_process),
            ("hello", self.check_hello),
            ("features", self.check_features),
            ("unknown method", self.check_unknown_method),
            ("unknown setting", self.check_unknown_setting),
            ("start", self.check_start),
            ("unknown protocol", self.check_unknown_protocol),
            ("unknown property", self.check_unknown_property),
            ("publish", self.check_publish),
            ("endpoints", self.check_endpoints),
            ("traffic", self.check_traffic),
            ("unpublish", self.check_unpublish),
            ("log", self.check_log),
            ("status", self.check_status),
            ("restart", self.check_restart),
            ("exited", self.check_exited),
            ("shutdown", self.check_shutdown),
            ("nothing left", self.check_nothing_left),
        ]

    def gone(self) -> bool:
        """Whether the adapter can't be asked any more."""
        return self._rpc.broken is not None or self._rpc.pid == 0

    async def close(self) -> None:
        """End the adapter with everything that it started, and our listeners."""
        await self._rpc.stop()
        for tunnel in self._tunnels.values():
            await _drop(tunnel)

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of `method`, as the schema has it. Raises `AdapterError`, `Wrong`."""
        result = await self._rpc.call(method, params)
        problem = check(method, "result", result)
        if problem:
            raise Wrong(
                f"the answer to {method!r} is not as agreed: {problem}", f"see {method}.result in adapter.schema.json"
            )
        answer: dict[str, Any] = result
        return answer

    # life

    async def check_process(self) -> str:
        """The command starts."""
        await self._rpc.start()
        return " ".join(command(self.profile))

    async def check_hello(self) -> str:
        """`hello` is as agreed, and of our protocol version."""
        try:
            answer = await self._call("hello", {"protocol": PROTOCOL, "suite": suite_version()})
        except AdapterError as error:
            raise Wrong(error.cause, advice_for(error.cause), fatal=True) from error
        except Wrong as wrong:
            raise Wrong(wrong.found, wrong.advice, fatal=True) from wrong
        if answer["protocol"] != PROTOCOL:
            raise Wrong(
                f"it speaks protocol {answer['protocol']}, this suite speaks {PROTOCOL}",
                "take the release of the adapter that fits this suite",
                fatal=True,
            )
        self._claimed = frozenset(answer["features"])
        return f"{answer['name']} {answer['version']}, {len(self._claimed)} features"

    async def check_features(self) -> str:
        """Known names, and the profile claims no more than the adapter."""
        unknown_features(self._claimed, self.features, "the adapter")
        more = sorted(self.profile.features & self.features - self._claimed)
        if more:
            raise Wrong(
                f"the profile claims what the adapter does not: {', '.join(more[:8])}",
                "take it out of the profile, or add it to the adapter's hello",
            )
        return ""

    async def check_unknown_method(self) -> str:
        """A method that does not exist is answered with -32601: silence or an ok would hide every mistake."""
        method = nonsense()
        try:
            await self._rpc.call(method, {})
        except AdapterError as error:
            if error.code == METHOD_NOT_FOUND:
                return "error -32601"
            if error.code is None:
                raise
            raise Wrong(
                f"{method!r} was answered with error {error.code}", "answer unknown methods with -32601"
            ) from error
        raise Wrong(f"{method!r} was answered with a result", "answer unknown methods with error -32601")

    async def check_unknown_setting(self) -> str:
        """A setting that does not exist must come back as unsupported."""
        key = nonsense()
        answer = await self._call("start", self._start_params({key: 1}))
        if key not in answer.get("unsupported", []):
            raise Wrong(
                f"`start` with the setting {key!r} was accepted",
                "list every settings key that is not understood under `unsupported`, and do not start",
            )
        self._only_asked(answer, {key})
        return "listed as unsupported"

    async def check_start(self) -> str:
        """The engine starts without settings."""
        answer = await self._call("start", self._start_params({}))
        self._only_asked(answer, set())
        for name, where in answer.get("addresses", {}).items():
            wrong = await reachable(Endpoint("", where["address"], int(where["port"])), self.timeout)
            if wrong is not None:
                raise Wrong(f"nobody listens at the address {name!r}: {wrong}", "name only listeners that are open")
        return ""

    def _only_asked(self, answer: Mapping[str, Any], asked: set[str]) -> None:
        strange = sorted(set(answer.get("unsupported", [])) - asked)
        if strange:
            raise Wrong(
                f"`start` lists {strange} as unsupported, which nobody asked for",
                "only keys of `settings` can be unsupported",
                fatal=True,
            )

    def _start_params(self, settings: dict[str, str | int | bool]) -> dict[str, Any]:
        return start_params(self.profile, Settings.of(settings), self._folder, WORKER)

    # publishing

    async def _publish(self, specs: Mapping[str, TunnelSpec], **more: object) -> None:
        """Publish `specs`; `more` are properties that no spec of ours can have."""
        asked = []
        for key, spec in specs.items():
            tunnel = _Tunnel(spec, upstream_listener(spec))
            await tunnel.listener.start()
            tunnel.pump = asyncio.create_task(fill(tunnel.listener, tunnel.queue))
            self._tunnels[key] = tunnel
            request = request_of(f"doctor/{key}", spec, tunnel.listener)
            request["properties"].update(more)
            asked.append(request)
        answer = await self._call("publish", {"specs": asked})
        try:
            results = results_of(answer, asked, list(specs.values()))
        except AdapterError as error:
            raise Wrong(error.cause, advice_for(error.cause)) from error
        for key, result in zip(specs, results, strict=True):
            self._tunnels[key].answer = result

    async def _refused(self, key: str, spec: TunnelSpec, what: str, **more: object) -> str:
        await self._publish({key: spec}, **more)
        answer = self._tunnels[key].answer
        if isinstance(answer, Endpoint):
            raise Wrong(f"{what} got an endpoint", "answer `unsupported` for everything that is not understood")
        return "refused" if isinstance(answer, Refused) else "unsupported"

    async def check_unknown_protocol(self) -> str:
        """A protocol that does not exist never gets an endpoint."""
        protocol = nonsense()
        return await self._refused("unknown-protocol", TunnelSpec(protocol=protocol), f"protocol {protocol!r}")

    async def check_unknown_property(self) -> str:
        """A property that does not exist never gets an endpoint: to leave it out would be to lie about the rest."""
        name = nonsense()
        return await self._refused("unknown-property", tls(), f"a tunnel with the property {name!r}", **{name: True})

    async def check_publish(self) -> str:
        """As many answers as specs; what hello claims is published."""
        try:
            await self._publish(self._specs)
        except AdapterError as error:
            raise Wrong(error.cause, advice_for(error.cause), fatal=True) from error
        except Wrong as wrong:
            raise Wrong(wrong.found, wrong.advice, fatal=True) from wrong
        live = self._live()
        for key, spec in self._specs.items():
            answer = self._tunnels[key].answer
            if isinstance(answer, Endpoint):
                continue
            if spec.features() <= self._claimed:
                claims = ", ".join(sorted(spec.features()))
                raise Wrong(
                    f"a plain {key} tunnel was not published ({told(answer)}), though hello claims {claims}",
                    "claim only what can be published",
                    fatal=not live,
                )
        if not live:
            raise Wrong("nothing that doctor knows of was published", "no case of the suite could run", fatal=True)
        return f"{len(live)} of {len(self._specs)} specs have an endpoint: {', '.join(live)}"

    @property
    def _specs(self) -> Mapping[str, TunnelSpec]:
        more = {key: spec for key, spec in CLAIMED.items() if spec.features() <= self._claimed}
        return {**SPECS, **more}

    def _live(self) -> dict[str, Endpoint]:
        found = {key: self._tunnels[key].answer for key in self._specs if key in self._tunnels}
        return {key: answer for key, answer in found.items() if isinstance(answer, Endpoint)}

    async def check_endpoints(self) -> str:
        """Somebody accepts TCP at every endpoint, and nobody refuses UDP there where that is its transport, or where
        HTTP/3 is claimed."""
        for key, endpoint in self._live().items():
            places = [endpoint]
            if self._tunnels[key].spec.family == "http" and "http.downstream-h3" in self._claimed:
                over_udp = endpoint.over_udp()
                if over_udp is None:
                    raise Wrong(
                        f"the endpoint of {key} has no udp_port, though hello claims http.downstream-h3",
                        "say for every HTTP tunnel where its clients speak HTTP/3",
                    )
                places.append(over_udp)
            for place in places:
                wrong = await reachable(place, self.timeout)
                if wrong is not None:
                    await self._call("status", {})
                    raise Wrong(
                        f"nobody listens at the endpoint of {key}: {wrong}",
                        "answer `publish` only when the engine listens, with the port that it really has",
                    )
        return ", ".join(sorted({f"{endpoint.address}:{endpoint.port}" for endpoint in self._live().values()}))

    async def check_traffic(self) -> str:
        """What a client sends comes to the upstream of that tunnel, and to no other."""
        return await self._traffic("it does not lead there: check host, address, port and upstream")

    async def _traffic(self, advice: str) -> str:
        live = self._live()
        for key, endpoint in live.items():
            wrong = await carries(endpoint, self._tunnels[key].spec, self._tunnels[key].queue, self.timeout)
            if wrong is None:
                continue
            # An adapter that is gone took its tunnels along: then that is what is wrong.
            await self._call("status", {})
            other = next((name for name in live if name != key and self._tunnels[name].queue.waiting), None)
            crossed = f"; it came to the upstream of {other} instead" if other else ""
            raise Wrong(f"{key} at {endpoint.address}:{endpoint.port} ({endpoint.host}): {wrong}{crossed}", advice)
        return f"{len(live)} tunnels carry"

    async def check_unpublish(self) -> str:
        """What was withdrawn carries nothing any more, and the rest goes on."""
        live = self._live()
        key = next(iter(live))
        await self._call("unpublish", {"keys": [f"doctor/{key}"]})
        tunnel = self._tunnels.pop(key)
        try:
            if await carries(live[key], tunnel.spec, tunnel.queue, min(self.timeout, 1.0)) is None:
                raise Wrong(
                    f"{key} carries on after `unpublish`", "take the tunnel away from the engine before answering"
                )
        finally:
            await _drop(tunnel)
        await self._traffic("`unpublish` took away a tunnel that it was not asked for")
        return f"{key} is gone, {len(live) - 1} carry on"

    # state

    async def check_log(self) -> str:
        """The log is a list of lines."""
        lines = (await self._call("log", {"lines": 10}))["lines"]
        if len(lines) > 10:
            raise Wrong(f"`log` with lines=10 gave {len(lines)} lines", "give at most as many as were asked for")
        return f"{len(lines)} lines"

    async def check_status(self) -> str:
        """The engine runs, in a process of the adapter."""
        pid = await self._pid()
        return f"running, pid {pid}" if pid else "running, no pid told (a crash can't be tried)"

    async def _pid(self) -> int | None:
        state = await self._call("status", {})
        if not state["running"]:
            raise Wrong("`status` says that the engine does not run", "it was started and has not been stopped")
        pid = int(state["pid"]) if state.get("pid") else None
        if pid is not None and not _descends(pid, self._rpc.pid):
            raise Wrong(f"pid {pid} is no process that the adapter started", "tell the pid of the engine's own process")
        return pid

    async def check_restart(self) -> str:
        """After a restart every tunnel is where it was."""
        await self._call("restart", {})
        for key, endpoint in self._live().items():
            wrong = await reachable(endpoint, self.timeout)
            if wrong is not None:
                raise Wrong(
                    f"after `restart` {key} is gone: {wrong}", "publish again, at the same endpoints, before answering"
                )
        return await self._traffic("`restart` keeps what was published where it was")

    async def check_exited(self) -> str:
        """A killed engine is told of, unasked."""
        pid = await self._pid()
        if pid is None or pid == self._rpc.pid:
            return "not tried: no process of the engine was told"
        os.kill(pid, signal.SIGKILL)
        if not await self._rpc.exit_told(self.timeout):
            raise Wrong(
                f"the engine (pid {pid}) was killed and nothing came within {self.timeout:g} s",
                "send the notification `exited` as soon as the engine ends without being asked to",
            )
        state = await self._call("status", {})
        if state["running"]:
            raise Wrong("`status` says that the killed engine runs", "look at the process before answering")
        return f"told: {self._rpc.exited}"

    async def check_shutdown(self) -> str:
        """`shutdown` is answered, and the adapter ends."""
        await self._call("shutdown", {})
        if not await self._rpc.ends(self.timeout):
            raise Wrong(f"it still runs {self.timeout:g} s after `shutdown`", "end the process after the answer")
        return ""

    async def check_nothing_left(self) -> str:
        """No endpoint answers, no process of the adapter is left."""
        for key, endpoint in self._live().items():
            if endpoint.transport == "tcp" and await reachable(endpoint, 1.0) is None:
                raise Wrong(
                    f"somebody still listens at {endpoint.address}:{endpoint.port} ({key})",
                    "stop the engine before answering `shutdown`",
                )
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._rpc.pid, 0)
            raise Wrong("processes that it started are left", "stop the engine before answering `shutdown`")
        return ""


async def _drop(tunnel: _Tunnel) -> None:
    if tunnel.pump is not None:
        tunnel.pump.cancel()
        await asyncio.gather(tunnel.pump, return_exceptions=True)
    await tunnel.listener.stop()


def _descends(pid: int, ancestor: int) -> bool:
    """Whether the process `pid` is `ancestor` or was started below it: nothing else is ours to kill."""
    for _ in range(64):
        if pid == ancestor:
            return True
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            pid = int(fields[1])
        except (OSError, IndexError, ValueError):
            return False
        if pid <= 1:
            return False
    return False
