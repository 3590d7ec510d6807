"""Steps of the pair cases: exchanges in the words that all versions share, one by one and beside each other."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.http._pairs import DOWN, UP, pair_features, pair_tunnel, point
from harness.link.deadline import set_default
from harness.model.case import CaseFunction, Variant, case
from harness.peer.http import ClientExchange, ExchangeEnd, Fields, HttpClient, Lines, Response
from harness.peer.http_upstream import HttpUpstream, UpstreamExchange
from harness.scene import Scene

SPOKEN = {"h1": "http/1.1", "h2c": "h2", "h3": "h3"}
"""What the upstream of a variant hears, by its point on the axis `up`."""
PIECE = bytes(range(256)) * 64
STALL_SECONDS = 20.0
GATEWAY = {"502": "502", "503": "another 5xx", "504": "another 5xx", "5xx": "another 5xx"}


def pair_case(
    case_id: str,
    checks: Sequence[str],
    *,
    down: Sequence[str] = tuple(DOWN),
    up: Sequence[str] = tuple(UP),
    over: dict[str, Sequence[str]] | None = None,
    features: Sequence[str] = (),
    **options: Any,
) -> Callable[[CaseFunction], CaseFunction]:
    """A case over the pairs of `down` and `up`, and over the axes of its own. `features` come on top of the pair's."""

    def needed(variant: Variant) -> list[str]:
        return [*pair_features(variant), *features]

    options.setdefault("publish", pair_tunnel)
    return case(case_id, checks=checks, over={"down": down, "up": up, **(over or {})}, features=needed, **options)


def kind_of(got: Response | ExchangeEnd) -> str:
    """An outcome in one word: `aborted` for an end without a whole response; `502`, `503`, `504` by name; else the
    class of the status."""
    if isinstance(got, ExchangeEnd) or not got.complete:
        return "aborted"
    return str(got.status) if got.status in (502, 503, 504) else f"{got.status // 100}xx"


def told(got: Response | ExchangeEnd) -> str:
    """An outcome in words, for an `actual`."""
    return f"{got.describe()}: {got.body[:60]!r}" if isinstance(got, Response) else str(got)


@dataclass
class Met:
    """A request that a client has begun and that has arrived at the upstream."""

    scene: Scene
    client: HttpClient
    upstream: HttpUpstream
    sent: ClientExchange
    request: UpstreamExchange
    nonce: str

    async def answered(self, status: int = 200, fields: Fields = (), body: bytes = b"", **options: Any) -> Response:
        """The upstream answers; gives what the client then has."""
        _, response = await self.scene.both(self.request.respond(status, fields, body, **options), self.sent.response())
        return response


async def meet(
    scene: Scene,
    method: str = "GET",
    target: str | None = None,
    fields: Fields = (),
    body: bytes | None = None,
    *,
    name: str = "main",
    client: HttpClient | None = None,
    **options: Any,
) -> Met:
    """A request of `client` (a new one) up to the upstream of `name`; `options` are those of `HttpClient.begin`. Its
    content is read only by the script."""
    upstream = behind(scene, name)
    client = client or await new_client(scene, name)
    nonce = scene.nonce().hex()
    sent, request = await scene.both(
        client.begin(method, target or f"/{nonce}", fields, body, nonce=nonce, **options), upstream.request(nonce)
    )
    return Met(scene, client, upstream, sent, request, nonce)


def behind(scene: Scene, name: str = "main", **options: Any) -> HttpUpstream:
    """The upstream behind the tunnel `name`, whatever it speaks."""
    return scene.http_upstream(name, version=scene.spec(name).upstream_http, **options)


async def new_client(scene: Scene, name: str = "main", **options: Any) -> HttpClient:
    """A client of the variant's version toward the tunnel `name`."""
    client: HttpClient = await scene.http_client(name, version=DOWN[point(scene.variant, "down")], **options)
    return client


async def beside(scene: Scene, count: int, name: str = "main") -> list[HttpClient]:
    """Clients for `count` exchanges at one time: one connection of HTTP/2 and HTTP/3, as many of HTTP/1.1."""
    if scene.variant["down"] == "h1":
        return [await new_client(scene, name) for _ in range(count)]
    return [await new_client(scene, name)] * count


async def works(scene: Scene, client: HttpClient, name: str = "main") -> Response:
    """A plain exchange on `client`, answered with its nonce; not judged."""
    met = await meet(scene, client=client, name=name)
    return await met.answered(200, body=met.nonce.encode())


def plain(lines: Lines, *names: str) -> list[tuple[str, str]]:
    """The lines with these names, in order, names in lower case."""
    return [(name.lower(), value) for name, value in lines.headers if name.lower() in names]


def judge_kind(
    scene: Scene,
    requirement: str,
    got: Response | ExchangeEnd,
    branches: Mapping[str, str | None],
    *,
    expected: str,
) -> None:
    """The kind of outcome must be in `branches`, which names the item of the row's `allowed` for it."""
    kind = kind_of(got)
    if kind not in branches:
        scene.depart(requirement, expected=expected, actual=told(got))
        return
    branch = branches[kind]
    if branch is None:
        scene.expect(requirement, True, expected=expected, actual=told(got))
    else:
        scene.allow(requirement, branch)


class Flood:
    """Gives content to `send` for as long as it takes it, `most` octets at most; `taken` is how many it took.

    `stop` lets it come to its end soon: what a stall case has shown needs no more octets.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], most: int) -> None:
        self._send = send
        self.most = most
        self.taken = 0
        self._hashed = hashlib.sha256()

    async def run(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Send until done, then `finish`. A stall is what some cases want, so a send may wait longer than other
        steps."""
        set_default(STALL_SECONDS)
        while self.taken < self.most:
            await self._send(PIECE)
            self.taken += len(PIECE)
            self._hashed.update(PIECE)
        await finish()

    def stop(self) -> None:
        """Send a little more, then end."""
        self.most = min(self.most, self.taken + 16 * len(PIECE))

    def judge(self, scene: Scene, requirement: str, arrived: tuple[int, str]) -> None:
        """What arrived (size and SHA-256) must be what was sent."""
        same = arrived == (self.taken, self._hashed.hexdigest())
        actual = f"{arrived[0]} octets, SHA-256 {arrived[1]}"
        scene.expect(requirement, same, expected=f"{self.taken} octets unchanged", actual=actual)


async def digest(sent: ClientExchange, response: Response) -> tuple[int, str]:
    """Size and SHA-256 (hex) of the rest of a body, of which nothing is kept."""
    set_default(STALL_SECONDS)
    size, hashed = 0, hashlib.sha256()
    while data := await sent.read_some(response):
        response.content.clear()
        size += len(data)
        hashed.update(data)
    return size, hashed.hexdigest()
