"""Steps that many HTTP/3 cases share: requests of any shape, what became of them, faults that must end something.

Barriers, named in the docstrings of the cases: B-c, `settled`: a PING on the client's connection, then probes of our
own through the same tunnel; B-e: the connection has ended, then the probes; B-u: a request that the upstream answers,
then the probes. Only then does it mean anything that something did not reach the upstream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.model.case import CaseFunction, case
from harness.model.spec import http
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http1_stream import NONCE_FIELD
from harness.peer.http3 import Http3Client, Http3Exchange
from harness.peer.http3_upstream import Http3Upstream, Http3UpstreamConnection, Http3UpstreamExchange
from harness.peer.http_upstream import HttpUpstream, UpstreamExchange
from harness.scene import Scene
from harness.wire.http3 import ErrorCode, Frame, HeadersFrame, error_name
from harness.wire.http3.qpack import literal_section

DOWN = ("http.downstream-h3",)
"""What the profile must claim for a client of HTTP/3."""
BEHIND = http(http_version="h3")
"""A tunnel with an HTTP/3 upstream."""
ABORT_CODES = frozenset((ErrorCode.H3_MESSAGE_ERROR, ErrorCode.H3_GENERAL_PROTOCOL_ERROR, ErrorCode.H3_INTERNAL_ERROR))
"""Codes of a stream with a malformed message (RFC 9114 sections 4.1.2 and 8.1)."""
GENERIC = frozenset((ErrorCode.H3_GENERAL_PROTOCOL_ERROR, ErrorCode.H3_INTERNAL_ERROR))
ASK_SECONDS = 0.05
"""How long a close is waited for before it is asked for again; see `end_of`."""

Fields = list[tuple[bytes, bytes]]
Say = Callable[[Http3Client, int], None]
"""Says something on a stream of the client that was opened for it."""


def down_case(case_id: str, checks: Sequence[str], **options: Any) -> Callable[[CaseFunction], CaseFunction]:
    """A case with an HTTP/3 client; the upstream speaks HTTP/1.1 unless `publish` says otherwise."""
    options.setdefault("publish", http())
    return case(case_id, checks=checks, features=DOWN, family="http3", **options)


def up_case(case_id: str, checks: Sequence[str], **options: Any) -> Callable[[CaseFunction], CaseFunction]:
    """A case with an HTTP/3 upstream."""
    options.setdefault("publish", BEHIND)
    return case(case_id, checks=checks, family="http3-behind", **options)


# Requests


async def connected(scene: Scene, name: str = "main", **options: Any) -> Http3Client:
    """A client toward the tunnel that has the engine's SETTINGS and does not mind what it provokes."""
    client: Http3Client = await scene.http_client(name, version="h3", **options)
    client.strict = False
    await client.settings()
    return client


def ask(
    client: Http3Client, nonce: str, *more: tuple[bytes, bytes], method: bytes = b"GET", path: bytes | None = None
) -> Fields:
    """The fields of an ordinary request with `nonce`, and `more` behind them."""
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", client.host.encode()),
        (b":path", f"/{nonce}".encode() if path is None else path),
        (NONCE_FIELD.lower().encode(), nonce.encode()),
        *more,
    ]


def headers(fields: Iterable[tuple[bytes, bytes]], **options: Any) -> HeadersFrame:
    """HEADERS of any fields, encoded by hand."""
    return HeadersFrame(literal_section(fields, **options), tuple(fields))


async def works(scene: Scene, client: Http3Client, name: str = "main") -> Response:
    """An ordinary exchange of the client, answered with its nonce. Raises `PeerMismatch`, `DeadlineExpired`."""
    nonce = scene.nonce().hex()
    asked = await client.begin("GET", f"/{nonce}", nonce=nonce)
    request = await behind(scene, name).request(nonce)
    await request.respond(200, body=nonce.encode())
    response = await asked.response()
    if response.status != 200 or response.body != nonce.encode():
        raise PeerMismatch(f"200 with the nonce {nonce}", f"{response.describe()}: {response.body[:60]!r}")
    return response


def behind(scene: Scene, name: str = "main") -> HttpUpstream:
    """The upstream of the tunnel, whatever it speaks."""
    return scene.http_upstream(name, version=scene.spec(name).upstream_http)


# What became of it


def told(got: Response | ExchangeEnd | None) -> str:
    """An outcome in words."""
    if isinstance(got, Response):
        return f"{got.describe()}: {got.body[:60]!r}"
    return "nothing" if got is None else str(got)


async def outcome(client: Http3Client, exchange: Http3Exchange) -> Response | ExchangeEnd | None:
    """A response, or how the exchange ended: also by STOP_SENDING alone, which is the end of a request that is not
    answered. None where nothing at all came in time."""
    try:
        await client.until(
            lambda: exchange.over or exchange.stopped is not None, f"an end of stream {exchange.id} of any kind"
        )
        if not exchange.over and exchange.stopped is not None:
            await client.ping()
            if not exchange.over:
                name = error_name(exchange.stopped)
                return ExchangeEnd("reset", exchange.stopped, f"STOP_SENDING {name} alone")
        return await exchange.outcome()
    except (PeerMismatch, LinkReset):
        return client.exchange_end()
    except DeadlineExpired:
        return None


async def there_or_refused(
    scene: Scene, client: Http3Client, exchange: Http3Exchange, nonce: str
) -> UpstreamExchange | Response | ExchangeEnd | None:
    """The request with `nonce`, once it is at the upstream; or how it was refused, or nothing in time."""
    side = behind(scene)
    try:
        await client.until(
            lambda: bool(side.seen(nonce)) or exchange.over or exchange.stopped is not None,
            "the request at the upstream, or its refusal",
        )
    except DeadlineExpired:
        return None
    return await side.request(nonce) if side.seen(nonce) else await outcome(client, exchange)


def is_refusal(got: Response | ExchangeEnd | None) -> bool:
    """Whether the engine refused: an error, an abort, the end of the connection; or a response that broke off."""
    if isinstance(got, Response):
        return got.status >= 400 or not got.complete
    return got is not None


def clean(got: Response | ExchangeEnd | None) -> bool:
    """Whether this is a whole response that is no error."""
    return isinstance(got, Response) and got.complete and got.status < 400


def judge_malformed(scene: Scene, row: str, got: Response | ExchangeEnd | None) -> None:
    """How a malformed request was refused, by the row's branches: stream abort, error response, or close."""
    expected = "a stream error H3_MESSAGE_ERROR, an error response or a close"
    if isinstance(got, Response):
        if got.status >= 400:
            scene.allow(row, "HTTP error response")
            return
    elif got is not None and got.kind == "reset":
        if got.code in ABORT_CODES:
            scene.allow(row, "stream abort (RESET_STREAM")
        else:
            scene.record(row, f"aborted with another code: {got}")
        return
    elif got is not None and got.kind == "connection" and got.code is not None:
        scene.allow(row, "CONNECTION_CLOSE instead")
        return
    scene.depart(row, expected=expected, actual=told(got))


async def settled(scene: Scene, client: Http3Client, name: str = "main") -> None:
    """B-c, or B-e where the connection has ended."""
    if client.quic.ended is None:
        with contextlib.suppress(PeerMismatch):  # It may end in the meantime.
            await client.ping()
    await scene.settle(name)


async def nothing_there(scene: Scene, row: str, name: str = "main", *, partial: bool = False) -> None:
    """After the barrier: nothing that no script took is at the upstream; with `partial`, nothing whole."""
    strays = [each for each in behind(scene, name).unexpected if not (partial and not getattr(each, "complete", True))]
    actual = "; ".join(each.describe() for each in strays) or "nothing"
    scene.expect(row, not strays, expected=f"nothing at the upstream of {name!r}", actual=actual)


async def refused(
    scene: Scene,
    say: Say,
    *rows: str,
    name: str = "main",
    partial: bool = False,
    judge: Callable[[Scene, str, Response | ExchangeEnd | None], None] = judge_malformed,
) -> None:
    """`say` puts a bad request on a stream of its own: the engine refuses it, and nothing of it is at the upstream
    (B-c; with `partial` nothing whole)."""
    client = await connected(scene, name)
    stream = await client.open_stream()
    exchange = client.exchange(stream)
    say(client, stream)
    got = await outcome(client, exchange)
    for row in rows:
        judge(scene, row, got)
    await settled(scene, client, name)
    for row in rows:
        await nothing_there(scene, row, name, partial=partial)


# Connection errors


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended: `code` where it was closed with one, `h3` whether that is one of HTTP/3."""

    code: int | None
    h3: bool
    said: str


async def end_of(peer: Http3Client | Http3UpstreamConnection) -> Closed | None:
    """How the engine ends the connection; None where it goes on.

    A close may be lost, and is said again only to whoever asks while the other side is closing (RFC 9000 section 10.2):
    a PING does, again and again.
    """
    quic = peer.quic
    quic.strict = False
    try:
        async with deadline(f"the end of the connection at the {peer.channel.us}"):
            while quic.ended is None:
                quic.wire.ping()
                quic.flush()
                try:
                    async with deadline("the end, before it is asked for again", ASK_SECONDS):
                        await quic.gone()
                except DeadlineExpired:
                    continue
    except DeadlineExpired:
        return None
    end = quic.ended
    closed = end.kind in ("application", "transport") and end.by_peer
    return Closed(end.code if closed else None, closed and end.kind == "application", peer.end_words())


def judge_close(scene: Scene, row: str, end: Closed | None, *named: int, first: str = "", other: str = "") -> None:
    """The engine must close the connection. `named` are the codes of the rule; `first` and `other` begin the row's
    branches for these (and the generic codes) and for every other code, where they are not the usual ones."""
    names = " or ".join(error_name(code) for code in named)
    if end is None or end.code is None:
        actual = "the connection goes on" if end is None else end.said
        scene.depart(row, expected=f"CONNECTION_CLOSE with {names}", actual=actual)
        return
    ours = row.startswith("RFC9204")
    usual = f"CONNECTION_CLOSE with {error_name(named[0])}"
    rest = "CONNECTION_CLOSE with H3_GENERAL_PROTOCOL_ERROR" if ours else "CONNECTION_CLOSE with another error code"
    fits = end.h3 and (end.code in named or (end.code in GENERIC and not ours))
    scene.allow(row, (first or usual) if fits else (other or rest))


async def ends_connection(
    scene: Scene,
    stimulus: Callable[[Http3Client], Any],
    row: str,
    *named: int,
    first: str = "",
    other: str = "",
    partial: bool = False,
    **options: Any,
) -> None:
    """The client does something that is a connection error: the engine closes the connection, and nothing of it is at
    the upstream (B-e; with `partial` nothing whole). `options` are the client's."""
    client: Http3Client = await scene.http_client(version="h3", **options)
    client.strict = False
    done = stimulus(client)
    if done is not None:
        await done
    judge_close(scene, row, await end_of(client), *named, first=first, other=other)
    await scene.settle()
    await nothing_there(scene, row, partial=partial)


async def on_stream(client: Http3Client, *frames: Frame | bytes, fin: bool = False) -> int:
    """Frames on a new request stream; gives its id."""
    stream = await client.open_stream()
    client.say(stream, *frames, fin=fin)
    return stream


async def on_uni(client: Http3Client | Http3UpstreamConnection, octets: bytes, *, fin: bool = False) -> int:
    """Octets on a new unidirectional stream; gives its id."""
    stream = await client.open_stream(bidirectional=False)
    client.say(stream, octets, fin=fin)
    return stream


# The upstream's side


@dataclass
class Asked:
    """A client's request that is at an HTTP/3 upstream. `sent` is the client's exchange, of any version."""

    scene: Scene
    client: Any
    sent: Any
    request: Http3UpstreamExchange
    nonce: str

    @property
    def connection(self) -> Http3UpstreamConnection:
        """The upstream's connection that it came on."""
        return self.request.connection

    async def got(self) -> Response | ExchangeEnd | None:
        """What the client gets; None where nothing came in time."""
        try:
            found: Response | ExchangeEnd = await self.sent.outcome()
        except DeadlineExpired:
            return None
        except (PeerMismatch, LinkReset) as error:
            return ExchangeEnd("connection", None, str(error))
        return found


def upstream(scene: Scene, name: str = "main", **options: Any) -> Http3Upstream:
    """The HTTP/3 upstream of the tunnel; `options` count at the first call."""
    return scene.http_upstream(name, version="h3", **options)


async def asked(
    scene: Scene,
    method: str = "GET",
    fields: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    client: Any = None,
    version: str = "http/1.1",
    **options: Any,
) -> Asked:
    """A request of a client (of HTTP/1.1 unless told otherwise) that arrives at the HTTP/3 upstream."""
    side = upstream(scene)
    client = client or await scene.http_client(version=version)
    nonce = scene.nonce().hex()
    sent = await client.begin(method, f"/{nonce}", fields, body, nonce=nonce, **options)
    request = await side.request(nonce)
    request.connection.strict = False
    return Asked(scene, client, sent, request, nonce)


async def upstream_works(scene: Scene, *rows: str) -> None:
    """A fresh client's exchange through the tunnel is served: what happened before was one connection's affair."""
    with scene.judging(*rows):
        other = await asked(scene)
        await other.request.respond(200, body=b"later")
        got = await other.got()
        if not (isinstance(got, Response) and got.status == 200 and got.body == b"later"):
            raise PeerMismatch("200 for the next exchange", told(got))


def judge_gateway(scene: Scene, row: str, got: Response | ExchangeEnd | None, branch: str | None) -> None:
    """What the client gets for a bad answer of the upstream: any 5xx, or an exchange that is broken off."""
    refusal = isinstance(got, ExchangeEnd) or (isinstance(got, Response) and (got.status >= 500 or not got.complete))
    if refusal and branch is not None:
        scene.allow(row, branch)
        return
    scene.expect(row, refusal, expected="a 5xx, or the exchange broken off", actual=told(got))
