"""QPACK from a client, by hand: sections and instructions that cannot be, and what the edge itself says (RFC 9204)."""

from __future__ import annotations

from conformance.http3._steps import (
    ask,
    behind,
    connected,
    down_case,
    end_of,
    ends_connection,
    is_refusal,
    judge_close,
    nothing_there,
    on_stream,
    outcome,
    settled,
    told,
    works,
)
from harness.errors import PeerMismatch
from harness.peer.http import ExchangeEnd, Response
from harness.peer.http3 import Http3Client
from harness.scene import Scene
from harness.wire.http3 import DataFrame, ErrorCode, HeadersFrame, SettingId, StreamType
from harness.wire.http3.qpack import (
    Duplicate,
    Indexed,
    Insert,
    InsertByName,
    InsertCountIncrement,
    Instruction,
    Literal,
    NamedByIndex,
    Representation,
    Section,
    SectionAcknowledgment,
    SetCapacity,
    StreamCancellation,
    integer,
    literal_section,
    read_section,
)

E = ErrorCode
ENTRY_OVERHEAD = 32
"""What an entry counts beside its octets (RFC 9204 section 3.2.1)."""
LARGEST = (1 << 62) - 1
NO_TABLE = "the edge offers no dynamic table"


async def capacity(client: Http3Client) -> int:
    """The dynamic table that the edge offers its clients, in octets."""
    return (await client.settings()).get(SettingId.QPACK_MAX_TABLE_CAPACITY) or 0


async def blocking(client: Http3Client) -> int:
    """How many streams may wait for the table."""
    return (await client.settings()).get(SettingId.QPACK_BLOCKED_STREAMS) or 0


def encoded_count(count: int, size: int) -> int:
    """A Required Insert Count as the prefix has it (RFC 9204 section 4.5.1.1)."""
    entries = size // ENTRY_OVERHEAD
    return 0 if count == 0 else count % (2 * entries) + 1


def section(lines: list[Representation], fields: list[tuple[bytes, bytes]], *, count: int = 0) -> bytes:
    """A section of literals for `fields` and of `lines`; `count` is the encoded insert count, the delta of the base
    0."""
    literals: list[Representation] = [Literal(name, value) for name, value in fields]
    return Section((*literals, *lines), count, 0, False).encode()


# Sections


@down_case(
    "h3-qpack-01",
    ["RFC9204-7.4-1"],
    over={"where": ("section-length", "section-index", "section-overflow", "encoder", "decoder")},
)
async def test_lengths_and_numbers_beyond_everything(scene: Scene) -> None:
    """A string of 2^62-1 octets, an index as large, or an integer that overflows: an error of the stream or of the
    connection, and nothing at the upstream (B-e)."""
    row, where = "RFC9204-7.4-1", scene.variant["where"]
    client = await connected(scene)
    if where in ("encoder", "decoder"):
        kind = StreamType.QPACK_ENCODER if where == "encoder" else StreamType.QPACK_DECODER
        first = 0x40 if where == "encoder" else 0x80
        client.say(client.wire.ours[kind], integer(1 << 63, 5 if where == "encoder" else 7, first))
        end = await end_of(client)
        closed = end is not None and end.code is not None
        actual = "the connection goes on" if end is None else end.said
        scene.expect(row, closed, expected="CONNECTION_CLOSE", actual=actual, branch="encoder or decoder stream")
    else:
        tails = {
            "section-length": b"\x23x-a" + integer(LARGEST, 7) + b"short",
            "section-index": integer(LARGEST, 6, 0xC0),
            "section-overflow": b"\x23x-a" + integer(1 << 70, 7) + b"short",
        }
        octets = literal_section(ask(client, scene.nonce().hex())) + tails[where]
        stream = await on_stream(client, HeadersFrame(octets), fin=True)
        _judge_limit(scene, row, await outcome(client, client.exchange(stream)))
    await settled(scene, client)
    await nothing_there(scene, row)


def _judge_limit(scene: Scene, row: str, got: Response | ExchangeEnd | None) -> None:
    if isinstance(got, ExchangeEnd):
        scene.allow(row, "CONNECTION_CLOSE, any code" if got.kind == "connection" else "request stream: stream abort")
    else:
        scene.expect(row, is_refusal(got), expected="an error", actual=told(got), branch="HTTP error response")


@down_case("h3-qpack-02", ["RFC9204-3.1-1"], over={"where": ("section", "name", "encoder")})
async def test_entries_that_the_static_table_does_not_have(scene: Scene) -> None:
    """Index 99 of the static table, in a section or in an instruction, ends the connection (B-e)."""
    where = scene.variant["where"]

    async def say(client: Http3Client) -> None:
        if where == "encoder":
            client.instruct(InsertByName(99, b"x"))
            return
        fields = ask(client, scene.nonce().hex())
        line = Indexed(99) if where == "section" else _named(99)
        await on_stream(client, HeadersFrame(section([line], fields)), fin=True)

    named = E.QPACK_ENCODER_STREAM_ERROR if where == "encoder" else E.QPACK_DECOMPRESSION_FAILED
    first = "CONNECTION_CLOSE with QPACK_DECOMPRESSION_FAILED"
    await ends_connection(scene, say, "RFC9204-3.1-1", named, first=first)


def _named(index: int) -> Representation:
    return NamedByIndex(index, b"value")


@down_case("h3-qpack-03", ["RFC9204-2.2.3-1"], over={"line": ("indexed", "post-base", "beyond")})
async def test_entries_that_the_dynamic_table_does_not_have(scene: Scene) -> None:
    """A reference to an entry that was never inserted ends the connection (B-e)."""
    lines = {"indexed": Indexed(0, False), "post-base": Indexed(0, False, True), "beyond": Indexed(5000, False)}

    async def say(client: Http3Client) -> None:
        fields = ask(client, scene.nonce().hex())
        await on_stream(client, HeadersFrame(section([lines[scene.variant["line"]]], fields)), fin=True)

    await ends_connection(scene, say, "RFC9204-2.2.3-1", E.QPACK_DECOMPRESSION_FAILED)


@down_case("h3-qpack-04", ["RFC9204-4.5.1.1-1"])
async def test_an_insert_count_that_cannot_be(scene: Scene) -> None:
    """An encoded insert count that no table gives ends the connection (B-e): above twice the entries that fit."""

    async def say(client: Http3Client) -> None:
        count = 2 * (await capacity(client) // ENTRY_OVERHEAD) + 1
        octets = section([], ask(client, scene.nonce().hex()), count=count + 1)
        await on_stream(client, HeadersFrame(octets), fin=True)

    await ends_connection(scene, say, "RFC9204-4.5.1.1-1", E.QPACK_DECOMPRESSION_FAILED)


@down_case("h3-qpack-05", ["RFC9204-4.1.1-1"], over={"integer": ("long-form", "beyond-62-bits")})
async def test_integers_of_many_octets(scene: Scene) -> None:
    """A length in nine octets is understood where it is in range, and refused beyond 62 bits (B-c)."""
    row = "RFC9204-4.1.1-1"
    client = await connected(scene)
    nonce = scene.nonce().hex()
    head = literal_section(ask(client, nonce))
    value = b"v" * 200
    if scene.variant["integer"] == "beyond-62-bits":
        stream = await on_stream(client, HeadersFrame(head + b"\x23x-a" + integer(1 << 64, 7) + value), fin=True)
        got = await outcome(client, client.exchange(stream))
        scene.expect(row, is_refusal(got), expected="a refusal", actual=told(got))
        await settled(scene, client)
        await nothing_there(scene, row)
        return
    rest = len(value) - 127
    long_form = bytes([127, rest & 0x7F | 0x80, *[0x80] * 6, 0x00])
    stream = await on_stream(client, HeadersFrame(head + b"\x23x-a" + long_form + value), fin=True)
    with scene.judging(row):
        request = await behind(scene).request(nonce)
        came = request.get("x-a") or ""
        scene.expect(row, came == value.decode(), expected="the value", actual=f"{len(came)} octets")
        await request.respond(200)
        await client.exchange(stream).response()


# Instructions


async def _instruction_ends(
    scene: Scene, row: str, named: int, *instructions: Instruction, kind: StreamType = StreamType.QPACK_ENCODER
) -> None:
    async def say(client: Http3Client) -> None:
        client.instruct(*instructions, kind=kind)

    await ends_connection(scene, say, row, named)


async def _table(scene: Scene, row: str) -> int:
    """The capacity that the edge offers; without one the row is not run, and gives 0."""
    size = await capacity(await connected(scene))
    if size < 2 * ENTRY_OVERHEAD:
        scene.not_run(row, NO_TABLE)
        return 0
    return size


@down_case("h3-qpack-06", ["RFC9204-4.3.1-1"])
async def test_a_capacity_above_the_limit(scene: Scene) -> None:
    """Set Dynamic Table Capacity above what the edge announced ends the connection (B-e)."""
    size = await capacity(await connected(scene))
    await _instruction_ends(scene, "RFC9204-4.3.1-1", E.QPACK_ENCODER_STREAM_ERROR, SetCapacity(size + 1))


@down_case("h3-qpack-07", ["RFC9204-3.2.2-1"])
async def test_an_entry_larger_than_the_table(scene: Scene) -> None:
    """An insertion that does not fit the table's capacity ends the connection (B-e)."""
    row = "RFC9204-3.2.2-1"
    if await _table(scene, row):
        more = (SetCapacity(2 * ENTRY_OVERHEAD), Insert(b"x-large", b"v" * 2 * ENTRY_OVERHEAD))
        await _instruction_ends(scene, row, E.QPACK_ENCODER_STREAM_ERROR, *more)


@down_case("h3-qpack-08", ["RFC9204-2.2.3-2"], over={"instruction": ("duplicate", "name")})
async def test_an_instruction_with_an_evicted_entry(scene: Scene) -> None:
    """A duplicate of, or an insertion with the name of, an entry that was evicted ends the connection (B-e)."""
    row = "RFC9204-2.2.3-2"
    size = await _table(scene, row)
    if size:
        room = SetCapacity(2 * ENTRY_OVERHEAD)
        inserts = [Insert(b"a%d" % number, b"v" * 20) for number in range(3)]
        last = Duplicate(2) if scene.variant["instruction"] == "duplicate" else InsertByName(2, b"v", False)
        await _instruction_ends(scene, row, E.QPACK_ENCODER_STREAM_ERROR, room, *inserts, last)


@down_case("h3-qpack-09", ["RFC9204-4.4.1-1"])
async def test_an_acknowledgment_of_nothing(scene: Scene) -> None:
    """A Section Acknowledgment for a stream with no section outstanding ends the connection (B-e)."""
    ack = SectionAcknowledgment(400)
    await _instruction_ends(scene, "RFC9204-4.4.1-1", E.QPACK_DECODER_STREAM_ERROR, ack, kind=StreamType.QPACK_DECODER)


@down_case("h3-qpack-10", ["RFC9204-4.4.3-1"], over={"increment": ("zero", "beyond")})
async def test_an_increment_of_nothing(scene: Scene) -> None:
    """An Insert Count Increment of 0, or beyond what the edge has inserted, ends the connection (B-e)."""
    increment = InsertCountIncrement(0 if scene.variant["increment"] == "zero" else 1000)
    await _instruction_ends(
        scene, "RFC9204-4.4.3-1", E.QPACK_DECODER_STREAM_ERROR, increment, kind=StreamType.QPACK_DECODER
    )


# The edge's dynamic table


async def _with_entries(scene: Scene, row: str, *entries: Insert) -> tuple[Http3Client, int] | None:
    """A client whose entries are in the edge's table, and its size; without a table the row is not run."""
    client = await connected(scene)
    size = await capacity(client)
    if size < 4 * ENTRY_OVERHEAD:
        scene.not_run(row, NO_TABLE)
        return None
    client.instruct(SetCapacity(size), *entries)
    return client, size


ENTRY = Insert(b"x-entry", b"from the table")


@down_case("h3-qpack-11", ["RFC9204-2.2.1-2"])
async def test_an_insert_count_that_is_too_small(scene: Scene) -> None:
    """A section that refers to an entry behind its own Required Insert Count ends the connection (B-e)."""
    row = "RFC9204-2.2.1-2"
    made = await _with_entries(scene, row, ENTRY, Insert(b"x-second", b"too far"))
    if made is None:
        return
    client, size = made
    lines: list[Representation] = [Indexed(1, False, True)]
    octets = section(lines, ask(client, scene.nonce().hex()), count=encoded_count(1, size))
    # Base 0: a delta of 0 with the sign is one below the insert count.
    octets = octets[:1] + b"\x80" + octets[2:]
    await on_stream(client, HeadersFrame(octets), fin=True)
    judge_close(scene, row, await end_of(client), E.QPACK_DECOMPRESSION_FAILED)
    await scene.settle()
    await nothing_there(scene, row)


def _waiting(client: Http3Client, nonce: str, size: int, *, count: int = 1, method: bytes = b"POST") -> HeadersFrame:
    """HEADERS that need the first entry of the table, counted from base 0."""
    octets = section(
        [Indexed(count - 1, False, True)], ask(client, nonce, method=method), count=encoded_count(count, size)
    )
    return HeadersFrame(octets[:1] + integer(count - 1, 7, 0x80) + octets[2:])


@down_case("h3-qpack-12", ["RFC9204-2.1.2-2"])
async def test_more_blocked_streams_than_allowed(scene: Scene) -> None:
    """One stream more than the edge lets wait for its table ends the connection (B-e)."""
    row = "RFC9204-2.1.2-2"
    client = await connected(scene)
    size, allowed = await capacity(client), await blocking(client)
    parameters = client.quic.remote_parameters
    if parameters is not None and parameters.initial_max_streams_bidi <= allowed:
        scene.not_run(row, "no more streams are allowed than may wait")
        return
    for _ in range(allowed + 1):
        if client.quic.ended is None:
            await on_stream(client, _waiting(client, scene.nonce().hex(), size or 4096), fin=True)
    judge_close(scene, row, await end_of(client), E.QPACK_DECOMPRESSION_FAILED)
    await scene.settle()
    await nothing_there(scene, row)


@down_case("h3-qpack-13", ["RFC9204-2.2.1-1", "RFC9204-2.2-1", "RFC9204-2.2.2.1-1"])
async def test_a_stream_that_waits_for_the_table(scene: Scene) -> None:
    """A stream whose section needs an entry that did not come waits: what is sent behind it gets no new credit, and
    others proceed; once the entry is there the request arrives whole and in order, and its section is acknowledged."""
    rows = ("RFC9204-2.2.1-1", "RFC9204-2.2-1", "RFC9204-2.2.2.1-1")
    client = await connected(scene)
    size = await capacity(client)
    if size < 4 * ENTRY_OVERHEAD or not await blocking(client):
        for row in rows:
            scene.not_run(row, NO_TABLE)
        return
    nonce = scene.nonce().hex()
    stream = await on_stream(client, _waiting(client, nonce, size))
    limit = client.quic.wire.send_limit(stream)
    content = b"x" * (limit - 2000)
    client.say(stream, DataFrame(content))
    with scene.judging("RFC9204-2.2.1-1"):
        await client.ping()
        await works(scene, client)
    await settled(scene, client)
    credit = client.quic.wire.send_limit(stream)
    scene.expect("RFC9204-2.2.1-1", credit == limit, expected=f"credit up to {limit}", actual=f"up to {credit}")
    client.instruct(SetCapacity(size), ENTRY)
    client.data(stream, b"", end=True)
    with scene.judging("RFC9204-2.2-1"):
        request = await behind(scene).request(nonce)
        body = await request.body()
        last = request.headers[-1][0].lower() if request.headers else ""
        whole = request.get("x-entry") == "from the table" and body == content
        actual = f"x-entry {request.get('x-entry')!r}, {len(body)} octets, last field {last}"
        scene.expect("RFC9204-2.2-1", whole, expected="the entry and all of the content", actual=actual)
        await request.respond(200)
        await client.exchange(stream).response()
    wanted = SectionAcknowledgment(stream)
    with scene.judging("RFC9204-2.2.2.1-1"):
        came = await client.until(lambda: ("decoder", wanted) in client.instructions, "a Section Acknowledgment")
        scene.expect("RFC9204-2.2.2.1-1", came, expected=str(wanted), actual=f"{list(client.instructions)}")


@down_case("h3-qpack-14", ["RFC9204-2.2.2.2-1"])
async def test_a_blocked_stream_that_is_reset(scene: Scene) -> None:
    """A stream that waits for the table and is reset is cancelled at the encoder, and later requests work."""
    row = "RFC9204-2.2.2.2-1"
    client = await connected(scene)
    size = await capacity(client)
    if size < 4 * ENTRY_OVERHEAD or not await blocking(client):
        scene.not_run(row, NO_TABLE)
        return
    stream = await on_stream(client, _waiting(client, scene.nonce().hex(), size))
    await client.ping()
    client.reset_stream(stream)
    wanted = StreamCancellation(stream)
    with scene.judging(row):
        came = await client.until(lambda: ("decoder", wanted) in client.instructions, "a Stream Cancellation")
        scene.expect(row, came, expected=str(wanted), actual=f"{list(client.instructions)}")
        await works(scene, client)
    await settled(scene, client)
    await nothing_there(scene, row)


# What the edge's encoder says

LINES = [("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("accept", "*/*"), ("x-a", "4"), ("x-b", "5")]


@down_case("h3-qpack-15", ["RFC9204-2.1-1", "RFC9204-2.2-1"], over={"leg": ("request", "response")})
async def test_lines_keep_their_order(scene: Scene) -> None:
    """Lines with the same name, literal and from the static table, keep their order in either direction."""
    client = await connected(scene)
    nonce = scene.nonce().hex()
    request_lines = LINES if scene.variant["leg"] == "request" else []
    with scene.judging("RFC9204-2.1-1", "RFC9204-2.2-1"):
        sent = await client.begin("GET", f"/{nonce}", request_lines, nonce=nonce)
        request = await behind(scene).request(nonce)
        await request.respond(200, [] if request_lines else LINES)
        response = await sent.response()
        found = request.headers if request_lines else response.headers
        for row in ("RFC9204-2.1-1", "RFC9204-2.2-1"):
            for name in ("x-a", "x-b"):
                values = [value for known, value in found if known.lower() == name]
                wanted = [value for known, value in LINES if known == name]
                scene.expect(row, values == wanted, expected=f"{name}: {wanted}", actual=f"{values}")


@down_case("h3-qpack-16", ["RFC9204-2.1.2-1", "RFC9204-3.2.3-1"], over={"client": ("no-table", "no-blocking")})
async def test_the_edge_respects_the_clients_table(scene: Scene) -> None:
    """A client without a dynamic table gets no insertions and no references to one; a client that lets no stream wait,
    and acknowledges nothing, gets no section that needs an entry."""
    has_table = scene.variant["client"] == "no-blocking"
    client = await connected(scene, table_capacity=4096 if has_table else 0, acknowledge_sections=False)
    rows = ("RFC9204-2.1.2-1", "RFC9204-3.2.3-1")
    with scene.judging(*rows):
        for _ in range(3):
            nonce = scene.nonce().hex()
            sent = await client.begin("GET", f"/{nonce}", nonce=nonce)
            request = await behind(scene).request(nonce)
            await request.respond(200, [("x-same", "again and again"), ("server", "upstream")])
            response = await sent.response()
            if response.get("x-same") != "again and again":
                raise PeerMismatch("the response's fields", told(response))
    counts = [read_section(each.section).insert_count for each in client.frames if isinstance(each, HeadersFrame)]
    inserted = [each for kind, each in client.instructions if kind == "encoder" and not isinstance(each, SetCapacity)]
    scene.expect("RFC9204-2.1.2-1", not any(counts), expected="no section that may wait", actual=f"{counts}")
    fits = has_table or not inserted
    scene.expect("RFC9204-3.2.3-1", fits, expected="no insertions", actual=f"{inserted}")
