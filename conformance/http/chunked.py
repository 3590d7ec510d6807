"""The chunked transfer coding of requests: sizes, extensions, ends, trailers."""

from __future__ import annotations

from conformance.http._steps import probing, unfinished
from harness.model.case import case
from harness.model.spec import http
from harness.scene import Scene
from harness.wire import http1_write as write

CHUNKED = ("Transfer-Encoding", "chunked")


SIZES = {"hex-prefix": "0x5", "plus": "+5", "minus": "-1", "space-before": " 5", "underscore": "5_", "empty": ""}


@case("http-chunked-01", checks=["RFC9112-7.1-3", "HTTP-HDR-016"], publish=http(), over={"size": tuple(SIZES)})
async def test_a_malformed_chunk_size(scene: Scene) -> None:
    """A chunk size that is not hexadecimal digits is refused, and never read in two ways.

    Behind the chunk stands what would be another request under a second reading.
    """
    async with probing(scene) as probe:
        await probe.say(
            probe.head("POST", [CHUNKED])
            + write.chunk(b"hello", size=SIZES[scene.variant["size"]])
            + write.last_chunk()
            + probe.smuggled()
        )
        await probe.outcome()
        recorded = "accepted with one consistent reading"
        probe.judge(
            "RFC9112-7.1-3",
            {
                "400": "400 or another",
                "4xx": "400 or another",
                "501": "400 or another",
                "closed": "close without",
                "relayed": recorded,
            },
            expected="400, or one consistent reading",
            partial=True,
        )
        probe.judge_framing(b"hello", "RFC9112-7.1-3")


@case(
    "http-chunked-02",
    checks=["RFC9112-7.1-1"],
    publish=http(),
    over={"size": ("FFFFFFFFFFFFFFFF", "10000000000000005", "100000005")},
)
async def test_a_very_large_chunk_size(scene: Scene) -> None:
    """A very large chunk size is refused or waited for, never cut to 5, which is what a narrow integer makes of it."""
    async with probing(scene) as probe:
        await probe.say(
            probe.head("POST", [CHUNKED])
            + write.chunk(b"hello", size=scene.variant["size"])
            + write.last_chunk()
            + probe.smuggled()
        )
        await probe.outcome(may_wait=True)
        probe.judge(
            "RFC9112-7.1-1",
            {
                "400": "4xx or close",
                "413": "4xx or close",
                "4xx": "4xx or close",
                "closed": "4xx or close",
                "waits": "edge waits",
            },
            expected="a refusal, or an unfinished body at the upstream",
            partial=True,
        )


@case(
    "http-chunked-03",
    checks=["RFC9112-7.1-4", "HTTP-HDR-016"],
    publish=http(),
    over={"end": ("one-octet-more", "missing", "lf")},
)
async def test_chunk_data_ends_with_crlf(scene: Scene) -> None:
    """Chunk data without CRLF right behind its declared end is refused, or read in one way and framed anew.

    Behind a bare LF nothing follows: for an engine that takes it as the end of a line it would be an ordinary request.
    """
    data_end = {"one-octet-more": b"X\r\n", "missing": b"", "lf": b"\n"}[scene.variant["end"]]
    async with probing(scene) as probe:
        await probe.say(
            probe.head("POST", [CHUNKED])
            + write.chunk(b"hello", data_end=data_end)
            + write.last_chunk()
            + (b"" if scene.variant["end"] == "lf" else probe.smuggled())
        )
        await probe.outcome()
        probe.judge_framing(None, "RFC9112-7.1-4")
        probe.judge(
            "RFC9112-7.1-4",
            {"400": "400 or close", "4xx": "400 or close", "closed": "400 or close", "relayed": "one consistent"},
            expected="400 or close, or one consistent reading",
            partial=True,
        )


@case(
    "http-chunked-04",
    checks=["RFC9112-7.1-5"],
    publish=http(),
    over={"stops": ("after-a-chunk", "after-the-last-chunk")},
)
async def test_a_chunked_request_without_its_end(scene: Scene) -> None:
    """A chunked request is complete only behind the zero chunk and the empty line: before, the upstream has no end.

    The client ends the connection at that point.
    """
    rest = write.chunk(b"hello") + (b"0\r\n" if scene.variant["stops"] == "after-the-last-chunk" else b"")
    await unfinished(scene, [CHUNKED], rest, "RFC9112-7.1-5", "unfinished or aborted")


@case("http-chunked-05", checks=["RFC9112-6.1-1"], publish=http(), over={"chunks": ("one-octet", "64-kib")})
async def test_chunked_bodies_both_ways(scene: Scene) -> None:
    """Chunked content arrives whole and unchanged in both directions, whatever the size of the chunks."""
    content = scene.nonce() * 16
    size = 1 if scene.variant["chunks"] == "one-octet" else 65536
    content = content if size == 1 else content * 1024
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    client, upstream, nonce = await scene.http_client(), scene.http_upstream(), scene.nonce().hex()
    sending = client.request("POST", f"/{nonce}", nonce=nonce, chunks=chunks)

    async def serve() -> bytes:
        request = await upstream.request(nonce)
        got = await request.body()
        await request.respond(200, chunks=chunks)
        return got

    _, got = await scene.both(sending, serve())
    response = await client.response()
    same = got == content and response.complete and response.body == content
    scene.expect(
        "RFC9112-6.1-1",
        same,
        expected=f"the same {len(content)} octets at both far sides",
        actual=f"{len(got)} octets at the upstream, {response.describe()} at the client",
        branch="content identical",
    )


@case("http-chunked-06", checks=["RFC9112-7.1.1-1"], publish=http())
async def test_chunk_extensions_are_ignored(scene: Scene) -> None:
    """Chunk extensions that nobody knows are ignored: the content arrives whole."""
    async with probing(scene) as probe:
        chunk = write.chunk(b"hello", extension=';a=b;c="d;e"')
        await probe.say(probe.head("POST", [CHUNKED]) + chunk + write.last_chunk(extension=";z"))
        await probe.outcome()
        arrived = probe.kind == "relayed" and probe.alone(b"hello")
        probe.expect("RFC9112-7.1.1-1", arrived, expected="`hello` as the content at the upstream")


@case(
    "http-chunked-07",
    checks=["RFC9112-7.1.1-3", "HTTP-HDR-016"],
    publish=http(),
    over={"extension": ("bare-lf", "bare-cr", "lf-for-crlf")},
)
async def test_no_line_end_inside_a_chunk_extension(scene: Scene) -> None:
    """A bare LF or CR in a chunk extension, which another parser takes for the end of the line, is refused.

    Or the chunks go on encoded anew, without the extension and with one reading.
    """
    hidden = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    line = {
        "bare-lf": b"2;\nxx\r\n",
        "bare-cr": b"2;\rxx\r\n",
        "lf-for-crlf": b"2;xx\n",
    }[scene.variant["extension"]]
    async with probing(scene) as probe:
        chunks = line + b"xx\r\n" + write.chunk(hidden) + write.last_chunk()
        await probe.say(probe.head("POST", [CHUNKED]) + chunks)
        await probe.outcome()
        probe.judge(
            "RFC9112-7.1.1-3",
            {"400": "400 or close", "4xx": "400 or close", "closed": "400 or close", "relayed": "re-encoded chunks"},
            expected="400 or close, or chunks encoded anew",
            partial=True,
        )
        anew = probe.kind != "relayed" or (probe.clean() and not any(c.extension for c in probe.request.chunks))
        for requirement in ("HTTP-HDR-016", "RFC9112-7.1.1-3"):
            probe.expect(requirement, anew, expected="a refusal, or one well-framed request without the extension")


@case("http-chunked-08", checks=["RFC9112-7.1.1-2"], publish=http())
async def test_chunk_extensions_are_limited(scene: Scene) -> None:
    """The total length of chunk extensions ought to be limited: 4 MiB of them for 256 octets of content."""
    async with probing(scene) as probe:
        flood = write.chunk(b"x", extension=";" + "a" * 16384) * 256
        await probe.say(probe.head("POST", [CHUNKED]) + flood + write.last_chunk())
        await probe.outcome()
        probe.judge(
            "RFC9112-7.1.1-2",
            {
                "400": "4xx, close",
                "413": "4xx, close",
                "4xx": "4xx, close",
                "431": "4xx, close",
                "closed": "close without",
                "relayed": "content relayed",
            },
            expected="a 4xx or a close",
            partial=True,
        )


@case("http-chunked-09", checks=["RFC9112-7.1.2-2", "RFC9112-7.1.2-1"], publish=http())
async def test_a_trailer_stays_out_of_the_header_section(scene: Scene) -> None:
    """A trailer field arrives as a trailer or not at all, never among the header fields."""
    async with probing(scene) as probe:
        await probe.say(probe.wire("POST", chunks=[b"hello"], trailers=[("X-Auth-User", "admin")]))
        await probe.outcome()
        intact = probe.kind == "relayed" and probe.alone(b"hello") and probe.request.get("x-auth-user") is None
        kept = bool(probe.requests) and probe.request.trailers == [("X-Auth-User", "admin")]
        branch = "trailer relayed" if kept else "trailer dropped"
        probe.expect("RFC9112-7.1.2-2", intact, expected="X-Auth-User as a trailer or nowhere", branch=branch)
        scene.record("RFC9112-7.1.2-1", branch)


TRAILERS = {
    "content-length": ("Content-Length", "0"),
    "transfer-encoding": ("Transfer-Encoding", "gzip"),
    "host": ("Host", "evil.test"),
    "authorization": ("Authorization", "Bearer evil"),
    "x-forwarded-for": ("X-Forwarded-For", "192.0.2.1"),
    "cookie": ("Cookie", "evil=1"),
}


@case(
    "http-chunked-10",
    checks=["RFC9112-7.1.2-3", "RFC9110-6.5.1-1"],
    publish=http(),
    over={"field": tuple(TRAILERS)},
)
async def test_trailers_change_nothing(scene: Scene) -> None:
    """A trailer named like a framing, routing or authentication field changes neither headers nor framing.

    It is dropped, relayed as a trailer, or the request is refused.
    """
    name, value = TRAILERS[scene.variant["field"]]
    async with probing(scene) as probe:
        await probe.say(probe.wire("POST", chunks=[b"hello"], trailers=[(name, value)]))
        await probe.outcome()
        refused = dict.fromkeys(("400", "4xx", "501", "closed"), "request refused")
        if probe.kind in refused:
            probe.judge("RFC9112-7.1.2-3", refused, expected="a refusal", partial=True)
            probe.judge("RFC9110-6.5.1-1", refused, expected="a refusal", partial=True)
            return
        intact = probe.alone(b"hello") and not any(value in said for said in probe.request.get_all(name))
        branch = "trailers relayed" if probe.requests and probe.request.trailers else "trailers dropped"
        expected = f"no `{name}: {value}` among the header fields, and the content alone"
        probe.expect("RFC9112-7.1.2-3", intact, expected=expected, branch=branch)
        probe.expect("RFC9110-6.5.1-1", intact, expected=expected, branch=branch)


@case("http-chunked-11", checks=["RFC9112-7.1-2"], publish=http())
async def test_a_parameter_on_chunked(scene: Scene) -> None:
    """`chunked;a=b` should be refused; ignoring the parameter is recorded."""
    async with probing(scene) as probe:
        fields = [("Transfer-Encoding", "chunked;a=b")]
        await probe.say(probe.head("POST", fields) + write.chunk(b"hello") + write.last_chunk())
        await probe.outcome()
        probe.judge(
            "RFC9112-7.1-2",
            {"400": "400 or 501", "501": "400 or 501", "relayed": "parameter ignored"},
            expected="400 or 501",
        )
        whole = not probe.requests or probe.alone(b"hello")
        probe.expect("RFC9112-7.1-2", whole, expected="400 or 501, or the content `hello` alone at the upstream")
