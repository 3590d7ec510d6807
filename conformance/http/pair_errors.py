"""What goes wrong behind the edge, or is wrong with a message, and what a client of any version then gets."""

from __future__ import annotations

import contextlib

from conformance.http._pair_steps import (
    GATEWAY,
    behind,
    beside,
    judge_kind,
    kind_of,
    meet,
    new_client,
    pair_case,
    told,
    works,
)
from conformance.http._pairs import DOWN, pair_features
from conformance.http._steps import meanwhile
from harness.errors import PeerMismatch
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import ExchangeEnd, Fields, HttpClient, Response
from harness.scene import Scene
from harness.tasks import one_of

INTERNALS = ("Traceback", "127.0.0.1", 'File "', "0x", "asyncio", "localhost")


@pair_case("http-pair-35", ["HTTP-ERR-002"], needs=["dynamic"])
async def test_an_agent_that_refuses_the_stream(scene: Scene) -> None:
    """A stream that the agent refuses to open gets the client a gateway error, no hang and no empty close."""
    client = await new_client(scene)
    scene.agent.refuse_streams = (7000, "connection refused")
    with scene.judging("HTTP-ERR-002"):
        got = await (await client.begin()).outcome()
        other = "503 or another 5xx"
        branches: dict[str, str | None] = {"502": "502", "503": other, "504": other, "5xx": other}
        if scene.variant["down"] != "h1":
            branches["aborted"] = "h2/h3: stream error"
        judge_kind(scene, "HTTP-ERR-002", got, branches, expected="a gateway error")


@pair_case("http-pair-36", ["HTTP-ERR-003"], settings={"timeout.http-response-ms": 1000})
async def test_a_silent_upstream(scene: Scene) -> None:
    """An upstream that takes the request and never answers gets the client a 504, and the exchange is left."""
    met = await meet(scene)
    with scene.judging("HTTP-ERR-003"):
        got = await met.sent.outcome()
        branches: dict[str, str | None] = {"504": "504", "502": "502 or 503", "503": "502 or 503"}
        if scene.variant["down"] != "h1":
            branches["aborted"] = "h2/h3: stream error"
        judge_kind(scene, "HTTP-ERR-003", got, branches, expected="504")
        end = await met.request.ended()
        left = end.kind in ("reset", "connection")
        scene.expect("HTTP-ERR-003", left, expected="the upstream to be left", actual=str(end))


@pair_case("http-pair-37", ["HTTP-ERR-004"], over={"instead": ("close", "reset")})
async def test_an_upstream_that_does_not_answer(scene: Scene) -> None:
    """An upstream that closes, or resets, instead of an answer gets the client a 502; the client's next exchange is
    served, or its connection was closed cleanly."""
    clients = await beside(scene, 2)
    met = await meet(scene, "POST", client=clients[0], body=b"hello")
    await met.request.body()
    if scene.variant["instead"] == "reset":
        met.request.break_off()
    else:
        await met.request.connection.close()  # type: ignore[attr-defined]
    with scene.judging("HTTP-ERR-004"):
        got = await met.sent.outcome()
        branches: dict[str, str | None] = dict(GATEWAY)
        if scene.variant["down"] != "h1":
            branches["aborted"] = "h2/h3: stream error"
        judge_kind(scene, "HTTP-ERR-004", got, branches, expected="502")
        said = (got.get("connection") or "") if isinstance(got, Response) else ""
        if "close" in said:
            end = await met.client.closed()
            scene.expect("HTTP-ERR-004", end.clean, expected="a clean end", actual=str(end))
            return
        later = await works(scene, met.client)
        scene.expect("HTTP-ERR-004", later.status == 200, expected="the next exchange", actual=told(later))


@pair_case("http-pair-44", ["HTTP-ERR-013", "RFC9110-2.2-1"], over={"method": ("GET", "HEAD")})
async def test_the_engines_own_error_is_valid(scene: Scene) -> None:
    """An error that the engine makes is valid in the client's version, tells no internals, and has no content for
    HEAD."""
    method = scene.variant["method"]
    met = await meet(scene, method)
    met.request.break_off()
    got = await met.sent.outcome()
    if method == "GET":
        await _repeated(scene, met.nonce)
    if not isinstance(got, Response):
        scene.record("HTTP-ERR-013", f"no answer of its own: {got}")
        scene.record("RFC9110-2.2-1", "no answer of its own")
        return
    text = f"{got.headers} {got.body!r}"
    telling = [word for word in INTERNALS if word in text]
    bare = got.complete and not (method == "HEAD" and got.body)
    actual = f"{told(got)}, tells {telling}"
    scene.expect("HTTP-ERR-013", bare and not telling, expected="a whole answer without internals", actual=actual)
    broken = [str(one) for one in (*got.violations, *met.client.violations)]
    scene.expect("RFC9110-2.2-1", not broken, expected="a valid message", actual="; ".join(broken))


async def _repeated(scene: Scene, nonce: str) -> None:
    """A GET may have gone out a second time, on a connection of its own; nobody answers that, either."""
    for request in behind(scene).seen(nonce):
        request.claimed = True


# TLS toward the upstream: HTTP-VER-010, HTTP-ERR-011

OFFERS = {"h2": ["h2"], "both": ["h2", "http/1.1"], "http1": ["http/1.1"], "none": []}


@case(
    "http-pair-42",
    checks=["HTTP-VER-010"],
    publish=http(upstream_tls=True),
    over={"down": tuple(DOWN), "upstream": tuple(OFFERS)},
    features=lambda variant: [*pair_features(variant), "http.h2c"],
)
async def test_the_upstreams_alpn_decides(scene: Scene) -> None:
    """With upstream TLS and no version, ALPN says whether the upstream hears HTTP/2 or HTTP/1.1.

    Without an answer to ALPN it is HTTP/1.1. The client sees no difference.
    """
    kind = scene.variant["upstream"]
    upstream = behind(scene, alpn=OFFERS[kind])
    with scene.judging("HTTP-VER-010", ends=True):
        client, nonce = await new_client(scene), scene.nonce().hex()
        sent, request = await scene.both(
            client.begin("POST", f"/{nonce}", (), b"hello", nonce=nonce), upstream.request(nonce)
        )
        content = await request.body()
        _, response = await scene.both(request.respond(200, (), nonce.encode()), sent.response())
    fits = {"h2": ("h2",), "both": ("h2", "http/1.1"), "http1": ("http/1.1",), "none": ("http/1.1",)}[kind]
    fine = request.version in fits and content == b"hello" and response.body == nonce.encode()
    actual = f"{request.version}, {content!r}, {told(response)}"
    scene.expect("HTTP-VER-010", fine, expected=f"{fits[0]}, content and answer whole", actual=actual)


@case(
    "http-pair-82",
    checks=["HTTP-ERR-011"],
    publish=http(upstream_tls=True),
    over={"down": tuple(DOWN)},
    features=pair_features,
)
async def test_an_upstream_that_does_not_speak_tls(scene: Scene) -> None:
    """With upstream TLS, an upstream that answers in plain gets the client a 502, and saw no request in plain."""
    client, nonce = await new_client(scene), scene.nonce().hex()
    sent = await client.begin("GET", f"/{nonce}")
    upstream = await scene.upstream().accept()
    first = await upstream.receive()
    await upstream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    got = await sent.outcome()
    hidden = nonce.encode() not in first and first[:1] == b"\x16"
    scene.expect("HTTP-ERR-011", hidden, expected="a ClientHello at the upstream", actual=f"{first[:40]!r}")
    branches = {**GATEWAY, "aborted": "stream error"}
    judge_kind(scene, "HTTP-ERR-011", got, branches, expected="502")


@pair_case(
    "http-pair-43",
    ["HTTP-ERR-012"],
    up=("h3",),
    over={"upstream": ("silent", "alpn", "junk")},
    settings={"timeout.handshake-ms": 1500, "timeout.http-response-ms": 1500},
)
async def test_an_h3_upstream_that_cannot_be_reached(scene: Scene) -> None:
    """An h3 upstream that says nothing, no QUIC, or another protocol gets the client an error, in bounded time."""
    kind = scene.variant["upstream"]

    async def answers() -> None:
        if kind == "alpn":
            server = await scene.quic_upstream().accept(handshake=False, alpn=["x"])
            await server.try_handshake()
            return
        packets = await scene.upstream().accept_packets()
        with contextlib.suppress(LinkReset):  # the engine has given up
            while True:
                await packets.receive()
                if kind == "junk":
                    await packets.send(b"\x40this is no QUIC packet" * 4)

    with scene.judging("HTTP-ERR-012"):
        client = await new_client(scene)
        async with meanwhile(answers()):
            got = await (await client.begin()).outcome()
        branches: dict[str, str | None] = {"502": "502 or 504", "504": "502 or 504", "503": "another 5xx"}
        branches |= {"5xx": "another 5xx", "aborted": "stream error"}
        judge_kind(scene, "HTTP-ERR-012", got, branches, expected="502 or 504")


# Limits and lengths


@pair_case("http-pair-49", ["RFC9110-5.4-1"], over={"kind": ("value", "count", "total")})
async def test_large_header_sections(scene: Scene) -> None:
    """A header section that grows is refused at some point, or reaches the upstream whole: never cut."""
    kind = scene.variant["kind"]
    upstream = behind(scene)
    seen = []
    for power in range(10, 21, 2):
        size = 1 << power
        fields = {
            "value": [("x-large", "v" * size)],
            "count": [(f"x-{number}", "v") for number in range(size >> 6)],
            "total": [(f"x-{number}", "v" * 1000) for number in range(max(1, size >> 10))],
        }[kind]
        client, nonce = await new_client(scene), scene.nonce().hex()
        with scene.judging("RFC9110-5.4-1"):
            got, request = await one_of(_tried(client, fields, nonce), upstream.request(nonce))
        if request is not None:
            whole = [(name.lower(), value) for name, value in request.headers if name.lower().startswith("x-")]
            kept = [line for line in whole if line in set(fields)] == fields
            scene.expect("RFC9110-5.4-1", kept, expected=f"all fields of {size} octets", actual=f"{len(whole)} fields")
            await request.respond(200)
            seen.append("relayed in full")
            client.abort()
            continue
        refused = kind_of(got) in ("4xx", "aborted", "5xx")
        scene.expect("RFC9110-5.4-1", refused, expected="431, or the request whole", actual=told(got))
        named = got.status if isinstance(got, Response) else None
        h1 = "h1: connection closed" if scene.variant["down"] == "h1" else "h2/h3: stream or connection error"
        seen.append("431" if named == 431 else "another 4xx" if named else h1)
        break
    scene.allow("RFC9110-5.4-1", seen[-1])


async def _tried(client: HttpClient, fields: Fields, nonce: str) -> Response | ExchangeEnd:
    """What comes of a request that the engine may refuse while it is still being sent."""
    try:
        sent = await client.begin("GET", "/", fields, nonce=nonce)
    except PeerMismatch as end:
        return ExchangeEnd("connection", detail=end.actual)
    return await sent.outcome()


LENGTHS = {"short": b"abc", "long": b"abcdefgh", "none": b""}


async def _lying_client(scene: Scene, *requirements: str) -> None:
    """A request that says 5 octets and has 3, 8 or none: refused, and never whole at the upstream."""
    content = LENGTHS[scene.variant["content"]]
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    sent = await client.begin("POST", f"/{nonce}", [("content-length", "5")], nonce=nonce, end=False)
    if content:
        await sent.offer_content(content)

    async def ended() -> Response | ExchangeEnd:
        with contextlib.suppress(PeerMismatch):
            await sent.finish()
        return await sent.outcome()

    async def answered() -> None:
        while True:
            request = await upstream.request(nonce)
            await request.body_so_far()
            if request.complete:
                await request.respond(200, (), nonce.encode())

    async with meanwhile(answered()):
        got = await ended()
    await scene.settle()
    seen_there = upstream.seen(nonce)
    whole = [request for request in seen_there if request.complete]
    # The beginning of this one may come late: it streams, and is left as soon as the lie is out.
    strays = [stray for stray in upstream.unexpected if stray not in seen_there]
    refused = kind_of(got) not in ("2xx", "3xx")
    for requirement in requirements:
        seen = "; ".join(request.describe() for request in seen_there) or "nothing"
        actual = f"{told(got)} at the client; {seen} at the upstream; strays {[one.describe() for one in strays]}"
        expected = "a refusal, and no whole request at the upstream"
        scene.expect(requirement, refused and not whole and not strays, expected=expected, actual=actual)


@pair_case("http-pair-50", ["RFC9110-8.6-4", "HTTP-HDR-008"], down=("h2", "h3"), over={"content": tuple(LENGTHS)})
async def test_a_client_that_lies_about_length(scene: Scene) -> None:
    """A request of HTTP/2 or HTTP/3 whose content-length is wrong is refused, and never whole at the upstream."""
    await _lying_client(scene, "RFC9110-8.6-4", "HTTP-HDR-008")


@pair_case("http-pair-83", ["RFC9113-8.1.1-3"], down=("h2",), over={"content": tuple(LENGTHS)})
async def test_a_client_of_http2_that_lies_about_length(scene: Scene) -> None:
    """A request whose content-length is not the sum of its DATA frames is malformed."""
    await _lying_client(scene, "RFC9113-8.1.1-3")


@pair_case("http-pair-84", ["RFC9114-4.1.2-3"], down=("h3",), over={"content": tuple(LENGTHS)})
async def test_a_client_of_http3_that_lies_about_length(scene: Scene) -> None:
    """A request whose content-length is not the sum of its DATA frames is malformed."""
    await _lying_client(scene, "RFC9114-4.1.2-3")


async def _lying_upstream(scene: Scene, *requirements: str) -> None:
    """A response that says 5 octets and has 3 or 8: never a clean one at the client."""
    content = LENGTHS[scene.variant["content"]]
    met = await meet(scene)
    await met.request.begin_response(200, [("content-length", "5")])

    async def rest() -> None:
        await met.request.send_content(content)
        await met.request.finish()

    async with meanwhile(rest()):
        got = await met.sent.outcome()
    clean = isinstance(got, Response) and got.complete and got.status < 500
    for requirement in requirements:
        expected = "an error, or a response that is not complete"
        scene.expect(requirement, not clean, expected=expected, actual=told(got))


@pair_case("http-pair-51", ["RFC9113-8.1.1-3"], up=("h2c",), over={"content": ("short", "long")})
async def test_an_h2c_upstream_that_lies_about_length(scene: Scene) -> None:
    """A response of an h2c upstream whose content-length is wrong never ends cleanly at the client."""
    await _lying_upstream(scene, "RFC9113-8.1.1-3")


@pair_case("http-pair-85", ["RFC9114-4.1.2-3"], up=("h3",), over={"content": ("short", "long")})
async def test_an_h3_upstream_that_lies_about_length(scene: Scene) -> None:
    """A response of an h3 upstream whose content-length is wrong never ends cleanly at the client."""
    await _lying_upstream(scene, "RFC9114-4.1.2-3")
