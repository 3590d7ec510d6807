"""Any legal message through any pair of HTTP versions arrives with the same meaning, wherever its octets are cut."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import PeerMismatch
from harness.link.deadline import set_default
from harness.soak.carry import carry
from harness.soak.chance import METHODS, SEGMENT, TRIPLETS, WITH_CONTENT
from harness.soak.plan import BODILESS, Answer, Ask, Content, Plan
from harness.worker import LoopThread
from reference_engine.mutants.registry import MUTANTS, Reached
from reference_engine.parts import Parts
from tests.pairs_support import PAIRS, Ground, ground

# Messages

TOKENS = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
EDGES = st.sampled_from("".join(map(chr, range(0x21, 0x7F))) + "\xa1\xe9\xff")
INNER = st.text("".join(map(chr, range(0x21, 0x7F))) + "  \t\xa1\xff", max_size=60)
VALUES = st.one_of(st.builds("{}{}{}".format, EDGES, INNER, EDGES), EDGES).filter(lambda value: "," not in value)
FIELDS = st.lists(st.tuples(st.builds("x-{}".format, TOKENS), VALUES), max_size=8).map(tuple)
NEW_METHODS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ-", min_size=2, max_size=10).filter(
    lambda method: method not in ("CONNECT", "TRACE", "HEAD", "GET")
)
SEGMENTS = st.lists(st.one_of(st.text(SEGMENT, max_size=12), st.sampled_from(TRIPLETS)), max_size=4).map(
    lambda parts: "/s" + "".join(parts)
)
PATHS = st.builds(
    lambda segments, query: "".join(segments) + query,
    st.lists(SEGMENTS, max_size=4),
    st.one_of(st.just(""), st.builds("?{}".format, st.text(SEGMENT + "/?", min_size=1, max_size=20))),
)
PIECES = st.lists(st.binary(min_size=1, max_size=3000), max_size=5).map(tuple)
CONTENTS = st.one_of(
    st.builds(Content, PIECES, st.just(True)),
    st.builds(Content, PIECES, st.just(False), FIELDS),
)
STATUSES = st.one_of(st.sampled_from((200, 204, 304, 404, 500)), st.integers(200, 599)).filter(
    lambda status: status not in (205, 408, 421, 425, 503)
)
INTERIM = st.lists(st.tuples(st.sampled_from((102, 103, 104, 199)), FIELDS), max_size=2).map(tuple)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any legal exchange. Statuses on which an intermediary may act of its own accord, and 205, are left out."""
    method = draw(st.one_of(st.sampled_from(METHODS), NEW_METHODS))
    content = draw(st.one_of(st.none(), CONTENTS)) if method in WITH_CONTENT else None
    status = draw(STATUSES)
    answer = Content() if status in BODILESS else draw(CONTENTS)
    return Plan(Ask(method, draw(PATHS), draw(FIELDS), content), Answer(status, draw(FIELDS), draw(INTERIM), answer))


SIZES = st.lists(st.one_of(st.integers(1, 4), st.integers(1, 2000)), max_size=6).map(tuple)
"""Where the octets of a side are cut: the sizes of the pieces, over and over again."""

# The ground


@dataclass
class Running:
    """The ground on a loop in a thread of its own, for as long as the tests of a module run."""

    loop: LoopThread
    ground: Ground
    count: int = 0

    def carry(self, down: str, up: str, plan: Plan, cuts: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        """One exchange on a new connection. Raises what `carry` raises."""
        self.count += 1
        self.loop.call(self._carry(down, up, plan, cuts, f"{self.count:032x}"))

    async def _carry(
        self, down: str, up: str, plan: Plan, cuts: tuple[tuple[int, ...], tuple[int, ...]], nonce: str
    ) -> None:
        set_default(20.0)
        ground = self.ground
        client = await ground.client(down, up)
        ground.down.sizes, ground.up.sizes = cuts
        try:
            await carry(ground.leg(down, up), client, plan, nonce)
            assert client.violations == []
        finally:
            ground.down.sizes = ground.up.sizes = ()
            await client.close()


@contextlib.contextmanager
def on_a_loop(parts: Parts | None = None) -> Iterator[Running]:
    """The ground, and that nothing of it is left behind."""
    loop = LoopThread()
    stack = contextlib.AsyncExitStack()
    try:
        made = loop.call(stack.enter_async_context(ground(parts)))
        try:
            yield Running(loop, made)
        finally:
            loop.call(stack.aclose())
        assert loop.call(_tasks()) == [], "the engine and the peers are gone, and so are their tasks"
    finally:
        loop.stop()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with on_a_loop() as made:
        yield made


async def _tasks() -> list[str]:
    """What still runs besides this, once what only had to be woken has ended."""
    for _ in range(100):
        await asyncio.sleep(0)
    return [str(task) for task in asyncio.all_tasks() - {asyncio.current_task()}]


each_pair = pytest.mark.parametrize(("down", "up"), PAIRS, ids="-".join)
shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@each_pair
@settings(max_examples=6, derandomize=True, database=None, suppress_health_check=shared)
@given(plan=plans(), cuts=st.tuples(SIZES, SIZES))
def test_any_message_arrives(running: Running, down: str, up: str, plan: Plan, cuts: Any) -> None:
    running.carry(down, up, plan, cuts)


@pytest.mark.soak
@each_pair
@settings(max_examples=150, database=None, print_blob=True, suppress_health_check=shared)
@given(plan=plans(), cuts=st.tuples(SIZES, SIZES))
def test_very_many_messages_arrive(running: Running, down: str, up: str, plan: Plan, cuts: Any) -> None:
    running.carry(down, up, plan, cuts)


WHOLE = Plan(
    Ask("POST", "/a?b", (("x-a", "1"), ("x-a", "2")), Content((b"hello, ", b"world"), False, (("x-sum", "1"),))),
    Answer(201, (("x-b", "3"),), ((103, (("link", "</a>"),)),), Content((b"good", b"bye"), False, (("x-sum", "2"),))),
)
LENGTH = Plan(Ask("PUT", "/a", (), Content((b"hello",))), Answer(200, (), (), Content((b"bye",))))


@each_pair
@pytest.mark.parametrize("plan", [WHOLE, LENGTH], ids=["chunks", "length"])
def test_octet_by_octet(running: Running, down: str, up: str, plan: Plan) -> None:
    running.carry(down, up, plan, ((1,), (1,)))


@pytest.mark.soak
@each_pair
@pytest.mark.parametrize("plan", [WHOLE, LENGTH], ids=["chunks", "length"])
def test_cut_once_anywhere(running: Running, down: str, up: str, plan: Plan) -> None:
    """Both sides cut every write behind the same octet, whichever it is."""
    for at in range(1, 250):
        running.carry(down, up, plan, ((at, 1 << 20), (at, 1 << 20)))


def test_what_is_cut_is_read_in_pieces() -> None:
    """An engine that takes the end of what has come for the end of a head does not pass."""
    parts = Parts()
    importlib.import_module("reference_engine.mutants.http_syntax")
    MUTANTS["syntax-segment-is-a-head"].apply(parts, Reached(None))
    with on_a_loop(parts) as broken:
        broken.carry("h1", "h1", LENGTH, ((), ()))
        with pytest.raises(PeerMismatch):
            broken.carry("h1", "h1", LENGTH, ((1,), ()))
