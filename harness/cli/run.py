"""`edgecase run`: the suite against one engine, progress while it runs, and the reports at the end."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path

from harness.cli.arguments import check_selection, fault_plan, number, writable_folder
from harness.cli.session import Session
from harness.collect import collect, conformance_folder
from harness.errors import UsageError
from harness.evidence.captures import FOLDER, remove_stale
from harness.ledger import Ledger
from harness.model.record import RunRecord, read_record, write_record
from harness.model.verdict import Verdict
from harness.profiles import load
from reports import allure, html, junit, summary

DEFAULT_OUTPUT = Path("build") / "report"
INTERRUPTED = 130
_USAGE, _NO_CASES = 4, 5
"""Exit statuses of pytest."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("run", help="run the suite against an engine and write the report")
    command.add_argument(
        "--engine", default="reference", metavar="PROFILE", help="a shipped profile or a TOML file (default: reference)"
    )
    command.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help=f"where the report goes (default: {DEFAULT_OUTPUT})",
    )
    command.add_argument(
        "--only", action="append", default=[], metavar="CASE", help="only this case: id or id[variant]; may be repeated"
    )
    command.add_argument("--area", action="append", default=[], help="only the cases of this area; may be repeated")
    command.add_argument(
        "--requirement", action="append", default=[], metavar="ID", help="only the cases that check this requirement"
    )
    command.add_argument(
        "--axes",
        choices=("subset", "all"),
        default="subset",
        help="what runs on the profile's other editions, and over the other transport of the agent link: the sanity "
        "cases and those that are marked (subset, the default), or every case (all)",
    )
    command.add_argument(
        "--seed", type=number(0), default=None, help="seed of the order of cases (default: random, printed)"
    )
    command.add_argument(
        "-n", "--workers", type=number(0, 256), default=0, help="worker processes (default: 0, everything in one)"
    )
    command.add_argument(
        "--deadline-ms", type=number(1), default=5000, help="how long a script waits for an event (default: 5000)"
    )
    command.add_argument(
        "--faults",
        type=fault_plan,
        default=None,
        metavar="PLAN",
        help="put a relay between each UDP client and its endpoint that does to packets what PLAN says, by chance but"
        " the same again with the same seed: loss=0.01,reorder=0.01,seed=7 (shares: loss, reorder, duplicate, corrupt)",
    )
    command.add_argument(
        "--no-capture",
        action="store_true",
        help="write no captures (pcapng with keys, qlog) of what did not pass",
    )
    command.add_argument(
        "--capture-token",
        action="store_true",
        help="capture the connections that carry the profile's token, too: whoever has the capture has the token",
    )
    command.add_argument("--allure", type=Path, default=None, metavar="FOLDER", help="write Allure results here, too")
    command.add_argument("-v", "--verbose", action="store_true", help="one line per case")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the suite. 0: as expected; 1: unexpected verdicts; 2: nothing ran, or bad input; 3: our own fault; 130:
    interrupted."""
    profile = load(arguments.engine, frozenset(Ledger.load().features))
    if arguments.only or arguments.area or arguments.requirement:
        check_selection(collect(), only=arguments.only, areas=arguments.area, requirements=arguments.requirement)
    output: Path = arguments.output
    record_file = output / "run.json"
    for flag, folder in (("--output", output), ("--allure", arguments.allure)):
        if folder is not None:
            writable_folder(flag, folder)
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    print(f"edgecase: {profile.title} ({profile.edition}), seed {seed}", flush=True)
    try:
        record_file.unlink(missing_ok=True)
        remove_stale(output / FOLDER)
        session = Session(_pytest(arguments, seed, record_file), _environment())
        status = session.run()
        if not record_file.exists():
            return _without_record(status, session.interrupted)
        record = replace(read_record(record_file), argv=("edgecase", *sys.argv[1:]))
        write_record(record, record_file)
        code = finish(record, output, arguments.allure, status)
    except OSError as error:
        raise UsageError(f"--output: cannot write {error.filename or output}: {error.strerror}") from error
    return INTERRUPTED if session.interrupted else code


def _without_record(status: int, interrupted: bool) -> int:
    """The exit code when nothing was recorded."""
    if interrupted:
        print("edgecase: interrupted before the first case had ended", file=sys.stderr)
        return INTERRUPTED
    return 2 if status in (_USAGE, _NO_CASES) else 3


def _pytest(arguments: argparse.Namespace, seed: int, record_file: Path) -> list[str]:
    """The pytest command that runs the cases. A process of its own, so that xdist and our loop find a clean one."""
    folder = conformance_folder()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--no-header",
        "--tb=short",
    ]
    command += ["-W", "error", "--rootdir", str(folder.parent), "-c", os.devnull, "--import-mode=importlib"]
    command += ["-v" if arguments.verbose else "-q", "--engine", arguments.engine, "--edgecase-seed", str(seed)]
    command += ["--run-record", str(record_file), "--axes", arguments.axes, "--deadline-ms", str(arguments.deadline_ms)]
    for option in ("only", "area", "requirement"):
        for value in getattr(arguments, option):
            command += [f"--{option}", value]
    if arguments.faults:
        command += ["--faults", arguments.faults.written]
    if not arguments.no_capture:
        command += ["--evidence-folder", str((record_file.parent / FOLDER).absolute())]
        command += ["--capture-token"] if arguments.capture_token else []
    if arguments.workers:
        command += ["-n", str(arguments.workers)]
    return [*command, str(folder)]


def _environment() -> dict[str, str]:
    """The environment of the run, without pytest settings of the caller that would change it."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}


def finish(record: RunRecord, output: Path, allure_folder: Path | None, pytest_code: int) -> int:
    """Write the reports of `record`, print the summary, and give the exit code."""
    ledger = Ledger.load()
    (output / "index.html").write_text(html.render(record, ledger.rows), encoding="utf-8")
    (output / "junit.xml").write_text(junit.render(record), encoding="utf-8")
    if allure_folder is not None:
        allure.write(record, allure_folder)
    print(summary.text(record))
    print(f"report: {output / 'index.html'}  (data: {output / 'run.json'}, {output / 'junit.xml'})")
    if pytest_code not in (0, 1, 2):
        print(f"edgecase: the runner itself ended with {pytest_code}", file=sys.stderr)
        return 3
    code = summary.exit_code(record)
    if pytest_code == 1 and code == 0 and not record.stopped:
        print("edgecase: something besides the cases failed, see above", file=sys.stderr)
        return 3
    if code == 0 and all(case.verdict is Verdict.UNSUPPORTED for case in record.cases):
        # The headline says so; a CI that looks at the code alone must not take it for a proof.
        return 2
    return code
