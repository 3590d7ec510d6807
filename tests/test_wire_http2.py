"""The HTTP/2 of the peers without I/O: against the vectors of RFC 7541, h2 and itself, and split anywhere."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.wire.http2 import (
    Broken,
    Connection,
    ContentReceived,
    Event,
    Field,
    FrameReceived,
    Limits,
    MessageEnded,
    Options,
    SectionReceived,
    Setting,
    StreamReset,
    Unreadable,
    blocks,
    frames,
)
from harness.wire.http2.numbers import PREFACE

REQUEST = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"x.test"), (b":path", b"/p")]
GET = [(b":method", b"GET"), *REQUEST[1:]]


def pair(client: Options | None = None, server: Options | None = None) -> tuple[Connection, Connection]:
    ends = Connection("client", client), Connection("server", server)
    for end in ends:
        end.start()
    return ends


def pump(*ends: Connection) -> list[list[Event]]:
    """Move octets until both are quiet; what each was told."""
    told: list[list[Event]] = [[], []]
    while any(end.unsent for end in ends):
        for at, end in enumerate(ends):
            told[1 - at] += ends[1 - at].receive(end.outgoing())
    return told


def told(events: list[Event], *kinds: type[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kinds)]


def sections(events: list[Event]) -> list[str]:
    """The sections of the rules that are broken."""
    return [event.violation.section for event in told(events, Broken)]


class TestBlocks:
    """RFC 7541 appendix C."""

    def test_integers(self) -> None:
        assert blocks.integer(10, 5) == b"\x0a"
        assert blocks.integer(1337, 5) == b"\x1f\x9a\x0a"
        assert blocks.integer(42, 8) == b"\x2a"

    def test_representations(self) -> None:
        said = {
            blocks.literal(b"custom-key", b"custom-header", "incremental"): (
                "400a637573746f6d2d6b65790d637573746f6d2d686561646572"
            ),
            blocks.literal(4, b"/sample/path"): "040c2f73616d706c652f70617468",
            blocks.literal(b"password", b"secret", "never"): "100870617373776f726406736563726574",
            blocks.indexed(2): "82",
            blocks.literal(1, b"www.example.com", "incremental", huffman=True): "418cf1e3c2e5f23a6ba0ab90f4ff",
            blocks.literal(b"custom-key", b"custom-value", "incremental", huffman=True): (
                "408825a849e95ba97d7f8925a849e95bb8e8b4bf"
            ),
        }
        assert {octets.hex(): vector for octets, vector in said.items()} == {item: item for item in said.values()}
        assert [blocks.read_block(octets)[0].kind for octets in said] == [
            "incremental", "without", "never", "indexed", "incremental", "incremental"
        ]  # fmt: skip
        assert blocks.size_update(0) == b"\x20"
        assert blocks.read_block(blocks.size_update(4096))[0].index == 4096

    REQUESTS: tuple[tuple[str, list[tuple[bytes, bytes]]], ...] = (
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", []),
        ("828684be5886a8eb10649cbf", [(b"cache-control", b"no-cache")]),
        ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", [(b"custom-key", b"custom-value")]),
    )

    def test_requests_with_huffman(self) -> None:
        """C.4"""
        client, server = pair()
        pump(client, server)
        for vector, extra in self.REQUESTS:
            block = bytes.fromhex(vector)
            client.say(client.headers(client.open_stream(), block=block, end=True))
            section = told(pump(client, server)[1], SectionReceived)[0]
            assert section.block == block
            pseudo = [field[:2] for field in section.fields if field.name[:1] == b":"]
            assert pseudo[0] == (b":method", b"GET")
            assert pseudo[-1] == (b":authority", b"www.example.com")
            assert [field[:2] for field in section.fields[len(pseudo) :]] == extra

    RESPONSES = (
        "4882640258 85aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        (
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27"
            "087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
        ),
    )

    def test_responses_with_huffman_in_a_small_table(self) -> None:
        """C.6: the table has 256 octets, as our SETTINGS say; the vectors leave out the update, which we say first."""
        client, server = pair(Options(settings={Setting.HEADER_TABLE_SIZE: 256}))
        server.encoder.header_table_size = 256
        pump(client, server)
        server.encoder.encode([])
        got: list[tuple[Field, ...]] = []
        for vector in self.RESPONSES:
            stream = client.open_stream()
            client.say(client.headers(stream, GET, end=True))
            pump(client, server)
            update = blocks.size_update(256) if not got else b""
            server.say(server.headers(stream, block=update + bytes.fromhex(vector), end=True))
            events = pump(client, server)[0]
            assert sections(events) == []
            got.append(told(events, SectionReceived)[0].fields)
        assert [fields[0].value for fields in got] == [b"302", b"307", b"200"]
        assert got[1][1:] == got[0][1:]
        assert got[2][-2].value == b"gzip"
        assert got[2][-1].value == b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"

    def test_a_missing_size_update_is_told(self) -> None:
        client, server = pair(Options(settings={Setting.HEADER_TABLE_SIZE: 0}))
        pump(client, server)
        client.say(client.headers(1, GET, end=True))
        pump(client, server)
        server.say(server.headers(1, block=blocks.indexed(8), end=True))
        assert "9113 section 4.3.1" in sections(pump(client, server)[0])

    @pytest.mark.parametrize("octets", ["40", "400a61", "0005", "ff", "ffffffffffffffffffffffffff01"])
    def test_broken_blocks(self, octets: str) -> None:
        with pytest.raises(blocks.BadBlock):
            blocks.read_block(bytes.fromhex(octets))


class TestAgainstH2:
    """The h2 library as an independent other side."""

    @staticmethod
    def library(*, client: bool) -> h2.connection.H2Connection:
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        other = h2.connection.H2Connection(config)
        other.initiate_connection()
        return other

    @staticmethod
    def move(ours: Connection, other: h2.connection.H2Connection) -> tuple[list[Event], list[Any]]:
        mine: list[Event] = []
        theirs: list[Any] = []
        while True:
            octets, back = ours.outgoing(), other.data_to_send()
            if not octets and not back:
                return mine, theirs
            got = other.receive_data(octets)
            theirs += got
            for event in got:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    other.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            mine += ours.receive(back)
            for event in told(ours.receive(other.data_to_send()), ContentReceived):
                ours.consume(event.stream, event.flow)

    @pytest.mark.parametrize("options", [Options(), Options(frame_size=100), Options(pad=7), Options(huffman=False)])
    def test_our_client(self, options: Options) -> None:
        client, server = Connection("client", options), self.library(client=False)
        client.start()
        long = (b"x-long", b"v" * 40_000)
        client.say(client.headers(1, [*REQUEST, long], pieces=[1, 1, 0], pad=3, depends_on=0))
        client.send_content(1, b"c" * 100_000, end=True, trailers=[(b"x-sum", b"1")])
        _, theirs = self.move(client, server)
        request = next(event for event in theirs if isinstance(event, h2.events.RequestReceived))
        assert tuple(request.headers[-1]) == long
        content = [event.data for event in theirs if isinstance(event, h2.events.DataReceived)]
        assert b"".join(content) == b"c" * 100_000
        assert any(isinstance(event, h2.events.TrailersReceived) for event in theirs)
        server.send_headers(1, [(b":status", b"103")])
        server.send_headers(1, [(b":status", b"200"), (b"content-length", b"3")])
        server.send_data(1, b"abc", pad_length=9)
        server.send_headers(1, [(b"t", b"1")], end_stream=True)
        mine, _ = self.move(client, server)
        assert [item.kind for item in told(mine, SectionReceived)] == ["interim", "response", "trailers"]
        assert b"".join(item.data for item in told(mine, ContentReceived)) == b"abc"
        assert sections(mine) == []

    def test_our_server(self) -> None:
        server, client = Connection("server"), self.library(client=True)
        server.start()
        client.send_headers(1, [*REQUEST, (b"content-length", b"5")])
        client.send_data(1, b"hello", end_stream=True)
        client.ping(b"12345678")
        mine, theirs = self.move(server, client)
        assert told(mine, SectionReceived)[0].fields[3] == Field(b":path", b"/p")
        assert any(isinstance(event, h2.events.PingAckReceived) for event in theirs)
        server.say(server.headers(1, [(b":status", b"200")]))
        server.send_content(1, b"r" * 100_000, end=True)
        again, theirs = self.move(server, client)
        content = [event.data for event in theirs if isinstance(event, h2.events.DataReceived)]
        assert b"".join(content) == b"r" * 100_000
        assert sections(mine + again) == []
        client.send_headers(3, [*GET], end_stream=True)
        client.reset_stream(3, 8)
        mine, _ = self.move(server, client)
        assert told(mine, StreamReset) == [StreamReset(3, 8)]
        server.goaway(0)
        _, theirs = self.move(server, client)
        assert any(isinstance(event, h2.events.ConnectionTerminated) for event in theirs)


def opened(*said: bytes) -> bytes:
    """What a client says: preface, SETTINGS, and the frames of a script."""
    client = Connection("client")
    client.start()
    client.say(*said)
    return client.outgoing()


def head(stream: int, fields: list[tuple[bytes, bytes]], *, end: bool = True, **how: Any) -> bytes:
    return frames.headers(stream, blocks.block(fields), end=end, **how)


OPEN = head(1, REQUEST, end=False)
ILLEGAL: dict[str, tuple[bytes, str]] = {
    "DATA on stream 0": (frames.data(0, b"x"), "9113 section 6.1"),
    "DATA on an idle stream": (frames.data(5, b"x"), "9113 section 5.1"),
    "DATA behind the end": (head(1, GET) + frames.data(1, b"x"), "9113 section 5.1"),
    "padding too long": (OPEN + frames.raw(0, b"\x05abc", flags=8, stream=1), "9113 section 6.1"),
    "a frame too large": (OPEN + frames.data(1, bytes(16385)), "9113 section 4.2"),
    "HEADERS on stream 0": (head(0, GET), "9113 section 6.2"),
    "an even stream": (head(2, GET), "9113 section 5.1"),
    "a lower stream": (head(5, GET) + head(3, GET), "9113 section 5.1.1"),
    "PRIORITY of 4 octets": (OPEN + frames.raw(2, bytes(4), stream=1), "9113 section 6.3"),
    "RST_STREAM on stream 0": (frames.rst_stream(0), "9113 section 6.4"),
    "RST_STREAM on an idle stream": (frames.rst_stream(7), "9113 section 5.1"),
    "RST_STREAM of 3 octets": (OPEN + frames.raw(3, bytes(3), stream=1), "9113 section 6.4"),
    "SETTINGS on stream 1": (frames.settings(stream=1), "9113 section 6.5"),
    "SETTINGS ACK with octets": (frames.raw(4, bytes(6), flags=1), "9113 section 6.5"),
    "SETTINGS of 5 octets": (frames.raw(4, bytes(5)), "9113 section 6.5"),
    "ENABLE_PUSH 2": (frames.settings([(2, 2)]), "9113 section 6.5.2"),
    "INITIAL_WINDOW_SIZE 2^31": (frames.settings([(4, 1 << 31)]), "9113 section 6.5.2"),
    "MAX_FRAME_SIZE 16383": (frames.settings([(5, 16383)]), "9113 section 6.5.2"),
    "PUSH_PROMISE of a client": (OPEN + frames.push_promise(1, 2, b""), "9113 section 8.4"),
    "PING on stream 1": (frames.ping(stream=1), "9113 section 6.7"),
    "PING of 7 octets": (frames.ping(bytes(7)), "9113 section 6.7"),
    "GOAWAY on stream 1": (frames.goaway(stream=1), "9113 section 6.8"),
    "WINDOW_UPDATE 0": (frames.window_update(0, 0), "9113 section 6.9"),
    "WINDOW_UPDATE of 3 octets": (frames.raw(8, bytes(3)), "9113 section 6.9"),
    "WINDOW_UPDATE beyond 2^31-1": (frames.window_update(0, (1 << 31) - 1), "9113 section 6.9.1"),
    "CONTINUATION alone": (OPEN + frames.continuation(1, b""), "9113 section 6.10"),
    "PING inside a block": (head(1, GET, end_headers=False) + frames.ping(), "9113 section 4.3"),
    "an index beyond the tables": (frames.headers(1, blocks.indexed(200), end=True), "9113 section 4.3"),
    "index 0": (frames.headers(1, b"\x80", end=True), "9113 section 4.3"),
    "a table beyond the limit": (frames.headers(1, blocks.size_update(65536), end=True), "7541 section 6.3"),
    "EOS in Huffman": (
        frames.headers(1, blocks.literal(b"a", b"", coded=b"\xff\xff\xff\xff"), end=True), "9113 section 4.3",
    ),
    "an upper-case name": (head(1, [*GET, (b"X-Up", b"1")]), "9113 section 8.2.1"),
    "CR and LF in a value": (head(1, [*GET, (b"x", b"a\r\nb: c")]), "9113 section 8.2.1"),
    "connection": (head(1, [*GET, (b"connection", b"close")]), "9113 section 8.2.2"),
    "te: gzip": (head(1, [*GET, (b"te", b"gzip")]), "9113 section 8.2.2"),
    "an unknown pseudo-header field": (head(1, [*GET, (b":foo", b"1")]), "9113 section 8.3"),
    "a pseudo-header field behind others": (head(1, [*GET[:3], (b"a", b"1"), GET[3]]), "9113 section 8.3"),
    ":path twice": (head(1, [*GET, GET[3]]), "9113 section 8.3"),
    "no :path": (head(1, GET[:3]), "9113 section 8.3.1"),
    "trailers without END_STREAM": (OPEN + head(1, [(b"a", b"1")], end=False), "9113 section 8.1"),
    ":path in trailers": (OPEN + head(1, [(b":path", b"/")]), "9113 section 8.1"),
    "too little content": (head(1, [*REQUEST, (b"content-length", b"5")]), "9113 section 8.1.1"),
    "too much content": (
        head(1, [*REQUEST, (b"content-length", b"1")], end=False) + frames.data(1, b"abc", end=True),
        "9113 section 8.1.1",
    ),
}  # fmt: skip
PASSED_BY_H2 = {"too little content"}
"""A content-length that no content follows: h2 does not look at it where END_STREAM comes with HEADERS."""


class TestIllegal:
    """Each breaks one rule: our own reader names it, and h2 refuses it."""

    @pytest.mark.parametrize("name", ILLEGAL)
    def test_our_reader_names_it(self, name: str) -> None:
        said, section = ILLEGAL[name]
        server = Connection("server")
        found = sections(server.receive(opened(said)))
        assert section in found

    @pytest.mark.parametrize("name", ILLEGAL)
    def test_h2_refuses_it(self, name: str) -> None:
        other = TestAgainstH2.library(client=False)
        try:
            events = other.receive_data(opened(ILLEGAL[name][0]))
        except h2.exceptions.ProtocolError:
            return
        refused = any(isinstance(event, h2.events.StreamReset) for event in events)
        assert refused is (name not in PASSED_BY_H2)

    def test_legal_octets_break_nothing(self) -> None:
        server = Connection("server")
        said = opened(
            OPEN, frames.data(1, b"x", pad=4), frames.priority(3), frames.raw(0xEE, b"?"), head(1, [(b"t", b"")])
        )
        assert sections(server.receive(said)) == []

    def test_the_preface_comes_first(self) -> None:
        server = Connection("server")
        events = server.receive(b"GET / HTTP/1.1\r\n\r\n")
        assert sections(events) == ["9113 section 3.4"]
        assert told(events, Unreadable)
        assert sections(Connection("server").receive(PREFACE + frames.ping())) == ["9113 section 3.4"]

    def test_a_client_names_what_a_server_breaks(self) -> None:
        for said, section in (
            ([(b":status", b"20")], "9113 section 8.3.2"),
            ([(b"a", b"1")], "9113 section 8.3.2"),
            ([(b":status", b"101")], "9113 section 8.6"),
            ([(b":status", b"103")], "9113 section 8.1"),
            ([(b":status", b"200"), (b":path", b"/")], "9113 section 8.3"),
            ([(b":status", b"200"), (b"upgrade", b"x")], "9113 section 8.2.2"),
        ):
            client, server = pair()
            client.say(client.headers(1, GET, end=True))
            pump(client, server)
            server.say(server.headers(1, said, end=True))
            assert section in sections(pump(client, server)[0]), said

    def test_content_beyond_the_window(self) -> None:
        client, server = pair(Options(settings={Setting.INITIAL_WINDOW_SIZE: 10}))
        client.say(client.headers(1, GET, end=True))
        pump(client, server)
        server.say(server.headers(1, [(b":status", b"200")]), frames.data(1, b"x" * 11))
        assert sections(pump(client, server)[0]) == ["9113 section 6.9.1"]

    def test_frames_behind_a_reset(self) -> None:
        client, server = pair()
        client.say(client.headers(1, GET, end=True))
        pump(client, server)
        server.say(server.headers(1, [(b":status", b"200")]), frames.rst_stream(1, 2), frames.data(1, b"x"))
        assert sections(pump(client, server)[0]) == ["9113 section 5.1"]

    def test_our_own_reset_may_cross_them(self) -> None:
        client, server = pair()
        client.say(client.headers(1, GET, end=True))
        pump(client, server)
        client.reset(1, 8)
        server.say(server.headers(1, [(b":status", b"200"), (b"new", b"1")]), frames.data(1, b"x"))
        assert sections(client.receive(server.outgoing())) == []
        assert client.streams[1].frames_after_reset == 2

    def test_too_many_streams(self) -> None:
        client, server = pair(server=Options(settings={Setting.MAX_CONCURRENT_STREAMS: 1}))
        pump(client, server)
        client.say(client.headers(1, GET), client.headers(3, GET))
        assert sections(pump(client, server)[1]) == ["9113 section 5.1.2"]


class TestFlow:
    """RFC 9113 section 6.9."""

    def test_a_window_below_zero(self) -> None:
        client, server = pair()
        client.say(client.headers(1, GET, end=True))
        pump(client, server)
        server.say(server.headers(1, [(b":status", b"200")]))
        server.send_content(1, b"x" * 60_000)
        pump(client, server)
        client.say(frames.settings([(Setting.INITIAL_WINDOW_SIZE, 0)]))
        pump(client, server)
        assert server.streams[1].send_window == -60_000
        server.send_content(1, b"y" * 10, end=True)
        assert told(pump(client, server)[0], ContentReceived) == []
        client.say(frames.window_update(1, 60_005))
        assert [item.data for item in told(pump(client, server)[0], ContentReceived)] == [b"y" * 5]
        client.say(frames.settings([(Setting.INITIAL_WINDOW_SIZE, 5)]))
        events = pump(client, server)[0]
        assert [item.data for item in told(events, ContentReceived)] == [b"y" * 5]
        assert told(events, MessageEnded)
        assert sections(events) == []

    def test_an_end_needs_no_credit(self) -> None:
        client, server = pair(server=Options(settings={Setting.INITIAL_WINDOW_SIZE: 0}))
        pump(client, server)
        client.say(client.headers(1, REQUEST))
        client.send_content(1, b"", end=True)
        assert told(pump(client, server)[1], MessageEnded)

    def test_hold_gives_no_credit(self) -> None:
        for hold in (True, False):
            client, server = pair(Options(hold=hold))
            client.say(client.headers(1, GET, end=True))
            pump(client, server)
            server.say(server.headers(1, [(b":status", b"200")]))
            server.send_content(1, b"x" * 100_000)
            while content := told(pump(client, server)[0], ContentReceived):
                for event in content:
                    client.consume(event.stream, event.flow)
            assert bool(server.streams[1].waiting) is hold


class TestRobust:
    """Whatever comes, and however it is cut."""

    @given(st.binary(max_size=400), st.booleans())
    def test_garbage_raises_nothing(self, octets: bytes, preface: bool) -> None:
        server = Connection("server", Options(limits=Limits(block=64, unread=100, streams=2)))
        server.receive(PREFACE + octets if preface else octets)
        server.receive_end()

    @given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=12))))
    def test_any_frames_raise_nothing(self, said: list[tuple[int, int, int, bytes]]) -> None:
        octets = b"".join(frames.raw(kind, payload, flags=flags, stream=at) for kind, flags, at, payload in said)
        for end in (Connection("server"), Connection("client")):
            end.start()
            events = end.receive(PREFACE + octets if end.role == "server" else octets)
            if end.readable:
                assert len(told(events, FrameReceived)) == len(said)

    @given(st.sampled_from(sorted(ILLEGAL)), st.data())
    def test_the_same_events_however_it_is_split(self, name: str, data: st.DataObject) -> None:
        octets = opened(head(11, REQUEST, end=False), frames.data(11, b"abc", end=True, pad=2), ILLEGAL[name][0])
        whole = Connection("server").receive(octets)
        cuts = sorted(data.draw(st.sets(st.integers(1, min(len(octets), 400) - 1), max_size=8)))
        split = Connection("server")
        events: list[Event] = []
        for begin, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
            events += split.receive(octets[begin:end])
        assert events == whole

    def test_limits(self) -> None:
        server = Connection("server", Options(limits=Limits(block=100)))
        events = server.receive(opened(head(1, [*GET, (b"a", b"x" * 200)])))
        assert told(events, Unreadable)
        server = Connection("server", Options(limits=Limits(fields=500)))
        events = server.receive(opened(head(1, [*GET, (b"a", b"x" * 500)])))
        assert told(events, Unreadable)
        server = Connection("server", Options(limits=Limits(streams=3)))
        client = Connection("client")
        client.start()
        for _ in range(20):
            stream = client.open_stream()
            client.say(client.headers(stream, GET), frames.rst_stream(stream, 8))
        server.receive(client.outgoing())
        assert len(server.streams) == 3
