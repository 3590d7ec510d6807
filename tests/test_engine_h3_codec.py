"""The engine's HTTP/3 codec without any I/O: what a peer may say, what it may not, and with which error that ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pylsqpack
import pytest
from aioquic.h3.connection import ErrorCode, parse_settings
from hpack import NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from reference_engine.http import h3_qpack
from reference_engine.http.events import Data, End, InformationalHead, RequestHead, ResponseHead
from reference_engine.http.h3_connection import Heard, Malformed
from reference_engine.http.rules import HttpRules
from tests.engine_h3_support import (
    CANCEL_PUSH,
    DATA,
    DECODER,
    ENCODER,
    GET,
    GOAWAY,
    HEADERS,
    MAX_PUSH_ID,
    OK,
    POST,
    PUSH_PROMISE,
    SETTINGS,
    Codec,
    client,
    fault,
    frame,
    headers,
    number,
    section,
    server,
)

GREASE = 0x1F * 7 + 0x21


# -- what is said first ------------------------------------------------------------------------------------------------


def test_settings_come_first_and_say_what_the_engine_does() -> None:
    codec = Codec(header_bytes=9_000, table_capacity=512, blocked_streams=3)
    said = codec.sent(3)
    assert said[:2] == b"\x00\x04"
    assert parse_settings(said[3:]) == {1: 512, 7: 3, 6: 9_000, 0x21: 1}
    assert (codec.sent(7), codec.sent(11)) == (ENCODER, DECODER)


def test_a_client_allows_no_push() -> None:
    codec = Codec(client=True)
    assert codec.sent(2)[1:2] == b"\x04"
    assert number(MAX_PUSH_ID) + b"\x01" not in codec.sent(2)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_becomes_events() -> None:
    codec = server()
    fields = [*POST, (b"content-length", b"5"), (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]
    octets = headers(fields) + frame(DATA, b"he") + frame(GREASE, b"zz") + frame(DATA, b"llo") + headers([(b"t", b"1")])
    head, *rest = codec.take(0, octets, True)
    assert head == RequestHead(
        b"POST", b"/", [(b"content-length", b"5"), (b"x", b"y"), (b"cookie", b"a=1; b=2")], b"3.0", b"a.t.edge.test"
    )
    assert rest == [Data(b"he"), Data(b"llo"), End([(b"t", b"1")])]
    assert codec.close is None


@given(st.lists(st.integers(1, 40), max_size=12))
def test_a_request_is_the_same_wherever_it_is_split(cuts: list[int]) -> None:
    octets = headers([*POST, (b"content-length", b"9")]) + frame(DATA, b"abc") + frame(GREASE, b"x" * 70)
    octets += frame(DATA) + frame(DATA, b"defghi") + headers([(b"t", b"1"), (b"u", b"2")]) + frame(GREASE)
    codec = server()
    heard: list[Heard] = []
    at = 0
    for size in cuts:
        heard += codec.take(0, octets[at : at + size], False)
        at += size
    heard += codec.take(0, octets[at:], True)
    assert codec.close is None
    assert isinstance(heard[0], RequestHead)
    assert b"".join(event.data for event in heard if isinstance(event, Data)) == b"abcdefghi"
    assert heard[-1] == End([(b"t", b"1"), (b"u", b"2")])


def test_host_stands_for_the_authority() -> None:
    (head, _) = server().take(
        0, headers([*(line for line in GET if line[0] != b":authority"), (b"host", b"h.test")]), True
    )
    assert isinstance(head, RequestHead)
    assert head.authority == b"h.test"


def test_a_connect_names_host_and_port() -> None:
    (head, _) = server().take(0, headers([(b":method", b"CONNECT"), (b":authority", b"db.test:5432")]), True)
    assert isinstance(head, RequestHead)
    assert (head.method, head.target, head.authority) == (b"CONNECT", b"db.test:5432", b"db.test:5432")


def but(name: bytes, *values: bytes) -> list[tuple[bytes, bytes]]:
    """GET with these values of one pseudo-header field instead."""
    return list(chain.from_iterable([(name, one) for one in values] if line[0] == name else [line] for line in GET))


MALFORMED_REQUESTS = {
    "upper case": [*GET, (b"X-Up", b"1")],
    "space in a name": [*GET, (b"a b", b"1")],
    "colon in a name": [*GET, (b"a:b", b"1")],
    "octet above 127 in a name": [*GET, (b"a\xff", b"1")],
    "CR in a value": [*GET, (b"a", b"b\rc")],
    "LF in a value": [*GET, (b"a", b"b\nc: d")],
    "NUL in a value": [*GET, (b"a", b"b\x00")],
    "control octet in a value": [*GET, (b"a", b"b\x01c")],
    "space in front of a value": [*GET, (b"a", b" b")],
    "tab behind a value": [*GET, (b"a", b"b\t")],
    "LF in :path": but(b":path", b"/a\nb"),
    "space in :path": but(b":path", b"/a b"),
    "fragment in :path": but(b":path", b"/a#b"),
    "empty :path": but(b":path", b""),
    "relative :path": but(b":path", b"a"),
    "no :path": but(b":path"),
    "two :path": but(b":path", b"/", b"/b"),
    "* without OPTIONS": but(b":path", b"*"),
    "no :method": but(b":method"),
    "two :method": but(b":method", b"GET", b"POST"),
    "bad :method": but(b":method", b"GE T"),
    "no :scheme": but(b":scheme"),
    "two :scheme": but(b":scheme", b"https", b"https"),
    "bad :scheme": but(b":scheme", b"ht tps"),
    "no authority": but(b":authority"),
    "empty authority": but(b":authority", b""),
    "empty authority beside host": [*but(b":authority", b""), (b"host", b"a.test")],
    "userinfo": but(b":authority", b"u:p@a.t.edge.test"),
    "host differs": [*GET, (b"host", b"other.test")],
    "two hosts": [*GET, (b"host", b"a.t.edge.test"), (b"host", b"a.t.edge.test")],
    "undefined pseudo-header": [(b":foo", b"1"), *GET],
    ":status": [*GET, (b":status", b"200")],
    ":protocol": [*GET, (b":protocol", b"websocket")],
    "late pseudo-header": [*GET[:-1], (b"a", b"b"), GET[-1]],
    "connection": [*GET, (b"connection", b"close")],
    "keep-alive": [*GET, (b"keep-alive", b"1")],
    "proxy-connection": [*GET, (b"proxy-connection", b"close")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "upgrade": [*GET, (b"upgrade", b"websocket")],
    "te": [*GET, (b"te", b"gzip")],
    "te with more": [*GET, (b"te", b"trailers, gzip")],
    "content-length +5": [*GET, (b"content-length", b"+5")],
    "content-length 1_0": [*GET, (b"content-length", b"1_0")],
    "content-length twice": [*GET, (b"content-length", b"1"), (b"content-length", b"2")],
    "content-length and none": [*GET, (b"content-length", b"3")],
    "CONNECT with :path": [(b":method", b"CONNECT"), (b":authority", b"a.test:1"), (b":path", b"/")],
    "CONNECT without port": [(b":method", b"CONNECT"), (b":authority", b"a.test")],
}


@pytest.mark.parametrize("name", MALFORMED_REQUESTS)
def test_a_malformed_request_ends_its_stream_alone(name: str) -> None:
    codec = server()
    heard = codec.take(0, headers(MALFORMED_REQUESTS[name]), True)
    assert fault(heard) == 400
    if name != "content-length and none":
        assert len(heard) == 1
    assert codec.close is None
    assert isinstance(codec.take(4, headers(GET), True)[0], RequestHead)


def test_an_empty_name_does_not_decode() -> None:
    codec = server()
    assert codec.take(0, frame(HEADERS, section(GET) + h3_qpack._literal(b"", b"1")), True) == []
    assert codec.code == ErrorCode.QPACK_DECOMPRESSION_FAILED


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(frame(DATA, b"123456"), id="too much"),
        pytest.param(frame(DATA, b"123") + frame(DATA, b"456"), id="too much in two frames"),
        pytest.param(frame(DATA, b"1234"), id="too little"),
        pytest.param(
            frame(DATA, b"12345") + headers([(b"a", b"b"), (b"content-length", b"5"), (b"X", b"")]), id="trailer"
        ),
        pytest.param(frame(DATA, b"12345") + headers([(b":path", b"/")]), id="pseudo-header in a trailer section"),
    ],
)
def test_content_that_is_malformed_ends_its_stream(octets: bytes) -> None:
    codec = server()
    heard = codec.take(0, headers([*POST, (b"content-length", b"5")]) + octets, True)
    assert fault(heard) == 400
    assert isinstance(heard[-1], Malformed)
    assert codec.close is None


def test_too_much_content_is_found_out_before_the_end() -> None:
    codec = server()
    codec.take(0, headers([*POST, (b"content-length", b"5")]) + frame(DATA, b"123"))
    assert fault(codec.take(0, number(DATA) + number(100) + b"456")) == 400


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        pytest.param(frame(DATA, b"x"), ErrorCode.H3_FRAME_UNEXPECTED, id="DATA first"),
        pytest.param(
            headers(GET) + headers([(b"a", b"b")]) + frame(DATA, b"x"),
            ErrorCode.H3_FRAME_UNEXPECTED,
            id="DATA behind trailers",
        ),
        pytest.param(
            headers(GET) + headers([(b"a", b"b")]) + headers([(b"a", b"b")]),
            ErrorCode.H3_FRAME_UNEXPECTED,
            id="HEADERS behind trailers",
        ),
        *(
            pytest.param(headers(GET) + frame(kind, b"\x01"), ErrorCode.H3_FRAME_UNEXPECTED, id=f"frame {kind:#x}")
            for kind in (CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID, 0x2, 0x6, 0x8, 0x9)
        ),
        pytest.param(headers(GET) + number(DATA) + number(10) + b"12345", ErrorCode.H3_FRAME_ERROR, id="cut DATA"),
        pytest.param(headers(GET)[:-1], ErrorCode.H3_FRAME_ERROR, id="cut HEADERS"),
        pytest.param(headers(GET) + b"\x40", ErrorCode.H3_FRAME_ERROR, id="cut frame header"),
        pytest.param(frame(HEADERS, b"\x00\x00\xff\x80\x01"), ErrorCode.QPACK_DECOMPRESSION_FAILED, id="static index"),
        pytest.param(frame(HEADERS, b"\x00\x00\x80"), ErrorCode.QPACK_DECOMPRESSION_FAILED, id="dynamic index"),
        pytest.param(frame(HEADERS), ErrorCode.QPACK_DECOMPRESSION_FAILED, id="no section"),
        pytest.param(
            frame(HEADERS, b"\x00\x00\x27" + b"\xff" * 8 + b"\x7f"),
            ErrorCode.QPACK_DECOMPRESSION_FAILED,
            id="long string",
        ),
    ],
)
def test_a_frame_that_cannot_be_ends_the_connection(octets: bytes, code: int) -> None:
    codec = server()
    codec.take(0, octets, True)
    assert codec.code == code
    assert codec.take(4, headers(GET), True) == []


@pytest.mark.parametrize("octets", [b"", frame(GREASE, b"abc"), frame(GREASE)])
def test_a_stream_without_a_request_is_reset(octets: bytes) -> None:
    codec = server()
    assert codec.take(0, octets, True) == []
    assert (codec.resets, codec.close) == ({0: ErrorCode.H3_REQUEST_INCOMPLETE}, None)


def test_frames_of_webtransport_are_unknown_ones() -> None:
    codec = server()
    heard = codec.take(0, headers(GET) + frame(0x41, b"\x00\x00") + frame(DATA, b"x"), True)
    assert heard[1:] == [Data(b"x"), End()]


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([(b"a%d" % n, b"") for n in range(21)], id="too many"),
        pytest.param([(b"a", b"%d" % n * 50) for n in range(10)] * 2, id="too large"),
        pytest.param([(b"a", bytes(range(128, 192)) * 20)], id="too large a frame"),
    ],
)
def test_a_section_above_the_limits_is_refused_and_nothing_else(fields: list[tuple[bytes, bytes]]) -> None:
    codec = server(header_bytes=1_000, header_count=20)
    heard = codec.take(0, headers([*GET, *fields]) + frame(DATA, b"x"), False)
    assert [fault([event]) for event in heard] == [431]
    assert codec.close is None
    assert isinstance(codec.take(4, headers([*GET, *((b"a%d" % n, b"") for n in range(16))]), True)[0], RequestHead)


def test_a_section_that_becomes_too_many_lines_is_not_decoded() -> None:
    codec = server(header_count=20)
    codec.take(0, frame(HEADERS, b"\x00\x00" + b"\xd1" * 1_000_0))
    assert fault([event for _, event in codec.heard]) == 431
    assert codec.close is None


def test_a_trailer_section_has_a_limit_of_its_own() -> None:
    codec = server(trailer_bytes=100)
    codec.take(0, headers(GET))
    assert fault(codec.take(0, headers([(b"a", b"x" * 200)]), True)) == 431
    assert codec.close is None


# -- QPACK -------------------------------------------------------------------------------------------------------------


def dynamic(*sections: list[tuple[bytes, bytes]]) -> tuple[bytes, list[bytes]]:
    """Octets of an encoder stream, and the sections, of an encoder that uses the dynamic table."""
    encoder = pylsqpack.Encoder()
    stream = encoder.apply_settings(max_table_capacity=4_096, blocked_streams=16)
    encoded = []
    for at, fields in enumerate(sections):
        octets, one = encoder.encode(at * 4, fields)
        stream += octets
        encoded.append(bytes(one))
    return bytes(stream), encoded


def test_a_blocked_stream_goes_on_when_the_table_is_there() -> None:
    fields = [*GET, (b"x-a", b"v" * 30)]
    instructions, sections = dynamic(fields, fields, fields)
    codec = server()
    for at, one in enumerate(sections):
        codec.take(at * 4, frame(HEADERS, one), True)
    waiting = [stream for stream in (0, 4, 8) if codec.h3.blocked(stream)]
    assert waiting
    before = len(codec.heard)
    codec.take(6, instructions)
    assert {stream for stream, event in codec.heard[before:] if isinstance(event, RequestHead)} == set(waiting)
    assert not any(codec.h3.blocked(stream) for stream in waiting)
    assert len(codec.sent(11)) > 1, "no acknowledgement"


def test_a_blocked_stream_that_is_given_up_is_cancelled() -> None:
    fields = [*GET, (b"x-a", b"v" * 30)]
    instructions, sections = dynamic(fields, fields, fields)
    blocked = next(at for at, one in enumerate(sections) if one[0])
    codec = server()
    codec.take(blocked * 4, frame(HEADERS, sections[blocked]), True)
    codec.h3.forget(blocked * 4)
    assert codec.sent(11)[1:] == bytes([0x40 | blocked * 4])
    codec.take(6, instructions)
    assert (codec.heard, codec.close) == ([], None)


@pytest.mark.parametrize(
    ("stream", "octets", "code"),
    [
        (6, b"\x3f\xe2\x1f", ErrorCode.QPACK_ENCODER_STREAM_ERROR),  # a capacity of 4097
        (6, b"\x00", ErrorCode.QPACK_ENCODER_STREAM_ERROR),  # a duplicate of nothing
        (10, b"\x84", ErrorCode.QPACK_DECODER_STREAM_ERROR),  # an acknowledgement of nothing
        (10, b"\x01", ErrorCode.QPACK_DECODER_STREAM_ERROR),  # an increment beyond what was sent
        (10, b"\x00", ErrorCode.QPACK_DECODER_STREAM_ERROR),  # an increment of none
    ],
)
def test_errors_of_qpack_streams(stream: int, octets: bytes, code: int) -> None:
    codec = server()
    codec.take(stream, octets)
    assert codec.code == code


def test_our_encoder_leaves_the_table_of_the_peer_alone() -> None:
    codec = Codec()
    codec.settle({1: 1 << 40, 7: 1 << 30})
    codec.take(0, headers(GET), True)
    for _ in range(3):
        codec.h3.send_response(0, [(b":status", b"103"), (b"x-a", b"v" * 100)])
    assert codec.sent(7) == ENCODER


def test_a_literal_that_must_stay_one_does() -> None:
    secret = h3_qpack._literal(b"authorization", b"s3cret")
    codec = server()
    (head, _) = codec.take(0, frame(HEADERS, section(GET) + secret + section([(b"a", b"b")])[2:]), True)
    assert isinstance(head, RequestHead)
    assert [isinstance(line, NeverIndexedHeaderTuple) for line in head.fields] == [True, False]
    far = client()
    far.h3.send_request(4, HttpRules().request_lines(head), head.method)
    assert secret in far.sent(4)


@given(st.binary(max_size=60))
def test_no_section_breaks_the_walk(octets: bytes) -> None:
    try:
        count, literal = h3_qpack.walk(octets, 10)
    except h3_qpack.MalformedSection:
        return
    assert count <= 11
    assert all(place < count for place in literal)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"cookie", b":path", b"x-long-name"]), st.binary(max_size=300))))
def test_every_line_of_a_section_is_counted(fields: list[tuple[bytes, bytes]]) -> None:
    assert h3_qpack.walk(section(fields), 1_000) == (len(fields), frozenset())


# -- responses ---------------------------------------------------------------------------------------------------------


def test_a_response_becomes_events() -> None:
    codec = client()
    octets = headers([(b":status", b"103"), (b"link", b"x")]) + headers([*OK, (b"content-length", b"3")])
    heard = codec.take(0, octets + frame(DATA, b"abc") + headers([(b"t", b"1")]), True)
    assert heard == [
        InformationalHead(103, [(b"link", b"x")]),
        ResponseHead(200, [(b"content-length", b"3")]),
        Data(b"abc"),
        End([(b"t", b"1")]),
    ]


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", b"200"), (b"GET", b"304"), (b"GET", b"204")])
def test_a_response_without_content_may_name_a_length(method: bytes, status: bytes) -> None:
    codec = client(method)
    assert codec.take(0, headers([(b":status", status), (b"content-length", b"3")]), True)[1:] == [End()]
    codec = client(method)
    assert fault(codec.take(0, headers([(b":status", status)]) + frame(DATA, b"abc"), True)) == 400


MALFORMED_RESPONSES = {
    "no :status": [(b"a", b"b")],
    "two :status": [*OK, *OK],
    "bad :status": [(b":status", b"2x0")],
    "short :status": [(b":status", b"20")],
    "101": [(b":status", b"101")],
    "600": [(b":status", b"600")],
    ":path": [*OK, (b":path", b"/")],
    "upper case": [*OK, (b"A", b"b")],
    "LF": [*OK, (b"a", b"b\nc")],
    "connection": [*OK, (b"connection", b"close")],
    "transfer-encoding": [*OK, (b"transfer-encoding", b"chunked")],
    "te": [*OK, (b"te", b"gzip")],
    "late :status": [(b"a", b"b"), *OK],
    "content-length": [*OK, (b"content-length", b"x")],
}


@pytest.mark.parametrize("name", MALFORMED_RESPONSES)
def test_a_malformed_response_ends_its_stream_alone(name: str) -> None:
    codec = client()
    heard = codec.take(0, headers(MALFORMED_RESPONSES[name]), True)
    assert len(heard) == 1
    assert fault(heard) is not None
    assert codec.close is None


def test_interim_responses_are_bounded() -> None:
    codec = client()
    heard = codec.take(0, headers([(b":status", b"103")]) * 102)
    assert len(heard) == 101
    assert fault(heard[-1:]) == 502


# -- what is written ---------------------------------------------------------------------------------------------------


def test_both_codecs_understand_each_other() -> None:
    near, far = client(b"POST"), Codec()
    far.take(2, near.sent(2))
    near.h3.send_request(4, [*POST, (b"a", b"b")], b"POST")
    near.h3.send_content(4, b"abc")
    near.h3.send_end(4, [(b"t", b"1")])
    heard = far.take(4, near.sent(4), True)
    assert heard == [
        RequestHead(b"POST", b"/", [(b"a", b"b")], b"3.0", b"a.t.edge.test"),
        Data(b"abc"),
        End([(b"t", b"1")]),
    ]
    far.h3.send_response(4, [(b":status", b"103")])
    far.h3.send_response(4, [*OK, (b"a", b"b")])
    far.h3.send_content(4, b"x")
    far.h3.send_end(4, [])
    assert near.take(4, far.sent(4), True) == [
        InformationalHead(103, []),
        ResponseHead(200, [(b"a", b"b")]),
        Data(b"x"),
        End(),
    ]


def test_goaway_never_rises() -> None:
    codec = server()
    for one in (8, 12, 4):
        codec.h3.goaway(one)
    assert codec.sent(3).endswith(frame(GOAWAY, b"\x08") + frame(GOAWAY, b"\x04"))


def test_the_end_of_a_message_joins_what_is_in_front_of_it() -> None:
    codec = server()
    codec.take(0, headers(GET), True)
    codec.h3.send_response(0, OK)
    codec.h3.send_end(0, [])
    commands = codec.h3.commands
    assert [command.fin for command in commands if hasattr(command, "fin")] == [True]


def test_an_asterisk_of_http_1_1_goes_without_authority() -> None:
    head = RequestHead(b"OPTIONS", b"*", [], b"1.1", b"a.test")
    lines = [(b":method", b"OPTIONS"), (b":path", b"*"), (b":authority", b"a.test")]
    assert HttpRules().asterisk_lines(head, lines) == [*lines[:2], (b"host", b"a.test")]
    assert HttpRules().asterisk_lines(replace(head, version=b"3.0"), lines) == lines
    assert HttpRules().asterisk_lines(replace(head, target=b"/"), lines) == lines


# -- whatever a peer says ----------------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.binary(max_size=30),
    st.builds(frame, st.sampled_from([0, 1, 3, 4, 5, 7, 0xD, 0x21, 0x41, 0x6]), st.binary(max_size=20)),
    st.builds(
        headers, st.lists(st.tuples(st.sampled_from([b":path", b"a", b"te"]), st.binary(max_size=5)), max_size=4)
    ),
    st.just(headers(GET)),
    st.just(headers(OK)),
)


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from([0, 4, 8, 2, 6, 10, 14, 3, 7, 11, 15]), PIECES, st.sampled_from(["", "fin", "reset"])
        ),
        max_size=12,
    ),
)
def test_no_octets_of_a_peer_raise_anything(as_client: bool, said: list[tuple[int, bytes, str]]) -> None:
    codec = client() if as_client else server()
    over: set[int] = set()
    for stream, octets, end in said:
        if stream in over or (stream & 2 and bool(stream & 1) != as_client):
            continue
        if end == "reset":
            codec.h3.stream_reset(stream)
        else:
            codec.take(stream, octets, end == "fin")
        if end:
            over.add(stream)
    codec.h3.forget(0)
    codec.said += codec.h3.commands
    assert codec.h3.closed == (codec.close is not None)
    if codec.close is not None:
        assert codec.code
        assert codec.take(400, headers(GET), True) == []
    elif not as_client:
        assert isinstance(codec.take(400, headers(GET), True)[0], RequestHead)
