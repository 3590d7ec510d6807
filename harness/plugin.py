"""The pytest plugin: collects cases, orders them, runs them on the worker's loop, and brings their results to the run
record.

A case is not a test of ours: it is a `CaseItem`, whose result is a verdict. `harness.model.verdict.VERDICTS` says what
pytest makes of it.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import fixtures
from harness import baseline
from harness.engine.factory import make_driver
from harness.errors import UsageError
from harness.evidence.captures import Captures
from harness.judge import LedgerView
from harness.ledger import Ledger, LedgerError
from harness.link.faults import FaultPlan, read_plan
from harness.model.case import MARK, Case, Variant
from harness.model.profile import Profile
from harness.model.record import CaseResult, EngineInfo, RunRecord, from_json, to_json, write_record
from harness.model.spec import Settings
from harness.model.verdict import VERDICTS, Verdict
from harness.pool import EnginePool, Planned
from harness.profiles import load
from harness.runner import Limits, Runner
from harness.version import suite_version
from harness.worker import LoopThread

PROPERTY = "edgecase"
CASES_FOLDER = "conformance"
EDITION, TRANSPORT = AXES = ("edition", "agent.transport")
"""The axes of a run: settings that a case which does not choose them itself runs on, one after the other."""


class CaseFailed(Exception):  # noqa: N818 - pytest shows it
    """A verdict that pytest must show as failed; the message is the report's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options (pytest's hook)."""
    group = parser.getgroup("edgecase", "conformance cases")
    group.addoption(
        "--engine", default="reference", help="profile of the engine under test: a shipped name or a TOML file"
    )
    group.addoption(
        "--edgecase-seed", type=int, default=None, help="seed of the order of cases (printed; default: random)"
    )
    group.addoption("--only", action="append", default=[], metavar="CASE", help="run only this case: id or id[variant]")
    group.addoption("--area", action="append", default=[], help="run only the cases of this area (folder)")
    group.addoption("--requirement", action="append", default=[], help="run only cases that check this requirement")
    group.addoption(
        "--axes", choices=("subset", "all"), default="subset", help="all: run every case on every axis of the run"
    )
    group.addoption("--deadline-ms", type=int, default=5000, help="how long a script waits for an event")
    group.addoption("--run-record", default=None, metavar="FILE", help="write the run record (run.json) here")
    group.addoption(
        "--evidence-folder",
        default=None,
        metavar="FOLDER",
        help="write a capture of what did not pass here; run.json names it relative to the folder's parent",
    )
    group.addoption("--capture-token", action="store_true", help="capture the profile's token, too")
    group.addoption(
        "--faults", default=None, metavar="PLAN", help="lose or change packets of UDP clients: loss=0.01,seed=7"
    )
    group.addoption("--all-variants", action="store_true", help="collect every variant, whatever the profile claims")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed before workers start, so that all of them order alike (pytest's hook)."""
    if getattr(fixtures, "EDGECASE", None) is None:
        raise pytest.UsageError(
            "the package 'fixtures' is not Edgecase's: install edgecase in an environment of its own"
        )
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        config.option.edgecase_seed = workerinput["edgecase_seed"]
        return
    if config.option.edgecase_seed is None:
        config.option.edgecase_seed = secrets.randbelow(1_000_000)
    config.pluginmanager.register(Recorder(config), "edgecase-recorder")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the modules of cases, which are not named test_* (pytest's hook)."""
    named = CASES_FOLDER in file_path.parts[:-1] and file_path.suffix == ".py" and file_path.name != "__init__.py"
    if not named or file_path.name.startswith("_"):
        return None
    return pytest.Module.from_parent(parent, path=file_path)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> Any:
    """Make one item per variant of a case (pytest's hook)."""
    case = getattr(obj, MARK, None)
    if not isinstance(case, Case):
        return None
    return list(_items(collector, name, case))


def _items(collector: pytest.Collector, name: str, case: Case) -> Iterator[CaseItem]:
    for variant in case.variants:
        label = f"{name}[{variant.label}]" if variant.label else name
        yield CaseItem.from_parent(collector, name=label, case=case, variant=variant)


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what was asked for; order by settings, shuffled within by the seed, so that each settings starts once
    (pytest's hook)."""
    cases = [item for item in items if isinstance(item, CaseItem)]
    if not cases or config.option.all_variants:
        return
    suite = _suite(config)
    everywhere = config.option.axes == "all" or any("@" in name for name in config.option.only)
    everything = [
        twin
        for item in cases
        # The subset of the other axes: the sanity case of each family, and what is marked.
        for twin in suite.on_axes(item, AXES if everywhere or item.case.sanity else item.case.axes)
    ]
    chosen = [item for item in everything if _selected(config, item, suite.profile)]
    random.Random(config.option.edgecase_seed).shuffle(chosen)
    chosen.sort(key=lambda item: str(suite.settings(item)))
    suite.plan = [item.planned for item in chosen]
    dropped = [item for item in cases if item not in chosen]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if not isinstance(item, CaseItem)] + list(chosen)


def _selected(config: pytest.Config, item: CaseItem, profile: Profile) -> bool:
    option = config.option
    key = item.planned.key
    if not option.only and not item.case.refusal_due(profile.features):
        return False
    return (
        (not option.only or key in option.only or item.case.id in option.only)
        and (not option.area or item.case.area in option.area)
        and (not option.requirement or bool(set(option.requirement) & set(item.case.requirements)))
    )


class Suite:
    """What one process needs to run cases: profile, ledger, engines, runner. Made when the first case is at hand."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        try:
            self.ledger: LedgerView = Ledger.load()
            self.profile: Profile = load(config.option.engine, frozenset(Ledger.load().features))
        except (UsageError, LedgerError) as error:
            raise pytest.UsageError(str(error)) from error
        self.faults = _faults(config)
        self.plan: list[Planned] = []
        self.limits = Limits()
        self._loop: LoopThread | None = None
        self._runner: Runner | None = None
        self._pool: EnginePool | None = None
        self._captures: Captures | None = None

    def settings(self, item: CaseItem) -> Settings:
        """The settings that the item runs under."""
        return item.case.settings.with_defaults({**self.profile.settings, **item.axes})

    def on_axes(self, item: CaseItem, axes: Collection[str]) -> list[CaseItem]:
        """The item, and a twin of it per other point of `axes`, of each axis that the case does not choose itself."""
        points = {EDITION: self._editions, TRANSPORT: self._transports}
        return [item] + [
            item.twin(axis, value)
            for axis in AXES
            if axis in axes and item.case.settings.get(axis) is None
            for value in points[axis](item)
        ]

    def _editions(self, item: CaseItem) -> list[str]:
        """The profile's other editions that have what the item needs."""
        promises = Ledger.load().editions
        needed = [promises[name].editions for name in item.case.features(item.variant) if name in promises]
        return [
            edition
            for edition in self.profile.editions
            if not any(promised.get(edition) == "no" for promised in needed)
        ]

    def _transports(self, item: CaseItem) -> list[str]:
        """The other transports of the agent link, where the item leaves them open and has an agent at all."""
        if self.profile.kind == "adapter" or "agent.quic" not in self.profile.features:
            return []
        bound = "tls-link" in item.case.needs or item.case.settings.get("listener.udp") is False
        return [] if bound else ["quic"]

    def run(self, planned: Planned) -> CaseResult:
        """Run one variant on the worker's loop."""
        if self._loop is None or self._runner is None:
            self._loop = LoopThread()
            self._pool = EnginePool(self.profile, make_driver, [*self.plan, *self._sanity_plan()])
            self._captures = self._make_captures()
            self._runner = Runner(
                self.profile,
                self.ledger,
                self._pool,
                _sanity_cases(self._config),
                worker=_worker_name(self._config),
                deadline_seconds=self._config.option.deadline_ms / 1000,
                captures=self._captures,
                faults=self.faults,
            )
        return self._loop.call(self._runner.run(planned))

    def _make_captures(self) -> Captures | None:
        """Who keeps what goes over the wire, where that is asked for."""
        option = self._config.option
        if option.evidence_folder is None:
            return None
        hide_token = bool(self.profile.secrets) and not option.capture_token
        return Captures(Path(option.evidence_folder), hide_token=hide_token)

    def _sanity_plan(self) -> list[Planned]:
        settings = {planned.settings for planned in self.plan}
        cases = _sanity_cases(self._config).values()
        return [
            Planned(case, case.variants[0], chosen)
            for chosen in settings
            for case in cases
            if case.features(case.variants[0]) <= self.profile.features
        ]

    def finish(self, *, interrupted: bool) -> list[CaseResult]:
        """Sanity once more unless the run was `interrupted`, then stop every engine; the results that came of it."""
        if self._loop is None or self._runner is None or self._pool is None:
            return []
        try:
            return [] if interrupted else self._loop.call(self._runner.sanity_at_the_end())
        finally:
            self._loop.call(self._pool.close())
            self._loop.stop()
            self._loop = None
            if self._captures:
                self._captures.close()


def _faults(config: pytest.Config) -> FaultPlan | None:
    text = config.option.faults
    try:
        return None if text is None else read_plan(text)
    except ValueError as error:
        raise pytest.UsageError(f"--faults: {error}") from error


_SUITE = pytest.StashKey[Suite]()
_SANITY = pytest.StashKey[dict[str, Case]]()


def _suite(config: pytest.Config) -> Suite:
    if _SUITE not in config.stash:
        config.stash[_SUITE] = Suite(config)
    return config.stash[_SUITE]


def _sanity_cases(config: pytest.Config) -> dict[str, Case]:
    return config.stash.setdefault(_SANITY, {})


def _worker_name(config: pytest.Config) -> str:
    return str(getattr(config, "workerinput", {}).get("workerid", "main"))


class CaseItem(pytest.Item):
    """One variant of one case, as pytest sees it."""

    def __init__(self, *, case: Case, variant: Variant, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.variant = variant
        self.axes: dict[str, str] = {}
        if case.sanity:
            _sanity_cases(self.config)[case.family] = case

    def twin(self, axis: str, value: str) -> CaseItem:
        """The same variant at another point of an axis of the run: `id[label@value]`."""
        assert self.parent is not None, "an item of a module"
        variant = Variant(f"{self.variant.label}@{value}", self.variant.values)
        twin = CaseItem.from_parent(self.parent, name=f"{self.name}@{value}", case=self.case, variant=variant)
        twin.axes = {axis: value}
        return twin

    @property
    def planned(self) -> Planned:
        """What the runner is given."""
        return Planned(self.case, self.variant, _suite(self.config).settings(self))

    def runtest(self) -> None:
        """Run the case; the verdict decides what pytest is told."""
        suite = _suite(self.config)
        result = suite.run(self.planned)
        self.user_properties.append((PROPERTY, json.dumps(to_json(result))))
        stop = suite.limits.note(result)
        if stop:
            self.session.shouldstop = stop
        row = VERDICTS[result.verdict]
        if row.pytest == "skipped":
            pytest.skip(result.cause)
        known = _known(suite.profile, result)
        if known:
            pytest.xfail(known)
        if row.pytest == "failed":
            folder = self.config.option.evidence_folder
            raise CaseFailed(explain(result, Path(folder).parent if folder else None))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A verdict is shown by its own words, not by a traceback."""
        if isinstance(excinfo.value, CaseFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """File, line and id."""
        return self.path, self.case.line - 1, self.planned.key


def _known(profile: Profile, result: CaseResult) -> str:
    """The baseline's reason, when it foresaw this verdict."""
    (marked,), _ = baseline.apply([result], profile.baseline, whole=False)
    return (
        marked.baseline_reason
        if marked.expected and result.verdict in (Verdict.FAIL, Verdict.CRASH, Verdict.SETUP)
        else ""
    )


def explain(result: CaseResult, folder: Path | None = None) -> str:
    """The verdict in at most a dozen lines: what departed, the capture in `folder`, and one command that reproduces
    it."""
    lines = [f"{result.key}: {result.verdict} - {VERDICTS[result.verdict].meaning}"]
    lines += [f"  {outcome.message}" for outcome in result.outcomes if outcome.outcome in ("fail", "warn")]
    if result.cause:
        lines.append(f"  {result.cause}")
    last = [f"  wire: {(folder or Path()) / result.capture}"] if result.capture else []
    last.append(f"  again: {result.reproduce}")
    return "\n".join([*lines[: 12 - len(last)], *last])


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Progress shows the verdict's own letter and word (pytest's hook)."""
    if report.when != "call":
        return None
    for name, value in report.user_properties:
        if name == PROPERTY:
            row = VERDICTS[Verdict(json.loads(str(value))["verdict"])]
            category = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            return category, row.letter, row.verdict.upper()
    return None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Stop the engines of this process; a worker hands its last results to the controller (pytest's hook)."""
    config = session.config
    interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
    last = config.stash[_SUITE].finish(interrupted=interrupted) if _SUITE in config.stash else []
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output[PROPERTY] = [to_json(result) for result in last]
        return
    recorder = config.pluginmanager.get_plugin("edgecase-recorder")
    if isinstance(recorder, Recorder):
        recorder.results.extend(last)
        recorder.write(session)


def _is_case(nodeid: str) -> bool:
    """Whether a node's id is that of a case: its file lies in the folder of the cases."""
    return CASES_FOLDER in Path(nodeid.partition("::")[0]).parts[:-1]


def _lost(report: pytest.TestReport) -> CaseResult:
    """The result of a case that gave none: its worker died, or pytest itself stumbled over it."""
    file, _, name = report.nodeid.partition("::")
    told = str(report.longrepr or "").strip().splitlines()
    return CaseResult(
        id=report.nodeid,
        variant="",
        area=Path(file).parent.name,
        title=name,
        verdict=Verdict.HARNESS,
        outcomes=(),
        duration_s=round(getattr(report, "duration", 0.0), 6),
        cause=f"the case gave no result: {told[-1] if told else report.outcome}",
        expected=False,
        file=file,
    )


class Recorder:
    """Lives in the process that the user started: gathers the results of every worker and writes the run record."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        self.results: list[CaseResult] = []
        self.record: RunRecord | None = None
        self.stopped = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a result out of a report, whoever ran it (pytest's hook). A case that was lost with its worker is our
        own fault, and must not be missing."""
        if report.when == "call":
            for name, value in report.user_properties:
                if name == PROPERTY:
                    self.results.append(from_json(CaseResult, json.loads(str(value))))
                    return
        if report.failed and _is_case(report.nodeid):
            self.results.append(_lost(report))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note why the run ended early: a signal, or what a worker said (pytest's hook)."""
        self.stopped = str(excinfo.value) or "interrupted"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Take a worker's last results (xdist's hook)."""
        for data in getattr(node, "workeroutput", {}).get(PROPERTY, []):
            self.results.append(from_json(CaseResult, data))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give every worker the same seed (xdist's hook)."""
        node.workerinput["edgecase_seed"] = self._config.option.edgecase_seed

    def pytest_report_header(self) -> str:
        """The seed, before anything runs (pytest's hook)."""
        return f"edgecase: seed {self._config.option.edgecase_seed}"

    def write(self, session: pytest.Session) -> None:
        """Make the record of the run, and write it where `--run-record` says."""
        if not self.results:
            return
        suite = _suite(self._config)
        option = self._config.option
        stopped = str(session.shouldstop or self.stopped)
        whole = not (option.only or option.area or option.requirement or stopped)
        results, problems = baseline.apply(self.results, suite.profile.baseline, whole=whole)
        profile = suite.profile
        self.record = RunRecord(
            engine=EngineInfo(
                profile=profile.file_or_name,
                name=profile.title,
                version=next((r.engine_version for r in self.results if r.engine_version), ""),
                edition=profile.edition,
                driver=profile.kind,
                features=tuple(sorted(profile.features)),
                command=" ".join(profile.driver.get("command", [])) or str(profile.driver.get("address", "")),
                own=profile.own,
            ),
            cases=tuple(sorted(results, key=lambda r: (r.area, r.id, r.variant))),
            suite_version=suite_version(),
            ledger_digest=Ledger.load().digest,
            started=self._started.isoformat(timespec="seconds"),
            duration_s=round(time.monotonic() - self._clock, 3),
            seed=option.edgecase_seed,
            argv=tuple(self._config.invocation_params.args),
            workers=int(getattr(option, "numprocesses", 0) or 0) or 1,
            stopped=stopped,
            baseline_problems=problems,
            notes=(f"packets of UDP clients suffered {suite.faults.written}",) if suite.faults else (),
        )
        if option.run_record:
            write_record(self.record, Path(option.run_record))
