"""The writer and the strict reader of HTTP/1.1: against h11, against themselves, and against broken octets."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.wire import http1_write as write
from harness.wire.http1 import (
    Body,
    Chunk,
    End,
    Event,
    Incomplete,
    Limits,
    MessageReader,
    Raw,
    RequestHead,
    ResponseHead,
    Role,
    Trailers,
    Unparsed,
    Violation,
)


def read_requests(data: bytes, *, end: bool = False) -> list[Event]:
    reader = MessageReader("request")
    return reader.feed(data) + (reader.feed_end() if end else [])


def read_responses(data: bytes, *methods: str, end: bool = False, clean: bool = True) -> list[Event]:
    reader = MessageReader("response")
    for method in methods or ("GET",):
        reader.expect(method)
    return reader.feed(data) + (reader.feed_end(clean=clean) if end else [])


def violations(events: list[Event]) -> list[str]:
    return [event.what for event in events if isinstance(event, Violation)]


def body(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Body))


def merged(events: list[Event]) -> list[Event]:
    """The events with neighbouring pieces of content joined."""
    out: list[Event] = []
    for event in events:
        for kind in (Body, Raw, Unparsed):
            if isinstance(event, kind) and out and isinstance(out[-1], kind):
                out[-1] = kind(out[-1].data + event.data)
                break
        else:
            out.append(event)
    return out


class TestWriter:
    def test_a_request_is_legal_by_default(self) -> None:
        assert write.request("GET", "/a", host="x.test") == b"GET /a HTTP/1.1\r\nHost: x.test\r\n\r\n"
        assert write.request("POST", "/", host="x.test", body=b"hi") == (
            b"POST / HTTP/1.1\r\nHost: x.test\r\nContent-Length: 2\r\n\r\nhi"
        )
        assert write.request("POST", "/", [("Host", "y")], host="x", body=b"").count(b"Host") == 1

    def test_chunks_and_trailers_make_a_chunked_body(self) -> None:
        wire = write.request("POST", "/", host="x", chunks=[b"ab", b"c"], trailers=[("X-Sum", "1")])
        assert wire.endswith(b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-Sum: 1\r\n\r\n")

    def test_every_octet_can_be_replaced(self) -> None:
        wire = write.request(
            "GET",
            "/",
            [b"Host : x", ("A", b"\xff")],
            b"hello",
            length="+5",
            framing="length",
            line_end=b"\n",
            colon=b":",
            start_line=b"GET  /",
        )
        assert wire == b"GET  /\nHost : x\nA:\xff\nContent-Length:+5\n\nhello"

    def test_a_field_of_the_script_frames_instead_of_ours(self) -> None:
        assert b"Content-Length" not in write.request("POST", "/", [("Transfer-Encoding", "gzip")], b"x")
        assert write.request("POST", "/", [("content-length", "9")], b"x").endswith(b"content-length: 9\r\n\r\nx")

    @pytest.mark.parametrize(
        ("status", "length"), [(200, True), (204, False), (304, False), (103, False), ("200", True)]
    )
    def test_a_response_has_a_length_where_it_may(self, status: int | str, length: bool) -> None:
        assert (b"Content-Length: 0" in write.response(status)) is length

    def test_chunk_pieces_can_be_broken(self) -> None:
        assert write.chunk(b"hello", size="0x5", extension=";a=b", line_end=b"\n", data_end=b"") == b"0x5;a=b\nhello"
        assert write.last_chunk(size="00", end=b"") == b"00\r\n"


class TestReaderAgainstItself:
    def test_a_request_with_everything(self) -> None:
        wire = write.request("POST", "/a?b", host="x", chunks=[b"ab", b"c"], trailers=[("X-Sum", "1")])
        head, first, data, second, more, last, trailers, end = read_requests(wire)
        assert isinstance(head, RequestHead)
        assert (head.method, head.target, head.version) == ("POST", "/a?b", "HTTP/1.1")
        assert head.headers == [("Host", "x"), ("Transfer-Encoding", "chunked")]
        assert head.raw == wire[: wire.index(b"\r\n\r\n") + 4]
        assert wire[head.lines[1].offset :].startswith(b"Transfer-Encoding")
        assert (first, data, second, more) == (Chunk(2, b"", b"2"), Body(b"ab"), Chunk(1, b"", b"1"), Body(b"c"))
        assert last == Chunk(0, b"", b"0")
        assert isinstance(trailers, Trailers)
        assert trailers.headers == [("X-Sum", "1")]
        assert end == End()

    def test_pipelined_requests_come_apart(self) -> None:
        one = write.request("GET", "/1", host="x")
        heads = [event for event in read_requests(one * 3) if isinstance(event, RequestHead)]
        assert [head.offset for head in heads] == [0, len(one), 2 * len(one)]

    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
    def test_any_split_gives_the_same_events(self, chunks: list[bytes], data: st.DataObject) -> None:
        wire = (
            write.request("POST", "/a", host="x", chunks=chunks, trailers=[("T", "1")])
            + write.request("PUT", "/b", host="x", body=b"".join(chunks))
            + b"POST /c HTTP/1.1\r\nHost : x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhelloXX0\r\n\r\n"
        )
        whole = merged(read_requests(wire, end=True))
        reader = MessageReader("request")
        events: list[Event] = []
        cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=30)))
        for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            events += reader.feed(wire[start:stop])
        assert merged(events + reader.feed_end()) == whole

    @given(st.sampled_from(["request", "response"]), st.binary(max_size=300), st.booleans())
    def test_no_octets_raise(self, role: Role, data: bytes, clean: bool) -> None:
        reader = MessageReader(role)
        reader.expect("GET")
        prefix = b"HTTP/1.1 200 OK\r\n" if role == "response" else b"GET / HTTP/1.1\r\n"
        reader.feed(prefix)
        reader.feed(data)
        reader.feed_end(clean=clean)

    @given(st.text(alphabet="\r\n :;,0159afHTP/.x\t", max_size=120))
    def test_no_likely_octets_raise(self, text: str) -> None:
        reader = MessageReader("request")
        reader.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        reader.feed(text.encode())
        reader.feed_end()


class TestReaderOfRequests:
    """What a request may not look like."""

    @pytest.mark.parametrize(
        ("wire", "what"),
        [
            (b"GET / HTTP/1.1\nHost: x\r\n\r\n", "start line ended by a bare LF"),
            (b"GET / HTTP/1.1\r\nHost: x\n\r\n", "field line ended by a bare LF"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", "bare CR in a field line"),
            (b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "empty line before a start line"),
            (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", "request line is not three parts with one SP between"),
            (b"GET /\r\nHost: x\r\n\r\n", "request line is not three parts with one SP between"),
            (b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n", "method is no token"),
            (b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", "request-target holds whitespace"),
            (b"GET / HTTP/11\r\nHost: x\r\n\r\n", "malformed HTTP-version"),
            (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", "whitespace between the start line and the first field line"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "obsolete line folding"),
            (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", "whitespace between field name and colon"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", "field line without a colon"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA(: b\r\n\r\n", "field name is no token"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", "control character in a field value"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", "more than one Host line"),
            (b"GET / HTTP/1.1\r\n\r\n", "no Host in an HTTP/1.1 request"),
        ],
    )
    def test_header_section(self, wire: bytes, what: str) -> None:
        events = read_requests(wire)
        assert any(said.startswith(what) for said in violations(events)), events
        assert any(isinstance(event, RequestHead) for event in events)

    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding together with Content-Length"),
            (b"Transfer-Encoding: gzip", "the final transfer coding of a request is not chunked"),
            (b"Transfer-Encoding: chunked, gzip", "the final transfer coding of a request is not chunked"),
            (b"Transfer-Encoding: chunked, chunked", "chunked applied more than once"),
            (b"Transfer-Encoding: chunked;a=b", "a parameter on a transfer coding"),
            (b"Transfer-Encoding:", "empty Transfer-Encoding"),
            (b"Content-Length: 5, 5", "more than one Content-Length"),
            (b"Content-Length: 5\r\nContent-Length: 6", "invalid Content-Length"),
            (b"Content-Length: +5", "invalid Content-Length"),
            (b"Content-Length: 5_0", "invalid Content-Length"),
            (b"Content-Length: \xb2", "invalid Content-Length"),
            (b"Content-Length: 99999999999999999999999", "Content-Length out of range"),
        ],
    )
    def test_framing_fields(self, fields: bytes, what: str) -> None:
        events = read_requests(b"POST / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\nhello")
        assert any(said.startswith(what) for said in violations(events)), events

    @pytest.mark.parametrize(
        ("chunks", "what"),
        [
            (b"0x5\r\nhello\r\n0\r\n\r\n", "malformed chunk size"),
            (b"\r\nhello\r\n0\r\n\r\n", "malformed chunk size"),
            (b"FFFFFFFFFFFFFFFFFF\r\nhello", "chunk size out of range"),
            (b"5 \r\nhello\r\n0\r\n\r\n", "whitespace behind a chunk size"),
            (b"5;\r\nhello\r\n0\r\n\r\n", "malformed chunk extension"),
            (b"5\r\nhelloX\r\n0\r\n\r\n", "chunk data is not followed by CRLF"),
            (b"5\nhello\r\n0\r\n\r\n", "chunk size line ended by a bare LF"),
        ],
    )
    def test_chunks(self, chunks: bytes, what: str) -> None:
        wire = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        assert any(said.startswith(what) for said in violations(read_requests(wire)))

    def test_a_legal_extension_is_told_and_no_violation(self) -> None:
        wire = write.request_head("POST", "/", [("Host", "x"), ("Transfer-Encoding", "chunked")])
        events = read_requests(wire + write.chunk(b"hello", extension=';a=b;c="d;e\\""') + write.last_chunk())
        assert violations(events) == []
        assert Chunk(5, b';a=b;c="d;e\\""', b'5;a=b;c="d;e\\""') in events

    def test_a_message_after_close_is_told(self) -> None:
        close = write.request("GET", "/", [("Connection", "close")], host="x")
        assert violations(read_requests(close * 2)) == ["a message after one that said close"]

    def test_what_follows_an_upgrade_is_held(self) -> None:
        reader = MessageReader("request")
        wire = write.request("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", "websocket")], host="x")
        assert reader.feed(wire + b"early")[-1] == End()
        assert reader.held == b"early"
        assert reader.switch() == [Raw(b"early")]
        assert reader.feed(b"more") == [Raw(b"more")]

    def test_a_refused_upgrade_goes_on_as_http(self) -> None:
        reader = MessageReader("request")
        reader.feed(write.request("GET", "/ws", [("Connection", "Upgrade"), ("Upgrade", "websocket")], host="x"))
        assert reader.feed(write.request("GET", "/next", host="x")) == []
        assert isinstance(reader.resume()[0], RequestHead)

    def test_connect_has_no_content(self) -> None:
        reader = MessageReader("request")
        events = reader.feed(write.request("CONNECT", "a:1", [("Content-Length", "5")], b"hello", host="a:1"))
        assert violations(events) == ["framing fields on CONNECT"]
        assert reader.held == b"hello"

    @pytest.mark.parametrize(
        ("wire", "where"),
        [
            (b"GET", "start line"),
            (b"GET / HTTP/1.1\r\nHo", "header section"),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhi", "content, 3 octets missing"),
            (
                b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
                "chunk data, 3 octets missing",
            ),
            (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "trailer section"),
        ],
    )
    def test_an_end_inside_a_message_is_told(self, wire: bytes, where: str) -> None:
        assert read_requests(wire, end=True)[-1] == Incomplete(where)

    def test_limits_hold(self) -> None:
        reader = MessageReader("request", limits=Limits(head=100, fields=3))
        events = reader.feed(b"GET / HTTP/1.1\r\n" + b"a" * 200)
        assert violations(events) == ["field line of more than 100 octets"]
        assert reader.feed(b"x" * 500) == [Unparsed(b"x" * 500)]
        many = MessageReader("request", limits=Limits(fields=3)).feed(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5)
        assert violations(many) == ["header section beyond the reader's limit"]


class TestReaderOfResponses:
    """The body of a response depends on its request and status (RFC 9112 section 6.3)."""

    @pytest.mark.parametrize(
        ("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204), ("GET", 103), ("HEAD", 404)]
    )
    def test_no_body(self, method: str, status: int | str) -> None:
        wire = write.response_head(status, [("Content-Length", "5")] if status not in (204, 103) else [])
        assert [type(event) for event in read_responses(wire, method)] == [ResponseHead, End]

    def test_informational_responses_come_before_the_final_one(self) -> None:
        wire = write.response(100) + write.response(103, [("Link", "<a>")]) + write.response(200, body=b"hi")
        heads = [event.status for event in read_responses(wire) if isinstance(event, ResponseHead)]
        assert heads == [100, 103, 200]

    def test_a_body_until_close(self) -> None:
        wire = write.response(200, body=b"hello", framing="none")
        assert read_responses(wire, end=True)[1:] == [Body(b"hello"), End()]
        assert isinstance(read_responses(wire, end=True, clean=False)[-1], Incomplete)

    def test_a_tunnel_after_connect(self) -> None:
        wire = write.response_head(200, [("Content-Length", "3")]) + b"raw bytes"
        events = read_responses(wire, "CONNECT")
        assert violations(events) == ["Content-Length in a 2xx to CONNECT"]
        assert events[-1] == Raw(b"raw bytes")

    def test_a_refused_connect_has_a_body(self) -> None:
        assert body(read_responses(write.response(407, body=b"who"), "CONNECT")) == b"who"

    def test_switching_protocols(self) -> None:
        wire = write.response(101, [("Upgrade", "websocket"), ("Connection", "Upgrade")]) + b"\x81\x00"
        assert read_responses(wire)[-1] == Raw(b"\x81\x00")

    def test_octets_without_a_request_are_told(self) -> None:
        events = read_responses(write.response(200) * 2)
        assert violations(events) == ["a response without an outstanding request"]

    def test_octets_behind_a_bodiless_response_are_told(self) -> None:
        events = read_responses(write.response_head(304) + b"hello\r\n\r\n", "GET", "GET")
        assert "malformed status line" in violations(events)

    @pytest.mark.parametrize(
        ("wire", "what"),
        [
            (b"HTTP/1.1 200\r\n\r\n", "no SP behind the status code"),
            (b"HTTP/1.1 999 X\r\n\r\n", "status code 999"),
            (b"HTTP/1.1 2000 X\r\n\r\n", "malformed status line"),
            (b"garbage\r\n\r\n", "malformed status line"),
            (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in a 204"),
            (b"HTTP/1.1 100 Go\r\nContent-Length: 0\r\n\r\n", "Content-Length in a 100"),
        ],
    )
    def test_what_a_response_may_not_look_like(self, wire: bytes, what: str) -> None:
        assert what in violations(read_responses(wire))


class TestAgainstH11:
    """h11 is of another family: what we write it reads, what it writes we read without a violation."""

    @given(
        st.sampled_from(["length", "chunked"]),
        st.lists(st.binary(min_size=1, max_size=30), max_size=4),
        st.lists(
            st.tuples(
                st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True), st.from_regex(r"[!-~]{0,9}", fullmatch=True)
            )
        ),
    )
    def test_it_reads_our_requests(self, framing: str, pieces: list[bytes], extra: list[tuple[str, str]]) -> None:
        reserved = {"content-length", "transfer-encoding", "host", "connection", "expect", "upgrade"}
        fields = [("X-" + name, value) for name, value in extra if name not in reserved]
        whole = b"".join(pieces)
        server = h11.Connection(h11.SERVER)
        server.receive_data(
            write.request("POST", "/a", fields, whole, host="x", framing=framing, chunks=pieces or None)
        )
        head = server.next_event()
        assert isinstance(head, h11.Request)
        got = b""
        while isinstance(event := server.next_event(), h11.Data):
            got += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        assert got == whole
        sent = [(name.lower().encode(), value.encode()) for name, value in fields]
        assert [pair for pair in head.headers if pair[0].startswith(b"x-")] == sent

    @given(st.booleans(), st.lists(st.binary(min_size=1, max_size=30), max_size=4))
    def test_we_read_its_requests(self, chunked: bool, pieces: list[bytes]) -> None:
        client = h11.Connection(h11.CLIENT)
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(sum(map(len, pieces))))
        wire = client.send(h11.Request(method="POST", target="/a", headers=[("Host", "x"), framing])) or b""
        for piece in pieces:
            wire += client.send(h11.Data(data=piece)) or b""
        trailers = [("x-t", "1")] if chunked else []
        wire += client.send(h11.EndOfMessage(headers=trailers)) or b""
        events = read_requests(wire)
        assert violations(events) == []
        assert body(events) == b"".join(pieces)
        assert events[-1] == End()

    @pytest.mark.parametrize("framing", ["length", "chunked", "none"])
    def test_it_reads_our_responses(self, framing: str) -> None:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(write.response(103) + write.response(200, [("A", "b")], b"hello", framing=framing))
        assert isinstance(client.next_event(), h11.InformationalResponse)
        response = client.next_event()
        assert isinstance(response, h11.Response)
        assert response.reason == b"OK"
        event = client.next_event()
        assert isinstance(event, h11.Data)
        assert event.data == b"hello"
        client.receive_data(b"")
        assert isinstance(client.next_event(), h11.EndOfMessage)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_we_read_its_responses(self, method: str) -> None:
        server = h11.Connection(h11.SERVER)
        server.receive_data(write.request(method, "/", host="x"))
        assert isinstance(server.next_event(), h11.Request)
        wire = server.send(h11.InformationalResponse(status_code=103, headers=[])) or b""
        wire += server.send(h11.Response(status_code=200, headers=[("A", "b")], reason=b"Fine")) or b""
        if method == "GET":
            wire += server.send(h11.Data(data=b"hello")) or b""
        wire += server.send(h11.EndOfMessage()) or b""
        events = read_responses(wire, method)
        assert violations(events) == []
        assert body(events) == (b"hello" if method == "GET" else b"")
        assert events[-1] == End()

    def test_it_refuses_what_we_break_on_purpose(self) -> None:
        server = h11.Connection(h11.SERVER)
        server.receive_data(write.request("GET", "/", [b"A : b"], host="x"))
        with pytest.raises(h11.RemoteProtocolError):
            server.next_event()
