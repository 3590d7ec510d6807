"""Plays one plan: the client asks, the upstream answers, and both ends are compared with what was said."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import PeerMismatch
from harness.peer.http import ClientExchange, HttpClient, Response
from harness.peer.http_upstream import HttpUpstream, UpstreamExchange
from harness.scene import Scene
from harness.soak.plan import Content, Plan, request_differences, response_differences

ANSWER = "edgecase-answer"
"""The field of an answer that holds the nonce of its request."""


@dataclass(frozen=True, slots=True)
class Leg:
    """Where exchanges go: `whole` says that both sides carry trailers."""

    scene: Scene
    upstream: HttpUpstream
    host: str
    whole: bool


async def ask(client: HttpClient, plan: Plan, nonce: str) -> ClientExchange:
    """Send the request of a plan, content and all. Raises as `HttpClient.begin`."""
    said = plan.ask
    target, content = said.target(nonce), said.content
    if content is None:
        return await client.begin(said.method, target, said.fields, nonce=nonce)
    if len(content.pieces) < 2:
        body, trailers = content.whole, content.trailers
        return await client.begin(
            said.method, target, said.fields, body, nonce=nonce, length=content.known, trailers=trailers
        )
    exchange = await begin(client, plan, nonce)
    for piece in content.pieces:
        await exchange.send_content(piece)
    await exchange.finish(content.trailers)
    return exchange


async def begin(client: HttpClient, plan: Plan, nonce: str) -> ClientExchange:
    """Send the head of a plan's request whose content is to follow. Raises as `HttpClient.begin`."""
    content = plan.ask.content or Content()
    length = (("content-length", str(len(content.whole))),) if content.known else ()
    fields = plan.ask.fields + length
    return await client.begin(plan.ask.method, plan.ask.target(nonce), fields, nonce=nonce, end=False)


async def answer(request: UpstreamExchange, plan: Plan, nonce: str) -> None:
    """Answer as the plan says, behind the whole request. Raises `PeerMismatch` where the engine takes no more."""
    for status, fields in plan.answer.interim:
        await request.informational(status, fields)
    await request.body()
    content, fields = plan.answer.content, (*plan.answer.fields, (ANSWER, nonce))
    if plan.ask.method == "HEAD":
        await request.respond(plan.answer.status, fields, content.whole, length=content.known)
        return
    if len(content.pieces) < 2:
        known, trailers = content.known, content.trailers
        await request.respond(plan.answer.status, fields, content.whole, length=known, trailers=trailers)
        return
    await head(request, plan, nonce)
    for piece in content.pieces:
        await request.send_content(piece)
    await request.finish(content.trailers)


async def head(request: UpstreamExchange, plan: Plan, nonce: str) -> None:
    """The head of a plan's response whose content is to follow."""
    content = plan.answer.content
    length = (("content-length", str(len(content.whole))),) if content.known else ()
    await request.begin_response(plan.answer.status, (*plan.answer.fields, (ANSWER, nonce), *length))


async def response(exchange: ClientExchange, nonce: str) -> Response:
    """The upstream's whole response. Raises `PeerMismatch` where another comes, or none."""
    got = await exchange.response_head()
    if got.get(ANSWER) != nonce:
        got = await exchange.response()
        raise PeerMismatch(f"the upstream's answer to {nonce}", f"{got.describe()}: {got.body[:60]!r}")
    return await exchange.response()


async def differences(leg: Leg, plan: Plan, request: UpstreamExchange, got: Response, nonce: str) -> list[str]:
    """What either end has otherwise than the other said."""
    found = await request_differences(plan.ask, request, nonce=nonce, host=leg.host, whole=leg.whole)
    return found + response_differences(plan, got, nonce=nonce, whole=leg.whole)


async def carry(leg: Leg, client: HttpClient, plan: Plan, nonce: str) -> Response:
    """One exchange to its end. Raises `PeerMismatch` for the first thing that arrives otherwise than it was said."""

    async def behind() -> UpstreamExchange:
        request = await leg.upstream.request(nonce)
        await answer(request, plan, nonce)
        return request

    async def before() -> Response:
        return await response(await ask(client, plan, nonce), nonce)

    request, got = await leg.scene.both(behind(), before())
    if found := await differences(leg, plan, request, got, nonce):
        raise PeerMismatch(f"`{plan.ask.method} {plan.ask.target(nonce)[:80]}` to arrive as it was said", found[0])
    return got
