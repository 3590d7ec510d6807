"""Start lines, line ends and field lines of requests: what is no HTTP/1.1 is refused, or goes on in one clean form."""

from __future__ import annotations

from conformance.http._steps import Probe, probing
from harness.model.case import case
from harness.model.spec import http
from harness.scene import Scene
from harness.wire import http1_write as write

NOTHING = "a refusal with nothing at the upstream"


def _plain(probe: Probe) -> bool:
    """Whether the upstream saw exactly `GET /<nonce> HTTP/1.1`, well-formed, and nothing beside it."""
    return probe.alone(b"") and probe.request.head.start_line == f"GET /{probe.nonce} HTTP/1.1".encode()


@case("http-lines-01", checks=["RFC9112-2.2-2", "RFC9110-2.2-1"], publish=http(), revision=2)
async def test_lines_that_end_in_lf(scene: Scene) -> None:
    """A request whose lines end in LF alone is refused, or goes on with CRLF: the upstream never sees a bare LF."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(line_end=b"\n"))
        with scene.judging("RFC9112-2.2-2"):
            await probe.outcome()
        await scene.settle()
        refused = "400 or another refusal"
        probe.judge(
            "RFC9112-2.2-2",
            {"400": refused, "4xx": refused, "closed": refused, "relayed": "relayed with CRLF"},
            expected="400, or CRLF line ends at the upstream",
        )
        emitted = probe.clean() and not probe.upstream.unexpected
        for requirement in ("RFC9112-2.2-2", "RFC9110-2.2-1"):
            probe.expect(requirement, emitted, expected="CRLF line ends at the upstream, or nothing")


BARE_CR = {
    "target": lambda probe: probe.wire(start_line=f"GET /{probe.nonce}\rX: y HTTP/1.1".encode()),
    "content-length": lambda probe: probe.head("POST", [("Content-Length", "5\r0")]) + b"hello" + b"x" * 45,
    "value": lambda probe: probe.wire(fields=[("X", "1\rTransfer-Encoding: chunked")]) + probe.smuggled(),
    "line-end": lambda probe: probe.wire(fields=[b"X: 1\rContent-Length: 5"]) + b"hello",
}


@case(
    "http-lines-02",
    checks=["RFC9112-2.2-4", "RFC9112-2.2-3"],
    publish=http(),
    over={"place": tuple(BARE_CR)},
)
async def test_a_bare_cr_is_no_line_end(scene: Scene) -> None:
    """A CR without LF is refused or becomes SP; what stands behind it never takes effect, and no CR goes upstream."""
    async with probing(scene) as probe:
        wire = BARE_CR[scene.variant["place"]](probe)
        await probe.say(wire)
        await probe.outcome()
        branches = {
            "400": "400 or another",
            "4xx": "400 or another",
            "501": "400 or another",
            "closed": "connection closed",
            "relayed": "relayed with SP",
        }
        expected = "a refusal, or SP instead of the CR"
        effect = probe.requests and (
            probe.request.get("transfer-encoding") or (probe.request.received and probe.request.method == "GET")
        )
        if effect and probe.kind == "relayed":
            scene.depart("RFC9112-2.2-4", expected=expected, actual=probe.describe())
        elif probe.kind == "relayed" and wire.endswith(probe.smuggled()) and probe.clean():
            scene.allow("RFC9112-2.2-4", "relayed with SP")
        else:
            probe.judge("RFC9112-2.2-4", branches, expected=expected)
        probe.expect(
            "RFC9112-2.2-3",
            probe.clean(),
            expected="no bare CR at the upstream",
            branch="relayed with SP" if probe.kind == "relayed" else "refused",
        )


@case(
    "http-lines-03",
    checks=["RFC9112-2.2-7", "RFC9112-2.2-6"],
    publish=http(),
    over={"line": ("host", "transfer-encoding")},
)
async def test_whitespace_before_the_first_field(scene: Scene) -> None:
    """A line that begins with whitespace right behind the request line is refused, or ignored without effect."""
    line = b" Host: evil.test" if scene.variant["line"] == "host" else b" Transfer-Encoding: chunked"
    async with probing(scene) as probe:
        await probe.say(write.request_head("GET", f"/{probe.nonce}", [line, ("Host", probe.host)]))
        await probe.outcome()
        refused = "400 or another 4xx"
        probe.judge(
            "RFC9112-2.2-7",
            {"400": refused, "4xx": refused, "closed": refused, "relayed": "relayed without"},
            expected="400, or the later fields alone at the upstream",
        )
        gone = not probe.requests or (
            probe.clean()
            and probe.request.get_all("host") == [probe.host]
            and probe.request.get("transfer-encoding") is None
        )
        expected = "no line with leading whitespace at the upstream"
        probe.expect("RFC9112-2.2-6", probe.clean("9112 section 2.2"), expected=expected)
        probe.expect("RFC9112-2.2-7", gone, expected=expected)


REQUEST_LINES = {
    "tabs": b"GET\t/%s\tHTTP/1.1",
    "two-spaces": b"GET  /%s  HTTP/1.1",
    "vertical-tab": b"GET /%s\x0bHTTP/1.1",
    "trailing-space": b"GET /%s HTTP/1.1 ",
    "leading-space": b" GET /%s HTTP/1.1",
}


@case(
    "http-lines-04",
    checks=["RFC9112-3-1", "RFC9110-2.2-1"],
    publish=http(),
    over={"line": tuple(REQUEST_LINES)},
    revision=2,
)
async def test_whitespace_in_the_request_line(scene: Scene) -> None:
    """A request line with other whitespace than two single SP is refused, or goes on as one canonical line."""
    async with probing(scene) as probe:
        line = REQUEST_LINES[scene.variant["line"]] % probe.nonce.encode()
        await probe.say(probe.wire(start_line=line))
        with scene.judging("RFC9112-3-1"):
            await probe.outcome()
        await scene.settle()
        refused = "400 or another 4xx"
        probe.judge(
            "RFC9112-3-1",
            {"400": refused, "4xx": refused, "501": refused, "505": refused, "closed": refused, "relayed": "relayed"},
            expected="400, or one canonical request line at the upstream",
        )
        canonical = _plain(probe) if probe.requests else not probe.upstream.unexpected
        for requirement in ("RFC9112-3-1", "RFC9110-2.2-1"):
            probe.expect(requirement, canonical, expected=f"`GET /{probe.nonce} HTTP/1.1` at the upstream, or nothing")


INVALID_TARGETS = {"space": b"/%s/a b?c", "control": b"/%s/\x01", "del": b"/%s/\x7f", "nul": b"/%s/\x00"}


@case(
    "http-lines-05",
    checks=["RFC9112-3.2-1", "RFC9112-3.2-2"],
    publish=http(),
    over={"target": tuple(INVALID_TARGETS)},
)
async def test_an_invalid_request_target(scene: Scene) -> None:
    """A target with SP or a control character gets 400 or a redirect; it is not repaired and relayed."""
    async with probing(scene) as probe:
        target = INVALID_TARGETS[scene.variant["target"]] % probe.nonce.encode()
        await probe.say(probe.wire(start_line=b"GET " + target + b" HTTP/1.1"))
        await probe.outcome()
        probe.judge(
            "RFC9112-3.2-1",
            {"400": "400", "3xx": "301", "4xx": "another 4xx", "closed": "another 4xx"},
            expected="400, or a redirect with the target encoded",
        )
        none = not probe.requests and not probe.upstream.unexpected
        probe.expect("RFC9112-3.2-2", none, expected="no repaired target at the upstream")


SPACED = {
    "host": b"Host : evil.test",
    "transfer-encoding": b"Transfer-Encoding : chunked",
    "length-tab": b"Content-Length\t: 5",
}


@case("http-lines-06", checks=["RFC9112-5.1-1", "HTTP-HDR-016"], publish=http(), over={"field": tuple(SPACED)})
async def test_whitespace_before_the_colon(scene: Scene) -> None:
    """Whitespace between a field name and its colon gets 400, and nothing reaches the upstream."""
    async with probing(scene) as probe:
        fields: list[write.Field] = [("Host", probe.host), SPACED[scene.variant["field"]]]
        await probe.say(write.request_head("POST", f"/{probe.nonce}", fields) + write.last_chunk() + probe.smuggled())
        await probe.outcome()
        probe.expect("HTTP-HDR-016", not probe.upstream.unexpected, expected=NOTHING)
        probe.judge(
            "RFC9112-5.1-1",
            {"400": "400, then", "closed": "close without", "4xx": "another 4xx", "501": "another 4xx"},
            expected="400 and nothing at the upstream",
        )


@case(
    "http-lines-07",
    checks=["RFC9112-5.2-2", "RFC9112-5.2-1", "HTTP-HDR-016"],
    publish=http(),
    over={"field": ("any", "transfer-encoding")},
)
async def test_a_folded_request_field(scene: Scene) -> None:
    """A folded field line is refused, or goes on as one line with framing to match; no fold reaches the upstream."""
    coding = scene.variant["field"] == "transfer-encoding"
    async with probing(scene) as probe:
        if coding:
            wire = probe.head("POST", [b"Transfer-Encoding:\r\n chunked"]) + write.chunk(b"hello") + write.last_chunk()
        else:
            wire = probe.wire(fields=[b"X-Folded: a\r\n b"])
        await probe.say(wire)
        await probe.outcome()
        refused = "400 or another 4xx"
        probe.judge(
            "RFC9112-5.2-2",
            {"400": refused, "4xx": refused, "501": refused, "closed": refused, "relayed": "relayed with SP"},
            expected="400, or one unfolded line at the upstream",
            partial=True,
        )
        relayed = probe.kind == "relayed"
        value = "" if coding or not relayed else " ".join((probe.request.get("x-folded") or "").split())
        intact = not relayed or (probe.alone(b"hello" if coding else b"") and (coding or value == "a b"))
        probe.expect(
            "RFC9112-5.2-1",
            probe.clean("9112 section 5.2"),
            expected="no folded line at the upstream",
            branch="relayed unfolded" if relayed else "refused",
        )
        for requirement in ("HTTP-HDR-016", "RFC9112-5.2-2"):
            probe.expect(requirement, intact, expected="a refusal, or one well-framed request with the value `a b`")


@case("http-lines-08", checks=["RFC9110-5.5-3"], publish=http(), over={"octet": ("cr", "nul", "lf-and-space")})
async def test_control_octets_in_a_field_value(scene: Scene) -> None:
    """CR, LF or NUL in a field value is refused or becomes SP: no raw one reaches the upstream, and no extra line.

    An LF can only stand in a value before whitespace: elsewhere it ends the line, which is another rule.
    """
    octet = {"cr": b"\r", "nul": b"\x00", "lf-and-space": b"\n "}[scene.variant["octet"]]
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[b"X-Value: a" + octet + b"b"]))
        await probe.outcome()
        probe.judge(
            "RFC9110-5.5-3",
            {"400": "400 or another", "4xx": "400 or another", "closed": "connection closed", "relayed": "h1 only"},
            expected="a refusal, or SP instead of the octet",
        )
        if probe.kind == "relayed":
            value = " ".join((probe.request.get("x-value") or "").split())
            fine = probe.clean() and value == "a b"
            probe.expect("RFC9110-5.5-3", fine, expected="the value `a b` at the upstream")


OCTETS = {
    "overlong-lf": b"a\xc0\x8aX-Smuggled: 1",
    "u-010a": b"a\xc4\x8aX-Smuggled: 1",
    "nel": b"a\x85X-Smuggled: 1",
    "line-separator": b"a\xe2\x80\xa8X-Smuggled: 1",
    "latin-1": b"\xe9\xff",
}


@case(
    "http-lines-09",
    checks=["RFC9112-2.2-1", "RFC9110-5.5-2", "HTTP-HDR-010"],
    publish=http(),
    over={"value": tuple(OCTETS)},
)
async def test_octets_are_not_decoded(scene: Scene) -> None:
    """Octets beyond ASCII in a value are no delimiters, whatever they mean in an encoding; they should arrive."""
    value = OCTETS[scene.variant["value"]]
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("X-Value", value)]))
        await probe.outcome()
        relayed = probe.kind == "relayed"
        same = relayed and probe.request.get_all("x-value") == [value.decode("latin-1")]
        split = bool(probe.requests) and probe.request.get("x-smuggled") is not None
        refused = {"400": "refused", "4xx": "refused", "closed": "refused"}
        probe.judge(
            "RFC9112-2.2-1", {**refused, "relayed": "relayed with"}, expected="the octets unchanged, or a refusal"
        )
        probe.expect(
            "RFC9112-2.2-1", not split and probe.clean("9112 section 2.2"), expected="no extra line at the upstream"
        )
        if relayed:
            probe.expect("RFC9110-5.5-2", same, expected="the same octets at the upstream")
            probe.expect("HTTP-HDR-010", same, expected="the same octets at the upstream")
        else:
            probe.expect("RFC9110-5.5-2", relayed, expected="the octets treated as opaque")
            scene.record("HTTP-HDR-010", f"not relayed: {probe.kind}")


GARBAGE = {
    "binary": b"\x00\x01\x02\xff\xfe" * 8 + b"\r\n\r\n",
    "method-only": b"GET\r\n\r\n",
    "http-0.9": b"GET /\r\n\r\n",
    "response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@case("http-lines-10", checks=["RFC9112-2.2-8"], publish=http(), over={"octets": tuple(GARBAGE)})
async def test_octets_that_are_no_http(scene: Scene) -> None:
    """What does not match the grammar should get 400 or nothing, and the connection should end."""
    async with probing(scene) as probe:
        await probe.say(GARBAGE[scene.variant["octets"]])
        await probe.outcome()
        other = "another 4xx or 501"
        probe.judge(
            "RFC9112-2.2-8",
            {"400": "400 and close", "closed": "close without", "4xx": other, "501": other, "505": other},
            expected="400 or a close, and nothing at the upstream",
        )
        with scene.judging("RFC9112-2.2-8"):
            await probe.rest()


@case("http-lines-11", checks=["RFC9112-2.2-5", "RFC9112-2.2-9"], publish=http())
async def test_an_empty_line_before_the_request(scene: Scene) -> None:
    """One empty line before a request line should be ignored, and none should go upstream."""
    async with probing(scene) as probe:
        await probe.say(b"\r\n" + probe.wire() + b"\r\n" + probe.wire(), expects=("GET", "GET"))
        await probe.outcome()
        relayed = probe.kind == "relayed"
        probe.expect("RFC9112-2.2-5", relayed, expected="an ordinary answer")
        if relayed:
            probe.later.append(await probe.client.response())
        probe.expect("RFC9112-2.2-9", probe.clean(), expected="no extra CRLF at the upstream")


@case(
    "http-lines-12", checks=["RFC9110-5.4-1"], publish=http(), over={"octets": ("16000", "60000", "250000", "1000000")}
)
async def test_large_header_sections(scene: Scene) -> None:
    """A header section of any size is refused as a whole or arrives as a whole: no field is dropped or cut."""
    size = int(scene.variant["octets"])
    fields = [(f"X-Field-{number}", "v" * 980) for number in range(size // 1000)]
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=fields))
        await probe.outcome()
        probe.judge(
            "RFC9110-5.4-1",
            {
                "431": "431",
                "400": "another 4xx",
                "4xx": "another 4xx",
                "413": "another 4xx",
                "closed": "h1: connection closed",
                "relayed": "relayed in full",
            },
            expected="a refusal, or every field in full at the upstream",
        )
        if probe.kind == "relayed":
            arrived = [(name, value) for name, value in probe.request.headers if name.lower().startswith("x-field-")]
            same = [value for _, value in arrived] == [value for _, value in fields]
            probe.expect("RFC9110-5.4-1", same, expected=f"{len(fields)} fields in full at the upstream")


@case("http-lines-13", checks=["RFC9110-5.3-4"], publish=http())
async def test_a_request_waits_for_its_whole_header_section(scene: Scene) -> None:
    """Nothing acts on a request before its header section is whole: the upstream has no complete one before.

    Forwarding a part early is not acting on it, so octets at the upstream alone do not count.
    """
    async with probing(scene) as probe:
        wire = probe.wire(fields=[("X-Last", "1")])
        await probe.say(wire[:-2])
        await scene.settle()
        early = [request.describe() for request in probe.requests]
        await probe.client.send_raw(wire[-2:])
        await probe.outcome()
        scene.expect(
            "RFC9110-5.3-4",
            not early and probe.kind == "relayed",
            expected="no request at the upstream before the empty line, and one after it",
            actual=f"{early or 'none'} before; {probe.describe()}",
        )


@case("http-lines-14", checks=["RFC9110-4.1-1", "RFC9112-3-4"], publish=http())
async def test_a_target_of_8000_octets(scene: Scene) -> None:
    """A request line with a target of 8,000 octets should reach the upstream unchanged."""
    async with probing(scene) as probe:
        target = f"/{probe.nonce}?".ljust(8000, "q")
        await probe.say(probe.wire(target=target))
        await probe.outcome()
        same = probe.kind == "relayed" and probe.request.target == target
        probe.expect("RFC9110-4.1-1", same, expected="the target of 8,000 octets at the upstream")
        probe.expect("RFC9112-3-4", same, expected="the request line unchanged at the upstream")


@case("http-lines-15", checks=["RFC9112-3-2"], publish=http())
async def test_a_target_of_a_mebibyte(scene: Scene) -> None:
    """A target of 1 MiB is refused, with 414 by name, or arrives whole."""
    async with probing(scene) as probe:
        target = f"/{probe.nonce}?".ljust(1 << 20, "q")
        await probe.say(probe.wire(target=target))
        await probe.outcome()
        probe.judge(
            "RFC9112-3-2",
            {
                "414": "414",
                "400": "400, 431",
                "431": "400, 431",
                "4xx": "400, 431",
                "closed": "connection closed",
                "relayed": "relayed unchanged",
            },
            expected="414",
        )
        if probe.kind == "relayed":
            probe.expect("RFC9112-3-2", probe.request.target == target, expected="the whole target at the upstream")
