"""Steps that many HTTP/2 cases share: something illegal goes in on one leg, and what came out on both is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import DeadlineExpired, EngineDeparted, PeerMismatch
from harness.link.deadline import deadline
from harness.peer.http import ClientExchange, ConnectionEnd, ExchangeEnd, HttpClient, Response
from harness.peer.http2 import Http2Client, Http2ClientExchange
from harness.peer.http2_connection import Http2Peer
from harness.peer.http2_upstream import Http2UpstreamConnection, Http2UpstreamExchange
from harness.peer.http_upstream import Fragment, HttpUpstream, UpstreamExchange
from harness.scene import Scene
from harness.tasks import dropped
from harness.wire.http2 import ErrorCode, Field, error_name
from harness.wire.http2.blocks import Representation

H2 = ("http.downstream-h2",)
"""What an engine must claim for the cases on the downstream leg."""
GENERIC = frozenset({ErrorCode.PROTOCOL_ERROR, ErrorCode.INTERNAL_ERROR})
"""The codes that may stand for any other (RFC 9113 section 5.4)."""
STATIC = 61
"""Entries of the static table (RFC 7541 appendix A)."""
OTHER_CODE = "GOAWAY with another non-zero code"
NO_GOAWAY = "close without GOAWAY"


async def first_of(*events: Awaitable[Any]) -> None:
    """Wait for the first of these; the others are no longer awaited. What the engine did against them is not judged."""
    tasks = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await dropped(tasks)


# The end of a connection


@dataclass(frozen=True, slots=True)
class Goaway:
    """What a row says about the end of a connection: the item of its `allowed` that names the `codes`, that for another
    code, and that for none. An item that the row does not have is empty; what falls under it departs."""

    item: str
    codes: frozenset[int] = GENERIC
    other: str = OTHER_CODE
    none: str = NO_GOAWAY


PROTOCOL = Goaway("GOAWAY with PROTOCOL_ERROR")
SIZE = Goaway("GOAWAY with FRAME_SIZE_ERROR", GENERIC | {ErrorCode.FRAME_SIZE_ERROR})
FLOW = Goaway("GOAWAY with FLOW_CONTROL_ERROR", GENERIC | {ErrorCode.FLOW_CONTROL_ERROR})
COMPRESSION = Goaway("GOAWAY with COMPRESSION_ERROR", GENERIC | {ErrorCode.COMPRESSION_ERROR})


async def ended_by(peer: Http2Peer) -> ConnectionEnd | None:
    """How the engine ends the connection after a fault that it has read; `None` where it goes on instead: where a PING
    behind the fault is answered before any GOAWAY. Raises `DeadlineExpired`."""
    answered = asyncio.ensure_future(peer.ping())
    try:
        async with deadline("the end of the connection, or an answer to a PING"):
            await peer.changed.until(lambda: peer.ended is not None or answered.done() or bool(peer.wire.goaways))
        if answered.done() and answered.exception() is None and not peer.wire.goaways:
            return None
        return await peer.closed()
    finally:
        answered.cancel()
        await asyncio.gather(answered, return_exceptions=True)


def judge_end(scene: Scene, row: str, end: ConnectionEnd | None, allowed: Goaway = PROTOCOL) -> None:
    """The connection ended, with a code that the row allows."""
    expected = f"{allowed.item}, or the end of the connection"
    if end is None:
        scene.depart(row, expected=expected, actual="a connection that goes on: a PING behind the fault is answered")
    elif end.code in allowed.codes:
        scene.expect(row, True, expected=expected, actual=str(end), branch=allowed.item or None)
    elif end.code is None and allowed.none:
        scene.expect(row, True, expected=expected, actual=str(end), branch=allowed.none)
    elif end.code and allowed.other:
        scene.allow(row, allowed.other)
    else:
        scene.depart(row, expected=expected, actual=str(end))


async def opened(scene: Scene, client: Http2Client, upstream: HttpUpstream) -> Http2ClientExchange:
    """A request on stream 1 that is at the upstream, and whose content is still to come."""
    nonce = scene.nonce().hex()
    exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
    await upstream.request(nonce)
    return exchange


def failed(peer: Http2Peer) -> bool:
    """Whether the engine ended the connection in error, whatever it did to the streams on it (RFC 9113 section
    5.4.1)."""
    return any(goaway.code for goaway in peer.wire.goaways)


async def connection_error(
    scene: Scene, row: str, *said: bytes, allowed: Goaway = PROTOCOL, opens: bool = False
) -> ConnectionEnd | None:
    """A client says these octets, with `opens` while a request is open on stream 1: the connection ends as the row has
    it, and nothing of them is at the upstream."""
    upstream = scene.http_upstream()
    client = await scene.http_client(version="h2")
    await client.settled()
    if opens:
        await opened(scene, client, upstream)
    client.say(*said)
    end: ConnectionEnd | None = None
    with scene.judging(row, ends=True):
        end = await ended_by(client)
    judge_end(scene, row, end, allowed)
    await scene.settle()
    nothing_whole(scene, row, upstream)
    return end


def whole_stray(stray: UpstreamExchange | Fragment) -> bool:
    """Whether it is more than a request that is not complete: where the edge finds out late, one may have begun."""
    return isinstance(stray, Fragment) or stray.complete


def nothing_whole(scene: Scene, row: str, upstream: HttpUpstream, *, branch: str | None = None) -> None:
    """Nothing that no script asked for is whole at the upstream, and nothing there is no request at all."""
    strays = [stray for stray in upstream.unexpected if whole_stray(stray)]
    seen = "; ".join(stray.describe() for stray in strays) or "nothing"
    scene.expect(row, not strays, expected="nothing whole at the upstream", actual=seen, branch=branch)


# Malformed messages of a client

RESET = "RST_STREAM with PROTOCOL_ERROR"
RESPONSE = "HTTP error response"
CONNECTION = "connection error instead"


@dataclass
class Malformed:
    """What became of a request that is malformed, beside a good one on the same connection.

    `got` is the answer to it, `None` where the upstream saw it whole first; `requests` are those with its nonce at the
    upstream; `sibling` says whether the good one was answered, `after` whether the next connection works.
    """

    scene: Scene
    client: Http2Client
    upstream: HttpUpstream
    nonce: str
    stream: int
    got: Response | ExchangeEnd | None = None
    requests: Sequence[UpstreamExchange] = ()
    sibling: bool = False
    sibling_end: str = ""

    @property
    def whole(self) -> list[UpstreamExchange]:
        """The requests at the upstream that it can take for complete."""
        return [request for request in self.requests if request.complete]

    def describe(self) -> str:
        """One line for an `actual`."""
        match self.got:
            case None:
                client = "no answer"
            case Response():
                client = f"a response: {self.got.describe()}"
            case _:
                client = str(self.got)
        seen = [request.describe() for request in self.requests]
        seen += [stray.describe() for stray in self.upstream.unexpected if stray not in self.requests]
        return f"{client} at the client; {'; '.join(seen) or 'nothing'} at the upstream"

    @property
    def refused(self) -> bool:
        """Whether the client was told that the request failed."""
        if isinstance(self.got, Response):
            return self.got.status >= 400
        return self.got is not None

    @property
    def strays(self) -> bool:
        """Whether something is at the upstream that came from the malformed request, and is whole."""
        return self.strays_beside(())

    def strays_beside(self, known: Sequence[UpstreamExchange]) -> bool:
        """The same, apart from these requests."""
        return any(whole_stray(stray) and stray not in known for stray in self.upstream.unexpected)

    def judge(self, *rows: str) -> None:
        """By each row: refused as a malformed request may be, and nothing whole at the upstream."""
        for row in rows:
            self._judge(row)

    def _judge(self, row: str) -> None:
        expected = "a stream error or an HTTP error, and nothing whole at the upstream"
        got, scene = self.got, self.scene
        if self.strays or self.whole or not self.refused:
            scene.depart(row, expected=expected, actual=self.describe())
        elif isinstance(got, Response):
            scene.expect(row, True, expected=expected, actual=self.describe(), branch=RESPONSE)
            if got.status != 400:
                scene.record(row, f"the status {got.status}")
        elif isinstance(got, ExchangeEnd) and got.kind == "reset" and not failed(self.client):
            told = f"RST_STREAM {error_name(got.code or 0)}; {self.describe()}"
            scene.expect(row, got.code in GENERIC, expected=RESET, actual=told, branch=RESET)
        else:
            scene.expect(row, True, expected=expected, actual=self.describe(), branch=CONNECTION)

    def judge_plainly(self, *rows: str, branch: str | None = None) -> None:
        """By rows that only ask for a refusal with nothing whole at the upstream."""
        for row in rows:
            fine = self.refused and not self.strays and not self.whole
            expected = "a refusal, and nothing whole at the upstream"
            self.scene.expect(row, fine, expected=expected, actual=self.describe(), branch=branch)


Say = Callable[[Http2Client, int, list[Field]], None]
"""Says a malformed request on a stream: the client, the stream, and the fields of a legal request to be spoilt."""


async def malformed(scene: Scene, say: Say, *, method: str = "GET", name: str = "main", **options: Any) -> Malformed:
    """A good request waits at the upstream, then `say` spoils another one on the same connection. Behind the barrier:
    what became of both."""
    upstream = scene.http_upstream(name)
    client = await scene.http_client(name, version="h2", **options)
    good, nonce = scene.nonce().hex(), scene.nonce().hex()
    sibling = await client.begin("GET", f"/{good}", nonce=good)
    held = await upstream.request(good)
    stream = client.open_stream()
    exchange = client.exchange(stream, method, "(malformed)", nonce)
    result = Malformed(scene, client, upstream, nonce, stream)
    say(client, stream, client.request_fields(method, f"/{nonce}", nonce=nonce))

    def arrived() -> bool:
        return any(seen.complete for seen in upstream.seen(nonce)) or result.strays

    async def answer() -> None:
        result.got = await exchange.outcome()

    try:
        async with deadline(f"an answer to the malformed request on stream {stream}"):
            await first_of(answer(), upstream.changed.until(arrived))
    except DeadlineExpired:
        await scene.settle(name)
        return result
    await scene.settle(name)
    result.requests = upstream.seen(nonce)
    await _answer_sibling(result, sibling, held, good)
    return result


async def _answer_sibling(result: Malformed, sibling: Http2ClientExchange, held: UpstreamExchange, good: str) -> None:
    """Answer the good request, and see whether the client gets it."""
    try:
        await held.respond(200, body=good.encode())
        got = await sibling.outcome()
    except EngineDeparted as lost:
        result.sibling_end = lost.actual
        return
    result.sibling = isinstance(got, Response) and got.status == 200 and got.body == good.encode()
    result.sibling_end = got.describe() if isinstance(got, Response) else str(got)


def with_field(name: bytes, value: bytes) -> Say:
    """A request with one more field."""

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        client.say(client.headers(stream, [*section, Field(name, value)], end=True))

    return say


def with_pseudo(**changed: bytes | None) -> Say:
    """A request with other pseudo-header fields, or without them (`None`); the name goes without its colon."""

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        said = []
        for each in section:
            known = each.name[1:].decode() if each.name[:1] == b":" else ""
            value = changed.get(known, each.value)
            if value is not None:
                said.append(Field(each.name, value))
        client.say(client.headers(stream, said, end=True))

    return say


# Plain exchanges


async def works(
    scene: Scene, client: HttpClient, upstream: HttpUpstream, fields: Sequence[tuple[str, str]] = ()
) -> tuple[UpstreamExchange, Response]:
    """A plain exchange with a nonce in both directions. Raises what a peer raises."""
    nonce = scene.nonce().hex()
    exchange = await client.begin("GET", f"/{nonce}", fields, nonce=nonce)
    request = await upstream.request(nonce)
    await request.respond(200, body=nonce.encode())
    response = await exchange.response()
    if response.status != 200 or response.body != nonce.encode():
        raise PeerMismatch(f"200 with the nonce {nonce}", f"{response.describe()}: {response.body[:60]!r}")
    return request, response


async def judge_works(scene: Scene, client: HttpClient, upstream: HttpUpstream, *rows: str) -> None:
    """An exchange on this connection must work, by each of these rows."""
    with scene.judging(*rows, ends=True):
        await works(scene, client, upstream)
    for row in rows:
        scene.expect(row, True, expected="a request that is served", actual="it is served")


async def sent_whole(exchange: ClientExchange, content: bytes) -> None:
    """Send content and the end of the request."""
    await exchange.send_content(content)
    await exchange.finish()


def dangling(told: Sequence[Representation]) -> list[int]:
    """The indexes of a block behind an emptied table that refer to entries which it has not made itself (RFC 7541
    section 2.3.3)."""
    made, found = 0, []
    for item in told:
        if item.kind != "update" and item.index > STATIC + made:
            found.append(item.index)
        made += item.kind == "incremental"
    return found


# The upstream leg


@dataclass
class Asked:
    """A request of a client, as it waits at an HTTP/2 upstream, and what the client got in the end."""

    scene: Scene
    client: HttpClient
    exchange: Any
    request: Http2UpstreamExchange
    got: Response | ExchangeEnd | None = field(default=None)

    @property
    def connection(self) -> Http2UpstreamConnection:
        """The upstream connection that brought the request."""
        return self.request.connection

    async def outcome(self) -> Response | ExchangeEnd:
        """What the client got. Raises `DeadlineExpired`."""
        self.got = await self.exchange.outcome()
        return self.got

    @property
    def failed(self) -> bool:
        """Whether the client was told that the request failed: a 5xx, or a message that broke off."""
        if isinstance(self.got, Response):
            return self.got.status >= 500 or not self.got.complete
        return self.got is not None

    def describe(self) -> str:
        """One line for an `actual`."""
        if isinstance(self.got, Response):
            return f"{self.got.describe()} {self.got.headers}: {self.got.body[:60]!r}"
        return str(self.got)


async def asked(
    scene: Scene,
    client: HttpClient | None = None,
    *,
    method: str = "GET",
    version: str = "http/1.1",
    fields: Sequence[tuple[str, str]] = (),
    **upstream: Any,
) -> Asked:
    """A request that has reached the h2c upstream and waits there for its answer."""
    behind = scene.http_upstream(version="h2c", **upstream)
    client = client or await scene.http_client(version=version)
    nonce = scene.nonce().hex()
    exchange = await client.begin(method, f"/{nonce}", fields, nonce=nonce)
    return Asked(scene, client, exchange, await behind.request(nonce))
