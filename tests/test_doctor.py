"""The doctor: a sound adapter passes, and every bad one is told what is wrong with it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.doctor import Check, Wrong, examine, unknown_features
from harness.ledger import Ledger
from harness.model.profile import Profile
from harness.profiles import load

FEATURES = frozenset(Ledger.load().features)
TIMEOUT = 2.0


def profile(*command: str, features: Sequence[str] = ("tls.terminated",)) -> Profile:
    return Profile(
        name="bad",
        title="Bad",
        edition="none",
        kind="adapter",
        driver={"kind": "adapter", "command": list(command)},
        features=frozenset(features),
        file="bad.toml",
    )


def bad(way: str) -> Profile:
    return profile(sys.executable, "-m", "tests.adapters.bad", way)


def wrong(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if not check.ok]


def test_a_sound_adapter_passes_every_check() -> None:
    told: list[Check] = []
    checks = examine(profile(sys.executable, "-m", "tests.adapters.simple"), FEATURES, timeout=10, tell=told.append)
    assert wrong(checks) == []
    assert [check.name for check in told][-1] == "nothing left"
    assert len(told) == len(checks) == 19


# Way to be bad, the check that finds it, what it says.
WAYS = [
    ("dead", "hello", "ended with status 3: simple: no configuration"),
    ("hang", "hello", "no answer to 'hello' within"),
    ("deaf", "hello", "no answer to 'hello' within"),
    ("garbage", "hello", "printed what is not JSON"),
    ("banner", "hello", "printed what is not JSON: 'Starting up"),
    ("nested", "hello", "printed what is not JSON"),
    ("array", "hello", "printed what is not JSON-RPC 2.0"),
    ("NotJsonRpc", "hello", "printed what is not JSON-RPC 2.0"),
    ("NoResult", "hello", "answered without result or error"),
    ("WrongId", "hello", "answered a request that nobody made"),
    ("AnswersTwice", "unknown method", "answered a request that nobody made"),
    ("LongLine", "hello", "a line of more than 4194304 octets"),
    ("WrongSchema", "hello", "features: 'all of them' is not of type 'array'"),
    ("OtherProtocol", "hello", "it speaks protocol 2, this suite speaks 1"),
    ("SaysNoAtHello", "hello", "the licence has expired"),
    ("Chatty", "hello", "unknown notification 'progress'"),
    ("EndsAfterHello", "unknown method", "ended with status 7: simple: that is all"),
    ("ClaimsUnknown", "features", "'tls.terminate' (did you mean 'tls.terminated'?)"),
    ("ClaimsTooMuch", "publish", "though hello claims http.h1"),
    ("AnswersUnknownMethods", "unknown method", "was answered with a result"),
    ("OtherErrorForUnknownMethods", "unknown method", "was answered with error -32000"),
    ("IgnoresUnknownMethods", "unknown method", "no answer to 'x-"),
    ("TakesEverySetting", "unknown setting", "was accepted"),
    ("NeverStarts", "start", "lists ['domain'] as unsupported"),
    ("ListensNowhere", "start", "nobody listens at the address 'redirect': 127.0.0.1:"),
    ("PublishesOneLess", "publish", "answered 'publish' of 5 specs with 4 results"),
    ("PublishesOneMore", "unknown protocol", "answered 'publish' of 1 specs with 2 results"),
    ("Reverses", "publish", "the results must stand in the order of the specs"),
    ("SamePlace", "publish", "at the same place as 'doctor/tls'"),
    ("PortZero", "publish", "port: 0 is less than the minimum of 1"),
    ("PortInWords", "publish", "port: '443' is not of type 'integer'"),
    ("PortTooHigh", "publish", "65536 is greater than the maximum"),
    ("OverUdp", "publish", "over udp, and tls runs over tcp"),
    ("HostWithSpace", "publish", "endpoint.host: 'a b"),
    ("HalfSurrogate", "publish", "printed what is not JSON"),
    ("TellsNoUdpPort", "endpoints", "http has no udp_port, though hello claims http.downstream-h3"),
    ("AddressOfNobody", "endpoints", "nobody listens at the endpoint of tls: nobody.invalid"),
    ("MoreKeys", "publish", "'colour' was unexpected"),
    ("LacksWhatItClaims", "publish", "(lacks tls.terminated), though hello claims"),
    ("AnswersTrue", "hello", "answered a request that nobody made"),
    ("LagsBehind", "hello", "no answer to 'hello' within"),
    ("NestedAnswer", "hello", "printed JSON of more than 32 levels"),
    ("Progress", "hello", "more than 1000 lines in a row that answer nothing"),
    ("empty_lines", "hello", "more than 1000 lines in a row that answer nothing"),
    ("leaves_pipes", "hello", "no answer to 'hello' within"),
    ("HangsOnStart", "unknown setting", "no answer to 'start' within"),
    ("HangsOnUnpublish", "unpublish", "no answer to 'unpublish' within"),
    ("HangsOnShutdown", "shutdown", "no answer to 'shutdown' within"),
    ("DiesAfterPublish", "endpoints|traffic", "adapter: ended with status 5"),
    ("TakesEveryProtocol", "unknown protocol", "got an endpoint"),
    ("DropsUnknownProperties", "unknown property", "got an endpoint"),
    ("DiesOnPublish", "unknown protocol", "ended with status 9"),
    ("HangsOnPublish", "unknown protocol", "no answer to 'publish' within"),
    ("RefusesAll", "publish", "though hello claims tls.terminated"),
    ("Unreachable", "endpoints", "nobody listens at the endpoint of tls"),
    ("BlackHole", "traffic", "nothing came to the upstream"),
    ("Crossed", "traffic", "it came to the upstream of tls"),
    ("NeverWithdraws", "unpublish", "tls carries on after `unpublish`"),
    ("WithdrawsAll", "unpublish", "tls-2"),
    ("LogsTooMuch", "log", "`log` with lines=10 gave 11 lines"),
    ("SaysStopped", "status", "says that the engine does not run"),
    ("ForeignPid", "status", "pid 1 is no process that the adapter started"),
    ("ForgetsOnRestart", "restart", "after `restart` tls-2 is gone"),
    ("SilentDeath", "exited", "was killed and nothing came"),
    ("DeadRuns", "exited", "says that the killed engine runs"),
    ("IgnoresShutdown", "shutdown", "it still runs"),
    ("LeavesProcess", "nothing left", "processes that it started are left"),
]


class _Seen(Exception):  # noqa: N818 - ends an exam whose finding is known
    """The first check that failed."""

    def __init__(self, check: Check) -> None:
        super().__init__(str(check))
        self.check = check


def first_wrong(examined: Profile, timeout: float) -> Check:
    """The first check that fails; the exam ends there."""

    def tell(check: Check) -> None:
        if not check.ok:
            raise _Seen(check)

    with pytest.raises(_Seen) as seen:
        examine(examined, FEATURES, timeout=timeout, tell=tell)
    return seen.value.check


SILENT = {
    *(way for way, _, found in WAYS if "no answer to" in found or "nothing came" in found or "still runs" in found),
    *("Crossed", "WithdrawsAll", "DiesAfterPublish"),
}
"""Ways that are found by waiting: the wait is the timeout, and need not be long."""


@pytest.mark.parametrize(("way", "check", "found"), WAYS, ids=[way for way, _, _ in WAYS])
def test_a_bad_adapter_is_told_what_is_wrong(way: str, check: str, found: str) -> None:
    first = first_wrong(bad(way), TIMEOUT if way in SILENT else 10)
    assert (first.name in check.split("|"), found in first.found) == (True, True), str(first)
    assert first.advice
    assert len(str(first).splitlines()) == 2


@pytest.mark.parametrize("way", ["PublishesOneLess", "RefusesAll", "DiesOnPublish", "HangsOnPublish", "Unreachable"])
def test_an_exam_that_goes_on_ends(way: str) -> None:
    checks = examine(bad(way), FEATURES, timeout=TIMEOUT)
    assert [check.name for check in wrong(checks)] != []


def test_every_bad_adapter_is_tried() -> None:
    from tests.adapters.bad import CLASSES, PROGRAMS

    assert {way for way, _, _ in WAYS} == {*CLASSES, *PROGRAMS}


def test_noise_on_stderr_is_no_fault() -> None:
    assert wrong(examine(profile(sys.executable, "-m", "tests.adapters.noisy"), FEATURES, timeout=20)) == []


def test_a_command_that_does_not_exist() -> None:
    first = wrong(examine(profile("/nonexistent/adapter"), FEATURES))[0]
    assert first.name == "process"
    assert "cannot be started: /nonexistent/adapter" in first.found


def test_an_empty_command() -> None:
    first = wrong(examine(profile(), FEATURES))[0]
    assert (first.name, first.found) == ("process", "profile: driver.command is empty")


def test_a_profile_may_not_claim_more_than_its_adapter() -> None:
    claims = profile(sys.executable, "-m", "tests.adapters.simple", features=("tls.terminated", "quic"))
    first = wrong(examine(claims, FEATURES, timeout=10))[0]
    assert (first.name, "claims what the adapter does not: quic" in first.found) == ("features", True)


def test_unknown_features_of_a_profile_come_with_near_misses() -> None:
    with pytest.raises(Wrong, match=r"did you mean 'tls.passthrough'"):
        unknown_features(["tls.passthru"], FEATURES, "the profile")


def test_the_reference_engine_is_well() -> None:
    assert wrong(examine(load("reference"), FEATURES, timeout=20)) == []


def test_an_engine_that_does_not_answer(tmp_path: Path, free_port: int) -> None:
    file = tmp_path / "gone.toml"
    file.write_text(
        'name = "gone"\ntitle = "Gone"\nedition = "pro"\nfeatures = ["tls.terminated"]\n'
        f'[driver]\nkind = "agent"\naddress = "127.0.0.1:{free_port}"\ndomain = "gone.test"\n'
    )
    first = wrong(examine(load(str(file)), FEATURES))[0]
    assert first.name == "TCP"
    assert f"127.0.0.1:{free_port}" in first.found


@pytest.mark.parametrize(
    ("command", "found", "advice"),
    [
        (["no-such-engine"], "cannot start 'no-such-engine': no such program", "driver.command"),
        (["{python}", "-c", "print('hello')"], "its ready line is not as agreed: 'hello'", "docs/engine.md"),
        (["{python}", "-c", "import sys; sys.exit('no licence')"], "its last line: no licence", "by hand"),
        (["{python}", "-c", "import signal; signal.pause()"], "no ready line within 0.5 s", "start_timeout_ms"),
    ],
)
def test_an_engine_that_does_not_start(command: list[str], found: str, advice: str) -> None:
    driver = {"kind": "launch", "command": command, "start_timeout_ms": 500 if "pause" in command[-1] else 20_000}
    launched = dataclasses.replace(profile(), kind="launch", driver=driver)
    first = wrong(examine(launched, FEATURES))[0]
    assert (first.name, found in first.found, advice in first.advice) == ("control channel", True, True), str(first)


def command_line(*words: str, **environment: str) -> tuple[int, str, str]:
    """`edgecase doctor --engine ..` in a process of its own: exit code, stdout, stderr."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGECASE_")}
    code = "from harness.cli.main import entry; entry()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--engine", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**kept, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            None,
            "no such profile; shipped are envoy, haproxy, mitmproxy, reference, rstream; or give a TOML file's path",
        ),
        ('name = "x"\ncolour = "red"\n', "colour: unknown key, allowed are name, title"),
        ("name = ", "Invalid value"),
    ],
)
def test_a_profile_that_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, text: str | None, found: str
) -> None:
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_text(text)
    code, out, err = command_line(str(file))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert str(file) in err
    assert found in err


def test_the_template_without_its_variables_is_one_line() -> None:
    code, out, err = command_line("rstream")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "driver.address: the environment variable EDGECASE_ENGINE is not set" in err


def test_a_line_per_check_and_exit_code_1_for_a_wrong_one() -> None:
    here = {"EDGECASE_TOKEN": "t", "EDGECASE_CA_FILE": "/nonexistent", "EDGECASE_DOMAIN": "engine.test"}
    code, out, _ = command_line("rstream", EDGECASE_ENGINE="127.0.0.1:1", **here)
    lines = out.splitlines()
    assert code == 1
    assert lines[0].startswith("ok    profile: ")
    assert lines[1].startswith("WRONG TCP: 127.0.0.1:1: ")
    assert lines[-1] == "doctor: rstream: 1 of 2 checks failed"


@pytest.fixture
def free_port() -> int:
    """A port that was bound and is not listened on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
