"""The HTTP/1.1 and WebSocket cases on engines that are none: what is green there must be so for a reason.

A case that passes on a blind relay, or on something that never reaches the upstream, has either seen its rule fulfilled
or has checked nothing. The tables say which ones have seen it, and why; no other may be green. None may end as our own
fault, and none may hang.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Iterable, Mapping

import pytest

import harness.runner
from harness.collect import collect
from harness.ledger import Ledger
from harness.model.record import CaseResult
from harness.model.verdict import Verdict
from harness.pool import EnginePool, Planned
from harness.profiles import load
from harness.runner import Runner
from harness.worker import LoopThread
from tests.no_engines import PlainScene, RelayDriver

GREEN = (Verdict.PASS, Verdict.INFO)
OTHER_VERSIONS = frozenset({"http.downstream-h2", "http.downstream-h3", "http.h2c", "http.h3"})
"""What the engines that are none do not even pretend to: they relay or babble on TCP."""
HASTY, PATIENT = 0.5, 30.0
"""Deadlines in seconds: a short one can only take green away, so it is right where none may be. What is to be green
waits for what comes, so a long one costs nothing."""
AT_ONCE, FEW = 128, 12
"""Cases side by side: many where most of them wait for nothing, few where each has work to do."""
WHOLE_SECONDS = 180.0

NOTHING_SAID = {"http-version-04*": "no Alt-Svc is said, which is a liberty"}
ON_A_RELAY: Mapping[str, str] = {
    # what is to arrive unchanged does
    "http-sanity": "a plain exchange",
    "http-authority-05*": "the client's one Host arrives",
    "http-authority-13": "`OPTIONS *` arrives as such",
    "http-chunked-0[569]*": "chunks, extensions and trailers arrive as chunks, extensions and trailers",
    "http-chunked-10*": "trailers arrive as trailers",
    "http-exchange-0[12356]*": "interim and early responses arrive",
    "http-exchange-07": "what closes early arrives",
    "http-exchange-09": "each request arrives behind the other",
    "http-exchange-13": "every client has an upstream connection of its own",
    "http-exchange-17[[]head*": "the client's own reader knows what has no body",
    "http-exchange-22": "the upstream's end arrives instead of its answer",
    "http-exchange-23": "each request arrives behind the other, and on that connection alone",
    "http-exchange-17[[]304*": "the client's own reader knows what has no body",
    "http-exchange-17[[]204-chunked]": "the client's own reader knows what has no body",
    "http-exchange-2[01]": "the length arrives as it was said",
    "http-fields-0[789]*": "fields arrive as they are",
    "http-fields-1[01]": "lines are neither joined nor added",
    "http-fields-1[34569]*": "targets, methods, statuses, octets and codings arrive as they are",
    "http-fields-17[[]1.1]": "the client says HTTP/1.1 itself",
    "http-fields-22": "trailers arrive as trailers",
    "http-fields-20*": "trailers arrive as trailers",
    "http-identity-09": "fields arrive as they are",
    "http-identity-1[123]*": "fields and legal lines arrive as they are",
    "http-framing-09*": "a coding arrives in its own spelling",
    "http-framing-10": "both codings arrive",
    "http-framing-1[2345]*": "each body arrives in its own framing",
    "http-lines-09*": "octets arrive as they are",
    "http-lines-1[245]*": "whatever its size, a head arrives whole",
    "http-errors-07*": "the phrase arrives, and the status with it",
    "http-errors-14": "the end of the connection arrives",
    "http-pair-0[123489]*": "methods, targets, fields, contents and trailers arrive as they are",
    "http-pair-1[01234568]*": "expectations, interim responses, codings, octets and Host arrive as they are",
    "http-pair-2[23]*": "pieces arrive as they come",
    "http-pair-2[56]*": "a stalled end stalls the other",
    "http-pair-30*": "early responses arrive",
    "http-pair-49*": "whatever its size, a head arrives whole",
    "http-pair-89*": "each tunnel has its own upstream",
    "http-version-01[[]h1]": "the scene says http/1.1 itself, in plain",
    "http-version-01[[]none]": "the scene says http/1.1 itself, in plain",
    "http-pair-3[1234]*": "contents and responses arrive, each on its own connection",
    "http-stream-0[12]*": "pieces arrive as they come",
    "http-stream-0[34]": "a stalled end stalls the other",
    "ws-h1-0[123456]*": "the handshake and its answer arrive, whatever they are",
    "ws-h1-1[245]": "the upstream's choice arrives",
    "ws-h1-2[1234567]*": "octets behind a 101 arrive as they are",
    "ws-h1-29*": "octets and ends arrive in their order",
    "ws-h1-30": "a stalled end stalls the other",
    # what breaks off does so at the other end, and nobody makes a whole of it
    "http-chunked-02*": "the upstream waits for the chunk",
    "http-chunked-04*": "the end arrives instead of the rest",
    "http-errors-0[23]*": "the end arrives instead of the rest",
    "http-errors-15*": "the end arrives instead of the rest",
    "http-framing-07*": "the upstream waits for the content",
    "http-framing-08": "the end arrives instead of the rest",
    "http-lines-13": "the upstream waits for the empty line",
    "http-pair-2[89]*": "the end of one connection ends the other",
    "http-pair-39*": "nothing is ever sent twice",
    "http-stream-05*": "the end of one connection ends the other",
    "ws-h1-28*": "a reset arrives as one",
    # the upstream itself does it
    "http-exchange-08": "the upstream reads the rest as a body",
    "http-exchange-12": "the client takes close for its own, and its next connection is the upstream's next",
    "http-exchange-16": "the next client comes on another upstream connection",
    "http-routing-03": "the upstream takes the whitespace off",
    "ws-h1-20": "the upstream's 100 arrives before its 101",
    "http-errors-1[89]*": "nothing is ever sent twice",
    "ws-h1-11*": "the upstream's refusal arrives",
    # recorded: the row leaves it open
    "http-authority-04*": "a comma and an empty Host are grammatical",
    "http-chunked-08": "a limit on extensions is a wish",
    "http-errors-22": "a parameter on chunked may be ignored",
    "http-identity-01*": "no Via is added",
    "http-identity-0[234]*": "nothing is said about the client, so nothing wrong",
    "http-identity-06*": "a request that may go no further may go on",
    "http-identity-07": "Max-Forwards may stay as it was",
    "http-identity-10*": "nothing is added, to any request",
    "http-fields-21": "nothing is said about the client, so nothing wrong",
    "http-pair-19*": "no Via is added",
    "http-pair-20*": "nothing is said about the client, so nothing wrong",
    "http-pair-44*": "no error is ever made",
    **NOTHING_SAID,
    "ws-h1-13": "two keys may go on where the upstream refuses them",
    "ws-h1-17": "another upgrade may be relayed",
}

REFUSES = {
    **NOTHING_SAID,
    "ws-h1-07": "the answer without a valid Accept does not arrive",
    "ws-h1-11*": "the handshake is refused",
    "ws-h1-17": "another upgrade may be refused",
}
ANY_SIZE = {"http-pair-49*": "a header section of any size may be refused"}
GREEN_ON: Mapping[str, Mapping[str, str]] = {
    "relay": ON_A_RELAY,
    "hole": NOTHING_SAID,
    "babble": NOTHING_SAID,
    "close": {**REFUSES, **ANY_SIZE},
    "reset": {**REFUSES, **ANY_SIZE},
    "error": {**REFUSES, "http-pair-14*": "`OPTIONS *` may be refused"},
}


def plan() -> list[Planned]:
    """Every variant that any engine of HTTP/1.1 may be asked to run as it stands, without an agent of the case's
    own."""
    profile = load("reference")
    cases = [
        case
        for case in collect()
        if case.area in ("http", "websocket")
        and not (case.settings.items or case.needs or case.slow)
        and case.refusal is None
    ]
    return [
        Planned(case, variant, case.settings.with_defaults(profile.settings))
        for case in cases
        for variant in case.variants
        if not case.features(variant) & OTHER_VERSIONS
    ]


def listed(key: str, table: Mapping[str, str]) -> bool:
    """Whether `table` says why the case may be green."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in table)


async def play(habit: str, chosen: Iterable[Planned], seconds: float, most: int) -> list[CaseResult]:
    """Run `chosen` side by side, without a sanity case: the engine is not sane, and the cases must tell by
    themselves."""
    profile = load("reference")
    pool = EnginePool(profile, lambda _: RelayDriver(profile, habit))
    runner = Runner(profile, Ledger.load(), pool, {}, deadline_seconds=seconds)
    turn = asyncio.Semaphore(most)

    async def one(planned: Planned) -> CaseResult:
        async with turn:
            return await runner.run(planned)

    try:
        async with asyncio.timeout(WHOLE_SECONDS):
            return list(await asyncio.gather(*map(one, chosen)))
    finally:
        await pool.close()


@pytest.fixture(autouse=True)
def in_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.runner, "Scene", PlainScene)


def run(habit: str, chosen: Iterable[Planned], seconds: float, most: int) -> list[CaseResult]:
    loop = LoopThread()
    try:
        return loop.call(play(habit, chosen, seconds, most))
    finally:
        loop.stop()


@pytest.mark.parametrize("habit", GREEN_ON)
def test_no_case_is_green_without_a_reason(habit: str) -> None:
    chosen = [planned for planned in plan() if not listed(planned.key, GREEN_ON[habit])]
    results = run(habit, chosen, HASTY, AT_ONCE)
    ours = {result.key: result.cause for result in results if result.verdict in (Verdict.HARNESS, Verdict.CRASH)}
    assert ours == {}
    assert [result.key for result in results if result.verdict in GREEN] == []


@pytest.mark.parametrize("habit", [habit for habit, table in GREEN_ON.items() if table])
def test_what_fulfils_its_rule_is_green(habit: str) -> None:
    chosen = [planned for planned in plan() if listed(planned.key, GREEN_ON[habit])]
    results = run(habit, chosen, PATIENT, FEW)
    seen = {result.key: (result.verdict, result.cause, result.outcomes) for result in results}
    assert {key: found for key, found in seen.items() if found[0] not in GREEN} == {}
    assert [pattern for pattern in GREEN_ON[habit] if not fnmatch.filter(seen, pattern)] == []
