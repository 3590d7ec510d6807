"""What the runner says of a case behind a bad adapter: whose fault it is, and never `fail`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from harness.engine.driver import Driver
from harness.engine.factory import make_driver
from harness.errors import SetupFailed
from harness.ledger import Ledger
from harness.model.case import MARK, Case, case
from harness.model.profile import Profile
from harness.model.record import CaseResult
from harness.model.spec import Settings, tls
from harness.model.verdict import Verdict
from harness.pool import MAX_LOST, EnginePool, Planned
from harness.runner import Runner
from harness.worker import LoopThread

RULE = "TLS-001"
LONG, SHORT = 20_000, 1000
"""Milliseconds for an answer: short where silence is what is tried."""


def declared(name: str) -> Case:
    """A case that carries a nonce through its tunnel."""

    async def function(scene: Any) -> None:
        """A nonce comes through."""
        await scene.pair()
        scene.expect(RULE, True, expected="it", actual="it")

    return getattr(case(name, checks=[RULE], family="tls", publish=tls())(function), MARK)  # type: ignore[no-any-return]


def behind(way: Sequence[str], timeout_ms: int) -> Profile:
    """The profile of a bad adapter."""
    return Profile(
        name="bad",
        title="Bad",
        edition="none",
        kind="adapter",
        driver={
            "kind": "adapter",
            "command": [sys.executable, "-m", f"tests.adapters.{way[0]}", *way[1:]],
            "timeout_ms": timeout_ms,
        },
        features=frozenset({"tls.terminated", "tls.1.2"}),
        file="bad.toml",
    )


def run(way: Sequence[str], *names: str, timeout_ms: int = LONG) -> list[CaseResult]:
    """Run these cases, one after the other, on one adapter."""
    chosen = behind(way, timeout_ms)
    planned = [Planned(made, made.variants[0], made.settings) for made in map(declared, names)]
    pool = EnginePool(chosen, make_driver, planned)
    runner = Runner(chosen, Ledger.load(), pool, {})
    loop = LoopThread()
    try:
        return [loop.call(runner.run(one)) for one in planned]
    finally:
        loop.call(pool.close())
        loop.stop()


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("dead", "ended with status 3: simple: no configuration"),
        ("hang", "no answer to 'hello' within 1 s"),
        ("deaf", "no answer to 'hello' within 1 s"),
        ("leaves_pipes", "no answer to 'hello' within 1 s"),
        ("garbage", "printed what is not JSON"),
        ("banner", "printed what is not JSON"),
        ("nested", "printed what is not JSON"),
        ("array", "printed what is not JSON-RPC 2.0"),
        ("empty_lines", "printed more than 1000 lines in a row that answer nothing"),
        ("Progress", "printed more than 1000 lines in a row that answer nothing"),
        ("NotJsonRpc", "printed what is not JSON-RPC 2.0"),
        ("NoResult", "answered without result or error"),
        ("WrongId", "answered a request that nobody made"),
        ("AnswersTrue", "answered a request that nobody made"),
        ("AnswersTwice", "answered a request that nobody made"),
        ("LagsBehind", "no answer to 'hello' within 1 s"),
        ("LongLine", "printed a line of more than"),
        ("NestedAnswer", "printed JSON of more than 32 levels"),
        ("WrongSchema", "answered 'hello' with features"),
        ("OtherProtocol", "speaks protocol 2, this suite speaks 1"),
        ("SaysNoAtHello", "hello: OSError: the licence has expired"),
        ("Chatty", "sent an unknown notification 'progress'"),
        ("EndsAfterHello", "ended with status 7"),
        ("NeverStarts", "answered 'start' with the unsupported setting 'domain', which nobody asked for"),
        ("ListensNowhere", "named a listener (redirect) where nobody listens: 127.0.0.1:"),
        ("HangsOnStart", "no answer to 'start' within 1 s"),
        ("HangsOnPublish", "no answer to 'publish' within 1 s"),
        ("DiesOnPublish", "ended with status 9"),
        ("PublishesOneLess", "answered 'publish' of 3 specs with 2 results"),
        ("PublishesOneMore", "answered 'publish' of 3 specs with 4 results"),
        ("Reverses", "the results must stand in the order of the specs"),
        ("SamePlace", "at the same place as"),
        ("PortZero", "port: 0 is less than the minimum of 1"),
        ("PortInWords", "port: '443' is not of type 'integer'"),
        ("PortTooHigh", "65536 is greater than the maximum"),
        ("OverUdp", "over udp, and tls runs over tcp"),
        ("HostWithSpace", "endpoint.host: 'a b"),
        ("HalfSurrogate", "printed what is not JSON"),
        ("AddressOfNobody", "where nobody listens"),
        ("MoreKeys", "'colour' was unexpected"),
        ("Unreachable", "where nobody listens"),
        ("BlackHole", "but it does not carry: nothing came to the upstream within 1 s"),
        ("Crossed", "but it does not carry"),
        ("LacksWhatItClaims", "answered that it lacks 'tls.terminated', which the profile claims"),
        ("RefusesAll", "answered that it lacks 'tls.terminated', which the profile claims"),
        ("DiesAfterPublish", ""),
    ],
)
def test_a_bad_adapter_is_setup_for_every_case(way: str, cause: str) -> None:
    silent = "within 1 s" in cause or way == "Crossed"
    results = run(["bad", way], "one", "two", timeout_ms=SHORT if silent else LONG)
    for result in results:
        assert result.verdict is Verdict.SETUP, result
        assert result.cause.startswith("adapter: "), result.cause
        assert cause in result.cause
        assert len(result.cause.splitlines()) == 1


@pytest.mark.parametrize(
    "way", ["HangsOnShutdown", "IgnoresShutdown", "LeavesProcess", "LogsTooMuch", "HangsOnUnpublish"]
)
def test_what_is_bad_at_the_end_only_spoils_no_case(way: str) -> None:
    assert [result.verdict for result in run(["bad", way], "one", "two")] == [Verdict.PASS] * 2


@pytest.mark.parametrize(
    ("way", "verdict", "cause"),
    [
        ("EngineDies", Verdict.CRASH, "the engine was killed by signal 9"),
        ("AdapterIsTheEngine", Verdict.CRASH, "the engine was killed by signal 9"),
        ("AdapterDies", Verdict.SETUP, "adapter: was killed by signal 9"),
        ("AdapterHangs", Verdict.SETUP, "adapter: no answer to 'status' within 1 s"),
        ("AdapterTalksNonsense", Verdict.SETUP, "adapter: printed what is not JSON: 'segmentation fault"),
    ],
)
def test_an_end_in_mid_run_is_told_and_the_run_goes_on(way: str, verdict: Verdict, cause: str) -> None:
    timeout_ms = SHORT if way == "AdapterHangs" else LONG
    before, doomed, after = run(["mortal", way, "doomed"], "before", "doomed", "after", timeout_ms=timeout_ms)
    assert (before.verdict, doomed.verdict, after.verdict) == (Verdict.PASS, verdict, Verdict.PASS)
    assert doomed.cause.startswith(cause)


def test_an_adapter_that_is_lost_again_and_again_is_not_started_for_ever() -> None:
    names = [f"doomed-{number}" for number in range(MAX_LOST + 2)]
    results = run(["mortal", "AdapterDies", "doomed-"], *names)
    assert {result.verdict for result in results} == {Verdict.SETUP}
    assert {result.cause.partition(":")[0] for result in results} == {"adapter"}


@pytest.mark.parametrize("private", [False, True])
def test_an_adapter_without_hello_is_started_once_for_all_settings(private: bool) -> None:
    made: list[Driver] = []

    def factory(profile: Profile) -> Driver:
        made.append(make_driver(profile))
        return made[-1]

    async def causes() -> list[str]:
        pool = EnginePool(behind(["bad", "hang"], SHORT), factory)
        found = []
        for name in ("a.test", "b.test", "c.test"):
            with pytest.raises(SetupFailed) as caught:
                await (pool.private if private else pool.engine)(Settings.of({"domain": name}))
            found.append(caught.value.cause)
        return found

    assert asyncio.run(causes()) == ["adapter: no answer to 'hello' within 1 s"] * 3
    assert len(made) == 1
