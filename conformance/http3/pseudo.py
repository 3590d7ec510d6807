"""Pseudo-header fields of a request (RFC 9114 section 4.3), and Extended CONNECT that nobody behind the edge takes."""

from __future__ import annotations

from conformance.http3._steps import (
    Fields,
    ask,
    behind,
    connected,
    down_case,
    headers,
    is_refusal,
    judge_malformed,
    nothing_there,
    on_stream,
    outcome,
    refused,
    settled,
    there_or_refused,
    told,
    works,
)
from harness.model.case import Variant
from harness.model.spec import TunnelSpec, http
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http3 import Http3Client
from harness.peer.http_upstream import UpstreamExchange
from harness.scene import Scene
from harness.wire.http3 import DataFrame


def without(fields: Fields, name: bytes) -> Fields:
    """The fields without those of that name."""
    return [field for field in fields if field[0] != name]


def replaced(fields: Fields, name: bytes, value: bytes) -> Fields:
    """The fields with another value of that name."""
    return [(known, value if known == name else old) for known, old in fields]


@down_case("h3-pseudo-01", ["RFC9114-4.3-1"], over={"field": ("unknown", "status", "protocol", "trailers")})
async def test_pseudo_fields_that_do_not_belong_there(scene: Scene) -> None:
    """A pseudo-header field that no request has, or that stands in trailers, makes a request malformed (B-c)."""
    row, what = "RFC9114-4.3-1", scene.variant["field"]
    lines = {"unknown": (b":foo", b"1"), "status": (b":status", b"200"), "protocol": (b":protocol", b"foo")}

    def say(client: Http3Client, stream: int) -> None:
        nonce = scene.nonce().hex()
        if what == "trailers":
            head = headers(ask(client, nonce, method=b"POST"))
            client.say(stream, head, DataFrame(b"x"), headers([(b":path", b"/")]), fin=True)
            return
        fields = ask(client, nonce)
        client.say(stream, headers([*fields[:4], lines[what], *fields[4:]]), fin=True)

    await refused(scene, say, row, partial=what == "trailers")


@down_case("h3-pseudo-02", ["RFC9114-4.3-2"])
async def test_a_pseudo_field_behind_a_field(scene: Scene) -> None:
    """A pseudo-header field behind a regular field makes a request malformed (B-c); others go on."""

    def say(client: Http3Client, stream: int) -> None:
        fields = ask(client, scene.nonce().hex())
        client.say(stream, headers([*fields[:3], (b"x-early", b"1"), *fields[3:]]), fin=True)

    await refused(scene, say, "RFC9114-4.3-2")


@down_case("h3-pseudo-03", ["RFC9114-4.3.1-4"])
async def test_an_empty_path(scene: Scene) -> None:
    """An empty :path makes a request malformed (B-c)."""

    def say(client: Http3Client, stream: int) -> None:
        client.say(stream, headers(ask(client, scene.nonce().hex(), path=b"")), fin=True)

    await refused(scene, say, "RFC9114-4.3.1-4")


@down_case(
    "h3-pseudo-04",
    ["RFC9114-4.3.1-5"],
    over={"field": ("method", "scheme", "path"), "how": ("missing", "twice", "space", "crlf")},
)
async def test_what_every_request_has_once(scene: Scene) -> None:
    """:method, :scheme or :path that is missing, stands twice, or holds a space or a line end makes a request malformed
    (B-c)."""
    name, how = f":{scene.variant['field']}".encode(), scene.variant["how"]

    def say(client: Http3Client, stream: int) -> None:
        fields = ask(client, scene.nonce().hex())
        old = dict(fields)[name]
        if how == "missing":
            fields = without(fields, name)
        elif how == "twice":
            fields = [(name, old), *fields]
        else:
            added = b" HTTP/1.1" if how == "space" else b"\r\nx-injected: 1"
            fields = replaced(fields, name, old + added)
        client.say(stream, headers(fields), fin=True)

    await refused(scene, say, "RFC9114-4.3.1-5")


def _two(_: Variant) -> dict[str, TunnelSpec]:
    return {"main": http(), "other": http()}


@down_case("h3-pseudo-05", ["RFC9114-4.3.1-6"], publish=_two, over={"named": ("nobody", "empty", "differing")})
async def test_whom_a_request_is_for(scene: Scene) -> None:
    """A request without :authority and Host, or with empty ones, is refused; one whose Host names another tunnel is
    refused, or goes by :authority, never by Host (B-c on both tunnels)."""
    row, how = "RFC9114-4.3.1-6", scene.variant["named"]
    client = await connected(scene)
    await works(scene, client)
    behind(scene, "other")
    nonce = scene.nonce().hex()
    fields = ask(client, nonce)
    if how == "nobody":
        fields = without(fields, b":authority")
    elif how == "empty":
        fields = [*replaced(fields, b":authority", b""), (b"host", b"")]
    else:
        fields = [*fields, (b"host", scene.endpoint("other").host.encode())]
    stream = await on_stream(client, headers(fields), fin=True)
    exchange = client.exchange(stream)
    found = await there_or_refused(scene, client, exchange, nonce)
    if isinstance(found, UpstreamExchange):
        scene.expect(row, how == "differing", expected="a refusal", actual="the request at the upstream")
        host = found.get("host")
        scene.expect(row, host == client.host, expected=f"Host {client.host}", actual=f"Host {host}")
        scene.allow(row, "differing values only")
        await found.respond(200)
        await exchange.response()
    else:
        _judge_authority(scene, row, found)
    await settled(scene, client)
    await scene.settle("other")
    await nothing_there(scene, row)
    await nothing_there(scene, row, "other")


def _judge_authority(scene: Scene, row: str, got: Response | ExchangeEnd | None) -> None:
    if isinstance(got, Response) and got.status == 421:
        scene.allow(row, "421")
        return
    judge_malformed(scene, row, got)


@down_case("h3-pseudo-06", ["RFC9114-4.3.1-1"])
async def test_userinfo_in_the_authority(scene: Scene) -> None:
    """Userinfo in :authority makes a request malformed, or does not go on (B-c)."""
    row = "RFC9114-4.3.1-1"
    client = await connected(scene)
    nonce = scene.nonce().hex()
    fields = replaced(ask(client, nonce), b":authority", b"user:secret@" + client.host.encode())
    stream = await on_stream(client, headers(fields), fin=True)
    exchange = client.exchange(stream)
    found = await there_or_refused(scene, client, exchange, nonce)
    if isinstance(found, UpstreamExchange):
        kept = any("secret" in value for _, value in found.headers)
        branch = "relayed without userinfo"
        scene.expect(row, not kept, expected="no userinfo upstream", actual=f"{found.headers}", branch=branch)
        await found.respond(200)
        return
    judge_malformed(scene, row, found)
    await settled(scene, client)
    await nothing_there(scene, row)


@down_case(
    "h3-pseudo-07",
    ["RFC9114-7.2.4.2-1", "RFC9114-9-2"],
    publish=lambda variant: http() if variant["up"] == "h1" else http(http_version="h3"),
    over={"protocol": ("websocket", "connect-udp", "webtransport"), "up": ("h1", "h3")},
)
async def test_a_session_that_the_upstream_cannot_have(scene: Scene) -> None:
    """Extended CONNECT for a protocol, with an upstream that has announced nothing of the kind: the client gets an
    error and no hang, the upstream no Extended CONNECT (B-c)."""
    client = await connected(scene)
    nonce = scene.nonce().hex()
    fields = ask(client, nonce, method=b"CONNECT")
    fields = [*fields[:4], (b":protocol", scene.variant["protocol"].encode()), *fields[4:]]
    if scene.variant["protocol"] == "websocket":
        fields.append((b"sec-websocket-version", b"13"))
    stream = await on_stream(client, headers(fields))
    got = await outcome(client, client.exchange(stream))
    for row in ("RFC9114-7.2.4.2-1", "RFC9114-9-2"):
        scene.expect(row, is_refusal(got), expected="an error", actual=told(got))
    announced = client.remote_settings
    scene.record("RFC9114-9-2", f"announced to the client: {announced.detail() if announced else 'nothing'}")
    await settled(scene, client)
    for row in ("RFC9114-7.2.4.2-1", "RFC9114-9-2"):
        await nothing_there(scene, row)
    with scene.judging("RFC9114-9-2"):
        await works(scene, await connected(scene))
