"""What HTTP peers of every version offer to a case: each against its own upstream, through a relay of octets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from conformance.http._pairs import PAIRS, pair, pair_features, pair_tunnel
from harness.engine.adapter import results_of
from harness.engine.driver import Endpoint
from harness.errors import DeadlineExpired, PeerMismatch, SetupFailed
from harness.evidence.transcript import Transcript
from harness.judge import Departed
from harness.ledger import Ledger
from harness.link.deadline import set_default
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http
from harness.peer.http import HttpClient, Response
from harness.peer.http_upstream import HttpUpstream
from harness.scene import Scene
from tests.fake_engine import profile
from tests.no_engines import RelayDriver

ROW = "HTTP-VER-001"
KINDS = {"http/1.1": http(upstream_tls=True), "h2": http(upstream_tls=True), "h3": http(http_version="h3")}
"""Which tunnel a relay that looks at nothing can stand for: the client's TLS, or QUIC, ends at the upstream."""
Script = Callable[[Scene, HttpClient, HttpUpstream], Awaitable[None]]


async def staged(spec: TunnelSpec, script: Callable[[Scene], Awaitable[None]], seconds: float = 5.0) -> None:
    @case("http-scene", checks=[ROW], publish=spec)
    async def declared(scene: Any) -> None:
        """A case."""

    set_default(seconds)
    driver = RelayDriver()
    scene = Scene(
        declared.__edgecase_case__,  # type: ignore[attr-defined]
        Variant("", ()),
        profile=profile(),
        driver=driver,
        session=await driver.open_session("http-scene"),
        ledger=Ledger.load(),
        transcript=Transcript(asyncio.get_running_loop().time),
    )
    await scene.publish_declared()
    try:
        async with asyncio.timeout(60):
            await script(scene)
    finally:
        await scene.close()


def over_versions(script: Script) -> Callable[[str], None]:
    """A test of `script` for each version that there is."""

    @pytest.mark.parametrize("version", KINDS)
    def run(version: str) -> None:
        async def whole(scene: Scene) -> None:
            upstream = scene.http_upstream(version=scene.spec().upstream_http)
            await script(scene, await scene.http_client(version=version), upstream)

        asyncio.run(staged(KINDS[version], whole))

    run.__name__ = script.__name__
    run.__doc__ = script.__doc__
    return run


@over_versions
async def test_a_request_and_its_response(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    asking = await client.begin("GET", "/path?q=1", [("X-One", "1"), ("X-One", "2")], nonce="n1")
    request = await upstream.request("n1")
    assert (request.method, request.target, request.authority) == ("GET", "/path?q=1", client.host)
    assert request.get_all("x-one") == ["1", "2"]
    assert not [name for name, _ in request.headers if name.startswith(":")]
    assert (request.version, upstream.version, client.version) == (client.version,) * 3
    assert await request.body() == b""
    assert request.complete
    assert request.get("content-length") is None
    await request.respond(201, [("X-Two", "2")], b"created")
    response = await asking.response()
    assert (response.status, response.get("x-two"), response.body) == (201, "2", b"created")
    assert response.get("Content-Length") == "7"
    assert (response.complete, response.end, response.violations, client.violations) == (True, None, [], [])
    assert (await request.ended()).kind == "complete"
    assert upstream.unexpected == []
    assert upstream.seen("n1") == [request]


@over_versions
async def test_content_of_known_and_of_unknown_length(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    for number, (body, length) in enumerate([(b"", True), (b"abc", True), (b"abc", False)]):
        asking = await client.begin("POST", f"/{number}", body=body, length=length)
        request = await upstream.request(str(number))
        assert await request.body() == body
        assert request.get("content-length") == (str(len(body)) if length else None)
        await request.respond(body=body, length=length)
        response = await asking.response()
        assert (response.body, response.complete) == (body, True)
        assert response.get("content-length") == (str(len(body)) if length else None)


@over_versions
async def test_content_and_trailers_piece_by_piece(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    asking = await client.begin("POST", "/up", body=b"one", end=False, nonce="n")
    request = await upstream.request("n")
    assert await request.read_exactly(3) == b"one"
    assert not request.complete
    await asking.send_content(b"two")
    await asking.finish([("T-Up", "1")])
    assert await request.body() == b"onetwo"
    assert request.trailers == [("T-Up" if client.version == "http/1.1" else "t-up", "1")]
    await request.begin_response(200, [("X", "y")])
    await request.send_content(b"three")
    response = await asking.response_head()
    assert await asking.response_head() is response
    assert await asking.read_some(response) == b"three"
    assert not response.complete
    await request.finish([("T-Down", "2")])
    whole = await asking.response()
    assert (whole is response, whole.body, whole.complete) == (True, b"three", True)
    assert [value for _, value in whole.trailers] == ["2"]


@over_versions
async def test_large_content_both_ways(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    """More than any window: it goes on as it is read."""
    body = bytes(range(256)) * 12_000

    async def ask() -> Response:
        return await (await client.begin("PUT", "/large", body=body, nonce="n")).response()

    async def answer() -> tuple[int, str]:
        request = await upstream.request("n")
        digest = await request.digest()
        await request.respond(body=body)
        return digest

    response, (size, _) = await scene.both(ask(), answer())
    assert size == len(body)
    assert response.body == body


@over_versions
async def test_interim_responses_are_given_once(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    asking = await client.begin("GET", "/early", nonce="n")
    request = await upstream.request("n")
    await request.informational(103, [("Link", "<a>")])
    early = await asking.informational()
    assert (early.status, early.get("link")) == (103, "<a>")
    await request.informational(103, [("Link", "<b>")])
    await request.respond(body=b"late")
    response = await asking.response()
    assert [each.get("link") for each in response.informational] == ["<a>", "<b>"]
    assert (await asking.informational()).get("link") == "<b>"
    with pytest.raises(PeerMismatch, match="an interim response"):
        await asking.informational()
    assert response.body == b"late"


@over_versions
async def test_head_and_no_content_have_none(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    for method, status, length in (("HEAD", 200, "5"), ("GET", 204, None), ("GET", 304, None)):
        asking = await client.begin(method, f"/{status}")
        await (await upstream.request(str(status))).respond(status, body=b"hello" if method == "HEAD" else b"")
        response = await asking.response()
        assert (response.status, response.body, response.complete) == (status, b"", True)
        assert response.get("content-length") == length
        assert response.violations == []


@over_versions
async def test_head_has_no_trailers(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    asking = await client.begin("HEAD", "/n")
    await (await upstream.request("n")).respond(200, body=b"hello", trailers=[("X-End", "0")])
    response = await asking.response()
    assert (response.status, response.body, response.trailers, response.complete) == (200, b"", [], True)
    assert response.violations == []


@over_versions
async def test_the_client_gives_up(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    asking = await client.begin("POST", "/up", body=b"one", end=False, nonce="n")
    request = await upstream.request("n")
    assert await request.read_exactly(3) == b"one"
    asking.cancel()
    end = await request.ended()
    assert end.kind == ("connection" if client.version == "http/1.1" else "reset")
    assert end.code == {"http/1.1": None, "h2": 8, "h3": 0x10C}[client.version]
    assert await request.body_so_far() == b"one"
    assert (request.complete, request.aborted) == (False, True)
    with pytest.raises(PeerMismatch, match="the whole body"):
        await request.body()


@over_versions
async def test_the_upstream_breaks_off(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    kind = "connection" if client.version == "http/1.1" else "reset"
    code = {"http/1.1": None, "h2": 2, "h3": 0x102}[client.version]
    asking = await client.begin("GET", "/half", nonce="half")
    request = await upstream.request("half")
    await request.begin_response()
    await request.send_content(b"some")
    response = await asking.response_head()
    assert await asking.read_some(response) == b"some"
    request.break_off()
    got = await asking.outcome()
    assert got is response
    assert response.end is not None
    assert (response.complete, response.end.kind, response.end.code) == (False, kind, code)
    if client.version == "http/1.1":
        client = await scene.http_client()
    asking = await client.begin("GET", "/none", nonce="none")
    (await upstream.request("none")).break_off()
    ended = await asking.outcome()
    assert not isinstance(ended, Response)
    assert (ended.kind, ended.code) == (kind, code)


@over_versions
async def test_the_connection_and_its_end(scene: Scene, client: HttpClient, upstream: HttpUpstream) -> None:
    await client.ping()
    asking = await client.begin("GET", "/", nonce="n")
    await (await upstream.request("n")).respond()
    await asking.response()
    connection = await upstream.connection(1)
    assert (connection.id, connection.version, connection.fragments()) == (1, client.version, [])
    await connection.close()
    assert (await client.closed()).clean


@over_versions
async def test_settle_goes_both_legs_and_leaves_no_stray(
    scene: Scene, client: HttpClient, upstream: HttpUpstream
) -> None:
    await client.begin("GET", "/nobody-asked")
    await scene.settle()
    (stray,) = await scene.strays()
    assert b"/nobody-asked" in stray.data
    with pytest.raises(Departed):
        await scene.untouched(ROW)
    # two probes, each on a connection of its own
    assert len(upstream.requests_seen) == 3


@over_versions
async def test_a_dead_connection_does_not_hold_the_barrier(
    scene: Scene, client: HttpClient, upstream: HttpUpstream
) -> None:
    client.abort()
    await scene.settle()
    assert await scene.strays() == ()


# The scene's choices


def test_an_upstream_with_tls_takes_what_it_is_told_to_take() -> None:
    async def script(scene: Scene) -> None:
        upstream = scene.http_upstream(version="tls", alpn=("http/1.1",))
        assert upstream.version == ""
        client = await scene.http_client(alpn=("h2", "http/1.1"))
        asking = await client.begin(nonce="n")
        await (await upstream.request("n")).respond()
        assert (await asking.response()).status == 200
        assert upstream.version == "http/1.1"

    asyncio.run(staged(http(upstream_tls=True), script))


def test_what_a_script_asks_for_by_mistake_is_named() -> None:
    async def script(scene: Scene) -> None:
        with pytest.raises(ValueError, match=r"upstream version 'h2c', the tunnel 'main' has 'http/1\.1'"):
            scene.http_upstream(version="h2c")
        scene.http_upstream()
        with pytest.raises(ValueError, match="is there already: give it alpn at the first call"):
            scene.http_upstream(version="http/1.1", alpn=("h2",))
        with pytest.raises(ValueError, match=r"HTTP version 'h2c', allowed is http/1\.1, h2, h3"):
            await scene.http_client(version="h2c")
        with pytest.raises(SetupFailed, match="told no UDP port of the tunnel 'main'"):
            scene.udp_endpoint()

    asyncio.run(staged(http(), script))


def test_an_upstream_that_never_gets_its_request() -> None:
    async def script(scene: Scene) -> None:
        with pytest.raises(DeadlineExpired, match="the request with nonce n at the upstream of 'main'"):
            await scene.http_upstream().request("n")

    asyncio.run(staged(http(), script, seconds=0.05))


def test_usual_protocols() -> None:
    async def script(scene: Scene) -> None:
        assert scene.usual_alpn() == ("http/1.1",)
        assert scene.usual_alpn(over="udp") == ("h3",)

    asyncio.run(staged(http(), script))


def test_pairs() -> None:
    @case("pairs", checks=[ROW], publish=pair_tunnel, over=PAIRS, features=pair_features)
    async def declared(scene: Scene) -> None:
        """A case."""
        await pair(scene)

    found = declared.__edgecase_case__  # type: ignore[attr-defined]
    features = {variant.label: found.features(variant) for variant in found.variants}
    assert len(features) == 9
    assert features["h1-h1"] == {"http.h1"}
    assert features["h2-h2c"] == {"http.downstream-h2", "http.h2c"}
    assert features["h3-h3"] == {"http.downstream-h3", "http.h3"}
    specs = {variant.label: found.publish(variant)["main"] for variant in found.variants}
    assert {label: spec.upstream_http for label, spec in specs.items()} == {
        f"{down}-{up}": {"h1": "http/1.1"}.get(up, up) for down in ("h1", "h2", "h3") for up in ("h1", "h2c", "h3")
    }
    assert [specs[f"h1-{up}"].upstream for up in ("h1", "h2c", "h3")] == ["tcp", "tcp", "quic"]


def test_a_pair_on_one_leg_has_the_plain_one_on_the_other() -> None:
    assert pair_tunnel(Variant("h2", (("down", "h2"),))) == http()
    assert pair_features(Variant("h3", (("up", "h3"),))) == ()


# Where HTTP/3 clients go


def test_an_adapter_tells_the_udp_port_of_an_http_tunnel() -> None:
    spec = http(http_version="h3")
    asked = [{"key": "a", "host": "a.t", "properties": {}}]
    where = {"host": "a.t", "address": "127.0.0.1", "port": 20001, "udp_port": 20002}
    (found,) = results_of({"results": [{"endpoint": where}]}, asked, [spec])
    assert isinstance(found, Endpoint)
    assert (found.transport, found.port) == ("tcp", 20001)
    over = found.over_udp()
    assert over is not None
    assert (over.host, over.address, over.port, over.transport) == ("a.t", "127.0.0.1", 20002, "udp")
