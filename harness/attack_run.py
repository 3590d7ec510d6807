"""Attacks on a live engine: says an entry of the corpora in a version of HTTP, and tells what came of it on both sides.

`harness.attacks` has the entries. Who says them (a case, a soak) knows the tunnel and answers at the upstream with
`answering`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.attacks import Attack, Meaning, Words
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.stream import End, LinkReset
from harness.peer.http import ClientExchange, ExchangeEnd, HttpClient
from harness.peer.http1 import Http1Client
from harness.peer.http2 import Http2Client
from harness.peer.http3 import Http3Client
from harness.peer.http_upstream import Fragment, HttpUpstream, UpstreamExchange
from harness.wire.http2 import frames
from harness.wire.http3.frames import DataFrame, Frame

ANSWER = "edgecase-answer"
"""The field by which a client knows the answer of the upstream; it holds the nonce."""
Stray = UpstreamExchange | Fragment


@dataclass(slots=True)
class Run:
    """One entry in one run: what came of it on both sides.

    `got` is `relayed` where the upstream's answer came whole, `refused`, `waits`, or what else came, in words; `shown`
    is the same for a message; `hung` says that a deadline had to end the wait.
    """

    attack: Attack
    words: Words
    got: str = "waits"
    shown: str = "nothing"
    hung: bool = False
    requests: Sequence[UpstreamExchange] = ()
    strays: list[Stray] = field(default_factory=list)

    async def fault(self) -> str:
        """What the entry does not permit, in words; empty where it passes. Only behind a barrier."""
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


class Attacker:
    """Says entries in one version, to one tunnel. `connect` gives a new connection of that version.

    HTTP/2 and HTTP/3 stay on one connection for as long as it takes requests; HTTP/1.1 has one for each entry, since
    none can be trusted behind it.
    """

    def __init__(self, connect: Callable[[], Awaitable[HttpClient]]) -> None:
        self._connect = connect
        self._client: HttpClient | None = None

    async def attack(
        self,
        run: Run,
        upstream: HttpUpstream,
        strayed: Callable[[], bool],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        """Say the entry, and wait for its outcome, or until something has `strayed` to the upstream, which nobody will
        answer. Where the engine may wait for more, `settle` ends the wait."""
        try:
            saying = await self._say(run)
        except PeerMismatch as ended:
            run.got, run.shown = "refused", ended.actual
            return
        waiting = asyncio.ensure_future(saying)
        straying = asyncio.ensure_future(upstream.changed.until(strayed))
        try:
            if "waits" in run.attack.passes:
                await settle()
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

    async def close(self) -> None:
        """Let the connection go."""
        if self._client is not None:
            await self._client.close()

    async def _connection(self) -> tuple[HttpClient, bool]:
        """A connection that takes requests, and whether it is a new one."""
        if self._client is not None:
            if not isinstance(self._client, Http1Client) and await _lives(self._client):
                return self._client, False
            await self._client.close()
        self._client = await self._connect()
        if isinstance(self._client, Http3Client):
            self._client.strict = False
        return self._client, True

    async def _say(self, run: Run) -> Coroutine[Any, Any, tuple[str, str]]:
        """Send the entry, and give what waits for the kind of its outcome and for that in words."""
        for _ in range(2):
            client, fresh = await self._connection()
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
            await client.close()
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
    with suppress(DeadlineExpired):
        got = await exchange.head_or_end()
        return isinstance(got, ExchangeEnd) and got.kind == "goaway"
    return False


async def _say_section(client: HttpClient, attack: Attack, words: Words) -> ClientExchange:
    """The sections of an entry as they are, with its content between them."""
    section, content, trailers = attack.section(words), attack.content(words), attack.trailer_section(words)
    if isinstance(client, Http2Client):
        stream = client.open_stream()
        exchange: ClientExchange = client.exchange(stream, attack.method, attack.id, words.nonce)
        client.say(client.headers(stream, section, end=attack.body is None and not trailers))
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
    return _kind(got.status, answered=got.get(ANSWER) == nonce and got.complete), got.describe()


async def _outcome_1(client: Http1Client, nonce: str) -> tuple[str, str]:
    got = await client.outcome()
    if isinstance(got, End):
        return "refused", str(got)
    return _kind(got.status, answered=got.get(ANSWER) == nonce and got.complete), got.describe()


def _kind(status: int, *, answered: bool) -> str:
    if answered:
        return "relayed"
    return "refused" if status >= 300 else f"{status} that is not the upstream's answer"


async def answering(upstream: HttpUpstream, nonce: str) -> None:
    """Answer every whole request with the nonce until cancelled."""
    while True:
        request = await upstream.request(nonce)
        await request.body_so_far()
        if request.complete:
            await request.respond(200, [(ANSWER, nonce)], b"answered")


def strays(upstream: HttpUpstream, runs: Sequence[Run]) -> list[Stray]:
    """What reached the upstream of these runs' making that is not theirs, and what is nobody's: not the requests that
    carry the nonce of any exchange."""
    known = [stray for run in runs for stray in run.strays]
    nonces = [run.words.nonce for run in runs]

    def new(stray: Stray) -> bool:
        if isinstance(stray, UpstreamExchange):
            return stray not in known and not any(stray.carries(nonce) for nonce in nonces)
        # A fragment may have grown since it was seen first.
        return not any(isinstance(each, Fragment) and stray.raw_head.startswith(each.raw_head) for each in known)

    return [stray for stray in upstream.unexpected if new(stray)]


def collect(upstream: HttpUpstream, runs: Sequence[Run]) -> None:
    """Give each run what the upstream has of it: a stray goes to the run whose nonce is in it, else to the latest."""
    for stray in strays(upstream, runs):
        head = stray.raw_head.decode("latin-1")
        owner = next((run for run in runs if run.words.nonce in head), runs[-1])
        owner.strays.append(stray)
    for run in runs:
        run.requests = upstream.seen(run.words.nonce)
