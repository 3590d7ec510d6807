"""The soak: plans by chance are legal and the same again, what arrives otherwise is told, and a walk notices."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.cli.main import main
from harness.cli.soak import _end
from harness.model.profile import Profile
from harness.mutation import broken_profile, list_mutants
from harness.peer.http import Informational, Lines, Response
from harness.profiles import load
from harness.soak import walk
from harness.soak.census import Census, trouble
from harness.soak.chance import Chance, stuff
from harness.soak.lanes import LANES
from harness.soak.plan import Answer, Ask, Content, Plan, request_differences, response_differences
from harness.soak.walk import Walk, pairs_of

NONCE = "00ff"
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
VALUE = re.compile("([\x21-\x7e\xa1-\xff]([\x20-\x7e\t\xa1-\xff]*[\x21-\x7e\xa1-\xff])?)?\\Z")
PATH = re.compile(
    r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})*)*(\?([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2})*)?\Z"
)


# Plans


def test_plans_are_legal_and_the_same_again() -> None:
    one, again = Chance(Random(1)), Chance(Random(1))
    for _ in range(300):
        plan = one.plan(NONCE)
        assert plan == again.plan(NONCE)
        assert TOKEN.match(plan.ask.method)
        assert PATH.match(plan.ask.path), plan.ask.path
        fields = [*plan.ask.fields, *plan.answer.fields, *plan.answer.content.trailers]
        assert all(TOKEN.match(name) and name == name.lower() for name, _ in fields)
        assert all(VALUE.match(value) for _, value in fields)
        for content in (plan.ask.content, plan.answer.content):
            assert content is None or not (content.known and content.trailers)
            assert content is None or all(content.pieces)
        if plan.answer.status in (204, 304):
            assert plan.answer.content.whole == b""


def test_plans_take_every_shape() -> None:
    plans = [Chance(Random(seed)).plan(NONCE) for seed in range(300)]
    asked = [plan.ask.content for plan in plans]
    assert {content is None for content in asked} == {True, False}
    assert {content.known for content in asked if content} == {True, False}
    assert any(content.trailers for content in asked if content)
    assert any(len(content.pieces) > 2 for content in asked if content)
    assert any(plan.answer.interim for plan in plans)
    assert {plan.ask.method for plan in plans} >= {"GET", "POST", "HEAD", "BREW"}
    assert any(plan.octets > 100_000 for plan in plans)


def test_limits_on_content_hold() -> None:
    for seed in range(50):
        plan = Chance(Random(seed)).plan(NONCE, least=1000, most=2000)
        assert plan.ask.content is not None
        assert 1000 <= len(plan.ask.content.whole) <= 2000
        assert 1000 <= len(plan.answer.content.whole) <= 2000


def test_content_is_of_its_nonce() -> None:
    assert stuff("a", "request", 100) != stuff("b", "request", 100) != stuff("b", "response", 100)
    assert len(stuff("a", "request", 65_537)) == 65_537


# What arrives


@dataclass
class Seen(Lines):
    """What an upstream has of a request."""

    method: str = "POST"
    target: str = f"/{NONCE}/a?b"
    authority: str = "Tunnel.example:443"
    headers: list[tuple[str, str]] = field(
        default_factory=lambda: [("via", "1.1 e"), ("x-a", "1, 2"), ("cookie", "a=1; b")]
    )
    trailers: list[tuple[str, str]] = field(default_factory=lambda: [("X-Sum", "1")])
    violations: list[str] = field(default_factory=list)
    complete: bool = True
    body: bytes = b"hello"

    async def body_so_far(self) -> bytes:
        return self.body


ASK = Ask(
    "POST",
    "/a?b",
    (("x-a", "1"), ("cookie", "a=1"), ("x-a", "2"), ("cookie", "b")),
    Content((b"he", b"llo"), False, (("x-sum", "1"),)),
)


def asked(seen: Any, *, whole: bool = True) -> list[str]:
    return asyncio.run(request_differences(ASK, seen, nonce=NONCE, host="tunnel.example", whole=whole))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"method": "GET"}, "method 'GET' and not 'POST'"),
        ({"target": "/a?b"}, "target '/a?b' and not '/00ff/a?b'"),
        ({"authority": "other.example"}, "authority 'other.example' and not 'tunnel.example'"),
        ({"headers": [("x-a", "2"), ("x-a", "1"), ("cookie", "a=1; b")]}, "request field x-a '2, 1' and not '1, 2'"),
        ({"headers": [("x-a", "1, 2"), ("cookie", "a=1, b")]}, "request field cookie 'a=1, b' and not 'a=1; b'"),
        ({"body": b"help!"}, "request content that differs from octet 3 on"),
        ({"body": b"hello!"}, "request content that differs in length: 6 octets of 5"),
        ({"complete": False}, "request content that broke off behind 5 octets of 5"),
        ({"trailers": []}, "request trailers () and not (('x-sum', '1'),)"),
        ({"violations": ["a rule"]}, "a rule"),
    ],
)  # fmt: skip
def test_a_request_that_arrives_otherwise_is_told(change: dict[str, Any], told: str | None) -> None:
    assert asked(replace(Seen(), **change)) == ([told] if told else [])


def test_http1_may_drop_trailers_but_not_change_them() -> None:
    assert asked(replace(Seen(), trailers=[]), whole=False) == []
    assert asked(replace(Seen(), trailers=[("x-sum", "2")]), whole=False) != []


PLAN = Plan(ASK, Answer(201, (("x-b", "v"),), ((103, (("link", "<a>"),)), (102, ())), Content((b"fine",))))


EARLY = Informational(103, [("link", "<a>")])
NOT_SENT = "an interim response 103 that was not sent, or out of order"
CROSSED = "crossed or made up: 201 with 4 octets, its nonce is 'beef' and not '00ff'"


def answered(**changes: Any) -> Response:
    headers = [("edgecase-answer", NONCE), ("x-b", "v"), ("date", "now")]
    made = Response(201, headers, [], bytearray(b"fine"), complete=True)
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"status": 200}, "status 200 and not 201"),
        ({"headers": [("edgecase-answer", "beef")]}, CROSSED),
        ({"headers": [("edgecase-answer", NONCE)]}, "response field x-b '' and not 'v'"),
        ({"content": bytearray(b"fin")}, "response content that differs in length: 3 octets of 4"),
        ({"complete": False}, "response content that broke off behind 4 octets of 4"),
        ({"trailers": [("x-sum", "1")]}, "response trailers (('x-sum', '1'),) and not ()"),
        ({"informational": [Informational(100), EARLY, Informational(102)]}, None),
        ({"informational": [Informational(102)]}, None),
        ({"informational": [Informational(102), EARLY]}, NOT_SENT),
        ({"informational": [Informational(103, [("link", "<b>")])]}, NOT_SENT),
    ],
)  # fmt: skip
def test_a_response_that_arrives_otherwise_is_told(change: dict[str, Any], told: str | None) -> None:
    assert response_differences(PLAN, answered(**change), nonce=NONCE, whole=True) == ([told] if told else [])


def test_a_response_to_head_has_no_content() -> None:
    plan = replace(PLAN, ask=Ask("HEAD"))
    assert response_differences(plan, answered(content=bytearray()), nonce=NONCE, whole=True) == []
    assert response_differences(plan, answered(), nonce=NONCE, whole=True) != []


# The census


def test_what_is_given_back_is_compared() -> None:
    before = Census(8, 1, 50)
    assert not Census(8, 1, 5000).beyond(before)
    assert Census(9, 1, 50).beyond(before)
    assert Census(8, 2, 50).beyond(before)
    assert not Census(8).beyond(Census(8))
    assert str(before) == "8 descriptors, 1 tasks, 50 MiB"


@pytest.mark.parametrize(
    ("line", "is_trouble"),
    [
        ("2026-01-01 INFO engine open", False),
        ("Traceback (most recent call last):", True),
        ("Task was destroyed but it is pending!", True),
        ("Task exception was never retrieved", True),
        ("x ERROR something", True),
        ('census {"number": 1, "tasks": 3}', False),
        ("thread 'main' panicked at: panic", True),
    ],
)
def test_lines_that_no_engine_should_have_to_say(line: str, is_trouble: bool) -> None:
    assert trouble(["fine", line, "fine"]) == (line if is_trouble else "")


# The walk


def reference(program: Path) -> Profile:
    """The profile of the reference engine, started by a program of the test's own."""
    profile = load("reference")
    command = list(profile.driver["command"])
    at = command.index("-m")
    return replace(profile, driver={**profile.driver, "command": [*command[:at], str(program), *command[at + 2 :]]})


def walked(profile: Profile, seed: int, steps: int, **options: Any) -> tuple[walk.Report, list[str]]:
    told: list[str] = []
    made = Walk(profile, seed, told.append, **options)
    return asyncio.run(made.run(range(1, steps + 1), float("inf"))), told


def test_a_short_walk_is_whole_and_tells_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", "--steps", "3", "--seed", "5"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "seed 5, pairs h1 to h1" in said[0]
    assert re.search(r"3 steps, \d\d+ exchanges", said[-2])
    assert re.match(r"nothing crossed, nothing smuggled; the engine held \d+ descriptors, \d+ tasks", said[-1])


def test_a_step_is_the_same_again() -> None:
    def lanes(seed: int, step: int) -> list[tuple[str, str, str]]:
        chosen: list[tuple[str, str, str]] = []
        made = Walk(load("reference"), seed, lambda _: None)

        async def play(_: int, these: Any) -> list[walk.Failure]:
            chosen.extend((kind, down, up) for kind, down, up, _ in these)
            return []

        made._play = play  # type: ignore[assignment, method-assign]
        asyncio.run(made._step(step))
        return chosen

    assert lanes(7, 3) == lanes(7, 3)
    assert lanes(7, 3) != lanes(7, 4)
    assert {kind for step in range(60) for kind, _, _ in lanes(7, step)} == set(LANES)


LEAKY = """
import asyncio, os, sys
from reference_engine import cli
from reference_engine.http import server
serve = server.HttpTunnels.serve
async def leaks(self, *arguments, **options):
    {leak}
    return await serve(self, *arguments, **options)
server.HttpTunnels.serve = leaks
sys.exit(cli.main(sys.argv[1:]))
"""
KEPT = "kept = self.__dict__.setdefault('kept', []); "


@pytest.mark.parametrize(
    ("leak", "what"),
    [
        (KEPT + "kept.append(asyncio.ensure_future(asyncio.Event().wait()))", "tasks"),
        (KEPT + "kept.append(os.open('/dev/null', os.O_RDONLY))", "descriptors"),
    ],
)
def test_a_leak_is_noticed(leak: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "RETURN_SECONDS", 1.0)
    program = tmp_path / "leaky.py"
    program.write_text(LEAKY.replace("{leak}", leak), encoding="utf-8")
    report, _ = walked(reference(program), 5, 1)
    assert [failure.where for failure in report.failures] == [""]
    assert re.match(r"a leak: \d+ descriptors, \d+ tasks", report.failures[0].what)
    assert report.before is not None
    assert report.after is not None
    assert getattr(report.after, what) > getattr(report.before, what)


def noticed(mutant: str, tmp_path: Path, steps: int) -> walk.Failure:
    """What the first failure of a walk on this mutant is."""
    info = next(each for each in list_mutants() if each.id == mutant)
    report, _ = walked(broken_profile(info, tmp_path / "reached"), 5, steps)
    assert report.failures, "the walk noticed nothing"
    assert (tmp_path / "reached").exists(), report.failures[0]
    return report.failures[0]


def test_a_broken_rule_is_noticed(tmp_path: Path) -> None:
    assert " field " in noticed("http-fields-reversed", tmp_path, 20).what


@pytest.mark.soak
@pytest.mark.parametrize(
    "mutant",
    [
        "http-pipelined-lost",
        "http-pipelined-out-of-order",
        "http-stream-client-gone",
        "http-unknown-status",
        "http-up-break-hidden",
    ],
)
def test_rules_of_every_kind_are_noticed(mutant: str, tmp_path: Path) -> None:
    noticed(mutant, tmp_path, 200)


# The command


def told_by(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a call that is refused."""
    try:
        code = main(["soak", *arguments])
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    return said[0]


def test_what_is_asked_wrongly_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = told_by(["--minutes", "soon"], capsys)
    assert "argument --minutes: found 'soon', allowed is a number from 0.01 to 10080" in line
    assert "argument --step: found '0', allowed is a whole number" in told_by(["--step", "0"], capsys)
    profile = tmp_path / "bare.toml"
    text = 'name = "bare"\ntitle = "Bare"\nedition = "community"\nfeatures = ["tls.terminated"]\n'
    profile.write_text(text + '[driver]\nkind = "launch"\ncommand = ["true"]\n', encoding="utf-8")
    line = told_by(["--engine", str(profile)], capsys)
    assert line.endswith("bare.toml: features: found no HTTP version, allowed are some of http.h1, ..")


def test_an_adapter_is_told_that_it_publishes_too_early(capsys: pytest.CaptureFixture[str]) -> None:
    line = told_by(["--engine", "haproxy"], capsys)
    assert line.endswith(": found 'adapter', allowed is launch or agent: a soak publishes while it runs")


def test_an_engine_that_does_not_start_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "ends.toml"
    text = 'name = "ends"\ntitle = "Ends"\nedition = "community"\nfeatures = ["http.h1"]\n'
    profile.write_text(text + '[driver]\nkind = "launch"\ncommand = ["true"]\n', encoding="utf-8")
    assert main(["soak", "--engine", str(profile), "--seed", "1"]) == 1
    assert "edgecase: soak: engine: exited with status 0 before its ready line" in capsys.readouterr().err


def test_a_failure_says_how_to_have_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    report = walk.Report(7, steps=4, failures=[walk.Failure(4, "lane 2 (abreast, h2 to h3)", "no")])
    assert _end(report, "reference") == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == [
        "FAILED step 4, lane 2 (abreast, h2 to h3): no",
        "again: edgecase soak --engine reference --seed 7 --step 4",
    ]


def test_the_pairs_are_what_the_profile_claims() -> None:
    profile = replace(load("reference"), features=frozenset({"http.h1", "http.h3", "http.downstream-h2"}))
    assert pairs_of(profile) == (["h1", "h2"], ["h1", "h3"])
