"""What the engine says of itself and of the client: Via, forwarding fields, TE, Max-Forwards, TRACE."""

from __future__ import annotations

import re

from conformance.http._steps import asked, probing, works
from harness.link.tcp import TcpLink
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http1 import Response
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.http1_write import Field

# Via: RFC 9110 section 7.6.3

RECEIVED: list[Field] = [("Via", "1.0 fred"), ("Via", "1.1 p.example.net, 1.0 q.example.net")]
MEMBERS = ["1.0 fred", "1.1 p.example.net", "1.0 q.example.net"]


@case(
    "http-identity-01",
    checks=["RFC9110-7.6.3-1", "RFC9110-7.6.3-2", "RFC9110-7.6.3-3", "RFC9110-7.6.3-4", "HTTP-HDR-017"],
    publish=http(),
    over={"version": ("1.0", "1.1")},
)
async def test_via(scene: Scene) -> None:
    """Via members that came stay in their order and apart; the engine's own stands behind them.

    It names the version in which the engine got the request, and no address behind the engine.
    """
    version = scene.variant["version"]
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=RECEIVED, version=f"HTTP/{version}"))
        await probe.outcome()
        lines = probe.request.get_all("via")
    members = [member.strip() for line in lines for member in line.split(",")]
    kept, own = members[: len(MEMBERS)], members[len(MEMBERS) :]
    scene.record("HTTP-HDR-017", f"Via at the upstream: {lines}")
    told = {"expected": f"{MEMBERS}, then the engine's own", "actual": f"{members}"}
    branch = "edge member appended" if own else "only `1.0 fred`"
    scene.expect("RFC9110-7.6.3-2", kept == MEMBERS and len(own) < 2, **told, branch=branch)
    scene.expect("RFC9110-7.6.3-4", kept == MEMBERS, **told)
    addresses = [member for member in own if re.search(r"\d+\.\d+\.\d+\.\d+|\[|localhost|:", member.partition(" ")[2])]
    scene.expect("RFC9110-7.6.3-3", not addresses, expected="a pseudonym", actual=f"{own}")
    if not own:
        scene.allow("RFC9110-7.6.3-1", "no Via")
        return
    said = own[0].split(" ")[0].upper().removeprefix("HTTP/")
    scene.expect(
        "RFC9110-7.6.3-1", said == version, expected=version, actual=f"{own}", branch="Via with a correct last"
    )


# Who the client is: RFC 7239

NAMES = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded")
SPOOFED: list[Field] = [
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-Proto", "gopher"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Real-IP", "192.0.2.1"),
    ("Forwarded", "for=192.0.2.1;proto=gopher;host=evil.example"),
]


async def _said(scene: Scene, fields: list[Field]) -> tuple[dict[str, list[str]], Response | None]:
    """The members of the identity fields at the upstream of a request with `fields`, and the client's response."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=fields))
        await probe.outcome()
        request = probe.requests[0] if probe.requests else None
        seen = {name: request.get_all(name) if request else [] for name in NAMES}
        got = probe.got if isinstance(probe.got, Response) else None
    return {name: [part.strip() for value in values for part in value.split(",")] for name, values in seen.items()}, got


@case(
    "http-identity-02",
    checks=["RFC7239-7.4-1", "RFC7239-4-5", "RFC7239-4-1", "RFC7239-4-2"],
    publish=http(),
)
async def test_identity_fields_tell_one_story(scene: Scene) -> None:
    """Whatever identity field the engine emits ends with the engine's own word, though the client sent one.

    A plain request shows which fields it emits; those that it never emits may pass.
    """
    plain, _ = await _said(scene, [])
    emitted = {name: values for name, values in plain.items() if values}
    spoofed, response = await _said(scene, SPOOFED)
    scene.record("RFC7239-4-1", f"on a plain request: {emitted or 'none'}")
    wrong = {name: spoofed[name] for name, values in emitted.items() if spoofed[name][-1:] != values[-1:]}
    replaced = all(len(spoofed[name]) == len(values) for name, values in emitted.items())
    branch = "replaced" if emitted and replaced else "appended last" if emitted else "pass-through"
    told = {"expected": f"{emitted} last", "actual": f"{wrong or spoofed}"}
    scene.expect("RFC7239-7.4-1", not wrong, **told, branch=branch)
    foreign = spoofed["forwarded"]
    if "forwarded" in emitted:
        last = "forwarded" not in wrong
        branch = "passed on, edge element last" if len(foreign) > 1 else "removed"
        scene.expect("RFC7239-4-5", last, expected=f"{emitted['forwarded']} last", actual=f"{foreign}", branch=branch)
    else:
        scene.allow("RFC7239-4-5", "passed on by an edge that emits none" if foreign else "removed")
    backward = response.get_all("forwarded") if response else []
    scene.expect("RFC7239-4-2", not backward, expected="no Forwarded in the response", actual=f"{backward}")


ELEMENT = re.compile(r'\s*(?:[!#$%&\'*+.^_`|~0-9A-Za-z-]+=(?:[!#$%&\'*+.^_`|~0-9A-Za-z-]+|"(?:[^"\\]|\\.)*")\s*;?\s*)*')
ENDED = re.compile(r'^(?:[^"]|"(?:[^"\\]|\\.)*")*,')
"""The elements before the last one, read from the left: a quote that is open swallows what follows."""
PAIR = re.compile(r'([^=;,\s]+)=("(?:[^"\\]|\\.)*"|[^;,\s]+)')
NODE = re.compile(r"(\d+\.\d+\.\d+\.\d+|\[[0-9a-f:.]+\]|unknown|_[A-Za-z0-9._-]+)(:(\d{1,5}|_[A-Za-z0-9._-]+))?")
EMITS_NONE = "the engine emits no Forwarded"


def _last_element(lines: list[str]) -> list[tuple[str, str]] | None:
    """The pairs of the last element of the last line, names in lower case, quotes removed; None where it is no
    element."""
    if not lines:
        return None
    element = re.sub(ENDED, "", lines[-1])
    if not ELEMENT.fullmatch(element):
        return None
    return [(name.lower(), re.sub(r"\\(.)", r"\1", value.strip('"'))) for name, value in PAIR.findall(element)]


@case(
    "http-identity-03",
    checks=["RFC7239-4-3", "RFC7239-5.1-1", "RFC7239-5.2-1", "RFC7239-5.3-1", "RFC7239-5.4-1"],
    publish=http(),
)
async def test_the_engines_own_forwarded(scene: Scene) -> None:
    """Where the engine emits Forwarded, its element names the client, the host that was asked for, and https."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "http")]))
        await probe.outcome()
        lines = probe.request.get_all("forwarded") if probe.requests else []
        link = probe.client.link.link if isinstance(probe.client.link, TlsPeer) else probe.client.link
        source = link.local[0] if isinstance(link, TcpLink) else "127.0.0.1"
    if not lines:
        for requirement in ("RFC7239-4-3", "RFC7239-5.1-1", "RFC7239-5.2-1", "RFC7239-5.3-1", "RFC7239-5.4-1"):
            scene.not_run(requirement, EMITS_NONE)
        return
    pairs = _last_element(lines) or []
    names = [name for name, _ in pairs]
    told = {"expected": "one element with each parameter once", "actual": f"{lines}"}
    scene.expect("RFC7239-4-3", bool(pairs) and len(set(names)) == len(names), **told)
    said = dict(pairs)
    by, node = said.get("by", "unknown"), said.get("for", "unknown")
    scene.expect("RFC7239-5.1-1", NODE.fullmatch(by) is not None, expected="a node", actual=by)
    real = NODE.fullmatch(node) is not None and (node[0] in "_u" or source in node)
    scene.expect("RFC7239-5.2-1", real, expected=f"{source}, or an obfuscated node", actual=node)
    asked_for = said.get("host", probe.host)
    scene.expect("RFC7239-5.3-1", asked_for.lower() == probe.host.lower(), expected=probe.host, actual=asked_for)
    scheme = said.get("proto", "https")
    scene.expect("RFC7239-5.4-1", scheme.lower() == "https", expected="https", actual=scheme)


FORGED: dict[str, list[Field]] = {
    "two-lines": [("Forwarded", "for=192.0.2.1"), ("Forwarded", "for=192.0.2.2;proto=http, for=192.0.2.3")],
    "unterminated": [("Forwarded", 'for="192.0.2.1')],
}


@case("http-identity-04", checks=["RFC7239-4-4", "RFC7239-4-6"], publish=http(), over={"received": tuple(FORGED)})
async def test_the_engines_element_stands_last(scene: Scene) -> None:
    """Where the engine emits Forwarded, its element stands behind those that came, and no quote swallows it."""
    received = FORGED[scene.variant["received"]]
    async with probing(scene) as plain:
        await plain.say(plain.wire())
        await plain.outcome()
        own = _last_element(plain.request.get_all("forwarded")) if plain.requests else None
    if own is None:
        for requirement in ("RFC7239-4-4", "RFC7239-4-6"):
            scene.not_run(requirement, EMITS_NONE)
        return
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=received))
        await probe.outcome()
        lines = probe.request.get_all("forwarded") if probe.requests else []
    if not lines and probe.kind in ("400", "4xx"):
        scene.record("RFC7239-4-4", probe.kind)
        scene.allow("RFC7239-4-6", "request refused")
        return
    last = _last_element(lines)
    told = {"expected": f"{own} last", "actual": f"{lines}"}
    if scene.variant["received"] == "unterminated":
        scene.expect("RFC7239-4-6", last == own, **told)
        scene.not_run("RFC7239-4-4", "what came is no element")
        return
    where = "received lines removed" if len(lines) == 1 and "192.0.2" not in lines[0] else "new last line"
    where = "appended to the last line" if len(lines) == len(received) and "192.0.2" in lines[-1] else where
    scene.expect("RFC7239-4-4", last == own, **told, branch=where)
    scene.not_run("RFC7239-4-6", "what came is well-formed")


# TE: RFC 9110 section 10.1.4


@case("http-identity-05", checks=["RFC9110-10.1.4-1", "RFC9112-7.4-1"], publish=http())
async def test_te(scene: Scene) -> None:
    """Where the engine sends TE upstream its Connection names it, and TE never lists chunked."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("TE", "chunked, trailers"), ("Connection", "TE")]))
        await probe.outcome()
        said, options = probe.request.head.tokens("te"), probe.request.head.tokens("connection")
    told = {"expected": "TE with its option, or none", "actual": f"TE {said}, Connection {options}"}
    scene.expect("RFC9110-10.1.4-1", not said or "te" in options, **told)
    scene.expect("RFC9112-7.4-1", "chunked" not in said, expected="TE without chunked", actual=f"{said}")


# TRACE and Max-Forwards: RFC 9110 sections 7.6.2 and 9.3.8


@case(
    "http-identity-06",
    checks=["RFC9110-9.3.8-2", "RFC9110-7.6.2-1", "HTTP-HDR-019", "RFC7239-8.2-1"],
    publish=http(),
    over={"method": ("TRACE", "OPTIONS")},
)
async def test_the_last_hop_of_max_forwards(scene: Scene) -> None:
    """With Max-Forwards: 0 the engine answers itself, and its answer holds no secret and nothing that it added.

    An engine that forwards the request all the same departs from the RFC, which is recorded.
    """
    method = scene.variant["method"]
    fields: list[Field] = [
        ("Max-Forwards", "0"),
        ("Cookie", "session=s3cret"),
        ("Authorization", "Basic czNjcmV0"),
        ("Forwarded", "for=192.0.2.1"),
    ]
    async with probing(scene) as probe:
        await probe.say(probe.wire(method, fields), expects=method)
        await probe.outcome()
        got = probe.got if isinstance(probe.got, Response) else None
        if probe.requests:
            scene.record("RFC9110-7.6.2-1", f"{method} with Max-Forwards: 0 is forwarded")
        else:
            refused = got is not None and got.status in (405, 501)
            scene.allow("RFC9110-7.6.2-1", "edge refuses the method" if refused else "answered by the edge")
    body = (got.body if got else b"").lower()
    secrets = [word for word in (b"s3cret", b"basic czn") if word in body and not probe.requests]
    added = [name for name in (*NAMES, "via", "edgecase") if f"\r\n{name}:".encode() in body and not probe.requests]
    told = {"expected": "neither credentials nor own fields", "actual": f"{got and got.describe()}: {body[:300]!r}"}
    scene.expect("RFC9110-9.3.8-2", not secrets and not added, **told)
    scene.expect("RFC7239-8.2-1", b"forwarded" not in body or bool(probe.requests), **told)
    scene.record("HTTP-HDR-019", f"{method}: {got and got.status}, {'forwarded' if probe.requests else 'answered'}")


@case("http-identity-07", checks=["RFC9110-7.6.2-2"], publish=http())
async def test_max_forwards_counts_down(scene: Scene) -> None:
    """Max-Forwards of OPTIONS goes on one lower at least; an unchanged one is recorded."""
    async with probing(scene) as probe:
        await probe.say(probe.wire("OPTIONS", [("Max-Forwards", "5")]), expects="OPTIONS")
        await probe.outcome()
        seen = probe.request.get_all("max-forwards")
    if seen == ["5"]:
        scene.record("RFC9110-7.6.2-2", "unchanged at the upstream")
        return
    lower = len(seen) == 1 and seen[0].isdigit() and int(seen[0]) < 5
    scene.expect("RFC9110-7.6.2-2", lower, expected="4 or less", actual=f"{seen}")


@case("http-identity-13", checks=["RFC9110-9.3.7-1"], publish=http())
async def test_no_max_forwards_is_made(scene: Scene) -> None:
    """An OPTIONS without Max-Forwards goes on without it."""
    async with probing(scene) as probe:
        await probe.say(probe.wire("OPTIONS"), expects="OPTIONS")
        await probe.outcome()
        seen = probe.request.get_all("max-forwards")
    scene.expect("RFC9110-9.3.7-1", not seen, expected="none", actual=f"{seen}")


@case("http-identity-08", checks=["RFC9110-9.3.8-1"], publish=http())
async def test_trace_with_content(scene: Scene) -> None:
    """A TRACE with content is refused, answered by the engine, or goes on without it."""
    async with probing(scene) as probe:
        await probe.say(probe.wire("TRACE", body=b"hello"), expects="TRACE")
        await probe.outcome()
        bare = not any(probe.bodies) and not probe.upstream.unexpected
        branch = "relayed without the body" if probe.requests else "answered by the edge"
        if probe.kind in ("400", "4xx", "501"):
            branch = "400, 405 or 501"
        probe.expect("RFC9110-9.3.8-1", bare, expected="no TRACE with content at the upstream", branch=branch)


# Fields about the endpoints: RFC 9110 section 7.7

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
OF_THE_CLIENT: list[tuple[str, str]] = [
    ("User-Agent", "test/1.0 (a comment)"),
    ("Range", "bytes=0-4"),
    ("If-Range", '"v1"'),
    ("If-None-Match", 'W/"v0", "v1"'),
    ("Accept-Encoding", "gzip;q=0.5, identity"),
    ("Referer", "https://example.org/a?b"),
]
OF_THE_UPSTREAM: list[tuple[str, str]] = [
    ("Server", "test/2.0"),
    ("ETag", '"v1"'),
    ("Last-Modified", DATE),
    ("Content-Type", "text/plain;charset=utf-8"),
    ("Location", "/else%2Fwhere?x"),
    ("Allow", "GET, HEAD"),
    ("Retry-After", "120"),
    ("Vary", "Accept-Encoding"),
]


@case("http-identity-09", checks=["RFC9110-7.7-4"], publish=http())
async def test_fields_about_the_endpoints(scene: Scene) -> None:
    """Fields that describe client, upstream or representation arrive as they were sent."""
    answered = await asked(scene, fields=OF_THE_CLIENT)
    await answered.request.respond(200, OF_THE_UPSTREAM, b"hello")
    await answered.outcome()
    changed = [
        f"{name}: {seen}"
        for sent, head in ((OF_THE_CLIENT, answered.request.head), (OF_THE_UPSTREAM, answered.response.head))
        for name, value in sent
        if (seen := head.get_all(name)) != [value]
    ]
    scene.expect("RFC9110-7.7-4", not changed, expected="every field as it was sent", actual=f"{changed or 'same'}")


@case("http-identity-10", checks=["RFC7239-7.2-1"], publish=http(), over={"request": ("upgrade", "post", "repeated")})
async def test_identity_fields_of_every_request(scene: Scene) -> None:
    """A handshake, a POST, and a second request on the connection carry the same identity fields as a plain request."""
    plain, _ = await _said(scene, [])
    fields: list[Field] = []
    if scene.variant["request"] == "upgrade":
        fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        fields += [("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]
    async with probing(scene) as probe:
        if scene.variant["request"] == "repeated":
            await works(scene, probe.client)
        post = scene.variant["request"] == "post"
        await probe.say(probe.wire("POST" if post else "GET", fields, b"hello" if post else None))
        await probe.outcome()
        request = probe.request
    seen = {name: [part.strip() for line in request.get_all(name) for part in line.split(",")] for name in NAMES}
    scene.expect("RFC7239-7.2-1", seen == plain, expected=f"{plain}", actual=f"{seen}")


# Early-Data: RFC 8470 sections 5.1 and 5.2. The field is a client's own word; no early data is needed for it.


@case(
    "http-identity-11",
    checks=["RFC8470-5.1-2", "RFC8470-5.1-3", "RFC8470-5.1-4", "RFC8470-5.2-1"],
    publish=http(),
)
async def test_early_data_as_a_field(scene: Scene) -> None:
    """Early-Data: 1 of a client reaches the upstream, whose 425 reaches the client, once."""
    answered = await asked(scene, fields=[("Early-Data", "1")])
    seen = answered.request.get_all("early-data")
    scene.expect("RFC8470-5.1-2", seen == ["1"], expected="Early-Data: 1 at the upstream", actual=f"{seen}")
    listed = "early-data" in answered.request.head.tokens("connection")
    scene.expect("RFC8470-5.1-3", not listed, expected="a Connection that does not name it", actual=f"{listed}")
    await answered.request.respond(425, body=b"too early")
    await answered.outcome()
    await scene.settle()
    nonce = answered.request.get("Edgecase-Nonce") or ""
    count = len(answered.upstream.seen(nonce))
    told = answered.response.status == 425 and answered.response.body == b"too early"
    answered.expect("RFC8470-5.2-1", told and count == 1, expected="425 with its body, and one request upstream")
    made = answered.response.get_all("early-data") + [name for name, _ in answered.response.trailers]
    scene.expect("RFC8470-5.1-4", not made, expected="no Early-Data in the response", actual=f"{made or 'none'}")


@case("http-identity-12", checks=["RFC9112-4-1", "RFC9110-2.2-1"], publish=http(), over={"reason": ("", "OK\t\xe9")})
async def test_what_the_engine_writes_is_strict(scene: Scene) -> None:
    """Odd but legal input comes out as lines that a strict parser takes, on both sides.

    Behind a status without a phrase the space stays.
    """
    odd: list[Field] = [("X-Odd", "\t a\t \xe9, ;"), ("x!#$%&'*+.^_`|~", ""), ("Accept", " , text/*;q=0.5 ,")]
    answered = await asked(scene, "POST", odd, b"hello")
    await answered.request.respond(200, odd, chunks=[b"a", b"bc"], reason=scene.variant["reason"])
    await answered.outcome()
    line = answered.response.head.start_line
    spaced = re.match(rb"HTTP/1\.1 200 ", line) is not None
    scene.expect("RFC9112-4-1", spaced, expected="a space behind the status", actual=f"{line!r}")
    broken = [*answered.request.violations, *answered.response.violations]
    scene.expect("RFC9110-2.2-1", not broken, expected="nothing that is not valid", actual=f"{broken or 'valid'}")
