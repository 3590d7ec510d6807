"""Steps of the corpus cases: each entry goes in as it is, and what came of it at the upstream is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from conformance.http._pairs import DOWN, UP, pair_features, pair_tunnel, point
from conformance.http._steps import meanwhile
from harness.attacks import Attack, Meaning, Words, load
from harness.errors import DeadlineExpired, PeerMismatch
from harness.ledger import Ledger
from harness.link.stream import End, LinkReset
from harness.model.case import CaseFunction, case
from harness.peer.http import ClientExchange, ExchangeEnd, HttpClient
from harness.peer.http1 import Http1Client
from harness.peer.http2 import Http2Client
from harness.peer.http3 import Http3Client
from harness.peer.http_upstream import Fragment, HttpUpstream, UpstreamExchange
from harness.scene import Scene
from harness.wire.http2 import frames
from harness.wire.http3.frames import DataFrame, Frame

ANSWER = "edgecase-answer"
"""The field by which a client knows the answer of the upstream, which holds the nonce."""
HANGING = 2
"""Entries that may hang until their deadline; then the rest of the corpus is left out, which one more red cannot
change."""
TOLD = 4
"""Departures that a message tells."""


def entries(family: str, down: str) -> tuple[Attack, ...]:
    """The entries of a file that go to this downstream version."""
    return tuple(entry for entry in load() if entry.family == family and down in entry.judged)


def rows(family: str, down: str) -> list[str]:
    """The requirements that these entries are judged by; those that bind last, since the first that fails ends it."""
    found = dict.fromkeys(name for entry in entries(family, down) for name in entry.judged[down])
    ledger = Ledger.load()
    return sorted(found, key=lambda name: ledger[name].binding)


def corpus(case_id: str, family: str, down: str) -> Callable[[CaseFunction], CaseFunction]:
    """Declares the case that runs a file of the corpora through a downstream version, over every upstream version."""
    return case(
        case_id,
        checks=rows(family, down),
        publish=pair_tunnel,
        over={"down": (down,), "up": tuple(UP)},
        features=pair_features,
    )


@dataclass(slots=True)
class Run:
    """One entry in one run: what came of it on both sides."""

    attack: Attack
    words: Words
    got: str = "waits"
    """`relayed` where the upstream's answer came whole, `refused`, `waits`, or what else came, in words."""
    shown: str = "nothing"
    hung: bool = False
    requests: Sequence[UpstreamExchange] = ()
    strays: list[UpstreamExchange | Fragment] = field(default_factory=list)

    async def fault(self) -> str:
        """What no text permits of it, in words; empty where it passes."""
        whole = [request for request in self.requests if request.complete]
        if self.strays:
            return f"{'; '.join(stray.describe() for stray in self.strays[:2])} at the upstream"
        if self.got not in self.attack.passes:
            return f"{self.shown} at the client, {_seen(self.requests)} at the upstream"
        if self.got != "relayed":
            return f"{self.shown} at the client, but {_seen(whole)} at the upstream" if whole else ""
        if len(self.requests) != 1 or not whole:
            return f"{_seen(self.requests)} at the upstream"
        return await misread(whole[0], self.attack.meaning(self.words), self.words.host)


def _seen(requests: Iterable[UpstreamExchange]) -> str:
    return "; ".join(request.describe() for request in requests) or "nothing"


async def misread(request: UpstreamExchange, meaning: Meaning, host: str) -> str:
    """What of a relayed request is not what it may mean, in words; empty where it means that."""
    body = await request.body_so_far()
    name = (request.authority or "").lower().removesuffix(".").partition(":")[0].removesuffix(".")
    hosts = [value.lower() for value in request.get_all("host")]
    found = {
        "a broken rule": str(request.violations[0]) if request.violations else "",
        "the method": "" if request.method == meaning.method else request.method,
        "the target": "" if request.target in meaning.targets else repr(request.target),
        "the authority": "" if name == host.lower() else repr(request.authority),
        "Host": "" if len(set(hosts)) < 2 and all(host.lower() in value for value in hosts) else repr(hosts),
        "the content": "" if body in meaning.bodies else f"{len(body)} octets {body[:60]!r}",
    }
    for wanted, values in meaning.fields.items():
        got = request.get_all(wanted)
        found[wanted] = "" if len(got) == 1 and got[0] in values else repr(got)
    for unwanted in meaning.without:
        found[f"a field {unwanted}"] = repr(request.get_all(unwanted)) if request.get_all(unwanted) else ""
    return "; ".join(f"{what}: {shown}" for what, shown in found.items() if shown)


class Client:
    """Says entries in one version. HTTP/2 and HTTP/3 stay on one connection for as long as it lives."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.version = DOWN[point(scene.variant, "down")]
        self._client: HttpClient | None = None

    async def connection(self) -> tuple[HttpClient, bool]:
        """A connection that takes requests, and whether it is a new one."""
        if self._client is not None and self.version != "http/1.1" and await _lives(self._client):
            return self._client, False
        if self._client is not None:
            await self._client.close()
        self._client = await self.scene.http_client(version=self.version)
        if isinstance(self._client, Http3Client):
            self._client.strict = False
        return self._client, True

    async def say(self, run: Run) -> Coroutine[Any, Any, tuple[str, str]]:
        """Send the entry, and give what waits for the kind of its outcome and for that in words."""
        for _ in range(2):
            client, fresh = await self.connection()
            try:
                if isinstance(client, Http1Client):
                    await client.offer(run.attack.octets(run.words), expects=run.attack.method)
                    return _outcome_1(client, run.words.nonce)
                exchange = await _say_section(client, run.attack, run.words)
                if fresh or not await _unprocessed(exchange):
                    return _outcome(exchange, run.words.nonce)
            except PeerMismatch:
                if fresh:
                    raise
            self._client = None
        raise PeerMismatch("a connection that takes requests", "two that do not")


async def _lives(client: HttpClient) -> bool:
    """Whether a connection takes one more request."""
    with suppress(PeerMismatch, LinkReset):
        await client.ping()
        return not client.wire.goaways if isinstance(client, Http2Client) else True
    return False


async def _unprocessed(exchange: ClientExchange) -> bool:
    """Whether the engine said that it has not looked at the request: the end of the connection overtook it."""
    got = await exchange.head_or_end()
    return isinstance(got, ExchangeEnd) and got.kind == "goaway"


async def _say_section(client: HttpClient, attack: Attack, words: Words) -> ClientExchange:
    """The sections of an entry as they are, with its content between them."""
    section, content, trailers = attack.section(words), attack.content(words), attack.trailer_section(words)
    bare = attack.body is None and not trailers
    if isinstance(client, Http2Client):
        stream = client.open_stream()
        exchange: ClientExchange = client.exchange(stream, attack.method, attack.id, words.nonce)
        client.say(client.headers(stream, section, end=bare))
        if attack.body is not None:
            client.say(frames.data(stream, content, end=not trailers))
        if trailers:
            client.say(client.headers(stream, trailers, end=True))
        return exchange
    assert isinstance(client, Http3Client)
    stream = await client.open_stream()
    exchange = client.exchange(stream, attack.method, attack.id, words.nonce)
    said: list[Frame] = [client.headers_frame(stream, section)]
    said += [DataFrame(content)] if attack.body is not None else []
    said += [client.headers_frame(stream, trailers)] if trailers else []
    client.say(stream, *said, fin=True)
    return exchange


async def _outcome(exchange: ClientExchange, nonce: str) -> tuple[str, str]:
    got = await exchange.outcome()
    if isinstance(got, ExchangeEnd):
        return "refused", str(got)
    return _kind(got.status, got.get(ANSWER) == nonce and got.complete), got.describe()


async def _outcome_1(client: Http1Client, nonce: str) -> tuple[str, str]:
    got = await client.outcome()
    if isinstance(got, End):
        return "refused", str(got)
    return _kind(got.status, got.get(ANSWER) == nonce and got.complete), got.describe()


def _kind(status: int, answered: bool) -> str:
    if answered:
        return "relayed"
    return "refused" if status >= 300 else f"{status} that is not the upstream's answer"


async def _answer(upstream: HttpUpstream, nonce: str) -> None:
    """Answer every whole request with the nonce until cancelled."""
    while True:
        request = await upstream.request(nonce)
        await request.body_so_far()
        if request.complete:
            await request.respond(200, [(ANSWER, nonce)], b"answered")


async def attacks(scene: Scene, family: str) -> None:
    """Say every entry of a file to the engine, one after the other, and judge what came of each at the end."""
    down = point(scene.variant, "down")
    upstream = scene.http_upstream(version=UP[point(scene.variant, "up")])
    client = Client(scene)
    runs: list[Run] = []
    for attack in entries(family, down):
        words = Words(scene.endpoint().host, scene.nonce().hex())
        runs.append(Run(attack, words))
        scene.transcript.note("attack", f"{attack.id}: {attack.title}")
        async with meanwhile(_answer(upstream, words.nonce)):
            await _attack(scene, client, upstream, runs)
        if sum(run.hung for run in runs) >= HANGING:
            break
    await scene.settle()
    _collect(upstream, runs)
    await _judge(scene, runs, down)


async def _attack(scene: Scene, client: Client, upstream: HttpUpstream, runs: list[Run]) -> None:
    """One entry: wait for its outcome, or for what the upstream was sent besides it, which nobody will answer."""
    run = runs[-1]
    try:
        saying = await client.say(run)
    except PeerMismatch as ended:
        run.got, run.shown = "refused", ended.actual
        return
    waiting = asyncio.ensure_future(saying)
    straying = asyncio.ensure_future(upstream.changed.until(lambda: bool(_strays(upstream, runs))))
    try:
        if "waits" in run.attack.passes:
            await scene.settle()
        else:
            await asyncio.wait((waiting, straying), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            run.got, run.shown = await waiting
    except DeadlineExpired:
        run.hung = True
    except PeerMismatch as other:
        run.got = run.shown = other.actual
    finally:
        for task in (waiting, straying):
            task.cancel()
        await asyncio.gather(waiting, straying, return_exceptions=True)
    _collect(upstream, runs)


def _strays(upstream: HttpUpstream, runs: Sequence[Run]) -> list[UpstreamExchange | Fragment]:
    """What reached the upstream that no run knows of: not the requests with the nonce of one."""
    known = [stray for run in runs for stray in run.strays]
    nonces = [run.words.nonce for run in runs]

    def new(stray: UpstreamExchange | Fragment) -> bool:
        if isinstance(stray, UpstreamExchange):
            return stray not in known and not any(stray.carries(nonce) for nonce in nonces)
        # A fragment may have grown since it was seen first.
        return not any(isinstance(each, Fragment) and stray.raw_head.startswith(each.raw_head) for each in known)

    return [stray for stray in upstream.unexpected if new(stray)]


def _collect(upstream: HttpUpstream, runs: Sequence[Run]) -> None:
    """Give each run what the upstream has of it: a stray goes to the run whose nonce is in it, else to the latest."""
    for stray in _strays(upstream, runs):
        head = stray.raw_head.decode("latin-1")
        owner = next((run for run in runs if run.words.nonce in head), runs[-1])
        owner.strays.append(stray)
    for run in runs:
        run.requests = upstream.seen(run.words.nonce)


async def _judge(scene: Scene, runs: Sequence[Run], down: str) -> None:
    """By each requirement the entries that it judges: those that depart are named, each with what came of it."""
    faults = {run.attack.id: await run.fault() for run in runs}
    for requirement in scene.case.requirements:
        judged = [run.attack.id for run in runs if requirement in run.attack.judged[down]]
        bad = [f"{name}: {faults[name]}" for name in judged if faults[name]]
        if not judged:
            scene.not_run(requirement, "entries before these hung")
            continue
        told = " | ".join(bad[:TOLD]) + (f" | and {len(bad) - TOLD} more" if len(bad) > TOLD else "")
        expected = f"each of {len(judged)} attacks refused, or relayed as one request that means what it may"
        scene.expect(requirement, not bad, expected=expected, actual=told or "that")
