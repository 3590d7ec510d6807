"""The HTTP/1.1 codecs and the gate in front of h11, without I/O."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_engine.http.errors import ProtocolFault
from reference_engine.http.events import Data, End, Event, InformationalHead, RequestHead, Reset, ResponseHead
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Limits

RULES = HttpRules()
LIMITS = Limits(header_bytes=4096, header_count=20, trailer_bytes=256, chunk_extension_bytes=64)
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


def merged(events: list[Event]) -> list[Event]:
    """Neighbouring pieces of content as one."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Data) and out and isinstance(out[-1], Data):
            out[-1] = Data(bytes(out[-1].data) + bytes(event.data))
        else:
            out.append(Data(bytes(event.data)) if isinstance(event, Data) else event)
    return out


def serve(pieces: list[bytes], *, eof: bool = False) -> list[Event | int]:
    """All events of all requests in `pieces`, each answered with 204; a refusal is its status, and the end."""
    codec = H1ServerCodec(RULES, LIMITS)
    events: list[Event | int] = []

    def pump() -> None:
        while (event := codec.next_event()) is not None:
            events.append(event)
            if isinstance(event, RequestHead) and codec.complete:
                events.append(End())
            if isinstance(event, Reset):
                return
            if codec.request is not None and codec.complete:
                codec.send(ResponseHead(204, []))
                codec.send(End())
                if not codec.reusable:
                    events.append(0)
                    return
                codec.next_cycle()

    try:
        for piece in pieces:
            codec.receive(piece)
            pump()
            if events and events[-1] == 0:
                break
        if eof:
            codec.eof()
            pump()
    except ProtocolFault as problem:
        events.append(problem.fault.status)
    found: list[Event | int] = []
    for event in events:
        found = [*found, event] if isinstance(event, int) else [*found[:-1], *merged([*found[-1:], event])]  # type: ignore[list-item]
    return found


def answer(octets: list[bytes], method: bytes = b"GET", *, eof: bool = True) -> list[Event]:
    """All events of the response to one request."""
    codec = H1ClientCodec(RULES, LIMITS)
    codec.send(RequestHead(method, b"a:1" if method == b"CONNECT" else b"/", [(b"Host", b"a")]))
    codec.send(End())
    events: list[Event] = []

    def pump() -> None:
        while not codec.over and (event := codec.next_event()) is not None:
            events.append(event)
            if isinstance(event, Reset) or (isinstance(event, InformationalHead) and event.status == 101):
                return

    for piece in octets:
        codec.receive(piece)
        pump()
    if eof and not codec.over:
        codec.eof()
        pump()
    return merged(events)


REFUSED_HEADS = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (HEAD + b"host: a\r\n\r\n", 400),
    "host with space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host with slash": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host with userinfo": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host with bad port": (b"GET / HTTP/1.1\r\nHost: a:port\r\n\r\n", 400),
    "host with big port": (b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400),
    "open bracket": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "nul in host": (b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare CR in value": (HEAD + b"X: a\rb\r\n\r\n", 400),
    "bare CR in target": (b"GET /a\rX: y HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "NUL in value": (HEAD + b"X: a\x00b\r\n\r\n", 400),
    "control octet": (HEAD + b"X: a\x01b\r\n\r\n", 400),
    "DEL": (HEAD + b"X: a\x7fb\r\n\r\n", 400),
    "obs-fold": (HEAD + b"X: a\r\n b\r\n\r\n", 400),
    "folded framing": (HEAD + b"Transfer-Encoding:\r\n\tchunked\r\n\r\n", 400),
    "space before first field": (b"GET / HTTP/1.1\r\n Host: evil\r\nHost: a\r\n\r\n", 400),
    "space before colon": (HEAD + b"X : a\r\n\r\n", 400),
    "tab before colon": (HEAD + b"Content-Length\t: 5\r\n\r\n", 400),
    "no colon": (HEAD + b"X a\r\n\r\n", 400),
    "empty name": (HEAD + b": a\r\n\r\n", 400),
    "tabs in request line": (b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces": (b"GET  /a  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space in target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "obs-text in target": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no version": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "short line": (b"GET\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "lower-case http": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "long method": (b"G" * 100 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01", 400),
    "five empty lines": (b"\r\n" * 5 + HEAD + b"\r\n", 400),
    "length with sign": (HEAD + b"Content-Length: +5\r\n\r\n", 400),
    "negative length": (HEAD + b"Content-Length: -0\r\n\r\n", 400),
    "hex length": (HEAD + b"Content-Length: 0x5\r\n\r\n", 400),
    "empty length": (HEAD + b"Content-Length:\r\n\r\n", 400),
    "length list": (HEAD + b"Content-Length: 5, 6\r\n\r\n", 400),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    "length with nbsp": (HEAD + b"Content-Length: 5 \xa0\r\n\r\n", 400),
    "length with semicolon": (HEAD + b"Content-Length: 5;\r\n\r\n", 400),
    "huge length": (HEAD + b"Content-Length: 18446744073709551617\r\n\r\n", 413),
    "both": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "both, other way": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400),
    "twice chunked": (HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "two codings lines": (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunked not last": (HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "no chunked": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "identity": (HEAD + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "unknown coding": (HEAD + b"Transfer-Encoding: cow, chunked\r\n\r\n", 501),
    "gzip, chunked": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "chunked with parameter": (HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n", 400),
    "quoted chunked": (HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n', 400),
    "vertical tab": (HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400),
    "empty coding": (HEAD + b"Transfer-Encoding:\r\n\r\n", 400),
    "coding in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "too many fields": (HEAD + b"X: y\r\n" * 20 + b"\r\n", 431),
    "too large": (HEAD + b"X: " + b"y" * 5000 + b"\r\n\r\n", 431),
    "long request line": (b"GET /" + b"y" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
}

CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED_CONTENT = {
    "hex prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-1\r\nhello\r\n0\r\n\r\n",
    "leading space": b" 5\r\nhello\r\n0\r\n\r\n",
    "trailing space": b"5 \r\nhello\r\n0\r\n\r\n",
    "underscore": b"5_\r\nhello\r\n0\r\n\r\n",
    "empty size": b"\r\nhello\r\n0\r\n\r\n",
    "17 digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "no CRLF behind data": b"5\r\nhelloX\r\n0\r\n\r\n",
    "size too small": b"4\r\nhello\r\n0\r\n\r\n",
    "LF behind size": b"5\nhello\r\n0\r\n\r\n",
    "LF behind data": b"5\r\nhello\n0\r\n\r\n",
    "LF in extension": b"5;\nxx\r\nhello\r\n0\r\n\r\n",
    "CR in extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "nameless extension": b"5;=b\r\nhello\r\n0\r\n\r\n",
    "open quote": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer with bare LF": b"0\r\nX: a\nY: b\r\n\r\n",
    "trailer without colon": b"0\r\nnothing\r\n\r\n",
    "trailer with space before colon": b"0\r\nX : a\r\n\r\n",
}


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSED_HEADS)
    def test_heads(self, name: str) -> None:
        octets, status = REFUSED_HEADS[name]
        assert serve([octets]) == [status]

    @pytest.mark.parametrize("name", REFUSED_HEADS)
    def test_heads_octet_by_octet(self, name: str) -> None:
        octets, status = REFUSED_HEADS[name]
        assert serve([octets[at : at + 1] for at in range(len(octets))]) == [status]

    @pytest.mark.parametrize("name", REFUSED_CONTENT)
    def test_content(self, name: str) -> None:
        events = serve([CHUNKED + REFUSED_CONTENT[name]])
        assert events[-1] == 400
        assert not any(isinstance(event, End) for event in events)

    @pytest.mark.parametrize("name", REFUSED_CONTENT)
    def test_content_octet_by_octet(self, name: str) -> None:
        octets = CHUNKED + REFUSED_CONTENT[name]
        events = serve([octets[at : at + 1] for at in range(len(octets))])
        assert events[-1] == 400
        assert not any(isinstance(event, End) for event in events)

    def test_extensions_have_a_limit_per_message(self) -> None:
        events = serve([CHUNKED + b"1;aaaaaaaaaaaaaaa\r\nx\r\n" * 10])
        assert events[-1] == 413

    def test_an_endless_extension_is_cut_off(self) -> None:
        assert serve([CHUNKED + b"1;" + b"a" * 500])[-1] == 413

    def test_trailers_have_a_limit(self) -> None:
        assert serve([CHUNKED + b"0\r\n" + b"X: " + b"y" * 300 + b"\r\n\r\n"])[-1] == 431
        assert serve([CHUNKED + b"0\r\n" + b"X: " + b"y" * 300])[-1] == 431

    @pytest.mark.parametrize("size", [b"FFFFFFFFFFFFFFFF", b"1000000000000005", b"100000005"])
    def test_large_chunk_sizes_keep_their_value(self, size: bytes) -> None:
        events = serve([CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n"])
        assert events[1:] == [Data(b"hello\r\n0\r\n\r\n")]


class TestRequests:
    def test_a_simple_request(self) -> None:
        head = RequestHead(b"GET", b"/x?y", [(b"Host", b"a"), (b"X-Raw", b"\xe9\xff")], authority=b"a")
        assert serve([b"GET /x?y HTTP/1.1\r\nHost:  a \t\r\nX-Raw: \xe9\xff\r\n\r\n"]) == [head, End()]

    def test_empty_lines_in_front(self) -> None:
        assert serve([b"\r\n\r\n" + HEAD + b"\r\n"])[-1] == End()

    def test_a_higher_minor_version_is_read_as_1_1(self) -> None:
        events = serve([b"GET / HTTP/1.9\r\nHost: a\r\n\r\n"])
        assert events == [RequestHead(b"GET", b"/", [(b"Host", b"a")], b"1.1", b"a"), End()]

    def test_http_1_0_without_host(self) -> None:
        events = serve([b"GET / HTTP/1.0\r\n\r\nGET /second HTTP/1.0\r\n\r\n"])
        assert events == [RequestHead(b"GET", b"/", [], b"1.0"), End(), 0]

    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"FROB"])
    def test_framing_does_not_depend_on_the_method(self, method: bytes) -> None:
        body = b"GET /admin HTTP/1.1\r\nHost: b\r\n"
        events = serve([method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n" + body + HEAD + b"\r\n"])
        assert [event for event in events if isinstance(event, Data)] == [Data(body)]
        assert len([event for event in events if isinstance(event, RequestHead)]) == 2

    def test_equal_lengths_collapse(self) -> None:
        events = serve([HEAD + b"Content-Length: 5, 5\r\nContent-Length: 5\r\n\r\nhello"])
        assert isinstance(events[0], RequestHead)
        assert events[0].fields == [(b"Host", b"a"), (b"Content-Length", b"5")]
        assert events[1:] == [Data(b"hello"), End()]

    def test_no_framing_no_content(self) -> None:
        events = serve([b"POST / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"])
        assert [event.target for event in events if isinstance(event, RequestHead)] == [b"/", b"/b"]

    @pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"CHUNKED"])
    def test_chunks_extensions_and_trailers(self, coding: bytes) -> None:
        octets = (
            HEAD
            + b"Transfer-Encoding: "
            + coding
            + b'\r\n\r\n5;a=b;c="d;e"\r\nhello\r\n1 ; x\r\n!\r\n00\r\nX-Sum: 1\r\n\r\n'
        )
        assert serve([octets])[1:] == [Data(b"hello!"), End([(b"X-Sum", b"1")])]

    @pytest.mark.parametrize(
        "octets",
        [HEAD, b"GET", HEAD + b"Content-Length: 9\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"0\r\n"],
    )
    def test_an_end_in_the_middle_is_never_an_end(self, octets: bytes) -> None:
        events = serve([octets], eof=True)
        assert not any(isinstance(event, End) for event in events)
        assert events[-1] in (Reset("incomplete"), 400)

    def test_case_and_order_of_fields_are_kept(self) -> None:
        events = serve([HEAD + b"x-L: 1\r\nX-l: 2\r\nX-M: \r\n\r\n"])
        assert isinstance(events[0], RequestHead)
        assert events[0].fields[1:] == [(b"x-L", b"1"), (b"X-l", b"2"), (b"X-M", b"")]


class TestResponses:
    def test_length(self) -> None:
        events = answer([b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"])
        assert events == [ResponseHead(299, [(b"Content-Length", b"2")], b"Odd"), Data(b"ok"), End()]

    def test_until_the_end(self) -> None:
        assert answer([b"HTTP/1.1 200 \r\n\r\n", b"abc", b"def"])[1:] == [Data(b"abcdef"), End()]
        assert answer([b"HTTP/1.0 200\r\n\r\nabc"])[1:] == [Data(b"abc"), End()]

    def test_interim_responses(self) -> None:
        octets = b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        events = answer([octets + b"HTTP/1.1 204 N\r\nContent-Length: 7\r\n\r\n"])
        assert events == [
            InformationalHead(100, [], b"C"),
            InformationalHead(103, [(b"Link", b"x")], b"E"),
            ResponseHead(204, [(b"Content-Length", b"7")], b"N"),
            End(),
        ]

    def test_too_many_interim_responses(self) -> None:
        assert answer([b"HTTP/1.1 102 P\r\n\r\n" * 200])[-1] == Reset("upstream-malformed")

    @pytest.mark.parametrize("status", [b"204", b"304"])
    @pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"])
    def test_responses_without_content(self, status: bytes, framing: bytes) -> None:
        octets = b"HTTP/1.1 " + status + b" X\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        assert answer([octets])[1:] == [End()]

    def test_head(self) -> None:
        events = answer([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"], b"HEAD")
        assert events == [ResponseHead(200, [(b"Content-Length", b"5")], b"OK"), End()]

    def test_codings_until_the_end(self) -> None:
        events = answer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nzipped"])
        assert events == [ResponseHead(200, [], b"OK", b"gzip"), Data(b"zipped"), End()]

    @pytest.mark.parametrize(
        "octets",
        [
            b"garbage\r\n\r\n",
            b"\x15\x03\x03\x00\x02\x02\x28",
            b"<html>no head</html>",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"HTTP/1.1\t200\tOK\r\n\r\n",
            b"HTTP/1.1 200\rX: y\r\n\r\n",
            b"HTTP/1.1 999 X\r\n\r\n",
            b"HTTP/1.1 099 X\r\n\r\n",
            b"HTTP/1.1 20 X\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5,6\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5000 + b"\r\n\r\n",
        ],
    )
    def test_what_is_not_valid(self, octets: bytes) -> None:
        assert answer([octets], eof=False) == [Reset("upstream-malformed")]
        assert answer([octets[at : at + 1] for at in range(len(octets))], eof=False) == [Reset("upstream-malformed")]

    @pytest.mark.parametrize(
        ("octets", "reason"),
        [
            (b"", "upstream-closed"),
            (b"HTTP/1.1 200 OK\r\nConte", "upstream-closed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "upstream-truncated"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "upstream-truncated"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "upstream-truncated"),
        ],
    )
    def test_what_ends_early(self, octets: bytes, reason: str) -> None:
        assert answer([octets])[-1] == Reset(reason)

    def test_connect_ignores_framing(self) -> None:
        codec = H1ClientCodec(RULES, LIMITS)
        codec.send(RequestHead(b"CONNECT", b"a:1", [(b"Host", b"a:1")]))
        codec.send(End())
        codec.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello")
        head = codec.next_event()
        assert isinstance(head, ResponseHead)
        assert codec.leftover() == b"5\r\nhello"

    def test_what_follows_a_101_is_raw(self) -> None:
        codec = H1ClientCodec(RULES, LIMITS)
        codec.send(RequestHead(b"GET", b"/", [(b"Host", b"a"), (b"Upgrade", b"x"), (b"Connection", b"upgrade")]))
        codec.send(End())
        codec.receive(b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n\x81\x05hello")
        assert isinstance(codec.next_event(), InformationalHead)
        assert codec.leftover() == b"\x81\x05hello"


REQUEST_STREAMS = [
    *(octets for octets, _ in REFUSED_HEADS.values() if len(octets) < 400),
    *(CHUNKED + content for content in REFUSED_CONTENT.values()),
    HEAD
    + b"Content-Length: 5\r\n\r\nhello"
    + CHUNKED
    + b"5;x=y\r\nhello\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\n"
    + HEAD
    + b"\r\n",
    b"\r\n" + HEAD + b"\r\n\r\n" + HEAD + b"\r\n",
]
RESPONSE_STREAMS = [
    (
        b"HTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x\r\nhello\r\n0\r\nX: 1\r\n\r\nmore"
    ),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n",
]


def split(octets: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(octets) + 1) for cut in cuts}), len(octets)]
    return [octets[start:stop] for start, stop in itertools.pairwise(edges)]


class TestSplitting:
    """Where the input is cut changes nothing."""

    @pytest.mark.parametrize("octets", REQUEST_STREAMS)
    def test_requests_at_every_octet(self, octets: bytes) -> None:
        whole = serve([octets])
        for cut in range(len(octets) + 1):
            assert serve([octets[:cut], octets[cut:]]) == whole, octets[:cut]

    @pytest.mark.parametrize("octets", RESPONSE_STREAMS)
    def test_responses_at_every_octet(self, octets: bytes) -> None:
        whole = answer([octets])
        for cut in range(len(octets) + 1):
            assert answer([octets[:cut], octets[cut:]]) == whole, octets[:cut]

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(REQUEST_STREAMS), st.lists(st.integers(0, 1000), max_size=8))
    def test_requests_anywhere(self, octets: bytes, cuts: list[int]) -> None:
        assert serve(split(octets, cuts)) == serve([octets])

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(RESPONSE_STREAMS), st.lists(st.integers(0, 1000), max_size=8))
    def test_responses_anywhere(self, octets: bytes, cuts: list[int]) -> None:
        assert answer(split(octets, cuts)) == answer([octets])

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=200), st.booleans())
    def test_hostile_octets_never_crash(self, octets: bytes, in_content: bool) -> None:
        serve([(CHUNKED if in_content else HEAD) + octets], eof=True)
        answer([b"HTTP/1.1 200 OK\r\n" + octets])


class TestWriting:
    def test_unknown_length_is_chunked_in_1_1(self) -> None:
        codec = H1ServerCodec(RULES, LIMITS)
        codec.receive(HEAD + b"\r\n")
        codec.next_event()
        head = codec.send(ResponseHead(200, [(b"X", b"y")], b"OK"))
        assert head == b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert codec.send(Data(b"abc")) == b"3\r\nabc\r\n"
        assert codec.send(End([(b"X-T", b"1")])) == b"0\r\nX-T: 1\r\n\r\n"
        assert codec.reusable

    def test_unknown_length_ends_with_the_connection_in_1_0(self) -> None:
        codec = H1ServerCodec(RULES, LIMITS)
        codec.receive(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        codec.next_event()
        head = codec.send(ResponseHead(200, [], b"OK"))
        assert head == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        assert codec.until_close
        assert codec.send(Data(b"abc")) == b"abc"
        assert codec.send(End([(b"X-T", b"1")])) == b""
        assert not codec.reusable

    def test_codings_below_chunked_are_named(self) -> None:
        codec = H1ServerCodec(RULES, LIMITS)
        codec.receive(HEAD + b"\r\n")
        codec.next_event()
        assert b"Transfer-Encoding: gzip, chunked\r\n" in codec.send(ResponseHead(200, [], b"OK", b"gzip"))

    def test_head_keeps_the_length(self) -> None:
        codec = H1ServerCodec(RULES, LIMITS)
        codec.receive(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        codec.next_event()
        assert b"Content-Length: 42\r\n" in codec.send(ResponseHead(200, [(b"Content-Length", b"42")], b"OK"))
        assert codec.send(End()) == b""


@pytest.mark.parametrize("octet", [b"\r", b"\n", b"\0", b"\r\nX-More: 1"])
@pytest.mark.parametrize("where", [0, 1])
class TestWhatIsWritten:
    """A field is one line on the wire, whatever rule made it (RFC 9110 section 5.5)."""

    def field(self, octet: bytes, where: int) -> tuple[bytes, bytes]:
        return (b"X-Na" + octet + b"me", b"value") if where == 0 else (b"X-Name", b"val" + octet + b"ue")

    def test_request(self, octet: bytes, where: int) -> None:
        codec = H1ClientCodec(RULES, LIMITS)
        with pytest.raises(h11.LocalProtocolError):
            codec.send(RequestHead(b"GET", b"/", [(b"Host", b"a"), self.field(octet, where)]))

    def test_response(self, octet: bytes, where: int) -> None:
        codec = H1ServerCodec(RULES, LIMITS)
        codec.receive(HEAD + b"\r\n")
        codec.next_event()
        with pytest.raises(h11.LocalProtocolError):
            codec.send(ResponseHead(200, [self.field(octet, where)], b"OK"))

    def test_trailer(self, octet: bytes, where: int) -> None:
        codec = H1ServerCodec(RULES, LIMITS)
        codec.receive(HEAD + b"\r\n")
        codec.next_event()
        codec.send(ResponseHead(200, [], b"OK"))
        with pytest.raises(h11.LocalProtocolError):
            codec.send(End([self.field(octet, where)]))
