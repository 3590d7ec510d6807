"""Pseudo-header fields of requests: which there are, how often and where, and what they may say (RFC 9113 section 8.3).

As in `messages`: each is said beside a good request, toward an upstream that speaks HTTP/1.1.
"""

from __future__ import annotations

from collections.abc import Mapping

from conformance.http2._steps import H2, Malformed, Say, malformed, with_field, with_pseudo
from conformance.http2.messages import judge_nothing
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import Response
from harness.peer.http2 import Http2Client
from harness.scene import Scene
from harness.wire.http2 import Field

UNDEFINED: Mapping[str, bytes] = {":foo": b"1", ":status": b"200", ":protocol": b"websocket"}


def inserted(name: bytes, value: bytes, at: int = 0) -> Say:
    """A request with one more field in front of its field at `at`."""

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        said = [*section[:at], Field(name, value), *section[at:]]
        client.say(client.headers(stream, said, end=True))

    return say


@case("h2-pseudo-01", checks=["RFC9113-8.3-1"], publish=http(), features=H2, over={"field": tuple(UNDEFINED)})
async def test_pseudo_header_fields_that_do_not_belong(scene: Scene) -> None:
    """`:foo`, `:status`, and `:protocol` without CONNECT make a request malformed (RFC 9113 section 8.3)."""
    name = scene.variant["field"]
    (await malformed(scene, inserted(name.encode(), UNDEFINED[name]))).judge("RFC9113-8.3-1")


@case("h2-pseudo-02", checks=["RFC9113-8.3-2"], publish=http(), features=H2)
async def test_a_pseudo_header_field_behind_another_field(scene: Scene) -> None:
    """A regular field in front of `:path` makes a request malformed (RFC 9113 section 8.3)."""
    (await malformed(scene, inserted(b"x-first", b"1", at=3))).judge("RFC9113-8.3-2")


@case(
    "h2-pseudo-03",
    checks=["RFC9113-8.3-3"],
    publish=http(),
    features=H2,
    over={"field": (":method", ":scheme", ":authority", ":path")},
)
async def test_a_pseudo_header_field_twice(scene: Scene) -> None:
    """A pseudo-header field that comes twice makes a request malformed (RFC 9113 section 8.3)."""
    name = scene.variant["field"].encode()

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        twice = next(field for field in section if field.name == name)
        client.say(client.headers(stream, [twice, *section], end=True))

    (await malformed(scene, say)).judge("RFC9113-8.3-3")


@case("h2-pseudo-04", checks=["RFC9113-8.3.1-6"], publish=http(), features=H2)
async def test_an_empty_path(scene: Scene) -> None:
    """An empty `:path` makes a request malformed (RFC 9113 section 8.3.1)."""
    (await malformed(scene, with_pseudo(path=b""))).judge("RFC9113-8.3.1-6")


CONTROL_DATA: Mapping[str, Say] = {
    "no-method": with_pseudo(method=None),
    "no-scheme": with_pseudo(scheme=None),
    "no-path": with_pseudo(path=None),
    "method-line": with_pseudo(method=b"GET /x HTTP/1.1\r\nx-injected: 1\r\n"),
    "method-space": with_pseudo(method=b"G ET"),
    "method-empty": with_pseudo(method=b""),
    "scheme-url": with_pseudo(scheme=b"http://a/?"),
    "path-relative": with_pseudo(path=b"x"),
    "path-space": with_pseudo(path=b"/a b"),
    "path-tab": with_pseudo(path=b"/a\t"),
}


@case("h2-pseudo-05", checks=["RFC9113-8.3.1-7"], publish=http(), features=H2, over={"fault": tuple(CONTROL_DATA)})
async def test_control_data_that_is_missing_or_not_valid(scene: Scene) -> None:
    """Each of `:method`, `:scheme` and `:path` is there, and valid, or the request is malformed.

    Without each in turn; a method that is a request line, has a space, or no octet; a scheme that begins a URL; a path
    without a slash, with a space, with a tab. No split request line is at the upstream (RFC 9113 section 8.3.1).
    """
    (await malformed(scene, CONTROL_DATA[scene.variant["fault"]])).judge("RFC9113-8.3.1-7")


TWO = {"main": http(), "other": http()}


@case("h2-pseudo-06", checks=["RFC9113-8.3.1-1", "RFC9113-8.3.1-2"], publish=TWO, features=H2)
async def test_a_host_that_is_another_tunnels(scene: Scene) -> None:
    """`:authority` names one tunnel and Host another: the latter's upstream gets nothing.

    It should be refused as malformed; routed by `:authority` with Host replaced is recorded (RFC 9113 section 8.3.1,
    ruling C-25).
    """
    other, there = scene.endpoint("other").host, scene.http_upstream("other")
    result = await malformed(scene, with_field(b"host", other.encode()))
    await scene.settle("other")
    strays = "; ".join(stray.describe() for stray in there.unexpected) or "nothing"
    branch = "refused: 400, 421" if result.refused else "routed by :authority"
    row = "RFC9113-8.3.1-1"
    scene.expect(row, not there.unexpected, expected="nothing at the other tunnel", actual=strays, branch=branch)
    if result.refused:
        result.judge("RFC9113-8.3.1-2")
        return
    hosts = [value for request in result.whole for value in request.get_all("host")]
    fine = bool(hosts) and other not in hosts
    scene.expect("RFC9113-8.3.1-2", fine, expected="Host replaced, where it is routed", actual=f"Host {hosts}")
    scene.allow("RFC9113-8.3.1-2", "routed by :authority with Host replaced")


@case(
    "h2-pseudo-07",
    checks=["RFC9113-8.3.1-2", "RFC9113-8.3.1-4"],
    publish=http(),
    features=H2,
    over={"host": ("equal", "case", "port", "alone", "none")},
)
async def test_a_host_that_is_the_authority(scene: Scene) -> None:
    """A Host that says the same as `:authority`, also in another case or with the default port, is no fault; the
    upstream gets one Host, which is the authority (RFC 9113 section 8.3.1)."""
    name = scene.endpoint().host
    host = {"case": name.upper(), "port": f"{name}:443", "none": ""}.get(scene.variant["host"], name)

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        alone = scene.variant["host"] == "alone"
        kept = [field for field in section if not (alone and field.name == b":authority")]
        said = [*kept, Field(b"host", host.encode())] if host else kept
        client.say(client.headers(stream, said, end=True))

    result = await malformed(scene, say)
    scene.expect("RFC9113-8.3.1-2", bool(result.whole), expected="a request at the upstream", actual=result.describe())
    hosts = [value for request in result.whole for value in request.get_all("host")]
    fine = len(hosts) == 1 and hosts[0].lower().removesuffix(":443") == name.lower()
    scene.expect("RFC9113-8.3.1-4", fine, expected=f"one Host, {name}", actual=f"Host {hosts}")


@case("h2-pseudo-08", checks=["RFC9113-8.3.1-5"], publish=http(), features=H2)
async def test_userinfo_in_the_authority(scene: Scene) -> None:
    """Userinfo in `:authority` makes a request malformed, or is left out; it never reaches the upstream (RFC 9113
    section 8.3.1)."""
    row, host = "RFC9113-8.3.1-5", scene.endpoint().host
    result = await malformed(scene, with_pseudo(authority=f"user:secret@{host}".encode()))
    if result.refused:
        result.judge(row)
        return
    seen = [request.raw_head for request in result.requests]
    fine = bool(seen) and not any(b"@" in head for head in seen)
    branch = "relayed without userinfo"
    scene.expect(row, fine, expected="no userinfo at the upstream", actual=result.describe(), branch=branch)


@case("h2-pseudo-09", checks=["RFC9113-8.1.1-1"], publish=http(), features=H2, over={"kind": ("plain", "extended")})
async def test_connect_gets_an_answer(scene: Scene) -> None:
    """CONNECT of either kind, malformed, gets an error, and nothing of it is at the upstream.

    A plain one has `:path`, an extended one has none (RFC 9113 section 8.5, RFC 8441 section 4).
    """
    extended = scene.variant["kind"] == "extended"

    def say(client: Http2Client, stream: int, section: list[Field]) -> None:
        said = [Field(b":method", b"CONNECT"), *section[1:]]
        if extended:
            said = [Field(b":method", b"CONNECT"), Field(b":protocol", b"websocket"), *section[1:3], *section[4:]]
        client.say(client.headers(stream, said, end=True))

    result: Malformed = await malformed(scene, say, method="CONNECT")
    if result.got is None or (isinstance(result.got, Response) and result.got.status < 400):
        scene.depart("RFC9113-8.1.1-1", expected="an error", actual=result.describe())
    judge_nothing(result)
