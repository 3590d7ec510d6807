"""Every illegal thing that a script can say is seen by our own reader, with its section and code; and by aioquic's
where that looks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.wire.http3 import (
    CancelPushFrame,
    DataFrame,
    ErrorCode,
    Frame,
    GoawayFrame,
    HeadersFrame,
    Http3Connection,
    Http3Options,
    MaxPushIdFrame,
    PriorityUpdateFrame,
    PushPromiseFrame,
    SettingsFrame,
    StreamType,
    UnknownFrame,
)
from harness.wire.http3.qpack import (
    Indexed,
    InsertCountIncrement,
    Literal,
    Section,
    SectionAcknowledgment,
    SetCapacity,
    literal_section,
)
from harness.wire.quic.codec import varint
from tests.http3_wire_support import OK, POST, REQUEST, Other, Pair, ids

E = ErrorCode
Say = Callable[[Http3Connection], None]


def on_request(*frames: Frame | bytes, fin: bool = False) -> Say:
    return lambda wire: wire.say(0, frames, fin=fin)


def request(fields: Sequence[tuple[bytes, bytes]], *more: Frame | bytes, fin: bool = True) -> Say:
    return on_request(HeadersFrame(literal_section(fields)), *more, fin=fin)


def with_field(name: bytes, value: bytes = b"x") -> Say:
    return request([*REQUEST, (name, value)])


def on_control(*frames: Frame | bytes, fin: bool = False) -> Say:
    return lambda wire: wire.say(wire.ours[StreamType.CONTROL], frames, fin=fin)


def on_new(kind: int, data: bytes = b"", *, fin: bool = False) -> Say:
    return lambda wire: wire.write(ids(wire.is_client)() + 40, varint(kind) + data, fin=fin)


def end_of(kind: StreamType) -> Say:
    return lambda wire: wire.write(wire.ours[kind], b"", fin=True)


def instruct(kind: StreamType, *what: Any) -> Say:
    return lambda wire: wire.instruct(what, kind=kind)


def nothing(_: Http3Connection) -> None:
    """The option says it all."""


@dataclass(frozen=True)
class Row:
    """One illegal thing: what says it, the section and code that our reader names; `aioquic` False where aioquic does
    not look for it (or names another code: that one)."""

    name: str
    say: Say
    section: str
    code: int
    options: dict[str, Any] = field(default_factory=dict)
    aioquic: bool | int = True


HEAD = HeadersFrame(literal_section(POST))
CLIENT = [
    # Section 4.1: the order of frames
    Row("data first", on_request(DataFrame(b"x"), HEAD), "9114 section 4.1", E.H3_FRAME_UNEXPECTED),
    Row("data behind trailers", on_request(HEAD, HeadersFrame(literal_section([(b"t", b"1")])), DataFrame(b"x")),
        "9114 section 4.1", E.H3_FRAME_UNEXPECTED),
    Row("headers behind trailers", on_request(HEAD, *[HeadersFrame(literal_section([(b"t", b"1")]))] * 2),
        "9114 section 4.1", E.H3_FRAME_UNEXPECTED),
    Row("no request", on_request(fin=True), "9114 section 4.1", E.H3_REQUEST_INCOMPLETE, aioquic=False),
    Row("transfer-encoding", with_field(b"transfer-encoding", b"chunked"), "9114 section 4.1", E.H3_MESSAGE_ERROR),
    # Section 4.1.2, 4.2, 10.3: malformed messages
    Row("content too short", request([*POST, (b"content-length", b"5")], DataFrame(b"abc")), "9114 section 4.1.2",
        E.H3_MESSAGE_ERROR),
    Row("content too long", request([*POST, (b"content-length", b"5")], DataFrame(b"abcdefgh")), "9114 section 4.1.2",
        E.H3_MESSAGE_ERROR),
    Row("content-length that does not count", with_field(b"content-length", b"+5"), "9114 section 4.1.2",
        E.H3_MESSAGE_ERROR),
    Row("upper case", with_field(b"X-A"), "9114 section 4.2", E.H3_MESSAGE_ERROR),
    Row("connection", with_field(b"connection", b"close"), "9114 section 4.2", E.H3_MESSAGE_ERROR),
    Row("upgrade", with_field(b"upgrade"), "9114 section 4.2", E.H3_MESSAGE_ERROR),
    Row("te", with_field(b"te", b"gzip"), "9114 section 4.2", E.H3_MESSAGE_ERROR),
    Row("space in a name", with_field(b"a b"), "9114 section 10.3", E.H3_MESSAGE_ERROR),
    Row("empty name", with_field(b""), "9114 section 10.3", E.H3_MESSAGE_ERROR, aioquic=E.QPACK_DECOMPRESSION_FAILED),
    Row("line feed in a value", with_field(b"a", b"b\nc"), "9114 section 10.3", E.H3_MESSAGE_ERROR),
    Row("NUL in a value", with_field(b"a", b"b\0c"), "9114 section 10.3", E.H3_MESSAGE_ERROR),
    Row("padded value", with_field(b"a", b" b"), "9110 section 5.5", E.H3_MESSAGE_ERROR),
    # Section 4.3: pseudo-header fields
    Row("unknown pseudo", request([*REQUEST, (b":foo", b"x")]), "9114 section 4.3", E.H3_MESSAGE_ERROR),
    Row("status in a request", request([*REQUEST, (b":status", b"200")]), "9114 section 4.3", E.H3_MESSAGE_ERROR),
    Row("pseudo behind a field", request([*REQUEST[:3], (b"a", b"b"), REQUEST[3]]), "9114 section 4.3",
        E.H3_MESSAGE_ERROR),
    Row("pseudo in trailers", request(POST, HeadersFrame(literal_section([(b":path", b"/")]))), "9114 section 4.3",
        E.H3_MESSAGE_ERROR),
    Row("method twice", request([*REQUEST, REQUEST[0]]), "9114 section 4.3.1", E.H3_MESSAGE_ERROR),
    Row("no method", request(REQUEST[1:]), "9114 section 4.3.1", E.H3_MESSAGE_ERROR),
    Row("no scheme", request([REQUEST[0], *REQUEST[2:]]), "9114 section 4.3.1", E.H3_MESSAGE_ERROR, aioquic=False),
    Row("no path", request(REQUEST[:3]), "9114 section 4.3.1", E.H3_MESSAGE_ERROR),
    Row("empty path", request([*REQUEST[:3], (b":path", b"")]), "9114 section 4.3.1", E.H3_MESSAGE_ERROR),
    Row("space in the path", request([*REQUEST[:3], (b":path", b"/ x")]), "9114 section 4.3.1", E.H3_MESSAGE_ERROR,
        aioquic=False),
    Row("no authority", request([*REQUEST[:2], REQUEST[3]]), "9114 section 4.3.1", E.H3_MESSAGE_ERROR),
    Row("userinfo", request([*REQUEST[:2], (b":authority", b"u:p@a.test"), REQUEST[3]]), "9114 section 4.3.1",
        E.H3_MESSAGE_ERROR, aioquic=False),
    Row("another host", with_field(b"host", b"b.test"), "9114 section 4.3.1", E.H3_MESSAGE_ERROR, aioquic=False),
    Row("connect with a path", request([(b":method", b"CONNECT"), *REQUEST[2:]]), "9114 section 4.4",
        E.H3_MESSAGE_ERROR, aioquic=False),
    # Section 6.2: streams
    Row("second control stream", nothing, "9114 section 6.2.1", E.H3_STREAM_CREATION_ERROR,
        {"streams": (0, 0, 2, 3)}),
    Row("second encoder stream", nothing, "9204 section 4.2", E.H3_STREAM_CREATION_ERROR, {"streams": (0, 2, 2, 3)}),
    Row("second decoder stream", nothing, "9204 section 4.2", E.H3_STREAM_CREATION_ERROR, {"streams": (0, 2, 3, 3)}),
    Row("push from a client", on_new(1), "9114 section 6.2.2", E.H3_STREAM_CREATION_ERROR),
    Row("end of the control stream", end_of(StreamType.CONTROL), "9114 section 6.2.1", E.H3_CLOSED_CRITICAL_STREAM),
    Row("end of the encoder stream", end_of(StreamType.QPACK_ENCODER), "9204 section 4.2",
        E.H3_CLOSED_CRITICAL_STREAM, aioquic=False),
    Row("no settings first", nothing, "9114 section 6.2.1", E.H3_MISSING_SETTINGS,
        {"first_frames": GoawayFrame(0).encode()}),
    Row("reserved frame first", nothing, "9114 section 6.2.1", E.H3_MISSING_SETTINGS,
        {"first_frames": UnknownFrame(0x21).encode()}),
    # Section 7: frames
    Row("truncated frame", request(POST, DataFrame(b"hello", 10)), "9114 section 7.1", E.H3_FRAME_ERROR),
    Row("half a pair", nothing, "9114 section 7.1", E.H3_FRAME_ERROR, {"settings_frame": b"\x04\x01\x06"}),
    Row("goaway with a tail", on_control(b"\x07\x02\x00\x00"), "9114 section 7.1", E.H3_FRAME_ERROR, aioquic=False),
    Row("empty max_push_id", on_control(b"\x0d\x00"), "9114 section 7.1", E.H3_FRAME_ERROR),
    Row("data on control", on_control(DataFrame(b"x")), "9114 section 7.2.1", E.H3_FRAME_UNEXPECTED),
    Row("headers on control", on_control(HEAD), "9114 section 7.2.2", E.H3_FRAME_UNEXPECTED),
    Row("cancel_push of nothing", on_control(CancelPushFrame(7)), "9114 section 7.2.3", E.H3_ID_ERROR, aioquic=False),
    Row("cancel_push on a request", on_request(CancelPushFrame(7)), "9114 section 7.2.3", E.H3_FRAME_UNEXPECTED),
    Row("settings twice", on_control(SettingsFrame()), "9114 section 7.2.4", E.H3_FRAME_UNEXPECTED),
    Row("settings on a request", on_request(SettingsFrame()), "9114 section 7.2.4", E.H3_FRAME_UNEXPECTED),
    Row("setting twice", nothing, "9114 section 7.2.4", E.H3_SETTINGS_ERROR, {"settings": ((6, 10), (6, 10))}),
    *(
        Row(f"HTTP/2 setting {number}", nothing, "9114 section 7.2.4.1", E.H3_SETTINGS_ERROR,
            {"settings": ((number, 0),)})
        for number in (0, 2, 3, 4, 5)
    ),
    Row("connect protocol 2", nothing, "8441 section 3", E.H3_SETTINGS_ERROR, {"settings": ((8, 2),)}),
    Row("promise from a client", on_request(PushPromiseFrame(0, b"\0\0")), "9114 section 7.2.5",
        E.H3_FRAME_UNEXPECTED),
    Row("promise on control", on_control(PushPromiseFrame(0, b"\0\0")), "9114 section 7.2.5", E.H3_FRAME_UNEXPECTED),
    Row("goaway on a request", on_request(GoawayFrame(0)), "9114 section 7.2.6", E.H3_FRAME_UNEXPECTED),
    Row("goaway rises", on_control(GoawayFrame(4), GoawayFrame(8)), "9114 section 5.2", E.H3_ID_ERROR, aioquic=False),
    Row("max_push_id on a request", on_request(MaxPushIdFrame(1)), "9114 section 7.2.7", E.H3_FRAME_UNEXPECTED),
    Row("max_push_id falls", on_control(MaxPushIdFrame(4)), "9114 section 7.2.7", E.H3_ID_ERROR, {"max_push_id": 8}),
    Row("priority on a request", on_request(PriorityUpdateFrame(0)), "9218 section 7.2", E.H3_FRAME_UNEXPECTED,
        aioquic=False),
    *(
        Row(f"HTTP/2 frame {kind} on {where}", place(UnknownFrame(kind, bytes(4))), "9114 section 7.2.8",
            E.H3_FRAME_UNEXPECTED, aioquic=False)
        for kind in (0x02, 0x06, 0x08, 0x09)
        for where, place in (("control", on_control), ("a request", on_request))
    ),
    # RFC 9204
    Row("capacity above the limit", instruct(StreamType.QPACK_ENCODER, SetCapacity(1 << 20)), "9204 section 4.3.1",
        E.QPACK_ENCODER_STREAM_ERROR),
    Row("acknowledgment of nothing", instruct(StreamType.QPACK_DECODER, SectionAcknowledgment(0)),
        "9204 section 4.4.1", E.QPACK_DECODER_STREAM_ERROR),
    Row("increment of nothing", instruct(StreamType.QPACK_DECODER, InsertCountIncrement(1)), "9204 section 4.4.3",
        E.QPACK_DECODER_STREAM_ERROR),
    Row("no such static entry", on_request(HeadersFrame(Section((Indexed(200),)).encode())), "9204 section 2.2.3",
        E.QPACK_DECOMPRESSION_FAILED),
    Row("no such dynamic entry", on_request(HeadersFrame(Section((Indexed(0, False),)).encode())),
        "9204 section 2.2.3", E.QPACK_DECOMPRESSION_FAILED),
    Row("insert count without a table", on_request(HeadersFrame(Section((Literal(b"a", b"b"),), 5).encode())),
        "9204 section 4.5.1.1", E.QPACK_DECOMPRESSION_FAILED, aioquic=False),
    Row("broken section", on_request(HeadersFrame(b"\0\0\x23")), "9204 section 2.2", E.QPACK_DECOMPRESSION_FAILED),
]  # fmt: skip

SERVER = [
    Row("no status", request([(b"a", b"b")]), "9114 section 4.3.2", E.H3_MESSAGE_ERROR),
    Row("status twice", request([*OK, *OK]), "9114 section 4.3.2", E.H3_MESSAGE_ERROR),
    Row("a broken status", request([(b":status", b"2x0")]), "9114 section 4.3.2", E.H3_MESSAGE_ERROR),
    Row("101", request([(b":status", b"101")]), "9114 section 4.5", E.H3_MESSAGE_ERROR),
    Row("path in a response", request([*OK, (b":path", b"/")]), "9114 section 4.3", E.H3_MESSAGE_ERROR),
    Row("two final responses", request(OK, HeadersFrame(literal_section(OK))), "9114 section 4.1",
        E.H3_MESSAGE_ERROR),
    Row("no final response", request([(b":status", b"103")]), "9114 section 4.1", E.H3_MESSAGE_ERROR),
    Row("content too short", request([*OK, (b"content-length", b"5")], DataFrame(b"abc")), "9114 section 4.1.2",
        E.H3_MESSAGE_ERROR),
    Row("goaway for no request", on_control(GoawayFrame(3)), "9114 section 7.2.6", E.H3_ID_ERROR, aioquic=False),
    Row("goaway rises", on_control(GoawayFrame(4), GoawayFrame(8)), "9114 section 5.2", E.H3_ID_ERROR, aioquic=False),
    Row("max_push_id from a server", on_control(MaxPushIdFrame(1)), "9114 section 7.2.7", E.H3_FRAME_UNEXPECTED),
    Row("promise that nobody granted", on_request(PushPromiseFrame(0, b"\0\0")), "9114 section 7.2.5",
        E.H3_ID_ERROR, aioquic=False),
    Row("push that nobody granted", on_new(1, b"\0"), "9114 section 4.6", E.H3_ID_ERROR, aioquic=False),
    Row("a server's stream", lambda wire: wire.write(1, b""), "9114 section 6.1", E.H3_STREAM_CREATION_ERROR,
        aioquic=False),
]  # fmt: skip


def _ids(row: Row) -> str:
    return row.name


@pytest.mark.parametrize("row", CLIENT, ids=_ids)
def test_what_a_client_breaks_is_seen(row: Row) -> None:
    pair = Pair(client=Http3Options(**row.options))
    pair.run()
    row.say(pair.client.wire)
    pair.run()
    found = [(each.section, each.code) for each in pair.server.violations]
    assert (row.section, row.code) in found
    fatal = [each for each in pair.server.violations if each.fatal]
    assert pair.server.wire.close_due == (fatal[0] if fatal else None)
    assert pair.client.violations == []


@pytest.mark.parametrize("row", SERVER, ids=_ids)
def test_what_a_server_breaks_is_seen(row: Row) -> None:
    pair = Pair(server=Http3Options(**row.options))
    pair.client.wire.remember(0, REQUEST)
    pair.client.wire.say(0, [pair.client.wire.headers_frame(0, REQUEST)], fin=True)
    pair.run()
    row.say(pair.server.wire)
    pair.run()
    assert (row.section, row.code) in [(each.section, each.code) for each in pair.client.violations]
    assert pair.server.violations == []


def _seen_by_aioquic(ends: Other, row: Row) -> None:
    row.say(ends.ours.wire)
    ends.run()
    found = {ends.below.closed, *ends.below.resets.values()}
    if row.aioquic is False:
        return
    assert (row.code if row.aioquic is True else row.aioquic) in found


@pytest.mark.parametrize("row", [row for row in CLIENT if row.aioquic is not False], ids=_ids)
def test_what_a_client_breaks_is_seen_by_aioquic(row: Row) -> None:
    ends = Other(Http3Options(**row.options), ours_is_client=True)
    ends.run()
    _seen_by_aioquic(ends, row)


@pytest.mark.parametrize("row", [row for row in SERVER if row.aioquic is not False], ids=_ids)
def test_what_a_server_breaks_is_seen_by_aioquic(row: Row) -> None:
    ends = Other(Http3Options(**row.options), ours_is_client=False)
    ends.h3.send_headers(0, list(REQUEST), True)
    ends.run()
    _seen_by_aioquic(ends, row)


@pytest.mark.parametrize("role", ["client", "server"])
def test_what_is_legal_breaks_nothing(role: str) -> None:
    pair = Pair(Http3Options(max_push_id=3, max_field_section_size=100, connect_protocol=True, datagrams=True))
    pair.run()
    client, server = pair.client.wire, pair.server.wire
    client.say(client.ours[StreamType.CONTROL], [PriorityUpdateFrame(0, b"u=1"), GoawayFrame(0), MaxPushIdFrame(9)])
    server.say(server.ours[StreamType.CONTROL], [GoawayFrame(8), GoawayFrame(4), CancelPushFrame(2)])
    for wire in (client, server):
        on_new(0x21, b"grease", fin=True)(wire)
    fields = [*POST, (b"te", b"trailers"), (b"host", b"a.test"), (b"content-length", b"0"), (b"empty", b"")]
    client.remember(0, tuple(fields))
    client.say(0, [client.headers_frame(0, fields), client.headers_frame(0, [])], fin=True)
    pair.run()
    server.say(0, [server.headers_frame(0, [*OK, (b"x", b"a, b; c=\xe9")]), UnknownFrame(0x3FFF, b"x" * 500)], fin=True)
    pair.run()
    assert {"client": pair.client, "server": pair.server}[role].violations == []


def test_a_broken_stream_leaves_the_others() -> None:
    pair = Pair()
    wire = pair.client.wire
    wire.say(0, [HeadersFrame(literal_section([*REQUEST, (b"X", b"y")]))], fin=True)
    wire.say(4, [wire.headers_frame(4, REQUEST)], fin=True)
    pair.run()
    assert [each.stream_id for each in pair.server.violations] == [0]
    assert [each.stream_id for each in pair.server.heads("request")] == [0, 4]
    assert pair.server.wire.close_due is None
