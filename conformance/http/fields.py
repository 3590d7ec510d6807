"""Header fields: what belongs to one hop stays there, everything else arrives as it was, in both directions."""

from __future__ import annotations

import re

from conformance.http._steps import asked, probing, works
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http1 import Response
from harness.scene import Scene
from harness.wire.http1 import Head
from harness.wire.http1_write import Field

DIRECTION = ("request", "response")


def _lower(headers: list[tuple[str, str]]) -> set[str]:
    return {name.lower() for name, _ in headers}


async def _carried(scene: Scene, fields: list[Field]) -> tuple[list[tuple[str, str]], list[str], str]:
    """The fields as the far side got them, in the direction of the variant; the tokens of Connection there; the
    outcome's kind."""
    if scene.variant["direction"] == "request":
        async with probing(scene) as probe:
            await probe.say(probe.wire(fields=fields))
            await probe.outcome()
            if not probe.requests:
                return [], [], probe.kind
            return probe.request.headers, probe.request.head.tokens("connection"), probe.kind
    answered = await asked(scene)
    await answered.request.respond(200, fields, b"hello")
    kind = await answered.outcome()
    if kind != "2xx":
        return [], [], kind
    return answered.response.headers, answered.response.head.tokens("connection"), "relayed"


@case(
    "http-fields-01",
    checks=["RFC9110-7.6.1-1", "RFC9110-7.6-1", "HTTP-HDR-006"],
    publish=http(),
    over={"direction": DIRECTION},
)
async def test_what_connection_names_stays_on_its_hop(scene: Scene) -> None:
    """A field that Connection names does not cross the engine, nor does the Connection value that came."""
    fields: list[Field] = [("Connection", "X-Secret"), ("X-Secret", "1"), ("X-Kept", "2")]
    headers, connection, kind = await _carried(scene, fields)
    if kind == "400":
        scene.allow("RFC9110-7.6.1-1", "request refused")
        scene.record("RFC9110-7.6-1", "refused")
        scene.record("HTTP-HDR-006", "refused")
        return
    gone = kind == "relayed" and "x-secret" not in _lower(headers) and "x-secret" not in connection
    told = {"expected": "no X-Secret at the far side, and no Connection that names it", "actual": f"{kind}: {headers}"}
    scene.expect("RFC9110-7.6.1-1", gone, **told, branch="fields and Connection")
    scene.expect("RFC9110-7.6-1", gone and "x-kept" in _lower(headers), **told)
    scene.expect("HTTP-HDR-006", gone, **told, branch="fields absent")


@case("http-fields-02", checks=["RFC9110-7.6.1-2", "HTTP-HDR-006"], publish=http(), over={"direction": DIRECTION})
async def test_connection_options_have_no_case_and_many_lines(scene: Scene) -> None:
    """Connection options count whatever their case, on every Connection line and in every member of its list."""
    fields: list[Field] = [
        ("connection", "FOO"),
        ("Connection", " bar,\t, Baz"),
        ("foo", "1"),
        ("BAR", "2"),
        ("baz", "3"),
    ]
    headers, _, kind = await _carried(scene, fields)
    if kind == "400":
        scene.allow("RFC9110-7.6.1-2", "request refused")
        scene.record("HTTP-HDR-006", "refused")
        return
    gone = kind == "relayed" and not _lower(headers) & {"foo", "bar", "baz"}
    told = {"expected": "none of foo, bar and baz at the far side", "actual": f"{kind}: {headers}"}
    scene.expect("RFC9110-7.6.1-2", gone, **told, branch="none of the three")
    scene.expect("HTTP-HDR-006", gone, **told, branch="fields absent")


@case("http-fields-03", checks=["RFC9110-5.6.1.2-1"], publish=http())
async def test_empty_list_members_are_ignored(scene: Scene) -> None:
    """Empty members of a list are ignored: the option among them counts, and the request is served."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("Connection", ", x-hop,, ,"), ("X-Hop", "1")]))
        await probe.outcome()
        gone = probe.kind == "relayed" and probe.request.get("x-hop") is None
        probe.expect("RFC9110-5.6.1.2-1", gone, expected="the request at the upstream without X-Hop")


@case("http-fields-04", checks=["RFC9110-7.6.1-1"], publish=http(), over={"direction": DIRECTION})
async def test_connection_reaches_into_trailers(scene: Scene) -> None:
    """A trailer field that Connection names does not cross the engine either."""
    fields: list[Field] = [("Connection", "X-Secret")]
    trailers: list[Field] = [("X-Secret", "1"), ("X-Sum", "2")]
    if scene.variant["direction"] == "request":
        async with probing(scene) as probe:
            await probe.say(probe.wire("POST", fields, chunks=[b"hello"], trailers=trailers))
            await probe.outcome()
            seen, kind = (probe.request.trailers, probe.kind) if probe.requests else ([], probe.kind)
    else:
        answered = await asked(scene)
        await answered.request.respond(200, fields, chunks=[b"hello"], trailers=trailers)
        kind = await answered.outcome()
        seen = answered.response.trailers if kind == "2xx" else []
    if kind == "400":
        scene.allow("RFC9110-7.6.1-1", "request refused")
        return
    gone = kind in ("relayed", "2xx") and "x-secret" not in _lower(seen)
    scene.expect(
        "RFC9110-7.6.1-1",
        gone,
        expected="no trailer X-Secret at the far side",
        actual=f"{kind}: trailers {seen}",
        branch="fields and Connection",
    )


HOP_BY_HOP: dict[str, tuple[str, str]] = {
    "keep-alive": ("Keep-Alive", "timeout=5"),
    "proxy-connection": ("Proxy-Connection", "keep-alive"),
    "te": ("TE", "gzip;q=0.5"),
    "upgrade": ("Upgrade", "foo"),
}


@case(
    "http-fields-05",
    checks=["RFC9110-7.6.1-4", "HTTP-HDR-006"],
    publish=http(),
    over={"direction": DIRECTION, "field": tuple(HOP_BY_HOP)},
)
async def test_hop_by_hop_fields_that_connection_does_not_name(scene: Scene) -> None:
    """Keep-Alive, Proxy-Connection, TE and Upgrade should not cross, though Connection does not name them."""
    name, value = HOP_BY_HOP[scene.variant["field"]]
    headers, _, kind = await _carried(scene, [(name, value)])
    values = [found for field, found in headers if field.lower() == name.lower()]
    own = bool(values) and value not in values
    branch = "field with the edge's own" if own else "field absent"
    scene.expect(
        "RFC9110-7.6.1-4",
        kind == "relayed" and value not in values,
        expected=f"no `{name}: {value}` at the far side",
        actual=f"{kind}: {values}",
        branch=branch,
    )
    if value not in values:
        scene.allow("HTTP-HDR-006", "fields absent")
    elif name in ("Keep-Alive", "Proxy-Connection"):
        scene.allow("HTTP-HDR-006", "h1 far side")
    else:
        scene.depart("HTTP-HDR-006", expected=f"no {name} at the far side", actual=f"{name}: {values}")


@case("http-fields-06", checks=["RFC9110-7.6.1-5", "RFC9110-7.6.1-1", "HTTP-WS-017"], publish=http())
async def test_an_upgrade_to_h2c_is_dropped(scene: Scene) -> None:
    """`Upgrade: h2c` and HTTP2-Settings are not relayed: the answer is HTTP/1.1, and no 101."""
    fields: list[Field] = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ]
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=fields))
        await probe.outcome()
        if probe.kind == "400":
            scene.allow("RFC9110-7.6.1-5", "400")
            scene.allow("RFC9110-7.6.1-1", "request refused")
            scene.record("HTTP-WS-017", "Upgrade: h2c refused")
            return
        seen = _lower(probe.request.headers) if probe.requests else set()
        relayed = probe.kind == "relayed"
        expected = "an ordinary answer, and neither Upgrade nor HTTP2-Settings at the upstream"
        dropped = relayed and "upgrade" not in seen
        probe.expect("RFC9110-7.6.1-5", dropped, expected=expected, branch="HTTP/1.1 answer")
        probe.expect("HTTP-WS-017", dropped, expected=expected)
        gone = relayed and "http2-settings" not in seen
        probe.expect("RFC9110-7.6.1-1", gone, expected=expected, branch="fields and Connection")


@case("http-fields-07", checks=["RFC9110-7.6.1-3"], publish=http())
async def test_connection_cannot_remove_host(scene: Scene) -> None:
    """A client that names Host in Connection does not take Host away from the upstream.

    The same holds for each field that the engine adds on a plain request, which is asked first.
    """
    names = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "via", "x-real-ip")
    async with probing(scene) as plain:
        await plain.say(plain.wire())
        await plain.outcome()
        added = _lower(plain.request.headers) & set(names) if plain.requests else set()
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("Connection", ", ".join(["Host", *names]))]))
        await probe.outcome()
        if probe.kind == "400":
            scene.allow("RFC9110-7.6.1-3", "request refused")
            return
        hosts = probe.request.get_all("host") if probe.requests else []
        kept = added <= _lower(probe.request.headers) if probe.requests else False
        same = [host.lower().partition(":")[0] for host in hosts] == [probe.host.lower()]
        probe.expect(
            "RFC9110-7.6.1-3",
            kept and same,
            expected=f"Host and {', '.join(sorted(added)) or 'nothing else'} at the upstream",
            branch="relayed as described",
        )


@case("http-fields-08", checks=["RFC9110-7.6.1-7", "RFC9110-5.6.1.1-1"], publish=http())
async def test_the_connection_options_of_the_engine(scene: Scene) -> None:
    """The engine's own Connection field names nothing that is end-to-end, and holds no empty member."""
    answered = await asked(scene)
    await answered.request.respond(200, [("Cache-Control", "no-store")], b"hello")
    await answered.outcome()
    sides = {"upstream": answered.request.head, "client": answered.response.head}
    options = {side: head.tokens("connection") for side, head in sides.items()}
    known = {"close", "keep-alive", "upgrade", "te"}
    strange = {side: sorted(set(found) - known) for side, found in options.items() if set(found) - known}
    empty = [
        value
        for head in sides.values()
        for name in ("connection", "via", "forwarded", "upgrade", "te")
        for value in head.get_all(name)
        if not all(member.strip() for member in value.split(","))
    ]
    scene.expect("RFC9110-7.6.1-7", not strange, expected=f"only {sorted(known)}", actual=f"{options}")
    scene.expect("RFC9110-5.6.1.1-1", not empty, expected="no empty list member", actual=f"{empty or 'none'}")


@case("http-fields-09", checks=["RFC9110-5.3-1", "RFC9110-5.1-1"], publish=http(), over={"direction": DIRECTION})
async def test_unknown_fields_and_their_order(scene: Scene) -> None:
    """Fields that nobody knows arrive with their values, and lines of one name in their order."""
    fields: list[Field] = [("X-L", "a"), ("X-Unknown-9f", "v"), ("X-L", "b"), ("X-Empty", ""), ("X-L", "c")]
    headers, _, kind = await _carried(scene, fields)
    lines = [value for name, value in headers if name.lower() == "x-l"]
    joined = [member.strip() for line in lines for member in line.split(",")]
    kept = ("x-unknown-9f", "v") in [(name.lower(), value) for name, value in headers]
    scene.expect(
        "RFC9110-5.1-1",
        kept,
        expected="X-Unknown-9f: v at the far side",
        actual=f"{headers}",
        branch="field arrives",
    )
    scene.expect(
        "RFC9110-5.3-1",
        kind == "relayed" and joined == ["a", "b", "c"],
        expected="X-L with a, b, c in this order",
        actual=f"{kind}: {lines}",
        branch="one line" if len(lines) == 1 else "separate lines",
    )


@case("http-fields-10", checks=["RFC9110-5.3-2", "HTTP-HDR-009"], publish=http())
async def test_set_cookie_lines_stay_apart(scene: Scene) -> None:
    """Set-Cookie lines are never joined: a comma may stand in their values."""
    cookies = ["a=1; Expires=Wed, 09 Jun 2032 10:18:14 GMT", "b=2; Path=/", "c=3"]
    answered = await asked(scene)
    await answered.request.respond(200, [("Set-Cookie", cookie) for cookie in cookies], b"hello")
    await answered.outcome()
    seen = answered.response.get_all("set-cookie")
    told = {"expected": "three Set-Cookie lines in their order", "actual": f"{seen}"}
    scene.expect("RFC9110-5.3-2", seen == cookies, **told)
    scene.expect("HTTP-HDR-009", seen == cookies, **told)


@case("http-fields-11", checks=["RFC9110-5.3-3"], publish=http())
async def test_no_second_line_of_a_single_field(scene: Scene) -> None:
    """The engine adds no second line of Host, Content-Length, Date, Content-Type, Location or Server."""
    names = ("host", "content-length", "date", "content-type", "location", "server")
    answered = await asked(scene, "POST", [("Content-Type", "text/plain"), ("Date", _DATE)], b"hello")
    sent = [("Date", _DATE), ("Content-Type", "text/plain"), ("Location", "/x"), ("Server", "u")]
    await answered.request.respond(201, sent, b"hello")
    await answered.outcome()
    twice = [
        f"{name} at the {side}"
        for side, head in (("upstream", answered.request.head), ("client", answered.response.head))
        for name in names
        if len(head.get_all(name)) > 1
    ]
    scene.expect("RFC9110-5.3-3", not twice, expected="one line of each", actual=f"twice: {twice or 'none'}")


_DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@case("http-fields-12", checks=["RFC9110-6.6.1-1"], publish=http())
async def test_a_response_without_date_gets_one(scene: Scene) -> None:
    """A response that came without Date reaches the client with exactly one."""
    answered = await asked(scene)
    await answered.request.respond(200, body=b"hello")
    await answered.outcome()
    dates = answered.response.get_all("date")
    valid = len(dates) == 1 and dates[0].endswith(" GMT") and len(dates[0]) == len(_DATE)
    scene.expect("RFC9110-6.6.1-1", valid, expected="one valid Date", actual=f"{dates}")


TARGETS = {
    "encoded": "/%s/a/%%2e%%2e/b//c;p=1?x=%%2F&y&=",
    "nul": "/%s/%%00",
    "matrix": "/%s/..;/x",
    "empty-query": "/%s/?",
    "sub-delims": "/%s/a%%2Fb//c/?x=%%20&y",
}


@case(
    "http-fields-13",
    checks=["RFC9110-7.7-1", "HTTP-HDR-001"],
    publish=http(),
    over={"target": tuple(TARGETS)},
)
async def test_the_target_arrives_as_it_was(scene: Scene) -> None:
    """Path and query reach the upstream octet by octet; an equivalent form, or a refusal, is recorded."""
    async with probing(scene) as probe:
        target = TARGETS[scene.variant["target"]] % probe.nonce
        await probe.say(probe.wire(target=target))
        await probe.outcome()
        if probe.kind in ("400", "4xx"):
            scene.allow("RFC9110-7.7-1", "4xx refusal")
            scene.record("HTTP-HDR-001", f"{target} refused")
            return
        seen = probe.request.target if probe.requests else "nothing"
        if seen == target:
            scene.allow("RFC9110-7.7-1", "identical octets")
            scene.allow("HTTP-HDR-001", "target, fields")
        elif probe.requests and _normal(seen) == _normal(target):
            scene.allow("RFC9110-7.7-1", "equivalent form")
            scene.allow("HTTP-HDR-001", "target in an equivalent")
        else:
            for requirement in ("RFC9110-7.7-1", "HTTP-HDR-001"):
                scene.depart(requirement, expected=f"{target} at the upstream", actual=seen)


def _normal(target: str) -> str:
    """What is equal for equivalent targets (RFC 3986 section 6.2.2): no needless escapes, no dot segments."""
    path, mark, query = target.partition("?")
    kept: list[str] = []
    for segment in _decoded(path).split("/"):
        if segment == "..":
            kept = kept[:-1] if len(kept) > 1 else kept
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept) + mark + _decoded(query)


def _decoded(part: str) -> str:
    def octet(found: re.Match[str]) -> str:
        plain = chr(int(found[1], 16))
        return plain if re.fullmatch(r"[A-Za-z0-9._~-]", plain) else found[0].upper()

    return re.sub("%([0-9A-Fa-f]{2})", octet, part)


@case("http-fields-14", checks=["HTTP-HDR-001", "RFC9110-7.6-3"], publish=http())
async def test_unknown_methods_and_statuses(scene: Scene) -> None:
    """An unknown method and its body reach the upstream, an unknown status and its fields the client, unchanged."""
    fields = [(f"X-Field-{number}", f"value {number}") for number in range(20)]
    async with probing(scene) as probe:
        await probe.say(probe.wire("FROB", fields, b"hello"), expects="FROB")
        await probe.outcome()
        if probe.kind in ("501", "4xx"):
            scene.allow("RFC9110-7.6-3", "501 or 405")
            scene.record("HTTP-HDR-001", f"method FROB: {probe.kind}")
            return
        seen = probe.requests and probe.request.method == "FROB" and probe.bodies == [b"hello"]
        # Names have no case (RFC 9110 section 5.1).
        sent = {(name.lower(), value) for name, value in fields}
        arrived = bool(seen) and sent <= {(name.lower(), value) for name, value in probe.request.headers}
        expected = "FROB with its fields and body at the upstream"
        probe.expect("RFC9110-7.6-3", bool(seen), expected=expected, branch="relayed unchanged")
        probe.expect("HTTP-HDR-001", arrived, expected=expected, branch="target, fields")


@case(
    "http-fields-15",
    checks=["RFC9110-15-1", "HTTP-HDR-001"],
    publish=http(),
    over={"status": ("299", "399", "499", "599")},
)
async def test_unknown_statuses(scene: Scene) -> None:
    """A status that nobody knows reaches the client with its body and its fields."""
    status = int(scene.variant["status"])
    answered = await asked(scene)
    await answered.request.respond(status, [("X-Kept", "1")], b"hello", reason="Odd")
    await answered.outcome()
    same = answered.response.status == status and answered.response.body == b"hello"
    answered.expect("RFC9110-15-1", same, expected=f"{status} with the body `hello`")
    kept = same and answered.response.get("x-kept") == "1"
    answered.expect("HTTP-HDR-001", kept, expected=f"{status} with its fields", branch="target, fields")


@case("http-fields-16", checks=["HTTP-HDR-010", "RFC9110-5.5-2"], publish=http(), over={"direction": DIRECTION})
async def test_obs_text_and_empty_values(scene: Scene) -> None:
    """Octets from 0x80 and empty values should arrive as they are."""
    headers, _, kind = await _carried(scene, [("X-Raw", b"\xe9\xff"), ("X-Empty", "")])
    seen = {name.lower(): value for name, value in headers}
    told = {"expected": "X-Raw with the octets E9 FF, and an empty X-Empty", "actual": f"{kind}: {seen}"}
    raw = seen.get("x-raw") == "\xe9\xff"
    scene.expect("RFC9110-5.5-2", raw, **told)
    if raw and seen.get("x-empty") == "":
        scene.expect("HTTP-HDR-010", True, **told)
    else:
        scene.record("HTTP-HDR-010", told["actual"])


@case(
    "http-fields-17",
    checks=["RFC9112-2.3-1", "HTTP-VER-002", "RFC9110-6.2-1"],
    publish=http(),
    over={"version": ("1.0", "1.1", "1.9")},
)
async def test_the_version_is_the_engines_own(scene: Scene) -> None:
    """The upstream sees HTTP/1.1, whatever the client said; 1.9 may be refused, but is never passed on.

    The client should see HTTP/1.1, too, whatever it said.
    """
    said = scene.variant["version"]
    async with probing(scene) as probe:
        await probe.say(probe.wire(version=f"HTTP/{said}"))
        await probe.outcome()
        seen = probe.request.head.version if probe.requests else "nothing"
        refused = said == "1.9" and not probe.requests and probe.kind in ("400", "505", "closed")
        expected = "HTTP/1.1 at the upstream"
        answer = probe.got.head.version if isinstance(probe.got, Response) else "nothing"
        scene.expect("RFC9110-6.2-1", answer == "HTTP/1.1", expected="HTTP/1.1 at the client", actual=answer)
        if refused:
            scene.record("RFC9112-2.3-1", f"HTTP/1.9: {probe.kind}")
            scene.record("HTTP-VER-002", f"HTTP/1.9: {probe.kind}")
            return
        own = seen == "HTTP/1.1" and probe.kind == "relayed"
        scene.expect("RFC9112-2.3-1", own, expected=expected, actual=seen, branch="as observed")
        scene.expect("HTTP-VER-002", own, expected=expected, actual=seen)


@case("http-fields-23", checks=["RFC9110-6.2-2"], publish=http())
async def test_a_minor_version_that_is_not_known_yet(scene: Scene) -> None:
    """A request in HTTP/1.9 is processed as HTTP/1.1, or refused."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(version="HTTP/1.9"))
        await probe.outcome()
        if not probe.requests and probe.kind in ("400", "505", "closed"):
            scene.allow("RFC9110-6.2-2", "505 or 400")
            return
        processed = probe.kind == "relayed" and probe.request.head.version == "HTTP/1.1"
        expected, branch = "HTTP/1.1 at the upstream, or a refusal", "processed as HTTP/1.1"
        probe.expect("RFC9110-6.2-2", processed, expected=expected, branch=branch)


@case("http-fields-18", checks=["RFC9112-2.3-1", "RFC9112-2.3-2"], publish=http())
async def test_an_http_1_0_upstream(scene: Scene) -> None:
    """The answer of an HTTP/1.0 upstream reaches an HTTP/1.1 client as HTTP/1.1."""
    answered = await asked(scene)
    await answered.request.respond(200, [("Content-Length", "5")], b"hello", version="HTTP/1.0")
    await answered.outcome()
    seen = answered.response.head.version
    scene.expect("RFC9112-2.3-1", seen == "HTTP/1.1", expected="HTTP/1.1", actual=seen, branch="as observed")
    scene.expect("RFC9112-2.3-2", seen == "HTTP/1.1", expected="HTTP/1.1", actual=seen)


@case("http-fields-19", checks=["HTTP-HDR-020", "RFC9110-7.7-3"], publish=http(), over={"coding": ("identity", "gzip")})
async def test_content_is_not_transformed(scene: Scene) -> None:
    """The octets of the body, Content-Encoding, Content-Type and ETag reach the client as the upstream sent them."""
    content = b"<p>" + b"a" * 5000
    coded = scene.variant["coding"] == "gzip"
    fields = [("Content-Type", "text/html"), ("ETag", '"v1"'), ("Cache-Control", "no-transform")]
    fields += [("Content-Encoding", "gzip")] if coded else []
    answered = await asked(scene, fields=[("Accept-Encoding", "gzip, br")] if not coded else [])
    await answered.request.respond(200, fields, content)
    await answered.outcome()
    kept = [value for name, _ in fields for value in answered.response.get_all(name)]
    same = answered.response.body == content and kept == [value for _, value in fields]
    bare = coded or answered.response.get("content-encoding") is None
    answered.expect("HTTP-HDR-020", same and bare, expected="the same octets and fields")
    answered.expect("RFC9110-7.7-3", same and bare, expected="the same octets and fields")


@case(
    "http-fields-20",
    checks=["HTTP-HDR-011", "RFC9112-7.1.2-1", "RFC9110-6.6.2-1"],
    publish=http(),
    over={"direction": DIRECTION},
)
async def test_trailers_pass(scene: Scene) -> None:
    """Trailers pass, or are dropped, apart from the header fields; where they pass, Trailer should announce them."""
    trailers: list[Field] = [("X-Sum", "1")]
    if scene.variant["direction"] == "request":
        async with probing(scene) as probe:
            await probe.say(probe.wire("POST", [("Trailer", "X-Sum")], chunks=[b"hello"], trailers=trailers))
            await probe.outcome()
            head: Head | None = probe.request.head if probe.requests else None
            seen = probe.request.trailers if probe.requests else []
    else:
        answered = await asked(scene, fields=[("TE", "trailers"), ("Connection", "TE")])
        await answered.request.respond(200, [("Trailer", "X-Sum")], chunks=[b"hello"], trailers=trailers)
        await answered.outcome()
        head, seen = answered.response.head, answered.response.trailers
    merged = head is None or head.get("x-sum") is not None
    if merged:
        scene.depart("HTTP-HDR-011", expected="X-Sum as a trailer or nowhere", actual="among the header fields")
    else:
        scene.allow("HTTP-HDR-011", "an h1 leg")
    scene.record("RFC9112-7.1.2-1", f"trailers {'relayed' if seen else 'dropped'}")
    if not seen:
        scene.allow("RFC9110-6.6.2-1", "trailers dropped")
        return
    announced = head.get_all("trailer") if head else []
    told = {"expected": "Trailer: X-Sum", "actual": f"{announced}"}
    scene.expect("RFC9110-6.6.2-1", announced == ["X-Sum"], **told, branch="trailer and Trailer")


@case("http-fields-22", checks=["RFC9110-6.5.1-2"], publish=http())
async def test_framing_and_cookies_in_trailers(scene: Scene) -> None:
    """Content-Length, Transfer-Encoding and Set-Cookie among an upstream's trailers change nothing of the framing, and
    nothing of the header section."""
    trailers: list[Field] = [("Content-Length", "1"), ("Transfer-Encoding", "identity"), ("Set-Cookie", "evil=1")]
    answered = await asked(scene, fields=[("TE", "trailers"), ("Connection", "TE")])
    await answered.request.respond(200, [("Trailer", "Set-Cookie")], chunks=[b"hello"], trailers=trailers)
    with scene.judging("RFC9110-6.5.1-2"):
        if await answered.outcome() in ("502", "5xx"):
            scene.record("RFC9110-6.5.1-2", f"such a response is refused: {answered.kind}")
            return
        whole = answered.response.complete and answered.response.body == b"hello"
        apart = answered.response.get("set-cookie") is None and answered.response.get("content-length") is None
        answered.expect("RFC9110-6.5.1-2", whole and apart, expected="`hello`, framed as before")
        if not answered.response.closes:
            await works(scene, answered.client)
        scene.allow("RFC9110-6.5.1-2", "trailers relayed" if answered.response.trailers else "trailers dropped")


@case("http-fields-21", checks=["HTTP-HDR-005", "HTTP-HDR-004"], publish=http())
async def test_forwarding_fields_cannot_be_forged(scene: Scene) -> None:
    """Where the engine says who the client is, the client's own word for it is removed or kept apart."""
    async with probing(scene) as plain:
        await plain.say(plain.wire())
        await plain.outcome()
        emitted = plain.request.get_all("x-forwarded-for") if plain.requests else []
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("X-Forwarded-For", "192.0.2.1")]))
        await probe.outcome()
        seen = probe.request.get_all("x-forwarded-for") if probe.requests else []
    scene.record("HTTP-HDR-004", f"X-Forwarded-For on a plain request: {emitted or 'none'}")
    if not emitted:
        scene.record("HTTP-HDR-005", f"the engine emits none; a client's own arrives as {seen or 'nothing'}")
        return
    last = [member.strip() for value in seen for member in value.split(",")][-1:]
    scene.expect("HTTP-HDR-005", last == emitted[-1:], expected=f"{emitted} last", actual=f"{seen}")
