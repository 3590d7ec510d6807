"""The opening handshake from an HTTP/1.1 client to an http/1.1 upstream: relayed as it is, refused as it is refused."""

from __future__ import annotations

import re

from conformance.http._steps import first_of, meanwhile, probing, works
from conformance.websocket._steps import UPGRADE, acceptance, handshake, new_key, offer, opened
from harness.errors import PeerMismatch
from harness.link.stream import End
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http1 import Http1Client, Response
from harness.scene import Scene
from harness.wire import http1_write as write
from harness.wire.http1_write import Field
from harness.wire.websocket import BINARY, accept_for, frame

UPGRADES = ("http.upgrade",)
EARLY = frame(BINARY, b"early", mask=b"abcd")


@case(
    "ws-h1-01",
    checks=[
        "HTTP-WS-002",
        "RFC6455-4.1-2",
        "RFC6455-4.1-3",
        "RFC6455-4.1-4",
        "RFC6455-4.1-5",
        "RFC6455-4.1-6",
        "RFC9110-7.8-5",
    ],
    publish=http(),
    features=UPGRADES,
)
async def test_the_handshake_reaches_the_upstream(scene: Scene) -> None:
    """The upstream gets the client's handshake: target, one Host, Upgrade, Connection, the key and version 13."""
    nonce = scene.nonce().hex()
    target = f"/chat/{nonce}?x=%20y&z"
    session = await opened(scene, target=target)
    head = session.request.head
    scene.expect("RFC6455-4.1-2", head.target == target, expected=target, actual=head.target)
    hosts = head.get_all("host")
    scene.expect("RFC6455-4.1-3", len(hosts) == 1, expected="one Host", actual=f"{hosts}")
    upgrades, options = head.tokens("upgrade"), head.tokens("connection")
    named = upgrades == ["websocket"] and "upgrade" in options
    actual = f"Upgrade {upgrades}, Connection {options}"
    scene.expect("RFC9110-7.8-5", "upgrade" in options, expected="Connection: Upgrade", actual=actual)
    scene.expect("RFC6455-4.1-4", named, expected="Upgrade: websocket, Connection: Upgrade", actual=actual)
    versions = head.get_all("sec-websocket-version")
    branch = "one Sec-WebSocket-Version"
    scene.expect("RFC6455-4.1-6", versions == ["13"], expected="one 13", actual=f"{versions}", branch=branch)
    keys = head.get_all("sec-websocket-key")
    accepted = session.response.get("sec-websocket-accept") == accept_for(session.key)
    own = [key for key in keys if re.fullmatch("[A-Za-z0-9+/]{22}==", key)]
    if keys != [session.key] and (len(keys) != 1 or own != keys):
        scene.depart("RFC6455-4.1-5", expected="the client's key, or one of sixteen octets", actual=f"{keys}")
    if keys == [session.key]:
        scene.allow("RFC6455-4.1-5", "h1 C: key relayed")
        scene.expect(
            "HTTP-WS-002", accepted, expected="the Accept of the client's key", actual=f"{session.response.headers}"
        )
    elif accepted:
        scene.allow("RFC6455-4.1-5", "h1 C: edge's own key")
        scene.record("HTTP-WS-002", "the engine sends a key of its own")
    else:
        scene.depart("HTTP-WS-002", expected="the client's key", actual=f"keys {keys}, {session.response.headers}")


@case(
    "ws-h1-02",
    checks=["RFC6455-1.3-1", "RFC6455-10.2-1", "HTTP-WS-009", "HTTP-HDR-003"],
    publish=http(),
    features=UPGRADES,
)
async def test_the_fields_of_the_handshake_pass(scene: Scene) -> None:
    """Subprotocols, extensions, Origin, Cookie and Authorization reach the upstream; its choice reaches the client."""
    origin = f"https://{scene.endpoint().host}"
    fields: list[Field] = [
        ("Sec-WebSocket-Protocol", "one"),
        ("Sec-WebSocket-Protocol", "two"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Origin", origin),
        ("Cookie", "a=1; b=2"),
        ("Authorization", "Basic dTpw"),
    ]
    chosen: list[Field] = [("Sec-WebSocket-Protocol", "two"), ("Sec-WebSocket-Extensions", "permessage-deflate")]
    session = await opened(scene, *fields, answer=chosen)
    head = session.request.head
    protocols = [part.strip() for value in head.get_all("sec-websocket-protocol") for part in value.split(",")]
    single = {str(name): str(value) for name, value in (item for item in fields[2:] if isinstance(item, tuple))}
    arrived = protocols == ["one", "two"] and all(head.get_all(name) == [value] for name, value in single.items())
    told = all(session.response.get_all(str(item[0])) == [item[1]] for item in chosen)
    actual = f"{head.headers} at the upstream, {session.response.headers} at the client"
    for requirement in ("HTTP-HDR-003", "RFC6455-10.2-1"):
        scene.expect(requirement, head.get_all("origin") == [origin], expected=origin, actual=actual)
    scene.expect("HTTP-WS-009", arrived and told, expected="all values in order, and the choice", actual=actual)
    scene.expect("RFC6455-1.3-1", arrived and told, expected="all values in order, and the choice", actual=actual)


@case(
    "ws-h1-03",
    checks=[
        "RFC6455-4.2.2-1",
        "RFC6455-4.2.2-2",
        "RFC9110-7.8-1",
        "RFC9110-7.6.1-6",
        "RFC6455-11.3.3-1",
        "HTTP-WS-007",
        "HTTP-WS-002",
    ],
    publish=http(),
    features=UPGRADES,
)
async def test_the_answer_reaches_the_client(scene: Scene) -> None:
    """The client gets 101 with Upgrade, Connection: Upgrade and one Accept for its key, and no choice nobody made."""
    client, request, key = await handshake(scene)
    await request.upgrade(acceptance(request))
    head = (await client.response()).head
    accepts = head.get_all("sec-websocket-accept")
    named = head.tokens("upgrade") == ["websocket"]
    listed = "upgrade" in head.tokens("connection")
    right = accepts == [accept_for(key)]
    choices = head.get_all("sec-websocket-protocol") + head.get_all("sec-websocket-extensions")
    actual = f"{head.status} {head.headers}"
    wanted = "101, Upgrade, Connection and the Accept of the key"
    scene.expect("HTTP-WS-007", head.status == 101, expected="101", actual=actual, branch="101 at h1")
    scene.expect("RFC6455-4.2.2-1", named and listed and right, expected=wanted, actual=actual)
    scene.expect("HTTP-WS-002", named and listed and right, expected=wanted, actual=actual)
    scene.expect("RFC6455-4.2.2-2", not choices, expected="no subprotocol and no extension", actual=actual)
    scene.expect("RFC9110-7.8-1", named, expected="Upgrade: websocket", actual=actual)
    scene.expect("RFC9110-7.6.1-6", listed, expected="Connection: Upgrade", actual=actual)
    scene.expect("RFC6455-11.3.3-1", len(accepts) == 1, expected="one Sec-WebSocket-Accept", actual=actual)


REFUSALS: dict[str, list[Field]] = {
    "401": [("WWW-Authenticate", "Basic")],
    "302": [("Location", "/sign-in")],
    "403": [],
    "426": [("Upgrade", "websocket"), ("Connection", "Upgrade")],
    "503": [("Retry-After", "1")],
    "200": [("Content-Type", "text/html")],
}


@case(
    "ws-h1-04",
    checks=["RFC6455-4.1-11", "HTTP-WS-010", "RFC9110-7.8-3"],
    publish=http(),
    features=UPGRADES,
    over={"status": tuple(REFUSALS)},
)
async def test_a_refusal_is_an_http_response(scene: Scene) -> None:
    """An upstream's answer other than 101 reaches the client with its fields and body, and the connection stays HTTP.

    A request that the client sends next is handled as HTTP, or the connection ends: it never travels as raw octets.
    """
    status = int(scene.variant["status"])
    fields = REFUSALS[scene.variant["status"]]
    client, request, _ = await handshake(scene)
    await request.respond(status, fields, b"<p>no</p>")
    response = await client.response()
    kept = all(response.get(str(item[0])) == item[1] for item in fields if item[0] not in ("Upgrade", "Connection"))
    same = response.status == status and response.body == b"<p>no</p>" and kept
    told = {"expected": f"{status} with fields and body", "actual": f"{response.describe()} {response.headers}"}
    scene.expect("RFC6455-4.1-11", same, **told)
    scene.expect("HTTP-WS-010", same, **told, branch="as observed")
    with scene.judging("RFC9110-7.8-3"):
        if response.closes:
            scene.allow("RFC9110-7.8-3", "connection closed")
            return
        _, later = await works(scene, client)
        clean = later.status == 200 and not request.connection.violations
        actual = later.describe()
        scene.expect("RFC9110-7.8-3", clean, expected="HTTP goes on", actual=actual, branch="second request handled")


HOP: list[Field] = [("Connection", "keep-alive"), ("Keep-Alive", "timeout=5")]


async def _rewritten(scene: Scene) -> bool:
    """Whether an ordinary request arrives as other octets than were sent."""
    client, nonce = await scene.http_client(), scene.nonce().hex()
    wire = write.request("GET", f"/{nonce}", HOP, host=client.host)
    await client.send_raw(wire, expects="GET")
    request = await scene.http_upstream().request(nonce)
    await request.respond(200)
    await client.response()
    return request.raw_head != wire


@case("ws-h1-05", checks=["RFC9110-7.8-3"], publish=http(), features=UPGRADES, over={"status": ("200", "400", "426")})
async def test_a_request_pipelined_behind_a_refused_upgrade(scene: Scene) -> None:
    """A request pipelined behind an upgrade that is refused is the next request, or is dropped with the connection.

    Where the upstream gets it octet by octet, which an ordinary request is not, it came as raw octets.
    """
    client, upstream = await scene.http_client(), scene.http_upstream()
    rewritten = await _rewritten(scene)
    first, second = scene.nonce().hex(), scene.nonce().hex()
    wire = write.request("GET", f"/{first}", offer(new_key(scene)), host=client.host)
    behind = write.request("GET", f"/{second}", HOP, host=client.host)
    await client.send_raw(wire + behind, expects=["GET", "GET"])
    request = await upstream.request(first)
    raw = False

    async def serve() -> None:
        nonlocal raw
        arrived = await upstream.request(second)
        raw = rewritten and arrived.raw_head == behind
        await arrived.respond(200, body=second.encode())

    async with meanwhile(serve()):
        await request.respond(int(scene.variant["status"]), body=b"no")
        await client.response()
        later = await client.outcome()
        await scene.settle()
    handled = isinstance(later, Response) and later.body == second.encode()
    told = later.describe() if isinstance(later, Response) else str(later)
    branch = "second request handled" if handled else "connection closed"
    apart = not raw and not request.connection.violations and not upstream.unexpected
    fine = apart and (handled or isinstance(later, End) or later.closes)
    scene.expect("RFC9110-7.8-3", fine, expected="HTTP, or the end", actual=told, branch=branch)


@case("ws-h1-06", checks=["RFC6455-4.2.2-4", "RFC6455-4.4-1"], publish=http(), features=UPGRADES)
async def test_an_unsupported_version(scene: Scene) -> None:
    """The upstream's 426 with its versions reaches the client, or the engine answers so itself."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    fields: list[Field] = [*UPGRADE, ("Sec-WebSocket-Key", new_key(scene)), ("Sec-WebSocket-Version", "99")]
    await client.request("GET", "/", fields, nonce=nonce)
    response, request = await first_of(client.response(), upstream.request(nonce))
    if request is not None:
        await request.respond(426, [*UPGRADE, ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "8, 7")])
        response = await client.response()
    assert response is not None
    versions = [part.strip() for value in response.get_all("sec-websocket-version") for part in value.split(",")]
    fine = response.status in (400, 426) and "13" in versions
    told = {"expected": "426 with the versions", "actual": f"{response.status}, versions {versions}"}
    branch = "U's 4xx with" if request is not None else "the edge's 426"
    scene.expect("RFC6455-4.2.2-4", fine, **told, branch=branch)
    scene.expect("RFC6455-4.4-1", fine and (request is None or versions == ["13", "8", "7"]), **told)


@case("ws-h1-07", checks=["RFC6455-4.1-10"], publish=http(), features=UPGRADES)
async def test_early_frames_wait_for_the_answer(scene: Scene) -> None:
    """Frames that a client sends before the 101, which it must not, do not reach the upstream before its 101."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    wire = write.request("GET", f"/{nonce}", offer(new_key(scene)), host=client.host)
    await client.offer(wire + EARLY, expects="GET")
    response, request = await first_of(client.outcome(), upstream.request(nonce))
    if request is None:
        scene.expect("RFC6455-4.1-10", response is not None, expected="an answer", actual=f"{response}")
        scene.allow("RFC6455-4.1-10", "dropped, refused")
        return
    await scene.settle()
    held = request.connection.held
    scene.expect("RFC6455-4.1-10", not held, expected="nothing behind the request", actual=f"{held!r}")
    server = await request.upgrade(acceptance(request))
    got = await client.outcome()
    if isinstance(got, Response) and got.status == 101:
        with scene.judging("RFC6455-4.1-10"):
            await client.tunnel().send(EARLY[::-1])
            arrived = await server.receive_exactly(len(EARLY))
        delivered = arrived == EARLY
        scene.allow("RFC6455-4.1-10", "delivered in order" if delivered else "dropped, refused")
    else:
        scene.allow("RFC6455-4.1-10", "dropped, refused")


@case(
    "ws-h1-08",
    checks=["RFC6455-4.1-8"],
    publish=http(),
    features=UPGRADES,
    over={"missing": ("upgrade", "connection")},
)
async def test_a_101_without_its_fields(scene: Scene) -> None:
    """A 101 without Upgrade is an error for the client; without Connection, the engine may supply its own."""
    missing = scene.variant["missing"]
    client, request, _ = await handshake(scene)
    fields = [item for item in acceptance(request) if str(item[0]).lower() != missing]
    await request.upgrade(fields)
    got = await client.outcome()
    switched = isinstance(got, Response) and got.status == 101
    actual = got.describe() if isinstance(got, Response) else str(got)
    if switched and missing == "connection":
        assert isinstance(got, Response)
        own = "upgrade" in got.head.tokens("connection")
        branch = "h1 C, missing Connection only"
        scene.expect("RFC6455-4.1-8", own, expected="Connection: Upgrade", actual=actual, branch=branch)
        return
    branch = "any 5xx" if isinstance(got, Response) and got.status // 100 == 5 else "stream aborted"
    fine = isinstance(got, End) or got.status // 100 == 5 or not got.complete
    scene.expect("RFC6455-4.1-8", fine, expected="a 5xx or an end", actual=actual, branch=branch)


@case("ws-h1-09", checks=["RFC9110-15.2.2-1"], publish=http(), features=UPGRADES)
async def test_every_101_carries_upgrade(scene: Scene) -> None:
    """No 101 without Upgrade reaches the client, even when the upstream sends one."""
    client, request, _ = await handshake(scene)
    await request.upgrade([("Connection", "Upgrade"), ("Sec-WebSocket-Accept", "x")])
    got = await client.outcome()
    bare = isinstance(got, Response) and got.status == 101 and not got.head.tokens("upgrade")
    actual = got.describe() if isinstance(got, Response) else str(got)
    scene.expect("RFC9110-15.2.2-1", not bare, expected="no bare 101", actual=actual, branch="any 5xx or close")


@case("ws-h1-10", checks=["RFC9110-7.8-2"], publish=http(), features=UPGRADES)
async def test_a_switch_to_what_was_not_offered(scene: Scene) -> None:
    """A 101 to a protocol that the client did not offer is an error: no 101 at the client, and no tunnel."""
    client, request, _ = await handshake(scene)
    await request.upgrade([("Connection", "Upgrade"), ("Upgrade", "foo")])
    got = await client.outcome()
    switched = isinstance(got, Response) and got.status == 101
    actual = got.describe() if isinstance(got, Response) else str(got)
    branch = "connection closed" if isinstance(got, End) else "any 5xx" if got.status // 100 == 5 else "another non-101"
    scene.expect("RFC9110-7.8-2", not switched, expected="no 101", actual=actual, branch=branch)


def _without(name: str, fields: list[Field]) -> list[Field]:
    return [item for item in fields if str(item[0]).lower() != name]


@case(
    "ws-h1-11",
    checks=["RFC6455-4.2.1-1"],
    publish=http(),
    features=UPGRADES,
    over={"form": ("post", "http-1.0", "no-key", "short-key", "no-version", "no-connection")},
)
async def test_an_invalid_handshake_opens_nothing(scene: Scene) -> None:
    """A handshake without a required part ends in an error or as plain HTTP; no tunnel opens without a 101.

    The upstream answers whatever it gets with 400, as a server of WebSocket does.
    """
    form = scene.variant["form"]
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    fields = offer("c2hvcnQ=" if form == "short-key" else new_key(scene))
    gone = {"no-key": "sec-websocket-key", "no-version": "sec-websocket-version", "no-connection": "connection"}
    fields = _without(gone.get(form, ""), fields)
    method = "POST" if form == "post" else "GET"
    version = "HTTP/1.0" if form == "http-1.0" else "HTTP/1.1"
    await client.request(method, "/", fields, b"" if form == "post" else None, nonce=nonce, version=version)
    got, request = await first_of(client.outcome(), upstream.request(nonce))
    if request is not None:
        await request.respond(400, body=b"no handshake")
        got = await client.outcome()
    actual = got.describe() if isinstance(got, Response) else str(got)
    if isinstance(got, End):
        scene.allow("RFC6455-4.2.1-1", "connection closed")
        return
    refused = got is not None and got.status // 100 in (4, 5)
    plain = request is not None and request.get("upgrade") is None
    branch = "plain HTTP handling" if plain else "U's refusal" if request is not None else "4xx/5xx by the edge"
    scene.expect("RFC6455-4.2.1-1", refused, expected="an error, and no 101", actual=actual, branch=branch)


@case("ws-h1-12", checks=["RFC6455-4.1-9", "RFC6455-9.1-1"], publish=http(), features=UPGRADES)
async def test_no_choice_is_invented(scene: Scene) -> None:
    """A client that offers nothing: the upstream sees no offer; a choice it makes all the same is passed or fails."""
    client, request, _ = await handshake(scene)
    offered = request.get_all("sec-websocket-extensions") + request.get_all("sec-websocket-protocol")
    await request.upgrade(acceptance(request, ("Sec-WebSocket-Protocol", "unasked")))
    got = await client.outcome()
    used = got.get_all("sec-websocket-extensions") if isinstance(got, Response) else []
    told = {"expected": "no offer upstream, no extension in use", "actual": f"offers {offered}, in use {used}"}
    scene.expect("RFC6455-9.1-1", not offered and not used, **told)
    if isinstance(got, Response) and got.status == 101:
        seen = got.get_all("sec-websocket-protocol")
        same = seen == ["unasked"]
        scene.expect("RFC6455-4.1-9", same, expected="unasked", actual=f"{seen}", branch="passed on verbatim")
    else:
        failed = isinstance(got, End) or got.status // 100 == 5
        scene.expect("RFC6455-4.1-9", failed, expected="an error", actual=f"{got}", branch="any 5xx or")


@case("ws-h1-13", checks=["RFC6455-11.3.1-1"], publish=http(), features=UPGRADES)
async def test_two_keys(scene: Scene) -> None:
    """A handshake with two keys is refused, or goes on with one and a matching Accept."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    first, second = new_key(scene), new_key(scene)
    await client.request("GET", "/", offer(first, ("Sec-WebSocket-Key", second)), nonce=nonce)
    got, request = await first_of(client.outcome(), upstream.request(nonce))
    if request is None:
        refused = isinstance(got, Response) and got.status // 100 == 4
        actual = got.describe() if isinstance(got, Response) else str(got)
        scene.expect("RFC6455-11.3.1-1", refused, expected="400", actual=actual, branch="400 or another 4xx")
        return
    keys = request.get_all("sec-websocket-key")
    if len(keys) > 1:
        await request.respond(400)
        scene.allow("RFC6455-11.3.1-1", "both lines passed")
        return
    await request.upgrade(acceptance(request))
    response = await client.response()
    fits = response.get("sec-websocket-accept") in (accept_for(first), accept_for(second))
    branch = "one key at U"
    scene.expect("RFC6455-11.3.1-1", fits, expected="a matching Accept", actual=f"{response.headers}", branch=branch)


@case(
    "ws-h1-14",
    checks=["RFC6455-11.3.2-1", "RFC6455-11.3.4-1"],
    publish=http(),
    features=UPGRADES,
)
async def test_no_choice_is_doubled(scene: Scene) -> None:
    """Where the upstream answers with one line of each, the client gets one Extensions and one Protocol line."""
    fields: list[Field] = [("Sec-WebSocket-Protocol", "one"), ("Sec-WebSocket-Extensions", "x-made-up")]
    session = await opened(scene, *fields, answer=fields)
    for requirement, name in (
        ("RFC6455-11.3.2-1", "Sec-WebSocket-Extensions"),
        ("RFC6455-11.3.4-1", "Sec-WebSocket-Protocol"),
    ):
        lines = session.response.get_all(name)
        scene.expect(requirement, len(lines) == 1, expected=f"one {name}", actual=f"{lines}", branch="one line at C")


@case("ws-h1-15", checks=["RFC9110-7.8-7"], publish=http(), features=UPGRADES)
async def test_protocol_names_have_no_case(scene: Scene) -> None:
    """`Upgrade: WebSocket` with `connection: uPgrAde` opens a session as any other."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    fields: list[Field] = [
        ("connection", "uPgrAde"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Key", new_key(scene)),
        ("Sec-WebSocket-Version", "13"),
    ]
    await client.request("GET", "/", fields, nonce=nonce)
    request = await upstream.request(nonce)
    named = "websocket" in request.head.tokens("upgrade")
    await request.upgrade(acceptance(request)) if named else await request.respond(400)
    response = await client.response()
    scene.expect("RFC9110-7.8-7", response.status == 101, expected="101", actual=response.describe())


@case("ws-h1-16", checks=["RFC9110-7.8-6"], publish=http(), features=UPGRADES)
async def test_an_upgrade_of_an_http_1_0_client(scene: Scene) -> None:
    """Upgrade in an HTTP/1.0 request is ignored: no 101 comes, and the upstream is not asked for one."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=offer(new_key(scene)), version="HTTP/1.0"))
        await probe.outcome()
        asked = bool(probe.requests) and probe.request.get("upgrade") is not None
        switched = isinstance(probe.got, Response) and probe.got.status == 101
        probe.expect("RFC9110-7.8-6", not asked and not switched, expected="plain HTTP or a refusal")


@case("ws-h1-17", checks=["RFC9110-7.8-5", "HTTP-WS-017"], publish=http(), features=UPGRADES)
async def test_an_upgrade_to_another_protocol(scene: Scene) -> None:
    """`Upgrade: foo` is relayed wholly, with its connection option, relayed without Upgrade, or refused.

    Which of them is recorded.
    """
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    await client.request("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "foo")], nonce=nonce)
    got, request = await first_of(client.outcome(), upstream.request(nonce))
    if request is None:
        scene.record("HTTP-WS-017", f"refused: {got.describe() if isinstance(got, Response) else got}")
        scene.not_run("RFC9110-7.8-5", "the upgrade is refused")
        return
    options = request.head.tokens("connection")
    listed = request.get("upgrade") is None or "upgrade" in options
    scene.expect("RFC9110-7.8-5", listed, expected="Connection: Upgrade beside Upgrade", actual=f"{options}")
    if request.get("upgrade") is None:
        await request.respond(200)
        scene.record("HTTP-WS-017", f"relayed without Upgrade: {(await client.response()).status}")
        return
    await request.upgrade([("Connection", "Upgrade"), ("Upgrade", "foo")])
    scene.record("HTTP-WS-017", f"relayed as it is: {(await client.response()).status}")


@case("ws-h1-18", checks=["RFC6455-4.2.2-3"], publish=http(), features=UPGRADES)
async def test_a_handshake_for_a_name_that_nobody_has(scene: Scene) -> None:
    """A handshake for a host that is no tunnel ends in an error or with the connection, and reaches no upstream."""
    await works(scene, await scene.http_client())
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    label, _, zone = scene.endpoint().host.partition(".")
    unknown = f"{label[::-1]}x.{zone}"
    wire = write.request("GET", f"/{nonce}", offer(new_key(scene)), host=unknown)
    await client.offer(wire, expects="GET")
    got, request = await first_of(client.outcome(), upstream.request(nonce))
    await scene.settle()
    actual = got.describe() if isinstance(got, Response) else str(got)
    clean = request is None and not upstream.seen(nonce) and not upstream.unexpected
    refused = isinstance(got, End) or (got is not None and got.status // 100 in (3, 4, 5))
    branch = "401, 403, 404" if isinstance(got, Response) and got.status // 100 == 4 else "unknown name"
    expected = "an error, and nothing at the upstream"
    scene.expect("RFC6455-4.2.2-3", clean and refused, expected=expected, actual=actual, branch=branch)


@case("ws-h1-19", checks=["RFC6455-3-1"], publish=http(), features=UPGRADES)
async def test_a_fragment_in_the_resource_name(scene: Scene) -> None:
    """A handshake whose target has a fragment is refused, or goes on without it."""
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    await client.request("GET", f"/{nonce}/chat#part", offer(new_key(scene)), nonce=nonce)
    got, request = await first_of(client.outcome(), upstream.request(nonce))
    await scene.settle()
    if request is None:
        refused = isinstance(got, End) or (got is not None and got.status // 100 == 4)
        actual = got.describe() if isinstance(got, Response) else str(got)
        scene.expect("RFC6455-3-1", refused, expected="a refusal", actual=actual, branch="refused with 4xx")
        return
    await request.respond(400)
    bare = "#" not in request.target
    branch = "relayed without the fragment"
    scene.expect("RFC6455-3-1", bare, expected="a target without #", actual=request.target, branch=branch)


@case("ws-h1-20", checks=["RFC9110-7.8-8"], publish=http(), features=UPGRADES)
async def test_an_upgrade_with_an_expectation(scene: Scene) -> None:
    """A handshake that announces content and expects 100 gets its 100 before any 101, or a final status.

    The upstream sends its 100 where it was asked for one, reads the content, and takes the upgrade where it is offered.
    """
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    fields = offer(new_key(scene), ("Expect", "100-continue"), ("Content-Length", "5"))
    await client.request_head("GET", f"/{nonce}", fields, nonce=nonce)

    async def serve() -> None:
        request = await upstream.request(nonce)
        if "100-continue" in request.head.tokens("expect"):
            await request.informational(100)
        await request.body()
        if request.get("upgrade") is None:
            await request.respond(400)
        else:
            await request.upgrade(acceptance(request))

    async with meanwhile(serve()):
        with scene.judging("RFC9110-7.8-8"):
            asked = await _asked_to_go_on(client)
            if asked:
                await client.send_raw(b"hello")
                await client.response()
    await scene.settle()
    final = client.responses[-1].status if client.responses else 0
    told = f"{'100' if asked else 'no 100'}, then {final or 'nothing'}"
    fine = bool(final) and (asked or final != 101)
    scene.expect("RFC9110-7.8-8", fine, expected="100, then the answer; or a final status", actual=told)


async def _asked_to_go_on(client: Http1Client) -> bool:
    """Whether an interim response came, or a final one at once. Raises `DeadlineExpired`."""
    try:
        await client.informational()
    except PeerMismatch:
        return False
    return True
