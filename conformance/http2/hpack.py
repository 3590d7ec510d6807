"""Header compression on a client's connection, said and looked at by hand (RFC 7541, RFC 9113 section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping

from conformance.http2._faults import BAD_BLOCKS, Fault, in_block
from conformance.http2._steps import H2, connection_error, dangling, works
from conformance.http2.streams import served_or_closed
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import Response
from harness.peer.http2 import Http2Client
from harness.peer.http_upstream import HttpUpstream
from harness.scene import Scene
from harness.wire.http2 import Field, Setting, blocks, frames
from harness.wire.http2.blocks import Representation


def _faults(row: str) -> tuple[str, ...]:
    return tuple(name for name, fault in BAD_BLOCKS.items() if fault.row == row)


async def _bad_block(scene: Scene) -> None:
    fault: Fault = BAD_BLOCKS[scene.variant["fault"]]
    said = frames.headers(1, in_block(fault), end=True)
    await connection_error(scene, fault.row, said, allowed=fault.end)


@case("h2-hpack-01", checks=["RFC7541-5.1-1"], publish=http(), features=H2, over={"fault": _faults("RFC7541-5.1-1")})
async def test_integers_beyond_measure(scene: Scene) -> None:
    """A string of 2^40 octets, and an index of twenty continuation octets, cannot be decoded (RFC 7541 section 5.1)."""
    await _bad_block(scene)


@case("h2-hpack-02", checks=["RFC7541-2.3.3-1"], publish=http(), features=H2, over={"fault": ("index-200",)})
async def test_an_index_beyond_the_tables(scene: Scene) -> None:
    """Index 200 on a fresh connection cannot be decoded (RFC 7541 section 2.3.3)."""
    await _bad_block(scene)


@case("h2-hpack-03", checks=["RFC7541-6.1-1"], publish=http(), features=H2, over={"fault": ("index-0",)})
async def test_index_0(scene: Scene) -> None:
    """Index 0 cannot be decoded (RFC 7541 section 6.1)."""
    await _bad_block(scene)


@case("h2-hpack-04", checks=["RFC7541-5.2-1"], publish=http(), features=H2, over={"fault": _faults("RFC7541-5.2-1")})
async def test_huffman_codes_that_cannot_be(scene: Scene) -> None:
    """Huffman padding of 8 bits, of zeros, and the symbol EOS cannot be decoded (RFC 7541 section 5.2)."""
    await _bad_block(scene)


@case("h2-hpack-05", checks=["RFC7541-6.3-1"], publish=http(), features=H2, over={"fault": ("update-65536",)})
async def test_a_table_beyond_the_limit(scene: Scene) -> None:
    """A table size update to 65536, where the edge allows 4096, cannot be decoded (RFC 7541 section 6.3)."""
    await _bad_block(scene)


@case("h2-hpack-06", checks=["RFC9113-4.3-2"], publish=http(), features=H2, over={"fault": _faults("RFC9113-4.3-2")})
async def test_a_block_that_ends_too_early(scene: Scene) -> None:
    """A field block that ends inside a string cannot be decoded (RFC 9113 section 4.3)."""
    await _bad_block(scene)


LONG = "v" * 200
"""A value that pays to be kept in a table."""
_TO: Mapping[str, tuple[int, ...]] = {"zero": (0,), "zero-and-back": (0, 4096)}


@case(
    "h2-hpack-07",
    checks=["RFC9113-4.3.1-1", "RFC7541-4.2-1"],
    publish=http(),
    features=H2,
    over={"size": tuple(_TO)},
)
async def test_the_edge_follows_a_smaller_table(scene: Scene) -> None:
    """Once SETTINGS has made the client's table smaller, the next block begins with an update, and refers to nothing
    that is gone.

    Three responses with the same long field fill the edge's table. An edge that never uses it is recorded (RFC 9113
    section 4.3.1, RFC 7541 section 4.2).
    """
    rows = ("RFC9113-4.3.1-1", "RFC7541-4.2-1")
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    used = False
    with scene.judging(*rows, ends=True):
        for _ in range(3):
            used = any(item.kind == "incremental" for item in await _response_block(scene, client, upstream)) or used
        for size in _TO[scene.variant["size"]]:
            client.say(frames.settings([(Setting.HEADER_TABLE_SIZE, size)]))
        await client.acknowledged()
        told = await _response_block(scene, client, upstream)
    said = ", ".join(f"{item.kind} {item.index}" for item in told)
    updates = [item.index for item in told if item.kind == "update"]
    if not used and not updates:
        scene.allow(rows[0], "table never used: no size update")
        scene.allow(rows[1], "table never used and no update")
        return
    first = told[0].kind == "update" and told[0].index == 0
    scene.expect(
        rows[0],
        first and not dangling(told),
        expected="an update to 0 first",
        actual=said,
        branch="size update to 0 first",
    )
    scene.expect(rows[1], first, expected="the smallest size first", actual=said, branch="update to 0, then optionally")


async def _response_block(scene: Scene, client: Http2Client, upstream: HttpUpstream) -> list[Representation]:
    """The representations of the block of a response with the long field."""
    nonce = scene.nonce().hex()
    exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
    await (await upstream.request(nonce)).respond(200, [("x-long", LONG)])
    response = await exchange.response()
    if response.get("x-long") != LONG:
        scene.depart("RFC9113-4.3.1-1", expected="the response's field", actual=response.describe())
    return blocks.read_block(exchange.sections[0].block)


@case("h2-hpack-08", checks=["RFC7541-2.1-1", "RFC7541-2.3.2-1"], publish=http(), features=H2)
async def test_order_and_duplicates(scene: Scene) -> None:
    """Fields keep their order in both directions, and the same field may be in the table twice.

    Repeated, interleaved fields; one that is entered twice, then both entries by their index (RFC 7541 sections 2.1 and
    2.3.2).
    """
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    twice = blocks.literal(b"x-twice", b"1", "incremental")
    mixed = [("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-b", "4"), ("x-a", "5")]
    said = [(field.name, field.value) for field in client.request_fields("GET", f"/{nonce}", mixed, nonce=nonce)]
    block = blocks.block(said) + twice + twice + blocks.indexed(62) + blocks.indexed(63)
    stream = client.open_stream()
    with scene.judging("RFC7541-2.3.2-1", "RFC7541-2.1-1", ends=True):
        client.say(client.headers(stream, [Field(*pair) for pair in said], block=block, end=True))
        request = await upstream.request(nonce)
        await request.respond(200, mixed)
        response = await client.exchange(stream).response()
    both = request.get_all("x-twice")
    scene.expect("RFC7541-2.3.2-1", both == ["1"] * 4, expected="x-twice four times", actual=f"{both}")
    kept = _named(request.headers), _named(response.headers)
    scene.expect("RFC7541-2.1-1", kept == (mixed, mixed), expected=f"{mixed}", actual=f"{kept}")


def _named(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in fields if name.lower() in ("x-a", "x-b")]


@case("h2-hpack-09", checks=["RFC9113-10.5.1-1"], publish=http(), features=H2)
async def test_a_section_above_the_limit_still_counts(scene: Scene) -> None:
    """A header section of 200,000 octets that enters a field into the table: refused or not, a request that refers to
    that field is right at the upstream, or the connection ends (RFC 9113 section 10.5.1)."""
    row = "RFC9113-10.5.1-1"
    upstream, client = scene.http_upstream(), await scene.http_client(version="h2")
    await works(scene, client, upstream)
    value, large = scene.nonce().hex(), scene.nonce().hex()
    late = blocks.literal(b"x-late", value.encode(), "incremental")
    begun = [(field.name, field.value) for field in client.request_fields("GET", f"/{large}", nonce=large)]
    filler = blocks.block([(b"x-filler-%d" % number, b"f" * 1000) for number in range(200)])
    stream = client.open_stream()
    client.say(client.headers(stream, [Field(*p) for p in begun], block=blocks.block(begun) + late + filler, end=True))
    nonce = scene.nonce().hex()
    again = client.open_stream()
    plain = [(field.name, field.value) for field in client.request_fields("GET", f"/{nonce}", nonce=nonce)]
    block = blocks.block(plain) + blocks.indexed(62)
    client.say(client.headers(again, [Field(*pair) for pair in plain], block=block, end=True))
    await served_or_closed(scene, client, upstream, nonce, again, value, (row,))
    if client.over or client.wire.goaways:
        return
    seen = upstream.seen(large)
    with scene.judging(row, ends=True):
        if seen:
            whole = len(seen[0].get_all("x-late")) == 1 and len(seen[0].headers) >= 200
            scene.expect(row, whole, expected="the section, whole", actual=f"{len(seen[0].headers)} fields")
            return
        got = await client.exchange(stream).outcome()
        refused = isinstance(got, Response) and 400 <= got.status < 500
        branch = "431 or another 4xx" if isinstance(got, Response) else "RST_STREAM, then"
        fine = refused or not isinstance(got, Response)
        scene.expect(row, fine, expected="431, or a reset", actual=str(got), branch=branch)
