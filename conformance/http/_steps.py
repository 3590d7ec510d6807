"""Steps that many HTTP/1.1 cases share: something like a request goes in, and what came out on both legs is judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from harness.errors import PeerMismatch
from harness.link.stream import End
from harness.peer.http1 import Http1Client, Http1Upstream, Response, UpstreamRequest
from harness.scene import Scene
from harness.tasks import dropped, one_of
from harness.wire import http1_write as write
from harness.wire.http1_write import Field

SMUGGLED = "smuggled"
"""The path segment of a request that no engine may ever make of what was sent."""

NAMED = frozenset({"400", "408", "411", "413", "414", "417", "421", "431", "501", "502", "504", "505"})
"""Statuses that rows tell apart from others of their class."""

Got = Response | End | None
A = TypeVar("A")
B = TypeVar("B")


def kind(got: Got, nonce: str = "") -> str:
    """The outcome at the client in one word.

    `waits`: nothing came; `closed`: the connection ended without a response; `relayed`: the upstream's answer; a status
    of its own name where rows tell it apart, else its class.
    """
    if got is None:
        return "waits"
    if isinstance(got, End):
        return "closed"
    if got.status < 300 and got.body.startswith(nonce.encode()):
        return "relayed" if got.complete else "broken off"
    named = str(got.status)
    return named if named in NAMED else f"{got.status // 100}xx"


def refused(outcome: str) -> bool:
    """Whether nothing may be at the upstream after this kind of outcome: a redirect, an error, or no answer at all."""
    return outcome == "closed" or outcome[0] in "345"


def branch_key(outcome: str, branches: Mapping[str, str | None]) -> str | None:
    """The key of `branches` that an outcome falls under: its own, or that of its class (`421` is another 4xx)."""
    for key in (outcome, f"{outcome[0]}xx" if outcome in NAMED else outcome):
        if key in branches:
            return key
    return None


class Probe:
    """One client connection, and the requests of its nonce at the upstream, which are answered in the background.

    Each whole request with the nonce gets a 200 whose body begins with the nonce. Whatever else reaches the upstream
    is a stray of the scene.
    """

    def __init__(self, scene: Scene, client: Http1Client, upstream: Http1Upstream, nonce: str, name: str) -> None:
        self.scene = scene
        self.client = client
        self.upstream = upstream
        self.nonce = nonce
        self.name = name
        self.host = scene.endpoint(name).host
        self.requests: list[UpstreamRequest] = []
        self.bodies: list[bytes] = []
        self.elsewhere: list[UpstreamRequest] = []
        self.got: Got = None
        self.later: list[Response] = []
        self.end: End | None = None

    # what goes in

    def wire(
        self, method: str = "GET", fields: Sequence[Field] = (), body: bytes | None = None, **options: Any
    ) -> bytes:
        """A legal request of this probe, with the nonce in its path."""
        target = options.pop("target", f"/{self.nonce}")
        host = options.pop("host", self.host)
        return write.request(method, target, fields, body, host=host, **options)

    def head(self, method: str = "POST", fields: Sequence[Field] = (), **options: Any) -> bytes:
        """A header section of this probe whose framing is the script's."""
        target = options.pop("target", f"/{self.nonce}")
        said = [("Host", options.pop("host", self.host)), *fields]
        return write.request_head(method, target, said, **options)

    def smuggled(self, method: str = "GET") -> bytes:
        """A request that no engine may act on."""
        return write.request(method, f"/{SMUGGLED}", host=self.host)

    async def say(self, data: bytes, *, expects: str | Sequence[str] = "GET") -> None:
        """Send `data`. An engine may close before it took everything: what it answered is still read."""
        await self.client.offer(data, expects=expects)

    # what comes out

    async def answer(self) -> None:
        """Answer every whole request with the nonce until cancelled, and reset the connection of one that is no
        HTTP."""
        while True:
            request = await self.upstream.request(self.nonce)
            self.requests.append(request)
            self.bodies.append(await request.body_so_far())
            if request.complete:
                await request.respond(200, [("X-Count", str(len(self.requests)))], self.nonce.encode())
            elif request.connection.unparsed:
                request.abort()

    async def answer_at(self, other: Http1Upstream) -> None:
        """Answer every whole request with the nonce that arrives at another tunnel's upstream."""
        while True:
            request = await other.request(self.nonce)
            self.elsewhere.append(request)
            await request.body_so_far()
            await request.respond(200, body=f"{self.nonce} elsewhere".encode())

    async def outcome(self, *, may_wait: bool = False) -> str:
        """Wait for the client's first final response or the end, then for the barrier; its kind.

        With `may_wait` an engine may also wait for more octets: then the barrier alone ends the wait. So it does once
        something is at the upstream that nobody asked for, and that nobody will answer.
        """
        waiting = asyncio.ensure_future(self.client.outcome())
        straying = asyncio.ensure_future(self.upstream.changed.until(self._strayed))
        try:
            if not may_wait:
                await asyncio.wait((waiting, straying), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self.scene.settle(self.name)
            if waiting.done():
                self.got = await waiting
        finally:
            for task in (waiting, straying):
                task.cancel()
            await asyncio.gather(waiting, straying, return_exceptions=True)
        if not may_wait:
            await self.scene.settle(self.name)
        if isinstance(self.got, End):
            self.end = self.got
        return self.kind

    def _strayed(self) -> bool:
        return any(not seen.claimed and not seen.carries(self.nonce) for seen in self.upstream.requests_seen)

    @property
    def kind(self) -> str:
        """See `kind`."""
        return kind(self.got, self.nonce)

    @property
    def request(self) -> UpstreamRequest:
        """The request at the upstream. Raises `PeerMismatch` where none came."""
        if not self.requests:
            raise PeerMismatch("the request at the upstream", self.describe())
        return self.requests[0]

    async def rest(self) -> list[Response]:
        """Whatever else the client gets until the connection ends, which it must."""
        if self.end is None:
            self.later, self.end = await self.client.drain()
        return self.later

    def describe(self) -> str:
        """One line for an `actual`."""
        match self.got:
            case None:
                client = "no answer"
            case End():
                client = str(self.got)
            case Response():
                client = self.got.describe()
        after = "".join(f", then {response.describe()}" for response in self.later)
        seen = [request.describe() for request in self.requests]
        seen += [stray.describe() for stray in self.upstream.unexpected]
        seen += [f"{request.describe()} at the other tunnel's" for request in self.elsewhere]
        return f"{client}{after} at the client; {'; '.join(seen) or 'nothing'} at the upstream"

    # judging

    def judge(
        self, requirement: str, branches: Mapping[str, str | None], *, expected: str, partial: bool = False
    ) -> None:
        """The kind of outcome must be in `branches`, which names the item of the row's `allowed` for it.

        After a refusal, and beside a relayed request, nothing may have reached the upstream; with `partial` a request
        that stayed incomplete may, where the refusal came while its body was relayed.
        """
        stray = bool(self.upstream.unexpected)
        if refused(self.kind):
            stray = stray or any(request.complete or not partial for request in self.requests)
        key = branch_key(self.kind, branches)
        if stray or key is None:
            self.scene.depart(requirement, expected=expected, actual=self.describe())
            return
        branch = branches[key]
        if branch is None:
            self.scene.expect(requirement, True, expected=expected, actual=self.describe())
        else:
            self.scene.allow(requirement, branch)

    def expect(self, requirement: str, condition: bool, *, expected: str, branch: str | None = None) -> bool:
        """As `scene.expect`, with what came out as `actual`."""
        return self.scene.expect(requirement, condition, expected=expected, actual=self.describe(), branch=branch)

    def alone(self, body: bytes) -> bool:
        """Whether the upstream saw one whole, well-formed request with this body, and nothing beside it."""
        whole = len(self.requests) == 1 and self.request.complete and self.bodies == [body]
        return whole and self.clean() and not self.upstream.unexpected

    def judge_framing(self, body: bytes | None = None, *more: str, branch: str | None = None) -> None:
        """By HTTP-HDR-016, and by `more`: a refusal, or one well-framed request (with `body`) and nothing beside it."""
        framed = self.clean() if body is None else self.alone(body)
        single = not self.upstream.unexpected and (self.kind != "relayed" or framed)
        for requirement in ("HTTP-HDR-016", *more):
            expected = "a refusal, or one well-framed request at the upstream"
            self.expect(requirement, single, expected=expected, branch=branch)

    async def judge_refusal(self, requirement: str, branches: Mapping[str, str | None]) -> None:
        """A refusal by `requirement` and the end of the connection; by HTTP-HDR-016 nothing smuggled."""
        self.judge_framing()
        self.judge(requirement, branches, expected="a refusal with nothing at the upstream", partial=True)
        if self.kind != "relayed":
            with self.scene.judging(requirement):
                more = await self.rest()
                self.expect(requirement, not more, expected="one answer, then the end of the connection")

    def clean(self, *sections: str) -> bool:
        """Whether the request at the upstream broke none of the rules of these sections (of any, when none is
        named)."""
        return not any(
            not sections or violation.section in sections
            for request in self.requests
            for violation in request.violations
        )


@asynccontextmanager
async def probing(scene: Scene, name: str = "main", *, other: str | None = None) -> AsyncIterator[Probe]:
    """A probe on a new client connection, answered in the background while the block runs, also at the tunnel
    `other`."""
    upstream = scene.http_upstream(name)
    client = await scene.http_client(name)
    probe = Probe(scene, client, upstream, scene.nonce().hex(), name)
    answering = [probe.answer()]
    if other:
        answering.append(probe.answer_at(scene.http_upstream(other)))
    async with meanwhile(*answering):
        yield probe
    await client.close()


async def unfinished(scene: Scene, fields: Sequence[Field], rest: bytes, requirement: str, branch: str) -> None:
    """A request whose client ends the connection before the body is whole: the upstream may never have all of it."""
    async with probing(scene) as probe:
        await probe.say(probe.head("POST", fields) + rest)
        await scene.settle()
        await probe.client.close()
        await scene.settle()
        whole = any(request.complete for request in probe.requests) or bool(probe.upstream.unexpected)
        probe.expect(requirement, not whole, expected="no complete request at the upstream", branch=branch)


@asynccontextmanager
async def meanwhile(*steps: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run `steps` beside the block and drop them at its end; what the engine does against them is not judged."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        yield
    finally:
        await dropped(tasks)


async def first_of(one: Coroutine[Any, Any, A], other: Coroutine[Any, Any, B]) -> tuple[A | None, B | None]:
    """What came first of two events, the other one `None` and no longer awaited; both, where both are there."""
    first, second = await one_of(one, other)
    return first, second


class Answered:
    """A plain request, and the answer that the upstream's script gave to it."""

    def __init__(self, scene: Scene, client: Http1Client, upstream: Http1Upstream, request: UpstreamRequest) -> None:
        self.scene = scene
        self.client = client
        self.upstream = upstream
        self.request = request
        self.got: Got = None

    async def outcome(self) -> str:
        """The client's final response or the end of its connection; its kind as for a gateway's error."""
        self.got = await self.client.outcome()
        return self.kind

    @property
    def kind(self) -> str:
        """`502`, `5xx`, `aborted` (a response that broke off, or an end without one), else the class of the status."""
        if not isinstance(self.got, Response):
            return "aborted"
        if not self.got.complete:
            return "aborted"
        return str(self.got.status) if self.got.status in (502, 504) else f"{self.got.status // 100}xx"

    @property
    def response(self) -> Response:
        """The response at the client. Raises `PeerMismatch` where none came."""
        if not isinstance(self.got, Response):
            raise PeerMismatch("a response at the client", self.describe())
        return self.got

    def describe(self) -> str:
        """One line for an `actual`."""
        if isinstance(self.got, Response):
            return f"{self.got.describe()}: {self.got.body[:60]!r}"
        return str(self.got)

    def judge(self, requirement: str, branches: Mapping[str, str | None], *, expected: str) -> None:
        """The kind of outcome must be in `branches`, which names the item of the row's `allowed` for it."""
        if self.kind not in branches:
            self.scene.depart(requirement, expected=expected, actual=self.describe())
            return
        branch = branches[self.kind]
        if branch is None:
            self.scene.expect(requirement, True, expected=expected, actual=self.describe())
        else:
            self.scene.allow(requirement, branch)

    def expect(self, requirement: str, condition: bool, *, expected: str, branch: str | None = None) -> bool:
        """As `scene.expect`, with what came out as `actual`."""
        return self.scene.expect(requirement, condition, expected=expected, actual=self.describe(), branch=branch)


GATEWAY = {"502": "502", "5xx": "another 5xx"}


async def asked(
    scene: Scene, method: str = "GET", fields: Sequence[Field] = (), body: bytes | None = None, *, name: str = "main"
) -> Answered:
    """A plain request that has reached the upstream, whole, and waits there for its answer."""
    upstream, client = scene.http_upstream(name), await scene.http_client(name)
    nonce = scene.nonce().hex()
    await client.request(method, f"/{nonce}", fields, body, nonce=nonce)
    request = await upstream.request(nonce)
    await request.body()
    return Answered(scene, client, upstream, request)


async def works(scene: Scene, client: Http1Client, name: str = "main") -> tuple[UpstreamRequest, Response]:
    """A plain exchange on `client`; gives both sides of it, judged by nobody yet."""
    upstream, nonce = scene.http_upstream(name), scene.nonce().hex()
    await client.request("GET", f"/{nonce}", nonce=nonce)
    request = await upstream.request(nonce)
    await request.respond(200, body=nonce.encode())
    return request, await client.response()
