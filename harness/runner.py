"""Runs one variant of one case on one engine and says what came of it. Knows nothing of pytest."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.engine.driver import Driver
from harness.errors import EngineCrashed, EngineDeparted, NotSupported, SetupFailed
from harness.evidence.captures import Captures
from harness.evidence.transcript import Transcript
from harness.judge import Departed, Judge, LedgerView, departure_of
from harness.link import tap
from harness.link.deadline import set_default
from harness.link.faults import FaultPlan
from harness.link.stream import LinkReset
from harness.model.case import Case
from harness.model.pairs import axes_of
from harness.model.profile import Profile
from harness.model.record import CaseResult
from harness.model.verdict import Outcome, Verdict, worst
from harness.pool import EnginePool, Held, Planned
from harness.scene import Scene

MAX_CRASHES = 5
MAX_EXPIRED = 20
LOG_LINES = 60


@dataclass
class Limits:
    """When a run stops early: crashes in all, expired deadlines in a row."""

    crashes: int = 0
    expired: int = 0

    def note(self, result: CaseResult) -> str:
        """Count `result`; a sentence when the run should stop."""
        if result.verdict is Verdict.CRASH:
            self.crashes += 1
        timed_out = (
            any("nothing within" in outcome.actual for outcome in result.outcomes) or "nothing within" in result.cause
        )
        self.expired = self.expired + 1 if timed_out else 0
        if self.crashes >= MAX_CRASHES:
            return f"stopped after {self.crashes} crashes of the engine"
        if self.expired >= MAX_EXPIRED:
            return f"stopped after {self.expired} expired deadlines in a row"
        return ""


@dataclass(frozen=True)
class Verdicts:
    """What a script ended with, before it is a result."""

    verdict: Verdict
    cause: str = ""


class Runner:
    """Runs cases of one profile in one worker. `clock` gives seconds (monotonic)."""

    def __init__(
        self,
        profile: Profile,
        ledger: LedgerView,
        pool: EnginePool,
        sanity: Mapping[str, Case],
        *,
        worker: str = "main",
        deadline_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        captures: Captures | None = None,
        faults: FaultPlan | None = None,
    ) -> None:
        self._profile = profile
        self._ledger = ledger
        self._pool = pool
        self._sanity = sanity
        self._worker = worker
        self._deadline = deadline_seconds
        self._clock = clock
        self._captures = captures
        self._faults = faults
        self._recorded = self._transcript()

    async def run(self, planned: Planned) -> CaseResult:
        """Run one variant. Never raises for what an engine, an adapter or a case does."""
        set_default(self._deadline)
        started = self._clock()
        transcript = self._transcript()
        judge = Judge(self._ledger, planned.case, transcript)
        log: tuple[str, ...] = ()
        missing = self._missing(planned)
        if missing:
            end = Verdicts(Verdict.UNSUPPORTED, missing)
        else:
            end, judge, log = await self._on_engine(planned, transcript, judge)
        return self._result(planned, end, judge, transcript, log, self._clock() - started)

    def _missing(self, planned: Planned) -> str:
        """Why the profile keeps this variant from running, or nothing."""
        case = planned.case
        if not case.refusal_due(self._profile.features):
            return f"the profile claims {case.refusal}: its refusal is not due"
        if self._profile.kind == "adapter" and case.needs & {"dynamic", "agent"}:
            return "the case publishes while it runs, which needs the agent protocol"
        wanted = case.features(planned.variant) - self._profile.features
        if case.refusal is None and wanted:
            return f"the profile does not claim {', '.join(sorted(wanted))}"
        return ""

    async def _on_engine(
        self, planned: Planned, transcript: Transcript, judge: Judge
    ) -> tuple[Verdicts, Judge, tuple[str, ...]]:
        private = "private-engine" in planned.case.needs
        self._record(transcript)
        try:
            held = await (self._pool.private if private else self._pool.engine)(planned.settings)
        except NotSupported as error:
            return Verdicts(Verdict.UNSUPPORTED, f"setting {error.feature} cannot be had"), judge, ()
        except SetupFailed as error:
            return Verdicts(Verdict.SETUP, error.cause), judge, ()
        try:
            reason = None if planned.case.sanity else await self._insane(held, planned)
            if reason:
                return Verdicts(Verdict.SETUP, f"sanity: {reason}"), judge, held.driver.log_tail(LOG_LINES)
            self._record(transcript)
            end, judge = await self._script(planned, held, transcript, judge)
            log = held.driver.log_tail(LOG_LINES)
            if not private and (end.verdict is Verdict.CRASH or held.driver.lost() is not None):
                await self._pool.drop(held)
            return end, judge, log
        finally:
            if private:
                await held.driver.stop()

    async def _insane(self, held: Held, planned: Planned) -> str | None:
        """Why this engine can't be trusted with the family, by its sanity case; asked once per engine and family."""
        family = planned.case.family
        guard = self._sanity.get(family)
        if guard is None or not guard.features(guard.variants[0]) <= self._profile.features:
            return None
        if family not in held.sane:
            held.sane[family] = await self.check_sanity(held, guard)
        return held.sane[family]

    async def check_sanity(self, held: Held, guard: Case) -> str | None:
        """Run a sanity case on `held`; what is wrong, or `None`."""
        transcript = self._transcript()
        self._record(transcript)
        planned = Planned(guard, guard.variants[0], held.settings)
        end, judge = await self._script(planned, held, transcript, Judge(self._ledger, guard, transcript))
        if end.verdict in (Verdict.PASS, Verdict.INFO, Verdict.WARN):
            return None
        about = end.cause or "; ".join(outcome.message for outcome in judge.outcomes if outcome.message)
        return f"{guard.id} got {end.verdict}: {about}"

    async def sanity_at_the_end(self) -> list[CaseResult]:
        """Run every family's sanity case once more on the engines that still run; only what fails is given back, as
        `setup`."""
        results = []
        for held in self._pool.running:
            for family, known in held.sane.items():
                if known is not None:
                    continue
                guard = self._sanity[family]
                reason = await self.check_sanity(held, guard)
                if reason is not None:
                    planned = Planned(guard, replace(guard.variants[0], label="at the end"), held.settings)
                    transcript = self._transcript()
                    judge = Judge(self._ledger, guard, transcript)
                    end = Verdicts(Verdict.SETUP, f"sanity: at the end of the run {reason}")
                    results.append(self._result(planned, end, judge, transcript, held.driver.log_tail(LOG_LINES), 0.0))
        return results

    async def _script(
        self, planned: Planned, held: Held, transcript: Transcript, judge: Judge
    ) -> tuple[Verdicts, Judge]:
        """Open a session and a scene, run the script, and tell whose fault its end is."""
        try:
            session = await held.driver.open_session(planned.key)
        except SetupFailed as error:
            return await _or_crash(held.driver, Verdicts(Verdict.SETUP, error.cause)), judge
        except NotSupported as error:
            return Verdicts(Verdict.UNSUPPORTED, error.feature), judge
        scene = Scene(
            planned.case,
            planned.variant,
            profile=self._profile,
            driver=held.driver,
            session=session,
            ledger=self._ledger,
            transcript=transcript,
            faults=self._faults,
        )
        try:
            end = await self._play(scene)
        finally:
            await scene.close()
        return await _or_crash(held.driver, end), scene.judge

    async def _play(self, scene: Scene) -> Verdicts:
        case = scene.case
        try:
            await scene.publish_declared()
            try:
                await case.function(scene)
            except (EngineDeparted, LinkReset) as seen:
                expected, actual = departure_of(seen)
                scene.depart(case.requirements[0], expected=expected, actual=actual)
                return _judged(scene.judge)
        except Departed:
            return _judged(scene.judge)
        except SetupFailed as error:
            return Verdicts(Verdict.SETUP, error.cause)
        except NotSupported as error:
            return Verdicts(Verdict.UNSUPPORTED, error.feature)
        except EngineCrashed as error:
            return Verdicts(Verdict.CRASH, error.cause)
        except Exception as error:  # noqa: BLE001 - whatever is left is ours, and must be told as ours
            return Verdicts(Verdict.HARNESS, _our_fault(error))
        if scene.judge.unjudged:
            return Verdicts(Verdict.HARNESS, f"the case ended without judging {', '.join(scene.judge.unjudged)}")
        return _judged(scene.judge)

    def _transcript(self) -> Transcript:
        return Transcript(self._clock, secrets=self._profile.secrets)

    def _record(self, transcript: Transcript) -> None:
        """What goes over the wire from here on is recorded anew: a start of the engine, its sanity, or the script."""
        self._recorded = transcript
        if self._captures:
            tap.use(self._captures)
            self._captures.begin(transcript.start)

    def _capture(
        self, planned: Planned, end: Verdicts, judge: Judge, transcript: Transcript
    ) -> tuple[str, tuple[str, ...]]:
        """Keep what was recorded of a case that did not pass; the capture, if there is one, and the qlog files."""
        if self._captures is None:
            return "", ()
        told = [f"{planned.key}: {end.verdict}", end.cause, *(outcome.message for outcome in judge.outcomes)]
        capture = ""
        qlogs: tuple[str, ...] = ()
        try:
            about = "\n".join(line for line in told if line)
            capture = self._captures.save(planned.key, about, self._recorded.confidential)
            qlogs = self._captures.save_qlog(planned.key, self._recorded.confidential)
        except OSError as error:
            transcript.note("no qlog" if capture else "no capture", str(error))
        finally:
            self._captures.stop()
        return capture, qlogs

    def _reproduce(self, planned: Planned) -> str:
        faults = f" --faults {self._faults.written}" if self._faults and self._faults.by_chance else ""
        return f"edgecase run --engine {self._profile.file_or_name} --only {planned.key!r}{faults}"

    def _result(
        self,
        planned: Planned,
        end: Verdicts,
        judge: Judge,
        transcript: Transcript,
        log: Sequence[str],
        duration: float,
    ) -> CaseResult:
        case = planned.case
        good = end.verdict in (Verdict.PASS, Verdict.INFO, Verdict.UNSUPPORTED)
        capture, qlogs = ("", ()) if good else self._capture(planned, end, judge, transcript)
        return CaseResult(
            id=case.id,
            variant=planned.variant.label,
            area=case.area,
            title=case.title,
            verdict=end.verdict,
            outcomes=judge.outcomes,
            duration_s=round(duration, 6),
            revision=case.revision,
            doc=case.doc,
            requirements=case.requirements,
            cause=end.cause,
            expected=good or end.verdict is Verdict.WARN,
            transcript=transcript.events,
            engine_log=() if good else tuple(log),
            reproduce=self._reproduce(planned),
            file=case.file,
            line=case.line,
            settings=str(planned.settings),
            family=case.family,
            single_family=case.single_family,
            worker=self._worker,
            engine_version=self._pool.version,
            capture=capture,
            qlogs=qlogs,
            axes=axes_of(case, planned.variant),
        )


def _judged(judge: Judge) -> Verdicts:
    return Verdicts(Verdict(worst(outcome.outcome for outcome in judge.outcomes).value))


async def _or_crash(driver: Driver, end: Verdicts) -> Verdicts:
    """A dead engine is a crash whatever the script made of it, and with an adapter that is lost nothing can be said of
    the engine; unless the fault is ours."""
    fine = end.verdict in (Verdict.PASS, Verdict.INFO)
    how = driver.crashed() if fine else await driver.ended()
    if end.verdict is Verdict.HARNESS:
        return end
    if how is not None:
        return Verdicts(Verdict.CRASH, f"the engine {how}")
    lost = None if fine else driver.lost()
    return end if lost is None else Verdicts(Verdict.SETUP, lost)


def _our_fault(error: Exception) -> str:
    """Type, text and the innermost frames of an exception of ours."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__}: {error} at {where}"


__all__ = ["Limits", "Outcome", "Planned", "Runner"]
