"""The benchmark: what it prints and refuses, that it measures, and that it leaves nothing running. No test judges a
rate."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from harness.bench import suite
from harness.bench.benchmarks import BENCHMARKS, SUITE, Result
from harness.bench.blocks import BLOCK, LAST, MORE, Receiver, WrongBytes
from harness.bench.client import read_h2load
from harness.bench.run import Plan, choose
from harness.bench.table import as_json, as_text
from harness.cli.main import main
from harness.collect import collect
from harness.errors import UsageError
from harness.ledger import Ledger
from harness.profiles import load

MARK = "EDGECASE_TEST_BENCH"
DEADLINE = 240
GOLDEN = Path(__file__).parent / "golden" / "run.json"
SHARES = 6
"""Parts of the list of benchmarks that are tried apart, so that several processes can share them."""
COMMAND = [sys.executable, "-W", "error", "-c", "from harness.cli.main import entry; entry()", "bench"]

CANNED = [
    Result(
        "tls-terminated-download",
        "MB/s",
        {"engine": [200.0, 190.0, 210.0], "direct": [800.0, 760.0, 420.0], "bare": [250.0, 200.0, 300.0]},
        {
            "engine": [
                {"client": 0.3, "engine": 0.8},
                {"client": 0.3, "engine": 0.95},
                {"client": 0.2, "engine": 0.84},
            ],
            "bare": [{"client": 0.3, "relay": 0.5}, {"client": 0.3, "relay": 0.4}, {"client": 0.2, "relay": 0.6}],
        },
    ),
    Result("http1-requests", "1/s", {"engine": [2000.0], "direct": [4000.0]}),
    Result("idle-memory", "MB", {"engine": [97.25], "bare": [80.0]}, less=True, extra={"agents": 1000}),
    Result("case-median", "ms", {"engine": [10.0, 12.0, 30.0]}, less=True, extra={"quartiles": [10.0, 12.0, 30.0]}),
]


def test_the_json_has_the_medians_by_column_and_null_for_what_does_not_apply() -> None:
    told = as_json(CANNED, engine="An engine 1.0", seconds=0.5)
    shape = ("name", "unit", "engine", "direct", "bare", "samples")
    assert [tuple(result[key] for key in shape) for result in told["results"]] == [
        ("tls-terminated-download", "MB/s", 200.0, 760.0, 250.0, 3),
        ("http1-requests", "1/s", 2000.0, 4000.0, None, 1),
        ("idle-memory", "MB", 97.25, None, 80.0, 1),
        ("case-median", "ms", 12.0, None, None, 3),
    ]
    assert tuple(told["results"][0])[:6] == shape
    assert json.loads(json.dumps(told)) == told
    assert (told["engine"], told["seconds"]) == ("An engine 1.0", 0.5)
    assert told["machine"]["cores"] >= 1
    assert "OpenSSL" in told["machine"]["openssl_engine"]


def test_ratios_are_of_samples_that_were_taken_in_turn() -> None:
    # The medians alone would give 200 / 760; the third round was disturbed, and disturbed all columns.
    first = as_json(CANNED, engine="", seconds=1)["results"][0]
    assert (first["engine_to_direct"], first["engine_to_bare"]) == (0.25, 0.8)
    assert first["spread"] == {"engine": 0.05, "direct": 0.25, "bare": 0.2}
    assert first["cpu"] == {"engine": {"client": 0.3, "engine": 0.84}, "bare": {"client": 0.3, "relay": 0.5}}
    assert first["cpu_engine_to_bare"] == 2.0, "0.004 of a core for each megabyte, to 0.002"


def test_the_table_says_ratios_the_machine_and_what_its_columns_are() -> None:
    text = as_text(CANNED, engine="An engine 1.0", seconds=0.5, bare=True)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["tls-terminated-download"] == [
        *("tls-terminated-download", "MB/s", "200", "±5%", "760", "±25%", "250", "±20%", "0.25", "0.80", "2.00", "84%")
    ]
    assert rows["http1-requests"] == ["http1-requests", "1/s", "2000", "4000", "-", "0.50", "-", "-", "-"]
    assert rows["idle-memory"] == ["idle-memory", "MB", "97.2", "-", "80", "-", "1.22", "-", "-"]
    assert rows["case-median"] == ["case-median", "ms", "12", "-", "-", "-", "-", "-", "-"]
    for said in (
        "An engine 1.0; samples of 0.5 s",
        "cores, ",
        "Python 3.",
        "OpenSSL",
        "\ndirect: ",
        "\nbare: a relay of",
    ):
        assert said in text
    assert "1000 agents with a tunnel each" in text
    assert "3 cases, half of them from 10 to 30 ms" in text
    assert text.splitlines()[-1].endswith("noisy; the ratios of samples taken in turn are less so.")


def test_the_table_says_where_the_bare_relay_is_when_it_is_not_there() -> None:
    text = as_text(CANNED[1:2], engine="", seconds=1, bare=False)
    assert "\nbare: not measured: the bare relay is part of a checkout (tests/bench/relay.py)" in text


def test_an_installed_copy_has_no_bare_column(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = Plan(load("reference"), BENCHMARKS)
    assert "bare" in plan.columns
    monkeypatch.setattr(harness, "__file__", str(tmp_path / "harness" / "__init__.py"))
    assert "bare" not in plan.columns


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "tls-terminated"], "--only: found 'tls-terminated', allowed is a benchmark; did you mean"),
        (["--samples", "0"], "--samples: found '0', allowed is a whole number from 1 to 1000"),
        (["--samples", "two"], "--samples: found 'two', allowed is a whole number"),
        (["--seconds", "0"], "--seconds: found '0', allowed is a number from 0.01 to 3600"),
        (["--seconds", "nan"], "--seconds: found 'nan', allowed is a number"),
        (["--seconds", "1s"], "--seconds: found '1s', allowed is a number"),
        (["--agents", "-1"], "--agents: found '-1', allowed is a whole number from 1 to 10000"),
        (["--engine", "nobody"], "--engine nobody: no such profile; shipped are"),
        (["--engine", "haproxy"], "--engine haproxy: found driver.kind 'adapter', allowed is launch or agent"),
        (["--suite", "nowhere.json"], "--suite: "),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["bench", *arguments])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else -1
    out, told = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in told
    assert told.count("\n") == 1


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "engine.toml"
    file.write_text(f'name = "x"\ntitle = "X"\nedition = "none"\n{text}', encoding="utf-8")
    return str(file)


RUNNING = '[driver]\nkind = "agent"\naddress = "127.0.0.1:1"\ndomain = "x.test"\n'


def test_what_an_engine_does_not_claim_is_not_asked_of_it(tmp_path: Path) -> None:
    profile = load(written(tmp_path, f'features = ["http.h1"]\n{RUNNING}'))
    names = [one.name for one in choose(profile, []) if not one.tool]
    requests = ["http1-requests", "http1-round-trips", "http1-download", "http1-upload"]
    assert names == [*requests, "http-h1-h1", "http-h1-h1-bulk", "case-median"]
    with pytest.raises(UsageError, match=r"^--only tls-connections: the profile x does not claim tls\.terminated$"):
        choose(profile, ["tls-connections"])
    with pytest.raises(
        UsageError, match=r"^--only idle-memory: the process of the engine of profile x is out of sight$"
    ):
        choose(profile, ["idle-memory"])


def test_an_engine_that_is_not_there_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, f'features = ["http.h1"]\n{RUNNING}')
    assert main(["bench", "--engine", file, "--only", "http1-requests"]) == 1
    out, told = capsys.readouterr()
    assert out == ""
    assert told.splitlines()[-1].startswith(
        "edgecase: bench: http1-requests: engine: no control channel at 127.0.0.1:1"
    )


class Canned:
    """A stream that has `data`, in pieces of any size."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv_into(self, buffer: memoryview) -> int:
        piece, self.data = self.data[: min(len(buffer), 65_537)], self.data[min(len(buffer), 65_537) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def sendall(self, data: bytes) -> None:
        raise AssertionError("nothing is written")


def test_every_octet_of_the_load_is_compared() -> None:
    assert Receiver(Canned(MORE + MORE + LAST)).blocks() == 3 * BLOCK
    assert Receiver(Canned(MORE * 3)).blocks(count=2) == 2 * BLOCK
    assert Receiver(Canned(MORE[5:] + LAST)).blocks(MORE[:5]) == 2 * BLOCK
    wrong = bytearray(MORE)
    wrong[BLOCK // 2] ^= 1
    with pytest.raises(WrongBytes, match=f"the block behind {BLOCK} octets is not the one that was sent"):
        Receiver(Canned(MORE + bytes(wrong) + LAST)).blocks()
    with pytest.raises(WrongBytes, match=r"the stream ended after \d+ octets, without the last block"):
        Receiver(Canned(MORE)).blocks()
    with pytest.raises(WrongBytes, match=f"the stream ended after {BLOCK - 1} of {BLOCK} octets"):
        Receiver(Canned(LAST[1:])).blocks()


H2LOAD = """
finished in 1.01s, 564.00 req/s, 91.43KB/s
requests: 564 total, 572 started, 564 done, {done} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 564 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_what_h2load_says() -> None:
    assert read_h2load(H2LOAD.format(done=564, failed=0)) == 564.0
    with pytest.raises(WrongBytes, match="h2load counted 564 done, 563 succeeded, 1 failed"):
        read_h2load(H2LOAD.format(done=563, failed=1))
    with pytest.raises(WrongBytes, match="h2load counted no request: ''"):
        read_h2load("")


def test_a_benchmark_that_needs_a_tool_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "http1-requests-h2load" not in [one.name for one in choose(load("reference"), [])]
    with pytest.raises(UsageError, match=r"^--only http1-requests-h2load: there is no h2load on the path$"):
        choose(load("reference"), ["http1-requests-h2load"])


class Bench:
    """One `edgecase bench` in a session of its own; `mark` is in the environment of everything that it starts."""

    def __init__(self, *arguments: str) -> None:
        self.mark = secrets.token_hex(8)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def left(self) -> list[str]:
        """What still runs and was started by it."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


@contextlib.contextmanager
def bench(*arguments: str) -> Iterator[Bench]:
    one = Bench(*arguments)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


def test_every_benchmark_is_chosen_that_can_be_had() -> None:
    due = choose(load("reference", frozenset(Ledger.load().features)), ())
    left_out = [one for one in BENCHMARKS if one not in due and one.features <= load("reference").features]
    assert [one.tool for one in left_out] == ([] if shutil.which("h2load") else ["h2load"])


@pytest.mark.parametrize("share", range(SHARES))
def test_every_benchmark_measures_and_leaves_nothing_behind(share: int) -> None:
    due = choose(load("reference", frozenset(Ledger.load().features)), ())[share::SHARES]
    only = [word for benchmark in due for word in ("--only", benchmark.name)]
    options = ("--samples", "1", "--seconds", "0.05", "--agents", "20", "--suite", str(GOLDEN))
    with bench("--json", *options, *only) as one:
        out, told = one.process.communicate(timeout=DEADLINE)
        assert one.process.returncode == 0, told.decode()
        assert one.left() == []
    results = {result["name"]: result for result in json.loads(out)["results"]}
    assert list(results) == [benchmark.name for benchmark in due]
    for benchmark in due:
        result = results[benchmark.name]
        wanted = {"engine"} | ({"direct"} if benchmark.action else set()) | ({"bare"} if benchmark.bare else set())
        assert {column for column in ("engine", "direct", "bare") if result[column] is not None} == wanted
        assert all(result[column] > 0 for column in wanted)
        assert result["samples"] >= 1
    progress = told.decode().splitlines()
    assert all(line.startswith("[") for line in progress)
    assert sum("round 1 of 1: engine " in line for line in progress) == len(due) - (SUITE in results)


def test_the_case_median_of_a_run_that_was_made_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--only", SUITE, "--suite", str(GOLDEN)]) == 0
    assert "\ncase-median" in capsys.readouterr().out


def test_the_case_median_of_a_run_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "chosen_cases", lambda: ["http-sanity"])
    assert main(["bench", "--json", "--only", SUITE]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["name"] == SUITE
    assert 1 <= result["samples"] < 10  # with the sanity case, which runs in front and behind


def test_the_cases_of_the_case_median_are_of_all_areas() -> None:
    areas = {case.id: case.area for case in collect()}
    assert {areas[key.partition("[")[0]] for key in suite.chosen_cases()} == set(areas.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything(number: signal.Signals) -> None:
    with bench("--only", "tls-terminated-download", "--samples", "1000", "--seconds", "0.05") as one:
        assert one.process.stderr is not None
        for line in one.process.stderr:
            if b"round 1 of 1000" in line:
                break
        assert len(one.left()) >= 5
        one.process.send_signal(number)
        out, told = one.process.communicate(timeout=DEADLINE)
        assert (one.process.returncode, out) == (130, b"")
        assert told.decode().splitlines()[-1] == "edgecase: interrupted; nothing is left running"
        assert one.left() == []


def test_an_engine_that_dies_is_named_and_nothing_is_left() -> None:
    with bench("--only", "http1-requests", "--samples", "1000", "--seconds", "0.05") as one:
        assert one.process.stderr is not None
        for line in one.process.stderr:
            if b"round 1 of 1000" in line:
                break
        engines = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if engine_of(folder, one.mark)]
        assert len(engines) == 1
        os.kill(engines[0], signal.SIGKILL)
        out, told = one.process.communicate(timeout=DEADLINE)
        assert (one.process.returncode, out) == (1, b"")
        last = told.decode().splitlines()[-1]
        assert last.startswith("edgecase: bench: http1-requests: the engine was killed by signal 9 (SIGKILL)")
        assert one.left() == []


def engine_of(folder: Path, mark: str) -> bool:
    with contextlib.suppress(OSError):
        marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
        return marked and b"reference_engine" in (folder / "cmdline").read_bytes().split(b"\0")
    return False
