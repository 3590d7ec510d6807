"""The walk: step after step on one engine, several lanes at once in each, over every pair that the profile claims.

Everything that a step does follows from the seed and the number of the step, so that one step can be done again alone;
what the engine and the kernel make of it at the same time does not.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from harness.engine.driver import Driver
from harness.engine.factory import make_driver
from harness.errors import EngineDeparted, NotSupported, SetupFailed, UsageError
from harness.evidence.transcript import Transcript
from harness.ledger import Ledger
from harness.link.deadline import set_default
from harness.link.stream import LinkReset
from harness.model.case import MARK, Case, case
from harness.model.pairs import DOWNSTREAM, UPSTREAMS
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec, http
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene
from harness.soak import census
from harness.soak.census import Census
from harness.soak.lanes import LANES, Lane

REST_SECONDS = 15.0
"""How long the engine may take until its counts stand still, before the walk."""
RETURN_SECONDS = 60.0
"""How long the engine may take to give everything back, behind the walk: longer than its idle timeouts."""
LANES_AT_ONCE = (3, 7)
_NEEDED = {
    "h1": "http.h1", "h2": "http.downstream-h2", "h3": "http.downstream-h3",
    "up h1": "http.h1", "up h2c": "http.h2c", "up h3": "http.h3",
}  # fmt: skip
_SPECS = {"h1": http(), "h2c": http(http_version="h2c"), "h3": http(http_version="h3")}


@dataclass(frozen=True, slots=True)
class Failure:
    """What the engine did that it must not do."""

    step: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"step {self.step}{f', {self.where}' if self.where else ''}: {self.what}"


@dataclass
class Report:
    """What a walk came to. `counted`: exchanges, octets, attacks, cancelled, broken off, stalled, vanished."""

    seed: int
    steps: int = 0
    seconds: float = 0.0
    counted: Counter[str] = field(default_factory=Counter)
    before: Census | None = None
    after: Census | None = None
    failures: list[Failure] = field(default_factory=list)

    def progress(self) -> str:
        """How far it is, in one line."""
        megabytes = self.counted["octets"] // 1_000_000
        others = ", ".join(
            f"{self.counted[name]} {name}" for name in ("attacks", "cancelled", "broken off", "stalled", "vanished")
        )
        return f"{self.steps} steps, {self.counted['exchanges']} exchanges, {megabytes} MB, {others}"


def pairs_of(profile: Profile) -> tuple[list[str], list[str]]:
    """The downstream and the upstream versions that a profile claims. Raises `UsageError` where there is no pair, and
    for an engine behind an adapter, which publishes only at its start."""
    if profile.kind == "adapter":
        allowed = "allowed is launch or agent: a soak publishes while it runs"
        raise UsageError(f"{profile.file_or_name}: driver.kind: found 'adapter', {allowed}")
    downs = [down for down in DOWNSTREAM if _NEEDED[down] in profile.features]
    ups = [up for up in UPSTREAMS if _NEEDED[f"up {up}"] in profile.features]
    if not downs or not ups:
        raise UsageError(f"{profile.file_or_name}: features: found no HTTP version, allowed are some of http.h1, ..")
    return downs, ups


class Walk:
    """A walk on an engine of its own. `tell` gets a line now and then; `clock` gives seconds (monotonic)."""

    def __init__(
        self,
        profile: Profile,
        seed: int,
        tell: Callable[[str], None],
        *,
        deadline_seconds: float = 20.0,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        driver: Callable[[Profile], Driver] = make_driver,
    ) -> None:
        self.profile = profile
        self.downs, self.ups = pairs_of(profile)
        self.report = Report(seed)
        self._tell = tell
        self._deadline = deadline_seconds
        self._every = every_seconds
        self._clock = clock
        self._driver = driver(profile)
        self._case = _soak_case({up: _SPECS[up] for up in self.ups})
        self._ledger = Ledger.load()

    async def run(self, steps: Iterable[int], seconds: float) -> Report:
        """Do `steps` for at most `seconds`, to the first failure, and see that the engine gives everything back. Raises
        `SetupFailed` where the engine does not start, or carries nothing at all."""
        set_default(self._deadline)
        started = told = self._clock()
        try:
            await self._driver.start(Settings.of({}).with_defaults(self.profile.settings))
        except NotSupported as error:
            raise SetupFailed(f"profile: setting {error.feature} cannot be had") from error
        try:
            await self._warm_up()
            self.report.before = await census.at_rest(self._driver, REST_SECONDS)
            for step in steps:
                if self._clock() - started >= seconds:
                    break
                self.report.failures += await self._step(step)
                if ended := self._driver.crashed():
                    self.report.failures.append(Failure(step, "", f"the engine {ended}"))
                self.report.steps += 1
                self.report.seconds = self._clock() - started
                if self.report.failures:
                    return self.report
                if self._clock() - told >= self._every:
                    told = self._clock()
                    self._tell(f"{self.report.seconds:.0f} s: step {step}, {self.report.progress()}")
            await self._see_off()
            return self.report
        finally:
            await self._driver.stop()

    async def _warm_up(self) -> None:
        """One exchange over every pair: what an engine makes once and keeps is no leak."""
        failures = await self._play(0, [("plain", down, up, Random(0)) for down in self.downs for up in self.ups])
        if failures:
            raise SetupFailed(f"engine: {failures[0]}")
        self.report.counted.clear()

    async def _step(self, step: int) -> list[Failure]:
        random = Random(f"{self.report.seed}/{step}")
        lanes = [
            (random.choice(list(LANES)), random.choice(self.downs), random.choice(self.ups), Random(random.random()))
            for _ in range(random.randint(*LANES_AT_ONCE))
        ]
        return await self._play(step, lanes)

    async def _play(self, step: int, chosen: Sequence[tuple[str, str, str, Random]]) -> list[Failure]:
        """The lanes at once on tunnels of their own, the barrier, and what must hold behind it."""
        transcript = Transcript(self._clock, secrets=self.profile.secrets)
        scene = Scene(
            self._case,
            self._case.variants[0],
            profile=self.profile,
            driver=self._driver,
            session=await self._driver.open_session(f"soak-{step}"),
            ledger=self._ledger,
            transcript=transcript,
        )
        try:
            await scene.publish_declared()
            nonces: set[str] = set()
            lanes = [
                Lane(number, kind, down, up, random, scene, self.report.counted, nonces)
                for number, (kind, down, up, random) in enumerate(chosen, start=1)
            ]
            ends = await asyncio.gather(*(lane.run() for lane in lanes), return_exceptions=True)
            failures = [
                Failure(step, str(lane), _told(end))
                for lane, end in zip(lanes, ends, strict=True)
                if isinstance(end, BaseException)
            ]
            return failures or [Failure(step, where, what) for where, what in await _broken(scene, lanes, nonces)]
        except (EngineDeparted, LinkReset, SetupFailed) as error:
            return [Failure(step, "", _told(error))]
        finally:
            await scene.close()

    async def _see_off(self) -> None:
        """Nothing leaked, and nothing said that should not have to be."""
        step = self.report.steps
        if line := census.trouble(self._driver.log_tail(census.TAIL)):
            self.report.failures.append(Failure(step, "", f"the engine says: {line[:300]}"))
        before = self.report.before
        if before is not None:
            self.report.after = await census.back_at(self._driver, before, RETURN_SECONDS)
            if self.report.after is None or self.report.after.beyond(before):
                leak = f"a leak: {before} before the walk, {self.report.after} {RETURN_SECONDS:.0f} s behind it"
                self.report.failures.append(Failure(step, "", leak))


def _soak_case(specs: dict[str, TunnelSpec]) -> Case:
    """What a scene has to be told that is no case of the suite."""

    @case("soak", checks=["HTTP-VER-006"], publish=specs)
    async def walk(_: Scene) -> None:
        """A step of the walk."""

    made: Case = getattr(walk, MARK)
    return made


def _told(error: BaseException) -> str:
    """What an engine did against a lane, in words. Whatever else ended it is ours, and is raised."""
    if isinstance(error, EngineDeparted | LinkReset | SetupFailed):
        return str(error)
    raise error


async def _broken(scene: Scene, lanes: Sequence[Lane], nonces: set[str]) -> list[tuple[str, str]]:
    """What does not hold behind the barrier: attacks that had an effect, requests that nobody made, broken rules."""
    found: list[tuple[str, str]] = []
    for up in dict.fromkeys(lane.up for lane in lanes):
        await scene.settle(up)
        upstream = scene.http_upstream(up, version="")
        here = [lane for lane in lanes if lane.up == up]
        runs = {run.words.nonce: run for lane in here for run in lane.runs}
        for stray in upstream.unexpected:
            if isinstance(stray, UpstreamExchange) and any(stray.carries(nonce) for nonce in nonces):
                continue
            head = stray.raw_head.decode("latin-1")
            owner = next((run for nonce, run in runs.items() if nonce in head), None)
            if owner is not None:
                owner.strays.append(stray)
            else:
                found.append((f"upstream {up}", f"{stray.describe()}, which nobody asked for"))
        for lane in here:
            for run in lane.runs:
                run.requests = upstream.seen(run.words.nonce)
                if fault := await run.fault():
                    found.append((str(lane), f"{run.attack.id}: {fault}"))
            found += [
                (str(lane), f"toward the client: {rule}") for client in lane.clients for rule in client.violations
            ]
        for request in upstream.requests_seen:
            found += [(f"upstream {up}", f"{request.describe()}: {rule}") for rule in request.violations]
        for connection in upstream.connections:
            found += [(f"upstream {up}", str(rule)) for rule in connection.violations]
    return found
