"""Lanes: what one connection, or a few, go through in a step of the walk, while other lanes do the same beside it.

A lane raises `PeerMismatch`, `DeadlineExpired` or `LinkReset` for whatever the engine does against it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from harness.attack_run import Attacker, Run, answering
from harness.attacks import Words, load
from harness.errors import PeerMismatch
from harness.model.pairs import DOWNSTREAM
from harness.peer.http import ExchangeEnd, HttpClient, Response
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene
from harness.soak.carry import Leg, ask, begin, carry, differences, head, response
from harness.soak.carry import answer as answer_plan
from harness.soak.chance import Chance
from harness.soak.plan import Answer, Ask, Plan
from harness.tasks import side_by_side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VERSIONS = {"h1": "http/1.1", "h2": "h2", "h3": "h3"}
"""The points of `DOWNSTREAM`, and the version of `scene.http_client`."""
LARGE = 150_000
"""Octets of content that no window of ours takes at once."""
assert VERSIONS.keys() == DOWNSTREAM.keys()


@dataclass
class Lane:
    """One lane: its number in the step, its pair, its own source of chance, and what it has made so far."""

    number: int
    kind: str
    down: str
    up: str
    random: Random
    scene: Scene
    counted: Counter[str]
    nonces: set[str]
    clients: list[HttpClient] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = Chance(self.random)
        self.upstream = self.scene.http_upstream(self.up, version="")
        whole = "h1" not in (self.down, self.up)
        self.leg = Leg(self.scene, self.upstream, self.scene.endpoint(self.up).host, whole)

    def __str__(self) -> str:
        return f"lane {self.number} ({self.kind}, {self.down} to {self.up})"

    async def run(self) -> None:
        """Go through it."""
        await (LANES.get(self.kind) or plain)(self)

    async def connect(self) -> HttpClient:
        """A new connection of the lane's version, which must keep to the rules."""
        client: HttpClient = await self.scene.http_client(self.up, version=VERSIONS[self.down])
        self.clients.append(client)
        return client

    def nonce(self) -> str:
        """One that is known to be of this step."""
        nonce = f"{self.number:02}{self.random.randbytes(10).hex()}"
        self.nonces.add(nonce)
        return nonce

    def planned(self, **limits: int) -> tuple[Plan, str]:
        """A plan and its nonce."""
        nonce = self.nonce()
        return self.chance.plan(nonce, **limits), nonce

    async def exchange(self, client: HttpClient, **limits: int) -> Response:
        """One exchange by chance, whole and as it was said."""
        plan, nonce = self.planned(**limits)
        got = await carry(self.leg, client, plan, nonce)
        self.count(plan)
        return got

    def count(self, plan: Plan) -> None:
        """An exchange came through whole."""
        self.counted["exchanges"] += 1
        self.counted["octets"] += plan.octets

    def closes(self, got: Response) -> bool:
        """Whether the connection is not to be used behind this response (RFC 9112 section 9.6)."""
        return self.down == "h1" and "close" in (got.get("connection") or "").lower()


@asynccontextmanager
async def beside(step: Awaitable[None]) -> AsyncIterator[None]:
    """Run `step` until the block ends; what the engine does against it is nobody's business then."""
    task = asyncio.ensure_future(step)
    try:
        yield
    finally:
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, PeerMismatch):
            raise result


async def plain(lane: Lane) -> None:
    """One exchange with nothing to it."""
    await carry(lane.leg, await lane.connect(), Plan(Ask(), Answer()), lane.nonce())


async def one_by_one(lane: Lane) -> None:
    """Exchanges one after the other on a connection, as long as that takes any."""
    client = await lane.connect()
    for _ in range(lane.random.randint(1, 6)):
        if lane.closes(await lane.exchange(client)):
            client = await lane.connect()


async def abreast(lane: Lane) -> None:
    """Exchanges at the same time: on one connection of HTTP/2 and HTTP/3, on as many of HTTP/1.1."""
    count = lane.random.randint(2, 8)
    one = None if lane.down == "h1" else await lane.connect()
    clients = [one or await lane.connect() for _ in range(count)]
    await side_by_side(*(lane.exchange(client) for client in clients))


async def pipelined(lane: Lane) -> None:
    """Requests before the responses to those in front of them; on HTTP/1.1 the responses come in the same order."""
    client = await lane.connect()
    plans = [lane.planned(most=1000) for _ in range(lane.random.randint(2, 5))]

    async def behind(plan: Plan, nonce: str) -> UpstreamExchange:
        request = await lane.upstream.request(nonce)
        await answer_plan(request, plan, nonce)
        return request

    requests = [asyncio.ensure_future(behind(plan, nonce)) for plan, nonce in plans]
    try:
        exchanges = [await ask(client, plan, nonce) for plan, nonce in plans]
        for (plan, nonce), exchange, request in zip(plans, exchanges, requests, strict=True):
            got = await response(exchange, nonce)
            if found := await differences(lane.leg, plan, await request, got, nonce):
                raise PeerMismatch(f"{nonce} to arrive as it was said", found[0])
            lane.count(plan)
            if lane.closes(got):
                break
    finally:
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)


async def cancelled(lane: Lane) -> None:
    """The client gives an exchange up, wherever it is; the upstream learns of it, and the connection lives on."""
    client = await lane.connect()
    plan, nonce = lane.planned(least=LARGE)
    point = lane.random.choice(("asked", "asking", "answered"))
    exchange = await begin(client, plan, nonce)
    request = await lane.upstream.request(nonce)
    content = plan.ask.content
    assert content is not None
    if point != "asking":
        sending = [*(exchange.send_content(piece) for piece in content.pieces), exchange.finish(content.trailers)]
        await lane.scene.both(_in_turn(*sending), request.body())
    if point == "answered":
        await head(request, plan, nonce)
        await exchange.response_head()
    exchange.cancel()
    await request.ended()
    lane.counted["cancelled"] += 1
    await lane.exchange(client if lane.down != "h1" else await lane.connect(), most=1000)


async def _in_turn(*steps: Awaitable[None]) -> None:
    for step in steps:
        await step


async def broken(lane: Lane) -> None:
    """The upstream breaks its answer off: the client sees an error, or that the response is not whole."""
    client = await lane.connect()
    plan, nonce = lane.planned(least=1000)
    point = lane.random.choice(("asked", "head", "content"))

    async def behind() -> None:
        while True:  # an engine may try an idempotent request again
            request = await lane.upstream.request(nonce)
            await request.body_so_far()
            with suppress(PeerMismatch):
                if point != "asked":
                    await head(request, plan, nonce)
                if point == "content":
                    await request.send_content(plan.answer.content.whole[:500])
                request.break_off()

    async with beside(behind()):
        got = await (await ask(client, plan, nonce)).outcome()
    if isinstance(got, Response) and got.complete and got.status < 500:
        raise PeerMismatch(f"an error, or that the response to {nonce} is not whole", got.describe())
    lane.counted["broken off"] += 1
    gone = isinstance(got, ExchangeEnd) and got.kind != "reset"
    await lane.exchange(await lane.connect() if gone or lane.down == "h1" else client, most=1000)


async def unread(lane: Lane) -> None:
    """The client does not read a long response while another exchange goes through; then it arrives whole."""
    slow, quick = await lane.connect(), await lane.connect()
    plan, nonce = lane.planned(least=LARGE)
    while plan.ask.method == "HEAD":
        plan, nonce = lane.planned(least=LARGE)

    async def behind() -> UpstreamExchange:
        request = await lane.upstream.request(nonce)
        await answer_plan(request, plan, nonce)
        return request

    async def before() -> Response:
        exchange = await ask(slow, plan, nonce)
        await exchange.response_head()
        await lane.exchange(quick)
        return await response(exchange, nonce)

    request, got = await lane.scene.both(behind(), before())
    if found := await differences(lane.leg, plan, request, got, nonce):
        raise PeerMismatch(f"{nonce} to arrive as it was said", found[0])
    lane.count(plan)
    lane.counted["stalled"] += 1


async def untaken(lane: Lane) -> None:
    """The upstream does not read long content while another exchange goes through; then it arrives whole."""
    slow, quick = await lane.connect(), await lane.connect()
    plan, nonce = lane.planned(least=LARGE)

    async def behind() -> UpstreamExchange:
        request = await lane.upstream.request(nonce)
        await lane.exchange(quick, most=1000)
        await answer_plan(request, plan, nonce)
        return request

    async def before() -> Response:
        return await response(await ask(slow, plan, nonce), nonce)

    request, got = await lane.scene.both(behind(), before())
    if found := await differences(lane.leg, plan, request, got, nonce):
        raise PeerMismatch(f"{nonce} to arrive as it was said", found[0])
    lane.count(plan)
    lane.counted["stalled"] += 1


async def vanished(lane: Lane) -> None:
    """The client's connection ends in the middle of an exchange: the upstream learns of it."""
    client = await lane.connect()
    plan, nonce = lane.planned(least=1000)
    await begin(client, plan, nonce)
    request = await lane.upstream.request(nonce)
    if lane.down == "h3":
        await client.close()  # a QUIC connection that falls silent is only noticed by its idle timeout
    else:
        client.abort()
    await request.ended()
    lane.counted["vanished"] += 1


async def attacked(lane: Lane) -> None:
    """Entries of the attack corpora; what came of them is judged behind the barrier of the step."""
    attacker = Attacker(lambda: lane.scene.http_client(lane.up, version=VERSIONS[lane.down]))
    known = [entry for entry in load() if lane.down in entry.judged and "waits" not in entry.passes]
    for attack in lane.random.sample(known, lane.random.randint(1, 6)):
        run = Run(attack, Words(lane.leg.host, lane.nonce()))
        lane.runs.append(run)
        mark = f"-{run.words.nonce}"

        def strayed(mark: str = mark) -> bool:
            return any(mark in stray.raw_head.decode("latin-1") for stray in lane.upstream.unexpected)

        async with beside(answering(lane.upstream, run.words.nonce)):
            await attacker.attack(run, lane.upstream, strayed, _nothing)
        lane.counted["attacks"] += 1
    await attacker.close()


async def _nothing() -> None:
    """No barrier of its own: that of the step comes."""


LANES: Mapping[str, Callable[[Lane], Awaitable[None]]] = {
    "one by one": one_by_one,
    "abreast": abreast,
    "pipelined": pipelined,
    "cancelled": cancelled,
    "broken off": broken,
    "unread": unread,
    "untaken": untaken,
    "vanished": vanished,
    "attacked": attacked,
}
"""What a lane may be."""
